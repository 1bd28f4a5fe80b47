//! CLUSTER MEET: nodes that know of each other only where clients connect.
//!
//! The node that is asked to meet asks the other who it is, as a client of it, and believes it only with a
//! proof of the cluster's secret ([`shard_core::introduction`]). Which of the two was asked does not matter: a
//! spare asks the node of the cluster in turn to meet it, since only a member can make a node known.

use crate::dial::new_nonce;
use crate::talk::{Said, Talk, unfit};
use shard_core::NodeId;
use shard_core::cluster_config::NodeConfig;
use shard_core::handshake::{Credentials, Secret};
use shard_core::introduction::{Introduction, hex};
use shard_core::wire::ClusterView;
use std::fmt::Display;
use std::io;
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::timeout;

/// Bytes of an answer, at most.
const ANSWER_BYTES_MAX: usize = 16 << 10;
/// How long [`ask`] waits.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Met {
    /// Who the other is, and is to be made known.
    Other {
        /// Its number.
        node: NodeId,
        /// Where it is.
        addresses: NodeConfig,
    },
    /// The other, a node of the cluster, has made this one known.
    Done,
}

/// The strings that a command is answered with, or an error.
async fn strings(talk: &mut Talk, words: &[&str]) -> io::Result<Result<Vec<String>, String>> {
    let said = talk.call(words).await?;
    let strings = match &said {
        Said::Error(error) => return Ok(Err(error.clone())),
        Said::Text(text) => Some(vec![text.clone()]),
        Said::Items(items) => items.iter().map(|item| item.text().map(str::to_owned)).collect(),
        Said::Integer(_) | Said::Nil => None,
    };
    strings.map(Ok).ok_or_else(unfit)
}

/// Where a node's clients connect.
struct Place<'a> {
    host: &'a str,
    port: u16,
}

impl Place<'_> {
    fn unreached(&self, error: io::Error) -> String {
        format!("ERR the node at {}:{} cannot be reached: {error}", self.host, self.port)
    }

    fn refused(&self, why: &dyn Display) -> String {
        format!("ERR the node at {}:{} cannot be met: {why}", self.host, self.port)
    }

    /// Who is there, with a proof of the secret.
    async fn ask(
        &self,
        secret: &Secret,
        own: Option<&str>,
    ) -> Result<(Talk, Introduction), String> {
        let unreached = |error| self.unreached(error);
        let mut talk =
            Talk::open(self.host, self.port, ANSWER_BYTES_MAX).await.map_err(unreached)?;
        let nonce = new_nonce().map_err(unreached)?;
        let words = ["CLUSTER", "INTRODUCE", &hex(&nonce)];
        let said = strings(&mut talk, &words).await.map_err(unreached)?;
        let said = said.map_err(|error| self.refused(&format!("it answers {error}")))?;
        let other = Introduction::verify(&said, secret, own, &nonce);
        Ok((talk, other.map_err(|error| self.refused(&error))?))
    }
}

/// Who the node is whose clients connect there, of whatever cluster, as long as it knows the secret.
///
/// # Errors
/// In one sentence.
pub async fn ask(host: &str, port: u16, secret: &Secret) -> Result<Introduction, String> {
    let place = Place { host, port };
    let asked = timeout(ASK_TIMEOUT, place.ask(secret, None)).await;
    match asked {
        Ok(asked) => asked.map(|(_, introduction)| introduction),
        Err(_) => Err(format!("ERR the node at {host}:{port} does not answer in time")),
    }
}

/// Meets the node whose clients connect there; `own` is the node that was asked to.
///
/// # Errors
/// The reply.
pub(crate) async fn meet(
    (credentials, view, own): (&Credentials, &ClusterView, Option<NodeId>),
    host: &str,
    port: u16,
) -> Result<Met, String> {
    let place = Place { host, port };
    let (own_cluster, secret) = (Some(credentials.cluster_id()), credentials.secret());
    let (mut talk, other) = place.ask(secret, own_cluster).await?;
    let nodes = &view.map.config.nodes;
    if !view.map.config.groups.is_empty() {
        let addresses = NodeConfig {
            peer: placed(&other.addresses.peer, host),
            resp: placed(&other.addresses.resp, host),
        };
        let before = nodes.get(&other.node).filter(|before| **before != addresses);
        return match before {
            // Two nodes of one number would vote for each other.
            Some(before) if !other.member => Err(place.refused(&format!(
                "it is a spare with the number {}, which the node at {} has; start it with another --id",
                other.node, before.resp
            ))),
            Some(_) | None => Ok(Met::Other { node: other.node, addresses }),
        };
    }
    if !other.member {
        return Err(place.refused(&"it is a spare, as this one is; meet a node of the cluster"));
    }
    let resp = own.and_then(|own| nodes.get(&own)).map(|own| own.resp.as_str());
    let resp = placed(
        resp.unwrap_or_default(),
        &talk.own_ip().map_err(|error| place.unreached(error))?.to_string(),
    );
    let (own_host, own_port) = resp.rsplit_once(':').unwrap_or_default();
    let own_host = own_host.trim_start_matches('[').trim_end_matches(']');
    let met = strings(&mut talk, &["CLUSTER", "MEET", own_host, own_port]).await;
    met.map_err(|error| place.unreached(error))?.map(|_| Met::Done)
}

/// An address that names no host, as one that listens everywhere, with a host that leads there.
fn placed(address: &str, host: &str) -> String {
    let Some((named, port)) = address.rsplit_once(':') else { return address.to_owned() };
    let bare = named.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()) {
        true if host.contains(':') => format!("[{host}]:{port}"),
        true => format!("{host}:{port}"),
        false => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_everywhere_is_where_he_was_found() {
        for (address, host, placed_at) in [
            ("10.0.0.1:7", "h", "10.0.0.1:7"),
            ("name:7", "h", "name:7"),
            ("0.0.0.0:7", "h", "h:7"),
            ("[::]:7", "10.0.0.2", "10.0.0.2:7"),
            ("0.0.0.0:7", "::1", "[::1]:7"),
            ("[::1]:7", "h", "[::1]:7"),
        ] {
            assert_eq!(placed(address, host), placed_at);
        }
    }
}

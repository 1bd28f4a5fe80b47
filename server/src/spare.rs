//! A node that joins a cluster which runs already.

use crate::cluster_file::{self, Cluster, ClusterFile};
use crate::config::{ConfigError, NodeSettings};
use crate::data_dir::Identity;
use crate::kept_file;
use crate::standalone::{RunError, runtime};
use router::backend::Backend;
use router::meet;
use shard_core::NodeId;
use shard_core::cluster_config::NodeConfig;
use shard_core::handshake::Secret;
use std::path::Path;
use std::time::Duration;
use tracing::{info, warn};

/// Before the cluster is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// What a node without a cluster file has to know of its cluster, from a node there that proves the secret.
///
/// # Errors
/// If the settings say nothing of one, or it does not say who it is.
pub fn learn(settings: &NodeSettings) -> Result<Cluster, RunError> {
    let Some(join) = &settings.join else {
        return Err(ConfigError::Missing("cluster-file").into());
    };
    let file = settings.secret_file.as_ref().ok_or(ConfigError::Missing("secret-file"))?;
    let secret = cluster_file::load_secret(file)?;
    let (host, port) = split(join).ok_or(ConfigError::Missing("join"))?;
    let proof = Secret::new(secret.clone());
    let other = runtime()?.block_on(meet::ask(&host, port, &proof)).map_err(|error| {
        RunError::Sentence(format!("--join: {}", error.trim_start_matches("ERR ")))
    })?;
    if !other.member {
        return Err(RunError::Sentence(format!(
            "--join: the node at {join} is a spare itself; name a node of the cluster"
        )));
    }
    let file = ClusterFile::bare(other.cluster_id);
    Ok(Cluster { config: file.bare_config(), secret, file })
}

/// Where the node itself is, as its directory keeps it.
pub fn kept_addresses(dir: &Path, cluster_id: &str, node: NodeId) -> Option<NodeConfig> {
    let owner = Identity { cluster_id: cluster_id.to_owned(), node };
    let kept = kept_file::read(dir, &owner).ok()?;
    kept.map.config.nodes.get(&node).cloned()
}

/// Host and port of an address that was checked.
pub fn split(address: &str) -> Option<(String, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some((host.to_owned(), port.parse().ok()?))
}

/// Has the cluster make this node known, however often that takes, until it hears of the cluster.
pub async fn join(backend: Backend, (host, port): (String, u16)) {
    let mut complaint = String::new();
    while backend.view().map.config.groups.is_empty() {
        match backend.meet(&host, port).await {
            Ok(_) => info!(host, port, "the cluster knows this node now"),
            Err(error) if error == complaint => {}
            Err(error) => {
                warn!(host, port, error, "not known to the cluster yet, trying again");
                complaint = error;
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_host_and_port() {
        assert_eq!(split("h:7"), Some(("h".to_owned(), 7)));
        assert_eq!(split("[::1]:7"), Some(("::1".to_owned(), 7)));
    }
}

//! How a node says who it is to somebody who knows where its clients connect, and nothing else of it.
//!
//! Whoever asks sends a number that was never used before; the answer proves that the node knows the cluster's
//! secret, over that number and all that it says. It is asked for in the clear and tells nothing that CLUSTER
//! NODES does not tell.

use crate::cluster_config::{NodeConfig, is_address};
use crate::handshake::{Nonce, Secret};
use raft_core::types::NodeId;
use std::fmt::Write;

const LABEL: &[u8] = b"flotilla introduction\0";
/// Fields of an introduction.
pub const FIELDS: usize = 6;

/// Who a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introduction {
    /// Its cluster.
    pub cluster_id: String,
    /// Its number.
    pub node: NodeId,
    /// Where it says that it is.
    pub addresses: NodeConfig,
    /// Whether it is part of a cluster already, and no spare.
    pub member: bool,
}

/// Why an introduction is not believed. Each is the end of a sentence about the node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IntroductionError {
    /// Not what a node says.
    #[error("it is no node of this version of Flotilla")]
    Malformed,
    /// Of another cluster.
    #[error("it belongs to cluster {found:?}, and this one is {own:?}")]
    OtherCluster {
        /// Its cluster.
        found: String,
        /// This one.
        own: String,
    },
    /// The proof does not hold.
    #[error("it does not know the secret of this cluster")]
    WrongSecret,
}

impl Introduction {
    /// As fields, with the proof that whoever sent `nonce` asked for.
    pub fn fields(&self, secret: &Secret, nonce: &Nonce) -> [String; FIELDS] {
        let said = [
            self.cluster_id.clone(),
            self.node.to_string(),
            self.addresses.peer.clone(),
            self.addresses.resp.clone(),
            if self.member { "member" } else { "spare" }.to_owned(),
        ];
        let proof = hex(&secret.prove(LABEL, &transcript(nonce, &said)));
        let [cluster, node, peer, resp, member] = said;
        [cluster, node, peer, resp, member, proof]
    }

    /// Reads and verifies them. `own`: the cluster that it has to be of; None if any that has the secret will do.
    ///
    /// # Errors
    /// If they are not those of such a node.
    pub fn verify(
        fields: &[String],
        secret: &Secret,
        own: Option<&str>,
        nonce: &Nonce,
    ) -> Result<Introduction, IntroductionError> {
        let [said @ .., proof] = fields else { return Err(IntroductionError::Malformed) };
        let [cluster, node, peer, resp, member] = said else {
            return Err(IntroductionError::Malformed);
        };
        if let Some(own) = own.filter(|own| cluster != own) {
            let (found, own) = (cluster.clone(), own.to_owned());
            return Err(IntroductionError::OtherCluster { found, own });
        }
        let proof = unhex(proof).ok_or(IntroductionError::Malformed)?;
        if !secret.verify(LABEL, &transcript(nonce, said), &proof) {
            return Err(IntroductionError::WrongSecret);
        }
        let node = node.parse::<u64>().ok().filter(|node| *node > 0);
        let addresses = NodeConfig { peer: peer.clone(), resp: resp.clone() };
        match (node, is_address(peer) && is_address(resp)) {
            (Some(node), true) => Ok(Introduction {
                cluster_id: cluster.clone(),
                node: NodeId(node),
                addresses,
                member: member == "member",
            }),
            _ => Err(IntroductionError::Malformed),
        }
    }
}

fn transcript(nonce: &Nonce, said: &[String]) -> Vec<u8> {
    let mut bytes = nonce.to_vec();
    for field in said {
        bytes.extend_from_slice(&(field.len() as u64).to_le_bytes());
        bytes.extend_from_slice(field.as_bytes());
    }
    bytes
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes that hexadecimal digits stand for.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some((digit(*high)? * 16 + digit(*low)?) as u8),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_words_to_the_same_number_by_who_knows_the_secret_are_believed() {
        let secret = Secret::new(&b"secret"[..]);
        let addresses = NodeConfig { peer: "h:1".into(), resp: "h:2".into() };
        let cluster_id = "c".to_owned();
        let said = Introduction { cluster_id, node: NodeId(7), addresses, member: false };
        let nonce = [9; 32];
        let fields = said.fields(&secret, &nonce);
        for own in [Some("c"), None] {
            assert_eq!(Introduction::verify(&fields, &secret, own, &nonce), Ok(said.clone()));
        }
        let refused = |fields: &[String], by: &Secret, nonce: &Nonce| {
            Introduction::verify(fields, by, None, nonce).unwrap_err()
        };
        assert_eq!(refused(&fields, &secret, &[8; 32]), IntroductionError::WrongSecret);
        let guess = Secret::new(&b"guess"[..]);
        assert_eq!(refused(&fields, &guess, &nonce), IntroductionError::WrongSecret);
        let other = Introduction::verify(&fields, &guess, Some("d"), &nonce).unwrap_err();
        assert_eq!(other.to_string(), "it belongs to cluster \"c\", and this one is \"d\"");
        for at in 0..FIELDS {
            let mut forged = fields.clone();
            forged[at] = match at {
                0 => "d".into(),
                1 => "8".into(),
                4 => "member".into(),
                5 => hex(&[0; 32]),
                _ => "h:3".into(),
            };
            assert_eq!(refused(&forged, &secret, &nonce), IntroductionError::WrongSecret, "{at}");
        }
        for bad in [&fields[..5], &[]] {
            assert_eq!(refused(bad, &secret, &nonce), IntroductionError::Malformed);
        }
        let nowhere = NodeConfig { peer: "h".into(), resp: "h:2".into() };
        let fields = Introduction { addresses: nowhere, ..said }.fields(&secret, &nonce);
        assert_eq!(refused(&fields, &secret, &nonce), IntroductionError::Malformed);
        assert_eq!((unhex("0aFf"), unhex("0"), unhex("0g")), (Some(vec![10, 255]), None, None));
    }
}

//! The 40 hexadecimal digits by which Redis' cluster vocabulary names nodes and shards.

use sha2::{Digest, Sha256};
use shard_core::{GroupId, NodeId};
use std::fmt::Write;

/// The name of a node: the first 20 bytes of SHA-256 over the cluster's id and the node's number
/// (big-endian). The same on every node and after every restart.
pub fn node_name(cluster_id: &str, node: NodeId) -> String {
    hex20(&[cluster_id.as_bytes(), &node.0.to_be_bytes()])
}

/// The name of a group, made likewise; a word in between keeps it apart from every node's.
pub fn shard_name(cluster_id: &str, group: GroupId) -> String {
    hex20(&[cluster_id.as_bytes(), b"group", &group.0.to_be_bytes()])
}

fn hex20(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    let mut name = String::with_capacity(40);
    for byte in hash.finalize().iter().take(20) {
        // Writing to a string cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable_and_distinct() {
        let name = node_name("c", NodeId(1));
        assert_eq!(name, "84590a00806dc7cc4fc94a4932f31db9fe9adc7a");
        assert_ne!(name, node_name("c", NodeId(2)));
        assert_ne!(name, node_name("d", NodeId(1)));
        assert_ne!(node_name("c", NodeId(0)), shard_name("c", GroupId(0)));
    }
}

//! Why a replica stops, and its node with it.

use crate::codec;
use crate::witness::Older;
use raft_core::OpenError;
use raft_core::types::{GroupId, Index};

/// Why a replica stopped. Its node stops with it: going on could lose what was promised.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// What the disk has of it cannot be right.
    #[error("group {group} cannot be opened: {source}")]
    Open {
        /// The group.
        group: GroupId,
        /// Why not.
        source: OpenError,
    },
    /// A committed entry cannot be read by this program.
    #[error("group {group}: committed entry {index} cannot be applied: {source}")]
    Entry {
        /// The group.
        group: GroupId,
        /// The entry.
        index: Index,
        /// What is wrong with it.
        source: codec::CodecError,
    },
    /// The disk has less than this node once promised a peer.
    #[error(transparent)]
    Older(#[from] Older),
}

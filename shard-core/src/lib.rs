//! What the agreed entries mean.
pub mod cluster_config;
pub mod codec;
pub mod handshake;
pub mod op;
pub mod session;
pub mod slot;
pub mod wire;

pub use raft_core::types::{GroupId, NodeId};

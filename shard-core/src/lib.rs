//! What the agreed entries mean.
pub mod cluster_config;
pub mod codec;
mod data;
mod digest;
pub mod handshake;
pub mod node;
#[cfg(test)]
mod node_tests;
pub mod op;
pub mod replica;
pub mod session;
pub mod shard_store;
pub mod shardmaster;
pub mod slot;
pub mod wire;

pub use raft_core::types::{GroupId, NodeId};

//! What the agreed entries mean: slots, lanes, keys, configurations, and how all of it is written.
//!
//! A command travels through [`wire`] to the leader of its slot's group ([`node`], [`replica`]), which
//! writes it into an entry ([`codec`]); once the entry is committed, [`shard_store`] applies it:
//! lanes first ([`session`]), then the effect of the [`op`]. What an entry changed gets to the disk by
//! checkpoints ([`checkpoint`], [`rows`]), from which a [`machine`] is loaded again.
//!
//! Where slots are to be is decided by group 0 ([`shardmaster`], [`rebalance`]), which tells everybody
//! ([`cluster_map`]) and orders [`moves`].
//!
//! # Invariants
//! - Nothing here reads a clock, a random number or a file, takes a lock or starts a thread: the same
//!   calls give the same bytes, on every replica and in every test.
//! - What depends on state is decided when an entry is applied. What a leader looks at before that
//!   saves a round trip; it never decides.
//! - Numbers of variants and versions in [`codec`] are on disks: they are added to, never changed.
//! - Nothing from a socket or a disk can panic this code, or take more memory than it has bytes
//!   times a constant.

#[cfg(all(feature = "without-lanes", any(test, debug_assertions)))]
compile_error!("without-lanes is for the release program of `make bench-lanes`, and for no test");

pub mod checkpoint;
pub mod cluster_config;
pub mod cluster_map;
pub mod codec;
mod data;
mod digest;
pub mod disk_room;
pub mod handshake;
mod health;
pub mod integer;
pub mod introduction;
pub mod kept;
pub mod machine;
pub mod map_feed;
pub mod memory;
pub mod migration;
pub mod moves;
pub mod node;
#[cfg(test)]
mod node_tests;
pub mod op;
pub mod opener;
pub mod rebalance;
pub mod replica;
pub mod rows;
pub mod session;
pub mod shard_store;
pub mod shardmaster;
pub mod slot;
mod transfers;
pub mod wire;
pub mod witness;

pub use raft_core::types::{GroupId, NodeId};

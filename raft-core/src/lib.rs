//! Raft as a pure state machine.
mod candidate;
pub mod effects;
mod follower;
pub mod frame;
pub mod invariants;
mod leader;
mod log;
pub mod message;
mod progress;
pub mod quorum;
pub mod raft;
mod random;
pub mod types;

pub use raft::{Config, MemUse, OpenError, Raft, Restored, Status};

//! Raft as a pure state machine.
pub mod effects;
pub mod frame;
pub mod message;
pub mod types;

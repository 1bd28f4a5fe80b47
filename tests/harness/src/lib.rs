//! What the tests share: real processes and a client to talk to them, golden scripts.

pub mod process;
pub mod resp;
pub mod shard_script;

//! What the tests share: real processes and a client to talk to them, golden scripts.

pub mod hostile_disk;
pub mod master_script;
pub mod process;
pub mod raft_checker;
pub mod raft_differential;
pub mod raft_disk;
pub mod raft_explore;
pub mod raft_explore_pairs;
pub mod raft_faults;
pub mod raft_figure_8;
pub mod raft_fuzz;
pub mod raft_model;
#[cfg(feature = "mutants")]
pub mod raft_mutant;
pub mod raft_pairs;
pub mod raft_record;
pub mod raft_script;
pub mod raft_shrink;
pub mod raft_sim;
pub mod raft_watch;
pub mod raft_world;
pub mod redirect_script;
pub mod resp;
pub mod resp_script;
pub mod shard_script;
pub mod tokens;

//! The program `flotilla`: disk, sockets, the loop around one node's groups, the command line.
//!
//! Decisions are made in `shard-core` and `raft-core`; here is what carries them out.
//! [`process::run_node`] shows how the parts of a node are put together, [`worker`] is the loop.
//!
//! **Invariants.** Nothing leaves that was to wait for the disk: the log's writer reports what is
//! durable, and only that releases it. A failed write or sync ends the process. Every queue between
//! tasks and threads is bounded. No RESP frame is seen here: sockets of clients go to `router`.

pub mod admin;
mod background;
pub mod clock;
pub mod cluster_file;
pub mod config;
pub mod data_dir;
pub mod dev;
pub mod disk;
pub mod disk_space;
pub mod fail_stop;
mod held_back;
pub mod inspect;
pub mod kept_file;
pub mod last_words;
pub mod listener;
pub mod loading;
pub mod log_store;
pub mod logging;
mod opened_file;
pub mod owner;
pub mod process;
pub mod random;
pub mod recover;
pub mod sim;
pub mod small_file;
pub mod snapshot_bytes;
pub mod spare;
pub mod standalone;
pub mod state_store;
pub mod storage;
pub mod transport;
pub mod without_lanes;
pub mod worker;

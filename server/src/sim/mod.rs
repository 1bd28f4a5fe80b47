//! Whole clusters in one thread under virtual time: nodes with disks of maps, links that break, routers' dispatch,
//! clients, an administrator who moves slots, and one seed that decides all of it.
//!
//! What runs is the real `shard_core::node::Node` and the real `router::dispatch::Dispatch`; only sockets, files
//! and clocks are played. [`run`] lets faults happen for a while, heals everything, demands that all moves end and
//! all clients are answered, and looks at the history ([`history`], [`linearizable`]).
//!
//! **Invariants.** No thread, no clock, no `tokio`, no order of a hash map: the same seed gives the same trace (I14).
//! A failure is a panic whose text begins with the seed's replay line.

pub mod disk;
pub mod faults;
pub mod history;
pub mod hosts;
pub mod linearizable;
pub mod network;
pub mod random;
pub mod rates;
pub mod routers;
mod settled;
pub mod watch;
pub mod workload;
pub mod world;

pub use self::world::{Outcome, run};

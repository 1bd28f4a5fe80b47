//! Exactly once and in order: lanes (`docs/guarantees.md`).

use raft_core::id_type;
use serde::{Deserialize, Serialize};
use std::fmt;

id_type! {
    /// The place of an op in its lane, from 1. 0: before the first.
    Seq(u64)
}

id_type! {
    /// Milliseconds since the Unix epoch as a leader stamped them; the newest stamp applied is the
    /// group's log time. The log is the only clock.
    LogTime(u64)
}

/// Names a session of one router core with one group: 128 random bits, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub u128);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// How far ahead of the log time it heard a router sets a session's deadline D.
pub const SESSION_LIFE_MS: u64 = 5 * 60 * 1000;
/// A deadline further ahead of the slot's log time than this is refused.
pub const SESSION_AHEAD_MS_MAX: u64 = 10 * 60 * 1000;
/// How many seqs of a lane may be unacknowledged: the group refuses seq > acked + this.
pub const LANE_WINDOW: u64 = 1024;

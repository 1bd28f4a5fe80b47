//! The words of the paper as types: a function never takes two bare integers.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::fmt;

/// Defines a newtype over an unsigned integer. The one macro of the house, used by every crate for
/// identifiers, so that a term can never be passed where an index is meant.
#[macro_export]
macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
            serde::Serialize, serde::Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

id_type! {
    /// A term (Raft 5.1). 0 means "before the first election", as in the paper.
    Term(u64)
}
id_type! {
    /// A place in a group's log (Raft 5.3), counted from 1. 0 means "before the first entry".
    Index(u64)
}
id_type! {
    /// One server process of the cluster. Never 0.
    NodeId(u64)
}
id_type! {
    /// One Raft group. 0 is the shardmaster.
    GroupId(u32)
}
id_type! {
    /// Names one `Write`. Grows by one per write of a group's incarnation; `persisted(t)` covers all
    /// tokens up to `t`, since the disk keeps their order.
    WriteToken(u64)
}
id_type! {
    /// Names one request for entries that are no longer cached.
    FetchId(u64)
}
id_type! {
    /// Names one read that waits for its index; the host's, returned as it came.
    ReadId(u64)
}

/// The host's monotonic clock in nanoseconds (CLOCK_BOOTTIME where there is one). Never falls.
pub type Now = u64;

impl Index {
    /// The next index. Saturates: an index of `u64::MAX` is refused before it can get here.
    pub fn next(self) -> Index {
        Index(self.0.saturating_add(1))
    }

    /// The index before this one; 0 stays 0.
    pub fn prev(self) -> Index {
        Index(self.0.saturating_sub(1))
    }
}

impl Term {
    /// The term a candidate would campaign in.
    pub fn next(self) -> Term {
        Term(self.0.saturating_add(1))
    }
}

/// Where an entry stands: printed as `7@3`, index 7 of term 3.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct EntryId {
    /// Its place in the log.
    pub index: Index,
    /// The term of the leader that created it.
    pub term: Term,
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// The empty entry that a new leader appends (Raft section 8); the state machine ignores it.
    Empty,
    /// Carries a payload for the state machine.
    Command,
    /// Carries a configuration ([`crate::conf::Conf`]), which counts from when it is appended; the
    /// state machine ignores it.
    Conf,
}

/// One log entry. The frame is encoded once, when the leader proposes it, and is then written to
/// every socket and every disk as it is; [`crate::frame`] has its layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Index and term, as the frame has them.
    pub id: EntryId,
    /// As the frame has it.
    pub kind: EntryKind,
    /// Header and payload, checksummed.
    pub frame: Bytes,
}

/// Entries on their way to a disk or a peer. A single one, the usual case of an idle group, needs no
/// allocation beyond its frame.
pub type Entries = SmallVec<[Entry; 1]>;

/// What must survive a restart besides the log (Raft figure 2, "persistent state").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HardState {
    /// currentTerm.
    pub term: Term,
    /// votedFor in `term`.
    pub voted_for: Option<NodeId>,
    /// The longest lease ever promised to a leader, in nanoseconds: for so long after a start no
    /// vote is given (R8). 0 if no lease was ever asked for.
    pub promised_ns: Now,
}

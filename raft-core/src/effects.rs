//! What the host owes Raft: plain data, carried out by a thin shell (style: effects are returned,
//! in the order they are owed).

use crate::conf::Conf;
use crate::message::Message;
use crate::snapshot::{SnapCmd, Snapshot};
use crate::types::{
    Entries, Entry, EntryId, FetchId, HardState, Index, NodeId, ReadId, Term, WriteToken,
};
use serde::{Deserialize, Serialize};

/// Everything owed since the last `poll`. Reused between polls; empty fields owe nothing.
#[derive(Debug, Default)]
pub struct Effects {
    /// To disk, all or nothing, in the order of tokens (R7).
    pub write: Option<Write>,
    /// May leave at once (thesis 10.2.1, R5).
    pub send: Vec<Envelope>,
    /// Each may leave once `persisted(token)` was called: votes and append acks are promises.
    pub send_after: Vec<(WriteToken, Envelope)>,
    /// Peers for which `next_append` would yield something: their link pulls when it can take bytes.
    pub appendable: Vec<NodeId>,
    /// To the state machine, in order; contiguous over polls; the host calls `applied` when done.
    pub commit: Vec<Entry>,
    /// Entries that are no longer cached, to be read off the worker thread and given to `fetched`.
    pub fetch: Vec<Fetch>,
    /// Reads whose index is known: each may be served here once everything up to it is applied
    /// (thesis 6.4). A read in [`ReadMode::Lease`] only while [`crate::Raft::lease_holds`].
    pub reads: Vec<(ReadId, Index)>,
    /// Reads that will get no index; they may be asked again, here or at another replica.
    pub reads_failed: Vec<ReadId>,
    /// Role, term and leader changes, for clients' hints, logs, counters and golden files alike.
    pub role: Option<RoleChange>,
    /// Who is in the group, when that changes: at append, when an entry is cut off, at commit. The
    /// host opens and closes links by it.
    pub conf: Option<ConfView>,
    /// A peer says that this replica is no member since that entry, which it does not have: it stops
    /// campaigning, and the host may collect it.
    pub removed: Option<Index>,
    /// The log up to and including this entry is not needed any more, here and for peers: the host
    /// deletes it when it likes, and keeps this entry's index and term as the log's base.
    pub compact: Option<EntryId>,
    /// What to do with snapshots, in this order.
    pub snaps: Vec<SnapCmd>,
    /// A `Busy` that was given out has passed.
    pub room: bool,
}

impl Effects {
    /// Whether nothing is owed.
    pub fn is_empty(&self) -> bool {
        self.write.is_none()
            && self.send.is_empty()
            && self.send_after.is_empty()
            && self.appendable.is_empty()
            && self.commit.is_empty()
            && self.fetch.is_empty()
            && self.reads.is_empty()
            && self.reads_failed.is_empty()
            && self.role.is_none()
            && self.conf.is_none()
            && self.removed.is_none()
            && self.compact.is_none()
            && self.snaps.is_empty()
            && !self.room
    }

    /// Forgets everything, keeping the allocations.
    pub fn clear(&mut self) {
        self.write = None;
        self.send.clear();
        self.send_after.clear();
        self.appendable.clear();
        self.commit.clear();
        self.fetch.clear();
        self.reads.clear();
        self.reads_failed.clear();
        self.role = None;
        self.conf = None;
        self.removed = None;
        self.compact = None;
        self.snaps.clear();
        self.room = false;
    }
}

/// A message and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The receiver.
    pub to: NodeId,
    /// What it is told.
    pub message: Message,
}

/// One durable step: all of it or nothing (R1, R3, R7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Given back by `persisted` once everything here is on disk.
    pub token: WriteToken,
    /// The new term and vote, if either changed.
    pub hard: Option<HardState>,
    /// Drop every entry at or above this index, before `entries` are appended.
    pub truncate_from: Option<Index>,
    /// Put this snapshot, whose bytes are all here, in the place of the state and of the whole log,
    /// whose base is then its `id.at`. The host calls `persisted` once all of that is durable, and
    /// [`crate::Raft::snapshot`] with `Installed` once the state machine holds it too.
    pub install: Option<Box<Snapshot>>,
    /// To append, contiguous.
    pub entries: Entries,
}

/// A request for entries from the host's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Given back by `fetched`.
    pub id: FetchId,
    /// The first entry wanted.
    pub from: Index,
    /// The last entry wanted. The host may return a prefix, of at least one entry.
    pub to: Index,
    /// The host stops after the entry that reaches this many frame bytes.
    pub bytes_max: u64,
}

/// What a fetch brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchResult {
    /// Contiguous from `from`, at least one.
    Entries(Vec<Entry>),
    /// The host does not hold the first entry any more (overwritten or compacted meanwhile).
    Gone,
}

/// What a replica is in its group (Raft 5.1, thesis 9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Follows, or waits for a leader.
    Follower,
    /// Asks whether an election could be won, without raising the term.
    PreCandidate,
    /// Asks for votes in a term of its own.
    Candidate,
    /// Leads.
    Leader,
}

/// The newest role, term and leader; sent when any of them changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleChange {
    /// The role now.
    pub role: Role,
    /// The current term.
    pub term: Term,
    /// The leader of that term as far as known (itself if it leads).
    pub leader: Option<NodeId>,
}

/// The configuration that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfView {
    /// Who is in the group.
    pub conf: Conf,
    /// The entry that says so; 0 for what the group began with.
    pub index: Index,
    /// Whether that entry is committed: until then the configuration may be taken back.
    pub committed: bool,
}

/// What `propose` did: a prefix of the batch was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// Where the first accepted payload stands; the others follow it in the same term.
    pub first: EntryId,
    /// How many payloads were accepted. With 0, `first` means nothing.
    pub count: u64,
    /// Why the next payload was not taken, if one was left.
    pub refused: Option<Refused>,
}

/// How a read is made linearizable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadMode {
    /// A majority confirms the leader after the read came (thesis 6.4). On any replica.
    Index,
    /// By the leader's lease if it holds, else as `Index` (thesis 6.4.1). Needs clocks whose rates
    /// differ by no more than [`crate::Config::clock_drift_ppm`].
    Lease,
}

/// Why a call was refused. A proposal refused was not appended and never will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// This replica does not lead (or has lost its quorum).
    #[error("not the leader")]
    NotLeader {
        /// Who does, as far as known.
        hint: Option<NodeId>,
    },
    /// A budget is spent: of uncommitted bytes or, for a read, of waiting reads; or the room is kept for
    /// a larger payload that was refused before. `Effects::room` tells when to come again.
    #[error("too much waits already")]
    Busy,
    /// Leadership is being handed to another replica; `Effects::room` tells if it stays here.
    #[error("leadership is moving to {to}")]
    Transferring {
        /// Who is to lead.
        to: NodeId,
    },
    /// A change of the configuration is under way, or nothing is committed in this term yet.
    #[error("a change of the configuration has to wait for the one before")]
    ConfPending,
    /// The change is none, or could not be committed now.
    #[error("the configuration stays: {0}")]
    Conf(&'static str),
    /// The target is not another voter of the group.
    #[error("{0} is not another voter of the group")]
    NotVoter(NodeId),
    /// The payload is over the entry limit.
    #[error("an entry of {bytes} bytes is over the limit")]
    TooBig {
        /// Its size.
        bytes: u64,
    },
}

/// What the host knows of a peer's node: edges only (R11). See [`crate::node_pair`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeLiveness {
    /// A new link to the peer stands. All that was sent before on another link may be lost.
    Up {
        /// Changes when the peer's process restarts.
        epoch: u64,
        /// Changes with each link.
        link: u64,
    },
    /// The node is heard, but does not hear: a leader cannot count it (R14), a follower needs no
    /// other leader.
    Deaf,
    /// The node is silent, or its process has ended (R17).
    Down {
        /// Its process has ended: no need to wait for the long timeout.
        gone: bool,
    },
    /// Its disk has not finished a sync for long: for its followers as `Down`. Of the own node: it
    /// does not campaign (R15).
    DiskStalled,
    /// The node does not lead this group in that term, although it is believed to (R13).
    Disowned {
        /// The term.
        term: Term,
    },
    /// The node does not know that this one leads the group in that term: it is probed (R13).
    Unbelieved {
        /// The term.
        term: Term,
    },
}

/// Why a message from a peer was dropped; counted by the host, never fatal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// Term, index or entries are impossible (E32, B101).
    #[error("malformed message: {0}")]
    Malformed(&'static str),
    /// The sender is this replica itself, or nobody. Whether it is a member does not matter (R20).
    #[error("{0} cannot be the sender")]
    NoPeer(NodeId),
}

/// What `next_append` has for a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pull {
    /// Send this; ask again for more.
    Ready(Message),
    /// The next entry alone needs this many bytes of room.
    Needs(u64),
    /// Nothing for now; `Effects::appendable` names the peer again when there is.
    Nothing,
}

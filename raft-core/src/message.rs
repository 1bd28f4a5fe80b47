//! What one replica says to another: Figure 2's RPCs, each request and each reply a variant.
//!
//! Enums that travel are append-only: variants and fields keep their order for ever (postcard).

use crate::conf::Conf;
use crate::effects::Reject;
use crate::frame::HEADER_BYTES;
use crate::snapshot::{Snapshot, SnapshotId};
use crate::types::{Entries, EntryId, EntryKind, Index, Now, Term};
use serde::{Deserialize, Serialize};

/// A message between two replicas of one group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Would you vote for me? Promises nothing and changes nothing durable (thesis 9.6).
    PreVote(PreVote),
    /// Answer to `PreVote`.
    PreVoteReply(PreVoteReply),
    /// Raft 5.2, 5.4.1.
    RequestVote(RequestVote),
    /// Answer to `RequestVote`: a promise, leaves only once it is durable (R1).
    RequestVoteReply(RequestVoteReply),
    /// Raft 5.3; without entries it is the heartbeat and the probe.
    AppendEntries(AppendEntries),
    /// Answer to `AppendEntries`; an acceptance leaves only once it is durable (R3).
    AppendEntriesReply(AppendEntriesReply),
    /// Am I still believed? One round confirms all reads that came before it (thesis 6.4).
    Confirm(Confirm),
    /// Answer to `Confirm`.
    ConfirmReply(ConfirmReply),
    /// A follower asks its leader for a read index.
    ReadIndex(ReadIndex),
    /// Answer to `ReadIndex`.
    ReadIndexReply(ReadIndexReply),
    /// The go-ahead of a leadership transfer (thesis 3.10).
    TimeoutNow(TimeoutNow),
    /// The log that you lack is gone: shall this be sent? (Raft section 7.) Bytes come apart from it.
    InstallSnapshot(InstallSnapshot),
    /// Answer to `InstallSnapshot`, and after each chunk. One who has it all already, or installed it,
    /// says so by an `AppendEntriesReply`.
    InstallSnapshotReply(InstallSnapshotReply),
}

/// See [`Message::PreVote`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreVote {
    /// The asker's own current term (the one it would campaign in is the next).
    pub term: Term,
    /// Grows with each round of the asker; answers of another round do not count (R16).
    pub round: u64,
    /// The asker's last entry.
    pub last: EntryId,
}

/// See [`Message::PreVoteReply`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreVoteReply {
    /// The answerer's current term: a refused asker with a lower one adopts it (E16).
    pub term: Term,
    /// The round that is answered.
    pub round: u64,
    /// Whether a vote would be given.
    pub granted: bool,
    /// The newest configuration that the answerer knows committed, if neither it nor a later one
    /// names the asker (R20).
    pub removed: Option<Index>,
}

/// See [`Message::RequestVote`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestVote {
    /// The candidate's term.
    pub term: Term,
    /// The candidate's last entry.
    pub last: EntryId,
    /// The leader of the term before gave the go-ahead: belief in that leader, and promises to it,
    /// do not stand against this request (R19).
    pub transfer: bool,
}

/// See [`Message::RequestVoteReply`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestVoteReply {
    /// The answerer's current term.
    pub term: Term,
    /// Whether the vote was given in that term.
    pub granted: bool,
}

/// See [`Message::AppendEntries`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppendEntries {
    /// The leader's term.
    pub term: Term,
    /// The entry before `entries`.
    pub prev: EntryId,
    /// The leader's commit index.
    pub commit: Index,
    /// The leader's send stamp (its own clock), echoed by the answer: check-quorum and leases count
    /// from it.
    pub stamp: Now,
    /// The length of the promise that is asked for, nanoseconds; 0 for none (R18).
    pub lease_ns: Now,
    /// Contiguous from `prev.index + 1`. On the wire their frames follow the encoded header as
    /// they are, so they are not part of what serde sees.
    #[serde(skip)]
    pub entries: Entries,
}

/// See [`Message::AppendEntriesReply`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppendEntriesReply {
    /// The answerer's current term.
    pub term: Term,
    /// The send stamp of the request that is answered.
    pub stamp: Now,
    /// The promise that is given: what was asked for, or 0.
    pub promised_ns: Now,
    /// The answerer's commit index (R12: a leader is quiet only once it knows this).
    pub commit: Index,
    /// What became of the request.
    pub outcome: AppendOutcome,
}

/// The fate of an `AppendEntries`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppendOutcome {
    /// The logs agree up to and including `matched`, and all of that is durable here.
    Accepted {
        /// Last index that agrees and is durable.
        matched: Index,
        /// Last index that agrees but may still be on its way to the disk (>= `matched`).
        received: Index,
    },
    /// `prev` is missing here or has another term.
    Rejected {
        /// The `prev.index` that was refused, so that a stale refusal is recognised.
        prev: Index,
        /// Where the leader should look next: the last index of this log at or below `prev` whose
        /// term is not above the refused one, with its term (Raft 5.3, end, by terms).
        hint: EntryId,
    },
}

/// See [`Message::Confirm`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirm {
    /// The leader's term.
    pub term: Term,
    /// The newest read when this was built: an answer confirms it and all before it (R23).
    pub seq: u64,
    /// The leader's send stamp, echoed by the answer.
    pub stamp: Now,
    /// As in `AppendEntries`.
    pub lease_ns: Now,
}

/// See [`Message::ConfirmReply`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfirmReply {
    /// The answerer's current term; a higher one is the refusal.
    pub term: Term,
    /// The `seq` that is answered.
    pub seq: u64,
    /// The send stamp that is answered.
    pub stamp: Now,
    /// As in `AppendEntriesReply`.
    pub promised_ns: Now,
}

/// See [`Message::ReadIndex`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadIndex {
    /// The asker's current term.
    pub term: Term,
    /// The asker's newest read. Never repeats, not over restarts either (R23).
    pub seq: u64,
}

/// See [`Message::ReadIndexReply`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadIndexReply {
    /// The answerer's current term.
    pub term: Term,
    /// The `seq` that is answered, and with it all reads before it.
    pub seq: u64,
    /// The index that must be applied before the reads are served; `None` from one that does not
    /// lead, or has too many reads waiting.
    pub index: Option<Index>,
}

/// See [`Message::TimeoutNow`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeoutNow {
    /// The leader's term. The receiver campaigns in the next.
    pub term: Term,
}

/// See [`Message::InstallSnapshot`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstallSnapshot {
    /// The leader's term.
    pub term: Term,
    /// As in `AppendEntries`.
    pub stamp: Now,
    /// As in `AppendEntries`.
    pub lease_ns: Now,
    /// What is offered. In a box, since every other message is small and moved often.
    pub snapshot: Box<Snapshot>,
}

/// See [`Message::InstallSnapshotReply`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstallSnapshotReply {
    /// The answerer's current term.
    pub term: Term,
    /// The send stamp of the offer that is answered; 0 after a chunk.
    pub stamp: Now,
    /// As in `AppendEntriesReply`.
    pub promised_ns: Now,
    /// Which snapshot is wanted.
    pub id: SnapshotId,
    /// Its first byte that is not here; its size if only the installation is not done.
    pub offset: u64,
}

/// The highest term and index that a message may name. Far above what any cluster reaches, and so
/// far below the end of the integers that no sum of ours overflows (E32).
pub const ID_MAX: u64 = u64::MAX / 2;

/// By how much a term near [`ID_MAX`] may be above the receiver's: more elections than a group holds in a hundred
/// thousand years. Below half of [`ID_MAX`], and below three quarters of who leads in it, any term is taken, since
/// a replica that joins or was away for long begins far behind.
pub const TERM_LEAP_MAX: u64 = 1 << 40;

impl Message {
    /// Whether every number in it is possible. A decoder of ours can yield any integer, so a faulty
    /// peer could otherwise carry a group to a term after which there is no other.
    pub fn check(&self) -> Result<(), Reject> {
        if self.term().0 > ID_MAX {
            return Err(Reject::Malformed("term out of range"));
        }
        let ids: &[EntryId] = match self {
            Message::PreVote(m) => &[m.last],
            Message::RequestVote(m) => &[m.last],
            Message::AppendEntries(m) => return m.check(),
            Message::AppendEntriesReply(m) => return m.check(),
            Message::InstallSnapshot(m) => {
                m.snapshot.check(m.term).map_err(Reject::Malformed)?;
                &[m.snapshot.id.at]
            }
            Message::InstallSnapshotReply(m) => &[m.id.at],
            Message::PreVoteReply(m) if m.removed.is_some_and(|index| index.0 > ID_MAX) => {
                return Err(Reject::Malformed("index out of range"));
            }
            Message::ReadIndexReply(m) if m.index.is_some_and(|index| index.0 > ID_MAX) => {
                return Err(Reject::Malformed("index out of range"));
            }
            Message::PreVoteReply(_)
            | Message::RequestVoteReply(_)
            | Message::Confirm(_)
            | Message::ConfirmReply(_)
            | Message::ReadIndex(_)
            | Message::ReadIndexReply(_)
            | Message::TimeoutNow(_) => &[],
        };
        if ids.iter().any(|id| id.index.0 > ID_MAX || id.term > self.term()) {
            return Err(Reject::Malformed("last entry out of range"));
        }
        Ok(())
    }

    /// Whether a replica of `own` may go to its term. One message must not carry a group to a term after which
    /// there is no other, nor leave behind for ever those that it does not reach: who leads is believed further than
    /// who asks (E32).
    pub(crate) fn is_in_reach(&self, own: Term) -> bool {
        let leads = matches!(self, Message::AppendEntries(_) | Message::InstallSnapshot(_));
        let any = if leads { ID_MAX / 4 * 3 } else { ID_MAX / 2 };
        self.term().0 <= any.max(own.0.saturating_add(TERM_LEAP_MAX))
    }

    /// The sender's term.
    pub fn term(&self) -> Term {
        match self {
            Message::PreVote(m) => m.term,
            Message::PreVoteReply(m) => m.term,
            Message::RequestVote(m) => m.term,
            Message::RequestVoteReply(m) => m.term,
            Message::AppendEntries(m) => m.term,
            Message::AppendEntriesReply(m) => m.term,
            Message::Confirm(m) => m.term,
            Message::ConfirmReply(m) => m.term,
            Message::ReadIndex(m) => m.term,
            Message::ReadIndexReply(m) => m.term,
            Message::TimeoutNow(m) => m.term,
            Message::InstallSnapshot(m) => m.term,
            Message::InstallSnapshotReply(m) => m.term,
        }
    }
}

impl AppendEntries {
    fn check(&self) -> Result<(), Reject> {
        if self.term == Term(0) {
            return Err(Reject::Malformed("a leader of term 0"));
        }
        if self.prev.index.0 > ID_MAX || self.commit.0 > ID_MAX {
            return Err(Reject::Malformed("index out of range"));
        }
        if (self.prev.index == Index(0)) != (self.prev.term == Term(0)) {
            return Err(Reject::Malformed("previous entry half there"));
        }
        let mut before = self.prev;
        for entry in &self.entries {
            if entry.id.index != before.index.next() {
                return Err(Reject::Malformed("entries with a hole"));
            }
            if entry.id.term < before.term || entry.id.term == Term(0) {
                return Err(Reject::Malformed("terms fall along the entries"));
            }
            if entry.frame.len() < HEADER_BYTES {
                return Err(Reject::Malformed("entry without a frame"));
            }
            if entry.kind == EntryKind::Conf && Conf::of_entry(entry).is_none() {
                return Err(Reject::Malformed("an impossible configuration"));
            }
            before = entry.id;
        }
        if before.term > self.term {
            return Err(Reject::Malformed("entry of a later term than its leader's"));
        }
        Ok(())
    }
}

impl AppendEntriesReply {
    fn check(&self) -> Result<(), Reject> {
        let highest = match &self.outcome {
            AppendOutcome::Accepted { matched, received } if matched > received => {
                return Err(Reject::Malformed("matched beyond received"));
            }
            AppendOutcome::Accepted { received, .. } => *received,
            AppendOutcome::Rejected { prev, hint } => (*prev).max(hint.index),
        };
        if highest.0 > ID_MAX || self.commit.0 > ID_MAX {
            return Err(Reject::Malformed("index out of range"));
        }
        Ok(())
    }
}

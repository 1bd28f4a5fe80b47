//! What one replica says to another: Figure 2's RPCs, each request and each reply a variant.
//!
//! Enums that travel are append-only: variants and fields keep their order for ever (postcard).

use crate::effects::Reject;
use crate::frame::HEADER_BYTES;
use crate::types::{Entry, EntryId, Index, Term};
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
}

/// See [`Message::RequestVote`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestVote {
    /// The candidate's term.
    pub term: Term,
    /// The candidate's last entry.
    pub last: EntryId,
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
    /// The leader's send stamp (its own clock), echoed by the answer: check-quorum counts from it.
    pub stamp: u64,
    /// Contiguous from `prev.index + 1`. On the wire their frames follow the encoded header as
    /// they are, so they are not part of what serde sees.
    #[serde(skip)]
    pub entries: Vec<Entry>,
}

/// See [`Message::AppendEntriesReply`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppendEntriesReply {
    /// The answerer's current term.
    pub term: Term,
    /// The send stamp of the request that is answered.
    pub stamp: u64,
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

/// The highest term and index that a message may name. Far above what any cluster reaches, and so
/// far below the end of the integers that no sum of ours overflows (E32).
pub const ID_MAX: u64 = u64::MAX / 2;

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
            Message::PreVoteReply(_) | Message::RequestVoteReply(_) => &[],
            Message::AppendEntries(m) => return m.check(),
            Message::AppendEntriesReply(m) => return m.check(),
        };
        if ids.iter().any(|id| id.index.0 > ID_MAX || id.term > self.term()) {
            return Err(Reject::Malformed("last entry out of range"));
        }
        Ok(())
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

//! What travels between processes, and between a router and the node in its own process.
//!
//! Enums here are append-only: variants and fields keep their order for ever (postcard).

use crate::cluster_config::ClusterConfig;
use crate::cluster_map::ClusterMap;
use crate::disk_room::DiskStatus;
use crate::memory::MemoryUse;
use crate::moves::SlotEpoch;
use crate::op::{ELEMENT_BYTES, Op, Outcome};
use crate::session::{LogTime, Seq, SessionId};
use crate::shardmaster::{MasterDone, MasterError, MasterQuery, MasterReport, MasterRequest};
use crate::slot::Slot;
use raft_core::message::Message;
use raft_core::types::{GroupId, Index, NodeId, Term};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A Raft message on its way between two nodes. Entries' frames follow the encoded header raw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftEnvelope {
    /// The group both ends are replicas of.
    pub group: GroupId,
    /// What is said.
    pub message: Message,
}

/// Everything a router (or the router part of a node) sends to a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToNode {
    /// Requests for one group, in order.
    Requests(RequestBatch),
    /// Asks for the view now; later changes are pushed unasked.
    View,
    /// Answered by `Pong` at once: tells a silent node from a slow group.
    Ping,
}

/// Requests for one group, in the order they are to be taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestBatch {
    /// The group.
    pub group: GroupId,
    /// The requests.
    pub requests: Vec<Request>,
}

/// One request. Each id is answered once at most; a router never uses an id twice on one link, so
/// that a late answer of an earlier attempt is recognised (scenario W6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Names the attempt.
    pub id: u64,
    /// What is asked.
    pub body: RequestBody,
}

/// What a request asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestBody {
    /// An op of a lane ([`crate::session`]).
    Lane(LaneRequest),
    /// A read of the whole group, linearizable, outside every lane.
    Group(GroupQuery),
    /// The log time the leader would stamp now: what a new session counts its deadline from.
    LogTime,
    /// The leader is to hand its group to another voter. Answered once it is known what became of
    /// that: by a leader that has stepped down with `NotLeader`, and who leads then is to be asked.
    Transfer {
        /// The node that is to lead.
        to: NodeId,
    },
    /// A read of one slot, linearizable, that takes no place in the lane and none in the log.
    Read(ReadRequest),
    /// What an administrator wants of the shardmaster.
    Master(MasterRequest),
}

impl RequestBody {
    /// The slot that it is about.
    pub(crate) fn slot(&self) -> Option<Slot> {
        match self {
            RequestBody::Lane(LaneRequest { slot, .. })
            | RequestBody::Read(ReadRequest { slot, .. }) => Some(*slot),
            RequestBody::Group(_)
            | RequestBody::LogTime
            | RequestBody::Transfer { .. }
            | RequestBody::Master(_) => None,
        }
    }

    /// Bytes of keys and values in it.
    pub(crate) fn op_bytes(&self) -> usize {
        match self {
            RequestBody::Lane(LaneRequest { op, .. })
            | RequestBody::Read(ReadRequest { op, .. }) => op.bytes(),
            RequestBody::Group(_)
            | RequestBody::LogTime
            | RequestBody::Transfer { .. }
            | RequestBody::Master(_) => 0,
        }
    }
}

/// An op with its place in a lane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneRequest {
    /// The session of a router core with the group.
    pub session: SessionId,
    /// D: the log time after which nothing of the session is executed any more. Fixed for its life.
    pub deadline: LogTime,
    /// The slot; (session, slot) is the lane.
    pub slot: Slot,
    /// Its place in the lane, from 1.
    pub seq: Seq,
    /// Every seq up to this one has its answer: remembered replies up to it may go.
    pub acked: Seq,
    /// What to do.
    pub op: Op,
}

/// An op that changes nothing, with the write it must see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadRequest {
    /// The slot.
    pub slot: Slot,
    /// The newest op of its own connection that was not answered when it left; with none, whatever
    /// is committed will do.
    pub after: Option<After>,
    /// What to read.
    pub op: Op,
}

/// A place in a lane of the read's slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct After {
    /// The lane's session.
    pub session: SessionId,
    /// Its D. Past it nothing of the lane is executed any more, so there is nothing to wait for.
    pub deadline: LogTime,
    /// The read is served once this op was executed.
    pub seq: Seq,
}

/// A read of a whole group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupQuery {
    /// How many keys, and how many of them with an expiry: DBSIZE.
    KeyCount,
    /// Which slots the group owns, and which of them hold keys: FLUSHALL.
    OccupiedSlots,
    /// A read of the shardmaster.
    Master(MasterQuery),
    /// How many keys each slot of the group has. Older programs ask so, and have it in their logs.
    SlotKeys {
        /// First slot.
        first: Slot,
        /// Last slot, included.
        last: Slot,
    },
    /// How much is in each slot of the group, and how much it is written to, of those from the first to the last.
    SlotSizes {
        /// First slot.
        first: Slot,
        /// Last slot, included.
        last: Slot,
    },
}

/// How large a slot is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotSize {
    /// Keys, without those that have expired.
    pub keys: u64,
    /// Bytes of keys and values, with what has expired and is not collected yet.
    pub bytes: u64,
    /// Writes lately, as the replica that answers has applied them: those of some seconds, older ones count less.
    pub writes: u64,
}

/// What a group query answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupAnswer {
    /// For `KeyCount`.
    KeyCount {
        /// Keys that exist at the entry's log time.
        keys: u64,
        /// Of those, how many have an expiry.
        expires: u64,
    },
    /// For `OccupiedSlots`: ranges are `(first, last)`, both included, in slot order.
    OccupiedSlots {
        /// Slots the group owns.
        owned: Vec<(Slot, Slot)>,
        /// Of those, the ones with at least one key, be it one that expired and is not collected yet.
        occupied: Vec<(Slot, Slot)>,
    },
    /// For `RequestBody::Transfer`.
    Transfer(TransferAnswer),
    /// For `GroupQuery::Master`.
    Master(Box<MasterReport>),
    /// For `SlotKeys`, in slot order.
    SlotKeys(Vec<(Slot, u64)>),
    /// For `SlotSizes`: each slot that the group owns, in slot order.
    SlotSizes(Vec<(Slot, SlotSize)>),
}

/// What became of the wish that another node leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TransferAnswer {
    /// It leads.
    Leads,
    /// It is no voter of the group.
    NotVoter,
    /// It is not reachable, or its disk is too slow to lead (rule R15).
    Unfit,
    /// It did not take the group over within an election timeout, or a later wish went before.
    GivenUp {
        /// The group.
        group: GroupId,
        /// Who leads it still.
        leader: NodeId,
    },
}

/// Everything a node sends to a router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToRouter {
    /// Answers, in no promised order.
    Replies(Vec<Reply>),
    /// What the node knows of the cluster: sent when a link opens, when asked, and on each change.
    View(Box<ClusterView>),
    /// Answer to `Ping`.
    Pong,
}

/// Bytes of outcomes that are put into one message, if it has more than one reply.
pub const REPLIES_BYTES_MAX: usize = 1 << 20;

impl ToRouter {
    /// Replies in as few messages as their frames have room for: the largest reply alone nearly
    /// fills one, so two of that size in one message would end the link.
    pub fn replies(replies: Vec<Reply>) -> impl Iterator<Item = ToRouter> {
        let mut rest = replies.into_iter().peekable();
        std::iter::from_fn(move || {
            let mut batch = vec![rest.next()?];
            let mut bytes = batch[0].answer.bytes();
            while let Some(next) = rest.next_if(|next| {
                bytes += next.answer.bytes();
                bytes <= REPLIES_BYTES_MAX
            }) {
                batch.push(next);
            }
            Some(ToRouter::Replies(batch))
        })
    }
}

/// The answer to one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The request's id.
    pub id: u64,
    /// Its fate.
    pub answer: Answer,
}

/// The fate of one request attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Executed, now or by an earlier attempt: the op's outcome.
    Done {
        /// What it answered.
        outcome: Outcome,
        /// The group's log time at that entry.
        log_time: LogTime,
    },
    /// For a group query.
    Group(GroupAnswer),
    /// For `LogTime`.
    LogTime(LogTime),
    /// This replica does not lead: this attempt was not appended.
    NotLeader {
        /// Who does, as far as known.
        hint: Option<NodeId>,
    },
    /// Over a bound: this attempt was not appended. Try again after a back-off.
    Busy,
    /// The attempt was appended, but this replica lost its lead before it was applied, or the entry
    /// was overwritten: whether it is executed is not known here. The lane will tell.
    Lost,
    /// The group does not own the slot (any more, or yet): nothing changed.
    Elsewhere,
    /// Log time is past the session's deadline: this attempt was not executed.
    Expired {
        /// The group's log time.
        log_time: LogTime,
    },
    /// The session's deadline is further ahead than the group accepts: nothing changed.
    DeadlineTooFar {
        /// The group's log time.
        log_time: LogTime,
    },
    /// The seq was answered and acknowledged before: nothing changed, its reply is gone.
    Old,
    /// An earlier seq of the lane has not been applied: nothing changed.
    Gap {
        /// The last seq that was.
        last: Seq,
    },
    /// The seq is further ahead of `acked` than the lane's window: nothing changed.
    Window,
    /// Executed by an earlier attempt, but its reply is over the lane's budget and was not kept.
    ReplyGone,
    /// No router that works sends this (keys of another slot, a seq or a deadline that cannot be, an
    /// op larger than an entry, anything for the shardmaster): one with such a bug must hear it rather
    /// than wait.
    Invalid,
    /// The lanes' memory budget is spent and the lane is new: nothing changed.
    LanesFull,
    /// The slot is about to have another owner, or not: nothing changed, and soon it is decided.
    Frozen,
    /// The group had the slot and gave it away: nothing changed.
    Moved {
        /// To whom.
        to: GroupId,
        /// In which epoch that one got it: a higher one knows better.
        epoch: SlotEpoch,
    },
    /// For an op of the shardmaster: what became of it, or why nothing did.
    Master(Result<MasterDone, MasterError>),
}

/// More than any answer of the shardmaster has: its sentences quote one address at most.
const MASTER_ANSWER_BYTES_MAX: usize = 1024;

impl Answer {
    /// Bytes of what was answered; the slots of a group are at most 16384 ranges twice.
    fn bytes(&self) -> usize {
        match self {
            Answer::Done { outcome, .. } => outcome.bytes(),
            Answer::Group(GroupAnswer::OccupiedSlots { owned, occupied }) => {
                (owned.len() + occupied.len()) * ELEMENT_BYTES
            }
            Answer::Group(GroupAnswer::Master(report)) => report.bytes(),
            Answer::Group(GroupAnswer::SlotKeys(slots)) => slots.len() * ELEMENT_BYTES,
            Answer::Group(GroupAnswer::SlotSizes(slots)) => slots.len() * 3 * ELEMENT_BYTES,
            Answer::Group(GroupAnswer::KeyCount { .. } | GroupAnswer::Transfer(_))
            | Answer::LogTime(_)
            | Answer::NotLeader { .. }
            | Answer::Busy
            | Answer::Lost
            | Answer::Elsewhere
            | Answer::Expired { .. }
            | Answer::DeadlineTooFar { .. }
            | Answer::Old
            | Answer::Gap { .. }
            | Answer::Window
            | Answer::ReplyGone
            | Answer::Invalid
            | Answer::LanesFull
            | Answer::Frozen
            | Answer::Moved { .. } => ELEMENT_BYTES,
            Answer::Master(_) => MASTER_ANSWER_BYTES_MAX,
        }
    }
}

/// What a node knows of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    /// The newest map it knows.
    pub map: ClusterMap,
    /// The leader it believes in, for each group it hosts.
    pub leaders: BTreeMap<GroupId, LeaderView>,
}

impl ClusterView {
    /// What is known of a cluster by its first configuration alone.
    pub fn of_config(config: &ClusterConfig) -> ClusterView {
        ClusterView { map: ClusterMap::of_config(config), leaders: BTreeMap::new() }
    }
}

/// A leader with the term in which it was heard of: of two views the higher term counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderView {
    /// The leader, if one is known in that term.
    pub leader: Option<NodeId>,
    /// The term.
    pub term: Term,
}

/// What a node tells the router in its own process for INFO, ROLE and CLUSTER; never on a wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeStatus {
    /// The node.
    pub node: NodeId,
    /// What its replicas and buffers take in memory.
    pub memory: MemoryUse,
    /// From where on nothing may grow; 0: no limit. Bytes.
    pub memory_max: u64,
    /// What its disk has left.
    pub disk: DiskStatus,
    /// What is kept in memory of the files of log and state. Bytes, bounded by settings of the files and no
    /// part of [`NodeStatus::memory`].
    pub disk_cache_bytes: u64,
    /// Of snapshots between the disk and the sockets, bounded and no part of [`NodeStatus::memory`] either.
    pub snapshot_bytes: u64,
    /// The most of them since the start, each way by itself.
    pub snapshot_bytes_peak: u64,
    /// Its replicas.
    pub replicas: BTreeMap<GroupId, ReplicaStatus>,
    /// Bytes of the log file.
    pub log_file_bytes: u64,
    /// Durable commits of the log so far.
    pub log_commits: u64,
    /// Entries written to the log so far.
    pub log_entries: u64,
    /// Age of this node's oldest unfinished sync, in milliseconds.
    pub sync_age_ms: u64,
    /// How many milliseconds this node's wall clock is ahead of what most nodes' show, or behind.
    pub clock_off_ms: Option<i64>,
    /// Every other node that was heard of.
    pub peers: BTreeMap<NodeId, PeerStatus>,
    /// The ports to which cluster-aware clients come, of this node and of others that have said so in their
    /// lives of now, or their last ones.
    pub cluster_ports: BTreeMap<NodeId, u16>,
    /// Counters by name, for INFO: name (as Redis or Flotilla names it) and value.
    pub counters: Vec<(&'static str, u64)>,
}

impl NodeStatus {
    /// Peers that are heard and that hear this node.
    pub fn peers_up(&self) -> impl Iterator<Item = NodeId> {
        self.peers.iter().filter(|(_, peer)| peer.state == "up").map(|(node, _)| *node)
    }
}

/// Another node as this one sees it, for INFO.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerStatus {
    /// `up`, `deaf` (heard, not hearing), `disk-stalled`, `down` (silent) or `gone` (its process has
    /// ended).
    pub state: &'static str,
    /// Milliseconds since bytes of it came.
    pub contact_age_ms: Option<u64>,
    /// Milliseconds since the newest of our heartbeats was sent that it has answered.
    pub echo_age_ms: Option<u64>,
    /// Age of its oldest unfinished sync, in milliseconds, as it said last.
    pub sync_age_ms: u64,
    /// How many milliseconds its wall clock is ahead of this node's, or behind.
    pub clock_ahead_ms: Option<i64>,
    /// Groups that this node leads with it as a member.
    pub claimed: u32,
    /// Groups that this node believes it to lead.
    pub believed: u32,
    /// The link to it broke, and has not come back: the first that is noticed of a process that has ended.
    pub cut: bool,
}

/// One replica for INFO.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// `leader`, `follower`, `candidate` or `pre-candidate`.
    pub role: &'static str,
    /// Current term.
    pub term: Term,
    /// The leader it knows.
    pub leader: Option<NodeId>,
    /// Last index of its log.
    pub last: Index,
    /// Last index it knows to be committed.
    pub commit: Index,
    /// Last index its state machine has applied.
    pub applied: Index,
    /// Whom it voted for in its term.
    pub voted_for: Option<NodeId>,
    /// Up to where its log is on its own disk.
    pub durable: Index,
    /// Whether it leads and its lease holds.
    pub lease: bool,
    /// Who is to lead instead, while a transfer is under way.
    pub transferring: Option<NodeId>,
    /// Per follower, if it leads: the index known to be on its disk.
    pub matched: BTreeMap<NodeId, Index>,
    /// How it sends to each: `probe`, `replicate` or `snapshot`.
    pub sending: BTreeMap<NodeId, &'static str>,
    /// The last index in its newest durable checkpoint; 0: it has none.
    pub checkpoint: Index,
    /// The last index that its log does not have any more.
    pub log_base: Index,
    /// Keys that changed since its last checkpoint was begun.
    pub dirty_keys: u64,
    /// Bytes of these keys and their values.
    pub dirty_bytes: u64,
    /// Snapshots that it installed since its process began.
    pub installs: u64,
    /// Whether the state of one is on its way: until then it holds none.
    pub installing: bool,
    /// Keys it holds (0 for the shardmaster).
    pub keys: u64,
    /// Of those, how many have an expiry.
    pub expires: u64,
    /// Bytes of keys and values.
    pub data_bytes: u64,
    /// By how many milliseconds the log time of its state is ahead of what most clocks show; 0 if it is not.
    pub log_time_ahead_ms: u64,
    /// Lanes it remembers.
    pub lanes: u64,
    /// Of those, how many are of tokens.
    pub tokens: u64,
    /// Bytes of lanes and remembered replies.
    pub lane_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn replies_share_a_message_while_they_are_small() {
        let reply = |id, len| {
            let outcome = Outcome::Value(Bytes::from(vec![b'x'; len]));
            Reply { id, answer: Answer::Done { outcome, log_time: LogTime(1) } }
        };
        let big = REPLIES_BYTES_MAX;
        let sizes = [1, 1, big, big, 1, big / 2, big / 2 - 1000, 2000, 1];
        let replies = sizes.iter().zip(1..).map(|(len, id)| reply(id, *len)).collect();
        let messages: Vec<Vec<u64>> = ToRouter::replies(replies)
            .map(|message| match message {
                ToRouter::Replies(replies) => replies.iter().map(|reply| reply.id).collect(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(messages, [vec![1, 2], vec![3], vec![4], vec![5, 6, 7], vec![8, 9]]);
        assert_eq!(ToRouter::replies(Vec::new()).count(), 0);
    }
}

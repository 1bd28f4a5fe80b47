//! Random values of everything that travels, from a seed.

use super::*;
use crate::cluster_config::{GroupConfig, NodeConfig, SlotRange};
use crate::cluster_map::ClusterMap;
use crate::cluster_map::{GroupMembers, MemberStep};
use crate::map_feed::MapMessage;
use crate::migration::*;
use crate::moves::*;
use crate::op::*;
use crate::session::{Seq, SessionId};
use crate::shardmaster::*;
use crate::wire::*;
use crate::witness::{Promise, WitnessMessage};
use raft_core::conf::Conf;
use raft_core::frame::encode_entry;
use raft_core::message::*;
use raft_core::node_pair::{BeliefsPage, Claims};
use raft_core::snapshot::{Snapshot, SnapshotId};
use raft_core::types::*;
use std::collections::BTreeMap;

/// SplitMix64 (Steele, Lea, Flood 2014).
pub(super) struct Samples(pub(super) u64);

impl Samples {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Small, large and extreme numbers alike.
    fn number(&mut self) -> u64 {
        let shift = self.below(65) as u32;
        self.next().checked_shr(shift).unwrap_or(0)
    }

    fn flag(&mut self) -> bool {
        self.below(2) == 0
    }

    pub(super) fn bytes(&mut self) -> Bytes {
        let len = self.below(24);
        (0..len).map(|_| self.next() as u8).collect()
    }

    fn some<T>(&mut self, make: fn(&mut Samples) -> T) -> Option<T> {
        self.flag().then(|| make(self))
    }

    fn many<T>(&mut self, make: fn(&mut Samples) -> T) -> Vec<T> {
        let len = self.below(4);
        (0..len).map(|_| make(self)).collect()
    }

    fn text(&mut self) -> String {
        format!("text-{}", self.number())
    }

    fn slot(&mut self) -> Slot {
        Slot(self.next() as u16)
    }

    fn slots(&mut self) -> (Slot, Slot) {
        (self.slot(), self.slot())
    }

    fn expiry_command(&mut self) -> ExpiryCommand {
        match self.below(12) {
            0 => ExpiryCommand::Set,
            1 => ExpiryCommand::SetEx,
            2 => ExpiryCommand::PSetEx,
            3 => ExpiryCommand::Expire,
            4 => ExpiryCommand::PExpire,
            5 => ExpiryCommand::ExpireAt,
            _ => ExpiryCommand::PExpireAt,
        }
    }

    fn set(&mut self) -> Set {
        Set {
            key: self.bytes(),
            value: self.bytes(),
            expiry: match self.below(4) {
                0 => SetExpiry::Clear,
                1 => SetExpiry::Keep,
                2 => SetExpiry::AfterMs(self.number() as i64),
                _ => SetExpiry::AtMs(self.number() as i64),
            },
            condition: match self.below(3) {
                0 => None,
                1 => Some(SetCondition::IfAbsent),
                _ => Some(SetCondition::IfPresent),
            },
            get: self.flag(),
            command: self.expiry_command(),
        }
    }

    fn expire(&mut self) -> Expire {
        Expire {
            key: self.bytes(),
            at: match self.flag() {
                true => ExpireAt::AfterMs(self.number() as i64),
                false => ExpireAt::AtMs(self.number() as i64),
            },
            nx: self.flag(),
            xx: self.flag(),
            gt: self.flag(),
            lt: self.flag(),
            command: self.expiry_command(),
        }
    }

    fn op(&mut self) -> Op {
        match self.below(18) {
            0 => Op::Get { key: self.bytes() },
            1 => Op::Set(self.set()),
            2 => Op::Append { key: self.bytes(), value: self.bytes() },
            3 => Op::IncrBy { key: self.bytes(), by: self.number() as i64 },
            4 => Op::MGet { keys: self.many(Samples::bytes) },
            5 => Op::Del { keys: self.many(Samples::bytes) },
            6 => Op::Exists { keys: self.many(Samples::bytes) },
            7 => Op::Strlen { key: self.bytes() },
            8 => Op::Ttl { key: self.bytes(), unit: TimeUnit::Seconds },
            9 => Op::Expire(self.expire()),
            10 => Op::Persist { key: self.bytes() },
            11 => Op::Type { key: self.bytes() },
            12 => Op::FlushSlot,
            13 => Op::CountKeys,
            14 => Op::ListKeys { count: self.number() as u32 },
            15 => Op::NoRoom,
            16 => Op::Token(Box::new(Token {
                name: SessionId::of_token(u128::from(self.number())),
                hash: self.number(),
                window_ms: self.number() as u32,
                op: Op::GetDel { key: self.bytes() },
            })),
            _ => Op::GetDel { key: self.bytes() },
        }
    }

    fn outcome(&mut self) -> Outcome {
        match self.below(9) {
            0 => Outcome::Ok,
            1 => Outcome::Nil,
            2 => Outcome::Integer(self.number() as i64),
            3 => Outcome::Value(self.bytes()),
            4 => Outcome::Values(self.many(|samples| samples.some(Samples::bytes))),
            5 => Outcome::Keys(self.many(Samples::bytes)),
            6 => Outcome::Word(Word::String),
            7 => Outcome::Error(OpError::OutOfMemory),
            _ => Outcome::Error(OpError::InvalidExpireTime(self.expiry_command())),
        }
    }

    fn lane_request(&mut self) -> LaneRequest {
        LaneRequest {
            session: SessionId(u128::from(self.number()) << 64 | u128::from(self.number())),
            deadline: LogTime(self.number()),
            slot: self.slot(),
            seq: Seq(self.number()),
            acked: Seq(self.number()),
            op: self.op(),
        }
    }

    fn query(&mut self) -> GroupQuery {
        match self.below(7) {
            0 => GroupQuery::KeyCount,
            1 => GroupQuery::OccupiedSlots,
            2 => GroupQuery::SlotSizes { first: self.slot(), last: self.slot() },
            3 => GroupQuery::Master(MasterQuery::Config(ConfigNum(self.number()))),
            4 => GroupQuery::Master(MasterQuery::EndedMoves),
            5 => GroupQuery::SlotKeys { first: self.slot(), last: self.slot() },
            _ => GroupQuery::Master(MasterQuery::Plan(self.master_op())),
        }
    }

    fn config(&mut self) -> ClusterConfig {
        ClusterConfig {
            num: ConfigNum(self.number()),
            cluster_id: self.text(),
            nodes: self
                .many(|s| (NodeId(s.number()), NodeConfig { peer: s.text(), resp: s.text() }))
                .into_iter()
                .collect(),
            groups: self
                .many(|s| {
                    let voters = s.many(|s| NodeId(s.number()));
                    (GroupId(s.next() as u32), GroupConfig { voters, weight: s.next() as u32 })
                })
                .into_iter()
                .collect(),
            slots: self.many(|s| SlotRange {
                first: s.slot(),
                last: s.slot(),
                group: GroupId(s.next() as u32),
            }),
        }
    }

    fn order(&mut self) -> Move {
        Move {
            id: MoveId(self.number()),
            slot: self.slot(),
            from: self.some(|s| GroupId(s.next() as u32)),
            to: GroupId(self.next() as u32),
            epoch: SlotEpoch(self.number()),
        }
    }

    fn refusal(&mut self) -> RefuseReason {
        match self.below(4) {
            0 => RefuseReason::Cancelled,
            1 => RefuseReason::NoProgress,
            2 => RefuseReason::OutOfMemory,
            _ => RefuseReason::OutOfSpace,
        }
    }

    fn rows(&mut self) -> Chunk {
        Chunk {
            round: self.next() as u32,
            from: self.bytes(),
            clear: self.flag(),
            rows: self.many(|s| ChunkRow { name: s.bytes(), value: s.some(Samples::bytes) }),
            next: self.some(Samples::bytes),
            frozen: self.some(|s| FrozenSlot { floor: LogTime(s.number()), version: s.number() }),
        }
    }

    fn move_envelope(&mut self) -> MoveEnvelope {
        let outcome = match self.below(2) {
            0 => MoveOutcome::Activated,
            _ => MoveOutcome::Refused(self.refusal()),
        };
        let (order, round) = (self.order(), self.next() as u32);
        let message = match self.below(14) {
            0 => MoveMessage::Begin(order),
            1 => MoveMessage::Fetch { round, from: self.bytes() },
            2 => MoveMessage::Next { round, freeze: self.flag() },
            3 => MoveMessage::Ended { order, outcome },
            4 => {
                let behind = Behind { rows: self.number(), bytes: self.number() };
                MoveMessage::Chunk { chunk: self.rows(), behind }
            }
            5 => MoveMessage::Taken,
            6 => MoveMessage::Resolve(order),
            7 => MoveMessage::Settled,
            8 => MoveMessage::Report { ended: Ended { order, outcome } },
            9 => MoveMessage::Reported,
            10 => MoveMessage::InParts {
                ask: self.ask(),
                held: self.some(|s| Held { name: s.bytes(), bytes: s.number() }),
            },
            11 => {
                let behind = Behind { rows: self.number(), bytes: self.number() };
                MoveMessage::Part { chunk: self.rows(), part: self.part(), behind }
            }
            _ => MoveMessage::NotLeader { hint: self.some(Samples::node) },
        };
        let (from, to, slot) = (self.group(), self.group(), self.slot());
        MoveEnvelope { from, to, slot, id: MoveId(self.number()), serves: self.flag(), message }
    }

    fn part(&mut self) -> PartOf {
        PartOf { offset: self.number(), total: self.number() }
    }

    fn ask(&mut self) -> MoveAsk {
        let round = self.next() as u32;
        match self.below(3) {
            0 => MoveAsk::Begin(self.order()),
            1 => MoveAsk::Fetch { round, from: self.bytes() },
            _ => MoveAsk::Next { round, freeze: self.flag() },
        }
    }

    fn map_message(&mut self) -> MapMessage {
        let map = ClusterMap { config: self.config(), ..ClusterMap::default() };
        match self.below(4) {
            0 => MapMessage::Have(self.number()),
            3 => MapMessage::Members(self.group(), Box::new(self.group_members())),
            1 => MapMessage::Change(Box::new(map.diff(&ClusterMap::default()))),
            _ => MapMessage::Whole(Box::new(map)),
        }
    }

    fn move_step(&mut self) -> MoveStep {
        let (slot, id, round) = (self.slot(), MoveId(self.number()), self.next() as u32);
        match self.below(10) {
            0 => MoveStep::BeginExport(self.order()),
            1 => MoveStep::Rotate { slot, id, round },
            2 => MoveStep::Freeze { slot, id, round },
            3 => MoveStep::AbortExport { order: self.order(), reason: self.refusal() },
            4 => MoveStep::CompleteExport { slot, id },
            5 => MoveStep::BeginImport(self.order()),
            6 => MoveStep::Import { slot, id, chunk: self.rows() },
            7 => MoveStep::Refuse { order: self.order(), reason: self.refusal() },
            8 => MoveStep::ImportPart { slot, id, chunk: self.rows(), part: self.part() },
            _ => MoveStep::Forget { slot, id },
        }
    }

    fn item(&mut self) -> EntryItem {
        match self.below(6) {
            0 => EntryItem::Lane(self.lane_request()),
            1 => EntryItem::Group(self.query()),
            2 => EntryItem::Assign {
                config: ConfigNum(self.number()),
                ranges: self.many(Samples::slots),
            },
            3 => EntryItem::Bootstrap(self.config()),
            4 => EntryItem::Move(self.move_step()),
            _ => EntryItem::Master(MasterRequest {
                id: self.some(|s| RequestId(u128::from(s.next()) << 64 | u128::from(s.number()))),
                op: self.master_op(),
            }),
        }
    }

    fn node(&mut self) -> NodeId {
        NodeId(self.number())
    }

    fn group(&mut self) -> GroupId {
        GroupId(self.number() as u32)
    }

    fn master_op(&mut self) -> MasterOp {
        let (node, group, ranges) = (self.node(), self.group(), self.many(Samples::slots));
        match self.below(19) {
            0 => {
                let addresses = NodeConfig { peer: self.text(), resp: self.text() };
                MasterOp::AddNode { node, addresses }
            }
            1 => MasterOp::ForgetNode { node },
            2 => MasterOp::CreateGroup {
                group: self.some(Samples::group),
                voters: self.many(Samples::node),
                weight: self.next() as u32,
                rebalance: self.flag(),
            },
            3 => MasterOp::DrainGroup { group },
            4 => MasterOp::RemoveGroup { group },
            5 => MasterOp::MoveSlots { ranges, to: group },
            6 => MasterOp::AssignSlots { ranges, to: group },
            7 => MasterOp::UnassignSlots { ranges },
            8 => MasterOp::SetMembers { group, voters: self.many(Samples::node) },
            9 => MasterOp::SetWeight { group, weight: self.next() as u32 },
            10 => MasterOp::Rebalance { moves_max: self.some(|s| s.next() as u32) },
            11 => MasterOp::Pause,
            12 => MasterOp::Resume,
            13 => MasterOp::Cancel(match self.below(3) {
                0 => Cancel::All,
                1 => Cancel::Moves(self.many(|s| MoveId(s.number()))),
                _ => Cancel::Slots(ranges),
            }),
            14 => MasterOp::SetEvacuated { node, evacuated: self.flag() },
            15 => MasterOp::Report(MoveReport {
                id: MoveId(self.number()),
                slot: self.slot(),
                by: group,
                side: if self.flag() { Side::Source } else { Side::Destination },
                outcome: match self.below(5) {
                    0 => MoveOutcome::Activated,
                    _ => MoveOutcome::Refused(self.refusal()),
                },
            }),
            16 => MasterOp::ChangeMembers {
                group,
                add: self.many(Samples::node),
                remove: self.many(Samples::node),
            },
            17 => {
                let (new, group) = (self.node(), self.some(Samples::group));
                MasterOp::ReplaceNode { old: node, new, group }
            }
            _ => MasterOp::GroupConf { group, members: self.group_members() },
        }
    }

    fn group_members(&mut self) -> GroupMembers {
        GroupMembers {
            follows: ConfigNum(self.number()),
            step: match self.below(3) {
                0 => MemberStep::CatchingUp,
                1 => MemberStep::Joint,
                _ => MemberStep::Settled,
            },
            voters: self.many(Samples::node),
            learners: self.many(Samples::node),
        }
    }

    fn master_answer(&mut self) -> Result<MasterDone, MasterError> {
        match self.below(4) {
            0 => Err(MasterError::NoConfiguration),
            1 => Err(MasterError::Config(self.text())),
            2 => Err(MasterError::SlotMoving {
                slot: self.slot(),
                group: self.group(),
                id: MoveId(self.number()),
            }),
            _ => Ok(MasterDone {
                config: ConfigNum(self.number()),
                version: self.number(),
                group: self.some(Samples::group),
                count: self.next() as u32,
            }),
        }
    }

    pub(super) fn batch(&mut self) -> EntryBatch {
        EntryBatch {
            stamp: LogTime(self.number()),
            items: self.many(Samples::item),
            full: self.below(2) == 1,
        }
    }

    fn read_request(&mut self) -> ReadRequest {
        let after = |s: &mut Samples| After {
            session: SessionId(u128::from(s.next()) << 64 | u128::from(s.number())),
            deadline: LogTime(s.number()),
            seq: Seq(s.number()),
        };
        ReadRequest { slot: self.slot(), after: self.some(after), op: self.op() }
    }

    fn request(&mut self) -> Request {
        let body = match self.below(4) {
            0 => RequestBody::Lane(self.lane_request()),
            1 => RequestBody::Group(self.query()),
            2 => RequestBody::Read(self.read_request()),
            _ => RequestBody::LogTime,
        };
        Request { id: self.number(), body }
    }

    fn node_message(&mut self) -> ToNode {
        match self.below(3) {
            0 => ToNode::Requests(RequestBatch {
                group: GroupId(self.next() as u32),
                requests: self.many(Samples::request),
            }),
            1 => ToNode::View,
            _ => ToNode::Ping,
        }
    }

    fn answer(&mut self) -> Answer {
        let log_time = LogTime(self.number());
        match self.below(21) {
            0 => Answer::Done { outcome: self.outcome(), log_time },
            1 => Answer::Group(GroupAnswer::KeyCount { keys: self.number(), expires: 0 }),
            2 => Answer::Group(GroupAnswer::OccupiedSlots {
                owned: self.many(Samples::slots),
                occupied: self.many(Samples::slots),
            }),
            3 => Answer::LogTime(log_time),
            4 => Answer::NotLeader { hint: self.some(|s| NodeId(s.number())) },
            5 => Answer::Busy,
            6 => Answer::Lost,
            7 => Answer::Elsewhere,
            8 => Answer::Expired { log_time },
            9 => Answer::DeadlineTooFar { log_time },
            10 => Answer::Old,
            11 => Answer::Gap { last: Seq(self.number()) },
            12 => Answer::Window,
            13 => Answer::ReplyGone,
            14 => Answer::Invalid,
            15 => Answer::LanesFull,
            16 => Answer::Frozen,
            17 => Answer::Master(self.master_answer()),
            18 => Answer::Group(GroupAnswer::SlotKeys(self.many(|s| (s.slot(), s.number())))),
            20 => Answer::Group(GroupAnswer::SlotSizes(self.many(|s| {
                let (keys, bytes, writes) = (s.number(), s.number(), s.number());
                (s.slot(), SlotSize { keys, bytes, writes })
            }))),
            19 => Answer::Group(GroupAnswer::Master(Box::new(MasterReport::Config(self.config())))),
            _ => Answer::Moved { to: GroupId(self.next() as u32), epoch: SlotEpoch(self.number()) },
        }
    }

    fn router_message(&mut self) -> ToRouter {
        match self.below(3) {
            0 => ToRouter::Replies(self.many(|s| Reply { id: s.number(), answer: s.answer() })),
            1 => ToRouter::View(Box::new(ClusterView {
                map: ClusterMap { config: self.config(), ..ClusterMap::default() },
                leaders: self
                    .many(|s| {
                        let leader = s.some(|s| NodeId(s.number()));
                        let term = Term(s.number());
                        (GroupId(s.next() as u32), LeaderView { leader, term })
                    })
                    .into_iter()
                    .collect(),
            })),
            _ => ToRouter::Pong,
        }
    }

    fn id(&mut self) -> EntryId {
        EntryId { index: Index(self.number()), term: Term(self.number()) }
    }

    /// Entries as a leader could have them: contiguous, terms that rise up to its own.
    fn append_entries(&mut self, group: GroupId) -> AppendEntries {
        let prev = EntryId { index: Index(self.number() >> 1), term: Term(self.number() >> 2) };
        let mut id = prev;
        let count = self.below(4);
        let entries = (0..count)
            .map(|_| {
                let term = Term(id.term.0 + self.next() % 2);
                id = EntryId { index: id.index.next(), term };
                match self.flag() {
                    true => encode_entry(group, id, EntryKind::Empty, &[]),
                    false => encode_entry(group, id, EntryKind::Command, &self.bytes()),
                }
            })
            .collect();
        AppendEntries {
            term: Term(id.term.0 + self.next() % 2),
            prev,
            commit: Index(self.number()),
            stamp: self.number(),
            lease_ns: self.number(),
            entries,
        }
    }

    fn envelope(&mut self) -> RaftEnvelope {
        let group = GroupId(self.next() as u32);
        let term = Term(self.number());
        let (last, granted) = (self.id(), self.flag());
        let message = match self.below(13) {
            0 => Message::PreVote(PreVote { term, round: self.number(), last }),
            1 => Message::PreVoteReply(PreVoteReply {
                term,
                round: self.number(),
                granted,
                removed: granted.then(|| Index(self.number())),
            }),
            2 => Message::RequestVote(RequestVote { term, last, transfer: granted }),
            3 => Message::RequestVoteReply(RequestVoteReply { term, granted }),
            4 => Message::AppendEntriesReply(AppendEntriesReply {
                term,
                stamp: self.number(),
                promised_ns: self.number(),
                commit: Index(self.number()),
                outcome: match granted {
                    true => AppendOutcome::Accepted {
                        matched: Index(self.number()),
                        received: Index(self.number()),
                    },
                    false => AppendOutcome::Rejected { prev: Index(self.number()), hint: last },
                },
            }),
            5 => Message::Confirm(Confirm {
                term,
                seq: self.number(),
                stamp: self.number(),
                lease_ns: self.number(),
            }),
            6 => Message::ConfirmReply(ConfirmReply {
                term,
                seq: self.number(),
                stamp: self.number(),
                promised_ns: self.number(),
            }),
            7 => Message::ReadIndex(ReadIndex { term, seq: self.number() }),
            8 => Message::ReadIndexReply(ReadIndexReply {
                term,
                seq: self.number(),
                index: granted.then(|| Index(self.number())),
            }),
            9 => Message::TimeoutNow(TimeoutNow { term }),
            10 => Message::InstallSnapshot(InstallSnapshot {
                term,
                stamp: self.number(),
                lease_ns: self.number(),
                snapshot: Box::new(self.snapshot(last)),
            }),
            11 => Message::InstallSnapshotReply(InstallSnapshotReply {
                term,
                stamp: self.number(),
                promised_ns: self.number(),
                id: SnapshotId { at: last, hash: self.number() },
                offset: self.number(),
            }),
            _ => Message::AppendEntries(self.append_entries(group)),
        };
        RaftEnvelope { group, message }
    }

    fn snapshot(&mut self, at: EntryId) -> Snapshot {
        let mut nodes = || (0..self.below(4)).map(|_| NodeId(self.number())).collect();
        let (voters, outgoing, learners) = (nodes(), nodes(), nodes());
        let (goal, demoted) = (nodes(), nodes());
        let follows = self.number();
        let conf = Conf { voters, outgoing, learners, goal, demoted, follows };
        let (hash, conf) = (self.number(), (Index(self.number()), conf));
        Snapshot { id: SnapshotId { at, hash }, bytes: self.number(), conf }
    }

    pub(super) fn frame(&mut self) -> WireFrame {
        match self.below(10) {
            0 => WireFrame::Raft(self.envelope()),
            1 => WireFrame::ToNode(self.node_message()),
            2 => WireFrame::ToRouter(self.router_message()),
            3 => WireFrame::Heartbeat(self.heartbeat()),
            4 => WireFrame::Chunk(self.chunk()),
            5 => WireFrame::Move(self.move_envelope()),
            6 => WireFrame::Map(self.map_message()),
            7 => WireFrame::Witness(self.witness_message()),
            8 => WireFrame::ClusterPort(self.number() as u16),
            _ => WireFrame::Clock(LogTime(self.number())),
        }
    }

    fn witness_message(&mut self) -> WitnessMessage {
        let (group, term) = (GroupId(self.number() as u32), Term(self.number()));
        let promises = BTreeMap::from([(group, Promise { term, index: Index(self.number()) })]);
        match self.below(2) {
            0 => WitnessMessage::Began { epoch: self.number(), found: promises },
            _ => WitnessMessage::Promised { epoch: self.number(), more: promises },
        }
    }

    fn chunk(&mut self) -> SnapshotChunk {
        let at = EntryId { index: Index(self.number()), term: Term(self.number()) };
        let (group, offset) = (GroupId(self.number() as u32), self.number());
        let bytes = Bytes::from(vec![self.number() as u8; 1 + self.below(40)]);
        SnapshotChunk { group, id: SnapshotId { at, hash: self.number() }, offset, bytes }
    }

    fn heartbeat(&mut self) -> Heartbeat {
        let pairs = |sample: &mut Self| {
            let count = sample.below(4);
            (0..count).map(|_| (GroupId(sample.number() as u32), Term(sample.number()))).collect()
        };
        Heartbeat {
            epoch: self.number(),
            stamp: self.number(),
            echo: self.number(),
            claims: Claims { count: self.number() as u32, hash: self.number() },
            sync_age_ns: self.number(),
            beliefs: self.below(2).eq(&0).then(|| BeliefsPage {
                from: GroupId(self.number() as u32),
                through: GroupId(self.number() as u32),
                pairs: pairs(self),
            }),
            disowned: pairs(self),
        }
    }
}

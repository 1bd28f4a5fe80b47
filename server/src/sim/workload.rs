//! What clients and the administrator of a run want.

use super::history::Ask;
use super::random::Random;
use bytes::Bytes;
use shard_core::op::{ExpiryCommand, Op, Set, SetExpiry};
use shard_core::shardmaster::{Cancel, MasterOp};
use shard_core::slot::{Slot, hash_slot};
use shard_core::{GroupId, NodeId};

/// Hash tags, each a slot of its own.
pub const TAGS: [&str; 5] = ["a", "b", "c", "d", "e"];
/// Requests of one key, before another one takes its place: an order of few is found soon.
const PER_KEY: u64 = 30;
/// Kinds of keys: appended to, set and deleted, counted.
const KINDS: u64 = 3;

/// Draws requests.
#[derive(Debug, Default)]
pub struct Workload {
    asked: [[u64; KINDS as usize]; TAGS.len()],
    tokens: u64,
}

/// The slots of the tags.
pub fn slots() -> Vec<Slot> {
    TAGS.iter().map(|tag| hash_slot(tag.as_bytes())).collect()
}

impl Workload {
    /// The next request of a connection.
    pub fn ask(&mut self, random: &mut Random, connection: u64) -> (String, Ask) {
        let tag = random.below(TAGS.len() as u64) as usize;
        let kind = random.below(KINDS);
        let asked = &mut self.asked[tag][kind as usize];
        *asked += 1;
        let key = format!("{{{}}}{kind}.{}", TAGS[tag], *asked / PER_KEY);
        self.tokens += 1;
        let token = format!("{connection}.{};", self.tokens);
        let ask = match (kind, random.below(10)) {
            (0, 0..=5) => Ask::Append(token),
            (1, 0..=2) => Ask::Set(token),
            (1, 3) => Ask::Append(token),
            (1, 4..=5) => Ask::Del,
            (2, 0..=6) => Ask::Incr,
            (2, 7) => Ask::Del,
            _ => Ask::Get,
        };
        (key, ask)
    }

    /// What the administrator wants next, of groups 1 to `groups` and nodes 1 to `nodes`.
    pub fn administer(&mut self, random: &mut Random, groups: u64, nodes: u64) -> MasterOp {
        let group = GroupId(random.between(1, groups) as u32);
        match random.below(24) {
            20..=23 => Self::members(random, groups, nodes),
            0 => MasterOp::Rebalance { moves_max: Some(random.between(1, 4) as u32) },
            1 => MasterOp::Pause,
            2 | 3 => MasterOp::Resume,
            4 | 5 => MasterOp::Cancel(Cancel::All),
            6 => MasterOp::Cancel(Cancel::Slots(slots().into_iter().map(|s| (s, s)).collect())),
            _ => {
                let all = slots();
                let mut ranges = vec![all[random.below(all.len() as u64) as usize]];
                ranges.push(all[random.below(all.len() as u64) as usize]);
                ranges.sort();
                ranges.dedup();
                let ranges = ranges.into_iter().map(|slot| (slot, slot)).collect();
                MasterOp::MoveSlots { ranges, to: group }
            }
        }
    }

    /// A change of who is in a group, the shardmaster's among them.
    fn members(random: &mut Random, groups: u64, nodes: u64) -> MasterOp {
        let group = GroupId(random.below(groups + 1) as u32);
        let (one, other) = (NodeId(random.between(1, nodes)), NodeId(random.between(1, nodes)));
        match random.below(4) {
            0 => MasterOp::ReplaceNode { old: one, new: other, group: Some(group) },
            1 => MasterOp::ChangeMembers { group, add: Vec::new(), remove: vec![one] },
            2 => MasterOp::ChangeMembers { group, add: vec![one, other], remove: Vec::new() },
            _ => {
                let evacuated = random.below(2) == 0;
                MasterOp::SetEvacuated { node: one, evacuated }
            }
        }
    }
}

/// The op of a request.
pub fn op(key: &str, ask: &Ask) -> Op {
    let key = Bytes::copy_from_slice(key.as_bytes());
    match ask {
        Ask::Get => Op::Get { key },
        Ask::Set(value) => Op::Set(Set {
            key,
            value: value.clone().into(),
            expiry: SetExpiry::Clear,
            condition: None,
            get: false,
            command: ExpiryCommand::Set,
        }),
        Ask::Append(value) => Op::Append { key, value: value.clone().into() },
        Ask::Incr => Op::IncrBy { key, by: 1 },
        Ask::Del => Op::Del { keys: vec![key] },
    }
}

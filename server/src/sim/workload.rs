//! What clients and the administrator of a run want.

use super::history::Ask;
use super::random::Random;
use bytes::Bytes;
use shard_core::op::{ExpiryCommand, Op, Set, SetExpiry, Token};
use shard_core::session::SessionId;
use shard_core::shardmaster::{Cancel, MasterOp};
use shard_core::slot::{Slot, hash_slot};
use shard_core::{GroupId, NodeId};

/// Hash tags, each a slot of its own.
pub const TAGS: [&str; 5] = ["a", "b", "c", "d", "e"];
/// Requests of one key, before another one takes its place: an order of few is found soon.
const PER_KEY: u64 = 30;
/// Kinds of keys: appended to, set and deleted, counted, appended to under tokens.
const KINDS: u64 = 4;
/// Of so many writes with a token any may be sent again.
const NAMED_MAX: usize = 6;
/// Stands in a value for [`LARGE_BYTES`] of filling.
const LARGE: char = '~';
/// A value that has so many goes from group to group in parts.
const LARGE_BYTES: usize = 600_000;
/// Of a thousand values that are set so many are large.
const LARGE_PER_MILLE: u64 = 100;
/// A token is remembered for longer than a run takes, milliseconds.
const TOKEN_MS: u32 = 660_000;

/// Draws requests.
#[derive(Debug, Default)]
pub struct Workload {
    asked: [[u64; KINDS as usize]; TAGS.len()],
    tokens: u64,
    /// Writes with a token, the newest last.
    named: Vec<(String, Ask)>,
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
        if kind == 3
            && random.below(2) == 0
            && let Some(last) = self.named.len().checked_sub(1)
        {
            // Whoever sent it first, through whichever router, answered or not.
            return self.named[random.between(0, last as u64) as usize].clone();
        }
        let asked = &mut self.asked[tag][kind as usize];
        *asked += 1;
        let key = format!("{{{}}}{kind}.{}", TAGS[tag], *asked / PER_KEY);
        self.tokens += 1;
        let token = format!("{connection}.{};", self.tokens);
        let ask = match (kind, random.below(10)) {
            (0, 0..=5) => Ask::Append(token),
            (1, 0..=2) if random.chance(LARGE_PER_MILLE) => Ask::Set(format!("{token}{LARGE}")),
            (1, 0..=2) => Ask::Set(token),
            (1, 3) => Ask::Append(token),
            (1, 4..=5) => Ask::Del,
            (2, 0..=6) => Ask::Incr,
            (2, 7) => Ask::Del,
            (3, 0..=7) => Ask::Named(self.tokens, token),
            _ => Ask::Get,
        };
        if matches!(ask, Ask::Named(..)) {
            self.named.push((key.clone(), ask.clone()));
            self.named.drain(..self.named.len().saturating_sub(NAMED_MAX));
        }
        (key, ask)
    }

    /// What the administrator wants next, of these groups, the shardmaster first among them, and nodes 1 to
    /// `nodes`; perhaps another group up to `last`. Only with `drains` are
    /// slots given out by weight: thousands that nobody ever had are then among them.
    pub fn administer(
        &mut self,
        random: &mut Random,
        groups: &[GroupId],
        nodes: u64,
        last: u32,
        drains: bool,
    ) -> MasterOp {
        let group = groups[random.between(1, groups.len() as u64 - 1) as usize];
        match random.below(27) {
            24..=26 => Self::groups(random, group, nodes, last, drains),
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
    fn members(random: &mut Random, groups: &[GroupId], nodes: u64) -> MasterOp {
        let group = groups[random.below(groups.len() as u64) as usize];
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

    /// A group that comes, or that gives its slots away and goes.
    fn groups(
        random: &mut Random,
        group: GroupId,
        nodes: u64,
        last: u32,
        drains: bool,
    ) -> MasterOp {
        match random.below(6) {
            0 | 1 => {
                // An id that was used is refused, and no run has more than these.
                let group = Some(GroupId(random.between(3, last.into()) as u32));
                let first = random.between(1, nodes);
                let voters = (first..first + 3).map(|id| NodeId((id - 1) % nodes + 1)).collect();
                MasterOp::CreateGroup { group, voters, weight: 1, rebalance: drains }
            }
            2 if drains => MasterOp::DrainGroup { group },
            2 => {
                let ranges = slots().into_iter().map(|slot| (slot, slot)).collect();
                MasterOp::MoveSlots { ranges, to: group }
            }
            3 => MasterOp::SetWeight { group, weight: random.between(1, 3) as u32 },
            _ => MasterOp::RemoveGroup { group },
        }
    }
}

fn filling() -> String {
    "x".repeat(LARGE_BYTES)
}

/// A value as it is set.
fn filled(value: &str) -> String {
    value.replace(LARGE, &filling())
}

/// A value as it was drawn, of what was read: with another filling it is none that was.
pub fn as_drawn(value: &str) -> String {
    match value.len() < LARGE_BYTES {
        true => value.to_owned(),
        false => value.replace(&filling(), &LARGE.to_string()),
    }
}

/// Bytes that a value has which was drawn so.
pub fn length(value: &str) -> usize {
    value.len() + value.matches(LARGE).count() * (LARGE_BYTES - LARGE.len_utf8())
}

/// The op of a request.
pub fn op(key: &str, ask: &Ask) -> Op {
    let key = Bytes::copy_from_slice(key.as_bytes());
    match ask {
        Ask::Get => Op::Get { key },
        Ask::Set(value) => Op::Set(Set {
            key,
            value: filled(value).into(),
            expiry: SetExpiry::Clear,
            condition: None,
            get: false,
            command: ExpiryCommand::Set,
        }),
        Ask::Append(value) => Op::Append { key, value: value.clone().into() },
        Ask::Named(number, value) => Op::Token(Box::new(Token {
            name: SessionId::of_token((*number).into()),
            hash: 1,
            window_ms: TOKEN_MS,
            op: Op::Append { key, value: value.clone().into() },
        })),
        Ask::Incr => Op::IncrBy { key, by: 1 },
        Ask::Del => Op::Del { keys: vec![key] },
    }
}

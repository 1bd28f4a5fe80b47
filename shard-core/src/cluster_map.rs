//! What nodes and routers subscribe to: where slots are to be, who owns them now, and the moves from
//! the one to the other.
//!
//! The shardmaster holds it and pushes each change as a [`MapChange`], since a map whose slots are in many
//! pieces has about a hundred kilobytes. Whoever missed one asks for the whole map.

mod change;
mod members;
mod owners;

pub use self::change::MapChange;
pub(crate) use self::members::want;
pub use self::members::{GroupMembers, MemberStep, Membership};
pub use self::owners::{OwnerRange, Owners};

use crate::cluster_config::{
    ClusterConfig, ConfigError, ConfigNum, GROUPS_MAX, NODES_MAX, SHARDMASTER, SlotRange,
    VOTERS_MAX,
};
use crate::moves::{Move, MoveId, MoveOutcome, RefuseReason, SlotEpoch};
use crate::session::LogTime;
use crate::slot::{SLOTS, Slot};
use raft_core::types::{GroupId, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Unfinished moves from one group to another, at most: a group that does not answer holds up so many.
pub const MOVES_PER_PAIR_MAX: u32 = 16;
/// Moves of which one group has not reported the end, at most: one that is gone for good takes up so many
/// and no more, also when they ended by what the other side reported.
pub const MOVES_PER_GROUP_MAX: u32 = 256;
/// Unfinished moves, at most. More wait until one of these has ended.
pub const MOVES_MAX: u32 = 4096;
/// Moves that a map names, at most: of each, some group has not reported the end.
const RECORDS_MAX: usize = MOVES_PER_GROUP_MAX as usize * GROUPS_MAX;

/// What the shardmaster says of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterMap {
    /// Raised by each entry that changes anything in it. Of two maps the higher one counts.
    pub version: u64,
    /// The newest configuration: where slots are to be.
    pub config: ClusterConfig,
    /// Where slots are.
    pub owners: Owners,
    /// The moves that have not ended, and those that have and of which a report is missing.
    pub moves: BTreeMap<MoveId, MoveRecord>,
    /// Slots that stay where they are for now, though they are to be elsewhere.
    pub waiting: BTreeMap<Slot, Waiting>,
    /// Whether no move is begun until an administrator says so.
    pub paused: bool,
    /// Nodes that shall lead nothing, for somebody works on them.
    pub evacuated: BTreeSet<NodeId>,
    /// The voters that each group began with, whatever its members are now: its replicas agree on their
    /// first configuration by them. They follow from the configurations and never change.
    pub founders: BTreeMap<GroupId, Vec<NodeId>>,
    /// Of groups whose voters were changed since they were made: which configuration wants them, and how far
    /// the group is.
    pub members: BTreeMap<GroupId, Membership>,
}

/// A move and how far it is known to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveRecord {
    /// What was ordered.
    pub order: Move,
    /// When, in the shardmaster's log time.
    pub ordered: LogTime,
    /// An administrator wants it given up: its destination refuses it unless it has the slot already.
    pub cancel: bool,
    /// How it ended, once one side has said so, and when that was.
    pub ended: Option<(MoveOutcome, LogTime)>,
    /// Its source has said so, or there is none.
    pub source_reported: bool,
    /// Its destination has said so.
    pub destination_reported: bool,
}

impl MoveRecord {
    /// One that has just been ordered.
    pub fn new(order: Move, ordered: LogTime) -> MoveRecord {
        MoveRecord {
            order,
            ordered,
            cancel: false,
            ended: None,
            source_reported: order.from.is_none(),
            destination_reported: false,
        }
    }

    /// Whether both sides have said how it ended: nobody will ask for it any more.
    pub fn is_reported(&self) -> bool {
        self.source_reported && self.destination_reported
    }

    /// The groups that have not said yet how it ended.
    pub fn owing(&self) -> impl Iterator<Item = GroupId> {
        let source = self.order.from.filter(|_| !self.source_reported);
        let destination = Some(self.order.to).filter(|_| !self.destination_reported);
        source.into_iter().chain(destination)
    }
}

/// Why a slot is not on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// The reason of the last refusal, or that an administrator gave the move up.
    pub reason: RefuseReason,
    /// How often in a row it was refused.
    pub refusals: u32,
    /// From which log time of the shardmaster on it is ordered again; None: not before an administrator
    /// says so.
    pub until: Option<LogTime>,
}

/// Why bytes are no map, or a change does not fit one. Whoever sent them gets no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// The change is of another version than the map is.
    #[error("the change is one of version {of}, and the map has version {has}")]
    Version {
        /// What the change is to be applied to.
        of: u64,
        /// What there is.
        has: u64,
    },
    /// The configuration makes no sense.
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    /// More of something than there can be.
    #[error("{count} {what} where {max} are allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// The bound.
        max: usize,
    },
    /// No run of slots, or an owner that cannot be one.
    #[error("slots {first} to {last} cannot be owned by group {group} with epoch {epoch}")]
    OwnerRange {
        /// First slot.
        first: Slot,
        /// Last slot.
        last: Slot,
        /// Their owner.
        group: GroupId,
        /// Its epoch.
        epoch: SlotEpoch,
    },
    /// Ranges that overlap, or that are one.
    #[error("the owners are not in order, joined and apart at slot {0}")]
    OwnerOrder(Slot),
    /// An owner or a side of a move that is no group for slots.
    #[error("slot {slot} names group {group}, which is no group for slots")]
    Group {
        /// The slot.
        slot: Slot,
        /// The group.
        group: GroupId,
    },
    /// A move that nobody can have ordered.
    #[error("move {0} cannot be")]
    Move(MoveId),
    /// Two moves of one slot under way.
    #[error("slot {0} has two unfinished moves")]
    TwoMoves(Slot),
    /// Something waits that is no slot.
    #[error("slot {0} cannot wait")]
    Waiting(Slot),
    /// Founders of a group that there is not, or that no group can have.
    #[error("group {0} cannot have begun with these voters")]
    Founders(GroupId),
    /// Members of a group that there is not, or that no group can have.
    #[error("group {0} cannot have these members")]
    Members(GroupId),
    /// A node that there is not.
    #[error("node {0} is evacuated and not known")]
    Evacuated(NodeId),
}

impl ClusterMap {
    /// What a cluster begins with: every slot is where its first configuration says.
    pub fn of_config(config: &ClusterConfig) -> ClusterMap {
        let mut map = ClusterMap { config: config.clone(), ..ClusterMap::default() };
        for SlotRange { first, last, group } in config.slots.iter().copied() {
            map.owners.set_range(OwnerRange { first, last, group, epoch: SlotEpoch(1) });
        }
        found(&mut map.founders, config);
        map
    }

    /// The move of a slot that has not ended. There is one at most.
    pub fn move_of(&self, slot: Slot) -> Option<&MoveRecord> {
        self.unfinished().find(|record| record.order.slot == slot)
    }

    /// The moves that have not ended, in the order of their numbers.
    pub fn unfinished(&self) -> impl Iterator<Item = &MoveRecord> {
        self.moves.values().filter(|record| record.ended.is_none())
    }

    /// Whether it differs from another one in more than moves and what they have brought about.
    pub(crate) fn differs_besides_moves(&self, other: &ClusterMap) -> bool {
        let ClusterMap { version: _, owners: _, moves: _, config, waiting, .. } = self;
        let ClusterMap { paused, evacuated, founders, members, .. } = self;
        (*paused, evacuated, founders) != (other.paused, &other.evacuated, &other.founders)
            || (config, waiting, members) != (&other.config, &other.waiting, &other.members)
    }

    /// Whether the map makes sense, whoever sent it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), MapError> {
        // What was there before the first has nothing to check.
        if self.config.num != ConfigNum(0) || self.config != ClusterConfig::default() {
            self.config.check()?;
        }
        let bounds = [
            ("nodes", self.config.nodes.len(), NODES_MAX),
            ("groups", self.config.groups.len(), GROUPS_MAX + 1),
            ("moves", self.moves.len(), RECORDS_MAX),
        ];
        for (what, count, max) in bounds {
            if count > max {
                return Err(MapError::TooMany { what, count, max });
            }
        }
        self.owners.check()?;
        self.owners
            .ranges()
            .iter()
            .try_for_each(|range| self.is_group(range.first, range.group))?;
        self.check_moves()?;
        if let Some(slot) = self.waiting.keys().find(|slot| slot.0 >= SLOTS) {
            return Err(MapError::Waiting(*slot));
        }
        let impossible = |(group, voters): &(&GroupId, &Vec<NodeId>)| {
            let fits = (1..=VOTERS_MAX).contains(&voters.len()) && voters[0] != NodeId(0);
            !fits || !voters.is_sorted_by(|a, b| a < b) || !self.config.groups.contains_key(group)
        };
        if let Some((group, _)) = self.founders.iter().find(impossible) {
            return Err(MapError::Founders(*group));
        }
        self.check_members()?;
        match self.evacuated.iter().find(|node| !self.config.nodes.contains_key(node)) {
            Some(node) => Err(MapError::Evacuated(*node)),
            None => Ok(()),
        }
    }

    fn check_moves(&self) -> Result<(), MapError> {
        let mut moving = BTreeSet::new();
        for (id, record) in &self.moves {
            let Move { slot, from, to, epoch, .. } = record.order;
            if slot.0 >= SLOTS || *id != record.order.id || *id == MoveId(0) || from == Some(to) {
                return Err(MapError::Move(*id));
            }
            for group in from.into_iter().chain([to]) {
                self.is_group(slot, group)?;
            }
            if record.ended.is_some() {
                continue;
            }
            if !moving.insert(slot) {
                return Err(MapError::TwoMoves(slot));
            }
            // It is to be the next change of owner, from the owner there is.
            let owner = self.owners.of(slot);
            let next = owner.map_or(0, |(_, epoch)| epoch.0).checked_add(1);
            if from != owner.map(|(group, _)| group) || Some(epoch.0) != next {
                return Err(MapError::Move(*id));
            }
        }
        Ok(())
    }

    fn is_group(&self, slot: Slot, group: GroupId) -> Result<(), MapError> {
        match group != SHARDMASTER && self.config.groups.contains_key(&group) {
            true => Ok(()),
            false => Err(MapError::Group { slot, group }),
        }
    }
}

/// Takes in the next configuration: the voters of groups that are new in it are their founders.
pub(crate) fn found(founders: &mut BTreeMap<GroupId, Vec<NodeId>>, config: &ClusterConfig) {
    founders.retain(|group, _| config.groups.contains_key(group));
    for (group, seats) in &config.groups {
        founders.entry(*group).or_insert_with(|| seats.voters.clone());
    }
}

#[cfg(test)]
mod tests;

//! What an administrator's wish makes of the newest configuration: decided without changing anything, so
//! that a refusal changes nothing and a dry run does nothing else.

use super::Shardmaster;
use super::op::{ADDRESS_BYTES_MAX, MasterError, MasterOp, WEIGHT_MAX};
use crate::cluster_config::{
    ClusterConfig, GROUPS_MAX, GroupConfig, NODES_MAX, NodeConfig, SHARDMASTER, SlotRange,
    ranges_of,
};
use crate::rebalance::rebalance;
use crate::slot::{SLOTS, Slot};
use raft_core::types::{GroupId, NodeId};
use std::collections::BTreeMap;

/// What is to be.
#[derive(Debug)]
pub(super) struct Draft {
    /// With the number of the one before it; equal to it if nothing changes.
    pub(super) config: ClusterConfig,
    /// The group that is made.
    pub(super) group: Option<GroupId>,
    /// Slots whose moves may have been given up and are wanted again.
    pub(super) wanted: Wanted,
}

/// Slots that an administrator has spoken of.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Nothing,
    Slots(Vec<(Slot, Slot)>),
    All,
}

type Drafted = Result<Draft, MasterError>;

impl Shardmaster {
    /// What the op makes of the newest configuration; None for ops that leave it alone.
    pub(super) fn draft(&self, op: &MasterOp) -> Option<Drafted> {
        Some(match op {
            MasterOp::AddNode { node, addresses } => self.add_node(*node, addresses),
            MasterOp::ForgetNode { node } => self.forget_node(*node),
            MasterOp::CreateGroup { group, voters, weight, rebalance } => {
                self.create_group(*group, voters, *weight, *rebalance)
            }
            MasterOp::DrainGroup { group } => self.drain_group(*group),
            MasterOp::RemoveGroup { group } => self.remove_group(*group),
            MasterOp::MoveSlots { ranges, to } => self.move_slots(ranges, *to),
            MasterOp::AssignSlots { ranges, to } => self.assign_slots(ranges, *to),
            MasterOp::UnassignSlots { ranges } => self.unassign_slots(ranges),
            MasterOp::SetMembers { group, voters } => self.set_members(*group, voters),
            MasterOp::ChangeMembers { group, add, remove } => {
                self.change_members(*group, add, remove)
            }
            MasterOp::ReplaceNode { old, new, group } => self.replace_node(*old, *new, *group),
            MasterOp::SetWeight { group, weight } => self.set_weight(*group, *weight),
            MasterOp::Rebalance { moves_max } => self.rebalanced(*moves_max),
            MasterOp::Pause
            | MasterOp::Resume
            | MasterOp::Cancel(_)
            | MasterOp::SetEvacuated { .. }
            | MasterOp::Report(_)
            | MasterOp::GroupConf { .. } => return None,
        })
    }

    fn add_node(&self, node: NodeId, addresses: &NodeConfig) -> Drafted {
        let longest = addresses.peer.len().max(addresses.resp.len());
        if longest > ADDRESS_BYTES_MAX {
            return Err(MasterError::AddressLong { node, bytes: longest as u32 });
        }
        let mut config = self.map.config.clone();
        config.nodes.insert(node, addresses.clone());
        if config.nodes.len() > NODES_MAX {
            return Err(MasterError::TooManyNodes);
        }
        config.check().map_err(|error| MasterError::Config(error.to_string()))?;
        Ok(Draft::of(config))
    }

    fn create_group(
        &self,
        group: Option<GroupId>,
        voters: &[NodeId],
        weight: u32,
        rebalance: bool,
    ) -> Drafted {
        let mut config = self.map.config.clone();
        let used = |group: &GroupId| config.groups.contains_key(group) || self.is_retired(*group);
        let group = match group {
            Some(SHARDMASTER) => return Err(MasterError::Shardmaster),
            Some(group) if config.groups.contains_key(&group) => {
                return Err(MasterError::GroupExists(group));
            }
            Some(group) if self.is_retired(group) => return Err(MasterError::GroupUsed(group)),
            Some(group) => group,
            // There are more ids than groups can ever have been.
            None => (1..).map(GroupId).find(|group| !used(group)).expect("ids are left"),
        };
        if config.groups.len() > GROUPS_MAX {
            return Err(MasterError::TooManyGroups);
        }
        let voters = self.voters(group, voters)?;
        check_weight(weight)?;
        config.groups.insert(group, GroupConfig { voters, weight });
        let mut wanted = Wanted::Nothing;
        if rebalance {
            balance(&mut config, usize::MAX);
            wanted = Wanted::All;
        }
        Ok(Draft { config, group: Some(group), wanted })
    }

    fn drain_group(&self, group: GroupId) -> Drafted {
        let mut config = self.map.config.clone();
        let seats = shard_group(&mut config, group)?;
        seats.weight = 0;
        if weights(&config).values().all(|weight| *weight == 0) {
            return Err(MasterError::LastGroup(group));
        }
        balance(&mut config, usize::MAX);
        Ok(Draft { config, group: None, wanted: Wanted::All })
    }

    fn remove_group(&self, group: GroupId) -> Drafted {
        let mut config = self.map.config.clone();
        shard_group(&mut config, group)?;
        let slots = config.ranges_of(group).map(SlotRange::count).sum();
        if slots > 0 {
            return Err(MasterError::GroupAssigned { group, slots });
        }
        let slots = self.map.owners.count(group);
        if slots > 0 {
            return Err(MasterError::GroupOwns { group, slots });
        }
        let names = |order: &crate::moves::Move| order.from == Some(group) || order.to == group;
        let moves = self.map.moves.values().filter(|record| names(&record.order)).count() as u32;
        if moves > 0 {
            return Err(MasterError::GroupMoves { group, moves });
        }
        config.groups.remove(&group);
        if config.shard_groups().next().is_none() {
            return Err(MasterError::LastGroup(group));
        }
        Ok(Draft::of(config))
    }

    fn move_slots(&self, ranges: &[(Slot, Slot)], to: GroupId) -> Drafted {
        let mut config = self.map.config.clone();
        let slots = slots_of(ranges)?;
        check_target(&mut config, to)?;
        let mut table = config.slot_table();
        for slot in slots {
            let group = &mut table[usize::from(slot.0)];
            match group {
                Some(group) => *group = to,
                None => return Err(MasterError::SlotNobodys(slot)),
            }
        }
        config.slots = ranges_of(&table);
        Ok(Draft { config, group: None, wanted: Wanted::Slots(ranges.to_vec()) })
    }

    fn assign_slots(&self, ranges: &[(Slot, Slot)], to: GroupId) -> Drafted {
        let mut config = self.map.config.clone();
        let slots = slots_of(ranges)?;
        check_target(&mut config, to)?;
        let mut table = config.slot_table();
        for slot in slots {
            let group = &mut table[usize::from(slot.0)];
            if group.is_some() || self.map.owners.of(slot).is_some() {
                return Err(MasterError::SlotBusy(slot));
            }
            *group = Some(to);
        }
        config.slots = ranges_of(&table);
        Ok(Draft { config, group: None, wanted: Wanted::Slots(ranges.to_vec()) })
    }

    fn unassign_slots(&self, ranges: &[(Slot, Slot)]) -> Drafted {
        let mut config = self.map.config.clone();
        let mut table = config.slot_table();
        for slot in slots_of(ranges)? {
            if let Some((group, _)) = self.map.owners.of(slot) {
                return Err(MasterError::SlotOwned { slot, group });
            }
            if let Some(record) = self.plan.running(slot).and_then(|id| self.map.moves.get(&id)) {
                let (group, id) = (record.order.to, record.order.id);
                return Err(MasterError::SlotMoving { slot, group, id });
            }
            if table[usize::from(slot.0)].take().is_none() {
                return Err(MasterError::SlotUnassigned(slot));
            }
        }
        config.slots = ranges_of(&table);
        Ok(Draft::of(config))
    }

    fn set_weight(&self, group: GroupId, weight: u32) -> Drafted {
        let mut config = self.map.config.clone();
        check_weight(weight)?;
        shard_group(&mut config, group)?.weight = weight;
        Ok(Draft::of(config))
    }

    fn rebalanced(&self, moves_max: Option<u32>) -> Drafted {
        let mut config = self.map.config.clone();
        if moves_max == Some(0) {
            return Err(MasterError::NoMoves);
        }
        if let Some(group) = config.shard_groups().next()
            && weights(&config).values().all(|weight| *weight == 0)
        {
            return Err(MasterError::Drained(group));
        }
        balance(&mut config, moves_max.map_or(usize::MAX, |max| max as usize));
        Ok(Draft { config, group: None, wanted: Wanted::All })
    }
}

impl Draft {
    pub(super) fn of(config: ClusterConfig) -> Draft {
        Draft { config, group: None, wanted: Wanted::Nothing }
    }
}

fn check_weight(weight: u32) -> Result<(), MasterError> {
    match (1..=WEIGHT_MAX).contains(&weight) {
        true => Ok(()),
        false => Err(MasterError::Weight(weight)),
    }
}

fn shard_group(
    config: &mut ClusterConfig,
    group: GroupId,
) -> Result<&mut GroupConfig, MasterError> {
    match group {
        SHARDMASTER => Err(MasterError::Shardmaster),
        _ => config.groups.get_mut(&group).ok_or(MasterError::UnknownGroup(group)),
    }
}

/// Whether slots can be given to a group.
fn check_target(config: &mut ClusterConfig, to: GroupId) -> Result<(), MasterError> {
    match shard_group(config, to)?.weight {
        0 => Err(MasterError::Drained(to)),
        _ => Ok(()),
    }
}

/// The weight of every group that could own slots.
pub(super) fn weights(config: &ClusterConfig) -> BTreeMap<GroupId, u32> {
    let groups = config.groups.iter().filter(|(group, _)| **group != SHARDMASTER);
    groups.map(|(group, seats)| (*group, seats.weight)).collect()
}

/// Balances, or comes nearer to it by so many slots.
fn balance(config: &mut ClusterConfig, changes_max: usize) {
    let mut table = config.slot_table();
    for change in rebalance(&table, &weights(config)).into_iter().take(changes_max) {
        table[usize::from(change.slot.0)] = Some(change.to);
    }
    config.slots = ranges_of(&table);
}

/// The slots of ranges, each named once.
pub(super) fn slots_of(ranges: &[(Slot, Slot)]) -> Result<Vec<Slot>, MasterError> {
    let mut named = vec![false; usize::from(SLOTS)];
    let mut slots = Vec::new();
    for (first, last) in ranges {
        if first.0 >= SLOTS || last.0 >= SLOTS {
            return Err(MasterError::SlotRange);
        }
        if first > last {
            return Err(MasterError::RangeOrder(*first, *last));
        }
        for number in first.0..=last.0 {
            if std::mem::replace(&mut named[usize::from(number)], true) {
                return Err(MasterError::SlotTwice(Slot(number)));
            }
            slots.push(Slot(number));
        }
    }
    match slots.is_empty() {
        true => Err(MasterError::NoSlots),
        false => Ok(slots),
    }
}

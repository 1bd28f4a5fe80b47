//! Who owns which slot and where each group lives: the numbered configurations.

use crate::slot::{SLOTS, Slot};
use raft_core::id_type;
use raft_core::types::{GroupId, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

id_type! {
    /// The number of a configuration. 0: no groups, every slot unassigned.
    ConfigNum(u64)
}

/// The group that keeps the configuration itself.
pub const SHARDMASTER: GroupId = GroupId(0);

/// One numbered configuration (the target of `design.md` 8; in this version also the owners, since
/// slots do not move yet).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterConfig {
    /// Its number.
    pub num: ConfigNum,
    /// Names the cluster; peers of another one are refused.
    pub cluster_id: String,
    /// Every known node.
    pub nodes: BTreeMap<NodeId, NodeConfig>,
    /// Every group, the shardmaster (0) among them.
    pub groups: BTreeMap<GroupId, GroupConfig>,
    /// Which group a slot is assigned to, as ranges in slot order; what no range covers has no owner.
    pub slots: Vec<SlotRange>,
}

/// A node's addresses, as `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeConfig {
    /// Where peers and routers connect.
    pub peer: String,
    /// Where clients connect.
    pub resp: String,
}

/// A group's seats.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupConfig {
    /// Voters, in id order.
    pub voters: Vec<NodeId>,
    /// Its share of the slots relative to the other groups; 0 for the shardmaster.
    pub weight: u32,
}

/// A run of slots of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRange {
    /// First slot.
    pub first: Slot,
    /// Last slot, included.
    pub last: Slot,
    /// Their group.
    pub group: GroupId,
}

impl ClusterConfig {
    /// The group that a slot is assigned to.
    pub fn group_of(&self, slot: Slot) -> Option<GroupId> {
        let at = self.slots.partition_point(|range| range.last < slot);
        self.slots.get(at).filter(|range| range.first <= slot).map(|range| range.group)
    }

    /// The ranges of one group, in slot order.
    pub fn ranges_of(&self, group: GroupId) -> impl Iterator<Item = SlotRange> + '_ {
        self.slots.iter().copied().filter(move |range| range.group == group)
    }

    /// The groups that can own slots: all but the shardmaster.
    pub fn shard_groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.groups.keys().copied().filter(|group| *group != SHARDMASTER)
    }

    /// Gives every slot to the shard groups in order, in ranges that differ by one slot at most.
    pub fn assign_evenly(&mut self) {
        let groups: Vec<GroupId> = self.shard_groups().collect();
        let count = groups.len().min(usize::from(SLOTS)) as u32;
        self.slots = (0..count)
            .map(|i| SlotRange {
                first: Slot((u32::from(SLOTS) * i / count) as u16),
                last: Slot((u32::from(SLOTS) * (i + 1) / count - 1) as u16),
                group: groups[i as usize],
            })
            .collect();
    }
}

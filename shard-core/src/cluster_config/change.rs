//! What one configuration has that another has not: how the history is kept, and what is pushed.

use super::{ClusterConfig, ConfigError, ConfigNum, GroupConfig, NodeConfig, SlotRange};
use crate::slot::{SLOTS, Slot};
use raft_core::types::{GroupId, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The difference between two configurations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigChange {
    /// The number of the newer one.
    pub num: ConfigNum,
    /// Its cluster id, if that differs.
    pub cluster_id: Option<String>,
    /// Nodes that are new or have other addresses, and those that are gone.
    pub nodes: Vec<(NodeId, Option<NodeConfig>)>,
    /// Groups that are new or changed, and those that are gone.
    pub groups: Vec<(GroupId, Option<GroupConfig>)>,
    /// Slots that are assigned otherwise, as ranges in slot order: first, last, their group.
    pub slots: Vec<(Slot, Slot, Option<GroupId>)>,
}

impl ConfigChange {
    /// What makes `new` of `old`, if the ranges of `new` are joined where they can be.
    pub fn between(old: &ClusterConfig, new: &ClusterConfig) -> ConfigChange {
        let mut slots: Vec<(Slot, Slot, Option<GroupId>)> = Vec::new();
        if old.slots != new.slots {
            let (old, new) = (old.slot_table(), new.slot_table());
            for (number, (before, after)) in (0..).zip(old.iter().zip(&new)) {
                if before == after {
                    continue;
                }
                match slots.last_mut() {
                    Some((_, last, group)) if last.0 + 1 == number && group == after => {
                        *last = Slot(number);
                    }
                    _ => slots.push((Slot(number), Slot(number), *after)),
                }
            }
        }
        ConfigChange {
            num: new.num,
            cluster_id: (old.cluster_id != new.cluster_id).then(|| new.cluster_id.clone()),
            nodes: differences(&old.nodes, &new.nodes),
            groups: differences(&old.groups, &new.groups),
            slots,
        }
    }

    /// The newer configuration.
    ///
    /// # Errors
    /// What is wrong with it: it comes from a disk or a socket.
    pub fn applied_to(&self, old: &ClusterConfig) -> Result<ClusterConfig, ConfigError> {
        let mut new = ClusterConfig { num: self.num, ..old.clone() };
        new.cluster_id.clone_from(self.cluster_id.as_ref().unwrap_or(&old.cluster_id));
        apply(&self.nodes, &mut new.nodes);
        apply(&self.groups, &mut new.groups);
        if !self.slots.is_empty() {
            let mut table = old.slot_table();
            for (first, last, group) in &self.slots {
                let (from, to) = (usize::from(first.0), usize::from(last.0));
                if from > to || last.0 >= SLOTS {
                    return Err(ConfigError::Range { first: *first, last: *last });
                }
                table[from..=to].fill(*group);
            }
            new.slots = ranges_of(&table);
        }
        new.check()?;
        Ok(new)
    }
}

fn differences<K: Copy + Ord, V: Clone + PartialEq>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
) -> Vec<(K, Option<V>)> {
    let changed = new.iter().filter(|(key, value)| old.get(key) != Some(value));
    let gone = old.keys().filter(|key| !new.contains_key(key));
    changed
        .map(|(key, value)| (*key, Some(value.clone())))
        .chain(gone.map(|k| (*k, None)))
        .collect()
}

fn apply<K: Copy + Ord, V: Clone>(changes: &[(K, Option<V>)], to: &mut BTreeMap<K, V>) {
    for (key, value) in changes {
        match value {
            Some(value) => drop(to.insert(*key, value.clone())),
            None => drop(to.remove(key)),
        }
    }
}

impl ClusterConfig {
    /// The same, its ranges of slots joined where they can be: what is equal looks equal.
    pub(crate) fn joined(self) -> ClusterConfig {
        ClusterConfig { slots: ranges_of(&self.slot_table()), ..self }
    }

    /// The group of each slot, by the slot's number. Ranges that no configuration has are left out.
    pub fn slot_table(&self) -> Vec<Option<GroupId>> {
        let mut table = vec![None; usize::from(SLOTS)];
        for range in &self.slots {
            if let Some(part) =
                table.get_mut(usize::from(range.first.0)..=usize::from(range.last.0))
            {
                part.fill(Some(range.group));
            }
        }
        table
    }
}

/// A slot table as ranges, joined where they can be: equal tables have equal ranges.
pub fn ranges_of(table: &[Option<GroupId>]) -> Vec<SlotRange> {
    let mut ranges: Vec<SlotRange> = Vec::new();
    for (number, group) in (0..).zip(table) {
        let Some(group) = *group else { continue };
        match ranges.last_mut() {
            Some(range) if range.last.0 + 1 == number && range.group == group => {
                range.last = Slot(number);
            }
            _ => ranges.push(SlotRange { first: Slot(number), last: Slot(number), group }),
        }
    }
    ranges
}

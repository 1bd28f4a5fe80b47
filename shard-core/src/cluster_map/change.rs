//! What makes one map of another: what subscribers are sent.

use super::owners::{OwnerRange, check_range};
use super::{ClusterMap, MapError, Membership, MoveRecord, Waiting};
use crate::cluster_config::ConfigChange;
use crate::moves::MoveId;
use crate::slot::Slot;
use raft_core::types::{GroupId, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The difference between two maps: as large as what changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapChange {
    /// The version of the older one.
    pub from: u64,
    /// Of the newer one.
    pub to: u64,
    /// What changed in the configuration, if anything.
    pub config: Option<ConfigChange>,
    /// Slots that have another owner.
    pub owners: Vec<OwnerRange>,
    /// Moves that are new or went on.
    pub moves: Vec<MoveRecord>,
    /// Moves that all sides have reported.
    pub reported: Vec<MoveId>,
    /// Slots that wait, or wait otherwise; those that do not any more.
    pub waiting: Vec<(Slot, Option<Waiting>)>,
    /// Whether moves are begun, if that changed.
    pub paused: Option<bool>,
    /// The evacuated nodes, if they changed.
    pub evacuated: Option<BTreeSet<NodeId>>,
    /// The founders of groups that are new. Those of groups that are gone go with them.
    pub founders: Vec<(GroupId, Vec<NodeId>)>,
    /// Groups whose members are wanted or reported otherwise. Those of groups that are gone go with them.
    pub members: Vec<(GroupId, Membership)>,
}

impl ClusterMap {
    /// What makes this map of an older one.
    pub fn diff(&self, old: &ClusterMap) -> MapChange {
        let config = self.config != old.config;
        let gone = |id: &&MoveId| !self.moves.contains_key(id);
        MapChange {
            from: old.version,
            to: self.version,
            config: config.then(|| ConfigChange::between(&old.config, &self.config)),
            owners: self.owners.since(&old.owners),
            moves: changed(&old.moves, &self.moves).map(|(_, record)| *record).collect(),
            reported: old.moves.keys().filter(gone).copied().collect(),
            waiting: {
                let waits = changed(&old.waiting, &self.waiting).map(|(k, v)| (*k, Some(*v)));
                let over = old.waiting.keys().filter(|slot| !self.waiting.contains_key(slot));
                waits.chain(over.map(|slot| (*slot, None))).collect()
            },
            paused: (self.paused != old.paused).then_some(self.paused),
            founders: {
                let new = changed(&old.founders, &self.founders);
                new.map(|(group, voters)| (*group, voters.clone())).collect()
            },
            members: {
                let new = changed(&old.members, &self.members);
                new.map(|(group, members)| (*group, members.clone())).collect()
            },
            evacuated: (self.evacuated != old.evacuated).then(|| self.evacuated.clone()),
        }
    }

    /// Makes this map the newer one that the change tells of. After an error it is as it was, and the whole
    /// map is to be asked for.
    ///
    /// # Errors
    /// If the change is of another version, or what would come of it makes no sense.
    pub fn apply(&mut self, change: &MapChange) -> Result<(), MapError> {
        if change.from != self.version || change.to < change.from {
            return Err(MapError::Version { of: change.from, has: self.version });
        }
        let mut new = self.clone();
        new.version = change.to;
        if let Some(config) = &change.config {
            new.config = config.applied_to(&self.config)?;
        }
        for range in &change.owners {
            check_range(range)?;
            new.owners.set_range(*range);
        }
        new.moves.extend(change.moves.iter().map(|record| (record.order.id, *record)));
        for id in &change.reported {
            new.moves.remove(id);
        }
        for (slot, waiting) in &change.waiting {
            match waiting {
                Some(waiting) => new.waiting.insert(*slot, *waiting),
                None => new.waiting.remove(slot),
            };
        }
        new.paused = change.paused.unwrap_or(new.paused);
        new.evacuated = change.evacuated.clone().unwrap_or(new.evacuated);
        new.founders.extend(change.founders.iter().cloned());
        new.founders.retain(|group, _| new.config.groups.contains_key(group));
        new.members.extend(change.members.iter().cloned());
        new.members.retain(|group, _| new.config.groups.contains_key(group));
        new.check()?;
        *self = new;
        Ok(())
    }
}

/// What `new` has that `old` has not, or has otherwise.
fn changed<'a, K: Ord, V: PartialEq>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    new.iter().filter(|(key, value)| old.get(key) != Some(value))
}

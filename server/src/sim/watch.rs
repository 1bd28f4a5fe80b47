//! Looks at the states of all nodes after each event: replicas that applied the same are equal (I4), and at most
//! one group serves a slot (I9).

use raft_core::types::{Index, Now};
use shard_core::machine::Machine;
use shard_core::node::Node;
use shard_core::shard_store::SlotPhase;
use shard_core::slot::Slot;
use shard_core::{GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// Digests are compared at every so manieth index: they cost a look at all of a state.
const DIGEST_EVERY: u64 = 4;

/// What was seen.
#[derive(Debug, Default)]
pub struct Watch {
    slots: BTreeSet<Slot>,
    seen: BTreeMap<(NodeId, GroupId), Index>,
    digests: BTreeMap<(GroupId, Index), u64>,
    /// Of each group the furthest that any replica ever applied, and the slots it served then.
    newest: BTreeMap<GroupId, (Index, BTreeSet<Slot>)>,
    /// Entries applied, by all replicas.
    pub applied: u64,
}

impl Watch {
    /// Looks at these slots.
    pub fn new(slots: BTreeSet<Slot>) -> Watch {
        Watch { slots, ..Watch::default() }
    }

    /// A node has begun anew.
    pub fn forget(&mut self, node: NodeId) {
        self.seen.retain(|(of, _), _| *of != node);
    }

    /// Looks at a node.
    pub fn look(&mut self, id: NodeId, node: &Node, now: Now, groups: &[GroupId]) {
        for group in groups.iter().copied() {
            let Some(replica) = node.replica(group) else { continue };
            let at = replica.applied().index;
            let before = self.seen.insert((id, group), at).unwrap_or_default();
            if before == at {
                continue;
            }
            self.applied += at.0.saturating_sub(before.0);
            if at.0.is_multiple_of(DIGEST_EVERY) {
                let digest = replica.digest();
                let known = *self.digests.entry((group, at)).or_insert(digest);
                assert_eq!(known, digest, "I4: group {group} differs at {at} on node {id}, {now}");
            }
            if let Machine::Shard(store) = replica.machine() {
                let newest = self.newest.entry(group).or_default();
                if at > newest.0 {
                    let serves = |slot: &Slot| match store.stand(*slot).phase {
                        SlotPhase::Owned => true,
                        SlotPhase::Exporting { frozen, .. } => !frozen,
                        SlotPhase::Absent | SlotPhase::Importing { .. } => false,
                    };
                    let slots = self.slots.iter().copied().filter(serves).collect();
                    *newest = (at, slots);
                    self.one_owner(now);
                }
            }
        }
    }

    fn one_owner(&self, now: Now) {
        let mut owners: BTreeMap<Slot, GroupId> = BTreeMap::new();
        for (group, (at, slots)) in &self.newest {
            for slot in slots {
                if let Some(other) = owners.insert(*slot, *group) {
                    panic!("I9: groups {other} and {group} (at {at}) serve slot {slot}, {now}");
                }
            }
        }
    }
}

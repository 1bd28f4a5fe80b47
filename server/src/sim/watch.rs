//! Looks at the states of all nodes after each event: replicas that applied the same are equal (I4), at most one
//! group serves a slot (I9), and some group has all of it (I10). Log time
//! keeps to the clocks that are right (T2).

use super::world::every_group;
use raft_core::types::{Index, Now};
use shard_core::machine::Machine;
use shard_core::node::Node;
use shard_core::session::LogTime;
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
    /// Of each group the furthest that any replica ever applied, and its slots then.
    newest: BTreeMap<GroupId, Newest>,
    /// Slots that some group has had.
    had: BTreeSet<Slot>,
    /// Entries applied, by all replicas.
    pub applied: u64,
}

/// A group at the furthest that any replica of it ever applied.
#[derive(Debug, Default)]
struct Newest {
    at: Index,
    /// Slots that it serves.
    serves: BTreeSet<Slot>,
    /// Slots of which it has all keys and lanes, whether it serves them or not.
    has: BTreeSet<Slot>,
}

impl Newest {
    fn of(at: Index, slots: &BTreeSet<Slot>, phase: impl Fn(Slot) -> SlotPhase) -> Newest {
        let mut newest = Newest { at, ..Newest::default() };
        for slot in slots.iter().copied() {
            let (serves, has) = match phase(slot) {
                SlotPhase::Owned => (true, true),
                SlotPhase::Exporting { frozen, .. } => (!frozen, true),
                SlotPhase::Absent | SlotPhase::Importing { .. } => (false, false),
            };
            newest.serves.extend(serves.then_some(slot));
            newest.has.extend(has.then_some(slot));
        }
        newest
    }
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

    /// Looks at a node. `latest` is what log time may be at most.
    pub fn look(&mut self, id: NodeId, node: &Node, now: Now, latest: LogTime) {
        for group in every_group() {
            let Some(replica) = node.replica(group) else { continue };
            let at = replica.applied().index;
            let before = self.seen.insert((id, group), at).unwrap_or_default();
            if before == at {
                continue;
            }
            self.applied += at.0.saturating_sub(before.0);
            // One that installs a snapshot is looked at when it has a state again.
            let Some(machine) = replica.machine() else { continue };
            let told = machine.log_time();
            assert!(
                told <= latest,
                "T2: log time {told} of group {group}, no more than {latest} is right, {now}"
            );
            if at.0.is_multiple_of(DIGEST_EVERY) {
                let digest = machine.digest();
                let known = *self.digests.entry((group, at)).or_insert(digest);
                assert_eq!(known, digest, "I4: group {group} differs at {at} on node {id}, {now}");
            }
            let known = self.newest.get(&group).map_or(Index(0), |newest| newest.at);
            if let Machine::Shard(store) = machine
                && at > known
            {
                let newest = Newest::of(at, &self.slots, |slot| store.stand(slot).phase);
                self.newest(group, newest, now);
            }
        }
    }

    fn newest(&mut self, group: GroupId, newest: Newest, now: Now) {
        self.had.extend(&newest.has);
        self.newest.insert(group, newest);
        self.one_owner(now);
        self.somebody_has_it(now);
    }

    fn one_owner(&self, now: Now) {
        let mut owners: BTreeMap<Slot, GroupId> = BTreeMap::new();
        for (group, Newest { at, serves, .. }) in &self.newest {
            for slot in serves {
                if let Some(other) = owners.insert(*slot, *group) {
                    panic!("I9: groups {other} and {group} (at {at}) serve slot {slot}, {now}");
                }
            }
        }
    }

    /// What some group has had, one has. The entry that takes a slot over is applied by somebody before the entry
    /// can be proposed that gives it up.
    fn somebody_has_it(&self, now: Now) {
        let nobody = |slot: &&Slot| !self.newest.values().any(|newest| newest.has.contains(slot));
        if let Some(slot) = self.had.iter().find(nobody) {
            panic!("I10: no group has slot {slot}, {now}: {:?}", self.newest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shard_core::moves::{Move, MoveId, SlotEpoch};

    const SLOT: Slot = Slot(7);

    fn exporting(frozen: bool) -> SlotPhase {
        let (from, to) = (Some(GroupId(1)), GroupId(2));
        let order = Move { id: MoveId(1), slot: SLOT, from, to, epoch: SlotEpoch(1) };
        SlotPhase::Exporting { order, round: 2, frozen }
    }

    fn watch(groups: &[(u32, SlotPhase)]) -> Watch {
        let mut watch = Watch::new([SLOT].into());
        for (at, (group, phase)) in (1..).zip(groups) {
            let newest = Newest::of(Index(at), &watch.slots, |_| phase.clone());
            watch.newest(GroupId(*group), newest, 0);
        }
        watch
    }

    #[test]
    fn a_slot_that_goes_from_one_group_to_another_is_well() {
        let frozen = exporting(true);
        watch(&[(1, SlotPhase::Owned), (1, frozen), (2, SlotPhase::Owned), (1, SlotPhase::Absent)]);
    }

    #[test]
    #[should_panic(expected = "I9: groups 1 and 2")]
    fn two_groups_that_serve_a_slot_are_noticed() {
        watch(&[(1, exporting(false)), (2, SlotPhase::Owned)]);
    }

    #[test]
    #[should_panic(expected = "I10: no group has slot 7")]
    fn a_slot_that_nobody_has_is_noticed() {
        watch(&[(1, exporting(true)), (1, SlotPhase::Absent)]);
    }
}

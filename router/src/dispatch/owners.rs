//! Which group has a slot, as far as is known, and what follows when that changes.

use super::{Dispatch, Now};
use crate::backend::Refusal;
use shard_core::cluster_map::{OwnerRange, Owners};
use shard_core::moves::SlotEpoch;
use shard_core::slot::Slot;
use shard_core::{GroupId, NodeId};

impl Dispatch {
    /// The map is a newer one: slots may have other owners now. A lane goes along with its slot. Looks at those
    /// slots alone whose owner is another by the map: maps come many times a second while slots move, and
    /// a slot never loses its owner but to another. Returns how many it looked at.
    pub(super) fn reroute(&mut self, now: Now, before: &Owners) -> usize {
        let Dispatch { view, moved, groups, slots, book, .. } = self;
        let owners = &view.map.owners;
        moved.retain(|slot, (_, epoch)| owners.of(*slot).is_none_or(|(_, known)| known < *epoch));
        let mut looked_at = 0;
        for OwnerRange { first, last, group, .. } in owners.since(before) {
            for (slot, state) in slots.range_mut(first..=last) {
                looked_at += 1;
                // Of two words on who has it the newer counts.
                let owner = moved.get(slot).map_or(group, |(group, _)| *group);
                if owner != state.group {
                    state.give_to(owner, *slot, groups, now, book);
                }
            }
        }
        looked_at
    }

    /// A group says to whom it gave a slot.
    pub(super) fn follow_slot(&mut self, now: Now, slot: Slot, to: GroupId, epoch: SlotEpoch) {
        let known = self.epoch(slot).is_some_and(|newest| newest >= epoch);
        if known || !self.view.map.config.groups.contains_key(&to) {
            // From a group that does not know what happened since, or of one that is not known here.
            if let Some(state) = self.slots.get_mut(&slot) {
                state.hold_back(Refusal::Moving { slot }, now, &mut self.book);
            }
            self.refresh_wanted = true;
            return;
        }
        self.moved.insert(slot, (to, epoch));
        let Dispatch { groups, slots, book, .. } = self;
        if let Some(state) = slots.get_mut(&slot) {
            state.give_to(to, slot, groups, now, book);
        }
    }

    /// The group that has a slot, as far as known.
    pub(super) fn owner(&self, slot: Slot) -> Option<GroupId> {
        let moved = self.moved.get(&slot).map(|(group, _)| *group);
        moved.or_else(|| self.view.map.owners.of(slot).map(|(group, _)| group))
    }

    /// The group that has a slot and the node that leads it. None if one of them is not sure: a group said
    /// that it gave the slot away, or nobody that can be reached names a leader.
    pub fn leader_of(&self, slot: Slot) -> Option<(GroupId, NodeId)> {
        let (group, _) = self.view.map.owners.of(slot)?;
        let leader = self.view.leaders.get(&group)?.leader?;
        let is_sure = !self.moved.contains_key(&slot) && self.news.is_led(group);
        is_sure.then_some((group, leader))
    }

    /// The newest change of owner of a slot that was heard of.
    fn epoch(&self, slot: Slot) -> Option<SlotEpoch> {
        let moved = self.moved.get(&slot).map(|(_, epoch)| *epoch);
        moved.or_else(|| self.view.map.owners.of(slot).map(|(_, epoch)| epoch))
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::view;
    use super::super::tests::{Bench, MS};
    use super::*;
    use crate::backend::{Target, Work};
    use bytes::Bytes;
    use shard_core::NodeId;
    use shard_core::cluster_config::GroupConfig;
    use shard_core::op::Op;
    use shard_core::wire::ClusterView;

    const GROUPS: [GroupId; 3] = [GroupId(1), GroupId(2), GroupId(3)];

    /// A bench that has sent something to each of these slots, of three groups.
    fn bench(slots: u16) -> (Bench, ClusterView) {
        let mut bench = Bench::new();
        let mut view = view();
        let seats = GroupConfig { voters: [1, 2, 3].map(NodeId).into(), weight: 1 };
        view.map.config.groups.extend(GROUPS.map(|group| (group, seats.clone())));
        view.map.version = 1;
        bench.dispatch.on_view(bench.now, NodeId(1), &view);
        for slot in (0..slots).map(Slot) {
            let op = Op::IncrBy { key: Bytes::from_static(b"k"), by: 1 };
            bench.submit(Target::Slot(slot), Work::Op(op));
        }
        (bench, view)
    }

    /// While slots move, maps come many times a second: what one costs must not grow with the slots in use.
    #[test]
    fn a_map_costs_as_many_slots_as_have_another_owner_by_it() {
        let (mut bench, mut view) = bench(1_000);
        let before = view.map.owners.clone();
        for slot in [3, 4, 500, 5_000] {
            view.map.owners.set(Slot(slot), GROUPS[1], SlotEpoch(2));
        }
        view.map.version += 1;
        std::rc::Rc::make_mut(&mut bench.dispatch.view).map = view.map;
        assert_eq!(bench.dispatch.reroute(bench.now, &before), 3);
    }

    /// Whatever maps and groups say, in whatever order: what waits for a slot waits for its newest owner.
    #[test]
    fn what_waits_for_a_slot_is_always_with_its_owner() {
        let mut state: u64 = 9;
        let mut draw = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let (mut bench, mut view) = bench(40);
        // What is true, of which maps tell late and groups at once.
        let mut truth = view.map.owners.clone();
        for _ in 0..3_000 {
            bench.now += MS;
            let slot = Slot(draw(40) as u16);
            match draw(3) {
                0 => {
                    let (owner, SlotEpoch(epoch)) = truth.of(slot).expect("it has one");
                    let to = GROUPS[(owner.0 as usize + draw(2) as usize) % 3];
                    truth.set(slot, to, SlotEpoch(epoch + 1));
                }
                1 => {
                    let (to, epoch) = truth.of(slot).expect("it has one");
                    bench.dispatch.follow_slot(bench.now, slot, to, epoch);
                }
                _ => {
                    let (owner, epoch) = truth.of(slot).expect("it has one");
                    view.map.owners.set(slot, owner, epoch);
                    view.map.version += 1;
                    bench.dispatch.on_view(bench.now, NodeId(1), &view);
                }
            }
            for (slot, waits) in &bench.dispatch.slots {
                assert_eq!(Some(waits.group), bench.dispatch.owner(*slot));
            }
        }
        view.map.owners = truth.clone();
        view.map.version += 1;
        bench.dispatch.on_view(bench.now, NodeId(1), &view);
        assert!(bench.dispatch.moved.is_empty(), "the map knows all of it");
        for (slot, waits) in &bench.dispatch.slots {
            assert_eq!(Some(waits.group), truth.of(*slot).map(|(group, _)| group));
        }
    }
}

//! Which group has a slot, as far as is known, and what follows when that changes.

use super::{Dispatch, Now};
use crate::backend::Refusal;
use shard_core::moves::SlotEpoch;
use shard_core::slot::Slot;
use shard_core::{GroupId, NodeId};

impl Dispatch {
    /// Slots may have other owners now. A lane goes along with its slot.
    pub(super) fn reroute(&mut self, now: Now) {
        let Dispatch { view, moved, groups, slots, book, .. } = self;
        let owners = &view.map.owners;
        moved.retain(|slot, (_, epoch)| owners.of(*slot).is_none_or(|(_, known)| known < *epoch));
        for (slot, state) in slots.iter_mut() {
            let moved = moved.get(slot).map(|(group, _)| *group);
            let Some(owner) = moved.or_else(|| owners.of(*slot).map(|(group, _)| group)) else {
                state.refuse_unsent(Refusal::SlotNotServed, book);
                continue;
            };
            if owner != state.group {
                state.give_to(owner, *slot, groups, now, book);
            }
        }
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

//! Which moves are under way, which come next, and what becomes of those that end.
//!
//! Moves are planned at the end of every entry, from where slots are to where they are to be. A move is
//! never changed once it was ordered: it ends, and then the next one is planned from whoever owns the slot
//! (scenarios G1, G12). Of the pairs of groups with something to move, the one with the fewest moves under
//! way comes first, so that groups which do not answer never hold up the others.

use super::Shardmaster;
use super::op::{Cancel, MasterError, MoveReport, Side};
use super::target::slots_of;
use crate::cluster_map::{
    ClusterMap, MOVES_MAX, MOVES_PER_GROUP_MAX, MOVES_PER_PAIR_MAX, MoveRecord, Waiting,
};
use crate::moves::{Move, MoveId, MoveOutcome, RefuseReason, SlotEpoch};
use crate::rows::MasterRow;
use crate::session::LogTime;
use crate::slot::{SLOTS, Slot};
use raft_core::types::GroupId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How long after its first refusal a move is ordered again, in milliseconds of log time; doubled with
/// each refusal in a row.
pub const BACK_OFF_MS_MIN: u64 = 1_000;
/// The longest such time, in milliseconds.
pub const BACK_OFF_MS_MAX: u64 = 60_000;
/// Moves that have ended and were reported by both sides, and that are still shown.
pub const ENDED_MOVES_MAX: usize = 1024;

/// A move that nobody will ask for any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedMove {
    /// The move, with its end.
    pub record: MoveRecord,
    /// When the last side reported it, in the shardmaster's log time.
    pub reported: LogTime,
}

/// Who has a slot and who is to have it.
type Pair = (Option<GroupId>, GroupId);

/// What follows from the map and log time, kept so that no entry looks through all slots.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// The unfinished move of a slot.
    running: BTreeMap<Slot, MoveId>,
    /// Slots that are not where they are to be and have no move.
    places: BTreeMap<Slot, Place>,
    /// Of those, the ones that can be moved.
    pending: BTreeMap<Pair, BTreeSet<Slot>>,
    /// Those that are ordered again later.
    due: BTreeSet<(LogTime, Slot)>,
    /// Unfinished moves.
    of_pair: BTreeMap<Pair, u32>,
    /// Moves of which a group has not reported the end.
    of_group: BTreeMap<GroupId, u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Pending(Pair),
    Due(LogTime),
    Held,
}

impl Plan {
    /// That of a map.
    pub(super) fn of(map: &ClusterMap, now: LogTime) -> Plan {
        let mut plan = Plan::default();
        map.moves.values().for_each(|record| plan.add(record));
        for (number, target) in (0..SLOTS).zip(map.config.slot_table()) {
            plan.place(Slot(number), place_of(map, target, Slot(number), now));
        }
        plan
    }

    /// The unfinished move of a slot.
    pub(super) fn running(&self, slot: Slot) -> Option<MoveId> {
        self.running.get(&slot).copied()
    }

    /// How many slots of each pair could be moved.
    #[cfg(test)]
    pub(super) fn pending_slots(&self) -> BTreeMap<Pair, usize> {
        self.pending.iter().map(|(pair, slots)| (*pair, slots.len())).collect()
    }

    fn place(&mut self, slot: Slot, place: Option<Place>) {
        match self.places.remove(&slot) {
            Some(Place::Pending(pair)) => {
                if let Some(slots) = self.pending.get_mut(&pair) {
                    slots.remove(&slot);
                    if slots.is_empty() {
                        self.pending.remove(&pair);
                    }
                }
            }
            Some(Place::Due(at)) => {
                self.due.remove(&(at, slot));
            }
            Some(Place::Held) | None => {}
        }
        let Some(place) = place.filter(|_| !self.running.contains_key(&slot)) else { return };
        self.places.insert(slot, place);
        match place {
            Place::Pending(pair) => {
                self.pending.entry(pair).or_default().insert(slot);
            }
            Place::Due(at) => {
                self.due.insert((at, slot));
            }
            Place::Held => {}
        }
    }

    /// Counts a record.
    fn add(&mut self, record: &MoveRecord) {
        record.owing().for_each(|group| *self.of_group.entry(group).or_default() += 1);
        if record.ended.is_none() {
            let Move { id, slot, from, to, .. } = record.order;
            self.running.insert(slot, id);
            *self.of_pair.entry((from, to)).or_default() += 1;
        }
    }

    /// Counts it no more.
    fn remove(&mut self, record: &MoveRecord) {
        record.owing().for_each(|group| one_less(&mut self.of_group, group));
        if record.ended.is_none() {
            let Move { slot, from, to, .. } = record.order;
            self.running.remove(&slot);
            one_less(&mut self.of_pair, (from, to));
        }
    }

    /// Whether another move may be ordered between the two.
    fn has_room(&self, (from, to): Pair) -> bool {
        let of_group = |group| self.of_group.get(&group).copied().unwrap_or(0);
        self.running.len() < MOVES_MAX as usize
            && self.under_way((from, to)) < MOVES_PER_PAIR_MAX
            && from.into_iter().chain([to]).all(|group| of_group(group) < MOVES_PER_GROUP_MAX)
    }

    fn under_way(&self, pair: Pair) -> u32 {
        self.of_pair.get(&pair).copied().unwrap_or(0)
    }
}

fn one_less<K: Ord>(of: &mut BTreeMap<K, u32>, key: K) {
    if let std::collections::btree_map::Entry::Occupied(mut count) = of.entry(key) {
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}

/// What is to become of a slot that has no move; None: it is where it is to be, or is to be nowhere.
fn place_of(map: &ClusterMap, target: Option<GroupId>, slot: Slot, now: LogTime) -> Option<Place> {
    let (to, from) = (target?, map.owners.of(slot).map(|(group, _)| group));
    if from == Some(to) {
        return None;
    }
    Some(match map.waiting.get(&slot) {
        Some(Waiting { until: None, .. }) => Place::Held,
        Some(Waiting { until: Some(at), .. }) if *at > now => Place::Due(*at),
        Some(_) | None => Place::Pending((from, to)),
    })
}

impl Shardmaster {
    /// From which log time on an entry finds a move to order that was refused before; None: no entry is
    /// needed for that.
    pub fn next_due(&self) -> Option<LogTime> {
        let first = self.plan.due.first().filter(|_| !self.map.paused);
        first.map(|(at, _)| *at)
    }

    /// Moves that have ended and that both sides have reported, the newest [`ENDED_MOVES_MAX`], oldest first.
    pub fn ended_moves(&self) -> impl Iterator<Item = &EndedMove> {
        self.ended.values()
    }

    /// Orders what can be ordered now.
    pub(super) fn plan(&mut self) {
        while let Some((at, slot)) = self.plan.due.first().copied()
            && at <= self.log_time
        {
            self.place(slot);
        }
        if self.map.paused {
            return;
        }
        let pairs = self.plan.pending.keys();
        let mut queue: BTreeSet<(u32, Pair)> =
            pairs.map(|pair| (self.plan.under_way(*pair), *pair)).collect();
        while let Some((count, pair)) = queue.pop_first() {
            let next = self.plan.pending.get(&pair).and_then(|slots| slots.first().copied());
            if let Some(slot) = next.filter(|_| self.plan.has_room(pair)) {
                self.order(slot, pair);
                queue.insert((count + 1, pair));
            }
        }
    }

    /// Orders the next move of a slot.
    fn order(&mut self, slot: Slot, (from, to): Pair) {
        self.touch();
        let id = MoveId(self.next_move);
        self.next_move += 1;
        let before = self.map.owners.of(slot).map_or(0, |(_, epoch)| epoch.0);
        let order = Move { id, slot, from, to, epoch: SlotEpoch(before + 1) };
        self.put_move(MoveRecord::new(order, self.log_time));
        self.place(slot);
    }

    /// Finds out anew what is to become of a slot.
    pub(super) fn place(&mut self, slot: Slot) {
        let target = self.map.config.group_of(slot);
        let place = place_of(&self.map, target, slot, self.log_time);
        // Where nothing is to be moved, nothing waits.
        if place.is_none() && self.plan.running(slot).is_none() {
            self.set_waiting(slot, None);
        }
        self.plan.place(slot, place);
    }

    /// Slots are wanted elsewhere now, or again.
    pub(super) fn forget_waiting(&mut self, slots: &[Slot]) {
        for slot in slots {
            self.set_waiting(*slot, None);
        }
    }

    /// Moves that were given up are wanted again.
    pub(super) fn forget_cancelled(&mut self) {
        let held = self.map.waiting.iter().filter(|(_, waiting)| waiting.until.is_none());
        let slots: Vec<Slot> = held.map(|(slot, _)| *slot).collect();
        self.forget_waiting(&slots);
        slots.iter().for_each(|slot| self.place(*slot));
    }

    /// Takes in how one side of a move says that it ended.
    pub(super) fn report(&mut self, report: &MoveReport) -> Result<(), MasterError> {
        let Some(before) = self.map.moves.get(&report.id).copied() else {
            return match (1..self.next_move).contains(&report.id.0) {
                // Both sides had reported it: this is a repetition.
                true => Ok(()),
                false => Err(MasterError::UnknownMove(report.id)),
            };
        };
        let order = before.order;
        let by = match report.side {
            Side::Source => order.from,
            Side::Destination => Some(order.to),
        };
        let is_activated = report.outcome == MoveOutcome::Activated;
        let agrees = before
            .ended
            .is_none_or(|(outcome, _)| (outcome == MoveOutcome::Activated) == is_activated);
        if by != Some(report.by) || report.slot != order.slot || !agrees {
            return Err(MasterError::Contradiction(report.id));
        }
        let mut record = before;
        match report.side {
            Side::Source => record.source_reported = true,
            Side::Destination => record.destination_reported = true,
        }
        record.ended = before.ended.or(Some((report.outcome, self.log_time)));
        if record == before {
            return Ok(());
        }
        self.touch();
        self.put_move(record);
        if before.ended.is_none() {
            self.settle(&record, report.outcome);
        }
        if record.is_reported() {
            self.drop_move(&record);
        }
        Ok(())
    }

    /// A move has ended: the slot has another owner, or waits.
    fn settle(&mut self, record: &MoveRecord, outcome: MoveOutcome) {
        let Move { slot, to, epoch, .. } = record.order;
        let waited = self.map.waiting.get(&slot).copied();
        let is_held = waited.is_some_and(|waiting| waiting.until.is_none());
        match outcome {
            MoveOutcome::Activated => {
                self.set_owner(slot, to, epoch);
                if !is_held {
                    self.set_waiting(slot, None);
                }
            }
            MoveOutcome::Refused(_) if is_held => {}
            // It was given up and is wanted again meanwhile, or is wanted from another group now.
            MoveOutcome::Refused(_)
                if record.cancel || self.map.config.group_of(slot) != Some(to) =>
            {
                self.set_waiting(slot, None);
            }
            MoveOutcome::Refused(reason) => {
                let refusals = waited.map_or(0, |waiting| waiting.refusals).saturating_add(1);
                let doubled = BACK_OFF_MS_MIN << (refusals - 1).min(16);
                let until = LogTime(self.log_time.0.saturating_add(doubled.min(BACK_OFF_MS_MAX)));
                self.set_waiting(slot, Some(Waiting { reason, refusals, until: Some(until) }));
            }
        }
        self.place(slot);
    }

    /// Gives moves up; says of how many slots.
    pub(super) fn cancel(&mut self, cancel: &Cancel) -> Result<u32, MasterError> {
        let slots: Vec<Slot> = match cancel {
            Cancel::All => {
                let slots = self.plan.running.keys().chain(self.plan.places.keys());
                slots.copied().collect()
            }
            Cancel::Slots(ranges) => slots_of(ranges)?
                .into_iter()
                .filter(|slot| {
                    self.plan.running.contains_key(slot) || self.plan.places.contains_key(slot)
                })
                .collect(),
            Cancel::Moves(ids) => self.slots_of_moves(ids)?,
        };
        let reason = RefuseReason::Cancelled;
        let held = Waiting { reason, refusals: 0, until: None };
        let mut count = 0;
        for slot in slots {
            let running = self.plan.running(slot).and_then(|id| self.map.moves.get(&id)).copied();
            let is_new = self.map.waiting.get(&slot) != Some(&held);
            if let Some(record) = running.filter(|record| !record.cancel) {
                self.touch();
                self.put_move(MoveRecord { cancel: true, ..record });
            } else if !is_new {
                continue;
            }
            count += 1;
            self.set_waiting(slot, Some(held));
            self.place(slot);
        }
        Ok(count)
    }

    fn slots_of_moves(&self, ids: &[MoveId]) -> Result<Vec<Slot>, MasterError> {
        if ids.len() > MOVES_MAX as usize {
            return Err(MasterError::TooManyMoves(ids.len() as u32));
        }
        let slot = |id: &MoveId| match self.map.moves.get(id) {
            Some(record) if record.ended.is_none() => Ok(record.order.slot),
            Some(_) => Err(MasterError::MoveEnded(*id)),
            None if (1..self.next_move).contains(&id.0) => Err(MasterError::MoveEnded(*id)),
            None => Err(MasterError::UnknownMove(*id)),
        };
        ids.iter().map(slot).collect()
    }

    // ---- Changes of the map, each noted for the next checkpoint ----

    fn put_move(&mut self, record: MoveRecord) {
        let id = record.order.id;
        self.note(MasterRow::Move(id.0));
        if let Some(before) = self.map.moves.insert(id, record) {
            self.plan.remove(&before);
        }
        self.plan.add(&record);
    }

    /// Nobody will ask for it any more: it is only shown.
    fn drop_move(&mut self, record: &MoveRecord) {
        let id = record.order.id;
        self.note_gone(MasterRow::Move(id.0));
        self.map.moves.remove(&id);
        self.plan.remove(record);
        let order = self.ended.last_key_value().map_or(0, |(order, _)| order + 1);
        self.note(MasterRow::Ended(order));
        self.ended.insert(order, EndedMove { record: *record, reported: self.log_time });
        if self.ended.len() > ENDED_MOVES_MAX
            && let Some((oldest, _)) = self.ended.first_key_value()
        {
            let oldest = *oldest;
            self.note_gone(MasterRow::Ended(oldest));
            self.ended.remove(&oldest);
        }
    }

    fn set_owner(&mut self, slot: Slot, group: GroupId, epoch: SlotEpoch) {
        self.note(MasterRow::owners_of(slot));
        self.map.owners.set(slot, group, epoch);
    }

    fn set_waiting(&mut self, slot: Slot, waiting: Option<Waiting>) {
        if self.map.waiting.get(&slot) == waiting.as_ref() {
            return;
        }
        self.touch();
        self.note(MasterRow::Waiting(slot));
        match waiting {
            Some(waiting) => self.map.waiting.insert(slot, waiting),
            None => self.map.waiting.remove(&slot),
        };
    }
}

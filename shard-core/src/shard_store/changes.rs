//! What of a store has changed since its last checkpoint, and the checkpoint that is being collected.
//!
//! Every key and lane carries the number of the checkpoint that a change of it was last noted for, so
//! one that is noted already costs a comparison. To freeze is to raise that number and to put the notes
//! aside: nothing is walked. From then on, whoever is about to change for the first time what the frozen
//! notes still name leaves behind what it was; a flush leaves behind the whole map. So rows can be handed
//! out in steps while entries are applied, and are those of the moment of the freeze.
//!
//! **Bounds.** Notes have at most one entry per key and lane that changed; what is left behind at most
//! the frozen ones of these, whose values are shared until they change.

use crate::checkpoint::{RowBody, RowChange};
use crate::data::{Flushed, Item, SlotData};
use crate::memory::NOTE_RECORD_BYTES;
use crate::migration::{EndedParts, NameSet, Parts, RowName};
use crate::rows::{self, Row, SlotRow};
use crate::session::{LANE_RECORD_BYTES, Lane, Lanes, SessionId};
use crate::shard_store::{Mutant, is_broken};
use crate::slot::Slot;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

/// Of a row that has not all come a row on disk has so many bytes, the last one perhaps less.
pub(super) const PART_ROW_BYTES: usize = if cfg!(test) { 16 } else { 256 << 10 };

/// Numbers the checkpoints of a process, from 1 on: one a second lasts for 136 years. 0: never noted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Epoch(u32);

/// How much has changed since the last freeze.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Keys.
    pub keys: u64,
    /// Bytes of these keys and their values. Those of keys flushed since count on.
    pub bytes: u64,
    /// Whether anything at all has changed.
    pub any: bool,
}

/// What is handed out at most in one step. A row that is larger goes alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowBudget {
    /// Rows.
    pub rows: usize,
    /// Bytes of keys and values.
    pub bytes: usize,
}

/// One step of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collected {
    /// The next rows, in an order that does not matter but for that of the steps.
    pub rows: Vec<RowChange>,
    /// These were the last.
    pub done: bool,
}

/// The notes of a store.
#[derive(Debug)]
pub(crate) struct Changes {
    epoch: Epoch,
    slots: BTreeMap<Slot, SlotChanges>,
    keys: u64,
    bytes: u64,
    /// What the notes take in memory, and what those at the freeze do.
    noted_bytes: u64,
    frozen_bytes: u64,
    frozen: Option<Frozen>,
    /// What was left behind for the checkpoint under way takes in memory.
    kept_bytes: u64,
    /// What waits to be freed takes in memory.
    flushed_bytes: u64,
    /// What is only to be freed: no part of the state, nothing can tell whether it is there.
    flushed: Vec<Flushed>,
}

/// The notes of a slot.
#[derive(Debug, Default)]
struct SlotChanges {
    /// Its own row.
    row: bool,
    /// The rows of what is copied of it, all anew.
    export: bool,
    /// Those names, as far as they are not handed out.
    names: Option<NamesLeft>,
    /// What has come of a row that has not all come.
    parts: Option<PartsNote>,
    /// All keys went, before those noted here.
    flushed: bool,
    keys: BTreeSet<Bytes>,
    lanes: BTreeSet<SessionId>,
    /// What the notes of keys take in memory.
    noted_bytes: u64,
}

/// The notes at a freeze, of which rows are left to be handed out.
#[derive(Debug)]
struct Frozen {
    group: Option<RowChange>,
    slots: BTreeMap<Slot, SlotChanges>,
    kept: BTreeMap<Slot, Kept>,
}

/// What a slot is besides its lanes and keys. The names are shared until they change.
#[derive(Clone, Debug)]
pub(crate) struct SlotMemo {
    pub(crate) row: SlotRow,
    /// What is asked for and what has changed, while another group copies it.
    pub(crate) names: [Option<Arc<BTreeSet<RowName>>>; 2],
}

/// Names of rows that are still to be handed out.
#[derive(Debug)]
struct NamesLeft {
    sets: [Option<Arc<BTreeSet<RowName>>>; 2],
    /// The last that was.
    after: [RowName; 2],
}

/// Rows with parts of a row that have changed.
#[derive(Clone, Copy, Debug)]
struct PartsNote {
    /// The first of them; 0: there may be others, which are not there any more.
    first: u32,
    /// How much there is. Later parts may have come behind it.
    bytes: u64,
}

/// What a slot was at the freeze, as far as it has changed since and is not handed out.
#[derive(Debug, Default)]
struct Kept {
    /// The version counter, if nothing else of the slot's row has changed since.
    version: Option<u64>,
    memo: Option<SlotMemo>,
    items: BTreeMap<Bytes, Option<Item>>,
    /// Parts to which no more came, or that went.
    parts: Option<EndedParts>,
    /// All keys but those in `items`.
    data: Option<SlotData>,
    lanes: BTreeMap<SessionId, Option<Lane>>,
    /// What all that takes in memory.
    bytes: u64,
}

impl Default for Changes {
    fn default() -> Changes {
        Changes {
            epoch: Epoch(1),
            slots: BTreeMap::new(),
            keys: 0,
            bytes: 0,
            noted_bytes: 0,
            frozen_bytes: 0,
            frozen: None,
            kept_bytes: 0,
            flushed_bytes: 0,
            flushed: Vec::new(),
        }
    }
}

impl Changes {
    /// What is noted now bears this.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(crate) fn dirty(&self) -> Dirty {
        Dirty { keys: self.keys, bytes: self.bytes, any: !self.slots.is_empty() }
    }

    /// What all of this takes in memory.
    pub(crate) fn memory(&self) -> u64 {
        self.noted_bytes + self.frozen_bytes + self.kept_bytes + self.flushed_bytes
    }

    /// A slot is new.
    pub(crate) fn note_slot(&mut self, slot: Slot) {
        self.slots.entry(slot).or_default().row = true;
    }

    /// A slot is about to take a step of a move. `before` is what it is.
    pub(crate) fn note_step(&mut self, slot: Slot, before: impl FnOnce() -> SlotMemo) {
        let changes = self.slots.entry(slot).or_default();
        changes.row = true;
        changes.export = true;
        if let Some((frozen, kept)) = Frozen::of(&mut self.frozen, slot)
            && frozen.row
            && kept.memo.is_none()
        {
            kept.memo = Some(before());
        }
    }

    /// The next part of a row has come, behind so many bytes; those are there now. To be called behind
    /// [`Changes::note_step`].
    pub(crate) fn note_part(&mut self, slot: Slot, before: u64, bytes: u64) {
        let changes = self.slots.entry(slot).or_default();
        let row = if before == 0 { 0 } else { 1 + (before / PART_ROW_BYTES as u64) as u32 };
        let first = changes.parts.map_or(row, |noted| noted.first.min(row));
        changes.parts = Some(PartsNote { first, bytes });
        self.bytes += bytes - before;
    }

    /// No more comes to the parts of a row: they are all, or not needed any more. To be called behind
    /// [`Changes::note_step`].
    pub(crate) fn end_parts(&mut self, slot: Slot, parts: &EndedParts) {
        self.slots.entry(slot).or_default().parts = Some(PartsNote { first: 0, bytes: 0 });
        if let Some((frozen, kept)) = Frozen::of(&mut self.frozen, slot)
            && frozen.parts.is_some_and(|noted| noted.bytes > 0)
            && kept.parts.is_none()
        {
            kept.bytes += parts.value.len() as u64;
            self.kept_bytes += parts.value.len() as u64;
            kept.parts = Some(parts.clone());
        }
    }

    /// A slot is copied by another group: what has changed in it is in every checkpoint. To be called
    /// before the freeze; [`Changes::keep_export`] after it.
    pub(crate) fn note_export(&mut self, slot: Slot) {
        let changes = self.slots.entry(slot).or_default();
        (changes.row, changes.export) = (true, true);
    }

    /// What is copied of a slot at the freeze.
    pub(crate) fn keep_export(&mut self, slot: Slot, memo: SlotMemo) {
        if let Some((_, kept)) = Frozen::of(&mut self.frozen, slot) {
            kept.memo = Some(memo);
        }
    }

    /// A key is about to change that was not noted since the freeze, or is not there. `before`: what
    /// it holds; `version`: the slot's.
    pub(crate) fn note_key(
        &mut self,
        slot: Slot,
        version: u64,
        key: &Bytes,
        before: Option<&Item>,
    ) {
        let changes = self.slots.entry(slot).or_default();
        changes.row = true;
        if changes.keys.insert(key.clone()) {
            self.keys += 1;
            self.bytes += key.len() as u64;
            let note = NOTE_RECORD_BYTES + key.len() as u64;
            changes.noted_bytes += note;
            self.noted_bytes += note;
        }
        let Some((frozen, kept)) = Frozen::of(&mut self.frozen, slot) else { return };
        if frozen.row && kept.memo.is_none() {
            kept.version.get_or_insert(version);
        }
        // After a flush all that was is there already.
        if kept.data.is_none() && frozen.keys.contains(key) && !kept.items.contains_key(key) {
            let bytes = NOTE_RECORD_BYTES + before.map_or(0, |item| item.memory(key));
            kept.bytes += bytes;
            self.kept_bytes += bytes;
            kept.items.insert(key.clone(), before.cloned());
        }
    }

    /// Of the values of noted keys, one of `before` bytes is one of `after` now.
    pub(crate) fn resize(&mut self, before: usize, after: usize) {
        self.bytes = (self.bytes + after as u64).saturating_sub(before as u64);
    }

    /// A slot has lost all its keys, which are in `data`.
    pub(crate) fn note_flush(&mut self, slot: Slot, data: SlotData) {
        let changes = self.slots.entry(slot).or_default();
        changes.row = true;
        changes.flushed = true;
        let keys = std::mem::take(&mut changes.keys);
        self.keys -= keys.len() as u64;
        self.noted_bytes -= std::mem::take(&mut changes.noted_bytes);
        if let Some((frozen, kept)) = Frozen::of(&mut self.frozen, slot) {
            if frozen.row && kept.memo.is_none() {
                kept.version.get_or_insert(data.version());
            }
            if kept.data.is_none() && !frozen.keys.is_empty() {
                let bytes = data.tally().memory();
                kept.bytes += bytes;
                self.kept_bytes += bytes;
                kept.data = Some(data);
                return self.free_later(Flushed::new(SlotData::default(), keys));
            }
        }
        self.free_later(Flushed::new(data, keys));
    }

    fn free_later(&mut self, flushed: Flushed) {
        self.flushed_bytes += flushed.memory();
        self.flushed.push(flushed);
    }

    /// A lane is about to change that was not noted since the freeze. `before`: what it was.
    pub(crate) fn note_lane(&mut self, slot: Slot, session: SessionId, before: Option<&Lane>) {
        if session.is_of_token() && is_broken(Mutant::TokensNotSaved) {
            return;
        }
        self.slots.entry(slot).or_default().lanes.insert(session);
        let Some((frozen, kept)) = Frozen::of(&mut self.frozen, slot) else { return };
        if frozen.lanes.contains(&session) {
            kept.lanes.entry(session).or_insert_with(|| {
                let replies = before.map_or(0, |lane| lane.reply_bytes().total());
                kept.bytes += LANE_RECORD_BYTES + replies;
                self.kept_bytes += LANE_RECORD_BYTES + replies;
                before.cloned()
            });
        }
    }

    /// Whether something waits to be freed.
    pub(crate) fn is_to_free(&self) -> bool {
        !self.flushed.is_empty()
    }

    /// Frees so much of what waits for it.
    pub(crate) fn free(&mut self, keys_max: usize) {
        for _ in 0..keys_max {
            let Some(last) = self.flushed.last_mut() else { return };
            self.flushed_bytes -= last.memory();
            match last.free_one() {
                true => self.flushed_bytes += last.memory(),
                false => drop(self.flushed.pop()),
            }
        }
    }

    /// As [`Changes::memory`], counted anew.
    #[cfg(test)]
    pub(crate) fn recounted(&self) -> u64 {
        let note = |key: &Bytes| NOTE_RECORD_BYTES + key.len() as u64;
        let notes = |slots: &BTreeMap<Slot, SlotChanges>| {
            for changes in slots.values() {
                assert!(changes.noted_bytes >= changes.keys.iter().map(note).sum());
            }
            slots.values().map(|changes| changes.noted_bytes).sum::<u64>()
        };
        let mut bytes = notes(&self.slots);
        if let Some(frozen) = &self.frozen {
            bytes += notes(&frozen.slots);
            bytes += frozen.kept.values().map(|kept| kept.bytes).sum::<u64>();
        }
        bytes + self.flushed.iter().map(Flushed::memory).sum::<u64>()
    }

    /// Whether a flush left something behind for the checkpoint under way.
    #[cfg(test)]
    pub(crate) fn keeps_flushed(&self) -> bool {
        let mut kept = self.frozen.iter().flat_map(|frozen| frozen.kept.values());
        kept.any(|kept| kept.data.is_some())
    }

    /// Begins a checkpoint of the state as it is now.
    pub(crate) fn freeze(&mut self, group: RowChange) {
        assert!(self.frozen.is_none(), "one checkpoint at a time");
        self.epoch.0 = self.epoch.0.checked_add(1).expect("no process lasts so long");
        let slots = std::mem::take(&mut self.slots);
        (self.keys, self.bytes) = (0, 0);
        self.frozen_bytes = std::mem::take(&mut self.noted_bytes);
        self.frozen = Some(Frozen { group: Some(group), slots, kept: BTreeMap::new() });
    }

    /// Hands out the next rows of the checkpoint. `slots` finds what the store holds of a slot now.
    pub(crate) fn collect<'a>(
        &mut self,
        budget: RowBudget,
        slots: impl Fn(Slot) -> SlotNow<'a>,
    ) -> Collected {
        let mut batch = Batch { budget, bytes: 0, rows: Vec::new() };
        let Some(frozen) = &mut self.frozen else {
            return Collected { rows: batch.rows, done: true };
        };
        frozen.group.take().into_iter().for_each(|row| batch.push(row));
        while batch.has_room()
            && let Some(mut first) = frozen.slots.first_entry()
        {
            let slot = *first.key();
            let now = slots(slot);
            // One that nothing was left behind in has an entry only where it would be empty.
            let mut none = Kept::default();
            let kept = frozen.kept.get_mut(&slot).unwrap_or(&mut none);
            if first.get_mut().hand_out(slot, kept, &now, &mut batch) {
                self.frozen_bytes -= first.remove().noted_bytes;
                let Some(kept) = frozen.kept.remove(&slot) else { continue };
                self.kept_bytes -= kept.bytes;
                let left = kept.data.map(|data| Flushed::new(data, BTreeSet::new()));
                self.flushed_bytes += left.as_ref().map_or(0, Flushed::memory);
                self.flushed.extend(left);
            }
        }
        let done = frozen.slots.is_empty();
        if done {
            self.frozen = None;
        }
        Collected { rows: batch.rows, done }
    }
}

/// A slot as the store has it now.
pub(crate) struct SlotNow<'a> {
    pub(crate) memo: SlotMemo,
    pub(crate) data: &'a SlotData,
    pub(crate) lanes: &'a Lanes,
    pub(crate) parts: Option<&'a Parts>,
}

impl Frozen {
    /// What is left to be handed out of a slot, and what was left behind there.
    fn of(frozen: &mut Option<Frozen>, slot: Slot) -> Option<(&SlotChanges, &mut Kept)> {
        let Frozen { slots, kept, .. } = frozen.as_mut()?;
        Some((slots.get(&slot)?, kept.entry(slot).or_default()))
    }
}

impl SlotChanges {
    /// Hands out rows as long as there is room. Whether that were all.
    fn hand_out(
        &mut self,
        slot: Slot,
        kept: &mut Kept,
        now: &SlotNow<'_>,
        batch: &mut Batch,
    ) -> bool {
        if std::mem::take(&mut self.row) {
            let SlotMemo { mut row, names } = kept.memo.take().unwrap_or_else(|| now.memo.clone());
            row.version = kept.version.take().unwrap_or(row.version);
            batch.push(Row::Slot(slot).put(row.value()));
            if std::mem::take(&mut self.export) {
                batch.push(rows::delete_export(slot));
                self.names = Some(NamesLeft { sets: names, after: Default::default() });
            }
        }
        if let Some(names) = &mut self.names {
            if !names.hand_out(slot, batch) {
                return false;
            }
            self.names = None;
        }
        if let Some(parts) = &mut self.parts {
            let ended =
                kept.parts.as_ref().map(|parts| (&parts.name, parts.total, &parts.value[..]));
            let found = now.parts.map(|parts| (parts.name(), parts.total(), parts.value()));
            if !parts.hand_out(slot, ended.or(found), batch) {
                return false;
            }
            self.parts = None;
        }
        if std::mem::take(&mut self.flushed) {
            batch.push(rows::delete_keys(slot));
        }
        while batch.has_room()
            && let Some(session) = self.lanes.pop_first()
        {
            let row = Row::Lane(slot, session);
            let before = kept.lanes.remove(&session);
            let lane = match &before {
                Some(before) => before.as_ref(),
                None => now.lanes.get(session),
            };
            batch.push(lane.map_or_else(|| row.delete(), |lane| row.put(lane.row())));
        }
        while batch.has_room()
            && let Some(key) = self.keys.pop_first()
        {
            let row = Row::Key(slot, &key);
            let before = kept.items.remove(&key);
            let item = match &before {
                Some(before) => before.as_ref(),
                None => kept.data.as_ref().unwrap_or(now.data).item(&key),
            };
            batch.push(item.map_or_else(|| row.delete(), |item| row.put(item.row())));
        }
        self.lanes.is_empty() && self.keys.is_empty()
    }
}

impl NamesLeft {
    /// Whether those were all.
    fn hand_out(&mut self, slot: Slot, batch: &mut Batch) -> bool {
        for (set, (names, after)) in
            [NameSet::List, NameSet::Dirty].into_iter().zip(self.sets.iter().zip(&mut self.after))
        {
            let Some(names) = names else { continue };
            let left = (Bound::Excluded(after.clone()), Bound::Unbounded);
            for name in names.range::<RowName, _>(left) {
                if !batch.has_room() {
                    return false;
                }
                let value = (rows::versioned(), RowBody::default());
                batch.push(Row::Export(slot, set, name).put(value));
                *after = name.clone();
            }
        }
        true
    }
}

impl PartsNote {
    /// Whether those were all. `found` is the row's name, its length, and of its value what was there and perhaps more.
    fn hand_out(
        &mut self,
        slot: Slot,
        found: Option<(&Bytes, u64, &[u8])>,
        batch: &mut Batch,
    ) -> bool {
        if self.first == 0 {
            batch.push(rows::delete_parts(slot));
        }
        let there = self.bytes > 0 && !is_broken(Mutant::PartsNotSaved);
        let Some((name, total, value)) = found.filter(|_| there) else { return true };
        if self.first == 0 {
            batch.push(Row::Part(slot, 0).put(rows::parts_value(name, total)));
            self.first = 1;
        }
        let value = &value[..self.bytes as usize];
        let skipped = (self.first as usize - 1) * PART_ROW_BYTES;
        for part in value[skipped..].chunks(PART_ROW_BYTES) {
            if !batch.has_room() {
                return false;
            }
            let row = (rows::versioned(), Bytes::copy_from_slice(part).into());
            batch.push(Row::Part(slot, self.first).put(row));
            self.first += 1;
        }
        true
    }
}

/// The rows of one step.
struct Batch {
    budget: RowBudget,
    bytes: usize,
    rows: Vec<RowChange>,
}

impl Batch {
    fn has_room(&self) -> bool {
        self.rows.is_empty()
            || (self.rows.len() < self.budget.rows && self.bytes < self.budget.bytes)
    }

    fn push(&mut self, row: RowChange) {
        self.bytes += match &row {
            RowChange::Put { key, head, body } => key.len() + head.len() + body.len(),
            RowChange::Delete { key } => key.len(),
            RowChange::DeletePrefix { prefix } => prefix.len(),
        };
        self.rows.push(row);
    }
}

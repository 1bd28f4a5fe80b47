//! Slots that come and go: what a store makes of the steps of moves ([`crate::migration`]).

use super::{Mutant, ShardStore, SlotState, is_broken, reschedule};
use crate::data::{self, Item};
use crate::migration::{
    Behind, Chunk, ChunkRow, Ended, Export, FrozenSlot, Held, Import, MoveStep, PartOf, PartPlace,
    Parts, Phase, RowName,
};
use crate::moves::{Move, MoveId, MoveOutcome, RefuseReason};
use crate::op::Outcome;
use crate::rows::Named;
use crate::session::{Lane, SessionId, TOKEN_SPARE_MS};
use crate::slot::{SLOTS, Slot, hash_slot};
use crate::wire::Answer;
use bytes::Bytes;

/// Where a slot stands in its moves, for whoever drives them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotStand {
    /// The newest move that is settled.
    pub settled: MoveId,
    /// How that one ended, until the shardmaster knows.
    pub ended: Option<Ended>,
    /// What the group has of it.
    pub phase: SlotPhase,
}

/// What a group has of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotPhase {
    /// Nothing.
    Absent,
    /// It serves it.
    Owned,
    /// It serves it, unless it is frozen, while another group copies it.
    Exporting {
        /// The move.
        order: Move,
        /// The round.
        round: u32,
        /// The slot serves nobody any more.
        frozen: bool,
    },
    /// It copies it.
    Importing {
        /// The move.
        order: Move,
        /// The round.
        round: u32,
        /// The last row of the round that it has looked at. None: it has all of the round.
        cursor: Option<RowName>,
        /// What has come of the row behind it.
        held: Option<Held>,
    },
}

/// What is in a row of a chunk.
enum Parsed {
    Lane(SessionId, Option<Lane>),
    Key(Bytes, Option<Item>),
}

impl ShardStore {
    /// The slots in a move, or with an end of one that the shardmaster does not know, in order.
    pub fn moving(&self) -> impl Iterator<Item = Slot> + '_ {
        self.moving.iter().copied()
    }

    /// Where a slot stands.
    pub fn stand(&self, slot: Slot) -> SlotStand {
        SlotStand {
            settled: self.settled.get(&slot).copied().unwrap_or_default(),
            ended: self.ended.get(&slot).copied(),
            phase: match self.slots.get(&slot).map(|state| &state.phase) {
                None => SlotPhase::Absent,
                Some(Phase::Owned) => SlotPhase::Owned,
                Some(Phase::Exporting(export)) => SlotPhase::Exporting {
                    order: export.order,
                    round: export.round,
                    frozen: export.frozen,
                },
                Some(Phase::Importing(import)) => SlotPhase::Importing {
                    order: import.order,
                    round: import.round,
                    cursor: import.cursor.clone(),
                    held: self
                        .slots
                        .get(&slot)
                        .and_then(|state| Some(state.parts.as_ref()?.held())),
                },
            },
        }
    }

    /// What a next round of a slot that is copied would have.
    pub fn behind(&self, slot: Slot) -> Option<Behind> {
        Some(self.slots.get(&slot)?.phase.export()?.behind())
    }

    /// What a request for a slot that the group has not is told.
    pub(super) fn elsewhere(&self, slot: Slot) -> Answer {
        match self.ended.get(&slot) {
            Some(Ended { order, outcome: MoveOutcome::Activated }) if order.to != self.group => {
                Answer::Moved { to: order.to, epoch: order.epoch }
            }
            Some(_) | None => Answer::Elsewhere,
        }
    }

    /// What the names of changed rows and the parts of rows take in memory. Few slots move at a time.
    pub(super) fn moves_memory(&self) -> u64 {
        let moving = self.moving.iter().filter_map(|slot| self.slots.get(slot));
        let of = |state: &SlotState| {
            let names = state.phase.export().map_or(0, Export::memory);
            names + state.parts.as_deref().map_or(0, Parts::bytes)
        };
        moving.map(of).sum()
    }

    /// Takes a step of a move. One that does not fit changes nothing.
    pub(super) fn step(&mut self, step: MoveStep, full: bool) -> Answer {
        let (slot, id) = step.of();
        if slot.0 >= SLOTS || id == MoveId(0) {
            return Answer::Invalid;
        }
        match step {
            MoveStep::BeginExport(order) => self.begin_export(order),
            MoveStep::Rotate { round, .. } => self.rotate(slot, id, round, false),
            MoveStep::Freeze { round, .. } => self.rotate(slot, id, round, true),
            MoveStep::AbortExport { order, reason } => self.abort_export(order, reason),
            MoveStep::CompleteExport { .. } => self.complete_export(slot, id),
            MoveStep::BeginImport(order) => self.begin_import(order),
            MoveStep::Import { chunk, .. } => return self.import(slot, id, chunk, full),
            MoveStep::ImportPart { chunk, part, .. } => {
                return self.import_part(slot, id, chunk, part, full);
            }
            MoveStep::Refuse { order, reason } => self.refuse(order, reason),
            MoveStep::Forget { .. } => self.forget(slot, id),
        }
        Answer::Done { outcome: Outcome::Ok, log_time: self.log_time }
    }

    /// Whether a move may begin here. One that is settled, or older than that, may not: the order is late.
    fn may_begin(&self, order: &Move) -> bool {
        let settled = self.settled.get(&order.slot).copied().unwrap_or_default();
        // Nor while the shardmaster does not know how the one before ended: its record would be lost.
        order.id > settled && !self.ended.contains_key(&order.slot)
    }

    fn begin_export(&mut self, order: Move) {
        let state = self.slots.get(&order.slot);
        let owned = state.is_some_and(|state| {
            state.phase == Phase::Owned && state.epoch.0.checked_add(1) == Some(order.epoch.0)
        });
        if owned && order.from == Some(self.group) && self.may_begin(&order) {
            self.about_to_step(order.slot);
            let mut export = Export::begin(order);
            if is_broken(Mutant::ListAtBegin) {
                self.state(order.slot).rows_after(&[]).for_each(|(name, _)| export.touch(&name, 0));
            }
            self.state(order.slot).phase = Phase::Exporting(Box::new(export));
            self.moving.insert(order.slot);
        }
    }

    fn rotate(&mut self, slot: Slot, id: MoveId, round: u32, freeze: bool) {
        // The floor of a slot that is frozen is the log time at which it was.
        let log_time = self.log_time;
        let Some(export) = self.export_of(slot, id) else { return };
        let mut next = export.clone();
        if !next.rotate(round, freeze) {
            return;
        }
        self.about_to_step(slot);
        let state = self.state(slot);
        state.phase = Phase::Exporting(Box::new(next));
        if freeze {
            state.floor = state.floor.max(log_time);
            if !is_broken(Mutant::SweepFrozen) {
                self.unschedule(slot);
            }
        }
    }

    fn abort_export(&mut self, order: Move, reason: RefuseReason) {
        let slot = order.slot;
        if order.from != Some(self.group) || !self.may_begin(&order) {
            return;
        }
        let frozen = match self.slots.get(&slot).map(|state| &state.phase) {
            Some(Phase::Exporting(export)) if export.order == order => export.frozen,
            // It was refused before it began here, and shall not begin any more.
            Some(Phase::Owned) => false,
            Some(Phase::Exporting(_) | Phase::Importing(_)) | None => return,
        };
        self.about_to_step(slot);
        self.state(slot).phase = Phase::Owned;
        if frozen {
            let state = self.slots.remove(&slot).expect("it is exported");
            self.schedule(slot, &state);
            self.slots.insert(slot, state);
        }
        self.settle(Ended { order, outcome: MoveOutcome::Refused(reason) });
    }

    fn complete_export(&mut self, slot: Slot, id: MoveId) {
        let Some(export) = self.export_of(slot, id) else { return };
        // Before the freeze the destination cannot have all of it, so it cannot have activated.
        if !export.frozen {
            return;
        }
        let order = export.order;
        self.about_to_step(slot);
        self.give_up(slot);
        self.settle(Ended { order, outcome: MoveOutcome::Activated });
    }

    fn begin_import(&mut self, order: Move) {
        let slot = order.slot;
        let fits = order.to == self.group && order.from != Some(self.group);
        if !fits || !self.may_begin(&order) || self.slots.contains_key(&slot) {
            return;
        }
        self.about_to_step(slot);
        let mut state = SlotState::new(self.log_time, order.epoch);
        let first = order.from.is_none();
        if !first {
            state.phase = Phase::Importing(Box::new(Import::begin(order)));
        }
        self.slots.insert(slot, Box::new(state));
        self.moving.insert(slot);
        if first {
            self.settle(Ended { order, outcome: MoveOutcome::Activated });
        }
    }

    fn refuse(&mut self, order: Move, reason: RefuseReason) {
        if order.to != self.group || !self.may_begin(&order) {
            return;
        }
        match self.slots.get(&order.slot).map(|state| &state.phase) {
            None => self.about_to_step(order.slot),
            Some(Phase::Importing(import)) if import.order == order => {
                self.about_to_step(order.slot);
                self.give_up(order.slot);
            }
            Some(_) => return,
        }
        self.settle(Ended { order, outcome: MoveOutcome::Refused(reason) });
    }

    fn forget(&mut self, slot: Slot, id: MoveId) {
        if self.ended.get(&slot).is_some_and(|ended| ended.order.id == id) {
            self.about_to_step(slot);
            self.ended.remove(&slot);
            self.note_moving(slot);
            if is_broken(Mutant::ForgetSettled) {
                self.settled.remove(&slot);
            }
        }
    }

    /// Takes the next rows of a slot that comes.
    fn import(&mut self, slot: Slot, id: MoveId, chunk: Chunk, full: bool) -> Answer {
        let Some(mut next) = self.importing(slot, id) else { return self.done() };
        match next.takes(&chunk) {
            true => self.install(slot, next, &chunk, full),
            false => self.done(),
        }
    }

    /// Takes the next part of a row of a slot that comes. With the last one the row has come.
    fn import_part(
        &mut self,
        slot: Slot,
        id: MoveId,
        mut chunk: Chunk,
        part: PartOf,
        full: bool,
    ) -> Answer {
        let Some(mut next) = self.importing(slot, id) else { return self.done() };
        let (order, from, held) = (next.order, chunk.from.clone(), &self.state(slot).parts);
        let Some(row) = chunk.parted_row() else { return self.done() };
        let Some(place) = Parts::take(held.as_deref(), row, part).filter(|_| next.takes(&chunk))
        else {
            return self.done();
        };
        if full {
            self.refuse(order, RefuseReason::OutOfMemory);
            return self.done();
        }
        self.about_to_step(slot);
        if let Some(value) = self.push_part(slot, row, part, place) {
            chunk.rows[0].value = Some(value);
            return self.install(slot, next, &chunk, full);
        }
        next.cursor = Some(from);
        self.state(slot).phase = Phase::Importing(Box::new(next));
        if chunk.clear && !is_broken(Mutant::IgnoreClear) {
            self.clear(slot);
        }
        self.done()
    }

    /// Puts a part in its place. With the last one of a row this is its value.
    fn push_part(
        &mut self,
        slot: Slot,
        row: &ChunkRow,
        part: PartOf,
        place: PartPlace,
    ) -> Option<Bytes> {
        if place == PartPlace::First {
            self.drop_parts(slot);
            self.state(slot).parts = Parts::begin(row.name.clone(), part.total).map(Box::new);
        }
        let parts = self.slots.get_mut(&slot)?.parts.as_mut()?;
        let before = parts.bytes();
        parts.push(row.value.as_ref()?);
        self.changes.note_part(slot, before, parts.bytes());
        match parts.is_whole() {
            true => self.drop_parts(slot),
            false => None,
        }
    }

    /// A slot that comes by this move, as far as it has come.
    fn importing(&self, slot: Slot, id: MoveId) -> Option<Import> {
        let Phase::Importing(import) = &self.slots.get(&slot)?.phase else { return None };
        let same = import.order.id == id || is_broken(Mutant::AnyMove);
        same.then(|| Import::clone(import))
    }

    fn done(&self) -> Answer {
        Answer::Done { outcome: Outcome::Ok, log_time: self.log_time }
    }

    /// Puts rows in their place, behind which the slot has come so far.
    fn install(&mut self, slot: Slot, next: Import, chunk: &Chunk, full: bool) -> Answer {
        let done = self.done();
        let Some(rows) = parse(slot, chunk) else { return Answer::Invalid };
        let (order, whole) = (next.order, next.cursor.is_none());
        if full || !self.has_room_for(slot, &rows) {
            self.refuse(order, RefuseReason::OutOfMemory);
            return done;
        }
        self.about_to_step(slot);
        if !is_broken(Mutant::OldPartsStay) {
            self.drop_parts(slot);
        }
        self.state(slot).phase = Phase::Importing(Box::new(next));
        if chunk.clear && !is_broken(Mutant::IgnoreClear) {
            self.clear(slot);
        }
        let held = self.state(slot).data.tally();
        for row in rows {
            match row {
                Parsed::Lane(session, lane) => self.install_lane(slot, session, lane),
                Parsed::Key(_, None) if is_broken(Mutant::NoTombstones) => {}
                Parsed::Key(key, item) => self.changing(slot).install(key, item),
            }
        }
        self.tally = self.tally.moved(held, self.state(slot).data.tally());
        if let Some(frozen) = chunk.frozen.filter(|_| whole) {
            self.activate(order, frozen);
        }
        done
    }

    /// Whether the lanes among the rows find room, and what they remember: as much as for those that are made here.
    /// Each goes for the one that an earlier round brought.
    fn has_room_for(&self, slot: Slot, rows: &[Parsed]) -> bool {
        let here = self.slots.get(&slot).map(|state| &state.lanes);
        let mut tallies = self.lane_tallies;
        for row in rows {
            if let Parsed::Lane(session, lane) = row {
                let before = here.and_then(|lanes| lanes.get(*session));
                let before = before.filter(|_| !is_broken(Mutant::LanesOfEachRound));
                tallies.of(*session).replace(before, lane.as_ref());
            }
        }
        tallies.fit(&self.limits) || is_broken(Mutant::ImportsUnbounded)
    }

    /// From here on the group owns the slot.
    fn activate(&mut self, order: Move, frozen: FrozenSlot) {
        let mut state = self.slots.remove(&order.slot).expect("it is imported");
        state.phase = Phase::Owned;
        if !is_broken(Mutant::DropFloor) {
            state.floor = frozen.floor;
        }
        if !is_broken(Mutant::DropVersion) {
            state.data.set_version(frozen.version);
        }
        self.keep_tokens_for(order.slot, &mut state);
        self.schedule(order.slot, &state);
        self.slots.insert(order.slot, state);
        self.settle(Ended { order, outcome: MoveOutcome::Activated });
    }

    /// Tokens of a slot that comes to a group whose log time is far ahead are remembered for longer by as much: by its
    /// clock they would be over. The group's clock was wrong once, or the other's is; a little is what windows have to
    /// spare.
    fn keep_tokens_for(&mut self, slot: Slot, state: &mut SlotState) {
        let ahead = self.log_time.0.saturating_sub(state.floor.0);
        if ahead <= TOKEN_SPARE_MS || is_broken(Mutant::TokensEndEarly) {
            return;
        }
        for (name, lane) in state.lanes.tokens_mut() {
            self.changes.note_lane(slot, name, Some(lane));
            lane.set_noted(self.changes.epoch());
            lane.last_longer(ahead);
        }
    }

    fn install_lane(&mut self, slot: Slot, session: SessionId, lane: Option<Lane>) {
        let state = self.slots.get_mut(&slot).expect("it is imported");
        let before = state.lanes.remove(session);
        self.changes.note_lane(slot, session, before.as_ref());
        self.lane_tallies.of(session).replace(before.as_ref(), lane.as_ref());
        if let Some(mut lane) = lane {
            lane.set_noted(self.changes.epoch());
            state.lanes.get_or_insert_with(session, || lane);
        }
    }

    /// All keys go; what they take is freed in steps.
    fn clear(&mut self, slot: Slot) {
        let held = self.state(slot).data.tally();
        self.changing(slot).clear();
        self.tally = self.tally.moved(held, self.state(slot).data.tally());
    }

    /// No more comes to what there is of a row, which is this.
    fn drop_parts(&mut self, slot: Slot) -> Option<Bytes> {
        let ended = self.state(slot).parts.take()?.end();
        self.changes.end_parts(slot, &ended);
        Some(ended.value)
    }

    /// The slot's keys and lanes go; what they take is freed in steps.
    fn give_up(&mut self, slot: Slot) {
        self.drop_parts(slot);
        self.state(slot).phase = Phase::Owned;
        self.clear(slot);
        let state = self.slots.remove(&slot).expect("it is here");
        for (session, lane) in state.lanes.iter() {
            self.changes.note_lane(slot, session, Some(lane));
            self.lane_tallies.of(session).replace(Some(lane), None);
        }
    }

    fn settle(&mut self, ended: Ended) {
        let Ended { order, .. } = ended;
        self.settled.insert(order.slot, order.id);
        if !is_broken(Mutant::EndNotKept) {
            self.ended.insert(order.slot, ended);
        }
        self.moving.insert(order.slot);
    }

    /// Whether the slot is in a move has perhaps changed.
    pub(super) fn note_moving(&mut self, slot: Slot) {
        let under_way = self.slots.get(&slot).is_some_and(|s| s.phase.order().is_some());
        match under_way || self.ended.contains_key(&slot) {
            true => self.moving.insert(slot),
            false => self.moving.remove(&slot),
        };
    }

    /// Nothing of the slot is swept any more.
    fn unschedule(&mut self, slot: Slot) {
        let state = self.slots.get(&slot).expect("it is here");
        for (session, lane) in state.lanes.iter() {
            self.lane_ends.remove(&(lane.deadline(), session, slot));
        }
        reschedule(&mut self.expiry_due, slot, state.data.first_expiry(), None);
    }

    /// What of the slot ends by time is swept then.
    pub(super) fn schedule(&mut self, slot: Slot, state: &SlotState) {
        for (session, lane) in state.lanes.iter() {
            self.lane_ends.insert((lane.deadline(), session, slot));
        }
        reschedule(&mut self.expiry_due, slot, None, state.data.first_expiry());
    }

    fn export_of(&self, slot: Slot, id: MoveId) -> Option<&Export> {
        self.slots.get(&slot)?.phase.export().filter(|export| export.order.id == id)
    }

    fn state(&mut self, slot: Slot) -> &mut SlotState {
        self.slots.get_mut(&slot).expect("whoever asks has seen it")
    }

    fn changing(&mut self, slot: Slot) -> data::Changing<'_> {
        let state = self.slots.get_mut(&slot).expect("whoever asks has seen it");
        state.changing(slot, &mut self.changes)
    }

    /// Sees to it that the checkpoint under way gets the slot's row as it was.
    fn about_to_step(&mut self, slot: Slot) {
        let mut changes = std::mem::take(&mut self.changes);
        changes.note_step(slot, || self.memo(slot));
        self.changes = changes;
    }
}

/// Reads the rows of a chunk, if all of them are of this slot, in order, and what they should be.
fn parse(slot: Slot, chunk: &Chunk) -> Option<Vec<Parsed>> {
    let mut last: &[u8] = &chunk.from;
    let mut rows = Vec::with_capacity(chunk.rows.len());
    for ChunkRow { name, value } in &chunk.rows {
        if name.as_ref() <= last || chunk.next.as_ref().is_some_and(|next| name > next) {
            return None;
        }
        last = name;
        let value = value.clone();
        rows.push(match Named::of(name)? {
            Named::Lane(session) => {
                Parsed::Lane(session, value.map(Lane::of_row).transpose().ok()?)
            }
            Named::Key(key) if hash_slot(key) == slot => {
                let item = value.map(data::item_of_row).transpose().ok()?;
                Parsed::Key(Bytes::copy_from_slice(key), item)
            }
            Named::Key(_) => return None,
        });
    }
    // What was looked at last is not behind what is next.
    let version = chunk.frozen.map_or(0, |frozen| frozen.version);
    (version <= u64::MAX / 2).then_some(rows)
}

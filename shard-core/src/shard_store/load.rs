//! A store out of its rows. What is kept only to find things again is made anew.

use super::changes::PART_ROW_BYTES;
use super::{ShardStore, SlotState};
use crate::cluster_config::ConfigNum;
use crate::data::{self, Item, SlotData};
use crate::migration::{Export, Parts, Phase, PhaseRow};
use crate::moves::MoveId;
use crate::rows::{self, GroupRow, Row, RowError, RowFault, RowOrder, SlotRow};
use crate::session::{Lane, LaneLimits, Lanes, SessionId};
use crate::slot::{Slot, hash_slot};
use bytes::Bytes;
use raft_core::types::GroupId;

/// Takes rows in the order of their keys.
#[derive(Debug)]
pub struct StoreLoader {
    store: ShardStore,
    order: RowOrder,
    /// The group's row was there.
    begun: bool,
    slot: Option<Loading>,
}

/// The slot whose rows come.
#[derive(Debug)]
struct Loading {
    slot: Slot,
    row: SlotRow,
    export: Option<Export>,
    lanes: Vec<(SessionId, Lane)>,
    items: Vec<(Bytes, Item)>,
    parts: Option<Parts>,
}

impl StoreLoader {
    /// Begins with nothing.
    pub fn new(group: GroupId) -> StoreLoader {
        StoreLoader::with_limits(group, LaneLimits::default())
    }

    /// Begins with nothing, for a store with other bounds than the usual.
    pub fn with_limits(group: GroupId, limits: LaneLimits) -> StoreLoader {
        let store = ShardStore::with_limits(group, limits);
        StoreLoader { store, order: RowOrder::default(), begun: false, slot: None }
    }

    /// Takes the next row.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn row(&mut self, key: &[u8], value: Bytes) -> Result<(), RowFault> {
        let row = Row::of(key)?;
        self.order.follows(key)?;
        match row {
            Row::Group => {
                let GroupRow { log_time, assigned } = GroupRow::read(value, self.store.group)?;
                self.store.log_time = log_time;
                self.store.assigned = assigned.checked_sub(1).map(ConfigNum);
                self.begun = true;
            }
            Row::Master(_) => return Err(RowFault::Group),
            Row::Slot(slot) => {
                if !self.begun {
                    return Err(RowFault::Orphan);
                }
                let row = SlotRow::read(value, slot)?;
                // The first assignment of slots would be taken for the first again.
                if self.store.assigned.is_none() && row.moves.is_first() {
                    return Err(RowFault::Contradiction);
                }
                self.close_slot();
                let export = match &row.moves.phase {
                    PhaseRow::Exporting(export) => Some(Export::of_row(*export)),
                    PhaseRow::Absent | PhaseRow::Owned | PhaseRow::Importing(_) => None,
                };
                let (lanes, items) = (Vec::new(), Vec::new());
                self.slot = Some(Loading { slot, row, export, lanes, items, parts: None });
            }
            Row::Lane(slot, session) => {
                self.within(slot)?.lanes.push((session, Lane::of_row(value)?));
            }
            Row::Key(slot, name) => {
                if hash_slot(name) != slot {
                    return Err(RowFault::Contradiction);
                }
                let item = data::item_of_row(value)?;
                self.within(slot)?.items.push((Bytes::copy_from_slice(name), item));
            }
            Row::Export(slot, set, name) => {
                let mut value = value;
                rows::unversioned(&mut value)?;
                let loading = self.slot.as_mut().filter(|loading| loading.slot == slot);
                let export = loading.ok_or(RowFault::Orphan)?.export.as_mut();
                if !value.is_empty() || !export.is_some_and(|export| export.load(set, name)) {
                    return Err(RowFault::Contradiction);
                }
            }
            Row::Part(slot, number) => self.part(slot, number, value)?,
        }
        Ok(())
    }

    /// That were all.
    ///
    /// # Errors
    /// If there was none.
    pub fn finish(mut self) -> Result<ShardStore, RowError> {
        if !self.begun {
            return Err(RowError { row: Row::Group.key().to_vec(), fault: RowFault::Missing });
        }
        self.close_slot();
        Ok(self.store)
    }

    /// Takes the next part of a row that has not all come, or, before all of them, which row that is.
    fn part(&mut self, slot: Slot, number: u32, mut value: Bytes) -> Result<(), RowFault> {
        let loading = self.within(slot)?;
        if !matches!(loading.row.moves.phase, PhaseRow::Importing(_)) {
            return Err(RowFault::Contradiction);
        }
        let parts = match (&mut loading.parts, number) {
            (None, 0) => {
                loading.parts = Some(rows::parts_of(value)?);
                return Ok(());
            }
            (Some(parts), 1..) => parts,
            (None, _) | (Some(_), 0) => return Err(RowFault::Orphan),
        };
        rows::unversioned(&mut value)?;
        let follows = u64::from(number - 1) * PART_ROW_BYTES as u64 == parts.bytes();
        // A row of which all has come is no row in parts any more.
        let fits = (1..=PART_ROW_BYTES).contains(&value.len());
        if !follows || !fits || parts.bytes() + value.len() as u64 >= parts.total() {
            return Err(RowFault::Contradiction);
        }
        parts.push(&value);
        Ok(())
    }

    fn within(&mut self, slot: Slot) -> Result<&mut Loading, RowFault> {
        let is_here = |loading: &&mut Loading| {
            loading.slot == slot && loading.row.moves.phase != PhaseRow::Absent
        };
        self.slot.as_mut().filter(is_here).ok_or(RowFault::Orphan)
    }

    /// Puts the slot into the store.
    fn close_slot(&mut self) {
        let Some(loading) = self.slot.take() else { return };
        let Loading { slot, row, export, lanes, items, parts } = loading;
        let SlotRow { floor, version, moves } = row;
        let store = &mut self.store;
        if moves.settled > MoveId(0) {
            store.settled.insert(slot, moves.settled);
        }
        store.ended.extend(moves.ended.map(|ended| (slot, ended)));
        let phase = match (moves.phase, export) {
            (PhaseRow::Exporting(_), Some(export)) => Phase::Exporting(Box::new(export)),
            (PhaseRow::Importing(import), _) => Phase::Importing(Box::new(import)),
            (PhaseRow::Owned | PhaseRow::Exporting(_), _) => Phase::Owned,
            (PhaseRow::Absent, _) => return store.note_moving(slot),
        };
        let data = SlotData::of_items(version, items);
        let lanes = Lanes::of_sorted(lanes);
        for (session, lane) in lanes.iter() {
            store.lane_tallies.of(session).replace(None, Some(lane));
        }
        store.tally = store.tally.moved(data::Tally::default(), data.tally());
        let new = SlotState::new(floor, moves.epoch);
        let state = SlotState { phase, data, lanes, parts: parts.map(Box::new), ..new };
        if !state.phase.is_still() {
            store.schedule(slot, &state);
        }
        store.slots.insert(slot, Box::new(state));
        store.note_moving(slot);
    }
}

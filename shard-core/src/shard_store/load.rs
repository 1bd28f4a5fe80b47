//! A store out of its rows. What is kept only to find things again is made anew.

use super::{ShardStore, SlotState};
use crate::cluster_config::ConfigNum;
use crate::data::{self, Item, SlotData};
use crate::rows::{GroupRow, Row, RowError, RowFault, RowOrder, SlotRow};
use crate::session::{Lane, LaneLimits, Lanes, ReplyBytes, SessionId};
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
    lanes: Vec<(SessionId, Lane)>,
    items: Vec<(Bytes, Item)>,
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
            Row::Config(_) => return Err(RowFault::Group),
            Row::Slot(slot) => {
                if !self.begun {
                    return Err(RowFault::Orphan);
                }
                // The first assignment of slots would be taken for the first again.
                if self.store.assigned.is_none() {
                    return Err(RowFault::Contradiction);
                }
                let row = SlotRow::read(value)?;
                self.close_slot();
                self.slot = Some(Loading { slot, row, lanes: Vec::new(), items: Vec::new() });
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

    fn within(&mut self, slot: Slot) -> Result<&mut Loading, RowFault> {
        self.slot.as_mut().filter(|loading| loading.slot == slot).ok_or(RowFault::Orphan)
    }

    /// Puts the slot into the store.
    fn close_slot(&mut self) {
        let Some(Loading { slot, row, lanes, items }) = self.slot.take() else { return };
        let store = &mut self.store;
        for (session, lane) in &lanes {
            store.lane_ends.insert((lane.deadline(), *session, slot));
            store.reply_bytes = store.reply_bytes.moved(ReplyBytes::default(), lane.reply_bytes());
        }
        let data = SlotData::of_items(row.version, items);
        store.tally = store.tally.moved(data::Tally::default(), data.tally());
        store.expiry_due.extend(data.first_expiry().map(|at| (at, slot)));
        let lanes = Lanes::of_sorted(lanes);
        store.slots.insert(slot, Box::new(SlotState { floor: row.floor, data, lanes }));
    }
}

//! Keys as rows on disk.

use super::{Item, SlotData};
use crate::rows::{self, RowFault, RowValue};
use crate::session::LogTime;
use crate::shard_store::Epoch;
use bytes::{Buf, Bytes};
use std::ops::Bound;

/// A string that never expires.
const STRING: u8 = 0;
/// A string, preceded by when it expires.
const STRING_EXPIRES: u8 = 1;

impl Item {
    /// The row of a key that holds this. The value is shared, not copied.
    pub(crate) fn row(&self) -> RowValue {
        let mut head = rows::versioned();
        match self.expires {
            None => head.push(STRING),
            Some(at) => {
                head.push(STRING_EXPIRES);
                head.extend_from_slice(&at.0.to_be_bytes());
            }
        }
        (head, self.value.clone().into())
    }
}

/// Reads the row of a key. The value shares its memory.
pub(crate) fn item_of_row(mut row: Bytes) -> Result<Item, RowFault> {
    rows::unversioned(&mut row)?;
    let expires = match row.try_get_u8() {
        Ok(STRING) => None,
        Ok(STRING_EXPIRES) => {
            let at = row.try_get_u64().map_err(|_| RowFault::Value)?;
            // What no op can set; TTL counts with the sign.
            Some(LogTime(at))
                .filter(|at| at.0 <= i64::MAX as u64)
                .ok_or(RowFault::Value)
                .map(Some)?
        }
        Ok(_) | Err(_) => return Err(RowFault::Value),
    };
    Ok(Item { value: row, expires, noted: Epoch::default() })
}

impl SlotData {
    /// A slot of these keys, which are in order.
    pub(crate) fn of_items(version: u64, items: Vec<(Bytes, Item)>) -> SlotData {
        let bytes = items.iter().map(|(key, item)| (key.len() + item.value.len()) as u64).sum();
        let expires = |(key, item): &(Bytes, Item)| item.expires.map(|at| (at, key.clone()));
        let expiries = items.iter().filter_map(expires).collect();
        let key_bytes = items.iter().map(|(key, _)| key.len() as u64).sum();
        SlotData { items: items.into_iter().collect(), expiries, bytes, key_bytes, version }
    }

    /// Raised by every change.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Goes on counting where the group counted that had the slot before.
    pub(crate) fn set_version(&mut self, version: u64) {
        self.version = version;
    }

    /// The keys after one, in order, with those that are expired and not collected.
    pub(crate) fn items_after(&self, key: Option<&[u8]>) -> impl Iterator<Item = (&Bytes, &Item)> {
        let from = key.map_or(Bound::Unbounded, Bound::Excluded);
        self.items.range::<[u8], _>((from, Bound::Unbounded))
    }

    /// All keys, in order, with those that are expired and not collected.
    #[cfg(test)]
    pub(crate) fn items(&self) -> impl Iterator<Item = (&Bytes, &Item)> {
        self.items.iter()
    }
}

//! What concerns keys whatever they hold (Redis db.c).

use super::{Changing, OUTCOME_BYTES_MAX, SlotData};
use crate::op::{ELEMENT_BYTES, Outcome, Word};
use crate::session::LogTime;
use bytes::Bytes;

/// A key named twice is deleted once.
pub(super) fn del(data: &mut Changing<'_>, keys: &[Bytes], now: LogTime) -> Outcome {
    Outcome::Integer(keys.iter().filter(|key| data.take(key, now).is_some()).count() as i64)
}

/// A key named twice counts twice.
pub(super) fn exists(data: &SlotData, keys: &[Bytes], now: LogTime) -> Outcome {
    Outcome::Integer(keys.iter().filter(|key| data.get(key, now).is_some()).count() as i64)
}

pub(super) fn kind(data: &SlotData, key: &[u8], now: LogTime) -> Outcome {
    Outcome::Word(data.get(key, now).map_or(Word::None, |_| Word::String))
}

pub(super) fn flush(data: &mut Changing<'_>) -> Outcome {
    data.clear();
    Outcome::Ok
}

pub(super) fn count(data: &SlotData, now: LogTime) -> Outcome {
    Outcome::Integer(data.live_tally(now).keys as i64)
}

/// As many as fit a frame, if that is less.
pub(super) fn list(data: &SlotData, count: u32, now: LogTime) -> Outcome {
    let mut room = OUTCOME_BYTES_MAX;
    let fits = |key: &&Bytes| match room.checked_sub(key.len() + ELEMENT_BYTES) {
        Some(left) => {
            room = left;
            true
        }
        None => false,
    };
    Outcome::Keys(data.live(now).take(count as usize).take_while(fits).cloned().collect())
}

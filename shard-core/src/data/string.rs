//! GET, SET and their family (Redis t_string.c).

use super::{Changing, Item, OUTCOME_BYTES_MAX, SlotData, VALUE_BYTES_MAX, expiry};
use crate::integer::parse_integer;
use crate::op::{OpError, Outcome, Set, SetCondition, SetExpiry};
use crate::session::LogTime;
use bytes::{Bytes, BytesMut};

pub(super) fn get(data: &SlotData, key: &[u8], now: LogTime) -> Outcome {
    value_or_nil(data.get(key, now))
}

/// Redis never refuses an MGET for its size; here the values have to fit one frame.
pub(super) fn mget(data: &SlotData, keys: &[Bytes], now: LogTime) -> Outcome {
    let value = |key: &Bytes| data.get(key, now).map(|item| item.value.clone());
    let values = Outcome::Values(keys.iter().map(value).collect());
    match values.bytes() {
        0..=OUTCOME_BYTES_MAX => values,
        _ => Outcome::Error(OpError::StringTooLong),
    }
}

pub(super) fn strlen(data: &SlotData, key: &[u8], now: LogTime) -> Outcome {
    Outcome::Integer(data.get(key, now).map_or(0, |item| item.value.len() as i64))
}

/// In Redis' order: expire time, then NX and XX, then the effect. With GET the old value is the
/// answer whether or not the condition held.
pub(super) fn set(data: &mut Changing<'_>, set: Set, now: LogTime) -> Outcome {
    if set.value.len() > VALUE_BYTES_MAX {
        return Outcome::Error(OpError::StringTooLong);
    }
    let old = data.get(&set.key, now);
    let exists = old.is_some();
    let answer = if set.get { value_or_nil(old) } else { Outcome::Ok };
    let expires = match set.expiry {
        SetExpiry::Clear => None,
        SetExpiry::Keep => old.and_then(|item| item.expires),
        SetExpiry::AfterMs(ms) => match expiry::after(now, ms).filter(|_| ms > 0) {
            Some(at) => Some(at),
            None => return Outcome::Error(OpError::InvalidExpireTime(set.command)),
        },
        SetExpiry::AtMs(ms) => match u64::try_from(ms) {
            Ok(at) if at > 0 => Some(LogTime(at)),
            _ => return Outcome::Error(OpError::InvalidExpireTime(set.command)),
        },
    };
    let holds = match set.condition {
        None => true,
        Some(SetCondition::IfAbsent) => !exists,
        Some(SetCondition::IfPresent) => exists,
    };
    if holds {
        if expires.is_none_or(|at| at > now) {
            data.put(set.key, set.value, expires);
        } else {
            data.remove(&set.key);
        }
    }
    if holds || set.get { answer } else { Outcome::Nil }
}

/// Keeps the expiry. The value grows in place as long as no reply shares it, with room to spare, so
/// a value built by many appends costs what is appended; one that is shared is copied first.
pub(super) fn append(data: &mut Changing<'_>, key: Bytes, value: &[u8], now: LogTime) -> Outcome {
    let old = data.get(&key, now);
    let (len, expires) = old.map_or((0, None), |item| (item.value.len(), item.expires));
    let (exists, len) = (old.is_some(), len + value.len());
    if len > VALUE_BYTES_MAX {
        return Outcome::Error(OpError::StringTooLong);
    }
    let mut grown = match exists {
        true => into_growable(data.borrow_value(&key), len),
        false => BytesMut::with_capacity(len),
    };
    grown.extend_from_slice(value);
    data.put(key, grown.freeze(), expires);
    Outcome::Integer(len as i64)
}

/// Keeps the expiry.
pub(super) fn incr_by(data: &mut Changing<'_>, key: Bytes, by: i64, now: LogTime) -> Outcome {
    let old = data.get(&key, now);
    let expires = old.and_then(|item| item.expires);
    let Some(number) = old.map_or(Some(0), |item| parse_integer(&item.value)) else {
        return Outcome::Error(OpError::NotAnInteger);
    };
    let Some(sum) = number.checked_add(by) else {
        return Outcome::Error(OpError::Overflow);
    };
    data.put(key, Bytes::from(sum.to_string()), expires);
    Outcome::Integer(sum)
}

pub(super) fn get_del(data: &mut Changing<'_>, key: &[u8], now: LogTime) -> Outcome {
    value_or_nil(data.take(key, now).as_ref())
}

fn value_or_nil(item: Option<&Item>) -> Outcome {
    item.map_or(Outcome::Nil, |item| Outcome::Value(item.value.clone()))
}

fn into_growable(value: Bytes, len: usize) -> BytesMut {
    value.try_into_mut().unwrap_or_else(|shared| {
        let mut copy = BytesMut::with_capacity(len);
        copy.extend_from_slice(&shared);
        copy
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::SlotData;
    use crate::shard_store::Changes;
    use crate::slot::Slot;

    #[derive(Default)]
    struct Held(SlotData, Changes);

    impl Held {
        fn append(&mut self, value: &[u8]) {
            let (data, changes) = (&mut self.0, &mut self.1);
            let mut data = Changing { slot: Slot(0), data, changes, export: None };
            append(&mut data, Bytes::from_static(b"k"), value, LogTime(1));
        }

        fn get(&self) -> Outcome {
            get(&self.0, b"k", LogTime(1))
        }

        /// How often the value moves in memory in 4096 appends.
        fn moves(&mut self) -> u32 {
            let mut moved = 0;
            let mut at = std::ptr::null();
            for _ in 0..4096 {
                self.append(&[b'x'; 16]);
                let value =
                    self.0.get(b"k", LogTime(1)).expect("it was appended to").value.as_ptr();
                moved += u32::from(value != at);
                at = value;
            }
            moved
        }
    }

    #[test]
    fn a_value_that_nobody_shares_grows_in_place() {
        let moved = Held::default().moves();
        assert!(moved < 64, "moved {moved} times in 4096 appends");
    }

    #[test]
    fn a_value_that_an_unfinished_checkpoint_shares_is_copied_once() {
        let mut held = Held::default();
        held.append(b"before");
        held.1.freeze(crate::rows::delete_keys(Slot(0)));
        let moved = held.moves();
        assert!(moved < 64, "moved {moved} times in 4096 appends");
    }

    #[test]
    fn a_reply_keeps_its_bytes_when_the_value_grows() {
        let mut held = Held::default();
        held.append(b"ab");
        let reply = held.get();
        held.append(b"cd");
        assert_eq!(reply, Outcome::Value(Bytes::from_static(b"ab")));
        assert_eq!(held.get(), Outcome::Value(Bytes::from_static(b"abcd")));
    }
}

//! When keys end (Redis expire.c), by log time alone.

use super::{Changing, SlotData};
use crate::op::{Expire, ExpireAt, OpError, Outcome, TimeUnit};
use crate::session::LogTime;
use bytes::Bytes;

/// -2: no such key; -1: no expiry. Seconds are rounded, not cut.
pub(super) fn ttl(data: &SlotData, key: &[u8], unit: TimeUnit, now: LogTime) -> Outcome {
    let Some(item) = data.get(key, now) else { return Outcome::Integer(-2) };
    let Some(at) = item.expires else { return Outcome::Integer(-1) };
    let ms = at.0 - now.0;
    Outcome::Integer(match unit {
        TimeUnit::Seconds => (ms.saturating_add(500) / 1000) as i64,
        TimeUnit::Milliseconds => ms as i64,
    })
}

/// In Redis' order: overflow, then whether the key exists, then the conditions. A key without an
/// expiry counts as one that never ends: GT never takes it, LT always does. A time that is past
/// deletes the key and counts as set.
pub(super) fn expire(data: &mut Changing<'_>, expire: &Expire, now: LogTime) -> Outcome {
    let at = match expire.at {
        ExpireAt::AfterMs(ms) => match after(now, ms) {
            Some(at) => at,
            None => return Outcome::Error(OpError::InvalidExpireTime(expire.command)),
        },
        ExpireAt::AtMs(ms) => LogTime(u64::try_from(ms).unwrap_or(0)),
    };
    let Some(item) = data.get(&expire.key, now) else { return Outcome::Integer(0) };
    let refused = match item.expires {
        None => expire.xx || expire.gt,
        Some(old) => expire.nx || (expire.gt && at <= old) || (expire.lt && at >= old),
    };
    if refused {
        return Outcome::Integer(0);
    }
    if at > now {
        data.set_expiry(&expire.key, Some(at));
    } else {
        data.remove(&expire.key);
    }
    Outcome::Integer(1)
}

pub(super) fn persist(data: &mut Changing<'_>, key: &Bytes, now: LogTime) -> Outcome {
    let volatile = data.get(key, now).is_some_and(|item| item.expires.is_some());
    if volatile {
        data.set_expiry(key, None);
    }
    Outcome::Integer(i64::from(volatile))
}

/// `ms` after `now`; before the epoch counts as the epoch. `None` past what Redis can count to,
/// which is also what keeps every expiry within an `i64`.
pub(super) fn after(now: LogTime, ms: i64) -> Option<LogTime> {
    let at = i64::try_from(now.0).ok()?.checked_add(ms)?;
    Some(LogTime(u64::try_from(at).unwrap_or(0)))
}

//! Commands on strings.

use super::{Arguments, Call, ErrorText, NOT_AN_INTEGER, SYNTAX_ERROR, integer, on_key, take};
use crate::reply::{Shape, invalid_expire_time};
use bytes::Bytes;
use shard_core::integer::parse_integer;
use shard_core::op::{ExpiryCommand, Op, Set, SetCondition, SetExpiry};
use shard_core::slot::hash_slot;

/// GET
pub fn get(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let key = take(arguments, 1);
    on_key(hash_slot(&key), Op::Get { key })
}

/// APPEND
pub fn append(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let (key, value) = (take(arguments, 1), take(arguments, 2));
    on_key(hash_slot(&key), Op::Append { key, value })
}

/// STRLEN
pub fn strlen(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let key = take(arguments, 1);
    on_key(hash_slot(&key), Op::Strlen { key })
}

/// GETDEL
pub fn getdel(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let key = take(arguments, 1);
    on_key(hash_slot(&key), Op::GetDel { key })
}

/// MGET
pub fn mget(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    super::keys::over_slots(arguments, super::Join::Values(arguments.len() - 1), |keys| Op::MGet {
        keys,
    })
}

/// INCR
pub fn incr(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    increment(arguments, 1)
}

/// DECR
pub fn decr(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    increment(arguments, -1)
}

/// INCRBY
pub fn incrby(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let by = integer(arguments, 2)?;
    increment(arguments, by)
}

/// DECRBY
pub fn decrby(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let by = integer(arguments, 2)?;
    increment(arguments, by.checked_neg().ok_or("ERR decrement would overflow")?)
}

fn increment(arguments: &mut Arguments, by: i64) -> Result<Call, ErrorText> {
    let key = take(arguments, 1);
    on_key(hash_slot(&key), Op::IncrBy { key, by })
}

/// A SET without options.
fn plain_set(key: Bytes, value: Bytes) -> Set {
    Set {
        key,
        value,
        expiry: SetExpiry::Clear,
        condition: None,
        get: false,
        command: ExpiryCommand::Set,
    }
}

/// SETNX: answers 1 or 0.
pub fn setnx(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let set = plain_set(take(arguments, 1), take(arguments, 2));
    let set = Set { condition: Some(SetCondition::IfAbsent), ..set };
    Ok(Call::Op { slot: hash_slot(&set.key), op: Op::Set(set), shape: Shape::Flag })
}

/// GETSET
pub fn getset(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let set = plain_set(take(arguments, 1), take(arguments, 2));
    on_key(hash_slot(&set.key), Op::Set(Set { get: true, ..set }))
}

/// SETEX
pub fn setex(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    set_with_expiry(arguments, 1000, ExpiryCommand::SetEx)
}

/// PSETEX
pub fn psetex(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    set_with_expiry(arguments, 1, ExpiryCommand::PSetEx)
}

fn set_with_expiry(
    arguments: &mut Arguments,
    unit_ms: i64,
    command: ExpiryCommand,
) -> Result<Call, ErrorText> {
    let expiry = SetExpiry::AfterMs(expire_ms(&arguments[2], unit_ms, command)?);
    let set = plain_set(take(arguments, 1), take(arguments, 3));
    on_key(hash_slot(&set.key), Op::Set(Set { expiry, command, ..set }))
}

/// A time to live or a point in time: above zero, in milliseconds within 64 bits.
fn expire_ms(text: &[u8], unit_ms: i64, command: ExpiryCommand) -> Result<i64, ErrorText> {
    let value = parse_integer(text).ok_or(NOT_AN_INTEGER)?;
    value
        .checked_mul(unit_ms)
        .filter(|ms| *ms > 0)
        .ok_or_else(|| invalid_expire_time(command).into())
}

/// An option of SET that says when.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Ex,
    Px,
    ExAt,
    PxAt,
}

/// SET. Options in any order; each may be repeated, then the last time given counts, as in Redis.
pub fn set(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let mut condition = None;
    let mut get = false;
    let mut keep = false;
    let mut when: Option<(When, usize)> = None;
    let mut at = 3;
    while at < arguments.len() {
        let option = &arguments[at];
        let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
        if is("nx") && condition != Some(SetCondition::IfPresent) {
            condition = Some(SetCondition::IfAbsent);
        } else if is("xx") && condition != Some(SetCondition::IfAbsent) {
            condition = Some(SetCondition::IfPresent);
        } else if is("get") {
            get = true;
        } else if is("keepttl") && when.is_none() {
            keep = true;
        } else if let Some(this) = when_option(option)
            && !keep
            && when.is_none_or(|(earlier, _)| earlier == this)
            && at + 1 < arguments.len()
        {
            at += 1;
            when = Some((this, at));
        } else {
            return Err(SYNTAX_ERROR);
        }
        at += 1;
    }
    let expiry = match when {
        None if keep => SetExpiry::Keep,
        None => SetExpiry::Clear,
        Some((when, at)) => set_expiry(when, &arguments[at])?,
    };
    let set = plain_set(take(arguments, 1), take(arguments, 2));
    on_key(hash_slot(&set.key), Op::Set(Set { expiry, condition, get, ..set }))
}

fn when_option(option: &[u8]) -> Option<When> {
    [("ex", When::Ex), ("px", When::Px), ("exat", When::ExAt), ("pxat", When::PxAt)]
        .into_iter()
        .find(|(name, _)| option.eq_ignore_ascii_case(name.as_bytes()))
        .map(|(_, when)| when)
}

fn set_expiry(when: When, text: &[u8]) -> Result<SetExpiry, ErrorText> {
    let ms = |unit_ms| expire_ms(text, unit_ms, ExpiryCommand::Set);
    Ok(match when {
        When::Ex => SetExpiry::AfterMs(ms(1000)?),
        When::Px => SetExpiry::AfterMs(ms(1)?),
        When::ExAt => SetExpiry::AtMs(ms(1000)?),
        When::PxAt => SetExpiry::AtMs(ms(1)?),
    })
}

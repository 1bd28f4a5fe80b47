//! Commands on keys of any type.

use super::{Arguments, Call, ErrorText, Join, Split, integer, on_key, quote, take};
use crate::reply::invalid_expire_time;
use bytes::Bytes;
use shard_core::op::{Expire, ExpireAt, ExpiryCommand, Op, TimeUnit};
use shard_core::slot::{Slot, hash_slot};

/// DEL and UNLINK
pub fn del(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    over_slots(arguments, Join::Sum, |keys| Op::Del { keys })
}

/// EXISTS and TOUCH
pub fn exists(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    over_slots(arguments, Join::Sum, |keys| Op::Exists { keys })
}

/// An op per slot of the keys; keys keep their order within a slot.
pub fn over_slots(
    arguments: &mut Arguments,
    join: Join,
    op: fn(Vec<Bytes>) -> Op,
) -> Result<Call, ErrorText> {
    let mut keys: Vec<(Slot, u32)> = Vec::with_capacity(arguments.len() - 1);
    keys.extend((0..).zip(&arguments[1..]).map(|(place, key)| (hash_slot(key), place)));
    let first = keys[0].0;
    if keys.iter().all(|(slot, _)| *slot == first) {
        return on_key(first, op(arguments.drain(1..).collect()));
    }
    keys.sort_unstable();
    let parts = keys
        .chunk_by(|a, b| a.0 == b.0)
        .map(|part| {
            let places: Vec<u32> = part.iter().map(|(_, place)| *place).collect();
            let keys = places.iter().map(|place| take(arguments, *place as usize + 1)).collect();
            (part[0].0, op(keys), places)
        })
        .collect();
    Ok(Call::Split(Split { parts, join }))
}

/// TTL
pub fn ttl(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let key = take(arguments, 1);
    on_key(hash_slot(&key), Op::Ttl { key, unit: TimeUnit::Seconds })
}

/// PTTL
pub fn pttl(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let key = take(arguments, 1);
    on_key(hash_slot(&key), Op::Ttl { key, unit: TimeUnit::Milliseconds })
}

/// PERSIST
pub fn persist(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let key = take(arguments, 1);
    on_key(hash_slot(&key), Op::Persist { key })
}

/// TYPE
pub fn type_of(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let key = take(arguments, 1);
    on_key(hash_slot(&key), Op::Type { key })
}

/// EXPIRE
pub fn expire(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    expire_with(arguments, 1000, ExpireAt::AfterMs, ExpiryCommand::Expire)
}

/// PEXPIRE
pub fn pexpire(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    expire_with(arguments, 1, ExpireAt::AfterMs, ExpiryCommand::PExpire)
}

/// EXPIREAT
pub fn expireat(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    expire_with(arguments, 1000, ExpireAt::AtMs, ExpiryCommand::ExpireAt)
}

/// PEXPIREAT
pub fn pexpireat(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    expire_with(arguments, 1, ExpireAt::AtMs, ExpiryCommand::PExpireAt)
}

fn expire_with(
    arguments: &mut Arguments,
    unit_ms: i64,
    at: fn(i64) -> ExpireAt,
    command: ExpiryCommand,
) -> Result<Call, ErrorText> {
    let [nx, xx, gt, lt] = expire_options(&arguments[3..])?;
    let value = integer(arguments, 2)?;
    let at = at(value.checked_mul(unit_ms).ok_or_else(|| invalid_expire_time(command))?);
    let key = take(arguments, 1);
    on_key(hash_slot(&key), Op::Expire(Expire { key, at, nx, xx, gt, lt, command }))
}

/// NX, XX, GT, LT: whether each was given.
fn expire_options(options: &[Bytes]) -> Result<[bool; 4], ErrorText> {
    let mut given = [false; 4];
    for option in options {
        let at = ["nx", "xx", "gt", "lt"]
            .iter()
            .position(|name| option.eq_ignore_ascii_case(name.as_bytes()))
            .ok_or_else(|| format!("ERR Unsupported option {}", quote(option, usize::MAX)))?;
        given[at] = true;
    }
    let [nx, xx, gt, lt] = given;
    if nx && (xx || gt || lt) {
        return Err("ERR NX and XX, GT or LT options at the same time are not compatible".into());
    }
    if gt && lt {
        return Err("ERR GT and LT options at the same time are not compatible".into());
    }
    Ok(given)
}

//! What a key can hold, and what each family of commands does to it.
//!
//! Semantics are Redis 7's. Time is the slot's log time, an argument: nothing here knows a clock.

mod expiry;
mod keys;
mod row;
mod string;

pub(crate) use self::row::item_of_row;

use crate::digest::Digest;
use crate::memory::{EXPIRY_RECORD_BYTES, KEY_RECORD_BYTES, NOTE_RECORD_BYTES};
use crate::migration::Export;
use crate::op::{Op, OpError, Outcome};
use crate::rows::Named;
use crate::session::LogTime;
use crate::shard_store::{Changes, Epoch, Mutant, is_broken};
use crate::slot::Slot;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// The largest value: Redis' `proto-max-bulk-len`, which is 64 MiB here, so that one value with its
/// key fits an entry and a frame whatever command answers it.
pub const VALUE_BYTES_MAX: usize = 64 << 20;
/// The most that one op answers, as [`Outcome::bytes`] counts it, so that its reply fits a frame
/// whatever else that has.
pub(crate) const OUTCOME_BYTES_MAX: usize = VALUE_BYTES_MAX + (512 << 10);

/// One key's value and expiry.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// Shared with replies that are still remembered or on their way.
    value: Bytes,
    /// Absent from this log time on.
    expires: Option<LogTime>,
    /// Its last change is noted for this checkpoint.
    noted: Epoch,
}

impl Item {
    /// What the key holds.
    pub(crate) fn value(&self) -> &Bytes {
        &self.value
    }

    /// What it takes in memory with its key.
    pub(crate) fn memory(&self, key: &[u8]) -> u64 {
        KEY_RECORD_BYTES + (key.len() + self.value.len()) as u64
    }
}

/// The keys of one slot, in key order.
#[derive(Clone, Debug, Default)]
pub(crate) struct SlotData {
    items: BTreeMap<Bytes, Item>,
    /// Every key that has an expiry, in the order in which they expire.
    expiries: BTreeSet<(LogTime, Bytes)>,
    /// Bytes of keys and values, and of keys alone.
    bytes: u64,
    key_bytes: u64,
    /// Raised by every change, so that a key changed, deleted and made again never looks unchanged.
    version: u64,
}

/// What a flushed slot held: out of sight at once, freed in steps, since a million keys take longer
/// than a group's entries may wait.
#[derive(Debug)]
pub(crate) struct Flushed {
    data: SlotData,
    /// Its keys that were noted as changed.
    noted: BTreeSet<Bytes>,
}

impl Flushed {
    pub(crate) fn new(data: SlotData, noted: BTreeSet<Bytes>) -> Flushed {
        Flushed { data, noted }
    }

    /// Frees the next key, and some of the notes, which name keys that are gone as well; says whether
    /// there was anything.
    pub(crate) fn free_one(&mut self) -> bool {
        self.data.expiries.pop_first();
        let noted = (0..4).filter(|_| self.noted.pop_first().is_some()).count() > 0;
        let Some((key, item)) = self.data.items.pop_first() else { return noted };
        self.data.bytes -= (key.len() + item.value.len()) as u64;
        self.data.key_bytes -= key.len() as u64;
        true
    }

    /// What is left to be freed, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        self.data.tally().memory() + self.noted.len() as u64 * NOTE_RECORD_BYTES
    }
}

/// A slot's keys for an op that may change them: what it changes is noted.
#[derive(Debug)]
pub(crate) struct Changing<'a> {
    pub(crate) slot: Slot,
    pub(crate) data: &'a mut SlotData,
    pub(crate) changes: &'a mut Changes,
    /// While another group copies the slot: what changes has to be copied again.
    pub(crate) export: Option<&'a mut Export>,
}

/// What a slot holds, expired keys that were not collected yet included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) keys: u64,
    pub(crate) expires: u64,
    pub(crate) bytes: u64,
    pub(crate) key_bytes: u64,
}

impl Tally {
    /// This sum after one of its parts went from `before` to `after`.
    pub(crate) fn moved(self, before: Tally, after: Tally) -> Tally {
        Tally {
            keys: self.keys - before.keys + after.keys,
            expires: self.expires - before.expires + after.expires,
            bytes: self.bytes - before.bytes + after.bytes,
            key_bytes: self.key_bytes - before.key_bytes + after.key_bytes,
        }
    }

    /// What the keys take in memory, their values apart.
    pub(crate) fn key_memory(self) -> u64 {
        self.key_bytes + self.keys * KEY_RECORD_BYTES + self.expires * EXPIRY_RECORD_BYTES
    }

    /// What all of it takes in memory.
    pub(crate) fn memory(self) -> u64 {
        self.key_memory() + self.bytes - self.key_bytes
    }
}

/// Carries out an op whose turn it is.
pub(crate) fn execute(data: &mut Changing<'_>, op: Op, now: LogTime) -> Outcome {
    match op {
        // The store has looked at the token.
        Op::Token(token) => execute(data, token.op, now),
        Op::Set(set) => string::set(data, set, now),
        Op::Append { key, value } => string::append(data, key, &value, now),
        Op::IncrBy { key, by } => string::incr_by(data, key, by, now),
        Op::Del { keys } => keys::del(data, &keys, now),
        Op::Expire(expire) => expiry::expire(data, &expire, now),
        Op::Persist { key } => expiry::persist(data, &key, now),
        Op::FlushSlot => keys::flush(data),
        Op::GetDel { key } => string::get_del(data, &key, now),
        Op::NoRoom => Outcome::Error(OpError::NoRoom),
        Op::Get { .. }
        | Op::MGet { .. }
        | Op::Exists { .. }
        | Op::Strlen { .. }
        | Op::Ttl { .. }
        | Op::Type { .. }
        | Op::CountKeys
        | Op::ListKeys { .. } => read(data.data, &op, now).expect("the op is a read"),
    }
}

/// Carries out an op that changes nothing. None: it is a write.
pub(crate) fn read(data: &SlotData, op: &Op, now: LogTime) -> Option<Outcome> {
    Some(match op {
        Op::Get { key } => string::get(data, key, now),
        Op::MGet { keys } => string::mget(data, keys, now),
        Op::Exists { keys } => keys::exists(data, keys, now),
        Op::Strlen { key } => string::strlen(data, key, now),
        Op::Ttl { key, unit } => expiry::ttl(data, key, *unit, now),
        Op::Type { key } => keys::kind(data, key, now),
        Op::CountKeys => keys::count(data, now),
        Op::ListKeys { count } => keys::list(data, *count, now),
        Op::Set(_)
        | Op::Append { .. }
        | Op::IncrBy { .. }
        | Op::Del { .. }
        | Op::Expire(_)
        | Op::Persist { .. }
        | Op::FlushSlot
        | Op::GetDel { .. }
        | Op::NoRoom
        | Op::Token(_) => return None,
    })
}

/// Whether something that the op looks at expires after `now`, at `until` at the latest.
pub(crate) fn expires_within(data: &SlotData, op: &Op, now: LogTime, until: LogTime) -> bool {
    let ends = |at: LogTime| now < at && at <= until;
    match op.keys() {
        // On the whole slot; the expiries up to `now` are of keys that wait to be collected.
        [] => {
            let from = (LogTime(now.0.saturating_add(1)), Bytes::new());
            data.expiries.range(from..).next().is_some_and(|(at, _)| ends(*at))
        }
        keys => keys
            .iter()
            .any(|key| data.items.get(key).and_then(|item| item.expires).is_some_and(ends)),
    }
}

impl SlotData {
    /// The key as it is at `now`; an expired one is absent, collected or not.
    fn get(&self, key: &[u8], now: LogTime) -> Option<&Item> {
        self.items.get(key).filter(|item| item.expires.is_none_or(|at| at > now))
    }

    /// What a key holds, expired or not.
    pub(crate) fn item(&self, key: &[u8]) -> Option<&Item> {
        self.items.get(key)
    }

    /// A key that is there has another expiry than before.
    fn expires_anew(&mut self, key: &[u8], before: Option<LogTime>, after: Option<LogTime>) {
        // The map's own copy: what an op brought may be part of something larger.
        let Some((key, _)) = self.items.get_key_value(key) else { return };
        let key = key.clone();
        if let Some(at) = before {
            self.expiries.remove(&(at, key.clone()));
        }
        if let Some(at) = after {
            self.expiries.insert((at, key));
        }
    }

    /// Keys that exist at `now`, in key order.
    fn live(&self, now: LogTime) -> impl Iterator<Item = &Bytes> {
        let live = move |item: &Item| item.expires.is_none_or(|at| at > now);
        self.items.iter().filter(move |(_, item)| live(item)).map(|(key, _)| key)
    }

    /// How many keys are past their expiry but not collected.
    fn expired(&self, now: LogTime) -> u64 {
        self.expiries.iter().take_while(|(at, _)| *at <= now).count() as u64
    }

    /// What exists at `now`, bytes apart.
    pub(crate) fn live_tally(&self, now: LogTime) -> Tally {
        let expired = self.expired(now);
        let all = self.tally();
        Tally { keys: all.keys - expired, expires: all.expires - expired, ..all }
    }

    /// What is held.
    pub(crate) fn tally(&self) -> Tally {
        Tally {
            keys: self.items.len() as u64,
            expires: self.expiries.len() as u64,
            bytes: self.bytes,
            key_bytes: self.key_bytes,
        }
    }

    /// Bytes of keys, and of keys and values.
    #[cfg(test)]
    pub(crate) fn counted_anew(&self) -> (u64, u64) {
        let keys = self.items.keys().map(|key| key.len() as u64).sum();
        (keys, keys + self.items.values().map(|item| item.value.len() as u64).sum::<u64>())
    }

    /// When the first key expires.
    pub(crate) fn first_expiry(&self) -> Option<LogTime> {
        self.expiries.first().map(|(at, _)| *at)
    }

    /// Adds everything that two replicas must agree on.
    pub(crate) fn digest(&self, digest: &mut Digest) {
        digest.numbers(&[self.version, self.items.len() as u64]);
        for (key, item) in &self.items {
            digest.bytes(key);
            digest.bytes(&item.value);
            digest.numbers(&[u64::from(item.expires.is_some()), item.expires.map_or(0, |at| at.0)]);
        }
    }
}

impl std::ops::Deref for Changing<'_> {
    type Target = SlotData;

    fn deref(&self) -> &SlotData {
        self.data
    }
}

impl Changing<'_> {
    /// Sets value and expiry of a key.
    fn put(&mut self, key: Bytes, value: Bytes, expires: Option<LogTime>) {
        self.touch(&key, value.len());
        let noted = self.changes.epoch();
        let SlotData { items, expiries, bytes, key_bytes, version } = &mut *self.data;
        let Some(item) = items.get_mut(&key) else {
            self.changes.note_key(self.slot, *version, &key, None);
            self.changes.resize(0, value.len());
            *version += 1;
            *bytes += (key.len() + value.len()) as u64;
            *key_bytes += key.len() as u64;
            if let Some(at) = expires {
                expiries.insert((at, key.clone()));
            }
            items.insert(key, Item { value, expires, noted });
            return;
        };
        note(self.changes, self.slot, *version, &key, item);
        *version += 1;
        self.changes.resize(item.value.len(), value.len());
        *bytes = *bytes + value.len() as u64 - item.value.len() as u64;
        item.value = value;
        let before = std::mem::replace(&mut item.expires, expires);
        if before != expires {
            self.data.expires_anew(&key, before, expires);
        }
    }

    /// Takes out all keys. The version counter stays and is raised: a key made afterwards is not the one
    /// from before.
    pub(crate) fn clear(&mut self) {
        if self.data.items.is_empty() {
            return;
        }
        let empty = SlotData { version: self.data.version + 1, ..SlotData::default() };
        let gone = std::mem::replace(self.data, empty);
        self.changes.note_flush(self.slot, gone);
        if let Some(export) = &mut self.export {
            export.touch_all_keys(|name| matches!(Named::of(name), Some(Named::Key(_))));
        }
    }

    /// Takes out the value of a key that is there, to put another one: while it is shared with nobody,
    /// it can grow in place.
    fn borrow_value(&mut self, key: &Bytes) -> Bytes {
        let SlotData { items, bytes, version, .. } = &mut *self.data;
        let Some(item) = items.get_mut(key) else { return Bytes::new() };
        note(self.changes, self.slot, *version, key, item);
        let value = std::mem::take(&mut item.value);
        self.changes.resize(value.len(), 0);
        *bytes -= value.len() as u64;
        value
    }

    /// Takes a key out, expired or not.
    fn remove(&mut self, key: &[u8]) -> Option<Item> {
        let (key, mut item) = self.data.items.remove_entry(key)?;
        self.touch(&key, 0);
        let version = &mut self.data.version;
        note(self.changes, self.slot, *version, &key, &mut item);
        *version += 1;
        self.changes.resize(item.value.len(), 0);
        self.data.bytes -= (key.len() + item.value.len()) as u64;
        self.data.key_bytes -= key.len() as u64;
        if let Some(at) = item.expires {
            self.data.expiries.remove(&(at, key));
        }
        Some(item)
    }

    /// Puts what another group had under a key, or takes out what it had not.
    pub(crate) fn install(&mut self, key: Bytes, item: Option<Item>) {
        match item {
            Some(Item { value, expires, .. }) => self.put(key, value, expires),
            None => drop(self.remove(&key)),
        }
    }

    /// A key has changed, its value has so many bytes now.
    fn touch(&mut self, key: &[u8], value_bytes: usize) {
        if let Some(export) = &mut self.export
            && !is_broken(Mutant::KeysNotTracked)
        {
            export.touch(&Named::Key(key).name(), value_bytes);
        }
    }

    /// Takes out a key that exists at `now`. An expired one goes as well, and is not returned.
    fn take(&mut self, key: &[u8], now: LogTime) -> Option<Item> {
        self.remove(key).filter(|item| item.expires.is_none_or(|at| at > now))
    }

    /// Gives a key that is there another expiry.
    fn set_expiry(&mut self, key: &Bytes, expires: Option<LogTime>) {
        let SlotData { items, version, .. } = &mut *self.data;
        let Some(item) = items.get_mut(key) else { return };
        note(self.changes, self.slot, *version, key, item);
        *version += 1;
        let bytes = item.value.len();
        let before = std::mem::replace(&mut item.expires, expires);
        if before != expires {
            self.data.expires_anew(key, before, expires);
        }
        self.touch(key, bytes);
    }

    /// Collects the key that expired first, if one has.
    pub(crate) fn collect_expired(&mut self, now: LogTime) -> bool {
        match self.data.expiries.first() {
            Some((at, key)) if *at <= now => {
                let key = key.clone();
                self.remove(&key).is_some()
            }
            _ => false,
        }
    }
}

/// Sees to it that the change of a key is noted for the next checkpoint. One that is already costs a
/// comparison.
fn note(changes: &mut Changes, slot: Slot, version: u64, key: &Bytes, item: &mut Item) {
    let epoch = changes.epoch();
    if item.noted != epoch {
        changes.note_key(slot, version, key, Some(item));
        changes.resize(0, item.value.len());
        item.noted = epoch;
    }
}

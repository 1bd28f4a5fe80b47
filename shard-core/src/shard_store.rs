//! The state machine of every group but the shardmaster: keys and lanes, slot by slot.
//!
//! # Invariants
//! - Same entries, same state and same answers, on every replica: no clock, no randomness, no
//!   iteration but in order. Log time, the newest stamp applied, is the only time.
//! - Every step of an entry is bounded: what is collected besides its items has a maximum.
//! - An answer says what became of this op and nothing else did: every refusal changes nothing.

mod changes;
mod copying;
mod load;
mod moves;
mod mutant;
mod slot_table;
#[cfg(test)]
mod tests;
mod writes;

pub(crate) use self::changes::{Changes, Epoch};
pub use self::changes::{Collected, Dirty, RowBudget};
use self::changes::{SlotMemo, SlotNow};
pub use self::copying::{Piece, Wanted};
pub use self::load::StoreLoader;
pub use self::moves::{SlotPhase, SlotStand};
#[cfg(test)]
pub(crate) use self::mutant::set as set_mutant;
pub(crate) use self::mutant::{Mutant, is_broken};
use self::slot_table::SlotTable;
use self::writes::Writes;

use crate::cluster_config::ConfigNum;
use crate::codec::{EntryBatch, EntryItem, bytes_of};
use crate::data::{self, Changing, SlotData, Tally};
use crate::digest::Digest;
use crate::memory::MemoryUse;
use crate::migration::{Ended, MoveRow, NameSet, Parts, Phase, PhaseRow};
use crate::moves::{MoveId, SlotEpoch};
use crate::op::{Op, OpError, Outcome, Token};
use crate::rows::{GroupRow, Named, Row, RowValue, SlotRow};
use crate::session::{
    IS_EXACTLY_ONCE, LANE_RECORD_BYTES, LANES_DROPPED_PER_ENTRY_MAX, Lane, LaneLimits, LaneTallies,
    Lanes, LogTime, SESSION_AHEAD_MS_MAX, Seq, SessionId, TOKEN_WINDOW_MS, Verdict,
};
use crate::slot::{SLOTS, Slot, hash_slot};
use crate::wire::{Answer, GroupAnswer, GroupQuery, LaneRequest, ReadRequest, SlotSize};
use raft_core::types::GroupId;
use std::collections::{BTreeMap, BTreeSet};

/// Expired keys that one entry collects. More wait for the next; to reads they are absent already.
pub const KEYS_EXPIRED_PER_ENTRY_MAX: usize = 1024;

/// Flushed keys that one entry frees: as many as its ops can make, so that no flush after another
/// can let them grow.
pub const KEYS_FREED_PER_ENTRY_MAX: usize = 1024;

/// Ops whose slots and keys are read before the first of them is applied: more than a processor can wait for at a time, and
/// fewer than its nearest cache has room for.
const READ_AHEAD: usize = 64;
/// Keys of a slot in which keys are found ahead as well.
const READ_AHEAD_KEYS_MAX: u64 = 256;

/// How much a store holds. What was flushed counts no more, though freeing it may take a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Keys, with those that are expired but not collected yet.
    pub keys: u64,
    /// Of those, how many have an expiry.
    pub expires: u64,
    /// Bytes of keys and values.
    pub data_bytes: u64,
    /// Lanes.
    pub lanes: u64,
    /// Of those, how many are of tokens.
    pub tokens: u64,
    /// Bytes of lanes and remembered replies, as their budgets count them.
    pub lane_bytes: u64,
}

/// Where a read stands that asks what was applied so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadStep {
    /// It is answered.
    Answered(Answer),
    /// The op it must see was not executed yet.
    AwaitsLane,
    /// It looks at a key that has expired by the leader's clock and not yet by log time: answered now,
    /// it would show a key that an earlier answer may have shown to be gone.
    AwaitsClock,
}

/// One group's slots.
#[derive(Debug)]
pub struct ShardStore {
    group: GroupId,
    limits: LaneLimits,
    log_time: LogTime,
    /// The configuration that gave the group its first slots.
    assigned: Option<ConfigNum>,
    /// The slots the group owns, and those on their way here.
    slots: SlotTable,
    /// Of every slot that ever was in a move here, the newest that is settled. Never forgotten.
    settled: BTreeMap<Slot, MoveId>,
    /// How moves ended of which the shardmaster does not know it yet.
    ended: BTreeMap<Slot, Ended>,
    /// The slots in a move.
    moving: BTreeSet<Slot>,
    /// When the first key of a slot expires, for each slot with such a key that may change.
    expiry_due: BTreeSet<(LogTime, Slot)>,
    /// Every lane of a slot that may change, in the order in which they may be dropped.
    lane_ends: BTreeSet<(LogTime, SessionId, Slot)>,
    /// Over all slots; in step with them after each item.
    tally: Tally,
    lane_tallies: LaneTallies,
    /// No part of the state: what of it the next checkpoint has to tell, and what waits to be freed.
    changes: Changes,
}

/// What the group keeps of one slot it owns. All of it goes where the slot goes.
///
/// Every op waits for some of this to come from memory, so what it looks at stands together: but for the last two fields,
/// 192 bytes. To begin at a line of a processor's cache would cost more than it saves: glibc then leaves a small hole in
/// its heap before each slot, which makes every larger allocation slower.
#[derive(Debug)]
#[repr(C)]
struct SlotState {
    lanes: Lanes,
    /// Log time in this slot is never below it: what a slot brings along from a group whose log time
    /// was higher.
    floor: LogTime,
    phase: Phase,
    /// No part of the state.
    writes: Writes,
    data: SlotData,
    /// In which the group owns it, or, on its way here, will.
    epoch: SlotEpoch,
    /// On its way here: what has come of the row behind the cursor, if not all of it has.
    parts: Option<Box<Parts>>,
}

/// What an op looks at is within three lines' length.
const _: () = assert!(std::mem::offset_of!(SlotState, epoch) <= 192);

impl ShardStore {
    /// A store that owns no slot.
    pub fn new(group: GroupId) -> ShardStore {
        ShardStore::with_limits(group, LaneLimits::default())
    }

    /// A store that owns no slot, with other bounds than the usual.
    pub fn with_limits(group: GroupId, limits: LaneLimits) -> ShardStore {
        ShardStore {
            group,
            limits,
            log_time: LogTime(0),
            assigned: None,
            slots: SlotTable::default(),
            settled: BTreeMap::new(),
            ended: BTreeMap::new(),
            moving: BTreeSet::new(),
            expiry_due: BTreeSet::new(),
            lane_ends: BTreeSet::new(),
            tally: Tally::default(),
            lane_tallies: LaneTallies::default(),
            changes: Changes::default(),
        }
    }

    /// Applies a committed entry: one answer per item, in order. An entry without items moves log
    /// time and collects what is due, nothing else.
    pub fn apply(&mut self, batch: EntryBatch) -> Vec<Answer> {
        self.log_time = self.log_time.max(batch.stamp);
        self.drop_ended_lanes();
        self.collect_expired();
        let all = is_broken(Mutant::FreeAtOnce);
        self.changes.free(if all { usize::MAX } else { KEYS_FREED_PER_ENTRY_MAX });
        let full = batch.full;
        let mut items = batch.items.into_iter();
        let mut answers = Vec::with_capacity(items.len());
        while !items.as_slice().is_empty() {
            let next = items.as_slice().len().min(READ_AHEAD);
            self.read_ahead(&items.as_slice()[..next]);
            answers.extend(items.by_ref().take(next).map(|item| self.apply_item(item, full)));
        }
        answers
    }

    fn apply_item(&mut self, item: EntryItem, full: bool) -> Answer {
        match item {
            EntryItem::Lane(request) => self.apply_lane(request, full),
            EntryItem::Group(query) => self.query(&query).map_or(Answer::Invalid, Answer::Group),
            EntryItem::Assign { config, ranges } => self.assign(config, &ranges),
            EntryItem::Move(step) => self.step(step, full),
            EntryItem::Bootstrap(_) | EntryItem::Master(_) => Answer::Invalid,
        }
    }

    /// Reads what ops will look at, and does nothing with it. Each of them waits for its slot and key to come from
    /// memory; here, where none depends on another, a processor waits for many at a time.
    fn read_ahead(&self, items: &[EntryItem]) {
        let found = items.iter().filter_map(|item| match item {
            EntryItem::Lane(request) => Some(self.slots.get(&request.slot)?.glance(&request.op)),
            _ => None,
        });
        // Without this a compiler might leave out what has no use.
        std::hint::black_box(found.fold(0, |all, one| all ^ one));
    }

    /// The group.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// The newest stamp applied.
    pub fn log_time(&self) -> LogTime {
        self.log_time
    }

    /// What keeps the group from serving a slot now; None: nothing does.
    pub fn hindrance(&self, slot: Slot) -> Option<Answer> {
        match self.slots.get(&slot) {
            Some(state) if state.phase.is_frozen() => Some(Answer::Frozen),
            Some(state) if state.phase.owns() => None,
            Some(_) | None => Some(self.elsewhere(slot)),
        }
    }

    /// Whether the op that a read must see was not executed here, as far as is applied.
    pub fn awaits_lane(&self, request: &ReadRequest) -> bool {
        let Some((after, state)) = request.after.zip(self.slots.get(&request.slot)) else {
            return false;
        };
        let lane = state.lanes.get(after.session);
        IS_EXACTLY_ONCE
            && self.log_time.max(state.floor) <= after.deadline
            && lane.is_none_or(|lane| lane.last() < after.seq)
    }

    /// Serves a read from what was applied so far, or says what it has to wait for. Ownership is
    /// looked at here, at the instant of serving: whatever was checked before the last wait may have
    /// changed. `stamp` is what the leader would give an entry now; it counts unless the read has
    /// waited for an entry with such a stamp.
    pub fn read(&self, request: &ReadRequest, stamp: LogTime, clocked: bool) -> ReadStep {
        let ReadRequest { slot, op, .. } = request;
        if slot.0 >= SLOTS || op.keys().iter().any(|key| hash_slot(key) != *slot) {
            return ReadStep::Answered(Answer::Invalid);
        }
        let unchecked = is_broken(Mutant::ReadsUnchecked);
        let state = match self.slots.get(slot) {
            Some(state) if state.phase.is_frozen() && !unchecked => {
                return ReadStep::Answered(Answer::Frozen);
            }
            Some(state) if state.phase.owns() => state,
            Some(_) | None => return ReadStep::Answered(self.elsewhere(*slot)),
        };
        if self.awaits_lane(request) {
            return ReadStep::AwaitsLane;
        }
        let log_time = self.log_time.max(state.floor);
        if !clocked && data::expires_within(&state.data, op, log_time, stamp) {
            return ReadStep::AwaitsClock;
        }
        // Log time stands still while nobody writes; what is left of a key's life does not.
        let now = match op {
            Op::Ttl { .. } if !clocked => log_time.max(stamp),
            _ => log_time,
        };
        ReadStep::Answered(match data::read(&state.data, op, now) {
            Some(outcome) => Answer::Done { outcome, log_time },
            None => Answer::Invalid,
        })
    }

    /// From which log time on an entry finds something to collect. Up to the log time of now: the
    /// entries so far have left something.
    pub fn collectable_from(&self) -> Option<LogTime> {
        if self.changes.is_to_free() {
            return Some(self.log_time);
        }
        let key = self.expiry_due.first().map(|(at, _)| *at);
        // A lane is there up to its end, and at it.
        let lane = self.lane_ends.first().map(|(end, ..)| LogTime(end.0.saturating_add(1)));
        key.into_iter().chain(lane).min()
    }

    /// Whether the group has had its first assignment.
    pub fn is_assigned(&self) -> bool {
        self.assigned.is_some()
    }

    /// How much is held, in constant time.
    pub fn stats(&self) -> StoreStats {
        let (lanes, replies) = self.lane_sums();
        StoreStats {
            keys: self.tally.keys,
            expires: self.tally.expires,
            data_bytes: self.tally.bytes,
            lanes,
            tokens: self.lane_tallies.tokens.lanes,
            lane_bytes: lanes * LANE_RECORD_BYTES + replies,
        }
    }

    /// What all of it takes in memory, in constant time.
    pub fn memory(&self) -> MemoryUse {
        let (lanes, replies) = self.lane_sums();
        MemoryUse {
            keys: self.tally.key_memory(),
            values: self.tally.bytes - self.tally.key_bytes,
            lanes: lanes * LANE_RECORD_BYTES,
            replies,
            checkpoint: self.changes.memory() + self.moves_memory(),
            log: 0,
            buffers: 0,
        }
    }

    /// A number that replicas with the same data, lanes and slots share. Reads all of it.
    pub fn digest(&self) -> u64 {
        let mut digest = Digest::new();
        let assigned = self.assigned.map_or(0, |config| config.0 + 1);
        digest.numbers(&[u64::from(self.group.0), self.log_time.0, assigned]);
        digest.numbers(&[self.settled.len() as u64, self.ended.len() as u64]);
        for slot in self.settled.keys() {
            digest.numbers(&[u64::from(slot.0)]);
            digest.bytes(&bytes_of(&self.move_row(*slot)));
        }
        for (slot, state) in self.slots.iter() {
            digest.numbers(&[u64::from(slot.0), state.floor.0, state.lanes.len() as u64]);
            match &state.phase {
                Phase::Owned => {}
                Phase::Exporting(export) => export.digest(&mut digest),
                Phase::Importing(import) => digest.bytes(&bytes_of(&**import)),
            }
            state.parts.iter().for_each(|parts| parts.digest(&mut digest));
            state.data.digest(&mut digest);
            for (session, lane) in state.lanes.iter() {
                digest.bytes(&session.0.to_le_bytes());
                lane.digest(&mut digest);
            }
        }
        digest.value()
    }

    /// The order of these checks is part of the protocol. Ownership comes first: a group that does
    /// not own the slot knows nothing of its log time, so its "expired" would let a router go on
    /// in a new session while the owner still executes a late copy of the old one's op. Expiry
    /// comes before the lane, whose record may be dropped by then.
    fn apply_lane(&mut self, request: LaneRequest, full: bool) -> Answer {
        if !is_well_formed(&request) {
            return Answer::Invalid;
        }
        if is_broken(Mutant::ExpiredFirst) && self.log_time > request.deadline {
            return Answer::Expired { log_time: self.log_time };
        }
        let unchecked = is_broken(Mutant::CheckedAtArrival);
        let slot = match self.slots.get_mut(&request.slot) {
            Some(slot) if slot.phase.is_frozen() && !unchecked => return Answer::Frozen,
            Some(slot) if slot.phase.owns() => slot,
            Some(_) | None => return self.elsewhere(request.slot),
        };
        let log_time = self.log_time.max(slot.floor);
        if !IS_EXACTLY_ONCE {
            return Answer::Done { outcome: self.execute(request, log_time, full), log_time };
        }
        if request.deadline.0 > log_time.0.saturating_add(SESSION_AHEAD_MS_MAX) {
            return Answer::DeadlineTooFar { log_time };
        }
        if log_time > request.deadline {
            return Answer::Expired { log_time };
        }
        let empty = Lane::new(request.deadline);
        let known = slot.lanes.get(request.session);
        let lane = known.unwrap_or(&empty);
        // Of an old router's session that looks like a token's a move may have made D later.
        let later = request.session.is_of_token() && lane.deadline() > request.deadline;
        if lane.deadline() != request.deadline && !later {
            return Answer::Invalid;
        }
        match lane.judge(request.seq, request.acked) {
            Verdict::Repeat(outcome) => Answer::Done { outcome: outcome.into_owned(), log_time },
            // A read that nothing of its lane came after may as well see the state of now: its answer
            // never arrived. Were it not the last, it could see a later write of its own connection.
            // Not so the one of no key with which a router asks what became of its op: to that it would say that
            // the op was never executed.
            Verdict::ReplyGone
                if request.seq == lane.last()
                    && !request.op.is_write()
                    && (!is_void(&request.op) || is_broken(Mutant::VoidReadsAnew)) =>
            {
                let outcome = data::read(&slot.data, &request.op, log_time);
                Answer::Done { outcome: outcome.expect("the op is a read"), log_time }
            }
            Verdict::ReplyGone => Answer::ReplyGone,
            Verdict::Old => Answer::Old,
            Verdict::Gap { last } => Answer::Gap { last },
            Verdict::Window => Answer::Window,
            Verdict::Execute => {
                if known.is_none() && self.is_full_for(request.session) {
                    return Answer::LanesFull;
                }
                Answer::Done { outcome: self.execute(request, log_time, full), log_time }
            }
        }
    }

    /// Executes the next op of a lane and remembers what it answered. One that is refused because memory
    /// is full was executed too, as far as the lane goes: sent again, it must not find that there is
    /// memory by now.
    fn execute(&mut self, request: LaneRequest, log_time: LogTime, full: bool) -> Outcome {
        let LaneRequest { session, deadline, slot, seq, acked, op } = request;
        let outcome = match op {
            Op::Token(token) => self.execute_token(slot, *token, log_time, full),
            op => self.execute_op(slot, op, log_time, full),
        };
        let (limits, new) = (self.limits, Lane::new(deadline));
        self.remember((slot, session), new, (seq, acked), &outcome, limits);
        outcome
    }

    fn execute_op(&mut self, number: Slot, op: Op, log_time: LogTime, full: bool) -> Outcome {
        let slot = self.slots.get_mut(&number).expect("ownership was checked");
        if op.is_write() {
            slot.writes.add(log_time);
        }
        let flushes = matches!(op, Op::FlushSlot);
        let held = slot.data.tally();
        let first_expiry = slot.data.first_expiry();
        let outcome = match full && op.is_denied_when_full() {
            true => Outcome::Error(OpError::OutOfMemory),
            false => data::execute(&mut slot.changing(number, &mut self.changes), op, log_time),
        };
        self.tally = self.tally.moved(held, slot.data.tally());
        reschedule(&mut self.expiry_due, number, first_expiry, slot.data.first_expiry());
        if is_broken(Mutant::FlushTakesLanes) && flushes {
            let sessions: Vec<_> = slot.lanes.iter().map(|(session, _)| session).collect();
            sessions.into_iter().for_each(|session| self.drop_lane(number, session));
        }
        outcome
    }

    /// Executes an op that a client has named, or tells what the first one of that name answered.
    fn execute_token(
        &mut self,
        number: Slot,
        token: Token,
        log_time: LogTime,
        full: bool,
    ) -> Outcome {
        let Token { name, hash, window_ms, op } = token;
        let (seq, before) = (Seq(hash), Seq(hash.saturating_sub(1)));
        let slot = self.slots.get(&number).expect("ownership was checked");
        match slot.lanes.get(name) {
            Some(lane) if lane.deadline() >= log_time => {
                let same = lane.last() == seq || is_broken(Mutant::AnyCommandForAToken);
                return match lane.judge(lane.last(), before) {
                    Verdict::Repeat(outcome) if same => outcome.into_owned(),
                    _ if same => Outcome::Error(OpError::TokenReplyGone),
                    _ => Outcome::Error(OpError::TokenReused),
                };
            }
            // It is over, and was not dropped yet.
            Some(_) => self.drop_lane(number, name),
            None => {}
        }
        if self.is_full_for(name) {
            return Outcome::Error(OpError::TokensFull);
        }
        let outcome = self.execute_op(number, op, log_time, full);
        let refused = matches!(outcome, Outcome::Error(OpError::OutOfMemory | OpError::NoRoom));
        if !refused && !is_broken(Mutant::TokenForgotten) {
            let deadline = LogTime(log_time.0.saturating_add(u64::from(window_ms)));
            let lane = Lane::of_token(deadline, before);
            let limits = self.limits.of_tokens();
            self.remember((number, name), lane, (seq, before), &outcome, limits);
        }
        outcome
    }

    /// Remembers what an op of a lane answered; `new` is the lane if there is none yet.
    fn remember(
        &mut self,
        (number, session): (Slot, SessionId),
        new: Lane,
        (seq, acked): (Seq, Seq),
        outcome: &Outcome,
        limits: LaneLimits,
    ) {
        if !IS_EXACTLY_ONCE {
            return;
        }
        let slot = self.slots.get_mut(&number).expect("ownership was checked");
        let tally = self.lane_tallies.of(session);
        let mut known = true;
        let lane = slot.lanes.get_or_insert_with(session, || {
            known = false;
            self.lane_ends.insert((new.deadline(), session, number));
            tally.lanes += 1;
            new
        });
        if lane.noted() != self.changes.epoch() {
            self.changes.note_lane(number, session, known.then_some(&*lane));
            lane.set_noted(self.changes.epoch());
        }
        let before = lane.reply_bytes();
        lane.remember(seq, acked, outcome, &limits, tally.replies);
        tally.replies = tally.replies.moved(before, lane.reply_bytes());
        if let Some(export) = slot.phase.export_mut()
            && !is_broken(Mutant::LanesNotTracked)
        {
            export.touch(&Named::Lane(session).name(), LANE_RECORD_BYTES as usize);
        }
    }

    /// What is in each slot that the group owns, of those from the first to the last.
    fn slot_sizes(&self, first: Slot, last: Slot) -> impl Iterator<Item = (Slot, SlotSize)> {
        let owned = self.slots.range(first.min(last)..=last);
        // No slot is between two that are the wrong way round.
        let owned = owned.filter(move |(_, state)| first <= last && state.phase.owns());
        owned.map(|(slot, state)| {
            let now = self.log_time.max(state.floor);
            let (keys, bytes) = (state.data.live_tally(now).keys, state.data.tally().bytes);
            (slot, SlotSize { keys, bytes, writes: state.writes.lately(now) })
        })
    }

    /// None for what only the shardmaster knows.
    fn query(&self, query: &GroupQuery) -> Option<GroupAnswer> {
        let live = |state: &SlotState| state.data.live_tally(self.log_time.max(state.floor));
        Some(match query {
            GroupQuery::KeyCount => {
                let (keys, expires) = self
                    .slots
                    .iter()
                    .filter(|(_, state)| state.phase.owns())
                    .map(|(_, state)| live(state))
                    .fold((0, 0), |sum, slot| (sum.0 + slot.keys, sum.1 + slot.expires));
                GroupAnswer::KeyCount { keys, expires }
            }
            GroupQuery::OccupiedSlots => GroupAnswer::OccupiedSlots {
                owned: as_ranges(
                    self.slots.iter().filter(|(_, state)| state.phase.owns()).map(|(slot, _)| slot),
                ),
                occupied: as_ranges(
                    self.slots
                        .iter()
                        .filter(|(_, state)| state.phase.owns() && state.data.tally().keys > 0)
                        .map(|(slot, _)| slot),
                ),
            },
            GroupQuery::SlotSizes { first, last } => {
                GroupAnswer::SlotSizes(self.slot_sizes(*first, *last).collect())
            }
            GroupQuery::SlotKeys { first, last } => {
                let sizes = self.slot_sizes(*first, *last);
                GroupAnswer::SlotKeys(sizes.map(|(slot, size)| (slot, size.keys)).collect())
            }
            GroupQuery::Master(_) => return None,
        })
    }

    /// The first assignment counts, later ones change nothing: a leader that has not applied it yet
    /// proposes it again, and by then the slots may have data, or be gone to another group.
    fn assign(&mut self, config: ConfigNum, ranges: &[(Slot, Slot)]) -> Answer {
        if !are_ranges(ranges) {
            return Answer::Invalid;
        }
        if self.assigned.is_none() {
            self.assigned = Some(config);
            let floor = self.log_time;
            for slot in ranges.iter().flat_map(|(first, last)| first.0..=last.0) {
                self.slots.insert(Slot(slot), Box::new(SlotState::new(floor, SlotEpoch(1))));
                self.changes.note_slot(Slot(slot));
            }
        }
        Answer::Done { outcome: Outcome::Ok, log_time: self.log_time }
    }

    /// Drops lanes of sessions that are over. By then every op of theirs is refused before its lane
    /// is looked at, so nothing can tell a dropped record from a kept one.
    fn drop_ended_lanes(&mut self) {
        for _ in 0..LANES_DROPPED_PER_ENTRY_MAX {
            match self.lane_ends.first().copied() {
                Some((deadline, session, number)) if deadline < self.log_time => {
                    self.drop_lane(number, session);
                }
                _ => return,
            }
        }
    }

    fn drop_lane(&mut self, number: Slot, session: SessionId) {
        let slot = self.slots.get_mut(&number).expect("a lane's slot is owned");
        let lane = slot.lanes.remove(session).expect("every lane has one end");
        self.lane_ends.remove(&(lane.deadline(), session, number));
        self.lane_tallies.of(session).replace(Some(&lane), None);
        if let Some(export) = slot.phase.export_mut() {
            export.touch(&Named::Lane(session).name(), 0);
        }
        if lane.noted() != self.changes.epoch() {
            self.changes.note_lane(number, session, Some(&lane));
        }
    }

    /// Collects expired keys in the order of their slots' first ones.
    fn collect_expired(&mut self) {
        for _ in 0..KEYS_EXPIRED_PER_ENTRY_MAX {
            match self.expiry_due.first().copied() {
                Some((first, number)) if first <= self.log_time => {
                    let slot = self.slots.get_mut(&number).expect("a key's slot is owned");
                    let held = slot.data.tally();
                    slot.changing(number, &mut self.changes).collect_expired(self.log_time);
                    self.tally = self.tally.moved(held, slot.data.tally());
                    reschedule(&mut self.expiry_due, number, Some(first), slot.data.first_expiry());
                }
                _ => return,
            }
        }
    }

    fn row(&self) -> RowValue {
        let assigned = self.assigned.map_or(0, |config| config.0 + 1);
        GroupRow { log_time: self.log_time, assigned }.value(self.group)
    }

    /// How much has changed since the last freeze, in constant time.
    pub fn dirty(&self) -> Dirty {
        self.changes.dirty()
    }

    /// Begins a checkpoint of the state as it is now, in constant time.
    ///
    /// # Panics
    /// If the one before was not collected.
    pub fn freeze(&mut self) {
        let exports =
            |slot: &Slot| self.slots.get(slot).is_some_and(|s| s.phase.export().is_some());
        let exporting: Vec<Slot> = self.moving.iter().copied().filter(exports).collect();
        exporting.iter().for_each(|slot| self.changes.note_export(*slot));
        self.changes.freeze(Row::Group.put(self.row()));
        for slot in exporting {
            let memo = self.memo(slot);
            self.changes.keep_export(slot, memo);
        }
    }

    /// The next rows of the checkpoint that was begun. They are those of the freeze, whatever was
    /// applied since.
    pub fn collect(&mut self, budget: RowBudget) -> Collected {
        let mut changes = std::mem::take(&mut self.changes);
        let (no_data, no_lanes) = (SlotData::default(), Lanes::default());
        let collected = changes.collect(budget, |slot| {
            let state = self.slots.get(&slot);
            SlotNow {
                memo: self.memo(slot),
                data: state.map_or(&no_data, |state| &state.data),
                lanes: state.map_or(&no_lanes, |state| &state.lanes),
                parts: state.and_then(|state| state.parts.as_deref()),
            }
        });
        self.changes = changes;
        collected
    }

    /// What a slot is besides its lanes and keys.
    fn memo(&self, slot: Slot) -> SlotMemo {
        let state = self.slots.get(&slot);
        let export = state.and_then(|state| state.phase.export());
        SlotMemo {
            row: SlotRow {
                floor: state.map_or(LogTime(0), |state| state.floor),
                version: state.map_or(0, |state| state.data.version()),
                moves: self.move_row(slot),
            },
            names: [NameSet::List, NameSet::Dirty].map(|set| {
                let export = export.filter(|_| !is_broken(Mutant::ExportNotSaved));
                export.and_then(|export| export.names(set)).cloned()
            }),
        }
    }

    fn move_row(&self, slot: Slot) -> MoveRow {
        let state = self.slots.get(&slot);
        MoveRow {
            epoch: state.map_or(SlotEpoch(0), |state| state.epoch),
            settled: self.settled.get(&slot).copied().unwrap_or_default(),
            phase: state.map_or(PhaseRow::Absent, |state| state.phase.row()),
            ended: self.ended.get(&slot).copied(),
        }
    }

    /// How many lanes there are, and the bytes of their replies.
    fn lane_sums(&self) -> (u64, u64) {
        let LaneTallies { routers, tokens } = self.lane_tallies;
        (routers.lanes + tokens.lanes, routers.replies.total() + tokens.replies.total())
    }

    /// Whether there is no room for one more lane: routers' and tokens are counted apart.
    fn is_full_for(&self, session: SessionId) -> bool {
        if is_broken(Mutant::TokensAmongLanes) {
            return self.lane_sums().0 >= self.limits.lanes_max;
        }
        match session.is_of_token() {
            true => self.lane_tallies.tokens.lanes >= self.limits.tokens_max,
            false => self.lane_tallies.routers.lanes >= self.limits.lanes_max,
        }
    }
}

impl SlotState {
    fn new(floor: LogTime, epoch: SlotEpoch) -> SlotState {
        let (data, lanes) = (SlotData::default(), Lanes::default());
        let (phase, writes) = (Phase::Owned, Writes::default());
        SlotState { floor, epoch, phase, parts: None, data, lanes, writes }
    }

    /// Something of each place in memory that an op will look at. Where a slot has many keys, to find one twice costs more
    /// than the waiting.
    fn glance(&self, op: &Op) -> u64 {
        let few = self.data.tally().keys <= READ_AHEAD_KEYS_MAX;
        let key = op.keys().first().filter(|_| few);
        let value = key.and_then(|key| self.data.item(key)?.value().first());
        let lane = self.lanes.newest_deadline().0;
        lane ^ self.floor.0 ^ self.data.version() ^ value.map_or(0, |byte| u64::from(*byte))
    }

    fn changing<'a>(&'a mut self, slot: Slot, changes: &'a mut Changes) -> Changing<'a> {
        Changing { slot, data: &mut self.data, changes, export: self.phase.export_mut() }
    }
}

/// Notes that the first key of `slot` expires at another time than before.
fn reschedule(
    due: &mut BTreeSet<(LogTime, Slot)>,
    slot: Slot,
    before: Option<LogTime>,
    after: Option<LogTime>,
) {
    if before != after {
        before.map(|at| due.remove(&(at, slot)));
        after.map(|at| due.insert((at, slot)));
    }
}

/// Whether it is what routers fill a seq with that is to have no effect.
fn is_void(op: &Op) -> bool {
    matches!(op, Op::MGet { keys } if keys.is_empty())
}

/// Whether a request can come from a router that works: a slot that exists, the keys in it, a seq
/// that counts from 1 and is not acknowledged before it is answered; with a token, a write, and a name and a window
/// that tokens have.
fn is_well_formed(request: &LaneRequest) -> bool {
    let token_fits = match &request.op {
        Op::Token(token) => {
            let Token { name, hash, window_ms, op } = &**token;
            let named = name.is_of_token() && *name != request.session && *hash > 0;
            named && op.is_write() && TOKEN_WINDOW_MS.contains(window_ms)
        }
        _ => true,
    };
    token_fits
        && request.slot.0 < SLOTS
        && request.seq > Seq(0)
        && request.acked < request.seq
        && request.op.keys().iter().all(|key| hash_slot(key) == request.slot)
}

/// Whether ranges are within the slots there are, in order and apart.
fn are_ranges(ranges: &[(Slot, Slot)]) -> bool {
    ranges.iter().all(|(first, last)| first <= last && last.0 < SLOTS)
        && ranges.windows(2).all(|pair| pair[0].1 < pair[1].0)
}

/// Joins slots that come in order into the fewest ranges.
fn as_ranges(slots: impl Iterator<Item = Slot>) -> Vec<(Slot, Slot)> {
    let mut ranges: Vec<(Slot, Slot)> = Vec::new();
    for slot in slots {
        match ranges.last_mut() {
            Some((_, last)) if last.0 + 1 == slot.0 => *last = slot,
            _ => ranges.push((slot, slot)),
        }
    }
    ranges
}

//! Reads that take no place in the log (Raft thesis 6.4).
//!
//! What arrives in one turn shares one question to Raft: up to which index must be applied before it
//! may be answered. Then a read waits for the op of its own connection that it must see and, if it
//! meets a key that is expired by the leader's clock and not yet by log time, for an entry that moves
//! log time. Whether the group still owns the slot is looked at last (scenario L13).
//!
//! **Order.** What a read waits for, a later one of its connection in its slot waits for too, so a later
//! one never shows an older state. All that are served in one turn see one state.
//!
//! **Bounds.** So many requests wait for a group, reads among them ([`super::WAITING_MAX`]); their
//! keys have [`READ_BYTES_MAX`]; none waits longer than [`READ_PATIENCE_NS`].

use super::admission::Admitted;
use super::{Client, Machine, Replica, ReplicaOutput, answer_to};
use crate::cluster_config::ConfigNum;
use crate::codec::{self, EntryBatch, EntryItem};
use crate::session::{LogTime, SessionId};
use crate::shard_store::ReadStep;
use crate::shardmaster::Shardmaster;
use crate::slot::Slot;
use crate::wire::{After, Answer, GroupQuery, ReadRequest, Reply, RequestBody};
use raft_core::effects::{Effects, ReadMode};
use raft_core::types::{Index, Now, ReadId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Bytes of keys of the reads that wait for one group; beyond it they are answered `Busy`.
pub const READ_BYTES_MAX: usize = 64 << 20;
/// A read that waits so long is answered `Busy`: the op it must see may have been lost with its
/// router. A router asks again, or has given up by then.
pub const READ_PATIENCE_NS: Now = 5_000_000_000;

/// A read with the client that waits for it.
#[derive(Debug)]
struct Waiter {
    client: Client,
    request: ReadRequest,
    since: Now,
    /// It has waited for a clock entry.
    clocked: bool,
    /// Its index was given by the leader's lease, which must hold when it is served (L15).
    leased: bool,
}

/// The reads of one group that are not answered.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// Since the last poll.
    arrived: Vec<(Client, ReadRequest)>,
    last_id: u64,
    /// Raft was asked for their index, oldest first.
    asked: VecDeque<(ReadId, Vec<Waiter>)>,
    /// To be served once so much is applied.
    due: BTreeMap<Index, Vec<Waiter>>,
    /// Wait for an op of a lane.
    lanes: BTreeMap<(Slot, SessionId), Vec<Waiter>>,
    /// Lanes of `lanes` in which ops were applied since reads were last served.
    touched: Vec<(Slot, SessionId)>,
    /// No later than the first end of a session in `lanes`.
    first_end: LogTime,
    /// Slots with reads that wait for a clock entry, and its index: later reads wait behind them.
    clocks: BTreeMap<Slot, Index>,
    count: usize,
    bytes: usize,
    /// No later than when the oldest came.
    oldest: Now,
}

impl Reads {
    /// How many wait.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Whether the keys of one more fit. One alone always does.
    pub(super) fn has_room(&self, request: &ReadRequest) -> bool {
        self.count == 0 || self.bytes.saturating_add(request.op.bytes()) <= READ_BYTES_MAX
    }

    /// A read arrived.
    pub(super) fn push(&mut self, client: Client, request: ReadRequest) {
        self.count += 1;
        self.bytes += request.op.bytes();
        self.arrived.push((client, request));
    }

    /// When the oldest has waited for too long, or earlier.
    pub(super) fn deadline(&self) -> Option<Now> {
        (self.count > self.arrived.len()).then(|| self.oldest.saturating_add(READ_PATIENCE_NS))
    }

    /// An entry is applied: reads may have waited for ops in it.
    pub(super) fn note_applied(&mut self, batch: &EntryBatch) {
        if self.lanes.is_empty() {
            return;
        }
        for item in &batch.items {
            if let EntryItem::Lane(lane) = item
                && self.lanes.contains_key(&(lane.slot, lane.session))
            {
                self.touched.push((lane.slot, lane.session));
            }
        }
    }

    /// The state is another one: what waited for an op may be served now.
    pub(super) fn look_again(&mut self) {
        self.touched.extend(self.lanes.keys());
    }

    fn answer(&mut self, waiter: &Waiter, answer: Answer, out: &mut ReplicaOutput) {
        self.count -= 1;
        self.bytes -= waiter.request.op.bytes();
        let Client { origin, id } = waiter.client;
        out.replies.push((origin, Reply { id, answer }));
    }

    fn wait_for_lane(&mut self, waiter: Waiter, after: After) {
        if self.lanes.is_empty() {
            self.first_end = after.deadline;
        }
        self.first_end = self.first_end.min(after.deadline);
        self.lanes.entry((waiter.request.slot, after.session)).or_default().push(waiter);
    }

    /// Takes what may be ready now that everything up to `applied` is, at this log time.
    fn take_ready(&mut self, applied: Index, log_time: LogTime) -> Vec<Waiter> {
        let mut ready = Vec::new();
        if !self.lanes.is_empty() && log_time > self.first_end {
            ready.extend(std::mem::take(&mut self.lanes).into_values().flatten());
        }
        for lane in std::mem::take(&mut self.touched) {
            ready.extend(self.lanes.remove(&lane).into_iter().flatten());
        }
        while let Some(due) = self.due.first_entry().filter(|due| *due.key() <= applied) {
            ready.extend(due.remove());
        }
        if !self.clocks.is_empty() {
            self.clocks.retain(|_, index| *index > applied);
        }
        ready
    }

    /// Takes every read that Raft was asked for and that `gone` picks.
    fn take_where(&mut self, gone: impl Fn(&Waiter) -> bool) -> Vec<Waiter> {
        let asked = self.asked.iter_mut().map(|(_, waiters)| waiters);
        let lists = asked.chain(self.due.values_mut()).chain(self.lanes.values_mut());
        let taken = lists.flat_map(|waiters| waiters.extract_if(.., |w| gone(w))).collect();
        self.due.retain(|_, waiters| !waiters.is_empty());
        self.lanes.retain(|_, waiters| !waiters.is_empty());
        taken
    }

    fn oldest(&self) -> Option<Now> {
        let asked = self.asked.iter().map(|(_, waiters)| waiters);
        let lists = asked.chain(self.due.values()).chain(self.lanes.values());
        lists.flatten().map(|waiter| waiter.since).min()
    }
}

/// What group 0 takes: ops, and reads that are entries without effect. While the first configuration is on
/// its way they are told to come again: a cluster that has just begun is no reason for a refusal.
pub(super) fn admit_to_master(master: &Shardmaster, body: RequestBody) -> Result<Admitted, Answer> {
    let has_begun = master.newest().num > ConfigNum(0);
    match body {
        RequestBody::Master(_) | RequestBody::Group(GroupQuery::Master(_)) if !has_begun => {
            Err(Answer::Busy)
        }
        RequestBody::Master(request) => Ok(Admitted::Item(EntryItem::Master(request), 1024)),
        RequestBody::Group(query @ GroupQuery::Master(_)) => {
            Ok(Admitted::Item(EntryItem::Group(query), 1024))
        }
        RequestBody::Lane(_)
        | RequestBody::Group(_)
        | RequestBody::LogTime
        | RequestBody::Transfer { .. }
        | RequestBody::Read(_) => Err(Answer::Invalid),
    }
}

impl Replica {
    /// One question for what arrived since the last poll; and whoever waited too long is answered.
    pub(super) fn ask_for_reads(&mut self, now: Now, out: &mut ReplicaOutput) {
        if self.reads.deadline().is_some_and(|deadline| deadline <= now) {
            let late = |w: &Waiter| w.since.saturating_add(READ_PATIENCE_NS) <= now;
            for waiter in self.reads.take_where(late) {
                self.reads.answer(&waiter, Answer::Busy, out);
            }
            self.reads.oldest = self.reads.oldest().unwrap_or(now);
        }
        if self.reads.arrived.is_empty() {
            return;
        }
        if self.reads.count == self.reads.arrived.len() {
            self.reads.oldest = now;
        }
        let leased = self.raft.lease_holds(now);
        let arrived = self.reads.arrived.drain(..);
        let waiters: Vec<Waiter> = arrived
            .map(|(client, request)| Waiter { client, request, since: now, clocked: false, leased })
            .collect();
        self.reads.last_id += 1;
        let id = ReadId(self.reads.last_id);
        let mode = if leased { ReadMode::Lease } else { ReadMode::Index };
        match self.raft.read_index(now, id, mode) {
            Ok(()) => self.reads.asked.push_back((id, waiters)),
            Err(refused) => self.refuse_reads(&waiters, &answer_to(refused), out),
        }
    }

    fn refuse_reads(&mut self, waiters: &[Waiter], answer: &Answer, out: &mut ReplicaOutput) {
        for waiter in waiters {
            self.reads.answer(waiter, answer.clone(), out);
        }
    }

    /// Raft has found indexes, or gives reads up. What it says of reads that failed with an earlier
    /// role finds nobody.
    pub(super) fn note_reads(&mut self, effects: &mut Effects, out: &mut ReplicaOutput) {
        for (id, index) in effects.reads.drain(..) {
            if let Some(waiters) = self.take_asked(id) {
                self.reads.due.entry(index).or_default().extend(waiters);
            }
        }
        for id in effects.reads_failed.drain(..) {
            if let Some(waiters) = self.take_asked(id) {
                self.refuse_reads(&waiters, &Answer::Lost, out);
            }
        }
    }

    fn take_asked(&mut self, id: ReadId) -> Option<Vec<Waiter>> {
        let at = self.reads.asked.iter().position(|(asked, _)| *asked == id)?;
        self.reads.asked.remove(at).map(|(_, waiters)| waiters)
    }

    /// Another role knows nothing of the reads of this one (L8).
    pub(super) fn fail_reads(&mut self, answer: &Answer, out: &mut ReplicaOutput) {
        let waiters = self.reads.take_where(|_| true);
        self.refuse_reads(&waiters, answer, out);
        for (client, request) in std::mem::take(&mut self.reads.arrived) {
            let waiter = Waiter { client, request, since: 0, clocked: false, leased: false };
            self.reads.answer(&waiter, answer.clone(), out);
        }
        self.reads.asked.clear();
        self.reads.touched.clear();
        self.reads.clocks.clear();
    }

    /// Answers what can be answered by what is applied now: all of it from one state.
    pub(super) fn serve_reads(&mut self, now: Now, wall: LogTime, out: &mut ReplicaOutput) {
        if self.reads.count == 0 {
            return;
        }
        let stamp = self.stamp(wall);
        let Machine::Shard(store) = &self.machine else { return };
        let ready = self.reads.take_ready(self.applied.index, store.log_time());
        if ready.is_empty() {
            return;
        }
        let lapsed = !self.raft.lease_holds(now);
        let mut unclocked: Vec<Waiter> = Vec::new();
        let mut behind: BTreeSet<Slot> = BTreeSet::new();
        for waiter in ready {
            if waiter.leased && lapsed {
                // Asked again, it waits for a round.
                self.reads.answer(&waiter, Answer::Lost, out);
                continue;
            }
            let slot = waiter.request.slot;
            if let Some(index) = self.reads.clocks.get(&slot) {
                self.reads.due.entry(*index).or_default().push(waiter);
                continue;
            }
            match store.read(&waiter.request, stamp, waiter.clocked) {
                _ if behind.contains(&slot) => unclocked.push(waiter),
                ReadStep::Answered(answer) => self.reads.answer(&waiter, answer, out),
                ReadStep::AwaitsClock => {
                    behind.insert(slot);
                    unclocked.push(waiter);
                }
                ReadStep::AwaitsLane => match waiter.request.after {
                    Some(after) => self.reads.wait_for_lane(waiter, after),
                    None => self.reads.answer(&waiter, Answer::Invalid, out),
                },
            }
        }
        // A life that was told by this stamp is not told longer later.
        self.last_stamp = self.last_stamp.max(stamp);
        if !unclocked.is_empty() {
            self.propose_clock(now, stamp, unclocked, out);
        }
    }

    /// An entry without items moves log time for all these reads (L14).
    fn propose_clock(
        &mut self,
        now: Now,
        stamp: LogTime,
        mut waiters: Vec<Waiter>,
        out: &mut ReplicaOutput,
    ) {
        let clock = codec::encode_batch(&EntryBatch::new(stamp, Vec::new()));
        let proposed = self.raft.propose(now, &mut std::iter::once(clock.into()));
        if let Some(refused) = proposed.refused {
            return self.refuse_reads(&waiters, &answer_to(refused), out);
        }
        let index = proposed.first.index;
        for waiter in &mut waiters {
            waiter.clocked = true;
            self.reads.clocks.insert(waiter.request.slot, index);
        }
        self.reads.due.entry(index).or_default().extend(waiters);
    }
}

//! The reads of one slot that go without a seq, and the ops that wait for them.
//!
//! A read alone names the newest op of its connection that has no answer yet, and is served once that
//! was executed. It may be asked any number of times; only the answer to its newest attempt counts.
//! Nothing of its connection gets a seq while it waits, so it cannot see a later write. A read that a
//! write of its connection already stands behind has a seq instead: nothing then waits for anything.
//!
//! **Order.** Reads leave in the order in which they came, and a node serves them in that order. An
//! answer counts once the earlier reads of its connection have theirs; when a read has to be asked
//! again so has every later one. Else the later answer could be the older state.

use super::book::{Attempt, Book, Connection};
use super::lane::{Fate, Lane, PendingOp};
use super::{Dispatch, Now};
use crate::backend::{Answered, Refusal};
use shard_core::NodeId;
use shard_core::op::Outcome;
use shard_core::session::LogTime;
use shard_core::slot::Slot;
use shard_core::wire::{After, Answer, ReadRequest, RequestBody};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A read without a seq that is not answered yet.
#[derive(Debug)]
struct PendingRead {
    /// Its place among the slot's reads; grows.
    number: u64,
    op: PendingOp,
    /// What its newest attempt named.
    after: Option<After>,
    /// Its answer, which came before that of an earlier read.
    early: Option<Outcome>,
}

/// How many there are of each connection.
#[derive(Debug, Default)]
pub(super) struct Counts(BTreeMap<Connection, usize>);

impl Counts {
    /// One more.
    pub(super) fn add(&mut self, connection: Connection) {
        *self.0.entry(connection).or_default() += 1;
    }

    /// One less.
    pub(super) fn remove(&mut self, connection: Connection) {
        if let Some(count) = self.0.get_mut(&connection) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&connection);
            }
        }
    }

    /// Whether there is one.
    pub(super) fn has(&self, connection: Connection) -> bool {
        self.0.contains_key(&connection)
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// In the order of their numbers.
    pending: VecDeque<PendingRead>,
    /// Everything before this index is in flight.
    next: usize,
    last_number: u64,
    of: Counts,
    /// How many have an early answer.
    early_count: usize,
    /// Ops that came after a read of their connection that went alone and is not answered.
    held: BTreeMap<Connection, VecDeque<PendingOp>>,
    held_count: usize,
}

impl Reads {
    /// Whether a read of the connection went alone and is not answered.
    pub(super) fn has(&self, connection: Connection) -> bool {
        self.of.has(connection)
    }

    /// Whether ops of the connection are held back.
    pub(super) fn holds(&self, connection: Connection) -> bool {
        self.held.contains_key(&connection)
    }

    /// How many ops are held back.
    pub(super) fn held_count(&self) -> usize {
        self.held_count
    }

    /// The ops that are held back.
    pub(super) fn held(&self) -> impl Iterator<Item = &PendingOp> {
        self.held.values().flatten()
    }

    /// Whether a read has to be sent.
    pub(super) fn wait(&self) -> bool {
        self.pending.range(self.next.min(self.pending.len())..).any(is_waiting)
    }

    /// A read goes alone.
    pub(super) fn push(&mut self, op: PendingOp) {
        if let Some(connection) = op.connection {
            self.of.add(connection);
        }
        self.last_number += 1;
        self.pending.push_back(PendingRead {
            number: self.last_number,
            op,
            after: None,
            early: None,
        });
    }

    /// An op waits for the reads of its connection.
    pub(super) fn hold(&mut self, connection: Connection, op: PendingOp) {
        self.held.entry(connection).or_default().push_back(op);
        self.held_count += 1;
    }

    /// Index and bytes of the next read to send. What has to see an op of a closing lane waits: that
    /// op may go on in another one.
    pub(super) fn next_to_send(&self, lane: Option<&Lane>) -> Option<(usize, usize)> {
        let closing = lane.filter(|lane| lane.closing);
        let sees = |read: &PendingRead, lane: &Lane| lane.newest_of(read.op.connection).is_some();
        let from = self.next.min(self.pending.len());
        let mut rest = (from..).zip(self.pending.range(from..));
        rest.find(|(_, read)| is_waiting(read) && !closing.is_some_and(|lane| sees(read, lane)))
            .map(|(at, read)| (at, read.op.bytes))
    }

    /// Notes an attempt for the read at an index and gives what to send.
    pub(super) fn sent(
        &mut self,
        at: usize,
        slot: Slot,
        lane: Option<&Lane>,
        node: NodeId,
        now: Now,
        book: &mut Book,
    ) -> (u64, RequestBody) {
        let read = &mut self.pending[at];
        let id = book.attempt(Attempt::Read { slot, number: read.number });
        read.after = lane.and_then(|lane| {
            let seq = lane.newest_of(read.op.connection)?;
            Some(After { session: lane.session, deadline: lane.deadline, seq })
        });
        read.op.fate = Fate::InFlight(id, node);
        read.op.sent_at = now;
        read.op.frames += 1;
        if read.op.frames > 1 {
            book.stats.retries += 1;
        }
        book.charge(node, read.op.bytes);
        if at == self.next {
            self.next += 1;
        }
        (id, RequestBody::Read(ReadRequest { slot, after: read.after, op: read.op.op.clone() }))
    }

    fn index_of(&self, number: u64) -> Option<usize> {
        self.pending.binary_search_by_key(&number, |read| read.number).ok()
    }

    /// Asks for every read from `from` on again.
    pub(super) fn rewind(&mut self, from: usize, book: &mut Book) {
        for read in self.pending.range_mut(from.min(self.pending.len())..) {
            self.early_count -= usize::from(read.early.take().is_some());
            recall(&mut read.op, book);
        }
        self.next = self.next.min(from);
    }

    /// The read at an index has its answer, which counts now or once the earlier ones of its
    /// connection have theirs. Returns ops that nothing holds back any more.
    fn answer(&mut self, at: usize, outcome: Outcome, book: &mut Book) -> VecDeque<PendingOp> {
        let connection = self.pending[at].op.connection;
        let mut earlier = self.pending.range(..at);
        if !earlier.any(|read| read.op.connection == connection) {
            return self.settle(at, Answered::Outcome(outcome), book);
        }
        let read = &mut self.pending[at];
        recall(&mut read.op, book);
        read.op.fate = Fate::Answered;
        read.early = Some(outcome);
        self.early_count += 1;
        VecDeque::new()
    }

    /// The read leaves with an answer, and with it those whose early answers count now.
    fn settle(&mut self, at: usize, answer: Answered, book: &mut Book) -> VecDeque<PendingOp> {
        let mut freed = self.leave(at, answer, book);
        if self.early_count > 0 {
            freed.append(&mut self.settle_early(book));
        }
        freed
    }

    fn settle_early(&mut self, book: &mut Book) -> VecDeque<PendingOp> {
        let mut freed = VecDeque::new();
        let mut behind = BTreeSet::new();
        let mut at = 0;
        while let Some(read) = self.pending.get_mut(at) {
            if !behind.contains(&read.op.connection)
                && let Some(outcome) = read.early.take()
            {
                self.early_count -= 1;
                freed.append(&mut self.leave(at, Answered::Outcome(outcome), book));
            } else {
                behind.insert(read.op.connection);
                at += 1;
            }
        }
        freed
    }

    fn leave(&mut self, at: usize, answer: Answered, book: &mut Book) -> VecDeque<PendingOp> {
        let Some(mut read) = self.pending.remove(at) else { return VecDeque::new() };
        if at < self.next {
            self.next -= 1;
        }
        recall(&mut read.op, book);
        book.answer(&mut read.op.ticket, answer);
        book.forget(read.op.group, read.op.deadline, read.op.bytes);
        let Some(connection) = read.op.connection else { return VecDeque::new() };
        self.of.remove(connection);
        self.release(connection)
    }

    fn release(&mut self, connection: Connection) -> VecDeque<PendingOp> {
        if self.of.has(connection) {
            return VecDeque::new();
        }
        let held = self.held.remove(&connection).unwrap_or_default();
        self.held_count -= held.len();
        held
    }

    /// Takes out every read and held op that `goes` picks, and then the held ops that nothing holds
    /// any more: they come back in the order of each connection.
    pub(super) fn drop_where(
        &mut self,
        book: &mut Book,
        mut goes: impl FnMut(&mut PendingOp, &mut Book) -> bool,
    ) -> VecDeque<PendingOp> {
        self.pending.retain_mut(|read| {
            let gone = goes(&mut read.op, book);
            if gone {
                recall(&mut read.op, book);
                book.forget(read.op.group, read.op.deadline, read.op.bytes);
            }
            !gone
        });
        for ops in self.held.values_mut() {
            ops.retain_mut(|op| {
                let gone = goes(op, book);
                if gone {
                    book.forget(op.group, op.deadline, op.bytes);
                }
                !gone
            });
        }
        self.held.retain(|_, ops| !ops.is_empty());
        self.held_count = self.held.values().map(VecDeque::len).sum();
        self.next = self.pending.iter().position(is_waiting).unwrap_or(self.pending.len());
        self.of.clear();
        self.pending.iter().filter_map(|r| r.op.connection).for_each(|c| self.of.add(c));
        self.early_count = self.pending.iter().filter(|read| read.early.is_some()).count();
        let mut freed = self.settle_early(book);
        let free: Vec<Connection> =
            self.held.keys().copied().filter(|connection| !self.of.has(*connection)).collect();
        freed.extend(free.into_iter().flat_map(|connection| self.release(connection)));
        freed
    }

    /// Everything, as if nothing had been sent, in the order of each connection.
    pub(super) fn take_all(&mut self, book: &mut Book) -> VecDeque<PendingOp> {
        self.rewind(0, book);
        self.next = 0;
        self.of.clear();
        self.held_count = 0;
        let reads = std::mem::take(&mut self.pending).into_iter().map(|read| read.op);
        let held = std::mem::take(&mut self.held).into_values().flatten();
        let fresh = |op| PendingOp { frames: 0, ..op };
        reads.chain(held).map(fresh).collect()
    }
}

fn is_waiting(read: &PendingRead) -> bool {
    read.op.fate == Fate::Waiting
}

/// The newest attempt does not matter any more.
fn recall(op: &mut PendingOp, book: &mut Book) {
    if let Fate::InFlight(id, node) = op.fate {
        book.release(node, op.bytes);
        book.attempts.remove(&id);
    }
    op.fate = Fate::Waiting;
}

/// Whether the session was over when the read was served while the op that it must see had no answer
/// yet: it was served without that op, which may go on in a new session.
fn missed(after: Option<After>, lane: Option<&Lane>, log_time: LogTime) -> bool {
    let Some((after, lane)) = after.zip(lane) else { return false };
    log_time > after.deadline && lane.session == after.session && lane.awaits(after.seq)
}

impl Dispatch {
    /// The newest attempt of a read was answered.
    pub(super) fn on_read_answer(&mut self, now: Now, slot: Slot, number: u64, answer: Answer) {
        let Some(state) = self.slots.get_mut(&slot) else { return };
        let Some(at) = state.reads.index_of(number) else { return };
        let Some(group) = self.groups.get_mut(&state.group) else { return };
        let after = state.reads.pending[at].after;
        match answer {
            Answer::Done { outcome, log_time } if !missed(after, state.lane.as_ref(), log_time) => {
                group.worked();
                state.worked();
                let freed = state.reads.answer(at, outcome, &mut self.book);
                state.take_back(freed);
                state.queue(slot, group, now);
            }
            failure => self.on_read_failure(now, slot, at, &failure),
        }
    }

    fn on_read_failure(&mut self, now: Now, slot: Slot, at: usize, answer: &Answer) {
        let Some(state) = self.slots.get_mut(&slot) else { return };
        let Some(group) = self.groups.get_mut(&state.group) else { return };
        let (book, id) = (&mut self.book, state.group);
        state.reads.rewind(at, book);
        match answer {
            Answer::NotLeader { .. } | Answer::Busy => {
                if *answer == Answer::Busy {
                    state.sure = Refusal::Overloaded;
                }
                self.on_group_failure(now, id, answer);
            }
            Answer::Invalid => {
                let answer = Answered::Refused(Refusal::ClusterDown);
                let freed = state.reads.settle(at, answer, book);
                state.take_back(freed);
                self.on_group_failure(now, id, &Answer::Invalid);
            }
            Answer::Elsewhere => {
                state.hold_back(Refusal::Moving { slot }, now, book);
                self.refresh_wanted = true;
            }
            // Asked again it waits there until that is decided.
            Answer::Frozen => state.sure = Refusal::Moving { slot },
            Answer::Moved { to, epoch } => self.follow_slot(now, slot, *to, *epoch),
            // Only in this slot: the group answers.
            Answer::Done { .. } => state.hold_back(state.sure, now, book),
            Answer::Lost
            | Answer::Group(_)
            | Answer::Master(_)
            | Answer::LogTime(_)
            | Answer::Old
            | Answer::Gap { .. }
            | Answer::Window
            | Answer::ReplyGone
            | Answer::Expired { .. }
            | Answer::DeadlineTooFar { .. }
            | Answer::LanesFull => {
                group.backoff.fail(now, &mut book.random);
                self.refresh_wanted = true;
            }
        }
        if let Some(state) = self.slots.get_mut(&slot)
            && let Some(group) = self.groups.get_mut(&state.group)
        {
            state.queue(slot, group, now);
        }
    }
}

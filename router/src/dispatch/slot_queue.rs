//! What one slot has to say to its group: the lane, and the ops that have no seq yet.

use super::backoff::Backoff;
use super::book::Book;
use super::group::Group;
use super::lane::{Fate, Lane, PendingOp};
use super::outbox::Outbox;
use super::reads::{Counts, Reads};
use super::{Bounds, Now};
use crate::backend::{Answered, Refusal};
use shard_core::GroupId;
use shard_core::session::{LANE_WINDOW, LogTime};
use shard_core::slot::Slot;
use shard_core::wire::{LaneRequest, RequestBody};
use std::collections::{BTreeMap, VecDeque};

/// A seq that is unanswered so long after it was sent is sent again, though nothing says that it was
/// lost: also how often a given-up op is looked at. Far above what a healthy group takes.
const STALL_NS: u64 = 10_000_000_000;
/// So long after the deadline of a write that may have been executed its client is told that this is
/// unknown, unless the void that left at the deadline has heard more.
const GRACE_NS: u64 = 250_000_000;
/// The same as `STALL_NS` of a read, which is given up at its deadline: so long before it, without an answer, says
/// that the node is no good.
const READ_STALL_NS: u64 = 2_000_000_000;
/// A large reply that is answered so long, in a lane that has had nothing more to say, is
/// acknowledged by an op of its own. The group would else remember it to the end of the session.
const ACKNOWLEDGE_NS: u64 = 1_000_000_000;

/// Why `fill` stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// Nothing more to send before something is answered.
    Drained,
    /// A new lane needs a session.
    NoSession,
    /// The link has enough in flight.
    LinkFull,
}

/// One slot's queue.
#[derive(Debug)]
pub(super) struct SlotQueue {
    /// The group that owns the slot, as far as known.
    pub(super) group: GroupId,
    /// The lane in use. Only one: a new one begins when the old one is empty.
    pub(super) lane: Option<Lane>,
    /// Ops without a seq, in order.
    unsent: VecDeque<PendingOp>,
    /// Reads that go without a seq, and what waits for them.
    pub(super) reads: Reads,
    /// Writes without a seq, those that are held back for reads among them.
    writes: Counts,
    /// Holds back this slot alone.
    pub(super) backoff: Backoff,
    /// What to tell a client at its deadline if nothing was executed.
    pub(super) sure: Refusal,
    /// Whether the slot stands in its group's `ready` or `parked`.
    queued: bool,
    /// When the lane last answered.
    answered_at: Now,
    /// Whether a look at the slot is due for an acknowledgement.
    watched: bool,
    /// The slot's log time if that is far above the group's: the next lane is in a session of its own.
    pub(super) ahead: Option<LogTime>,
}

impl SlotQueue {
    /// An empty one.
    pub(super) fn new(group: GroupId) -> SlotQueue {
        SlotQueue {
            group,
            lane: None,
            unsent: VecDeque::new(),
            reads: Reads::default(),
            writes: Counts::default(),
            backoff: Backoff::default(),
            sure: Refusal::ClusterDown,
            queued: false,
            answered_at: 0,
            watched: false,
            ahead: None,
        }
    }

    /// How many ops have no seq and were not sent without one.
    pub(super) fn unsent_count(&self) -> usize {
        self.unsent.len() + self.reads.held_count()
    }

    /// An op came.
    pub(super) fn push(&mut self, op: PendingOp) {
        if op.write
            && let Some(connection) = op.connection
        {
            self.writes.add(connection);
        }
        self.unsent.push_back(op);
    }

    /// Ops that were held back, or sent in vain, go before those that came later.
    pub(super) fn take_back(&mut self, ops: VecDeque<PendingOp>) {
        for op in ops.into_iter().rev() {
            self.unsent.push_front(op);
        }
    }

    /// Puts the slot among those that have something to send, if it has.
    pub(super) fn queue(&mut self, slot: Slot, group: &mut Group, now: Now) {
        let resend = self.lane.as_mut().is_some_and(|lane| lane.resend().is_some());
        if self.queued || (self.unsent.is_empty() && !resend && !self.reads.wait()) {
            return;
        }
        self.queued = true;
        if self.backoff.ready(now) {
            group.ready.push_back(slot);
        } else {
            group.parked.insert((self.backoff.until(), slot));
        }
    }

    /// The slot was taken out of its group's `ready` or `parked`.
    pub(super) fn unqueue(&mut self) {
        self.queued = false;
    }

    /// The lane answered. When the slot has to be looked at by `acknowledge`, if that is new.
    pub(super) fn answered(&mut self, now: Now) -> Option<Now> {
        self.answered_at = now;
        let watch = !self.watched && self.owes_acknowledgement();
        self.watched |= watch;
        watch.then(|| now.saturating_add(ACKNOWLEDGE_NS))
    }

    /// Acknowledges a large reply if the slot has been idle since, and says when to look again if it
    /// has not been for long enough.
    pub(super) fn acknowledge(&mut self, now: Now, book: &mut Book) -> Option<Now> {
        self.watched = false;
        if !self.owes_acknowledgement() {
            return None;
        }
        let due = self.answered_at.saturating_add(ACKNOWLEDGE_NS);
        if due > now {
            self.watched = true;
            return Some(due);
        }
        if let Some(lane) = &mut self.lane {
            lane.owe_nothing(self.group, now, now.saturating_add(STALL_NS), book);
        }
        None
    }

    fn owes_acknowledgement(&self) -> bool {
        self.unsent.is_empty() && self.lane.as_ref().is_some_and(Lane::owes_acknowledgement)
    }

    /// Holds the slot back after a failure, and sends from `from` on again.
    pub(super) fn fail(&mut self, from: usize, sure: Refusal, now: Now, book: &mut Book) {
        self.hold_back(sure, now, book);
        if let Some(lane) = &mut self.lane {
            lane.rewind(from, book);
        }
    }

    /// Holds the slot back after a failure.
    pub(super) fn hold_back(&mut self, sure: Refusal, now: Now, book: &mut Book) {
        self.sure = sure;
        self.backoff.fail(now, &mut book.random);
    }

    /// Something was executed.
    pub(super) fn worked(&mut self) {
        self.sure = Refusal::ClusterDown;
        self.backoff.reset();
    }

    /// Sends what may be sent: first again, in order, what was sent before; then new ops.
    pub(super) fn fill(
        &mut self,
        slot: Slot,
        group: &mut Group,
        now: Now,
        bounds: &Bounds,
        outbox: &mut Outbox<'_>,
        book: &mut Book,
    ) -> Filled {
        loop {
            let again = self.lane.as_mut().and_then(Lane::resend);
            let read = self.reads.next_to_send(self.lane.as_ref());
            let bytes = match (again, &self.lane, read, self.unsent.front()) {
                (Some(index), Some(lane), ..) => lane.ops[index].bytes,
                (.., Some((_, bytes)), _) => bytes,
                (.., Some(op)) => op.bytes,
                _ => return Filled::Drained,
            };
            if !book.link_has_room(outbox.node(), bytes, bounds.link) {
                return Filled::LinkFull;
            }
            let node = outbox.node();
            if let (Some(index), Some(lane)) = (again, &mut self.lane) {
                let id = lane.sent(index, slot, node, now, book);
                outbox.push(id, lane_request(lane, index, slot), bytes);
            } else if let Some((at, _)) = read {
                let (id, body) = self.reads.sent(at, slot, self.lane.as_ref(), node, now, book);
                outbox.push(id, body, bytes);
            } else if let Err(filled) = self.place(group, now, book) {
                return filled;
            }
        }
    }

    /// Moves the first unsent op to where it is sent from, or has to wait. Everything that is there
    /// was sent.
    fn place(&mut self, group: &mut Group, now: Now, book: &mut Book) -> Result<(), Filled> {
        let Some(op) = self.unsent.front() else { return Ok(()) };
        let Some(connection) = op.connection else { return self.give_seq(group, now, book) };
        let (write, reads_wait) = (op.write, self.reads.has(connection));
        let hold = self.reads.holds(connection) || (write && reads_wait);
        // Its own connection's next write is there already: they go together, and in order.
        if !hold && (write || (!reads_wait && self.writes.has(connection))) {
            return self.give_seq(group, now, book);
        }
        let op = self.unsent.pop_front();
        match hold {
            true => op.into_iter().for_each(|op| self.reads.hold(connection, op)),
            false => op.into_iter().for_each(|op| self.reads.push(op)),
        }
        Ok(())
    }

    /// Another group has the slot now. The lane goes along with it.
    pub(super) fn give_to(
        &mut self,
        owner: GroupId,
        slot: Slot,
        groups: &mut BTreeMap<GroupId, Group>,
        now: Now,
        book: &mut Book,
    ) {
        self.group = owner;
        self.unqueue();
        self.backoff.reset();
        if let Some(lane) = &mut self.lane {
            lane.rewind(0, book);
        }
        self.reads.rewind(0, book);
        self.queue(slot, groups.entry(owner).or_insert_with(|| Group::new(owner)), now);
    }

    /// Moves the first unsent op into the lane, a new one if need be.
    fn give_seq(&mut self, group: &mut Group, now: Now, book: &mut Book) -> Result<(), Filled> {
        let usable = |lane: &Lane| !lane.closing && !group.turns(lane.deadline, now);
        let lane = match &mut self.lane {
            Some(lane) if usable(lane) => {
                if lane.ops.len() as u64 >= LANE_WINDOW {
                    return Err(Filled::Drained);
                }
                lane
            }
            // Ops of one slot are in one lane at a time: that is what keeps them in order.
            Some(lane) if !lane.ops.is_empty() => return Err(Filled::Drained),
            lane => {
                // Once it is left nobody would acknowledge anything in it.
                let later = now.saturating_add(STALL_NS);
                if let Some(left) = lane
                    && left.owe_nothing(self.group, now, later, book)
                {
                    return Ok(());
                }
                let (id, deadline) = match self.ahead.take() {
                    Some(log_time) => group.session_at(log_time, book),
                    None => group.session(now, book).ok_or(Filled::NoSession)?,
                };
                lane.insert(Lane::new(id, deadline))
            }
        };
        if let Some(op) = self.unsent.pop_front() {
            if op.write
                && let Some(connection) = op.connection
            {
                self.writes.remove(connection);
            }
            lane.push(op);
        }
        Ok(())
    }

    /// After answers: acknowledges what can be, and leaves a closing lane in which nothing waits.
    pub(super) fn advance(&mut self, book: &mut Book) {
        let Some(lane) = &mut self.lane else { return };
        lane.acknowledge();
        if !lane.is_left() {
            return;
        }
        let left = std::mem::take(&mut lane.ops);
        self.lane = None;
        // What has to see these ops, or wait for such a read, comes behind them again.
        let behind = self.reads.take_all(book);
        self.take_back(behind);
        for mut op in left.into_iter().rev() {
            if op.fate != Fate::Rerun {
                continue;
            }
            if op.ticket.is_none() {
                book.forget(op.group, op.deadline, op.bytes);
                continue;
            }
            op.fate = Fate::Waiting;
            op.frames = 0;
            if op.write
                && let Some(connection) = op.connection
            {
                self.writes.add(connection);
            }
            self.unsent.push_front(op);
        }
    }

    /// The group does not know the lane any more: nothing in it can be driven to an answer.
    pub(super) fn lose_lane(&mut self, now: Now, book: &mut Book) {
        let Some(mut lane) = self.lane.take() else { return };
        for index in 0..lane.ops.len() {
            if lane.ops[index].fate != Fate::Answered {
                let refusal = lane.ops[index].refusal(now, Refusal::ClusterDown);
                lane.settle(index, Answered::Refused(refusal), book);
            }
        }
        self.reads.rewind(0, book);
    }

    /// Answers whoever has waited to the deadline. An op without a seq goes; one with a seq stays
    /// until the lane answers, as a void. A write that may have been executed is answered by what the
    /// void hears, if that comes within the grace. True if something has been in flight for too long.
    pub(super) fn expire(&mut self, now: Now, book: &mut Book) -> bool {
        let sure = self.sure;
        let mut stalled = false;
        self.drop_unsent(book, |op, book| {
            let late = op.deadline <= now;
            if late {
                stalled |= matches!(op.fate, Fate::InFlight(..))
                    && now.saturating_sub(op.sent_at) >= READ_STALL_NS;
                book.answer(&mut op.ticket, Answered::Refused(sure));
            }
            late
        });
        let Some(lane) = &mut self.lane else { return stalled };
        for index in 0..lane.ops.len() {
            let op = &mut lane.ops[index];
            if op.fate == Fate::Answered || op.deadline > now {
                continue;
            }
            stalled |=
                matches!(op.fate, Fate::InFlight(..)) && now.saturating_sub(op.sent_at) >= STALL_NS;
            let may_hear_more = op.may_hear_more();
            let next = now.saturating_add(if may_hear_more { GRACE_NS } else { STALL_NS });
            book.postpone(op.deadline, next);
            op.deadline = next;
            if may_hear_more {
                lane.ask_again(index, book);
            } else {
                let refusal = op.refusal(now, sure);
                book.answer(&mut op.ticket, Answered::Refused(refusal));
                op.make_void();
            }
        }
        stalled
    }

    /// Drops what was not sent for clients that went, and who waits for the rest.
    pub(super) fn abandon(&mut self, gone: &mut dyn FnMut(super::Ticket) -> bool, book: &mut Book) {
        self.drop_unsent(book, |op, _| op.ticket.is_some_and(&mut *gone));
        for op in self.lane.iter_mut().flat_map(|lane| &mut lane.ops) {
            if op.ticket.is_some_and(&mut *gone) {
                op.ticket = None;
            }
        }
    }

    /// Drops every op without a seq that `goes` picks.
    pub(super) fn drop_unsent(
        &mut self,
        book: &mut Book,
        mut goes: impl FnMut(&mut PendingOp, &mut Book) -> bool,
    ) {
        self.unsent.retain_mut(|op| {
            let gone = goes(op, book);
            if gone {
                book.forget(op.group, op.deadline, op.bytes);
            }
            !gone
        });
        let freed = self.reads.drop_where(book, goes);
        self.take_back(freed);
        self.writes.clear();
        let held = self.reads.held();
        for op in self.unsent.iter().chain(held).filter(|op| op.write) {
            op.connection.into_iter().for_each(|connection| self.writes.add(connection));
        }
    }
}

fn lane_request(lane: &Lane, index: usize, slot: Slot) -> RequestBody {
    RequestBody::Lane(LaneRequest {
        session: lane.session,
        deadline: lane.deadline,
        slot,
        seq: lane.seq_at(index),
        acked: lane.acked,
        op: lane.ops[index].op.clone(),
    })
}

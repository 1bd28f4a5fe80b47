//! What one slot has to say to its group: the lane, and the ops that have no seq yet.

use super::backoff::Backoff;
use super::book::Book;
use super::group::Group;
use super::lane::{Fate, Lane, PendingOp};
use super::outbox::Outbox;
use super::{Bounds, Now};
use crate::backend::{Answered, Refusal};
use shard_core::GroupId;
use shard_core::session::LANE_WINDOW;
use shard_core::slot::Slot;
use shard_core::wire::{LaneRequest, RequestBody};
use std::collections::VecDeque;

/// A seq that is unanswered so long after it was sent is sent again, though nothing says that it was
/// lost: also how often a given-up op is looked at. Far above what a healthy group takes.
const STALL_NS: u64 = 10_000_000_000;
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
    pub(super) unsent: VecDeque<PendingOp>,
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
}

impl SlotQueue {
    /// An empty one.
    pub(super) fn new(group: GroupId) -> SlotQueue {
        SlotQueue {
            group,
            lane: None,
            unsent: VecDeque::new(),
            backoff: Backoff::default(),
            sure: Refusal::ClusterDown,
            queued: false,
            answered_at: 0,
            watched: false,
        }
    }

    /// Puts the slot among those that have something to send, if it has.
    pub(super) fn queue(&mut self, slot: Slot, group: &mut Group, now: Now) {
        let resend = self.lane.as_mut().is_some_and(|lane| lane.resend().is_some());
        if self.queued || (self.unsent.is_empty() && !resend) {
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
        self.sure = sure;
        self.backoff.fail(now, &mut book.random);
        if let Some(lane) = &mut self.lane {
            lane.rewind(from, book);
        }
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
            let bytes = match (again, &self.lane, self.unsent.front()) {
                (Some(index), Some(lane), _) => lane.ops[index].bytes,
                (_, _, Some(op)) => op.bytes,
                _ => return Filled::Drained,
            };
            if !book.link_has_room(outbox.node(), bytes, bounds.link) {
                return Filled::LinkFull;
            }
            let index = match again {
                Some(index) => index,
                None => match self.give_seq(group, now, book) {
                    Ok(index) => index,
                    Err(filled) => return filled,
                },
            };
            if let Some(lane) = &mut self.lane {
                let id = lane.sent(index, slot, outbox.node(), now, book);
                outbox.push(id, lane_request(lane, index, slot), bytes);
            }
        }
    }

    /// Moves the first unsent op into the lane, a new one if need be. Everything in the lane was
    /// sent.
    fn give_seq(&mut self, group: &mut Group, now: Now, book: &mut Book) -> Result<usize, Filled> {
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
                    return Ok(0);
                }
                let (id, deadline) = group.session(now, book).ok_or(Filled::NoSession)?;
                lane.insert(Lane::new(id, deadline))
            }
        };
        lane.ops.extend(self.unsent.pop_front());
        Ok(lane.ops.len() - 1)
    }

    /// After answers: acknowledges what can be, and leaves a closing lane in which nothing waits.
    pub(super) fn advance(&mut self, book: &mut Book) {
        let Some(lane) = &mut self.lane else { return };
        lane.acknowledge();
        if !lane.is_left() {
            return;
        }
        for mut op in std::mem::take(&mut lane.ops).into_iter().rev() {
            if op.fate != Fate::Rerun {
                continue;
            }
            if op.ticket.is_none() {
                book.forget(op.group, op.deadline, op.bytes);
                continue;
            }
            op.fate = Fate::Waiting;
            op.frames = 0;
            self.unsent.push_front(op);
        }
        self.lane = None;
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
    }

    /// Answers whoever has waited to the deadline. An op without a seq goes; one with a seq stays
    /// until the lane answers, as a void. True if something has been in flight for too long.
    pub(super) fn expire(&mut self, now: Now, book: &mut Book) -> bool {
        let sure = self.sure;
        self.unsent.retain_mut(|op| {
            let keep = op.deadline > now;
            if !keep {
                book.answer(&mut op.ticket, Answered::Refused(sure));
                book.forget(op.group, op.deadline, op.bytes);
            }
            keep
        });
        let mut stalled = false;
        for op in self.lane.iter_mut().flat_map(|lane| &mut lane.ops) {
            if op.fate == Fate::Answered || op.deadline > now {
                continue;
            }
            let refusal = op.refusal(now, sure);
            book.answer(&mut op.ticket, Answered::Refused(refusal));
            op.make_void();
            stalled |=
                matches!(op.fate, Fate::InFlight(..)) && now.saturating_sub(op.sent_at) >= STALL_NS;
            book.postpone(op.deadline, now.saturating_add(STALL_NS));
            op.deadline = now.saturating_add(STALL_NS);
        }
        stalled
    }

    /// Drops what was not sent for clients that went, and who waits for the rest.
    pub(super) fn abandon(&mut self, gone: &mut dyn FnMut(super::Ticket) -> bool, book: &mut Book) {
        self.unsent.retain(|op| {
            let keep = !op.ticket.is_some_and(&mut *gone);
            if !keep {
                book.forget(op.group, op.deadline, op.bytes);
            }
            keep
        });
        for op in self.lane.iter_mut().flat_map(|lane| &mut lane.ops) {
            if op.ticket.is_some_and(&mut *gone) {
                op.ticket = None;
            }
        }
    }

    /// Nobody owns the slot: what has no seq is refused at once.
    pub(super) fn refuse_unsent(&mut self, refusal: Refusal, book: &mut Book) {
        for mut op in self.unsent.drain(..) {
            book.answer(&mut op.ticket, Answered::Refused(refusal));
            book.forget(op.group, op.deadline, op.bytes);
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

//! What every part of the dispatcher writes to: answers, attempts, timers, counters.

use super::backoff::Random;
use crate::backend::{Answered, DispatchStats, Refusal};
use shard_core::session::Seq;
use shard_core::slot::Slot;
use shard_core::{GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// Names a submitted request until it is answered; given by the caller, never looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Names the client connection that a request came over: what one connection sends to a slot takes
/// effect in that order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection(pub u64);

/// Deadlines are looked at in steps of this many nanoseconds.
const TIMER_STEP_NS: u64 = 8_000_000;

/// What an attempt was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// An op of the slot's lane.
    Op {
        /// The slot.
        slot: Slot,
        /// Its seq.
        seq: Seq,
    },
    /// A read without a seq.
    Read {
        /// The slot.
        slot: Slot,
        /// The slot's own number for it.
        number: u64,
    },
    /// A query, by the dispatcher's own number.
    Query {
        /// The group asked.
        group: GroupId,
        /// The query.
        query: u64,
    },
    /// The group's log time, for a session.
    LogTime {
        /// The group asked.
        group: GroupId,
    },
}

/// A link as the dispatcher knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum LinkState {
    /// Nobody asked for it since it broke.
    #[default]
    Down,
    /// Asked for.
    Opening,
    /// Takes requests.
    Up,
}

/// One link's state and load.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Link {
    /// Whether it can be used.
    pub(super) state: LinkState,
    /// What is with the node.
    pub(super) load: Load,
}

/// How much may wait. What is beyond is refused at once, before it gets a seq.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Ops of one slot without a seq.
    pub lane_unsent_max: usize,
    /// Requests of one group.
    pub group: Load,
    /// Requests in all.
    pub all: Load,
    /// Requests in flight on one link; more wait.
    pub link: Load,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            lane_unsent_max: 1 << 16,
            group: Load { requests: 1 << 17, bytes: 256 << 20 },
            all: Load { requests: 1 << 18, bytes: 512 << 20 },
            link: Load { requests: 1 << 14, bytes: 32 << 20 },
        }
    }
}

/// So many requests of so many bytes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests.
    pub requests: usize,
    /// Their bytes: keys, values and a constant each.
    pub bytes: usize,
}

impl Load {
    fn add(&mut self, bytes: usize) {
        self.requests += 1;
        self.bytes += bytes;
    }

    fn remove(&mut self, bytes: usize) {
        self.requests -= 1;
        self.bytes -= bytes;
    }

    /// Whether one more of `bytes` fits under `max`. A request alone always fits.
    pub(super) fn has_room(&self, bytes: usize, max: Load) -> bool {
        self.requests == 0
            || (self.requests < max.requests && self.bytes.saturating_add(bytes) <= max.bytes)
    }
}

/// Shared by lanes and groups; see the fields.
#[derive(Debug)]
pub(super) struct Book {
    /// Answers to hand out at the next poll.
    pub(super) answers: Vec<(Ticket, Answered)>,
    /// Every attempt whose answer would tell something, by request id.
    pub(super) attempts: BTreeMap<u64, Attempt>,
    /// Links by node.
    pub(super) links: BTreeMap<NodeId, Link>,
    /// Nodes of a program before tokens, as far as links are open.
    pub(super) older: BTreeSet<NodeId>,
    /// Counters.
    pub(super) stats: DispatchStats,
    /// Jitter and ids.
    pub(super) random: Random,
    /// Everything pending.
    pub(super) load: Load,
    /// The same by group.
    pub(super) group_load: BTreeMap<GroupId, Load>,
    /// How many pending requests are to be looked at in each step of time.
    timers: BTreeMap<u64, usize>,
    last_id: u64,
}

impl Book {
    /// An empty one.
    pub(super) fn new(seed: [u64; 2]) -> Book {
        Book {
            answers: Vec::new(),
            attempts: BTreeMap::new(),
            links: BTreeMap::new(),
            older: BTreeSet::new(),
            stats: DispatchStats::default(),
            random: Random::new(seed),
            load: Load::default(),
            group_load: BTreeMap::new(),
            timers: BTreeMap::new(),
            last_id: 0,
        }
    }

    /// A new request id: never used twice, on any link.
    pub(super) fn attempt(&mut self, attempt: Attempt) -> u64 {
        self.last_id += 1;
        self.stats.attempts += 1;
        self.attempts.insert(self.last_id, attempt);
        self.last_id
    }

    /// Whether a request of `bytes` may join what is with a node.
    pub(super) fn link_has_room(&self, node: NodeId, bytes: usize, max: Load) -> bool {
        self.links.get(&node).is_none_or(|link| link.load.has_room(bytes, max))
    }

    /// A request is with a node.
    pub(super) fn charge(&mut self, node: NodeId, bytes: usize) {
        self.links.entry(node).or_default().load.add(bytes);
    }

    /// It is answered, or no longer waited for.
    pub(super) fn release(&mut self, node: NodeId, bytes: usize) {
        self.links.entry(node).or_default().load.remove(bytes);
    }

    /// Answers a client, once.
    pub(super) fn answer(&mut self, ticket: &mut Option<Ticket>, answer: Answered) {
        let Some(ticket) = ticket.take() else { return };
        self.stats.answered += 1;
        match answer {
            Answered::Refused(Refusal::Unknown { .. }) => self.stats.unknown += 1,
            Answered::Refused(Refusal::Overloaded) => self.stats.overloaded += 1,
            _ => {}
        }
        self.answers.push((ticket, answer));
    }

    /// A request joins those that wait.
    pub(super) fn remember(&mut self, group: GroupId, deadline: u64, bytes: usize) {
        self.load.add(bytes);
        self.group_load.entry(group).or_default().add(bytes);
        *self.timers.entry(step_of(deadline)).or_default() += 1;
    }

    /// It leaves them.
    pub(super) fn forget(&mut self, group: GroupId, deadline: u64, bytes: usize) {
        self.load.remove(bytes);
        self.group_load.entry(group).or_default().remove(bytes);
        self.disarm(deadline);
    }

    /// Looks at a request again later instead of at `from`.
    pub(super) fn postpone(&mut self, from: u64, to: u64) {
        self.disarm(from);
        *self.timers.entry(step_of(to)).or_default() += 1;
    }

    fn disarm(&mut self, deadline: u64) {
        let step = step_of(deadline);
        if let Some(count) = self.timers.get_mut(&step) {
            *count -= 1;
            if *count == 0 {
                self.timers.remove(&step);
            }
        }
    }

    /// When a deadline has to be looked at next. Up to one step after the deadline itself.
    pub(super) fn timer(&self) -> Option<u64> {
        self.timers.keys().next().map(|step| step.saturating_mul(TIMER_STEP_NS))
    }
}

fn step_of(deadline: u64) -> u64 {
    deadline.div_ceil(TIMER_STEP_NS)
}

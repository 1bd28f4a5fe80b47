//! Owns every wait and every retry between a client's command and its answer.
//!
//! Pure: time is an argument, randomness a seed, what has to be done is returned by `poll`.
//!
//! **Invariants.** Every ticket is answered exactly once, or abandoned by its owner. A seq that left
//! is driven until its lane answers, whatever became of the client; what never left is dropped at its
//! deadline, and only that, or what every answer says had no effect, is told to be "not executed". The
//! ops of a slot take effect in the order they were submitted: they are in one lane at a time, and a
//! lane sends a seq only behind all lower ones (`lane`). What is in flight for a group is in flight
//! to one node.
//!
//! **Late answers.** A new attempt has a new request id. An answer to an earlier attempt that says
//! "executed" is the true answer of its seq and counts. One that says anything else tells nothing
//! about the newer attempt and changes nothing but the book of frames that may have had an effect.
//!
//! **Voids.** From its client's deadline on an op is sent as a void: a read of no key, which fills the
//! seq if the op has not. What the lane answers is told to the client, the op's reply or that it was not
//! executed and never will be, if it comes within a short grace; only after that the outcome is unknown.
//! So is an op sent whose client was answered without an outcome before.
//!
//! **Acknowledgements.** An op acknowledges the answers before it. In a lane that is idle after a large
//! answer, or left, a void does, once: else the group would remember it to the end of the session.

mod awaits;
mod backoff;
mod book;
mod group;
mod lane;
#[cfg(test)]
mod model;
mod news;
mod older;
mod outbox;
mod owners;
#[cfg(test)]
mod read_tests;
mod reads;
mod slot_queue;
#[cfg(test)]
mod tests;

pub use self::book::{Bounds, Connection, Load, Ticket};
pub use self::outbox::{BATCH_BYTES_MAX, BATCH_REQUESTS_MAX};

use self::awaits::Awaits;
use self::book::{Attempt, Book, LinkState};
use self::group::{Ask, Group, PendingQuery, QUERY_BYTES};
use self::lane::{Fate, PendingOp, had_no_effect, is_voided};
use self::news::News;
use self::outbox::Outbox;
use self::slot_queue::{Filled, SlotQueue};
use crate::backend::{Answered, DispatchStats, Refusal, Target, Work};
use shard_core::codec::WIRE_FRAME_BYTES_MAX;
use shard_core::moves::SlotEpoch;
use shard_core::op::Op;
use shard_core::session::Seq;
use shard_core::shardmaster::{MasterRequest, RequestId};
use shard_core::slot::Slot;
use shard_core::wire::{Answer, ClusterView, Reply, RequestBatch, RequestBody};
use shard_core::{GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Monotonic time in nanoseconds.
pub type Now = u64;

/// What an op weighs besides its keys and values.
const OP_BYTES: usize = 128;
/// The most that one op may weigh: its entry, and the frame that brings it to the leader, have room for
/// one value of the largest size, its key and what stands around them. A bigger one would have a seq
/// that no group can take.
pub const OP_BYTES_MAX: usize = WIRE_FRAME_BYTES_MAX - (1 << 20) - (64 << 10);
/// A view is asked for at most once in so long, by however many requests.
const REFRESH_GAP_NS: u64 = 50_000_000;

/// What happened to a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// It takes requests.
    Up,
    /// So it does, but its node is of a program before tokens.
    UpToOlder,
    /// It broke, or could not be opened: whatever was in flight is not answered any more.
    Down,
}

/// What has to be done since the last poll. Reused; emptied by whoever carries it out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// To be sent, in order for each node.
    pub sends: Vec<(NodeId, RequestBatch)>,
    /// Each ticket's one answer.
    pub answers: Vec<(Ticket, Answered)>,
    /// Links to open; each is answered by `on_link`.
    pub open_links: Vec<NodeId>,
    /// Nodes to ask for their view.
    pub ask_view: Vec<NodeId>,
}

/// See the module.
#[derive(Debug)]
pub struct Dispatch {
    bounds: Bounds,
    local: Option<NodeId>,
    view: Rc<ClusterView>,
    groups: BTreeMap<GroupId, Group>,
    slots: BTreeMap<Slot, SlotQueue>,
    /// To whom groups said to have given slots, since the view came.
    moved: BTreeMap<Slot, (GroupId, SlotEpoch)>,
    book: Book,
    refresh_wanted: bool,
    refreshed_at: Option<Now>,
    last_query: u64,
    polled_at: Now,
    /// When to see whether a slot is idle with a large reply unacknowledged; each slot once.
    watched: BTreeSet<(Now, Slot)>,
    news: News,
    awaits: Awaits,
}

impl Dispatch {
    /// `view` says where nodes are until one of them says more; `local` is the node to try first.
    pub fn new(
        bounds: Bounds,
        seed: [u64; 2],
        view: ClusterView,
        local: Option<NodeId>,
    ) -> Dispatch {
        Dispatch {
            bounds,
            local,
            view: Rc::new(view),
            groups: BTreeMap::new(),
            slots: BTreeMap::new(),
            moved: BTreeMap::new(),
            book: Book::new(seed),
            refresh_wanted: false,
            refreshed_at: None,
            last_query: 0,
            polled_at: 0,
            watched: BTreeSet::new(),
            news: News::default(),
            awaits: Awaits::default(),
        }
    }

    /// What is known of the cluster.
    pub fn view(&self) -> Rc<ClusterView> {
        self.view.clone()
    }

    /// Counters.
    pub fn stats(&self) -> DispatchStats {
        DispatchStats {
            pending: self.book.load.requests as u64,
            pending_bytes: self.book.load.bytes as u64,
            ..self.book.stats
        }
    }

    /// Takes a request. Its ticket is answered by a later poll, at `deadline` at the latest, or 250 ms
    /// after it if it is a write that may have been executed.
    pub fn submit(
        &mut self,
        now: Now,
        from: (Connection, Ticket),
        target: Target,
        work: Work,
        deadline: Now,
    ) {
        self.book.stats.submitted += 1;
        let ticket = from.1;
        let refused = match (target, work) {
            (Target::Slot(slot), Work::Op(op)) => self.submit_op(now, from, slot, op, deadline),
            (Target::Group(group), Work::Query(query) | Work::Glance(query)) => {
                self.submit_query(ticket, group, RequestBody::Group(query), deadline)
            }
            (Target::Group(group), Work::Transfer(to)) => {
                self.submit_query(ticket, group, RequestBody::Transfer { to }, deadline)
            }
            (Target::Group(group), Work::Master(request)) => {
                // Sent again, it must not be carried out again.
                let id = request.id.unwrap_or_else(|| RequestId(self.book.random.id()));
                let body = RequestBody::Master(MasterRequest { id: Some(id), ..request });
                self.submit_query(ticket, group, body, deadline)
            }
            (Target::Slot(slot), Work::AwaitOwner { group, .. }) => {
                self.submit_await(ticket, slot, group, deadline)
            }
            // Nobody can answer these; the types allow them.
            (
                Target::Slot(_),
                Work::Query(_) | Work::Glance(_) | Work::Transfer(_) | Work::Master(_),
            )
            | (Target::Group(_), Work::Op(_) | Work::AwaitOwner { .. })
            // It never comes here.
            | (_, Work::Meet { .. }) => {
                Err(Refusal::ClusterDown)
            }
        };
        if let Err(refusal) = refused {
            self.book.answer(&mut Some(ticket), Answered::Refused(refusal));
        }
    }

    fn submit_op(
        &mut self,
        now: Now,
        (connection, ticket): (Connection, Ticket),
        slot: Slot,
        op: Op,
        deadline: Now,
    ) -> Result<(), Refusal> {
        let group = self.owner(slot).ok_or(Refusal::SlotNotServed)?;
        let bytes = op.bytes().saturating_add(OP_BYTES);
        if bytes > OP_BYTES_MAX {
            return Err(Refusal::TooBig);
        }
        self.check_room(group, bytes)?;
        let state = self.slots.entry(slot).or_insert_with(|| SlotQueue::new(group));
        if state.unsent_count() >= self.bounds.lane_unsent_max {
            return Err(Refusal::Overloaded);
        }
        state.push(PendingOp {
            connection: Some(connection),
            ticket: Some(ticket),
            bytes,
            ..PendingOp::new(op, group, now, deadline)
        });
        self.book.remember(group, deadline, bytes);
        let id = state.group;
        state.queue(slot, self.groups.entry(id).or_insert_with(|| Group::new(id)), now);
        Ok(())
    }

    fn submit_query(
        &mut self,
        ticket: Ticket,
        group: GroupId,
        body: RequestBody,
        deadline: Now,
    ) -> Result<(), Refusal> {
        if !self.view.map.config.groups.contains_key(&group) {
            return Err(Refusal::ClusterDown);
        }
        self.check_room(group, QUERY_BYTES)?;
        self.book.remember(group, deadline, QUERY_BYTES);
        self.last_query += 1;
        let pending = PendingQuery { body, ticket: Some(ticket), deadline, attempt: None };
        let entry = self.groups.entry(group).or_insert_with(|| Group::new(group));
        entry.queries.insert(self.last_query, pending);
        Ok(())
    }

    fn check_room(&self, group: GroupId, bytes: usize) -> Result<(), Refusal> {
        let group_load = self.book.group_load.get(&group).copied().unwrap_or_default();
        let fits = self.book.load.has_room(bytes, self.bounds.all)
            && group_load.has_room(bytes, self.bounds.group);
        if fits { Ok(()) } else { Err(Refusal::Overloaded) }
    }

    /// Whether a node has requests it has not answered.
    pub fn owes(&self, node: NodeId) -> bool {
        self.book.links.get(&node).is_some_and(|link| link.load.requests > 0)
    }

    /// Whoever waits for these tickets went: they get no answer. What was not sent is dropped. Walks
    /// over everything pending, so collect before calling.
    pub fn abandon(&mut self, mut gone: impl FnMut(Ticket) -> bool) {
        let Dispatch { slots, groups, book, polled_at, .. } = self;
        for (slot, state) in slots.iter_mut() {
            state.abandon(&mut gone, book);
            if let Some(group) = groups.get_mut(&state.group) {
                state.queue(*slot, group, *polled_at);
            }
        }
        for group in self.groups.values_mut() {
            let numbers: Vec<u64> = group
                .queries
                .iter()
                .filter(|(_, query)| query.ticket.is_some_and(&mut gone))
                .map(|(number, _)| *number)
                .collect();
            for number in numbers {
                group.forget_query(number, &mut self.book);
            }
        }
        self.awaits.abandon(&mut gone);
        self.book.answers.retain(|(ticket, _)| !gone(*ticket));
    }

    /// A node said what it knows. Of two configurations the higher number counts, of two leaders the
    /// higher term.
    pub fn on_view(&mut self, now: Now, from: NodeId, view: &ClusterView) {
        self.news.heard(from, view);
        self.refresh_wanted = false;
        for (group, leader) in &view.leaders {
            if self.is_news(*group, leader) {
                Rc::make_mut(&mut self.view).leaders.insert(*group, *leader);
                if let Some(node) = leader.leader {
                    self.on_leader(now, *group, node);
                }
            }
        }
        if view.map.version > self.view.map.version {
            let before = std::mem::replace(&mut Rc::make_mut(&mut self.view).map, view.map.clone());
            self.reroute(now, &before.owners);
        }
    }

    /// A link opened or broke.
    pub fn on_link(&mut self, now: Now, node: NodeId, event: LinkEvent) {
        self.news.on_link(node, event);
        self.note_older(node, event);
        let link = self.book.links.entry(node).or_default();
        match event {
            LinkEvent::Up | LinkEvent::UpToOlder => link.state = LinkState::Up,
            LinkEvent::Down => {
                link.state = LinkState::Down;
                let there: Vec<GroupId> = self
                    .groups
                    .iter()
                    .filter(|(_, group)| group.target == Some(node))
                    .map(|(id, _)| *id)
                    .collect();
                for id in there {
                    self.fail_over(now, id);
                }
            }
        }
    }

    /// The target is no good: tries the next voter, after a while.
    fn fail_over(&mut self, now: Now, id: GroupId) {
        let voters = self.view.map.may_lead(id);
        let Some(group) = self.groups.get_mut(&id) else { return };
        let at = voters.iter().position(|voter| Some(*voter) == group.target);
        let next = match at {
            Some(at) => voters.get((at + 1) % voters.len()).copied(),
            None => voters.get(self.book.random.below(voters.len() as u64) as usize).copied(),
        };
        group.backoff.fail(now, &mut self.book.random);
        self.refresh_wanted = true;
        self.retarget(now, id, next);
        if let Some(group) = self.groups.get_mut(&id)
            && !group.is_wanted()
        {
            // The next request begins with what is known then, and no link is opened for nothing.
            group.target = None;
        }
    }

    /// Sends everything of the group to another node, from the first unanswered op of each lane on.
    fn retarget(&mut self, now: Now, id: GroupId, node: Option<NodeId>) {
        let Dispatch { groups, slots, book, .. } = self;
        let Some(group) = groups.get_mut(&id) else { return };
        for (slot, state) in slots.iter_mut().filter(|(_, state)| state.group == id) {
            if let Some(lane) = &mut state.lane {
                lane.rewind(0, book);
            }
            state.reads.rewind(0, book);
            state.queue(*slot, group, now);
        }
        group.rewind(book);
        group.target = node;
    }

    /// A node answered.
    pub fn on_replies(&mut self, now: Now, replies: Vec<Reply>) {
        for Reply { id, answer } in replies {
            match self.book.attempts.remove(&id) {
                None => self.book.stats.late += 1,
                Some(Attempt::Op { slot, seq }) => self.on_op_answer(now, id, slot, seq, answer),
                Some(Attempt::Read { slot, number }) => {
                    self.on_read_answer(now, slot, number, answer);
                }
                Some(Attempt::Query { group, query }) => {
                    self.on_query_answer(now, group, query, answer);
                }
                Some(Attempt::LogTime { group }) => self.on_log_time_answer(now, group, answer),
            }
        }
    }

    fn on_query_answer(&mut self, now: Now, id: GroupId, number: u64, answer: Answer) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let answered = match answer {
            Answer::Group(answer) => Answered::Group(answer),
            Answer::Master(answer) => Answered::Master(Box::new(answer)),
            failure => {
                group.query_over(number, &mut self.book);
                return self.on_group_failure(now, id, &failure);
            }
        };
        let mut ticket = group.forget_query(number, &mut self.book);
        self.book.answer(&mut ticket, answered);
        group.worked();
    }

    fn on_log_time_answer(&mut self, now: Now, id: GroupId, answer: Answer) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        if let Answer::LogTime(log_time) = answer {
            group.ask_over(Ask::Idle, &mut self.book);
            group.heard(log_time, now);
            group.worked();
        } else {
            group.ask_over(Ask::Wanted, &mut self.book);
            self.on_group_failure(now, id, &answer);
        }
    }

    /// An attempt failed for a reason that concerns the whole group.
    fn on_group_failure(&mut self, now: Now, id: GroupId, answer: &Answer) {
        let known = &self.view.map.config.nodes;
        let Some(group) = self.groups.get_mut(&id) else { return };
        match answer {
            Answer::NotLeader { hint } => {
                match hint.filter(|node| {
                    known.contains_key(node) && group.follows(*node, now, &mut self.book.random)
                }) {
                    Some(node) => self.retarget(now, id, Some(node)),
                    None => self.fail_over(now, id),
                }
            }
            Answer::Invalid => {
                self.book.stats.invalid += 1;
                self.fail_over(now, id);
            }
            // Whatever else: this node leads, or did a moment ago.
            _ => group.backoff.fail(now, &mut self.book.random),
        }
    }

    fn on_op_answer(&mut self, now: Now, id: u64, slot: Slot, seq: Seq, answer: Answer) {
        let Some(state) = self.slots.get_mut(&slot) else { return };
        let Some(group) = self.groups.get_mut(&state.group) else { return };
        let Some(lane) = &mut state.lane else { return };
        let Some(index) = lane.index_of(seq) else { return };
        let op = &mut lane.ops[index];
        op.older.retain(|older| *older != id);
        let current = match op.fate {
            Fate::InFlight(newest, node) if newest == id => {
                self.book.release(node, op.bytes);
                op.fate = Fate::Waiting;
                true
            }
            _ => false,
        };
        if had_no_effect(&answer) {
            op.open -= 1;
        }
        match answer {
            Answer::Done { outcome, log_time } => {
                // It is the slot's: of one that came from a group far ahead it says nothing of the others here.
                if !group.is_far_ahead(log_time, now) {
                    group.heard(log_time, now);
                }
                let answer = match is_voided(&outcome) {
                    true => Answered::Refused(state.sure),
                    false => Answered::Outcome(outcome),
                };
                if current {
                    group.worked();
                    state.worked();
                }
                self.on_done(now, slot, index, answer);
            }
            Answer::Old | Answer::ReplyGone => {
                // The op's own frames had the effect: `open` is not 0, and a read had none.
                let refusal = op.refusal(now, Refusal::ClusterDown);
                self.on_done(now, slot, index, Answered::Refused(refusal));
            }
            _ if !current => self.book.stats.late += 1,
            failure => self.on_op_failure(now, slot, index, failure),
        }
    }

    /// The lane answered the op at `index`.
    fn on_done(&mut self, now: Now, slot: Slot, index: usize, answer: Answered) {
        let Some(state) = self.slots.get_mut(&slot) else { return };
        if let Some(lane) = &mut state.lane {
            lane.settle(index, answer, &mut self.book);
        }
        self.on_lane_changed(now, slot);
    }

    /// Goes on with a slot after something in its lane was answered or rewound.
    fn on_lane_changed(&mut self, now: Now, slot: Slot) {
        let Some(state) = self.slots.get_mut(&slot) else { return };
        state.advance(&mut self.book);
        if let Some(at) = state.answered(now) {
            self.watched.insert((at, slot));
        }
        if let Some(group) = self.groups.get_mut(&state.group) {
            state.queue(slot, group, now);
        }
    }

    /// The newest attempt of the op at `index` was not executed, or nobody knows.
    fn on_op_failure(&mut self, now: Now, slot: Slot, index: usize, answer: Answer) {
        let Some(state) = self.slots.get_mut(&slot) else { return };
        let Some(group) = self.groups.get_mut(&state.group) else { return };
        let Some(lane) = &mut state.lane else { return };
        let book = &mut self.book;
        match answer {
            Answer::NotLeader { .. } | Answer::Busy => {
                lane.rewind(index, book);
                if answer == Answer::Busy {
                    state.sure = Refusal::Overloaded;
                }
                let id = state.group;
                self.on_group_failure(now, id, &answer);
            }
            Answer::Lost
            | Answer::Done { .. }
            | Answer::Group(_)
            | Answer::Master(_)
            | Answer::LogTime(_) => {
                lane.rewind(0, book);
                group.backoff.fail(now, &mut book.random);
                self.refresh_wanted = true;
            }
            Answer::Elsewhere => {
                state.fail(index, Refusal::Moving { slot }, now, book);
                self.refresh_wanted = true;
            }
            Answer::Frozen => {
                // Asked again it waits there until that is decided.
                state.sure = Refusal::Moving { slot };
                lane.rewind(index, book);
            }
            Answer::Moved { to, epoch } => {
                lane.rewind(index, book);
                self.follow_slot(now, slot, to, epoch);
            }
            Answer::Gap { last } if lane.is_lost(last) => {
                group.lose_session(lane.session);
                state.lose_lane(now, book);
            }
            Answer::Gap { last } => {
                let from = lane.index_of(Seq(last.0.saturating_add(1))).unwrap_or(index);
                if lane.ops[from].fate == Fate::Rerun {
                    lane.ops[from].fate = Fate::Waiting;
                }
                if lane.ops[index].frames > 1 {
                    state.backoff.fail(now, &mut book.random);
                }
                lane.rewind(from.min(index), book);
            }
            Answer::Window => state.fail(index, Refusal::ClusterDown, now, book),
            Answer::LanesFull => state.fail(index, Refusal::Overloaded, now, book),
            Answer::Expired { log_time } | Answer::DeadlineTooFar { log_time } => {
                match group.is_far_ahead(log_time, now) {
                    true => state.ahead = Some(log_time),
                    false => group.drop_session(lane.session, log_time, now),
                }
                self.on_session_over(now, slot, index);
            }
            Answer::Invalid => self.on_invalid(now, slot, index),
            Answer::Old | Answer::ReplyGone => {}
        }
        self.on_lane_changed(now, slot);
    }

    /// If no frame that left for the seq can have had an effect, or have one yet, the op goes on in a new session. A frame
    /// that is not answered may: the client then hears that nobody knows, since this session is refused for ever.
    fn on_session_over(&mut self, now: Now, slot: Slot, index: usize) {
        let Some(state) = self.slots.get_mut(&slot) else { return };
        let Some(lane) = &mut state.lane else { return };
        lane.closing = true;
        let op = &mut lane.ops[index];
        if op.open == 0 {
            op.fate = Fate::Rerun;
        } else {
            let refusal = if op.write { op.unknown(now) } else { Refusal::ClusterDown };
            lane.settle(index, Answered::Refused(refusal), &mut self.book);
        }
    }

    /// The node calls the request nonsense. The client hears it now; the seq has to be filled all the
    /// same, with a void, by whoever takes it.
    fn on_invalid(&mut self, now: Now, slot: Slot, index: usize) {
        let Some(state) = self.slots.get_mut(&slot) else { return };
        let Some(lane) = &mut state.lane else { return };
        let op = &mut lane.ops[index];
        let refusal = op.refusal(now, Refusal::ClusterDown);
        self.book.answer(&mut op.ticket, Answered::Refused(refusal));
        op.make_void();
        state.fail(index, Refusal::ClusterDown, now, &mut self.book);
        let id = state.group;
        self.on_group_failure(now, id, &Answer::Invalid);
    }

    /// Does what time alone brings: deadlines and the ends of waits.
    pub fn tick(&mut self, now: Now) {
        let Dispatch { groups, slots, .. } = self;
        for (id, group) in groups.iter_mut() {
            while group.parked.first().is_some_and(|(until, _)| *until <= now) {
                if let Some((_, slot)) = group.parked.pop_first()
                    && let Some(state) = slots.get_mut(&slot)
                    && state.group == *id
                {
                    state.unqueue();
                    state.queue(slot, group, now);
                }
            }
        }
        if self.book.timer().is_some_and(|timer| timer <= now) {
            self.expire(now);
        }
        self.acknowledge(now);
    }

    fn acknowledge(&mut self, now: Now) {
        while self.watched.first().is_some_and(|(at, _)| *at <= now)
            && let Some((_, slot)) = self.watched.pop_first()
        {
            let Some(state) = self.slots.get_mut(&slot) else { continue };
            if let Some(at) = state.acknowledge(now, &mut self.book) {
                self.watched.insert((at, slot));
            } else if let Some(group) = self.groups.get_mut(&state.group) {
                state.queue(slot, group, now);
            }
        }
    }

    fn expire(&mut self, now: Now) {
        // Each once, in whatever slots: a second step would pass over a voter.
        let mut stalled = BTreeSet::new();
        for (slot, state) in &mut self.slots {
            if state.expire(now, &mut self.book) {
                stalled.insert(state.group);
            }
            // What waited for a read that was given up.
            if let Some(group) = self.groups.get_mut(&state.group) {
                state.queue(*slot, group, now);
            }
        }
        for group in self.groups.values_mut() {
            let late: Vec<u64> = group
                .queries
                .iter()
                .filter(|(_, query)| query.deadline <= now)
                .map(|(number, _)| *number)
                .collect();
            for number in late {
                let mut ticket = group.forget_query(number, &mut self.book);
                let answer = Answered::Refused(Refusal::ClusterDown);
                self.book.answer(&mut ticket, answer);
            }
        }
        for id in stalled {
            self.fail_over(now, id);
        }
    }

    /// When `tick` and `poll` are wanted next, if nothing happens before.
    pub fn deadline(&self) -> Option<Now> {
        let waits = self.groups.values().flat_map(|group| {
            let backoff = group.has_work().then(|| group.backoff.until());
            [backoff, group.parked.first().map(|(until, _)| *until)]
        });
        let refresh = self.refresh_at().filter(|_| self.refresh_node().is_some());
        waits
            .chain([refresh, self.news.look_at])
            .flatten()
            // What is due and was not done at the last poll waits for an event, not for time.
            .filter(|until| *until > self.polled_at)
            .chain(self.book.timer())
            .chain(self.watched.first().map(|(at, _)| *at))
            .chain(self.awaits.deadline())
            .min()
    }

    /// Hands out what has to be done, the ops submitted since the last poll in as few batches as may
    /// be.
    pub fn poll(&mut self, now: Now, output: &mut Output) {
        self.tick(now);
        self.awaits.serve(now, &self.view.map.owners, &mut self.book);
        self.polled_at = now;
        let busy: Vec<GroupId> = self
            .groups
            .iter()
            .filter(|(_, group)| group.has_work() && group.backoff.ready(now))
            .map(|(id, _)| *id)
            .collect();
        for id in busy {
            if let Some(node) = self.ready_target(id, output) {
                self.fill(now, id, node, output);
            }
        }
        if self.refresh_at().is_some_and(|at| at <= now)
            && let Some(node) = self.refresh_node()
        {
            self.refresh_wanted = false;
            self.refreshed_at = Some(now);
            self.book.stats.refreshes += 1;
            output.ask_view.push(node);
        }
        if self.news.look_at.is_some_and(|at| at <= now) {
            self.look(now, output);
        }
        output.answers.append(&mut self.book.answers);
    }

    /// The node that requests of the group go to, if its link is open; else asks for it.
    fn ready_target(&mut self, id: GroupId, output: &mut Output) -> Option<NodeId> {
        let chosen = self.groups.get(&id)?.target.or_else(|| self.first_target(id))?;
        self.groups.get_mut(&id)?.target = Some(chosen);
        let link = self.book.links.entry(chosen).or_default();
        match link.state {
            LinkState::Up => Some(chosen),
            LinkState::Opening => None,
            LinkState::Down => {
                link.state = LinkState::Opening;
                output.open_links.push(chosen);
                None
            }
        }
    }

    /// The leader as far as known, else the replica that is cheapest to ask.
    fn first_target(&mut self, id: GroupId) -> Option<NodeId> {
        let config = &self.view.map.config;
        let leader = self.view.leaders.get(&id).and_then(|leader| leader.leader);
        if let Some(leader) = leader.filter(|leader| config.nodes.contains_key(leader)) {
            return Some(leader);
        }
        let voters = self.view.map.may_lead(id);
        let is_up = |voter: &&NodeId| {
            self.book.links.get(voter).is_some_and(|link| link.state == LinkState::Up)
        };
        if let Some(local) = self.local.filter(|local| voters.contains(local)) {
            return Some(local);
        }
        if let Some(up) = voters.iter().find(is_up) {
            return Some(*up);
        }
        voters.get(self.book.random.below(voters.len() as u64) as usize).copied()
    }

    fn fill(&mut self, now: Now, id: GroupId, node: NodeId, output: &mut Output) {
        let older = self.has_older(id);
        let Dispatch { groups, slots, book, bounds, .. } = self;
        let Some(group) = groups.get_mut(&id) else { return };
        let mut outbox = Outbox::new(output, node, id);
        for _ in 0..group.ready.len() {
            let Some(slot) = group.ready.pop_front() else { break };
            let Some(state) = slots.get_mut(&slot).filter(|state| state.group == id) else {
                continue;
            };
            state.unqueue();
            if !state.backoff.ready(now) {
                state.queue(slot, group, now);
                continue;
            }
            if older {
                state.refuse_tokens(book);
            }
            match state.fill(slot, group, now, bounds, &mut outbox, book) {
                Filled::Drained => {}
                Filled::NoSession => state.queue(slot, group, now),
                Filled::LinkFull => {
                    state.queue(slot, group, now);
                    break;
                }
            }
        }
        if group.ask == Ask::Wanted {
            outbox.push(group.asked(node, book), RequestBody::LogTime, QUERY_BYTES);
        }
        let unsent: Vec<(u64, RequestBody)> = group
            .queries
            .iter()
            .filter(|(_, query)| query.attempt.is_none())
            .map(|(number, query)| (*number, query.body.clone()))
            .collect();
        for (number, body) in unsent {
            let id = group.sent_query(number, node, book);
            outbox.push(id, body, QUERY_BYTES);
        }
        outbox.flush();
    }
}

//! What is known of one group: where its leader may be, its session, what waits to be sent to it.

use super::backoff::{Backoff, Random};
use super::book::{Attempt, Book, Ticket};
use shard_core::session::{LogTime, SESSION_LIFE_MS, SessionId};
use shard_core::slot::Slot;
use shard_core::wire::RequestBody;
use shard_core::{GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Hints followed in a row without an answer in between; after that, every voter in turn.
const HINT_HOPS_MAX: u32 = 3;
/// A session takes no new op when its deadline is nearer than this: it is left two minutes after it
/// was opened, long before anything in it can expire.
const SESSION_TURN_MS: u64 = 3 * 60 * 1000;
/// A log time heard at most this long ago will do to open a session. Older, its sessions would only
/// be shorter.
const LOG_TIME_FRESH_NS: u64 = 1_000_000_000;
/// What a query weighs in the bounds.
pub(super) const QUERY_BYTES: usize = 64;

/// A request to a group as a whole that is not answered yet.
#[derive(Debug)]
pub(super) struct PendingQuery {
    /// What is asked.
    pub(super) body: RequestBody,
    /// Who waits.
    pub(super) ticket: Option<Ticket>,
    /// When it is answered at the latest.
    pub(super) deadline: u64,
    /// The attempt in flight.
    pub(super) attempt: Option<(u64, NodeId)>,
}

/// Where the question for the log time stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Not needed.
    Idle,
    /// To be sent.
    Wanted,
    /// In flight.
    InFlight(u64, NodeId),
}

/// One group as its clients see it.
#[derive(Debug)]
pub(super) struct Group {
    id: GroupId,
    /// The one node that requests go to. What is in flight is in flight there and nowhere else.
    pub(super) target: Option<NodeId>,
    hops: u32,
    /// Holds back everything for the group.
    pub(super) backoff: Backoff,
    session: Option<(SessionId, LogTime)>,
    heard: Option<(LogTime, u64)>,
    /// The question for the log time.
    pub(super) ask: Ask,
    /// Slots with something to send, each once.
    pub(super) ready: VecDeque<Slot>,
    /// Slots in back-off, by its end.
    pub(super) parked: BTreeSet<(u64, Slot)>,
    /// Queries by the dispatcher's own number.
    pub(super) queries: BTreeMap<u64, PendingQuery>,
}

impl Group {
    /// Nothing known.
    pub(super) fn new(id: GroupId) -> Group {
        Group {
            id,
            target: None,
            hops: 0,
            backoff: Backoff::default(),
            session: None,
            heard: None,
            ask: Ask::Idle,
            ready: VecDeque::new(),
            parked: BTreeSet::new(),
            queries: BTreeMap::new(),
        }
    }

    /// Whether there is anything to send.
    pub(super) fn has_work(&self) -> bool {
        !self.ready.is_empty()
            || self.ask == Ask::Wanted
            || self.queries.values().any(|query| query.attempt.is_none())
    }

    /// Whether anything waits for the group: to be sent, or to be answered.
    pub(super) fn is_wanted(&self) -> bool {
        self.has_work() || self.ask != Ask::Idle || !self.queries.is_empty()
    }

    /// The target answered as a leader does.
    pub(super) fn worked(&mut self) {
        self.backoff.reset();
        self.hops = 0;
    }

    /// Whether a hint may be followed. Two replicas that point at each other, or one that points at
    /// itself, must not keep a request going round.
    pub(super) fn follows(&mut self, hint: NodeId, now: u64, random: &mut Random) -> bool {
        if self.target == Some(hint) || self.hops >= HINT_HOPS_MAX {
            return false;
        }
        match self.hops {
            0 => self.backoff.retry_now(),
            _ => self.backoff.fail(now, random),
        }
        self.hops += 1;
        true
    }

    /// There is news from elsewhere of who leads: hints count afresh.
    pub(super) fn news(&mut self) {
        self.hops = 0;
        self.backoff.retry_now();
    }

    /// The group said its log time.
    pub(super) fn heard(&mut self, log_time: LogTime, now: u64) {
        let newest = self.heard.map_or(log_time, |(heard, _)| heard.max(log_time));
        self.heard = Some((newest, now));
    }

    /// Whether a slot's log time is so far above the group's that sessions of the one are no good in the other.
    pub(super) fn is_far_ahead(&self, log_time: LogTime, now: u64) -> bool {
        self.guess(now).is_some_and(|guess| log_time.0 > guess.saturating_add(SESSION_TURN_MS))
    }

    /// About what the group's log time is, in milliseconds, by the router's clock since it was heard.
    fn guess(&self, now: u64) -> Option<u64> {
        let (heard, at) = self.heard?;
        Some(heard.0.saturating_add(now.saturating_sub(at) / 1_000_000))
    }

    /// A session for one slot whose log time is far ahead.
    pub(super) fn session_at(
        &mut self,
        log_time: LogTime,
        book: &mut Book,
    ) -> (SessionId, LogTime) {
        book.stats.sessions += 1;
        let deadline = LogTime(log_time.0.saturating_add(SESSION_LIFE_MS));
        (SessionId::of_router(book.random.id()), deadline)
    }

    /// The session's deadline was refused or has passed: the next one counts from `log_time`, even
    /// if more was heard before.
    pub(super) fn drop_session(&mut self, session: SessionId, log_time: LogTime, now: u64) {
        if self.session.is_some_and(|(id, _)| id == session) {
            self.session = None;
        }
        self.heard = Some((log_time, now));
    }

    /// The lane was forgotten: its session is not used for another one.
    pub(super) fn lose_session(&mut self, session: SessionId) {
        if self.session.is_some_and(|(id, _)| id == session) {
            self.session = None;
        }
    }

    /// Whether no new op should join a lane with this deadline. Only a guess, which is why a lane is left only when
    /// each seq in it was answered.
    pub(super) fn turns(&self, deadline: LogTime, now: u64) -> bool {
        self.guess(now).is_some_and(|guess| guess.saturating_add(SESSION_TURN_MS) > deadline.0)
    }

    /// The session for a new lane. None: the log time has to be asked for first, which is noted.
    pub(super) fn session(&mut self, now: u64, book: &mut Book) -> Option<(SessionId, LogTime)> {
        if let Some((id, deadline)) = self.session
            && !self.turns(deadline, now)
        {
            return Some((id, deadline));
        }
        match self.heard {
            Some((log_time, at)) if now.saturating_sub(at) <= LOG_TIME_FRESH_NS => {
                let deadline = LogTime(log_time.0.saturating_add(SESSION_LIFE_MS));
                book.stats.sessions += 1;
                self.session = Some((SessionId::of_router(book.random.id()), deadline));
                self.session
            }
            _ => {
                if self.ask == Ask::Idle {
                    self.ask = Ask::Wanted;
                }
                None
            }
        }
    }

    /// Notes that the log time is asked of `node`.
    pub(super) fn asked(&mut self, node: NodeId, book: &mut Book) -> u64 {
        let id = book.attempt(Attempt::LogTime { group: self.id });
        book.charge(node, QUERY_BYTES);
        self.ask = Ask::InFlight(id, node);
        id
    }

    /// The attempt for the log time is over, answered or not.
    pub(super) fn ask_over(&mut self, then: Ask, book: &mut Book) {
        if let Ask::InFlight(id, node) = self.ask {
            book.release(node, QUERY_BYTES);
            book.attempts.remove(&id);
        }
        self.ask = then;
    }

    /// Notes that a query is sent to `node`.
    pub(super) fn sent_query(&mut self, number: u64, node: NodeId, book: &mut Book) -> u64 {
        let id = book.attempt(Attempt::Query { group: self.id, query: number });
        book.charge(node, QUERY_BYTES);
        if let Some(query) = self.queries.get_mut(&number) {
            query.attempt = Some((id, node));
        }
        id
    }

    /// The attempt of a query is over, answered or not.
    pub(super) fn query_over(&mut self, number: u64, book: &mut Book) {
        let attempt = self.queries.get_mut(&number).and_then(|query| query.attempt.take());
        if let Some((id, node)) = attempt {
            book.release(node, QUERY_BYTES);
            book.attempts.remove(&id);
        }
    }

    /// A query leaves.
    pub(super) fn forget_query(&mut self, number: u64, book: &mut Book) -> Option<Ticket> {
        self.query_over(number, book);
        let query = self.queries.remove(&number)?;
        book.forget(self.id, query.deadline, QUERY_BYTES);
        query.ticket
    }

    /// What is in flight outside of lanes has to be sent again.
    pub(super) fn rewind(&mut self, book: &mut Book) {
        if self.ask != Ask::Idle {
            self.ask_over(Ask::Wanted, book);
        }
        let numbers: Vec<u64> = self.queries.keys().copied().collect();
        for number in numbers {
            self.query_over(number, book);
        }
    }
}

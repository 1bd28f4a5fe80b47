//! What clients asked, what they were told, and what must hold of it in the end (I11, I13).

use super::linearizable::{Action, Span, Verdict, check};
use super::workload::as_drawn;
use raft_core::types::Now;
use router::backend::{Answered, Refusal};
use shard_core::op::Outcome;
use std::collections::BTreeMap;

/// Steps of one search for an order.
const STEPS_MAX: usize = 20_000;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// GET.
    Get,
    /// SET.
    Set(String),
    /// APPEND.
    Append(String),
    /// APPEND under the token of that number; copies of it are the same write.
    Named(u64, String),
    /// INCR.
    Incr,
    /// DEL.
    Del,
}

/// One request of a client.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its connection.
    pub connection: u64,
    /// Its key.
    pub key: String,
    /// What.
    pub ask: Ask,
    /// When it was asked.
    pub asked: Now,
    /// When it was answered, and how.
    pub answer: Option<(Now, Answered)>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct History {
    /// By ticket.
    pub requests: Vec<Request>,
}

/// What came of a history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// With an outcome.
    pub done: u64,
    /// May or may not have been executed.
    pub unknown: u64,
    /// Were not and will not be executed.
    pub refused: u64,
    /// Keys whose order was not found in the steps there are.
    pub undecided: u64,
}

impl History {
    /// Notes an answer.
    pub fn answer(&mut self, ticket: usize, now: Now, answered: Answered) {
        let request = &mut self.requests[ticket];
        assert!(request.answer.is_none(), "answered twice: {request:?}");
        request.answer = Some((now, answered));
    }

    /// Every promise, once nothing waits any more. The last request of each key reads it.
    pub fn check(&self) -> Tally {
        let mut tally = Tally::default();
        let mut keys: BTreeMap<&str, Vec<&Request>> = BTreeMap::new();
        for request in &self.requests {
            match &request.answer {
                Some((_, Answered::Outcome(_))) => tally.done += 1,
                Some((_, Answered::Refused(Refusal::Unknown { .. }))) => tally.unknown += 1,
                Some((_, Answered::Refused(_))) => tally.refused += 1,
                other => panic!("I12: no answer but {other:?} for {request:?}"),
            }
            keys.entry(&request.key).or_default().push(request);
        }
        for (key, requests) in keys {
            check_tokens(key, &requests);
            let mut spans: Vec<Span> =
                requests.iter().filter_map(|request| span(request)).collect();
            spans.extend(check_named(key, &requests));
            match check(&spans, STEPS_MAX) {
                Verdict::Yes => {}
                Verdict::Unknown => tally.undecided += 1,
                Verdict::No => panic!("I13: {key} is not linearizable: {requests:#?}"),
            }
        }
        tally
    }
}

/// Acknowledged tokens are there once, refused ones never, others once at most; and those of one connection in
/// its order.
fn check_tokens(key: &str, requests: &[&Request]) {
    if requests.iter().any(|request| !matches!(request.ask, Ask::Append(_) | Ask::Get)) {
        return;
    }
    let value = last_value(key, requests);
    let mut places: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (place, token) in value.split_inclusive(';').enumerate() {
        places.entry(token).or_default().push(place);
    }
    let mut order: BTreeMap<u64, usize> = BTreeMap::new();
    for request in requests {
        let Ask::Append(token) = &request.ask else { continue };
        let found = places.get(&token[..]).map_or(&[][..], Vec::as_slice);
        let fits = match request.answer.as_ref().map(|(_, answered)| answered) {
            Some(Answered::Outcome(_)) => found.len() == 1,
            Some(Answered::Refused(Refusal::Unknown { .. })) => found.len() <= 1,
            _ => found.is_empty(),
        };
        assert!(fits, "I11: {token} is {} times in {key}: {request:?} of {value}", found.len());
        if let Some(place) = found.first() {
            let before = order.insert(request.connection, *place);
            assert!(before.is_none_or(|b| b < *place), "I11: {token} stands before its elder");
        }
    }
}

/// What the key holds in the end.
fn last_value(key: &str, requests: &[&Request]) -> String {
    match requests.last().and_then(|request| request.answer.as_ref()) {
        Some((_, Answered::Outcome(Outcome::Value(value)))) => {
            String::from_utf8_lossy(value).into_owned()
        }
        Some((_, Answered::Outcome(Outcome::Nil))) => String::new(),
        other => panic!("I12: the last read of {key} got {other:?}"),
    }
}

/// Writes with a token: of all copies one took effect, and all that were answered were answered as that one. What they
/// are for the search: one operation, that begins with the first copy and is there once one is answered.
fn check_named(key: &str, requests: &[&Request]) -> Vec<Span> {
    let mut writes: BTreeMap<u64, Vec<&Request>> = BTreeMap::new();
    for request in requests {
        if let Ask::Named(number, _) = &request.ask {
            writes.entry(*number).or_default().push(request);
        }
    }
    let ended = |copy: &&Request| match &copy.answer {
        Some((at, Answered::Outcome(outcome))) => Some((*at, outcome.clone())),
        _ => None,
    };
    let mut spans = Vec::new();
    for (number, copies) in writes {
        let Ask::Named(_, text) = &copies[0].ask else { continue };
        let value = last_value(key, requests);
        let found = value.split_inclusive(';').filter(|held| held == text).count();
        let first = copies.iter().filter_map(ended).min_by_key(|(at, _)| *at);
        let differs = |(_, outcome)| first.as_ref().is_some_and(|(_, first)| *first != outcome);
        let alike = !copies.iter().filter_map(ended).any(differs);
        assert!(alike, "I11: copies of one write were told what differs: {copies:?}");
        let unknown = |copy: &&Request| {
            matches!(copy.answer, Some((_, Answered::Refused(Refusal::Unknown { .. }))))
        };
        let open = copies.iter().any(unknown);
        let fits = if first.is_some() { found == 1 } else { found <= usize::from(open) };
        assert!(fits, "I11: {text} is {found} times in {key}: {copies:?} of {value}");
        let told = first.map(|(at, outcome)| match outcome {
            Outcome::Integer(length) => (at, length),
            other => panic!("I12: {copies:?} was told {other:?}"),
        });
        if told.is_none() && !open {
            continue;
        }
        spans.push(Span {
            // No connection's: copies come over many, and keep no order with what else those ask.
            connection: u64::MAX - number,
            asked: copies.iter().map(|copy| copy.asked).min().expect("there is one"),
            answered: told.map(|(at, _)| at),
            action: Action::Append(text.clone(), told.map(|(_, length)| length)),
        });
    }
    spans
}

/// What a request is for the search; none if it had no effect.
fn span(request: &Request) -> Option<Span> {
    let outcome = match request.answer.as_ref() {
        Some((at, Answered::Outcome(outcome))) => Some((*at, outcome)),
        Some((_, Answered::Refused(Refusal::Unknown { .. }))) => None,
        _ => return None,
    };
    let number = outcome.map(|(_, outcome)| match outcome {
        Outcome::Integer(number) => *number,
        Outcome::Ok | Outcome::Value(_) | Outcome::Nil => 0,
        other => panic!("I12: {request:?} was told {other:?}"),
    });
    let action = match &request.ask {
        Ask::Get => Action::Get(outcome.map(|(_, outcome)| match outcome {
            Outcome::Value(value) => Some(as_drawn(&String::from_utf8_lossy(value))),
            _ => None,
        })),
        Ask::Set(value) => Action::Set(value.clone()),
        Ask::Append(more) => Action::Append(more.clone(), number),
        Ask::Incr => Action::Incr(number),
        Ask::Del => Action::Del(number),
        // See `check_named`.
        Ask::Named(..) => return None,
    };
    let answered = outcome.map(|(at, _)| at);
    Some(Span { connection: request.connection, asked: request.asked, answered, action })
}

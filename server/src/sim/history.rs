//! What clients asked, what they were told, and what must hold of it in the end (I11, I13).

use super::linearizable::{Action, Span, Verdict, check};
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
            let spans: Vec<Span> = requests.iter().filter_map(|request| span(request)).collect();
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
    let last = requests.last().and_then(|request| request.answer.as_ref());
    let value = match last {
        Some((_, Answered::Outcome(Outcome::Value(value)))) => {
            String::from_utf8_lossy(value).into_owned()
        }
        Some((_, Answered::Outcome(Outcome::Nil))) => String::new(),
        other => panic!("I12: the last read of {key} got {other:?}"),
    };
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
            Outcome::Value(value) => Some(String::from_utf8_lossy(value).into_owned()),
            _ => None,
        })),
        Ask::Set(value) => Action::Set(value.clone()),
        Ask::Append(more) => Action::Append(more.clone(), number),
        Ask::Incr => Action::Incr(number),
        Ask::Del => Action::Del(number),
    };
    let answered = outcome.map(|(at, _)| at);
    Some(Span { connection: request.connection, asked: request.asked, answered, action })
}

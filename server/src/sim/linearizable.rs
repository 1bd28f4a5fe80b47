//! Whether a history of one key can be put into an order (Wing and Gong, with Lowe's memory of what was tried).

use super::workload::length;
use std::collections::BTreeSet;

/// What an operation did to the key, and what it was told; `None`: it was told nothing, so it may have had its
/// effect at any later time, or never.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// GET and the value; a key that is not there has none.
    Get(Option<Option<String>>),
    /// SET.
    Set(String),
    /// APPEND and the length.
    Append(String, Option<i64>),
    /// INCR and the sum.
    Incr(Option<i64>),
    /// DEL and how many keys went.
    Del(Option<i64>),
}

/// An operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its connection: operations of one take effect in their order.
    pub connection: u64,
    /// When it was asked.
    pub asked: u64,
    /// When it was answered, with an outcome.
    pub answered: Option<u64>,
    /// What.
    pub action: Action,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order.
    Yes,
    /// There is none.
    No,
    /// It was not found in so many steps.
    Unknown,
}

type Value = Option<String>;

/// The value behind an action, if that fits what it was told.
fn step(value: &Value, action: &Action) -> Option<Value> {
    let fits = |told: &Option<i64>, is: i64| told.is_none_or(|told| told == is);
    match action {
        Action::Get(told) => told.as_ref().is_none_or(|told| told == value).then(|| value.clone()),
        Action::Set(new) => Some(Some(new.clone())),
        Action::Append(more, told) => {
            let new = value.clone().unwrap_or_default() + more;
            fits(told, length(&new) as i64).then_some(Some(new))
        }
        Action::Incr(told) => {
            let sum = value.as_deref().unwrap_or("0").parse::<i64>().ok()? + 1;
            fits(told, sum).then(|| Some(sum.to_string()))
        }
        Action::Del(told) => fits(told, i64::from(value.is_some())).then_some(None),
    }
}

/// Looks for an order of operations, in the order in which they were asked, in at most so many steps.
pub fn check(spans: &[Span], steps_max: usize) -> Verdict {
    let words = spans.len().div_ceil(64).max(1);
    let mut seen: BTreeSet<(Vec<u64>, Value)> = BTreeSet::new();
    let mut stack: Vec<(Vec<u64>, Value)> = vec![(vec![0; words], None)];
    let is_done = |done: &[u64], i: usize| done[i / 64] >> (i % 64) & 1 == 1;
    let mut steps = 0;
    while let Some((done, value)) = stack.pop() {
        let open = |i: &usize| !is_done(&done, *i);
        let answered = |i: &usize| spans[*i].answered.is_some();
        // Whatever begins behind the first answer that is still owed has to wait for that one.
        let limit = (0..spans.len()).filter(open).filter_map(|i| spans[i].answered).min();
        let Some(limit) = limit else { return Verdict::Yes };
        let mut next = Vec::new();
        for i in (0..spans.len()).filter(open).filter(|i| spans[*i].asked <= limit) {
            let own = |j: &usize| spans[*j].connection == spans[i].connection;
            let elder = (0..i).filter(open).filter(answered).any(|j| own(&j));
            let younger = (i + 1..spans.len()).any(|j| is_done(&done, j) && own(&j));
            if elder || younger {
                continue;
            }
            let Some(after) = step(&value, &spans[i].action) else { continue };
            let mut done = done.clone();
            done[i / 64] |= 1 << (i % 64);
            if seen.insert((done.clone(), after.clone())) {
                next.push((done, after));
            }
        }
        // The first asked is tried first: mostly it is right. What nobody was told of is tried last.
        next.reverse();
        stack.append(&mut next);
        steps += 1;
        if steps > steps_max {
            return Verdict::Unknown;
        }
    }
    Verdict::No
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(connection: u64, asked: u64, answered: u64, action: Action) -> Span {
        let answered = (answered > 0).then_some(answered);
        Span { connection, asked, answered, action }
    }

    fn get(value: &str) -> Action {
        Action::Get(Some((!value.is_empty()).then(|| value.into())))
    }

    #[test]
    fn a_read_sees_what_was_there_at_one_instant_of_it() {
        let set = |v: &str| Action::Set(v.into());
        let history = |seen: &str, asked, answered| {
            check(
                &[
                    span(1, 0, 10, set("a")),
                    span(1, 20, 30, set("b")),
                    span(2, asked, answered, get(seen)),
                ],
                1000,
            )
        };
        assert_eq!(history("a", 12, 14), Verdict::Yes);
        assert_eq!(history("a", 25, 26), Verdict::Yes);
        assert_eq!(history("b", 25, 26), Verdict::Yes);
        assert_eq!(history("b", 12, 14), Verdict::No);
        assert_eq!(history("a", 31, 33), Verdict::No);
        assert_eq!(history("", 31, 33), Verdict::No);
    }

    #[test]
    fn what_nobody_was_told_of_may_come_late_or_never_but_once() {
        let unknown = span(1, 0, 0, Action::Append("x".into(), None));
        let reads = |values: [&str; 3]| {
            let mut spans = vec![unknown.clone()];
            spans.extend((1..).zip(values).map(|(i, v)| span(2, i * 10, i * 10 + 5, get(v))));
            check(&spans, 1000)
        };
        assert_eq!(reads(["", "", ""]), Verdict::Yes);
        assert_eq!(reads(["", "x", "x"]), Verdict::Yes);
        assert_eq!(reads(["", "x", ""]), Verdict::No);
        assert_eq!(reads(["x", "xx", "xx"]), Verdict::No);
    }

    #[test]
    fn of_one_connection_the_elder_goes_first_though_both_wait() {
        let append = |at: u64, v: &str, len| span(1, at, 50, Action::Append(v.into(), Some(len)));
        let seen = |value| span(2, 60, 61, get(value));
        assert_eq!(check(&[append(1, "a", 1), append(2, "b", 2), seen("ab")], 100), Verdict::Yes);
        assert_eq!(check(&[append(1, "a", 2), append(2, "b", 1), seen("ba")], 100), Verdict::No);
    }

    #[test]
    fn sums_are_told_once() {
        let incr = |c, told| span(c, 0, 10, Action::Incr(Some(told)));
        assert_eq!(check(&[incr(1, 2), incr(2, 1)], 100), Verdict::Yes);
        assert_eq!(check(&[incr(1, 1), incr(2, 1)], 100), Verdict::No);
        assert_eq!(check(&[incr(1, 1), incr(2, 2)], 1), Verdict::Unknown);
    }
}

//! Lines X of sessions, on the store alone.

use super::rows::dump;
use super::*;
use crate::op::{OpError, Set, SetExpiry};

fn store() -> ShardStore {
    let mut store = ShardStore::new(GroupId(1));
    let ranges = vec![(Slot(0), Slot(SLOTS - 1))];
    let assign = EntryItem::Assign { config: ConfigNum(1), ranges };
    store.apply(EntryBatch::new(LogTime(1000), vec![assign]));
    store
}

fn request(session: u128, seq: u64, op: Op) -> LaneRequest {
    let slot = hash_slot(b"{t}");
    let (session, deadline, acked) = (SessionId(session), LogTime(301_000), Seq(0));
    LaneRequest { session, deadline, slot, seq: Seq(seq), acked, op }
}

fn apply(store: &mut ShardStore, items: &[LaneRequest]) -> Vec<Answer> {
    let items = items.iter().cloned().map(EntryItem::Lane).collect();
    store.apply(EntryBatch::new(LogTime(1000), items))
}

fn key(name: &str) -> Bytes {
    format!("{{t}}{name}").into()
}

/// Ops whose second execution would show: in the state, or in what it answers.
fn ops() -> Vec<(Op, Outcome)> {
    let set = |get| {
        let (key, value) = (key("s"), Bytes::from_static(b"text"));
        let command = crate::op::ExpiryCommand::Set;
        Op::Set(Set { key, value, expiry: SetExpiry::Clear, condition: None, get, command })
    };
    let (keys, by) = (vec![key("a"), key("n"), key("s")], 7);
    vec![
        (Op::Append { key: key("a"), value: Bytes::from_static(b"ab") }, Outcome::Integer(2)),
        (Op::IncrBy { key: key("n"), by }, Outcome::Integer(7)),
        (set(true), Outcome::Nil),
        (Op::IncrBy { key: key("s"), by }, Outcome::Error(OpError::NotAnInteger)),
        (Op::Del { keys }, Outcome::Integer(3)),
        (Op::GetDel { key: key("a") }, Outcome::Nil),
        (Op::Append { key: key("a"), value: Bytes::from_static(b"c") }, Outcome::Integer(1)),
    ]
}

fn flushed_slot() {
    let mut store = store();
    let append = request(1, 1, Op::Append { key: key("k"), value: Bytes::from_static(b"a") });
    let first = apply(&mut store, std::slice::from_ref(&append));
    apply(&mut store, &[request(2, 1, Op::FlushSlot)]);
    assert_eq!(apply(&mut store, &[append]), first, "it is answered from its lane");
    assert_eq!(store.stats().keys, 0, "it was executed again");
}

/// Design 7a: a flush takes keys, and leaves what says which ops were executed.
#[test]
fn a_late_copy_of_a_write_does_nothing_after_a_flush() {
    flushed_slot();
    set_mutant(Some(Mutant::FlushTakesLanes));
    let ended = std::panic::catch_unwind(flushed_slot);
    set_mutant(None);
    assert!(ended.is_err(), "nobody notices that a flush takes lanes");
}

/// X1, X3, X7, X12: a repeat yields what the first one did, an error and the count of several keys too, and nothing
/// else happens: in the same entry, in later ones, and behind later ops of the session.
#[test]
fn x01_x03_x07_x12_a_thousand_repeats_of_each_op_change_nothing_and_answer_the_same() {
    let mut store = store();
    let all = ops();
    for (seq, (op, expected)) in (1..).zip(&all) {
        let answers = apply(&mut store, &vec![request(1, seq, op.clone()); 3]);
        for answer in answers {
            let Answer::Done { outcome, .. } = answer else { panic!("{op:?}: {answer:?}") };
            assert_eq!(&outcome, expected, "{op:?}");
        }
    }
    let (digest, rows) = (store.digest(), dump(&store));
    for _ in 0..1000 {
        for (seq, (op, expected)) in (1..).zip(&all) {
            match apply(&mut store, &[request(1, seq, op.clone())]).pop() {
                Some(Answer::Done { outcome, .. }) => assert_eq!(&outcome, expected, "{op:?}"),
                other => panic!("{op:?}: {other:?}"),
            }
        }
    }
    assert_eq!(store.digest(), digest);
    assert!(dump(&store) == rows, "a repeat left something behind");
}

/// X10: a million sessions, each with one op and gone then, take memory and rows of a checkpoint for as long as a
/// session lives, and none afterwards.
#[test]
fn x10_a_million_sessions_come_and_go_in_bounded_memory() {
    const SESSIONS: u64 = 1_000_000;
    const A_STEP: u64 = 100;
    const KEYS: u64 = 5000;
    let mut store = store();
    let (first, mut most) = (dump(&store).len(), 0);
    for step in 0..SESSIONS / A_STEP {
        let now = 1000 + step * A_STEP;
        let items = (0..A_STEP).map(|n| {
            let number = step * A_STEP + n;
            let (session, key) =
                (u128::from(number + 1), Bytes::from(format!("{}", number % KEYS)));
            let (slot, deadline) = (hash_slot(&key), LogTime(now + SESSION_LIFE_MS));
            let op = Op::IncrBy { key, by: 1 };
            EntryItem::Lane(LaneRequest { slot, deadline, ..request(session, 1, op) })
        });
        for answer in store.apply(EntryBatch::new(LogTime(now), items.collect())) {
            assert!(matches!(answer, Answer::Done { .. }), "{answer:?}");
        }
        // What an idle leader proposes.
        store.apply(EntryBatch::new(LogTime(now), Vec::new()));
        most = most.max(store.stats().lanes);
    }
    let lives = SESSION_LIFE_MS + 2 * A_STEP;
    assert!(most <= lives, "{most} lanes at once, where {lives} sessions live");
    let end = LogTime(1000 + SESSIONS + SESSION_LIFE_MS + 1);
    while store.stats().lanes > 0 {
        let before = store.stats().lanes;
        store.apply(EntryBatch::new(end, Vec::new()));
        assert!(store.stats().lanes < before, "{before} are left for ever");
    }
    assert_eq!(store.stats().lane_bytes, 0);
    assert_eq!(dump(&store).len(), first + KEYS as usize);
}

/// A router whose client has waited to the deadline asks with an op of no key what became of its write: never that it
/// was not executed, where only the answer is gone.
fn a_void_behind_an_answer_that_is_gone() {
    let limits = LaneLimits { lane_reply_bytes_max: 10, ..LaneLimits::default() };
    let mut store = ShardStore::with_limits(GroupId(1), limits);
    let ranges = vec![(Slot(0), Slot(SLOTS - 1))];
    let assign = EntryItem::Assign { config: ConfigNum(1), ranges };
    store.apply(EntryBatch::new(LogTime(1000), vec![assign]));
    let value = Bytes::from(vec![b'x'; 1000]);
    let append = Op::Append { key: key("a"), value };
    apply(&mut store, &[request(1, 1, append), request(1, 2, Op::GetDel { key: key("a") })]);
    let void = || Op::MGet { keys: Vec::new() };
    assert_eq!(apply(&mut store, &[request(1, 2, void())]), [Answer::ReplyGone]);
    let filled = apply(&mut store, &[request(1, 3, void())]);
    let nothing = Outcome::Values(Vec::new());
    assert_eq!(filled, [Answer::Done { outcome: nothing, log_time: LogTime(1000) }]);
}

#[test]
fn x06_a_void_hears_that_the_answer_is_gone_and_not_that_nothing_was_done() {
    a_void_behind_an_answer_that_is_gone();
    set_mutant(Some(Mutant::VoidReadsAnew));
    let ended = std::panic::catch_unwind(a_void_behind_an_answer_that_is_gone);
    set_mutant(None);
    assert!(ended.is_err(), "nobody notices that a void is told what is not so");
}

#[test]
fn a_token_that_cannot_be_is_refused_before_anything_is_looked_at() {
    let mut store = store();
    let lasting = |name, hash, window_ms, op| {
        Op::Token(Box::new(crate::op::Token { name, hash, window_ms, op }))
    };
    let token = |name, hash, op| lasting(name, hash, 1000, op);
    let (name, incr) = (SessionId::of_token(1), || Op::IncrBy { key: key("n"), by: 1 });
    let digest = store.digest();
    for request in [
        request(1, 1, token(name, 9, Op::Get { key: key("n") })),
        request(1, 1, token(SessionId(1), 9, incr())),
        request(1, 1, token(name, 0, incr())),
        request(name.0, 1, token(name, 9, incr())),
        request(1, 1, lasting(name, 9, 999, incr())),
        request(1, 1, lasting(name, 9, 90_000_001, incr())),
    ] {
        assert_eq!(apply(&mut store, &[request]), [Answer::Invalid]);
    }
    assert_eq!(store.digest(), digest);
}

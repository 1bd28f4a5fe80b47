//! The steps of moves one by one, between two stores.

use super::rows::dump;
use super::*;
use crate::migration::{MOVE_CHUNK, MoveStep, RowName};
use crate::moves::{Move, MoveOutcome, RefuseReason};
use crate::op::{Expire, ExpireAt, ExpiryCommand, TimeUnit, Token};

pub(super) const A: usize = 0;
pub(super) const B: usize = 1;

pub(super) fn slot() -> Slot {
    hash_slot(b"{t}")
}

/// Two groups, the first of which has all slots, and every step that they were told.
pub(super) struct Pair {
    pub(super) stores: [ShardStore; 2],
    now: u64,
    steps: Vec<(usize, MoveStep)>,
}

impl Pair {
    pub(super) fn new() -> Pair {
        let mut stores = [1, 2].map(|group| ShardStore::new(GroupId(group)));
        let ranges = vec![(Slot(0), Slot(SLOTS - 1))];
        let assign = EntryItem::Assign { config: ConfigNum(1), ranges };
        stores[A].apply(EntryBatch::new(LogTime(1000), vec![assign]));
        Pair { stores, now: 1000, steps: Vec::new() }
    }

    pub(super) fn apply(&mut self, at: usize, item: EntryItem) -> Answer {
        let mut answers = self.stores[at].apply(EntryBatch::new(LogTime(self.now), vec![item]));
        answers.pop().expect("an answer")
    }

    pub(super) fn step(&mut self, at: usize, step: MoveStep) {
        self.steps.push((at, step.clone()));
        self.apply(at, EntryItem::Move(step));
    }

    fn write(&mut self, at: usize, seq: u64, op: Op) -> Answer {
        let (session, deadline) = (SessionId(1), LogTime(SESSION_LIFE_MS));
        let (seq, acked) = (Seq(seq), Seq(seq - 1));
        let request = LaneRequest { session, deadline, slot: slot(), seq, acked, op };
        self.apply(at, EntryItem::Lane(request))
    }

    fn done(&mut self, at: usize, seq: u64, op: Op) {
        let answer = self.write(at, seq, op);
        assert!(matches!(answer, Answer::Done { .. }), "{answer:?}");
    }

    fn read(&self, at: usize, op: Op) -> ReadStep {
        self.stores[at].read(
            &ReadRequest { slot: slot(), after: None, op },
            LogTime(self.now),
            true,
        )
    }

    pub(super) fn begin(&mut self, order: Move, from: usize) {
        self.step(from, MoveStep::BeginExport(order));
        self.step(1 - from, MoveStep::BeginImport(order));
    }

    /// All rows of the round that the source is in.
    pub(super) fn copy(&mut self, order: Move, from: usize, round: u32) {
        while self.copy_next(order, from, round, MOVE_CHUNK).is_some() {}
    }

    /// The next rows of the round that the source is in, or the next part of one, as long as there are any.
    fn copy_next(
        &mut self,
        order: Move,
        from: usize,
        round: u32,
        budget: RowBudget,
    ) -> Option<Piece> {
        let (slot, id) = (order.slot, order.id);
        let SlotPhase::Importing { round: at, cursor, held, .. } =
            self.stores[1 - from].stand(slot).phase
        else {
            return None;
        };
        let cursor = if at == round { cursor? } else { RowName::new() };
        let wanted = Wanted { round, from: &cursor, parts: true, held: held.as_ref() };
        let piece = self.stores[from].chunk(slot, id, wanted, budget);
        let piece = piece.expect("it is in this round").0;
        self.step(1 - from, MoveStep::import(slot, id, piece.clone()));
        Some(piece)
    }

    pub(super) fn freeze(&mut self, order: Move, from: usize, round: u32) {
        self.step(from, MoveStep::Freeze { slot: order.slot, id: order.id, round });
    }

    fn end(&mut self, order: Move, from: usize) {
        let (slot, id) = (order.slot, order.id);
        self.step(from, MoveStep::CompleteExport { slot, id });
        self.forget(order);
    }

    fn forget(&mut self, order: Move) {
        for at in [A, B] {
            self.step(at, MoveStep::Forget { slot: order.slot, id: order.id });
        }
    }

    fn move_over(&mut self, order: Move, from: usize) {
        self.begin(order, from);
        self.copy(order, from, 0);
        self.freeze(order, from, 1);
        self.copy(order, from, 1);
        self.end(order, from);
    }

    fn digests(&self) -> [u64; 2] {
        [self.stores[A].digest(), self.stores[B].digest()]
    }

    /// Everything that was ever said comes again, in this order and in the other, and changes nothing.
    fn say_again(&mut self, steps: &[(usize, MoveStep)], when: &str) {
        let before = self.digests();
        for (at, step) in steps.iter().chain(steps.iter().rev()) {
            self.apply(*at, EntryItem::Move(step.clone()));
            assert_eq!(self.digests(), before, "{when}: {step:?}");
        }
    }
}

pub(super) fn order(id: u64, from: usize) -> Move {
    let group = |at: usize| GroupId(at as u32 + 1);
    let (id, epoch) = (MoveId(id), SlotEpoch(id + 1));
    Move { id, slot: slot(), from: Some(group(from)), to: group(1 - from), epoch }
}

fn key(name: &str) -> Bytes {
    format!("{{t}}{name}").into()
}

fn append(name: &str, value: &'static str) -> Op {
    Op::Append { key: key(name), value: Bytes::from_static(value.as_bytes()) }
}

fn del(names: &[&str]) -> Op {
    Op::Del { keys: names.iter().map(|name| key(name)).collect() }
}

fn expire(name: &str, ms: i64) -> Op {
    let (key, at, command) = (key(name), ExpireAt::AfterMs(ms), ExpiryCommand::PExpire);
    let (nx, xx, gt, lt) = (false, false, false, false);
    Op::Expire(Expire { key, at, nx, xx, gt, lt, command })
}

fn value(text: &'static str) -> ReadStep {
    let outcome = Outcome::Value(Bytes::from_static(text.as_bytes()));
    ReadStep::Answered(Answer::Done { outcome, log_time: LogTime(1000) })
}

fn slot_of_many_keys() {
    let mut pair = Pair::new();
    for n in 1..=100 {
        pair.done(A, n, Op::Append { key: key(&n.to_string()), value: Bytes::from_static(b"v") });
    }
    let before = pair.stores[A].memory();
    pair.step(A, MoveStep::BeginExport(order(1, A)));
    assert_eq!(pair.stores[A].memory(), before, "what there is was listed");
}

/// Of a slot with a million keys that would hold up all others of its group.
#[test]
fn to_begin_a_copy_lists_nothing() {
    slot_of_many_keys();
    set_mutant(Some(Mutant::ListAtBegin));
    let ended = std::panic::catch_unwind(slot_of_many_keys);
    set_mutant(None);
    assert!(ended.is_err(), "nobody notices that all rows are listed");
}

/// A value that no chunk of this size can hold.
const SMALL_CHUNK: RowBudget = RowBudget { rows: 4, bytes: 64 };

fn elsewhere() -> ReadStep {
    ReadStep::Answered(Answer::Elsewhere)
}

#[test]
fn parts_that_come_twice_or_late_change_nothing() {
    let mut pair = Pair::new();
    let large: &'static str = "abcdefghij0123456789".repeat(10).leak();
    pair.done(A, 1, append("k", large));
    pair.done(A, 2, append("small", "s"));
    let order = order(1, A);
    pair.begin(order, A);
    let (mut parts, before) = (0, pair.steps.len());
    while let Some((_, part)) = pair.copy_next(order, A, 0, SMALL_CHUNK) {
        parts += usize::from(part.is_some());
        let said = pair.steps[before..].to_vec();
        pair.say_again(&said, "parts");
        let store = &pair.stores[B];
        let whole = store.slots[&slot()].data.item(&key("k")).map(|item| item.value().clone());
        assert!(whole.as_ref().is_none_or(|value| value == large), "{whole:?}");
        assert_eq!(pair.read(B, Op::Get { key: key("k") }), elsewhere());
    }
    assert!(parts >= 4, "{parts} parts");
    // Of the round before, and of a value that is another one by now.
    pair.done(A, 3, append("k", "!"));
    let said = pair.steps[before..].to_vec();
    pair.freeze(order, A, 1);
    pair.copy_next(order, A, 1, SMALL_CHUNK);
    pair.say_again(&said, "parts of the round before");
    pair.copy(order, A, 1);
    pair.end(order, A);
    pair.say_again(&said, "parts of a move that is over");
    let whole = value(format!("{large}!").leak());
    assert_eq!(pair.read(B, Op::Get { key: key("k") }), whole);
}

#[test]
fn g05_rows_that_come_twice_change_nothing_also_when_clients_have_written_since() {
    let mut pair = Pair::new();
    pair.done(A, 1, append("k", "a"));
    let first = order(1, A);
    pair.begin(first, A);
    pair.copy(first, A, 0);
    let so_far = pair.steps.clone();
    pair.say_again(&so_far, "in the middle");
    pair.freeze(first, A, 1);
    pair.copy(first, A, 1);
    pair.done(B, 2, append("k", "b"));
    let so_far = pair.steps.clone();
    pair.say_again(&so_far, "with a write of the new owner");
    pair.end(first, A);
    assert_eq!(pair.read(B, Op::Get { key: key("k") }), value("ab"));
}

#[test]
fn g06_d03_steps_of_settled_moves_do_nothing_when_the_slot_is_back_or_on_its_way_again() {
    let mut pair = Pair::new();
    pair.done(A, 1, append("k", "a"));
    pair.move_over(order(1, A), A);
    pair.done(B, 2, append("k", "b"));
    pair.move_over(order(2, B), B);
    pair.done(A, 3, append("k", "c"));
    let settled = pair.steps.clone();
    pair.say_again(&settled, "back");
    let third = order(3, A);
    pair.begin(third, A);
    pair.say_again(&settled, "as the next begins");
    pair.copy(third, A, 0);
    pair.freeze(third, A, 1);
    pair.say_again(&settled, "frozen");
    pair.copy(third, A, 1);
    pair.say_again(&settled, "decided");
    pair.end(third, A);
    let settled = pair.steps.clone();
    pair.say_again(&settled, "over");
    assert_eq!(pair.read(B, Op::Get { key: key("k") }), value("abc"));
    // One that was refused, and one that was given up before it began.
    let (fourth, fifth) = (order(4, B), order(5, B));
    let reason = RefuseReason::Cancelled;
    pair.begin(fourth, B);
    for order in [fourth, fifth] {
        pair.step(A, MoveStep::Refuse { order, reason });
        pair.step(B, MoveStep::AbortExport { order, reason });
        assert_eq!(pair.stores[B].stand(slot()).phase, SlotPhase::Owned);
        let outcome = MoveOutcome::Refused(reason);
        assert_eq!(pair.stores[A].stand(slot()).ended, Some(Ended { order, outcome }));
        pair.forget(order);
    }
    let settled = pair.steps.clone();
    pair.say_again(&settled, "refused");
}

#[test]
fn g16_expiries_and_versions_come_along_and_what_was_deleted_meanwhile_stays_away() {
    let mut pair = Pair::new();
    for (seq, name) in (1..).zip(["gone", "short", "long", "kept"]) {
        pair.done(A, seq, append(name, "v"));
    }
    pair.done(A, 5, expire("short", 500));
    let first = order(1, A);
    pair.begin(first, A);
    pair.copy(first, A, 0);
    pair.done(A, 6, del(&["gone"]));
    pair.done(A, 7, expire("long", 9000));
    pair.now += 300;
    pair.freeze(first, A, 1);
    let version = pair.stores[A].slots[&slot()].data.version();
    // Its clock is behind, and its log time of other slots stays where it is.
    pair.now -= 200;
    pair.copy(first, A, 1);
    assert_eq!(pair.stores[B].slots[&slot()].data.version(), version);
    pair.end(first, A);
    assert_eq!(pair.stores[B].log_time(), LogTime(1100));
    let left = |pair: &Pair, name: &str| {
        let op = Op::Ttl { key: key(name), unit: TimeUnit::Milliseconds };
        match pair.read(B, op) {
            ReadStep::Answered(Answer::Done { outcome: Outcome::Integer(ms), .. }) => ms,
            other => panic!("{other:?}"),
        }
    };
    let times = ["gone", "short", "long", "kept"].map(|name| left(&pair, name));
    assert_eq!(times, [-2, 200, 8700, -1], "of log time 1300, at which the slot was frozen");
    pair.now = 1500;
    pair.done(B, 8, append("kept", "w"));
    assert_eq!(left(&pair, "short"), -2);
    assert!(pair.stores[B].slots[&slot()].data.version() > version);
}

#[test]
fn g23_ops_on_several_keys_are_done_whole_or_not_at_all_around_a_freeze() {
    let mut pair = Pair::new();
    for (seq, name) in (1..).zip(["a", "b", "c"]) {
        pair.done(A, seq, append(name, "v"));
    }
    let first = order(1, A);
    pair.begin(first, A);
    pair.copy(first, A, 0);
    pair.freeze(first, A, 1);
    let (before, keys) = (pair.digests(), vec![key("a"), key("b"), key("c")]);
    for at in [A, B] {
        let answer = pair.write(at, 4, del(&["a", "b", "c"]));
        let right = if at == A { Answer::Frozen } else { Answer::Elsewhere };
        assert_eq!(answer, right);
        let read = pair.read(at, Op::MGet { keys: keys.clone() });
        assert_eq!(read, ReadStep::Answered(right));
    }
    assert_eq!(pair.digests(), before, "half of it was done");
    pair.copy(first, A, 1);
    pair.end(first, A);
    let answer = pair.write(B, 4, del(&["a", "b", "c"]));
    assert!(matches!(answer, Answer::Done { outcome: Outcome::Integer(3), .. }), "{answer:?}");
}

/// What a replica of the destination says that has just started: to a read of "a", and to a repeat of the last append.
fn after_a_restart(pair: &Pair) -> [Option<Outcome>; 2] {
    let mut loader = StoreLoader::new(GroupId(2));
    for (key, value) in dump(&pair.stores[B]) {
        loader.row(&key, value).expect("a row of its own");
    }
    let stores = [ShardStore::new(GroupId(1)), loader.finish().expect("all rows")];
    assert_eq!(stores[B].digest(), pair.stores[B].digest());
    let mut pair = Pair { stores, now: pair.now, steps: Vec::new() };
    let read = pair.read(B, Op::Get { key: key("a") });
    let answers = [read, ReadStep::Answered(pair.write(B, 4, append("a", "w")))];
    answers.map(|answer| match answer {
        ReadStep::Answered(Answer::Done { outcome, .. }) => Some(outcome),
        ReadStep::Answered(Answer::Elsewhere) => None,
        other => panic!("{other:?}"),
    })
}

/// Keys and lanes of the slot, in the rows of the source.
fn rows_left(pair: &Pair) -> [usize; 2] {
    let rows = dump(&pair.stores[A]);
    let of = |is: fn(&Row<'_>) -> bool| {
        rows.keys().filter(|key| Row::of(key).is_ok_and(|row| is(&row))).count()
    };
    [of(|row| matches!(row, Row::Key(..))), of(|row| matches!(row, Row::Lane(..)))]
}

#[test]
fn x13_keys_and_lanes_of_a_slot_come_in_one_entry_and_go_in_one() {
    let mut pair = Pair::new();
    for (seq, name) in (1..).zip(["a", "b", "c"]) {
        pair.done(A, seq, append(name, "v"));
    }
    let (first, one) = (order(1, A), RowBudget { rows: 1, bytes: 1000 });
    pair.begin(first, A);
    let mut entries = 0;
    for round in 0..2 {
        if round == 1 {
            pair.done(A, 4, append("a", "w"));
            pair.freeze(first, A, 1);
        }
        assert_eq!(after_a_restart(&pair), [None, None], "after {entries} entries");
        while let Some((chunk, _)) = pair.copy_next(first, A, round, one) {
            entries += 1;
            let is_over = chunk.frozen.is_some();
            assert!(is_over || after_a_restart(&pair) == [None, None], "after {entries} entries");
        }
    }
    assert_eq!(entries, 6, "three keys and a lane, a key and the lane");
    let (value, length) = (Outcome::Value(Bytes::from_static(b"vw")), Outcome::Integer(2));
    assert_eq!(after_a_restart(&pair), [Some(value), Some(length)]);
    assert_eq!(rows_left(&pair), [3, 1]);
    pair.step(A, MoveStep::CompleteExport { slot: slot(), id: first.id });
    assert_eq!(rows_left(&pair), [0, 0]);
}

/// A slot of many keys is given up in one entry; its keys are freed by those that come, so many each.
fn give_up() {
    const KEYS: u64 = 5000;
    let mut pair = Pair::new();
    let Pair { stores, .. } = &mut pair;
    stores[A].apply(keys(1, KEYS));
    stores[A].freeze();
    let all = RowBudget { rows: usize::MAX, bytes: usize::MAX };
    assert!(stores[A].collect(all).done);
    let first = Move { slot: Slot(15891), ..order(1, A) };
    let held = pair.stores[A].memory().total();
    pair.move_over(first, A);
    assert_eq!((pair.stores[A].stats().keys, pair.stores[B].stats().keys), (0, KEYS));
    let per_key = held / KEYS + 8;
    assert!(pair.stores[A].memory().checkpoint > KEYS / 2 * per_key, "it is freed already");
    let mut entries = 0;
    while pair.stores[A].changes.is_to_free() {
        let before = pair.stores[A].memory().checkpoint;
        pair.stores[A].apply(EntryBatch::new(LogTime(1001), Vec::new()));
        let freed = before - pair.stores[A].memory().checkpoint;
        assert!(freed <= (KEYS_FREED_PER_ENTRY_MAX as u64 + 1) * per_key, "{freed} bytes at once");
        entries += 1;
    }
    assert!(entries >= KEYS / KEYS_FREED_PER_ENTRY_MAX as u64, "{entries} entries");
    let left = pair.stores[A].memory().total();
    assert!(left < held / 50, "{left} bytes of {held} stay");
    // On disk it goes by ranges, however many keys there were.
    pair.stores[A].freeze();
    let rows = pair.stores[A].collect(all).rows.len();
    assert!(rows < 10, "{rows} changes on disk");
}

#[test]
fn d07_a_large_slot_is_freed_in_bounded_steps_and_all_of_it() {
    give_up();
}

#[test]
fn d07_freeing_all_at_once_is_noticed() {
    mutant::set(Some(Mutant::FreeAtOnce));
    let ended = std::panic::catch_unwind(give_up);
    mutant::set(None);
    assert!(ended.is_err(), "nobody notices that all is freed at once");
}

/// A slot with a token moves to a group whose log time is an hour ahead, since clocks were wrong once.
fn a_token_comes_to_a_group_that_is_ahead() {
    const HOUR_MS: u64 = 3_600_000;
    let mut pair = Pair::new();
    let token =
        Token { name: SessionId::of_token(1), hash: 1, window_ms: 660_000, op: append("k", "v") };
    pair.done(A, 1, Op::Token(Box::new(token.clone())));
    pair.stores[B].apply(EntryBatch::new(LogTime(1000 + HOUR_MS), Vec::new()));
    pair.move_over(order(1, A), A);
    let mut copy = |after_ms: u64| {
        let now = 1000 + HOUR_MS + after_ms;
        pair.now = now;
        let request = LaneRequest {
            session: SessionId(2 + u128::from(after_ms)),
            deadline: LogTime(now + SESSION_LIFE_MS),
            slot: slot(),
            seq: Seq(1),
            acked: Seq(0),
            op: Op::Token(Box::new(token.clone())),
        };
        match pair.apply(B, EntryItem::Lane(request)) {
            Answer::Done { outcome: Outcome::Integer(length), .. } => length,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(copy(0), 1, "it is remembered");
    assert_eq!(copy(600_000), 1, "for as long as was promised");
    assert_eq!(copy(661_000), 2, "and not for longer");
}

#[test]
fn a_token_that_moves_is_remembered_by_its_own_time() {
    a_token_comes_to_a_group_that_is_ahead();
    mutant::set(Some(Mutant::TokensEndEarly));
    let ended = std::panic::catch_unwind(a_token_comes_to_a_group_that_is_ahead);
    mutant::set(None);
    assert!(ended.is_err(), "nobody notices tokens that end early");
}

/// Routers of the version before tokens draw ids of which half look like those of tokens.
#[test]
fn a_lane_whose_id_looks_like_a_tokens_goes_on_in_a_group_that_is_ahead() {
    let mut pair = Pair::new();
    let (session, deadline) = (SessionId::of_token(77), LogTime(1000 + SESSION_LIFE_MS));
    let ask = |pair: &mut Pair, at, seq: u64| {
        let (seq, acked) = (Seq(seq), Seq(seq - 1));
        let op = append("k", "v");
        let request = LaneRequest { session, deadline, slot: slot(), seq, acked, op };
        pair.apply(at, EntryItem::Lane(request))
    };
    let length = |answer| match answer {
        Answer::Done { outcome: Outcome::Integer(length), .. } => length,
        other => panic!("{other:?}"),
    };
    assert_eq!(length(ask(&mut pair, A, 1)), 1);
    pair.stores[B].apply(EntryBatch::new(LogTime(61_000), Vec::new()));
    pair.move_over(order(1, A), A);
    for (seq, expected) in [(1, 1), (2, 2), (2, 2)] {
        assert_eq!(length(ask(&mut pair, B, seq)), expected, "seq {seq}");
    }
    pair.now = deadline.0 + 1;
    let said = ask(&mut pair, B, 3);
    assert_eq!(said, Answer::Expired { log_time: LogTime(pair.now) });
}

//! How much lanes and tokens may take, where they are made and where they come with their slot.

use super::steps::{A, B, Pair, order, slot};
use super::*;
use crate::migration::MoveStep;
use crate::moves::{MoveOutcome, RefuseReason};
use crate::op::{ExpiryCommand, OpError, Set, SetExpiry, Token};

/// Limits that a few lanes meet.
const FEW: LaneLimits = LaneLimits {
    lanes_max: 40,
    tokens_max: 20,
    lane_reply_bytes_max: 2000,
    group_reply_bytes_max: 4000,
    group_small_reply_bytes_max: 4000,
};

/// What a slot has.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    /// Sessions with a small reply.
    lanes: u128,
    /// Sessions with a large one.
    large: u128,
    /// Tokens, all of the first session, which acknowledges.
    tokens: u128,
    /// Tokens with a large reply.
    large_tokens: u128,
}

const NONE: Held = Held { lanes: 0, large: 0, tokens: 0, large_tokens: 0 };

/// Of a slot of the second group, and of that which moves there.
const KEYS: [&str; 2] = ["{t}", "{la2}"];

fn tokened(number: u128, op: Op) -> Op {
    let name = SessionId::of_token(number);
    Op::Token(Box::new(Token { name, hash: 1, window_ms: 600_000, op }))
}

/// SET with GET of a value that makes a large reply.
fn replace(key: &'static str) -> Op {
    let (key, value) = (Bytes::from(key), vec![b'x'; 1900].into());
    let (expiry, command) = (SetExpiry::Clear, ExpiryCommand::Set);
    Op::Set(Set { key, value, expiry, condition: None, get: true, command })
}

fn ask(pair: &mut Pair, at: usize, (session, seq): (u128, u64), op: Op) -> Answer {
    let (session, deadline) = (SessionId(session), LogTime(SESSION_LIFE_MS));
    let slot = hash_slot(KEYS[at].as_bytes());
    let (seq, acked) = (Seq(seq), Seq(seq - 1));
    pair.apply(at, EntryItem::Lane(LaneRequest { session, deadline, slot, seq, acked, op }))
}

fn done(pair: &mut Pair, at: usize, place: (u128, u64), op: Op) {
    let answer = ask(pair, at, place, op);
    let refused = matches!(answer, Answer::Done { outcome: Outcome::Error(_), .. });
    assert!(matches!(answer, Answer::Done { .. }) && !refused, "{answer:?}");
}

impl Pair {
    /// Two groups of few lanes, the first of which has all slots but one.
    fn of_few() -> Pair {
        let mut pair = Pair::new();
        pair.stores = [1, 2].map(|group| ShardStore::with_limits(GroupId(group), FEW));
        for (at, first, last) in [(A, 1, SLOTS - 1), (B, 0, 0)] {
            let ranges = vec![(Slot(first), Slot(last))];
            pair.apply(at, EntryItem::Assign { config: ConfigNum(1), ranges });
        }
        pair
    }

    fn hold(&mut self, at: usize, held: Held) {
        let Held { lanes, large, tokens, large_tokens } = held;
        let (base, key) = (1000 * (1 + at as u128), KEYS[at]);
        let mut seqs = 1..;
        let mut in_first = || (base, seqs.next().expect("there are more"));
        if large + tokens + large_tokens > 0 {
            done(self, at, in_first(), replace(key));
        }
        for number in 0..tokens + large_tokens {
            let op =
                if number < large_tokens { replace(key) } else { Op::Persist { key: key.into() } };
            done(self, at, in_first(), tokened(base + number, op));
        }
        if large_tokens > 0 {
            done(self, at, in_first(), Op::Persist { key: key.into() });
        }
        for number in 0..large {
            done(self, at, (base + 100 + number, 1), replace(key));
        }
        for number in 0..lanes {
            done(self, at, (base + 200 + number, 1), Op::FlushSlot);
        }
    }

    /// Whether the slot of the first group is taken by the second. Before the last round it is copied in so many
    /// others, and each of so many lanes has changed in each.
    fn is_taken(&mut self, rounds: u32, changing: u128) -> bool {
        let order = order(1, A);
        self.begin(order, A);
        self.copy(order, A, 0);
        for round in 1..=rounds {
            for lane in 0..changing {
                done(self, A, (1200 + lane, 1 + u64::from(round)), Op::FlushSlot);
            }
            self.step(A, MoveStep::Rotate { slot: slot(), id: order.id, round });
            self.copy(order, A, round);
        }
        self.freeze(order, A, rounds + 1);
        self.copy(order, A, rounds + 1);
        match self.stores[B].stand(slot()).ended.expect("it ended").outcome {
            MoveOutcome::Activated => true,
            MoveOutcome::Refused(reason) => {
                assert_eq!(reason, RefuseReason::OutOfMemory);
                false
            }
        }
    }
}

fn apart() {
    let mut pair = Pair::of_few();
    pair.hold(B, Held { lanes: 39, tokens: 20, ..NONE });
    assert_eq!((pair.stores[B].stats().lanes, pair.stores[B].stats().tokens), (60, 20));
    let persist = || Op::Persist { key: KEYS[B].into() };
    let full = ask(&mut pair, B, (2000, 22), tokened(1, persist()));
    assert!(
        matches!(full, Answer::Done { outcome: Outcome::Error(OpError::TokensFull), .. }),
        "{full:?}"
    );
    assert_eq!(ask(&mut pair, B, (1, 1), persist()), Answer::LanesFull);
}

fn coming() {
    for (there, coming, taken) in [
        (Held { tokens: 11, lanes: 38, ..NONE }, Held { tokens: 9, ..NONE }, true),
        (Held { tokens: 12, ..NONE }, Held { tokens: 9, ..NONE }, false),
        (Held { lanes: 39, ..NONE }, Held { lanes: 1, ..NONE }, true),
        (Held { lanes: 40, ..NONE }, Held { lanes: 1, ..NONE }, false),
        (Held { large: 1, ..NONE }, Held { large: 1, ..NONE }, true),
        (Held { large: 2, ..NONE }, Held { large: 1, ..NONE }, false),
        (Held { large: 2, ..NONE }, Held { large_tokens: 1, ..NONE }, true),
        (Held { large_tokens: 1, ..NONE }, Held { large_tokens: 1, ..NONE }, false),
        (Held { lanes: 31, ..NONE }, Held { lanes: 31, ..NONE }, false),
    ] {
        let mut pair = Pair::of_few();
        pair.hold(B, there);
        pair.hold(A, coming);
        assert_eq!(pair.is_taken(0, 0), taken, "{there:?}, {coming:?}");
    }
}

#[test]
fn small_replies_of_a_slot_that_comes_have_their_bound() {
    let limits = LaneLimits { group_small_reply_bytes_max: 1600, ..FEW };
    for (lanes, taken) in [(12, true), (13, false)] {
        let mut pair = Pair::of_few();
        pair.stores[B] = ShardStore::with_limits(GroupId(2), limits);
        let ranges = vec![(Slot(0), Slot(0))];
        pair.apply(B, EntryItem::Assign { config: ConfigNum(1), ranges });
        pair.hold(B, Held { lanes: 13, ..NONE });
        pair.hold(A, Held { lanes, ..NONE });
        assert_eq!(pair.is_taken(0, 0), taken, "{lanes} lanes of 64 bytes, to 13 such");
    }
}

fn rounds() {
    let mut pair = Pair::of_few();
    pair.hold(B, Held { lanes: 6, large: 1, ..NONE });
    pair.hold(A, Held { lanes: 30, large: 1, ..NONE });
    assert!(pair.is_taken(3, 30));
    assert_eq!(pair.stores[B].stats().lanes, 8 + 32);
}

#[test]
fn neither_tokens_nor_lanes_take_room_from_the_other() {
    apart();
}

#[test]
fn what_comes_with_a_slot_is_held_to_the_bounds_of_what_is_made_here() {
    coming();
}

#[test]
fn lanes_of_earlier_rounds_go_for_those_that_take_their_place() {
    rounds();
}

#[test]
fn each_broken_rule_of_budgets_is_noticed() {
    for (rule, scenario) in [
        (Mutant::TokensAmongLanes, apart as fn()),
        (Mutant::ImportsUnbounded, coming),
        (Mutant::LanesOfEachRound, rounds),
    ] {
        set_mutant(Some(rule));
        let ended = std::panic::catch_unwind(scenario);
        set_mutant(None);
        assert!(ended.is_err(), "nobody notices {rule:?}");
    }
}

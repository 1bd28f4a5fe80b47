//! A small world of moves, searched whole: one slot between two groups, a client with a few ops, and everything that was
//! ever said arriving at any time, any number of times.
//!
//! The groups are real stores. A state holds their rows, as a checkpoint would, and each step loads them, so that every
//! state is a restart of both as well. `FLOTILLA_STATES=n` searches so many states of each scope.

use super::moves::end_of;
use super::rows::Rows;
use super::*;
use crate::codec::bytes_of;
use crate::migration::{Held, MoveStep};
use crate::moves::{Move, MoveOutcome, RefuseReason};
use crate::op::{ExpiryCommand, Set, SetExpiry, Token};
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

/// States of a scope that are searched in every run.
const STATES: usize = 4000;

/// What a part has at most: more than any other row.
const PART_BYTES: usize = 60;
/// Three parts.
const LARGE_BYTES: usize = 148;

/// What is searched.
#[derive(Clone, Copy)]
struct Scope {
    name: &'static str,
    /// What the client sends, in this order.
    ops: fn() -> Vec<Op>,
    /// Moves after one another: there, back, there.
    moves: usize,
    /// The shardmaster may give up one at any time.
    refuses: bool,
    /// The session may end at any time.
    ends: bool,
    /// Large rows come in parts.
    parts: bool,
}

fn key(name: &str) -> Bytes {
    format!("{{t}}{name}").into()
}

fn append(value: &'static str) -> Op {
    Op::Append { key: key("k"), value: Bytes::from_static(value.as_bytes()) }
}

/// Too large for a chunk: it has [`LARGE_BYTES`], all equal.
fn large(letter: &str) -> Op {
    let (key, value) = (key("k"), letter.repeat(LARGE_BYTES).into());
    let (expiry, command) = (SetExpiry::Clear, ExpiryCommand::Set);
    Op::Set(Set { key, value, expiry, condition: None, get: false, command })
}

fn named(op: Op) -> Op {
    Op::Token(Box::new(Token { name: SessionId::of_token(1), hash: 5, window_ms: 600_000, op }))
}

const SCOPES: [Scope; 8] = [
    Scope {
        name: "there and back",
        ops: || vec![append("a"), append("b")],
        moves: 2,
        refuses: false,
        ends: false,
        parts: false,
    },
    Scope {
        name: "given up",
        ops: || vec![append("a"), append("b")],
        moves: 2,
        refuses: true,
        ends: false,
        parts: false,
    },
    Scope {
        name: "deleted",
        ops: || vec![append("a"), Op::Del { keys: vec![key("k"), key("z")] }],
        moves: 1,
        refuses: false,
        ends: false,
        parts: false,
    },
    Scope {
        name: "flushed",
        ops: || vec![Op::FlushSlot, append("a")],
        moves: 1,
        refuses: false,
        ends: false,
        parts: false,
    },
    Scope {
        name: "sent again under its token",
        ops: || vec![named(append("a")), named(append("a"))],
        moves: 1,
        refuses: false,
        ends: false,
        parts: false,
    },
    Scope {
        name: "in parts",
        ops: || vec![large("a"), large("b")],
        moves: 1,
        refuses: false,
        ends: false,
        parts: true,
    },
    Scope {
        name: "in parts, there and back",
        ops: || vec![large("a"), Op::Del { keys: vec![key("k")] }, large("b")],
        moves: 2,
        refuses: true,
        ends: false,
        parts: true,
    },
    Scope {
        name: "session over",
        ops: || vec![append("a"), append("b")],
        moves: 2,
        refuses: false,
        ends: true,
        parts: false,
    },
];

fn slot() -> Slot {
    hash_slot(b"{t}")
}

fn at(group: GroupId) -> usize {
    group.0 as usize - 1
}

#[derive(Clone, Debug)]
struct State {
    stores: [Rows; 2],
    /// What one group would have that owned the slot for good.
    reference: Rows,
    /// All that was ever said to a group, each once.
    said: Vec<(usize, MoveStep)>,
    /// Moves in the order they were ordered in, and how they ended as far as the shardmaster knows.
    moves: Vec<(Move, Option<MoveOutcome>)>,
    given_up: bool,
    late: bool,
    /// Ops that the client has sent, and how many of them were answered.
    sent: usize,
    answered: usize,
    version: u64,
}

/// A state whose stores are open.
struct Open {
    stores: [ShardStore; 2],
    reference: ShardStore,
}

fn load(group: u32, rows: &Rows) -> ShardStore {
    let mut loader = StoreLoader::new(GroupId(group));
    for (key, value) in rows {
        loader.row(key, value.clone()).unwrap_or_else(|fault| panic!("{key:?}: {fault}"));
    }
    loader.finish().expect("rows of a store")
}

impl State {
    /// The first group has the slot, with a key that nobody writes to.
    fn first() -> State {
        let ranges = vec![(slot(), slot())];
        let assign = EntryItem::Assign { config: ConfigNum(1), ranges };
        let kept = Op::Append { key: key("z"), value: Bytes::from_static(b"z") };
        let begun = |group| {
            let mut store = ShardStore::new(GroupId(group));
            let items = vec![assign.clone(), EntryItem::Lane(request(7, 1, kept.clone()))];
            store.apply(EntryBatch::new(LogTime(1000), items));
            rows::dump(&store)
        };
        State {
            stores: [begun(1), rows::dump(&ShardStore::new(GroupId(2)))],
            reference: begun(9),
            said: Vec::new(),
            moves: Vec::new(),
            given_up: false,
            late: false,
            sent: 0,
            answered: 0,
            version: 0,
        }
    }

    /// What tells it from others; in which order things were said does not.
    fn hash(&self) -> u64 {
        let of = |value: &dyn Fn(&mut DefaultHasher)| {
            let mut hasher = DefaultHasher::new();
            value(&mut hasher);
            hasher.finish()
        };
        let said = self.said.iter().map(|(to, step)| {
            let bytes = bytes_of(step);
            of(&|hasher| (to, &bytes).hash(hasher))
        });
        let said = said.fold(0, u64::wrapping_add);
        let moves = bytes_of(&self.moves);
        of(&|hasher| {
            (&self.stores, &self.reference, said, &moves).hash(hasher);
            (self.given_up, self.late, self.sent, self.answered, self.version).hash(hasher);
        })
    }

    fn open(&self) -> Open {
        let [one, other] = &self.stores;
        Open { stores: [load(1, one), load(2, other)], reference: load(9, &self.reference) }
    }

    fn with(&self, change: impl FnOnce(&mut State)) -> State {
        let mut next = self.clone();
        change(&mut next);
        next
    }

    fn running(&self) -> Option<Move> {
        self.moves.last().filter(|(_, end)| end.is_none()).map(|(order, _)| *order)
    }

    fn end_of(&self, order: Move) -> Option<MoveOutcome> {
        self.moves.iter().find(|(known, _)| *known == order).and_then(|(_, end)| *end)
    }

    /// Who has the slot as far as the shardmaster knows, and since which epoch.
    fn owner(&self) -> (GroupId, SlotEpoch) {
        let activated = |(order, end): &&(Move, Option<MoveOutcome>)| {
            (*end == Some(MoveOutcome::Activated)).then_some((order.to, order.epoch))
        };
        let newest = self.moves.iter().rev().find_map(|ended| activated(&ended));
        newest.unwrap_or((GroupId(1), SlotEpoch(1)))
    }

    /// Log time of an entry of a group; clocks differ.
    fn stamp(&self, group: usize) -> LogTime {
        let late = if self.late { SESSION_LIFE_MS + 5000 } else { 0 };
        LogTime(2000 + 700 * group as u64 + late)
    }

    /// Everything that may happen next.
    fn steps(&self, scope: &Scope) -> Vec<State> {
        let open = self.open();
        let mut next = Vec::new();
        for to_say in self.wishes(&open, scope) {
            if !self.said.contains(&to_say) {
                next.push(self.with(|state| state.said.push(to_say)));
            }
        }
        for (group, step) in &self.said {
            next.push(self.apply(*group, EntryItem::Move(step.clone())).1);
        }
        next.extend(self.administered(&open, scope));
        let sent = (scope.ops)().len();
        for group in 0..2 {
            let new = (self.sent < sent && self.sent == self.answered).then_some(self.sent + 1);
            for seq in (1..=self.sent).chain(new) {
                next.push(self.write(group, seq, (scope.ops)()[seq - 1].clone()));
            }
        }
        if scope.ends && !self.late {
            next.push(self.with(|state| state.late = true));
        }
        next
    }

    /// What the shardmaster and its administrator may do.
    fn administered(&self, open: &Open, scope: &Scope) -> Vec<State> {
        let mut next = Vec::new();
        let Some(order) = self.running() else {
            if self.moves.len() < scope.moves {
                let (from, epoch) = self.owner();
                let to = GroupId(3 - from.0);
                let (id, epoch) = (MoveId(self.moves.len() as u64 + 1), SlotEpoch(epoch.0 + 1));
                let order = Move { id, slot: slot(), from: Some(from), to, epoch };
                next.push(self.with(|state| {
                    state.moves.push((order, None));
                    state.said.push((at(from), MoveStep::BeginExport(order)));
                    state.said.push((at(to), MoveStep::BeginImport(order)));
                }));
            }
            return next;
        };
        let ended = open.stores[at(order.to)].stand(slot()).ended;
        if let Some(ended) = ended.filter(|ended| ended.order == order) {
            next.push(self.with(|state| {
                state.moves.last_mut().expect("it runs").1 = Some(ended.outcome);
            }));
        }
        if scope.refuses && !self.given_up {
            let refuse = MoveStep::Refuse { order, reason: RefuseReason::Cancelled };
            next.push(self.with(|state| {
                state.given_up = true;
                state.said.push((at(order.to), refuse));
            }));
        }
        next
    }

    /// What whoever drives moves would say now.
    fn wishes(&self, open: &Open, scope: &Scope) -> Vec<(usize, MoveStep)> {
        let mut wishes = Vec::new();
        for (group, store) in open.stores.iter().enumerate() {
            let stand = store.stand(slot());
            if let Some(Ended { order, outcome }) = stand.ended {
                if at(order.to) == group {
                    wishes.push((1 - group, end_of(order, outcome)));
                }
                if self.end_of(order).is_some() {
                    wishes.push((group, MoveStep::Forget { slot: slot(), id: order.id }));
                }
            }
            match stand.phase {
                SlotPhase::Exporting { order, .. } => {
                    wishes.extend(self.end_of(order).map(|end| (group, end_of(order, end))));
                }
                SlotPhase::Importing { order, round, cursor, held } => {
                    wishes.extend(copy(open, group, (order, round, cursor), held, scope));
                }
                SlotPhase::Owned | SlotPhase::Absent => {}
            }
        }
        wishes
    }

    /// What becomes of it if a group has one more entry, and what that answers.
    fn apply(&self, group: usize, item: EntryItem) -> (Answer, State) {
        let mut open = self.open();
        let answers = open.stores[group].apply(EntryBatch::new(self.stamp(group), vec![item]));
        assert_ne!(answers, [Answer::Invalid], "rows that nobody can read");
        (answers.into_iter().next().expect("an answer"), self.checked(open))
    }

    /// The client's op, or a copy of it, at any group.
    fn write(&self, group: usize, seq: usize, op: Op) -> State {
        let asked = request(1, seq as u64, op);
        let mut open = self.open();
        let item = EntryItem::Lane(asked.clone());
        let answers =
            open.stores[group].apply(EntryBatch::new(self.stamp(group), vec![item.clone()]));
        let taken =
            !matches!(answers[0], Answer::Elsewhere | Answer::Moved { .. } | Answer::Frozen);
        if taken {
            let now = slot_time(&open.stores[group]);
            let right = open.reference.apply(EntryBatch::new(now, vec![item]));
            assert_eq!(answers, right, "group {} answers {asked:?}", group + 1);
        }
        let mut next = self.checked(open);
        next.sent = next.sent.max(seq);
        if matches!(answers[0], Answer::Done { .. }) {
            next.answered = next.answered.max(seq);
        }
        next
    }

    /// The state of these stores, in which what always holds does.
    fn checked(&self, mut open: Open) -> State {
        let serves = |store: &ShardStore| store.hindrance(slot()).is_none();
        let serving: Vec<usize> = (0..2).filter(|at| serves(&open.stores[*at])).collect();
        assert!(serving.len() <= 1, "both groups serve the slot");
        let mut next = self.clone();
        if let Some(group) = serving.first().copied() {
            let store = &open.stores[group];
            let now = slot_time(store);
            assert!(now >= open.reference.log_time(), "log time went back");
            open.reference.apply(EntryBatch::new(now, Vec::new()));
            let keys = vec![key("k"), key("z")];
            let read = ReadRequest { slot: slot(), after: None, op: Op::MGet { keys } };
            let [found, right] = [store, &open.reference].map(|store| store.read(&read, now, true));
            assert_eq!(found, right, "group {} serves", group + 1);
            let version = store.slots[&slot()].data.version();
            assert!(version >= self.version, "the counter of changes went back");
            next.version = version;
        }
        // What comes in parts is there as it was at some time.
        let of_key = |store: &ShardStore| {
            Some(store.slots.get(&slot())?.data.item(&key("k"))?.value().clone())
        };
        for value in open.stores.iter().filter_map(of_key).filter(|v| v.len() >= LARGE_BYTES) {
            assert!(value.len() == LARGE_BYTES && value.iter().all(|byte| *byte == value[0]));
        }
        next.reference = rows::dump(&open.reference);
        next.stores = open.stores.each_ref().map(rows::dump);
        next
    }

    /// Nobody interferes any more: the moves end, and one group has the slot and nothing else.
    fn heals(&self, scope: &Scope) {
        let mut state = self.clone();
        for _ in 0..100 {
            let open = state.open();
            let quiet = Scope { moves: 0, refuses: false, ..*scope };
            if let Some(told) = state.administered(&open, &quiet).pop() {
                state = told;
            }
            let mut wishes = state.wishes(&open, scope);
            if let Some(order) = state.running() {
                let from = order.from.map_or(0, at);
                wishes.insert(0, (at(order.to), MoveStep::BeginImport(order)));
                wishes.insert(0, (from, MoveStep::BeginExport(order)));
            } else if wishes.is_empty() {
                break;
            }
            // It is frozen as soon as it may be.
            for (group, step) in wishes {
                if !matches!(step, MoveStep::Rotate { .. }) {
                    state = state.apply(group, EntryItem::Move(step)).1;
                }
            }
        }
        let open = state.open();
        let owner = at(state.owner().0);
        for (group, store) in open.stores.iter().enumerate() {
            let right = if group == owner { SlotPhase::Owned } else { SlotPhase::Absent };
            assert_eq!(store.stand(slot()).phase, right, "group {} in the end", group + 1);
            assert_eq!(store.moving().count(), 0, "group {} in the end", group + 1);
        }
    }
}

/// What the destination asks for next, and what it tells the source.
fn copy(
    open: &Open,
    group: usize,
    (order, round, cursor): (Move, u32, Option<Bytes>),
    held: Option<Held>,
    scope: &Scope,
) -> Vec<(usize, MoveStep)> {
    let (source, slot, id) = (1 - group, order.slot, order.id);
    let one = RowBudget { rows: 1, bytes: PART_BYTES };
    let fetch = |round, from: &Bytes| {
        let wanted = Wanted { round, from, parts: scope.parts, held: held.as_ref() };
        let piece = open.stores[source].chunk(slot, id, wanted, one);
        piece.map(|(piece, _)| (group, MoveStep::import(slot, id, piece)))
    };
    match cursor {
        Some(from) => fetch(round, &from).into_iter().collect(),
        None => match fetch(round + 1, &Bytes::new()) {
            Some(chunk) => vec![chunk],
            None => vec![
                (source, MoveStep::Rotate { slot, id, round: round + 1 }),
                (source, MoveStep::Freeze { slot, id, round: round + 1 }),
            ],
        },
    }
}

fn request(session: u128, seq: u64, op: Op) -> LaneRequest {
    let (session, deadline) = (SessionId(session), LogTime(SESSION_LIFE_MS));
    LaneRequest { session, deadline, slot: slot(), seq: Seq(seq), acked: Seq(seq - 1), op }
}

fn slot_time(store: &ShardStore) -> LogTime {
    store.log_time().max(store.slots[&slot()].floor)
}

/// What a search came to.
#[derive(Debug, Default)]
struct Found {
    states: usize,
    /// There are no more.
    all: bool,
    /// States in which so many moves have ended as they should.
    moved: Vec<usize>,
}

/// Searches so many states: those nearest to the first, and those furthest, in turns.
fn search(scope: &Scope, states_max: usize) -> Found {
    let first = State::first();
    let mut seen = BTreeSet::from([first.hash()]);
    let mut waiting = VecDeque::from([first]);
    let mut found = Found { moved: vec![0; scope.moves + 1], ..Found::default() };
    for turn in 0..states_max {
        let state = if turn % 4 == 0 { waiting.pop_front() } else { waiting.pop_back() };
        let Some(state) = state else {
            found.all = true;
            break;
        };
        found.states += 1;
        let activated = |end: &Option<MoveOutcome>| *end == Some(MoveOutcome::Activated);
        found.moved[state.moves.iter().filter(|(_, end)| activated(end)).count()] += 1;
        // Each heals; of many some are looked at.
        if state.hash() % 16 == 0 {
            state.heals(scope);
        }
        waiting.extend(state.steps(scope).into_iter().filter(|next| seen.insert(next.hash())));
    }
    found
}

fn states() -> usize {
    option_env!("FLOTILLA_STATES").map_or(STATES, |count| count.parse().expect("a number"))
}

#[test]
fn g05_g06_d03_every_order_of_few_steps_leaves_one_owner_and_every_op_once() {
    for scope in SCOPES {
        let found = search(&scope, states());
        assert!(found.moved[1] > 100, "{}: {found:?}", scope.name);
    }
}

/// Each is noticed by the scope that it would harm.
#[test]
fn broken_rules_of_moves_are_noticed_in_a_small_world() {
    const NOTICED_WITHIN: usize = 10_000;
    let of = |name| SCOPES.iter().find(|scope| scope.name == name).expect("a scope");
    for (scope, rules) in [
        (
            "there and back",
            &[
                Mutant::ForgetSettled,
                Mutant::LanesNotTracked,
                Mutant::KeysNotTracked,
                Mutant::ServeFrozen,
                Mutant::CheckedAtArrival,
                Mutant::DropVersion,
                Mutant::ServeStaging,
                Mutant::ActivateUnfrozen,
                Mutant::AnyCursor,
                Mutant::AnyRound,
                Mutant::DropFloor,
                Mutant::EndNotKept,
                Mutant::ExportNotSaved,
            ][..],
        ),
        ("given up", &[Mutant::AnyMove]),
        ("deleted", &[Mutant::NoTombstones]),
        ("flushed", &[Mutant::IgnoreClear]),
        ("sent again under its token", &[Mutant::TokensNotCopied]),
        ("session over", &[Mutant::ExpiredFirst]),
        ("in parts", &[Mutant::MixedParts, Mutant::PartIsWhole, Mutant::OldPartsStay]),
        ("in parts, there and back", &[Mutant::AnyPart]),
    ] {
        for rule in rules {
            mutant::set(Some(*rule));
            let ended = std::panic::catch_unwind(|| search(of(scope), NOTICED_WITHIN));
            mutant::set(None);
            assert!(ended.is_err(), "{scope}: nobody notices {rule:?}");
        }
    }
}

//! A slot that moves between three groups, whatever the network and the administrators do.
//!
//! The world has one slot, groups as bare stores, and messages that stay for ever: each may arrive at
//! any time, any number of times. What drives a move here only looks at the stores, as the real
//! drivers do; a random one of its wishes is sent at a time. What the clients see is compared with a
//! store that owns the slot for good.

use super::*;
use crate::migration::MoveStep;
use crate::moves::{Move, MoveOutcome, RefuseReason};
use crate::op::{Expire, ExpireAt, ExpiryCommand, Token};
use crate::session::SESSION_LIFE_MS;
use crate::slot::hash_slot;
use std::collections::BTreeMap;

const KEYS: [&str; 3] = ["{t}a", "{t}b", "{t}c"];

fn slot() -> Slot {
    hash_slot(b"{t}")
}

/// A session of a client: what it ever sent, and how much of it was answered.
#[derive(Clone, Debug)]
struct Session {
    id: SessionId,
    deadline: LogTime,
    /// By seq - 1.
    ops: Vec<Op>,
    /// Every op up to here was.
    answered: u64,
    /// The owner said so. What is not answered may have been executed before, and will not be any more.
    over: bool,
}

/// A client that has one lane at a time.
#[derive(Clone, Debug, Default)]
struct Client {
    sessions: Vec<Session>,
}

/// Ops of a lane that may be unanswered at a time.
const PIPELINE: u64 = 3;

struct World {
    random: u64,
    stores: Vec<ShardStore>,
    /// What of each is on its disk, and what will be once the checkpoint under way is.
    disks: [(rows::Rows, Option<rows::Rows>); 3],
    /// It takes what the owner takes, at the owner's time, and never gives the slot away.
    reference: ShardStore,
    stamp: u64,
    /// The slot's counter of changes, as seen last.
    version: u64,
    /// Everything ever sent: to which group, and what.
    messages: Vec<(usize, MoveStep)>,
    orders: Vec<Move>,
    /// How each ended, as the shardmaster knows it.
    ends: BTreeMap<MoveId, MoveOutcome>,
    owner: usize,
    epoch: u64,
    clients: Vec<Client>,
    tokens: u64,
    /// How rows are asked for; in parts, unless the source is of an older program at the moment.
    budget: RowBudget,
    parts: bool,
    older: bool,
    /// All values that keys ever had.
    values: BTreeSet<(Bytes, Bytes)>,
    seen: BTreeMap<&'static str, u64>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut stores: Vec<ShardStore> =
            (1..=3).map(|group| ShardStore::new(GroupId(group))).collect();
        let assign =
            EntryItem::Assign { config: ConfigNum(1), ranges: vec![(Slot(0), Slot(SLOTS - 1))] };
        let mut reference = ShardStore::new(GroupId(9));
        for store in [&mut stores[0], &mut reference] {
            store.apply(EntryBatch::new(LogTime(1000), vec![assign.clone()]));
        }
        World {
            random: seed,
            stores,
            disks: Default::default(),
            reference,
            stamp: 1000,
            version: 0,
            messages: Vec::new(),
            orders: Vec::new(),
            ends: BTreeMap::new(),
            owner: 0,
            epoch: 1,
            clients: vec![Client::default(); 2],
            tokens: 0,
            budget: RowBudget { rows: 2, bytes: [1000, 16, 1000, 64][seed as usize % 4] },
            parts: !seed.is_multiple_of(2),
            older: false,
            values: BTreeSet::new(),
            seen: BTreeMap::new(),
        }
    }

    fn below(&mut self, end: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }

    fn apply(&mut self, group: usize, item: EntryItem) -> Answer {
        // Groups' clocks differ.
        let stamp = LogTime(self.stamp + 700 * group as u64);
        let answers = self.stores[group].apply(EntryBatch::new(stamp, vec![item]));
        answers.into_iter().next().expect("an answer per item")
    }

    fn running(&self) -> Option<Move> {
        self.orders.last().copied().filter(|order| !self.ends.contains_key(&order.id))
    }

    /// The shardmaster orders a move, if none is under way.
    fn order(&mut self) {
        if self.running().is_some() {
            return;
        }
        let to = (self.owner + 1 + self.below(2)) % 3;
        let order = Move {
            id: MoveId(self.orders.len() as u64 + 1),
            slot: slot(),
            from: Some(GroupId(self.owner as u32 + 1)),
            to: GroupId(to as u32 + 1),
            epoch: SlotEpoch(self.epoch + 1),
        };
        self.orders.push(order);
        self.messages.push((self.owner, MoveStep::BeginExport(order)));
        self.messages.push((to, MoveStep::BeginImport(order)));
    }

    /// What whoever drives moves would send now.
    fn wishes(&mut self) -> Vec<(usize, MoveStep)> {
        let mut wishes = Vec::new();
        for (at, store) in self.stores.iter().enumerate() {
            let stand = store.stand(slot());
            if let Some(Ended { order, outcome }) = stand.ended
                && order.to == store.group()
            {
                // The destination decided: the source and the shardmaster hear of it.
                let source = order.from.map_or(0, |from| from.0 as usize - 1);
                wishes.push((source, end_of(order, outcome)));
            }
            if let Some(Ended { order, .. }) = stand.ended
                && self.ends.contains_key(&order.id)
            {
                wishes.push((at, MoveStep::Forget { slot: order.slot, id: order.id }));
            }
            // A source that did not hear it from the destination hears it from the shardmaster.
            if let SlotPhase::Exporting { order, .. } = stand.phase
                && let Some(outcome) = self.ends.get(&order.id)
            {
                wishes.push((at, end_of(order, *outcome)));
            }
            if let SlotPhase::Exporting { order, frozen: true, .. } = stand.phase
                && is_broken(Mutant::UnconfirmedGiveUp)
            {
                wishes.push((at, end_of(order, MoveOutcome::Activated)));
            }
            let SlotPhase::Importing { order, round, cursor, held } = stand.phase else {
                continue;
            };
            let source = order.from.map_or(0, |from| from.0 as usize - 1);
            let (slot, id) = (order.slot, order.id);
            let (parts, held) = (self.parts && !self.older, held.as_ref());
            let fetch = |round, from: &Bytes| {
                let wanted = Wanted { round, from, parts, held };
                self.stores[source].chunk(slot, id, wanted, self.budget).map(|(piece, _)| piece)
            };
            let import = |piece| (at, MoveStep::import(slot, id, piece));
            match cursor {
                Some(from) => {
                    if is_broken(Mutant::EarlyRound) {
                        wishes.push((source, MoveStep::Freeze { slot, id, round: round + 1 }));
                    }
                    let begun =
                        fetch(round + 1, &Bytes::new()).filter(|_| is_broken(Mutant::EarlyRound));
                    wishes.extend(fetch(round, &from).or(begun).map(import));
                }
                None => match fetch(round + 1, &Bytes::new()) {
                    Some(piece) => wishes.push(import(piece)),
                    None => {
                        wishes.push((source, MoveStep::Rotate { slot, id, round: round + 1 }));
                        wishes.push((source, MoveStep::Freeze { slot, id, round: round + 1 }));
                    }
                },
            }
        }
        wishes
    }

    fn wish(&mut self) {
        self.older = self.below(10) == 0;
        let wishes = self.wishes();
        if !wishes.is_empty() {
            let wish = wishes[self.below(wishes.len())].clone();
            self.messages.push(wish);
            // There are many more of them.
            if self.parts && self.below(2) == 0 {
                self.deliver(self.messages.len() - 1);
            }
        }
    }

    fn deliver(&mut self, at: usize) {
        let (group, step) = self.messages[at].clone();
        let part = matches!(step, MoveStep::ImportPart { .. });
        let before = self.stores[group].digest();
        let answer = self.apply(group, EntryItem::Move(step));
        assert_ne!(answer, Answer::Invalid, "rows that nobody can read");
        if part && self.stores[group].digest() != before {
            *self.seen.entry("part").or_default() += 1;
        }
        self.check();
    }

    /// The shardmaster hears how the running move ended.
    fn report(&mut self) {
        let Some(order) = self.running() else { return };
        let to = order.to.0 as usize - 1;
        if let Some(Ended { order: ended, outcome }) = self.stores[to].stand(slot()).ended
            && ended == order
        {
            self.ends.insert(order.id, outcome);
            if outcome == MoveOutcome::Activated {
                (self.owner, self.epoch) = (to, order.epoch.0);
                *self.seen.entry("activated").or_default() += 1;
            } else {
                *self.seen.entry("refused").or_default() += 1;
            }
        }
    }

    /// An administrator gives the running move up, or the source complains.
    fn refuse(&mut self) {
        let Some(order) = self.running() else { return };
        let reason = RefuseReason::Cancelled;
        self.messages.push((order.to.0 as usize - 1, MoveStep::Refuse { order, reason }));
    }

    fn new_op(&mut self) -> Op {
        let op = self.nameless_op();
        if self.below(4) > 0 {
            return op;
        }
        // Of few names; now and then of another command.
        let name = SessionId::of_token(self.below(6) as u128);
        let (hash, window_ms) = (1 + self.below(8) as u64 / 6, 2000 + self.below(60_000) as u32);
        Op::Token(Box::new(Token { name, hash, window_ms, op }))
    }

    fn nameless_op(&mut self) -> Op {
        let key = Bytes::from_static(KEYS[self.below(KEYS.len())].as_bytes());
        match self.below(16) {
            0 | 1 => Op::Del { keys: vec![key] },
            2 if self.below(3) == 0 => Op::FlushSlot,
            3 => {
                let at = ExpireAt::AfterMs(1000);
                let (nx, xx, gt, lt) = (false, false, false, false);
                let command = ExpiryCommand::PExpire;
                Op::Expire(Expire { key, at, nx, xx, gt, lt, command })
            }
            _ => {
                self.tokens += 1;
                // Some values are large, where there are parts.
                let times = if self.parts { 6 } else { 1 };
                Op::Append { key, value: format!("<{}>", self.tokens).repeat(times).into() }
            }
        }
    }

    /// A new op of a client, or any of its old ones again, at any group.
    fn request(&mut self) {
        let (who, group) = (self.below(self.clients.len()), self.below(3));
        if self.clients[who].sessions.last().is_none_or(|session| session.over) {
            let id = SessionId((who + 2 * self.clients[who].sessions.len()) as u128);
            let deadline = LogTime(self.reference.log_time().0 + SESSION_LIFE_MS);
            let (ops, answered, over) = (Vec::new(), 0, false);
            self.clients[who].sessions.push(Session { id, deadline, ops, answered, over });
        }
        let newest = self.clients[who].sessions.len() - 1;
        let session = &self.clients[who].sessions[newest];
        if (session.ops.len() as u64) < session.answered + PIPELINE && self.below(2) == 0 {
            let op = self.new_op();
            self.clients[who].sessions[newest].ops.push(op);
        }
        let at = if self.below(4) == 0 { self.below(newest + 1) } else { newest };
        let session = self.clients[who].sessions[at].clone();
        if session.ops.is_empty() {
            return;
        }
        let sent = session.ops.len() as u64;
        let seq = match self.below(3) {
            0 => 1 + self.below(sent as usize) as u64,
            1 => sent,
            _ => (session.answered + 1).min(sent),
        };
        let request = LaneRequest {
            session: session.id,
            deadline: session.deadline,
            slot: slot(),
            seq: Seq(seq),
            acked: Seq(session.answered.min(seq - 1)),
            op: session.ops[seq as usize - 1].clone(),
        };
        let answer = self.apply(group, EntryItem::Lane(request.clone()));
        let taken = !matches!(answer, Answer::Elsewhere | Answer::Moved { .. } | Answer::Frozen);
        if taken {
            let stamp = self.slot_time(group);
            let item = EntryItem::Lane(request);
            let right = self.reference.apply(EntryBatch::new(stamp, vec![item]));
            assert_eq!(std::slice::from_ref(&answer), right, "from group {}", group + 1);
        }
        self.check();
        let session = &mut self.clients[who].sessions[at];
        let kind = match answer {
            Answer::Done { outcome, .. } => {
                if seq == session.answered + 1 {
                    session.answered = seq;
                }
                match outcome {
                    Outcome::Error(OpError::TokenReused) => "reused",
                    _ => "done",
                }
            }
            Answer::Elsewhere => "elsewhere",
            Answer::Moved { .. } => "moved",
            Answer::Frozen => "frozen",
            Answer::Old => "old",
            Answer::Expired { .. } => {
                session.over = true;
                "expired"
            }
            Answer::Gap { .. } => "gap",
            other => panic!("{other:?}"),
        };
        *self.seen.entry(kind).or_default() += 1;
    }

    /// Log time of the slot in a group that serves it.
    fn slot_time(&self, at: usize) -> LogTime {
        let state = &self.stores[at].slots[&slot()];
        self.stores[at].log_time().max(state.floor)
    }

    /// What has come of a slot has been there at some time, each value whole.
    fn check_staged(&mut self, now: LogTime) {
        for key in KEYS.map(|key| Bytes::from_static(key.as_bytes())) {
            let read = ReadRequest { slot: slot(), after: None, op: Op::Get { key: key.clone() } };
            if let ReadStep::Answered(Answer::Done { outcome: Outcome::Value(value), .. }) =
                self.reference.read(&read, now, true)
            {
                self.values.insert((key, value));
            }
        }
        for store in &self.stores {
            let Some(state) = store.slots.get(&slot()) else { continue };
            for (key, item) in state.data.items() {
                let value = item.value().clone();
                let known = self.values.contains(&(key.clone(), value));
                assert!(known, "group {} has {key:?} as it never was", store.group());
            }
        }
    }

    /// What always holds.
    fn check(&mut self) {
        let serving: Vec<usize> =
            (0..3).filter(|at| self.stores[*at].hindrance(slot()).is_none()).collect();
        assert!(serving.len() <= 1, "groups {serving:?} serve the slot");
        let Some(at) = serving.first().copied() else { return };
        let now = self.slot_time(at);
        assert!(now >= self.reference.log_time(), "log time went back");
        self.reference.apply(EntryBatch::new(now, Vec::new()));
        let keys = KEYS.iter().map(|key| Bytes::from_static(key.as_bytes())).collect();
        let ttl = |key: &str| Op::Ttl {
            key: Bytes::copy_from_slice(key.as_bytes()),
            unit: crate::op::TimeUnit::Milliseconds,
        };
        self.check_staged(now);
        for op in [Op::MGet { keys }].into_iter().chain(KEYS.map(ttl)) {
            let read = ReadRequest { slot: slot(), after: None, op };
            let [found, right] =
                [&self.stores[at], &self.reference].map(|store| store.read(&read, now, true));
            assert_eq!(found, right, "from group {}", at + 1);
        }
        let version = self.stores[at].slots[&slot()].data.version();
        assert!(version >= self.version, "the counter of changes went back");
        self.version = version;
    }

    /// Writes a checkpoint of a store, and goes on with what is loaded from it.
    fn reload(&mut self, at: usize) {
        let disk = rows::dump(&self.stores[at]);
        let mut loader = StoreLoader::new(self.stores[at].group());
        for (key, value) in &disk {
            loader.row(key, value.clone()).unwrap_or_else(|fault| panic!("{key:?}: {fault}"));
        }
        let loaded = loader.finish().expect("rows of a store");
        assert_eq!(loaded.digest(), self.stores[at].digest());
        assert_eq!(loaded.stats(), self.stores[at].stats());
        self.stores[at] = loaded;
        self.disks[at] = (disk, None);
        *self.seen.entry("reloaded").or_default() += 1;
    }

    /// Begins a checkpoint of a store, or goes on with it. On the disk is what was at its beginning.
    fn checkpoint(&mut self, at: usize) {
        let (disk, due) = &mut self.disks[at];
        if due.is_none() {
            *due = Some(rows::dump(&self.stores[at]));
            return self.stores[at].freeze();
        }
        let Collected { rows, done } = self.stores[at].collect(RowBudget { rows: 2, bytes: 200 });
        rows::carry_out(disk, rows);
        if done {
            assert_eq!(Some(&*disk), due.as_ref(), "the checkpoint of group {}", at + 1);
            *due = None;
            *self.seen.entry("checkpoint").or_default() += 1;
        }
    }

    fn step(&mut self) {
        match self.below(24) {
            0 => self.order(),
            1..=5 => self.wish(),
            6..=8 if !self.messages.is_empty() => {
                // Mostly the newest.
                let from = self.messages.len().saturating_sub(4);
                let at = from + self.below(self.messages.len() - from);
                self.deliver(at);
            }
            9 if !self.messages.is_empty() => {
                let at = self.below(self.messages.len());
                self.deliver(at);
            }
            10 => self.report(),
            15 => {
                // Rows that were on their way for long.
                let late: Vec<usize> = (0..self.messages.len())
                    .filter(|at| {
                        let (group, step) = &self.messages[*at];
                        let phase = self.stores[*group].stand(slot()).phase;
                        let rows =
                            matches!(step, MoveStep::Import { .. } | MoveStep::ImportPart { .. });
                        rows && matches!(phase, SlotPhase::Importing { .. })
                    })
                    .collect();
                if !late.is_empty() {
                    let at = late[self.below(late.len())];
                    self.deliver(at);
                }
            }
            11 if self.below(6) == 0 => self.refuse(),
            12 => {
                // Whose slot is frozen for long finds it with tokens that last longer, which the reference does not know.
                let frozen = |store: &ShardStore| store.hindrance(slot()) == Some(Answer::Frozen);
                let far = self.below(8) == 0 && !self.stores.iter().any(frozen);
                let jump = if far { SESSION_LIFE_MS as usize } else { 200 };
                self.stamp += self.below(jump) as u64;
            }
            14 if is_broken(Mutant::UnfreezeAlways) => {
                for at in 0..3 {
                    if let SlotPhase::Exporting { order, frozen: true, .. } =
                        self.stores[at].stand(slot()).phase
                    {
                        let outcome = MoveOutcome::Refused(RefuseReason::NoProgress);
                        self.apply(at, EntryItem::Move(end_of(order, outcome)));
                    }
                }
            }
            20..=23 => {
                let at = self.below(3);
                self.checkpoint(at);
            }
            13 if self.below(4) == 0 => {
                let at = self.below(3);
                self.reload(at);
            }
            _ => self.request(),
        }
    }

    /// Messages arrive, nobody interferes: the move ends, and nothing of it is left.
    fn heal(&mut self) {
        for _ in 0..400 {
            self.report();
            let wishes = self.wishes();
            if self.running().is_none() && wishes.is_empty() {
                break;
            }
            if let Some(order) = self.running() {
                self.apply(
                    order.from.map_or(0, |f| f.0 as usize - 1),
                    EntryItem::Move(MoveStep::BeginExport(order)),
                );
                self.apply(order.to.0 as usize - 1, EntryItem::Move(MoveStep::BeginImport(order)));
            }
            for (group, step) in wishes {
                // It freezes whenever it may.
                if !matches!(step, MoveStep::Rotate { .. }) {
                    self.apply(group, EntryItem::Move(step));
                }
            }
        }
        let stands: Vec<SlotStand> = self.stores.iter().map(|store| store.stand(slot())).collect();
        assert_eq!(self.running(), None, "the move ends: {stands:#?}");
        for (at, store) in self.stores.iter().enumerate() {
            let phase = store.stand(slot()).phase;
            let right = if at == self.owner { SlotPhase::Owned } else { SlotPhase::Absent };
            assert_eq!(phase, right, "group {}", at + 1);
            assert_eq!(store.moving().count(), 0);
        }
        // What the destination holds is what its own counters say.
        for store in &self.stores {
            let (keys, bytes) = store.slots.iter().fold((0, 0), |sum, (_, state)| {
                (sum.0 + state.data.tally().keys, sum.1 + state.data.tally().bytes)
            });
            assert_eq!((store.stats().keys, store.stats().data_bytes), (keys, bytes));
            let lanes: usize = store.slots.iter().map(|(_, state)| state.lanes.len()).sum();
            assert_eq!(store.stats().lanes, lanes as u64);
        }
    }
}

/// What the source does once it hears how a move ended.
pub(super) fn end_of(order: Move, outcome: MoveOutcome) -> MoveStep {
    let (slot, id) = (order.slot, order.id);
    match outcome {
        MoveOutcome::Activated => MoveStep::CompleteExport { slot, id },
        MoveOutcome::Refused(reason) => MoveStep::AbortExport { order, reason },
    }
}

fn run(seed: u64) -> BTreeMap<&'static str, u64> {
    let mut world = World::new(seed);
    for _ in 0..if world.parts { 720 } else { 360 } {
        world.step();
    }
    world.heal();
    world.seen
}

/// Invariants 9 to 13: one owner, nothing lost, nothing twice, in order, whatever arrives when.
#[test]
fn g02_g05_g06_g12_g15_g16_g21_a_slot_moves_under_any_schedule() {
    let mut seen: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in 0..200 {
        run(seed).into_iter().for_each(|(kind, count)| *seen.entry(kind).or_default() += count);
    }
    for kind in [
        "activated",
        "refused",
        "done",
        "frozen",
        "moved",
        "elsewhere",
        "gap",
        "old",
        "reused",
        "expired",
        "reloaded",
        "checkpoint",
        "part",
    ] {
        assert!(seen.get(kind).is_some_and(|count| *count >= 50), "{kind}: {seen:?}");
    }
}

/// Every rule that is broken is noticed.
#[test]
fn broken_rules_of_moves_are_noticed() {
    const ALL: [Mutant; 28] = [
        Mutant::ForgetSettled,
        Mutant::LanesNotTracked,
        Mutant::KeysNotTracked,
        Mutant::ServeFrozen,
        Mutant::CheckedAtArrival,
        Mutant::ExpiredFirst,
        Mutant::EarlyRound,
        Mutant::DropVersion,
        Mutant::SweepFrozen,
        Mutant::ServeStaging,
        Mutant::ActivateUnfrozen,
        Mutant::UnconfirmedGiveUp,
        Mutant::AnyCursor,
        Mutant::AnyRound,
        Mutant::AnyMove,
        Mutant::IgnoreClear,
        Mutant::NoTombstones,
        Mutant::DropFloor,
        Mutant::UnfreezeAlways,
        Mutant::ExportNotSaved,
        Mutant::EndNotKept,
        Mutant::TokensNotCopied,
        Mutant::TokensNotSaved,
        Mutant::AnyPart,
        Mutant::MixedParts,
        Mutant::PartIsWhole,
        Mutant::OldPartsStay,
        Mutant::PartsNotSaved,
    ];
    let missed: Vec<Mutant> = ALL
        .into_iter()
        .filter(|mutant| {
            mutant::set(Some(*mutant));
            let noticed = (0..400).any(|seed| std::panic::catch_unwind(|| run(seed)).is_err());
            mutant::set(None);
            !noticed
        })
        .collect();
    assert!(missed.is_empty(), "nobody notices {missed:?}");
}

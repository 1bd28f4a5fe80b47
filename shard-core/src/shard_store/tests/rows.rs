//! What rows say of a state: all of it, that of the freeze, and the same of equal states.

use super::*;
use crate::checkpoint::{RowBody, RowChange};
use crate::codec::bytes_of;
use crate::migration::{Chunk, ChunkRow, MoveStep, PartOf, RowName};
use crate::moves::{Move, MoveId, SlotEpoch};
use crate::op::{Expire, ExpireAt, ExpiryCommand, Set, SetCondition, SetExpiry};
use crate::rows::{MasterRow, RowError, RowFault};
use crate::session::LANE_REPLY_BYTES_MAX;
use crate::shard_store::changes::PART_ROW_BYTES;
use std::collections::VecDeque;

pub(super) type Rows = BTreeMap<Bytes, Bytes>;

const G1: GroupId = GroupId(1);
/// Tight, so that lanes and replies meet their bounds.
const LIMITS: LaneLimits = LaneLimits {
    lanes_max: 40,
    tokens_max: 20,
    lane_reply_bytes_max: LANE_REPLY_BYTES_MAX,
    group_reply_bytes_max: 4000,
    group_small_reply_bytes_max: 1500,
};

/// All rows of a state, without what the store notes of changes.
pub(super) fn dump(store: &ShardStore) -> Rows {
    let mut rows = vec![Row::Group.put(store.row())];
    for slot in store.settled.keys().filter(|slot| !store.slots.contains_key(slot)) {
        rows.push(Row::Slot(*slot).put(store.memo(*slot).row.value()));
    }
    for (slot, state) in store.slots.iter() {
        let memo = store.memo(slot);
        rows.push(Row::Slot(slot).put(memo.row.value()));
        for (set, names) in [NameSet::List, NameSet::Dirty].into_iter().zip(&memo.names) {
            for name in names.iter().flat_map(|names| names.iter()) {
                let value = (crate::rows::versioned(), RowBody::default());
                rows.push(Row::Export(slot, set, name).put(value));
            }
        }
        if let Some(parts) = &state.parts {
            let value = crate::rows::parts_value(parts.name(), parts.total());
            rows.push(Row::Part(slot, 0).put(value));
            for (number, piece) in (1..).zip(parts.value().chunks(PART_ROW_BYTES)) {
                let value = (crate::rows::versioned(), Bytes::copy_from_slice(piece).into());
                rows.push(Row::Part(slot, number).put(value));
            }
        }
        rows.extend(state.lanes.iter().map(|(id, lane)| Row::Lane(slot, id).put(lane.row())));
        rows.extend(state.data.items().map(|(key, item)| Row::Key(slot, key).put(item.row())));
    }
    let mut all = Rows::new();
    carry_out(&mut all, rows);
    all
}

/// What a disk makes of changes.
pub(super) fn carry_out(rows: &mut Rows, changes: Vec<RowChange>) {
    for change in changes {
        match change {
            RowChange::Put { key, head, body } => {
                let value = body.behind(&head);
                rows.insert(key, value.into());
            }
            RowChange::Delete { key } => drop(rows.remove(&key)),
            RowChange::DeletePrefix { prefix } => rows.retain(|key, _| !key.starts_with(&prefix)),
        }
    }
}

fn load(rows: &Rows) -> Result<ShardStore, RowError> {
    let mut loader = StoreLoader::with_limits(G1, LIMITS);
    for (key, value) in rows {
        let row = loader.row(key, value.clone());
        row.map_err(|fault| RowError { row: key.to_vec(), fault })?;
    }
    loader.finish()
}

/// Entries as several routers make them: retries, gaps, sessions that end, keys that expire.
struct History {
    /// SplitMix64.
    random: u64,
    stamp: u64,
    /// Per session and slot: deadline and last seq.
    lanes: BTreeMap<(u128, Slot), (u64, u64)>,
    sessions: u128,
}

const TAGS: [&str; 3] = ["a", "b", "c"];

impl History {
    fn new(seed: u64) -> History {
        History { random: seed, stamp: 1000, lanes: BTreeMap::new(), sessions: 4 }
    }

    fn below(&mut self, end: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    fn key(&mut self, tag: &str) -> Bytes {
        format!("{{{tag}}}{}", self.below(12)).into()
    }

    fn value(&mut self) -> Bytes {
        let len = if self.below(8) == 0 { 400 } else { self.below(12) };
        let digit = b'0' + self.below(10) as u8;
        vec![digit; len as usize].into()
    }

    /// Of writes some have a token: again and again the same few names, now and then with another command.
    fn op(&mut self, tag: &str) -> Op {
        let op = self.plain_op(tag);
        if !op.is_write() || self.below(4) > 0 {
            return op;
        }
        let name = SessionId::of_token(u128::from(self.below(10)));
        let (hash, window_ms) = (1 + self.below(20) / 19, 1000 + self.below(400) as u32);
        Op::Token(Box::new(Token { name, hash, window_ms, op }))
    }

    fn plain_op(&mut self, tag: &str) -> Op {
        let key = self.key(tag);
        match self.below(16) {
            0..=3 => {
                let expiry = match self.below(4) {
                    0 => SetExpiry::AfterMs(1 + self.below(300) as i64),
                    1 => SetExpiry::Keep,
                    2 => SetExpiry::AtMs(1 + self.below(2 * self.stamp) as i64),
                    _ => SetExpiry::Clear,
                };
                let condition = match self.below(4) {
                    0 => Some(SetCondition::IfAbsent),
                    1 => Some(SetCondition::IfPresent),
                    _ => None,
                };
                let get = self.below(2) == 0;
                let (value, command) = (self.value(), ExpiryCommand::Set);
                Op::Set(Set { key, value, expiry, condition, get, command })
            }
            4..=6 => Op::Append { key, value: self.value() },
            7 => Op::IncrBy { key, by: self.below(100) as i64 },
            8 => Op::Del { keys: vec![key, self.key(tag)] },
            9 => Op::GetDel { key },
            10 => Op::Get { key },
            11 => Op::MGet { keys: vec![key, self.key(tag)] },
            12 => Op::Expire(Expire {
                key,
                at: ExpireAt::AfterMs(self.below(400) as i64 - 20),
                nx: false,
                xx: false,
                gt: self.below(4) == 0,
                lt: false,
                command: ExpiryCommand::Expire,
            }),
            13 => Op::Persist { key },
            14 if self.below(6) == 0 => Op::FlushSlot,
            _ => Op::ListKeys { count: 5 },
        }
    }

    fn entry(&mut self) -> EntryBatch {
        self.stamp += self.below(60);
        if self.below(80) == 0 {
            // Every session ends.
            self.stamp += SESSION_LIFE_MS + 1;
            self.sessions += 4;
        }
        let items = (0..self.below(6)).map(|_| EntryItem::Lane(self.request())).collect();
        EntryBatch::new(LogTime(self.stamp), items)
    }

    fn request(&mut self) -> LaneRequest {
        if self.below(20) == 0 {
            self.sessions += 1;
        }
        let tag = TAGS[self.below(3) as usize];
        let slot = hash_slot(tag.as_bytes());
        let session = self.sessions - u128::from(self.below(4));
        let op = self.op(tag);
        let stamp = self.stamp;
        let (deadline, last) =
            *self.lanes.entry((session, slot)).or_insert((stamp + SESSION_LIFE_MS, 0));
        let seq = match self.below(6) {
            // Again, or one too far.
            0 => last.saturating_sub(self.below(3)).max(1),
            1 => last + 2,
            _ => last + 1,
        };
        if seq == last + 1 {
            self.lanes.insert((session, slot), (deadline, seq));
        }
        let acked = Seq(seq.saturating_sub(1 + self.below(4)));
        LaneRequest {
            session: SessionId(session),
            deadline: LogTime(deadline),
            slot,
            seq: Seq(seq),
            acked,
            op,
        }
    }
}

fn assigned() -> ShardStore {
    let mut store = ShardStore::with_limits(G1, LIMITS);
    let ranges = TAGS.map(|tag| hash_slot(tag.as_bytes())).into_iter().collect::<BTreeSet<_>>();
    let ranges = ranges.into_iter().map(|slot| (slot, slot)).collect();
    let assign = EntryItem::Assign { config: ConfigNum(1), ranges };
    store.apply(EntryBatch::new(LogTime(1), vec![assign]));
    store
}

/// Both answer alike, and go on alike.
fn assert_same(one: &mut ShardStore, other: &mut ShardStore, history: &mut History) {
    assert_eq!((one.digest(), one.stats()), (other.digest(), other.stats()));
    for _ in 0..60 {
        let entry = history.entry();
        assert_eq!(one.apply(entry.clone()), other.apply(entry));
    }
    assert_eq!((one.digest(), one.stats()), (other.digest(), other.stats()));
    assert_eq!(dump(one), dump(other));
    assert_eq!(one.expiry_due, other.expiry_due);
    assert_eq!(one.lane_ends, other.lane_ends);
    assert_eq!(one.lane_tallies, other.lane_tallies);
    let held = |store: &ShardStore| MemoryUse { checkpoint: 0, ..store.memory() };
    assert_eq!(held(one), held(other));
}

/// What is counted as it changes is what there is.
fn assert_counted(store: &ShardStore) {
    assert_eq!(store.changes.memory(), store.changes.recounted());
    let keys = |state: &SlotState| state.data.counted_anew();
    let (key_bytes, bytes) = store
        .slots
        .iter()
        .map(|(_, state)| keys(state))
        .fold((0, 0), |sum, slot| (sum.0 + slot.0, sum.1 + slot.1));
    assert_eq!((store.tally.key_bytes, store.tally.bytes), (key_bytes, bytes));
}

#[test]
fn p19_a_store_out_of_its_rows_goes_on_as_the_one_they_are_of() {
    for seed in 0..60 {
        let mut history = History::new(seed);
        let mut store = assigned();
        for _ in 0..seed * 5 {
            store.apply(history.entry());
        }
        let mut loaded = load(&dump(&store)).expect("rows of a state");
        assert_same(&mut store, &mut loaded, &mut history);
    }
}

#[test]
fn rows_collected_between_entries_are_those_of_the_freeze() {
    let (mut kept_flush, mut steps, mut dirty) = (0, 0, 0);
    for seed in 0..150 {
        let mut history = History::new(1000 + seed);
        let (mut store, mut disk) = (assigned(), Rows::new());
        for checkpoint in 0..8 {
            for _ in 0..history.below(60) {
                store.apply(history.entry());
            }
            dirty += u64::from(store.dirty().keys > 3);
            store.freeze();
            assert_eq!(store.dirty(), Dirty::default());
            let frozen = dump(&store);
            loop {
                let (rows, bytes) =
                    (1 + history.below(6) as usize, 1 + history.below(600) as usize);
                let Collected { rows, done } = store.collect(RowBudget { rows, bytes });
                assert!(rows.len() <= 8, "{} rows in one step", rows.len());
                steps += 1;
                carry_out(&mut disk, rows);
                if done {
                    break;
                }
                for _ in 0..history.below(4) {
                    store.apply(history.entry());
                }
                assert_counted(&store);
                kept_flush += u64::from(store.changes.keeps_flushed());
            }
            assert_eq!(disk, frozen, "seed {seed}, checkpoint {checkpoint}");
            assert_counted(&store);
        }
        while store.changes.is_to_free() {
            store.apply(EntryBatch::new(LogTime(1), Vec::new()));
        }
        store.freeze();
        while !store.collect(RowBudget { rows: 9, bytes: 900 }).done {}
        assert!(!store.changes.is_to_free());
        assert_eq!(store.memory().checkpoint, 0, "seed {seed}");
        let mut loaded = load(&dump(&store)).expect("rows of a state");
        assert_same(&mut store, &mut loaded, &mut history);
    }
    assert!(dirty > 800, "only {dirty} of 1200 checkpoints with more than three keys");
    assert!(kept_flush > 50 && steps > 5000, "{kept_flush} flushes kept in {steps} steps");
}

#[test]
fn a_loaded_store_owes_only_what_changes_after() {
    let mut history = History::new(7);
    let mut store = assigned();
    for _ in 0..200 {
        store.apply(history.entry());
    }
    let mut disk = dump(&store);
    let mut loaded = load(&disk).expect("rows of a state");
    assert_eq!(loaded.dirty(), Dirty::default());
    for _ in 0..30 {
        loaded.apply(history.entry());
    }
    loaded.freeze();
    let Collected { rows, done } = loaded.collect(RowBudget { rows: 10_000, bytes: 1 << 30 });
    assert!(done && rows.len() < 130, "{} rows", rows.len());
    carry_out(&mut disk, rows);
    assert_eq!(disk, dump(&loaded));
}

#[test]
fn s18_many_changes_of_one_key_are_one_row() {
    let mut store = ShardStore::new(G1);
    let ranges = vec![(Slot(0), Slot(SLOTS - 1))];
    let assign = EntryItem::Assign { config: ConfigNum(1), ranges };
    store.apply(EntryBatch::new(LogTime(1), vec![assign]));
    store.freeze();
    while !store.collect(RowBudget { rows: 512, bytes: 1 << 20 }).done {}
    let EntryItem::Lane(first) = keys(1, 1).items.remove(0) else { panic!() };
    for n in 1..=200 {
        let lane = LaneRequest { seq: Seq(n), acked: Seq(n - 1), ..first.clone() };
        store.apply(EntryBatch::new(LogTime(n), vec![EntryItem::Lane(lane)]));
    }
    assert_eq!(store.dirty(), Dirty { keys: 1, bytes: 4 + 200, any: true });
    store.freeze();
    let Collected { rows, done } = store.collect(RowBudget { rows: 512, bytes: 1 << 20 });
    assert!(done && rows.len() == 4, "group, slot, lane and key: {rows:?}");
}

#[test]
fn a_freeze_of_many_keys_hands_out_bounded_steps() {
    let mut store = assigned();
    let slot = hash_slot(b"a");
    let mut history = History::new(3);
    for n in 1..=400u64 {
        let op =
            Op::Append { key: format!("{{a}}key {n}").into(), value: Bytes::from(vec![b'x'; 50]) };
        let lane = LaneRequest {
            session: SessionId(77),
            deadline: LogTime(SESSION_LIFE_MS),
            slot,
            seq: Seq(n),
            acked: Seq(n - 1),
            op,
        };
        store.apply(EntryBatch::new(LogTime(history.stamp), vec![EntryItem::Lane(lane)]));
    }
    store.freeze();
    let mut disk = Rows::new();
    let frozen = dump(&store);
    loop {
        let Collected { rows, done } = store.collect(RowBudget { rows: 100, bytes: 1000 });
        let bytes: usize = rows.iter().map(|row| format!("{row:?}").len()).sum();
        assert!(rows.len() <= 21, "{} rows of {bytes} bytes", rows.len());
        carry_out(&mut disk, rows);
        if done {
            break;
        }
        store.apply(history.entry());
    }
    assert_eq!(disk, frozen);
}

#[test]
fn rows_that_no_state_has_are_refused_by_name() {
    let mut history = History::new(5);
    let mut store = assigned();
    for _ in 0..100 {
        store.apply(history.entry());
    }
    let rows = dump(&store);
    let slot = hash_slot(b"a");
    let faults = |change: &dyn Fn(&mut Rows)| {
        let mut rows = rows.clone();
        change(&mut rows);
        load(&rows).expect_err("no state has these rows")
    };
    let group = Row::Group.key();
    let missing = faults(&|rows| rows.clear());
    assert_eq!(missing, RowError { row: group.to_vec(), fault: RowFault::Missing });
    assert_eq!(missing.to_string(), "row 000000 is missing");
    assert_eq!(faults(&|rows| drop(rows.remove(&group))).fault, RowFault::Orphan);
    assert_eq!(faults(&|rows| drop(rows.remove(&Row::Slot(slot).key()))).fault, RowFault::Orphan);
    let stray = Row::Key(slot, b"{b}1").key();
    let put = |key: Bytes, value: &'static [u8]| {
        move |rows: &mut Rows| drop(rows.insert(key.clone(), Bytes::from_static(value)))
    };
    assert_eq!(faults(&put(stray, &[1, 0])).fault, RowFault::Contradiction);
    let key = Row::Key(slot, b"{a}1").key();
    assert_eq!(faults(&put(key.clone(), &[9, 0])).fault, RowFault::Version(9));
    assert_eq!(faults(&put(key.clone(), &[1, 7])).fault, RowFault::Value);
    assert_eq!(faults(&put(key, &[1, 1, 0xff, 0, 0, 0, 0, 0, 0, 0])).fault, RowFault::Value);
    let lane = Row::Lane(slot, SessionId(1)).key();
    assert!(matches!(faults(&put(lane.clone(), &[1, 5, 9])).fault, RowFault::Codec(_)));
    assert_eq!(faults(&put(lane, &[1, 5, 2, 2, 0])).fault, RowFault::Value, "all acknowledged");
    assert_eq!(faults(&put(group.clone(), &[1, 0])).fault, RowFault::Group);
    assert_eq!(faults(&put(Bytes::from_static(&[0xff; 3]), &[1])).fault, RowFault::Kind);
    assert_eq!(faults(&put(Row::Master(MasterRow::Config(1)).key(), &[1])).fault, RowFault::Group);
    let mut loader = StoreLoader::new(G1);
    loader.row(&group, rows[&group].clone()).expect("the group's row");
    assert_eq!(loader.row(&group, rows[&group].clone()), Err(RowFault::Order));
}

/// What has come of a row that is on its way is loaded as it was, and nothing else is.
#[test]
fn parts_of_a_row_that_no_state_has_are_refused_by_name() {
    let slot = hash_slot(b"a");
    let (from, to) = (Some(GroupId(2)), G1);
    let order = Move { id: MoveId(1), slot, from, to, epoch: SlotEpoch(2) };
    let name = Named::Key(b"{a}1").name();
    let value = Some(Bytes::from(vec![1; 40]));
    let chunk = Chunk {
        round: 0,
        from: RowName::new(),
        clear: false,
        rows: vec![ChunkRow { name: name.clone(), value }],
        next: Some(name),
        frozen: None,
    };
    let part = PartOf { offset: 0, total: 100 };
    let steps =
        [MoveStep::BeginImport(order), MoveStep::ImportPart { slot, id: order.id, chunk, part }];
    let mut store = ShardStore::with_limits(G1, LIMITS);
    store.apply(EntryBatch::new(LogTime(1), steps.into_iter().map(EntryItem::Move).collect()));
    let rows = dump(&store);
    assert_eq!(load(&rows).expect("rows of a store").digest(), store.digest());
    let key = |number| Row::Part(slot, number).key();
    let fault = |number: u32, value: Option<Vec<u8>>| {
        let mut rows = rows.clone();
        let before = rows.remove(&key(number));
        assert!(before.is_some() || number == 4);
        rows.extend(value.map(|value| (key(number), value.into())));
        load(&rows).expect_err("no state has these rows").fault
    };
    assert_eq!(fault(0, None), RowFault::Orphan);
    assert_eq!(fault(1, None), RowFault::Contradiction, "a hole");
    assert_eq!(fault(3, Some(vec![1])), RowFault::Contradiction, "nothing in it");
    assert_eq!(fault(3, Some(vec![1; 18])), RowFault::Contradiction, "more than a part");
    assert_eq!(fault(4, Some(vec![1, 1])), RowFault::Contradiction, "behind a short one");
    assert_eq!(fault(3, Some(vec![2, 1])), RowFault::Version(2));
    let head = |total: u64, name: &[u8]| Some([&[1], &total.to_be_bytes()[..], name].concat());
    assert_eq!(fault(0, head(40, b"\x02{a}1")), RowFault::Contradiction, "all of it");
    assert_eq!(fault(0, head(u64::MAX, b"\x02{a}1")), RowFault::Value);
    assert_eq!(fault(0, head(100, b"\x07")), RowFault::Value, "the name of no row");
    let mut stray = dump(&assigned());
    stray.insert(key(0), rows[&key(0)].clone());
    assert_eq!(load(&stray).expect_err("it is here").fault, RowFault::Contradiction);
}

/// Whatever the disk made of the rows: an error, or a store that goes on.
#[test]
fn rotten_rows_never_panic() {
    let mut refused = 0;
    for seed in 0..300 {
        let mut history = History::new(seed);
        let mut store = assigned();
        for _ in 0..40 {
            store.apply(history.entry());
        }
        let mut rows: Vec<(Vec<u8>, Vec<u8>)> =
            dump(&store).into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
        for _ in 0..1 + history.below(3) {
            let at = history.below(rows.len() as u64) as usize;
            let (key, value) = &mut rows[at];
            let bytes = if history.below(3) == 0 { key } else { value };
            match history.below(3) {
                0 => bytes.truncate(history.below(bytes.len() as u64 + 1) as usize),
                1 => bytes.push(history.below(256) as u8),
                _ if bytes.is_empty() => {}
                _ => {
                    let at = history.below(bytes.len() as u64) as usize;
                    bytes[at] ^= 1 << history.below(8);
                }
            }
        }
        let mut loader = StoreLoader::with_limits(G1, LIMITS);
        let taken = rows.into_iter().try_for_each(|(key, value)| loader.row(&key, value.into()));
        match taken.map(|()| loader.finish()) {
            Ok(Ok(mut store)) => {
                for _ in 0..40 {
                    store.apply(history.entry());
                }
            }
            Ok(Err(_)) | Err(_) => refused += 1,
        }
    }
    assert!(refused > 100, "only {refused} of 300 refused");
}

/// A lane may remember a reply of 64 MiB: its row shares that with the store, and is what it was before it did.
#[test]
fn the_row_of_a_lane_shares_large_replies() {
    let large = |byte: u8| Bytes::from(vec![byte; 4000]);
    let small = Bytes::from_static(b"small");
    let outcomes = [
        Outcome::Value(large(1)),
        Outcome::Value(small.clone()),
        Outcome::Values(vec![Some(large(2)), None, Some(small.clone()), Some(large(3))]),
        Outcome::Keys(vec![small, large(4)]),
        Outcome::Ok,
    ];
    let mut lane = Lane::new(LogTime(77));
    for (seq, outcome) in (1..).zip(&outcomes) {
        let group = lane.reply_bytes();
        lane.remember(Seq(seq), Seq(0), outcome, &LaneLimits::default(), group);
    }
    let (head, body) = lane.row();
    let replies: VecDeque<(Seq, Outcome)> = (1..).map(Seq).zip(outcomes.clone()).collect();
    let copied = bytes_of(&(LogTime(77), Seq(5), Seq(0), replies));
    assert_eq!(body, RowBody::from(copied.freeze()));
    let parts = outcomes.iter().flat_map(Outcome::parts).filter(|part| part.len() > 1000);
    for (at, part) in parts.enumerate() {
        let piece = &body.pieces()[2 * at + 1];
        assert!(std::ptr::eq(&piece[..], &part[..]), "part {at} was copied");
    }
    assert_eq!(body.pieces().len(), 9);
    let again = Lane::of_row(body.behind(&head).into()).unwrap();
    assert_eq!(again.row(), lane.row());
}

//! The state over a disk that loses power, tears writes, fails or rots (scenarios S5, F1, F2, F5, F6,
//! F7, F8): checkpoints, snapshots that come in, their installation, the deletion of what they replace,
//! and the recovery itself.

mod simulated_disk;

use bytes::Bytes;
use raft_core::conf::Conf;
use raft_core::random::Random;
use raft_core::snapshot::{SnapCmd, SnapEvent, Snapshot, SnapshotId};
use raft_core::types::{EntryId, GroupId, Index, NodeId, Term};
use redb::{Database, ReadableDatabase, ReadableTableMetadata, TableDefinition};
use server::state_store::{
    StateStore, StateStoreConfig, StateStoreError, StateStoreEvent, StoredGroup,
};
use shard_core::checkpoint::{CheckpointMark, RowChange};
use simulated_disk::{Disk, Step, crash, lost_while_growing, reported, within};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};

const GROUPS: u64 = 3;
const SNAPSHOTS: u64 = 6;
/// Images that the power loss leaves, in an ordinary run.
const IMAGES: u64 = 8000;
/// How many instead.
const IMAGES_VARIABLE: &str = "FLOTILLA_CRASH_IMAGES";

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// What the store should hold of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Held {
    checkpoint: Option<(CheckpointMark, Rows)>,
    staged: Option<(SnapshotId, u64)>,
    installing: Option<EntryId>,
}

type Model = BTreeMap<GroupId, Held>;
/// Which snapshots each group has begun to take.
type Used = BTreeMap<GroupId, Vec<usize>>;

/// One durable step.
#[derive(Clone, Debug)]
enum Act {
    Checkpoint(GroupId, Vec<Vec<RowChange>>, CheckpointMark),
    Stage(GroupId, usize, u64, u64),
    Discard(GroupId, SnapshotId),
    Flip(GroupId, SnapshotId),
    Installed(GroupId),
    Forget(GroupId),
}

/// A snapshot of another node.
struct Foreign {
    snapshot: Snapshot,
    bytes: Bytes,
    rows: Rows,
}

/// What is done, and what is held after so many of it.
struct Workload {
    acts: Vec<Act>,
    states: Vec<Model>,
    foreign: Vec<Foreign>,
    config: StateStoreConfig,
}

fn conf() -> Conf {
    Conf::of_voters(vec![NodeId(1), NodeId(2), NodeId(3)])
}

fn mark(index: u64) -> CheckpointMark {
    let at = EntryId { index: Index(index), term: Term(index / 7 + 1) };
    CheckpointMark { at, conf: (Index(index / 3), conf()) }
}

fn change(random: &mut Random, rows: &mut Rows, seed: u64) -> RowChange {
    let mut key = format!("{:02}/{}", random.below(30), random.below(4)).into_bytes();
    if random.below(40) == 0 {
        // Too long for one part.
        key.resize(17_000 + random.below(4) as usize * 12_000, b'k');
    }
    match random.below(24) {
        0 => {
            let prefix = key[..2].to_vec();
            rows.retain(|key, _| !key.starts_with(&prefix));
            RowChange::DeletePrefix { prefix: prefix.into() }
        }
        1..5 => {
            rows.remove(&key);
            RowChange::Delete { key: key.into() }
        }
        kind => {
            let bytes = if kind == 5 { random.below(45_000) } else { random.below(300) };
            let value: Vec<u8> = (0..bytes).map(|at| (at ^ seed) as u8).collect();
            rows.insert(key.clone(), value.clone());
            let head = value[..value.len().min(7)].into();
            let body = Bytes::copy_from_slice(&value[value.len().min(7)..]);
            RowChange::Put { key: key.into(), head, body: body.into() }
        }
    }
}

fn foreign(random: &mut Random, index: u64) -> Foreign {
    let mut rows = Rows::new();
    let changes = (0..80).map(|at| change(random, &mut rows, at + index)).collect();
    let (sender, events) = channel();
    let (store, _) =
        StateStore::open_backend(Disk::default(), StateStoreConfig::default(), move |event| {
            let _ = sender.send(event);
        })
        .unwrap();
    let group = GroupId(77);
    store.changes(group, changes);
    store.commit(group, mark(index));
    let (mut bytes, mut size) = (Vec::new(), 0);
    loop {
        match events.recv().unwrap() {
            StateStoreEvent::Taken(_) => {}
            StateStoreEvent::Checkpointed(_, snapshot) => {
                let (id, to) = (snapshot.id, snapshot.bytes);
                size = to;
                store.snapshot(group, SnapCmd::Send { peer: NodeId(1), id, from: 0, to });
            }
            StateStoreEvent::Chunk(out) => {
                bytes.extend_from_slice(&out.chunk.bytes);
                if (bytes.len() as u64) < size {
                    continue;
                }
                let id = out.chunk.id;
                let snapshot = Snapshot { id, bytes: size, conf: mark(index).conf };
                return Foreign { snapshot, bytes: bytes.into(), rows };
            }
            other => panic!("{other:?}"),
        }
    }
}

impl Workload {
    fn new(seed: u64, acts: usize) -> Workload {
        let mut random = Random::new(seed);
        let mut made = Workload {
            acts: Vec::new(),
            states: vec![Model::new()],
            foreign: (1..=SNAPSHOTS).map(|at| foreign(&mut random, 1000 * at)).collect(),
            config: StateStoreConfig::default(),
        };
        if seed.is_multiple_of(2) {
            // Pages of what is not committed reach the disk.
            made.config.cache_bytes = 256 << 10;
        }
        let (mut model, mut used) = (Model::new(), Used::new());
        while made.acts.len() < acts {
            let group = GroupId(random.below(GROUPS) as u32 + 1);
            let held = model.entry(group).or_default();
            let act = made.next(&mut random, group, held, &mut used);
            made.acts.push(act);
            made.states.push(model.clone());
        }
        made
    }

    fn checkpoint(&self, random: &mut Random, group: GroupId, held: &mut Held) -> Act {
        let index = held.checkpoint.as_ref().map_or(0, |(mark, _)| mark.at.index.0);
        let mark = mark(index + 1 + random.below(9));
        let mut rows = held.checkpoint.take().map_or_else(Rows::new, |(_, rows)| rows);
        let mut batches = Vec::new();
        for _ in 0..random.below(4) {
            let changes = (0..random.below(20)).map(|_| change(random, &mut rows, index));
            batches.push(changes.collect());
        }
        held.checkpoint = Some((mark.clone(), rows));
        Act::Checkpoint(group, batches, mark)
    }

    fn next(&self, random: &mut Random, group: GroupId, held: &mut Held, used: &mut Used) -> Act {
        if random.below(20) == 0 {
            *held = Held::default();
            return Act::Forget(group);
        }
        if held.installing.is_some() && random.below(2) == 0 {
            held.installing = None;
            return Act::Installed(group);
        }
        if random.below(2) == 0 {
            return self.checkpoint(random, group, held);
        }
        let known = |id| self.foreign.iter().position(|one| one.snapshot.id == id);
        let (which, offset) = match held.staged {
            Some((id, offset)) => {
                let which = known(id).unwrap();
                if random.below(12) == 0 {
                    held.staged = None;
                    return Act::Discard(group, id);
                }
                if offset == self.foreign[which].snapshot.bytes {
                    held.staged = None;
                    held.installing = Some(id.at);
                    let rows = self.foreign[which].rows.clone();
                    held.checkpoint = Some((mark(id.at.index.0), rows));
                    return Act::Flip(group, id);
                }
                (which, offset)
            }
            None => {
                // No group gets the same one twice, so every answer is given once.
                let used = used.entry(group).or_default();
                let Some(which) = (0..self.foreign.len()).find(|which| !used.contains(which))
                else {
                    return self.checkpoint(random, group, held);
                };
                used.push(which);
                (which, 0)
            }
        };
        let (id, size) = (self.foreign[which].snapshot.id, self.foreign[which].snapshot.bytes);
        let step = [50, 5000, 30_000, 90_000][random.below(4) as usize];
        let to = size.min(offset + 1 + random.below(step));
        held.staged = Some((id, to));
        Act::Stage(group, which, offset, to)
    }

    /// What is told once an act is durable; nothing of a discard.
    fn answer(&self, act: &Act) -> Option<String> {
        match act {
            Act::Checkpoint(group, _, mark) => Some(format!("checkpoint {group} {}", mark.at)),
            Act::Stage(group, which, _, to) => {
                Some(format!("staged {group} {} {to}", self.foreign[*which].snapshot.id.at))
            }
            Act::Discard(..) => None,
            Act::Flip(group, id) => Some(format!("flipped {group} {}", id.at)),
            Act::Installed(group) => Some(format!("settled {group}")),
            Act::Forget(group) => Some(format!("forgotten {group}")),
        }
    }
}

fn told(event: &StateStoreEvent) -> Option<String> {
    match event {
        StateStoreEvent::Checkpointed(group, snapshot) => {
            Some(format!("checkpoint {group} {}", snapshot.id.at))
        }
        StateStoreEvent::Snapshot(group, SnapEvent::Received { id, offset }) => {
            Some(format!("staged {group} {} {offset}", id.at))
        }
        StateStoreEvent::Flipped(group, id) => Some(format!("flipped {group} {}", id.at)),
        StateStoreEvent::Settled(group) => Some(format!("settled {group}")),
        StateStoreEvent::Forgotten(group) => Some(format!("forgotten {group}")),
        StateStoreEvent::Taken(_) | StateStoreEvent::Cleaned | StateStoreEvent::Failed(_) => None,
        StateStoreEvent::Chunk(_) | StateStoreEvent::Snapshot(..) => panic!("{event:?}"),
    }
}

struct State {
    store: StateStore,
    groups: BTreeMap<GroupId, StoredGroup>,
    /// With the number of the act that is durable, if it says so of one.
    events: Receiver<(StateStoreEvent, Option<usize>)>,
}

/// Opens the state of a disk; for each act that is reported durable its number is noted on it.
fn open(workload: &Workload, disk: &Disk) -> Result<State, StateStoreError> {
    let mut numbers: BTreeMap<String, VecDeque<usize>> = BTreeMap::new();
    for (at, act) in workload.acts.iter().enumerate() {
        if let Some(answer) = workload.answer(act) {
            numbers.entry(answer).or_default().push_back(at + 1);
        }
    }
    let (numbers, noted, (sender, events)) = (Mutex::new(numbers), disk.clone(), channel());
    let (store, groups) = StateStore::open_backend(disk.clone(), workload.config, move |event| {
        let number =
            told(&event).and_then(|answer| numbers.lock().unwrap().get_mut(&answer)?.pop_front());
        if let Some(number) = number {
            noted.mark(number as u64);
        }
        let _ = sender.send((event, number));
    })?;
    Ok(State { store, groups, events })
}

/// Everything the store holds, its rows read back.
fn contents(state: &State) -> Model {
    let mut model = Model::new();
    for (group, stored) in &state.groups {
        let mut rows = Rows::new();
        let loaded = state.store.checkpoints().load(*group, |key, value| {
            rows.insert(key.to_vec(), value.to_vec());
            Ok::<(), ()>(())
        });
        loaded.unwrap_or_else(|error| panic!("group {group}: {error:?}"));
        let checkpoint = stored.checkpoint.as_ref().map(|snapshot| {
            let mark = CheckpointMark { at: snapshot.id.at, conf: snapshot.conf.clone() };
            (mark, rows)
        });
        let (staged, installing) = (stored.staged, stored.installing);
        model.insert(*group, Held { checkpoint, staged, installing });
    }
    model
}

/// A group of which there is nothing need not be there.
fn normal(model: &Model) -> Model {
    let there = model.iter().filter(|(_, held)| **held != Held::default());
    there.map(|(group, held)| (*group, held.clone())).collect()
}

/// What was reported.
#[derive(Default)]
struct Progress {
    durable: usize,
    failure: Option<String>,
}

impl Progress {
    /// Whether it is `Taken`.
    fn note(&mut self, (event, number): (StateStoreEvent, Option<usize>)) -> bool {
        assert!(self.failure.is_none(), "{event:?} after the failure");
        self.durable = self.durable.max(number.unwrap_or(0));
        let taken = matches!(event, StateStoreEvent::Taken(_));
        if let StateStoreEvent::Failed(sentence) = event {
            self.failure = Some(sentence);
        }
        taken
    }
}

/// A run of a workload.
struct Play<'w> {
    workload: &'w Workload,
    state: State,
    progress: Progress,
    random: Random,
    /// Acts that the store was told.
    told: usize,
}

impl Play<'_> {
    fn take(&mut self) -> bool {
        let event = self.state.events.recv().unwrap();
        self.progress.note(event)
    }

    /// The next act.
    fn tell(&mut self) {
        let Play { workload, state: State { store, .. }, .. } = &*self;
        let act = &workload.acts[self.told];
        match act {
            Act::Stage(group, which, from, to) => {
                let Foreign { snapshot, bytes, .. } = &workload.foreign[*which];
                let piece = bytes.slice(*from as usize..*to as usize);
                store.stage(*group, snapshot.clone(), *from, piece);
            }
            Act::Discard(group, id) => {
                let _ = store.snapshot(*group, SnapCmd::Discard { id: *id });
            }
            Act::Flip(group, id) => store.flip(*group, *id),
            Act::Installed(group) => store.installed(*group),
            Act::Forget(group) => store.forget(*group),
            Act::Checkpoint(group, batches, mark) => {
                return self.checkpoint(*group, batches.clone(), mark.clone());
            }
        }
        self.told += 1;
    }

    fn checkpoint(&mut self, group: GroupId, batches: Vec<Vec<RowChange>>, mark: CheckpointMark) {
        self.told += 1;
        let begun = !batches.is_empty();
        for batch in batches {
            self.state.store.changes(group, batch);
            while self.progress.failure.is_none() && !self.take() {}
        }
        // Some of what comes next, but for checkpoints and the group's own, is told before it is
        // committed.
        while begun && self.random.below(3) > 0 {
            match self.workload.acts.get(self.told) {
                Some(Act::Stage(of, ..) | Act::Flip(of, _) | Act::Installed(of))
                    if *of != group =>
                {
                    self.tell();
                }
                _ => break,
            }
        }
        self.state.store.commit(group, mark);
    }
}

/// Runs a workload, up to three acts ahead of what is reported durable, and closes the store. Returns
/// how many were reported, and the sentence if it failed.
fn play(state: State, workload: &Workload) -> (usize, Option<String>) {
    let random = Random::new(workload.acts.len() as u64);
    let mut play = Play { workload, state, progress: Progress::default(), random, told: 0 };
    while play.told < workload.acts.len() && play.progress.failure.is_none() {
        play.tell();
        let due = play.told.saturating_sub(within(&mut play.random, 0..4));
        let due = workload.acts[..due].iter().rposition(|act| workload.answer(act).is_some());
        let due = due.map_or(0, |at| at + 1);
        while play.progress.durable < due && play.progress.failure.is_none() {
            play.take();
        }
    }
    let Play { state: State { store, events, .. }, mut progress, .. } = play;
    let closed = store.close();
    for event in events.try_iter() {
        progress.note(event);
    }
    assert_eq!(closed.err(), progress.failure, "what the store says at its end");
    (progress.durable, progress.failure)
}

/// Runs a workload to its end and returns the disk it ran on.
fn played(workload: &Workload) -> Disk {
    let disk = Disk::default();
    let (durable, failure) = play(open(workload, &disk).unwrap(), workload);
    let last = workload.acts.iter().rposition(|act| workload.answer(act).is_some()).unwrap();
    assert_eq!((durable, failure), (last + 1, None));
    disk
}

/// How many acts were reported durable within these steps.
/// Opens an image and checks that it holds what some number of acts left, at least `durable`; lets it
/// delete what it does not need. Returns the disk and that number.
fn check_image(workload: &Workload, image: Vec<u8>, durable: usize, what: &str) -> (Disk, usize) {
    let disk = Disk::with(image);
    let state = open(workload, &disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    let found = normal(&contents(&state));
    let fits = |model: &Model| normal(model) == found;
    let at = workload.states[durable..].iter().position(fits);
    let at = at.unwrap_or_else(|| panic!("{what}: not a state after {durable}"));
    if state.store.stats().to_clean > 0 {
        let (event, _) = state.events.recv().unwrap();
        assert!(matches!(event, StateStoreEvent::Cleaned), "{what}: {event:?}");
    }
    state.store.close().unwrap();
    (disk, durable + at)
}

/// Nothing is in the file but what it holds.
fn check_clean(disk: &Disk, model: &Model, workload: &Workload, what: &str) {
    let database = Database::builder().create_with_backend(disk.clone()).unwrap();
    let rows: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");
    let rows = database.begin_read().unwrap().open_table(rows).unwrap().len().unwrap();
    let held: u64 = model
        .values()
        .filter_map(|held| held.checkpoint.as_ref())
        .map(|(_, rows)| rows.len() as u64)
        .sum();
    let begun = model.values().filter_map(|held| held.staged);
    let staged: u64 = begun
        .map(|(id, _)| workload.foreign.iter().find(|one| one.snapshot.id == id).unwrap())
        .map(|one| one.rows.len() as u64)
        .sum();
    assert!((held..=held + staged).contains(&rows), "{what}: {rows} rows");
}

/// What was coming in when the power went comes in from there on, and is installed.
fn check_resumed(workload: &Workload, disk: &Disk, model: &Model, what: &str) {
    let state = open(workload, disk).unwrap();
    let mut installed = model.clone();
    for (group, held) in &mut installed {
        let Some((id, offset)) = held.staged.take() else { continue };
        let one = workload.foreign.iter().find(|one| one.snapshot.id == id).unwrap();
        let rest = one.bytes.slice(offset as usize..);
        state.store.stage(*group, one.snapshot.clone(), offset, rest);
        state.store.flip(*group, id);
        held.checkpoint = Some((mark(id.at.index.0), one.rows.clone()));
        held.installing = Some(id.at);
    }
    state.store.close().unwrap_or_else(|sentence| panic!("{what}: {sentence}"));
    let again = open(workload, &Disk::with(disk.image())).unwrap();
    assert!(normal(&contents(&again)) == normal(&installed), "{what}: not what was staged");
}

/// Images of one workload: for each step on the way as many as there are rounds, and each once more
/// while it recovers. Returns how many acts were undone by them, and how many images there were.
fn crash_everywhere(workload: &Workload, seed: u64, images: u64) -> (usize, u64) {
    let disk = played(workload);
    let steps = disk.steps();
    let mut random = Random::new(seed);
    // Before its first reported write there may be no state at all.
    let first = steps.iter().position(|step| matches!(step, Step::Mark(_))).unwrap();
    let (mut lost, mut made) = (0, 0);
    // What is on the disk up to the last sync that was passed.
    let (mut synced, mut base) = (0, Vec::new());
    for (at, step) in steps.iter().enumerate() {
        if matches!(step, Step::Sync) {
            base = crash(&base, &steps[synced..=at], &mut random);
            synced = at + 1;
        }
        let due = images * (at + 1).saturating_sub(first) as u64 / (steps.len() - first) as u64;
        while made < due {
            let durable = reported(&steps[..=at]);
            let image = crash(&base, &steps[synced..=at], &mut random);
            let what = format!("seed {seed}, step {at} of {}", steps.len());
            let (recovered, found) = check_image(workload, image.clone(), durable, &what);
            lost += workload.acts.len() - found;
            made += 1;

            // And once more, while it recovers and deletes.
            let recovery = recovered.steps();
            let again = within(&mut random, 0..recovery.len());
            let image = crash(&image, &recovery[..again], &mut random);
            let again = format!("{what}, then {again}");
            let (_, found_again) = check_image(workload, image, durable, &again);
            assert_eq!(found_again, found, "{again}: another one than before");
            made += 1;

            if made % 16 == 0 {
                let model = &workload.states[found];
                check_clean(&recovered, model, workload, &what);
                check_resumed(workload, &recovered, model, &what);
            }
        }
    }
    (lost, made)
}

#[test]
fn f05_whatever_a_power_loss_leaves_opens_with_everything_that_was_reported() {
    let images = std::env::var(IMAGES_VARIABLE).map_or(IMAGES, |value| value.parse().unwrap());
    let seeds = 8;
    let (undone, made) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let (undone, made) = (&undone, &made);
            scope.spawn(move || {
                for seed in (worker..seeds).step_by(2) {
                    let workload = Workload::new(seed, 60);
                    let (lost, count) = crash_everywhere(&workload, seed, images / seeds);
                    undone.fetch_add(lost as u64, Ordering::Relaxed);
                    made.fetch_add(count, Ordering::Relaxed);
                }
            });
        }
    });
    assert!(made.into_inner() >= images / seeds * seeds);
    assert!(undone.into_inner() > images, "the crashes came too late to mean anything");
}

/// What redb writes when it opens a file waits until the start is known to go on, and is then made in one go: at each
/// step of that and of what follows.
#[test]
fn f05_a_power_loss_at_any_step_of_a_start_loses_nothing() {
    let (mut random, mut images) = (Random::new(5), 0);
    for seed in 0..6 {
        let workload = Workload::new(seed, 60);
        let steps = played(&workload).steps();
        let first = steps.iter().position(|step| matches!(step, Step::Mark(_))).unwrap();
        let at = within(&mut random, first..steps.len());
        let (durable, what) = (reported(&steps[..=at]), format!("seed {seed}, step {at}"));
        let image = crash(&[], &steps[..=at], &mut random);
        let (recovered, found) = check_image(&workload, image.clone(), durable, &what);
        let recovery = recovered.steps();
        assert!(recovery.iter().filter(|step| matches!(step, Step::Sync)).count() > 3, "{what}");
        for again in 0..=recovery.len() {
            let image = crash(&image, &recovery[..again], &mut random);
            let again = format!("{what}, then {again} of {}", recovery.len());
            let (_, found_again) = check_image(&workload, image, durable, &again);
            assert_eq!(found_again, found, "{again}: another one than before");
            images += 1;
        }
    }
    assert!(images > 100, "only {images} images of starts");
}

/// At each growth of the file, and each step from there to the sync behind it.
#[test]
fn f06_a_power_loss_while_the_file_grows_leaves_what_was_reported() {
    let mut random = Random::new(6);
    let mut images = 0;
    for seed in 0..8 {
        let workload = Workload::new(seed, 60);
        let steps = played(&workload).steps();
        images += lost_while_growing(&steps, &mut random, |image, at| {
            let (durable, what) = (reported(&steps[..=at]), format!("seed {seed}, step {at}"));
            check_image(&workload, image, durable, &what);
        });
    }
    assert!(images > 50, "only {images} images of a file that grows");
}

#[test]
fn a_power_loss_at_the_very_beginning_leaves_a_state_that_opens_or_says_why_not() {
    let workload = Workload::new(9, 3);
    let steps = played(&workload).steps();
    let mut random = Random::new(2);
    for at in 0..steps.len().min(80) {
        let image = crash(&[], &steps[..at], &mut random);
        match open(&workload, &Disk::with(image)) {
            Ok(state) => {
                let found = normal(&contents(&state));
                let mut rest = workload.states[reported(&steps[..at])..].iter();
                assert!(rest.any(|model| normal(model) == found), "step {at}");
                state.store.close().unwrap();
            }
            // Only a state that had never been opened may be unreadable.
            Err(error) => assert_eq!(reported(&steps[..at]), 0, "step {at}: {error}"),
        }
    }
}

#[test]
fn f01_f02_after_the_first_error_nothing_is_written_and_nothing_reported() {
    let mut failures = 0;
    for seed in [20, 21] {
        let workload = Workload::new(seed, 25);
        let calls = played(&workload).calls();
        let fresh = Disk::default();
        open(&workload, &fresh).unwrap().store.close().unwrap();
        let fresh = fresh.image();
        for fail_at in (0..calls).step_by((calls as usize / 150).max(1)) {
            let disk = Disk::failing_at(fresh.clone(), fail_at);
            let Ok(state) = open(&workload, &disk) else { continue };
            let (durable, failure) = play(state, &workload);
            if let Some(sentence) = failure {
                assert!(sentence.contains("the simulated disk is broken"), "{sentence}");
                assert_eq!(disk.calls_after_failure(), 0, "written after call {fail_at} failed");
                failures += 1;
            }
            // The commit in doubt may be there or not.
            check_image(&workload, disk.image(), durable, &format!("call {fail_at}"));
        }
    }
    assert!(failures > 100, "only {failures} failures were met");
}

/// Opens what is left of an image and compares. Returns whether something was found to be wrong.
fn is_found(workload: &Workload, rotten: Vec<u8>, expected: &Model, what: &str) -> bool {
    let read = catch_unwind(AssertUnwindSafe(|| {
        let state = open(workload, &Disk::with(rotten))?;
        Ok::<Model, StateStoreError>(normal(&contents(&state)))
    }));
    match read.unwrap_or_else(|_| panic!("{what}: a panic")) {
        Ok(model) => {
            assert!(model == *expected, "{what}: read as if nothing had been");
            false
        }
        Err(_) => true,
    }
}

#[test]
fn f07_f08_rot_is_found_or_does_not_matter() {
    let workload = Workload::new(7, 40);
    let image = played(&workload).image();
    let expected = normal(workload.states.last().unwrap());
    let mut random = Random::new(3);
    let mut found = 0;
    for _ in 0..800 {
        let mut rotten = image.clone();
        let at = within(&mut random, 0..rotten.len());
        rotten[at] ^= 1 << random.below(8);
        found += usize::from(is_found(&workload, rotten, &expected, &format!("byte {at}")));
    }
    assert!(found > 50, "only {found} were found");
}

#[test]
fn f09_a_file_that_was_cut_or_overwritten_is_found_or_does_not_matter() {
    let workload = Workload::new(8, 40);
    let image = played(&workload).image();
    let expected = normal(workload.states.last().unwrap());
    let mut random = Random::new(4);
    let mut found = 0;
    for round in 0..100 {
        let mut rotten = image.clone();
        let at = within(&mut random, 1..rotten.len());
        match round % 3 {
            0 => rotten.truncate(at),
            1 => {
                let end = (at + 4096).min(rotten.len());
                rotten[at..end].fill(0);
            }
            _ => {
                let page = 4096.min(rotten.len() - at);
                let from = within(&mut random, 0..rotten.len() - page);
                rotten.copy_within(from..from + page, at);
            }
        }
        let what = format!("round {round} at byte {at}");
        found += usize::from(is_found(&workload, rotten, &expected, &what));
    }
    assert!(found > 30, "only {found} were found");
}

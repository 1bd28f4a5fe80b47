//! Log and state of one node, which lose power at the same moment (scenarios S5, P8, M19, R21): what is left of
//! both together after every step of checkpoints, installs and deletions of groups, and of the start that
//! goes on with them.

mod simulated_disk;

use bytes::Bytes;
use raft_core::conf::Conf;
use raft_core::effects::Write;
use raft_core::frame::encode_entry;
use raft_core::random::Random;
use raft_core::snapshot::{SnapCmd, SnapEvent, Snapshot, SnapshotId};
use raft_core::types::{EntryId, EntryKind, GroupId, HardState, Index, NodeId, Term, WriteToken};
use server::disk::{Disk, Happened, Loaded};
use server::disk_space::DiskSpace;
use server::loading::load;
use server::log_store::{LogEvent, LogStore, LogStoreConfig};
use server::state_store::{StateStore, StateStoreConfig, StateStoreEvent};
use shard_core::checkpoint::{CheckpointMark, RowChange, RowHead, StateCommand, StateEvent};
use shard_core::node::Input;
use shard_core::slot::hash_slot;
use simulated_disk::{Disk as Simulated, Power, crash, within};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::mpsc;

const GROUPS: u64 = 3;
/// States that a group may have.
const TAGS: u64 = 3;
/// Images of both files in one ordinary run; `FLOTILLA_CRASH_IMAGES` asks for another number, and
/// `FLOTILLA_CRASH_SEED` for those behind that seed: a long run in pieces.
const IMAGES: usize = 3_000;
const ACTS: usize = 30;

/// One state of a group's machine, by its number.
fn rows(tag: u64) -> BTreeMap<Vec<u8>, Vec<u8>> {
    // As `docs/disk-format.md` says. No key is so large that its state takes no parts.
    let mut rows = BTreeMap::new();
    let group = [&[1, 1][..], &tag.to_be_bytes(), &1_u64.to_be_bytes()].concat();
    rows.insert(vec![0, 0, 0], group);
    for key in 0..12 + tag {
        let name = format!("key{key}");
        let slot = (hash_slot(name.as_bytes()).0 + 1).to_be_bytes();
        let row = [&[1][..], &[0; 8], &9_u64.to_be_bytes()].concat();
        rows.insert([&slot[..], &[0]].concat(), row);
        let value = vec![(tag + key) as u8; if key == tag { 20_000 } else { 90 }];
        let row = [&[1, 0][..], &value].concat();
        rows.insert([&slot[..], &[2], name.as_bytes()].concat(), row);
    }
    rows
}

/// Puts this state in the place of the one before.
fn changes(tag: u64) -> Vec<RowChange> {
    let all = RowChange::DeletePrefix { prefix: Bytes::new() };
    let put = |(key, value): (Vec<u8>, Vec<u8>)| {
        let (key, body) = (key.into(), Bytes::from(value).into());
        RowChange::Put { key, head: RowHead::new(), body }
    };
    std::iter::once(all).chain(rows(tag).into_iter().map(put)).collect()
}

fn conf() -> (Index, Conf) {
    (Index(0), Conf::of_voters(vec![NodeId(1), NodeId(2), NodeId(3)]))
}

/// What a group's log is, as far as a start tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Log {
    hard: HardState,
    base: EntryId,
    last: EntryId,
}

/// A group, as both files should have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Group {
    log: Log,
    /// The log is not needed up to there, and may begin there or at any compaction before.
    compacted: EntryId,
    state: Option<(EntryId, u64)>,
}

impl Group {
    fn allows(&self, found: &Found) -> bool {
        let log = Log { base: found.log.base, ..self.log };
        let begins = (self.log.base..=self.compacted).contains(&found.log.base);
        begins && (found.log, found.state) == (log, self.state)
    }

    /// What its deletion leaves, in this order.
    fn deleted(self, voted: bool) -> [Group; 2] {
        let hard = if voted { self.log.hard } else { HardState::default() };
        let vote = Group { log: Log { hard, ..Log::default() }, ..Group::default() };
        [Group { state: None, ..self }, vote]
    }
}

/// A group, as both files have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Found {
    log: Log,
    state: Option<(EntryId, u64)>,
}

/// Something that was done with a group: when it was begun and when it was answered, and what both files may
/// have until then, in this order. With the last of these it is done.
#[derive(Clone, Debug)]
struct Act {
    begun: u64,
    answered: u64,
    ways: Vec<Group>,
    /// It is to be deleted, and whether its vote stays.
    forget: Option<bool>,
}

/// What an act waits for.
enum Waits {
    Write(WriteToken),
    Checkpoint(CheckpointMark),
    Staged(Box<Write>, Option<bool>),
    Install,
    Forgotten,
}

enum Event {
    Log(LogEvent),
    State(StateStoreEvent),
    Loaded(Loaded),
}

/// A node's disk over two simulated ones.
struct Node {
    disk: Disk,
    events: Receiver<Event>,
    /// What it found when it was opened.
    found: BTreeMap<GroupId, Found>,
    to_clean: u64,
    _dir: tempfile::TempDir,
}

/// Does with both files what a start does.
fn open(log: &Simulated, state: &Simulated, what: &str) -> Node {
    let (events, inlet) = channel();
    let sender: Sender<Event> = events.clone();
    // Pages of what is not committed reach the disk.
    let config = StateStoreConfig { cache_bytes: 64 << 10, ..StateStoreConfig::default() };
    let opened = StateStore::open_backend(state.clone(), config, move |event| {
        let _ = sender.send(Event::State(event));
    });
    let (states, stored) = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
    let installing: BTreeMap<_, _> =
        stored.iter().filter_map(|(group, stored)| Some((*group, stored.installing?))).collect();
    let sender = events.clone();
    let config = LogStoreConfig { collect_bytes_min: 4000, ..LogStoreConfig::default() };
    let opened = LogStore::open_backend(log.clone(), config, &installing, move |event| {
        let _ = sender.send(Event::Log(event));
    });
    let (logs, restored) = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut found: BTreeMap<GroupId, Found> = BTreeMap::new();
    for (group, log) in restored {
        let log = Log { hard: log.hard, base: log.base, last: log.last };
        found.entry(group).or_default().log = log;
    }
    for (group, stored) in &stored {
        let Some(checkpoint) = &stored.checkpoint else { continue };
        load(states.checkpoints(), *group).unwrap_or_else(|error| panic!("{what}: {error}"));
        let mut there = BTreeMap::new();
        let loaded = states.checkpoints().load(*group, |key, value| {
            there.insert(key.to_vec(), value.to_vec());
            Ok::<(), ()>(())
        });
        loaded.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        let tag = (1..=TAGS).find(|tag| rows(*tag) == there);
        let tag = tag.unwrap_or_else(|| panic!("{what}: parts of a state of group {group}"));
        found.entry(*group).or_default().state = Some((checkpoint.id.at, tag));
    }
    installing.keys().for_each(|group| states.installed(*group));
    let to_clean = states.stats().to_clean;
    let dir = tempfile::tempdir().unwrap();
    let space = DiskSpace::watch(Path::new(dir.path()), None).unwrap();
    let (loaded, mut inlet_loaded) = mpsc::channel(16);
    std::thread::spawn(move || {
        while let Some(loaded) = inlet_loaded.blocking_recv() {
            let _ = events.send(Event::Loaded(loaded));
        }
    });
    let disk = Disk::new(logs, states, loaded, space);
    Node { disk, events: inlet, found, to_clean, _dir: dir }
}

impl Node {
    /// What the disk tells of next, or why the node has to stop; nothing of what is its own.
    fn hear(&mut self) -> Result<Vec<Input>, String> {
        let mut out = Vec::new();
        match self.events.recv().unwrap() {
            Event::Log(event) => self.disk.on_log(event, &mut out)?,
            Event::State(event) => self.disk.on_state(event, &mut out)?,
            Event::Loaded(loaded) => self.disk.on_loaded(loaded, &mut out)?,
        }
        let inputs = out.into_iter().map(|happened| match happened {
            Happened::Input(input) => input,
            Happened::Send(chunk) => panic!("{chunk:?}"),
        });
        Ok(inputs.collect())
    }

    fn next(&mut self) -> Vec<Input> {
        self.hear().unwrap()
    }

    fn forget(&mut self, group: GroupId, voted: bool) {
        self.disk.forget(group, voted);
        let forgotten = |input: &Input| matches!(input, Input::Forgotten(of) if *of == group);
        while !self.next().iter().any(forgotten) {}
    }
}

/// Something to be done, and how far it is.
struct Play {
    node: Node,
    log: Simulated,
    random: Random,
    groups: BTreeMap<GroupId, Group>,
    acts: BTreeMap<GroupId, Vec<Act>>,
    open: BTreeMap<GroupId, Waits>,
    /// Of each state: its hash, and the stream.
    foreign: BTreeMap<u64, (u64, Bytes)>,
    tokens: u64,
}

/// The stream of the state that these changes make, and its hash.
fn foreign(changes: Vec<RowChange>) -> (u64, Bytes) {
    let (sender, events) = channel();
    let config = StateStoreConfig::default();
    let (store, _) = StateStore::open_backend(Simulated::default(), config, move |event| {
        let _ = sender.send(event);
    })
    .unwrap();
    let (group, peer) = (GroupId(77), NodeId(1));
    store.changes(group, changes);
    let at = EntryId { index: Index(1), term: Term(1) };
    store.commit(group, CheckpointMark { at, conf: conf() });
    let (mut stream, mut size) = (Vec::new(), None);
    loop {
        match events.recv().unwrap() {
            StateStoreEvent::Taken(_) => {}
            StateStoreEvent::Checkpointed(_, Snapshot { id, bytes, .. }) => {
                size = Some(bytes as usize);
                store.snapshot(group, SnapCmd::Send { peer, id, from: 0, to: bytes });
            }
            StateStoreEvent::Chunk(out) => {
                stream.extend_from_slice(&out.chunk.bytes);
                if size == Some(stream.len()) {
                    return (out.chunk.id.hash, stream.into());
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

impl Play {
    fn run(seed: u64) -> (Play, Simulated) {
        let log = Simulated::default();
        let state = log.beside(Vec::new());
        let mut play = Play {
            node: open(&log, &state, "the first start"),
            log,
            random: Random::new(seed),
            groups: BTreeMap::new(),
            acts: BTreeMap::new(),
            open: BTreeMap::new(),
            foreign: (1..=TAGS).map(|tag| (tag, foreign(changes(tag)))).collect(),
            tokens: 0,
        };
        for _ in 0..ACTS {
            let group = GroupId(play.random.below(GROUPS) as u32 + 1);
            while play.open.contains_key(&group) {
                play.take();
            }
            play.begin(group);
        }
        while !play.open.is_empty() {
            play.take();
        }
        (play, state)
    }

    fn begin(&mut self, group: GroupId) {
        let now = self.groups.get(&group).copied().unwrap_or_default();
        let begun = self.log.now();
        let mut act = Act { begun, answered: u64::MAX, ways: vec![now], forget: None };
        self.tokens += 1;
        let token = WriteToken(self.tokens);
        let tag = self.random.below(TAGS) + 1;
        let mut hard = None;
        if now.log.hard == HardState::default() || self.random.below(4) == 0 {
            let term = Term(now.log.hard.term.0 + 1);
            hard = Some(HardState { term, voted_for: Some(NodeId(2)), ..HardState::default() });
        }
        let after = Log { hard: hard.unwrap_or(now.log.hard), ..now.log };
        let nothing =
            Write { token, hard, truncate_from: None, install: None, entries: Default::default() };
        match self.random.below(10) {
            0..4 => {
                let mut log = after;
                let mut write = nothing;
                for _ in 0..self.random.below(5) {
                    log.last = EntryId { index: log.last.index.next(), term: after.hard.term };
                    let payload = vec![tag as u8; within(&mut self.random, 0..2000)];
                    let entry = encode_entry(group, log.last, EntryKind::Command, &payload);
                    write.entries.push(entry);
                }
                act.ways.push(Group { log, ..now });
                self.open.insert(group, Waits::Write(token));
                self.node.disk.submit(vec![(group, write)]);
            }
            4..6 if now.log.last.index > now.state.map_or(Index(0), |(at, _)| at.index) => {
                let at = now.log.last;
                act.ways.push(Group { state: Some((at, tag)), ..now });
                self.open.insert(group, Waits::Checkpoint(CheckpointMark { at, conf: conf() }));
                let rows = StateCommand::Changes(changes(tag));
                assert!(self.node.disk.state(group, rows).is_none());
            }
            // Of what was not deleted, or this is the deletion.
            kind => {
                let forget = (kind > 7).then(|| self.random.below(2) == 0);
                act.forget = forget;
                let mut last = now;
                if kind != 9 {
                    let at = EntryId {
                        index: Index(now.log.last.index.0 + 1 + self.random.below(9)),
                        term: after.hard.term,
                    };
                    let (snapshot, stream) = self.foreign(tag, at);
                    let install = Some(Box::new(snapshot.clone()));
                    let write = Box::new(Write { install, ..nothing });
                    act.ways.push(Group { log: after, ..now });
                    let log = Log { hard: after.hard, base: at, last: at };
                    last = Group { log, compacted: at, state: Some((at, tag)) };
                    act.ways.push(last);
                    self.open.insert(group, Waits::Staged(write, forget));
                    let stage = StateCommand::Stage { snapshot, offset: 0, bytes: stream };
                    assert!(self.node.disk.state(group, stage).is_none());
                }
                if let Some(voted) = forget {
                    act.ways.extend(last.deleted(voted));
                    if kind == 9 {
                        self.open.insert(group, Waits::Forgotten);
                        self.node.disk.forget(group, voted);
                    }
                }
            }
        }
        self.groups.insert(group, *act.ways.last().unwrap());
        self.acts.entry(group).or_default().push(act);
    }

    /// A snapshot of another node, and its stream.
    fn foreign(&self, tag: u64, at: EntryId) -> (Snapshot, Bytes) {
        let (hash, stream) = self.foreign[&tag].clone();
        let id = SnapshotId { at, hash };
        (Snapshot { id, bytes: stream.len() as u64, conf: conf() }, stream)
    }

    /// Goes on with what the disk tells.
    fn take(&mut self) {
        for input in self.node.next() {
            match input {
                Input::Persisted(tokens) => {
                    for (group, token) in tokens {
                        if matches!(self.open.get(&group), Some(Waits::Write(of)) if *of == token) {
                            self.ended(group);
                        }
                    }
                }
                Input::Forgotten(group) => self.ended(group),
                Input::State { group, event } => self.state(group, event),
                Input::CheckpointWanted(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn state(&mut self, group: GroupId, event: StateEvent<shard_core::machine::Machine>) {
        let waits = self.open.remove(&group).expect("something of it is under way");
        let next = match (waits, event) {
            (Waits::Checkpoint(mark), StateEvent::Taken) => {
                assert!(self.node.disk.state(group, StateCommand::Commit(mark.clone())).is_none());
                Waits::Checkpoint(mark)
            }
            (Waits::Checkpoint(mark), StateEvent::Checkpointed(_)) => {
                self.open.insert(group, Waits::Checkpoint(mark.clone()));
                self.ended(group);
                if self.random.below(2) == 0 {
                    self.node.disk.compact(group, mark.at);
                    self.groups.get_mut(&group).unwrap().compacted = mark.at;
                    let acts = self.acts.get_mut(&group).unwrap();
                    acts.last_mut().unwrap().ways.last_mut().unwrap().compacted = mark.at;
                }
                return;
            }
            (
                Waits::Staged(write, forget),
                StateEvent::Snapshot(SnapEvent::Received { id, offset }),
            ) => {
                let snapshot = write.install.as_ref().unwrap();
                assert_eq!((id, offset), (snapshot.id, snapshot.bytes));
                assert!(self.node.disk.state(group, StateCommand::Install(write)).is_none());
                match forget {
                    Some(voted) => {
                        self.node.disk.forget(group, voted);
                        Waits::Forgotten
                    }
                    None => Waits::Install,
                }
            }
            (Waits::Install, StateEvent::Installed { .. }) => {
                self.open.insert(group, Waits::Install);
                return self.ended(group);
            }
            (_, event) => panic!("{event:?} of group {group}"),
        };
        self.open.insert(group, next);
    }

    fn ended(&mut self, group: GroupId) {
        self.open.remove(&group).expect("it is under way");
        self.acts.get_mut(&group).unwrap().last_mut().unwrap().answered = self.log.now();
    }

    /// What both files may have of a group if the power goes at this time, and whether it is being deleted.
    fn ways(&self, group: GroupId, time: u64) -> (Vec<Group>, Option<bool>) {
        let acts = self.acts.get(&group).map_or(&[][..], |acts| &acts[..]);
        match acts.iter().rfind(|act| act.begun < time) {
            None => (vec![Group::default()], None),
            Some(act) if act.answered < time => (vec![*act.ways.last().unwrap()], None),
            Some(act) => (act.ways.clone(), act.forget),
        }
    }

    /// That an image holds what it may; which groups are to be deleted. `again`: a start has gone on with that
    /// from wherever it was.
    fn check(
        &self,
        node: &Node,
        (time, again): (u64, bool),
        what: &str,
    ) -> BTreeMap<GroupId, bool> {
        let mut forgets = BTreeMap::new();
        for group in (1..=GROUPS as u32).map(GroupId) {
            let (mut ways, forget) = self.ways(group, time);
            if let Some(voted) = forget.filter(|_| again) {
                let deleted: Vec<Group> = ways.iter().flat_map(|way| way.deleted(voted)).collect();
                ways.extend(deleted);
            }
            let found = node.found.get(&group).copied().unwrap_or_default();
            let fits = ways.iter().any(|way| way.allows(&found));
            assert!(fits, "{what}: group {group} is {found:?}, not one of {ways:?}");
            forgets.extend(forget.map(|voted| (group, voted)));
        }
        forgets
    }
}

/// Does what a start does with an image, and goes on with deletions. What is left in the end.
fn recover(
    play: &Play,
    (log, state): (&Simulated, &Simulated),
    (time, again): (u64, bool),
    what: &str,
) {
    let mut node = open(log, state, what);
    let before = node.found.clone();
    let forgets = play.check(&node, (time, again), what);
    for (group, voted) in &forgets {
        node.forget(*group, *voted);
    }
    node.disk.close().unwrap();
    let mut node = open(log, state, what);
    for (group, before) in before {
        let now = node.found.get(&group).copied().unwrap_or_default();
        let expected = match forgets.get(&group) {
            None => before,
            Some(false) => Found::default(),
            Some(true) => {
                let log = Log { hard: before.log.hard, ..Log::default() };
                Found { log, state: None }
            }
        };
        assert_eq!(now, expected, "{what}: group {group} at the end");
    }
    while node.to_clean > 0 && node.disk.stats().1.to_clean > 0 {
        node.next();
    }
}

fn crash_everywhere(seed: u64, images: usize) {
    let (play, state) = Play::run(seed);
    let (log, end) = (play.log.clone(), play.log.now());
    let (log_steps, state_steps) = (log.steps(), state.steps());
    let (mut log_power, mut state_power) = (Power::new(&log_steps), Power::new(&state_steps));
    let mut random = Random::new(seed + 1);
    // Before its first answer there may be no files at all.
    let begun = play.acts.values().flatten().map(|act| act.begun).min().unwrap();
    for image in 0..images as u64 {
        let time = begun + 1 + image * (end - begun) / images as u64;
        let what = format!("seed {seed}, time {time} of {end}");
        let logs = log_power.lost_after(log.steps_before(time), &mut random);
        let states = state_power.lost_after(state.steps_before(time), &mut random);
        let recovered = Simulated::with(logs.clone());
        let beside = recovered.beside(states.clone());
        recover(&play, (&recovered, &beside), (time, false), &what);

        // And once more while it recovers.
        let again = random.below(recovered.now() + 1);
        let count = (recovered.steps_before(again), beside.steps_before(again));
        let logs = crash(&logs, &recovered.steps()[..count.0], &mut random);
        let states = crash(&states, &beside.steps()[..count.1], &mut random);
        let recovered = Simulated::with(logs);
        let beside = recovered.beside(states);
        let what = format!("{what}, then {again}");
        recover(&play, (&recovered, &beside), (time, true), &what);
    }
}

#[test]
fn f05_both_files_have_what_one_moment_allows_whenever_the_power_goes() {
    let images = std::env::var("FLOTILLA_CRASH_IMAGES");
    let images = images.map_or(IMAGES, |images| images.parse().expect("a number of images"));
    let first = std::env::var("FLOTILLA_CRASH_SEED");
    let first: u64 = first.map_or(0, |first| first.parse().expect("a seed"));
    let each = 250;
    let seeds = (images / (2 * each)).max(1) as u64;
    for seed in first..first + seeds {
        crash_everywhere(seed, each);
    }
    println!("{} images of {seeds} lives", 2 * each as u64 * seeds);
}

/// Its size and hash are what they were said to be, but no program has written such rows.
#[test]
fn s15_a_snapshot_that_no_state_machine_takes_ends_the_node_with_a_sentence() {
    let log = Simulated::default();
    let mut node = open(&log, &log.beside(Vec::new()), "the first start");
    let (key, head) = (Bytes::from_static(b"no row"), RowHead::new());
    let body = Bytes::from_static(b"of any state").into();
    let (hash, stream) = foreign(vec![RowChange::Put { key, head, body }]);
    let at = EntryId { index: Index(5), term: Term(1) };
    let bytes = stream.len() as u64;
    let snapshot = Snapshot { id: SnapshotId { at, hash }, bytes, conf: conf() };
    let group = GroupId(1);
    let stage = StateCommand::Stage { snapshot: snapshot.clone(), offset: 0, bytes: stream };
    assert!(node.disk.state(group, stage).is_none());
    let event = StateEvent::Snapshot(SnapEvent::Received { id: snapshot.id, offset: bytes });
    let received = node.next();
    assert_eq!(format!("{received:?}"), format!("{:?}", [Input::State { group, event }]));
    let hard = HardState { term: Term(1), ..HardState::default() };
    let install = Write {
        token: WriteToken(1),
        hard: Some(hard),
        truncate_from: None,
        install: Some(Box::new(snapshot)),
        entries: Default::default(),
    };
    assert!(node.disk.state(group, StateCommand::Install(Box::new(install))).is_none());
    let sentence = loop {
        match node.hear() {
            Ok(inputs) => {
                let told = |input: &Input| matches!(input, Input::State { .. });
                assert!(!inputs.iter().any(told), "{inputs:?}");
            }
            Err(sentence) => break sentence,
        }
    };
    let said = "the state of group 1 cannot be loaded: row 6e6f20726f77 ";
    assert!(sentence.starts_with(said), "{sentence}");
    assert!(sentence.ends_with("; the node does not start without it"), "{sentence}");
}

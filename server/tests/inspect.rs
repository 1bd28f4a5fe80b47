//! `flotilla inspect` (scenarios F14, F15, P7, P8, P13): what it says of sound and of broken directories,
//! and that it changes nothing.

use raft_core::effects::Write;
use raft_core::frame::encode_entry;
use raft_core::random::Random;
use raft_core::snapshot::{Snapshot, SnapshotId};
use raft_core::types::{
    Entry, EntryId, EntryKind, GroupId, HardState, Index, NodeId, Term, WriteToken,
};
use redb::ReadableTable;
use server::cluster_file;
use server::data_dir::Identity;
use server::inspect::{InspectError, inspect};
use server::log_store::{LogEvent, LogStore, LogStoreConfig};
use server::process::prepare_node;
use server::state_store::{StateStore, StateStoreConfig, StateStoreEvent};
use server::storage::OpenStorage;
use shard_core::checkpoint::CheckpointMark;
use shard_core::cluster_config::{ClusterConfig, ConfigNum};
use shard_core::codec::{EntryBatch, EntryItem, encode_batch};
use shard_core::kept::Kept;
use shard_core::machine::Machine;
use shard_core::op::{ExpiryCommand, Op, Set, SetExpiry};
use shard_core::session::{LogTime, Seq, SessionId};
use shard_core::shard_store::RowBudget;
use shard_core::slot::{Slot, hash_slot};
use shard_core::wire::LaneRequest;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

const MASTER: GroupId = GroupId(0);
const SHARD: GroupId = GroupId(1);
const CLUSTER: &str = "cluster_id = \"c\"\nsecret_file = \"secret\"\n\
    [[nodes]]\nid = 1\npeer = \"h:1\"\nresp = \"h:2\"\n\
    [shardmaster]\nvoters = [1]\n[[groups]]\nid = 1\nvoters = [1]\n";
const SMALL: [&str; 4] = ["identity", "cluster.toml", "secret", "map"];
const DATABASES: [&str; 2] = ["log.redb", "state.redb"];

/// A directory of node 1 with logs, checkpoints, and a snapshot that comes in.
struct Fixture {
    folder: tempfile::TempDir,
    log: LogStore,
    log_events: Receiver<LogEvent>,
    state: StateStore,
    state_events: Receiver<StateStoreEvent>,
}

fn id(index: u64) -> EntryId {
    EntryId { index: Index(index), term: Term(if index < 30 { 1 } else { 2 }) }
}

fn set(index: u64) -> EntryBatch {
    let key = format!("key-{index}").into_bytes();
    let value = vec![b'v'; if index == 25 { 60_000 } else { index as usize * 10 }];
    let op = Op::Set(Set {
        key: key.clone().into(),
        value: value.into(),
        expiry: SetExpiry::Clear,
        condition: None,
        get: false,
        command: ExpiryCommand::Set,
    });
    let request = LaneRequest {
        session: SessionId(u128::from(index)),
        deadline: LogTime(100_000),
        slot: hash_slot(&key),
        seq: Seq(1),
        acked: Seq(0),
        op,
    };
    let stamp = LogTime(1000 + index);
    EntryBatch { stamp, items: vec![EntryItem::Lane(request)], full: false }
}

/// Whose the fixture's files are.
fn owner() -> Identity {
    Identity { cluster_id: "c".into(), node: NodeId(1) }
}

fn first(item: EntryItem) -> EntryBatch {
    EntryBatch { stamp: LogTime(1000), items: vec![item], full: false }
}

impl Fixture {
    fn dir(&self) -> PathBuf {
        self.folder.path().join("node")
    }

    fn new() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cluster.toml");
        fs::write(&file, CLUSTER).unwrap();
        let secret = folder.path().join("secret");
        fs::write(&secret, "0123456789abcdef").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        let cluster = cluster_file::load(&file).unwrap();
        let dir = folder.path().join("node");
        prepare_node(NodeId(1), &dir, &cluster).unwrap();
        let (sender, log_events) = channel();
        let (log, _) = LogStore::open(
            (&dir.join("log.redb"), &owner()),
            &OpenStorage::default(),
            LogStoreConfig::default(),
            &BTreeMap::new(),
            move |event| sender.send(event).unwrap_or(()),
        )
        .unwrap();
        let (sender, state_events) = channel();
        let (state, _) = StateStore::open(
            (&dir.join("state.redb"), &owner()),
            &OpenStorage::default(),
            StateStoreConfig::default(),
            move |event| sender.send(event).unwrap_or(()),
        )
        .unwrap();
        let mut fixture = Fixture { folder, log, log_events, state, state_events };
        fixture.fill(&cluster.config);
        fixture
    }

    fn fill(&mut self, config: &ClusterConfig) {
        let slots = vec![(Slot(0), Slot(16_383))];
        let assign = EntryItem::Assign { config: ConfigNum(1), ranges: slots };
        let mut shard = vec![(1, None), (2, Some(first(assign)))];
        shard.extend((3..=40).map(|index| (index, Some(set(index)))));
        let master = vec![(1, None), (2, Some(first(EntryItem::Bootstrap(config.clone()))))];
        self.append(SHARD, &shard, 1);
        self.append(MASTER, &master, 2);
        self.checkpoint(SHARD, &shard, 30);
        self.checkpoint(MASTER, &master, 2);
        self.log.compact(SHARD, id(20));
        self.append(SHARD, &[(41, Some(set(41)))], 3);
        self.stage();
    }

    fn append(&mut self, group: GroupId, batches: &[(u64, Option<EntryBatch>)], token: u64) {
        let entries = batches.iter().map(|(index, batch)| match batch {
            None => encode_entry(group, id(*index), EntryKind::Empty, b""),
            Some(batch) => {
                encode_entry(group, id(*index), EntryKind::Command, &encode_batch(batch))
            }
        });
        let entries: Vec<Entry> = entries.collect();
        let hard = HardState { term: Term(2), voted_for: Some(NodeId(1)), promised_ns: 0 };
        let write = Write {
            token: WriteToken(token),
            hard: Some(hard),
            truncate_from: None,
            install: None,
            entries: entries.into_iter().collect(),
        };
        self.log.submit(vec![(group, write)]);
        match self.log_events.recv().unwrap() {
            LogEvent::Persisted(_) => {}
            other => panic!("{other:?}"),
        }
    }

    fn checkpoint(&mut self, group: GroupId, batches: &[(u64, Option<EntryBatch>)], at: u64) {
        let mut machine = Machine::new(group);
        for (_, batch) in batches.iter().filter(|(index, _)| *index <= at) {
            batch.clone().map(|batch| machine.apply(batch));
        }
        machine.freeze();
        let collected = machine.collect(RowBudget { rows: usize::MAX, bytes: usize::MAX });
        assert!(collected.done);
        self.state.changes(group, collected.rows);
        let conf = (Index(0), raft_core::conf::Conf::of_voters(vec![NodeId(1)]));
        self.state.commit(group, CheckpointMark { at: id(at), conf });
        for _ in 0..2 {
            match self.state_events.recv().unwrap() {
                StateStoreEvent::Taken(_) | StateStoreEvent::Checkpointed(..) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// One row and a part of the next one.
    fn stage(&mut self) {
        let mut stream = b"flotrow\x01".to_vec();
        for (key, value) in [(&b"a"[..], vec![b'x'; 100]), (b"b", vec![b'y'; 40_000])] {
            stream.extend_from_slice(&(key.len() as u32).to_le_bytes());
            stream.extend_from_slice(&(value.len() as u32).to_le_bytes());
            stream.extend_from_slice(key);
            stream.extend_from_slice(&value);
        }
        let conf = (Index(0), raft_core::conf::Conf::of_voters(vec![NodeId(1)]));
        let id = SnapshotId { at: id(60), hash: 7 };
        let snapshot = Snapshot { id, bytes: stream.len() as u64, conf };
        stream.truncate(20_000);
        self.state.stage(SHARD, snapshot, 0, stream.into());
        match self.state_events.recv().unwrap() {
            StateStoreEvent::Snapshot(..) => {}
            other => panic!("{other:?}"),
        }
    }

    /// What the process would leave that is killed now.
    fn killed(&self) -> PathBuf {
        let copy = self.folder.path().join("killed");
        copy_dir(&self.dir(), &copy);
        copy
    }

    /// What the process leaves that ends in order.
    fn stopped(self) -> (tempfile::TempDir, PathBuf) {
        let dir = self.dir();
        self.log.close().unwrap();
        self.state.close().unwrap();
        (self.folder, dir)
    }
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Everything about the files that a change would change.
fn files(dir: &Path) -> Vec<(String, Vec<u8>, i64, i64, u32)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap(), meta.mtime(), meta.mtime_nsec(), meta.mode())
        })
        .collect();
    files.sort();
    files
}

/// Faults, notes, and what is printed, without the directory's name. Nothing must change.
fn look(dir: &Path) -> (u64, u64, String) {
    let before = files(dir);
    let mut out = Vec::new();
    let total = inspect(dir, None, &mut out).unwrap_or_else(|error| panic!("{error}"));
    assert!(files(dir) == before, "a file was changed");
    let text = String::from_utf8(out).unwrap().replace(dir.to_str().unwrap(), "DIR");
    assert!(text.ends_with(&format!("\n{}\n", total.verdict())), "{text}");
    (total.faults, total.notes, text)
}

/// Sizes depend on how a process ended, and on redb.
fn without_sizes(text: &str) -> String {
    text.lines()
        .map(|line| match line.contains(".redb ") {
            true => format!("{}\n", line.split(',').next().unwrap()),
            false => format!("{line}\n"),
        })
        .collect()
}

const SOUND: &str = "\
DIR
  identity      node 1 of cluster \"c\", format 1
  cluster.toml  1 nodes, 1 groups and the shardmaster
  secret        16 bytes
  map           version 0, configuration 1: 1 node, 1 group
  log.redb      format 1
                rows 0 to 6, 47 frames, 69.1 KiB
  state.redb    format 1
  group 0 (shardmaster)
    term        2, voted for node 1
    log         after 0@0 up to 2@1: 2 entries, 90 bytes of frames, 1 term, from row 5 on
    checkpoint  at 2@1: 70 rows, 1449 bytes, hash HASH
                voters 1, as the cluster began
                configuration 1: 1 nodes, 2 groups
  group 1
    term        2, voted for node 1
    log         after 20@1 up to 41@2: 21 entries, 68.9 KiB of frames, 2 terms, from row 0 on
    checkpoint  at 30@2: 16441 rows, 512.3 KiB, hash HASH
                voters 1, as the cluster began
                28 keys, 0 with an expiry, 63.0 KiB of keys and values, 28 lanes
    coming in   a snapshot up to 60@2: 19.5 KiB are here
sound
";

#[test]
fn f15_a_sound_directory_is_said_to_be_sound_and_stays_as_it_is() {
    let fixture = Fixture::new();
    let killed = fixture.killed();
    let (_folder, stopped) = fixture.stopped();
    for dir in [killed, stopped] {
        let (_, _, text) = look(&dir);
        let text = without_sizes(&text);
        let hashes = text.split("hash ").skip(1).map(|rest| rest[..16].to_owned());
        let text = hashes.fold(text.clone(), |text, hash| text.replace(&hash, "HASH"));
        assert_eq!(text, SOUND);
        // Nor does it need a lock file, or make one.
        fs::remove_file(dir.join("LOCK")).unwrap();
        assert_eq!(look(&dir).0, 0);
    }
}

#[test]
fn p7_p8_files_of_two_moments_are_told_with_both_numbers() {
    let (_folder, dir) = Fixture::new().stopped();
    let path = dir.join("state.redb");
    let kept = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    StateStore::create(&path, false, &owner()).unwrap();
    let (faults, _, text) = look(&dir);
    assert_eq!(faults, 1, "{text}");
    let gap = "state of group 1 do not match: a replica cannot be opened: the checkpoint ends at index \
               0, the log begins after 20";
    assert!(text.contains(gap), "{text}");
    fs::write(&path, kept).unwrap();
    let log = dir.join("log.redb");
    fs::remove_file(&log).unwrap();
    LogStore::create(&log, false, &owner()).unwrap();
    let (faults, _, text) = look(&dir);
    assert_eq!(faults, 2, "{text}");
    assert!(text.contains("the checkpoint ends at index 30, the log already at 0"), "{text}");
}

#[test]
fn files_of_another_node_are_told_with_both_ids() {
    let (_folder, dir) = Fixture::new().stopped();
    let (log, state) = (dir.join("log.redb"), dir.join("state.redb"));
    fs::remove_file(&log).unwrap();
    fs::remove_file(&state).unwrap();
    let other = Identity { node: NodeId(2), ..owner() };
    LogStore::create(&log, false, &other).unwrap();
    StateStore::create(&state, false, &other).unwrap();
    let (faults, _, text) = look(&dir);
    assert_eq!(faults, 2, "{text}");
    for name in ["log", "state"] {
        let said = format!(
            "the {name} DIR/{name}.redb belongs to node 2 of cluster \"c\", its directory to node 1 of cluster \"c\""
        );
        assert!(text.contains(&said), "{text}");
    }
}

/// M17: what another node's disk has must not become what a group had.
#[test]
fn files_of_another_node_are_not_recovered_from() {
    let other = Identity { node: NodeId(2), ..owner() };
    for (kind, name) in [("log", "log.redb"), ("state", "state.redb"), ("map", "map")] {
        let (_folder, dir) = Fixture::new().stopped();
        let path = dir.join(name);
        let (kept, _) = Kept::decode(&fs::read(dir.join("map")).unwrap()).unwrap();
        fs::remove_file(&path).unwrap();
        match kind {
            "log" => LogStore::create(&path, false, &other).unwrap(),
            "state" => StateStore::create(&path, false, &other).unwrap(),
            _ => fs::write(&path, kept.encode(other.node)).unwrap(),
        }
        let before = files(&dir);
        let dir_name = dir.to_str().unwrap();
        let (code, out, err) =
            program(&["recover", dir_name, "--group", "1", "--accept-data-loss"]);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
        let said = format!(
            "flotilla: the {kind} {dir_name}/{name} belongs to node 2 of cluster \"c\", its directory to node 1 of \
             cluster \"c\"; put back the one that was here"
        );
        assert!(err.starts_with(&said) && err.lines().count() == 1, "{err}");
        assert!(files(&dir) == before, "{kind}: a file was changed");
    }
}

/// Flips one bit, and looks. Whether it was noticed.
fn flipped(dir: &Path, name: &str, at: u64, bit: u64, sound: &str) -> bool {
    let path = dir.join(name);
    let mut bytes = fs::read(&path).unwrap();
    bytes[at as usize] ^= 1 << bit;
    fs::write(&path, &bytes).unwrap();
    let (faults, notes, text) = look(dir);
    bytes[at as usize] ^= 1 << bit;
    fs::write(&path, &bytes).unwrap();
    let noticed = faults > 0 || notes > 0;
    assert!(noticed || text == sound, "byte {at} bit {bit} of {name}: {text}");
    noticed
}

#[test]
fn f15_a_flipped_bit_is_noticed_or_changes_nothing() {
    let fixture = Fixture::new();
    let killed = fixture.killed();
    let (_folder, stopped) = fixture.stopped();
    let mut random = Random::new(1);
    for dir in [stopped, killed] {
        let (_, _, sound) = look(&dir);
        for name in DATABASES {
            let len = fs::metadata(dir.join(name)).unwrap().len();
            let mut noticed = 0;
            // redb's header is small and says the most.
            let header = (0..60).map(|_| random.below(320)).collect::<Vec<_>>();
            let bits = (0..8).map(|bit| (9, bit));
            let pages = (0..140).map(|_| random.below(len)).collect::<Vec<_>>();
            let places = header.into_iter().chain(pages).map(|at| (at, random.below(8)));
            for (at, bit) in bits.chain(places.collect::<Vec<_>>()) {
                noticed += u64::from(flipped(&dir, name, at, bit, &sound));
            }
            assert!(noticed > 20, "{noticed} of 200 in {name}");
        }
        assert_eq!(look(&dir).2, sound);
    }
}

#[test]
fn f15_a_flipped_bit_of_a_small_file_is_noticed_or_shown() {
    let (_folder, dir) = Fixture::new().stopped();
    for name in SMALL {
        let path = dir.join(name);
        let kept = fs::read(&path).unwrap();
        for at in 0..kept.len() {
            let mut bytes = kept.clone();
            bytes[at] ^= 0x80;
            fs::write(&path, &bytes).unwrap();
            // A secret may be any bytes: those of other nodes would have to be compared.
            let (faults, _, text) = look(&dir);
            assert!(faults > 0 || name == "secret", "byte {at} of {name}: {text}");
        }
        fs::write(&path, &kept).unwrap();
    }
}

#[test]
fn f15_files_that_are_cut_emptied_filled_with_zeros_or_garbage_are_named() {
    let (_folder, dir) = Fixture::new().stopped();
    for name in SMALL.into_iter().chain(DATABASES) {
        let path = dir.join(name);
        let kept = fs::read(&path).unwrap();
        let mut zeroed = kept.clone();
        let page = 4096.min(zeroed.len());
        zeroed[..page].fill(0);
        let garbage: Vec<u8> = (0..kept.len()).map(|i| (i * 7 + i / 13) as u8 | 0x80).collect();
        let mut broken = vec![Vec::new(), zeroed, garbage.clone(), garbage[..9].to_vec()];
        broken.push(kept[..kept.len() / 2].to_vec());
        broken.push(kept[..kept.len() - 1].to_vec());
        for (number, bytes) in broken.into_iter().enumerate() {
            fs::write(&path, bytes).unwrap();
            let (faults, _, text) = look(&dir);
            // Any bytes are a secret if there are enough, and the last of a text is the end of its line.
            let secret = name == "secret" && matches!(number, 1 | 2);
            let text_whole = SMALL.contains(&name) && number == 5;
            assert!(faults > 0 || secret || text_whole, "{name}, way {number}: {text}");
            assert!(faults == 0 || text.contains("what to do: "), "{text}");
        }
        fs::remove_file(&path).unwrap();
        let (faults, notes, text) = look(&dir);
        assert!(faults + notes > 0 && text.contains(&format!("DIR/{name}")), "{text}");
        fs::create_dir(&path).unwrap();
        let mut out = Vec::new();
        let found = inspect(&dir, None, &mut out);
        assert!(found.is_ok_and(|total| total.faults > 0), "a directory named {name}");
        fs::remove_dir(&path).unwrap();
        fs::write(&path, kept).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    assert_eq!(look(&dir).0, 0);
}

#[test]
fn f15_what_cannot_be_looked_at_is_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |dir: &Path, needle: &str| {
        let error: InspectError = inspect(dir, None, &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains(needle), "{error}");
    };
    refused(&folder.path().join("none"), "none does not exist");
    refused(folder.path(), "holds no data of a node");
    fs::write(folder.path().join("file"), "x").unwrap();
    refused(&folder.path().join("file"), "is not a directory");
    refused(folder.path(), "holds no data of a node");
}

/// Runs the program: exit code, output, errors.
fn program(words: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_flotilla")).args(words).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn p13_f15_the_program_says_by_its_exit_code_what_it_found() {
    let (_folder, dir) = Fixture::new().stopped();
    let name = dir.to_str().unwrap();
    let (code, out, err) = program(&["inspect", name]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.ends_with("\nsound\n"), "{out}");
    let lock = fs::File::open(dir.join("LOCK")).unwrap();
    lock.lock().unwrap();
    let in_use = format!("flotilla: the data directory {name} is in use by another process\n");
    assert_eq!(program(&["inspect", name]), (Some(2), String::new(), in_use));
    drop(lock);
    assert_eq!(program(&["inspect"]).0, Some(2));
    // What a node cannot start on is not sound, and a pipe is not waited for.
    for (name, word) in
        [("LOCK", "mkdir"), ("LOCK", "mkfifo"), ("map", "mkfifo"), ("log.redb", "mkdir")]
    {
        let (path, away) = (dir.join(name), dir.with_extension("away"));
        fs::rename(&path, &away).unwrap();
        assert!(Command::new(word).arg(&path).status().unwrap().success());
        let (code, out, err) = program(&["inspect", dir.to_str().unwrap()]);
        assert_eq!((code, err.as_str()), (Some(1), ""), "{out}");
        assert!(out.contains(&format!("{} is no file", path.display())), "{out}");
        fs::remove_dir(&path).or_else(|_| fs::remove_file(&path)).unwrap();
        fs::rename(&away, &path).unwrap();
    }
    for (range, needle) in [
        (["1", "9..7"], "--entries: \"9..7\" has no index"),
        (["x", "1.."], "--entries: \"x\" is not a group's number"),
        (["7", "1.."], "--entries: the log has no entry of group 7"),
        (["1", "..20"], "--entries: the log has no entry of group 1 from 1..20"),
    ] {
        let (code, _, err) = program(&["inspect", name, "--entries", range[0], range[1]]);
        assert_eq!(code, Some(2), "{err}");
        assert!(err.starts_with("flotilla: ") && err.contains(needle), "{err}");
    }
    let (code, out, _) = program(&["inspect", name, "--entries", "1", "21..22"]);
    let entry = |index: u64| {
        let batch = encode_batch(&set(index));
        let (size, time) = (batch.len(), 1000 + index);
        let slot = hash_slot(format!("key-{index}").as_bytes()).0;
        format!(
            "{index}@1 command of {size} bytes, 1 item, time {time}\n  Set \"key-{index}\" ({} bytes)  \
             (slot {slot}, session {index:032x}, number 1)\n",
            index * 10
        )
    };
    assert_eq!(out, format!("{name}\n{}{}sound\n", entry(21), entry(22)));
    assert_eq!(code, Some(0));
    let (_, out, _) = program(&["inspect", name, "--entries", "1", "21", "--values"]);
    assert!(out.contains(&format!("Set \"key-21\" \"{}\"", "v".repeat(210))), "{out}");
    // Nobody reads: no complaint.
    let mut child = Command::new(env!("CARGO_BIN_EXE_flotilla"))
        .args(["inspect", name])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stderr), (Some(2), Vec::new()));
    fs::write(dir.join("log.redb"), "no log").unwrap();
    let (code, out, err) = program(&["inspect", name]);
    assert_eq!((code, err.as_str()), (Some(1), ""), "{out}");
    assert!(out.ends_with("\n1 fault\n"), "{out}");
}

/// Damage that redb does not see: its own checksums are right. Reading goes on behind it.
#[test]
fn f15_each_damage_is_named_with_its_place() {
    const WAL: redb::TableDefinition<u64, &[u8]> = redb::TableDefinition::new("wal");
    const ROWS: redb::TableDefinition<&[u8], &[u8]> = redb::TableDefinition::new("rows");
    const GROUPS: redb::TableDefinition<u32, &[u8]> = redb::TableDefinition::new("groups");
    let (_folder, dir) = Fixture::new().stopped();
    let database = redb::Database::open(dir.join("log.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut wal = transaction.open_table(WAL).unwrap();
        for row in [1, 5] {
            let mut value = wal.get(row).unwrap().unwrap().value().to_vec();
            value[60] ^= 1;
            wal.insert(row, &value[..]).unwrap();
        }
    }
    transaction.commit().unwrap();
    drop(database);
    let database = redb::Database::open(dir.join("state.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut rows = transaction.open_table(ROWS).unwrap();
        let keys: Vec<Vec<u8>> = rows
            .range::<&[u8]>(&[0, 0, 0, 1][..]..)
            .unwrap()
            .map(|row| row.unwrap().0.value().to_vec())
            .collect();
        for key in [&keys[10], &keys[20]] {
            let mut value = rows.get(&key[..]).unwrap().unwrap().value().to_vec();
            value[9] ^= 1;
            rows.insert(&key[..], &value[..]).unwrap();
        }
        let mut groups = transaction.open_table(GROUPS).unwrap();
        groups.insert(0, &b"nothing of this"[..]).unwrap();
    }
    transaction.commit().unwrap();
    drop(database);
    let (faults, _, text) = look(&dir);
    assert_eq!(faults, 5, "{text}");
    for place in ["damaged at row 0 byte ", "damaged at row 5 byte ", "group 0 of table groups"] {
        assert_eq!(text.matches(place).count(), 1, "{place}: {text}");
    }
    let rows = "of group 1, generation 0: key or value are not what the row's hash says";
    assert_eq!(text.matches(rows).count(), 2, "{text}");
    assert_eq!(text.matches("what to do: ").count(), 2, "{text}");
}

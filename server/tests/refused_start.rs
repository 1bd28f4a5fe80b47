//! A start that is refused, for one of a node's files, leaves all of them as they were (scenario F14): every
//! combination of files that are the node's own, from before files said whose they are, another node's, and of a
//! newer program.

use raft_core::effects::Write;
use raft_core::frame::encode_entry;
use raft_core::types::{EntryId, EntryKind, GroupId, HardState, Index, NodeId, Term, WriteToken};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use server::cluster_file::{self, Cluster};
use server::config::ClientSettings;
use server::data_dir::Identity;
use server::log_store::{LogStore, LogStoreConfig};
use server::process::{DiskOptions, NodeError, NodeOptions, Stop, prepare_node, run_node};
use server::standalone::runtime;
use server::state_store::{StateStore, StateStoreConfig};
use server::storage::OpenStorage;
use shard_core::checkpoint::CheckpointMark;
use shard_core::machine::Machine;
use shard_core::shard_store::RowBudget;
use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::LocalSet;

const GROUP: GroupId = GroupId(1);
const OWNER: TableDefinition<&str, u64> = TableDefinition::new("owner");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const FILES: [&str; 3] = ["log.redb", "state.redb", "map"];

/// What a file may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Own,
    /// It does not say whose it is.
    Older,
    /// Node 2's of the same cluster.
    Foreign,
    Newer,
}

const KINDS: [Kind; 4] = [Kind::Own, Kind::Older, Kind::Foreign, Kind::Newer];

/// Files of each kind, as a process leaves them that is killed.
struct Fixture {
    folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Fixture {
        let fixture = Fixture { folder: tempfile::tempdir().unwrap() };
        for node in [1, 2] {
            fixture.fill(NodeId(node));
        }
        for kind in [Kind::Older, Kind::Newer] {
            fixture.tamper(kind);
        }
        fixture
    }

    fn cluster(&self, peer: &str) -> Cluster {
        let secret = self.folder.path().join("secret");
        fs::write(&secret, "0123456789abcdef").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        let nodes: String = [1, 2]
            .map(|id| {
                format!("[[nodes]]\nid = {id}\npeer = \"{peer}{id}:1\"\nresp = \"h{id}:2\"\n")
            })
            .concat();
        let text = format!(
            "cluster_id = \"c\"\nsecret_file = \"secret\"\n{nodes}\
             [shardmaster]\nvoters = [1, 2]\n[[groups]]\nid = 1\nvoters = [1, 2]\n"
        );
        let file = self.folder.path().join("cluster.toml");
        fs::write(&file, text).unwrap();
        cluster_file::load(&file).unwrap()
    }

    /// The directory whose files are of that kind.
    fn of(&self, kind: Kind) -> PathBuf {
        self.folder.path().join(format!("{kind:?}"))
    }

    /// A node that has a vote and an entry, and a state, all of which was never closed.
    fn fill(&self, node: NodeId) {
        let dir = self.folder.path().join("running");
        prepare_node(node, &dir, &self.cluster("h")).unwrap();
        let owner = Identity { cluster_id: "c".into(), node };
        let (sender, log_events) = channel();
        let (log, _) = LogStore::open(
            (&dir.join("log.redb"), &owner),
            &OpenStorage::default(),
            LogStoreConfig::default(),
            &BTreeMap::new(),
            move |event| sender.send(event).unwrap_or(()),
        )
        .unwrap();
        let at = EntryId { index: Index(1), term: Term(1) };
        let hard = HardState { term: Term(1), voted_for: Some(node), promised_ns: 0 };
        let write = Write {
            token: WriteToken(1),
            hard: Some(hard),
            truncate_from: None,
            install: None,
            entries: [encode_entry(GROUP, at, EntryKind::Empty, b"")].into_iter().collect(),
        };
        log.submit(vec![(GROUP, write)]);
        log_events.recv().unwrap();
        let (sender, state_events) = channel();
        let (state, _) = StateStore::open(
            (&dir.join("state.redb"), &owner),
            &OpenStorage::default(),
            StateStoreConfig::default(),
            move |event| sender.send(event).unwrap_or(()),
        )
        .unwrap();
        let voters = raft_core::conf::Conf::of_voters(vec![NodeId(1), NodeId(2)]);
        state.commit(GroupId(7), CheckpointMark { at, conf: (Index(0), voters) });
        state_events.recv().unwrap();
        copy_dir(&dir, &self.of(if node == NodeId(1) { Kind::Own } else { Kind::Foreign }));
        log.close().unwrap();
        state.close().unwrap();
        fs::remove_dir_all(dir).unwrap();
    }

    /// The node's own files as an older program or a newer one has left them.
    fn tamper(&self, kind: Kind) {
        let dir = self.of(kind);
        copy_dir(&self.of(Kind::Own), &dir);
        for name in ["log.redb", "state.redb"] {
            disown(&dir.join(name), if kind == Kind::Older { 1 } else { 3 });
        }
        let map = fs::read(dir.join("map")).unwrap();
        let mut content = map[..map.len() - 4].to_vec();
        if kind == Kind::Older {
            // Node 1 is a byte at the end.
            assert_eq!(content.pop(), Some(1));
        }
        content[7] = if kind == Kind::Older { 2 } else { 4 };
        let shift = |sum: u32, _| (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg());
        let crc32 = |sum, byte: &u8| (0..8).fold(sum ^ u32::from(*byte), shift);
        let sum: u32 = !content.iter().fold(!0, crc32);
        content.extend_from_slice(&sum.to_le_bytes());
        fs::write(dir.join("map"), content).unwrap();
    }

    /// A directory of node 1 with log, state and map of these kinds.
    fn combined(&self, kinds: [Kind; 3]) -> PathBuf {
        let dir = self.folder.path().join("node");
        let _ = fs::remove_dir_all(&dir);
        copy_dir(&self.of(Kind::Own), &dir);
        for (name, kind) in FILES.into_iter().zip(kinds) {
            fs::copy(self.of(kind).join(name), dir.join(name)).unwrap();
        }
        dir
    }

    /// Starts node 1, and stops it if it comes to serve.
    fn start(&self, dir: &Path) -> Result<(), NodeError> {
        let socket = || TcpListener::bind("127.0.0.1:0").unwrap();
        let options = NodeOptions {
            id: NodeId(1),
            dir: dir.to_owned(),
            // New addresses and another secret: what a start writes that goes on.
            cluster: Cluster { secret: b"fedcba9876543210".to_vec(), ..self.cluster("new") },
            addresses: BTreeMap::new(),
            resp: vec![socket()],
            peer: socket(),
            cluster_port: None,
            request_timeout: Duration::from_secs(1),
            clients: ClientSettings::default(),
            maxmemory: 0,
            join: None,
            lease_reads: false,
            disk: DiskOptions::default(),
        };
        LocalSet::new().block_on(&runtime().unwrap(), async {
            let (started, serves) = oneshot::channel();
            let (drained, _) = oneshot::channel();
            let stop = Stop::default();
            let node = run_node(options, started, drained, stop.clone());
            tokio::pin!(node);
            tokio::select! {
                result = &mut node => return result,
                _ = serves => {}
            }
            stop.clients.cancel();
            stop.replicas.cancel();
            node.await
        })
    }
}

/// Gives a file that format, as a process leaves it that is killed. Format 1 names no owner.
fn disown(path: &Path, format: u64) {
    let running = path.with_extension("running");
    fs::rename(path, &running).unwrap();
    let database = Database::open(&running).unwrap();
    let transaction = database.begin_write().unwrap();
    if format == 1 {
        assert!(transaction.delete_table(OWNER).unwrap());
    }
    transaction.open_table(META).unwrap().insert("format", format).unwrap();
    transaction.commit().unwrap();
    fs::copy(&running, path).unwrap();
    drop(database);
    fs::remove_file(running).unwrap();
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Everything about the files that a change would change.
fn files(dir: &Path) -> BTreeMap<String, (Vec<u8>, i64, i64)> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| {
            let meta = entry.metadata().unwrap();
            let file = (fs::read(entry.path()).unwrap(), meta.mtime(), meta.mtime_nsec());
            (entry.file_name().into_string().unwrap(), file)
        })
        .collect()
}

#[test]
fn f14_a_start_that_is_refused_for_one_file_changes_none() {
    let fixture = Fixture::new();
    let mut refused = 0;
    for log in KINDS {
        for state in KINDS {
            for map in KINDS {
                let kinds = [log, state, map];
                let dir = fixture.combined(kinds);
                let before = files(&dir);
                let wrong = |kind: &Kind| matches!(kind, Kind::Foreign | Kind::Newer);
                let started = fixture.start(&dir);
                if !kinds.iter().any(wrong) {
                    started.unwrap_or_else(|error| panic!("{kinds:?}: {error}"));
                    all_say_whose_they_are(&dir);
                    continue;
                }
                let Err(error) = started else { panic!("{kinds:?} started") };
                let said = error.to_string();
                let named = FILES.iter().zip(kinds).filter(|(_, kind)| wrong(kind));
                let path = |name: &str| dir.join(name).display().to_string();
                assert!(
                    named.clone().any(|(name, _)| said.contains(&path(name))),
                    "{kinds:?}: {said}"
                );
                let after = files(&dir);
                let names = |files: &BTreeMap<String, _>| files.keys().cloned().collect::<Vec<_>>();
                assert_eq!(names(&after), names(&before), "{kinds:?}");
                for (name, file) in &after {
                    assert!(before[name] == *file, "{kinds:?}: {name} was changed: {said}");
                }
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 64 - 8);
}

/// A first start that was cut short has left some of the files, and what is there beside them is not its own.
#[test]
fn f14_a_first_start_that_is_refused_makes_nothing_and_changes_nothing() {
    let fixture = Fixture::new();
    let identity = |dir: &Path, log: bool| {
        let path = dir.join("identity");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("log = true"));
        fs::write(&path, text.replace("log = true", &format!("log = {log}"))).unwrap();
    };
    for (missing, foreign) in [("state.redb", "log.redb"), ("log.redb", "state.redb")] {
        for kind in [Kind::Foreign, Kind::Newer, Kind::Own, Kind::Older] {
            let dir = fixture.combined([Kind::Own; 3]);
            identity(&dir, false);
            fs::remove_file(dir.join(missing)).unwrap();
            fs::copy(fixture.of(kind).join(foreign), dir.join(foreign)).unwrap();
            let before = files(&dir);
            let started = fixture.start(&dir);
            if matches!(kind, Kind::Own | Kind::Older) {
                started.unwrap_or_else(|error| panic!("{kind:?} {foreign}: {error}"));
                all_say_whose_they_are(&dir);
                continue;
            }
            let said = started.expect_err("it is refused").to_string();
            assert!(said.contains(&dir.join(foreign).display().to_string()), "{said}");
            assert!(files(&dir) == before, "{kind:?} {foreign}: something was changed: {said}");
        }
    }
}

/// Each file is sound and the node's own, but the log is one from before the state's checkpoint.
#[test]
fn f14_log_and_state_of_different_moments_are_refused_as_they_are() {
    let fixture = Fixture::new();
    let dir = fixture.combined([Kind::Own; 3]);
    let owner = Identity { cluster_id: "c".into(), node: NodeId(1) };
    let (sender, events) = channel();
    let path = dir.join("state.redb");
    let (state, _) = StateStore::open(
        (&path, &owner),
        &OpenStorage::default(),
        StateStoreConfig::default(),
        move |event| sender.send(event).unwrap_or(()),
    )
    .unwrap();
    let mut machine = Machine::new(GROUP);
    machine.freeze();
    state.changes(GROUP, machine.collect(RowBudget { rows: 9, bytes: 9999 }).rows);
    let at = EntryId { index: Index(9), term: Term(5) };
    let voters = raft_core::conf::Conf::of_voters(vec![NodeId(1), NodeId(2)]);
    state.commit(GROUP, CheckpointMark { at, conf: (Index(0), voters) });
    assert_eq!(events.iter().take(2).count(), 2);
    state.close().unwrap();
    for name in ["log.redb", "state.redb"] {
        disown(&dir.join(name), 1);
    }
    let before = files(&dir);
    let error = fixture.start(&dir).unwrap_err();
    assert!(matches!(error, NodeError::Replica(_)), "{error}");
    assert!(files(&dir) == before, "something was changed: {error}");
}

fn all_say_whose_they_are(dir: &Path) {
    for name in ["log.redb", "state.redb"] {
        let database = Database::open(dir.join(name)).unwrap();
        let transaction = database.begin_read().unwrap();
        let owner = transaction.open_table(OWNER).unwrap();
        let (cluster, node) = owner.first().unwrap().unwrap();
        assert_eq!((cluster.value(), node.value()), ("c", 1));
        let format = transaction.open_table(META).unwrap().get("format").unwrap();
        assert_eq!(format.unwrap().value(), 2);
    }
    assert_eq!(fs::read(dir.join("map")).unwrap()[7], 3);
    assert_eq!(fs::read(dir.join("secret")).unwrap(), b"fedcba9876543210");
    assert!(fs::read_to_string(dir.join("cluster.toml")).unwrap().contains("new1:1"));
}

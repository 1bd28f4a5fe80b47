use super::*;
use crate::state_store::StateStore;
use raft_core::conf::Conf;
use raft_core::frame::encode_entry;
use raft_core::snapshot::{Snapshot, SnapshotId};
use raft_core::types::{Entry, EntryId, EntryKind, HardState, Index, NodeId, Term};
use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, ReadableTable};
use std::sync::mpsc::{Receiver, channel};

type Wal<'t> = redb::Table<'t, u64, &'static [u8]>;

const G1: GroupId = GroupId(1);
const G2: GroupId = GroupId(2);
const G3: GroupId = GroupId(3);
const G64: GroupId = GroupId(64);

fn entry(group: GroupId, index: u64, term: u64, payload: &[u8]) -> Entry {
    let id = EntryId { index: Index(index), term: Term(term) };
    encode_entry(group, id, EntryKind::Command, payload)
}

fn write(token: u64, entries: Vec<Entry>) -> Write {
    Write {
        token: WriteToken(token),
        hard: None,
        truncate_from: None,
        install: None,
        entries: entries.into(),
    }
}

fn fetch(id: u64, from: u64, to: u64, bytes_max: u64) -> Fetch {
    Fetch { id: FetchId(id), from: Index(from), to: Index(to), bytes_max }
}

struct Open {
    store: LogStore,
    groups: BTreeMap<GroupId, Restored>,
    events: Receiver<LogEvent>,
}

fn try_open(path: &Path, config: LogStoreConfig) -> Result<Open, LogStoreError> {
    open_installing(path, config, &[])
}

fn owner(node: u64) -> Identity {
    Identity { cluster_id: "c".into(), node: NodeId(node) }
}

fn open_installing(
    path: &Path,
    config: LogStoreConfig,
    installing: &[(GroupId, EntryId)],
) -> Result<Open, LogStoreError> {
    let (sender, events) = channel();
    let installing = installing.iter().copied().collect();
    let report = move |event| {
        let _ = sender.send(event);
    };
    let (store, groups) =
        LogStore::open((path, &owner(1)), &OpenStorage::default(), config, &installing, report)?;
    Ok(Open { store, groups, events })
}

fn open(path: &Path) -> Open {
    try_open(path, LogStoreConfig::default()).unwrap()
}

impl Open {
    fn persisted(&self) -> Vec<(GroupId, WriteToken)> {
        match self.events.recv().unwrap() {
            LogEvent::Persisted(tokens) => tokens,
            other => panic!("{other:?}"),
        }
    }

    fn fetched(&self, group: GroupId, fetch: Fetch) -> FetchResult {
        let want = fetch.id;
        self.store.fetch(group, fetch);
        loop {
            match self.events.recv().unwrap() {
                LogEvent::Fetched { id, result, .. } if id == want => return result,
                LogEvent::Persisted(_) | LogEvent::CheckpointWanted(_) | LogEvent::Forgotten(_) => {
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn what_was_written_is_recovered_and_fetched() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.redb");
    let big = vec![7; 100_000];
    let entries = vec![entry(G1, 1, 1, b"a"), entry(G1, 2, 1, &big), entry(G1, 3, 2, b"c")];
    let hard = HardState { term: Term(2), voted_for: Some(NodeId(3)), promised_ns: 0 };
    {
        let log = open(&path);
        assert!(log.groups.is_empty());
        let first = Write { hard: Some(hard), ..write(1, entries.clone()) };
        log.store.submit(vec![(G1, first), (G2, write(1, vec![entry(G2, 1, 1, b"x")]))]);
        assert_eq!(log.persisted(), [(G1, WriteToken(1)), (G2, WriteToken(1))]);
        assert_eq!(
            log.fetched(G1, fetch(1, 1, 3, u64::MAX)),
            FetchResult::Entries(entries.clone())
        );
        let stats = log.store.stats();
        assert_eq!((stats.commits, stats.entries, stats.queued_bytes), (1, 4, 0));
        assert!(stats.file_bytes > 100_000);
        log.store.close().unwrap();
    }
    let log = open(&path);
    let runs = vec![entries[0].id, entries[2].id];
    let expected = Restored { hard, term_runs: runs, last: entries[2].id, ..Restored::default() };
    assert_eq!(log.groups[&G1], expected);
    assert_eq!(log.groups[&G2].last, EntryId { index: Index(1), term: Term(1) });
    assert_eq!(
        log.fetched(G1, fetch(1, 2, 9, u64::MAX)),
        FetchResult::Entries(entries[1..].to_vec())
    );
    assert_eq!(log.fetched(G1, fetch(2, 1, 3, 1)), FetchResult::Entries(entries[..1].to_vec()));
    assert_eq!(log.fetched(G1, fetch(3, 4, 9, 1)), FetchResult::Gone);
    assert_eq!(log.fetched(GroupId(9), fetch(4, 1, 9, 1)), FetchResult::Gone);
}

#[test]
fn a_fetch_sees_what_was_submitted_before_it_and_a_cut_drops_entries() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.redb");
    let log = open(&path);
    let old: Vec<Entry> = (1..=5).map(|i| entry(G1, i, 1, b"old")).collect();
    let new: Vec<Entry> = (3..=4).map(|i| entry(G1, i, 2, b"new")).collect();
    log.store.submit(vec![(G1, write(1, old.clone()))]);
    log.store.submit(vec![(G1, Write { truncate_from: Some(Index(3)), ..write(2, new.clone()) })]);
    let expected: Vec<Entry> = old[..2].iter().chain(&new).cloned().collect();
    assert_eq!(log.fetched(G1, fetch(1, 1, 9, u64::MAX)), FetchResult::Entries(expected.clone()));
    log.store.submit(vec![(G1, Write { truncate_from: Some(Index(4)), ..write(3, vec![]) })]);
    assert_eq!(log.fetched(G1, fetch(2, 4, 9, 1)), FetchResult::Gone);
    log.store.close().unwrap();

    let log = open(&path);
    assert_eq!(log.groups[&G1].last, new[0].id);
    assert_eq!(log.groups[&G1].term_runs, [old[0].id, new[0].id]);
    let left = FetchResult::Entries(expected[..3].to_vec());
    assert_eq!(log.fetched(G1, fetch(1, 1, 9, u64::MAX)), left);
}

#[test]
fn many_groups_interleaved_are_read_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.redb");
    let payload = |group: u32, index: u64| vec![group as u8; (index as usize * 37) % 900];
    let log = open(&path);
    for index in 1..=200 {
        let writes = (1..=7).map(|group| {
            let entry = entry(GroupId(group), index, 1, &payload(group, index));
            (GroupId(group), write(index, vec![entry]))
        });
        log.store.submit(writes.collect());
    }
    log.store.close().unwrap();
    let log = open(&path);
    for group in 1..=7 {
        let group_id = GroupId(group);
        for (from, to) in [(1, 200), (57, 58), (200, 200)] {
            let FetchResult::Entries(entries) =
                log.fetched(group_id, fetch(from, from, to, u64::MAX))
            else {
                panic!("{group_id} {from} is gone")
            };
            let expected: Vec<Entry> =
                (from..=to).map(|i| entry(group_id, i, 1, &payload(group, i))).collect();
            assert_eq!(entries, expected);
        }
    }
}

#[test]
fn a_log_that_should_be_there_is_not_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.redb");
    let config = LogStoreConfig { must_exist: true, ..LogStoreConfig::default() };
    assert!(matches!(try_open(&path, config), Err(LogStoreError::Missing(_))));
    std::fs::write(&path, b"").unwrap();
    assert!(matches!(try_open(&path, config), Err(LogStoreError::Missing(_))));
    std::fs::remove_file(&path).unwrap();
    std::fs::write(directory.path().join("log.redb.unfinished"), b"half of a file").unwrap();
    open(&path).store.close().unwrap();
    try_open(&path, config).unwrap().store.close().unwrap();
    std::fs::write(&path, vec![0x5a; 100_000]).unwrap();
    let error = try_open(&path, config).err().unwrap().to_string();
    assert!(error.contains("log.redb"), "{error}");
}

#[test]
fn a_writer_that_contradicts_itself_ends_with_a_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.redb");
    let log = open(&path);
    log.store.submit(vec![(G1, write(1, vec![entry(G1, 2, 1, b"")]))]);
    let LogEvent::Failed(sentence) = log.events.recv().unwrap() else { panic!("not refused") };
    assert!(sentence.contains("log.redb"), "{sentence}");
    assert!(sentence.contains("entry 2@1 of group 1 stands after index 0"), "{sentence}");
    log.store.submit(vec![(G1, write(2, vec![entry(G1, 1, 1, b"")]))]);
    assert_eq!(log.store.close(), Err(sentence));
    assert!(log.events.recv().is_err(), "an event after the failure");
}

/// Each damage is made with redb itself, as if the program had written it.
#[test]
fn rows_that_are_not_what_was_written_stop_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let check = |name: &str, damage: &dyn Fn(&mut Wal<'_>), want: &str| {
        let path = directory.path().join(name);
        let log = open(&path);
        log.store.submit(vec![(G1, write(1, vec![entry(G1, 1, 1, &[1; 40_000])]))]);
        log.store.submit(vec![(G1, write(2, vec![entry(G1, 2, 1, b"b")]))]);
        log.store.close().unwrap();
        let database = Database::builder()
            .create_with_backend(FileBackend::new(options(&path)).unwrap())
            .unwrap();
        let transaction = database.begin_write().unwrap();
        damage(&mut transaction.open_table(wal::WAL).unwrap());
        transaction.commit().unwrap();
        drop(database);
        let error = try_open(&path, LogStoreConfig::default()).err().unwrap().to_string();
        assert!(error.contains(name) && error.contains(want), "{error}");
    };
    let flip = |table: &mut Wal<'_>, seq: u64, at: usize| {
        let mut value = table.remove(seq).unwrap().unwrap().value().to_vec();
        value[at] ^= 1;
        table.insert(seq, &value[..]).unwrap();
    };
    check("frame", &|table| flip(table, 1, 5_000), "row 0 byte 0: checksum");
    check("length", &|table| flip(table, 0, 9 + 3), "row 0 byte 0: ");
    check("header", &|table| flip(table, 1, 3), "row 1 byte 0: a row that does not go on");
    check("first", &|table| flip(table, 1, 0), "row 1 byte 0: a row that does not go on");
    check("begin", &|table| drop(table.remove(0).unwrap()), "row 0 byte 0: the row is missing");
    check("row", &|table| drop(table.remove(1).unwrap()), "row 1 byte 0: the row is missing");
    check("end", &|table| drop(table.remove(2).unwrap()), "row 2 byte 0: the row is missing");
}

/// The log's beginning is gone: without what says so, or with another beginning than it says.
#[test]
fn a_beginning_that_is_not_the_one_that_was_left_stops_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let check = |name: &str, damage: &dyn Fn(&redb::WriteTransaction), want: &str| {
        let path = directory.path().join(name);
        let log = try_open(&path, small()).unwrap();
        for index in 1..=100 {
            log.store.submit(vec![(G1, write(index, vec![entry(G1, index, 1, b"some bytes")]))]);
            log.persisted();
            log.store.compact(G1, id(index, 1));
        }
        log.store.close().unwrap();
        let log = try_open(&path, small()).unwrap();
        assert!(log.groups[&G1].base.index > Index(50));
        log.store.close().unwrap();
        let database = Database::builder()
            .create_with_backend(FileBackend::new(options(&path)).unwrap())
            .unwrap();
        let transaction = database.begin_write().unwrap();
        damage(&transaction);
        transaction.commit().unwrap();
        drop(database);
        let error = try_open(&path, small()).err().unwrap().to_string();
        assert!(error.contains(name) && error.contains(want), "{error}");
    };
    let first = |transaction: &redb::WriteTransaction| {
        transaction.open_table(wal::META).unwrap().get(wal::FIRST_KEY).unwrap().unwrap().value()
    };
    check(
        "forgotten",
        &|transaction| {
            transaction.open_table(wal::META).unwrap().remove(wal::FIRST_KEY).unwrap();
        },
        "row 0 byte 0: the row is missing",
    );
    check(
        "lost",
        &|transaction| {
            let first = first(transaction);
            transaction.open_table(wal::WAL).unwrap().remove(first).unwrap();
        },
        "the row is missing",
    );
    check(
        "later",
        &|transaction| {
            let next = first(transaction) + 1;
            transaction.open_table(wal::META).unwrap().insert(wal::FIRST_KEY, next).unwrap();
        },
        "a row before the first one",
    );
}

/// A log that collects as soon as it can.
fn small() -> LogStoreConfig {
    LogStoreConfig { collect_bytes_min: 1, ..LogStoreConfig::default() }
}

fn id(index: u64, term: u64) -> EntryId {
    EntryId { index: Index(index), term: Term(term) }
}

fn hard(term: u64, node: u64) -> HardState {
    HardState { term: Term(term), voted_for: Some(NodeId(node)), promised_ns: 0 }
}

fn snapshot(at: EntryId) -> Option<Box<Snapshot>> {
    let conf = (Index(0), Conf::of_voters(vec![NodeId(1)]));
    Some(Box::new(Snapshot { id: SnapshotId { at, hash: 1 }, bytes: 1, conf }))
}

#[test]
fn a_compacted_log_begins_after_its_base() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.redb");
    let entries: Vec<Entry> = (1..=6).map(|i| entry(G1, i, i.div_ceil(2), b"some")).collect();
    let log = open(&path);
    let first = Write { hard: Some(hard(3, 2)), ..write(1, entries[..5].to_vec()) };
    log.store.submit(vec![(G1, first)]);
    log.persisted();
    log.store.compact(G1, entries[2].id);
    log.store.compact(G1, entries[0].id);
    assert_eq!(log.fetched(G1, fetch(1, 3, 5, u64::MAX)), FetchResult::Gone);
    let held = FetchResult::Entries(entries[3..5].to_vec());
    assert_eq!(log.fetched(G1, fetch(2, 4, 5, u64::MAX)), held);
    log.store.close().unwrap();

    // Nothing was written after it, so it was only in memory.
    let log = open(&path);
    assert_eq!(log.groups[&G1].base, EntryId::default());
    log.store.compact(G1, entries[2].id);
    log.store.submit(vec![(G2, write(1, vec![entry(G2, 1, 1, b"x")]))]);
    log.store.close().unwrap();

    let log = open(&path);
    let expected = Restored {
        hard: hard(3, 2),
        base: entries[2].id,
        term_runs: vec![entries[3].id, entries[4].id],
        last: entries[4].id,
        ..Restored::default()
    };
    assert_eq!(log.groups[&G1], expected);
    assert_eq!(log.fetched(G1, fetch(3, 4, 5, u64::MAX)), held);
    assert_eq!(log.fetched(G1, fetch(4, 2, 5, u64::MAX)), FetchResult::Gone);
    log.store.submit(vec![(G1, write(2, entries[5..].to_vec()))]);
    log.store.compact(G1, entries[5].id);
    log.store.submit(vec![(G2, write(2, vec![entry(G2, 2, 1, b"x")]))]);
    log.store.close().unwrap();
    let log = open(&path);
    assert_eq!((log.groups[&G1].base, log.groups[&G1].last), (entries[5].id, entries[5].id));
    assert!(log.groups[&G1].term_runs.is_empty());
}

#[test]
fn a_snapshot_takes_the_place_of_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.redb");
    let log = open(&path);
    let old = (1..=5).map(|i| entry(G1, i, 1, b"old")).collect();
    log.store.submit(vec![(G1, Write { hard: Some(hard(4, 1)), ..write(1, old) })]);
    let install = snapshot(id(9, 2));
    let after = vec![entry(G1, 10, 3, b"after"), entry(G1, 11, 4, b"after")];
    log.store.submit(vec![(G1, Write { install, ..write(2, after.clone()) })]);
    let install = snapshot(id(3, 2));
    log.store.submit(vec![(G2, Write { install, hard: Some(hard(2, 3)), ..write(1, vec![]) })]);
    let check = |log: &Open| {
        assert_eq!(log.fetched(G1, fetch(1, 3, 11, u64::MAX)), FetchResult::Gone);
        let held = FetchResult::Entries(after.clone());
        assert_eq!(log.fetched(G1, fetch(2, 10, 11, u64::MAX)), held);
    };
    check(&log);
    log.store.close().unwrap();
    let log = open(&path);
    check(&log);
    let (first, second) = (&log.groups[&G1], &log.groups[&G2]);
    assert_eq!((first.hard, first.base, first.last), (hard(4, 1), id(9, 2), id(11, 4)));
    assert_eq!((second.hard, second.base, second.last), (hard(2, 3), id(3, 2), id(3, 2)));
}

/// The state's file has a snapshot; the log did not hear of it, heard half, or has more.
#[test]
fn an_install_that_a_crash_interrupted_is_finished() {
    let directory = tempfile::tempdir().unwrap();
    let cases: [(&str, EntryId, EntryId, EntryId); 5] = [
        ("has more", id(2, 1), id(2, 1), id(4, 2)),
        ("has just that", id(4, 2), id(4, 2), id(4, 2)),
        ("has another entry there", id(2, 2), id(2, 2), id(2, 2)),
        ("is shorter", id(9, 3), id(9, 3), id(9, 3)),
        ("is the same", id(0, 0), id(0, 0), id(4, 2)),
    ];
    for (name, at, base, last) in cases {
        let path = directory.path().join(name);
        let log = open(&path);
        let entries: Vec<Entry> =
            (1..=4).map(|i| entry(G1, i, 1 + u64::from(i > 2), b"old")).collect();
        let first = Write { hard: Some(hard(5, 1)), ..write(1, entries.clone()) };
        log.store.submit(vec![(G1, first)]);
        log.store.close().unwrap();
        for installing in [&[(G1, at)][..], &[]] {
            let log = open_installing(&path, LogStoreConfig::default(), installing).unwrap();
            let found = &log.groups[&G1];
            assert_eq!((found.hard, found.base, found.last), (hard(5, 1), base, last), "{name}");
            if last > base {
                let from = base.index.0 as usize;
                let held = FetchResult::Entries(entries[from..].to_vec());
                let fetch = fetch(1, from as u64 + 1, 9, u64::MAX);
                assert_eq!(log.fetched(G1, fetch), held, "{name}");
            }
            log.store.close().unwrap();
        }
    }
    // A log that begins later is not touched: the replica names the gap.
    let path = directory.path().join("later");
    let log = open(&path);
    log.store.submit(vec![(G1, Write { install: snapshot(id(9, 2)), ..write(1, vec![]) })]);
    log.store.close().unwrap();
    let log = open_installing(&path, small(), &[(G1, id(3, 1)), (G2, id(7, 1))]).unwrap();
    assert_eq!((log.groups[&G1].base, log.groups[&G2].base), (id(9, 2), id(7, 1)));
}

/// Whoever reads the sentence knows which file it is, that others serve on, and what to do.
#[test]
fn what_is_no_log_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.redb");
    open(&path).store.close().unwrap();
    let sound = std::fs::read(&path).unwrap();
    let other = directory.path().join("state.redb");
    StateStore::create(&other, false, &owner(1)).unwrap();
    let other = std::fs::read(&other).unwrap();
    for (content, what) in [
        (&sound[..100], "unexpected end of file"),
        (&sound[..5000], "truncated"),
        (&[7; 5000], "Not a redb database"),
        (&other, "Table 'wal' does not exist"),
    ] {
        std::fs::write(&path, content).unwrap();
        let Err(error) = try_open(&path, small()) else { panic!("{what}: it is no log") };
        let said = error.to_string();
        assert!(said.starts_with(&format!("the log {} is damaged: ", path.display())), "{said}");
        assert!(said.contains(what) && said.ends_with(HOW_TO_GO_ON), "{said}");
    }
}

/// A file from before files said whose they are is the first one's who opens it.
#[test]
fn another_nodes_log_is_refused_with_both_ids() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.redb");
    let log = open(&path);
    log.store.submit(vec![(G1, write(1, vec![entry(G1, 1, 1, b"x")]))]);
    log.persisted();
    log.store.close().unwrap();
    let open_as = |owner: &Identity| {
        let (config, nothing) = (LogStoreConfig::default(), BTreeMap::new());
        LogStore::open((&path, owner), &OpenStorage::default(), config, &nothing, |_| {})
    };
    let dave = Identity { cluster_id: "d".into(), node: NodeId(1) };
    for (other, named) in [(owner(2), "node 2 of cluster \"c\""), (dave, "node 1 of cluster \"d\"")]
    {
        let Err(error) = open_as(&other) else { panic!("it is another's") };
        let said = error.to_string();
        let begins = format!("the log {} belongs to node 1 of cluster \"c\", its", path.display());
        assert!(said.starts_with(&begins) && said.contains(named), "{said}");
        assert!(said.ends_with(HOW_TO_GO_ON), "{said}");
    }
    let log = open(&path);
    assert_eq!(log.groups[&G1].last, id(1, 1), "nothing of it was changed");
    log.store.close().unwrap();
    // As an older program has left it.
    let database = Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    let owners = redb::TableDefinition::<&str, u64>::new("owner");
    assert!(transaction.delete_table(owners).unwrap());
    transaction.open_table(wal::META).unwrap().insert(wal::FORMAT_KEY, 1).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let (store, groups) = open_as(&owner(2)).unwrap();
    assert_eq!(groups[&G1].last, id(1, 1));
    store.close().unwrap();
    assert!(matches!(try_open(&path, small()), Err(LogStoreError::OtherOwner(_))));
    let database = Database::open(&path).unwrap();
    let transaction = database.begin_read().unwrap();
    let format = transaction.open_table(wal::META).unwrap().get(wal::FORMAT_KEY).unwrap();
    assert_eq!(format.unwrap().value(), 2, "an older program does not start on it");
}

/// What is live stands at the end of a file that is mostly free space.
#[test]
fn a_start_gives_free_space_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.redb");
    let size = || std::fs::metadata(&path).unwrap().len();
    let log = open(&path);
    for index in 1..=40 {
        log.store.submit(vec![(G1, write(index, vec![entry(G1, index, 1, &[1; 100_000])]))]);
        log.persisted();
    }
    log.store.submit(vec![(G2, write(1, vec![entry(G2, 1, 1, &[2; 100_000])]))]);
    log.store.compact(G1, id(40, 1));
    let mut last = 1;
    while log.store.stats().removed_blobs < 40 {
        last += 1;
        log.store.submit(vec![(G2, write(last, vec![entry(G2, last, 1, b"x")]))]);
        log.persisted();
    }
    log.store.close().unwrap();
    let before = size();
    open(&path).store.close().unwrap();
    assert!(
        before > 3 << 20 && size() > 3 << 20,
        "{before}, {}: there was nothing to give",
        size()
    );
    let log = try_open(&path, small()).unwrap();
    assert!(size() < 1 << 20, "{before} became {}", size());
    assert_eq!((log.groups[&G1].base, log.groups[&G2].last), (id(40, 1), id(last, 1)));
    let FetchResult::Entries(entries) = log.fetched(G2, fetch(1, 1, 2, u64::MAX)) else {
        panic!("gone")
    };
    assert_eq!(entries[0], entry(G2, 1, 1, &[2; 100_000]));
}

/// 64 groups, of which one voted, wrote, took some of it back and fell silent at the beginning, one
/// only voted, and one has too much to be written anew at once: whatever the others write, the log stays
/// short and these stay whole. `FLOTILLA_LOG_ROUNDS` says how much they write, 20 KB a round.
#[test]
fn groups_that_fall_silent_do_not_keep_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.redb");
    let rounds = std::env::var("FLOTILLA_LOG_ROUNDS");
    let rounds = rounds.map_or(600, |rounds| rounds.parse().expect("a number of rounds"));
    let min = 256 << 10;
    let config = LogStoreConfig {
        collect_bytes_min: min,
        rewrite_bytes_max: 40_000,
        ..LogStoreConfig::default()
    };
    let log = try_open(&path, config).unwrap();
    let idle: Vec<Entry> = (1..=30).map(|i| entry(G1, i, 1, &[1; 1000])).collect();
    log.store.submit(vec![(G1, Write { hard: Some(hard(7, 3)), ..write(1, idle.clone()) })]);
    log.store.submit(vec![(G3, Write { hard: Some(hard(4, 2)), ..write(1, vec![]) })]);
    let again = vec![entry(G1, 28, 2, b"again")];
    log.store.submit(vec![(G1, Write { truncate_from: Some(Index(28)), ..write(2, again) })]);
    let much: Vec<Entry> = (1..=60).map(|i| entry(G2, i, 1, &[2; 1000])).collect();
    log.store.submit(vec![(G2, Write { hard: Some(hard(2, 1)), ..write(1, much.clone()) })]);
    let mut wanted = 0;
    let mut most = (0, 0);
    for index in 1..=rounds {
        let writes = (4..=64).map(|group| {
            let group = GroupId(group);
            (group, write(index, vec![entry(group, index, 1, &[3; 300])]))
        });
        log.store.submit(writes.collect());
        loop {
            match log.events.recv().unwrap() {
                LogEvent::CheckpointWanted(group) => {
                    assert_eq!(group, G2);
                    wanted += 1;
                }
                LogEvent::Persisted(tokens) if tokens.contains(&(G64, WriteToken(index))) => break,
                LogEvent::Persisted(_) => {}
                other => panic!("{other:?}"),
            }
        }
        if index % 10 == 0 {
            for group in 4..=64 {
                log.store.compact(GroupId(group), id(index - 5, 1));
            }
        }
        if index > 310 {
            let stats = log.store.stats();
            most = (most.0.max(stats.log_bytes), most.1.max(stats.file_bytes));
        }
        if index == 300 {
            log.store.compact(G2, id(50, 1));
        }
    }
    let stats = log.store.stats();
    log.store.close().unwrap();
    let log = try_open(&path, config).unwrap();
    let (first, second, third) = (&log.groups[&G1], &log.groups[&G2], &log.groups[&G3]);
    assert_eq!((first.hard, first.base, first.last), (hard(7, 3), id(0, 0), id(28, 2)));
    assert_eq!((second.hard, second.base, second.last), (hard(2, 1), id(50, 1), id(60, 1)));
    assert_eq!((third.hard, third.base, third.last), (hard(4, 2), id(0, 0), id(0, 0)));
    let mut left = idle[..27].to_vec();
    left.push(entry(G1, 28, 2, b"again"));
    assert_eq!(log.fetched(G1, fetch(1, 1, 30, u64::MAX)), FetchResult::Entries(left));
    let held = FetchResult::Entries(much[50..].to_vec());
    assert_eq!(log.fetched(G2, fetch(2, 51, 60, u64::MAX)), held);
    println!("{stats:?}, at most {most:?} bytes of log and file");
    assert!(stats.bytes > rounds * (20 << 10) && stats.rewrites > 2, "{stats:?}");
    // The file is as large as the log was while it waited for the checkpoint.
    assert!(most.0 < 4 * min && most.1 < 12 << 20, "{most:?} {stats:?}");
    // Each time that it stood in the way, until it was compacted.
    assert!((1..stats.rewrites).contains(&wanted), "{wanted} times: {stats:?}");
}

/// Nobody commits what a group has, so it takes no checkpoint, and its entries are too many to be
/// written anew each time they stand in the way. The log stays short all the same, and little of what is
/// written is written for that.
#[test]
fn a_group_that_takes_no_checkpoint_is_written_anew_now_and_then() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.redb");
    let (min, much) = (64 << 10, 100_000);
    let config = LogStoreConfig {
        collect_bytes_min: min,
        rewrite_bytes_max: 16_000,
        ..LogStoreConfig::default()
    };
    let log = try_open(&path, config).unwrap();
    let stuck: Vec<Entry> = (1..=100).map(|i| entry(G1, i, 3, &[1; 1000])).collect();
    log.store.submit(vec![(G1, Write { hard: Some(hard(3, 1)), ..write(1, stuck.clone()) })]);
    let (rounds, each) = (3_000, 4_000);
    let (mut wanted, mut longest) = (0, 0);
    for index in 1..=rounds {
        let other = vec![entry(G2, index, 1, &[2; 4_000])];
        log.store.submit(vec![(G2, write(index, other))]);
        loop {
            match log.events.recv().unwrap() {
                LogEvent::CheckpointWanted(group) => {
                    assert_eq!(group, G1);
                    wanted += 1;
                }
                LogEvent::Persisted(tokens) if tokens.contains(&(G2, WriteToken(index))) => break,
                LogEvent::Persisted(_) => {}
                other => panic!("{other:?}"),
            }
        }
        if index > 2 {
            log.store.compact(G2, id(index - 2, 1));
        }
        longest = longest.max(log.store.stats().log_bytes);
    }
    let stats = log.store.stats();
    println!("{stats:?}, {longest} bytes at most");
    let most = 2 * much + 8 * much + 4 * much;
    assert!(longest < most, "{longest} bytes of log, {most} at most: {stats:?}");
    // One time for each eight times its size that others write.
    let times = rounds * each / (8 * much);
    assert!((times / 2..=times + 1).contains(&stats.rewrites), "{stats:?}");
    assert!((1..=times + 1).contains(&wanted), "asked {wanted} times");
    log.store.close().unwrap();
    let log = try_open(&path, config).unwrap();
    assert_eq!(log.groups[&G1].hard, hard(3, 1));
    assert_eq!(log.fetched(G1, fetch(1, 1, 100, u64::MAX)), FetchResult::Entries(stuck));
}

fn options(path: &Path) -> std::fs::File {
    std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap()
}

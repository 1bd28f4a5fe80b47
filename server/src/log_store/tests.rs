use super::*;
use raft_core::frame::encode_entry;
use raft_core::types::{Entry, EntryId, EntryKind, HardState, Index, Mark, NodeId, Term};
use redb::backends::FileBackend;
use std::sync::mpsc::{Receiver, channel};

type Wal<'t> = redb::Table<'t, u64, &'static [u8]>;

const G1: GroupId = GroupId(1);
const G2: GroupId = GroupId(2);

fn entry(group: GroupId, index: u64, term: u64, payload: &[u8]) -> Entry {
    let id = EntryId { index: Index(index), term: Term(term) };
    encode_entry(group, id, EntryKind::Command, payload)
}

fn write(token: u64, entries: Vec<Entry>) -> Write {
    let index = entries.last().map_or(Index(0), |entry| entry.id.index);
    let mark = Mark { accept_term: Term(0), index };
    Write {
        token: WriteToken(token),
        hard: None,
        truncate_from: None,
        install: None,
        entries: entries.into(),
        mark,
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
    let (sender, events) = channel();
    let (store, groups) = LogStore::open(path, config, move |event| {
        let _ = sender.send(event);
    })?;
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
                LogEvent::Persisted(_) => {}
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
        let database =
            Builder::new().create_with_backend(FileBackend::new(options(&path)).unwrap()).unwrap();
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

fn options(path: &Path) -> std::fs::File {
    std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap()
}

//! `make bench-log`: how long a durable commit of the log takes, and what it writes, beside a plain file
//! that gets the same bytes by append and fdatasync.
//!
//! Entries of 128 bytes, of so many groups and so many of each in one commit; the next is submitted when
//! the one before is durable. The log and the file take turns, so that a disk that is busy for a while is
//! so for both. Logs are compacted as in a cluster whose checkpoints keep up: each group keeps its last
//! entries only.

use raft_core::effects::Write;
use raft_core::frame::encode_entry;
use raft_core::types::{
    Entry, EntryId, EntryKind, GroupId, HardState, Index, NodeId, Term, WriteToken,
};
use redb::backends::FileBackend;
use redb::{Database, StorageBackend, TableDefinition};
use server::data_dir::Identity;
use server::log_store::{LogEvent, LogStore, LogStoreConfig};
use server::storage::OpenStorage;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const PAYLOAD_BYTES: usize = 128;
/// Entries that a group keeps.
const KEPT: u64 = 64;
/// Commits between two compactions.
const COMPACT_EVERY: u64 = 16;
/// Commits of each in one round.
const COMMITS: u64 = 100;
const ROUNDS: usize = 5;

/// Counts what is written to a file.
#[derive(Debug)]
struct Counting {
    file: FileBackend,
    written: Arc<AtomicU64>,
}

impl StorageBackend for Counting {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.written.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}

struct Log {
    store: LogStore,
    events: Receiver<LogEvent>,
    written: Arc<AtomicU64>,
    groups: u32,
    each: u64,
    /// The last entry of every group.
    index: u64,
    commits: u64,
    frames: u64,
}

impl Counting {
    fn open(path: &Path, written: Arc<AtomicU64>) -> io::Result<Counting> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Counting { file: FileBackend::new(file).map_err(io::Error::other)?, written })
    }
}

/// What redb writes for a durable commit that puts one row of 8 bytes into a table whose oldest row it
/// takes away: the least that any commit of a log can be.
fn floor() -> f64 {
    const ROWS: TableDefinition<u64, &[u8]> = TableDefinition::new("rows");
    const KEPT_ROWS: u64 = 64;
    let folder = tempfile::tempdir().expect("a folder");
    let written = Arc::new(AtomicU64::new(0));
    let storage = Counting::open(&folder.path().join("floor.redb"), written.clone());
    let database = Database::builder().create_with_backend(storage.expect("a file")).expect("redb");
    let mut before = 0;
    for number in 0..KEPT_ROWS + COMMITS {
        let transaction = database.begin_write().expect("a transaction");
        {
            let mut table = transaction.open_table(ROWS).expect("a table");
            table.insert(number, &[7; 8][..]).expect("a row");
            if let Some(old) = number.checked_sub(KEPT_ROWS) {
                table.remove(old).expect("a row less");
            }
        }
        transaction.commit().expect("a commit");
        if number + 1 == KEPT_ROWS {
            before = written.load(Ordering::Relaxed);
        }
    }
    (written.load(Ordering::Relaxed) - before) as f64 / COMMITS as f64
}

impl Log {
    fn open(path: &Path, groups: u32, each: u64) -> Log {
        let written = Arc::new(AtomicU64::new(0));
        let counter = written.clone();
        let storage =
            OpenStorage::new(move |path| Ok(Box::new(Counting::open(path, counter.clone())?)));
        let (tell, events) = channel();
        let report = move |event| {
            let _ = tell.send(event);
        };
        let config = LogStoreConfig::default();
        let owner = Identity { cluster_id: "bench".into(), node: NodeId(1) };
        let (store, _) = LogStore::open((path, &owner), &storage, config, &BTreeMap::new(), report)
            .expect("a log");
        Log { store, events, written, groups, each, index: 0, commits: 0, frames: 0 }
    }

    fn entries(&self, group: GroupId) -> impl Iterator<Item = Entry> {
        let payload = [7; PAYLOAD_BYTES];
        (self.index + 1..=self.index + self.each).map(move |index| {
            let id = EntryId { index: Index(index), term: Term(1) };
            encode_entry(group, id, EntryKind::Command, &payload)
        })
    }

    /// One durable commit.
    fn commit(&mut self) -> Duration {
        self.commits += 1;
        let first = self.index == 0;
        let token = WriteToken(self.commits);
        let writes: Vec<(GroupId, Write)> = (1..=self.groups)
            .map(|group| {
                let group = GroupId(group);
                let hard = HardState { term: Term(1), voted_for: Some(NodeId(1)), promised_ns: 0 };
                let write = Write {
                    token,
                    hard: first.then_some(hard),
                    truncate_from: None,
                    install: None,
                    entries: self.entries(group).collect(),
                };
                (group, write)
            })
            .collect();
        self.index += self.each;
        let bytes = |(_, write): &(GroupId, Write)| -> u64 {
            write.entries.iter().map(|entry| entry.frame.len() as u64).sum()
        };
        self.frames += writes.iter().map(bytes).sum::<u64>();
        let started = Instant::now();
        self.store.submit(writes);
        loop {
            match self.events.recv().expect("the log lives") {
                LogEvent::Persisted(_) => break,
                LogEvent::Failed(said) => panic!("{said}"),
                LogEvent::Fetched { .. }
                | LogEvent::CheckpointWanted(_)
                | LogEvent::Forgotten(_) => {}
            }
        }
        let took = started.elapsed();
        if self.commits.is_multiple_of(COMPACT_EVERY) && self.index > KEPT {
            let base = EntryId { index: Index(self.index - KEPT), term: Term(1) };
            (1..=self.groups).for_each(|group| self.store.compact(GroupId(group), base));
        }
        took
    }
}

/// One commit of the plain file.
fn append(file: &mut File, bytes: &[u8]) -> Duration {
    let started = Instant::now();
    file.write_all(bytes).expect("a write");
    file.sync_data().expect("a sync");
    started.elapsed()
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}

fn main() {
    println!("a commit of redb with one small row writes {:.0} bytes", floor());
    println!("entries of {PAYLOAD_BYTES} bytes, median of {} commits\n", COMMITS * ROUNDS as u64);
    println!(
        "| groups x entries | log, us | file, us | ratio | entries/s | bytes written per payload byte |"
    );
    println!("|---|---:|---:|---:|---:|---:|");
    for groups in [1, 16, 64, 256] {
        for each in [1, 4] {
            let folder = tempfile::tempdir().expect("a folder");
            let mut log = Log::open(&folder.path().join("log.redb"), groups, each);
            let mut file = File::create(folder.path().join("plain")).expect("a file");
            let entries = u64::from(groups) * each;
            let plain =
                vec![7; entries as usize * (PAYLOAD_BYTES + raft_core::frame::HEADER_BYTES)];
            for _ in 0..COMMITS {
                log.commit();
            }
            let (written, frames) = (log.written.load(Ordering::Relaxed), log.frames);
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                ours.extend((0..COMMITS).map(|_| log.commit()));
                theirs.extend((0..COMMITS).map(|_| append(&mut file, &plain)));
            }
            let written = (log.written.load(Ordering::Relaxed) - written) as f64;
            let payload = (log.frames - frames) as f64 * PAYLOAD_BYTES as f64
                / (PAYLOAD_BYTES + raft_core::frame::HEADER_BYTES) as f64;
            let (ours, theirs) = (median(&mut ours), median(&mut theirs));
            println!(
                "| {groups} x {each} | {ours:.0} | {theirs:.0} | {:.2} | {:.0} | {:.2} |",
                ours / theirs,
                entries as f64 / ours * 1e6,
                written / payload
            );
            log.store.close().expect("closed");
        }
    }
}

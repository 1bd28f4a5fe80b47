//! The log of every group of one node, in one redb file: group commit, recovery, reads of old
//! entries.
//!
//! **Invariants.**
//! - One thread writes. It takes what is queued, makes one transaction of it, commits durably once,
//!   and only then reports it ([`LogEvent::Persisted`]): the batch is what arrived during the last
//!   sync, there is no timer. All of one [`Write`] is in one transaction (rules R3, R7), and writes
//!   become durable in the order they were submitted.
//! - The first error is the last: nothing is written after it, nothing is reported durable, and
//!   whether that commit is on disk is unknown until the file is opened again (rule R10, scenario
//!   F2). The node has to stop.
//! - Nothing is repaired silently: a row, frame or order that is not what was written stops the
//!   start with the file and the place (scenario F8). Damage in the newest commit that is found
//!   after a crash cannot be told from a commit that was torn by the crash; redb opens the one
//!   before.
//! - No caller ever waits for the disk, however long that is stuck: what waits for the writer is bounded by the
//!   cores, writes by their bytes (rule R24) and fetches by their number (R25). A fetch goes through the writer's queue, so it sees every
//!   write submitted before it, and is read by a thread of its own.
//!
//! - What no group needs any more is removed ([`collect`]), so the file, the time of a start
//!   (everything is read once) and the index in memory (some 50 bytes for each 16 KiB of the log and
//!   for each bigger entry, more if many groups interleave) go with what is live, above a floor.
//!
//! Format: [`wal`] and `docs/disk-format.md`; where entries stand: [`index`].

mod collect;
mod index;
pub(crate) mod inspect;
mod opened;
mod reader;
mod recovery;
mod wal;
mod writer;

pub use opened::OpenedLog;

use crate::data_dir::Identity;
use crate::last_words::HOW_TO_GO_ON;
use crate::opened_file;
use crate::owner::OtherOwner;
use crate::storage::{self, OpenStorage, Unopened};
use raft_core::Restored;
use raft_core::effects::{Fetch, FetchResult, Write};
use raft_core::types::{EntryId, FetchId, GroupId, WriteToken};
use redb::StorageBackend;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

/// What may differ between nodes.
#[derive(Clone, Copy, Debug)]
pub struct LogStoreConfig {
    /// redb's cache in bytes: the tree's upper pages and what a commit writes. Entries that groups
    /// need soon are in the cores' own caches.
    pub cache_bytes: usize,
    /// Whether a missing or empty file is an error: true once the node has had a log.
    pub must_exist: bool,
    /// Frame bytes up to which nobody is made to move for the log's sake, and file bytes up to which
    /// a start does not give free space back.
    pub collect_bytes_min: u64,
    /// The largest log, in frame bytes, that is written anew when it stands in the way; a group with
    /// more is asked for a checkpoint.
    pub rewrite_bytes_max: u64,
}

impl Default for LogStoreConfig {
    fn default() -> LogStoreConfig {
        LogStoreConfig {
            cache_bytes: 32 << 20,
            must_exist: false,
            collect_bytes_min: 64 << 20,
            rewrite_bytes_max: 4 << 20,
        }
    }
}

/// What the log store reports, from its own threads.
#[derive(Debug)]
pub enum LogEvent {
    /// Everything of these groups up to these tokens is on disk.
    Persisted(Vec<(GroupId, WriteToken)>),
    /// The answer to one [`LogStore::fetch`].
    Fetched {
        /// The group that asked.
        group: GroupId,
        /// The request.
        id: FetchId,
        /// Entries, or that the first is not held, or not where it stood when this was asked. No
        /// entries at all: too many reads wait, ask again later.
        result: FetchResult,
    },
    /// The group's entries keep the log long: a checkpoint, and [`LogStore::compact`] after it, is
    /// needed. Said once until then.
    CheckpointWanted(GroupId),
    /// The answer to [`LogStore::forget`] or [`LogStore::forget_all_but_vote`]: nothing else of the group is there
    /// after any crash.
    Forgotten(GroupId),
    /// The log can no longer be written or read: the node has to stop. One sentence that names the
    /// file.
    Failed(String),
}

/// Why the log cannot be opened. Each is one sentence that names the file.
#[derive(Debug, thiserror::Error)]
pub enum LogStoreError {
    /// The file was there before and is not any more.
    #[error(
        "the log {0} is missing or empty, but this node has written one; put it back: without it the \
         node would start without its votes, and writes could be lost"
    )]
    Missing(PathBuf),
    /// The operating system refused.
    #[error("cannot open the log {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// redb refused, for damage among other reasons.
    #[error("cannot open the log {path}: {source}")]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<redb::Error>,
    },
    /// It is no redb file, or not ours, or pages are not as they were written and there is no sound version
    /// of the file.
    #[error(
        "the log {path} is damaged: {what}; the node does not start with a part of it; {HOW_TO_GO_ON}"
    )]
    Rotten {
        /// The file.
        path: PathBuf,
        /// What redb says.
        what: String,
    },
    /// What it holds is not what was written.
    #[error(
        "the log {path} is damaged at {place}: {what}; the node does not start with a part of its log; \
         {HOW_TO_GO_ON}"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where: row of table `wal` and byte.
        place: String,
        /// What is wrong there.
        what: String,
    },
    /// A snapshot that state machines have, but the log does not know of, cannot be written into it.
    #[error("cannot finish in the log {path} what a crash has interrupted: {what}")]
    Unfinished {
        /// The file.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// It is another node's.
    #[error(transparent)]
    OtherOwner(#[from] Box<OtherOwner>),
    /// Written by a newer program.
    #[error("the log {path} has format {found}; this program reads up to {}", wal::FORMAT)]
    Format {
        /// The file.
        path: PathBuf,
        /// The format it claims.
        found: u64,
    },
}

impl LogStoreError {
    fn unfinished(path: &Path, what: &impl ToString) -> LogStoreError {
        LogStoreError::Unfinished { path: path.to_owned(), what: what.to_string() }
    }

    fn unopened(path: &Path, unopened: Unopened) -> LogStoreError {
        match unopened {
            Unopened::Missing => LogStoreError::Missing(path.to_owned()),
            Unopened::Io(source) => LogStoreError::Io { path: path.to_owned(), source },
            Unopened::Database(error) => database_error(path, error),
        }
    }
}

/// Counters since the start, for INFO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Durable commits.
    pub commits: u64,
    /// Entries in them.
    pub entries: u64,
    /// Frame bytes in them.
    pub bytes: u64,
    /// Frame bytes submitted and not yet durable.
    pub queued_bytes: u64,
    /// Size of the file; 0 if the storage is not a file.
    pub file_bytes: u64,
    /// Frame bytes in the log.
    pub log_bytes: u64,
    /// Of these, about how many groups need.
    pub live_bytes: u64,
    /// Batches that were removed.
    pub removed_blobs: u64,
    /// Groups that were written anew to make room.
    pub rewrites: u64,
    /// What redb keeps of the file in memory, as of the last commit.
    pub cache_bytes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    commits: AtomicU64,
    entries: AtomicU64,
    bytes: AtomicU64,
    queued_bytes: AtomicU64,
    log_bytes: AtomicU64,
    live_bytes: AtomicU64,
    removed_blobs: AtomicU64,
    rewrites: AtomicU64,
    cache_bytes: AtomicU64,
}

/// What the writer is told.
enum Command {
    Write(Vec<(GroupId, Write)>),
    Compact(GroupId, EntryId),
    /// And whether term and vote stay.
    Forget(GroupId, bool),
    Fetch(GroupId, Fetch),
}

/// The handle. Dropping it lets the threads end by themselves once they have written what was
/// submitted, whatever comes of that; [`LogStore::close`] waits for that.
pub struct LogStore {
    path: Option<PathBuf>,
    commands: Sender<Command>,
    writer: JoinHandle<Result<(), String>>,
    counters: Arc<Counters>,
}

impl LogStore {
    /// Makes an empty log of that node, unless there is one.
    pub fn create(path: &Path, must_exist: bool, owner: &Identity) -> Result<(), LogStoreError> {
        opened_file::create(path, must_exist, owner, recovery::LAYOUT)
            .map_err(|unopened| LogStoreError::unopened(path, unopened))
    }

    /// Opens or creates the log and reads it once from its beginning: [`OpenedLog::read`] and
    /// [`OpenedLog::start`].
    pub fn open(
        path: (&Path, &Identity),
        storage: &OpenStorage,
        config: LogStoreConfig,
        installing: &BTreeMap<GroupId, EntryId>,
        events: impl Fn(LogEvent) + Send + Sync + 'static,
    ) -> Result<(LogStore, BTreeMap<GroupId, Restored>), LogStoreError> {
        let opened = OpenedLog::read(path, storage, config)?;
        let groups = opened.groups(installing)?;
        Ok((opened.start(installing, events)?, groups))
    }

    /// The same over any storage, whosever it is; an empty one is a new log.
    pub fn open_backend(
        backend: impl StorageBackend,
        config: LogStoreConfig,
        installing: &BTreeMap<GroupId, EntryId>,
        events: impl Fn(LogEvent) + Send + Sync + 'static,
    ) -> Result<(LogStore, BTreeMap<GroupId, Restored>), LogStoreError> {
        let opened = OpenedLog::read_backend(backend, config)?;
        let groups = opened.groups(installing)?;
        Ok((opened.start(installing, events)?, groups))
    }

    /// Queues writes; `Persisted` follows for each group's last token. After `Failed` it does
    /// nothing.
    pub fn submit(&self, writes: Vec<(GroupId, Write)>) {
        let bytes = writes.iter().map(|(_, write)| entry_bytes(write)).sum();
        self.counters.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        // The writer is gone only after it has reported why.
        let _ = self.commands.send(Command::Write(writes));
    }

    /// The group's log up to `base`, an entry of it, is not needed any more, and is gone for every
    /// fetch after this. It is durable once something else is, or once rows are removed for it: after a
    /// crash before that, the log begins where it did.
    pub fn compact(&self, group: GroupId, base: EntryId) {
        let _ = self.commands.send(Command::Compact(group, base));
    }

    /// Nothing of the group is to be kept, neither its log nor its term and vote: it was removed from this
    /// node. What is submitted for it later is of a group that begins anew. Answered by `Forgotten`, also
    /// if there was nothing. Who has not heard that before a crash asks again: whether it was
    /// done is not told by a start that finds nothing of the group.
    pub fn forget(&self, group: GroupId) {
        let _ = self.commands.send(Command::Forget(group, false));
    }

    /// The same of all but the group's term and vote: it lives on, and this node must not vote twice in a term
    /// if it comes back (R21). Both are one commit.
    pub fn forget_all_but_vote(&self, group: GroupId) {
        let _ = self.commands.send(Command::Forget(group, true));
    }

    /// Queues a read of entries; sees all that was submitted before. After `Failed` it is not
    /// answered.
    pub fn fetch(&self, group: GroupId, fetch: Fetch) {
        let _ = self.commands.send(Command::Fetch(group, fetch));
    }

    /// Counters since the start.
    pub fn stats(&self) -> LogStats {
        let file = self.path.as_ref().and_then(|path| std::fs::metadata(path).ok());
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        LogStats {
            commits: read(&counters.commits),
            entries: read(&counters.entries),
            bytes: read(&counters.bytes),
            queued_bytes: read(&counters.queued_bytes),
            file_bytes: file.map_or(0, |metadata| metadata.len()),
            log_bytes: read(&counters.log_bytes),
            live_bytes: read(&counters.live_bytes),
            removed_blobs: read(&counters.removed_blobs),
            rewrites: read(&counters.rewrites),
            cache_bytes: read(&counters.cache_bytes),
        }
    }

    /// Writes what was submitted, answers what was fetched, closes the file. The next start needs
    /// no repair. An error is the sentence of `Failed`, which may have come too late for its reader.
    pub fn close(self) -> Result<(), String> {
        drop(self.commands);
        self.writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn entry_bytes(write: &Write) -> u64 {
    write.entries.iter().map(|entry| entry.frame.len() as u64).sum()
}

fn database_error(path: &Path, source: redb::Error) -> LogStoreError {
    let path = path.to_owned();
    match storage::damage(source) {
        Ok(what) => LogStoreError::Rotten { path, what },
        Err(source) => LogStoreError::Database { path, source: Box::new(source) },
    }
}

#[cfg(test)]
mod tests;

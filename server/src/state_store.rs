//! The applied state of every group of one node, in one redb file: checkpoints, snapshots on their way
//! out and in, and what a start begins with.
//!
//! **Invariants.**
//! - One thread writes. A checkpoint, of whatever size, is one transaction: a crash leaves the one
//!   before or all of it (scenario S5). Its rows are in redb's pages as they come and leave memory when
//!   the cache is full, so its size in memory is the cache's.
//! - What a checkpoint stands for is durable in the log before its commit is asked for; the caller sees
//!   to that. Nothing here commits by itself what a group has changed.
//! - Each row has a hash, and a group's is their sum. So name and size of a snapshot are known at the
//!   commit, and cost what changed (`SnapshotId::hash`, `Snapshot::bytes`).
//! - Every row that is read - to be replaced, sent or loaded - is verified first. Rot ends the store
//!   with the place ([`StateStoreEvent::Failed`]; scenario F7); nothing is repaired silently.
//! - The first error is the last, as in the log ([`crate::log_store`]): nothing is written after it and
//!   nothing reported but it, once.
//! - A snapshot that comes in stands in a generation of its own, which is compared with the name before
//!   it counts as whole. To install it is one small transaction; the rows that it replaces are deleted
//!   later, in bounded steps, and so is what a crash left of one.
//! - No caller ever waits for the disk. A queue that is full is the exception; see [`QUEUE_MAX`].
//!
//! While a checkpoint is under way everything else that would write waits: there is one writer
//! ([`pending`]). Pieces of snapshots that wait, in or out, are bounded by who holds them
//! ([`crate::snapshot_bytes`]).
//!
//! **Installing over two files.** The order, which the caller keeps: [`StateStore::stage`] until
//! `Received` has all bytes; what the log has of the group is durable; [`StateStore::flip`], which
//! leaves a note (`installing`) that the log is not there yet; after `Flipped` the log's reset; after
//! that, [`StateStore::installed`] takes the note away. A start that finds the note
//! ([`StoredGroup::installing`]) has the log reset first, unless it begins there or has that entry.
//!
//! Tables and bytes: [`format`]; streams out: [`streams`]; streams in: [`staging`].

mod format;
pub(crate) mod inspect;
mod open;
mod opened;
mod pending;
mod rows;
mod staging;
mod streams;
mod writer;

pub use opened::{Checkpoints, OpenedState};

use crate::data_dir::Identity;
use crate::disk_space::taken_by;
use crate::last_words::HOW_TO_GO_ON;
use crate::opened_file;
use crate::owner::OtherOwner;
use crate::snapshot_bytes::SnapshotBytes;
use crate::storage::{self, OpenStorage, Unopened};
use bytes::Bytes;
use format::Fault;
use raft_core::snapshot::{SnapCmd, SnapEvent, Snapshot, SnapshotId};
use raft_core::types::{EntryId, GroupId};
use redb::{Database, ReadableDatabase, StorageBackend};
use shard_core::checkpoint::{CheckpointMark, OutgoingChunk, RowChange};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Commands that wait for the writer; at this bound the caller waits, as long as one commit lasts.
/// What a group may have in it is bounded by its core: one batch of changes, one window of a snapshot.
pub const QUEUE_MAX: usize = 4096;
/// Requests that wait for the reader; one beyond is `Failed`.
pub const READS_MAX: usize = 1024;

/// What may differ between nodes.
#[derive(Clone, Copy, Debug)]
pub struct StateStoreConfig {
    /// redb's cache in bytes, of which a checkpoint under way takes up to a half. Default 32 MiB.
    pub cache_bytes: usize,
    /// Whether a missing or empty file is an error: true once the node has had a checkpoint.
    pub must_exist: bool,
    /// A stream that is asked for nothing for so long is given up. Default 30 s.
    pub stream_idle: Duration,
    /// Streams are given up when the file has grown by this, or by all live data if that is more, since
    /// their version was opened. Default 1 GiB.
    pub pinned_growth_bytes_min: u64,
    /// A start compacts the file when it takes more of the disk than this and `compact_ratio` times its data.
    /// Default 64 MiB.
    pub compact_bytes_min: u64,
    /// See `compact_bytes_min`. Default 4.
    pub compact_ratio: u64,
}

impl Default for StateStoreConfig {
    fn default() -> StateStoreConfig {
        StateStoreConfig {
            cache_bytes: 32 << 20,
            must_exist: false,
            stream_idle: Duration::from_secs(30),
            pinned_growth_bytes_min: 1 << 30,
            compact_bytes_min: 64 << 20,
            compact_ratio: 4,
        }
    }
}

/// What the store reports, from its own threads.
#[derive(Debug)]
pub enum StateStoreEvent {
    /// The last [`StateStore::changes`] was taken in.
    Taken(GroupId),
    /// The checkpoint is durable.
    Checkpointed(GroupId, Snapshot),
    /// `Failed`: a stream cannot go on. `Received`: so much of a snapshot is here, durable; less than
    /// the piece that it answers, if that was out of order.
    Snapshot(GroupId, SnapEvent),
    /// To be sent.
    Chunk(OutgoingChunk),
    /// The answer to [`StateStore::flip`]: the group's state is the snapshot's, durable.
    Flipped(GroupId, SnapshotId),
    /// The answer to [`StateStore::installed`], durable.
    Settled(GroupId),
    /// The answer to [`StateStore::forget`], durable.
    Forgotten(GroupId),
    /// Nothing is left of what was replaced or discarded.
    Cleaned,
    /// The state can no longer be written or read: the node has to stop. One sentence that names the
    /// file. Nothing comes after it.
    Failed(String),
}

/// Why the state cannot be opened or loaded. Each is one sentence that names the file.
#[derive(Debug, thiserror::Error)]
pub enum StateStoreError {
    /// The file was there before and is not any more.
    #[error(
        "the state {0} is missing or empty, but this node has written one; put it back: the log goes \
         on where it ends"
    )]
    Missing(PathBuf),
    /// The operating system refused.
    #[error("cannot open the state {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// redb refused, for damage among other reasons.
    #[error("cannot open the state {path}: {source}")]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<redb::Error>,
    },
    /// It is no redb file, or not ours, or pages are not as they were written and there is no sound version
    /// of the file.
    #[error(
        "the state {path} is damaged: {what}; the node does not start with a part of it; {HOW_TO_GO_ON}"
    )]
    Rotten {
        /// The file.
        path: PathBuf,
        /// What redb says.
        what: String,
    },
    /// What it holds is not what was written.
    #[error(
        "the state {path} is damaged at {place}: {what}; the node does not start with a part of its \
         state; {HOW_TO_GO_ON}"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        place: String,
        /// What is wrong there.
        what: String,
    },
    /// Something in it cannot be used by this program.
    #[error("cannot use the state {path}: {what}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// It is another node's.
    #[error(transparent)]
    OtherOwner(#[from] Box<OtherOwner>),
    /// Written by a newer program.
    #[error("the state {path} has format {found}; this program reads up to {}", format::FORMAT)]
    Format {
        /// The file.
        path: PathBuf,
        /// The format it claims.
        found: u64,
    },
}

impl StateStoreError {
    fn unopened(path: &Path, unopened: Unopened) -> StateStoreError {
        let path = path.to_owned();
        match unopened {
            Unopened::Missing => StateStoreError::Missing(path),
            Unopened::Io(source) => StateStoreError::Io { path, source },
            Unopened::Database(error) => StateStoreError::of(&path, error.into()),
        }
    }

    fn of(path: &Path, fault: Fault) -> StateStoreError {
        let path = path.to_owned();
        match fault {
            Fault::Database(source) => match storage::damage(source) {
                Ok(what) => StateStoreError::Rotten { path, what },
                Err(source) => StateStoreError::Database { path, source: Box::new(source) },
            },
            Fault::Damaged { place, what } => {
                StateStoreError::Damaged { path, place, what: what.to_owned() }
            }
            Fault::Refused(what) => StateStoreError::Unusable { path, what },
        }
    }
}

/// Why [`Checkpoints::load`] ended early.
#[derive(Debug, thiserror::Error)]
pub enum LoadError<E> {
    /// The state cannot be read.
    #[error(transparent)]
    Store(StateStoreError),
    /// What the rows were given to said so.
    #[error("a row is not taken")]
    Refused(E),
}

/// What a start finds of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredGroup {
    /// The newest durable checkpoint: what [`Checkpoints::load`] gives.
    pub checkpoint: Option<Snapshot>,
    /// How much is durable of a snapshot that was coming in; with all bytes, it was compared with its
    /// name.
    pub staged: Option<(SnapshotId, u64)>,
    /// The checkpoint is a snapshot that was installed, and whether the log was reset to begin after
    /// this entry is not known: it has to be before anything else, and then
    /// [`StateStore::installed`].
    pub installing: Option<EntryId>,
}

/// Counters since the start, for INFO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateStats {
    /// Durable checkpoints.
    pub checkpoints: u64,
    /// Rows that they set or took away.
    pub rows_written: u64,
    /// How long the last one took, from its first change to its commit, in microseconds.
    pub last_checkpoint_us: u64,
    /// Bytes of snapshots that came in, durable or in the transaction under way.
    pub staged_bytes: u64,
    /// Bytes of snapshots that were given to be sent.
    pub sent_bytes: u64,
    /// Snapshots on their way out.
    pub streams: u64,
    /// Sizes of all groups' newest checkpoints, as streams.
    pub live_bytes: u64,
    /// Generations that are still to be deleted.
    pub to_clean: u64,
    /// Size of the file; 0 if the storage is not a file.
    pub file_bytes: u64,
    /// What redb keeps of the file in memory.
    pub cache_bytes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    checkpoints: AtomicU64,
    rows_written: AtomicU64,
    last_checkpoint_us: AtomicU64,
    staged_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    streams: AtomicU64,
    live_bytes: AtomicU64,
    to_clean: AtomicU64,
}

/// What the writer is told.
enum Command {
    Changes(GroupId, Vec<RowChange>),
    Commit(GroupId, CheckpointMark),
    Stage(writer::Piece),
    Discard(GroupId, SnapshotId),
    Flip(GroupId, SnapshotId),
    Installed(GroupId),
    Forget(GroupId),
}

/// What the file is called, and where it is if it is one.
#[derive(Clone)]
struct Storage {
    name: PathBuf,
    path: Option<PathBuf>,
}

impl Storage {
    /// What of the disk it takes.
    fn taken(&self) -> u64 {
        self.path.as_deref().map_or(0, taken_by)
    }

    fn bytes(&self) -> u64 {
        let file = self.path.as_ref().and_then(|path| std::fs::metadata(path).ok());
        file.map_or(0, |metadata| metadata.len())
    }
}

/// Passes events on, until there is a failure.
struct Reporter {
    events: Box<dyn Fn(StateStoreEvent) + Send + Sync>,
    /// The sentence.
    failed: Mutex<Option<String>>,
}

impl Reporter {
    fn tell(&self, event: StateStoreEvent) {
        let failed = self.failure();
        if failed.is_none() {
            (self.events)(event);
        }
    }

    /// Tells of a failure, unless there was one.
    fn fail(&self, sentence: String) {
        let mut failed = self.failure();
        if failed.is_none() {
            (self.events)(StateStoreEvent::Failed(sentence.clone()));
            *failed = Some(sentence);
        }
    }

    fn failure(&self) -> MutexGuard<'_, Option<String>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The handle. Dropping it lets the threads end by themselves once they have done what they were told,
/// whatever comes of that; [`StateStore::close`] waits for that.
pub struct StateStore {
    storage: Storage,
    database: Arc<Database>,
    commands: SyncSender<Command>,
    reads: SyncSender<streams::Read>,
    writer: JoinHandle<()>,
    reader: JoinHandle<()>,
    counters: Arc<Counters>,
    reporter: Arc<Reporter>,
    outgoing: Arc<SnapshotBytes>,
}

impl StateStore {
    /// Makes an empty state of that node, unless there is one.
    pub fn create(path: &Path, must_exist: bool, owner: &Identity) -> Result<(), StateStoreError> {
        opened_file::create(path, must_exist, owner, open::LAYOUT)
            .map_err(|unopened| StateStoreError::unopened(path, unopened))
    }

    /// Opens or creates the state: [`OpenedState::read`] and [`OpenedState::start`].
    pub fn open(
        path: (&Path, &Identity),
        storage: &OpenStorage,
        config: StateStoreConfig,
        events: impl Fn(StateStoreEvent) + Send + Sync + 'static,
    ) -> Result<(StateStore, BTreeMap<GroupId, StoredGroup>), StateStoreError> {
        let opened = OpenedState::read(path, storage, config)?;
        let groups = opened.groups();
        Ok((opened.start(events)?, groups))
    }

    /// The same over any storage, whosever it is; an empty one is a new state. It is never compacted, and its growth is
    /// not known.
    pub fn open_backend(
        backend: impl StorageBackend,
        config: StateStoreConfig,
        events: impl Fn(StateStoreEvent) + Send + Sync + 'static,
    ) -> Result<(StateStore, BTreeMap<GroupId, StoredGroup>), StateStoreError> {
        let opened = OpenedState::read_backend(backend, config)?;
        let groups = opened.groups();
        Ok((opened.start(events)?, groups))
    }

    /// Changes of a group's checkpoint; the first of them begins it. Answered by `Taken`, before which
    /// no more are to be sent. One of another group waits until it is committed.
    pub fn changes(&self, group: GroupId, changes: Vec<RowChange>) {
        self.command(Command::Changes(group, changes));
    }

    /// Makes the group's checkpoint durable, which may have no changes. Answered by `Checkpointed`.
    /// What `mark` says must be durable in the log.
    pub fn commit(&self, group: GroupId, mark: CheckpointMark) {
        self.command(Command::Commit(group, mark));
    }

    /// Sends of the newest checkpoint, stops that, or discards what has come in. `Send` is answered by
    /// `Chunk`s, or by `Failed`: at once, which is returned, if too much waits.
    pub fn snapshot(&self, group: GroupId, command: SnapCmd) -> Option<SnapEvent> {
        let read = match command {
            SnapCmd::Send { peer, id, from, to } => {
                streams::Read::Send { group, peer, id, from, to }
            }
            SnapCmd::Stop { peer, id } => streams::Read::Stop { group, peer, id },
            SnapCmd::Discard { id } => {
                self.command(Command::Discard(group, id));
                return None;
            }
        };
        match self.reads.try_send(read) {
            Err(TrySendError::Full(streams::Read::Send { peer, .. })) => {
                Some(SnapEvent::Failed { peer })
            }
            // A stream that is not stopped is given up once nobody asks for more of it. The reader is
            // gone only after it has reported why.
            Err(TrySendError::Full(streams::Read::Stop { .. }) | TrySendError::Disconnected(_))
            | Ok(()) => None,
        }
    }

    /// Takes in a piece of a snapshot. Answered by `Received`, several pieces perhaps at once, or by
    /// `Corrupt`. The beginning of another snapshot drops what was here of the one before. `bytes` are in
    /// memory until they are in the file: the caller bounds them.
    pub fn stage(&self, group: GroupId, snapshot: Snapshot, offset: u64, bytes: Bytes) {
        self.command(Command::Stage(writer::Piece { group, snapshot, offset, bytes }));
    }

    /// Puts a snapshot, which is all staged, in the place of the group's state. A checkpoint of the
    /// group that is under way is dropped; nothing of the old state may be sent after this. Answered by
    /// `Flipped`; a snapshot that is not all staged is a failure.
    pub fn flip(&self, group: GroupId, id: SnapshotId) {
        self.command(Command::Flip(group, id));
    }

    /// The log begins after the snapshot now, durable. Answered by `Settled`.
    pub fn installed(&self, group: GroupId) {
        self.command(Command::Installed(group));
    }

    /// Nothing of the group is to be kept: checkpoint, what was coming in, a note of an install. A checkpoint
    /// of it that is under way is dropped. Its rows are deleted in the background, which a start
    /// goes on with. Answered by `Forgotten`, also if there was nothing; who has not heard that before a
    /// crash asks again. A stream of it that is under way goes on until it is stopped.
    pub fn forget(&self, group: GroupId) {
        self.command(Command::Forget(group));
    }

    fn command(&self, command: Command) {
        // The writer is gone only after it has reported why.
        let _ = self.commands.send(command);
    }

    /// The checkpoints in it. While they are read others are taken, but the file reuses no page until it is done.
    pub fn checkpoints(&self) -> Checkpoints<'_> {
        Checkpoints { database: &self.database, name: &self.storage.name }
    }

    /// What waits to be sent.
    pub fn outgoing(&self) -> &SnapshotBytes {
        &self.outgoing
    }

    /// Counters since the start.
    pub fn stats(&self) -> StateStats {
        let counted = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StateStats {
            checkpoints: counted(&self.counters.checkpoints),
            rows_written: counted(&self.counters.rows_written),
            last_checkpoint_us: counted(&self.counters.last_checkpoint_us),
            staged_bytes: counted(&self.counters.staged_bytes),
            sent_bytes: counted(&self.counters.sent_bytes),
            streams: counted(&self.counters.streams),
            live_bytes: counted(&self.counters.live_bytes),
            to_clean: counted(&self.counters.to_clean),
            file_bytes: self.storage.bytes(),
            cache_bytes: self.database.cache_stats().used_bytes() as u64,
        }
    }

    /// Does what it was told, but for a checkpoint that was not committed, and closes the file. The next
    /// start needs no repair. An error is the sentence of `Failed`, which may have come too late for
    /// its reader.
    pub fn close(self) -> Result<(), String> {
        let StateStore { storage, database, commands, reads, writer, reader, reporter, .. } = self;
        drop((commands, reads));
        for thread in [reader, writer] {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        if reporter.failure().is_some() {
            // It is not even closed: that would write.
            std::mem::forget(database);
        } else if let Some(Err(error)) = Arc::into_inner(database).map(Database::close) {
            let name = storage.name.display();
            reporter.fail(format!("closing the state {name} failed: {error}"));
        }
        reporter.failure().take().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests;

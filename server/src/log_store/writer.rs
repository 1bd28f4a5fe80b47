//! The two threads of the log: one writes, one reads.

use super::index::{LogIndex, Part};
use super::recovery::Recovered;
use super::wal::{FrameReader, Place, WAL, WalError, write_blob};
use super::{Command, Counters, LogEvent, entry_bytes};
use bytes::Bytes;
use raft_core::effects::{Fetch, FetchResult, Write};
use raft_core::frame::{Frame, encode_cut, encode_hard_state};
use raft_core::types::{Entry, FetchId, GroupId, WriteToken};
use redb::{Database, Durability, ReadableDatabase};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// A batch takes no further submission once it has this many frame bytes.
const BATCH_BYTES_MAX: u64 = 4 << 20;
/// Nor once it has this many commands: fetches have no bytes.
const BATCH_COMMANDS_MAX: usize = 4096;
/// Fetches that wait for the reader. Each group has one open per peer at most (rule R25); past the
/// bound a fetch is answered with no entries, and the core asks again after a heartbeat.
const READS_MAX: usize = 4096;

type Events = Arc<dyn Fn(LogEvent) + Send + Sync>;

/// The writer thread's own.
pub(super) struct Writer {
    database: Arc<Database>,
    path: PathBuf,
    index: LogIndex,
    next_seq: u64,
    position: u64,
    counters: Arc<Counters>,
    events: Events,
}

/// What one transaction carries.
#[derive(Default)]
struct Batch {
    frames: Vec<Bytes>,
    bytes: u64,
    entries: u64,
    entry_bytes: u64,
    persisted: BTreeMap<GroupId, WriteToken>,
    fetches: Vec<(GroupId, Fetch)>,
}

/// A fetch with the places of its entries.
struct Read {
    group: GroupId,
    id: FetchId,
    parts: Vec<Part>,
    bytes_max: u64,
}

impl Writer {
    pub(super) fn new(
        database: Database,
        path: PathBuf,
        recovered: Recovered,
        counters: Arc<Counters>,
        events: Events,
    ) -> Writer {
        Writer {
            database: Arc::new(database),
            path,
            index: recovered.index,
            next_seq: recovered.next_seq,
            position: recovered.position,
            counters,
            events,
        }
    }

    /// Until every sender is gone and all is written, or the first error.
    pub(super) fn run(mut self, queue: &Receiver<Command>) -> Result<(), String> {
        let (reads, waiting) = sync_channel(READS_MAX);
        let reader = Reader {
            database: self.database.clone(),
            path: self.path.clone(),
            events: self.events.clone(),
        };
        let reader = match std::thread::Builder::new()
            .name("log-reader".into())
            .spawn(move || reader.run(&waiting))
        {
            Ok(reader) => reader,
            Err(error) => return self.fail(&error),
        };
        while let Ok(first) = queue.recv() {
            if let Err(error) = self.turn(first, queue, &reads) {
                return self.fail(&*error);
            }
        }
        drop(reads);
        reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match Arc::into_inner(self.database).map(Database::close) {
            Some(Err(error)) => Err(failed(
                &self.events,
                format!("closing the log {} failed: {error}", self.path.display()),
            )),
            Some(Ok(())) | None => Ok(()),
        }
    }

    fn turn(
        &mut self,
        first: Command,
        queue: &Receiver<Command>,
        reads: &SyncSender<Read>,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let mut batch = Batch::default();
        self.take(first, &mut batch)?;
        for _ in 1..BATCH_COMMANDS_MAX {
            if batch.bytes >= BATCH_BYTES_MAX {
                break;
            }
            let Ok(next) = queue.try_recv() else { break };
            self.take(next, &mut batch)?;
        }
        if !batch.frames.is_empty() {
            self.commit(&batch)?;
        }
        if !batch.persisted.is_empty() {
            (self.events)(LogEvent::Persisted(batch.persisted.into_iter().collect()));
        }
        for (group, fetch) in batch.fetches {
            self.plan(group, &fetch, reads);
        }
        Ok(())
    }

    fn take(
        &mut self,
        command: Command,
        batch: &mut Batch,
    ) -> Result<(), Box<dyn std::error::Error>> {
        match command {
            Command::Write(writes) => {
                for (group, write) in writes {
                    self.take_write(group, write, batch)?;
                }
            }
            Command::Fetch(group, fetch) => batch.fetches.push((group, fetch)),
        }
        Ok(())
    }

    /// Term and vote first, then the cut, then the entries: what recovery must meet in this order.
    fn take_write(
        &mut self,
        group: GroupId,
        write: Write,
        batch: &mut Batch,
    ) -> Result<(), Box<dyn std::error::Error>> {
        batch.entry_bytes += entry_bytes(&write);
        if let Some(hard) = write.hard {
            self.index.hard_state(group, hard)?;
            batch.push(encode_hard_state(group, hard));
        }
        if let Some(from) = write.truncate_from {
            self.index.cut(group, from);
            batch.push(encode_cut(group, from));
        }
        for entry in write.entries {
            let place = Place::in_blob(self.next_seq, batch.bytes);
            self.index.append(group, entry.id, place, self.position + batch.bytes)?;
            batch.push(entry.frame);
            batch.entries += 1;
        }
        batch.persisted.insert(group, write.token);
        Ok(())
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), Box<dyn std::error::Error>> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        let next_seq = {
            let mut table = transaction.open_table(WAL)?;
            write_blob(&mut table, self.next_seq, &batch.frames)?
        };
        transaction.commit()?;
        self.next_seq = next_seq;
        self.position += batch.bytes;
        self.counters.commits.fetch_add(1, Ordering::Relaxed);
        self.counters.entries.fetch_add(batch.entries, Ordering::Relaxed);
        self.counters.bytes.fetch_add(batch.bytes, Ordering::Relaxed);
        self.counters.queued_bytes.fetch_sub(batch.entry_bytes, Ordering::Relaxed);
        Ok(())
    }

    fn plan(&self, group: GroupId, fetch: &Fetch, reads: &SyncSender<Read>) {
        let id = fetch.id;
        let answer = |result| (self.events)(LogEvent::Fetched { group, id, result });
        match self.index.plan(group, fetch.from, fetch.to) {
            None => answer(FetchResult::Gone),
            Some(parts) => {
                let read = Read { group, id, parts, bytes_max: fetch.bytes_max };
                if reads.try_send(read).is_err() {
                    answer(FetchResult::Entries(Vec::new()));
                }
            }
        }
    }

    /// The last thing that the thread does. The database is not even closed: that would write.
    fn fail(self, error: &dyn std::fmt::Display) -> Result<(), String> {
        let sentence = format!(
            "writing the log {} failed: {error}; whether the last commit is on disk is unknown, and \
             nothing was written after it",
            self.path.display()
        );
        std::mem::forget(self.database);
        Err(failed(&self.events, sentence))
    }
}

/// Tells of a failure; the sentence again, for [`super::LogStore::close`].
fn failed(events: &Events, sentence: String) -> String {
    events(LogEvent::Failed(sentence.clone()));
    sentence
}

impl Batch {
    fn push(&mut self, frame: Bytes) {
        self.bytes += frame.len() as u64;
        self.frames.push(frame);
    }
}

/// The reader thread's own.
struct Reader {
    database: Arc<Database>,
    path: PathBuf,
    events: Events,
}

impl Reader {
    /// Until the writer ends, or the first error: what cannot be read now was once written, so the
    /// disk is not to be trusted.
    fn run(self, waiting: &Receiver<Read>) {
        while let Ok(read) = waiting.recv() {
            match self.read(&read) {
                Ok(entries) => (self.events)(LogEvent::Fetched {
                    group: read.group,
                    id: read.id,
                    result: FetchResult::Entries(entries),
                }),
                Err(error) => {
                    let path = self.path.display();
                    failed(&self.events, format!("reading the log {path} failed: {error}"));
                    return;
                }
            }
        }
    }

    fn read(&self, read: &Read) -> Result<Vec<Entry>, Box<dyn std::error::Error>> {
        let transaction = self.database.begin_read()?;
        let table = transaction.open_table(WAL)?;
        let mut entries = Vec::new();
        let mut bytes = 0;
        for part in &read.parts {
            let mut frames = FrameReader::new(&table, part.place)?;
            read_part(&mut frames, read, part, &mut entries, &mut bytes)?;
            if bytes >= read.bytes_max {
                break;
            }
        }
        Ok(entries)
    }
}

fn read_part(
    frames: &mut FrameReader<'_>,
    read: &Read,
    part: &Part,
    entries: &mut Vec<Entry>,
    bytes: &mut u64,
) -> Result<(), WalError> {
    let mut passed = 0;
    while passed < part.skip + part.take {
        let damaged = |what: &str| WalError::Damaged(part.place, what.to_owned());
        let Some((frame, _)) = frames.next()? else {
            return Err(damaged("the log ends before the entries that stood from here on"));
        };
        let Frame::Entry(group, entry) = frame else { continue };
        if group != read.group {
            continue;
        }
        if entry.id.index.0 != part.first.0 - part.skip + passed {
            return Err(damaged("other entries stand where the fetched ones stood"));
        }
        passed += 1;
        if passed > part.skip {
            *bytes += entry.frame.len() as u64;
            // A copy: a small entry must not keep the rows around it in memory.
            entries.push(Entry { frame: Bytes::copy_from_slice(&entry.frame), ..entry });
            if *bytes >= read.bytes_max {
                break;
            }
        }
    }
    Ok(())
}

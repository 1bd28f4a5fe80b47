//! The thread that writes the log.

use super::collect::Collector;
use super::index::LogIndex;
use super::reader::{Read, Reader};
use super::recovery::Recovered;
use super::wal::{Place, Removable, WAL, write_blob};
use super::{Command, Counters, LogEvent, LogStoreConfig, entry_bytes};
use crate::last_words::At;
use bytes::Bytes;
use raft_core::effects::{Fetch, FetchResult, Write};
use raft_core::frame::{LogFrame, encode_cut, encode_forget, encode_hard_state};
use raft_core::types::{GroupId, HardState, WriteToken};
use redb::{Database, Durability, ReadableDatabase};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

/// A batch takes no further submission once it has this many frame bytes.
const BATCH_BYTES_MAX: u64 = 4 << 20;
/// Nor once it has this many commands: fetches have no bytes.
const BATCH_COMMANDS_MAX: usize = 4096;
/// Fetches that wait for the reader. Each group has one open per peer at most (rule R25); past the
/// bound a fetch is answered with no entries, and the core asks again after a heartbeat.
const READS_MAX: usize = 4096;

pub(super) type Events = Arc<dyn Fn(LogEvent) + Send + Sync>;

/// The writer thread's own.
pub(super) struct Writer {
    pub(super) database: Arc<Database>,
    path: PathBuf,
    pub(super) index: LogIndex,
    pub(super) next_seq: u64,
    pub(super) position: u64,
    pub(super) collector: Collector,
    pub(super) counters: Arc<Counters>,
    pub(super) events: Events,
}

/// What one transaction carries.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) frames: Vec<Bytes>,
    pub(super) bytes: u64,
    entries: u64,
    entry_bytes: u64,
    persisted: BTreeMap<GroupId, WriteToken>,
    fetches: Vec<(GroupId, Fetch)>,
    forgotten: Vec<GroupId>,
}

impl Writer {
    pub(super) fn new(
        database: Database,
        path: PathBuf,
        recovered: Recovered,
        config: &LogStoreConfig,
        counters: Arc<Counters>,
        events: Events,
    ) -> Writer {
        let collector = Collector::new(recovered.first, recovered.position, config);
        counters.log_bytes.store(recovered.position, Ordering::Relaxed);
        Writer {
            database: Arc::new(database),
            path,
            index: recovered.index,
            next_seq: recovered.next_seq,
            position: recovered.position,
            collector,
            counters,
            events,
        }
    }

    /// Until every sender is gone and all is written, or the first error.
    pub(super) fn run(mut self, queue: &Receiver<Command>) -> Result<(), String> {
        let _at = At::file("log", &self.path);
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
        loop {
            let collect = self.can_collect();
            let first = match queue.try_recv() {
                Err(TryRecvError::Empty) if !collect => queue.recv().ok(),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => break,
                Ok(first) => Some(first),
            };
            if first.is_none() && !collect {
                break;
            }
            if let Err(error) = self.turn(first, collect, queue, &reads) {
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
        first: Option<Command>,
        collect: bool,
        queue: &Receiver<Command>,
        reads: &SyncSender<Read>,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let mut batch = Batch::default();
        if collect {
            self.write_anew(&mut batch)?;
        }
        let (mut next, mut taken) = (first, 0);
        while let Some(command) = next {
            self.take(command, &mut batch)?;
            taken += 1;
            let full = batch.bytes >= BATCH_BYTES_MAX || taken == BATCH_COMMANDS_MAX;
            // What is taken out of the queue is in this batch.
            next = if full { None } else { queue.try_recv().ok() };
        }
        if collect || !batch.frames.is_empty() {
            self.write_compacted(&mut batch)?;
        }
        let remove = collect && self.can_remove();
        if remove || !batch.frames.is_empty() {
            self.commit(&batch, remove)?;
        }
        if !batch.persisted.is_empty() {
            (self.events)(LogEvent::Persisted(batch.persisted.into_iter().collect()));
        }
        for group in batch.forgotten {
            (self.events)(LogEvent::Forgotten(group));
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
            Command::Compact(group, base) => self.compact(group, base)?,
            Command::Forget(group, voted) => self.forget(group, voted, batch)?,
            Command::Fetch(group, fetch) => batch.fetches.push((group, fetch)),
        }
        Ok(())
    }

    /// Its rows go with the others, oldest first: the frame stands behind all of them, so as long as one is
    /// there it is too.
    fn forget(
        &mut self,
        group: GroupId,
        voted: bool,
        batch: &mut Batch,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let hard = self.index.get(group).map(|log| log.hard);
        if self.index.forget(group) {
            batch.push(encode_forget(group));
            self.collector.forget(group);
        }
        if let Some(hard) = hard.filter(|hard| voted && *hard != HardState::default()) {
            self.index.hard_state(group, hard, Place::in_blob(self.next_seq, batch.bytes))?;
            batch.push(encode_hard_state(group, hard));
        }
        batch.forgotten.push(group);
        Ok(())
    }

    /// Term and vote first, then the cut, then the entries: what recovery must meet in this order. A
    /// snapshot takes the place of all that was before.
    fn take_write(
        &mut self,
        group: GroupId,
        write: Write,
        batch: &mut Batch,
    ) -> Result<(), Box<dyn std::error::Error>> {
        batch.entry_bytes += entry_bytes(&write);
        let place = |writer: &Writer, batch: &Batch| Place::in_blob(writer.next_seq, batch.bytes);
        if let Some(snapshot) = write.install {
            let base = snapshot.id.at;
            let known = self.index.get(group).map(|log| log.hard).unwrap_or_default();
            let hard = write.hard.unwrap_or(known);
            let entries = Vec::new();
            let frame = LogFrame { group, hard, base, last: base, replace: true, entries };
            self.push_log(frame, batch)?;
        } else {
            if let Some(hard) = write.hard {
                self.index.hard_state(group, hard, place(self, batch))?;
                batch.push(encode_hard_state(group, hard));
            }
            if let Some(from) = write.truncate_from {
                self.index.cut(group, from)?;
                batch.push(encode_cut(group, from));
            }
        }
        for entry in write.entries {
            let (place, position) = (place(self, batch), self.position + batch.bytes);
            self.index.append(group, entry.id, entry.frame.len(), place, position)?;
            batch.push(entry.frame);
            batch.entries += 1;
        }
        batch.persisted.insert(group, write.token);
        Ok(())
    }

    pub(super) fn commit(
        &mut self,
        batch: &Batch,
        remove: bool,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        let (next_seq, removed) = {
            let mut table = transaction.open_table(WAL)?;
            let next_seq = write_blob(&mut table, self.next_seq, &batch.frames)?;
            let removed = match remove {
                true => self.remove(&transaction, &mut table)?,
                false => Removable { end: self.collector.first, ..Removable::default() },
            };
            (next_seq, removed)
        };
        transaction.commit()?;
        self.next_seq = next_seq;
        self.position += batch.bytes;
        self.collector.first = removed.end;
        self.collector.log_bytes += batch.bytes;
        self.collector.log_bytes -= removed.bytes;
        let counters = &self.counters;
        counters.commits.fetch_add(1, Ordering::Relaxed);
        counters.entries.fetch_add(batch.entries, Ordering::Relaxed);
        counters.bytes.fetch_add(batch.bytes, Ordering::Relaxed);
        counters.queued_bytes.fetch_sub(batch.entry_bytes, Ordering::Relaxed);
        counters.log_bytes.store(self.collector.log_bytes, Ordering::Relaxed);
        counters.removed_blobs.fetch_add(removed.blobs, Ordering::Relaxed);
        let cached = self.database.cache_stats().used_bytes() as u64;
        counters.cache_bytes.store(cached, Ordering::Relaxed);
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
             nothing was written after it; mend the disk or make room, then start the node again",
            self.path.display()
        );
        std::mem::forget(self.database);
        Err(failed(&self.events, sentence))
    }
}

/// Tells of a failure; the sentence again, for [`super::LogStore::close`].
pub(super) fn failed(events: &Events, sentence: String) -> String {
    events(LogEvent::Failed(sentence.clone()));
    sentence
}

impl Batch {
    pub(super) fn push(&mut self, frame: Bytes) {
        self.bytes += frame.len() as u64;
        self.frames.push(frame);
    }
}

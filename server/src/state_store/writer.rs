//! The thread that writes. See the parent for what it promises.

use super::format::{
    Fault, GENERATION_KEY, GROUPS, GroupRow, Home, INSTALLING, META, PARTS, ROWS, STAGING,
    StagingRow, Totals, after_prefix, encode_installing,
};
use super::open::Found;
use super::pending::Pending;
use super::rows::{Bytewise, Rows};
use super::staging::{Fed, feed, is_possible};
use super::{Command, Counters, Reporter, StateStoreEvent, Storage};
use crate::last_words::At;
use bytes::Bytes;
use raft_core::conf::Conf;
use raft_core::snapshot::{SnapEvent, Snapshot, SnapshotId};
use raft_core::types::GroupId;
use redb::{Database, Durability, WriteTransaction};
use shard_core::checkpoint::{CheckpointMark, RowBody, RowChange};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Pieces of incoming snapshots go into one transaction until they have this many bytes.
const STAGE_BATCH_BYTES_MAX: u64 = 4 << 20;
/// What one transaction deletes of a generation that is not needed any more.
const CLEAN_BYTES_MAX: usize = 1 << 20;
/// The same in rows.
const CLEAN_ROWS_MAX: usize = 4096;
/// While there is something to delete, it is gone on with after so many commands at the latest.
const COMMANDS_PER_CLEAN_MAX: u32 = 8;
/// How long the next such transaction waits for commands, in times of what the last one took: the disk is for
/// what clients wait for.
const CLEAN_REST: u32 = 3;
/// And at most.
const CLEAN_REST_MAX: Duration = Duration::from_millis(100);

/// The writer thread's own.
pub(super) struct Writer {
    database: Arc<Database>,
    storage: Storage,
    counters: Arc<Counters>,
    reporter: Arc<Reporter>,
    groups: BTreeMap<GroupId, GroupRow>,
    staging: BTreeMap<GroupId, StagingRow>,
    next_generation: u32,
    /// Rows that nobody needs any more.
    dead: VecDeque<Home>,
    checkpoint: Option<Checkpoint>,
    /// Commands that came while a checkpoint was under way.
    pending: Pending,
    commands_since_clean: u32,
    /// Nothing is deleted before.
    rests_until: Instant,
}

/// One under way.
struct Checkpoint {
    group: GroupId,
    transaction: WriteTransaction,
    home: Home,
    totals: Totals,
    rows: u64,
    since: Instant,
}

/// A piece of a snapshot that came in.
pub(super) struct Piece {
    pub(super) group: GroupId,
    pub(super) snapshot: Snapshot,
    pub(super) offset: u64,
    pub(super) bytes: Bytes,
}

impl Writer {
    pub(super) fn new(
        database: Arc<Database>,
        storage: Storage,
        found: Found,
        counters: Arc<Counters>,
        reporter: Arc<Reporter>,
    ) -> Writer {
        let writer = Writer {
            database,
            storage,
            counters,
            reporter,
            groups: found.groups,
            staging: found.staging,
            next_generation: found.next_generation,
            dead: found.dead.into(),
            checkpoint: None,
            pending: Pending::default(),
            commands_since_clean: 0,
            rests_until: Instant::now(),
        };
        writer.count();
        writer
    }

    /// Until every sender is gone and all is done, or the first error.
    pub(super) fn run(mut self, queue: &Receiver<Command>) {
        let _at = At::file("state", &self.storage.name);
        if let Err(fault) = self.work(queue) {
            self.fail(&fault);
        }
    }

    fn work(&mut self, queue: &Receiver<Command>) -> Result<(), Fault> {
        while let Some(command) = self.next(queue)? {
            if self.reporter.failure().is_some() {
                return Err(Fault::Refused("the reader has failed".to_owned()));
            }
            if let Some(checkpoint) = self.checkpoint.take() {
                self.during(checkpoint, command)?;
            } else {
                self.carry_out(command, queue)?;
            }
            self.count();
        }
        // Nobody waits for a checkpoint that was not committed.
        match self.checkpoint.take() {
            Some(checkpoint) => Ok(checkpoint.transaction.abort()?),
            None => Ok(()),
        }
    }

    /// The next command; deletes what is to be deleted while there is none.
    fn next(&mut self, queue: &Receiver<Command>) -> Result<Option<Command>, Fault> {
        while self.checkpoint.is_none() {
            let due = self.commands_since_clean >= COMMANDS_PER_CLEAN_MAX && !self.dead.is_empty();
            if !due {
                let next = match self.pending.pop() {
                    Some(next) => Ok(next),
                    None => queue.recv_timeout(self.rest()),
                };
                match next {
                    Ok(next) => {
                        self.commands_since_clean += 1;
                        return Ok(Some(next));
                    }
                    Err(RecvTimeoutError::Disconnected) => return Ok(None),
                    Err(RecvTimeoutError::Timeout) if self.dead.is_empty() => break,
                    Err(RecvTimeoutError::Timeout) => {}
                }
            }
            self.commands_since_clean = 0;
            self.clean()?;
            self.count();
        }
        let group = self.checkpoint.as_ref().map(|checkpoint| checkpoint.group);
        if let Some(next) = group.and_then(|group| self.pending.pop_own(group)) {
            return Ok(Some(next));
        }
        match queue.recv() {
            Ok(next) => Ok(Some(next)),
            Err(_) if self.checkpoint.is_some() => {
                // It will never be committed; what waited for it is done all the same.
                if let Some(checkpoint) = self.checkpoint.take() {
                    checkpoint.transaction.abort()?;
                }
                Ok(self.pending.pop())
            }
            Err(_) => Ok(None),
        }
    }

    /// A command that comes while a checkpoint is under way: it is part of it, or it waits.
    fn during(&mut self, checkpoint: Checkpoint, command: Command) -> Result<(), Fault> {
        match command {
            Command::Changes(group, changes) if group == checkpoint.group => {
                self.change(checkpoint, changes)
            }
            Command::Commit(group, mark) if group == checkpoint.group => {
                self.commit(checkpoint, mark)
            }
            Command::Flip(group, id) if group == checkpoint.group => {
                // What it was a checkpoint of is about to be replaced. Pieces may wait before it.
                checkpoint.transaction.abort()?;
                self.pending.push(Command::Flip(group, id));
                Ok(())
            }
            Command::Forget(group) if group == checkpoint.group => {
                checkpoint.transaction.abort()?;
                // Behind what waits: pieces of a snapshot for it among that, and the end of one before.
                self.pending.push(Command::Forget(group));
                Ok(())
            }
            Command::Discard(group, id) => {
                self.checkpoint = Some(checkpoint);
                let here = self.staging.get(&group).is_some_and(|row| row.snapshot.id == id);
                self.pending.discard(group, id, here);
                Ok(())
            }
            Command::Changes(..)
            | Command::Commit(..)
            | Command::Stage(_)
            | Command::Flip(..)
            | Command::Installed(_)
            | Command::Forget(_) => {
                self.checkpoint = Some(checkpoint);
                self.pending.push(command);
                Ok(())
            }
        }
    }

    fn carry_out(&mut self, command: Command, queue: &Receiver<Command>) -> Result<(), Fault> {
        match command {
            Command::Changes(group, changes) => {
                let checkpoint = self.begin(group)?;
                self.change(checkpoint, changes)
            }
            Command::Commit(group, mark) => {
                let checkpoint = self.begin(group)?;
                self.commit(checkpoint, mark)
            }
            Command::Stage(piece) => self.stage(piece, queue),
            Command::Discard(group, id) => self.discard(group, id),
            Command::Flip(group, id) => self.flip(group, id),
            Command::Installed(group) => self.installed(group),
            Command::Forget(group) => self.forget(group),
        }
    }

    fn transaction(&self) -> Result<WriteTransaction, Fault> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        Ok(transaction)
    }

    fn generation(&mut self, transaction: &WriteTransaction) -> Result<u32, Fault> {
        let generation = self.next_generation;
        let next = generation.checked_add(1);
        self.next_generation =
            next.ok_or_else(|| Fault::Refused("it had 2^32 generations".into()))?;
        transaction.open_table(META)?.insert(GENERATION_KEY, u64::from(self.next_generation))?;
        Ok(generation)
    }

    // ---- Checkpoints ----

    fn begin(&mut self, group: GroupId) -> Result<Checkpoint, Fault> {
        let mut transaction = self.transaction()?;
        // After a crash the file opens at once, and the newest commit needs no guess.
        transaction.set_quick_repair(true);
        let (generation, totals) = match self.groups.get(&group) {
            Some(row) => (row.generation, row.totals),
            None => (self.generation(&transaction)?, Totals::EMPTY),
        };
        let home = Home { group, generation };
        Ok(Checkpoint { group, transaction, home, totals, rows: 0, since: Instant::now() })
    }

    fn change(&mut self, mut under_way: Checkpoint, changes: Vec<RowChange>) -> Result<(), Fault> {
        let Checkpoint { group, transaction, home, totals, rows, .. } = &mut under_way;
        let mut table = Rows::open(transaction, *home)?;
        for change in &changes {
            *rows += match change {
                RowChange::Put { key, head, body } => {
                    table.put(totals, key, &value_of(head, body))?;
                    1
                }
                RowChange::Delete { key } => u64::from(table.delete(totals, key)?),
                RowChange::DeletePrefix { prefix } => table.delete_prefix(totals, prefix)?,
            };
        }
        drop(table);
        let group = *group;
        self.checkpoint = Some(under_way);
        self.reporter.tell(StateStoreEvent::Taken(group));
        Ok(())
    }

    fn commit(&mut self, under_way: Checkpoint, mark: CheckpointMark) -> Result<(), Fault> {
        let Checkpoint { group, transaction, home, totals, rows, since } = under_way;
        let conf = &mark.conf.1;
        if Conf::decode(&conf.encode()).as_ref() != Some(conf) {
            // It would be written, and the next start could not read it.
            return Err(Fault::Refused(format!("group {group} has an impossible configuration")));
        }
        let row = GroupRow { generation: home.generation, at: mark.at, conf: mark.conf, totals };
        transaction.open_table(GROUPS)?.insert(group.0, &row.encode(group)[..])?;
        transaction.commit()?;
        let snapshot = row.snapshot();
        self.groups.insert(group, row);
        self.counters.checkpoints.fetch_add(1, Ordering::Relaxed);
        self.counters.rows_written.fetch_add(rows, Ordering::Relaxed);
        let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.counters.last_checkpoint_us.store(micros, Ordering::Relaxed);
        self.count();
        self.reporter.tell(StateStoreEvent::Checkpointed(group, snapshot));
        Ok(())
    }

    // ---- Snapshots that come in ----

    /// Takes a piece and those that wait behind it in one transaction.
    fn stage(&mut self, first: Piece, queue: &Receiver<Command>) -> Result<(), Fault> {
        let transaction = self.transaction()?;
        let mut answers: Vec<(GroupId, SnapEvent)> = Vec::new();
        let (mut next, mut bytes, mut changed) = (Some(first), 0, false);
        while let Some(piece) = next.take() {
            bytes += piece.bytes.len() as u64;
            let group = piece.group;
            let answer = self.take_piece(&transaction, piece, &mut changed)?;
            match answers.iter_mut().rev().find(|(of, _)| *of == group) {
                Some((_, last)) if goes_on(last, &answer) => *last = answer,
                Some(_) | None => answers.push((group, answer)),
            }
            if bytes >= STAGE_BATCH_BYTES_MAX {
                break;
            }
            match self.pending.pop().or_else(|| queue.try_recv().ok()) {
                Some(Command::Stage(piece)) => next = Some(piece),
                Some(other) => self.pending.put_back(other),
                None => {}
            }
        }
        if changed {
            {
                let mut table = transaction.open_table(STAGING)?;
                for (group, _) in &answers {
                    match self.staging.get(group) {
                        Some(row) => table.insert(group.0, &row.encode(*group)[..])?,
                        None => table.remove(group.0)?,
                    };
                }
            }
            transaction.commit()?;
        } else {
            transaction.abort()?;
        }
        self.count();
        for (group, answer) in answers {
            self.reporter.tell(StateStoreEvent::Snapshot(group, answer));
        }
        Ok(())
    }

    fn take_piece(
        &mut self,
        transaction: &WriteTransaction,
        piece: Piece,
        changed: &mut bool,
    ) -> Result<SnapEvent, Fault> {
        let Piece { group, snapshot, offset, mut bytes } = piece;
        let id = snapshot.id;
        if !is_possible(&snapshot) {
            return Ok(SnapEvent::Corrupt { id });
        }
        let here = self.staging.remove(&group);
        let mut row = match here {
            Some(row) if row.snapshot == snapshot => row,
            other if offset != 0 || bytes.is_empty() => {
                // Not the beginning of the one, and not of the other.
                other.and_then(|row| self.staging.insert(group, row));
                return Ok(SnapEvent::Received { id, offset: 0 });
            }
            other => {
                let old = other.map(|row| Home { group, generation: row.generation });
                self.dead.extend(old);
                StagingRow::new(snapshot, self.generation(transaction)?)
            }
        };
        let end = offset.saturating_add(bytes.len() as u64);
        if offset > row.offset || end <= row.offset {
            let received = SnapEvent::Received { id, offset: row.offset };
            self.staging.insert(group, row);
            return Ok(received);
        }
        *changed = true;
        let home = Home { group, generation: row.generation };
        let bytes = bytes.split_off((row.offset - offset) as usize);
        let fed = feed(&mut row, &mut Rows::open(transaction, home)?, &bytes)?;
        match fed {
            Fed::Taken => {
                self.counters.staged_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                let received = SnapEvent::Received { id, offset: row.offset };
                self.staging.insert(group, row);
                Ok(received)
            }
            Fed::Corrupt => {
                self.dead.push_back(home);
                Ok(SnapEvent::Corrupt { id })
            }
        }
    }

    fn discard(&mut self, group: GroupId, id: SnapshotId) -> Result<(), Fault> {
        if self.staging.get(&group).is_none_or(|row| row.snapshot.id != id) {
            return Ok(());
        }
        let transaction = self.transaction()?;
        transaction.open_table(STAGING)?.remove(group.0)?;
        transaction.commit()?;
        let row = self.staging.remove(&group);
        self.dead.extend(row.map(|row| Home { group, generation: row.generation }));
        Ok(())
    }

    fn flip(&mut self, group: GroupId, id: SnapshotId) -> Result<(), Fault> {
        let whole = self.staging.get(&group).filter(|row| row.snapshot.id == id && row.is_whole());
        let Some(staged) = whole.cloned() else {
            let what = format!("the snapshot at {} of group {group} is not all here", id.at);
            return Err(Fault::Refused(what));
        };
        let Snapshot { conf, .. } = staged.snapshot;
        let (generation, totals) = (staged.generation, staged.totals);
        let row = GroupRow { generation, at: id.at, conf, totals };
        let mut transaction = self.transaction()?;
        transaction.set_quick_repair(true);
        transaction.open_table(GROUPS)?.insert(group.0, &row.encode(group)[..])?;
        transaction.open_table(STAGING)?.remove(group.0)?;
        let installing = encode_installing(group, id.at);
        transaction.open_table(INSTALLING)?.insert(group.0, &installing[..])?;
        transaction.commit()?;
        self.staging.remove(&group);
        let old = self.groups.insert(group, row);
        self.dead.extend(old.map(|old| Home { group, generation: old.generation }));
        self.count();
        self.reporter.tell(StateStoreEvent::Flipped(group, id));
        Ok(())
    }

    fn installed(&mut self, group: GroupId) -> Result<(), Fault> {
        let mut transaction = self.transaction()?;
        transaction.set_quick_repair(true);
        transaction.open_table(INSTALLING)?.remove(group.0)?;
        transaction.commit()?;
        self.reporter.tell(StateStoreEvent::Settled(group));
        Ok(())
    }

    fn forget(&mut self, group: GroupId) -> Result<(), Fault> {
        let mut transaction = self.transaction()?;
        transaction.set_quick_repair(true);
        let mut there = false;
        for table in [GROUPS, STAGING, INSTALLING] {
            there |= transaction.open_table(table)?.remove(group.0)?.is_some();
        }
        match there {
            true => transaction.commit()?,
            false => transaction.abort()?,
        }
        let generations = [
            self.groups.remove(&group).map(|row| row.generation),
            self.staging.remove(&group).map(|row| row.generation),
        ];
        let homes = generations.into_iter().flatten();
        self.dead.extend(homes.map(|generation| Home { group, generation }));
        self.count();
        self.reporter.tell(StateStoreEvent::Forgotten(group));
        Ok(())
    }

    // ---- What is not needed any more ----

    /// Until what is to be deleted may be gone on with.
    fn rest(&self) -> Duration {
        match self.dead.is_empty() {
            true => Duration::ZERO,
            false => self.rests_until.saturating_duration_since(Instant::now()),
        }
    }

    /// Deletes some of it, in a transaction of its own.
    fn clean(&mut self) -> Result<(), Fault> {
        let Some(home) = self.dead.front().copied() else { return Ok(()) };
        let since = Instant::now();
        let transaction = self.transaction()?;
        let done = clean_some(&transaction, home)?;
        transaction.commit()?;
        self.rests_until = Instant::now() + (since.elapsed() * CLEAN_REST).min(CLEAN_REST_MAX);
        if done {
            self.dead.pop_front();
            if self.dead.is_empty() {
                self.count();
                self.reporter.tell(StateStoreEvent::Cleaned);
            }
        }
        Ok(())
    }

    fn count(&self) {
        let live: u64 = self.groups.values().map(|row| row.totals.bytes).sum();
        self.counters.live_bytes.store(live, Ordering::Relaxed);
        self.counters.to_clean.store(self.dead.len() as u64, Ordering::Relaxed);
    }

    /// The last thing that the thread does. The database is not even closed: that would write.
    fn fail(mut self, fault: &Fault) {
        if let Some(checkpoint) = self.checkpoint.take() {
            std::mem::forget(checkpoint.transaction);
        }
        std::mem::forget(self.database.clone());
        self.reporter.fail(format!(
            "writing the state {} failed: {fault}; whether the last commit is on disk is unknown, \
             and nothing was written after it; mend the disk or make room, then start the node again",
            self.storage.name.display()
        ));
    }
}

/// A row's value, as it comes.
fn value_of<'c>(head: &'c [u8], body: &'c RowBody) -> Vec<&'c [u8]> {
    std::iter::once(head).chain(body.pieces().iter().map(|piece| &piece[..])).collect()
}

/// Whether the second answer says all that the first one says.
fn goes_on(first: &SnapEvent, second: &SnapEvent) -> bool {
    match (first, second) {
        (SnapEvent::Received { id, .. }, SnapEvent::Received { id: also, .. }) => id == also,
        _ => false,
    }
}

/// Deletes some rows and parts. True: there are no more.
pub(super) fn clean_some(transaction: &WriteTransaction, home: Home) -> Result<bool, Fault> {
    let mut left = (CLEAN_ROWS_MAX, CLEAN_BYTES_MAX);
    let rows = clean_table(&mut transaction.open_table(ROWS)?, home, &mut left)?;
    Ok(rows && clean_table(&mut transaction.open_table(PARTS)?, home, &mut left)?)
}

fn clean_table(
    table: &mut Bytewise<'_>,
    home: Home,
    (rows, bytes): &mut (usize, usize),
) -> Result<bool, Fault> {
    let prefix = home.prefix();
    let end = after_prefix(&prefix);
    let range = (Bound::Included(&prefix[..]), end.as_ref().map(|end| &end[..]));
    let mut some = table.extract_from_if::<&[u8], _>(range, |_, _| true)?;
    while *rows > 0 && *bytes > 0 {
        let Some(entry) = some.next() else { return Ok(true) };
        let (key, value) = entry?;
        *rows -= 1;
        *bytes = bytes.saturating_sub(key.value().len() + value.value().len());
    }
    Ok(false)
}

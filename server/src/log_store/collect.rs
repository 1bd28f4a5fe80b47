//! What keeps the log bounded: log frames that take the place of what stands far behind, and the
//! removal of blobs that no group needs.
//!
//! A group needs its newest hard state, its newest log frame and its entries, and all that was written
//! behind the first of these. Blobs go oldest first, whole, in the transaction of a batch, and in
//! ones of their own while nothing else is to be written. What pins the oldest ones:
//!
//! - a log that was compacted in memory: the next batch has a small log frame that says so;
//! - a group that is slow or idle: once the log is too long for what it holds, the group gets a log
//!   frame in front of the next batch. A small one if only its vote or base stands far behind. A
//!   whole one, with all its entries, if they are few; they are read when the frame is written and
//!   nothing is queued in between, so it cannot bring back what was cut meanwhile. Else the group is
//!   asked for a checkpoint ([`LogEvent::CheckpointWanted`]), and nothing behind it goes before that.
//!   One that takes none, since nobody commits what it has, is written anew all the same once the log
//!   has grown by many times that: it costs little of what was written meanwhile, and the log ends.
//!   (Rewriting entries one by one would make recovery cut what follows them, or revive what was cut.)

use super::index::GroupLog;
use super::reader::read_entries;
use super::wal::{FIRST_KEY, META, Place, Removable, WAL, removable};
use super::writer::{Batch, Writer};
use super::{LogEvent, LogStoreConfig};
use raft_core::frame::{LOG_HEADER_BYTES, LogFrame, PAYLOAD_BYTES_MAX, encode_log};
use raft_core::types::{EntryId, GroupId};
use redb::{ReadableDatabase, Table, WriteTransaction};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

type Error = Box<dyn std::error::Error>;

/// The log may have so many times the bytes that are live before groups are written anew. At 2, a
/// byte is written twice at worst.
const LIVE_FACTOR: u64 = 2;
/// A group that was asked for a checkpoint and has taken none is written anew when the log is longer than it
/// should be by so many times what the group has: so a byte of it is written again for this many of others.
const UNCOVERED_FACTOR: u64 = 8;
/// The largest such group: a log frame holds no more. What a group can have uncommitted is less
/// ([`raft_core::Config::uncommitted_bytes_max`], or one entry).
const UNCOVERED_BYTES_MAX: u64 = (PAYLOAD_BYTES_MAX - LOG_HEADER_BYTES) as u64;
/// What a group's log frame and hard state take at most, besides its entries.
const GROUP_BYTES: u64 = 2 * LOG_HEADER_BYTES as u64;
/// Rows are not looked at before there are so many new ones: finding out what is needed passes over
/// all groups, and rows are removed cheaply in bulk only.
const ROWS_MIN: u64 = 16;
/// Rows removed in one transaction, so that the batch in it does not wait long. More than the rows of
/// a batch, so that removal keeps up.
const ROWS_MAX: u64 = 1024;

/// The writer's view of what can go.
#[derive(Debug, Default)]
pub(super) struct Collector {
    /// The oldest row.
    pub(super) first: u64,
    /// Frame bytes of the rows.
    pub(super) log_bytes: u64,
    /// Groups whose base in memory is ahead of the one in the log: nothing is removed meanwhile.
    pub(super) compacted: BTreeSet<GroupId>,
    /// Nothing is to be done before the log reaches this row.
    check_at: u64,
    /// The first needed row with which no blob could be removed.
    stuck_at: Option<u64>,
    /// The first needed row with which no group could be written anew.
    blocked_at: Option<u64>,
    /// Unless the log has come to this length, in frame bytes.
    blocked_until: u64,
    collect_bytes_min: u64,
    rewrite_bytes_max: u64,
}

impl Collector {
    pub(super) fn new(first: u64, log_bytes: u64, config: &LogStoreConfig) -> Collector {
        Collector {
            first,
            log_bytes,
            collect_bytes_min: config.collect_bytes_min,
            rewrite_bytes_max: config.rewrite_bytes_max,
            ..Collector::default()
        }
    }
}

impl Collector {
    /// What stood in the way may have been this group.
    pub(super) fn forget(&mut self, group: GroupId) {
        self.compacted.remove(&group);
        self.check_at = 0;
        self.blocked_at = None;
    }
}

impl Writer {
    /// How long the log may be for what it holds.
    fn length_max(&self) -> u64 {
        let live = self.index.live_bytes() + GROUP_BYTES * self.index.groups().count() as u64;
        self.counters.live_bytes.store(live, Ordering::Relaxed);
        self.collector.collect_bytes_min.max(LIVE_FACTOR * live)
    }

    fn is_long(&self) -> bool {
        self.collector.log_bytes > self.length_max()
    }

    /// The first row that is needed. If none is, all stay: a log that was written is never empty.
    fn first_needed(&self) -> u64 {
        self.index.first_needed().unwrap_or(self.collector.first)
    }

    fn removal_is_due(&self, needed: u64, long: bool) -> bool {
        let rows = needed.min(self.next_seq) - self.collector.first;
        let enough = rows >= ROWS_MIN || (long && rows > 0);
        enough && self.collector.stuck_at != Some(needed)
    }

    /// Whether there is something to collect. Each turn that begins with true changes something, so
    /// it becomes false.
    pub(super) fn can_collect(&mut self) -> bool {
        if self.next_seq < self.collector.check_at {
            return false;
        }
        let (needed, long) = (self.first_needed(), self.is_long());
        let frames = long
            && (!self.collector.compacted.is_empty()
                || self.collector.blocked_at != Some(needed)
                || self.collector.log_bytes >= self.collector.blocked_until);
        let can = frames || self.removal_is_due(needed, long);
        if !can {
            self.collector.check_at = self.next_seq + ROWS_MIN;
        }
        can
    }

    /// Drops the log up to `base` in memory; the next batch says so in the log.
    pub(super) fn compact(&mut self, group: GroupId, base: EntryId) -> Result<(), Error> {
        if self.index.compact(group, base)? {
            self.collector.compacted.insert(group);
            self.collector.check_at = 0;
            self.collector.blocked_at = None;
        }
        Ok(())
    }

    /// The frames of [`Writer::compact`], at the end of a batch.
    pub(super) fn write_compacted(&mut self, batch: &mut Batch) -> Result<(), Error> {
        for group in std::mem::take(&mut self.collector.compacted) {
            let log = self.index.get(group).expect("it was compacted");
            self.push_log(keep(group, log), batch)?;
        }
        Ok(())
    }

    /// Log frames for the groups that pin the oldest rows, in an empty batch: all their entries are
    /// in the table.
    pub(super) fn write_anew(&mut self, batch: &mut Batch) -> Result<(), Error> {
        let (needed, length_max) = (self.first_needed(), self.length_max());
        if self.collector.log_bytes <= length_max || self.removal_is_due(needed, true) {
            return Ok(());
        }
        let uncovered = (self.collector.log_bytes - length_max) / UNCOVERED_FACTOR;
        self.collector.blocked_until = u64::MAX;
        let far = self.collector.first + (self.next_seq - self.collector.first) / 4;
        let mut blocked = false;
        for group in self.pinning(far) {
            let log = self.index.get(group).expect("it pins a row");
            let small = log.first_row().is_none_or(|row| row > far);
            let most = self.collector.rewrite_bytes_max;
            if !small && !blocked && batch.bytes > 0 && batch.bytes + log.bytes() > most {
                break;
            }
            let frame = match small {
                true => Some(keep(group, log)),
                false if log.bytes() > most.max(uncovered.min(UNCOVERED_BYTES_MAX)) => None,
                // Nothing is gained by what stands behind a group that has to be waited for.
                false if blocked => continue,
                false => self.whole(group, log)?,
            };
            match frame {
                Some(frame) if !blocked => {
                    self.push_log(frame, batch)?;
                    self.counters.rewrites.fetch_add(1, Ordering::Relaxed);
                }
                Some(_) => {}
                None => {
                    let wanted = log.wanted;
                    if !blocked && log.bytes() <= UNCOVERED_BYTES_MAX {
                        self.collector.blocked_until = length_max + UNCOVERED_FACTOR * log.bytes();
                    }
                    blocked = true;
                    self.index.set_wanted(group);
                    if !wanted {
                        (self.events)(LogEvent::CheckpointWanted(group));
                    }
                }
            }
        }
        self.collector.blocked_at = batch.frames.is_empty().then_some(needed);
        Ok(())
    }

    /// The groups that need rows up to `far`, the one that needs the oldest first.
    fn pinning(&self, far: u64) -> Vec<GroupId> {
        let needs =
            self.index.groups().filter_map(|(group, log)| Some((log.first_needed()?, group)));
        let mut pinning: Vec<(u64, GroupId)> = needs.filter(|(row, _)| *row <= far).collect();
        pinning.sort_unstable();
        pinning.into_iter().map(|(_, group)| group).collect()
    }

    /// The log frame with all entries of a group; `None` if they are too many, or spread too wide.
    fn whole(&self, group: GroupId, log: &GroupLog) -> Result<Option<LogFrame>, Error> {
        let Some(parts) = log.plan_all() else { return Ok(None) };
        let table = self.database.begin_read()?.open_table(WAL)?;
        // After cuts their size is an estimate.
        let most = (2 * self.collector.rewrite_bytes_max).max(log.bytes()).min(UNCOVERED_BYTES_MAX);
        let entries = read_entries(&table, group, &parts, most)?;
        let all = entries.last().is_some_and(|entry| entry.id == log.last);
        Ok(all.then(|| LogFrame { replace: true, entries, ..keep(group, log) }))
    }

    pub(super) fn push_log(&mut self, frame: LogFrame, batch: &mut Batch) -> Result<(), Error> {
        let place = Place::in_blob(self.next_seq, batch.bytes);
        self.index.log_frame(&frame, place, self.position + batch.bytes)?;
        self.collector.compacted.remove(&frame.group);
        batch.push(encode_log(&frame));
        Ok(())
    }

    /// What a crash left between the two files: for these groups the state machine's file has taken a
    /// snapshot that ends at the entry, and the log may not know. A log that has the entry keeps what
    /// follows it; another one begins anew behind it. A log that begins later is left as it is: the
    /// replica then refuses to start, with both numbers.
    pub(super) fn finish_installs(
        &mut self,
        installing: &BTreeMap<GroupId, EntryId>,
    ) -> Result<(), Error> {
        let mut batch = Batch::default();
        let nothing = GroupLog::default();
        for (group, at) in installing {
            let log = self.index.get(*group).unwrap_or(&nothing);
            let Some(frame) = install_frame(*group, log, *at) else { continue };
            self.push_log(frame, &mut batch)?;
        }
        if batch.frames.is_empty() {
            return Ok(());
        }
        self.commit(&batch, false)
    }

    /// Removes blobs at the beginning, in the transaction of a batch that begins at `next_seq`.
    pub(super) fn remove(
        &mut self,
        transaction: &WriteTransaction,
        table: &mut Table<'_, u64, &'static [u8]>,
    ) -> Result<Removable, Error> {
        let (first, needed) = (self.collector.first, self.first_needed());
        let removed = removable(table, first, needed.min(self.next_seq), ROWS_MAX)?;
        if removed.blobs == 0 {
            self.collector.stuck_at = Some(needed);
            return Ok(removed);
        }
        table.retain_in(first..removed.end, |_, _| false)?;
        transaction.open_table(META)?.insert(FIRST_KEY, removed.end)?;
        Ok(removed)
    }

    /// Whether the transaction of the batch that is ready is to remove something.
    pub(super) fn can_remove(&self) -> bool {
        self.collector.compacted.is_empty()
            && self.removal_is_due(self.first_needed(), self.is_long())
    }
}

/// What finishes an install in a log that may not know of it: it has the snapshot's last entry, or it is
/// dropped. `None` for one that begins there already, or later, which no start goes on with.
pub(super) fn install_frame(group: GroupId, log: &GroupLog, at: EntryId) -> Option<LogFrame> {
    if log.base == at || log.base.index > at.index {
        return None;
    }
    let frame = LogFrame { base: at, ..keep(group, log) };
    Some(match log.term_at(at.index) == Some(at.term) {
        true => frame,
        false => LogFrame { last: at, replace: true, ..frame },
    })
}

/// The small log frame of a group.
fn keep(group: GroupId, log: &GroupLog) -> LogFrame {
    let (hard, base, last) = (log.hard, log.base, log.last);
    LogFrame { group, hard, base, last, replace: false, entries: Vec::new() }
}

//! One replica's log: which term each entry has, which entries are still in memory, and how much
//! of it is on disk. The only code that cuts a log.
//!
//! The terms of all entries are kept as runs (first entry of each stretch of equal terms), so a
//! term is found without the disk and in memory that grows with elections, not with entries. The
//! entries themselves are kept only near the end, in the cache; older ones come by `Effects::fetch`.
//! A compacted log begins after its base, the last entry that is gone; what is gone was committed.

use crate::config::Config;
use crate::effects::Write;
use crate::mutant::Mutant;
use crate::snapshot::Snapshot;
use crate::types::{Entries, Entry, EntryId, HardState, Index, Term, WriteToken};
use std::collections::VecDeque;

/// Writes handed to the disk and not durable. A hostile peer could make one for each message, by terms
/// that rise without end.
pub(crate) const PENDING_WRITES_MAX: usize = 4096;

/// Marks of sizes in memory; with more of them, every second one goes.
const SIZE_MARKS_MAX: usize = 4096;

/// A replica's log and what of it is durable.
///
/// Invariants: `runs` grows in index and term and begins after `base`; the cache is a suffix of the log that holds at least
/// everything above `settled`; `settled` <= `durable` or the log's end at the start; `durable` <=
/// `written` <= the last index.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    /// The entry before the first one.
    base: EntryId,
    runs: Vec<EntryId>,
    last: EntryId,
    cache: VecDeque<Entry>,
    cache_bytes: u64,
    cache_bytes_max: u64,
    /// [`crate::mutant::Mutant::StaleWriteCounts`]
    stale_writes_count: bool,
    /// [`crate::mutant::Mutant::TermAfterEntries`]
    term_after_entries: bool,
    /// Entries up to here may leave the cache: they are durable, and on a leader committed as well.
    settled: Index,
    unsettled_bytes: u64,
    sizes: Sizes,
    /// [`crate::mutant::Mutant::CompactedIsUnknown`]
    compacted_is_unknown: bool,
    writes: Writes,
}

/// How many frame bytes there are from some entries to the end: one mark every `step` bytes, which
/// doubles when they become many. What was
/// there before the process started counts as nothing, so a log is longer then.
#[derive(Clone, Debug)]
struct Sizes {
    step: u64,
    /// An index, and the bytes up to it, in order.
    marks: VecDeque<(Index, u64)>,
    total: u64,
    /// Entries up to here were there before.
    uncounted: Index,
}

impl Sizes {
    fn append(&mut self, index: Index, bytes: u64) {
        self.total += bytes;
        if self.total - self.marks.back().map_or(0, |(_, total)| *total) >= self.step {
            self.marks.push_back((index, self.total));
        }
        if self.marks.len() > SIZE_MARKS_MAX {
            let mut nth = 0;
            self.marks.retain(|_| {
                nth += 1;
                nth % 2 == 1
            });
            self.step *= 2;
        }
    }

    fn truncate(&mut self, from: Index) {
        self.marks.truncate(self.marks.partition_point(|(index, _)| *index < from));
        self.total = self.marks.back().map_or(0, |(_, total)| *total);
        self.uncounted = self.uncounted.min(from.prev());
    }

    fn compact(&mut self, upto: Index) {
        // The last one that is gone still says where the rest begins.
        let gone = self.marks.partition_point(|(index, _)| *index <= upto);
        self.marks.drain(..gone.saturating_sub(1));
    }
}

/// What was handed to the disk, what the disk has confirmed, and what must still be handed over.
#[derive(Clone, Debug)]
struct Writes {
    pending: VecDeque<PendingWrite>,
    next_token: WriteToken,
    durable_token: WriteToken,
    durable_hard: HardState,
    /// The hard state, or the log, differs from the last write handed over.
    hard_owed: bool,
    log_owed: bool,
    truncate_from: Option<Index>,
    /// Takes the place of the whole log before it.
    install: Option<Box<Snapshot>>,
    /// The part of the log, as it stands now, that was handed over; and that is on disk.
    written: Index,
    durable: Index,
    /// Frame bytes appended since the last write, and in all writes that are not durable.
    unwritten_bytes: u64,
    unsynced_bytes: u64,
}

#[derive(Clone, Debug)]
struct PendingWrite {
    token: WriteToken,
    hard: HardState,
    /// How much of the log, as it stands *now*, is on disk after this write. A later cut lowers it:
    /// the end of an overwritten write proves nothing about what replaced it (R10, R17).
    covers: Index,
    bytes: u64,
}

impl Log {
    /// A log found on disk, all of it durable: what is after `base`, in `runs` to `last`.
    pub(crate) fn new(
        hard: HardState,
        base: EntryId,
        runs: Vec<EntryId>,
        last: EntryId,
        config: &Config,
    ) -> Log {
        let step = (config.log_trailing_bytes / 8).max(1);
        Log {
            base,
            sizes: Sizes { step, marks: VecDeque::new(), total: 0, uncounted: last.index },
            compacted_is_unknown: config.breaks(Mutant::CompactedIsUnknown),
            runs,
            last,
            cache: VecDeque::new(),
            cache_bytes: 0,
            cache_bytes_max: config.entry_cache_bytes_max,
            stale_writes_count: config.breaks(Mutant::StaleWriteCounts),
            term_after_entries: config.breaks(Mutant::TermAfterEntries),
            settled: last.index,
            unsettled_bytes: 0,
            writes: Writes {
                pending: VecDeque::new(),
                next_token: WriteToken(1),
                durable_token: WriteToken(0),
                durable_hard: hard,
                hard_owed: false,
                log_owed: false,
                truncate_from: None,
                install: None,
                written: last.index,
                durable: last.index,
                unwritten_bytes: 0,
                unsynced_bytes: 0,
            },
        }
    }

    pub(crate) fn last(&self) -> EntryId {
        self.last
    }

    /// The entry before the first one, committed; `0@0` of a whole log.
    pub(crate) fn base(&self) -> EntryId {
        self.base
    }

    /// Up to where the log, as it stands now, is on disk.
    pub(crate) fn durable(&self) -> Index {
        self.writes.durable
    }

    /// The hard state on disk.
    pub(crate) fn durable_hard(&self) -> HardState {
        self.writes.durable_hard
    }

    pub(crate) fn durable_token(&self) -> WriteToken {
        self.writes.durable_token
    }

    pub(crate) fn runs(&self) -> &[EntryId] {
        &self.runs
    }

    /// Frame bytes of the cache, and of the entries that are not both committed and durable.
    pub(crate) fn cache_bytes(&self) -> u64 {
        self.cache_bytes
    }

    /// Up to where entries may leave the cache.
    pub(crate) fn settled(&self) -> Index {
        self.settled
    }

    /// Frame bytes on their way to the disk, overwritten ones included.
    pub(crate) fn unsynced_bytes(&self) -> u64 {
        self.writes.unsynced_bytes
    }

    pub(crate) fn unsettled_bytes(&self) -> u64 {
        self.unsettled_bytes
    }

    /// The term of the entry at `index`, the base included; `None` before that and after the last.
    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        if index > self.last.index || index < self.base.index {
            return None;
        }
        let runs = self.runs.partition_point(|run| run.index <= index);
        Some(if runs == 0 { self.base.term } else { self.runs[runs - 1].term })
    }

    /// Whether this log has, or had, that very entry. Everybody's log has the one before the first.
    /// What is compacted was committed, so every leader that may speak has the same there (S13).
    pub(crate) fn contains(&self, id: EntryId) -> bool {
        let compacted = id.index < self.base.index && !self.compacted_is_unknown;
        compacted || self.term_at(id.index) == Some(id.term)
    }

    /// The last entry at or below `id.index` whose term is at most `id.term`: below it two logs can
    /// agree, above it they cannot. Each exchange of it skips a whole term (Raft 5.3, end). If that is
    /// in what is compacted, the very beginning: nothing nearer is known of it.
    pub(crate) fn last_within(&self, id: EntryId) -> EntryId {
        let runs = self.runs.partition_point(|run| run.index <= id.index && run.term <= id.term);
        if runs == 0 {
            let base = self.base.index <= id.index && self.base.term <= id.term;
            return if base { self.base } else { EntryId::default() };
        }
        let end = self.runs.get(runs).map_or(self.last.index, |run| run.index.prev());
        EntryId { index: end.min(id.index), term: self.runs[runs - 1].term }
    }

    /// Whether a log that ends in `other` may become the leader's, seen from this one (Raft 5.4.1).
    pub(crate) fn is_up_to_date(&self, other: EntryId) -> bool {
        (other.term, other.index) >= (self.last.term, self.last.index)
    }

    /// The first index that is still in memory; one past the end if none is.
    pub(crate) fn cache_first(&self) -> Index {
        self.cache.front().map_or(self.last.index.next(), |entry| entry.id.index)
    }

    pub(crate) fn cached(&self, index: Index) -> Option<&Entry> {
        let offset = index.0.checked_sub(self.cache_first().0)?;
        self.cache.get(usize::try_from(offset).ok()?)
    }

    /// Appends one entry.
    pub(crate) fn append(&mut self, entry: Entry) {
        assert_eq!(entry.id.index, self.last.index.next(), "a log has no holes");
        assert!(entry.id.term >= self.last.term, "terms never fall along a log");
        if entry.id.term > self.last.term || self.runs.is_empty() {
            self.runs.push(entry.id);
        }
        self.last = entry.id;
        self.sizes.append(entry.id.index, entry.frame.len() as u64);
        self.cache_bytes += entry.frame.len() as u64;
        self.unsettled_bytes += entry.frame.len() as u64;
        self.writes.unwritten_bytes += entry.frame.len() as u64;
        self.writes.unsynced_bytes += entry.frame.len() as u64;
        self.writes.log_owed = true;
        self.cache.push_back(entry);
        self.evict();
    }

    /// Drops every entry at or above `from`.
    pub(crate) fn truncate(&mut self, from: Index) {
        if from > self.last.index {
            return;
        }
        while let Some(entry) = self.cache.back()
            && entry.id.index >= from
        {
            self.cache_bytes -= entry.frame.len() as u64;
            if entry.id.index > self.settled {
                self.unsettled_bytes -= entry.frame.len() as u64;
            }
            self.cache.pop_back();
        }
        self.sizes.truncate(from);
        let index = from.prev();
        self.last = EntryId { index, term: self.term_at(index).unwrap_or_default() };
        while self.runs.pop_if(|run| run.index >= from).is_some() {}
        self.settled = self.settled.min(index);

        let writes = &mut self.writes;
        if writes.written >= from {
            let cut = writes.truncate_from.map_or(from, |before| before.min(from));
            writes.truncate_from = Some(cut);
            writes.written = index;
            writes.log_owed = true;
        }
        writes.durable = writes.durable.min(index);
        for pending in writes.pending.iter_mut().filter(|_| !self.stale_writes_count) {
            pending.covers = pending.covers.min(index);
        }
    }

    /// Drops everything up to `upto`, which must be in the log. Returns the new base.
    pub(crate) fn compact(&mut self, upto: Index) -> EntryId {
        let term = self.term_at(upto).expect("what is compacted is in the log");
        self.base = EntryId { index: upto, term };
        compact_runs(&mut self.runs, upto, self.last.index);
        self.sizes.compact(upto);
        let gone = self.cache.partition_point(|entry| entry.id.index <= upto);
        self.cache_bytes -= self.cache.drain(..gone).map(|e| e.frame.len() as u64).sum::<u64>();
        self.base
    }

    /// The last index, by the marks, after which there are at least so many bytes; the base if none is.
    pub(crate) fn index_before_last(&self, bytes: u64) -> Index {
        if bytes == 0 {
            return self.last.index;
        }
        let Sizes { marks, total, .. } = &self.sizes;
        let enough = marks.partition_point(|(_, upto)| total - upto >= bytes);
        let index = enough.checked_sub(1).map_or(self.base.index, |at| marks[at].0);
        index.max(self.base.index)
    }

    /// The first index, by the marks, after which there are at most so many bytes.
    pub(crate) fn index_within(&self, bytes: u64) -> Index {
        let Sizes { marks, total, .. } = &self.sizes;
        let before = marks.front().map_or(0, |(index, upto)| match *index <= self.base.index {
            true => *upto,
            false => 0,
        });
        if total - before <= bytes {
            return self.base.index;
        }
        let more = marks.partition_point(|(_, upto)| total - upto > bytes);
        marks.get(more).map_or(self.base.index, |(index, _)| *index)
    }

    /// Where a log is to begin of which only a short end is worth its room: after this index there are at
    /// most so many bytes, and nothing from before the process started. The last index, if a mark that says so
    /// is not above the base.
    pub(crate) fn index_of_short_end(&self, bytes: u64) -> Index {
        let Sizes { marks, total, uncounted, .. } = &self.sizes;
        let within = marks.back().filter(|(_, upto)| total - upto <= bytes).map(|mark| mark.0);
        let index = within.unwrap_or_default().max(*uncounted);
        if index > self.base.index { index } else { self.last.index }
    }

    /// Begins anew after a snapshot: nothing of the log stays, and nothing after it is durable before
    /// its write is (R26).
    pub(crate) fn install(&mut self, snapshot: Snapshot) {
        let at = snapshot.id.at;
        (self.base, self.last, self.settled) = (at, at, at.index);
        self.runs.clear();
        self.cache.clear();
        (self.cache_bytes, self.unsettled_bytes) = (0, 0);
        self.sizes = Sizes { marks: VecDeque::new(), total: 0, uncounted: Index(0), ..self.sizes };
        let writes = &mut self.writes;
        writes.unsynced_bytes -= std::mem::take(&mut writes.unwritten_bytes);
        writes.truncate_from = None;
        writes.install = Some(Box::new(snapshot));
        writes.log_owed = true;
        (writes.written, writes.durable) = (at.index, Index(0));
        writes.pending.iter_mut().for_each(|pending| pending.covers = Index(0));
    }

    /// Lets go of durable entries up to `upto`, as far as the cache is over its budget.
    pub(crate) fn settle(&mut self, upto: Index) {
        let settled = self.settled.max(upto.min(self.writes.durable));
        for index in self.settled.0 + 1..=settled.0 {
            let bytes = self.cached(Index(index)).map_or(0, |entry| entry.frame.len() as u64);
            self.unsettled_bytes -= bytes;
        }
        self.settled = settled;
        self.evict();
    }

    fn evict(&mut self) {
        while self.cache_bytes > self.cache_bytes_max {
            let Some(entry) = self.cache.front() else { return };
            if entry.id.index > self.settled {
                return;
            }
            self.cache_bytes -= entry.frame.len() as u64;
            self.cache.pop_front();
        }
    }

    /// Notes that term or vote changed.
    pub(crate) fn owe_hard_state(&mut self) {
        self.writes.hard_owed = true;
    }

    /// The next write, if one is owed: all that changed since the last one. Behind a disk that takes
    /// none, what would be further writes becomes one.
    pub(crate) fn take_write(&mut self, hard: HardState) -> Option<Write> {
        let owed = self.writes.hard_owed || self.writes.log_owed;
        if !owed || self.writes.pending.len() >= PENDING_WRITES_MAX {
            return None;
        }
        let unwritten = (self.last.index.0 - self.writes.written.0) as usize;
        let entries = self.cache.range(self.cache.len() - unwritten..).cloned().collect();
        let late = self.term_after_entries && unwritten > 0;
        let writes = &mut self.writes;
        let newest = writes.pending.back().map_or(writes.durable_hard, |write| write.hard);
        let hard = if late { newest } else { hard };
        let token = writes.next_token;
        writes.next_token = WriteToken(token.0 + 1);
        writes.written = self.last.index;
        writes.log_owed = false;
        let bytes = std::mem::take(&mut writes.unwritten_bytes);
        writes.pending.push_back(PendingWrite { token, hard, covers: self.last.index, bytes });
        Some(Write {
            token,
            hard: (!late && std::mem::take(&mut writes.hard_owed)).then_some(hard),
            truncate_from: writes.truncate_from.take(),
            install: writes.install.take(),
            entries,
        })
    }

    /// Everything up to `token` is on disk. Stale tokens change nothing.
    pub(crate) fn persisted(&mut self, token: WriteToken) {
        let writes = &mut self.writes;
        while let Some(done) = writes.pending.front()
            && done.token <= token
        {
            writes.durable_token = done.token;
            writes.durable_hard = done.hard;
            writes.durable = writes.durable.max(done.covers);
            writes.unsynced_bytes -= done.bytes;
            writes.pending.pop_front();
        }
    }

    /// Runs of terms, marks of sizes, and writes that are not durable.
    pub(crate) fn records(&self) -> (usize, usize, usize) {
        (self.runs.len(), self.sizes.marks.len(), self.writes.pending.len())
    }

    /// The writes on their way to the disk: token, hard state, and how much of the log as it stands
    /// now is on disk after them.
    pub(crate) fn pending(&self) -> impl Iterator<Item = (WriteToken, HardState, Index)> {
        self.writes.pending.iter().map(|write| (write.token, write.hard, write.covers))
    }

    /// The write that must be durable before a message may leave that promises `hard` (the current
    /// hard state) and the log up to `index`. A token that is already durable if none is waited for.
    pub(crate) fn promise(&self, hard: HardState, index: Index) -> WriteToken {
        let writes = &self.writes;
        // A snapshot that is not handed over takes the place of all that was: no write covers it yet.
        if writes.hard_owed || writes.install.is_some() || index > writes.written {
            return writes.next_token;
        }
        if writes.durable_hard == hard && writes.durable >= index {
            return writes.durable_token;
        }
        let covering = writes.pending.iter().find(|w| w.hard == hard && w.covers >= index);
        covering.expect("the newest write covers all that was handed over").token
    }

    /// The cached entries from `from` on that fit `bytes`: the first one always fits if `alone`.
    pub(crate) fn slice(&self, from: Index, bytes: u64, alone: bool) -> Entries {
        let Some(offset) = from.0.checked_sub(self.cache_first().0) else {
            return Entries::new();
        };
        let start = (offset as usize).min(self.cache.len());
        take_fitting(self.cache.range(start..), bytes, alone)
    }
}

/// Drops what is at or before `upto` from the runs of a log that ends in `last`.
pub fn compact_runs(runs: &mut Vec<EntryId>, upto: Index, last: Index) {
    let begun = runs.partition_point(|run| run.index <= upto);
    let next = runs.get(begun).map_or(last.next(), |run| run.index);
    // The run that `upto` is in goes on after it, unless it ends there.
    let gone = if next > upto.next() { begun.saturating_sub(1) } else { begun };
    runs.drain(..gone);
    if gone < begun {
        runs[0].index = upto.next();
    }
}

/// The prefix of `entries` whose frames fit `bytes` together; with `alone`, at least one.
pub(crate) fn take_fitting<'a>(
    entries: impl ExactSizeIterator<Item = &'a Entry> + Clone,
    bytes: u64,
    alone: bool,
) -> Entries {
    let mut left = bytes;
    let mut fit = 0;
    for entry in entries.clone() {
        let size = entry.frame.len() as u64;
        if size > left && !(alone && fit == 0) {
            break;
        }
        left = left.saturating_sub(size);
        fit += 1;
    }
    // Counted first, so that there is one allocation, and none for one entry.
    entries.take(fit).cloned().collect()
}

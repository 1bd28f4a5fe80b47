//! Where each group's entries stand in the `wal` table, in memory: rebuilt by recovery, kept by the
//! writer.
//!
//! A *run* is consecutive entries of one group, in the order they stand in the log, with other
//! groups' frames between them; to read one, its rows are passed through from its start. It ends
//! when that way would get long, so an index of small entries is small and a read of one of them
//! passes over little.

use super::wal::Place;
use raft_core::compact_runs;
use raft_core::conf::Conf;
use raft_core::frame::{LOG_HEADER_BYTES, LogFrame};
use raft_core::types::{EntryId, GroupId, HardState, Index, Term};
use std::collections::BTreeMap;

/// A run takes no further entry that begins this many bytes after the run's own start.
const RUN_BYTES_MAX: u64 = 16 << 10;
/// A plan has this many parts at most; a fetch may always bring less than it was asked for.
const PLAN_PARTS_MAX: usize = 4096;

/// All groups of the node.
#[derive(Debug, Default)]
pub(super) struct LogIndex {
    groups: BTreeMap<GroupId, GroupLog>,
    /// The log is read from a place where others stood before: what a group's first frames say may
    /// rest on ones that are gone, until a log frame tells what holds.
    pub(super) beginning_gone: bool,
}

/// One group.
#[derive(Clone, Debug, Default)]
pub(super) struct GroupLog {
    pub(super) hard: HardState,
    /// The entry before the log's first.
    pub(super) base: EntryId,
    /// Where each term begins, in index order.
    pub(super) term_runs: Vec<EntryId>,
    pub(super) last: EntryId,
    /// The configurations among the entries that recovery found.
    pub(super) confs: Vec<(Index, Conf)>,
    /// The first may begin at or before the base; all of it is counted then.
    runs: Vec<Run>,
    /// Frame bytes of the runs' entries; of a run that was cut, an estimate.
    bytes: u64,
    /// The row where the newest hard state, or log frame, stands.
    hard_row: Option<u64>,
    /// The row where the newest log frame stands.
    base_row: Option<u64>,
    /// Entries are gone that no log frame has said to be.
    missing: bool,
    /// A checkpoint was asked for.
    pub(super) wanted: bool,
}

#[derive(Clone, Debug)]
struct Run {
    first: Index,
    place: Place,
    /// Where it begins, in frame bytes since some start.
    position: u64,
    count: u32,
    bytes: u32,
    /// Entries after `count` were cut off; theirs are not to be read, so none can be added.
    sealed: bool,
}

/// A part of a fetch: pass through the log from `place`, leave out `skip` entries of the group,
/// take the next `take`, the first of which has the index `first`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) place: Place,
    pub(super) skip: u64,
    pub(super) take: u64,
    pub(super) first: Index,
}

/// A frame that cannot stand where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Contradiction {
    #[error("entry {1} of group {0} stands after index {2}")]
    Gap(GroupId, EntryId, Index),
    #[error("entry {1} of group {0} stands after term {2}")]
    TermFalls(GroupId, EntryId, Term),
    #[error("term {1} of group {0} stands after term {2}")]
    HardStateFalls(GroupId, Term, Term),
    #[error("index {1} of group {0} is written again, but its log begins after {2}")]
    BelowBase(GroupId, Index, EntryId),
    #[error("the log of group {0} is to begin after {1}, but goes from {2} to {3}")]
    Base(GroupId, EntryId, EntryId, EntryId),
    #[error("the log of group {0} is said to end at {1}, but ends at {2}")]
    End(GroupId, EntryId, EntryId),
    #[error("the log of group {0} lacks entries between {1} and {2}")]
    Missing(GroupId, EntryId, EntryId),
}

impl LogIndex {
    pub(super) fn new(beginning_gone: bool) -> LogIndex {
        LogIndex { beginning_gone, ..LogIndex::default() }
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = (GroupId, &GroupLog)> {
        self.groups.iter().map(|(group, log)| (*group, log))
    }

    pub(super) fn get(&self, group: GroupId) -> Option<&GroupLog> {
        self.groups.get(&group)
    }

    /// That of one group alone.
    pub(super) fn only(&self, group: GroupId) -> LogIndex {
        let groups = self.get(group).map(|log| (group, log.clone())).into_iter().collect();
        LogIndex { groups, beginning_gone: self.beginning_gone }
    }

    /// The first row that any group needs; `None` if none needs any.
    pub(super) fn first_needed(&self) -> Option<u64> {
        self.groups.values().filter_map(GroupLog::first_needed).min()
    }

    /// Frame bytes of all entries that are held.
    pub(super) fn live_bytes(&self) -> u64 {
        self.groups.values().map(|log| log.bytes).sum()
    }

    /// Whether what was read is whole.
    pub(super) fn check_whole(&self) -> Result<(), Contradiction> {
        match self.groups().find(|(_, log)| log.missing) {
            None => Ok(()),
            Some((group, log)) => Err(Contradiction::Missing(group, log.base, log.last)),
        }
    }

    pub(super) fn hard_state(
        &mut self,
        group: GroupId,
        hard: HardState,
        place: Place,
    ) -> Result<(), Contradiction> {
        let log = self.groups.entry(group).or_default();
        log.set_hard(group, hard, place)
    }

    pub(super) fn cut(&mut self, group: GroupId, from: Index) -> Result<(), Contradiction> {
        let log = self.groups.entry(group).or_default();
        if from <= log.base.index {
            return Err(Contradiction::BelowBase(group, from, log.base));
        }
        log.cut(from);
        Ok(())
    }

    /// An entry of `bytes` whose frame begins at `place`, `position` frame bytes after some start.
    pub(super) fn append(
        &mut self,
        group: GroupId,
        id: EntryId,
        bytes: usize,
        place: Place,
        position: u64,
    ) -> Result<(), Contradiction> {
        let log = self.groups.entry(group).or_default();
        let gap = id.index > log.last.index.next();
        if gap && !(self.beginning_gone && log.runs.is_empty()) {
            return Err(Contradiction::Gap(group, id, log.last.index));
        }
        if id.index <= log.base.index {
            return Err(match id.index {
                Index(0) => Contradiction::Gap(group, id, log.last.index),
                index => Contradiction::BelowBase(group, index, log.base),
            });
        }
        log.cut(id.index);
        if id.term < log.last.term {
            return Err(Contradiction::TermFalls(group, id, log.last.term));
        }
        log.missing |= gap;
        log.push(id, bytes, place, position);
        Ok(())
    }

    /// Nothing of the group is needed, and nothing that stood before counts; whether there was any.
    pub(super) fn forget(&mut self, group: GroupId) -> bool {
        self.groups.remove(&group).is_some()
    }

    /// The entry just added carries a configuration.
    pub(super) fn conf(&mut self, group: GroupId, index: Index, conf: Conf) {
        self.groups.entry(group).or_default().confs.push((index, conf));
    }

    /// The log up to `base` is not needed any more; whether that is news. No row may go before a log
    /// frame says so.
    pub(super) fn compact(&mut self, group: GroupId, base: EntryId) -> Result<bool, Contradiction> {
        let log = self.groups.entry(group).or_default();
        if base.index <= log.base.index {
            return Ok(false);
        }
        if log.term_at(base.index) != Some(base.term) {
            return Err(Contradiction::Base(group, base, log.base, log.last));
        }
        log.drop_to(base);
        log.wanted = false;
        Ok(true)
    }

    /// A log frame that begins at `place`, `position` frame bytes after some start.
    pub(super) fn log_frame(
        &mut self,
        frame: &LogFrame,
        place: Place,
        position: u64,
    ) -> Result<(), Contradiction> {
        let LogFrame { group, hard, base, last, .. } = *frame;
        let log = self.groups.entry(group).or_default();
        log.set_hard(group, hard, place)?;
        let other = log.term_at(base.index).is_some_and(|term| term != base.term);
        if base.index < log.base.index || (other && !frame.replace) {
            return Err(Contradiction::Base(group, base, log.base, log.last));
        }
        log.base_row = Some(place.seq);
        log.wanted = false;
        if !frame.replace {
            log.drop_to(base);
            if !log.runs.is_empty() && log.last != last {
                return Err(Contradiction::End(group, last, log.last));
            }
            log.missing = log.last != last || log.first_index() > base.index.next();
            return Ok(());
        }
        let (hard_row, base_row) = (log.hard_row, log.base_row);
        *log = GroupLog { hard, base, last: base, hard_row, base_row, ..GroupLog::default() };
        let mut offset = LOG_HEADER_BYTES as u64;
        for entry in &frame.entries {
            let bytes = entry.frame.len();
            log.push(entry.id, bytes, place.advanced(offset), position + offset);
            log.confs.extend(Conf::of_entry(entry).map(|conf| (entry.id.index, conf)));
            offset += bytes as u64;
        }
        Ok(())
    }

    /// How to read entries from `from` to `to`; `None` if `from` is not held.
    pub(super) fn plan(&self, group: GroupId, from: Index, to: Index) -> Option<Vec<Part>> {
        self.groups.get(&group)?.plan(from, to)
    }

    /// A checkpoint of the group was asked for.
    pub(super) fn set_wanted(&mut self, group: GroupId) {
        self.groups.entry(group).or_default().wanted = true;
    }
}

impl GroupLog {
    /// The first row that recovery needs for this group once its base is written; `None` if it needs
    /// none.
    pub(super) fn first_needed(&self) -> Option<u64> {
        [self.hard_row, self.base_row, self.first_row()].into_iter().flatten().min()
    }

    /// The row where its first entry stands.
    pub(super) fn first_row(&self) -> Option<u64> {
        self.runs.first().map(|run| run.place.seq)
    }

    /// Frame bytes of its entries.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How to read all entries, unless they are spread too wide.
    pub(super) fn plan_all(&self) -> Option<Vec<Part>> {
        match self.runs.len() {
            0 => Some(Vec::new()),
            1..=PLAN_PARTS_MAX => self.plan(self.base.index.next(), self.last.index),
            _ => None,
        }
    }

    /// The term of an index, if it is the base's or an entry's.
    pub(super) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        let runs = self.term_runs.partition_point(|start| start.index <= index);
        let start = runs.checked_sub(1).map(|at| self.term_runs[at].term);
        start.filter(|_| index <= self.last.index)
    }

    fn set_hard(
        &mut self,
        group: GroupId,
        hard: HardState,
        place: Place,
    ) -> Result<(), Contradiction> {
        if hard.term < self.hard.term {
            return Err(Contradiction::HardStateFalls(group, hard.term, self.hard.term));
        }
        self.hard = hard;
        self.hard_row = Some(place.seq);
        Ok(())
    }

    /// The first entry's index, or where it would be.
    fn first_index(&self) -> Index {
        self.term_runs.first().map_or(self.base.index.next(), |start| start.index)
    }

    fn cut(&mut self, from: Index) {
        // Nothing is left, so nothing is missing.
        self.missing &= from > self.base.index.next();
        if from > self.last.index {
            return;
        }
        let kept = self.runs.partition_point(|run| run.first < from);
        self.bytes -= self.runs.drain(kept..).map(|run| u64::from(run.bytes)).sum::<u64>();
        if let Some(run) = self.runs.last_mut() {
            let (before, count) = (run.bytes, (from.0 - run.first.0) as u32);
            let share = u64::from(before) * u64::from(count) / u64::from(run.count);
            run.bytes = share as u32;
            self.bytes -= u64::from(before - run.bytes);
            run.count = count;
            run.sealed = true;
        }
        self.drop_runs();
        self.confs.retain(|(index, _)| *index < from);
        self.term_runs.truncate(self.term_runs.partition_point(|start| start.index < from));
        let term = self.term_runs.last().map(|start| start.term);
        self.last = term.map_or(self.base, |term| EntryId { index: from.prev(), term });
    }

    fn drop_to(&mut self, base: EntryId) {
        compact_runs(&mut self.term_runs, base.index, self.last.index);
        self.base = base;
        self.confs.retain(|(index, _)| *index > base.index);
        if self.last.index <= base.index {
            self.last = base;
        }
        self.drop_runs();
    }

    /// Drops the runs that end at or before the base.
    fn drop_runs(&mut self) {
        let base = self.base.index;
        let gone = self.runs.partition_point(|run| run.end() <= base.next());
        self.bytes -= self.runs.drain(..gone).map(|run| u64::from(run.bytes)).sum::<u64>();
        if self.runs.len() < self.runs.capacity() / 4 {
            self.runs.shrink_to_fit();
        }
    }

    fn push(&mut self, id: EntryId, bytes: usize, place: Place, position: u64) {
        if self.term_runs.last().is_none_or(|start| start.term != id.term) {
            self.term_runs.push(id);
        }
        self.last = id;
        self.bytes += bytes as u64;
        let bytes = bytes as u32;
        match self.runs.last_mut() {
            Some(run) if !run.sealed && position - run.position < RUN_BYTES_MAX => {
                run.count += 1;
                run.bytes += bytes;
            }
            _ => {
                let first = id.index;
                self.runs.push(Run { first, place, position, count: 1, bytes, sealed: false });
            }
        }
    }

    fn plan(&self, from: Index, to: Index) -> Option<Vec<Part>> {
        let to = to.min(self.last.index);
        let start = self.runs.partition_point(|run| run.end() <= from);
        let held = self.runs.get(start).is_some_and(|run| run.first <= from);
        if from > to || from <= self.base.index || !held {
            return None;
        }
        let parts = self.runs[start..].iter().take_while(|run| run.first <= to).map(|run| {
            let first = run.first.max(from);
            let end = run.end().min(to.next());
            let (skip, take) = (first.0 - run.first.0, end.0 - first.0);
            Part { place: run.place, skip, take, first }
        });
        Some(parts.take(PLAN_PARTS_MAX).collect())
    }
}

impl Run {
    /// One past its last entry.
    fn end(&self) -> Index {
        Index(self.first.0 + u64::from(self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: GroupId = GroupId(1);

    fn id(index: u64, term: u64) -> EntryId {
        EntryId { index: Index(index), term: Term(term) }
    }

    fn at(seq: u64) -> Place {
        Place { seq, offset: 0 }
    }

    fn part(seq: u64, skip: u64, take: u64, first: u64) -> Part {
        Part { place: at(seq), skip, take, first: Index(first) }
    }

    #[test]
    fn runs_end_where_the_way_gets_long() {
        let mut index = LogIndex::default();
        for i in 1..=4 {
            index.append(G, id(i, 1), 30, at(i), (i - 1) * RUN_BYTES_MAX / 2).unwrap();
        }
        let plan = |from, to| index.plan(G, Index(from), Index(to));
        assert_eq!(plan(1, 9), Some(vec![part(1, 0, 2, 1), part(3, 0, 2, 3)]));
        assert_eq!(plan(2, 3), Some(vec![part(1, 1, 1, 2), part(3, 0, 1, 3)]));
        assert_eq!(plan(5, 9), None);
        assert_eq!(plan(0, 9), None);
    }

    #[test]
    fn a_cut_run_is_never_extended() {
        let mut index = LogIndex::default();
        for i in 1..=4 {
            index.append(G, id(i, 1), 30, at(i), i).unwrap();
        }
        index.cut(G, Index(3)).unwrap();
        index.append(G, id(3, 2), 30, at(9), 9).unwrap();
        assert_eq!(
            index.plan(G, Index(1), Index(9)),
            Some(vec![part(1, 0, 2, 1), part(9, 0, 1, 3)])
        );
        let log = &index.groups[&G];
        assert_eq!((log.last, &log.term_runs[..]), (id(3, 2), &[id(1, 1), id(3, 2)][..]));
        index.cut(G, Index(1)).unwrap();
        assert_eq!(index.groups[&G].last, id(0, 0));
        assert_eq!(index.plan(G, Index(1), Index(9)), None);
    }

    #[test]
    fn contradictions_are_named() {
        let mut index = LogIndex::default();
        assert_eq!(
            index.append(G, id(2, 1), 30, at(0), 0).unwrap_err().to_string(),
            "entry 2@1 of group 1 stands after index 0"
        );
        index.append(G, id(1, 2), 30, at(0), 0).unwrap();
        assert_eq!(
            index.append(G, id(2, 1), 30, at(0), 0).unwrap_err().to_string(),
            "entry 2@1 of group 1 stands after term 2"
        );
        index.hard_state(G, HardState { term: Term(2), ..HardState::default() }, at(0)).unwrap();
        assert_eq!(
            index.hard_state(G, HardState::default(), at(0)).unwrap_err().to_string(),
            "term 0 of group 1 stands after term 2"
        );
    }

    fn keep(base: EntryId, last: EntryId) -> LogFrame {
        let hard = HardState { term: Term(3), ..HardState::default() };
        LogFrame { group: G, hard, base, last, replace: false, entries: Vec::new() }
    }

    /// A log whose first 29 entries are gone, and that has 30 and 31.
    fn beheaded() -> LogIndex {
        let mut index = LogIndex::new(true);
        index.append(G, id(30, 2), 30, at(5), 0).unwrap();
        index.append(G, id(31, 3), 30, at(6), 30).unwrap();
        index
    }

    #[test]
    fn a_beginning_that_is_gone_is_made_good_by_a_log_frame_or_missing() {
        let whole = |frame: &LogFrame| {
            let mut index = beheaded();
            index.log_frame(frame, at(7), 60).and_then(|()| index.check_whole())
        };
        let missing = beheaded().check_whole().unwrap_err().to_string();
        assert_eq!(missing, "the log of group 1 lacks entries between 0@0 and 31@3");
        assert_eq!(whole(&keep(id(29, 2), id(31, 3))), Ok(()));
        assert_eq!(whole(&keep(id(31, 3), id(31, 3))), Ok(()));
        assert_eq!(
            whole(&keep(id(28, 2), id(31, 3))),
            Err(Contradiction::Missing(G, id(28, 2), id(31, 3)))
        );
        assert_eq!(
            whole(&keep(id(29, 2), id(32, 3))),
            Err(Contradiction::End(G, id(32, 3), id(31, 3)))
        );
        assert_eq!(
            whole(&keep(id(30, 1), id(31, 3))),
            Err(Contradiction::Base(G, id(30, 1), id(0, 0), id(31, 3)))
        );
        let replace = LogFrame { replace: true, ..keep(id(9, 1), id(9, 1)) };
        assert_eq!(whole(&replace), Ok(()));
        // Where nothing was removed, nothing may be missing even for a moment.
        let mut index = LogIndex::default();
        assert!(index.append(G, id(30, 2), 30, at(5), 0).is_err());
        index.log_frame(&keep(id(2, 1), id(4, 1)), at(5), 0).unwrap();
        assert!(index.check_whole().is_err());
        index.cut(G, Index(3)).unwrap();
        assert_eq!(index.check_whole(), Ok(()));
    }

    #[test]
    fn rows_are_needed_until_something_written_later_says_what_they_say() {
        let mut index = LogIndex::default();
        assert_eq!(index.first_needed(), None);
        // A vote, and entries that come much later: the vote is needed.
        let hard = HardState { term: Term(3), ..HardState::default() };
        index.hard_state(G, hard, at(2)).unwrap();
        for i in 1..=4 {
            index.append(G, id(i, 1), 30, at(10 + i), i * RUN_BYTES_MAX).unwrap();
        }
        assert_eq!(index.first_needed(), Some(2));
        index.hard_state(G, hard, at(20)).unwrap();
        assert_eq!(index.first_needed(), Some(11));
        assert_eq!(index.compact(G, id(2, 1)), Ok(true));
        assert_eq!(index.compact(G, id(1, 1)), Ok(false));
        assert_eq!((index.first_needed(), index.live_bytes()), (Some(13), 60));
        assert_eq!(index.plan(G, Index(2), Index(9)), None);
        index.log_frame(&keep(id(2, 1), id(4, 1)), at(21), 0).unwrap();
        assert_eq!(index.first_needed(), Some(13));
        index.cut(G, Index(3)).unwrap();
        assert_eq!((index.first_needed(), index.live_bytes()), (Some(21), 0));
        assert_eq!(index.groups[&G].last, id(2, 1));
        assert_eq!(
            index.compact(G, id(3, 1)).unwrap_err().to_string(),
            "the log of group 1 is to begin after 3@1, but goes from 2@1 to 2@1"
        );
        assert_eq!(
            index.cut(G, Index(2)).unwrap_err().to_string(),
            "index 2 of group 1 is written again, but its log begins after 2@1"
        );
    }
}

//! Where each group's entries stand in the `wal` table, in memory: rebuilt by recovery, kept by the
//! writer.
//!
//! A *run* is consecutive entries of one group, in the order they stand in the log, with other
//! groups' frames between them; to read one, its rows are passed through from its start. It ends
//! when that way would get long, so an index of small entries is small and a read of one of them
//! passes over little.

use super::wal::Place;
use raft_core::conf::Conf;
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
}

/// One group.
#[derive(Debug, Default)]
pub(super) struct GroupLog {
    pub(super) hard: HardState,
    /// Where each term begins, in index order.
    pub(super) term_runs: Vec<EntryId>,
    pub(super) last: EntryId,
    /// The configurations among the entries that recovery found.
    pub(super) confs: Vec<(Index, Conf)>,
    runs: Vec<Run>,
}

#[derive(Debug)]
struct Run {
    first: Index,
    count: u64,
    place: Place,
    /// Where it begins, in frame bytes since the start of the log.
    position: u64,
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
}

impl LogIndex {
    pub(super) fn groups(&self) -> impl Iterator<Item = (GroupId, &GroupLog)> {
        self.groups.iter().map(|(group, log)| (*group, log))
    }

    pub(super) fn hard_state(
        &mut self,
        group: GroupId,
        hard: HardState,
    ) -> Result<(), Contradiction> {
        let log = self.groups.entry(group).or_default();
        if hard.term < log.hard.term {
            return Err(Contradiction::HardStateFalls(group, hard.term, log.hard.term));
        }
        log.hard = hard;
        Ok(())
    }

    pub(super) fn cut(&mut self, group: GroupId, from: Index) {
        self.groups.entry(group).or_default().cut(from);
    }

    /// An entry whose frame begins at `place`, `position` frame bytes after the start of the log.
    pub(super) fn append(
        &mut self,
        group: GroupId,
        id: EntryId,
        place: Place,
        position: u64,
    ) -> Result<(), Contradiction> {
        let log = self.groups.entry(group).or_default();
        if id.index == Index(0) || id.index > log.last.index.next() {
            return Err(Contradiction::Gap(group, id, log.last.index));
        }
        log.cut(id.index);
        if id.term < log.last.term {
            return Err(Contradiction::TermFalls(group, id, log.last.term));
        }
        log.push(id, place, position);
        Ok(())
    }

    /// The entry just added carries a configuration.
    pub(super) fn conf(&mut self, group: GroupId, index: Index, conf: Conf) {
        self.groups.entry(group).or_default().confs.push((index, conf));
    }

    /// How to read entries from `from` to `to`; `None` if `from` is not held.
    pub(super) fn plan(&self, group: GroupId, from: Index, to: Index) -> Option<Vec<Part>> {
        self.groups.get(&group)?.plan(from, to)
    }
}

impl GroupLog {
    fn cut(&mut self, from: Index) {
        if from > self.last.index {
            return;
        }
        self.runs.truncate(self.runs.partition_point(|run| run.first < from));
        if let Some(run) = self.runs.last_mut() {
            run.count = from.0 - run.first.0;
            run.sealed = true;
        }
        self.confs.retain(|(index, _)| *index < from);
        self.term_runs.truncate(self.term_runs.partition_point(|start| start.index < from));
        let term = self.term_runs.last().map_or(Term(0), |start| start.term);
        self.last = EntryId { index: from.prev(), term };
    }

    fn push(&mut self, id: EntryId, place: Place, position: u64) {
        if self.term_runs.last().is_none_or(|start| start.term != id.term) {
            self.term_runs.push(id);
        }
        self.last = id;
        match self.runs.last_mut() {
            Some(run) if !run.sealed && position - run.position < RUN_BYTES_MAX => run.count += 1,
            _ => self.runs.push(Run { first: id.index, count: 1, place, position, sealed: false }),
        }
    }

    fn plan(&self, from: Index, to: Index) -> Option<Vec<Part>> {
        let to = to.min(self.last.index);
        let start = self.runs.partition_point(|run| run.first.0 + run.count <= from.0);
        if from > to || self.runs.get(start).is_none_or(|run| run.first > from) {
            return None;
        }
        let parts = self.runs[start..].iter().take_while(|run| run.first <= to).map(|run| {
            let first = run.first.max(from);
            let end = (run.first.0 + run.count).min(to.0 + 1);
            let (skip, take) = (first.0 - run.first.0, end - first.0);
            Part { place: run.place, skip, take, first }
        });
        Some(parts.take(PLAN_PARTS_MAX).collect())
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
            index.append(G, id(i, 1), at(i), (i - 1) * RUN_BYTES_MAX / 2).unwrap();
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
            index.append(G, id(i, 1), at(i), i).unwrap();
        }
        index.cut(G, Index(3));
        index.append(G, id(3, 2), at(9), 9).unwrap();
        assert_eq!(
            index.plan(G, Index(1), Index(9)),
            Some(vec![part(1, 0, 2, 1), part(9, 0, 1, 3)])
        );
        let log = &index.groups[&G];
        assert_eq!((log.last, &log.term_runs[..]), (id(3, 2), &[id(1, 1), id(3, 2)][..]));
        index.cut(G, Index(1));
        assert_eq!(index.groups[&G].last, id(0, 0));
        assert_eq!(index.plan(G, Index(1), Index(9)), None);
    }

    #[test]
    fn contradictions_are_named() {
        let mut index = LogIndex::default();
        assert_eq!(
            index.append(G, id(2, 1), at(0), 0).unwrap_err().to_string(),
            "entry 2@1 of group 1 stands after index 0"
        );
        index.append(G, id(1, 2), at(0), 0).unwrap();
        assert_eq!(
            index.append(G, id(2, 1), at(0), 0).unwrap_err().to_string(),
            "entry 2@1 of group 1 stands after term 2"
        );
        index.hard_state(G, HardState { term: Term(2), ..HardState::default() }).unwrap();
        assert_eq!(
            index.hard_state(G, HardState::default()).unwrap_err().to_string(),
            "term 0 of group 1 stands after term 2"
        );
    }
}

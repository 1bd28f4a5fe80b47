//! What was found on disk and contradicts itself is refused, with both numbers; nothing is "fixed"
//! (scenarios P7, P8, and rule R6).

use raft_core::conf::Conf;
use raft_core::frame::encode_entry;
use raft_core::snapshot::{Snapshot, SnapshotId};
use raft_core::types::{Entry, EntryId, EntryKind, GroupId, HardState, Index, NodeId, Term};
use raft_core::{Config, OpenError, Raft, Restored};

const GROUP: GroupId = GroupId(1);

fn id(index: u64, term: u64) -> EntryId {
    EntryId { index: Index(index), term: Term(term) }
}

/// A log of one entry for each term.
fn log(terms: &[u64]) -> Vec<Entry> {
    let ids = terms.iter().zip(1..).map(|(term, index)| id(index, *term));
    ids.map(|id| encode_entry(GROUP, id, EntryKind::Command, b"x")).collect()
}

fn checkpoint(at: EntryId) -> Snapshot {
    let conf = (Index(0), Conf::of_voters(vec![NodeId(1), NodeId(2), NodeId(3)]));
    Snapshot { id: SnapshotId { at, hash: 7 }, bytes: 100, conf }
}

fn open(restored: Restored) -> Result<Raft, OpenError> {
    let config = Config::new(NodeId(1), GROUP, (1..=3).map(NodeId).collect());
    Raft::open(config, restored, 1, 0)
}

fn restored(terms: &[u64], base: u64, at: Option<EntryId>) -> Restored {
    let hard = HardState { term: Term(9), ..HardState::default() };
    let base_term = base.checked_sub(1).map_or(0, |before| terms[before as usize]);
    Restored::of_log(hard, &log(terms)).compacted(id(base, base_term), at.map(checkpoint))
}

#[test]
fn a_log_continues_its_checkpoint() {
    let terms = [1, 1, 2, 2, 5];
    for base in 0..=5 {
        for at in base.max(1)..=5 {
            let at = id(at, terms[at as usize - 1]);
            let raft = open(restored(&terms, base, Some(at))).expect("nothing contradicts");
            let status = raft.status();
            assert_eq!((status.base.index.0, status.last), (base, id(5, 5)));
            assert_eq!((status.commit, status.applied), (at.index, at.index), "P4");
            assert_eq!(status.checkpoint, at.index);
        }
    }
}

#[test]
fn a_gap_is_named_by_both_numbers() {
    let gap = open(restored(&[1, 1, 2, 2], 3, Some(id(2, 1)))).expect_err("P7");
    assert_eq!(gap, OpenError::Gap { checkpoint: Index(2), base: Index(3) });
    assert!(gap.to_string().contains("index 2") && gap.to_string().contains("after 3"), "{gap}");
    let none = open(restored(&[1, 1, 2, 2], 3, None)).expect_err("P7");
    assert_eq!(none, OpenError::Gap { checkpoint: Index(0), base: Index(3) });
}

#[test]
fn a_checkpoint_beyond_the_log_is_refused() {
    let ahead = open(restored(&[1, 1], 0, Some(id(3, 1)))).expect_err("R6");
    assert_eq!(ahead, OpenError::Ahead { checkpoint: Index(3), last: Index(2) });
}

#[test]
fn a_checkpoint_of_another_log_is_refused() {
    for (base, at) in [(0, id(3, 1)), (3, id(3, 1)), (0, id(4, 3))] {
        let other = open(restored(&[1, 1, 2, 2], base, Some(at))).expect_err("P8");
        assert_eq!(other, OpenError::Contradiction { checkpoint: at, log: Term(2) });
    }
}

#[test]
fn holes_and_falling_terms_are_refused() {
    let good = restored(&[1, 2, 3], 0, None);
    let mut falling = good.clone();
    falling.term_runs.swap(0, 1);
    let hole = Restored { base: id(1, 1), ..restored(&[1, 2, 3], 2, Some(id(2, 2))) };
    let long = Restored { last: id(2, 3), ..good.clone() };
    let table = [
        (falling, id(0, 0), id(2, 2)),
        (hole, id(1, 1), id(3, 3)),
        (long, id(3, 3), id(2, 3)),
        (Restored { term_runs: vec![], ..good.clone() }, id(0, 0), id(3, 3)),
    ];
    for (restored, before, after) in table {
        let refused = open(restored.clone()).expect_err("a hole");
        assert_eq!(refused, OpenError::Log { before, after }, "{restored:?}");
        let text = refused.to_string();
        assert!(text.contains(&format!("{after} after {before}")), "{text}");
    }
    let hard = HardState { term: Term(2), ..HardState::default() };
    let ahead = open(Restored { hard, ..good }).expect_err("R3");
    assert_eq!(ahead, OpenError::Term { log: Term(3), hard: Term(2) });
}

#[test]
fn configurations_outside_of_the_log_are_refused() {
    let conf = |index| (Index(index), Conf::of_voters(vec![NodeId(1)]));
    for (confs, before, after) in [(vec![2, 2], 2, 2), (vec![1, 4], 1, 4), (vec![0], 0, 0)] {
        let confs = confs.into_iter().map(conf).collect();
        let refused = open(Restored { confs, ..restored(&[1, 2, 3], 0, None) }).expect_err("M14");
        let (before, after, last) = (Index(before), Index(after), Index(3));
        assert_eq!(refused, OpenError::Conf { before, after, last });
    }
}

#[test]
fn an_impossible_checkpoint_is_refused_with_what_is_wrong() {
    let mut restored = restored(&[1, 2, 3], 0, Some(id(2, 2)));
    restored.checkpoint.as_mut().unwrap().bytes = 0;
    let refused = open(restored).expect_err("of nothing").to_string();
    for part in ["2@2", "0 bytes", "term 9", "an empty snapshot"] {
        assert!(refused.contains(part), "{refused}");
    }
}

//! What always holds of one replica. Tests call it after every step; production never does.

use crate::raft::{Raft, RoleState};
use crate::types::Index;

/// Panics with the broken rule.
///
/// # Panics
/// If an invariant does not hold.
pub fn check(raft: &Raft) {
    let log = &raft.log;
    let last = log.last();
    assert!(raft.apply.applied <= raft.apply.handed, "applied what was not handed over");
    assert!(raft.apply.handed <= raft.commit, "handed over what is not committed");
    assert!(raft.commit <= last.index, "committed what is not in the log");
    assert!(log.durable() <= last.index, "durable beyond the log");
    assert!(log.base().index <= raft.commit, "compacted what is not committed");
    assert!(
        log.base().index <= raft.snapshots.covered() || raft.snapshots.installing.is_some(),
        "compacted what no checkpoint covers (P6)"
    );
    assert!(last.term <= raft.hard.term, "an entry of a later term than the own");
    assert!(log.durable_hard().term <= raft.hard.term, "a durable term above the current one");

    let ordered = log.runs().windows(2).all(|w| w[0].index < w[1].index && w[0].term < w[1].term);
    assert!(ordered, "terms or indexes fall along the log");
    assert_eq!(log.runs().last().unwrap_or(&log.base()).term, last.term, "last run's term");
    assert!(log.runs().first().is_none_or(|run| run.index == log.base().index.next()), "first run");
    let mut cached = 0;
    let mut unsettled = 0;
    for index in log.cache_first().0..=last.index.0 {
        let entry = log.cached(Index(index)).expect("the cache is a suffix of the log");
        assert_eq!(Some(entry.id.term), log.term_at(Index(index)), "cache and runs disagree");
        cached += entry.frame.len() as u64;
        if Index(index) > log.settled() {
            unsettled += entry.frame.len() as u64;
        }
    }
    assert_eq!((cached, unsettled), (log.cache_bytes(), log.unsettled_bytes()), "bytes miscounted");
    assert!(log.settled() >= log.cache_first().prev(), "an unsettled entry left the cache");
    let (committed, _) = raft.confs.committed();
    assert!(committed <= raft.commit, "a configuration counts as committed before its entry");
    assert!(
        raft.confs.newest_index() <= last.index,
        "a configuration that was cut off still counts"
    );
    check_role(raft);
}

fn check_role(raft: &Raft) {
    let own = Some(raft.config.id);
    match &raft.role {
        RoleState::Follower(follower) => {
            assert_ne!(follower.leader, own, "follows itself");
            assert!(follower.verified <= raft.log.last().index, "verified what is not in the log");
        }
        RoleState::PreCandidate(_) => {}
        RoleState::Candidate(_) => assert_eq!(raft.hard.voted_for, own, "voted for another"),
        RoleState::Leader(leader) => {
            assert_eq!(raft.log.durable_hard(), raft.hard, "leads on a vote it could forget (R2)");
            assert_eq!(raft.hard.voted_for, own, "leads without its own vote");
            for progress in leader.peers.values() {
                assert!(progress.match_index < progress.next_index, "next within what matches");
                assert!(progress.next_index <= raft.log.last().index.next(), "next beyond the log");
            }
        }
    }
}

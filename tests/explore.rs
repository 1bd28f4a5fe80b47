//! Every schedule of a small group of real cores, as far as a bounded time allows.
//! `FLOTILLA_STATES` sets how far: then the searches go depth first, and need memory for hashes only.

use harness::raft_explore::{Explored, Fault, Scope, explore};
use harness::raft_explore_pairs::{self as pairs, Kind};
use harness::raft_pairs::MS;
use raft_core::types::Term;

/// States of each search in one ordinary test run.
const STATES: usize = 12_000;

const SCOPE: Scope = Scope {
    nodes: 3,
    led: true,
    term_max: Term(3),
    proposals_max: 2,
    crashes_max: 1,
    crashes_of_all_max: 3,
    reads_max: 0,
    transfers_max: 0,
    checkpoints_max: 0,
    step_down: false,
    states_max: STATES,
    depth_first: false,
    walks: None,
};

/// States of each search over node pairs in one ordinary test run.
const PAIR_STATES: usize = 1_500;

/// Node pairs, links and cores.
const PAIRS: pairs::Scope = pairs::Scope {
    nodes: 3,
    voters: 3,
    kinds: &[],
    faults_max: 3,
    confs: &[],
    harmless: false,
    leader_within: pairs::LEADER_WITHIN,
    states_max: PAIR_STATES,
    follow_every: 5,
    walks: None,
};

/// All that can go wrong with three nodes that stay.
const TROUBLE: &[Kind] = &[
    Kind::Hold,
    Kind::NewLink,
    Kind::Kill,
    Kind::Vanish,
    Kind::Stall,
    Kind::Stick,
    Kind::Keep,
    Kind::Transfer,
];

/// How far `make prove-explore` goes.
fn wanted() -> Option<usize> {
    let states = std::env::var("FLOTILLA_STATES").ok().filter(|states| !states.is_empty())?;
    Some(states.parse().expect("FLOTILLA_STATES is a number"))
}

fn tell(name: &str, states_max: usize, explored: Result<Explored, Fault>) {
    let explored = explored.unwrap_or_else(|fault| {
        panic!("{name}: {}\nafter:\n{}", fault.said, fault.steps.join("\n"))
    });
    println!("{name}: {explored:?}");
    assert!(explored.complete || explored.states >= states_max, "{name} ended early");
}

fn search(name: &str, scope: Scope) {
    let scope = match wanted() {
        Some(states_max) => Scope { states_max, depth_first: scope.walks.is_none(), ..scope },
        None => scope,
    };
    tell(name, scope.states_max, explore(&scope));
}

/// A state of these costs as much as twenty of the others.
fn search_pairs(name: &str, scope: pairs::Scope) {
    let states_max = wanted().map_or(scope.states_max, |states| states / 20);
    let scope = pairs::Scope { states_max, ..scope };
    tell(name, scope.states_max, pairs::explore(&scope));
}

#[test]
fn three_empty_nodes() {
    search("three empty nodes", Scope { led: false, term_max: Term(2), ..SCOPE });
}

#[test]
fn three_nodes_with_a_leader() {
    search("three nodes with a leader", SCOPE);
}

/// Reads and a transfer, while leaders change.
#[test]
fn reads_and_transfers() {
    let reads = Scope { proposals_max: 1, reads_max: 2, transfers_max: 1, ..SCOPE };
    search("reads and transfers", Scope { crashes_of_all_max: 1, ..reads });
    search("ways with reads and transfers", Scope { walks: Some(3), step_down: true, ..reads });
}

/// Two voters, one term, one command, one power loss: a majority is both.
#[test]
fn two_nodes_and_one_power_loss() {
    let two = Scope { nodes: 2, led: false, term_max: Term(1), proposals_max: 1, ..SCOPE };
    search("two nodes", Scope { crashes_of_all_max: 1, ..two });
}

/// A snapshot for a follower that was left behind, while leaders change, more is compacted and power is
/// lost at any moment of it (S1 to S9, R6, R26).
#[test]
fn snapshots() {
    let behind = Scope { proposals_max: 1, checkpoints_max: 1, crashes_of_all_max: 2, ..SCOPE };
    search("snapshots", behind);
    search("ways with snapshots", Scope { walks: Some(4), step_down: true, ..behind });
}

/// Deep rather than wide: what a search reaches only in hours.
#[test]
fn ways_of_three_and_five_nodes() {
    let walks = Scope { step_down: true, states_max: STATES / 2, ..SCOPE };
    search("ways of three nodes", Scope { walks: Some(1), ..walks });
    search("ways of five nodes", Scope { walks: Some(2), nodes: 5, ..walks });
}

/// Links that break, frames that are late or come twice, a follower that ends: no reason for another
/// leader (R11, R17, E36).
#[test]
fn pairs_harmless() {
    let kinds = &[Kind::Hold, Kind::NewLink, Kind::Keep, Kind::Kill];
    search_pairs("harmless", pairs::Scope { kinds, harmless: true, ..PAIRS });
}

/// A process that ends, with frames of it that come again: elected at once, and nobody who lives is
/// called gone (R17).
#[test]
fn pairs_gone() {
    let one = pairs::Scope { kinds: &[Kind::Kill], faults_max: 1, follow_every: 1, ..PAIRS };
    search_pairs("gone", pairs::Scope { leader_within: 400 * MS, ..one });
    // Who starts anew keeps the promises that it gave before, for as long as an election takes.
    let kinds = &[Kind::Kill, Kind::Keep];
    search_pairs("gone twice", pairs::Scope { kinds, leader_within: 1500 * MS, ..PAIRS });
}

/// A leader is believed only while its node claims the group: whatever is late, lost, stuck or ends,
/// nobody follows for ever where nobody leads, nor is anybody quiet too early (R12 to R15).
#[test]
fn pairs_claims() {
    // A leader that steps down unheard, and is heard again before its silence is noticed.
    let held = pairs::Scope { kinds: &[Kind::Hold], faults_max: 2, follow_every: 1, ..PAIRS };
    search_pairs("held", pairs::Scope { states_max: 2 * PAIR_STATES, ..held });
    search_pairs("claims", pairs::Scope { kinds: TROUBLE, ..PAIRS });
    let walks = pairs::Scope { kinds: TROUBLE, faults_max: 8, ..PAIRS };
    search_pairs("ways with claims", pairs::Scope { walks: Some(1), ..walks });
}

/// Members go, are deleted, and come back blank while others are behind: no second quorum, and what
/// is left of the group has a leader (R13, R20, R21, M9, M19, M21).
#[test]
fn pairs_removed() {
    let kinds = &[Kind::Hold, Kind::Kill, Kind::Vanish, Kind::Change, Kind::Delete];
    let confs: &[&[u64]] = &[&[1, 2, 4], &[2, 3], &[2, 3, 4]];
    let four = pairs::Scope { nodes: 4, kinds, confs, ..PAIRS };
    search_pairs("removed", four);
    // A leader that is removed, unheard in the end, and whose node lives.
    let kinds = &[Kind::Hold, Kind::Stall, Kind::Change];
    let two = pairs::Scope { nodes: 2, voters: 2, kinds, confs: &[&[2]], ..PAIRS };
    search_pairs("two", pairs::Scope { faults_max: 5, follow_every: 1, ..two });
    search_pairs("ways with removed", pairs::Scope { faults_max: 7, walks: Some(2), ..four });
}

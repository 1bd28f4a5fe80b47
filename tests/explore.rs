//! Every schedule of a small group of real cores, as far as a bounded time allows.
//! `FLOTILLA_STATES` sets how far: then the searches go depth first, and need memory for hashes only.

use harness::raft_explore::{Scope, explore};
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
    step_down: false,
    states_max: STATES,
    depth_first: false,
    walks: None,
};

fn search(name: &str, scope: Scope) {
    let wanted = std::env::var("FLOTILLA_STATES").ok().filter(|states| !states.is_empty());
    let scope = match wanted.map(|states| states.parse().expect("FLOTILLA_STATES is a number")) {
        Some(states_max) => Scope { states_max, depth_first: scope.walks.is_none(), ..scope },
        None => scope,
    };
    let explored = explore(&scope).unwrap_or_else(|fault| {
        panic!("{name}: {}\nafter:\n{}", fault.said, fault.steps.join("\n"))
    });
    println!("{name}: {explored:?}");
    assert!(explored.complete || explored.states >= scope.states_max, "{name} ended early");
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

/// Small enough to be searched to its end.
#[test]
fn two_nodes_to_the_end() {
    let two = Scope { nodes: 2, led: false, term_max: Term(1), proposals_max: 1, ..SCOPE };
    search("two nodes", Scope { crashes_of_all_max: 1, ..two });
}

/// Deep rather than wide: what a search reaches only in hours.
#[test]
fn ways_of_three_and_five_nodes() {
    let walks = Scope { step_down: true, states_max: STATES / 2, ..SCOPE };
    search("ways of three nodes", Scope { walks: Some(1), ..walks });
    search("ways of five nodes", Scope { walks: Some(2), nodes: 5, ..walks });
}

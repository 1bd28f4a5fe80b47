//! Whole clusters under seeded faults: nodes, routers, clients, and slots that move meanwhile.
//!
//! `FLOTILLA_CLUSTER_SEED` names one run, `FLOTILLA_CLUSTER_SEEDS` how many there are, `_FROM` the first.

use harness::raft_shrink::caught;
use server::sim::{Outcome, run};

/// Seeds of one ordinary test run.
const SEEDS: u64 = 40;

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(format!("FLOTILLA_CLUSTER_{name}")).ok()?;
    (!value.is_empty()).then(|| value.parse().expect("FLOTILLA_CLUSTER_* is a number"))
}

fn run_or_say_how_to_replay(seed: u64) -> Outcome {
    match caught(|| run(seed)) {
        Ok(outcome) => outcome,
        Err(said) => panic!("{said}\nreplay with: make sim-cluster SEED={seed}"),
    }
}

#[test]
fn g25_faults_lose_nothing_and_every_move_ends() {
    if let Some(seed) = setting("SEED") {
        println!("{:?}", run(seed));
        return;
    }
    let from = setting("FROM").unwrap_or(0);
    let count = setting("SEEDS").unwrap_or(SEEDS);
    let mut all = Outcome::default();
    let mut failed = Vec::new();
    for seed in from..from + count {
        match caught(|| run_or_say_how_to_replay(seed)) {
            Ok(outcome) => {
                if setting("SEEDS").is_some() {
                    println!("{seed}: {outcome:?}");
                }
                all.events += outcome.events;
                all.moves += outcome.moves;
                all.members += outcome.members;
                all.made += outcome.made;
                all.removed += outcome.removed;
                all.parts += outcome.parts;
                all.crashes += outcome.crashes;
                all.heal_ms = all.heal_ms.max(outcome.heal_ms);
                all.wait_ms = all.wait_ms.max(outcome.wait_ms);
                all.tally.done += outcome.tally.done;
                all.tally.unknown += outcome.tally.unknown;
                all.tally.refused += outcome.tally.refused;
                all.tally.undecided += outcome.tally.undecided;
            }
            Err(said) => {
                println!("seed {seed}: {}", said.lines().next().unwrap_or_default());
                failed.push(said)
            }
        }
    }
    println!("{count} seeds: {all:?}");
    assert!(failed.is_empty(), "{} seeds fail, the first:\n{}", failed.len(), failed[0]);
    let groups = all.made >= count / 2 && all.removed >= count / 10;
    let much = all.crashes > 0 && all.members >= count / 2 && all.parts >= count && groups;
    assert!(all.tally.done > 100 * count && much, "too little happened: {all:?}");
}

/// 5: a member was removed and the entry that says so lost. 36: a move was over before its source heard of it. 116: hints in a circle. 165: a former leader of group 0 was
/// believed. 305: a checkpoint of nothing.
#[test]
fn seeds_that_found_a_fault_stay_clean() {
    for seed in [5, 25, 36, 116, 165, 305] {
        run_or_say_how_to_replay(seed);
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..3 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
    assert_ne!(run(1).trace, run(2).trace);
}

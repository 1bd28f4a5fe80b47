//! Groups of real cores under seeded faults. A failing seed prints the line that replays it.

use harness::raft_sim::{Outcome, run};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Seeds of one ordinary test run; a single one is named by `FLOTILLA_SIM_SEED`.
const SEEDS: std::ops::Range<u64> = 0..300;

fn run_or_say_how_to_replay(seed: u64) -> Outcome {
    match catch_unwind(AssertUnwindSafe(|| run(seed))) {
        Ok(outcome) => outcome,
        Err(panic) => {
            eprintln!("replay with: make sim SEED={seed}");
            resume_unwind(panic);
        }
    }
}

#[test]
fn faults_break_nothing_and_heal() {
    let only = std::env::var("FLOTILLA_SIM_SEED").ok().filter(|seed| !seed.is_empty());
    let seeds = match only.map(|seed| seed.parse().expect("FLOTILLA_SIM_SEED is a number")) {
        Some(seed) => seed..seed + 1,
        None => SEEDS,
    };
    let mut steps = 0;
    let mut committed = 0;
    for seed in seeds {
        let outcome = run_or_say_how_to_replay(seed);
        steps += outcome.steps;
        committed += outcome.committed.0;
    }
    println!("{steps} events, {committed} entries committed");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..5 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
    assert_ne!(run(1).trace, run(2).trace);
}

//! This project's Raft beside the `raft` crate: one schedule, the same leaders, logs and commits after
//! every step, over many seeds. A share runs here, the long form by `make prove-differential`.

use harness::raft_differential::{Covered, Schedule, Step, compare, compare_under};
use std::env;

/// Seeds of the share that every test run has.
const SEEDS: u64 = 150;

/// The number in an environment variable, if it is set.
fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

#[test]
fn both_agree_on_every_schedule() {
    let seeds = match number("FLOTILLA_DIFFERENTIAL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("FLOTILLA_DIFFERENTIAL_SEEDS").unwrap_or(SEEDS),
    };
    let many = seeds.end - seeds.start >= SEEDS;
    let mut covered = Covered::default();
    for seed in seeds.clone() {
        match compare(&Schedule::from_seed(seed)) {
            Ok(more) => covered.add(&more),
            Err(difference) => panic!(
                "{difference}\nFLOTILLA_DIFFERENTIAL_SEED={seed} cargo test -p tests --test differential"
            ),
        }
    }
    println!("{} schedules, {covered:?}", seeds.end - seeds.start);
    // A schedule in which nothing happens would always be agreed on.
    let per_seed = |count: u64| count * 100 / (seeds.end - seeds.start).max(1);
    assert!(!many || per_seed(covered.won) > 200, "{covered:?}");
    assert!(!many || per_seed(covered.lost) > 200, "{covered:?}");
    assert!(!many || per_seed(covered.committed) > 1000, "{covered:?}");
    assert!(!many || per_seed(covered.undone) > 20, "{covered:?}");
    assert!(!many || covered.barred > 0 && covered.two_leaders > 0, "{covered:?}");
}

/// What differs between two schedules of three voters that begin with the election of `n1`.
fn difference(ours: Step, theirs: Step) -> String {
    let begin = Step::Campaign { at: 1, still: None };
    let schedule = |step| Schedule { voters: 3, steps: vec![begin.clone(), step] };
    compare_under(&schedule(ours), &schedule(theirs)).expect_err("the schedules differ")
}

#[test]
fn a_lost_command_is_a_difference() {
    let propose = |command: &str| Step::Propose { commands: vec![command.into()], loses: None };
    let text = difference(propose("a"), propose("b"));
    assert!(text.contains("committed\n") && text.contains("a-n1@1"), "{text}");
}

#[test]
fn a_lost_write_is_a_difference() {
    let propose = |loses| Step::Propose { commands: vec!["a".into()], loses };
    let text = difference(propose(None), propose(Some(3)));
    assert!(text.contains("term and disk of n3\n"), "{text}");
}

#[test]
fn another_winner_is_a_difference() {
    let text = difference(Step::Crash(1), Step::Crash(2));
    assert!(text.contains("leaders\n") && text.contains("could win\n"), "{text}");
}

#[test]
fn a_log_that_is_behind_bars_its_replica_in_both() {
    let steps = vec![
        Step::Campaign { at: 1, still: None },
        Step::Cut(vec![(1, 3), (2, 3)]),
        Step::Propose { commands: vec!["a".into()], loses: None },
        Step::Crash(1),
        Step::Restart(1),
        Step::Crash(1),
        Step::Heal,
        Step::Campaign { at: 3, still: None },
        Step::Campaign { at: 2, still: None },
    ];
    let covered = compare(&Schedule { voters: 3, steps }).expect("both agree");
    assert_eq!((covered.won, covered.lost), (2, 1), "n3 has not what is committed (Raft 5.4.1)");
}

//! The proof that the tests would notice: each rule that the core, or a cluster port, can break on purpose is broken in
//! turn, and something must fail. A rule that no test holds is a rule that nobody has.
//!
//! `FLOTILLA_MUTANTS=all` asks every kind of test for every rule, not only the first that notices.

use harness::raft_explore::{Scope, explore};
use harness::raft_explore_pairs::{self as pairs, Kind, LEADER_WITHIN};
use harness::raft_faults::Plan;
use harness::raft_figure_8;
use harness::raft_fuzz::fuzz;
use harness::raft_mutant::breaking;
use harness::raft_script::RaftScript;
use harness::raft_shrink::caught;
use harness::raft_sim::run;
use harness::redirect_script::{self, RedirectScript};
use raft_core::mutant::Mutant;
use raft_core::types::Term;
use router::redirect::mutant::Mutant as RedirectMutant;
use std::path::PathBuf;

/// Seeds asked for each rule.
const SEEDS: u64 = 60;
/// Cores given arbitrary messages for each rule.
const CORES: u64 = 200;
/// States searched for each rule, by each search.
const STATES: usize = 20_000;
/// The same over node pairs.
const PAIR_STATES: usize = 3_000;

/// The golden script whose output changes, if one does.
fn script() -> Option<String> {
    changed_script::<RaftScript>("golden/raft")
}

fn changed_script<R: goldenscript::Runner + Default>(folder: &str) -> Option<String> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(folder);
    let files = std::fs::read_dir(&dir).expect("scripts");
    let mut paths: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    let differs = |path: &PathBuf| {
        !matches!(caught(|| goldenscript::run(&mut R::default(), path)), Ok(Ok(())))
    };
    let path = paths.into_iter().find(differs)?;
    Some(format!("script {}", path.file_name().unwrap_or_default().to_string_lossy()))
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// The seed that fails, if one does.
fn seed() -> Option<String> {
    (0..SEEDS).find_map(|seed| {
        let said = caught(|| run(&Plan::new(seed))).err()?;
        Some(format!("seed {seed}: {}", first_line(&said)))
    })
}

/// The search that fails, if one does.
fn search() -> Option<String> {
    let wide = Scope {
        nodes: 3,
        led: true,
        term_max: Term(3),
        proposals_max: 2,
        crashes_max: 1,
        crashes_of_all_max: 3,
        reads_max: 0,
        transfers_max: 0,
        checkpoints_max: 0,
        step_down: true,
        states_max: STATES,
        depth_first: false,
        walks: None,
    };
    let empty = Scope { led: false, term_max: Term(2), ..wide };
    let walks = Scope { walks: Some(1), states_max: 3 * STATES, ..wide };
    let reads = Scope { reads_max: 2, transfers_max: 1, walks: Some(2), ..walks };
    let behind = Scope { checkpoints_max: 1, walks: Some(4), proposals_max: 1, ..walks };
    let searches = [
        ("wide", wide),
        ("empty", empty),
        ("walks", walks),
        ("reads", reads),
        ("snapshots", behind),
    ];
    searches.into_iter().find_map(|(name, scope)| {
        let fault = explore(&scope).err()?;
        let steps = fault.steps.len();
        Some(format!("search {name}, {steps} steps: {}", first_line(&fault.said)))
    })
}

/// The search over node pairs that fails, if one does.
fn pair_search() -> Option<String> {
    let three = pairs::Scope {
        nodes: 3,
        voters: 3,
        kinds: &[Kind::Hold, Kind::NewLink, Kind::Keep, Kind::Kill],
        faults_max: 3,
        confs: &[],
        harmless: true,
        leader_within: LEADER_WITHIN,
        states_max: PAIR_STATES,
        follow_every: 5,
        walks: None,
    };
    let kinds: &[Kind] = &[Kind::Hold, Kind::Kill, Kind::Vanish, Kind::Stall, Kind::Stick];
    let stuck = pairs::Scope { kinds, harmless: false, follow_every: 1, ..three };
    let kinds: &[Kind] = &[Kind::Hold, Kind::Stall, Kind::Change];
    let two = pairs::Scope { nodes: 2, voters: 2, kinds, confs: &[&[2]], ..stuck };
    let two = pairs::Scope { faults_max: 5, states_max: 5 * PAIR_STATES, ..two };
    let ways = pairs::Scope { faults_max: 8, walks: Some(1), ..stuck };
    let kinds: &[Kind] = &[Kind::Hold, Kind::Kill, Kind::Change, Kind::Delete];
    let confs: &[&[u64]] = &[&[1, 2, 4], &[2, 3, 4]];
    let removed = pairs::Scope { nodes: 4, kinds, confs, walks: Some(2), ..ways };
    let searches = [
        ("harmless", three),
        ("claims", stuck),
        ("ways", ways),
        ("two", two),
        ("removed", removed),
    ];
    searches.into_iter().find_map(|(name, scope)| {
        let fault = pairs::explore(&scope).err()?;
        let steps = fault.steps.len();
        Some(format!("pairs {name}, {steps} moves: {}", first_line(&fault.said)))
    })
}

/// The core that arbitrary messages break, if they break one.
fn messages() -> Option<String> {
    (0..CORES).find_map(|seed| {
        let said = caught(|| fuzz(seed)).err()?;
        Some(format!("messages to core {seed}: {}", first_line(&said)))
    })
}

/// The run of figure 8 that fails, if one does.
fn figure_8() -> Option<String> {
    (0..3).find_map(|seed| {
        let said = caught(|| raft_figure_8::run(seed, 1000)).err()?;
        Some(format!("figure 8, run {seed}: {}", first_line(&said)))
    })
}

#[test]
fn every_broken_rule_is_noticed() {
    let all = std::env::var("FLOTILLA_MUTANTS").is_ok_and(|wanted| wanted == "all");
    let kinds: [fn() -> Option<String>; 6] =
        [script, messages, seed, search, pair_search, figure_8];
    let mut missed = Vec::new();
    for rule in Mutant::ALL {
        let notices = kinds.iter().filter_map(|kind| breaking(*rule, kind));
        let notices: Vec<String> = if all { notices.collect() } else { notices.take(1).collect() };
        println!("{rule:?}: {}", notices.join("; "));
        if notices.is_empty() {
            missed.push(rule);
        }
    }
    println!("{} of {} noticed", Mutant::ALL.len() - missed.len(), Mutant::ALL.len());
    assert!(missed.is_empty(), "nothing notices {missed:?}");
}

#[test]
fn every_broken_rule_of_the_cluster_port_is_noticed() {
    let script = || changed_script::<RedirectScript>("golden/resp/redirects");
    assert_eq!(script(), None, "nothing is broken");
    for rule in RedirectMutant::ALL {
        let noticed = redirect_script::breaking(rule, script);
        println!("{rule:?}: {}", noticed.as_deref().unwrap_or("nothing"));
        assert!(noticed.is_some(), "nothing notices {rule:?}");
    }
}

//! `make bench-raft`: the CPU that a proposal costs three replicas in one thread, beside the `raft`
//! crate at its defaults.
//!
//! Both run in turns, so that a machine that is busy for a while is so for both, and the medians are
//! compared. Time is that of the thread on its CPU: waiting for other programs does not count.

mod cost;

use cost::ours::Ours;
use cost::theirs::Theirs;
use cost::{BATCHES, Group, REPLICAS};
use rustix::time::{ClockId, clock_gettime};

/// Rounds, each of which runs every case of both.
const ROUNDS: usize = 7;
/// Proposals of one case in one round.
const PROPOSALS: u64 = 200_000;
/// Proposals before the clock starts.
const WARM_UP: u64 = 20_000;

fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// One case: nanoseconds, messages and syncs per proposal.
#[derive(Clone, Copy)]
struct Sample {
    ns: f64,
    messages: f64,
    syncs: f64,
}

fn measure<G: Group>(batch: u64) -> Sample {
    let proposals = PROPOSALS / batch * batch;
    let mut group = G::elected();
    cost::run(&mut group, WARM_UP, batch);
    let start = cpu_ns();
    let counts = cost::run(&mut group, proposals, batch);
    let ns = cpu_ns() - start;
    group.heartbeat();
    let whole = WARM_UP / batch * batch + proposals;
    assert_eq!(group.counts().applied, whole * REPLICAS, "every replica applied every command");
    let per = |count: u64| count as f64 / proposals as f64;
    Sample { ns: per(ns), messages: per(counts.messages), syncs: per(counts.syncs) }
}

fn median(samples: &[Sample]) -> Sample {
    let mut sorted = samples.to_vec();
    sorted.sort_by(|a, b| a.ns.total_cmp(&b.ns));
    sorted[sorted.len() / 2]
}

fn main() {
    let mut ours = vec![Vec::new(); BATCHES.len()];
    let mut theirs = vec![Vec::new(); BATCHES.len()];
    let mut merged = vec![Vec::new(); BATCHES.len()];
    for _ in 0..ROUNDS {
        for (case, batch) in BATCHES.into_iter().enumerate() {
            ours[case].push(measure::<Ours>(batch));
            theirs[case].push(measure::<Theirs<false>>(batch));
            merged[case].push(measure::<Theirs<true>>(batch));
        }
    }
    println!("CPU per proposal, {REPLICAS} replicas in one thread, median of {ROUNDS} rounds");
    println!();
    println!("| batch | | ns | ours is | messages | syncs |");
    println!("|---:|---|---:|---:|---:|---:|");
    for (case, batch) in BATCHES.into_iter().enumerate() {
        let own = median(&ours[case]);
        let cases = [
            ("raft-core", own),
            ("raft 0.7", median(&theirs[case])),
            ("raft 0.7, batch_append", median(&merged[case])),
        ];
        for (name, it) in cases {
            let Sample { ns, messages, syncs } = it;
            let ratio = own.ns / ns;
            println!("| {batch} | {name} | {ns:.0} | {ratio:.2} | {messages:.3} | {syncs:.3} |");
        }
    }
}

//! Arbitrary messages into `Raft::step`: never a panic, nothing changed by what is refused, memory
//! within its bounds. `FLOTILLA_FUZZ` sets how many cores are put through it.

use harness::raft_faults::Random;
use harness::raft_fuzz::{Fuzzed, fuzz, fuzz_chosen};
use harness::raft_shrink::caught;
use raft_core::types::Term;

/// Cores of one ordinary test run.
const CORES: u64 = 2000;

#[test]
fn no_message_breaks_a_core() {
    let wanted = std::env::var("FLOTILLA_FUZZ").ok().filter(|cores| !cores.is_empty());
    let cores = wanted.map_or(CORES, |cores| cores.parse().expect("FLOTILLA_FUZZ is a number"));
    let run = |seed| caught(|| fuzz(seed)).unwrap_or_else(|said| panic!("core {seed}: {said}"));
    let done: Vec<Fuzzed> = (0..cores).map(run).collect();
    has_aim(&done);
}

/// What libFuzzer drives (`tests/fuzz`), driven by bytes that nobody aimed.
#[test]
fn chosen_bytes_decide_what_is_done_to_a_core() {
    let mut random = Random::new(1, 1);
    let strings = (0..200).map(|_| (0..4000).map(|_| random.below(256) as u8).collect());
    let strings: Vec<Vec<u8>> = strings.collect();
    let done: Vec<Fuzzed> = strings.iter().map(|bytes| fuzz_chosen(bytes)).collect();
    has_aim(&done);
    assert_eq!(fuzz_chosen(&strings[0]), done[0]);
    assert_eq!(fuzz_chosen(&[]).messages, 0);
}

/// Some messages are taken and some refused, and what is taken leads somewhere.
fn has_aim(done: &[Fuzzed]) {
    let cores = done.len();
    let messages: u64 = done.iter().map(|core| core.messages).sum();
    let refused: u64 = done.iter().map(|core| core.refused).sum();
    let moved = done.iter().filter(|core| core.term > Term(1)).count();
    let compactions: u64 = done.iter().map(|core| core.compactions).sum();
    let pieces: u64 = done.iter().map(|core| core.pieces).sum();
    println!("{messages} messages into {cores} cores, {refused} refused, {moved} cores moved on");
    println!("{compactions} logs cut, {pieces} pieces of snapshots sent");
    let aimed = 0 < refused && refused < messages && moved > 0 && compactions > 0 && pieces > 0;
    assert!(aimed, "the fuzzer has lost its aim");
}

//! Arbitrary messages into `Raft::step`: never a panic, nothing changed by what is refused, memory
//! within its bounds. `FLOTILLA_FUZZ` sets how many cores are put through it.

use harness::raft_fuzz::{Fuzzed, fuzz};
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

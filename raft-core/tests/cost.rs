//! What a proposal costs, counted: messages, syncs and allocations over three replicas. The figures
//! are the same on every machine, so they are kept here; a change that moves one says why. The time
//! it takes is `make bench-raft`'s.

#[path = "../benches/cost/mod.rs"]
mod cost;

use cost::ours::Ours;
use cost::theirs::Theirs;
use cost::{Counts, Group, REPLICAS};
use raft_core::message::Message;
use raft_core::types::Entry;

/// Proposals before the counting starts: by then most of what grows has grown.
const WARM_UP: u64 = 16_384;
/// Proposals of one case.
const PROPOSALS: u64 = 8_192;
/// Allocations that a frame needs: its bytes, and the counter by which replicas share them.
const FRAME_ALLOCATIONS: u64 = 2;

/// The cost of all proposals of one case together.
fn measure<G: Group>(batch: u64) -> (Counts, u64) {
    let mut group = G::elected();
    cost::run(&mut group, WARM_UP, batch);
    let mut counts = Counts::default();
    let info = allocation_counter::measure(|| counts = cost::run(&mut group, PROPOSALS, batch));
    group.heartbeat();
    let applied = group.counts().applied;
    assert_eq!(applied, (WARM_UP + PROPOSALS) * REPLICAS, "every replica applied every command");
    (counts, info.count_total)
}

#[test]
fn messages_and_syncs_per_batch_are_those_of_the_protocol() {
    for batch in cost::BATCHES {
        let (counts, _) = measure::<Ours>(batch);
        let batches = PROPOSALS / batch;
        // An append and its answer for each follower; the commit rides on the next append.
        assert_eq!(counts.messages, 4 * batches, "messages at batch {batch}");
        // Each replica has each batch on disk once.
        assert_eq!(counts.syncs, REPLICAS * batches, "syncs at batch {batch}");
    }
}

/// R21: an election of three, and all that is said until everybody knows what is committed: pre-votes and
/// votes with their answers, the empty entry, one round that tells the commit.
#[test]
fn r21_an_election_takes_few_messages() {
    assert_eq!(Ours::elected().counts().messages, 16);
}

#[test]
fn a_proposal_allocates_its_frame_and_a_batch_little_more() {
    // Three writes and two appends hold their entries in a vector each, if they have more than one.
    for (batch, per_batch_max) in [(1, 0), (64, 5), (256, 5)] {
        let (_, allocations) = measure::<Ours>(batch);
        let beyond = allocations.saturating_sub(FRAME_ALLOCATIONS * PROPOSALS);
        // What grows with the log, its marks of size, is amortised.
        let per_batch = beyond / (PROPOSALS / batch);
        assert!(
            per_batch <= per_batch_max,
            "{per_batch} allocations per batch of {batch} beyond the frames, {per_batch_max} at most"
        );
    }
}

#[test]
fn the_raft_crate_needs_more_of_everything() {
    for batch in cost::BATCHES {
        let (ours, our_allocations) = measure::<Ours>(batch);
        let (theirs, their_allocations) = measure::<Theirs<false>>(batch);
        let (merged, _) = measure::<Theirs<true>>(batch);
        assert!(ours.messages < merged.messages && merged.messages <= theirs.messages);
        assert!(ours.syncs <= theirs.syncs, "{ours:?} {theirs:?}");
        assert!(our_allocations < their_allocations, "{our_allocations} {their_allocations}");
    }
}

/// Messages and entries are moved several times each: what makes them larger makes everything slower.
#[test]
fn what_is_moved_often_is_small() {
    assert!(size_of::<Entry>() <= 56, "an entry has {} bytes", size_of::<Entry>());
    assert!(size_of::<Message>() <= 120, "a message has {} bytes", size_of::<Message>());
}

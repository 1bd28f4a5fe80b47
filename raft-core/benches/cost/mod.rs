//! Three replicas of one group in one thread, over a log in memory, that are handed proposals in
//! batches: once on this crate, once on the `raft` crate. Both hosts do the same work and no more:
//! entries go to a log in memory and become durable at once, messages are moved to the receiver as
//! they are, committed entries are counted.
//!
//! What is counted here is a figure of the protocol, the same on every machine and in every run.

pub mod ours;
pub mod theirs;

/// Replicas of the group.
pub const REPLICAS: u64 = 3;
/// Bytes of one command.
pub const PAYLOAD_BYTES: usize = 128;
/// The sizes of batches that are looked at.
pub const BATCHES: [u64; 3] = [1, 64, 256];
/// Entries after which a log in memory drops what is older than the last few. Both hosts do it
/// alike; without it a run would measure how memory grows.
const LOG_ENTRIES_MAX: usize = 8192;
/// Entries that stay then.
const LOG_ENTRIES_KEPT: usize = 1024;

/// What a run has cost in all, over all replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages from one replica to another.
    pub messages: u64,
    /// Steps that a host must have on disk before it goes on.
    pub syncs: u64,
    /// Commands handed to a state machine: each command once per replica.
    pub applied: u64,
}

/// A group under measurement.
pub trait Group {
    /// A group whose first replica leads, with nothing under way.
    fn elected() -> Self;

    /// Proposes `batch` commands at once at the leader, and carries on until nobody has anything
    /// left to do.
    fn commit_batch(&mut self, batch: u64);

    /// Lets enough time pass that every replica knows what is committed.
    fn heartbeat(&mut self);

    /// Counted since the start.
    fn counts(&self) -> Counts;
}

/// Hands `proposals` commands to a group in batches, and says what they cost. Whole batches only.
pub fn run(group: &mut impl Group, proposals: u64, batch: u64) -> Counts {
    let before = group.counts();
    for _ in 0..proposals / batch {
        group.commit_batch(batch);
    }
    let after = group.counts();
    Counts {
        messages: after.messages - before.messages,
        syncs: after.syncs - before.syncs,
        applied: after.applied - before.applied,
    }
}

//! Raft as a pure state machine: how the nodes of one group agree on a log.
//!
//! A [`Raft`] is one replica of one group. It does no IO, reads no clock and has no threads. Inputs
//! are method calls that carry the time; what they cause is collected by [`Raft::poll`] into
//! [`effects::Effects`], plain data that a thin host carries out; the next wake-up is
//! [`Raft::deadline`]. The same calls with the same seed give the same effects.
//!
//! # What is here, and where the paper says it
//!
//! - **Terms, roles, election** (Raft 5.1, 5.2, 5.4.1): `raft.rs` makes the only comparison of
//!   terms; `follower.rs` votes; `candidate.rs` asks. Timeouts are drawn anew for each round.
//! - **Pre-vote** (thesis 9.6), always on: who cannot win raises no term. Pre-vote messages stand
//!   outside the comparison of terms, and promise nothing.
//! - **Leader stickiness and check-quorum** (thesis 4.2.3, 6.2): beside a live leader a vote request
//!   changes nothing, not even the term; a leader whose voters' nodes are no majority refuses at
//!   once, and steps down after an election timeout.
//! - **Liveness** (`node_pair.rs`, `liveness.rs`): nodes exchange heartbeats, groups do not. A
//!   follower waits while its leader's node lives and claims the group, a leader says nothing to a
//!   follower that has everything; so an idle group sends nothing and has no timer. When a leader's
//!   process is gone, its voters campaign by rank without the long timeout.
//! - **Replication** (5.3): `leader.rs` and `progress.rs`. Appends and probes are pulled
//!   by the link with [`Raft::next_append`] when it can take bytes, so batching needs no timer and
//!   nothing queues in front of a slow socket. Conflicts are skipped a term at a time. What is on
//!   its way to a follower is bounded in messages and in bytes.
//! - **Commit** (5.3, 5.4.2): by counting only for entries of the leader's own term; hence the
//!   empty entry with which each leader begins (section 8).
//! - **Parallel writes** (thesis 10.2.1): a leader sends before its own disk is done, and counts
//!   itself by its disk alone; a majority of followers may commit without it.
//! - **Reads** (thesis 6.4, `reads.rs`): positional ReadIndex at leaders and followers, one small round
//!   for all reads that wait; leases (6.4.1) if they are asked for, on promises that survive a restart.
//! - **Leadership transfer** (thesis 3.10, `transfer.rs`): the target catches up, then campaigns at once.
//! - **Membership** (section 6, `conf.rs`, `membership.rs`): joint consensus, counted from append, with
//!   learners that become voters when they have caught up.
//! - **Snapshots and compaction** (section 7, `snapshot.rs`): the log goes behind a durable checkpoint,
//!   not before live followers have it; who needs what is gone gets a snapshot in chunks, within a
//!   window, which goes on after a break from any leader that has the same one.
//! - **Crashes** (5.5): a replica always restarts as a follower; its log is found again from the
//!   runs of terms, and its state machine is fed the committed log in pieces, by
//!   [`effects::Effects::fetch`].
//!
//! # Rules that the host and the core keep together
//!
//! Each [`effects::Write`] is one durable step; tokens are durable in order. A message in
//! `send_after` leaves only after [`Raft::persisted`] could be called for its token: a granted vote
//! after its term and vote (R1); a vote request after the own vote and the log it names, since a
//! candidate that forgot them could win one term twice (R2); an acknowledgement after its entries
//! and their term (R3). Nothing but pre-votes is said in a term that is not durable (R5). A write
//! that fails ends the process; it is never retried (R10).
//!
//! # Invariants
//!
//! [`invariants::check`] has those of one replica. No panic can be caused by a message: numbers at
//! the end of the integers, entries with holes and a second leader in a term are refused as
//! [`effects::Reject`]. Everything kept in memory is counted in [`MemUse`]. What grows with traffic is bounded by
//! a setting in [`Config`], or by a constant that [`MemUse`] names. The runs of terms and the configurations are
//! not: they grow with the changes of leaders and members, and go with the log.

pub mod types;

pub mod message;

pub mod config;

pub mod conf;

pub mod snapshot;

mod membership;

pub mod raft;

mod follower;

mod candidate;

mod reads;

mod transfer;

mod leader;

mod liveness;

mod log;

mod progress;

pub mod quorum;

pub mod frame;

pub mod effects;

pub mod node_pair;

mod digest;

pub mod random;

pub mod invariants;

pub mod mutant;

pub use config::{Config, MemUse, OpenError, Restored, Sending, Status};
pub use log::compact_runs;
pub use raft::Raft;

/// Runs the host loop of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

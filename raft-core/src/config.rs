//! What a replica is told at its start, what was found on its disk, and what it tells about itself.

use crate::conf::Conf;
use crate::effects::Role;
use crate::frame;
use crate::log::compact_runs;
use crate::quorum::VOTERS_MAX;
use crate::snapshot::{Snapshot, SnapshotId};
use crate::types::{Entry, EntryId, GroupId, HardState, Index, NodeId, Now, Term};
use serde::{Deserialize, Serialize};

/// How long [`Config::epoch`] may be. Each start has 2^32 numbers for its questions before it meets those of
/// the next epoch, and no process comes to the end of them all.
pub const EPOCH_BITS: u32 = 31;

const MILLISECOND: Now = 1_000_000;

/// What a replica is told once. Every limit is in frame bytes where it says bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// This replica's node.
    pub id: NodeId,
    /// The group it belongs to; stands in each frame.
    pub group: GroupId,
    /// The voters that the group began with, at most [`VOTERS_MAX`]; a configuration in the log takes
    /// their place. `id` need not be among them; empty for a replica that joins, which has no say
    /// until its log names it.
    pub voters: Vec<NodeId>,
    /// How often node pairs exchange heartbeats. What was not answered is asked again after one of
    /// these, what was not acknowledged is probed after two. Default 100 ms.
    pub heartbeat_ns: Now,
    /// The shortest election timeout. Node pairs are silent for so long before they report `Down`;
    /// where nothing is reported of a leader's node, no vote is given for so long after hearing it.
    /// Default 500 ms.
    pub election_timeout_ns_min: Now,
    /// The longest one; a leader whose majority is gone for so long steps down. Default 1 s.
    pub election_timeout_ns_max: Now,
    /// Messages with entries on their way to one peer. Default 256.
    pub inflight_messages_max: usize,
    /// Bytes on their way to one peer; a larger entry goes alone. Default 4 MiB.
    pub inflight_bytes_max: u64,
    /// Bytes of entries that are not both committed and durable here; beyond it proposals are
    /// `Busy`. An entry is let in alone. Default 16 MiB.
    pub uncommitted_bytes_max: u64,
    /// Bytes of entries on their way to this replica's own disk; beyond it a follower drops the
    /// entries of appends, and the leader sends them again. Default 16 MiB.
    pub unsynced_bytes_max: u64,
    /// Bytes of settled entries kept in memory for slow followers. Default 8 MiB.
    pub entry_cache_bytes_max: u64,
    /// Bytes handed to the state machine and not yet `applied`; beyond it commits wait. Default
    /// 16 MiB.
    pub apply_queue_bytes_max: u64,
    /// The largest payload of one proposal. Default [`frame::PAYLOAD_BYTES_MAX`].
    pub entry_bytes_max: u64,
    /// Reads that may wait for their index. Default 65,536.
    pub waiting_reads_max: usize,
    /// Bytes of the log that stay behind a checkpoint, so that a follower that was away for a moment
    /// needs no snapshot. Default 16 MiB.
    pub log_trailing_bytes: u64,
    /// How long a member that is down is missed: meanwhile what it lacks of the log stays, so that one that
    /// only starts anew needs no snapshot. Default 2 min.
    pub missed_ns: Now,
    /// Bytes of the log that stay for it; what the newest snapshot has, if that is less: it is the shorter way
    /// then. Default 256 MiB.
    pub missed_bytes_max: u64,
    /// Bytes of the log that a slow follower, or a snapshot on its way, may hold; a snapshot at least
    /// twice its own size, doubled for each that was overtaken. Default 1 GiB.
    pub log_bytes_max: u64,
    /// Bytes of the log after which a snapshot is not overtaken any more and proposals are `Busy`
    /// until it is there, or makes no progress. Default 16 GiB.
    pub log_disk_bytes_max: u64,
    /// Bytes of a snapshot on their way to one peer. Default 1 MiB.
    pub snapshot_window_bytes: u64,
    /// A stream that makes no progress for so long is given up. Default 30 s.
    pub snapshot_patience_ns: Now,
    /// Who should rather lead: nodes with a priority above 0, the default. They are the first in an
    /// early election (R17), and the others' ordinary timeouts are the longer half.
    pub priorities: Vec<(NodeId, u8)>,
    /// Another number at each start of this replica, of [`EPOCH_BITS`] and best drawn at random; answers to
    /// questions from before a start are told apart by it. Default 0.
    pub epoch: u64,
    /// The length of a leader's lease (thesis 6.4.1), at most the shortest election timeout. 0, the
    /// default: no leases, and `ReadMode::Lease` is `ReadMode::Index`.
    pub lease_ns: Now,
    /// By how many parts in a million the rates of two nodes' clocks may differ. Default 10,000,
    /// one per cent. Beyond it leases are not safe; nothing else depends on it.
    pub clock_drift_ppm: u64,
    /// The rule that this replica breaks.
    #[cfg(feature = "mutants")]
    #[serde(skip)]
    pub mutant: Option<crate::mutant::Mutant>,
}

impl Config {
    /// The defaults.
    pub fn new(id: NodeId, group: GroupId, voters: Vec<NodeId>) -> Config {
        Config {
            id,
            group,
            voters,
            heartbeat_ns: 100 * MILLISECOND,
            election_timeout_ns_min: 500 * MILLISECOND,
            election_timeout_ns_max: 1000 * MILLISECOND,
            inflight_messages_max: 256,
            inflight_bytes_max: 4 << 20,
            uncommitted_bytes_max: 16 << 20,
            unsynced_bytes_max: 16 << 20,
            entry_cache_bytes_max: 8 << 20,
            apply_queue_bytes_max: 16 << 20,
            entry_bytes_max: frame::PAYLOAD_BYTES_MAX as u64,
            waiting_reads_max: 64 << 10,
            log_trailing_bytes: 16 << 20,
            missed_ns: 120_000 * MILLISECOND,
            missed_bytes_max: 256 << 20,
            log_bytes_max: 1 << 30,
            log_disk_bytes_max: 16 << 30,
            snapshot_window_bytes: 1 << 20,
            snapshot_patience_ns: 30_000 * MILLISECOND,
            priorities: Vec::new(),
            epoch: 0,
            lease_ns: 0,
            clock_drift_ppm: 10_000,
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }

    /// How long a lease of `lease_ns`, as the promising clocks count it, surely is on this one.
    pub(crate) fn lease_length(&self) -> Now {
        let million = 1_000_000;
        let length =
            u128::from(self.lease_ns) * million / (million + u128::from(self.clock_drift_ppm));
        Now::try_from(length).unwrap_or(0)
    }

    /// What `priorities` says of a node.
    pub(crate) fn priority_of(&self, id: NodeId) -> u8 {
        let named = self.priorities.iter().find(|(node, _)| *node == id);
        named.map_or(0, |(_, priority)| *priority)
    }

    /// Whether this replica breaks the rule on purpose.
    #[cfg(feature = "mutants")]
    pub(crate) fn breaks(&self, rule: crate::mutant::Mutant) -> bool {
        self.mutant == Some(rule)
    }

    /// Without the feature `mutants` no rule is broken.
    #[cfg(not(feature = "mutants"))]
    #[inline(always)]
    pub(crate) const fn breaks(&self, _rule: crate::mutant::Mutant) -> bool {
        false
    }

    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let mut voters = self.voters.clone();
        voters.sort_unstable();
        voters.dedup();
        if voters.len() != self.voters.len() || voters.len() > VOTERS_MAX {
            return Err(OpenError::Voters);
        }
        if self.id == NodeId(0) || voters.contains(&NodeId(0)) {
            return Err(OpenError::Voters);
        }
        let ordered = 0 < self.heartbeat_ns
            && self.heartbeat_ns < self.election_timeout_ns_min
            && self.election_timeout_ns_min <= self.election_timeout_ns_max;
        if !ordered || self.election_timeout_ns_max > Now::MAX / 4 {
            return Err(OpenError::Timeouts);
        }
        if self.lease_ns > self.election_timeout_ns_min || self.epoch >= 1 << EPOCH_BITS {
            return Err(OpenError::Limits);
        }
        let limits = [
            self.inflight_messages_max as u64,
            self.inflight_bytes_max,
            self.uncommitted_bytes_max,
            self.unsynced_bytes_max,
            self.apply_queue_bytes_max,
            self.entry_bytes_max,
            self.waiting_reads_max as u64,
            self.log_bytes_max,
            self.snapshot_window_bytes,
            self.snapshot_patience_ns,
        ];
        if limits.contains(&0)
            || self.log_disk_bytes_max < self.log_bytes_max
            || self.entry_bytes_max > frame::PAYLOAD_BYTES_MAX as u64
        {
            return Err(OpenError::Limits);
        }
        Ok(())
    }
}

/// What was found on disk. The default is a new, empty replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// Term and vote.
    pub hard: HardState,
    /// The entry before the first of the log; `0@0` if it was never compacted.
    pub base: EntryId,
    /// The first entry of each run of equal terms, in order.
    pub term_runs: Vec<EntryId>,
    /// The last entry.
    pub last: EntryId,
    /// The configurations among the entries, in order.
    pub confs: Vec<(Index, Conf)>,
    /// The newest durable checkpoint, from which the state machine starts.
    pub checkpoint: Option<Snapshot>,
    /// What is durable of a snapshot that was coming in: its name, and how many bytes; with all of them
    /// the host has compared the content with the name.
    pub staged: Option<(SnapshotId, u64)>,
}

impl Restored {
    /// What a log of these entries, from index 1 on, comes to.
    pub fn of_log<'a>(hard: HardState, entries: impl IntoIterator<Item = &'a Entry>) -> Restored {
        let mut restored = Restored { hard, ..Restored::default() };
        for entry in entries {
            if entry.id.term != restored.last.term {
                restored.term_runs.push(entry.id);
            }
            if let Some(conf) = Conf::of_entry(entry) {
                restored.confs.push((entry.id.index, conf));
            }
            restored.last = entry.id;
        }
        restored
    }

    /// The log without what is at or before `base`, and the checkpoint it continues.
    #[must_use]
    pub fn compacted(mut self, base: EntryId, checkpoint: Option<Snapshot>) -> Restored {
        compact_runs(&mut self.term_runs, base.index, self.last.index);
        self.confs.retain(|(index, _)| *index > base.index);
        self.last = self.last.max(base);
        Restored { base, checkpoint, ..self }
    }

    fn check_checkpoint(&self) -> Result<(), OpenError> {
        let at = self.checkpoint.as_ref().map_or(EntryId::default(), |snapshot| snapshot.id.at);
        if at.index < self.base.index {
            return Err(OpenError::Gap { checkpoint: at.index, base: self.base.index });
        }
        if at.index > self.last.index {
            return Err(OpenError::Ahead { checkpoint: at.index, last: self.last.index });
        }
        let runs = self.term_runs.partition_point(|run| run.index <= at.index);
        let log = runs.checked_sub(1).map_or(self.base.term, |run| self.term_runs[run].term);
        if at.term != log {
            return Err(OpenError::Contradiction { checkpoint: at, log });
        }
        let Some(Snapshot { bytes, .. }) = self.checkpoint else { return Ok(()) };
        let checked = self.checkpoint.as_ref().map_or(Ok(()), |it| it.check(self.hard.term));
        checked.map_err(|why| OpenError::Checkpoint { at, bytes, hard: self.hard.term, why })
    }

    /// Each run begins after the one before, the first right after the base, and the last holds the last
    /// entry.
    fn check_runs(&self) -> Result<(), OpenError> {
        let mut before = self.base;
        for run in &self.term_runs {
            let first = before == self.base;
            let follows = match first {
                true => run.index == before.index.next() && run.term >= before.term,
                false => run.index > before.index && run.term > before.term,
            };
            if !follows {
                return Err(OpenError::Log { before, after: *run });
            }
            before = *run;
        }
        let ends = match self.term_runs.is_empty() {
            true => self.last == self.base,
            false => before.term == self.last.term && before.index <= self.last.index,
        };
        ends.then_some(()).ok_or(OpenError::Log { before, after: self.last })
    }

    pub(crate) fn check(&self) -> Result<(), OpenError> {
        self.check_runs()?;
        if self.last.term > self.hard.term {
            return Err(OpenError::Term { log: self.last.term, hard: self.hard.term });
        }
        let (mut before, last) = (self.base.index, self.last.index);
        for (after, _) in &self.confs {
            if *after <= before || *after > last {
                return Err(OpenError::Conf { before, after: *after, last });
            }
            before = *after;
        }
        if self.hard.promised_ns > Now::MAX / 4 {
            return Err(OpenError::Promise(self.hard.promised_ns));
        }
        self.check_checkpoint()
    }
}

/// Why a replica cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Voters are doubled, too many, or one of them or this node is 0.
    #[error("the voters must be at most {VOTERS_MAX} different nodes, and no node is 0")]
    Voters,
    /// Not heartbeat < shortest election timeout <= longest one.
    #[error("timeouts must be heartbeat < election minimum <= election maximum")]
    Timeouts,
    /// A limit is 0, the entry limit is above what a frame holds, the lease is longer than the
    /// shortest election timeout, or the epoch is beyond [`EPOCH_BITS`].
    #[error("a limit is zero or above what a frame, a lease or an epoch may be")]
    Limits,
    /// The runs of terms are not those of a log from its base to its last entry.
    #[error("the recovered log has {after} after {before}: a hole, or falling terms")]
    Log {
        /// The base, or where a run of one term begins.
        before: EntryId,
        /// Where the next begins, or the last entry.
        after: EntryId,
    },
    /// The configurations are not in the order of the log, or not in it.
    #[error("the recovered log has a configuration at {after} after {before}, and ends at {last}")]
    Conf {
        /// The base, or a configuration's index.
        before: Index,
        /// The next one's.
        after: Index,
        /// The log's last index.
        last: Index,
    },
    /// The checkpoint is none that a correct replica could have made.
    #[error("the checkpoint at {at}, of {bytes} bytes, is impossible in term {hard}: {why}")]
    Checkpoint {
        /// Its last entry.
        at: EntryId,
        /// Its size.
        bytes: u64,
        /// The term of the hard state.
        hard: Term,
        /// What is wrong.
        why: &'static str,
    },
    /// The log begins after what the checkpoint covers (P7).
    #[error("the checkpoint ends at index {checkpoint}, the log begins after {base}")]
    Gap {
        /// The last index of the checkpoint; 0 if there is none.
        checkpoint: Index,
        /// The index before the log's first.
        base: Index,
    },
    /// The checkpoint covers more than the log has (R6).
    #[error("the checkpoint ends at index {checkpoint}, the log already at {last}")]
    Ahead {
        /// The last index of the checkpoint.
        checkpoint: Index,
        /// The log's last index.
        last: Index,
    },
    /// The checkpoint's last entry is another one in the log (P8).
    #[error("the checkpoint ends at {checkpoint}, where the log has term {log}")]
    Contradiction {
        /// The last entry of the checkpoint.
        checkpoint: EntryId,
        /// The term of that index in the log.
        log: Term,
    },
    /// The hard state has a promise that nobody can have asked for.
    #[error("the recovered hard state has an impossible promise of {0} ns")]
    Promise(Now),
    /// The log has an entry of a term that the hard state has not reached (R3).
    #[error("the recovered log reaches term {log}, its hard state only {hard}")]
    Term {
        /// Term of the last entry.
        log: Term,
        /// Term of the hard state.
        hard: Term,
    },
}

/// How a leader sends to a follower (thesis 10.2; the states of etcd's progress).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// It looks for where the logs agree, a message at a time.
    Probe,
    /// The logs agree: entries are pipelined.
    Replicate,
    /// What it needs is gone from the log: it gets a snapshot.
    Snapshot,
}

impl Sending {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Sending::Probe => "probe",
            Sending::Replicate => "replicate",
            Sending::Snapshot => "snapshot",
        }
    }
}

/// A replica at a glance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What it is.
    pub role: Role,
    /// Term and vote, perhaps not yet durable.
    pub hard: HardState,
    /// Who leads that term, as far as known.
    pub leader: Option<NodeId>,
    /// The last entry.
    pub last: EntryId,
    /// The commit index.
    pub commit: Index,
    /// What the host said is applied.
    pub applied: Index,
    /// Up to where the log is on disk.
    pub durable: Index,
    /// The entry before the log's first; `0@0` of a log that was never compacted.
    pub base: EntryId,
    /// The index that the newest durable checkpoint covers; 0 if there is none.
    pub checkpoint: Index,
    /// A leader's view of each other member's match index; empty for other roles.
    pub matched: Vec<(NodeId, Index)>,
    /// How it sends to each of them.
    pub sending: Vec<(NodeId, Sending)>,
    /// Reads that wait for their index.
    pub waiting_reads: usize,
    /// Who is in the group.
    pub conf: Conf,
    /// Who is to lead instead, while a transfer is under way.
    pub transferring: Option<NodeId>,
}

/// What a replica keeps in memory. Bytes are those of frames, each bounded by its setting in [`Config`]; what is
/// counted has its bound in its comment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemUse {
    /// The entry cache, `unsettled` included.
    pub cache_bytes: u64,
    /// Entries that are not durable here, or that this replica appended as leader and are not committed.
    pub unsettled_bytes: u64,
    /// Entries on their way to this replica's own disk, overwritten ones included.
    pub unsynced_bytes: u64,
    /// Older entries read back for followers and for the state machine.
    pub fetched_bytes: u64,
    /// Handed to the state machine and not applied.
    pub apply_queue_bytes: u64,
    /// Entries on their way to peers, at the peer that has most.
    pub inflight_bytes: u64,
    /// Messages with them, at the peer that has most.
    pub inflight_messages: usize,
    /// Reads that wait for their index; this and what follows are counts, not bytes.
    pub waiting_reads: usize,
    /// Stretches of the log of one term each, and configurations that may still count: they grow with
    /// changes of leaders and members, and go with the log.
    pub term_runs: usize,
    /// See `term_runs`.
    pub confs: usize,
    /// Places in the log of which is known how much follows; at most 4,096.
    pub size_marks: usize,
    /// Writes handed to the disk and not durable; at most 4,096, of which each then covers more.
    pub pending_writes: usize,
}

impl MemUse {
    /// About what all that is only counted takes, in bytes.
    pub fn counted_bytes(&self) -> u64 {
        let small = self.waiting_reads + self.term_runs + self.size_marks + self.pending_writes;
        small as u64 * 64 + self.confs as u64 * 512
    }
}

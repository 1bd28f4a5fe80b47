//! What must hold over a whole group at every step, whatever the faults (scenarios I1 to I7), and
//! that nothing leaves a node before what it promises is on that node's disk (R1, R2, R3, R5).

use crate::raft_disk::Disk;
use raft_core::conf::Conf;
use raft_core::effects::{Envelope, Role};
use raft_core::frame::HEADER_BYTES;
use raft_core::message::{AppendOutcome, Message};
use raft_core::quorum::VOTERS_MAX;
use raft_core::raft::FETCH_BYTES_MAX;
use raft_core::snapshot::SnapshotId;
use raft_core::types::{Entry, EntryId, HardState, Index, NodeId, Term};
use raft_core::{Config, MemUse, Raft, Status};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Everything that was ever true of the group and may never become false.
#[derive(Clone, Debug, Default, Hash)]
pub struct Checker {
    leaders: BTreeMap<Term, NodeId>,
    /// Each entry that ever stood in a log: the hash of its frame, and the entry before it.
    entries: BTreeMap<EntryId, (u64, EntryId)>,
    /// Each committed entry, and the term of the leader that committed it.
    committed: BTreeMap<Index, (EntryId, Term)>,
    /// The state of the state machine after each index.
    states: BTreeMap<Index, u64>,
    hard: BTreeMap<NodeId, HardState>,
    /// The configuration that each node last went by.
    confs: BTreeMap<NodeId, Conf>,
    leader_commits: BTreeMap<NodeId, (Term, Index)>,
    /// What must not fall while a process runs: term, commit index, applied index.
    floors: BTreeMap<NodeId, (Term, Index, Index)>,
}

/// The largest command that a test proposes.
const LARGEST_COMMAND: u64 = 64 << 10;

fn hash_of(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// What a node keeps in memory is within its settings, but for what may be let in alone.
///
/// # Panics
/// If it is not.
pub fn memory_within(id: NodeId, used: &MemUse, config: &Config) {
    let alone = config.entry_bytes_max.min(LARGEST_COMMAND) + HEADER_BYTES as u64;
    let message = config.inflight_bytes_max.max(alone);
    // Blank and configuration entries pass the limits (R24): one for each leader that came and went
    // without a commit.
    let passed = 64 * HEADER_BYTES as u64;
    let uncommitted = config.uncommitted_bytes_max + alone + passed;
    let unsynced = (config.unsynced_bytes_max + message).max(2 * uncommitted);
    let apply_queue = config.apply_queue_bytes_max + FETCH_BYTES_MAX;
    let fetched = (1 + VOTERS_MAX as u64) * (FETCH_BYTES_MAX + alone);
    let unsettled = uncommitted.max(unsynced) + message;
    let bounds = [
        ("unsynced", used.unsynced_bytes, unsynced),
        ("queued to apply", used.apply_queue_bytes, apply_queue),
        ("fetched", used.fetched_bytes, fetched),
        ("unsettled", used.unsettled_bytes, unsettled),
        ("cached", used.cache_bytes, config.entry_cache_bytes_max + unsettled),
        ("on their way", used.inflight_bytes, message),
    ];
    for (name, bytes, bound) in bounds {
        assert!(bytes <= bound, "n{id} holds {bytes} bytes {name}, over {bound}");
    }
    let counts = [
        ("messages on their way", used.inflight_messages, config.inflight_messages_max),
        ("waiting reads", used.waiting_reads, config.waiting_reads_max),
        ("marks of sizes", used.size_marks, 4096),
        ("writes on their way", used.pending_writes, 4096),
    ];
    for (name, count, bound) in counts {
        assert!(count <= bound, "n{id} has {count} {name}, over {bound}");
    }
}

impl Checker {
    /// How many entries are known to be committed.
    pub fn committed(&self) -> Index {
        self.committed.keys().next_back().copied().unwrap_or_default()
    }

    /// I1, I3: `id` leads `term`, and its log is `log`.
    pub fn leads(&mut self, id: NodeId, term: Term, log: &[Entry]) {
        let known = *self.leaders.entry(term).or_insert(id);
        assert_eq!(known, id, "I1: two leaders in term {term}");
        // One that is elected late, when a later term has a leader, need not have that one's.
        let earlier = self.committed.values().filter(|(_, by)| *by < term);
        for (entry, _) in earlier {
            let held = log.get(entry.index.0 as usize - 1).map(|held| held.id);
            assert_eq!(held, Some(*entry), "I3: n{id}, leader of term {term}, lacks {entry}");
        }
    }

    /// I2: `log[from..]` was appended.
    pub fn appended(&mut self, id: NodeId, log: &[Entry], from: usize) {
        for at in from..log.len() {
            let before = if at == 0 { EntryId::default() } else { log[at - 1].id };
            let fact = (hash_of(&log[at].frame), before);
            let known = *self.entries.entry(log[at].id).or_insert(fact);
            assert_eq!(known, fact, "I2: n{id} has another entry or prefix at {}", log[at].id);
        }
    }

    /// I4, I5: `id`, in this term, applies `entry`; `state` is the running hash of its state machine before it.
    /// Returns the hash after it.
    pub fn applies(&mut self, id: NodeId, entry: &Entry, term: Term, state: u64) -> u64 {
        let known = *self.committed.entry(entry.id.index).or_insert((entry.id, term));
        assert_eq!(known.0, entry.id, "I5: n{id} applies another entry than was committed");
        let state = hash_of((state, &entry.frame));
        let known = *self.states.entry(entry.id.index).or_insert(state);
        assert_eq!(known, state, "I4: n{id} differs after {}", entry.id);
        state
    }

    /// I4: the state machine of `id` is a snapshot's from now on.
    pub fn installs(&self, id: NodeId, snapshot: SnapshotId) {
        let SnapshotId { at, hash } = snapshot;
        let known = self.committed.get(&at.index).map(|(entry, _)| *entry);
        assert_eq!(known, Some(at), "I5: n{id} installs what was not committed");
        assert_eq!(self.states.get(&at.index), Some(&hash), "I4: n{id} installs another state");
    }

    /// I6: what `id` has on disk now.
    pub fn synced(&mut self, id: NodeId, hard: HardState) {
        let before = self.hard.insert(id, hard).unwrap_or_default();
        assert!(hard.term >= before.term, "I6: the term on n{id}'s disk falls");
        let revoted = hard.term == before.term
            && before.voted_for.is_some()
            && before.voted_for != hard.voted_for;
        assert!(!revoted, "I6: n{id} votes twice in term {}", hard.term);
    }

    /// The process of `id` is a new one.
    pub fn started(&mut self, id: NodeId) {
        self.floors.remove(&id);
        self.leader_commits.remove(&id);
    }

    /// I8, and that nothing of a running process falls.
    pub fn only_grows(&mut self, id: NodeId, status: &Status) {
        let ordered = status.applied <= status.commit && status.commit <= status.last.index;
        assert!(ordered, "I8: n{id} has {status:?}");
        let now = (status.hard.term, status.commit, status.applied);
        let before = self.floors.insert(id, now).unwrap_or_default();
        let grown = before.0 <= now.0 && before.1 <= now.1 && before.2 <= now.2;
        assert!(grown, "term, commit or applied index of n{id} fall: {before:?} to {now:?}");
    }

    /// I7 and Raft 5.4.2: a leader's commit index has moved only over what a majority has on disk,
    /// up to an entry of its own term. `between`: what it was within the last turn.
    pub fn leader_commit(
        &mut self,
        id: NodeId,
        raft: &Raft,
        log: &[Entry],
        disks: &[(NodeId, &Disk)],
        between: &[Status],
    ) {
        let status = raft.status();
        let conf_before = self.confs.insert(id, status.conf.clone()).unwrap_or_default();
        if status.role != Role::Leader {
            self.leader_commits.remove(&id);
            return;
        }
        let now = (status.hard.term, status.commit);
        let before = self.leader_commits.insert(id, now);
        let Some((_, before)) = before.filter(|before| *before != now) else { return };
        if status.commit == before {
            return;
        }
        let entry = log[status.commit.0 as usize - 1].id;
        assert_eq!(entry.term, status.hard.term, "5.4.2: n{id} commits {entry} by counting");
        let holders = disks.iter().filter(|(_, disk)| disk.holds(entry));
        let holders: Vec<NodeId> = holders.map(|(id, _)| *id).collect();
        // One turn may commit by one configuration and append the next.
        let enough = |conf: &Conf| conf.is_majority(|id| holders.contains(&id));
        let mut confs = between.iter().map(|status| &status.conf);
        assert!(
            enough(&status.conf) || enough(&conf_before) || confs.any(enough),
            "I7: n{id} commits {entry}, which only {holders:?} hold, in {:?}",
            status.conf
        );
        for held in &log[before.0 as usize..status.commit.0 as usize] {
            let fact = (held.id, status.hard.term);
            let known = *self.committed.entry(held.id.index).or_insert(fact);
            assert_eq!(known.0, held.id, "I5: n{id} commits another entry");
        }
    }

    /// R1, R2, R3, R5: a message leaves `id`, whose disk is `disk`.
    pub fn leaves(&self, id: NodeId, envelope: &Envelope, disk: &Disk) {
        let message = &envelope.message;
        let term = message.term();
        if let Message::PreVote(_) | Message::PreVoteReply(_) = message {
            return;
        }
        let durable = disk.hard();
        assert!(
            term <= durable.term,
            "R5: n{id} speaks in term {term}, its disk is at {durable:?}"
        );
        if term < durable.term {
            return; // what it promised in that term was written before the later one
        }
        match message {
            Message::RequestVoteReply(m) if m.granted => {
                assert_eq!(durable.voted_for, Some(envelope.to), "R1: n{id} could forget its vote");
            }
            Message::RequestVote(m) => {
                assert_eq!(durable.voted_for, Some(id), "R2: n{id} could forget its own vote");
                assert!(disk.ends_in(m.last), "R2: n{id} names {}, not on its disk", m.last);
            }
            Message::AppendEntries(_) | Message::InstallSnapshot(_) => {
                assert_eq!(durable.voted_for, Some(id), "R2: n{id} leads on a vote not on disk");
            }
            Message::AppendEntriesReply(m) => {
                if let AppendOutcome::Accepted { matched, .. } = m.outcome {
                    assert!(disk.len() >= matched, "R3: n{id} acks {matched}, not on its disk");
                }
                assert!(durable.promised_ns >= m.promised_ns, "R8: n{id} could forget its promise");
            }
            Message::PreVote(_)
            | Message::PreVoteReply(_)
            | Message::RequestVoteReply(_)
            | Message::Confirm(_)
            | Message::ReadIndex(_)
            | Message::ReadIndexReply(_)
            | Message::TimeoutNow(_) => {}
            Message::InstallSnapshotReply(m) => {
                assert!(durable.promised_ns >= m.promised_ns, "R8: n{id} could forget its promise");
            }
            Message::ConfirmReply(m) => {
                assert!(durable.promised_ns >= m.promised_ns, "R8: n{id} could forget its promise");
            }
        }
    }
}

//! The host of the `raft` crate, as its documentation has it.

use super::{Counts, Group, LOG_ENTRIES_KEPT, LOG_ENTRIES_MAX, PAYLOAD_BYTES, REPLICAS};
use raft::eraftpb::{ConfState, Entry, Message};
use raft::storage::MemStorage;
use raft::{Config, RawNode, StateRole};
use slog::{Discard, Logger, o};
use std::collections::VecDeque;

struct Replica {
    node: RawNode<MemStorage>,
    inbox: VecDeque<Message>,
    entries: usize,
}

/// Three replicas on the `raft` crate: at its default settings or, with `BATCHED`, with
/// `batch_append`, by which it merges messages that nobody has taken yet.
pub struct Theirs<const BATCHED: bool> {
    replicas: Vec<Replica>,
    outbox: Vec<Message>,
    payload: Vec<u8>,
    counts: Counts,
}

impl Replica {
    fn open(id: u64, batch_append: bool) -> Replica {
        let voters: Vec<u64> = (1..=REPLICAS).collect();
        let storage = MemStorage::new_with_conf_state(ConfState::from((voters, vec![])));
        let logger = Logger::root(Discard, o!());
        let config = Config { batch_append, ..Config::new(id) };
        let node = RawNode::new(&config, storage, &logger).expect("a sound configuration");
        Replica { node, inbox: VecDeque::new(), entries: 0 }
    }

    fn store(&mut self, entries: &[Entry]) {
        let Some(last) = entries.last() else { return };
        let mut storage = self.node.raft.raft_log.store.wl();
        storage.append(entries).expect("entries follow the log");
        self.entries += entries.len();
        if self.entries > LOG_ENTRIES_MAX {
            let kept = (last.index + 1).saturating_sub(LOG_ENTRIES_KEPT as u64);
            storage.compact(kept).expect("it is applied");
            self.entries = LOG_ENTRIES_KEPT;
        }
    }

    /// One turn of a host: everything that came in, then everything that is owed.
    fn turn(&mut self, out: &mut Vec<Message>, counts: &mut Counts) {
        while let Some(message) = self.inbox.pop_front() {
            self.node.step(message).expect("peers speak the protocol");
        }
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            out.extend(ready.take_messages());
            apply(&ready.take_committed_entries(), counts);
            self.store(ready.entries());
            if let Some(hard) = ready.hs() {
                self.node.mut_store().wl().set_hardstate(hard.clone());
            }
            counts.syncs += u64::from(ready.must_sync());
            out.extend(ready.take_persisted_messages());
            let mut light = self.node.advance(ready);
            if let Some(commit) = light.commit_index() {
                self.node.mut_store().wl().mut_hard_state().set_commit(commit);
            }
            out.extend(light.take_messages());
            apply(&light.take_committed_entries(), counts);
            self.node.advance_apply();
        }
    }
}

fn apply(entries: &[Entry], counts: &mut Counts) {
    counts.applied += entries.iter().filter(|entry| !entry.data.is_empty()).count() as u64;
}

impl<const BATCHED: bool> Theirs<BATCHED> {
    /// The leader has something to do; then whoever a message reaches, until nobody has.
    fn settle(&mut self) {
        let mut leader_is_due = true;
        loop {
            for replica in &mut self.replicas {
                if leader_is_due || !replica.inbox.is_empty() {
                    leader_is_due = false;
                    replica.turn(&mut self.outbox, &mut self.counts);
                }
            }
            if self.outbox.is_empty() {
                return;
            }
            self.counts.messages += self.outbox.len() as u64;
            for message in self.outbox.drain(..) {
                self.replicas[message.to as usize - 1].inbox.push_back(message);
            }
        }
    }
}

impl<const BATCHED: bool> Group for Theirs<BATCHED> {
    fn elected() -> Theirs<BATCHED> {
        let mut group = Theirs {
            replicas: (1..=REPLICAS).map(|id| Replica::open(id, BATCHED)).collect(),
            outbox: Vec::new(),
            payload: vec![b'x'; PAYLOAD_BYTES],
            counts: Counts::default(),
        };
        group.replicas[0].node.campaign().expect("a voter may campaign");
        group.settle();
        assert_eq!(group.replicas[0].node.raft.state, StateRole::Leader);
        group.heartbeat();
        group
    }

    fn commit_batch(&mut self, batch: u64) {
        for _ in 0..batch {
            let proposed = self.replicas[0].node.propose(Vec::new(), self.payload.clone());
            proposed.expect("nothing is refused");
        }
        self.settle();
    }

    fn heartbeat(&mut self) {
        self.replicas[0].node.ping();
        self.settle();
    }

    fn counts(&self) -> Counts {
        self.counts
    }
}

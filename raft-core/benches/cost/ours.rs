//! The host of this crate.

use super::{Counts, Group, LOG_ENTRIES_KEPT, LOG_ENTRIES_MAX, PAYLOAD_BYTES, REPLICAS};
use bytes::Bytes;
use raft_core::effects::{Effects, Pull, Role};
use raft_core::message::Message;
use raft_core::types::{Entries, Entry, EntryKind, GroupId, NodeId, Now};
use raft_core::{Config, Raft, Restored};
use std::collections::VecDeque;

/// Bytes that a link takes at once.
const LINK_ROOM: u64 = 1 << 20;
const MILLISECOND: Now = 1_000_000;

struct Replica {
    id: NodeId,
    raft: Raft,
    log: Vec<Entry>,
    inbox: VecDeque<(NodeId, Message)>,
}

/// Three replicas on this crate.
pub struct Ours {
    replicas: Vec<Replica>,
    effects: Effects,
    outbox: Vec<(NodeId, NodeId, Message)>,
    payload: Bytes,
    now: Now,
    counts: Counts,
}

impl Replica {
    fn open(id: NodeId) -> Replica {
        let config = Config::new(id, GroupId(1), (1..=REPLICAS).map(NodeId).collect());
        let raft = Raft::open(config, Restored::default(), id.0, 0).expect("a sound configuration");
        Replica { id, raft, log: Vec::new(), inbox: VecDeque::new() }
    }

    fn store(&mut self, entries: Entries) {
        self.log.extend(entries);
        if self.log.len() > LOG_ENTRIES_MAX {
            self.log.drain(..self.log.len() - LOG_ENTRIES_KEPT);
        }
    }

    /// One turn of a host: everything that came in, then everything that is owed.
    fn turn(
        &mut self,
        now: Now,
        effects: &mut Effects,
        out: &mut Vec<(NodeId, NodeId, Message)>,
        counts: &mut Counts,
    ) {
        while let Some((from, message)) = self.inbox.pop_front() {
            self.raft.step(now, from, message).expect("peers speak the protocol");
        }
        let id = self.id;
        while self.raft.poll(now, effects) {
            out.extend(effects.send.drain(..).map(|e| (id, e.to, e.message)));
            for peer in effects.appendable.drain(..) {
                while let Pull::Ready(message) = self.raft.next_append(now, peer, LINK_ROOM) {
                    out.push((id, peer, message));
                }
            }
            if let Some(write) = effects.write.take() {
                counts.syncs += 1;
                self.store(write.entries);
                self.raft.persisted(now, write.token);
            }
            out.extend(effects.send_after.drain(..).map(|(_, e)| (id, e.to, e.message)));
            let Some(last) = effects.commit.last() else { continue };
            let index = last.id.index;
            let bytes = effects.commit.iter().map(|entry| entry.frame.len() as u64).sum();
            let commands = effects.commit.iter().filter(|e| e.kind == EntryKind::Command);
            counts.applied += commands.count() as u64;
            self.raft.applied(now, index, bytes);
        }
    }
}

impl Ours {
    /// The leader has something to do; then whoever a message reaches, until nobody has.
    fn settle(&mut self) {
        let mut leader_is_due = true;
        loop {
            for replica in &mut self.replicas {
                if leader_is_due || !replica.inbox.is_empty() {
                    leader_is_due = false;
                    replica.turn(self.now, &mut self.effects, &mut self.outbox, &mut self.counts);
                }
            }
            if self.outbox.is_empty() {
                return;
            }
            self.counts.messages += self.outbox.len() as u64;
            for (from, to, message) in self.outbox.drain(..) {
                self.replicas[to.0 as usize - 1].inbox.push_back((from, message));
            }
        }
    }
}

impl Group for Ours {
    fn elected() -> Ours {
        let mut group = Ours {
            replicas: (1..=REPLICAS).map(|id| Replica::open(NodeId(id))).collect(),
            effects: Effects::default(),
            outbox: Vec::new(),
            payload: Bytes::from(vec![b'x'; PAYLOAD_BYTES]),
            now: 0,
            counts: Counts::default(),
        };
        // Past the longest election timeout; only the first replica looks at its timer.
        group.now = 1001 * MILLISECOND;
        group.replicas[0].raft.tick(group.now);
        group.settle();
        assert_eq!(group.replicas[0].raft.status().role, Role::Leader);
        group.heartbeat();
        group
    }

    fn commit_batch(&mut self, batch: u64) {
        let mut payloads = (0..batch).map(|_| self.payload.clone());
        let proposed = self.replicas[0].raft.propose(self.now, &mut payloads);
        assert_eq!(proposed.count, batch, "nothing is refused: {:?}", proposed.refused);
        self.settle();
    }

    fn heartbeat(&mut self) {
        // A leader probes two heartbeats after the last thing it sent.
        self.now += 201 * MILLISECOND;
        self.replicas[0].raft.tick(self.now);
        self.settle();
    }

    fn counts(&self) -> Counts {
        self.counts
    }
}

//! A replica of this project, driven from outside.

use super::{Logged, Replica};
use bytes::Bytes;
use raft_core::effects::{Effects, Fetch, FetchResult, NodeLiveness, Pull, Role, Write};
use raft_core::message::Message;
use raft_core::types::{Entry, GroupId, HardState, NodeId, Now};
use raft_core::{Config, Raft, Restored};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes that a link takes at once.
const LINK_ROOM: u64 = 1 << 20;

/// What survives a crash.
#[derive(Clone, Default)]
pub struct Disk {
    hard: HardState,
    log: Vec<Entry>,
}

impl Disk {
    fn store(&mut self, write: &Write) {
        self.hard = write.hard.unwrap_or(self.hard);
        if let Some(from) = write.truncate_from {
            self.log.retain(|entry| entry.id.index < from);
        }
        self.log.extend(write.entries.iter().cloned());
    }

    fn read(&self, fetch: &Fetch) -> FetchResult {
        let wanted = |entry: &&Entry| (fetch.from..=fetch.to).contains(&entry.id.index);
        let entries: Vec<Entry> = self.log.iter().filter(wanted).cloned().collect();
        if entries.is_empty() { FetchResult::Gone } else { FetchResult::Entries(entries) }
    }

    fn restored(&self) -> Restored {
        Restored::of_log(self.hard, &self.log)
    }
}

/// A replica, its clock and its disk.
pub struct Ours {
    raft: Raft,
    disk: Disk,
    loses_writes: bool,
    /// Its own clock: nobody else's election timer moves with it.
    now: Now,
    heartbeat_ns: Now,
    election_timeout_ns_max: Now,
    links: BTreeMap<u64, u64>,
    /// New links that it has not been told of.
    unreported: BTreeSet<u64>,
    /// Peers that it counts as lost.
    lost: BTreeSet<u64>,
}

impl Ours {
    /// Whoever asks for votes would ask again on a new link, which is more than the schedule says:
    /// the other implementation has no such edge. It is told once it asks no more.
    fn report_links(&mut self) {
        if matches!(self.raft.status().role, Role::Leader | Role::Follower) {
            self.tell_links();
        }
    }

    fn tell_links(&mut self) {
        for peer in std::mem::take(&mut self.unreported) {
            let up = NodeLiveness::Up { epoch: 1, link: self.links[&peer] };
            self.raft.liveness(self.now, NodeId(peer), up);
        }
    }
}

impl Replica for Ours {
    type Message = Message;
    type Disk = Disk;

    fn open(id: u64, voters: u64, disk: Disk) -> Ours {
        let config = Config::new(NodeId(id), GroupId(1), (1..=voters).map(NodeId).collect());
        let (heartbeat_ns, election_timeout_ns_max) =
            (config.heartbeat_ns, config.election_timeout_ns_max);
        let raft = Raft::open(config, disk.restored(), id, 0).expect("a disk of ours");
        let (loses_writes, now, links) = (false, 0, BTreeMap::new());
        Ours {
            raft,
            disk,
            loses_writes,
            now,
            heartbeat_ns,
            election_timeout_ns_max,
            links,
            unreported: BTreeSet::new(),
            // Of nobody it has heard anything yet.
            lost: (1..=voters).filter(|peer| *peer != id).collect(),
        }
    }

    fn step(&mut self, from: u64, message: Message) {
        self.raft.step(self.now, NodeId(from), message).expect("peers speak the protocol");
    }

    fn turn(&mut self, committed: &mut dyn FnMut(u64, Logged)) -> Vec<(u64, Message)> {
        let mut effects = Effects::default();
        let mut sent = Vec::new();
        while self.raft.poll(self.now, &mut effects) {
            sent.extend(effects.send.drain(..).map(|e| (e.to.0, e.message)));
            for peer in std::mem::take(&mut effects.appendable) {
                while let Pull::Ready(message) = self.raft.next_append(self.now, peer, LINK_ROOM) {
                    sent.push((peer.0, message));
                }
            }
            if !self.loses_writes {
                if let Some(write) = &effects.write {
                    self.disk.store(write);
                    self.raft.persisted(self.now, write.token);
                }
                sent.extend(effects.send_after.drain(..).map(|(_, e)| (e.to.0, e.message)));
            }
            for entry in effects.commit.drain(..) {
                let logged = (entry.id.term.0, entry.payload().to_vec());
                committed(entry.id.index.0, logged);
                self.raft.applied(self.now, entry.id.index, entry.frame.len() as u64);
            }
            for fetch in effects.fetch.drain(..) {
                self.raft.fetched(self.now, fetch.id, self.disk.read(&fetch));
            }
        }
        sent
    }

    fn heartbeat(&mut self) {
        self.report_links();
        self.now += self.heartbeat_ns;
        if self.leads() {
            self.raft.tick(self.now);
        }
    }

    fn campaign(&mut self) {
        if !self.leads() {
            self.now += 2 * self.election_timeout_ns_max;
            self.raft.tick(self.now);
            // It has asked everybody just now: on a new link it asks the same again.
            self.tell_links();
        }
    }

    fn propose(&mut self, command: Vec<u8>) -> bool {
        let mut batch = std::iter::once(Bytes::from(command));
        self.raft.propose(self.now, &mut batch).count == 1
    }

    fn lose_writes(&mut self) {
        self.loses_writes = true;
    }

    fn new_link(&mut self, peer: u64) {
        *self.links.entry(peer).or_insert(0) += 1;
        self.unreported.insert(peer);
        self.lost.remove(&peer);
        self.report_links();
    }

    fn lost(&mut self, peer: u64) {
        self.unreported.remove(&peer);
        self.lost.insert(peer);
        self.raft.liveness(self.now, NodeId(peer), NodeLiveness::Down { gone: false });
    }

    fn heard(&mut self, peer: u64) {
        if self.lost.remove(&peer) {
            self.new_link(peer);
        }
    }

    fn follows(&self) -> Option<u64> {
        let leader = self.raft.status().leader.map(|leader| leader.0);
        leader.filter(|_| !self.leads())
    }

    fn disowned(&mut self) {
        let status = self.raft.status();
        if let Some(leader) = status.leader {
            let edge = NodeLiveness::Disowned { term: status.hard.term };
            self.raft.liveness(self.now, leader, edge);
        }
    }

    fn leads(&self) -> bool {
        self.raft.status().role == Role::Leader
    }

    fn disk(&self) -> Disk {
        self.disk.clone()
    }

    fn read(disk: &Disk) -> (u64, Vec<Logged>) {
        let logged = |entry: &Entry| (entry.id.term.0, entry.payload().to_vec());
        (disk.hard.term.0, disk.log.iter().map(logged).collect())
    }
}

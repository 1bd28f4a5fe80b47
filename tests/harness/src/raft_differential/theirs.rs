//! A replica of the `raft` crate, driven from outside.

use super::{Logged, Replica};
use raft::eraftpb::{ConfState, Entry, HardState, Message};
use raft::storage::MemStorage;
use raft::{Config, GetEntriesContext, RawNode, StateRole};
use slog::{Discard, Logger, o};

/// Ticks after which a follower that hears nothing forgets its leader.
const ELECTION_TICKS: usize = 10;
/// Ticks after which a replica would campaign by itself: never within a schedule.
const CAMPAIGN_TICKS: usize = 1 << 40;

/// What survives a crash.
#[derive(Clone, Default)]
pub struct Disk {
    hard: HardState,
    log: Vec<Entry>,
}

impl Disk {
    fn store(&mut self, entries: &[Entry], hard: Option<&HardState>) {
        if let Some(first) = entries.first() {
            self.log.truncate(first.index as usize - 1);
            self.log.extend_from_slice(entries);
        }
        if let Some(hard) = hard {
            self.hard = hard.clone();
        }
    }
}

/// A replica and its disk.
pub struct Theirs {
    node: RawNode<MemStorage>,
    disk: Disk,
    loses_writes: bool,
    /// Up to where commits were reported.
    reported: u64,
}

impl Theirs {
    fn report(&mut self, committed: &mut dyn FnMut(u64, Logged)) {
        let log = &self.node.raft.raft_log;
        if self.reported == log.committed {
            return;
        }
        let context = GetEntriesContext::empty(false);
        let (from, to) = (self.reported + 1, log.committed + 1);
        for entry in log.slice(from, to, None, context).expect("what is committed is in the log") {
            committed(entry.index, (entry.term, entry.data.to_vec()));
        }
        self.reported = log.committed;
    }
}

impl Replica for Theirs {
    type Message = Message;
    type Disk = Disk;

    fn open(id: u64, voters: u64, disk: Disk) -> Theirs {
        let voters: Vec<u64> = (1..=voters).collect();
        let storage = MemStorage::new_with_conf_state(ConfState::from((voters, vec![])));
        storage.wl().append(&disk.log).expect("a disk of theirs");
        storage.wl().set_hardstate(disk.hard.clone());
        let config = Config {
            election_tick: ELECTION_TICKS,
            heartbeat_tick: 1,
            min_election_tick: CAMPAIGN_TICKS,
            max_election_tick: CAMPAIGN_TICKS + 1,
            check_quorum: true,
            pre_vote: true,
            max_size_per_msg: 1 << 20,
            ..Config::new(id)
        };
        let logger = Logger::root(Discard, o!());
        let node = RawNode::new(&config, storage, &logger).expect("a sound configuration");
        Theirs { node, disk, loses_writes: false, reported: 0 }
    }

    fn step(&mut self, _from: u64, message: Message) {
        self.node.step(message).expect("peers speak the protocol");
    }

    fn turn(&mut self, committed: &mut dyn FnMut(u64, Logged)) -> Vec<(u64, Message)> {
        let mut sent = Vec::new();
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            sent.extend(ready.take_messages());
            let storage = self.node.raft.raft_log.store.clone();
            storage.wl().append(ready.entries()).expect("entries follow the log");
            if let Some(hard) = ready.hs() {
                storage.wl().set_hardstate(hard.clone());
            }
            if self.loses_writes {
                // Readable, as the crate asks for, but never on the disk.
                self.node.advance_append_async(ready);
            } else {
                self.disk.store(ready.entries(), ready.hs());
                sent.extend(ready.take_persisted_messages());
                let mut light = self.node.advance(ready);
                sent.extend(light.take_messages());
                self.node.advance_apply();
            }
            self.report(committed);
        }
        sent.into_iter().map(|message| (message.to, message)).collect()
    }

    fn heartbeat(&mut self) {
        self.node.tick();
    }

    fn campaign(&mut self) {
        self.node.campaign().expect("a voter may campaign");
    }

    fn propose(&mut self, command: Vec<u8>) -> bool {
        self.leads() && self.node.propose(Vec::new(), command).is_ok()
    }

    fn lose_writes(&mut self) {
        self.loses_writes = true;
    }

    fn new_link(&mut self, peer: u64) {
        self.node.report_unreachable(peer);
    }

    // It counts the ticks without a message instead.
    fn lost(&mut self, _peer: u64) {}

    fn heard(&mut self, _peer: u64) {}

    fn follows(&self) -> Option<u64> {
        None
    }

    fn disowned(&mut self) {}

    fn leads(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    fn disk(&self) -> Disk {
        self.disk.clone()
    }

    fn read(disk: &Disk) -> (u64, Vec<Logged>) {
        let logged = |entry: &Entry| (entry.term, entry.data.to_vec());
        (disk.hard.term, disk.log.iter().map(logged).collect())
    }
}

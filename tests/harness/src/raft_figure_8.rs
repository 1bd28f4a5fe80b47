//! The schedule of Raft's figure 8, round after round: a leader takes a command, ends before or after it has
//! told anybody, another takes its place, and who ended comes back with what it had. Messages are lost, and
//! arrive in any order and however late. What must hold is checked after every call, as in all worlds.

use crate::raft_faults::Random;
use crate::raft_world::{Event, World};
use bytes::Bytes;
use raft_core::Config;
use raft_core::effects::{Envelope, NodeLiveness};
use raft_core::types::{GroupId, Index, NodeId, Now, Term};

const MS: Now = 1_000_000;
const NODES: u64 = 5;
/// Messages on their way; of more the oldest are lost, so that what is late comes from a few rounds ago.
const WIRE_MAX: usize = 60;

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The term in which it ended.
    pub term: Term,
    /// Committed in all.
    pub committed: Index,
    /// Leaders that were stopped.
    pub stopped: u64,
}

struct Figure8 {
    world: World,
    random: Random,
    wire: Vec<(NodeId, Envelope)>,
    starts: u64,
}

/// Runs so many rounds, then lets everybody come back, and looks whether all have the same.
///
/// # Panics
/// If two nodes differ, or any invariant is broken.
pub fn run(seed: u64, rounds: u64) -> Outcome {
    let ids: Vec<NodeId> = (1..=NODES).map(NodeId).collect();
    let configs = ids.iter().map(|id| Config::new(*id, GroupId(1), ids.clone())).collect();
    let (world, random) = (World::new(configs), Random::new(seed, 8));
    let mut figure = Figure8 { world, random, wire: Vec::new(), starts: 0 };
    ids.iter().for_each(|id| figure.start(*id));
    let mut stopped = 0;
    for round in 0..rounds {
        stopped += u64::from(figure.round(round));
    }
    figure.heal();
    let leader = figure.world.leader().expect("somebody leads");
    let status = figure.world.host(leader).raft.as_ref().expect("it runs").status();
    Outcome { term: status.hard.term, committed: status.commit, stopped }
}

impl Figure8 {
    fn start(&mut self, id: NodeId) {
        self.starts += 1;
        self.world.start(id, self.starts);
    }

    fn is_up(&self, id: NodeId) -> bool {
        self.world.host(id).raft.is_some()
    }

    /// One command; whether a leader was stopped.
    fn round(&mut self, round: u64) -> bool {
        let leader = self.world.leader();
        if let Some(leader) = leader {
            self.world.propose(leader, vec![Bytes::from(round.to_string())]);
        }
        let steps = self.random.below(200);
        for _ in 0..steps {
            self.step();
        }
        let stops = leader.filter(|_| self.random.chance(50)).filter(|id| self.is_up(*id));
        if let Some(leader) = stops {
            let keep = self.random.below(4) as usize;
            self.world.crash(leader, keep);
            let gone = NodeLiveness::Down { gone: true };
            for peer in self.world.ids().into_iter().filter(|id| *id != leader) {
                self.world.call(peer, |raft, now| raft.liveness(now, leader, gone));
            }
        }
        let down: Vec<NodeId> =
            self.world.ids().into_iter().filter(|id| !self.is_up(*id)).collect();
        let few = down.len() as u64 > NODES / 2;
        if !down.is_empty() && (few || self.random.chance(20)) {
            let id = self.random.pick(&down);
            self.start(id);
        }
        stops.is_some()
    }

    /// Something happens: a message arrives or is lost, a disk ends a write, a while passes.
    fn step(&mut self) {
        self.collect();
        let id = NodeId(1 + self.random.below(NODES));
        match self.random.below(10) {
            0..6 if !self.wire.is_empty() => {
                let at = self.random.below(self.wire.len() as u64) as usize;
                let (from, envelope) = self.wire.swap_remove(at);
                if !self.random.chance(10) {
                    self.deliver(from, envelope);
                }
            }
            0..8 if self.is_up(id) => self.work(id),
            _ => {
                let passes = self.random.below(12) * MS;
                self.pass(passes);
            }
        }
    }

    fn deliver(&mut self, from: NodeId, envelope: Envelope) {
        let said = self.world.deliver(from, envelope.to, envelope.message);
        said.expect("a correct peer is not refused");
    }

    /// What a node can do alone.
    fn work(&mut self, id: NodeId) {
        self.world.sync(id, 1);
        self.world.answer_fetch(id);
        self.world.report_applied(id);
        for peer in self.world.host(id).appendable.clone() {
            self.world.pull(id, peer, 1 << 20);
        }
    }

    fn pass(&mut self, time: Now) {
        for id in self.world.ids() {
            self.world.host_mut(id).now += time;
            let host = self.world.host(id);
            let due = host.raft.as_ref().and_then(|raft| raft.deadline());
            if due.is_some_and(|at| at <= host.now) {
                self.world.call(id, |raft, now| raft.tick(now));
            }
        }
    }

    fn collect(&mut self) {
        for (from, event) in std::mem::take(&mut self.world.events) {
            if let Event::Sent(envelope) = event {
                self.wire.push((from, envelope));
            }
        }
        let late = self.wire.len().saturating_sub(WIRE_MAX);
        self.wire.drain(..late);
    }

    /// All come back, nothing is lost any more.
    fn heal(&mut self) {
        let ids = self.world.ids();
        for id in ids.iter().copied() {
            if !self.is_up(id) {
                self.start(id);
            }
        }
        for _ in 0..3000 {
            ids.iter().for_each(|id| self.work(*id));
            self.collect();
            for (from, envelope) in std::mem::take(&mut self.wire) {
                self.deliver(from, envelope);
            }
            self.pass(10 * MS);
        }
        let states: Vec<u64> = ids.iter().map(|id| self.world.state(*id)).collect();
        assert!(states.iter().all(|state| *state == states[0]), "states differ: {states:?}");
        let logs = ids.iter().map(|id| self.world.log(*id));
        assert!(logs.into_iter().all(|log| log == self.world.log(ids[0])), "logs differ");
    }
}

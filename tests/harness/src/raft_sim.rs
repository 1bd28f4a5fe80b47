//! One seed, one life of a group: faults drawn from the seed for a while, then none, and then it
//! must heal (scenarios I12, I14). Time is virtual; nothing here waits.

use crate::raft_world::{Event, World};
use bytes::Bytes;
use raft_core::Config;
use raft_core::effects::{NodeLiveness, Role};
use raft_core::message::Message;
use raft_core::types::{GroupId, Index, NodeId, Now};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

const MS: Now = 1_000_000;
/// How long faults go on.
const CHAOS: Now = 12_000 * MS;
/// How long a group without faults may take to elect, converge and commit: an election that is
/// split a few times, and the repair of the logs.
const HEAL_MAX: Now = 10_000 * MS;

/// What a run did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// A hash of all that happened, in order.
    pub trace: u64,
    /// Events handled.
    pub steps: u64,
    /// Entries committed at the end.
    pub committed: Index,
}

/// The faults of one run. Half of them are off, which half is up to the seed: a fault that is always
/// there hides what only happens without it.
struct Faults {
    loss_percent: u64,
    twice_percent: u64,
    delay: Now,
    sync: Now,
    slow_disk: Option<NodeId>,
    crash_percent: u64,
    cut_percent: u64,
    link_percent: u64,
}

#[derive(Clone, Debug)]
enum Task {
    Deliver(NodeId, NodeId, Message),
    Sync(NodeId, u64),
    Pull(NodeId, NodeId),
    Fetch(NodeId, u64),
    Applied(NodeId),
    Client,
    Fault,
    Start(NodeId),
}

/// What is scheduled once at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Once {
    Sync(NodeId),
    Pull(NodeId, NodeId),
    Fetch(NodeId),
    Applied(NodeId),
}

struct Sim {
    world: World,
    random: u64,
    now: Now,
    tasks: BTreeMap<(Now, u64), Task>,
    scheduled: BTreeSet<Once>,
    serial: u64,
    faults: Faults,
    cuts: BTreeSet<(NodeId, NodeId)>,
    trace: DefaultHasher,
    commands: u64,
    healing: bool,
}

/// Runs one seed.
///
/// # Panics
/// If an invariant breaks or the group does not heal.
pub fn run(seed: u64) -> Outcome {
    let mut sim = Sim::new(seed);
    sim.after(0, Task::Client);
    sim.after(100 * MS, Task::Fault);
    while sim.now < CHAOS && sim.step() {}
    sim.heal();
    let healed_by = sim.now + HEAL_MAX;
    let fresh = sim.commands;
    while !sim.healed(fresh) {
        assert!(sim.now < healed_by, "the group does not heal:\n{}", sim.describe());
        assert!(sim.step(), "nothing is left to happen:\n{}", sim.describe());
    }
    sim.outcome()
}

impl Sim {
    fn new(seed: u64) -> Sim {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d;
        let mut draw = |below: u64| {
            random = step_random(random);
            (random >> 33) % below
        };
        let nodes = [3, 3, 3, 3, 3, 5, 5, 4, 2, 1][draw(10) as usize];
        let ids: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
        let small = draw(2) == 0;
        let configs = ids.iter().map(|id| {
            let mut config = Config::new(*id, GroupId(7), ids.clone());
            config.entry_cache_bytes_max = 20_000;
            if small {
                config.inflight_messages_max = 2;
                config.inflight_bytes_max = 600;
                config.uncommitted_bytes_max = 4000;
                config.unsynced_bytes_max = 3000;
                config.entry_cache_bytes_max = 500;
                config.apply_queue_bytes_max = 1000;
            }
            config
        });
        let world = World::new(configs.collect());
        let mut some = |percent: u64| if draw(2) == 0 { 0 } else { 1 + draw(percent) };
        let faults = Faults {
            loss_percent: some(20),
            twice_percent: some(20),
            delay: MS + some(80) * MS,
            sync: MS / 5 + some(100) * MS,
            slow_disk: ids.get(some(nodes) as usize).copied(),
            crash_percent: some(30),
            cut_percent: some(40),
            link_percent: some(40),
        };
        let mut sim = Sim {
            world,
            random,
            now: 0,
            tasks: BTreeMap::new(),
            scheduled: BTreeSet::new(),
            serial: 0,
            faults,
            cuts: BTreeSet::new(),
            trace: DefaultHasher::new(),
            commands: 0,
            healing: false,
        };
        for id in ids {
            sim.after(0, Task::Start(id));
        }
        sim
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random = step_random(self.random);
        (self.random >> 33) % below.max(1)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.draw(100) < percent
    }

    fn after(&mut self, delay: Now, task: Task) {
        self.serial += 1;
        self.tasks.insert((self.now + delay, self.serial), task);
    }

    fn once(&mut self, delay: Now, key: Once, task: Task) {
        if self.scheduled.insert(key) {
            self.after(delay, task);
        }
    }

    /// The next task or timer, whichever is due first.
    fn step(&mut self) -> bool {
        let deadline = |id: &NodeId| Some((self.world.host(*id).raft.as_ref()?.deadline()?, *id));
        let timer = self.world.ids().iter().filter_map(deadline).min();
        let task = self.tasks.keys().next().copied();
        match (timer, task) {
            (None, None) => return false,
            (Some((at, id)), task) if task.is_none_or(|(due, _)| at < due) => {
                self.advance(at);
                (self.now, 0u8, id).hash(&mut self.trace);
                self.world.call(id, |raft, now| raft.tick(now));
            }
            (_, Some(key)) => {
                let task = self.tasks.remove(&key).expect("the key was just read");
                self.advance(key.0);
                (self.now, key.1).hash(&mut self.trace);
                self.perform(task);
            }
            (Some(_), None) => unreachable!("a timer without a task is taken above"),
        }
        self.collect();
        true
    }

    fn advance(&mut self, at: Now) {
        self.now = self.now.max(at);
        for id in self.world.ids() {
            self.world.host_mut(id).now = self.now;
        }
    }

    fn perform(&mut self, task: Task) {
        match task {
            Task::Deliver(from, to, message) => {
                if !self.cuts.contains(&(from, to)) {
                    self.world.deliver(from, to, message).expect("a correct peer is not refused");
                }
            }
            Task::Sync(id, epoch) => {
                self.scheduled.remove(&Once::Sync(id));
                if self.world.host(id).epoch == epoch && self.world.host(id).raft.is_some() {
                    let count = 1 + self.draw(4) as usize;
                    self.world.sync(id, count);
                }
            }
            Task::Pull(id, peer) => {
                self.scheduled.remove(&Once::Pull(id, peer));
                let room = 200 + self.draw(4000);
                for _ in 0..4 {
                    if !self.world.pull(id, peer, room) {
                        break;
                    }
                }
            }
            Task::Fetch(id, epoch) => {
                self.scheduled.remove(&Once::Fetch(id));
                if self.world.host(id).epoch == epoch {
                    self.world.answer_fetch(id);
                }
            }
            Task::Applied(id) => {
                self.scheduled.remove(&Once::Applied(id));
                self.world.report_applied(id);
            }
            Task::Client => self.propose(),
            Task::Fault => self.fault(),
            Task::Start(id) => {
                if self.world.host(id).raft.is_none() {
                    let seed = self.draw(u64::MAX);
                    self.world.start(id, seed);
                }
            }
        }
    }

    /// Schedules what the nodes owe.
    fn collect(&mut self) {
        for (id, event) in std::mem::take(&mut self.world.events) {
            if let Event::Sent(envelope) = event {
                self.transmit(id, envelope.to, envelope.message);
            }
        }
        for id in self.world.ids() {
            let host = self.world.host(id);
            let epoch = host.epoch;
            let (unsynced, fetch) = (host.disk.unsynced() > 0, !host.fetches.is_empty());
            let applied = host.unreported.is_some();
            let peers: Vec<NodeId> = host.appendable.iter().copied().collect();
            if unsynced {
                let slow = if self.faults.slow_disk == Some(id) { 10 } else { 1 };
                let delay = 1 + self.draw(self.faults.sync * slow);
                self.once(delay, Once::Sync(id), Task::Sync(id, epoch));
            }
            if fetch {
                let delay = 1 + self.draw(5 * MS);
                self.once(delay, Once::Fetch(id), Task::Fetch(id, epoch));
            }
            if applied {
                let delay = 1 + self.draw(5 * MS);
                self.once(delay, Once::Applied(id), Task::Applied(id));
            }
            for peer in peers {
                let delay = 1 + self.draw(2 * MS);
                self.once(delay, Once::Pull(id, peer), Task::Pull(id, peer));
            }
        }
    }

    fn transmit(&mut self, from: NodeId, to: NodeId, message: Message) {
        if self.cuts.contains(&(from, to)) || self.chance(self.faults.loss_percent) {
            return;
        }
        let copies = if self.chance(self.faults.twice_percent) { 2 } else { 1 };
        for _ in 0..copies {
            let delay = 1 + self.draw(self.faults.delay);
            self.after(delay, Task::Deliver(from, to, message.clone()));
        }
    }

    /// A client offers a few commands to whoever may lead, mostly.
    fn propose(&mut self) {
        // While the group heals there are pauses, in which all replicas can become equal.
        let delay = if self.healing { 500 * MS } else { 1 + self.draw(40 * MS) };
        self.after(delay, Task::Client);
        let ids = self.world.ids();
        let any = ids[self.draw(ids.len() as u64) as usize];
        let to = if self.chance(90) { self.world.leader().unwrap_or(any) } else { any };
        let mut commands = Vec::new();
        for _ in 0..=self.draw(3) {
            self.commands += 1;
            let size = if self.chance(5) { 1500 } else { self.draw(60) };
            let text = format!("{}:{}", self.commands, "x".repeat(size as usize));
            commands.push(Bytes::from(text));
        }
        self.world.propose(to, commands);
    }

    fn fault(&mut self) {
        self.after(100 * MS, Task::Fault);
        let ids = self.world.ids();
        let one = ids[self.draw(ids.len() as u64) as usize];
        let other = ids[self.draw(ids.len() as u64) as usize];
        if self.chance(self.faults.crash_percent) && self.world.host(one).raft.is_some() {
            let unsynced = self.world.host(one).disk.unsynced() as u64;
            let keep = self.draw(unsynced + 1);
            self.world.crash(one, keep as usize);
            let down = self.draw(1500 * MS);
            self.after(down, Task::Start(one));
        }
        if one != other && self.chance(self.faults.cut_percent) {
            self.cut_or_join(one, other);
        }
        if one != other && self.chance(self.faults.link_percent) {
            self.world.connect(one, other);
        }
    }

    /// One direction, both directions, or everything of one node; or all of it healed.
    fn cut_or_join(&mut self, one: NodeId, other: NodeId) {
        match self.draw(4) {
            0 => {
                self.cuts.insert((one, other));
            }
            1 => {
                self.cuts.extend([(one, other), (other, one)]);
                self.world.call(one, |raft, now| raft.liveness(now, other, NodeLiveness::Down));
            }
            2 => {
                for peer in self.world.ids() {
                    self.cuts.extend([(one, peer), (peer, one)]);
                }
            }
            _ => self.join_all(),
        }
    }

    fn join_all(&mut self) {
        self.cuts.clear();
        let ids = self.world.ids();
        for one in &ids {
            for other in ids.iter().filter(|other| *other > one) {
                self.world.connect(*one, *other);
            }
        }
    }

    fn heal(&mut self) {
        self.tasks.retain(|_, task| !matches!(task, Task::Fault));
        self.faults = Faults {
            loss_percent: 0,
            twice_percent: 0,
            delay: 2 * MS,
            sync: MS,
            slow_disk: None,
            crash_percent: 0,
            cut_percent: 0,
            link_percent: 0,
        };
        self.healing = true;
        self.join_all();
        for id in self.world.ids() {
            self.perform(Task::Start(id));
        }
        self.collect();
    }

    /// One leader, every node has applied all that is committed, and something fresh is among it.
    fn healed(&self, commands: u64) -> bool {
        let Some(leader) = self.world.leader() else { return false };
        let Some(raft) = &self.world.host(leader).raft else { return false };
        let status = raft.status();
        let same = |id: &NodeId| {
            let Some(raft) = &self.world.host(*id).raft else { return false };
            let other = raft.status();
            let role = *id == leader || other.role == Role::Follower;
            role && other.leader == Some(leader)
                && other.commit == status.commit
                && other.applied == status.commit
                && self.world.state(*id) == self.world.state(leader)
        };
        let fresh = self.world.log(leader)[..status.commit.0 as usize].iter().rev();
        let fresh = fresh.take(200).any(|entry| {
            let payload = entry.payload();
            let number = payload.split(|byte| *byte == b':').next().unwrap_or_default();
            let number = std::str::from_utf8(number).unwrap_or_default().parse::<u64>();
            number.is_ok_and(|number| number > commands)
        });
        fresh && self.world.ids().iter().all(same)
    }

    fn describe(&self) -> String {
        let mut text = format!("at {} ms\n", self.now / MS);
        for id in self.world.ids() {
            let host = self.world.host(id);
            let status = host.raft.as_ref().map(|raft| raft.status());
            text += &format!("n{id} unsynced={} {status:?}\n", host.disk.unsynced());
        }
        text
    }

    fn outcome(mut self) -> Outcome {
        for id in self.world.ids() {
            let digest = self.world.host(id).raft.as_ref().map(|raft| raft.digest());
            (id, digest, self.world.state(id)).hash(&mut self.trace);
        }
        Outcome {
            trace: self.trace.finish(),
            steps: self.serial,
            committed: self.world.committed(),
        }
    }
}

fn step_random(state: u64) -> u64 {
    state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407)
}

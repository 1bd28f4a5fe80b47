//! One plan, one life of a group: faults for a while, then none, and then it must heal and come to
//! rest (scenarios I12, I14). Time is virtual; nothing here waits.

use crate::raft_disk::Chunk;
use crate::raft_faults::{Cuts, Fault, Plan, Random};
use crate::raft_watch::{self, Watch};
use crate::raft_world::{Event, World};
use bytes::Bytes;
use raft_core::Config;
use raft_core::conf::{Conf, ConfChange};
use raft_core::effects::{ReadMode, Role};
use raft_core::message::Message;
use raft_core::types::{GroupId, Index, NodeId, Now, ReadId};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

const MS: Now = 1_000_000;
/// How long faults go on.
const CHAOS: Now = 12_000 * MS;
/// How long a group without faults may take to elect, converge and commit: an election that is
/// split a few times, and the repair of the logs.
const HEAL_MAX: Now = 10_000 * MS;
/// What was held back by a pause or a clog comes until then.
const SETTLE: Now = 2_500 * MS;
/// How long a healed group without proposals is watched after that.
const REST: Now = 2_000 * MS;
/// Events at one instant; more means that somebody's deadline does not pass.
const AT_ONCE_MAX: u64 = 5_000;
/// Clocks run up to this much too fast or too slow.
const DRIFT_PER_MILLE_MAX: u64 = 100;
/// What leases must allow for: the fastest clock against the slowest.
const DRIFT_PPM: u64 = 250_000;

/// What a run did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// A hash of all that happened, in order.
    pub trace: u64,
    /// Events handled.
    pub steps: u64,
    /// Entries committed at the end.
    pub committed: Index,
    /// Times that a log was compacted, and that a snapshot was installed.
    pub compactions: u64,
    /// See `compactions`.
    pub installs: u64,
}

thread_local! {
    static EVENTS: Cell<u64> = const { Cell::new(0) };
}

/// How many events the run on this thread has handled, also if it failed.
pub fn events() -> u64 {
    EVENTS.get()
}

/// How bad the faults of a run are.
struct Rates {
    loss_percent: u64,
    twice_percent: u64,
    delay: Now,
    sync: Now,
    /// How likely each kind of fault strikes, every 100 ms.
    strike_percent: u64,
}

#[derive(Clone, Debug)]
enum Task {
    Deliver(NodeId, NodeId, Message),
    Sync(NodeId, u64),
    Pull(NodeId, NodeId),
    Fetch(NodeId, u64),
    Applied(NodeId),
    Chunk(Chunk),
    Installed(NodeId, u64),
    Client,
    Reader,
    Faults,
    Watch,
    Start(NodeId),
    EndTurn(NodeId),
}

impl Task {
    /// The process that handles it, if one does.
    fn at(&self) -> Option<NodeId> {
        match self {
            Task::Deliver(_, id, _) | Task::Sync(id, _) | Task::Pull(id, _) => Some(*id),
            Task::Fetch(id, _) | Task::Applied(id) | Task::Installed(id, _) => Some(*id),
            Task::Chunk(chunk) => Some(chunk.to),
            Task::EndTurn(id) => Some(*id),
            Task::Client | Task::Reader | Task::Faults | Task::Watch | Task::Start(_) => None,
        }
    }
}

/// What is scheduled once at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Once {
    Sync(NodeId),
    Pull(NodeId, NodeId),
    Fetch(NodeId),
    Applied(NodeId),
    Installed(NodeId),
    EndTurn(NodeId),
}

/// What is wrong with one node.
#[derive(Clone, Debug, Default)]
struct Trouble {
    /// It does nothing before this.
    paused_until: Now,
    /// Its disk does nothing before this.
    stalled_until: Now,
    /// Its next sync fails.
    disk_fails: bool,
    /// Every sync takes ten times as long.
    slow: bool,
    /// Its clock counts this many seconds in a thousand.
    rate: u64,
}

struct Sim {
    plan: Plan,
    world: World,
    network: Random,
    disks: Random,
    clients: Random,
    seeds: Random,
    strikes: BTreeMap<Fault, Random>,
    /// How often a node's calls are gathered before one poll.
    turns: Random,
    turns_percent: u64,
    now: Now,
    tasks: BTreeMap<(Now, u64), Task>,
    scheduled: BTreeSet<Once>,
    serial: u64,
    events: u64,
    at_once: u64,
    rates: Rates,
    cuts: Cuts,
    clogged: BTreeMap<(NodeId, NodeId), Now>,
    trouble: BTreeMap<NodeId, Trouble>,
    trace: DefaultHasher,
    commands: u64,
    reads: u64,
    reads_served: u64,
    sent: u64,
    roles: u64,
    compactions: u64,
    installs: u64,
    healing: bool,
    watch: Watch,
}

/// Runs one plan.
///
/// # Panics
/// If an invariant breaks, the model rejects a step, or the group does not heal.
pub fn run(plan: &Plan) -> Outcome {
    let mut sim = Sim::new(plan);
    sim.live();
    sim.outcome()
}

/// Runs one plan, and returns every call of its first node as well: a tape for each start of it, to
/// be played by [`crate::raft_record::replay`].
///
/// # Panics
/// As [`run`].
pub fn run_recorded(plan: &Plan) -> (Outcome, Vec<String>) {
    let mut sim = Sim::new(plan);
    sim.world.record(NodeId(1));
    sim.live();
    let tapes = sim.world.tapes();
    (sim.outcome(), tapes)
}

/// Settings of one node; `small` limits make every bound bite.
/// `logs`: how much of a log stays, and how much is held for others.
fn config(id: NodeId, ids: &[NodeId], small: bool, leases: Option<u64>, logs: [u64; 2]) -> Config {
    let mut config = Config::new(id, GroupId(7), ids.to_vec());
    [config.log_trailing_bytes, config.log_bytes_max] = logs;
    config.log_disk_bytes_max = (2 << 20).max(logs[1]);
    (config.missed_ns, config.missed_bytes_max) = (1_000 * MS, logs[0]);
    config.snapshot_window_bytes = if small { 256 << 10 } else { 600 << 10 };
    config.snapshot_patience_ns = 3_000 * MS;
    if let Some(drift_ppm) = leases {
        config.lease_ns = config.election_timeout_ns_min;
        config.clock_drift_ppm = drift_ppm;
    }
    config.entry_cache_bytes_max = 20_000;
    if small {
        config.inflight_messages_max = 2;
        config.inflight_bytes_max = 600;
        config.uncommitted_bytes_max = 4000;
        config.unsynced_bytes_max = 3000;
        config.entry_cache_bytes_max = 500;
        config.apply_queue_bytes_max = 1000;
        config.waiting_reads_max = 4;
        config.entry_bytes_max = 2000;
    }
    config
}

impl Sim {
    fn new(plan: &Plan) -> Sim {
        let stream = |number| Random::new(plan.seed, number);
        let mut shape = stream(2);
        let nodes = shape.pick(&[3, 3, 3, 3, 5, 5, 5, 7, 7, 4, 2, 1]);
        let ids: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
        let small = shape.chance(50);
        let drift_ppm = if plan.has(Fault::Drift) { DRIFT_PPM } else { 0 };
        let leases = shape.chance(50).then_some(drift_ppm);
        let logs = [shape.pick(&[0, 0, 300, 3000]), shape.pick(&[200, 2000, 1 << 30])];
        let configs = ids.iter().map(|id| config(*id, &ids, small, leases, logs)).collect();
        let longest = shape.pick(&[5, 20, 80, 80, 300]) * MS;
        let mut some = |fault, least, most| {
            let drawn = least + 1 + shape.below(most);
            if plan.has(fault) { drawn } else { least }
        };
        let rates = Rates {
            loss_percent: some(Fault::Loss, 0, 20),
            twice_percent: some(Fault::Twice, 0, 20),
            delay: some(Fault::Delay, MS, longest),
            sync: MS + shape.below(100) * MS,
            strike_percent: 1 + shape.below(12),
        };
        let slow = plan.has(Fault::SlowDisk).then(|| shape.pick(&ids));
        let mut rate = || match plan.has(Fault::Drift) {
            true => 1000 - DRIFT_PER_MILLE_MAX + shape.below(2 * DRIFT_PER_MILLE_MAX),
            false => 1000,
        };
        let trouble = |id: &NodeId| {
            let trouble = Trouble { slow: slow == Some(*id), rate: rate(), ..Trouble::default() };
            (*id, trouble)
        };
        let strikes = plan.faults.iter().map(|fault| (*fault, stream(100 + *fault as u64)));
        let mut sim = Sim {
            turns: stream(7),
            turns_percent: stream(8).pick(&[0, 0, 5, 30]),
            world: World::new(configs),
            network: stream(3),
            disks: stream(4),
            clients: stream(5),
            seeds: stream(6),
            strikes: strikes.collect(),
            now: 0,
            tasks: BTreeMap::new(),
            scheduled: BTreeSet::new(),
            serial: 0,
            events: 0,
            at_once: 0,
            rates,
            cuts: Cuts::default(),
            clogged: BTreeMap::new(),
            trouble: ids.iter().map(trouble).collect(),
            trace: DefaultHasher::new(),
            commands: 0,
            reads: 0,
            reads_served: 0,
            sent: 0,
            roles: 0,
            compactions: 0,
            installs: 0,
            healing: false,
            watch: Watch::default(),
            plan: plan.clone(),
        };
        for id in ids {
            sim.after(0, Task::Start(id));
        }
        sim.after(raft_watch::EVERY, Task::Watch);
        sim
    }

    /// Faults for a while, then none.
    fn live(&mut self) {
        self.after(0, Task::Client);
        self.after(0, Task::Reader);
        self.after(100 * MS, Task::Faults);
        let events_max = self.plan.events.unwrap_or(u64::MAX);
        while self.now < CHAOS && self.events < events_max && self.step() {}
        self.heal();
        let healed_by = self.now + HEAL_MAX;
        let fresh = (self.commands, self.reads_served);
        while !self.healed(fresh) {
            assert!(self.now < healed_by, "the group does not heal:\n{}", self.describe());
            assert!(self.step(), "nothing is left to happen:\n{}", self.describe());
        }
        self.rest();
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

    /// When a node's own clock reaches `at`, and it is not stopped.
    fn due(&self, id: NodeId, at: Now) -> Now {
        let trouble = &self.trouble[&id];
        (at * 1000).div_ceil(trouble.rate).max(trouble.paused_until)
    }

    /// The next task or timer, whichever is due first.
    fn step(&mut self) -> bool {
        self.events += 1;
        EVENTS.set(self.events);
        let deadline = |id: &NodeId| {
            if self.world.in_turn(*id) {
                return None;
            }
            let at = self.world.host(*id).raft.as_ref()?.deadline()?;
            Some((self.due(*id, at), *id))
        };
        let timer = self.world.ids().iter().filter_map(deadline).min();
        let task = self.tasks.keys().next().copied();
        match (timer, task) {
            (None, None) => return false,
            (Some((at, id)), task) if task.is_none_or(|(due, _)| at < due) => {
                self.advance(at);
                (self.now, 0u8, id).hash(&mut self.trace);
                self.begin_turn(id);
                self.world.call(id, |raft, now| raft.tick(now));
            }
            (_, Some(key)) => {
                let task = self.tasks.remove(&key).expect("the key was just read");
                self.advance(key.0);
                (self.now, key.1).hash(&mut self.trace);
                let paused = task.at().map_or(0, |id| self.trouble[&id].paused_until);
                if paused > self.now {
                    self.after(paused - self.now, task);
                } else {
                    self.perform(task);
                }
            }
            (Some(_), None) => unreachable!("a timer without a task is taken above"),
        }
        self.collect();
        true
    }

    fn advance(&mut self, at: Now) {
        self.at_once = if at > self.now { 0 } else { self.at_once + 1 };
        assert!(self.at_once < AT_ONCE_MAX, "time stands still:\n{}", self.describe());
        self.now = self.now.max(at);
        for (id, trouble) in &self.trouble {
            self.world.host_mut(*id).now = self.now * trouble.rate / 1000;
        }
    }

    /// Some of the time what happens to a node from now on is one turn of its host.
    fn begin_turn(&mut self, id: NodeId) {
        if self.turns.chance(self.turns_percent) && self.world.begin_turn(id) {
            let longest = self.turns.pick(&[MS / 10, MS, 20 * MS]);
            let delay = self.turns.below(longest);
            self.once(delay, Once::EndTurn(id), Task::EndTurn(id));
        }
    }

    fn perform(&mut self, task: Task) {
        if self.turns_percent > 0 && !matches!(task, Task::EndTurn(_)) {
            let any = self.turns.pick(&self.world.ids());
            self.begin_turn(task.at().unwrap_or(any));
        }
        match task {
            Task::Deliver(from, to, message) => {
                if !self.cuts.lose(from, to) {
                    self.world.deliver(from, to, message).expect("a correct peer is not refused");
                }
            }
            Task::Sync(id, epoch) => self.sync(id, epoch),
            Task::Pull(id, peer) => {
                self.scheduled.remove(&Once::Pull(id, peer));
                let room = 200 + self.network.below(4000);
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
            Task::Chunk(chunk) => {
                let corrupt = self.network.chance(self.rates.loss_percent);
                self.world.chunk(chunk, corrupt);
            }
            Task::Installed(id, epoch) => {
                self.scheduled.remove(&Once::Installed(id));
                if self.world.host(id).epoch == epoch {
                    self.world.installed(id);
                }
            }
            Task::EndTurn(id) => {
                self.scheduled.remove(&Once::EndTurn(id));
                self.world.end_turn(id);
            }
            Task::Client => self.propose(),
            Task::Reader => self.read(),
            Task::Faults => self.strike_all(),
            Task::Watch => self.watch(),
            Task::Start(id) => {
                if self.world.host(id).raft.is_none() {
                    let seed = self.seeds.below(u64::MAX);
                    self.world.start(id, seed);
                }
            }
        }
    }

    fn sync(&mut self, id: NodeId, epoch: u64) {
        self.scheduled.remove(&Once::Sync(id));
        let host = self.world.host(id);
        if host.epoch != epoch || host.raft.is_none() {
            return;
        }
        let trouble = self.trouble.get_mut(&id).expect("a node of this world");
        if trouble.stalled_until > self.now {
            let delay = trouble.stalled_until - self.now;
            return self.once(delay, Once::Sync(id), Task::Sync(id, epoch));
        }
        if std::mem::take(&mut trouble.disk_fails) {
            return self.stop(id, Fault::FailedDisk);
        }
        let count = 1 + self.disks.below(4) as usize;
        self.world.sync(id, count);
    }

    /// Schedules what the nodes owe.
    fn collect(&mut self) {
        for (id, event) in std::mem::take(&mut self.world.events) {
            match event {
                Event::Sent(envelope) => self.transmit(id, envelope.to, envelope.message),
                Event::Role { .. } => self.roles += 1,
                Event::Read(..) => self.reads_served += 1,
                Event::ReadFailed(_) | Event::Fetch(_) => {}
                Event::Chunk(chunk) => self.transmit_chunk(id, chunk),
                Event::Compact(_) => self.compactions += 1,
                Event::Installed(_) => self.installs += 1,
                Event::Conf(_) | Event::Removed(_) | Event::Snap(_) => {}
                Event::Write(_) | Event::Synced(_) | Event::Applied(_) => {}
            }
        }
        for id in self.world.ids() {
            let host = self.world.host(id);
            let epoch = host.epoch;
            let (unsynced, fetch) = (host.disk.unsynced() > 0, !host.fetches.is_empty());
            let (applied, installing) = (host.unreported.is_some(), host.installing.is_some());
            let peers: Vec<NodeId> = host.appendable.iter().copied().collect();
            if unsynced {
                let slow = if self.trouble[&id].slow { 10 } else { 1 };
                let delay = 1 + self.disks.below(self.rates.sync * slow);
                self.once(delay, Once::Sync(id), Task::Sync(id, epoch));
            }
            if fetch {
                let delay = 1 + self.disks.below(5 * MS);
                self.once(delay, Once::Fetch(id), Task::Fetch(id, epoch));
            }
            if applied {
                let delay = 1 + self.disks.below(5 * MS);
                self.once(delay, Once::Applied(id), Task::Applied(id));
            }
            if installing {
                let delay = 1 + self.disks.below(50 * MS);
                self.once(delay, Once::Installed(id), Task::Installed(id, epoch));
            }
            for peer in peers {
                let delay = 1 + self.network.below(2 * MS);
                self.once(delay, Once::Pull(id, peer), Task::Pull(id, peer));
            }
        }
    }

    fn transmit(&mut self, from: NodeId, to: NodeId, message: Message) {
        self.sent += 1;
        if self.cuts.lose(from, to) || self.network.chance(self.rates.loss_percent) {
            return;
        }
        let clogged =
            self.clogged.get(&(from, to)).map_or(0, |until| until.saturating_sub(self.now));
        let copies = if self.network.chance(self.rates.twice_percent) { 2 } else { 1 };
        for _ in 0..copies {
            let delay = 1 + self.network.below(self.rates.delay);
            self.after(clogged + delay, Task::Deliver(from, to, message.clone()));
        }
    }

    /// Pieces of snapshots have a connection of their own: no new link for messages ends it.
    fn transmit_chunk(&mut self, from: NodeId, chunk: Chunk) {
        if self.cuts.lose(from, chunk.to) || self.network.chance(self.rates.loss_percent) {
            return;
        }
        let copies = if self.network.chance(self.rates.twice_percent) { 2 } else { 1 };
        for _ in 0..copies {
            let delay = 1 + self.network.below(self.rates.delay);
            self.after(delay, Task::Chunk(chunk.clone()));
        }
    }

    /// A client offers a few commands to whoever may lead, mostly.
    fn propose(&mut self) {
        if self.healing {
            self.bring_back_all();
        }
        // While the group heals there are pauses, in which all replicas can become equal.
        let delay = if self.healing { 500 * MS } else { 1 + self.clients.below(40 * MS) };
        self.after(delay, Task::Client);
        let any = self.clients.pick(&self.world.ids());
        let to = if self.clients.chance(90) { self.world.leader().unwrap_or(any) } else { any };
        let mut commands = Vec::new();
        for _ in 0..=self.clients.below(3) {
            self.commands += 1;
            let size = if self.clients.chance(5) { 1500 } else { self.clients.below(60) };
            let text = format!("{}:{}", self.commands, "x".repeat(size as usize));
            commands.push(Bytes::from(text));
        }
        if self.trouble[&to].paused_until <= self.now {
            self.world.propose(to, commands);
        }
    }

    /// A healed group has all nodes as voters again, whoever was left out before.
    fn bring_back_all(&mut self) {
        let change = ConfChange { voters: self.world.ids(), ..ConfChange::default() };
        if let Some(leader) = self.world.leader() {
            let _refused = self.world.call(leader, |raft, now| raft.change_conf(now, &change));
        }
    }

    /// Some reads, at any node, some by the lease. The world checks that none misses what was
    /// committed when it came.
    fn read(&mut self) {
        let delay = if self.healing { 300 * MS } else { 1 + self.clients.below(60 * MS) };
        self.after(delay, Task::Reader);
        let any = self.clients.pick(&self.world.ids());
        // Often one that leads, or still believes so.
        let leaders = self.world.leaders();
        let at = match self.clients.chance(60) && !leaders.is_empty() {
            true => self.clients.pick(&leaders),
            false => any,
        };
        for _ in 0..=self.clients.below(3) {
            let mode = self.clients.pick(&[ReadMode::Index, ReadMode::Lease]);
            self.reads += 1;
            if self.trouble[&at].paused_until <= self.now {
                self.world.read(at, ReadId(self.reads), mode);
            }
        }
    }

    fn watch(&mut self) {
        self.after(raft_watch::EVERY, Task::Watch);
        let Sim { now, cuts, clogged, trouble, .. } = self;
        let awake = |id: NodeId| trouble[&id].paused_until <= *now;
        let hears = |to, from| {
            let clogged = clogged.get(&(from, to)).is_some_and(|until| until > now);
            !cuts.lose(from, to) && !clogged && awake(from)
        };
        let stuck = |id: NodeId| trouble[&id].stalled_until > *now;
        self.watch.look(&mut self.world, *now, awake, hears, stuck);
    }

    fn strike_all(&mut self) {
        self.after(100 * MS, Task::Faults);
        for fault in self.plan.faults.clone() {
            let mut random = self.strikes.remove(&fault).expect("one stream for each fault");
            // Checkpoints are no fault by themselves: they are taken often.
            let percent = match fault {
                Fault::Checkpoint => 40,
                _ => self.rates.strike_percent,
            };
            if random.chance(percent) {
                self.strike(fault, &mut random);
            }
            self.strikes.insert(fault, random);
        }
    }

    fn strike(&mut self, fault: Fault, random: &mut Random) {
        let ids = self.world.ids();
        let (one, other) = (random.pick(&ids), random.pick(&ids));
        let until = self.now + random.below(2000 * MS);
        let trouble = self.trouble.get_mut(&one).expect("a node of this world");
        match fault {
            Fault::Loss | Fault::Twice | Fault::Delay | Fault::SlowDisk | Fault::Drift => {}
            Fault::Pause => trouble.paused_until = until,
            Fault::StalledDisk => trouble.stalled_until = until,
            Fault::FailedDisk => trouble.disk_fails = true,
            Fault::Clog => {
                self.clogged.insert((one, other), until);
            }
            Fault::Crash | Fault::PowerLoss => self.stop(one, fault),
            Fault::OneWay if one != other => self.cuts.one_way(one, other),
            Fault::NewLink if one != other => self.new_link(one, other),
            Fault::OneWay | Fault::NewLink => {}
            Fault::Isolate => {
                self.cuts.isolate(one, &ids);
                if one != other && random.chance(50) {
                    self.watch.lost(&mut self.world, other, one, false);
                }
            }
            Fault::Bridge => self.cuts.bridge(one, &ids),
            Fault::Membership => {
                let from = self.world.leader().unwrap_or(other);
                let mut change = ConfChange::default();
                for id in ids {
                    match random.below(4) {
                        0 => {}
                        1 => change.learners.push(id),
                        _ => change.voters.push(id),
                    }
                }
                let _refused = self.world.call(from, |raft, now| raft.change_conf(now, &change));
            }
            Fault::Checkpoint => {
                for id in ids {
                    if random.chance(50) && self.trouble[&id].paused_until <= self.now {
                        self.world.checkpoint(id);
                        if id == one {
                            self.world.call(id, |raft, now| raft.shorten_log(now));
                        }
                    }
                }
            }
            Fault::Transfer => {
                let from = self.world.leader().unwrap_or(other);
                self.world.call(from, |raft, now| raft.transfer(now, one));
            }
        }
        // Cuts last for some strikes, then all of them are mended.
        if matches!(fault, Fault::OneWay | Fault::Isolate | Fault::Bridge) && random.chance(40) {
            self.join_all();
        }
    }

    /// Ends a process. How much of its unsynced writes stays is up to the disks' numbers.
    fn stop(&mut self, id: NodeId, fault: Fault) {
        if self.world.host(id).raft.is_none() {
            return;
        }
        let unsynced = self.world.host(id).disk.unsynced();
        let keep = match fault {
            Fault::Crash => unsynced,
            _ => self.disks.below(unsynced as u64 + 1) as usize,
        };
        self.world.crash(id, keep);
        // Whoever sees its sockets closed knows at once.
        for observer in self.world.ids().into_iter().filter(|observer| *observer != id) {
            if self.disks.chance(50) && self.trouble[&observer].paused_until <= self.now {
                self.watch.lost(&mut self.world, observer, id, true);
            }
        }
        // Some are back before what was sent to them arrives.
        let longest = self.disks.pick(&[10, 1500]) * MS;
        let down = self.disks.below(longest);
        self.after(down, Task::Start(id));
    }

    /// A new link: what was on the old one is gone, both ways.
    fn new_link(&mut self, one: NodeId, other: NodeId) {
        let pair = |from, to| (from == one && to == other) || (from == other && to == one);
        self.tasks.retain(|_, task| match task {
            Task::Deliver(from, to, _) => !pair(*from, *to),
            _ => true,
        });
        self.world.connect(one, other);
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
        self.tasks.retain(|_, task| !matches!(task, Task::Faults));
        self.rates =
            Rates { loss_percent: 0, twice_percent: 0, delay: 2 * MS, sync: MS, strike_percent: 0 };
        self.healing = true;
        self.clogged.clear();
        for trouble in self.trouble.values_mut() {
            *trouble = Trouble { rate: trouble.rate, ..Trouble::default() };
        }
        self.join_all();
        for id in self.world.ids() {
            self.perform(Task::Start(id));
        }
        self.collect();
    }

    /// One leader, every node has applied all that is committed, something fresh is among it, and
    /// reads are served.
    fn healed(&self, (commands, reads_served): (u64, u64)) -> bool {
        let Some(leader) = self.world.leader() else { return false };
        let Some(raft) = &self.world.host(leader).raft else { return false };
        let status = raft.status();
        let same = |id: &NodeId| {
            let Some(raft) = &self.world.host(*id).raft else { return false };
            let other = raft.status();
            let role = *id == leader || other.role == Role::Follower;
            role && other.leader == Some(leader)
                && other.conf == Conf::of_voters(self.world.ids())
                && other.commit == status.commit
                && other.applied == status.commit
                && other.last == status.last
                && self.world.state(*id) == self.world.state(leader)
        };
        let Some(log) = self.world.log(leader).get(..status.commit.0 as usize) else {
            return false; // a turn is under way
        };
        let fresh = log.iter().rev().take(200).any(|entry| {
            let payload = entry.payload();
            let number = payload.split(|byte| *byte == b':').next().unwrap_or_default();
            let number = std::str::from_utf8(number).unwrap_or_default().parse::<u64>();
            number.is_ok_and(|number| number > commands)
        });
        fresh && self.reads_served > reads_served && self.world.ids().iter().all(same)
    }

    /// Without proposals a healed group changes nothing and says nothing (R12).
    fn rest(&mut self) {
        self.tasks.retain(|_, task| !matches!(task, Task::Client | Task::Reader));
        let (settled, until) = (self.now + SETTLE, self.now + SETTLE + REST);
        while self.now < settled && self.step() {}
        let (sent, roles) = (self.sent, self.roles);
        while self.now < until && self.step() {}
        let sent = self.sent - sent;
        assert_eq!(self.roles, roles, "a resting group elects:\n{}", self.describe());
        assert!(sent == 0, "a resting group sends {sent} messages:\n{}", self.describe());
    }

    fn describe(&self) -> String {
        let mut text = format!("at {} ms\n", self.now / MS);
        for id in self.world.ids() {
            let host = self.world.host(id);
            let status = host.raft.as_ref().map(|raft| raft.status());
            let deadline = host.raft.as_ref().and_then(|raft| raft.deadline());
            let unsynced = host.disk.unsynced();
            text += &format!("n{id} at {} due {deadline:?} {unsynced} {status:?}\n", host.now);
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
            steps: self.events,
            committed: self.world.committed(),
            compactions: self.compactions,
            installs: self.installs,
        }
    }
}

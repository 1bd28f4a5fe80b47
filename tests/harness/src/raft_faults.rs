//! What may go wrong in a run of the simulator, and the mix of it that a seed draws.

use raft_core::types::NodeId;
use std::collections::BTreeSet;

/// One kind of fault. Each draws from its own stream of numbers, so that a run without one of them
/// is otherwise much like the run with it: that is what lets a failing run shrink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// Messages are lost.
    Loss,
    /// Messages arrive twice.
    Twice,
    /// Messages are late, and so overtake each other.
    Delay,
    /// A link holds back all it carries for a while.
    Clog,
    /// One direction between two nodes is cut.
    OneWay,
    /// One node is cut off from all others.
    Isolate,
    /// Two halves see each other through one node only.
    Bridge,
    /// A process ends; what it wrote stays.
    Crash,
    /// A machine loses power: any prefix of the unsynced writes stays.
    PowerLoss,
    /// The disk of one node is always slow.
    SlowDisk,
    /// A disk does nothing for a while.
    StalledDisk,
    /// A sync fails: the process ends, and starts again from what its disk has.
    FailedDisk,
    /// Clocks run at different rates.
    Drift,
    /// A process is stopped for a while, and does not notice.
    Pause,
    /// A link breaks and stands again: what was on it is lost.
    NewLink,
    /// Leadership is handed on. No fault, but at a bad moment.
    Transfer,
    /// The group gets other members.
    Membership,
    /// Nodes take checkpoints and drop the log behind them; chunks of snapshots are corrupt.
    Checkpoint,
}

/// Every kind, with the name that a replay gives it.
pub const FAULTS: [(Fault, &str); 18] = [
    (Fault::Loss, "loss"),
    (Fault::Twice, "twice"),
    (Fault::Delay, "delay"),
    (Fault::Clog, "clog"),
    (Fault::OneWay, "one-way"),
    (Fault::Isolate, "isolate"),
    (Fault::Bridge, "bridge"),
    (Fault::Crash, "crash"),
    (Fault::PowerLoss, "power-loss"),
    (Fault::SlowDisk, "slow-disk"),
    (Fault::StalledDisk, "stalled-disk"),
    (Fault::FailedDisk, "failed-disk"),
    (Fault::Drift, "drift"),
    (Fault::Pause, "pause"),
    (Fault::NewLink, "new-link"),
    (Fault::Transfer, "transfer"),
    (Fault::Membership, "membership"),
    (Fault::Checkpoint, "checkpoint"),
];

/// A generator of numbers for tests (PCG's multiplier and increment), or bytes that somebody chose, of which
/// each number takes as few as it needs.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
    chosen: std::vec::IntoIter<u8>,
}

impl Random {
    /// The stream of this name under a seed: streams do not disturb each other.
    pub fn new(seed: u64, stream: u64) -> Random {
        let state = seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut random = Random { state, chosen: Vec::new().into_iter() };
        for _ in 0..4 {
            random.below(2);
        }
        random
    }

    /// These, and numbers of a stream when they are used up.
    pub fn chosen(bytes: &[u8]) -> Random {
        Random { chosen: Vec::from(bytes).into_iter(), ..Random::new(0, 0) }
    }

    /// Whether some of the chosen bytes are left.
    pub fn has_chosen(&self) -> bool {
        self.chosen.len() > 0
    }

    /// A number below `below`; 0 below 0.
    pub fn below(&mut self, below: u64) -> u64 {
        if self.has_chosen() {
            let bytes = (64 - below.saturating_sub(1).leading_zeros()).div_ceil(8) as usize;
            let number =
                self.chosen.by_ref().take(bytes).fold(0, |n, byte| n << 8 | u64::from(byte));
            return number % below.max(1);
        }
        let state = self.state.wrapping_mul(6_364_136_223_846_793_005);
        self.state = state.wrapping_add(1_442_695_040_888_963_407);
        let mixed = (self.state ^ (self.state >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed >> 20) % below.max(1)
    }

    /// Whether something of this likelihood happens.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of them.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// What is run: everything else follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Draws all there is to draw.
    pub seed: u64,
    /// What may go wrong.
    pub faults: BTreeSet<Fault>,
    /// Events after which faults end, if that is before their time is over.
    pub events: Option<u64>,
}

impl Plan {
    /// The plan of a seed: a third of them have every fault, the others only some. A fault that is
    /// always there hides what only happens without it (swarm testing, Groce and others 2012).
    pub fn new(seed: u64) -> Plan {
        let mut random = Random::new(seed, 1);
        let percent = [100, 100, 60, 40, 25, 15][random.below(6) as usize];
        let drawn = FAULTS.iter().filter(|_| random.chance(percent));
        Plan { seed, faults: drawn.map(|(fault, _)| *fault).collect(), events: None }
    }

    /// The plan that a replay names; what is not named follows from the seed.
    ///
    /// # Errors
    /// If a fault has no such name, or the number of events is none.
    pub fn parse(seed: u64, faults: Option<&str>, events: Option<&str>) -> Result<Plan, String> {
        let mut plan = Plan::new(seed);
        if let Some(names) = faults {
            plan.faults.clear();
            for name in names.split(',').filter(|name| !name.is_empty() && *name != "none") {
                let known = FAULTS.iter().find(|(_, known)| *known == name);
                plan.faults.insert(known.ok_or_else(|| format!("no fault is called {name}"))?.0);
            }
        }
        if let Some(text) = events {
            plan.events = Some(text.parse().map_err(|_| format!("{text} is no count of events"))?);
        }
        Ok(plan)
    }

    /// The line that runs it again.
    pub fn replay(&self) -> String {
        let names: Vec<&str> =
            FAULTS.iter().filter(|(f, _)| self.faults.contains(f)).map(|(_, name)| *name).collect();
        let names = if names.is_empty() { "none".to_string() } else { names.join(",") };
        let events = self.events.map(|events| format!(" EVENTS={events}")).unwrap_or_default();
        format!("make sim SEED={} FAULTS={names}{events}", self.seed)
    }

    /// Whether this may go wrong.
    pub fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }
}

/// Who cannot hear whom, one direction each.
#[derive(Clone, Debug, Default)]
pub struct Cuts(BTreeSet<(NodeId, NodeId)>);

impl Cuts {
    /// Whether what `from` says is lost on its way to `to`.
    pub fn lose(&self, from: NodeId, to: NodeId) -> bool {
        self.0.contains(&(from, to))
    }

    /// Cuts one direction.
    pub fn one_way(&mut self, from: NodeId, to: NodeId) {
        self.0.insert((from, to));
    }

    /// Cuts `node` off from all others.
    pub fn isolate(&mut self, node: NodeId, all: &[NodeId]) {
        self.0.extend(all.iter().flat_map(|peer| [(node, *peer), (*peer, node)]));
    }

    /// Leaves `bridge` as the only node that both halves see.
    pub fn bridge(&mut self, bridge: NodeId, all: &[NodeId]) {
        let others: Vec<NodeId> = all.iter().copied().filter(|id| *id != bridge).collect();
        let (left, right) = others.split_at(others.len() / 2);
        for one in left {
            self.0.extend(right.iter().flat_map(|other| [(*one, *other), (*other, *one)]));
        }
    }

    /// Mends everything.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

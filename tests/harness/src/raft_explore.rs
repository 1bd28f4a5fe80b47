//! Every schedule of a small group: real cores, each write made durable as a step of its own, and a
//! network that may lose, double and delay whatever was ever sent.
//!
//! A search over copies of the [`World`], which checks each step; a state that was seen is not
//! entered again. Time is not counted but fires: any timer may run out at any moment, and whoever is
//! asked for a vote has not heard its leader for long. That allows more than clocks would.

use crate::raft_disk::Chunk;
use crate::raft_faults::Random;
use crate::raft_shrink::caught;
use crate::raft_world::{Event, World, hash_of_message};
use bytes::Bytes;
use raft_core::Config;
use raft_core::effects::{ReadMode, Role};
use raft_core::message::Message;
use raft_core::types::{GroupId, NodeId, Now, ReadId, Term};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

/// Steps of a random way.
const WALK_STEPS_MAX: usize = 60;
/// No clock of a search gets here between two timers.
const EVER: Now = 1 << 40;

/// How far a search goes.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// Nodes, all of them voters.
    pub nodes: u64,
    /// Whether it begins with n1 leading term 1 and nothing on its way, or with empty nodes.
    pub led: bool,
    /// The highest term that anybody campaigns in.
    pub term_max: Term,
    /// Commands proposed.
    pub proposals_max: u8,
    /// Crashes of each node, which keep any prefix of its unsynced writes.
    pub crashes_max: u8,
    /// Crashes of all nodes together.
    pub crashes_of_all_max: u8,
    /// Reads asked, at any node.
    pub reads_max: u8,
    /// Transfers of leadership begun.
    pub transfers_max: u8,
    /// Checkpoints taken, at any node; the log goes behind each at once. If there are to be some, the
    /// search begins where the last node lacks what the first one has compacted.
    pub checkpoints_max: u8,
    /// Whether a leader may step down for want of answers.
    pub step_down: bool,
    /// The search ends here, complete or not.
    pub states_max: usize,
    /// Depth first needs little memory; breadth first finds the shortest way to a fault.
    pub depth_first: bool,
    /// Instead: random ways of this seed.
    pub walks: Option<u64>,
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The node's timer runs out, and it asks the other one for a pre-vote, which arrives, as does
    /// the answer. With more than three nodes all of them are asked.
    Campaign(NodeId, NodeId),
    /// A leader that heard nobody steps down.
    StepDown(NodeId),
    /// A message arrives; it may arrive again.
    Deliver(u64),
    /// The oldest write becomes durable.
    Sync(NodeId),
    /// A leader's link to a peer takes what there is.
    Pull(NodeId, NodeId),
    /// A command is proposed.
    Propose(NodeId),
    /// A read index is asked for.
    Read(NodeId),
    /// A leader is told to hand over to the other one.
    Transfer(NodeId, NodeId),
    /// A durable checkpoint of what is applied.
    Checkpoint(NodeId),
    /// A piece of a snapshot arrives; it may arrive again.
    Chunk(u64),
    /// The state machine takes over a snapshot that is durable.
    Installed(NodeId),
    /// Power is lost and comes back; so many unsynced writes stay.
    PowerLoss(NodeId, usize),
}

/// What a search saw.
#[derive(Clone, Copy, Debug)]
pub struct Explored {
    /// Different states.
    pub states: usize,
    /// Steps taken, also into known states.
    pub steps: usize,
    /// The longest way from the start, in steps.
    pub depth: usize,
    /// Whether the scope was exhausted.
    pub complete: bool,
}

/// A way to a broken rule.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What was said of it.
    pub said: String,
    /// The steps from the start, told.
    pub steps: Vec<String>,
    /// States seen until then.
    pub states: usize,
}

type Wire = BTreeMap<u64, (NodeId, NodeId, Rc<Message>)>;
/// Pieces of snapshots that were ever sent.
type Chunks = BTreeMap<u64, Chunk>;

#[derive(Clone)]
struct State {
    world: World,
    wire: Rc<Wire>,
    chunks: Rc<Chunks>,
    crashes: Rc<BTreeMap<NodeId, u8>>,
    proposals: u8,
    reads: u8,
    transfers: u8,
    checkpoints: u8,
    /// Its place in the list of steps.
    step: usize,
    depth: usize,
}

fn config(id: NodeId, ids: &[NodeId]) -> Config {
    let mut config = Config::new(id, GroupId(1), ids.to_vec());
    // Each action lets two nanoseconds pass: heartbeats are always due, no leader is fresh.
    config.heartbeat_ns = 1;
    config.election_timeout_ns_min = 2;
    config.election_timeout_ns_max = EVER;
    // Nobody holds a log that a checkpoint covers.
    config.log_trailing_bytes = 0;
    config.log_bytes_max = 1;
    config.missed_ns = 0;
    config
}

/// Where a depth-first search turns back. Its ways would go on for ever, with larger stamps, and each
/// step costs more than the one before, since whatever was sent stays on the wire.
const DEPTH_MAX: usize = 60;

/// Searches the scope.
///
/// # Errors
/// With the first way found to a broken rule.
pub fn explore(scope: &Scope) -> Result<Explored, Fault> {
    let start = caught(|| State::start(scope));
    let start = start.map_err(|said| Fault { said, steps: Vec::new(), states: 0 })?;
    let mut search = Search { scope: *scope, start, seen: HashSet::new(), steps: Vec::new() };
    search.run()
}

/// The actions from the start to step `at`, and one more. Each step names the one before it.
pub(crate) fn way<A: Copy>(steps: &[(usize, A)], mut at: usize, last: A) -> Vec<A> {
    let mut actions = vec![last];
    while at > 0 {
        let (before, action) = steps[at - 1];
        actions.push(action);
        at = before;
    }
    actions.reverse();
    actions
}

struct Search {
    scope: Scope,
    start: State,
    seen: HashSet<u64>,
    /// Each step that led to a new state, with the one before it.
    steps: Vec<(usize, Action)>,
}

impl Search {
    fn run(&mut self) -> Result<Explored, Fault> {
        if let Some(seed) = self.scope.walks {
            return self.walk(seed);
        }
        let mut open = VecDeque::from([self.start.clone()]);
        let (mut taken, mut depth) = (0, 0);
        while let Some(state) =
            if self.scope.depth_first { open.pop_back() } else { open.pop_front() }
        {
            if self.seen.len() >= self.scope.states_max {
                open.push_back(state);
                break;
            }
            depth = depth.max(state.depth);
            if self.scope.depth_first && state.depth >= DEPTH_MAX {
                continue;
            }
            for action in state.actions(&self.scope) {
                taken += 1;
                let mut next = state.clone();
                match caught(|| next.perform(action)) {
                    Err(said) => return Err(self.fault(said, state.step, action)),
                    Ok(false) => continue,
                    Ok(true) => {}
                }
                if self.seen.insert(next.key()) {
                    self.steps.push((state.step, action));
                    next.step = self.steps.len();
                    next.depth += 1;
                    open.push_back(next);
                }
            }
        }
        Ok(Explored { states: self.seen.len(), steps: taken, depth, complete: open.is_empty() })
    }

    /// Random ways through the scope, each until nothing more can happen or it is long enough.
    fn walk(&mut self, seed: u64) -> Result<Explored, Fault> {
        let mut random = Random::new(seed, 7);
        let start = self.start.clone();
        let (mut taken, mut depth) = (0, 0);
        while self.seen.len() < self.scope.states_max {
            let mut state = start.clone();
            self.steps.clear();
            for step in 0..WALK_STEPS_MAX {
                let actions = state.actions(&self.scope);
                if actions.is_empty() {
                    break;
                }
                // Half of the steps are local, however much is on the wire.
                let arrives = |a: &Action| matches!(a, Action::Deliver(_) | Action::Chunk(_));
                let local = actions.partition_point(arrives);
                let among = match random.chance(50) && local < actions.len() {
                    true => &actions[local..],
                    false => &actions[..],
                };
                let action = random.pick(among);
                let before = state.clone();
                taken += 1;
                match caught(|| state.perform(action)) {
                    Err(said) => return Err(self.fault(said, self.steps.len(), action)),
                    Ok(false) => state = before,
                    Ok(true) => self.steps.push((self.steps.len(), action)),
                }
                self.seen.insert(state.key());
                depth = depth.max(step + 1);
            }
        }
        Ok(Explored { states: self.seen.len(), steps: taken, depth, complete: false })
    }

    /// Tells the way to a fault by going it once more.
    fn fault(&self, said: String, at: usize, last: Action) -> Fault {
        let mut state = self.start.clone();
        let mut steps = Vec::new();
        for action in way(&self.steps, at, last) {
            steps.push(state.tell(action));
            // The last one fails again, and was told.
            caught(|| state.perform(action)).ok();
        }
        Fault { said, steps, states: self.seen.len() }
    }
}

impl State {
    fn start(scope: &Scope) -> State {
        let ids: Vec<NodeId> = (1..=scope.nodes).map(NodeId).collect();
        let mut world = World::new(ids.iter().map(|id| config(*id, &ids)).collect());
        ids.iter().for_each(|id| world.start(*id, id.0));
        world.snapshot_bytes_max = 1;
        let mut state = State {
            world,
            wire: Rc::default(),
            chunks: Rc::default(),
            crashes: Rc::default(),
            proposals: 0,
            reads: 0,
            transfers: 0,
            checkpoints: 0,
            step: 0,
            depth: 0,
        };
        state.collect();
        if scope.led {
            state.perform(Action::Campaign(NodeId(1), NodeId(2)));
            for _ in 0..12 {
                let syncs = ids.iter().map(|id| Action::Sync(*id));
                let arrivals = state.wire.keys().map(|hash| Action::Deliver(*hash));
                let pulls = ids[1..].iter().map(|id| Action::Pull(NodeId(1), *id));
                for action in syncs.chain(arrivals).chain(pulls).collect::<Vec<_>>() {
                    state.perform(action);
                }
            }
            let followers = ids.iter().all(|id| state.world.host(*id).disk.len().0 == 1);
            assert!(followers && state.world.leader() == Some(NodeId(1)), "n1 leads at the start");
            state.wire = Rc::default();
        }
        if scope.checkpoints_max > 0 {
            state.leave_behind(&ids);
        }
        state
    }

    /// n1 and n2 commit an entry without the others, and n1 drops its log up to it.
    fn leave_behind(&mut self, ids: &[NodeId]) {
        let [one, two, ..] = ids else { panic!("two nodes at least") };
        self.perform(Action::Propose(*one));
        for _ in 0..3 {
            self.perform(Action::Pull(*one, *two));
            self.perform(Action::Sync(*one));
            for action in self.wire.keys().map(|hash| Action::Deliver(*hash)).collect::<Vec<_>>() {
                self.perform(action);
            }
            self.perform(Action::Sync(*two));
        }
        self.perform(Action::Checkpoint(*one));
        let status = self.world.host(*one).raft.as_ref().map(|raft| raft.status());
        assert!(status.is_some_and(|status| status.base.index.0 == 2), "n1 has compacted");
        self.wire = Rc::default();
        (self.proposals, self.checkpoints) = (0, 0);
    }

    fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.world.hash_into(&mut hasher);
        self.wire.keys().for_each(|hash| hash.hash(&mut hasher));
        self.chunks.keys().for_each(|hash| hash.hash(&mut hasher));
        (&self.crashes, self.proposals, self.reads, self.transfers).hash(&mut hasher);
        self.checkpoints.hash(&mut hasher);
        hasher.finish()
    }

    fn role(&self, id: NodeId) -> Option<(Role, Term)> {
        let status = self.world.host(id).raft.as_ref()?.status();
        Some((status.role, status.hard.term))
    }

    /// All that may happen next.
    fn actions(&self, scope: &Scope) -> Vec<Action> {
        let ids = self.world.ids();
        let mut actions: Vec<Action> =
            self.wire.keys().map(|hash| Action::Deliver(*hash)).collect();
        let wanted = |chunk: &Chunk| self.world.wants(chunk);
        let wanted = self.chunks.iter().filter(|(_, chunk)| wanted(chunk));
        actions.extend(wanted.map(|(hash, _)| Action::Chunk(*hash)));
        let crashes: u8 = self.crashes.values().sum();
        for id in &ids {
            let Some((role, term)) = self.role(*id) else { continue };
            if self.reads < scope.reads_max {
                actions.push(Action::Read(*id));
            }
            if self.world.host(*id).installing.is_some() {
                actions.push(Action::Installed(*id));
            }
            if self.checkpoints < scope.checkpoints_max {
                actions.push(Action::Checkpoint(*id));
            }
            let others = ids.iter().copied().filter(|other| other != id);
            let unsynced = self.world.host(*id).disk.unsynced();
            if unsynced > 0 {
                actions.push(Action::Sync(*id));
            }
            let may = self.crashes.get(id).is_none_or(|count| *count < scope.crashes_max);
            // A follower without unsynced writes forgets nothing that matters.
            let forgets = unsynced > 0 || role != Role::Follower;
            if may && forgets && crashes < scope.crashes_of_all_max {
                actions.extend((0..=unsynced).map(|keep| Action::PowerLoss(*id, keep)));
            }
            if role == Role::Leader {
                actions.extend(others.clone().map(|peer| Action::Pull(*id, peer)));
                if self.transfers < scope.transfers_max {
                    actions.extend(others.map(|peer| Action::Transfer(*id, peer)));
                }
                if scope.step_down {
                    actions.push(Action::StepDown(*id));
                }
                if self.proposals < scope.proposals_max {
                    actions.push(Action::Propose(*id));
                }
            } else if term < scope.term_max {
                // Empty nodes are all alike: it does not matter which one begins.
                let alike = term == Term(0) && (*id > NodeId(1) && self.wire.is_empty());
                if !alike {
                    actions.extend(others.map(|helper| Action::Campaign(*id, helper)));
                }
            }
        }
        actions
    }

    /// Whether the action could be done.
    fn perform(&mut self, action: Action) -> bool {
        let done = match action {
            Action::Deliver(hash) => self.deliver(hash),
            Action::Sync(id) => {
                self.pass(id, 2);
                self.world.sync(id, 1);
                true
            }
            Action::Pull(id, peer) => {
                self.pass(id, 2);
                self.world.pull(id, peer, 1 << 20)
            }
            Action::Propose(id) => {
                self.pass(id, 2);
                self.proposals += 1;
                let command = Bytes::from(vec![b'a' + self.proposals; 1]);
                let took = self.world.propose(id, vec![command]);
                took.is_some_and(|took| took.count == 1)
            }
            Action::Read(id) => {
                self.pass(id, 2);
                self.reads += 1;
                let read = ReadId(u64::from(self.reads));
                matches!(self.world.read(id, read, ReadMode::Index), Some(Ok(())))
            }
            Action::Transfer(id, to) => {
                self.pass(id, 2);
                self.transfers += 1;
                matches!(self.world.call(id, |raft, now| raft.transfer(now, to)), Some(Ok(())))
            }
            Action::Checkpoint(id) => {
                self.pass(id, 2);
                self.checkpoints += 1;
                self.world.checkpoint(id)
            }
            Action::Chunk(hash) => {
                let chunk = self.chunks.get(&hash).cloned();
                chunk.map(|chunk| self.world.chunk(chunk, false)).is_some()
            }
            Action::Installed(id) => {
                self.world.installed(id);
                true
            }
            Action::StepDown(id) => {
                self.pass(id, 2 * EVER);
                self.world.call(id, |raft, now| raft.tick(now));
                true
            }
            Action::Campaign(id, helper) => self.campaign(id, helper),
            Action::PowerLoss(id, keep) => {
                *Rc::make_mut(&mut self.crashes).entry(id).or_default() += 1;
                self.world.crash(id, keep);
                self.world.start(id, id.0);
                true
            }
        };
        self.collect();
        done
    }

    fn pass(&mut self, id: NodeId, time: Now) {
        self.world.host_mut(id).now += time;
    }

    fn deliver(&mut self, hash: u64) -> bool {
        let Some((from, to, message)) = self.wire.get(&hash).cloned() else { return false };
        self.pass(to, 2);
        let message = Message::clone(&message);
        self.world.deliver(from, to, message).expect("a correct peer is not refused");
        true
    }

    fn campaign(&mut self, id: NodeId, helper: NodeId) -> bool {
        self.pass(id, 2 * EVER);
        self.world.call(id, |raft, now| raft.tick(now));
        let all = self.world.ids().len() > 3;
        for _ in 0..2 {
            for (from, event) in std::mem::take(&mut self.world.events) {
                let Event::Sent(envelope) = event else { continue };
                let to = envelope.to;
                let pre_vote =
                    matches!(envelope.message, Message::PreVote(_) | Message::PreVoteReply(_));
                if pre_vote && (all || from == helper || to == helper) {
                    self.pass(to, 2);
                    let taken = self.world.deliver(from, to, envelope.message);
                    taken.expect("a correct peer is not refused");
                }
            }
        }
        self.role(id).is_some_and(|(role, _)| role == Role::Candidate || role == Role::Leader)
    }

    /// Whatever was said stays on the wire, and state machines keep up.
    fn collect(&mut self) {
        for id in self.world.ids() {
            while !self.world.host(id).fetches.is_empty()
                || self.world.host(id).unreported.is_some()
            {
                self.world.answer_fetch(id);
                self.world.report_applied(id);
            }
        }
        for (from, event) in std::mem::take(&mut self.world.events) {
            if let Event::Chunk(chunk) = &event {
                let mut hasher = DefaultHasher::new();
                (chunk.to, chunk.bytes, chunk.image.snapshot.id).hash(&mut hasher);
                Rc::make_mut(&mut self.chunks).entry(hasher.finish()).or_insert(chunk.clone());
            }
            let Event::Sent(envelope) = event else { continue };
            let mut message = envelope.message;
            match &mut message {
                // A stamp is a time, and there is none here.
                Message::AppendEntries(m) => m.stamp = 0,
                Message::Confirm(m) => m.stamp = 0,
                Message::InstallSnapshot(m) => m.stamp = 0,
                Message::PreVote(_) | Message::PreVoteReply(_) => continue,
                _ => {}
            }
            let mut hasher = DefaultHasher::new();
            (from, envelope.to, hash_of_message(&message)).hash(&mut hasher);
            let hash = hasher.finish();
            if !self.wire.contains_key(&hash) {
                let place = (from, envelope.to, Rc::new(message));
                Rc::make_mut(&mut self.wire).insert(hash, place);
            }
        }
    }

    fn tell(&self, action: Action) -> String {
        match action {
            Action::Deliver(hash) => match self.wire.get(&hash) {
                Some((from, to, message)) => format!("n{from} -> n{to} {message:?}"),
                None => "nothing arrives".into(),
            },
            other => format!("{other:?}"),
        }
    }
}

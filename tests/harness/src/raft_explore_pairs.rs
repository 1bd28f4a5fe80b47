//! Every short story of faults over node pairs and cores together: what is held back, lost, late or
//! said twice, which processes end, which disks and workers are stuck, who is removed and deleted,
//! and how long passes between two such moves.
//!
//! Between the moves nothing is left to chance: see [`Pairs`]. Each step is checked as it happens;
//! from the states reached, time then goes on, and the group must have a leader where it can, and be
//! whole and quiet once all is mended.

use crate::raft_explore::{Explored, Fault, way};
use crate::raft_faults::Random;
use crate::raft_pairs::{HEARTBEAT, MS, Pairs};
use crate::raft_shrink::caught;
use raft_core::effects::Role;
use raft_core::types::{NodeId, Now, Term};
use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

/// What may pass between two moves: a heartbeat, more than silence, the patience of a leader without a
/// majority on top of that, and more than all of it.
const WAITS: [Now; 4] = [HEARTBEAT, 4 * HEARTBEAT, 8 * HEARTBEAT, 14 * HEARTBEAT];
/// How long a group may take to elect once nothing new happens to it.
const HEAL_MAX: Now = 6_000 * MS;
/// How long it may take to come to rest after that, and is watched then.
const SETTLE: Now = 2_000 * MS;
const REST: Now = 1_000 * MS;
/// What is late by no more than this is no reason for anything: the silence that is, less a heartbeat.
const HELD_MAX: Now = HEARTBEAT;
/// Moves of a random way.
const WALK_MOVES_MAX: usize = 24;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A direction holds back what it carries; that is late then, or lost.
    Hold,
    /// All links between two nodes break, and others take their place.
    NewLink,
    /// A process ends, and may start again. Its peers see it end.
    Kill,
    /// A machine is gone, and may come back. Its peers see nothing.
    Vanish,
    /// A disk finishes nothing for a while.
    Stall,
    /// A worker is stuck for a while.
    Stick,
    /// A frame is kept, and arrives again later.
    Keep,
    /// A replica that is no member any more is deleted.
    Delete,
    /// The group gets other members.
    Change,
    /// Leadership is handed on.
    Transfer,
}

/// How far a search goes.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// Nodes; the first `voters` of them are the group at the start.
    pub nodes: u64,
    /// Voters at the start.
    pub voters: u64,
    /// What may happen.
    pub kinds: &'static [Kind],
    /// How much of it.
    pub faults_max: usize,
    /// What the group may be changed to.
    pub confs: &'static [&'static [u64]],
    /// Nothing of this is a reason for another leader: n1 must lead term 1 all the time.
    pub harmless: bool,
    /// Where there can be a leader, there must be one after so long.
    pub leader_within: Now,
    /// The search ends here, complete or not.
    pub states_max: usize,
    /// One in so many states is followed until the group is whole and at rest.
    pub follow_every: usize,
    /// Instead of a search: random ways of this seed.
    pub walks: Option<u64>,
}

/// The bound that an ordinary election may take, with all that must be noticed first.
pub const LEADER_WITHIN: Now = HEAL_MAX;

/// One move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// So much time passes.
    Wait(Now),
    /// What the first says to the second is held back.
    Hold(NodeId, NodeId),
    /// It arrives, late.
    Late(NodeId, NodeId),
    /// It is lost; the link stands.
    Lost(NodeId, NodeId),
    /// The links between two nodes are replaced.
    NewLink(NodeId, NodeId),
    /// A process ends; `true`: and nobody sees it.
    Kill(NodeId, bool),
    /// A process starts.
    Start(NodeId),
    /// A disk stands still, or goes on.
    Stall(NodeId, bool),
    /// A worker is stuck, or goes on.
    Stick(NodeId, bool),
    /// The newest heartbeat (`true`) or message of a direction is kept.
    Keep(NodeId, NodeId, bool),
    /// A kept frame arrives again.
    Replay(usize),
    /// A removed replica is deleted.
    Delete(NodeId),
    /// The group is changed to this one of the scope's.
    Change(usize),
    /// The leader hands over.
    Transfer(NodeId),
    /// A command is proposed at the leader.
    Propose,
}

#[derive(Clone)]
struct State {
    pairs: Pairs,
    faults: usize,
    proposals: usize,
    replays: usize,
    /// Moves since something but time happened.
    waits: usize,
    /// The term in which the first node leads at the start.
    term: Term,
    /// Since when anything is held back.
    held_since: Option<Now>,
    stalled: Vec<NodeId>,
    stuck: Vec<NodeId>,
    step: usize,
    depth: usize,
}

/// Searches the scope.
///
/// # Errors
/// With the first way found to a broken rule, or to a group that does not come back.
pub fn explore(scope: &Scope) -> Result<Explored, Fault> {
    let start = caught(|| State::start(scope));
    let start = start.map_err(|said| Fault { said, steps: Vec::new(), states: 0 })?;
    let mut search = Search { scope: *scope, start, seen: HashSet::new(), steps: Vec::new() };
    match scope.walks {
        Some(seed) => search.walk(seed),
        None => search.run(),
    }
}

struct Search {
    scope: Scope,
    start: State,
    seen: HashSet<u64>,
    /// Each move that led to a new state, with the one before it.
    steps: Vec<(usize, Move)>,
}

impl Search {
    fn run(&mut self) -> Result<Explored, Fault> {
        let mut open = VecDeque::from([self.start.clone()]);
        let (mut taken, mut depth) = (0, 0);
        while let Some(state) = open.pop_front() {
            if self.seen.len() >= self.scope.states_max {
                open.push_back(state);
                break;
            }
            depth = depth.max(state.depth);
            for action in state.moves(&self.scope) {
                taken += 1;
                let mut next = state.clone();
                let done = caught(|| next.perform(action, &self.scope));
                match done {
                    Err(said) => return Err(self.fault(said, state.step, action)),
                    Ok(false) => continue,
                    Ok(true) => {}
                }
                if self.seen.insert(next.key()) {
                    let follow = self.seen.len().is_multiple_of(self.scope.follow_every);
                    if follow && let Err(said) = caught(|| next.must_end_well(&self.scope)) {
                        return Err(self.fault(said, state.step, action));
                    }
                    self.steps.push((state.step, action));
                    next.step = self.steps.len();
                    next.depth += 1;
                    open.push_back(next);
                }
            }
        }
        Ok(Explored { states: self.seen.len(), steps: taken, depth, complete: open.is_empty() })
    }

    /// Random ways through the scope; each is followed to its end.
    fn walk(&mut self, seed: u64) -> Result<Explored, Fault> {
        let mut random = Random::new(seed, 8);
        let (mut taken, mut depth) = (0, 0);
        while self.seen.len() < self.scope.states_max {
            let mut state = self.start.clone();
            self.steps.clear();
            let length = 1 + random.below(WALK_MOVES_MAX as u64) as usize;
            let mut last = Move::Propose;
            for _ in 0..length {
                let moves = state.moves(&self.scope);
                let Some(kind) = moves.get(random.below(moves.len() as u64) as usize) else {
                    break;
                };
                last = *kind;
                taken += 1;
                match caught(|| state.perform(last, &self.scope)) {
                    Err(said) => return Err(self.fault(said, self.steps.len(), last)),
                    Ok(false) => continue,
                    Ok(true) => self.steps.push((self.steps.len(), last)),
                }
                self.seen.insert(state.key());
                depth = depth.max(self.steps.len());
            }
            if let Err(said) = caught(|| state.must_end_well(&self.scope)) {
                let at = self.steps.len().saturating_sub(1);
                return Err(self.fault(said, at, last));
            }
        }
        Ok(Explored { states: self.seen.len(), steps: taken, depth, complete: false })
    }

    fn fault(&self, said: String, at: usize, last: Move) -> Fault {
        let moves = way(&self.steps, at, last).into_iter();
        let steps = moves.map(|action| format!("{action:?}")).collect();
        Fault { said, steps, states: self.seen.len() }
    }
}

impl State {
    fn start(scope: &Scope) -> State {
        let mut pairs = Pairs::new(scope.nodes, scope.voters);
        let first = NodeId(1);
        // Timers of all run; the first one's is made to run out first.
        while pairs.world.leader().is_none() {
            let until = pairs.now() + HEARTBEAT;
            pairs.advance(until);
            if pairs.world.leader().is_some_and(|leader| leader != first) {
                pairs.transfer(first);
            }
        }
        let mut state = State {
            pairs,
            faults: 0,
            proposals: 0,
            replays: 0,
            waits: 0,
            term: Term(0),
            held_since: None,
            stalled: Vec::new(),
            stuck: Vec::new(),
            step: 0,
            depth: 0,
        };
        state.pass(3 * SETTLE);
        if state.pairs.world.leader() != Some(first) {
            assert!(state.pairs.transfer(first), "the first node can lead");
            state.pass(SETTLE);
        }
        assert!(state.pairs.world.leader() == Some(first) && state.pairs.is_whole(), "a start");
        let raft = state.pairs.world.host(first).raft.as_ref();
        state.term = raft.map(|raft| raft.status().hard.term).unwrap_or_default();
        state
    }

    fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.pairs.hash_into(&mut hasher);
        (self.faults, self.proposals, self.replays, self.waits).hash(&mut hasher);
        hasher.finish()
    }

    /// All that may happen next.
    fn moves(&self, scope: &Scope) -> Vec<Move> {
        let mut moves = Vec::new();
        let ids = self.pairs.ids();
        let pairs =
            || ids.iter().flat_map(|a| ids.iter().map(|b| (*a, *b))).filter(|(a, b)| a != b);
        // One wait after another is a longer one. What is held back for long is not harmless.
        let held = self.held_since.map_or(0, |since| self.pairs.now() - since);
        let harmless = |wait: &Now| self.held_since.is_none() || held + wait <= HELD_MAX;
        if self.waits == 0 {
            let waits = WAITS.into_iter().filter(|wait| !scope.harmless || harmless(wait));
            moves.extend(waits.map(Move::Wait));
        }
        for (a, b) in pairs().filter(|(a, b)| self.pairs.is_held(*a, *b)) {
            moves.extend([Move::Late(a, b), Move::Lost(a, b)]);
        }
        moves.extend(ids.iter().filter(|id| !self.pairs.runs(**id)).map(|id| Move::Start(*id)));
        moves.extend(self.stalled.iter().map(|id| Move::Stall(*id, false)));
        moves.extend(self.stuck.iter().map(|id| Move::Stick(*id, false)));
        if self.replays < 2 {
            moves.extend((0..self.pairs.kept()).map(Move::Replay));
        }
        if self.proposals < 2 && self.pairs.world.leader().is_some() {
            moves.push(Move::Propose);
        }
        if self.faults < scope.faults_max {
            for kind in scope.kinds {
                self.faults_of(*kind, scope, &mut moves);
            }
        }
        moves
    }

    fn faults_of(&self, kind: Kind, scope: &Scope, moves: &mut Vec<Move>) {
        let ids = self.pairs.ids();
        let pairs =
            || ids.iter().flat_map(|a| ids.iter().map(|b| (*a, *b))).filter(|(a, b)| a != b);
        let runs = |id: &&NodeId| self.pairs.runs(**id);
        // One follower may be missed.
        let spare = |id: &&NodeId| !scope.harmless || **id == NodeId(scope.nodes);
        match kind {
            Kind::Hold => {
                let free = pairs().filter(|(a, b)| !self.pairs.is_held(*a, *b));
                moves.extend(free.map(|(a, b)| Move::Hold(a, b)));
            }
            Kind::NewLink => {
                let both = pairs().filter(|(a, b)| a < b);
                moves.extend(both.map(|(a, b)| Move::NewLink(a, b)));
            }
            Kind::Kill | Kind::Vanish => {
                let up = ids.iter().filter(runs).filter(spare);
                moves.extend(up.map(|id| Move::Kill(*id, kind == Kind::Vanish)));
            }
            Kind::Stall => {
                let well = ids.iter().filter(|id| !self.stalled.contains(id)).filter(runs);
                moves.extend(well.map(|id| Move::Stall(*id, true)));
            }
            Kind::Stick => {
                let well = ids.iter().filter(|id| !self.stuck.contains(id)).filter(runs);
                moves.extend(well.map(|id| Move::Stick(*id, true)));
            }
            Kind::Keep => {
                moves.extend(pairs().map(|(a, b)| Move::Keep(a, b, true)));
                moves.extend(pairs().map(|(a, b)| Move::Keep(a, b, false)));
            }
            Kind::Delete => moves.extend(ids.iter().filter(runs).map(|id| Move::Delete(*id))),
            Kind::Change => moves.extend((0..scope.confs.len()).map(Move::Change)),
            Kind::Transfer => moves.extend(ids.iter().filter(runs).map(|id| Move::Transfer(*id))),
        }
    }

    /// Whether the move could be made.
    fn perform(&mut self, action: Move, scope: &Scope) -> bool {
        let pairs = &mut self.pairs;
        let mut done = true;
        match action {
            Move::Wait(time) => self.pass(time),
            Move::Hold(a, b) => pairs.hold(a, b),
            Move::Late(a, b) => pairs.release(a, b, true),
            Move::Lost(a, b) => pairs.release(a, b, false),
            Move::NewLink(a, b) => pairs.new_link(a, b),
            Move::Kill(id, silent) => {
                pairs.kill(id, silent);
                self.stuck.retain(|stuck| *stuck != id);
                self.pairs.stick(id, false);
            }
            Move::Start(id) => pairs.start(id),
            Move::Stall(id, stalled) => {
                self.stalled.retain(|other| *other != id);
                self.stalled.extend(stalled.then_some(id));
                pairs.stall(id, stalled);
            }
            Move::Stick(id, stuck) => {
                self.stuck.retain(|other| *other != id);
                self.stuck.extend(stuck.then_some(id));
                pairs.stick(id, stuck);
            }
            Move::Keep(a, b, heartbeat) => done = pairs.keep(a, b, heartbeat),
            Move::Replay(at) => {
                self.replays += 1;
                pairs.replay(at);
            }
            Move::Delete(id) => done = pairs.delete(id),
            Move::Change(at) => {
                let voters: Vec<NodeId> = scope.confs[at].iter().copied().map(NodeId).collect();
                done = pairs.change(&voters);
            }
            Move::Transfer(to) => done = pairs.transfer(to),
            Move::Propose => {
                self.proposals += 1;
                let leader = pairs.world.leader().expect("proposed only at a leader");
                pairs.propose(leader);
            }
        }
        let waited = matches!(action, Move::Wait(_));
        self.waits = if waited { self.waits + 1 } else { 0 };
        let fault = match action {
            Move::Hold(..) | Move::NewLink(..) | Move::Kill(..) | Move::Keep(..) => true,
            Move::Stall(_, begins) | Move::Stick(_, begins) => begins,
            Move::Delete(_) | Move::Change(_) | Move::Transfer(_) => true,
            Move::Wait(_) | Move::Late(..) | Move::Lost(..) | Move::Start(_) => false,
            Move::Replay(_) | Move::Propose => false,
        };
        self.faults += usize::from(fault);
        let ids = self.pairs.ids();
        let mut all = ids.iter().flat_map(|a| ids.iter().map(|b| (*a, *b)));
        let held = all.any(|(a, b)| self.pairs.is_held(a, b));
        self.held_since = held.then(|| self.held_since.unwrap_or(self.pairs.now()));
        if scope.harmless {
            self.nothing_happened();
        }
        done
    }

    fn pass(&mut self, time: Now) {
        let until = self.pairs.now() + time;
        while self.pairs.now() < until {
            self.pairs.advance(until);
        }
    }

    /// The first leader still leads, in its first term, and nobody asks for another.
    fn nothing_happened(&self) {
        for id in self.pairs.ids() {
            let Some(raft) = &self.pairs.world.host(id).raft else { continue };
            let status = raft.status();
            let role = if id == NodeId(1) { Role::Leader } else { Role::Follower };
            assert!(
                status.role == role && status.hard.term == self.term,
                "E36: something harmless called an election:\n{}",
                self.pairs.describe()
            );
        }
    }

    /// Nothing more goes wrong. If enough nodes are well there must be a leader soon, whatever is
    /// still wrong with the others; and once that is mended, a whole group at rest.
    fn must_end_well(&self, scope: &Scope) {
        if self.pairs.must_have_a_leader() {
            let mut state = self.clone();
            let until = state.pairs.now() + scope.leader_within;
            while !state.pairs.has_a_leader() {
                let text = || state.pairs.describe();
                assert!(
                    state.pairs.now() < until,
                    "a quorum is well, and nobody leads:\n{}",
                    text()
                );
                let next = state.pairs.now() + HEARTBEAT;
                state.pairs.advance(next);
            }
        }
        let mut state = self.clone();
        state.pairs.mend();
        let until = state.pairs.now() + HEAL_MAX;
        let mut led = false;
        while !led || !state.pairs.is_whole() {
            led = led || state.pairs.has_a_leader();
            let text = || state.pairs.describe();
            assert!(state.pairs.now() < until, "all is mended, and the group is not:\n{}", text());
            state.pass(HEARTBEAT);
        }
        state.pass(SETTLE);
        let (sent, leader) = (state.pairs.sent(), state.pairs.world.leader());
        state.pass(REST);
        let (sent, text) = (state.pairs.sent() - sent, || state.pairs.describe());
        assert!(sent == 0, "a group at rest sends {sent} messages:\n{}", text());
        assert!(state.pairs.world.leader() == leader, "a group at rest elects:\n{}", text());
        assert!(state.pairs.is_whole(), "a group at rest is not whole:\n{}", text());
        assert!(state.pairs.claims_agree(), "R13: claims and beliefs differ:\n{}", text());
    }
}

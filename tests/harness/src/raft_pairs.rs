//! A group whose cores hear of other nodes only what real node pairs report (R11 to R17, R21): a
//! [`World`] with a [`NodePairs`] per process, links between them, and heartbeats on those links.
//!
//! One clock for all, moved from deadline to deadline. What is not held back arrives at once, in
//! order; disks that are not stuck sync at once. Every call of a core is checked as in any world;
//! here also that no pair says what is not so.

use crate::raft_world::{Event, World};
use bytes::Bytes;
use raft_core::Config;
use raft_core::conf::{Conf, ConfChange};
use raft_core::effects::{NodeLiveness, ReadMode, Role};
use raft_core::message::Message;
use raft_core::node_pair::{
    Heartbeat, Led, NodePairs, PairEdge, PairEffects, PairState, PairsConfig, Work,
};
use raft_core::types::{GroupId, Index, NodeId, Now, ReadId, Term};
use std::collections::{BTreeMap, VecDeque};

mod key;
mod outcome;

/// A millisecond.
pub const MS: Now = 1_000_000;
/// From one heartbeat to the next.
pub const HEARTBEAT: Now = 100 * MS;
const SILENCE: Now = 300 * MS;
const ELECTION_MIN: Now = 300 * MS;
const ELECTION_MAX: Now = 500 * MS;
const GROUP: GroupId = GroupId(1);
/// Deliveries at one instant; more means that two nodes answer each other for ever.
const AT_ONCE_MAX: usize = 3_000;
/// Ticks in a row for what was due already; more means that a deadline does not pass.
const DUE_AT_ONCE_MAX: usize = 100;

/// What a link carries.
#[derive(Clone, Debug)]
pub enum Frame {
    /// Between two replicas.
    Raft(Message),
    /// Between two nodes.
    Heartbeat(Heartbeat),
}

#[derive(Clone, Debug)]
struct Flying {
    from: NodeId,
    to: NodeId,
    /// The process that is to get it: another one in its place does not.
    epoch: u64,
    frame: Frame,
}

/// What a replica is told, in order.
#[derive(Clone, Debug)]
enum Inbox {
    Message(NodeId, Message),
    Edge(NodeId, NodeLiveness),
}

/// A machine, and the process on it.
#[derive(Clone, Debug)]
struct Machine {
    /// `None` while no process runs.
    pairs: Option<NodePairs>,
    /// Names the process; the next one has the next number.
    epoch: u64,
    /// Without a process: nobody refuses a connection either.
    silent: bool,
    /// The replica was removed from the group, and deleted here.
    deleted: bool,
    /// Nothing becomes durable.
    stalled: bool,
    /// The worker of the replica does not pass its loop: no heartbeat leaves (R15), and the replica
    /// does nothing.
    stuck: bool,
    /// What waits for the worker.
    inbox: Vec<Inbox>,
    /// Since when a write waits.
    unsynced_since: Option<Now>,
    passes: u64,
    /// It must not lead (R15).
    hands_over: bool,
    /// Links to others, each with the process at its other end.
    links: BTreeMap<NodeId, u64>,
    /// The process last told Up of each peer.
    up: BTreeMap<NodeId, u64>,
}

/// Nodes, their pairs and the replicas of one group on them.
#[derive(Clone)]
pub struct Pairs {
    /// The replicas.
    pub world: World,
    now: Now,
    machines: BTreeMap<NodeId, Machine>,
    wire: VecDeque<Flying>,
    /// Directions that hold back what they carry, and what that is.
    held: BTreeMap<(NodeId, NodeId), Vec<Flying>>,
    /// Frames of which a copy was kept, to arrive again.
    kept: Vec<(NodeId, NodeId, Frame)>,
    /// The newest frames of each direction.
    newest: BTreeMap<(NodeId, NodeId), (Option<Heartbeat>, Option<Message>)>,
    /// The newest configuration known to be committed.
    conf: (Index, Conf),
    next_link: u64,
    /// Ticks in a row for what was due already.
    at_once: usize,
    reads: u64,
    sent: u64,
    commands: u64,
}

fn config(id: NodeId, voters: &[NodeId]) -> Config {
    let mut config = Config::new(id, GROUP, voters.to_vec());
    config.heartbeat_ns = HEARTBEAT;
    config.election_timeout_ns_min = ELECTION_MIN;
    config.election_timeout_ns_max = ELECTION_MAX;
    config.lease_ns = ELECTION_MIN;
    config.clock_drift_ppm = 0;
    config
}

fn with_times(mut config: PairsConfig) -> PairsConfig {
    config.heartbeat_ns = HEARTBEAT;
    config.silence_ns = SILENCE;
    config.election_timeout_ns = ELECTION_MAX;
    config
}

impl Pairs {
    /// Nodes, of which the first so many are the voters; all of them run and are linked.
    pub fn new(nodes: u64, voters: u64) -> Pairs {
        let ids: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
        let voters = &ids[..voters as usize];
        let blank = |id: &NodeId| !voters.contains(id);
        let configs =
            ids.iter().map(|id| config(*id, if blank(id) { &[] } else { voters })).collect();
        let machine = |id: &NodeId| {
            let machine = Machine {
                pairs: None,
                epoch: 0,
                silent: false,
                deleted: blank(id),
                stalled: false,
                stuck: false,
                inbox: Vec::new(),
                unsynced_since: None,
                passes: 0,
                hands_over: false,
                links: BTreeMap::new(),
                up: BTreeMap::new(),
            };
            (*id, machine)
        };
        let mut pairs = Pairs {
            world: World::new(configs),
            now: 10_000 * MS,
            machines: ids.iter().map(machine).collect(),
            wire: VecDeque::new(),
            held: BTreeMap::new(),
            kept: Vec::new(),
            newest: BTreeMap::new(),
            conf: (Index(0), Conf::of_voters(voters.to_vec())),
            next_link: 0,
            at_once: 0,
            reads: 0,
            sent: 0,
            commands: 0,
        };
        ids.iter().for_each(|id| pairs.start(*id));
        pairs
    }

    /// The clock.
    pub fn now(&self) -> Now {
        self.now
    }

    /// All nodes.
    pub fn ids(&self) -> Vec<NodeId> {
        self.machines.keys().copied().collect()
    }

    fn machine(&mut self, id: NodeId) -> &mut Machine {
        self.machines.get_mut(&id).expect("a node of this world")
    }

    /// Whether a process runs there.
    pub fn runs(&self, id: NodeId) -> bool {
        self.machines[&id].pairs.is_some()
    }

    /// Whether what one says is held back on its way to the other.
    pub fn is_held(&self, from: NodeId, to: NodeId) -> bool {
        self.held.contains_key(&(from, to))
    }

    /// Frames sent between replicas so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// The newest configuration known to be committed.
    pub fn conf(&self) -> &Conf {
        &self.conf.1
    }

    // --- What may happen to them ---

    /// A process starts; it is linked as soon as the others answer.
    pub fn start(&mut self, id: NodeId) {
        let machine = self.machine(id);
        assert!(machine.pairs.is_none(), "n{id} runs already");
        machine.epoch += 1;
        machine.silent = false;
        let pairs = with_times(PairsConfig::default());
        #[cfg(feature = "mutants")]
        let pairs = crate::raft_mutant::applied_to_pairs(pairs);
        // Epochs are drawn at random: those of two nodes differ.
        machine.pairs = Some(NodePairs::new(pairs, id.0 * 1000 + machine.epoch));
        machine.links.clear();
        machine.up.clear();
        self.world.host_mut(id).now = self.now;
        let seed = id.0 * 1000 + self.machines[&id].epoch;
        self.world.start_alone(id, seed);
        self.settle();
    }

    /// A process ends: what waits for its disk is lost, what lies on its links is not. Others see
    /// their links end, or, if the machine is gone with it, nothing.
    pub fn kill(&mut self, id: NodeId, silent: bool) {
        let machine = self.machine(id);
        machine.pairs = None;
        machine.silent = silent;
        machine.unsynced_since = None;
        machine.hands_over = false;
        machine.stuck = false;
        machine.inbox.clear();
        machine.links.clear();
        if self.world.host(id).raft.is_some() {
            self.world.crash(id, 0);
        }
        self.wire.retain(|flying| flying.to != id);
        self.held.values_mut().for_each(|frames| frames.retain(|flying| flying.to != id));
        if !silent {
            for peer in self.ids() {
                self.link_ends(peer, id, false);
            }
        }
        self.settle();
    }

    /// What one says to the other is held back from now on.
    pub fn hold(&mut self, from: NodeId, to: NodeId) {
        self.held.entry((from, to)).or_default();
    }

    /// What was held back arrives, late, or is lost.
    pub fn release(&mut self, from: NodeId, to: NodeId, arrives: bool) {
        let frames = self.held.remove(&(from, to)).unwrap_or_default();
        if arrives {
            self.wire.extend(frames);
        }
        self.settle();
    }

    /// All links between two nodes break, and what is on them is lost. Others take their place.
    pub fn new_link(&mut self, a: NodeId, b: NodeId) {
        for (from, to) in [(a, b), (b, a)] {
            self.held.remove(&(from, to));
        }
        for (from, to) in [(a, b), (b, a)] {
            self.link_ends(from, to, false);
        }
        self.settle();
    }

    /// The disk does not finish anything, or does again.
    pub fn stall(&mut self, id: NodeId, stalled: bool) {
        self.machine(id).stalled = stalled;
        self.settle();
    }

    /// A worker of the node is stuck, or is not any more.
    pub fn stick(&mut self, id: NodeId, stuck: bool) {
        let machine = self.machine(id);
        machine.stuck = stuck;
        if !stuck {
            for told in std::mem::take(&mut machine.inbox) {
                self.tell(id, told);
            }
            self.settle();
        }
    }

    /// Tells a replica something, once its worker comes to it.
    fn tell(&mut self, id: NodeId, told: Inbox) {
        if self.machines[&id].stuck {
            return self.machine(id).inbox.push(told);
        }
        match told {
            Inbox::Edge(peer, edge) => {
                self.world.call(id, |raft, now| raft.liveness(now, peer, edge));
            }
            Inbox::Message(from, message) => {
                self.world.deliver(from, id, message).expect("a correct peer is not refused");
            }
        }
    }

    /// Keeps a copy of the newest heartbeat, or of the newest message, of a direction.
    pub fn keep(&mut self, from: NodeId, to: NodeId, heartbeat: bool) -> bool {
        let Some((newest, message)) = self.newest.get(&(from, to)) else { return false };
        let frame = match heartbeat {
            true => newest.clone().map(Frame::Heartbeat),
            false => message.clone().map(Frame::Raft),
        };
        let known = frame.is_some();
        self.kept.extend(frame.map(|frame| (from, to, frame)));
        known
    }

    /// The kept frames, by place.
    pub fn kept(&self) -> usize {
        self.kept.len()
    }

    /// A kept frame arrives once more, whatever process is there now.
    pub fn replay(&mut self, at: usize) {
        let (from, to, frame) = self.kept[at].clone();
        let epoch = self.machines[&to].epoch;
        self.wire.push_back(Flying { from, to, epoch, frame });
        self.settle();
    }

    /// The host collects a replica that is no member any more. Whether it may.
    pub fn delete(&mut self, id: NodeId) -> bool {
        let may = !self.conf.1.is_member(id) && self.runs(id) && !self.machines[&id].deleted;
        if may {
            self.world.crash(id, 0);
            self.world.delete(id);
            let machine = self.machine(id);
            machine.deleted = true;
            machine.unsynced_since = None;
            if let Some(pairs) = &mut machine.pairs {
                pairs.set_led(GROUP, None);
            }
            // A message for the group makes it anew, blank.
            self.world.start_alone(id, id.0 + 77);
            let told: Vec<NodeId> = self.machines[&id].up.keys().copied().collect();
            for peer in told {
                self.tell_again(id, peer);
            }
            self.settle();
        }
        may
    }

    /// A new replica learns what the node knows of its peers.
    fn tell_again(&mut self, id: NodeId, peer: NodeId) {
        let Some(pairs) = &self.machines[&id].pairs else { return };
        let edge = match pairs.state(peer) {
            PairState::Up { epoch, link } => NodeLiveness::Up { epoch, link },
            PairState::Deaf => NodeLiveness::Deaf,
            PairState::DiskStalled => NodeLiveness::DiskStalled,
            PairState::Down { gone } => NodeLiveness::Down { gone },
        };
        self.world.call(id, |raft, now| raft.liveness(now, peer, edge));
    }

    /// Whoever leads changes the group. Whether it agreed.
    pub fn change(&mut self, voters: &[NodeId]) -> bool {
        let change = ConfChange { voters: voters.to_vec(), ..ConfChange::default() };
        let Some(leader) = self.world.leader() else { return false };
        let answer = self.world.call(leader, |raft, now| raft.change_conf(now, &change));
        self.settle();
        matches!(answer, Some(Ok(_)))
    }

    /// Whoever leads hands over. Whether it agreed.
    pub fn transfer(&mut self, to: NodeId) -> bool {
        let Some(leader) = self.world.leader() else { return false };
        let answer = self.world.call(leader, |raft, now| raft.transfer(now, to));
        self.settle();
        matches!(answer, Some(Ok(())))
    }

    /// A command, at a node that leads. What it is, if it was taken.
    pub fn propose(&mut self, at: NodeId) -> Option<Bytes> {
        self.commands += 1;
        let command = Bytes::from(self.commands.to_string());
        let took = self.world.propose(at, vec![command.clone()])?;
        self.settle();
        (took.count == 1).then_some(command)
    }

    // --- What they do by themselves ---

    /// The next moment at which anybody does something by itself.
    fn next_deadline(&self) -> Option<Now> {
        let pairs = self.machines.values().filter_map(|machine| machine.pairs.as_ref()?.deadline());
        let raft = |(id, machine): (&NodeId, &Machine)| match machine.stuck {
            true => None,
            false => self.world.host(*id).raft.as_ref()?.deadline(),
        };
        pairs.chain(self.machines.iter().filter_map(raft)).min()
    }

    /// Moves the clock to the next moment at which something happens, at most to `until`.
    pub fn advance(&mut self, until: Now) {
        let due = self.next_deadline().unwrap_or(until);
        self.at_once = if due <= self.now { self.at_once + 1 } else { 0 };
        let stuck = self.at_once > DUE_AT_ONCE_MAX;
        assert!(!stuck, "somebody's deadline does not pass:\n{}", self.describe());
        self.now = due.clamp(self.now + 1, until.max(self.now + 1));
        for id in self.ids() {
            self.world.host_mut(id).now = self.now;
        }
        for id in self.ids() {
            self.tick(id);
        }
        self.settle();
    }

    fn tick(&mut self, id: NodeId) {
        let now = self.now;
        let machine = self.machine(id);
        let sync_age_ns = machine.unsynced_since.map_or(0, |since| now - since);
        machine.passes += u64::from(!machine.stuck);
        let work = Work { passes: machine.passes, sync_age_ns };
        let Some(pairs) = &mut machine.pairs else { return };
        if pairs.deadline().is_some_and(|due| due <= now) {
            pairs.tick(now, work);
        }
        self.take_pair_effects(id);
        if self.machines[&id].stuck {
            return;
        }
        let raft = self.world.host(id).raft.as_ref();
        if raft.and_then(|raft| raft.deadline()).is_some_and(|due| due <= now) {
            self.world.call(id, |raft, now| raft.tick(now));
        }
        self.hand_over(id);
        self.collect();
    }

    /// A node that must not lead gives what it leads to one that may (R15).
    fn hand_over(&mut self, id: NodeId) {
        let machine = &self.machines[&id];
        let Some((raft, pairs)) = self.world.host(id).raft.as_ref().zip(machine.pairs.as_ref())
        else {
            return;
        };
        let status = raft.status();
        if !machine.hands_over || status.role != Role::Leader || status.transferring.is_some() {
            return;
        }
        let fit = status.matched.iter().filter(|(peer, _)| pairs.may_lead(*peer));
        if let Some((to, _)) = fit.max_by_key(|(_, matched)| *matched).copied() {
            self.world.call(id, |raft, now| raft.transfer(now, to));
        }
    }

    fn link_ends(&mut self, at: NodeId, peer: NodeId, refused: bool) {
        let now = self.now;
        let machine = self.machine(at);
        let had = machine.links.remove(&peer).is_some();
        let Some(pairs) = &mut machine.pairs else { return };
        if had || refused {
            pairs.link_down(now, peer, refused);
            self.take_pair_effects(at);
        }
    }

    /// Nodes without a link try to have one.
    fn connect(&mut self) {
        let ids = self.ids();
        for (from, to) in ids.iter().flat_map(|a| ids.iter().map(|b| (*a, *b))) {
            if from == to || self.is_held(from, to) || self.is_held(to, from) {
                continue;
            }
            let end = self.machines[&from].links.get(&to).copied();
            if end.is_some_and(|epoch| epoch != self.machines[&to].epoch) {
                // Another process answers that it knows nothing of this link.
                self.link_ends(from, to, false);
            } else if !self.runs(from) || end.is_some() {
                continue;
            }
            if self.runs(to) {
                self.next_link += 1;
                let (link, now) = (self.next_link, self.now);
                let process = self.machines[&to].epoch;
                let epoch = to.0 * 1000 + process;
                let machine = self.machine(from);
                machine.links.insert(to, process);
                if let Some(pairs) = &mut machine.pairs {
                    pairs.link_up(now, to, epoch, link);
                }
                self.take_pair_effects(from);
            } else if !self.machines[&to].silent {
                self.link_ends(from, to, true);
            }
        }
    }

    fn take_pair_effects(&mut self, id: NodeId) {
        let Some(pairs) = &mut self.machine(id).pairs else { return };
        let mut effects = PairEffects::default();
        pairs.poll(&mut effects);
        for (peer, edge) in effects.edges {
            self.check_edge(id, peer, edge);
            let edge = match edge {
                PairEdge::Up { epoch, link } => NodeLiveness::Up { epoch, link },
                PairEdge::Deaf => NodeLiveness::Deaf,
                PairEdge::Down { gone } => NodeLiveness::Down { gone },
                PairEdge::DiskStalled => NodeLiveness::DiskStalled,
                PairEdge::Disowned { term, .. } => NodeLiveness::Disowned { term },
                PairEdge::Unbelieved { term, .. } => NodeLiveness::Unbelieved { term },
            };
            self.tell(id, Inbox::Edge(peer, edge));
        }
        if let Some(hands_over) = effects.hand_over {
            self.machine(id).hands_over = hands_over;
            let own = match hands_over {
                true => NodeLiveness::DiskStalled,
                false => NodeLiveness::Up { epoch: 0, link: 0 },
            };
            self.tell(id, Inbox::Edge(id, own));
        }
        for (peer, heartbeat) in effects.heartbeats {
            self.check_claims(id, peer, &heartbeat);
            self.newest.entry((id, peer)).or_default().0 = Some(heartbeat.clone());
            self.send(id, peer, Frame::Heartbeat(heartbeat));
        }
        self.collect();
    }

    /// What a pair reports is so: nobody is disowned who leads, no process is gone that runs.
    fn check_edge(&mut self, at: NodeId, peer: NodeId, edge: PairEdge) {
        let process = peer.0 * 1000 + self.machines[&peer].epoch;
        let runs = self.runs(peer);
        let machine = self.machine(at);
        match edge {
            PairEdge::Up { epoch, .. } => {
                machine.up.insert(peer, epoch);
            }
            PairEdge::Down { gone: true } => {
                let lives = runs && machine.up.get(&peer) == Some(&process);
                assert!(!lives, "R17: n{at} calls the process of n{peer} gone, which runs");
            }
            PairEdge::Disowned { term, .. } => {
                // Who was removed is disowned by a leader that it would follow for ever.
                let raft = self.world.host(peer).raft.as_ref();
                let member = raft.is_some_and(|raft| raft.status().conf.is_member(at));
                let leads = member && self.leads(peer) == Some(term);
                assert!(!leads, "R13: n{peer} leads term {term}, and disowns it to n{at}");
            }
            PairEdge::Deaf | PairEdge::DiskStalled => {}
            PairEdge::Down { gone: false } | PairEdge::Unbelieved { .. } => {}
        }
    }

    fn leads(&self, id: NodeId) -> Option<Term> {
        let status = self.world.host(id).raft.as_ref()?.status();
        (status.role == Role::Leader).then_some(status.hard.term)
    }

    /// A heartbeat claims what its node leads, no more and no less (R13).
    fn check_claims(&self, id: NodeId, peer: NodeId, heartbeat: &Heartbeat) {
        let raft = self.world.host(id).raft.as_ref();
        let conf = raft.map(|raft| raft.status().conf).unwrap_or_default();
        let leads = self.leads(id).is_some() && conf.is_member(peer);
        assert_eq!(heartbeat.claims.count, u32::from(leads), "R13: what n{id} claims to n{peer}");
    }

    fn send(&mut self, from: NodeId, to: NodeId, frame: Frame) {
        if !self.runs(to) {
            return;
        }
        let flying = Flying { from, to, epoch: self.machines[&to].epoch, frame };
        match self.held.get_mut(&(from, to)) {
            Some(frames) => {
                // A newer heartbeat makes one that waits worthless.
                if matches!(flying.frame, Frame::Heartbeat(_)) {
                    frames.retain(|held| !matches!(held.frame, Frame::Heartbeat(_)));
                }
                frames.push(flying);
            }
            None => self.wire.push_back(flying),
        }
    }

    /// Everything that can happen now does, until nothing is left.
    fn settle(&mut self) {
        for _ in 0..AT_ONCE_MAX {
            self.connect();
            self.collect();
            for id in self.ids() {
                self.settle_disk(id);
            }
            match self.wire.pop_front() {
                Some(flying) => self.deliver(flying),
                None if self.is_settled() => return self.read_by_lease(),
                None => {}
            }
        }
        panic!("the nodes do not come to rest at one instant");
    }

    fn is_settled(&self) -> bool {
        let idle = |id: &NodeId| {
            let host = self.world.host(*id);
            let synced = self.machines[id].stalled || host.disk.unsynced() == 0;
            let stuck = self.machines[id].stuck;
            stuck
                || synced
                    && host.fetches.is_empty()
                    && host.unreported.is_none()
                    && host.appendable.is_empty()
        };
        self.wire.is_empty() && self.world.events.is_empty() && self.machines.keys().all(idle)
    }

    fn settle_disk(&mut self, id: NodeId) {
        if self.machines[&id].stuck {
            return;
        }
        while !self.machines[&id].stalled && self.world.host(id).disk.unsynced() > 0 {
            self.world.sync(id, 1);
        }
        let waits = self.world.host(id).disk.unsynced() > 0;
        let now = self.now;
        let machine = self.machine(id);
        machine.unsynced_since = waits.then(|| machine.unsynced_since.unwrap_or(now));
        self.world.answer_fetch(id);
        self.world.report_applied(id);
        for peer in self.world.host(id).appendable.clone() {
            // Without a link nobody pulls.
            match self.machines[&id].links.contains_key(&peer) {
                true => while self.world.pull(id, peer, 1 << 20) {},
                false => {
                    self.world.host_mut(id).appendable.remove(&peer);
                }
            }
        }
        self.collect();
    }

    fn deliver(&mut self, flying: Flying) {
        let Flying { from, to, epoch, frame } = flying;
        let now = self.now;
        let machine = self.machine(to);
        let Some(pairs) = machine.pairs.as_mut().filter(|_| machine.epoch == epoch) else { return };
        match frame {
            Frame::Heartbeat(heartbeat) => {
                pairs.heard(now, from, heartbeat).expect("what nodes send is well formed");
                self.take_pair_effects(to);
            }
            Frame::Raft(message) => {
                pairs.contact(now, from);
                self.tell(to, Inbox::Message(from, message));
            }
        }
        self.collect();
    }

    /// What the replicas said goes on its way, what they are is told to their nodes' pairs.
    fn collect(&mut self) {
        for (id, event) in std::mem::take(&mut self.world.events) {
            match event {
                Event::Sent(envelope) => {
                    self.sent += 1;
                    let (to, message) = (envelope.to, envelope.message);
                    self.newest.entry((id, to)).or_default().1 = Some(message.clone());
                    // Only a link that stands takes it.
                    if self.machines[&id].links.contains_key(&to) {
                        self.send(id, to, Frame::Raft(message));
                    }
                }
                Event::Role { .. } => self.say_who_leads(id),
                Event::Conf(view) => {
                    if view.committed && view.index > self.conf.0 {
                        self.conf = (view.index, view.conf);
                    }
                    self.say_who_leads(id);
                }
                Event::Write(_) | Event::Synced(_) | Event::Applied(_) | Event::Fetch(_) => {}
                Event::Read(..) | Event::ReadFailed(_) | Event::Removed(_) => {}
                Event::Compact(_) | Event::Chunk(_) | Event::Snap(_) | Event::Installed(_) => {}
            }
        }
    }

    fn say_who_leads(&mut self, id: NodeId) {
        let Some(raft) = &self.world.host(id).raft else { return };
        let status = raft.status();
        let term = status.hard.term;
        let led = match (status.role, status.leader) {
            (Role::Leader, _) => {
                let members = status.conf.members().into_iter().filter(|peer| *peer != id);
                Some(Led::Here { term, members: members.collect() })
            }
            (Role::Follower, Some(leader)) => Some(Led::There { term, leader }),
            (Role::Follower | Role::PreCandidate | Role::Candidate, _) => None,
        };
        if let Some(pairs) = &mut self.machine(id).pairs {
            pairs.set_led(GROUP, led);
        }
    }

    /// Whoever holds a lease is read from: the world checks that nothing is missed (I13).
    fn read_by_lease(&mut self) {
        for id in self.ids() {
            let raft = self.world.host(id).raft.as_ref();
            if !self.machines[&id].stuck && raft.is_some_and(|raft| raft.lease_holds(self.now)) {
                self.reads += 1;
                self.world.read(id, ReadId(self.reads), ReadMode::Lease);
            }
        }
        self.collect();
    }
}

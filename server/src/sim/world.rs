//! The loop of a run: one queue of events in virtual time, and what is demanded in the end.

use super::disk::Piece;
use super::history::{History, Tally};
use super::hosts::Host;
use super::network::Network;
use super::random::Random;
use super::rates::Rates;
use super::routers::RouterHost;
use super::watch::Watch;
use super::workload::{self, Workload};
use raft_core::types::Now;
use router::backend::{Answered, Target, Work};
use router::dispatch::LinkEvent;
use shard_core::cluster_config::{
    ClusterConfig, ConfigNum, GroupConfig, NodeConfig, SHARDMASTER, SlotRange,
};
use shard_core::cluster_map::ClusterMap;
use shard_core::kept::Kept;
use shard_core::machine::Machine;
use shard_core::node::Input;
use shard_core::shardmaster::{MasterOp, MasterRequest};
use shard_core::slot::Slot;
use shard_core::wire::{ToNode, ToRouter};
use shard_core::{GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A millisecond.
pub const MS: Now = 1_000_000;
/// Faults happen for so long.
const FAULTS_NS: Now = 8_000 * MS;
/// Everything has to be well so long after the last fault: a refused move waits for a minute at most.
const HEAL_NS: Now = 150_000 * MS;
/// What is asked so long after the last fault has an outcome.
const SETTLE_NS: Now = 5_000 * MS;
/// How long a request may take.
pub const TIMEOUT_NS: Now = 5_000 * MS;
/// Events of one run, at most: more is a loop without an end.
const EVENTS_MAX: u64 = 6_000_000;

/// The highest id that a group may get: ids are never used again.
const GROUPS_MAX: u32 = 5;

/// All groups that there may ever be, the shardmaster's among them.
pub(super) fn every_group() -> impl Iterator<Item = GroupId> {
    (0..=GROUPS_MAX).map(GroupId)
}

/// Something that happens.
#[derive(Debug)]
pub(super) enum Event {
    /// A node's process, of this epoch, has something to do.
    Poll(NodeId, u64),
    /// Something for this very process.
    Own(NodeId, u64, Input),
    /// A message over a link: from, to, the link.
    Linked(NodeId, NodeId, u64, Input),
    /// A message that no link orders.
    Loose(NodeId, NodeId, Input),
    /// A node dials another.
    Dial(NodeId, NodeId),
    /// A node's disk, of this epoch, has synced.
    Sync(NodeId, u64),
    /// A node's process, of this epoch, has its file written.
    Keep(NodeId, u64, u64, Arc<Kept>),
    /// A node starts.
    Start(NodeId),
    /// A way is whole again.
    Mend(NodeId, NodeId),
    /// A router has something to do.
    RouterPoll(usize, u64),
    /// A router dials a node.
    RouterDial(usize, NodeId),
    /// A message of a router to a node, over this link. Of one that broke some arrive late.
    ToNode(usize, NodeId, u64, ToNode),
    /// And back.
    ToRouter(usize, NodeId, u64, ToRouter),
    /// A client asks.
    Client(u64),
    /// The administrator asks.
    Admin,
    /// One fault of each kind may happen.
    Faults,
    /// A node's clock is wrong by so many milliseconds from now on.
    Clock(NodeId, i64),
}

/// What came of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// A hash of all that happened.
    pub trace: u64,
    /// Events.
    pub events: u64,
    /// What clients were told.
    pub tally: Tally,
    /// Moves that were settled, about.
    pub moves: u64,
    /// Groups whose members were changed, and are those that were wanted last.
    pub members: u64,
    /// Groups that were made, and of those and the first ones the groups that were removed again.
    pub made: u64,
    /// See `made`.
    pub removed: u64,
    /// Parts of large values that were on their way from group to group.
    pub parts: u64,
    /// Nodes that lost power.
    pub crashes: u64,
    /// How long it took to end all moves once nobody wanted any more. Milliseconds.
    pub heal_ms: u64,
    /// The longest that a client waited for an answer. Milliseconds.
    pub wait_ms: u64,
}

/// See the module.
pub(super) struct World {
    pub(super) now: Now,
    pub(super) random: Random,
    pub(super) rates: Rates,
    pub(super) faults: bool,
    queue: BTreeMap<(Now, u64), Event>,
    events: u64,
    trace: u64,
    pub(super) config: ClusterConfig,
    pub(super) hosts: BTreeMap<NodeId, Host>,
    pub(super) network: Network,
    pub(super) routers: Vec<RouterHost>,
    pub(super) watch: Watch,
    pub(super) history: History,
    workload: Workload,
    /// Requests of clients by ticket; of the administrator `None`.
    pub(super) tickets: Vec<Option<usize>>,
    pub(super) open: u64,
    /// Requests that each connection waits for.
    waiting: BTreeMap<u64, u64>,
    pub(super) master_answers: Vec<Answered>,
    pub(super) crashes: u64,
    pub(super) parts: u64,
    load: bool,
    /// The groups that the administrator has seen.
    seen: BTreeSet<GroupId>,
}

/// The cluster of a seed: 3 to 5 nodes, 2 or 3 groups for slots, each on three of the nodes.
fn config(random: &mut Random) -> ClusterConfig {
    let nodes = random.between(3, 5);
    let groups = random.between(2, 3) as u32;
    let node =
        |id: u64| (NodeId(id), NodeConfig { peer: format!("h:{id}"), resp: format!("h:9{id}") });
    let seats = |group: u32| {
        let voters = (0..3).map(|i| NodeId((u64::from(group) + i) % nodes + 1));
        let voters: BTreeSet<NodeId> = voters.collect();
        let weight = u32::from(group > 0);
        (GroupId(group), GroupConfig { voters: voters.into_iter().collect(), weight })
    };
    let mut slots: Vec<Slot> = workload::slots();
    slots.sort();
    let range = |(i, slot): (usize, Slot)| SlotRange {
        first: slot,
        last: slot,
        group: GroupId(i as u32 % groups + 1),
    };
    ClusterConfig {
        num: ConfigNum(1),
        cluster_id: "sim".into(),
        nodes: (1..=nodes).map(node).collect(),
        groups: (0..=groups).map(seats).collect(),
        slots: slots.into_iter().enumerate().map(range).collect(),
    }
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random::new(seed);
        let rates = Rates::draw(&mut random);
        let config = config(&mut random);
        let mut world = World {
            now: 0,
            rates,
            faults: true,
            queue: BTreeMap::new(),
            events: 0,
            trace: 0xcbf2_9ce4_8422_2325,
            hosts: config.nodes.keys().map(|id| (*id, Host::new(&mut random))).collect(),
            network: Network::default(),
            routers: (0..2).map(|i| RouterHost::new(&config, seed, i)).collect(),
            watch: Watch::new(workload::slots().into_iter().collect()),
            history: History::default(),
            workload: Workload::default(),
            tickets: Vec::new(),
            open: 0,
            waiting: BTreeMap::new(),
            master_answers: Vec::new(),
            crashes: 0,
            parts: 0,
            load: true,
            seen: config.groups.keys().copied().collect(),
            config,
            random,
        };
        for id in world.hosts.keys().copied().collect::<Vec<_>>() {
            world.start(id);
        }
        for client in 0..6 {
            world.at(1_500 * MS, Event::Client(client));
        }
        world.at(2_000 * MS, Event::Admin);
        world.at(500 * MS, Event::Faults);
        world.draw_clock();
        world
    }

    /// Something happens after `delay`.
    pub(super) fn at(&mut self, delay: Now, event: Event) {
        self.at_time(self.now + delay, event);
    }

    pub(super) fn at_time(&mut self, at: Now, event: Event) {
        self.events += 1;
        self.queue.insert((at.max(self.now), self.events), event);
    }

    pub(super) fn note(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.trace = (self.trace ^ number).wrapping_mul(0x0100_0000_01b3).rotate_left(17);
        }
    }

    /// Something between 0.2 and 3 ms.
    pub(super) fn delay(&mut self) -> Now {
        self.random.between(200_000, 3_000_000)
    }

    fn run_until(&mut self, end: Now, mut done: impl FnMut(&World) -> bool) -> bool {
        let mut look = self.now;
        while let Some(((at, number), event)) = self.queue.pop_first() {
            // What waits keeps its number: what comes over one link at one time keeps its order.
            if at > end {
                self.queue.insert((at, number), event);
                self.now = end;
                return false;
            }
            assert!(self.events < EVENTS_MAX, "events without an end at {at}: {event:?}");
            self.now = at;
            if let Some(until) = self.pause_of(&event) {
                self.queue.insert((until, number), event);
                continue;
            }
            self.happen(event);
            if self.now >= look {
                look = self.now + 20 * MS;
                if done(self) {
                    return true;
                }
            }
        }
        false
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Poll(id, epoch) => self.due(id, epoch),
            Event::Own(id, epoch, input) => {
                if self.hosts[&id].epoch == epoch {
                    self.input(id, input);
                }
            }
            Event::Linked(from, to, link, input) => {
                if self.network.stands(from, to, link) {
                    self.input(to, input);
                }
            }
            Event::Loose(from, to, input) => {
                if !self.network.is_cut(from, to) {
                    self.input(to, input);
                }
            }
            Event::Dial(from, to) => self.dial(from, to),
            Event::Sync(id, epoch) => self.synced(id, epoch),
            Event::Keep(id, epoch, number, kept) => self.keeps(id, epoch, number, &kept),
            Event::Start(id) => self.start(id),
            Event::Mend(from, to) => self.mend(from, to),
            Event::RouterPoll(router, turn) => self.router_due(router, turn),
            Event::RouterDial(router, node) => self.router_dial(router, node),
            Event::ToNode(router, node, link, message) => {
                self.heard_router(router, node, link, message);
            }
            Event::ToRouter(router, node, link, message) => {
                self.heard_node(router, node, link, message);
            }
            Event::Client(client) => self.client(client),
            Event::Admin => self.admin(),
            Event::Faults => self.break_things(),
            Event::Clock(node, off_ms) => self.set_clock(node, off_ms),
        }
    }

    /// A process that stands still finds everything later.
    fn pause_of(&self, event: &Event) -> Option<Now> {
        let id = match event {
            Event::Poll(id, _) | Event::Own(id, ..) | Event::ToNode(_, id, ..) => *id,
            Event::Linked(_, to, ..) | Event::Loose(_, to, _) => *to,
            _ => return None,
        };
        let until = self.hosts[&id].paused_until;
        (until > self.now).then_some(until)
    }

    fn client(&mut self, client: u64) {
        if !self.load {
            return;
        }
        let next = self.random.between(5, 80) * MS;
        self.at(next, Event::Client(client));
        let waiting = self.waiting.get(&client).copied().unwrap_or(0);
        for _ in 0..self.random.between(1, 3).min(8u64.saturating_sub(waiting)) {
            let (key, ask) = self.workload.ask(&mut self.random, client);
            self.ask(client, key, ask);
        }
    }

    pub(super) fn answered(&mut self, connection: u64) {
        *self.waiting.entry(connection).or_default() -= 1;
    }

    pub(super) fn asks(&mut self, connection: u64) {
        *self.waiting.entry(connection).or_default() += 1;
    }

    fn admin(&mut self) {
        if !self.load {
            return;
        }
        let groups: Vec<GroupId> = self.newest_map().config.groups.into_keys().collect();
        self.seen.extend(&groups);
        if self.random.below(8) == 0 {
            let group = groups[self.random.below(groups.len() as u64) as usize];
            let to = NodeId(1 + self.random.below(self.hosts.len() as u64));
            self.submit_admin(Target::Group(group), Work::Transfer(to));
        } else {
            let nodes = self.hosts.len() as u64;
            let drains = self.rates.drains;
            let op = self.workload.administer(&mut self.random, &groups, nodes, GROUPS_MAX, drains);
            self.order(op);
        }
        let next = self.random.between(1, 2 * self.rates.admin_ms) * MS;
        self.at(next, Event::Admin);
    }

    fn order(&mut self, op: MasterOp) {
        let work = Work::Master(MasterRequest { id: None, op });
        self.submit_admin(Target::Group(SHARDMASTER), work);
    }

    fn heal(&mut self) -> u64 {
        let calm = self.rates.is_calm();
        self.faults = false;
        self.rates = self.rates.healed();
        self.mend_all();
        self.order(MasterOp::Resume);
        let begun = self.now;
        self.run_until(begun + SETTLE_NS, |_| false);
        // What was given up since then is wanted again, whoever asked last.
        let asked_by = self.now;
        self.load = false;
        self.order(MasterOp::Resume);
        let answered = self.run_until(self.now + 2 * TIMEOUT_NS, |world| world.open == 0);
        assert!(answered, "I12: {} requests wait", self.open);
        let healed = self.run_until(begun + HEAL_NS, |world| world.is_settled().is_ok());
        assert!(healed, "I12: not healed: {:?}", self.is_settled());
        let took = (self.now - asked_by) / MS;
        for key in self.keys() {
            self.ask(100, key, super::history::Ask::Get);
        }
        let answered = self.run_until(self.now + 3 * TIMEOUT_NS, |world| world.open == 0);
        assert!(answered, "I12: {} requests wait", self.open);
        let late = self.history.requests.iter().filter(|r| calm || r.asked >= asked_by);
        for request in late {
            let outcome = matches!(&request.answer, Some((_, Answered::Outcome(_))));
            assert!(outcome, "I12: refused without a fault: {request:?}");
        }
        took
    }

    /// The newest map of any node; of the start while none runs.
    pub(super) fn newest_map(&self) -> ClusterMap {
        let nodes = self.hosts.values().filter_map(|host| host.node.as_ref());
        let newest = nodes.map(|node| node.view().map).max_by_key(|map| map.version);
        newest.unwrap_or_else(|| ClusterMap::clone(&Kept::first(&self.config).map))
    }

    /// The number of the newest move that was settled.
    fn moves(&self) -> u64 {
        let nodes = self.hosts.values().filter_map(|host| host.node.as_ref());
        let replicas = nodes.flat_map(|node| every_group().filter_map(|group| node.replica(group)));
        let settled = replicas.filter_map(|replica| match replica.machine() {
            Some(Machine::Shard(store)) => {
                workload::slots().into_iter().map(|slot| store.stand(slot).settled.0).max()
            }
            Some(Machine::Master(_)) | None => None,
        });
        settled.max().unwrap_or(0)
    }

    fn keys(&self) -> BTreeSet<String> {
        self.history.requests.iter().map(|request| request.key.clone()).collect()
    }
}

/// Runs a seed.
///
/// # Panics
/// When something does not hold, with what that is.
pub fn run(seed: u64) -> Outcome {
    let mut world = World::new(seed);
    world.run_until(FAULTS_NS, |_| false);
    let heal_ms = world.heal();
    let tally = world.history.check();
    let newest = world.newest_map();
    let (moves, members) = (world.moves(), newest.members.len() as u64);
    world.seen.extend(newest.config.groups.keys());
    let made = (world.seen.len() - world.config.groups.len()) as u64;
    let removed = (world.seen.len() - newest.config.groups.len()) as u64;
    let waited = world.history.requests.iter();
    let waited = waited.filter_map(|r| r.answer.as_ref().map(|(at, _)| (at - r.asked) / MS));
    let wait_ms = waited.max().unwrap_or(0);
    let World { trace, events, crashes, parts, .. } = world;
    Outcome {
        trace,
        events,
        tally,
        moves,
        members,
        made,
        removed,
        parts,
        crashes,
        heal_ms,
        wait_ms,
    }
}

impl World {
    /// A piece of a snapshot leaves over the link.
    pub(super) fn send_piece(&mut self, from: NodeId, to: NodeId, piece: Piece) {
        let Piece { group, id, from: mut offset, mut bytes } = piece;
        while !bytes.is_empty() {
            let part = bytes.split_to(bytes.len().min(700));
            let len = part.len() as u64;
            let chunk = shard_core::checkpoint::SnapshotChunk { group, id, offset, bytes: part };
            self.send_linked(from, to, Input::Chunk { from, chunk });
            offset += len;
        }
    }

    /// A router hears of a link.
    pub(super) fn router_link(&mut self, router: usize, node: NodeId, event: LinkEvent) {
        self.routers[router].dispatch.on_link(self.now, node, event);
        self.poll_router(router);
    }
}

//! Three nodes in one loop: perfect network, instant disk, virtual time. What consensus does under
//! faults is the raft tests' matter; here is what a node makes of it.

use crate::cluster_config::{ClusterConfig, ConfigNum, GroupConfig, NodeConfig, SHARDMASTER};
use crate::codec;
use crate::handshake::VERSION_MAX;
use crate::kept::Kept;
use crate::node::{Input, Node, NodeSetup, Output};
use crate::op::{Op, Outcome};
use crate::replica::{CheckpointConfig, Origin, Recovered};
use crate::session::{LogTime, Seq, SessionId};
use crate::shard_store::{Mutant, set_mutant};
use crate::slot::hash_slot;
use crate::transfers::WISHES_PER_GROUP_MAX;
use crate::wire::{
    Answer, GroupAnswer, GroupQuery, LaneRequest, LeaderView, RaftEnvelope, Reply, Request,
    RequestBatch, RequestBody, TransferAnswer,
};
use crate::{GroupId, NodeId};
use raft_core::effects::{Fetch, FetchResult, Write};
use raft_core::types::{Entry, EntryId, HardState};
use raft_core::{Config, Restored};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

mod clocks;
mod collect;
mod deletion;
mod disk;
mod groups;
mod hand_over;
mod installs;
mod members;
mod memory;
mod migration;
mod moves;
mod pace;
mod parts;
mod reads;
mod repeats;
mod slots;
mod snapshots;
mod waits;
mod witness;

const MS: u64 = 1_000_000;
const G1: GroupId = GroupId(1);

/// Fails unless each scenario fails while that rule is broken.
fn each_is_noticed(table: &[(Mutant, fn())]) {
    for (mutant, scenario) in table {
        set_mutant(Some(*mutant));
        let ended = std::panic::catch_unwind(scenario);
        set_mutant(None);
        assert!(ended.is_err(), "{mutant:?} is not noticed");
    }
}

/// What a node's disk holds of a group.
#[derive(Clone, Default)]
struct Disk {
    hard: HardState,
    /// The entry before the first.
    base: EntryId,
    entries: Vec<Entry>,
    state: snapshots::StateDisk,
}

impl Disk {
    fn write(&mut self, write: &Write) {
        self.hard = write.hard.unwrap_or(self.hard);
        if let Some(from) = write.truncate_from {
            self.entries.truncate((from.0 - 1 - self.base.index.0) as usize);
        }
        self.entries.extend(write.entries.iter().cloned());
    }

    fn fetch(&self, fetch: &Fetch) -> FetchResult {
        let Some(from) = fetch.from.0.checked_sub(self.base.index.0 + 1) else {
            return FetchResult::Gone;
        };
        let to = ((fetch.to.0 - self.base.index.0) as usize).min(self.entries.len());
        FetchResult::Entries(self.entries[from as usize..to].to_vec())
    }

    fn compact(&mut self, upto: EntryId) {
        self.entries.drain(..(upto.index.0 - self.base.index.0) as usize);
        self.base = upto;
    }

    fn recovered(&self, group: GroupId) -> Recovered {
        let log = Restored::of_log(self.hard, &self.entries);
        let staged = self.state.staged();
        let raft = Restored { staged, ..log.compacted(self.base, self.state.checkpoint.clone()) };
        Recovered { raft, machine: self.state.load(group) }
    }
}

struct World {
    now: u64,
    nodes: BTreeMap<NodeId, Node>,
    disks: BTreeMap<NodeId, BTreeMap<GroupId, Disk>>,
    /// Of this node's disk what is kept and forgotten gets no further than so many steps.
    lost_steps: Option<(NodeId, u32)>,
    /// What each node keeps of the cluster.
    kept: BTreeMap<NodeId, Kept>,
    down: BTreeSet<NodeId>,
    /// Nodes that hear nothing of other maps.
    deaf: BTreeSet<NodeId>,
    /// Nodes that nobody hears and that hear nobody, though they run.
    cut: BTreeSet<NodeId>,
    /// Which words of moves arrive; None: all.
    pass: Option<slots::Pass>,
    replies: BTreeMap<u64, Answer>,
    epoch: u64,
    /// The epoch of each node's process.
    epochs: BTreeMap<NodeId, u64>,
    next_link: u64,
    config: ClusterConfig,
    /// How often nodes told routers what they know.
    views: u64,
    /// Messages and heartbeats that nodes have sent each other.
    sent: u64,
    /// The bytes of those messages, as they travel.
    sent_bytes: u64,
    /// Disks that have stopped to answer.
    stuck: BTreeSet<NodeId>,
    /// What is on its way.
    queue: VecDeque<(NodeId, Input)>,
    draining: bool,
    checkpoints: Option<CheckpointConfig>,
    memory_max: u64,
    /// Nodes that run the program before parts were known.
    older: BTreeMap<NodeId, u8>,
    /// How far a node's clock is ahead, or behind. Milliseconds.
    skew: BTreeMap<NodeId, i64>,
    /// How long leases are.
    lease_ns: u64,
    /// How long each keeps the log for a peer that is down.
    missed_ns: u64,
    /// Disks of states that take their time: what they have answered so far.
    slow: BTreeMap<NodeId, VecDeque<Input>>,
    /// What becomes of chunks on their way: each may be lost, doubled or held back.
    chunks: snapshots::Chunks,
}

fn config() -> ClusterConfig {
    let voters: Vec<NodeId> = (1..=3).map(NodeId).collect();
    let mut config = ClusterConfig {
        num: ConfigNum(1),
        cluster_id: "c".into(),
        nodes: voters
            .iter()
            .map(|id| (*id, NodeConfig { peer: format!("h:{id}"), resp: format!("h:9{id}") }))
            .collect(),
        groups: [
            (SHARDMASTER, GroupConfig { voters: voters.clone(), weight: 0 }),
            (G1, GroupConfig { voters: voters.clone(), weight: 1 }),
        ]
        .into(),
        slots: Vec::new(),
    };
    config.assign_evenly();
    config
}

impl World {
    fn new() -> World {
        World::with(config())
    }

    fn with(config: ClusterConfig) -> World {
        World::taking(config, None)
    }

    fn taking(config: ClusterConfig, checkpoints: Option<CheckpointConfig>) -> World {
        World::limited(config, checkpoints, 0)
    }

    fn limited(
        config: ClusterConfig,
        checkpoints: Option<CheckpointConfig>,
        memory_max: u64,
    ) -> World {
        let mut world = World::stopped(config, checkpoints, memory_max);
        for id in 1..=3 {
            world.start(NodeId(id));
        }
        world
    }

    fn stopped(
        config: ClusterConfig,
        checkpoints: Option<CheckpointConfig>,
        memory_max: u64,
    ) -> World {
        World {
            now: 0,
            nodes: BTreeMap::new(),
            disks: BTreeMap::new(),
            lost_steps: None,
            kept: BTreeMap::new(),
            down: BTreeSet::new(),
            deaf: BTreeSet::new(),
            cut: BTreeSet::new(),
            pass: None,
            replies: BTreeMap::new(),
            epoch: 0,
            epochs: BTreeMap::new(),
            next_link: 0,
            config,
            views: 0,
            sent: 0,
            sent_bytes: 0,
            stuck: BTreeSet::new(),
            queue: VecDeque::new(),
            draining: false,
            checkpoints,
            memory_max,
            older: BTreeMap::new(),
            skew: BTreeMap::new(),
            lease_ns: 0,
            missed_ns: 0,
            slow: BTreeMap::new(),
            chunks: snapshots::Chunks::default(),
        }
    }

    fn start(&mut self, id: NodeId) {
        self.epoch += 1;
        let disks = self.disks.entry(id).or_default();
        let recovered =
            disks.iter().map(|(group, disk)| (*group, disk.recovered(*group))).collect();
        let (bootstrap, addresses) = (self.config.clone(), BTreeMap::new());
        let kept = self.kept.entry(id).or_insert_with(|| Kept::first(&bootstrap)).clone();
        let setup = NodeSetup {
            id,
            bootstrap,
            addresses,
            kept,
            epoch: self.epoch,
            seed: 7,
            checkpoints: self.checkpoints,
            memory_max: self.memory_max,
        };
        let small = self.checkpoints.is_some();
        let (lease_ns, missed_ns) = (self.lease_ns, self.missed_ns);
        let raft = move |group, voters| {
            let config = Config { lease_ns, missed_ns, ..Config::new(id, group, voters) };
            if small { snapshots::small_log(config) } else { config }
        };
        self.nodes.insert(id, Node::open(setup, recovered, Box::new(raft), self.now).unwrap());
        self.down.remove(&id);
        self.epochs.insert(id, self.epoch);
        let others: Vec<NodeId> = self.nodes.keys().copied().filter(|n| *n != id).collect();
        for other in others {
            self.link(id, other);
            self.link(other, id);
        }
    }

    fn link(&mut self, from: NodeId, to: NodeId) {
        self.next_link += 1;
        let (epoch, link) = (self.epochs[&to], self.next_link);
        if !self.down.contains(&to) {
            let older = [from, to].into_iter().filter_map(|node| self.older.get(&node));
            let version = older.copied().min().unwrap_or(VERSION_MAX);
            self.input(from, Input::LinkUp { node: to, epoch, link, version });
        }
    }

    /// What a node's clock shows.
    fn wall(&self, id: NodeId) -> LogTime {
        let skew = self.skew.get(&id).copied().unwrap_or_default();
        LogTime((self.now / MS).saturating_add_signed(skew))
    }

    fn input(&mut self, id: NodeId, input: Input) {
        let mut out = Output::default();
        let wall = self.wall(id);
        let Some(node) = self.nodes.get_mut(&id).filter(|_| !self.down.contains(&id)) else {
            return;
        };
        node.handle(self.now, wall, input, &mut out);
        self.carry_out(id, out);
    }

    /// Whether a step of what is kept or forgotten is done before the crash that comes.
    fn has_a_step(&mut self, id: NodeId) -> bool {
        match &mut self.lost_steps {
            Some((node, 0)) if *node == id => false,
            Some((node, left)) if *node == id => {
                *left -= 1;
                true
            }
            _ => true,
        }
    }

    fn poll(&mut self, id: NodeId) {
        let mut out = Output::default();
        let wall = self.wall(id);
        self.nodes.get_mut(&id).unwrap().poll(self.now, wall, &mut out).unwrap();
        self.carry_out(id, out);
    }

    fn carry_out(&mut self, id: NodeId, out: Output) {
        let mut next = std::mem::take(&mut self.queue);
        self.views += u64::from(out.view_changed);
        let disks = self.disks.get_mut(&id).unwrap();
        for (group, write) in &out.writes {
            disks.entry(*group).or_default().write(write);
            if !self.stuck.contains(&id) {
                next.push_back((id, Input::Persisted(vec![(*group, write.token)])));
            }
        }
        for (group, fetch) in out.fetches {
            let result = disks[&group].fetch(&fetch);
            next.push_back((id, Input::Fetched { group, id: fetch.id, result }));
        }
        for (group, upto) in out.compact {
            disks.get_mut(&group).unwrap().compact(upto);
        }
        let given_up = out.given_up.iter().map(|(group, _)| *group).collect();
        self.carry_out_states(id, out.state, given_up, &mut next);
        self.keep_and_forget(id, out.keep, out.forget, &mut next);
        self.sent += (out.heartbeats.len() + out.messages.len()) as u64;
        let mut said = VecDeque::new();
        for (to, heartbeat) in out.heartbeats {
            said.push_back((to, Input::Heartbeat { from: id, heartbeat }));
            said.push_back((to, Input::Clock { from: id, clock: self.wall(id) }));
        }
        for (to, message) in out.witness {
            said.push_back((to, Input::Witness { from: id, message }));
        }
        for (to, envelope) in out.messages {
            self.sent_bytes += travelling(&envelope);
            said.push_back((to, Input::Raft { from: id, envelope }));
        }
        for (to, envelope) in out.moves {
            if self.pass.as_mut().is_none_or(|pass| pass(to, &envelope)) {
                said.push_back((to, Input::Move { from: id, envelope }));
            }
        }
        for (to, message) in out.maps {
            if !self.deaf.contains(&to) {
                said.push_back((to, Input::Map { from: id, message }));
            }
        }
        for peer in out.wake {
            while let Some(envelope) =
                self.nodes.get_mut(&id).unwrap().next_append(self.now, peer, 1 << 18)
            {
                self.sent += 1;
                self.sent_bytes += travelling(&envelope);
                said.push_back((peer, Input::Raft { from: id, envelope }));
            }
        }
        said.retain(|(to, _)| !self.cut.contains(&id) && !self.cut.contains(to));
        next.append(&mut said);
        for Reply { id, answer } in out.replies.into_values().flatten() {
            assert!(self.replies.insert(id, answer).is_none(), "request {id} answered twice");
        }
        self.queue = next;
        // Whoever began goes on until nothing is left: one after another, not one within another.
        if !std::mem::replace(&mut self.draining, true) {
            while let Some((to, input)) = self.queue.pop_front() {
                self.input(to, input);
            }
            self.draining = false;
        }
    }

    fn keep_and_forget(
        &mut self,
        id: NodeId,
        keep: Option<(u64, Arc<Kept>)>,
        forget: Vec<(GroupId, bool)>,
        next: &mut VecDeque<(NodeId, Input)>,
    ) {
        if let Some((number, kept)) = keep.filter(|_| self.has_a_step(id)) {
            let before = self.kept.insert(id, Kept::clone(&kept)).expect("one from the start");
            assert!(before.map.version <= kept.map.version, "node {id} keeps an older map");
            next.push_back((id, Input::Kept(number)));
        }
        for (group, voted) in forget {
            if !self.has_a_step(id) {
                continue;
            }
            let disk = self.disks.get_mut(&id).unwrap().remove(&group).unwrap_or_default();
            if voted {
                let disk = Disk { hard: disk.hard, ..Disk::default() };
                self.disks.get_mut(&id).unwrap().insert(group, disk);
            }
            next.push_back((id, Input::Forgotten(group)));
        }
    }

    /// Lets `ms` pass in steps of one millisecond.
    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now += MS;
            for id in self.nodes.keys().copied().collect::<Vec<_>>() {
                if !self.down.contains(&id) {
                    self.poll(id);
                }
            }
        }
    }

    fn leader(&self, group: GroupId) -> NodeId {
        let leaders: Vec<NodeId> = self
            .nodes
            .iter()
            .filter(|(id, _)| !self.down.contains(id))
            .filter(|(_, node)| {
                let replicas = node.status(self.now).replicas;
                replicas.get(&group).is_some_and(|replica| replica.role == "leader")
            })
            .map(|(id, _)| *id)
            .collect();
        assert_eq!(leaders.len(), 1, "leaders of group {group}: {leaders:?}");
        leaders[0]
    }

    fn ask(&mut self, node: NodeId, group: GroupId, id: u64, body: RequestBody) {
        let batch = RequestBatch { group, requests: vec![Request { id, body }] };
        self.input(node, Input::Requests { origin: Origin(1), batch });
    }
}

fn lane(seq: u64, op: Op) -> RequestBody {
    RequestBody::Lane(LaneRequest {
        session: SessionId(9),
        deadline: LogTime(300_000),
        slot: hash_slot(b"k"),
        seq: Seq(seq),
        acked: Seq(seq.saturating_sub(1)),
        op,
    })
}

fn append(seq: u64, value: &'static [u8]) -> RequestBody {
    lane(seq, Op::Append { key: b"k"[..].into(), value: value.into() })
}

fn outcome(answer: &Answer) -> &Outcome {
    match answer {
        Answer::Done { outcome, .. } => outcome,
        other => panic!("{other:?}"),
    }
}

#[test]
fn e01_c10_a_fresh_cluster_elects_assigns_and_answers_after_apply() {
    let mut world = World::new();
    world.run(2500);
    let leader = world.leader(G1);
    world.ask(leader, G1, 1, append(1, b"ab"));
    assert!(world.replies.is_empty(), "answered before it was proposed");
    world.run(2);
    assert_eq!(outcome(&world.replies[&1]), &Outcome::Integer(2));
    world.ask(leader, G1, 2, RequestBody::Group(GroupQuery::KeyCount));
    world.run(2);
    let count = GroupAnswer::KeyCount { keys: 1, expires: 0 };
    assert_eq!(world.replies[&2], Answer::Group(count));
    assert_eq!(world.nodes[&leader].view().map.config.num, ConfigNum(1));
    world.run(300);
    let digests: BTreeSet<_> =
        world.nodes.values().map(|node| format!("{:?}", node.digests())).collect();
    assert_eq!(digests.len(), 1, "replicas differ");
}

#[test]
fn r19_a_follower_refuses_with_the_leader_as_hint() {
    let mut world = World::new();
    world.run(2500);
    let leader = world.leader(G1);
    let follower = NodeId(leader.0 % 3 + 1);
    world.ask(follower, G1, 1, append(1, b"ab"));
    assert_eq!(world.replies[&1], Answer::NotLeader { hint: Some(leader) });
    world.ask(follower, GroupId(8), 2, append(1, b"ab"));
    assert_eq!(world.replies[&2], Answer::NotLeader { hint: None });
}

#[test]
fn e19_x02_a_deposed_leader_answers_lost_and_the_retry_is_executed_once() {
    let mut world = World::new();
    world.run(2500);
    let leader = world.leader(G1);
    world.ask(leader, G1, 1, append(1, b"ab"));
    world.run(2);
    // The others are gone: what is proposed now cannot be committed here.
    let others: Vec<NodeId> = (1..=3).map(NodeId).filter(|id| *id != leader).collect();
    world.down.extend(others.iter().copied());
    world.ask(leader, G1, 2, append(2, b"cd"));
    world.run(3000);
    assert_eq!(world.replies[&2], Answer::Lost);
    world.ask(leader, G1, 3, append(2, b"cd"));
    assert_eq!(world.replies[&3], Answer::NotLeader { hint: None });
    for other in others {
        world.start(other);
    }
    world.run(3000);
    let leader = world.leader(G1);
    world.ask(leader, G1, 4, append(2, b"cd"));
    world.run(5);
    assert_eq!(outcome(&world.replies[&4]), &Outcome::Integer(4));
}

#[test]
fn p19_a_restart_of_all_replays_the_log_and_keeps_lanes() {
    let mut world = World::new();
    world.run(2500);
    let leader = world.leader(G1);
    for seq in 1..=20 {
        world.ask(leader, G1, seq, append(seq, b"x"));
    }
    world.run(300);
    let before = world.nodes[&leader].digests()[&G1];
    for id in 1..=3 {
        world.start(NodeId(id));
    }
    world.run(2500);
    let leader = world.leader(G1);
    assert_eq!(world.nodes[&leader].digests()[&G1], before);
    world.ask(leader, G1, 100, append(20, b"x"));
    world.run(5);
    assert_eq!(outcome(&world.replies[&100]), &Outcome::Integer(20), "executed again");
    world.ask(leader, G1, 101, lane(21, Op::Get { key: b"k"[..].into() }));
    world.run(5);
    assert_eq!(outcome(&world.replies[&101]), &Outcome::Value(vec![b'x'; 20].into()));
}

/// The answer, if there is nothing to wait for.
fn transfer(world: &mut World, at: NodeId, id: u64, to: NodeId) -> Option<Answer> {
    world.ask(at, G1, id, RequestBody::Transfer { to });
    world.replies.remove(&id)
}

fn told(answer: TransferAnswer) -> Answer {
    Answer::Group(GroupAnswer::Transfer(answer))
}

#[test]
fn e23_a_leader_hands_its_group_over_when_asked() {
    let mut world = World::new();
    world.run(2500);
    let leader = world.leader(G1);
    let (to, third) = (NodeId(leader.0 % 3 + 1), NodeId((leader.0 + 1) % 3 + 1));
    assert_eq!(transfer(&mut world, leader, 1, NodeId(9)), Some(told(TransferAnswer::NotVoter)));
    assert_eq!(transfer(&mut world, leader, 2, leader), Some(told(TransferAnswer::Leads)));
    assert_eq!(transfer(&mut world, to, 3, to), Some(Answer::NotLeader { hint: Some(leader) }));
    world.down.insert(third);
    world.run(600);
    assert_eq!(transfer(&mut world, leader, 4, third), Some(told(TransferAnswer::Unfit)));
    assert_eq!(transfer(&mut world, leader, 5, to), None);
    assert!(!world.nodes[&leader].is_idle(), "a stop waits for the answer");
    world.run(50);
    assert_eq!(world.leader(G1), to);
    assert_eq!(world.replies.remove(&5), Some(Answer::NotLeader { hint: Some(to) }));
    assert_eq!(transfer(&mut world, to, 7, to), Some(told(TransferAnswer::Leads)));
    world.ask(to, G1, 6, append(1, b"ab"));
    world.run(5);
    assert_eq!(outcome(&world.replies[&6]), &Outcome::Integer(2));
}

#[test]
fn e24_who_asked_for_a_transfer_that_is_given_up_is_told_who_leads() {
    let mut world = World::new();
    world.run(2500);
    let leader = world.leader(G1);
    let slow = NodeId(leader.0 % 3 + 1);
    let given_up = Some(told(TransferAnswer::GivenUp { group: G1, leader }));
    // It gets the go-ahead and never has its vote for itself on disk.
    world.stuck.insert(slow);
    for id in 1..=WISHES_PER_GROUP_MAX as u64 {
        assert_eq!(transfer(&mut world, leader, id, slow), None);
    }
    assert_eq!(transfer(&mut world, leader, 99, slow), Some(Answer::Busy));
    world.run(900);
    assert!(world.replies.is_empty(), "{:?}", world.replies);
    world.run(150);
    for id in 1..=WISHES_PER_GROUP_MAX as u64 {
        assert_eq!(world.replies.remove(&id), given_up);
    }
    assert!(world.nodes[&leader].is_idle());
}

#[test]
fn e24_a_later_wish_takes_the_place_of_an_earlier_one_and_both_are_told() {
    let mut world = World::new();
    world.run(2500);
    let leader = world.leader(G1);
    let (slow, to) = (NodeId(leader.0 % 3 + 1), NodeId((leader.0 + 1) % 3 + 1));
    world.stuck.insert(slow);
    assert_eq!(transfer(&mut world, leader, 1, slow), None);
    world.run(1);
    assert_eq!(transfer(&mut world, leader, 2, to), None);
    world.run(50);
    assert_eq!(world.leader(G1), to);
    let given_up = told(TransferAnswer::GivenUp { group: G1, leader });
    assert_eq!(world.replies.remove(&1), Some(given_up));
    assert_eq!(world.replies.remove(&2), Some(Answer::NotLeader { hint: Some(to) }));
}

#[test]
fn a_node_that_leaves_hands_over_all_it_leads_and_wins_nothing_back() {
    let mut world = World::with(many_groups(20));
    world.run(3000);
    let leaving = world.leader(G1);
    world.input(leaving, Input::Leave);
    world.run(50);
    assert!(!world.nodes[&leaving].has_leadership_to_hand_over());
    let groups: Vec<GroupId> = world.config.groups.keys().copied().collect();
    assert!(groups.iter().all(|group| world.leader(*group) != leaving));
    // Alone, it would campaign at its timeouts.
    world.down = world.nodes.keys().copied().filter(|id| *id != leaving).collect();
    world.run(5000);
    let status = world.nodes[&leaving].status(world.now);
    assert!(status.replicas.values().all(|replica| replica.role == "follower"));
    assert!(!world.nodes[&leaving].has_leadership_to_hand_over());
}

#[test]
fn e39_a_node_with_a_stuck_disk_is_led_by_others_within_three_election_timeouts() {
    let mut world = World::with(many_groups(5));
    world.run(3000);
    let slow = world.leader(G1);
    world.stuck.insert(slow);
    world.ask(slow, G1, 1, RequestBody::Group(GroupQuery::KeyCount));
    world.run(3000);
    let groups: Vec<GroupId> = world.config.groups.keys().copied().collect();
    assert!(groups.iter().all(|group| world.leader(*group) != slow));
    world.run(3000);
    assert!(groups.iter().all(|group| world.leader(*group) != slow), "it won one back");
}

/// The bytes that a message is between two nodes.
fn travelling(envelope: &RaftEnvelope) -> u64 {
    let mut bytes = bytes::BytesMut::new();
    codec::encode_frame(&codec::WireFrame::Raft(envelope.clone()), &mut bytes);
    bytes.len() as u64
}

/// R21: each entry goes to each follower once.
#[test]
fn r21_ten_writes_travel_once_to_each_follower() {
    let mut world = World::with(config());
    world.run(2500);
    let leader = world.leader(G1);
    world.sent_bytes = 0;
    for seq in 1..=10 {
        world.ask(leader, G1, seq, append(seq, &[b'x'; 5000]));
        world.run(20);
        assert!(matches!(outcome(&world.replies[&seq]), Outcome::Integer(_)));
    }
    world.run(1000);
    let (payload, sent) = (10 * 5000, world.sent_bytes);
    assert!(sent >= 2 * payload, "{sent} bytes: an entry did not travel");
    assert!(sent <= 2 * payload + 20_000, "{sent} bytes, {payload} of them payload, twice");
}

/// The shardmaster and so many groups, all on nodes 1 to 3.
fn many_groups(count: u32) -> ClusterConfig {
    let mut config = config();
    let seats = config.groups[&G1].clone();
    config.groups.extend((1..=count).map(|group| (GroupId(group), seats.clone())));
    config.slots.clear();
    config.assign_evenly();
    config
}

#[test]
fn r21_a_thousand_idle_groups_cost_at_most_sixty_messages_a_second() {
    let mut world = World::with(many_groups(999));
    world.run(5000);
    let leaders = |world: &World| -> Vec<BTreeMap<GroupId, LeaderView>> {
        world.nodes.values().map(|node| node.view().leaders).collect()
    };
    let before = leaders(&world);
    assert!(before[0].len() == 1000 && before[0].values().all(|led| led.leader.is_some()));
    world.sent = 0;
    world.run(10_000);
    assert!(world.sent <= 600, "{} messages in ten seconds", world.sent);
    assert!(world.sent >= 580, "the nodes have stopped to vouch for themselves");
    assert_eq!(leaders(&world), before);
}

#[test]
fn r17_a_leader_whose_process_is_gone_is_replaced_at_once() {
    let mut world = World::with(many_groups(5));
    world.run(3000);
    let gone = world.leader(G1);
    world.down.insert(gone);
    let others: Vec<NodeId> = world.nodes.keys().copied().filter(|id| *id != gone).collect();
    for (node, after) in others.iter().zip([2, 25]) {
        world.run(after);
        world.input(*node, Input::LinkDown { node: gone, refused: false });
        world.input(*node, Input::LinkDown { node: gone, refused: true });
    }
    world.run(150);
    let groups: Vec<GroupId> = world.config.groups.keys().copied().collect();
    assert!(groups.iter().all(|group| world.leader(*group) != gone));
}

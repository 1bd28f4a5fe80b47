//! Groups on nodes of their own, a client that finds slots wherever they are, and a look at who serves them.

use super::*;
use crate::machine::Machine;
use crate::migration::{MoveEnvelope, MoveMessage};
use crate::shard_store::{ShardStore, SlotPhase, SlotStand};
use crate::shardmaster::{MasterOp, MasterRequest};
use crate::slot::Slot;
use crate::wire::ReadRequest;
use bytes::Bytes;
use raft_core::types::Index;
use std::cell::RefCell;
use std::rc::Rc;

/// Whether a word of a move to this node arrives.
pub(super) type Pass = Box<dyn FnMut(NodeId, &MoveEnvelope) -> bool>;

/// A client asks anew if it has heard nothing for so long.
const ASK_AGAIN_MS: u64 = 200;

/// Group 0 on node 1, and groups 1, 2, ... on the nodes that are given; all lead, and share the slots.
pub(super) fn spread(groups: &[&[u64]]) -> World {
    spread_with(groups, &Setting::default())
}

/// What nodes have.
#[derive(Default)]
pub(super) struct Setting {
    /// Bytes; 0: without a bound.
    pub(super) memory_max: u64,
    pub(super) lease_ns: u64,
    pub(super) checkpoints: Option<CheckpointConfig>,
}

/// The same, with nodes that have this.
pub(super) fn spread_with(groups: &[&[u64]], setting: &Setting) -> World {
    let mut config = config();
    let nodes = groups.iter().flat_map(|nodes| nodes.iter()).copied().max().unwrap_or(1);
    let node = |id: u64| NodeConfig { peer: format!("h:{id}"), resp: format!("h:9{id}") };
    config.nodes = (1..=nodes).map(|id| (NodeId(id), node(id))).collect();
    config.groups = [(SHARDMASTER, GroupConfig { voters: vec![NodeId(1)], weight: 0 })].into();
    for (group, nodes) in (1..).zip(groups) {
        let voters = nodes.iter().copied().map(NodeId).collect();
        config.groups.insert(GroupId(group), GroupConfig { voters, weight: 1 });
    }
    config.slots.clear();
    config.assign_evenly();
    let mut world = World::stopped(config, setting.checkpoints, setting.memory_max);
    world.lease_ns = setting.lease_ns;
    (1..=nodes).for_each(|id| world.start(NodeId(id)));
    world.run(2500);
    world
}

impl World {
    fn heard(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        let there = |id: &NodeId| !self.down.contains(id) && !self.cut.contains(id);
        self.nodes.iter().filter(move |(id, _)| there(id)).map(|(id, node)| (*id, node))
    }

    /// Who leads a group, of the nodes that are there.
    pub(super) fn led_by(&self, group: GroupId) -> Option<NodeId> {
        let leads = self.heard().filter_map(|(id, node)| {
            let replica = node.replica(group).filter(|replica| replica.leads())?;
            Some((replica.role().term, id))
        });
        leads.max().map(|(_, id)| id)
    }

    /// The newest map of a node that is there.
    pub(super) fn newest(&self) -> crate::cluster_map::ClusterMap {
        let maps = self.heard().map(|(_, node)| node.view().map);
        maps.max_by_key(|map| map.version).expect("a node is there")
    }

    pub(super) fn owner_now(&self, slot: Slot) -> GroupId {
        self.newest().owners.of(slot).expect("every slot has an owner").0
    }

    /// Keys, each in a slot of its own, that a group has now.
    pub(super) fn keys_of(&self, group: GroupId, count: usize) -> Vec<String> {
        let owners = self.newest().owners;
        let mut slots = BTreeSet::new();
        let keys = (0..).map(|n| format!("k{n}"));
        let has = |key: &String| owners.of(hash_slot(key.as_bytes())).is_some_and(|o| o.0 == group);
        keys.filter(has).filter(|key| slots.insert(hash_slot(key.as_bytes()))).take(count).collect()
    }

    /// Keys of one slot that a group has now.
    pub(super) fn keys_of_a_slot(&self, group: GroupId, count: usize) -> Vec<String> {
        let tag = &self.keys_of(group, 1)[0];
        (0..count).map(|n| format!("{{{tag}}}{n}")).collect()
    }

    /// An administrator's wish, which is carried out at once.
    pub(super) fn order(&mut self, op: MasterOp) {
        self.next_link += 1;
        let (id, request) = (9_000_000 + self.next_link, MasterRequest { id: None, op });
        let leader = self.led_by(SHARDMASTER).expect("a shardmaster");
        self.ask(leader, SHARDMASTER, id, RequestBody::Master(request));
        for _ in 0..20 {
            match self.replies.get(&id) {
                Some(answer) => {
                    return assert!(matches!(answer, Answer::Master(Ok(_))), "{answer:?}");
                }
                None => self.run(1),
            }
        }
        panic!("the shardmaster does not answer");
    }

    /// Wants the slots of keys at a group.
    pub(super) fn move_keys(&mut self, keys: &[String], to: GroupId) {
        let slots: BTreeSet<Slot> = keys.iter().map(|key| hash_slot(key.as_bytes())).collect();
        let ranges = slots.into_iter().map(|slot| (slot, slot)).collect();
        self.order(MasterOp::MoveSlots { ranges, to });
    }

    /// Waits so long at most; says whether it has come about.
    pub(super) fn until(&mut self, ms: u64, mut done: impl FnMut(&World) -> bool) -> bool {
        for _ in 0..ms {
            if done(self) {
                return true;
            }
            self.run(1);
        }
        done(self)
    }

    /// Whether every one of these keys' slots is at a group, as the map says.
    pub(super) fn are_at(&self, keys: &[String], group: GroupId) -> bool {
        let owners = self.newest().owners;
        let at = |key: &String| owners.of(hash_slot(key.as_bytes())).is_some_and(|o| o.0 == group);
        keys.iter().all(at)
    }

    pub(super) fn store(&self, node: NodeId, group: GroupId) -> &ShardStore {
        match self.nodes[&node].replica(group).expect("a replica").machine() {
            Some(Machine::Shard(store)) => store,
            other => panic!("no slots: {other:?}"),
        }
    }

    pub(super) fn phase(&self, node: NodeId, group: GroupId, key: &str) -> SlotPhase {
        let SlotStand { phase, .. } = self.store(node, group).stand(hash_slot(key.as_bytes()));
        phase
    }

    pub(super) fn is_frozen(&self, node: NodeId, group: GroupId, key: &str) -> bool {
        matches!(self.phase(node, group, key), SlotPhase::Exporting { frozen: true, .. })
    }

    /// Gives a node a word that was held back.
    pub(super) fn hand(&mut self, from: NodeId, (to, envelope): (NodeId, MoveEnvelope)) {
        self.input(to, Input::Move { from, envelope });
        self.run(2);
    }

    /// Moves slots to group 2 until the last rows are in the log of its leader, and nowhere else: that leader.
    pub(super) fn stop_before_the_end(&mut self, keys: &[String], source: NodeId) -> NodeId {
        let held = hold(self, is_last);
        self.move_keys(keys, GroupId(2));
        assert!(self.until(1000, |_| !held.borrow().is_empty()), "nothing is frozen");
        let last = held.borrow()[0].clone();
        let leader = last.0;
        let voters = self.config.groups[&GroupId(2)].voters.clone();
        self.cut.extend(voters.into_iter().filter(|node| *node != leader));
        self.hand(source, last);
        let status = &self.nodes[&leader].status(self.now).replicas[&GroupId(2)];
        assert!(status.last > status.commit, "nothing is in its log");
        leader
    }

    /// Puts a single request to a node; what it is answered may come later.
    pub(super) fn put(&mut self, node: NodeId, group: GroupId, body: RequestBody) -> u64 {
        self.next_link += 1;
        let id = 8_000_000 + self.next_link;
        self.ask(node, group, id, body);
        id
    }

    /// Whether a request was carried out.
    pub(super) fn was_done(&self, id: u64) -> bool {
        matches!(self.replies.get(&id), Some(Answer::Done { .. }))
    }
}

/// Words that were held back: to whom, and what.
pub(super) type Held = Rc<RefCell<Vec<(NodeId, MoveEnvelope)>>>;

/// Holds back the words of moves that are of this kind, from now on.
pub(super) fn hold(world: &mut World, which: impl Fn(&MoveEnvelope) -> bool + 'static) -> Held {
    let held = Held::default();
    let kept = Rc::clone(&held);
    world.pass = Some(Box::new(move |to, said| {
        let holds = which(said);
        if holds {
            kept.borrow_mut().push((to, said.clone()));
        }
        !holds
    }));
    held
}

/// Notes the words of moves that are of this kind, from now on; all arrive.
pub(super) fn note(world: &mut World, which: impl Fn(&MoveEnvelope) -> bool + 'static) -> Held {
    let held = hold(world, which);
    let mut pass = world.pass.take().expect("it was set");
    world.pass = Some(Box::new(move |to, said| {
        pass(to, said);
        true
    }));
    held
}

/// Whether these are the last rows of a slot.
pub(super) fn is_last(said: &MoveEnvelope) -> bool {
    matches!(&said.message, MoveMessage::Chunk { chunk, .. } if chunk.frozen.is_some())
}

/// Asks whoever has a slot, again and again, under one seq, as routers do.
#[derive(Default)]
pub(super) struct Client {
    asked: u64,
    seqs: BTreeMap<Slot, u64>,
}

pub(super) fn read_of(key: &str) -> RequestBody {
    let (slot, op) =
        (hash_slot(key.as_bytes()), Op::Get { key: Bytes::copy_from_slice(key.as_bytes()) });
    RequestBody::Read(ReadRequest { slot, after: None, op })
}

pub(super) fn append_of(key: &str, value: &str) -> Op {
    let key = Bytes::copy_from_slice(key.as_bytes());
    Op::Append { key, value: Bytes::copy_from_slice(value.as_bytes()) }
}

pub(super) fn del_of(keys: &[&str]) -> Op {
    Op::Del { keys: keys.iter().map(|key| Bytes::copy_from_slice(key.as_bytes())).collect() }
}

/// The write with this seq of the client's lane in the slot.
pub(super) fn write_of(slot: Slot, seq: u64, op: Op) -> RequestBody {
    let (session, deadline) = (SessionId(7), LogTime(300_000));
    RequestBody::Lane(LaneRequest {
        session,
        deadline,
        slot,
        seq: Seq(seq),
        acked: Seq(seq - 1),
        op,
    })
}

impl Client {
    /// What came of it within so many milliseconds.
    pub(super) fn ask(
        &mut self,
        world: &mut World,
        slot: Slot,
        body: &RequestBody,
        ms: u64,
    ) -> Option<Outcome> {
        let end = world.now + ms * MS;
        let mut open: Option<(u64, u64)> = None;
        loop {
            if let Some(answer) = open.and_then(|(id, _)| world.replies.get(&id)) {
                if let Answer::Done { outcome, .. } = answer {
                    return Some(outcome.clone());
                }
                open = None;
            }
            if world.now >= end {
                return None;
            }
            let group = world.owner_now(slot);
            if open.is_none_or(|(_, since)| world.now >= since + ASK_AGAIN_MS * MS)
                && let Some(node) = world.led_by(group)
            {
                self.asked += 1;
                open = Some((1_000_000 + self.asked, world.now));
                world.ask(node, group, 1_000_000 + self.asked, body.clone());
            }
            world.run(1);
        }
    }

    /// Writes; if nothing came of it, the next write of that slot has to be the same.
    pub(super) fn write(
        &mut self,
        world: &mut World,
        slot: Slot,
        op: Op,
        ms: u64,
    ) -> Option<Outcome> {
        let seq = self.seqs.get(&slot).copied().unwrap_or(0) + 1;
        let outcome = self.ask(world, slot, &write_of(slot, seq, op), ms)?;
        self.seqs.insert(slot, seq);
        Some(outcome)
    }

    pub(super) fn append(
        &mut self,
        world: &mut World,
        key: &str,
        value: &str,
        ms: u64,
    ) -> Option<Outcome> {
        self.write(world, hash_slot(key.as_bytes()), append_of(key, value), ms)
    }

    pub(super) fn get(&mut self, world: &mut World, key: &str, ms: u64) -> Option<Outcome> {
        self.ask(world, hash_slot(key.as_bytes()), &read_of(key), ms)
    }

    /// Appends something to each key, in the time of a round trip or two.
    pub(super) fn fill(&mut self, world: &mut World, keys: &[String], value: &str) {
        for key in keys {
            assert!(self.append(world, key, value, 50).is_some(), "{key} is not served");
        }
    }

    /// Every key has this value, wherever it is.
    pub(super) fn find(&mut self, world: &mut World, keys: &[String], value: &str) {
        for key in keys {
            let found = self.get(world, key, 3000);
            assert_eq!(found, Some(Outcome::Value(value.to_owned().into())), "{key}");
        }
    }
}

/// Who serves a slot, by the furthest that any replica of a group ever applied.
#[derive(Default)]
pub(super) struct Servers {
    newest: BTreeMap<GroupId, (Index, bool)>,
}

impl Servers {
    /// At most one group serves the slot.
    pub(super) fn look(&mut self, world: &World, key: &str) {
        let slot = hash_slot(key.as_bytes());
        let groups: Vec<GroupId> = world.config.groups.keys().copied().collect();
        for node in world.nodes.values() {
            for group in groups.iter().filter(|group| **group != SHARDMASTER) {
                let Some(replica) = node.replica(*group) else { continue };
                let Some(Machine::Shard(store)) = replica.machine() else { continue };
                let at = replica.applied().index;
                let newest = self.newest.entry(*group).or_default();
                if at > newest.0 {
                    *newest = (at, store.hindrance(slot).is_none());
                }
            }
        }
        let serving: Vec<_> = self.newest.iter().filter(|(_, (_, serves))| *serves).collect();
        assert!(serving.len() <= 1, "{serving:?} serve slot {slot} at {}", world.now / MS);
    }
}

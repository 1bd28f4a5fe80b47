//! Groups that are made while the nodes run.

use super::*;
use crate::shardmaster::{MasterOp, MasterRequest};
use crate::slot::SLOTS;
use crate::wire::ReadRequest;

const G2: GroupId = GroupId(2);

/// Five nodes, of which the first three have every seat.
fn five_nodes() -> World {
    let mut config = config();
    for id in 4..=5 {
        let node = NodeConfig { peer: format!("h:{id}"), resp: format!("h:9{id}") };
        config.nodes.insert(NodeId(id), node);
    }
    let mut world = World::stopped(config, None, 0);
    (1..=5).for_each(|id| world.start(NodeId(id)));
    world.run(2500);
    world
}

fn ids(ids: &[u64]) -> Vec<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

impl World {
    fn master(&mut self, id: u64, op: MasterOp) {
        let leader = self.leader(SHARDMASTER);
        let request = MasterRequest { id: None, op };
        self.ask(leader, SHARDMASTER, id, RequestBody::Master(request));
        self.run(20);
        assert!(matches!(self.replies[&id], Answer::Master(Ok(_))), "{:?}", self.replies[&id]);
    }

    fn create(&mut self, id: u64, voters: &[u64]) {
        let voters = ids(voters);
        let (weight, rebalance) = (1, false);
        self.master(id, MasterOp::CreateGroup { group: Some(G2), voters, weight, rebalance });
    }

    /// Who has a replica of the group.
    fn hosts(&self, group: GroupId) -> Vec<NodeId> {
        let hosts = |node: &Node| node.status(self.now).replicas.contains_key(&group);
        self.nodes.iter().filter(|(_, node)| hosts(node)).map(|(id, _)| *id).collect()
    }
}

#[test]
fn a_group_is_made_on_nodes_that_had_none_and_serves_slots_and_survives_a_restart() {
    let mut world = five_nodes();
    let slot = hash_slot(b"k");
    let leader = world.leader(G1);
    world.ask(leader, G1, 1, append(1, b"ab"));
    world.run(5);
    world.create(2, &[3, 4, 5]);
    world.run(3000);
    assert_eq!(world.hosts(G2), ids(&[3, 4, 5]));
    let ranges = vec![(slot, slot)];
    world.master(3, MasterOp::MoveSlots { ranges, to: G2 });
    world.run(300);
    for node in world.nodes.values() {
        assert_eq!(node.view().map.owners.of(slot).expect("an owner").0, G2);
    }
    let leader = world.leader(G2);
    world.ask(leader, G2, 4, append(2, b"c"));
    world.run(5);
    assert_eq!(outcome(&world.replies[&4]), &Outcome::Integer(3));

    // What its disk has stays closed until a node hears of the group again.
    (1..=5).for_each(|id| world.start(NodeId(id)));
    assert_eq!(world.hosts(G2), []);
    world.run(4000);
    assert_eq!(world.hosts(G2), ids(&[3, 4, 5]));
    let leader = world.leader(G2);
    world.ask(leader, G2, 5, append(2, b"c"));
    let op = Op::Get { key: b"k"[..].into() };
    let read = RequestBody::Read(ReadRequest { slot, after: None, op });
    world.ask(leader, G2, 6, read);
    world.run(10);
    assert_eq!(outcome(&world.replies[&5]), &Outcome::Integer(3), "executed again");
    assert_eq!(outcome(&world.replies[&6]), &Outcome::Value(b"abc"[..].into()));
    assert_eq!(world.nodes[&leader].view().map.owners.count(G1), u32::from(SLOTS) - 1);
    world.run(300);
    let digests: BTreeSet<u64> =
        ids(&[3, 4, 5]).iter().map(|id| world.nodes[id].digests()[&G2]).collect();
    assert_eq!(digests.len(), 1, "replicas differ");
}

/// Who begins late begins with the voters of the beginning, whatever the map wants by then: the others need
/// it for their first majority.
#[test]
fn a_founder_that_is_late_opens_with_the_first_voters_and_one_that_comes_later_with_none() {
    let mut world = five_nodes();
    world.down.extend(ids(&[4, 5]));
    world.create(1, &[3, 4, 5]);
    world.master(2, MasterOp::SetMembers { group: G2, voters: ids(&[1, 2, 3]) });
    world.run(3000);
    assert_eq!(world.hosts(G2), ids(&[1, 2, 3]));
    let role = |world: &World, id| world.nodes[&NodeId(id)].status(world.now).replicas[&G2].role;
    for id in [1, 2, 3] {
        assert_ne!(role(&world, id), "leader", "node {id}: of the first voters there is one");
    }
    world.start(NodeId(4));
    world.run(4000);
    assert_eq!(world.hosts(G2), ids(&[1, 2, 3, 4]));
    let leader = world.leader(G2);
    assert!(ids(&[3, 4]).contains(&leader), "{leader} leads, without a vote");
    for node in world.nodes.iter().filter(|(id, _)| **id != NodeId(5)).map(|(_, node)| node) {
        assert_eq!(node.view().map.founders[&G2], ids(&[3, 4, 5]));
    }
}

//! Groups that are made while the nodes run.

use super::*;
use crate::shardmaster::{MasterOp, MasterQuery, MasterReport, MasterRequest};
use crate::slot::{SLOTS, Slot};
use crate::wire::ReadRequest;
use raft_core::types::Term;

const G2: GroupId = GroupId(2);

/// Five nodes, of which the first three have every seat.
pub(super) fn five_nodes() -> World {
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

pub(super) fn ids(ids: &[u64]) -> Vec<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

impl World {
    pub(super) fn master(&mut self, id: u64, op: MasterOp) {
        let leader = self.leader(SHARDMASTER);
        let request = MasterRequest { id: None, op };
        self.ask(leader, SHARDMASTER, id, RequestBody::Master(request));
        self.run(20);
        assert!(matches!(self.replies[&id], Answer::Master(Ok(_))), "{:?}", self.replies[&id]);
    }

    pub(super) fn create(&mut self, id: u64, voters: &[u64]) {
        let voters = ids(voters);
        let (weight, rebalance) = (1, false);
        self.master(id, MasterOp::CreateGroup { group: Some(G2), voters, weight, rebalance });
    }

    /// Who has a replica of the group.
    pub(super) fn hosts(&self, group: GroupId) -> Vec<NodeId> {
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

    // Who had a replica opens it by the map on its disk, before it has heard anything.
    (1..=5).for_each(|id| world.start(NodeId(id)));
    assert_eq!(world.hosts(G2), ids(&[3, 4, 5]));
    world.run(4000);
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
    let mut first = None;
    for _ in 0..4000 {
        world.run(1);
        first = first.or_else(|| {
            ids(&[1, 2, 3, 4]).into_iter().find(|id| {
                let replicas = world.nodes[id].status(world.now).replicas;
                replicas.get(&G2).is_some_and(|replica| replica.role == "leader")
            })
        });
    }
    let first = first.expect("a leader");
    assert!(ids(&[3, 4]).contains(&first), "{first} leads, without a vote");
    for node in world.nodes.iter().filter(|(id, _)| **id != NodeId(5)).map(|(_, node)| node) {
        assert_eq!(node.view().map.founders[&G2], ids(&[3, 4, 5]));
    }
    // Then the members are those that are wanted.
    assert!(ids(&[1, 2, 3]).contains(&world.leader(G2)));
    assert_eq!(world.hosts(G2), ids(&[1, 2, 3]));
}

/// Three nodes with G2, of whose slots it has none.
fn with_a_spare_group() -> World {
    let mut config = config();
    let seats = config.groups[&G1].clone();
    config.groups.insert(G2, seats);
    let mut world = World::with(config);
    world.run(2500);
    let leader = world.leader(G2);
    world.ask(leader, G2, 1, RequestBody::Group(GroupQuery::KeyCount));
    world.run(5);
    world
}

/// Whether any disk has anything of a group.
fn stored(world: &World, group: GroupId) -> Vec<NodeId> {
    let disks = world.disks.iter().filter(|(_, groups)| groups.contains_key(&group));
    disks.map(|(id, _)| *id).collect()
}

#[test]
fn k13_a_node_opens_its_groups_by_the_map_on_its_disk_without_the_shardmaster() {
    let mut config = config();
    for id in 4..=5 {
        let node = NodeConfig { peer: format!("h:{id}"), resp: format!("h:9{id}") };
        config.nodes.insert(NodeId(id), node);
    }
    config.groups.get_mut(&SHARDMASTER).unwrap().voters = ids(&[1]);
    let mut world = World::stopped(config, None, 0);
    (1..=5).for_each(|id| world.start(NodeId(id)));
    world.run(2500);
    world.create(1, &[3, 4, 5]);
    let slot = hash_slot(b"k");
    world.master(2, MasterOp::MoveSlots { ranges: vec![(slot, slot)], to: G2 });
    world.run(3000);
    // All lose power, and the one with the shardmaster stays down.
    world.down.insert(NodeId(1));
    (2..=5).for_each(|id| world.start(NodeId(id)));
    world.run(3000);
    let leader = world.leader(G2);
    assert_eq!(world.nodes[&leader].view().map.owners.of(slot).expect("an owner").0, G2);
    world.ask(leader, G2, 3, append(1, b"ab"));
    world.run(5);
    assert_eq!(outcome(&world.replies[&3]), &Outcome::Integer(2));
}

#[test]
fn a_group_that_was_removed_goes_from_every_disk_also_of_a_node_that_was_down() {
    let mut world = with_a_spare_group();
    let leader = world.leader(SHARDMASTER);
    let away = NodeId(leader.0 % 3 + 1);
    world.down.insert(away);
    world.run(3000);
    world.master(2, MasterOp::DrainGroup { group: G2 });
    world.run(3000);
    let others: Vec<NodeId> = (1..=3).map(NodeId).filter(|id| *id != away).collect();
    world.master(3, MasterOp::RemoveGroup { group: G2 });
    world.run(1500);
    let up = |world: &World| {
        let hosts = world.hosts(G2);
        hosts.into_iter().filter(|id| !world.down.contains(id)).collect::<Vec<_>>()
    };
    assert_eq!((up(&world), stored(&world, G2)), (vec![], vec![away]));
    // It starts with the map that it has, in which the group is, and hears.
    world.start(away);
    assert_eq!(up(&world), [away]);
    world.run(3000);
    assert_eq!((up(&world), stored(&world, G2)), (vec![], vec![]));
    // All are started with a cluster file that still names it.
    assert!(world.config.groups.contains_key(&G2));
    (1..=3).for_each(|id| world.start(NodeId(id)));
    world.run(3000);
    assert_eq!((up(&world), stored(&world, G2)), (vec![], vec![]));
    // A crash between the note and the deletion: what is left goes at the next start.
    let left =
        Disk { hard: HardState { term: Term(7), ..HardState::default() }, ..Disk::default() };
    world.disks.get_mut(&others[0]).unwrap().insert(G2, left);
    world.start(others[0]);
    world.run(10);
    assert_eq!((up(&world), stored(&world, G2)), (vec![], vec![]));
}

/// R21, M19: a replica that was deleted keeps term and vote, and has no say when it is made anew, though
/// its node was one of the first voters.
#[test]
fn m19_a_founder_that_left_keeps_its_vote_and_does_not_begin_again() {
    let mut world = five_nodes();
    world.create(1, &[3, 4, 5]);
    world.run(3000);
    let leader = world.leader(G2);
    let gone = *ids(&[3, 4, 5]).iter().find(|id| **id != leader).unwrap();
    let stay: Vec<NodeId> = ids(&[3, 4, 5]).into_iter().filter(|id| *id != gone).collect();
    world.master(2, MasterOp::SetMembers { group: G2, voters: stay.clone() });
    world.run(2500);
    assert_eq!(world.hosts(G2), stay);
    let disk = &world.disks[&gone][&G2];
    assert!(disk.entries.is_empty() && disk.hard.term > Term(0), "{:?}", disk.hard);
    let kept = disk.hard;
    assert_eq!(world.kept[&gone].left[&G2], crate::kept::Left::Cleared);
    world.start(gone);
    world.run(2500);
    assert_eq!(world.hosts(G2), stay, "it opens as a founder again");
    // The others are away, and the map wants it back: alone it is nobody, and it remembers its vote.
    world.down.extend(stay.iter().copied());
    world.run(4000);
    world.master(3, MasterOp::SetMembers { group: G2, voters: ids(&[3, 4, 5]) });
    world.run(2500);
    assert_eq!(world.hosts(G2), ids(&[3, 4, 5]));
    let status = world.nodes[&gone].status(world.now).replicas[&G2].clone();
    assert_eq!((status.role, status.term >= kept.term), ("follower", true));
    assert_eq!(status.last, raft_core::types::Index(0));
    stay.iter().for_each(|id| world.start(*id));
    world.run(4000);
    let status = &world.nodes[&gone].status(world.now).replicas[&G2];
    assert!(status.applied > raft_core::types::Index(0));
    world.start(gone);
    world.run(2500);
    assert_eq!(world.hosts(G2), ids(&[3, 4, 5]));
}

/// Deletion is cut short after each step, and the next start goes on with it.
#[test]
fn r21_a_crash_at_each_step_of_leaving_a_group_loses_neither_the_vote_nor_the_note() {
    let mut noted = 0;
    for step in 0..8 {
        let mut world = five_nodes();
        world.create(1, &[3, 4, 5]);
        world.run(3000);
        let leader = world.leader(G2);
        let gone = *ids(&[3, 4, 5]).iter().find(|id| **id != leader).unwrap();
        let stay: Vec<NodeId> = ids(&[3, 4, 5]).into_iter().filter(|id| *id != gone).collect();
        world.lost_steps = Some((gone, step));
        world.master(2, MasterOp::SetMembers { group: G2, voters: stay.clone() });
        world.run(2500);
        let hard = world.disks[&gone][&G2].hard;
        assert!(hard.term > Term(0));
        world.lost_steps = None;
        let is_noted = world.kept[&gone].left.contains_key(&G2);
        noted += u32::from(is_noted);
        world.start(gone);
        assert_eq!(world.hosts(G2).contains(&gone), !is_noted, "after step {step}");
        world.run(4000);
        assert_eq!(world.hosts(G2), stay, "after step {step}");
        let disk = &world.disks[&gone][&G2];
        assert!(disk.entries.is_empty() && disk.hard.term >= hard.term, "after step {step}");
        assert_eq!(world.kept[&gone].left[&G2], crate::kept::Left::Cleared);
    }
    assert!((2..8).contains(&noted), "{noted} of 8");
}

/// Its leader ends as soon as somebody was answered.
#[test]
fn k12_the_next_leader_of_group_0_has_the_configuration_that_was_answered() {
    let mut world = five_nodes();
    let ranges = vec![(Slot(0), Slot(99))];
    let voters = ids(&[3, 4, 5]);
    for (round, op) in [
        MasterOp::CreateGroup { group: Some(G2), voters, weight: 1, rebalance: false },
        MasterOp::MoveSlots { ranges, to: G2 },
        MasterOp::SetWeight { group: G2, weight: 3 },
    ]
    .into_iter()
    .enumerate()
    {
        let (id, leader) = (100 + round as u64, world.leader(SHARDMASTER));
        let request = MasterRequest { id: None, op };
        world.ask(leader, SHARDMASTER, id, RequestBody::Master(request));
        while !world.replies.contains_key(&id) {
            world.run(1);
        }
        let Answer::Master(Ok(done)) = world.replies[&id].clone() else { panic!("refused") };
        let config = world.nodes[&leader].view().map.config;
        assert_eq!(config.num, done.config);
        world.down.insert(leader);
        world.run(3000);
        let next = world.leader(SHARDMASTER);
        assert_ne!(next, leader);
        let query = GroupQuery::Master(MasterQuery::Config(done.config));
        world.ask(next, SHARDMASTER, 200 + id, RequestBody::Group(query));
        world.run(20);
        let answer = GroupAnswer::Master(Box::new(MasterReport::Config(config)));
        assert_eq!(world.replies[&(200 + id)], Answer::Group(answer), "round {round}");
        world.start(leader);
        world.run(1000);
    }
}

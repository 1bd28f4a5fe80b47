//! The time between the install of a snapshot and its state: the one so far is given up, and the one that
//! comes is not here.

use super::snapshots::others;
use super::*;
use crate::checkpoint::StateEvent;
use crate::cluster_map::ClusterMap;
use crate::machine::Machine;
use crate::map_feed::MapMessage;
use crate::replica::Replica;
use crate::wire::ReadRequest;

fn get(key: &str) -> RequestBody {
    let op = Op::Get { key: key.to_owned().into() };
    RequestBody::Read(ReadRequest { slot: hash_slot(b"k"), after: None, op })
}

impl World {
    fn hear_that_the_group_is_gone(&mut self, node: NodeId) {
        let mut map = self.nodes[&node].view().map;
        map.version += 1000;
        map.config.groups.remove(&G1);
        map.founders.remove(&G1);
        map.members.remove(&G1);
        map.config.slots.clear();
        map.owners = ClusterMap::default().owners;
        let message = MapMessage::Whole(Box::new(map));
        self.input(node, Input::Map { from: others(node)[0], message });
    }

    /// Node `away` has lost its links, and the log goes on without it. When it is back, its disk takes the snapshot
    /// that it is sent step by step, and then keeps the state to itself.
    fn stopped_at_the_state(
        seqs: std::ops::RangeInclusive<u64>,
        last: bool,
    ) -> (World, NodeId, NodeId) {
        let (mut world, leader) = World::taking_checkpoints();
        let away = others(leader)[0];
        world.fill(leader, 1..=20, 1000);
        world.down.insert(away);
        world.fill(leader, seqs, 1000);
        if last {
            world.input(leader, Input::CheckpointWanted(G1));
            world.run(5);
            assert_eq!(world.replica(leader).checkpoint, world.replica(leader).last);
        }
        world.relink(away);
        assert!(world.replica(away).applied.0 > 0, "it has a state of its own");
        let installs = |input: &Input| {
            matches!(input, Input::State { event: StateEvent::Installed { .. }, .. })
        };
        for _ in 0..2000 {
            world.slow.insert(away, VecDeque::new());
            world.run(20);
            if world.slow[&away].iter().any(installs) {
                return (world, leader, away);
            }
            world.quicken(away);
        }
        panic!("no install");
    }
}

#[test]
fn s15_nothing_is_applied_between_an_install_and_its_state() {
    let (mut world, leader, away) = World::stopped_at_the_state(21..=300, false);
    let before = world.replica(away).applied;
    let base = world.disk(away).base.index;
    assert!(base > before, "the log begins behind the snapshot");
    // A host that asks for a checkpoint now must not get one of the old state.
    world.input(away, Input::CheckpointWanted(G1));
    world.fill(leader, 301..=330, 1000);
    assert_eq!(world.replica(away).applied, before);
    world.quicken(away);
    world.run(100);
    assert_eq!(world.replica(away).applied, world.replica(leader).applied);
    assert!(world.replica(away).checkpoint >= base);
    world.assert_same_states();
}

/// A replica whose state is on its way has none, and is said to take what the one that comes will take.
fn gives_up_the_state_so_far_and_tells_nothing_of_an_empty_one() {
    let (mut world, leader, away) = World::stopped_at_the_state(21..=300, false);
    let replica = world.replica(away);
    assert!(replica.installing && replica.keys == 0, "{replica:?}");
    assert!(!world.nodes[&away].digests().contains_key(&G1));
    assert!(world.nodes[&away].replica(G1).unwrap().machine().is_none());
    let snapshot = world.disk(away).state.checkpoint.clone().expect("it is on the disk");
    assert_eq!(world.nodes[&away].memory().values, snapshot.bytes);
    world.quicken(away);
    world.run(100);
    assert!(!world.replica(away).installing);
    assert_eq!(world.replica(away).keys, world.replica(leader).keys);
    assert_eq!(world.nodes[&away].memory().values, world.nodes[&leader].memory().values);
    world.assert_same_states();
}

/// Its log has all that is committed, so it may be elected; what it has not is a state to answer from.
#[test]
fn s15_who_is_made_leader_before_its_state_is_there_answers_when_it_is() {
    let (mut world, leader, away) = World::stopped_at_the_state(21..=300, true);
    let other = others(leader)[1];
    let keys = world.replica(leader).keys;
    world.down.insert(leader);
    // It votes, and leads nothing.
    world.input(other, Input::Leave);
    world.run(5000);
    assert_eq!(world.leader(G1), away);
    assert!(world.replica(away).installing);
    world.ask(away, G1, 1, get("{k}300"));
    world.ask(away, G1, 2, append(301, b"a"));
    world.ask(away, G1, 3, RequestBody::Group(GroupQuery::KeyCount));
    world.run(2000);
    let told: Vec<_> = (1..=3).filter(|id| world.replies.contains_key(id)).collect();
    assert!(told.is_empty(), "{told:?} are answered from no state");
    world.quicken(away);
    world.run(200);
    assert_eq!(outcome(&world.replies[&1]), &Outcome::Value(format!("{:040}", 300).into()));
    assert_eq!(outcome(&world.replies[&2]), &Outcome::Integer(1));
    let count = |answer: &Answer| match answer {
        Answer::Group(GroupAnswer::KeyCount { keys, .. }) => *keys,
        other => panic!("{other:?}"),
    };
    assert_eq!(count(&world.replies[&3]), keys + 1);
}

#[test]
fn s15_the_state_so_far_is_given_up_and_nothing_is_told_of_an_empty_one() {
    gives_up_the_state_so_far_and_tells_nothing_of_an_empty_one();
}

/// The group is removed meanwhile: the state comes to nobody.
#[test]
fn s15_a_state_that_comes_when_the_group_is_gone_is_dropped() {
    let (mut world, _, away) = World::stopped_at_the_state(21..=300, false);
    world.hear_that_the_group_is_gone(away);
    world.run(50);
    assert!(world.nodes[&away].replica(G1).is_none());
    world.quicken(away);
    world.run(50);
    assert!(world.nodes[&away].replica(G1).is_none() && !world.disks[&away].contains_key(&G1));
    assert_eq!(world.nodes[&away].memory().values, 0, "it is counted still");
}

/// To drop it takes as long as it has keys and entries, and the node has other groups.
#[test]
fn a_replica_that_is_deleted_is_its_hosts_to_drop() {
    let (mut world, leader) = World::taking_checkpoints();
    let node = others(leader)[0];
    world.fill(leader, 1..=20, 1000);
    let keys = world.replica(node).keys;
    world.hear_that_the_group_is_gone(node);
    let mut closed = Vec::new();
    for _ in 0..10 {
        let (now, wall, mut out) = (world.now, LogTime(world.now / MS), Output::default());
        world.nodes.get_mut(&node).unwrap().poll(now, wall, &mut out).unwrap();
        closed.append(&mut out.closed);
        world.carry_out(node, out);
    }
    assert!(world.nodes[&node].replica(G1).is_none());
    let [Some(Machine::Shard(store))] = closed.iter().map(Replica::machine).collect::<Vec<_>>()[..]
    else {
        panic!("{closed:?}")
    };
    assert!(keys > 0 && store.stats().keys == keys, "{keys} {:?}", store.stats());
}

#[test]
fn each_broken_rule_of_installs_is_noticed() {
    let scenario: fn() = gives_up_the_state_so_far_and_tells_nothing_of_an_empty_one;
    each_is_noticed(&[(Mutant::BothStates, scenario), (Mutant::EmptyIsTheState, scenario)]);
}

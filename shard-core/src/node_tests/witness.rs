//! F10: yesterday's copy of a disk is put back.

use super::*;
use crate::replica::ReplicaError;
use crate::witness::Older;

/// A follower of the group of slots.
fn follower(world: &World) -> NodeId {
    let leader = world.leader(G1);
    world.nodes.keys().copied().find(|node| *node != leader).expect("three nodes")
}

fn write(world: &mut World, seqs: std::ops::RangeInclusive<u64>) {
    for seq in seqs {
        let leader = world.leader(G1);
        world.ask(leader, G1, seq, append(seq, b"x"));
        world.run(5);
        assert!(matches!(outcome(&world.replies[&seq]), Outcome::Integer(_)));
    }
}

fn next_poll(world: &mut World, id: NodeId) -> Result<(), ReplicaError> {
    let (now, wall) = (world.now, LogTime(world.now / MS));
    world.nodes.get_mut(&id).unwrap().poll(now, wall, &mut Output::default())
}

#[test]
fn f10_yesterdays_copy_of_a_disk_is_noticed_by_who_was_promised_more() {
    let mut world = World::new();
    world.run(2500);
    write(&mut world, 1..=3);
    let (id, leader) = (follower(&world), world.leader(G1));
    let yesterday = world.disks[&id].clone();
    write(&mut world, 4..=6);
    let last = world.disks[&id][&G1].entries.last().unwrap().id;
    world.down.insert(id);
    world.disks.insert(id, yesterday);
    world.start(id);
    let Err(ReplicaError::Older(older)) = next_poll(&mut world, id) else {
        panic!("an old disk goes on");
    };
    let Older { group, found, promised, witness } = older;
    assert_eq!((group, witness), (G1, leader));
    assert_eq!((promised.term, promised.index), (last.term, last.index));
    assert_eq!(found.index.0 + 3, promised.index.0);
    let said = ReplicaError::Older(older).to_string();
    assert!(said.starts_with("group 1: this disk is older than what it told node"), "{said}");
}

#[test]
fn f10_a_vote_that_was_forgotten_is_noticed_by_who_got_it() {
    let mut world = World::new();
    world.run(2500);
    write(&mut world, 1..=1);
    let yesterday = world.disks.clone();
    // Another one leads, by the votes of both.
    let before = world.leader(G1);
    world.down.insert(before);
    world.run(4000);
    let leader = world.leader(G1);
    let voter = world.nodes.keys().copied().find(|n| *n != leader && *n != before).unwrap();
    world.down.insert(voter);
    world.disks.insert(voter, yesterday[&voter].clone());
    world.start(voter);
    let Err(ReplicaError::Older(older)) = next_poll(&mut world, voter) else {
        panic!("a forgotten vote goes unnoticed");
    };
    assert!(older.promised.term > older.found.term, "{older}");
}

#[test]
fn f10_a_disk_that_kept_its_word_is_never_accused() {
    let mut world = World::new();
    world.run(2500);
    for round in 0..12 {
        write(&mut world, round * 3 + 1..=round * 3 + 3);
        let id = NodeId(round % 3 + 1);
        world.down.insert(id);
        world.run(if round % 2 == 0 { 10 } else { 4000 });
        world.start(id);
        // Again at once, and over new links.
        world.start(id);
        for other in (1..=3).map(NodeId).filter(|other| *other != id) {
            world.link(id, other);
        }
        world.run(4000);
    }
}

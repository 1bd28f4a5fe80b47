//! F10: yesterday's copy of a disk is put back.

use super::*;
use crate::replica::ReplicaError;
use crate::wire::RaftEnvelope;
use crate::witness::{Older, Promise, WitnessMessage};
use raft_core::message::{ID_MAX, Message, RequestVote};
use raft_core::types::Term;

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

/// What is refused and what strangers say is remembered of nobody.
#[test]
fn f10_only_members_promise_and_only_what_is_taken() {
    let mut world = World::new();
    world.run(2500);
    let vote = |term| {
        Message::RequestVote(RequestVote { term, last: EntryId::default(), transfer: false })
    };
    let say = |world: &mut World, from, term| {
        let envelope = RaftEnvelope { group: G1, message: vote(term) };
        world.input(NodeId(1), Input::Raft { from, envelope });
    };
    let before = world.nodes[&NodeId(1)].status(world.now).counters[0];
    say(&mut world, NodeId(2), Term(ID_MAX + 1));
    assert_ne!(world.nodes[&NodeId(1)].status(world.now).counters[0], before, "it was taken");
    world.down.insert(NodeId(2));
    world.start(NodeId(2));
    next_poll(&mut world, NodeId(2)).expect("the promise was refused");
    say(&mut world, NodeId(9), Term(1));
    let began = WitnessMessage::Began { epoch: 99, found: [(G1, Promise::default())].into() };
    let mut out = Output::default();
    let input = Input::Witness { from: NodeId(9), message: began };
    world.nodes.get_mut(&NodeId(1)).unwrap().handle(world.now, LogTime(1), input, &mut out);
    assert_eq!(out.witness, [], "a stranger's words");
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

//! Values that are larger than a chunk, on their way between nodes.

use super::moves::G2;
use super::slots::{Client, del_of, hold, note, spread};
use super::*;
use crate::handshake::PARTS_VERSION;
use crate::migration::{MOVE_CHUNK, MoveEnvelope, MoveMessage};
use crate::shard_store::{Mutant, SlotPhase};

const LARGE: usize = 3 << 20;

/// What is said of rows, by whom it is told: chunks, parts, and whether one is larger than it may be.
fn rows_of(said: &[(NodeId, MoveEnvelope)]) -> (usize, usize, usize) {
    let (mut chunks, mut parts, mut most) = (0, 0, 0);
    for (_, said) in said {
        let chunk = match &said.message {
            MoveMessage::Chunk { chunk, .. } => {
                chunks += 1;
                chunk
            }
            MoveMessage::Part { chunk, .. } => {
                parts += 1;
                chunk
            }
            _ => continue,
        };
        most = most.max(chunk.bytes());
    }
    (chunks, parts, most)
}

/// Group 1 is on node 2, group 2 on the three behind it.
fn cluster() -> (World, Client, Vec<String>) {
    let world = spread(&[&[2], &[3, 4, 5]]);
    let keys = world.keys_of_a_slot(G1, 2);
    (world, Client::default(), keys)
}

#[test]
fn no_message_and_no_entry_has_more_than_a_chunk() {
    let (mut world, mut client, keys) = cluster();
    let value = "x".repeat(LARGE);
    client.fill(&mut world, &keys, &value);
    let said = note(&mut world, |_| true);
    world.move_keys(&keys, G2);
    assert!(world.until(10_000, |world| world.are_at(&keys, G2)));
    let (_, parts, most) = rows_of(&said.borrow());
    assert!(parts >= 2 * LARGE / MOVE_CHUNK.bytes, "{parts} parts");
    assert!(most <= MOVE_CHUNK.bytes + 64, "{most} bytes in a chunk");
    client.find(&mut world, &keys, &value);
}

/// Somebody writes while parts are on their way: what is taken in the end is what was written last.
#[test]
fn a_value_that_changes_or_goes_between_its_parts_is_taken_anew_or_not_at_all() {
    for (parts, deletes) in [(1, false), (5, false), (1, true), (5, true)] {
        let (mut world, mut client, keys) = cluster();
        client.fill(&mut world, &keys, &"x".repeat(LARGE));
        let said = note(&mut world, |said| matches!(said.message, MoveMessage::Part { .. }));
        world.move_keys(&keys, G2);
        assert!(world.until(5000, |_| said.borrow().len() >= parts));
        let slot = hash_slot(keys[0].as_bytes());
        client.write(&mut world, slot, del_of(&[&keys[0]]), 50).expect("an answer");
        let right = (!deletes).then(|| "y".repeat(LARGE));
        if let Some(right) = &right {
            client.append(&mut world, &keys[0], right, 50).expect("an answer");
        }
        assert!(world.until(10_000, |world| world.are_at(&keys, G2)));
        let right = right.map_or(Outcome::Nil, |right| Outcome::Value(right.into()));
        assert_eq!(client.get(&mut world, &keys[0], 3000), Some(right), "{parts} {deletes}");
        client.find(&mut world, &keys[1..], &"x".repeat(LARGE));
    }
}

/// With each part of a value keys come that sort before it and after all that was copied.
fn crowded() {
    let (mut world, mut client, keys) = cluster();
    let (first, value) = (&keys[0], "x".repeat(LARGE));
    let large = format!("{first}z");
    client.fill(&mut world, std::slice::from_ref(&large), &value);
    let said = note(&mut world, |said| matches!(said.message, MoveMessage::Part { .. }));
    world.move_keys(&keys, G2);
    for at in 0..100 {
        let seen = said.borrow().len();
        let goes_on = |world: &World| said.borrow().len() > seen || world.are_at(&keys, G2);
        assert!(world.until(5000, goes_on), "nothing moves after {seen} parts");
        if world.are_at(&keys, G2) {
            return client.find(&mut world, &[large], &value);
        }
        client.append(&mut world, &format!("{first}e{at:03}"), "e", 50).expect("an answer");
    }
    panic!("{} parts of a value of {} bytes", said.borrow().len(), value.len());
}

#[test]
fn keys_that_come_before_a_large_value_do_not_keep_it() {
    crowded();
}

/// A node turns out to speak the version before parts.
fn make_older(world: &mut World, older: NodeId) {
    world.older.insert(older, PARTS_VERSION - 1);
    for other in (1..=5).map(NodeId).filter(|other| *other != older) {
        world.link(older, other);
        world.link(other, older);
    }
}

/// Who does not know parts is not told of them, and has none in its log, nor would have if it were brought in.
fn unknown() {
    for older in [1, 2, 4] {
        let (mut world, mut client, keys) = cluster();
        make_older(&mut world, NodeId(older));
        world.run(2500);
        let value = "x".repeat(LARGE);
        client.fill(&mut world, &keys, &value);
        let said = note(&mut world, |_| true);
        world.move_keys(&keys, G2);
        assert!(world.until(10_000, |world| world.are_at(&keys, G2)));
        let of_parts = |(_, said): &(NodeId, MoveEnvelope)| {
            matches!(said.message, MoveMessage::InParts { .. } | MoveMessage::Part { .. })
        };
        assert_eq!(said.borrow().iter().filter(|said| of_parts(said)).count(), 0, "{older}");
        client.find(&mut world, &keys, &value);
    }
}

/// Who comes while a part is on its way counts as well.
fn found_out() {
    let (mut world, mut client, keys) = cluster();
    let value = "x".repeat(LARGE);
    client.fill(&mut world, &keys, &value);
    let held = hold(&mut world, |said| matches!(said.message, MoveMessage::Part { .. }));
    world.move_keys(&keys, G2);
    assert!(world.until(5000, |_| !held.borrow().is_empty()));
    make_older(&mut world, NodeId(1));
    world.run(5);
    for (to, envelope) in held.take() {
        world.input(to, Input::Move { from: NodeId(2), envelope });
        world.run(20);
        let phase = world.phase(to, G2, &keys[0]);
        assert!(matches!(phase, SlotPhase::Importing { held: None, .. }), "{phase:?}");
    }
    assert!(world.until(10_000, |world| world.are_at(&keys, G2)));
    client.find(&mut world, &keys, &value);
}

#[test]
fn who_does_not_know_parts_gets_none() {
    unknown();
}

#[test]
fn a_part_that_comes_after_somebody_who_does_not_know_parts_is_not_taken() {
    found_out();
}

#[test]
fn each_broken_rule_of_parts_is_noticed() {
    each_is_noticed(&[
        (Mutant::PartsForAll, unknown),
        (Mutant::PartsForMembers, unknown),
        (Mutant::PartsAsAsked, found_out),
        (Mutant::PartsGiveWay, crowded),
    ]);
}

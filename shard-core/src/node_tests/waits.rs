//! What a move waits for, and who waits for it: rows in the log of a majority, and the end of a freeze.

use super::moves::G2;
use super::slots::{Client, append_of, hold, is_last, note, spread, write_of};
use super::*;
use crate::migration::{MoveAsk, MoveMessage};
use crate::moves::MoveId;
use crate::shard_store::SlotPhase;

const SOURCE: NodeId = NodeId(2);

fn cluster() -> (World, Client, Vec<String>) {
    let mut world = spread(&[&[2], &[3, 4, 5]]);
    let (mut client, keys) = (Client::default(), world.keys_of(G1, 1));
    client.fill(&mut world, &keys, "a");
    (world, client, keys)
}

/// Rows that the leader alone has may be lost with it: no round ends with them.
fn next_round() {
    let (mut world, mut client, keys) = cluster();
    let held = hold(&mut world, |said| matches!(said.message, MoveMessage::Chunk { .. }));
    world.move_keys(&keys, G2);
    assert!(world.until(1000, |_| !held.borrow().is_empty()));
    let (leader, chunk) = held.borrow()[0].clone();
    world.cut.extend((3..=5).map(NodeId).filter(|node| *node != leader));
    let asked = note(&mut world, |said| {
        matches!(said.message, MoveMessage::InParts { ask: MoveAsk::Next { .. }, .. })
    });
    world.hand(SOURCE, (leader, chunk));
    world.run(100);
    assert_eq!(asked.borrow().len(), 0, "another round is asked for");
    let phase = world.phase(SOURCE, G1, &keys[0]);
    assert!(matches!(phase, SlotPhase::Exporting { round: 0, .. }), "{phase:?}");
    world.cut.clear();
    assert!(world.until(10_000, |world| world.are_at(&keys, G2)));
    client.find(&mut world, &keys, "a");
}

/// Whoever asks for a frozen slot is answered when that is over, and not told to come again.
fn frozen_slot() {
    let (mut world, _, keys) = cluster();
    world.stop_before_the_end(&keys, SOURCE);
    let slot = hash_slot(keys[0].as_bytes());
    let asked = world.put(SOURCE, G1, write_of(slot, 2, append_of(&keys[0], "b")));
    world.run(50);
    assert_eq!(world.replies.get(&asked), None);
    (world.pass, world.cut) = (None, BTreeSet::new());
    assert!(world.until(10_000, |world| world.replies.contains_key(&asked)));
    assert!(matches!(world.replies[&asked], Answer::Moved { to: G2, .. }));
}

/// A last round that takes its time is not given up because the source asks how it stands.
fn slow_end() {
    let (mut world, mut client, keys) = cluster();
    let held = hold(&mut world, is_last);
    world.move_keys(&keys, G2);
    assert!(world.until(1000, |_| !held.borrow().is_empty()));
    world.run(2000);
    assert!(world.is_frozen(SOURCE, G1, &keys[0]), "it was given up");
    world.pass = None;
    assert!(world.until(5000, |world| world.are_at(&keys, G2)));
    let stand = world.store(SOURCE, G1).stand(hash_slot(keys[0].as_bytes()));
    assert_eq!(stand.settled, MoveId(1), "it was refused, and ordered again");
    client.find(&mut world, &keys, "a");
}

#[test]
fn a_round_ends_with_what_is_applied_and_a_freeze_with_an_answer() {
    next_round();
    frozen_slot();
    slow_end();
}

#[test]
fn each_broken_rule_of_waiting_is_noticed() {
    each_is_noticed(&[
        (Mutant::RoundByReceived, next_round),
        (Mutant::ParkNothing, frozen_slot),
        (Mutant::RefuseWhenAsked, slow_end),
    ]);
}

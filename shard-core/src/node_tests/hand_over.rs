//! Lines G of moves in whose midst somebody ends, is cut off, or has no room.

use super::moves::G2;
use super::slots::{
    Client, Held, Servers, Setting, append_of, del_of, hold, is_last, note, read_of, spread,
    spread_with, write_of,
};
use super::*;
use crate::disk_room::DiskRoom;
use crate::migration::{MOVE_CHUNK, MoveAsk, MoveEnvelope, MoveMessage, RowName};
use crate::moves::RefuseReason;
use crate::op::OpError;
use crate::shard_store::{Mutant, SlotPhase, Wanted, set_mutant};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

const SOURCE: NodeId = NodeId(2);

/// A leader with a lease may answer reads of what it has applied; what is only in its log it has not.
fn activation() {
    let lease_ns = 300 * MS;
    let mut world = spread_with(&[&[2], &[3, 4, 5]], &Setting { lease_ns, ..Setting::default() });
    let (mut client, keys) = (Client::default(), world.keys_of(G1, 1));
    let (key, slot) = (keys[0].as_str(), hash_slot(keys[0].as_bytes()));
    client.fill(&mut world, &keys, "a");
    let leader = world.stop_before_the_end(&keys, SOURCE);
    let mut asked = Vec::new();
    for _ in 0..100 {
        asked.push(world.put(leader, G2, read_of(key)));
        asked.push(world.put(leader, G2, write_of(slot, 2, append_of(key, "b"))));
        world.run(1);
        assert!(world.is_frozen(SOURCE, G1, key), "nobody has it");
    }
    let served = asked.iter().filter(|id| world.was_done(**id)).count();
    assert_eq!(served, 0, "served before the install was committed");
    world.pass = None;
    world.cut.clear();
    client.find(&mut world, &keys, "a");
    assert!(world.are_at(&keys, G2));
}

#[test]
fn g04_the_new_owner_serves_once_its_install_is_committed_and_not_before() {
    activation();
}

#[test]
fn a_broken_rule_at_the_destination_is_noticed() {
    set_mutant(Some(Mutant::ServeUncommitted));
    let ended = catch_unwind(AssertUnwindSafe(activation));
    set_mutant(None);
    assert!(ended.is_err(), "nobody notices that it serves too early");
}

#[test]
fn g07_the_next_leader_of_a_frozen_source_hands_out_the_same_bytes() {
    let mut world = spread(&[&[2, 3, 4], &[5]]);
    let (mut client, keys) = (Client::default(), world.keys_of_a_slot(G1, 10));
    let (key, slot) = (keys[0].as_str(), hash_slot(keys[0].as_bytes()));
    client.fill(&mut world, &keys, "a");
    // All is copied, and clients write before the next round is asked for.
    let asked = hold(&mut world, |said| {
        matches!(said.message, MoveMessage::InParts { ask: MoveAsk::Next { .. }, .. })
    });
    world.move_keys(&keys, G2);
    assert!(world.until(1000, |_| !asked.borrow().is_empty()));
    client.fill(&mut world, &keys[..3], "b");
    let lost = hold(&mut world, is_last);
    assert!(world.until(2000, |_| !lost.borrow().is_empty()));
    let frozen = |world: &World| (2..=4).all(|node| world.is_frozen(NodeId(node), G1, key));
    assert!(world.until(500, frozen));
    let chunk_of = |said: &MoveEnvelope| match &said.message {
        MoveMessage::Chunk { chunk, .. } => chunk.clone(),
        other => panic!("{other:?}"),
    };
    let first = chunk_of(&lost.borrow()[0].1);
    assert!(first.rows.len() > 3, "three keys and a lane: {first:?}");
    for node in [2, 3, 4] {
        let SlotPhase::Exporting { order, round, frozen: true } =
            world.phase(NodeId(node), G1, key)
        else {
            panic!("it is not frozen on node {node}");
        };
        let store = world.store(NodeId(node), G1);
        let wanted = Wanted { round, from: &RowName::new(), parts: true, held: None };
        let rows = store.chunk(slot, order.id, wanted, MOVE_CHUNK).expect("rows");
        assert_eq!(rows.0, (first.clone(), None), "node {node}");
    }
    let leader = world.led_by(G1).expect("a leader");
    world.down.insert(leader);
    let handed = note(&mut world, is_last);
    assert!(world.until(10_000, |world| world.are_at(&keys, G2)));
    let chunks: Vec<_> = handed.borrow().iter().map(|(_, said)| chunk_of(said)).collect();
    assert!(!chunks.is_empty() && chunks.iter().all(|chunk| *chunk == first));
    client.find(&mut world, &keys[..3], "ab");
    client.find(&mut world, &keys[3..], "a");
}

/// So many chunks arrive; the rest is held back.
fn stop_after(world: &mut World, chunks: usize) -> Held {
    let left = Cell::new(chunks);
    hold(world, move |said| match said.message {
        MoveMessage::Chunk { .. } | MoveMessage::Part { .. } if left.get() == 0 => true,
        MoveMessage::Chunk { .. } | MoveMessage::Part { .. } => {
            left.set(left.get() - 1);
            false
        }
        _ => false,
    })
}

/// The leader of the destination ends when so many chunks are applied, perhaps with another one in its log alone. Values
/// have so many bytes.
fn resume(chunks: usize, one_more: bool, bytes: usize) {
    let mut world = spread(&[&[2], &[3, 4, 5]]);
    let (mut client, keys) = (Client::default(), world.keys_of_a_slot(G1, 12));
    let value = "x".repeat(bytes);
    client.fill(&mut world, &keys, &value);
    let held = stop_after(&mut world, chunks);
    world.move_keys(&keys, G2);
    assert!(world.until(5000, |_| !held.borrow().is_empty()));
    world.run(300);
    let leader = world.led_by(G2).expect("a leader");
    let others: Vec<NodeId> = (3..=5).map(NodeId).filter(|node| *node != leader).collect();
    let phases: Vec<SlotPhase> =
        others.iter().map(|node| world.phase(*node, G2, &keys[0])).collect();
    let SlotPhase::Importing { round: 0, cursor: Some(cursor), held: part, .. } = &phases[0] else {
        panic!("{phases:?}");
    };
    assert!(!cursor.is_empty() && phases[0] == phases[1], "{phases:?}");
    assert_eq!(part.is_some(), bytes > MOVE_CHUNK.bytes, "{phases:?}");
    if one_more {
        world.cut.extend(others);
        let next = held.borrow()[0].clone();
        assert_eq!(next.0, leader);
        world.hand(SOURCE, next);
        let status = &world.nodes[&leader].status(world.now).replicas[&G2];
        assert!(status.last > status.commit, "it has no chunk that the others lack");
    }
    world.down.insert(leader);
    world.cut.clear();
    let asked = note(&mut world, |said| said.to == G1);
    assert!(world.until(10_000, |world| world.are_at(&keys, G2)));
    let ask = MoveAsk::Fetch { round: 0, from: cursor.clone() };
    let fetch = MoveMessage::InParts { ask, held: part.clone() };
    let asked = asked.borrow();
    let fetches = asked.iter().map(|(_, said)| &said.message);
    let mut fetches = fetches.filter(|message| !matches!(message, MoveMessage::Ended { .. }));
    assert_eq!(fetches.next(), Some(&fetch), "{chunks} chunks, one more: {one_more}");
    let begins = |message: &MoveMessage| {
        matches!(message, MoveMessage::InParts { ask: MoveAsk::Begin(_), .. })
    };
    assert!(!fetches.any(begins), "it began anew");
    client.find(&mut world, &keys, &value);
}

#[test]
fn g08_the_next_leader_of_a_destination_goes_on_behind_what_was_applied() {
    for chunks in [1, 2, 4] {
        resume(chunks, false, 100 << 10);
        resume(chunks, true, 100 << 10);
        // After one the lanes are there, and nothing of a value.
        resume(chunks + 1, false, 2 << 20);
        resume(chunks + 1, true, 2 << 20);
    }
}

fn is_refused(world: &World, key: &str, reason: RefuseReason) -> bool {
    let waiting = world.newest().waiting;
    waiting.get(&hash_slot(key.as_bytes())).is_some_and(|waiting| waiting.reason == reason)
}

#[test]
fn g20_a_destination_without_memory_refuses_in_the_middle_and_the_source_serves_on() {
    let memory_max = 24 << 20;
    let mut world = spread_with(&[&[2], &[3]], &Setting { memory_max, ..Setting::default() });
    let (mut client, to) = (Client::default(), NodeId(3));
    let value = "x".repeat(128 << 10);
    // It is filled to the brim, and then has room for a part of what comes.
    let others = world.keys_of(G2, 300);
    let full = Some(Outcome::Error(OpError::OutOfMemory));
    let filled = others.iter().take_while(|key| client.append(&mut world, key, &value, 50) != full);
    let filled = filled.count();
    assert!((16..300).contains(&filled), "{filled} keys");
    let free = |world: &mut World, client: &mut Client, keys: &[String]| {
        for key in keys {
            client.write(world, hash_slot(key.as_bytes()), del_of(&[key]), 50).expect("an answer");
        }
    };
    free(&mut world, &mut client, &others[..8]);
    let keys = world.keys_of_a_slot(G1, 24);
    client.fill(&mut world, &keys, &value);
    let (before, mut most) = (world.store(to, G2).stats().keys, 0);
    world.move_keys(&keys, G2);
    let refused = world.until(10_000, |world| {
        most = most.max(world.store(to, G2).stats().keys);
        is_refused(world, &keys[0], RefuseReason::OutOfMemory)
    });
    assert!(refused, "it is not refused");
    assert!(most > before, "it was not in the middle");
    assert_eq!(world.phase(to, G2, &keys[0]), SlotPhase::Absent);
    assert_eq!(world.store(to, G2).stats().keys, before, "some of it stayed");
    assert!(client.append(&mut world, &keys[0], "b", 5).is_some());
    assert!(client.get(&mut world, &keys[1], 5).is_some());
    // There is room: it comes by itself.
    free(&mut world, &mut client, &others[8..filled]);
    assert!(world.until(60_000, |world| world.are_at(&keys, G2)), "it does not come");
    client.find(&mut world, &keys[1..], &value);
    client.find(&mut world, &keys[..1], &(value + "b"));
}

#[test]
fn g20_a_destination_whose_disk_is_nearly_full_refuses_and_the_source_serves_on() {
    let mut world = spread(&[&[2], &[3]]);
    let (mut client, to) = (Client::default(), NodeId(3));
    let (keys, value) = (world.keys_of_a_slot(G1, 12), "x".repeat(100 << 10));
    client.fill(&mut world, &keys, &value);
    let held = stop_after(&mut world, 2);
    world.move_keys(&keys, G2);
    assert!(world.until(5000, |_| !held.borrow().is_empty()));
    assert!(world.store(to, G2).stats().keys > 0);
    let disk = DiskRoom { free: 8 << 20, low: true };
    world.nodes.get_mut(&to).expect("a node").set_disk(disk);
    world.pass = None;
    let written = |world: &World| world.disks[&to][&G2].entries.len();
    assert!(world.until(3000, |world| is_refused(world, &keys[0], RefuseReason::OutOfSpace)));
    assert_eq!(world.phase(to, G2, &keys[0]), SlotPhase::Absent);
    assert_eq!(world.store(to, G2).stats().keys, 0);
    // It is tried again now and then, which takes few bytes.
    let before = written(&world);
    for _ in 0..20 {
        world.run(500);
        assert!(client.get(&mut world, &keys[1], 5).is_some());
    }
    assert!(written(&world) < before + 30, "{} entries", written(&world) - before);
    assert!(client.append(&mut world, &keys[0], "b", 5).is_some());
    world.nodes.get_mut(&to).expect("a node").set_disk(DiskRoom::default());
    assert!(world.until(60_000, |world| world.are_at(&keys, G2)), "it does not come");
    client.find(&mut world, &keys[1..], &value);
}

/// After so many words of a move nothing is heard any more, and a leader ends.
fn decide(words: usize, side: GroupId) {
    let mut world = spread(&[&[2, 3, 4], &[5, 6, 7]]);
    let (mut client, keys) = (Client::default(), world.keys_of(G1, 1));
    let (key, slot) = (keys[0].as_str(), hash_slot(keys[0].as_bytes()));
    client.fill(&mut world, &keys, "a");
    let left = Cell::new(words);
    world.pass = Some(Box::new(move |_, _| left.replace(left.get().saturating_sub(1)) > 0));
    world.move_keys(&keys, G2);
    let mut servers = Servers::default();
    let watch = |world: &mut World, servers: &mut Servers, ms: u64| {
        for _ in 0..ms {
            world.run(1);
            servers.look(world, key);
        }
    };
    watch(&mut world, &mut servers, 30);
    let leader = world.led_by(side).expect("a leader");
    world.down.insert(leader);
    watch(&mut world, &mut servers, 20);
    world.pass = None;
    // It may be refused for want of progress, and is ordered again then.
    for _ in 0..200 {
        watch(&mut world, &mut servers, 50);
        if world.are_at(&keys, G2) {
            break;
        }
    }
    world.start(leader);
    watch(&mut world, &mut servers, 1500);
    assert!(world.are_at(&keys, G2), "after {words} words, {side}");
    assert!(world.newest().moves.is_empty(), "after {words} words, {side}");
    let owner = world.led_by(G2).expect("a leader");
    let again = world.put(owner, G2, write_of(slot, 1, append_of(key, "a")));
    world.run(5);
    assert_eq!(outcome(&world.replies[&again]), &Outcome::Integer(1), "it was executed again");
}

#[test]
fn g21_one_entry_of_the_destination_decides_after_whichever_word_a_leader_ends() {
    for words in 0..10 {
        decide(words, if words % 2 == 0 { G1 } else { G2 });
        decide(words, if words % 2 == 0 { G2 } else { G1 });
    }
}

/// With leases and without.
#[test]
fn g22_a_leader_that_was_cut_off_before_the_freeze_answers_nothing_after_it() {
    for lease_ns in [0, 300 * MS] {
        let setting = Setting { lease_ns, ..Setting::default() };
        let mut world = spread_with(&[&[2, 3, 4], &[5]], &setting);
        let (mut client, keys) = (Client::default(), world.keys_of(G1, 1));
        let key = keys[0].as_str();
        client.fill(&mut world, &keys, "a");
        let old = world.led_by(G1).expect("a leader");
        world.cut.insert(old);
        let (mut early, mut late, mut ordered) = (Vec::new(), Vec::new(), false);
        let end = world.now + 10_000 * MS;
        while !world.are_at(&keys, G2) {
            let next = world.led_by(G1);
            let phase = next.map(|node| world.phase(node, G1, key));
            let serves = match phase {
                Some(SlotPhase::Exporting { frozen, .. }) => !frozen,
                Some(SlotPhase::Absent) => false,
                _ => true,
            };
            let asked = if serves { &mut early } else { &mut late };
            asked.push(world.put(old, G1, read_of(key)));
            let RequestBody::Lane(lane) =
                write_of(hash_slot(key.as_bytes()), 1, append_of(key, "lost"))
            else {
                unreachable!("a write has a lane")
            };
            let session = SessionId(99);
            asked.push(world.put(old, G1, RequestBody::Lane(LaneRequest { session, ..lane })));
            if next.is_some() && !ordered {
                world.move_keys(&keys, G2);
                ordered = true;
            }
            world.run(1);
            assert!(world.now < end, "the slot does not move");
        }
        client.fill(&mut world, &keys, "b");
        for _ in 0..200 {
            late.push(world.put(old, G1, read_of(key)));
            world.run(1);
        }
        world.cut.clear();
        world.run(2000);
        let done = |ids: &[u64]| ids.iter().filter(|id| world.was_done(**id)).count();
        assert_eq!(done(&late), 0, "answered after the freeze");
        assert_eq!(done(&early) > 0, lease_ns > 0, "the lease was good for something, for a while");
        client.find(&mut world, &keys, "ab");
    }
}

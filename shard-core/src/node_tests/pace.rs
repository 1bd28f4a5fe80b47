//! How much slots that come, and word of them, cost those who serve: counted, not timed.

use super::moves::{G2, apart, two_groups};
use super::*;
use crate::cluster_map::MoveRecord;
use crate::machine::Machine;
use crate::migration::{Behind, Chunk, ChunkRow, MoveEnvelope, MoveMessage};
use crate::moves::{Move, MoveId, SlotEpoch};
use crate::replica::SLOTS_AT_ONCE_MAX;
use crate::rows::Named;
use crate::shard_store::{Mutant, SlotPhase};
use crate::shardmaster::{MasterOp, MasterRequest};
use crate::slot::{SLOTS, Slot};
use bytes::Bytes;

/// Alone with the leader of group 1, which is to get slots of group 2.
fn alone() -> World {
    let mut world = World::with(apart());
    world.run(2500);
    world.down.extend([NodeId(1), NodeId(2)]);
    world
}

/// A move of a slot to group 1.
fn coming(id: u64, slot: Slot) -> MoveRecord {
    let (from, to) = (Some(G2), G1);
    MoveRecord::new(Move { id: MoveId(id), slot, from, to, epoch: SlotEpoch(2) }, LogTime(1))
}

/// How many slots group 1 copies, where node 3 has it.
fn copied(world: &World) -> usize {
    let replica = world.nodes[&NodeId(3)].replica(G1).expect("it has a seat");
    let Machine::Shard(store) = replica.machine() else { unreachable!("group 1 has slots") };
    let copied = |slot: &Slot| matches!(store.stand(*slot).phase, SlotPhase::Importing { .. });
    store.moving().filter(copied).count()
}

/// Few slots are copied at a time. Those of a source that says nothing give up their places within a second.
fn few_at_once() {
    let mut world = alone();
    let node = NodeId(3);
    let theirs = (0..SLOTS).map(Slot).filter(|slot| world.owner(node, *slot) == G2);
    let moves: Vec<MoveRecord> =
        (1..).zip(theirs.take(20)).map(|(id, slot)| coming(id, slot)).collect();
    let input = world.map_with(node, &moves);
    world.input(node, input);
    world.run(10);
    assert_eq!(copied(&world), SLOTS_AT_ONCE_MAX);
    world.run(980);
    assert_eq!(copied(&world), SLOTS_AT_ONCE_MAX);
    world.run(40);
    assert_eq!(copied(&world), 2 * SLOTS_AT_ONCE_MAX);
    world.run(2_000);
    assert_eq!(copied(&world), 20, "who is silent holds up nobody");
}

/// A slot of many rows: so long as its first chunk took, three times, none is asked for; in later rounds at once.
fn rests() {
    let mut world = alone();
    let (node, slot, id) = (NodeId(3), hash_slot(b"foo"), MoveId(1));
    let input = world.map_with(node, &[coming(1, slot)]);
    world.input(node, input);
    world.run(5);
    let asked = |said: &[(NodeId, MoveEnvelope)]| -> Vec<MoveMessage> {
        let all = said.iter().filter(|(_, said)| said.to == G2);
        all.map(|(_, said)| said.message.clone()).collect()
    };
    let behind = Behind { rows: 5_000, bytes: 1 << 20 };
    // Keys of this slot, in the order of their rows.
    let names: Vec<Bytes> =
        ["1", "2", "3"].map(|n| Named::Key(format!("{{foo}}{n}").as_bytes()).name()).into();
    let chunk = |round: u32, from: Option<usize>, next: Option<usize>| {
        let name = |n: usize| names[n].clone();
        let rows = vec![ChunkRow { name: name(next.unwrap_or(2)), value: None }];
        let from = from.map_or_else(Bytes::new, name);
        let next = next.map(name);
        let chunk = Chunk { round, from, clear: false, rows, next, frozen: None };
        let message = MoveMessage::Chunk { chunk, behind };
        let envelope = MoveEnvelope { from: G2, to: G1, slot, id, message };
        Input::Move { from: NodeId(2), envelope }
    };
    world.now += 5 * MS;
    // Asked for at once, for it is not applied yet; and that is the last for some time.
    world.input(node, chunk(0, None, Some(0)));
    world.run(1);
    world.input(node, chunk(0, Some(0), Some(1)));
    let mut fetches = Vec::new();
    for _ in 0..30 {
        world.now += MS;
        // Another chunk that nobody has asked for changes nothing.
        let said = world.moves_said(node, chunk(7, None, None));
        fetches.push(asked(&said));
    }
    assert!(fetches.iter().take(15).all(Vec::is_empty), "{fetches:?}");
    assert_eq!(fetches.iter().flatten().count(), 1, "{fetches:?}");
    // The first round ends, the next begins: whatever time that took, it goes on at once.
    world.now += 50 * MS;
    world.input(node, chunk(0, Some(1), None));
    world.now += 50 * MS;
    world.run(3);
    let said = world.moves_said(node, chunk(1, None, Some(0)));
    assert_eq!(asked(&said).len(), 1, "{said:?}");
    world.run(1);
    let said = world.moves_said(node, chunk(1, Some(0), Some(1)));
    assert_eq!(asked(&said).len(), 1, "{said:?}");
}

#[test]
fn few_slots_come_at_a_time() {
    few_at_once();
}

#[test]
fn a_slot_that_comes_rests_between_pieces_of_its_first_round() {
    rests();
}

#[test]
fn each_broken_rule_of_the_pace_is_noticed() {
    each_is_noticed(&[(Mutant::BeginAll, few_at_once), (Mutant::NoRest, rests)]);
}

/// While slots move the map changes all the time; routers get all of it now and then.
#[test]
fn routers_are_told_of_moves_now_and_then_and_of_all_else_at_once() {
    let mut world = World::with(two_groups());
    world.run(2500);
    let (version, views, begun) =
        (world.nodes[&NodeId(1)].view().map.version, world.views, world.now);
    world.move_slots(1, (0, 2_000), G2);
    while (0..=2_000).any(|slot| world.owner(NodeId(1), Slot(slot)) != G2) {
        world.run(1);
        assert!(world.now < begun + 60_000 * MS, "it does not end");
    }
    world.run(100);
    let ms = (world.now - begun) / MS;
    let changes = world.nodes[&NodeId(1)].view().map.version - version;
    // Three nodes, once in 20 ms each, and at once that slots are to move.
    let allowed = 3 * (ms / 20 + 2);
    assert!(world.views - views <= allowed, "{} views in {ms} ms", world.views - views);
    assert!(changes * 3 > allowed, "{changes} changes in {ms} ms: too few to tell");

    let views = world.views;
    let request = MasterRequest { id: None, op: MasterOp::Pause };
    let leader = world.leader(SHARDMASTER);
    world.ask(leader, SHARDMASTER, 2, RequestBody::Master(request));
    world.run(2);
    assert_eq!(world.views - views, 3, "each node at once");
}

//! How much slots that come, and word of them, cost those who serve: counted, not timed.

use super::moves::{G2, apart, two_groups};
use super::*;
use crate::cluster_map::MoveRecord;
use crate::machine::Machine;
use crate::migration::{Behind, Chunk, ChunkRow, MoveEnvelope, MoveMessage};
use crate::moves::{Move, MoveId, MoveOutcome, SlotEpoch};
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
    let Some(Machine::Shard(store)) = replica.machine() else { unreachable!("group 1 has slots") };
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

/// What is asked of group 2.
fn asked(said: &[(NodeId, MoveEnvelope)]) -> Vec<MoveMessage> {
    let all = said.iter().filter(|(_, said)| said.to == G2);
    all.map(|(_, said)| said.message.clone()).collect()
}

/// Rows of the move 1 as they come: those of a round behind one of three names, up to another.
struct Rows {
    slot: Slot,
    /// In the order of their rows.
    names: Vec<Bytes>,
    /// Whether clients are served where they come from.
    serves: bool,
}

impl Rows {
    fn new(serves: bool) -> Rows {
        let name = |n| Named::Key(format!("{{foo}}{n}").as_bytes()).name();
        Rows { slot: hash_slot(b"foo"), names: ["1", "2", "3"].map(name).into(), serves }
    }

    fn chunk(&self, round: u32, from: Option<usize>, next: Option<usize>) -> Input {
        let name = |n: usize| self.names[n].clone();
        let rows = vec![ChunkRow { name: name(next.unwrap_or(2)), value: None }];
        self.say(round, from.map_or_else(Bytes::new, name), next.map(name), rows)
    }

    fn say(&self, round: u32, from: Bytes, next: Option<Bytes>, rows: Vec<ChunkRow>) -> Input {
        let behind = Behind { rows: 5_000, bytes: 1 << 20 };
        let chunk = Chunk { round, from, clear: false, rows, next, frozen: None };
        let message = MoveMessage::Chunk { chunk, behind };
        let (id, serves) = (MoveId(1), self.serves);
        let envelope = MoveEnvelope { from: G2, to: G1, slot: self.slot, id, serves, message };
        Input::Move { from: NodeId(2), envelope }
    }
}

/// A world in which the move 1 has begun, and 10 ms later its first chunk has come and is applied.
fn begun(rows: &Rows) -> World {
    let mut world = alone();
    let input = world.map_with(NodeId(3), &[coming(1, rows.slot)]);
    world.input(NodeId(3), input);
    world.run(5);
    world.now += 5 * MS;
    world.input(NodeId(3), rows.chunk(0, None, Some(0)));
    world.run(1);
    world
}

/// While clients are served: so long as a chunk of the first round took, three times, no other one is asked for;
/// in later rounds at once.
fn rests() {
    let (node, rows) = (NodeId(3), Rows::new(true));
    let mut world = begun(&rows);
    let mut fetches = Vec::new();
    for _ in 0..60 {
        world.now += MS;
        // Another chunk that nobody has asked for changes nothing.
        let said = world.moves_said(node, rows.chunk(7, None, None));
        fetches.push(asked(&said));
    }
    assert!(fetches.iter().take(15).all(Vec::is_empty), "{fetches:?}");
    assert_eq!(fetches.iter().flatten().count(), 1, "{fetches:?}");
    // The first round ends, the next begins: whatever time that took, it goes on at once.
    world.now += 50 * MS;
    world.input(node, rows.chunk(0, Some(0), None));
    world.now += 50 * MS;
    world.run(3);
    let said = world.moves_said(node, rows.chunk(1, None, Some(0)));
    assert_eq!(asked(&said).len(), 1, "{said:?}");
    world.run(1);
    let said = world.moves_said(node, rows.chunk(1, Some(0), Some(1)));
    assert_eq!(asked(&said).len(), 1, "{said:?}");
}

/// While no clients are served nothing rests, and a second chunk is asked for before the first is applied.
fn nobody_is_rested_for() {
    let (node, rows) = (NodeId(3), Rows::new(false));
    let mut world = begun(&rows);
    let said = world.moves_said(node, rows.chunk(0, Some(0), Some(1)));
    assert_eq!(asked(&said).len(), 1, "{said:?}");
}

/// Where the last slot was large, others come one at a time, as long as clients are served.
fn large_ones_are_fewer() {
    let (node, mut rows) = (NodeId(3), Rows::new(true));
    let mut world = begun(&rows);
    world.run(100);
    let long = Named::Key(format!("{{foo}}1{}", "x".repeat(100 << 10)).as_bytes()).name();
    let row = ChunkRow { name: long, value: None };
    let (from, next) = (rows.names[0].clone(), rows.names[1].clone());
    world.input(node, rows.say(0, from, Some(next), vec![row]));
    world.run(5);
    // It is given up, which is an end like any other.
    let given_up = MoveRecord { cancel: true, ..coming(1, rows.slot) };
    let input = world.map_with(node, &[given_up]);
    world.input(node, input);
    world.run(5);
    let theirs = (0..SLOTS).map(Slot).filter(|slot| world.owner(node, *slot) == G2);
    let others = (2..).zip(theirs.filter(|slot| *slot != rows.slot).take(20));
    let moves: Vec<MoveRecord> = others.map(|(id, slot)| coming(id, slot)).collect();
    let input = world.map_with(node, &moves);
    world.input(node, input);
    for _ in 0..4 {
        world.run(100);
        world.input(node, rows.chunk(7, None, None));
    }
    assert_eq!(copied(&world), 1);
    rows.serves = false;
    world.run(250);
    world.input(node, rows.chunk(7, None, None));
    world.run(5);
    assert_eq!(copied(&world), SLOTS_AT_ONCE_MAX);
}

/// Whether a node, asked by one that serves clients, says that it serves some itself.
fn says_that_it_serves(world: &mut World, node: NodeId) -> bool {
    let order = coming(0, Slot(0)).order;
    let message = MoveMessage::Ended { order, outcome: MoveOutcome::Activated };
    let (slot, id) = (order.slot, order.id);
    let envelope = MoveEnvelope { from: G2, to: G1, slot, id, serves: true, message };
    let said = world.moves_said(node, Input::Move { from: NodeId(9), envelope });
    said.iter().find(|(to, _)| *to == NodeId(9)).expect("an answer").1.serves
}

#[test]
fn a_node_tells_of_its_own_clients_while_they_are_there() {
    let mut world = World::with(config());
    world.run(2500);
    let leader = world.leader(G1);
    let nodes = (1..=3).map(NodeId);
    for node in nodes.clone() {
        assert!(!says_that_it_serves(&mut world, node), "of others' clients it does not");
    }
    // With the second, followers hear that the first is committed.
    for seq in 1..=2 {
        world.ask(leader, G1, seq, append(seq, b"x"));
        world.run(20);
    }
    for node in nodes.clone() {
        assert!(says_that_it_serves(&mut world, node), "{node} has applied it");
    }
    world.run(1000);
    for node in nodes {
        assert!(!says_that_it_serves(&mut world, node), "it was answered long ago");
    }
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
fn nothing_rests_where_no_client_is_served() {
    nobody_is_rested_for();
}

#[test]
fn of_large_slots_fewer_come_at_a_time() {
    large_ones_are_fewer();
}

#[test]
fn each_broken_rule_of_the_pace_is_noticed() {
    each_is_noticed(&[
        (Mutant::BeginAll, few_at_once),
        (Mutant::NoRest, rests),
        (Mutant::RestForNobody, nobody_is_rested_for),
        (Mutant::LargeOnesAtOnce, large_ones_are_fewer),
    ]);
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

//! Slots that move between groups of the same three nodes.

use super::*;
use crate::cluster_map::MoveRecord;
use crate::machine::Machine;
use crate::map_feed::MapMessage;
use crate::migration::{Ended, MoveEnvelope, MoveMessage};
use crate::moves::{Move, MoveId, MoveOutcome, RefuseReason, SlotEpoch};
use crate::replica::Replica;
use crate::shard_store::{SlotPhase, SlotStand};
use crate::shardmaster::{MasterOp, MasterRequest};
use crate::slot::{SLOTS, Slot};
use crate::wire::ReadRequest;
use bytes::Bytes;

pub(super) const G2: GroupId = GroupId(2);

pub(super) fn two_groups() -> ClusterConfig {
    let mut config = config();
    let seats = config.groups[&G1].clone();
    config.groups.insert(G2, seats);
    config.assign_evenly();
    config
}

impl World {
    /// Asks whoever leads a group.
    fn ask_leader(&mut self, group: GroupId, id: u64, body: RequestBody) {
        let leader = self.leader(group);
        self.ask(leader, group, id, body);
    }

    /// Wants slots at a group.
    pub(super) fn move_slots(&mut self, id: u64, slots: (u16, u16), to: GroupId) {
        let ranges = vec![(Slot(slots.0), Slot(slots.1))];
        let op = MasterOp::MoveSlots { ranges, to };
        let request = MasterRequest { id: None, op };
        self.ask_leader(SHARDMASTER, id, RequestBody::Master(request));
    }

    pub(super) fn owner(&self, node: NodeId, slot: Slot) -> GroupId {
        self.nodes[&node].view().map.owners.of(slot).expect("every slot has an owner").0
    }
}

fn get(slot: Slot, key: &'static str) -> RequestBody {
    let op = Op::Get { key: Bytes::from_static(key.as_bytes()) };
    RequestBody::Read(ReadRequest { slot, after: None, op })
}

fn append_to(slot: Slot, key: &'static str, seq: u64, value: &'static [u8]) -> RequestBody {
    RequestBody::Lane(LaneRequest {
        session: SessionId(7),
        deadline: LogTime(300_000),
        slot,
        seq: Seq(seq),
        acked: Seq(seq - 1),
        op: Op::Append {
            key: Bytes::from_static(key.as_bytes()),
            value: Bytes::from_static(value),
        },
    })
}

#[test]
fn g04_g15_d08_a_slot_moves_with_its_keys_and_lanes_and_leaves_nothing_behind() {
    let mut world = World::with(two_groups());
    world.run(2500);
    let slot = hash_slot(b"foo");
    assert_eq!(world.owner(NodeId(1), slot), G2);
    world.ask_leader(G2, 1, append_to(slot, "foo", 1, b"ab"));
    world.run(5);
    assert_eq!(outcome(&world.replies[&1]), &Outcome::Integer(2));

    world.move_slots(2, (slot.0, slot.0), G1);
    world.run(30);
    assert!(matches!(world.replies[&2], Answer::Master(Ok(_))), "{:?}", world.replies[&2]);
    for node in 1..=3 {
        assert_eq!(world.owner(NodeId(node), slot), G1);
    }
    // Sent again to the new owner it is recognised; the next one is executed.
    world.ask_leader(G1, 3, append_to(slot, "foo", 1, b"ab"));
    world.ask_leader(G1, 4, append_to(slot, "foo", 2, b"c"));
    world.ask_leader(G1, 5, get(slot, "foo"));
    world.ask_leader(G2, 6, get(slot, "foo"));
    world.run(20);
    assert_eq!(outcome(&world.replies[&3]), &Outcome::Integer(2));
    assert_eq!(outcome(&world.replies[&4]), &Outcome::Integer(3));
    assert!(matches!(world.replies[&6], Answer::Elsewhere | Answer::Moved { .. }));
    // Neither side nor the shardmaster keeps anything of the move but its number. Who asks the old owner is told all the
    // same: the map knows.
    world.run(2000);
    world.ask_leader(G2, 7, get(slot, "foo"));
    assert_eq!(world.replies[&7], Answer::Moved { to: G1, epoch: SlotEpoch(2) });
    for node in world.nodes.values() {
        let map = node.view().map;
        assert!(map.moves.is_empty(), "{:?}", map.moves);
        let stats = node.status(world.now).replicas;
        assert_eq!((stats[&G2].keys, stats[&G2].lanes), (0, 0));
        assert_eq!((stats[&G1].keys, stats[&G1].lanes), (1, 1));
    }
    let digests: Vec<_> = world.nodes.values().map(Node::digests).collect();
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn g07_g08_every_slot_moves_while_leaders_come_and_go() {
    let mut world = World::with(two_groups());
    world.run(2500);
    let (a, b) = (hash_slot(b"foo"), hash_slot(b"bar"));
    world.ask_leader(G2, 1, append_to(a, "foo", 1, b"1"));
    world.ask_leader(G1, 2, append_to(b, "bar", 1, b"1"));
    world.run(5);
    world.move_slots(3, (0, SLOTS - 1), G1);
    let mut last = 0;
    for round in 0..400 {
        world.run(200);
        // One node after another goes and comes back.
        let node = NodeId(round / 8 % 3 + 1);
        match round % 8 {
            0 => drop(world.down.insert(node)),
            4 => world.start(node),
            _ => {}
        }
        last = round;
        let owners = world.nodes[&NodeId(round % 3 + 1)].view().map.owners;
        if owners.count(G1) == u32::from(SLOTS) {
            break;
        }
    }
    (1..=3).map(NodeId).for_each(|node| {
        if world.down.contains(&node) {
            world.start(node);
        }
    });
    world.run(5000);
    for node in 1..=3 {
        let map = world.nodes[&NodeId(node)].view().map;
        assert_eq!(map.owners.count(G1), u32::from(SLOTS), "after {last} rounds");
        assert!(map.moves.is_empty(), "{:?}", map.moves.values().next());
    }
    world.ask_leader(G1, 10, append_to(a, "foo", 2, b"2"));
    world.ask_leader(G1, 11, append_to(b, "bar", 2, b"2"));
    world.run(20);
    assert_eq!(outcome(&world.replies[&10]), &Outcome::Integer(2));
    assert_eq!(outcome(&world.replies[&11]), &Outcome::Integer(2));
}

#[test]
fn g07_a_node_that_is_down_holds_up_no_move_for_long() {
    for down in 1..=3 {
        let mut world = World::with(two_groups());
        world.run(2500);
        world.down.insert(NodeId(down));
        world.run(2500);
        world.move_slots(1, (0, SLOTS - 1), G1);
        world.run(40_000);
        let alive = NodeId(down % 3 + 1);
        let left = (0..SLOTS).filter(|slot| world.owner(alive, Slot(*slot)) != G1).count();
        assert_eq!(left, 0, "node {down} is down");
    }
}

/// A slot that goes to and fro, each time as soon as the shardmaster may order it, waits for nothing: the
/// groups take leave of one move while the next begins.
#[test]
fn g12_a_slot_goes_to_and_fro_without_a_pause() {
    let mut world = World::with(two_groups());
    world.run(2500);
    let (first, last) = (hash_slot(b"foo"), Slot(hash_slot(b"foo").0 + 3));
    let mut longest = 0;
    for n in 0..100 {
        let to = if n % 2 == 0 { G1 } else { G2 };
        let seat = world.leader(SHARDMASTER);
        world.move_slots(n, (first.0, last.0), to);
        let begun = world.now;
        while (first.0..=last.0).any(|slot| world.owner(seat, Slot(slot)) != to) {
            world.run(1);
            assert!(world.now < begun + 10_000 * MS, "move {n} does not end");
        }
        longest = longest.max((world.now - begun) / MS);
    }
    assert!(longest <= 40, "a move took {longest} ms");
}

/// Group 0 on nodes 1 and 2, group 2 on node 2, group 1 on node 3: node 3 hears of moves by messages only.
pub(super) fn apart() -> ClusterConfig {
    let mut config = two_groups();
    for (group, nodes) in [(SHARDMASTER, &[1, 2][..]), (G2, &[2]), (G1, &[3])] {
        let voters = nodes.iter().copied().map(NodeId).collect();
        config.groups.get_mut(&group).expect("a group").voters = voters;
    }
    config
}

impl World {
    /// Gives a node an input, and takes what it says of moves then.
    pub(super) fn moves_said(&mut self, node: NodeId, input: Input) -> Vec<(NodeId, MoveEnvelope)> {
        let mut out = Output::default();
        let (now, wall) = (self.now, LogTime(self.now / MS));
        let it = self.nodes.get_mut(&node).expect("it runs");
        it.handle(now, wall, input, &mut out);
        it.poll(now, wall, &mut out).expect("it runs");
        std::mem::take(&mut out.moves)
    }

    /// A newer map with these moves in it.
    pub(super) fn map_with(&self, node: NodeId, moves: &[MoveRecord]) -> Input {
        let mut map = self.nodes[&node].view().map;
        map.version += 10;
        map.moves = moves.iter().map(|record| (record.order.id, *record)).collect();
        Input::Map { from: NodeId(1), message: MapMessage::Whole(Box::new(map)) }
    }

    /// A newer map in which moves of a slot were refused at their destination; of each, whether the source
    /// has reported it.
    fn map_of_refused(&self, node: NodeId, slot: Slot, moves: [(u64, bool); 2]) -> Input {
        let ended = Some((MoveOutcome::Refused(RefuseReason::NoProgress), LogTime(1)));
        let moves = moves.map(|(id, source_reported)| {
            let record = MoveRecord::new(order(id, slot), LogTime(1));
            MoveRecord { ended, destination_reported: true, source_reported, ..record }
        });
        self.map_with(node, &moves)
    }

    /// Where a slot stands at group 1, which node 3 has alone.
    pub(super) fn stand(&self, slot: Slot) -> SlotStand {
        match self.nodes[&NodeId(3)].replica(G1).unwrap().machine() {
            Some(Machine::Shard(store)) => store.stand(slot),
            other => unreachable!("group 1 has slots: {other:?}"),
        }
    }
}

/// The next moves of a slot that group 1 has, as group 2 is to get it.
pub(super) fn order(id: u64, slot: Slot) -> Move {
    Move { id: MoveId(id), slot, from: Some(G1), to: G2, epoch: SlotEpoch(2) }
}

#[test]
fn g20_a_source_reports_a_move_that_was_over_before_it_heard_of_it() {
    let mut world = World::with(apart());
    world.run(2500);
    world.down.extend([NodeId(1), NodeId(2)]);
    let (node, slot) = (NodeId(3), hash_slot(b"bar"));
    assert_eq!(world.owner(node, slot), G1);
    let say = |world: &mut World, message| {
        let envelope =
            MoveEnvelope { from: G2, to: G1, slot, id: MoveId(2), serves: false, message };
        world.input(node, Input::Move { from: NodeId(2), envelope });
        world.run(5);
    };
    // Move 1 was refused, and this is the first that is heard here of anything.
    let refused = MoveOutcome::Refused(RefuseReason::NoProgress);
    say(&mut world, MoveMessage::Begin(order(2, slot)));
    say(&mut world, MoveMessage::Ended { order: order(2, slot), outcome: refused });
    let input = world.map_of_refused(node, slot, [(1, false), (2, true)]);
    let said = world.moves_said(node, input);
    let ended = Ended { order: order(1, slot), outcome: refused };
    let report = MoveMessage::Report { ended };
    let reports: Vec<_> = said.iter().filter(|(_, said)| said.message == report).collect();
    assert_eq!(reports.len(), 1, "{said:?}");
    assert_eq!(reports[0].1.to, SHARDMASTER);
}

/// A later move of the slot begins while the map still names one that was refused before: it ends by its own
/// record, not by the first.
#[test]
fn a_source_ends_the_move_that_it_is_in_though_an_earlier_one_was_refused() {
    let mut world = World::with(apart());
    world.run(2500);
    world.down.extend([NodeId(1), NodeId(2)]);
    let (node, slot) = (NodeId(3), hash_slot(b"bar"));
    let (id, message) = (MoveId(2), MoveMessage::Begin(order(2, slot)));
    let envelope = MoveEnvelope { from: G2, to: G1, slot, id, serves: false, message };
    world.input(node, Input::Move { from: NodeId(2), envelope });
    world.run(5);
    assert!(matches!(world.stand(slot).phase, SlotPhase::Exporting { .. }));
    let input = world.map_of_refused(node, slot, [(1, false), (2, false)]);
    world.input(node, input);
    world.run(5);
    let SlotStand { settled, phase, .. } = world.stand(slot);
    assert_eq!((settled, phase), (MoveId(2), SlotPhase::Owned));
}

/// An entry that begins a move before the end of the last one is forgotten changes nothing, and would be
/// proposed again only after a second.
#[test]
fn g12_a_source_begins_the_next_move_as_soon_as_the_last_one_is_forgotten() {
    let mut world = World::with(apart());
    world.run(2500);
    world.down.extend([NodeId(1), NodeId(2)]);
    let (node, slot) = (NodeId(3), hash_slot(b"bar"));
    let (refused, moves) = (MoveOutcome::Refused(RefuseReason::NoProgress), [1, 2].map(MoveId));
    let [first, second] = moves.map(|id| order(id.0, slot));
    for message in [
        MoveMessage::Begin(first),
        MoveMessage::Ended { order: first, outcome: refused },
        MoveMessage::Begin(second),
    ] {
        let id = if message == MoveMessage::Begin(second) { moves[1] } else { moves[0] };
        let envelope = MoveEnvelope { from: G2, to: G1, slot, id, serves: false, message };
        world.input(node, Input::Move { from: NodeId(2), envelope });
        world.run(5);
    }
    assert_eq!(world.stand(slot).phase, SlotPhase::Owned);
    assert_eq!(world.stand(slot).ended, Some(Ended { order: first, outcome: refused }));
    let mut ended = MoveRecord::new(first, LogTime(1));
    (ended.ended, ended.source_reported) = (Some((refused, LogTime(1))), true);
    let input = world.map_with(node, &[ended, MoveRecord::new(second, LogTime(1))]);
    world.input(node, input);
    world.run(5);
    let stand = world.stand(slot);
    assert_eq!(stand.ended, None);
    assert!(matches!(stand.phase, SlotPhase::Exporting { order, .. } if order == second));
}

#[test]
fn g12_a_destination_begins_the_next_move_as_soon_as_the_last_one_is_forgotten() {
    let mut world = World::with(apart());
    world.run(2500);
    world.down.extend([NodeId(1), NodeId(2)]);
    let (node, slot) = (NodeId(3), hash_slot(b"foo"));
    let order = |id| Move { id: MoveId(id), slot, from: Some(G2), to: G1, epoch: SlotEpoch(2) };
    let next = MoveRecord::new(order(2), LogTime(1));
    let cancelled = MoveRecord { cancel: true, ..MoveRecord::new(order(1), LogTime(1)) };
    // The source is the first to say that it is over.
    let ended = Some((MoveOutcome::Refused(RefuseReason::Cancelled), LogTime(1)));
    let mut last = MoveRecord { ended, source_reported: true, ..cancelled };
    for moves in [&[cancelled][..], &[last, next]] {
        let input = world.map_with(node, moves);
        world.input(node, input);
        world.run(5);
        assert_eq!(world.nodes[&node].view().map.moves.len(), moves.len());
        let stand = world.stand(slot);
        assert_eq!((stand.settled, stand.phase), (MoveId(1), SlotPhase::Absent));
        assert!(stand.ended.is_some());
    }
    last.destination_reported = true;
    let input = world.map_with(node, &[last, next]);
    world.input(node, input);
    world.run(5);
    let stand = world.stand(slot);
    assert_eq!(stand.ended, None);
    assert!(matches!(stand.phase, SlotPhase::Importing { order, .. } if order.id == MoveId(2)));
}

#[test]
fn two_that_take_each_other_for_the_leader_are_not_asked_in_turn_without_end() {
    let mut world = World::with(apart());
    world.run(2500);
    world.down.extend([NodeId(1), NodeId(2)]);
    let (node, slot) = (NodeId(3), hash_slot(b"bar"));
    let refused = MoveOutcome::Refused(RefuseReason::NoProgress);
    let say = |from: u64, group, message| {
        let envelope =
            MoveEnvelope { from: group, to: G1, slot, id: MoveId(1), serves: false, message };
        Input::Move { from: NodeId(from), envelope }
    };
    world.input(node, say(2, G2, MoveMessage::Begin(order(1, slot))));
    world.run(5);
    world.input(node, say(2, G2, MoveMessage::Ended { order: order(1, slot), outcome: refused }));
    // Once it is settled, the first voter is told, which is gone.
    world.run(5);
    let (first, second) = (1, 2);
    let report = |said: &[(NodeId, MoveEnvelope)]| -> Vec<u64> {
        let to = said.iter().filter(|(_, said)| said.to == SHARDMASTER);
        to.map(|(node, _)| node.0).collect()
    };
    let hint = |to| MoveMessage::NotLeader { hint: Some(NodeId(to)) };
    let said = world.moves_said(node, say(first, SHARDMASTER, hint(second)));
    assert_eq!(report(&said), [second], "a hint is followed at once");
    let said = world.moves_said(node, say(second, SHARDMASTER, hint(first)));
    assert_eq!(report(&said), [0; 0], "the next one when its time has come");
    world.now += 200 * MS;
    let said = world.moves_said(node, say(2, G2, MoveMessage::Taken));
    assert_eq!(report(&said).len(), 1);
}

#[test]
fn a_shardmaster_that_knows_nothing_of_a_move_says_not_that_all_is_reported() {
    let mut world = World::with(apart());
    world.run(2500);
    let leads = |node: &NodeId| world.nodes[node].replica(SHARDMASTER).is_some_and(Replica::leads);
    let leader = world.nodes.keys().copied().find(leads).expect("a leader");
    let slot = hash_slot(b"bar");
    let outcome = MoveOutcome::Refused(RefuseReason::NoProgress);
    let ended = Ended { order: order(7, slot), outcome };
    let message = MoveMessage::Report { ended };
    let envelope =
        MoveEnvelope { from: G1, to: SHARDMASTER, slot, id: MoveId(7), serves: false, message };
    assert_eq!(world.moves_said(leader, Input::Move { from: NodeId(3), envelope }), []);
}

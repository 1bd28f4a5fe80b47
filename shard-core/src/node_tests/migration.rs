//! Lines G of moves that all goes well with, or where a group is away for a while or for good.

use super::moves::{G2, apart, order};
use super::slots::{Client, append_of, del_of, note, read_of, spread, write_of};
use super::*;
use crate::migration::{MOVE_CHUNK, MoveEnvelope, MoveMessage};
use crate::moves::{MoveId, MoveOutcome, RefuseReason};
use crate::shard_store::{Mutant, SlotPhase, set_mutant};
use crate::shardmaster::MasterOp;
use crate::slot::Slot;
use crate::wire::{After, ReadRequest};
use bytes::Bytes;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

const SOURCE: NodeId = NodeId(2);

const G3: GroupId = GroupId(3);

fn slot_of(key: &str) -> Slot {
    hash_slot(key.as_bytes())
}

#[test]
fn g01_after_five_missed_numbers_only_moves_from_owners_to_the_newest_target_are_made() {
    let mut world = spread(&[&[2], &[3], &[4]]);
    let (mut client, keys) = (Client::default(), world.keys_of(G1, 1));
    client.fill(&mut world, &keys, "a");
    world.down.insert(NodeId(2));
    for group in [2, 3, 1, 2, 3] {
        world.move_keys(&keys, GroupId(group));
    }
    assert_eq!(world.newest().config.num, ConfigNum(6));
    world.run(2000);
    world.start(NodeId(2));
    assert!(world.until(10_000, |w| w.are_at(&keys, G3) && w.newest().moves.is_empty()));
    // The one that had begun, and the one from there to where the slot is to be now.
    let stand = |node, group| world.store(NodeId(node), group).stand(slot_of(&keys[0]));
    let settled = [stand(2, G1), stand(3, G2), stand(4, G3)].map(|stand| stand.settled);
    assert_eq!(settled, [1, 2, 2].map(MoveId));
    client.find(&mut world, &keys, "a");
}

/// The leader of group 1 alone, on node 3, and what group 2 says to it of a slot.
struct Source {
    world: World,
    slot: Slot,
}

impl Source {
    fn new(key: &str) -> Source {
        let mut world = World::with(apart());
        world.run(2500);
        world.down.extend([NodeId(1), NodeId(2)]);
        Source { world, slot: slot_of(key) }
    }

    fn word(&self, id: u64, message: MoveMessage) -> Input {
        let (id, slot) = (MoveId(id), self.slot);
        let envelope = MoveEnvelope { from: G2, to: G1, slot, id, serves: false, message };
        Input::Move { from: NodeId(2), envelope }
    }

    fn say(&mut self, id: u64, message: MoveMessage) {
        let input = self.word(id, message);
        self.world.input(NodeId(3), input);
        self.world.run(3);
    }

    /// What it answers at once.
    fn asked(&mut self, id: u64, message: MoveMessage) -> Vec<MoveMessage> {
        let input = self.word(id, message);
        let said = self.world.moves_said(NodeId(3), input);
        let own = said.into_iter().filter(|(_, said)| said.to == G2 && said.id == MoveId(id));
        own.map(|(_, said)| said.message).collect()
    }

    fn entries(&self) -> usize {
        self.world.disks[&NodeId(3)][&G1].entries.len()
    }
}

fn around_the_freeze() {
    let mut source = Source::new("bar");
    let (node, slot) = (NodeId(3), source.slot);
    source.say(1, MoveMessage::Begin(order(1, slot)));
    let before = source.entries();
    // All in one turn: the slot serves when each of them arrives.
    let first = source.world.put(node, G1, write_of(slot, 1, append_of("bar", "<first>")));
    let (session, deadline) = (SessionId(7), LogTime(300_000));
    let after = Some(After { session, deadline, seq: Seq(1) });
    let op = Op::Get { key: Bytes::from_static(b"bar") };
    let read = RequestBody::Read(ReadRequest { slot, after, op });
    let read = source.world.put(node, G1, read);
    let freeze = source.word(1, MoveMessage::Next { round: 1, freeze: true });
    source.world.input(node, freeze);
    let second = source.world.put(node, G1, write_of(slot, 2, append_of("bar", "<second>")));
    source.world.run(2);
    assert_eq!(source.entries(), before + 1, "one entry has all three");
    assert!(source.world.was_done(first));
    assert_eq!(source.world.replies.get(&second), Some(&Answer::Frozen));
    assert_eq!(
        source.world.replies.get(&read),
        Some(&Answer::Frozen),
        "looked at when it is served"
    );
    let said = source.asked(1, MoveMessage::Fetch { round: 1, from: Bytes::new() });
    let [MoveMessage::Chunk { chunk, .. }] = &said[..] else { panic!("{said:?}") };
    assert!(chunk.frozen.is_some() && chunk.next.is_none());
    let has = |text: &str| {
        let values = chunk.rows.iter().filter_map(|row| row.value.as_ref());
        let mut values = values.map(|value| String::from_utf8_lossy(value).into_owned());
        values.any(|value| value.contains(text))
    };
    assert!(has("<first>") && !has("<second>"), "{chunk:?}");
    source.say(1, MoveMessage::Ended { order: order(1, slot), outcome: MoveOutcome::Activated });
    let again = source.world.put(node, G1, write_of(slot, 2, append_of("bar", "<second>")));
    source.world.run(2);
    assert!(matches!(source.world.replies[&again], Answer::Moved { to: G2, .. }));
}

#[test]
fn g02_g03_what_stands_before_the_freeze_goes_along_and_what_stands_behind_is_not_executed() {
    around_the_freeze();
}

#[test]
fn g11_what_has_not_begun_is_not_answered_and_what_is_settled_is_told_as_settled() {
    let mut source = Source::new("bar");
    let (node, slot) = (NodeId(3), source.slot);
    let first_rows = |round| MoveMessage::Fetch { round, from: Bytes::new() };
    let next = MoveMessage::Next { round: 1, freeze: true };
    for message in [first_rows(0), first_rows(1), next.clone()] {
        assert_eq!(source.asked(1, message.clone()), [], "{message:?} before its beginning");
    }
    let refused = MoveOutcome::Refused(RefuseReason::NoProgress);
    source.say(1, MoveMessage::Begin(order(1, slot)));
    source.say(1, MoveMessage::Ended { order: order(1, slot), outcome: refused });
    assert_eq!(source.world.stand(slot).settled, MoveId(1));
    // A later move of the slot is under way, and the slot has changed: none of that is for the first.
    let input = {
        let mut first = crate::cluster_map::MoveRecord::new(order(1, slot), LogTime(1));
        (first.ended, first.source_reported) = (Some((refused, LogTime(1))), true);
        source.world.map_with(node, &[first])
    };
    source.world.input(node, input);
    source.world.run(3);
    source.say(2, MoveMessage::Begin(order(2, slot)));
    let write = source.world.put(node, G1, write_of(slot, 1, append_of("bar", "later")));
    source.world.run(3);
    assert!(source.world.was_done(write));
    let settled = [MoveMessage::Settled];
    assert_eq!(source.asked(1, MoveMessage::Begin(order(1, slot))), settled);
    for message in [first_rows(0), first_rows(1), next] {
        assert_eq!(source.asked(1, message.clone()), [], "{message:?} of a move that is settled");
    }
    let phase = source.world.stand(slot).phase;
    assert!(matches!(phase, SlotPhase::Exporting { order, round: 0, .. } if order.id == MoveId(2)));
}

#[test]
fn g09_g26_slots_of_a_group_that_is_down_wait_and_all_others_are_served() {
    let mut world = spread(&[&[2], &[3], &[4]]);
    let mut client = Client::default();
    let all: Vec<Vec<String>> = [G1, G2, G3].map(|group| world.keys_of(group, 8)).to_vec();
    all.iter().for_each(|keys| client.fill(&mut world, keys, "a"));
    // Half of its slots are on their way when it ends.
    world.move_keys(&all[0][..4], G2);
    world.run(1);
    world.down.insert(NodeId(2));
    let reads: Vec<Vec<u64>> = (1..)
        .zip(&all)
        .map(|(group, keys)| {
            let node = NodeId(group + 1);
            keys.iter().map(|key| world.put(node, GroupId(group as u32), read_of(key))).collect()
        })
        .collect();
    world.run(3000);
    let done = |world: &World| -> Vec<usize> {
        reads.iter().map(|ids| ids.iter().filter(|id| world.was_done(**id)).count()).collect()
    };
    assert_eq!(done(&world), [0, 8, 8], "exactly those of the groups that are there");
    for key in &all[0] {
        assert_eq!(client.get(&mut world, key, 20), None, "{key} is served by somebody");
    }
    for key in all[1].iter().chain(&all[2]) {
        assert!(client.append(&mut world, key, "b", 5).is_some(), "{key} waits for the dead group");
    }
    world.start(NodeId(2));
    client.find(&mut world, &all[0], "a");
    assert!(world.until(10_000, |w| w.are_at(&all[0][..4], G2) && w.newest().moves.is_empty()));
    client.find(&mut world, &all[0], "a");
}

/// Slots that take each other's places, and slots that go round in a ring, all at once.
#[test]
fn g10_swaps_and_rings_end_in_bounded_time() {
    for groups in [2u32, 3] {
        let nodes: Vec<[u64; 1]> = (1..=groups).map(|group| [u64::from(group) + 1]).collect();
        let nodes: Vec<&[u64]> = nodes.iter().map(|node| &node[..]).collect();
        let mut world = spread(&nodes);
        let mut client = Client::default();
        let all: Vec<Vec<String>> =
            (1..=groups).map(|group| world.keys_of(GroupId(group), 16)).collect();
        all.iter().for_each(|keys| client.fill(&mut world, keys, "a"));
        let next = |group: u32| GroupId(group % groups + 1);
        for (group, keys) in (1..).zip(&all) {
            world.move_keys(keys, next(group));
        }
        let there =
            |world: &World| (1..).zip(&all).all(|(group, keys)| world.are_at(keys, next(group)));
        assert!(world.until(1000, there), "{groups} groups wait for each other");
        all.iter().for_each(|keys| client.find(&mut world, keys, "a"));
    }
}

#[test]
fn g13_received_slots_are_served_while_others_of_the_same_change_wait_for_a_dead_group() {
    let mut world = spread(&[&[2], &[3], &[4]]);
    let mut client = Client::default();
    let (live, dead) = (world.keys_of(G1, 10), world.keys_of(G2, 10));
    client.fill(&mut world, &live, "a");
    client.fill(&mut world, &dead, "a");
    world.down.insert(NodeId(3));
    let keys = [&dead[..], &live[..]].concat();
    world.move_keys(&keys, G3);
    assert!(world.until(500, |w| w.are_at(&live, G3)), "they wait for the dead group's slots");
    for key in &live {
        assert!(client.append(&mut world, key, "b", 5).is_some(), "{key}");
    }
    assert!(world.are_at(&dead, G2));
    world.start(NodeId(3));
    assert!(world.until(10_000, |w| w.are_at(&keys, G3)));
    client.find(&mut world, &dead, "a");
}

#[test]
fn g14_slots_that_do_not_move_are_served_without_a_pause_also_when_the_losing_group_dies() {
    let mut world = spread(&[&[2], &[3], &[4]]);
    let mut client = Client::default();
    let (leaving, kept) = (world.keys_of(G1, 40), world.keys_of(G1, 44)[40..].to_vec());
    let others = [world.keys_of(G2, 4), world.keys_of(G3, 4)].concat();
    client.fill(&mut world, &leaving, "a");
    world.move_keys(&leaving, G2);
    let serve = |world: &mut World, client: &mut Client, keys: &[String]| {
        for key in keys {
            assert!(client.append(world, key, "b", 3).is_some(), "{key} waits");
            assert!(client.get(world, key, 3).is_some(), "{key} waits");
        }
    };
    // The losing group serves what it keeps, and dies half way.
    serve(&mut world, &mut client, &kept[..1]);
    world.down.insert(NodeId(2));
    assert!(!world.are_at(&leaving, G2), "nothing was under way any more");
    for _ in 0..100 {
        serve(&mut world, &mut client, &others);
    }
}

/// A session has a lane in each slot: what comes with one is nothing to the others.
#[test]
fn g15_lanes_that_come_along_leave_those_of_other_slots_as_they_are() {
    let mut world = spread(&[&[2], &[3]]);
    let (moved, there) = (world.keys_of(G1, 1), world.keys_of(G2, 1));
    let (moved, there) = (moved[0].as_str(), there[0].as_str());
    let mut client = Client::default();
    client.append(&mut world, moved, "a", 10);
    for _ in 0..5 {
        client.append(&mut world, there, "b", 10);
    }
    world.move_keys(&[moved.to_owned()], G2);
    assert!(world.until(1000, |w| w.are_at(&[moved.to_owned()], G2)));
    let again = [(moved, 1, "a", 1), (there, 5, "b", 5), (there, 6, "b", 6), (moved, 2, "a", 2)];
    for (key, seq, value, length) in again {
        let id = world.put(NodeId(3), G2, write_of(slot_of(key), seq, append_of(key, value)));
        world.run(5);
        assert_eq!(outcome(&world.replies[&id]), &Outcome::Integer(length), "{key}, {seq}");
    }
}

#[test]
fn g17_a_slot_without_keys_moves_with_its_sessions() {
    let mut world = spread(&[&[2], &[3]]);
    let (mut client, keys) = (Client::default(), world.keys_of(G1, 1));
    let (key, slot) = (keys[0].as_str(), slot_of(&keys[0]));
    client.append(&mut world, key, "a", 10);
    assert_eq!(client.write(&mut world, slot, del_of(&[key]), 10), Some(Outcome::Integer(1)));
    world.move_keys(&keys, G2);
    assert!(world.until(1000, |w| w.are_at(&keys, G2)));
    assert_eq!(world.phase(NodeId(3), G2, key), SlotPhase::Owned);
    let again = world.put(NodeId(3), G2, write_of(slot, 2, del_of(&[key])));
    world.run(5);
    assert_eq!(outcome(&world.replies[&again]), &Outcome::Integer(1), "it was executed again");
}

/// No chunk is larger than its bound, and no more than so many are on their way however slow the destination is.
#[test]
fn g18_a_large_slot_travels_in_bounded_chunks_of_which_few_are_on_their_way() {
    let mut world = spread(&[&[2], &[3, 4, 5]]);
    let (mut client, keys) = (Client::default(), world.keys_of_a_slot(G1, 64));
    let value = "x".repeat(100 << 10);
    client.fill(&mut world, &keys, &value);
    let sent: Rc<RefCell<Vec<usize>>> = Rc::default();
    let seen = Rc::clone(&sent);
    world.pass = Some(Box::new(move |_, said| {
        if let MoveMessage::Chunk { chunk, .. } = &said.message {
            seen.borrow_mut().push(chunk.bytes());
        }
        true
    }));
    // The destination's leader has nobody who takes what it writes.
    let leader = world.led_by(G2).expect("a leader");
    world.move_keys(&keys, G2);
    assert!(world.until(100, |_| sent.borrow().len() > 1));
    let others: Vec<u64> = (3..=5).filter(|id| NodeId(*id) != leader).collect();
    world.cut.extend(others.into_iter().map(NodeId));
    let before = sent.borrow().len();
    world.run(300);
    assert!(sent.borrow().len() <= before + 4, "{} chunks wait", sent.borrow().len() - before);
    world.cut.clear();
    assert!(world.until(20_000, |w| w.are_at(&keys, G2)));
    let sent = sent.borrow();
    assert!(sent.iter().all(|bytes| *bytes <= MOVE_CHUNK.bytes), "{sent:?}");
    assert!(sent.len() >= 64 / 2, "{sent:?}");
    client.find(&mut world, &keys, &value);
}

/// Writers of one slot that never wait longer than for their last answer.
struct Flood {
    key: String,
    value: String,
    /// The seq of each session, and its request.
    writers: Vec<(u64, Option<u64>)>,
    done: u64,
}

impl Flood {
    fn new(key: &str, writers: usize, value: usize) -> Flood {
        let (key, value) = (key.to_owned(), "x".repeat(value));
        Flood { key, value, writers: vec![(1, None); writers], done: 0 }
    }

    /// A slot of group 1 moves to group 2, and writes to it wait until it has. It is not frozen.
    fn held(world: &mut World) -> Flood {
        let keys = world.keys_of(G1, 1);
        let mut flood = Flood::new(&keys[0], 4, 1 << 20);
        world.move_keys(&keys, G2);
        let is_late =
            |phase| matches!(phase, SlotPhase::Exporting { round: 10.., frozen: false, .. });
        while !flood.waits(world) || !is_late(world.phase(SOURCE, G1, &keys[0])) {
            flood.write_for(world, 1);
        }
        flood
    }

    /// Whether requests wait for the slot.
    fn waits(&self, world: &World) -> bool {
        world.nodes[&SOURCE].replica(G1).expect("it is here").parks(slot_of(&self.key))
    }

    fn write_for(&mut self, world: &mut World, ms: u64) {
        for _ in 0..ms {
            self.write(world);
            world.run(1);
        }
    }

    fn write(&mut self, world: &mut World) {
        let slot = slot_of(&self.key);
        let Some(node) = world.led_by(world.owner_now(slot)) else { return };
        for (writer, (seq, open)) in self.writers.iter_mut().enumerate() {
            if let Some(id) = *open {
                match world.replies.get(&id) {
                    Some(Answer::Done { .. }) => {
                        (*seq, self.done) = (*seq + 1, self.done + 1);
                        *open = None;
                    }
                    Some(_) => *open = None,
                    None => continue,
                }
            }
            let value = Bytes::copy_from_slice(self.value.as_bytes());
            let set = crate::op::Set {
                key: Bytes::copy_from_slice(self.key.as_bytes()),
                value,
                expiry: crate::op::SetExpiry::Clear,
                condition: None,
                get: false,
                command: crate::op::ExpiryCommand::Set,
            };
            let RequestBody::Lane(lane) = write_of(slot, *seq, Op::Set(set)) else { panic!() };
            let session = SessionId(100 + writer as u128);
            let group = world.owner_now(slot);
            *open =
                Some(world.put(node, group, RequestBody::Lane(LaneRequest { session, ..lane })));
        }
    }
}

/// A slot has moved under so many writers of values of so many bytes, and others did not wait for it. How much was
/// written before.
fn moved_under(writers: usize, value: usize) -> (World, Flood, u64) {
    let mut world = spread(&[&[2], &[3]]);
    let (mut client, keys) = (Client::default(), world.keys_of(G1, 2));
    let mut flood = Flood::new(&keys[0], writers, value);
    flood.write_for(&mut world, 20);
    let before = flood.done;
    world.move_keys(&keys[..1], G2);
    let begun = world.now;
    while !world.are_at(&keys[..1], G2) {
        flood.write(&mut world);
        assert!(client.append(&mut world, &keys[1], "a", 3).is_some(), "another slot waits");
        assert!(world.now < begun + 3000 * MS, "the move does not end");
    }
    (world, flood, before)
}

/// Writes come faster than rounds could ever get shorter: those of this slot are held up until they do, those of others
/// are not.
fn flooded_slot_moves() {
    let (mut world, mut flood, before) = moved_under(24, 64 << 10);
    assert!(before > 200, "{before} writes");
    let moved = flood.done;
    flood.write_for(&mut world, 20);
    assert!(flood.done > moved + 100, "{} writes since", flood.done - moved);
}

/// Each write changes more than the last round may have: in the end they wait until the slot has moved.
fn slot_of_large_writes_moves() {
    moved_under(4, 1 << 20);
}

/// Writes that wait for a copy do not wait for ever where the destination has lost its majority.
fn writes_do_not_wait_for_who_is_gone() {
    let mut world = spread(&[&[2], &[3, 4, 5]]);
    let asked = note(&mut world, |said| matches!(said.message, MoveMessage::InParts { .. }));
    let mut flood = Flood::held(&mut world);
    assert!(!asked.borrow().is_empty());
    world.down.extend([3, 4, 5].map(NodeId));
    let done = flood.done;
    flood.write_for(&mut world, 6000);
    assert!(flood.done > done + 100, "{} writes since", flood.done - done);
}

/// A read shows what is there while writes wait for the copy. One that must see such a write waits with it, and goes
/// where it goes.
fn reads_pass_writes_that_wait() {
    let mut world = spread(&[&[2], &[3]]);
    let flood = Flood::held(&mut world);
    world.cut.insert(NodeId(3));
    world.run(20);
    let waits = |open: Option<u64>| open.is_some_and(|id| !world.replies.contains_key(&id));
    let held = flood.writers.iter().position(|(_, open)| waits(*open)).expect("a write waits");
    let (session, deadline) = (SessionId(100 + held as u128), LogTime(300_000));
    let after = Some(After { session, deadline, seq: Seq(flood.writers[held].0) });
    let RequestBody::Read(read) = read_of(&flood.key) else { panic!() };
    let own = world.put(SOURCE, G1, RequestBody::Read(ReadRequest { after, ..read }));
    let other = world.put(SOURCE, G1, read_of(&flood.key));
    world.run(20);
    assert!(flood.waits(&world) && !world.is_frozen(SOURCE, G1, &flood.key));
    assert!(world.was_done(other), "it waits behind a write of another connection");
    assert!(!world.replies.contains_key(&own), "it did not see the write before it");
    world.cut.clear();
    assert!(world.until(2000, |world| world.replies.contains_key(&own)));
    let answer = &world.replies[&own];
    assert!(matches!(answer, Answer::Moved { to: G2, .. }), "{answer:?}");
}

#[test]
fn reads_do_not_wait_behind_writes_that_they_need_not_see() {
    reads_pass_writes_that_wait();
}

#[test]
fn writes_wait_for_a_copy_only_while_somebody_copies() {
    writes_do_not_wait_for_who_is_gone();
}

/// Rules that hold where writes and moves meet.
#[test]
fn each_broken_rule_at_the_source_is_noticed() {
    let table: [(Mutant, fn()); 7] = [
        (Mutant::CheckedAtArrival, around_the_freeze),
        (Mutant::ReadsUnchecked, around_the_freeze),
        (Mutant::NoThrottle, flooded_slot_moves),
        (Mutant::NoHold, slot_of_large_writes_moves),
        (Mutant::HoldForNobody, writes_do_not_wait_for_who_is_gone),
        (Mutant::ReadsPassNone, reads_pass_writes_that_wait),
        (Mutant::ReadsPassAll, reads_pass_writes_that_wait),
    ];
    for (mutant, scenario) in table {
        set_mutant(Some(mutant));
        let ended = catch_unwind(AssertUnwindSafe(scenario));
        set_mutant(None);
        assert!(ended.is_err(), "{mutant:?} is not noticed");
    }
}

#[test]
fn g19_a_slot_under_more_writes_than_the_copy_can_follow_still_moves() {
    flooded_slot_moves();
}

/// Some replicas of each group miss all that happens; then these serve with as few others as can be.
#[test]
fn g27_replicas_that_missed_several_configurations_have_all_data_when_the_others_end() {
    let mut world = spread(&[&[2, 3, 4], &[5, 6, 7]]);
    let mut client = Client::default();
    let keys = [world.keys_of(G1, 6), world.keys_of(G2, 6)].concat();
    client.fill(&mut world, &keys, "a");
    let late = [NodeId(4), NodeId(7)];
    world.down.extend(late);
    for (round, to) in [G2, G1, G2, G1].into_iter().enumerate() {
        world.move_keys(&keys[round..round + 6], to);
        assert!(world.until(5000, |w| w.are_at(&keys[round..round + 6], to)));
    }
    client.fill(&mut world, &keys, "b");
    late.into_iter().for_each(|id| world.start(id));
    world.run(1000);
    world.down.extend([NodeId(2), NodeId(5)]);
    client.find(&mut world, &keys, "ab");
    world.run(1000);
    for (a, b, group) in [(3, 4, G1), (6, 7, G2)] {
        let digest = |id| world.nodes[&NodeId(id)].digests()[&group];
        assert_eq!(digest(a), digest(b), "group {group}");
    }
}

#[test]
fn g28_every_key_is_readable_when_the_old_group_ends_for_good_after_a_join_and_its_leave() {
    let mut world = spread(&[&[2], &[3]]);
    let mut client = Client::default();
    let keys = [world.keys_of(G1, 8), world.keys_of(G2, 8)].concat();
    client.fill(&mut world, &keys, "a");
    let voters = vec![NodeId(1)];
    world.order(MasterOp::CreateGroup { group: Some(G3), voters, weight: 1, rebalance: true });
    let is_settled = |world: &World| {
        let map = world.newest();
        let table = map.config.slot_table();
        let mut slots = (0..).map(Slot).zip(table);
        map.moves.is_empty() && slots.all(|(slot, to)| map.owners.of(slot).map(|o| o.0) == to)
    };
    assert!(world.until(60_000, is_settled), "the join does not end");
    client.fill(&mut world, &keys, "b");
    world.order(MasterOp::DrainGroup { group: G1 });
    assert!(world.until(60_000, is_settled), "the leave does not end");
    assert_eq!(world.newest().owners.count(G1), 0);
    world.down.insert(NodeId(2));
    client.find(&mut world, &keys, "ab");
    client.fill(&mut world, &keys, "c");
    client.find(&mut world, &keys, "abc");
}

//! Lines D: what a source keeps of a slot that moved, and for how long.

use super::moves::G2;
use super::slots::{Client, Setting, hold, spread, spread_with};
use super::*;
use crate::migration::{MoveEnvelope, MoveMessage};
use crate::moves::MoveId;
use crate::rows::Row;
use crate::shard_store::SlotPhase;
use crate::slot::Slot;

const G3: GroupId = GroupId(3);
const SOURCE: NodeId = NodeId(2);

fn is_end(said: &MoveEnvelope) -> bool {
    matches!(said.message, MoveMessage::Ended { .. })
}

fn slot_of(key: &str) -> Slot {
    hash_slot(key.as_bytes())
}

impl World {
    /// Keys that a replica holds.
    fn keys_held(&self, node: NodeId, group: GroupId) -> u64 {
        self.store(node, group).stats().keys
    }

    /// Whether a replica has nothing of a slot.
    fn is_gone(&self, node: NodeId, group: GroupId, key: &str) -> bool {
        self.phase(node, group, key) == SlotPhase::Absent && self.keys_held(node, group) == 0
    }
}

#[test]
fn d01_a_source_deletes_what_was_confirmed_asks_until_it_is_and_answers_until_it_is_heard() {
    let mut world = spread(&[&[2], &[3]]);
    let (mut client, keys) = (Client::default(), world.keys_of_a_slot(G1, 5));
    client.fill(&mut world, &keys, "a");
    // What the destination says of the end is lost, and the source hears of no other map.
    let asked = hold(&mut world, |said| {
        is_end(said) || matches!(said.message, MoveMessage::Settled | MoveMessage::Resolve(_))
    });
    world.deaf.insert(SOURCE);
    world.move_keys(&keys, G2);
    assert!(world.until(1000, |world| world.are_at(&keys, G2)));
    client.fill(&mut world, &keys, "b");
    world.run(3000);
    let of_source = |said: &MoveEnvelope| matches!(said.message, MoveMessage::Resolve(_));
    let times = asked.borrow().iter().filter(|(_, said)| of_source(said)).count();
    assert!(times > 2, "it asked {times} times how it stands");
    assert!(world.is_frozen(SOURCE, G1, &keys[0]));
    assert_eq!(world.keys_held(SOURCE, G1), 5, "deleted without a word that it may");
    // The map tells it, and what it says of that is lost.
    let answers = hold(&mut world, |said| said.to == SHARDMASTER && said.from == G1);
    world.deaf.clear();
    assert!(world.until(3000, |world| world.is_gone(SOURCE, G1, &keys[0])));
    world.run(3000);
    assert!(answers.borrow().len() > 2, "it answered {} times", answers.borrow().len());
    world.pass = None;
    assert!(world.until(5000, |world| world.newest().moves.is_empty()));
    client.find(&mut world, &keys, "ab");
}

#[test]
fn d01_d02_nothing_is_deleted_while_the_install_is_not_committed_also_if_its_leader_ends() {
    let mut world = spread(&[&[2], &[3, 4, 5]]);
    let (mut client, keys) = (Client::default(), world.keys_of_a_slot(G1, 5));
    client.fill(&mut world, &keys, "a");
    let leader = world.stop_before_the_end(&keys, SOURCE);
    world.run(400);
    assert!(world.is_frozen(SOURCE, G1, &keys[0]));
    world.down.insert(leader);
    world.cut.clear();
    world.pass = None;
    let ended = world.until(20_000, |world| {
        let others = (3..=5).map(NodeId).filter(|node| *node != leader);
        let owned = others.filter(|node| world.phase(*node, G2, &keys[0]) == SlotPhase::Owned);
        let owned = owned.count();
        assert!(owned > 0 || world.keys_held(SOURCE, G1) == 5, "nobody has all of it");
        owned > 0 && world.is_gone(SOURCE, G1, &keys[0])
    });
    assert!(ended, "it does not end");
    client.find(&mut world, &keys, "a");
}

#[test]
fn d04_a_crash_before_the_deletion_and_a_replica_with_an_old_checkpoint_leave_nothing() {
    let checkpoints = Some(snapshots::SMALL);
    let mut world =
        spread_with(&[&[2, 3, 4], &[5]], &Setting { checkpoints, ..Setting::default() });
    let (mut client, keys) = (Client::default(), world.keys_of_a_slot(G1, 5));
    client.fill(&mut world, &keys, "a");
    let leader = world.led_by(G1).expect("a leader");
    let followers: Vec<NodeId> = (2..=4).map(NodeId).filter(|node| *node != leader).collect();
    let [old, other] = followers[..] else { panic!("{followers:?}") };
    // One has a checkpoint with the slot in it, and is away from then on.
    world.input(old, Input::CheckpointWanted(G1));
    world.run(100);
    let rows = &world.disks[&old][&G1].state.rows;
    assert!(rows.contains_key(&Row::Key(slot_of(&keys[0]), keys[0].as_bytes()).key()));
    world.down.insert(old);
    // The confirmation reaches the leader when nobody takes its entries, and it ends.
    let held = hold(&mut world, is_end);
    world.deaf.extend([leader, other]);
    world.move_keys(&keys, G2);
    assert!(world.until(3000, |_| !held.borrow().is_empty()));
    world.cut.insert(other);
    let confirmation = held.borrow()[0].clone();
    assert_eq!(confirmation.0, leader);
    world.hand(NodeId(5), confirmation);
    assert!(world.is_frozen(leader, G1, &keys[0]) && world.keys_held(leader, G1) == 5);
    world.down.insert(leader);
    world.cut.clear();
    world.deaf.clear();
    world.pass = None;
    world.start(old);
    let both = [old, other];
    let gone = |world: &World| both.iter().all(|node| world.is_gone(*node, G1, &keys[0]));
    assert!(world.until(10_000, gone), "it is not deleted");
    world.start(leader);
    world.run(2000);
    for node in [old, other, leader] {
        assert!(world.is_gone(node, G1, &keys[0]), "node {node}");
        assert_eq!(world.store(node, G1).stand(slot_of(&keys[0])).settled, MoveId(1));
    }
    client.find(&mut world, &keys, "a");
}

#[test]
fn d05_a_slot_goes_on_while_its_first_owner_is_dead_and_has_deleted_nothing() {
    let mut world = spread(&[&[2], &[3], &[4]]);
    let (mut client, keys) = (Client::default(), world.keys_of_a_slot(G1, 5));
    client.fill(&mut world, &keys, "a");
    let _lost = hold(&mut world, is_end);
    world.deaf.insert(SOURCE);
    world.move_keys(&keys, G2);
    assert!(world.until(1000, |world| world.are_at(&keys, G2)));
    world.down.insert(SOURCE);
    assert_eq!(world.keys_held(SOURCE, G1), 5);
    world.pass = None;
    world.move_keys(&keys, G3);
    assert!(world.until(1000, |world| world.are_at(&keys, G3)), "it waits for the dead");
    client.fill(&mut world, &keys, "b");
    world.start(SOURCE);
    world.deaf.clear();
    let settled =
        |world: &World| world.newest().moves.is_empty() && world.is_gone(SOURCE, G1, &keys[0]);
    assert!(world.until(10_000, settled), "what it had stays");
    client.find(&mut world, &keys, "ab");
}

/// What the disks of all nodes have of groups with slots: bytes, and rows of keys.
fn stored(world: &mut World) -> (usize, usize) {
    for node in 1..=3 {
        for group in 1..=3 {
            world.input(NodeId(node), Input::CheckpointWanted(GroupId(group)));
            world.run(400);
        }
    }
    let groups = world.disks.values().flat_map(|disks| disks.iter());
    let (mut bytes, mut keys) = (0, 0);
    for (_, disk) in groups.filter(|(group, _)| **group != SHARDMASTER) {
        let rows = &disk.state.rows;
        bytes += rows.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        bytes += disk.entries.iter().map(|entry| entry.frame.len()).sum::<usize>();
        keys += rows.keys().filter(|key| matches!(Row::of(key), Ok(Row::Key(..)))).count();
    }
    (bytes, keys)
}

/// The lab's bound: three copies of the data and of some log, however often all of it went round.
#[test]
fn d06_keys_that_went_round_three_groups_four_times_are_on_each_disk_once() {
    let (checkpoints, nodes) = (Some(snapshots::SMALL), &[1, 2, 3][..]);
    let setting = Setting { checkpoints, ..Setting::default() };
    let mut world = spread_with(&[nodes, nodes, nodes], &setting);
    let (empty, _) = stored(&mut world);
    let (mut client, keys) = (Client::default(), world.keys_of(G1, 30));
    let value = "x".repeat(1000);
    client.fill(&mut world, &keys, &value);
    for _ in 0..4 {
        for to in [G2, G3, G1] {
            world.move_keys(&keys, to);
            assert!(world.until(20_000, |world| world.are_at(&keys, to)));
        }
    }
    assert!(world.until(5000, |world| world.newest().moves.is_empty()));
    client.find(&mut world, &keys, &value);
    let (bytes, rows) = stored(&mut world);
    assert_eq!(rows, 3 * 30, "rows of keys");
    assert!(bytes - empty < 3 * (27_000 + 6_000 + 6_000), "{} bytes more", bytes - empty);
}

#[test]
fn d08_after_a_restart_nobody_says_a_word_of_a_move_that_is_over() {
    let mut world = spread(&[&[2], &[3]]);
    let (mut client, keys) = (Client::default(), world.keys_of(G1, 3));
    client.fill(&mut world, &keys, "a");
    world.move_keys(&keys, G2);
    assert!(world.until(5000, |world| world.newest().moves.is_empty() && world.are_at(&keys, G2)));
    world.run(1000);
    let digests =
        |world: &World| [world.store(SOURCE, G1), world.store(NodeId(3), G2)].map(|s| s.digest());
    let before = digests(&world);
    for (node, group) in [(SOURCE, G1), (NodeId(3), G2)] {
        let store = world.store(node, group);
        assert_eq!(store.moving().count(), 0, "node {node}");
        assert!(keys.iter().all(|key| store.stand(slot_of(key)).settled > MoveId(0)));
    }
    let said = hold(&mut world, |_| true);
    (1..=3).for_each(|id| world.start(NodeId(id)));
    world.run(4000);
    assert_eq!(*said.borrow(), []);
    assert_eq!(digests(&world), before);
    client.find(&mut world, &keys, "a");
}

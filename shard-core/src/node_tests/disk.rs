//! Room on the disk: what a leader proposes without, and which checkpoints wait for it.

use super::*;
use crate::disk_room::DiskRoom;
use crate::op::{ExpiryCommand, OpError, Set, SetExpiry, Token};

const VALUE: usize = 32 << 10;
const LOW: DiskRoom = DiskRoom { free: 8 << 20, low: true };

fn set(seq: u64, key: u64) -> RequestBody {
    let value = vec![b'x'; VALUE].into();
    let key = format!("{{k}}{key}").into();
    let (expiry, command) = (SetExpiry::Clear, ExpiryCommand::Set);
    lane(seq, Op::Set(Set { key, value, expiry, condition: None, get: false, command }))
}

fn refused() -> Outcome {
    Outcome::Error(OpError::NoRoom)
}

/// Asks and waits; the ids count on.
fn ask(world: &mut World, body: RequestBody) -> Outcome {
    let id = world.replies.len() as u64 + 1;
    let leader = world.leader(G1);
    world.ask(leader, G1, id, body);
    world.run(5);
    outcome(&world.replies[&id]).clone()
}

fn tell(world: &mut World, disk: DiskRoom) {
    world.nodes.values_mut().for_each(|node| node.set_disk(disk));
}

fn last_frame_bytes(world: &World) -> usize {
    let leader = world.leader(G1);
    world.disks[&leader][&G1].entries.last().expect("an entry").frame.len()
}

#[test]
fn f04_without_room_what_grows_is_refused_for_good_and_takes_none() {
    let mut world = World::new();
    world.run(2500);
    assert_eq!(ask(&mut world, set(1, 1)), Outcome::Ok);
    assert!(last_frame_bytes(&world) > VALUE);
    tell(&mut world, LOW);
    assert_eq!(ask(&mut world, set(2, 2)), refused());
    assert!(last_frame_bytes(&world) < 200, "the value went to the disk");
    let get = Op::Get { key: "{k}1".into() };
    assert_eq!(ask(&mut world, lane(3, get)), Outcome::Value(vec![b'x'; VALUE].into()));
    let keys = vec!["{k}1".into()];
    assert_eq!(ask(&mut world, lane(4, Op::Del { keys })), Outcome::Integer(1));
    // A seq that was given out has an answer, and it stays; also where the next leader has room.
    tell(&mut world, DiskRoom::default());
    assert_eq!(ask(&mut world, set(4, 4)), Outcome::Integer(1));
    assert_eq!(ask(&mut world, set(5, 2)), Outcome::Ok);
    world.run(300);
    let digests: BTreeSet<_> = world.nodes.values().map(|node| node.digests()[&G1]).collect();
    assert_eq!(digests.len(), 1, "replicas differ");
}

#[test]
fn x02_a_copy_of_what_was_done_is_answered_though_there_is_no_room_and_a_first_one_is_not_done() {
    let mut world = World::new();
    world.run(2500);
    let append = |seq, name| {
        let op = Op::Append { key: "k".into(), value: vec![b'x'; VALUE].into() };
        let name = SessionId::of_token(name);
        lane(seq, Op::Token(Box::new(Token { name, hash: 1, window_ms: 60_000, op })))
    };
    let done = Outcome::Integer(VALUE as i64);
    assert_eq!(ask(&mut world, append(1, 1)), done);
    tell(&mut world, LOW);
    assert_eq!(ask(&mut world, append(2, 1)), done, "it was done");
    assert!(last_frame_bytes(&world) < 200, "the value went to the disk again");
    assert_eq!(ask(&mut world, append(3, 2)), refused());
    tell(&mut world, DiskRoom::default());
    assert_eq!(ask(&mut world, append(4, 2)), Outcome::Integer(2 * VALUE as i64), "now it is");
}

#[test]
fn s19_a_checkpoint_that_may_find_no_room_is_begun_when_there_is_some() {
    let checkpoints = CheckpointConfig { dirty_bytes_min: 1, ..CheckpointConfig::default() };
    let mut world = World::taking(config(), Some(checkpoints));
    world.run(2500);
    let count = |world: &World| {
        let checkpoint = |node: &Node| node.status(0).replicas[&G1].checkpoint;
        world.nodes.values().map(|node| checkpoint(node).0).collect::<Vec<_>>()
    };
    tell(&mut world, DiskRoom { free: (1 << 20) - 1, low: true });
    let before = count(&world);
    (1..=200).for_each(|seq| drop(ask(&mut world, lane(seq, Op::Del { keys: vec!["k".into()] }))));
    // Long past the time at which one is due whatever has changed.
    world.run(70_000);
    assert_eq!(count(&world), before);
    // Below the mark still: what lets the log go is what makes room.
    tell(&mut world, LOW);
    world.run(100);
    assert!(count(&world).iter().all(|at| *at >= 200), "{:?}", count(&world));
}

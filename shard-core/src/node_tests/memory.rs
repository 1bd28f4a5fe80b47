//! The limit of memory: what the leader's node decides, and that all replicas follow it.

use super::*;
use crate::op::ExpiryCommand;
use crate::op::{OpError, Set, SetExpiry};

const MAX: u64 = 3 << 20;
const VALUE: usize = 32 << 10;

fn set(seq: u64, key: u64) -> RequestBody {
    let value = vec![b'x'; VALUE].into();
    let key = format!("{{k}}{key}").into();
    let (expiry, command) = (SetExpiry::Clear, ExpiryCommand::Set);
    lane(seq, Op::Set(Set { key, value, expiry, condition: None, get: false, command }))
}

fn refused() -> Outcome {
    Outcome::Error(OpError::OutOfMemory)
}

/// Asks and waits; the ids count on.
fn ask(world: &mut World, body: RequestBody) -> Outcome {
    let id = world.replies.len() as u64 + 1;
    let leader = world.leader(G1);
    world.ask(leader, G1, id, body);
    world.run(5);
    outcome(&world.replies[&id]).clone()
}

/// Sets keys until one is refused; the seq of that one.
fn fill(world: &mut World) -> u64 {
    (1..1000).find(|seq| ask(world, set(*seq, *seq)) == refused()).expect("it never is full")
}

fn world() -> World {
    // Small caches of the log, so that most of the memory is keys.
    let checkpoints = CheckpointConfig { dirty_bytes_min: 1 << 20, ..CheckpointConfig::default() };
    let mut world = World::limited(config(), Some(checkpoints), MAX);
    world.run(2500);
    world
}

#[test]
fn b84_at_the_limit_what_grows_is_refused_and_the_rest_goes_on() {
    let mut world = world();
    let first = fill(&mut world);
    let leader = world.leader(G1);
    let memory = world.nodes[&leader].memory();
    assert!(memory.total() >= MAX && memory.total() < MAX + 4 * VALUE as u64, "{memory:?}");
    assert!(memory.values > MAX / 2, "{memory:?}");

    let get = Op::Get { key: "{k}1".into() };
    assert_eq!(ask(&mut world, lane(first + 1, get)), Outcome::Value(vec![b'x'; VALUE].into()));
    let keys: Vec<_> = (1..first).map(|key| format!("{{k}}{key}").into()).collect();
    let deleted = ask(&mut world, lane(first + 2, Op::Del { keys }));
    assert_eq!(deleted, Outcome::Integer(first as i64 - 1));
    world.run(3000);
    assert_eq!(ask(&mut world, set(first + 3, 1)), Outcome::Ok);
    world.run(300);
    let digests: BTreeSet<_> = world.nodes.values().map(|node| node.digests()[&G1]).collect();
    assert_eq!(digests.len(), 1, "replicas differ");
}

/// Design review 6: a seq that was given out has an answer, and it stays.
#[test]
fn a_refusal_stays_one_when_the_next_leader_has_memory() {
    let mut world = world();
    let first = fill(&mut world);
    world.memory_max = 0;
    for id in 1..=3 {
        world.start(NodeId(id));
    }
    world.run(2500);
    assert_eq!(ask(&mut world, set(first, first)), refused());
    assert_eq!(ask(&mut world, set(first + 1, first)), Outcome::Ok);
}

#[test]
fn what_one_turn_brings_is_held_to_the_limit_too() {
    let mut world = world();
    let leader = world.leader(G1);
    let requests = (1..=300).map(|seq| {
        let RequestBody::Lane(request) = set(seq, seq) else { panic!("a lane's") };
        Request { id: seq, body: RequestBody::Lane(LaneRequest { acked: Seq(0), ..request }) }
    });
    let batch = RequestBatch { group: G1, requests: requests.collect() };
    world.input(leader, Input::Requests { origin: Origin(1), batch });
    world.run(300);
    let count = |wanted: Outcome| {
        let is =
            |answer: &&Answer| matches!(answer, Answer::Done { outcome, .. } if *outcome == wanted);
        world.replies.values().filter(is).count()
    };
    let (done, refused) = (count(Outcome::Ok), count(refused()));
    // Entries of 256 KiB say so for all of their items.
    assert!((50..120).contains(&done), "{done} of 300 values of 32 KiB in 3 MiB");
    assert!(refused > 100, "only {refused} refused");
}

#[test]
fn buffers_of_the_host_count() {
    let mut world = world();
    assert_eq!(ask(&mut world, set(1, 1)), Outcome::Ok);
    for node in world.nodes.values_mut() {
        node.set_buffers(MAX);
    }
    assert_eq!(ask(&mut world, set(2, 2)), refused());
    for node in world.nodes.values_mut() {
        node.set_buffers(0);
    }
    assert_eq!(ask(&mut world, set(3, 2)), Outcome::Ok);
}

//! Reads that take no place in the log.

use super::*;
use crate::op::{Expire, ExpireAt, ExpiryCommand};
use crate::wire::{After, ReadRequest};

fn get(after: Option<u64>) -> RequestBody {
    let (session, deadline) = (SessionId(9), LogTime(300_000));
    let after = after.map(|seq| After { session, deadline, seq: Seq(seq) });
    let op = Op::Get { key: b"k"[..].into() };
    RequestBody::Read(ReadRequest { slot: hash_slot(b"k"), after, op })
}

impl World {
    /// Three nodes with a leader and `k` = "ab".
    fn with_a_key() -> (World, NodeId) {
        let mut world = World::new();
        world.run(2500);
        let leader = world.leader(G1);
        world.ask(leader, G1, 1, append(1, b"ab"));
        world.run(300);
        (world, leader)
    }

    fn last(&self, node: NodeId) -> u64 {
        self.nodes[&node].status(self.now).replicas[&G1].last.0
    }
}

#[test]
fn l02_reads_of_one_turn_share_a_round_and_take_no_place_in_the_log() {
    let (mut world, leader) = World::with_a_key();
    let before = world.last(leader);
    let requests = (10..110).map(|id| Request { id, body: get(None) }).collect();
    let batch = RequestBatch { group: G1, requests };
    world.input(leader, Input::Requests { origin: Origin(1), batch });
    assert!(!world.replies.contains_key(&10), "answered before the leader was confirmed");
    let mut out = Output::default();
    let node = world.nodes.get_mut(&leader).unwrap();
    node.poll(world.now, LogTime(world.now / MS), &mut out).unwrap();
    let messages = out.messages.iter().filter(|(_, envelope)| envelope.group == G1).count();
    assert_eq!((messages, out.writes.len()), (2, 0), "one question to each peer");
    world.carry_out(leader, out);
    world.run(2);
    for id in 10..110 {
        assert_eq!(outcome(&world.replies[&id]), &Outcome::Value(b"ab"[..].into()));
    }
    assert_eq!(world.last(leader), before);
}

#[test]
fn l15_a_lease_saves_the_round_until_it_is_over() {
    let mut world = World::stopped(config(), None, 0);
    world.lease_ns = 500 * MS;
    (1..=3).for_each(|id| world.start(NodeId(id)));
    world.run(2500);
    let leader = world.leader(G1);
    world.ask(leader, G1, 1, append(1, b"ab"));
    world.run(10);
    let asked = |world: &mut World, id| {
        world.ask(leader, G1, id, get(None));
        let mut out = Output::default();
        let node = world.nodes.get_mut(&leader).unwrap();
        node.poll(world.now, LogTime(world.now / MS), &mut out).unwrap();
        let messages = out.messages.iter().filter(|(_, envelope)| envelope.group == G1).count();
        world.carry_out(leader, out);
        (messages, world.replies.contains_key(&id))
    };
    assert_eq!(asked(&mut world, 2), (0, true), "the append was answered a moment ago");
    // Until the followers know what is committed, they are told, and answer.
    world.run(1000);
    assert!(!world.nodes[&leader].status(world.now).replicas[&G1].lease);
    assert_eq!(asked(&mut world, 3).0, 2, "an idle group has no lease: a round");
    world.run(2);
    assert_eq!(outcome(&world.replies[&3]), &Outcome::Value(b"ab"[..].into()));
    assert_eq!(asked(&mut world, 4), (0, true), "the round brought a new one");
}

#[test]
fn l04_l12_a_read_waits_for_the_op_it_must_see() {
    let (mut world, leader) = World::with_a_key();
    world.ask(leader, G1, 2, get(Some(2)));
    world.ask(leader, G1, 3, get(Some(1)));
    world.run(10);
    assert!(!world.replies.contains_key(&2));
    assert_eq!(outcome(&world.replies[&3]), &Outcome::Value(b"ab"[..].into()));
    world.ask(leader, G1, 4, append(2, b"cd"));
    world.run(2);
    assert_eq!(outcome(&world.replies[&2]), &Outcome::Value(b"abcd"[..].into()));
    assert!(world.nodes[&leader].is_idle());
}

#[test]
fn l17_a_read_whose_op_never_comes_is_answered_in_bounded_time() {
    let (mut world, leader) = World::with_a_key();
    world.ask(leader, G1, 2, get(Some(2)));
    world.run(5_100);
    assert_eq!(world.replies[&2], Answer::Busy);
    assert!(world.nodes[&leader].is_idle());
}

#[test]
fn l05_l08_a_leader_without_a_quorum_answers_no_read() {
    let (mut world, leader) = World::with_a_key();
    let others: Vec<NodeId> = (1..=3).map(NodeId).filter(|id| *id != leader).collect();
    world.down.extend(others.iter().copied());
    world.ask(leader, G1, 2, get(None));
    world.ask(leader, G1, 3, get(Some(2)));
    world.run(3000);
    for id in [2, 3] {
        let answer = &world.replies[&id];
        assert!(matches!(answer, Answer::NotLeader { .. } | Answer::Lost), "{answer:?}");
    }
    world.ask(leader, G1, 4, get(None));
    world.run(10);
    assert_eq!(world.replies[&4], Answer::NotLeader { hint: None });
    assert!(world.nodes[&leader].is_idle());
}

#[test]
fn l10_l11_reads_go_on_after_a_change_of_leader_and_a_replay_without_a_write() {
    let (mut world, _) = World::with_a_key();
    for id in 1..=3 {
        world.start(NodeId(id));
    }
    let mut id = 10;
    for _ in 0..2500 {
        world.run(1);
        for node in 1..=3 {
            id += 1;
            world.ask(NodeId(node), G1, id, get(None));
        }
    }
    world.run(10);
    let values: Vec<&Outcome> = (11..=id)
        .filter_map(|id| match &world.replies[&id] {
            Answer::Done { outcome, .. } => Some(outcome),
            _ => None,
        })
        .collect();
    assert!(values.len() > 100, "{} of {id} reads were answered", values.len());
    assert!(values.iter().all(|value| **value == Outcome::Value(b"ab"[..].into())));
}

#[test]
fn l14_reads_of_an_expired_key_share_one_clock_entry() {
    let (mut world, leader) = World::with_a_key();
    let expire = Expire {
        key: b"k"[..].into(),
        at: ExpireAt::AfterMs(50),
        nx: false,
        xx: false,
        gt: false,
        lt: false,
        command: ExpiryCommand::PExpire,
    };
    world.ask(leader, G1, 2, lane(2, Op::Expire(expire)));
    world.run(5);
    let before = world.last(leader);
    world.ask(leader, G1, 3, get(None));
    world.run(5);
    assert_eq!(outcome(&world.replies[&3]), &Outcome::Value(b"ab"[..].into()));
    assert_eq!(world.last(leader), before);
    world.run(50);
    for id in 4..8 {
        world.ask(leader, G1, id, get(None));
    }
    world.run(5);
    for id in 4..8 {
        assert_eq!(outcome(&world.replies[&id]), &Outcome::Nil);
    }
    assert_eq!(world.last(leader), before + 1, "one entry for all of them");
    world.ask(leader, G1, 8, get(None));
    world.run(300);
    assert_eq!(outcome(&world.replies[&8]), &Outcome::Nil);
    assert_eq!(world.last(leader), before + 1, "log time covers it now");
    let digests: BTreeSet<u64> = world.nodes.values().map(|node| node.digests()[&G1]).collect();
    assert_eq!(digests.len(), 1, "replicas differ");
}

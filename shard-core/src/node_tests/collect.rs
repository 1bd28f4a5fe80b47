//! Expired keys leave memory, whether somebody writes or not.

use super::*;
use crate::op::{ExpiryCommand, Set, SetExpiry, Token};

impl World {
    /// Puts `count` keys into G1, in one slot, that expire `ms` from now.
    fn set_keys(&mut self, leader: NodeId, session: u128, count: u64, ms: i64) {
        for seq in 1..=count {
            let set = Set {
                key: format!("{{k}}{session}-{seq}").into(),
                value: b"v"[..].into(),
                expiry: SetExpiry::AfterMs(ms),
                condition: None,
                get: false,
                command: ExpiryCommand::Set,
            };
            let body = RequestBody::Lane(LaneRequest {
                session: SessionId(session),
                deadline: LogTime(300_000),
                slot: hash_slot(b"k"),
                seq: Seq(seq),
                acked: Seq(seq - 1),
                op: Op::Set(set),
            });
            self.ask(leader, G1, (session as u64) * 100_000 + seq, body);
        }
        self.run(20);
    }

    /// Keys that each node holds, and the last index of the leader's log.
    fn held(&self, leader: NodeId) -> (BTreeSet<u64>, u64) {
        let status = |node: &Node| node.status(self.now).replicas[&G1].clone();
        let keys = self.nodes.values().map(|node| status(node).keys).collect();
        (keys, status(&self.nodes[&leader]).last.0)
    }

    fn led() -> (World, NodeId) {
        let mut world = World::new();
        world.run(2500);
        let leader = world.leader(G1);
        (world, leader)
    }
}

#[test]
fn an_idle_group_collects_what_expires_in_bounded_steps_and_is_silent_then() {
    let (mut world, leader) = World::led();
    world.set_keys(leader, 1, 5000, 1000);
    world.run(300);
    let (keys, before) = world.held(leader);
    assert_eq!(keys, [5000].into());
    world.run(670);
    assert_eq!(world.held(leader), ([5000].into(), before), "nothing has expired");
    world.run(600);
    let (keys, after) = world.held(leader);
    assert_eq!(keys, [0].into(), "expired keys are still held");
    assert_eq!(after - before, 5, "5000 keys, 1024 an entry");
    world.run(5000);
    assert_eq!(world.held(leader).1, after, "an entry with nothing to collect");
    let digests: BTreeSet<u64> = world.nodes.values().map(|node| node.digests()[&G1]).collect();
    assert_eq!(digests.len(), 1, "replicas differ");
}

#[test]
fn keys_that_expire_one_by_one_share_entries() {
    let (mut world, leader) = World::led();
    for session in 1..=20 {
        world.set_keys(leader, session, 1, 1000);
    }
    let (_, before) = world.held(leader);
    world.run(1500);
    let (keys, after) = world.held(leader);
    assert_eq!(keys, [0].into());
    assert!((1..=4).contains(&(after - before)), "{} entries in 400 ms", after - before);
}

#[test]
fn keys_that_last_cost_a_group_no_entry() {
    let (mut world, leader) = World::led();
    world.set_keys(leader, 1, 10, 600_000);
    world.run(300);
    let held = world.held(leader);
    world.run(10_000);
    assert_eq!(world.held(leader), held);
}

#[test]
fn what_a_flush_left_and_what_the_next_leader_finds_is_collected_as_well() {
    let (mut world, leader) = World::led();
    world.set_keys(leader, 1, 3000, 500);
    world.down.insert(leader);
    world.run(6000);
    let next = world.leader(G1);
    let keys = world.nodes[&next].status(world.now).replicas[&G1].keys;
    assert_eq!(keys, 0, "the next leader collects");
    world.set_keys(next, 2, 3000, 600_000);
    world.ask(next, G1, 1, lane(1, Op::FlushSlot));
    world.run(5);
    assert_eq!(outcome(&world.replies[&1]), &Outcome::Ok);
    let before = world.held(next).1;
    world.run(200);
    let freed = world.held(next).1 - before;
    assert!((2..=4).contains(&freed), "3000 keys, 1024 an entry: {freed}");
}

#[test]
fn an_idle_group_drops_tokens_once_they_are_over() {
    let (mut world, leader) = World::led();
    for number in 1..=200 {
        let name = SessionId::of_token(number.into());
        let token = Token { name, hash: 1, window_ms: 1000, op: Op::FlushSlot };
        world.ask(leader, G1, number, lane(number, Op::Token(Box::new(token))));
    }
    world.run(300);
    let lanes = |world: &World| {
        let status = |node: &Node| node.status(world.now).replicas[&G1].lanes;
        world.nodes.values().map(status).collect::<BTreeSet<u64>>()
    };
    let (held, before) = (lanes(&world), world.held(leader).1);
    assert!(held.first().is_some_and(|lanes| *lanes > 200), "{held:?}");
    world.run(2000);
    assert_eq!(lanes(&world), held.iter().map(|lanes| lanes - 200).collect(), "they are held");
    let entries = world.held(leader).1 - before;
    assert_eq!(entries, 4, "200 lanes, 64 an entry");
    world.run(5000);
    assert_eq!(world.held(leader).1 - before, 4, "an entry with nothing to collect");
}

//! X1, X2: a write is carried out and its reply lost; whatever happens then, its repeat under the same seq yields what
//! the first one did, and it was done once.

use super::moves::G2;
use super::slots::{Client, Setting, append_of, spread_with, write_of};
use super::*;
use crate::op::{OpError, Token};
use crate::slot::Slot;

/// What happens between the write and its repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Between {
    Nothing,
    LeaderKilled,
    HandedOver,
    /// The slot is frozen when the write comes for the first time.
    HandedOverBefore,
    /// The next leader has what was done from a snapshot alone.
    SnapshotInstalled,
    SessionEnded,
}

const ALL: [Between; 6] = [
    Between::Nothing,
    Between::LeaderKilled,
    Between::HandedOver,
    Between::HandedOverBefore,
    Between::SnapshotInstalled,
    Between::SessionEnded,
];

/// Ops on a key that holds "7", what they answer, and what it holds then.
fn ops(key: &str) -> Vec<(Op, Outcome, &'static str)> {
    let name = || bytes::Bytes::copy_from_slice(key.as_bytes());
    let set = crate::op::Set {
        key: name(),
        value: b"new"[..].into(),
        expiry: crate::op::SetExpiry::Clear,
        condition: None,
        get: true,
        command: crate::op::ExpiryCommand::Set,
    };
    let overflow = Outcome::Error(OpError::Overflow);
    vec![
        (Op::Set(set), Outcome::Value(b"7"[..].into()), "new"),
        (append_of(key, "x"), Outcome::Integer(2), "7x"),
        (Op::IncrBy { key: name(), by: 5 }, Outcome::Integer(12), "12"),
        (Op::IncrBy { key: name(), by: i64::MAX }, overflow, "7"),
    ]
}

struct Case {
    world: World,
    client: Client,
    key: String,
}

impl Case {
    /// Two groups on three nodes each; a key of group 1 that holds "7".
    fn new() -> Case {
        let checkpoints = Some(snapshots::SMALL);
        let setting = Setting { checkpoints, ..Setting::default() };
        let mut world = spread_with(&[&[2, 3, 4], &[5, 6, 7]], &setting);
        let (mut client, key) = (Client::default(), world.keys_of(G1, 1).remove(0));
        assert!(client.append(&mut world, &key, "7", 100).is_some());
        Case { world, client, key }
    }

    fn leader(&self) -> NodeId {
        self.world.led_by(G1).expect("a leader")
    }

    /// The write, as its second seq; nobody reads the reply.
    fn write(&mut self, op: &Op) {
        let (leader, slot) = (self.leader(), hash_slot(self.key.as_bytes()));
        self.world.put(leader, G1, write_of(slot, 2, op.clone()));
        self.world.run(5);
    }

    fn move_away(&mut self) {
        let keys = [self.key.clone()];
        self.world.move_keys(&keys, G2);
        assert!(self.world.until(3000, |world| world.are_at(&keys, G2)), "it does not move");
    }

    fn happens(&mut self, between: Between, op: &Op) {
        if between == Between::HandedOverBefore {
            let (leader, keys) = (self.leader(), [self.key.clone()]);
            self.world.stop_before_the_end(&keys, leader);
            self.write(op);
            self.world.pass = None;
            self.world.cut.clear();
            return self.world.run(1000);
        }
        let absent = NodeId(2 + (self.leader().0 - 1) % 3);
        if between == Between::SnapshotInstalled {
            self.world.cut.insert(absent);
        }
        self.write(op);
        match between {
            Between::Nothing | Between::HandedOverBefore => {}
            Between::LeaderKilled => {
                let leader = self.leader();
                self.world.down.insert(leader);
            }
            Between::HandedOver => self.move_away(),
            Between::SnapshotInstalled => self.install_at(absent),
            Between::SessionEnded => {
                self.world.skew = (1..=7).map(|id| (NodeId(id), 400_000)).collect();
                self.world.run(1000);
            }
        }
    }

    /// Others write until the log lacks what the absent one lacks; it comes back, and leads.
    fn install_at(&mut self, absent: NodeId) {
        let keys = self.world.keys_of(G1, 40);
        let installs =
            |world: &World| world.nodes[&absent].status(world.now).replicas[&G1].installs;
        for _ in 0..30 {
            self.client.fill(&mut self.world, &keys[1..], "something to make the log longer");
        }
        self.world.cut.clear();
        assert!(self.world.until(10_000, |world| installs(world) > 0), "no snapshot");
        self.world.run(500);
        let leader = self.leader();
        self.world.ask(leader, G1, 77, RequestBody::Transfer { to: absent });
        assert!(self.world.until(3000, |world| world.led_by(G1) == Some(absent)));
    }
}

#[test]
fn x01_x02_a_repeat_after_anything_yields_what_the_first_one_did_and_nothing_is_done_twice() {
    for between in ALL {
        let count = ops("").len();
        for number in 0..count {
            let mut case = Case::new();
            let key = case.key.clone();
            let (op, expected, held) = ops(&key).swap_remove(number);
            case.happens(between, &op);
            let slot = hash_slot(key.as_bytes());
            let said = case.client.write(&mut case.world, slot, op.clone(), 3000);
            // Past the end of its session a repeat is not executed, and not answered as done.
            let expected = (between != Between::SessionEnded).then_some(expected);
            assert_eq!(said, expected, "{between:?}, {op:?}");
            let found = case.client.get(&mut case.world, &key, 3000);
            assert_eq!(found, Some(Outcome::Value(held.into())), "{between:?}, {op:?}");
        }
    }
}

fn named(op: &Op, hash: u64) -> Op {
    let (name, window_ms) = (SessionId::of_token(5), 600_000);
    Op::Token(Box::new(Token { name, hash, window_ms, op: op.clone() }))
}

/// The first write of another router's session, which has begun since.
fn of_another(slot: Slot, session: u128, now_ms: u64, op: Op) -> RequestBody {
    let (session, deadline) = (SessionId(session), LogTime(now_ms + 300_000));
    RequestBody::Lane(LaneRequest { session, deadline, slot, seq: Seq(1), acked: Seq(0), op })
}

/// What a client that reconnects to another router is told: there is nothing of the session in which its command was
/// sent first, only the token.
fn tokens() {
    for between in ALL {
        for number in 0..ops("").len() {
            let mut case = Case::new();
            let key = case.key.clone();
            let (op, expected, held) = ops(&key).swap_remove(number);
            case.happens(between, &named(&op, 9));
            let slot = hash_slot(key.as_bytes());
            let now_ms = case.world.wall(NodeId(1)).0;
            for session in 20..23 {
                let again = of_another(slot, session, now_ms, named(&op, 9));
                let said = case.client.ask(&mut case.world, slot, &again, 3000);
                assert_eq!(said.as_ref(), Some(&expected), "{between:?}, {op:?}");
            }
            let other = of_another(slot, 30, now_ms, named(&op, 10));
            let said = case.client.ask(&mut case.world, slot, &other, 3000);
            assert_eq!(said, Some(Outcome::Error(OpError::TokenReused)), "{between:?}, {op:?}");
            let found = case.client.get(&mut case.world, &key, 3000);
            assert_eq!(found, Some(Outcome::Value(held.into())), "{between:?}, {op:?}");
        }
    }
}

#[test]
fn x02_a_command_with_a_token_is_done_once_through_whatever_session_it_comes_again() {
    tokens();
}

#[test]
fn each_broken_rule_of_tokens_is_noticed() {
    each_is_noticed(&[(Mutant::AnyCommandForAToken, tokens), (Mutant::TokenForgotten, tokens)]);
}

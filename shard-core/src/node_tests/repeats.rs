//! X1, X2: a write is carried out and its reply lost; whatever happens then, its repeat under the same seq yields what
//! the first one did, and it was done once. So it is where the router is killed that would have repeated it: what of its
//! copies is still on its way does nothing.

use super::moves::G2;
use super::slots::{Client, Setting, append_of, spread, spread_with, write_of};
use super::*;
use crate::handshake::TOKEN_VERSION;
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

/// How long a token is remembered here.
const WINDOW_MS: u32 = 600_000;

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

/// What they answer if they are done once more, and what the key holds then.
fn once_more() -> Vec<(Outcome, &'static str)> {
    vec![
        (Outcome::Value(b"new"[..].into()), "new"),
        (Outcome::Integer(3), "7xx"),
        (Outcome::Integer(17), "17"),
        (Outcome::Error(OpError::Overflow), "7"),
    ]
}

struct Case {
    world: World,
    client: Client,
    key: String,
    /// The session in which the write comes first, if not in the client's own.
    first_in: Option<u128>,
}

impl Case {
    /// Two groups on three nodes each; a key of group 1 that holds "7".
    fn new() -> Case {
        let checkpoints = Some(snapshots::SMALL);
        let setting = Setting { checkpoints, ..Setting::default() };
        let mut world = spread_with(&[&[2, 3, 4], &[5, 6, 7]], &setting);
        let (mut client, key) = (Client::default(), world.keys_of(G1, 1).remove(0));
        assert!(client.append(&mut world, &key, "7", 100).is_some());
        Case { world, client, key, first_in: None }
    }

    fn slot(&self) -> Slot {
        hash_slot(self.key.as_bytes())
    }

    /// What a copy is answered that comes in the client's own session, and in another one.
    fn copy(&mut self, op: &Op, session: Option<u128>) -> Option<Outcome> {
        let slot = self.slot();
        match session.map(|session| self.in_session(session, op)) {
            Some(body) => self.client.ask(&mut self.world, slot, &body, 3000),
            None => self.client.write(&mut self.world, slot, op.clone(), 3000),
        }
    }

    /// What the write is answered under the seq that it had first.
    fn copy_in_first(&mut self, op: &Op) -> Option<Outcome> {
        let (slot, body) = (self.slot(), write_of(self.slot(), 2, op.clone()));
        self.client.ask(&mut self.world, slot, &body, 1000)
    }

    /// As the first write of a session that has begun now.
    fn in_session(&self, session: u128, op: &Op) -> RequestBody {
        let (session, now_ms) = (SessionId(session), self.world.wall(NodeId(1)).0);
        let (slot, deadline, op) = (self.slot(), LogTime(now_ms + 300_000), op.clone());
        RequestBody::Lane(LaneRequest { session, deadline, slot, seq: Seq(1), acked: Seq(0), op })
    }

    fn holds(&mut self, value: &'static str, what: &dyn std::fmt::Debug) {
        let found = self.client.get(&mut self.world, &self.key, 3000);
        assert_eq!(found, Some(Outcome::Value(value.into())), "{what:?}");
    }

    /// So many milliseconds later, by every clock.
    fn later(&mut self, ms: i64) {
        self.world.skew = (1..=7).map(|id| (NodeId(id), ms)).collect();
        self.world.run(1000);
    }

    fn leader(&self) -> NodeId {
        self.world.led_by(G1).expect("a leader")
    }

    /// The write, as its second seq; nobody reads the reply.
    fn write(&mut self, op: &Op) {
        let body = match self.first_in {
            Some(session) => self.in_session(session, op),
            None => write_of(self.slot(), 2, op.clone()),
        };
        self.world.put(self.leader(), G1, body);
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
            Between::SessionEnded => self.later(400_000),
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
            let (op, expected, held) = ops(&case.key).swap_remove(number);
            case.happens(between, &op);
            // Past the end of its session a repeat is not executed, and not answered as done.
            let expected = (between != Between::SessionEnded).then_some(expected);
            assert_eq!(case.copy(&op, None), expected, "{between:?}, {op:?}");
            case.holds(held, &(between, op));
        }
    }
}

/// What they answer on a key that holds "7!", and what it holds then.
fn behind_another() -> Vec<(Outcome, &'static str)> {
    let not_a_number = || Outcome::Error(OpError::NotAnInteger);
    vec![
        (Outcome::Value(b"7!"[..].into()), "new"),
        (Outcome::Integer(3), "7!x"),
        (not_a_number(), "7!"),
        (not_a_number(), "7!"),
    ]
}

/// A router is killed when its write was done and the reply lost, and something happens. The client of another router
/// appends to the key then, and a copy that the killed one had sent comes behind that.
fn killed_router() {
    for between in ALL {
        for (number, behind) in behind_another().into_iter().enumerate() {
            let mut case = Case::new();
            let (op, expected, held) = ops(&case.key).swap_remove(number);
            case.happens(between, &op);
            let key = case.key.clone();
            assert!(case.copy(&append_of(&key, "!"), Some(50)).is_some());
            // Where the slot was frozen it is done now, for the first time; where the session is over, not at all.
            let (expected, held) = match between {
                Between::HandedOverBefore => (Some(behind.0), behind.1.to_owned()),
                Between::SessionEnded => (None, format!("{held}!")),
                _ => (Some(expected), format!("{held}!")),
            };
            for _ in 0..2 {
                let said = case.copy_in_first(&op);
                assert_eq!(said, expected, "{between:?}, {op:?}");
            }
            let found = case.client.get(&mut case.world, &key, 3000);
            assert_eq!(found, Some(Outcome::Value(held.into())), "{between:?}, {op:?}");
        }
    }
}

#[test]
fn x01_w04_a_late_copy_of_a_killed_router_yields_what_the_first_did_and_does_nothing() {
    killed_router();
}

fn named(op: &Op, hash: u64) -> Op {
    let (name, window_ms) = (SessionId::of_token(5), WINDOW_MS);
    Op::Token(Box::new(Token { name, hash, window_ms, op: op.clone() }))
}

/// A member of a program before tokens would stop at one in its log.
fn older_member() {
    let (mut world, mut client) = (spread(&[&[2], &[3, 4, 5]]), Client::default());
    let key = world.keys_of_a_slot(G2, 1).swap_remove(0);
    let slot = hash_slot(key.as_bytes());
    let leads = world.led_by(G2);
    let older = [3, 4, 5].map(NodeId).into_iter().find(|node| Some(*node) != leads).unwrap();
    let meet = |world: &mut World| {
        for other in (1..=5).map(NodeId).filter(|other| *other != older) {
            world.link(older, other);
            world.link(other, older);
        }
        world.run(2500);
    };
    world.older.insert(older, TOKEN_VERSION - 1);
    meet(&mut world);
    let token = named(&append_of(&key, "a"), 9);
    assert_eq!(client.write(&mut world, slot, token.clone(), 500), None);
    assert_eq!(client.append(&mut world, &key, "b", 500), Some(Outcome::Integer(1)));
    world.older.clear();
    meet(&mut world);
    assert_eq!(client.write(&mut world, slot, token, 3000), Some(Outcome::Integer(2)));
}

#[test]
fn a_token_waits_until_every_member_can_read_it() {
    older_member();
}

/// What a client that reconnects to another router is told: there is nothing of the session in which its command was
/// sent first, only the token.
fn tokens() {
    for between in ALL {
        for number in 0..ops("").len() {
            let mut case = Case::new();
            let (op, expected, held) = ops(&case.key).swap_remove(number);
            case.happens(between, &named(&op, 9));
            for session in 20..23 {
                let said = case.copy(&named(&op, 9), Some(session));
                assert_eq!(said.as_ref(), Some(&expected), "{between:?}, {op:?}");
            }
            let said = case.copy(&named(&op, 10), Some(30));
            assert_eq!(said, Some(Outcome::Error(OpError::TokenReused)), "{between:?}, {op:?}");
            case.holds(held, &(between, op));
        }
    }
}

/// A router is killed, and a copy that it had sent arrives when another router's has been done.
fn late_copies() {
    for between in ALL {
        for number in 0..ops("").len() {
            let mut case = Case::new();
            let (op, expected, held) = ops(&case.key).swap_remove(number);
            case.first_in = Some(20);
            case.happens(between, &named(&op, 9));
            let said = case.copy(&named(&op, 9), None);
            let expected = (between != Between::SessionEnded).then_some(expected);
            assert_eq!(said, expected, "{between:?}, {op:?}");
            case.holds(held, &(between, op));
        }
    }
}

/// The copies of two routers come at once, and are in the log one behind the other.
fn copies_at_once() {
    for number in 0..ops("").len() {
        let mut case = Case::new();
        let (op, expected, held) = ops(&case.key).swap_remove(number);
        let copies = [write_of(case.slot(), 2, named(&op, 9)), case.in_session(20, &named(&op, 9))];
        let requests = (1..).zip(copies).map(|(id, body)| Request { id, body }).collect();
        let batch = RequestBatch { group: G1, requests };
        case.world.input(case.leader(), Input::Requests { origin: Origin(1), batch });
        case.world.run(5);
        for id in [1, 2] {
            match case.world.replies.get(&id) {
                Some(Answer::Done { outcome, .. }) => assert_eq!(*outcome, expected, "{op:?}"),
                other => panic!("{op:?}, copy {id}: {other:?}"),
            }
        }
        case.holds(held, &op);
    }
}

#[test]
fn x02_past_its_window_a_token_is_a_new_name() {
    for between in ALL {
        for (number, (again, held)) in once_more().into_iter().enumerate() {
            let mut case = Case::new();
            let (op, first, held_first) = ops(&case.key).swap_remove(number);
            case.happens(between, &named(&op, 9));
            // By then it was done: a slot that was frozen did not do it.
            assert!(case.copy(&named(&op, 9), Some(20)).is_some());
            case.later(i64::from(WINDOW_MS) - 10_000);
            let said = case.copy(&named(&op, 9), Some(21));
            assert_eq!(said, Some(first), "{between:?}, {op:?}: the window is not over");
            case.holds(held_first, &(between, &op));
            case.later(i64::from(WINDOW_MS) + 10_000);
            for session in 30..32 {
                let said = case.copy(&named(&op, 9), Some(session));
                assert_eq!(said.as_ref(), Some(&again), "{between:?}, {op:?}");
            }
            case.holds(held, &(between, op));
        }
    }
}

#[test]
fn x02_a_command_with_a_token_is_done_once_through_whatever_session_it_comes_again() {
    tokens();
}

#[test]
fn x02_w04_what_a_killed_router_has_sent_is_not_done_behind_the_copy_of_another() {
    late_copies();
    copies_at_once();
}

#[test]
fn each_broken_rule_of_tokens_is_noticed() {
    use Mutant::{AnyCommandForAToken, TokenForgotten, TokensNotCopied, TokensNotSaved};
    let forgotten = [late_copies, copies_at_once];
    each_is_noticed(&forgotten.map(|scenario| (TokenForgotten, scenario as fn())));
    let rules = [AnyCommandForAToken, TokenForgotten, TokensNotCopied, TokensNotSaved];
    each_is_noticed(&rules.map(|rule| (rule, tokens as fn())));
    each_is_noticed(&[(Mutant::TokensForAll, older_member)]);
}

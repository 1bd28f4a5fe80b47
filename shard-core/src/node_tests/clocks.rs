//! Lines T of wall clocks that are wrong, and what log time makes of them.

use super::moves::G2;
use super::slots::{Client, append_of, spread};
use super::*;
use crate::op::{ExpiryCommand, Set, SetExpiry, Token};

const SECOND: u64 = 1000;
/// To 2038 and beyond.
const YEARS: i64 = 400_000_000_000;

/// A key that lives for half a minute.
fn set_for_half_a_minute(seq: u64) -> RequestBody {
    lane(
        seq,
        Op::Set(Set {
            key: b"k"[..].into(),
            value: b"v"[..].into(),
            expiry: SetExpiry::AfterMs(30_000),
            condition: None,
            get: false,
            command: ExpiryCommand::Set,
        }),
    )
}

impl World {
    /// What the leader answers, and the log time at which it was done.
    fn does(&mut self, body: RequestBody) -> (Outcome, u64) {
        let (leader, id) = (self.leader(G1), 1 + self.replies.len() as u64);
        self.ask(leader, G1, id, body);
        self.run(5);
        match &self.replies[&id] {
            Answer::Done { outcome, log_time } => (outcome.clone(), log_time.0),
            other => panic!("{other:?}"),
        }
    }

    /// Appends for the first, second, ... time. The log time.
    fn appends(&mut self, seq: u64) -> u64 {
        let (outcome, log_time) = self.does(append(seq, b"a"));
        assert_eq!(outcome, Outcome::Integer(seq as i64));
        log_time
    }

    fn off_ms(&self, node: NodeId) -> i64 {
        self.nodes[&node].status(self.now).clock_off_ms.unwrap_or_default()
    }
}

/// The leader's clock jumps to another decade.
fn jump() {
    let mut world = World::new();
    world.run(2500);
    let wrong = world.leader(G1);
    assert_eq!(world.does(set_for_half_a_minute(1)).0, Outcome::Ok);
    world.skew.insert(wrong, YEARS);
    let told = world.appends(2);
    let now = world.now / MS;
    assert!(told <= now + 500, "{told} at {now}: the key would be gone, and the session");
    world.run(8 * SECOND);
    let right = world.leader(G1);
    assert!(right != wrong && world.leader(SHARDMASTER) != wrong, "it leads on");
    assert!(world.off_ms(wrong) > YEARS - 10 && world.off_ms(right).abs() <= 500);
    let (told, now) = (world.appends(3), world.now / MS);
    assert!(told.abs_diff(now) <= 510, "{told} at {now}");
    world.run(60 * SECOND);
    assert!(world.leader(G1) != wrong, "it takes back what it handed over");
    let gone = world.does(lane(4, Op::Strlen { key: b"k"[..].into() })).0;
    assert_eq!(gone, Outcome::Integer(0), "it lived for as long as it was to");
}

#[test]
fn t01_t02_a_leader_whose_clock_is_wrong_stamps_what_others_show_and_hands_over() {
    jump();
}

/// All clocks go back by a minute: log time goes on at half their speed until they have come there.
fn set_back() {
    let mut world = World::new();
    let set = |world: &mut World, skew| world.skew = (1..=3).map(|id| (NodeId(id), skew)).collect();
    set(&mut world, 120_000);
    world.run(2500);
    let leader = world.leader(G1);
    let before = world.appends(1);
    set(&mut world, 60_000);
    let mut last = before;
    for seq in 2..=11 {
        world.run(4 * SECOND);
        let told = world.appends(seq);
        assert!(told >= last, "{told} after {last}");
        last = told;
    }
    let went = last - before;
    assert!((19_000..=21_000).contains(&went), "{went} ms in 40 s");
    world.run(100 * SECOND);
    let (told, shown) = (world.appends(12), world.wall(leader).0);
    assert!(told.abs_diff(shown) <= 10, "{told} where the clock shows {shown}");
    assert_eq!(world.leader(G1), leader, "nobody's clock is wrong");
}

#[test]
fn t03_clocks_that_go_back_do_not_take_log_time_back_and_do_not_stop_it() {
    set_back();
}

#[test]
fn t03_log_time_never_goes_back_when_the_next_leaders_clock_is_behind() {
    let mut world = World::new();
    world.run(2500);
    let leader = world.leader(G1);
    world.skew.insert(leader, 400);
    let early = world.appends(1);
    assert!(early >= world.now / MS + 390);
    world.down.insert(leader);
    let leads = |world: &World, id: &u64| {
        let node = NodeId(*id);
        node != leader && world.nodes[&node].replica(G1).is_some_and(|replica| replica.leads())
    };
    while !(1..=3).any(|id| leads(&world, &id)) {
        world.run(1);
        assert!(world.now < 60_000 * MS, "nobody leads");
    }
    world.run(20);
    let mut last = early;
    for seq in 2..=100 {
        let told = world.appends(seq);
        assert!(told >= last, "{told} after {last}");
        last = told;
    }
}

#[test]
fn t04_a_clock_that_strobes_moves_log_time_by_no_more_than_that() {
    let mut world = World::new();
    world.run(2500);
    let (leader, mut last) = (world.leader(G1), 0);
    for seq in 1..=1000 {
        world.skew.insert(leader, if seq % 2 == 0 { 200 } else { -200 });
        let (told, now) = (world.appends(seq), world.now / MS);
        assert!(told >= last && told.abs_diff(now) <= 205, "{told} at {now}, after {last}");
        last = told;
    }
    assert_eq!(world.leader(G1), leader, "nothing else comes of it");
}

const HOUR: u64 = 3_600 * SECOND;

/// What the only write of a session is answered, whose router heard that log time; None: it was not carried out.
fn asks(
    (world, client): (&mut World, &mut Client),
    key: &str,
    (session, log_time): (u128, u64),
    op: &Op,
) -> Option<Outcome> {
    let (session, deadline) = (SessionId(session), LogTime(log_time + 300 * SECOND));
    let (slot, op) = (hash_slot(key.as_bytes()), op.clone());
    let request = LaneRequest { session, deadline, slot, seq: Seq(1), acked: Seq(0), op };
    client.ask(world, slot, &RequestBody::Lane(request), 1000)
}

/// The clocks of one group were an hour ahead once. A slot moves there and back, with what is remembered of a write with
/// a token and of one without.
fn an_hour_apart() {
    let mut world = spread(&[&[2, 3, 4], &[5, 6, 7]]);
    let (mut client, keys) = (Client::default(), world.keys_of(G1, 1));
    let (key, other) = (keys[0].clone(), world.keys_of(G2, 1).remove(0));
    world.skew = (5..=7).map(|id| (NodeId(id), HOUR as i64)).collect();
    world.run(4 * SECOND);
    let told = |length| Some(Outcome::Integer(length));
    let write = append_of(&other, "x");
    assert_eq!(asks((&mut world, &mut client), &other, (20, HOUR), &write), told(1));
    world.skew.clear();
    world.run(4 * SECOND);
    let ahead = |world: &World, node, group| {
        world.nodes[&NodeId(node)].status(world.now).replicas[&group].log_time_ahead_ms
    };
    let [far, near] = [ahead(&world, 5, G2), ahead(&world, 2, G1)];
    assert!((HOUR - 60 * SECOND..=HOUR).contains(&far) && near <= 500, "{far}, {near}");

    let (name, op) = (SessionId::of_token(1), append_of(&key, "a"));
    let token = Op::Token(Box::new(Token { name, hash: 1, window_ms: 600_000, op }));
    let plain = append_of(&key, "b");
    assert_eq!(asks((&mut world, &mut client), &key, (21, 0), &token), told(1));
    assert_eq!(asks((&mut world, &mut client), &key, (22, 0), &plain), told(2));
    for (session, to) in [(30, G2), (40, G1)] {
        world.move_keys(&keys, to);
        assert!(world.until(3000, |world| world.are_at(&keys, to)), "it does not move");
        // Sessions of before are over by the slot's log time, so nothing of theirs is done again.
        assert_eq!(asks((&mut world, &mut client), &key, (22, 0), &plain), None);
        let copy = asks((&mut world, &mut client), &key, (session, HOUR), &token);
        assert_eq!(copy, told(1), "at group {to}");
    }
    assert_eq!(asks((&mut world, &mut client), &key, (50, HOUR), &append_of(&key, "c")), told(3));
    let held = client.get(&mut world, &key, 3000);
    assert_eq!(held, Some(Outcome::Value(b"abc"[..].into())));
}

#[test]
fn x02_between_groups_whose_log_times_are_an_hour_apart_writes_are_done_once() {
    an_hour_apart();
}

#[test]
fn each_broken_rule_of_clocks_is_noticed() {
    each_is_noticed(&[
        (Mutant::AnyStamp, jump),
        (Mutant::AnyClockLeads, jump),
        (Mutant::LogTimeStands, set_back),
        (Mutant::TokensEndEarly, an_hour_apart),
        (Mutant::DropFloor, an_hour_apart),
    ]);
}

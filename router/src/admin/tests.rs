//! Administrators' commands over a fake shardmaster.

use super::*;
use crate::barrier::BarrierRun;
use crate::commands::{Barrier, Call, parse};
use bytes::Bytes;
use shard_core::cluster_config::{ClusterConfig, ConfigNum, GroupConfig, NodeConfig};
use shard_core::codec::{EntryBatch, EntryItem};
use shard_core::session::LogTime;
use shard_core::shardmaster::Shardmaster;
use shard_core::wire::{Answer, LeaderView};

/// A shardmaster with three nodes and two groups; node 1 leads group 1, node 2 group 2, node 3 none.
struct World {
    master: Shardmaster,
    view: ClusterView,
    now: u64,
}

impl World {
    fn new() -> World {
        let mut config =
            ClusterConfig { num: ConfigNum(1), cluster_id: "c".into(), ..ClusterConfig::default() };
        for id in 1..=3 {
            let addresses = NodeConfig { peer: format!("h:{id}"), resp: format!("h:9{id}") };
            config.nodes.insert(NodeId(id), addresses);
        }
        for id in 0..=2 {
            let voters = vec![NodeId(1), NodeId(2), NodeId(3)];
            config.groups.insert(GroupId(id), GroupConfig { voters, weight: id.min(1) });
        }
        config.assign_evenly();
        let mut world =
            World { master: Shardmaster::new(), view: ClusterView::default(), now: 1_000 };
        world.apply(EntryItem::Bootstrap(config));
        for id in [1, 2] {
            let led = LeaderView { leader: Some(NodeId(u64::from(id))), term: Default::default() };
            world.view.leaders.insert(GroupId(id), led);
        }
        world
    }

    fn apply(&mut self, item: EntryItem) -> Answer {
        self.now += 1;
        let answers = self.master.apply(EntryBatch::new(LogTime(self.now), vec![item]));
        self.view.map = self.master.map().clone();
        answers.into_iter().next().expect("an answer for an item")
    }

    /// What a client that sends this line is answered.
    fn call(&mut self, line: &str) -> Reply {
        let mut words: Vec<Bytes> =
            line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
        let barrier = match parse(&mut words) {
            Ok((_, Call::Barrier(barrier))) => barrier,
            Ok((_, other)) => panic!("{line}: {other:?}"),
            Err(text) => return Reply::Error(text),
        };
        let (mut run, mut asks) = BarrierRun::start(barrier, &self.view, Some(NodeId(1)));
        while let Some((target, work)) = asks.pop() {
            assert_eq!(target, Target::Group(SHARDMASTER), "{line}");
            let answered = match work {
                Work::Master(request) => match self.apply(EntryItem::Master(request)) {
                    Answer::Master(answer) => Answered::Master(Box::new(answer)),
                    other => panic!("{line}: {other:?}"),
                },
                other => panic!("{line}: {other:?}"),
            };
            asks.extend(run.answer(answered));
        }
        assert!(run.is_answered(), "{line}");
        run.reply()
    }

    fn text(&mut self, line: &str) -> String {
        match self.call(line) {
            Reply::Error(text) => text.into_owned(),
            other => panic!("{line}: {other:?}"),
        }
    }
}

fn name(node: u64) -> String {
    node_name("c", NodeId(node))
}

#[test]
fn migrateslots_moves_to_a_group_or_to_what_a_node_leads() {
    let mut world = World::new();
    let line = format!("CLUSTER MIGRATESLOTS SLOTSRANGE 0 9 20 20 NODE {}", name(2));
    assert_eq!(world.call(&line), Reply::OK);
    let config = world.master.newest();
    let to = |slot| config.group_of(shard_core::slot::Slot(slot));
    assert_eq!([0, 9, 10, 20].map(to), [2, 2, 1, 2].map(|group| Some(GroupId(group))));
    assert_eq!(config.num, ConfigNum(2));
    let back = "cluster migrateslots slotsrange 0 3 group 1 SLOTSRANGE 16383 16383 Node 1";
    assert_eq!(world.call(back), Reply::OK);
    assert_eq!(world.master.newest().num, ConfigNum(4));
    assert_eq!(world.master.newest().group_of(shard_core::slot::Slot(16383)), Some(GroupId(1)));
}

#[test]
fn a_request_id_makes_a_second_attempt_harmless() {
    let mut world = World::new();
    let move_to =
        |group| format!("CLUSTER MIGRATESLOTS SLOTSRANGE 0 0 GROUP {group} REQUESTID aB-1");
    assert_eq!(world.call(&move_to(2)), Reply::OK);
    assert_eq!(world.call("CLUSTER MIGRATESLOTS SLOTSRANGE 0 0 GROUP 1"), Reply::OK);
    let config = world.master.newest().clone();
    assert_eq!(world.call(&move_to(2)), Reply::OK);
    assert_eq!(*world.master.newest(), config, "it was carried out before");
    let text = world.text(&move_to(1));
    assert!(text.starts_with("ERR request id") && text.contains("used for another"), "{text}");
    let text = world.text("CLUSTER REBALANCE REQUESTID xyz");
    assert_eq!(text, "ERR REQUESTID 'xyz' is not 1 to 32 hexadecimal digits");
}

#[test]
fn b95_b96_what_makes_no_sense_changes_nothing() {
    let mut world = World::new();
    let before = world.master.map().clone();
    let not_led = format!("ERR node {} leads no group, name one with GROUP g", name(3));
    for (rest, text) in [
        ("SLOTSRANGE 0 16384 GROUP 2", "ERR Invalid or out of range slot"),
        ("SLOTSRANGE -1 3 GROUP 2", "ERR Invalid or out of range slot"),
        ("SLOTSRANGE abc 3 GROUP 2", "ERR Invalid or out of range slot"),
        ("SLOTSRANGE 3 1 GROUP 2", "ERR start slot number 3 is greater than end slot number 1"),
        ("SLOTSRANGE 0 3 2 4 GROUP 2", "ERR Slot 2 specified multiple times"),
        ("SLOTSRANGE 0 3 GROUP 2 SLOTSRANGE 3 4 GROUP 1", "ERR Slot 3 specified multiple times"),
        ("SLOTSRANGE 0 3 4 GROUP 2", "ERR syntax error"),
        ("SLOTSRANGE GROUP 2 GROUP 2", "ERR syntax error"),
        ("SLOTSRANGE 0 3 4 GROUP", "ERR syntax error"),
        ("SLOTSRANGE 0 3 4 5", "ERR syntax error"),
        ("RANGE 0 3 GROUP 2", "ERR syntax error"),
        ("SLOTSRANGE 0", "ERR wrong number of arguments for 'cluster|migrateslots' command"),
        ("SLOTSRANGE 0 3 GROUP 9", "ERR unknown group 9, CLUSTER SHARDS lists those there are"),
        (
            "SLOTSRANGE 0 3 GROUP 0",
            "ERR group 0 is the shardmaster and owns no slots, name another group",
        ),
        (
            "SLOTSRANGE 0 3 GROUP -1",
            "ERR Invalid group '-1', groups are numbers from 1 to 4294967295",
        ),
        (
            "SLOTSRANGE 0 3 GROUP 4294967296",
            "ERR Invalid group '4294967296', groups are numbers from 1 to 4294967295",
        ),
        ("SLOTSRANGE 0 3 NODE 77", "ERR Unknown node 77"),
        ("SLOTSRANGE 0 3 NODE nobody", "ERR Unknown node nobody"),
        ("SLOTSRANGE 0 3 NODE 3", &not_led),
    ] {
        assert_eq!(world.text(&format!("CLUSTER MIGRATESLOTS {rest}")), text, "{rest}");
    }
    for (rest, text) in [
        ("MAXMOVES 0", "ERR Invalid MAXMOVES '0', it is a number from 1 to 4294967295"),
        ("MAXMOVES", "ERR syntax error"),
        ("NOW", "ERR syntax error"),
        ("PAUSE 1", "ERR syntax error"),
    ] {
        assert_eq!(world.text(&format!("CLUSTER REBALANCE {rest}")), text, "{rest}");
    }
    assert_eq!(*world.master.map(), before);
}

#[test]
fn an_order_that_is_refused_stops_those_behind_it() {
    let mut world = World::new();
    let text = world.text(
        "CLUSTER MIGRATESLOTS SLOTSRANGE 0 0 GROUP 2 SLOTSRANGE 1 1 GROUP 9 SLOTSRANGE 2 2 GROUP 2",
    );
    assert_eq!(
        text,
        "ERR unknown group 9, CLUSTER SHARDS lists those there are (the first 1 of 3 orders were \
         carried out)"
    );
    let config = world.master.newest();
    let to = |slot| config.group_of(shard_core::slot::Slot(slot));
    assert_eq!([0, 1, 2].map(to), [2, 1, 1].map(|group| Some(GroupId(group))));
}

#[test]
fn a_rebalance_says_how_many_slots_move_and_waits_while_paused() {
    let mut world = World::new();
    assert_eq!(world.call("CLUSTER REBALANCE PAUSE"), Reply::OK);
    assert_eq!(world.call("CLUSTER MIGRATESLOTS SLOTSRANGE 0 9 GROUP 2"), Reply::OK);
    assert!(world.master.map().moves.is_empty());
    assert_eq!(world.call("CLUSTER REBALANCE MAXMOVES 4"), Reply::Integer(4));
    assert_eq!(world.call("CLUSTER REBALANCE"), Reply::Integer(6));
    assert_eq!(world.call("CLUSTER REBALANCE"), Reply::Integer(0));
    assert_eq!(world.call("CLUSTER REBALANCE RESUME"), Reply::OK);
    assert!(!world.master.map().paused);
}

#[test]
fn k13_without_a_shardmaster_nobody_is_told_that_nothing_happened() {
    let world = World::new();
    let mut words: Vec<Bytes> = ["CLUSTER", "REBALANCE"].map(Bytes::from).to_vec();
    let Ok((_, Call::Barrier(barrier))) = parse(&mut words) else { panic!("it is a barrier") };
    assert!(matches!(barrier, Barrier::Admin(_)));
    let (mut run, asks) = BarrierRun::start(barrier, &world.view, None);
    assert_eq!(asks.len(), 1);
    run.answer(Answered::Refused(Refusal::ClusterDown));
    assert_eq!((run.is_answered(), run.reply()), (true, Reply::error(UNKNOWN)));
}

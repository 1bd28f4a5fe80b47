//! Administrators' commands over a fake shardmaster.

use super::*;
use crate::barrier::BarrierRun;
use crate::commands::{Barrier, Call, parse};
use crate::node_name::node_name;
use crate::redirect::Scope;
use bytes::Bytes;
use shard_core::GroupId;
use shard_core::cluster_config::{ClusterConfig, GroupConfig, NodeConfig, SHARDMASTER};
use shard_core::codec::{EntryBatch, EntryItem};
use shard_core::moves::{MoveOutcome, RefuseReason};
use shard_core::session::LogTime;
use shard_core::shardmaster::{MasterOp, MasterRequest, MoveReport, Shardmaster, Side};
use shard_core::wire::{Answer, GroupQuery, LeaderView, SlotSize};
use std::ops::RangeInclusive;

/// A shardmaster with three nodes and two groups; node 1 leads group 1, node 2 group 2, node 3 none.
struct World {
    master: Shardmaster,
    view: ClusterView,
    now: u64,
    /// A group that does not answer.
    silent: Option<GroupId>,
    /// How many are in a slot.
    keys: fn(Slot) -> u64,
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
        let mut world = World {
            master: Shardmaster::new(),
            view: ClusterView::default(),
            now: 1_000,
            silent: None,
            keys: |slot| if slot.0 < 1000 { u64::from(slot.0) } else { 0 },
        };
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
        let (mut run, mut asks) =
            BarrierRun::start(barrier, &self.view, Some(NodeId(1)), &Scope::All);
        while let Some((target, work)) = asks.pop() {
            let answered = match work {
                Work::AwaitOwner { group, .. } => {
                    let Target::Slot(slot) = target else { panic!("{target:?}") };
                    self.end_moves(MoveOutcome::Activated);
                    match self.view.map.owners.of(slot) {
                        Some((owner, _)) if owner == group => Answered::Outcome(Outcome::Ok),
                        _ => Answered::Refused(Refusal::Moving { slot }),
                    }
                }
                Work::Query(GroupQuery::SlotSizes { first, last })
                | Work::Glance(GroupQuery::SlotSizes { first, last }) => {
                    let Target::Group(group) = target else { panic!("{target:?}") };
                    self.sizes(group, first.0..=last.0)
                }
                Work::Glance(query) if target == Target::Group(SHARDMASTER) => {
                    match self.apply(EntryItem::Group(query)) {
                        Answer::Group(answer) => Answered::Group(answer),
                        other => panic!("{line}: {other:?}"),
                    }
                }
                _ if target != Target::Group(SHARDMASTER) => panic!("{line}: {target:?}"),
                Work::Query(query) => match self.apply(EntryItem::Group(query)) {
                    Answer::Group(answer) => Answered::Group(answer),
                    other => panic!("{line}: {other:?}"),
                },
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

    /// Of each slot of a group as many keys as its number has in the first thousand, ten bytes each, and a write.
    fn sizes(&self, group: GroupId, slots: RangeInclusive<u16>) -> Answered {
        if self.silent == Some(group) {
            return Answered::Refused(Refusal::ClusterDown);
        }
        let owner = |slot: &Slot| self.view.map.owners.of(*slot).map(|(group, _)| group);
        let owned = slots.map(Slot).filter(|slot| owner(slot) == Some(group));
        let size = |slot: Slot| {
            let keys = (self.keys)(slot);
            (slot, SlotSize { keys, bytes: 10 * keys, writes: u64::from(keys > 0) })
        };
        Answered::Group(GroupAnswer::SlotSizes(owned.map(size).collect()))
    }

    /// Both sides of every move under way say how it ended, again and again until none is left.
    fn end_moves(&mut self, outcome: MoveOutcome) {
        while self.end_move(outcome) {}
    }

    /// The same of the first of them; says whether there was one.
    fn end_move(&mut self, outcome: MoveOutcome) -> bool {
        let next = self.view.map.unfinished().next().copied();
        if let Some(record) = next {
            let order = record.order;
            for (by, side) in [(Some(order.to), Side::Destination), (order.from, Side::Source)] {
                let Some(by) = by else { continue };
                let report = MoveReport { id: order.id, slot: order.slot, by, side, outcome };
                let op = MasterOp::Report(report);
                let answer = self.apply(EntryItem::Master(MasterRequest { id: None, op }));
                assert!(matches!(answer, Answer::Master(Ok(_))), "{answer:?}");
            }
        }
        next.is_some()
    }

    fn owner(&self, slot: u16) -> Option<u32> {
        self.view.map.owners.of(Slot(slot)).map(|(group, _)| group.0)
    }

    /// The rows of an array of maps, with these fields of each.
    fn rows(&mut self, line: &str, fields: &[&str]) -> Vec<Vec<String>> {
        let Reply::Array(rows) = self.call(line) else { panic!("{line}: no array") };
        let field = |row: &Reply, name: &str| {
            let Reply::Map(pairs) = row else { panic!("{row:?}") };
            let pair = pairs.iter().find(|(key, _)| *key == Reply::text(name.to_owned()));
            show(&pair.unwrap_or_else(|| panic!("no {name} in {row:?}")).1)
        };
        rows.iter().map(|row| fields.iter().map(|name| field(row, name)).collect()).collect()
    }

    fn text(&mut self, line: &str) -> String {
        match self.call(line) {
            Reply::Error(text) => text.into_owned(),
            other => panic!("{line}: {other:?}"),
        }
    }
}

fn show(reply: &Reply) -> String {
    match reply {
        Reply::Text(text) => text.clone().into_owned(),
        Reply::Integer(number) => number.to_string(),
        Reply::Nil => "nil".into(),
        other => format!("{other:?}"),
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
    let to = |slot| config.group_of(Slot(slot));
    assert_eq!([0, 9, 10, 20].map(to), [2, 2, 1, 2].map(|group| Some(GroupId(group))));
    assert_eq!(config.num, ConfigNum(2));
    let back = "cluster migrateslots slotsrange 0 3 group 1 SLOTSRANGE 16383 16383 Node 1";
    assert_eq!(world.call(back), Reply::OK);
    assert_eq!(world.master.newest().num, ConfigNum(4));
    assert_eq!(world.master.newest().group_of(Slot(16383)), Some(GroupId(1)));
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
    // Each order of a command has an id of its own.
    let both = "CLUSTER MIGRATESLOTS SLOTSRANGE 1 1 GROUP 2 SLOTSRANGE 2 2 GROUP 2 REQUESTID 77";
    for _ in 0..2 {
        assert_eq!(world.call(both), Reply::OK);
    }
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
        ("BY", "ERR syntax error"),
        ("BY SIZE", "ERR BY 'SIZE' is not SLOTS, KEYS, BYTES or LOAD"),
        (
            "BY KEYS REQUESTID 1",
            "ERR REQUESTID does not go with BY: what is asked for follows from what slots hold then, and a second \
             one moves what the first has left",
        ),
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
        "ERR unknown group 9, CLUSTER SHARDS lists those there are (the first 1 of 3 steps were \
         carried out)"
    );
    let config = world.master.newest();
    let to = |slot| config.group_of(Slot(slot));
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
    let (mut run, asks) = BarrierRun::start(barrier, &world.view, None, &Scope::All);
    assert_eq!(asks.len(), 1);
    run.answer(Answered::Refused(Refusal::ClusterDown));
    assert_eq!((run.is_answered(), run.reply()), (true, Reply::error(UNKNOWN)));
}

#[test]
fn a_dry_run_says_each_step_with_its_reason_and_does_nothing() {
    let mut world = World::new();
    world.call("CLUSTER MIGRATESLOTS SLOTSRANGE 0 9 GROUP 2");
    world.end_moves(MoveOutcome::Activated);
    let before = world.master.map().clone();
    let rows =
        world.rows("CLUSTER REBALANCE DRYRUN MAXMOVES 3", &["slots", "from", "to", "reason"]);
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0][1..3], ["2", "1"]);
    assert_eq!(rows[0][3], "group 2 has 8202 slots for a share of 8192, group 1 has 8182 for 8192");
    assert_eq!(*world.master.map(), before);
}

/// Group 1 has all of the 499,500 keys.
#[test]
fn a_rebalance_by_what_slots_hold_moves_few_of_them_and_says_why() {
    let mut world = World::new();
    let before = world.master.map().clone();
    let fields = ["slots", "from", "to", "reason"];
    let rows = world.rows("CLUSTER REBALANCE DRYRUN BY KEYS MAXMOVES 2", &fields);
    let reason =
        "group 1 has 499500 keys for a share of 249750, group 2 has 0 for 249750, these are 1997";
    assert_eq!(rows, [["998-999", "1", "2", reason]]);
    for (by, share) in [("bytes", "2497500"), ("LOAD", "499")] {
        let rows = world.rows(&format!("CLUSTER REBALANCE BY {by} DRYRUN"), &fields);
        assert!(
            !rows.is_empty() && rows[0][3].contains(&format!("for a share of {share},")),
            "{rows:?}"
        );
    }
    assert_eq!(*world.master.map(), before, "nothing was done");
    world.silent = Some(GroupId(2));
    assert!(world.text("CLUSTER REBALANCE BY KEYS").starts_with("CLUSTERDOWN"));
    assert_eq!(*world.master.map(), before, "without all of them nothing can be said");
    world.silent = None;
    let Reply::Integer(count) = world.call("CLUSTER REBALANCE BY KEYS") else { panic!("no count") };
    assert!((250..350).contains(&count), "{count} slots");
    world.end_moves(MoveOutcome::Activated);
    assert_eq!(world.call("CLUSTER REBALANCE BY KEYS"), Reply::Integer(0));
    assert_eq!(world.call("CLUSTER REBALANCE BY SLOTS"), Reply::Integer(count), "back again");
}

#[test]
fn the_status_tells_slots_keys_bytes_rate_and_time_left() {
    let mut world = World::new();
    let status = |world: &mut World, names: &[&str]| {
        let Reply::Map(pairs) = world.call("CLUSTER REBALANCE STATUS") else { panic!("no map") };
        let field = |name: &&str| {
            let is_it = |(key, _): &&(Reply, Reply)| *key == Reply::text((*name).to_owned());
            pairs.iter().find(is_it).map(|(_, value)| show(value)).expect("a field")
        };
        names.iter().map(field).collect::<Vec<_>>()
    };
    let names = [
        "state",
        "slots-to-move",
        "keys-to-move",
        "bytes-to-move",
        "slots-per-second",
        "bytes-per-second",
        "seconds-left",
    ];
    assert_eq!(status(&mut world, &names), ["balanced", "0", "0", "0", "nil", "nil", "0"]);
    world.call("CLUSTER MIGRATESLOTS SLOTSRANGE 100 139 GROUP 2");
    assert_eq!(status(&mut world, &names), ["moving", "40", "4780", "47800", "nil", "nil", "nil"]);
    // A slot in two seconds.
    for _ in 0..4 {
        world.now += 1999;
        world.end_move(MoveOutcome::Activated);
    }
    assert_eq!(status(&mut world, &names), ["moving", "36", "4374", "43740", "1", "509", "73"]);
    world.silent = Some(GroupId(1));
    assert_eq!(status(&mut world, &names)[2..4], ["nil", "nil"], "nobody is waited for");
    // Who has the slots that moved.
    world.silent = Some(GroupId(2));
    assert_eq!(status(&mut world, &names)[4..6], ["1", "nil"]);
    world.call("CLUSTER REBALANCE PAUSE");
    assert_eq!(status(&mut world, &["state", "seconds-left"]), ["paused", "nil"]);
}

#[test]
fn moves_are_jobs_of_neighbouring_slots() {
    let mut world = World::new();
    world.call("CLUSTER MIGRATESLOTS SLOTSRANGE 0 19 GROUP 2");
    let fields = ["slot_ranges", "state", "source_node", "target_node", "operation"];
    let (one, two) = (name(1), name(2));
    let row = |slots: &str, state: &str| {
        [slots, state, one.as_str(), two.as_str(), "EXPORT"].map(str::to_owned).to_vec()
    };
    // Sixteen at a time from one group to another.
    let rows = world.rows("CLUSTER GETSLOTMIGRATIONS", &fields);
    assert_eq!(rows, [row("0-15", "streaming"), row("16-19", "queued")]);
    world.end_moves(MoveOutcome::Activated);
    let rows = world.rows("CLUSTER GETSLOTMIGRATIONS", &fields);
    assert_eq!(rows, [row("0-19", "success")]);
    let rows = world.rows("CLUSTER MIGRATION STATUS ALL", &["slots", "state", "operation", "id"]);
    assert_eq!(rows[0][..3], ["0-19", "completed", "migrate"]);
    let found = world.rows(&format!("CLUSTER MIGRATION STATUS ID {}", rows[0][3]), &["slots"]);
    assert_eq!(found, [["0-19"]]);
    assert_eq!(world.call("CLUSTER MIGRATION STATUS ID nonsense"), Reply::Array(Vec::new()));
}

#[test]
fn cancelled_moves_stay_where_they_were_and_are_told() {
    let mut world = World::new();
    world.call("CLUSTER MIGRATESLOTS SLOTSRANGE 0 19 GROUP 2");
    assert_eq!(world.call("CLUSTER CANCELSLOTMIGRATIONS"), Reply::OK);
    let rows = world.rows("CLUSTER GETSLOTMIGRATIONS", &["slot_ranges", "state"]);
    assert_eq!(rows, [["0-15", "cancelling"]]);
    world.end_moves(MoveOutcome::Refused(RefuseReason::Cancelled));
    let rows = world.rows("CLUSTER GETSLOTMIGRATIONS", &["slot_ranges", "state", "message"]);
    assert_eq!(rows, [["0-15", "cancelled", "cancelled by an administrator"]]);
    assert_eq!(world.owner(0), Some(1));
}

#[test]
fn an_import_has_a_name_that_its_status_and_its_end_are_asked_by() {
    let mut world = World::new();
    let Reply::Text(id) = world.call("CLUSTER MIGRATION IMPORT 9000 9003 9010 9010") else {
        panic!("no id")
    };
    assert_eq!(id.len(), 40);
    let ask = format!("CLUSTER MIGRATION STATUS ID {id}");
    let fields = ["id", "slots", "state", "source", "dest", "operation"];
    let (one, two) = (name(1), name(2));
    let row = |state: &str| {
        [&id, "9000-9003 9010", state, &two, &one, "import"].map(str::to_owned).to_vec()
    };
    assert_eq!(world.rows(&ask, &fields), [row("streaming-buffer")]);
    let rows = world.rows("CLUSTER GETSLOTMIGRATIONS", &["slot_ranges"]);
    assert_eq!(rows, [["9000-9003"], ["9010"]], "what is apart is told apart");
    world.end_moves(MoveOutcome::Activated);
    assert_eq!(world.rows(&ask, &fields), [row("completed")]);
    let text = world.text("CLUSTER MIGRATION IMPORT 9000 9003");
    assert_eq!(text, "ERR this node is already the owner of the slot range");
    let text = world.text("CLUSTER MIGRATION IMPORT 9000 9003 5");
    assert_eq!(text, "ERR wrong number of arguments for 'cluster|migration' command");
    // What is named by a run of moves is cancelled by it, once.
    world.call("CLUSTER MIGRATESLOTS SLOTSRANGE 20 29 GROUP 2");
    let rows = world.rows("CLUSTER MIGRATION STATUS ALL", &["slots", "id"]);
    let (_, id) = rows.iter().map(|row| (&row[0], &row[1])).find(|row| row.0 == "20-29").unwrap();
    let cancel = format!("CLUSTER MIGRATION CANCEL ID {id}");
    assert_eq!(world.call(&cancel), Reply::Integer(10));
    assert_eq!(world.call(&cancel), Reply::Integer(0));
    assert_eq!(world.call("CLUSTER MIGRATION CANCEL ALL"), Reply::Integer(0));
}

/// After `CLUSTER`, with two groups of slots and a drained third one.
const CANNOT_BE: &[(&str, &str)] = &[
    ("GROUP CREATE ID 2 NODES 1", "ERR group 2 exists already, leave the id out to get a new one"),
    (
        "GROUP CREATE ID 0 NODES 1",
        "ERR group 0 is the shardmaster and owns no slots, name another group",
    ),
    ("GROUP CREATE NODES 1 1", "ERR node 1 is named twice, name each voter once"),
    ("GROUP CREATE NODES 7", "ERR Unknown node 7"),
    ("GROUP CREATE NODES WEIGHT 1", "ERR syntax error"),
    (
        "GROUP CREATE NODES 1 WEIGHT 0",
        "ERR Invalid WEIGHT '0', it is a number from 1 to 4294967295",
    ),
    (
        "GROUP CREATE NODES 1 WEIGHT 1001",
        "ERR weight 1001 is not from 1 to 1000, CLUSTER GROUP DRAIN takes a group's slots away",
    ),
    ("GROUP DRAIN 9", "ERR unknown group 9, CLUSTER SHARDS lists those there are"),
    ("GROUP DRAIN x", "ERR Invalid group 'x', groups are numbers from 1 to 4294967295"),
    (
        "GROUP REMOVE 1",
        "ERR group 1 is to own 8192 slots, CLUSTER GROUP DRAIN 1 gives them to others",
    ),
    (
        "GROUP NOPE 1",
        "ERR unknown subcommand or wrong number of arguments for 'GROUP'. Try CLUSTER HELP.",
    ),
    ("FORGET 3", "ERR node 3 is a voter of group 0, give its seat to another node first"),
    ("FORGET nobody", "ERR Unknown node nobody"),
    ("EVACUATE nobody", "ERR Unknown node nobody"),
    (
        "REPLACE 1 2",
        "ERR node 2 is a voter of group 0 already and cannot take the seat of node 1 too, name another \
         node, or CLUSTER DELVOTER 1 GROUP 0",
    ),
    ("REPLACE 1 2 GROUP 9", "ERR unknown group 9, CLUSTER SHARDS lists those there are"),
    (
        "REPLACE 1 2 GROUP",
        "ERR unknown subcommand or wrong number of arguments for 'REPLACE'. Try CLUSTER HELP.",
    ),
    ("ADDVOTER 3", "ERR there are several groups, name one with GROUP g"),
    (
        "DELSLOTS 5",
        "ERR slot 5 is owned by group 1 and would be lost, move it to another group instead",
    ),
    (
        "FLUSHSLOTS",
        "ERR slot 0 is owned by group 1 and would be lost, move it to another group instead",
    ),
    ("ADDSLOTS 5", "ERR Slot 5 is already busy"),
    ("ADDSLOTS 5 5", "ERR Slot 5 is already busy"),
    ("DELSLOTS 5 5", "ERR Slot 5 specified multiple times"),
    ("ADDSLOTSRANGE 5 6 5 5", "ERR Slot 5 is already busy"),
    (
        "RESET SOFT",
        "ERR RESET would forget data that this node answers for: give its seats to other nodes with \
         CLUSTER REPLACE, then CLUSTER FORGET it",
    ),
    ("ADDSLOTSRANGE 5 6 7", "ERR wrong number of arguments for 'cluster|addslotsrange' command"),
    (
        "MEET h 1 2 ID 4 5",
        "ERR unknown subcommand or wrong number of arguments for 'MEET'. Try CLUSTER HELP.",
    ),
    ("MEET h 0", "ERR Invalid node address specified: h:0"),
    ("MEET h 65536 1 ID 4", "ERR Invalid node address specified: h:65536"),
    ("CONFIG 99", "ERR there is no configuration 99 yet"),
    ("CONFIG -1", "ERR Invalid configuration '-1', it is a number from 0 on"),
    ("SLOT-STATS ORDERBY CPU-USEC", "ERR Unrecognized sort metric for ORDERBY."),
    ("SLOT-STATS ORDERBY NETWORK-BYTES-IN", "ERR Unrecognized sort metric for ORDERBY."),
    ("REPLICATE 1", "ERR Can't replicate myself"),
];

#[test]
fn a_busy_slot_is_busy_whoever_leads() {
    let mut world = World::new();
    world.view.leaders.clear();
    assert_eq!(world.text("CLUSTER ADDSLOTS 5"), "ERR Slot 5 is already busy");
    world.view.map.config.slots.clear();
    assert_eq!(world.text("CLUSTER ADDSLOTS 5"), "ERR Slot 5 is already busy", "by its owner");
    world.view.map.owners = Default::default();
    let none = format!("ERR node {} leads no group, name one with GROUP g", name(1));
    assert_eq!(world.text("CLUSTER ADDSLOTS 5"), none);
}

#[test]
fn k9_k11_groups_come_and_go_with_one_sentence_for_what_cannot_be() {
    let mut world = World::new();
    let Reply::Map(made) = world.call("CLUSTER GROUP CREATE NODES 1 2 3 WEIGHT 2") else {
        panic!("no map")
    };
    assert_eq!(made[0].1, Reply::Integer(3));
    assert_eq!(world.master.newest().ranges_of(GroupId(3)).count(), 0, "it waits for a rebalance");
    assert_eq!(world.call("CLUSTER REBALANCE"), Reply::Integer(8192));
    assert_eq!(world.call("CLUSTER GROUP DRAIN 3"), Reply::Integer(4));
    let before = world.master.map().clone();
    for (rest, text) in CANNOT_BE {
        assert_eq!(world.text(&format!("CLUSTER {rest}")), *text, "{rest}");
    }
    let long = "h".repeat(300);
    let text = world.text(&format!("CLUSTER MEET {long} 1 2 ID 4"));
    assert!(text.starts_with("ERR an address of node 4 has 302 bytes"), "{text}");
    assert_eq!(*world.master.map(), before);
}

/// What `redis-cli --cluster del-node` says to one node after another, and to the node itself.
#[test]
fn a_node_that_was_forgotten_is_forgotten_again_without_an_error() {
    let mut world = World::new();
    assert_eq!(world.call("CLUSTER MEET h 94 4 ID 4"), Reply::OK);
    let (before, line) = (world.view.clone(), format!("CLUSTER FORGET {}", name(4)));
    assert_eq!(world.call(&line), Reply::OK);
    let num = world.master.newest().num;
    assert_eq!(world.call(&line), Reply::OK, "by a node that has heard of it");
    let run = |world: &mut World, view: &ClusterView| {
        let mut words: Vec<Bytes> =
            line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
        let Ok((_, Call::Barrier(barrier))) = parse(&mut words) else { panic!("it is a barrier") };
        let (mut run, mut asks) = BarrierRun::start(barrier, view, Some(NodeId(1)), &Scope::All);
        let Some((_, Work::Master(request))) = asks.pop() else { panic!("nothing is asked") };
        let Answer::Master(answer) = world.apply(EntryItem::Master(request)) else { panic!() };
        run.answer(Answered::Master(Box::new(answer)));
        run.reply()
    };
    assert_eq!(run(&mut world, &before), Reply::OK, "by one that has not");
    assert_eq!(world.master.newest().num, num);
    let text = world.text(&format!("CLUSTER FORGET {}", name(5)));
    assert_eq!(text, format!("ERR Unknown node {}", name(5)), "nobody ever was that");
    assert_eq!(world.text("CLUSTER FORGET 4"), "ERR Unknown node 4");
    // The node itself has nothing then.
    world.view.map.config.nodes.remove(&NodeId(1));
    assert_eq!(world.call("CLUSTER RESET SOFT"), Reply::OK);
}

#[test]
fn members_change_by_names() {
    let mut world = World::new();
    assert_eq!(world.call("CLUSTER MEET h 94 4 ID 4"), Reply::OK);
    assert_eq!(world.call(&format!("CLUSTER REPLACE {} {}", name(3), name(4))), Reply::OK);
    let voters =
        |world: &World, group| world.master.newest().groups[&GroupId(group)].voters.clone();
    for group in 0..=2 {
        assert_eq!(voters(&world, group), [1, 2, 4].map(NodeId));
    }
    assert_eq!(world.call("CLUSTER ADDVOTER 3 GROUP 1"), Reply::OK);
    assert_eq!(world.call("CLUSTER DELVOTER 4"), Reply::OK);
    assert_eq!(voters(&world, 1), [1, 2, 3].map(NodeId));
    assert_eq!(voters(&world, 2), [1, 2].map(NodeId));
    assert_eq!(world.call("CLUSTER EVACUATE 1"), Reply::OK);
    assert!(world.master.map().evacuated.contains(&NodeId(1)));
    assert_eq!(world.call("CLUSTER ADMIT 1"), Reply::OK);
    assert!(world.master.map().evacuated.is_empty());
}

#[test]
fn setslot_moves_a_slot_in_the_steps_of_redis_cli() {
    let mut world = World::new();
    let (one, two) = (name(1), name(2));
    assert_eq!(world.call(&format!("CLUSTER SETSLOT 5 IMPORTING {one}")), Reply::OK);
    assert!(world.master.map().moves.is_empty());
    let migrating = format!("CLUSTER SETSLOT 5 MIGRATING {two}");
    assert_eq!(world.call(&migrating), Reply::OK);
    assert_eq!(world.master.map().unfinished().count(), 1);
    assert_eq!(world.call(&migrating), Reply::OK, "it is on its way already");
    for _ in 0..2 {
        assert_eq!(world.call(&format!("CLUSTER SETSLOT 5 NODE {two}")), Reply::OK);
        assert_eq!(world.owner(5), Some(2));
    }
    let config = world.master.newest().num;
    assert_eq!(config, ConfigNum(2), "what is so already makes no configuration");
    world.call(&format!("CLUSTER SETSLOT 6 MIGRATING {two}"));
    assert_eq!(world.call("CLUSTER SETSLOT 6 STABLE"), Reply::OK);
    world.end_moves(MoveOutcome::Refused(RefuseReason::Cancelled));
    assert_eq!((world.owner(6), world.master.map().unfinished().count()), (Some(1), 0));
    for (rest, text) in [
        ("16384 STABLE", "ERR Invalid or out of range slot"),
        ("5 MIGRATING nobody", "ERR I don't know about node nobody"),
        ("5 NODE nobody", "ERR Unknown node nobody"),
        ("5 NODE", "ERR Invalid CLUSTER SETSLOT action or number of arguments. Try CLUSTER HELP"),
    ] {
        assert_eq!(world.text(&format!("CLUSTER SETSLOT {rest}")), text, "{rest}");
    }
}

#[test]
fn every_configuration_is_shown_and_compared() {
    let mut world = World::new();
    world.call("CLUSTER MIGRATESLOTS SLOTSRANGE 0 9 GROUP 2");
    world.call("CLUSTER GROUP CREATE NODES 1 2 3");
    let Reply::Array(lines) = world.call("CLUSTER CONFIG DIFF 1 3") else { panic!("no array") };
    let lines: Vec<String> = lines.iter().map(show).collect();
    assert_eq!(lines, ["group 3: new, weight 1, voters 1 2 3", "slots 0-9: group 1 -> group 2"]);
    for (line, num) in [("CLUSTER CONFIG", 3), ("CLUSTER CONFIG 1", 1), ("CLUSTER CONFIG 0", 0)] {
        let Reply::Map(pairs) = world.call(line) else { panic!("no map") };
        assert_eq!(pairs[0], (Reply::word("config"), Reply::Integer(num)), "{line}");
    }
}

#[test]
fn slot_stats_are_asked_of_all_owners() {
    let mut world = World::new();
    world.keys = |slot| u64::from(slot.0) % 7;
    let row = |slot: i64, keys: i64| {
        let stats = [
            ("key-count", keys),
            ("memory-bytes", 10 * keys),
            ("recent-writes", i64::from(keys > 0)),
        ];
        let stats = stats.map(|(name, number)| (Reply::word(name), Reply::Integer(number)));
        Reply::Array(vec![Reply::Integer(slot), Reply::Map(stats.to_vec())])
    };
    let rows = world.call("CLUSTER SLOT-STATS SLOTSRANGE 8191 8192");
    assert_eq!(rows, Reply::Array(vec![row(8191, 1), row(8192, 2)]));
    let rows = world.call("CLUSTER SLOT-STATS ORDERBY key-count LIMIT 2");
    assert_eq!(rows, Reply::Array(vec![row(6, 6), row(13, 6)]));
    let rows = world.call("CLUSTER SLOT-STATS ORDERBY key-count LIMIT 1 ASC");
    assert_eq!(rows, Reply::Array(vec![row(0, 0)]));
    let rows = world.call("CLUSTER SLOT-STATS ORDERBY MEMORY-BYTES DESC LIMIT 1");
    assert_eq!(rows, Reply::Array(vec![row(6, 6)]));
    let rows = world.call("CLUSTER SLOT-STATS ORDERBY recent-writes LIMIT 2");
    assert_eq!(rows, Reply::Array(vec![row(1, 1), row(2, 2)]), "of as many, the lower slot");
}

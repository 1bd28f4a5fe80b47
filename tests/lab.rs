//! What the lab demands of slots that move, on real processes: groups on nodes of their own that join, leave and are
//! killed.

use harness::lossy::LossyWays;
use harness::process::SeatedNodes;
use harness::resp::{Client, Value};
use harness::tokens::{Patience, Writers, check_tokens};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(120);
/// Clients that append at once.
const CLIENTS: usize = 10;

fn call(client: &mut Client, words: &[&str]) -> Value {
    client.call(words).expect("a reply")
}

fn ok() -> Value {
    Value::Simple("OK".into())
}

/// Repeats a command until the reply is such.
fn wait_for(client: &mut Client, words: &[&str], done: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + PATIENCE;
    loop {
        let reply = call(client, words);
        if done(&reply) {
            return reply;
        }
        assert!(Instant::now() < end, "{}: {reply:?}", words.join(" "));
        thread::sleep(Duration::from_millis(20));
    }
}

fn wait_until_moved(client: &mut Client) {
    let moved = |status: &Value| status.field("state").text() == "balanced";
    wait_for(client, &["CLUSTER", "REBALANCE", "STATUS"], moved);
}

/// Slots of a group, as the newest configuration wants them.
fn slots_of(client: &mut Client, group: i64) -> usize {
    let config = call(client, &["CLUSTER", "CONFIG"]);
    let groups = config.field("groups").items();
    let group = groups.iter().find(|row| row.field("group") == &Value::Integer(group));
    let ranges = group.expect("the group").field("slots").items();
    let count = |range: &Value| {
        let range = range.text();
        let (first, last) = range.split_once('-').unwrap_or((&range, &range));
        last.parse::<usize>().expect("a slot") - first.parse::<usize>().expect("a slot") + 1
    };
    ranges.iter().map(count).sum()
}

fn slot_of(client: &mut Client, key: &str) -> i64 {
    match call(client, &["CLUSTER", "KEYSLOT", key]) {
        Value::Integer(slot) => slot,
        other => panic!("{other:?}"),
    }
}

/// Keys, each in a slot of its own, of the first group, the second, and so on, of three that have as many slots.
fn keys_of(client: &mut Client, group: i64, count: usize) -> Vec<String> {
    let range = (group - 1) * 5461 + 5..group * 5461 - 5;
    let (mut keys, mut slots) = (Vec::new(), Vec::new());
    for number in 0.. {
        let key = format!("key:{number}");
        let slot = slot_of(client, &key);
        if range.contains(&slot) && !slots.contains(&slot) {
            slots.push(slot);
            keys.push(key);
        }
        if keys.len() == count {
            break;
        }
    }
    keys
}

/// Wants the slots of keys at a group.
fn migrate(client: &mut Client, keys: &[String], group: &str) {
    let slots: Vec<String> = keys.iter().map(|key| slot_of(client, key).to_string()).collect();
    let mut words = vec!["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE"];
    words.extend(slots.iter().flat_map(|slot| [slot.as_str(), slot.as_str()]));
    words.extend(["GROUP", group]);
    assert_eq!(call(client, &words), ok());
}

/// G25: a group joins and leaves, twice; each group is killed while slots move, and at last everything is.
#[test]
fn g25_groups_join_and_leave_and_are_killed_while_ten_clients_append() {
    let mut nodes = SeatedNodes::start(4, &[1], &[&[2], &[3]]);
    let mut admin = nodes.client(1);
    // A group of weight 1 beside these has about two hundred slots.
    for group in ["1", "2"] {
        assert!(matches!(
            call(&mut admin, &["CLUSTER", "GROUP", "WEIGHT", group, "40"]),
            Value::Integer(_)
        ));
    }
    let writers = Writers::start(nodes.port(0), CLIENTS, "lab", Patience::WithoutMajority);
    writers.wait_for_acks(200);
    for _ in 0..2 {
        let words = ["CLUSTER", "GROUP", "CREATE", "NODES", "4", "REBALANCE"];
        let made = call(&mut admin, &words);
        let Value::Integer(group) = *made.field("group") else { panic!("{made:?}") };
        nodes.nodes[1].kill();
        nodes.nodes[1].restart();
        writers.wait_for_acks(50);
        wait_until_moved(&mut admin);
        assert!(slots_of(&mut admin, group) > 150);
        writers.wait_for_acks(50);
        let group = group.to_string();
        let drained = call(&mut admin, &["CLUSTER", "GROUP", "DRAIN", &group]);
        assert!(matches!(drained, Value::Integer(_)), "{drained:?}");
        for node in [3, 2] {
            nodes.nodes[node].kill();
            nodes.nodes[node].restart();
            writers.wait_for_acks(20);
        }
        wait_until_moved(&mut admin);
        let removed = |reply: &Value| matches!(reply, Value::Integer(_));
        wait_for(&mut admin, &["CLUSTER", "GROUP", "REMOVE", &group], removed);
        writers.wait_for_acks(50);
    }
    nodes.nodes.iter_mut().for_each(harness::process::Process::kill);
    nodes.nodes.iter_mut().for_each(harness::process::Process::restart);
    writers.skip_acks();
    writers.wait_for_acks(200);
    let attempts = writers.end_all_told();
    check_tokens(&mut nodes.client(0), &attempts);
}

/// G25 over lossy links: connections between nodes, and from the router, break in the middle of frames all the time.
#[test]
fn g25_a_group_joins_and_leaves_over_lossy_links_while_ten_clients_append() {
    let ways = LossyWays::default();
    let nodes = SeatedNodes::start_over(Some(&ways), 4, &[1, 2, 3], &[&[1, 2, 3], &[2, 3, 4]]);
    let mut admin = nodes.client(0);
    for group in ["1", "2"] {
        let weighed = call(&mut admin, &["CLUSTER", "GROUP", "WEIGHT", group, "40"]);
        assert!(matches!(weighed, Value::Integer(_)), "{weighed:?}");
    }
    let writers = Writers::start(nodes.port(0), CLIENTS, "lossy", Patience::WithoutMajority);
    writers.wait_for_acks(200);
    let words = ["CLUSTER", "GROUP", "CREATE", "ID", "3", "NODES", "1", "2", "4", "REBALANCE"];
    let made = call(&mut admin, &words);
    assert_eq!(made.field("group"), &Value::Integer(3), "{made:?}");
    wait_until_moved(&mut admin);
    assert!(slots_of(&mut admin, 3) > 150);
    writers.wait_for_acks(50);
    let drained = call(&mut admin, &["CLUSTER", "GROUP", "DRAIN", "3"]);
    assert!(matches!(drained, Value::Integer(_)), "{drained:?}");
    wait_until_moved(&mut admin);
    let removed = |reply: &Value| matches!(reply, Value::Integer(_));
    wait_for(&mut admin, &["CLUSTER", "GROUP", "REMOVE", "3"], removed);
    writers.wait_for_acks(50);
    let broken = ways.broken();
    assert!(broken > 50, "only {broken} connections broke");
    ways.heal();
    writers.skip_acks();
    writers.wait_for_acks(200);
    let attempts = writers.end_all_told();
    check_tokens(&mut nodes.client(0), &attempts);
    println!("{broken} connections broke");
}

/// G13, G14: one of two losing groups is dead for all of the change.
#[test]
fn g13_g14_received_slots_are_served_and_others_never_wait_while_a_losing_group_is_dead() {
    let mut nodes = SeatedNodes::start(4, &[1], &[&[2], &[3], &[4]]);
    let (mut admin, mut client) = (nodes.client(1), nodes.client(0));
    let [live, dead, other] = [1, 2, 3].map(|group| keys_of(&mut admin, group, 21));
    for key in live.iter().chain(&dead) {
        assert_eq!(call(&mut client, &["SET", key, key]), ok());
    }
    // What is in one slot of each group that stays.
    let kept = [&live[20], &other[20]]
        .map(|key| Writers::start(nodes.port(0), 2, &format!("{{{key}}}"), Patience::None));
    kept.iter().for_each(|writers| writers.wait_for_acks(50));
    nodes.nodes[2].kill();
    migrate(&mut admin, &[&dead[..20], &live[..20]].concat(), "3");
    let left =
        |count: i64| move |status: &Value| status.field("slots-to-move") == &Value::Integer(count);
    wait_for(&mut admin, &["CLUSTER", "REBALANCE", "STATUS"], left(20));
    for key in &live {
        assert_eq!(call(&mut client, &["GET", key]), Value::Bulk(key.clone().into_bytes()));
        assert_eq!(call(&mut client, &["SET", key, "new"]), ok());
    }
    kept.iter().for_each(|writers| writers.skip_acks());
    kept.iter().for_each(|writers| writers.wait_for_acks(100));
    let status = call(&mut admin, &["CLUSTER", "REBALANCE", "STATUS"]);
    assert!(left(20)(&status), "the dead group's slots went somewhere: {status:?}");
    nodes.nodes[2].restart();
    wait_until_moved(&mut admin);
    for key in &dead {
        assert_eq!(call(&mut client, &["GET", key]), Value::Bulk(key.clone().into_bytes()));
    }
    for writers in kept {
        let attempts = writers.end_all_told();
        check_tokens(&mut client, &attempts);
    }
}

/// Keys of the replicas of each node that has a group, if all answer.
fn held(nodes: &SeatedNodes) -> Option<Vec<usize>> {
    let of = |id| {
        let info = Client::connect(nodes.port(id)).ok()?.call(&["INFO", "keyspace"]).ok()?.text();
        let keys = info.lines().find_map(|line| line.strip_prefix("db0:keys="));
        keys.map_or(Some(0), |keys| keys.split(',').next()?.parse().ok())
    };
    [2, 3, 4].map(of).into_iter().collect()
}

fn wait_until_held(nodes: &SeatedNodes, wanted: &[usize]) {
    let end = Instant::now() + PATIENCE;
    loop {
        let counts = held(nodes);
        if counts.as_deref() == Some(wanted) {
            return;
        }
        assert!(Instant::now() < end, "{counts:?} keys on the nodes, where {wanted:?} are to be");
        thread::sleep(Duration::from_millis(20));
    }
}

/// D6: keys that went round three groups four times are with their owner and nowhere else, in memory and, as a start
/// finds, on disk.
#[test]
fn d06_keys_that_went_round_are_on_one_group_alone_also_after_a_restart() {
    let mut nodes = SeatedNodes::start(4, &[1], &[&[2], &[3], &[4]]);
    let (mut admin, mut client) = (nodes.client(1), nodes.client(0));
    let (keys, value) = (keys_of(&mut admin, 1, 30), "x".repeat(1000));
    assert_eq!(call(&mut client, &["FLUSHALL"]), ok());
    for key in &keys {
        assert_eq!(call(&mut client, &["SET", key, &value]), ok());
    }
    for _ in 0..4 {
        for group in ["2", "3", "1"] {
            migrate(&mut admin, &keys, group);
            wait_until_moved(&mut admin);
        }
    }
    migrate(&mut admin, &keys, "3");
    wait_until_moved(&mut admin);
    wait_until_held(&nodes, &[0, 0, 30]);
    for node in &mut nodes.nodes {
        node.kill();
        node.restart();
    }
    let mut client = nodes.client(0);
    for key in &keys {
        let found = |reply: &Value| *reply == Value::Bulk(value.clone().into_bytes());
        wait_for(&mut client, &["GET", key], found);
    }
    wait_until_held(&nodes, &[0, 0, 30]);
}

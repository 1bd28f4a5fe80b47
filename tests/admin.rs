//! Administrators' commands against real processes: slots move under writers, and nobody notices.

use harness::process::ThreeNodes;
use harness::resp::{Client, Value};
use harness::tokens::{Attempt, Patience, WriterEnd, Writers, check_tokens};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// How long moves may take on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(120);
/// Connections that write at once.
const WRITERS: usize = 8;

fn client(port: u16) -> Client {
    Client::connect(port).expect("a connection")
}

fn call(client: &mut Client, words: &[&str]) -> Value {
    client.call(words).expect("a reply")
}

/// Waits until every slot is where it is to be, as the node says.
fn wait_until_moved(client: &mut Client) {
    let end = Instant::now() + PATIENCE;
    loop {
        let status = call(client, &["CLUSTER", "REBALANCE", "STATUS"]);
        if status.field("state").text() == "balanced" {
            return;
        }
        assert!(Instant::now() < end, "the moves do not end: {status:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The slots of the group that has a slot, as CLUSTER SHARDS tells them.
fn shard_of(client: &mut Client, slot: i64) -> Vec<(i64, i64)> {
    let shards = call(client, &["CLUSTER", "SHARDS"]);
    let mut ranges = shards.items().iter().map(|shard| {
        let slots = shard.field("slots");
        let pair = |pair: &[Value]| match pair {
            [Value::Integer(first), Value::Integer(last)] => (*first, *last),
            other => panic!("{other:?}"),
        };
        slots.items().chunks(2).map(pair).collect::<Vec<_>>()
    });
    let has = |ranges: &Vec<(i64, i64)>| ranges.iter().any(|(a, b)| (*a..=*b).contains(&slot));
    ranges.find(has).unwrap_or_else(|| panic!("nobody has slot {slot}: {shards:?}"))
}

#[test]
fn slots_move_under_writers_and_every_node_shows_the_owner() {
    let cluster = ThreeNodes::start();
    let ports = [1, 2, 3].map(|id| cluster.node_port(id));
    let mut admin = client(ports[0]);
    let writers = Writers::start(cluster.router_port(), WRITERS, "moved", Patience::None);
    writers.wait_for_acks(100);
    // Slots that are written to, those of the first group, a third over each node.
    let mut slots: Vec<i64> = (0..100)
        .map(|number| call(&mut admin, &["CLUSTER", "KEYSLOT", &format!("moved:{number}")]))
        .map(|slot| if let Value::Integer(slot) = slot { slot } else { panic!("{slot:?}") })
        .filter(|slot| *slot < 8192)
        .collect();
    slots.sort_unstable();
    slots.dedup();
    assert!(slots.len() > 30, "{slots:?}");
    for (round, port) in (0..).zip(ports) {
        let ranges = slots
            .iter()
            .skip(round)
            .step_by(3)
            .flat_map(|slot| [slot.to_string(), slot.to_string()]);
        let ranges: Vec<String> = ranges.collect();
        let mut words = vec!["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE"];
        words.extend(ranges.iter().map(String::as_str));
        words.extend(["GROUP", "2"]);
        assert_eq!(call(&mut client(port), &words), Value::Simple("OK".into()));
        writers.wait_for_acks(50);
    }
    wait_until_moved(&mut admin);
    writers.wait_for_acks(50);
    let mut attempts: Vec<Vec<Attempt>> = Vec::new();
    for (tried, end) in writers.end() {
        if let WriterEnd::Refused(reply) = end {
            panic!("a writer was answered {reply}");
        }
        attempts.push(tried);
    }
    check_tokens(&mut client(cluster.router_port()), &attempts);
    for port in ports {
        let mut client = client(port);
        wait_until_moved(&mut client);
        let second = shard_of(&mut client, 16383);
        let has = |slot: &i64| second.iter().any(|(first, last)| (first..=last).contains(&slot));
        assert!(slots.iter().all(has), "{second:?}");
        let ended = call(&mut client, &["CLUSTER", "GETSLOTMIGRATIONS"]);
        let states: Vec<String> =
            ended.items().iter().map(|job| job.field("state").text()).collect();
        assert!(!states.is_empty() && states.iter().all(|state| state == "success"), "{states:?}");
    }
}

/// The id of the node that leads the group of a slot.
fn leader(client: &mut Client, slot: i64) -> String {
    let shards = call(client, &["CLUSTER", "SLOTS"]);
    let row = shards.items().iter().find(|row| match row.items() {
        [Value::Integer(first), Value::Integer(last), ..] => (*first..=*last).contains(&slot),
        other => panic!("{other:?}"),
    });
    row.expect("an owner").items()[2].items()[2].text()
}

/// Waits until two nodes lead the two groups: by the name of a node that leads all, a slot has nowhere to
/// go.
fn lead_apart(cluster: &ThreeNodes) {
    let mut admin = client(cluster.node_port(1));
    let end = Instant::now() + PATIENCE;
    while leader(&mut admin, 0) == leader(&mut admin, 15495) {
        let first = leader(&mut admin, 0);
        let to = (1..=3).find(|id| {
            call(&mut client(cluster.node_port(*id)), &["CLUSTER", "MYID"]).text() != first
        });
        let to = to.expect("another node").to_string();
        // Refused while an election runs: it is asked for again.
        let _ = call(&mut admin, &["RAFT.TRANSFER_LEADER", "1", &to]);
        assert!(Instant::now() < end, "one node leads everything");
        thread::sleep(Duration::from_millis(50));
    }
}

/// What `redis-cli --cluster` says, and whether it is content; None: there is none here.
fn redis_cli(words: &[&str]) -> Option<(String, bool)> {
    let output = match Command::new("redis-cli").arg("--cluster").args(words).output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("not tried: redis-cli does not start: {error}");
            return None;
        }
    };
    Some((String::from_utf8_lossy(&output.stdout).into_owned(), output.status.success()))
}

/// The same, where it must be content.
fn redis_cli_does(words: &[&str]) -> Option<String> {
    let (said, well) = redis_cli(words)?;
    assert!(well, "redis-cli --cluster {}: {said}", words.join(" "));
    Some(said)
}

/// Each node hears of the last change in its own time.
fn wait_until_all_agree(address: &str) {
    let end = Instant::now() + PATIENCE;
    loop {
        let (said, well) = redis_cli(&["check", address]).expect("it was there before");
        if well && said.contains("All nodes agree") && said.contains("All 16384 slots covered") {
            return;
        }
        assert!(Instant::now() < end, "the nodes do not agree: {said}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn redis_cli_reshards_and_finds_nothing_wrong() {
    let cluster = ThreeNodes::start();
    lead_apart(&cluster);
    let mut admin = client(cluster.node_port(1));
    let (from, to) = (leader(&mut admin, 0), leader(&mut admin, 15495));
    let address = format!("127.0.0.1:{}", cluster.node_port(1));
    let words = ["reshard", &address, "--cluster-from", &from, "--cluster-to", &to];
    let more = ["--cluster-slots", "5", "--cluster-yes"];
    let Some(_) = redis_cli_does(&[&words[..], &more].concat()) else { return };
    assert!(shard_of(&mut admin, 16383).contains(&(0, 4)));
    wait_until_all_agree(&address);
}

/// One node has two hundred slots more than the other; redis-cli shares them out, while clients write.
#[test]
fn redis_cli_rebalances_under_writers() {
    let cluster = ThreeNodes::start();
    lead_apart(&cluster);
    let mut admin = client(cluster.node_port(1));
    let address = format!("127.0.0.1:{}", cluster.node_port(1));
    let to = leader(&mut admin, 15495);
    let words = ["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", "0", "99", "NODE", &to];
    assert_eq!(call(&mut admin, &words), Value::Simple("OK".into()));
    wait_until_moved(&mut admin);
    wait_until_all_agree(&address);
    let writers = Writers::start(cluster.router_port(), WRITERS, "shares", Patience::None);
    writers.wait_for_acks(100);
    let words = ["rebalance", &address, "--cluster-threshold", "1"];
    let Some(said) = redis_cli_does(&words) else { return };
    assert!(said.contains("Rebalancing across"), "{said}");
    wait_until_all_agree(&address);
    let mut slots = |of: i64| -> i64 {
        shard_of(&mut admin, of).iter().map(|(first, last)| last - first + 1).sum()
    };
    let (one, other) = (slots(8000), slots(15495));
    assert!(one + other == 16384 && one.abs_diff(other) <= 2, "{one} and {other} slots: {said}");
    writers.skip_acks();
    writers.wait_for_acks(100);
    check_tokens(&mut client(cluster.router_port()), &writers.end_all_told());
}

/// Repeats a command until it is answered like that.
fn wait_for(client: &mut Client, words: &[&str], what: &str, done: impl Fn(&Value) -> bool) {
    let end = Instant::now() + PATIENCE;
    loop {
        let reply = call(client, words);
        if done(&reply) {
            return;
        }
        assert!(Instant::now() < end, "{what}: {reply:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn wait_for_a_port(port: u16) {
    let end = Instant::now() + PATIENCE;
    while Client::connect(port).is_err() {
        assert!(Instant::now() < end, "nobody listens at {port}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn line_of(nodes: &Value, id: &str) -> String {
    let text = nodes.text();
    text.lines().find(|line| line.starts_with(id)).unwrap_or_default().to_owned()
}

/// A node comes, gets slots by a group of its own, gives them back and goes; another one comes as a replica and goes;
/// each step as a person types it, while clients write.
#[test]
fn redis_cli_adds_nodes_and_takes_them_out_under_writers() {
    let cluster = ThreeNodes::start();
    lead_apart(&cluster);
    let mut admin = client(cluster.node_port(1));
    let old = format!("127.0.0.1:{}", cluster.node_port(1));
    let file = cluster.folder().join("cluster.toml").display().to_string();
    let _spares = [8, 9].map(|id| cluster.spare(id, &["--spare", "--cluster-file", &file]));
    for id in [8, 9] {
        wait_for_a_port(cluster.spare_resp(id));
    }
    let eighth = format!("127.0.0.1:{}", cluster.spare_resp(8));
    let writers = Writers::start(cluster.router_port(), WRITERS, "nodes", Patience::None);
    writers.wait_for_acks(100);

    if redis_cli_does(&["add-node", &eighth, &old]).is_none() {
        return;
    }
    wait_until_all_agree(&old);
    let first = leader(&mut admin, 0);
    let id = call(&mut client(cluster.spare_resp(8)), &["CLUSTER", "MYID"]).text();
    wait_for(&mut admin, &["CLUSTER", "NODES"], "the new node", |nodes| {
        line_of(nodes, &id).contains(" master ")
    });
    let made = call(&mut admin, &["CLUSTER", "GROUP", "CREATE", "NODES", &id]);
    assert_eq!(made.field("group"), &Value::Integer(3), "{made:?}");
    // It leads its group once that is open.
    wait_for(&mut admin, &["CLUSTER", "GROUPS"], "the new group", |groups| {
        let new = groups.items().iter().find(|group| group.field("group") == &Value::Integer(3));
        new.is_some_and(|new| new.field("leader") == &Value::Bulk(id.clone().into_bytes()))
    });
    let reshard = |from: &str, to: &str| {
        let words = ["reshard", &old, "--cluster-from", from, "--cluster-to", to];
        redis_cli_does(&[&words[..], &["--cluster-slots", "5", "--cluster-yes"]].concat());
        wait_until_all_agree(&old);
    };
    reshard(&first, &id);
    assert!(line_of(&call(&mut admin, &["CLUSTER", "NODES"]), &id).contains(" 0-4"));
    writers.wait_for_acks(100);
    // Who owns slots, or leads a group, does not go.
    let (said, well) = redis_cli(&["del-node", &old, &id]).expect("it was there before");
    assert!(!well && said.contains("is not empty"), "{said}");
    reshard(&id, &first);
    wait_for(&mut admin, &["CLUSTER", "GROUP", "REMOVE", "3"], "the removal", |reply| {
        matches!(reply, Value::Integer(_))
    });
    redis_cli_does(&["del-node", &old, &id]);
    wait_until_all_agree(&old);
    assert_eq!(line_of(&call(&mut admin, &["CLUSTER", "NODES"]), &id), "");
    writers.wait_for_acks(100);

    a_replica_comes_and_goes(&cluster, &mut admin, &first);
    writers.wait_for_acks(100);
    let attempts = writers.end_all_told();
    check_tokens(&mut client(cluster.router_port()), &attempts);
}

/// A replica of what a node leads.
fn a_replica_comes_and_goes(cluster: &ThreeNodes, admin: &mut Client, first: &str) {
    let old = format!("127.0.0.1:{}", cluster.node_port(1));
    let ninth = format!("127.0.0.1:{}", cluster.spare_resp(9));
    let words = ["add-node", &ninth, &old, "--cluster-slave", "--cluster-master-id", first];
    redis_cli_does(&words);
    let id = call(&mut client(cluster.spare_resp(9)), &["CLUSTER", "MYID"]).text();
    let follows = format!(" slave {first} ");
    wait_for(admin, &["CLUSTER", "NODES"], "the new replica", |nodes| {
        line_of(nodes, &id).contains(&follows)
    });
    wait_for(admin, &["CLUSTER", "GROUPS"], "its seat", |groups| {
        groups.items().iter().any(|group| {
            let members = group.field("members").items();
            let is_it = |member: &&Value| member.field("id").text() == id;
            let member = members.iter().find(is_it);
            member.is_some_and(|member| member.field("role").text() == "voter")
        })
    });
    let (said, well) = redis_cli(&["del-node", &old, &id]).expect("it was there before");
    assert!(!well && said.contains("give its seat to another node first"), "{said}");
    assert_eq!(call(admin, &["CLUSTER", "DELVOTER", &id]), Value::Simple("OK".into()));
    wait_for(admin, &["CLUSTER", "GROUPS"], "the end of its seat", |groups| {
        let settled = |group: &Value| group.field("state").text() == "settled";
        groups.items().iter().all(settled) && !format!("{groups:?}").contains(&id)
    });
    redis_cli_does(&["del-node", &old, &id]);
    wait_until_all_agree(&old);
}

/// Groups get their shares of what slots hold, in few moves; how far it is can be seen meanwhile.
#[test]
fn a_rebalance_by_bytes_shares_out_what_slots_hold() {
    let cluster = ThreeNodes::start();
    let mut admin = client(cluster.node_port(1));
    assert_eq!(call(&mut admin, &["FLUSHALL"]), Value::Simple("OK".into()));
    // All that there is is in the first group.
    let first_half = |key: &String, admin: &mut Client| matches!(call(admin, &["CLUSTER", "KEYSLOT", key]), Value::Integer(slot) if slot < 8192);
    let keys = (0..).map(|number| format!("by:{number}"));
    let keys: Vec<String> = keys.filter(|key| first_half(key, &mut admin)).take(40).collect();
    for key in &keys {
        let reply = call(&mut admin, &["SET", key, &"x".repeat(1000)]);
        assert_eq!(reply, Value::Simple("OK".into()));
    }
    let planned = call(&mut admin, &["CLUSTER", "REBALANCE", "BY", "BYTES", "DRYRUN"]);
    let reasons: Vec<String> =
        planned.items().iter().map(|step| step.field("reason").text()).collect();
    assert!((18..=20).contains(&reasons.len()), "{reasons:?}");
    let is_said = |reason: &String| {
        reason.starts_with("group 1 has 40") && reason.contains(" bytes for a share of 20")
    };
    assert!(reasons.iter().all(is_said), "{reasons:?}");
    let moved = call(&mut admin, &["CLUSTER", "REBALANCE", "BY", "BYTES"]);
    assert_eq!(moved, Value::Integer(reasons.len() as i64));
    let status = call(&mut admin, &["CLUSTER", "REBALANCE", "STATUS"]);
    for field in
        ["keys-to-move", "bytes-to-move", "slots-per-second", "bytes-per-second", "seconds-left"]
    {
        assert!(matches!(status.field(field), Value::Integer(_) | Value::Nil), "{status:?}");
    }
    wait_until_moved(&mut admin);
    let again = call(&mut admin, &["CLUSTER", "REBALANCE", "BY", "BYTES"]);
    assert_eq!(again, Value::Integer(0));
    for key in &keys {
        assert_eq!(call(&mut admin, &["STRLEN", key]), Value::Integer(1000));
    }
}

/// What Redis says where it knows the case, and else a sentence with the way out.
#[test]
fn what_a_person_mistypes_is_answered_in_one_sentence() {
    let cluster = ThreeNodes::start();
    lead_apart(&cluster);
    let mut admin = client(cluster.node_port(1));
    let myself = call(&mut admin, &["CLUSTER", "MYID"]).text();
    let nobody = "0123456789012345678901234567890123456789";
    for (words, text) in [
        (vec!["ADDVOTER", "3"], "ERR there are several groups, name one with GROUP g".to_owned()),
        (vec!["ADDSLOTS", "5", "5"], "ERR Slot 5 is already busy".to_owned()),
        (vec!["DELSLOTS", "5", "5"], "ERR Slot 5 specified multiple times".to_owned()),
        (vec!["REPLICATE", &myself], "ERR Can't replicate myself".to_owned()),
        (vec!["REPLICATE", nobody], format!("ERR Unknown node {nobody}")),
        (vec!["FORGET", nobody], format!("ERR Unknown node {nobody}")),
    ] {
        let words = [&["CLUSTER"], &words[..]].concat();
        assert_eq!(call(&mut admin, &words), Value::Error(text), "{words:?}");
    }
    let config = call(&mut admin, &["CLUSTER", "CONFIG"]);
    assert_eq!(config.field("config"), &Value::Integer(1), "{config:?}");
}

#[test]
fn redis_clis_steps_wait_for_the_hand_over() {
    let cluster = ThreeNodes::start();
    let mut admin = client(cluster.node_port(1));
    assert_eq!(call(&mut admin, &["SET", "a", "1"]), Value::Simple("OK".into()));
    // The slot of `a` is 15495, which is the second group's; its keys are moved for whoever counts them.
    lead_apart(&cluster);
    let to = leader(&mut admin, 0);
    let ok = Value::Simple("OK".into());
    assert_eq!(call(&mut admin, &["CLUSTER", "SETSLOT", "15495", "MIGRATING", &to]), ok);
    let keys = call(&mut admin, &["CLUSTER", "GETKEYSINSLOT", "15495", "10"]);
    assert_eq!(keys.items(), [], "redis-cli has nothing to move by hand");
    assert_eq!(call(&mut admin, &["CLUSTER", "SETSLOT", "15495", "NODE", &to]), ok);
    assert_eq!(shard_of(&mut admin, 15495), shard_of(&mut admin, 0));
    assert_eq!(call(&mut admin, &["GET", "a"]), Value::Bulk(b"1".to_vec()));
    let keys = call(&mut admin, &["CLUSTER", "GETKEYSINSLOT", "15495", "10"]);
    assert_eq!(keys.items().len(), 1, "closed again, the slot shows its keys");
}

//! Members that change on real processes: a node dies for good, and another takes its place under writers.

use harness::process::SeatedNodes;
use harness::resp::{Client, Value};
use harness::tokens::{Attempt, Patience, WriterEnd, Writers, check_tokens};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(120);
/// Connections that write at once.
const WRITERS: usize = 8;

/// Every group is on nodes 1 to 3 of four.
fn four_nodes() -> SeatedNodes {
    SeatedNodes::start(4, &[1, 2, 3], &[&[1, 2, 3], &[1, 2, 3]])
}

fn call(client: &mut Client, words: &[&str]) -> Value {
    client.call(words).expect("a reply")
}

fn ok() -> Value {
    Value::Simple("OK".into())
}

fn integer(value: &Value) -> i64 {
    match value {
        Value::Integer(number) => *number,
        other => panic!("{other:?}"),
    }
}

/// Of each group its state and who has a seat in it, as a node says.
fn groups(client: &mut Client) -> Vec<(String, Vec<i64>)> {
    let reply = call(client, &["CLUSTER", "GROUPS"]);
    let group = |group: &Value| {
        let members = group.field("members").items().iter();
        let seated = members.filter(|member| member.field("role").text() != "none");
        (group.field("state").text(), seated.map(|member| integer(member.field("node"))).collect())
    };
    reply.items().iter().map(group).collect()
}

fn wait_for_members(client: &mut Client, members: &[i64]) {
    let end = Instant::now() + PATIENCE;
    loop {
        let groups = groups(client);
        if groups.iter().all(|(state, seats)| state == "settled" && seats == members) {
            return;
        }
        assert!(Instant::now() < end, "the members stay as they are: {groups:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn m13_a_killed_node_is_replaced_under_writers_and_no_request_fails() {
    let mut cluster = four_nodes();
    let mut admin = cluster.client(1);
    wait_for_members(&mut admin, &[1, 2, 3]);
    let writers = Writers::start(cluster.port(0), WRITERS, "kept", Patience::None);
    writers.wait_for_acks(300);
    cluster.nodes[2].kill();
    writers.wait_for_acks(100);
    let refused = call(&mut admin, &["CLUSTER", "FORGET", "3"]);
    let seated = "ERR node 3 is a voter of group 0, give its seat to another node first";
    assert_eq!(refused, Value::Error(seated.into()));
    assert_eq!(call(&mut admin, &["CLUSTER", "REPLACE", "3", "4"]), ok());
    writers.wait_for_acks(100);
    wait_for_members(&mut admin, &[1, 2, 4]);
    writers.wait_for_acks(100);
    assert_eq!(call(&mut admin, &["CLUSTER", "FORGET", "3"]), ok());
    let nodes = call(&mut admin, &["CLUSTER", "NODES"]).text();
    assert_eq!(nodes.lines().count(), 3, "{nodes}");
    // With the new member and one of the others there is a majority of every group.
    cluster.nodes[1].kill();
    writers.wait_for_acks(100);
    let mut attempts: Vec<Vec<Attempt>> = Vec::new();
    for (tried, end) in writers.end() {
        match end {
            WriterEnd::Told => attempts.push(tried),
            WriterEnd::Refused(reply) => panic!("a writer was answered {reply}"),
            WriterEnd::Disconnected => panic!("a writer lost its connection"),
        }
    }
    check_tokens(&mut cluster.client(0), &attempts);
    // Those that are left have all of it on their disks: the first and the last alone start again.
    for id in [0, 3] {
        cluster.nodes[id].kill();
        cluster.nodes[id].restart();
    }
    cluster.wait_until_it_serves(0);
    check_tokens(&mut cluster.client(0), &attempts);
}

#[test]
fn groups_grow_to_four_and_shrink_and_an_evacuated_node_leads_nothing() {
    let cluster = four_nodes();
    let mut admin = cluster.client(1);
    wait_for_members(&mut admin, &[1, 2, 3]);
    let writers = Writers::start(cluster.port(0), WRITERS, "grown", Patience::None);
    writers.wait_for_acks(100);
    for group in ["0", "1", "2"] {
        assert_eq!(call(&mut admin, &["CLUSTER", "ADDVOTER", "4", "GROUP", group]), ok());
    }
    wait_for_members(&mut admin, &[1, 2, 3, 4]);
    writers.wait_for_acks(100);
    assert_eq!(call(&mut admin, &["CLUSTER", "EVACUATE", "1"]), ok());
    let end = Instant::now() + PATIENCE;
    let leads = |client: &mut Client| {
        let line = call(client, &["CLUSTER", "NODES"]).text();
        let own = line.lines().find(|line| line.contains("myself,")).expect("its own line");
        own.contains("myself,master")
    };
    while leads(&mut admin) {
        assert!(Instant::now() < end, "it leads on: {:?}", groups(&mut admin));
        thread::sleep(Duration::from_millis(50));
    }
    writers.wait_for_acks(100);
    // A node that led is taken out of all groups.
    assert_eq!(call(&mut admin, &["CLUSTER", "DELVOTER", "2"]), ok());
    wait_for_members(&mut admin, &[1, 3, 4]);
    writers.wait_for_acks(100);
    let mut attempts: Vec<Vec<Attempt>> = Vec::new();
    for (tried, end) in writers.end() {
        match end {
            WriterEnd::Told => attempts.push(tried),
            WriterEnd::Refused(reply) => panic!("a writer was answered {reply}"),
            WriterEnd::Disconnected => panic!("a writer lost its connection"),
        }
    }
    check_tokens(&mut cluster.client(0), &attempts);
}

//! Real processes under SIGKILL and SIGTERM: what was acknowledged is there, once, in order.

use harness::process::{DevCluster, Process, ThreeNodes};
use harness::raft_info::wait_until_caught_up;
use harness::resp::{Client, Value};
use harness::tokens::{
    Attempt, Patience, WriterEnd, Writers, acknowledged, check_tokens, longest_gap,
};
use std::thread;
use std::time::{Duration, Instant};

/// How long a process may take to end after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that write at once.
const WRITERS: usize = 20;

// ---- One process with the whole cluster ----

#[test]
fn sigkill_of_everything_loses_no_acknowledged_write_and_doubles_none() {
    let mut cluster = DevCluster::start(&[]);
    let mut attempts: Vec<Vec<Attempt>> = Vec::new();
    for round in 0..10 {
        let writers =
            Writers::start(cluster.port(), WRITERS, &format!("round{round}"), Patience::None);
        // Another instant of the group commit each time.
        writers.wait_for_acks(150 + 37 * round);
        cluster.process.kill();
        for (tried, end) in writers.end() {
            if let WriterEnd::Refused(reply) = end {
                panic!("round {round}: a writer was answered {reply}");
            }
            attempts.push(tried);
        }
        cluster.restart();
        check_tokens(&mut cluster.client(), &attempts);
    }
    let acknowledged = acknowledged(&attempts);
    println!("10 SIGKILLs, {acknowledged} acknowledged writes: each there once");
}

#[test]
fn sigterm_ends_it_with_code_0_and_keeps_the_data() {
    let mut cluster = DevCluster::start(&[]);
    let mut client = cluster.client();
    assert_eq!(client.call(&["SET", "k", "v"]).expect("a reply"), Value::Simple("OK".into()));
    // An open connection that says nothing must not hold it up.
    let idle = cluster.client();
    cluster.process.signal("TERM");
    let status = cluster.process.wait(STOP_TIMEOUT);
    assert_eq!(status.code(), Some(0), "{}", cluster.process.log());
    drop(idle);
    cluster.restart();
    assert_eq!(cluster.client().call(&["GET", "k"]).expect("a reply"), Value::Bulk(b"v".to_vec()));
}

#[test]
fn sigterm_under_load_answers_what_it_took() {
    let mut cluster = DevCluster::start(&[]);
    let writers = Writers::start(cluster.port(), WRITERS, "term", Patience::None);
    writers.wait_for_acks(200);
    cluster.process.signal("TERM");
    let status = cluster.process.wait(STOP_TIMEOUT);
    assert_eq!(status.code(), Some(0), "{}", cluster.process.log());
    let mut attempts = Vec::new();
    for (tried, end) in writers.end() {
        assert!(matches!(end, WriterEnd::Disconnected), "a writer was refused");
        attempts.push(tried);
    }
    cluster.restart();
    check_tokens(&mut cluster.client(), &attempts);
}

#[test]
fn every_port_of_the_embedded_cluster_serves_every_key() {
    let cluster = DevCluster::start(&[]);
    for node in 1..=3 {
        let mut client = Client::connect(cluster.node_port(node)).expect("a connection");
        for i in 0..20 {
            let (key, value) = (format!("k{i}"), format!("n{node}"));
            assert_eq!(
                client.call(&["SET", &key, &value]).expect("a reply"),
                Value::Simple("OK".into())
            );
            let read = cluster.client().call(&["GET", &key]).expect("a reply");
            assert_eq!(read, Value::Bulk(value.into_bytes()));
        }
    }
}

// ---- Three processes and a router ----

#[test]
fn a_leaders_death_fails_no_request_and_it_catches_up_when_it_returns() {
    let mut cluster = ThreeNodes::start();
    let port = cluster.router_port();
    let writers = Writers::start(port, WRITERS, "load", Patience::None);
    writers.wait_for_acks(500);
    let leader = cluster.leader_of("load:0");
    cluster.node(leader).kill();
    writers.wait_for_acks(1000);

    cluster.node(leader).restart();
    let own_port = cluster.node_port(leader);
    cluster.node(leader).wait_until_it_serves(own_port);
    let other = leader % ThreeNodes::COUNT + 1;
    wait_until_caught_up(own_port, cluster.node_port(other));
    writers.wait_for_acks(500);
    // The one that was away is now needed for a majority: what it missed it must have by then.
    cluster.node(other).kill();
    writers.wait_for_acks(1000);

    let attempts = writers.end_all_told();
    check_tokens(&mut Client::connect(port).expect("a connection"), &attempts);
    let gap = longest_gap(&attempts);
    println!("longest gap around two leaders' deaths: {} ms", gap.as_millis());
    assert!(gap < Duration::from_secs(5), "the gap is within a request's deadline: {gap:?}");
}

#[test]
fn a_planned_stop_of_a_leader_fails_no_request() {
    let mut cluster = ThreeNodes::start();
    let port = cluster.router_port();
    let writers = Writers::start(port, WRITERS, "load", Patience::None);
    writers.wait_for_acks(500);
    for _ in 0..2 {
        let leader = cluster.leader_of("load:0");
        cluster.node(leader).signal("TERM");
        let status = cluster.node(leader).wait(STOP_TIMEOUT);
        assert_eq!(status.code(), Some(0), "{}", cluster.node(leader).log());
        writers.wait_for_acks(500);
        assert_ne!(cluster.leader_of("load:0"), leader);
        cluster.node(leader).restart();
        let own_port = cluster.node_port(leader);
        cluster.node(leader).wait_until_it_serves(own_port);
        wait_until_caught_up(own_port, cluster.node_port(leader % ThreeNodes::COUNT + 1));
    }
    let attempts = writers.end_all_told();
    check_tokens(&mut Client::connect(port).expect("a connection"), &attempts);
    println!("longest gap around two planned stops: {} ms", longest_gap(&attempts).as_millis());
}

#[test]
fn leadership_goes_where_it_is_wanted() {
    let cluster = ThreeNodes::start();
    let call = |port: u16, words: &[&str]| {
        Client::connect(port).expect("a connection").call(words).expect("a reply")
    };
    let wait_for_leader = |wanted: u16| {
        let end = Instant::now() + Duration::from_secs(30);
        while cluster.leader_of("k") != wanted {
            assert!(Instant::now() < end, "node {wanted} does not lead");
            thread::sleep(Duration::from_millis(20));
        }
    };
    let ok = Value::Simple("OK".into());
    for wanted in [1, 2, 3, 1] {
        if cluster.leader_of("k") != wanted {
            assert_eq!(call(cluster.node_port(wanted), &["CLUSTER", "FAILOVER"]), ok);
            // It is done, but another router than the node's own has yet to hear of it.
            wait_for_leader(wanted);
        }
    }
    let error = |text: &str| Value::Error(text.to_owned());
    let replica = error("ERR You should send CLUSTER FAILOVER to a replica");
    for node in ["3", "2"] {
        for group in ["1", "2"] {
            assert_eq!(call(cluster.router_port(), &["RAFT.TRANSFER_LEADER", group, node]), ok);
        }
        // OK means that it leads, and the router that says OK knows it.
        assert_eq!(cluster.known_leader_of("k").map(|node| node.to_string()), Some(node.into()));
    }
    // Both groups: there is nothing left for it to take.
    assert_eq!(call(cluster.node_port(2), &["CLUSTER", "FAILOVER"]), replica);
    for (words, text) in [
        (&["RAFT.TRANSFER_LEADER", "9", "1"][..], "ERR There is no group 9"),
        (&["RAFT.TRANSFER_LEADER", "1", "9"], "ERR Node 9 is no voter of the group"),
        (&["RAFT.TRANSFER_LEADER", "1", "x"], "ERR value is not an integer or out of range"),
        (&["CLUSTER", "FAILOVER", "NOW"], "ERR syntax error"),
        (
            &["CLUSTER", "FAILOVER", "TAKEOVER"],
            "ERR TAKEOVER is refused: a leader needs a majority",
        ),
    ] {
        assert_eq!(call(cluster.node_port(1), words), error(text), "{words:?}");
    }
}

/// The reply, and how long it took.
fn timed(client: &mut Client, arguments: &[&str]) -> (Value, Duration) {
    let start = Instant::now();
    let reply = client.call(arguments).expect("a reply");
    (reply, start.elapsed())
}

#[test]
fn without_a_majority_reads_and_writes_are_refused_at_the_deadline_and_ping_answers() {
    const DOWN: &str = "CLUSTERDOWN The cluster is down";
    const UNKNOWN: &str = "TIMEOUT no answer within 5000 ms, the write may or may not be applied";
    let mut cluster = ThreeNodes::start();
    let mut client = Client::connect(cluster.router_port()).expect("a connection");
    assert_eq!(client.call(&["SET", "k", "before"]).expect("a reply"), Value::Simple("OK".into()));
    let survivor = cluster.leader_of("k") % ThreeNodes::COUNT + 1;
    let lost: Vec<u16> = (1..=ThreeNodes::COUNT).filter(|id| *id != survivor).collect();
    for id in &lost {
        cluster.node(*id).kill();
    }

    for port in [cluster.router_port(), cluster.node_port(survivor)] {
        let mut client = Client::connect(port).expect("a connection");
        assert_eq!(client.call(&["PING"]).expect("a reply"), Value::Simple("PONG".into()));
        assert_eq!(client.call(&["ECHO", "x"]).expect("a reply"), Value::Bulk(b"x".to_vec()));
    }
    let (reply, took) = timed(&mut client, &["GET", "k"]);
    assert_eq!(reply, Value::Error(DOWN.into()));
    assert!(took >= Duration::from_secs(4) && took < Duration::from_secs(8), "{took:?}");
    let (reply, took) = timed(&mut client, &["SET", "k", "during"]);
    let unknown = match &reply {
        Value::Error(text) if text == DOWN => false,
        Value::Error(text) if text == UNKNOWN => true,
        other => panic!("SET without a majority: {other:?}"),
    };
    assert!(took < Duration::from_secs(8), "{took:?}");

    for id in &lost {
        cluster.node(*id).restart();
    }
    let port = cluster.router_port();
    cluster.router.wait_until_it_serves(port);
    let after = client.call(&["GET", "k"]).expect("a reply").text();
    assert!(after == "before" || (unknown && after == "during"), "{reply:?}, then {after}");
}

#[test]
fn a_node_and_a_router_end_at_sigterm() {
    let mut cluster = ThreeNodes::start();
    let stop = |process: &mut Process| {
        process.signal("TERM");
        let status = process.wait(STOP_TIMEOUT);
        assert_eq!(status.code(), Some(0), "{}", process.log());
    };
    stop(&mut cluster.router);
    for node in &mut cluster.nodes {
        stop(node);
    }
}

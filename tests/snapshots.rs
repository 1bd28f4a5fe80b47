//! Real processes whose logs end behind checkpoints: restarts begin at one, and who was away for too
//! long gets the state instead of the log.

use harness::process::{DevCluster, ThreeNodes};
use harness::resp::{Client, Value};
use std::path::Path;
use std::time::{Duration, Instant};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of one value.
const VALUE_BYTES: usize = 1 << 10;
/// Values written by one call of [`write`]: more than a log keeps behind its checkpoints (16 MiB a
/// group, twice).
const VALUES: usize = 48 << 10;
/// Bytes of snapshots in a node's memory, in and out.
const SNAPSHOT_BUFFERS_MAX: u64 = 16 << 20;
/// Commands sent at once.
const BATCH: usize = 512;
/// Keys that they share: enough for a checkpoint by what has changed (4 MiB a group).
const KEYS: usize = 24_000;

fn value(round: usize, n: usize) -> String {
    let head = format!("{round}:{n}:");
    let rest = VALUE_BYTES - head.len();
    head + &"x".repeat(rest)
}

/// Overwrites all keys many times.
fn write(client: &mut Client, round: usize) {
    for batch in 0..VALUES / BATCH {
        let numbers = batch * BATCH..(batch + 1) * BATCH;
        for n in numbers.clone() {
            client.send(&["SET", &format!("k:{}", n % KEYS), &value(round, n)]).expect("a request");
        }
        for n in numbers {
            let reply = client.receive().expect("a reply");
            assert_eq!(reply, Value::Simple("OK".into()), "SET number {n}");
        }
    }
}

/// Every key has its last value.
fn check(client: &mut Client, round: usize) {
    for first in (0..KEYS).step_by(BATCH) {
        let keys = first..KEYS.min(first + BATCH);
        for key in keys.clone() {
            client.send(&["GET", &format!("k:{key}")]).expect("a request");
        }
        for key in keys {
            let last = (VALUES - 1 - key) / KEYS * KEYS + key;
            let reply = client.receive().expect("a reply");
            assert_eq!(reply.text(), value(round, last), "k:{key}");
        }
    }
}

/// One number of INFO, of the node on `port`; none while it does not answer.
fn number(port: u16, name: &str) -> Option<u64> {
    let info = Client::connect(port).ok()?.call(&["INFO", "everything"]).ok()?.text();
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Some(line.unwrap_or_else(|| panic!("no {name} in INFO")).trim().parse().expect("a number"))
}

/// What each group of the node on `port` has applied; none while it does not answer.
fn applied(port: u16) -> Option<Vec<String>> {
    let info = Client::connect(port).ok()?.call(&["INFO", "raft"]).ok()?.text();
    let fields = info.split([',', '\n']).filter(|field| field.starts_with("applied="));
    Some(fields.map(str::to_owned).collect())
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "in vain: {what}");
        // INFO is renewed every 100 ms; asking it more often tells nothing more.
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// S1, S17: the others compact, and who comes back gets the state, then the log; the group serves all
/// the time, and can then do without another node.
#[test]
fn a_node_that_was_away_gets_the_state_and_then_counts() {
    let mut cluster = ThreeNodes::start();
    let mut client = Client::connect(cluster.router_port()).expect("a connection");
    client.call(&["SET", "before", "1"]).expect("a reply");
    cluster.node(3).kill();
    write(&mut client, 0);
    let node = cluster.node_port(1);
    wait_for("the log to be compacted", || {
        number(node, "raft_log_live_bytes").is_some_and(|bytes| bytes < 40 << 20)
    });

    cluster.node(3).restart();
    write(&mut client, 1);
    let port = cluster.node_port(3);
    wait_for("a snapshot on node 3", || {
        number(port, "snapshot_bytes_received").is_some_and(|bytes| bytes > VALUE_BYTES as u64)
    });
    let peak = number(port, "snapshot_buffers_peak").expect("INFO");
    assert!((1..=SNAPSHOT_BUFFERS_MAX).contains(&peak), "{peak} bytes of snapshots at once");
    cluster.node(1).kill();
    // Without node 1 whatever is acknowledged is on node 3 as well.
    check(&mut client, 1);
    let reply = client.call(&["APPEND", "before", "2"]).expect("a reply");
    assert_eq!(reply, Value::Integer(2));
    assert_eq!(client.call(&["GET", "before"]).expect("a reply").text(), "12");
}

/// P4: what is in the checkpoint comes from there, the rest from the log, each once.
#[test]
fn a_restart_goes_on_from_the_checkpoint() {
    let mut cluster = DevCluster::start(&[]);
    let mut client = cluster.client();
    for round in 0..2 {
        write(&mut client, round);
        let appended = client.call(&["APPEND", "counted", "x"]).expect("a reply");
        assert_eq!(appended, Value::Integer(round as i64 + 1));
        cluster.process.kill();
        cluster.restart();
        client = cluster.client();
        check(&mut client, round);
        let length = client.call(&["STRLEN", "counted"]).expect("a reply");
        assert_eq!(length, Value::Integer(round as i64 + 1));
        let checkpoints = number(cluster.port(), "state_live_bytes").expect("INFO");
        assert!(
            checkpoints > (KEYS * VALUE_BYTES / 4) as u64,
            "{checkpoints} bytes of checkpoints"
        );
        let log = number(cluster.port(), "raft_log_bytes").expect("INFO");
        assert!(log < 100 << 20, "{log} bytes of log");
    }
}

/// F10: a copy of the directory from before, put back, has forgotten what the node said since.
#[test]
fn f10_yesterdays_directory_put_back_ends_the_node_with_a_sentence() {
    let mut cluster = ThreeNodes::start();
    let mut client = Client::connect(cluster.router_port()).expect("a connection");
    let mut append = |times: usize| {
        for _ in 0..times {
            let reply = client.call(&["APPEND", "key", "x"]).expect("a reply");
            assert!(matches!(reply, Value::Integer(_)), "{reply:?}");
        }
    };
    append(20);
    cluster.node(3).kill();
    let (data, copy) = (cluster.data(3), cluster.data(3).with_extension("copy"));
    copy_files(&data, &copy);
    append(20);
    cluster.node(3).restart();
    let (port, other) = (cluster.node_port(3), cluster.node_port(1));
    wait_for("node 3 to have caught up", || {
        applied(other).is_some_and(|there| applied(port).as_ref() == Some(&there))
    });
    append(20);
    cluster.node(3).kill();
    copy_files(&copy, &data);
    cluster.node(3).restart();
    assert!(!cluster.node(3).wait(PATIENCE).success());
    let log = cluster.node(3).log_since_start();
    assert!(log.contains("this disk is older than what it told node"), "{log}");
    append(20);
}

fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for file in std::fs::read_dir(from).expect("a directory") {
        let file = file.expect("a file").path();
        std::fs::copy(&file, to.join(file.file_name().expect("a name"))).expect("a copy");
    }
}

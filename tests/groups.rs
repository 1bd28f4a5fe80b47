//! Groups and nodes that come and go, on real processes: what directories keep of them, and who serves.

use harness::process::{Ports, Process, ThreeNodes, arguments, program, set_mode};
use harness::resp::{Client, Value};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(60);

fn wait_until(what: &str, mut done: impl FnMut() -> Result<(), String>) {
    let end = Instant::now() + PATIENCE;
    loop {
        let Err(why) = done() else { return };
        assert!(Instant::now() < end, "{what}: {why}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// The reply of a node, or why there is none.
fn ask(port: u16, words: &[&str]) -> Result<Value, String> {
    let mut client = Client::connect(port).map_err(|error| error.to_string())?;
    client.call(words).map_err(|error| error.to_string())
}

/// Repeats a command until it is answered as it is to be.
fn wait_for(port: u16, words: &[&str], wanted: &Value) {
    wait_until(&words.join(" "), || match ask(port, words)? {
        value if value == *wanted => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

fn ok() -> Value {
    Value::Simple("OK".into())
}

fn stop(process: &mut Process) {
    process.signal("TERM");
    assert_eq!(process.wait(PATIENCE).code(), Some(0), "{}", process.log());
}

/// What `flotilla inspect` says of a directory, and whether it is sound.
fn inspected(dir: &Path) -> (String, bool) {
    let ran = Command::new(program()).arg("inspect").arg(dir).output().expect("it runs");
    (String::from_utf8_lossy(&ran.stdout).into_owned(), ran.status.success())
}

fn assert_group(dir: &Path, group: u32, there: bool) {
    let (text, sound) = inspected(dir);
    assert!(sound, "{text}");
    let line = format!("  group {group}\n");
    assert_eq!(text.contains(&line), there, "{text}");
}

fn node_names(port: u16) -> Vec<String> {
    let nodes = ask(port, &["CLUSTER", "NODES"]).expect("a reply").text();
    let mut lines: Vec<(u16, String)> = nodes
        .lines()
        .map(|line| {
            let mut words = line.split(' ');
            let name = words.next().expect("a name").to_owned();
            let address = words.next().expect("an address");
            let port = address.split(['@', ':']).nth(1).and_then(|port| port.parse().ok());
            (port.expect("a port"), name)
        })
        .collect();
    lines.sort();
    lines.into_iter().map(|(_, name)| name).collect()
}

/// Three nodes, of which the first alone keeps the configuration.
struct OneMaster {
    nodes: Vec<Process>,
    ports: Ports,
    folder: tempfile::TempDir,
}

impl OneMaster {
    fn start() -> OneMaster {
        let folder = tempfile::tempdir().expect("a folder");
        let ports = Ports::take();
        fs::write(folder.path().join("secret"), "only for this test: 0123456789").expect("a file");
        set_mode(&folder.path().join("secret"), 0o600).expect("its mode");
        let mut text =
            "cluster_id = \"one\"\nsecret_file = \"secret\"\nshardmaster = { voters = [1] }\n\
                        groups = [{ id = 1, voters = [1, 2, 3] }]\n"
                .to_owned();
        for id in 1..=3 {
            let (resp, peer) = (ports.port(id), ports.port(3 + id));
            text += &format!(
                "[[nodes]]\nid = {id}\npeer = \"127.0.0.1:{peer}\"\nresp = \"127.0.0.1:{resp}\"\n"
            );
        }
        let file = folder.path().join("cluster.toml");
        fs::write(&file, text).expect("a file");
        let file = file.display().to_string();
        let nodes = (1..=3).map(|id: u16| {
            let dir = folder.path().join(format!("node-{id}")).display().to_string();
            let id = id.to_string();
            let words = ["node", "--id", &id, "--dir", &dir, "--cluster-file", &file];
            Process::start(&format!("node {id}"), &arguments(&words), folder.path())
        });
        let mut nodes: Vec<Process> = nodes.collect();
        nodes[0].wait_until_it_serves(ports.port(1));
        OneMaster { nodes, ports, folder }
    }
}

#[test]
fn k13_nodes_that_restart_serve_groups_made_at_run_time_while_the_shardmaster_is_gone() {
    let mut cluster = OneMaster::start();
    let port = |id: u16| cluster.ports.port(id);
    let names = node_names(port(1));
    let created = ["CLUSTER", "GROUP", "CREATE", "ID", "2", "NODES", &names[1], &names[2]];
    let made = ask(port(1), &created).expect("a reply");
    assert_eq!(made.field("group"), &Value::Integer(2), "{made:?}");
    let Value::Integer(slot) = ask(port(1), &["CLUSTER", "KEYSLOT", "moved"]).unwrap() else {
        panic!("no slot");
    };
    let slot = slot.to_string();
    let words = ["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", &slot, &slot, "GROUP", "2"];
    assert_eq!(ask(port(1), &words).unwrap(), ok());
    let state = || ask(port(1), &["CLUSTER", "REBALANCE", "STATUS"]);
    wait_until("the move", || match state()?.field("state").text().as_str() {
        "balanced" => Ok(()),
        other => Err(other.to_owned()),
    });
    wait_for(port(2), &["SET", "moved", "1"], &ok());
    for id in [2, 3] {
        wait_until("the map on disk", || {
            let info = ask(port(id), &["INFO"])?.text();
            let value = |name: &str| {
                let mut lines = info.lines();
                lines.find_map(|line| line.strip_prefix(name).map(str::to_owned))
            };
            let (newest, kept) = (value("map_version:"), value("map_version_kept:"));
            (newest.is_some() && newest == kept).then_some(()).ok_or(format!("{newest:?} {kept:?}"))
        });
    }
    cluster.nodes.iter_mut().for_each(Process::kill);
    cluster.nodes[1..].iter_mut().for_each(Process::restart);
    for id in [2, 3] {
        let port = cluster.ports.port(id);
        wait_for(port, &["GET", "moved"], &Value::Bulk(b"1".to_vec()));
        wait_for(port, &["SET", "stays", "2"], &ok());
    }
    assert_group(&cluster.folder.path().join("node-1"), 2, false);
    cluster.nodes[1..].iter_mut().for_each(stop);
    assert_group(&cluster.folder.path().join("node-2"), 2, true);
}

#[test]
fn a_group_that_is_removed_while_a_node_is_down_goes_from_every_directory() {
    let mut cluster = ThreeNodes::start();
    let (first, third) = (cluster.node_port(1), cluster.node_port(3));
    let keys: Vec<String> = (0..30).map(|key| format!("key:{key}")).collect();
    let value = "v".repeat(1000);
    for key in &keys {
        assert_eq!(ask(first, &["SET", key, &value]).unwrap(), ok());
    }
    stop(cluster.node(3));
    assert_group(&cluster.data(3), 2, true);
    let drained = ask(first, &["CLUSTER", "GROUP", "DRAIN", "2"]).expect("a reply");
    assert!(!matches!(drained, Value::Error(_)), "{drained:?}");
    wait_until("the removal", || match ask(first, &["CLUSTER", "GROUP", "REMOVE", "2"])? {
        Value::Error(error) => Err(error),
        _ => Ok(()),
    });
    // The one that was away is told by a map that came later, and by no cluster file.
    cluster.node(3).restart();
    wait_until("the deletion", || {
        let log = cluster.nodes[2].log_since_start();
        let deletes = log.contains("the group is gone, deleting what the disk has of it");
        deletes.then_some(()).ok_or(log)
    });
    for key in &keys {
        wait_for(third, &["GET", key], &Value::Bulk(value.clone().into_bytes()));
    }
    for id in 1..=3 {
        stop(cluster.node(id));
    }
    for id in 1..=3 {
        assert_group(&cluster.data(id), 2, false);
    }
    // They were started with a file that still names it, and are again.
    for id in 1..=3 {
        cluster.node(id).restart();
    }
    wait_for(first, &["GET", &keys[0]], &Value::Bulk(value.into_bytes()));
    for id in 1..=3 {
        stop(cluster.node(id));
        assert_group(&cluster.data(id), 2, false);
    }
}

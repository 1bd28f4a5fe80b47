//! Groups and nodes that come and go, on real processes: what directories keep of them, and who serves.

use harness::process::{Ports, Process, ThreeNodes, arguments, program, set_mode};
use harness::raft_info::wait_until_caught_up;
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
    // A router that begins now has a file that does not name the second group, and hears of it from any node.
    let file = cluster.folder.path().join("cluster.toml").display().to_string();
    let listen = format!("127.0.0.1:{}", cluster.ports.port(7));
    let words = ["router", "--listen", &listen, "--cluster-file", &file];
    let _router = Process::start("router", &arguments(&words), cluster.folder.path());
    wait_for(cluster.ports.port(7), &["GET", "moved"], &Value::Bulk(b"1".to_vec()));
    wait_for(cluster.ports.port(7), &["APPEND", "stays", "2"], &Value::Integer(2));
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

/// Whether each of these has links both ways with each other one.
fn wait_for_links(ports: &[(u16, u16)]) {
    for (id, port) in ports {
        for (other, _) in ports.iter().filter(|(other, _)| other != id) {
            wait_until(&format!("the links between {id} and {other}"), || {
                let info = ask(*port, &["INFO", "raft"])?.text();
                let peer = format!("raft_peer_{other}:");
                let line = info.lines().find(|line| line.starts_with(&peer)).unwrap_or_default();
                let knows_clock = line.contains("clock_ahead_ms=") && !line.contains("unknown");
                let stands = line.contains("state=up") && knows_clock;
                stands.then_some(()).ok_or(format!("{peer} {line}"))
            });
        }
    }
}

fn refused(port: u16, words: &[&str]) -> String {
    match ask(port, words).expect("a reply") {
        Value::Error(error) => error,
        other => panic!("{words:?}: {other:?}"),
    }
}

#[test]
fn spares_join_at_run_time_get_links_and_seats_and_a_forgotten_node_loses_its_links() {
    let cluster = ThreeNodes::start();
    let ports = [1, 2, 3].map(|id| (id, cluster.node_port(id)));
    let first = cluster.node_port(1);
    let secret = cluster.folder().join("cluster.secret").display().to_string();
    // One that knows where the cluster is and its secret, and nothing else of it.
    let place = format!("127.0.0.1:{first}");
    let mut joined = cluster.spare(8, &["--join", &place, "--secret-file", &secret]);
    let eighth = cluster.spare_resp(8);
    let all = [&ports[..], &[(8, eighth)]].concat();
    wait_for_links(&all);
    // It gets a seat in a new group, and serves.
    let made = ask(eighth, &["CLUSTER", "GROUP", "CREATE", "ID", "5", "NODES", "8"]).unwrap();
    assert_eq!(made.field("group"), &Value::Integer(5), "{made:?}");
    let words = ["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", "0", "50", "GROUP", "5"];
    assert_eq!(ask(first, &words).unwrap(), ok());
    wait_until("the moves", || {
        match ask(first, &["CLUSTER", "REBALANCE", "STATUS"])?.field("state").text().as_str() {
            "balanced" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    let slot = |key: &String| ask(first, &["CLUSTER", "KEYSLOT", key]).unwrap();
    let low = |key: &String| matches!(slot(key), Value::Integer(0..=50));
    let key = (0..).map(|number| format!("key:{number}")).find(low).expect("there is one");
    wait_for(first, &["SET", &key, "there"], &ok());
    stop(&mut joined);
    let dir = cluster.folder().join("node-8");
    assert_group(&dir, 5, true);
    // From then on its directory is enough.
    let words = ["node", "--id", "8", "--dir", &dir.display().to_string()];
    let mut joined = Process::start("node 8 again", &arguments(&words), cluster.folder());
    wait_for(eighth, &["GET", &key], &Value::Bulk(b"there".to_vec()));
    wait_for(cluster.router_port(), &["GET", &key], &Value::Bulk(b"there".to_vec()));

    // Another is met, by a word to a node of the cluster; what cannot be is refused.
    let file = cluster.folder().join("cluster.toml").display().to_string();
    let mut met = cluster.spare(9, &["--spare", "--cluster-file", &file]);
    let ninth = cluster.spare_resp(9);
    wait_for(ninth, &["PING"], &Value::Simple("PONG".into()));
    let nobody = cluster.spare_port(11).to_string();
    let error = refused(first, &["CLUSTER", "MEET", "127.0.0.1", &nobody]);
    assert!(error.contains("cannot be reached"), "{error}");
    let ninth_text = ninth.to_string();
    let error = refused(ninth, &["CLUSTER", "MEET", "127.0.0.1", &ninth_text]);
    assert!(error.contains("is a spare, as this one is"), "{error}");
    assert_eq!(ask(first, &["CLUSTER", "MEET", "127.0.0.1", &ninth_text]).unwrap(), ok());
    assert_eq!(ask(first, &["CLUSTER", "MEET", "127.0.0.1", &ninth_text]).unwrap(), ok());
    wait_for_links(&[&all[..], &[(9, ninth)]].concat());
    // Forgotten, it is no peer of anybody.
    assert_eq!(ask(first, &["CLUSTER", "FORGET", "9"]).unwrap(), ok());
    for (_, port) in &all {
        wait_until("the end of the links", || {
            let links = format!("{:?}", ask(*port, &["CLUSTER", "NODES"])?);
            let known = links.contains(&format!(":{ninth}@"));
            let info = ask(*port, &["INFO", "raft"])?.text();
            let up =
                info.lines().any(|line| line.starts_with("raft_peer_9:") && line.contains("=up"));
            (!known && !up).then_some(()).ok_or(links)
        });
    }
    stop(&mut met);
    stop(&mut joined);
}

#[test]
fn a_spare_is_met_by_its_own_word_and_by_nobody_without_the_secret() {
    let cluster = ThreeNodes::start();
    let ports = [1, 2, 3].map(|id| (id, cluster.node_port(id)));
    let (first, first_text) = (cluster.node_port(1), cluster.node_port(1).to_string());
    let file = cluster.folder().join("cluster.toml").display().to_string();
    let mut spare_of_it = cluster.spare(8, &["--spare", "--cluster-file", &file]);
    let eighth = cluster.spare_resp(8);
    wait_for(eighth, &["CLUSTER", "MEET", "127.0.0.1", &first_text], &ok());
    wait_for_links(&[&ports[..], &[(8, eighth)]].concat());
    // The same cluster's name and another secret.
    let folder = cluster.folder().join("other");
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join("cluster.secret"), "another one, of the same length").expect("a file");
    set_mode(&folder.join("cluster.secret"), 0o600).expect("its mode");
    let other = folder.join("cluster.toml");
    fs::copy(&file, &other).expect("a copy");
    let other = other.display().to_string();
    let mut stranger = cluster.spare(9, &["--spare", "--cluster-file", &other]);
    let ninth = cluster.spare_resp(9);
    wait_for(ninth, &["PING"], &Value::Simple("PONG".into()));
    for (from, to) in [(first, ninth), (ninth, first)] {
        let error = refused(from, &["CLUSTER", "MEET", "127.0.0.1", &to.to_string()]);
        assert!(error.ends_with("it does not know the secret of this cluster"), "{error}");
    }
    stop(&mut stranger);
    stop(&mut spare_of_it);
    // A number that somebody has already.
    let dir = cluster.folder().join("twice").display().to_string();
    let at = format!("127.0.0.1:{}", cluster.spare_port(9));
    let peer = format!("127.0.0.1:{}", cluster.spare_port(10));
    let words = ["node", "--id", "2", "--dir", &dir, "--resp", &at, "--peer", &peer];
    let words = [&words[..], &["--spare", "--cluster-file", &file]].concat();
    let mut twice = Process::start("a second node 2", &arguments(&words), cluster.folder());
    wait_for(ninth, &["PING"], &Value::Simple("PONG".into()));
    let error = refused(first, &["CLUSTER", "MEET", "127.0.0.1", &ninth.to_string()]);
    assert!(error.contains("it is a spare with the number 2"), "{error}");
    stop(&mut twice);
}

/// What `flotilla recover` says and writes to standard error, and whether it wrote.
fn recover(dir: &Path, more: &[&str]) -> (String, bool) {
    let ran = Command::new(program()).arg("recover").arg(dir).args(more).output().expect("it runs");
    let (out, err) = (ran.stdout, ran.stderr);
    let text = String::from_utf8_lossy(&[out, err].concat()).into_owned();
    (text, ran.status.success())
}

/// Names and bytes of the files of a directory.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .expect("a directory")
        .map(|entry| entry.expect("an entry"))
        .map(|entry| {
            let bytes = fs::read(entry.path()).expect("its bytes");
            (entry.file_name().to_string_lossy().into_owned(), bytes)
        })
        .collect();
    files.sort();
    files
}

#[test]
fn m17_a_majority_lost_for_good_is_not_served_until_one_node_is_given_the_group() {
    let mut cluster = ThreeNodes::start();
    let third = cluster.node_port(3);
    let keys: Vec<String> = (0..40).map(|key| format!("key:{key}")).collect();
    for key in &keys {
        wait_for(third, &["SET", key, key], &ok());
    }
    let dir = cluster.data(3);
    // What two of them have is acknowledged; here the third is to have it as well, the map too.
    for id in [1, 2] {
        wait_until_caught_up(third, cluster.node_port(id));
    }
    let (text, wrote) = recover(&dir, &["--group", "1", "--accept-data-loss"]);
    assert!(!wrote && text.contains("is in use by another process"), "{text}");
    for id in [1, 2] {
        cluster.node(id).kill();
        fs::remove_dir_all(cluster.data(id)).expect("the disk is gone");
    }
    let refused = |key: &str| ask(third, &["SET", key, "new"]);
    // A key that nobody looks at later: the node may have led a moment ago, and have this in its log.
    assert!(matches!(refused("elsewhere"), Ok(Value::Error(_))), "a minority serves");
    stop(cluster.node(3));

    let before = files(&dir);
    let (text, wrote) = recover(&dir, &["--group", "1"]);
    assert!(!wrote && text.contains("nothing was written"), "{text}");
    for said in ["node 3 of cluster \"test\"", "voters      1 2 3", "What may be lost"] {
        assert!(text.contains(said), "{text}");
    }
    let (text, wrote) = recover(&dir, &["--group", "7", "--accept-data-loss"]);
    assert!(!wrote && text.contains("names no group 7"), "{text}");
    assert_eq!(files(&dir), before, "a refusal changed the directory");
    // Group 2 alone: group 1 stays as it is.
    let (text, wrote) = recover(&dir, &["--group", "2", "--accept-data-loss"]);
    assert!(wrote && text.contains("is node 3's alone from entry"), "{text}");
    let (text, wrote) = recover(&dir, &["--group", "2", "--accept-data-loss"]);
    assert!(!wrote && text.contains("is node 3's alone already"), "{text}");
    let (text, sound) = inspected(&dir);
    assert!(sound, "{text}");
    cluster.node(3).restart();
    let group_of = |key: &String| match ask(third, &["CLUSTER", "KEYSLOT", key]).unwrap() {
        Value::Integer(slot) => 1 + slot / 8192,
        other => panic!("{other:?}"),
    };
    wait_until("the node", || ask(third, &["PING"]).map(|_| ()));
    let (one, two): (Vec<&String>, Vec<&String>) = keys.iter().partition(|key| group_of(key) == 1);
    assert!(!one.is_empty() && !two.is_empty());
    for key in &two {
        wait_for(third, &["GET", key], &Value::Bulk(key.as_bytes().to_vec()));
        wait_for(third, &["APPEND", key, "x"], &Value::Integer(key.len() as i64 + 1));
    }
    assert!(matches!(refused(one[0]), Ok(Value::Error(_))), "a minority serves");
    stop(cluster.node(3));
    for group in ["0", "1"] {
        let (text, wrote) = recover(&dir, &["--group", group, "--accept-data-loss"]);
        assert!(wrote, "{text}");
    }
    cluster.node(3).restart();
    for key in &one {
        wait_for(third, &["GET", key], &Value::Bulk(key.as_bytes().to_vec()));
    }
    seats_of_the_lost_go_to_a_new_node(&cluster, &keys);
}

/// Group 0 is recovered as well, so the cluster can be changed.
fn seats_of_the_lost_go_to_a_new_node(cluster: &ThreeNodes, keys: &[String]) {
    let third = cluster.node_port(3);
    let secret = cluster.folder().join("cluster.secret").display().to_string();
    let place = format!("127.0.0.1:{third}");
    let mut new = cluster.spare(8, &["--join", &place, "--secret-file", &secret]);
    let eighth = cluster.spare_resp(8);
    wait_for_links(&[(3, third), (8, eighth)]);
    for voter in ["1", "2"] {
        wait_until("the lost nodes' seats", || {
            match ask(third, &["CLUSTER", "DELVOTER", voter])? {
                Value::Error(error) => Err(error),
                _ => Ok(()),
            }
        });
    }
    for group in ["0", "1", "2"] {
        wait_until("the new node's seats", || {
            match ask(third, &["CLUSTER", "ADDVOTER", "8", "GROUP", group])? {
                Value::Error(error) => Err(error),
                _ => Ok(()),
            }
        });
    }
    wait_until("two replicas of each group", || {
        let info = ask(eighth, &["INFO", "raft"])?.text();
        let caught_up = (0..=2).all(|group| {
            let name = format!("raft_group_{group}:");
            info.lines().any(|line| line.starts_with(&name) && !line.contains("applied=0,"))
        });
        caught_up.then_some(()).ok_or(info)
    });
    for key in keys {
        wait_for(eighth, &["EXISTS", key], &Value::Integer(1));
    }
    stop(&mut new);
}

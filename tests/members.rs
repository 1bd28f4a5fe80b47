//! Members that change on real processes: a node dies for good, and another takes its place under writers.

use harness::process::{Ports, Process, arguments, set_mode};
use harness::resp::{Client, Value};
use harness::tokens::{Attempt, Patience, WriterEnd, Writers, check_tokens};
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(120);
/// Connections that write at once.
const WRITERS: usize = 8;
const NODES: u16 = 4;

/// Four nodes and a router; every group is on nodes 1 to 3.
struct FourNodes {
    nodes: Vec<Process>,
    router: Process,
    ports: Ports,
    folder: tempfile::TempDir,
}

impl FourNodes {
    fn start() -> FourNodes {
        let folder = tempfile::tempdir().expect("a folder");
        let ports = Ports::take();
        fs::write(folder.path().join("secret"), "only for this test: 0123456789").expect("a file");
        set_mode(&folder.path().join("secret"), 0o600).expect("its mode");
        let mut text = "cluster_id = \"four\"\nsecret_file = \"secret\"\n\
                        shardmaster = { voters = [1, 2, 3] }\ngroups = [\
                        { id = 1, voters = [1, 2, 3] }, { id = 2, voters = [1, 2, 3] }]\n"
            .to_owned();
        for id in 1..=NODES {
            let (resp, peer) = (ports.port(id), ports.port(NODES + id));
            text += &format!(
                "[[nodes]]\nid = {id}\npeer = \"127.0.0.1:{peer}\"\nresp = \"127.0.0.1:{resp}\"\n"
            );
        }
        let file = folder.path().join("cluster.toml");
        fs::write(&file, text).expect("a file");
        let file = file.display().to_string();
        let nodes = (1..=NODES).map(|id| {
            let dir = folder.path().join(format!("node-{id}")).display().to_string();
            let id = id.to_string();
            let words = ["node", "--id", &id, "--dir", &dir, "--cluster-file", &file];
            Process::start(&format!("node {id}"), &arguments(&words), folder.path())
        });
        let nodes = nodes.collect();
        let listen = format!("127.0.0.1:{}", ports.port(0));
        let words = ["router", "--listen", &listen, "--cluster-file", &file];
        let mut router = Process::start("router", &arguments(&words), folder.path());
        router.wait_until_it_serves(ports.port(0));
        FourNodes { nodes, router, ports, folder }
    }

    fn client(&self, id: u16) -> Client {
        Client::connect(self.ports.port(id)).expect("a connection")
    }
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
    let mut cluster = FourNodes::start();
    let mut admin = cluster.client(1);
    wait_for_members(&mut admin, &[1, 2, 3]);
    let writers = Writers::start(cluster.ports.port(0), WRITERS, "kept", Patience::None);
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
    cluster.router.wait_until_it_serves(cluster.ports.port(0));
    check_tokens(&mut cluster.client(0), &attempts);
    assert!(cluster.folder.path().exists());
}

#[test]
fn groups_grow_to_four_and_shrink_and_an_evacuated_node_leads_nothing() {
    let cluster = FourNodes::start();
    let mut admin = cluster.client(1);
    wait_for_members(&mut admin, &[1, 2, 3]);
    let writers = Writers::start(cluster.ports.port(0), WRITERS, "grown", Patience::None);
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

//! Single processes: a spare, a node told by a file, what the directory keeps of the first start, and
//! what a process says of itself.

use harness::process::{
    DevCluster, Launch, Ports, Process, ThreeNodes, arguments, program, set_mode,
    write_cluster_file,
};
use harness::resp::{Client, Value};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a process may take to answer or to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// Connects as soon as the port is open.
fn connect(process: &mut Process, port: u16) -> Client {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Ok(client) = Client::connect(port) {
            return client;
        }
        assert!(!process.has_ended(), "{}", process.log());
        assert!(Instant::now() < end, "port {port} does not open:\n{}", process.log());
        thread::sleep(Duration::from_millis(20));
    }
}

fn text(client: &mut Client, command: &[&str]) -> String {
    client.call(command).expect("a reply").text()
}

#[test]
fn a_spare_knows_only_itself_and_owns_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let ports = Ports::take();
    let file = write_cluster_file(folder.path(), &ports);
    let (resp, peer) = (ports.port(0), ports.port(7));
    let (resp_text, peer_text) = (format!("127.0.0.1:{resp}"), format!("127.0.0.1:{peer}"));
    let dir = folder.path().join("spare").display().to_string();
    let words = [
        "node",
        "--spare",
        "--id",
        "9",
        "--dir",
        &dir,
        "--cluster-file",
        &file,
        "--resp",
        &resp_text,
        "--peer",
        &peer_text,
    ];
    let mut spare = Process::start("spare", &arguments(&words), folder.path());
    for _ in 0..2 {
        let mut client = connect(&mut spare, resp);
        let info = text(&mut client, &["CLUSTER", "INFO"]);
        assert!(info.contains("cluster_known_nodes:1\r\n"), "{info}");
        assert!(info.contains("cluster_slots_assigned:0\r\n"), "{info}");
        let nodes = text(&mut client, &["CLUSTER", "NODES"]);
        assert!(nodes.contains("myself") && nodes.trim_end().lines().count() == 1, "{nodes}");
        assert!(!text(&mut client, &["INFO", "keyspace"]).contains("db0"));
        let refused = client.call(&["SET", "k", "v"]).expect("a reply");
        assert_eq!(refused, Value::Error("CLUSTERDOWN Hash slot not served".into()));
        assert_eq!(client.call(&["PING"]).expect("a reply"), Value::Simple("PONG".into()));
        spare.signal("TERM");
        assert_eq!(spare.wait(PATIENCE).code(), Some(0), "{}", spare.log());
        spare.restart();
    }
}

/// A cluster of one node, all of it told by files.
fn write_single(folder: &Path, ports: &Ports) -> String {
    fs::write(folder.join("secret"), "only for this test: 0123456789").expect("a secret");
    set_mode(&folder.join("secret"), 0o600).expect("its mode");
    let (resp, peer) = (ports.port(0), ports.port(7));
    let cluster = format!(
        "cluster_id = \"single\"\nsecret_file = \"secret\"\nshardmaster = {{ voters = [1] }}\n\
         nodes = [{{ id = 1, peer = \"127.0.0.1:{peer}\", resp = \"127.0.0.1:{resp}\" }}]\n\
         groups = [{{ id = 1, voters = [1] }}]\n"
    );
    fs::write(folder.join("cluster.toml"), cluster).expect("a cluster file");
    let node = "id = 1\ndir = \"data\"\ncluster-file = \"cluster.toml\"\ntimeout = 1000\n";
    let config = folder.join("node.toml");
    fs::write(&config, node).expect("a configuration file");
    config.display().to_string()
}

#[test]
fn the_cluster_file_is_needed_at_the_first_start_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let ports = Ports::take();
    let config = write_single(folder.path(), &ports);
    let arguments = arguments(&["node", "--config", &config]);
    let mut node = Process::start("single", &arguments, folder.path());
    node.wait_until_it_serves(ports.port(0));
    let mut client = Client::connect(ports.port(0)).expect("a connection");
    assert_eq!(text(&mut client, &["SET", "kept", "value"]), "OK");
    let timeout = client.call(&["CONFIG", "GET", "timeout"]).expect("a reply");
    assert_eq!(timeout.items()[1].text(), "1000");
    node.kill();
    for gone in ["cluster.toml", "secret"] {
        fs::remove_file(folder.path().join(gone)).expect("it was there");
    }
    fs::write(folder.path().join("node.toml"), "id = 1\ndir = \"data\"\n").expect("rewritten");
    node.restart();
    node.wait_until_it_serves(ports.port(0));
    let mut client = Client::connect(ports.port(0)).expect("a connection");
    assert_eq!(text(&mut client, &["GET", "kept"]), "value");
}

/// Ends with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself, which is what we want here.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn it_runs_on_when_nobody_reads_what_it_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let ports = Ports::take();
    let mut command = Command::new(program());
    command.args(["dev", "--log", "debug", "--port", &ports.port(0).to_string(), "--dir"]);
    command.arg(folder.path().join("data")).stdin(Stdio::null());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut running = Running(child);
    // Whatever it says from now on meets a broken pipe.
    drop((running.0.stdout.take(), running.0.stderr.take()));
    let end = Instant::now() + PATIENCE;
    loop {
        let set = Client::connect(ports.port(0)).and_then(|mut c| c.call(&["SET", "k", "v"]));
        if set.is_ok_and(|reply| reply == Value::Simple("OK".into())) {
            break;
        }
        assert_eq!(running.0.try_wait().expect("its state"), None, "it ended");
        assert!(Instant::now() < end, "it does not serve");
        thread::sleep(Duration::from_millis(20));
    }
    let id = running.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill").success());
    while running.0.try_wait().expect("its state").is_none() {
        assert!(Instant::now() < end, "it does not end");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(running.0.wait().expect("its state").code(), Some(0));
}

#[test]
fn the_banner_is_said_when_each_group_has_a_leader() {
    let cluster = DevCluster::start(&[]);
    let end = Instant::now() + PATIENCE;
    while !cluster.process.output().contains("stop ") {
        assert!(Instant::now() < end, "no banner: {}", cluster.process.log());
        thread::sleep(Duration::from_millis(5));
    }
    let log = cluster.process.log();
    assert!(log.matches("became leader").count() >= 3, "the banner came before:\n{log}");
}

/// `make cluster`, from a copy of `examples/` with ports of its own.
struct ExampleCluster {
    script: Child,
    folder: tempfile::TempDir,
}

impl ExampleCluster {
    fn start(ports: &Ports) -> ExampleCluster {
        let folder = tempfile::tempdir().expect("a folder");
        let release = folder.path().join("target/release");
        fs::create_dir_all(&release).expect("a folder");
        let program = fs::canonicalize(program()).expect("the program");
        std::os::unix::fs::symlink(program, release.join("flotilla")).expect("a link");
        let (from, to) = (
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples"),
            folder.path().join("examples"),
        );
        fs::create_dir(&to).expect("a folder");
        for name in ["cluster.sh", "cluster.toml"] {
            let mut text = fs::read_to_string(from.join(name)).expect("an example");
            for i in 0..=3 {
                text = text.replace(&format!(":700{i}"), &format!(":{}", ports.port(i)));
                text = text.replace(&format!(":710{i}"), &format!(":{}", ports.port(3 + i)));
            }
            fs::write(to.join(name), text).expect("a copy");
        }
        let said = fs::File::create(folder.path().join("said")).expect("a file for output");
        let script = Command::new("bash")
            .arg(to.join("cluster.sh"))
            .stdin(Stdio::null())
            .stdout(said.try_clone().expect("a second handle"))
            .stderr(said)
            .spawn()
            .expect("bash");
        ExampleCluster { script, folder }
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("said")).unwrap_or_default()
    }

    fn wait_until(&mut self, what: &str, mut holds: impl FnMut(&str) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds(&self.said()) {
            let ended = self.script.try_wait().expect("its state");
            assert_eq!(ended, None, "the script ended before {what}:\n{}", self.said());
            assert!(Instant::now() < end, "not yet {what}:\n{}", self.said());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn stop(&mut self) -> Option<i32> {
        send("TERM", &self.script.id().to_string());
        let end = Instant::now() + PATIENCE;
        loop {
            match self.script.try_wait().expect("its state") {
                Some(status) => return status.code(),
                None if Instant::now() >= end => return None,
                None => thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

impl Drop for ExampleCluster {
    fn drop(&mut self) {
        // Alone it knows what it started.
        if self.script.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.stop();
        }
    }
}

fn send(signal: &str, process: &str) {
    let sent = Command::new("kill").args([&format!("-{signal}"), process]).status();
    assert!(sent.is_ok_and(|status| status.success()), "kill -{signal} {process}");
}

#[test]
fn the_example_cluster_goes_on_without_a_node_that_was_killed() {
    let ports = Ports::take();
    let mut cluster = ExampleCluster::start(&ports);
    let serves = |_: &str| {
        Client::connect(ports.port(0))
            .and_then(|mut client| client.call(&["SET", "k", "v"]))
            .is_ok_and(|reply| reply == Value::Simple("OK".into()))
    };
    cluster.wait_until("the router serves", serves);
    let said = cluster.said();
    let processes = said.lines().find(|line| line.starts_with("processes")).expect("process ids");
    let mut words = processes.split_whitespace().skip_while(|word| *word != "node-2");
    send("KILL", words.nth(1).expect("the process id of node 2"));
    cluster.wait_until("node 2 is said to have ended", |said| {
        said.contains("node-2 ended with code 137 (SIGKILL); these go on: ")
    });
    cluster.wait_until("the others serve", serves);
    assert_eq!(cluster.stop(), Some(0), "{}", cluster.said());
    for name in ["node-1", "node-3", "router"] {
        let end = format!("{name} ended with code 0\n");
        assert!(cluster.said().contains(&end), "{}", cluster.said());
    }
}

/// A stop is bounded whatever a request may take, and what it cuts off gets no reply: neither would be
/// sure to be true.
#[test]
fn a_stop_does_not_wait_for_a_request_that_may_take_minutes() {
    use std::io::{Read, Write};
    let folder = tempfile::tempdir().expect("a folder");
    let ports = Ports::take();
    let file = write_cluster_file(folder.path(), &ports);
    let dir = folder.path().join("node").display().to_string();
    let words = ["node", "--id", "1", "--dir", &dir, "--cluster-file", &file];
    let mut words = arguments(&words);
    words.extend(arguments(&["--request-timeout", "600000"]));
    let mut node = Process::start("node 1", &words, folder.path());
    drop(connect(&mut node, ports.port(1)));
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", ports.port(1))).expect("connects");
    // The reply to the first says that the node has what came with it; without a majority the second
    // waits for its deadline.
    socket.write_all(b"PING\r\nSET k v\r\n").expect("a socket that takes it");
    let mut pong = [0; 7];
    socket.read_exact(&mut pong).expect("a reply");
    assert_eq!(&pong, b"+PONG\r\n");
    node.signal("TERM");
    assert_eq!(node.wait(PATIENCE).code(), Some(0), "{}", node.log());
    let mut more = Vec::new();
    // A reset says as much as an end.
    let _ = socket.read_to_end(&mut more);
    assert_eq!(String::from_utf8_lossy(&more), "", "a reply to what was cut off");
}

/// Asks until the reply holds the text.
fn until_it_says(client: &mut Client, command: &[&str], wanted: &str) {
    let end = Instant::now() + PATIENCE;
    loop {
        let reply = text(client, command);
        if reply.contains(wanted) {
            return;
        }
        assert!(Instant::now() < end, "{command:?} does not say {wanted}: {reply}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_router_tells_how_many_keys_there_are_and_whether_groups_have_leaders() {
    let mut cluster = ThreeNodes::start();
    let mut client = Client::connect(cluster.router_port()).expect("a connection");
    let (state, keys) = (["CLUSTER", "INFO"], ["INFO", "keyspace"]);
    until_it_says(&mut client, &state, "cluster_state:ok\r\n");
    assert_eq!(text(&mut client, &["SET", "short", "lived", "EX", "1000"]), "OK");
    // Seven keys are left of what tried whether every group takes writes.
    let counted = "# Keyspace\r\ndb0:keys=8,expires=1,avg_ttl=0\r\n";
    assert_eq!(text(&mut client, &keys), counted);
    assert!(text(&mut client, &["INFO"]).contains(counted));
    cluster.node(2).kill();
    cluster.node(3).kill();
    until_it_says(&mut client, &state, "cluster_state:fail\r\n");
    assert_eq!(text(&mut client, &keys), "# Keyspace\r\nunanswered_groups:2\r\n");
    cluster.node(2).restart();
    until_it_says(&mut client, &state, "cluster_state:ok\r\n");
    until_it_says(&mut client, &keys, counted);
}

#[test]
fn nodes_without_a_seat_in_a_group_know_that_it_has_a_leader() {
    let cluster = DevCluster::start(&["--nodes", "5", "--groups", "2", "--replicas", "3"]);
    for port in 0..=5 {
        let mut client = Client::connect(cluster.node_port(port)).expect("a connection");
        until_it_says(&mut client, &["CLUSTER", "INFO"], "cluster_state:ok\r\n");
    }
}

/// A number that `INFO stats` has under that name.
fn counter(client: &mut Client, name: &str) -> u64 {
    let info = text(client, &["INFO", "stats"]);
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("{name} in {info}"))
}

/// A group without work sends nothing, however many there are: what is left are the heartbeats of six
/// pairs of nodes, ten a second each.
#[test]
fn a_thousand_idle_groups_send_what_three_nodes_do() {
    const GROUPS: u32 = 1000;
    const A_SECOND: u64 = 60;
    let mut cluster = ThreeNodes::start_groups(&Launch::Program, &[], GROUPS);
    let mut clients: Vec<Client> = (1..=ThreeNodes::COUNT)
        .map(|id| {
            let port = cluster.node_port(id);
            connect(cluster.node(id), port)
        })
        .collect();
    let end = Instant::now() + 3 * PATIENCE;
    let leads =
        |client: &mut Client| text(client, &["INFO", "raft"]).matches("role=leader").count();
    while clients.iter_mut().map(leads).sum::<usize>() <= GROUPS as usize {
        assert!(Instant::now() < end, "not every group has a leader");
        thread::sleep(Duration::from_millis(100));
    }
    let mut sent =
        || -> u64 { clients.iter_mut().map(|client| counter(client, "raft_messages_sent")).sum() };
    const PAIRS: u64 = 6;
    // Until the groups rest; then each pair may have one more in a second than is due, by where it begins.
    loop {
        let (before, began) = (sent(), Instant::now());
        thread::sleep(Duration::from_secs(1));
        let (more, took) = (sent() - before, began.elapsed().as_secs_f64());
        println!("{more} messages in {took:.2} s");
        if more as f64 <= A_SECOND as f64 * took + PAIRS as f64 {
            assert!(more > 0, "nodes that say nothing to each other");
            break;
        }
        assert!(Instant::now() < end, "{more} messages in {took:.1} s without any work");
    }
}

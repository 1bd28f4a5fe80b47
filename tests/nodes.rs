//! Single processes: a spare, a node told by a file, what the directory keeps of the first start, and
//! what a process says of itself.

use harness::process::{
    DevCluster, Ports, Process, arguments, program, set_mode, write_cluster_file,
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

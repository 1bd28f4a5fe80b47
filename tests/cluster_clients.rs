//! Cluster-aware clients, unchanged, at the nodes' cluster ports: slots move, leaders change and die, and no
//! caller sees an error. What a client does inside, after a MOVED or a connection that broke, is its own
//! affair; where a lost connection makes it send a write again, tests write what may be written twice.
//!
//! `make clients` installs them; what is missing fails the test with a sentence.

use fred::interfaces::{ClientLike, KeysInterface};
use fred::types::config::{
    ClusterDiscoveryPolicy, Config as FredConfig, ReconnectPolicy, Server, ServerConfig,
};
use harness::process::{DevCluster, ThreeNodes};
use harness::resp::{Client, Value};
use redis::cluster::ClusterClient;
use redis::{AsyncCommands, Commands};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::runtime::Builder as Runtime;

/// How long anything may take on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(120);
/// Acknowledgements after which a client is taken to work.
const ACKS: u64 = 200;
/// Keys of one writer of ours.
const KEYS: u64 = 25;
const NODES: [u16; 3] = [1, 2, 3];

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent").to_path_buf()
}

fn client(port: u16) -> Client {
    Client::connect(port).expect("a connection")
}

fn call(client: &mut Client, words: &[&str]) -> Value {
    client.call(words).expect("a reply")
}

/// What a client does while the cluster changes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// It appends tokens.
    Moves,
    /// It writes values and reads them.
    Kills,
}

impl Mode {
    fn word(self) -> &'static str {
        match self {
            Mode::Moves => "moves",
            Mode::Kills => "kills",
        }
    }
}

/// A client at work, until it is told to end.
trait Load {
    /// Waits until so many more writes were acknowledged.
    fn wait_for_acks(&mut self, count: u64);
    /// Ends it; panics if it saw an error, or if a key does not hold what it must.
    fn end(&mut self);
}

/// One that is a script: see `clients/redis_py_cluster.py`.
struct Script {
    child: Child,
    lines: mpsc::Receiver<String>,
    acks: u64,
}

impl Script {
    fn start(program: &Path, arguments: &[&str], mode: Mode, ports: &[u16]) -> Script {
        let mut child = Command::new(program)
            .args(arguments)
            .arg(mode.word())
            .args(ports.iter().map(u16::to_string))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot run {}: {error}; `make clients` installs it", program.display())
            });
        let (said, lines) = mpsc::channel();
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        thread::spawn(move || {
            // Nobody listens any more once the test has seen enough.
            output.lines().map_while(Result::ok).for_each(|line| drop(said.send(line)));
        });
        Script { child, lines, acks: 0 }
    }

    fn redis_py(mode: Mode, ports: &[u16]) -> Script {
        let script = checkout().join("tests/clients/redis_py_cluster.py").display().to_string();
        Script::start(&checkout().join(".clients/py/bin/python"), &[&script], mode, ports)
    }

    fn ioredis(mode: Mode, ports: &[u16]) -> Script {
        let script = checkout().join("tests/clients/ioredis_cluster.mjs").display().to_string();
        let folder = checkout().join(".clients/node").display().to_string();
        Script::start(Path::new("node"), &[&script, &folder], mode, ports)
    }

    fn line(&mut self) -> String {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(_) => {
                let _ = self.child.kill();
                let mut errors = String::new();
                let stderr = self.child.stderr.as_mut().expect("it is piped");
                let _ = stderr.read_to_string(&mut errors);
                panic!("the client ended, or says nothing, after {} acks\n{errors}", self.acks)
            }
        }
    }
}

impl Load for Script {
    fn wait_for_acks(&mut self, count: u64) {
        // What was said before counts for nothing.
        while let Ok(line) = self.lines.try_recv() {
            self.acks =
                line.strip_prefix("acks ").map_or(self.acks, |n| n.parse().expect("a number"));
        }
        let until = self.acks + count;
        while self.acks < until {
            let line = self.line();
            let acks = line.strip_prefix("acks ").unwrap_or_else(|| panic!("it says {line}"));
            self.acks = acks.parse().expect("a number");
        }
    }

    fn end(&mut self) {
        drop(self.child.stdin.take());
        loop {
            let line = self.line();
            if line.contains("passed") {
                println!("{line}, {} acks", self.acks);
                break;
            }
        }
        assert!(self.child.wait().expect("its end").success());
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two threads, each with a client in Rust.
struct Threads {
    writers: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    acks: mpsc::Receiver<()>,
}

impl Threads {
    fn start(
        write: impl Fn(u64, &AtomicBool, &mpsc::Sender<()>) + Clone + Send + 'static,
    ) -> Threads {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, acks) = mpsc::channel();
        let writers = (0..2).map(|writer| {
            let (write, stop, told) = (write.clone(), stop.clone(), told.clone());
            thread::spawn(move || write(writer, &stop, &told))
        });
        Threads { writers: writers.collect(), stop, acks }
    }

    /// The `redis` crate's: blocking through moves, and asynchronous where leaders die. The blocking one asks a node
    /// that is gone sixteen times at once, and nobody else, before it gives up.
    fn redis_rs(mode: Mode, ports: &[u16]) -> Threads {
        let url = |port: &u16| format!("redis://127.0.0.1:{port}/");
        let nodes: Vec<String> = ports.iter().map(url).collect();
        Threads::start(move |writer, stop, told| {
            let client = ClusterClient::new(nodes.clone()).expect("a client");
            match mode {
                Mode::Moves => appends(&client, writer, stop, told),
                Mode::Kills => wait_for(values(&client, writer, stop, told)),
            }
        })
    }

    /// The one of the crate `fred`, as it is by default but for how it connects: again at once, and for ever. It looks at
    /// `cluster_state` whenever it does, which says `fail` as long as a group has no leader.
    fn fred(mode: Mode, ports: &[u16]) -> Threads {
        let hosts: Vec<Server> = ports.iter().map(|port| Server::new("127.0.0.1", *port)).collect();
        Threads::start(move |writer, stop, told| {
            let policy = ClusterDiscoveryPolicy::default();
            let server = ServerConfig::Clustered { hosts: hosts.clone(), policy };
            let config = FredConfig { server, fail_fast: false, ..FredConfig::default() };
            wait_for(with_fred(config, mode, writer, stop, told));
        })
    }
}

fn wait_for(writing: impl Future<Output = ()>) {
    Runtime::new_current_thread().enable_all().build().expect("a runtime").block_on(writing);
}

async fn with_fred(
    config: FredConfig,
    mode: Mode,
    writer: u64,
    stop: &AtomicBool,
    told: &mpsc::Sender<()>,
) {
    let mut builder = fred::types::Builder::from_config(config);
    builder.set_policy(ReconnectPolicy::new_constant(0, 50));
    let client = builder.build().expect("a client");
    let connections = client.init().await.expect("a connection");
    let mut held: BTreeMap<String, String> = BTreeMap::new();
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (key, token) = (format!("fred:{writer}:{}", number % KEYS), format!("{number};"));
        let value = held.entry(key.clone()).or_default();
        match mode {
            Mode::Moves => {
                value.push_str(&token);
                let length: usize = client.append(&key, token).await.expect("APPEND");
                assert_eq!(length, value.len(), "{key}");
            }
            Mode::Kills => {
                *value = token;
                let set = client.set::<(), _, _>(&key, value.as_str(), None, None, false);
                set.await.expect("SET");
                let got: String = client.get(&key).await.expect("GET");
                assert_eq!(got, *value, "{key}");
            }
        }
        let _ = told.send(());
    }
    for (key, value) in held {
        let got: String = client.get(&key).await.expect("GET");
        assert_eq!(got, value, "{key}");
    }
    client.quit().await.expect("its end");
    let _ = connections.await;
}

fn appends(client: &ClusterClient, writer: u64, stop: &AtomicBool, told: &mpsc::Sender<()>) {
    let mut to = client.get_connection().expect("a connection");
    let mut held: BTreeMap<String, String> = BTreeMap::new();
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (key, token) = (format!("moved:{writer}:{}", number % KEYS), format!("{number};"));
        let value = held.entry(key.clone()).or_default();
        value.push_str(&token);
        let length: usize = Commands::append(&mut to, &key, &token).expect("APPEND");
        assert_eq!(length, value.len(), "{key}");
        let _ = told.send(());
    }
    for (key, value) in held {
        let got: String = Commands::get(&mut to, &key).expect("GET");
        assert_eq!(got, value, "{key}");
    }
}

async fn values(client: &ClusterClient, writer: u64, stop: &AtomicBool, told: &mpsc::Sender<()>) {
    let mut to = client.get_async_connection().await.expect("a connection");
    let mut held: BTreeMap<String, u64> = BTreeMap::new();
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("kept:{writer}:{}", number % KEYS);
        AsyncCommands::set::<_, _, ()>(&mut to, &key, number).await.expect("SET");
        let got: u64 = AsyncCommands::get(&mut to, &key).await.expect("GET");
        assert_eq!(got, number, "{key}");
        held.insert(key, number);
        let _ = told.send(());
    }
    for (key, number) in held {
        let got: u64 = AsyncCommands::get(&mut to, &key).await.expect("GET");
        assert_eq!(got, number, "{key}");
    }
}

impl Load for Threads {
    fn wait_for_acks(&mut self, count: u64) {
        while self.acks.try_recv().is_ok() {}
        for seen in 0..count {
            let next = self.acks.recv_timeout(PATIENCE);
            assert!(next.is_ok(), "only {seen} of {count} writes were acknowledged");
        }
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.writers.drain(..).for_each(|writer| writer.join().expect("a writer"));
    }
}

/// Who leads the group of a slot, by the rows of CLUSTER SLOTS at a node's port of either kind.
fn leader_port(client: &mut Client, slot: i64) -> i64 {
    let slots = call(client, &["CLUSTER", "SLOTS"]);
    let row = slots.items().iter().find(|row| match row.items() {
        [Value::Integer(first), Value::Integer(last), ..] => (*first..=*last).contains(&slot),
        other => panic!("{other:?}"),
    });
    match row.expect("an owner").items()[2].items()[1] {
        Value::Integer(port) => port,
        ref other => panic!("{other:?}"),
    }
}

fn leader(cluster: &ThreeNodes, through: u16, slot: i64) -> u16 {
    let port = leader_port(&mut client(cluster.node_port(through)), slot);
    let leads = |id: &u16| i64::from(cluster.node_port(*id)) == port;
    NODES.into_iter().find(leads).expect("a node")
}

/// Makes node `to` lead a group, as the node itself says.
fn transfer(cluster: &ThreeNodes, group: &str, slot: i64, to: u16) {
    let end = Instant::now() + PATIENCE;
    let mut admin = client(cluster.node_port(to));
    while leader(cluster, to, slot) != to {
        // Refused while an election runs: it is asked for again.
        let _ = call(&mut admin, &["RAFT.TRANSFER_LEADER", group, &to.to_string()]);
        assert!(Instant::now() < end, "node {to} does not come to lead group {group}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Slots go from group 1 to group 2 and back, and leaders change, while the client writes.
fn moves(cluster: &ThreeNodes, load: &mut dyn Load) {
    transfer(cluster, "1", 0, 1);
    transfer(cluster, "2", 16383, 2);
    load.wait_for_acks(ACKS);
    let mut admin = client(cluster.node_port(3));
    for (first, last, group) in [("0", "400", "2"), ("8192", "8600", "1"), ("0", "200", "1")] {
        let words = ["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", first, last, "GROUP", group];
        assert_eq!(call(&mut admin, &words), Value::Simple("OK".into()));
        load.wait_for_acks(ACKS);
        let end = Instant::now() + PATIENCE;
        loop {
            let status = call(&mut admin, &["CLUSTER", "REBALANCE", "STATUS"]);
            if status.field("state").text() == "balanced" {
                break;
            }
            assert!(Instant::now() < end, "the moves do not end: {status:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }
    for to in [3, 1] {
        transfer(cluster, "1", 1000, to);
        load.wait_for_acks(ACKS);
    }
    load.end();
    let moved = moved_replies(cluster);
    assert!(moved > 0, "nobody was ever sent to another node");
    println!("{moved} commands were sent on");
}

fn moved_replies(cluster: &ThreeNodes) -> u64 {
    let count = |id: u16| {
        let info = call(&mut client(cluster.node_port(id)), &["INFO", "stats"]).text();
        let line = info.lines().find_map(|line| line.strip_prefix("total_moved_replies:"));
        line.and_then(|count| count.parse::<u64>().ok()).expect("a number")
    };
    NODES.into_iter().map(count).sum()
}

/// The leader of each group is killed in turn, and comes back.
fn kills(cluster: &mut ThreeNodes, load: &mut dyn Load) {
    load.wait_for_acks(ACKS);
    for slot in [0, 16383] {
        let killed = leader(cluster, 1, slot);
        cluster.node(killed).kill();
        load.wait_for_acks(ACKS);
        cluster.node(killed).restart();
        let port = cluster.node_port(killed);
        cluster.node(killed).wait_until_it_serves(port);
        load.wait_for_acks(ACKS);
    }
    load.end();
}

fn ports(cluster: &ThreeNodes) -> Vec<u16> {
    NODES.map(|id| cluster.cluster_port(id)).into()
}

#[test]
fn redis_py_through_moves() {
    let cluster = ThreeNodes::start_redirecting(&NODES);
    moves(&cluster, &mut Script::redis_py(Mode::Moves, &ports(&cluster)));
}

#[test]
fn redis_py_through_the_death_of_leaders() {
    let mut cluster = ThreeNodes::start_redirecting(&NODES);
    let mut load = Script::redis_py(Mode::Kills, &ports(&cluster));
    kills(&mut cluster, &mut load);
}

#[test]
fn ioredis_through_moves() {
    let cluster = ThreeNodes::start_redirecting(&NODES);
    moves(&cluster, &mut Script::ioredis(Mode::Moves, &ports(&cluster)));
}

#[test]
fn ioredis_through_the_death_of_leaders() {
    let mut cluster = ThreeNodes::start_redirecting(&NODES);
    let mut load = Script::ioredis(Mode::Kills, &ports(&cluster));
    kills(&mut cluster, &mut load);
}

#[test]
fn redis_rs_through_moves() {
    let cluster = ThreeNodes::start_redirecting(&NODES);
    moves(&cluster, &mut Threads::redis_rs(Mode::Moves, &ports(&cluster)));
}

#[test]
fn redis_rs_through_the_death_of_leaders() {
    let mut cluster = ThreeNodes::start_redirecting(&NODES);
    let mut load = Threads::redis_rs(Mode::Kills, &ports(&cluster));
    kills(&mut cluster, &mut load);
}

#[test]
fn fred_through_moves() {
    let cluster = ThreeNodes::start_redirecting(&NODES);
    moves(&cluster, &mut Threads::fred(Mode::Moves, &ports(&cluster)));
}

#[test]
fn fred_through_the_death_of_leaders() {
    let mut cluster = ThreeNodes::start_redirecting(&NODES);
    let mut load = Threads::fred(Mode::Kills, &ports(&cluster));
    kills(&mut cluster, &mut load);
}

/// The ports that a node tells its clients, by CLUSTER SLOTS.
fn told(client: &mut Client) -> Vec<u16> {
    let slots = call(client, &["CLUSTER", "SLOTS"]);
    let nodes = slots.items().iter().flat_map(|row| row.items()[2..].iter());
    let port = |node: &Value| match node.items()[1] {
        Value::Integer(port) => u16::try_from(port).expect("a port"),
        ref other => panic!("{other:?}"),
    };
    let mut ports: Vec<u16> = nodes.map(port).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn wait_until_told(port: u16, expected: &[u16]) {
    let end = Instant::now() + PATIENCE;
    loop {
        let told = told(&mut client(port));
        if told == expected {
            return;
        }
        assert!(Instant::now() < end, "told are {told:?}, not {expected:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_port_that_is_not_open_is_not_told_and_its_node_is_served_for() {
    let mut cluster = ThreeNodes::start_redirecting(&[1, 2]);
    let [one, two] = [1, 2].map(|id| cluster.cluster_port(id));
    transfer(&cluster, "1", 0, 1);
    transfer(&cluster, "2", 16383, 3);
    wait_until_told(one, &[one, two]);
    // `a` has slot 15495: its leader has no such port, so every node serves it.
    for port in [one, two] {
        let mut client = client(port);
        assert_eq!(call(&mut client, &["SET", "a", "1"]), Value::Simple("OK".into()));
    }
    transfer(&cluster, "2", 16383, 1);
    let moved = Value::Error(format!("MOVED 15495 127.0.0.1:{one}"));
    let end = Instant::now() + PATIENCE;
    while call(&mut client(two), &["GET", "a"]) != moved {
        assert!(Instant::now() < end, "node 2 sends nobody to the new leader");
        thread::sleep(Duration::from_millis(20));
    }
    // A node that comes back without one is not where it was.
    cluster.node(2).kill();
    wait_until_told(one, &[one]);
    cluster.node(2).drop_argument("--cluster-port");
    cluster.node(2).restart();
    let port = cluster.node_port(2);
    cluster.node(2).wait_until_it_serves(port);
    transfer(&cluster, "2", 16383, 2);
    wait_until_told(one, &[one]);
    assert_eq!(call(&mut client(one), &["GET", "a"]), Value::Bulk(b"1".to_vec()));
}

/// What `redis-cli` prints.
fn redis_cli(words: &[&str]) -> String {
    let output = Command::new("redis-cli").args(words).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run redis-cli: {error}"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn redis_cli_goes_from_node_to_node() {
    let cluster = DevCluster::start_redirecting();
    let port = |id: u16| cluster.cluster_port(id).to_string();
    for id in NODES {
        for (key, value) in [("a", "1"), ("b", "2"), ("c", "3")] {
            assert_eq!(redis_cli(&["-c", "-p", &port(id), "SET", key, value]), "OK\n");
            assert_eq!(redis_cli(&["-c", "-p", &port(id), "GET", key]), format!("{value}\n"));
        }
    }
    let address = format!("127.0.0.1:{}", port(1));
    let end = Instant::now() + PATIENCE;
    loop {
        let check = redis_cli(&["--cluster", "check", &address]);
        if check.contains("All nodes agree") && check.contains("All 16384 slots covered") {
            // It went to the ports it was told of, and to no other.
            let nodes =
                check.lines().filter(|line| line.contains("127.0.0.1:")).collect::<Vec<_>>();
            let is_told = |line: &&str| NODES.iter().any(|id| line.contains(&port(*id)));
            assert!(nodes.iter().all(is_told), "{check}");
            break;
        }
        assert!(Instant::now() < end, "{check}");
        thread::sleep(Duration::from_millis(50));
    }
    let keys = call(&mut cluster.client(), &["DBSIZE"]);
    let Value::Integer(keys) = keys else { panic!("{keys:?}") };
    let info = redis_cli(&["--cluster", "info", &address]);
    assert!(info.contains(&format!("[OK] {keys} keys in")), "each key counts once: {info}");
    let sizes = redis_cli(&["--cluster", "call", &address, "DBSIZE"]);
    let sum: i64 =
        sizes.lines().filter_map(|line| line.rsplit_once(": ")?.1.parse::<i64>().ok()).sum();
    assert_eq!(sum, keys, "{sizes}");
}

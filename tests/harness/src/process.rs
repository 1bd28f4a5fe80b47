//! Real processes of the program: an embedded cluster, nodes and routers of their own.
//!
//! Ports come from ranges that this process holds alone by a lock on a file, so that tests run side
//! by side. Each process writes its log to a file beside its data; a test that fails prints the ends
//! of them. What a test started dies with it.

use crate::lossy::LossyWays;
use crate::raft_info::wait_until_caught_up;
use crate::resp::{Client, Value};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a process may take until it serves, and until it ends after SIGTERM.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a condition is looked at that no event announces, such as another process's end.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// First port of all ranges. Below the kernel's ephemeral ports, so that no connection takes one.
const PORT_BASE: u16 = 12_000;
/// Ranges that can be held at once on one machine.
const PORT_RANGES: u16 = 1_000;
/// Ports of one range: `dev` needs one and one a node, three processes need two each and a router's, four behind lossy
/// ways three each.
const PORT_RANGE_LENGTH: u16 = 14;
/// Below the cluster ports of nodes 1 to 3, in a range.
const CLUSTER_PORTS: u16 = 6;
/// Bytes of a log that a failing test prints.
const LOG_TAIL_BYTES: usize = 6_000;

/// The program under test: `FLOTILLA_BIN`, or the release build of this checkout.
pub fn program() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/release/flotilla");
    let path = std::env::var_os("FLOTILLA_BIN").map_or(built, PathBuf::from);
    assert!(path.is_file(), "{} does not exist: run `make test`, which builds it", path.display());
    path
}

/// A run of free ports, held until this is dropped.
#[derive(Debug)]
pub struct Ports {
    first: u16,
    _lock: File,
}

impl Ports {
    /// Takes a range that no other test holds and in which every port is free.
    pub fn take() -> Ports {
        let folder = std::env::temp_dir().join("flotilla-test-ports");
        fs::create_dir_all(&folder).expect("a folder for port locks");
        let start = std::process::id() as u16 % PORT_RANGES;
        for i in 0..PORT_RANGES {
            let first = PORT_BASE + (start + i) % PORT_RANGES * PORT_RANGE_LENGTH;
            let path = folder.join(first.to_string());
            let lock =
                OpenOptions::new().create(true).append(true).open(path).expect("a lock file");
            if lock.try_lock().is_ok() && (0..PORT_RANGE_LENGTH).all(|i| is_free(first + i)) {
                return Ports { first, _lock: lock };
            }
        }
        panic!("no {PORT_RANGE_LENGTH} free ports in a row");
    }

    /// The port `offset` above the first.
    pub fn port(&self, offset: u16) -> u16 {
        assert!(offset < PORT_RANGE_LENGTH);
        self.first + offset
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// What a program that ended said.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard error.
    pub stderr: String,
}

/// Runs the program to its end, which must come within `START_TIMEOUT`: for starts that must fail.
pub fn run_to_end(arguments: &[String]) -> Ended {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut process = Process::start("failing start", arguments, folder.path());
    let status = process.wait(START_TIMEOUT);
    Ended { code: status.code(), stderr: process.log() }
}

/// What `flotilla admin`, told of the port of a node or router, says and how it ends.
pub fn admin(port: u16, words: &[&str]) -> Output {
    let at = format!("127.0.0.1:{port}");
    let ended = Command::new(program()).args(["admin", "--at", &at]).args(words).output();
    ended.expect("the program runs")
}

/// What is started: the program, or a test's executable that takes the program's part.
#[derive(Clone, Debug)]
pub enum Launch {
    /// The program under test.
    Program,
    /// This executable again, to run the one test of this name, which finds the program's arguments in
    /// [`ARGUMENTS_VARIABLE`], one a line, and ends the process.
    Test(&'static str),
}

/// See [`Launch::Test`].
pub const ARGUMENTS_VARIABLE: &str = "FLOTILLA_TEST_ARGUMENTS";

/// One process of the program.
pub struct Process {
    name: String,
    launch: Launch,
    arguments: Vec<String>,
    /// Variables besides those of this process.
    environment: BTreeMap<String, String>,
    log: PathBuf,
    /// How long the log was at its last start.
    log_before: usize,
    child: Child,
}

impl Process {
    /// Starts `flotilla` with these arguments; its log (standard error) goes to a file in `folder`, its
    /// standard output to one beside it that ends in `.out`.
    pub fn start(name: &str, arguments: &[String], folder: &Path) -> Process {
        Process::start_as(Launch::Program, name, arguments, folder)
    }

    /// The same, of something else.
    pub fn start_as(launch: Launch, name: &str, arguments: &[String], folder: &Path) -> Process {
        let log = folder.join(format!("{}.log", name.replace(' ', "-")));
        let environment = BTreeMap::new();
        let child = spawn(&launch, arguments, &environment, &log);
        let (name, arguments) = (name.to_owned(), arguments.to_vec());
        Process { name, launch, arguments, environment, log, log_before: 0, child }
    }

    /// Sets a variable for its further starts.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.environment.insert(name.to_owned(), value.to_owned());
    }

    /// Takes an argument and its value out of those of its further starts.
    pub fn drop_argument(&mut self, flag: &str) {
        let at = self.arguments.iter().position(|word| word == flag).expect("such an argument");
        self.arguments.drain(at..at + 2);
    }

    /// Starts it again, with the arguments of the first start.
    pub fn restart(&mut self) {
        assert!(self.has_ended(), "{} still runs", self.name);
        self.log_before = fs::metadata(&self.log).map_or(0, |log| log.len() as usize);
        self.child = spawn(&self.launch, &self.arguments, &self.environment, &self.log);
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill(&mut self) {
        self.child.kill().expect("SIGKILL");
        self.child.wait().expect("its end");
    }

    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.id().to_string()).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -{name} {}", self.name);
    }

    /// Waits for its end; panics after `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> ExitStatus {
        let end = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait().expect("its state") {
                return status;
            }
            assert!(Instant::now() < end, "{} has not ended after {timeout:?}", self.name);
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Whether it is gone.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("its state").is_some()
    }

    /// All that it logged so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// What it logged since its last start.
    pub fn log_since_start(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log[self.log_before.min(log.len())..]).into_owned()
    }

    /// Waits until `port` answers and every group takes writes through it; panics if it does not.
    pub fn wait_until_it_serves(&mut self, port: u16) {
        let end = Instant::now() + START_TIMEOUT;
        loop {
            let last = match try_all_groups(port) {
                Ok(()) => return,
                Err(reason) => reason,
            };
            assert!(
                !self.has_ended(),
                "{} ended while it started:\n{}",
                self.name,
                self.log_tail()
            );
            assert!(Instant::now() < end, "{} does not serve port {port}: {last}", self.name);
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// All that it wrote to standard output so far.
    pub fn output(&self) -> String {
        fs::read_to_string(self.log.with_extension("out")).unwrap_or_default()
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let from = (log.len().saturating_sub(LOG_TAIL_BYTES)..log.len())
            .find(|at| log.is_char_boundary(*at))
            .unwrap_or(0);
        format!("---- {}: {}\n{}", self.name, self.log.display(), &log[from..])
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself, which is what we want here.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
    }
}

fn spawn(
    launch: &Launch,
    arguments: &[String],
    environment: &BTreeMap<String, String>,
    log: &Path,
) -> Child {
    let open = |path: &Path| {
        OpenOptions::new().create(true).append(true).open(path).expect("a file for output")
    };
    let mut command = match launch {
        Launch::Program => {
            let mut command = Command::new(program());
            command.args(arguments);
            command
        }
        Launch::Test(test) => {
            let mut command = Command::new(std::env::current_exe().expect("this executable"));
            command.args(["--exact", test, "--nocapture"]);
            command.env(ARGUMENTS_VARIABLE, arguments.join("\n"));
            command
        }
    };
    command
        .envs(environment)
        .stdin(Stdio::null())
        .stdout(open(&log.with_extension("out")))
        .stderr(open(log))
        .spawn()
        .expect("the program starts")
}

/// Writes eight keys, two in each quarter of the slots: with up to four groups every group has one.
fn try_all_groups(port: u16) -> Result<(), String> {
    let mut client = Client::connect(port).map_err(|error| error.to_string())?;
    for key in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        let key = format!("ready:{key}");
        match client.call(&["SET", &key, "1"]).map_err(|error| error.to_string())? {
            Value::Simple(ok) if ok == "OK" => {}
            other => return Err(format!("SET {key}: {other:?}")),
        }
    }
    client.call(&["DEL", "ready:a"]).map_err(|error| error.to_string())?;
    Ok(())
}

/// The arguments of a command line, for `Process::start`.
pub fn arguments(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// `flotilla dev`: a whole cluster in one process.
pub struct DevCluster {
    /// The process.
    pub process: Process,
    ports: Ports,
    _folder: tempfile::TempDir,
}

impl DevCluster {
    /// Starts three nodes with two groups and waits until they serve. `more` are further arguments.
    pub fn start(more: &[&str]) -> DevCluster {
        DevCluster::start_on(Ports::take(), |_| arguments(more))
    }

    /// Where clients connect.
    pub fn port(&self) -> u16 {
        self.ports.port(0)
    }

    /// The port of embedded node `i`, from 1.
    pub fn node_port(&self, i: u16) -> u16 {
        self.ports.port(i)
    }

    /// The same, with a cluster port for each node.
    pub fn start_redirecting() -> DevCluster {
        DevCluster::start_on(Ports::take(), |ports| {
            arguments(&["--cluster-ports", &ports.port(CLUSTER_PORTS).to_string()])
        })
    }

    /// On a folder with `data` in it.
    pub fn start_in(folder: tempfile::TempDir) -> DevCluster {
        DevCluster::start_at(folder, Ports::take(), |_| Vec::new())
    }

    fn start_on(ports: Ports, more: impl FnOnce(&Ports) -> Vec<String>) -> DevCluster {
        DevCluster::start_at(tempfile::tempdir().expect("a temporary folder"), ports, more)
    }

    fn start_at(
        folder: tempfile::TempDir,
        ports: Ports,
        more: impl FnOnce(&Ports) -> Vec<String>,
    ) -> DevCluster {
        let mut words = arguments(&["dev", "--port", &ports.port(0).to_string(), "--dir"]);
        words.push(folder.path().join("data").display().to_string());
        words.extend(more(&ports));
        let mut process = Process::start("dev", &words, folder.path());
        process.wait_until_it_serves(ports.port(0));
        DevCluster { process, ports, _folder: folder }
    }

    /// The cluster port of embedded node `i`, from 1, if they were asked for.
    pub fn cluster_port(&self, i: u16) -> u16 {
        self.ports.port(CLUSTER_PORTS + i)
    }

    /// A connection to the cluster.
    pub fn client(&self) -> Client {
        Client::connect(self.port()).expect("a connection")
    }

    /// The folder with the cluster's data.
    pub fn data(&self) -> PathBuf {
        self._folder.path().join("data")
    }

    /// Starts it again after it ended, and waits until it serves.
    pub fn restart(&mut self) {
        self.process.restart();
        self.process.wait_until_it_serves(self.ports.port(0));
    }
}

/// Three `flotilla node` processes and a `flotilla router`, from one cluster file.
pub struct ThreeNodes {
    /// Nodes 1 to 3.
    pub nodes: Vec<Process>,
    /// The router.
    pub router: Process,
    ports: Ports,
    _folder: tempfile::TempDir,
}

impl ThreeNodes {
    /// Nodes of the cluster.
    pub const COUNT: u16 = 3;

    /// Starts them with two groups on all three and waits until the router serves.
    pub fn start() -> ThreeNodes {
        ThreeNodes::start_as(&Launch::Program)
    }

    /// The same, of something else.
    pub fn start_as(launch: &Launch) -> ThreeNodes {
        ThreeNodes::start_with(launch, &[])
    }

    /// The same, with further arguments for each node.
    pub fn start_with(launch: &Launch, more: &[&str]) -> ThreeNodes {
        ThreeNodes::start_groups(launch, more, 2)
    }

    /// The same, with so many groups.
    pub fn start_groups(launch: &Launch, more: &[&str], groups: u32) -> ThreeNodes {
        ThreeNodes::start_each(launch, groups, |_, _| arguments(more))
    }

    /// The same, two groups, with a cluster port for each of these nodes.
    pub fn start_redirecting(nodes: &[u16]) -> ThreeNodes {
        ThreeNodes::start_each(&Launch::Program, 2, |ports, id| match nodes.contains(&id) {
            true => arguments(&["--cluster-port", &ports.port(CLUSTER_PORTS + id).to_string()]),
            false => Vec::new(),
        })
    }

    fn start_each(
        launch: &Launch,
        groups: u32,
        more: impl Fn(&Ports, u16) -> Vec<String>,
    ) -> ThreeNodes {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ports = Ports::take();
        let file = write_cluster_file_of(folder.path(), &ports, groups);
        let nodes = (1..=Self::COUNT)
            .map(|id| {
                let dir = folder.path().join(format!("node-{id}")).display().to_string();
                let id_text = id.to_string();
                let words = ["node", "--id", &id_text, "--dir", &dir, "--cluster-file", &file];
                let words = [arguments(&words), more(&ports, id)].concat();
                let name = format!("node {id}");
                Process::start_as(launch.clone(), &name, &words, folder.path())
            })
            .collect();
        let listen = format!("127.0.0.1:{}", ports.port(0));
        let words = ["router", "--listen", &listen, "--cluster-file", &file];
        let router = Process::start_as(launch.clone(), "router", &arguments(&words), folder.path());
        let mut cluster = ThreeNodes { nodes, router, ports, _folder: folder };
        let port = cluster.router_port();
        cluster.router.wait_until_it_serves(port);
        cluster
    }

    /// Where the router listens.
    pub fn router_port(&self) -> u16 {
        self.ports.port(0)
    }

    /// Where node `id` (from 1) listens for clients.
    pub fn node_port(&self, id: u16) -> u16 {
        self.ports.port(id)
    }

    /// The cluster port of node `id`, from 1, if it was asked for.
    pub fn cluster_port(&self, id: u16) -> u16 {
        self.ports.port(CLUSTER_PORTS + id)
    }

    /// A port that none of them uses, `offset` from 7 to 11; without cluster ports, that is.
    pub fn spare_port(&self, offset: u16) -> u16 {
        assert!(offset > 2 * Self::COUNT);
        self.ports.port(offset)
    }

    /// A node beside the three, with the number 8 or 9, that none of them knows; `more` says of which cluster.
    pub fn spare(&self, id: u16, more: &[&str]) -> Process {
        let peer = format!("127.0.0.1:{}", self.spare_port(8 + 2 * (id - 8)));
        let resp = format!("127.0.0.1:{}", self.spare_resp(id));
        let dir = self.data(id).display().to_string();
        let id = id.to_string();
        let words = ["node", "--id", &id, "--dir", &dir, "--resp", &resp, "--peer", &peer];
        let words = arguments(&[&words[..], more].concat());
        Process::start(&format!("node {id}"), &words, self.folder())
    }

    /// Where that one listens for clients.
    pub fn spare_resp(&self, id: u16) -> u16 {
        self.spare_port(7 + 2 * (id - 8))
    }

    /// One more router of the same cluster, and where it listens.
    pub fn second_router(&self) -> (Process, u16) {
        let (port, file) = (self.spare_port(11), self.folder().join("cluster.toml"));
        let (listen, file) = (format!("127.0.0.1:{port}"), file.display().to_string());
        let words = ["router", "--listen", &listen, "--cluster-file", &file];
        let mut router = Process::start("router 2", &arguments(&words), self.folder());
        router.wait_until_it_serves(port);
        (router, port)
    }

    /// The node (from 1) that leads the group of `key`, as CLUSTER SHARDS tells it.
    ///
    /// # Panics
    /// If nobody does for half a minute.
    pub fn leader_of(&self, key: &str) -> u16 {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(leader) = self.known_leader_of(key) {
                return leader;
            }
            assert!(Instant::now() < end, "nobody leads the group of {key}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The same now. While an election runs a master stands for the leader, and is not online.
    pub fn known_leader_of(&self, key: &str) -> Option<u16> {
        let mut client = Client::connect(self.router_port()).expect("a connection");
        let Ok(Value::Integer(slot)) = client.call(&["CLUSTER", "KEYSLOT", key]) else {
            panic!("CLUSTER KEYSLOT {key}")
        };
        let shards = client.call(&["CLUSTER", "SHARDS"]).expect("a reply");
        for shard in shards.items() {
            let serves = shard.field("slots").items().chunks(2).any(|range| match range {
                [Value::Integer(first), Value::Integer(last)] => (*first..=*last).contains(&slot),
                _ => false,
            });
            let nodes = shard.field("nodes").items();
            let master = nodes.iter().find(|node| node.field("role").text() == "master");
            if let (true, Some(master)) = (serves, master) {
                let port = master.field("port");
                let leader = (1..=ThreeNodes::COUNT)
                    .find(|id| *port == Value::Integer(self.node_port(*id).into()))
                    .unwrap_or_else(|| panic!("{port:?} is no node's port"));
                return (master.field("health").text() == "online").then_some(leader);
            }
        }
        panic!("no master serves slot {slot} in {shards:?}")
    }

    /// Waits until a node that was away serves, and has all that the others had committed by then.
    pub fn wait_until_whole(&mut self, id: u16) {
        let port = self.node_port(id);
        self.node(id).wait_until_it_serves(port);
        for other in (1..=Self::COUNT).filter(|other| *other != id) {
            wait_until_caught_up(port, self.node_port(other));
        }
    }

    /// Where the cluster file and its secret are.
    pub fn folder(&self) -> &Path {
        self._folder.path()
    }

    /// The directory of node `id`, from 1.
    pub fn data(&self, id: u16) -> PathBuf {
        self._folder.path().join(format!("node-{id}"))
    }

    /// The process of node `id`, from 1.
    pub fn node(&mut self, id: u16) -> &mut Process {
        &mut self.nodes[usize::from(id) - 1]
    }
}

/// Nodes and a router, with groups on some of the nodes.
pub struct SeatedNodes {
    /// Nodes 1 and up.
    pub nodes: Vec<Process>,
    /// The router.
    pub router: Process,
    ports: Ports,
    _folder: tempfile::TempDir,
}

impl SeatedNodes {
    /// Starts so many nodes, 5 at most, and waits until the router serves. `master` has the configuration, `groups` groups
    /// 1, 2, and so on.
    pub fn start(count: u16, master: &[u16], groups: &[&[u16]]) -> SeatedNodes {
        SeatedNodes::start_over(None, count, master, groups)
    }

    /// The same, where whoever reaches a node as a peer or a router does so over one of these ways.
    pub fn start_over(
        ways: Option<&LossyWays>,
        count: u16,
        master: &[u16],
        groups: &[&[u16]],
    ) -> SeatedNodes {
        let folder = tempfile::tempdir().expect("a folder");
        let ports = Ports::take();
        let secret = folder.path().join("secret");
        fs::write(&secret, "only for this test: 0123456789").expect("a file");
        set_mode(&secret, 0o600).expect("its mode");
        let mut text = format!(
            "cluster_id = \"seated\"\nsecret_file = \"secret\"\n[shardmaster]\nvoters = {master:?}\n"
        );
        for (group, voters) in (1..).zip(groups) {
            text += &format!("[[groups]]\nid = {group}\nvoters = {voters:?}\n");
        }
        for id in 1..=count {
            let (resp, peer) = (ports.port(id), ports.port(count + id));
            if let Some(ways) = ways {
                ways.open(peer, ports.port(2 * count + id));
            }
            text += &format!(
                "[[nodes]]\nid = {id}\npeer = \"127.0.0.1:{peer}\"\nresp = \"127.0.0.1:{resp}\"\n"
            );
        }
        let file = folder.path().join("cluster.toml");
        fs::write(&file, text).expect("a file");
        let file = file.display().to_string();
        let nodes = (1..=count).map(|id| {
            let dir = folder.path().join(format!("node-{id}")).display().to_string();
            let behind = ways.map_or(count, |_| 2 * count);
            let peer = format!("127.0.0.1:{}", ports.port(behind + id));
            let id = id.to_string();
            let words =
                ["node", "--id", &id, "--dir", &dir, "--cluster-file", &file, "--peer", &peer];
            Process::start(&format!("node {id}"), &arguments(&words), folder.path())
        });
        let nodes = nodes.collect();
        let listen = format!("127.0.0.1:{}", ports.port(0));
        let words = ["router", "--listen", &listen, "--cluster-file", &file];
        let mut router = Process::start("router", &arguments(&words), folder.path());
        router.wait_until_it_serves(ports.port(0));
        SeatedNodes { nodes, router, ports, _folder: folder }
    }

    /// Where node `id` listens for clients; 0: the router.
    pub fn port(&self, id: u16) -> u16 {
        self.ports.port(id)
    }

    /// A connection to node `id`; 0: to the router.
    pub fn client(&self, id: u16) -> Client {
        Client::connect(self.port(id)).expect("a connection")
    }

    /// Waits until node `id` or, 0, the router serves.
    pub fn wait_until_it_serves(&mut self, id: u16) {
        let port = self.port(id);
        let process = id.checked_sub(1).map(usize::from);
        let process = process.map_or(&mut self.router, |at| &mut self.nodes[at]);
        process.wait_until_it_serves(port);
    }
}

/// Writes `cluster.toml` and its secret; answers the path.
pub fn write_cluster_file(folder: &Path, ports: &Ports) -> String {
    write_cluster_file_of(folder, ports, 2)
}

fn write_cluster_file_of(folder: &Path, ports: &Ports, groups: u32) -> String {
    let secret = folder.join("cluster.secret");
    fs::write(&secret, "only for this test: 0123456789\n").expect("a secret");
    set_mode(&secret, 0o600).expect("its mode");
    let mut text = String::from("cluster_id = \"test\"\nsecret_file = \"cluster.secret\"\n");
    text.push_str("[shardmaster]\nvoters = [1, 2, 3]\n");
    for id in 1..=ThreeNodes::COUNT {
        let (peer, resp) = (ports.port(ThreeNodes::COUNT + id), ports.port(id));
        text.push_str(&format!(
            "[[nodes]]\nid = {id}\npeer = \"127.0.0.1:{peer}\"\nresp = \"127.0.0.1:{resp}\"\n"
        ));
    }
    for group in 1..=groups {
        text.push_str(&format!("[[groups]]\nid = {group}\nvoters = [1, 2, 3]\n"));
    }
    let file = folder.join("cluster.toml");
    fs::write(&file, text).expect("a cluster file");
    file.display().to_string()
}

/// Sets a file's permission bits.
pub fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

//! The same odd commands to a real redis-server 7.0 and to us: the same bytes must come back.

use harness::process::{DevCluster, Ports};
use harness::resp::{Client, Value, command};
use router::commands::{COMMANDS, CommandSpec};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The Redis that is compared with; others differ in ways of their own.
const VERSION: &str = "7.0.";
/// How long a server may take to start, and to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a lifetime that was set a moment ago may have lost, in seconds.
const TTL_SLACK: i64 = 3;

/// Where we differ on purpose, and why. A line that does not differ any more fails.
const DIFFERENCES: &[(&str, &str)] = &[
    ("WAIT 0 0", "a majority has every acknowledged write: the true number, without waiting"),
    ("WAIT -1 0", "as above"),
    ("CLIENT SETINFO a", "a command of Redis 7.2, which clients of today send"),
    ("CONFIG GET slowlog-log-slower-than", "no slow log is kept, so it is off"),
    ("INFO nosuch cluster", "fields of our own"),
    ("CONFIG GET port* databases*", "other values"),
    ("CONFIG GET appendonl*", "every write is logged"),
    ("CONFIG GET maxmem*y", "there are fewer settings here"),
    ("'get\\x00' a", "Redis prints names and arguments up to a zero byte"),
];

/// Commands whose hints for clients differ: Redis tells clients to send them to every node and to add
/// up the answers; here one node answers for all.
const OWN_TIPS: &[&str] = &["ping", "info", "config|set", "dbsize", "flushall", "flushdb", "wait"];
/// Commands that Redis 7.0 does not have: of 7.2, which clients of today send, and ours.
const NOT_IN_7_0: &[&str] = &[
    "client|setinfo",
    "client|no-touch",
    "client|request-timeout",
    "client|idmp",
    "idmp",
    "cluster|myshardid",
    "cluster|migrateslots",
    "cluster|rebalance",
    "cluster|getslotmigrations",
    "cluster|cancelslotmigrations",
    "cluster|migration",
    "cluster|group",
    "cluster|config",
    "cluster|evacuate",
    "cluster|admit",
    "cluster|replace",
    "cluster|addvoter",
    "cluster|delvoter",
    "cluster|slot-stats",
    "cluster|groups",
    "cluster|doctor",
    "cluster|introduce",
    "raft.transfer_leader",
];

/// A redis-server in a folder of its own; it dies with the test.
struct Redis {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Redis {
    /// Starts it and waits until it answers.
    fn start(ports: &Ports, offset: u16, cluster: bool) -> Redis {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = ports.port(offset);
        let bus = ports.port(offset + 1).to_string();
        let mut program = Command::new("redis-server");
        program.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        if cluster {
            program.args(["--cluster-enabled", "yes", "--cluster-port", &bus]);
        }
        program.arg("--dir").arg(folder.path()).stdin(Stdio::null()).stdout(Stdio::null());
        let child = program.spawn().expect("redis-server starts");
        let redis = Redis { child, port, _folder: folder };
        let end = Instant::now() + PATIENCE;
        while Client::connect(port).is_err() {
            assert!(Instant::now() < end, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        if cluster {
            let mut client = redis.client();
            let all = ["CLUSTER", "ADDSLOTSRANGE", "0", "16383"];
            assert_eq!(client.call(&all).expect("a reply"), Value::Simple("OK".into()));
            while !client.call(&["CLUSTER", "INFO"]).expect("a reply").text().contains("state:ok") {
                assert!(Instant::now() < end, "redis-server does not take the slots");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        redis
    }

    fn client(&self) -> Client {
        Client::connect(self.port).expect("a connection")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have ended by itself, which no later step would hide.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether the redis-server that is compared with is installed, as it is in CI; says so if not.
fn is_comparable() -> bool {
    let found = match Command::new("redis-server").arg("--version").output() {
        Ok(out) => String::from_utf8_lossy(&out.stdout).into_owned(),
        Err(error) => error.to_string(),
    };
    let fits = found.contains(&format!("v={VERSION}"));
    if !fits {
        let needed = std::env::var("FLOTILLA_COMPARE").is_ok_and(|value| value == "required");
        assert!(!needed, "a redis-server {VERSION}x is required, found: {found}");
        eprintln!("not compared: needs a redis-server {VERSION}x, found: {found}");
    }
    fits
}

/// A Redis in cluster mode, and ours.
fn both() -> (Ports, Redis, DevCluster) {
    let ports = Ports::take();
    let redis = Redis::start(&ports, 0, true);
    (ports, redis, DevCluster::start(&[]))
}

/// A connection that keeps replies as bytes.
struct Raw(BufReader<TcpStream>);

impl Raw {
    fn connect(port: u16) -> Raw {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        Raw(BufReader::new(stream))
    }

    fn call(&mut self, words: &[Vec<u8>]) -> Vec<u8> {
        self.0.get_mut().write_all(&command(words)).expect("it takes the command");
        let mut reply = Vec::new();
        self.receive(&mut reply);
        reply
    }

    /// One reply with all that is in it.
    fn receive(&mut self, reply: &mut Vec<u8>) {
        let from = reply.len();
        self.0.read_until(b'\n', reply).expect("a reply");
        let line = String::from_utf8_lossy(&reply[from..]).trim_end().to_owned();
        let count: usize = line.get(1..).and_then(|count| count.parse().ok()).unwrap_or(0);
        match (line.as_bytes().first(), line.as_str()) {
            (_, "$-1" | "*-1") => {}
            (Some(b'$' | b'='), _) => {
                let from = reply.len();
                reply.resize(from + count + 2, 0);
                self.0.read_exact(&mut reply[from..]).expect("the whole string");
            }
            (Some(b'*' | b'~' | b'>'), _) => (0..count).for_each(|_| self.receive(reply)),
            (Some(b'%'), _) => (0..2 * count).for_each(|_| self.receive(reply)),
            (Some(b'+' | b'-' | b':' | b'_' | b'#' | b','), _) => {}
            _ => panic!("not a reply: {line:?}"),
        }
    }
}

/// The words of a line: blanks separate, single quotes hold together, and within them `\r`, `\n`,
/// `\\` and `\xNN` are bytes.
fn words(line: &str) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() {
        let Some(quoted) = rest.strip_prefix('\'') else {
            let (word, more) = rest.split_once(' ').unwrap_or((rest, ""));
            words.push(word.as_bytes().to_vec());
            rest = more.trim_start();
            continue;
        };
        let (word, more) = quoted.split_once('\'').expect("a closing quote");
        words.push(unescaped(word));
        rest = more.trim_start();
    }
    words
}

fn unescaped(word: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut letters = word.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            bytes.extend_from_slice(letter.to_string().as_bytes());
            continue;
        }
        match letters.next() {
            Some('r') => bytes.push(b'\r'),
            Some('n') => bytes.push(b'\n'),
            Some('x') => {
                let hex: String = letters.by_ref().take(2).collect();
                bytes.push(u8::from_str_radix(&hex, 16).expect("two hex digits"));
            }
            other => bytes.extend_from_slice(other.expect("an escape").to_string().as_bytes()),
        }
    }
    bytes
}

/// Equal, or two lifetimes of which one was looked at a little later.
fn are_equal(line: &str, ours: &[u8], theirs: &[u8]) -> bool {
    let seconds = |reply: &[u8]| -> Option<i64> {
        std::str::from_utf8(reply).ok()?.strip_prefix(':')?.trim_end().parse().ok()
    };
    match (seconds(ours), seconds(theirs)) {
        (Some(ours), Some(theirs)) if line.starts_with("TTL ") && theirs > 0 => {
            ours > 0 && (ours - theirs).abs() <= TTL_SLACK
        }
        _ => ours == theirs,
    }
}

/// Sends every line to both and tells which answers differ without being listed.
fn compare(table: &str, theirs: u16, ours: u16, protocol: &str) -> Vec<String> {
    let (mut theirs, mut ours) = (Raw::connect(theirs), Raw::connect(ours));
    let hello = words(&format!("HELLO {protocol}"));
    theirs.call(&hello);
    ours.call(&hello);
    let mut wrong = Vec::new();
    for line in table.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words = words(line);
        let (a, b) = (theirs.call(&words), ours.call(&words));
        let stated = DIFFERENCES.iter().any(|(stated, _)| *stated == line);
        if are_equal(line, &b, &a) == stated {
            let show = |bytes: &[u8]| String::from_utf8_lossy(bytes).escape_debug().to_string();
            let why = if stated { "listed, but equal" } else { "differs" };
            wrong.push(format!("{line} ({why})\n  Redis {}\n  ours  {}", show(&a), show(&b)));
        }
    }
    wrong
}

#[test]
fn odd_commands_are_answered_with_the_bytes_of_redis() {
    if !is_comparable() {
        return;
    }
    let ports = Ports::take();
    let (clustered, plain) = (Redis::start(&ports, 0, true), Redis::start(&ports, 2, false));
    let cluster = DevCluster::start(&[]);
    let mut wrong = Vec::new();
    for protocol in ["2", "3"] {
        let table = include_str!("versus_redis/commands");
        wrong.extend(compare(table, clustered.port, cluster.port(), protocol));
        // What Redis Cluster refuses and we serve is as in a Redis without a cluster.
        let table = include_str!("versus_redis/crossing_slots");
        wrong.extend(compare(table, plain.port, cluster.port(), protocol));
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Every row of the table, subcommands too.
fn rows() -> impl Iterator<Item = &'static CommandSpec> {
    COMMANDS.iter().flat_map(|spec| std::iter::once(spec).chain(spec.subcommands))
}

#[test]
fn commands_are_described_as_redis_describes_them() {
    if !is_comparable() {
        return;
    }
    let (_ports, redis, cluster) = both();
    let (mut theirs, mut ours) = (redis.client(), cluster.client());
    for spec in rows() {
        let name = spec.name;
        let mut ask = |words: &[&str]| {
            let (a, b) = (theirs.call(words), ours.call(words));
            (a.expect("a reply"), b.expect("a reply"))
        };
        let (a, b) = ask(&["COMMAND", "INFO", name]);
        if NOT_IN_7_0.contains(&name) {
            assert_eq!(a.items(), [Value::Nil], "{name} is in Redis 7.0");
            continue;
        }
        // Name, arity, flags, first, last, step, categories, tips, key specifications. Of the tenth, the
        // subcommands, Redis has more; ours have rows of their own.
        for place in 0..9 {
            let (a, b) = (&a.items()[0].items()[place], &b.items()[0].items()[place]);
            let own = place == 7 && OWN_TIPS.contains(&name);
            assert_eq!(a != b, own, "COMMAND INFO {name}, element {place}: {a:?} and {b:?}");
        }
        // Summaries and complexities are in our words, of what is done here; `arguments` and `history`
        // are not served.
        let (a, b) = ask(&["COMMAND", "DOCS", name]);
        for field in ["since", "group"] {
            let [a, b] = [&a, &b].map(|docs| docs.items()[1].field(field));
            assert_eq!(a, b, "COMMAND DOCS {name}, {field}");
        }
        for field in ["summary", "complexity"] {
            assert!(!b.items()[1].field(field).text().is_empty(), "{name}");
        }
    }
}

/// What redis_exporter and Datadog's agent read and what has a true value here, by section. The rest
/// they leave out when it is missing. Not told, since nobody counts it: hits and misses, expired keys,
/// rates of the last second.
const READ_BY_MONITORS: &[(&str, &[&str])] = &[
    (
        "server",
        &[
            "redis_version",
            "redis_mode",
            "os",
            "arch_bits",
            "process_id",
            "run_id",
            "tcp_port",
            "uptime_in_seconds",
            "uptime_in_days",
            "executable",
            "io_threads_active",
        ],
    ),
    ("clients", &["connected_clients", "maxclients", "blocked_clients", "tracking_clients"]),
    (
        "memory",
        &[
            "used_memory",
            "used_memory_rss",
            "used_memory_peak",
            "used_memory_overhead",
            "used_memory_dataset",
            "used_memory_lua",
            "total_system_memory",
            "maxmemory",
            "maxmemory_policy",
            "mem_fragmentation_ratio",
            "mem_clients_normal",
            "number_of_cached_scripts",
            "mem_allocator",
            "active_defrag_running",
            "lazyfree_pending_objects",
        ],
    ),
    (
        "persistence",
        &["loading", "aof_enabled", "aof_rewrite_in_progress", "aof_last_write_status"],
    ),
    (
        "stats",
        &[
            "total_connections_received",
            "total_commands_processed",
            "total_net_input_bytes",
            "total_net_output_bytes",
            "rejected_connections",
            "sync_full",
            "evicted_keys",
            "pubsub_channels",
            "pubsub_patterns",
            "latest_fork_usec",
            "total_error_replies",
            "total_reads_processed",
            "total_writes_processed",
        ],
    ),
    (
        "replication",
        &[
            "role",
            "connected_slaves",
            "master_failover_state",
            "master_replid",
            "master_repl_offset",
            "second_repl_offset",
            "repl_backlog_active",
        ],
    ),
    ("cpu", &["used_cpu_sys", "used_cpu_user", "used_cpu_sys_children", "used_cpu_user_children"]),
    ("cluster", &["cluster_enabled"]),
];
/// Fields that Redis 7.0 does not have: ours begin so, or a replica's or an append-only file's.
const OWN_FIELDS: &[&str] = &[
    "snapshot_",
    "state_",
    "flotilla_version",
    "node_id",
    "used_memory_keys",
    "used_memory_values",
    "used_memory_lanes",
    "used_memory_replies",
    "used_memory_checkpoint",
    "used_memory_log",
    "used_memory_buffers",
    "aof_current_size",
    "disk_",
    "protocol_errors",
    "total_moved_replies",
    "dispatch_",
    "raft_",
    "router_",
    "worker_",
    "cluster_id",
    "cluster_config",
    "map_",
    "master_",
    "slave",
];

#[test]
fn info_has_the_sections_and_fields_of_redis() {
    if !is_comparable() {
        return;
    }
    let (_ports, redis, cluster) = both();
    let (mut theirs, mut ours) = (redis.client(), cluster.client());
    let both = |theirs: &mut Client, ours: &mut Client, words: &[&str]| {
        let command = [&["INFO"], words].concat();
        [theirs, ours].map(|client| client.call(&command).expect("a reply").text())
    };
    let lines = |text: &str, is: fn(&str) -> bool| -> Vec<String> {
        text.lines().filter(|line| is(line)).map(str::to_owned).collect()
    };
    for names in [
        &["server", "clients"][..],
        &["keyspace", "nosuch", "CLIENTS", "cpu", "memory"],
        &["nosuch"],
        &["cluster", "replication", "stats", "persistence"],
        &["all"],
        &["default"],
        &["everything"],
        &[],
    ] {
        let [a, b] = both(&mut theirs, &mut ours, names);
        let left_out = ["Modules", "Commandstats", "Errorstats", "Latencystats"];
        let titles = |text: &str| lines(text, |line| line.starts_with("# "));
        let mut expected = titles(&a);
        expected.retain(|title| !left_out.contains(&&title[2..]));
        let mut found = titles(&b);
        found.retain(|title| title != "# Raft");
        assert_eq!(found, expected, "INFO {names:?}");
    }
    for (section, wanted) in READ_BY_MONITORS {
        let [a, b] = both(&mut theirs, &mut ours, &[section]).map(|text| {
            let fields = lines(&text, |line| line.contains(':'));
            let name = |line: String| line.split(':').next().map(str::to_owned);
            fields.into_iter().filter_map(name).collect::<Vec<_>>()
        });
        for field in *wanted {
            assert!(a.iter().any(|a| a == field), "Redis has no {field} in {section}: {a:?}");
            assert!(b.iter().any(|b| b == field), "{field} is missing in {section}: {b:?}");
        }
        for field in &b {
            let own = OWN_FIELDS.iter().any(|own| field.starts_with(own));
            assert!(own || a.contains(field), "Redis has no {field} in {section}");
        }
    }
}

#[test]
fn redis_knows_every_setting_that_is_told() {
    if !is_comparable() {
        return;
    }
    let (_ports, redis, cluster) = both();
    let all = ["CONFIG", "GET", "*"];
    let names = |client: &mut Client| -> Vec<String> {
        let reply = client.call(&all).expect("a reply");
        reply.items().chunks(2).map(|pair| pair[0].text()).collect()
    };
    let (theirs, ours) = (names(&mut redis.client()), names(&mut cluster.client()));
    assert!(ours.len() > 20, "{ours:?}");
    // Tokens are ours.
    for name in ours.into_iter().filter(|name| name != "idmp-window-ms") {
        assert!(theirs.contains(&name), "Redis has no setting {name}");
    }
}

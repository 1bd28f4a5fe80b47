//! Group 0, which keeps the configuration, installs a snapshot on real files: a node that was away while the
//! log was let go. A node here is this executable again, which keeps little of its logs and takes checkpoints often.

use clap::Parser;
use harness::process::{ARGUMENTS_VARIABLE, Launch, ThreeNodes};
use harness::resp::{Client, Value};
use server::config::{Cli, Command};
use server::process::DiskOptions;
use shard_core::replica::CheckpointConfig;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
/// Orders that pass while the node is away: more than its log has behind a checkpoint.
const ORDERS: usize = 120;

/// Nothing of a log stays behind a checkpoint, not for a member that is missed either.
fn short_logs() -> DiskOptions {
    DiskOptions {
        checkpoints: CheckpointConfig {
            dirty_bytes_min: 256,
            dirty_share: u64::MAX,
            log_bytes_max: 1 << 10,
            interval_ns: 100_000_000,
            align: 8,
            ..CheckpointConfig::default()
        },
        replicas: Some(|config| {
            (config.log_trailing_bytes, config.missed_ns) = (0, 0);
            config.log_bytes_max = 1 << 10;
        }),
        ..DiskOptions::default()
    }
}

/// Not a test: the program, started by the other one.
#[test]
fn short_log_process() {
    let Ok(arguments) = std::env::var(ARGUMENTS_VARIABLE) else { return };
    let words = std::iter::once("flotilla").chain(arguments.lines());
    let result = match Cli::parse_from(words).command {
        Command::Node(args) => {
            server::standalone::node_with(args, |options| options.disk = short_logs())
        }
        Command::Router(args) => server::standalone::router(args),
        Command::Dev(_) | Command::Inspect(_) | Command::Recover(_) | Command::Admin(_) => {
            panic!("a node or a router")
        }
    };
    if let Err(error) = &result {
        eprintln!("flotilla: {error}");
    }
    std::process::exit(i32::from(result.is_err()));
}

fn ask(port: u16, words: &[&str]) -> Result<Value, String> {
    let mut client = Client::connect(port).map_err(|error| error.to_string())?;
    client.call(words).map_err(|error| error.to_string())
}

fn wait_until(what: &str, mut done: impl FnMut() -> Result<(), String>) {
    let end = Instant::now() + PATIENCE;
    while let Err(why) = done() {
        assert!(Instant::now() < end, "{what}: {why}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A field of what a node tells of its replica of group 0.
fn master(port: u16, name: &str) -> Result<String, String> {
    let info = ask(port, &["INFO", "raft"])?.text();
    let line = info.lines().find_map(|line| line.strip_prefix("raft_group_0:"));
    let mut fields = line.ok_or("no group 0")?.split(',');
    let field = fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
    Ok(field.unwrap_or_else(|| panic!("no {name} in {line:?}")).to_owned())
}

fn master_number(port: u16, name: &str) -> Result<u64, String> {
    master(port, name)?.parse().map_err(|_| format!("{name} is no number"))
}

/// The same of two numbers: the first is at least the second.
fn at_least(found: u64, wanted: u64) -> Result<(), String> {
    if found >= wanted { Ok(()) } else { Err(format!("{found} of {wanted}")) }
}

/// Gives group 1 a weight; answers the number of the configuration that says so.
fn order(port: u16, weight: usize) -> Value {
    let reply = ask(port, &["CLUSTER", "GROUP", "WEIGHT", "1", &weight.to_string()]).unwrap();
    assert!(matches!(reply, Value::Integer(_)), "{reply:?}");
    reply
}

/// Slots move and configurations come, until the leader's log has nothing up to this entry.
fn leave_behind(led: u16, had: u64) {
    let moved = ["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", "100", "120", "GROUP", "2"];
    assert_eq!(ask(led, &moved).unwrap(), Value::Simple("OK".into()));
    for weight in 1..=ORDERS {
        order(led, weight);
    }
    let state = || ask(led, &["CLUSTER", "REBALANCE", "STATUS"]);
    wait_until("the moves", || match state()?.field("state").text().as_str() {
        "balanced" => Ok(()),
        other => Err(other.to_owned()),
    });
    wait_until("the log to be let go", || at_least(master_number(led, "log_base")?, had + 1));
}

#[test]
fn the_shardmaster_installs_a_snapshot_and_then_leads_answers_and_takes_orders() {
    let mut cluster = ThreeNodes::start_as(&Launch::Test("short_log_process"));
    let ports = [1, 2, 3].map(|id| cluster.node_port(id));
    let mut leader = 0;
    wait_until("a leader of group 0", || {
        let found = master(ports[0], "leader")?;
        leader = found.parse().map_err(|_| found)?;
        Ok(())
    });
    let away = leader % 3 + 1;
    let (led, left) = (cluster.node_port(leader), cluster.node_port(away));
    order(led, 7);
    wait_until("node away to be whole", || {
        at_least(master_number(left, "applied")?, master_number(led, "commit")?)
    });
    let had = master_number(left, "last").unwrap();
    cluster.node(away).kill();
    leave_behind(led, had);

    let installs = |port| master_number(port, "installs");
    cluster.node(away).restart();
    cluster.node(away).wait_until_it_serves(left);
    wait_until("a snapshot of group 0", || at_least(installs(left)?, 1));
    wait_until("node away to be whole again", || {
        at_least(master_number(left, "applied")?, master_number(led, "commit")?)
    });

    // It leads, knows all that the others do, and takes an order.
    let asked: [&[&str]; 4] = [
        &["CLUSTER", "CONFIG"],
        &["CLUSTER", "CONFIG", "3"],
        &["CLUSTER", "GETSLOTMIGRATIONS"],
        &["CLUSTER", "REBALANCE", "STATUS"],
    ];
    let answers = |port| asked.map(|words| ask(port, words).unwrap());
    // At the third node: some of it is told as seen from there.
    let other = ports.into_iter().find(|port| *port != led && *port != left).unwrap();
    let before = answers(other);
    let transfer = ["RAFT.TRANSFER_LEADER", "0", &away.to_string()];
    wait_until("the leadership", || match ask(led, &transfer)? {
        Value::Simple(_) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(master(left, "role").unwrap(), "leader");
    assert_eq!(answers(other), before);
    let Value::Integer(config) = order(left, 500) else { panic!("no number") };
    // Without the node that led before, what it has installed is what counts.
    cluster.node(leader).kill();
    let shown = ask(left, &["CLUSTER", "CONFIG"]).unwrap();
    assert_eq!(shown.field("config"), &Value::Integer(config), "{shown:?}");
    assert_eq!(order(left, 501), Value::Integer(config + 1));
    // After a restart of its own, too: the snapshot's state is on its disk.
    cluster.node(away).kill();
    cluster.node(away).restart();
    cluster.node(away).wait_until_it_serves(left);
    wait_until("the configuration after a restart", || {
        let shown = ask(other, &["CLUSTER", "CONFIG"])?;
        match shown.field("config") {
            Value::Integer(found) => at_least(*found as u64, config as u64 + 1),
            other => Err(format!("{other:?}")),
        }
    });
}

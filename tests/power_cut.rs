//! Real processes on disks that are no friends: SIGKILL as a power cut, failing, full and stuck disks,
//! and rot. A node here is this executable again ([`hostile_process`]) with
//! [`harness::hostile_disk`] under its two files; nothing of that is in the program.

use clap::Parser;
use harness::hostile_disk::{CHANGED_AFTER_FAILURE, Control, DISK_VARIABLE, HostileDisk};
use harness::process::{ARGUMENTS_VARIABLE, Launch, ThreeNodes};
use harness::resp::{Client, Value};
use harness::tokens::{Attempt, Patience, Writers, acknowledged, check_tokens};
use raft_core::random::Random;
use server::config::{Cli, Command};
use server::log_store::LogStoreConfig;
use server::process::DiskOptions;
use server::state_store::StateStoreConfig;
use server::storage::OpenStorage;
use shard_core::replica::CheckpointConfig;
use shard_core::shard_store::RowBudget;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

/// Connections that write at once.
const WRITERS: usize = 12;
/// How long a node may take to end or to get somewhere.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the tests start.
const NODES: Launch = Launch::Test("hostile_process");
/// The state is put to disk after every few writes.
const CHECKPOINTS: CheckpointConfig = CheckpointConfig {
    dirty_bytes_min: 4 << 10,
    dirty_share: u64::MAX,
    log_bytes_max: 256 << 10,
    interval_ns: 1_000_000_000,
    align: 64,
    step: RowBudget { rows: 16, bytes: 16 << 10 },
};

/// The log gives back what no group needs, and little of either file is in memory.
const COLLECT_BYTES_MIN: u64 = 64 << 10;
const CACHE_BYTES: usize = 128 << 10;

/// How these nodes keep their files.
fn hostile() -> DiskOptions {
    DiskOptions {
        storage: OpenStorage::new(|path| Ok(Box::new(HostileDisk::open(path)?))),
        log: LogStoreConfig {
            cache_bytes: CACHE_BYTES,
            collect_bytes_min: COLLECT_BYTES_MIN,
            ..LogStoreConfig::default()
        },
        state: StateStoreConfig { cache_bytes: CACHE_BYTES, ..StateStoreConfig::default() },
        checkpoints: CHECKPOINTS,
        free_bytes_min: None,
        replicas: Some(|config| {
            config.log_trailing_bytes = 8 << 10;
            config.log_bytes_max = 32 << 10;
            config.missed_bytes_max = 16 << 10;
            config.entry_cache_bytes_max = 8 << 10;
            config.snapshot_window_bytes = 16 << 10;
        }),
    }
}

/// Not a test: the program, started by the others on a disk of theirs.
#[test]
fn hostile_process() {
    let Ok(arguments) = std::env::var(ARGUMENTS_VARIABLE) else { return };
    server::last_words::install();
    // As the program is built: a panic elsewhere is the end of the process, too.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
    let words = std::iter::once("flotilla").chain(arguments.lines());
    let result = match Cli::parse_from(words).command {
        Command::Node(args) => server::standalone::node_with(args, |options| {
            options.disk = hostile();
        }),
        Command::Router(args) => server::standalone::router(args),
        Command::Dev(_) | Command::Inspect(_) | Command::Recover(_) | Command::Admin(_) => {
            panic!("a node or a router")
        }
    };
    match result {
        Ok(()) => std::process::exit(0),
        Err(error) => {
            eprintln!("flotilla: {error}");
            std::process::exit(1);
        }
    }
}

// ---- What the tests do to nodes ----

/// The file of a node, `log` or `state`.
fn file(cluster: &ThreeNodes, id: u16, name: &str) -> PathBuf {
    cluster.data(id).join(format!("{name}.redb"))
}

/// Starts a node that has ended, on a disk with this plan.
fn restart(cluster: &mut ThreeNodes, id: u16, plan: &str) {
    let node = cluster.node(id);
    node.set_variable(DISK_VARIABLE, plan);
    node.restart();
}

/// Starts it on a disk without faults but the unsynced writes, and waits until it serves.
fn restart_well(cluster: &mut ThreeNodes, random: &mut Random, ids: &[u16]) {
    for id in ids {
        restart(cluster, *id, &format!("seed={}", random.below(1 << 32)));
    }
    for id in ids {
        let port = cluster.node_port(*id);
        cluster.node(*id).wait_until_it_serves(port);
    }
}

/// One line of INFO raft of a node: what follows `name:`. None if it has no such line.
fn raft_line(cluster: &ThreeNodes, id: u16, name: &str) -> Option<String> {
    info_line(cluster, id, "raft", name)
}

/// A counter of a node since its start.
fn counter(cluster: &ThreeNodes, id: u16, name: &str) -> u64 {
    let line = info_line(cluster, id, "stats", name).expect("a counter");
    line.parse().expect("a number")
}

/// How many checkpoints a node has made since its start.
fn checkpoints(cluster: &ThreeNodes, id: u16) -> u64 {
    counter(cluster, id, "state_checkpoints")
}

fn info_line(cluster: &ThreeNodes, id: u16, section: &str, name: &str) -> Option<String> {
    let mut client = Client::connect(cluster.node_port(id)).ok()?;
    let text = client.call(&["INFO", section]).ok()?.text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.map(str::to_owned)
}

fn field(line: &str, name: &str) -> String {
    let found = line.split(',').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {name} in {line}")).to_owned()
}

fn leads(cluster: &ThreeNodes, id: u16, group: u16) -> bool {
    raft_line(cluster, id, &format!("raft_group_{group}"))
        .is_some_and(|line| field(&line, "role") == "leader")
}

/// Looks again and again, at what no event announces.
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not in {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Has a node lead both groups.
fn make_leader(cluster: &ThreeNodes, id: u16) {
    let mut client = Client::connect(cluster.router_port()).expect("a connection");
    for group in [1, 2] {
        wait_until("it leads", || {
            // Refused while it is behind or just leads: then the question is asked again.
            leads(cluster, id, group) || {
                let words = ["RAFT.TRANSFER_LEADER", &group.to_string(), &id.to_string()];
                client.call(&words).expect("a reply");
                false
            }
        });
    }
}

/// Checks the tokens against each replica in turn.
fn check_every_replica(cluster: &ThreeNodes, attempts: &[Vec<Attempt>]) {
    check_replicas(cluster, &[1, 2, 3], attempts);
}

fn check_replicas(cluster: &ThreeNodes, ids: &[u16], attempts: &[Vec<Attempt>]) {
    for id in ids {
        make_leader(cluster, *id);
        let mut client = Client::connect(cluster.router_port()).expect("a connection");
        check_tokens(&mut client, attempts);
    }
}

/// Waits for the end of a node that cannot go on: exit code 1 and one sentence with these words.
/// Nothing was written after the first error.
fn ends_with(cluster: &mut ThreeNodes, id: u16, words: &[&str]) {
    let status = cluster.node(id).wait(PATIENCE);
    let log = cluster.node(id).log_since_start();
    assert_eq!(status.code(), Some(1), "{log}");
    let sentence = log.lines().find(|line| line.starts_with("flotilla: ")).expect("a sentence");
    for word in words {
        assert!(sentence.contains(word), "no {word:?} in: {sentence}");
    }
    assert!(!log.contains(CHANGED_AFTER_FAILURE), "{log}");
    println!("{sentence}");
}

fn environment_or(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

fn start() -> (ThreeNodes, Writers) {
    let cluster = ThreeNodes::start_as(&NODES);
    let port = cluster.router_port();
    (cluster, Writers::start(port, WRITERS, "load", Patience::WithoutMajority))
}

// ---- Power cuts ----

/// Ends nodes as a loss of power does; how many.
fn cut_power(cluster: &mut ThreeNodes, writers: &Writers, random: &mut Random) -> u64 {
    let first = random.below(3) as u16 + 1;
    let second = first % ThreeNodes::COUNT + 1;
    let all = [first, second, second % ThreeNodes::COUNT + 1];
    let ids = match random.below(6) {
        0..=2 => &all[..1],
        3 => &all[..2],
        4 | 5 => &all[..],
        _ => unreachable!("below 6"),
    };
    for id in ids {
        cluster.node(*id).kill();
    }
    let mut cuts = ids.len() as u64;
    if ids.len() == 1 && random.below(2) == 0 {
        // The others go on, perhaps until only a snapshot helps.
        writers.skip_acks();
        writers.wait_for_acks(500 + random.below(2000) as usize);
    }
    if ids.len() == 1 {
        // In the middle of a sync, under load and then perhaps while that is being repaired.
        for at_most in [60, 3].into_iter().take(random.below(3) as usize) {
            let name = ["log", "state"][random.below(2) as usize];
            let at_most = if name == "state" { at_most.min(6) } else { at_most };
            let nth = random.below(at_most) + 1;
            restart(cluster, first, &format!("seed={} {name}.cut={nth}", random.below(1 << 32)));
            let status = cluster.node(first).wait(PATIENCE);
            assert_eq!(status.code(), None, "{}", cluster.node(first).log());
            cuts += 1;
        }
    }
    restart_well(cluster, random, ids);
    cuts
}

#[test]
fn p20_power_cuts_lose_no_acknowledged_write() {
    let planned = environment_or("FLOTILLA_POWER_CUTS", 20);
    let seed = environment_or("FLOTILLA_POWER_SEED", 1);
    println!("FLOTILLA_POWER_SEED={seed}");
    let mut random = Random::new(seed);
    let (mut cluster, writers) = start();
    let (mut cuts, mut snapshots) = (0, 0);
    while cuts < planned {
        writers.skip_acks();
        // Another instant of the group commit each time.
        writers.wait_for_acks(50 + random.below(250) as usize);
        cuts += cut_power(&mut cluster, &writers, &mut random);
        let received = |id| counter(&cluster, id, "snapshot_bytes_received");
        snapshots += u64::from((1..=ThreeNodes::COUNT).any(|id| received(id) > 0));
    }
    writers.skip_acks();
    writers.wait_for_acks(100);
    let attempts = writers.end_all_told();
    check_every_replica(&cluster, &attempts);
    println!(
        "{cuts} power cuts, {} acknowledged writes: each there once, on each replica",
        acknowledged(&attempts)
    );
    let made: Vec<(u64, u64)> = (1..=ThreeNodes::COUNT)
        .map(|id| (checkpoints(&cluster, id), counter(&cluster, id, "raft_log_removed_batches")))
        .collect();
    println!(
        "checkpoints and batches of the log removed, since the last starts: {made:?}; snapshots came \
         in after {snapshots} cuts"
    );
    for node in &cluster.nodes {
        assert!(!node.log().contains("flotilla: "), "{}", node.log());
    }
}

// ---- Disks that fail ----

#[test]
fn f01_f02_f03_a_failed_sync_or_write_ends_the_node_and_a_restart_heals_it() {
    let (mut cluster, writers) = start();
    let mut random = Random::new(7);
    writers.wait_for_acks(200);
    // Of a leader, in the middle of its work.
    for name in ["log", "state"] {
        let leader = (1..=3).find(|id| leads(&cluster, *id, 1)).unwrap_or(1);
        let path = file(&cluster, leader, name);
        Control::FailSync.begin(&path);
        ends_with(&mut cluster, leader, &[&path.display().to_string(), "Input/output error"]);
        Control::FailSync.end(&path);
        writers.skip_acks();
        writers.wait_for_acks(200);
        restart_well(&mut cluster, &mut random, &[leader]);
    }
    // At this or that call since the start, recovery among them.
    for (number, fault) in
        ["log.fail=sync:25", "state.fail=sync:5", "log.fail=write:90", "state.fail=write:40"]
            .into_iter()
            .enumerate()
    {
        let id = number as u16 % ThreeNodes::COUNT + 1;
        let (name, _) = fault.split_once('.').expect("a file's name");
        cluster.node(id).kill();
        restart(&mut cluster, id, &format!("seed={number} {fault}"));
        let path = file(&cluster, id, name).display().to_string();
        ends_with(&mut cluster, id, &[&path, "Input/output error"]);
        restart_well(&mut cluster, &mut random, &[id]);
    }
    check_every_replica(&cluster, &writers.end_all_told());
}

// ---- Disks that are stuck ----

/// What of each group is on the node's disk, as it knows itself.
fn durable(cluster: &ThreeNodes, id: u16) -> Vec<u64> {
    let number = |group| {
        let line = raft_line(cluster, id, &format!("raft_group_{group}")).expect("a group");
        field(&line, "durable").parse().expect("a number")
    };
    [1, 2].map(number).to_vec()
}

/// What of each group its leader has heard that is on the disk of this follower.
fn matched(cluster: &ThreeNodes, id: u16) -> Vec<Option<u64>> {
    let number = |group: u16| {
        let leader = (1..=3).find(|id| leads(cluster, *id, group))?;
        let line = raft_line(cluster, leader, &format!("raft_follower_{group}_{id}"))?;
        field(&line, "match").parse().ok()
    };
    [1, 2].map(number).to_vec()
}

#[test]
fn f11_f12_a_stuck_disk_hands_over_and_acknowledges_nothing() {
    let (mut cluster, writers) = start();
    writers.wait_for_acks(100);
    for control in [Control::Stall, Control::Late] {
        make_leader(&cluster, 1);
        let log = file(&cluster, 1, "log");
        control.begin(&log);
        wait_until("others lead", || {
            [1, 2].iter().all(|group| [2, 3].iter().any(|id| leads(&cluster, *id, *group)))
        });
        // Its heartbeats are heard, and say so.
        let known = || {
            let seen = [2, 3].map(|id| raft_line(&cluster, id, "raft_peer_1"));
            seen.iter().flatten().filter(|line| field(line, "state") == "disk-stalled").count() == 2
        };
        wait_until("its disk is known to be stuck", known);
        let before = durable(&cluster, 1);
        writers.skip_acks();
        writers.wait_for_acks(300);
        assert_eq!(durable(&cluster, 1), before, "a stuck disk has written");
        for (matched, durable) in matched(&cluster, 1).into_iter().zip(&before) {
            assert!(matched <= Some(*durable), "{matched:?} acknowledged of {durable}");
        }
        wait_until("its disk is still known to be stuck", known);
        control.end(&log);
    }
    // A state that cannot be put to disk is in the log all the same.
    make_leader(&cluster, 1);
    let state = file(&cluster, 1, "state");
    Control::Stall.begin(&state);
    writers.skip_acks();
    writers.wait_for_acks(500);
    let before = checkpoints(&cluster, 1);
    Control::Stall.end(&state);
    wait_until("a checkpoint", || checkpoints(&cluster, 1) > before);
    assert!(!cluster.node(1).has_ended());
    check_every_replica(&cluster, &writers.end_all_told());
}

/// A stop does not hang on a disk that will never answer. What was acknowledged is on the disk, as after SIGKILL.
#[test]
fn f11_a_stop_ends_though_the_disk_is_stuck() {
    let (mut cluster, writers) = start();
    let mut random = Random::new(13);
    writers.wait_for_acks(200);
    for name in ["log", "state"] {
        let path = file(&cluster, 1, name);
        let before = durable(&cluster, 1);
        Control::Stall.begin(&path);
        writers.skip_acks();
        writers.wait_for_acks(600);
        cluster.node(1).signal("TERM");
        ends_with(&mut cluster, 1, &["the disk has not taken what it was given"]);
        Control::Stall.end(&path);
        restart_well(&mut cluster, &mut random, &[1]);
        assert!(durable(&cluster, 1) >= before);
        writers.skip_acks();
        writers.wait_for_acks(100);
    }
    check_every_replica(&cluster, &writers.end_all_told());
}

// ---- Disks that are full ----

/// Whether a file of a node waits for room.
fn waits(cluster: &ThreeNodes, id: u16, name: &str) -> bool {
    let line = info_line(cluster, id, "persistence", &format!("disk_{name}_waits"));
    line.is_some_and(|line| line == "1")
}

#[test]
fn f04_s19_a_full_disk_is_waited_for_and_nothing_is_lost() {
    let (mut cluster, writers) = start();
    writers.wait_for_acks(200);
    make_leader(&cluster, 1);
    // Where the state finds no room, what grows is refused, and the rest goes on.
    let mut client = Client::connect(cluster.router_port()).expect("a connection");
    let state = file(&cluster, 1, "state");
    Control::Full.begin(&state);
    wait_until("the state waits", || waits(&cluster, 1, "state"));
    wait_until("writes are refused", || {
        client.call(&["SET", "a", "1"]).expect("a reply") == no_room()
    });
    assert_eq!(info_line(&cluster, 1, "persistence", "aof_last_write_status").unwrap(), "err");
    assert!(matches!(client.call(&["GET", "load:1"]).expect("a reply"), Value::Bulk(_)));
    assert_eq!(client.call(&["DEL", "a"]).expect("a reply"), Value::Integer(0));
    Control::Full.end(&state);
    goes_on(&mut cluster, &writers, &[(1, "state")]);
    // Where the log finds none, the node hands over like one whose disk is stuck.
    make_leader(&cluster, 1);
    let log = file(&cluster, 1, "log");
    Control::Full.begin(&log);
    wait_until("the log waits", || waits(&cluster, 1, "log"));
    wait_until("others lead", || {
        [1, 2].iter().all(|group| [2, 3].iter().any(|id| leads(&cluster, *id, *group)))
    });
    writers.skip_acks();
    writers.wait_for_acks(300);
    Control::Full.end(&log);
    goes_on(&mut cluster, &writers, &[(1, "log")]);
    // Everywhere: without a majority nothing is acknowledged, and then all goes on.
    for name in ["state", "log"] {
        let all: Vec<PathBuf> = (1..=3).map(|id| file(&cluster, id, name)).collect();
        all.iter().for_each(|path| Control::Full.begin(path));
        wait_until("two of them wait", || {
            (1..=3).filter(|id| waits(&cluster, *id, name)).count() > 1
        });
        all.iter().for_each(|path| Control::Full.end(path));
        goes_on(&mut cluster, &writers, &[(1, name), (2, name), (3, name)]);
    }
    check_every_replica(&cluster, &writers.end_all_told());
}

fn no_room() -> Value {
    Value::Error("MISCONF Errors writing to the AOF file: No space left on device".to_owned())
}

/// There is room again: the nodes that waited go on by themselves.
fn goes_on(cluster: &mut ThreeNodes, writers: &Writers, waited: &[(u16, &str)]) {
    for (id, name) in waited {
        wait_until("it waits no more", || !waits(cluster, *id, name));
        assert!(!cluster.node(*id).has_ended());
    }
    writers.skip_acks();
    writers.wait_for_acks(300);
    for (id, _) in waited {
        let before = checkpoints(cluster, *id);
        wait_until("a checkpoint", || checkpoints(cluster, *id) > before);
    }
}

/// A stop does not wait for room, and a start needs some.
#[test]
fn f04_a_node_ends_on_a_full_disk_with_a_sentence_and_a_restart_heals_it() {
    const FULL: &str = "No space left on device";
    let (mut cluster, writers) = start();
    let mut random = Random::new(9);
    writers.wait_for_acks(200);
    for name in ["state", "log"] {
        let path = file(&cluster, 1, name);
        let named = path.display().to_string();
        Control::Full.begin(&path);
        wait_until("it waits", || waits(&cluster, 1, name));
        cluster.node(1).signal("TERM");
        ends_with(&mut cluster, 1, &[&named, FULL]);
        restart(&mut cluster, 1, "");
        ends_with(&mut cluster, 1, &[&named, FULL]);
        Control::Full.end(&path);
        restart_well(&mut cluster, &mut random, &[1]);
        writers.skip_acks();
        writers.wait_for_acks(100);
    }
    check_every_replica(&cluster, &writers.end_all_told());
}

// ---- Disks that rot, and that cannot be read ----

/// Flips a bit wherever these bytes are.
fn rot(bytes: &mut [u8], wherever: &[u8]) -> usize {
    let places: Vec<usize> = (0..bytes.len().saturating_sub(wherever.len()))
        .filter(|at| bytes[*at..].starts_with(wherever))
        .collect();
    places.iter().for_each(|at| bytes[*at] ^= 0x10);
    places.len()
}

#[test]
fn f07_f08_rot_is_refused_at_the_start_and_the_others_go_on() {
    let (mut cluster, writers) = start();
    let mut random = Random::new(11);
    writers.wait_for_acks(300);
    for (name, signal) in [("log", "TERM"), ("state", "TERM"), ("log", "KILL"), ("state", "KILL")] {
        wait_until("a checkpoint", || checkpoints(&cluster, 3) > 0);
        cluster.node(3).signal(signal);
        cluster.node(3).wait(PATIENCE);
        let path = file(&cluster, 3, name);
        let sound = fs::read(&path).expect("the file");
        let mut rotten = sound.clone();
        assert!(rot(&mut rotten, b"load:") > 0, "there are keys in {name}");
        fs::write(&path, &rotten).expect("rotten");
        restart(&mut cluster, 3, "");
        ends_with(&mut cluster, 3, &[&path.display().to_string()]);
        assert_eq!(fs::read(&path).expect("the file").len(), rotten.len());
        writers.skip_acks();
        writers.wait_for_acks(100);
        fs::write(&path, &sound).expect("sound again");
        restart_well(&mut cluster, &mut random, &[3]);
    }
    check_every_replica(&cluster, &writers.end_all_told());
}

/// A leader that reads wrong bits sends nothing wrong to a follower that was away. Afterwards it is
/// sound, or says that it is not.
fn flip_bits_of_a_leader(name: &str, seed: u64) {
    let (mut cluster, writers) = start();
    let mut random = Random::new(seed);
    make_leader(&cluster, 1);
    cluster.node(3).kill();
    writers.skip_acks();
    writers.wait_for_acks(2000);
    let path = file(&cluster, 1, name);
    Control::FlipRead.begin(&path);
    restart_well(&mut cluster, &mut random, &[3]);
    writers.skip_acks();
    writers.wait_for_acks(5000);
    Control::FlipRead.end(&path);
    if cluster.node(1).has_ended() {
        // A page that makes no sense may be a panic of redb, which is the same end.
        ends_with(&mut cluster, 1, &[&path.display().to_string()]);
    } else {
        cluster.node(1).kill();
    }
    restart(&mut cluster, 1, "");
    let port = cluster.node_port(1);
    wait_until("it serves or ends", || {
        cluster.node(1).has_ended()
            || Client::connect(port).and_then(|mut client| client.call(&["GET", "load:1"])).is_ok()
    });
    let attempts = writers.end_all_told();
    if cluster.node(1).has_ended() {
        ends_with(&mut cluster, 1, &[&path.display().to_string()]);
        check_replicas(&cluster, &[2, 3], &attempts);
    } else {
        check_every_replica(&cluster, &attempts);
    }
}

#[test]
fn f07_bits_that_flip_in_the_state_of_a_leader_are_served_to_nobody() {
    flip_bits_of_a_leader("state", environment_or("FLOTILLA_POWER_SEED", 1));
}

#[test]
fn f07_bits_that_flip_in_the_log_of_a_leader_are_served_to_nobody() {
    flip_bits_of_a_leader("log", environment_or("FLOTILLA_POWER_SEED", 1));
}

#[test]
fn f13_what_cannot_be_read_is_no_answer() {
    let (mut cluster, writers) = start();
    let mut random = Random::new(13);
    writers.wait_for_acks(200);
    for (name, nth) in [("log", 1), ("log", 4), ("state", 1), ("state", 4)] {
        cluster.node(1).kill();
        restart(&mut cluster, 1, &format!("{name}.fail=read:{nth}"));
        let path = file(&cluster, 1, name).display().to_string();
        ends_with(&mut cluster, 1, &[&path, "Input/output error"]);
        restart_well(&mut cluster, &mut random, &[1]);
    }
    // While it leads: a checkpoint reads what it replaces. What the log's writer needs it may have.
    make_leader(&cluster, 1);
    let state = file(&cluster, 1, "state");
    Control::FailRead.begin(&state);
    ends_with(&mut cluster, 1, &[&state.display().to_string(), "Input/output error"]);
    Control::FailRead.end(&state);
    restart_well(&mut cluster, &mut random, &[1]);
    make_leader(&cluster, 1);
    let log = file(&cluster, 1, "log");
    Control::FailRead.begin(&log);
    writers.skip_acks();
    writers.wait_for_acks(300);
    if cluster.node(1).has_ended() {
        ends_with(&mut cluster, 1, &[&log.display().to_string(), "Input/output error"]);
    } else {
        cluster.node(1).kill();
    }
    Control::FailRead.end(&log);
    restart_well(&mut cluster, &mut random, &[1]);
    check_every_replica(&cluster, &writers.end_all_told());
}

//! Memory of real processes: what is refused at the limit and what goes on, that the process stays small, and
//! that a node which takes a snapshot has one state at a time.

use harness::process::{Launch, ThreeNodes};
use harness::resp::{Client, Value};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const MAXMEMORY: u64 = 64 << 20;
/// The caches of log and state, code and stacks, and what the allocator keeps: beside the limit.
const BESIDE: u64 = 192 << 20;
/// The most that each of the two caches takes.
const CACHE_BYTES: u64 = 32 << 20;
const VALUE_BYTES: usize = 16 << 10;

const OOM: &str = "OOM command not allowed when used memory > 'maxmemory'.";

fn memory(port: u16) -> BTreeMap<String, String> {
    let mut client = Client::connect(port).expect("a connection");
    let text = client.call(&["INFO", "memory"]).expect("a reply").text();
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn number(memory: &BTreeMap<String, String>, name: &str) -> u64 {
    memory[name].parse().unwrap_or_else(|_| panic!("{name} in {memory:?}"))
}

fn is_oom(value: &Value) -> bool {
    matches!(value, Value::Error(text) if text == OOM)
}

fn is_ok(value: &Value) -> bool {
    matches!(value, Value::Simple(text) if text == "OK")
}

/// One slot, so that one group has all of it.
fn key(number: usize) -> String {
    format!("{{t}}{number}")
}

fn value(number: usize) -> String {
    format!("{number:0>width$}", width = VALUE_BYTES)
}

/// SETs from `first` on until one is refused; its number.
fn fill(client: &mut Client, first: usize) -> usize {
    for number in first..20_000 {
        let reply = client.call(&["SET", &key(number), &value(number)]).expect("a reply");
        if is_oom(&reply) {
            return number;
        }
        assert!(is_ok(&reply), "{reply:?}");
    }
    panic!("never full");
}

fn leader(cluster: &ThreeNodes) -> u16 {
    (1..=3)
        .find(|id| {
            let mut client = Client::connect(cluster.node_port(*id)).expect("a connection");
            let info = client.call(&["INFO", "raft"]).expect("a reply").text();
            let leads = |group| info.contains(&format!("raft_group_{group}:role=leader"));
            // Of the group with the keys: the one with more than a handful.
            (1..=2).any(|group| {
                leads(group)
                    && info.lines().any(|line| {
                        line.starts_with(&format!("raft_group_{group}:"))
                            && field(line, "keys") > 100
                    })
            })
        })
        .expect("a leader")
}

/// A number of a line of INFO raft; 0 if it is not there.
fn field(line: &str, name: &str) -> u64 {
    let value =
        line.split([',', ':']).find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

/// Tries until it is granted: what was freed is not free at once.
fn set_at_last(client: &mut Client, number: usize) {
    let end = Instant::now() + PATIENCE;
    loop {
        let reply = client.call(&["SET", &key(number), &value(number)]).expect("a reply");
        if is_ok(&reply) {
            return;
        }
        assert!(is_oom(&reply), "{reply:?}");
        assert!(Instant::now() < end, "nothing is free after DEL");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn b84_a_full_node_refuses_writes_and_serves_the_rest() {
    let mut cluster =
        ThreeNodes::start_with(&Launch::Program, &["--maxmemory", &MAXMEMORY.to_string()]);
    let mut client = Client::connect(cluster.router_port()).expect("a connection");
    let full = fill(&mut client, 0);
    assert!(full > 1000, "only {full} values of 16 KiB in 64 MiB");

    let first = leader(&cluster);
    for id in 1..=3 {
        let memory = memory(cluster.node_port(id));
        let (used, rss) = (number(&memory, "used_memory"), number(&memory, "used_memory_rss"));
        println!("node {id}: {full} keys, used {used}, rss {rss}, {memory:?}");
        assert_eq!(number(&memory, "maxmemory"), MAXMEMORY);
        assert_eq!(memory["maxmemory_policy"], "noeviction");
        let parts = ["keys", "values", "lanes", "replies", "checkpoint", "log", "buffers"];
        let parts = parts.map(|part| number(&memory, &format!("used_memory_{part}")));
        assert_eq!(parts.iter().sum::<u64>(), used);
        let caches = number(&memory, "disk_caches");
        assert!((1 << 20..=2 * CACHE_BYTES).contains(&caches), "node {id} caches {caches}");
        assert!(used < MAXMEMORY + (8 << 20), "node {id} uses {used}");
        assert!(rss < MAXMEMORY + BESIDE, "node {id} is resident with {rss}");
    }
    let get = client.call(&["GET", &key(7)]).expect("a reply");
    assert_eq!(get.text(), value(7));
    let mut direct = Client::connect(cluster.node_port(first)).expect("a connection");
    let told = direct.call(&["CONFIG", "GET", "maxmemory"]).expect("a reply");
    assert_eq!(told.field("maxmemory").text(), MAXMEMORY.to_string());

    // The next leader has the same keys, and refuses as well.
    cluster.node(first).kill();
    let get = client.call(&["GET", &key(full - 1)]).expect("a reply");
    assert_eq!(get.text(), value(full - 1));
    let refused = client.call(&["APPEND", &key(full - 1), &value(1)]).expect("a reply");
    let lengthened = matches!(refused, Value::Integer(_));
    assert!(is_oom(&refused) || lengthened, "{refused:?}");
    let again = fill(&mut client, full);

    for number in 0..full / 2 {
        let deleted = client.call(&["DEL", &key(number)]).expect("a reply");
        assert!(matches!(deleted, Value::Integer(1)), "{deleted:?}");
    }
    set_at_last(&mut client, 0);
    cluster.node(first).restart();
    let port = cluster.node_port(first);
    cluster.node(first).wait_until_it_serves(port);
    for number in (full / 2..again).chain([0]).filter(|number| *number != full - 1) {
        let get = client.call(&["GET", &key(number)]).expect("a reply");
        assert_eq!(get.text(), value(number), "key {number}");
    }
    let refused = client.call(&["GET", &key(again)]).expect("a reply");
    assert!(matches!(refused, Value::Nil), "what was refused is there: {refused:?}");
}

/// A number of bytes of a process, where the kernel tells.
fn resident(process: u32, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// SETs of keys, many at once.
fn set_all(client: &mut Client, keys: std::ops::Range<usize>) {
    for first in keys.clone().step_by(64) {
        let some = first..keys.end.min(first + 64);
        for key_number in some.clone() {
            client.send(&["SET", &key(key_number), &value(key_number)]).expect("a request");
        }
        for _ in some {
            let reply = client.receive().expect("a reply");
            assert!(is_ok(&reply), "{reply:?}");
        }
    }
}

/// A node that stood still for so long that it needs the state anew, and has one already. The allocator gets one
/// arena: with one for each thread, which is its default, it keeps what another thread has freed.
#[test]
fn a_snapshot_that_is_installed_takes_the_place_of_the_state_in_memory_too() {
    /// Of the state, before and after.
    const KEYS: usize = 8192;
    /// What a second copy would take is twice as much.
    const GROWTH_MAX: u64 = 64 << 20;
    let mut cluster = ThreeNodes::start();
    for id in 1..=3 {
        let port = cluster.node_port(id);
        cluster.node(id).kill();
        cluster.node(id).set_variable("MALLOC_ARENA_MAX", "1");
        cluster.node(id).restart();
        cluster.node(id).wait_until_it_serves(port);
    }
    let mut client = Client::connect(cluster.router_port()).expect("a connection");
    set_all(&mut client, 0..KEYS);
    let led = leader(&cluster);
    let away = (1..=3).find(|id| *id != led).expect("a follower");
    let port = cluster.node_port(away);
    let held = || number(&memory(port), "used_memory_values");
    let end = Instant::now() + PATIENCE;
    while held() < (KEYS * VALUE_BYTES) as u64 {
        assert!(Instant::now() < end, "it is behind: {}", held());
        std::thread::sleep(Duration::from_millis(50));
    }
    let process = cluster.node(away).id();
    cluster.node(away).signal("STOP");
    // More than leaders keep for one that may come back.
    for _ in 0..3 {
        set_all(&mut client, 0..KEYS);
    }
    let Some(before) = resident(process, "VmRSS") else { return };
    // The peak begins anew.
    std::fs::write(format!("/proc/{process}/clear_refs"), "5").expect("the node's own");
    cluster.node(away).signal("CONT");
    let installed = || {
        let info = Client::connect(port).ok()?.call(&["INFO", "raft"]).ok()?.text();
        Some(info.lines().any(|line| field(line, "keys") > 100 && field(line, "installs") > 0))
    };
    while installed() != Some(true) {
        assert!(Instant::now() < end + PATIENCE, "no snapshot came");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(client.call(&["GET", &key(7)]).expect("a reply").text(), value(7));
    let peak = resident(process, "VmHWM").expect("it told before");
    println!("node {away}: {before} resident before, {peak} at most, {:?}", memory(port));
    assert!(before > (KEYS * VALUE_BYTES) as u64);
    assert!(peak < before + GROWTH_MAX, "{before} bytes before the install, {peak} during it");
}

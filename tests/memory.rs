//! The limit of memory, with real processes: what is refused, what goes on, and that the process stays
//! small.

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
                        line.starts_with(&format!("raft_group_{group}:")) && keys_in(line) > 100
                    })
            })
        })
        .expect("a leader")
}

fn keys_in(line: &str) -> u64 {
    let keys = line.split("keys=").nth(1).and_then(|rest| rest.split(',').next());
    keys.and_then(|keys| keys.parse().ok()).unwrap_or(0)
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

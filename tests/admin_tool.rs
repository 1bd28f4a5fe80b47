//! `flotilla admin` against real processes: each subcommand, what it refuses, and what machines read of it.

use harness::process::{self, Process, SeatedNodes, arguments};
use harness::resp::{Client, Value as Reply};
use serde_json::{Value, json};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(120);
/// The same for the tool.
const TIMEOUT: &str = "120";

/// Nodes 1 to 3 have two groups and the shardmaster, node 4 has nothing.
fn four_nodes() -> SeatedNodes {
    SeatedNodes::start(4, &[1, 2, 3], &[&[1, 2, 3], &[1, 2, 3]])
}

/// What it says, when it does what it is told.
fn lines(port: u16, words: &[&str]) -> Vec<String> {
    let ended = process::admin(port, &[&["--timeout", TIMEOUT], words].concat());
    let said = String::from_utf8(ended.stdout).expect("text");
    let complaint = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{}: {said}{complaint}", words.join(" "));
    assert_eq!(complaint, "", "{}", words.join(" "));
    said.lines().map(str::to_owned).collect()
}

/// The one object that it prints.
fn object(port: u16, words: &[&str]) -> Value {
    let lines = lines(port, &[words, &["--json"]].concat());
    assert_eq!(lines.len(), 1, "{lines:?}");
    serde_json::from_str(&lines[0]).expect("an object")
}

/// The sentence with which it ends, with exit code 1 and nothing else said.
fn refused(port: u16, words: &[&str]) -> String {
    let ended = process::admin(port, words);
    assert_eq!(ended.status.code(), Some(1), "{}: {ended:?}", words.join(" "));
    let said = String::from_utf8(ended.stderr).expect("text");
    assert_eq!(said.lines().count(), 1, "{said}");
    said.strip_prefix("flotilla: ").expect("its name").trim_end().to_owned()
}

fn call(client: &mut Client, words: &[&str]) -> Reply {
    client.call(words).expect("a reply")
}

fn slots_of(status: &Value, group: u64) -> Option<u64> {
    let groups = status["groups"].as_array().expect("groups");
    groups.iter().find(|row| row["group"] == group)?["slots"].as_u64()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not so: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_group_is_added_gets_its_share_gives_it_away_and_is_removed() {
    let cluster = four_nodes();
    let port = cluster.port(1);
    assert!(object(port, &["wait"])["whole"].as_bool().expect("a truth"));
    let made = object(port, &["add-group", "--nodes", "1,2,4", "--weight", "2", "--rebalance"]);
    assert_eq!(
        (&made["group"], &made["config"], &made["slots"]),
        (&json!(3), &json!(2), &json!(8192))
    );
    let status = object(port, &["status"]);
    let nodes: Vec<&Value> = status["nodes"].as_array().expect("nodes").iter().collect();
    assert_eq!(
        nodes.iter().map(|row| row["node"].as_u64()).collect::<Vec<_>>(),
        [1, 2, 3, 4].map(Some)
    );
    assert!(nodes[3]["address"] == format!("127.0.0.1:{}", cluster.port(4)), "{status}");
    assert_eq!([1, 2, 3].map(|group| slots_of(&status, group)), [4096, 4096, 8192].map(Some));
    assert_eq!((&status["whole"], &status["lacks"]), (&json!(true), &json!([])));
    assert_eq!(status["moves"]["state"], "balanced");
    let leader = &status["groups"][3]["leader"];
    assert!([1, 2, 4].contains(&leader.as_u64().expect("a leader")), "{status}");
    // A new share: first only shown.
    let weight = ["CLUSTER", "GROUP", "WEIGHT", "3", "1"];
    assert!(matches!(call(&mut cluster.client(2), &weight), Reply::Integer(3)));
    let plan = object(port, &["rebalance", "--dry-run"]);
    let steps = plan["steps"].as_array().expect("steps");
    assert!(!steps.is_empty() && steps.iter().all(|step| step["from"] == 3), "{plan}");
    let shown = lines(port, &["rebalance", "--dry-run"]);
    assert_eq!(shown.len(), steps.len());
    assert!(shown[0].contains(": group 3 -> group 1, since group 3 has 8192 slots"), "{shown:?}");
    assert_eq!(slots_of(&object(port, &["status"]), 3), Some(8192), "nothing was done");
    let said = lines(port, &["rebalance"]);
    assert_eq!(said.last().map(String::as_str), Some("every group has its share of slots"));
    assert_eq!(slots_of(&object(port, &["status"]), 3), Some(5462));
    let none = ["nothing would move: every group has its share of keys"];
    assert_eq!(lines(port, &["rebalance", "--by", "keys", "--dry-run"]), none);
    assert_eq!(object(port, &["rebalance", "--by", "bytes"])["slots"], 0);
    // Paused moves are not waited for.
    call(&mut cluster.client(2), &["CLUSTER", "REBALANCE", "PAUSE"]);
    let paused = refused(port, &["drain", "3", "--json"]);
    assert!(paused.starts_with("moves are paused, with 5462 slots to move: "), "{paused}");
    assert_eq!(refused(port, &["watch"]), paused);
    call(&mut cluster.client(2), &["CLUSTER", "REBALANCE", "RESUME"]);
    let drained = object(port, &["drain", "3", "--keep"]);
    assert_eq!((&drained["group"], &drained["removed"]), (&json!(3), &json!(false)));
    let status = object(port, &["status"]);
    assert_eq!([1, 2, 3].map(|group| slots_of(&status, group)), [8192, 8192, 0].map(Some));
    assert_eq!(object(port, &["drain", "3"])["removed"], true);
    assert_eq!(slots_of(&object(port, &["status"]), 3), None);
}

#[test]
fn what_is_refused_is_one_sentence_of_the_server_and_changes_nothing() {
    let cluster = SeatedNodes::start(1, &[1], &[&[1]]);
    let port = cluster.port(1);
    let before = object(port, &["status"]);
    let refusals: [(&[&str], &str); 8] = [
        (&["drain", "0"], "group 0 is the shardmaster and owns no slots, name another group"),
        (&["drain", "1"], "group 1 is the last one that can own slots, create another group first"),
        (&["drain", "7", "--keep"], "unknown group 7, CLUSTER SHARDS lists those there are"),
        (&["add-group", "--nodes", "9"], "Unknown node 9"),
        (&["add-group", "--nodes", "1,1"], "node 1 is named twice, name each voter once"),
        (
            &["add-group", "--nodes", "1", "--weight", "0"],
            "Invalid WEIGHT '0', it is a number from 1 to 4294967295",
        ),
        (&["replace", "1", "8"], "Unknown node 8"),
        (
            &["replace", "1", "1"],
            "node 1 is a voter of group 0 already and cannot take the seat of node 1 too, name another \
             node, or CLUSTER DELVOTER 1 GROUP 0",
        ),
    ];
    for (words, sentence) in refusals {
        assert_eq!(refused(port, words), sentence);
    }
    // What makes no sense in itself is not sent.
    let ended = process::admin(port, &["rebalance", "--by", "age"]);
    assert_eq!(ended.status.code(), Some(1));
    let said = String::from_utf8(ended.stderr).expect("text");
    assert!(said.contains("[possible values: slots, keys, bytes, load]"), "{said}");
    assert_eq!(object(port, &["status"]), before);
}

/// Of `watch --json`, the newest.
fn newest(watch: &Process) -> Option<Value> {
    let output = watch.output();
    let whole = output.rsplit_once('\n')?.0;
    serde_json::from_str(whole.lines().last()?).ok()
}

#[test]
fn a_dead_node_is_replaced_and_the_tool_outlives_those_that_it_asks() {
    let mut cluster = four_nodes();
    let (port, folder) = (cluster.port(1), tempfile::tempdir().expect("a folder"));
    lines(port, &["wait"]);
    let at = format!("127.0.0.1:{}", cluster.port(3));
    let words = ["admin", "--at", &at, "watch", "--follow", "--json"];
    let mut watch = Process::start("watch", &arguments(&words), folder.path());
    wait_until("it watches", || newest(&watch).is_some_and(|moves| moves["config"] == 1));
    cluster.nodes[2].kill();
    let silent = process::admin(port, &["status", "--json"]);
    let status: Value = serde_json::from_slice(&silent.stdout).expect("an object");
    assert_eq!((&status["whole"], &status["silent"][0]["node"]), (&json!(false), &json!(3)));
    assert!(!silent.status.success());
    assert_eq!(String::from_utf8_lossy(&silent.stderr), "flotilla: the cluster is not whole\n");
    let late = refused(port, &["--timeout", "1", "wait", "--json"]);
    assert!(late.starts_with("the cluster is not whole after 1 seconds: node 3: "), "{late}");
    let said = lines(port, &["replace", "3", "4", "--forget"]);
    assert_eq!(said.last().map(String::as_str), Some("node 3 is forgotten"));
    assert!(said.contains(&"node 3 has no seat any more, node 4 has them".to_owned()), "{said:?}");
    let status = object(port, &["wait"]);
    assert!(
        status["groups"]
            .as_array()
            .expect("groups")
            .iter()
            .all(|row| row["voters"] == json!([1, 2, 4]))
    );
    let again = refused(port, &["replace", "3", "4"]);
    assert_eq!(again, "Unknown node 3");
    // It still watches, by somebody else's words.
    let config = |moves: Value| moves["config"].as_u64().expect("a number");
    wait_until("it sees what came after", || {
        newest(&watch).is_some_and(|moves| config(moves) >= 3)
    });
    watch.kill();
}

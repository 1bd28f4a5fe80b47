//! Writers behind two routers while processes end one after another: each acknowledged write is there once and in
//! order, and nobody behind a living router sees an error.

use harness::process::{self, Process, ThreeNodes};
use harness::resp::{Client, Value};
use harness::tokens::{
    Attempt, Patience, WriterEnd, Writers, acknowledged, check_tokens, longest_gap,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long a process may take to end after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

fn setting(name: &str, default: u64) -> u64 {
    let value = std::env::var(format!("FLOTILLA_{name}")).unwrap_or_default();
    if value.is_empty() { default } else { value.parse().expect("a number") }
}

/// Writes of both routers, by what their keys are called.
fn check(cluster: &ThreeNodes, attempts: &[Vec<Attempt>]) {
    let mut client = Client::connect(cluster.router_port()).expect("a connection");
    check_tokens(&mut client, attempts);
}

/// Of writers whose router has ended: none was answered an error.
fn disconnected(writers: Writers) -> Vec<Vec<Attempt>> {
    let ended = writers.end().into_iter().map(|(tried, end)| match end {
        WriterEnd::Told | WriterEnd::Disconnected => tried,
        WriterEnd::Refused(reply) => panic!("a writer was answered {reply}"),
    });
    ended.collect()
}

fn stop(process: &mut Process) {
    process.signal("TERM");
    let status = process.wait(STOP_TIMEOUT);
    assert_eq!(status.code(), Some(0), "{}", process.log());
}

/// All nodes and both routers, each after the one before is whole again: 50 clients are behind a router that is up.
#[test]
fn w11_nodes_and_routers_restart_one_after_another_and_no_request_fails() {
    let wanted = setting("RESTART_REQUESTS", 100_000) as usize;
    let mut cluster = ThreeNodes::start();
    let (mut second, second_port) = cluster.second_router();
    let through_it = Writers::start(second_port, 10, "second", Patience::None);
    let writers = Writers::start(cluster.router_port(), 50, "first", Patience::None);
    through_it.wait_for_acks(100);
    for id in 1..=ThreeNodes::COUNT {
        writers.wait_for_acks(wanted / 4);
        stop(cluster.node(id));
        writers.wait_for_acks(500);
        cluster.node(id).restart();
        cluster.wait_until_whole(id);
    }
    through_it.skip_acks();
    through_it.wait_for_acks(100);
    stop(&mut second);
    let mut attempts = disconnected(through_it);
    second.restart();
    second.wait_until_it_serves(second_port);
    let second_again = Writers::start(second_port, 50, "second again", Patience::None);
    second_again.wait_for_acks(100);
    writers.wait_for_acks(wanted / 4);
    // Those behind the first one hear that it closes, and nothing else; all others notice nothing.
    stop(&mut cluster.router);
    attempts.extend(disconnected(writers));
    second_again.skip_acks();
    second_again.wait_for_acks(500);
    cluster.router.restart();
    cluster.router.wait_until_it_serves(cluster.router_port());
    let first_again = Writers::start(cluster.router_port(), 10, "first again", Patience::None);
    first_again.wait_for_acks(100);
    attempts.extend(second_again.end_all_told());
    attempts.extend(first_again.end_all_told());
    let (done, gap) = (acknowledged(&attempts), longest_gap(&attempts));
    println!("{done} writes, none failed, the longest wait {} ms", gap.as_millis());
    assert!(done >= wanted);
    check(&cluster, &attempts);
}

/// What `flotilla admin` says, and whether it ended with exit code 0.
fn admin(port: u16, words: &[&str]) -> (bool, String) {
    let ended = process::admin(port, words);
    let said = [ended.stdout, ended.stderr].concat();
    (ended.status.success(), String::from_utf8(said).expect("text"))
}

#[test]
fn w11_admin_restarts_every_node_and_waits_until_the_cluster_is_whole() {
    let mut cluster = ThreeNodes::start();
    let port = cluster.router_port();
    let writers = Writers::start(port, 20, "first", Patience::None);
    writers.wait_for_acks(100);
    let (whole, said) = admin(port, &["wait"]);
    assert!(whole, "{said}");
    // The command asks this test to restart the node, by a file, and waits until that is gone.
    let wishes = tempfile::tempdir().expect("a folder");
    let wish = wishes.path().join("node").display().to_string();
    let run = format!(
        "echo $FLOTILLA_NODE > {wish}.new && mv {wish}.new {wish} && while [ -e {wish} ]; do sleep 0.05; done"
    );
    // It asks a node that is restarted as well, and another one meanwhile.
    let asked = cluster.node_port(1);
    let restarting = thread::spawn(move || {
        admin(asked, &["--timeout", "100", "rolling-restart", "--run", &run])
    });
    let mut restarted = Vec::new();
    while !restarting.is_finished() {
        let wish = wishes.path().join("node");
        let Ok(node) = std::fs::read_to_string(&wish) else {
            thread::sleep(Duration::from_millis(20));
            continue;
        };
        let id: u16 = node.trim().parse().expect("a node");
        stop(cluster.node(id));
        let (whole, said) = admin(port, &["status"]);
        assert!(!whole && said.contains(&format!("not whole: node {id}: ")), "{said}");
        cluster.node(id).restart();
        restarted.push(id);
        std::fs::remove_file(&wish).expect("the wish");
    }
    let (done, said) = restarting.join().expect("an end");
    assert!(done && said.contains("3 nodes were restarted"), "{said}");
    restarted.sort_unstable();
    assert_eq!(restarted, [1, 2, 3]);
    let (whole, said) = admin(port, &["status"]);
    assert!(whole && said.contains("whole: any one node may stop"), "{said}");
    writers.skip_acks();
    writers.wait_for_acks(100);
    check(&cluster, &writers.end_all_told());
    // A command that restarts nothing is noticed, and one that fails.
    let (done, said) = admin(port, &["--timeout", "1", "rolling-restart", "--run", "true"]);
    assert!(!done && said.contains("is the process that it was before"), "{said}");
    let (done, said) = admin(port, &["rolling-restart", "--run", "exit 3"]);
    assert!(!done && said.contains("exit status: 3"), "{said}");
    let (done, said) = admin(port, &["--timeout", "1", "rolling-restart", "--run", "sleep 30"]);
    assert!(!done && said.contains("has not ended after 1 seconds"), "{said}");
    let (done, said) = admin(cluster.spare_port(11), &["status"]);
    assert!(!done && said.contains("cannot be asked"), "{said}");
}

/// Waits until every slot is where it is to be.
fn wait_until_moved(client: &mut Client) {
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let status = client.call(&["CLUSTER", "REBALANCE", "STATUS"]).expect("a reply");
        if status.field("state").text() == "balanced" {
            return;
        }
        assert!(Instant::now() < end, "the moves do not end: {status:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A router stands still while slots move away and are written to elsewhere. What it is asked then goes by what it
/// knew before, and groups refuse that.
#[test]
fn w07_a_router_that_stood_still_serves_no_value_of_before() {
    let cluster = ThreeNodes::start();
    let (second, second_port) = cluster.second_router();
    let connect = |port| Client::connect(port).expect("a connection");
    let (mut through_it, mut other) = (connect(second_port), connect(cluster.router_port()));
    let keys: Vec<String> = (0..200).map(|number| format!("k{number}")).collect();
    let set = |client: &mut Client, value| {
        for key in &keys {
            let reply = client.call(&["SET", key, value]).expect("a reply");
            assert_eq!(reply, Value::Simple("OK".into()));
        }
    };
    set(&mut through_it, "before");
    second.signal("STOP");
    for words in [&["CLUSTER", "GROUP", "WEIGHT", "1", "3"][..], &["CLUSTER", "REBALANCE"]] {
        let reply = other.call(words).expect("a reply");
        assert!(!matches!(reply, Value::Error(_)), "{reply:?}");
    }
    wait_until_moved(&mut other);
    set(&mut other, "after");
    for key in &keys {
        let asked = format!("GET {key}\r\nAPPEND {key} !\r\n");
        through_it.send_raw(asked.as_bytes()).expect("it is sent");
    }
    second.signal("CONT");
    for key in &keys {
        let [value, length] = [(); 2].map(|()| through_it.receive().expect("a reply"));
        assert_eq!((value.text(), length), ("after".to_owned(), Value::Integer(6)), "{key}");
    }
}

/// Leaders are killed and slots move for half a minute; at last a router is killed too.
#[test]
fn x02_w04_w15_writers_behind_two_routers_while_leaders_are_killed_and_slots_move() {
    let end = Instant::now() + Duration::from_secs(setting("KILLS_SECONDS", 30));
    let mut cluster = ThreeNodes::start();
    let (mut second, second_port) = cluster.second_router();
    let first = Writers::start(cluster.router_port(), 10, "first", Patience::None);
    let through_it = Writers::start(second_port, 10, "second", Patience::None);
    let (mut kills, mut moved) = (0, 0);
    while Instant::now() < end {
        let next = Instant::now() + Duration::from_secs(2);
        let leader = cluster.leader_of(["first:0", "second:1", "first:2"][kills % 3]);
        // Of some two thousand slots, to and fro.
        let weight = ["2", "1"][kills % 2];
        let mut admin = Client::connect(cluster.router_port()).expect("a connection");
        for words in [&["CLUSTER", "GROUP", "WEIGHT", "1", weight][..], &["CLUSTER", "REBALANCE"]] {
            match admin.call(words) {
                Ok(Value::Integer(number)) => moved += u64::from(words.len() == 2) * number as u64,
                other => panic!("{}: {other:?}", words.join(" ")),
            }
        }
        cluster.node(leader).kill();
        first.wait_for_acks(20);
        through_it.wait_for_acks(20);
        cluster.node(leader).restart();
        cluster.wait_until_whole(leader);
        kills += 1;
        first.skip_acks();
        through_it.skip_acks();
        while Instant::now() < next {
            first.wait_for_acks(1);
        }
    }
    second.kill();
    let mut attempts = disconnected(through_it);
    first.skip_acks();
    first.wait_for_acks(500);
    let told = first.end_all_told();
    let (done, gap) = (acknowledged(&told) + acknowledged(&attempts), longest_gap(&told));
    println!(
        "{kills} kills, {moved} slots moved, {done} writes, longest wait {} ms",
        gap.as_millis()
    );
    assert!(kills >= 3 && moved > 1000, "{kills} kills, {moved} slots");
    attempts.extend(told);
    check(&cluster, &attempts);
}

/// Appends tokens that each have a name, through the routers in turn: what breaks is sent again under its name until
/// it is answered.
fn append_named(ports: [u16; 2], producer: usize, stop: &AtomicBool) -> (Vec<String>, usize) {
    let (mut written, mut repeats, mut at) = (Vec::new(), 0, producer);
    let mut client = Client::connect(ports[at % 2]).ok();
    while !stop.load(Ordering::Relaxed) {
        let (id, token) = (written.len().to_string(), format!("{producer}-{};", written.len()));
        let key = format!("named:{producer}");
        let name = format!("writer {producer}");
        loop {
            let words = ["IDMP", &name, &id, "APPEND", &key, &token];
            match client.as_mut().map(|client| client.call(&words)) {
                Some(Ok(Value::Integer(_))) => break,
                Some(Ok(reply)) => panic!("{reply:?}"),
                Some(Err(_)) => repeats += 1,
                None => thread::sleep(Duration::from_millis(5)),
            }
            at += 1;
            client = Client::connect(ports[at % 2]).ok();
        }
        written.push(token);
    }
    (written, repeats)
}

/// A router and leaders are killed under writers who send again what got no answer, elsewhere: with a name for each
/// write nothing is lost and nothing is doubled, and nobody has to ask what became of it.
#[test]
fn x02_w04_with_tokens_nothing_is_lost_or_doubled_when_a_router_is_killed() {
    const PRODUCERS: usize = 10;
    let mut cluster = ThreeNodes::start();
    let (mut second, second_port) = cluster.second_router();
    let ports = [cluster.router_port(), second_port];
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..PRODUCERS)
        .map(|producer| {
            let stop = stop.clone();
            thread::spawn(move || append_named(ports, producer, &stop))
        })
        .collect();
    let others = Writers::start(ports[0], 2, "others", Patience::None);
    for round in 0..3 {
        others.wait_for_acks(200);
        second.kill();
        let leader = cluster.leader_of(&format!("named:{round}"));
        cluster.node(leader).kill();
        others.wait_for_acks(100);
        second.restart();
        second.wait_until_it_serves(second_port);
        cluster.node(leader).restart();
        cluster.wait_until_whole(leader);
        others.skip_acks();
    }
    stop.store(true, Ordering::Relaxed);
    let (mut count, mut repeated) = (0, 0);
    let mut client = Client::connect(ports[0]).expect("a connection");
    for (producer, writer) in writers.into_iter().enumerate() {
        let (written, repeats) = writer.join().expect("a writer");
        let held = client.call(&["GET", &format!("named:{producer}")]).expect("a reply").text();
        assert!(held == written.concat(), "writer {producer}: {} of {}", held.len(), written.len());
        count += written.len();
        repeated += repeats;
    }
    println!("{count} writes, {repeated} of them sent again");
    assert!(repeated > 0, "no connection broke in the midst of a write");
    check(&cluster, &others.end_all_told());
}

/// The answers that `docs/exactly-once.md` shows are those that redis-cli would show.
#[test]
fn the_sessions_of_the_documentation_are_answered_so() {
    let cluster = ThreeNodes::start();
    let mut client = Client::connect(cluster.router_port()).expect("a connection");
    let documentation = include_str!("../docs/exactly-once.md");
    let mut asked = 0;
    let blocks = documentation.split("```").skip(1).step_by(2);
    let lines = blocks.flat_map(str::lines).skip_while(|line| !line.starts_with("$ redis-cli"));
    let mut lines = lines.filter(|line| *line != "$ redis-cli").peekable();
    while let Some(line) = lines.next() {
        let command = line.strip_prefix("$ redis-cli ").or(line.strip_prefix("127.0.0.1:6379> "));
        let Some(command) = command else { continue };
        let words: Vec<&str> = command.split(' ').collect();
        let said = match client.call(&words).expect("a reply") {
            Value::Simple(text) => text,
            Value::Integer(number) => format!("(integer) {number}"),
            Value::Error(text) => format!("(error) {text}"),
            other => panic!("{command}: {other:?}"),
        };
        assert_eq!(lines.next(), Some(&*said), "{command}");
        asked += 1;
    }
    assert_eq!(asked, 7);
}

#[test]
fn a_token_of_its_own_command_marks_the_next_one_alone() {
    let cluster = ThreeNodes::start();
    let mut client = Client::connect(cluster.router_port()).expect("a connection");
    let mut call = |words: &[&str]| client.call(words).expect("a reply");
    let (ok, integer) = (Value::Simple("OK".into()), Value::Integer);
    for _ in 0..3 {
        assert_eq!(call(&["CLIENT", "IDMP", "p", "1"]), ok);
        assert_eq!(call(&["INCR", "n"]), integer(1), "done once, and answered alike");
    }
    assert_eq!(call(&["IDMP", "p", "1", "incr", "n"]), integer(1), "the same in one piece");
    assert_eq!(call(&["INCR", "n"]), integer(2), "the mark is used up");
    let refused = |reply: Value, with: &str| match reply {
        Value::Error(text) => assert!(text.contains(with), "{text}"),
        other => panic!("{other:?}"),
    };
    assert_eq!(call(&["CLIENT", "IDMP", "p", "1"]), ok);
    refused(call(&["INCRBY", "n", "5"]), "this token was given to another command");
    assert_eq!(call(&["CLIENT", "IDMP", "p", "2"]), ok);
    refused(call(&["GET", "n"]), "IDMP goes with a command that writes");
    assert_eq!(call(&["INCR", "n"]), integer(3), "also by a command that is refused");
    assert_eq!(call(&["CLIENT", "IDMP", "p", "3"]), ok);
    refused(call(&["NOSUCH"]), "unknown command");
    assert_eq!(call(&["INCR", "n"]), integer(4));
    refused(call(&["CLIENT", "IDMP", "p", ""]), "1 to 256 bytes");
    refused(call(&["INCR", "n"]), "the CLIENT IDMP before this command was refused");
    refused(call(&["CLIENT", "IDMP", "p"]), "wrong number of arguments");
    assert_eq!(call(&["CLIENT", "IDMP", "p", "4"]), ok);
    assert_eq!(call(&["CLIENT", "IDMP", "p", "1"]), ok);
    assert_eq!(call(&["INCR", "n"]), integer(1), "the newest mark counts");
    assert_eq!(call(&["CLIENT", "IDMP", "p", "4"]), ok);
    assert_eq!(call(&["RESET"]), Value::Simple("RESET".into()));
    assert_eq!(call(&["INCR", "n"]), integer(5), "RESET is done, and takes the mark with it");
    assert_eq!(call(&["CLIENT", "IDMP", "p", "4"]), ok);
    assert_eq!(call(&["INCR", "n"]), integer(6), "the token was not used");
    assert_eq!(call(&["INCR", "n"]), integer(7));
    assert_eq!(call(&["FLUSHALL"]), ok);
    assert_eq!(
        call(&["IDMP", "p", "1", "INCR", "n"]),
        integer(1),
        "remembered, though the key is gone"
    );
    assert_eq!(call(&["EXISTS", "n"]), integer(0));
    assert_eq!(call(&["CLIENT", "IDMP", "p", "5"]), ok);
    assert_eq!(call(&["QUIT"]), ok);
}

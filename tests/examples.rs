//! The programs of `examples/` that write under tokens, with stock clients, while the two routers that they are given
//! are killed in turn: each word that they append is there once. Without tokens it would not be.
//!
//! `make clients` installs the clients; what is missing fails the test with a sentence.

use harness::process::{Process, ThreeNodes};
use harness::resp::{Client, Value};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Words that a program appends, in a few seconds.
const WORDS: usize = 1_000;
/// Logs to which they go in turn.
const LOGS: usize = 10;
/// Bytes that a log grows by between two kills: a few words.
const GROWTH: i64 = 200;
/// How long anything may take on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(120);

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a checkout").to_path_buf()
}

fn redis_py(script: &Path) -> Command {
    let mut command = Command::new(checkout().join(".clients/py/bin/python"));
    command.arg(script);
    command
}

fn ioredis(script: &Path) -> Command {
    let script = File::open(script).expect("the program");
    let mut command = Command::new("node");
    // Node looks for ioredis in the folder where it runs.
    command.args(["--input-type=module", "-"]).stdin(script);
    command.current_dir(checkout().join(".clients/node"));
    command
}

/// A cluster with two routers, and a program that appends words over them.
struct Running {
    cluster: ThreeNodes,
    second: Process,
    second_port: u16,
    /// Sees how the logs grow, by a node that nobody kills.
    watch: Client,
    program: Child,
    kills: usize,
}

impl Running {
    fn start(mut program: Command, words: usize) -> Running {
        let cluster = ThreeNodes::start();
        let (second, second_port) = cluster.second_router();
        let watch = Client::connect(cluster.node_port(1)).expect("a connection");
        let routers = [cluster.router_port(), second_port].map(|port| format!("127.0.0.1:{port}"));
        program.args(routers).arg(words.to_string());
        let program = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let program = program.unwrap_or_else(|error| {
            panic!("the program does not start: {error}; `make clients` installs the clients")
        });
        Running { cluster, second, second_port, watch, program, kills: 0 }
    }

    /// Waits until a log has grown; false if the program ends before.
    fn writes_on(&mut self) -> bool {
        let end = Instant::now() + PATIENCE;
        let first = self.log_bytes();
        while self.log_bytes() < first + GROWTH {
            if self.program.try_wait().expect("its state").is_some() {
                return false;
            }
            assert!(Instant::now() < end, "nothing is written, after {} kills", self.kills);
            thread::sleep(Duration::from_millis(5));
        }
        true
    }

    fn log_bytes(&mut self) -> i64 {
        match self.watch.call(&["STRLEN", "log:0"]) {
            Ok(Value::Integer(bytes)) => bytes,
            other => panic!("STRLEN: {other:?}"),
        }
    }

    /// Kills the router that the program uses, which goes on over the other one, and starts it again.
    fn kill_a_router(&mut self) {
        let first = self.cluster.router_port();
        let (router, port) = match self.kills % 2 {
            0 => (&mut self.cluster.router, first),
            _ => (&mut self.second, self.second_port),
        };
        router.kill();
        router.restart();
        router.wait_until_it_serves(port);
        self.kills += 1;
    }

    /// Words that are in the logs more than once.
    fn doubled(&mut self) -> usize {
        let mut seen = BTreeSet::new();
        let logs = (0..LOGS).map(|i| self.watch.call(&["GET", &format!("log:{i}")]));
        let logs: Vec<String> = logs.map(|log| log.expect("a reply").text()).collect();
        logs.iter()
            .flat_map(|log| log.split_terminator(';'))
            .filter(|word| !seen.insert(*word))
            .count()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// Runs a program to its end while its routers are killed: it finds every word once, and had to send some again.
fn runs_through_kills(program: Command) {
    let mut running = Running::start(program, WORDS);
    while running.writes_on() {
        running.kill_a_router();
    }
    let (mut said, mut errors) = (String::new(), String::new());
    let (output, error_output) = (running.program.stdout.take(), running.program.stderr.take());
    output.expect("it is piped").read_to_string(&mut said).expect("text");
    error_output.expect("it is piped").read_to_string(&mut errors).expect("text");
    let kills = running.kills;
    assert!(running.program.wait().expect("its end").success(), "{said}{errors}");
    let start = format!("{WORDS} words, 0 of them lost or doubled; sent again: ");
    let sent_again = said.strip_prefix(&start).and_then(|count| count.trim_end().parse().ok());
    assert!(kills > 0 && sent_again > Some(0), "{kills} kills: {said}{errors}");
    println!("{kills} kills, {said}");
}

#[test]
fn x02_w04_the_program_with_redis_py_writes_each_word_once() {
    runs_through_kills(redis_py(&checkout().join("examples/exactly_once.py")));
}

#[test]
fn x02_w04_the_program_with_ioredis_writes_each_word_once() {
    runs_through_kills(ioredis(&checkout().join("examples/exactly_once.mjs")));
}

#[test]
fn x02_w04_the_program_with_redis_rs_writes_each_word_once() {
    runs_through_kills(Command::new(env!("CARGO_BIN_EXE_exactly_once")));
}

/// A router that has all the clients that it may have: what it says is no answer to a command.
fn full_router() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            // The client may be gone before it has read that.
            let said = client.write_all(b"-ERR max number of clients reached\r\n");
            let closed = said.and_then(|()| client.shutdown(Shutdown::Write));
            let _ = closed.and_then(|()| io::copy(&mut client, &mut io::sink()));
        }
    });
    port
}

/// What the programs do is what the recipes of `docs/exactly-once.md` do. To the `redis` crate a
/// full router is one whose connection breaks, and by default to ioredis; as it is set here it hands out what is said.
#[test]
fn the_programs_go_on_over_another_router_where_one_has_too_many_clients() {
    let cluster = ThreeNodes::start();
    let text = fs::read_to_string(checkout().join("examples/exactly_once.mjs")).expect("a program");
    let silent = text.replace("new Redis({", "new Redis({ disableClientInfo: true,");
    assert_ne!(silent, text);
    let folder = tempfile::tempdir().expect("a folder");
    let script = folder.path().join("silent.mjs");
    fs::write(&script, silent).expect("a file");
    let python = redis_py(&checkout().join("examples/exactly_once.py"));
    let rust = Command::new(env!("CARGO_BIN_EXE_exactly_once"));
    for mut program in [python, ioredis(&script), rust] {
        let routers = [full_router(), cluster.router_port()];
        program.args(routers.map(|port| format!("127.0.0.1:{port}"))).arg("20");
        let ended = program.output().expect("it runs; `make clients` installs the clients");
        let said = String::from_utf8_lossy(&ended.stdout);
        assert!(ended.status.success(), "{program:?}: {ended:?}");
        assert!(said.starts_with("20 words, 0 of them lost or doubled; sent again: "), "{said}");
    }
}

/// So the tests above see what they are to see.
#[test]
fn without_tokens_words_are_doubled() {
    let text = fs::read_to_string(checkout().join("examples/exactly_once.py")).expect("a program");
    let without =
        text.replace("answer(\"IDMP\", producer, next(ids), \"APPEND\"", "answer(\"APPEND\"");
    assert_ne!(without, text, "the token is taken out");
    let folder = tempfile::tempdir().expect("a folder");
    let script = folder.path().join("without_tokens.py");
    fs::write(&script, without).expect("a file");
    // It is not to end before.
    let mut running = Running::start(redis_py(&script), 1_000_000);
    while running.kills == 0 || running.doubled() == 0 {
        assert!(running.writes_on() && running.kills < 100, "{} kills", running.kills);
        running.kill_a_router();
    }
}

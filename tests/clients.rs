//! Stock clients, unchanged, against a fresh cluster: connecting with defaults, RESP2 and RESP3, every
//! byte value, empty and large values, long pipelines in order.
//!
//! `make clients` installs them; what is missing fails the test with a sentence.

use harness::process::DevCluster;
use redis::{Commands, Pipeline, RedisResult};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Commands of one pipeline.
const PIPELINE_LENGTH: usize = 10_000;

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent").to_path_buf()
}

/// Runs a client's script to its end and passes its lines on.
fn run_script(program: &Path, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| {
        panic!("cannot run {}: {error}; `make clients` installs the clients", program.display())
    });
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{} {arguments:?}: {}\n{said}\n{}",
        program.display(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(said.contains("passed"), "it says what it did: {said}");
    println!("{said}");
}

#[test]
fn redis_py() {
    let cluster = DevCluster::start(&[]);
    let script = checkout().join("tests/clients/redis_py.py").display().to_string();
    let port = cluster.port().to_string();
    run_script(&checkout().join(".clients/py/bin/python"), &[&script, &port]);
}

#[test]
fn ioredis() {
    let cluster = DevCluster::start(&[]);
    let script = checkout().join("tests/clients/ioredis.mjs").display().to_string();
    let folder = checkout().join(".clients/node").display().to_string();
    run_script(Path::new("node"), &[&script, &cluster.port().to_string(), &folder]);
}

/// Every byte value, and nothing a text would survive.
fn all_bytes() -> Vec<u8> {
    (0..=255).collect()
}

fn check_redis_rs(port: u16, protocol: &str) -> RedisResult<()> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/{protocol}"))?;
    let mut connection = client.get_connection()?;
    let five_mb: Vec<u8> = (0..5_000_000_u32).map(|i| (i * 7 % 251) as u8).collect();
    for (kind, value) in [("bytes", all_bytes()), ("empty", Vec::new()), ("big", five_mb)] {
        let mut key = format!("rust{protocol}:{kind}").into_bytes();
        key.extend(all_bytes());
        assert_eq!(connection.get::<_, Option<Vec<u8>>>(&key)?, None);
        connection.set::<_, _, ()>(&key, &value)?;
        assert!(connection.get::<_, Vec<u8>>(&key)? == value, "GET {kind}");
        let length: usize = connection.append(&key, all_bytes())?;
        assert_eq!(length, value.len() + 256);
        let whole: Vec<u8> = connection.get(&key)?;
        assert!(whole == [value, all_bytes()].concat(), "GET after APPEND, {kind}");
    }
    let mut pipeline = Pipeline::new();
    for i in 0..PIPELINE_LENGTH {
        pipeline.append(format!("rust{protocol}:{i}"), "x".repeat(i % 4));
    }
    let lengths: Vec<usize> = pipeline.query(&mut connection)?;
    assert_eq!(lengths, (0..PIPELINE_LENGTH).map(|i| i % 4).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn redis_rs() {
    let cluster = DevCluster::start(&[]);
    for protocol in ["", "?protocol=resp3"] {
        check_redis_rs(cluster.port(), protocol)
            .unwrap_or_else(|error| panic!("{protocol}: {error}"));
    }
}

/// What `redis-cli` prints for these arguments, and for `input` on standard input.
fn redis_cli(port: u16, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("redis-cli")
        .args(["-p", &port.to_string()])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run redis-cli: {error}; install redis-tools"));
    let mut stdin = child.stdin.take().expect("it is piped");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("its output");
    writer.join().expect("the writer").expect("redis-cli reads its input");
    assert!(output.status.success(), "redis-cli {arguments:?}: {}", output.status);
    output.stdout
}

#[test]
fn redis_cli_one_command_a_call() {
    let cluster = DevCluster::start(&[]);
    let port = cluster.port();
    for protocol in ["-2", "-3"] {
        let cli = |arguments: &[&str], input: &[u8]| {
            redis_cli(port, &[&[protocol], arguments].concat(), input)
        };
        assert_eq!(cli(&["PING"], b""), b"PONG\n");
        assert_eq!(cli(&["SET", "greeting", "hello"], b""), b"OK\n");
        assert_eq!(cli(&["APPEND", "greeting", ", world"], b""), b"12\n");
        assert_eq!(cli(&["GET", "greeting"], b""), b"hello, world\n");
        assert_eq!(cli(&["SET", "greeting", ""], b""), b"OK\n");
        assert_eq!(cli(&["GET", "greeting"], b""), b"\n");
        // -x takes the last argument from standard input, as it is.
        let big = all_bytes().repeat(20_000);
        assert_eq!(cli(&["-x", "SET", "bytes"], &big), b"OK\n");
        assert!(
            cli(&["GET", "bytes"], b"") == [&big[..], b"\n"].concat(),
            "5 MB, every byte value"
        );
        assert_eq!(cli(&["DEL", "bytes", "greeting"], b""), b"2\n");
        let info = String::from_utf8(cli(&["INFO"], b"")).expect("text");
        assert!(info.contains("redis_version:") && info.contains("# Raft"), "{info}");
        let shards = String::from_utf8(cli(&["CLUSTER", "SHARDS"], b"")).expect("text");
        assert!(shards.contains("slots") && shards.contains("master"), "{shards}");
        let docs = String::from_utf8(cli(&["COMMAND", "DOCS", "get"], b"")).expect("text");
        assert!(docs.starts_with("get") && docs.contains("summary"), "{docs}");
    }
}

#[test]
fn redis_cli_pipe_loads_a_file() {
    let cluster = DevCluster::start(&[]);
    let lines: String = (0..PIPELINE_LENGTH).map(|i| format!("APPEND cli:{i} {i}\r\n")).collect();
    let said = redis_cli(cluster.port(), &["--pipe"], lines.as_bytes());
    let said = String::from_utf8(said).expect("text");
    assert!(said.contains(&format!("errors: 0, replies: {PIPELINE_LENGTH}")), "{said}");
    assert_eq!(redis_cli(cluster.port(), &["GET", "cli:9999"], b""), b"9999\n");
}

#[test]
fn redis_benchmark_meets_no_error() {
    let cluster = DevCluster::start(&[]);
    let port = cluster.port().to_string();
    let words = ["-p", &port, "-t", "set,get", "-n", "100000", "-c", "50", "-P", "16", "-q"];
    let output = Command::new("redis-benchmark").args(words).output().expect("redis-tools");
    let said = String::from_utf8_lossy(&output.stdout).replace('\r', "\n");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}{errors}");
    assert!(!said.contains("rror") && !errors.contains("rror"), "{said}{errors}");
    assert!(said.contains("SET:") && said.contains("GET:"), "{said}");
    println!("{}", said.lines().filter(|line| line.contains("requests per")).collect::<String>());
}

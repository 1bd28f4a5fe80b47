//! What stock clients do by themselves with the answers that say what became of a write: the second table of
//! `docs/guarantees.md`, as far as it is of clients of one router.
//!
//! `make clients` installs the clients; what is missing fails the test with a sentence.

use harness::process::DevCluster;
use redis::RedisResult;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Of each column that is about answers, some, and what redis-py throws.
const ANSWERS: [(&str, &str); 6] = [
    ("CLUSTERDOWN The cluster is down", "ClusterDownError"),
    ("TRYAGAIN Slot 3999 is moving, nothing was executed", "TryAgainError"),
    ("TIMEOUT no answer within 5000 ms, the write may or may not be applied", "ResponseError"),
    ("OOM command not allowed when used memory > 'maxmemory'.", "OutOfMemoryError"),
    ("MISCONF Errors writing to the AOF file: No space left on device", "ResponseError"),
    ("ERR value is not an integer or out of range", "ResponseError"),
];
/// Connections that break in the last column, each when an INCR has come.
const BREAKS: usize = 2;

/// What becomes of an INCR between client and router.
#[derive(Clone, Copy)]
enum Fate {
    /// It is answered so, and goes no further.
    Answer(&'static str),
    /// The connection breaks, for the first few; the next one is carried out.
    Break,
}

/// Stands between a client and a router. How many INCRs have come is counted.
fn between(router: u16, fate: Fate) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let count = count.clone();
            thread::spawn(move || {
                // Clients come and go.
                let _ = pass_on(client, router, fate, &count);
            });
        }
    });
    (port, seen)
}

fn pass_on(mut client: TcpStream, router: u16, fate: Fate, seen: &AtomicUsize) -> io::Result<()> {
    let mut router = TcpStream::connect(("127.0.0.1", router))?;
    let (mut replies, mut back) = (router.try_clone()?, client.try_clone()?);
    thread::spawn(move || io::copy(&mut replies, &mut back));
    let mut bytes = [0; 4096];
    loop {
        let came = match client.read(&mut bytes)? {
            0 => return router.shutdown(Shutdown::Both),
            count => &bytes[..count],
        };
        let is_incr = came.to_ascii_uppercase().windows(4).any(|word| word == b"INCR");
        let number = if is_incr { 1 + seen.fetch_add(1, Ordering::SeqCst) } else { 0 };
        match fate {
            Fate::Answer(text) if is_incr => client.write_all(format!("-{text}\r\n").as_bytes())?,
            Fate::Break if is_incr && number <= BREAKS => {
                router.shutdown(Shutdown::Both)?;
                return client.shutdown(Shutdown::Both);
            }
            Fate::Answer(_) | Fate::Break => router.write_all(came)?,
        }
    }
}

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a checkout").join(".clients")
}

/// The line that a client's script prints.
fn line_of(mut command: Command, port: u16) -> String {
    let ended = command.arg(port.to_string()).output();
    let ended = ended.unwrap_or_else(|error| {
        panic!("{command:?} does not run: {error}; `make clients` installs the clients")
    });
    assert!(ended.status.success(), "{ended:?}");
    String::from_utf8(ended.stdout).expect("text").trim().to_owned()
}

fn redis_py(port: u16) -> String {
    let mut command = Command::new(clients().join("py/bin/python"));
    command.args([
        "-c",
        "import redis, sys\n\
         try:\n    print(redis.Redis('127.0.0.1', int(sys.argv[1])).incr('n'))\n\
         except redis.RedisError as error:\n    print(type(error).__name__)",
    ]);
    line_of(command, port)
}

fn ioredis(port: u16) -> String {
    let mut command = Command::new("node");
    command.current_dir(clients().join("node")).args([
        "--input-type=module",
        "-e",
        "import { Redis } from 'ioredis';\n\
         const client = new Redis(Number(process.argv[1])).on('error', () => {});\n\
         console.log(await client.incr('n').catch((error) => error.name));\n\
         process.exit();",
    ]);
    line_of(command, port)
}

fn redis_rs(port: u16) -> String {
    let incr = || -> RedisResult<i64> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}"))?;
        redis::cmd("INCR").arg("n").query(&mut client.get_connection()?)
    };
    match incr() {
        Ok(value) => value.to_string(),
        Err(error) if error.is_io_error() => "broken".to_owned(),
        Err(error) => error.code().unwrap_or("no code").to_owned(),
    }
}

/// The cells of a client's row: both kinds of answers, and a connection that breaks.
fn row_of(client: &str) -> [&'static str; 3] {
    let table = include_str!("../docs/guarantees.md");
    let row = table.lines().find(|line| line.starts_with(&format!("| {client} |")));
    let cells: Vec<&str> = row.expect("a row").split('|').skip(2).map(str::trim).collect();
    [cells[0], cells[1], cells[2]]
}

fn is_sent_again(client: &str) -> bool {
    row_of(client)[2].contains("**sends it again**")
}

#[test]
fn each_answer_is_handed_out_once_and_what_breaks_is_sent_again_as_the_table_says() {
    let cluster = DevCluster::start(&[]);
    let router = cluster.port();
    for (answer, thrown) in ANSWERS {
        let code = answer.split(' ').next().expect("a code");
        let said = [redis_py, ioredis, redis_rs].map(|client| {
            let (port, seen) = between(router, Fate::Answer(answer));
            (client(port), seen.load(Ordering::SeqCst))
        });
        let expected = [thrown, "ReplyError", code].map(|said| (said.to_owned(), 1));
        assert_eq!(said, expected, "{answer}");
        let column = usize::from(!["CLUSTERDOWN", "TRYAGAIN"].contains(&code));
        assert!(row_of("redis-py 8.1, `Redis`")[column].contains(thrown), "{thrown}");
    }
    let mut done = 0;
    for (name, client) in [
        ("redis-py 8.1, `Redis`", redis_py as fn(u16) -> String),
        ("ioredis 6.0, `Redis`", ioredis),
        ("`redis` 1.8, plain connections", redis_rs),
    ] {
        let (port, seen) = between(router, Fate::Break);
        let (said, seen) = (client(port), seen.load(Ordering::SeqCst));
        if is_sent_again(name) {
            done += 1;
            assert_eq!((said, seen), (done.to_string(), BREAKS + 1), "{name}");
        } else {
            assert_eq!((&*said, seen), ("broken", 1), "{name}");
        }
    }
    assert_eq!(done, 2, "two of them do");
}

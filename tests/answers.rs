//! What stock clients do by themselves with the answers that say what became of a write: the second table of
//! `docs/guarantees.md`, but for Jedis.
//!
//! `make clients` installs the clients; what is missing fails the test with a sentence.

use harness::process::DevCluster;
use redis::cluster::ClusterClient;
use redis::{Client, Cmd, RedisResult};
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
                let _ = pass_on(client, (router, port), fate, &count);
            });
        }
    });
    (port, seen)
}

/// Says that one node owns all slots.
fn slots(port: u16) -> String {
    let id = "0".repeat(40);
    format!("*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$9\r\n127.0.0.1\r\n:{port}\r\n$40\r\n{id}\r\n")
}

fn pass_on(
    mut client: TcpStream,
    (router, own): (u16, u16),
    fate: Fate,
    seen: &AtomicUsize,
) -> io::Result<()> {
    let mut router = TcpStream::connect(("127.0.0.1", router))?;
    let (mut replies, mut back) = (router.try_clone()?, client.try_clone()?);
    thread::spawn(move || io::copy(&mut replies, &mut back));
    let mut bytes = [0; 4096];
    loop {
        let came = match client.read(&mut bytes)? {
            0 => return router.shutdown(Shutdown::Both),
            count => &bytes[..count],
        };
        let came_upper = came.to_ascii_uppercase();
        let has = |word: &[u8]| came_upper.windows(word.len()).any(|it| it == word);
        if has(b"SLOTS") {
            // A cluster client comes back to where its commands are counted.
            client.write_all(slots(own).as_bytes())?;
            continue;
        }
        let is_incr = has(b"INCR");
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

/// Prints what INCR answers, or the name of what is thrown.
fn python(port: u16, client: &str) -> String {
    let mut command = Command::new(clients().join("py/bin/python"));
    let script = format!(
        "import redis, sys\n\
         try:\n    print(redis.{client}('127.0.0.1', int(sys.argv[1])).incr('n'))\n\
         except redis.RedisError as error:\n    print(type(error).__name__)"
    );
    command.args(["-c", &script]);
    line_of(command, port)
}

fn redis_py(port: u16) -> String {
    python(port, "Redis")
}

fn redis_py_cluster(port: u16) -> String {
    python(port, "RedisCluster")
}

/// Prints what INCR answers, or what the error says.
fn node(port: u16, client: &str) -> String {
    let mut command = Command::new("node");
    let script = format!(
        "import {{ Cluster, Redis }} from 'ioredis';\n\
         const port = Number(process.argv[1]);\n\
         const client = new {client}.on('error', () => {{}});\n\
         console.log(await client.incr('n').catch((error) => error.message));\n\
         process.exit();"
    );
    command.current_dir(clients().join("node")).args(["--input-type=module", "-e", &script]);
    line_of(command, port)
}

fn ioredis(port: u16) -> String {
    node(port, "Redis(port)")
}

fn ioredis_cluster(port: u16) -> String {
    node(port, "Cluster([{ host: '127.0.0.1', port }])")
}

fn incr() -> Cmd {
    redis::cmd("INCR").arg("n").to_owned()
}

fn said(answer: RedisResult<i64>) -> String {
    match answer {
        Ok(value) => value.to_string(),
        Err(error) if error.is_io_error() => "broken".to_owned(),
        Err(error) => error.code().unwrap_or("no code").to_owned(),
    }
}

fn redis_rs(port: u16) -> String {
    let client = Client::open(format!("redis://127.0.0.1:{port}"));
    said(client.and_then(|client| incr().query(&mut client.get_connection()?)))
}

fn redis_rs_cluster(port: u16) -> String {
    // Its own waits between tries grow to minutes.
    let client = ClusterClient::builder([format!("redis://127.0.0.1:{port}")]);
    let client = client.retries(3).min_retry_wait(1).max_retry_wait(20).build();
    said(client.and_then(|client| incr().query(&mut client.get_connection()?)))
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

/// A client's row, the client, and how what it says of an answer ends: made of the answer, and of what redis-py throws.
type Line = (&'static str, fn(u16) -> String, fn(&'static str, &'static str) -> &'static str);

fn code_of(answer: &str) -> &str {
    answer.split(' ').next().expect("a code")
}

const CLIENTS: [Line; 6] = [
    ("redis-py 8.1, `Redis`", redis_py, |_, thrown| thrown),
    ("redis-py 8.1, `RedisCluster`", redis_py_cluster, |_, thrown| match thrown {
        // Of so many tries it tells the number alone.
        "TryAgainError" => "ClusterError",
        _ => thrown,
    }),
    ("ioredis 6.0, `Redis`", ioredis, |answer, _| answer),
    ("ioredis 6.0, `Cluster`", ioredis_cluster, |answer, _| answer),
    ("`redis` 1.8, plain connections", redis_rs, |answer, _| code_of(answer)),
    ("`redis` 1.8, cluster connections", redis_rs_cluster, |answer, _| code_of(answer)),
];

#[test]
fn each_answer_is_handed_out_and_tried_again_as_the_table_says() {
    let cluster = DevCluster::start(&[]);
    let router = cluster.port();
    for (answer, thrown) in ANSWERS {
        let code = code_of(answer);
        let column = usize::from(!["CLUSTERDOWN", "TRYAGAIN"].contains(&code));
        assert!(row_of(CLIENTS[0].0)[column].contains(thrown), "{thrown}");
        for (name, client, expected) in CLIENTS {
            let (port, seen) = between(router, Fate::Answer(answer));
            let said = client(port);
            assert!(said.ends_with(expected(answer, thrown)), "{name}: {answer}: {said}");
            let tries = seen.load(Ordering::SeqCst);
            let more = row_of(name)[column].contains("tries a few times");
            assert!(if more { tries > 1 } else { tries == 1 }, "{name}: {answer}: {tries} times");
        }
    }
}

#[test]
fn what_breaks_is_sent_again_as_the_table_says() {
    let cluster = DevCluster::start(&[]);
    let mut done = 0;
    for (name, client, _) in CLIENTS {
        let (port, seen) = between(cluster.port(), Fate::Break);
        let (said, seen) = (client(port), seen.load(Ordering::SeqCst));
        if is_sent_again(name) {
            done += 1;
            assert_eq!((said, seen), (done.to_string(), BREAKS + 1), "{name}");
        } else {
            assert_eq!((&*said, seen), ("broken", 1), "{name}");
        }
    }
    assert_eq!(done, 5, "all but one do");
}

//! Appends words over two routers and finds each of them once, whatever happens to the routers meanwhile.
//!
//! `exactly_once HOST:PORT HOST:PORT WORDS`, with the `redis` crate; `make exactly-once CLIENT=redis-rs` kills the routers.

use redis::{Client, Cmd, Connection, FromRedisValue, RedisError, RedisResult};
use std::hash::{BuildHasher, RandomState};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

struct Writer {
    routers: Vec<Client>,
    connection: Option<Connection>,
    sent_again: u64,
}

impl Writer {
    /// Sends a command until its own answer comes: a value, or an error of the command.
    fn answer<T: FromRedisValue>(&mut self, command: &Cmd) -> RedisResult<T> {
        let give_up = Instant::now() + Duration::from_secs(9 * 60); // a write is remembered for ten minutes
        loop {
            match self.connection().and_then(|connection| command.query(connection)) {
                Err(error) if is_open(&error) && Instant::now() < give_up => {}
                answer => return answer,
            }
            self.sent_again += 1;
            self.connection = None;
            self.routers.rotate_left(1);
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn connection(&mut self) -> RedisResult<&mut Connection> {
        if self.connection.is_none() {
            let connection = self.routers[0].get_connection()?;
            connection.set_read_timeout(Some(Duration::from_secs(10)))?;
            self.connection = Some(connection);
        }
        Ok(self.connection.as_mut().expect("it was made"))
    }
}

/// Whether the command may have been done, or may be done if it is sent again.
fn is_open(error: &RedisError) -> bool {
    let open = ["TIMEOUT", "CLUSTERDOWN", "TRYAGAIN", "OOM", "MISCONF"];
    error.is_io_error() || error.code().is_some_and(|code| open.contains(&code))
}

fn main() -> RedisResult<ExitCode> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, first, second, count] = &arguments[..] else {
        panic!("two routers, and how many words")
    };
    let routers =
        vec![Client::open(format!("redis://{first}"))?, Client::open(format!("redis://{second}"))?];
    // Nobody else's. A UUID is, too.
    let producer = RandomState::new().hash_one(std::process::id()).to_string();
    let mut writer = Writer { routers, connection: None, sent_again: 0 };

    let logs: Vec<String> = (0..10).map(|i| format!("log:{i}")).collect();
    let count = count.parse().expect("a number of words");
    let words: Vec<String> = (0..count).map(|i| format!("{producer}-{i};")).collect();
    for (id, (word, log)) in words.iter().zip(logs.iter().cycle()).enumerate() {
        let mut idmp = redis::cmd("IDMP");
        idmp.arg(&producer).arg(id).arg(&["APPEND", log, word]);
        writer.answer::<u64>(&idmp)?;
    }

    let held = writer.answer::<Vec<String>>(redis::cmd("MGET").arg(&logs))?.concat();
    let wrong = words.iter().filter(|word| held.matches(*word).count() != 1).count();
    println!("{count} words, {wrong} of them lost or doubled; sent again: {}", writer.sent_again);
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

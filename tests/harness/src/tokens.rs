//! Writers that append tokens to keys and remember what they were told, and the check of what the keys
//! hold in the end: nothing acknowledged is lost, nothing is there twice, nothing overtakes.

use crate::resp::{Client, Value};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Keys that the writers of one prefix share.
const KEYS: usize = 100;
/// How long a test waits for the next acknowledgement: a whole cluster may be starting.
const ACK_TIMEOUT: Duration = Duration::from_secs(60);

/// What a writer was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is done.
    Acknowledged,
    /// It was not done and will not be.
    Refused,
    /// Nothing, or that it may be done or not.
    Unknown,
}

/// One APPEND of a token that nobody else appends.
pub struct Attempt {
    key: String,
    token: String,
    /// What came of it.
    pub told: Told,
    /// When it was answered.
    pub answered: Instant,
}

/// Why a writer ended.
pub enum WriterEnd {
    /// It was told to.
    Told,
    /// By an error reply.
    Refused(String),
    /// Its connection broke.
    Disconnected,
}

/// What a writer does when its write is refused or nobody knows what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// It ends.
    None,
    /// It goes on to the next one: while no majority is up nothing else can be had.
    WithoutMajority,
}

/// Several at once, each on a connection of its own.
pub struct Writers {
    writers: Vec<JoinHandle<(Vec<Attempt>, WriterEnd)>>,
    stop: Arc<AtomicBool>,
    acks: mpsc::Receiver<()>,
}

impl Writers {
    /// Starts `count` writers over keys with `prefix`.
    pub fn start(port: u16, count: usize, prefix: &str, patience: Patience) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, acks) = mpsc::channel();
        let writers = (0..count)
            .map(|number| {
                let writer = Writer { port, number, prefix: prefix.to_owned(), patience };
                let (stop, told) = (stop.clone(), told.clone());
                thread::spawn(move || writer.write_tokens(&stop, &told))
            })
            .collect();
        Writers { writers, stop, acks }
    }

    /// Waits until so many more writes were acknowledged.
    pub fn wait_for_acks(&self, count: usize) {
        for seen in 0..count {
            let next = self.acks.recv_timeout(ACK_TIMEOUT);
            assert!(next.is_ok(), "only {seen} of {count} writes were acknowledged");
        }
    }

    /// Forgets what was acknowledged so far, so that the next wait is for what comes from now on.
    pub fn skip_acks(&self) {
        while self.acks.try_recv().is_ok() {}
    }

    /// Lets writers end after the write they are at, and collects what they tried.
    pub fn end(self) -> Vec<(Vec<Attempt>, WriterEnd)> {
        self.stop.store(true, Ordering::Relaxed);
        self.writers.into_iter().map(|writer| writer.join().expect("a writer")).collect()
    }

    /// The same; panics if one ended by itself.
    pub fn end_all_told(self) -> Vec<Vec<Attempt>> {
        let ended = self.end().into_iter().map(|(tried, end)| match end {
            WriterEnd::Told => tried,
            WriterEnd::Refused(reply) => panic!("a writer was answered {reply}"),
            WriterEnd::Disconnected => panic!("a connection of a writer broke"),
        });
        ended.collect()
    }
}

struct Writer {
    port: u16,
    number: usize,
    prefix: String,
    patience: Patience,
}

impl Writer {
    fn write_tokens(self, stop: &AtomicBool, told: &mpsc::Sender<()>) -> (Vec<Attempt>, WriterEnd) {
        let mut client = Client::connect(self.port).expect("a connection");
        let mut attempts = Vec::new();
        for n in 0.. {
            if stop.load(Ordering::Relaxed) {
                return (attempts, WriterEnd::Told);
            }
            let key = format!("{}:{}", self.prefix, (n * 7 + self.number * 13) % KEYS);
            let token = format!("{}-{n};", self.number);
            let reply = client.call(&["APPEND", &key, &token]);
            let what = self.meaning(&reply);
            let told_this = what.unwrap_or(Told::Unknown);
            attempts.push(Attempt { key, token, told: told_this, answered: Instant::now() });
            match (what, reply) {
                (Some(Told::Acknowledged), _) => {
                    // Nobody listens any more once the test has seen enough.
                    let _ = told.send(());
                }
                (Some(_), _) if self.patience == Patience::WithoutMajority => {}
                (_, Ok(reply)) => return (attempts, WriterEnd::Refused(format!("{reply:?}"))),
                (_, Err(_)) => return (attempts, WriterEnd::Disconnected),
            }
        }
        unreachable!("the range has no end")
    }

    /// What a reply says of the write; `None` if it is none that a writer expects.
    fn meaning(&self, reply: &std::io::Result<Value>) -> Option<Told> {
        match reply {
            Ok(Value::Integer(_)) => Some(Told::Acknowledged),
            Ok(Value::Error(text)) if text.starts_with("CLUSTERDOWN ") => Some(Told::Refused),
            Ok(Value::Error(text)) if text.starts_with("MISCONF ") => Some(Told::Refused),
            Ok(Value::Error(text)) if text.starts_with("TIMEOUT ") => Some(Told::Unknown),
            _ => None,
        }
    }
}

/// Checks every attempt against what the keys hold now: acknowledged tokens once, refused ones never,
/// others once or never, nothing that nobody wrote, and each writer's tokens in its order.
pub fn check_tokens(client: &mut Client, attempts: &[Vec<Attempt>]) {
    let mut held: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for attempt in attempts.iter().flatten() {
        held.entry(&attempt.key).or_insert_with(|| match client.call(&["GET", &attempt.key]) {
            Ok(Value::Bulk(bytes)) => {
                let text = String::from_utf8(bytes).expect("tokens are text");
                text.split_inclusive(';').map(str::to_owned).collect()
            }
            Ok(Value::Nil) => Vec::new(),
            other => panic!("GET {}: {other:?}", attempt.key),
        });
    }
    let mut explained = 0;
    for writer in attempts {
        let mut last_place: BTreeMap<&str, usize> = BTreeMap::new();
        for attempt in writer {
            let tokens = &held[attempt.key.as_str()];
            let places: Vec<usize> =
                (0..tokens.len()).filter(|at| tokens[*at] == attempt.token).collect();
            let (key, token, told) = (&attempt.key, &attempt.token, attempt.told);
            assert!(places.len() <= 1, "{token} is in {key} {} times", places.len());
            let lost = places.is_empty() && told == Told::Acknowledged;
            assert!(!lost, "{token} of {key} was lost");
            let done = !places.is_empty() && told == Told::Refused;
            assert!(!done, "{token} of {key} was refused, and done");
            if let Some(place) = places.first() {
                let before = last_place.insert(key, *place);
                assert!(before.is_none_or(|before| before < *place), "{token} of {key} overtook");
                explained += 1;
            }
        }
    }
    let all: usize = held.values().map(Vec::len).sum();
    assert_eq!(explained, all, "every token held was written by somebody");
}

/// Longest time in which a writer got no answer.
pub fn longest_gap(attempts: &[Vec<Attempt>]) -> Duration {
    let gaps = attempts.iter().flat_map(|writer| {
        writer.windows(2).map(|pair| pair[1].answered.duration_since(pair[0].answered))
    });
    gaps.max().unwrap_or_default()
}

/// How many were acknowledged.
pub fn acknowledged(attempts: &[Vec<Attempt>]) -> usize {
    attempts.iter().flatten().filter(|attempt| attempt.told == Told::Acknowledged).count()
}

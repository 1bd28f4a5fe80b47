//! Every call of a core on tape, and a tape played again (I14: the same calls, the same bytes).
//!
//! A tape is text: a line for how the core was opened, then one for each call, with the time, what
//! was called, what it was given (postcard, in hex) and, after `->`, all that came of it: what the
//! call returned, what `poll` owes, the core's digest and when it wants to be called next. Played
//! again, each line must come out as it stands there.

use bytes::Bytes;
use raft_core::conf::ConfChange;
use raft_core::effects::{
    Effects, FetchResult, NodeLiveness, Proposed, Pull, ReadMode, Refused, Reject,
};
use raft_core::frame::{Frame, decode};
use raft_core::message::Message;
use raft_core::snapshot::{SnapEvent, Snapshot};
use raft_core::types::{Entry, FetchId, Index, NodeId, Now, ReadId, WriteToken};
use raft_core::{Config, OpenError, Raft, Restored};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::ops::Deref;

/// How a core was opened.
#[derive(Debug, Serialize, Deserialize)]
struct Opened {
    config: Config,
    restored: Restored,
    seed: u64,
}

/// What a core was told. Entries travel as their frames.
#[derive(Debug, Serialize, Deserialize)]
enum Call {
    Step(NodeId, Message, Vec<Bytes>),
    Propose(Vec<Bytes>),
    ReadIndex(ReadId, ReadMode),
    ChangeConf(ConfChange),
    Transfer(NodeId),
    Tick,
    Liveness(NodeId, NodeLiveness),
    Persisted(WriteToken),
    Applied(Index, u64),
    Fetched(FetchId, Option<Vec<Bytes>>),
    NextAppend(NodeId, u64),
    Poll,
    Checkpointed(Snapshot),
    ShortenLog,
    Snapshot(SnapEvent),
}

/// A core whose calls go on a tape, if there is one. What only looks goes through to the core.
#[derive(Clone, Debug)]
pub struct Recorded {
    raft: Raft,
    tape: Option<String>,
}

impl Deref for Recorded {
    type Target = Raft;

    fn deref(&self) -> &Raft {
        &self.raft
    }
}

fn frames(entries: &[Entry]) -> Vec<Bytes> {
    entries.iter().map(|entry| entry.frame.clone()).collect()
}

fn entries(frames: Vec<Bytes>) -> Result<Vec<Entry>, String> {
    let entry = |mut frame: Bytes| match decode(&mut frame) {
        Ok(Frame::Entry(_, entry)) => Ok(entry),
        other => Err(format!("no entry: {other:?}")),
    };
    frames.into_iter().map(entry).collect()
}

fn hex(value: &impl Serialize) -> String {
    let bytes = postcard::to_stdvec(value).expect("what is told can be written");
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string has room");
        text
    })
}

fn unhex<T: for<'a> Deserialize<'a>>(text: &str) -> Result<T, String> {
    let byte = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(byte).collect();
    postcard::from_bytes(&bytes.ok_or("no hex")?).map_err(|error| error.to_string())
}

/// The name of a call, for whoever reads the tape.
fn name(call: &Call) -> String {
    let text = format!("{call:?}");
    text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_string()
}

impl Recorded {
    /// Opens a core, on a tape of its own if `record`.
    ///
    /// # Errors
    /// As [`Raft::open`].
    pub fn open(
        config: Config,
        restored: Restored,
        seed: u64,
        now: Now,
        record: bool,
    ) -> Result<Recorded, OpenError> {
        let opened = Opened { config: config.clone(), restored: restored.clone(), seed };
        let raft = Raft::open(config, restored, seed, now)?;
        let tape = record.then(|| format!("{now} Open {}\n", hex(&opened)));
        Ok(Recorded { raft, tape })
    }

    /// The tape so far.
    pub fn tape(&self) -> Option<&str> {
        self.tape.as_deref()
    }

    /// Does one call, and writes down what it was given and what came of it.
    fn record<T: std::fmt::Debug>(
        &mut self,
        now: Now,
        call: impl FnOnce() -> Call,
        run: impl FnOnce(&mut Raft) -> T,
    ) -> T {
        let call = self.tape.is_some().then(call);
        let result = run(&mut self.raft);
        self.write(now, call, &result);
        result
    }

    fn write(&mut self, now: Now, call: Option<Call>, result: &impl std::fmt::Debug) {
        let Some((call, tape)) = call.zip(self.tape.as_mut()) else { return };
        let (digest, due) = (self.raft.digest(), self.raft.deadline());
        let outcome = format!("{result:?} digest={digest:016x} due={due:?}");
        writeln!(tape, "{now} {} {} -> {outcome}", name(&call), hex(&call)).expect("room");
    }

    /// See [`Raft::step`].
    pub fn step(&mut self, now: Now, from: NodeId, message: Message) -> Result<(), Reject> {
        let call = || {
            let entries = match &message {
                Message::AppendEntries(m) => frames(&m.entries),
                _ => Vec::new(),
            };
            Call::Step(from, message.clone(), entries)
        };
        let call = self.tape.is_some().then(call);
        let result = self.raft.step(now, from, message);
        self.write(now, call, &result);
        result
    }

    /// See [`Raft::propose`]. On the tape stands as much of the batch as the core looked at.
    pub fn propose(&mut self, now: Now, batch: &mut dyn Iterator<Item = Bytes>) -> Proposed {
        let mut seen = Vec::new();
        let result =
            self.raft.propose(now, &mut batch.inspect(|payload| seen.push(payload.clone())));
        let call = self.tape.is_some().then_some(Call::Propose(seen));
        self.write(now, call, &result);
        result
    }

    /// See [`Raft::read_index`].
    pub fn read_index(&mut self, now: Now, id: ReadId, mode: ReadMode) -> Result<(), Refused> {
        self.record(now, || Call::ReadIndex(id, mode), |raft| raft.read_index(now, id, mode))
    }

    /// See [`Raft::change_conf`].
    pub fn change_conf(&mut self, now: Now, change: &ConfChange) -> Result<Index, Refused> {
        let call = || Call::ChangeConf(change.clone());
        self.record(now, call, |raft| raft.change_conf(now, change))
    }

    /// See [`Raft::transfer`].
    pub fn transfer(&mut self, now: Now, to: NodeId) -> Result<(), Refused> {
        self.record(now, || Call::Transfer(to), |raft| raft.transfer(now, to))
    }

    /// See [`Raft::tick`].
    pub fn tick(&mut self, now: Now) {
        self.record(now, || Call::Tick, |raft| raft.tick(now));
    }

    /// See [`Raft::liveness`].
    pub fn liveness(&mut self, now: Now, peer: NodeId, edge: NodeLiveness) {
        let call = || Call::Liveness(peer, edge);
        self.record(now, call, |raft| raft.liveness(now, peer, edge));
    }

    /// See [`Raft::persisted`].
    pub fn persisted(&mut self, now: Now, token: WriteToken) {
        self.record(now, || Call::Persisted(token), |raft| raft.persisted(now, token));
    }

    /// See [`Raft::applied`].
    pub fn applied(&mut self, now: Now, index: Index, bytes: u64) {
        self.record(now, || Call::Applied(index, bytes), |raft| raft.applied(now, index, bytes));
    }

    /// See [`Raft::fetched`].
    pub fn fetched(&mut self, now: Now, id: FetchId, result: FetchResult) {
        let call = || match &result {
            FetchResult::Entries(entries) => Call::Fetched(id, Some(frames(entries))),
            FetchResult::Gone => Call::Fetched(id, None),
        };
        let call = self.tape.is_some().then(call);
        self.raft.fetched(now, id, result);
        self.write(now, call, &());
    }

    /// See [`Raft::next_append`].
    pub fn next_append(&mut self, now: Now, peer: NodeId, room: u64) -> Pull {
        let call = || Call::NextAppend(peer, room);
        self.record(now, call, |raft| raft.next_append(now, peer, room))
    }

    /// See [`Raft::checkpointed`].
    pub fn checkpointed(&mut self, now: Now, snapshot: Snapshot) {
        let call = || Call::Checkpointed(snapshot.clone());
        self.record(now, call, |raft| raft.checkpointed(now, snapshot.clone()));
    }

    /// See [`Raft::shorten_log`].
    pub fn shorten_log(&mut self, now: Now) {
        self.record(now, || Call::ShortenLog, Raft::shorten_log);
    }

    /// See [`Raft::snapshot`].
    pub fn snapshot(&mut self, now: Now, event: SnapEvent) {
        self.record(now, || Call::Snapshot(event), |raft| raft.snapshot(now, event));
    }

    /// See [`Raft::poll`].
    pub fn poll(&mut self, now: Now, effects: &mut Effects) -> bool {
        let owed = self.raft.poll(now, effects);
        let call = self.tape.is_some().then_some(Call::Poll);
        self.write(now, call, &(owed, effects));
        owed
    }

    fn play(&mut self, now: Now, call: Call) -> Result<(), String> {
        match call {
            Call::Step(from, mut message, frames) => {
                if let Message::AppendEntries(m) = &mut message {
                    m.entries = entries(frames)?.into();
                }
                let _on_tape = self.step(now, from, message);
            }
            Call::Propose(batch) => {
                self.propose(now, &mut batch.into_iter());
            }
            Call::ReadIndex(id, mode) => {
                let _on_tape = self.read_index(now, id, mode);
            }
            Call::ChangeConf(change) => {
                let _on_tape = self.change_conf(now, &change);
            }
            Call::Transfer(to) => {
                let _on_tape = self.transfer(now, to);
            }
            Call::Tick => self.tick(now),
            Call::Liveness(peer, edge) => self.liveness(now, peer, edge),
            Call::Persisted(token) => self.persisted(now, token),
            Call::Applied(index, bytes) => self.applied(now, index, bytes),
            Call::Fetched(id, found) => {
                let found = found.map(entries).transpose()?;
                self.fetched(now, id, found.map_or(FetchResult::Gone, FetchResult::Entries));
            }
            Call::NextAppend(peer, room) => {
                self.next_append(now, peer, room);
            }
            Call::Checkpointed(snapshot) => self.checkpointed(now, snapshot),
            Call::ShortenLog => self.shorten_log(now),
            Call::Snapshot(event) => self.snapshot(now, event),
            Call::Poll => {
                self.poll(now, &mut Effects::default());
            }
        }
        Ok(())
    }
}

/// Opens a new core as the tape says, calls it as the tape says, and compares each line. How many
/// calls that were.
///
/// # Errors
/// With the first line that comes out otherwise, both as it was and as it is, or with what is no tape.
pub fn replay(tape: &str) -> Result<usize, String> {
    let mut lines = tape.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (now, verb, given) = (words.next(), words.next(), words.next());
    let (Some(now), Some("Open"), Some(given)) = (now, verb, given) else {
        return Err("a tape begins with how the core was opened".into());
    };
    let Opened { config, restored, seed } = unhex(given)?;
    let now: Now = now.parse().map_err(|_| format!("{now} is no time"))?;
    let opened = Recorded::open(config, restored, seed, now, true);
    let mut core = opened.map_err(|error| error.to_string())?;
    let mut calls = 0;
    for line in lines {
        let mut words = line.split(' ');
        let (now, given) = (words.next().unwrap_or_default(), words.nth(1).unwrap_or_default());
        let now: Now = now.parse().map_err(|_| format!("{now} is no time"))?;
        let from = core.tape.as_ref().map_or(0, String::len);
        core.play(now, unhex(given).map_err(|error| format!("{error} in {line}"))?)?;
        calls += 1;
        let came = core.tape.as_ref().map_or("", |tape| tape[from..].trim_end());
        if came != line {
            return Err(format!("call {calls} was\n{line}\nand is\n{came}"));
        }
    }
    Ok(calls)
}

//! Arbitrary messages into `Raft::step`, from members and strangers, with the numbers at which
//! arithmetic breaks, and around them a host that does in any order what hosts may do: it hears edges of
//! all kinds, its disk ends some writes and not others, it takes checkpoints, and what it reads back may be
//! of another log. A refused message must change nothing, and memory must stay in its bounds.

use crate::raft_checker::memory_within;
use crate::raft_faults::Random;
use bytes::Bytes;
use raft_core::conf::{Conf, ConfChange};
use raft_core::effects::{Effects, Fetch, FetchResult, NodeLiveness, Pull, ReadMode, Write};
use raft_core::frame::encode_entry;
use raft_core::message::*;
use raft_core::snapshot::{SnapCmd, SnapEvent, Snapshot, SnapshotId};
use raft_core::types::{
    Entry, EntryId, EntryKind, FetchId, GroupId, Index, NodeId, Now, ReadId, Term, WriteToken,
};
use raft_core::{Config, Raft, Restored, invariants};
use std::collections::BTreeMap;

/// Messages for each.
const MESSAGES: u64 = 300;
/// The kinds of messages.
const KINDS: u64 = 13;

/// What was done to one core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fuzzed {
    /// Messages given.
    pub messages: u64,
    /// Messages refused.
    pub refused: u64,
    /// The term it was brought to.
    pub term: Term,
    /// How often its log was cut behind a checkpoint.
    pub compactions: u64,
    /// Pieces of snapshots that it sent.
    pub pieces: u64,
}

/// Puts one core through it.
///
/// # Panics
/// If the core does, or breaks a rule.
pub fn fuzz(seed: u64) -> Fuzzed {
    let mut fuzz = open(Random::new(seed, 9), seed);
    (0..MESSAGES).for_each(|_| fuzz.turn());
    fuzz.done()
}

/// The same with what a fuzzer chooses, as long as it goes.
///
/// # Panics
/// If the core does, or breaks a rule.
pub fn fuzz_chosen(bytes: &[u8]) -> Fuzzed {
    let mut fuzz = open(Random::chosen(bytes), 0);
    while fuzz.random.has_chosen() {
        fuzz.turn();
    }
    fuzz.done()
}

struct Fuzz {
    raft: Raft,
    config: Config,
    random: Random,
    now: Now,
    /// Writes handed over and not reported as durable, oldest first.
    tokens: Vec<WriteToken>,
    /// Its disk never ends a write.
    stalled: bool,
    /// Of a hundred messages, those of another term: where they are few, a leader comes further.
    other_terms: u64,
    /// How often it is polled after a call: a host may hand in several first.
    polls_percent: u64,
    /// What was asked last, and of whom.
    sent: Vec<(NodeId, Message)>,
    /// What was handed over of the log.
    log: BTreeMap<Index, Entry>,
    fetches: Vec<Fetch>,
    /// The last entries that the state machine was given, and the newest configuration before each.
    given: Vec<(EntryId, (Index, Conf))>,
    /// The last snapshot handed over.
    installing: Option<Snapshot>,
    done: Fuzzed,
}

fn open(mut random: Random, seed: u64) -> Fuzz {
    let mut config = Config::new(NodeId(1), GroupId(1), (1..=3).map(NodeId).collect());
    config.uncommitted_bytes_max = 4_000;
    config.unsynced_bytes_max = 4_000;
    config.inflight_bytes_max = 2_000;
    config.entry_cache_bytes_max = 2_000;
    config.apply_queue_bytes_max = 2_000;
    config.waiting_reads_max = 8;
    config.entry_bytes_max = 1_000;
    config.log_trailing_bytes = random.pick(&[0, 1_000]);
    config.log_bytes_max = random.pick(&[1, 2_000]);
    config.log_disk_bytes_max = random.pick(&[2_000, 1 << 20]);
    config.snapshot_window_bytes = 300;
    config.epoch = 1;
    config.lease_ns = if random.chance(50) { config.election_timeout_ns_min } else { 0 };
    #[cfg(feature = "mutants")]
    let config = crate::raft_mutant::applied(vec![config]).remove(0);
    let raft = Raft::open(config.clone(), Restored::default(), seed, 0).expect("settings are fine");
    Fuzz {
        raft,
        config,
        stalled: random.chance(20),
        other_terms: random.pick(&[10, 10, 1]),
        polls_percent: random.pick(&[100, 100, 60, 20]),
        random,
        now: 0,
        tokens: Vec::new(),
        sent: Vec::new(),
        log: BTreeMap::new(),
        fetches: Vec::new(),
        given: Vec::new(),
        installing: None,
        done: Fuzzed::default(),
    }
}

impl Fuzz {
    fn done(self) -> Fuzzed {
        Fuzzed { term: self.raft.status().hard.term, ..self.done }
    }

    /// A number: near what the core has, or at an end.
    fn number(&mut self, near: u64) -> u64 {
        let near = [near, near + 1, near.saturating_sub(1), near + 2, near / 2];
        let far = [0, 1, ID_MAX - 1, ID_MAX, ID_MAX + 1, u64::MAX, u64::MAX - 1];
        if self.random.chance(75) { self.random.pick(&near) } else { self.random.pick(&far) }
    }

    fn term(&mut self) -> Term {
        let current = self.raft.status().hard.term.0;
        // Mostly the current one: others are soon dealt with.
        match self.random.chance(100 - self.other_terms) {
            true => Term(current.max(1)),
            false if self.random.chance(70) => Term(current + 1),
            false => Term(self.number(current)),
        }
    }

    fn index(&mut self) -> Index {
        let status = self.raft.status();
        let near = self.random.pick(&[status.last, status.last].map(|id| id.index.0));
        let near = if self.random.chance(30) { status.commit.0 } else { near };
        Index(self.number(near))
    }

    fn id(&mut self) -> EntryId {
        match self.random.chance(50) {
            true => self.raft.status().last,
            false => EntryId { index: self.index(), term: self.term() },
        }
    }

    fn snapshot_id(&mut self) -> SnapshotId {
        let incoming = self.raft.incoming().map(|(id, _)| id);
        let other = SnapshotId { at: self.id(), hash: self.number(7) };
        incoming.filter(|_| self.random.chance(50)).unwrap_or(other)
    }

    fn nodes(&mut self, percent: u64) -> Vec<NodeId> {
        (1..=5).map(NodeId).filter(|_| self.random.chance(percent)).collect()
    }

    /// Who may be in the group; often nobody could be in such a group.
    fn conf(&mut self) -> Conf {
        let three: Vec<NodeId> = (1..=3).map(NodeId).collect();
        let mut conf = Conf::of_voters(if self.random.chance(50) { three } else { self.nodes(60) });
        let joint = self.random.chance(30);
        if joint {
            conf.outgoing = self.nodes(60);
        }
        let strangers = self.nodes(30);
        let others = |id: &NodeId| !conf.voters.contains(id) && !conf.outgoing.contains(id);
        conf.learners = strangers.into_iter().filter(others).collect();
        if !joint && self.random.chance(20) {
            conf.goal = self.nodes(60);
        }
        conf
    }

    fn entries(&mut self, prev: EntryId) -> Vec<Entry> {
        let mut at = prev;
        let count = self.random.below(4);
        let entry = |fuzz: &mut Fuzz| {
            let holes = fuzz.random.chance(3);
            at.index = if holes { fuzz.index() } else { at.index.next() };
            at.term = if fuzz.random.chance(70) { at.term.max(Term(1)) } else { fuzz.term() };
            let size = fuzz.random.pick(&[0, 1, 30, 900]);
            // What fills a stalled disk is to be taken: no configuration that is refused.
            let least = if fuzz.stalled { 4 } else { 0 };
            let (kind, payload) = match least + fuzz.random.below(20 - least) {
                0 => (EntryKind::Conf, vec![7; size]),
                1..4 => (EntryKind::Conf, fuzz.conf().encode()),
                4..12 => (EntryKind::Empty, vec![7; size]),
                _ => (EntryKind::Command, vec![7; size]),
            };
            let mut entry = encode_entry(GroupId(1), at, kind, &payload);
            if fuzz.random.chance(3) {
                entry.frame = entry.frame.slice(..fuzz.random.below(40).min(20) as usize);
            }
            entry
        };
        let mut entry = entry;
        (0..count).map(|_| entry(self)).collect()
    }

    fn message(&mut self) -> Message {
        let (term, seq) = (self.term(), self.number(1 << 32));
        let (stamp, lease_ns) = (self.number(self.now), self.number(self.config.lease_ns));
        let yes = self.random.chance(70);
        // Entries without end into a disk that is stalled.
        let kind = match self.stalled && self.random.chance(60) {
            true => 4,
            false => self.random.below(KINDS),
        };
        match kind {
            0 => Message::PreVote(PreVote { term, round: seq, last: self.id() }),
            1 => Message::PreVoteReply(PreVoteReply {
                term,
                round: seq,
                granted: yes,
                removed: (!yes).then_some(Index(seq)),
            }),
            2 => Message::RequestVote(RequestVote { term, last: self.id(), transfer: yes }),
            3 => Message::RequestVoteReply(RequestVoteReply { term, granted: yes }),
            4 => {
                let (prev, commit) = (self.id(), self.index());
                let entries = self.entries(prev);
                let m =
                    AppendEntries { term, prev, commit, stamp, lease_ns, entries: entries.into() };
                Message::AppendEntries(m)
            }
            5 => {
                let outcome = match yes {
                    true => {
                        AppendOutcome::Accepted { matched: self.index(), received: self.index() }
                    }
                    false => AppendOutcome::Rejected { prev: self.index(), hint: self.id() },
                };
                let commit = self.index();
                let m = AppendEntriesReply { term, stamp, promised_ns: lease_ns, commit, outcome };
                Message::AppendEntriesReply(m)
            }
            6 => Message::Confirm(Confirm { term, seq, stamp, lease_ns }),
            7 => Message::ConfirmReply(ConfirmReply { term, seq, stamp, promised_ns: lease_ns }),
            8 => Message::ReadIndex(ReadIndex { term, seq }),
            9 => {
                let index = yes.then(|| self.index());
                Message::ReadIndexReply(ReadIndexReply { term, seq, index })
            }
            10 => {
                let id = self.snapshot_id();
                let offset = self.number(1000);
                let (promised_ns, m) = (lease_ns, stamp);
                let m = InstallSnapshotReply { term, stamp: m, promised_ns, id, offset };
                Message::InstallSnapshotReply(m)
            }
            11 => {
                let (id, at) = (self.snapshot_id(), self.index());
                let voters = if yes { vec![NodeId(1), NodeId(2)] } else { vec![NodeId(3); 2] };
                let conf = Conf { voters, ..Conf::default() };
                let snapshot =
                    Box::new(Snapshot { id, bytes: self.number(1000), conf: (at, conf) });
                Message::InstallSnapshot(InstallSnapshot { term, stamp, lease_ns, snapshot })
            }
            _ => Message::TimeoutNow(TimeoutNow { term }),
        }
    }

    /// One message, and sometimes what a host does besides.
    fn turn(&mut self) {
        self.done.messages += 1;
        let from = NodeId(self.random.pick(&[2, 2, 2, 3, 3, 3, 1, 0, 4, u64::MAX]));
        // Answers to what was really asked get further than invented ones.
        let asked = self.sent.pop().filter(|_| self.random.chance(50));
        let answer = asked.and_then(|(peer, message)| Some((peer, self.answer(message)?)));
        let (from, message) = answer.unwrap_or_else(|| (from, self.message()));
        let before = self.picture();
        if self.raft.step(self.now, from, message.clone()).is_err() {
            self.done.refused += 1;
            assert_eq!(self.picture(), before, "refused, and yet it changed: {message:?}");
        }
        self.maybe_poll();
        match self.random.chance(50) {
            true => self.client(),
            false => self.host(from),
        }
        self.maybe_poll();
    }

    /// What a peer says that does as it is told.
    fn answer(&mut self, message: Message) -> Option<Message> {
        Some(match message {
            Message::PreVote(m) => Message::PreVoteReply(PreVoteReply {
                term: m.term,
                round: m.round,
                granted: true,
                removed: None,
            }),
            Message::RequestVote(m) => {
                Message::RequestVoteReply(RequestVoteReply { term: m.term, granted: true })
            }
            Message::AppendEntries(m) => {
                let matched = m.entries.last().map_or(m.prev.index, |entry| entry.id.index);
                let (term, stamp, promised_ns, commit) = (m.term, m.stamp, m.lease_ns, m.commit);
                let outcome = AppendOutcome::Accepted { matched, received: matched };
                let m = AppendEntriesReply { term, stamp, promised_ns, commit, outcome };
                Message::AppendEntriesReply(m)
            }
            Message::InstallSnapshot(m) => {
                let (term, stamp, promised_ns) = (m.term, m.stamp, m.lease_ns);
                let end = m.snapshot.bytes.saturating_add(1);
                let (id, offset) = (m.snapshot.id, self.random.below(end));
                let m = InstallSnapshotReply { term, stamp, promised_ns, id, offset };
                Message::InstallSnapshotReply(m)
            }
            _ => return None,
        })
    }

    /// What is asked of a replica from outside, and the clock.
    fn client(&mut self) {
        match self.random.below(8) {
            0 => self.now += self.random.pick(&[1, 100_000_000, 1_100_000_000]),
            1 => self.raft.tick(self.now),
            2 => {
                let payload = Bytes::from(vec![1; self.random.below(300) as usize]);
                self.raft.propose(self.now, &mut std::iter::once(payload));
            }
            3 => {
                let peer = NodeId(2 + self.random.below(3));
                self.pull(peer);
            }
            4 => drop(self.raft.read_index(self.now, ReadId(self.now), ReadMode::Lease)),
            5 => drop(self.raft.transfer(self.now, NodeId(self.random.below(5)))),
            6 => {
                let change =
                    ConfChange { voters: self.nodes(60), learners: self.nodes(20), follows: 0 };
                let _refused = self.raft.change_conf(self.now, &change);
            }
            _ => self.fire(),
        }
    }

    fn pull(&mut self, peer: NodeId) {
        let room = 1 + self.random.below(5000);
        if let Pull::Ready(message) = self.raft.next_append(self.now, peer, room) {
            self.sent.push((peer, message));
        }
    }

    /// Time passes until the next timer, and stands still then: soon nothing is due any more.
    fn fire(&mut self) {
        self.now = self.now.max(self.raft.deadline().unwrap_or_default());
        let due = |fuzz: &Fuzz| fuzz.raft.deadline().is_some_and(|at| at <= fuzz.now);
        for _ in 0..4 {
            self.raft.tick(self.now);
            self.poll();
            if !due(self) {
                return;
            }
        }
        panic!("busy with nothing: {:?}", self.raft.status());
    }

    /// What a host tells.
    fn host(&mut self, from: NodeId) {
        match self.random.below(8) {
            0 | 1 if !self.stalled => self.disk_ends_some(),
            2 => {
                let index = self.index();
                self.raft.applied(self.now, index, 100);
            }
            3 => self.fetched(),
            4 => {
                let edge = self.edge();
                self.raft.liveness(self.now, from, edge);
            }
            5 => {
                if let Some((id, offset)) = self.raft.incoming() {
                    let offset = self.number(offset.min(1 << 40) + 500);
                    self.raft.snapshot(self.now, SnapEvent::Received { id, offset });
                }
            }
            6 => self.snapshot_event(from),
            7 => self.checkpoint(),
            _ => {}
        }
    }

    /// Some of the writes are durable, in their order; or the end of one is told again.
    fn disk_ends_some(&mut self) {
        let count = self.random.below(self.tokens.len() as u64 + 1) as usize;
        let token = match count.checked_sub(1) {
            Some(last) => self.tokens[last],
            None => WriteToken(self.random.below(4)).min(self.durable()),
        };
        self.tokens.drain(..count);
        self.raft.persisted(self.now, token);
    }

    /// The last token whose end was told, or could be.
    fn durable(&self) -> WriteToken {
        self.tokens.first().map_or(WriteToken(0), |next| WriteToken(next.0 - 1))
    }

    fn edge(&mut self) -> NodeLiveness {
        match self.random.below(8) {
            0..3 => NodeLiveness::Up { epoch: self.random.below(3), link: self.now },
            3 => NodeLiveness::Down { gone: self.random.chance(50) },
            4 => NodeLiveness::Deaf,
            5 => NodeLiveness::DiskStalled,
            6 => NodeLiveness::Disowned { term: self.term() },
            _ => NodeLiveness::Unbelieved { term: self.term() },
        }
    }

    /// Answers a fetch: with what was asked for, with something else, or with nothing.
    fn fetched(&mut self) {
        let Some(Fetch { id, from, to, .. }) = self.fetches.pop() else {
            let id = FetchId(self.random.below(20));
            return self.raft.fetched(self.now, id, FetchResult::Gone);
        };
        let (from, to) = match self.random.below(4) {
            0 => (self.index(), self.index()),
            1 => (from, Index(u64::MAX)),
            _ => (from, to),
        };
        let found = self.log.range(from..).take_while(|(index, _)| **index <= to);
        let mut entries: Vec<Entry> = found.map(|(_, entry)| entry.clone()).collect();
        if self.random.chance(10)
            && let Some(entry) = entries.last_mut()
        {
            entry.id = self.id();
        }
        let result = match self.random.chance(10) {
            true => FetchResult::Gone,
            false => FetchResult::Entries(entries),
        };
        self.raft.fetched(self.now, id, result);
    }

    fn snapshot_event(&mut self, from: NodeId) {
        let id = self.snapshot_id();
        let durable = self.tokens.is_empty();
        let event = match self.random.below(3) {
            0 => SnapEvent::Corrupt { id },
            1 => SnapEvent::Failed { peer: from },
            // The state machine holds it, once its write is durable.
            _ => match self.installing.take_if(|_| durable) {
                None => return,
                Some(Snapshot { id, conf, .. }) => {
                    self.given = vec![(id.at, conf)];
                    SnapEvent::Installed { id }
                }
            },
        };
        self.raft.snapshot(self.now, event);
    }

    /// Somewhere in what is applied a checkpoint is durable.
    fn checkpoint(&mut self) {
        let upto = self.raft.checkpointable();
        let possible = |(at, (_, conf)): &&(EntryId, (Index, Conf))| {
            at.index > Index(0) && at.index <= upto && !conf.voters.is_empty()
        };
        let count = self.given.iter().filter(possible).count() as u64;
        let nth = self.random.below(count) as usize;
        let Some((at, conf)) = self.given.iter().filter(possible).nth(nth).cloned() else { return };
        let id = SnapshotId { at, hash: self.random.below(10) };
        let snapshot = Snapshot { id, bytes: 1 + self.random.below(1000), conf };
        self.raft.checkpointed(self.now, snapshot);
    }

    fn maybe_poll(&mut self) {
        if self.random.chance(self.polls_percent) {
            self.poll();
        }
    }

    fn poll(&mut self) {
        let mut effects = Effects::default();
        self.raft.poll(self.now, &mut effects);
        if let Some(write) = effects.write {
            self.write(write);
        }
        for entry in effects.commit {
            let before = (Index(0), Conf::of_voters((1..=3).map(NodeId).collect()));
            let before = self.given.last().map_or(before, |(_, conf)| conf.clone());
            let conf = Conf::of_entry(&entry).map(|conf| (entry.id.index, conf));
            self.given.push((entry.id, conf.unwrap_or(before)));
        }
        self.given.drain(..self.given.len().saturating_sub(16));
        if let Some(base) = effects.compact {
            self.done.compactions += 1;
            self.log.retain(|index, _| *index > base.index);
        }
        let sends = |command: &&SnapCmd| matches!(command, SnapCmd::Send { .. });
        self.done.pieces += effects.snaps.iter().filter(sends).count() as u64;
        self.fetches.append(&mut effects.fetch);
        self.fetches.drain(..self.fetches.len().saturating_sub(8));
        let later = effects.send_after.into_iter().map(|(_, envelope)| envelope);
        let said = effects.send.into_iter().chain(later);
        self.sent.extend(said.map(|envelope| (envelope.to, envelope.message)));
        self.sent.drain(..self.sent.len().saturating_sub(8));
        for peer in effects.appendable {
            if self.random.chance(50) {
                self.pull(peer);
            }
        }
        invariants::check(&self.raft);
        memory_within(NodeId(1), &self.raft.memory(), &self.config);
    }

    fn write(&mut self, write: Write) {
        self.tokens.push(write.token);
        if let Some(snapshot) = write.install {
            assert_eq!(self.installing, None, "R26: two snapshots are installed at once");
            self.installing = Some(*snapshot);
            self.log.clear();
        }
        if let Some(from) = write.truncate_from {
            self.log.retain(|index, _| *index < from);
        }
        self.log.extend(write.entries.into_iter().map(|entry| (entry.id.index, entry)));
    }

    /// All that a refused message must leave alone, timers included.
    fn picture(&self) -> (u64, Option<Now>, raft_core::Status) {
        (self.raft.digest(), self.raft.deadline(), self.raft.status())
    }
}

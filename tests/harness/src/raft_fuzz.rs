//! Arbitrary messages into `Raft::step`, from members and strangers, with the numbers at which
//! arithmetic breaks. A refused message must change nothing, and memory must stay in its bounds.

use crate::raft_checker::memory_within;
use crate::raft_faults::Random;
use bytes::Bytes;
use raft_core::conf::{Conf, ConfChange};
use raft_core::effects::{Effects, NodeLiveness, ReadMode};
use raft_core::frame::encode_entry;
use raft_core::message::*;
use raft_core::snapshot::{SnapEvent, Snapshot, SnapshotId};
use raft_core::types::{
    Entry, EntryId, EntryKind, FetchId, GroupId, Index, NodeId, Now, ReadId, Term, WriteToken,
};
use raft_core::{Config, Raft, Restored, invariants};

/// Messages for each.
const MESSAGES: u64 = 300;
/// The kinds of messages.
const KINDS: u64 = 13;

/// What was done to one core.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fuzzed {
    /// Messages given.
    pub messages: u64,
    /// Messages refused.
    pub refused: u64,
    /// The term it was brought to.
    pub term: Term,
}

/// Puts one core through it.
///
/// # Panics
/// If the core does, or breaks a rule.
pub fn fuzz(seed: u64) -> Fuzzed {
    let mut fuzz = open(seed);
    (0..MESSAGES).for_each(|_| fuzz.turn());
    let term = fuzz.raft.status().hard.term;
    Fuzzed { messages: MESSAGES, refused: fuzz.refused, term }
}

struct Fuzz {
    raft: Raft,
    config: Config,
    random: Random,
    now: Now,
    token: WriteToken,
    /// Its disk never ends a write.
    stalled: bool,
    /// How often it is polled after a call: a host may hand in several first.
    polls_percent: u64,
    sent: Vec<Message>,
    /// Of the last snapshot handed over.
    installed: SnapEvent,
    refused: u64,
}

fn open(seed: u64) -> Fuzz {
    let mut random = Random::new(seed, 9);
    let mut config = Config::new(NodeId(1), GroupId(1), (1..=3).map(NodeId).collect());
    config.uncommitted_bytes_max = 4_000;
    config.unsynced_bytes_max = 4_000;
    config.inflight_bytes_max = 2_000;
    config.entry_cache_bytes_max = 2_000;
    config.apply_queue_bytes_max = 2_000;
    config.waiting_reads_max = 8;
    config.entry_bytes_max = 1_000;
    config.epoch = 1;
    config.lease_ns = if random.chance(50) { config.election_timeout_ns_min } else { 0 };
    #[cfg(feature = "mutants")]
    let config = crate::raft_mutant::applied(vec![config]).remove(0);
    let raft = Raft::open(config.clone(), Restored::default(), seed, 0).expect("settings are fine");
    Fuzz {
        raft,
        config,
        stalled: random.chance(20),
        polls_percent: random.pick(&[100, 100, 60, 20]),
        random,
        now: 0,
        token: WriteToken(0),
        sent: Vec::new(),
        installed: SnapEvent::Failed { peer: NodeId(2) },
        refused: 0,
    }
}

impl Fuzz {
    /// A number: near what the core has, or at an end.
    fn number(&mut self, near: u64) -> u64 {
        let near = [near, near + 1, near.saturating_sub(1), near + 2, near / 2];
        let far = [0, 1, ID_MAX - 1, ID_MAX, ID_MAX + 1, u64::MAX, u64::MAX - 1];
        if self.random.chance(75) { self.random.pick(&near) } else { self.random.pick(&far) }
    }

    fn term(&mut self) -> Term {
        let current = self.raft.status().hard.term.0;
        // Mostly the current one: others are soon dealt with.
        match self.random.below(100) {
            0..90 => Term(current.max(1)),
            90..97 => Term(current + 1),
            _ => Term(self.number(current)),
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
        let from = NodeId(self.random.pick(&[2, 2, 2, 3, 3, 3, 1, 0, 4, u64::MAX]));
        // Answers to what was really asked get further than invented ones.
        let message = match self.sent.pop() {
            Some(Message::PreVote(m)) if self.random.chance(50) => {
                let term = m.term;
                Message::PreVoteReply(PreVoteReply {
                    term,
                    round: m.round,
                    granted: true,
                    removed: None,
                })
            }
            Some(Message::RequestVote(m)) if self.random.chance(50) => {
                Message::RequestVoteReply(RequestVoteReply { term: m.term, granted: true })
            }
            _ => self.message(),
        };
        let before = self.picture();
        if self.raft.step(self.now, from, message.clone()).is_err() {
            self.refused += 1;
            assert_eq!(self.picture(), before, "refused, and yet it changed: {message:?}");
        }
        self.maybe_poll();
        match self.random.below(16) {
            0 => self.now += self.random.pick(&[1, 100_000_000, 1_100_000_000]),
            1 => self.raft.tick(self.now),
            2 | 3 if !self.stalled => self.raft.persisted(self.now, self.token),
            4 => {
                let payload = Bytes::from(vec![1; self.random.below(300) as usize]);
                self.raft.propose(self.now, &mut std::iter::once(payload));
            }
            5 => drop(self.raft.next_append(self.now, NodeId(2), 1 + self.random.below(5000))),
            6 => drop(self.raft.read_index(self.now, ReadId(self.now), ReadMode::Lease)),
            7 => drop(self.raft.transfer(self.now, NodeId(self.random.below(5)))),
            8 => {
                let index = self.index();
                self.raft.applied(self.now, index, 100);
            }
            9 => {
                let gone = raft_core::effects::FetchResult::Gone;
                self.raft.fetched(self.now, FetchId(self.random.below(20)), gone);
            }
            10 => {
                let up = NodeLiveness::Up { epoch: self.random.below(3), link: self.now };
                self.raft.liveness(self.now, from, up);
            }
            11 => {
                if let Some((id, offset)) = self.raft.incoming() {
                    let offset = self.number(offset.min(1 << 40) + 500);
                    self.raft.snapshot(self.now, SnapEvent::Received { id, offset });
                }
            }
            12 => {
                let id = self.snapshot_id();
                let events =
                    [SnapEvent::Corrupt { id }, SnapEvent::Failed { peer: from }, self.installed];
                let event = self.random.pick(&events);
                self.raft.snapshot(self.now, event);
            }
            13 => {
                let change =
                    ConfChange { voters: self.nodes(60), learners: self.nodes(20), follows: 0 };
                let _refused = self.raft.change_conf(self.now, &change);
            }
            _ => {}
        }
        self.maybe_poll();
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
            self.token = write.token;
            if let Some(snapshot) = write.install {
                self.installed = SnapEvent::Installed { id: snapshot.id };
            }
        }
        self.sent = effects.send.into_iter().map(|envelope| envelope.message).collect();
        self.sent.extend(effects.send_after.into_iter().map(|(_, envelope)| envelope.message));
        self.sent.truncate(8);
        invariants::check(&self.raft);
        memory_within(NodeId(1), &self.raft.memory(), &self.config);
    }

    /// All that a refused message must leave alone, timers included.
    fn picture(&self) -> (u64, Option<Now>, raft_core::Status) {
        (self.raft.digest(), self.raft.deadline(), self.raft.status())
    }
}

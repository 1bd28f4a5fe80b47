//! Linearizable reads without a log entry (thesis 6.4).
//!
//! A read waits until a majority has said, after it came, that it still believes in the leader; then
//! everything committed when it came is at or below its index. Reads are positional: each has a
//! number, one round of [`Confirm`] names the newest, and its answer confirms all before it, so a
//! burst costs one small message per follower and no disk. A follower asks its leader the same way.
//!
//! With a lease (thesis 6.4.1) the leader need not ask: each answer promises that the answerer
//! gives no vote for a while, counted from when the request was *sent* (R18).

use crate::effects::{Effects, ReadMode, Refused, Reject};
use crate::message::{Confirm, ConfirmReply, Message, ReadIndex, ReadIndexReply};
use crate::mutant::Mutant;
use crate::raft::{Raft, RoleState};
use crate::types::{Index, NodeId, Now, ReadId, Term};
use std::collections::VecDeque;

/// Reads that wait, as a leader for a majority, as a follower for the leader.
///
/// Invariant: `waiting` is in the order of `seq`, and every `seq` in it is at most `newest`.
#[derive(Clone, Debug)]
pub(crate) struct Reads {
    newest: u64,
    waiting: VecDeque<Waiting>,
    /// Whom the waiting ones wait for; when this changes they fail (L8).
    basis: (bool, Term),
    /// A follower's request that is out: its `seq` and when it left.
    asked: Option<(u64, Now)>,
    ready: Vec<(ReadId, Index)>,
    failed: Vec<ReadId>,
}

#[derive(Clone, Debug)]
struct Waiting {
    seq: u64,
    asker: Asker,
    /// What the leader had committed when the read came; a follower does not know it yet.
    index: Index,
    since: Now,
}

#[derive(Clone, Copy, Debug)]
enum Asker {
    Host(ReadId),
    Peer { id: NodeId, seq: u64 },
}

impl Reads {
    /// `epoch` differs at each start, so an answer from before it fits no read of now (L7, L16).
    pub(crate) fn new(epoch: u64) -> Reads {
        Reads {
            newest: epoch << 32,
            waiting: VecDeque::new(),
            basis: (false, Term(0)),
            asked: None,
            ready: Vec::new(),
            failed: Vec::new(),
        }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn push(&mut self, asker: Asker, index: Index, since: Now) {
        self.newest += 1;
        self.waiting.push_back(Waiting { seq: self.newest, asker, index, since });
    }

    /// Takes those up to `seq` whose index is committed. A new leader's first reads wait for its
    /// empty entry (L1): an index given out says that everything up to it is committed.
    fn take_up_to(&mut self, seq: u64, commit: Index) -> Vec<Waiting> {
        let count = self.waiting.partition_point(|read| read.seq <= seq && read.index <= commit);
        self.waiting.drain(..count).collect()
    }

    fn fail_first(&mut self) {
        if let Some(Waiting { asker: Asker::Host(id), .. }) = self.waiting.pop_front() {
            self.failed.push(id);
        }
    }

    /// A link to the leader came up anew: what was asked on the old one may be lost (L17).
    pub(crate) fn ask_anew(&mut self) {
        self.asked = None;
    }
}

/// A leader's view of one peer's confirmations.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Confirmed {
    /// The newest `seq` it answered.
    pub(crate) seq: u64,
    /// The round that is out: its `seq` and when it left. At most one.
    pub(crate) sent: Option<(u64, Now)>,
    /// Send stamp of the newest request that it answered with the promise asked for.
    pub(crate) lease_stamp: Now,
}

impl Raft {
    /// Asks for the index at which a read that came now is linearizable. It comes back by
    /// [`Effects::reads`], or by [`Effects::reads_failed`] within one election timeout.
    ///
    /// # Errors
    /// If this replica neither leads nor knows who does, or too many reads wait.
    pub fn read_index(&mut self, now: Now, id: ReadId, mode: ReadMode) -> Result<(), Refused> {
        self.polled = None;
        let leads = matches!(self.role, RoleState::Leader(_));
        let known = self.leader().is_some() && !(leads && self.quorum_lost());
        if !known {
            return Err(Refused::NotLeader { hint: None });
        }
        if self.reads.waiting() >= self.config.waiting_reads_max {
            self.busy.reads = true;
            return Err(Refused::Busy);
        }
        self.rebase_reads();
        let index = self.read_floor();
        if mode == ReadMode::Lease && self.lease_holds(now) {
            self.reads.ready.push((id, index));
        } else {
            self.reads.push(Asker::Host(id), index, now);
        }
        Ok(())
    }

    /// Whether this leader holds a lease: until it ends nobody else can have committed anything.
    /// To be asked again when the answer to the read leaves (L15).
    pub fn lease_holds(&self, now: Now) -> bool {
        let RoleState::Leader(leader) = &self.role else { return false };
        let given_up = leader.go_ahead_left && !self.config.breaks(Mutant::LeaseAfterGoAhead);
        if self.config.lease_ns == 0 || given_up {
            return false;
        }
        let stamp = self.majority_value(Now::MAX, |progress| progress.confirmed.lease_stamp);
        // 0: a majority has never promised anything, however young the clock is.
        stamp > 0 && now < stamp.saturating_add(self.config.lease_length())
    }

    /// The index that a read must wait for at this leader: everything that was committed anywhere,
    /// which a new leader knows only once it has committed in its own term (R9).
    fn read_floor(&self) -> Index {
        match &self.role {
            RoleState::Leader(_) if self.config.breaks(Mutant::ReadBeforeOwnTerm) => self.commit,
            RoleState::Leader(leader) => self.commit.max(leader.first),
            RoleState::Follower(_) | RoleState::PreCandidate(_) | RoleState::Candidate(_) => {
                Index(0)
            }
        }
    }

    /// Fails what waited for another leader than the present one.
    fn rebase_reads(&mut self) {
        let basis = (matches!(self.role, RoleState::Leader(_)), self.hard.term);
        if self.reads.basis != basis {
            self.reads.basis = basis;
            self.reads.asked = None;
            while !self.reads.waiting.is_empty() {
                self.reads.fail_first();
            }
        }
    }

    /// Settles what can be settled and asks what must be asked. Part of every poll.
    pub(crate) fn drive_reads(&mut self, now: Now) {
        self.rebase_reads();
        if !self.reads.waiting.is_empty() {
            self.settle_confirmed();
            let patience = self.config.election_timeout_ns_max;
            while self.reads.waiting.front().is_some_and(|w| w.since + patience <= now) {
                self.reads.fail_first();
            }
        }
        if !self.reads.waiting.is_empty() {
            match &self.role {
                RoleState::Leader(_) => self.send_confirms(now),
                RoleState::Follower(_) => self.ask_leader(now),
                RoleState::PreCandidate(_) | RoleState::Candidate(_) => {}
            }
        }
    }

    pub(crate) fn take_reads(&mut self, effects: &mut Effects) {
        effects.reads.append(&mut self.reads.ready);
        effects.reads_failed.append(&mut self.reads.failed);
    }

    fn settle_confirmed(&mut self) {
        if !matches!(self.role, RoleState::Leader(_)) {
            return;
        }
        let mut seq = self.majority_value(u64::MAX, |progress| progress.confirmed.seq);
        if self.config.breaks(Mutant::ReadWithoutQuorum) {
            seq = u64::MAX;
        }
        for read in self.reads.take_up_to(seq, self.commit) {
            match read.asker {
                Asker::Host(id) => self.reads.ready.push((id, read.index)),
                Asker::Peer { id, seq } => self.answer_read_index(id, seq, Some(read.index)),
            }
        }
    }

    /// At most one round is out per peer; the next names the newest read of then (R23).
    fn send_confirms(&mut self, now: Now) {
        let seq = self.reads.newest;
        let RoleState::Leader(leader) = &self.role else { return };
        let unasked = |(peer, progress): &(&NodeId, &crate::progress::Progress)| {
            let waits = progress.confirmed.sent.is_some_and(|(_, at)| now < at + self.patience());
            self.is_voter(**peer) && self.is_up(**peer) && !waits && progress.confirmed.seq < seq
        };
        let peers: Vec<NodeId> = leader.peers.iter().filter(unasked).map(|(id, _)| *id).collect();
        let lease_ns = self.lease_asked();
        for peer in peers {
            if let RoleState::Leader(leader) = &mut self.role
                && let Some(progress) = leader.peers.get_mut(&peer)
            {
                progress.confirmed.sent = Some((seq, now));
            }
            let confirm = Confirm { term: self.hard.term, seq, stamp: now, lease_ns };
            self.send(peer, Message::Confirm(confirm), Index(0));
        }
    }

    fn ask_leader(&mut self, now: Now) {
        let Some(leader) = self.leader().filter(|leader| self.is_up(*leader)) else { return };
        if self.reads.asked.is_some_and(|(_, at)| now < at + self.patience()) {
            return;
        }
        let seq = self.reads.newest;
        self.reads.asked = Some((seq, now));
        let ask = ReadIndex { term: self.hard.term, seq };
        self.send(leader, Message::ReadIndex(ask), Index(0));
    }

    /// How long an answer may take before the question is taken as lost.
    fn patience(&self) -> Now {
        2 * self.config.heartbeat_ns
    }

    /// When `drive_reads` has something to do without any other event.
    pub(crate) fn reads_deadline(&self) -> Option<Now> {
        let oldest = self.reads.waiting.front()?.since + self.config.election_timeout_ns_max;
        let again = match &self.role {
            RoleState::Leader(leader) => {
                // Who is not asked again has no deadline: the host would call for nothing.
                let asked = leader.peers.iter().filter(|(peer, progress)| {
                    self.is_voter(**peer)
                        && self.is_up(**peer)
                        && progress.confirmed.seq < self.reads.newest
                });
                let sent = asked.filter_map(|(_, progress)| progress.confirmed.sent);
                sent.map(|(_, at)| at + self.patience()).min()
            }
            RoleState::Follower(follower) => {
                let asked = self
                    .reads
                    .asked
                    .filter(|_| follower.leader.is_some_and(|leader| self.is_up(leader)));
                asked.map(|(_, at)| at + self.patience())
            }
            RoleState::PreCandidate(_) | RoleState::Candidate(_) => None,
        };
        Some(again.map_or(oldest, |again| again.min(oldest)))
    }

    pub(crate) fn on_confirm(&mut self, now: Now, from: NodeId, m: Confirm) -> Result<(), Reject> {
        self.hear_leader(now, from)?;
        let promised_ns = self.promise_lease(now, from, m.lease_ns);
        let reply = ConfirmReply { term: self.hard.term, seq: m.seq, stamp: m.stamp, promised_ns };
        self.send(from, Message::ConfirmReply(reply), Index(0));
        Ok(())
    }

    pub(crate) fn on_confirm_reply(&mut self, now: Now, from: NodeId, m: ConfirmReply) {
        let newest = self.reads.newest;
        let lease_ns = self.config.lease_ns;
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.peers.get_mut(&from) else { return };
        progress.answered(now, m.stamp, m.promised_ns, lease_ns);
        if m.seq > newest {
            return;
        }
        progress.confirmed.seq = progress.confirmed.seq.max(m.seq);
        if progress.confirmed.sent.is_some_and(|(seq, _)| seq <= m.seq) {
            progress.confirmed.sent = None;
        }
    }

    pub(crate) fn on_read_index(&mut self, now: Now, from: NodeId, m: ReadIndex) {
        let leads = matches!(self.role, RoleState::Leader(_)) && !self.quorum_lost();
        // Who is no member has nothing to serve reads from, and could fill the queue for all.
        let member = self.confs.newest().is_member(from);
        if !leads || !member || self.reads.waiting() >= self.config.waiting_reads_max {
            return self.answer_read_index(from, m.seq, None);
        }
        self.rebase_reads();
        let index = self.read_floor();
        self.reads.push(Asker::Peer { id: from, seq: m.seq }, index, now);
    }

    pub(crate) fn answer_read_index(&mut self, to: NodeId, seq: u64, index: Option<Index>) {
        let reply = ReadIndexReply { term: self.hard.term, seq, index };
        self.send(to, Message::ReadIndexReply(reply), Index(0));
    }

    /// The leader's answer: all reads up to its `seq` have their index. It also says that everything
    /// up to it is committed, which counts for what this term's leader has verified here.
    pub(crate) fn on_read_index_reply(&mut self, from: NodeId, m: ReadIndexReply) {
        self.rebase_reads();
        let RoleState::Follower(follower) = &self.role else { return };
        if follower.leader != Some(from) {
            return;
        }
        let verified = follower.verified;
        // Meant for the process before a restart, whose numbers may have been higher (R23, L16).
        if m.seq > self.reads.newest && !self.config.breaks(Mutant::AnswerFromBefore) {
            return;
        }
        for read in self.reads.take_up_to(m.seq, Index(u64::MAX)) {
            if let Asker::Host(id) = read.asker {
                match m.index {
                    Some(index) => self.reads.ready.push((id, index)),
                    None => self.reads.failed.push(id),
                }
            }
        }
        if self.reads.asked.is_some_and(|(seq, _)| seq <= m.seq) {
            self.reads.asked = None;
        }
        if let Some(index) = m.index {
            let told = self.config.breaks(Mutant::CommitBeyondVerified);
            self.commit_to(if told { index } else { index.min(verified) });
        }
    }

    /// Promises to the leader that is heard now that no vote is given for so long (R18), if that is
    /// no longer than this replica would wait anyway. Durable before it is said (R8).
    ///
    /// Nothing is promised to a leader whose disk is stuck: another is to take its place (R15).
    pub(crate) fn promise_lease(&mut self, now: Now, to: NodeId, asked_ns: Now) -> Now {
        let stuck = self.is_stuck(to) && !self.config.breaks(Mutant::PromiseToStuckLeader);
        if asked_ns == 0 || asked_ns > self.config.election_timeout_ns_min || stuck {
            return 0;
        }
        self.promised_until = self.promised_until.max(now + asked_ns);
        if asked_ns > self.hard.promised_ns && !self.config.breaks(Mutant::PromiseNotDurable) {
            self.hard.promised_ns = asked_ns;
            self.log.owe_hard_state();
        }
        asked_ns
    }

    /// What a leader's frames ask for.
    pub(crate) fn lease_asked(&self) -> Now {
        match &self.role {
            RoleState::Leader(leader) if !leader.go_ahead_left => self.config.lease_ns,
            _ => 0,
        }
    }
}

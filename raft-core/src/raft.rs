//! One replica of one group, and everything that can be asked of it.

use crate::candidate::{Candidate, PreCandidate};
use crate::conf::{Conf, Confs};
use crate::config::{Config, MemUse, OpenError, Restored, Status};
use crate::effects::{
    Effects, Envelope, Fetch, FetchResult, Proposed, Pull, Refused, Reject, Role, RoleChange,
};
use crate::follower::Follower;
use crate::frame;
use crate::leader::Leader;
use crate::liveness::{Early, Link};
use crate::log::Log;
use crate::message::Message;
use crate::mutant::Mutant;
use crate::progress::{Progress, WindowMax};
use crate::random::Random;
use crate::reads::Reads;
use crate::snapshot::Snapshots;
use crate::types::{
    Entry, EntryId, EntryKind, FetchId, HardState, Index, NodeId, Now, Term, WriteToken,
};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Frame bytes that one `Fetch` asks for: large enough to feed a follower or a replay at disk
/// speed, small enough that a few of them in memory do not matter.
pub const FETCH_BYTES_MAX: u64 = 1 << 20;

/// One replica of one group. No IO, no clock, no threads: inputs are method calls, what they cause
/// is collected by [`Raft::poll`].
#[derive(Clone, Debug)]
pub struct Raft {
    pub(crate) config: Config,
    pub(crate) hard: HardState,
    pub(crate) role: RoleState,
    pub(crate) log: Log,
    pub(crate) commit: Index,
    pub(crate) apply: Apply,
    pub(crate) links: BTreeMap<NodeId, Link>,
    pub(crate) early: Early,
    /// This node is not to lead: its disk is stuck, or it is about to stop.
    pub(crate) own_stalled: bool,
    pub(crate) confs: Confs,
    /// The host has not been told of the newest configuration.
    pub(crate) conf_news: bool,
    /// A peer said that this replica is no member since then; no leader was heard after that.
    pub(crate) removed_at: Option<Index>,
    pub(crate) removal_news: Option<Index>,
    pub(crate) reads: Reads,
    pub(crate) snapshots: Snapshots,
    /// Until then no vote is given and none is asked for (R8, R18).
    pub(crate) promised_until: Now,
    pub(crate) random: Random,
    next_fetch: FetchId,
    /// The newest round of pre-votes asked for.
    pub(crate) pre_vote_round: u64,
    /// Messages since the last poll, each with the write that must be durable first.
    out: Vec<(WriteToken, Envelope)>,
    reported: RoleChange,
    /// When `poll` last took everything, if nothing happened since.
    pub(crate) polled: Option<Now>,
    pub(crate) busy: Busy,
    ticket: Option<Ticket>,
}

/// What was given out as `Busy`, or `Transferring`, since its host was last told that there is room.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Busy {
    /// Reads.
    pub(crate) reads: bool,
    /// Proposals.
    writes: bool,
    /// What the last payload that was refused takes; 0 if none was.
    bytes: u64,
}

/// What was refused as `Busy` comes again, and smaller payloads do not pass it meanwhile: they would keep
/// the room that it needs from ever being there (R24).
#[derive(Clone, Copy, Debug)]
struct Ticket {
    /// What it takes. Another attempt need not be quite as large: one of at least half of it is it.
    bytes: u64,
    /// It was given up if it does not come again before this.
    until: Now,
}

/// What a role needs, and nothing that another role could misread.
#[derive(Clone, Debug)]
pub(crate) enum RoleState {
    Follower(Follower),
    PreCandidate(PreCandidate),
    Candidate(Candidate),
    Leader(Leader),
}

/// The way of committed entries to the state machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Apply {
    /// The last index that left by `Effects::commit`, and that came back by `applied`.
    pub(crate) handed: Index,
    pub(crate) applied: Index,
    queue_bytes: u64,
    /// The open fetch, or what it brought; at most one of the two.
    open: Option<FetchId>,
    here: Vec<Entry>,
    /// The host had nothing; not asked again before this.
    paused_until: Now,
}

impl Apply {
    /// What was asked for is in a snapshot.
    pub(crate) fn stop_fetching(&mut self) {
        self.open = None;
        self.here.clear();
        self.paused_until = 0;
    }

    /// The state machine holds a snapshot: what it was handed before is done with.
    pub(crate) fn restart_at(&mut self, index: Index) {
        *self = Apply { handed: index, applied: index, ..Apply::default() };
    }
}

impl Raft {
    /// Opens a replica as a follower (E29), whatever it was before. `seed` draws its timeouts.
    ///
    /// # Errors
    /// If the settings or what was recovered cannot be right.
    pub fn open(
        mut config: Config,
        restored: Restored,
        seed: u64,
        now: Now,
    ) -> Result<Raft, OpenError> {
        config.check()?;
        restored.check()?;
        let Restored { hard, base, term_runs, last, mut confs, checkpoint, staged } = restored;
        let first = (Index(0), Conf::of_voters(std::mem::take(&mut config.voters)));
        // The log may still have those that the checkpoint covers (M14).
        let first = checkpoint.as_ref().map_or(first, |checkpoint| checkpoint.conf.clone());
        confs.retain(|(index, _)| *index > first.0);
        let confs = Confs::new(first, confs);
        let commit = checkpoint.as_ref().map_or(Index(0), |checkpoint| checkpoint.id.at.index);
        let mut random = Random::new(seed);
        let timeout =
            random.between(config.election_timeout_ns_min, config.election_timeout_ns_max);
        // A sole voter has nobody to wait for.
        let election_at = if confs.newest().voters == [config.id] { now } else { now + timeout };
        // Whom the last promise was given to is not known any more, nor when (R8).
        let promised_until = if hard.promised_ns > 0 { now + hard.promised_ns } else { 0 };
        Ok(Raft {
            links: BTreeMap::new(),
            confs,
            conf_news: false,
            removed_at: None,
            removal_news: None,
            early: Early::default(),
            own_stalled: false,
            log: Log::new(hard, base, term_runs, last, &config),
            role: RoleState::Follower(Follower::new(now, election_at)),
            reads: Reads::new(if config.breaks(Mutant::RepeatReads) { 0 } else { config.epoch }),
            promised_until,
            commit,
            apply: Apply { handed: commit, applied: commit, ..Apply::default() },
            snapshots: Snapshots::restored(checkpoint, staged),
            random,
            next_fetch: FetchId(1),
            // Rounds do not repeat over restarts either (R16).
            pre_vote_round: config.epoch << 32,
            out: Vec::new(),
            reported: RoleChange { role: Role::Follower, term: hard.term, leader: None },
            polled: None,
            busy: Busy::default(),
            ticket: None,
            hard,
            config,
        })
    }

    /// Takes a message from a peer. It may be late, doubled or reordered.
    ///
    /// # Errors
    /// If it cannot come from a correct peer; it has then changed nothing that matters.
    pub fn step(&mut self, now: Now, from: NodeId, message: Message) -> Result<(), Reject> {
        self.polled = None;
        self.refuse_impossible(from, &message)?;
        if self.config.breaks(Mutant::JudgeBySender) && !self.confs.newest().is_member(from) {
            return Ok(());
        }
        // Pre-votes ask about a term that nobody is in yet: they stand outside the comparison.
        let message = match message {
            Message::PreVote(m) => {
                self.on_pre_vote(now, from, m);
                return Ok(());
            }
            Message::PreVoteReply(m) => {
                self.on_pre_vote_reply(now, from, m);
                return Ok(());
            }
            Message::RequestVote(m)
                if self.withholds_vote(now, from) && !self.passes_belief(m.transfer, m.term) =>
            {
                self.refuse_vote_beside_leader(now, from);
                return Ok(());
            }
            other => other,
        };
        let term = message.term();
        if term < self.hard.term && !self.config.breaks(Mutant::CountStaleVotes) {
            if !self.config.breaks(Mutant::DropStaleRequests) {
                self.answer_stale(from, &message);
            }
            return Ok(());
        }
        if term > self.hard.term {
            self.follow(now, term, None);
        }
        match message {
            Message::RequestVote(m) => self.on_request_vote(now, from, m),
            Message::RequestVoteReply(m) => self.on_request_vote_reply(now, from, m),
            Message::AppendEntries(m) => return self.on_append_entries(now, from, m),
            Message::AppendEntriesReply(m) => self.on_append_entries_reply(now, from, m),
            Message::Confirm(m) => return self.on_confirm(now, from, m),
            Message::ConfirmReply(m) => self.on_confirm_reply(now, from, m),
            Message::ReadIndex(m) => self.on_read_index(now, from, m),
            Message::ReadIndexReply(m) => self.on_read_index_reply(from, m),
            Message::TimeoutNow(_) => self.on_timeout_now(now, from),
            Message::InstallSnapshot(m) => return self.on_install_snapshot(now, from, m),
            Message::InstallSnapshotReply(m) => self.on_install_snapshot_reply(now, from, m),
            Message::PreVote(_) | Message::PreVoteReply(_) => {}
        }
        Ok(())
    }

    /// Refuses what no correct peer says, before it can change anything.
    fn refuse_impossible(&self, from: NodeId, message: &Message) -> Result<(), Reject> {
        message.check()?;
        if !message.is_in_reach(self.hard.term) && !self.config.breaks(Mutant::AnyTerm) {
            return Err(Reject::Malformed("term out of range"));
        }
        // Whether its configuration names the sender does not matter: it may be behind (R20, R29).
        if from == self.config.id || from == NodeId(0) {
            return Err(Reject::NoPeer(from));
        }
        const CONTRADICTION: &str = "contradicts a committed entry";
        let what = match message {
            Message::AppendEntries(m) if self.contradicts_commit(m) => CONTRADICTION,
            Message::InstallSnapshot(m) if self.contradicts_snapshot(m.term, m.snapshot.id.at) => {
                CONTRADICTION
            }
            Message::AppendEntriesReply(m) if self.is_beyond_log(m) => {
                "a match beyond the leader's log"
            }
            Message::InstallSnapshotReply(m) if self.is_beyond_snapshot(from, m) => {
                "an offset beyond the snapshot's end"
            }
            _ => return Ok(()),
        };
        Err(Reject::Malformed(what))
    }

    /// Appends a prefix of the batch if this replica leads. What the outcome refuses was not
    /// appended and never will be.
    pub fn propose(&mut self, now: Now, batch: &mut dyn Iterator<Item = Bytes>) -> Proposed {
        self.polled = None;
        let first = EntryId { index: self.log.last().index.next(), term: self.hard.term };
        let mut proposed = Proposed { first, count: 0, refused: None };
        let lost = self.quorum_lost() && !self.config.breaks(Mutant::ProposeWithoutQuorum);
        if self.role() != Role::Leader || lost {
            let hint = self.leader().filter(|leader| *leader != self.config.id);
            proposed.refused = Some(Refused::NotLeader { hint });
            return proposed;
        }
        if let Some(to) = self.transferring() {
            self.busy.writes = true;
            proposed.refused = Some(Refused::Transferring { to });
            return proposed;
        }
        for payload in batch {
            proposed.refused = self.refuse_payload(now, &payload);
            if proposed.refused.is_some() {
                break;
            }
            self.append_own(EntryKind::Command, &payload);
            proposed.count += 1;
        }
        proposed
    }

    fn refuse_payload(&mut self, now: Now, payload: &Bytes) -> Option<Refused> {
        let bytes = payload.len() as u64;
        if bytes > self.config.entry_bytes_max {
            return Some(Refused::TooBig { bytes });
        }
        let needed = bytes + frame::HEADER_BYTES as u64;
        let admitted = self.admits(now, needed);
        if self.ticket_before(now, needed) == 0 {
            let waits = self.ticket.filter(|ticket| now < ticket.until).map_or(0, |t| t.bytes);
            let until = now + self.config.election_timeout_ns_min;
            self.ticket = (!admitted).then_some(Ticket { bytes: needed.max(waits), until });
        }
        if !admitted {
            (self.busy.writes, self.busy.bytes) = (true, needed);
        }
        (!admitted).then_some(Refused::Busy)
    }

    /// Whether there is room for a payload that takes so much, what waits before it included.
    fn admits(&self, now: Now, needed: u64) -> bool {
        let (unsettled, before) = (self.log.unsettled_bytes(), self.ticket_before(now, needed));
        let fits = unsettled + before + needed <= self.config.uncommitted_bytes_max;
        (fits || unsettled + before == 0) && !self.snapshots.log_full
    }

    /// What is kept free for a larger payload that was refused before.
    fn ticket_before(&self, now: Now, needed: u64) -> u64 {
        let waits = |ticket: &Ticket| now < ticket.until && needed < ticket.bytes / 2;
        let waits = self.ticket.filter(waits).map_or(0, |ticket| ticket.bytes);
        if self.config.breaks(Mutant::SmallPassesBig) { 0 } else { waits }
    }

    /// Does what is due. To be called when `now` has reached `deadline`; at any other time it
    /// changes nothing.
    pub fn tick(&mut self, now: Now) {
        self.polled = None;
        match &self.role {
            RoleState::Follower(follower) if self.is_vouched_for(follower) => {}
            RoleState::Follower(Follower { election_at, .. })
            | RoleState::PreCandidate(PreCandidate { election_at, .. })
            | RoleState::Candidate(Candidate { election_at, .. })
                if *election_at <= now =>
            {
                self.election_timed_out(now);
            }
            RoleState::Follower(_) => {}
            RoleState::PreCandidate(_) | RoleState::Candidate(_) => self.ask_again(now),
            RoleState::Leader(_) => self.check_quorum(now),
        }
    }

    /// When `tick` is due next.
    pub fn deadline(&self) -> Option<Now> {
        let retry = (self.apply.paused_until > 0).then_some(self.apply.paused_until);
        let role = match &self.role {
            RoleState::Follower(_) if !self.may_campaign() => None,
            RoleState::Follower(follower) if self.is_vouched_for(follower) => None,
            RoleState::Follower(follower) => Some(follower.election_at),
            RoleState::PreCandidate(asking) => Some(asking.election_at.min(asking.ask_at)),
            RoleState::Candidate(asking) => Some(asking.election_at.min(asking.ask_at)),
            RoleState::Leader(_) => self.leader_deadline(),
        };
        let transfer = match &self.role {
            RoleState::Leader(leader) => leader.transfer.map(|transfer| transfer.until),
            RoleState::Follower(_) | RoleState::PreCandidate(_) | RoleState::Candidate(_) => None,
        };
        // Whoever waits behind a ticket hears when it is over.
        let ticket = self.ticket.filter(|t| self.busy.writes && self.busy.bytes < t.bytes / 2);
        let ticket = ticket.map(|ticket| ticket.until);
        [role, retry, transfer, ticket, self.reads_deadline()].into_iter().flatten().min()
    }

    /// Everything up to this token is on disk. Tokens that were covered already change nothing.
    pub fn persisted(&mut self, now: Now, token: WriteToken) {
        self.polled = None;
        self.log.persisted(token);
        match &self.role {
            RoleState::Candidate(_) => self.count_own_vote(now),
            RoleState::Leader(_) => self.advance_commit(),
            RoleState::Follower(_) | RoleState::PreCandidate(_) => {}
        }
        self.settle();
    }

    /// Says which entries memory may let go of. A leader owes its peers what is not committed, and its
    /// bound counts it. Others read back what commits later, once it is on their disk: kept until then,
    /// all that a new leader, who does not know yet what is committed, has for one that was away would
    /// be held at once.
    fn settle(&mut self) {
        let leads = matches!(self.role, RoleState::Leader(_));
        self.log.settle(if leads { self.commit } else { self.log.durable() });
    }

    /// The state machine is done with all entries up to `index`; `bytes` are their frames' since
    /// the last call.
    pub fn applied(&mut self, _now: Now, index: Index, bytes: u64) {
        self.polled = None;
        self.apply.applied = self.apply.applied.max(index.min(self.apply.handed));
        self.apply.queue_bytes = self.apply.queue_bytes.saturating_sub(bytes);
    }

    /// Takes the answer to a `Fetch`. One that nobody waits for any more, or that does not fit the
    /// log as it is now, changes nothing (R25).
    pub fn fetched(&mut self, now: Now, id: FetchId, result: FetchResult) {
        self.polled = None;
        if self.apply.open == Some(id) {
            self.apply.open = None;
            match self.usable(self.apply.handed.next(), result) {
                Some(mut entries) => {
                    // However much the host gives: what is beyond may still be cut off.
                    entries.retain(|entry| entry.id.index <= self.commit);
                    self.apply.here = entries;
                }
                None => self.apply.paused_until = now + self.config.heartbeat_ns,
            }
        } else {
            self.fetched_for_peer(now, id, result);
        }
    }

    /// Fetched entries, if they start at `from` and are this log's.
    pub(crate) fn usable(&self, from: Index, result: FetchResult) -> Option<Vec<Entry>> {
        let FetchResult::Entries(entries) = result else { return None };
        // Compacted meanwhile: it is not known any more whose they are.
        if from <= self.log.base().index {
            return None;
        }
        let fits = entries
            .iter()
            .zip(from.0..)
            .all(|(entry, index)| entry.id.index == Index(index) && self.log.contains(entry.id));
        let fits = fits || self.config.breaks(Mutant::FetchUnchecked);
        (fits && !entries.is_empty()).then_some(entries)
    }

    /// Fills `effects` with all that is owed since the last call; whether that is anything.
    pub fn poll(&mut self, now: Now, effects: &mut Effects) -> bool {
        effects.clear();
        // One call takes everything: hosts that ask until there is nothing ask for nothing.
        if self.polled == Some(now) {
            return false;
        }
        self.polled = Some(now);
        // A transfer that is over may be all that kept a removed leader (M5).
        self.drive_transfer(now);
        self.drive_conf(now);
        self.drive_reads(now);
        self.take_reads(effects);
        self.take_conf(effects);
        effects.write = self.log.take_write(self.hard);
        let durable = self.log.durable_token();
        let (asks, last) = (self.role() == Role::Candidate, self.log.last());
        for (token, envelope) in self.out.drain(..) {
            // It lost within this turn, or has another log by now: not the one that it names (R2).
            if matches!(&envelope.message, Message::RequestVote(m) if !asks || m.last != last) {
                continue;
            }
            if token <= durable {
                effects.send.push(envelope);
            } else {
                effects.send_after.push((token, envelope));
            }
        }
        self.hand_over_commits(now, effects);
        self.give_up_streams(now);
        self.compact(now, effects);
        self.announce(now, effects);
        self.take_snaps(effects);
        let role = RoleChange { role: self.role(), term: self.hard.term, leader: self.leader() };
        if role != self.reported {
            self.reported = role;
            effects.role = Some(role);
        }
        self.ticket.take_if(|ticket| ticket.until <= now);
        effects.room = self.find_room(now);
        !effects.is_empty()
    }

    /// Whether something of what was refused would be let in now. What is proposed elsewhere than at a leader is
    /// not refused for want of room, but reads are.
    fn find_room(&mut self, now: Now) -> bool {
        if !self.busy.writes && !self.busy.reads {
            return false;
        }
        let fits = |bytes: u64| self.admits(now, bytes.max(1));
        let largest = self.ticket.map_or(0, |ticket| ticket.bytes);
        let fit = fits(self.busy.bytes) || largest > 0 && fits(largest);
        let leads = self.role() == Role::Leader;
        let writes = self.busy.writes && (!leads || fit && self.transferring().is_none());
        let reads = self.busy.reads && self.reads.waiting() < self.config.waiting_reads_max;
        if writes {
            (self.busy.writes, self.busy.bytes) = (false, 0);
        }
        self.busy.reads &= !reads;
        writes || reads
    }

    fn hand_over_commits(&mut self, now: Now, effects: &mut Effects) {
        if self.snapshots.installing.is_some() {
            return;
        }
        let apply = &mut self.apply;
        if apply.paused_until <= now {
            apply.paused_until = 0;
        }
        for entry in apply.here.drain(..) {
            apply.handed = entry.id.index;
            apply.queue_bytes += entry.frame.len() as u64;
            effects.commit.push(entry);
        }
        while apply.handed < self.commit {
            let Some(entry) = self.log.cached(apply.handed.next()) else { break };
            let bytes = entry.frame.len() as u64;
            let full = apply.queue_bytes + bytes > self.config.apply_queue_bytes_max;
            if full && apply.queue_bytes > 0 {
                return;
            }
            apply.handed = entry.id.index;
            apply.queue_bytes += bytes;
            effects.commit.push(entry.clone());
        }
        let full = apply.queue_bytes >= self.config.apply_queue_bytes_max;
        if apply.handed == self.commit || apply.open.is_some() || full || apply.paused_until > 0 {
            return;
        }
        let id = self.new_fetch();
        self.apply.open = Some(id);
        let from = self.apply.handed.next();
        let to = self.commit.min(self.log.cache_first().prev());
        effects.fetch.push(Fetch { id, from, to, bytes_max: FETCH_BYTES_MAX });
    }

    /// What this leader has for a peer whose link can take `room` bytes of frames. The only source
    /// of `AppendEntries`, heartbeats and probes included: what is pulled when the socket can take
    /// it is batched without a timer, stamped when it leaves, and queues nowhere.
    pub fn next_append(&mut self, now: Now, peer: NodeId, room: u64) -> Pull {
        self.polled = None;
        if !self.is_up(peer) {
            return Pull::Nothing;
        }
        self.pull(now, peer, room)
    }

    /// The replica at a glance.
    pub fn status(&self) -> Status {
        let (mut matched, mut sending) = (Vec::new(), Vec::new());
        if let RoleState::Leader(leader) = &self.role {
            matched.extend(leader.peers.iter().map(|(id, progress)| (*id, progress.match_index)));
            sending.extend(leader.peers.iter().map(|(id, progress)| (*id, progress.sending())));
        }
        Status {
            role: self.role(),
            hard: self.hard,
            leader: self.leader(),
            last: self.log.last(),
            base: self.log.base(),
            checkpoint: self.snapshots.covered(),
            commit: self.commit,
            applied: self.apply.applied,
            durable: self.log.durable(),
            matched,
            sending,
            waiting_reads: self.reads.waiting(),
            conf: self.confs.newest().clone(),
            transferring: self.transferring(),
        }
    }

    /// The newest configuration, which counts though it may not be committed yet.
    pub fn conf(&self) -> &Conf {
        self.confs.newest()
    }

    /// The newest configuration that is surely committed.
    pub fn committed_conf(&self) -> &Conf {
        self.confs.committed().1
    }

    /// What is kept in memory.
    pub fn memory(&self) -> MemUse {
        let bytes = |entry: &Entry| entry.frame.len() as u64;
        let for_peers: u64 = match &self.role {
            RoleState::Leader(leader) => leader.peers.values().map(|p| p.fetched_bytes()).sum(),
            RoleState::Follower(_) | RoleState::PreCandidate(_) | RoleState::Candidate(_) => 0,
        };
        let inflight: Vec<(usize, u64)> = match &self.role {
            RoleState::Leader(leader) => leader.peers.values().map(Progress::inflight).collect(),
            RoleState::Follower(_) | RoleState::PreCandidate(_) | RoleState::Candidate(_) => {
                Vec::new()
            }
        };
        let (term_runs, size_marks, pending_writes) = self.log.records();
        MemUse {
            cache_bytes: self.log.cache_bytes(),
            unsettled_bytes: self.log.unsettled_bytes(),
            unsynced_bytes: self.log.unsynced_bytes(),
            fetched_bytes: for_peers + self.apply.here.iter().map(bytes).sum::<u64>(),
            apply_queue_bytes: self.apply.queue_bytes,
            inflight_bytes: inflight.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0),
            inflight_messages: inflight.iter().map(|(count, _)| *count).max().unwrap_or(0),
            waiting_reads: self.reads.waiting(),
            term_runs,
            size_marks,
            pending_writes,
            confs: self.confs.count(),
        }
    }

    pub(crate) fn role(&self) -> Role {
        match &self.role {
            RoleState::Follower(_) => Role::Follower,
            RoleState::PreCandidate(_) => Role::PreCandidate,
            RoleState::Candidate(_) => Role::Candidate,
            RoleState::Leader(_) => Role::Leader,
        }
    }

    pub(crate) fn leader(&self) -> Option<NodeId> {
        match &self.role {
            RoleState::Follower(follower) => follower.leader,
            RoleState::PreCandidate(_) | RoleState::Candidate(_) => None,
            RoleState::Leader(_) => Some(self.config.id),
        }
    }

    /// Everybody whose vote counts, by the newest configuration.
    pub(crate) fn voters(&self) -> Vec<NodeId> {
        self.confs.newest().all_voters()
    }

    /// Whether those of the voters are a majority, of both halves if there are two.
    pub(crate) fn is_quorum(&self, of: impl Fn(NodeId) -> bool) -> bool {
        self.confs.newest().is_majority(of)
    }

    pub(crate) fn window_max(&self) -> WindowMax {
        WindowMax {
            messages: self.config.inflight_messages_max,
            bytes: self.config.inflight_bytes_max,
        }
    }

    pub(crate) fn election_timeout(&mut self) -> Now {
        let Config { election_timeout_ns_min: min, election_timeout_ns_max: max, .. } = self.config;
        let own = self.config.priority_of(self.config.id);
        let mut named = self.config.priorities.iter();
        let preferred = named.any(|(id, priority)| *priority > own && self.is_voter(*id));
        let min = if preferred { min + (max - min) / 2 } else { min };
        self.random.between(min, max)
    }

    /// Changes term or vote; both are durable before anything is said in that term (R1, R5).
    pub(crate) fn set_hard(&mut self, term: Term, voted_for: Option<NodeId>) {
        let hard = HardState { term, voted_for, ..self.hard };
        if hard != self.hard {
            assert!(term >= self.hard.term, "terms never fall");
            self.hard = hard;
            self.log.owe_hard_state();
        }
    }

    /// Moves the commit index up to `index`, never down.
    pub(crate) fn commit_to(&mut self, index: Index) {
        assert!(index <= self.log.last().index, "what is committed is in the log");
        if index > self.commit {
            self.commit = index;
            self.log.settle(index);
        }
    }

    /// Sends once the current hard state and the log up to `promised` are durable (R1, R3, R5).
    pub(crate) fn send(&mut self, to: NodeId, message: Message, promised: Index) {
        let token = match &message {
            Message::RequestVoteReply(m)
                if m.granted && self.config.breaks(Mutant::VoteBeforeDurable) =>
            {
                WriteToken(0)
            }
            _ if self.config.breaks(Mutant::TermBeforeDurable) => WriteToken(0),
            Message::AppendEntriesReply(_) if self.config.breaks(Mutant::AckBeforeDurable) => {
                WriteToken(0)
            }
            Message::RequestVote(_) if self.config.breaks(Mutant::OwnVoteBeforeDurable) => {
                WriteToken(0)
            }
            _ => self.log.promise(self.hard, promised),
        };
        self.out.push((token, Envelope { to, message }));
    }

    /// Sends at once: for pre-vote traffic, which promises nothing.
    pub(crate) fn send_unpromised(&mut self, to: NodeId, message: Message) {
        self.out.push((WriteToken(0), Envelope { to, message }));
    }

    pub(crate) fn new_fetch(&mut self) -> FetchId {
        let id = self.next_fetch;
        self.next_fetch = FetchId(id.0 + 1);
        id
    }
}

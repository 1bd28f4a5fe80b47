//! What a follower does: believe a leader, vote, and take entries.

use crate::conf::Conf;
use crate::effects::Reject;
use crate::message::{
    AppendEntries, AppendEntriesReply, AppendOutcome, Confirm, ConfirmReply, Message, PreVote,
    PreVoteReply, RequestVote, RequestVoteReply,
};
use crate::mutant::Mutant;
use crate::raft::{Raft, RoleState};
use crate::types::{EntryId, Index, NodeId, Now, Term};

/// A follower's own state.
#[derive(Clone, Debug)]
pub(crate) struct Follower {
    /// Who leads the current term, once it was heard.
    pub(crate) leader: Option<NodeId>,
    /// When it was last heard; means something only with a leader.
    pub(crate) contact: Now,
    /// When to campaign.
    pub(crate) election_at: Now,
    /// Its node says that it does not lead: what still arrives holds no timer (R13).
    pub(crate) disowned: bool,
    /// Up to where this log is known to be that leader's.
    pub(crate) verified: Index,
}

impl Follower {
    /// Of no leader yet.
    pub(crate) fn new(now: Now, election_at: Now) -> Follower {
        Follower { leader: None, contact: now, election_at, disowned: false, verified: Index(0) }
    }
}

/// What an answer to a leader gives back: when the request left, and what is promised.
#[derive(Clone, Copy)]
struct Echo {
    stamp: Now,
    promised_ns: Now,
}

impl Raft {
    /// Becomes a follower of `term`, or stays one. The election timer keeps running unless a leader
    /// is named: a candidate that nobody can elect must not hold back one that can win (E14).
    pub(crate) fn follow(&mut self, now: Now, term: Term, leader: Option<NodeId>) {
        let vote = if term > self.hard.term { None } else { self.hard.voted_for };
        let (verified, disowned) = match &self.role {
            RoleState::Follower(f) if term == self.hard.term && f.leader == leader => {
                (f.verified, f.disowned)
            }
            _ => (Index(0), false),
        };
        if leader.is_some() && !disowned || term > self.hard.term {
            self.end_early_election();
        }
        self.set_hard(term, vote);
        let running = match &self.role {
            RoleState::Follower(follower) => Some(follower.election_at),
            RoleState::PreCandidate(asking) => Some(asking.election_at),
            RoleState::Candidate(asking) => Some(asking.election_at),
            RoleState::Leader(_) => None,
        };
        // What a leader says whose disk is stuck does not put off that another takes its place (R15).
        let stuck = leader.is_some_and(|leader| self.is_stuck(leader));
        let election_at = match running {
            Some(at) if leader.is_none() || disowned || stuck => at,
            _ => now + self.election_timeout(),
        };
        self.role =
            RoleState::Follower(Follower { leader, contact: now, election_at, disowned, verified });
    }

    /// A message of the current term that only its leader sends.
    ///
    /// # Errors
    /// If another leader of this term is known: one of the two lies.
    pub(crate) fn hear_leader(&mut self, now: Now, from: NodeId) -> Result<(), Reject> {
        if self.leader_of_term().is_some_and(|leader| leader != from) {
            return Err(Reject::Malformed("a second leader in one term"));
        }
        self.removed_at = None;
        // What it says is taken, but it does not end the attempt to take its place.
        let stuck = self.is_stuck(from);
        if let RoleState::PreCandidate(asking) = &mut self.role
            && stuck
        {
            asking.leader = Some(from);
            return Ok(());
        }
        self.follow(now, self.hard.term, Some(from));
        Ok(())
    }

    /// Whether a live leader other than `asker` is believed in; itself counts. While one is, votes
    /// and pre-votes are refused and change nothing, not even the term: otherwise a node that was
    /// cut off, or was removed, could depose a healthy leader (thesis 4.2.3).
    pub(crate) fn believes_leader(&self, now: Now, asker: NodeId) -> bool {
        match &self.role {
            RoleState::Follower(follower @ Follower { leader: Some(leader), .. }) => {
                let silent = now.saturating_sub(follower.contact);
                let reported = self.links.get(leader).is_some_and(|link| link.is_reported());
                let heard = !reported && silent < self.config.election_timeout_ns_min;
                *leader != asker && (heard || self.is_vouched_for(follower))
            }
            RoleState::Follower(_) | RoleState::PreCandidate(_) | RoleState::Candidate(_) => false,
            RoleState::Leader(_) => true,
        }
    }

    /// Whether votes and pre-votes are refused: a live leader is believed in, or a promise runs.
    pub(crate) fn withholds_vote(&self, now: Now, asker: NodeId) -> bool {
        let promised = now < self.promised_until && !self.config.breaks(Mutant::VoteDespitePromise);
        let believes = self.believes_leader(now, asker);
        promised || believes && !self.config.breaks(Mutant::VoteBesideLeader)
    }

    /// Says what it would answer, and forgets it (thesis 9.6, E18).
    pub(crate) fn on_pre_vote(&mut self, now: Now, from: NodeId, m: PreVote) {
        self.probe_asker(now, from);
        let granted = !self.withholds_vote(now, from)
            && self.has_a_say()
            && m.term >= self.hard.term
            && self.log.is_up_to_date(m.last);
        if granted {
            self.leave_a_start(now);
        }
        let reply = PreVoteReply {
            term: self.hard.term,
            round: m.round,
            granted,
            removed: if granted { None } else { self.removal_of(from) },
        };
        self.send_unpromised(from, Message::PreVoteReply(reply));
    }

    /// A vote request that comes while a live leader is believed in.
    pub(crate) fn refuse_vote_beside_leader(&mut self, now: Now, from: NodeId) {
        self.probe_asker(now, from);
        self.refuse_vote(from);
    }

    fn refuse_vote(&mut self, to: NodeId) {
        let reply = RequestVoteReply { term: self.hard.term, granted: false };
        self.send(to, Message::RequestVoteReply(reply), Index(0));
    }

    /// Gives one vote per term, to a candidate whose log is not behind (Raft 5.2, 5.4.1). The same
    /// candidate asking again gets the same answer (E5).
    pub(crate) fn on_request_vote(&mut self, now: Now, from: NodeId, m: RequestVote) {
        let free = match self.hard.voted_for {
            None => self.leader().is_none(),
            Some(voted_for) => voted_for == from,
        } || self.config.breaks(Mutant::VoteTwice);
        let RoleState::Follower(_) = &self.role else {
            // Candidates and leaders of this term have voted for themselves. A pre-candidate has
            // perhaps not voted, and is a follower in all that matters here.
            if free && matches!(self.role, RoleState::PreCandidate(_)) {
                self.follow(now, self.hard.term, None);
                return self.on_request_vote(now, from, m);
            }
            return self.refuse_vote(from);
        };
        let complete =
            self.log.is_up_to_date(m.last) || self.config.breaks(Mutant::VoteForShorterLog);
        if !free || !complete || !self.has_a_say() {
            return self.refuse_vote(from);
        }
        self.set_hard(self.hard.term, Some(from));
        let election_at = now + self.election_timeout();
        if let RoleState::Follower(follower) = &mut self.role {
            follower.election_at = election_at;
        }
        let reply = RequestVoteReply { term: self.hard.term, granted: true };
        self.send(from, Message::RequestVoteReply(reply), Index(0));
    }

    /// A message of an earlier term: requests are answered with the current one, never dropped in
    /// silence, or their sender would ask for ever (E16).
    pub(crate) fn answer_stale(&mut self, from: NodeId, message: &Message) {
        match message {
            Message::RequestVote(_) => self.refuse_vote(from),
            Message::AppendEntries(m) => {
                let hint = EntryId::default();
                let echo = Echo { stamp: m.stamp, promised_ns: 0 };
                let outcome = AppendOutcome::Rejected { prev: m.prev.index, hint };
                self.answer_append(from, echo, outcome, Index(0));
            }
            Message::Confirm(m) => {
                let Confirm { seq, stamp, .. } = *m;
                let reply = ConfirmReply { term: self.hard.term, seq, stamp, promised_ns: 0 };
                self.send(from, Message::ConfirmReply(reply), Index(0));
            }
            Message::ReadIndex(m) => self.answer_read_index(from, m.seq, None),
            Message::InstallSnapshot(m) => {
                self.want_snapshot(from, (m.stamp, 0), m.snapshot.id, 0);
            }
            Message::PreVote(_)
            | Message::PreVoteReply(_)
            | Message::RequestVoteReply(_)
            | Message::AppendEntriesReply(_)
            | Message::ConfirmReply(_)
            | Message::ReadIndexReply(_)
            | Message::InstallSnapshotReply(_)
            | Message::TimeoutNow(_) => {}
        }
    }

    /// Raft 5.3, the receiver's side. The term is the current one.
    pub(crate) fn on_append_entries(
        &mut self,
        now: Now,
        from: NodeId,
        m: AppendEntries,
    ) -> Result<(), Reject> {
        self.hear_leader(now, from)?;
        let promised_ns = self.promise_lease(now, from, m.lease_ns);
        let echo = Echo { stamp: m.stamp, promised_ns };
        // Nothing is matched, and nothing follows it, before a snapshot is installed (R26).
        if self.snapshots.installing.is_some() {
            return Ok(());
        }
        if !self.log.contains(m.prev) && !self.ignores_previous(m.prev) {
            let prev = m.prev.index;
            let hint = self.log.last_within(EntryId { index: prev.prev(), ..m.prev });
            self.answer_append(from, echo, AppendOutcome::Rejected { prev, hint }, Index(0));
            return Ok(());
        }
        self.accept_entries(from, m, echo)
    }

    fn ignores_previous(&self, prev: EntryId) -> bool {
        self.config.breaks(Mutant::IgnorePrevious) && prev.index <= self.log.last().index
    }

    /// Whether a leader of this term or a later one says otherwise than what is committed here. No
    /// correct one does; it is refused before it can change a term or a timer.
    pub(crate) fn contradicts_commit(&self, m: &AppendEntries) -> bool {
        let committed = m.entries.iter().take_while(|entry| entry.id.index <= self.commit);
        m.term >= self.hard.term && committed.into_iter().any(|entry| !self.log.contains(entry.id))
    }

    /// The same of a snapshot's last entry.
    pub(crate) fn contradicts_snapshot(&self, term: Term, at: EntryId) -> bool {
        term >= self.hard.term && at.index <= self.commit && !self.log.contains(at)
    }

    /// Takes the entries of a message whose `prev` is in the log. If too much already waits for the
    /// disk they are dropped, and the rest of the message is a heartbeat: memory stays bounded, and
    /// the leader learns at its next one that they are missing.
    fn accept_entries(
        &mut self,
        from: NodeId,
        mut m: AppendEntries,
        echo: Echo,
    ) -> Result<(), Reject> {
        let bounded = !self.config.breaks(Mutant::UnboundedUnsynced);
        if bounded && self.log.unsynced_bytes() >= self.config.unsynced_bytes_max {
            m.entries.clear();
        }
        let empty = m.entries.is_empty();
        let received = m.entries.last().map_or(m.prev.index, |entry| entry.id.index);
        // Only a true difference cuts: a late, shorter message must not (R2).
        let new = m.entries.iter().position(|entry| !self.log.contains(entry.id));
        if let Some(new) = new {
            let from = m.entries[new].id.index;
            assert!(from > self.commit, "what contradicts a committed entry is refused first");
            self.log.truncate(from);
            if let RoleState::Follower(follower) = &mut self.role {
                // No leader contradicts itself within a term; a hostile peer does.
                follower.verified = follower.verified.min(from.prev());
            }
            self.conf_news |=
                !self.config.breaks(Mutant::ConfKeptOnCut) && self.confs.truncate(from);
            for entry in m.entries.into_iter().skip(new) {
                if let Some(conf) = Conf::of_entry(&entry) {
                    self.confs.append(entry.id.index, conf);
                    self.conf_news = true;
                }
                self.log.append(entry);
            }
        }
        if self.config.breaks(Mutant::CutOnMatch) && !empty {
            self.log.truncate(received.next());
        }
        if let RoleState::Follower(follower) = &mut self.role {
            follower.verified = follower.verified.max(received);
        }
        // No further than this message has verified (Figure 2, R5).
        let verified = match self.config.breaks(Mutant::CommitBeyondVerified) {
            true => self.log.last().index,
            false => received,
        };
        self.commit_to(m.commit.min(verified));
        // A heartbeat is answered at once with what is durable, so that a slow disk does not look
        // like a dead node; entries are answered when they are durable.
        let matched = if empty { received.min(self.log.durable()) } else { received };
        self.answer_append(from, echo, AppendOutcome::Accepted { matched, received }, matched);
        Ok(())
    }

    fn answer_append(&mut self, to: NodeId, echo: Echo, outcome: AppendOutcome, promised: Index) {
        let (term, commit) = (self.hard.term, self.commit);
        let Echo { stamp, promised_ns } = echo;
        let reply = AppendEntriesReply { term, stamp, promised_ns, commit, outcome };
        self.send(to, Message::AppendEntriesReply(reply), promised);
    }
}

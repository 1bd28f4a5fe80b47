//! What a follower does: believe a leader, vote, and take entries.

use crate::effects::Reject;
use crate::message::{
    AppendEntries, AppendEntriesReply, AppendOutcome, Message, PreVote, PreVoteReply, RequestVote,
    RequestVoteReply,
};
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
}

impl Raft {
    /// Becomes a follower of `term`, or stays one. The election timer keeps running unless a leader
    /// is named: a candidate that nobody can elect must not hold back one that can win (E14).
    pub(crate) fn follow(&mut self, now: Now, term: Term, leader: Option<NodeId>) {
        let vote = if term > self.hard.term { None } else { self.hard.voted_for };
        self.set_hard(term, vote);
        let running = match &self.role {
            RoleState::Follower(follower) => Some(follower.election_at),
            RoleState::PreCandidate(asking) => Some(asking.election_at),
            RoleState::Candidate(asking) => Some(asking.election_at),
            RoleState::Leader(_) => None,
        };
        let election_at = match running {
            Some(at) if leader.is_none() => at,
            _ => now + self.election_timeout(),
        };
        self.role = RoleState::Follower(Follower { leader, contact: now, election_at });
    }

    /// Whether a live leader other than `asker` is believed in; itself counts. While one is, votes
    /// and pre-votes are refused and change nothing, not even the term: otherwise a node that was
    /// cut off, or was removed, could depose a healthy leader (thesis 4.2.3).
    pub(crate) fn believes_leader(&self, now: Now, asker: NodeId) -> bool {
        match &self.role {
            RoleState::Follower(Follower { leader: Some(leader), contact, .. }) => {
                let silent = now.saturating_sub(*contact);
                *leader != asker && silent < self.config.election_timeout_ns_min
            }
            RoleState::Follower(_) | RoleState::PreCandidate(_) | RoleState::Candidate(_) => false,
            RoleState::Leader(_) => true,
        }
    }

    /// Says what it would answer, and forgets it (thesis 9.6, E18).
    pub(crate) fn on_pre_vote(&mut self, now: Now, from: NodeId, m: PreVote) {
        let believes = self.believes_leader(now, from);
        if believes {
            self.probe_asker(now, from);
        }
        let granted = !believes && m.term >= self.hard.term && self.log.is_up_to_date(m.last);
        let reply = PreVoteReply { term: self.hard.term, round: m.round, granted };
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
        };
        let RoleState::Follower(_) = &self.role else {
            // Candidates and leaders of this term have voted for themselves. A pre-candidate has
            // perhaps not voted, and is a follower in all that matters here.
            if free && matches!(self.role, RoleState::PreCandidate(_)) {
                self.follow(now, self.hard.term, None);
                return self.on_request_vote(now, from, m);
            }
            return self.refuse_vote(from);
        };
        if !free || !self.log.is_up_to_date(m.last) {
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
                self.answer_append(
                    from,
                    m.stamp,
                    AppendOutcome::Rejected { prev: m.prev.index, hint },
                    Index(0),
                );
            }
            Message::PreVote(_)
            | Message::PreVoteReply(_)
            | Message::RequestVoteReply(_)
            | Message::AppendEntriesReply(_) => {}
        }
    }

    /// Raft 5.3, the receiver's side. The term is the current one.
    pub(crate) fn on_append_entries(
        &mut self,
        now: Now,
        from: NodeId,
        m: AppendEntries,
    ) -> Result<(), Reject> {
        if self.leader().is_some_and(|leader| leader != from) {
            return Err(Reject::Malformed("a second leader in one term"));
        }
        self.follow(now, self.hard.term, Some(from));
        if !self.log.contains(m.prev) {
            let prev = m.prev.index;
            let hint = self.log.last_within(EntryId { index: prev.prev(), ..m.prev });
            self.answer_append(from, m.stamp, AppendOutcome::Rejected { prev, hint }, Index(0));
            return Ok(());
        }
        self.accept_entries(from, m)
    }

    /// Takes the entries of a message whose `prev` is in the log. If too much already waits for the
    /// disk they are dropped, and the rest of the message is a heartbeat: memory stays bounded, and
    /// the leader learns at its next one that they are missing.
    fn accept_entries(&mut self, from: NodeId, mut m: AppendEntries) -> Result<(), Reject> {
        if self.log.unsynced_bytes() >= self.config.unsynced_bytes_max {
            m.entries.clear();
        }
        let empty = m.entries.is_empty();
        let received = m.entries.last().map_or(m.prev.index, |entry| entry.id.index);
        // Only a true difference cuts: a late, shorter message must not (R2).
        let new = m.entries.iter().position(|entry| !self.log.contains(entry.id));
        if let Some(new) = new {
            let from = m.entries[new].id.index;
            if from <= self.commit {
                return Err(Reject::Malformed("contradicts a committed entry"));
            }
            self.log.truncate(from);
            for entry in m.entries.into_iter().skip(new) {
                self.log.append(entry, m.term);
            }
        }
        self.log.accept(m.term);
        // No further than this message has verified (Figure 2, R5).
        self.commit_to(m.commit.min(received));
        // A heartbeat is answered at once with what is durable, so that a slow disk does not look
        // like a dead node; entries are answered when they are durable.
        let matched = if empty { received.min(self.log.durable()) } else { received };
        self.answer_append(from, m.stamp, AppendOutcome::Accepted { matched, received }, matched);
        Ok(())
    }

    fn answer_append(&mut self, to: NodeId, stamp: Now, outcome: AppendOutcome, promised: Index) {
        let term = self.hard.term;
        let reply = AppendEntriesReply { term, stamp, commit: self.commit, outcome };
        self.send(to, Message::AppendEntriesReply(reply), promised);
    }
}

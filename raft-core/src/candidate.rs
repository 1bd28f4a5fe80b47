//! How a leader is found: a pre-vote that changes nothing, then a vote in a term of its own.

use crate::conf::Conf;
use crate::message::{Message, PreVote, PreVoteReply, RequestVote, RequestVoteReply};
use crate::mutant::Mutant;
use crate::quorum::VoteResult;
use crate::raft::{Raft, RoleState};
use crate::types::{NodeId, Now, WriteToken};
use std::collections::BTreeMap;

/// Asks whether it could win (thesis 9.6).
#[derive(Clone, Debug)]
pub(crate) struct PreCandidate {
    /// Who leads the current term, as far as known: it may still hand over.
    pub(crate) leader: Option<NodeId>,
    /// Answers of another round do not count.
    pub(crate) round: u64,
    /// One answer per voter, the first. Who is none is not remembered.
    pub(crate) votes: BTreeMap<NodeId, bool>,
    /// When to ask those again who did not answer.
    pub(crate) ask_at: Now,
    /// When to start over.
    pub(crate) election_at: Now,
}

/// Asks for votes (Raft 5.2).
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    /// One answer per voter, the first; its own vote stands here once it is durable.
    pub(crate) votes: BTreeMap<NodeId, bool>,
    /// The write that makes its own term and vote durable, and the log that its requests name (R2).
    pub(crate) own_vote: WriteToken,
    /// The leader of the term before gave the go-ahead (R19).
    pub(crate) transfer: bool,
    /// When to ask those again who did not answer.
    pub(crate) ask_at: Now,
    /// When to start over.
    pub(crate) election_at: Now,
}

impl Raft {
    /// The election timer ran out, or nobody else can lead.
    pub(crate) fn campaign(&mut self, now: Now) {
        let alone = self.is_quorum(|id| id == self.config.id);
        if alone || self.config.breaks(Mutant::NoPreVote) {
            return self.request_votes(now, false);
        }
        let election_at = self.next_round(now);
        self.pre_vote_round += 1;
        let leader = self.leader_of_term();
        self.role = RoleState::PreCandidate(PreCandidate {
            leader,
            round: self.pre_vote_round,
            votes: BTreeMap::from([(self.config.id, true)]),
            ask_at: now + self.config.heartbeat_ns,
            election_at,
        });
        self.ask_all();
    }

    /// No majority answered in time. While its own vote is still on its way to the disk a new term
    /// would only put another write behind it: a slow disk would then never elect anyone.
    pub(crate) fn election_timed_out(&mut self, now: Now) {
        if !self.may_campaign() {
            if !matches!(self.role, RoleState::Follower(_)) {
                self.follow(now, self.hard.term, None);
            }
            return;
        }
        let election_at = now + self.config.election_timeout_ns_max;
        let durable = self.log.durable_token();
        match &mut self.role {
            RoleState::Candidate(asking) if asking.own_vote > durable => {
                asking.election_at = election_at;
            }
            // Its own vote is promised as well (R18).
            RoleState::Follower(follower) if now < self.promised_until => {
                follower.election_at = self.promised_until;
            }
            RoleState::Candidate(_) | RoleState::PreCandidate(_) | RoleState::Follower(_) => {
                self.campaign(now);
            }
            RoleState::Leader(_) => {}
        }
    }

    /// Raises the term and votes for itself. Nobody is asked, and its own vote does not count,
    /// before both are durable: a candidate that forgot them could win the same term twice (R2).
    pub(crate) fn request_votes(&mut self, now: Now, transfer: bool) {
        let election_at = self.next_round(now);
        self.set_hard(self.hard.term.next(), Some(self.config.id));
        self.role = RoleState::Candidate(Candidate {
            votes: match self.config.breaks(Mutant::OwnVoteBeforeDurable) {
                true => BTreeMap::from([(self.config.id, true)]),
                false => BTreeMap::new(),
            },
            transfer,
            own_vote: self.log.promise(self.hard, self.log.last().index),
            ask_at: now + self.config.heartbeat_ns,
            election_at,
        });
        self.ask_all();
    }

    fn ask_all(&mut self) {
        let own = self.config.id;
        self.voters().into_iter().filter(|peer| *peer != own).for_each(|peer| self.ask(peer));
    }

    /// Asks one peer, unless it has answered.
    pub(crate) fn ask(&mut self, peer: NodeId) {
        let last = self.log.last();
        match &self.role {
            RoleState::PreCandidate(asking) if !asking.votes.contains_key(&peer) => {
                let m = PreVote { term: self.hard.term, round: asking.round, last };
                self.send_unpromised(peer, Message::PreVote(m));
            }
            RoleState::Candidate(asking) if !asking.votes.contains_key(&peer) => {
                let m = RequestVote { term: self.hard.term, last, transfer: asking.transfer };
                self.send(peer, Message::RequestVote(m), last.index);
            }
            RoleState::PreCandidate(_) | RoleState::Candidate(_) => {}
            RoleState::Follower(_) | RoleState::Leader(_) => {}
        }
    }

    /// Requests get lost: those who did not answer are asked at every heartbeat (R16).
    pub(crate) fn ask_again(&mut self, now: Now) {
        let heartbeat_ns = self.config.heartbeat_ns;
        let ask_at = match &mut self.role {
            RoleState::PreCandidate(asking) => &mut asking.ask_at,
            RoleState::Candidate(asking) => &mut asking.ask_at,
            RoleState::Follower(_) | RoleState::Leader(_) => return,
        };
        if *ask_at <= now {
            *ask_at = now + heartbeat_ns;
            self.ask_all();
        }
    }

    pub(crate) fn on_pre_vote_reply(&mut self, now: Now, from: NodeId, m: PreVoteReply) {
        let RoleState::PreCandidate(asking) = &mut self.role else { return };
        if asking.round != m.round && !self.config.breaks(Mutant::CountStalePreVotes) {
            return;
        }
        if let Some(index) = m.removed {
            self.hear_removal(now, index);
            let deaf = self.config.breaks(Mutant::TermOfStrangersIgnored);
            // It knows better, and asks on: in vain, unless it takes the term as below.
            if deaf || !matches!(self.role, RoleState::PreCandidate(_)) {
                return;
            }
        }
        if !m.granted && m.term > self.hard.term {
            // It could not win below that term; the next attempt starts from there (E16).
            return self.follow(now, m.term, None);
        }
        if !self.is_voter(from) {
            return;
        }
        let RoleState::PreCandidate(asking) = &mut self.role else { return };
        asking.votes.entry(from).or_insert(m.granted);
        if !m.granted {
            // Perhaps it has not noticed yet that the leader is gone (R17).
            asking.election_at = self.early.after_refusal(now, asking.election_at);
        }
        match self.tally() {
            // What it has promised since it asked holds for its own vote as well (R18); nor does it
            // campaign whose disk has stuck meanwhile (R15).
            VoteResult::Won if now < self.promised_until || !self.may_campaign() => {
                self.follow(now, self.hard.term, None);
            }
            VoteResult::Won => self.request_votes(now, false),
            VoteResult::Lost => self.follow(now, self.hard.term, None),
            VoteResult::Pending => {}
        }
    }

    pub(crate) fn on_request_vote_reply(&mut self, now: Now, from: NodeId, m: RequestVoteReply) {
        let voter = self.is_voter(from);
        if let RoleState::Candidate(asking) = &mut self.role
            && voter
        {
            asking.votes.entry(from).or_insert(m.granted);
            self.conclude(now);
        }
    }

    /// A write became durable: perhaps the one with its own vote.
    pub(crate) fn count_own_vote(&mut self, now: Now) {
        let durable = self.log.durable_token();
        if let RoleState::Candidate(asking) = &mut self.role
            && asking.own_vote <= durable
        {
            asking.votes.entry(self.config.id).or_insert(true);
            self.conclude(now);
        }
    }

    /// Leads only if its own vote is among those that won: two remote votes of three would do for a
    /// majority, but not against a power loss that takes its own (R2).
    fn conclude(&mut self, now: Now) {
        let RoleState::Candidate(asking) = &self.role else { return };
        let own = asking.votes.contains_key(&self.config.id);
        match self.tally() {
            VoteResult::Won if own => self.lead(now),
            VoteResult::Won | VoteResult::Pending => {}
            VoteResult::Lost => self.follow(now, self.hard.term, None),
        }
    }

    fn tally(&self) -> VoteResult {
        let votes = match &self.role {
            RoleState::PreCandidate(asking) => &asking.votes,
            RoleState::Candidate(asking) => &asking.votes,
            RoleState::Follower(_) | RoleState::Leader(_) => return VoteResult::Pending,
        };
        let conf = self.confs.newest();
        let granted = conf.voters.iter().filter(|id| votes.get(id) == Some(&true)).count();
        if 2 * granted == conf.voters.len() && self.config.breaks(Mutant::HalfIsMajority) {
            return VoteResult::Won;
        }
        if self.config.breaks(Mutant::JointByOneHalf) {
            return Conf::of_voters(conf.voters.clone()).vote(|id| votes.get(&id).copied());
        }
        conf.vote(|id| votes.get(&id).copied())
    }
}

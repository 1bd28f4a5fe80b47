//! Handing leadership over (thesis 3.10): the target catches up, then gets the go-ahead.

use crate::effects::Refused;
use crate::message::{Message, TimeoutNow};
use crate::mutant::Mutant;
use crate::raft::{Raft, RoleState};
use crate::types::{Index, NodeId, Now};

/// A transfer under way. Proposals are refused meanwhile, or the target would never catch up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    pub(crate) to: NodeId,
    /// Cancelled then.
    pub(crate) until: Now,
    /// The go-ahead left on the present link.
    sent: bool,
}

impl Raft {
    /// Hands leadership to another voter. If it does not lead within one election timeout the
    /// transfer is cancelled. A second call replaces the first; for the same target it changes
    /// nothing (E24).
    ///
    /// # Errors
    /// If this replica does not lead, or `to` is not another voter (E23).
    pub fn transfer(&mut self, now: Now, to: NodeId) -> Result<(), Refused> {
        self.polled = None;
        let hint = self.leader().filter(|leader| *leader != self.config.id);
        let is_target = to != self.config.id && self.confs.newest().voters.contains(&to);
        let until = now + self.config.election_timeout_ns_max;
        let RoleState::Leader(leader) = &mut self.role else {
            return Err(Refused::NotLeader { hint });
        };
        if !is_target {
            return Err(Refused::NotVoter(to));
        }
        if leader.transfer.is_none_or(|transfer| transfer.to != to) {
            leader.transfer = Some(Transfer { to, until, sent: false });
        }
        Ok(())
    }

    /// Who is to lead, while a transfer is under way.
    pub fn transferring(&self) -> Option<NodeId> {
        match &self.role {
            RoleState::Leader(leader) => leader.transfer.map(|transfer| transfer.to),
            RoleState::Follower(_) | RoleState::PreCandidate(_) | RoleState::Candidate(_) => None,
        }
    }

    /// Gives the go-ahead once the target has everything, or gives up. Part of every poll.
    pub(crate) fn drive_transfer(&mut self, now: Now) {
        let last = self.log.last().index;
        let RoleState::Leader(leader) = &self.role else { return };
        let Some(Transfer { to, until, sent }) = leader.transfer else { return };
        let matched = leader.peers.get(&to).map_or(Index(0), |progress| progress.match_index);
        let cancelled = now >= until || !self.confs.newest().voters.contains(&to);
        let ready = matched == last && self.is_up(to);
        let RoleState::Leader(leader) = &mut self.role else { return };
        if cancelled {
            leader.transfer = None;
        } else if ready && !sent {
            leader.transfer = Some(Transfer { to, until, sent: true });
            leader.go_ahead_left = true;
            let go_ahead = TimeoutNow { term: self.hard.term };
            self.send(to, Message::TimeoutNow(go_ahead), Index(0));
        }
    }

    /// The link to a peer is new: a go-ahead sent on the old one may be lost.
    pub(crate) fn repeat_go_ahead(&mut self, peer: NodeId) {
        if let RoleState::Leader(leader) = &mut self.role
            && let Some(transfer) = &mut leader.transfer
            && transfer.to == peer
        {
            transfer.sent = false;
        }
    }

    /// The leader wants this replica to lead: it campaigns at once, without asking first. Its
    /// requests pass the others' belief in that leader, for the term after it alone (R19).
    pub(crate) fn on_timeout_now(&mut self, now: Now, from: NodeId) {
        if self.leader_of_term() == Some(from) && from != self.config.id && self.may_campaign() {
            self.request_votes(now, true);
        }
    }

    /// Who leads the current term, whether it is believed in or not.
    pub(crate) fn leader_of_term(&self) -> Option<NodeId> {
        match &self.role {
            RoleState::PreCandidate(asking) => asking.leader,
            RoleState::Follower(_) | RoleState::Candidate(_) | RoleState::Leader(_) => {
                self.leader()
            }
        }
    }

    /// Whether a request with a transfer's mark passes belief and promises: only in the term after
    /// the one in which the go-ahead was given.
    pub(crate) fn passes_belief(&self, transfer: bool, term: crate::types::Term) -> bool {
        let next = term == self.hard.term.next() || self.config.breaks(Mutant::TransferAnyTerm);
        transfer && next
    }
}

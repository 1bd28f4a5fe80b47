//! What a group makes of the edges that node pairs report (R11 to R17): whom a leader counts, whom a
//! follower believes without a timer, and who campaigns at once when a leader's process is gone.
//!
//! An idle group sends nothing and has no timer. A follower waits while its leader's node lives and
//! claims the group; a leader leads while a majority of its voters' nodes live. Both learn of a
//! change by an edge, which [`crate::node_pair`] reports once, for all groups of the node.

use crate::effects::NodeLiveness;
use crate::follower::Follower;
use crate::mutant::Mutant;
use crate::raft::{Raft, RoleState};
use crate::types::{NodeId, Now};

const MILLISECOND: Now = 1_000_000;
/// From one rank of voters to the next in an early election (R17).
const EARLY_STEP: Now = 20 * MILLISECOND;
/// Drawn on top of it.
const EARLY_JITTER: Now = 10 * MILLISECOND;
/// Who granted a pre-vote leaves the asker so long a start; a split vote is redrawn within it.
const EARLY_REDRAW: Now = 50 * MILLISECOND;
/// Redraws of one early election; after them the normal timeouts decide.
const EARLY_REDRAWS_MAX: u8 = 3;

/// What is known of a peer's node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    state: LinkState,
    /// Epoch and link number, once reported.
    name: Option<(u64, u64)>,
    /// It is down, and the log that it lacks is kept until then.
    missed_until: Option<Now>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum LinkState {
    /// Nothing was reported. It is sent to, since the worst of that is a lost message, and counted;
    /// but nobody is believed without a timer.
    #[default]
    Unknown,
    Up,
    Deaf,
    Stalled,
    Down,
}

/// An election that does not wait for the long timeout, since the leader's process is gone (R17).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Early {
    /// Redraws left; 0 if the election is none of these.
    redraws: u8,
}

impl Early {
    /// When to try again after a refusal: others may notice a little later that the leader is gone.
    pub(crate) fn after_refusal(self, now: Now, otherwise: Now) -> Now {
        if self.redraws > 0 { now + EARLY_STEP } else { otherwise }
    }
}

impl Link {
    pub(crate) fn is_down(self) -> bool {
        self.state == LinkState::Down
    }

    /// What is known of the node, without the names.
    pub(crate) fn standing(self) -> impl std::hash::Hash {
        self.state
    }

    /// Whether anything is known of it.
    pub(crate) fn is_reported(self) -> bool {
        self.state != LinkState::Unknown
    }

    /// Whether a leader may count the node as one that could hear it (R14).
    fn counts(self) -> bool {
        matches!(self.state, LinkState::Unknown | LinkState::Up)
    }

    /// Whether a follower may believe its leader there without hearing it.
    fn vouches(self) -> bool {
        matches!(self.state, LinkState::Up | LinkState::Deaf)
    }
}

impl Raft {
    /// Takes an edge of the host's liveness of a peer's node (R11). Of the own node `DiskStalled` keeps
    /// this replica from campaigning, and any other edge lets it again.
    pub fn liveness(&mut self, now: Now, peer: NodeId, edge: NodeLiveness) {
        self.polled = None;
        if peer == self.config.id {
            // Of itself a node says only whether it may lead (R15).
            self.own_stalled = matches!(edge, NodeLiveness::DiskStalled);
            return;
        }
        let before = self.links.get(&peer).copied().unwrap_or_default();
        let state = match edge {
            NodeLiveness::Up { .. } => LinkState::Up,
            NodeLiveness::Deaf => LinkState::Deaf,
            NodeLiveness::DiskStalled => LinkState::Stalled,
            NodeLiveness::Down { .. } => LinkState::Down,
            NodeLiveness::Disowned { .. } | NodeLiveness::Unbelieved { .. } => before.state,
        };
        let name = match edge {
            NodeLiveness::Up { epoch, link } => Some((epoch, link)),
            _ => before.name,
        };
        let missed_until = match state {
            LinkState::Down if before.is_down() => before.missed_until,
            LinkState::Down => Some(now.saturating_add(self.config.missed_ns)),
            LinkState::Unknown | LinkState::Up | LinkState::Deaf | LinkState::Stalled => None,
        };
        self.links.insert(peer, Link { state, name, missed_until });
        match edge {
            NodeLiveness::Up { epoch, .. } => {
                let restarted = before.name.is_some_and(|(before, _)| before != epoch);
                if before.name != name && !self.config.breaks(Mutant::KeepWindowOnNewLink) {
                    self.new_link(now, peer, restarted);
                }
            }
            NodeLiveness::Deaf => {}
            NodeLiveness::Down { gone } => self.lost_leader(now, peer, gone),
            NodeLiveness::DiskStalled => self.lost_leader(now, peer, false),
            NodeLiveness::Disowned { term } => {
                if term == self.hard.term && !self.config.breaks(Mutant::ClaimsIgnored) {
                    self.lost_leader(now, peer, false);
                    self.disown(peer);
                }
            }
            NodeLiveness::Unbelieved { term } => {
                if term == self.hard.term {
                    self.probe_now(now, peer);
                }
            }
        }
        self.note_quorum(now);
    }

    /// All that was sent on the link before is taken as lost (R11).
    fn new_link(&mut self, now: Now, peer: NodeId, restarted: bool) {
        match &mut self.role {
            // A process that started anew leads nothing (E29).
            RoleState::Follower(follower) if restarted && follower.leader == Some(peer) => {
                self.lost_leader(now, peer, true);
                self.disown(peer);
            }
            RoleState::Follower(_) => self.reads.ask_anew(),
            RoleState::PreCandidate(_) | RoleState::Candidate(_) => self.ask(peer),
            RoleState::Leader(leader) => {
                if let Some(progress) = leader.peers.get_mut(&peer) {
                    progress.reset(now);
                }
                self.repeat_go_ahead(peer);
            }
        }
    }

    /// The leader's node is not to be relied on any more: the timer runs. What the silence lasted
    /// already counts; the rest of the timeout is drawn.
    fn lost_leader(&mut self, now: Now, peer: NodeId, gone: bool) {
        let rank = self.early_rank(peer);
        let gone = gone || self.config.breaks(Mutant::EarlyWithoutProof);
        let early = gone && rank.is_some();
        let spread = self.config.election_timeout_ns_max - self.config.election_timeout_ns_min;
        let at = match rank {
            Some(rank) if early => {
                now + EARLY_STEP * rank as Now + self.random.between(0, EARLY_JITTER)
            }
            _ => now + self.random.between(0, spread),
        };
        if let RoleState::Follower(follower) = &mut self.role
            && follower.leader == Some(peer)
        {
            follower.election_at = at;
            self.early = Early { redraws: if early { EARLY_REDRAWS_MAX } else { 0 } };
        }
    }

    /// That node leads nothing in this term, whatever still arrives from it.
    fn disown(&mut self, peer: NodeId) {
        if let RoleState::Follower(follower) = &mut self.role
            && follower.leader == Some(peer)
        {
            follower.disowned = true;
        }
    }

    /// The place of this replica among the voters that are left: priority first, then id.
    fn early_rank(&self, gone: NodeId) -> Option<usize> {
        let mut voters: Vec<NodeId> = self.voters().into_iter().filter(|id| *id != gone).collect();
        voters.sort_by_key(|id| (std::cmp::Reverse(self.config.priority_of(*id)), *id));
        voters.iter().position(|id| *id == self.config.id)
    }

    /// When to try again after a round without a winner.
    pub(crate) fn next_round(&mut self, now: Now) -> Now {
        if self.early.redraws > 0 {
            self.early.redraws -= 1;
            return now + self.random.between(1, EARLY_REDRAW);
        }
        now + self.election_timeout()
    }

    /// This replica granted a pre-vote: it leaves the asker a start.
    pub(crate) fn leave_a_start(&mut self, now: Now) {
        if let RoleState::Follower(follower) = &mut self.role
            && self.early.redraws > 0
        {
            follower.election_at = follower.election_at.max(now + EARLY_REDRAW);
        }
    }

    /// A leader is heard, or a term began: the election is over, or an ordinary one.
    pub(crate) fn end_early_election(&mut self) {
        self.early = Early::default();
    }

    /// Whether the follower's leader is believed without being heard: its node lives and claims it.
    pub(crate) fn is_vouched_for(&self, follower: &Follower) -> bool {
        let link = follower.leader.and_then(|leader| self.links.get(&leader));
        !follower.disowned && link.is_some_and(|link| link.vouches())
    }

    /// Keeps the moment at which a leader's majority was lost.
    pub(crate) fn note_quorum(&mut self, now: Now) {
        let has_quorum = self.is_quorum(|id| id == self.config.id || self.counts(id));
        if let RoleState::Leader(leader) = &mut self.role {
            match has_quorum {
                true => leader.lost_since = None,
                false => leader.lost_since = leader.lost_since.or(Some(now)),
            }
        }
    }

    /// Whether a leader may count that peer's node.
    pub(crate) fn counts(&self, peer: NodeId) -> bool {
        let link = self.links.get(&peer).copied().unwrap_or_default();
        let deaf = link.state == LinkState::Deaf && self.config.breaks(Mutant::CountDeaf);
        link.counts() || deaf
    }

    /// Whether that node's disk was reported as stuck, and it as nothing else since.
    pub(crate) fn is_stuck(&self, peer: NodeId) -> bool {
        let stuck = self.links.get(&peer).is_some_and(|link| link.state == LinkState::Stalled);
        stuck && !self.config.breaks(Mutant::StuckLeaderHoldsTimers)
    }

    /// Who has been down for long is not missed any more.
    pub(crate) fn stop_missing(&mut self, now: Now) {
        for link in self.links.values_mut() {
            link.missed_until.take_if(|until| *until <= now);
        }
    }

    /// Until when the log is kept for a node that has been down for a short time only.
    pub(crate) fn missed_until(&self, peer: NodeId) -> Option<Now> {
        let until = self.links.get(&peer).and_then(|link| link.missed_until);
        until.filter(|_| !self.config.breaks(Mutant::NobodyIsMissed))
    }

    pub(crate) fn is_up(&self, peer: NodeId) -> bool {
        !self.links.get(&peer).copied().unwrap_or_default().is_down()
    }

    /// Whether this node's own disk is stuck: it does not campaign (R15).
    pub(crate) fn is_stalled(&self) -> bool {
        self.own_stalled && !self.config.breaks(Mutant::CampaignOnStuckDisk)
    }
}

//! What this node knows of one other.

use super::{Claims, Heartbeat, PairEdge, PairState, PairStatus, PairsConfig};
use crate::types::{GroupId, Now, Term};
use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

/// Processes of a node that another has replaced, remembered so that what they said late changes
/// nothing; the oldest is forgotten first.
const PAST_EPOCHS_MAX: usize = 8;
/// Heartbeats over which claims must differ before beliefs are exchanged: one that was under way
/// when a leader changed differs without anything being wrong.
const DIFFER_MIN: u32 = 2;
/// A difference that lasts is looked at again after so many heartbeats.
const DIFFER_EVERY: u32 = 16;

/// One pair. Times are this node's.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    /// The peer's process as far as known.
    epoch: Option<u64>,
    past_epochs: VecDeque<u64>,
    /// The link to that process, if one stands.
    link: Option<u64>,
    /// When the last one broke, or the last attempt to have another failed.
    link_ended: Now,
    /// It is known that no process listens.
    gone: bool,
    heard_at: Option<Now>,
    /// The newest stamp of ours that the peer has echoed.
    echoed: Option<Now>,
    /// The peer's newest stamp: what is echoed to it.
    pub(super) stamp: u64,
    pub(super) sync_age_ns: u64,
    /// What the groups were told last.
    pub(super) told: PairState,
    next_heartbeat: Now,
    passes: u64,
    /// What this node leads with the peer as a member.
    pub(super) claims: Claims,
    /// What this node believes the peer to lead.
    pub(super) beliefs: Claims,
    /// Heartbeats in a row whose claims were not these beliefs.
    differ: u32,
    /// The next heartbeat is to carry beliefs from this group on.
    pub(super) page_from: Option<GroupId>,
    /// Where the page after the last one begins; 0: all have been sent.
    pub(super) next_page: GroupId,
    /// The answer to the peer's last page.
    pub(super) disowned: Vec<(GroupId, Term)>,
}

impl Default for Pair {
    fn default() -> Pair {
        Pair {
            epoch: None,
            past_epochs: VecDeque::new(),
            link: None,
            link_ended: 0,
            gone: false,
            heard_at: None,
            echoed: None,
            stamp: 0,
            sync_age_ns: 0,
            told: PairState::Down { gone: false },
            next_heartbeat: 0,
            passes: 0,
            claims: Claims::default(),
            beliefs: Claims::default(),
            differ: 0,
            page_from: None,
            next_page: GroupId(0),
            disowned: Vec::new(),
        }
    }
}

impl Pair {
    pub(super) fn link_up(&mut self, now: Now, epoch: u64, link: u64) {
        // It answered just now: a heartbeat that spoke of another process was the older news.
        self.past_epochs.retain(|past| *past != epoch);
        if !self.knows_epoch(epoch) {
            self.replaced_by(epoch);
        }
        self.epoch = Some(epoch);
        self.link = Some(link);
        self.gone = false;
        self.heard_at = Some(now);
        self.echoed = Some(now);
        // The peer learns at once what is claimed, and that this way works.
        self.next_heartbeat = now;
    }

    pub(super) fn link_down(&mut self, now: Now, gone: bool) {
        self.link = None;
        let silent_since = self.heard_at.is_none_or(|heard_at| heard_at <= self.link_ended);
        self.gone |= gone && silent_since && self.epoch.is_some();
        self.link_ended = now;
    }

    pub(super) fn contact(&mut self, now: Now) {
        if !self.gone {
            self.heard_at = self.heard_at.max(Some(now));
        }
    }

    /// Whether what this process says is not news of a restart.
    pub(super) fn knows_epoch(&self, epoch: u64) -> bool {
        self.epoch.is_none_or(|known| known == epoch) || self.past_epochs.contains(&epoch)
    }

    /// Whether a heartbeat of an unknown process can only be of a later one than that to which a link
    /// stands. One that is older arrives at a process that has never heard of its sender. A machine's
    /// clock goes on over its processes; if the machine started anew as well, the link will break.
    pub(super) fn is_replaced(&self, heartbeat: &Heartbeat) -> bool {
        self.link.is_none() || self.stamp > 0 && heartbeat.stamp > self.stamp
    }

    /// The process that was there has ended: another one speaks for the node.
    pub(super) fn replaced_by(&mut self, epoch: u64) {
        if let Some(before) = self.epoch.replace(epoch) {
            self.past_epochs.push_back(before);
            if self.past_epochs.len() > PAST_EPOCHS_MAX {
                self.past_epochs.pop_front();
            }
        }
        self.link = None;
        self.gone = true;
        (self.heard_at, self.echoed, self.stamp, self.sync_age_ns) = (None, None, 0, 0);
        (self.differ, self.page_from, self.next_page) = (0, None, GroupId(0));
        self.disowned.clear();
    }

    /// Takes a heartbeat; false if its process is a past one.
    pub(super) fn heard(&mut self, now: Now, heartbeat: &Heartbeat) -> bool {
        if self.past_epochs.contains(&heartbeat.epoch) {
            return false;
        }
        self.epoch = Some(heartbeat.epoch);
        // Refused or not: it lives. A process that replaced another stays unknown until its link.
        self.gone &= self.heard_at.is_none();
        self.contact(now);
        self.stamp = self.stamp.max(heartbeat.stamp);
        if heartbeat.echo > 0 {
            // An echo from the future must not stretch a credit.
            self.echoed = self.echoed.max(Some(heartbeat.echo.min(now)));
        }
        self.sync_age_ns = heartbeat.sync_age_ns;
        self.compare(heartbeat.claims);
        true
    }

    fn compare(&mut self, claims: Claims) {
        if claims == self.beliefs {
            (self.differ, self.next_page) = (0, GroupId(0));
            return;
        }
        self.differ = self.differ.saturating_add(1);
        let again = self.differ.is_power_of_two() || self.differ.is_multiple_of(DIFFER_EVERY);
        if self.differ >= DIFFER_MIN && (again || self.next_page > GroupId(0)) {
            self.page_from = Some(self.next_page);
        }
    }

    /// Time in which this process did not run counts for nobody's silence.
    pub(super) fn excuse(&mut self, now: Now, late: Now) {
        for at in [&mut self.heard_at, &mut self.echoed].into_iter().flatten() {
            *at = at.saturating_add(late).min(now);
        }
    }

    /// The edge, if what the pair is differs from what the groups were told. Nobody is called lost
    /// by the clock (`by_clock`) while more of what it said may lie in the inbox.
    pub(super) fn update(
        &mut self,
        now: Now,
        config: &PairsConfig,
        by_clock: bool,
    ) -> Option<PairEdge> {
        let state = self.evaluate(now, config);
        let lost = matches!(state, PairState::Deaf | PairState::Down { gone: false });
        let was_down = matches!(self.told, PairState::Down { .. });
        if state == self.told || (lost && !by_clock && !was_down) {
            return None;
        }
        self.told = state;
        Some(match state {
            PairState::Up { epoch, link } => PairEdge::Up { epoch, link },
            PairState::Deaf => PairEdge::Deaf,
            PairState::DiskStalled => PairEdge::DiskStalled,
            PairState::Down { gone } => PairEdge::Down { gone },
        })
    }

    fn evaluate(&self, now: Now, config: &PairsConfig) -> PairState {
        let fresh =
            |at: Option<Now>| at.is_some_and(|at| now.saturating_sub(at) < config.silence_ns);
        if self.gone {
            return PairState::Down { gone: true };
        }
        if !fresh(self.heard_at) {
            return PairState::Down { gone: false };
        }
        // Until it says that syncs finish again, a disk that stalled is not to be led by.
        let stalled = match self.told {
            PairState::DiskStalled => self.sync_age_ns > config.election_timeout_ns,
            PairState::Up { .. } | PairState::Deaf | PairState::Down { .. } => {
                self.sync_age_ns > 2 * config.election_timeout_ns
            }
        };
        // Beliefs cannot be compared with a peer that does not hear, or to which no link stands.
        let disputed = self.differ >= DIFFER_MIN;
        match (fresh(self.echoed), stalled, self.epoch.zip(self.link)) {
            (true, true, _) => PairState::DiskStalled,
            (true, false, Some((epoch, link))) => PairState::Up { epoch, link },
            // The link broke, but the peer was heard and heard us a moment ago.
            (true, false, None) if matches!(self.told, PairState::Up { .. }) => self.told,
            (false, true, _) => PairState::Down { gone: false },
            (true | false, false, _) if disputed => PairState::Down { gone: false },
            (true | false, false, _) => PairState::Deaf,
        }
    }

    /// Whether a heartbeat is to be sent now. One that is due while some worker has not passed its
    /// loop is left out, not sent late: its absence is the message (R15).
    pub(super) fn is_due(&mut self, now: Now, heartbeat_ns: Now, passes: u64) -> bool {
        if self.link.is_none() || now < self.next_heartbeat {
            return false;
        }
        self.next_heartbeat = now + heartbeat_ns;
        let vouched = passes > self.passes;
        self.passes = passes;
        vouched
    }

    /// When something changes by time alone.
    pub(super) fn deadline(&self, config: &PairsConfig) -> Option<Now> {
        let heartbeat = self.link.map(|_| self.next_heartbeat);
        let expires = |at: Option<Now>| at.map(|at| at + config.silence_ns);
        let silence = match self.told {
            PairState::Down { .. } => None,
            // Due at once.
            PairState::Deaf if self.differ >= DIFFER_MIN => self.heard_at,
            PairState::Deaf => expires(self.heard_at),
            PairState::Up { .. } | PairState::DiskStalled => {
                expires(self.heard_at.min(self.echoed))
            }
        };
        heartbeat.into_iter().chain(silence).min()
    }

    /// See [`super::NodePairs::digest`].
    pub(super) fn digest(&self, now: Now, unit: Now, hasher: &mut impl Hasher) {
        let age = |at: Option<Now>| at.map(|at| now.saturating_sub(at) / unit);
        (self.epoch, &self.past_epochs, self.link.is_some(), self.gone).hash(hasher);
        // A refusal proves an end only if nothing was heard since the one before.
        (self.heard_at <= Some(self.link_ended)).hash(hasher);
        (age(self.heard_at), age(self.echoed), self.stamp == 0).hash(hasher);
        let told = match self.told {
            PairState::Up { epoch, .. } => (0, epoch),
            PairState::Deaf => (1, 0),
            PairState::DiskStalled => (2, 0),
            PairState::Down { gone } => (3, u64::from(gone)),
        };
        (told, self.sync_age_ns / unit, self.claims, self.beliefs).hash(hasher);
        (self.next_heartbeat.saturating_sub(now) / unit, self.differ.min(DIFFER_EVERY))
            .hash(hasher);
        (self.page_from, self.next_page, &self.disowned).hash(hasher);
    }

    pub(super) fn status(&self, now: Now) -> PairStatus {
        let age = |at: Option<Now>| at.map(|at| now.saturating_sub(at));
        PairStatus {
            state: self.told,
            contact_age_ns: age(self.heard_at),
            echo_age_ns: age(self.echoed),
            sync_age_ns: self.sync_age_ns,
            claimed: self.claims.count,
            believed: self.beliefs.count,
        }
    }
}

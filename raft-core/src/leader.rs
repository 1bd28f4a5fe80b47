//! What a leader does: replicate, commit, and step down when it has lost its majority.

use crate::conf::Conf;
use crate::effects::{Effects, Fetch, FetchResult, Pull};
use crate::frame;
use crate::message::{AppendEntries, AppendEntriesReply, AppendOutcome, InstallSnapshot, Message};
use crate::mutant::Mutant;
use crate::progress::{Next, PeerFetch, Progress};
use crate::raft::{FETCH_BYTES_MAX, Raft, RoleState};
use crate::snapshot::Snapshot;
use crate::transfer::Transfer;
use crate::types::{EntryId, EntryKind, FetchId, Index, NodeId, Now};
use std::collections::BTreeMap;

/// A leader's own state.
#[derive(Clone, Debug)]
pub(crate) struct Leader {
    /// Every other member, learners included; until the newest configuration is committed, those of the one
    /// before as well.
    pub(crate) peers: BTreeMap<NodeId, Progress>,
    /// The first index of its own term: nothing is known to be committed before this is.
    pub(crate) first: Index,
    /// The transfer under way.
    pub(crate) transfer: Option<Transfer>,
    /// Since when its voters' nodes are no majority.
    pub(crate) lost_since: Option<Now>,
    /// A go-ahead left in this term: no lease any more, cancelled or not (R19).
    pub(crate) go_ahead_left: bool,
}

impl Raft {
    /// Won. Appends an empty entry at once: only an entry of its own term commits what came before
    /// (Raft 5.4.2, 8).
    pub(crate) fn lead(&mut self, now: Now) {
        let next_index = self.log.last().index.next();
        let progress = |peer: NodeId| (peer, Progress::new(next_index, now));
        let members = self.confs.newest().members().into_iter();
        let members = members.chain(self.confs.committed().1.members());
        self.role = RoleState::Leader(Leader {
            peers: members.filter(|id| *id != self.config.id).map(progress).collect(),
            first: next_index,
            transfer: None,
            lost_since: None,
            go_ahead_left: false,
        });
        self.note_quorum(now);
        if !self.config.breaks(Mutant::NoEmptyEntry) {
            self.append_own(EntryKind::Empty, &[]);
        }
    }

    pub(crate) fn append_own(&mut self, kind: EntryKind, payload: &[u8]) {
        let id = EntryId { index: self.log.last().index.next(), term: self.hard.term };
        let entry = frame::encode_entry(self.config.group, id, kind, payload);
        self.log.append(entry);
    }

    /// Someone asks for votes beside this leader: it may be a follower that lost its leader, or one
    /// that raised its term alone. A probe tells the first and lets the second answer (R16).
    pub(crate) fn probe_asker(&mut self, now: Now, asker: NodeId) {
        self.probe_now(now, asker);
    }

    /// Sends something to that peer as soon as its link takes it, even if there is nothing new.
    pub(crate) fn probe_now(&mut self, now: Now, peer: NodeId) {
        if let RoleState::Leader(leader) = &mut self.role
            && let Some(progress) = leader.peers.get_mut(&peer)
        {
            progress.probe_at = Some(now);
            progress.announced_until = 0;
        }
    }

    /// Gives up the streams that do not move, before it is said how much of the log the others hold.
    pub(crate) fn give_up_streams(&mut self, now: Now) {
        let patience = self.config.snapshot_patience_ns;
        if let RoleState::Leader(leader) = &mut self.role {
            leader.peers.values_mut().for_each(|progress| progress.give_up_stream(now, patience));
        }
    }

    /// Names the peers that have something to pull, and the entries that must be read for them.
    pub(crate) fn announce(&mut self, now: Now, effects: &mut Effects) {
        let max = self.window_max();
        let again = now + self.config.heartbeat_ns;
        let mut wanting = Vec::new();
        let RoleState::Leader(leader) = &mut self.role else { return };
        let (base, newest) = (self.log.base().index, self.snapshots.checkpoint.as_ref());
        // While a newer one is installed, the log begins after the end of the one that there is.
        let offered = |newest: &&Snapshot| newest.id.at.index >= base;
        let newest =
            newest.filter(|newest| offered(newest) || self.config.breaks(Mutant::OffersOlder));
        self.snapshots.streams = false;
        for (peer, progress) in &mut leader.peers {
            self.snapshots.streams |= progress.settle_stream(now, base, newest);
            if self.links.get(peer).is_some_and(|link| link.is_down()) {
                continue;
            }
            let quiet = progress.is_quiet(self.log.last().index, self.commit)
                || self.config.breaks(Mutant::QuietWithoutProof);
            progress.plan_probe(now, quiet, 2 * self.config.heartbeat_ns);
            if progress.wants_fetch(now, &self.log, max) {
                wanting.push(*peer);
            }
            if progress.announced_until <= now && progress.is_ready(now, &self.log, max) {
                progress.announced_until = again;
                effects.appendable.push(*peer);
            }
        }
        for peer in wanting {
            self.fetch_for_peer(peer, effects);
        }
    }

    fn fetch_for_peer(&mut self, peer: NodeId, effects: &mut Effects) {
        let id = self.new_fetch();
        let to = self.log.cache_first().prev();
        if let RoleState::Leader(leader) = &mut self.role
            && let Some(progress) = leader.peers.get_mut(&peer)
        {
            progress.fetch = PeerFetch::Open(id);
            let from = progress.next_index;
            effects.fetch.push(Fetch { id, from, to, bytes_max: FETCH_BYTES_MAX });
        }
    }

    pub(crate) fn fetched_for_peer(&mut self, now: Now, id: FetchId, result: FetchResult) {
        let RoleState::Leader(leader) = &self.role else { return };
        let asked = |(_, progress): &(&NodeId, &Progress)| match &progress.fetch {
            PeerFetch::Open(open) => *open == id || self.config.breaks(Mutant::FetchUnchecked),
            PeerFetch::Idle | PeerFetch::Here(_) | PeerFetch::Paused(_) => false,
        };
        let Some((peer, progress)) = leader.peers.iter().find(asked) else { return };
        let (peer, usable) = (*peer, self.usable(progress.next_index, result));
        let retry_at = now + self.config.heartbeat_ns;
        if let RoleState::Leader(leader) = &mut self.role
            && let Some(progress) = leader.peers.get_mut(&peer)
        {
            progress.fetch = match usable {
                Some(entries) => PeerFetch::Here(entries.into()),
                None => PeerFetch::Paused(retry_at),
            };
        }
    }

    /// See [`Raft::next_append`].
    pub(crate) fn pull(&mut self, now: Now, peer: NodeId, room: u64) -> Pull {
        let max = self.window_max();
        let patience = 2 * self.config.heartbeat_ns;
        let (term, commit, lease_ns) = (self.hard.term, self.commit, self.lease_asked());
        let RoleState::Leader(leader) = &mut self.role else { return Pull::Nothing };
        let Some(progress) = leader.peers.get_mut(&peer) else { return Pull::Nothing };
        let announced_until = std::mem::take(&mut progress.announced_until);
        let entries = match progress.next(now, &self.log, room, max) {
            Next::Send(entries) => entries,
            Next::Offer(snapshot) => {
                progress.sent(now, &[], patience);
                let offer = InstallSnapshot { term, stamp: now, lease_ns, snapshot };
                return Pull::Ready(Message::InstallSnapshot(offer));
            }
            Next::NeedsRoom(bytes) => {
                // The link knows of it now: told again and again, its host would find no end.
                progress.announced_until = announced_until;
                return Pull::Needs(bytes);
            }
            Next::Wait => return Pull::Nothing,
        };
        let index = progress.next_index.prev();
        // Compacted before there is a snapshot to offer, which is still installed here: asked again in a
        // while, not at once.
        let Some(prev_term) = self.log.term_at(index) else {
            progress.sent(now, &[], patience);
            return Pull::Nothing;
        };
        progress.sent(now, &entries, patience);
        let prev = EntryId { index, term: prev_term };
        Pull::Ready(Message::AppendEntries(AppendEntries {
            term,
            prev,
            commit,
            stamp: now,
            lease_ns,
            entries,
        }))
    }

    /// Whether a follower says that it agrees beyond the end of this leader's log. No correct one does within
    /// a term: one of the two disks has forgotten something, or is another node's.
    pub(crate) fn is_beyond_log(&self, m: &AppendEntriesReply) -> bool {
        let AppendOutcome::Accepted { received, .. } = m.outcome else { return false };
        let leads = matches!(self.role, RoleState::Leader(_)) && m.term == self.hard.term;
        leads && received > self.log.last().index
    }

    pub(crate) fn on_append_entries_reply(
        &mut self,
        now: Now,
        from: NodeId,
        m: AppendEntriesReply,
    ) {
        let (lease_ns, from_receipt) =
            (self.config.lease_ns, self.config.breaks(Mutant::LeaseFromReceipt));
        let patience = 2 * self.config.heartbeat_ns;
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.peers.get_mut(&from) else { return };
        let stamp = if from_receipt { now } else { m.stamp };
        progress.answered(now, stamp, m.promised_ns, lease_ns);
        progress.commit_known(m.commit);
        match m.outcome {
            AppendOutcome::Accepted { matched, received } => {
                let rose = progress.accepted(matched, received, self.log.base().index);
                let last = self.log.last().index;
                progress.finish_round(now, last, self.config.election_timeout_ns_min);
                if rose {
                    // It is there again: what it waits for does not wait for the silence before.
                    progress.ask_soon(now, patience);
                    self.advance_commit();
                }
            }
            AppendOutcome::Rejected { prev, hint } => {
                progress.rejected(prev, self.log.last_within(hint));
            }
        }
    }

    /// Commits what a majority has on disk, this leader counted by its own disk alone (R4), if it
    /// is of this term: an older entry on a majority can still be overwritten (Raft 5.4.2, figure 8).
    pub(crate) fn advance_commit(&mut self) {
        if !matches!(self.role, RoleState::Leader(_)) {
            return;
        }
        let own = match self.config.breaks(Mutant::LeaderCountsUnsynced) {
            true => self.log.last().index,
            false => self.log.durable(),
        };
        let index = self.majority_value(own, |progress| progress.match_index);
        let own_term = self.log.term_at(index) == Some(self.hard.term);
        if own_term || self.config.breaks(Mutant::CommitOldTerm) {
            self.commit_to(index);
        }
    }

    /// The highest value that a majority has reached, of each half if there are two: `own` stands for
    /// this leader where it is a voter (C5).
    pub(crate) fn majority_value<T: Ord + Copy + Default>(
        &self,
        own: T,
        of: impl Fn(&Progress) -> T,
    ) -> T {
        let RoleState::Leader(leader) = &self.role else { return own };
        let value = |id: NodeId| match id == self.config.id {
            true => own,
            false => leader.peers.get(&id).map_or_else(T::default, &of),
        };
        let conf = self.confs.newest();
        let reached = match self.config.breaks(Mutant::JointByOneHalf) {
            true => Conf::of_voters(conf.voters.clone()).reached(value),
            false => conf.reached(value),
        };
        reached.unwrap_or_default()
    }

    /// Whether this replica leads nobody: its voters' nodes are no majority. It refuses proposals
    /// and reads at once.
    pub(crate) fn quorum_lost(&self) -> bool {
        match &self.role {
            RoleState::Leader(leader) => leader.lost_since.is_some(),
            RoleState::Follower(_) | RoleState::PreCandidate(_) | RoleState::Candidate(_) => true,
        }
    }

    /// Steps down after a timeout without a majority (thesis 6.2): its clients must look for another leader, and
    /// the followers it still has must be free to elect one.
    pub(crate) fn check_quorum(&mut self, now: Now) {
        let RoleState::Leader(leader) = &self.role else { return };
        let timeout = self.config.election_timeout_ns_max;
        let over = leader.lost_since.is_some_and(|since| now >= since + timeout);
        if over && !self.config.breaks(Mutant::NoCheckQuorum) {
            self.follow(now, self.hard.term, None);
        }
    }

    /// The next probe, or the end of the patience without a majority, with a stream that does not move, of
    /// which its receiver's silence takes no notice, or with a member that is down and lacks some of the log.
    /// None while all is quiet.
    pub(crate) fn leader_deadline(&self) -> Option<Now> {
        let RoleState::Leader(leader) = &self.role else { return None };
        let patience = self.config.snapshot_patience_ns;
        let held = !self.config.breaks(Mutant::StreamWithoutEnd);
        let streams = leader.peers.values().filter(|_| held);
        let given_up = streams.filter_map(|progress| progress.given_up_at(patience)).min();
        let lacks = |progress: &Progress| progress.match_index < self.log.last().index;
        let lacking = leader.peers.iter().filter(|(_, progress)| lacks(progress));
        let missed = lacking.filter_map(|(peer, _)| self.missed_until(*peer)).min();
        let up = leader.peers.iter().filter(|(peer, _)| self.is_up(**peer));
        let due = |p: &Progress| p.probe_at.map(|at| at.max(p.announced_until));
        let probe = up.filter_map(|(_, progress)| due(progress)).min();
        let lost = leader.lost_since.map(|since| since + self.config.election_timeout_ns_max);
        [probe, lost, given_up, missed].into_iter().flatten().min()
    }
}

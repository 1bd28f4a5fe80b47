//! Changing who is in the group (Raft section 6, thesis 4): one step at a time, each when the one
//! before is committed and those who are to count have caught up.

use crate::conf::{Conf, ConfChange};
use crate::effects::{ConfView, Effects, Refused};
use crate::message::{AppendEntries, Message, TimeoutNow};
use crate::mutant::Mutant;
use crate::progress::Progress;
use crate::raft::{Raft, RoleState};
use crate::types::{Entries, EntryId, EntryKind, Index, NodeId, Now};

impl Raft {
    /// Changes the group to what `change` names; how far it is, the effects tell. Voters that come
    /// are learners until they have caught up. Asking for today's voters while a change waits for
    /// that takes it back.
    ///
    /// # Errors
    /// If this replica does not lead, or has not committed in its term, or a change is under way, or
    /// there is nothing to do, or the change could not be committed now (R22).
    pub fn change_conf(&mut self, now: Now, change: &ConfChange) -> Result<Index, Refused> {
        self.polled = None;
        let hint = self.leader().filter(|leader| *leader != self.config.id);
        let RoleState::Leader(leader) = &self.role else {
            return Err(Refused::NotLeader { hint });
        };
        if leader.lost_since.is_some() {
            return Err(Refused::NotLeader { hint: None });
        }
        if let Some(to) = self.transferring() {
            return Err(Refused::Transferring { to });
        }
        let settled = self.commit >= leader.first || self.config.breaks(Mutant::ConfBeforeOwnTerm);
        let committed = self.confs.newest_index() <= self.commit;
        let idle = committed || self.config.breaks(Mutant::TwoConfsAtOnce);
        let conf = self.confs.newest();
        if !settled || !idle || conf.is_joint() {
            return Err(Refused::ConfPending);
        }
        let next = conf.towards(change).map_err(Refused::Conf)?;
        if !next.goal.is_empty() && !next.goal.iter().all(|id| self.is_coming(&next, *id)) {
            return Err(Refused::Conf("a voter that comes is down"));
        }
        let ready = !next.goal.is_empty() && self.is_ready(&next);
        if !ready && !next.goal.is_empty() && next.goal.iter().all(|id| conf.is_voter(*id)) {
            return Err(Refused::Conf("too few of the voters that stay have caught up"));
        }
        Ok(self.append_conf(now, if ready { next.joint() } else { next }))
    }

    /// Whether an incoming voter's node could take part at all: one that is down never catches up.
    fn is_coming(&self, next: &Conf, id: NodeId) -> bool {
        next.voters.contains(&id) || id == self.config.id || self.is_up(id)
    }

    /// Whether the joint configuration to the goal could be committed at once: whoever comes has
    /// caught up, and so has a majority of each half. It cannot be taken back once it is written.
    fn is_ready(&self, conf: &Conf) -> bool {
        if self.config.breaks(Mutant::PromoteAtOnce) {
            return true;
        }
        let joint = conf.joint();
        let caught_up = |id: NodeId| id == self.config.id || self.has_caught_up(id);
        let incoming = joint.voters.iter().filter(|id| !joint.outgoing.contains(id));
        incoming.copied().all(caught_up) && joint.reached(caught_up) == Some(true)
    }

    fn has_caught_up(&self, id: NodeId) -> bool {
        let RoleState::Leader(leader) = &self.role else { return false };
        let progress = leader.peers.get(&id);
        self.counts(id) && progress.is_some_and(Progress::has_caught_up)
    }

    fn append_conf(&mut self, now: Now, conf: Conf) -> Index {
        let index = self.log.last().index.next();
        self.append_own(EntryKind::Conf, &conf.encode());
        self.confs.append(index, conf);
        self.conf_changed(now);
        index
    }

    /// Takes the next step of a change once the one before is committed. Part of every poll; any
    /// leader does it, also one that finds a joint configuration in its log (M4).
    pub(crate) fn drive_conf(&mut self, now: Now) {
        if self.confs.commit(self.commit) {
            self.conf_committed(now);
        }
        let RoleState::Leader(leader) = &self.role else { return };
        let settled = self.commit >= leader.first && self.confs.newest_index() <= self.commit;
        if !settled || leader.transfer.is_some() {
            return;
        }
        let conf = self.confs.newest();
        if conf.is_joint() {
            let left = conf.left();
            self.append_conf(now, left);
        } else if !conf.goal.is_empty() && leader.lost_since.is_none() && self.is_ready(conf) {
            let joint = conf.joint();
            self.append_conf(now, joint);
        } else if !conf.is_voter(self.config.id) {
            self.retire(now);
        }
    }

    /// Removed by a change that is committed: its last acts are to tell that, and to ask who has
    /// everything to lead (M5, M21).
    fn retire(&mut self, now: Now) {
        let RoleState::Leader(leader) = &self.role else { return };
        let voters = &self.confs.newest().voters;
        let voter = |(id, _): &(&NodeId, &Progress)| voters.contains(*id) && self.is_up(**id);
        let next = leader.peers.iter().filter(voter).max_by_key(|(_, p)| p.match_index);
        let next = next.map(|(id, _)| *id);
        for peer in leader.peers.keys().copied().collect::<Vec<_>>() {
            self.tell_commit(now, peer);
        }
        if let Some(next) = next {
            let go_ahead = TimeoutNow { term: self.hard.term };
            self.send(next, Message::TimeoutNow(go_ahead), Index(0));
        }
        self.follow(now, self.hard.term, None);
    }

    /// Says to a peer, without waiting for its link to pull, how far what it surely has is committed.
    fn tell_commit(&mut self, now: Now, peer: NodeId) {
        let RoleState::Leader(leader) = &self.role else { return };
        let Some(progress) = leader.peers.get(&peer) else { return };
        let index = progress.match_index;
        let Some(term) = self.log.term_at(index) else { return };
        let message = Message::AppendEntries(AppendEntries {
            term: self.hard.term,
            prev: EntryId { index, term },
            commit: self.commit,
            stamp: now,
            lease_ns: 0,
            entries: Entries::new(),
        });
        self.send(peer, message, Index(0));
    }

    /// The configuration that counts is another one: by an append, or because one was cut off.
    pub(crate) fn conf_changed(&mut self, now: Now) {
        self.conf_news = true;
        self.settle_peers(now);
        self.note_quorum(now);
        self.advance_commit();
    }

    /// A configuration became committed.
    pub(crate) fn conf_committed(&mut self, now: Now) {
        self.conf_news = true;
        // Who is dropped for good is told before it hears nothing more (R23).
        if let RoleState::Leader(leader) = &self.role {
            let conf = self.confs.newest();
            let dropped = leader.peers.keys().copied().filter(|id| !conf.is_member(*id));
            for peer in dropped.collect::<Vec<_>>() {
                self.tell_commit(now, peer);
            }
        }
        self.settle_peers(now);
    }

    /// A leader keeps a progress for each member of the newest configuration and, until that is
    /// committed, of the one before: whoever is dropped must still get the entry that says so.
    fn settle_peers(&mut self, now: Now) {
        let next_index = self.log.last().index.next();
        let (own, newest) = (self.config.id, self.confs.newest());
        let members = newest.members();
        let stays = |id: &NodeId| newest.is_member(*id) || self.confs.committed().1.is_member(*id);
        let RoleState::Leader(leader) = &mut self.role else { return };
        leader.peers.retain(|id, _| stays(id));
        for id in members.into_iter().filter(|id| *id != own) {
            leader.peers.entry(id).or_insert_with(|| Progress::new(next_index, now));
        }
    }

    pub(crate) fn take_conf(&mut self, effects: &mut Effects) {
        effects.removed = self.removal_news.take();
        if std::mem::take(&mut self.conf_news) {
            let index = self.confs.newest_index();
            effects.conf = Some(ConfView {
                conf: self.confs.newest().clone(),
                index,
                committed: index <= self.commit,
            });
        }
    }

    /// Whether that node counts in a majority.
    pub(crate) fn is_voter(&self, id: NodeId) -> bool {
        self.confs.newest().is_voter(id)
    }

    /// Whether this replica may ask for votes: a voter of the newest configuration, or of the last
    /// one committed, since whoever is dropped may be the only one with the entry that says so (R20).
    /// One that heard it was removed, or whose disk is stuck, does not.
    pub(crate) fn may_campaign(&self) -> bool {
        let own = self.config.id;
        let dropped = !self.config.breaks(Mutant::DroppedIsMute);
        let voter = self.is_voter(own) || dropped && self.confs.committed().1.is_voter(own);
        voter && self.removed_at.is_none() && !self.is_stalled()
    }

    /// Whether this replica has a say in elections: its log names it, or it was there from the
    /// beginning. A blank replica could have voted before in a life it has forgotten (R21).
    pub(crate) fn has_a_say(&self) -> bool {
        self.confs.name(self.config.id) || self.config.breaks(Mutant::BlankVotes)
    }

    /// Whether nothing says that this replica is in the group: its own log, as far as that is committed, or a peer
    /// says that it is in it no more, or it joins and has not heard yet that it is. It leads nothing then. Whoever
    /// knows that it is not to be a member may delete it, but for term and vote (R21).
    pub fn is_no_member(&self) -> bool {
        let follows = matches!(self.role, RoleState::Follower(_));
        follows && (self.removed_at.is_some() || !self.confs.name(self.config.id))
    }

    /// The committed configuration that does not name the asker, nor does one after it here.
    pub(crate) fn removal_of(&self, asker: NodeId) -> Option<Index> {
        let (index, _) = self.confs.committed();
        (!self.confs.name(asker)).then_some(index)
    }

    /// A peer says that this replica is no member by that entry, which is committed: it stops
    /// campaigning until it hears from a leader (R20). It knows better if its own log names it later.
    pub(crate) fn hear_removal(&mut self, now: Now, index: Index) {
        let dropped = index >= self.confs.newest_index() && !self.is_voter(self.config.id);
        let heard = !self.config.breaks(Mutant::RemovedAsksOn);
        if heard && (index > self.log.last().index || dropped) {
            self.removed_at = Some(index);
            self.removal_news = Some(index);
            self.follow(now, self.hard.term, None);
        }
    }
}

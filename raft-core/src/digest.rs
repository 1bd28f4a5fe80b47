//! One number for a replica's state, by which a search knows where it was already.

use crate::raft::{Raft, RoleState};
use crate::types::{Index, WriteToken};
use std::hash::{DefaultHasher, Hash, Hasher};

impl Raft {
    /// A hash of all that decides what this replica may do, but for times: term and vote, the log
    /// and what of it is on its way to the disk, the role and what it knows, commits, reads. Equal
    /// states of one program have equal digests; another version may hash otherwise. To be taken
    /// after a poll: what is not yet handed over is not in it.
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.hard, self.log.durable_hard(), self.log.durable()).hash(&mut hasher);
        (self.log.last(), self.log.runs(), self.log.cache_first()).hash(&mut hasher);
        for index in self.log.cache_first().0..=self.log.last().index.0 {
            self.log.cached(Index(index)).map(|entry| &entry.frame).hash(&mut hasher);
        }
        self.log.pending().for_each(|(_, hard, covers)| (hard, covers).hash(&mut hasher));
        (self.role(), self.leader(), self.commit, self.pre_vote_round).hash(&mut hasher);
        (self.apply.handed, self.apply.applied, self.reads.waiting()).hash(&mut hasher);
        self.links.iter().for_each(|(peer, link)| (peer, link.standing()).hash(&mut hasher));
        (self.confs.newest(), self.confs.committed(), self.removed_at).hash(&mut hasher);
        (self.own_stalled, self.log.base()).hash(&mut hasher);
        self.snapshots_standing().hash(&mut hasher);
        self.digest_role(&mut hasher);
        hasher.finish()
    }

    fn digest_role(&self, hasher: &mut impl Hasher) {
        match &self.role {
            RoleState::Follower(follower) => (follower.verified, follower.disowned).hash(hasher),
            RoleState::PreCandidate(asking) => asking.votes.hash(hasher),
            RoleState::Candidate(asking) => {
                let before = |(token, ..): &(WriteToken, _, _)| *token <= asking.own_vote;
                let writes = self.log.pending().take_while(before).count();
                (&asking.votes, asking.transfer, writes).hash(hasher);
            }
            RoleState::Leader(leader) => {
                let target = leader.transfer.map(|transfer| transfer.to);
                (leader.first, target, leader.go_ahead_left).hash(hasher);
                leader.lost_since.is_some().hash(hasher);
                for (peer, progress) in &leader.peers {
                    (peer, progress.match_index, progress.next_index).hash(hasher);
                    progress.confirmed.seq.hash(hasher);
                    progress.standing(hasher);
                }
            }
        }
    }
}

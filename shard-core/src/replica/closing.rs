//! The end of a replica.

use super::{Replica, ReplicaOutput, answer_all};
use crate::cluster_map::{GroupMembers, MemberStep};
use crate::wire::Answer;
use raft_core::types::HardState;

impl Replica {
    /// Whether nothing that is committed here says that this node is in the group: where the map gives it no
    /// seat either, the replica may go. One that joined and was not wanted any more before it heard anything
    /// would stay for ever otherwise.
    pub(crate) fn is_no_member(&self) -> bool {
        self.raft.is_no_member()
    }

    /// Whether its group has come to these members without it, as the map says. Nothing else tells it where the last
    /// entry was lost: it follows a leader that is there and does not know it any more. What its own log has may be
    /// newer, though.
    pub(crate) fn has_left(&self, members: &GroupMembers) -> bool {
        members.step == MemberStep::Settled
            && members.nodes().all(|node| node != self.own)
            && members.follows.0 >= self.raft.conf().follows
            && !self.leads()
    }

    /// Term and vote, with those that are on their way to the disk.
    pub(crate) fn hard(&self) -> HardState {
        self.raft.status().hard
    }

    /// Answers all who wait: they have to ask elsewhere. What was polled before is still owed.
    pub(crate) fn close(&mut self, out: &mut ReplicaOutput) {
        for waiting in std::mem::take(&mut self.waiting).into_values() {
            answer_all(&waiting.clients, &Answer::Lost, out);
        }
        self.waiting_count = 0;
        let elsewhere = Answer::NotLeader { hint: None };
        answer_all(&std::mem::take(&mut self.batch).clients, &elsewhere, out);
        self.fail_reads(&elsewhere, out);
        self.forget_moves(&elsewhere, out);
    }
}

//! The wishes that another node leads a group: each is answered by what became of it.
//!
//! "It has begun" would tell nothing: a transfer is given up when its target is slow, and another one
//! may take its place. So the leader answers when it leads no more, and then whoever asked goes to the
//! next leader with the same wish, or when the transfer has ended and it leads still. raft-core ends
//! each within an election timeout, so no wish waits longer than that.

use crate::replica::{Origin, Replica};
use crate::wire::{Answer, GroupAnswer, Reply, TransferAnswer};
use raft_core::types::{GroupId, NodeId, Now};
use std::collections::BTreeMap;

/// Wishes of one group that may wait; one more is told to come again.
pub(crate) const WISHES_PER_GROUP_MAX: usize = 64;

/// Somebody waits for the end of a transfer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) origin: Origin,
    /// Of the request.
    pub(crate) id: u64,
    pub(crate) to: NodeId,
}

/// All wishes that wait; no group without one.
#[derive(Debug, Default)]
pub(crate) struct Transfers {
    waiting: BTreeMap<GroupId, Vec<Wish>>,
}

/// Begins what was wished.
///
/// # Errors
/// The answer, where there is nothing to wait for.
pub(crate) fn begin(
    now: Now,
    replica: &mut Replica,
    own: NodeId,
    to: NodeId,
    may_lead: bool,
) -> Result<(), Answer> {
    let answer = |what| Err(Answer::Group(GroupAnswer::Transfer(what)));
    if !replica.leads() {
        return Err(Answer::NotLeader { hint: replica.leader().leader });
    }
    if to == own {
        return answer(TransferAnswer::Leads);
    }
    if !may_lead && replica.other_members().contains(&to) {
        return answer(TransferAnswer::Unfit);
    }
    replica.transfer(now, to)
}

impl Transfers {
    /// Keeps a wish whose transfer has begun.
    ///
    /// # Errors
    /// If too many wait.
    pub(crate) fn wait(&mut self, group: GroupId, wish: Wish) -> Result<(), Answer> {
        let waiting = self.waiting.entry(group).or_default();
        if waiting.len() >= WISHES_PER_GROUP_MAX {
            return Err(Answer::Busy);
        }
        waiting.push(wish);
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Answers the wishes whose transfer has ended. To be called when the replicas were polled.
    pub(crate) fn ended(
        &mut self,
        replicas: &BTreeMap<GroupId, Replica>,
        own: NodeId,
    ) -> Vec<(Origin, Reply)> {
        let mut replies = Vec::new();
        self.waiting.retain(|group, wishes| {
            let Some(replica) = replicas.get(group) else { return false };
            let under_way = replica.transferring();
            wishes.retain(|wish| {
                let answer = if !replica.leads() {
                    // As a rule it is that one which made this node step down.
                    Answer::NotLeader { hint: replica.leader().leader.or(Some(wish.to)) }
                } else if under_way == Some(wish.to) {
                    return true;
                } else {
                    let given_up = TransferAnswer::GivenUp { group: *group, leader: own };
                    Answer::Group(GroupAnswer::Transfer(given_up))
                };
                replies.push((wish.origin, Reply { id: wish.id, answer }));
                false
            });
            !wishes.is_empty()
        });
        replies
    }
}

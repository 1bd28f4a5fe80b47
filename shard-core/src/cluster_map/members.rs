//! Who is in each group: what is wanted, and what its leader says.
//!
//! A group follows configurations: each of its Raft configuration entries has the number of the cluster's
//! configuration that wanted it ([`raft_core::conf::Conf::follows`]). That number never falls, so a leader that
//! knows only an older map does nothing against what a newer one wanted.

use super::{ClusterMap, MapError};
use crate::cluster_config::{ClusterConfig, ConfigNum, VOTERS_MAX};
use raft_core::conf::{Conf, LEARNERS_MAX};
use raft_core::types::{GroupId, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The members of a group whose voters were changed since it was made. Of any other they are its founders.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The configuration that changed the group's voters last; 0 if none did.
    pub wanted: ConfigNum,
    /// The newest that its leader has said; None until it has.
    pub reported: Option<GroupMembers>,
}

/// How far a group is on the way to the voters that it is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum MemberStep {
    /// Those who come are learners, and catch up.
    CatchingUp,
    /// Those who come and those who go all count.
    Joint,
    /// Nothing is left to be done.
    Settled,
}

/// A committed configuration of a group's members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupMembers {
    /// The configuration of the cluster that it follows: the group will never act on a lower one.
    pub follows: ConfigNum,
    /// How far it is.
    pub step: MemberStep,
    /// Whose votes count, of both sets while it is joint; in order.
    pub voters: Vec<NodeId>,
    /// Who gets the log and does not count; in order.
    pub learners: Vec<NodeId>,
}

impl GroupMembers {
    /// What a committed Raft configuration says; None if it follows no configuration of the cluster.
    pub fn of(conf: &Conf) -> Option<GroupMembers> {
        let step = match (conf.is_joint(), conf.goal.is_empty()) {
            (true, _) => MemberStep::Joint,
            (false, false) => MemberStep::CatchingUp,
            (false, true) => MemberStep::Settled,
        };
        let members = GroupMembers {
            follows: ConfigNum(conf.follows),
            step,
            voters: conf.all_voters(),
            learners: conf.learners.clone(),
        };
        (conf.follows > 0).then_some(members)
    }

    /// Of two reports the higher one is newer.
    pub fn order(&self) -> (ConfigNum, MemberStep) {
        (self.follows, self.step)
    }

    /// Whether a node has a seat in it.
    pub fn has(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.learners.contains(&node)
    }

    /// Everybody with a seat in it.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.voters.iter().chain(&self.learners).copied()
    }

    /// Whether a group can have these members.
    pub fn is_possible(&self) -> bool {
        let in_order = |nodes: &Vec<NodeId>| nodes.is_sorted_by(|a, b| a < b);
        (1..=2 * VOTERS_MAX).contains(&self.voters.len())
            && self.learners.len() <= LEARNERS_MAX
            && in_order(&self.voters)
            && in_order(&self.learners)
            && self.learners.iter().all(|node| !self.voters.contains(node))
    }
}

impl ClusterMap {
    /// The configuration that a group's leader is to carry out, with the voters of it; None if it is the one that
    /// the group began with.
    pub fn wanted_members(&self, group: GroupId) -> Option<(ConfigNum, &[NodeId])> {
        let wanted = self.members.get(&group)?.wanted;
        let seats = self.config.groups.get(&group)?;
        (wanted > ConfigNum(0)).then_some((wanted, seats.voters.as_slice()))
    }

    /// What a group's leader has said of its members last.
    pub fn reported_members(&self, group: GroupId) -> Option<&GroupMembers> {
        self.members.get(&group)?.reported.as_ref()
    }

    /// The voters of a group, as far as is known here: of both sets while there are two. Its founders as long as it
    /// has said nothing of another wish.
    pub fn voters(&self, group: GroupId) -> &[NodeId] {
        let wanted = self.config.groups.get(&group).map(|seats| &seats.voters);
        let known = match self.members.get(&group) {
            None => wanted,
            Some(members) => match &members.reported {
                Some(members) => Some(&members.voters),
                None => self.founders.get(&group).or(wanted),
            },
        };
        known.map_or(&[], Vec::as_slice)
    }

    /// Everybody with a seat in a group, as far as is known here: voters, then learners.
    pub fn seated(&self, group: GroupId) -> impl Iterator<Item = NodeId> {
        let learners = self.reported_members(group).map_or(&[][..], |members| &members.learners);
        self.voters(group).iter().chain(learners).copied()
    }

    /// Whether a node is a learner of a group, as far as is known here.
    pub fn is_learner(&self, group: GroupId, node: NodeId) -> bool {
        self.reported_members(group).is_some_and(|members| members.learners.contains(&node))
    }

    /// Who may lead a group, now or once its members are those that it is to have.
    pub fn may_lead(&self, group: GroupId) -> Vec<NodeId> {
        let mut nodes = self.voters(group).to_vec();
        let wanted = self.config.groups.get(&group).into_iter();
        let wanted = wanted.flat_map(|seats| seats.voters.iter().copied());
        let new: Vec<NodeId> = wanted.filter(|node| !nodes.contains(node)).collect();
        nodes.extend(new);
        nodes
    }

    /// Takes in the next configuration: of groups whose voters are others by it.
    pub(crate) fn want_members(&mut self, config: &ClusterConfig) {
        want(&mut self.members, &self.config, config);
    }

    pub(super) fn check_members(&self) -> Result<(), MapError> {
        let is_possible = |group: &GroupId, membership: &Membership| {
            let reported = membership.reported.as_ref();
            self.config.groups.contains_key(group)
                && membership.wanted <= self.config.num
                && reported.is_none_or(|members| {
                    members.is_possible() && members.follows <= self.config.num
                })
        };
        match self.members.iter().find(|(group, members)| !is_possible(group, members)) {
            Some((group, _)) => Err(MapError::Members(*group)),
            None => Ok(()),
        }
    }
}

/// Which configuration wants each group's voters, when `new` follows `old`.
pub(crate) fn want(
    members: &mut BTreeMap<GroupId, Membership>,
    old: &ClusterConfig,
    new: &ClusterConfig,
) {
    members.retain(|group, _| new.groups.contains_key(group));
    for (group, seats) in &new.groups {
        if old.groups.get(group).is_some_and(|before| before.voters != seats.voters) {
            members.entry(*group).or_default().wanted = new.num;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn each_step_of_a_change_is_told_by_who_has_a_seat_then() {
        let start = Conf { follows: 6, ..Conf::of_voters(ids(&[1, 2])) };
        let planned = Conf { learners: ids(&[3]), goal: ids(&[2, 3]), ..start.clone() };
        let joint = Conf { outgoing: ids(&[1, 2]), follows: 6, ..Conf::of_voters(ids(&[2, 3])) };
        let steps = [planned, joint, start].map(|conf| GroupMembers::of(&conf).expect("a number"));
        assert!(steps.is_sorted_by_key(GroupMembers::order));
        assert_eq!(steps[0].step, MemberStep::CatchingUp);
        assert_eq!((steps[1].step, &steps[1].voters), (MemberStep::Joint, &ids(&[1, 2, 3])));
        assert!(steps[0].has(NodeId(3)) && !steps[2].has(NodeId(3)));
        assert_eq!(GroupMembers::of(&Conf::of_voters(ids(&[1]))), None, "it follows nothing");
    }

    #[test]
    fn members_that_no_group_has_are_none() {
        let good = GroupMembers {
            follows: ConfigNum(1),
            step: MemberStep::Settled,
            voters: ids(&[1, 2]),
            learners: ids(&[3]),
        };
        assert!(good.is_possible());
        for voters in [ids(&[]), ids(&[2, 1]), ids(&[1, 1]), (10..25).map(NodeId).collect()] {
            assert!(!GroupMembers { voters, ..good.clone() }.is_possible());
        }
        for learners in [ids(&[4, 3]), ids(&[2]), (10..27).map(NodeId).collect()] {
            assert!(!GroupMembers { learners, ..good.clone() }.is_possible());
        }
    }
}

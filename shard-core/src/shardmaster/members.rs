//! Who is to be in which group, and what groups say of that.

use super::Shardmaster;
use super::op::MasterError;
use super::target::Draft;
use crate::cluster_config::{ConfigNum, VOTERS_MAX};
use crate::cluster_map::GroupMembers;
use crate::rows::MasterRow;
use crate::shard_store::{Mutant, is_broken};
use raft_core::types::{GroupId, NodeId};

type Drafted = Result<Draft, MasterError>;

impl Shardmaster {
    pub(super) fn set_members(&self, group: GroupId, voters: &[NodeId]) -> Drafted {
        let mut config = self.map.config.clone();
        let seats = config.groups.get_mut(&group).ok_or(MasterError::UnknownGroup(group))?;
        seats.voters = self.voters(group, voters)?;
        Ok(Draft::of(config))
    }

    /// By difference: of two administrators at once neither undoes what the other wants. Who has a seat already
    /// keeps it, and who has none loses none.
    pub(super) fn change_members(
        &self,
        group: GroupId,
        add: &[NodeId],
        remove: &[NodeId],
    ) -> Drafted {
        let mut config = self.map.config.clone();
        let seats = config.groups.get_mut(&group).ok_or(MasterError::UnknownGroup(group))?;
        if let Some(both) = add.iter().find(|node| remove.contains(node)) {
            return Err(MasterError::AddedAndRemoved { group, node: *both });
        }
        if let Some(unknown) = remove.iter().find(|node| !self.map.config.nodes.contains_key(node))
        {
            return Err(MasterError::UnknownNode(*unknown));
        }
        let mut voters = seats.voters.clone();
        voters.retain(|voter| !remove.contains(voter));
        let new: Vec<NodeId> =
            add.iter().copied().filter(|node| !seats.voters.contains(node)).collect();
        voters.extend(new);
        seats.voters = self.voters(group, &voters)?;
        Ok(Draft::of(config))
    }

    /// Every seat of one node, or that in one group, for another.
    pub(super) fn replace_node(&self, old: NodeId, new: NodeId, only: Option<GroupId>) -> Drafted {
        let mut config = self.map.config.clone();
        if let Some(node) = [old, new].into_iter().find(|node| !config.nodes.contains_key(node)) {
            return Err(MasterError::UnknownNode(node));
        }
        if let Some(group) = only.filter(|group| !config.groups.contains_key(group)) {
            return Err(MasterError::UnknownGroup(group));
        }
        let mut count = 0;
        for (group, seats) in &mut config.groups {
            if !seats.voters.contains(&old) || only.is_some_and(|only| only != *group) {
                continue;
            }
            if seats.voters.contains(&new) {
                return Err(MasterError::BothSeated { group: *group, old, new });
            }
            seats.voters.retain(|voter| *voter != old);
            seats.voters.push(new);
            seats.voters.sort();
            count += 1;
        }
        match count {
            0 => Err(MasterError::NoSeat(old)),
            _ => Ok(Draft::of(config)),
        }
    }

    /// Voters in order, if a group can have them.
    pub(super) fn voters(
        &self,
        group: GroupId,
        voters: &[NodeId],
    ) -> Result<Vec<NodeId>, MasterError> {
        if !(1..=VOTERS_MAX).contains(&voters.len()) {
            return Err(MasterError::VoterCount { group, count: voters.len() as u32 });
        }
        let mut voters = voters.to_vec();
        voters.sort();
        if let Some(twice) = voters.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(MasterError::VoterTwice(twice[0]));
        }
        match voters.iter().find(|node| !self.map.config.nodes.contains_key(node)) {
            Some(node) => Err(MasterError::UnknownNode(*node)),
            None => Ok(voters),
        }
    }

    /// A node goes once nobody wants it, and nobody may have it.
    pub(super) fn forget_node(&self, node: NodeId) -> Drafted {
        let mut config = self.map.config.clone();
        if config.nodes.remove(&node).is_none() {
            return Err(MasterError::UnknownNode(node));
        }
        let seated = config.groups.iter().find(|(_, seats)| seats.voters.contains(&node));
        if let Some((group, _)) = seated {
            return Err(MasterError::NodeSeated { node, group: *group });
        }
        let may_have = |group: &GroupId| {
            let reported = self.map.reported_members(*group);
            self.seats.get(group).is_some_and(|seats| seats.named.contains_key(&node))
                || reported.is_some_and(|members| members.has(node))
        };
        match self.seats.keys().copied().find(may_have) {
            Some(group) => Err(MasterError::NodeMaySeat { node, group }),
            None => Ok(Draft::of(config)),
        }
    }

    /// A group says who is in it. Older words that come late, and those that are known, change nothing.
    pub(super) fn group_conf(
        &mut self,
        group: GroupId,
        members: &GroupMembers,
    ) -> Result<(), MasterError> {
        if !self.seats.contains_key(&group) {
            return Err(MasterError::UnknownGroup(group));
        }
        if !members.is_possible() {
            let count = members.nodes().count() as u32;
            return Err(MasterError::Seats { group, count });
        }
        let config = members.follows;
        if config == ConfigNum(0) || config > self.map.config.num {
            return Err(MasterError::FutureConfig { group, config });
        }
        if !self.is_news(group, members) {
            return Ok(());
        }
        self.touch();
        self.note(MasterRow::Seats(group));
        self.seats.entry(group).or_default().report(members);
        self.map.members.entry(group).or_default().reported = Some(members.clone());
        Ok(())
    }

    /// Whether what a group says of its members is newer than what it has said.
    pub fn is_news(&self, group: GroupId, members: &GroupMembers) -> bool {
        let known = self.map.reported_members(group).filter(|_| !is_broken(Mutant::AnyReport));
        known.is_none_or(|known| members.order() > known.order())
    }
}

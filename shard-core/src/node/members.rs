//! What groups' leaders say of their members goes to whoever leads group 0.
//!
//! Who that is need not be known here: all who may are told, and who leads makes an entry of it.

use super::{Node, Output};
use crate::cluster_config::SHARDMASTER;
use crate::cluster_map::{ClusterMap, GroupMembers};
use crate::map_feed::MapMessage;
use raft_core::types::{GroupId, NodeId};
use std::collections::BTreeSet;

impl Node {
    /// Sends a report on its way.
    pub(super) fn tell_members(&mut self, group: GroupId, members: GroupMembers, out: &mut Output) {
        let map = self.feed.map();
        let wanted = map.config.groups.get(&SHARDMASTER).into_iter();
        let wanted = wanted.flat_map(|seats| seats.voters.iter().copied());
        let seated = map.reported_members(SHARDMASTER).into_iter().flat_map(GroupMembers::nodes);
        let mut to: BTreeSet<NodeId> = wanted.chain(seated).collect();
        to.remove(&self.id);
        for node in to {
            let members = Box::new(members.clone());
            out.maps.push((node, MapMessage::Members(group, members)));
        }
        self.hear_members(group, members);
    }

    /// A group's leader says who is in it.
    pub(super) fn hear_members(&mut self, group: GroupId, members: GroupMembers) {
        if let Some(replica) = self.replicas.get_mut(&SHARDMASTER) {
            replica.on_members(group, members);
            self.touched.insert(SHARDMASTER);
        }
    }

    /// The groups whose leaders have to look at another map, since it says something else of their members.
    pub(super) fn members_wanted(&mut self, before: &ClusterMap, now: &ClusterMap) {
        if before.members == now.members {
            return;
        }
        let differ = now.members.iter().filter(|(group, members)| {
            before.members.get(group) != Some(members) && self.replicas.contains_key(group)
        });
        self.touched.extend(differ.map(|(group, _)| *group));
    }
}

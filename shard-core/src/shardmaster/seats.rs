//! Which nodes may have a seat in each group: when a node can be forgotten.
//!
//! A group's members are desired state, which its leader carries out later. So a node that a configuration
//! took out of a group may be in it still, or may even be put into it by a leader that knows only an older
//! configuration. It is out once the group has reported a committed configuration of its members that
//! lacks it and follows one that does not name it: the group will never act on a lower one.

use crate::cluster_config::{ClusterConfig, ConfigNum};
use crate::cluster_map::GroupMembers;
use crate::shard_store::{Mutant, is_broken};
use raft_core::types::{GroupId, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The seats of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seats {
    /// Nodes that a configuration has named and that may have a seat: since which configuration none
    /// names them, None for those that are named now.
    pub named: BTreeMap<NodeId, Option<ConfigNum>>,
}

impl Seats {
    /// Takes in which voters a new configuration names.
    pub(super) fn name(&mut self, num: ConfigNum, voters: &[NodeId]) {
        for (node, since) in &mut self.named {
            if !voters.contains(node) {
                since.get_or_insert(num);
            }
        }
        self.named.extend(voters.iter().map(|node| (*node, None)));
    }

    /// Takes in what the group reports, which is newer than what it has reported before.
    pub(super) fn report(&mut self, members: &GroupMembers) {
        let any = is_broken(Mutant::ForgetByOlder);
        self.named.retain(|node, since| {
            members.has(*node) || since.is_none_or(|since| members.follows < since && !any)
        });
    }
}

/// The seats of all groups of the first configuration.
pub(super) fn first(config: &ClusterConfig) -> BTreeMap<GroupId, Seats> {
    config
        .groups
        .iter()
        .map(|(group, seats)| {
            let mut first = Seats::default();
            first.name(config.num, &seats.voters);
            (*group, first)
        })
        .collect()
}

//! Which replicas a node has, and with which first voters each is opened.
//!
//! All replicas of a group must agree on the configuration before its first entry, and may be opened at
//! any time, when the group has had other members for long. So the map names for ever with which voters
//! a group began ([`crate::cluster_map::ClusterMap::founders`]):
//! - A node that is one of them opens its replica with them, whether it is to have a seat still or not: the
//!   others may need it for their first majority.
//! - Any other node opens its replica with no voters. It has no say until a leader has put it into the log,
//!   as a learner first (R21).
//!
//! That a founder whose disk has nothing has never voted rests on two things. A node that has lost its
//! directory does not come back under its id. And a replica, once opened, is not deleted while its node
//! goes on: a founder that was removed from its group keeps what it has.
//!
//! What a disk has of a group that the map does not name yet stays closed until it does: only then is it
//! known what comes before its log.

use crate::cluster_map::ClusterMap;
use crate::replica::{Recovered, Replica, ReplicaSetup};
use raft_core::types::{GroupId, NodeId, Now};
use raft_core::{Config, OpenError};
use std::collections::BTreeMap;
use std::fmt;

/// The settings of a replica, by its group and the voters it begins with.
pub type RaftConfig = Box<dyn Fn(GroupId, Vec<NodeId>) -> Config>;

/// What replicas of one node are opened with.
pub(crate) struct Opener {
    pub(crate) own: NodeId,
    pub(crate) raft_config: RaftConfig,
    /// What the disk has of groups that are not opened.
    pub(crate) recovered: BTreeMap<GroupId, Recovered>,
    /// Shared by the replicas: a bootstrap for each would be the square of the groups.
    pub(crate) setup: ReplicaSetup,
    pub(crate) seed: u64,
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").field("recovered", &self.recovered.keys()).finish_non_exhaustive()
    }
}

impl Opener {
    /// The groups of the map that should have a replica here and have none.
    pub(crate) fn missing(
        &self,
        map: &ClusterMap,
        replicas: &BTreeMap<GroupId, Replica>,
    ) -> Vec<GroupId> {
        let wanted = |group: &GroupId| {
            let seats = map.config.groups.get(group);
            seats.is_some_and(|seats| seats.voters.contains(&self.own))
                || map.founders.get(group).is_some_and(|first| first.contains(&self.own))
                || self.recovered.contains_key(group)
        };
        let groups = map.config.groups.keys().copied();
        groups.filter(|group| !replicas.contains_key(group) && wanted(group)).collect()
    }

    /// Opens one of them.
    pub(crate) fn open(
        &mut self,
        group: GroupId,
        map: &ClusterMap,
        now: Now,
    ) -> Result<Replica, OpenError> {
        let founders = map.founders.get(&group).filter(|first| first.contains(&self.own));
        let config = (self.raft_config)(group, founders.cloned().unwrap_or_default());
        let recovered = self.recovered.remove(&group).unwrap_or_default();
        // Replicas of one node must not time out together, nor one group's on several nodes.
        let node = self.own.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let seed = self.seed ^ (u64::from(group.0) << 32) ^ node;
        Replica::open(config, recovered, self.setup.clone(), seed, now)
    }
}

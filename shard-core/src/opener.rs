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
//! directory does not come back under its id. And a founder whose replica was deleted is no founder any more:
//! that is noted before ([`crate::kept`]), and its term and vote stay.
//!
//! The map is the one that is on disk. So what the disk has of a group that it does not name is of a group
//! that was removed.

use crate::kept::{Kept, Left};
use crate::replica::{Recovered, Replica, ReplicaSetup};
use raft_core::types::{EntryId, GroupId, NodeId, Now};
use raft_core::{Config, OpenError};
use std::collections::{BTreeMap, BTreeSet};
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
    /// The groups that should have a replica here and have none.
    pub(crate) fn missing(
        &self,
        kept: &Kept,
        replicas: &BTreeMap<GroupId, Replica>,
    ) -> Vec<GroupId> {
        let wanted = |group: &GroupId| {
            kept.wants(*group)
                && (kept.seats(*group, self.own)
                    || !kept.first_voters(*group, self.own).is_empty()
                    || self.has_more_than_a_vote(*group, kept))
        };
        let groups = kept.map.config.groups.keys().copied();
        groups.filter(|group| !replicas.contains_key(group) && wanted(group)).collect()
    }

    /// Whether the disk has anything of a group besides what stays of a replica that was deleted.
    fn has_more_than_a_vote(&self, group: GroupId, kept: &Kept) -> bool {
        self.recovered.get(&group).is_some_and(|recovered| {
            let raft = &recovered.raft;
            let blank = raft.last == EntryId::default()
                && raft.checkpoint.is_none()
                && raft.staged.is_none();
            !blank || kept.left.get(&group) != Some(&Left::Cleared)
        })
    }

    /// Takes out what the disk has of groups that are not to stay; whether of each term and vote are.
    pub(crate) fn take_unwanted(&mut self, kept: &Kept) -> Vec<(GroupId, bool)> {
        let groups = self.recovered.keys().chain(kept.left.keys()).copied();
        let unwanted: BTreeSet<GroupId> = groups.filter(|group| !kept.wants(*group)).collect();
        self.recovered.retain(|group, _| !unwanted.contains(group));
        unwanted.into_iter().map(|group| (group, kept.left.contains_key(&group))).collect()
    }

    /// Opens one of them.
    pub(crate) fn open(
        &mut self,
        group: GroupId,
        kept: &Kept,
        now: Now,
    ) -> Result<Replica, OpenError> {
        let config = (self.raft_config)(group, kept.first_voters(group, self.own));
        let recovered = self.recovered.remove(&group).unwrap_or_default();
        // Replicas of one node must not time out together, nor one group's on several nodes.
        let node = self.own.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let seed = self.seed ^ (u64::from(group.0) << 32) ^ node;
        Replica::open(config, recovered, self.setup.clone(), seed, now)
    }
}

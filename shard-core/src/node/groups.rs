//! Replicas come and go as the map says.
//!
//! The map that is on disk opens and closes them ([`crate::kept`]); the newest one that was heard says all
//! else. What the disk had of a replica goes when the host is told to forget it, and until it says that this is
//! done the group is not opened here again.

use super::{Node, Output};
use crate::cluster_config::{NodeConfig, SHARDMASTER};
use crate::cluster_map::ClusterMap;
use crate::kept::{Kept, Left};
use crate::memory::MemoryUse;
use crate::replica::{Recovered, Replica, ReplicaError};
use crate::session::LogTime;
use raft_core::Restored;
use raft_core::effects::NodeLiveness;
use raft_core::types::{GroupId, NodeId, Now};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What of a node's groups is under way.
#[derive(Debug, Default)]
pub(super) struct Comings {
    /// The map on disk, or what the disk has of groups, is not what it was when this was last looked at.
    due: bool,
    /// Groups with a replica here to which the map on disk gives no seat.
    unseated: BTreeSet<GroupId>,
    /// What the host deletes, and whether term and vote stay.
    forgetting: BTreeMap<GroupId, bool>,
    /// Of these, those that the host has not been told of.
    untold: Vec<(GroupId, bool)>,
}

impl Comings {
    /// At the start, with what is on the disk and is to go.
    pub(super) fn new(unwanted: Vec<(GroupId, bool)>) -> Comings {
        let forgetting = unwanted.iter().copied().collect();
        Comings { due: true, unseated: BTreeSet::new(), forgetting, untold: unwanted }
    }
}

impl Node {
    /// The groups whose slots move by either map have to look at it.
    pub(super) fn map_changed(&mut self, now: Now, before: &ClusterMap, out: &mut Output) {
        let map = self.feed.map();
        out.view_changed |= self.views.map_changed(now, before, map);
        out.peers_changed |= map.config.nodes != before.config.nodes;
        self.keeper.hear(map);
        self.clocks.keep(|node| map.config.nodes.contains_key(&node));
        let is_node = |node: &NodeId| map.config.nodes.contains_key(node);
        if !self.versions.keys().all(is_node) {
            Arc::make_mut(&mut self.versions).retain(|node, _| is_node(node));
        }
        for record in before.moves.values().chain(map.moves.values()) {
            let sides = record.order.from.into_iter().chain([record.order.to]);
            self.touched.extend(sides.filter(|group| self.replicas.contains_key(group)));
        }
        let map = Arc::clone(map);
        self.members_wanted(before, &map);
        self.keep(now, out);
    }

    fn keep(&mut self, now: Now, out: &mut Output) {
        out.keep = self.keeper.poll(now).or(out.keep.take());
    }

    /// What was to be kept is on disk.
    pub(super) fn on_kept(&mut self, number: u64) {
        self.comings.due |= self.keeper.kept(number);
    }

    /// The disk has nothing of a group any more, or its term and vote alone.
    pub(super) fn on_forgotten(&mut self, group: GroupId) {
        let Some(voted) = self.comings.forgetting.remove(&group) else { return };
        self.comings.due = true;
        if voted && self.keeper.wanted().map.config.groups.contains_key(&group) {
            self.keeper.note_left(group, Left::Cleared);
        } else if voted {
            // The group itself is gone since.
            self.opener.recovered.remove(&group);
            self.comings.forgetting.insert(group, false);
            self.comings.untold.push((group, false));
        }
    }

    /// Closes and opens replicas. To be called when the replicas were polled.
    pub(super) fn settle_groups(
        &mut self,
        now: Now,
        wall: LogTime,
        out: &mut Output,
    ) -> Result<(), ReplicaError> {
        let kept = Arc::clone(self.keeper.durable());
        if std::mem::take(&mut self.comings.due) {
            let unwanted = |group: &GroupId| !kept.wants(*group);
            for group in self.replicas.keys().copied().filter(unwanted).collect::<Vec<_>>() {
                self.close(now, wall, group, &kept, out)?;
            }
            self.open_missing(now, &kept, out)?;
            let seated = |group: &GroupId| kept.seats(*group, self.id);
            let groups = self.replicas.keys().copied();
            self.comings.unseated = groups.filter(|group| !seated(group)).collect();
        }
        for group in &self.comings.unseated {
            let wanted = self.keeper.wanted();
            let reported = wanted.map.reported_members(*group);
            let removed = self.replicas.get(group).is_some_and(|replica| {
                replica.is_no_member() || reported.is_some_and(|members| replica.has_left(members))
            });
            if removed && !wanted.seats(*group, self.id) {
                self.keeper.note_left(*group, Left::Clearing);
            }
        }
        self.keep(now, out);
        out.forget.append(&mut self.comings.untold);
        Ok(())
    }

    /// Opens the replicas that the map wants here, or of which the disk has something.
    fn open_missing(
        &mut self,
        now: Now,
        kept: &Kept,
        out: &mut Output,
    ) -> Result<(), ReplicaError> {
        for group in self.opener.missing(kept, &self.replicas) {
            if self.comings.forgetting.contains_key(&group) {
                continue;
            }
            let opened = self.opener.open(group, kept, now);
            let mut replica = opened.map_err(|source| ReplicaError::Open { group, source })?;
            self.tell_liveness(now, &mut replica);
            self.replicas.insert(group, replica);
            self.touched.insert(group);
            (out.again, out.view_changed) = (true, true);
        }
        Ok(())
    }

    /// What the others heard of nodes before this replica was there.
    fn tell_liveness(&self, now: Now, replica: &mut Replica) {
        for (peer, state) in self.health.known() {
            replica.liveness(now, peer, state);
        }
        if self.told_hand_over {
            replica.liveness(now, self.id, NodeLiveness::DiskStalled);
        }
    }

    /// Ends a replica, and has the disk forget it.
    fn close(
        &mut self,
        now: Now,
        wall: LogTime,
        group: GroupId,
        kept: &Kept,
        out: &mut Output,
    ) -> Result<(), ReplicaError> {
        let map = Arc::clone(self.feed.map());
        if let Some(replica) = self.replicas.get_mut(&group) {
            // Its writes go before what forgets them, and the term that stays is the one that was written.
            replica.poll(now, wall, &map, &mut self.scratch)?;
            replica.close(&mut self.scratch);
        }
        self.collect(now, group, out);
        let Some(replica) = self.replicas.remove(&group) else { return Ok(()) };
        self.health.closed(group);
        if group == SHARDMASTER {
            self.feed.lost_seat();
        }
        self.witness.members(group, &[]);
        for groups in self.appendable.values_mut() {
            groups.remove(&group);
        }
        self.frozen.remove(&group);
        self.checkpointing.take_if(|running| *running == group);
        self.touched.remove(&group);
        let before = self.counted.remove(&group).unwrap_or_default();
        self.memory = self.memory.moved(before, MemoryUse::default());
        // Of a group that lives on, the node may be in it again one day.
        let voted = kept.left.contains_key(&group);
        if voted {
            let raft = Restored { hard: replica.hard(), ..Restored::default() };
            self.opener.recovered.insert(group, Recovered::from(raft));
        }
        self.comings.forgetting.insert(group, voted);
        self.comings.untold.push((group, voted));
        out.closed.push(replica);
        out.view_changed = true;
        Ok(())
    }

    /// Where every known node is, this one included.
    pub fn nodes(&self) -> BTreeMap<NodeId, NodeConfig> {
        let mut config = self.feed.map().config.clone();
        self.keeper.wanted().correct(&mut config);
        config.nodes.extend(self.addresses.iter().map(|(node, at)| (*node, at.clone())));
        config.nodes
    }

    /// Whether this node has heard of no cluster yet, so that any node that proves the secret may speak to it.
    pub fn is_spare(&self) -> bool {
        self.feed.map().config.groups.is_empty()
    }
}

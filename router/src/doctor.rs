//! CLUSTER DOCTOR: what is wrong with the cluster as far as this process knows, one line each with the
//! command that mends it.

use crate::topology::Topology;
use shard_core::cluster_config::SHARDMASTER;
use shard_core::moves::RefuseReason;
use shard_core::slot::{SLOTS, Slot};
use shard_core::{GroupId, NodeId};
use std::collections::BTreeMap;

/// Entries that a follower may be behind without anybody being told.
const LAG_ENTRIES_MAX: u64 = 10_000;

impl Topology<'_> {
    /// The findings, or that there is none.
    pub fn doctor(&self) -> String {
        let mut lines = Vec::new();
        self.leaderless(&mut lines);
        self.unreachable(&mut lines);
        self.lagging(&mut lines);
        self.stuck(&mut lines);
        self.unassigned(&mut lines);
        self.disk(&mut lines);
        let from = match self.node {
            Some(node) => format!("as node {node} sees it"),
            None => "as this router sees it".to_owned(),
        };
        if lines.is_empty() {
            return format!("Nothing is wrong, {from}.\n");
        }
        let count =
            if lines.len() == 1 { "1 finding".into() } else { format!("{} findings", lines.len()) };
        format!("{count}, {from}:\n{}\n", lines.join("\n"))
    }

    fn leaderless(&self, lines: &mut Vec<String>) {
        let groups = self.view.map.config.groups.iter();
        for (group, seats) in groups {
            let is_lost = match *group {
                SHARDMASTER => {
                    self.view.leaders.get(group).is_none_or(|known| known.leader.is_none())
                }
                group => self.is_down(group),
            };
            if is_lost {
                let voters: Vec<String> = seats.voters.iter().map(ToString::to_string).collect();
                lines.push(format!(
                    "group {group} has no leader: start its nodes {} until more than half of them run",
                    voters.join(" ")
                ));
            }
        }
    }

    fn unreachable(&self, lines: &mut Vec<String>) {
        let Some(status) = self.status else { return };
        for (node, peer) in status.peers.iter().filter(|(_, peer)| peer.state != "up") {
            if self.view.map.config.nodes.contains_key(node) {
                lines.push(format!(
                    "node {node} is {}: start it, or CLUSTER REPLACE {node} <spare> gives its seats away",
                    peer.state
                ));
            }
        }
        for node in &self.view.map.evacuated {
            lines
                .push(format!("node {node} is evacuated: CLUSTER ADMIT {node} lets it lead again"));
        }
    }

    fn lagging(&self, lines: &mut Vec<String>) {
        let Some(status) = self.status else { return };
        for (group, replica) in &status.replicas {
            for (node, matched) in &replica.matched {
                let behind = replica.last.0.saturating_sub(matched.0);
                if behind > LAG_ENTRIES_MAX {
                    lines.push(format!(
                        "node {node} is {behind} entries behind in group {group}: if it does not catch \
                         up, CLUSTER REPLACE {node} <spare> gives its seats away"
                    ));
                }
            }
        }
    }

    /// Slots that do not move, by their reason and the group that they are for.
    fn stuck(&self, lines: &mut Vec<String>) {
        let map = &self.view.map;
        let mut waiting: BTreeMap<(GroupId, &str, &str), u32> = BTreeMap::new();
        for (slot, held) in &map.waiting {
            let to = map.config.group_of(*slot).unwrap_or_default();
            let (why, mends) = match held.reason {
                RefuseReason::Cancelled => {
                    ("their moves were cancelled", "CLUSTER REBALANCE RESUME orders them again")
                }
                RefuseReason::NoProgress => (
                    "the copy made no progress",
                    "it is tried again by itself, INFO raft on both leaders shows what is slow",
                ),
                RefuseReason::OutOfMemory => (
                    "the destination has no memory left",
                    "raise --maxmemory there, or CLUSTER REBALANCE after adding a group",
                ),
            };
            *waiting.entry((to, why, mends)).or_default() += 1;
        }
        for ((to, why, mends), count) in waiting {
            lines.push(format!("{count} slots do not get to group {to}, {why}: {mends}"));
        }
        if map.paused {
            lines.push("moves are paused: CLUSTER REBALANCE RESUME lets them go on".to_owned());
        }
    }

    fn unassigned(&self, lines: &mut Vec<String>) {
        let nobodys = (0..SLOTS).map(Slot).filter(|slot| self.view.map.owners.of(*slot).is_none());
        let count = nobodys.count();
        if count > 0 {
            lines.push(format!(
                "{count} slots have no owner: CLUSTER ADDSLOTSRANGE <first> <last> gives them out"
            ));
        }
    }

    fn disk(&self, lines: &mut Vec<String>) {
        let Some(status) = self.status else { return };
        if status.disk.low || status.disk.log_waits || status.disk.state_waits {
            let node: NodeId = status.node;
            lines.push(format!(
                "the disk of node {node} has too little room, so nothing may grow: free some, or \
                 CLUSTER REPLACE {node} <spare> gives its seats away"
            ));
        }
        if status.memory_max > 0 && status.memory.total() > status.memory_max {
            let node = status.node;
            lines.push(format!(
                "node {node} is over its --maxmemory, so nothing may grow: raise it, or add a group and \
                 CLUSTER REBALANCE"
            ));
        }
    }
}

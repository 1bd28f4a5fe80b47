//! CLUSTER DOCTOR: what is wrong with the cluster as far as this process knows, one line each with the
//! command that mends it.

use crate::topology::Topology;
use shard_core::cluster_config::SHARDMASTER;
use shard_core::moves::RefuseReason;
use shard_core::node::CLOCK_OFF_MAX_MS;
use shard_core::slot::{SLOTS, Slot};
use shard_core::{GroupId, NodeId};
use std::collections::BTreeMap;

/// By so much the log time of a group may be ahead of most clocks without anybody being told: more than clocks differ by
/// that are right. Milliseconds.
const LOG_TIME_AHEAD_MAX_MS: u64 = 2_000;
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
        self.clocks(&mut lines);
        self.ahead(&mut lines);
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
        for node in self.view.map.config.nodes.keys() {
            if *node != status.node && !status.peers.contains_key(node) {
                lines.push(format!(
                    "node {node} was never heard of here: start it, or CLUSTER FORGET {node}"
                ));
            }
        }
        for node in &self.view.map.evacuated {
            lines
                .push(format!("node {node} is evacuated: CLUSTER ADMIT {node} lets it lead again"));
        }
    }

    /// Nodes whose clocks differ from those of most: they hand over what they lead.
    fn clocks(&self, lines: &mut Vec<String>) {
        let Some(status) = self.status else { return };
        let Some(own) = status.clock_off_ms else { return };
        let peers = status
            .peers
            .iter()
            .filter_map(|(node, peer)| Some((*node, own.saturating_add(peer.clock_ahead_ms?))));
        for (node, off) in [(status.node, own)].into_iter().chain(peers) {
            if off.unsigned_abs() > CLOCK_OFF_MAX_MS {
                let side = if off > 0 { "ahead of" } else { "behind" };
                lines.push(format!(
                    "the clock of node {node} is {} ms {side} those of most nodes: \
                     set its clock, and keep it with NTP",
                    off.unsigned_abs()
                ));
            }
        }
    }

    /// Groups whose log time is ahead of the clocks, since these were wrong once.
    fn ahead(&self, lines: &mut Vec<String>) {
        let Some(status) = self.status else { return };
        for (group, replica) in &status.replicas {
            let ahead = replica.log_time_ahead_ms;
            if ahead > LOG_TIME_AHEAD_MAX_MS && *group != SHARDMASTER {
                lines.push(format!(
                    "the log time of group {group} is {ahead} ms ahead of most clocks, which were wrong once: keys \
                     with a life that move there end sooner by as much, so CLUSTER REBALANCE PAUSE until it is not"
                ));
            }
        }
    }

    fn lagging(&self, lines: &mut Vec<String>) {
        let Some(status) = self.status else { return };
        for (group, replica) in &status.replicas {
            let voters =
                self.view.map.config.groups.get(group).map(|seats| seats.voters.as_slice());
            let leads = replica.leader == Some(status.node);
            let is_seated =
                |node: &NodeId| *node == status.node || replica.matched.contains_key(node);
            for node in voters.unwrap_or_default().iter().filter(|node| leads && !is_seated(node)) {
                lines.push(format!(
                    "node {node} is to have a seat in group {group} and has none yet: start it, or \
                     CLUSTER DELVOTER {node} GROUP {group}"
                ));
            }
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
                    "the destination has no memory left, or remembers too many tokens or lanes",
                    "raise --maxmemory there, let tokens end, or CLUSTER REBALANCE after adding a group",
                ),
                RefuseReason::OutOfSpace => (
                    "the disk of its leader is nearly full",
                    "make room there, it is tried again by itself, or hand the group to another node",
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redirect::Port;
    use shard_core::cluster_config::{GroupConfig, NodeConfig};
    use shard_core::cluster_map::Waiting;
    use shard_core::wire::{ClusterView, LeaderView, NodeStatus, PeerStatus, ReplicaStatus};

    /// Three nodes and one group that node 1 leads; everything is well.
    fn well() -> (ClusterView, NodeStatus) {
        let mut view = ClusterView::default();
        let voters: Vec<NodeId> = [1, 2, 3].map(NodeId).to_vec();
        for node in &voters {
            let (peer, resp) = (format!("h:{node}"), format!("h:9{node}"));
            view.map.config.nodes.insert(*node, NodeConfig { peer, resp });
        }
        for group in [SHARDMASTER, GroupId(1)] {
            let seats = GroupConfig { voters: voters.clone(), weight: group.0 };
            view.map.config.groups.insert(group, seats);
        }
        view.map.config.assign_evenly();
        view = ClusterView::of_config(&view.map.config);
        let mut status = NodeStatus { node: NodeId(1), ..NodeStatus::default() };
        for group in [SHARDMASTER, GroupId(1)] {
            let led = LeaderView { leader: Some(NodeId(1)), term: Default::default() };
            view.leaders.insert(group, led);
            let mut replica = ReplicaStatus { leader: led.leader, ..ReplicaStatus::default() };
            replica.matched = [2, 3].map(|node| (NodeId(node), Default::default())).into();
            status.replicas.insert(group, replica);
        }
        let up = PeerStatus { state: "up", ..PeerStatus::default() };
        status.peers = [(NodeId(2), up.clone()), (NodeId(3), up)].into();
        (view, status)
    }

    /// What is found after a change of what is well.
    fn findings(change: impl Fn(&mut ClusterView, &mut NodeStatus)) -> Vec<String> {
        let (mut view, mut status) = well();
        change(&mut view, &mut status);
        let led = [GroupId(1)].into();
        let topology = Topology {
            view: &view,
            led,
            node: Some(NodeId(1)),
            status: Some(&status),
            port: Port::Plain,
        };
        let text = topology.doctor();
        text.lines().skip(1).map(str::to_owned).collect()
    }

    fn wait(view: &mut ClusterView, slot: u16, reason: RefuseReason) {
        view.map.waiting.insert(Slot(slot), Waiting { reason, refusals: 1, until: None });
    }

    #[test]
    fn a_clock_that_differs_from_most_by_more_than_half_a_second_is_named() {
        let found = |own: i64, second: i64, third: i64| {
            findings(|_, status| {
                status.clock_off_ms = Some(own);
                for (peer, ahead) in [(NodeId(2), second), (NodeId(3), third)] {
                    status.peers.entry(peer).or_default().clock_ahead_ms = Some(ahead);
                }
            })
        };
        assert_eq!(found(0, 500, -500), Vec::<String>::new());
        let own = found(-501, 1000, 1001);
        assert!(
            own[0].starts_with("the clock of node 1 is 501 ms behind those of most"),
            "{own:?}"
        );
        assert_eq!(own.len(), 1);
        let other = found(0, 0, 501);
        assert!(other[0].starts_with("the clock of node 3 is 501 ms ahead of those"), "{other:?}");
        assert_eq!(other.len(), 1);
    }

    #[test]
    fn a_group_of_slots_whose_log_time_is_ahead_by_more_than_two_seconds_is_named() {
        let found = |of_master: u64, of_shard: u64| {
            findings(|_, status| {
                for (group, ahead) in [(SHARDMASTER, of_master), (GroupId(1), of_shard)] {
                    status.replicas.entry(group).or_default().log_time_ahead_ms = ahead;
                }
            })
        };
        assert_eq!(found(3_600_000, 2000), Vec::<String>::new());
        let one = found(0, 2001);
        let named = one[0].starts_with("the log time of group 1 is 2001 ms ahead of most clocks");
        assert!(named && one[0].contains("CLUSTER REBALANCE PAUSE") && one.len() == 1, "{one:?}");
    }

    #[test]
    fn each_fault_is_one_line_with_what_mends_it() {
        assert_eq!(findings(|_, _| ()), Vec::<String>::new());
        type Change = fn(&mut ClusterView, &mut NodeStatus);
        let faults: &[(Change, &str, &str)] = &[
            (|view, _| _ = view.leaders.remove(&SHARDMASTER), "group 0 has no leader", "start"),
            (
                |_, status| status.peers.entry(NodeId(2)).or_default().state = "gone",
                "node 2 is gone",
                "CLUSTER REPLACE 2",
            ),
            (
                |_, status| _ = status.peers.remove(&NodeId(3)),
                "node 3 was never heard of",
                "CLUSTER FORGET 3",
            ),
            (
                |_, status| {
                    let replica = status.replicas.entry(GroupId(1)).or_default();
                    replica.last.0 = LAG_ENTRIES_MAX + 1;
                    replica.matched.entry(NodeId(3)).or_default().0 = 1;
                },
                "node 2 is 10001 entries behind in group 1",
                "CLUSTER REPLACE 2",
            ),
            (
                |_, status| {
                    let replica = status.replicas.entry(GroupId(1)).or_default();
                    replica.matched.remove(&NodeId(2));
                },
                "node 2 is to have a seat in group 1 and has none",
                "CLUSTER DELVOTER 2 GROUP 1",
            ),
            (
                |view, _| {
                    wait(view, 5, RefuseReason::Cancelled);
                    wait(view, 6, RefuseReason::Cancelled);
                },
                "2 slots do not get to group 1, their moves were cancelled",
                "CLUSTER REBALANCE RESUME",
            ),
            (
                |view, _| wait(view, 5, RefuseReason::OutOfMemory),
                "1 slots do not get to group 1, the destination has no memory left",
                "--maxmemory",
            ),
            (
                |view, _| wait(view, 5, RefuseReason::OutOfSpace),
                "1 slots do not get to group 1, the disk of its leader is nearly full",
                "make room there",
            ),
            (|view, _| view.map.paused = true, "moves are paused", "CLUSTER REBALANCE RESUME"),
            (|_, status| status.disk.low = true, "the disk of node 1", "CLUSTER REPLACE 1"),
            (
                |view, _| view.map.owners = Default::default(),
                "16384 slots have no owner",
                "ADDSLOTS",
            ),
            (
                |view, _| _ = view.map.evacuated.insert(NodeId(2)),
                "node 2 is evacuated",
                "CLUSTER ADMIT 2",
            ),
        ];
        for (change, fault, mends) in faults {
            let found = findings(change);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with(fault) && found[0].contains(mends), "{found:?}");
        }
    }
}

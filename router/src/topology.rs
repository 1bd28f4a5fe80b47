//! CLUSTER and ROLE: the view of the cluster in Redis' words.
//!
//! Redis knows nodes only; here a node may have seats in many groups. A node that leads a group is a
//! master with the slots of all groups it leads; any other is a replica of the leader of its lowest
//! group. While a group's leader is not known, its first voter stands for it.

use crate::commands::Cluster;
use crate::node_name::{node_name, shard_name};
use crate::redirect::{self, Port};
use crate::reply::Reply;
use shard_core::cluster_config::{ClusterConfig, GroupConfig, SHARDMASTER, SlotRange};
use shard_core::slot::SLOTS;
use shard_core::wire::{ClusterView, NodeStatus, ReplicaStatus};
use shard_core::{GroupId, NodeId};
use std::collections::BTreeSet;
use std::fmt::Write;

/// What the replies are made of.
pub struct Topology<'a> {
    /// The newest view.
    pub view: &'a ClusterView,
    /// The shard groups that have a leader, as far as those say that can be reached.
    pub led: BTreeSet<GroupId>,
    /// The node in this process; a router alone has none.
    pub node: Option<NodeId>,
    /// What that node says of itself.
    pub status: Option<&'a NodeStatus>,
    /// The kind of port that was asked: addresses are those of such ports.
    pub port: Port,
}

/// Another node as this one's master or replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partner {
    /// Where it serves clients.
    pub host: String,
    /// Where it serves clients.
    pub port: u16,
    /// How much of the logs it has; of a master, how much of its log this node has.
    pub offset: i64,
    /// Whether it is heard and hears.
    pub is_linked: bool,
    /// Seconds since bytes of it came.
    pub silent_s: Option<u64>,
}

impl Topology<'_> {
    /// The reply to a CLUSTER subcommand.
    pub fn answer(&self, call: &Cluster) -> Reply {
        match call {
            Cluster::Info => Reply::Verbatim(self.info()),
            Cluster::Nodes => Reply::Verbatim(self.nodes()),
            Cluster::Slots => self.slots(),
            Cluster::Shards => self.shards(),
            Cluster::MyId => Reply::text(self.name(self.myself())),
            Cluster::MyShardId => Reply::text(self.my_shard_name()),
            Cluster::Replicas(name) => self.replicas_of(name),
            Cluster::Links => self.links(),
            Cluster::FailureReports(name) => match self.named(name) {
                Ok(node) => Reply::Integer(i64::from(self.has_failed(node))),
                Err(reply) => reply,
            },
            Cluster::BumpEpoch => Reply::Line(format!("STILL {}", self.view.map.version)),
            Cluster::Groups => self.groups_reply(),
            Cluster::Doctor => Reply::Verbatim(self.doctor()),
        }
    }

    fn config(&self) -> &ClusterConfig {
        &self.view.map.config
    }

    /// Who owns what, neighbours of one owner joined.
    fn owned(&self) -> Vec<SlotRange> {
        let mut owned: Vec<SlotRange> = Vec::new();
        for range in self.view.map.owners.ranges() {
            let next = u32::from(range.first.0);
            match owned.last_mut() {
                Some(last) if last.group == range.group && u32::from(last.last.0) + 1 == next => {
                    last.last = range.last;
                }
                _ => {
                    let (first, last, group) = (range.first, range.last, range.group);
                    owned.push(SlotRange { first, last, group });
                }
            }
        }
        owned
    }

    /// A router alone answers as node 0, which no node is.
    fn myself(&self) -> NodeId {
        self.node.unwrap_or_default()
    }

    pub(crate) fn name(&self, node: NodeId) -> String {
        node_name(&self.config().cluster_id, node)
    }

    /// The shard groups with their seats.
    fn groups(&self) -> impl Iterator<Item = (GroupId, &GroupConfig)> {
        self.config().groups.iter().map(|(id, group)| (*id, group)).filter(|g| g.0 != SHARDMASTER)
    }

    /// Whether no leader of the group is known, or its node is down. A view keeps the last leader of a
    /// term; the replica here knows when it has lost that one.
    pub(crate) fn is_down(&self, group: GroupId) -> bool {
        let view = self.view.leaders.get(&group);
        let replica = self.replica(group);
        let leader = match replica.filter(|r| view.is_none_or(|view| r.term >= view.term)) {
            Some(replica) => replica.leader,
            None => view.and_then(|view| view.leader),
        };
        !self.led.contains(&group) || leader.is_none_or(|leader| self.has_failed(leader))
    }

    /// Whether the node here knows that another is down.
    fn has_failed(&self, node: NodeId) -> bool {
        let peer = self.status.and_then(|status| status.peers.get(&node));
        peer.is_some_and(|peer| matches!(peer.state, "down" | "gone"))
    }

    /// Who leads a group, or stands for its leader.
    pub(crate) fn leader(&self, group: GroupId) -> Option<NodeId> {
        let known = self.view.leaders.get(&group).and_then(|view| view.leader);
        known.or_else(|| self.view.map.voters(group).first().copied())
    }

    fn leads(&self, node: NodeId) -> Vec<GroupId> {
        let groups = self.groups().map(|(group, _)| group);
        groups.filter(|group| self.leader(*group) == Some(node)).collect()
    }

    /// The node whose replica a node is, if it leads nothing and has a seat in a shard group.
    fn master_of(&self, node: NodeId) -> Option<NodeId> {
        if !self.leads(node).is_empty() {
            return None;
        }
        let (group, _) = self.groups().find(|(group, _)| self.has_seat(*group, node))?;
        self.leader(group)
    }

    /// The leader and then the followers, in the order of their numbers.
    fn seats(&self, group: GroupId) -> Vec<NodeId> {
        let leader = self.leader(group);
        let voters = self.view.map.voters(group).iter().copied();
        let followers = voters.filter(|node| Some(*node) != leader);
        leader.into_iter().chain(followers).collect()
    }

    /// The node to which the cluster port sends clients of a group; None: they are served here.
    pub(crate) fn door(&self, group: GroupId) -> Option<NodeId> {
        let leader = self.view.leaders.get(&group).and_then(|view| view.leader);
        redirect::door(leader.filter(|_| self.led.contains(&group)), self.node, self.status)
    }

    /// The nodes of a group that its clients are told, the one to go to first: on the cluster port whoever
    /// serves them now, and of the others those that are there and have such a port.
    fn doors(&self, group: GroupId) -> Vec<NodeId> {
        match self.port {
            Port::Plain => self.seats(group),
            Port::Cluster => {
                let first = self.door(group).unwrap_or(self.myself());
                let is_open = |node: &NodeId| {
                    self.status.is_some_and(|status| redirect::is_open(*node, status))
                };
                let others = self.seats(group).into_iter().filter(|node| *node != first);
                [first].into_iter().chain(others.filter(is_open)).collect()
            }
        }
    }

    /// Host and port at which a node serves clients of the kind that asks; the port is 0 where it is not known
    /// to have one.
    fn resp(&self, node: NodeId) -> (String, u16) {
        let Some(addresses) = self.config().nodes.get(&node) else { return (String::new(), 0) };
        let (host, port) = split_address(&addresses.resp);
        let ports = self.status.map(|status| &status.cluster_ports);
        match self.port {
            Port::Plain => (host, port),
            Port::Cluster => {
                (host, ports.and_then(|ports| ports.get(&node)).copied().unwrap_or_default())
            }
        }
    }

    /// Whether a link to the node stands; without a node here nothing is known against it.
    fn is_linked(&self, node: NodeId) -> bool {
        Some(node) == self.node
            || self.status.is_none_or(|status| status.peers_up().any(|up| up == node))
    }

    pub(crate) fn replica(&self, group: GroupId) -> Option<&ReplicaStatus> {
        self.status?.replicas.get(&group)
    }

    /// How far the group's log is known to be on a node, seen from here.
    fn offset(&self, group: GroupId, node: NodeId) -> i64 {
        let index = self.replica(group).map(|replica| {
            let matched = replica.matched.get(&node).copied();
            if Some(node) == self.node { replica.applied } else { matched.unwrap_or_default() }
        });
        index.map_or(0, |index| i64::try_from(index.0).unwrap_or(i64::MAX))
    }

    fn line(&self, node: NodeId) -> String {
        let (host, port) = self.resp(node);
        let peer = self.config().nodes.get(&node).map_or(0, |node| split_address(&node.peer).1);
        let master = self.master_of(node);
        let myself = if Some(node) == self.node { "myself," } else { "" };
        let flags = if master.is_some() { "slave" } else { "master" };
        let failed = if self.has_failed(node) { ",fail" } else { "" };
        let nowhere = if port == 0 { ",noaddr" } else { "" };
        let master = master.map_or_else(|| "-".into(), |master| self.name(master));
        let link = if self.is_linked(node) { "connected" } else { "disconnected" };
        let mut line = format!(
            "{} {host}:{port}@{peer} {myself}{flags}{failed}{nowhere} {master} 0 0 {} {link}",
            self.name(node),
            self.view.map.version,
        );
        for range in self.ranges(&self.leads(node)) {
            // Writing to a string cannot fail.
            let _ = match range {
                (first, last) if first == last => write!(line, " {first}"),
                (first, last) => write!(line, " {first}-{last}"),
            };
        }
        line
    }

    /// The slots of some groups as ranges, neighbours joined.
    fn ranges(&self, groups: &[GroupId]) -> Vec<(u16, u16)> {
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for range in self.owned().into_iter().filter(|range| groups.contains(&range.group)) {
            match ranges.last_mut() {
                Some((_, last)) if last.checked_add(1) == Some(range.first.0) => {
                    *last = range.last.0;
                }
                _ => ranges.push((range.first.0, range.last.0)),
            }
        }
        ranges
    }

    fn nodes(&self) -> String {
        let mut text = String::new();
        for node in self.config().nodes.keys() {
            text.push_str(&self.line(*node));
            text.push('\n');
        }
        text
    }

    fn slots(&self) -> Reply {
        let row = |range: &SlotRange| {
            let mut row = vec![
                Reply::Integer(i64::from(range.first.0)),
                Reply::Integer(i64::from(range.last.0)),
            ];
            row.extend(self.doors(range.group).into_iter().map(|node| {
                let (host, port) = self.resp(node);
                Reply::Array(vec![
                    Reply::text(host),
                    Reply::Integer(i64::from(port)),
                    Reply::text(self.name(node)),
                    Reply::Map(Vec::new()),
                ])
            }));
            Reply::Array(row)
        };
        Reply::Array(self.owned().iter().map(row).collect())
    }

    fn shards(&self) -> Reply {
        let shard = |(group, _): (GroupId, &GroupConfig)| {
            let slots = self.ranges(&[group]).into_iter().flat_map(|(first, last)| [first, last]);
            let slots = slots.map(|slot| Reply::Integer(i64::from(slot))).collect();
            let learners = self.view.map.seated(group);
            let learners = learners.filter(|node| self.view.map.is_learner(group, *node));
            let nodes = self.seats(group).into_iter().chain(learners);
            let nodes = nodes.filter(|node| self.resp(*node).1 > 0);
            let nodes = nodes.map(|node| self.shard_node(group, node)).collect();
            Reply::Map(vec![
                (Reply::text("slots"), Reply::Array(slots)),
                (Reply::text("nodes"), Reply::Array(nodes)),
            ])
        };
        Reply::Array(self.groups().map(shard).collect())
    }

    fn shard_node(&self, group: GroupId, node: NodeId) -> Reply {
        let (host, port) = self.resp(node);
        let leads = self.leader(group) == Some(node);
        let online = self.is_linked(node) && !(leads && self.is_down(group));
        let health = match online {
            false => "fail",
            true if self.view.map.is_learner(group, node) => "loading",
            true => "online",
        };
        let text = Reply::word;
        Reply::Map(vec![
            (text("id"), Reply::text(self.name(node))),
            (text("port"), Reply::Integer(i64::from(port))),
            (text("ip"), Reply::text(host.clone())),
            (text("endpoint"), Reply::text(host)),
            (text("role"), text(if leads { "master" } else { "replica" })),
            (text("replication-offset"), Reply::Integer(self.offset(group, node))),
            (text("health"), text(health)),
        ])
    }

    /// The shard of a node is that of the lowest group it leads, else of the lowest it sits in.
    fn my_shard_name(&self) -> String {
        let node = self.myself();
        let seat = || self.groups().find(|(group, _)| self.has_seat(*group, node));
        let group = self.leads(node).first().copied().or_else(|| Some(seat()?.0));
        shard_name(&self.config().cluster_id, group.unwrap_or_default())
    }

    /// The node with that name, or Redis' refusal.
    fn named(&self, name: &[u8]) -> Result<NodeId, Reply> {
        let mut nodes = self.config().nodes.keys().copied();
        nodes.find(|node| self.name(*node).as_bytes() == name).ok_or_else(|| {
            let name = crate::commands::quote(name, 128);
            Reply::error(format!("ERR Unknown node {name}"))
        })
    }

    fn replicas_of(&self, name: &[u8]) -> Reply {
        let nodes = &self.config().nodes;
        let node = match self.named(name) {
            Ok(node) => node,
            Err(reply) => return reply,
        };
        if self.master_of(node).is_some() {
            return Reply::error("ERR The specified node is not a master");
        }
        let leads = self.leads(node);
        let follows = |other: &NodeId| {
            *other != node
                && self.groups().any(|(id, _)| leads.contains(&id) && self.has_seat(id, *other))
        };
        let followers = nodes.keys().copied().filter(follows);
        Reply::Array(followers.map(|node| Reply::text(self.line(node))).collect())
    }

    fn links(&self) -> Reply {
        let peers = self.status.into_iter().flat_map(NodeStatus::peers_up);
        let text = Reply::word;
        let link = |node: NodeId| {
            Reply::Map(vec![
                (text("direction"), text("to")),
                (text("node"), Reply::text(self.name(node))),
                (text("create-time"), Reply::Integer(0)),
                (text("events"), text("rw")),
                (text("send-buffer-allocated"), Reply::Integer(0)),
                (text("send-buffer-used"), Reply::Integer(0)),
            ])
        };
        Reply::Array(peers.map(link).collect())
    }

    fn info(&self) -> String {
        let slots = self.owned().into_iter();
        let down = slots.clone().filter(|range| self.is_down(range.group));
        let assigned: u32 = slots.map(SlotRange::count).sum();
        let failed: u32 = down.map(SlotRange::count).sum();
        // Every slot is assigned to a group that has a leader, as far as known.
        let state = if assigned == u32::from(SLOTS) && failed == 0 { "ok" } else { "fail" };
        let size = self.groups().filter(|(group, _)| self.view.map.owners.count(*group) > 0);
        let epoch = self.view.map.version;
        let mut text = format!(
            "cluster_state:{state}\r\ncluster_slots_assigned:{assigned}\r\ncluster_slots_ok:{}\r\n\
             cluster_slots_pfail:0\r\ncluster_slots_fail:{failed}\r\ncluster_known_nodes:{}\r\n\
             cluster_size:{}\r\ncluster_current_epoch:{epoch}\r\ncluster_my_epoch:{epoch}\r\n\
             cluster_stats_messages_sent:0\r\ncluster_stats_messages_received:0\r\n\
             total_cluster_links_buffer_limit_exceeded:0\r\n\
             cluster_config:{}\r\ncluster_moves_running:{}\r\ncluster_moves_waiting:{}\r\n\
             cluster_moves_paused:{}\r\n",
            assigned - failed,
            self.config().nodes.len(),
            size.count(),
            self.config().num,
            self.view.map.unfinished().count(),
            self.view.map.waiting.len(),
            u8::from(self.view.map.paused),
        );
        if let Some(replica) = self.replica(SHARDMASTER) {
            let leader = replica.leader.map_or_else(String::new, |leader| self.name(leader));
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "cluster_raft_role:{}\r\ncluster_raft_current_term:{}\r\n\
                 cluster_raft_commit_index:{}\r\ncluster_raft_last_applied:{}\r\n\
                 cluster_raft_log_entries:{}\r\ncluster_raft_leader:{leader}\r\n",
                replica.role, replica.term, replica.commit, replica.applied, replica.last,
            );
        }
        text
    }

    /// `master` or `slave`, for INFO and HELLO's siblings.
    pub fn role_name(&self) -> &'static str {
        match self.master_of(self.myself()) {
            Some(_) => "slave",
            None => "master",
        }
    }

    /// The followers of the groups this node leads that can be reached, each once. Its offset is as far
    /// below `master_offset` as all its logs together are behind.
    pub fn followers(&self) -> Vec<Partner> {
        let (me, leads) = (self.myself(), self.leads(self.myself()));
        let follows = |node: NodeId| {
            let seats = move |group: &GroupId| self.has_seat(*group, node);
            leads.iter().copied().filter(seats)
        };
        let nodes = self.config().nodes.keys().copied();
        nodes
            .filter(|node| *node != me && self.is_linked(*node) && follows(*node).next().is_some())
            .map(|node| {
                let behind = |group| (self.offset(group, me) - self.offset(group, node)).max(0);
                let behind: i64 = follows(node).map(behind).sum();
                self.partner(node, self.master_offset() - behind)
            })
            .collect()
    }

    /// The node whose replica this one is.
    pub fn master(&self) -> Option<Partner> {
        let master = self.master_of(self.myself())?;
        Some(self.partner(master, self.master_offset()))
    }

    fn partner(&self, node: NodeId, offset: i64) -> Partner {
        let (host, port) = self.resp(node);
        let peer = self.status.and_then(|status| status.peers.get(&node));
        let silent_s = peer.and_then(|peer| peer.contact_age_ms).map(|age| age / 1000);
        Partner { host, port, offset, is_linked: self.is_linked(node), silent_s }
    }

    /// How much of the logs of the groups it leads this node has applied; as a replica, of the log that
    /// it follows its master in.
    pub fn master_offset(&self) -> i64 {
        let me = self.myself();
        let leads = self.leads(me);
        if leads.is_empty() {
            let seat = self.groups().find(|(group, _)| self.has_seat(*group, me));
            return seat.map_or(0, |(group, _)| self.offset(group, me));
        }
        leads.into_iter().map(|group| self.offset(group, me)).sum()
    }

    /// Whether a leadership that this node has is on its way to another.
    pub fn hands_over(&self) -> bool {
        let replicas = self.status.into_iter().flat_map(|status| status.replicas.values());
        replicas.into_iter().any(|replica| replica.transferring.is_some())
    }

    /// The id of this node's shard: what its replicas are replicas of.
    pub fn replication_id(&self) -> String {
        self.my_shard_name()
    }

    /// The reply to ROLE.
    pub fn role(&self) -> Reply {
        if let Some(master) = self.master() {
            return Reply::Array(vec![
                Reply::text("slave"),
                Reply::text(master.host),
                Reply::Integer(i64::from(master.port)),
                Reply::text(if master.is_linked { "connected" } else { "connect" }),
                Reply::Integer(master.offset),
            ]);
        }
        let follower = |follower: Partner| {
            Reply::Array(vec![
                Reply::text(follower.host),
                Reply::text(follower.port.to_string()),
                Reply::text(follower.offset.to_string()),
            ])
        };
        Reply::Array(vec![
            Reply::text("master"),
            Reply::Integer(self.master_offset()),
            Reply::Array(self.followers().into_iter().map(follower).collect()),
        ])
    }

    /// How many replicas besides the leader surely have every acknowledged write on their disks: a
    /// majority has, in every group. The truth for any WAIT, without waiting.
    pub fn replicas_of_every_write(&self) -> i64 {
        let behind = self.groups().map(|(group, seats)| self.sure_replicas(group, seats)).min();
        behind.map_or(0, |behind| behind as i64)
    }
}

/// Host and port of `host:port`; brackets of an IPv6 host are taken off.
pub fn split_address(address: &str) -> (String, u16) {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    (host.to_string(), port.parse().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use shard_core::cluster_config::NodeConfig;
    use shard_core::wire::{LeaderView, PeerStatus};

    /// Two nodes of which 1 led the only group, seen from node 2.
    fn seen(peer: &'static str, leader: Option<NodeId>) -> (String, String) {
        let mut view = ClusterView::default();
        for id in [1, 2].map(NodeId) {
            let (peer, resp) = (format!("h:{id}"), format!("h:9{id}"));
            view.map.config.nodes.insert(id, NodeConfig { peer, resp });
        }
        let seats = GroupConfig { voters: vec![NodeId(1), NodeId(2)], weight: 1 };
        view.map.config.groups.insert(GroupId(1), seats);
        view.map.config.assign_evenly();
        view = ClusterView::of_config(&view.map.config);
        let led = LeaderView { leader: Some(NodeId(1)), term: Default::default() };
        view.leaders.insert(GroupId(1), led);
        let replica = ReplicaStatus { leader, ..ReplicaStatus::default() };
        let status = NodeStatus {
            node: NodeId(2),
            peers: [(NodeId(1), PeerStatus { state: peer, ..PeerStatus::default() })].into(),
            replicas: [(GroupId(1), replica)].into(),
            ..NodeStatus::default()
        };
        let led = [GroupId(1)].into();
        let topology = Topology {
            view: &view,
            led,
            node: Some(NodeId(2)),
            status: Some(&status),
            port: Port::Plain,
        };
        (topology.info(), topology.nodes())
    }

    #[test]
    fn a_group_whose_leader_is_lost_fails_though_the_view_still_names_it() {
        let (info, nodes) = seen("up", Some(NodeId(1)));
        assert!(info.starts_with("cluster_state:ok\r\n"), "{info}");
        assert!(info.contains("cluster_slots_ok:16384\r\n"), "{info}");
        assert!(!nodes.contains("fail"), "{nodes}");
        for (peer, leader) in
            [("up", None), ("down", Some(NodeId(1))), ("gone", Some(NodeId(1))), ("down", None)]
        {
            let (info, nodes) = seen(peer, leader);
            assert!(info.starts_with("cluster_state:fail\r\n"), "{peer} {leader:?}: {info}");
            assert!(info.contains("cluster_slots_ok:0\r\n"), "{info}");
            assert!(info.contains("cluster_slots_fail:16384\r\n"), "{info}");
            let down = nodes.contains("master,fail - ") && nodes.contains("disconnected");
            assert_eq!(down, peer != "up", "{nodes}");
        }
    }

    #[test]
    fn a_group_whose_leader_was_never_heard_of_fails() {
        let mut view = ClusterView::default();
        view.map.config.groups.insert(GroupId(1), GroupConfig { voters: Vec::new(), weight: 1 });
        view.map.config.assign_evenly();
        view = ClusterView::of_config(&view.map.config);
        let leader = LeaderView { leader: Some(NodeId(1)), term: Default::default() };
        view.leaders.insert(SHARDMASTER, leader);
        let led = [SHARDMASTER].into();
        let info =
            Topology { view: &view, led, node: None, status: None, port: Port::Plain }.info();
        assert!(info.starts_with("cluster_state:fail\r\n"), "{info}");
    }

    #[test]
    fn a_group_fails_when_nobody_names_its_leader_any_more() {
        let mut view = ClusterView::default();
        view.map.config.groups.insert(GroupId(1), GroupConfig { voters: Vec::new(), weight: 1 });
        view.map.config.assign_evenly();
        view = ClusterView::of_config(&view.map.config);
        let leader = LeaderView { leader: Some(NodeId(1)), term: Default::default() };
        view.leaders.insert(GroupId(1), leader);
        for (led, state) in [([GroupId(1)].into(), "ok"), (BTreeSet::new(), "fail")] {
            let info =
                Topology { view: &view, led, node: None, status: None, port: Port::Plain }.info();
            assert!(info.starts_with(&format!("cluster_state:{state}\r\n")), "{info}");
        }
    }

    #[test]
    fn what_replicas_have_and_whether_they_are_there_is_told_of_each_once() {
        let mut view = ClusterView::default();
        for id in [1, 2, 3].map(NodeId) {
            let (peer, resp) = (format!("h:{id}"), format!("h:9{id}"));
            view.map.config.nodes.insert(id, NodeConfig { peer, resp });
        }
        let mut status = NodeStatus { node: NodeId(1), ..NodeStatus::default() };
        for (group, applied) in [(GroupId(1), 100), (GroupId(2), 50)] {
            let voters = vec![NodeId(1), NodeId(2), NodeId(3)];
            view.map.config.groups.insert(group, GroupConfig { voters, weight: 1 });
            let leader = LeaderView { leader: Some(NodeId(1)), term: Default::default() };
            view.leaders.insert(group, leader);
            let mut replica = ReplicaStatus { leader: leader.leader, ..ReplicaStatus::default() };
            replica.applied.0 = applied;
            // Node 2 is three entries behind; a log that is ahead of what is applied is not.
            for (node, matched) in [(NodeId(2), applied - 3), (NodeId(3), applied + 1)] {
                let mut index = replica.applied;
                index.0 = matched;
                replica.matched.insert(node, index);
            }
            status.replicas.insert(group, replica);
        }
        let up = PeerStatus { state: "up", contact_age_ms: Some(2_500), ..PeerStatus::default() };
        status.peers = [(NodeId(2), up.clone()), (NodeId(3), up)].into();
        let led: BTreeSet<GroupId> = [GroupId(1), GroupId(2)].into();
        let followers = |status: &NodeStatus| {
            let (led, node) = (led.clone(), Some(status.node));
            let topology =
                Topology { view: &view, led, node, status: Some(status), port: Port::Plain };
            assert_eq!(topology.master_offset(), 150);
            let followers = topology.followers().into_iter();
            followers.map(|f| (f.port, f.offset, f.silent_s)).collect::<Vec<_>>()
        };
        assert_eq!(followers(&status), [(92, 144, Some(2)), (93, 150, Some(2))]);
        if let Some(peer) = status.peers.get_mut(&NodeId(2)) {
            peer.state = "down";
        }
        assert_eq!(followers(&status), [(93, 150, Some(2))]);
        // The same cluster from node 2, whose master is node 1.
        for (state, word) in [("up", "connected"), ("down", "connect")] {
            let mut status = NodeStatus { node: NodeId(2), ..status.clone() };
            let peer = PeerStatus { state, ..PeerStatus::default() };
            status.peers = [(NodeId(1), peer)].into();
            let node = Some(NodeId(2));
            let topology = Topology {
                view: &view,
                led: led.clone(),
                node,
                status: Some(&status),
                port: Port::Plain,
            };
            let Reply::Array(role) = topology.role() else { panic!("no array") };
            assert_eq!(role[3..], [Reply::text(word), Reply::Integer(100)]);
        }
    }
}

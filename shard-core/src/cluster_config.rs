//! Who owns which slot and where each group lives: the numbered configurations.

mod change;

pub use self::change::{ConfigChange, ranges_of};

use crate::slot::{SLOTS, Slot};
use raft_core::id_type;
use raft_core::types::{GroupId, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

id_type! {
    /// The number of a configuration. 0: no groups, every slot unassigned.
    ConfigNum(u64)
}

/// The group that keeps the configuration itself.
pub const SHARDMASTER: GroupId = GroupId(0);

/// One numbered configuration: which group should own each slot. Which one does is said by
/// [`crate::cluster_map::Owners`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterConfig {
    /// Its number.
    pub num: ConfigNum,
    /// Names the cluster; peers of another one are refused.
    pub cluster_id: String,
    /// Every known node.
    pub nodes: BTreeMap<NodeId, NodeConfig>,
    /// Every group, the shardmaster (0) among them.
    pub groups: BTreeMap<GroupId, GroupConfig>,
    /// Which group a slot is assigned to, as ranges in slot order; what no range covers has no owner.
    pub slots: Vec<SlotRange>,
}

/// A node's addresses, as `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeConfig {
    /// Where peers and routers connect.
    pub peer: String,
    /// Where clients connect.
    pub resp: String,
}

/// A group's seats.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupConfig {
    /// Voters, in id order.
    pub voters: Vec<NodeId>,
    /// Its share of the slots relative to the other groups; 0 for the shardmaster.
    pub weight: u32,
}

/// A run of slots of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRange {
    /// First slot.
    pub first: Slot,
    /// Last slot, included.
    pub last: Slot,
    /// Their group.
    pub group: GroupId,
}

impl SlotRange {
    /// How many slots it has; none if it ends before it begins.
    pub fn count(self) -> u32 {
        (u32::from(self.last.0) + 1).saturating_sub(u32::from(self.first.0))
    }
}

impl ClusterConfig {
    /// The group that a slot is assigned to.
    pub fn group_of(&self, slot: Slot) -> Option<GroupId> {
        let at = self.slots.partition_point(|range| range.last < slot);
        self.slots.get(at).filter(|range| range.first <= slot).map(|range| range.group)
    }

    /// The ranges of one group, in slot order.
    pub fn ranges_of(&self, group: GroupId) -> impl Iterator<Item = SlotRange> + '_ {
        self.slots.iter().copied().filter(move |range| range.group == group)
    }

    /// The groups that can own slots: all but the shardmaster.
    pub fn shard_groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.groups.keys().copied().filter(|group| *group != SHARDMASTER)
    }

    /// Gives every slot to the shard groups in order, in ranges that differ by one slot at most.
    pub fn assign_evenly(&mut self) {
        let groups: Vec<GroupId> = self.shard_groups().collect();
        let count = groups.len().min(usize::from(SLOTS)) as u32;
        self.slots = (0..count)
            .map(|i| SlotRange {
                first: Slot((u32::from(SLOTS) * i / count) as u16),
                last: Slot((u32::from(SLOTS) * (i + 1) / count - 1) as u16),
                group: groups[i as usize],
            })
            .collect();
    }
}

/// Groups besides the shardmaster, at most.
pub const GROUPS_MAX: usize = 1000;
/// Nodes, at most.
pub const NODES_MAX: usize = 1000;
/// Voters of a group, at most.
pub const VOTERS_MAX: usize = 7;
/// The most bytes of a cluster id.
pub const CLUSTER_ID_BYTES_MAX: usize = 64;
/// The most bytes of a host, as DNS has it (RFC 1035 2.3.4).
pub const HOST_BYTES_MAX: usize = 255;

/// What is wrong with a configuration: one sentence that names the culprit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No id, or one too long or with characters that do not print.
    #[error("the cluster id {0:?} is not 1 to {CLUSTER_ID_BYTES_MAX} printable characters")]
    ClusterId(String),
    /// 0 names no node.
    #[error("0 is not a node id")]
    NodeId,
    /// Not `host:port`.
    #[error(
        "the {role} address {address:?} of node {node} is not host:port with a host of \
         {HOST_BYTES_MAX} bytes at most and a port from 1 to 65535"
    )]
    Address {
        /// The node.
        node: NodeId,
        /// `peer` or `resp`.
        role: &'static str,
        /// The address.
        address: String,
    },
    /// Two ends of the cluster cannot listen at one address.
    #[error("the address {0:?} is given twice")]
    AddressTwice(String),
    /// A configuration with groups has group 0.
    #[error("group 0, the shardmaster, is missing")]
    NoShardmaster,
    /// Nobody could vote.
    #[error("group {0} has no voters")]
    NoVoters(GroupId),
    /// A voter that is no node.
    #[error("voter {node} of group {group} is not a node of the cluster")]
    UnknownVoter {
        /// The group.
        group: GroupId,
        /// The voter.
        node: NodeId,
    },
    /// Voters twice or out of order.
    #[error("the voters of group {0} are not in order, each once")]
    VoterOrder(GroupId),
    /// A range that ends before it begins, or past the last slot.
    #[error("slots {first} to {last} are not a range of slots from 0 to {}", SLOTS - 1)]
    Range {
        /// First slot.
        first: Slot,
        /// Last slot.
        last: Slot,
    },
    /// A slot with two owners, or ranges out of order.
    #[error("the slot ranges are not in order and apart at slot {0}")]
    RangeOrder(Slot),
    /// Slots of a group that cannot own them.
    #[error("slots {first} to {last} are given to group {group}, which is no group for slots")]
    RangeGroup {
        /// First slot.
        first: Slot,
        /// Last slot.
        last: Slot,
        /// The group.
        group: GroupId,
    },
}

impl ClusterConfig {
    /// Whether the configuration can be used: every id, address, seat and range makes sense.
    pub fn check(&self) -> Result<(), ConfigError> {
        let id = &self.cluster_id;
        let printable = id.bytes().all(|byte| byte.is_ascii_graphic());
        if id.is_empty() || id.len() > CLUSTER_ID_BYTES_MAX || !printable {
            return Err(ConfigError::ClusterId(id.clone()));
        }
        self.check_nodes()?;
        if !self.groups.contains_key(&SHARDMASTER) {
            return Err(ConfigError::NoShardmaster);
        }
        self.groups.iter().try_for_each(|(group, seats)| self.check_seats(*group, seats))?;
        self.check_slots()
    }

    fn check_nodes(&self) -> Result<(), ConfigError> {
        let mut seen = BTreeSet::new();
        for (node, config) in &self.nodes {
            if *node == NodeId(0) {
                return Err(ConfigError::NodeId);
            }
            for (role, address) in [("peer", &config.peer), ("resp", &config.resp)] {
                if !is_address(address) {
                    let address = address.clone();
                    return Err(ConfigError::Address { node: *node, role, address });
                }
                if !seen.insert(address) {
                    return Err(ConfigError::AddressTwice(address.clone()));
                }
            }
        }
        Ok(())
    }

    fn check_seats(&self, group: GroupId, seats: &GroupConfig) -> Result<(), ConfigError> {
        if seats.voters.is_empty() {
            return Err(ConfigError::NoVoters(group));
        }
        if let Some(node) = seats.voters.iter().find(|node| !self.nodes.contains_key(node)) {
            return Err(ConfigError::UnknownVoter { group, node: *node });
        }
        match seats.voters.is_sorted_by(|a, b| a < b) {
            true => Ok(()),
            false => Err(ConfigError::VoterOrder(group)),
        }
    }

    fn check_slots(&self) -> Result<(), ConfigError> {
        let mut next = 0;
        for SlotRange { first, last, group } in self.slots.iter().copied() {
            if first > last || last.0 >= SLOTS {
                return Err(ConfigError::Range { first, last });
            }
            if first.0 < next {
                return Err(ConfigError::RangeOrder(first));
            }
            if group == SHARDMASTER || !self.groups.contains_key(&group) {
                return Err(ConfigError::RangeGroup { first, last, group });
            }
            next = last.0 + 1;
        }
        Ok(())
    }
}

/// `host:port`, the port after the last colon so that an IPv6 host may have its own, in brackets.
/// Nothing else may stand in a configuration.
pub fn is_address(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_fits = match bracketed {
        Some(host) => {
            (2..=HOST_BYTES_MAX).contains(&host.len())
                && host.bytes().all(|b| b.is_ascii_hexdigit() || b":.".contains(&b))
        }
        None => {
            !host.is_empty()
                && host.len() <= HOST_BYTES_MAX
                && host.bytes().all(|b| b.is_ascii_graphic() && !b"[]:/@".contains(&b))
        }
    };
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    host_fits && digits && port.parse::<u16>().is_ok_and(|port| port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three nodes that vote in the shardmaster and in groups 1 and 2.
    fn config() -> ClusterConfig {
        let seats = |weight| GroupConfig { voters: vec![NodeId(1), NodeId(2), NodeId(3)], weight };
        let node = |id| {
            let (peer, resp) = (format!("n{id}:7000"), format!("n{id}:6379"));
            (NodeId(id), NodeConfig { peer, resp })
        };
        let mut config = ClusterConfig {
            num: ConfigNum(1),
            cluster_id: "test".to_owned(),
            nodes: (1..=3).map(node).collect(),
            groups: (0..=2).map(|group| (GroupId(group), seats(1))).collect(),
            slots: Vec::new(),
        };
        config.assign_evenly();
        config
    }

    /// What `check` says after `change`.
    fn refusal(change: impl FnOnce(&mut ClusterConfig)) -> String {
        let mut config = config();
        assert_eq!(config.check(), Ok(()));
        change(&mut config);
        config.check().expect_err("the change makes no sense").to_string()
    }

    #[test]
    fn b96_addresses() {
        for good in ["a:1", "10.0.0.1:65535", "[::1]:6379", &format!("{}:1", "h".repeat(255))] {
            assert!(is_address(good), "{good}");
        }
        for bad in [
            "",
            "host",
            ":6379",
            "host:",
            "host:0",
            "host:65536",
            "host:+1",
            "host:-1",
            "host: 1",
            "ho st:1",
            "a:b:1",
            "[::1]",
            "[]:1",
            "[g]:1",
            "::1:6379",
            &format!("{}:1", "h".repeat(256)),
        ] {
            assert!(!is_address(bad), "{bad}");
        }
        let refusal = refusal(|c| c.nodes.get_mut(&NodeId(2)).unwrap().resp = "n2:0".to_owned());
        assert_eq!(
            refusal,
            "the resp address \"n2:0\" of node 2 is not host:port with a host of 255 bytes at most \
             and a port from 1 to 65535"
        );
    }

    #[test]
    fn b96_each_refusal_names_its_culprit() {
        type Change = fn(&mut ClusterConfig);
        let range = |first, last, group| SlotRange {
            first: Slot(first),
            last: Slot(last),
            group: GroupId(group),
        };
        let cases: [(Change, &str); 9] = [
            (|c| c.cluster_id.clear(), "the cluster id \"\" is not 1 to 64 printable characters"),
            (
                |c| c.cluster_id = "a b".to_owned(),
                "the cluster id \"a b\" is not 1 to 64 printable characters",
            ),
            (
                |c| {
                    let node = c.nodes[&NodeId(1)].clone();
                    c.nodes.insert(NodeId(0), node);
                },
                "0 is not a node id",
            ),
            (
                |c| c.nodes.get_mut(&NodeId(2)).unwrap().peer = "n1:6379".to_owned(),
                "the address \"n1:6379\" is given twice",
            ),
            (|c| drop(c.groups.remove(&SHARDMASTER)), "group 0, the shardmaster, is missing"),
            (|c| c.groups.get_mut(&GroupId(1)).unwrap().voters.clear(), "group 1 has no voters"),
            (
                |c| c.groups.get_mut(&GroupId(1)).unwrap().voters[2] = NodeId(4),
                "voter 4 of group 1 is not a node of the cluster",
            ),
            (
                |c| c.groups.get_mut(&GroupId(2)).unwrap().voters[1] = NodeId(1),
                "the voters of group 2 are not in order, each once",
            ),
            (
                |c| drop(c.groups.remove(&GroupId(2))),
                "slots 8192 to 16383 are given to group 2, which is no group for slots",
            ),
        ];
        for (change, sentence) in cases {
            assert_eq!(refusal(change), sentence);
        }
        for (ranges, sentence) in [
            (vec![range(5, 4, 1)], "slots 5 to 4 are not a range of slots from 0 to 16383"),
            (vec![range(0, 16384, 1)], "slots 0 to 16384 are not a range of slots from 0 to 16383"),
            (
                vec![range(0, 5, 1), range(5, 9, 2)],
                "the slot ranges are not in order and apart at slot 5",
            ),
            (
                vec![range(5, 9, 1), range(0, 1, 2)],
                "the slot ranges are not in order and apart at slot 0",
            ),
            (
                vec![range(0, 9, 0)],
                "slots 0 to 9 are given to group 0, which is no group for slots",
            ),
        ] {
            assert_eq!(refusal(|c| c.slots = ranges), sentence);
        }
    }

    /// K2, K10: counts differ by one at most; groups beyond the slots own none.
    #[test]
    fn slots_are_shared_out_evenly() {
        for groups in [1u32, 2, 3, 7, 1000, 20_000] {
            let mut config = config();
            let seats = config.groups[&GroupId(1)].clone();
            config.groups.extend((1..=groups).map(|group| (GroupId(group), seats.clone())));
            config.groups.retain(|group, _| group.0 <= groups);
            config.assign_evenly();
            assert_eq!(config.check(), Ok(()), "{groups} groups");
            let counts: Vec<u32> = config
                .shard_groups()
                .map(|g| config.ranges_of(g).map(SlotRange::count).sum())
                .collect();
            assert_eq!(counts.iter().sum::<u32>(), u32::from(SLOTS), "{groups} groups");
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(most - least <= 1, "{groups} groups own {least} to {most}");
            for slot in [0, 1, 8191, 8192, 16383] {
                let group = config.group_of(Slot(slot)).expect("every slot has a group");
                let mut ranges = config.ranges_of(group);
                assert!(ranges.any(|r| r.first.0 <= slot && slot <= r.last.0), "slot {slot}");
            }
        }
    }
}

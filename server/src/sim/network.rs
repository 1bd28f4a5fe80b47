//! Links between nodes: each node dials every other one. What goes over a link stays in order, and nothing of
//! it arrives once the link broke.

use raft_core::types::Now;
use shard_core::NodeId;
use std::collections::{BTreeMap, BTreeSet};

/// One node's link to another.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Never used twice.
    pub id: u64,
    /// When the last message arrives.
    pub last: Now,
    /// Something was sent into a cut: the link cannot go on.
    pub torn: bool,
}

/// All links.
#[derive(Clone, Debug, Default)]
pub struct Network {
    links: BTreeMap<(NodeId, NodeId), Link>,
    cut: BTreeSet<(NodeId, NodeId)>,
    ids: u64,
}

impl Network {
    /// A link that stands from now on.
    pub fn open(&mut self, from: NodeId, to: NodeId, now: Now) -> u64 {
        self.ids += 1;
        self.links.insert((from, to), Link { id: self.ids, last: now, torn: false });
        self.ids
    }

    /// The link, while it stands.
    pub fn link(&mut self, from: NodeId, to: NodeId) -> Option<&mut Link> {
        self.links.get_mut(&(from, to))
    }

    /// Whether this very link stands.
    pub fn stands(&self, from: NodeId, to: NodeId, id: u64) -> bool {
        self.links.get(&(from, to)).is_some_and(|link| link.id == id)
    }

    /// The link is no more. Says whether it was.
    pub fn close(&mut self, from: NodeId, to: NodeId) -> bool {
        self.links.remove(&(from, to)).is_some()
    }

    /// All links of a node, both ways.
    pub fn of(&self, node: NodeId) -> Vec<(NodeId, NodeId)> {
        self.links.keys().copied().filter(|(from, to)| *from == node || *to == node).collect()
    }

    /// Nothing goes this way from now on, or everything again.
    pub fn set_cut(&mut self, from: NodeId, to: NodeId, cut: bool) {
        match cut {
            true => drop(self.cut.insert((from, to))),
            false => drop(self.cut.remove(&(from, to))),
        }
    }

    /// Whether nothing goes this way.
    pub fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cut.contains(&(from, to))
    }

    /// Every way that is cut.
    pub fn cuts(&self) -> Vec<(NodeId, NodeId)> {
        self.cut.iter().copied().collect()
    }

    /// Whether a link can be had: the greeting goes both ways.
    pub fn can_dial(&self, from: NodeId, to: NodeId) -> bool {
        !self.is_cut(from, to) && !self.is_cut(to, from)
    }
}

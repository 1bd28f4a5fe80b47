//! The cluster port: which of a client's commands it sends on to another node, and to which.
//!
//! Every node serves every key, by its router, so a node needs to send nobody away. It does so where the
//! other surely serves sooner: the slot rests, its group is led by a node that is there, and that node has
//! such a port too. Everything else it serves itself, waiting as long as any request may: a slot that moves,
//! a group without a leader. So there is no ASK, and a client that is told to come here is not turned
//! away for a reason that passes.
//!
//! Two nodes do not send a client to and fro. Of leaders the newest term heard of counts, so each node on
//! the way knows a higher one. A slot that moves is served by all who know of its move and not yet of its end,
//! which its new leader does: it was told to fetch it.
//!
//! **Order.** What a client sent behind a command that was sent away, before it could have read that, is
//! sent away too, if it is for the same slot: it must not be executed before the other.

pub mod mutant;

use self::mutant::{Mutant, is_broken};
use crate::backend::Refusal;
use crate::reply::{Reply, refusal_text};
use crate::topology::split_address;
use shard_core::cluster_map::ClusterMap;
use shard_core::slot::Slot;
use shard_core::wire::{ClusterView, NodeStatus};
use shard_core::{GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// Which kind of port a connection came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Serves every key.
    Plain,
    /// Sends clients to leaders, with MOVED.
    Cluster,
}

/// The node to which clients of a group that `leader` leads are sent; None: they are served here.
pub(crate) fn door(
    leader: Option<NodeId>,
    own: Option<NodeId>,
    status: Option<&NodeStatus>,
) -> Option<NodeId> {
    let status = status?;
    let is_other = |leader: NodeId| Some(leader) != own || is_broken(Mutant::SendToItself);
    leader.filter(|leader| is_other(*leader) && is_open(*leader, status))
}

/// Whether a node is there, as far as known, and has a cluster port.
pub(crate) fn is_open(node: NodeId, status: &NodeStatus) -> bool {
    let peer = status.peers.get(&node);
    let is_lost = peer.is_some_and(|peer| {
        let is_down = matches!(peer.state, "down" | "gone") && !is_broken(Mutant::SendToLost);
        is_down || (peer.cut && !is_broken(Mutant::SendOverCut))
    });
    let has_port = status.cluster_ports.contains_key(&node) || is_broken(Mutant::SendToClosed);
    has_port && !is_lost
}

/// The slots that move, by the map of one version.
#[derive(Debug, Default)]
pub(crate) struct Moving {
    version: u64,
    slots: BTreeSet<Slot>,
}

impl Moving {
    /// Whether a slot has a move that has not ended. A map may have many moves, and most are asked of more
    /// than once.
    pub(crate) fn has(&mut self, map: &ClusterMap, slot: Slot) -> bool {
        let is_first = self.version == 0 || !is_broken(Mutant::MovesOfTheFirstMap);
        if self.version != map.version && is_first {
            self.slots = map.unfinished().map(|record| record.order.slot).collect();
            self.version = map.version;
        }
        self.slots.contains(&slot) && !is_broken(Mutant::SendMoving)
    }
}

/// `MOVED slot host:port`, if the node's address is known.
pub(crate) fn moved(
    view: &ClusterView,
    status: &NodeStatus,
    slot: Slot,
    node: NodeId,
) -> Option<String> {
    let (host, plain) = split_address(&view.map.config.nodes.get(&node)?.resp);
    let port = *status.cluster_ports.get(&node)?;
    let port = if is_broken(Mutant::SendToPlainPort) { plain } else { port };
    Some(format!("MOVED {slot} {host}:{port}"))
}

/// What one connection was told, until all that it can have sent before it read that is through.
#[derive(Debug, Default)]
pub(crate) struct SentAway(BTreeMap<Slot, String>);

impl SentAway {
    /// The reply to a command for a slot, if one before it was sent away.
    pub(crate) fn repeat(&self, slot: Slot) -> Option<Reply> {
        let text = match self.0.get(&slot) {
            Some(_) if is_broken(Mutant::ServeBehind) => None,
            None if is_broken(Mutant::AnySlotBehind) => self.0.values().next(),
            text => text,
        };
        text.cloned().map(Reply::error)
    }

    /// Whether a command for the slot was sent away.
    pub(crate) fn has(&self, slot: Slot) -> bool {
        self.0.contains_key(&slot) && !is_broken(Mutant::ServeMarkedBehind)
    }

    /// Notes what a command for a slot is answered.
    pub(crate) fn note(&mut self, slot: Slot, text: String) -> Reply {
        self.0.insert(slot, text.clone());
        Reply::error(text)
    }

    /// What comes now was sent by somebody who has all replies, as far as can be told.
    pub(crate) fn forget(&mut self) {
        if !self.0.is_empty() && !is_broken(Mutant::NeverForgotten) {
            self.0.clear();
        }
    }
}

/// What a command on whole groups is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All groups.
    All,
    /// Those for which this node answers on its cluster port: it leads them, or nobody that can be reached
    /// does.
    Own(BTreeSet<GroupId>),
}

impl Scope {
    /// Whether a group is among them.
    pub fn has(&self, group: GroupId) -> bool {
        match self {
            Scope::All => true,
            Scope::Own(groups) => groups.contains(&group) || is_broken(Mutant::AllGroups),
        }
    }

    /// Why a write to no group at all is refused, if there are none: as by a replica in Redis, where it
    /// is for somebody else, or as by a cluster that has none.
    pub(crate) fn empty_text(&self) -> String {
        match self {
            Scope::Own(_) if is_broken(Mutant::NothingIsDown) => Scope::All.empty_text(),
            Scope::All => refusal_text(&Refusal::ClusterDown).into_owned(),
            Scope::Own(_) => "READONLY You can't write against a read only replica.".to_owned(),
        }
    }
}

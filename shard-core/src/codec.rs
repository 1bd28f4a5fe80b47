//! The only caller of postcard: entries and frames, each with a version byte.

use crate::cluster_config::{ClusterConfig, ConfigNum};
use crate::session::LogTime;
use crate::slot::Slot;
use crate::wire::{GroupQuery, LaneRequest};
use serde::{Deserialize, Serialize};

/// The payload of a command entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryBatch {
    /// The leader's stamp: log time is the newest applied.
    pub stamp: LogTime,
    /// Applied in order; each yields one answer.
    pub items: Vec<EntryItem>,
}

/// One step of a state machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryItem {
    /// An op of a lane (shard groups).
    Lane(LaneRequest),
    /// A read of the whole group (shard groups).
    Group(GroupQuery),
    /// The first assignment of slots to this group (shard groups): a leader proposes it when its
    /// bootstrap configuration says so and the group has never had a slot. Repeats change nothing.
    Assign {
        /// The configuration that says so.
        config: ConfigNum,
        /// Slot ranges, first and last included.
        ranges: Vec<(Slot, Slot)>,
    },
    /// The first configuration (shardmaster). Repeats change nothing.
    Bootstrap(ClusterConfig),
}

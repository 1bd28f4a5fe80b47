//! What can be read from the shardmaster, beside the map that it tells everybody.
//!
//! A query is an entry without effect: so whoever asks sees all that was committed before. Enums here are
//! append-only: variants and fields keep their order for ever (postcard).

use super::Shardmaster;
use super::dry::PlannedMove;
use super::moves::EndedMove;
use super::op::{MasterError, MasterOp};
use crate::cluster_config::{ClusterConfig, ConfigNum};
use serde::{Deserialize, Serialize};

/// A read of the shardmaster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MasterQuery {
    /// The configuration of that number; the newest for one that is not given out yet.
    Config(ConfigNum),
    /// The moves that both sides have reported, at most [`super::ENDED_MOVES_MAX`].
    EndedMoves,
    /// The moves that an op would cause.
    Plan(MasterOp),
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MasterReport {
    /// For `Config`.
    Config(ClusterConfig),
    /// For `EndedMoves`, oldest first.
    EndedMoves(Vec<EndedMove>),
    /// For `Plan`, in slot order.
    Plan(Result<Vec<PlannedMove>, MasterError>),
}

/// More than a planned or an ended move, a slot range or a group's seats takes. Bytes.
const ROW_BYTES_MAX: usize = 128;
/// More than a node with its addresses takes. Bytes.
const NODE_BYTES_MAX: usize = 640;

impl MasterReport {
    /// Bytes that it takes in a frame, at most: less than one frame has room for, by the bounds of what
    /// it is made of.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            MasterReport::Config(config) => {
                let rows = config.groups.len() + config.slots.len();
                rows * ROW_BYTES_MAX + (config.nodes.len() + 1) * NODE_BYTES_MAX
            }
            MasterReport::EndedMoves(moves) => moves.len() * ROW_BYTES_MAX,
            MasterReport::Plan(Ok(moves)) => moves.len() * ROW_BYTES_MAX,
            MasterReport::Plan(Err(_)) => NODE_BYTES_MAX,
        }
    }
}

impl Shardmaster {
    /// Answers a read. Costs as much as what it answers is long, and up to 255 differences for an old
    /// configuration.
    pub(super) fn query(&self, query: &MasterQuery) -> MasterReport {
        match query {
            MasterQuery::Config(num) => MasterReport::Config(self.config(Some(*num))),
            MasterQuery::EndedMoves => {
                MasterReport::EndedMoves(self.ended_moves().copied().collect())
            }
            MasterQuery::Plan(op) => MasterReport::Plan(self.plan_dry(op)),
        }
    }
}

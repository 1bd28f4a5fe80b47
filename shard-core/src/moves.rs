//! Words that all who take part in a move share: the shardmaster that orders it, the two groups that
//! carry it out, the routers that see its end.

use crate::slot::Slot;
use raft_core::id_type;
use raft_core::types::GroupId;
use serde::{Deserialize, Serialize};

id_type! {
    /// The number of a move of one slot, given out by the shardmaster: those of a slot grow, and none is
    /// used twice. 0: before the first.
    MoveId(u64)
}

id_type! {
    /// How often a slot has changed its owner: of two who claim it, the higher one is right. The first
    /// owner has 1; 0: it never had one.
    SlotEpoch(u64)
}

/// A move of one slot, as the shardmaster orders it. It is never changed: it ends, and then another
/// may be ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Its number.
    pub id: MoveId,
    /// What moves.
    pub slot: Slot,
    /// Who owns the slot; None: nobody ever did, and there is nothing to copy.
    pub from: Option<GroupId>,
    /// Who shall own it. Its log alone decides whether it does.
    pub to: GroupId,
    /// The epoch in which it owns it then.
    pub epoch: SlotEpoch,
}

/// How a move ended; decided by one entry in the log of the group that was to get the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MoveOutcome {
    /// The slot has its new owner.
    Activated,
    /// It stays where it was.
    Refused(RefuseReason),
}

/// Why a group did not take a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefuseReason {
    /// An administrator gave it up.
    Cancelled,
    /// The source asked, after it had been frozen for long without a step forward.
    NoProgress,
    /// There was no memory left for it.
    OutOfMemory,
    /// There was no room left on its leader's disk.
    OutOfSpace,
}

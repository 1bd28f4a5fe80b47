//! What the shardmaster is asked, and what it answers.
//!
//! Enums here are append-only: variants and fields keep their order for ever (postcard).

use crate::cluster_config::{ConfigNum, GROUPS_MAX, NODES_MAX, NodeConfig, VOTERS_MAX};
use crate::cluster_map::GroupMembers;
use crate::moves::{MoveId, MoveOutcome};
use crate::slot::Slot;
use raft_core::id_type;
use raft_core::types::{GroupId, NodeId};
use serde::{Deserialize, Serialize};

id_type! {
    /// Names one wish of an administrator, so that it can be sent again: 128 random bits.
    RequestId(u128)
}

/// Weights are from 1 to this.
pub const WEIGHT_MAX: u32 = 1000;
/// Bytes of an address that are looked at; a longer one is none.
pub(super) const ADDRESS_BYTES_MAX: usize = 300;

/// An op of group 0's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterRequest {
    /// With one that was executed before, the op is not executed again but answered as then (scenario K7).
    pub id: Option<RequestId>,
    /// What to do.
    pub op: MasterOp,
}

/// What administrators want, and what groups report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MasterOp {
    /// Makes a node known, or tells its new addresses (scenario K14).
    AddNode {
        /// The node.
        node: NodeId,
        /// Where it listens.
        addresses: NodeConfig,
    },
    /// Forgets a node without a seat.
    ForgetNode {
        /// The node.
        node: NodeId,
    },
    /// Makes a group.
    CreateGroup {
        /// Its id, never used before; None: the lowest such.
        group: Option<GroupId>,
        /// Its voters.
        voters: Vec<NodeId>,
        /// Its share of the slots relative to other groups, 1 to [`WEIGHT_MAX`].
        weight: u32,
        /// Whether it gets its share at once, in the same configuration.
        rebalance: bool,
    },
    /// Gives a group's slots to the others; it gets none until it has a weight again.
    DrainGroup {
        /// The group.
        group: GroupId,
    },
    /// Removes a group that has nothing.
    RemoveGroup {
        /// The group.
        group: GroupId,
    },
    /// Wants slots to be at a group.
    MoveSlots {
        /// First and last, included.
        ranges: Vec<(Slot, Slot)>,
        /// The group.
        to: GroupId,
    },
    /// Gives out slots that nobody ever had.
    AssignSlots {
        /// First and last, included.
        ranges: Vec<(Slot, Slot)>,
        /// The group.
        to: GroupId,
    },
    /// Takes back slots that nobody has yet.
    UnassignSlots {
        /// First and last, included.
        ranges: Vec<(Slot, Slot)>,
    },
    /// Wants a group to have these voters.
    SetMembers {
        /// The group; the shardmaster has members, too.
        group: GroupId,
        /// The voters, 1 to [`VOTERS_MAX`], in any order.
        voters: Vec<NodeId>,
    },
    /// Changes a group's weight; slots follow with the next rebalancing.
    SetWeight {
        /// The group.
        group: GroupId,
        /// 1 to [`WEIGHT_MAX`].
        weight: u32,
    },
    /// Balances the slots over the groups by their weights.
    Rebalance {
        /// Slots that change their group, at most; None: as many as it takes.
        moves_max: Option<u32>,
    },
    /// Begins no move from here on; those under way go on.
    Pause,
    /// Begins moves again, those that were given up as well.
    Resume,
    /// Gives moves up: those that their destinations have not decided yet.
    Cancel(Cancel),
    /// Says whether somebody works on a node, so that it is to lead nothing.
    SetEvacuated {
        /// The node.
        node: NodeId,
        /// Whether.
        evacuated: bool,
    },
    /// One side of a move says how it ended.
    Report(MoveReport),
    /// A group says which configuration of its members is committed.
    GroupConf {
        /// The group.
        group: GroupId,
        /// Who is in it, and which configuration of the cluster it follows by that.
        members: GroupMembers,
    },
    /// Wants a group to have some voters more, and some less, than it is to have now.
    ChangeMembers {
        /// The group; the shardmaster has members, too.
        group: GroupId,
        /// Who is to be a voter. Who is already stays.
        add: Vec<NodeId>,
        /// Who is to be none. Who is none already stays so.
        remove: Vec<NodeId>,
    },
    /// Wants one node in the place of another.
    ReplaceNode {
        /// Who loses its seats.
        old: NodeId,
        /// Who gets them.
        new: NodeId,
        /// In which group alone; None: in all where `old` is a voter.
        group: Option<GroupId>,
    },
}

/// Which moves are given up. A slot whose move was given up stays where it is until an administrator
/// wants something of it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cancel {
    /// All, and those that are not begun yet.
    All,
    /// These. None is given up unless all can be.
    Moves(Vec<MoveId>),
    /// Those of slots, and those that are not begun yet: first and last slot, included.
    Slots(Vec<(Slot, Slot)>),
}

/// How a move ended, as one side of it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveReport {
    /// The move.
    pub id: MoveId,
    /// Its slot.
    pub slot: Slot,
    /// The group that reports.
    pub by: GroupId,
    /// Which side it was.
    pub side: Side,
    /// What its destination decided.
    pub outcome: MoveOutcome,
}

/// The two groups of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    /// Who had the slot.
    Source,
    /// Who was to get it.
    Destination,
}

/// What became of an op that was executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterDone {
    /// The newest configuration's number: one more than before if the op changed it.
    pub config: ConfigNum,
    /// The version of the map in which the op shows.
    pub version: u64,
    /// The group that was made.
    pub group: Option<GroupId>,
    /// Slots that are to be elsewhere than before; of `Cancel`, slots that are to stay where they are.
    pub count: u32,
}

/// Why an op was not executed: nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum MasterError {
    /// The log has no bootstrap yet.
    #[error("the cluster has no configuration yet, try again")]
    NoConfiguration,
    /// The id stands for another wish.
    #[error("request id {0:032x} was used for another command, draw a new one")]
    RequestReused(u128),
    /// K5 keeps every configuration for ever, P9 wants a bound.
    #[error("there are {0} configurations, no number is left for another change")]
    NoNumberLeft(u64),
    /// An id or an address makes no sense.
    #[error("{0}")]
    Config(String),
    /// No address is so long.
    #[error(
        "an address of node {node} has {bytes} bytes, give host:port with a host of 255 bytes at most"
    )]
    AddressLong {
        /// The node.
        node: NodeId,
        /// Its length.
        bytes: u32,
    },
    /// A bound.
    #[error("there are {NODES_MAX} nodes already, forget one first")]
    TooManyNodes,
    /// There is none.
    #[error("unknown node {0}, CLUSTER NODES lists those there are")]
    UnknownNode(NodeId),
    /// A node is to have a seat.
    #[error("node {node} is a voter of group {group}, give its seat to another node first")]
    NodeSeated {
        /// The node.
        node: NodeId,
        /// The group.
        group: GroupId,
    },
    /// A node may have a seat still.
    #[error(
        "group {group} has not confirmed yet that node {node} has no seat in it any more, CLUSTER GROUPS shows how far it is, try again"
    )]
    NodeMaySeat {
        /// The node.
        node: NodeId,
        /// The group.
        group: GroupId,
    },
    /// 0 names no group for slots.
    #[error("group 0 is the shardmaster and owns no slots, name another group")]
    Shardmaster,
    /// There is none.
    #[error("unknown group {0}, CLUSTER SHARDS lists those there are")]
    UnknownGroup(GroupId),
    /// There is one.
    #[error("group {0} exists already, leave the id out to get a new one")]
    GroupExists(GroupId),
    /// There was one.
    #[error("group {0} existed before and no id is used twice, leave the id out to get a new one")]
    GroupUsed(GroupId),
    /// A bound.
    #[error("there are {GROUPS_MAX} groups already, remove one first")]
    TooManyGroups,
    /// No majority, or too large a one.
    #[error("group {group} cannot have {count} voters, name 1 to {VOTERS_MAX} nodes")]
    VoterCount {
        /// The group.
        group: GroupId,
        /// How many were named.
        count: u32,
    },
    /// One node, two seats.
    #[error("node {0} is named twice, name each voter once")]
    VoterTwice(NodeId),
    /// Out of bounds.
    #[error(
        "weight {0} is not from 1 to {WEIGHT_MAX}, CLUSTER GROUP DRAIN takes a group's slots away"
    )]
    Weight(u32),
    /// Somebody has to have the slots.
    #[error("group {0} is the last one that can own slots, create another group first")]
    LastGroup(GroupId),
    /// It gets no slots.
    #[error("group {0} is drained and gets no slots, give it a weight or name another group")]
    Drained(GroupId),
    /// Still in use.
    #[error(
        "group {group} is to own {slots} slots, CLUSTER GROUP DRAIN {group} gives them to others"
    )]
    GroupAssigned {
        /// The group.
        group: GroupId,
        /// How many.
        slots: u32,
    },
    /// Still in use.
    #[error("group {group} owns {slots} slots still, wait until they are moved away")]
    GroupOwns {
        /// The group.
        group: GroupId,
        /// How many.
        slots: u32,
    },
    /// Still in use.
    #[error(
        "group {group} takes part in {moves} moves that not all sides have reported, try again"
    )]
    GroupMoves {
        /// The group.
        group: GroupId,
        /// How many.
        moves: u32,
    },
    /// As Redis says it.
    #[error("Invalid or out of range slot")]
    SlotRange,
    /// As Redis says it.
    #[error("start slot number {0} is greater than end slot number {1}")]
    RangeOrder(Slot, Slot),
    /// As Redis says it.
    #[error("Slot {0} specified multiple times")]
    SlotTwice(Slot),
    /// Nothing was asked.
    #[error("no slot is named, name at least one range")]
    NoSlots,
    /// As Redis says it.
    #[error("Slot {0} is already busy")]
    SlotBusy(Slot),
    /// As Redis says it.
    #[error("Slot {0} is already unassigned")]
    SlotUnassigned(Slot),
    /// Its keys would be lost.
    #[error(
        "slot {slot} is owned by group {group} and would be lost, move it to another group instead"
    )]
    SlotOwned {
        /// The slot.
        slot: Slot,
        /// Its owner.
        group: GroupId,
    },
    /// Somebody may own it any moment.
    #[error("slot {slot} is being given to group {group} by move {id}, cancel that first")]
    SlotMoving {
        /// The slot.
        slot: Slot,
        /// Its destination.
        group: GroupId,
        /// The move.
        id: MoveId,
    },
    /// Moving needs somebody who has it.
    #[error("slot {0} is assigned to no group, CLUSTER ADDSLOTS gives it out")]
    SlotNobodys(Slot),
    /// Nothing would be done.
    #[error("a rebalance of 0 moves does nothing, name at least 1")]
    NoMoves,
    /// It was not ordered.
    #[error("there is no move {0}, CLUSTER GETSLOTMIGRATIONS lists them")]
    UnknownMove(MoveId),
    /// Too late.
    #[error("move {0} has ended already and cannot be cancelled")]
    MoveEnded(MoveId),
    /// A bound.
    #[error("{0} moves are named, 4096 at most")]
    TooManyMoves(u32),
    /// What a group reports cannot be.
    #[error("the report on move {0} contradicts what was ordered or reported")]
    Contradiction(MoveId),
    /// What a group reports cannot be.
    #[error("group {group} cannot have seats on {count} nodes")]
    Seats {
        /// The group.
        group: GroupId,
        /// How many were reported.
        count: u32,
    },
    /// What a group reports cannot be.
    #[error("group {group} cannot follow configuration {config}, which there is not")]
    FutureConfig {
        /// The group.
        group: GroupId,
        /// What was reported.
        config: ConfigNum,
    },
    /// It cannot be both.
    #[error("node {node} is both added to group {group} and removed from it, name it once")]
    AddedAndRemoved {
        /// The group.
        group: GroupId,
        /// The node.
        node: NodeId,
    },
    /// The group would have a voter less.
    #[error(
        "node {new} is a voter of group {group} already and cannot take the seat of node {old} too, \
         name another node, or CLUSTER DELVOTER {old} GROUP {group}"
    )]
    BothSeated {
        /// The group.
        group: GroupId,
        /// Who was to lose its seat.
        old: NodeId,
        /// Who was to get it.
        new: NodeId,
    },
    /// Nothing would be done.
    #[error("node {0} is a voter of no group that was meant, CLUSTER GROUPS lists who is")]
    NoSeat(NodeId),
}

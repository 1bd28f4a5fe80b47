//! What an op would cause, without doing it: DRYRUN.

use super::Shardmaster;
use super::op::{MasterError, MasterOp};
use super::target::weights;
use crate::rebalance::shares;
use crate::slot::Slot;
use raft_core::types::GroupId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Slots that an op would move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedMove {
    /// First slot.
    pub first: Slot,
    /// Last slot, included.
    pub last: Slot,
    /// Who has them once the moves under way have ended; None: nobody.
    pub from: Option<GroupId>,
    /// Who is to have them.
    pub to: GroupId,
    /// Why.
    pub reason: PlanReason,
}

/// Why slots would move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PlanReason {
    /// The op says so.
    Asked,
    /// Nobody was to have the slots.
    Unassigned,
    /// The group that was to have them gets none any more.
    Drained(GroupId),
    /// The group has just been made.
    New(GroupId),
    /// One has more slots than its share, the other fewer: for each the group, its slots and its share.
    Balance {
        /// Who has more.
        from: (GroupId, u32, u32),
        /// Who has fewer.
        to: (GroupId, u32, u32),
    },
}

impl fmt::Display for PlanReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlanReason::Asked => write!(f, "asked for"),
            PlanReason::Unassigned => write!(f, "no group has it"),
            PlanReason::Drained(group) => write!(f, "group {group} is drained"),
            PlanReason::New(group) => write!(f, "group {group} is new"),
            PlanReason::Balance { from, to } => {
                let ((from, had, share), (to, has, its)) = (from, to);
                write!(f, "group {from} has {had} slots for a share of {share}, ")?;
                write!(f, "group {to} has {has} for {its}")
            }
        }
    }
}

impl Shardmaster {
    /// The moves that an op would cause now, in slot order. Ops that move nothing have none.
    ///
    /// # Errors
    /// What the op would be refused for.
    pub fn plan_dry(&self, op: &MasterOp) -> Result<Vec<PlannedMove>, MasterError> {
        let Some(draft) = self.draft(op) else { return Ok(Vec::new()) };
        let draft = draft?;
        let (old, new) = (self.map.config.slot_table(), draft.config.slot_table());
        let weights = weights(&draft.config);
        let shares = shares(&old, &weights);
        let count = |group: GroupId| old.iter().filter(|g| **g == Some(group)).count() as u32;
        let reason = |before: Option<GroupId>, to: GroupId| match before {
            _ if matches!(op, MasterOp::MoveSlots { .. } | MasterOp::AssignSlots { .. }) => {
                PlanReason::Asked
            }
            None => PlanReason::Unassigned,
            Some(from) if weights.get(&from).is_none_or(|weight| *weight == 0) => {
                PlanReason::Drained(from)
            }
            Some(_) if draft.group == Some(to) => PlanReason::New(to),
            Some(from) => {
                let side = |group| (group, count(group), shares.get(&group).copied().unwrap_or(0));
                PlanReason::Balance { from: side(from), to: side(to) }
            }
        };
        let mut planned: Vec<PlannedMove> = Vec::new();
        let mut last: Option<(Option<GroupId>, GroupId)> = None;
        for (number, (before, after)) in (0..).zip(old.iter().zip(&new)) {
            let slot = Slot(number);
            let Some(to) = after.filter(|_| before != after) else { continue };
            let running = self.plan.running(slot).and_then(|id| self.map.moves.get(&id));
            let owner = self.map.owners.of(slot).map(|(group, _)| group);
            let from = running.map(|record| record.order.to).or(owner);
            if from == Some(to) {
                continue;
            }
            match planned.last_mut() {
                Some(run)
                    if run.last.0 + 1 == number
                        && run.from == from
                        && last == Some((*before, to)) =>
                {
                    run.last = slot;
                }
                _ => {
                    let reason = reason(*before, to);
                    planned.push(PlannedMove { first: slot, last: slot, from, to, reason });
                    last = Some((*before, to));
                }
            }
        }
        Ok(planned)
    }
}

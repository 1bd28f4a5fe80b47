//! Who owns each slot, and since which change of owner.

use super::MapError;
use crate::moves::SlotEpoch;
use crate::slot::{SLOTS, Slot};
use raft_core::types::GroupId;
use serde::{Deserialize, Serialize};

/// A run of slots that have one owner since equally many changes of owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerRange {
    /// First slot.
    pub first: Slot,
    /// Last slot, included.
    pub last: Slot,
    /// Their owner.
    pub group: GroupId,
    /// Of each of them.
    pub epoch: SlotEpoch,
}

impl OwnerRange {
    fn owner(&self) -> (GroupId, SlotEpoch) {
        (self.group, self.epoch)
    }

    /// How many slots it has.
    fn count(&self) -> u32 {
        (u32::from(self.last.0) + 1).saturating_sub(u32::from(self.first.0))
    }
}

/// The owner of every slot that has one. A slot never loses its owner but to another.
///
/// Kept as ranges, in slot order and joined where they can be: finding a slot takes a binary search;
/// changing one moves at most 16384 ranges of 16 bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Owners(Vec<OwnerRange>);

impl Owners {
    /// Who owns a slot, and how often it has changed its owner.
    pub fn of(&self, slot: Slot) -> Option<(GroupId, SlotEpoch)> {
        let at = self.0.partition_point(|range| range.last < slot);
        self.0.get(at).filter(|range| range.first <= slot).map(OwnerRange::owner)
    }

    #[cfg(test)]
    pub(super) fn of_ranges(ranges: Vec<OwnerRange>) -> Owners {
        Owners(ranges)
    }

    /// All of them, in slot order.
    pub fn ranges(&self) -> &[OwnerRange] {
        &self.0
    }

    /// How many slots a group owns.
    pub fn count(&self, group: GroupId) -> u32 {
        self.0.iter().filter(|range| range.group == group).map(OwnerRange::count).sum()
    }

    /// Gives one slot to an owner.
    pub fn set(&mut self, slot: Slot, group: GroupId, epoch: SlotEpoch) {
        self.set_range(OwnerRange { first: slot, last: slot, group, epoch });
    }

    /// Gives a run of slots to an owner. The range has to be one of slots that there are.
    pub fn set_range(&mut self, new: OwnerRange) {
        // What touches it takes part, so that neighbours that are equal now are joined.
        let from =
            self.0.partition_point(|range| u32::from(range.last.0) + 1 < u32::from(new.first.0));
        let upto =
            self.0.partition_point(|range| u32::from(range.first.0) <= u32::from(new.last.0) + 1);
        let touched = &self.0[from..upto.max(from)];
        let before = touched.first().filter(|range| range.first < new.first);
        let behind = touched.last().filter(|range| range.last > new.last);
        let mut parts = Vec::with_capacity(3);
        if let Some(range) = before {
            parts.push(OwnerRange { last: Slot(new.first.0 - 1), ..*range });
        }
        parts.push(new);
        if let Some(range) = behind {
            parts.push(OwnerRange { first: Slot(new.last.0 + 1), ..*range });
        }
        parts.dedup_by(|behind, before| {
            let joined = before.owner() == behind.owner();
            if joined {
                before.last = behind.last;
            }
            joined
        });
        self.0.splice(from..upto.max(from), parts);
    }

    /// The ranges that are otherwise in `self` than in `old`. One that `old` alone has an owner for is not
    /// among them: there is none.
    pub fn since(&self, old: &Owners) -> Vec<OwnerRange> {
        let mut changed = Owners::default();
        let mut at = 0;
        for range in &self.0 {
            let mut first = range.first;
            // Ranges of the old ones that overlap it, and the gaps between them.
            while old.0.get(at).is_some_and(|before| before.last < first) {
                at += 1;
            }
            while first <= range.last {
                let before = old.0.get(at).filter(|before| before.first <= range.last);
                let (last, same) = match before {
                    Some(before) if before.first > first => (Slot(before.first.0 - 1), false),
                    Some(before) => (before.last.min(range.last), before.owner() == range.owner()),
                    None => (range.last, false),
                };
                if !same {
                    changed.set_range(OwnerRange { first, last, ..*range });
                }
                if before.is_some_and(|before| before.last <= last) {
                    at += 1;
                }
                first = Slot(last.0 + 1);
            }
        }
        changed.0
    }

    /// Whether these can be owners: ranges of slots in order and joined, each with an epoch.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), MapError> {
        let mut last: Option<&OwnerRange> = None;
        for range in &self.0 {
            check_range(range)?;
            let follows = last.is_none_or(|last| {
                last.last < range.first
                    && (last.last.0 + 1 < range.first.0 || last.owner() != range.owner())
            });
            if !follows {
                return Err(MapError::OwnerOrder(range.first));
            }
            last = Some(range);
        }
        Ok(())
    }
}

/// Whether a range alone makes sense.
pub(super) fn check_range(range: &OwnerRange) -> Result<(), MapError> {
    let OwnerRange { first, last, group, epoch } = *range;
    if first > last || last.0 >= SLOTS || epoch == SlotEpoch(0) || group == GroupId(0) {
        return Err(MapError::OwnerRange { first, last, group, epoch });
    }
    Ok(())
}

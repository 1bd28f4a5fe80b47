//! Shares slots out: a slot table and the groups with their weights make a balanced table, by the
//! fewest changes.
//!
//! **Balanced**: a group's count is its exact share, slots times weight over all weights, rounded down or up.
//! Then the counts per unit of weight of any two groups are at most one apart, since each lies between
//! the whole numbers around slots over all weights; of two groups of equal weight the counts are (scenario
//! K2). Allowing all that is at most one apart would let groups of weight 100 differ by a hundred slots.
//!
//! **Fewest**: a slot changes its group only if that has more than its count, or is to have none. Who gets
//! the rounding up is chosen so that the fewest slots change (scenario K3).
//!
//! Nothing here depends on anything but the arguments (scenario K4). The number of slots is that of the
//! table, so that tests can search small ones whole.

use crate::slot::Slot;
use raft_core::types::GroupId;
use std::collections::BTreeMap;

/// One slot that gets another group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reassigned {
    /// The slot.
    pub slot: Slot,
    /// Whose it was; None: nobody's.
    pub from: Option<GroupId>,
    /// Whose it is to be.
    pub to: GroupId,
}

/// How many slots each group of `weights` is to have, if the table is `slots` now. Groups of weight 0
/// have none; with no weight at all nobody has any.
pub fn shares(
    slots: &[Option<GroupId>],
    weights: &BTreeMap<GroupId, u32>,
) -> BTreeMap<GroupId, u32> {
    let have = counts(slots);
    let total: u64 = weights.values().map(|weight| u64::from(*weight)).sum();
    let count = slots.len() as u64;
    if total == 0 {
        return weights.keys().map(|group| (*group, 0)).collect();
    }
    let exact =
        |weight: u32| (count * u64::from(weight) / total, count * u64::from(weight) % total);
    let mut shares: BTreeMap<GroupId, u32> =
        weights.iter().map(|(group, weight)| (*group, exact(*weight).0 as u32)).collect();
    let given: u64 = shares.values().map(|share| u64::from(*share)).sum();
    // One who has more than the share rounded down keeps a slot by getting the rest; for any other a slot
    // has to move. Of those, a new group has the least, and it is the one that a join is to serve.
    let mut rounded: Vec<(Option<u32>, GroupId)> = weights
        .iter()
        .filter(|(_, weight)| exact(**weight).1 > 0)
        .map(|(group, _)| {
            let have = have.get(group).copied().unwrap_or(0);
            ((have <= shares[group]).then_some(have), *group)
        })
        .collect();
    rounded.sort();
    for (_, group) in rounded.iter().take((count - given) as usize) {
        *shares.entry(*group).or_default() += 1;
    }
    shares
}

/// The changes that make `slots` balanced over `weights`, in slot order, none with no weight at all. Each
/// takes a slot from a group that has too many, or from nobody, and gives it to one that has too few: so
/// any part of them brings the table nearer. Slots of groups that `weights` does not name go to others.
///
/// A group gives up its highest slots, and what is given up goes to the lowest group first: long runs
/// of slots stay long.
pub fn rebalance(slots: &[Option<GroupId>], weights: &BTreeMap<GroupId, u32>) -> Vec<Reassigned> {
    if weights.values().all(|weight| *weight == 0) {
        return Vec::new();
    }
    let shares = shares(slots, weights);
    let mut have = counts(slots);
    let mut given_up = Vec::new();
    for (number, from) in slots.iter().enumerate().rev() {
        if let Some(group) = from {
            let count = have.entry(*group).or_default();
            if *count <= shares.get(group).copied().unwrap_or(0) {
                continue;
            }
            *count -= 1;
        }
        given_up.push((Slot(number as u16), *from));
    }
    let mut wanting = shares.iter().flat_map(|(group, share)| {
        let missing = share.saturating_sub(have.get(group).copied().unwrap_or(0));
        std::iter::repeat_n(*group, missing as usize)
    });
    // As many are missing as were given up: both are all slots without those that stay.
    given_up
        .into_iter()
        .rev()
        .map_while(|(slot, from)| wanting.next().map(|to| Reassigned { slot, from, to }))
        .collect()
}

fn counts(slots: &[Option<GroupId>]) -> BTreeMap<GroupId, u32> {
    let mut counts = BTreeMap::new();
    for group in slots.iter().flatten() {
        *counts.entry(*group).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot::SLOTS;

    fn random(state: &mut u64, end: u64) -> u64 {
        *state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) % end
    }

    fn weights(of: &[(u32, u32)]) -> BTreeMap<GroupId, u32> {
        of.iter().map(|(group, weight)| (GroupId(*group), *weight)).collect()
    }

    fn applied(slots: &[Option<GroupId>], changes: &[Reassigned]) -> Vec<Option<GroupId>> {
        let mut slots = slots.to_vec();
        for Reassigned { slot, from, to } in changes {
            let at = &mut slots[usize::from(slot.0)];
            assert_eq!(*at, *from, "slot {slot} is whose it was said to be");
            *at = Some(*to);
        }
        slots
    }

    fn is_balanced(slots: &[Option<GroupId>], weights: &BTreeMap<GroupId, u32>) -> bool {
        let (have, count) = (counts(slots), slots.len() as u64);
        let total: u64 = weights.values().map(|w| u64::from(*w)).sum();
        let known = slots.iter().all(|group| group.is_some_and(|g| weights.contains_key(&g)));
        known
            && weights.iter().all(|(group, weight)| {
                let have = u64::from(have.get(group).copied().unwrap_or(0));
                let exact = count * u64::from(*weight);
                have == exact / total || have == exact.div_ceil(total)
            })
    }

    /// The fewest slots that differ from `slots` in any balanced table, by trying all tables.
    fn fewest(slots: &[Option<GroupId>], weights: &BTreeMap<GroupId, u32>) -> usize {
        let groups: Vec<GroupId> = weights.keys().copied().collect();
        let tables = groups.len().pow(slots.len() as u32);
        (0..tables)
            .filter_map(|mut number| {
                let table: Vec<_> = slots
                    .iter()
                    .map(|_| {
                        let group = groups[number % groups.len()];
                        number /= groups.len();
                        Some(group)
                    })
                    .collect();
                let differ = table.iter().zip(slots).filter(|(a, b)| a != b).count();
                is_balanced(&table, weights).then_some(differ)
            })
            .min()
            .expect("some table is balanced")
    }

    /// K2, K3, K4 against every table there is, from every kind of table: unassigned slots, groups that are
    /// gone, weight 0, more groups than slots (K10).
    #[test]
    fn k02_k03_k10_balanced_by_the_fewest_changes() {
        let mut state = 1;
        for round in 0..1500 {
            let slots = 1 + random(&mut state, 6);
            let groups = 1 + random(&mut state, 4);
            let mut weights: BTreeMap<GroupId, u32> = (1..=groups)
                .map(|group| (GroupId(group as u32), random(&mut state, 4) as u32))
                .collect();
            // Somebody has to be there to own slots.
            *weights.get_mut(&GroupId(1)).unwrap() += 1;
            let table: Vec<_> = (0..slots)
                .map(|_| match random(&mut state, groups + 3) {
                    0 => None,
                    group => Some(GroupId(group as u32)),
                })
                .collect();
            let changes = rebalance(&table, &weights);
            let after = applied(&table, &changes);
            let what = format!("round {round}: {table:?} over {weights:?} gave {after:?}");
            assert!(is_balanced(&after, &weights), "{what}");
            assert_eq!(changes.len(), fewest(&table, &weights), "{what}");
            assert!(changes.is_sorted_by(|a, b| a.slot < b.slot), "{what}");
            assert_eq!(rebalance(&after, &weights), [], "{what}");
        }
    }

    /// K2, K3 on all slots: many joins and leaves, each changes only slots of the group that comes or goes.
    #[test]
    fn k03_a_join_takes_and_a_leave_gives_nothing_else() {
        let mut state = 2;
        let mut weights = weights(&[(1, 1)]);
        let mut slots =
            applied(&[None; SLOTS as usize], &rebalance(&[None; SLOTS as usize], &weights));
        for group in 2..60 {
            let group = GroupId(group);
            weights.insert(group, 1);
            let changes = rebalance(&slots, &weights);
            assert!(changes.iter().all(|change| change.to == group), "join of {group}");
            assert_eq!(changes.len(), usize::from(SLOTS) / weights.len(), "join of {group}");
            slots = applied(&slots, &changes);
            assert!(is_balanced(&slots, &weights));
            if random(&mut state, 3) > 0 {
                let at = random(&mut state, weights.len() as u64) as usize;
                let leaver = *weights.keys().nth(at).unwrap();
                weights.insert(leaver, 0);
                let changes = rebalance(&slots, &weights);
                assert!(changes.iter().all(|change| change.from == Some(leaver)));
                slots = applied(&slots, &changes);
                weights.remove(&leaver);
                assert!(is_balanced(&slots, &weights));
            }
        }
    }

    #[test]
    fn weights_count() {
        let weights = weights(&[(1, 1), (2, 3), (3, 0)]);
        let slots = vec![Some(GroupId(3)); 10];
        assert_eq!(shares(&slots, &weights).into_values().collect::<Vec<_>>(), [3, 7, 0]);
        let none = [(GroupId(1), 0)].into();
        assert_eq!(rebalance(&slots, &none), [], "nobody is there to take them");
    }

    /// Per unit of weight, too, no two groups are more than one slot apart.
    #[test]
    fn k02_counts_per_weight_are_one_apart() {
        let mut state = 3;
        for _ in 0..200 {
            let groups = 2 + random(&mut state, 20) as u32;
            let weights: BTreeMap<GroupId, u32> = (1..=groups)
                .map(|group| (GroupId(group), 1 + random(&mut state, 100) as u32))
                .collect();
            let slots = vec![None; SLOTS as usize];
            let have = counts(&applied(&slots, &rebalance(&slots, &weights)));
            let per_weight = |group: &GroupId| {
                let have = have.get(group).copied().unwrap_or(0);
                f64::from(have) / f64::from(weights[group])
            };
            let all: Vec<f64> = weights.keys().map(per_weight).collect();
            let most = all.iter().copied().fold(f64::MIN, f64::max);
            let least = all.iter().copied().fold(f64::MAX, f64::min);
            assert!(most - least <= 1.0, "{least} to {most} over {weights:?}");
        }
    }
}

//! Shares of what slots hold, and not of slots: REBALANCE BY KEYS, BYTES or LOAD.
//!
//! The shardmaster knows where slots are and not what is in them, so whoever is asked adds up what the groups say and
//! orders the moves that follow. A group is to have its share by weight, give or take one part in
//! [`TOLERANCE`] of it. The group that has most above its share gives to the one that lacks most: the largest
//! slot that makes neither the one lack nor the other exceed, or else the smallest, if both are nearer to their shares then. So
//! few slots move, no slot twice, and slots that hold nothing stay.

use super::show::span;
use crate::commands::admin::Measure;
use crate::reply::Reply;
use shard_core::GroupId;
use shard_core::cluster_config::{ClusterConfig, SHARDMASTER};
use shard_core::shardmaster::MasterOp;
use shard_core::slot::Slot;
use shard_core::wire::SlotSize;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// A group that has less than one part in so many above its share gives nothing.
const TOLERANCE: u64 = 50;

/// A slot that is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Transfer {
    slot: Slot,
    size: u64,
    from: Standing,
    to: Standing,
}

/// A group, what it has before anything moves, and its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Standing {
    group: GroupId,
    has: u64,
    share: u64,
}

/// A group while slots are given out.
struct Side {
    standing: Standing,
    has: u64,
    /// Those that it may give away, by what they hold.
    slots: BTreeSet<(u64, Slot)>,
}

impl Side {
    fn excess(&self) -> u64 {
        self.has.saturating_sub(self.standing.share)
    }

    fn lack(&self) -> u64 {
        self.standing.share.saturating_sub(self.has)
    }

    fn gives(&self) -> bool {
        self.excess() > self.standing.share / TOLERANCE
    }

    /// The slot that it should give to one that lacks so much.
    fn pick(&self, lack: u64) -> Option<(u64, Slot)> {
        let fits = (self.excess().min(lack), Slot(u16::MAX));
        let best = self.slots.range(..=fits).next_back();
        let nearer = |(size, _): &&(u64, Slot)| *size < self.excess().saturating_add(lack);
        best.or_else(|| self.slots.first().filter(nearer)).copied()
    }
}

/// The slots that are to go, in their order.
pub(super) fn plan(
    config: &ClusterConfig,
    sizes: &BTreeMap<Slot, SlotSize>,
    by: Measure,
    moves_max: Option<u32>,
) -> Vec<Transfer> {
    let mut sides = sides(config, sizes, by);
    let mut transfers = Vec::new();
    while moves_max.is_none_or(|max| transfers.len() < max as usize)
        && let Some((from, to, (size, slot))) = next(&sides)
    {
        let (Some(giver), Some(taker)) = (sides.get(&from), sides.get(&to)) else { break };
        let (from_standing, to_standing) = (giver.standing, taker.standing);
        transfers.push(Transfer { slot, size, from: from_standing, to: to_standing });
        if let Some(giver) = sides.get_mut(&from) {
            giver.has -= size;
            giver.slots.remove(&(size, slot));
        }
        if let Some(taker) = sides.get_mut(&to) {
            taker.has += size;
        }
    }
    transfers.sort_unstable();
    transfers
}

fn sides(
    config: &ClusterConfig,
    sizes: &BTreeMap<Slot, SlotSize>,
    by: Measure,
) -> BTreeMap<GroupId, Side> {
    let size = |slot: Slot| {
        let size = sizes.get(&slot).copied().unwrap_or_default();
        match by {
            Measure::Slots => 1,
            Measure::Keys => size.keys,
            Measure::Bytes => size.bytes,
            Measure::Load => size.writes,
        }
    };
    let mut held: BTreeMap<GroupId, BTreeSet<(u64, Slot)>> = BTreeMap::new();
    for (slot, group) in (0..).map(Slot).zip(config.slot_table()) {
        if let Some(group) = group.filter(|_| size(slot) > 0) {
            held.entry(group).or_default().insert((size(slot), slot));
        }
    }
    let total: u128 = held.values().flatten().map(|(size, _)| u128::from(*size)).sum();
    let groups = config.groups.iter().filter(|(group, _)| **group != SHARDMASTER);
    let weights: u128 = groups.clone().map(|(_, seats)| u128::from(seats.weight)).sum();
    let mut side = |group: GroupId, weight: u32| {
        let slots = held.remove(&group).unwrap_or_default();
        let has = slots.iter().map(|(size, _)| *size).sum();
        let share = (total * u128::from(weight)).checked_div(weights).unwrap_or(0);
        let share = u64::try_from(share).unwrap_or(u64::MAX);
        (group, Side { standing: Standing { group, has, share }, has, slots })
    };
    groups.map(|(group, seats)| side(*group, seats.weight)).collect()
}

/// Who gives what to whom next.
fn next(sides: &BTreeMap<GroupId, Side>) -> Option<(GroupId, GroupId, (u64, Slot))> {
    let (to, lack) = sides
        .iter()
        .map(|(group, side)| (*group, side.lack()))
        .max_by_key(|(group, lack)| (*lack, Reverse(*group)))
        .filter(|(_, lack)| *lack > 0)?;
    let mut givers: Vec<(&GroupId, &Side)> =
        sides.iter().filter(|(_, side)| side.gives()).collect();
    givers.sort_by_key(|(group, side)| (Reverse(side.excess()), **group));
    givers.into_iter().find_map(|(from, side)| Some((*from, to, side.pick(lack)?)))
}

/// What the shardmaster is told.
pub(super) fn orders(transfers: &[Transfer]) -> Vec<MasterOp> {
    let mut ranges: BTreeMap<GroupId, Vec<(Slot, Slot)>> = BTreeMap::new();
    for transfer in transfers {
        ranges.entry(transfer.to.group).or_default().push((transfer.slot, transfer.slot));
    }
    ranges.into_iter().map(|(to, ranges)| MasterOp::MoveSlots { ranges, to }).collect()
}

/// Each step with its reason: neighbours that go from one group to another are one.
pub(super) fn show(transfers: &[Transfer], by: Measure) -> Reply {
    let is_next = |a: &Transfer, b: &Transfer| {
        a.slot.0.checked_add(1) == Some(b.slot.0) && (a.from, a.to) == (b.from, b.to)
    };
    let word = match by {
        Measure::Slots => "slots",
        Measure::Keys => "keys",
        Measure::Bytes => "bytes",
        Measure::Load => "writes lately",
    };
    let step = |run: &[Transfer]| {
        let (first, last) = (run.first()?, run.last()?);
        let size: u64 = run.iter().map(|transfer| transfer.size).sum();
        let (from, to) = (first.from, first.to);
        let reason = format!(
            "group {} has {} {word} for a share of {}, group {} has {} for {}, these are {size}",
            from.group, from.has, from.share, to.group, to.has, to.share
        );
        let group = |group: GroupId| Reply::Integer(i64::from(group.0));
        Some(Reply::Map(vec![
            (Reply::word("slots"), Reply::text(span((first.slot, last.slot)))),
            (Reply::word("from"), group(from.group)),
            (Reply::word("to"), group(to.group)),
            (Reply::word("reason"), Reply::text(reason)),
        ]))
    };
    Reply::Array(transfers.chunk_by(is_next).filter_map(step).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use shard_core::cluster_config::GroupConfig;
    use shard_core::slot::SLOTS;

    /// Groups with these weights share all slots; these hold something.
    fn cluster(weights: &[u32], keys: &[(u16, u64)]) -> (ClusterConfig, BTreeMap<Slot, SlotSize>) {
        let mut config = ClusterConfig::default();
        for (group, weight) in (0..).zip([&[0], weights].concat()) {
            config.groups.insert(GroupId(group), GroupConfig { voters: Vec::new(), weight });
        }
        config.assign_evenly();
        let size = |(slot, keys): &(u16, u64)| {
            (Slot(*slot), SlotSize { keys: *keys, ..SlotSize::default() })
        };
        (config, keys.iter().map(size).collect())
    }

    fn after(
        config: &ClusterConfig,
        sizes: &BTreeMap<Slot, SlotSize>,
        transfers: &[Transfer],
    ) -> BTreeMap<GroupId, u64> {
        let mut table = config.slot_table();
        for Transfer { slot, from, to, .. } in transfers {
            let at = &mut table[usize::from(slot.0)];
            assert_eq!(at.replace(to.group), Some(from.group), "slot {slot} moves once");
        }
        let mut have: BTreeMap<GroupId, u64> =
            config.shard_groups().map(|group| (group, 0)).collect();
        for (slot, size) in sizes {
            let group = table[usize::from(slot.0)].expect("it has a group");
            *have.get_mut(&group).expect("a group") += size.keys;
        }
        have
    }

    #[test]
    fn few_slots_move_and_groups_have_their_shares_within_two_percent() {
        let mut state: u64 = 7;
        let mut random = |end: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % end
        };
        for round in 0..40 {
            let weights: Vec<u32> = (0..2 + random(5)).map(|_| 1 + random(3) as u32).collect();
            let keys: Vec<(u16, u64)> =
                (0..SLOTS).step_by(3).map(|slot| (slot, random(50) * random(4))).collect();
            let (config, sizes) = cluster(&weights, &keys);
            let transfers = plan(&config, &sizes, Measure::Keys, None);
            let have = after(&config, &sizes, &transfers);
            let total: u64 = have.values().sum();
            let all: u64 = weights.iter().copied().map(u64::from).sum();
            for (weight, (group, have)) in weights.iter().zip(&have) {
                let share = total * u64::from(*weight) / all;
                assert!(
                    have.abs_diff(share) <= share / 10,
                    "round {round}: {group} has {have} of {share}"
                );
                assert!(
                    *have <= share + share / TOLERANCE + 1,
                    "round {round}: {group} has {have} of {share}"
                );
            }
            assert!(plan(&config, &sizes, Measure::Keys, Some(3)).len() <= 3);
        }
    }

    #[test]
    fn what_cannot_be_shared_stays_and_nothing_goes_to_and_fro() {
        // One slot holds nearly all.
        let (config, sizes) = cluster(&[1, 1], &[(5, 1000), (6, 10), (16_000, 20)]);
        let transfers = plan(&config, &sizes, Measure::Keys, None);
        let slots: Vec<u16> = transfers.iter().map(|transfer| transfer.slot.0).collect();
        assert_eq!(slots, [6], "the large one would only change places");
        let (config, sizes) = cluster(&[1, 1], &[(5, 10), (16_000, 10)]);
        assert_eq!(plan(&config, &sizes, Measure::Keys, None), []);
        assert_eq!(plan(&config, &BTreeMap::new(), Measure::Bytes, None), []);
        // One without a weight gets nothing and gives all that holds something.
        let (mut config, sizes) = cluster(&[1, 1], &[(5, 10), (6, 10), (16_000, 10)]);
        config.groups.get_mut(&GroupId(1)).expect("a group").weight = 0;
        let transfers = plan(&config, &sizes, Measure::Keys, None);
        assert_eq!(after(&config, &sizes, &transfers), [(GroupId(1), 0), (GroupId(2), 30)].into());
    }
}

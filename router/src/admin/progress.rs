//! How far moves are: REBALANCE STATUS.

use super::{Finish, plan};
use crate::backend::{Target, Work};
use crate::reply::Reply;
use shard_core::GroupId;
use shard_core::cluster_config::SHARDMASTER;
use shard_core::cluster_map::ClusterMap;
use shard_core::moves::MoveOutcome;
use shard_core::shardmaster::{EndedMove, MasterQuery, MasterReport};
use shard_core::slot::Slot;
use shard_core::wire::{ClusterView, GroupQuery, SlotSize};
use std::collections::{BTreeMap, BTreeSet};

/// The rate is that of so long before the last move that ended. Milliseconds.
const RATE_OF_MS: u64 = 10_000;

/// Slots that are not where they are to be, and who has them.
fn misplaced(map: &ClusterMap) -> Vec<(Slot, Option<GroupId>)> {
    let wanted = (0..).map(Slot).zip(map.config.slot_table());
    let owner = |slot| map.owners.of(slot).map(|(group, _)| group);
    let away = wanted.filter(|(slot, to)| to.is_some() && owner(*slot) != *to);
    away.map(|(slot, _)| (slot, owner(slot))).collect()
}

/// Who is asked: nobody if nothing is to move. Nobody is waited for long, so that this is answered whoever is away.
pub(super) fn steps(view: &ClusterView) -> (Vec<(Target, Work)>, Finish) {
    let owners: BTreeSet<GroupId> =
        misplaced(&view.map).into_iter().filter_map(|(_, owner)| owner).collect();
    if owners.is_empty() {
        return (Vec::new(), Finish::Status);
    }
    let ended = Work::Glance(GroupQuery::Master(MasterQuery::EndedMoves));
    let mut steps = vec![(Target::Group(SHARDMASTER), ended)];
    steps.extend(owners.into_iter().map(|group| plan::sizes(group, plan::ALL_SLOTS, Work::Glance)));
    (steps, Finish::Status)
}

/// Slots that got a new owner in a second, lately, times 1000; None: too few did.
fn rate(ended: &[EndedMove]) -> Option<u64> {
    let at = |ended: &EndedMove| match ended.record.ended {
        Some((MoveOutcome::Activated, at)) => Some(at.0),
        Some((MoveOutcome::Refused(_), _)) | None => None,
    };
    let last = ended.iter().filter_map(at).max()?;
    let lately = ended.iter().filter_map(at).filter(|at| last - at <= RATE_OF_MS);
    let (count, first) = lately.fold((0, last), |(count, first), at| (count + 1, first.min(at)));
    (count > 1).then(|| (count - 1) * 1_000_000 / (last - first).max(1))
}

/// The reply. What nobody tells is nil: of `sizes` somebody's may be missing.
pub(super) fn show(
    map: &ClusterMap,
    sizes: &BTreeMap<Slot, SlotSize>,
    is_part: bool,
    reports: &[MasterReport],
) -> Reply {
    let slots = misplaced(map);
    let held = map.waiting.values().filter(|waiting| waiting.until.is_none()).count();
    let number = |count: u64| Reply::Integer(i64::try_from(count).unwrap_or(i64::MAX));
    let state = match (map.paused, slots.len()) {
        (true, _) => "paused",
        (false, 0) => "balanced",
        (false, _) => "moving",
    };
    let sum = |of: fn(&SlotSize) -> u64| {
        let of_slots = slots.iter().filter_map(|(slot, _)| sizes.get(slot)).map(of);
        (!is_part).then(|| of_slots.sum())
    };
    let ended = reports.iter().find_map(|report| match report {
        MasterReport::EndedMoves(ended) => Some(ended.as_slice()),
        MasterReport::Config(_) | MasterReport::Plan(_) => None,
    });
    let rate = ended.and_then(rate).filter(|rate| *rate > 0 && state == "moving");
    let left = match state {
        "balanced" => Some(0),
        _ => rate.map(|rate| (slots.len() as u64 * 1000).div_ceil(rate)),
    };
    let or_nil = |count: Option<u64>| count.map_or(Reply::Nil, number);
    let text = Reply::word;
    Reply::Map(vec![
        (text("state"), text(state)),
        (text("config"), number(map.config.num.0)),
        (text("slots-to-move"), number(slots.len() as u64)),
        (text("moves-running"), number(map.unfinished().count() as u64)),
        (text("slots-refused"), number((map.waiting.len() - held) as u64)),
        (text("slots-cancelled"), number(held as u64)),
        (text("keys-to-move"), or_nil(sum(|size| size.keys))),
        (text("bytes-to-move"), or_nil(sum(|size| size.bytes))),
        (text("slots-per-second"), or_nil(rate.map(|rate| rate.div_ceil(1000)))),
        (text("seconds-left"), or_nil(left)),
    ])
}

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

/// Slots that are not where they are to be, who has them, and who is to.
fn misplaced(map: &ClusterMap) -> Vec<(Slot, [Option<GroupId>; 2])> {
    let wanted = (0..).map(Slot).zip(map.config.slot_table());
    let owner = |slot| map.owners.of(slot).map(|(group, _)| group);
    let sides = wanted.map(|(slot, to)| (slot, [owner(slot), to]));
    sides.filter(|(_, [from, to])| to.is_some() && from != to).collect()
}

/// The groups that slots leave, and those that they come to.
fn groups(slots: &[(Slot, [Option<GroupId>; 2])]) -> BTreeSet<GroupId> {
    slots.iter().flat_map(|(_, sides)| sides).flatten().copied().collect()
}

/// Who is asked: nobody if nothing is to move. Nobody is waited for long, so that this is answered whoever is away.
pub(super) fn steps(view: &ClusterView) -> (Vec<(Target, Work)>, Finish) {
    let slots = misplaced(&view.map);
    if slots.is_empty() {
        return (Vec::new(), Finish::Status);
    }
    let ended = Work::Glance(GroupQuery::Master(MasterQuery::EndedMoves));
    let mut steps = vec![(Target::Group(SHARDMASTER), ended)];
    let sizes = |group| plan::sizes(group, plan::ALL_SLOTS, Work::Glance);
    steps.extend(groups(&slots).into_iter().map(sizes));
    (steps, Finish::Status)
}

/// How fast slots got new owners lately.
struct Rate {
    /// In a second, times 1000.
    slots: u64,
    /// In a second, by what the slots have now. None: not all of it was told.
    bytes: Option<u64>,
}

/// None: too few did.
fn rate(ended: &[EndedMove], bytes: impl Fn(Slot) -> Option<u64>) -> Option<Rate> {
    let at = |ended: &EndedMove| match ended.record.ended {
        Some((MoveOutcome::Activated, at)) => Some((at.0, ended.record.order.slot)),
        Some((MoveOutcome::Refused(_), _)) | None => None,
    };
    let mut ends: Vec<(u64, Slot)> = ended.iter().filter_map(at).collect();
    ends.sort_unstable();
    let last = ends.last()?.0;
    ends.retain(|(at, _)| last - at <= RATE_OF_MS);
    let [(first, _), since @ ..] = ends.as_slice() else { return None };
    let ms = (last - first).max(1);
    let bytes: Option<u64> = since.iter().map(|(_, slot)| bytes(*slot)).sum();
    let slots = since.len() as u64 * 1_000_000 / ms;
    (slots > 0).then(|| Rate { slots, bytes: bytes.map(|bytes| bytes.saturating_mul(1000) / ms) })
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
    let bytes = |slot| sizes.get(&slot).map(|size| size.bytes);
    let ended = ended.filter(|_| state == "moving");
    let rate = ended.and_then(|ended| rate(ended, bytes));
    let slots_rate = rate.as_ref().map(|rate| rate.slots);
    let left = match state {
        "balanced" => Some(0),
        _ => slots_rate.map(|rate| (slots.len() as u64 * 1000).div_ceil(rate)),
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
        (text("slots-per-second"), or_nil(slots_rate.map(|rate| rate.div_ceil(1000)))),
        (text("bytes-per-second"), or_nil(rate.and_then(|rate| rate.bytes))),
        (text("seconds-left"), or_nil(left)),
    ])
}

//! Configurations, plans and counts as replies.

use crate::commands::admin::{SlotMetric, SlotOrder};
use crate::node_name::node_name;
use crate::reply::Reply;
use shard_core::GroupId;
use shard_core::cluster_config::ClusterConfig;
use shard_core::shardmaster::PlannedMove;
use shard_core::slot::Slot;
use shard_core::wire::SlotSize;
use std::collections::BTreeMap;

/// A run of slots that differ between two configurations in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) first: Slot,
    pub(super) last: Slot,
    pub(super) from: Option<GroupId>,
    pub(super) to: Option<GroupId>,
}

fn number(number: u64) -> Reply {
    Reply::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

fn group(group: Option<GroupId>) -> Reply {
    group.map_or(Reply::Nil, |group| Reply::Integer(i64::from(group.0)))
}

/// `a-b`, or `a` alone.
pub(super) fn span((first, last): (Slot, Slot)) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

/// Steps with their reasons: REBALANCE DRYRUN.
pub(super) fn plan(moves: &[PlannedMove]) -> Reply {
    let step = |step: &PlannedMove| {
        Reply::Map(vec![
            (Reply::word("slots"), Reply::text(span((step.first, step.last)))),
            (Reply::word("from"), group(step.from)),
            (Reply::word("to"), group(Some(step.to))),
            (Reply::word("reason"), Reply::text(step.reason.to_string())),
        ])
    };
    Reply::Array(moves.iter().map(step).collect())
}

/// Of a number that was not given out.
pub(super) fn no_config(num: u64) -> Reply {
    Reply::error(format!("ERR there is no configuration {num} yet"))
}

/// CLUSTER CONFIG
pub(super) fn config(config: &ClusterConfig) -> Reply {
    let text = Reply::word;
    let nodes = config.nodes.iter().map(|(node, addresses)| {
        Reply::Map(vec![
            (text("node"), number(node.0)),
            (text("id"), Reply::text(node_name(&config.cluster_id, *node))),
            (text("resp"), Reply::text(addresses.resp.clone())),
            (text("peer"), Reply::text(addresses.peer.clone())),
        ])
    });
    let groups = config.groups.iter().map(|(group, seats)| {
        let slots = config.ranges_of(*group).map(|range| span((range.first, range.last)));
        let voters = seats.voters.iter().map(|node| number(node.0)).collect();
        Reply::Map(vec![
            (text("group"), Reply::Integer(i64::from(group.0))),
            (text("weight"), Reply::Integer(i64::from(seats.weight))),
            (text("voters"), Reply::Array(voters)),
            (text("slots"), Reply::Array(slots.map(Reply::text).collect())),
        ])
    });
    Reply::Map(vec![
        (text("config"), number(config.num.0)),
        (text("cluster-id"), Reply::text(config.cluster_id.clone())),
        (text("nodes"), Reply::Array(nodes.collect())),
        (text("groups"), Reply::Array(groups.collect())),
    ])
}

/// The slots that are to be elsewhere by the second, as few runs as there can be.
pub(super) fn moved(old: &ClusterConfig, new: &ClusterConfig) -> Vec<Moved> {
    let mut runs: Vec<Moved> = Vec::new();
    for (slot, (from, to)) in (0..).zip(old.slot_table().into_iter().zip(new.slot_table())) {
        let slot = Slot(slot);
        match runs.last_mut() {
            _ if from == to => {}
            Some(run) if run.last.0 + 1 == slot.0 && (run.from, run.to) == (from, to) => {
                run.last = slot;
            }
            _ => runs.push(Moved { first: slot, last: slot, from, to }),
        }
    }
    runs
}

/// CLUSTER CONFIG DIFF: a line for each change.
pub(super) fn diff(old: &ClusterConfig, new: &ClusterConfig) -> Reply {
    let mut lines = Vec::new();
    for node in old.nodes.keys().filter(|node| !new.nodes.contains_key(node)) {
        lines.push(format!("node {node}: forgotten"));
    }
    for (node, addresses) in &new.nodes {
        let here = format!("clients at {}, peers at {}", addresses.resp, addresses.peer);
        match old.nodes.get(node) {
            None => lines.push(format!("node {node}: new, {here}")),
            Some(before) if before != addresses => lines.push(format!("node {node}: {here}")),
            Some(_) => {}
        }
    }
    for group in old.groups.keys().filter(|group| !new.groups.contains_key(group)) {
        lines.push(format!("group {group}: removed"));
    }
    for (group, seats) in &new.groups {
        let voters: Vec<String> = seats.voters.iter().map(ToString::to_string).collect();
        let here = format!("weight {}, voters {}", seats.weight, voters.join(" "));
        match old.groups.get(group) {
            None => lines.push(format!("group {group}: new, {here}")),
            Some(before) if before != seats => lines.push(format!("group {group}: {here}")),
            Some(_) => {}
        }
    }
    let name = |group: Option<GroupId>| {
        group.map_or_else(|| "no group".to_owned(), |group| format!("group {group}"))
    };
    for Moved { first, last, from, to } in moved(old, new) {
        let slots = span((first, last));
        lines.push(format!("slots {slots}: {} -> {}", name(from), name(to)));
    }
    Reply::Array(lines.into_iter().map(Reply::text).collect())
}

fn metric(size: &SlotSize, of: SlotMetric) -> u64 {
    match of {
        SlotMetric::KeyCount => size.keys,
        SlotMetric::MemoryBytes => size.bytes,
        SlotMetric::RecentWrites => size.writes,
    }
}

/// CLUSTER SLOT-STATS
pub(super) fn slot_stats(sizes: &BTreeMap<Slot, SlotSize>, order: Option<SlotOrder>) -> Reply {
    let mut slots: Vec<(&Slot, &SlotSize)> = sizes.iter().collect();
    if let Some(order) = order {
        // Of as much, the lower slot comes first either way.
        slots.sort_by_key(|(_, size)| {
            let much = metric(size, order.by);
            if order.ascending { much } else { u64::MAX - much }
        });
        slots.truncate(usize::from(order.limit));
    }
    let row = |(slot, size): &(&Slot, &SlotSize)| {
        let told = |of: SlotMetric| (Reply::word(of.name()), number(metric(size, of)));
        let stats = Reply::Map(SlotMetric::ALL.map(told).to_vec());
        Reply::Array(vec![Reply::Integer(i64::from(slot.0)), stats])
    };
    Reply::Array(slots.iter().map(row).collect())
}

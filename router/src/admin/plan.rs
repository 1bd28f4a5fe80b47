//! The steps of a wish, by what the newest view says of names, leaders and seats.

use super::{Finish, progress};
use crate::backend::{Target, Work};
use crate::commands::admin::{
    Admin, Destination, GroupWish, Measure, NodeWish, SetSlot, SlotSpan, Task, Wish, named_twice,
};
use crate::commands::{ErrorText, quote};
use crate::node_name::node_name;
use shard_core::cluster_config::{ClusterConfig, ConfigNum, NodeConfig, SHARDMASTER, SlotRange};
use shard_core::cluster_map::ClusterMap;
use shard_core::shardmaster::{
    Cancel, MasterError, MasterOp, MasterQuery, MasterRequest, RequestId,
};
use shard_core::slot::{SLOTS, Slot};
use shard_core::wire::{ClusterView, GroupQuery};
use shard_core::{GroupId, NodeId};

/// How much of a node's name an error quotes.
const QUOTED_BYTES_MAX: usize = 128;
/// How long SETSLOT NODE waits for a slot unless it says so itself: redis-cli's own patience.
const HAND_OVER_MS: u32 = 60_000;

pub(super) const ALL_SLOTS: SlotSpan = (Slot(0), Slot(SLOTS - 1));
/// Digits of a node's name.
const NAME_BYTES: usize = 40;
/// Configurations, back from the newest, in which a node that is unknown now is looked for.
const FORGOTTEN_CONFIGS_MAX: u64 = 8;
const NO_RESET: &str = "ERR RESET would forget data that this node answers for: give its seats to \
                        other nodes with CLUSTER REPLACE, then CLUSTER FORGET it";

type Steps = Vec<(Target, Work)>;

/// What is to be done one after another, and what is answered then.
pub(super) fn steps(
    wish: Wish,
    view: &ClusterView,
    node: Option<NodeId>,
) -> Result<(Steps, Finish), ErrorText> {
    let config = &view.map.config;
    let one = |op: MasterOp, finish| (vec![op], finish);
    let (ops, finish) = match wish.admin {
        Admin::MigrateSlots(orders) => (migrate(orders, view)?, Finish::Ok),
        Admin::Rebalance { by, moves_max, dry_run } => {
            return Ok(rebalance(wish.id, by, moves_max, dry_run, config));
        }
        Admin::RebalanceStatus => return Ok(progress::steps(view)),
        Admin::SetPaused(true) => one(MasterOp::Pause, Finish::Ok),
        Admin::SetPaused(false) => one(MasterOp::Resume, Finish::Ok),
        Admin::SlotMigrations => {
            return Ok((vec![ask(MasterQuery::EndedMoves)], Finish::SlotMigrations));
        }
        Admin::CancelAll => one(MasterOp::Cancel(Cancel::All), Finish::Ok),
        Admin::Import(ranges) => (import(ranges, view, node)?, Finish::Task),
        Admin::MigrationStatus(task) => return Ok(status(task)),
        Admin::MigrationCancel(None) => one(MasterOp::Cancel(Cancel::All), Finish::Count),
        Admin::MigrationCancel(Some(task)) => (cancel(task, view), Finish::Count),
        Admin::Config(num) => return Ok(config_of(num)),
        Admin::ConfigDiff(old, new) => {
            let ask = |num| ask(MasterQuery::Config(ConfigNum(num)));
            return Ok((vec![ask(old), ask(new)], Finish::Diff(old, new)));
        }
        Admin::AddSlots(ranges) => {
            let me = here(node, "CLUSTER ADDSLOTS")?;
            // What Redis says of a busy slot does not depend on who leads at the moment.
            judge_slots(&ranges, view, true)?;
            let to = led_group(me, view)?;
            (vec![MasterOp::AssignSlots { ranges, to }], Finish::Ok)
        }
        Admin::DelSlots(ranges) => {
            judge_slots(&ranges, view, false)?;
            (vec![MasterOp::UnassignSlots { ranges }], Finish::Ok)
        }
        Admin::FlushSlots => (flush(config), Finish::Ok),
        Admin::Reset => {
            let me = here(node, "CLUSTER RESET")?;
            let is_nothing_here = config.groups.is_empty() || !config.nodes.contains_key(&me);
            match is_nothing_here {
                true => (Vec::new(), Finish::Ok),
                false => return Err(NO_RESET.into()),
            }
        }
        Admin::Forget(name) => return forget(&name, view),
        Admin::SetSlot { slot, how, timeout_ms } => {
            return set_slot(slot, &how, timeout_ms.unwrap_or(HAND_OVER_MS), view);
        }
        Admin::Group(wish) => group_ops(wish, view)?,
        Admin::Node(wish) => (node_ops(wish, view, node)?, Finish::Ok),
        Admin::Meet { host, port } => {
            let meet = (Target::Group(SHARDMASTER), Work::Meet { host, port });
            return Ok((vec![meet], Finish::Ok));
        }
        Admin::SlotStats { slots: (first, last), order } => {
            let ask = |group| sizes(group, (first, last), Work::Query);
            return Ok((config.shard_groups().map(ask).collect(), Finish::SlotStats(order)));
        }
    };
    Ok((requests(wish.id, ops), finish))
}

fn rebalance(
    id: Option<RequestId>,
    by: Measure,
    moves_max: Option<u32>,
    dry_run: bool,
    config: &ClusterConfig,
) -> (Steps, Finish) {
    let op = MasterOp::Rebalance { moves_max };
    match (by, dry_run) {
        (Measure::Slots, false) => (requests(id, vec![op]), Finish::Count),
        (Measure::Slots, true) => (vec![ask(MasterQuery::Plan(op))], Finish::Plan),
        (Measure::Keys | Measure::Bytes | Measure::Load, _) => {
            let ask = |group| sizes(group, ALL_SLOTS, Work::Query);
            let asks = config.shard_groups().map(ask).collect();
            (asks, Finish::Balance { by, moves_max, dry_run })
        }
    }
}

/// Of groups.
fn group_ops(admin: GroupWish, view: &ClusterView) -> Result<(Vec<MasterOp>, Finish), ErrorText> {
    let op = match admin {
        GroupWish::Create { group, nodes, weight, rebalance } => {
            let voters = nodes.iter().map(|name| node(name, view)).collect::<Result<_, _>>()?;
            let op = MasterOp::CreateGroup { group, voters, weight, rebalance };
            return Ok((vec![op], Finish::Created));
        }
        GroupWish::Drain(group) => MasterOp::DrainGroup { group },
        GroupWish::Remove(group) => MasterOp::RemoveGroup { group },
        GroupWish::SetWeight { group, weight } => MasterOp::SetWeight { group, weight },
    };
    Ok((vec![op], Finish::ConfigNum))
}

/// Of nodes and their seats; `me` is the node that was asked.
fn node_ops(
    admin: NodeWish,
    view: &ClusterView,
    me: Option<NodeId>,
) -> Result<Vec<MasterOp>, ErrorText> {
    let config = &view.map.config;
    let by_name = |name: &[u8]| self::node(name, view);
    Ok(match admin {
        NodeWish::SetEvacuated { node, evacuated } => {
            vec![MasterOp::SetEvacuated { node: by_name(&node)?, evacuated }]
        }
        NodeWish::Replace { old, new, group } => {
            let (old, new) = (by_name(&old)?, by_name(&new)?);
            vec![MasterOp::ReplaceNode { old, new, group }]
        }
        NodeWish::SetVoter { node, group, add } => set_voter(by_name(&node)?, group, add, config)?,
        NodeWish::Replicate(master) => {
            let (me, master) = (here(me, "CLUSTER REPLICATE")?, by_name(&master)?);
            if me == master {
                return Err("ERR Can't replicate myself".into());
            }
            set_voter(me, Some(led_group(master, view)?), true, config)?
        }
        NodeWish::Meet { node, resp, peer } => {
            let addresses = NodeConfig { peer, resp };
            vec![MasterOp::AddNode { node: NodeId(node), addresses }]
        }
    })
}

fn config_of(num: Option<u64>) -> (Steps, Finish) {
    let asked = MasterQuery::Config(ConfigNum(num.unwrap_or(u64::MAX)));
    (vec![ask(asked)], Finish::Config(num))
}

/// How large those of these slots are that a group has.
pub(super) fn sizes(
    group: GroupId,
    (first, last): SlotSpan,
    how: fn(GroupQuery) -> Work,
) -> (Target, Work) {
    (Target::Group(group), how(GroupQuery::SlotSizes { first, last }))
}

fn ask(query: MasterQuery) -> (Target, Work) {
    (Target::Group(SHARDMASTER), Work::Query(GroupQuery::Master(query)))
}

/// Each op has an id of its own, so that all of them can be sent again.
pub(super) fn requests(id: Option<RequestId>, ops: Vec<MasterOp>) -> Steps {
    let id = |at: usize| id.map(|id| RequestId(id.0.wrapping_add(at as u128)));
    let ops = ops.into_iter().enumerate();
    let request = |(at, op)| MasterRequest { id: id(at), op };
    ops.map(|op| (Target::Group(SHARDMASTER), Work::Master(request(op)))).collect()
}

fn migrate(
    orders: Vec<(Vec<SlotSpan>, Destination)>,
    view: &ClusterView,
) -> Result<Vec<MasterOp>, ErrorText> {
    let orders = orders.into_iter().map(|(ranges, to)| {
        let to = match to {
            Destination::Group(group) => group,
            Destination::Node(name) => led_group(node(&name, view)?, view)?,
        };
        Ok(MasterOp::MoveSlots { ranges, to })
    });
    orders.collect()
}

fn import(
    ranges: Vec<SlotSpan>,
    view: &ClusterView,
    node: Option<NodeId>,
) -> Result<Vec<MasterOp>, ErrorText> {
    let to = led_group(here(node, "CLUSTER MIGRATION IMPORT")?, view)?;
    let is_here = |slot: Slot| view.map.config.group_of(slot) == Some(to);
    let mut slots = ranges.iter().flat_map(|(first, last)| (first.0..=last.0).map(Slot));
    match slots.all(is_here) {
        // As Redis says it.
        true => Err("ERR this node is already the owner of the slot range".into()),
        false => Ok(vec![MasterOp::MoveSlots { ranges, to }]),
    }
}

fn status(task: Option<Task>) -> (Steps, Finish) {
    let mut steps = vec![ask(MasterQuery::EndedMoves)];
    if let Some(Task::Wish(num)) = task
        && let Some(before) = num.checked_sub(1)
    {
        steps.extend([before, num].map(|num| ask(MasterQuery::Config(ConfigNum(num)))));
    }
    (steps, Finish::MigrationStatus(task))
}

/// What is not under way any more counts as nothing, as in Redis.
fn cancel(task: Task, view: &ClusterView) -> Vec<MasterOp> {
    let Task::Moves { slots: (first, last), ids } = task else { return Vec::new() };
    let is_wanted = |slot: Slot| {
        let record = view.map.move_of(slot);
        let owner = view.map.owners.of(slot).map(|(group, _)| group);
        match record {
            Some(record) => ids == (0, 0) || (ids.0..=ids.1).contains(&record.order.id.0),
            None => ids == (0, 0) && view.map.config.group_of(slot) != owner,
        }
    };
    let slots: Vec<SlotSpan> = (first.0..=last.0)
        .map(Slot)
        .filter(|slot| is_wanted(*slot))
        .map(|slot| (slot, slot))
        .collect();
    match slots.is_empty() {
        true => Vec::new(),
        false => vec![MasterOp::Cancel(Cancel::Slots(slots))],
    }
}

fn flush(config: &ClusterConfig) -> Vec<MasterOp> {
    let ranges: Vec<SlotSpan> =
        config.slots.iter().map(|range| (range.first, range.last)).collect();
    match ranges.is_empty() {
        true => Vec::new(),
        false => vec![MasterOp::UnassignSlots { ranges }],
    }
}

fn set_slot(
    slot: Slot,
    how: &SetSlot,
    timeout_ms: u32,
    view: &ClusterView,
) -> Result<(Steps, Finish), ErrorText> {
    let owner = view.map.owners.of(slot).map(|(group, _)| group);
    let target = view.map.config.group_of(slot);
    let stranger = |name: &[u8]| {
        let name = quote(name, QUOTED_BYTES_MAX);
        ErrorText::from(format!("ERR I don't know about node {name}"))
    };
    let mut ops = Vec::new();
    let mut await_owner = None;
    let to_node = |node| -> Result<GroupId, ErrorText> {
        // Where it is already, or is on its way to, comes before where it would be put now.
        let known = [owner, target].into_iter().flatten().find(|group| leads(node, *group, view));
        known.map_or_else(|| led_group(node, view), Ok)
    };
    match how {
        SetSlot::Migrating(name) => {
            let to = to_node(node(name, view).map_err(|_| stranger(name))?)?;
            if target != Some(to) {
                ops.push(MasterOp::MoveSlots { ranges: vec![(slot, slot)], to });
            }
        }
        SetSlot::Importing(name) => {
            node(name, view).map_err(|_| stranger(name))?;
        }
        SetSlot::Stable => {
            if let Some(owner) = owner.filter(|owner| Some(*owner) != target) {
                ops.push(MasterOp::Cancel(Cancel::Slots(vec![(slot, slot)])));
                ops.push(MasterOp::MoveSlots { ranges: vec![(slot, slot)], to: owner });
            }
        }
        SetSlot::Node(name) => {
            let to = to_node(node(name, view)?)?;
            if target != Some(to) {
                ops.push(MasterOp::MoveSlots { ranges: vec![(slot, slot)], to });
            }
            if owner != Some(to) {
                await_owner =
                    Some((Target::Slot(slot), Work::AwaitOwner { group: to, timeout_ms }));
            }
        }
    }
    let mut steps = requests(None, ops);
    steps.extend(await_owner);
    Ok((steps, Finish::Ok))
}

fn set_voter(
    node: NodeId,
    group: Option<GroupId>,
    add: bool,
    config: &ClusterConfig,
) -> Result<Vec<MasterOp>, ErrorText> {
    let groups: Vec<GroupId> = match (group, add) {
        (Some(group), _) => vec![group],
        (None, false) => {
            let seats = config.groups.iter().filter(|(_, seats)| seats.voters.contains(&node));
            seats.map(|(group, _)| *group).collect()
        }
        (None, true) => match config.shard_groups().collect::<Vec<_>>().as_slice() {
            [group] => vec![*group],
            _ => return Err("ERR there are several groups, name one with GROUP g".into()),
        },
    };
    // Who is to be one and is one already stays; so does who is none.
    let (add, remove) = if add { (vec![node], Vec::new()) } else { (Vec::new(), vec![node]) };
    let op = |group| {
        let (add, remove) = (add.clone(), remove.clone());
        MasterOp::ChangeMembers { group, add, remove }
    };
    Ok(groups.into_iter().map(op).collect())
}

/// The node of a name of 40 digits, or of a number as in the cluster's file.
pub(super) fn node(name: &[u8], view: &ClusterView) -> Result<NodeId, ErrorText> {
    let config = &view.map.config;
    let number = shard_core::integer::parse_integer(name).and_then(|n| u64::try_from(n).ok());
    let mut nodes = config.nodes.keys().copied();
    let found = match number {
        Some(number) if name.len() < NAME_BYTES => nodes.find(|node| node.0 == number),
        _ => nodes.find(|node| node_name(&config.cluster_id, *node).as_bytes() == name),
    };
    found.ok_or_else(|| {
        let name = quote(name, QUOTED_BYTES_MAX);
        ErrorText::from(format!("ERR Unknown node {name}"))
    })
}

fn leads(node: NodeId, group: GroupId, view: &ClusterView) -> bool {
    view.leaders.get(&group).is_some_and(|known| known.leader == Some(node))
}

/// The group with the fewest slots of those that a node leads, the lower one of two; a drained one, which
/// gets none, only if there is no other.
fn led_group(node: NodeId, view: &ClusterView) -> Result<GroupId, ErrorText> {
    let config = &view.map.config;
    let groups = config.shard_groups().filter(|group| leads(node, *group, view));
    let slots = |group: GroupId| -> u32 { config.ranges_of(group).map(SlotRange::count).sum() };
    let is_drained = |group| config.groups.get(&group).is_some_and(|seats| seats.weight == 0);
    groups.min_by_key(|group| (is_drained(*group), slots(*group), *group)).ok_or_else(|| {
        let name = node_name(&config.cluster_id, node);
        format!("ERR node {name} leads no group, name one with GROUP g").into()
    })
}

/// Redis' refusal of slots to add that have a group or are to have one, of slots to take back that have none, and of
/// those that are named twice: of the first of them.
fn judge_slots(ranges: &[SlotSpan], view: &ClusterView, add: bool) -> Result<(), ErrorText> {
    let ClusterMap { config, owners, .. } = &view.map;
    let table = config.slot_table();
    let mut named = vec![false; table.len()];
    for slot in ranges.iter().flat_map(|(first, last)| first.0..=last.0).map(Slot) {
        let at = usize::from(slot.0);
        let busy = table[at].is_some() || owners.of(slot).is_some();
        let refusal = match (add, busy) {
            (true, true) => Some(MasterError::SlotBusy(slot)),
            (false, false) => Some(MasterError::SlotUnassigned(slot)),
            (true, false) | (false, true) => None,
        };
        if let Some(refusal) = refusal {
            return Err(format!("ERR {refusal}").into());
        }
        if std::mem::replace(&mut named[at], true) {
            return Err(named_twice(slot));
        }
    }
    Ok(())
}

/// Redis' tools say it to every node in turn: one that hears it late may not know the node any more. A name that no
/// configuration had lately is a mistake.
fn forget(name: &[u8], view: &ClusterView) -> Result<(Steps, Finish), ErrorText> {
    let known = node(name, view);
    match known {
        Ok(node) => {
            Ok((requests(None, vec![MasterOp::ForgetNode { node }]), Finish::Forgotten(None)))
        }
        Err(unknown) if name.len() == NAME_BYTES => {
            let newest = view.map.config.num.0;
            let nums = newest.saturating_sub(FORGOTTEN_CONFIGS_MAX)..=newest;
            let asks = nums.map(|num| ask(MasterQuery::Config(ConfigNum(num)))).collect();
            let name = String::from_utf8_lossy(name).into_owned();
            Ok((asks, Finish::Forgotten(Some((name, unknown)))))
        }
        Err(unknown) => Err(unknown),
    }
}

fn here(node: Option<NodeId>, command: &str) -> Result<NodeId, ErrorText> {
    node.ok_or_else(|| format!("ERR This is a router: send {command} to the node it is for").into())
}

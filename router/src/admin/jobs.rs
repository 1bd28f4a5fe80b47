//! Moves in the words of Valkey 9 and Redis 8.4.
//!
//! A move is of one slot; those tools know jobs of many. Moves that follow one another in their slots,
//! from one group to another and as far as one another, are one job here.

use super::show::{Moved, span};
use crate::commands::admin::{SlotSpan, Task};
use crate::node_name::node_name;
use crate::reply::Reply;
use shard_core::cluster_map::MoveRecord;
use shard_core::moves::{MoveOutcome, RefuseReason};
use shard_core::session::LogTime;
use shard_core::shardmaster::MasterReport;
use shard_core::slot::{SLOTS, Slot};
use shard_core::wire::ClusterView;
use shard_core::{GroupId, NodeId};
use std::collections::BTreeMap;

/// Some moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    task: Task,
    spans: Vec<SlotSpan>,
    from: Option<GroupId>,
    to: GroupId,
    state: State,
    /// When the first was ordered; 0: none was yet.
    begun: LogTime,
    /// When the last one ended; 0: it has not.
    ended: LogTime,
    retries: u32,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// Its turn has not come.
    Queued,
    /// It comes again later.
    Refused(Why),
    Running,
    Cancelling,
    Done,
    Failed(Why),
    /// Something else is wanted of its slots meanwhile.
    Superseded,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    Cancelled,
    NoProgress,
    OutOfMemory,
    OutOfSpace,
}

impl Why {
    fn of(reason: RefuseReason) -> Why {
        match reason {
            RefuseReason::Cancelled => Why::Cancelled,
            RefuseReason::NoProgress => Why::NoProgress,
            RefuseReason::OutOfMemory => Why::OutOfMemory,
            RefuseReason::OutOfSpace => Why::OutOfSpace,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Why::Cancelled => "cancelled by an administrator",
            Why::NoProgress => "no step forward for too long after the slot was frozen",
            Why::OutOfMemory => "no memory left at the destination",
            Why::OutOfSpace => "no disk space left at the destination",
        }
    }
}

impl State {
    fn is_over(self) -> bool {
        matches!(self, State::Done | State::Failed(_) | State::Superseded)
    }

    fn message(self) -> &'static str {
        match self {
            State::Refused(why) | State::Failed(why) => why.text(),
            State::Superseded => "its slots are wanted elsewhere meanwhile",
            State::Queued | State::Running | State::Cancelling | State::Done => "",
        }
    }

    fn valkey(self) -> &'static str {
        match self {
            State::Queued => "queued",
            State::Refused(_) => "waiting-to-retry",
            State::Running => "streaming",
            State::Cancelling => "cancelling",
            State::Done => "success",
            State::Failed(Why::Cancelled) | State::Superseded => "cancelled",
            State::Failed(_) => "failed",
        }
    }

    fn redis(self) -> &'static str {
        match self {
            State::Queued => "none",
            State::Refused(_) => "failed",
            State::Running | State::Cancelling => "streaming-buffer",
            State::Done => "completed",
            State::Failed(Why::Cancelled) | State::Superseded => "canceled",
            State::Failed(_) => "failed",
        }
    }
}

impl Job {
    /// Whether a name stands for it, be it as it was when it was told: jobs grow and shrink.
    pub(super) fn is_of(&self, task: Task) -> bool {
        match (self.task, task) {
            (Task::Moves { ids: (a, b), slots }, Task::Moves { ids: (c, d), slots: asked }) => {
                let ids = (c, d) == (0, 0) || a == 0 || (a <= d && c <= b);
                ids && slots.0 <= asked.1 && asked.0 <= slots.1
            }
            (Task::Wish(_) | Task::Unknown, _) | (_, Task::Wish(_) | Task::Unknown) => false,
        }
    }

    fn slots(&self) -> String {
        self.spans.iter().map(|slots| span(*slots)).collect::<Vec<_>>().join(" ")
    }
}

/// Every job, oldest first: what the map has under way, what has ended, and what is still to be begun.
pub(super) fn jobs(view: &ClusterView, reports: &[MasterReport]) -> Vec<Job> {
    // What has ended since the view came is in both: the end counts.
    let mut records: BTreeMap<u64, MoveRecord> =
        view.map.moves.iter().map(|(id, record)| (id.0, *record)).collect();
    for report in reports {
        if let MasterReport::EndedMoves(ended) = report {
            records.extend(ended.iter().map(|ended| (ended.record.order.id.0, ended.record)));
        }
    }
    let mut jobs: Vec<Job> = Vec::new();
    let mut open: BTreeMap<(Option<GroupId>, GroupId, State), usize> = BTreeMap::new();
    for record in records.values() {
        let (order, state) = (record.order, state_of(record));
        let ended = record.ended.map_or(LogTime(0), |(_, at)| at);
        let at = open.get(&(order.from, order.to, state)).copied();
        let extended = at.and_then(|at| jobs.get_mut(at)?.extended(order.slot, order.id.0));
        match extended {
            Some(job) => job.ended = job.ended.max(ended),
            None => {
                open.insert((order.from, order.to, state), jobs.len());
                let slots = (order.slot, order.slot);
                jobs.push(Job {
                    task: Task::Moves { ids: (order.id.0, order.id.0), slots },
                    spans: vec![slots],
                    from: order.from,
                    to: order.to,
                    state,
                    begun: record.ordered,
                    ended,
                    retries: 0,
                });
            }
        }
    }
    jobs.extend(queued(view));
    jobs
}

impl Job {
    /// Takes a slot in, if it is the next.
    fn extended(&mut self, slot: Slot, id: u64) -> Option<&mut Job> {
        let Task::Moves { ids, slots } = &mut self.task else { return None };
        if slots.1.0.checked_add(1) != Some(slot.0) {
            return None;
        }
        (ids.1, slots.1) = (id, slot);
        self.spans = vec![*slots];
        Some(self)
    }
}

fn state_of(record: &MoveRecord) -> State {
    match record.ended {
        None if record.cancel => State::Cancelling,
        None => State::Running,
        Some((MoveOutcome::Activated, _)) => State::Done,
        Some((MoveOutcome::Refused(reason), _)) => State::Failed(Why::of(reason)),
    }
}

/// Slots that are to be elsewhere and have no move.
fn queued(view: &ClusterView) -> Vec<Job> {
    let map = &view.map;
    let mut running = vec![false; usize::from(SLOTS)];
    for record in map.unfinished() {
        running[usize::from(record.order.slot.0)] = true;
    }
    let mut jobs: Vec<Job> = Vec::new();
    for (number, to) in (0..SLOTS).zip(map.config.slot_table()) {
        let slot = Slot(number);
        let from = map.owners.of(slot).map(|(group, _)| group);
        let Some(to) = to.filter(|to| Some(*to) != from && !running[usize::from(number)]) else {
            continue;
        };
        let (state, retries) = match map.waiting.get(&slot) {
            // Given up: nothing will come of it until somebody wants it again.
            Some(waiting) if waiting.until.is_none() => continue,
            Some(waiting) => (State::Refused(Why::of(waiting.reason)), waiting.refusals),
            None => (State::Queued, 0),
        };
        let last = jobs.last_mut().filter(|job| (job.from, job.to, job.state) == (from, to, state));
        match last.and_then(|job| job.extended(slot, 0)) {
            Some(job) => job.retries = job.retries.max(retries),
            None => jobs.push(Job {
                task: Task::Moves { ids: (0, 0), slots: (slot, slot) },
                spans: vec![(slot, slot)],
                from,
                to,
                state,
                begun: LogTime(0),
                ended: LogTime(0),
                retries,
            }),
        }
    }
    jobs
}

/// What became of a wish: one job of all its slots.
pub(super) fn of_wish(num: u64, moved: &[Moved], jobs: &[Job], view: &ClusterView) -> Option<Job> {
    let first = moved.first()?;
    let to = first.to?;
    let spans: Vec<SlotSpan> = moved.iter().map(|run| (run.first, run.last)).collect();
    let has = |slot: &Slot| spans.iter().any(|(first, last)| first <= slot && slot <= last);
    let slots = || spans.iter().flat_map(|(first, last)| (first.0..=last.0).map(Slot));
    let mut parts = jobs.iter().filter(|job| {
        job.to == to && job.spans.iter().any(|(first, last)| has(first) || has(last))
    });
    let owned = slots().all(|slot| view.map.owners.of(slot).map(|(group, _)| group) == Some(to));
    let wanted = slots().any(|slot| view.map.config.group_of(slot) == Some(to));
    let state = match parts.clone().find(|job| !job.state.is_over()) {
        _ if owned => State::Done,
        Some(job) => job.state,
        None if wanted => State::Failed(Why::Cancelled),
        None => State::Superseded,
    };
    let ended = parts.clone().map(|job| job.ended).max().unwrap_or_default();
    Some(Job {
        task: Task::Wish(num),
        from: first.from,
        to,
        state,
        begun: parts.clone().map(|job| job.begun).filter(|at| at.0 > 0).min().unwrap_or_default(),
        ended: if state.is_over() { ended } else { LogTime(0) },
        retries: parts.by_ref().map(|job| job.retries).max().unwrap_or(0),
        spans,
    })
}

/// The node that leads a group, by its name; empty while none is known.
fn leader(group: Option<GroupId>, view: &ClusterView) -> String {
    let known = group.and_then(|group| view.leaders.get(&group)?.leader);
    known.map_or_else(String::new, |node| node_name(&view.map.config.cluster_id, node))
}

/// Whether the node that was asked gives the slots away rather than getting them.
fn exports(job: &Job, view: &ClusterView, node: Option<NodeId>) -> bool {
    let led = |group: Option<GroupId>| group.and_then(|group| view.leaders.get(&group)?.leader);
    node.is_some() && led(job.from) == node && led(Some(job.to)) != node
}

fn seconds(at: LogTime) -> Reply {
    Reply::Integer(i64::try_from(at.0 / 1000).unwrap_or(i64::MAX))
}

fn millis(at: LogTime) -> Reply {
    Reply::Integer(i64::try_from(at.0).unwrap_or(i64::MAX))
}

/// CLUSTER GETSLOTMIGRATIONS of Valkey 9. What is not counted here is 0.
pub(super) fn valkey(jobs: &[Job], view: &ClusterView, node: Option<NodeId>) -> Reply {
    let text = Reply::word;
    let row = |job: &Job| {
        let operation = if exports(job, view, node) { "EXPORT" } else { "IMPORT" };
        let updated = job.begun.max(job.ended);
        Reply::Map(vec![
            (text("name"), Reply::text(job.task.name())),
            (text("operation"), text(operation)),
            (text("slot_ranges"), Reply::text(job.slots())),
            (text("target_node"), Reply::text(leader(Some(job.to), view))),
            (text("source_node"), Reply::text(leader(job.from, view))),
            (text("create_time"), seconds(job.begun)),
            (text("last_update_time"), seconds(updated)),
            (text("last_ack_time"), seconds(updated)),
            (text("state"), text(job.state.valkey())),
            (text("message"), text(job.state.message())),
            (text("cow_size"), Reply::Integer(0)),
            (text("remaining_repl_size"), Reply::Integer(0)),
        ])
    };
    Reply::Array(jobs.iter().map(row).collect())
}

/// CLUSTER MIGRATION STATUS of Redis 8.4.
pub(super) fn redis(jobs: &[Job], view: &ClusterView, node: Option<NodeId>) -> Reply {
    let text = Reply::word;
    let row = |job: &Job| {
        let operation = if exports(job, view, node) { "migrate" } else { "import" };
        Reply::Map(vec![
            (text("id"), Reply::text(job.task.name())),
            (text("slots"), Reply::text(job.slots())),
            (text("source"), Reply::text(leader(job.from, view))),
            (text("dest"), Reply::text(leader(Some(job.to), view))),
            (text("operation"), text(operation)),
            (text("state"), text(job.state.redis())),
            (text("last_error"), text(job.state.message())),
            (text("retries"), Reply::Integer(i64::from(job.retries))),
            (text("create_time"), millis(job.begun)),
            (text("start_time"), millis(job.begun)),
            (text("end_time"), millis(job.ended)),
            (text("write_pause_ms"), Reply::Integer(0)),
        ])
    };
    Reply::Array(jobs.iter().map(row).collect())
}

//! Commands that change the cluster: an administrator's wish from its start to its reply. Pure, as
//! [`crate::barrier`] is, whose part it is.
//!
//! A wish becomes ops of the shardmaster, which are sent one after another: what is refused stops the rest,
//! and the reply says what was carried out before.

use crate::backend::{Answered, Refusal, Target, Work};
use crate::barrier::Asks;
use crate::commands::admin::{Admin, Destination, Wish};
use crate::commands::{ErrorText, quote};
use crate::node_name::node_name;
use crate::reply::{Reply, UNFIT_ANSWER, refusal_text};
use shard_core::cluster_config::SHARDMASTER;
use shard_core::shardmaster::{MasterDone, MasterOp, MasterRequest, RequestId};
use shard_core::wire::ClusterView;
use shard_core::{GroupId, NodeId};
use std::collections::VecDeque;

/// How much of a node's name an error quotes.
const QUOTED_BYTES_MAX: usize = 128;

/// A wish under way.
#[derive(Debug)]
pub struct AdminRun {
    left: VecDeque<MasterRequest>,
    /// How many ops it has in all.
    ops: usize,
    last: MasterDone,
    count: u32,
    finish: Finish,
    error: Option<ErrorText>,
}

/// What the reply is made of when all was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finish {
    Ok,
    /// Slots that are to be elsewhere.
    Count,
}

impl AdminRun {
    /// Begins: what is to be submitted first.
    ///
    /// # Errors
    /// The reply, if the wish makes no sense in this cluster; nothing was submitted.
    pub fn start(wish: Wish, view: &ClusterView) -> Result<(AdminRun, Asks), ErrorText> {
        let (ops, finish) = match wish.admin {
            Admin::MigrateSlots(orders) => (migrate(orders, view)?, Finish::Ok),
            Admin::Rebalance { moves_max } => {
                (vec![MasterOp::Rebalance { moves_max }], Finish::Count)
            }
            Admin::SetPaused(true) => (vec![MasterOp::Pause], Finish::Ok),
            Admin::SetPaused(false) => (vec![MasterOp::Resume], Finish::Ok),
        };
        let mut run = AdminRun {
            ops: ops.len(),
            left: requests(wish.id, ops),
            last: MasterDone::default(),
            count: 0,
            finish,
            error: None,
        };
        let asks = run.next();
        Ok((run, asks))
    }

    fn next(&mut self) -> Asks {
        let request = self.left.pop_front().into_iter();
        request.map(|request| (Target::Group(SHARDMASTER), Work::Master(request))).collect()
    }

    /// Takes one answer; returns what is to be submitted next.
    pub fn answer(&mut self, answer: Answered) -> Asks {
        match answer {
            Answered::Master(answer) => match *answer {
                Ok(done) => {
                    self.last = done;
                    self.count = self.count.saturating_add(done.count);
                    return self.next();
                }
                Err(error) => self.fail(format!("ERR {error}")),
            },
            // It may have been carried out: no code that says "not executed".
            Answered::Refused(Refusal::ClusterDown) => self.fail(UNKNOWN.into()),
            Answered::Refused(refusal) => self.fail(refusal_text(&refusal).into_owned()),
            Answered::Outcome(_) | Answered::Group(_) => self.fail(UNFIT_ANSWER.into()),
        }
        Asks::new()
    }

    fn fail(&mut self, text: String) {
        let done = self.ops - self.left.len() - 1;
        self.left.clear();
        self.error = Some(match done {
            0 => text.into(),
            _ => {
                format!("{text} (the first {done} of {} orders were carried out)", self.ops).into()
            }
        });
    }

    /// The reply, once everything is answered.
    pub fn reply(&self) -> Reply {
        match (&self.error, self.finish) {
            (Some(error), _) => Reply::Error(error.clone()),
            (None, Finish::Ok) => Reply::OK,
            (None, Finish::Count) => Reply::Integer(i64::from(self.count)),
        }
    }
}

const UNKNOWN: &str = "TIMEOUT the shardmaster did not tell the outcome in time, the command may or \
                       may not be carried out; with a REQUESTID it can be sent again safely";

/// Each op has an id of its own, so that all of them can be sent again.
fn requests(id: Option<RequestId>, ops: Vec<MasterOp>) -> VecDeque<MasterRequest> {
    let id = |at: usize| id.map(|id| RequestId(id.0.wrapping_add(at as u128)));
    let ops = ops.into_iter().enumerate();
    ops.map(|(at, op)| MasterRequest { id: id(at), op }).collect()
}

fn migrate(
    orders: Vec<(Vec<crate::commands::admin::SlotSpan>, Destination)>,
    view: &ClusterView,
) -> Result<Vec<MasterOp>, ErrorText> {
    let orders = orders.into_iter().map(|(ranges, to)| {
        let to = destination(&to, view)?;
        Ok(MasterOp::MoveSlots { ranges, to })
    });
    orders.collect()
}

fn destination(to: &Destination, view: &ClusterView) -> Result<GroupId, ErrorText> {
    match to {
        Destination::Group(group) => Ok(*group),
        Destination::Node(name) => led_group(node(name, view)?, view),
    }
}

/// The node of a name of 40 digits, or of a number as in the cluster's file.
pub fn node(name: &[u8], view: &ClusterView) -> Result<NodeId, ErrorText> {
    let config = &view.map.config;
    let number = shard_core::integer::parse_integer(name).and_then(|n| u64::try_from(n).ok());
    let mut nodes = config.nodes.keys().copied();
    let found = match number {
        Some(number) if name.len() < 40 => nodes.find(|node| node.0 == number),
        _ => nodes.find(|node| node_name(&config.cluster_id, *node).as_bytes() == name),
    };
    found.ok_or_else(|| {
        let name = quote(name, QUOTED_BYTES_MAX);
        ErrorText::from(format!("ERR Unknown node {name}"))
    })
}

/// The group with the fewest slots of those that a node leads, the lower one of two.
pub fn led_group(node: NodeId, view: &ClusterView) -> Result<GroupId, ErrorText> {
    let leads =
        |group: &GroupId| view.leaders.get(group).is_some_and(|known| known.leader == Some(node));
    let groups = view.map.config.shard_groups().filter(leads);
    let slots = |group: GroupId| -> u32 {
        view.map.config.ranges_of(group).map(|range| range.count()).sum()
    };
    groups.min_by_key(|group| (slots(*group), *group)).ok_or_else(|| {
        let name = node_name(&view.map.config.cluster_id, node);
        format!("ERR node {name} leads no group, name one with GROUP g").into()
    })
}

#[cfg(test)]
mod tests;

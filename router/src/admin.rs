//! Commands that change the cluster or ask the shardmaster: an administrator's wish from its start to its
//! reply. Pure, as [`crate::barrier`] is, whose part it is.
//!
//! A wish becomes steps, which are taken one after another: what is refused stops the rest, and the reply
//! says what was carried out before.

mod balance;
mod jobs;
mod plan;
mod progress;
mod show;
#[cfg(test)]
mod tests;

use crate::backend::{Answered, Met, Refusal, Target, Work};
use crate::barrier::Asks;
use crate::commands::ErrorText;
use crate::commands::admin::{Measure, SlotOrder, Task, Wish};
use crate::node_name::node_name;
use crate::reply::{Reply, UNFIT_ANSWER, op_error_text, refusal_text};
use shard_core::NodeId;
use shard_core::cluster_config::{ConfigNum, SHARDMASTER};
use shard_core::op::Outcome;
use shard_core::shardmaster::{MasterDone, MasterError, MasterOp, MasterReport, MasterRequest};
use shard_core::slot::Slot;
use shard_core::wire::{ClusterView, GroupAnswer, SlotSize};
use std::collections::{BTreeMap, VecDeque};

/// A wish under way.
#[derive(Debug)]
pub struct AdminRun {
    left: VecDeque<(Target, Work)>,
    /// How many steps it has in all.
    steps: usize,
    /// Whether the step that is out changes anything.
    writes: bool,
    /// What the cluster was when it began.
    view: ClusterView,
    node: Option<NodeId>,
    done: MasterDone,
    /// Slots that are to be elsewhere, or are not any more.
    count: u32,
    reports: Vec<MasterReport>,
    sizes: BTreeMap<Slot, SlotSize>,
    /// Those who were asked for what is shown beside other things, and did not answer.
    silent: u32,
    finish: Finish,
    error: Option<ErrorText>,
}

/// What the reply is made of when all was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Finish {
    Ok,
    /// Slots that are to be elsewhere.
    Count,
    /// The number of the configuration there is then.
    ConfigNum,
    /// The group that was made.
    Created,
    /// The name of the wish.
    Task,
    /// What would move.
    Plan,
    /// What moves so that groups have their shares of something, or would.
    Balance {
        by: Measure,
        moves_max: Option<u32>,
        dry_run: bool,
    },
    /// How far all moves are.
    Status,
    /// A configuration; its number was asked for.
    Config(Option<u64>),
    /// What differs between two; their numbers.
    Diff(u64, u64),
    /// Moves in the words of Valkey 9.
    SlotMigrations,
    /// Moves in the words of Redis 8.4.
    MigrationStatus(Option<Task>),
    SlotStats(Option<SlotOrder>),
    /// A node is known to nobody any more. One that was not known here, by its name, and what is said if it never
    /// was.
    Forgotten(Option<(String, ErrorText)>),
}

impl AdminRun {
    /// Begins: what is to be submitted first.
    ///
    /// # Errors
    /// The reply, if the wish makes no sense in this cluster; nothing was submitted.
    pub fn start(
        wish: Wish,
        view: &ClusterView,
        node: Option<NodeId>,
    ) -> Result<(AdminRun, Asks), ErrorText> {
        let (steps, finish) = plan::steps(wish, view, node)?;
        let mut run = AdminRun {
            steps: steps.len(),
            left: steps.into(),
            writes: false,
            view: view.clone(),
            node,
            done: MasterDone::default(),
            count: 0,
            reports: Vec::new(),
            sizes: BTreeMap::new(),
            silent: 0,
            finish,
            error: None,
        };
        let asks = run.next();
        Ok((run, asks))
    }

    fn next(&mut self) -> Asks {
        if self.left.is_empty()
            && let Finish::Balance { by, moves_max, dry_run: false } = self.finish
        {
            let transfers = balance::plan(&self.view.map.config, &self.sizes, by, moves_max);
            self.left.extend(plan::requests(None, balance::orders(&transfers)));
            self.steps += self.left.len();
            self.finish = Finish::Count;
        }
        let next = self.left.pop_front();
        self.writes = next.as_ref().is_some_and(|(_, work)| matches!(work, Work::Master(_)));
        next.into_iter().collect()
    }

    /// Takes one answer; returns what is to be submitted next.
    pub fn answer(&mut self, answer: Answered) -> Asks {
        match answer {
            Answered::Master(answer) => match *answer {
                Ok(done) => {
                    self.done = done;
                    self.count = self.count.saturating_add(done.count);
                    return self.next();
                }
                // Somebody else was faster.
                Err(MasterError::UnknownNode(_)) if self.finish == Finish::Forgotten(None) => {
                    return self.next();
                }
                Err(error) => self.fail(format!("ERR {error}")),
            },
            Answered::Group(GroupAnswer::Master(report)) => {
                self.reports.push(*report);
                return self.next();
            }
            Answered::Group(GroupAnswer::SlotSizes(slots)) => {
                self.sizes.extend(slots);
                return self.next();
            }
            Answered::Refused(_) if self.finish == Finish::Status => {
                self.silent += 1;
                return self.next();
            }
            Answered::Outcome(Outcome::Ok) => return self.next(),
            Answered::Outcome(Outcome::Error(error)) => {
                self.fail(op_error_text(error).into_owned());
            }
            // It may have been carried out: no code that says "not executed".
            Answered::Refused(Refusal::ClusterDown) if self.writes => self.fail(UNKNOWN.into()),
            Answered::Refused(Refusal::Moving { slot }) => self.fail(format!(
                "TIMEOUT slot {slot} is not handed over yet, CLUSTER GETSLOTMIGRATIONS shows how far \
                 it is"
            )),
            Answered::Met(met) => match *met {
                Ok(Met::Done) => return self.next(),
                Ok(Met::Other { node, addresses }) => {
                    let op = MasterOp::AddNode { node, addresses };
                    let request = MasterRequest { id: None, op };
                    self.left.push_front((Target::Group(SHARDMASTER), Work::Master(request)));
                    return self.next();
                }
                Err(text) => self.fail(text),
            },
            Answered::Refused(refusal) => self.fail(refusal_text(&refusal).into_owned()),
            Answered::Outcome(_) | Answered::Group(_) => self.fail(UNFIT_ANSWER.into()),
        }
        Asks::new()
    }

    fn fail(&mut self, text: String) {
        let done = self.steps.saturating_sub(self.left.len() + 1);
        self.left.clear();
        self.error = Some(match done {
            0 => text.into(),
            _ => {
                format!("{text} (the first {done} of {} steps were carried out)", self.steps).into()
            }
        });
    }

    /// The reply, once everything is answered.
    pub fn reply(&self) -> Reply {
        if let Some(error) = &self.error {
            return Reply::Error(error.clone());
        }
        let number = |number: u64| Reply::Integer(i64::try_from(number).unwrap_or(i64::MAX));
        match &self.finish {
            Finish::Ok => Reply::OK,
            Finish::Count => Reply::Integer(i64::from(self.count)),
            Finish::ConfigNum => number(self.done.config.0),
            Finish::Created => {
                let group = self.done.group.unwrap_or_default();
                Reply::Map(vec![
                    (Reply::word("group"), Reply::Integer(i64::from(group.0))),
                    (Reply::word("config"), number(self.done.config.0)),
                ])
            }
            Finish::Task => Reply::text(Task::Wish(self.done.config.0).name()),
            Finish::Plan => match self.reports.first() {
                Some(MasterReport::Plan(Ok(moves))) => show::plan(moves),
                Some(MasterReport::Plan(Err(error))) => Reply::error(format!("ERR {error}")),
                _ => Reply::error(UNFIT_ANSWER),
            },
            Finish::Balance { by, moves_max, .. } => {
                let config = &self.view.map.config;
                balance::show(&balance::plan(config, &self.sizes, *by, *moves_max), *by)
            }
            Finish::Status => {
                progress::show(&self.view.map, &self.sizes, self.silent > 0, &self.reports)
            }
            Finish::Config(num) => match self.reports.as_slice() {
                [MasterReport::Config(config)] => match num {
                    Some(num) if ConfigNum(*num) != config.num => show::no_config(*num),
                    _ => show::config(config),
                },
                _ => Reply::error(UNFIT_ANSWER),
            },
            Finish::Diff(old, new) => match self.reports.as_slice() {
                [MasterReport::Config(a), MasterReport::Config(b)] => {
                    match [(old, a), (new, b)].iter().find(|(num, c)| c.num.0 != **num) {
                        Some((num, _)) => show::no_config(**num),
                        None => show::diff(a, b),
                    }
                }
                _ => Reply::error(UNFIT_ANSWER),
            },
            Finish::SlotMigrations => {
                jobs::valkey(&jobs::jobs(&self.view, &self.reports), &self.view, self.node)
            }
            Finish::MigrationStatus(task) => self.migration_status(*task),
            Finish::Forgotten(None) => Reply::OK,
            Finish::Forgotten(Some((name, unknown))) => match self.knew(name) {
                true => Reply::OK,
                false => Reply::Error(unknown.clone()),
            },
            Finish::SlotStats(order) => show::slot_stats(&self.sizes, *order),
        }
    }

    /// Whether one of the configurations that were asked for has a node of this name.
    fn knew(&self, name: &str) -> bool {
        let configs = self.reports.iter().filter_map(|report| match report {
            MasterReport::Config(config) => Some(config),
            MasterReport::EndedMoves(_) | MasterReport::Plan(_) => None,
        });
        let mut nodes = configs.flat_map(|config| {
            config.nodes.keys().map(|node| node_name(&config.cluster_id, *node))
        });
        nodes.any(|known| known == name)
    }

    fn migration_status(&self, task: Option<Task>) -> Reply {
        let jobs = jobs::jobs(&self.view, &self.reports);
        match task {
            None => jobs::redis(&jobs, &self.view, self.node),
            Some(Task::Wish(num)) => match self.reports.as_slice() {
                [.., MasterReport::Config(a), MasterReport::Config(b)] if b.num.0 == num => {
                    let job = jobs::of_wish(num, &show::moved(a, b), &jobs, &self.view);
                    jobs::redis(job.as_slice(), &self.view, self.node)
                }
                _ => Reply::Array(Vec::new()),
            },
            Some(task) => {
                let jobs: Vec<_> = jobs.into_iter().filter(|job| job.is_of(task)).collect();
                jobs::redis(&jobs, &self.view, self.node)
            }
        }
    }
}

const UNKNOWN: &str = "TIMEOUT the shardmaster did not tell the outcome in time, the command may or \
                       may not be carried out; with a REQUESTID it can be sent again safely";

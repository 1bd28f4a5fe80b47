//! The state machine of group 0: the numbered configurations.

use crate::cluster_config::{ClusterConfig, ConfigNum, SHARDMASTER};
use crate::codec::{self, EntryBatch, EntryItem, bytes_of};
use crate::digest::Digest;
use crate::op::Outcome;
use crate::rows::{self, GroupRow, Row, RowError, RowFault, RowOrder, RowValue};
use crate::session::LogTime;
use crate::shard_store::{Collected, Dirty, RowBudget};
use crate::wire::Answer;
use bytes::Bytes;

/// Every configuration there ever was. Number 0, without groups and with every slot unassigned, is
/// there from the start (scenario K1).
#[derive(Debug)]
pub struct Shardmaster {
    log_time: LogTime,
    /// By number; never empty.
    configs: Vec<ClusterConfig>,
    /// No part of the state: how many configurations are in the checkpoints so far. None changes.
    saved: usize,
    frozen: Option<Frozen>,
}

/// A checkpoint of which rows are left to be handed out.
#[derive(Debug)]
struct Frozen {
    log_time: Option<LogTime>,
    /// The configurations from here on, up to there.
    next: usize,
    end: usize,
}

impl Default for Shardmaster {
    fn default() -> Shardmaster {
        Shardmaster::new()
    }
}

impl Shardmaster {
    /// One that knows configuration 0.
    pub fn new() -> Shardmaster {
        Shardmaster::of(LogTime(0), vec![ClusterConfig::default()], 0)
    }

    fn of(log_time: LogTime, configs: Vec<ClusterConfig>, saved: usize) -> Shardmaster {
        Shardmaster { log_time, configs, saved, frozen: None }
    }

    /// Applies a committed entry: one answer per item, in order.
    pub fn apply(&mut self, batch: EntryBatch) -> Vec<Answer> {
        self.log_time = self.log_time.max(batch.stamp);
        batch
            .items
            .into_iter()
            .map(|item| match item {
                EntryItem::Bootstrap(config) => self.bootstrap(config),
                EntryItem::Lane(_)
                | EntryItem::Group(_)
                | EntryItem::Assign { .. }
                | EntryItem::Move(_) => Answer::Invalid,
            })
            .collect()
    }

    /// The newest stamp applied.
    pub fn log_time(&self) -> LogTime {
        self.log_time
    }

    /// The configuration of that number, the same for ever; the newest for `None` and for numbers
    /// that are not given out yet (scenario K5).
    pub fn config(&self, num: Option<ConfigNum>) -> &ClusterConfig {
        let newest = self.configs.len() - 1;
        let num = num.and_then(|num| usize::try_from(num.0).ok()).unwrap_or(newest);
        &self.configs[num.min(newest)]
    }

    /// A number that replicas with the same configurations share. Reads all of them.
    pub fn digest(&self) -> u64 {
        let mut digest = Digest::new();
        digest.numbers(&[self.log_time.0]);
        for config in &self.configs {
            digest.bytes(&bytes_of(config));
        }
        digest.value()
    }

    /// How much has changed since the last freeze.
    pub fn dirty(&self) -> Dirty {
        Dirty { any: self.saved < self.configs.len(), ..Dirty::default() }
    }

    /// Begins a checkpoint of the state as it is now.
    ///
    /// # Panics
    /// If the one before was not collected.
    pub fn freeze(&mut self) {
        assert!(self.frozen.is_none(), "one checkpoint at a time");
        let end = self.configs.len();
        let next = std::mem::replace(&mut self.saved, end);
        self.frozen = Some(Frozen { log_time: Some(self.log_time), next, end });
    }

    /// The next rows of the checkpoint that was begun.
    pub fn collect(&mut self, budget: RowBudget) -> Collected {
        let mut rows = Vec::new();
        let Some(frozen) = &mut self.frozen else { return Collected { rows, done: true } };
        if let Some(log_time) = frozen.log_time.take() {
            rows.push(Row::Group.put(GroupRow { log_time, assigned: 0 }.value(SHARDMASTER)));
        }
        let mut bytes = 0;
        while frozen.next < frozen.end && rows.len() < budget.rows.max(1) && bytes < budget.bytes {
            let value = row_of(&self.configs[frozen.next]);
            bytes += value.1.len();
            rows.push(Row::Config(frozen.next as u64).put(value));
            frozen.next += 1;
        }
        let done = frozen.next == frozen.end;
        if done {
            self.frozen = None;
        }
        Collected { rows, done }
    }

    /// The first configuration gets number 1 whatever it says of itself; a second one changes
    /// nothing, since every leader proposes it until it has applied one (scenario K7).
    fn bootstrap(&mut self, config: ClusterConfig) -> Answer {
        if config.check().is_err() {
            return Answer::Invalid;
        }
        if self.configs.len() == 1 {
            self.configs.push(ClusterConfig { num: ConfigNum(1), ..config });
        }
        Answer::Done { outcome: Outcome::Ok, log_time: self.log_time }
    }
}

/// The row of a configuration.
fn row_of(config: &ClusterConfig) -> RowValue {
    (rows::versioned(), bytes_of(config).freeze())
}

/// Makes a shardmaster of its rows, which come in the order of their keys.
#[derive(Debug, Default)]
pub(crate) struct MasterLoader {
    order: RowOrder,
    /// Once the group's row was there.
    log_time: Option<LogTime>,
    configs: Vec<ClusterConfig>,
}

impl MasterLoader {
    pub(crate) fn row(&mut self, key: &[u8], mut value: Bytes) -> Result<(), RowFault> {
        let row = Row::of(key)?;
        self.order.follows(key)?;
        match row {
            Row::Group => {
                let GroupRow { log_time, assigned } = GroupRow::read(value, SHARDMASTER)?;
                if assigned != 0 {
                    return Err(RowFault::Value);
                }
                self.log_time = Some(log_time);
            }
            Row::Config(num) => {
                rows::unversioned(&mut value)?;
                let config: ClusterConfig = codec::whole(&value)?;
                let next = self.configs.len() as u64;
                if num != next || config.num != ConfigNum(num) {
                    return Err(RowFault::Contradiction);
                }
                // What was there before the first has nothing to check.
                let right = if num == 0 {
                    config == ClusterConfig::default()
                } else {
                    config.check().is_ok()
                };
                if !right {
                    return Err(RowFault::Value);
                }
                self.configs.push(config);
            }
            Row::Slot(_) | Row::Lane(..) | Row::Key(..) | Row::Export(..) => {
                return Err(RowFault::Group);
            }
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<Shardmaster, RowError> {
        let missing = |row: Row<'_>| RowError { row: row.key().to_vec(), fault: RowFault::Missing };
        let log_time = self.log_time.ok_or_else(|| missing(Row::Group))?;
        if self.configs.is_empty() {
            return Err(missing(Row::Config(0)));
        }
        let saved = self.configs.len();
        Ok(Shardmaster::of(log_time, self.configs, saved))
    }
}

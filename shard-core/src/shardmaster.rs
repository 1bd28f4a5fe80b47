//! The state machine of group 0: the numbered configurations.

use crate::cluster_config::{ClusterConfig, ConfigNum};
use crate::codec::{EntryBatch, EntryItem, bytes_of};
use crate::digest::Digest;
use crate::op::Outcome;
use crate::session::LogTime;
use crate::wire::Answer;

/// Every configuration there ever was. Number 0, without groups and with every slot unassigned, is
/// there from the start (scenario K1).
#[derive(Debug)]
pub struct Shardmaster {
    log_time: LogTime,
    /// By number; never empty.
    configs: Vec<ClusterConfig>,
}

impl Default for Shardmaster {
    fn default() -> Shardmaster {
        Shardmaster::new()
    }
}

impl Shardmaster {
    /// One that knows configuration 0.
    pub fn new() -> Shardmaster {
        Shardmaster { log_time: LogTime(0), configs: vec![ClusterConfig::default()] }
    }

    /// Applies a committed entry: one answer per item, in order.
    pub fn apply(&mut self, batch: EntryBatch) -> Vec<Answer> {
        self.log_time = self.log_time.max(batch.stamp);
        batch
            .items
            .into_iter()
            .map(|item| match item {
                EntryItem::Bootstrap(config) => self.bootstrap(config),
                EntryItem::Lane(_) | EntryItem::Group(_) | EntryItem::Assign { .. } => {
                    Answer::Invalid
                }
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

//! The state machine behind a group's log, whichever it is, and how it is loaded from its rows.

use crate::cluster_config::SHARDMASTER;
use crate::codec::EntryBatch;
use crate::rows::RowError;
use crate::session::LogTime;
use crate::shard_store::{Collected, Dirty, RowBudget, ShardStore, StoreLoader};
use crate::shardmaster::{MasterLoader, Shardmaster};
use crate::wire::Answer;
use bytes::Bytes;
use raft_core::types::GroupId;

/// A group's state. It may be made on one thread and used on another.
#[derive(Debug)]
pub enum Machine {
    /// Of a group that has slots.
    Shard(Box<ShardStore>),
    /// Of group 0.
    Master(Shardmaster),
}

const fn is_send<T: Send>() {}
const _: () = is_send::<Machine>();
const _: () = is_send::<MachineLoader>();

impl Machine {
    /// What a group begins with.
    pub fn new(group: GroupId) -> Machine {
        match group {
            SHARDMASTER => Machine::Master(Shardmaster::new()),
            _ => Machine::Shard(Box::new(ShardStore::new(group))),
        }
    }

    /// Applies a committed entry: one answer per item, in order.
    pub fn apply(&mut self, batch: EntryBatch) -> Vec<Answer> {
        match self {
            Machine::Shard(store) => store.apply(batch),
            Machine::Master(master) => master.apply(batch),
        }
    }

    /// The newest stamp applied.
    pub fn log_time(&self) -> LogTime {
        match self {
            Machine::Shard(store) => store.log_time(),
            Machine::Master(master) => master.log_time(),
        }
    }

    /// How much has changed since the last freeze, in constant time.
    pub fn dirty(&self) -> Dirty {
        match self {
            Machine::Shard(store) => store.dirty(),
            Machine::Master(master) => master.dirty(),
        }
    }

    /// Begins a checkpoint of the state as it is now, in constant time: nothing of it changes any more
    /// by what is applied from here on.
    ///
    /// # Panics
    /// If the one before was not collected.
    pub fn freeze(&mut self) {
        match self {
            Machine::Shard(store) => store.freeze(),
            Machine::Master(master) => master.freeze(),
        }
    }

    /// The next rows of the checkpoint that was begun: what has changed since the one before it.
    pub fn collect(&mut self, budget: RowBudget) -> Collected {
        match self {
            Machine::Shard(store) => store.collect(budget),
            Machine::Master(master) => master.collect(budget),
        }
    }

    /// A number that replicas with the same state share. Reads all of it.
    pub fn digest(&self) -> u64 {
        match self {
            Machine::Shard(store) => store.digest(),
            Machine::Master(master) => master.digest(),
        }
    }
}

/// Makes a state machine of the rows of a checkpoint.
#[derive(Debug)]
pub struct MachineLoader(Loader);

#[derive(Debug)]
enum Loader {
    Shard(Box<StoreLoader>),
    Master(MasterLoader),
}

impl MachineLoader {
    /// Begins with nothing.
    pub fn new(group: GroupId) -> MachineLoader {
        MachineLoader(match group {
            SHARDMASTER => Loader::Master(MasterLoader::default()),
            _ => Loader::Shard(Box::new(StoreLoader::new(group))),
        })
    }

    /// Takes the next row, in the order of keys. What the state keeps of `value` shares its memory.
    ///
    /// # Errors
    /// If no state of this group can have that row behind those before it.
    pub fn row(&mut self, key: &[u8], value: Bytes) -> Result<(), RowError> {
        let result = match &mut self.0 {
            Loader::Shard(store) => store.row(key, value),
            Loader::Master(master) => master.row(key, value),
        };
        result.map_err(|fault| RowError { row: key.to_vec(), fault })
    }

    /// That were all rows.
    ///
    /// # Errors
    /// If one is missing.
    pub fn finish(self) -> Result<Machine, RowError> {
        match self.0 {
            Loader::Shard(store) => store.finish().map(|store| Machine::Shard(Box::new(store))),
            Loader::Master(master) => master.finish().map(Machine::Master),
        }
    }
}

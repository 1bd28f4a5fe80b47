//! The state machine behind a group's log, whichever it is, and how it is loaded from its rows.

use crate::cluster_config::SHARDMASTER;
use crate::codec::EntryBatch;
use crate::memory::MemoryUse;
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
    Master(Box<Shardmaster>),
}

const fn is_send<T: Send>() {}
const _: () = is_send::<Machine>();
const _: () = is_send::<MachineLoader>();

impl Machine {
    /// What a group begins with.
    pub fn new(group: GroupId) -> Machine {
        match group {
            SHARDMASTER => Machine::Master(Box::default()),
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

    /// What it takes in memory, in constant time. The shardmaster's few configurations are not counted.
    pub fn memory(&self) -> MemoryUse {
        match self {
            Machine::Shard(store) => store.memory(),
            Machine::Master(_) => MemoryUse::default(),
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
    Master(Box<MasterLoader>),
}

impl MachineLoader {
    /// Begins with nothing.
    pub fn new(group: GroupId) -> MachineLoader {
        MachineLoader(match group {
            SHARDMASTER => Loader::Master(Box::default()),
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
            Loader::Master(master) => {
                master.finish().map(|master| Machine::Master(Box::new(master)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster_config::{ClusterConfig, ConfigNum, GroupConfig, NodeConfig};
    use crate::codec::EntryItem;
    use crate::rows::{MasterRow, Row, RowFault};
    use crate::{checkpoint::RowChange, rows};
    use raft_core::types::NodeId;
    use std::collections::BTreeMap;

    const ALL: RowBudget = RowBudget { rows: 512, bytes: 1 << 20 };

    fn bootstrap(stamp: u64) -> EntryBatch {
        let node = NodeConfig { peer: "h:1".into(), resp: "h:2".into() };
        let seats = GroupConfig { voters: vec![NodeId(1)], weight: 0 };
        let config = ClusterConfig {
            num: ConfigNum(1),
            cluster_id: "c".into(),
            nodes: [(NodeId(1), node)].into(),
            groups: [(SHARDMASTER, seats)].into(),
            slots: Vec::new(),
        };
        EntryBatch::new(LogTime(stamp), vec![EntryItem::Bootstrap(config)])
    }

    fn collect(machine: &mut Machine, disk: &mut BTreeMap<Bytes, Bytes>) -> usize {
        machine.freeze();
        let Collected { rows, done } = machine.collect(ALL);
        assert!(done);
        let count = rows.iter().filter(|row| matches!(row, RowChange::Put { .. })).count();
        for row in rows {
            match row {
                RowChange::Put { key, head, body } => {
                    disk.insert(key, body.behind(&head).into());
                }
                RowChange::Delete { key } => drop(disk.remove(&key)),
                RowChange::DeletePrefix { .. } => panic!("{row:?}"),
            }
        }
        count
    }

    fn load(group: GroupId, disk: &BTreeMap<Bytes, Bytes>) -> Result<Machine, RowError> {
        let mut loader = MachineLoader::new(group);
        disk.iter().try_for_each(|(key, value)| loader.row(key, value.clone()))?;
        loader.finish()
    }

    #[test]
    fn p19_a_shardmaster_out_of_its_rows_is_the_one_they_are_of() {
        let (mut machine, mut disk) = (Machine::new(SHARDMASTER), BTreeMap::new());
        assert_eq!(collect(&mut machine, &mut disk), 2, "the first configuration is a row");
        let first = load(SHARDMASTER, &disk).expect("rows of a shardmaster");
        assert_eq!(first.digest(), machine.digest());
        machine.apply(bootstrap(7));
        assert!(machine.dirty().any);
        // The group's row, the configuration, the map, one group's seats; a chunk without owners is none.
        assert_eq!(collect(&mut machine, &mut disk), 4, "only what is new");
        assert!(!machine.dirty().any);
        machine.apply(bootstrap(9));
        assert_eq!(collect(&mut machine, &mut disk), 1, "log time alone");
        let mut loaded = load(SHARDMASTER, &disk).expect("rows of a shardmaster");
        assert_eq!(loaded.digest(), machine.digest());
        assert!(!loaded.dirty().any);
        assert_eq!(loaded.apply(bootstrap(11)), machine.apply(bootstrap(11)));
        assert_eq!(loaded.digest(), machine.digest());
    }

    #[test]
    fn rows_that_no_shardmaster_has_are_refused_by_name() {
        let (mut machine, mut disk) = (Machine::new(SHARDMASTER), BTreeMap::new());
        machine.apply(bootstrap(7));
        collect(&mut machine, &mut disk);
        let fault = |change: &dyn Fn(&mut BTreeMap<Bytes, Bytes>)| {
            let mut disk = disk.clone();
            change(&mut disk);
            load(SHARDMASTER, &disk).expect_err("no shardmaster has these rows").fault
        };
        let config = |num| Row::Master(MasterRow::Config(num)).key();
        assert_eq!(fault(&|disk| drop(disk.remove(&config(0)))), RowFault::Contradiction);
        assert_eq!(fault(&|disk| disk.retain(|key, _| *key < config(0))), RowFault::Missing);
        assert_eq!(fault(&|disk| drop(disk.remove(&Row::Group.key()))), RowFault::Missing);
        let one = disk[&config(1)].clone();
        assert_eq!(fault(&|d| drop(d.insert(config(2), one.clone()))), RowFault::Contradiction);
        let cut = one.slice(..one.len() - 1);
        assert!(matches!(fault(&|d| drop(d.insert(config(1), cut.clone()))), RowFault::Codec(_)));
        let slot = Row::Slot(crate::slot::Slot(5));
        let value: Bytes = rows::versioned().to_vec().into();
        assert_eq!(fault(&|d| drop(d.insert(slot.key(), value.clone()))), RowFault::Group);
        // Nor is one a group of slots.
        let error = load(GroupId(1), &disk).expect_err("another kind of group");
        assert_eq!(error.fault, RowFault::Group);
        assert_eq!(error.to_string(), "row 000000 belongs to a group of another kind");
    }
}

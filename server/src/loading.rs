//! State machines out of the rows of checkpoints.

use crate::state_store::{Checkpoints, LoadError, StateStoreError};
use bytes::{Buf, BufMut, Bytes};
use raft_core::types::GroupId;
use shard_core::machine::{Machine, MachineLoader};
use shard_core::rows::RowError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Rows that were read go to the thread that makes the state of them in batches of about so many bytes: few enough that
/// they are still in the processors' caches then.
const BATCH_BYTES: usize = 128 << 10;
/// Batches that wait for it.
const BATCHES_MAX: usize = 4;

/// Why a group's state cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file cannot be read.
    #[error(transparent)]
    Store(#[from] StateStoreError),
    /// A row is not one that this program has written.
    #[error(
        "the state of group {group} cannot be loaded: {source}; the node does not start without it"
    )]
    Row {
        /// The group.
        group: GroupId,
        /// What is wrong.
        source: RowError,
    },
    /// It is not wanted any more.
    #[error("the node stops")]
    Stopped,
}

impl From<LoadError<StateError>> for StateError {
    fn from(error: LoadError<StateError>) -> StateError {
        match error {
            LoadError::Store(error) => StateError::Store(error),
            LoadError::Refused(error) => error,
        }
    }
}

/// Loads a group's newest checkpoint, on the calling thread, until it is told to stop.
pub fn load_unless(
    state: Checkpoints<'_>,
    group: GroupId,
    stops: &AtomicBool,
) -> Result<Machine, StateError> {
    let mut loader = MachineLoader::new(group);
    state.load(group, |key, value| match stops.load(Ordering::Relaxed) {
        true => Err(StateError::Stopped),
        false => take(&mut loader, group, key, value),
    })?;
    loader.finish().map_err(|source| StateError::Row { group, source })
}

/// Loads a group's newest checkpoint: another thread reads and verifies its rows, and the calling one makes the state
/// of them. So that is on the calling thread's heap alone: what is overwritten later makes room for what comes.
pub fn load(state: Checkpoints<'_>, group: GroupId) -> Result<Machine, StateError> {
    let mut loader = MachineLoader::new(group);
    let (batches, rows) = sync_channel(BATCHES_MAX);
    let (used, unused) = sync_channel(BATCHES_MAX);
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || read(state, group, &batches, &unused));
        let made = make(&mut loader, group, rows, &used);
        let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        made.and(read)
    })?;
    loader.finish().map_err(|source| StateError::Row { group, source })
}

fn take(
    loader: &mut MachineLoader,
    group: GroupId,
    key: &[u8],
    value: &[u8],
) -> Result<(), StateError> {
    let taken = loader.row(key, Bytes::copy_from_slice(value));
    taken.map_err(|source| StateError::Row { group, source })
}

/// Sends all rows, in batches, each with the lengths of key and value before it.
fn read(
    state: Checkpoints<'_>,
    group: GroupId,
    batches: &SyncSender<Vec<u8>>,
    unused: &Receiver<Vec<u8>>,
) -> Result<(), StateError> {
    let mut batch = Vec::new();
    state.load(group, |key, value| {
        batch.put_u64_ne(key.len() as u64);
        batch.put_u64_ne(value.len() as u64);
        batch.extend_from_slice(key);
        batch.extend_from_slice(value);
        if batch.len() < BATCH_BYTES {
            return Ok(());
        }
        let next = unused.try_recv().unwrap_or_default();
        // Whoever makes the state of them has met one that it does not take, and says so.
        batches.send(std::mem::replace(&mut batch, next)).map_err(|_| StateError::Stopped)
    })?;
    batches.send(batch).map_err(|_| StateError::Stopped)
}

fn make(
    loader: &mut MachineLoader,
    group: GroupId,
    batches: Receiver<Vec<u8>>,
    used: &SyncSender<Vec<u8>>,
) -> Result<(), StateError> {
    for mut batch in batches {
        let mut rows = &batch[..];
        while !rows.is_empty() {
            let (key, value) = (rows.get_u64_ne() as usize, rows.get_u64_ne() as usize);
            let (key, rest) = rows.split_at(key);
            let (value, rest) = rest.split_at(value);
            take(loader, group, key, value)?;
            rows = rest;
        }
        // Those of large rows are not kept.
        if batch.capacity() <= 2 * BATCH_BYTES {
            batch.clear();
            let _ = used.try_send(batch);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_store::{StateStore, StateStoreConfig};
    use raft_core::conf::Conf;
    use raft_core::types::{EntryId, Index, NodeId, Term};
    use redb::backends::InMemoryBackend;
    use shard_core::checkpoint::{CheckpointMark, RowChange};
    use shard_core::cluster_config::ConfigNum;
    use shard_core::codec::{EntryBatch, EntryItem};
    use shard_core::op::Op;
    use shard_core::session::{LogTime, Seq, SessionId};
    use shard_core::shard_store::RowBudget;
    use shard_core::slot::{SLOTS, Slot, hash_slot};
    use shard_core::wire::LaneRequest;

    const G1: GroupId = GroupId(1);

    /// A store with these rows of a group.
    fn stored(rows: Vec<RowChange>) -> StateStore {
        let (sender, events) = std::sync::mpsc::channel();
        let report = move |event| sender.send(event).unwrap_or(());
        let config = StateStoreConfig::default();
        let (state, _) = StateStore::open_backend(InMemoryBackend::new(), config, report).unwrap();
        state.changes(G1, rows);
        let at = EntryId { index: Index(1), term: Term(1) };
        let conf = (Index(0), Conf::of_voters(vec![NodeId(1)]));
        state.commit(G1, CheckpointMark { at, conf });
        assert_eq!(events.iter().take(2).count(), 2);
        state
    }

    /// Writes to slots, one of a value that is larger than a batch.
    fn machine() -> Machine {
        let mut machine = Machine::new(G1);
        let assign =
            EntryItem::Assign { config: ConfigNum(1), ranges: vec![(Slot(0), Slot(SLOTS - 1))] };
        let mut items = vec![assign];
        for n in 0..2000_usize {
            let key = Bytes::from(format!("key{n}"));
            let len = if n == 1000 { 3 * BATCH_BYTES } else { n };
            let op = Op::Append { key, value: vec![n as u8; len].into() };
            items.push(EntryItem::Lane(LaneRequest {
                session: SessionId(n as u128),
                deadline: LogTime(1_000_000),
                slot: hash_slot(format!("key{n}").as_bytes()),
                seq: Seq(1),
                acked: Seq(0),
                op,
            }));
        }
        let Machine::Shard(store) = &mut machine else { unreachable!("group 1 has slots") };
        store.apply(EntryBatch::new(LogTime(1), items));
        machine
    }

    #[test]
    fn a_state_that_was_read_ahead_is_the_one_that_was_stored() {
        let mut machine = machine();
        machine.freeze();
        let rows = machine.collect(RowBudget { rows: usize::MAX, bytes: usize::MAX }).rows;
        let state = stored(rows.clone());
        let loaded = load(state.checkpoints(), G1).unwrap();
        assert_eq!(loaded.digest(), machine.digest());
        let slowly = load_unless(state.checkpoints(), G1, &AtomicBool::new(false)).unwrap();
        assert_eq!(slowly.digest(), machine.digest());
        state.close().unwrap();

        // A key of another slot, among the first rows: whoever reads is far ahead by then.
        let stray = Bytes::from_static(b"\0\x01\x02key1");
        let body = Bytes::from_static(&[1, 0]).into();
        let put = RowChange::Put { key: stray.clone(), head: Default::default(), body };
        let state = stored(rows.into_iter().chain([put]).collect());
        let error = load(state.checkpoints(), G1).unwrap_err();
        let StateError::Row { source, .. } = error else { panic!("{error}") };
        assert_eq!(source.row, stray);
        state.close().unwrap();
    }
}

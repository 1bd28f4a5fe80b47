//! What happens before the log's threads run: the file is made, and read once.

use super::index::{Contradiction, LogIndex};
use super::wal::{FIRST_KEY, FORMAT, FORMAT_KEY, FrameReader, META, Place, WAL, WalError, missing};
use super::{LogStoreError, database_error};
use crate::data_dir::Identity;
use crate::opened_file::Layout;
use crate::owner;
use raft_core::Restored;
use raft_core::conf::Conf;
use raft_core::frame::Frame;
use raft_core::types::GroupId;
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable};
use std::collections::BTreeMap;
use std::path::Path;

/// What a scan found, and where writing goes on.
pub(super) struct Recovered {
    pub(super) index: LogIndex,
    /// The oldest row.
    pub(super) first: u64,
    pub(super) next_seq: u64,
    /// Frame bytes in the log.
    pub(super) position: u64,
}

/// What replicas are told of their logs.
pub(super) fn restored(index: &LogIndex) -> BTreeMap<GroupId, Restored> {
    let groups = index.groups().map(|(group, log)| {
        let restored = Restored {
            hard: log.hard,
            base: log.base,
            term_runs: log.term_runs.clone(),
            last: log.last,
            confs: log.confs.clone(),
            ..Restored::default()
        };
        (group, restored)
    });
    groups.collect()
}

/// The number of the oldest row.
pub(super) fn first_row(
    meta: &impl ReadableTable<&'static str, u64>,
) -> Result<u64, redb::StorageError> {
    Ok(meta.get(FIRST_KEY)?.map_or(0, |first| first.value()))
}

/// What the file has.
pub(super) const LAYOUT: Layout = Layout { format: FORMAT, make: write_format };

/// Makes the tables and writes the format's number, unless they are there.
fn write_format(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        transaction.open_table(WAL)?;
        let mut meta = transaction.open_table(META)?;
        if meta.get(FORMAT_KEY)?.is_some() {
            return Ok(());
        }
        meta.insert(FORMAT_KEY, FORMAT)?;
    }
    transaction.commit()?;
    Ok(())
}

/// Reads the whole log and checks every frame and the order of all. And whether it says that it is the owner's,
/// where there is one; else it is nobody's.
pub(super) fn scan(
    database: &Database,
    path: &Path,
    owner: Option<&Identity>,
) -> Result<(Recovered, bool), LogStoreError> {
    let failed = |error: redb::Error| database_error(path, error);
    let transaction = database.begin_read().map_err(|error| failed(error.into()))?;
    let meta = transaction.open_table(META).map_err(|error| failed(error.into()))?;
    check_format(&meta, path)?;
    let owned = owner.map_or(Ok(false), |owner| check_owner(&transaction, owner, path))?;
    let wal = transaction.open_table(WAL).map_err(|error| failed(error.into()))?;
    let first = first_row(&meta).map_err(|error| failed(error.into()))?;
    let recovered = read_all(&wal, first).map_err(|error| wal_error(path, error))?;
    Ok((recovered, owned))
}

/// Refuses what this program cannot read.
pub(super) fn check_format(
    meta: &impl ReadableTable<&'static str, u64>,
    path: &Path,
) -> Result<(), LogStoreError> {
    let format = meta.get(FORMAT_KEY).map_err(|error| database_error(path, error.into()))?;
    match format.map(|value| value.value()) {
        Some(1..=FORMAT) => Ok(()),
        found => {
            let found = found.unwrap_or(0);
            Err(LogStoreError::Format { path: path.to_owned(), found })
        }
    }
}

/// Refuses another's log; whether this one says that it is the node's own.
pub(super) fn check_owner(
    transaction: &ReadTransaction,
    owner: &Identity,
    path: &Path,
) -> Result<bool, LogStoreError> {
    owner::check(transaction, owner, ("log", path), |error| database_error(path, error))
}

/// A fault of the rows of that file.
pub(super) fn wal_error(path: &Path, error: WalError) -> LogStoreError {
    match error {
        WalError::Storage(error) => database_error(path, error.into()),
        WalError::Damaged(place, what) => {
            LogStoreError::Damaged { path: path.to_owned(), place: place.to_string(), what }
        }
    }
}

fn read_all(
    wal: &impl ReadableTable<u64, &'static [u8]>,
    first: u64,
) -> Result<Recovered, WalError> {
    check_first(wal, first)?;
    let mut reader = FrameReader::from_first(wal, first)?;
    let mut index = LogIndex::new(first > 0);
    let mut position = 0;
    while let Some((frame, place)) = reader.next()? {
        apply(&mut index, frame, place, position)?;
        position = reader.consumed();
    }
    let end = Place { seq: reader.next_seq(), offset: 0 };
    index.check_whole().map_err(|what| WalError::Damaged(end, what.to_string()))?;
    index.beginning_gone = false;
    Ok(Recovered { index, first, next_seq: reader.next_seq(), position })
}

/// Whether the rows begin where they are said to.
pub(super) fn check_first(
    wal: &impl ReadableTable<u64, &'static [u8]>,
    first: u64,
) -> Result<(), WalError> {
    match wal.first()?.map(|(row, _)| row.value()) {
        Some(row) if row < first => {
            let place = Place { seq: row, offset: 0 };
            Err(WalError::Damaged(place, format!("a row before the first one, {first}")))
        }
        // Removal leaves something.
        None if first > 0 => Err(missing(first)),
        Some(_) | None => Ok(()),
    }
}

/// Takes in one frame, `position` frame bytes after the oldest.
pub(super) fn apply(
    index: &mut LogIndex,
    frame: Frame,
    place: Place,
    position: u64,
) -> Result<(), WalError> {
    let read = match frame {
        Frame::Entry(group, entry) => {
            let bytes = entry.frame.len();
            let read = index.append(group, entry.id, bytes, place, position);
            if let Some(conf) = Conf::of_entry(&entry) {
                index.conf(group, entry.id.index, conf);
            }
            read
        }
        Frame::HardState(group, hard) => index.hard_state(group, hard, place),
        Frame::Cut(group, from) => index.cut(group, from),
        Frame::Log(log) => index.log_frame(&log, place, position),
        Frame::Forget(group) => {
            index.forget(group);
            Ok(())
        }
    };
    read.map_err(|what: Contradiction| WalError::Damaged(place, what.to_string()))
}

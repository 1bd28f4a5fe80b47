//! What stands in a log that no node uses now: everything is read and verified as by a start, but what
//! is behind a damage too, and nothing is written.

use super::collect::install_frame;
use super::index::{GroupLog, LogIndex};
use super::reader::read_entries;
use super::recovery::{
    apply, check_first, check_format, check_owner, first_row, restored, wal_error,
};
use super::wal::{FrameReader, META, Place, WAL, WalError};
use super::{LogStoreError, database_error};
use crate::data_dir::Identity;
use crate::inspect::findings::Findings;
use crate::inspect::image::{Image, Sizes};
use raft_core::Restored;
use raft_core::frame::Frame;
use raft_core::types::{Entry, EntryId, EntryKind, GroupId, Index};
use redb::{ReadableDatabase, ReadableTable};
use shard_core::codec::decode_batch;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Frame bytes of entries that are read at once to be shown, or one entry.
const SHOWN_AT_ONCE_BYTES: u64 = 1 << 20;

/// What to do about a log that is not what was written.
const ADVICE: &str = "check the disk; if there is a copy of the whole directory from after the node's last \
     stop, put that back; else this node is lost, and its groups go on while they have a majority: \
     never start it with an older or an empty log";

/// A log that was read.
pub(crate) struct LogView {
    path: PathBuf,
    image: Image,
    index: LogIndex,
    /// Of the file.
    pub(crate) sizes: Sizes,
    /// The oldest row and the one that comes next.
    pub(crate) rows: (u64, u64),
    /// Frames in them.
    pub(crate) frames: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Nothing is wrong with it.
    pub(crate) whole: bool,
}

/// One group's log.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupView {
    /// What a replica would be told.
    pub(crate) restored: Restored,
    /// Frame bytes of its entries.
    pub(crate) bytes: u64,
    /// The oldest row that it needs.
    pub(crate) oldest: Option<u64>,
}

/// Why entries were not all given.
pub(crate) enum Ended {
    /// The log cannot be read.
    Log(LogStoreError),
    /// Who asked wants no more.
    Writing(io::Error),
}

impl LogView {
    /// Reads the log and verifies all of it. `None`: there is none, or it cannot be read at all; the
    /// findings say why. `owner`: whose it should be, where that is known.
    ///
    /// # Errors
    /// If this user may not read it.
    pub(crate) fn read(
        path: &Path,
        must_exist: bool,
        owner: Option<&Identity>,
        findings: &mut Findings,
    ) -> io::Result<Option<LogView>> {
        let image = match Image::open(path) {
            Ok(Some(image)) => image,
            Ok(None) => {
                if must_exist {
                    let missing = LogStoreError::Missing(path.to_owned());
                    findings.fault(missing.to_string(), ADVICE);
                }
                return Ok(None);
            }
            Err(redb::Error::Io(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(error);
            }
            Err(error) => {
                findings.fault(database_error(path, error).to_string(), ADVICE);
                return Ok(None);
            }
        };
        let (sizes, index) = (image.sizes, LogIndex::default());
        let (rows, frames, bytes, whole) = ((0, 0), 0, 0, false);
        let path = path.to_owned();
        let mut view = LogView { path, image, index, sizes, rows, frames, bytes, whole };
        findings.fell_back(&view.path, sizes);
        let before = findings.count();
        let readable = match view.scan(owner, findings) {
            Ok(()) => true,
            Err(error) => {
                let readable = !matches!(error, LogStoreError::Format { .. });
                findings.fault(error.to_string(), ADVICE);
                readable
            }
        };
        view.whole = findings.count() == before;
        Ok(readable.then_some(view))
    }

    fn scan(
        &mut self,
        owner: Option<&Identity>,
        findings: &mut Findings,
    ) -> Result<(), LogStoreError> {
        let path = self.path.clone();
        let failed = |error: redb::Error| database_error(&path, error);
        let transaction = self.image.database.begin_read().map_err(|error| failed(error.into()))?;
        let meta = transaction.open_table(META).map_err(|error| failed(error.into()))?;
        check_format(&meta, &path)?;
        if let Some(Err(error)) = owner.map(|owner| check_owner(&transaction, owner, &path)) {
            // What stands in it is of use to who looks for the right one.
            findings.fault(error.to_string(), ADVICE);
        }
        let first = first_row(&meta).map_err(|error| failed(error.into()))?;
        self.rows = (first, first);
        self.index = LogIndex::new(first > 0);
        let wal = transaction.open_table(WAL).map_err(|error| failed(error.into()))?;
        let mut result = check_first(&wal, first).and_then(|()| self.follow(&wal, first, findings));
        // Behind a damage what the groups have is not known, but checksums can be compared.
        while let Err(WalError::Damaged(place, what)) = result {
            let row = place.seq;
            let damaged = wal_error(&path, WalError::Damaged(place, what));
            findings.fault(damaged.to_string(), ADVICE);
            result = self.go_on(&wal, row);
        }
        result.map_err(|error| wal_error(&path, error))
    }

    /// Reads from the beginning.
    fn follow(
        &mut self,
        wal: &impl ReadableTable<u64, &'static [u8]>,
        first: u64,
        findings: &mut Findings,
    ) -> Result<(), WalError> {
        let mut reader = FrameReader::from_first(wal, first)?;
        while let Some((frame, place)) = reader.next()? {
            if let Frame::Entry(group, entry) = &frame
                && entry.kind == EntryKind::Command
                && let Err(error) = decode_batch(&entry.payload())
            {
                let (path, id) = (self.path.display(), entry.id);
                findings.fault(
                    format!(
                        "the log {path} has at {place} a command that this program cannot read, entry \
                         {id} of group {group}: {error}; the node would stop when it applies it"
                    ),
                    "start the node with the program that wrote it, or a newer one",
                );
            }
            apply(&mut self.index, frame, place, self.bytes)?;
            self.frames += 1;
            self.bytes = reader.consumed();
            self.rows.1 = reader.next_seq();
        }
        let end = Place { seq: reader.next_seq(), offset: 0 };
        self.index.check_whole().map_err(|what| WalError::Damaged(end, what.to_string()))?;
        self.index.beginning_gone = false;
        Ok(())
    }

    /// Reads from the first batch on that begins behind a row, as far as it can be read.
    fn go_on(
        &mut self,
        wal: &impl ReadableTable<u64, &'static [u8]>,
        after: u64,
    ) -> Result<(), WalError> {
        let mut from = None;
        for row in wal.range(after.saturating_add(1)..)? {
            let (seq, value) = row?;
            if value.value().first() == Some(&1) {
                from = Some(seq.value());
                break;
            }
        }
        let Some(seq) = from else { return Ok(()) };
        let mut reader = FrameReader::from_place(wal, Place { seq, offset: 0 })?;
        while reader.next()?.is_some() {
            self.frames += 1;
            self.rows.1 = reader.next_seq();
        }
        Ok(())
    }

    /// What a start makes of groups whose state has taken a snapshot.
    pub(crate) fn finish_installs(
        &mut self,
        installing: &BTreeMap<GroupId, EntryId>,
        findings: &mut Findings,
    ) {
        let nothing = GroupLog::default();
        for (group, at) in installing {
            let log = self.index.get(*group).unwrap_or(&nothing);
            let Some(frame) = install_frame(*group, log, *at) else { continue };
            let place = Place { seq: self.rows.1, offset: 0 };
            if let Err(what) = self.index.log_frame(&frame, place, self.bytes) {
                let unfinished = LogStoreError::unfinished(&self.path, &what);
                findings.fault(unfinished.to_string(), ADVICE);
            }
        }
    }

    /// Every group that stands in it.
    pub(crate) fn groups(&self) -> BTreeMap<GroupId, GroupView> {
        let restored = restored(&self.index);
        let views = restored.into_iter().map(|(group, restored)| {
            let log = self.index.get(group);
            let bytes = log.map_or(0, GroupLog::bytes);
            let oldest = log.and_then(GroupLog::first_needed);
            (group, GroupView { restored, bytes, oldest })
        });
        views.collect()
    }

    /// Gives the entries of a group from `from` to `to`, those of them that there are, in order.
    pub(crate) fn entries(
        &self,
        group: GroupId,
        mut from: Index,
        to: Index,
        mut give: impl FnMut(&Entry) -> io::Result<()>,
    ) -> Result<(), Ended> {
        let failed = |error: redb::Error| Ended::Log(database_error(&self.path, error));
        let transaction = self.image.database.begin_read().map_err(|error| failed(error.into()))?;
        let wal = transaction.open_table(WAL).map_err(|error| failed(error.into()))?;
        while let Some(parts) = self.index.plan(group, from, to) {
            let entries = read_entries(&wal, group, &parts, SHOWN_AT_ONCE_BYTES);
            let entries = entries.map_err(|error| Ended::Log(wal_error(&self.path, error)))?;
            for entry in &entries {
                give(entry).map_err(Ended::Writing)?;
                from = entry.id.index.next();
            }
            if entries.is_empty() {
                break;
            }
        }
        Ok(())
    }
}

//! Entries that groups need again: the thread that reads them, and how.

use super::LogEvent;
use super::index::Part;
use super::recovery::first_row;
use super::wal::{FrameReader, META, WAL, WalError};
use super::writer::{Events, failed};
use crate::last_words::{At, WHAT_TO_DO};
use bytes::Bytes;
use raft_core::effects::FetchResult;
use raft_core::frame::Frame;
use raft_core::types::{Entry, FetchId, GroupId};
use redb::{Database, ReadableDatabase, ReadableTable};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

/// A fetch with the places of its entries.
pub(super) struct Read {
    pub(super) group: GroupId,
    pub(super) id: FetchId,
    pub(super) parts: Vec<Part>,
    pub(super) bytes_max: u64,
}

/// The reader thread's own.
pub(super) struct Reader {
    pub(super) database: Arc<Database>,
    pub(super) path: PathBuf,
    pub(super) events: Events,
}

impl Reader {
    /// Until the writer ends, or the first error: what cannot be read now was once written, so the
    /// disk is not to be trusted.
    pub(super) fn run(self, waiting: &Receiver<Read>) {
        let _at = At::file("log", &self.path);
        while let Ok(read) = waiting.recv() {
            let (group, id) = (read.group, read.id);
            match self.read(&read) {
                Ok(result) => (self.events)(LogEvent::Fetched { group, id, result }),
                Err(error) => {
                    let path = self.path.display();
                    failed(
                        &self.events,
                        format!("reading the log {path} failed: {error}; {WHAT_TO_DO}"),
                    );
                    return;
                }
            }
        }
    }

    fn read(&self, read: &Read) -> Result<FetchResult, Box<dyn std::error::Error>> {
        let transaction = self.database.begin_read()?;
        let first = first_row(&transaction.open_table(META)?)?;
        // Rows were removed since the places were looked up: compacted, or written anew elsewhere.
        if read.parts.iter().any(|part| part.place.seq < first) {
            return Ok(FetchResult::Gone);
        }
        let table = transaction.open_table(WAL)?;
        let entries = read_entries(&table, read.group, &read.parts, read.bytes_max)?;
        Ok(FetchResult::Entries(entries))
    }
}

/// The entries of the parts, up to the one that reaches `bytes_max`.
pub(super) fn read_entries(
    table: &impl ReadableTable<u64, &'static [u8]>,
    group: GroupId,
    parts: &[Part],
    bytes_max: u64,
) -> Result<Vec<Entry>, WalError> {
    let mut entries = Vec::new();
    let mut bytes = 0;
    for part in parts {
        let mut frames = FrameReader::from_place(table, part.place)?;
        let mut passed = 0;
        while passed < part.skip + part.take {
            let damaged = |what: &str| WalError::Damaged(part.place, what.to_owned());
            let Some((frame, _)) = frames.next()? else {
                return Err(damaged("the log ends before the entries that stood from here on"));
            };
            let Frame::Entry(owner, entry) = frame else { continue };
            if owner != group {
                continue;
            }
            if entry.id.index.0 != part.first.0 - part.skip + passed {
                return Err(damaged("other entries stand where the fetched ones stood"));
            }
            passed += 1;
            if passed > part.skip {
                bytes += entry.frame.len() as u64;
                // A copy: a small entry must not keep the rows around it in memory.
                entries.push(Entry { frame: Bytes::copy_from_slice(&entry.frame), ..entry });
                if bytes >= bytes_max {
                    return Ok(entries);
                }
            }
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::super::wal::{FIRST_KEY, Place, write_blob};
    use super::*;
    use raft_core::frame::encode_entry;
    use raft_core::types::{EntryId, EntryKind, Index, Term};

    /// The same missing row is gone for one that asked before it was removed, and damage if nobody
    /// removed it.
    #[test]
    fn a_read_that_removal_has_overtaken_is_told_from_damage() {
        let backend = redb::backends::InMemoryBackend::new();
        let database = Database::builder().create_with_backend(backend).unwrap();
        let group = GroupId(1);
        let transaction = database.begin_write().unwrap();
        {
            let mut table = transaction.open_table(WAL).unwrap();
            transaction.open_table(META).unwrap();
            for seq in 0..4 {
                let id = EntryId { index: Index(seq + 1), term: Term(1) };
                let entry = encode_entry(group, id, EntryKind::Empty, b"");
                write_blob(&mut table, seq, &[entry.frame]).unwrap();
            }
        }
        transaction.commit().unwrap();
        let part = |seq: u64| {
            let place = Place { seq, offset: 0 };
            Part { place, skip: 0, take: 2, first: Index(seq + 1) }
        };
        let reader = Reader {
            database: Arc::new(database),
            path: PathBuf::new(),
            events: Arc::new(|_| unreachable!()),
        };
        let read = |seq| {
            let parts = vec![part(seq)];
            reader.read(&Read { group, id: FetchId(1), parts, bytes_max: u64::MAX })
        };
        let FetchResult::Entries(entries) = read(1).unwrap() else { panic!("gone") };
        assert_eq!(entries.len(), 2);
        let set = |first: u64, remove: Option<u64>| {
            let transaction = reader.database.begin_write().unwrap();
            {
                let mut table = transaction.open_table(WAL).unwrap();
                table.retain_in(0..first, |_, _| false).unwrap();
                if let Some(seq) = remove {
                    table.remove(seq).unwrap();
                }
                transaction.open_table(META).unwrap().insert(FIRST_KEY, first).unwrap();
            }
            transaction.commit().unwrap();
        };
        set(2, None);
        assert_eq!(read(1).unwrap(), FetchResult::Gone);
        assert!(matches!(read(2).unwrap(), FetchResult::Entries(_)));
        set(2, Some(3));
        let error = read(2).unwrap_err().to_string();
        assert_eq!(error, "row 2 byte 0: the log ends before the entries that stood from here on");
    }
}

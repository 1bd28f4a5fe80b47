//! Simulated disks: what a power loss leaves of a replica, its checkpoints and snapshots too.

use raft_core::Restored;
use raft_core::effects::{Fetch, FetchResult, Write};
use raft_core::snapshot::{Snapshot, SnapshotId};
use raft_core::types::{Entry, EntryId, HardState, Index, NodeId, WriteToken};
use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::rc::Rc;

/// A checkpoint, or a snapshot that came in: a state, and the log that led to it, which a real one
/// does not have. By it a log that was compacted is still known whole to the tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its name and size.
    pub snapshot: Snapshot,
    pub(crate) state: u64,
    pub(crate) log: Rc<Vec<Entry>>,
}

/// A piece of a snapshot on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The receiver.
    pub to: NodeId,
    /// The first byte, and one past the last.
    pub bytes: (u64, u64),
    /// Of what.
    pub image: Image,
}

/// Hosts send snapshots in pieces of this size.
pub(crate) const CHUNK_BYTES: u64 = 256 << 10;

/// A disk that forgets what was not synced.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub(crate) hard: HardState,
    /// The whole log, what was compacted of it included: the tests know it, the disk has what comes
    /// after `base`.
    pub(crate) log: Vec<Entry>,
    pub(crate) base: EntryId,
    pub(crate) checkpoint: Option<Image>,
    /// A snapshot that comes in, and how much of it is here.
    pub(crate) staged: Option<(Image, u64)>,
    pub(crate) unsynced: VecDeque<(Write, Option<Image>)>,
}

impl Disk {
    /// A disk on which somebody left this.
    pub fn with(hard: HardState, log: Vec<Entry>) -> Disk {
        Disk { hard, log, ..Disk::default() }
    }

    /// Term and vote as a power loss would leave them.
    pub fn hard(&self) -> HardState {
        self.hard
    }

    /// The last index that a power loss would leave.
    pub fn len(&self) -> Index {
        Index(self.log.len() as u64)
    }

    /// Whether a power loss would leave an empty log.
    pub fn is_empty(&self) -> bool {
        self.log.is_empty()
    }

    /// Whether that very entry would be left.
    pub fn holds(&self, id: EntryId) -> bool {
        self.log.get(id.index.0 as usize - 1).is_some_and(|entry| entry.id == id)
    }

    /// Whether the synced log ends in that very entry.
    pub fn ends_in(&self, id: EntryId) -> bool {
        self.log.last().map_or(EntryId::default(), |entry| entry.id) == id
    }

    /// Writes that are not synced.
    pub fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// Hashes what is on it, and what is on its way to it.
    pub fn hash_into(&self, hasher: &mut impl Hasher) {
        self.hard.hash(hasher);
        self.log.len().hash(hasher);
        self.log.iter().for_each(|entry| entry.frame.hash(hasher));
        (self.base, self.checkpoint.as_ref().map(|image| image.snapshot.id)).hash(hasher);
        (self.staged().hash(hasher), self.unsynced.len()).hash(hasher);
        for (write, _) in &self.unsynced {
            (write.hard, write.truncate_from, write.entries.len()).hash(hasher);
            write.entries.iter().for_each(|entry| entry.frame.hash(hasher));
        }
    }

    pub(crate) fn sync_one(&mut self) -> Option<(WriteToken, Option<Image>)> {
        let (write, image) = self.unsynced.pop_front()?;
        self.hard = write.hard.unwrap_or(self.hard);
        overwrite(&mut self.log, &write, image.as_ref());
        if let Some(image) = &image {
            self.base = image.snapshot.id.at;
            self.checkpoint = Some(image.clone());
            self.discard(image.snapshot.id);
        }
        Some((write.token, image))
    }

    pub(crate) fn restored(&self) -> Restored {
        let checkpoint = self.checkpoint.as_ref().map(|image| image.snapshot.clone());
        let restored = Restored::of_log(self.hard, &self.log).compacted(self.base, checkpoint);
        Restored { staged: self.staged(), ..restored }
    }

    pub(crate) fn staged(&self) -> Option<(SnapshotId, u64)> {
        self.staged.as_ref().map(|(image, offset)| (image.snapshot.id, *offset))
    }

    pub(crate) fn discard(&mut self, id: SnapshotId) {
        self.staged.take_if(|(image, _)| image.snapshot.id == id);
    }

    pub(crate) fn read(&self, fetch: &Fetch) -> FetchResult {
        let mut entries = Vec::new();
        let mut bytes = 0;
        let gone = fetch.from <= self.base.index;
        let wanted = self.log.iter().skip(fetch.from.0 as usize - 1);
        let wanted = wanted.filter(|_| !gone);
        for entry in wanted.take_while(|entry| entry.id.index <= fetch.to) {
            bytes += entry.frame.len() as u64;
            entries.push(entry.clone());
            if bytes >= fetch.bytes_max {
                break;
            }
        }
        match entries.is_empty() {
            true => FetchResult::Gone,
            false => FetchResult::Entries(entries),
        }
    }

    /// What is whole, and is to be installed by the write.
    pub(crate) fn image(&self, write: Option<&Write>) -> Option<Image> {
        let id = write?.install.as_ref()?.id;
        let (image, offset) = self.staged.as_ref()?;
        let whole = image.snapshot.id == id && *offset == image.snapshot.bytes;
        whole.then(|| image.clone())
    }
}

/// What a write does to a log. Returns where it began to differ.
pub(crate) fn overwrite(log: &mut Vec<Entry>, write: &Write, image: Option<&Image>) -> usize {
    if let Some(image) = image {
        log.clone_from(&image.log);
        return 0;
    }
    if let Some(from) = write.truncate_from {
        log.truncate(from.0 as usize - 1);
    }
    let from = log.len();
    for entry in &write.entries {
        assert_eq!(entry.id.index.0, log.len() as u64 + 1, "a write leaves a hole");
        log.push(entry.clone());
    }
    from
}

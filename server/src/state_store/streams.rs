//! Snapshots on their way out, read by a thread of their own.
//!
//! A stream must come from one version of the rows, so a read transaction stays open while somebody is
//! sent one; redb reuses no page that was freed after it began, and the file grows by what checkpoints
//! write meanwhile. Therefore a node holds one version at a time. It serves every group whose newest
//! checkpoint in it is the one asked for, and any number of peers; a stream of another version is
//! `Failed` at once and offered again by its core, the newest snapshot then, until it finds no other
//! version held. A version is given up when none of its streams was asked for anything for a while, or
//! when the file has grown by too much since.

use super::format::{
    Fault, GROUPS, GroupRow, Home, PART_BYTES, PARTS, ROWS, STREAM_HEADER, Stored, after_prefix,
    decode_row, own_key, record_bytes,
};
use super::rows::{checked_part, read_part};
use super::{Counters, Reporter, StateStoreConfig, StateStoreEvent, Storage};
use crate::last_words::{At, WHAT_TO_DO};
use crate::snapshot_bytes::SnapshotBytes;
use raft_core::snapshot::{SnapEvent, SnapshotId};
use raft_core::types::{GroupId, NodeId};
use redb::{Database, ReadOnlyTable, ReadableDatabase, ReadableTable};
use shard_core::checkpoint::{OutgoingChunk, SnapshotChunk};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// The longest chunk.
pub(super) const CHUNK_BYTES_MAX: u64 = 256 << 10;
/// Places in a stream that are remembered, so that what is asked for again is found without passing
/// over all that comes before it.
const PLACES_MAX: usize = 64;
/// How far they are apart, at least.
const PLACE_BYTES: u64 = 64 << 10;
/// A place at a longer key is not remembered.
const PLACE_KEY_BYTES_MAX: usize = 4 << 10;

/// What the reader is told.
pub(super) enum Read {
    Send { group: GroupId, peer: NodeId, id: SnapshotId, from: u64, to: u64 },
    Stop { group: GroupId, peer: NodeId, id: SnapshotId },
}

/// The reader thread's own.
pub(super) struct Reader {
    pub(super) database: Arc<Database>,
    pub(super) storage: Storage,
    pub(super) config: StateStoreConfig,
    pub(super) counters: Arc<Counters>,
    pub(super) reporter: Arc<Reporter>,
    pub(super) outgoing: Arc<SnapshotBytes>,
}

type Bytewise = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// One version of the rows, held while somebody is sent from it.
struct Version {
    rows: Bytewise,
    parts: Bytewise,
    groups: BTreeMap<GroupId, GroupRow>,
    /// Size of the file when it was opened.
    file_bytes: u64,
    /// By how much the file may grow.
    growth_max: u64,
    streams: BTreeMap<(GroupId, NodeId), Stream>,
}

/// One snapshot to one peer.
struct Stream {
    id: SnapshotId,
    home: Home,
    bytes: u64,
    /// Places passed, the newest last, each where a row begins.
    places: VecDeque<Place>,
    /// Where the last chunk ended.
    last: Place,
    asked_at: Instant,
}

/// The row that begins `offset` bytes into the stream; an empty key is the first one's.
#[derive(Clone)]
struct Place {
    offset: u64,
    key: Vec<u8>,
}

impl Place {
    fn first() -> Place {
        Place { offset: STREAM_HEADER.len() as u64, key: Vec::new() }
    }
}

impl Reader {
    /// Until every sender is gone, or the first error: what cannot be read now was once written, so
    /// the disk is not to be trusted.
    pub(super) fn run(self, waiting: &Receiver<Read>) {
        let _at = At::file("state", &self.storage.name);
        let mut version = None;
        loop {
            let patience = version.as_ref().map(|version| self.patience(version));
            let read = match patience {
                None => waiting.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(patience) => waiting.recv_timeout(patience),
            };
            let done = match read {
                Ok(Read::Send { group, peer, id, from, to }) => {
                    self.send(&mut version, (group, peer), id, from..to)
                }
                Ok(Read::Stop { group, peer, id }) => {
                    if let Some(version) = &mut version
                        && version.streams.get(&(group, peer)).is_some_and(|held| held.id == id)
                    {
                        version.streams.remove(&(group, peer));
                    }
                    Ok(())
                }
                Err(RecvTimeoutError::Timeout) => Ok(()),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if let Err(fault) = done {
                let path = self.storage.name.display();
                self.reporter
                    .fail(format!("reading the state {path} failed: {fault}; {WHAT_TO_DO}"));
                return;
            }
            self.give_up(&mut version);
        }
    }

    /// How long there is nothing to give up.
    fn patience(&self, version: &Version) -> Duration {
        let idle = version.streams.values().map(|stream| stream.asked_at.elapsed()).max();
        self.config.stream_idle.saturating_sub(idle.unwrap_or_default())
    }

    fn give_up(&self, held: &mut Option<Version>) {
        let Some(version) = held else { return };
        let grown = self.storage.bytes().saturating_sub(version.file_bytes) > version.growth_max;
        version.streams.retain(|(group, peer), stream| {
            let keep = !grown && stream.asked_at.elapsed() < self.config.stream_idle;
            if !keep {
                self.failed(*group, *peer);
            }
            keep
        });
        if version.streams.is_empty() {
            *held = None;
        }
        self.counters
            .streams
            .store(held.as_ref().map_or(0, |v| v.streams.len() as u64), Ordering::Relaxed);
    }

    fn failed(&self, group: GroupId, peer: NodeId) {
        self.reporter.tell(StateStoreEvent::Snapshot(group, SnapEvent::Failed { peer }));
    }

    fn send(
        &self,
        held: &mut Option<Version>,
        (group, peer): (GroupId, NodeId),
        id: SnapshotId,
        wanted: std::ops::Range<u64>,
    ) -> Result<(), Fault> {
        if let Some(version) = held
            && version.streams.get(&(group, peer)).is_some_and(|stream| stream.id != id)
        {
            // The one before is over, and perhaps nobody else needs its version.
            version.streams.remove(&(group, peer));
        }
        let version = match held.take_if(|version| !version.streams.is_empty()) {
            Some(version) => held.insert(version),
            None => held.insert(self.open()?),
        };
        let found = version.groups.get(&group).filter(|row| row.snapshot().id == id);
        let Some(found) = found.filter(|found| wanted.end <= found.totals.bytes) else {
            self.failed(group, peer);
            return Ok(());
        };
        let stream = version.streams.entry((group, peer)).or_insert_with(|| Stream {
            id,
            home: Home { group, generation: found.generation },
            bytes: found.totals.bytes,
            places: VecDeque::new(),
            last: Place::first(),
            asked_at: Instant::now(),
        });
        stream.asked_at = Instant::now();
        let mut offset = wanted.start;
        while offset < wanted.end {
            let to = wanted.end.min(offset + CHUNK_BYTES_MAX);
            let read = || stream.read(&version.rows, &version.parts, offset, to);
            // The receiver asks again for what found no room.
            let Some(bytes) = self.outgoing.hold((to - offset) as usize, read)? else { break };
            self.counters.sent_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            let chunk = SnapshotChunk { group, id, offset, bytes };
            self.reporter.tell(StateStoreEvent::Chunk(OutgoingChunk { to: peer, chunk }));
            offset = to;
        }
        Ok(())
    }

    fn open(&self) -> Result<Version, Fault> {
        let file_bytes = self.storage.bytes();
        let transaction = self.database.begin_read()?;
        let (rows, parts) = (transaction.open_table(ROWS)?, transaction.open_table(PARTS)?);
        let mut groups = BTreeMap::new();
        for entry in transaction.open_table(GROUPS)?.iter()? {
            let (group, row) = entry?;
            let group = GroupId(group.value());
            groups.insert(group, GroupRow::decode(group, row.value())?);
        }
        let live: u64 = groups.values().map(|row| row.totals.bytes).sum();
        let growth_max = self.config.pinned_growth_bytes_min.max(live);
        let streams = BTreeMap::new();
        Ok(Version { rows, parts, groups, file_bytes, growth_max, streams })
    }
}

impl Stream {
    /// Bytes `from..to` of the stream.
    fn read(
        &mut self,
        rows: &Bytewise,
        parts: &Bytewise,
        from: u64,
        to: u64,
    ) -> Result<Vec<u8>, Fault> {
        let mut out =
            Copied { want: from..to, at: 0, bytes: Vec::with_capacity((to - from) as usize) };
        out.copy(&STREAM_HEADER);
        let mut place = self.place_before(from);
        let start = self.home.row_key(&place.key);
        let end = after_prefix(&self.home.prefix());
        let range = (Bound::Included(&start[..]), end.as_ref().map(|end| &end[..]));
        out.at = place.offset;
        for entry in rows.range::<&[u8]>(range)? {
            if out.is_full() {
                break;
            }
            let (full, row) = entry?;
            let key = own_key(full.value());
            let (_, stored) = decode_row(self.home, key, row.value())?;
            let next = out.at + record_bytes(key.len(), stored.len());
            if next > from {
                let offset = out.at;
                self.copy_row(&mut out, parts, key, stored)?;
                if out.is_full() {
                    place = Place { offset, key: key.to_vec() };
                }
            }
            out.at = next;
        }
        if !out.is_full() || out.at > self.bytes {
            return Err(self.home.damaged(&place.key, "the rows do not come to what they were"));
        }
        self.remember(place);
        Ok(out.bytes)
    }

    fn copy_row(
        &self,
        out: &mut Copied,
        parts: &Bytewise,
        key: &[u8],
        stored: Stored<'_>,
    ) -> Result<(), Fault> {
        out.copy(&(key.len() as u32).to_le_bytes());
        out.copy(&(stored.len() as u32).to_le_bytes());
        out.copy(key);
        match stored {
            Stored::Inline(value) => out.copy(value),
            Stored::Parted { len, id } => {
                let behind = out.want.start.saturating_sub(out.at).min(u64::from(len));
                let mut number = (behind / PART_BYTES as u64) as u32;
                out.at += u64::from(number) * PART_BYTES as u64;
                while number < super::format::parts_of(len) && !out.is_full() {
                    let part = read_part(parts, self.home, id, number)?;
                    out.copy(checked_part(self.home, id, number, len, part.value())?);
                    number += 1;
                }
            }
        }
        Ok(())
    }

    /// The last known place that is not after `from`.
    fn place_before(&mut self, from: u64) -> Place {
        if self.last.offset <= from {
            return self.last.clone();
        }
        let known = self.places.partition_point(|place| place.offset <= from);
        self.places.truncate(known);
        self.places.back().cloned().unwrap_or_else(Place::first)
    }

    fn remember(&mut self, place: Place) {
        let far = self.places.back().is_none_or(|last| place.offset >= last.offset + PLACE_BYTES);
        if far && place.key.len() <= PLACE_KEY_BYTES_MAX {
            self.places.push_back(place.clone());
            if self.places.len() > PLACES_MAX {
                self.places.pop_front();
            }
        }
        self.last = place;
    }
}

/// The wanted bytes of what passes by.
struct Copied {
    want: std::ops::Range<u64>,
    /// Where in the stream the next bytes stand.
    at: u64,
    bytes: Vec<u8>,
}

impl Copied {
    fn is_full(&self) -> bool {
        self.bytes.len() as u64 == self.want.end - self.want.start
    }

    fn copy(&mut self, piece: &[u8]) {
        let inside = |at: u64| at.saturating_sub(self.at).min(piece.len() as u64) as usize;
        let (from, to) = (inside(self.want.start), inside(self.want.end));
        self.bytes.extend_from_slice(&piece[from..to]);
        self.at += piece.len() as u64;
    }
}

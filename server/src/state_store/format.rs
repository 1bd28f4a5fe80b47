//! What stands in `state.redb`, byte by byte. Keys are big endian, so that they sort; everything else
//! is little endian.
//!
//! | table | key | value |
//! |---|---|---|
//! | `rows` | group 4, generation 4, the row's key | row |
//! | `parts` | group 4, generation 4, value id 8, part number 4 | check 8, bytes |
//! | `groups` | group | sealed: generation 4, index 8, term 8, conf, totals |
//! | `staging` | group | sealed: [`StagingRow`] |
//! | `installing` | group | sealed: index 8, term 8 |
//! | `meta` | name | `format`; `generation`, the next one |
//!
//! A *row* is the row's hash (8), a kind (1) and, for kind 0, the value. A value that would need a big
//! page is kind 1: its length (4), its id (8) and a check (8) over key and row; it stands in `parts`,
//! in pieces just under a power of two as in the log. Parts are named by an id of the generation, not
//! by the row's key: keys may be long, and an id that is never used again cannot lead to parts of an
//! older value.
//!
//! *Sealed* is a version (1), the fields and a check (8) over table, group and all of that. *Totals*
//! are the stream's bytes (8), the sum of the rows' hashes (8), their number (8) and the next value id
//! (8). *Conf* is the index of its entry (8), a length (2) and the configuration as in an entry.
//!
//! redb verifies no checksum when it reads a page, so every value here has one of its own: the row's
//! hash, or a check. All are XXH3 of 64 bits; a row's hash is over the key's length (4), key and value,
//! so that it is the same on every replica.
//!
//! A *stream*, which is how a snapshot travels, is eight bytes that say so and then for each row in the
//! order of the keys: the key's length (4), the value's (4), key, value.

use bytes::{Buf, BufMut};
use raft_core::conf::Conf;
use raft_core::snapshot::{Snapshot, SnapshotId};
use raft_core::types::{EntryId, GroupId, Index, Term};
use redb::TableDefinition;
use std::ops::Bound;
use xxhash_rust::xxh3::Xxh3;

pub(super) const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");
pub(super) const PARTS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("parts");
pub(super) const GROUPS: TableDefinition<u32, &[u8]> = TableDefinition::new("groups");
pub(super) const STAGING: TableDefinition<u32, &[u8]> = TableDefinition::new("staging");
pub(super) const INSTALLING: TableDefinition<u32, &[u8]> = TableDefinition::new("installing");
pub(super) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// Key of the format's number in `meta`.
pub(super) const FORMAT_KEY: &str = "format";
/// The format written here, and the newest that is read. 1 did not say whose it is, and had long keys of
/// snapshots that come in whole in `staging`.
pub(super) const FORMAT: u64 = 2;
/// Key of the next generation in `meta`.
pub(super) const GENERATION_KEY: &str = "generation";

/// The beginning of every stream; the last byte is its version.
pub(super) const STREAM_HEADER: [u8; 8] = *b"flotrow\x01";
/// The two lengths before a row in a stream.
pub(super) const RECORD_HEADER_BYTES: usize = 8;

/// A pair of key and value with the page's own header must stay under a power of two: redb's pages are
/// powers of two, and a byte more would take twice the space.
const PAIR_BYTES_MAX: usize = (16 << 10) - 128;
const HOME_BYTES: usize = 8;
const ROW_HEADER_BYTES: usize = 9;
const PART_KEY_BYTES: usize = HOME_BYTES + 12;
/// Bytes of a value in each of its parts but the last.
pub(super) const PART_BYTES: usize = PAIR_BYTES_MAX - PART_KEY_BYTES - 8;
/// A value of this many bytes is not worth a part, however long the key.
const SMALL_BYTES: usize = 64;
const INLINE: u8 = 0;
const PARTED: u8 = 1;
/// Version of what is sealed.
const SEALED: u8 = 1;
/// How much of a key a sentence about it shows.
const KEY_SHOWN_BYTES: usize = 64;

/// Why the file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The database says so.
    #[error(transparent)]
    Database(#[from] redb::Error),
    /// What it holds is not what was written.
    #[error("it is damaged at {place}: {what}")]
    Damaged { place: String, what: &'static str },
    /// What it was told to do cannot be done.
    #[error("{0}")]
    Refused(String),
}

macro_rules! from_redb {
    ($($error:ty)*) => {
        $(impl From<$error> for Fault {
            fn from(error: $error) -> Fault {
                Fault::Database(error.into())
            }
        })*
    };
}
from_redb!(redb::StorageError redb::TableError redb::TransactionError redb::CommitError
    redb::SetDurabilityError redb::CompactionError redb::DatabaseError);

/// Where a set of rows stands. Generations are never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Home {
    pub(super) group: GroupId,
    pub(super) generation: u32,
}

impl Home {
    pub(super) fn prefix(self) -> [u8; HOME_BYTES] {
        (u64::from(self.group.0) << 32 | u64::from(self.generation)).to_be_bytes()
    }

    /// Of a key of `rows` or `parts`.
    pub(super) fn of(key: &[u8]) -> Option<Home> {
        let number = u64::from_be_bytes(*key.first_chunk()?);
        let (group, generation) = (GroupId((number >> 32) as u32), number as u32);
        Some(Home { group, generation })
    }

    pub(super) fn row_key(self, key: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HOME_BYTES + key.len());
        bytes.extend_from_slice(&self.prefix());
        bytes.extend_from_slice(key);
        bytes
    }

    pub(super) fn part_key(self, id: u64, number: u32) -> [u8; PART_KEY_BYTES] {
        let mut key = [0; PART_KEY_BYTES];
        key[..8].copy_from_slice(&self.prefix());
        key[8..16].copy_from_slice(&id.to_be_bytes());
        key[16..].copy_from_slice(&number.to_be_bytes());
        key
    }

    pub(super) fn damaged(self, key: &[u8], what: &'static str) -> Fault {
        let shown = key[..key.len().min(KEY_SHOWN_BYTES)].escape_ascii();
        let Home { group, generation } = self;
        let place = format!("row \"{shown}\" of group {group}, generation {generation}");
        Fault::Damaged { place, what }
    }
}

/// The row's own key, of a key of `rows`.
pub(super) fn own_key(key: &[u8]) -> &[u8] {
    key.get(HOME_BYTES..).unwrap_or_default()
}

/// The first key after all that begin with `prefix`.
pub(super) fn after_prefix(prefix: &[u8]) -> Bound<Vec<u8>> {
    match prefix.iter().rposition(|byte| *byte != u8::MAX) {
        None => Bound::Unbounded,
        Some(at) => {
            let mut end = prefix[..=at].to_vec();
            end[at] += 1;
            Bound::Excluded(end)
        }
    }
}

/// What a row takes in a stream.
pub(super) fn record_bytes(key: usize, value: usize) -> u64 {
    (RECORD_HEADER_BYTES + key + value) as u64
}

/// Whether a value stands in its row.
pub(super) fn is_inline(key: usize, value: usize) -> bool {
    value <= SMALL_BYTES || HOME_BYTES + key + ROW_HEADER_BYTES + value <= PAIR_BYTES_MAX
}

/// How many parts a value has that is not in its row.
pub(super) fn parts_of(value: u32) -> u32 {
    value.div_ceil(PART_BYTES as u32)
}

/// How many bytes of it the part has.
pub(super) fn part_len(value: u32, number: u32) -> usize {
    PART_BYTES.min((value as usize).saturating_sub(number as usize * PART_BYTES))
}

/// The hash of a row whose value is `pieces`, one behind the other.
pub(super) fn row_hash<'v>(key: &[u8], pieces: impl IntoIterator<Item = &'v [u8]>) -> u64 {
    let mut hash = row_hasher(key);
    pieces.into_iter().for_each(|piece| hash.update(piece));
    hash.digest()
}

/// The same, for a value that comes later.
pub(super) fn row_hasher(key: &[u8]) -> Xxh3 {
    let mut hash = Xxh3::new();
    hash.update(&(key.len() as u32).to_le_bytes());
    hash.update(key);
    hash
}

/// A check over bytes and where they stand.
pub(super) fn check<'v>(place: &[u8], pieces: impl IntoIterator<Item = &'v [u8]>) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(place);
    pieces.into_iter().for_each(|piece| hash.update(piece));
    hash.digest()
}

/// What a row says of its value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stored<'v> {
    Inline(&'v [u8]),
    Parted { len: u32, id: u64 },
}

impl Stored<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Stored::Inline(value) => value.len(),
            Stored::Parted { len, .. } => *len as usize,
        }
    }
}

/// A row whose value is in it.
pub(super) fn encode_inline(row: &mut Vec<u8>, hash: u64, pieces: &[&[u8]]) {
    row.clear();
    row.put_u64_le(hash);
    row.put_u8(INLINE);
    pieces.iter().for_each(|piece| row.extend_from_slice(piece));
}

/// A row whose value is in parts.
pub(super) fn encode_parted(row: &mut Vec<u8>, key: &[u8], hash: u64, len: u32, id: u64) {
    row.clear();
    row.put_u64_le(hash);
    row.put_u8(PARTED);
    row.put_u32_le(len);
    row.put_u64_le(id);
    row.put_u64_le(check(key, [&row[..]]));
}

/// Reads a row and verifies it: all of it but for parts.
pub(super) fn decode_row<'v>(
    home: Home,
    key: &[u8],
    row: &'v [u8],
) -> Result<(u64, Stored<'v>), Fault> {
    let damaged = |what| home.damaged(key, what);
    let Some((header, rest)) = row.split_at_checked(ROW_HEADER_BYTES) else {
        return Err(damaged("the row is cut off"));
    };
    let hash = (&header[..8]).get_u64_le();
    match header[8] {
        INLINE if row_hash(key, [rest]) == hash => Ok((hash, Stored::Inline(rest))),
        INLINE => Err(damaged("key or value are not what the row's hash says")),
        PARTED => {
            let Some((fields, mut seal)) = row.split_last_chunk::<8>().map(|(f, s)| (f, &s[..]))
            else {
                return Err(damaged("the row is cut off"));
            };
            if seal.get_u64_le() != check(key, [fields]) || fields.len() != ROW_HEADER_BYTES + 12 {
                return Err(damaged("the row is not what its check says"));
            }
            let mut fields = &fields[ROW_HEADER_BYTES..];
            let (len, id) = (fields.get_u32_le(), fields.get_u64_le());
            Ok((hash, Stored::Parted { len, id }))
        }
        _ => Err(damaged("the row is of no known kind")),
    }
}

/// What is known of all rows of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Totals {
    /// Of the stream; more than the header's once there are rows.
    pub(super) bytes: u64,
    /// The rows' hashes, added up.
    pub(super) hash: u64,
    pub(super) rows: u64,
    pub(super) next_value: u64,
}

impl Totals {
    pub(super) const EMPTY: Totals =
        Totals { bytes: STREAM_HEADER.len() as u64, hash: 0, rows: 0, next_value: 0 };

    pub(super) fn add(&mut self, hash: u64, key: usize, value: usize) {
        self.hash = self.hash.wrapping_add(hash);
        self.bytes += record_bytes(key, value);
        self.rows += 1;
    }

    pub(super) fn subtract(&mut self, hash: u64, key: usize, value: usize) {
        self.hash = self.hash.wrapping_sub(hash);
        self.bytes = self.bytes.saturating_sub(record_bytes(key, value));
        self.rows = self.rows.saturating_sub(1);
    }

    fn encode(&self, out: &mut Vec<u8>) {
        for number in [self.bytes, self.hash, self.rows, self.next_value] {
            out.put_u64_le(number);
        }
    }

    fn decode(bytes: &mut &[u8]) -> Option<Totals> {
        let mut next = || bytes.try_get_u64_le().ok();
        Some(Totals { bytes: next()?, hash: next()?, rows: next()?, next_value: next()? })
    }
}

/// A group's newest checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GroupRow {
    pub(super) generation: u32,
    pub(super) at: EntryId,
    pub(super) conf: (Index, Conf),
    pub(super) totals: Totals,
}

impl GroupRow {
    pub(super) fn snapshot(&self) -> Snapshot {
        let id = SnapshotId { at: self.at, hash: self.totals.hash };
        Snapshot { id, bytes: self.totals.bytes, conf: self.conf.clone() }
    }

    pub(super) fn encode(&self, group: GroupId) -> Vec<u8> {
        sealed("groups", group, |out| {
            out.put_u32_le(self.generation);
            put_id(out, self.at);
            put_conf(out, &self.conf);
            self.totals.encode(out);
        })
    }

    pub(super) fn decode(group: GroupId, bytes: &[u8]) -> Result<GroupRow, Fault> {
        unsealed("groups", group, bytes, |bytes| {
            let generation = bytes.try_get_u32_le().ok()?;
            let (at, conf) = (get_id(bytes)?, get_conf(bytes)?);
            Some(GroupRow { generation, at, conf, totals: Totals::decode(bytes)? })
        })
    }
}

/// A row that has not come as a whole, and whose key or value is longer than a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unfinished {
    pub(super) key: StagedKey,
    /// Of the value.
    pub(super) len: u32,
    pub(super) id: u64,
    /// Parts written.
    pub(super) parts: u32,
}

/// Its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StagedKey {
    Here(Vec<u8>),
    /// Too long for the row `staging`, which is written with every piece: in parts, as a value is.
    Parted {
        len: u32,
        id: u64,
        /// Parts written.
        parts: u32,
    },
}

/// A snapshot that comes in: as far as it has come, and what is needed to go on there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StagingRow {
    pub(super) snapshot: Snapshot,
    pub(super) generation: u32,
    /// Bytes of the stream that are here; all of them only if they were compared with the name.
    pub(super) offset: u64,
    pub(super) totals: Totals,
    pub(super) unfinished: Option<Unfinished>,
    /// The last bytes that are here: too few to be a row or a part.
    pub(super) tail: Vec<u8>,
}

impl StagingRow {
    pub(super) fn new(snapshot: Snapshot, generation: u32) -> StagingRow {
        let (unfinished, tail) = (None, Vec::new());
        StagingRow { snapshot, generation, offset: 0, totals: Totals::EMPTY, unfinished, tail }
    }

    pub(super) fn is_whole(&self) -> bool {
        self.offset == self.snapshot.bytes
    }

    pub(super) fn encode(&self, group: GroupId) -> Vec<u8> {
        sealed("staging", group, |out| {
            put_id(out, self.snapshot.id.at);
            out.put_u64_le(self.snapshot.id.hash);
            out.put_u64_le(self.snapshot.bytes);
            put_conf(out, &self.snapshot.conf);
            out.put_u32_le(self.generation);
            out.put_u64_le(self.offset);
            self.totals.encode(out);
            match &self.unfinished {
                None => out.put_u8(0),
                Some(Unfinished { key: StagedKey::Here(key), len, id, parts }) => {
                    out.put_u8(1);
                    put_parted(out, (*len, *id, *parts));
                    put_bytes(out, key);
                }
                Some(Unfinished {
                    key: StagedKey::Parted { len: key, id: of, parts: here },
                    len,
                    id,
                    parts,
                }) => {
                    out.put_u8(2);
                    put_parted(out, (*key, *of, *here));
                    put_parted(out, (*len, *id, *parts));
                }
            }
            put_bytes(out, &self.tail);
        })
    }

    pub(super) fn decode(group: GroupId, bytes: &[u8]) -> Result<StagingRow, Fault> {
        unsealed("staging", group, bytes, |bytes| {
            let at = get_id(bytes)?;
            let id = SnapshotId { at, hash: bytes.try_get_u64_le().ok()? };
            let size = bytes.try_get_u64_le().ok()?;
            let snapshot = Snapshot { id, bytes: size, conf: get_conf(bytes)? };
            let generation = bytes.try_get_u32_le().ok()?;
            let offset = bytes.try_get_u64_le().ok()?;
            let totals = Totals::decode(bytes)?;
            let unfinished = match bytes.try_get_u8().ok()? {
                0 => None,
                kind @ 1..=2 => {
                    let (len, id, parts) = get_parted(bytes)?;
                    Some(match kind {
                        1 => Unfinished { key: StagedKey::Here(get_bytes(bytes)?), len, id, parts },
                        _ => {
                            let key = StagedKey::Parted { len, id, parts };
                            let (len, id, parts) = get_parted(bytes)?;
                            Unfinished { key, len, id, parts }
                        }
                    })
                }
                _ => return None,
            };
            let tail = get_bytes(bytes)?;
            Some(StagingRow { snapshot, generation, offset, totals, unfinished, tail })
        })
    }
}

/// The row `installing` of a group whose log does not yet begin after this entry.
pub(super) fn encode_installing(group: GroupId, at: EntryId) -> Vec<u8> {
    sealed("installing", group, |out| put_id(out, at))
}

pub(super) fn decode_installing(group: GroupId, bytes: &[u8]) -> Result<EntryId, Fault> {
    unsealed("installing", group, bytes, get_id)
}

fn sealed(table: &str, group: GroupId, fields: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![SEALED];
    fields(&mut out);
    let seal = check(table.as_bytes(), [&group.0.to_le_bytes()[..], &out]);
    out.put_u64_le(seal);
    out
}

fn unsealed<T>(
    table: &str,
    group: GroupId,
    bytes: &[u8],
    fields: impl FnOnce(&mut &[u8]) -> Option<T>,
) -> Result<T, Fault> {
    let place = || format!("group {group} of table {table}");
    let sound = bytes.split_last_chunk::<8>().filter(|(bytes, seal)| {
        u64::from_le_bytes(**seal) == check(table.as_bytes(), [&group.0.to_le_bytes()[..], bytes])
    });
    let Some((mut rest, _)) = sound else {
        return Err(Fault::Damaged { place: place(), what: "it is not what its check says" });
    };
    match rest.try_get_u8() {
        Ok(SEALED) => {}
        _ => return Err(Fault::Refused(format!("{} is of an unknown version", place()))),
    }
    let value = fields(&mut rest).filter(|_| rest.is_empty());
    value.ok_or_else(|| Fault::Damaged { place: place(), what: "its fields make no sense" })
}

fn put_id(out: &mut Vec<u8>, id: EntryId) {
    out.put_u64_le(id.index.0);
    out.put_u64_le(id.term.0);
}

fn get_id(bytes: &mut &[u8]) -> Option<EntryId> {
    let index = Index(bytes.try_get_u64_le().ok()?);
    Some(EntryId { index, term: Term(bytes.try_get_u64_le().ok()?) })
}

fn put_conf(out: &mut Vec<u8>, (index, conf): &(Index, Conf)) {
    out.put_u64_le(index.0);
    let conf = conf.encode();
    out.put_u16_le(conf.len() as u16);
    out.extend_from_slice(&conf);
}

fn get_conf(bytes: &mut &[u8]) -> Option<(Index, Conf)> {
    let index = Index(bytes.try_get_u64_le().ok()?);
    let len = usize::from(bytes.try_get_u16_le().ok()?);
    let (conf, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some((index, Conf::decode(conf)?))
}

/// Length, id and parts written of what stands in parts.
fn put_parted(out: &mut Vec<u8>, (len, id, parts): (u32, u64, u32)) {
    out.put_u32_le(len);
    out.put_u64_le(id);
    out.put_u32_le(parts);
}

fn get_parted(bytes: &mut &[u8]) -> Option<(u32, u64, u32)> {
    let len = bytes.try_get_u32_le().ok()?;
    let id = bytes.try_get_u64_le().ok()?;
    Some((len, id, bytes.try_get_u32_le().ok()?))
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32_le(bytes.len() as u32);
    out.extend_from_slice(bytes);
}

fn get_bytes(bytes: &mut &[u8]) -> Option<Vec<u8>> {
    let len = bytes.try_get_u32_le().ok()? as usize;
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken.to_vec())
}

//! The rows that a group's state is, once it is on disk ([`crate::checkpoint`]).
//!
//! | key | value, numbers big endian |
//! |---|---|
//! | 0, 0, 0 | what the group keeps once: version, kind of state machine, log time (8), configuration that gave it its first slots (8, plus 1; 0: none yet) |
//! | 0, 0, 1, number (8) | of the shardmaster, a configuration: version, postcard; of version 2 what the one before it has not |
//! | 0, 0, 2 | of the shardmaster, what its map has once; this and all below: version, postcard |
//! | 0, 0, 3, chunk (1) | the owners of 256 slots |
//! | 0, 0, 4, number (8) | a move that not all sides have reported |
//! | 0, 0, 5, slot (2) | why a slot stays where it is |
//! | 0, 0, 6, order (8) | a move that all sides have reported |
//! | 0, 0, 7, order (8) | a request that was carried out |
//! | 0, 0, 8, group (4) | the seats of a group |
//! | 0, 0, 9 | groups that there were |
//! | slot + 1 (2), 0 | of a slot: version, floor of log time (8), version counter (8); if it ever moved (version 2), postcard of that |
//! | slot + 1 (2), 1, session (16) | a lane: version, postcard |
//! | slot + 1 (2), 2, key | a key: version, type, expiry (8) if the type says so, value |
//! | slot + 1 (2), 3, 0 or 1, kind, session or key | of a slot that is copied: a row that this round asks for (0), or that has changed since it began (1); version |
//!
//! Every value begins with the version of its row: a program reads each that it ever wrote. The group's
//! row sorts first, a slot's before what is in the slot, so that a reader in the order of keys always
//! knows where it is. Two bytes that no slot has are the group's, so that no prefix of one means both.

use crate::cluster_config::SHARDMASTER;
use crate::codec::{self, CodecError};
use crate::migration::{MoveRow, NameSet, Parts};
use crate::session::{LogTime, SessionId};
use crate::slot::{SLOTS, Slot};
use bytes::{Buf, BufMut, Bytes};
use raft_core::types::GroupId;

use crate::checkpoint::{RowBody, RowChange, RowHead};

/// Version of every kind of row so far.
const ROW_VERSION: u8 = 1;
/// Version of the row of a slot that has moved, or does.
const ROW_VERSION_MOVED: u8 = 2;
/// Version of a configuration that is told by what the one before it has not, and of seats with a report.
const ROW_VERSION_SECOND: u8 = 2;
const GROUP: [u8; 2] = [0, 0];
const GROUP_META: u8 = 0;
const MASTER_CONFIG: u8 = 1;
const MASTER_MAP: u8 = 2;
const MASTER_OWNERS: u8 = 3;
const MASTER_MOVE: u8 = 4;
const MASTER_WAITING: u8 = 5;
const MASTER_ENDED: u8 = 6;
const MASTER_REQUEST: u8 = 7;
const MASTER_SEATS: u8 = 8;
const MASTER_RETIRED: u8 = 9;
const SLOT_META: u8 = 0;
const SLOT_LANE: u8 = 1;
const SLOT_KEY: u8 = 2;
const SLOT_EXPORT: u8 = 3;
const SLOT_PART: u8 = 4;
/// Kinds of state machines.
const MASTER: u8 = 0;
const SHARD: u8 = 1;

/// Why rows are no state of a group. Where it was found names the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("row {} {fault}", hex(row))]
pub struct RowError {
    /// The key of the row; after the last one, of the row that was expected.
    pub row: Vec<u8>,
    /// What is wrong with it.
    pub fault: RowFault,
}

/// What is wrong with a row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowFault {
    /// The key names nothing that a state has.
    #[error("is of no kind that this program knows")]
    Kind,
    /// Its key is not above the one before.
    #[error("is not in the order of keys")]
    Order,
    /// The group's row, or that of its slot, was not there before it.
    #[error("comes without the row that must be before it")]
    Orphan,
    /// Written by another version of the program.
    #[error("has version {0}, which this program cannot read")]
    Version(u8),
    /// The value is cut short, too long, or not of its kind.
    #[error("has a malformed value")]
    Value,
    /// The value is not of its type.
    #[error("has a malformed value: {0}")]
    Codec(#[from] CodecError),
    /// It is of another kind of group.
    #[error("belongs to a group of another kind")]
    Group,
    /// It cannot be true together with its key or the rows before it.
    #[error("contradicts its key or a row before it")]
    Contradiction,
    /// It has to be there and is not.
    #[error("is missing")]
    Missing,
}

fn hex(bytes: &[u8]) -> String {
    /// Enough to find the row by; a key may have megabytes.
    const SHOWN_MAX: usize = 64;
    let shown: String = bytes.iter().take(SHOWN_MAX).map(|byte| format!("{byte:02x}")).collect();
    if bytes.len() > SHOWN_MAX { format!("{shown}...") } else { shown }
}

/// What a row is about, by its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row<'a> {
    Group,
    Master(MasterRow),
    Slot(Slot),
    Lane(Slot, SessionId),
    Key(Slot, &'a [u8]),
    Export(Slot, NameSet, &'a [u8]),
    /// Of a row that has not all come: 0 says which, the others are its parts.
    Part(Slot, u32),
}

/// What a row of the shardmaster is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum MasterRow {
    Config(u64),
    Map,
    Owners(u8),
    Move(u64),
    Waiting(Slot),
    Ended(u64),
    Request(u64),
    Seats(GroupId),
    Retired,
}

/// Slots whose owners are in one row.
const SLOTS_PER_CHUNK: u16 = 256;

impl MasterRow {
    /// The row with the owner of a slot.
    pub(crate) fn owners_of(slot: Slot) -> MasterRow {
        MasterRow::Owners((slot.0 / SLOTS_PER_CHUNK) as u8)
    }

    /// The first and the last slot whose owners are in that row.
    pub(crate) fn chunk(chunk: u8) -> (Slot, Slot) {
        let first = u16::from(chunk) * SLOTS_PER_CHUNK;
        (Slot(first), Slot(first + (SLOTS_PER_CHUNK - 1)))
    }

    fn put_key(self, key: &mut Vec<u8>) {
        let numbered = |key: &mut Vec<u8>, kind, number| {
            key.put_u8(kind);
            key.put_u64(number);
        };
        match self {
            MasterRow::Config(num) => numbered(key, MASTER_CONFIG, num),
            MasterRow::Map => key.put_u8(MASTER_MAP),
            MasterRow::Owners(chunk) => key.put_slice(&[MASTER_OWNERS, chunk]),
            MasterRow::Move(id) => numbered(key, MASTER_MOVE, id),
            MasterRow::Waiting(slot) => {
                key.put_u8(MASTER_WAITING);
                key.put_u16(slot.0);
            }
            MasterRow::Ended(order) => numbered(key, MASTER_ENDED, order),
            MasterRow::Request(order) => numbered(key, MASTER_REQUEST, order),
            MasterRow::Seats(group) => {
                key.put_u8(MASTER_SEATS);
                key.put_u32(group.0);
            }
            MasterRow::Retired => key.put_u8(MASTER_RETIRED),
        }
    }

    fn of(kind: u8, rest: &[u8]) -> Option<MasterRow> {
        let number = || Some(u64::from_be_bytes(rest.try_into().ok()?));
        match kind {
            MASTER_CONFIG => number().map(MasterRow::Config),
            MASTER_MAP => rest.is_empty().then_some(MasterRow::Map),
            MASTER_OWNERS => match rest {
                [chunk] if u16::from(*chunk) < SLOTS / SLOTS_PER_CHUNK => {
                    Some(MasterRow::Owners(*chunk))
                }
                _ => None,
            },
            MASTER_MOVE => number().map(MasterRow::Move),
            MASTER_WAITING => {
                let slot = u16::from_be_bytes(rest.try_into().ok()?);
                (slot < SLOTS).then_some(MasterRow::Waiting(Slot(slot)))
            }
            MASTER_ENDED => number().map(MasterRow::Ended),
            MASTER_REQUEST => number().map(MasterRow::Request),
            MASTER_SEATS => {
                let group = u32::from_be_bytes(rest.try_into().ok()?);
                Some(MasterRow::Seats(GroupId(group)))
            }
            MASTER_RETIRED => rest.is_empty().then_some(MasterRow::Retired),
            _ => None,
        }
    }
}

impl Row<'_> {
    /// The key that it has on disk.
    pub(crate) fn key(&self) -> Bytes {
        let mut key = Vec::with_capacity(32);
        match self {
            Row::Group => {
                key.put_slice(&GROUP);
                key.put_u8(GROUP_META);
            }
            Row::Master(row) => {
                key.put_slice(&GROUP);
                row.put_key(&mut key);
            }
            Row::Slot(slot) => {
                key.put_u16(slot.0 + 1);
                key.put_u8(SLOT_META);
            }
            Row::Lane(slot, session) => {
                key.put_u16(slot.0 + 1);
                key.put_u8(SLOT_LANE);
                key.put_u128(session.0);
            }
            Row::Key(slot, name) => {
                key.reserve_exact(3 + name.len());
                key.put_u16(slot.0 + 1);
                key.put_u8(SLOT_KEY);
                key.put_slice(name);
            }
            Row::Export(slot, set, name) => {
                key.reserve_exact(4 + name.len());
                key.put_u16(slot.0 + 1);
                key.put_u8(SLOT_EXPORT);
                key.put_u8(*set as u8);
                key.put_slice(name);
            }
            Row::Part(slot, number) => {
                key.put_u16(slot.0 + 1);
                key.put_u8(SLOT_PART);
                key.put_u32(*number);
            }
        }
        key.into()
    }

    /// What a key on disk stands for.
    pub(crate) fn of(key: &[u8]) -> Result<Row<'_>, RowFault> {
        let mut rest = key;
        let (slot, kind) = match (rest.try_get_u16(), rest.try_get_u8()) {
            (Ok(slot), Ok(kind)) => (slot, kind),
            _ => return Err(RowFault::Kind),
        };
        let Some(slot) = slot.checked_sub(1) else {
            return match (kind, rest) {
                (GROUP_META, []) => Ok(Row::Group),
                _ => MasterRow::of(kind, rest).map(Row::Master).ok_or(RowFault::Kind),
            };
        };
        if slot >= SLOTS {
            return Err(RowFault::Kind);
        }
        match (kind, rest) {
            (SLOT_META, []) => Ok(Row::Slot(Slot(slot))),
            (SLOT_LANE, session) => {
                let session = <[u8; 16]>::try_from(session).map_err(|_| RowFault::Kind)?;
                Ok(Row::Lane(Slot(slot), SessionId(u128::from_be_bytes(session))))
            }
            (SLOT_KEY, name) => Ok(Row::Key(Slot(slot), name)),
            (SLOT_EXPORT, [set, name @ ..]) if Named::of(name).is_some() => {
                let set = match set {
                    0 => NameSet::List,
                    1 => NameSet::Dirty,
                    _ => return Err(RowFault::Kind),
                };
                Ok(Row::Export(Slot(slot), set, name))
            }
            (SLOT_PART, number) => {
                let number = number.try_into().map_err(|_| RowFault::Kind)?;
                Ok(Row::Part(Slot(slot), u32::from_be_bytes(number)))
            }
            _ => Err(RowFault::Kind),
        }
    }

    /// Says that the row has this value now.
    pub(crate) fn put(&self, (head, body): RowValue) -> RowChange {
        RowChange::Put { key: self.key(), head, body }
    }

    /// Says that the row is gone.
    pub(crate) fn delete(&self) -> RowChange {
        RowChange::Delete { key: self.key() }
    }
}

/// Says that all keys of a slot are gone.
pub(crate) fn delete_keys(slot: Slot) -> RowChange {
    RowChange::DeletePrefix { prefix: Row::Key(slot, &[]).key() }
}

/// Says that no row of an export of a slot is there.
pub(crate) fn delete_export(slot: Slot) -> RowChange {
    delete_kind(slot, SLOT_EXPORT)
}

/// Says that no parts of a row are there.
pub(crate) fn delete_parts(slot: Slot) -> RowChange {
    delete_kind(slot, SLOT_PART)
}

fn delete_kind(slot: Slot, kind: u8) -> RowChange {
    let mut prefix = Row::Slot(slot).key().to_vec();
    prefix[2] = kind;
    RowChange::DeletePrefix { prefix: prefix.into() }
}

/// What is kept first of a row that comes in parts.
pub(crate) fn parts_value(name: &Bytes, total: u64) -> RowValue {
    let mut head = versioned();
    head.extend_from_slice(&total.to_be_bytes());
    (head, name.clone().into())
}

/// The same as it was written, without a part.
pub(crate) fn parts_of(mut value: Bytes) -> Result<Parts, RowFault> {
    unversioned(&mut value)?;
    let total = value.try_get_u64().map_err(|_| RowFault::Value)?;
    let named = Named::of(&value).is_some();
    Parts::begin(value, total).filter(|_| named).ok_or(RowFault::Value)
}

/// A row of a slot by the end of its key, which is its name within the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named<'a> {
    Lane(SessionId),
    Key(&'a [u8]),
}

impl Named<'_> {
    /// What a name stands for.
    pub(crate) fn of(name: &[u8]) -> Option<Named<'_>> {
        match name.split_first()? {
            (&SLOT_LANE, session) => {
                let session = <[u8; 16]>::try_from(session).ok()?;
                Some(Named::Lane(SessionId(u128::from_be_bytes(session))))
            }
            (&SLOT_KEY, key) => Some(Named::Key(key)),
            _ => None,
        }
    }

    /// Its name.
    pub(crate) fn name(&self) -> Bytes {
        let mut name = Vec::with_capacity(32);
        match self {
            Named::Lane(session) => {
                name.put_u8(SLOT_LANE);
                name.put_u128(session.0);
            }
            Named::Key(key) => {
                name.reserve_exact(1 + key.len());
                name.put_u8(SLOT_KEY);
                name.put_slice(key);
            }
        }
        name.into()
    }
}

/// The bytes of a row's value: those of its own, and those that may be shared.
pub(crate) type RowValue = (RowHead, RowBody);

/// The first byte of every value.
pub(crate) fn versioned() -> RowHead {
    RowHead::from_slice(&[ROW_VERSION])
}

/// The first byte of a value in its second form: of a configuration what the one before it has not, of seats
/// with what is reported of them.
pub(crate) fn versioned_second() -> RowHead {
    RowHead::from_slice(&[ROW_VERSION_SECOND])
}

/// Takes the version off the value of a configuration or of seats: whether it is in its second form.
pub(crate) fn is_second(value: &mut Bytes) -> Result<bool, RowFault> {
    match value.first() {
        Some(&ROW_VERSION_SECOND) => {
            value.advance(1);
            Ok(true)
        }
        _ => unversioned(value).map(|()| false),
    }
}

/// Takes the version off a value.
pub(crate) fn unversioned(value: &mut Bytes) -> Result<(), RowFault> {
    match value.try_get_u8() {
        Ok(ROW_VERSION) => Ok(()),
        Ok(version) => Err(RowFault::Version(version)),
        Err(_) => Err(RowFault::Value),
    }
}

/// What a group keeps once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupRow {
    pub(crate) log_time: LogTime,
    /// As in the state of a shard group; the number plus 1.
    pub(crate) assigned: u64,
}

impl GroupRow {
    pub(crate) fn value(self, group: GroupId) -> RowValue {
        let mut head = versioned();
        head.push(kind_of(group));
        head.extend_from_slice(&self.log_time.0.to_be_bytes());
        head.extend_from_slice(&self.assigned.to_be_bytes());
        (head, RowBody::default())
    }

    pub(crate) fn read(mut value: Bytes, group: GroupId) -> Result<GroupRow, RowFault> {
        unversioned(&mut value)?;
        match value.try_get_u8() {
            Ok(kind) if kind == kind_of(group) => {}
            Ok(_) => return Err(RowFault::Group),
            Err(_) => return Err(RowFault::Value),
        }
        let [log_time, assigned] = numbers(value)?;
        Ok(GroupRow { log_time: LogTime(log_time), assigned })
    }
}

fn kind_of(group: GroupId) -> u8 {
    if group == SHARDMASTER { MASTER } else { SHARD }
}

/// What a slot keeps once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SlotRow {
    pub(crate) floor: LogTime,
    pub(crate) version: u64,
    pub(crate) moves: MoveRow,
}

impl SlotRow {
    pub(crate) fn value(&self) -> RowValue {
        let moved = !self.moves.is_first();
        let mut head = RowHead::from_slice(&[if moved { ROW_VERSION_MOVED } else { ROW_VERSION }]);
        head.extend_from_slice(&self.floor.0.to_be_bytes());
        head.extend_from_slice(&self.version.to_be_bytes());
        let body = moved.then(|| codec::bytes_of(&self.moves).freeze());
        (head, body.into_iter().collect())
    }

    pub(crate) fn read(mut value: Bytes, slot: Slot) -> Result<SlotRow, RowFault> {
        let row_version = value.try_get_u8().map_err(|_| RowFault::Value)?;
        let floor = value.try_get_u64().map_err(|_| RowFault::Value)?;
        let version = value.try_get_u64().map_err(|_| RowFault::Value)?;
        let moves = match row_version {
            ROW_VERSION if value.is_empty() => MoveRow::FIRST,
            ROW_VERSION => return Err(RowFault::Value),
            ROW_VERSION_MOVED => codec::whole::<MoveRow>(&value)?,
            other => return Err(RowFault::Version(other)),
        };
        // No history is long enough, and one more change must not end at the largest number.
        if version > u64::MAX / 2 || !moves.is_possible(slot) {
            return Err(RowFault::Value);
        }
        Ok(SlotRow { floor: LogTime(floor), version, moves })
    }
}

/// Reads two numbers and nothing else.
fn numbers(mut value: Bytes) -> Result<[u64; 2], RowFault> {
    match (value.try_get_u64(), value.try_get_u64(), value.is_empty()) {
        (Ok(first), Ok(second), true) => Ok([first, second]),
        _ => Err(RowFault::Value),
    }
}

/// Sees to it that rows come in the order of their keys.
#[derive(Debug, Default)]
pub(crate) struct RowOrder(Vec<u8>);

impl RowOrder {
    pub(crate) fn follows(&mut self, key: &[u8]) -> Result<(), RowFault> {
        if !self.0.is_empty() && key <= self.0.as_slice() {
            return Err(RowFault::Order);
        }
        self.0.clear();
        self.0.extend_from_slice(key);
        Ok(())
    }
}

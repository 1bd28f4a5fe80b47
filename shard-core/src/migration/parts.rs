//! Rows that are larger than a chunk: they come in parts.
//!
//! A part is a piece of the row's value as on disk, and nobody looks into it before the last one is there: a part of
//! one value and a part of another may fit together and be neither. So all parts are of the same value. The source
//! sees to that: a row that has changed since its round began is left out of the round, since it is in the next one
//! anyway. What it hands out of the row is the row as it was when the round began, whoever leads the source, and a
//! message that was on its way for long as well. In the last round nothing changes.
//!
//! The destination keeps the parts of one row, the one behind its cursor, in the place of the whole value, and lets go
//! of them when the cursor moves on.

use super::{Chunk, ChunkRow, RowName};
use crate::digest::Digest;
use crate::shard_store::{Mutant, is_broken};
use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

/// A row in parts has at most so many bytes: more than a key or a lane ever has.
const PARTED_BYTES_MAX: u64 = 256 << 20;

/// Which part of a row a chunk has, whose only row it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartOf {
    /// Where it begins in the row's value.
    pub offset: u64,
    /// Bytes of the whole value.
    pub total: u64,
}

/// How much of a row is there already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The row.
    pub name: RowName,
    /// From its beginning on, so many bytes.
    pub bytes: u64,
}

/// The parts of a row that have come.
#[derive(Debug)]
pub(crate) struct Parts {
    name: RowName,
    total: u64,
    /// With room for all of it: where each part has its place.
    value: BytesMut,
}

impl Parts {
    /// Of a row of that many bytes, nothing so far. None: there is no such row.
    pub(crate) fn begin(name: RowName, total: u64) -> Option<Parts> {
        let fits = (1..=PARTED_BYTES_MAX).contains(&total);
        fits.then(|| Parts { name, total, value: BytesMut::with_capacity(total as usize) })
    }

    /// Whether a part goes on from what is held. Begun anew it is the first, of another row that has come in the
    /// place of that one.
    pub(crate) fn take(held: Option<&Parts>, row: &ChunkRow, part: PartOf) -> Option<PartPlace> {
        let bytes = row.value.as_ref().map_or(0, Bytes::len) as u64;
        let held = held.filter(|held| held.name == row.name && held.total == part.total);
        let before = held.map_or(0, Parts::bytes);
        let next = part.offset == before || held.is_some() && is_broken(Mutant::AnyPart);
        let fits = bytes > 0 && before.checked_add(bytes)? <= part.total;
        let place = if held.is_some() { PartPlace::Behind } else { PartPlace::First };
        (next && fits && part.total <= PARTED_BYTES_MAX).then_some(place)
    }

    /// Adds the next piece.
    ///
    /// # Panics
    /// If the row is not that long.
    pub(crate) fn push(&mut self, piece: &[u8]) {
        assert!(self.bytes() + piece.len() as u64 <= self.total, "more than the row has");
        self.value.extend_from_slice(piece);
    }

    /// Whether all of the row is there.
    pub(crate) fn is_whole(&self) -> bool {
        self.bytes() == self.total || is_broken(Mutant::PartIsWhole)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.value.len() as u64
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn name(&self) -> &RowName {
        &self.name
    }

    /// What is there.
    pub(crate) fn value(&self) -> &[u8] {
        &self.value
    }

    /// What is there, for whoever asks for more.
    pub(crate) fn held(&self) -> Held {
        Held { name: self.name.clone(), bytes: self.bytes() }
    }

    /// What is there is not copied.
    pub(crate) fn end(self) -> EndedParts {
        EndedParts { name: self.name, total: self.total, value: self.value.freeze() }
    }

    pub(crate) fn digest(&self, digest: &mut Digest) {
        digest.numbers(&[self.total]);
        digest.bytes(&self.name);
        digest.bytes(&self.value);
    }
}

/// Where a part has its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PartPlace {
    /// It is the first of its row.
    First,
    /// Behind those that are held.
    Behind,
}

/// Parts to which no more come: the row is whole, or they are not needed any more.
#[derive(Clone, Debug)]
pub(crate) struct EndedParts {
    pub(crate) name: RowName,
    pub(crate) total: u64,
    pub(crate) value: Bytes,
}

impl Chunk {
    /// The row that a chunk with a part has. What is said of the rest of the round comes with the chunk behind it.
    pub(crate) fn parted_row(&self) -> Option<&ChunkRow> {
        let [row] = &self.rows[..] else { return None };
        let alone = self.frozen.is_none() && self.next.as_ref() == Some(&row.name);
        Some(row).filter(|_| alone)
    }
}

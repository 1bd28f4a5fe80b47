//! The rows of one generation: changed in a write transaction, read and verified in any.

use super::format::{
    Fault, Home, PARTS, ROWS, Stored, Totals, after_prefix, check, decode_row, encode_inline,
    encode_parted, is_inline, own_key, part_len, parts_of, row_hash, row_hasher,
};
use redb::{AccessGuard, ReadableTable, Table, WriteTransaction};
use std::borrow::Cow;
use std::ops::Bound;

/// The longest key of a row: the longest key of a client, and what a state machine adds.
pub(super) const ROW_KEY_BYTES_MAX: usize = 65 << 20;
/// The longest value of a row, of which a client's is a part.
pub(super) const ROW_VALUE_BYTES_MAX: usize = 1 << 30;

/// A table of bytes.
pub(super) type Bytewise<'t> = Table<'t, &'static [u8], &'static [u8]>;

/// The rows of one generation, to be changed.
pub(super) struct Rows<'t> {
    home: Home,
    rows: Bytewise<'t>,
    parts: Bytewise<'t>,
    /// A row is put together here.
    scratch: Vec<u8>,
}

/// What is left of a row that was taken out.
struct Gone {
    hash: u64,
    key_len: usize,
    len: usize,
    /// Its value stands in parts of this id.
    parted: Option<u64>,
}

impl Gone {
    fn of(home: Home, key: &[u8], row: &[u8]) -> Result<Gone, Fault> {
        let (hash, stored) = decode_row(home, key, row)?;
        let parted = match stored {
            Stored::Inline(_) => None,
            Stored::Parted { id, .. } => Some(id),
        };
        Ok(Gone { hash, key_len: key.len(), len: stored.len(), parted })
    }
}

impl<'t> Rows<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction, home: Home) -> Result<Rows<'t>, Fault> {
        let (rows, parts) = (transaction.open_table(ROWS)?, transaction.open_table(PARTS)?);
        Ok(Rows { home, rows, parts, scratch: Vec::new() })
    }

    /// Sets a row, whose value is `pieces`, one behind the other. Returns whether it was there before.
    pub(super) fn put(
        &mut self,
        totals: &mut Totals,
        key: &[u8],
        pieces: &[&[u8]],
    ) -> Result<bool, Fault> {
        let len = pieces.iter().map(|piece| piece.len()).sum();
        if key.len() > ROW_KEY_BYTES_MAX || len > ROW_VALUE_BYTES_MAX {
            let what = format!("a row of {} and {len} bytes is too big", key.len());
            return Err(Fault::Refused(what));
        }
        let hash = row_hash(key, pieces.iter().copied());
        if is_inline(key.len(), len) {
            encode_inline(&mut self.scratch, hash, pieces);
            return self.insert(totals, key, hash, len);
        }
        let id = totals.next_value;
        totals.next_value += 1;
        let mut left = pieces.iter().copied();
        let (mut piece, mut part): (&[u8], Vec<&[u8]>) = (&[], Vec::new());
        for number in 0..parts_of(len as u32) {
            part.clear();
            let mut wanted = part_len(len as u32, number);
            while wanted > 0 {
                let (taken, rest) = piece.split_at(wanted.min(piece.len()));
                part.push(taken);
                (piece, wanted) = (rest, wanted - taken.len());
                if wanted > 0 {
                    piece = left.next().expect("the pieces have as many bytes as their sum");
                }
            }
            self.put_part(id, number, &part)?;
        }
        self.put_parted(totals, key, hash, (len as u32, id))
    }

    /// Sets the row of a value whose parts are there.
    pub(super) fn put_parted(
        &mut self,
        totals: &mut Totals,
        key: &[u8],
        hash: u64,
        (len, id): (u32, u64),
    ) -> Result<bool, Fault> {
        encode_parted(&mut self.scratch, key, hash, len, id);
        self.insert(totals, key, hash, len as usize)
    }

    /// One part of a value, whose row comes later.
    pub(super) fn put_part(&mut self, id: u64, number: u32, pieces: &[&[u8]]) -> Result<(), Fault> {
        let key = self.home.part_key(id, number);
        let seal = check(&key, pieces.iter().copied());
        let len = 8 + pieces.iter().map(|piece| piece.len()).sum::<usize>();
        let mut page = self.parts.insert_reserve(&key[..], len)?;
        let (sealed, mut rest) = page.as_mut().split_at_mut(8);
        sealed.copy_from_slice(&seal.to_le_bytes());
        for piece in pieces {
            let place;
            (place, rest) = rest.split_at_mut(piece.len());
            place.copy_from_slice(piece);
        }
        Ok(())
    }

    /// The hash that the row of a value in parts has.
    pub(super) fn hash_parts(&self, key: &[u8], (len, id): (u32, u64)) -> Result<u64, Fault> {
        let mut hash = row_hasher(key);
        for number in 0..parts_of(len) {
            let part = read_part(&self.parts, self.home, id, number)?;
            hash.update(checked_part(self.home, id, number, len, part.value())?);
        }
        Ok(hash.digest())
    }

    /// What stands in parts that no row names, which are gone after that.
    pub(super) fn take_parts(&mut self, (len, id): (u32, u64)) -> Result<Vec<u8>, Fault> {
        let mut bytes = Vec::with_capacity(len as usize);
        for number in 0..parts_of(len) {
            let part = read_part(&self.parts, self.home, id, number)?;
            bytes.extend_from_slice(checked_part(self.home, id, number, len, part.value())?);
        }
        self.remove_parts((len, id))?;
        Ok(bytes)
    }

    fn remove_parts(&mut self, (len, id): (u32, u64)) -> Result<(), Fault> {
        for number in 0..parts_of(len) {
            self.parts.remove(&self.home.part_key(id, number)[..])?;
        }
        Ok(())
    }

    fn insert(
        &mut self,
        totals: &mut Totals,
        key: &[u8],
        hash: u64,
        len: usize,
    ) -> Result<bool, Fault> {
        let full = self.home.row_key(key);
        let before = self.rows.insert(&full[..], &self.scratch[..])?;
        let before = before.map(|row| Gone::of(self.home, key, row.value())).transpose()?;
        totals.add(hash, key.len(), len);
        self.forget(totals, before)
    }

    /// Takes a row away, if it is there.
    pub(super) fn delete(&mut self, totals: &mut Totals, key: &[u8]) -> Result<bool, Fault> {
        let full = self.home.row_key(key);
        let before = self.rows.remove(&full[..])?;
        let before = before.map(|row| Gone::of(self.home, key, row.value())).transpose()?;
        self.forget(totals, before)
    }

    fn forget(&mut self, totals: &mut Totals, gone: Option<Gone>) -> Result<bool, Fault> {
        let Some(gone) = gone else { return Ok(false) };
        totals.subtract(gone.hash, gone.key_len, gone.len);
        if let Some(id) = gone.parted {
            self.remove_parts((gone.len as u32, id))?;
        }
        Ok(true)
    }

    /// Takes away every row whose key begins so; returns how many.
    pub(super) fn delete_prefix(
        &mut self,
        totals: &mut Totals,
        prefix: &[u8],
    ) -> Result<u64, Fault> {
        let home = self.home;
        let start = home.row_key(prefix);
        let end = after_prefix(&start);
        let range = (Bound::Included(&start[..]), end.as_ref().map(|end| &end[..]));
        // The parts of a long value weigh a thousand times what is remembered of it here.
        let (mut parted, mut fault, mut count) = (Vec::new(), None, 0);
        self.rows.retain_in::<&[u8], _>(range, |key, row| {
            match Gone::of(home, own_key(key), row) {
                Ok(gone) if gone.parted.is_some() => parted.push(gone),
                Ok(gone) => totals.subtract(gone.hash, gone.key_len, gone.len),
                Err(found) => {
                    fault.get_or_insert(found);
                    return true;
                }
            }
            count += 1;
            false
        })?;
        if let Some(fault) = fault {
            return Err(fault);
        }
        for gone in parted {
            self.forget(totals, Some(gone))?;
        }
        Ok(count)
    }
}

/// A part as it stands; [`checked_part`] verifies it.
pub(super) fn read_part<'p>(
    parts: &'p impl ReadableTable<&'static [u8], &'static [u8]>,
    home: Home,
    id: u64,
    number: u32,
) -> Result<AccessGuard<'p, &'static [u8]>, Fault> {
    let part = parts.get(&home.part_key(id, number)[..])?;
    part.ok_or_else(|| damaged_part(home, id, number, "it is missing"))
}

/// The bytes of one part of a value of `len` bytes.
pub(super) fn checked_part(
    home: Home,
    id: u64,
    number: u32,
    len: u32,
    part: &[u8],
) -> Result<&[u8], Fault> {
    let Some((seal, bytes)) = part.split_first_chunk::<8>() else {
        return Err(damaged_part(home, id, number, "it is cut off"));
    };
    if u64::from_le_bytes(*seal) != check(&home.part_key(id, number), [bytes]) {
        return Err(damaged_part(home, id, number, "it is not what its check says"));
    }
    if bytes.len() != part_len(len, number) {
        return Err(damaged_part(home, id, number, "it has not the length that its row says"));
    }
    Ok(bytes)
}

fn damaged_part(home: Home, id: u64, number: u32, what: &'static str) -> Fault {
    let Home { group, generation } = home;
    let place = format!("part {number} of value {id} of group {group}, generation {generation}");
    Fault::Damaged { place, what }
}

/// Why reading all rows ended early.
pub(super) enum Stopped<E> {
    /// The file cannot be read.
    Fault(Fault),
    /// Who asked wants no more.
    Refused(E),
}

impl<E, F: Into<Fault>> From<F> for Stopped<E> {
    fn from(fault: F) -> Stopped<E> {
        Stopped::Fault(fault.into())
    }
}

/// Gives every row of a generation in the order of the keys, verified, and returns what they come to.
pub(super) fn for_each<E>(
    rows: &impl ReadableTable<&'static [u8], &'static [u8]>,
    parts: &impl ReadableTable<&'static [u8], &'static [u8]>,
    home: Home,
    mut give: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
) -> Result<Totals, Stopped<E>> {
    let mut totals = Totals::EMPTY;
    let prefix = home.prefix();
    let end = after_prefix(&prefix);
    let range = (Bound::Included(&prefix[..]), end.as_ref().map(|end| &end[..]));
    for entry in rows.range::<&[u8]>(range)? {
        let (full, row) = entry?;
        let key = own_key(full.value());
        let (hash, value) = read_value(parts, home, key, row.value())?;
        totals.add(hash, key.len(), value.len());
        give(key, &value).map_err(Stopped::Refused)?;
    }
    Ok(totals)
}

/// The hash and the value of a row, verified.
pub(super) fn read_value<'r>(
    parts: &impl ReadableTable<&'static [u8], &'static [u8]>,
    home: Home,
    key: &[u8],
    row: &'r [u8],
) -> Result<(u64, Cow<'r, [u8]>), Fault> {
    let (hash, stored) = decode_row(home, key, row)?;
    let (len, id) = match stored {
        Stored::Inline(value) => return Ok((hash, Cow::Borrowed(value))),
        Stored::Parted { len, id } => (len, id),
    };
    let mut value = Vec::new();
    for number in 0..parts_of(len) {
        let part = read_part(parts, home, id, number)?;
        if number == 0 {
            value.reserve(len as usize);
        }
        value.extend_from_slice(checked_part(home, id, number, len, part.value())?);
    }
    if row_hash(key, [&value[..]]) != hash {
        return Err(home.damaged(key, "the value is not what its hash says"));
    }
    Ok((hash, Cow::Owned(value)))
}

//! A snapshot that comes in: its stream is taken apart into the rows of a generation of their own,
//! which nobody reads before all of it was compared with the name.
//!
//! What of a piece is not yet a row, or a part of a long value or key, is kept in the row `staging` with
//! everything else that the next piece needs, in the same transaction as the rows. So what was
//! reported is never asked for again, and a crash loses nothing of it. It is less than a part and a
//! half, however long keys and values are; a long key is put together once, for its row.

use super::format::{
    Fault, PART_BYTES, RECORD_HEADER_BYTES, STREAM_HEADER, StagedKey, StagingRow, Unfinished,
    is_inline, part_len, parts_of,
};
use super::rows::{ROW_KEY_BYTES_MAX, ROW_VALUE_BYTES_MAX, Rows};
use bytes::{Buf, Bytes, BytesMut};
use raft_core::conf::Conf;
use raft_core::snapshot::Snapshot;

/// What became of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fed {
    /// It is taken in.
    Taken,
    /// What came is no stream, or not of this snapshot.
    Corrupt,
}

/// Whether such a snapshot could have been named by a leader of ours; others are not even begun.
pub(super) fn is_possible(snapshot: &Snapshot) -> bool {
    let conf = &snapshot.conf.1;
    snapshot.bytes >= STREAM_HEADER.len() as u64
        && Conf::decode(&conf.encode()).as_ref() == Some(conf)
}

/// Takes in the bytes at `row.offset`.
pub(super) fn feed(row: &mut StagingRow, rows: &mut Rows<'_>, piece: &Bytes) -> Result<Fed, Fault> {
    let left = row.snapshot.bytes - row.offset;
    if piece.len() as u64 > left {
        return Ok(Fed::Corrupt);
    }
    // The header is taken off with the first eight bytes; before that all is tail.
    let begins = row.offset == row.tail.len() as u64;
    let mut input = BytesMut::with_capacity(row.tail.len() + piece.len());
    input.extend_from_slice(&std::mem::take(&mut row.tail));
    input.extend_from_slice(piece);
    row.offset += piece.len() as u64;
    let mut input = input.freeze();
    if begins {
        match input.get(..STREAM_HEADER.len()) {
            Some(header) if header != STREAM_HEADER => return Ok(Fed::Corrupt),
            Some(_) => input.advance(STREAM_HEADER.len()),
            None => {
                row.tail = input.to_vec();
                return Ok(Fed::Taken);
            }
        }
    }
    loop {
        let step = match row.unfinished.take() {
            Some(value) => part(row, rows, value, &mut input)?,
            None => record(row, rows, &mut input)?,
        };
        match step {
            Step::On => {}
            Step::Corrupt => return Ok(Fed::Corrupt),
            Step::More => break,
        }
    }
    row.tail = input.to_vec();
    if !row.is_whole() {
        return Ok(Fed::Taken);
    }
    let whole = row.tail.is_empty()
        && row.unfinished.is_none()
        && row.totals.hash == row.snapshot.id.hash
        && row.totals.bytes == row.snapshot.bytes;
    Ok(if whole { Fed::Taken } else { Fed::Corrupt })
}

enum Step {
    /// Something was taken off the input.
    On,
    /// The input is too short for the next row or part.
    More,
    Corrupt,
}

/// The next row, or the beginning of one with a long key or value.
fn record(row: &mut StagingRow, rows: &mut Rows<'_>, input: &mut Bytes) -> Result<Step, Fault> {
    let Some(mut header) = input.get(..RECORD_HEADER_BYTES) else { return Ok(Step::More) };
    let (key_len, len) = (header.get_u32_le() as usize, header.get_u32_le());
    let record = RECORD_HEADER_BYTES as u64 + key_len as u64 + u64::from(len);
    let left = row.snapshot.bytes - row.offset + input.len() as u64;
    let value_len = len as usize;
    if record > left || key_len > ROW_KEY_BYTES_MAX || value_len > ROW_VALUE_BYTES_MAX {
        return Ok(Step::Corrupt);
    }
    let inline = is_inline(key_len, value_len);
    let key_here = key_len <= PART_BYTES;
    let need = match key_here {
        true => RECORD_HEADER_BYTES + key_len + if inline { value_len } else { 0 },
        false => RECORD_HEADER_BYTES,
    };
    if input.len() < need {
        return Ok(Step::More);
    }
    input.advance(RECORD_HEADER_BYTES);
    let mut next_id = || {
        row.totals.next_value += 1;
        row.totals.next_value - 1
    };
    if !key_here {
        let key = StagedKey::Parted { len: key_len as u32, id: next_id(), parts: 0 };
        row.unfinished = Some(Unfinished { key, len, id: next_id(), parts: 0 });
        return Ok(Step::On);
    }
    let key = input.split_to(key_len);
    if !inline {
        let key = StagedKey::Here(key.to_vec());
        row.unfinished = Some(Unfinished { key, len, id: next_id(), parts: 0 });
        return Ok(Step::On);
    }
    let value = input.split_to(value_len);
    let twice = rows.put(&mut row.totals, &key, &[&value])?;
    Ok(if twice { Step::Corrupt } else { Step::On })
}

/// The next part of a long key or value; their row, after the last.
fn part(
    row: &mut StagingRow,
    rows: &mut Rows<'_>,
    mut unfinished: Unfinished,
    input: &mut Bytes,
) -> Result<Step, Fault> {
    let Unfinished { key, len: value_len, id: value, parts: value_parts } = &mut unfinished;
    let (len, id, parts) = match key {
        StagedKey::Parted { len, id, parts } if *parts < parts_of(*len) => (*len, *id, parts),
        StagedKey::Parted { len, .. } if is_inline(*len as usize, *value_len as usize) => {
            return finish_inline(row, rows, unfinished, input);
        }
        StagedKey::Here(_) | StagedKey::Parted { .. } => (*value_len, *value, value_parts),
    };
    let need = part_len(len, *parts);
    if input.len() < need {
        row.unfinished = Some(unfinished);
        return Ok(Step::More);
    }
    rows.put_part(id, *parts, &[&input.split_to(need)])?;
    *parts += 1;
    if unfinished.parts == 0 || unfinished.parts < parts_of(unfinished.len) {
        row.unfinished = Some(unfinished);
        return Ok(Step::On);
    }
    let place = (unfinished.len, unfinished.id);
    let key = whole_key(rows, unfinished.key)?;
    let hash = rows.hash_parts(&key, place)?;
    let twice = rows.put_parted(&mut row.totals, &key, hash, place)?;
    Ok(if twice { Step::Corrupt } else { Step::On })
}

/// The row of a long key whose value is short.
fn finish_inline(
    row: &mut StagingRow,
    rows: &mut Rows<'_>,
    unfinished: Unfinished,
    input: &mut Bytes,
) -> Result<Step, Fault> {
    if input.len() < unfinished.len as usize {
        row.unfinished = Some(unfinished);
        return Ok(Step::More);
    }
    let value = input.split_to(unfinished.len as usize);
    let key = whole_key(rows, unfinished.key)?;
    let twice = rows.put(&mut row.totals, &key, &[&value])?;
    Ok(if twice { Step::Corrupt } else { Step::On })
}

/// The key, all of which is here.
fn whole_key(rows: &mut Rows<'_>, key: StagedKey) -> Result<Vec<u8>, Fault> {
    match key {
        StagedKey::Here(key) => Ok(key),
        StagedKey::Parted { len, id, .. } => rows.take_parts((len, id)),
    }
}

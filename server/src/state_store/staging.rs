//! A snapshot that comes in: its stream is taken apart into the rows of a generation of their own,
//! which nobody reads before all of it was compared with the name.
//!
//! What of a piece is not yet a row, or a part of a long value, is kept in the row `staging` with
//! everything else that the next piece needs, in the same transaction as the rows. So what was
//! reported is never asked for again, and a crash loses nothing of it.

use super::format::{
    Fault, RECORD_HEADER_BYTES, STREAM_HEADER, StagingRow, Unfinished, is_inline, part_len,
    parts_of,
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

/// The next row, or the beginning of one with a long value.
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
    let need = RECORD_HEADER_BYTES + key_len + if inline { value_len } else { 0 };
    if input.len() < need {
        return Ok(Step::More);
    }
    input.advance(RECORD_HEADER_BYTES);
    let key = input.split_to(key_len);
    if !inline {
        let id = row.totals.next_value;
        row.totals.next_value += 1;
        row.unfinished = Some(Unfinished { key: key.to_vec(), len, id, parts: 0 });
        return Ok(Step::On);
    }
    let value = input.split_to(value_len);
    let twice = rows.put(&mut row.totals, &key, &[&value])?;
    Ok(if twice { Step::Corrupt } else { Step::On })
}

/// The next part of a long value; its row, after the last.
fn part(
    row: &mut StagingRow,
    rows: &mut Rows<'_>,
    mut value: Unfinished,
    input: &mut Bytes,
) -> Result<Step, Fault> {
    let need = part_len(value.len, value.parts);
    if input.len() < need {
        row.unfinished = Some(value);
        return Ok(Step::More);
    }
    let bytes = input.split_to(need);
    rows.put_part(value.id, value.parts, &[&bytes])?;
    value.parts += 1;
    if value.parts < parts_of(value.len) {
        row.unfinished = Some(value);
        return Ok(Step::On);
    }
    let place = (value.len, value.id);
    let hash = rows.hash_parts(&value.key, place)?;
    let twice = rows.put_parted(&mut row.totals, &value.key, hash, place)?;
    Ok(if twice { Step::Corrupt } else { Step::On })
}

//! The rows of `log.redb`: how a batch of frames becomes rows, and rows become frames again.
//!
//! Table `wal` maps a sequence number to a piece. All frames of one commit, one behind the other,
//! are a *blob*; it is cut into pieces with consecutive numbers, and a frame may span pieces, but
//! never blobs. A piece is:
//!
//! | bytes | field |
//! |---|---|
//! | 1 | 1 if a blob begins here, else 0 |
//! | 8 | bytes of the blob from here on, this piece's included; little endian |
//! | n | frames ([`raft_core::frame`], each with its own checksum) |
//!
//! The first two fields are redundant on purpose: they show a missing row, which no frame's
//! checksum would. Table `meta` has the format's number and that of the oldest row: blobs are removed
//! oldest first, in the transaction that writes the new number, so a beginning that is missing shows
//! as well.

use bytes::{Buf, Bytes, BytesMut};
use raft_core::frame::{self, Frame, FrameError};
use redb::{ReadableTable, StorageError, Table, TableDefinition};
use std::collections::VecDeque;
use std::fmt;

pub(super) const WAL: TableDefinition<u64, &[u8]> = TableDefinition::new("wal");
pub(super) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// Key of the format's number in `meta`.
pub(super) const FORMAT_KEY: &str = "format";
/// Key of the oldest row's number in `meta`; without it, 0.
pub(super) const FIRST_KEY: &str = "first";
/// The format written here, and the newest that is read. 1 did not say whose it is.
pub(super) const FORMAT: u64 = 2;

const PIECE_HEADER_BYTES: usize = 9;
/// A row with its key and the page's own header must stay under a power of two: redb's pages are
/// powers of two, and a byte more would take twice the space.
const PIECE_BYTES_MAX: usize = (16 << 10) - 128;
const PIECE_PAYLOAD_BYTES: usize = PIECE_BYTES_MAX - PIECE_HEADER_BYTES;

/// Where a frame begins: a row and a place behind that row's header. Prints as `row 7 byte 30`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) seq: u64,
    pub(super) offset: u32,
}

impl Place {
    /// The place `position` bytes into a blob whose first row is `seq`.
    pub(super) fn in_blob(seq: u64, position: u64) -> Place {
        let payload = PIECE_PAYLOAD_BYTES as u64;
        Place { seq: seq + position / payload, offset: (position % payload) as u32 }
    }

    /// The place `bytes` further on in the same blob.
    pub(super) fn advanced(self, bytes: u64) -> Place {
        Place::in_blob(self.seq, u64::from(self.offset) + bytes)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "row {} byte {}", self.seq, self.offset)
    }
}

/// Why rows cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum WalError {
    /// The database could not give them.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// They are not what was written.
    #[error("{0}: {1}")]
    Damaged(Place, String),
}

/// Writes one blob and returns the number of the next free row.
pub(super) fn write_blob(
    table: &mut Table<'_, u64, &'static [u8]>,
    mut seq: u64,
    frames: &[Bytes],
) -> Result<u64, StorageError> {
    let mut remaining: usize = frames.iter().map(Bytes::len).sum();
    let mut unwritten = frames.iter();
    let mut frame: &[u8] = &[];
    let mut begins = true;
    while remaining > 0 {
        let payload = remaining.min(PIECE_PAYLOAD_BYTES);
        let mut row = table.insert_reserve(seq, PIECE_HEADER_BYTES + payload)?;
        let (header, mut space) = row.as_mut().split_at_mut(PIECE_HEADER_BYTES);
        header[0] = u8::from(begins);
        header[1..].copy_from_slice(&(remaining as u64).to_le_bytes());
        while !space.is_empty() {
            while frame.is_empty() {
                frame = unwritten.next().expect("the frames have as many bytes as their sum");
            }
            let count = frame.len().min(space.len());
            space[..count].copy_from_slice(&frame[..count]);
            frame = &frame[count..];
            space = &mut space[count..];
        }
        begins = false;
        remaining -= payload;
        seq += 1;
    }
    Ok(seq)
}

/// Whole blobs at the beginning of the log that may be removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Removable {
    /// One past their last row.
    pub(super) end: u64,
    /// Frame bytes in them.
    pub(super) bytes: u64,
    pub(super) blobs: u64,
}

/// The blobs from row `first` on that end at or before `limit`: as many as have `rows_max` rows, or
/// one.
pub(super) fn removable(
    table: &impl ReadableTable<u64, &'static [u8]>,
    first: u64,
    limit: u64,
    rows_max: u64,
) -> Result<Removable, WalError> {
    let mut found = Removable { end: first, ..Removable::default() };
    while found.end < limit {
        let row = table.get(found.end)?.ok_or_else(|| missing(found.end))?;
        let (start, bytes, _) = split_row(found.end, row.value())?;
        if start != RowStart::Blob {
            let what = "a batch does not begin where one should".to_owned();
            return Err(WalError::Damaged(Place { seq: found.end, offset: 0 }, what));
        }
        let end = found.end + bytes.div_ceil(PIECE_PAYLOAD_BYTES as u64);
        if end > limit || (end - first > rows_max && found.blobs > 0) {
            break;
        }
        found = Removable { end, bytes: found.bytes + bytes, blobs: found.blobs + 1 };
    }
    Ok(found)
}

/// Reads frames in the order they were written, from some place on.
pub(super) struct FrameReader<'t> {
    rows: redb::Range<'t, u64, &'static [u8]>,
    /// What the next row's header must say; `None` before the first row of a reader that begins
    /// inside the log.
    expected: Option<(u64, RowStart)>,
    /// Bytes to pass over in the first row.
    skip: usize,
    buffer: Bytes,
    /// The rows whose bytes are in `buffer`, with how many of each.
    segments: VecDeque<(Place, usize)>,
    /// Payload bytes handed out as frames so far.
    consumed: u64,
}

/// What a row begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowStart {
    Blob,
    Rest(u64),
}

impl<'t> FrameReader<'t> {
    /// From the oldest row on.
    pub(super) fn from_first(
        table: &'t impl ReadableTable<u64, &'static [u8]>,
        first: u64,
    ) -> Result<FrameReader<'t>, StorageError> {
        let reader = FrameReader::from_place(table, Place { seq: first, offset: 0 })?;
        Ok(FrameReader { expected: Some((first, RowStart::Blob)), ..reader })
    }

    /// From a place inside the log on.
    pub(super) fn from_place(
        table: &'t impl ReadableTable<u64, &'static [u8]>,
        from: Place,
    ) -> Result<FrameReader<'t>, StorageError> {
        Ok(FrameReader {
            rows: table.range(from.seq..)?,
            expected: None,
            skip: from.offset as usize,
            buffer: Bytes::new(),
            segments: VecDeque::new(),
            consumed: 0,
        })
    }

    /// The next frame and where it begins; `None` at the end of the log.
    pub(super) fn next(&mut self) -> Result<Option<(Frame, Place)>, WalError> {
        loop {
            let place = self.place();
            let before = self.buffer.len();
            match frame::decode(&mut self.buffer) {
                Ok(frame) => {
                    self.consume(before - self.buffer.len());
                    return Ok(Some((frame, place)));
                }
                Err(FrameError::Short { need, have }) => {
                    let in_frame = have > 0;
                    if !self.fill(need, in_frame)? && !in_frame {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(WalError::Damaged(place, error.to_string())),
            }
        }
    }

    /// Payload bytes handed out as frames so far.
    pub(super) fn consumed(&self) -> u64 {
        self.consumed
    }

    /// The number that the next row to be written gets.
    pub(super) fn next_seq(&self) -> u64 {
        self.expected.map_or(0, |(seq, _)| seq)
    }

    fn place(&self) -> Place {
        match self.segments.front() {
            Some((place, _)) => *place,
            None => Place { seq: self.next_seq(), offset: 0 },
        }
    }

    fn consume(&mut self, mut count: usize) {
        self.consumed += count as u64;
        while let Some((place, left)) = self.segments.front_mut() {
            if *left > count {
                *left -= count;
                place.offset += count as u32;
                return;
            }
            count -= *left;
            self.segments.pop_front();
        }
    }

    /// Appends rows until `need` bytes are there. False: there was no further row, and none was
    /// due. `in_frame`: the next row has to go on with the blob.
    fn fill(&mut self, need: usize, in_frame: bool) -> Result<bool, WalError> {
        let mut joined = BytesMut::with_capacity(need.min(1 << 20));
        joined.extend_from_slice(&self.buffer);
        let mut came = false;
        while joined.len() < need {
            // More than the rest of the frame is welcome, but a blob's end is not passed.
            let due = match self.expected {
                Some((seq, RowStart::Rest(_))) => Some(seq),
                _ if in_frame => {
                    let what = "a frame goes on after the end of its batch".to_owned();
                    return Err(WalError::Damaged(self.place(), what));
                }
                _ if came => break,
                _ => None,
            };
            let Some(row) = self.rows.next().transpose()? else {
                return match due {
                    None => Ok(false),
                    Some(seq) => Err(missing(seq)),
                };
            };
            let (seq, value) = (row.0.value(), row.1.value());
            let payload = self.check_row(seq, value)?;
            joined.extend_from_slice(payload);
            let offset = (value.len() - PIECE_HEADER_BYTES - payload.len()) as u32;
            self.segments.push_back((Place { seq, offset }, payload.len()));
            came = true;
        }
        self.buffer = joined.freeze();
        Ok(true)
    }

    /// Checks a row's header against what went before and returns its payload.
    fn check_row<'v>(&mut self, seq: u64, value: &'v [u8]) -> Result<&'v [u8], WalError> {
        let damaged = |what: String| WalError::Damaged(Place { seq, offset: 0 }, what);
        let (start, remaining, payload) = split_row(seq, value)?;
        match self.expected {
            Some((due, _)) if due != seq => return Err(missing(due)),
            Some((_, due)) if due != start => {
                return Err(damaged("a row that does not go on where the last one ended".into()));
            }
            _ => {}
        }
        let Some(after) = remaining.checked_sub(payload.len() as u64).filter(|_| remaining > 0)
        else {
            return Err(damaged("a row longer than its batch".into()));
        };
        let next = if after == 0 { RowStart::Blob } else { RowStart::Rest(after) };
        self.expected = Some((seq + 1, next));
        let skipped = std::mem::take(&mut self.skip);
        payload.get(skipped..).ok_or_else(|| damaged("a row shorter than it was".into()))
    }
}

/// A row's beginning, the bytes of its blob from here on, and its payload.
fn split_row(seq: u64, value: &[u8]) -> Result<(RowStart, u64, &[u8]), WalError> {
    let damaged = |what: String| WalError::Damaged(Place { seq, offset: 0 }, what);
    let Some((header, payload)) = value.split_at_checked(PIECE_HEADER_BYTES) else {
        return Err(damaged(format!("a row of {} bytes", value.len())));
    };
    let mut rest = &header[1..];
    let remaining = rest.get_u64_le();
    let start = match header[0] {
        0 => RowStart::Rest(remaining),
        1 => RowStart::Blob,
        other => return Err(damaged(format!("a row that begins with {other}"))),
    };
    Ok((start, remaining, payload))
}

pub(super) fn missing(seq: u64) -> WalError {
    WalError::Damaged(Place { seq, offset: 0 }, "the row is missing".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_row_stays_under_its_power_of_two() {
        let database = redb::Database::builder()
            .create_with_backend(redb::backends::InMemoryBackend::new())
            .unwrap();
        let transaction = database.begin_write().unwrap();
        {
            let mut table = transaction.open_table(WAL).unwrap();
            let blob = Bytes::from(vec![0; PIECE_PAYLOAD_BYTES * 64]);
            assert_eq!(write_blob(&mut table, 5, &[blob]).unwrap(), 5 + 64);
        }
        transaction.commit().unwrap();
        let transaction = database.begin_write().unwrap();
        let stats = transaction.stats().unwrap();
        let per_row =
            (stats.stored_bytes() + stats.metadata_bytes() + stats.fragmented_bytes()) / 64;
        assert!(per_row < 20 << 10, "{per_row} bytes a row");
    }

    #[test]
    fn places_count_rows() {
        assert_eq!(Place::in_blob(3, 0), Place { seq: 3, offset: 0 });
        let payload = PIECE_PAYLOAD_BYTES as u64;
        assert_eq!(Place::in_blob(3, payload * 2 + 7), Place { seq: 5, offset: 7 });
    }
}

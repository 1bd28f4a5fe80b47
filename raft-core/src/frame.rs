//! The bytes of one record of a group, on every disk and on every wire.
//!
//! | bytes | field | |
//! |---|---|---|
//! | 4 | length | little endian, of all that follows this field |
//! | 4 | crc32 | IEEE, of all that follows this field |
//! | 1 | kind | 0 empty entry, 1 command entry, 2 configuration entry, 128 hard state, 129 cut, 130 log, 131 forget: of what came before of the group nothing counts, not even term and vote |
//! | 4 | group | little endian |
//! | 8 | index | little endian; of a cut: the first index dropped; of a hard state and a forget: 0; of a log: its base's |
//! | 8 | term | little endian; of a cut and a forget: 0; of a log: its base's |
//! | n | payload | of a command: its bytes; of a hard state: 0, or 1 and the node voted for; then 8 bytes of `promised_ns` unless it is 0; of a log: below |
//!
//! A log frame says what a group's log is from then on, so that what was written of it before may go:
//!
//! | bytes | field | |
//! |---|---|---|
//! | 1 | form | 0 keep: entries at or below the base are dropped, those above stay as they stood; 1 replace: all that came before is dropped, and the entries are these |
//! | 8 | term | of the hard state; little endian, as all that follows |
//! | 1 | voted | 0 or 1 |
//! | 8 | node | voted for; 0 if none |
//! | 8 | `promised_ns` | |
//! | 8 | index | of the log's last entry, the base if there is none: with the keep form it shows that an entry is missing, which nothing else would |
//! | 8 | term | of the log's last entry |
//! | n | entries | replace only: their frames as they are, from the base's next index on |
//!
//! A frame is built once and copied as it is from then on. New kinds may be added, none may change.

use crate::conf::Conf;
use crate::types::{Entry, EntryId, EntryKind, GroupId, HardState, Index, NodeId, Term};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes of a frame without its payload.
pub const HEADER_BYTES: usize = 4 + 4 + 1 + 4 + 8 + 8;
/// The largest payload of one entry: a value of 64 MiB with its key, lane and envelope.
pub const PAYLOAD_BYTES_MAX: usize = 65 << 20;

const KIND_EMPTY: u8 = 0;
const KIND_COMMAND: u8 = 1;
const KIND_CONF: u8 = 2;
const KIND_HARD_STATE: u8 = 128;
const KIND_CUT: u8 = 129;
const KIND_LOG: u8 = 130;
const KIND_FORGET: u8 = 131;

const FORM_KEEP: u8 = 0;
const FORM_REPLACE: u8 = 1;
/// Bytes of a log frame before its entries.
pub const LOG_HEADER_BYTES: usize = HEADER_BYTES + 1 + 8 + 1 + 8 + 8 + 8 + 8;

/// One decoded record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// An entry, appended at its index; on recovery everything at or above that index goes first.
    Entry(GroupId, Entry),
    /// Term and vote, replacing the ones before.
    HardState(GroupId, HardState),
    /// Every entry at or above the index is dropped.
    Cut(GroupId, Index),
    /// What the group's log is from here on.
    Log(LogFrame),
    /// The group is not kept here any more: nothing before counts, not even term and vote.
    Forget(GroupId),
}

/// A group's whole log, or all of it but entries that stand before the frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFrame {
    /// The group.
    pub group: GroupId,
    /// Term and vote.
    pub hard: HardState,
    /// The entry before the log's first.
    pub base: EntryId,
    /// The log's last entry; the base if there is none.
    pub last: EntryId,
    /// Everything before the frame is dropped, and the entries are these. Otherwise `entries` is
    /// empty, what is at or below the base is dropped, and what is above stays as it stands.
    pub replace: bool,
    /// The entries after the base, contiguous.
    pub entries: Vec<Entry>,
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The bytes end inside the frame.
    #[error("the frame is cut short: {have} of {need} bytes")]
    Short {
        /// Bytes there are.
        have: usize,
        /// Bytes the frame claims, or the header's size while that is not known.
        need: usize,
    },
    /// The claimed length is impossible.
    #[error("a frame cannot have a length of {0} bytes")]
    Length(usize),
    /// The checksum does not match.
    #[error("checksum {found:#010x} where the frame says {claimed:#010x}")]
    Checksum {
        /// What the frame claims.
        claimed: u32,
        /// What its bytes give.
        found: u32,
    },
    /// An unknown kind, written by a newer program, or a body that is not one of its kind.
    #[error("frame of kind {0} is not one this program can read")]
    Kind(u8),
}

/// Encodes an entry.
///
/// # Panics
/// If the payload is over [`PAYLOAD_BYTES_MAX`]: the caller refuses such a proposal first.
pub fn encode_entry(group: GroupId, id: EntryId, kind: EntryKind, payload: &[u8]) -> Entry {
    let byte = match kind {
        EntryKind::Empty => KIND_EMPTY,
        EntryKind::Command => KIND_COMMAND,
        EntryKind::Conf => KIND_CONF,
    };
    Entry { id, kind, frame: encode(byte, group, id.index, id.term, payload) }
}

/// Encodes term and vote.
pub fn encode_hard_state(group: GroupId, hard: HardState) -> Bytes {
    let mut payload = Vec::with_capacity(17);
    payload.put_u8(u8::from(hard.voted_for.is_some()));
    if let Some(node) = hard.voted_for {
        payload.put_u64_le(node.0);
    }
    if hard.promised_ns > 0 {
        payload.put_u64_le(hard.promised_ns);
    }
    encode(KIND_HARD_STATE, group, Index(0), hard.term, &payload)
}

/// Encodes "every entry at or above `from` is dropped".
pub fn encode_cut(group: GroupId, from: Index) -> Bytes {
    encode(KIND_CUT, group, from, Term(0), &[])
}

/// Encodes "nothing is kept of this group".
pub fn encode_forget(group: GroupId) -> Bytes {
    encode(KIND_FORGET, group, Index(0), Term(0), &[])
}

/// Encodes what a group's log is from here on.
///
/// # Panics
/// If the entries are more than [`PAYLOAD_BYTES_MAX`] together with the fields before them.
pub fn encode_log(log: &LogFrame) -> Bytes {
    let entries: usize = log.entries.iter().map(|entry| entry.frame.len()).sum();
    let mut payload = Vec::with_capacity(LOG_HEADER_BYTES - HEADER_BYTES + entries);
    payload.put_u8(if log.replace { FORM_REPLACE } else { FORM_KEEP });
    payload.put_u64_le(log.hard.term.0);
    payload.put_u8(u8::from(log.hard.voted_for.is_some()));
    payload.put_u64_le(log.hard.voted_for.map_or(0, |node| node.0));
    payload.put_u64_le(log.hard.promised_ns);
    payload.put_u64_le(log.last.index.0);
    payload.put_u64_le(log.last.term.0);
    for entry in &log.entries {
        payload.put_slice(&entry.frame);
    }
    encode(KIND_LOG, log.group, log.base.index, log.base.term, &payload)
}

fn encode(kind: u8, group: GroupId, index: Index, term: Term, payload: &[u8]) -> Bytes {
    assert!(payload.len() <= PAYLOAD_BYTES_MAX, "payload of {} bytes", payload.len());
    let mut frame = BytesMut::with_capacity(HEADER_BYTES + payload.len());
    frame.put_u32_le((HEADER_BYTES - 4 + payload.len()) as u32);
    frame.put_u32_le(0);
    frame.put_u8(kind);
    frame.put_u32_le(group.0);
    frame.put_u64_le(index.0);
    frame.put_u64_le(term.0);
    frame.put_slice(payload);
    let crc = crc32fast::hash(&frame[8..]);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    frame.freeze()
}

/// What every frame begins with, its checksum compared.
struct Header {
    kind: u8,
    group: GroupId,
    id: EntryId,
    /// Bytes of the whole frame.
    total: usize,
}

fn header(bytes: &[u8]) -> Result<Header, FrameError> {
    if bytes.len() < HEADER_BYTES {
        return Err(FrameError::Short { have: bytes.len(), need: HEADER_BYTES });
    }
    let body = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
    if !(HEADER_BYTES - 4..=HEADER_BYTES - 4 + PAYLOAD_BYTES_MAX).contains(&body) {
        return Err(FrameError::Length(body));
    }
    let total = body + 4;
    if bytes.len() < total {
        return Err(FrameError::Short { have: bytes.len(), need: total });
    }
    let mut fields = &bytes[4..HEADER_BYTES];
    let claimed = fields.get_u32_le();
    let found = crc32fast::hash(&bytes[8..total]);
    if claimed != found {
        return Err(FrameError::Checksum { claimed, found });
    }
    let kind = fields.get_u8();
    let group = GroupId(fields.get_u32_le());
    let id = EntryId { index: Index(fields.get_u64_le()), term: Term(fields.get_u64_le()) };
    Ok(Header { kind, group, id, total })
}

/// Takes one frame off the front of `bytes`, which on error are left as they were. An entry's
/// frame shares their memory.
pub fn decode(bytes: &mut Bytes) -> Result<Frame, FrameError> {
    let header = header(bytes)?;
    let Header { kind, group, id, total } = header;
    let payload = &bytes[HEADER_BYTES..total];
    let frame = match kind {
        KIND_EMPTY | KIND_COMMAND | KIND_CONF => {
            let entry = entry(&header, bytes.slice(..total)).ok_or(FrameError::Kind(kind))?;
            Frame::Entry(group, entry)
        }
        KIND_HARD_STATE => {
            let hard = hard_state(id.term, payload).ok_or(FrameError::Kind(kind))?;
            Frame::HardState(group, hard)
        }
        KIND_CUT if payload.is_empty() => Frame::Cut(group, id.index),
        KIND_FORGET if payload.is_empty() => Frame::Forget(group),
        KIND_LOG => {
            let payload = bytes.slice(HEADER_BYTES..total);
            Frame::Log(log(group, id, payload).ok_or(FrameError::Kind(kind))?)
        }
        _ => return Err(FrameError::Kind(kind)),
    };
    bytes.advance(total);
    Ok(frame)
}

/// The entry that a whole frame is; `None` if it is another kind.
fn entry(header: &Header, frame: Bytes) -> Option<Entry> {
    let payload = &frame[HEADER_BYTES..];
    let kind = match header.kind {
        KIND_EMPTY if payload.is_empty() => EntryKind::Empty,
        KIND_COMMAND => EntryKind::Command,
        KIND_CONF if Conf::decode(payload).is_some() => EntryKind::Conf,
        _ => return None,
    };
    Some(Entry { id: header.id, kind, frame })
}

fn hard_state(term: Term, payload: &[u8]) -> Option<HardState> {
    let (voted_for, mut promised) = match payload {
        [0, rest @ ..] => (None, rest),
        [1, rest @ ..] if rest.len() >= 8 => {
            let mut rest = rest;
            (Some(NodeId(rest.get_u64_le())), rest)
        }
        _ => return None,
    };
    let promised_ns = match promised.len() {
        0 => 0,
        8 => promised.get_u64_le(),
        _ => return None,
    };
    Some(HardState { term, voted_for, promised_ns })
}

fn log(group: GroupId, base: EntryId, mut payload: Bytes) -> Option<LogFrame> {
    if payload.len() < LOG_HEADER_BYTES - HEADER_BYTES {
        return None;
    }
    let replace = match payload.get_u8() {
        FORM_KEEP => false,
        FORM_REPLACE => true,
        _ => return None,
    };
    let term = Term(payload.get_u64_le());
    let voted_for = match (payload.get_u8(), payload.get_u64_le()) {
        (0, 0) => None,
        (1, node) => Some(NodeId(node)),
        _ => return None,
    };
    let hard = HardState { term, voted_for, promised_ns: payload.get_u64_le() };
    let last = EntryId { index: Index(payload.get_u64_le()), term: Term(payload.get_u64_le()) };
    let mut entries: Vec<Entry> = Vec::new();
    let mut before = base;
    while !payload.is_empty() {
        let header = header(&payload).ok()?;
        let follows = before.index.0.checked_add(1) == Some(header.id.index.0)
            && header.id.term >= before.term;
        if header.group != group || !follows {
            return None;
        }
        before = header.id;
        entries.push(entry(&header, payload.split_to(header.total))?);
    }
    let fits = match replace {
        true => before == last,
        false => entries.is_empty() && base.index <= last.index && base.term <= last.term,
    };
    fits.then_some(LogFrame { group, hard, base, last, replace, entries })
}

impl Entry {
    /// The command's bytes, sharing the frame's memory; empty for an empty entry.
    pub fn payload(&self) -> Bytes {
        self.frame.slice(HEADER_BYTES..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: GroupId = GroupId(3);

    fn id(index: u64, term: u64) -> EntryId {
        EntryId { index: Index(index), term: Term(term) }
    }

    #[test]
    fn a_group_that_is_forgotten_has_nothing_to_say() {
        let mut bytes = encode_forget(G);
        assert_eq!(decode(&mut bytes), Ok(Frame::Forget(G)));
        let mut more = encode(KIND_FORGET, G, Index(0), Term(0), b"x");
        assert_eq!(decode(&mut more), Err(FrameError::Kind(KIND_FORGET)));
    }

    fn replace() -> LogFrame {
        let entries = vec![
            encode_entry(G, id(8, 2), EntryKind::Empty, b""),
            encode_entry(G, id(9, 4), EntryKind::Command, b"payload"),
        ];
        let hard = HardState { term: Term(5), voted_for: Some(NodeId(2)), promised_ns: 7 };
        LogFrame { group: G, hard, base: id(7, 2), last: id(9, 4), replace: true, entries }
    }

    #[test]
    fn log_frames_come_back() {
        let whole = replace();
        let keep = LogFrame { replace: false, entries: vec![], ..whole.clone() };
        let no_vote = HardState { voted_for: None, promised_ns: 0, ..whole.hard };
        let empty = LogFrame { last: whole.base, entries: vec![], hard: no_vote, ..whole.clone() };
        for frame in [whole, keep, empty] {
            let mut bytes = encode_log(&frame);
            let length = bytes.len();
            let entries: usize = frame.entries.iter().map(|entry| entry.frame.len()).sum();
            assert_eq!(length, LOG_HEADER_BYTES + entries);
            assert_eq!(decode(&mut bytes), Ok(Frame::Log(frame)));
            assert!(bytes.is_empty());
        }
    }

    #[test]
    fn log_frames_that_contradict_themselves_are_refused() {
        let whole = replace();
        let other = encode_entry(GroupId(4), id(8, 2), EntryKind::Empty, b"");
        let inner = Entry { frame: encode_log(&whole), ..whole.entries[0].clone() };
        let hole = whole.entries[1..].to_vec();
        let frames = [
            LogFrame { last: id(9, 3), ..whole.clone() },
            LogFrame { base: id(7, 3), ..whole.clone() },
            LogFrame { base: id(u64::MAX, 2), ..whole.clone() },
            LogFrame { replace: false, ..whole.clone() },
            LogFrame { entries: hole, ..whole.clone() },
            LogFrame { last: id(8, 2), entries: vec![other], ..whole.clone() },
            LogFrame { entries: vec![inner], ..whole.clone() },
            LogFrame { replace: false, entries: vec![], last: id(6, 2), ..whole },
        ];
        for (at, frame) in frames.iter().enumerate() {
            let mut bytes = encode_log(frame);
            assert_eq!(decode(&mut bytes), Err(FrameError::Kind(KIND_LOG)), "frame {at}");
        }
    }

    /// Each byte changed to each value, with the checksum made right again: nothing panics, and what
    /// is decoded is encoded as it was.
    #[test]
    fn no_byte_of_a_log_frame_makes_it_panic() {
        let frame = encode_log(&replace());
        let mut decoded = 0;
        for at in 0..frame.len() {
            for value in 0..=255 {
                let mut bytes = frame.to_vec();
                bytes[at] = value;
                let crc = crc32fast::hash(&bytes[8..]);
                bytes[4..8].copy_from_slice(&crc.to_le_bytes());
                let mut bytes = Bytes::from(bytes);
                let before = bytes.clone();
                match decode(&mut bytes) {
                    Ok(Frame::Log(log)) => {
                        assert_eq!(encode_log(&log), before);
                        decoded += 1;
                    }
                    Ok(
                        Frame::Entry(..) | Frame::HardState(..) | Frame::Cut(..) | Frame::Forget(_),
                    )
                    | Err(_) => {}
                }
            }
        }
        assert!(decoded > 256 * 24, "{decoded}");
        for length in 0..frame.len() {
            assert!(decode(&mut frame.slice(..length)).is_err());
        }
    }
}

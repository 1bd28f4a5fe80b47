//! The bytes of one record of a group, on every disk and on every wire.
//!
//! | bytes | field | |
//! |---|---|---|
//! | 4 | length | little endian, of all that follows this field |
//! | 4 | crc32 | IEEE, of all that follows this field |
//! | 1 | kind | 0 empty entry, 1 command entry, 2 configuration entry, 128 hard state, 129 cut |
//! | 4 | group | little endian |
//! | 8 | index | little endian; of a cut: the first index dropped; of a hard state: 0 |
//! | 8 | term | little endian; of a cut: 0 |
//! | n | payload | of a command: its bytes; of a hard state: 0, or 1 and the node voted for; then 8 bytes of `promised_ns` unless it is 0 |
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

/// One decoded record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// An entry, appended at its index; on recovery everything at or above that index goes first.
    Entry(GroupId, Entry),
    /// Term and vote, replacing the ones before.
    HardState(GroupId, HardState),
    /// Every entry at or above the index is dropped.
    Cut(GroupId, Index),
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

/// Takes one frame off the front of `bytes`, which on error are left as they were. The entry's
/// frame shares their memory.
pub fn decode(bytes: &mut Bytes) -> Result<Frame, FrameError> {
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
    let mut header = &bytes[4..HEADER_BYTES];
    let claimed = header.get_u32_le();
    let found = crc32fast::hash(&bytes[8..total]);
    if claimed != found {
        return Err(FrameError::Checksum { claimed, found });
    }
    let kind = header.get_u8();
    let group = GroupId(header.get_u32_le());
    let id = EntryId { index: Index(header.get_u64_le()), term: Term(header.get_u64_le()) };
    let payload = &bytes[HEADER_BYTES..total];
    let frame = match kind {
        KIND_EMPTY if payload.is_empty() => {
            Frame::Entry(group, Entry { id, kind: EntryKind::Empty, frame: bytes.slice(..total) })
        }
        KIND_COMMAND => {
            Frame::Entry(group, Entry { id, kind: EntryKind::Command, frame: bytes.slice(..total) })
        }
        KIND_CONF if Conf::decode(payload).is_some() => {
            Frame::Entry(group, Entry { id, kind: EntryKind::Conf, frame: bytes.slice(..total) })
        }
        KIND_HARD_STATE => {
            let (voted_for, mut promised) = match payload {
                [0, rest @ ..] => (None, rest),
                [1, rest @ ..] if rest.len() >= 8 => {
                    let mut rest = rest;
                    (Some(NodeId(rest.get_u64_le())), rest)
                }
                _ => return Err(FrameError::Kind(kind)),
            };
            let promised_ns = match promised.len() {
                0 => 0,
                8 => promised.get_u64_le(),
                _ => return Err(FrameError::Kind(kind)),
            };
            Frame::HardState(group, HardState { term: id.term, voted_for, promised_ns })
        }
        KIND_CUT if payload.is_empty() => Frame::Cut(group, id.index),
        _ => return Err(FrameError::Kind(kind)),
    };
    bytes.advance(total);
    Ok(frame)
}

impl Entry {
    /// The command's bytes, sharing the frame's memory; empty for an empty entry.
    pub fn payload(&self) -> Bytes {
        self.frame.slice(HEADER_BYTES..)
    }
}

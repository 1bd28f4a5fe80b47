//! The only caller of postcard: entries and frames, each with a version byte.
//!
//! A frame on a wire, its numbers little endian:
//!
//! | bytes | field | |
//! |---|---|---|
//! | 4 | length | of all that follows this field |
//! | 4 | crc32 | IEEE, of all that follows this field |
//! | 1 | version | [`WIRE_VERSION`] |
//! | 1 | kind | 1 Raft, 2 to a node, 3 to a router, 4 heartbeat of a node, 5 piece of a snapshot, 6 of a slot that moves, 7 of the shardmaster's map, 8 of promises |
//! | n | body | postcard; after a Raft message that carries entries: their count (4) and their frames as they are; after the name and offset of a piece of a snapshot: its bytes |
//!
//! Entries travel in the frame that the leader encoded once ([`raft_core::frame`]): no replica
//! encodes them again, and the receiver's share the memory they arrived in.

use crate::checkpoint::{CHUNK_BYTES_MAX, SnapshotChunk};
use crate::cluster_config::{ClusterConfig, ConfigNum};
use crate::map_feed::MapMessage;
use crate::migration::{MoveEnvelope, MoveStep};
use crate::session::LogTime;
use crate::shardmaster::MasterRequest;
use crate::slot::Slot;
use crate::wire::{GroupQuery, LaneRequest, RaftEnvelope, ToNode, ToRouter};
use crate::witness::WitnessMessage;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use postcard::ser_flavors::Flavor;
use raft_core::frame::{self, Frame, FrameError};
use raft_core::message::{AppendEntries, Message};
use raft_core::node_pair::Heartbeat;
use raft_core::types::GroupId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::iter::Peekable;

/// Version of an entry's payload. It is in logs: a program reads every version it ever wrote.
pub const ENTRY_VERSION: u8 = 1;
/// Version of the payload of an entry that was proposed where memory was full: the same body. A program
/// that does not know it stops at such an entry, where it would else execute what others refuse; all
/// other entries are as they were.
pub const ENTRY_VERSION_FULL: u8 = 2;
/// Version of the frames between processes.
pub const WIRE_VERSION: u8 = 1;
/// Bytes of a wire frame before its body.
pub const WIRE_HEADER_BYTES: usize = 4 + 4 + 1 + 1;
/// The most bytes of one wire frame, header included: an entry of the largest payload with what a
/// Raft message adds. Senders cut their batches to stay below it.
pub const WIRE_FRAME_BYTES_MAX: usize = frame::PAYLOAD_BYTES_MAX + (1 << 20);

const KIND_RAFT: u8 = 1;
const KIND_TO_NODE: u8 = 2;
const KIND_TO_ROUTER: u8 = 3;
const KIND_HEARTBEAT: u8 = 4;
const KIND_CHUNK: u8 = 5;
const KIND_MOVE: u8 = 6;
const KIND_MAP: u8 = 7;
const KIND_WITNESS: u8 = 8;
const KIND_CLUSTER_PORT: u8 = 9;
const KIND_CLOCK: u8 = 10;

/// The payload of a command entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryBatch {
    /// The leader's stamp: log time is the newest applied.
    pub stamp: LogTime,
    /// Applied in order; each yields one answer.
    pub items: Vec<EntryItem>,
    /// The leader had no memory left when it proposed the entry: what may take more is refused, on
    /// every replica alike. Told by the version.
    #[serde(skip)]
    pub full: bool,
}

impl EntryBatch {
    /// Of a leader that has memory left.
    pub fn new(stamp: LogTime, items: Vec<EntryItem>) -> EntryBatch {
        EntryBatch { stamp, items, full: false }
    }
}

/// One step of a state machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryItem {
    /// An op of a lane (shard groups).
    Lane(LaneRequest),
    /// A read of the whole group (shard groups).
    Group(GroupQuery),
    /// The first assignment of slots to this group (shard groups): a leader proposes it when its
    /// bootstrap configuration says so and the group has never had a slot. Repeats change nothing.
    Assign {
        /// The configuration that says so.
        config: ConfigNum,
        /// Slot ranges, first and last included.
        ranges: Vec<(Slot, Slot)>,
    },
    /// The first configuration (shardmaster). Repeats change nothing.
    Bootstrap(ClusterConfig),
    /// A step of a slot's move (shard groups).
    Move(MoveStep),
    /// What an administrator wants or a group reports (shardmaster).
    Master(MasterRequest),
}

/// One frame between processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WireFrame {
    /// Between two nodes.
    Raft(RaftEnvelope),
    /// From a router to a node.
    ToNode(ToNode),
    /// From a node to a router.
    ToRouter(ToRouter),
    /// From one node to another, for all their groups.
    Heartbeat(Heartbeat),
    /// From one node to another: a piece of a snapshot.
    Chunk(SnapshotChunk),
    /// From a group on one node to one on another: of a slot that moves.
    Move(MoveEnvelope),
    /// From one node to another: of the shardmaster's map.
    Map(MapMessage),
    /// From one node to another: of what their disks must have.
    Witness(WitnessMessage),
    /// From one node to another: the port to which its cluster-aware clients come. Said first on each
    /// link by a node that has one, so that one without it keeps links to nodes that do not know this.
    ClusterPort(u16),
    /// From one node to another, from [`CLOCK_VERSION`](crate::handshake::CLOCK_VERSION) on: what its wall clock shows.
    Clock(LogTime),
}

/// Why bytes are not an entry or a frame. Whoever sent them gets no answer: the socket is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The claimed length is impossible or over the limit.
    #[error("a frame of {claimed} bytes where {min} to {max} are allowed")]
    Length {
        /// What the frame claims to have in all.
        claimed: usize,
        /// The least a frame has.
        min: usize,
        /// The limit.
        max: usize,
    },
    /// The checksum does not match.
    #[error("checksum {found:#010x} where the frame says {claimed:#010x}")]
    Checksum {
        /// What the frame claims.
        claimed: u32,
        /// What its bytes give.
        found: u32,
    },
    /// Written by a program of another version.
    #[error("version {0} is not one this program can read")]
    Version(u8),
    /// Not a kind of frame.
    #[error("frame of kind {0} is not one this program can read")]
    Kind(u8),
    /// The body is not a value of its type.
    #[error("malformed body: {0}")]
    Body(#[from] postcard::Error),
    /// The body ends before its value does.
    #[error("the body is cut short")]
    Short,
    /// Bytes are left over after the value.
    #[error("{0} bytes too many")]
    Trailing(usize),
    /// What follows a Raft message is not an entry's frame.
    #[error("malformed entry: {0}")]
    Entry(#[from] FrameError),
    /// Entries of another group, not contiguous, or with terms that no leader's log can have.
    #[error("entry {0} has no place in this message")]
    Entries(usize),
}

/// Encodes the payload of a command entry.
pub fn encode_batch(batch: &EntryBatch) -> Vec<u8> {
    let mut bytes = BytesMut::with_capacity(64);
    bytes.put_u8(if batch.full { ENTRY_VERSION_FULL } else { ENTRY_VERSION });
    append(batch, &mut bytes);
    bytes.into()
}

/// Decodes the payload of a command entry. Keys and values are copies: what a store keeps of them
/// does not keep the entry's memory.
pub fn decode_batch(bytes: &[u8]) -> Result<EntryBatch, CodecError> {
    let (version, body) = bytes.split_first().ok_or(CodecError::Short)?;
    match *version {
        ENTRY_VERSION => whole(body),
        ENTRY_VERSION_FULL => Ok(EntryBatch { full: true, ..whole(body)? }),
        other => Err(CodecError::Version(other)),
    }
}

/// Appends a frame to `out`.
///
/// # Panics
/// If the frame is over 4 GiB: whoever builds batches keeps them within [`WIRE_FRAME_BYTES_MAX`].
pub fn encode_frame(wire: &WireFrame, out: &mut BytesMut) {
    let start = out.len();
    out.put_u64_le(0);
    out.put_u8(WIRE_VERSION);
    match wire {
        WireFrame::Raft(envelope) => {
            out.put_u8(KIND_RAFT);
            append(envelope, out);
            if let Message::AppendEntries(request) = &envelope.message {
                out.put_u32_le(request.entries.len() as u32);
                out.reserve(request.entries.iter().map(|entry| entry.frame.len()).sum());
                for entry in &request.entries {
                    out.put_slice(&entry.frame);
                }
            }
        }
        WireFrame::ToNode(message) => {
            out.put_u8(KIND_TO_NODE);
            append(message, out);
        }
        WireFrame::ToRouter(message) => {
            out.put_u8(KIND_TO_ROUTER);
            append(message, out);
        }
        WireFrame::Heartbeat(heartbeat) => {
            out.put_u8(KIND_HEARTBEAT);
            append(heartbeat, out);
        }
        WireFrame::Move(envelope) => {
            out.put_u8(KIND_MOVE);
            append(envelope, out);
        }
        WireFrame::Map(message) => {
            out.put_u8(KIND_MAP);
            append(message, out);
        }
        WireFrame::Witness(message) => {
            out.put_u8(KIND_WITNESS);
            append(message, out);
        }
        WireFrame::ClusterPort(port) => {
            out.put_u8(KIND_CLUSTER_PORT);
            append(port, out);
        }
        WireFrame::Clock(clock) => {
            out.put_u8(KIND_CLOCK);
            append(clock, out);
        }
        WireFrame::Chunk(SnapshotChunk { group, id, offset, bytes }) => {
            out.put_u8(KIND_CHUNK);
            append(&(group, id, offset), out);
            out.put_slice(bytes);
        }
    }
    let length = u32::try_from(out.len() - start - 4).expect("a frame is under 4 GiB");
    let crc = crc32fast::hash(&out[start + 8..]);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// Takes one frame off the front of `buf`, or nothing if it is not whole yet. A frame that claims
/// more than `bytes_max` bytes in all is refused as soon as its length is there, so memory is never
/// taken on a claim. After an error the stream has no next frame: the socket is to be closed.
///
/// Entries share the memory of `buf`, which lives as long as they do.
pub fn decode_frame(buf: &mut BytesMut, bytes_max: usize) -> Result<Option<WireFrame>, CodecError> {
    let Some(length) = buf.first_chunk::<4>() else { return Ok(None) };
    let total = u32::from_le_bytes(*length) as usize + 4;
    if !(WIRE_HEADER_BYTES..=bytes_max).contains(&total) {
        return Err(CodecError::Length { claimed: total, min: WIRE_HEADER_BYTES, max: bytes_max });
    }
    if buf.len() < total {
        return Ok(None);
    }
    let mut bytes = buf.split_to(total).freeze();
    bytes.advance(4);
    let claimed = bytes.get_u32_le();
    let found = crc32fast::hash(&bytes);
    if claimed != found {
        return Err(CodecError::Checksum { claimed, found });
    }
    let version = bytes.get_u8();
    if version != WIRE_VERSION {
        return Err(CodecError::Version(version));
    }
    Ok(Some(match bytes.get_u8() {
        KIND_RAFT => WireFrame::Raft(decode_envelope(bytes)?),
        KIND_TO_NODE => WireFrame::ToNode(whole(&bytes)?),
        KIND_TO_ROUTER => WireFrame::ToRouter(whole(&bytes)?),
        KIND_HEARTBEAT => WireFrame::Heartbeat(whole(&bytes)?),
        KIND_CHUNK => WireFrame::Chunk(decode_chunk(bytes)?),
        KIND_MOVE => WireFrame::Move(whole(&bytes)?),
        KIND_MAP => WireFrame::Map(whole(&bytes)?),
        KIND_WITNESS => WireFrame::Witness(whole(&bytes)?),
        KIND_CLUSTER_PORT => WireFrame::ClusterPort(whole(&bytes)?),
        KIND_CLOCK => WireFrame::Clock(whole(&bytes)?),
        other => return Err(CodecError::Kind(other)),
    }))
}

/// The bytes of a value as entries and frames have them: what digests and comparisons go by.
pub(crate) fn bytes_of<T: Serialize>(value: &T) -> BytesMut {
    let mut bytes = BytesMut::new();
    append(value, &mut bytes);
    bytes
}

/// The same in pieces. `parts` are what of the value may be large, in the order in which it stands there: of
/// these the larger ones are pieces of their own, shared and not copied.
pub(crate) fn pieces_of<'a, T: Serialize>(
    value: &T,
    parts: impl Iterator<Item = &'a Bytes>,
) -> Vec<Bytes> {
    let large = parts.filter(|part| part.len() >= PIECE_BYTES_MIN);
    let sharing = Sharing { large: large.peekable(), own: BytesMut::new(), pieces: Vec::new() };
    postcard::serialize_with_flavor(value, sharing).expect("our types can be encoded")
}

/// The piece shares the memory of the frame.
fn decode_chunk(mut bytes: Bytes) -> Result<SnapshotChunk, CodecError> {
    let ((group, id, offset), rest) = postcard::take_from_bytes(&bytes)?;
    bytes.advance(bytes.len() - rest.len());
    match bytes.len() {
        0 => Err(CodecError::Short),
        length if length > CHUNK_BYTES_MAX => Err(CodecError::Trailing(length - CHUNK_BYTES_MAX)),
        _ => Ok(SnapshotChunk { group, id, offset, bytes }),
    }
}

fn decode_envelope(mut bytes: Bytes) -> Result<RaftEnvelope, CodecError> {
    let (mut envelope, rest) = postcard::take_from_bytes::<RaftEnvelope>(&bytes)?;
    let header = bytes.len() - rest.len();
    bytes.advance(header);
    let group = envelope.group;
    if let Message::AppendEntries(request) = &mut envelope.message {
        decode_entries(group, request, &mut bytes)?;
    }
    if !bytes.is_empty() {
        return Err(CodecError::Trailing(bytes.len()));
    }
    Ok(envelope)
}

/// Reads the frames that follow an AppendEntries. Indexes must follow `prev` one by one; terms
/// cannot fall from one entry to the next, nor be above the leader's (Raft 5.3, log matching).
fn decode_entries(
    group: GroupId,
    request: &mut AppendEntries,
    bytes: &mut Bytes,
) -> Result<(), CodecError> {
    if bytes.len() < 4 {
        return Err(CodecError::Short);
    }
    let count = bytes.get_u32_le() as usize;
    if count > bytes.len() / frame::HEADER_BYTES {
        return Err(CodecError::Short);
    }
    let mut last = request.prev;
    for at in 0..count {
        let Frame::Entry(owner, entry) = frame::decode(bytes)? else {
            return Err(CodecError::Entries(at));
        };
        let follows = last.index.0.checked_add(1) == Some(entry.id.index.0);
        let ordered = last.term <= entry.id.term && entry.id.term <= request.term;
        if owner != group || !follows || !ordered {
            return Err(CodecError::Entries(at));
        }
        last = entry.id;
        request.entries.push(entry);
    }
    Ok(())
}

/// Decodes a value that takes all of `bytes`.
pub(crate) fn whole<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    match postcard::take_from_bytes(bytes)? {
        (value, []) => Ok(value),
        (_, rest) => Err(CodecError::Trailing(rest.len())),
    }
}

/// Appends a value. Nothing in our types can fail to be encoded, and memory grows as needed.
pub(crate) fn append<T: Serialize>(value: &T, out: &mut BytesMut) {
    postcard::serialize_with_flavor(value, Appending(out)).expect("our types can be encoded");
}

/// Lets postcard write to the end of a buffer; its own flavor for that goes byte by byte.
struct Appending<'a>(&'a mut BytesMut);

impl Flavor for Appending<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.put_u8(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.put_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// A smaller one costs more as a piece than to be copied.
const PIECE_BYTES_MIN: usize = 1 << 10;

/// Lets postcard write to a buffer, but for what is in memory that can be shared.
struct Sharing<'a, I: Iterator<Item = &'a Bytes>> {
    /// What comes, in order.
    large: Peekable<I>,
    own: BytesMut,
    pieces: Vec<Bytes>,
}

impl<'a, I: Iterator<Item = &'a Bytes>> Flavor for Sharing<'a, I> {
    type Output = Vec<Bytes>;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.own.put_u8(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        // The very same memory, not only the same bytes.
        match self.large.next_if(|next| std::ptr::eq(&next[..], bytes)) {
            None => self.own.put_slice(bytes),
            Some(shared) => {
                self.pieces.push(self.own.split().freeze());
                self.pieces.push(shared.clone());
            }
        }
        Ok(())
    }

    fn finalize(mut self) -> postcard::Result<Vec<Bytes>> {
        if !self.own.is_empty() {
            self.pieces.push(self.own.freeze());
        }
        Ok(self.pieces)
    }
}

#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;

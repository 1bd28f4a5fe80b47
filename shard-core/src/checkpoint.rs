//! How applied state gets to the disk and comes back: rows, and what the host does with them.
//!
//! A group's state is a set of rows, key to value, that says everything two replicas must agree on
//! and nothing else: equal states have equal rows. A checkpoint hands over the rows that changed
//! since the one before it; the host puts them into one durable step with the place in the log that
//! they stand for. A snapshot is all rows of one checkpoint, in the order of their keys. The host
//! knows nothing of what is in them.

use bytes::Bytes;
use raft_core::conf::Conf;
use raft_core::effects::Write;
use raft_core::snapshot::{SnapCmd, SnapEvent, Snapshot, SnapshotId};
use raft_core::types::{EntryId, GroupId, Index, NodeId};
use smallvec::SmallVec;

/// What precedes the bytes of a value in its row: small, and not worth an allocation.
pub type RowHead = SmallVec<[u8; 24]>;

/// The rest of a row's value, in pieces one behind the other, which may be shared with memory and replies:
/// nobody but the disk copies them. Two are equal if their bytes are, wherever they are cut.
#[derive(Clone, Debug, Default)]
pub struct RowBody(SmallVec<[Bytes; 1]>);

impl RowBody {
    /// The pieces.
    pub fn pieces(&self) -> &[Bytes] {
        &self.0
    }

    /// Bytes in all of them.
    pub fn len(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A copy of the whole value.
    pub fn behind(&self, head: &[u8]) -> Vec<u8> {
        let mut value = Vec::with_capacity(head.len() + self.len());
        value.extend_from_slice(head);
        self.0.iter().for_each(|piece| value.extend_from_slice(piece));
        value
    }
}

impl PartialEq for RowBody {
    fn eq(&self, other: &RowBody) -> bool {
        let bytes = |body: &RowBody| body.behind(&[]);
        self.len() == other.len() && bytes(self) == bytes(other)
    }
}

impl Eq for RowBody {}

impl From<Bytes> for RowBody {
    fn from(bytes: Bytes) -> RowBody {
        RowBody(SmallVec::from_buf([bytes]))
    }
}

impl FromIterator<Bytes> for RowBody {
    fn from_iter<I: IntoIterator<Item = Bytes>>(pieces: I) -> RowBody {
        RowBody(pieces.into_iter().collect())
    }
}

/// One change of the rows. Later ones of the same key win.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowChange {
    /// The row is this now: its value is `head` and behind it `body`, which is copied once, into the disk's
    /// page.
    Put {
        /// The row.
        key: Bytes,
        /// The value's first bytes.
        head: RowHead,
        /// The rest of the value.
        body: RowBody,
    },
    /// The row is not there any more, if it was.
    Delete {
        /// The row.
        key: Bytes,
    },
    /// No row whose key begins so is there any more.
    DeletePrefix {
        /// The beginning.
        prefix: Bytes,
    },
}

/// What a checkpoint stands for; with the size and the hash that the host has computed over its rows
/// it is a [`Snapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointMark {
    /// The last entry that is in it.
    pub at: EntryId,
    /// The newest configuration at or before it, and the entry that said so; 0 for the first one.
    pub conf: (Index, Conf),
}

/// What the host does with a group's state, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateCommand {
    /// Changes of the checkpoint under way; the first of them begins it. One node has one checkpoint
    /// under way at a time. Answered by [`StateEvent::Taken`], before which no further one is sent.
    Changes(Vec<RowChange>),
    /// That was all: make it durable, as one step with everything it consists of. Answered by
    /// [`StateEvent::Checkpointed`].
    Commit(CheckpointMark),
    /// What the core owes of snapshots.
    Snapshot(SnapCmd),
    /// A piece of a snapshot that comes in, to be staged. The offsets of one snapshot's pieces follow
    /// each other, or begin again at what was last said to be durable: what does not fit what is there
    /// is dropped. Answered, once durable, by [`SnapEvent::Received`], or by [`SnapEvent::Corrupt`]: then
    /// it begins anew at 0, and pieces given before that and behind the corrupt one are dropped.
    Stage {
        /// Which snapshot, with its size.
        snapshot: Snapshot,
        /// The piece's first byte.
        offset: u64,
        /// The piece.
        bytes: Bytes,
    },
    /// The write that puts a snapshot, which is all staged, in the place of state and log. Answered by
    /// `Persisted` for its token and then by [`StateEvent::Installed`]. Later writes of the group wait
    /// for it. Changes of the group that no `Commit` followed are given up with it; that they were taken
    /// is told nevertheless.
    Install(Box<Write>),
}

/// What the host tells of a group's state.
#[derive(Debug)]
pub enum StateEvent<M> {
    /// The last [`StateCommand::Changes`] was taken in: the next may come.
    Taken,
    /// The checkpoint is durable.
    Checkpointed(Snapshot),
    /// What the core is told of snapshots.
    Snapshot(SnapEvent),
    /// A snapshot is installed, and this is its state.
    Installed {
        /// Which.
        id: SnapshotId,
        /// The state machine that was loaded from its rows.
        machine: M,
    },
}

/// The most bytes of a snapshot that travel in one piece.
pub const CHUNK_BYTES_MAX: usize = 256 << 10;

/// A piece of a snapshot on its way between nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotChunk {
    /// Whose.
    pub group: GroupId,
    /// Of which.
    pub id: SnapshotId,
    /// Its first byte.
    pub offset: u64,
    /// It: 1 to [`CHUNK_BYTES_MAX`] bytes.
    pub bytes: Bytes,
}

/// A chunk to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutgoingChunk {
    /// To whom.
    pub to: NodeId,
    /// What.
    pub chunk: SnapshotChunk,
}

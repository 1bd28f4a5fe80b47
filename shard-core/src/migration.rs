//! What a group keeps of a slot on its way from one group to another, and the legal steps.
//!
//! The source goes on serving while the destination copies, in rounds: round 0 is all rows of the slot
//! in their order, each later one what has changed since the one before it began. When a round is
//! small, the source freezes the slot, and what has changed until then is the last round. Whoever has
//! all of it owns the slot: one entry in the destination's log decides, nothing else does.
//!
//! Rows are lanes and keys alike, named as on disk ([`crate::rows`]), so the records by which a repeated
//! op is recognised come along with what it has done.
//!
//! # Invariants
//! - A step that does not fit the state changes nothing: messages come late, twice, and from leaders
//!   that lead no more.
//! - What the destination holds before the last round is whole is served by nobody, and swept by nobody.
//! - A frozen slot does not change: neither by requests nor by time.
//! - Every group keeps for each slot, for ever, the number of the last move that it has settled there.
//!   Without it a late order would begin a finished move anew, and two groups would own the slot.

mod parts;

pub(crate) use self::parts::{EndedParts, PartPlace, Parts};
pub use self::parts::{Held, PartOf};

use crate::digest::Digest;
use crate::moves::{Move, MoveId, MoveOutcome, RefuseReason, SlotEpoch};
use crate::rows::Named;
use crate::session::LogTime;
use crate::shard_store::{Mutant, Piece, RowBudget, is_broken};
use crate::slot::Slot;
use bytes::Bytes;
use raft_core::types::{GroupId, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

/// What one chunk has at most. A row that is larger comes in parts, or, where somebody does not know them, alone.
pub const MOVE_CHUNK: RowBudget = RowBudget { rows: 4096, bytes: 256 << 10 };
/// What the name of a row that has changed takes in memory, besides its bytes.
const NAME_RECORD_BYTES: u64 = 64;

/// A row of a slot by the end of its key on disk: its kind, and the session or the name of the key.
pub type RowName = Bytes;

/// A step of a move, as an entry of one of the two groups has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MoveStep {
    /// At the source: what changes from here on is noted; round 0 begins.
    BeginExport(Move),
    /// At the source: what has changed is the next round.
    Rotate {
        /// The slot.
        slot: Slot,
        /// The move.
        id: MoveId,
        /// The round that begins.
        round: u32,
    },
    /// At the source: as [`MoveStep::Rotate`], and the slot does not change any more.
    Freeze {
        /// The slot.
        slot: Slot,
        /// The move.
        id: MoveId,
        /// The round that begins, the last.
        round: u32,
    },
    /// At the source: the destination has refused, the slot is as if nothing had been. The source may
    /// not have begun.
    AbortExport {
        /// The move.
        order: Move,
        /// Why.
        reason: RefuseReason,
    },
    /// At the source: the destination owns the slot, what is here goes.
    CompleteExport {
        /// The slot.
        slot: Slot,
        /// The move.
        id: MoveId,
    },
    /// At the destination: a place for what comes. A slot that nobody owns is served from here on.
    BeginImport(Move),
    /// At the destination: the next rows. With the last ones of the last round it owns the slot.
    Import {
        /// The slot.
        slot: Slot,
        /// The move.
        id: MoveId,
        /// The rows.
        chunk: Chunk,
    },
    /// At the destination: it does not take the slot, and never will by this move.
    Refuse {
        /// The move, which it may not have begun.
        order: Move,
        /// Why.
        reason: RefuseReason,
    },
    /// At either: the shardmaster knows how it ended.
    Forget {
        /// The slot.
        slot: Slot,
        /// The move.
        id: MoveId,
    },
    /// At the destination: a part of the next row.
    ImportPart {
        /// The slot.
        slot: Slot,
        /// The move.
        id: MoveId,
        /// The row, with this part of its value.
        chunk: Chunk,
        /// Which part.
        part: PartOf,
    },
}

impl MoveStep {
    /// Rows, or a part of one, on their way into the destination's log.
    pub(crate) fn import(slot: Slot, id: MoveId, (chunk, part): Piece) -> MoveStep {
        match part {
            None => MoveStep::Import { slot, id, chunk },
            Some(part) => MoveStep::ImportPart { slot, id, chunk, part },
        }
    }

    /// The slot and the move.
    pub fn of(&self) -> (Slot, MoveId) {
        match self {
            MoveStep::BeginExport(order)
            | MoveStep::BeginImport(order)
            | MoveStep::AbortExport { order, .. }
            | MoveStep::Refuse { order, .. } => (order.slot, order.id),
            MoveStep::Rotate { slot, id, .. }
            | MoveStep::Freeze { slot, id, .. }
            | MoveStep::CompleteExport { slot, id }
            | MoveStep::Import { slot, id, .. }
            | MoveStep::ImportPart { slot, id, .. }
            | MoveStep::Forget { slot, id } => (*slot, *id),
        }
    }
}

/// Rows of one round, in their order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// The round.
    pub round: u32,
    /// The rows follow this one; empty: they are the first of the round.
    pub from: RowName,
    /// With the first of a round: all keys went before what the round has. What is there of them goes.
    pub clear: bool,
    /// The rows.
    pub rows: Vec<ChunkRow>,
    /// The last row looked at, behind which the next chunk begins. None: the round is whole.
    pub next: Option<RowName>,
    /// At the end of the last round: what the slot was when it was frozen.
    pub frozen: Option<FrozenSlot>,
}

impl Chunk {
    /// Bytes of its rows.
    pub fn bytes(&self) -> usize {
        let row = |row: &ChunkRow| 16 + row.name.len() + row.value.as_ref().map_or(0, Bytes::len);
        self.rows.iter().map(row).sum()
    }
}

/// A row as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkRow {
    /// Which.
    pub name: RowName,
    /// Its value as on disk. None: it is not there (any more).
    pub value: Option<Bytes>,
}

/// What a slot is besides its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrozenSlot {
    /// Its log time when it was frozen: log time goes on from there.
    pub floor: LogTime,
    /// Its version counter.
    pub version: u64,
}

/// A slot that others get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Export {
    pub(crate) order: Move,
    pub(crate) round: u32,
    /// It serves nobody, and `list` is the last round.
    pub(crate) frozen: bool,
    /// What the round asks for. None: every row.
    list: Option<Arc<BTreeSet<RowName>>>,
    /// All keys went before the round began.
    list_clear: bool,
    /// What has changed since the round began.
    dirty: Arc<BTreeSet<RowName>>,
    /// All keys went since the round began.
    dirty_clear: bool,
    /// What the names of both sets take in memory.
    bytes: u64,
    /// Bytes of changed rows since the round began, each change counted.
    changed_bytes: u64,
}

/// What a checkpoint keeps of an export besides its rows of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExportRow {
    pub(crate) order: Move,
    round: u32,
    frozen: bool,
    all: bool,
    list_clear: bool,
    dirty_clear: bool,
    changed_bytes: u64,
}

/// The names in an export's rows on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum NameSet {
    /// Of the round.
    List,
    /// Changed since it began.
    Dirty,
}

impl Export {
    pub(crate) fn begin(order: Move) -> Export {
        Export {
            order,
            round: 0,
            frozen: false,
            list: None,
            list_clear: false,
            dirty: Arc::default(),
            dirty_clear: false,
            bytes: 0,
            changed_bytes: 0,
        }
    }

    /// A row has changed, or is about to; its value has, or had, so many bytes.
    pub(crate) fn touch(&mut self, name: &[u8], value_bytes: usize) {
        let broken = is_broken(Mutant::ServeFrozen) || is_broken(Mutant::CheckedAtArrival);
        if broken && self.frozen {
            return;
        }
        assert!(!self.frozen, "a frozen slot does not change");
        self.changed_bytes += (name.len() + value_bytes) as u64;
        if self.dirty.contains(name) {
            return;
        }
        self.bytes += NAME_RECORD_BYTES + name.len() as u64;
        Arc::make_mut(&mut self.dirty).insert(Bytes::copy_from_slice(name));
    }

    /// All keys are gone. That need not be told of each.
    pub(crate) fn touch_all_keys(&mut self, is_key: impl Fn(&[u8]) -> bool) {
        assert!(!self.frozen, "a frozen slot does not change");
        self.dirty_clear = true;
        Arc::make_mut(&mut self.dirty).retain(|name| !is_key(name));
        self.count();
    }

    /// What has changed is the next round, if that is `round`. Says whether it is.
    pub(crate) fn rotate(&mut self, round: u32, freeze: bool) -> bool {
        if self.frozen || self.round.checked_add(1) != Some(round) {
            return false;
        }
        self.round = round;
        self.frozen = freeze;
        self.list = Some(std::mem::take(&mut self.dirty));
        self.list_clear = std::mem::take(&mut self.dirty_clear);
        self.changed_bytes = 0;
        self.count();
        true
    }

    fn count(&mut self) {
        let names = |set: &BTreeSet<RowName>| {
            set.iter().map(|name| NAME_RECORD_BYTES + name.len() as u64).sum::<u64>()
        };
        self.bytes = names(&self.dirty) + self.list.as_deref().map_or(0, names);
    }

    /// What the names take in memory.
    pub(crate) fn memory(&self) -> u64 {
        self.bytes
    }

    /// What the next round would have: rows, and bytes of changes.
    pub(crate) fn behind(&self) -> Behind {
        Behind { rows: self.dirty.len() as u64, bytes: self.changed_bytes }
    }

    /// Whether keys that the destination has are to go before this round.
    pub(crate) fn clears(&self) -> bool {
        self.list_clear
    }

    /// Whether a row has changed since the round began, so that it is in the next one.
    pub(crate) fn has_changed(&self, name: &[u8]) -> bool {
        let went = self.dirty_clear && matches!(Named::of(name), Some(Named::Key(_)));
        (went || self.dirty.contains(name)) && !is_broken(Mutant::MixedParts)
    }

    /// The names that the round asks for after `from`, if not all.
    pub(crate) fn listed(&self, from: &[u8]) -> Option<impl Iterator<Item = &RowName>> {
        let after = (Bound::Excluded(from), Bound::Unbounded);
        self.list.as_deref().map(|list| list.range::<[u8], _>(after))
    }

    pub(crate) fn names(&self, set: NameSet) -> Option<&Arc<BTreeSet<RowName>>> {
        match set {
            NameSet::List => self.list.as_ref(),
            NameSet::Dirty => Some(&self.dirty),
        }
    }

    pub(crate) fn row(&self) -> ExportRow {
        ExportRow {
            order: self.order,
            round: self.round,
            frozen: self.frozen,
            all: self.list.is_none(),
            list_clear: self.list_clear,
            dirty_clear: self.dirty_clear,
            changed_bytes: self.changed_bytes,
        }
    }

    /// Out of its rows.
    pub(crate) fn of_row(row: ExportRow) -> Export {
        let ExportRow { order, round, frozen, all, list_clear, dirty_clear, changed_bytes } = row;
        Export {
            order,
            round,
            frozen,
            list: (!all).then(Arc::default),
            list_clear,
            dirty: Arc::default(),
            dirty_clear,
            bytes: 0,
            changed_bytes,
        }
    }

    /// Takes the next name of its rows. False: it has no such set, or a frozen one would have changed.
    pub(crate) fn load(&mut self, set: NameSet, name: &[u8]) -> bool {
        let names = match set {
            NameSet::List => self.list.as_mut(),
            NameSet::Dirty => (!self.frozen).then_some(&mut self.dirty),
        };
        let Some(names) = names else { return false };
        self.bytes += NAME_RECORD_BYTES + name.len() as u64;
        Arc::make_mut(names).insert(Bytes::copy_from_slice(name))
    }

    pub(crate) fn digest(&self, digest: &mut Digest) {
        digest.bytes(&crate::codec::bytes_of(&self.row()));
        for set in [NameSet::List, NameSet::Dirty] {
            let names = self.names(set);
            digest.numbers(&[names.map_or(0, |names| names.len() as u64)]);
            names.into_iter().flat_map(|names| names.iter()).for_each(|name| digest.bytes(name));
        }
    }
}

/// What a round that began now would have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behind {
    /// Rows.
    pub rows: u64,
    /// Bytes of their changes, each counted.
    pub bytes: u64,
}

impl Behind {
    /// Whether both are within a bound.
    pub fn is_within(&self, bound: &Behind) -> bool {
        self.rows <= bound.rows && self.bytes <= bound.bytes
    }
}

/// What the groups of a move say to each other, and to the shardmaster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveEnvelope {
    /// Who says it.
    pub from: GroupId,
    /// To whom.
    pub to: GroupId,
    /// Of which slot.
    pub slot: Slot,
    /// Of which move.
    pub id: MoveId,
    /// Clients were served a moment ago where it comes from.
    pub serves: bool,
    /// What.
    pub message: MoveMessage,
}

/// What is said of a move. All of it may be lost, and said again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MoveMessage {
    /// To the source: begin, and say the first rows. Answered by [`MoveMessage::Chunk`].
    Begin(Move),
    /// To the source: the rows of a round behind one. Answered by [`MoveMessage::Chunk`].
    Fetch {
        /// The round.
        round: u32,
        /// The row; empty: from the first one on.
        from: RowName,
    },
    /// To the source: all of the round is here, what has changed is the next one. Answered by its first
    /// rows.
    Next {
        /// The round that is to begin.
        round: u32,
        /// It should be the last.
        freeze: bool,
    },
    /// To the source: how it ended. Answered by [`MoveMessage::Taken`].
    Ended {
        /// The move.
        order: Move,
        /// How.
        outcome: MoveOutcome,
    },
    /// To the destination: rows.
    Chunk {
        /// The rows.
        chunk: Chunk,
        /// What a round that began now would have.
        behind: Behind,
    },
    /// To the destination: the end is known here.
    Taken,
    /// To the destination: the slot is frozen and nothing happens, how does it stand?
    Resolve(Move),
    /// That move is settled here: how, the shardmaster knows.
    Settled,
    /// To the shardmaster: how it ended. Answered by [`MoveMessage::Reported`].
    Report {
        /// How it ended, as the sender knows.
        ended: Ended,
    },
    /// To either side: the shardmaster knows.
    Reported,
    /// Whoever was asked does not lead the group.
    NotLeader {
        /// Who does, as far as known.
        hint: Option<NodeId>,
    },
    /// To the source, from [`PARTS_VERSION`](crate::handshake::PARTS_VERSION) on: the same as without, and large rows
    /// may come in parts.
    InParts {
        /// What is asked.
        ask: MoveAsk,
        /// Of the first row so much is here already.
        held: Option<Held>,
    },
    /// To the destination, if it has asked so: a part of the next row.
    Part {
        /// The row, with this part of its value.
        chunk: Chunk,
        /// Which part.
        part: PartOf,
        /// What a round that began now would have.
        behind: Behind,
    },
}

/// What a destination asks for rows by, as in the messages of the same names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MoveAsk {
    /// [`MoveMessage::Begin`].
    Begin(Move),
    /// [`MoveMessage::Fetch`].
    Fetch {
        /// The round.
        round: u32,
        /// The row; empty: from the first one on.
        from: RowName,
    },
    /// [`MoveMessage::Next`].
    Next {
        /// The round that is to begin.
        round: u32,
        /// It should be the last.
        freeze: bool,
    },
}

impl From<MoveAsk> for MoveMessage {
    fn from(ask: MoveAsk) -> MoveMessage {
        match ask {
            MoveAsk::Begin(order) => MoveMessage::Begin(order),
            MoveAsk::Fetch { round, from } => MoveMessage::Fetch { round, from },
            MoveAsk::Next { round, freeze } => MoveMessage::Next { round, freeze },
        }
    }
}

impl MoveMessage {
    /// Whether only a leader has an answer.
    pub(crate) fn wants_leader(&self) -> bool {
        match self {
            MoveMessage::Begin(_)
            | MoveMessage::Fetch { .. }
            | MoveMessage::Next { .. }
            | MoveMessage::Ended { .. }
            | MoveMessage::Resolve(_)
            | MoveMessage::Report { .. }
            | MoveMessage::InParts { .. } => true,
            MoveMessage::Chunk { .. }
            | MoveMessage::Part { .. }
            | MoveMessage::Taken
            | MoveMessage::Settled
            | MoveMessage::Reported
            | MoveMessage::NotLeader { .. } => false,
        }
    }
}

/// A slot that comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Import {
    pub(crate) order: Move,
    pub(crate) round: u32,
    /// The last row of the round that was looked at. None: the round is whole.
    pub(crate) cursor: Option<RowName>,
}

impl Import {
    pub(crate) fn begin(order: Move) -> Import {
        Import { order, round: 0, cursor: Some(RowName::new()) }
    }

    /// Whether these rows are the next. If they begin a round, it has begun.
    pub(crate) fn takes(&mut self, chunk: &Chunk) -> bool {
        let begins = (self.cursor.is_none() || is_broken(Mutant::EarlyRound))
            && chunk.from.is_empty()
            && self.round.checked_add(1) == Some(chunk.round);
        let here = self.cursor.as_ref() == Some(&chunk.from) || is_broken(Mutant::AnyCursor);
        let follows = chunk.round == self.round && here || is_broken(Mutant::AnyRound);
        // Rows that do not go on would be asked for again for ever.
        let goes_on = chunk.next.as_ref().is_none_or(|next| *next > chunk.from);
        // Only the last round, and only all of it, is the slot.
        let ends = chunk.frozen.is_none() || chunk.next.is_none();
        let clears = !chunk.clear || chunk.from.is_empty();
        if !(begins || follows) || !goes_on || !ends || !clears {
            return false;
        }
        self.round = chunk.round;
        self.cursor = chunk.next.clone();
        true
    }
}

/// How a move ended here, until the shardmaster knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The move.
    pub order: Move,
    /// How.
    pub outcome: MoveOutcome,
}

/// Where a slot stands in a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Served.
    #[default]
    Owned,
    /// Served, unless it is frozen, and copied by another group.
    Exporting(Box<Export>),
    /// On its way here.
    Importing(Box<Import>),
}

impl Phase {
    /// Whether the group owns the slot.
    pub(crate) fn owns(&self) -> bool {
        match self {
            Phase::Owned | Phase::Exporting(_) => true,
            Phase::Importing(_) => is_broken(Mutant::ServeStaging),
        }
    }

    /// Whether nothing of the slot may change but by the move.
    pub(crate) fn is_still(&self) -> bool {
        match self {
            Phase::Owned => false,
            Phase::Exporting(export) => export.frozen,
            Phase::Importing(_) => true,
        }
    }

    /// Whether the slot is frozen.
    pub(crate) fn is_frozen(&self) -> bool {
        matches!(self, Phase::Exporting(export) if export.frozen) && !is_broken(Mutant::ServeFrozen)
    }

    pub(crate) fn export_mut(&mut self) -> Option<&mut Export> {
        match self {
            Phase::Exporting(export) => Some(export),
            Phase::Owned | Phase::Importing(_) => None,
        }
    }

    pub(crate) fn export(&self) -> Option<&Export> {
        match self {
            Phase::Exporting(export) => Some(export),
            Phase::Owned | Phase::Importing(_) => None,
        }
    }

    /// The move, if one is under way.
    pub(crate) fn order(&self) -> Option<Move> {
        match self {
            Phase::Owned => None,
            Phase::Exporting(export) => Some(export.order),
            Phase::Importing(import) => Some(import.order),
        }
    }

    pub(crate) fn row(&self) -> PhaseRow {
        match self {
            Phase::Owned => PhaseRow::Owned,
            Phase::Exporting(export) => PhaseRow::Exporting(export.row()),
            Phase::Importing(import) => PhaseRow::Importing(Import::clone(import)),
        }
    }
}

/// Where a slot stands, as a checkpoint has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum PhaseRow {
    /// Not here: what is kept of it is what was.
    Absent,
    Owned,
    Exporting(ExportRow),
    Importing(Import),
}

/// What a slot's row has of moves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MoveRow {
    pub(crate) epoch: SlotEpoch,
    pub(crate) settled: MoveId,
    pub(crate) phase: PhaseRow,
    pub(crate) ended: Option<Ended>,
}

impl MoveRow {
    /// Of a slot that never moved.
    pub(crate) const FIRST: MoveRow =
        MoveRow { epoch: SlotEpoch(1), settled: MoveId(0), phase: PhaseRow::Owned, ended: None };

    /// Whether the slot is as the first assignment left it, as far as moves go.
    pub(crate) fn is_first(&self) -> bool {
        *self == MoveRow::FIRST
    }

    /// Whether a state can have it, of this slot.
    pub(crate) fn is_possible(&self, slot: Slot) -> bool {
        let order = match &self.phase {
            PhaseRow::Absent | PhaseRow::Owned => None,
            PhaseRow::Exporting(export) => Some(export.order),
            PhaseRow::Importing(import) => Some(import.order),
        };
        let ended = self.ended.map(|ended| ended.order);
        order.is_none_or(|order| order.slot == slot && order.id > self.settled)
            && ended.is_none_or(|order| order.slot == slot && order.id <= self.settled)
    }
}

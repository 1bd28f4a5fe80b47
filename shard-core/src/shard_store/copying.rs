//! What a source hands out of a slot that is copied.

use super::{Mutant, RowBudget, ShardStore, SlotState, is_broken};
use crate::migration::{Behind, Chunk, ChunkRow, FrozenSlot, Held, PartOf, RowName};
use crate::moves::MoveId;
use crate::rows::{Named, RowValue};
use crate::session::SessionId;
use crate::slot::Slot;
use bytes::Bytes;

/// What a row counts as in a chunk, besides its bytes.
const CHUNK_ROW_BYTES: usize = 16;

/// Which rows are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The round.
    pub round: u32,
    /// They follow this one; empty: from the first one on.
    pub from: &'a RowName,
    /// A row that is larger than a chunk may come in parts. Else it goes alone.
    pub parts: bool,
    /// Of the first of them so much is there already.
    pub held: Option<&'a Held>,
}

/// Rows, or a part of one.
pub type Piece = (Chunk, Option<PartOf>);

type Rows<'a> = Box<dyn Iterator<Item = (RowName, Option<RowValue>)> + 'a>;

impl ShardStore {
    /// The rows of a round that are asked for, if this is the round; with what a next one would have. What has changed
    /// since the round began is there as it is now: it is in the next round anyway. Of a row that goes in parts nothing
    /// is there then.
    pub fn chunk(
        &self,
        slot: Slot,
        id: MoveId,
        wanted: Wanted<'_>,
        budget: RowBudget,
    ) -> Option<(Piece, Behind)> {
        let Wanted { round, from, .. } = wanted;
        let state = self.slots.get(&slot)?;
        let export = state.phase.export().filter(|e| e.order.id == id && e.round == round)?;
        let rows: Rows<'_> = match export.listed(from) {
            Some(names) => Box::new(names.map(|name| (name.clone(), state.row_of(name)))),
            None => Box::new(state.rows_after(from).map(|(name, value)| (name, Some(value)))),
        };
        let mut filling = Filling { budget, bytes: 0, rows: Vec::new() };
        let (mut looked_at, mut next) = (None, None);
        for (name, value) in rows {
            // A row that came before the one of which parts are there would have them taken anew, for ever where there is
            // always another one. It is in the next round.
            let held_later = wanted.held.is_some_and(|held| held.name > name);
            if held_later && export.has_changed(&name) && !is_broken(Mutant::PartsGiveWay) {
                looked_at = Some(name);
                continue;
            }
            let size = name.len() + value.as_ref().map_or(0, bytes_in) + CHUNK_ROW_BYTES;
            if let Some(value) = value.as_ref().filter(|_| wanted.parts && size > budget.bytes) {
                if export.has_changed(&name) {
                    looked_at = Some(name);
                    continue;
                }
                if filling.rows.is_empty() {
                    let clear = from.is_empty() && export.clears();
                    let piece = part(wanted, clear, budget, name, value);
                    return Some((piece, export.behind()));
                }
                next = looked_at.take();
                break;
            }
            if !filling.has_room(size) {
                next = looked_at.take();
                break;
            }
            filling.push(name.clone(), value, size);
            looked_at = Some(name);
        }
        let ends = next.is_none() && (export.frozen || is_broken(Mutant::ActivateUnfrozen));
        let frozen = FrozenSlot { floor: state.floor, version: state.data.version() };
        let chunk = Chunk {
            round,
            from: from.clone(),
            clear: from.is_empty() && export.clears(),
            rows: filling.rows,
            next,
            frozen: ends.then_some(frozen),
        };
        Some(((chunk, None), export.behind()))
    }
}

/// The part of a large row that comes next.
fn part(
    wanted: Wanted<'_>,
    clear: bool,
    budget: RowBudget,
    name: RowName,
    value: &RowValue,
) -> Piece {
    let total = bytes_in(value);
    let held = wanted.held.filter(|held| held.name == name).map_or(0, |held| held.bytes as usize);
    let offset = if held < total { held } else { 0 };
    let piece = slice(value, offset, budget.bytes.max(1));
    let chunk = Chunk {
        round: wanted.round,
        from: wanted.from.clone(),
        clear,
        rows: vec![ChunkRow { name: name.clone(), value: Some(piece) }],
        next: Some(name),
        frozen: None,
    };
    (chunk, Some(PartOf { offset: offset as u64, total: total as u64 }))
}

impl SlotState {
    /// The row of a name, if it is there.
    fn row_of(&self, name: &[u8]) -> Option<RowValue> {
        match Named::of(name)? {
            Named::Lane(session) => self.lanes.get(session).map(|lane| lane.row()),
            Named::Key(key) => self.data.item(key).map(|item| item.row()),
        }
    }

    /// All rows behind one, in their order.
    pub(super) fn rows_after<'a>(
        &'a self,
        from: &'a [u8],
    ) -> impl Iterator<Item = (RowName, RowValue)> + use<'a> {
        let (lane, key) = match Named::of(from) {
            None => (None, None),
            Some(Named::Lane(session)) => (Some(session), None),
            Some(Named::Key(key)) => (Some(SessionId(u128::MAX)), Some(key)),
        };
        let copied = |id: SessionId| !id.is_of_token() || !is_broken(Mutant::TokensNotCopied);
        let lanes = self.lanes.after(lane).filter(move |(id, _)| copied(*id));
        let lanes = lanes.map(|(id, lane)| (Named::Lane(id).name(), lane.row()));
        let keys = self.data.items_after(key);
        lanes.chain(keys.map(|(key, item)| (Named::Key(key).name(), item.row())))
    }
}

/// Bytes of a row's value.
fn bytes_in((head, body): &RowValue) -> usize {
    head.len() + body.len()
}

/// So many bytes of a row's value, or as many as there are.
fn slice((head, body): &RowValue, offset: usize, bytes: usize) -> Bytes {
    let mut slice = Vec::with_capacity(bytes.min(head.len() + body.len() - offset));
    let mut skip = offset;
    for piece in [&head[..]].into_iter().chain(body.pieces().iter().map(|piece| &piece[..])) {
        let from = skip.min(piece.len());
        let more = (piece.len() - from).min(bytes - slice.len());
        slice.extend_from_slice(&piece[from..from + more]);
        skip -= from;
    }
    slice.into()
}

/// The rows of a chunk.
struct Filling {
    budget: RowBudget,
    bytes: usize,
    rows: Vec<ChunkRow>,
}

impl Filling {
    /// Whether there is room for a row of this size. One that is larger than the budget goes alone.
    fn has_room(&self, size: usize) -> bool {
        let fits = self.bytes + size <= self.budget.bytes && self.rows.len() < self.budget.rows;
        self.rows.is_empty() || fits
    }

    fn push(&mut self, name: RowName, value: Option<RowValue>, size: usize) {
        self.bytes += size;
        let value = value.map(|(head, body)| body.behind(&head).into());
        self.rows.push(ChunkRow { name, value });
    }
}

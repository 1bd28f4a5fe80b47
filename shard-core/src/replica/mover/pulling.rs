//! Slots that come: what is asked of their sources, and when.

use super::pace::{CHUNK_REST, rest_after};
use super::{LAST_ROUND, MS, RETRY_NS_MAX, Topic};
use crate::cluster_map::ClusterMap;
use crate::codec::EntryItem;
use crate::handshake::PARTS_VERSION;
use crate::migration::{Behind, Held, MoveAsk, MoveMessage, MoveStep, RowName};
use crate::moves::{Move, MoveId};
use crate::replica::{Replica, ReplicaOutput};
use crate::shard_store::{Mutant, Piece, is_broken};
use crate::slot::Slot;
use raft_core::types::{GroupId, NodeId, Now};

/// Chunks of one slot that are proposed and not applied.
pub(super) const CHUNKS_IN_FLIGHT_MAX: u32 = 4;
/// The quorum here is taken to be there for so long after it has committed rows.
const FRESH_NS: Now = 500 * MS;

/// How far the rows of a slot are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The round.
    pub(super) round: u32,
    /// Its last row that was looked at. None: all of the round is there.
    pub(super) cursor: Option<RowName>,
    /// What is there of the row behind it.
    pub(super) held: Option<Held>,
}

impl Place {
    /// Nothing is there.
    fn is_first(&self) -> bool {
        *self == Place { round: 0, cursor: Some(RowName::new()), held: None }
    }

    /// Whether these rows, or this part of one, go on from here. A round begins when nothing else is on its way.
    fn is_before(&self, (chunk, part): &Piece, in_flight: u32) -> bool {
        let goes_on = match &self.cursor {
            Some(from) => chunk.round == self.round && chunk.from == *from,
            None => {
                let next = self.round.checked_add(1) == Some(chunk.round);
                next && chunk.from.is_empty() && in_flight == 0
            }
        };
        // Parts are of the row that is taken, or the first of another one that has come in its place.
        let name = chunk.rows.first().map(|row| &row.name);
        let held = self.held.as_ref().filter(|held| name == Some(&held.name));
        goes_on && part.is_none_or(|part| part.offset == held.map_or(0, |held| held.bytes))
    }

    /// Behind these rows, or this part of one.
    fn behind((chunk, part): &Piece) -> Place {
        let part = part.zip(chunk.rows.first());
        let held = part.and_then(|(part, row)| {
            let bytes = part.offset + row.value.as_ref().map_or(0, |value| value.len() as u64);
            (bytes < part.total).then(|| Held { name: row.name.clone(), bytes })
        });
        let cursor = if held.is_some() { Some(chunk.from.clone()) } else { chunk.next.clone() };
        Place { round: chunk.round, cursor, held }
    }
}

/// How far a slot that comes is.
#[derive(Debug)]
pub(super) struct Pull {
    pub(super) id: MoveId,
    /// What is applied.
    applied: Place,
    /// Behind what is proposed.
    proposed: Place,
    in_flight: u32,
    behind: Behind,
    /// When something was applied last.
    progress: Now,
    /// Since when it has been worked at without a rest; later than now while it rests.
    since: Now,
    /// Of the first round, as far as it came.
    bytes: u64,
}

impl Pull {
    fn new(id: MoveId, applied: &Place, now: Now) -> Pull {
        Pull {
            id,
            applied: applied.clone(),
            proposed: applied.clone(),
            in_flight: 0,
            // Nobody has said yet.
            behind: Behind { rows: u64::MAX, bytes: u64::MAX },
            progress: now,
            since: now,
            bytes: 0,
        }
    }

    /// When something was applied last.
    pub(super) fn progress(&self) -> Now {
        self.progress
    }

    /// What its first round had, as far as this leader has seen it. Bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Since when it has been worked at without a rest.
    pub(super) fn since(&self) -> Now {
        self.since
    }
}

impl Replica {
    /// Asks the source for what comes next.
    pub(super) fn pull(
        &mut self,
        now: Now,
        order: Move,
        applied: Place,
        map: &ClusterMap,
        out: &mut ReplicaOutput,
    ) {
        let Some(source) = order.from else { return };
        let slot = order.slot;
        let pull =
            self.mover.pulls.entry(slot).or_insert_with(|| Pull::new(order.id, &applied, now));
        if pull.id != order.id {
            *pull = Pull::new(order.id, &applied, now);
        }
        if pull.applied != applied {
            pull.applied = applied;
            pull.progress = now;
            pull.in_flight = pull.in_flight.saturating_sub(1);
            // The first round is all of the slot; the others follow what is written.
            let more = pull.applied.round == 0 && pull.applied.cursor.is_some();
            if more && now >= pull.since {
                pull.since = rest_after(now, pull.since, CHUNK_REST);
            }
        }
        if pull.applied == pull.proposed {
            pull.in_flight = 0;
        }
        let first = pull.proposed.is_first();
        let round = pull.proposed.round;
        let ask = match &pull.proposed.cursor {
            Some(_) if pull.in_flight >= self.mover.pace.chunks_max(round) => None,
            Some(_) if first => Some(MoveAsk::Begin(order)),
            Some(_) if round == 0 && self.mover.pace.rests(now, pull.since) => None,
            Some(from) => Some(MoveAsk::Fetch { round, from: from.clone() }),
            // Only what is applied counts: rows that are only on their way here may be lost with the
            // leader, and the source would not tell of them again.
            None if pull.in_flight > 0 && !is_broken(Mutant::RoundByReceived) => None,
            None => {
                // A source that is frozen waits for this group's quorum: it is asked for that only just
                // after that quorum has committed something. Another round is such a thing.
                let fresh = now <= pull.progress.saturating_add(FRESH_NS);
                let freeze = fresh && pull.behind.is_within(&LAST_ROUND);
                Some(MoveAsk::Next { round: round + 1, freeze })
            }
        };
        let Some(ask) = ask else {
            // What is proposed may have been lost with another leader's term.
            if now >= pull.progress.saturating_add(RETRY_NS_MAX) {
                pull.proposed = pull.applied.clone();
                pull.in_flight = 0;
                pull.progress = now;
            }
            let late = pull.progress.saturating_add(RETRY_NS_MAX);
            let at = Some(pull.since).filter(|since| *since > now).unwrap_or(late);
            return self.mover.wake(at);
        };
        let held = pull.proposed.held.clone();
        if self.mover.may_ask(now, slot, Topic::Pull, order.id) {
            self.ask_rows(source, order, ask, held, map, out);
        }
    }

    /// Whether a row may come in parts: all who have this group's log know them, and no node that may have it one day is
    /// known not to.
    pub(super) fn takes_parts(&self, map: &ClusterMap) -> bool {
        let nodes = || map.config.nodes.keys();
        let known = nodes().all(|node| !self.is_older(*node, PARTS_VERSION));
        self.all_speak(PARTS_VERSION) && (known || is_broken(Mutant::PartsForMembers))
            || is_broken(Mutant::PartsForAll)
    }

    /// Asks for rows: in parts, if whoever is asked knows them as well.
    fn ask_rows(
        &mut self,
        source: GroupId,
        order: Move,
        ask: MoveAsk,
        held: Option<Held>,
        map: &ClusterMap,
        out: &mut ReplicaOutput,
    ) {
        let (slot, id) = (order.slot, order.id);
        let Some(to) = self.whom_to_ask((source, Topic::Pull), slot, map) else { return };
        let known = self.speaks(to, PARTS_VERSION) || is_broken(Mutant::PartsForAll);
        let message = match known && self.mover.takes_parts {
            true => MoveMessage::InParts { ask, held },
            false => ask.into(),
        };
        self.say(to, source, slot, id, message, out);
    }

    /// Proposes rows that have come, if they are those that were asked for.
    pub(super) fn on_chunk(
        &mut self,
        now: Now,
        (group, leader): (GroupId, NodeId),
        (slot, id): (Slot, MoveId),
        piece: Piece,
        behind: Behind,
    ) {
        self.mover.leaders.insert(group, leader);
        // Since it was asked for, somebody may have come who does not know parts.
        let taken = piece.1.is_none() || self.mover.takes_parts || is_broken(Mutant::PartsAsAsked);
        let pull = self.mover.pulls.get_mut(&slot).filter(|pull| pull.id == id && taken);
        let Some(pull) = pull else { return };
        let awaited = pull.proposed.is_before(&piece, pull.in_flight);
        if !awaited || pull.in_flight >= CHUNKS_IN_FLIGHT_MAX {
            return;
        }
        pull.proposed = Place::behind(&piece);
        let bytes = piece.0.bytes();
        pull.bytes += if piece.0.round == 0 { bytes as u64 } else { 0 };
        pull.in_flight += 1;
        pull.behind = behind;
        self.mover.answered(slot, Topic::Pull);
        let step = EntryItem::Move(MoveStep::import(slot, id, piece));
        self.batch.push(step, None, 128 + bytes);
        self.mover.wake(now);
    }
}

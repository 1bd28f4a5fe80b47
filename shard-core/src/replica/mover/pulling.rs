//! Slots that come: what is asked of their sources, and when.

use super::pace::rest_after;
use super::{LAST_ROUND, MS, RETRY_NS_MAX, Topic};
use crate::cluster_map::ClusterMap;
use crate::codec::EntryItem;
use crate::migration::{Behind, Chunk, MoveMessage, MoveStep, RowName};
use crate::moves::{Move, MoveId};
use crate::replica::{Replica, ReplicaOutput};
use crate::slot::Slot;
use raft_core::types::Now;

/// Chunks of one slot that are proposed and not applied.
pub(super) const CHUNKS_IN_FLIGHT_MAX: u32 = 4;
/// The quorum here is taken to be there for so long after it has committed rows.
const FRESH_NS: Now = 500 * MS;

/// How far a slot that comes is.
#[derive(Debug)]
pub(super) struct Pull {
    pub(super) id: MoveId,
    /// What is applied.
    applied: (u32, Option<RowName>),
    /// Behind what is proposed.
    proposed: (u32, Option<RowName>),
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
    fn new(id: MoveId, applied: &(u32, Option<RowName>), now: Now) -> Pull {
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
        applied: (u32, Option<RowName>),
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
            let more = pull.applied.0 == 0 && pull.applied.1.is_some();
            if more && now >= pull.since {
                pull.since = rest_after(now, pull.since);
            }
        }
        if pull.applied == pull.proposed {
            pull.in_flight = 0;
        }
        let first = pull.proposed == (0, Some(RowName::new()));
        let message = match &pull.proposed {
            (round, Some(_)) if pull.in_flight >= self.mover.pace.chunks_max(*round) => None,
            (_, Some(_)) if first => Some(MoveMessage::Begin(order)),
            (0, Some(_)) if self.mover.pace.rests(now, pull.since) => None,
            (round, Some(from)) => Some(MoveMessage::Fetch { round: *round, from: from.clone() }),
            // Only what is applied counts: rows that are only on their way here may be lost with the
            // leader, and the source would not tell of them again.
            (_, None) if pull.in_flight > 0 => None,
            (round, None) => {
                // A source that is frozen waits for this group's quorum: it is asked for that only just
                // after that quorum has committed something. Another round is such a thing.
                let fresh = now <= pull.progress.saturating_add(FRESH_NS);
                let freeze = fresh && pull.behind.is_within(&LAST_ROUND);
                Some(MoveMessage::Next { round: round + 1, freeze })
            }
        };
        let Some(message) = message else {
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
        if self.mover.may_ask(now, slot, Topic::Pull, order.id) {
            self.ask((source, Topic::Pull), slot, order.id, message, map, out);
        }
    }

    /// Proposes rows that have come, if they are those that were asked for.
    pub(super) fn on_chunk(
        &mut self,
        now: Now,
        slot: Slot,
        id: MoveId,
        chunk: Chunk,
        behind: Behind,
    ) {
        let Some(pull) = self.mover.pulls.get_mut(&slot).filter(|pull| pull.id == id) else {
            return;
        };
        let awaited = match &pull.proposed {
            (round, Some(from)) => chunk.round == *round && chunk.from == *from,
            (round, None) => {
                round.checked_add(1) == Some(chunk.round)
                    && chunk.from.is_empty()
                    && pull.in_flight == 0
            }
        };
        if !awaited || pull.in_flight >= CHUNKS_IN_FLIGHT_MAX {
            return;
        }
        pull.bytes += if chunk.round == 0 { chunk.bytes() as u64 } else { 0 };
        pull.proposed = (chunk.round, chunk.next.clone());
        pull.in_flight += 1;
        pull.behind = behind;
        self.mover.answered(slot, Topic::Pull);
        let bytes = 128 + chunk.bytes();
        self.batch.push(EntryItem::Move(MoveStep::Import { slot, id, chunk }), None, bytes);
        self.mover.wake(now);
    }
}

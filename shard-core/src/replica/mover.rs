//! Drives the moves of the slots of one group, on its leader.
//!
//! What is to be done follows from what was applied and from the shardmaster's map, so a new leader goes on
//! where the old one was. The destination drives: it asks the source for rows and for rounds, and
//! proposes what comes. The source answers, and parks requests for a slot that is frozen. What is kept here
//! besides is what was asked when, and of whom: losing it costs a message.
//!
//! Messages may be lost, doubled and late. Each names its move, round and cursor; what does not fit is
//! ignored, what gets no answer is sent again.
//!
//! **Bounds.** Of a slot that comes, [`pulling::CHUNKS_IN_FLIGHT_MAX`] chunks are in the log and not applied; one
//! is asked for at a time. How many slots come at a time, and how fast, is the matter of [`pace`]. Requests
//! that are parked count as waiting ([`super::WAITING_MAX`]), and a slot parks [`PARKED_MAX`] and
//! [`PARKED_BYTES_MAX`] at most.

mod pace;
mod parking;
mod pulling;
mod reports;

pub use self::pace::AT_ONCE_MAX as SLOTS_AT_ONCE_MAX;
pub use self::parking::{PARKED_BYTES_MAX, PARKED_MAX};

use self::pace::Pace;
use self::parking::Parked;
use self::pulling::{Place, Pull};
use super::{Replica, ReplicaOutput};
use crate::cluster_map::{ClusterMap, MoveRecord};
use crate::codec::EntryItem;
use crate::machine::Machine;
use crate::migration::{Behind, Ended, MOVE_CHUNK, MoveEnvelope, MoveMessage, MoveStep, RowName};
use crate::moves::{Move, MoveId, MoveOutcome, RefuseReason};
use crate::session::LogTime;
use crate::shard_store::{Mutant, Piece, SlotPhase, SlotStand, Wanted, is_broken};
use crate::slot::Slot;
use raft_core::effects::Role;
use raft_core::types::{GroupId, NodeId, Now};
use std::collections::{BTreeMap, BTreeSet};

const MS: Now = 1_000_000;
/// What gets no answer is asked again after so long; twice as long each time.
const RETRY_NS_MIN: Now = 100 * MS;
/// At most so long.
const RETRY_NS_MAX: Now = 1_000 * MS;
/// A source whose slot is frozen and that hears nothing asks how it stands.
const RESOLVE_NS: Now = 300 * MS;
/// A destination that got nothing for so long refuses when the source asks; one that says nothing for so long holds up
/// no writes of a slot that is not frozen.
const PATIENCE_NS: Now = 5_000 * MS;
/// The last round may have so many bytes and rows: what a client waits for.
const LAST_ROUND: Behind = Behind { rows: 1024, bytes: 256 << 10 };

/// What one leader remembers of the moves of its group.
#[derive(Debug, Default)]
pub(super) struct Mover {
    /// Who leads other groups, as far as they said.
    leaders: BTreeMap<GroupId, NodeId>,
    pulls: BTreeMap<Slot, Pull>,
    serves: BTreeMap<Slot, Serve>,
    /// Words that wait for an answer, one for a slot and what it is about.
    asked: BTreeMap<(Slot, Topic), Asked>,
    parked: BTreeMap<Slot, Parked>,
    parked_count: usize,
    /// Sources that have taken the end of this move.
    told: BTreeMap<Slot, MoveId>,
    /// Moves that have ended here and that the map has named since: once it does not, all is reported.
    named: BTreeMap<Slot, MoveId>,
    /// Steps on their way through the log. One move's may be taken leave of while the next of the same slot
    /// begins: each has a place of its own, or they would be proposed in turns without end.
    proposed: BTreeMap<(Slot, MoveId), (MoveStep, Now)>,
    /// Of the map of this version: the moves that this group has a side of, by slot, in the order of their
    /// numbers. A map has thousands, and each slot is looked at in each turn.
    ordered: BTreeMap<Slot, Vec<MoveId>>,
    ordered_of: Option<u64>,
    pace: Pace,
    /// Rows may come in parts, as of this turn.
    takes_parts: bool,
    due: Option<Now>,
}

/// What a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Topic {
    /// Rows and rounds, of the source.
    Pull,
    /// That a move has ended, to the source.
    End,
    /// How it stands, of the destination.
    Resolve,
    /// That a move has ended, to the shardmaster.
    Report,
    /// That a move has ended that never began here, to the shardmaster.
    Skipped,
}

#[derive(Debug)]
struct Asked {
    id: MoveId,
    at: Now,
    wait: Now,
    /// Whom it was said to last.
    to: Option<NodeId>,
    /// It went after a hint already, since its time last came: two that take each other for the leader would
    /// send it to and fro.
    hinted: bool,
}

impl Asked {
    /// Nothing was said yet.
    fn new(id: MoveId) -> Asked {
        Asked { id, at: 0, wait: 0, to: None, hinted: false }
    }
}

/// Of a slot that goes.
#[derive(Debug)]
struct Serve {
    id: MoveId,
    /// Who copies it.
    to: NodeId,
    /// The first rows of this round are owed, once it has begun.
    owed: Option<u32>,
    /// It takes large rows in parts.
    parts: bool,
    /// It is to be told that the end was taken.
    owes_taken: bool,
    heard: Now,
    /// It has said nothing for so long that writes do not wait for it any more.
    silent: bool,
    /// The newest round, and the bytes of its changes.
    round: u32,
    round_bytes: u64,
}

impl Serve {
    /// The first rows of a round are asked for.
    fn owes(&mut self, round: u32, parts: bool) {
        (self.owed, self.parts) = (Some(round), parts);
    }
}

impl Mover {
    pub(super) fn deadline(&self) -> Option<Now> {
        self.due
    }

    /// Whether requests for a slot wait here.
    pub(super) fn parks(&self, slot: Slot) -> bool {
        self.parked.contains_key(&slot)
    }

    /// Whether whoever is to get a slot has asked for its first rows.
    fn is_awaited(&self, order: &Move) -> bool {
        let serve = self.serves.get(&order.slot).filter(|serve| serve.id == order.id);
        serve.is_some_and(|serve| serve.owed == Some(0))
    }

    /// How many requests wait here.
    pub(super) fn parked(&self) -> usize {
        self.parked_count
    }

    fn wake(&mut self, at: Now) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// Whether it is time to say something (again). If so, it is noted as said.
    fn may_ask(&mut self, now: Now, slot: Slot, topic: Topic, id: MoveId) -> bool {
        let asked = self.asked.entry((slot, topic)).or_insert(Asked::new(id));
        if asked.id != id {
            *asked = Asked::new(id);
        }
        let again = asked.at.saturating_add(asked.wait);
        let first = asked.wait == 0;
        if !first && now < again {
            self.wake(again);
            return false;
        }
        asked.at = now;
        asked.hinted &= first;
        asked.wait = (asked.wait * 2).clamp(RETRY_NS_MIN, RETRY_NS_MAX);
        let next = now.saturating_add(asked.wait);
        self.wake(next);
        true
    }

    /// Whom the last question went to, if it went without an answer for its time.
    fn silent(&self, slot: Slot, topic: Topic) -> Option<NodeId> {
        let asked = self.asked.get(&(slot, topic)).filter(|asked| asked.wait > RETRY_NS_MIN);
        asked.and_then(|asked| asked.to)
    }

    /// An answer came.
    fn answered(&mut self, slot: Slot, topic: Topic) {
        self.asked.remove(&(slot, topic));
    }

    /// What went to this node is to be asked of somebody else: at once, but once only before its time comes.
    fn hinted(&mut self, slot: Slot, from: NodeId) {
        for (_, asked) in self.asked.iter_mut().filter(|((at, _), _)| *at == slot) {
            if asked.to == Some(from) && !std::mem::replace(&mut asked.hinted, true) {
                asked.wait = 0;
            }
        }
    }

    /// Forgets what was of moves that are over.
    fn keep_only(&mut self, now: Now, slots: &BTreeSet<Slot>) {
        self.pulls.retain(|slot, _| slots.contains(slot));
        self.serves.retain(|slot, _| slots.contains(slot));
        self.asked.retain(|(slot, _), _| slots.contains(slot));
        self.told.retain(|slot, _| slots.contains(slot));
        self.named.retain(|slot, _| slots.contains(slot));
        self.proposed.retain(|(slot, _), (_, at)| {
            slots.contains(slot) && now < at.saturating_add(RETRY_NS_MAX)
        });
    }

    /// The moves that the map has of this group.
    fn look_at(&mut self, map: &ClusterMap, group: GroupId) {
        if self.ordered_of == Some(map.version) {
            return;
        }
        self.ordered_of = Some(map.version);
        self.ordered.clear();
        let concerns = |order: &&Move| order.to == group || order.from == Some(group);
        for order in map.moves.values().map(|record| &record.order).filter(concerns) {
            self.ordered.entry(order.slot).or_default().push(order.id);
        }
    }

    /// What the map says of the moves of a slot that this group has a side of, in the order of their numbers.
    fn records<'a>(&self, map: &'a ClusterMap, slot: Slot) -> impl Iterator<Item = &'a MoveRecord> {
        let ids = self.ordered.get(&slot).map_or(&[][..], |ids| ids);
        ids.iter().filter_map(|id| map.moves.get(id))
    }

    /// Whether a slot may be begun now: its copy would take turns from others, and from clients.
    fn may_begin(&mut self, now: Now, order: &Move) -> bool {
        // One without a source has nothing to copy; one that is on its way through the log counts already.
        let counted = order.from.is_none() || self.begun(now, &(order.slot, order.id)).is_some();
        let may = counted || self.pace.may_begin(now);
        if let Some(at) = self.pace.deadline(now).filter(|_| !may) {
            self.wake(at);
        }
        may
    }

    /// Since when the beginning of a move is on its way through the log, if it is.
    fn begun(&self, now: Now, of: &(Slot, MoveId)) -> Option<Now> {
        let (step, at) = self.proposed.get(of)?;
        let begins = matches!(step, MoveStep::BeginImport(_));
        (begins && now < at.saturating_add(RETRY_NS_MAX)).then_some(*at)
    }

    /// Counts the slots that are being copied, or about to be.
    fn pace_turn(&mut self, now: Now, serves: bool) {
        let begun = self.proposed.keys().filter(|(slot, _)| !self.pulls.contains_key(slot));
        let begun = begun.filter_map(|of| self.begun(now, of));
        let copied = self.pulls.values().map(Pull::progress);
        self.pace = self.pace.turn(now, serves, copied.chain(begun));
    }
}

impl Replica {
    /// Says and proposes what is due.
    pub(super) fn drive_moves(
        &mut self,
        now: Now,
        wall: LogTime,
        map: &ClusterMap,
        out: &mut ReplicaOutput,
    ) {
        self.mover.due = None;
        if self.role.role != Role::Leader || !self.settled {
            return;
        }
        let Machine::Shard(store) = &self.machine else { return };
        self.mover.look_at(map, self.group);
        let slots: BTreeSet<Slot> =
            store.moving().chain(self.mover.ordered.keys().copied()).collect();
        self.mover.keep_only(now, &slots);
        self.mover.pace_turn(now, self.serves);
        self.mover.takes_parts = self.takes_parts(map);
        for slot in slots {
            self.drive_slot(now, slot, map, out);
        }
        self.unpark(wall, map, out);
    }

    fn drive_slot(&mut self, now: Now, slot: Slot, map: &ClusterMap, out: &mut ReplicaOutput) {
        let Machine::Shard(store) = &self.machine else { return };
        let stand = store.stand(slot);
        if !matches!(stand.phase, SlotPhase::Importing { .. })
            && let Some(pull) = self.mover.pulls.remove(&slot)
        {
            self.mover.pace.ended(now, pull.since(), pull.bytes());
        }
        // What the map says of the move that is next here. One that has begun need not be the first of them:
        // an earlier one may have been refused before this side heard of it.
        let group = self.group;
        let next = |mover: &Mover, is_side: fn(&Move, GroupId) -> bool| {
            let mut records = mover.records(map, slot);
            records.find(|record| record.order.id > stand.settled && is_side(&record.order, group))
        };
        let named = |order: &Move| map.moves.get(&order.id);
        if let Some(ended) = stand.ended {
            self.drive_end(now, slot, ended, map, out);
        }
        self.drive_skipped(now, &stand, slot, map, out);
        match &stand.phase {
            SlotPhase::Absent => {
                // Until the end of the last one is forgotten the entry would change nothing.
                if let Some(record) = next(&self.mover, |order, group| order.to == group)
                    && stand.ended.is_none()
                {
                    if let Some(reason) = self.declines(record.cancel) {
                        self.refuse(now, record.order, reason);
                    } else if self.mover.may_begin(now, &record.order) {
                        self.propose_step(now, MoveStep::BeginImport(record.order));
                    }
                }
            }
            SlotPhase::Importing { order, round, cursor, held } => {
                match self.declines(named(order).is_some_and(|record| record.cancel)) {
                    Some(reason) => self.refuse(now, *order, reason),
                    None => {
                        let (cursor, held) = (cursor.clone(), held.clone());
                        let applied = Place { round: *round, cursor, held };
                        self.pull(now, *order, applied, map, out);
                    }
                }
            }
            SlotPhase::Exporting { order, round, frozen } => {
                match named(order).and_then(|record| record.ended) {
                    Some((outcome, _)) => self.propose_end(now, *order, outcome),
                    None => self.serve(now, *order, *round, *frozen, map, out),
                }
            }
            SlotPhase::Owned => {
                if let Some(record) = next(&self.mover, |order, group| order.from == Some(group))
                    && stand.ended.is_none()
                {
                    match record.ended {
                        // It was refused before it began here.
                        Some((outcome @ MoveOutcome::Refused(_), _)) => {
                            self.propose_end(now, record.order, outcome);
                        }
                        // It was asked for while the end of the one before was not forgotten.
                        None if self.mover.is_awaited(&record.order) => {
                            self.propose_step(now, MoveStep::BeginExport(record.order));
                        }
                        Some(_) | None => {}
                    }
                }
            }
        }
    }

    /// Why a slot that is to come here is not taken, if so. What it needs of the disk is for what goes on.
    fn declines(&self, cancel: bool) -> Option<RefuseReason> {
        match cancel {
            true => Some(RefuseReason::Cancelled),
            false => self.disk.low.then_some(RefuseReason::OutOfSpace),
        }
    }

    /// Sees to a slot that goes.
    fn serve(
        &mut self,
        now: Now,
        order: Move,
        round: u32,
        frozen: bool,
        map: &ClusterMap,
        out: &mut ReplicaOutput,
    ) {
        let Move { slot, id, to, .. } = order;
        let Machine::Shard(store) = &self.machine else { return };
        let Some(serve) = self.mover.serves.get_mut(&slot).filter(|serve| serve.id == id) else {
            // Nobody has asked this leader yet.
            let serve = Serve {
                id,
                to: NodeId(0),
                owed: None,
                parts: false,
                owes_taken: false,
                heard: now,
                silent: false,
                round,
                round_bytes: 0,
            };
            self.mover.serves.insert(slot, serve);
            return self.mover.wake(now.saturating_add(RESOLVE_NS));
        };
        serve.round = round;
        let silent_at = serve.heard.saturating_add(PATIENCE_NS);
        serve.silent = now >= silent_at && !is_broken(Mutant::HoldForNobody);
        let (node, late) = (serve.to, serve.heard.saturating_add(RESOLVE_NS));
        if serve.owed.take_if(|owed| *owed == round).is_some() {
            let from = &RowName::new();
            let wanted = Wanted { round, from, parts: serve.parts, held: None };
            let rows = store.chunk(slot, id, wanted, MOVE_CHUNK).map(rows_message);
            rows.into_iter().for_each(|rows| self.say(node, to, slot, id, rows, out));
        }
        if !frozen {
            if now < silent_at && self.mover.parks(slot) {
                self.mover.wake(silent_at);
            }
            return;
        }
        if now < late {
            return self.mover.wake(late);
        }
        if self.mover.may_ask(now, slot, Topic::Resolve, id) {
            self.ask((to, Topic::Resolve), slot, id, MoveMessage::Resolve(order), map, out);
        }
    }

    fn refuse(&mut self, now: Now, order: Move, reason: RefuseReason) {
        self.propose_step(now, MoveStep::Refuse { order, reason });
    }

    fn propose_end(&mut self, now: Now, order: Move, outcome: MoveOutcome) {
        let (slot, id) = (order.slot, order.id);
        self.propose_step(
            now,
            match outcome {
                MoveOutcome::Activated => MoveStep::CompleteExport { slot, id },
                MoveOutcome::Refused(reason) => MoveStep::AbortExport { order, reason },
            },
        );
    }

    /// Puts a step into the log, unless it is on its way.
    fn propose_step(&mut self, now: Now, step: MoveStep) {
        if let Some((before, at)) = self.mover.proposed.get(&step.of())
            && *before == step
            && now < at.saturating_add(RETRY_NS_MAX)
        {
            let again = at.saturating_add(RETRY_NS_MAX);
            return self.mover.wake(again);
        }
        self.mover.proposed.insert(step.of(), (step.clone(), now));
        self.batch.push(EntryItem::Move(step), None, 128);
        self.mover.wake(now.saturating_add(RETRY_NS_MAX));
    }

    /// Says something to whoever leads a group, as far as known; to the next of its voters if it is that one who did
    /// not answer. What another slot has found out meanwhile counts.
    fn ask(
        &mut self,
        of: (GroupId, Topic),
        slot: Slot,
        id: MoveId,
        message: MoveMessage,
        map: &ClusterMap,
        out: &mut ReplicaOutput,
    ) {
        if let Some(to) = self.whom_to_ask(of, slot, map) {
            self.say(to, of.0, slot, id, message, out);
        }
    }

    /// As [`Replica::ask`]: who that is. It is noted as asked.
    fn whom_to_ask(
        &mut self,
        (group, topic): (GroupId, Topic),
        slot: Slot,
        map: &ClusterMap,
    ) -> Option<NodeId> {
        let voters = map.config.groups.get(&group).map_or(&[][..], |group| &group.voters);
        let known = self.mover.leaders.get(&group).filter(|node| voters.contains(node)).copied();
        let next = |node: NodeId| {
            let at = voters.iter().position(|voter| *voter == node).map_or(0, |at| at + 1);
            voters.get(at % voters.len().max(1)).copied()
        };
        let own = self.own;
        let silent = self.mover.silent(slot, topic);
        let to = match known {
            Some(node) if silent == Some(node) => next(node),
            Some(node) => Some(node),
            None => voters.iter().copied().find(|n| *n == own).or_else(|| voters.first().copied()),
        };
        let to = to?;
        self.mover.leaders.insert(group, to);
        if let Some(asked) = self.mover.asked.get_mut(&(slot, topic)) {
            asked.to = Some(to);
        }
        Some(to)
    }

    fn say(
        &self,
        node: NodeId,
        to: GroupId,
        slot: Slot,
        id: MoveId,
        message: MoveMessage,
        out: &mut ReplicaOutput,
    ) {
        if node != NodeId(0) {
            // What it serves, its node says.
            let envelope = MoveEnvelope { from: self.group, to, slot, id, serves: false, message };
            out.moves.push((node, envelope));
        }
    }

    /// Takes what another group says.
    pub fn on_move(
        &mut self,
        now: Now,
        from: NodeId,
        envelope: MoveEnvelope,
        out: &mut ReplicaOutput,
    ) {
        if matches!(self.machine, Machine::Master(_)) && self.leads() && self.settled {
            return self.on_report(from, &envelope, out);
        }
        let MoveEnvelope { from: group, slot, id, message, .. } = envelope;
        if let MoveMessage::NotLeader { hint } = message {
            return self.on_hint(from, group, slot, hint);
        }
        if self.role.role != Role::Leader || !self.settled {
            if message.wants_leader() {
                let hint = self.role.leader;
                self.say(from, group, slot, id, MoveMessage::NotLeader { hint }, out);
            }
            return;
        }
        let Machine::Shard(store) = &self.machine else { return };
        let stand = store.stand(slot);
        let (message, parts, held) = match message {
            MoveMessage::InParts { ask, held } => (ask.into(), true, held),
            message => (message, false, None),
        };
        match message {
            MoveMessage::Begin(order) => self.on_begin(now, from, order, parts, &stand, out),
            MoveMessage::Fetch { round, from: cursor } => {
                let wanted = Wanted { round, from: &cursor, parts, held: held.as_ref() };
                let rows = store.chunk(slot, id, wanted, MOVE_CHUNK).map(rows_message);
                self.heard_of(now, slot, id, from);
                rows.into_iter().for_each(|rows| self.say(from, group, slot, id, rows, out));
            }
            MoveMessage::Next { round, freeze } => {
                self.on_next(now, from, (slot, id), (round, freeze, parts), &stand);
            }
            MoveMessage::Ended { order, outcome } => {
                if stand.settled >= id {
                    return self.say(from, group, slot, id, MoveMessage::Taken, out);
                }
                self.heard_of(now, slot, id, from);
                if let Some(serve) = self.mover.serves.get_mut(&slot) {
                    serve.owes_taken = true;
                }
                self.propose_end(now, order, outcome);
            }
            MoveMessage::Chunk { chunk, behind } => {
                self.on_chunk(now, (group, from), (slot, id), (chunk, None), behind);
            }
            MoveMessage::Part { chunk, part, behind } => {
                self.on_chunk(now, (group, from), (slot, id), (chunk, Some(part)), behind);
            }
            MoveMessage::Taken => {
                self.mover.told.insert(slot, id);
            }
            MoveMessage::Resolve(order) => self.on_resolve(now, from, order, &stand, out),
            MoveMessage::Reported => {
                if stand.ended.is_some_and(|ended| ended.order.id == id) {
                    self.propose_step(now, MoveStep::Forget { slot, id });
                }
            }
            // The map will tell.
            MoveMessage::Settled => {}
            MoveMessage::Report { .. }
            | MoveMessage::NotLeader { .. }
            | MoveMessage::InParts { .. } => {}
        }
    }

    /// Whoever was asked does not lead its group.
    fn on_hint(&mut self, from: NodeId, group: GroupId, slot: Slot, hint: Option<NodeId>) {
        // Another slot may have found out before: this one asks the same node then.
        let known = self.mover.leaders.get(&group);
        let found = known.is_some_and(|leader| *leader != from);
        match hint.filter(|hint| *hint != from) {
            _ if found => {}
            Some(hint) => drop(self.mover.leaders.insert(group, hint)),
            None => drop(self.mover.leaders.remove(&group)),
        }
        // Asked again at once if there is somebody else to ask; else after a while.
        if found || hint.is_some() {
            self.mover.hinted(slot, from);
        }
    }

    /// The destination is alive and copies.
    fn heard_of(&mut self, now: Now, slot: Slot, id: MoveId, from: NodeId) -> &mut Serve {
        let serve = self.mover.serves.entry(slot).or_insert(Serve {
            id,
            to: from,
            owed: None,
            parts: false,
            owes_taken: false,
            heard: now,
            silent: false,
            round: 0,
            round_bytes: 0,
        });
        if serve.id != id {
            *serve =
                Serve { id, owed: None, owes_taken: false, round: 0, round_bytes: 0, ..*serve };
        }
        (serve.to, serve.heard, serve.silent) = (from, now, false);
        self.mover.asked.remove(&(slot, Topic::Resolve));
        serve
    }

    fn on_begin(
        &mut self,
        now: Now,
        from: NodeId,
        order: Move,
        parts: bool,
        stand: &SlotStand,
        out: &mut ReplicaOutput,
    ) {
        let (slot, id) = (order.slot, order.id);
        if stand.settled >= id {
            return self.say(from, order.to, slot, id, MoveMessage::Settled, out);
        }
        match &stand.phase {
            SlotPhase::Owned => {
                self.heard_of(now, slot, id, from).owes(0, parts);
                if stand.ended.is_none() {
                    self.propose_step(now, MoveStep::BeginExport(order));
                }
            }
            SlotPhase::Exporting { order: begun, .. } if begun.id == id => {
                self.heard_of(now, slot, id, from).owes(0, parts);
            }
            SlotPhase::Exporting { .. } | SlotPhase::Importing { .. } | SlotPhase::Absent => {}
        }
        self.mover.wake(now);
    }

    fn on_next(
        &mut self,
        now: Now,
        from: NodeId,
        (slot, id): (Slot, MoveId),
        (round, freeze, parts): (u32, bool, bool),
        stand: &SlotStand,
    ) {
        let SlotPhase::Exporting { order, round: begun, .. } = &stand.phase else { return };
        if order.id != id {
            return;
        }
        let Machine::Shard(store) = &self.machine else { return };
        let behind = store.behind(slot).unwrap_or_default();
        let serve = self.heard_of(now, slot, id, from);
        serve.owes(round, parts);
        if begun.checked_add(1) == Some(round) {
            serve.round_bytes = behind.bytes;
            // It was small when it was asked; clients would wait for what it is now.
            let freeze = freeze && behind.is_within(&LAST_ROUND);
            self.propose_step(
                now,
                match freeze {
                    true => MoveStep::Freeze { slot, id, round },
                    false => MoveStep::Rotate { slot, id, round },
                },
            );
        }
        self.mover.wake(now);
    }

    fn on_resolve(
        &mut self,
        now: Now,
        from: NodeId,
        order: Move,
        stand: &SlotStand,
        out: &mut ReplicaOutput,
    ) {
        let (slot, id) = (order.slot, order.id);
        let Some(source) = order.from else { return };
        if let Some(Ended { order, outcome }) = stand.ended.filter(|ended| ended.order.id == id) {
            return self.say(from, source, slot, id, MoveMessage::Ended { order, outcome }, out);
        }
        if stand.settled >= id {
            return self.say(from, source, slot, id, MoveMessage::Settled, out);
        }
        self.mover.leaders.insert(source, from);
        let progress = self.mover.pulls.get(&slot).filter(|pull| pull.id == id);
        let patience = if is_broken(Mutant::RefuseWhenAsked) { 0 } else { PATIENCE_NS };
        if progress.is_some_and(|pull| now >= pull.progress().saturating_add(patience)) {
            self.refuse(now, order, RefuseReason::NoProgress);
        }
        self.mover.wake(now);
    }
}

fn rows_message(((chunk, part), behind): (Piece, Behind)) -> MoveMessage {
    match part {
        None => MoveMessage::Chunk { chunk, behind },
        Some(part) => MoveMessage::Part { chunk, part, behind },
    }
}

//! What becomes of a request: it is answered at once, waits for its slot, its entry or its read.

use super::{Client, LANE_ITEM_BYTES, Origin, Replica, ReplicaOutput, WAITING_MAX, reads};
use crate::cluster_map::ClusterMap;
use crate::codec::EntryItem;
use crate::handshake::TOKEN_VERSION;
use crate::machine::Machine;
use crate::op::Op;
use crate::session::LogTime;
use crate::shard_store::{Mutant, ShardStore, is_broken};
use crate::slot::Slot;
use crate::wire::{Answer, ReadRequest, Reply, Request, RequestBody};
use raft_core::effects::Role;

/// A request that has to wait: for its entry, or for its read to be confirmed.
pub(super) enum Admitted {
    /// With its bytes in the entry.
    Item(EntryItem, usize),
    Read(ReadRequest),
}

impl Replica {
    /// A request from a router: refused at once, or proposed with the next poll.
    pub fn request(
        &mut self,
        wall: LogTime,
        map: &ClusterMap,
        origin: Origin,
        request: Request,
        out: &mut ReplicaOutput,
    ) {
        let client = Client { origin, id: request.id };
        if self.role.role != Role::Leader {
            let answer = Answer::NotLeader { hint: self.role.leader };
            return out.replies.push((origin, Reply { id: request.id, answer }));
        }
        if let Some(slot) = self.waits_for_slot(&request.body) {
            let bytes = LANE_ITEM_BYTES + request.body.op_bytes();
            if let Err(answer) = self.park(client, request.body, slot, bytes) {
                out.replies.push((origin, Reply { id: request.id, answer }));
            }
            return;
        }
        let slot = request.body.slot();
        match self.admit(wall, request.body) {
            Ok(Admitted::Item(item, bytes)) => self.batch.push(item, Some(client), bytes),
            Ok(Admitted::Read(read)) => self.reads.push(client, read),
            Err(Answer::Elsewhere) => {
                let answer = self.elsewhere(map, slot);
                out.replies.push((origin, Reply { id: request.id, answer }));
            }
            Err(answer) => out.replies.push((origin, Reply { id: request.id, answer })),
        }
    }

    /// Who has a slot that this group has not, if the map knows: a router hears of slots now and then only,
    /// and of one that left some time ago the group itself knows nothing any more.
    fn elsewhere(&self, map: &ClusterMap, slot: Option<Slot>) -> Answer {
        let owner = slot.and_then(|slot| map.owners.of(slot));
        match owner.filter(|(group, _)| *group != self.group) {
            Some((to, epoch)) => Answer::Moved { to, epoch },
            None => Answer::Elsewhere,
        }
    }

    /// Turns a request into what has to wait, or into the answer that need not.
    fn admit(&self, wall: LogTime, body: RequestBody) -> Result<Admitted, Answer> {
        if self.is_full() {
            return Err(Answer::Busy);
        }
        let store = match &self.machine {
            Machine::Shard(store) => store,
            Machine::Master(master) => return reads::admit_to_master(master, body),
        };
        if let Some(answer) = self.hindrance(&body, store) {
            return Err(answer);
        }
        match body {
            RequestBody::LogTime => Err(Answer::LogTime(self.stamp(wall))),
            // The node judges whether the target may lead.
            RequestBody::Transfer { .. } | RequestBody::Master(_) => Err(Answer::Invalid),
            RequestBody::Group(query) => Ok(Admitted::Item(EntryItem::Group(query), 16)),
            // A member that cannot read it in its log stops.
            RequestBody::Lane(lane)
                if matches!(lane.op, Op::Token(_))
                    && self.knows_older(TOKEN_VERSION)
                    && !is_broken(Mutant::TokensForAll) =>
            {
                Err(Answer::Busy)
            }
            RequestBody::Lane(lane) => {
                let bytes = LANE_ITEM_BYTES + lane.op.bytes();
                Ok(Admitted::Item(EntryItem::Lane(lane), bytes))
            }
            RequestBody::Read(read) if !self.reads.has_room(&read) => Err(Answer::Busy),
            RequestBody::Read(read) => Ok(Admitted::Read(read)),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        let waiting = self.waiting_count + self.batch.items.len() + self.reads.count();
        waiting + self.mover.parked() >= WAITING_MAX
    }

    /// The slot that a request has to wait for: nobody is served there for a moment, or its copy has to
    /// catch up, or others wait there already. A read passes writes that wait, unless it must see one of them: that
    /// one may be executed elsewhere, and here it would be waited for in vain.
    fn waits_for_slot(&self, body: &RequestBody) -> Option<Slot> {
        let Machine::Shard(store) = &self.machine else { return None };
        let slot = body.slot()?;
        let parks = self.mover.parks(slot);
        let held = match body {
            RequestBody::Read(_) if is_broken(Mutant::ReadsPassAll) => false,
            RequestBody::Read(_) if is_broken(Mutant::ReadsPassNone) => parks,
            RequestBody::Read(read) => parks && store.awaits_lane(read),
            _ => parks || self.is_throttled(store, slot),
        };
        let frozen = store.hindrance(slot) == Some(Answer::Frozen);
        let waits = held || frozen && !is_broken(Mutant::ParkNothing);
        (self.settled && waits && !self.is_full()).then_some(slot)
    }

    /// What a request would be told anyway once its turn came.
    fn hindrance(&self, body: &RequestBody, store: &ShardStore) -> Option<Answer> {
        body.slot().filter(|_| self.settled).and_then(|slot| store.hindrance(slot))
    }
}

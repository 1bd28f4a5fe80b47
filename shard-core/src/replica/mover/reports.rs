//! Who is told how a move ended: the other side, and the shardmaster.

use super::Topic;
use crate::cluster_config::SHARDMASTER;
use crate::cluster_map::{ClusterMap, MoveRecord};
use crate::codec::EntryItem;
use crate::machine::Machine;
use crate::migration::{Ended, MoveEnvelope, MoveMessage, MoveStep};
use crate::moves::MoveId;
use crate::replica::{Replica, ReplicaOutput};
use crate::shard_store::SlotStand;
use crate::shardmaster::{MasterOp, MasterRequest, MoveReport, Side};
use crate::slot::Slot;
use raft_core::types::{NodeId, Now};

impl Replica {
    /// Tells of the end of a move whoever has to know it.
    pub(super) fn drive_end(
        &mut self,
        now: Now,
        slot: Slot,
        ended: Ended,
        map: &ClusterMap,
        out: &mut ReplicaOutput,
    ) {
        let Ended { order, outcome } = ended;
        let is_source = order.from == Some(self.group);
        if let Some(serve) = self.mover.serves.get_mut(&slot)
            && serve.id == order.id
            && std::mem::take(&mut serve.owes_taken)
        {
            let to = serve.to;
            self.mover.serves.remove(&slot);
            self.say(to, order.to, slot, order.id, MoveMessage::Taken, out);
        }
        let record = map.moves.get(&order.id);
        let reported = |record: &MoveRecord| match is_source {
            true => record.source_reported,
            false => record.destination_reported,
        };
        if record.is_some() {
            self.mover.named.insert(slot, order.id);
        }
        let named = self.mover.named.get(&slot) == Some(&order.id);
        if record.map_or(named, reported) {
            self.propose_step(now, MoveStep::Forget { slot, id: order.id });
        } else if self.mover.may_ask(now, slot, Topic::Report, order.id) {
            let message = MoveMessage::Report { ended };
            self.ask((SHARDMASTER, Topic::Report), slot, order.id, message, map, out);
        }
        // The source hears it here first: it is frozen.
        let Some(source) = order.from.filter(|_| !is_source) else { return };
        let told = record.is_some_and(|record| record.source_reported);
        let told = told || self.mover.told.get(&slot) == Some(&order.id);
        if !told && self.mover.may_ask(now, slot, Topic::End, order.id) {
            let message = MoveMessage::Ended { order, outcome };
            self.ask((source, Topic::End), slot, order.id, message, map, out);
        }
    }

    /// Tells of a move that was refused before this source heard of it, when a later one of the slot is settled
    /// here: it will never begin, and nobody else tells. Its record would stay for ever, and a group may have
    /// so many of them only.
    pub(super) fn drive_skipped(
        &mut self,
        now: Now,
        stand: &SlotStand,
        slot: Slot,
        map: &ClusterMap,
        out: &mut ReplicaOutput,
    ) {
        let is_told = |id: MoveId| stand.ended.is_some_and(|ended| ended.order.id == id);
        let skipped = self.mover.records(map, slot).find_map(|record| {
            let order = record.order;
            let here = order.from == Some(self.group);
            let over = order.id <= stand.settled && !is_told(order.id) && !record.source_reported;
            let (outcome, _) = record.ended.filter(|_| here && over)?;
            Some(Ended { order, outcome })
        });
        if let Some(ended) = skipped
            && self.mover.may_ask(now, slot, Topic::Skipped, ended.order.id)
        {
            let message = MoveMessage::Report { ended };
            self.ask((SHARDMASTER, Topic::Skipped), slot, ended.order.id, message, map, out);
        }
    }

    /// A group tells the shardmaster how a move ended. The map says what came of it; who asks again after
    /// that is answered.
    pub(super) fn on_report(
        &mut self,
        from: NodeId,
        envelope: &MoveEnvelope,
        out: &mut ReplicaOutput,
    ) {
        let (Machine::Master(master), MoveMessage::Report { ended }) =
            (&self.machine, &envelope.message)
        else {
            return;
        };
        let Ended { order, outcome } = *ended;
        let side = match order.to == envelope.from {
            true => Side::Destination,
            false => Side::Source,
        };
        // A leader that leads no more, and does not know, has no record of what was ordered since: that it is
        // not there says nothing then, and whoever heard that all is reported would never report.
        if !master.has_ordered(order.id) {
            return;
        }
        let record = master.map().moves.get(&order.id);
        let reported = record.is_none_or(|record| match side {
            Side::Destination => record.destination_reported,
            Side::Source => record.source_reported,
        });
        if reported {
            let MoveEnvelope { from: group, slot, id, .. } = *envelope;
            return self.say(from, group, slot, id, MoveMessage::Reported, out);
        }
        let report =
            MoveReport { id: order.id, slot: order.slot, by: envelope.from, side, outcome };
        let request = MasterRequest { id: None, op: MasterOp::Report(report) };
        self.batch.push(EntryItem::Master(request), None, 128);
    }
}

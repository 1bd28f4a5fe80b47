//! What a search knows a state of [`Pairs`] by.

use super::{Frame, MS, Machine, Pairs};
use crate::raft_world::hash_of_message;
use raft_core::message::Message;
use raft_core::types::Now;
use std::hash::{Hash, Hasher};

/// Differences below this are the same to a search.
const GRAIN: Now = 25 * MS;

impl Pairs {
    /// Hashes all that decides what comes next, as far as a search tells times apart.
    pub fn hash_into(&self, hasher: &mut impl Hasher) {
        self.world.hash_into(hasher);
        for (id, machine) in &self.machines {
            let Machine { epoch, silent, deleted, stalled, stuck, hands_over, .. } = machine;
            (id, epoch, silent, deleted, stalled, stuck, hands_over).hash(hasher);
            machine.pairs.as_ref().map(|pairs| pairs.digest(self.now)).hash(hasher);
            machine.unsynced_since.map(|since| (self.now - since) / GRAIN).hash(hasher);
            (machine.inbox.len(), format!("{:?}", machine.inbox)).hash(hasher);
            machine.links.keys().for_each(|peer| peer.hash(hasher));
            if let Some(raft) = &self.world.host(*id).raft {
                let due = raft.deadline().map(|at| at.saturating_sub(self.now) / GRAIN);
                (due, raft.lease_holds(self.now)).hash(hasher);
            }
        }
        for ((from, to), frames) in &self.held {
            (from, to, frames.len()).hash(hasher);
            frames.iter().for_each(|flying| self.hash_frame(&flying.frame, hasher));
        }
        for (from, to, frame) in &self.kept {
            (from, to).hash(hasher);
            self.hash_frame(frame, hasher);
        }
    }

    fn hash_frame(&self, frame: &Frame, hasher: &mut impl Hasher) {
        match frame {
            Frame::Raft(message) => {
                let mut message = message.clone();
                match &mut message {
                    Message::AppendEntries(m) => m.stamp = 0,
                    Message::AppendEntriesReply(m) => m.stamp = 0,
                    Message::Confirm(m) => m.stamp = 0,
                    Message::ConfirmReply(m) => m.stamp = 0,
                    _ => {}
                }
                hash_of_message(&message).hash(hasher);
            }
            Frame::Heartbeat(h) => {
                let age = |stamp: u64| (stamp > 0).then(|| self.now.saturating_sub(stamp) / GRAIN);
                (h.epoch, age(h.stamp), age(h.echo), h.claims, h.sync_age_ns / GRAIN).hash(hasher);
                let page = h.beliefs.as_ref().map(|page| (page.from, page.through, &page.pairs));
                (page, &h.disowned).hash(hasher);
            }
        }
    }
}

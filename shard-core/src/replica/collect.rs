//! Clock entries for what only an entry can collect: expired keys, and what flushes left behind.
//!
//! Every entry collects a bounded part on its way. Where none comes, the leader proposes one without
//! items: a little after the first key has expired, so that keys that expire together share it, and
//! again while something is left. A group without anything to collect has no deadline here and stays
//! silent. Entries on their way collect anyhow; nothing is proposed beside them.

use super::{Machine, Replica};
use crate::codec::{self, EntryBatch};
use crate::session::LogTime;
use raft_core::effects::Role;
use raft_core::types::{Index, Now};

/// How long after the first key has expired its group is told, in milliseconds.
pub const COLLECT_DELAY_MS: u64 = 100;
/// Between one entry that left something to collect and the next, in milliseconds: the group's
/// traffic goes before.
pub const COLLECT_PAUSE_MS: u64 = 5;
/// The wall clock may be set while a key's end is awaited, so it is looked at so often, in
/// milliseconds.
pub const COLLECT_LOOK_MS_MAX: u64 = 60_000;

const NS_PER_MS: Now = 1_000_000;

/// When this replica has to propose a clock entry.
#[derive(Debug, Default)]
pub(super) struct Collection {
    due: Option<Now>,
    /// The newest clock entry proposed in this role.
    proposed: Index,
}

impl Collection {
    pub(super) fn deadline(&self) -> Option<Now> {
        self.due
    }
}

impl Replica {
    /// Proposes a clock entry if one is due.
    pub(super) fn propose_collection(&mut self, now: Now, wall: LogTime) {
        if self.collection.due.is_none_or(|due| due > now) {
            return;
        }
        self.collection.due = None;
        if self.collection_wait(wall) != Some(0) {
            return;
        }
        let stamp = self.stamp(wall);
        let clock = codec::encode_batch(&EntryBatch::new(stamp, Vec::new()));
        let proposed = self.raft.propose(now, &mut std::iter::once(clock.into()));
        if proposed.count > 0 {
            self.last_stamp = stamp;
            self.collection.proposed = proposed.first.index;
        }
    }

    /// Sets when the next clock entry is due. What was set before stays if it is earlier: a group that
    /// is polled often must not put it off for ever.
    pub(super) fn schedule_collection(&mut self, now: Now, wall: LogTime) {
        let wait = self.collection_wait(wall);
        let due = wait.map(|ms| {
            let ms = ms.clamp(COLLECT_PAUSE_MS, COLLECT_LOOK_MS_MAX);
            now.saturating_add(ms.saturating_mul(NS_PER_MS))
        });
        self.collection.due = due.map(|due| self.collection.due.map_or(due, |set| set.min(due)));
    }

    /// Another role proposes nothing, or knows nothing of what this one proposed.
    pub(super) fn forget_collection(&mut self) {
        self.collection = Collection::default();
    }

    /// Milliseconds until a clock entry is worth it. None: nothing is to be collected, or it is not
    /// this replica's turn to see to it.
    fn collection_wait(&self, wall: LogTime) -> Option<u64> {
        let under_way = !self.waiting.is_empty() || self.collection.proposed > self.applied.index;
        if self.role.role != Role::Leader || !self.settled || under_way {
            return None;
        }
        let first = match &self.machine {
            Machine::Shard(store) => store.collectable_from()?,
            // A refused move is ordered again.
            Machine::Master(master) => master.next_due()?,
        };
        if first <= self.machine.log_time() {
            return Some(0);
        }
        let worth = first.0.saturating_add(COLLECT_DELAY_MS);
        Some(worth.saturating_sub(self.stamp(wall).0))
    }
}

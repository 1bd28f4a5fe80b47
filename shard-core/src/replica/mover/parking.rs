//! Requests that wait for a slot: one that is frozen, or whose copy would never catch up with its writes.

use crate::cluster_map::ClusterMap;
use crate::machine::Machine;
use crate::replica::{Client, Replica, ReplicaOutput, answer_all};
use crate::session::LogTime;
use crate::shard_store::{Mutant, ShardStore, is_broken};
use crate::slot::Slot;
use crate::wire::{Answer, Request, RequestBody};

/// Requests that one frozen slot parks.
pub const PARKED_MAX: usize = 1024;
/// Their bytes.
pub const PARKED_BYTES_MAX: usize = 8 << 20;
/// From this round on a slot takes so many bytes of changes in a round, or half of those of the round
/// before: then every round is shorter than the last, unless one write changes more than that.
const THROTTLE_FROM_ROUND: u32 = 2;
const THROTTLE_BYTES: u64 = 1 << 20;
/// From this round on it takes none: the next round has what was on its way, and the one behind it nothing.
const HOLD_FROM_ROUND: u32 = 10;

/// Requests for a slot that serves nobody now.
#[derive(Debug, Default)]
pub(super) struct Parked {
    requests: Vec<(Client, RequestBody)>,
    bytes: usize,
}

impl Replica {
    /// Parks a request for a slot that serves nobody for a moment, or says why not.
    pub(in crate::replica) fn park(
        &mut self,
        client: Client,
        body: RequestBody,
        slot: Slot,
        bytes: usize,
    ) -> Result<(), Answer> {
        let parked = self.mover.parked.entry(slot).or_default();
        let fits = parked.requests.len() < PARKED_MAX && parked.bytes + bytes <= PARKED_BYTES_MAX;
        if !fits && !parked.requests.is_empty() {
            return Err(Answer::Busy);
        }
        parked.bytes += bytes;
        parked.requests.push((client, body));
        self.mover.parked_count += 1;
        Ok(())
    }

    /// Whether writes to a slot wait until its round is over: else the copy would never catch up.
    pub(in crate::replica) fn is_throttled(&self, store: &ShardStore, slot: Slot) -> bool {
        let Some(serve) = self.mover.serves.get(&slot) else { return false };
        let holds = serve.round >= HOLD_FROM_ROUND && !is_broken(Mutant::NoHold);
        let allowed = THROTTLE_BYTES.max(serve.round_bytes / 2);
        let throttles = serve.round >= THROTTLE_FROM_ROUND && !is_broken(Mutant::NoThrottle);
        let behind = store.behind(slot).filter(|_| throttles && !serve.silent);
        behind.is_some_and(|behind| holds || behind.bytes > allowed)
    }

    /// Another role drives nothing, and answers what waits.
    pub(in crate::replica) fn forget_moves(&mut self, answer: &Answer, out: &mut ReplicaOutput) {
        let mover = std::mem::take(&mut self.mover);
        for parked in mover.parked.into_values() {
            let clients: Vec<_> = parked.requests.iter().map(|(client, _)| Some(*client)).collect();
            answer_all(&clients, answer, out);
        }
    }

    /// Requests for slots that serve again, or that have gone, go on in their order.
    pub(super) fn unpark(&mut self, wall: LogTime, map: &ClusterMap, out: &mut ReplicaOutput) {
        let Machine::Shard(store) = &self.machine else { return };
        let free: Vec<Slot> = self
            .mover
            .parked
            .keys()
            .copied()
            .filter(|slot| {
                store.hindrance(*slot) != Some(Answer::Frozen) && !self.is_throttled(store, *slot)
            })
            .collect();
        for slot in free {
            let Some(parked) = self.mover.parked.remove(&slot) else { continue };
            self.mover.parked_count -= parked.requests.len();
            for (Client { origin, id }, body) in parked.requests {
                self.request(wall, map, origin, Request { id, body }, out);
            }
        }
    }
}

//! When a node is to lead less, or nothing: it stops, its disk is stuck, its clock is wrong, somebody
//! evacuates it.

use super::Node;
use crate::NodeId;
use crate::session::LogTime;
use raft_core::effects::NodeLiveness;
use raft_core::types::Now;
use std::sync::Arc;

impl Node {
    /// Hands over what is led here and should not be, as far as somebody can take it.
    pub(super) fn hand_over(&mut self, now: Now, wall: LogTime) {
        self.clocks.read(now, wall);
        let hands_over = self.hands_over();
        self.tell_own_state(now, hands_over);
        let map = Arc::clone(self.feed.map());
        let (clocks, pairs) = (&self.clocks, &self.health.pairs);
        let wrong = clocks.must_hand_over(now);
        let evacuated = map.evacuated.contains(&self.id);
        if !hands_over && !wrong && !evacuated {
            return;
        }
        for (group, replica) in self.replicas.iter_mut().filter(|(_, replica)| replica.leads_on()) {
            let up = |peer: NodeId| pairs.may_lead(peer);
            let in_use = |peer: NodeId| up(peer) && !map.evacuated.contains(&peer);
            let better = |peer: NodeId| in_use(peer) && (!wrong || clocks.is_right(now, peer));
            let mut to = replica.successor(better);
            if evacuated || hands_over {
                to = to.or_else(|| replica.successor(in_use));
            }
            if hands_over {
                // To one that is evacuated as well, only by a node that may not lead at all.
                to = to.or_else(|| replica.successor(up));
            }
            if let Some(to) = to {
                // Refused, it is tried again at the next poll.
                let _ = replica.transfer(now, to);
            }
            self.touched.insert(*group);
        }
    }

    /// Tells the replicas whether this node may lead, when that changes: they do not campaign while it
    /// may not (R15).
    fn tell_own_state(&mut self, now: Now, hands_over: bool) {
        if std::mem::replace(&mut self.told_hand_over, hands_over) != hands_over {
            let state = match hands_over {
                true => NodeLiveness::DiskStalled,
                false => NodeLiveness::Up { epoch: 0, link: 0 },
            };
            for (group, replica) in &mut self.replicas {
                replica.liveness(now, self.id, state);
                self.touched.insert(*group);
            }
        }
    }

    /// Whether this node is to lead nothing: it stops, or its disk is stuck (R15).
    fn hands_over(&self) -> bool {
        self.leaving || self.health.pairs.must_hand_over()
    }

    /// Whether a leadership is here that some other node could take.
    pub fn has_leadership_to_hand_over(&self) -> bool {
        let may_lead = |peer| self.health.pairs.may_lead(peer);
        self.replicas
            .values()
            .any(|replica| replica.leads() && replica.successor(may_lead).is_some())
    }
}

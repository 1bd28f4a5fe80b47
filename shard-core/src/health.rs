//! What one node knows of its own and its peers' health, for all its replicas at once: the pairs
//! with their nodes, and how long its own disk has been at work.

use crate::wire::PeerStatus;
use raft_core::effects::{NodeLiveness, Role, RoleChange, Write};
use raft_core::node_pair::{
    Led, NodePairs, PairEdge, PairEffects, PairState, PairStatus, PairsConfig, Work,
};
use raft_core::types::{GroupId, NodeId, Now, WriteToken};
use std::collections::{BTreeMap, VecDeque};

/// The pairs of a node, and what it can vouch for.
#[derive(Debug)]
pub(crate) struct Health {
    pub(crate) pairs: NodePairs,
    /// Writes that were handed out and are not durable yet, oldest first. The disk keeps their
    /// order, so the first one is the oldest.
    unsynced: VecDeque<(Now, GroupId, WriteToken)>,
    /// The newest durable token of each group that has a write in `unsynced`.
    durable: BTreeMap<GroupId, WriteToken>,
    /// Times that the worker has passed its loop.
    passes: u64,
}

impl Health {
    pub(crate) fn new(epoch: u64) -> Health {
        Health {
            pairs: NodePairs::new(PairsConfig::default(), epoch),
            unsynced: VecDeque::new(),
            durable: BTreeMap::new(),
            passes: 0,
        }
    }

    /// A write leaves for the disk.
    pub(crate) fn wrote(&mut self, now: Now, group: GroupId, write: &Write) {
        self.unsynced.push_back((now, group, write.token));
    }

    /// The disk is done with all of these groups' writes up to these tokens.
    pub(crate) fn persisted(&mut self, tokens: &[(GroupId, WriteToken)]) {
        self.durable.extend(tokens.iter().copied());
        while let Some((_, group, token)) = self.unsynced.front()
            && self.durable.get(group).is_some_and(|durable| token <= durable)
        {
            self.unsynced.pop_front();
        }
        if self.unsynced.is_empty() {
            self.durable.clear();
        }
    }

    /// How long the oldest write has waited for the disk.
    pub(crate) fn sync_age(&self, now: Now) -> Now {
        self.unsynced.front().map_or(0, |(at, ..)| now.saturating_sub(*at))
    }

    /// The worker passed its loop; heartbeats that are due come out of `take_effects`.
    pub(crate) fn pass(&mut self, now: Now) {
        self.passes += 1;
        if self.pairs.deadline().is_some_and(|due| due <= now) {
            let work = Work { passes: self.passes, sync_age_ns: self.sync_age(now) };
            self.pairs.tick(now, work);
        }
    }

    /// A replica's role, term or leader changed.
    pub(crate) fn led(&mut self, group: GroupId, change: RoleChange, others: &[NodeId]) {
        let led = match (change.role, change.leader) {
            (Role::Leader, _) => Some(Led::Here { term: change.term, members: others.to_vec() }),
            (Role::Follower, Some(leader)) => Some(Led::There { term: change.term, leader }),
            (Role::Follower | Role::PreCandidate | Role::Candidate, _) => None,
        };
        self.pairs.set_led(group, led);
    }

    /// A replica is here no more; all its writes are durable, or nobody waits for them.
    pub(crate) fn closed(&mut self, group: GroupId) {
        self.pairs.set_led(group, None);
        self.unsynced.retain(|(_, of, _)| *of != group);
        self.durable.remove(&group);
    }

    /// Heartbeats to send, and edges for the replicas.
    pub(crate) fn take_effects(&mut self) -> PairEffects {
        let mut effects = PairEffects::default();
        self.pairs.poll(&mut effects);
        effects
    }

    /// How the peers stand, as replicas are told of them: what edges said before a replica was there.
    pub(crate) fn known(&self) -> impl Iterator<Item = (NodeId, NodeLiveness)> {
        let pairs = self.pairs.status(0).into_iter();
        pairs.map(|(peer, pair)| {
            let state = match pair.state {
                PairState::Up { epoch, link } => NodeLiveness::Up { epoch, link },
                PairState::Deaf => NodeLiveness::Deaf,
                PairState::DiskStalled => NodeLiveness::DiskStalled,
                PairState::Down { gone } => NodeLiveness::Down { gone },
            };
            (peer, state)
        })
    }

    /// For INFO.
    pub(crate) fn status(&self, now: Now) -> BTreeMap<NodeId, PeerStatus> {
        let pairs = self.pairs.status(now);
        pairs.iter().map(|(peer, pair)| (*peer, peer_status(pair))).collect()
    }
}

fn peer_status(pair: &PairStatus) -> PeerStatus {
    const MILLISECOND: Now = 1_000_000;
    PeerStatus {
        state: match pair.state {
            PairState::Up { .. } => "up",
            PairState::Deaf => "deaf",
            PairState::DiskStalled => "disk-stalled",
            PairState::Down { gone: false } => "down",
            PairState::Down { gone: true } => "gone",
        },
        contact_age_ms: pair.contact_age_ns.map(|age| age / MILLISECOND),
        echo_age_ms: pair.echo_age_ns.map(|age| age / MILLISECOND),
        sync_age_ms: pair.sync_age_ns / MILLISECOND,
        claimed: pair.claimed,
        believed: pair.believed,
        // Told by whoever has the clocks, and by whoever holds the links.
        clock_ahead_ms: None,
        cut: false,
    }
}

/// What the replica of `group` is told of an edge.
pub(crate) fn told(edge: PairEdge, group: GroupId) -> Option<NodeLiveness> {
    match edge {
        PairEdge::Up { epoch, link } => Some(NodeLiveness::Up { epoch, link }),
        PairEdge::Deaf => Some(NodeLiveness::Deaf),
        PairEdge::Down { gone } => Some(NodeLiveness::Down { gone }),
        PairEdge::DiskStalled => Some(NodeLiveness::DiskStalled),
        PairEdge::Disowned { group: of, term } if of == group => {
            Some(NodeLiveness::Disowned { term })
        }
        PairEdge::Unbelieved { group: of, term } if of == group => {
            Some(NodeLiveness::Unbelieved { term })
        }
        PairEdge::Disowned { .. } | PairEdge::Unbelieved { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_core::node_pair::{Claims, Heartbeat};

    const MS: Now = 1_000_000;

    /// A group that is opened later would count on a node that hears nobody, or whose disk is stuck.
    #[test]
    fn a_replica_that_is_opened_later_hears_how_each_peer_stands() {
        let mut health = Health::new(1);
        let peers = [2, 3, 4].map(NodeId);
        let mut now = 1000 * MS;
        peers.iter().for_each(|peer| health.pairs.link_up(now, *peer, 7, peer.0));
        let up = |peer: NodeId| (peer, NodeLiveness::Up { epoch: 7, link: peer.0 });
        assert_eq!(health.known().collect::<Vec<_>>(), peers.map(up));
        for _ in 0..50 {
            now += 100 * MS;
            health.pass(now);
            health.take_effects();
            // n2 does not hear this node, the disk of n3 is stuck, n4 says nothing.
            for (peer, echo, sync_age_ns) in [(NodeId(2), 0, 0), (NodeId(3), now, 5000 * MS)] {
                let (beliefs, disowned) = (None, Vec::new());
                let claims = Claims::default();
                let said = Heartbeat {
                    epoch: 7,
                    stamp: now,
                    echo,
                    claims,
                    sync_age_ns,
                    beliefs,
                    disowned,
                };
                health.pairs.heard(now, peer, said).unwrap();
            }
        }
        let states =
            [NodeLiveness::Deaf, NodeLiveness::DiskStalled, NodeLiveness::Down { gone: false }];
        let stand: Vec<_> = peers.into_iter().zip(states).collect();
        assert_eq!(health.known().collect::<Vec<_>>(), stand);
    }
}

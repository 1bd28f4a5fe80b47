//! What node pairs would report to the groups of a simulated cluster: who hears whom, who leads what
//! (R11 to R17). It looks at everything every heartbeat, where real nodes exchange messages.

use crate::raft_world::World;
use raft_core::effects::{NodeLiveness, Role};
use raft_core::types::{NodeId, Now, Term};
use std::collections::{BTreeMap, BTreeSet};

/// From one look to the next.
pub const EVERY: Now = 100_000_000;
/// Silence after which a node counts as lost.
const SILENCE: Now = 500_000_000;

/// What one node was last told of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Told {
    #[default]
    Up,
    Deaf,
    /// Its disk is stuck.
    Stalled,
    Down,
}

#[derive(Clone, Copy, Debug, Default)]
struct Pair {
    told: Told,
    /// When it last heard the other, and was last heard by it.
    heard: Now,
    echoed: Now,
    /// A mismatch of claims seen at the last look.
    mismatch: Option<Term>,
}

/// The pairs of a cluster. The first of a key is the one that is told.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    pairs: BTreeMap<(NodeId, NodeId), Pair>,
    /// Who was told that its own disk is stuck.
    own: BTreeSet<NodeId>,
}

impl Watch {
    /// An observer learns at once that a node is lost, or its process gone.
    pub fn lost(&mut self, world: &mut World, observer: NodeId, id: NodeId, gone: bool) {
        self.pairs.entry((observer, id)).or_default().told = Told::Down;
        world.call(observer, |raft, now| raft.liveness(now, id, NodeLiveness::Down { gone }));
    }

    /// Looks around. Only those who are awake do; `hears(a, b)`: what b sends reaches a; the disks of some are
    /// `stuck`, which a real node says after one timeout, and others of it after two.
    pub fn look(
        &mut self,
        world: &mut World,
        now: Now,
        awake: impl Fn(NodeId) -> bool,
        hears: impl Fn(NodeId, NodeId) -> bool,
        stuck: impl Fn(NodeId) -> bool,
    ) {
        let ids = world.ids();
        let alive = |world: &World, id: NodeId| world.host(id).raft.is_some();
        for id in ids.iter().copied().filter(|id| awake(*id)) {
            let changes = match stuck(id) {
                true => self.own.insert(id).then_some(NodeLiveness::DiskStalled),
                false => self.own.remove(&id).then_some(NodeLiveness::Down { gone: false }),
            };
            if let Some(edge) = changes {
                world.call(id, |raft, now| raft.liveness(now, id, edge));
            }
        }
        for (a, b) in ids.iter().flat_map(|a| ids.iter().map(|b| (*a, *b))) {
            if a == b || !alive(world, a) || !awake(a) {
                continue;
            }
            let pair = self.pairs.entry((a, b)).or_default();
            let heard = alive(world, b) && hears(a, b);
            if heard {
                pair.heard = now;
            }
            if heard && hears(b, a) {
                pair.echoed = now;
            }
            let told = match (now - pair.heard < SILENCE, now - pair.echoed < SILENCE) {
                (true, true) if stuck(b) => Told::Stalled,
                (true, true) => Told::Up,
                (true, false) => Told::Deaf,
                (false, _) => Told::Down,
            };
            let before = std::mem::replace(&mut pair.told, told);
            if told != before {
                self.tell(world, a, b, told);
            }
            if heard {
                self.compare_claims(world, a, b);
            }
        }
    }

    fn tell(&mut self, world: &mut World, a: NodeId, b: NodeId, told: Told) {
        let edge = match told {
            Told::Up => return world.connect(a, b),
            Told::Deaf => NodeLiveness::Deaf,
            Told::Stalled => NodeLiveness::DiskStalled,
            Told::Down => NodeLiveness::Down { gone: false },
        };
        world.call(a, |raft, now| raft.liveness(now, b, edge));
    }

    /// `b` claims what it leads; `a` has its own beliefs. A difference seen twice is told (R13).
    fn compare_claims(&mut self, world: &mut World, a: NodeId, b: NodeId) {
        let status = |id: NodeId| Some(world.host(id).raft.as_ref()?.status());
        let (Some(here), Some(there)) = (status(a), status(b)) else { return };
        let believed = (here.leader == Some(b)).then_some(here.hard.term);
        let claimed = (there.role == Role::Leader).then_some(there.hard.term);
        let Some(pair) = self.pairs.get_mut(&(a, b)) else { return };
        let mismatch = if believed == claimed { None } else { believed.or(claimed) };
        let before = std::mem::replace(&mut pair.mismatch, mismatch);
        if mismatch.is_none() || mismatch != before {
            return;
        }
        if let Some(term) = believed {
            let edge = NodeLiveness::Disowned { term };
            world.call(a, |raft, now| raft.liveness(now, b, edge));
        }
        if let Some(term) = claimed {
            let edge = NodeLiveness::Unbelieved { term };
            world.call(b, |raft, now| raft.liveness(now, a, edge));
        }
    }
}

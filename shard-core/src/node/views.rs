//! When routers are told anew what the node knows.
//!
//! A view has all of the map, and while slots move the map changes hundreds of times a second. A router that does not
//! know yet where a slot is hears it from the group that had it. So what tells of nothing but moves is told now and
//! then, all else at once.

use crate::cluster_map::ClusterMap;
use raft_core::types::Now;

/// Between two views that tell of nothing but moves.
pub(super) const VIEW_GAP_NS: Now = 20_000_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Views {
    told: Option<Now>,
    due: Option<Now>,
}

impl Views {
    /// The map is another one. Says whether that is to be told at once.
    pub(super) fn map_changed(&mut self, now: Now, old: &ClusterMap, new: &ClusterMap) -> bool {
        let at_once = new.differs_besides_moves(old);
        if !at_once {
            let next = self.told.map_or(now, |told| told.saturating_add(VIEW_GAP_NS));
            self.due.get_or_insert(next.max(now));
        }
        at_once
    }

    /// Whether a view is told with this turn: something else has changed, or it is time.
    pub(super) fn poll(&mut self, now: Now, changed: bool) -> bool {
        let tell = changed || self.due.is_some_and(|due| due <= now);
        if tell {
            *self = Views { told: Some(now), due: None };
        }
        tell
    }

    /// When the next is due, if nothing else changes.
    pub(super) fn deadline(&self) -> Option<Now> {
        self.due
    }
}

//! What breaks during a run.

use super::world::{Event, MS, World};
use shard_core::NodeId;

/// Faults are drawn in steps of so many milliseconds.
const STEP_MS: u64 = 10;

impl World {
    fn fault(&mut self, every_ms: u64) -> bool {
        every_ms > 0 && self.random.below(every_ms) < STEP_MS
    }

    fn some_node(&mut self) -> NodeId {
        NodeId(1 + self.random.below(self.hosts.len() as u64))
    }

    pub(super) fn break_things(&mut self) {
        if !self.faults {
            return;
        }
        self.at(STEP_MS * MS, Event::Faults);
        let rates = self.rates;
        let (from, to) = (self.some_node(), self.some_node());
        if from != to && self.fault(rates.link_ms) {
            self.break_link(from, to);
        }
        if from != to && self.fault(rates.cut_ms) {
            self.network.set_cut(from, to, true);
            let until = self.random.between(50, 2000) * MS;
            self.at(until, Event::Mend(from, to));
        }
        if self.fault(rates.crash_ms) {
            self.crash(from);
        }
        if self.fault(rates.pause_ms) {
            let until = self.now + self.random.between(20, 1500) * MS;
            if let Some(host) = self.hosts.get_mut(&to) {
                // What waits for its end must not be overtaken.
                host.paused_until = host.paused_until.max(until);
            }
        }
        if self.fault(rates.router_ms) {
            let router = self.random.below(self.routers.len() as u64) as usize;
            self.break_router_link(router, from);
        }
    }

    /// One node's clock is wrong for a while.
    pub(super) fn draw_clock(&mut self) {
        if self.rates.clock_off_ms == 0 {
            return;
        }
        let (node, at) = (self.some_node(), self.random.between(100, 4000) * MS);
        self.at(at, Event::Clock(node, self.rates.clock_off_ms));
        let until = at + self.random.between(500, 12_000) * MS;
        self.at(until, Event::Clock(node, 0));
    }

    pub(super) fn set_clock(&mut self, id: NodeId, off_ms: i64) {
        if let Some(host) = self.hosts.get_mut(&id) {
            host.wrong_by = off_ms;
        }
    }

    /// Everything is whole from now on.
    pub(super) fn mend_all(&mut self) {
        for (from, to) in self.network.cuts() {
            self.mend(from, to);
        }
        for id in self.hosts.keys().copied().collect::<Vec<_>>() {
            self.set_clock(id, 0);
            self.start(id);
        }
    }
}

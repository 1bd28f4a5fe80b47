//! How much a slot is written to lately.
//!
//! Each replica counts what it applies itself, from its start on. It is no part of the state: no checkpoint has it, it does not
//! move with the slot, and nothing that is replicated follows from it.

use crate::session::LogTime;

/// After so much log time a write counts half. Milliseconds.
const HALF_LIFE_MS: u64 = 10_000;

/// A count in which older writes count less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Writes {
    count: u64,
    /// When it was halved last.
    at: LogTime,
}

impl Writes {
    /// A write is applied.
    pub(super) fn add(&mut self, now: LogTime) {
        let halvings = self.halvings(now);
        self.count = self.lately(now).saturating_add(1);
        self.at = match self.at {
            LogTime(0) => now,
            at => LogTime(at.0 + halvings * HALF_LIFE_MS),
        };
    }

    /// What counts now: under steady writes those of the last 10 to 20 seconds.
    pub(super) fn lately(&self, now: LogTime) -> u64 {
        self.count.checked_shr(self.halvings(now).min(64) as u32).unwrap_or(0)
    }

    fn halvings(&self, now: LogTime) -> u64 {
        now.0.saturating_sub(self.at.0) / HALF_LIFE_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_writes_count_less() {
        let mut writes = Writes::default();
        let start = 1_800_000_000_000;
        for ms in 0..60_000 {
            if ms % 100 == 0 {
                writes.add(LogTime(start + ms));
            }
        }
        let steady = writes.lately(LogTime(start + 60_000));
        assert!((90..=200).contains(&steady), "{steady} for ten a second");
        assert_eq!(writes.lately(LogTime(start + 69_999)), steady);
        assert_eq!(writes.lately(LogTime(start + 70_000)), steady / 2);
        assert_eq!(writes.lately(LogTime(start + 600_000)), 0);
        assert_eq!(writes.lately(LogTime(u64::MAX)), 0);
        // Log time that is behind, as in a slot that came from elsewhere, takes nothing away.
        assert!(writes.lately(LogTime(start)) >= steady);
    }
}

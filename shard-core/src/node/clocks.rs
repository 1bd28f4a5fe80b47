//! How far this node's own wall clock is believed.
//!
//! Nodes tell each other what their clocks show. A leader stamps entries with its own, but never far above
//! the newest that another member of the group has told; and a node whose clock differs from those of most
//! hands over what it leads. So one clock that is wrong by years can neither let keys expire nor end
//! sessions. A group of one has nobody to compare with. What was told grows older by the monotonic clock.

use crate::NodeId;
use crate::session::LogTime;
use crate::shard_store::{Mutant, is_broken};
use raft_core::types::Now;
use std::collections::BTreeMap;

/// A stamp is at most so far above the newest clock of another member, and a clock that differs from those of
/// most nodes by more is wrong. Milliseconds.
pub const CLOCK_OFF_MAX_MS: u64 = 500;
/// A node whose clock is ahead by more hands over what it leads; less may be what messages took on their way, and what
/// it stamps is held to the others' clocks. Milliseconds.
const AHEAD_MAX_MS: i64 = 10_000;
/// A node whose clock is behind, or that far ahead, for so long hands over what it leads.
const WRONG_NS: Now = 5_000_000_000;
/// The clocks are compared at most so often: a busy node reads its own many thousand times a second.
const COMPARE_NS: Now = 100_000_000;
/// What a peer tells arrives late, and then says too little: of readings the one that says most counts, for so
/// long. Less than the time after which a clock is wrong, or one that is set back would be wrong for its past.
const READING_NS: Now = 3_000_000_000;

/// What a clock showed, and when that was read or arrived.
#[derive(Clone, Copy, Debug)]
struct Reading {
    clock: LogTime,
    at: Now,
}

impl Reading {
    /// What it shows now, in milliseconds.
    fn shows(&self, now: Now) -> u64 {
        self.clock.0.saturating_add(now.saturating_sub(self.at) / 1_000_000)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    own: Option<Reading>,
    peers: BTreeMap<NodeId, Reading>,
    compared: Option<Now>,
    wrong_since: Option<Now>,
}

impl Clocks {
    /// A peer told what its clock shows.
    pub(super) fn heard(&mut self, now: Now, from: NodeId, clock: LogTime) {
        let reading = Reading { clock, at: now };
        let says_less = |before: &Reading| {
            clock.0 < before.shows(now) && now.saturating_sub(before.at) < READING_NS
        };
        if !self.peers.get(&from).is_some_and(says_less) {
            self.peers.insert(from, reading);
        }
    }

    /// Peers that are no nodes of the cluster any more say nothing of the time.
    pub(super) fn keep(&mut self, is_node: impl Fn(NodeId) -> bool) {
        self.peers.retain(|peer, _| is_node(*peer));
    }

    /// This node's clock shows that.
    pub(super) fn read(&mut self, now: Now, wall: LogTime) {
        self.own = Some(Reading { clock: wall, at: now });
        if self.compared.is_some_and(|at| now.saturating_sub(at) < COMPARE_NS) {
            return;
        }
        self.compared = Some(now);
        let wrong = self
            .off_ms(now)
            .is_some_and(|off| if off < 0 { is_wrong(off) } else { off > AHEAD_MAX_MS });
        self.wrong_since = if wrong { self.wrong_since.or(Some(now)) } else { None };
    }

    /// The time by which entries of a group may be stamped that has these other members: this node's clock, if
    /// it is not too far ahead of them all.
    pub(super) fn believed(&self, now: Now, wall: LogTime, others: &[NodeId]) -> LogTime {
        let clocks = others.iter().filter_map(|other| self.peers.get(other));
        match clocks.map(|reading| reading.shows(now)).max() {
            Some(newest) if !is_broken(Mutant::AnyStamp) => {
                wall.min(LogTime(newest.saturating_add(CLOCK_OFF_MAX_MS)))
            }
            _ => wall,
        }
    }

    /// What most clocks show, this node's among them; of an even number the lower one in the middle.
    fn median(&self, now: Now) -> Option<u64> {
        let clocks = self.own.iter().chain(self.peers.values());
        let mut shown: Vec<u64> = clocks.map(|reading| reading.shows(now)).collect();
        shown.sort_unstable();
        shown.get(shown.len().checked_sub(1)? / 2).copied()
    }

    /// How far this node's clock is ahead of what most show, or behind. Milliseconds.
    pub(super) fn off_ms(&self, now: Now) -> Option<i64> {
        Some(difference(self.own?.shows(now), self.median(now)?))
    }

    /// How far a log time is ahead of what most clocks show. Milliseconds.
    pub(super) fn behind_ms(&self, now: Now, log_time: LogTime) -> u64 {
        self.median(now).map_or(0, |shown| log_time.0.saturating_sub(shown))
    }

    /// How far a peer's clock is ahead of this node's, or behind. Milliseconds.
    pub(super) fn ahead_ms(&self, now: Now, peer: NodeId) -> Option<i64> {
        Some(difference(self.peers.get(&peer)?.shows(now), self.own?.shows(now)))
    }

    /// Whether this node should lead nothing, since its clock has been wrong for some time.
    pub(super) fn must_hand_over(&self, now: Now) -> bool {
        let long = self.wrong_since.is_some_and(|since| now.saturating_sub(since) >= WRONG_NS);
        long && !is_broken(Mutant::AnyClockLeads)
    }

    /// Whether a peer's clock shows about what most do.
    pub(super) fn is_right(&self, now: Now, peer: NodeId) -> bool {
        let clocks = self.peers.get(&peer).zip(self.median(now));
        clocks.is_some_and(|(reading, median)| !is_wrong(difference(reading.shows(now), median)))
    }
}

fn difference(one: u64, other: u64) -> i64 {
    let difference = i128::from(one) - i128::from(other);
    difference.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

fn is_wrong(off_ms: i64) -> bool {
    off_ms.unsigned_abs() > CLOCK_OFF_MAX_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Now = 1_000_000_000;
    const N1: NodeId = NodeId(1);
    const N2: NodeId = NodeId(2);
    const YEARS: u64 = 400_000_000_000;

    fn clocks(own: u64, peers: &[u64]) -> Clocks {
        let mut clocks = Clocks::default();
        for (peer, clock) in (1..).map(NodeId).zip(peers) {
            clocks.heard(0, peer, LogTime(*clock));
        }
        clocks.read(0, LogTime(own));
        clocks
    }

    #[test]
    fn a_stamp_is_not_far_above_the_newest_of_the_others() {
        let others = [N1, N2];
        let clocks = clocks(1_000_000 + YEARS, &[1_000_000, 999_000]);
        let at = |now, wall| clocks.believed(now, LogTime(wall), &others).0;
        assert_eq!(at(0, 1_000_000 + YEARS), 1_000_500);
        assert_eq!(at(30 * SECOND, 1_030_000 + YEARS), 1_030_500, "what was told grows older");
        assert_eq!(at(0, 1_000_499), 1_000_499);
        assert_eq!(at(0, 5), 5, "behind it is believed: log time does not go back");
        assert_eq!(
            clocks.believed(0, LogTime(YEARS), &[NodeId(9)]),
            LogTime(YEARS),
            "nobody knows"
        );
        assert_eq!(clocks.believed(0, LogTime(YEARS), &[]), LogTime(YEARS), "a group of one");
    }

    #[test]
    fn what_most_clocks_show_is_the_time() {
        let off = |own, peers: &[u64]| clocks(own, peers).off_ms(0);
        assert_eq!(off(5_000, &[]), Some(0));
        assert_eq!(off(5_000 + YEARS, &[5_000, 5_001]), Some(YEARS as i64 - 1));
        assert_eq!(off(5_000, &[5_001, 5_000 + YEARS]), Some(-1));
        assert_eq!(off(50_000, &[1, 50_001]), Some(0));
        assert_eq!(off(9_000, &[5_000]), Some(4_000), "of two the lower");
        assert_eq!(off(5_000, &[9_000]), Some(0));
        assert_eq!(off(0, &[u64::MAX, u64::MAX]), Some(i64::MIN));
    }

    #[test]
    fn a_peer_that_is_heard_late_once_is_not_taken_for_slow() {
        let mut clocks = clocks(100_000, &[100_000]);
        clocks.heard(2 * SECOND, N1, LogTime(100_900));
        clocks.read(2 * SECOND, LogTime(102_000));
        assert_eq!(clocks.ahead_ms(2 * SECOND, N1), Some(0), "1.1 s on its way");
        clocks.heard(3 * SECOND, N1, LogTime(101_900));
        clocks.read(3 * SECOND, LogTime(103_000));
        assert_eq!(clocks.ahead_ms(3 * SECOND, N1), Some(-1_100), "but not for ever");
        clocks.heard(4 * SECOND, N1, LogTime(103_500));
        clocks.read(4 * SECOND, LogTime(104_000));
        assert_eq!(
            clocks.ahead_ms(4 * SECOND, N1),
            Some(-500),
            "who says more is believed at once"
        );
        clocks.keep(|_| false);
        assert_eq!(clocks.ahead_ms(4 * SECOND, N1), None);
    }

    #[test]
    fn a_node_hands_over_when_its_clock_has_been_wrong_for_some_time() {
        let hands_over = |own| {
            let clocks = clocks(own, &[99_400, 99_400]);
            assert!(!clocks.must_hand_over(4 * SECOND));
            clocks.must_hand_over(5 * SECOND)
        };
        assert!(hands_over(98_899) && !hands_over(98_900));
        assert!(!hands_over(109_400) && hands_over(109_401), "messages are late, never early");
        let mut clocks = clocks(200_000, &[99_400, 99_400]);
        clocks.read(5 * SECOND, LogTime(104_800));
        assert!(!clocks.must_hand_over(60 * SECOND), "mended, it counts anew");
        assert!(clocks.is_right(5 * SECOND, N1) && !clocks.is_right(5 * SECOND, NodeId(7)));
    }
}

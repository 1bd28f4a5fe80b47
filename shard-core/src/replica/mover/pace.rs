//! How much of its time a group gives to slots that come.
//!
//! Moves share disks, processors and links with the requests of clients, on both sides. So a group copies
//! [`AT_ONCE_MAX`] slots at a time, of large ones fewer ([`AT_ONCE_BYTES`]), and after each piece of work it rests
//! some times as long as that took. A piece is a slot from its beginning to its end ([`SLOT_REST`]) or, of a slot with
//! much in it, a chunk of the first round ([`CHUNK_REST`]). What shares the machine makes pieces longer, and the rests
//! with them: nobody has to know how fast a machine is.
//!
//! Nothing rests once a slot is close to its end: neither its later rounds, by which the copy follows what is written,
//! nor the last one, for which clients wait. Nothing rests either while no clients are served by this node or by
//! those whose slots come. A slot of which nothing has come for [`RETRY_NS_MAX`] counts no more, so groups
//! that do not answer hold up nobody for long.

use super::pulling::CHUNKS_IN_FLIGHT_MAX;
use super::{MS, RETRY_NS_MAX};
use crate::shard_store::{Mutant, is_broken};
use raft_core::types::Now;

/// Slots that are copied at a time.
pub const AT_ONCE_MAX: usize = 8;
/// Bytes that slots which are copied at a time may have together, by those of the last ones.
const AT_ONCE_BYTES: u64 = 96 << 10;
/// How long a rest is behind a slot, in times of the work before it. A slot with little in it is some ten entries in
/// three logs, and there are thousands of them.
const SLOT_REST: Now = 10;
/// And behind a chunk, which is one entry for as many bytes.
pub(super) const CHUNK_REST: Now = 3;
/// The longest rest.
const REST_NS_MAX: Now = 250 * MS;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// Slots that are copied, or about to be, as of this turn.
    under_way: usize,
    /// When the first of them counts no more, unless something comes of it.
    stale_at: Option<Now>,
    /// No other slot is begun until then, if clients are served.
    rest_until: Now,
    /// They are.
    serves: bool,
    /// What a slot has, smoothed: bytes of the first round.
    slot_bytes: u64,
}

impl Pace {
    /// As of the turn that begins. Of each slot under way, when something came of it last; older ones count no more.
    pub(super) fn turn(&self, now: Now, serves: bool, progress: impl Iterator<Item = Now>) -> Pace {
        let until = progress.map(|at| at.saturating_add(RETRY_NS_MAX));
        let count = |mut pace: Pace, until: Now| {
            pace.under_way += 1;
            pace.stale_at = Some(pace.stale_at.map_or(until, |first| first.min(until)));
            pace
        };
        let none = Pace { under_way: 0, stale_at: None, serves, ..*self };
        until.filter(|until| now < *until).fold(none, count)
    }

    /// Whether another slot may be begun. If so it counts.
    pub(super) fn may_begin(&mut self, now: Now) -> bool {
        let few = self.under_way < self.at_once() || is_broken(Mutant::BeginAll);
        let may = few && now >= self.rests_until();
        self.under_way += usize::from(may);
        may
    }

    /// How many slots may be copied at a time.
    fn at_once(&self) -> usize {
        let fit = AT_ONCE_BYTES / self.slot_bytes.max(1);
        match self.serves && !is_broken(Mutant::LargeOnesAtOnce) {
            true => usize::try_from(fit).unwrap_or(usize::MAX).clamp(1, AT_ONCE_MAX),
            false => AT_ONCE_MAX,
        }
    }

    fn rests_until(&self) -> Now {
        if self.serves || is_broken(Mutant::RestForNobody) { self.rest_until } else { 0 }
    }

    /// How many chunks of a slot may be in the log and not applied: of the first round, for which nobody waits, one.
    pub(super) fn chunks_max(&self, round: u32) -> u32 {
        if round == 0 && self.serves { 1 } else { CHUNKS_IN_FLIGHT_MAX }
    }

    /// Whether a slot that is copied rests until then.
    pub(super) fn rests(&self, now: Now, until: Now) -> bool {
        now < until && (self.serves || is_broken(Mutant::RestForNobody))
    }

    /// When that is to be asked again at the latest.
    pub(super) fn deadline(&self, now: Now) -> Option<Now> {
        match self.under_way < self.at_once() {
            true => Some(self.rests_until()).filter(|until| *until > now),
            false => self.stale_at,
        }
    }

    /// A slot is over that was worked at since then, and had so many bytes.
    pub(super) fn ended(&mut self, now: Now, since: Now, bytes: u64) {
        self.slot_bytes = match self.slot_bytes {
            0 => bytes,
            before => before / 4 * 3 + bytes / 4,
        };
        self.rest_until = self.rest_until.max(rest_after(now, since, SLOT_REST));
    }
}

/// Until when to rest after work that began then: so many times as long as it took.
pub(super) fn rest_after(now: Now, since: Now, times: Now) -> Now {
    if is_broken(Mutant::NoRest) {
        return now;
    }
    let rest = now.saturating_sub(since).saturating_mul(times).min(REST_NS_MAX);
    now.saturating_add(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_begun_and_others_when_one_is_over_and_the_rest_as_well() {
        let mut pace = Pace::default();
        let last = |count: usize| vec![9 * MS; count].into_iter();
        pace = pace.turn(0, true, last(0));
        assert_eq!((0..20).filter(|_| pace.may_begin(0)).count(), AT_ONCE_MAX);
        assert_eq!(pace.deadline(0), None, "one has to end");
        pace = pace.turn(10 * MS, true, last(AT_ONCE_MAX));
        assert!(!pace.may_begin(10 * MS));
        assert_eq!(
            pace.deadline(10 * MS),
            Some(9 * MS + RETRY_NS_MAX),
            "or to be silent for too long"
        );
        pace = pace.turn(9 * MS + RETRY_NS_MAX, true, last(AT_ONCE_MAX));
        assert!(pace.may_begin(9 * MS + RETRY_NS_MAX));
        pace = pace.turn(10 * MS, true, last(AT_ONCE_MAX - 1));
        pace.ended(10 * MS, 6 * MS, 0);
        let rested = 10 * MS + SLOT_REST * 4 * MS;
        assert!(!pace.may_begin(10 * MS) && !pace.may_begin(rested - 1));
        assert_eq!(pace.deadline(10 * MS), Some(rested));
        // A shorter piece of work after it makes the rest no shorter.
        pace.ended(11 * MS, 11 * MS, 0);
        assert!(!pace.may_begin(rested - 1));
        assert_eq!(pace.deadline(rested), None);
        assert!(pace.may_begin(rested) && !pace.may_begin(rested));
    }

    #[test]
    fn of_large_slots_fewer_are_begun_unless_no_client_is_served() {
        for (bytes, at_once) in [(0, 8), (1, 8), (13 << 10, 7), (40 << 10, 2), (u64::MAX, 1)] {
            for (serves, at_once) in [(true, at_once), (false, AT_ONCE_MAX)] {
                let mut pace = Pace::default();
                pace.ended(0, 0, bytes);
                pace = pace.turn(0, serves, std::iter::empty());
                assert_eq!((0..20).filter(|_| pace.may_begin(0)).count(), at_once, "{bytes}");
            }
        }
    }

    #[test]
    fn no_rest_is_endless() {
        assert_eq!(rest_after(u64::MAX / 2, 0, 3), u64::MAX / 2 + REST_NS_MAX);
        assert_eq!(rest_after(5, 7, 3), 5, "it rests still");
        assert_eq!(rest_after(u64::MAX, 0, 3), u64::MAX);
    }
}

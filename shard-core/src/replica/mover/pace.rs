//! How much of its time a group gives to slots that come.
//!
//! Moves share disks, processors and links with the requests of clients, on both sides. So a group copies
//! [`AT_ONCE_MAX`] slots at a time, and after each piece of work it rests [`REST`] times as long as that took.
//! A piece is a slot from its beginning to its end or, of a slot with much in it, what is copied of the first round
//! between two rests. What shares the machine makes pieces longer, and the rests with them: nobody
//! has to know how fast a machine is.
//!
//! Nothing rests once a slot is close to its end: neither its later rounds, by which the copy follows what is written,
//! nor the last one, for which clients wait. A slot of which nothing has come for [`RETRY_NS_MAX`] counts no more, so groups
//! that do not answer hold up nobody for long.

use super::{MS, RETRY_NS_MAX};
use crate::shard_store::{Mutant, is_broken};
use raft_core::types::Now;

/// Slots that are copied at a time.
pub const AT_ONCE_MAX: usize = 8;
/// How long a rest is, in times of the work before it.
const REST: Now = 3;
/// The longest rest.
const REST_NS_MAX: Now = 250 * MS;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// Slots that are copied, or about to be, as of this turn.
    under_way: usize,
    /// When the first of them counts no more, unless something comes of it.
    stale_at: Option<Now>,
    /// No other slot is begun until then.
    rest_until: Now,
}

impl Pace {
    /// As of the turn that begins. Of each slot under way, when something came of it last; older ones count no more.
    pub(super) fn turn(&self, now: Now, progress: impl Iterator<Item = Now>) -> Pace {
        let until = progress.map(|at| at.saturating_add(RETRY_NS_MAX));
        let count = |mut pace: Pace, until: Now| {
            pace.under_way += 1;
            pace.stale_at = Some(pace.stale_at.map_or(until, |first| first.min(until)));
            pace
        };
        let none = Pace { under_way: 0, stale_at: None, ..*self };
        until.filter(|until| now < *until).fold(none, count)
    }

    /// Whether another slot may be begun. If so it counts.
    pub(super) fn may_begin(&mut self, now: Now) -> bool {
        let may =
            (self.under_way < AT_ONCE_MAX || is_broken(Mutant::BeginAll)) && now >= self.rest_until;
        self.under_way += usize::from(may);
        may
    }

    /// When that is to be asked again at the latest.
    pub(super) fn deadline(&self, now: Now) -> Option<Now> {
        match self.under_way < AT_ONCE_MAX {
            true => Some(self.rest_until).filter(|until| *until > now),
            false => self.stale_at,
        }
    }

    /// A slot is over that was worked at since then.
    pub(super) fn ended(&mut self, now: Now, since: Now) {
        self.rest_until = self.rest_until.max(rest_after(now, since));
    }
}

/// Until when to rest after work that began then.
pub(super) fn rest_after(now: Now, since: Now) -> Now {
    if is_broken(Mutant::NoRest) {
        return now;
    }
    let rest = now.saturating_sub(since).saturating_mul(REST).min(REST_NS_MAX);
    now.saturating_add(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_begun_and_others_when_one_is_over_and_the_rest_as_well() {
        let mut pace = Pace::default();
        let last = |count: usize| vec![9 * MS; count].into_iter();
        pace = pace.turn(0, last(0));
        assert_eq!((0..20).filter(|_| pace.may_begin(0)).count(), AT_ONCE_MAX);
        assert_eq!(pace.deadline(0), None, "one has to end");
        pace = pace.turn(10 * MS, last(AT_ONCE_MAX));
        assert!(!pace.may_begin(10 * MS));
        assert_eq!(
            pace.deadline(10 * MS),
            Some(9 * MS + RETRY_NS_MAX),
            "or to be silent for too long"
        );
        pace = pace.turn(9 * MS + RETRY_NS_MAX, last(AT_ONCE_MAX));
        assert!(pace.may_begin(9 * MS + RETRY_NS_MAX));
        pace = pace.turn(10 * MS, last(AT_ONCE_MAX - 1));
        pace.ended(10 * MS, 6 * MS);
        let rested = 10 * MS + REST * 4 * MS;
        assert!(!pace.may_begin(10 * MS) && !pace.may_begin(rested - 1));
        assert_eq!(pace.deadline(10 * MS), Some(rested));
        // A shorter piece of work after it makes the rest no shorter.
        pace.ended(11 * MS, 11 * MS);
        assert!(!pace.may_begin(rested - 1));
        assert_eq!(pace.deadline(rested), None);
        assert!(pace.may_begin(rested) && !pace.may_begin(rested));
    }

    #[test]
    fn no_rest_is_endless() {
        assert_eq!(rest_after(u64::MAX / 2, 0), u64::MAX / 2 + REST_NS_MAX);
        assert_eq!(rest_after(5, 7), 5, "it rests still");
        assert_eq!(rest_after(u64::MAX, 0), u64::MAX);
    }
}

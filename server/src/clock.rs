//! The two clocks of a node. Only the shell reads them: the cores get their time as an argument.

use raft_core::types::Now;
use rustix::time::{ClockId, clock_gettime};
use shard_core::session::LogTime;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A clock that goes on while the machine is suspended: a leader that slept must know that its lease is
/// over, and that it heard nobody meanwhile. [`Instant`] stands still then on Linux.
#[cfg(target_os = "linux")]
const CLOCK: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const CLOCK: ClockId = ClockId::Monotonic;

fn read() -> Now {
    let at = clock_gettime(CLOCK);
    // 2^64 ns are 584 years.
    at.tv_sec as Now * 1_000_000_000 + at.tv_nsec as Now
}

/// The process' monotonic clock, counted from its making.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Now,
}

impl Clock {
    /// A clock that stands at zero now.
    pub fn start() -> Clock {
        Clock { start: read() }
    }

    /// Monotonic nanoseconds.
    pub fn now(&self) -> Now {
        read() - self.start
    }

    /// The instant at which `now` will have the given value, unless the machine is suspended before: a
    /// timer set by it then comes late, by the time that it slept at most.
    pub fn instant(&self, at: Now) -> Instant {
        Instant::now() + Duration::from_nanos(at.saturating_sub(self.now()))
    }
}

/// The wall clock, for the stamps of entries. Before 1970 it is 0.
pub fn wall() -> LogTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    LogTime(since.as_millis() as u64)
}

//! The two clocks of a node. Only the shell reads them: the cores get their time as an argument.

use raft_core::types::Now;
use shard_core::session::LogTime;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The process' monotonic clock, counted from its making.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that stands at zero now.
    pub fn start() -> Clock {
        Clock { start: Instant::now() }
    }

    /// Monotonic nanoseconds.
    pub fn now(&self) -> Now {
        // 2^64 ns are 584 years.
        self.start.elapsed().as_nanos() as Now
    }

    /// The instant at which `now` will have the given value.
    pub fn instant(&self, at: Now) -> Instant {
        self.start + Duration::from_nanos(at)
    }

    /// The wall clock, for the stamps of entries. Before 1970 it is 0.
    pub fn wall(&self) -> LogTime {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        LogTime(since.as_millis() as u64)
    }
}

//! From a failing run to a small failing run: fewer events, then fewer kinds of faults.

use crate::raft_faults::Plan;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

/// Runs that shrinking may take: each is at most as long as the one that failed.
const TRIES_MAX: u32 = 80;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs something that may panic, prints nothing, and returns what it said.
pub fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                before(info);
            }
        }));
    });
    QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    QUIET.set(false);
    result.map_err(|panic| match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic.downcast::<&str>().map_or_else(|_| "a panic".into(), |t| (*t).into()),
    })
}

/// The smallest plan found that still fails. `events` is how many the failing one took.
pub fn shrink(plan: Plan, events: u64, fails: impl Fn(&Plan) -> bool) -> Plan {
    let mut search = Search { best: plan, tries: 0, fails };
    search.fewer_events(events);
    let mut before = usize::MAX;
    while search.best.faults.len() < before {
        before = search.best.faults.len();
        for fault in search.best.faults.clone() {
            let mut plan = search.best.clone();
            plan.faults.remove(&fault);
            search.attempt(plan);
        }
    }
    let events = search.best.events.unwrap_or(events);
    search.fewer_events(events);
    search.best
}

struct Search<F> {
    best: Plan,
    tries: u32,
    fails: F,
}

impl<F: Fn(&Plan) -> bool> Search<F> {
    fn attempt(&mut self, plan: Plan) -> bool {
        self.tries += 1;
        let smaller = self.tries <= TRIES_MAX && (self.fails)(&plan);
        if smaller {
            self.best = plan;
        }
        smaller
    }

    /// Bisects the moment at which faults end. Failing is not monotone in it; the search only has
    /// to end at something that fails.
    fn fewer_events(&mut self, from: u64) {
        let (mut passes, mut fails) = (0, from);
        while passes + 1 < fails && self.tries < TRIES_MAX {
            let middle = passes + (fails - passes) / 2;
            let plan = Plan { events: Some(middle), ..self.best.clone() };
            if self.attempt(plan) { fails = middle } else { passes = middle }
        }
    }
}

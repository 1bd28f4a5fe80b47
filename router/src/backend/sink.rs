//! Where the answers of one client connection arrive.

use super::Answered;
use super::driver::Inner;
use crate::dispatch::Connection;
use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Weak;
use std::time::Duration;
use tokio::sync::Notify;

/// Takes the answers of one client connection, in any order, each with the tag it was asked under.
/// Dropping it abandons what waits: nothing of it is kept but what was already sent.
#[derive(Debug, Default)]
pub struct ReplySink {
    ready: RefCell<Vec<(u64, Answered)>>,
    arrived: Notify,
    closed: Cell<bool>,
    waiting: Cell<usize>,
    backend: OnceCell<(Weak<Inner>, Connection)>,
    request_timeout: Cell<Option<Duration>>,
}

impl ReplySink {
    /// An empty one; put it into an `Rc` to submit with it.
    pub fn new() -> ReplySink {
        ReplySink::default()
    }

    /// How long requests that are submitted from now on wait at most; None: as the backend was told.
    pub fn set_request_timeout(&self, timeout: Option<Duration>) {
        self.request_timeout.set(timeout);
    }

    /// See `set_request_timeout`.
    pub(super) fn request_timeout(&self) -> Option<Duration> {
        self.request_timeout.get()
    }

    /// Moves the answers that are there to the end of `into`.
    pub fn take(&self, into: &mut Vec<(u64, Answered)>) {
        let mut ready = self.ready.borrow_mut();
        into.append(&mut ready);
        give_back(&mut ready);
    }

    /// Waits until there may be an answer to take. May return without one.
    pub async fn notified(&self) {
        if self.ready.borrow().is_empty() {
            self.arrived.notified().await;
        }
    }

    /// Abandons what waits: no answer arrives any more. A seq already given out is driven on.
    pub fn close(&self) {
        if self.closed.replace(true) {
            return;
        }
        self.ready.borrow_mut().clear();
        if self.waiting.get() > 0
            && let Some(inner) = self.backend.get().and_then(|(inner, _)| inner.upgrade())
        {
            inner.sink_gone();
        }
    }

    /// Whether nobody takes answers any more.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// A request is on its way through `backend`, which has a name for this connection.
    pub(super) fn expect(&self, backend: impl FnOnce() -> (Weak<Inner>, Connection)) -> Connection {
        self.waiting.set(self.waiting.get() + 1);
        self.backend.get_or_init(backend).1
    }

    /// Its answer is there.
    pub(super) fn push(&self, tag: u64, answer: Answered) {
        self.waiting.set(self.waiting.get().saturating_sub(1));
        if !self.closed.get() {
            self.ready.borrow_mut().push((tag, answer));
            self.arrived.notify_one();
        }
    }
}

impl Drop for ReplySink {
    fn drop(&mut self) {
        self.close();
    }
}

/// A list of answers that grew past this gives its memory back when it is empty: else a connection
/// that read thousands of slots at once would hold the room for it to its end.
const ANSWERS_KEPT_MAX: usize = 256;

/// Gives the memory of an empty list back, if it is much.
pub(crate) fn give_back(answers: &mut Vec<(u64, Answered)>) {
    if answers.is_empty() && answers.capacity() > ANSWERS_KEPT_MAX {
        *answers = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shard_core::op::Outcome;

    #[test]
    fn many_answers_at_once_leave_no_memory_behind() {
        let sink = ReplySink::new();
        let mut taken = Vec::new();
        for count in [ANSWERS_KEPT_MAX, 10_000] {
            (0..count as u64).for_each(|tag| sink.push(tag, Answered::Outcome(Outcome::Ok)));
            sink.take(&mut taken);
            assert_eq!(taken.len(), count);
            taken.clear();
            give_back(&mut taken);
            for capacity in [taken.capacity(), sink.ready.borrow().capacity()] {
                assert!(capacity <= ANSWERS_KEPT_MAX, "{capacity}");
            }
        }
    }
}

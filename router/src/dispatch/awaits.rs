//! Who waits until a slot has a certain owner: SETSLOT NODE. Nothing is sent for it; the map comes by itself.

use super::book::{Book, Ticket};
use super::{Dispatch, Now};
use crate::backend::{Answered, Refusal};
use shard_core::GroupId;
use shard_core::cluster_map::Owners;
use shard_core::op::Outcome;
use shard_core::slot::Slot;

/// Who may wait at once. One more is told to come again.
const AWAITS_MAX: usize = 1024;

#[derive(Debug)]
struct Await {
    ticket: Ticket,
    slot: Slot,
    group: GroupId,
    deadline: Now,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Awaits(Vec<Await>);

impl Awaits {
    /// When the first is told that it has waited for nothing.
    pub(super) fn deadline(&self) -> Option<Now> {
        self.0.iter().map(|waiter| waiter.deadline).min()
    }

    /// Answers those whose slot is there, and those who have waited long enough.
    pub(super) fn serve(&mut self, now: Now, owners: &Owners, book: &mut Book) {
        self.0.retain(|waiter| {
            let answer = match owners.of(waiter.slot) {
                Some((group, _)) if group == waiter.group => Answered::Outcome(Outcome::Ok),
                _ if waiter.deadline <= now => {
                    Answered::Refused(Refusal::Moving { slot: waiter.slot })
                }
                _ => return true,
            };
            book.answer(&mut Some(waiter.ticket), answer);
            false
        });
    }

    /// They went.
    pub(super) fn abandon(&mut self, mut gone: impl FnMut(Ticket) -> bool) {
        self.0.retain(|waiter| !gone(waiter.ticket));
    }
}

impl Dispatch {
    pub(super) fn submit_await(
        &mut self,
        ticket: Ticket,
        slot: Slot,
        group: GroupId,
        deadline: Now,
    ) -> Result<(), Refusal> {
        if self.awaits.0.len() >= AWAITS_MAX {
            return Err(Refusal::Overloaded);
        }
        self.awaits.0.push(Await { ticket, slot, group, deadline });
        Ok(())
    }
}

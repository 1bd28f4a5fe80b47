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

#[cfg(test)]
mod tests {
    use super::super::tests::{Bench, MS, SLOT};
    use crate::backend::{Answered, Refusal, Target, Work};
    use shard_core::moves::SlotEpoch;
    use shard_core::op::Outcome;
    use shard_core::wire::ClusterView;
    use shard_core::{GroupId, NodeId};

    fn wait(bench: &mut Bench, group: u32) -> u64 {
        let work = Work::AwaitOwner { group: GroupId(group), timeout_ms: 1 };
        bench.submit(Target::Slot(SLOT), work)
    }

    #[test]
    fn a_slot_is_waited_for_until_its_owner_is_the_one() {
        let mut bench = Bench::new();
        let (here, there) = (wait(&mut bench, 1), wait(&mut bench, 2));
        assert!(bench.poll().is_empty(), "nothing is sent for it");
        assert_eq!(bench.answer(here), Some(&Answered::Outcome(Outcome::Ok)));
        assert_eq!(bench.answer(there), None);
        let mut view = ClusterView::clone(&bench.dispatch.view());
        view.map.version += 1;
        view.map.owners.set(SLOT, GroupId(2), SlotEpoch(2));
        bench.dispatch.on_view(bench.now, NodeId(1), &view);
        bench.poll();
        assert_eq!(bench.answer(there), Some(&Answered::Outcome(Outcome::Ok)));
    }

    #[test]
    fn who_has_waited_long_enough_is_told_that_it_still_moves() {
        let mut bench = Bench::new();
        let there = wait(&mut bench, 2);
        bench.poll();
        let deadline = bench.dispatch.deadline().expect("somebody waits");
        bench.now = deadline - MS;
        bench.poll();
        assert_eq!(bench.answer(there), None);
        bench.now = deadline;
        bench.poll();
        let refused = Answered::Refused(Refusal::Moving { slot: SLOT });
        assert_eq!(bench.answer(there), Some(&refused));
    }

    #[test]
    fn no_more_wait_than_may_and_those_that_went_make_room() {
        let mut bench = Bench::new();
        let tickets: Vec<u64> = (0..=super::AWAITS_MAX).map(|_| wait(&mut bench, 2)).collect();
        bench.poll();
        let last = tickets.last().copied().unwrap_or_default();
        assert_eq!(bench.answer(last), Some(&Answered::Refused(Refusal::Overloaded)));
        bench.dispatch.abandon(|_| true);
        let again = wait(&mut bench, 2);
        bench.poll();
        assert_eq!(bench.answer(again), None);
    }
}

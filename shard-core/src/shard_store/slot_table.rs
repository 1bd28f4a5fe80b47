//! The slots of a group, to be found by their numbers.

use crate::shard_store::SlotState;
use crate::slot::{SLOTS, Slot};
use std::ops::{Index, RangeInclusive};

/// Slots of a page.
const PAGE_SLOTS: usize = 128;

/// Each op finds its slot here, so this is a table, read at two places, and no tree. A group with few slots takes
/// memory for few: a page is there from the first of its slots on, and takes 1 KiB.
#[derive(Debug, Default)]
pub(super) struct SlotTable {
    pages: Vec<Option<Box<Page>>>,
}

/// Slots are boxed, so that finding one touches few cache lines.
type Page = [Option<Box<SlotState>>; PAGE_SLOTS];

fn place(slot: Slot) -> (usize, usize) {
    (usize::from(slot.0) / PAGE_SLOTS, usize::from(slot.0) % PAGE_SLOTS)
}

impl SlotTable {
    pub(super) fn get(&self, slot: &Slot) -> Option<&SlotState> {
        let (page, at) = place(*slot);
        self.pages.get(page)?.as_ref()?[at].as_deref()
    }

    pub(super) fn get_mut(&mut self, slot: &Slot) -> Option<&mut SlotState> {
        let (page, at) = place(*slot);
        self.pages.get_mut(page)?.as_mut()?[at].as_deref_mut()
    }

    pub(super) fn contains_key(&self, slot: &Slot) -> bool {
        self.get(slot).is_some()
    }

    /// Puts a slot in.
    ///
    /// # Panics
    /// If there is none of that number.
    pub(super) fn insert(&mut self, slot: Slot, state: Box<SlotState>) {
        assert!(slot.0 < SLOTS, "slot {slot}");
        let (page, at) = place(slot);
        if self.pages.len() <= page {
            self.pages.resize_with(page + 1, || None);
        }
        let page = self.pages[page].get_or_insert_with(|| Box::new([const { None }; PAGE_SLOTS]));
        page[at] = Some(state);
    }

    /// Takes a slot out.
    pub(super) fn remove(&mut self, slot: &Slot) -> Option<Box<SlotState>> {
        let (number, at) = place(*slot);
        let page = self.pages.get_mut(number)?;
        let state = page.as_mut()?[at].take();
        if page.as_ref().is_some_and(|page| page.iter().all(Option::is_none)) {
            *page = None;
        }
        state
    }

    /// All of them, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, &SlotState)> {
        self.range(Slot(0)..=Slot(SLOTS - 1))
    }

    /// Those from the first to the last.
    pub(super) fn range(
        &self,
        slots: RangeInclusive<Slot>,
    ) -> impl Iterator<Item = (Slot, &SlotState)> {
        let (first, last) = (*slots.start(), *slots.end());
        let pages = self.pages.iter().zip((0..).step_by(PAGE_SLOTS));
        let pages = pages.take(place(last).0 + 1).skip(place(first).0);
        let held = pages.filter_map(|(page, from)| Some((page.as_ref()?, from)));
        let all = held.flat_map(|(page, from)| {
            let numbered = page.iter().zip(from..);
            numbered.filter_map(|(state, number)| Some((Slot(number), state.as_deref()?)))
        });
        all.filter(move |(slot, _)| (first..=last).contains(slot))
    }
}

impl Index<&Slot> for SlotTable {
    type Output = SlotState;

    fn index(&self, slot: &Slot) -> &SlotState {
        self.get(slot).expect("the slot is here")
    }
}

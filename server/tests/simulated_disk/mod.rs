//! A disk in memory that remembers every write and sync, so that a test can ask what would be left
//! of it had the power gone at any moment; and one that fails when it is told to.

// Each test needs a part of it.
#![allow(dead_code)]

use raft_core::random::Random;
use redb::StorageBackend;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// What happened, in order.
#[derive(Clone, Debug)]
pub enum Step {
    Write(u64, Vec<u8>),
    SetLen(u64),
    Sync,
    /// The test's own note.
    Mark(u64),
}

/// Somewhere in a range that is not empty.
pub fn within(random: &mut Random, range: Range<usize>) -> usize {
    range.start + random.below((range.end - range.start) as u64) as usize
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    steps: Vec<Step>,
    /// When each of them was, by a clock that disks may share.
    times: Vec<u64>,
    clock: Arc<AtomicU64>,
    calls: u64,
    /// From this write, growth or sync on every one fails.
    fail_at: Option<u64>,
    calls_after_failure: u64,
    held: bool,
    waiting: bool,
}

/// Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct Disk(Arc<(Mutex<State>, Condvar)>);

impl Disk {
    pub fn with(image: Vec<u8>) -> Disk {
        Disk::from(State { bytes: image, ..State::default() })
    }

    /// A disk of the same node: what happens on both has one order.
    pub fn beside(&self, image: Vec<u8>) -> Disk {
        let clock = self.state().clock.clone();
        Disk::from(State { bytes: image, clock, ..State::default() })
    }

    /// Of the clock that says when each step was: it counts the steps of all disks that share it.
    pub fn now(&self) -> u64 {
        self.state().clock.load(Ordering::SeqCst)
    }

    /// How many steps there were before that.
    pub fn steps_before(&self, time: u64) -> usize {
        self.state().times.partition_point(|at| *at < time)
    }

    /// The `n`-th write, growth or sync from the beginning fails, and every later one.
    pub fn failing_at(image: Vec<u8>, n: u64) -> Disk {
        Disk::from(State { bytes: image, fail_at: Some(n), ..State::default() })
    }

    fn from(state: State) -> Disk {
        Disk(Arc::new((Mutex::new(state), Condvar::new())))
    }

    /// From now on a sync lasts until `release`.
    pub fn hold_syncs(&self) {
        self.state().held = true;
    }

    /// Returns once a sync waits for `release`.
    pub fn await_held_sync(&self) {
        drop(self.0.1.wait_while(self.state(), |state| !state.waiting).unwrap());
    }

    pub fn release(&self) {
        self.state().held = false;
        self.0.1.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap()
    }

    pub fn mark(&self, number: u64) {
        self.state().note(Step::Mark(number));
    }

    pub fn steps(&self) -> Vec<Step> {
        self.state().steps.clone()
    }

    pub fn image(&self) -> Vec<u8> {
        self.state().bytes.clone()
    }

    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    pub fn calls_after_failure(&self) -> u64 {
        self.state().calls_after_failure
    }

    fn change(&self, step: Step) -> io::Result<()> {
        let mut state = self.state();
        let call = state.calls;
        state.calls += 1;
        match state.fail_at {
            Some(at) if call > at => state.calls_after_failure += 1,
            _ => {}
        }
        if state.fail_at.is_some_and(|at| call >= at) {
            return Err(io::Error::other("the simulated disk is broken"));
        }
        apply(&mut state.bytes, &step);
        state.note(step);
        Ok(())
    }
}

impl State {
    fn note(&mut self, step: Step) {
        self.steps.push(step);
        self.times.push(self.clock.fetch_add(1, Ordering::SeqCst));
    }
}

fn apply(bytes: &mut Vec<u8>, step: &Step) {
    match step {
        Step::Write(offset, data) => {
            let (start, end) = (*offset as usize, *offset as usize + data.len());
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[start..end].copy_from_slice(data);
        }
        Step::SetLen(len) => bytes.resize(*len as usize, 0),
        Step::Sync | Step::Mark(_) => {}
    }
}

/// What is left if the power goes after `steps`: all that was synced, and of the rest each sector
/// or not, in any order.
pub fn crash(before: &[u8], steps: &[Step], random: &mut Random) -> Vec<u8> {
    let synced = steps.iter().rposition(|step| matches!(step, Step::Sync)).map_or(0, |at| at + 1);
    let mut image = before.to_vec();
    for step in &steps[..synced] {
        apply(&mut image, step);
    }
    // Of the unsynced writes to be lost: none, all, or a part.
    let lost_percent = [0, 100, 50, 10, 90][random.below(5) as usize];
    let mut kept = Vec::new();
    for step in &steps[synced..] {
        match step {
            Step::Write(offset, data) => {
                for (at, sector) in sectors(*offset, data) {
                    if random.below(100) >= lost_percent {
                        kept.push(Step::Write(at, sector.to_vec()));
                    }
                }
            }
            Step::SetLen(len) if random.below(100) >= lost_percent => {
                kept.push(Step::SetLen((*len).max(image.len() as u64)));
            }
            Step::SetLen(_) | Step::Sync | Step::Mark(_) => {}
        }
    }
    // A later write to the same sector may reach the disk before an earlier one is written over it
    // only if the earlier one is lost, so what is kept may be applied in order.
    for step in &kept {
        apply(&mut image, step);
    }
    image
}

/// Losses of power at later and later moments of the same steps.
pub struct Power<'s> {
    steps: &'s [Step],
    /// What was surely on disk after `done` of them.
    image: Vec<u8>,
    done: usize,
}

impl<'s> Power<'s> {
    pub fn new(steps: &'s [Step]) -> Power<'s> {
        Power { steps, image: Vec::new(), done: 0 }
    }

    /// As [`crash`] after `count` steps; never fewer than the last time.
    pub fn lost_after(&mut self, count: usize, random: &mut Random) -> Vec<u8> {
        let new = &self.steps[self.done..count];
        if let Some(sync) = new.iter().rposition(|step| matches!(step, Step::Sync)) {
            for step in &new[..=sync] {
                apply(&mut self.image, step);
            }
            self.done += sync + 1;
        }
        crash(&self.image, &self.steps[self.done..count], random)
    }
}

/// How much a run had reported as durable after these steps: its highest mark.
pub fn reported(steps: &[Step]) -> usize {
    let marks = steps.iter().filter_map(|step| match step {
        Step::Mark(token) => Some(*token as usize),
        Step::Write(..) | Step::SetLen(_) | Step::Sync => None,
    });
    marks.max().unwrap_or(0)
}

/// Losses of power at each growth of the file, from its first mark on, and at each step from there to the sync behind
/// it, three each: `check` is given the image, and after which step. How many there were.
pub fn lost_while_growing(
    steps: &[Step],
    random: &mut Random,
    mut check: impl FnMut(Vec<u8>, usize),
) -> usize {
    let first = steps.iter().position(|step| matches!(step, Step::Mark(_))).unwrap();
    let mut power = Power::new(steps);
    let (mut grows, mut images) = (false, 0);
    for (at, step) in steps.iter().enumerate().skip(first) {
        grows |= matches!(step, Step::SetLen(_));
        for _ in 0..if grows { 3 } else { 0 } {
            check(power.lost_after(at + 1, random), at);
            images += 1;
        }
        grows &= !matches!(step, Step::Sync);
    }
    images
}

fn sectors(offset: u64, data: &[u8]) -> Vec<(u64, &[u8])> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < data.len() {
        let position = offset as usize + at;
        let end = (at + SECTOR_BYTES - position % SECTOR_BYTES).min(data.len());
        pieces.push((position as u64, &data[at..end]));
        at = end;
    }
    pieces
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        let start = offset as usize;
        let from = state.bytes.get(start..start + out.len());
        out.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Step::SetLen(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state();
        state.waiting = state.held;
        self.0.1.notify_all();
        drop(self.0.1.wait_while(state, |state| state.held).unwrap());
        self.change(Step::Sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Step::Write(offset, data.to_vec()))
    }
}

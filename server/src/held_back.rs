//! Storage whose changes wait until it is said that they are wanted.
//!
//! redb writes to a file when it opens it, and when it closes it again. A start that is refused must leave
//! every file as it was, and what it is refused for may stand in the other file. So both are opened over
//! this: what redb writes is in memory until [`HeldBack::release`], and is read from there; then it goes to the
//! storage in the order in which it came, with the syncs between. A crash in the middle is a crash while redb opens a
//! file, as it would be without this. Where nobody releases it, as in `flotilla inspect`, it goes with the process.

use crate::fail_stop::lock_calls;
use redb::{BackendError, StorageBackend};
use std::io;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock};

/// Bytes that may wait. To open a file redb writes its header a few times, a few hundred bytes each; where it has to
/// find out anew which pages are free, some bits for each page of the file.
const HELD_BYTES_MAX: usize = 256 << 20;

/// The storage; a copy is the same one.
#[derive(Clone, Debug)]
pub(crate) struct HeldBack {
    inner: Arc<dyn StorageBackend>,
    /// None once they are released.
    held: Arc<RwLock<Option<Changes>>>,
}

#[derive(Debug)]
struct Changes {
    /// Of the storage below, which nobody else changes.
    len_below: u64,
    /// As redb sees it.
    len: u64,
    bytes: usize,
    in_order: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Len(u64),
    Sync,
}

impl HeldBack {
    /// Around some storage, which is as it is until it is released.
    pub(crate) fn new(inner: impl StorageBackend) -> io::Result<HeldBack> {
        let len = inner.len()?;
        let changes = Changes { len_below: len, len, bytes: 0, in_order: Vec::new() };
        Ok(HeldBack { inner: Arc::new(inner), held: Arc::new(RwLock::new(Some(changes))) })
    }

    /// Has what was written to the storage before be durable. That changes nothing of it.
    pub(crate) fn sync_below(&self) -> io::Result<()> {
        self.inner.sync_data()
    }

    /// Makes the changes so far. From now on each is made at once. If one fails all of them wait on, since redb, which
    /// closes what it cannot go on with, trusts what it reads.
    pub(crate) fn release(&self) -> io::Result<()> {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        for change in held.iter().flat_map(|changes| &changes.in_order) {
            match change {
                Change::Write(offset, data) => self.inner.write(*offset, data)?,
                Change::Len(len) => self.inner.set_len(*len)?,
                Change::Sync => self.inner.sync_data()?,
            }
        }
        *held = None;
        Ok(())
    }

    /// Keeps a change, or makes it if that is not done any more.
    fn change(
        &self,
        kept: impl FnOnce() -> Change,
        make: impl FnOnce(&dyn StorageBackend) -> io::Result<()>,
    ) -> io::Result<()> {
        // As a rule: no call waits for another one then.
        if self.held.read().unwrap_or_else(PoisonError::into_inner).is_none() {
            return make(&*self.inner);
        }
        match &mut *self.held.write().unwrap_or_else(PoisonError::into_inner) {
            Some(changes) => changes.keep(kept()),
            None => make(&*self.inner),
        }
    }
}

impl Changes {
    fn keep(&mut self, change: Change) -> io::Result<()> {
        self.bytes += size_of::<Change>();
        match &change {
            Change::Write(offset, data) => {
                self.check_end(*offset, data.len())?;
                self.bytes += data.len();
            }
            Change::Len(len) => self.len = *len,
            Change::Sync => {}
        }
        if self.bytes > HELD_BYTES_MAX {
            let what = format!("to open it takes more than {HELD_BYTES_MAX} bytes of writes");
            return Err(io::Error::other(what));
        }
        self.in_order.push(change);
        Ok(())
    }

    fn read(&self, inner: &dyn StorageBackend, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.check_end(offset, out.len())?;
        let there = self.len_below.saturating_sub(offset).min(out.len() as u64) as usize;
        let (old, zeros) = out.split_at_mut(there);
        if !old.is_empty() {
            inner.read(offset, old)?;
        }
        zeros.fill(0);
        let end = offset + out.len() as u64;
        let inside = |at: u64| (at.clamp(offset, end) - offset) as usize;
        for change in &self.in_order {
            match change {
                Change::Write(at, data) => {
                    let (from, to) = (inside(*at), inside(at + data.len() as u64));
                    if from < to {
                        let skipped = (offset + from as u64 - at) as usize;
                        out[from..to].copy_from_slice(&data[skipped..skipped + to - from]);
                    }
                }
                Change::Len(len) => out[inside(*len)..].fill(0),
                Change::Sync => {}
            }
        }
        Ok(())
    }

    fn check_end(&self, offset: u64, len: usize) -> io::Result<()> {
        match offset.checked_add(len as u64) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        }
    }
}

impl StorageBackend for HeldBack {
    fn len(&self) -> io::Result<u64> {
        match &*self.held.read().unwrap_or_else(PoisonError::into_inner) {
            Some(changes) => Ok(changes.len),
            None => self.inner.len(),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match &*self.held.read().unwrap_or_else(PoisonError::into_inner) {
            Some(changes) => changes.read(&*self.inner, offset, out),
            None => self.inner.read(offset, out),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(|| Change::Len(len), |inner| inner.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(|| Change::Sync, |inner| inner.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let kept = || Change::Write(offset, data.to_vec());
        self.change(kept, |inner| inner.write(offset, data))
    }

    /// As long as changes wait the storage is not given back: it is opened once more before they are made.
    fn close(&self) -> io::Result<()> {
        match &*self.held.read().unwrap_or_else(PoisonError::into_inner) {
            Some(_) => Ok(()),
            None => self.inner.close(),
        }
    }

    lock_calls!();
}

#[cfg(test)]
mod tests {
    use super::*;
    use redb::backends::InMemoryBackend;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Against a plain vector; what is below is as it was, and then as that vector.
    #[test]
    fn changes_are_seen_at_once_and_made_when_they_are_released() {
        let storage = InMemoryBackend::new();
        let content: Vec<u8> = (0..20_000_u32).map(|i| (i % 251) as u8).collect();
        storage.set_len(content.len() as u64).unwrap();
        storage.write(0, &content).unwrap();
        let whole = |storage: &dyn StorageBackend| {
            let mut all = vec![0; storage.len().unwrap() as usize];
            storage.read(0, &mut all).unwrap();
            all
        };
        let held = HeldBack::new(storage).unwrap();
        let mut model = content.clone();
        let mut number = 7_u64;
        let mut draw = |below: u64| {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
            (number >> 33) % below
        };
        for step in 0..300_u64 {
            if step == 200 {
                assert_eq!(whole(&*held.inner), content);
                held.release().unwrap();
            }
            match draw(10) {
                0 => {
                    let len = draw(30_000);
                    held.set_len(len).unwrap();
                    model.resize(len as usize, 0);
                }
                1 => held.sync_data().unwrap(),
                _ => {
                    let (at, len) = (draw(30_000), draw(9_000) as usize);
                    let (data, end) = (vec![step as u8; len], at as usize + len);
                    if end <= model.len() {
                        held.write(at, &data).unwrap();
                        model[at as usize..end].copy_from_slice(&data);
                    } else if step < 200 {
                        assert!(held.write(at, &data).is_err());
                    }
                }
            }
            assert_eq!(whole(&held), model, "after step {step}");
            let end = model.len().saturating_sub(9);
            let mut last = [0; 9];
            held.read(end as u64, &mut last[..model.len() - end]).unwrap();
            assert_eq!(last[..model.len() - end], model[end..], "the end after step {step}");
        }
        assert_eq!(whole(&*held.inner), model);
    }

    /// A disk that has room for so many writes.
    #[derive(Debug)]
    struct Small(InMemoryBackend, AtomicUsize);

    impl StorageBackend for Small {
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.0.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.0.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.0.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            let room =
                self.1.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
            room.map_err(|_| io::Error::from(io::ErrorKind::StorageFull))?;
            self.0.write(offset, data)
        }
    }

    #[test]
    fn what_could_not_be_made_is_read_as_if_it_had_been() {
        let held = HeldBack::new(Small(InMemoryBackend::new(), AtomicUsize::new(1))).unwrap();
        held.set_len(100).unwrap();
        held.write(0, &[1; 50]).unwrap();
        held.write(20, &[2; 50]).unwrap();
        assert_eq!(held.release().unwrap_err().kind(), io::ErrorKind::StorageFull);
        held.write(95, &[3; 5]).unwrap();
        let mut all = [0; 100];
        held.read(0, &mut all).unwrap();
        let expected = [[1; 20].to_vec(), vec![2; 50], vec![0; 25], vec![3; 5]].concat();
        assert_eq!(all.to_vec(), expected);
    }

    #[test]
    fn no_more_waits_than_the_bound() {
        let held = HeldBack::new(InMemoryBackend::new()).unwrap();
        held.set_len(1 << 20).unwrap();
        let written = (0..).take_while(|_| held.write(0, &[1; 1 << 20]).is_ok()).count();
        assert_eq!(written, (HELD_BYTES_MAX >> 20) - 1);
        assert!(held.sync_data().is_err());
        held.release().unwrap();
        held.write(0, &[1]).unwrap();
    }
}

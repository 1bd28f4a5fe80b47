//! The bytes of snapshots that a node has in memory, between its disk and its sockets.
//!
//! They are counted where they come into memory and until nobody refers to them any more, so no queue that
//! they wait in needs a count of its own. What finds no room is not taken, and its stream goes on there
//! after a while: the receiver says again how much it has.

use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that came in and are not in the state's file yet, of all groups: two batches of the writer.
pub const INCOMING_BYTES_MAX: u64 = 8 << 20;
/// Bytes that were read and are not on a socket yet, of all groups and peers: eight streams' windows.
pub const OUTGOING_BYTES_MAX: u64 = 8 << 20;
/// What a piece counts for at least: so their number is bounded too.
const PIECE_COST_MIN: u64 = 4 << 10;

/// Counts the bytes of one way.
#[derive(Debug)]
pub struct SnapshotBytes {
    now: AtomicU64,
    peak: AtomicU64,
    put_off: AtomicU64,
    max: u64,
}

/// Bytes and what they count for.
struct Counted {
    bytes: Vec<u8>,
    cost: u64,
    of: Arc<SnapshotBytes>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.of.now.fetch_sub(self.cost, Ordering::Relaxed);
    }
}

impl SnapshotBytes {
    /// With room for so many.
    pub fn new(max: u64) -> Arc<SnapshotBytes> {
        let [now, peak, put_off] = [const { AtomicU64::new(0) }; 3];
        Arc::new(SnapshotBytes { now, peak, put_off, max })
    }

    /// What `make` returns, counted as `len` bytes until the last reference to it is gone. `None`, without
    /// a call of `make`, if there is no room.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn hold<E>(
        self: &Arc<Self>,
        len: usize,
        make: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Option<Bytes>, E> {
        let cost = (len as u64).max(PIECE_COST_MIN);
        let more = |now: u64| now.checked_add(cost).filter(|more| *more <= self.max);
        let Ok(before) = self.now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) else {
            self.put_off.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        };
        self.peak.fetch_max(before + cost, Ordering::Relaxed);
        let mut counted = Counted { bytes: Vec::new(), cost, of: self.clone() };
        counted.bytes = make()?;
        Ok(Some(Bytes::from_owner(counted)))
    }

    /// How many there are.
    pub fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    /// How many there were at most.
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// Pieces for which there was no room.
    pub fn put_off(&self) -> u64 {
        self.put_off.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn hold(bytes: &Arc<SnapshotBytes>, len: usize) -> Option<Bytes> {
        bytes.hold(len, || Ok::<_, Infallible>(vec![7; len])).unwrap()
    }

    #[test]
    fn what_is_referred_to_counts_and_what_finds_no_room_is_not_made() {
        let count = SnapshotBytes::new(100 << 10);
        let whole = hold(&count, 60 << 10).expect("room");
        let slice = whole.slice(10..20);
        assert_eq!((count.now(), &slice[..]), (60 << 10, &[7; 10][..]));
        assert!(count.hold(41 << 10, || -> Result<_, ()> { panic!("no room") }).unwrap().is_none());
        drop(whole);
        assert_eq!(count.now(), 60 << 10, "a slice of it is left");
        drop(slice);
        assert_eq!(count.now(), 0);
        assert_eq!(count.hold(1, || Err("rot")).unwrap_err(), "rot");
        assert_eq!((count.now(), count.peak()), (0, 60 << 10));
        // Small ones count for what each takes beside its bytes.
        let small: Vec<Bytes> = std::iter::from_fn(|| hold(&count, 1)).collect();
        assert_eq!((small.len(), count.now(), count.put_off()), (25, 100 << 10, 2));
    }
}

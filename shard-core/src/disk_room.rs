//! What a node's disk has left, as its host tells it from time to time, and what is let go then.
//!
//! Below the host's mark nothing that may grow is proposed where the node leads: there must be room left
//! for what goes on, which is votes, deletes, and the checkpoint that lets the log go. A checkpoint is
//! begun as long as there is room for the most that it can take.

use crate::shard_store::Dirty;

/// What a checkpoint takes on the disk for a row that changed, at most, besides its bytes: redb writes
/// each page that it changes anew, and those on the way to it.
const ROW_BYTES: u64 = 16 << 10;
/// What it takes at least.
const CHECKPOINT_BYTES_MIN: u64 = 1 << 20;

/// What is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskRoom {
    /// Bytes that can still be written.
    pub free: u64,
    /// That is less than the host wants to be left, or something waits for room already.
    pub low: bool,
}

impl Default for DiskRoom {
    /// Of a host that does not tell.
    fn default() -> DiskRoom {
        DiskRoom { free: u64::MAX, low: false }
    }
}

impl DiskRoom {
    /// Whether a checkpoint of so much finds room. One that does not is not begun: it would wait for
    /// room in the middle, and with it all that comes behind it.
    pub fn has_room_for(&self, dirty: Dirty) -> bool {
        let rows = dirty.keys.saturating_mul(ROW_BYTES);
        let pages = dirty.bytes.saturating_mul(2).saturating_add(rows);
        self.free >= pages.saturating_add(CHECKPOINT_BYTES_MIN)
    }
}

/// The same for INFO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskStatus {
    /// Bytes that are free for this process.
    pub free: u64,
    /// Below this, nothing may grow. Bytes; 0: no mark.
    pub free_min: u64,
    /// Writes that may grow are refused where this node leads.
    pub low: bool,
    /// The log waits for room in the middle of a write.
    pub log_waits: bool,
    /// The state does.
    pub state_waits: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_needs_room_for_its_pages() {
        let dirty = Dirty { keys: 100, bytes: 1 << 20, any: true };
        let need = (2 << 20) + (100 << 14) + (1 << 20);
        assert!(DiskRoom { free: need, low: true }.has_room_for(dirty));
        assert!(!DiskRoom { free: need - 1, low: false }.has_room_for(dirty));
        assert!(DiskRoom::default().has_room_for(Dirty { bytes: u64::MAX, ..dirty }));
    }
}

//! How much memory a node's replicas take, part by part: what `maxmemory` is compared with.
//!
//! Each part is kept up to date by what changes it, so it is known in constant time. Bytes that two parts
//! share (a value, and the reply that answers it) count in both; what the allocator adds is in the
//! constants, which a test holds against the memory of a real process.

/// What a key is counted as, besides its bytes and its value's: its entry in the map with the room that
/// the map keeps free, and what the allocator and shared buffers add.
pub const KEY_RECORD_BYTES: u64 = 256;
/// What an expiry is counted as.
pub const EXPIRY_RECORD_BYTES: u64 = 64;
/// What a key's note for the next checkpoint is counted as, besides its bytes.
pub const NOTE_RECORD_BYTES: u64 = 64;

/// Memory of one replica, or of all of a node's. Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Keys, with what the maps take for them and their expiries.
    pub keys: u64,
    /// Values.
    pub values: u64,
    /// Lanes, without their replies.
    pub lanes: u64,
    /// Remembered replies.
    pub replies: u64,
    /// Notes of what changed since the last checkpoint, what the one under way still needs of what has
    /// changed since, and what was flushed and is not freed yet.
    pub checkpoint: u64,
    /// Entries of the log that are kept in memory.
    pub log: u64,
    /// What clients, requests and replies take in the router of the node, as its host last told.
    pub buffers: u64,
}

impl MemoryUse {
    /// All parts.
    pub fn total(&self) -> u64 {
        let MemoryUse { keys, values, lanes, replies, checkpoint, log, buffers } = self;
        keys + values + lanes + replies + checkpoint + log + buffers
    }

    /// This sum after one of its summands went from `before` to `after`.
    #[must_use]
    pub fn moved(self, before: MemoryUse, after: MemoryUse) -> MemoryUse {
        MemoryUse {
            keys: self.keys - before.keys + after.keys,
            values: self.values - before.values + after.values,
            lanes: self.lanes - before.lanes + after.lanes,
            replies: self.replies - before.replies + after.replies,
            checkpoint: self.checkpoint - before.checkpoint + after.checkpoint,
            log: self.log - before.log + after.log,
            buffers: self.buffers - before.buffers + after.buffers,
        }
    }
}

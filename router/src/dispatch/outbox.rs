//! Packs requests of one group into batches.

use super::Output;
use shard_core::wire::{Request, RequestBatch, RequestBody};
use shard_core::{GroupId, NodeId};

/// Requests in one batch.
pub const BATCH_REQUESTS_MAX: usize = 1024;
/// Bytes of keys and values in one batch, unless it is a single request.
pub const BATCH_BYTES_MAX: usize = 1 << 20;

/// Takes requests for one group, hands out full batches.
pub(super) struct Outbox<'a> {
    output: &'a mut Output,
    node: NodeId,
    group: GroupId,
    requests: Vec<Request>,
    bytes: usize,
}

impl<'a> Outbox<'a> {
    /// An empty one.
    pub(super) fn new(output: &'a mut Output, node: NodeId, group: GroupId) -> Outbox<'a> {
        Outbox { output, node, group, requests: Vec::new(), bytes: 0 }
    }

    /// Where the batches go.
    pub(super) fn node(&self) -> NodeId {
        self.node
    }

    /// Adds a request behind those that are there.
    pub(super) fn push(&mut self, id: u64, body: RequestBody, bytes: usize) {
        let full = self.requests.len() >= BATCH_REQUESTS_MAX
            || self.bytes.saturating_add(bytes) > BATCH_BYTES_MAX;
        if full {
            self.flush();
        }
        self.bytes += bytes;
        self.requests.push(Request { id, body });
    }

    /// Hands out what is left.
    pub(super) fn flush(&mut self) {
        if !self.requests.is_empty() {
            let requests = std::mem::take(&mut self.requests);
            self.output.sends.push((self.node, RequestBatch { group: self.group, requests }));
        }
        self.bytes = 0;
    }
}

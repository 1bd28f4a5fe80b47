//! The wishes that were carried out, so that one that comes again is not carried out again.

use super::op::{MasterDone, MasterError, RequestId};
use crate::session::LogTime;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Wishes that are remembered, at most: the newest. An older one that comes again is taken for a new one.
pub const REQUESTS_KEPT_MAX: usize = 1024;

/// One that was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Remembered {
    pub(super) id: RequestId,
    /// Of what was wanted: another wish has no right to the answer.
    pub(super) digest: u64,
    pub(super) done: MasterDone,
    /// When.
    pub(super) at: LogTime,
}

/// Those remembered, in the order in which they were carried out. Refused ones are not among them: they
/// changed nothing, so a second attempt is as good as the first.
#[derive(Debug, Default)]
pub(super) struct Requests {
    by_order: BTreeMap<u64, Remembered>,
    orders: BTreeMap<RequestId, u64>,
}

impl Requests {
    /// The answer of a wish that was carried out.
    pub(super) fn answer(
        &self,
        id: RequestId,
        digest: u64,
    ) -> Option<Result<MasterDone, MasterError>> {
        let known = &self.by_order[self.orders.get(&id)?];
        Some(match known.digest == digest {
            true => Ok(known.done),
            false => Err(MasterError::RequestReused(id.0)),
        })
    }

    /// The number of the next, and of the one that goes for it.
    pub(super) fn next(&self) -> (u64, Option<u64>) {
        let next = self.by_order.last_key_value().map_or(0, |(order, _)| order + 1);
        let full = self.by_order.len() >= REQUESTS_KEPT_MAX;
        (next, self.by_order.first_key_value().map(|(order, _)| *order).filter(|_| full))
    }

    pub(super) fn remember(&mut self, order: u64, request: Remembered) {
        self.orders.insert(request.id, order);
        self.by_order.insert(order, request);
    }

    pub(super) fn forget(&mut self, order: u64) {
        if let Some(request) = self.by_order.remove(&order) {
            self.orders.remove(&request.id);
        }
    }

    pub(super) fn get(&self, order: u64) -> Option<&Remembered> {
        self.by_order.get(&order)
    }

    /// Whether the id is remembered.
    pub(super) fn knows(&self, id: RequestId) -> bool {
        self.orders.contains_key(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.by_order.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&u64, &Remembered)> {
        self.by_order.iter()
    }
}

//! Of the store alone.

use super::*;
use crate::session::SESSION_LIFE_MS;
use bytes::Bytes;

/// `count` appends to keys of slot 15891, each a key of its own.
fn keys(session: u128, count: u64) -> EntryBatch {
    let append = |n: u64| LaneRequest {
        session: SessionId(session),
        deadline: LogTime(SESSION_LIFE_MS),
        slot: Slot(15891),
        seq: Seq(n),
        acked: Seq(n - 1),
        op: Op::Append { key: format!("{{t}}{n}").into(), value: Bytes::from_static(b"v") },
    };
    let items = (1..=count).map(|n| EntryItem::Lane(append(n))).collect();
    EntryBatch::new(LogTime(1), items)
}

#[test]
fn a_flushed_slot_is_freed_in_bounded_steps() {
    let mut store = ShardStore::new(GroupId(1));
    let ranges = vec![(Slot(0), Slot(SLOTS - 1))];
    let assign = EntryItem::Assign { config: ConfigNum(1), ranges };
    store.apply(EntryBatch::new(LogTime(1), vec![assign]));
    store.apply(keys(1, 3000));
    assert_eq!(store.stats().keys, 3000);

    let flush = match &keys(2, 1).items[0] {
        EntryItem::Lane(request) => LaneRequest { op: Op::FlushSlot, ..request.clone() },
        item => panic!("{item:?}"),
    };
    store.apply(EntryBatch::new(LogTime(1), vec![EntryItem::Lane(flush)]));
    assert_eq!((store.stats().keys, store.stats().data_bytes), (0, 0));
    let mut entries = 0;
    while store.changes.is_to_free() {
        store.apply(EntryBatch::new(LogTime(1), Vec::new()));
        entries += 1;
    }
    assert_eq!(entries, 3, "3000 keys, 1024 an entry");
}

mod budgets;
mod model;
mod moves;
mod rows;
mod sessions;
mod steps;

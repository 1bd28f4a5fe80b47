//! What a store counts as memory, against what its process takes. In a process of its own.

use bytes::Bytes;
use shard_core::GroupId;
use shard_core::cluster_config::ConfigNum;
use shard_core::codec::{EntryBatch, EntryItem, decode_batch, encode_batch};
use shard_core::op::{ExpiryCommand, Op, Set, SetExpiry};
use shard_core::session::{LogTime, SESSION_LIFE_MS, Seq, SessionId};
use shard_core::shard_store::ShardStore;
use shard_core::slot::{SLOTS, Slot, hash_slot};
use shard_core::wire::LaneRequest;

const KEYS: u64 = 300_000;

/// Resident bytes, where the kernel tells.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

#[test]
fn what_is_counted_is_what_is_taken() {
    let mut store = ShardStore::new(GroupId(1));
    let ranges = vec![(Slot(0), Slot(SLOTS - 1))];
    let assign = EntryItem::Assign { config: ConfigNum(1), ranges };
    store.apply(EntryBatch::new(LogTime(1), vec![assign]));
    let (Some(before), counted) = (resident(), store.memory().total()) else { return };
    let mut seqs = vec![0; usize::from(SLOTS)];
    for number in 0..KEYS {
        let key = Bytes::from(format!("user:{number:012}"));
        let slot = hash_slot(&key);
        seqs[usize::from(slot.0)] += 1;
        let seq = seqs[usize::from(slot.0)];
        // A third with an expiry.
        let expiry = match number % 3 {
            0 => SetExpiry::AfterMs(1_000_000),
            _ => SetExpiry::Clear,
        };
        let value = Bytes::from(vec![b'x'; (number % 64) as usize]);
        let (condition, get, command) = (None, false, ExpiryCommand::Set);
        let op = Op::Set(Set { key, value, expiry, condition, get, command });
        let (session, deadline) = (SessionId(1), LogTime(SESSION_LIFE_MS));
        let (seq, acked) = (Seq(seq), Seq(seq - 1));
        let lane = LaneRequest { session, deadline, slot, seq, acked, op };
        let entry = EntryBatch::new(LogTime(1), vec![EntryItem::Lane(lane)]);
        // As out of the log.
        store.apply(decode_batch(&encode_batch(&entry)).expect("an entry"));
    }
    let taken = resident().expect("it told before") - before;
    let counted = store.memory().total() - counted;
    let share = counted as f64 / taken as f64;
    println!("counted {counted}, taken {taken}: {share:.2}, {:?}", store.memory());
    assert!((0.75..1.35).contains(&share), "{share:.2} of what is taken is counted");
}

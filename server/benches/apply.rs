//! `make bench-apply`: what it costs to apply one op of a router, without a cluster.
//!
//! Three replicas of two groups that own half of the slots each, as one process of `flotilla dev` has them, apply the same
//! entries: ops on 100,000 keys in random order, in entries of different sizes. Decoding is part of it. Medians of
//! several rounds, the sizes in turns, so that a machine that is busy for a while is so for all.

use bytes::Bytes;
use raft_core::random::Random;
use raft_core::types::GroupId;
use shard_core::cluster_config::ConfigNum;
use shard_core::codec::{EntryBatch, EntryItem, decode_batch, encode_batch};
use shard_core::op::Op;
use shard_core::session::{LogTime, Seq, SessionId};
use shard_core::shard_store::ShardStore;
use shard_core::slot::{SLOTS, Slot, hash_slot};
use shard_core::wire::LaneRequest;
use std::time::Instant;

const KEYS: u64 = 100_000;
const REPLICAS: usize = 3;
const ROUNDS: usize = 9;
/// Ops of a round.
const OPS: usize = 100_000;
const SIZES: [usize; 4] = [1, 16, 100, 1000];
const START: LogTime = LogTime(1_800_000_000_000);
const DEADLINE: LogTime = LogTime(START.0 + 300_000);

/// Makes the op on a key.
type OpOf = fn(Bytes) -> Op;

struct Bench {
    groups: [Vec<ShardStore>; 2],
    /// The last of each slot's lane.
    seqs: Vec<u64>,
    random: Random,
}

impl Bench {
    fn new() -> Bench {
        let half = SLOTS / 2;
        let halves = [(Slot(0), Slot(half - 1)), (Slot(half), Slot(SLOTS - 1))];
        let groups = [0, 1].map(|at| {
            let mut store = |_| {
                let mut store = ShardStore::new(GroupId(at as u32 + 1));
                let ranges = vec![halves[at]];
                let assign = EntryItem::Assign { config: ConfigNum(1), ranges };
                store.apply(EntryBatch::new(START, vec![assign]));
                store
            };
            (0..REPLICAS).map(&mut store).collect()
        });
        Bench { groups, seqs: vec![0; usize::from(SLOTS)], random: Random::new(1) }
    }

    /// Entries of so many ops, each with its group.
    fn entries(&mut self, size: usize, op: OpOf) -> Vec<(usize, Vec<u8>)> {
        let mut entries = Vec::new();
        let mut waiting = [Vec::new(), Vec::new()];
        for _ in 0..OPS {
            let key = Bytes::from(format!("key:{:012}", self.random.below(KEYS)));
            let slot = hash_slot(&key);
            let group = usize::from(slot.0 >= SLOTS / 2);
            let last = &mut self.seqs[usize::from(slot.0)];
            let (acked, seq) = (Seq(*last), Seq(*last + 1));
            *last += 1;
            let session = SessionId::of_router(group as u128 + 1);
            let op = op(key);
            let request = LaneRequest { session, deadline: DEADLINE, slot, seq, acked, op };
            waiting[group].push(EntryItem::Lane(request));
            if waiting[group].len() == size {
                let batch = EntryBatch::new(START, std::mem::take(&mut waiting[group]));
                entries.push((group, encode_batch(&batch)));
            }
        }
        let left = waiting.into_iter().enumerate().filter(|(_, items)| !items.is_empty());
        entries.extend(left.map(|(at, items)| (at, encode_batch(&EntryBatch::new(START, items)))));
        entries
    }

    /// Applies them at each replica; nanoseconds for each op.
    fn apply(&mut self, entries: &[(usize, Vec<u8>)]) -> f64 {
        let begun = Instant::now();
        let mut answers = 0;
        for (group, entry) in entries {
            for store in &mut self.groups[*group] {
                let batch = decode_batch(entry).expect("it was encoded");
                answers += store.apply(batch).len();
            }
        }
        assert_eq!(answers, OPS * REPLICAS, "each op is answered");
        begun.elapsed().as_nanos() as f64 / answers as f64
    }
}

fn main() {
    let cases: [(&str, OpOf); 2] = [
        ("INCR", |key| Op::IncrBy { key, by: 1 }),
        ("APPEND", |key| Op::Append { key, value: Bytes::from_static(b"x") }),
    ];
    println!("| op | ops in an entry | ns for an op at a replica |\n|---|---:|---:|");
    for (name, op) in cases {
        let mut bench = Bench::new();
        let mut found = SIZES.map(|_| Vec::new());
        for round in 0..=ROUNDS {
            for (size, found) in SIZES.iter().zip(&mut found) {
                let entries = bench.entries(*size, op);
                let ns = bench.apply(&entries);
                // In the first round keys and lanes are new.
                if round > 0 {
                    found.push(ns);
                }
            }
        }
        for (size, mut found) in SIZES.iter().zip(found) {
            found.sort_by(f64::total_cmp);
            println!("| {name} | {size} | {:.0} |", found[ROUNDS / 2]);
        }
    }
}

//! `make bench-state`: what checkpoints, a start and the file of the state cost, without a cluster.
//!
//! One group of a million values of 1 KiB (`FLOTILLA_KEYS`). First all of them in checkpoints of the
//! share at which a group makes one; then checkpoints of different sizes, in turns, so that a machine that is busy for a
//! while is so for all; then every key overwritten ten times, in random order, in such checkpoints;
//! then a start. Times are of the wall clock and depend on the disk; sizes and ratios do not.

use bytes::Bytes;
use raft_core::conf::Conf;
use raft_core::random::Random;
use raft_core::types::{EntryId, GroupId, Index, NodeId, Term};
use server::data_dir::Identity;
use server::state_store::{StateStore, StateStoreConfig, StateStoreEvent};
use server::storage::OpenStorage;
use shard_core::checkpoint::{CheckpointMark, RowChange, RowHead};
use shard_core::replica::CheckpointConfig;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const GROUP: GroupId = GroupId(1);
const VALUE_BYTES: usize = 1 << 10;
/// Rows handed over in one step.
const STEP: usize = 512;
/// Rounds of the checkpoints that are compared.
const ROUNDS: usize = 3;
const OVERWRITES: usize = 10;

fn shuffle(random: &mut Random, keys: &mut [u32]) {
    for at in (1..keys.len()).rev() {
        keys.swap(at, random.below(at as u64 + 1) as usize);
    }
}

struct Bench {
    store: StateStore,
    events: Receiver<StateStoreEvent>,
    index: u64,
    random: Random,
    path: PathBuf,
}

fn open(path: &Path) -> (StateStore, Receiver<StateStoreEvent>) {
    let (tell, events) = channel();
    let report = move |event| {
        let _ = tell.send(event);
    };
    let config = StateStoreConfig::default();
    let owner = Identity { cluster_id: "bench".into(), node: NodeId(1) };
    let (store, _) =
        StateStore::open((path, &owner), &OpenStorage::default(), config, report).expect("a state");
    (store, events)
}

impl Bench {
    /// A checkpoint of these keys, with new values; how long it took.
    fn checkpoint(&mut self, keys: &mut [u32]) -> Duration {
        // The order of slots and keys, as a group hands them out.
        keys.sort_unstable();
        let started = Instant::now();
        for some in keys.chunks(STEP) {
            let rows = some.iter().map(|key| self.row(*key)).collect::<Vec<_>>();
            self.store.changes(GROUP, rows);
            self.await_event(|event| matches!(event, StateStoreEvent::Taken(_)));
        }
        self.index += 1;
        let at = EntryId { index: Index(self.index), term: Term(1) };
        let conf = (Index(0), Conf { voters: [NodeId(1)].into(), ..Conf::default() });
        self.store.commit(GROUP, CheckpointMark { at, conf });
        self.await_event(|event| matches!(event, StateStoreEvent::Checkpointed(..)));
        started.elapsed()
    }

    fn row(&self, key: u32) -> RowChange {
        let mut value = vec![b'v'; VALUE_BYTES];
        value[..8].copy_from_slice(&self.index.to_le_bytes());
        // As a real key's row: slot, kind, key.
        let slot = (key.wrapping_mul(40_503) % 16_384) as u16;
        let key = [&slot.to_be_bytes()[..], &[2], format!("key:{key:012}").as_bytes()].concat();
        RowChange::Put {
            key: key.into(),
            head: RowHead::from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 0]),
            body: Bytes::from(value).into(),
        }
    }

    fn await_event(&self, wanted: impl Fn(&StateStoreEvent) -> bool) {
        loop {
            match self.events.recv().expect("the store lives") {
                StateStoreEvent::Failed(said) => panic!("{said}"),
                event if wanted(&event) => return,
                _ => {}
            }
        }
    }

    /// What the file takes of the disk, and its length, by the data. redb doubles the length of a file
    /// of less than 4 GiB; what was never written takes nothing.
    fn size(&self) -> String {
        let stats = self.store.stats();
        let live = stats.live_bytes as f64;
        let taken = std::fs::metadata(&self.path).expect("the file").blocks() * 512;
        format!(
            "{:.2} x live, as long as {:.2} x",
            taken as f64 / live,
            stats.file_bytes as f64 / live
        )
    }
}

fn main() {
    let keys_max: u32 = match std::env::var("FLOTILLA_KEYS") {
        Ok(keys) => keys.parse().expect("FLOTILLA_KEYS is a number"),
        Err(_) => 1_000_000,
    };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state.redb");
    let (store, events) = open(&path);
    let mut bench = Bench { store, events, index: 0, random: Random::new(7), path: path.clone() };
    let mut all: Vec<u32> = (0..keys_max).collect();
    shuffle(&mut bench.random, &mut all);

    let shares = CheckpointConfig::default().dirty_share as usize;
    let part = (keys_max as usize).div_ceil(shares).max(1);
    let started = Instant::now();
    for some in all.clone().chunks_mut(part) {
        bench.checkpoint(some);
    }
    let (seconds, size) = (started.elapsed().as_secs_f64(), bench.size());
    println!("{keys_max} keys of 1 KiB in {shares} checkpoints: {seconds:.1} s, file {size}");

    let percents = [1, 2, 5, 10, 20];
    let mut times = vec![Vec::new(); percents.len()];
    for _ in 0..ROUNDS {
        for (case, share) in percents.iter().enumerate() {
            shuffle(&mut bench.random, &mut all);
            let count = keys_max as usize * share / 100;
            times[case].push(bench.checkpoint(&mut all.clone()[..count]));
        }
    }
    println!("| changed | checkpoint, ms | us per changed key |\n|---:|---:|---:|");
    for (share, mut times) in percents.into_iter().zip(times) {
        times.sort_unstable();
        let median = times[times.len() / 2].as_secs_f64();
        let each = median * 1e6 / (f64::from(keys_max) * share as f64 / 100.0);
        println!("| {share} % | {:.0} | {each:.1} |", median * 1e3);
    }

    for _ in 0..OVERWRITES {
        shuffle(&mut bench.random, &mut all);
        for some in all.clone().chunks_mut(part) {
            bench.checkpoint(some);
        }
    }
    println!("after {OVERWRITES} overwrites of all: file {}", bench.size());

    let Bench { store, .. } = bench;
    store.close().expect("closed");
    let started = Instant::now();
    let (store, _events) = open(&path);
    let opened = started.elapsed().as_secs_f64();
    let mut rows = 0;
    store
        .checkpoints()
        .load(GROUP, |_, _| {
            rows += 1;
            Ok::<(), std::convert::Infallible>(())
        })
        .expect("the rows");
    let loaded = started.elapsed().as_secs_f64();
    assert_eq!(rows, keys_max, "every row is there");
    println!("start: opened and verified in {opened:.1} s, all rows read after {loaded:.1} s");
}

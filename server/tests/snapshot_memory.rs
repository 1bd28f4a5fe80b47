//! What snapshots take in memory on their way from one state to another: built, sent, taken in and
//! installed, by the memory of this process. In a process of its own.

use bytes::Bytes;
use raft_core::conf::Conf;
use raft_core::snapshot::{SnapCmd, SnapEvent, Snapshot, SnapshotId};
use raft_core::types::{EntryId, GroupId, Index, NodeId, Term};
use server::data_dir::Identity;
use server::snapshot_bytes::{INCOMING_BYTES_MAX, OUTGOING_BYTES_MAX, SnapshotBytes};
use server::state_store::{StateStore, StateStoreConfig, StateStoreEvent};
use server::storage::OpenStorage;
use shard_core::checkpoint::{CheckpointMark, RowChange};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};

/// What issue and documentation promise.
const BYTES_MAX: u64 = 32 << 20;
/// Groups whose snapshots travel at once: their windows are twice what a node may hold.
const GROUPS: u32 = 16;
/// Bytes that one stream lets go.
const WINDOW: u64 = 1 << 20;
/// Of redb, in each state: small, so that it hides nothing.
const CACHE_BYTES: usize = 2 << 20;
const PEER: NodeId = NodeId(2);
/// Its streams fail at once: the answer says that all that was asked before was looked at.
const NOBODY: NodeId = NodeId(3);

struct State {
    store: StateStore,
    events: Receiver<StateStoreEvent>,
}

impl State {
    fn open(path: &Path) -> State {
        let (sender, events) = channel();
        let config = StateStoreConfig { cache_bytes: CACHE_BYTES, ..StateStoreConfig::default() };
        let owner = Identity { cluster_id: "c".into(), node: NodeId(1) };
        let report = move |event| {
            let _ = sender.send(event);
        };
        let (store, _) =
            StateStore::open((path, &owner), &OpenStorage::default(), config, report).unwrap();
        State { store, events }
    }

    fn next(&self) -> StateStoreEvent {
        self.events.recv().unwrap()
    }

    /// A checkpoint of about so many bytes, with short values and long ones.
    fn fill(&self, group: GroupId, bytes: usize) -> Snapshot {
        let mut left = bytes;
        let mut number = 0_u32;
        while left > 0 {
            let mut changes = Vec::new();
            let mut step = 1_usize << 20;
            while step > 0 && left > 0 {
                number += 1;
                let len = if number.is_multiple_of(16) { 100_000 } else { 400 };
                let key = Bytes::from(number.to_be_bytes().to_vec());
                let body = Bytes::from(vec![number as u8; len]);
                changes.push(RowChange::Put {
                    key,
                    head: [7; 9].into_iter().collect(),
                    body: body.into(),
                });
                (step, left) = (step.saturating_sub(len), left.saturating_sub(len));
            }
            self.store.changes(group, changes);
            assert!(matches!(self.next(), StateStoreEvent::Taken(_)));
        }
        let at = EntryId { index: Index(5), term: Term(1) };
        let conf = (Index(0), Conf::of_voters(vec![PEER]));
        self.store.commit(group, CheckpointMark { at, conf });
        match self.next() {
            StateStoreEvent::Checkpointed(_, snapshot) => snapshot,
            other => panic!("{other:?}"),
        }
    }

    /// The pieces of these groups' next windows that found room.
    fn send(&self, wanted: &BTreeMap<GroupId, (Snapshot, u64)>) -> Vec<(GroupId, u64, Bytes)> {
        for (group, (snapshot, here)) in wanted {
            let (id, to) = (snapshot.id, snapshot.bytes.min(here + WINDOW));
            let send = SnapCmd::Send { peer: PEER, id, from: *here, to };
            assert!(self.store.snapshot(*group, send).is_none());
        }
        let nothing = SnapCmd::Send { peer: NOBODY, id: SnapshotId::default(), from: 0, to: 1 };
        assert!(self.store.snapshot(GroupId(1), nothing).is_none());
        let mut pieces = Vec::new();
        loop {
            match self.next() {
                StateStoreEvent::Chunk(out) => {
                    pieces.push((out.chunk.group, out.chunk.offset, out.chunk.bytes));
                }
                StateStoreEvent::Snapshot(_, SnapEvent::Failed { peer: NOBODY }) => return pieces,
                other => panic!("{other:?}"),
            }
        }
    }

    /// Takes in what finds room, and waits until it is in the file.
    fn take(
        &self,
        wanted: &mut BTreeMap<GroupId, (Snapshot, u64)>,
        incoming: &std::sync::Arc<SnapshotBytes>,
        pieces: Vec<(GroupId, u64, Bytes)>,
    ) {
        let mut ends: BTreeMap<GroupId, u64> = BTreeMap::new();
        for (group, offset, bytes) in pieces {
            let (snapshot, here) = &wanted[&group];
            if offset != *ends.get(&group).unwrap_or(here) {
                continue;
            }
            let copy = || Ok::<_, Infallible>(bytes.to_vec());
            let Ok(held) = incoming.hold(bytes.len(), copy);
            let Some(held) = held else { continue };
            self.store.stage(group, snapshot.clone(), offset, held);
            ends.insert(group, offset + bytes.len() as u64);
        }
        while !ends.is_empty() {
            match self.next() {
                StateStoreEvent::Snapshot(group, SnapEvent::Received { offset, .. }) => {
                    wanted.get_mut(&group).unwrap().1 = offset;
                    ends.retain(|of, end| *of != group || *end != offset);
                }
                other => panic!("{other:?}"),
            }
        }
        wanted.retain(|_, (snapshot, here)| *here < snapshot.bytes);
    }
}

/// A number of bytes of this process, where the kernel tells.
fn bytes_of(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

#[test]
fn snapshots_on_their_way_take_little_however_large_they_are() {
    let megabytes = std::env::var("FLOTILLA_SNAPSHOT_MB");
    let megabytes: usize = megabytes.map_or(160, |text| text.parse().expect("a number"));
    let folder = tempfile::tempdir().unwrap();
    let from = State::open(&folder.path().join("from.redb"));
    let to = State::open(&folder.path().join("to.redb"));
    let incoming = SnapshotBytes::new(INCOMING_BYTES_MAX);
    let groups = (1..=GROUPS).map(GroupId);
    let share = (megabytes << 20) / GROUPS as usize;
    let snapshots: BTreeMap<GroupId, Snapshot> =
        groups.map(|group| (group, from.fill(group, share))).collect();
    let total: u64 = snapshots.values().map(|snapshot| snapshot.bytes).sum();
    assert!(total > 4 * BYTES_MAX);
    let Some(before) = bytes_of("VmRSS") else { return };
    // The peak begins anew.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();

    let mut wanted: BTreeMap<GroupId, (Snapshot, u64)> =
        snapshots.iter().map(|(group, snapshot)| (*group, (snapshot.clone(), 0))).collect();
    while !wanted.is_empty() {
        let pieces = from.send(&wanted);
        to.take(&mut wanted, &incoming, pieces);
    }
    for (group, snapshot) in &snapshots {
        to.store.flip(*group, snapshot.id);
        to.store.installed(*group);
        assert!(matches!(to.next(), StateStoreEvent::Flipped(..)));
        assert!(matches!(to.next(), StateStoreEvent::Settled(_)));
        let mut rows = 0_u64;
        let count = |_: &[u8], _: &[u8]| {
            rows += 1;
            Ok::<_, Infallible>(())
        };
        assert!(to.store.checkpoints().load(*group, count).is_ok() && rows > 0);
    }
    let taken = bytes_of("VmHWM").expect("it told before").saturating_sub(before);
    let held = incoming.peak() + from.store.outgoing().peak();
    println!("{total} bytes of snapshots took {taken}, of which {held} were on their way at once");
    assert!(taken < BYTES_MAX, "{taken} bytes of memory for snapshots of {total}");
    // What was asked for was more than may be held, and came all the same.
    assert!(from.store.outgoing().put_off() > 0);
    assert!(held > INCOMING_BYTES_MAX && held <= INCOMING_BYTES_MAX + OUTGOING_BYTES_MAX);
    assert_eq!(from.store.outgoing().now() + incoming.now(), 0);
}

use super::format::{GROUPS, PARTS, ROWS, STREAM_HEADER, Totals, row_hash};
use super::*;
use raft_core::conf::Conf;
use raft_core::types::{Index, NodeId, Term};
use redb::{ReadableTable, ReadableTableMetadata};
use shard_core::checkpoint::RowHead;
use std::sync::mpsc::{Receiver, channel};

mod rot;

const G1: GroupId = GroupId(1);
const G2: GroupId = GroupId(2);
const P1: NodeId = NodeId(11);
const P2: NodeId = NodeId(12);

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

struct Open {
    store: StateStore,
    groups: BTreeMap<GroupId, StoredGroup>,
    events: Receiver<StateStoreEvent>,
}

fn owner(node: u64) -> Identity {
    Identity { cluster_id: "c".into(), node: NodeId(node) }
}

fn try_open(path: &Path, config: StateStoreConfig) -> Result<Open, StateStoreError> {
    let (sender, events) = channel();
    let report = move |event| {
        let _ = sender.send(event);
    };
    let (store, groups) =
        StateStore::open((path, &owner(1)), &OpenStorage::default(), config, report)?;
    Ok(Open { store, groups, events })
}

fn open(path: &Path) -> Open {
    try_open(path, StateStoreConfig::default()).unwrap()
}

fn at(index: u64) -> EntryId {
    EntryId { index: Index(index), term: Term(index / 10 + 1) }
}

fn mark(index: u64) -> CheckpointMark {
    let conf = (Index(index / 2), Conf::of_voters(vec![P1, P2]));
    CheckpointMark { at: at(index), conf }
}

fn put(key: &[u8], value: &[u8]) -> RowChange {
    // Any place may be the border of head and body, and of the body's pieces.
    let head = value.len().min(key.len() * 5 % 23);
    let (head, body) = value.split_at(head);
    let pieces = body.chunks(value.len() * 2 / 5 + 1).map(Bytes::copy_from_slice);
    let body = pieces.collect();
    RowChange::Put { key: Bytes::copy_from_slice(key), head: head.into(), body }
}

fn delete(key: &[u8]) -> RowChange {
    RowChange::Delete { key: Bytes::copy_from_slice(key) }
}

fn delete_prefix(prefix: &[u8]) -> RowChange {
    RowChange::DeletePrefix { prefix: Bytes::copy_from_slice(prefix) }
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at / 251) as u8 ^ (at as u8).wrapping_mul(seed | 1)).collect()
}

/// The snapshot that these rows are, by the definition.
fn expected(model: &Model, mark: &CheckpointMark) -> Snapshot {
    let mut totals = Totals::EMPTY;
    for (key, value) in model {
        totals.add(row_hash(key, [&value[..]]), key.len(), value.len());
    }
    let id = SnapshotId { at: mark.at, hash: totals.hash };
    Snapshot { id, bytes: totals.bytes, conf: mark.conf.clone() }
}

fn stream(model: &Model) -> Vec<u8> {
    let mut bytes = STREAM_HEADER.to_vec();
    for (key, value) in model {
        bytes.extend((key.len() as u32).to_le_bytes());
        bytes.extend((value.len() as u32).to_le_bytes());
        bytes.extend(key);
        bytes.extend(value);
    }
    bytes
}

/// Rows of many sizes.
fn some_rows() -> Model {
    let sizes = [0, 1, 100, 4000, 16_000, 16_128, 16_200, 16_300, 33_000, 300_000];
    let rows = sizes.iter().enumerate();
    let mut model: Model =
        rows.map(|(n, size)| (format!("row{n}").into_bytes(), pattern(*size, n as u8))).collect();
    model.insert(Vec::new(), b"of the empty key".to_vec());
    model.insert(vec![0xff; 40_000], b"of a long key".to_vec());
    model.extend((0..500u32).map(|n| (format!("small{n}").into_bytes(), pattern(30, n as u8))));
    model
}

fn puts(model: &Model) -> Vec<RowChange> {
    model.iter().map(|(key, value)| put(key, value)).collect()
}

impl Open {
    fn next(&self) -> StateStoreEvent {
        loop {
            match self.events.recv().unwrap() {
                StateStoreEvent::Cleaned => {}
                other => return other,
            }
        }
    }

    fn changes(&self, group: GroupId, changes: Vec<RowChange>) {
        self.store.changes(group, changes);
        assert!(matches!(self.next(), StateStoreEvent::Taken(of) if of == group));
    }

    fn commit(&self, group: GroupId, index: u64) -> Snapshot {
        self.store.commit(group, mark(index));
        match self.next() {
            StateStoreEvent::Checkpointed(of, snapshot) if of == group => snapshot,
            other => panic!("{other:?}"),
        }
    }

    fn checkpoint(&self, group: GroupId, index: u64, changes: Vec<RowChange>) -> Snapshot {
        self.changes(group, changes);
        self.commit(group, index)
    }

    fn rows(&self, group: GroupId) -> Model {
        let mut rows = Model::new();
        let mut last: Option<Vec<u8>> = None;
        let loaded = self.store.checkpoints().load(group, |key, value| {
            assert!(last.as_deref().is_none_or(|last| last < key), "the order of the keys");
            last = Some(key.to_vec());
            rows.insert(key.to_vec(), value.to_vec());
            Ok::<(), ()>(())
        });
        loaded.unwrap_or_else(|error| panic!("{error:?}"));
        rows
    }

    fn send(&self, group: GroupId, peer: NodeId, id: SnapshotId, from: u64, to: u64) {
        self.store.snapshot(group, SnapCmd::Send { peer, id, from, to });
    }

    /// What the chunks of one Send bring together.
    fn sent(&self, group: GroupId, peer: NodeId, id: SnapshotId, from: u64, to: u64) -> Vec<u8> {
        self.send(group, peer, id, from, to);
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < to - from {
            let StateStoreEvent::Chunk(out) = self.next() else { panic!("no chunk") };
            assert_eq!((out.to, out.chunk.group, out.chunk.id), (peer, group, id));
            assert_eq!(out.chunk.offset, from + bytes.len() as u64);
            assert!(out.chunk.bytes.len() as u64 <= streams::CHUNK_BYTES_MAX);
            bytes.extend(out.chunk.bytes);
        }
        bytes
    }

    fn is_failed(&self, group: GroupId, peer: NodeId) {
        match self.next() {
            StateStoreEvent::Snapshot(of, SnapEvent::Failed { peer: to }) => {
                assert_eq!((of, to), (group, peer));
            }
            other => panic!("{other:?}"),
        }
    }

    fn stage(&self, group: GroupId, snapshot: &Snapshot, offset: u64, bytes: &[u8]) -> SnapEvent {
        self.store.stage(group, snapshot.clone(), offset, Bytes::copy_from_slice(bytes));
        match self.next() {
            StateStoreEvent::Snapshot(of, event) if of == group => event,
            other => panic!("{other:?}"),
        }
    }

    fn flip(&self, group: GroupId, id: SnapshotId) {
        self.store.flip(group, id);
        let event = self.next();
        assert!(matches!(event, StateStoreEvent::Flipped(of, to) if (of, to) == (group, id)));
    }

    fn cleaned(&self) {
        while !matches!(self.events.recv().unwrap(), StateStoreEvent::Cleaned) {}
    }

    fn close(self) {
        self.store.close().unwrap();
    }
}

/// How many rows and parts the file has.
fn count(path: &Path) -> (u64, u64) {
    let database = Database::open(path).unwrap();
    let transaction = database.begin_read().unwrap();
    let rows = transaction.open_table(ROWS).unwrap().len().unwrap();
    (rows, transaction.open_table(PARTS).unwrap().len().unwrap())
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

#[test]
fn a_checkpoint_is_loaded_and_named_by_its_rows() {
    let folder = Folder::new();
    let path = folder.file("state.redb");
    let model = some_rows();
    let open1 = open(&path);
    assert!(open1.groups.is_empty());
    let snapshot = open1.checkpoint(G1, 7, puts(&model));
    assert_eq!(snapshot, expected(&model, &mark(7)));
    assert_eq!(snapshot.bytes, stream(&model).len() as u64);
    // The same rows in another order and in pieces, over rows that are gone.
    let mut changes = puts(&model);
    changes.reverse();
    open1.changes(G2, vec![put(b"row1", b"before"), put(b"xyz", b"gone"), put(b"row9", b"")]);
    for some in changes.chunks(100) {
        open1.changes(G2, some.to_vec());
    }
    open1.changes(G2, vec![delete(b"xyz"), delete(b"never there")]);
    assert_eq!(open1.commit(G2, 7), snapshot);
    assert_eq!(open1.rows(G1), model);
    let stats = open1.store.stats();
    assert_eq!((stats.checkpoints, stats.live_bytes), (2, 2 * snapshot.bytes));
    assert_eq!(stats.rows_written, 2 * model.len() as u64 + 4);
    open1.close();

    let again = open(&path);
    let stored = StoredGroup { checkpoint: Some(snapshot), ..StoredGroup::default() };
    assert_eq!(again.groups, BTreeMap::from([(G1, stored.clone()), (G2, stored)]));
    assert_eq!((again.rows(G1), again.rows(G2)), (model.clone(), model));
    assert_eq!(again.rows(GroupId(3)), Model::new());
    let stopped = again.store.checkpoints().load(G1, |_, _| Err("enough"));
    assert!(matches!(stopped, Err(LoadError::Refused("enough"))));
}

#[test]
fn many_checkpoints_come_to_what_a_map_comes_to() {
    let folder = Folder::new();
    let path = folder.file("state.redb");
    let mut random = 1u64;
    let mut below = |bound: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888);
        (random >> 33) % bound
    };
    let mut model = Model::new();
    let mut store = open(&path);
    for index in 1..60 {
        let mut changes = Vec::new();
        for _ in 0..below(40) {
            let key = format!("{:03}", below(300)).into_bytes();
            match below(20) {
                0 => {
                    let prefix = key[..below(3) as usize].to_vec();
                    if prefix.is_empty() && below(4) > 0 {
                        continue;
                    }
                    model.retain(|key, _| !key.starts_with(&prefix));
                    changes.push(delete_prefix(&prefix));
                }
                1..6 => {
                    model.remove(&key);
                    changes.push(delete(&key));
                }
                kind => {
                    let size = if kind < 8 { 40_000 } else { 200 };
                    let value = pattern(below(size) as usize, index as u8);
                    changes.push(put(&key, &value));
                    model.insert(key, value);
                }
            }
        }
        assert_eq!(store.checkpoint(G1, index, changes), expected(&model, &mark(index)));
        if below(10) == 0 {
            store.close();
            store = open(&path);
        }
    }
    assert!(!model.is_empty());
    assert_eq!(store.rows(G1), model);
    // Nothing is left but these rows.
    store.close();
    let parts = |value: &Vec<u8>| value.len().div_ceil(format::PART_BYTES) as u64;
    let long = model.iter().filter(|(key, value)| !format::is_inline(key.len(), value.len()));
    let expected = (model.len() as u64, long.map(|(_, value)| parts(value)).sum());
    assert_eq!(count(&path), expected);
}

#[test]
fn a_prefix_takes_exactly_its_rows_and_their_parts() {
    let folder = Folder::new();
    let path = folder.file("state.redb");
    let store = open(&path);
    let big = pattern(5 << 20, 3);
    let keys: [&[u8]; 7] = [b"a", b"b", b"b\x00", b"b\xff\xff", b"c", b"\xff", b"\xff\xff\x01"];
    let all: Model = keys.iter().map(|key| (key.to_vec(), big.clone())).collect();
    store.checkpoint(G1, 1, puts(&all));
    store.checkpoint(G2, 1, puts(&all));
    let left: Model = [(b"a".to_vec(), big.clone()), (b"c".to_vec(), big)].into();
    let changes = vec![delete_prefix(b"b"), delete_prefix(b"\xff"), delete_prefix(b"d")];
    assert_eq!(store.checkpoint(G1, 2, changes), expected(&left, &mark(2)));
    assert_eq!((store.rows(G1), store.rows(G2)), (left, all));
    store.checkpoint(G2, 2, vec![delete_prefix(b"")]);
    store.changes(G1, vec![put(b"a", b"small"), delete(b"c")]);
    let snapshot = store.commit(G1, 3);
    store.close();
    assert_eq!(count(&path), (1, 0));
    assert_eq!(snapshot.bytes, 8 + 8 + 1 + 5);
}

#[test]
fn a_long_value_takes_no_more_space_than_it_is_long() {
    let folder = Folder::new();
    let path = folder.file("state.redb");
    let store = open(&path);
    store.checkpoint(G1, 1, vec![put(b"key", &pattern(64 << 20, 5))]);
    store.close();
    let database = Database::open(&path).unwrap();
    let stats = database.begin_write().unwrap().stats().unwrap();
    let used = stats.stored_bytes() + stats.metadata_bytes() + stats.fragmented_bytes();
    assert!(used < 70 << 20, "{used}");
}

#[test]
fn a_checkpoint_under_way_leaves_memory_as_it_grows() {
    let folder = Folder::new();
    let path = folder.file("state.redb");
    let config = StateStoreConfig { cache_bytes: 4 << 20, ..StateStoreConfig::default() };
    let store = try_open(&path, config).unwrap();
    let page = Bytes::from(pattern(16_000, 9));
    // What is on disk before the commit is not in the cache.
    let blocks = || std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&path).unwrap());
    for batch in 0..32u32 {
        let rows = (0..64u32).map(|n| RowChange::Put {
            key: Bytes::from(format!("{batch}/{n}")),
            head: RowHead::new(),
            body: page.clone().into(),
        });
        store.changes(G1, rows.collect());
    }
    assert!(blocks() * 512 > 28 << 20, "only {} blocks are on disk", blocks());
    assert_eq!(store.commit(G1, 1).bytes, stream(&store.rows(G1)).len() as u64);
}

#[test]
fn what_a_file_never_wrote_is_not_counted_as_taken() {
    let folder = Folder::new();
    let path = folder.file("sparse");
    assert_eq!(taken_by(&path), 0, "there is none");
    let file = std::fs::File::create(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &pattern(1 << 20, 3), 16 << 20).unwrap();
    file.set_len(64 << 20).unwrap();
    file.sync_all().unwrap();
    let taken = taken_by(&path);
    assert!((1 << 20..8 << 20).contains(&taken), "{taken}");
}

#[test]
fn a_group_without_rows_has_a_checkpoint_and_a_snapshot() {
    let folder = Folder::new();
    let (from, to) = (open(&folder.file("a")), open(&folder.file("b")));
    let snapshot = from.commit(G1, 4);
    assert_eq!(snapshot, expected(&Model::new(), &mark(4)));
    assert_eq!(snapshot.bytes, 8);
    let bytes = from.sent(G1, P1, snapshot.id, 0, 8);
    assert_eq!(bytes, STREAM_HEADER);
    let id = snapshot.id;
    assert_eq!(to.stage(G1, &snapshot, 0, &bytes[..3]), SnapEvent::Received { id, offset: 3 });
    assert_eq!(to.stage(G1, &snapshot, 3, &bytes[3..]), SnapEvent::Received { id, offset: 8 });
    to.flip(G1, id);
    assert_eq!(to.rows(G1), Model::new());
}

#[test]
fn a_snapshot_travels_through_crashes_in_any_pieces() {
    let folder = Folder::new();
    let model = some_rows();
    let from = open(&folder.file("a"));
    let snapshot = from.checkpoint(G1, 9, puts(&model));
    let (id, size) = (snapshot.id, snapshot.bytes);
    let path = folder.file("b");
    let mut to = open(&path);
    let old = to.checkpoint(G1, 3, vec![put(b"old", &pattern(50_000, 1)), put(b"row1", b"")]);
    let steps = [1, 2, 6, 1, 7, 100, 3000, 70_000, 20_000, 1 << 20, 13, 40_000];
    let mut offset = 0;
    for (round, step) in steps.iter().cycle().enumerate() {
        let end = size.min(offset + step);
        let bytes = from.sent(G1, P1, id, offset, end);
        assert_eq!(
            to.stage(G1, &snapshot, offset, &bytes),
            SnapEvent::Received { id, offset: end }
        );
        offset = end;
        if round % 2 == 0 {
            to.close();
            to = open(&path);
            assert_eq!(to.groups[&G1].staged, Some((id, offset)));
            assert_eq!(to.groups[&G1].checkpoint, Some(old.clone()));
        }
        if offset == size {
            break;
        }
    }
    assert_eq!(to.rows(G1).len(), 2);
    to.flip(G1, id);
    assert_eq!(to.rows(G1), model);
    to.close();

    let to = open(&path);
    let stored = to.groups[&G1].clone();
    assert_eq!(stored.installing, Some(id.at));
    assert_eq!((stored.checkpoint, stored.staged), (Some(snapshot), None));
    to.store.installed(G1);
    assert!(matches!(to.next(), StateStoreEvent::Settled(G1)));
    // It goes on from there as if the checkpoint had been its own.
    let mut model = model;
    model.remove(&b"row9"[..]);
    assert_eq!(to.checkpoint(G1, 10, vec![delete(b"row9")]), expected(&model, &mark(10)));
    to.close();
    let to = open(&path);
    assert_eq!((to.groups[&G1].installing, to.rows(G1)), (None, model));
}

#[test]
fn what_a_flip_replaces_and_a_discard_drops_is_deleted() {
    let folder = Folder::new();
    let path = folder.file("state.redb");
    let store = open(&path);
    let old: Model = (0..9000u32).map(|n| (n.to_be_bytes().to_vec(), pattern(40, 1))).collect();
    store.checkpoint(G1, 2, puts(&old));
    let new = some_rows();
    let snapshot = expected(&new, &mark(5));
    let (id, bytes) = (snapshot.id, stream(&new));
    store.stage(G1, &snapshot, 0, &bytes[..400_000]);
    store.store.snapshot(G1, SnapCmd::Discard { id });
    store.cleaned();
    // What is gone has to begin anew.
    let received = store.stage(G1, &snapshot, 400_000, &bytes[400_000..]);
    assert_eq!(received, SnapEvent::Received { id, offset: 0 });
    let offset = snapshot.bytes;
    assert_eq!(store.stage(G1, &snapshot, 0, &bytes), SnapEvent::Received { id, offset });
    store.flip(G1, id);
    store.cleaned();
    assert_eq!(store.store.stats().to_clean, 0);
    store.close();
    assert_eq!(count(&path).0, new.len() as u64);
}

#[test]
fn pieces_out_of_order_are_answered_with_what_is_here() {
    let folder = Folder::new();
    let store = open(&folder.file("state.redb"));
    let model = some_rows();
    let (one, bytes) = (expected(&model, &mark(5)), stream(&model));
    let id = one.id;
    let received = |offset| SnapEvent::Received { id, offset };
    assert_eq!(store.stage(G1, &one, 50, &bytes[50..90]), received(0));
    assert_eq!(store.stage(G1, &one, 0, &bytes[..50]), received(50));
    assert_eq!(store.stage(G1, &one, 0, &bytes[..50]), received(50));
    assert_eq!(store.stage(G1, &one, 60, &bytes[60..90]), received(50));
    assert_eq!(store.stage(G1, &one, 20, &bytes[20..70_000]), received(70_000));
    assert_eq!(store.stage(G1, &one, 70_000, b""), received(70_000));
    // Another one, from its middle, changes nothing; its beginning takes the place.
    let other = Snapshot { id: SnapshotId { at: at(6), ..id }, ..one.clone() };
    let none = SnapEvent::Received { id: other.id, offset: 0 };
    assert_eq!(store.stage(G1, &other, 10, &bytes[10..20]), none);
    assert_eq!(store.stage(G1, &one, 70_000, b""), received(70_000));
    let ten = SnapEvent::Received { id: other.id, offset: 10 };
    assert_eq!(store.stage(G1, &other, 0, &bytes[..10]), ten);
    assert_eq!(store.stage(G1, &one, 70_000, &bytes[70_000..]), received(0));
}

#[test]
fn what_is_not_what_its_name_says_is_dropped() {
    let folder = Folder::new();
    let path = folder.file("state.redb");
    let store = open(&path);
    let model = some_rows();
    let (good, bytes) = (expected(&model, &mark(5)), stream(&model));
    let id = good.id;
    let corrupt = |snapshot: &Snapshot, bytes: &[u8], what: &str| {
        let id = snapshot.id;
        assert_eq!(store.stage(G1, snapshot, 0, bytes), SnapEvent::Corrupt { id }, "{what}");
        let nothing = SnapEvent::Received { id, offset: 0 };
        assert_eq!(store.stage(G1, snapshot, 1, &bytes[1..2]), nothing, "{what}");
    };
    for at in [0, 7, 9, 13, 17, 40_000, 60_000, bytes.len() / 2, bytes.len() - 1] {
        let mut rotten = bytes.clone();
        rotten[at] ^= 4;
        corrupt(&good, &rotten, &format!("byte {at}"));
    }
    let shorter = Snapshot { bytes: good.bytes - 1, ..good.clone() };
    corrupt(&shorter, &bytes, "more than there is");
    corrupt(&shorter, &bytes[..bytes.len() - 1], "the last row is cut off");
    let renamed = Snapshot { id: SnapshotId { hash: id.hash ^ 1, ..id }, ..good.clone() };
    corrupt(&renamed, &bytes, "another hash");
    let nobody = (Index(1), Conf::default());
    let nobody = Snapshot { conf: nobody, ..good.clone() };
    assert_eq!(store.stage(G1, &nobody, 0, &bytes), SnapEvent::Corrupt { id });
    let twice = [&bytes[..], &bytes[STREAM_HEADER.len()..]].concat();
    let size = twice.len() as u64;
    let doubled = SnapshotId { hash: id.hash.wrapping_mul(2), ..id };
    corrupt(&Snapshot { id: doubled, bytes: size, ..good.clone() }, &twice, "every row twice");
    let received = SnapEvent::Received { id, offset: good.bytes };
    assert_eq!(store.stage(G1, &good, 0, &bytes), received);
    store.close();
    assert!(open(&path).groups[&G1].checkpoint.is_none());
}

#[test]
fn any_part_of_a_stream_can_be_asked_for_again() {
    let folder = Folder::new();
    let store = open(&folder.file("state.redb"));
    let mut model = some_rows();
    model.extend((0..30_000u32).map(|n| (format!("t{n:07}").into_bytes(), pattern(90, n as u8))));
    let id = store.checkpoint(G1, 5, puts(&model)).id;
    let bytes = stream(&model);
    let size = bytes.len() as u64;
    let mut random = 77u64;
    let mut below = |bound: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888);
        (random >> 33) % bound
    };
    let mut from = 0;
    for round in 0..300 {
        let to = size.min(from + 1 + below(400_000));
        let peer = if below(3) == 0 { P1 } else { P2 };
        let sent = store.sent(G1, peer, id, from, to);
        assert!(sent == bytes[from as usize..to as usize], "round {round}: {from}..{to}");
        from = match below(5) {
            0 => below(size),
            1 => to.saturating_sub(below(1 << 20)),
            _ => to % size,
        };
    }
    assert_eq!(store.store.stats().streams, 2);
    assert!(store.sent(G1, P1, id, 0, size) == bytes);
}

#[test]
fn one_version_is_held_until_nobody_is_sent_it() {
    let folder = Folder::new();
    let store = open(&folder.file("state.redb"));
    let model = some_rows();
    let bytes = stream(&model);
    let size = bytes.len() as u64;
    let old = store.checkpoint(G1, 5, puts(&model)).id;
    let other = store.checkpoint(G2, 5, vec![put(b"a", b"b")]).id;
    assert!(store.sent(G1, P1, old, 0, 1000) == bytes[..1000]);
    let new = store.checkpoint(G1, 6, vec![delete_prefix(b"")]).id;
    let newer = store.checkpoint(G2, 6, vec![put(b"a", b"c")]).id;
    // It goes on, for others as well; what came later waits for its end.
    assert!(store.sent(G1, P1, old, 1000, size) == bytes[1000..]);
    assert!(store.sent(G1, P2, old, 0, size) == bytes);
    assert_eq!(store.sent(G2, P2, other, 0, 18).len(), 18);
    store.send(G1, NodeId(13), new, 0, 8);
    store.is_failed(G1, NodeId(13));
    store.send(G2, P1, newer, 0, 8);
    store.is_failed(G2, P1);
    for (group, peer, id) in [(G1, P1, old), (G1, P2, new), (G2, P2, other)] {
        store.store.snapshot(group, SnapCmd::Stop { peer, id });
    }
    // A stop of another one stopped nothing; that peer's own next one does.
    store.send(G2, P1, newer, 0, 8);
    store.is_failed(G2, P1);
    assert_eq!(store.sent(G1, P2, new, 0, 8), STREAM_HEADER);
    assert_eq!(store.sent(G2, P1, newer, 0, 8), STREAM_HEADER);
    store.send(G1, P1, old, 0, 8);
    store.is_failed(G1, P1);
    store.send(G2, P1, newer, 0, 1 << 40);
    store.is_failed(G2, P1);
}

#[test]
fn a_stream_that_nobody_asks_for_or_that_holds_too_much_is_given_up() {
    let folder = Folder::new();
    let path = folder.file("a");
    let config = StateStoreConfig { stream_idle: Duration::from_millis(1), ..Default::default() };
    let store = try_open(&path, config).unwrap();
    let id = store.checkpoint(G1, 5, vec![put(b"a", b"b")]).id;
    assert_eq!(store.sent(G1, P1, id, 0, 8), STREAM_HEADER);
    store.is_failed(G1, P1);
    store.close();

    let config = StateStoreConfig { pinned_growth_bytes_min: 4 << 20, ..Default::default() };
    let store = try_open(&folder.file("b"), config).unwrap();
    let model: Model = [(b"a".to_vec(), pattern(1 << 20, 1))].into();
    let id = store.checkpoint(G1, 5, puts(&model)).id;
    assert_eq!(store.sent(G1, P1, id, 0, 8), STREAM_HEADER);
    for round in 0.. {
        let size = store.store.stats().file_bytes;
        store.store.changes(G2, vec![put(b"x", &pattern(1 << 20, round as u8))]);
        store.store.commit(G2, mark(6 + round));
        store.send(G1, P1, id, 0, 8);
        let mut chunks = 0;
        let mut failed = false;
        let mut done = false;
        while !(done && chunks + usize::from(failed) > 0) {
            match store.next() {
                StateStoreEvent::Chunk(_) => chunks += 1,
                StateStoreEvent::Snapshot(G1, SnapEvent::Failed { peer: P1 }) => failed = true,
                StateStoreEvent::Taken(G2) => {}
                StateStoreEvent::Checkpointed(G2, _) => done = true,
                other => panic!("{other:?}"),
            }
        }
        if failed {
            assert!(size > 2 << 20, "it has not grown yet");
            return;
        }
        assert!(size < 20 << 20, "it has held too much");
    }
}

/// What is long in a snapshot is written once as it comes, and what is kept between two pieces stays
/// short.
#[test]
fn long_keys_come_in_parts_and_are_put_together_once() {
    let folder = Folder::new();
    let path = folder.file("state.redb");
    let mut model = some_rows();
    let long = vec![1; 3 << 20];
    model.insert([&long[..], &[2]].concat(), pattern(100_000, 3));
    model.insert(long, b"short".to_vec());
    model.insert(vec![3; format::PART_BYTES], pattern(64, 1));
    model.insert(vec![4; format::PART_BYTES + 1], Vec::new());
    model.insert(vec![5; 2 * format::PART_BYTES], pattern(64, 1));
    model.insert(vec![6; 2 * format::PART_BYTES + 1], pattern(65, 1));
    let (snapshot, bytes) = (expected(&model, &mark(5)), stream(&model));
    let (mut store, mut here, mut longest) = (open(&path), 0, 0);
    for (number, piece) in bytes.chunks(100_003).enumerate() {
        let received = store.stage(G1, &snapshot, here, piece);
        here += piece.len() as u64;
        assert_eq!(received, SnapEvent::Received { id: snapshot.id, offset: here });
        let read = store.store.database.begin_read().unwrap();
        let kept = read.open_table(format::STAGING).unwrap().get(G1.0).unwrap();
        longest = longest.max(kept.unwrap().value().len());
        drop(read);
        if number % 5 == 0 {
            store.close();
            store = open(&path);
            assert_eq!(store.groups[&G1].staged, Some((snapshot.id, here)));
        }
    }
    assert!(longest < 3 * format::PART_BYTES, "{longest} bytes between two pieces");
    store.flip(G1, snapshot.id);
    assert_eq!(store.rows(G1), model);
    store.close();
    let parts = |value: &Vec<u8>| value.len().div_ceil(format::PART_BYTES) as u64;
    let parted = model.iter().filter(|(key, value)| !format::is_inline(key.len(), value.len()));
    let left = (model.len() as u64, parted.map(|(_, value)| parts(value)).sum());
    assert_eq!(count(&path), left, "nothing of the keys' parts is left");
}

/// A snapshot of which an older program has kept the beginning, a long key among it.
#[test]
fn what_an_older_program_has_kept_of_a_snapshot_is_gone_on_with() {
    let folder = Folder::new();
    let path = folder.file("state.redb");
    let store = open(&path);
    let key = vec![9; 2 * format::PART_BYTES];
    let model: Model = [(key.clone(), pattern(200_000, 3))].into();
    let (snapshot, bytes) = (expected(&model, &mark(5)), stream(&model));
    store.stage(G1, &snapshot, 0, &bytes[..8]);
    store.close();
    // Half the key: in the row. The whole key: in the row, with the number of the value.
    for (here, whole) in [(5_000, false), (16 + key.len(), true)] {
        let copy = folder.file("copy.redb");
        std::fs::copy(&path, &copy).unwrap();
        let database = Database::open(&copy).unwrap();
        let transaction = database.begin_write().unwrap();
        {
            let mut table = transaction.open_table(format::STAGING).unwrap();
            let kept = table.get(G1.0).unwrap().unwrap().value().to_vec();
            let mut row = format::StagingRow::decode(G1, &kept).unwrap();
            row.offset = here as u64;
            match whole {
                false => row.tail = bytes[8..here].to_vec(),
                true => {
                    let key = format::StagedKey::Here(key.clone());
                    row.totals.next_value = 1;
                    row.unfinished =
                        Some(format::Unfinished { key, len: 200_000, id: 0, parts: 0 });
                }
            }
            table.insert(G1.0, &row.encode(G1)[..]).unwrap();
        }
        transaction.commit().unwrap();
        drop(database);
        let store = open(&copy);
        store.stage(G1, &snapshot, here as u64, &bytes[here..]);
        store.flip(G1, snapshot.id);
        assert_eq!(store.rows(G1), model);
        store.close();
    }
}

#[test]
fn while_a_checkpoint_is_under_way_the_rest_waits_and_is_then_done() {
    let folder = Folder::new();
    let store = open(&folder.file("state.redb"));
    let model = some_rows();
    let (snapshot, bytes) = (expected(&model, &mark(5)), stream(&model));
    store.changes(G1, vec![put(b"a", b"1")]);
    store.store.stage(G2, snapshot.clone(), 0, Bytes::from(bytes));
    store.store.flip(G2, snapshot.id);
    store.store.changes(GroupId(3), vec![put(b"c", b"3")]);
    store.changes(G1, vec![put(b"b", b"2")]);
    let rows: Model = [(b"a".to_vec(), b"1".to_vec()), (b"b".to_vec(), b"2".to_vec())].into();
    assert_eq!(store.commit(G1, 1), expected(&rows, &mark(1)));
    let received = SnapEvent::Received { id: snapshot.id, offset: snapshot.bytes };
    assert!(matches!(store.next(), StateStoreEvent::Snapshot(G2, event) if event == received));
    assert!(matches!(store.next(), StateStoreEvent::Flipped(G2, _)));
    assert!(matches!(store.next(), StateStoreEvent::Taken(GroupId(3))));
    assert_eq!(store.rows(G2), model);
    // A group's own flip ends its checkpoint.
    store.commit(GroupId(3), 1);
    let next = Snapshot { id: SnapshotId { at: at(6), ..snapshot.id }, ..snapshot };
    store.stage(G2, &next, 0, &stream(&model));
    store.changes(G2, vec![delete_prefix(b"")]);
    store.flip(G2, next.id);
    assert_eq!(store.rows(G2), model);
    // One that nobody commits is not there.
    store.changes(G1, vec![delete_prefix(b"")]);
    store.store.flip(G2, next.id);
    let sentence = store.store.close().unwrap_err();
    assert!(sentence.contains("is not all here"), "{sentence}");
    assert_eq!(open(&copied(&folder.file("state.redb"))).rows(G1), rows);
}

#[test]
fn a_checkpoint_that_had_to_wait_is_ended_by_what_waited_behind_it() {
    let folder = Folder::new();
    let store = open(&folder.file("state.redb"));
    let model = some_rows();
    let snapshot = expected(&model, &mark(5));
    let (half, bytes) = (snapshot.bytes as usize / 2, Bytes::from(stream(&model)));
    store.stage(G2, &snapshot, 0, &bytes[..half]);
    store.changes(G1, vec![put(b"a", b"1")]);
    // Behind it: one that is committed, and one that is dropped for what has come in.
    store.store.changes(GroupId(3), vec![put(b"c", b"3")]);
    store.store.changes(G2, vec![put(b"b", b"2")]);
    store.store.stage(G2, snapshot.clone(), half as u64, bytes.slice(half..));
    store.store.flip(G2, snapshot.id);
    store.store.commit(GroupId(3), mark(2));
    store.commit(G1, 1);
    assert!(matches!(store.next(), StateStoreEvent::Taken(GroupId(3))));
    assert!(matches!(store.next(), StateStoreEvent::Checkpointed(GroupId(3), _)));
    assert!(matches!(store.next(), StateStoreEvent::Taken(G2)));
    assert!(matches!(store.next(), StateStoreEvent::Snapshot(G2, SnapEvent::Received { .. })));
    assert!(matches!(store.next(), StateStoreEvent::Flipped(G2, _)));
    assert_eq!(store.rows(G2), model);
}

/// A store that has failed never lets go of its file; here is another.
fn copied(path: &Path) -> PathBuf {
    let copy = path.with_extension("copy");
    std::fs::copy(path, &copy).unwrap();
    copy
}

#[test]
fn a_start_shrinks_a_file_that_is_mostly_free() {
    let folder = Folder::new();
    let path = folder.file("state.redb");
    let store = open(&path);
    let model = some_rows();
    store.checkpoint(G1, 1, vec![put(b"x", &pattern(30 << 20, 1))]);
    store.checkpoint(G2, 1, puts(&model));
    // The old generation is perhaps still there at the start.
    let snapshot = expected(&model, &mark(9));
    store.stage(G1, &snapshot, 0, &stream(&model));
    store.flip(G1, snapshot.id);
    store.close();
    let size = || std::fs::metadata(&path).unwrap().len();
    assert!(size() > 30 << 20);
    open(&path).close();
    assert!(size() > 30 << 20, "smaller than the smallest that is compacted");
    let config = StateStoreConfig { compact_bytes_min: 8 << 20, ..StateStoreConfig::default() };
    let store = try_open(&path, config).unwrap();
    assert!(size() < 8 << 20, "{} bytes", size());
    assert_eq!((store.rows(G1), store.rows(G2)), (model.clone(), model));
}

//! Checkpoints and snapshots over a disk of maps.

use super::*;
use crate::checkpoint::{RowChange, SnapshotChunk, StateCommand, StateEvent};
use crate::cluster_config::SlotRange;
use crate::digest::Digest;
use crate::machine::{Machine, MachineLoader};
use crate::op::{ExpiryCommand, Set, SetExpiry};
use crate::shard_store::RowBudget;
use crate::slot::Slot;
use bytes::{Buf, BufMut, Bytes};
use raft_core::snapshot::{SnapCmd, SnapEvent, Snapshot, SnapshotId};
use raft_core::types::Index;

/// Bytes of one chunk, small and no divisor of the window.
const CHUNK_BYTES: usize = 700;

pub(super) const SMALL: CheckpointConfig = CheckpointConfig {
    dirty_bytes_min: 3000,
    dirty_share: 10,
    log_bytes_max: 1 << 20,
    interval_ns: 60_000 * MS,
    align: 16,
    step: RowBudget { rows: 7, bytes: 500 },
};

pub(super) fn small_log(config: Config) -> Config {
    Config {
        log_trailing_bytes: 500,
        log_bytes_max: 8000,
        entry_cache_bytes_max: 2000,
        snapshot_window_bytes: 2000,
        ..config
    }
}

/// Rows, and what is made of them.
#[derive(Clone, Default)]
pub(super) struct StateDisk {
    pub(super) rows: BTreeMap<Bytes, Bytes>,
    pub(super) checkpoint: Option<Snapshot>,
    /// Of the checkpoint under way.
    pending: Vec<RowChange>,
    /// Every checkpoint there was: a reader may still be at one.
    snapshots: BTreeMap<SnapshotId, Bytes>,
    staged: Option<(Snapshot, Vec<u8>)>,
    pieces: u64,
    /// This one finds no room.
    no_room: u64,
}

impl StateDisk {
    pub(super) fn load(&self, group: GroupId) -> Option<Machine> {
        self.checkpoint.as_ref()?;
        let mut loader = MachineLoader::new(group);
        self.rows.iter().for_each(|(key, value)| loader.row(key, value.clone()).unwrap());
        Some(loader.finish().unwrap())
    }

    pub(super) fn staged(&self) -> Option<(SnapshotId, u64)> {
        self.staged.as_ref().map(|(snapshot, bytes)| (snapshot.id, bytes.len() as u64))
    }

    fn commit(&mut self, at: EntryId, conf: (Index, raft_core::conf::Conf)) -> Snapshot {
        let before = self.checkpoint.as_ref().map_or(Index(0), |snapshot| snapshot.id.at.index);
        assert!(at.index > before, "a checkpoint at {at} behind that at {before}");
        for change in self.pending.drain(..) {
            match change {
                RowChange::Put { key, head, body } => {
                    self.rows.insert(key, body.behind(&head).into());
                }
                RowChange::Delete { key } => drop(self.rows.remove(&key)),
                RowChange::DeletePrefix { prefix } => {
                    self.rows.retain(|key, _| !key.starts_with(&prefix));
                }
            }
        }
        let mut stream = Vec::new();
        for (key, value) in &self.rows {
            stream.put_u32(key.len() as u32);
            stream.put_u32(value.len() as u32);
            stream.put_slice(key);
            stream.put_slice(value);
        }
        let snapshot = Snapshot {
            id: SnapshotId { at, hash: hash(&stream) },
            bytes: stream.len() as u64,
            conf,
        };
        self.snapshots.insert(snapshot.id, stream.into());
        self.checkpoint = Some(snapshot.clone());
        snapshot
    }

    /// None: there was no room, and nothing is said of it.
    fn stage(&mut self, snapshot: Snapshot, offset: u64, bytes: &[u8]) -> Option<SnapEvent> {
        let id = snapshot.id;
        self.pieces += 1;
        if self.pieces == self.no_room {
            return None;
        }
        let known = self.staged.take().filter(|(known, _)| known.id == id);
        let mut staged = known.map_or(Vec::new(), |(_, staged)| staged);
        if staged.len() as u64 == offset {
            staged.extend_from_slice(bytes);
        }
        let offset = staged.len() as u64;
        if offset == snapshot.bytes && hash(&staged) != id.hash {
            return Some(SnapEvent::Corrupt { id });
        }
        self.staged = Some((snapshot, staged));
        Some(SnapEvent::Received { id, offset })
    }

    fn install(&mut self, id: SnapshotId) {
        let (snapshot, stream) = self.staged.take().expect("what is installed is staged");
        assert!(snapshot.id == id && snapshot.bytes == stream.len() as u64);
        let mut stream = Bytes::from(stream);
        self.snapshots.insert(id, stream.clone());
        self.rows.clear();
        self.pending.clear();
        while !stream.is_empty() {
            let (key, value) = (stream.get_u32() as usize, stream.get_u32() as usize);
            let key = stream.split_to(key);
            self.rows.insert(key, stream.split_to(value));
        }
        self.checkpoint = Some(snapshot);
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut digest = Digest::new();
    digest.bytes(bytes);
    digest.value()
}

/// The way of chunks between nodes.
#[derive(Default)]
pub(super) struct Chunks {
    sent: u64,
    /// Above 0: of so many, one is lost, one comes by halves and whole, one is swapped with the next.
    one_in: u64,
    /// This one has other bytes than were sent, so the whole snapshot comes again.
    rotten: u64,
    held: Option<(NodeId, NodeId, SnapshotChunk)>,
}

impl Chunks {
    fn pass(&mut self, from: NodeId, to: NodeId, chunk: SnapshotChunk) -> Vec<(NodeId, Input)> {
        self.sent += 1;
        let mut out = vec![(from, to, chunk.clone())];
        if self.sent == self.rotten {
            out[0].2.bytes = vec![b'!'; chunk.bytes.len()].into();
        } else if self.one_in > 0 {
            match self.sent % self.one_in {
                1 => out.clear(),
                2 => {
                    let bytes = chunk.bytes.slice(..chunk.bytes.len() / 2);
                    out.insert(0, (from, to, SnapshotChunk { bytes, ..chunk }));
                }
                3 => self.held = out.pop(),
                _ => out.extend(self.held.take()),
            }
        }
        out.into_iter().map(|(from, to, chunk)| (to, Input::Chunk { from, chunk })).collect()
    }
}

impl World {
    pub(super) fn carry_out_states(
        &mut self,
        node: NodeId,
        commands: Vec<(GroupId, StateCommand)>,
        given_up: BTreeSet<GroupId>,
        next: &mut VecDeque<(NodeId, Input)>,
    ) {
        for (group, command) in commands {
            let kept = matches!(command, StateCommand::Install(_)) && !given_up.contains(&group);
            assert!(!kept, "two states of group {group} on node {node} at once");
            self.carry_out_state(node, group, command, next);
        }
    }

    fn carry_out_state(
        &mut self,
        node: NodeId,
        group: GroupId,
        command: StateCommand,
        next: &mut VecDeque<(NodeId, Input)>,
    ) {
        let disk = self.disks.get_mut(&node).unwrap().entry(group).or_default();
        let mut events = Vec::new();
        let state = &mut disk.state;
        match command {
            StateCommand::Changes(rows) => {
                state.pending.extend(rows);
                events.push(StateEvent::Taken);
            }
            StateCommand::Commit(mark) => {
                let last = disk.entries.last().map_or(disk.base, |entry| entry.id);
                assert!(mark.at.index <= last.index, "a checkpoint beyond the log (R6)");
                events.push(StateEvent::Checkpointed(state.commit(mark.at, mark.conf)));
            }
            StateCommand::Snapshot(SnapCmd::Send { peer, id, from, to }) => {
                let Some(stream) = state.snapshots.get(&id) else {
                    events.push(StateEvent::Snapshot(SnapEvent::Failed { peer }));
                    return self.answer_state(node, group, events, next);
                };
                let mut bytes = stream.slice(from as usize..to as usize);
                let mut offset = from;
                while !bytes.is_empty() {
                    let piece = bytes.split_to(bytes.len().min(CHUNK_BYTES));
                    let len = piece.len() as u64;
                    let chunk = SnapshotChunk { group, id, offset, bytes: piece };
                    next.extend(self.chunks.pass(node, peer, chunk));
                    offset += len;
                }
            }
            StateCommand::Snapshot(SnapCmd::Stop { .. }) => {}
            StateCommand::Snapshot(SnapCmd::Discard { id }) => {
                state.staged.take_if(|(snapshot, _)| snapshot.id == id);
            }
            StateCommand::Stage { snapshot, offset, bytes } => {
                let event = state.stage(snapshot, offset, &bytes);
                events.extend(event.map(StateEvent::Snapshot));
            }
            StateCommand::Install(write) => {
                let id = write.install.as_ref().expect("an install").id;
                state.install(id);
                (disk.base, disk.entries) = (id.at, Vec::new());
                disk.write(&write);
                let machine = disk.state.load(group).unwrap();
                next.push_back((node, Input::Persisted(vec![(group, write.token)])));
                events.push(StateEvent::Installed { id, machine });
            }
        }
        self.answer_state(node, group, events, next);
    }

    fn answer_state(
        &mut self,
        node: NodeId,
        group: GroupId,
        events: Vec<StateEvent<Machine>>,
        next: &mut VecDeque<(NodeId, Input)>,
    ) {
        let inputs = events.into_iter().map(|event| Input::State { group, event });
        match self.slow.get_mut(&node) {
            Some(held) => held.extend(inputs),
            None => next.extend(inputs.map(|input| (node, input))),
        }
    }

    /// The disk of a node's states has done what it was given.
    pub(super) fn quicken(&mut self, node: NodeId) {
        for input in self.slow.remove(&node).into_iter().flatten() {
            self.input(node, input);
        }
    }

    /// A led world that takes checkpoints.
    pub(super) fn taking_checkpoints() -> (World, NodeId) {
        let mut world = World::taking(few_slots(), Some(SMALL));
        world.run(2500);
        let leader = world.leader(G1);
        (world, leader)
    }

    /// Sets keys of 40 bytes, one per entry, in one slot, and sees the answers.
    pub(super) fn fill(&mut self, leader: NodeId, seqs: std::ops::RangeInclusive<u64>, keys: u64) {
        for seq in seqs {
            self.ask(leader, G1, 10_000 + seq, set(seq, keys));
            self.run(2);
            assert_eq!(outcome(&self.replies[&(10_000 + seq)]), &Outcome::Ok);
        }
        self.run(50);
    }

    /// A node that was away has its links again, and is the process that it was.
    pub(super) fn relink(&mut self, node: NodeId) {
        self.down.remove(&node);
        for peer in others(node) {
            self.link(node, peer);
            self.link(peer, node);
        }
    }

    pub(super) fn replica(&self, node: NodeId) -> crate::wire::ReplicaStatus {
        self.nodes[&node].status(self.now).replicas[&G1].clone()
    }

    pub(super) fn disk(&self, node: NodeId) -> &Disk {
        &self.disks[&node][&G1]
    }

    pub(super) fn assert_same_states(&mut self) {
        self.run(400);
        let digests: BTreeSet<_> =
            self.nodes.values().map(|node| format!("{:?}", node.digests())).collect();
        assert_eq!(digests.len(), 1, "replicas differ");
    }

    pub(super) fn restart_all(&mut self) {
        (1..=3).for_each(|id| self.start(NodeId(id)));
        self.run(2500);
    }
}

/// As usual, but for a group of three slots: a slot is a row.
fn few_slots() -> ClusterConfig {
    let k = hash_slot(b"k");
    let slots = vec![SlotRange { first: k, last: Slot(k.0 + 2), group: G1 }];
    ClusterConfig { slots, ..config() }
}

fn set(seq: u64, keys: u64) -> RequestBody {
    let set = Set {
        key: format!("{{k}}{}", seq % keys).into(),
        value: format!("{seq:040}").into(),
        expiry: if seq.is_multiple_of(3) {
            SetExpiry::AfterMs(3_600_000)
        } else {
            SetExpiry::Clear
        },
        condition: None,
        get: false,
        command: ExpiryCommand::Set,
    };
    lane(seq, Op::Set(set))
}

pub(super) fn others(of: NodeId) -> [NodeId; 2] {
    [NodeId(of.0 % 3 + 1), NodeId((of.0 + 1) % 3 + 1)]
}

#[test]
fn s17_replicas_take_checkpoints_at_the_same_places_and_let_go_of_their_logs() {
    let (mut world, leader) = World::taking_checkpoints();
    world.fill(leader, 1..=400, 1000);
    let ids = |world: &World| -> BTreeSet<SnapshotId> {
        world.disks.values().map(|disks| disks[&G1].state.checkpoint.as_ref().unwrap().id).collect()
    };
    assert_eq!(ids(&world).len(), 1, "{:?}", ids(&world));
    for id in (1..=3).map(NodeId) {
        let (disk, replica) = (world.disk(id), world.replica(id));
        let at = disk.state.checkpoint.as_ref().unwrap().id.at.index;
        assert_eq!(at, replica.checkpoint);
        assert!(at.0.is_multiple_of(SMALL.align) && at.0 > 300, "{at}");
        let taken = disk.state.snapshots.len();
        assert!((4..=7).contains(&taken), "{taken} checkpoints of 3 KB, 25 KB in all");
        let kept: usize = disk.entries.iter().map(|entry| entry.frame.len()).sum();
        assert!(kept < 20_000 && replica.log_base.0 > 200, "{kept} bytes of log kept");
        assert!(replica.dirty_bytes < 2 * SMALL.dirty_bytes_min);
    }
    world.restart_all();
    world.assert_same_states();
    // Asked again, the last is not executed again: its lane was in the rows or in the log.
    let leader = world.leader(G1);
    world.ask(leader, G1, 1, set(400, 1000));
    world.run(5);
    assert_eq!(outcome(&world.replies[&1]), &Outcome::Ok);
    world.fill(leader, 401..=450, 1000);
    world.assert_same_states();
}

#[test]
fn s01_a_follower_behind_the_log_gets_a_snapshot_and_goes_on() {
    // Chunks that come as sent, and such that are lost, cut elsewhere, swapped,
    // rotten or find no room (S6).
    for one_in in [0, 7, 11] {
        let (mut world, leader) = World::taking_checkpoints();
        (world.chunks.one_in, world.chunks.rotten) = (one_in, 2 * one_in + 6);
        let away = others(leader)[0];
        world.fill(leader, 1..=20, 1000);
        world.down.insert(away);
        world.fill(leader, 21..=400, 1000);
        assert!(world.replica(leader).log_base > world.replica(away).applied);
        world.disks.get_mut(&away).unwrap().get_mut(&G1).unwrap().state.no_room = one_in;
        world.start(away);
        world.run(30_000);
        let replica = world.replica(away);
        assert!(replica.installs >= 1, "it got no snapshot with {one_in}");
        assert_eq!(replica.applied, world.replica(leader).applied);
        world.assert_same_states();
        let leader = world.leader(G1);
        world.fill(leader, 401..=500, 1000);
        world.assert_same_states();
        assert!(world.replica(away).checkpoint > replica.checkpoint, "it takes its own again");
        world.restart_all();
        world.assert_same_states();
    }
}

/// Else whoever else fails meanwhile takes the majority along until a snapshot is there, though two of three live.
#[test]
fn s07_a_node_that_only_starts_anew_needs_no_snapshot() {
    for missed_ns in [0, 5_000 * MS] {
        let (mut world, _) = World::taking_checkpoints();
        world.missed_ns = missed_ns;
        world.restart_all();
        let leader = world.leader(G1);
        let [away, next] = others(leader);
        world.fill(leader, 1..=300, 1000);
        world.down.insert(away);
        world.run(600);
        world.fill(leader, 301..=350, 1000);
        world.input(leader, Input::CheckpointWanted(G1));
        world.run(5);
        let lacks = world.replica(leader).log_base > world.replica(away).last;
        assert_eq!(lacks, missed_ns == 0, "with {missed_ns}");
        world.start(away);
        world.run(30_000);
        assert_eq!(world.replica(away).installs > 0, missed_ns == 0, "with {missed_ns}");
        world.down.insert(next);
        world.fill(leader, 351..=360, 1000);
        world.start(next);
        world.assert_same_states();
    }
}

#[test]
fn s09_a_snapshot_of_the_last_entry_is_all_a_follower_needs() {
    let (mut world, leader) = World::taking_checkpoints();
    // It fits one window, and its first copy is rotten.
    world.chunks.rotten = 1;
    let away = others(leader)[0];
    world.fill(leader, 1..=20, 8);
    world.down.insert(away);
    world.fill(leader, 21..=120, 8);
    world.input(leader, Input::CheckpointWanted(G1));
    world.run(5);
    let last = world.replica(leader).last;
    assert!(world.replica(leader).checkpoint == last && world.replica(away).last < last);
    world.start(away);
    world.run(10_000);
    assert_eq!(world.replica(leader).last, last, "there was another entry");
    assert_eq!((world.replica(away).installs, world.replica(away).applied), (1, last));
    assert!(world.chunks.sent > 1, "nothing was rotten");
    world.assert_same_states();
}

#[test]
fn s08_a_newer_snapshot_takes_the_place_of_one_that_comes_in() {
    let (mut world, old) = World::taking_checkpoints();
    let [away, next] = others(old);
    world.fill(old, 1..=20, 1000);
    world.down.insert(away);
    world.fill(old, 21..=300, 1000);
    world.slow.insert(away, VecDeque::new());
    world.start(away);
    world.run(1000);
    let (first, half) = world.disk(away).state.staged().expect("a snapshot comes in");
    assert!(half > 0);
    // Who sends it is gone, and the next leader has another one.
    world.quicken(away);
    world.slow.insert(away, VecDeque::new());
    world.down.insert(old);
    world.run(8000);
    world.quicken(away);
    world.run(200);
    let leader = world.leader(G1);
    assert_eq!(leader, next);
    world.fill(leader, 301..=500, 1000);
    world.run(10_000);
    let replica = world.replica(away);
    assert!(replica.checkpoint > first.at.index && replica.installs > 0);
    assert_eq!(replica.applied, world.replica(leader).applied);
    assert!(world.disk(away).state.staged.is_none());
    world.start(old);
    world.run(1000);
    world.assert_same_states();
}

#[test]
fn s12_a_deposed_leader_answers_those_whose_writes_a_snapshot_has_overtaken() {
    let (mut world, old) = World::taking_checkpoints();
    world.fill(old, 1..=20, 1000);
    let [one, two] = others(old);
    world.down.extend([one, two]);
    world.ask(old, G1, 1, append(21, b"lost"));
    world.run(1);
    let away = world.replica(old).last;
    world.down = [old].into();
    world.start(one);
    world.start(two);
    world.run(6000);
    let leader = world.leader(G1);
    world.fill(leader, 21..=400, 1000);
    assert!(world.replica(leader).log_base > away);
    world.relink(old);
    world.run(10_000);
    assert_eq!(world.replies[&1], Answer::Lost);
    assert!(world.nodes[&old].is_idle() && world.replica(old).installs > 0);
    world.assert_same_states();
}

#[test]
fn s23_a_checkpoint_under_way_ends_with_the_install_that_overtakes_it() {
    let (mut world, leader) = World::taking_checkpoints();
    let away = others(leader)[0];
    world.fill(leader, 1..=40, 1000);
    world.slow.insert(away, VecDeque::new());
    world.input(away, Input::CheckpointWanted(G1));
    world.run(2);
    assert!(!world.disk(away).state.pending.is_empty(), "rows were handed out");
    // The node stays, its links are gone.
    world.down.insert(away);
    world.fill(leader, 41..=400, 1000);
    world.relink(away);
    for _ in 0..1000 {
        world.run(20);
        // The first answer is that of the checkpoint: it comes last.
        let held = world.slow.get_mut(&away).unwrap();
        let inputs: Vec<Input> = held.drain(1..).collect();
        inputs.into_iter().for_each(|input| world.input(away, input));
    }
    assert!(world.replica(away).installs > 0);
    world.assert_same_states();
    let installed = world.replica(away).checkpoint;
    world.fill(leader, 401..=500, 1000);
    assert_eq!(world.replica(away).checkpoint, installed, "the host has not taken the rows");
    world.quicken(away);
    world.fill(leader, 501..=600, 1000);
    assert!(world.replica(away).checkpoint > installed);
    world.restart_all();
    world.assert_same_states();
}

#[test]
fn r06_a_checkpoint_waits_for_the_log_to_be_durable() {
    let (mut world, leader) = World::taking_checkpoints();
    let slow = others(leader)[0];
    world.fill(leader, 1..=20, 1000);
    world.input(slow, Input::CheckpointWanted(G1));
    world.run(5);
    let before = world.replica(slow).checkpoint;
    assert!(before.0 > 20, "asked for, one is taken: {before}");
    world.stuck.insert(slow);
    for seq in 21..=30 {
        world.ask(leader, G1, seq, set(seq, 1000));
        world.run(2);
    }
    world.run(400);
    assert_eq!(world.replica(slow).applied, world.replica(leader).applied);
    assert!(world.replica(slow).durable < world.replica(slow).applied);
    world.input(slow, Input::CheckpointWanted(G1));
    world.run(20);
    assert_eq!(world.replica(slow).checkpoint, before);
    assert!(!world.disk(slow).state.pending.is_empty(), "all but the end is done");
    world.stuck.clear();
    world.ask(leader, G1, 31, set(31, 1000));
    world.run(50);
    assert!(world.replica(slow).checkpoint > before);
    // Of what is covered there is no second one.
    world.run(200);
    let count = |world: &World| world.disk(slow).state.snapshots.len();
    world.input(slow, Input::CheckpointWanted(G1));
    world.run(5);
    let taken = count(&world);
    world.input(slow, Input::CheckpointWanted(G1));
    world.run(5);
    assert_eq!(count(&world), taken);
}

/// The log's host asks for a checkpoint of a group that has nothing to take: what it keeps for followers that may
/// come back is in the way of all groups. Of what was there before a restart nobody knows the size.
#[test]
fn s07_a_log_that_is_in_the_way_is_kept_for_nobody() {
    let (mut world, leader) = World::taking_checkpoints();
    world.fill(leader, 1..=100, 100);
    world.run(62_000);
    let ask = |world: &mut World, node: NodeId| {
        let (base, covered) = (world.disk(node).base.index, world.replica(node).checkpoint);
        assert!(base.next() < covered, "nothing is kept: {base} {covered}");
        world.input(node, Input::CheckpointWanted(G1));
        world.run(5);
        let (base, replica) = (world.disk(node).base.index, world.replica(node));
        assert_eq!(replica.checkpoint, replica.last);
        assert!(base.next() >= replica.last, "node {node} keeps its log: {base} {}", replica.last);
    };
    ask(&mut world, leader);
    world.restart_all();
    others(leader).into_iter().for_each(|node| ask(&mut world, node));
    // What comes later is kept as ever.
    let leader = world.leader(G1);
    world.fill(leader, 101..=200, 100);
    world.run(62_000);
    let (base, covered) = (world.disk(leader).base.index, world.replica(leader).checkpoint);
    assert!(base < covered, "{base} {covered}");
    world.assert_same_states();
}

#[test]
fn an_idle_group_takes_one_checkpoint_after_a_while_and_no_more() {
    let (mut world, leader) = World::taking_checkpoints();
    world.fill(leader, 1..=5, 1000);
    world.run(50_000);
    let taken = |world: &World| -> usize {
        world.disks.values().map(|d| d[&G1].state.snapshots.len()).sum()
    };
    assert_eq!(taken(&world), 0);
    world.run(12_000);
    assert_eq!(taken(&world), 3);
    assert_eq!(world.replica(leader).dirty_keys, 0);
    world.run(130_000);
    assert_eq!(taken(&world), 3);
    world.fill(leader, 6..=6, 1000);
    world.run(50_000);
    assert_eq!(taken(&world), 3);
    world.run(12_000);
    assert_eq!(taken(&world), 6);
}

#[test]
fn one_checkpoint_of_a_node_is_under_way_at_a_time() {
    let mut world = World::taking(many_groups(6), Some(CheckpointConfig::default()));
    world.run(3000);
    let node = NodeId(1);
    world.slow.insert(node, VecDeque::new());
    let groups: Vec<GroupId> = world.config.groups.keys().copied().collect();
    for group in &groups {
        world.input(node, Input::CheckpointWanted(*group));
    }
    let mut order = Vec::new();
    for _ in 0..200 {
        world.run(1);
        let held = world.slow.get_mut(&node).unwrap();
        let held = std::mem::take(held);
        let of = |input: &Input| match input {
            Input::State { group, .. } => *group,
            other => panic!("{other:?}"),
        };
        assert!(held.iter().all(|input| of(input) == of(&held[0])), "two at a time: {held:?}");
        for input in held {
            if let Input::State { group, event: StateEvent::Checkpointed(_) } = &input {
                order.push(*group);
            }
            world.input(node, input);
        }
    }
    order.sort_unstable();
    assert_eq!(order, groups);
}

/// Clients wait until a start has applied again what it found; a checkpoint on the way would hold that up.
#[test]
fn a_start_takes_no_checkpoint_before_it_has_applied_the_log_that_it_found() {
    let (mut world, leader) = World::taking_checkpoints();
    let ids = (1..=3).map(NodeId);
    ids.clone().for_each(|id| drop(world.slow.insert(id, VecDeque::new())));
    world.fill(leader, 1..=400, 1000);
    let last = world.replica(leader).last;
    let taken = |world: &World, id| world.disk(id).state.snapshots.keys().last().copied();
    assert!(ids.clone().all(|id| taken(&world, id).is_none()), "a disk was not slow");
    world.slow.clear();
    world.restart_all();
    let leader = world.leader(G1);
    world.fill(leader, 401..=500, 1000);
    for id in ids {
        let mut all = world.disk(id).state.snapshots.keys();
        let first = all.next().expect("it takes them as ever behind that").at.index;
        assert!(first >= last && first.0 < last.0 + 2 * SMALL.align, "{first} behind {last}");
        assert!(all.next().is_some(), "and goes on");
    }
    world.assert_same_states();
}

#[test]
fn chunks_that_nobody_waits_for_change_nothing() {
    let (mut world, leader) = World::taking_checkpoints();
    let [one, _] = others(leader);
    let id = SnapshotId { at: EntryId { index: Index(900), ..EntryId::default() }, hash: 1 };
    for group in [G1, GroupId(77)] {
        let chunk = SnapshotChunk { group, id, offset: 0, bytes: Bytes::from_static(b"x") };
        world.input(one, Input::Chunk { from: leader, chunk });
    }
    let counters = world.nodes[&one].status(world.now).counters;
    assert!(counters.contains(&("snapshot_chunks_dropped", 2)), "{counters:?}");
    assert!(world.disk(one).state.staged.is_none());
}

#[test]
fn a_node_that_was_alone_for_long_starts_again() {
    let mut world = World::stopped(few_slots(), Some(SMALL), 0);
    world.start(NodeId(1));
    world.run(61_000);
    let taken = world.disks[&NodeId(1)].values().find(|disk| disk.state.checkpoint.is_some());
    assert!(taken.is_none(), "a checkpoint of nothing");
    world.start(NodeId(1));
}

//! A node's disk of maps: what was written is durable after a while, in order; a loss of power leaves a prefix.

use bytes::{Buf, BufMut, Bytes};
use raft_core::Restored;
use raft_core::effects::{Fetch, FetchResult, Write};
use raft_core::snapshot::{SnapCmd, SnapEvent, Snapshot, SnapshotId};
use raft_core::types::{Entry, EntryId, HardState};
use shard_core::checkpoint::{RowChange, StateCommand, StateEvent};
use shard_core::machine::{Machine, MachineLoader};
use shard_core::node::Input;
use shard_core::replica::Recovered;
use shard_core::{GroupId, NodeId};
use std::collections::{BTreeMap, VecDeque};
use xxhash_rust::xxh3::xxh3_64;

/// Checkpoints of one group of which the bytes are kept: a reader may be at an older one.
const STREAMS_KEPT: usize = 4;

/// A group's log.
#[derive(Clone, Debug, Default)]
struct Log {
    hard: HardState,
    /// The entry before the first.
    base: EntryId,
    entries: Vec<Entry>,
}

impl Log {
    fn write(&mut self, write: &Write) {
        self.hard = write.hard.unwrap_or(self.hard);
        if let Some(snapshot) = &write.install {
            self.base = snapshot.id.at;
            self.entries.clear();
        }
        if let Some(from) = write.truncate_from {
            let keep = from.0.saturating_sub(self.base.index.0 + 1);
            self.entries.truncate(keep as usize);
        }
        self.entries.extend(write.entries.iter().cloned());
    }

    fn compact(&mut self, upto: EntryId) {
        if upto.index > self.base.index {
            let count = (upto.index.0 - self.base.index.0) as usize;
            self.entries.drain(..count.min(self.entries.len()));
            self.base = upto;
        }
    }
}

/// A group's applied state as of its newest checkpoint.
#[derive(Clone, Debug, Default)]
struct State {
    rows: BTreeMap<Bytes, Bytes>,
    checkpoint: Option<Snapshot>,
    pending: Vec<RowChange>,
    streams: VecDeque<(SnapshotId, Bytes)>,
    staged: Option<(Snapshot, Vec<u8>)>,
}

impl State {
    fn keep(&mut self, id: SnapshotId, stream: Bytes) {
        self.streams.push_back((id, stream));
        if self.streams.len() > STREAMS_KEPT {
            self.streams.pop_front();
        }
    }

    fn commit(&mut self, mark: shard_core::checkpoint::CheckpointMark) -> Snapshot {
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
        let id = SnapshotId { at: mark.at, hash: xxh3_64(&stream) };
        let snapshot = Snapshot { id, bytes: stream.len() as u64, conf: mark.conf };
        self.keep(id, stream.into());
        self.checkpoint = Some(snapshot.clone());
        snapshot
    }

    fn stage(&mut self, snapshot: Snapshot, offset: u64, bytes: &[u8]) -> SnapEvent {
        let id = snapshot.id;
        let known = self.staged.take().filter(|(known, _)| known.id == id);
        let mut staged = known.map_or(Vec::new(), |(_, staged)| staged);
        if staged.len() as u64 == offset {
            staged.extend_from_slice(bytes);
        }
        let offset = staged.len() as u64;
        if offset == snapshot.bytes && xxh3_64(&staged) != id.hash {
            return SnapEvent::Corrupt { id };
        }
        self.staged = Some((snapshot, staged));
        SnapEvent::Received { id, offset }
    }

    fn install(&mut self, id: SnapshotId) {
        let (snapshot, stream) = self.staged.take().expect("what is installed is staged");
        assert!(snapshot.id == id && snapshot.bytes == stream.len() as u64, "half a snapshot");
        let mut stream = Bytes::from(stream);
        self.keep(id, stream.clone());
        self.rows.clear();
        self.pending.clear();
        while !stream.is_empty() {
            let (key, value) = (stream.get_u32() as usize, stream.get_u32() as usize);
            let key = stream.split_to(key);
            self.rows.insert(key, stream.split_to(value));
        }
        self.checkpoint = Some(snapshot);
    }

    fn load(&self, group: GroupId) -> Option<Machine> {
        self.checkpoint.as_ref()?;
        let mut loader = MachineLoader::new(group);
        for (key, value) in &self.rows {
            loader.row(key, value.clone()).expect("rows that a checkpoint wrote");
        }
        Some(loader.finish().expect("rows that a checkpoint wrote"))
    }
}

/// One group's part of a disk: what is durable, and the log as it will be.
#[derive(Clone, Debug, Default)]
struct Part {
    log: Log,
    newest: Log,
    state: State,
}

/// A step that is on its way to the disk.
#[derive(Clone, Debug)]
enum Step {
    Write(GroupId, Write),
    Compact(GroupId, EntryId),
    State(GroupId, StateCommand),
    /// All of a group, or all but term and vote.
    Forget(GroupId, bool),
}

/// A node's disk.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    parts: BTreeMap<GroupId, Part>,
    unsynced: VecDeque<Step>,
}

impl Disk {
    /// Takes writes, commands and compactions in the order that a node owes them.
    pub fn take(
        &mut self,
        writes: Vec<(GroupId, Write)>,
        states: Vec<(GroupId, StateCommand)>,
        compact: Vec<(GroupId, EntryId)>,
        forget: Vec<(GroupId, bool)>,
    ) {
        // What a group writes behind an install waits for it.
        let installs: BTreeMap<GroupId, _> = states
            .iter()
            .filter_map(|(group, command)| match command {
                StateCommand::Install(write) => Some((*group, write.token)),
                _ => None,
            })
            .collect();
        let (later, first): (Vec<_>, Vec<_>) = writes
            .into_iter()
            .partition(|(group, write)| installs.get(group).is_some_and(|at| write.token > *at));
        for (group, write) in first {
            self.write(group, write);
        }
        for (group, command) in states {
            if let StateCommand::Install(write) = &command {
                self.parts.entry(group).or_default().newest.write(write);
            }
            self.unsynced.push_back(Step::State(group, command));
        }
        for (group, write) in later {
            self.write(group, write);
        }
        for (group, upto) in compact {
            self.parts.entry(group).or_default().newest.compact(upto);
            self.unsynced.push_back(Step::Compact(group, upto));
        }
        for (group, voted) in forget {
            self.unsynced.push_back(Step::Forget(group, voted));
        }
    }

    fn write(&mut self, group: GroupId, write: Write) {
        self.parts.entry(group).or_default().newest.write(&write);
        self.unsynced.push_back(Step::Write(group, write));
    }

    /// Whether of that group there is anything but a term and a vote.
    pub fn has_more_than_a_vote(&self, group: GroupId) -> bool {
        self.parts.get(&group).is_some_and(|part| {
            let (log, state) = (&part.newest, &part.state);
            let logged = log.base != EntryId::default() || !log.entries.is_empty();
            logged || state.checkpoint.is_some() || !state.rows.is_empty() || state.staged.is_some()
        })
    }

    /// Whether something waits for a sync.
    pub fn is_dirty(&self) -> bool {
        !self.unsynced.is_empty()
    }

    /// How many steps wait.
    pub fn waiting(&self) -> usize {
        self.unsynced.len()
    }

    /// Makes the oldest `count` steps durable, and says what the node is told. Pieces of snapshots leave by
    /// `send`.
    pub fn sync(&mut self, count: usize, mut send: impl FnMut(NodeId, Piece)) -> Vec<Input> {
        let mut told = Vec::new();
        for _ in 0..count {
            let Some(step) = self.unsynced.pop_front() else { break };
            self.carry_out(step, &mut told, &mut send);
        }
        told
    }

    fn carry_out(
        &mut self,
        step: Step,
        told: &mut Vec<Input>,
        send: &mut dyn FnMut(NodeId, Piece),
    ) {
        match step {
            Step::Write(group, write) => {
                self.parts.entry(group).or_default().log.write(&write);
                told.push(Input::Persisted(vec![(group, write.token)]));
            }
            Step::Compact(group, upto) => self.parts.entry(group).or_default().log.compact(upto),
            Step::State(group, command) => self.state(group, command, told, send),
            Step::Forget(group, voted) => {
                let part = self.parts.remove(&group).unwrap_or_default();
                if voted {
                    let log = Log { hard: part.log.hard, ..Log::default() };
                    let part = Part { newest: log.clone(), log, state: State::default() };
                    self.parts.insert(group, part);
                }
                told.push(Input::Forgotten(group));
            }
        }
    }

    fn state(
        &mut self,
        group: GroupId,
        command: StateCommand,
        told: &mut Vec<Input>,
        send: &mut dyn FnMut(NodeId, Piece),
    ) {
        let part = self.parts.entry(group).or_default();
        let event = match command {
            StateCommand::Changes(rows) => {
                part.state.pending.extend(rows);
                StateEvent::Taken
            }
            StateCommand::Commit(mark) => StateEvent::Checkpointed(part.state.commit(mark)),
            StateCommand::Snapshot(SnapCmd::Send { peer, id, from, to }) => {
                let known = part.state.streams.iter().find(|(known, _)| *known == id);
                match known {
                    Some((_, stream)) => {
                        let bytes = stream.slice(from as usize..to as usize);
                        return send(peer, Piece { group, id, from, bytes });
                    }
                    None => StateEvent::Snapshot(SnapEvent::Failed { peer }),
                }
            }
            StateCommand::Snapshot(SnapCmd::Stop { .. }) => return,
            StateCommand::Snapshot(SnapCmd::Discard { id }) => {
                part.state.staged.take_if(|(snapshot, _)| snapshot.id == id);
                return;
            }
            StateCommand::Stage { snapshot, offset, bytes } => {
                StateEvent::Snapshot(part.state.stage(snapshot, offset, &bytes))
            }
            StateCommand::Install(write) => {
                let id = write.install.as_ref().expect("an install names a snapshot").id;
                part.state.install(id);
                part.log.write(&write);
                told.push(Input::Persisted(vec![(group, write.token)]));
                let machine = part.state.load(group).expect("it was installed");
                StateEvent::Installed { id, machine }
            }
        };
        told.push(Input::State { group, event });
    }

    /// What a group asks of its log.
    pub fn fetch(&self, group: GroupId, fetch: &Fetch) -> FetchResult {
        let Some(part) = self.parts.get(&group) else { return FetchResult::Gone };
        let log = &part.newest;
        let Some(from) = fetch.from.0.checked_sub(log.base.index.0 + 1) else {
            return FetchResult::Gone;
        };
        let mut bytes = 0;
        let mut entries = Vec::new();
        for entry in log.entries.iter().skip(from as usize) {
            if entry.id.index > fetch.to || bytes >= fetch.bytes_max {
                break;
            }
            bytes += entry.frame.len() as u64;
            entries.push(entry.clone());
        }
        match entries.is_empty() {
            true => FetchResult::Gone,
            false => FetchResult::Entries(entries),
        }
    }

    /// Power is lost: of what waits, the oldest `kept` steps are there, and nothing else.
    pub fn lose_power(&mut self, kept: usize) {
        self.sync(kept, |_, _| {});
        self.unsynced.clear();
        for part in self.parts.values_mut() {
            part.newest = part.log.clone();
            part.state.pending.clear();
        }
    }

    /// What a start finds.
    pub fn recovered(&self) -> BTreeMap<GroupId, Recovered> {
        let of = |group: GroupId, part: &Part| {
            let log = Restored::of_log(part.log.hard, &part.log.entries);
            let staged = part.state.staged.as_ref();
            let staged = staged.map(|(snapshot, bytes)| (snapshot.id, bytes.len() as u64));
            let checkpoint = part.state.checkpoint.clone();
            let raft = Restored { staged, ..log.compacted(part.log.base, checkpoint) };
            Recovered { raft, machine: part.state.load(group) }
        };
        self.parts.iter().map(|(group, part)| (*group, of(*group, part))).collect()
    }
}

/// Bytes of a snapshot that may leave.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Whose.
    pub group: GroupId,
    /// Of which.
    pub id: SnapshotId,
    /// The first byte.
    pub from: u64,
    /// They.
    pub bytes: Bytes,
}

//! When a replica takes a checkpoint of its state, and what it does with snapshots.
//!
//! A checkpoint is begun (the state is frozen, in constant time) when enough has changed, when enough log
//! was applied, when something has changed and a while has passed, or when the host asks for one. By the
//! first two it is begun right behind an entry at a round index: replicas that apply the same log then
//! take theirs at the same place, so that a snapshot that one of them sends can be continued by another.
//! Its rows are handed out once the node's turn comes to this group; what was frozen waits for that. The
//! `Commit` waits until the log is durable as far as the checkpoint goes (R6). None is begun that may not
//! find room on the disk (S19): it is still due, and begun once there is room.
//!
//! A snapshot that comes in is taken piece by piece, in order. Once it is whole, Raft replaces the log, and
//! the state machine is given up: both states at once might not fit into memory. The new one is
//! there when the host says that it is loaded. Nothing is applied in between (R26), so a replica that is made
//! leader then has no entry of its own term applied, and answers nothing that its state would have to tell.

use super::{Machine, Replica, ReplicaOutput, answer_all};
use crate::checkpoint::{CheckpointMark, SnapshotChunk, StateCommand, StateEvent};
use crate::shard_store::{Mutant, RowBudget, is_broken};
use crate::wire::Answer;
use raft_core::conf::Conf;
use raft_core::effects::{Effects, Write};
use raft_core::snapshot::{SnapEvent, Snapshot, SnapshotId};
use raft_core::types::{Entry, Index, Now};

/// Bytes of a snapshot that comes in, handed to the disk and not durable: what a leader lets go at once,
/// and again after it heard nothing.
pub const STAGED_BYTES_MAX: u64 = 4 << 20;

/// When checkpoints are taken, and in what steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointConfig {
    /// Bytes of changed keys and values that are worth one. Default 4 MiB.
    pub dirty_bytes_min: u64,
    /// As a share of all keys and values, if that is more: one part in so many. Default 20: a
    /// checkpoint writes anew every page that it changes, and the file has room for both.
    pub dirty_share: u64,
    /// Bytes of log applied since the last one, whatever they changed: what a restart reads again.
    /// Default 64 MiB.
    pub log_bytes_max: u64,
    /// The longest that something stays changed. Default 60 s.
    pub interval_ns: Now,
    /// Behind which indexes one is begun: the multiples of this. Default 64: an entry may carry a thousand
    /// commands.
    pub align: u64,
    /// What is handed out in one step. Default 128 rows of 256 KiB: requests wait for a step.
    pub step: RowBudget,
}

impl Default for CheckpointConfig {
    fn default() -> CheckpointConfig {
        CheckpointConfig {
            dirty_bytes_min: 4 << 20,
            dirty_share: 20,
            log_bytes_max: 64 << 20,
            interval_ns: 60_000_000_000,
            align: 64,
            step: RowBudget { rows: 128, bytes: 256 << 10 },
        }
    }
}

/// A replica's own checkpoints, and the snapshot that comes in.
#[derive(Debug)]
pub(super) struct Checkpoints {
    /// None: the host takes none.
    config: Option<CheckpointConfig>,
    /// The newest configuration that was applied, and its entry.
    conf: (Index, Conf),
    /// Where the last one was begun, or the state came from.
    frozen_at: Index,
    /// Frame bytes applied since.
    log_bytes: u64,
    /// The end of the log as it was found. Up to there none is begun because of what is applied.
    found_to: Index,
    /// When something was first seen to have changed since.
    dirty_since: Option<Now>,
    /// The host asked for one.
    wanted: bool,
    under_way: Option<(CheckpointMark, Stage)>,
    /// Rows were handed out and are not yet taken.
    untaken: bool,
    staging: Option<Staging>,
    /// The write of this one was handed out, and its state has not come yet.
    installing: Option<Snapshot>,
    installs: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// For the node's turn.
    Waits,
    Collects,
    /// For the log to be durable.
    Collected,
    Committed,
}

/// How far a snapshot that comes in was handed on.
#[derive(Clone, Copy, Debug)]
struct Staging {
    id: SnapshotId,
    /// Durable, when last looked at: where it falls, what came after it is lost.
    durable: u64,
    end: u64,
}

impl Checkpoints {
    pub(super) fn new(
        config: Option<CheckpointConfig>,
        conf: (Index, Conf),
        applied: Index,
        found_to: Index,
    ) -> Checkpoints {
        Checkpoints {
            config,
            conf,
            frozen_at: applied,
            log_bytes: 0,
            found_to,
            dirty_since: None,
            wanted: false,
            under_way: None,
            untaken: false,
            staging: None,
            installing: None,
            installs: 0,
        }
    }

    /// When one becomes due by time alone.
    pub(super) fn deadline(&self) -> Option<Now> {
        let config = self.config.filter(|_| self.is_free())?;
        self.dirty_since.map(|since| since.saturating_add(config.interval_ns))
    }

    /// Whether one may be begun: none is under way, and what is applied says who is in the group, which a
    /// replica that joins knows only from the entry on in which it came. No start would take another.
    fn is_free(&self) -> bool {
        let known = !self.conf.1.voters.is_empty();
        known && self.under_way.is_none() && self.installing.is_none()
    }

    fn stage(&self) -> Option<Stage> {
        self.under_way.as_ref().map(|(_, stage)| *stage)
    }

    /// Snapshots installed since the process began.
    pub(super) fn installs(&self) -> u64 {
        self.installs
    }

    /// The one whose state is on its way.
    pub(super) fn installing(&self) -> Option<&Snapshot> {
        self.installing.as_ref()
    }
}

impl Replica {
    /// Notes what was applied; begins a checkpoint if this is the place for one.
    pub(super) fn checkpoint_behind(&mut self, entry: &Entry, out: &mut ReplicaOutput) {
        let checkpoints = &mut self.checkpoints;
        if let Some(conf) = Conf::of_entry(entry) {
            checkpoints.conf = (entry.id.index, conf);
        }
        checkpoints.log_bytes += entry.frame.len() as u64;
        let Some(config) = checkpoints.config.filter(|_| checkpoints.is_free()) else { return };
        // A start is over sooner without one, and the first then covers all that was read again.
        if entry.id.index < checkpoints.found_to {
            return;
        }
        if !self.disk.has_room_for(self.machine.dirty()) {
            return;
        }
        let worth = match &self.machine {
            Machine::Shard(store) => {
                config.dirty_bytes_min.max(store.stats().data_bytes / config.dirty_share.max(1))
            }
            Machine::Master(_) => config.dirty_bytes_min,
        };
        let (dirty, log) = (self.machine.dirty().bytes, checkpoints.log_bytes);
        let due = dirty >= worth || log >= config.log_bytes_max;
        // Few large entries: the next round index may be far.
        let late = dirty / 2 >= worth || log / 2 >= config.log_bytes_max;
        if due && (late || entry.id.index.0.is_multiple_of(config.align.max(1))) {
            self.freeze(out);
        }
    }

    /// Begins a checkpoint that is due by time or asked for, and ends one as soon as the log is durable.
    pub(super) fn drive_checkpoint(&mut self, now: Now, out: &mut ReplicaOutput) {
        let Some(config) = self.checkpoints.config else { return };
        if self.checkpoints.is_free() {
            let checkpoints = &mut self.checkpoints;
            // A new state is dirty as a whole, but a checkpoint of nothing is none: no start would take it.
            if self.machine.dirty().any && self.applied.index > Index(0) {
                checkpoints.dirty_since.get_or_insert(now);
            }
            let late = |since: Now| since.saturating_add(config.interval_ns) <= now;
            // Of what is covered already there is nothing to take.
            checkpoints.wanted &= self.applied.index > checkpoints.frozen_at;
            let due = checkpoints.wanted || checkpoints.dirty_since.is_some_and(late);
            if due && self.disk.has_room_for(self.machine.dirty()) {
                self.freeze(out);
            }
        }
        let durable = self.raft.checkpointable();
        if let Some((mark, stage)) = &mut self.checkpoints.under_way
            && *stage == Stage::Collected
            && mark.at.index <= durable
        {
            *stage = Stage::Committed;
            out.state.push(StateCommand::Commit(mark.clone()));
        }
    }

    fn freeze(&mut self, out: &mut ReplicaOutput) {
        self.machine.freeze();
        let checkpoints = &mut self.checkpoints;
        checkpoints.frozen_at = self.applied.index;
        checkpoints.log_bytes = 0;
        checkpoints.dirty_since = None;
        checkpoints.wanted = false;
        let mark = CheckpointMark { at: self.applied, conf: checkpoints.conf.clone() };
        checkpoints.under_way = Some((mark, Stage::Waits));
        out.checkpoint_moved = true;
    }

    /// The log's host would get rid of some of it: a checkpoint is taken soon, unless one covers all, and
    /// what it covers is no longer kept for followers that may come back.
    pub fn want_checkpoint(&mut self) {
        self.checkpoints.wanted = true;
        self.raft.shorten_log();
    }

    /// Whether a checkpoint is begun and waits for the node's turn.
    pub fn checkpoint_waits(&self) -> bool {
        self.checkpoints.stage() == Some(Stage::Waits) && !self.checkpoints.untaken
    }

    /// Whether a checkpoint has had its turn, and is not over.
    pub fn checkpoint_runs(&self) -> bool {
        self.checkpoints.stage().is_some_and(|stage| stage != Stage::Waits)
    }

    /// It is the turn of the checkpoint that waits.
    pub fn run_checkpoint(&mut self, out: &mut ReplicaOutput) {
        if let Some((_, stage @ Stage::Waits)) = &mut self.checkpoints.under_way {
            *stage = Stage::Collects;
            self.hand_out_rows(out);
        }
    }

    fn hand_out_rows(&mut self, out: &mut ReplicaOutput) {
        let checkpoints = &mut self.checkpoints;
        let (Some(config), Some((_, stage @ Stage::Collects))) =
            (checkpoints.config, &mut checkpoints.under_way)
        else {
            return;
        };
        let collected = self.machine.collect(config.step);
        if collected.done {
            *stage = Stage::Collected;
        }
        checkpoints.untaken = true;
        out.state.push(StateCommand::Changes(collected.rows));
    }

    /// What the host tells of this group's state.
    pub fn state_event(&mut self, now: Now, event: StateEvent<Machine>, out: &mut ReplicaOutput) {
        match event {
            StateEvent::Taken => {
                self.checkpoints.untaken = false;
                self.hand_out_rows(out);
                out.checkpoint_moved = true;
            }
            StateEvent::Checkpointed(snapshot) => {
                // One that a snapshot has overtaken is old news to Raft.
                self.raft.checkpointed(now, snapshot);
                if self.checkpoints.stage() == Some(Stage::Committed) {
                    self.checkpoints.under_way = None;
                    out.checkpoint_moved = true;
                }
            }
            StateEvent::Snapshot(event) => {
                if let SnapEvent::Corrupt { id } = event {
                    self.checkpoints.staging.take_if(|staging| staging.id == id);
                }
                match event {
                    // It comes with its state, or not at all.
                    SnapEvent::Installed { .. } => {}
                    SnapEvent::Failed { .. }
                    | SnapEvent::Received { .. }
                    | SnapEvent::Corrupt { .. } => self.raft.snapshot(now, event),
                }
            }
            StateEvent::Installed { id, machine } => self.installed(now, id, machine, out),
        }
    }

    /// A piece of a snapshot has come. Whether it was the one that is wanted next: others are of no use,
    /// and come again.
    pub fn chunk(&mut self, chunk: SnapshotChunk, out: &mut ReplicaOutput) -> bool {
        let SnapshotChunk { id, offset, mut bytes, .. } = chunk;
        let (Some((wanted, durable)), Some(snapshot)) =
            (self.raft.incoming(), self.raft.incoming_snapshot())
        else {
            return false;
        };
        let known = self.checkpoints.staging.filter(|s| s.id == wanted && s.durable <= durable);
        let next = known.map_or(durable, |staging| staging.end.max(durable));
        let end = offset.saturating_add(bytes.len() as u64);
        // The sender may cut it in other places when it sends again. It begins again at what is durable
        // once it has waited for long: what was handed on behind that may have found no room.
        let covered = [next, durable].into_iter().find(|at| (offset..end).contains(at));
        let Some(from) = covered.filter(|_| id == wanted) else { return false };
        // What room there is, the log needs. The sender comes again.
        if self.disk.low {
            return false;
        }
        if end > snapshot.bytes || end - durable > STAGED_BYTES_MAX {
            return false;
        }
        bytes::Buf::advance(&mut bytes, (from - offset) as usize);
        let snapshot = snapshot.clone();
        out.state.push(StateCommand::Stage { snapshot, offset: from, bytes });
        self.checkpoints.staging = Some(Staging { id, durable, end });
        true
    }

    /// Whether a snapshot is on its way into the state, and writes of this group wait for it.
    pub fn is_installing(&self) -> bool {
        self.checkpoints.installing().is_some()
    }

    /// What Raft owes the disk.
    pub(super) fn write(&mut self, effects: &mut Effects, out: &mut ReplicaOutput) {
        let snaps = effects.snaps.drain(..).map(StateCommand::Snapshot);
        out.state.extend(snaps);
        out.compact = effects.compact.take().or(out.compact);
        let Some(write) = effects.write.take() else { return };
        let Write { install: Some(snapshot), .. } = &write else { return out.writes.push(write) };
        let checkpoints = &mut self.checkpoints;
        checkpoints.installing = Some(Snapshot::clone(snapshot));
        checkpoints.staging = None;
        // One that is not committed is of a log that is gone: the host drops it with the install.
        if checkpoints.stage().is_some_and(|stage| stage != Stage::Committed) {
            checkpoints.under_way = None;
        }
        out.checkpoint_moved = true;
        if !is_broken(Mutant::BothStates) {
            out.given_up = Some(std::mem::replace(&mut self.machine, Machine::new(self.group)));
        }
        out.state.push(StateCommand::Install(Box::new(write)));
    }

    /// The snapshot's state is here. What waited for entries that are in it
    /// cannot be told what they answered (S12).
    fn installed(&mut self, now: Now, id: SnapshotId, machine: Machine, out: &mut ReplicaOutput) {
        let expected = self.checkpoints.installing.take_if(|snapshot| snapshot.id == id);
        let Some(snapshot) = expected else { return };
        self.machine = machine;
        self.applied = id.at;
        let waiting = self.waiting.split_off(&id.at.index.next());
        for (_, waiting) in std::mem::replace(&mut self.waiting, waiting) {
            self.waiting_count -= waiting.clients.len();
            answer_all(&waiting.clients, &Answer::Lost, out);
        }
        self.reads.look_again();
        let checkpoints = &mut self.checkpoints;
        checkpoints.conf = snapshot.conf;
        checkpoints.frozen_at = id.at.index;
        checkpoints.log_bytes = 0;
        checkpoints.dirty_since = None;
        checkpoints.installs += 1;
        out.checkpoint_moved = true;
        self.raft.snapshot(now, SnapEvent::Installed { id });
    }
}

//! A node's disk: the log and the state, two files that act as one.
//!
//! **Invariants.**
//! - Nothing here waits for a disk: everything is asked of the files' own threads, whose answers come
//!   back through [`Disk::on_log`], [`Disk::on_state`] and [`Disk::on_loaded`].
//! - A snapshot is installed over both files in this order (`docs/disk-format.md`): the group's writes
//!   so far are durable, and so is the term that it was accepted in (R3); the state is the snapshot's,
//!   with a note that the log is not; the log begins after the snapshot; the note is gone; then, and no
//!   sooner, the write counts as durable. A crash anywhere leaves the old state or the new one, and the
//!   next start finishes what was begun (scenarios S5, P8).
//! - A group is deleted in this order: an install that is under way ends; the state has nothing of it; the log has
//!   nothing of it, or its term and vote alone. Who asked for it has noted that before
//!   ([`shard_core::kept`]), so a start after a crash asks for it again. Rows are deleted in bounded steps, in the
//!   background.
//! - What the group writes after the snapshot is held back until then, in order. Its core bounds it.
//! - The state that a snapshot takes the place of is dropped before the new one is loaded: never are both in memory.

use crate::background;
use crate::disk_space::{DiskSpace, Watch};
use crate::loading::load_unless;
use crate::log_store::{LogEvent, LogStats, LogStore};
use crate::snapshot_bytes::SnapshotBytes;
use crate::state_store::{StateStats, StateStore, StateStoreEvent};
use raft_core::effects::{Fetch, Write};
use raft_core::snapshot::SnapshotId;
use raft_core::types::{EntryId, GroupId, WriteToken};
use shard_core::checkpoint::{OutgoingChunk, StateCommand, StateEvent};
use shard_core::machine::Machine;
use shard_core::node::Input;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use tokio::sync::mpsc;

/// A state machine that was loaded from a snapshot's rows, or a sentence that says why it cannot be.
pub type Loaded = (GroupId, SnapshotId, Result<Machine, String>);

/// What the disk has for the worker.
#[derive(Debug)]
pub enum Happened {
    /// For the node.
    Input(Input),
    /// For a link.
    Send(OutgoingChunk),
}

/// Both files.
pub struct Disk {
    log: LogStore,
    state: Arc<StateStore>,
    space: Arc<DiskSpace>,
    _watch: Watch,
    loaded: mpsc::Sender<Loaded>,
    /// Threads that load states, or drop them.
    loaders: Vec<JoinHandle<()>>,
    /// What they load is not wanted any more.
    stops: Arc<AtomicBool>,
    /// States of groups whose install or deletion is about to be asked for.
    given_up: BTreeMap<GroupId, Machine>,
    /// The newest write of each group that the log was given, and that it has reported.
    tokens: BTreeMap<GroupId, Tokens>,
    installs: BTreeMap<GroupId, Install>,
    /// What is being deleted, and whether term and vote stay.
    forgetting: BTreeMap<GroupId, bool>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tokens {
    given: WriteToken,
    durable: WriteToken,
}

/// A snapshot on its way into both files.
struct Install {
    id: SnapshotId,
    write: Write,
    /// The state so far: to drop it takes as long as it has keys, so the thread that loads does.
    given_up: Option<Machine>,
    step: Step,
    /// What the group writes behind it.
    held: Vec<Write>,
    compact: Option<EntryId>,
}

/// What an install waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The group's earlier writes.
    Draining,
    /// Term and vote that it came with.
    HardState,
    /// The state's flip.
    Flipping,
    /// The log's reset.
    Resetting,
    /// That the note is gone.
    Settling,
    /// The state machine.
    Loading,
}

impl Disk {
    /// `loaded` gets what is loaded after the start; the worker gives it to [`Disk::on_loaded`].
    pub fn new(
        log: LogStore,
        state: StateStore,
        loaded: mpsc::Sender<Loaded>,
        (space, watch): (Arc<DiskSpace>, Watch),
    ) -> Disk {
        Disk {
            log,
            state: Arc::new(state),
            space,
            _watch: watch,
            loaded,
            loaders: Vec::new(),
            stops: Arc::default(),
            given_up: BTreeMap::new(),
            tokens: BTreeMap::new(),
            installs: BTreeMap::new(),
            forgetting: BTreeMap::new(),
        }
    }

    /// Queues writes of entries, terms and votes.
    pub fn submit(&mut self, writes: Vec<(GroupId, Write)>) {
        let mut now = Vec::with_capacity(writes.len());
        for (group, write) in writes {
            match self.installs.get_mut(&group) {
                Some(install) if install.step != Step::Loading => install.held.push(write),
                Some(_) | None => {
                    self.tokens.entry(group).or_default().given = write.token;
                    now.push((group, write));
                }
            }
        }
        if !now.is_empty() {
            self.log.submit(now);
        }
    }

    /// The group's log up to `base` is not needed any more.
    pub fn compact(&mut self, group: GroupId, base: EntryId) {
        match self.installs.get_mut(&group) {
            Some(install) if install.step != Step::Loading => install.compact = Some(base),
            Some(_) | None => self.log.compact(group, base),
        }
    }

    /// Deletes all of a group, or all but term and vote. Nothing more of it may be asked for before it is
    /// answered by [`Input::Forgotten`].
    pub fn forget(&mut self, group: GroupId, voted: bool) {
        self.forgetting.insert(group, voted);
        // Half an install would be finished by a start, for nobody.
        if !self.installs.contains_key(&group) {
            self.state.forget(group);
        }
    }

    /// Asks for entries.
    pub fn fetch(&self, group: GroupId, fetch: Fetch) {
        self.log.fetch(group, fetch);
    }

    /// Takes the state of a group whose install is asked for next.
    pub fn give_up(&mut self, group: GroupId, machine: Machine) {
        self.given_up.insert(group, machine);
    }

    /// Does what is owed of a group's state.
    /// What is answered at once is returned.
    #[must_use]
    pub fn state(&mut self, group: GroupId, command: StateCommand) -> Option<Input> {
        match command {
            StateCommand::Changes(changes) => self.state.changes(group, changes),
            StateCommand::Commit(mark) => self.state.commit(group, mark),
            StateCommand::Snapshot(command) => {
                let event = self.state.snapshot(group, command)?;
                return Some(Input::State { group, event: StateEvent::Snapshot(event) });
            }
            StateCommand::Stage { snapshot, offset, bytes } => {
                self.state.stage(group, snapshot, offset, bytes);
            }
            StateCommand::Install(write) => {
                let snapshot = write.install.as_ref().expect("an install names its snapshot");
                let install = Install {
                    id: snapshot.id,
                    write: *write,
                    given_up: self.given_up.remove(&group),
                    step: Step::Draining,
                    held: Vec::new(),
                    compact: None,
                };
                let before = self.installs.insert(group, install);
                assert!(before.is_none(), "the core installs one snapshot at a time");
                self.drained(group);
            }
        }
        None
    }

    /// Takes what the log reports.
    ///
    /// # Errors
    /// If the log has failed: the node has to stop.
    pub fn on_log(&mut self, event: LogEvent, out: &mut Vec<Happened>) -> Result<(), String> {
        let input = match event {
            LogEvent::Persisted(tokens) => {
                let mut told = Vec::with_capacity(tokens.len());
                for (group, token) in tokens {
                    if !self.persisted(group, token) {
                        told.push((group, token));
                    }
                }
                Input::Persisted(told)
            }
            LogEvent::Fetched { group, id, result } => Input::Fetched { group, id, result },
            LogEvent::CheckpointWanted(group) => Input::CheckpointWanted(group),
            LogEvent::Forgotten(group) => {
                self.forgetting.remove(&group);
                // A replica that comes back counts its writes anew.
                self.tokens.remove(&group);
                Input::Forgotten(group)
            }
            LogEvent::Failed(error) => return Err(error),
        };
        out.push(Happened::Input(input));
        Ok(())
    }

    /// Takes note of a durable write. Whether it was a step of an install, of which the core knows
    /// nothing.
    fn persisted(&mut self, group: GroupId, token: WriteToken) -> bool {
        self.tokens.entry(group).or_default().durable = token;
        let Some(install) = self.installs.get_mut(&group) else { return false };
        match install.step {
            Step::Draining => {
                self.drained(group);
                false
            }
            Step::HardState => {
                install.step = Step::Flipping;
                self.state.flip(group, install.id);
                true
            }
            Step::Resetting => {
                install.step = Step::Settling;
                self.state.installed(group);
                true
            }
            Step::Flipping | Step::Settling => true,
            Step::Loading => false,
        }
    }

    /// Goes on with an install once the group's earlier writes are durable.
    fn drained(&mut self, group: GroupId) {
        let Tokens { given, durable } = self.tokens.get(&group).copied().unwrap_or_default();
        let Some(install) = self.installs.get_mut(&group).filter(|_| durable >= given) else {
            return;
        };
        if install.write.hard.is_none() {
            install.step = Step::Flipping;
            return self.state.flip(group, install.id);
        }
        install.step = Step::HardState;
        let write = &install.write;
        let hard = Write {
            token: write.token,
            hard: write.hard,
            truncate_from: None,
            install: None,
            entries: Default::default(),
        };
        self.log.submit(vec![(group, hard)]);
    }

    /// Takes what the state reports.
    ///
    /// # Errors
    /// If the state has failed: the node has to stop.
    pub fn on_state(
        &mut self,
        event: StateStoreEvent,
        out: &mut Vec<Happened>,
    ) -> Result<(), String> {
        let (group, event) = match event {
            StateStoreEvent::Taken(group) => (group, StateEvent::Taken),
            StateStoreEvent::Checkpointed(group, snapshot) => {
                (group, StateEvent::Checkpointed(snapshot))
            }
            StateStoreEvent::Snapshot(group, event) => (group, StateEvent::Snapshot(event)),
            StateStoreEvent::Chunk(chunk) => {
                out.push(Happened::Send(chunk));
                return Ok(());
            }
            StateStoreEvent::Flipped(group, id) => {
                if let Some(install) = self.installs.get_mut(&group)
                    && install.step == Step::Flipping
                    && install.id == id
                {
                    install.step = Step::Resetting;
                    self.log.submit(vec![(group, install.write.clone())]);
                }
                return Ok(());
            }
            StateStoreEvent::Settled(group) => return self.settled(group, out),
            StateStoreEvent::Forgotten(group) => {
                match self.forgetting.get(&group) {
                    Some(true) => self.log.forget_all_but_vote(group),
                    Some(false) => self.log.forget(group),
                    None => {}
                }
                return Ok(());
            }
            StateStoreEvent::Cleaned => return Ok(()),
            StateStoreEvent::Failed(error) => return Err(error),
        };
        out.push(Happened::Input(Input::State { group, event }));
        Ok(())
    }

    /// Both files have the snapshot: the write is durable, and its state is loaded by a thread of its
    /// own.
    fn settled(&mut self, group: GroupId, out: &mut Vec<Happened>) -> Result<(), String> {
        let settling = |install: &&mut Install| install.step == Step::Settling;
        let Some(install) = self.installs.get_mut(&group).filter(settling) else { return Ok(()) };
        install.step = Step::Loading;
        let id = install.id;
        out.push(Happened::Input(Input::Persisted(vec![(group, install.write.token)])));
        let (held, given_up) = (std::mem::take(&mut install.held), install.given_up.take());
        let compact = install.compact.take();
        self.submit(held.into_iter().map(|write| (group, write)).collect());
        if let Some(base) = compact {
            self.compact(group, base);
        }
        let (state, loaded) = (self.state.clone(), self.loaded.clone());
        let stops = self.stops.clone();
        let started = self.on_a_thread("state-loader", move || {
            drop(given_up);
            let machine =
                load_unless(state.checkpoints(), group, &stops).map_err(|error| error.to_string());
            // Released before anybody hears: whoever closes the file does not wait for this thread.
            drop(state);
            // The receiver goes with the worker.
            let _ = loaded.blocking_send((group, id, machine));
        });
        started.map_err(|error| format!("cannot start a thread to load state: {error}"))
    }

    fn on_a_thread(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.loaders.retain(|loader| !loader.is_finished());
        self.loaders.push(background::spawn(name, work)?);
        Ok(())
    }

    /// Drops a state where it holds up nobody, or a replica: that takes as long as it has keys and entries.
    pub fn drop_elsewhere(&mut self, held: impl Send + 'static) {
        // Without a thread it is dropped here.
        let _ = self.on_a_thread("state-dropper", move || drop(held));
    }

    /// Takes a state machine that was loaded.
    ///
    /// # Errors
    /// If it could not be: the node has to stop.
    pub fn on_loaded(&mut self, loaded: Loaded, out: &mut Vec<Happened>) -> Result<(), String> {
        let (group, id, machine) = loaded;
        self.installs.remove(&group);
        if self.forgetting.contains_key(&group) {
            self.state.forget(group);
            if let Ok(machine) = machine {
                self.drop_elsewhere(machine);
            }
            return Ok(());
        }
        let event = StateEvent::Installed { id, machine: machine? };
        out.push(Happened::Input(Input::State { group, event }));
        Ok(())
    }

    /// Counters since the start, of the log and of the state.
    pub fn stats(&self) -> (LogStats, StateStats) {
        (self.log.stats(), self.state.stats())
    }

    /// What waits to be sent of snapshots.
    pub fn outgoing(&self) -> &SnapshotBytes {
        self.state.outgoing()
    }

    /// What room there is.
    pub fn space(&self) -> &DiskSpace {
        &self.space
    }

    /// Writes what was asked for and closes both files. The next start needs no repair.
    pub fn close(self) -> Result<(), String> {
        self.space.stop_waiting();
        self.stops.store(true, Ordering::Relaxed);
        let log = self.log.close();
        for loader in self.loaders {
            loader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        let state = Arc::into_inner(self.state).map_or(Ok(()), StateStore::close);
        log.and(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loading::StateError;
    use crate::state_store::StateStoreConfig;
    use raft_core::conf::Conf;
    use raft_core::types::{Index, NodeId, Term};
    use redb::backends::InMemoryBackend;
    use shard_core::checkpoint::CheckpointMark;
    use shard_core::shard_store::RowBudget;

    #[test]
    fn a_state_that_is_loaded_when_the_node_stops_is_not_waited_for() {
        let (group, (sender, events)) = (GroupId(1), std::sync::mpsc::channel());
        let (state, _) = StateStore::open_backend(
            InMemoryBackend::new(),
            StateStoreConfig::default(),
            move |event| sender.send(event).unwrap_or(()),
        )
        .unwrap();
        let mut machine = Machine::new(group);
        machine.freeze();
        state.changes(group, machine.collect(RowBudget { rows: 9, bytes: 999 }).rows);
        let at = EntryId { index: Index(1), term: Term(1) };
        let conf = (Index(0), Conf::of_voters(vec![NodeId(1)]));
        state.commit(group, CheckpointMark { at, conf });
        let committed = |event| matches!(event, StateStoreEvent::Checkpointed(..));
        assert!(events.iter().take(2).any(committed));
        let stops = AtomicBool::new(false);
        assert!(load_unless(state.checkpoints(), group, &stops).is_ok());
        stops.store(true, Ordering::Relaxed);
        assert!(matches!(
            load_unless(state.checkpoints(), group, &stops),
            Err(StateError::Stopped)
        ));
        state.close().unwrap();
    }
}

//! A state that was opened and can be read, and is as it was: what redb writes when it opens a file is held
//! back until the start is known to go on ([`crate::held_back`]).

use super::format::{Fault, GROUPS, GroupRow, Home, PARTS, ROWS};
use super::open::{self, Found, LAYOUT};
use super::rows::{self, Stopped};
use super::{
    Counters, LoadError, QUEUE_MAX, READS_MAX, Reporter, StateStore, StateStoreConfig,
    StateStoreError, StateStoreEvent, Storage, StoredGroup, streams, writer,
};
use crate::background;
use crate::data_dir::Identity;
use crate::last_words::At;
use crate::opened_file::{self, OpenedFile};
use crate::snapshot_bytes::{OUTGOING_BYTES_MAX, SnapshotBytes};
use crate::storage::OpenStorage;
use raft_core::types::GroupId;
use redb::{Database, ReadableDatabase, StorageBackend};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};

/// The state, which was not written yet.
pub struct OpenedState {
    storage: Storage,
    file: OpenedFile,
    found: Found,
    config: StateStoreConfig,
}

impl OpenedState {
    /// Opens the state, which must be `owner`'s or nobody's, or creates it. redb verifies the whole file, which
    /// `storage` opens. One that was there stays as it was.
    pub fn read(
        (path, owner): (&Path, &Identity),
        storage: &OpenStorage,
        config: StateStoreConfig,
    ) -> Result<OpenedState, StateStoreError> {
        let _at = At::file("state", path);
        let file = OpenedFile::read(path, config.must_exist, owner, storage, LAYOUT);
        let mut file = file.map_err(|unopened| StateStoreError::unopened(path, unopened))?;
        let (found, owned) = open::scan(file.database(), path, Some(owner))?;
        if !owned {
            file.will_belong_to(owner);
        }
        let storage = Storage { name: path.to_owned(), path: Some(path.to_owned()) };
        Ok(OpenedState { storage, file, found, config })
    }

    /// The same over any storage, whosever it is; an empty one is a new state.
    pub(super) fn read_backend(
        backend: impl StorageBackend,
        config: StateStoreConfig,
    ) -> Result<OpenedState, StateStoreError> {
        let name = opened_file::backend_name();
        let file = OpenedFile::read_backend(backend, config.must_exist, LAYOUT);
        let file = file.map_err(|unopened| StateStoreError::unopened(&name, unopened))?;
        let (found, _) = open::scan(file.database(), &name, None)?;
        Ok(OpenedState { storage: Storage { name, path: None }, file, found, config })
    }

    /// What there is of each group.
    pub fn groups(&self) -> BTreeMap<GroupId, StoredGroup> {
        self.found.stored()
    }

    /// The checkpoints in it.
    pub fn checkpoints(&self) -> Checkpoints<'_> {
        Checkpoints { database: self.file.database(), name: &self.storage.name }
    }

    /// Goes on with it: from now on it is written. `events` is called from the store's threads, one call at a time;
    /// it must neither block for long nor call the store.
    pub fn start(
        self,
        events: impl Fn(StateStoreEvent) + Send + Sync + 'static,
    ) -> Result<StateStore, StateStoreError> {
        let OpenedState { storage, file, mut found, config } = self;
        let _at = At::file("state", &storage.name);
        let unopened = |unopened| StateStoreError::unopened(&storage.name, unopened);
        let mut database = file.go_on(config.cache_bytes).map_err(unopened)?;
        let failed = |fault| StateStoreError::of(&storage.name, fault);
        open::compact(&mut database, &storage, &config, &mut found).map_err(failed)?;
        let database = Arc::new(database);
        let counters = Arc::new(Counters::default());
        let reporter = Arc::new(Reporter { events: Box::new(events), failed: Mutex::new(None) });
        let (commands, queue) = sync_channel(QUEUE_MAX);
        let (reads, waiting) = sync_channel(READS_MAX);
        let writer = writer::Writer::new(
            database.clone(),
            storage.clone(),
            found,
            counters.clone(),
            reporter.clone(),
        );
        let outgoing = SnapshotBytes::new(OUTGOING_BYTES_MAX);
        let reader = streams::Reader {
            outgoing: outgoing.clone(),
            database: database.clone(),
            storage: storage.clone(),
            config,
            counters: counters.clone(),
            reporter: reporter.clone(),
        };
        let io_error = |source| StateStoreError::Io { path: storage.name.clone(), source };
        let reader = background::spawn("state-reader", move || reader.run(&waiting));
        let reader = reader.map_err(io_error)?;
        let writer = background::spawn("state-writer", move || writer.run(&queue));
        let writer = writer.map_err(io_error)?;
        Ok(StateStore {
            storage: storage.clone(),
            database,
            commands,
            reads,
            writer,
            reader,
            counters,
            reporter,
            outgoing,
        })
    }
}

/// The groups' newest checkpoints.
#[derive(Clone, Copy)]
pub struct Checkpoints<'a> {
    pub(super) database: &'a Database,
    pub(super) name: &'a Path,
}

impl Checkpoints<'_> {
    /// Gives every row of the group's newest checkpoint, in the order of the keys, and verifies that
    /// these are all of them. Reads on the calling thread. Without a checkpoint there are no rows.
    pub fn load<E>(
        &self,
        group: GroupId,
        row: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), LoadError<E>> {
        let _at = At::file("state", self.name);
        self.read_rows(group, row).map_err(|stopped| match stopped {
            Stopped::Fault(fault) => LoadError::Store(StateStoreError::of(self.name, fault)),
            Stopped::Refused(error) => LoadError::Refused(error),
        })
    }

    fn read_rows<E>(
        &self,
        group: GroupId,
        row: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), Stopped<E>> {
        let transaction = self.database.begin_read()?;
        let Some(bytes) = transaction.open_table(GROUPS)?.get(group.0)? else { return Ok(()) };
        let known = GroupRow::decode(group, bytes.value())?;
        let (rows, parts) = (transaction.open_table(ROWS)?, transaction.open_table(PARTS)?);
        let home = Home { group, generation: known.generation };
        let found = rows::for_each(&rows, &parts, home, row)?;
        let (found, known) = ((found.hash, found.bytes), (known.totals.hash, known.totals.bytes));
        if found != known {
            let place = format!("the rows of group {group}");
            let what = "they do not come to size and hash of the checkpoint";
            return Err(Fault::Damaged { place, what }.into());
        }
        Ok(())
    }
}

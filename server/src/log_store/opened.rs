//! A log that was opened and read, and is as it was: what redb writes when it opens a file is held back until
//! the start is known to go on ([`crate::held_back`]).

use super::collect::install_frame;
use super::index::GroupLog;
use super::recovery::{self, LAYOUT, Recovered};
use super::wal::Place;
use super::{Counters, LogEvent, LogStore, LogStoreConfig, LogStoreError, database_error, writer};
use crate::data_dir::Identity;
use crate::disk_space::taken_by;
use crate::last_words::At;
use crate::opened_file::{self, OpenedFile};
use crate::storage::OpenStorage;
use raft_core::Restored;
use raft_core::types::{EntryId, GroupId};
use redb::StorageBackend;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use tracing::info;

/// The log, which was not written yet.
pub struct OpenedLog {
    name: PathBuf,
    /// It is a file.
    path: Option<PathBuf>,
    file: OpenedFile,
    recovered: Recovered,
    config: LogStoreConfig,
}

impl OpenedLog {
    /// Opens the log, or creates it, and reads it once from its beginning. `storage` opens the file, which must be
    /// `owner`'s or nobody's. A file that was there stays as it was.
    pub fn read(
        (path, owner): (&Path, &Identity),
        storage: &OpenStorage,
        config: LogStoreConfig,
    ) -> Result<OpenedLog, LogStoreError> {
        let _at = At::file("log", path);
        let file = OpenedFile::read(path, config.must_exist, owner, storage, LAYOUT);
        let mut file = file.map_err(|unopened| LogStoreError::unopened(path, unopened))?;
        let (recovered, owned) = recovery::scan(file.database(), path, Some(owner))?;
        if !owned {
            file.will_belong_to(owner);
        }
        let (name, path) = (path.to_owned(), Some(path.to_owned()));
        Ok(OpenedLog { name, path, file, recovered, config })
    }

    /// The same over any storage, whosever it is; an empty one is a new log.
    pub(super) fn read_backend(
        backend: impl StorageBackend,
        config: LogStoreConfig,
    ) -> Result<OpenedLog, LogStoreError> {
        let name = opened_file::backend_name();
        let file = OpenedFile::read_backend(backend, config.must_exist, LAYOUT);
        let file = file.map_err(|unopened| LogStoreError::unopened(&name, unopened))?;
        let (recovered, _) = recovery::scan(file.database(), &name, None)?;
        Ok(OpenedLog { name, path: None, file, recovered, config })
    }

    /// What replicas are told of their logs. `installing`: the groups whose state has taken a snapshot, up to these
    /// entries, without being sure that the log knows; it will once it is gone on with.
    pub fn groups(
        &self,
        installing: &BTreeMap<GroupId, EntryId>,
    ) -> Result<BTreeMap<GroupId, Restored>, LogStoreError> {
        let Recovered { index, next_seq, position, .. } = &self.recovered;
        let mut groups = recovery::restored(index);
        for (group, at) in installing {
            let mut log = index.only(*group);
            let nothing = GroupLog::default();
            let frame = install_frame(*group, log.get(*group).unwrap_or(&nothing), *at);
            let Some(frame) = frame else { continue };
            let place = Place { seq: *next_seq, offset: 0 };
            log.log_frame(&frame, place, *position)
                .map_err(|what| LogStoreError::unfinished(&self.name, &what))?;
            groups.append(&mut recovery::restored(&log));
        }
        Ok(groups)
    }

    /// Goes on with it: from now on it is written. `installing` as in [`OpenedLog::groups`]: the log knows when this
    /// returns. `events` is called from the log's threads and must not block for long.
    pub fn start(
        self,
        installing: &BTreeMap<GroupId, EntryId>,
        events: impl Fn(LogEvent) + Send + Sync + 'static,
    ) -> Result<LogStore, LogStoreError> {
        let OpenedLog { name, path, file, recovered, config } = self;
        let _at = At::file("log", &name);
        let failed = |source| database_error(&name, source);
        let size = file.len();
        let unopened = |unopened| LogStoreError::unopened(&name, unopened);
        let mut database = file.go_on(config.cache_bytes).map_err(unopened)?;
        // More than half of what it takes of the disk is free.
        let taken = path.as_deref().map_or(size, taken_by);
        let used = recovered.position + recovered.position / 4;
        if taken > config.collect_bytes_min && taken / 2 > used {
            database.compact().map_err(|source| failed(source.into()))?;
        }
        let counters = Arc::new(Counters::default());
        let mut writer = writer::Writer::new(
            database,
            name.clone(),
            recovered,
            &config,
            counters.clone(),
            Arc::new(events),
        );
        writer
            .finish_installs(installing)
            .map_err(|error| LogStoreError::unfinished(&name, &error))?;
        let (commands, queue) = channel();
        let writer = std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || writer.run(&queue))
            .map_err(|source| LogStoreError::Io { path: name.clone(), source })?;
        if let Some(Ok(after)) = path.as_ref().map(std::fs::metadata)
            && after.len() < size
        {
            let (path, back) = (name.display(), size - after.len());
            info!(%path, back, "gave free space of the log back, in bytes");
        }
        Ok(LogStore { path, commands, writer, counters })
    }
}

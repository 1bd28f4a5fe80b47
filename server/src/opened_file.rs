//! A redb file that was opened to be read, and is as it was until the start is known to go on: what log and state
//! have in common.
//!
//! redb verifies the checksums of all pages when it opens one here. That is done with a small cache, and so is the
//! reading: each page is read once, and with little memory, which stays in the processor's own caches, that
//! takes two thirds of the time. Whoever goes on with the file gets it opened anew, with the cache that it is to have.

use crate::data_dir::Identity;
use crate::fail_stop::FailStop;
use crate::held_back::HeldBack;
use crate::owner;
use crate::storage::{self, OpenStorage, Unopened};
use redb::backends::InMemoryBackend;
use redb::{Builder, Database, StorageBackend};
use std::path::{Path, PathBuf};

/// redb's cache for a file that is read once, in bytes.
pub(crate) const READ_CACHE_BYTES: usize = 256 << 10;

/// What files of one kind have.
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    /// The number of their format.
    pub(crate) format: u64,
    /// Makes the tables and writes the format's number, unless they are there.
    pub(crate) make: fn(&Database) -> Result<(), redb::Error>,
}

/// One file.
pub(crate) struct OpenedFile {
    layout: Layout,
    backing: Backing,
    database: Database,
    /// Whose it will be, if it is nobody's.
    claim: Option<Identity>,
}

/// What the database is over.
enum Backing {
    Held(HeldBack),
    /// There is no file, and none is made before all that is there is known to be sound: it is an empty one in memory.
    Missing {
        path: PathBuf,
        owner: Identity,
        storage: OpenStorage,
    },
}

/// Makes an empty one, which is the owner's, unless there is one.
pub(crate) fn create(
    path: &Path,
    must_exist: bool,
    owner: &Identity,
    layout: Layout,
) -> Result<(), Unopened> {
    storage::prepare_file(path, must_exist, |unfinished| {
        fill(&Database::create(unfinished)?, owner, layout)
    })
}

/// Puts into an empty database what a new file has.
fn fill(database: &Database, owner: &Identity, layout: Layout) -> Result<(), redb::Error> {
    (layout.make)(database)?;
    owner::claim(database, owner, layout.format)
}

impl OpenedFile {
    /// Opens the file. redb verifies the whole of it. It stays as it was; one that is missing is made when it is gone on
    /// with.
    pub(crate) fn read(
        path: &Path,
        must_exist: bool,
        owner: &Identity,
        storage: &OpenStorage,
        layout: Layout,
    ) -> Result<OpenedFile, Unopened> {
        if storage::is_there(path, must_exist)? {
            return OpenedFile::over(storage.open(path).map_err(Unopened::Io)?, layout);
        }
        let memory = Builder::new().create_with_backend(InMemoryBackend::new());
        let database = memory.map_err(Unopened::by)?;
        fill(&database, owner, layout).map_err(Unopened::Database)?;
        let (path, owner, storage) = (path.to_owned(), owner.clone(), storage.clone());
        let backing = Backing::Missing { path, owner, storage };
        Ok(OpenedFile { layout, backing, database, claim: None })
    }

    /// The same over any storage, whosever it is; an empty one gets its tables.
    pub(crate) fn read_backend(
        backend: impl StorageBackend,
        must_exist: bool,
        layout: Layout,
    ) -> Result<OpenedFile, Unopened> {
        if must_exist && backend.len().is_ok_and(|len| len == 0) {
            return Err(Unopened::Missing);
        }
        let opened = OpenedFile::over(FailStop::new(backend), layout)?;
        (layout.make)(&opened.database).map_err(Unopened::Database)?;
        Ok(opened)
    }

    fn over(backend: FailStop, layout: Layout) -> Result<OpenedFile, Unopened> {
        let held = HeldBack::new(backend).map_err(Unopened::Io)?;
        let mut builder = Builder::new();
        builder.set_cache_size(READ_CACHE_BYTES);
        // A plain open trusts a file that was closed cleanly and may panic on a damaged one.
        builder.set_check_integrity_on_open(true);
        // What a process that was killed has left in the system's memory goes to the disk meanwhile: else the first of the
        // changes that wait would have to wait for that.
        let database = std::thread::scope(|scope| {
            let synced = scope.spawn(|| held.sync_below());
            let database = builder.create_with_backend(held.clone());
            let synced = synced.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            synced.map_err(Unopened::Io).and(database.map_err(Unopened::by))
        })?;
        Ok(OpenedFile { layout, backing: Backing::Held(held), database, claim: None })
    }

    /// What stands in it.
    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    /// It says of nobody that it is theirs: this is who goes on with it.
    pub(crate) fn will_belong_to(&mut self, owner: &Identity) {
        self.claim = Some(owner.clone());
    }

    /// Its length, in bytes.
    pub(crate) fn len(&self) -> u64 {
        match &self.backing {
            Backing::Held(held) => held.len().unwrap_or(0),
            Backing::Missing { .. } => 0,
        }
    }

    /// Goes on with it: from now on it is written.
    pub(crate) fn go_on(self, cache_bytes: usize) -> Result<Database, Unopened> {
        let OpenedFile { layout, backing, database, claim } = self;
        database.close().map_err(Unopened::by)?;
        // A file was verified a moment ago and is as it was.
        let held = match backing {
            Backing::Held(held) => held,
            Backing::Missing { path, owner, storage } => {
                create(&path, false, &owner, layout)?;
                HeldBack::new(storage.open(&path).map_err(Unopened::Io)?).map_err(Unopened::Io)?
            }
        };
        let database = Builder::new().set_cache_size(cache_bytes).create_with_backend(held.clone());
        let database = database.map_err(Unopened::by)?;
        held.release().map_err(Unopened::Io)?;
        if let Some(owner) = claim {
            owner::claim(&database, &owner, layout.format).map_err(Unopened::Database)?;
        }
        Ok(database)
    }
}

/// What an error says of the path of a file that is none.
pub(crate) fn backend_name() -> PathBuf {
    PathBuf::from("(storage)")
}

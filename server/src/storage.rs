//! How a node's two files are opened: as files, or over what a test puts in their place.

use crate::fail_stop::FailStop;
use redb::StorageBackend;
use redb::backends::FileBackend;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

type Open = dyn Fn(&Path) -> io::Result<Box<dyn StorageBackend>> + Send + Sync;

/// Opens storage by the path of the file that is there. [`OpenStorage::default`] opens the file, which
/// is what the program does; a test can put a disk in between that loses, delays or refuses writes.
#[derive(Clone)]
pub struct OpenStorage(Arc<Open>);

impl OpenStorage {
    /// With a function from a path to storage. The file exists and is not empty when it is called.
    pub fn new(
        open: impl Fn(&Path) -> io::Result<Box<dyn StorageBackend>> + Send + Sync + 'static,
    ) -> OpenStorage {
        OpenStorage(Arc::new(open))
    }

    /// Opens one as it is.
    pub(crate) fn open_plain(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        (self.0)(path)
    }

    /// Opens one, so that its first failed write or sync is its last.
    pub fn open(&self, path: &Path) -> io::Result<FailStop> {
        (self.0)(path).map(FailStop::around)
    }
}

impl Default for OpenStorage {
    fn default() -> OpenStorage {
        OpenStorage::new(|path| {
            let file = OpenOptions::new().read(true).write(true).open(path)?;
            let backend = FileBackend::new(file).map_err(io::Error::other)?;
            Ok(Box::new(backend))
        })
    }
}

impl fmt::Debug for OpenStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpenStorage")
    }
}

/// Why a file was not opened.
#[derive(Debug)]
pub(crate) enum Unopened {
    /// It was there before and is not any more.
    Missing,
    /// The operating system refused.
    Io(io::Error),
    /// redb refused.
    Database(redb::Error),
}

impl Unopened {
    /// redb said so.
    pub(crate) fn by(error: impl Into<redb::Error>) -> Unopened {
        Unopened::Database(error.into())
    }
}

/// Whether there is such a file. With `must_exist` a missing or empty one is an error.
pub(crate) fn is_there(path: &Path, must_exist: bool) -> Result<bool, Unopened> {
    let there = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len() > 0,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(Unopened::Io(error)),
    };
    if must_exist && !there { Err(Unopened::Missing) } else { Ok(there) }
}

/// Makes sure that there is a whole, valid redb file, in which `make` has put what a new one has. A new
/// one is made under another name first, so a crash on the way leaves nothing that looks like one
/// (scenario P12). With `must_exist` a missing or empty file is an error.
pub(crate) fn prepare_file(
    path: &Path,
    must_exist: bool,
    make: impl FnOnce(&Path) -> Result<(), redb::Error>,
) -> Result<(), Unopened> {
    if is_there(path, must_exist)? {
        return Ok(());
    }
    let unfinished = unfinished_name(path);
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Unopened::Io(error));
        }
        _ => {}
    }
    // All data is in it: readable by its owner alone. redb opens what is there, empty as it is.
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)
        .map_err(Unopened::Io)?;
    make(&unfinished).map_err(Unopened::Database)?;
    sync(&unfinished).map_err(Unopened::Io)?;
    std::fs::rename(&unfinished, path).map_err(Unopened::Io)?;
    sync(path.parent().unwrap_or(Path::new("."))).map_err(Unopened::Io)
}

/// What is wrong with the file itself, if that is what redb says: what is none of its own, or cut short, it
/// calls an error of input.
///
/// # Errors
/// What it says else.
pub(crate) fn damage(error: redb::Error) -> Result<String, redb::Error> {
    use io::ErrorKind::{InvalidData, UnexpectedEof};
    match error {
        redb::Error::Corrupted(what) => Ok(what),
        redb::Error::Io(error) if matches!(error.kind(), InvalidData | UnexpectedEof) => {
            Ok(error.to_string())
        }
        redb::Error::TableDoesNotExist(_) | redb::Error::TableTypeMismatch { .. } => {
            Ok(error.to_string())
        }
        error => Err(error),
    }
}

fn unfinished_name(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".unfinished");
    path.with_file_name(name)
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

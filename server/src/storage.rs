//! How a node's two files are opened: as files, or over what a test puts in their place.

use crate::fail_stop::FailStop;
use redb::StorageBackend;
use redb::backends::FileBackend;
use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::path::Path;
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

//! Storage that fails once and for all.
//!
//! redb gives up at the first failed sync, but a page that it writes before its time, to make room in
//! its cache, it may write again later. Whoever promises that nothing is written after the first error
//! puts this between.

use redb::{BackendError, StorageBackend};
use std::io;
use std::ops::Bound;
use std::sync::OnceLock;

/// The calls about locks on ranges, passed on to `inner`.
macro_rules! lock_calls {
    () => {
        fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
            self.inner.try_lock_range(start, end)
        }

        fn try_lock_shared_range(
            &self,
            start: Bound<u64>,
            end: Bound<u64>,
        ) -> Result<bool, BackendError> {
            self.inner.try_lock_shared_range(start, end)
        }

        fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
            self.inner.lock_range(start, end)
        }

        fn lock_shared_range(
            &self,
            start: Bound<u64>,
            end: Bound<u64>,
        ) -> Result<(), BackendError> {
            self.inner.lock_shared_range(start, end)
        }

        fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
            self.inner.unlock_range(start, end)
        }

        fn query_lock_range(
            &self,
            start: Bound<u64>,
            end: Bound<u64>,
        ) -> Result<bool, BackendError> {
            self.inner.query_lock_range(start, end)
        }
    };
}
pub(crate) use lock_calls;

/// After its first failed write, growth or sync every further one fails, and does not reach the
/// storage.
#[derive(Debug)]
pub struct FailStop {
    inner: Box<dyn StorageBackend>,
    /// What it said.
    failed: OnceLock<String>,
}

impl FailStop {
    /// Around some storage.
    pub fn new(inner: impl StorageBackend) -> FailStop {
        FailStop::around(Box::new(inner))
    }

    /// The same.
    pub fn around(inner: Box<dyn StorageBackend>) -> FailStop {
        FailStop { inner, failed: OnceLock::new() }
    }

    fn change(&self, change: impl FnOnce(&dyn StorageBackend) -> io::Result<()>) -> io::Result<()> {
        match self.failed.get() {
            Some(said) => Err(io::Error::other(format!("an earlier write or sync failed: {said}"))),
            None => change(&*self.inner).inspect_err(|error| {
                self.failed.get_or_init(|| error.to_string());
            }),
        }
    }
}

impl StorageBackend for FailStop {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(|inner| inner.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(|inner| inner.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(|inner| inner.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    lock_calls!();
}

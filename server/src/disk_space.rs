//! Room on a node's disk: how much there is, and what is done when a write finds none.
//!
//! A thread looks every [`LOOK_EVERY`] how many bytes are free. Below the mark the node's leaders refuse
//! what may grow, so that there is room for what has to go on.
//!
//! Where a write finds none all the same, it waits for room and is tried again ([`Patient`]): the thread
//! of that file stands still, as if the disk were stuck, and with the log's the node hands over what it
//! leads. That is safe. A write that was refused has changed nothing that counts: what it was to put there
//! is not part of any commit before a sync that comes after it, and the same bytes go to the same
//! place. To give it up instead is not better: redb uses a file no more after the first refusal, and
//! to open it anew it wants to write. A *sync* that fails is never tried again, for want of room or
//! whatever: what it had to bring to the disk may be gone from memory. Then the node stops.

use crate::fail_stop::lock_calls;
use crate::storage::OpenStorage;
use redb::{BackendError, StorageBackend};
use rustix::fs::statvfs;
use shard_core::disk_room::{DiskRoom, DiskStatus};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tracing::{info, warn};

/// How often free space is looked at.
pub const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Bytes of the disk that a file takes; 0 if there is none. redb makes a file twice as long when it grows, and writes to
/// the new part as it needs it: what was never written takes nothing.
pub fn taken_by(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len().min(file.blocks().saturating_mul(512)))
}

/// How often a write that found no room is tried again.
const TRY_EVERY: Duration = Duration::from_millis(100);
/// The mark by default: this much, or of a small disk a part of it.
const FREE_BYTES_MIN: u64 = 256 << 20;
/// The part: one in so many.
const FREE_PART: u64 = 20;

/// Which file waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The log.
    Log,
    /// The state.
    State,
}

/// Shared by the watch, the files and the worker.
#[derive(Debug)]
pub struct DiskSpace {
    free: AtomicU64,
    free_min: AtomicU64,
    log: AtomicU32,
    state: AtomicU32,
    /// Whether a write may wait: only while the node runs. A start or a stop says that there is no room.
    patient: AtomicBool,
    stopped: Mutex<bool>,
    stop: Condvar,
}

/// Looks at free space until it is dropped.
#[derive(Debug)]
pub struct Watch {
    _until: Sender<()>,
}

impl DiskSpace {
    /// Begins to watch the disk that a directory is on. `free_bytes_min`: the mark; None: the default,
    /// 256 MiB or a twentieth of the disk if that is less.
    ///
    /// # Errors
    /// If the system does not tell of the disk, or gives no thread.
    pub fn watch(dir: &Path, free_bytes_min: Option<u64>) -> io::Result<(Arc<DiskSpace>, Watch)> {
        let (free, all) = look(dir)?;
        let mark = free_bytes_min.unwrap_or_else(|| FREE_BYTES_MIN.min(all / FREE_PART));
        let space = Arc::new(DiskSpace {
            free: AtomicU64::new(free),
            free_min: AtomicU64::new(mark),
            log: AtomicU32::new(0),
            state: AtomicU32::new(0),
            patient: AtomicBool::new(false),
            stopped: Mutex::new(false),
            stop: Condvar::new(),
        });
        let (until, ended) = channel::<()>();
        let (watched, dir) = (space.clone(), dir.to_owned());
        std::thread::Builder::new().name("disk-space".to_owned()).spawn(move || {
            while ended.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                // A disk that tells nothing for once is as it was.
                if let Ok((free, _)) = look(&dir) {
                    watched.free.store(free, Ordering::Relaxed);
                }
            }
        })?;
        Ok((space, Watch { _until: until }))
    }

    /// From now on a write that finds no room waits for it.
    pub fn be_patient(&self) {
        self.patient.store(true, Ordering::Relaxed);
    }

    /// No write waits any more: what finds no room fails.
    pub fn stop_waiting(&self) {
        self.patient.store(false, Ordering::Relaxed);
        *self.stopped() = true;
        self.stop.notify_all();
    }

    fn stopped(&self) -> MutexGuard<'_, bool> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waits(&self, kind: Kind) -> &AtomicU32 {
        match kind {
            Kind::Log => &self.log,
            Kind::State => &self.state,
        }
    }

    /// What the replicas are told.
    pub fn room(&self) -> DiskRoom {
        let DiskStatus { free, low, .. } = self.status();
        DiskRoom { free, low }
    }

    /// What INFO shows. What waits says more than any number: a quota leaves the disk free.
    pub fn status(&self) -> DiskStatus {
        let free = self.free.load(Ordering::Relaxed);
        let free_min = self.free_min.load(Ordering::Relaxed);
        let waits = |kind| self.waits(kind).load(Ordering::Relaxed) > 0;
        let (log_waits, state_waits) = (waits(Kind::Log), waits(Kind::State));
        let low = free < free_min || log_waits || state_waits;
        DiskStatus { free, free_min, low, log_waits, state_waits }
    }

    /// Opens what `storage` opens, so that writes wait for room.
    pub fn patient(self: &Arc<Self>, storage: &OpenStorage, kind: Kind) -> OpenStorage {
        let (space, storage) = (self.clone(), storage.clone());
        OpenStorage::new(move |path| {
            let inner = storage.open_plain(path)?;
            Ok(Box::new(Patient { inner, kind, space: space.clone(), name: path.to_owned() }))
        })
    }
}

/// Free for this process, and all there is. Bytes.
fn look(dir: &Path) -> io::Result<(u64, u64)> {
    let found = statvfs(dir)?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Ok((bytes(found.f_bavail), bytes(found.f_blocks)))
}

fn is_for_want_of_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Storage whose writes wait for room.
#[derive(Debug)]
struct Patient {
    inner: Box<dyn StorageBackend>,
    kind: Kind,
    space: Arc<DiskSpace>,
    name: PathBuf,
}

impl Patient {
    fn until_there_is_room(&self, write: impl Fn() -> io::Result<()>) -> io::Result<()> {
        let first = write();
        let refused = first.as_ref().is_err_and(is_for_want_of_room);
        if !refused || !self.space.patient.load(Ordering::Relaxed) {
            return first;
        }
        warn!(file = %self.name.display(), "no room on the disk: the file waits for some");
        self.space.waits(self.kind).fetch_add(1, Ordering::Relaxed);
        let mut stopped = self.space.stopped();
        let done = loop {
            let waited = self.space.stop.wait_timeout(stopped, TRY_EVERY);
            let ended = *waited.unwrap_or_else(PoisonError::into_inner).0;
            // The other file's thread may wait here too.
            let again = write();
            if ended || !again.as_ref().is_err_and(is_for_want_of_room) {
                break again;
            }
            stopped = self.space.stopped();
        };
        self.space.waits(self.kind).fetch_sub(1, Ordering::Relaxed);
        if done.is_ok() {
            info!(file = %self.name.display(), "there is room on the disk again");
        }
        done
    }
}

impl StorageBackend for Patient {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.until_there_is_room(|| self.inner.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.until_there_is_room(|| self.inner.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    lock_calls!();
}

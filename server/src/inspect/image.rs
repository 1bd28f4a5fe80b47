//! A database that is read, and its file that is never written.
//!
//! redb has no way to open a file that a crash left without repairing it first. Here it repairs an image of the file:
//! what it writes is held back ([`crate::held_back`]), for good.

use crate::held_back::HeldBack;
use crate::opened_file::READ_CACHE_BYTES;
use redb::{Builder, Database, StorageBackend};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// redb's header, and where a commit in it has its checksum and its number.
const HEADER_BYTES: usize = 320;
const CHECKSUM_AT: usize = 112;
const NUMBER_AT: usize = 8 + 3 * 32;

/// A database that can be read, and written without a trace.
pub(crate) struct Image {
    pub(crate) database: Database,
    pub(crate) sizes: Sizes,
}

/// What a database's file is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Of the file.
    pub(crate) file_bytes: u64,
    /// Of the pages in it that are in use.
    pub(crate) used_bytes: u64,
    /// A commit is not whole, perhaps the newest: what is read may be the one before.
    pub(crate) fell_back: bool,
}

impl Image {
    /// Opens a file as a start does: redb verifies the checksums of all its pages. `None`: there is no
    /// file, or it is empty.
    pub(crate) fn open(path: &Path) -> Result<Option<Image>, redb::Error> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a file").into());
        }
        let header_whole = header_is_whole(&file)?;
        let file_bytes = file.metadata()?.len();
        if file_bytes == 0 {
            return Ok(None);
        }
        let fell_back = Arc::new(AtomicBool::new(false));
        let mut builder = Builder::new();
        builder.set_cache_size(READ_CACHE_BYTES).set_check_integrity_on_open(true);
        let told = fell_back.clone();
        builder.set_repair_callback(move |repair| {
            // redb says 0 first and 0.6 once it knows what to read; what it says between is that the
            // newest commit was not it.
            if repair.progress() > 0.0 && repair.progress() < 0.6 {
                told.store(true, Ordering::Relaxed);
            }
        });
        let database =
            builder.create_with_backend(HeldBack::new(ReadOnly { file, len: file_bytes })?)?;
        let transaction = database.begin_write()?;
        let stats = transaction.stats()?;
        let used_bytes = stats.allocated_pages().saturating_mul(stats.page_size() as u64);
        transaction.abort()?;
        let fell_back = fell_back.load(Ordering::Relaxed) || !header_whole;
        Ok(Some(Image { database, sizes: Sizes { file_bytes, used_bytes, fell_back } }))
    }
}

/// Whether both commits that redb's header names have the checksums that they say, and the newer one is
/// the one that counts. redb passes over one that has not, and says nothing.
///
/// | byte of the file | |
/// |---|---|
/// | 9 | bits: 0 which commit counts, 1 the file was not closed |
/// | 64, 192 | a commit, 128 bytes: its number at 104, XXH3-128 of the first 112 at 112 |
fn header_is_whole(file: &File) -> io::Result<bool> {
    let mut header = [0; HEADER_BYTES];
    match file.read_exact_at(&mut header, 0) {
        // redb says what is wrong with it.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(true),
        read => read?,
    }
    let commits = [&header[64..192], &header[192..320]];
    let whole = commits.map(|commit| {
        let (fields, checksum) = commit.split_at(CHECKSUM_AT);
        xxhash_rust::xxh3::xxh3_128(fields).to_le_bytes() == checksum
    });
    let number = |commit: &[u8]| {
        let bytes = commit[NUMBER_AT..].first_chunk::<8>();
        bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    };
    let counts = usize::from(header[9] & 1);
    let closed = header[9] & 2 == 0;
    let newest = number(commits[counts]) >= number(commits[1 - counts]);
    Ok(whole == [true, true] && (newest || !closed))
}

/// A file that can be read, and that nothing is ever written to.
#[derive(Debug)]
struct ReadOnly {
    file: File,
    len: u64,
}

impl ReadOnly {
    fn refuse() -> io::Error {
        io::Error::new(io::ErrorKind::PermissionDenied, "the file is only read")
    }
}

impl StorageBackend for ReadOnly {
    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(ReadOnly::refuse())
    }

    fn sync_data(&self) -> io::Result<()> {
        Err(ReadOnly::refuse())
    }

    fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(ReadOnly::refuse())
    }
}

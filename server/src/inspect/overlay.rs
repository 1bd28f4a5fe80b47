//! A file that is read, and written in memory alone.
//!
//! redb has no way to open a file that a crash left without repairing it first. Here it repairs a
//! picture of the file: what it writes stays in memory, up to a bound, and goes with it.

use redb::{Builder, Database, StorageBackend};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a block, the unit in which writes are kept.
const BLOCK_BYTES: usize = 4096;
/// Bytes that may be written at most. To open a file and to close it, redb writes its header and
/// which pages are free, less than a byte for each page.
const WRITTEN_BYTES_MAX: usize = 256 << 20;

/// redb's header, and where a commit in it has its checksum and its number.
const HEADER_BYTES: usize = 320;
const CHECKSUM_AT: usize = 112;
const NUMBER_AT: usize = 8 + 3 * 32;
/// redb's cache.
const CACHE_BYTES: usize = 32 << 20;

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
        let overlay = Overlay::new(file)?;
        let file_bytes = overlay.written().len;
        if file_bytes == 0 {
            return Ok(None);
        }
        let fell_back = Arc::new(AtomicBool::new(false));
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
        let told = fell_back.clone();
        builder.set_repair_callback(move |repair| {
            // redb says 0 first and 0.6 once it knows what to read; what it says between is that the
            // newest commit was not it.
            if repair.progress() > 0.0 && repair.progress() < 0.6 {
                told.store(true, Ordering::Relaxed);
            }
        });
        let database = builder.create_with_backend(overlay)?;
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

/// A file, opened for reading, with what was written over it.
#[derive(Debug)]
pub(super) struct Overlay {
    file: File,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    len: u64,
    /// Bytes of the file that still count: it was not cut below.
    from_file: u64,
    blocks: BTreeMap<u64, Box<[u8; BLOCK_BYTES]>>,
}

impl Overlay {
    /// Over a file, which is never written.
    pub(super) fn new(file: File) -> io::Result<Overlay> {
        let len = file.metadata()?.len();
        let written = Written { len, from_file: len, blocks: BTreeMap::new() };
        Ok(Overlay { file, written: Mutex::new(written) })
    }

    fn written(&self) -> std::sync::MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what the file has of it; behind its end there are zeros.
    fn read_file(&self, from_file: u64, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let there = from_file.saturating_sub(offset).min(out.len() as u64) as usize;
        let (file, zeros) = out.split_at_mut(there);
        self.file.read_exact_at(file, offset)?;
        zeros.fill(0);
        Ok(())
    }
}

/// The pieces of a range that lie in one block each: the block, where in it, where in the range.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let inside = (at % BLOCK_BYTES as u64) as usize;
        let count = (BLOCK_BYTES - inside).min(len - done);
        let range = done..done + count;
        done += count;
        Some((at / BLOCK_BYTES as u64, inside, range))
    })
}

fn check_end(offset: u64, len: usize, end: u64) -> io::Result<()> {
    match offset.checked_add(len as u64) {
        Some(asked) if asked <= end => Ok(()),
        _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
    }
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written();
        check_end(offset, out.len(), written.len)?;
        self.read_file(written.from_file, offset, out)?;
        for (block, inside, range) in pieces(offset, out.len()) {
            if let Some(bytes) = written.blocks.get(&block) {
                let count = range.len();
                out[range].copy_from_slice(&bytes[inside..inside + count]);
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut written = self.written();
        written.from_file = written.from_file.min(len);
        written.blocks.split_off(&len.div_ceil(BLOCK_BYTES as u64));
        let inside = (len % BLOCK_BYTES as u64) as usize;
        if let Some(last) = written.blocks.get_mut(&(len / BLOCK_BYTES as u64)) {
            last[inside..].fill(0);
        }
        written.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written();
        check_end(offset, data.len(), written.len)?;
        let from_file = written.from_file;
        for (block, inside, range) in pieces(offset, data.len()) {
            if !written.blocks.contains_key(&block) {
                if written.blocks.len() >= WRITTEN_BYTES_MAX / BLOCK_BYTES {
                    let what = format!("its repair takes over {WRITTEN_BYTES_MAX} bytes of memory");
                    return Err(io::Error::other(what));
                }
                let mut bytes = Box::new([0; BLOCK_BYTES]);
                self.read_file(from_file, block * BLOCK_BYTES as u64, &mut bytes[..])?;
                written.blocks.insert(block, bytes);
            }
            if let Some(bytes) = written.blocks.get_mut(&block) {
                let count = range.len();
                bytes[inside..inside + count].copy_from_slice(&data[range]);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Against a plain vector, with the file compared at the end.
    #[test]
    fn an_overlay_is_what_a_file_would_be_and_the_file_stays() {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..20_000_u32).map(|i| (i % 251) as u8).collect();
        file.write_all(&content).unwrap();
        let overlay = Overlay::new(file.try_clone().unwrap()).unwrap();
        let mut model = content.clone();
        let mut number = 7_u64;
        let mut draw = |below: u64| {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
            (number >> 33) % below
        };
        for step in 0..2000_u64 {
            match draw(10) {
                0 => {
                    let len = draw(30_000);
                    overlay.set_len(len).unwrap();
                    model.resize(len as usize, 0);
                }
                1..=5 => {
                    let (at, len) = (draw(30_000), draw(9_000) as usize);
                    let data = vec![step as u8; len];
                    let fits = at as usize + len <= model.len();
                    assert_eq!(overlay.write(at, &data).is_ok(), fits);
                    if fits {
                        model[at as usize..at as usize + len].copy_from_slice(&data);
                    }
                }
                _ => {
                    let (at, len) = (draw(30_000) as usize, draw(9_000) as usize);
                    let mut out = vec![0xee; len];
                    let read = overlay.read(at as u64, &mut out).is_ok();
                    assert_eq!(read, at + len <= model.len());
                    if read {
                        assert_eq!(out, model[at..at + len]);
                    }
                }
            }
            assert_eq!(overlay.len().unwrap(), model.len() as u64);
        }
        let mut now = vec![0; content.len()];
        file.read_exact_at(&mut now, 0).unwrap();
        assert_eq!(now, content);
    }
}

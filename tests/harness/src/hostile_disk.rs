//! A disk that is no friend, for real processes: what is not synced is in memory, so that SIGKILL acts
//! like a power cut, and what can go wrong with a disk goes wrong on demand.
//!
//! It is a [`StorageBackend`] over a file. Writes and lengths wait in memory until a sync, which writes
//! them in any order, sector by sector, so that a kill in the middle of one tears it; now and then some
//! sectors get there before their sync. The file itself is not synced: what a process gave to the
//! kernel outlives it.
//!
//! What goes wrong is said in two ways. [`DISK_VARIABLE`], read when the file is opened, counts calls:
//! `seed=7 log.cut=12 state.fail=sync:3`. A [`Control`] is a file that a test makes and removes while the
//! process runs.

use raft_core::random::Random;
use redb::StorageBackend;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The environment variable with the [`Plan`] of each file.
pub const DISK_VARIABLE: &str = "FLOTILLA_TEST_DISK";
/// What a process says when something was changed after a failure was reported: rule R10 is broken.
pub const CHANGED_AFTER_FAILURE: &str = "hostile disk: changed after it had failed";
/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;
/// How often a stalled sync looks whether it may go on.
const STALL_POLL: Duration = Duration::from_millis(5);
/// One write in so many is followed by sectors that reach the file before their sync.
const EARLY_ONE_IN: u64 = 24;
/// One read in so many has a bit wrong while [`Control::FlipRead`] lasts.
const FLIP_ONE_IN: u64 = 4;
/// Operating system errors: a disk that fails, and one that is full.
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

fn shuffle<T>(random: &mut Random, items: &mut [T]) {
    for last in (1..items.len()).rev() {
        items.swap(last, random.below(last as u64 + 1) as usize);
    }
}

/// What a storage is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// `read`
    Read,
    /// `write`
    Write,
    /// `set_len`
    SetLen,
    /// `sync_data`
    Sync,
}

impl Call {
    const ALL: [(&'static str, Call); 4] = [
        ("read", Call::Read),
        ("write", Call::Write),
        ("set_len", Call::SetLen),
        ("sync", Call::Sync),
    ];

    fn named(name: &str) -> Option<Call> {
        Call::ALL.iter().find(|(known, _)| *known == name).map(|(_, call)| *call)
    }
}

/// What goes wrong with one file at a call that is counted from its opening, from 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    seed: u64,
    /// At this sync the process ends, after some of the sectors were written.
    cut: Option<u64>,
    /// This call fails.
    fail: Option<(Call, u64)>,
    /// Where the disk is full: nothing is written at or beyond this byte.
    space: Option<u64>,
}

impl Plan {
    /// The words of `text` for the file called `name` (without its ending): `seed=n`, `name.cut=n`,
    /// `name.fail=sync:n` (or `read`, `write`, `set_len`), `name.space=n`.
    pub fn parse(text: &str, name: &str) -> Result<Plan, String> {
        let mut plan = Plan::default();
        for word in text.split_whitespace() {
            let unknown = || format!("{DISK_VARIABLE}: {word}");
            let number = |text: &str| text.parse::<u64>().map_err(|_| unknown());
            let (key, value) = word.split_once('=').ok_or_else(unknown)?;
            if key == "seed" {
                plan.seed = number(value)?;
                continue;
            }
            let (file, fault) = key.split_once('.').ok_or_else(unknown)?;
            if file != name {
                continue;
            }
            match fault {
                "cut" => plan.cut = Some(number(value)?),
                "space" => plan.space = Some(number(value)?),
                "fail" => {
                    let (call, nth) = value.split_once(':').ok_or_else(unknown)?;
                    plan.fail = Some((Call::named(call).ok_or_else(unknown)?, number(nth)?));
                }
                _ => return Err(unknown()),
            }
        }
        Ok(plan)
    }
}

/// What a test does to a disk in use, by a file beside the node's directory.
#[derive(Clone, Copy, Debug)]
pub enum Control {
    /// A sync begins when this ends.
    Stall,
    /// A sync is done, but is not answered before this ends.
    Late,
    /// Nothing can be written.
    Full,
    /// Every sync fails, after some of its sectors were written.
    FailSync,
    /// Every read fails.
    FailRead,
    /// One read in a few has a bit wrong.
    FlipRead,
}

impl Control {
    fn path(self, file: &Path) -> PathBuf {
        let node = file.parent().unwrap_or(Path::new("."));
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        node.with_extension(format!("{name}.{self:?}"))
    }

    /// Begins it for a node's file, such as `node-1/log.redb`.
    pub fn begin(self, file: &Path) {
        fs::write(self.path(file), b"").expect("a control file");
    }

    /// Ends it.
    pub fn end(self, file: &Path) {
        fs::remove_file(self.path(file)).expect("it was begun");
    }
}

#[derive(Debug)]
struct State {
    /// Of what was written and not synced.
    sectors: BTreeMap<u64, [u8; SECTOR_BYTES]>,
    len: u64,
    /// The smallest length since the last sync: beyond it the file's bytes do not count.
    low: u64,
    calls: BTreeMap<Call, u64>,
    failed: bool,
    random: Random,
}

/// The disk.
#[derive(Debug)]
pub struct HostileDisk {
    path: PathBuf,
    file: File,
    plan: Plan,
    state: Mutex<State>,
}

impl HostileDisk {
    /// Over a file that exists, with the faults that the environment plans for it.
    pub fn open(path: &Path) -> io::Result<HostileDisk> {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::env::var(DISK_VARIABLE).unwrap_or_default();
        HostileDisk::with(path, Plan::parse(&text, &name).map_err(io::Error::other)?)
    }

    /// Over a file that exists.
    pub fn with(path: &Path, plan: Plan) -> io::Result<HostileDisk> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let len = file.metadata()?.len();
        let state = State {
            sectors: BTreeMap::new(),
            len,
            low: len,
            calls: BTreeMap::new(),
            failed: false,
            random: Random::new(plan.seed),
        };
        Ok(HostileDisk { path: path.to_owned(), file, plan, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn controlled(&self, control: Control) -> bool {
        control.path(&self.path).exists()
    }

    fn wait_while(&self, control: Control) {
        while self.controlled(control) {
            std::thread::sleep(STALL_POLL);
        }
    }

    /// Counts a call. An error if it is the one to fail.
    fn count(&self, state: &mut State, call: Call) -> io::Result<()> {
        let nth = state.calls.entry(call).or_default();
        *nth += 1;
        let fails = self.plan.fail == Some((call, *nth));
        if call == Call::Read {
            return if fails || self.controlled(Control::FailRead) { Err(eio()) } else { Ok(()) };
        }
        if state.failed {
            eprintln!("{CHANGED_AFTER_FAILURE}: {}", self.path.display());
        }
        if fails || (call == Call::Sync && self.controlled(Control::FailSync)) {
            state.failed = true;
            return Err(eio());
        }
        Ok(())
    }

    /// Whether there is room up to `end`.
    fn check_space(&self, end: u64) -> io::Result<()> {
        if self.plan.space.is_some_and(|space| end > space) || self.controlled(Control::Full) {
            // No failure after which nothing may change: what was refused may be tried again.
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        Ok(())
    }

    /// Writes so many in a hundred of the sectors that wait, in any order.
    fn put(&self, state: &mut State, percent: u64) -> io::Result<()> {
        let mut sectors: Vec<u64> = state.sectors.keys().copied().collect();
        shuffle(&mut state.random, &mut sectors);
        for sector in sectors {
            if state.random.below(100) < percent {
                self.file.write_all_at(&state.sectors[&sector], sector * SECTOR_BYTES as u64)?;
            }
        }
        Ok(())
    }

    /// Some of the sectors, as a power cut or a failed sync leaves them.
    fn put_some(&self, state: &mut State) -> io::Result<()> {
        let percent = [0, 10, 50, 90, 100][state.random.below(5) as usize];
        self.put(state, percent)
    }

    /// The bytes of a sector as they are read, for a write of a part of it.
    fn sector(&self, state: &State, sector: u64) -> io::Result<[u8; SECTOR_BYTES]> {
        if let Some(bytes) = state.sectors.get(&sector) {
            return Ok(*bytes);
        }
        let mut bytes = [0; SECTOR_BYTES];
        self.read_file(sector * SECTOR_BYTES as u64, state.low, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads from the file; zeros from `end` on.
    fn read_file(&self, offset: u64, end: u64, out: &mut [u8]) -> io::Result<()> {
        out.fill(0);
        let within = end.saturating_sub(offset).min(out.len() as u64) as usize;
        let mut done = 0;
        while done < within {
            match self.file.read_at(&mut out[done..within], offset + done as u64)? {
                0 => break,
                count => done += count,
            }
        }
        Ok(())
    }
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(EIO)
}

impl StorageBackend for HostileDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.state();
        self.count(&mut state, Call::Read)?;
        let end = offset + out.len() as u64;
        if end > state.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read_file(offset, state.low, out)?;
        let size = SECTOR_BYTES as u64;
        for (sector, bytes) in state.sectors.range(offset / size..end.div_ceil(size)) {
            let at = sector * size;
            let (from, to) = (at.max(offset), (at + size).min(end));
            out[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&bytes[(from - at) as usize..(to - at) as usize]);
        }
        if self.controlled(Control::FlipRead) && state.random.below(FLIP_ONE_IN) == 0 {
            let bit = state.random.below(out.len().max(1) as u64 * 8);
            if let Some(byte) = out.get_mut((bit / 8) as usize) {
                *byte ^= 1 << (bit % 8);
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        self.count(&mut state, Call::SetLen)?;
        if !len.is_multiple_of(SECTOR_BYTES as u64) {
            return Err(io::Error::other("a length that is no whole number of sectors"));
        }
        if len > state.len {
            self.check_space(len)?;
        }
        state.len = len;
        state.low = state.low.min(len);
        state.sectors.retain(|sector, _| sector * (SECTOR_BYTES as u64) < len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.wait_while(Control::Stall);
        let mut state = self.state();
        if let Err(error) = self.count(&mut state, Call::Sync) {
            self.put_some(&mut state)?;
            return Err(error);
        }
        if self.plan.cut == Some(state.calls[&Call::Sync]) {
            self.put_some(&mut state)?;
            // Nobody gets to say or write anything more.
            std::process::abort();
        }
        let file_len = self.file.metadata()?.len();
        if state.low < file_len {
            self.file.set_len(state.low)?;
        }
        let first = state.random.below(2) == 0;
        if first {
            self.file.set_len(state.len)?;
        }
        self.put(&mut state, 100)?;
        self.file.set_len(state.len)?;
        state.sectors.clear();
        state.low = state.len;
        drop(state);
        self.wait_while(Control::Late);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        self.count(&mut state, Call::Write)?;
        self.check_space(offset + data.len() as u64)?;
        let mut at = 0;
        while at < data.len() {
            let position = offset + at as u64;
            let sector = position / SECTOR_BYTES as u64;
            let within = (position % SECTOR_BYTES as u64) as usize;
            let end = (at + SECTOR_BYTES - within).min(data.len());
            let mut bytes = self.sector(&state, sector)?;
            bytes[within..within + end - at].copy_from_slice(&data[at..end]);
            state.sectors.insert(sector, bytes);
            at = end;
        }
        state.len = state.len.max(offset + data.len() as u64);
        if state.random.below(EARLY_ONE_IN) == 0 {
            let percent = state.random.below(100);
            self.put(&mut state, percent)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(image: &mut Vec<u8>, offset: usize, data: &[u8]) {
        if image.len() < offset + data.len() {
            image.resize(offset + data.len(), 0);
        }
        image[offset..offset + data.len()].copy_from_slice(data);
    }

    fn read(disk: &HostileDisk, offset: usize, len: usize) -> Vec<u8> {
        let mut out = vec![0xee; len];
        disk.read(offset as u64, &mut out).expect("within its length");
        out
    }

    /// It reads as if nothing were amiss; in the file each sector is one that was there at the last sync
    /// or was written since, and after a sync the file is what was written.
    #[test]
    fn it_reads_what_was_written_and_keeps_what_was_synced() {
        let mut lost = 0;
        for seed in 0..40 {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("x.redb");
            fs::write(&path, vec![7; 4096]).expect("a file");
            let plan = Plan { seed, ..Plan::default() };
            let disk = HostileDisk::with(&path, plan).expect("a disk");
            let mut random = Random::new(seed + 1000);
            let mut image = vec![7; 4096];
            let mut since: Vec<Vec<u8>> = vec![image.clone()];
            for _ in 0..200 {
                match random.below(10) {
                    0 => {
                        let len = (random.below(32) + 1) as usize * SECTOR_BYTES;
                        disk.set_len(len as u64).expect("room");
                        image.resize(len, 0);
                    }
                    1 => {
                        disk.sync_data().expect("a sync");
                        assert_eq!(fs::read(&path).expect("the file"), image, "seed {seed}");
                        since.clear();
                    }
                    2..=6 => {
                        let offset = random.below(image.len() as u64) as usize;
                        let data = vec![random.below(256) as u8; random.below(1500) as usize];
                        disk.write(offset as u64, &data).expect("room");
                        apply(&mut image, offset, &data);
                        let len = image.len().next_multiple_of(SECTOR_BYTES);
                        image.resize(len, 0);
                        disk.set_len(len as u64).expect("room");
                    }
                    _ => {
                        let offset = random.below(image.len() as u64) as usize;
                        let len = random.below((image.len() - offset) as u64 + 1) as usize;
                        let wanted = &image[offset..offset + len];
                        assert_eq!(read(&disk, offset, len), wanted, "seed {seed}");
                    }
                }
                since.push(image.clone());
                let file = fs::read(&path).expect("the file");
                lost += u64::from(file != image);
                for (number, sector) in file.chunks(SECTOR_BYTES).enumerate() {
                    let at = number * SECTOR_BYTES;
                    let known = since.iter().any(|image| {
                        image.get(at..at + SECTOR_BYTES).is_some_and(|known| known == sector)
                    });
                    let hole = sector.iter().all(|byte| *byte == 0);
                    assert!(known || hole, "seed {seed}: sector {number} was never written so");
                }
            }
        }
        assert!(lost > 1000, "a power cut would lose something");
    }

    #[test]
    fn faults_are_planned_by_file_and_call() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log.redb");
        fs::write(&path, vec![0; 1024]).expect("a file");
        let text = "seed=3 log.fail=sync:2 state.cut=1 log.space=2048";
        let disk = HostileDisk::with(&path, Plan::parse(text, "log").expect("a plan")).expect("it");
        disk.write(0, b"a").expect("room");
        disk.sync_data().expect("the first");
        let full = disk.set_len(4096).expect_err("no room");
        assert_eq!(full.raw_os_error(), Some(ENOSPC));
        assert_eq!(disk.sync_data().expect_err("the second").raw_os_error(), Some(EIO));
        for wrong in ["log.fail=sync", "log.fail=flush:1", "log.burns=1", "log", "seed=x"] {
            Plan::parse(wrong, "log").expect_err(wrong);
        }
    }
}

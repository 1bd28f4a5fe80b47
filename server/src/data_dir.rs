//! The directory that holds everything a node keeps: whose it is, and that one process uses it.
//!
//! | file | |
//! |---|---|
//! | `LOCK` | locked while a process uses the directory; its presence alone means nothing |
//! | `identity` | format, cluster, node, and whether there have been log and state; written before them |
//! | `cluster.toml` | the cluster file of the first start, so that later starts need none |
//! | `map` | the newest map of the cluster that the node goes by ([`crate::kept_file`]) |
//! | `secret` | what the node proves to its peers; like the others readable by its owner alone |
//! | `log.redb` | the log of every group ([`crate::log_store`]) |
//! | `state.redb` | the applied state of every group, as of its newest checkpoint ([`crate::state_store`]) |
//!
//! Files are replaced whole: written beside, synced, renamed, the directory synced. A crash leaves
//! the old file or the new one, and a first start that was cut short is simply begun again
//! (scenario P12).

use raft_core::types::NodeId;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The layout written here, and the newest that is read.
pub const FORMAT: u32 = 1;

pub(crate) const LOCK: &str = "LOCK";
pub(crate) const IDENTITY: &str = "identity";
/// The cluster file's name in the directory.
pub const CLUSTER: &str = "cluster.toml";
/// The secret's name in the directory.
pub const SECRET: &str = "secret";
/// The map's name in the directory.
pub(crate) const MAP: &str = "map";
/// The log's name in the directory.
pub(crate) const LOG: &str = "log.redb";
/// The state's name in the directory.
pub(crate) const STATE: &str = "state.redb";
/// What the file that replaces another is called until it does.
pub(crate) const UNFINISHED: &str = ".unfinished";
/// Upper bound of the small files, far above what they need.
const SMALL_FILE_BYTES_MAX: u64 = 1 << 20;

/// Whose directory it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster_id: String,
    /// The node in it.
    pub node: NodeId,
}

/// What a directory says of itself, before it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Whose it is.
    pub identity: Identity,
    /// The cluster file of the first start.
    pub cluster_text: Option<String>,
}

/// Why a directory cannot be used. Each is one sentence that says what to do or what is in the way.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The operating system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The path is something else.
    #[error("the data directory {0} is not a directory")]
    NotADirectory(PathBuf),
    /// Something else stands where a file of ours belongs.
    #[error("{0} is no file: move it away, and put back the file that a node kept there")]
    NotAFile(PathBuf),
    /// Another process has it.
    #[error("the data directory {0} is in use by another process")]
    InUse(PathBuf),
    /// Made for another node or another cluster.
    #[error(
        "the data directory {dir} belongs to node {} of cluster {:?}, not to node {} of cluster {:?}",
        found.node, found.cluster_id, expected.node, expected.cluster_id
    )]
    OtherIdentity {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        found: Box<Identity>,
        /// Who wants it.
        expected: Box<Identity>,
    },
    /// Written by a newer program.
    #[error("the data directory {dir} has format {found}; this program reads up to {FORMAT}")]
    NewerFormat {
        /// The directory.
        dir: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Files, but not ours.
    #[error(
        "the directory {dir} holds {name:?} but no data of a node; give an empty or a new directory"
    )]
    NotOurs {
        /// The directory.
        dir: PathBuf,
        /// A file in it.
        name: String,
    },
    /// A node began here, but nothing says which.
    #[error(
        "the file {identity} is missing, but its directory holds {name}, which a node makes later; \
         put it back with all else that was there: a node that begins anew has forgotten its votes, \
         and writes could be lost",
        identity = .dir.join(IDENTITY).display()
    )]
    NoIdentity {
        /// The directory.
        dir: PathBuf,
        /// A file in it.
        name: String,
    },
    /// A node's directory, where an embedded cluster's was asked for.
    #[error(
        "the directory {0} is the data directory of a single node; start that with `flotilla node`, \
         or name another --dir"
    )]
    SingleNode(PathBuf),
    /// A file of ours does not say what it should.
    #[error("the file {path} is damaged: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

/// The `identity` file.
#[derive(Debug, Serialize, Deserialize)]
struct IdentityFile {
    format: u32,
    cluster_id: String,
    node: u64,
    /// Whether a log was made: from then on its absence is a loss.
    log: bool,
}

/// The part of it that every format has.
#[derive(Debug, Deserialize)]
struct FormatOnly {
    format: u32,
}

/// An open directory: no other process can open it until this is dropped.
#[derive(Debug)]
pub struct DataDir {
    dir: PathBuf,
    identity: Identity,
    log_exists: bool,
    cluster_text: Option<String>,
    /// Locked. The lock goes with the process, however it ends.
    _lock: File,
}

impl DataDir {
    /// What the directory says of itself; `None` if it does not exist or no node began there.
    /// Changes nothing and takes no lock.
    pub fn peek(dir: &Path) -> Result<Option<Stored>, DataDirError> {
        match std::fs::metadata(dir) {
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io_error("read", dir, source)),
            Ok(metadata) if !metadata.is_dir() => {
                return Err(DataDirError::NotADirectory(dir.to_owned()));
            }
            Ok(_) => {}
        }
        let Some((identity, _)) = read_identity(dir)? else { return Ok(None) };
        let cluster_text = read_small(&dir.join(CLUSTER))?;
        Ok(Some(Stored { identity, cluster_text }))
    }

    /// Opens the directory for a node, makes it if need be, and locks it.
    pub fn open(dir: &Path, expected: &Identity) -> Result<DataDir, DataDirError> {
        create_directory(dir)?;
        // Before the lock file is made: a directory that is not ours stays as it is.
        if read_identity(dir)?.is_none() {
            check_unused(dir)?;
        }
        let lock = lock(dir)?;
        let log_exists = match read_identity(dir)? {
            None => {
                write_identity(dir, expected, false)?;
                false
            }
            Some((found, log_exists)) if found == *expected => log_exists,
            Some((found, _)) => {
                return Err(DataDirError::OtherIdentity {
                    dir: dir.to_owned(),
                    found: Box::new(found),
                    expected: Box::new(expected.clone()),
                });
            }
        };
        let cluster_text = read_small(&dir.join(CLUSTER))?;
        let (dir, identity) = (dir.to_owned(), expected.clone());
        Ok(DataDir { dir, identity, log_exists, cluster_text, _lock: lock })
    }

    /// Whose it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Where the log is.
    pub fn log_path(&self) -> PathBuf {
        self.dir.join(LOG)
    }

    /// Where the state is.
    pub fn state_path(&self) -> PathBuf {
        self.dir.join(STATE)
    }

    /// Whether there have been log and state: if so, neither must be missing
    /// ([`crate::log_store::LogStoreConfig::must_exist`]).
    pub fn log_exists(&self) -> bool {
        self.log_exists
    }

    /// To be called once both were opened, before anything in them counts.
    pub fn set_log_exists(&mut self) -> Result<(), DataDirError> {
        if !self.log_exists {
            write_identity(&self.dir, &self.identity, true)?;
            self.log_exists = true;
        }
        Ok(())
    }

    /// The cluster file of the first start.
    pub fn cluster_text(&self) -> Option<&str> {
        self.cluster_text.as_deref()
    }

    /// Keeps a cluster file, replacing the one before.
    pub fn set_cluster_text(&mut self, text: &str) -> Result<(), DataDirError> {
        if self.cluster_text.as_deref() != Some(text) {
            replace(&self.dir, CLUSTER, text.as_bytes())?;
            self.cluster_text = Some(text.to_owned());
        }
        Ok(())
    }

    /// Keeps the secret that the cluster file refers to. Called before the cluster file is kept.
    pub fn set_secret(&mut self, secret: &[u8]) -> Result<(), DataDirError> {
        let path = self.dir.join(SECRET);
        let same = match std::fs::read(&path) {
            Ok(kept) => kept == secret,
            Err(source) if source.kind() == io::ErrorKind::NotFound => false,
            Err(source) => return Err(io_error("read", &path, source)),
        };
        if same { Ok(()) } else { replace(&self.dir, SECRET, secret) }
    }
}

/// What of a node that ran is missing from its directory: without it the node would not know what it
/// was and what it acknowledged.
pub(crate) fn missing_of_node(dir: &Path) -> Option<PathBuf> {
    let files = [IDENTITY, MAP, LOG, STATE].map(|name| dir.join(name));
    let mut needed = [dir.to_owned()].into_iter().chain(files);
    needed.find(|path| !path.exists())
}

/// Whether a node began here.
pub(crate) fn has_identity(dir: &Path) -> bool {
    dir.join(IDENTITY).exists()
}

/// Refuses a node's directory as the place of a whole embedded cluster.
pub(crate) fn refuse_single_node(dir: &Path) -> Result<(), DataDirError> {
    if has_identity(dir) {
        return Err(DataDirError::SingleNode(dir.to_owned()));
    }
    Ok(())
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> DataDirError {
    DataDirError::Io { action, path: path.to_owned(), source }
}

/// Makes a directory and those above it, unless they are there. Each entry is synced: a power loss
/// must not take away the directory of a node that has acknowledged something.
pub(crate) fn create_directory(dir: &Path) -> Result<(), DataDirError> {
    match std::fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => return Err(DataDirError::NotADirectory(dir.to_owned())),
        Err(source) if source.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(io_error("read", dir, source)),
    }
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_directory(parent)?;
    match std::fs::create_dir(dir) {
        // Another process may have made it meanwhile.
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            Err(io_error("create", dir, source))
        }
        _ => sync_directory(parent),
    }
}

/// A directory without identity may hold what a first start that was cut short leaves behind, and
/// what file systems put into their root. All else of ours comes after the identity: where it is, the
/// identity was lost, and perhaps the log with it.
pub(crate) fn check_unused(dir: &Path) -> Result<(), DataDirError> {
    let entries = std::fs::read_dir(dir).map_err(|source| io_error("read", dir, source))?;
    for entry in entries {
        let entry = entry.map_err(|source| io_error("read", dir, source))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let leftover = matches!(name.as_str(), LOCK | "lost+found")
            || name.strip_suffix(UNFINISHED) == Some(IDENTITY);
        let of = name.strip_suffix(UNFINISHED).unwrap_or(&name);
        if matches!(of, LOG | STATE | CLUSTER | SECRET | MAP) {
            return Err(DataDirError::NoIdentity { dir: dir.to_owned(), name });
        }
        if !leftover {
            return Err(DataDirError::NotOurs { dir: dir.to_owned(), name });
        }
    }
    Ok(())
}

/// Refuses a directory in which something else stands where a file of ours belongs: to open a pipe would
/// take for ever.
pub(crate) fn check_files(dir: &Path) -> Result<(), DataDirError> {
    for name in [LOCK, IDENTITY, CLUSTER, SECRET, MAP, LOG, STATE] {
        for path in [dir.join(name), dir.join(format!("{name}{UNFINISHED}"))] {
            // What cannot be looked at is told by who reads it.
            if std::fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file()) {
                return Err(DataDirError::NotAFile(path));
            }
        }
    }
    Ok(())
}

/// Locks a directory for this process, for as long as the file lives.
pub(crate) fn lock(dir: &Path) -> Result<File, DataDirError> {
    check_files(dir)?;
    let path = dir.join(LOCK);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|source| io_error("create", &path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DataDirError::InUse(dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(io_error("lock", &path, source)),
    }
}

/// Locks a directory as [`lock`] does, and makes nothing: `None` where no process ever locked it.
pub(crate) fn lock_existing(dir: &Path) -> Result<Option<File>, DataDirError> {
    check_files(dir)?;
    let path = dir.join(LOCK);
    let file = match File::open(&path) {
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(|source| io_error("read", &path, source))?,
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(DataDirError::InUse(dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(io_error("lock", &path, source)),
    }
}

/// Whose it is, and whether there have been log and state; `None` if no node began there.
pub(crate) fn read_identity(dir: &Path) -> Result<Option<(Identity, bool)>, DataDirError> {
    check_files(dir)?;
    let path = dir.join(IDENTITY);
    let Some(text) = read_small(&path)? else { return Ok(None) };
    let damaged = |error: toml::de::Error| DataDirError::Damaged {
        path: path.clone(),
        what: error.message().to_owned(),
    };
    let FormatOnly { format } = toml::from_str(&text).map_err(damaged)?;
    if format > FORMAT {
        return Err(DataDirError::NewerFormat { dir: dir.to_owned(), found: format });
    }
    let file: IdentityFile = toml::from_str(&text).map_err(damaged)?;
    let identity = Identity { cluster_id: file.cluster_id, node: NodeId(file.node) };
    Ok(Some((identity, file.log)))
}

fn write_identity(dir: &Path, identity: &Identity, log: bool) -> Result<(), DataDirError> {
    let file = IdentityFile {
        format: FORMAT,
        cluster_id: identity.cluster_id.clone(),
        node: identity.node.0,
        log,
    };
    let text = toml::to_string(&file).expect("numbers and a string are TOML");
    replace(dir, IDENTITY, text.as_bytes())
}

/// Replaces the map.
pub(crate) fn write_map(dir: &Path, bytes: &[u8]) -> Result<(), DataDirError> {
    replace(dir, MAP, bytes)
}

/// A file's text; `None` if there is no such file.
fn read_small(path: &Path) -> Result<Option<String>, DataDirError> {
    let length = match std::fs::metadata(path) {
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error("read", path, source)),
        Ok(metadata) => metadata.len(),
    };
    if length > SMALL_FILE_BYTES_MAX {
        let what = format!("it has {length} bytes, over the limit of {SMALL_FILE_BYTES_MAX}");
        return Err(DataDirError::Damaged { path: path.to_owned(), what });
    }
    std::fs::read_to_string(path).map(Some).map_err(|source| io_error("read", path, source))
}

fn replace(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), DataDirError> {
    let path = dir.join(name);
    let unfinished = dir.join(format!("{name}{UNFINISHED}"));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options.open(&unfinished).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(|source| io_error("write", &unfinished, source))?;
    std::fs::rename(&unfinished, &path).map_err(|source| io_error("write", &path, source))?;
    sync_directory(dir)
}

fn sync_directory(dir: &Path) -> Result<(), DataDirError> {
    let synced = File::open(dir).and_then(|directory| directory.sync_all());
    synced.map_err(|source| io_error("sync", dir, source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{FileType, Mode};

    fn identity(cluster: &str, node: u64) -> Identity {
        Identity { cluster_id: cluster.to_owned(), node: NodeId(node) }
    }

    fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                let name = entry.file_name().into_string().unwrap();
                (name, std::fs::read(entry.path()).unwrap_or_default())
            })
            .collect();
        files.sort();
        files
    }

    fn refused(dir: &Path, identity: &Identity) -> String {
        let before = files(dir);
        let sentence = DataDir::open(dir, identity).unwrap_err().to_string();
        assert_eq!(files(dir), before, "a refusal changed the directory");
        sentence
    }

    #[test]
    fn what_was_kept_is_there_at_the_next_start() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("a/b");
        let n1 = identity("c", 1);
        assert_eq!(DataDir::peek(&dir).unwrap(), None);
        {
            let mut data_dir = DataDir::open(&dir, &n1).unwrap();
            assert_eq!((data_dir.log_exists(), data_dir.cluster_text()), (false, None));
            data_dir.set_cluster_text("text").unwrap();
            data_dir.set_log_exists().unwrap();
        }
        let stored = Stored { identity: n1.clone(), cluster_text: Some("text".to_owned()) };
        assert_eq!(DataDir::peek(&dir).unwrap(), Some(stored));
        let data_dir = DataDir::open(&dir, &n1).unwrap();
        assert_eq!((data_dir.log_exists(), data_dir.cluster_text()), (true, Some("text")));
        assert_eq!(data_dir.log_path(), dir.join("log.redb"));
    }

    #[test]
    fn a_second_process_is_refused_while_the_first_lives() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path();
        let first = DataDir::open(dir, &identity("c", 1)).unwrap();
        let sentence = refused(dir, &identity("c", 1));
        assert!(sentence.ends_with("is in use by another process"), "{sentence}");
        drop(first);
        DataDir::open(dir, &identity("c", 1)).unwrap();
    }

    #[test]
    fn another_node_or_cluster_is_refused_with_both_ids() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path();
        drop(DataDir::open(dir, &identity("red", 1)).unwrap());
        let sentence = refused(dir, &identity("red", 2));
        assert!(sentence.contains("node 1 of cluster \"red\", not to node 2"), "{sentence}");
        let sentence = refused(dir, &identity("blue", 1));
        assert!(sentence.contains("\"red\"") && sentence.contains("\"blue\""), "{sentence}");
    }

    #[test]
    fn a_newer_format_is_refused_even_if_the_rest_cannot_be_read() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path();
        drop(DataDir::open(dir, &identity("c", 1)).unwrap());
        std::fs::write(dir.join(IDENTITY), "format = 2\nwho = [1]\n").unwrap();
        let sentence = refused(dir, &identity("c", 1));
        assert!(sentence.contains("has format 2; this program reads up to 1"), "{sentence}");
    }

    #[test]
    fn a_first_start_that_was_cut_short_is_begun_again() {
        for leftovers in [&[][..], &[LOCK], &[LOCK, "identity.unfinished"]] {
            let temporary = tempfile::tempdir().unwrap();
            for name in leftovers {
                std::fs::write(temporary.path().join(name), "form").unwrap();
            }
            let data_dir = DataDir::open(temporary.path(), &identity("c", 1)).unwrap();
            assert!(!data_dir.log_exists());
        }
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path();
        std::fs::write(dir.join("thesis.tex"), "x").unwrap();
        let sentence = refused(dir, &identity("c", 1));
        assert!(sentence.contains("\"thesis.tex\""), "{sentence}");
        std::fs::rename(dir.join("thesis.tex"), dir.join(LOG)).unwrap();
        let sentence = refused(dir, &identity("c", 1));
        assert!(sentence.contains("identity is missing, but"), "{sentence}");

        let file = dir.join(LOG);
        let sentence = DataDir::open(&file, &identity("c", 1)).unwrap_err().to_string();
        assert!(sentence.ends_with("is not a directory"), "{sentence}");
        let below = DataDir::open(&file.join("x"), &identity("c", 1)).unwrap_err().to_string();
        assert!(below.starts_with("cannot ") && below.contains("log.redb/x"), "{below}");
    }

    /// After each step of a first start the next one goes on; without what a step made, none does.
    #[test]
    fn an_identity_that_was_lost_is_not_made_anew() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path();
        let n1 = identity("c", 1);
        type Step = fn(&mut DataDir);
        let steps: [Step; 4] = [
            |_| {},
            |data_dir| data_dir.set_secret(b"secret").unwrap(),
            |data_dir| data_dir.set_cluster_text("text").unwrap(),
            |data_dir| {
                std::fs::write(data_dir.log_path(), "log").unwrap();
                data_dir.set_log_exists().unwrap();
            },
        ];
        let elsewhere = tempfile::tempdir().unwrap();
        let (kept, away) = (dir.join(IDENTITY), elsewhere.path().join(IDENTITY));
        for (number, step) in steps.into_iter().enumerate() {
            step(&mut DataDir::open(dir, &n1).unwrap());
            if number == 0 {
                continue; // nothing but the identity is there
            }
            std::fs::rename(&kept, &away).unwrap();
            let sentence = refused(dir, &n1);
            let begins = format!("the file {} is missing", kept.display());
            assert!(sentence.starts_with(&begins), "{sentence}");
            std::fs::rename(&away, &kept).unwrap();
        }
        // Nor without the log, whatever else is there.
        std::fs::remove_file(dir.join(LOG)).unwrap();
        std::fs::rename(&kept, &away).unwrap();
        assert!(refused(dir, &n1).contains("identity is missing"));
    }

    /// A pipe would be waited for, and a directory has an advisory lock too.
    #[test]
    fn what_is_no_file_is_named_before_anything_is_opened() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path();
        drop(DataDir::open(dir, &identity("c", 1)).unwrap());
        let names = [LOCK, IDENTITY, CLUSTER, SECRET, MAP, LOG, STATE, "identity.unfinished"];
        for (number, name) in names.into_iter().enumerate() {
            let (path, away) = (dir.join(name), temporary.path().join("kept"));
            let kept = std::fs::rename(&path, &away).is_ok();
            if number.is_multiple_of(2) {
                std::fs::create_dir(&path).unwrap();
            } else {
                // Not by another program: before it runs it is this process once more, with its locks.
                let (kind, mode) = (FileType::Fifo, Mode::from_raw_mode(0o600));
                rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
            }
            let expected = format!("{} is no file: move it away", path.display());
            let peeked = DataDir::peek(dir).unwrap_err().to_string();
            let opened = DataDir::open(dir, &identity("c", 1)).unwrap_err().to_string();
            for sentence in [opened, peeked] {
                assert!(sentence.starts_with(&expected), "{sentence}");
            }
            assert!(matches!(lock_existing(dir), Err(DataDirError::NotAFile(_))));
            std::fs::remove_dir(&path).or_else(|_| std::fs::remove_file(&path)).unwrap();
            if kept {
                std::fs::rename(&away, &path).unwrap();
            }
        }
        DataDir::open(dir, &identity("c", 1)).unwrap();
    }

    /// Where even the superuser may make nothing.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_place_that_cannot_be_written_is_named() {
        let sentence = DataDir::open(Path::new("/proc/flotilla"), &identity("c", 1)).unwrap_err();
        assert!(sentence.to_string().starts_with("cannot create /proc/flotilla: "), "{sentence}");
    }

    #[test]
    fn an_identity_that_says_nothing_is_named() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path();
        for text in ["", "format = 1\n", "\u{0}\u{0}", "format = -1", "not toml at all"] {
            std::fs::write(dir.join(IDENTITY), text).unwrap();
            let sentence = refused(dir, &identity("c", 1));
            assert!(sentence.contains("identity is damaged"), "{sentence}");
        }
        std::fs::write(dir.join(IDENTITY), vec![b' '; 2 << 20]).unwrap();
        assert!(refused(dir, &identity("c", 1)).contains("over the limit"));
    }
}

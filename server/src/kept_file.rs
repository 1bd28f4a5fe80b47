//! The file `map`: what a node keeps of the cluster ([`shard_core::kept`]), and the thread that writes it.
//!
//! The file is replaced whole, so a crash leaves the old one or the new one. Unlike log and state it is written
//! anew each time: a write that fails, for want of space for one, is tried again, and until then the node goes by
//! what is there.

use crate::data_dir::{self, DataDir, DataDirError, Identity};
use crate::owner::OtherOwner;
use crate::small_file::{self, SmallFileError};
use shard_core::cluster_config::NodeConfig;
use shard_core::kept::{KEPT_BYTES_MAX, Kept, KeptError};
use shard_core::{NodeId, cluster_config::ClusterConfig};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tracing::{info, warn};

/// Before a write that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Why the file cannot be used. Each is one sentence that names it.
#[derive(Debug, thiserror::Error)]
pub enum KeptFileError {
    /// It cannot be read.
    #[error(transparent)]
    File(SmallFileError),
    /// It was there before and is not any more.
    #[error(
        "the file {0} is missing, but this node has run: without it the node does not know which groups \
         it has left, and could vote twice; put it back with all else that was there, or take this node out \
         of the cluster and add an empty one under a new id"
    )]
    Missing(PathBuf),
    /// It is not what was written.
    #[error(
        "the file {path} is damaged: {what}; put it back with all else that was there, or take this node \
         out of the cluster and add an empty one under a new id"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: KeptError,
    },
    /// It is another node's.
    #[error(transparent)]
    OtherOwner(Box<OtherOwner>),
    /// It is another cluster's, and does not say which node's.
    #[error("the file {path} is of cluster {found:?}, and this node is of cluster {expected:?}")]
    OtherCluster {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// It cannot be written.
    #[error(transparent)]
    Directory(#[from] DataDirError),
}

/// Reads the file of a node's directory, whoever has written it if it does not say so.
pub fn read(dir: &Path, owner: &Identity) -> Result<Kept, KeptFileError> {
    read_owned(dir, owner).map(|(kept, _)| kept)
}

/// The same, and whether it says that it is the node's own.
fn read_owned(dir: &Path, owner: &Identity) -> Result<(Kept, bool), KeptFileError> {
    let path = dir.join(data_dir::MAP);
    let bytes = small_file::read(&path, KEPT_BYTES_MAX).map_err(|error| match error {
        SmallFileError::Missing(path) => KeptFileError::Missing(path),
        error => KeptFileError::File(error),
    })?;
    let (kept, node) =
        Kept::decode(&bytes).map_err(|what| KeptFileError::Damaged { path: path.clone(), what })?;
    let cluster_id = kept.map.config.cluster_id.clone();
    if let Some(node) = node {
        let found = Identity { cluster_id, node };
        if found != *owner {
            let other = OtherOwner { kind: "map", path, found, expected: owner.clone() };
            return Err(KeptFileError::OtherOwner(Box::new(other)));
        }
    } else if cluster_id != owner.cluster_id {
        let (found, expected) = (cluster_id, owner.cluster_id.clone());
        return Err(KeptFileError::OtherCluster { path, found, expected });
    }
    Ok((kept, node.is_some()))
}

/// What the directory has, or a first start begins with. `told`: new addresses that a cluster file says. Nothing is
/// written before [`settle`], or [`begin`] of a first start.
pub fn open(
    data_dir: &DataDir,
    first: &ClusterConfig,
    told: &BTreeMap<NodeId, NodeConfig>,
) -> Result<Kept, KeptFileError> {
    let owner = data_dir.identity();
    if !data_dir.log_exists() {
        // Nothing was done by what a start that was cut short has left.
        let mut kept = Kept::first(first);
        kept.tell_addresses(told);
        return Ok(kept);
    }
    let mut kept = read(data_dir.path(), owner)?;
    kept.tell_addresses(told);
    Ok(kept)
}

/// Makes the file, at a first start: before there is a log there is a map.
pub fn begin(data_dir: &DataDir, kept: &Kept) -> Result<(), KeptFileError> {
    Ok(data_dir::write_map(data_dir.path(), &kept.encode(data_dir.identity().node))?)
}

/// Has the file say what is kept, and whose it is: once log and state are known to be this node's, since a start that
/// is refused must leave all as it was.
pub fn settle(data_dir: &DataDir, kept: &Kept) -> Result<(), KeptFileError> {
    let owner = data_dir.identity();
    let (before, owned) = read_owned(data_dir.path(), owner)?;
    if !owned || before != *kept {
        data_dir::write_map(data_dir.path(), &kept.encode(owner.node))?;
    }
    Ok(())
}

/// How long a stop waits for a write that is under way, and how often it looks.
const STOP_MAX: Duration = Duration::from_secs(5);
const STOP_LOOK: Duration = Duration::from_millis(2);

/// The thread. Dropping it waits for a write that is under way, unless the disk is stuck.
pub struct KeptWriter {
    to: Option<SyncSender<(u64, Arc<Kept>)>>,
    thread: Option<JoinHandle<()>>,
}

impl KeptWriter {
    /// In `owner`'s directory. `events` hears the number of each that is on disk.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start(
        (dir, owner): (PathBuf, NodeId),
        events: mpsc::Sender<u64>,
    ) -> std::io::Result<KeptWriter> {
        let (to, queue) = sync_channel(1);
        let run = move || write_all((&dir, owner), &queue, &events);
        let thread = std::thread::Builder::new().name("map-writer".to_owned()).spawn(run)?;
        Ok(KeptWriter { to: Some(to), thread: Some(thread) })
    }

    /// Has this written. The one before was answered.
    pub fn write(&self, number: u64, kept: Arc<Kept>) {
        if let Some(to) = &self.to {
            // There is room, and the thread ends after this alone.
            let _ = to.try_send((number, kept));
        }
    }
}

impl Drop for KeptWriter {
    fn drop(&mut self) {
        self.to.take();
        let Some(thread) = self.thread.take() else { return };
        let until = Instant::now() + STOP_MAX;
        while !thread.is_finished() && Instant::now() < until {
            std::thread::sleep(STOP_LOOK);
        }
        if thread.is_finished() {
            // A panic was told where it was.
            let _ = thread.join();
        }
    }
}

fn write_all(
    (dir, owner): (&Path, NodeId),
    queue: &Receiver<(u64, Arc<Kept>)>,
    events: &mpsc::Sender<u64>,
) {
    while let Ok((number, kept)) = queue.recv() {
        let bytes = kept.encode(owner);
        let mut failed = false;
        while let Err(error) = data_dir::write_map(dir, &bytes) {
            if !std::mem::replace(&mut failed, true) {
                warn!(%error, "cannot keep the newest map of the cluster, trying again");
            }
            match queue.recv_timeout(RETRY) {
                Err(RecvTimeoutError::Timeout) => {}
                // The process stops: the next one hears the map again.
                Ok(_) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        if failed {
            info!("the newest map of the cluster is kept again");
        }
        if events.blocking_send(number).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shard_core::cluster_config::ConfigNum;

    fn config(cluster_id: &str) -> ClusterConfig {
        ClusterConfig { num: ConfigNum(1), cluster_id: cluster_id.into(), ..Default::default() }
    }

    fn owner() -> Identity {
        Identity { cluster_id: "c".into(), node: NodeId(1) }
    }

    fn data_dir(dir: &Path) -> DataDir {
        DataDir::open(dir, &owner()).unwrap()
    }

    /// As programs wrote it that did not say whose it is: version 2, without the last field, a byte.
    fn without_owner(kept: &Kept) -> Vec<u8> {
        let bytes = kept.encode(NodeId(1));
        let mut content = bytes[..bytes.len() - 5].to_vec();
        content[7] = 2;
        let shift = |sum: u32, _| (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg());
        let crc32 = |sum, byte: &u8| (0..8).fold(sum ^ u32::from(*byte), shift);
        let sum: u32 = !content.iter().fold(!0, crc32);
        content.extend_from_slice(&sum.to_le_bytes());
        content
    }

    #[test]
    fn a_file_that_is_missing_damaged_or_anothers_stops_a_node_that_has_run() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path();
        let mut data = data_dir(dir);
        let kept = open(&data, &config("c"), &BTreeMap::new()).unwrap();
        assert!(!dir.join(data_dir::MAP).exists(), "a start may be refused yet");
        begin(&data, &kept).unwrap();
        assert_eq!(read(dir, &owner()).unwrap(), kept);
        // Until then a start begins anew, whatever is there.
        std::fs::write(dir.join(data_dir::MAP), "half").unwrap();
        assert_eq!(open(&data, &config("c"), &BTreeMap::new()).unwrap(), kept);
        data.set_log_exists().unwrap();
        let refused = |dir: &Path| {
            let error = open(&data, &config("c"), &BTreeMap::new()).unwrap_err().to_string();
            error.replace(&dir.display().to_string(), "DIR")
        };
        std::fs::write(dir.join(data_dir::MAP), "half").unwrap();
        assert!(refused(dir).starts_with("the file DIR/map is damaged: it does not begin"));
        data_dir::write_map(dir, &without_owner(&Kept::first(&config("d")))).unwrap();
        assert_eq!(
            refused(dir),
            "the file DIR/map is of cluster \"d\", and this node is of cluster \"c\""
        );
        for (cluster, node) in [("c", 2), ("d", 1)] {
            let others = Kept::first(&config(cluster)).encode(NodeId(node));
            data_dir::write_map(dir, &others).unwrap();
            let said = refused(dir);
            assert!(said.starts_with(&format!(
                "the map DIR/map belongs to node {node} of cluster \"{cluster}\", its directory to node 1 of \
                 cluster \"c\"; put back the one that was here"
            )), "{said}");
            assert_eq!(std::fs::read(dir.join(data_dir::MAP)).unwrap(), others);
        }
        // One that does not say whose it is belongs to the node that opens it, once that has found the rest its own.
        let old = without_owner(&kept);
        data_dir::write_map(dir, &old).unwrap();
        assert_eq!(read(dir, &owner()).unwrap(), kept);
        assert_eq!(open(&data, &config("c"), &BTreeMap::new()).unwrap(), kept);
        assert_eq!(
            std::fs::read(dir.join(data_dir::MAP)).unwrap(),
            old,
            "a start may be refused yet"
        );
        settle(&data, &kept).unwrap();
        assert_eq!(std::fs::read(dir.join(data_dir::MAP)).unwrap(), kept.encode(NodeId(1)));
        std::fs::remove_file(dir.join(data_dir::MAP)).unwrap();
        assert!(refused(dir).starts_with("the file DIR/map is missing, but this node has run"));
    }

    /// A directory in its way is what no privilege can write over.
    #[test]
    fn a_write_that_fails_is_tried_again_and_reported_once_it_is_there() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().to_owned();
        let in_the_way = dir.join("map.unfinished");
        std::fs::create_dir(&in_the_way).unwrap();
        let (events, mut heard) = mpsc::channel(1);
        let writer = KeptWriter::start((dir.clone(), NodeId(1)), events).unwrap();
        let kept = Arc::new(Kept::first(&config("c")));
        writer.write(7, kept.clone());
        std::thread::sleep(Duration::from_millis(50));
        assert!(heard.try_recv().is_err() && read(&dir, &owner()).is_err());
        std::fs::remove_dir(&in_the_way).unwrap();
        assert_eq!(heard.blocking_recv(), Some(7));
        assert_eq!(read(&dir, &owner()).unwrap(), *kept);
        // One that cannot be written does not hold up a stop.
        std::fs::create_dir(&in_the_way).unwrap();
        writer.write(8, kept);
        drop(writer);
        assert_eq!(heard.blocking_recv(), None);
    }
}

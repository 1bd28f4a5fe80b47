//! The file `map`: what a node keeps of the cluster ([`shard_core::kept`]), and the thread that writes it.
//!
//! The file is replaced whole, so a crash leaves the old one or the new one. Unlike log and state it is written
//! anew each time: a write that fails, for want of space for one, is tried again, and until then the node goes by
//! what is there.

use crate::data_dir::{self, DataDir, DataDirError};
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
    /// It is another cluster's.
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

/// Reads the file of a directory.
pub fn read(dir: &Path, cluster_id: &str) -> Result<Kept, KeptFileError> {
    let path = dir.join(data_dir::MAP);
    let bytes = small_file::read(&path, KEPT_BYTES_MAX).map_err(|error| match error {
        SmallFileError::Missing(path) => KeptFileError::Missing(path),
        error => KeptFileError::File(error),
    })?;
    let kept =
        Kept::decode(&bytes).map_err(|what| KeptFileError::Damaged { path: path.clone(), what })?;
    let found = &kept.map.config.cluster_id;
    if found != cluster_id {
        let (found, expected) = (found.clone(), cluster_id.to_owned());
        return Err(KeptFileError::OtherCluster { path, found, expected });
    }
    Ok(kept)
}

/// What the directory has, or a first start begins with. `told`: new addresses that a cluster file says.
pub fn open(
    data_dir: &DataDir,
    first: &ClusterConfig,
    told: &BTreeMap<NodeId, NodeConfig>,
) -> Result<Kept, KeptFileError> {
    let mut kept = match data_dir.log_exists() {
        true => read(data_dir.path(), &first.cluster_id)?,
        // Nothing was done by what a start that was cut short has left.
        false => Kept::first(first),
    };
    let before = kept.moved.clone();
    kept.tell_addresses(told);
    if !data_dir.log_exists() || kept.moved != before {
        data_dir::write_map(data_dir.path(), &kept.encode())?;
    }
    Ok(kept)
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
    /// `events` hears the number of each that is on disk.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start(dir: PathBuf, events: mpsc::Sender<u64>) -> std::io::Result<KeptWriter> {
        let (to, queue) = sync_channel(1);
        let run = move || write_all(&dir, &queue, &events);
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

fn write_all(dir: &Path, queue: &Receiver<(u64, Arc<Kept>)>, events: &mpsc::Sender<u64>) {
    while let Ok((number, kept)) = queue.recv() {
        let bytes = kept.encode();
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
    use crate::data_dir::Identity;
    use shard_core::cluster_config::ConfigNum;

    fn config(cluster_id: &str) -> ClusterConfig {
        ClusterConfig { num: ConfigNum(1), cluster_id: cluster_id.into(), ..Default::default() }
    }

    fn data_dir(dir: &Path) -> DataDir {
        DataDir::open(dir, &Identity { cluster_id: "c".into(), node: NodeId(1) }).unwrap()
    }

    #[test]
    fn a_file_that_is_missing_damaged_or_anothers_stops_a_node_that_has_run() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path();
        let mut data = data_dir(dir);
        let kept = open(&data, &config("c"), &BTreeMap::new()).unwrap();
        assert_eq!(read(dir, "c").unwrap(), kept);
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
        data_dir::write_map(dir, &Kept::first(&config("d")).encode()).unwrap();
        assert_eq!(
            refused(dir),
            "the file DIR/map is of cluster \"d\", and this node is of cluster \"c\""
        );
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
        let writer = KeptWriter::start(dir.clone(), events).unwrap();
        let kept = Arc::new(Kept::first(&config("c")));
        writer.write(7, kept.clone());
        std::thread::sleep(Duration::from_millis(50));
        assert!(heard.try_recv().is_err() && read(&dir, "c").is_err());
        std::fs::remove_dir(&in_the_way).unwrap();
        assert_eq!(heard.blocking_recv(), Some(7));
        assert_eq!(read(&dir, "c").unwrap(), *kept);
        // One that cannot be written does not hold up a stop.
        std::fs::create_dir(&in_the_way).unwrap();
        writer.write(8, kept);
        drop(writer);
        assert_eq!(heard.blocking_recv(), None);
    }
}

//! One node from its directory to its sockets, and a router alone: what `dev`, `node` and `router`
//! are made of.

use crate::clock::Clock;
use crate::cluster_file::{Cluster, ClusterFile, NodeEntry};
use crate::config::ClientSettings;
use crate::data_dir::{self, DataDir, DataDirError, Identity};
use crate::disk::Disk;
use crate::disk_space::{DiskSpace, Kind, Watch};
use crate::kept_file::{self, KeptFileError, KeptWriter};
use crate::listener::{self, Inbound, Known, LocalIdentity};
use crate::loading::{self, StateError};
use crate::log_store::{LogEvent, LogStore, LogStoreConfig, LogStoreError, OpenedLog};
use crate::random;
use crate::snapshot_bytes::{INCOMING_BYTES_MAX, SnapshotBytes};
use crate::spare;
use crate::state_store::{OpenedState, StateStore, StateStoreConfig};
use crate::storage::OpenStorage;
use crate::transport::Transport;
use crate::worker::{self, DiskEvents, LocalRouter, Parts, Shared, WorkerError};
use raft_core::config::EPOCH_BITS;
use raft_core::types::EntryId;
use raft_core::{Config, OpenError};
use router::backend::{Backend, BackendConfig, LocalNode};
use router::dispatch::Bounds;
use router::{FrontEnd, ServeConfig};
use shard_core::cluster_config::{ClusterConfig, NodeConfig};
use shard_core::handshake::{Credentials, Secret};
use shard_core::kept::Kept;
use shard_core::machine::Machine;
use shard_core::node::{Node, NodeSetup};
use shard_core::replica::{CheckpointConfig, Recovered};
use shard_core::wire::NodeStatus;
use shard_core::{GroupId, NodeId};
use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener as StdListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Inbound messages that may wait for the worker; beyond it sockets are not read.
const INBOX_MAX: usize = 4096;
/// Log events that may wait for the worker: one per commit and one per fetch.
const LOG_EVENTS_MAX: usize = 1024;
/// State events that may wait for the worker: at most one for each command. No fewer than commands may
/// wait ([`crate::state_store::QUEUE_MAX`]), so that worker and writer never wait for each other.
const STATE_EVENTS_MAX: usize = crate::state_store::QUEUE_MAX;
/// State machines that were loaded and wait for the worker.
const LOADED_MAX: usize = 16;
/// Message batches between the worker and the router of its process, each way.
const LOCAL_MAX: usize = 4096;
/// Bytes of log that stay behind checkpoints on a node, of all its groups: else the log's size would be
/// the number of groups times what one may keep.
const TRAILING_BYTES_MAX: u64 = 256 << 20;
/// What a group may keep of that, however many there are.
const TRAILING_BYTES_MIN: u64 = 256 << 10;
/// Bytes of log that a node keeps for peers that went down a short time ago, of all its groups.
const MISSED_BYTES_MAX: u64 = 1 << 30;
/// Bytes of log that come between two checkpoints, of all groups: what a start reads again.
const UNCOVERED_BYTES_MAX: u64 = 256 << 20;
/// What of that a group may have, however many there are: less is not worth the pages that a checkpoint
/// writes.
const UNCOVERED_BYTES_MIN: u64 = 1 << 20;
const NO_RANDOMNESS: &str = "cannot read /dev/urandom";

/// What one node is started with.
pub struct NodeOptions {
    /// Its id.
    pub id: NodeId,
    /// Its directory.
    pub dir: PathBuf,
    /// The cluster it belongs to.
    pub cluster: Cluster,
    /// Where nodes are reached, whatever a map says: this one, and all whose addresses are drawn anew.
    pub addresses: BTreeMap<NodeId, NodeConfig>,
    /// Bound sockets for clients.
    pub resp: Vec<StdListener>,
    /// Bound socket for peers and routers.
    pub peer: StdListener,
    /// Where cluster-aware clients come, if anywhere.
    pub cluster_port: Option<ClusterPort>,
    /// How long a request is retried inside.
    pub request_timeout: Duration,
    /// What clients may do.
    pub clients: ClientSettings,
    /// Bytes of memory from which on nothing may grow; 0: no limit.
    pub maxmemory: u64,
    /// Where a node serves clients that is to make this one known, unless it is known.
    pub join: Option<(String, u16)>,
    /// Leaders take leases, and serve reads by them.
    pub lease_reads: bool,
    /// How log and state are kept.
    pub disk: DiskOptions,
}

/// A port that sends clients to leaders.
pub struct ClusterPort {
    /// Bound socket.
    pub socket: StdListener,
    /// The port that clients are told, beside the host of the node's address for clients.
    pub told: u16,
}

/// How a node's log and state are kept. The program takes the default.
#[derive(Clone, Debug, Default)]
pub struct DiskOptions {
    /// What they are kept on.
    pub storage: OpenStorage,
    /// The log's sizes. Whether it must exist says the directory.
    pub log: LogStoreConfig,
    /// The state's sizes. Whether it must exist says the directory.
    pub state: StateStoreConfig,
    /// When the state is put to disk.
    pub checkpoints: CheckpointConfig,
    /// Free bytes of the disk below which nothing may grow. None: the default ([`DiskSpace::watch`]).
    pub free_bytes_min: Option<u64>,
    /// Changes the settings of each replica: how much of its log stays, for one.
    pub replicas: Option<fn(&mut Config)>,
}

/// How a node is told to stop: first its clients, then the rest.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Take no more commands, answer what was taken.
    pub clients: CancellationToken,
    /// Stop the replicas and close the disk.
    pub replicas: CancellationToken,
    /// The others stay: what this node leads is handed to them before it stops.
    pub hand_over: bool,
}

/// Why a node did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Its directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DataDirError),
    /// What it keeps of the cluster cannot be used.
    #[error(transparent)]
    Kept(#[from] KeptFileError),
    /// Its log cannot be opened.
    #[error(transparent)]
    Log(#[from] LogStoreError),
    /// Its state cannot be opened or loaded.
    #[error(transparent)]
    State(#[from] StateError),
    /// A replica cannot be opened.
    #[error("a replica cannot be opened: {0}")]
    Replica(#[from] OpenError),
    /// It had to stop while it ran.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The operating system refused something.
    #[error("{what}: {source}")]
    System {
        /// What was asked.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> NodeError {
    move |source| NodeError::System { what, source }
}

/// What a node says of itself, renewed every 100 ms or so.
pub type StatusWatch = watch::Receiver<Arc<NodeStatus>>;

/// Makes what a node's first start leaves on disk before the node says anything: its directory with
/// identity, an empty log and no state. Who makes several nodes can so tell, from their first write on, one that
/// was lost from one that is new. Changes nothing where all that is there.
pub fn prepare_node(id: NodeId, dir: &Path, cluster: &Cluster) -> Result<(), NodeError> {
    let identity = Identity { cluster_id: cluster.config.cluster_id.clone(), node: id };
    let mut data_dir = DataDir::open(dir, &identity)?;
    keep_cluster(&mut data_dir, cluster)?;
    if !data_dir.log_exists() {
        kept_file::begin(&data_dir, &Kept::first(&cluster.config))?;
    }
    let must_exist = data_dir.log_exists();
    LogStore::create(&data_dir.log_path(), must_exist, &identity)?;
    let state = StateStore::create(&data_dir.state_path(), must_exist, &identity);
    state.map_err(StateError::Store)?;
    Ok(data_dir.set_log_exists()?)
}

/// Runs one node on this thread's `LocalSet` until it is told to stop or has to. `started` gets the
/// node's status once clients can connect; `drained` hears when the last client was answered.
pub async fn run_node(
    options: NodeOptions,
    started: oneshot::Sender<StatusWatch>,
    drained: oneshot::Sender<()>,
    stop: Stop,
) -> Result<(), NodeError> {
    let NodeOptions { id, dir, cluster, addresses, resp, peer, cluster_port, .. } = options;
    let NodeOptions { request_timeout, clients, maxmemory, lease_reads, disk, join, .. } = options;
    let identity = Identity { cluster_id: cluster.config.cluster_id.clone(), node: id };
    // Held until the end: no other process can open the directory meanwhile.
    let mut data_dir = DataDir::open(&dir, &identity)?;
    let (kept, kept_writer, kept_events) = open_map(&data_dir, &cluster)?;
    let (local_router, local_node) = join_router(id);
    let status = local_node.status.clone();
    let mut bootstrap = cluster.config.clone();
    bootstrap.nodes.extend(addresses.clone());
    let backend =
        start_backend(bootstrap, cluster.secret.clone(), request_timeout, Some(local_node))?;
    let (space, watch) = DiskSpace::watch(&dir, disk.free_bytes_min)
        .map_err(system("cannot see how much room the disk has"))?;
    let (read, recovered) = read_disk(&data_dir, &disk, &space, &kept)?;
    let secret = Secret::new(cluster.secret.clone());
    let epoch = random::number().map_err(system(NO_RANDOMNESS))?;
    let local =
        LocalIdentity { node: id, epoch, cluster_id: cluster.config.cluster_id.clone(), secret };
    let setup = NodeSetup {
        id,
        epoch,
        bootstrap: cluster.config.clone(),
        addresses,
        kept: kept.clone(),
        seed: random::number().map_err(system(NO_RANDOMNESS))?,
        checkpoints: Some(disk.checkpoints),
        memory_max: maxmemory,
    };
    // Log and state may be each whole, and of different moments: that is refused before either is written.
    let node = open_replicas(recovered, setup, (lease_reads, disk.replicas))?;
    let kept_map = (&kept, kept_events);
    let opened = start_disk(read, &mut data_dir, (&space, watch), &cluster, kept_map)?;
    let joining = join.map(|place| tokio::task::spawn_local(spare::join(backend.clone(), place)));
    let front = FrontEnd::new(backend, ServeConfig { maxmemory, ..serve_config(&resp, &clients)? });
    let told = cluster_port.as_ref().map(|cluster_port| cluster_port.told);
    let buffers = Rc::new({
        let front = front.clone();
        move || front.buffered_bytes()
    });
    let router = (LocalRouter { buffers, ..local_router }, told);
    let opened = (opened, kept_writer);
    let parts = start_replicas(node, opened, local, peer, router, &stop)?;
    let mut worker = tokio::task::spawn_local(worker::run(parts, stop.replicas.clone()));

    let mut clients = JoinSet::new();
    for (listener, front) in doors(resp, cluster_port, &front)? {
        let (listener, stop) = (into_tokio(listener)?, stop.clients.clone());
        clients.spawn_local(async move { front.serve(listener, stop).await });
    }
    info!(node = %id, dir = %dir.display(), "node started");
    let _ = started.send(status);

    tokio::select! {
        result = &mut worker => return finish(result),
        () = async { while clients.join_next().await.is_some() {} } => {}
    }
    let _ = drained.send(());
    joining.inspect(JoinHandle::abort);
    finish(worker.await)
}

/// The sockets for clients, each with the front end that serves it.
fn doors(
    resp: Vec<StdListener>,
    cluster_port: Option<ClusterPort>,
    front: &FrontEnd,
) -> Result<Vec<(StdListener, FrontEnd)>, NodeError> {
    let mut doors: Vec<_> = resp.into_iter().map(|socket| (socket, front.clone())).collect();
    if let Some(ClusterPort { socket, .. }) = cluster_port {
        let port = socket.local_addr().map_err(system("a socket has no address"))?.port();
        doors.push((socket, front.on_cluster_port(port)));
    }
    Ok(doors)
}

/// Opens the replicas on what the disk has.
fn open_replicas(
    recovered: Recovereds,
    mut setup: NodeSetup,
    (lease_reads, adjust): (bool, Option<fn(&mut Config)>),
) -> Result<Node, NodeError> {
    let id = setup.id;
    // What was asked before a start must not be answered after it.
    let epoch = setup.epoch >> (u64::BITS - EPOCH_BITS);
    let groups = setup.kept.map.config.groups.keys();
    let seats = groups.filter(|group| setup.kept.seats(**group, id)).count() as u64;
    let trailing = share(seats, TRAILING_BYTES_MAX, TRAILING_BYTES_MIN);
    let uncovered = share(seats, UNCOVERED_BYTES_MAX, UNCOVERED_BYTES_MIN);
    let missed = share(seats, MISSED_BYTES_MAX, 0);
    if let Some(checkpoints) = &mut setup.checkpoints {
        checkpoints.log_bytes_max = checkpoints.log_bytes_max.min(uncovered);
    }
    let raft_config = move |group: GroupId, voters: Vec<NodeId>| {
        let mut config = Config { epoch, ..Config::new(id, group, voters) };
        config.log_trailing_bytes = config.log_trailing_bytes.min(trailing);
        config.missed_bytes_max = config.missed_bytes_max.min(missed);
        if lease_reads {
            config.lease_ns = config.election_timeout_ns_min;
        }
        if let Some(adjust) = adjust {
            adjust(&mut config);
        }
        config
    };
    // Their clock begins once the disk is theirs.
    Ok(Node::open(setup, recovered, Box::new(raft_config), 0)?)
}

/// Links the replicas to their peers.
fn start_replicas(
    node: Node,
    ((disk, disk_events), kept): ((Disk, DiskEvents), KeptWriter),
    local: LocalIdentity,
    peer: StdListener,
    (local_router, cluster_port): (LocalRouter, Option<u16>),
    stop: &Stop,
) -> Result<Parts, NodeError> {
    let (inbox_tx, inbox) = mpsc::channel::<Inbound>(INBOX_MAX);
    let known = Rc::new(Known::default());
    known.set((!node.is_spare()).then(|| node.nodes().into_keys().collect()));
    let shared = Shared::new(node, Clock::start());
    let transport = Transport::start(local.clone(), shared.clone(), inbox_tx.clone(), cluster_port);
    let listening = stop.replicas.child_token();
    let incoming = SnapshotBytes::new(INCOMING_BYTES_MAX);
    tokio::task::spawn_local(listener::listen(
        into_tokio(peer)?,
        local,
        known.clone(),
        inbox_tx,
        incoming.clone(),
        listening,
    ));
    let (hand_over, local) = (stop.hand_over, local_router);
    Ok(Parts {
        shared,
        disk,
        disk_events,
        inbox,
        incoming,
        transport,
        kept,
        known,
        local,
        cluster_port,
        hand_over,
    })
}

/// What each of so many groups may have of what all may, and at least.
fn share(seats: u64, all: u64, least: u64) -> u64 {
    (all / seats.max(1)).max(least)
}

/// What each group's replica starts from.
type Recovereds = BTreeMap<GroupId, Recovered>;

/// Log and state, which were read and are as they were.
struct ReadDisk {
    log: OpenedLog,
    state: OpenedState,
    /// The groups whose install was cut short: it is finished first.
    installing: BTreeMap<GroupId, EntryId>,
}

/// Reads both files and loads every group's newest checkpoint. What is there stays as it is.
fn read_disk(
    data_dir: &DataDir,
    options: &DiskOptions,
    space: &Arc<DiskSpace>,
    kept: &Kept,
) -> Result<(ReadDisk, Recovereds), NodeError> {
    let (log, state, mut machines) = read_files(data_dir, options, space, kept)?;
    let stored = state.groups();
    let installing: BTreeMap<_, _> =
        stored.iter().filter_map(|(group, stored)| Some((*group, stored.installing?))).collect();
    let restored = log.groups(&installing)?;
    let mut recovered: Recovereds =
        restored.into_iter().map(|(group, log)| (group, log.into())).collect();
    for (group, stored) in stored {
        let replica = recovered.entry(group).or_default();
        (replica.raft.checkpoint, replica.raft.staged) = (stored.checkpoint, stored.staged);
        replica.machine = machines.remove(&group);
    }
    Ok((ReadDisk { log, state, installing }, recovered))
}

/// Goes on with both files, since nothing of what is there was refused: from now on they are written. An install that was
/// cut short is finished first, of which the state says which, and the log follows; and the directory keeps what is new
/// of the cluster.
fn start_disk(
    read: ReadDisk,
    data_dir: &mut DataDir,
    (space, watch): (&Arc<DiskSpace>, Watch),
    cluster: &Cluster,
    (kept, kept_events): (&Kept, mpsc::Receiver<u64>),
) -> Result<(Disk, DiskEvents), NodeError> {
    let ReadDisk { log, state, installing } = read;
    if !data_dir.log_exists() {
        keep_cluster(data_dir, cluster)?;
        kept_file::begin(data_dir, kept)?;
    }
    let (events, state_events) = mpsc::channel(STATE_EVENTS_MAX);
    let report = move |event| {
        // The receiver goes with the worker; nobody waits for what comes after that.
        let _ = events.blocking_send(event);
    };
    let state = state.start(report).map_err(StateError::Store)?;
    let (events, log_events) = mpsc::channel::<LogEvent>(LOG_EVENTS_MAX);
    let report = move |event| {
        let _ = events.blocking_send(event);
    };
    let log = log.start(&installing, report)?;
    installing.keys().for_each(|group| state.installed(*group));
    data_dir.set_log_exists()?;
    kept_file::settle(data_dir, kept)?;
    // After the map: that has the addresses that are new in it.
    keep_cluster(data_dir, cluster)?;

    let (loaded, loaded_events) = mpsc::channel(LOADED_MAX);
    let events = DiskEvents {
        log: log_events,
        state: state_events,
        loaded: loaded_events,
        kept: kept_events,
    };
    space.be_patient();
    Ok((Disk::new(log, state, loaded, (space.clone(), watch)), events))
}

/// Both files, and the state machines of the groups that the node has. Files that are there stay as they are.
fn read_files(
    data_dir: &DataDir,
    options: &DiskOptions,
    space: &Arc<DiskSpace>,
    kept: &Kept,
) -> Result<(OpenedLog, OpenedState, BTreeMap<GroupId, Machine>), NodeError> {
    let (must_exist, owner) = (data_dir.log_exists(), data_dir.identity());
    let storage = |kind| space.patient(&options.storage, kind);
    let log_config = LogStoreConfig { must_exist, ..options.log };
    let state_config = StateStoreConfig { must_exist, ..options.state };
    let (log_path, log_storage) = (data_dir.log_path(), storage(Kind::Log));
    let read_state = || -> Result<_, StateError> {
        let path = data_dir.state_path();
        let state = OpenedState::read((&path, owner), &storage(Kind::State), state_config)?;
        let mut machines = BTreeMap::new();
        for (group, stored) in state.groups() {
            // What is to be deleted is not loaded before.
            if stored.checkpoint.is_some() && kept.wants(group) {
                machines.insert(group, loading::load(state.checkpoints(), group)?);
            }
        }
        Ok((state, machines))
    };
    // Both are read at once: a start with much in them takes as long as the larger one does.
    let (log, state) = std::thread::scope(|scope| {
        let log = scope.spawn(|| OpenedLog::read((&log_path, owner), &log_storage, log_config));
        let state = read_state();
        (log.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), state)
    });
    let (state, machines) = state?;
    Ok((log?, state, machines))
}

fn finish(
    result: Result<Result<(), WorkerError>, tokio::task::JoinError>,
) -> Result<(), NodeError> {
    match result {
        Ok(result) => Ok(result?),
        // Release builds abort on a panic; in tests it is passed on.
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// What the directory keeps of the cluster, the thread that writes it, and what that reports.
fn open_map(
    data_dir: &DataDir,
    cluster: &Cluster,
) -> Result<(Kept, KeptWriter, mpsc::Receiver<u64>), NodeError> {
    let told = new_addresses(data_dir, cluster);
    let kept = kept_file::open(data_dir, &cluster.config, &told)?;
    let (events, reports) = mpsc::channel(1);
    let writer = KeptWriter::start((data_dir.path().to_owned(), data_dir.identity().node), events)
        .map_err(system("cannot start a thread to write the map"))?;
    Ok((kept, writer, reports))
}

/// Where a cluster file says that nodes are, and the one before it said otherwise.
fn new_addresses(data_dir: &DataDir, cluster: &Cluster) -> BTreeMap<NodeId, NodeConfig> {
    let before: Option<ClusterFile> =
        data_dir.cluster_text().and_then(|text| toml::from_str(text).ok());
    let Some(before) = before else { return BTreeMap::new() };
    let new = cluster.file.nodes.iter().filter(|entry| !before.nodes.contains(entry));
    let at = |entry: &NodeEntry| NodeConfig { peer: entry.peer.clone(), resp: entry.resp.clone() };
    new.map(|entry| (NodeId(entry.id), at(entry))).collect()
}

/// Keeps what the next start needs, so that the cluster file is needed once.
fn keep_cluster(data_dir: &mut DataDir, cluster: &Cluster) -> Result<(), DataDirError> {
    let file = ClusterFile { secret_file: data_dir::SECRET.into(), ..cluster.file.clone() };
    data_dir.set_secret(&cluster.secret)?;
    data_dir.set_cluster_text(&file.to_toml())
}

/// Starts what carries requests to groups, on this thread's `LocalSet`.
pub fn start_backend(
    bootstrap: ClusterConfig,
    secret: Vec<u8>,
    request_timeout: Duration,
    local: Option<LocalNode>,
) -> Result<Backend, NodeError> {
    let random = || random::number().map_err(system(NO_RANDOMNESS));
    let credentials =
        Credentials::new(bootstrap.cluster_id.clone(), Secret::new(secret), random()?)
            .expect("a configuration that was checked has a cluster id that can be sent");
    let config = BackendConfig {
        request_timeout,
        credentials,
        bootstrap,
        bounds: Bounds::default(),
        seed: [random()?, random()?],
    };
    Ok(Backend::start(config, local))
}

/// The two ends between a worker and the router of its process.
fn join_router(node: NodeId) -> (LocalRouter, LocalNode) {
    let (to_node, from) = mpsc::channel(LOCAL_MAX);
    let (to, from_node) = mpsc::channel(LOCAL_MAX);
    let (status, status_seen) = watch::channel(Arc::default());
    let buffers = Rc::new(|| 0);
    (
        LocalRouter { from, to, status, buffers },
        LocalNode { node, to_node, from_node, status: status_seen },
    )
}

/// What INFO shows is the last address, which is the one a user was told of.
pub fn serve_config(
    listeners: &[StdListener],
    clients: &ClientSettings,
) -> Result<ServeConfig, NodeError> {
    let mut config = ServeConfig::default();
    clients.apply(&mut config);
    if let Some(listener) = listeners.last() {
        let address = listener.local_addr().map_err(system("a socket has no address"))?;
        config.bind = address.ip().to_string();
        config.port = address.port();
    }
    Ok(config)
}

/// A bound socket for the runtime of this thread.
pub fn into_tokio(listener: StdListener) -> Result<TcpListener, NodeError> {
    listener.set_nonblocking(true).map_err(system("cannot use a listening socket"))?;
    TcpListener::from_std(listener).map_err(system("cannot use a listening socket"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_groups_share_what_few_may_have_of_the_log() {
        let of = |seats| {
            let log = CheckpointConfig::default().log_bytes_max;
            (
                Config::new(NodeId(1), GroupId(1), Vec::new()).log_trailing_bytes.min(share(
                    seats,
                    TRAILING_BYTES_MAX,
                    TRAILING_BYTES_MIN,
                )),
                log.min(share(seats, UNCOVERED_BYTES_MAX, UNCOVERED_BYTES_MIN)),
            )
        };
        for few in 0..=4 {
            assert_eq!(of(few), (16 << 20, 64 << 20), "{few}");
        }
        for seats in 5..=256 {
            let (trailing, uncovered) = of(seats);
            assert!(
                seats * trailing <= TRAILING_BYTES_MAX && seats * uncovered <= UNCOVERED_BYTES_MAX
            );
        }
        assert_eq!(of(100_000), (TRAILING_BYTES_MIN, UNCOVERED_BYTES_MIN));
    }
}

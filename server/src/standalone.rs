//! `flotilla node` and `flotilla router`: one process each.

use crate::cluster_file::{self, Cluster, ClusterFile, ClusterFileError};
use crate::config::{
    ConfigError, NodeArgs, NodeSettings, REQUEST_TIMEOUT_MS, RouterArgs, check_address,
};
use crate::dev::refuse_embedded_cluster;
use crate::process::{
    ClusterPort, DiskOptions, NodeError, NodeOptions, Stop, into_tokio, run_node, serve_config,
    start_backend,
};
use crate::{data_dir, logging, spare};
use router::FrontEnd;
use shard_core::NodeId;
use shard_core::cluster_config::NodeConfig;
use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal as unix_signal};
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Why the program ends with exit code 1: one sentence for somebody at 3 a.m.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The cluster file cannot be used.
    #[error(transparent)]
    Cluster(#[from] ClusterFileError),
    /// A node of an embedded cluster failed.
    #[error("node {node}: {error}")]
    Node {
        /// The node.
        node: NodeId,
        /// Why.
        error: NodeError,
    },
    /// A directory cannot be used.
    #[error(transparent)]
    Directory(#[from] data_dir::DataDirError),
    /// A file cannot be written.
    #[error("cannot write {path}: {error}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// An address cannot be listened on.
    #[error("{flag}: cannot listen on {address}: {error}")]
    Bind {
        /// The flag that named it.
        flag: &'static str,
        /// The address.
        address: String,
        /// Why.
        error: io::Error,
    },
    /// A router failed.
    #[error(transparent)]
    Router(#[from] NodeError),
    /// Anything else.
    #[error("{0}")]
    Sentence(String),
}

/// Runs one node until a signal or a failure.
pub fn node(args: NodeArgs) -> Result<(), RunError> {
    node_with(args, |_| {})
}

/// The same, with what no argument can say: a test's disk, for one.
pub fn node_with(args: NodeArgs, adjust: impl FnOnce(&mut NodeOptions)) -> Result<(), RunError> {
    let settings = args.merged()?;
    logging::start(settings.log.as_deref().unwrap_or("info")).map_err(RunError::Sentence)?;
    settings.dir.as_deref().map_or(Ok(()), data_dir::check_files)?;
    let mut options = node_options(settings)?;
    adjust(&mut options);
    let id = options.id;
    let stop = Stop { hand_over: true, ..Stop::default() };
    let (started, _) = oneshot::channel();
    let (drained_tx, drained) = oneshot::channel();
    LocalSet::new().block_on(&runtime()?, async {
        let node = run_node(options, started, drained_tx, stop.clone());
        tokio::pin!(node);
        tokio::select! {
            result = &mut node => return result.map_err(|error| RunError::Node { node: id, error }),
            signal = signal() => say_stopping(signal?),
        }
        stop.clients.cancel();
        let stopping = async {
            let _ = drained.await;
            stop.replicas.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            result = &mut node => result.map_err(|error| RunError::Node { node: id, error }),
            () = stopping => Ok(()),
        }
    })
}

/// Fills in what the settings leave open from the cluster file, the given one or the directory's.
fn node_options(settings: NodeSettings) -> Result<NodeOptions, RunError> {
    let id = NodeId(settings.id.ok_or(ConfigError::Missing("id"))?);
    let dir = settings.dir.clone().ok_or(ConfigError::Missing("dir"))?;
    refuse_embedded_cluster(&dir)?;
    let kept = dir.join(data_dir::CLUSTER);
    let mut cluster = match &settings.cluster_file {
        Some(file) => cluster_file::load(file)?,
        None if kept.exists() => cluster_file::load(&kept)?,
        None => spare::learn(&settings)?,
    };
    // What a node was told to be at its first start it is; where it has come to since says its map.
    let began = data_dir::has_identity(&dir);
    let is_listed = cluster.config.nodes.contains_key(&id);
    let spare = settings.spare || settings.join.is_some() || (began && !is_listed);
    if kept.exists() && !spare {
        check_groups(&cluster_file::read(&kept)?, &cluster.file)?;
    }
    let kept_at = spare::kept_addresses(&dir, &cluster.config.cluster_id, id);
    if spare {
        cluster.config.groups.clear();
        cluster.config.slots.clear();
        cluster.config.nodes.clear();
    } else if !is_listed {
        return Err(RunError::Sentence(format!(
            "--id: the cluster file names no node {id}; to start a node that joins later, add \
             --spare"
        )));
    }
    // A spare is nobody that the file knows, whatever number it was given.
    let listed = cluster.config.nodes.get(&id).cloned();
    let found = listed.as_ref().or(kept_at.as_ref());
    let address = |flag: &'static str, set: &Option<String>, found: Option<&String>| {
        set.as_ref().or(found).cloned().ok_or(RunError::Config(ConfigError::Missing(flag)))
    };
    let resp = address("resp", &settings.resp, found.map(|at| &at.resp))?;
    let peer = address("peer", &settings.peer, found.map(|at| &at.peer))?;
    let told = |announced: Option<String>, listed: Option<String>, own: &str| {
        announced.or(listed).unwrap_or_else(|| own.to_owned())
    };
    let own = NodeConfig {
        resp: told(settings.announce_resp.clone(), listed.as_ref().map(|n| n.resp.clone()), &resp),
        peer: told(settings.announce_peer.clone(), listed.map(|n| n.peer), &peer),
    };
    // Where the others are says the map.
    let addresses = BTreeMap::from([(id, own.clone())]);
    cluster.config.nodes.insert(id, own);
    let resp_at = resolve("resp", &resp)?;
    let told = settings.announce_cluster_port;
    let cluster_port = settings.cluster_port.map(|port| open_cluster_port(resp_at, port, told));
    Ok(NodeOptions {
        id,
        clients: settings.clients(),
        maxmemory: settings.maxmemory.unwrap_or_default().0,
        lease_reads: settings.lease_reads,
        join: settings.join.as_deref().and_then(spare::split),
        dir,
        addresses,
        resp: vec![bind("--resp", resp_at)?],
        cluster_port: cluster_port.transpose()?,
        peer: bind("--peer", resolve("peer", &peer)?)?,
        request_timeout: Duration::from_millis(
            settings.request_timeout.unwrap_or(REQUEST_TIMEOUT_MS),
        ),
        cluster,
        disk: DiskOptions {
            free_bytes_min: settings.min_free_disk.map(|size| size.0),
            ..DiskOptions::default()
        },
    })
}

/// The cluster port stands beside the address for clients.
fn open_cluster_port(
    resp: SocketAddr,
    port: u16,
    told: Option<u16>,
) -> Result<ClusterPort, RunError> {
    let socket = bind("--cluster-port", SocketAddr::new(resp.ip(), port))?;
    Ok(ClusterPort { socket, told: told.unwrap_or(port) })
}

/// A cluster file that comes later may bring new addresses and a new secret. New voters it may not:
/// two majorities of one group, of old voters and of new ones, would not meet (Raft section 6).
fn check_groups(kept: &ClusterFile, given: &ClusterFile) -> Result<(), RunError> {
    // Another cluster's is refused with both names when the directory is opened.
    if kept.cluster_id != given.cluster_id {
        return Ok(());
    }
    let (kept, given) = (kept.seats(), given.seats());
    match kept.keys().chain(given.keys()).find(|id| kept.get(*id) != given.get(*id)) {
        None => Ok(()),
        Some(id) => {
            let says = |seats: &BTreeMap<u32, Vec<u64>>| match seats.get(id) {
                Some(voters) => format!("voters {voters:?}"),
                None => "no such group".to_owned(),
            };
            Err(RunError::Sentence(format!(
                "--cluster-file: group {id} has {}, but this node started with {}; a file does not \
                 change the groups of a cluster: put that back, or leave the flag out",
                says(&given),
                says(&kept)
            )))
        }
    }
}

/// Runs a router until a signal.
pub fn router(args: RouterArgs) -> Result<(), RunError> {
    logging::start(&args.log).map_err(RunError::Sentence)?;
    check_address("listen", &args.listen)?;
    let Cluster { config, secret, .. } = cluster_file::load(&args.cluster_file)?;
    let listener = bind("--listen", resolve("listen", &args.listen)?)?;
    let timeout = Duration::from_millis(args.request_timeout);
    LocalSet::new().block_on(&runtime()?, async {
        let serve_config = serve_config(std::slice::from_ref(&listener), &args.clients)?;
        let listener = into_tokio(listener)?;
        let backend = start_backend(config, secret, timeout, None)?;
        let stop = CancellationToken::new();
        let front = FrontEnd::new(backend, serve_config);
        let serving = front.serve(listener, stop.clone());
        tokio::pin!(serving);
        info!(listen = args.listen, "router started");
        tokio::select! {
            () = &mut serving => return Ok(()),
            signal = signal() => say_stopping(signal?),
        }
        stop.cancel();
        serving.await;
        Ok(())
    })
}

/// A single-threaded runtime: nothing crosses threads command by command.
pub fn runtime() -> Result<Runtime, RunError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| RunError::Sentence(format!("cannot start the runtime: {error}")))
}

/// Binds a listening socket. The port is free again at once after a stop (SO_REUSEADDR).
pub fn bind(flag: &'static str, address: SocketAddr) -> Result<TcpListener, RunError> {
    TcpListener::bind(address).map_err(|error| RunError::Bind {
        flag,
        address: address.to_string(),
        error,
    })
}

fn resolve(flag: &'static str, address: &str) -> Result<SocketAddr, RunError> {
    check_address(flag, address)?;
    let mut found = address.to_socket_addrs().map_err(|error| {
        RunError::Sentence(format!("--{flag}: '{address}' cannot be resolved: {error}"))
    })?;
    found
        .next()
        .ok_or_else(|| RunError::Sentence(format!("--{flag}: '{address}' resolves to no address")))
}

/// Waits for SIGINT or SIGTERM and names it.
pub async fn signal() -> Result<&'static str, RunError> {
    let listen = |kind| {
        unix_signal(kind)
            .map_err(|error| RunError::Sentence(format!("cannot listen for signals: {error}")))
    };
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => Ok("SIGINT"),
        _ = terminate.recv() => Ok("SIGTERM"),
    }
}

/// One line on what a stop does.
pub fn say_stopping(signal: &str) {
    info!(
        signal,
        "stopping: no new commands; what was taken is answered within {} seconds or cut off",
        router::SHUTDOWN_GRACE.as_secs()
    );
}

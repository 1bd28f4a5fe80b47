//! The embedded cluster: several nodes in one process, with real Raft, real files and real sockets
//! between them.

use crate::cluster_file::{self, Cluster, ClusterFile, GroupEntry, NodeEntry, Seats};
use crate::config::DevArgs;
use crate::data_dir;
use crate::process::{
    ClusterPort, DiskOptions, NodeOptions, StatusWatch, Stop, prepare_node, run_node,
};
use crate::standalone::{self, RunError, bind, runtime};
use shard_core::cluster_config::NodeConfig;
use shard_core::{GroupId, NodeId};
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use tokio::time::timeout;

/// The file that describes the embedded cluster, and the secret beside it.
const CLUSTER_FILE: &str = "cluster.toml";
const SECRET_FILE: &str = "secret";
/// Says that every node's directory was made, with its identity and log, which is before any node runs:
/// from then on what is missing of them is lost, not new.
pub(crate) const COMPLETE_FILE: &str = "complete";
/// How long the banner waits for leaders. A log that is long takes a while to be replayed, and who
/// started the program wants to know where it listens.
const LEADERS_MAX: Duration = Duration::from_secs(5);

/// Runs until a signal or a failure.
pub fn run(args: DevArgs) -> Result<(), RunError> {
    crate::logging::start(&args.log).map_err(RunError::Sentence)?;
    let (cluster, sockets, _lock) = open(&args)?;
    let addresses = sockets.addresses(&args)?;
    let stop = Stop::default();
    let (ended_tx, mut ended) = mpsc::channel(sockets.nodes.len());
    let mut started = Vec::new();
    let mut drained = Vec::new();
    for (id, Doors { resp, cluster_port, peer }) in sockets.nodes {
        let options = NodeOptions {
            id,
            dir: node_directory(&args.dir, id),
            cluster: cluster.clone(),
            addresses: addresses.clone(),
            resp,
            cluster_port,
            peer,
            request_timeout: Duration::from_millis(crate::config::REQUEST_TIMEOUT_MS),
            clients: args.clients.clone(),
            maxmemory: args.maxmemory.unwrap_or_default().0,
            disk: DiskOptions {
                free_bytes_min: args.min_free_disk.map(|size| size.0),
                ..DiskOptions::default()
            },
            join: None,
            lease_reads: false,
        };
        let (started_tx, started_rx) = oneshot::channel();
        let (drained_tx, drained_rx) = oneshot::channel();
        started.push(started_rx);
        drained.push(drained_rx);
        start_node(options, started_tx, drained_tx, stop.clone(), ended_tx.clone())?;
    }
    drop(ended_tx);
    runtime()?.block_on(async {
        let mut nodes = Vec::new();
        for started in started {
            match started.await {
                Ok(status) => nodes.push(status),
                Err(_) => return first_failure(&mut ended).await,
            }
        }
        let announced = async {
            // Not before elections are through: it stays the last that is said.
            let _ = timeout(LEADERS_MAX, every_group_leads(&mut nodes, &cluster)).await;
            // Nobody may be reading.
            let _ = writeln!(io::stdout(), "{}", banner(&args, &cluster));
            std::future::pending::<()>().await;
        };
        tokio::select! {
            result = first_failure(&mut ended) => return result,
            signal = standalone::signal() => standalone::say_stopping(signal?),
            () = announced => {}
        }
        stop.clients.cancel();
        for drained in drained {
            let _ = drained.await;
        }
        stop.replicas.cancel();
        while let Some(result) = ended.recv().await {
            result?;
        }
        Ok(())
    })
}

/// Waits until each group has a leader, or the first node has ended.
async fn every_group_leads(nodes: &mut [StatusWatch], cluster: &Cluster) {
    let leads = |nodes: &[StatusWatch], group: &GroupId| {
        nodes.iter().any(|node| {
            node.borrow().replicas.get(group).is_some_and(|replica| replica.role == "leader")
        })
    };
    while !cluster.config.groups.keys().all(|group| leads(nodes, group)) {
        // All are renewed as often.
        let Some(first) = nodes.first_mut() else { return };
        if first.changed().await.is_err() {
            return;
        }
    }
}

/// Whether the cluster file in a directory is an embedded cluster's.
fn has_embedded_file(dir: &Path) -> bool {
    let file = cluster_file::read(&dir.join(CLUSTER_FILE));
    file.is_ok_and(|file| file.nodes.iter().any(|node| node.peer == no_address("peer", node.id)))
}

/// Whether a directory that is no node's is one that an embedded cluster began in.
pub(crate) fn is_embedded_cluster(dir: &Path) -> bool {
    dir.join(COMPLETE_FILE).exists() || has_embedded_file(dir)
}

/// Refuses the directory of an embedded cluster, or that of a node in one, for a node alone: it has
/// no addresses that last, and a second node made in there would be in the cluster's way.
pub(crate) fn refuse_embedded_cluster(dir: &Path) -> Result<(), RunError> {
    let is_node = data_dir::has_identity(dir);
    if !is_node && is_embedded_cluster(dir) {
        return Err(RunError::Sentence(format!(
            "--dir: {dir} holds an embedded cluster; start it with `flotilla dev --dir {dir}`, or name \
             another directory",
            dir = dir.display()
        )));
    }
    if is_node && has_embedded_file(dir) {
        return Err(RunError::Sentence(format!(
            "--dir: {} is a node of an embedded cluster; start that with `flotilla dev` and the \
             directory above it, or name another directory",
            dir.display()
        )));
    }
    Ok(())
}

/// Where no one connects (RFC 6761): each start draws the real addresses anew.
fn no_address(role: &str, node: u64) -> String {
    format!("{role}-{node}.invalid:1")
}

/// Finds or makes the cluster, with its ports bound and its directory locked. Ports come before
/// anything is written: a start that cannot be leaves nothing behind.
fn open(args: &DevArgs) -> Result<(Cluster, Sockets, fs::File), RunError> {
    data_dir::refuse_single_node(&args.dir)?;
    let planned = find_or_describe(args)?;
    let sockets = Sockets::bind(args, planned.nodes.len() as u16)?;
    data_dir::create_directory(&args.dir)?;
    let lock = data_dir::lock(&args.dir)?;
    let path = args.dir.join(CLUSTER_FILE);
    if !path.exists() {
        create(&args.dir, &planned)?;
    }
    let cluster = cluster_file::load(&path)?;
    if cluster.file.nodes.len() != planned.nodes.len() {
        return Err(RunError::Sentence(format!(
            "the cluster in {} was made by another process just now; start again",
            args.dir.display()
        )));
    }
    make_nodes(&args.dir, &cluster)?;
    Ok((cluster, sockets, lock))
}

/// Runs a node on a thread of its own; how it ends goes to `ended`.
fn start_node(
    options: NodeOptions,
    started: oneshot::Sender<StatusWatch>,
    drained: oneshot::Sender<()>,
    stop: Stop,
    ended: mpsc::Sender<Result<(), RunError>>,
) -> Result<(), RunError> {
    let node = options.id;
    let run = move || {
        let result = runtime().and_then(|runtime| {
            LocalSet::new()
                .block_on(&runtime, run_node(options, started, drained, stop))
                .map_err(|error| RunError::Node { node, error })
        });
        // Nobody listens any more once another node's failure has ended the program.
        let _ = ended.blocking_send(result);
    };
    let thread = thread::Builder::new().name(format!("node-{node}")).spawn(run);
    thread
        .map(|_| ())
        .map_err(|error| RunError::Sentence(format!("cannot start a thread: {error}")))
}

/// The first node that ends before it was told to decides how the process ends.
async fn first_failure(ended: &mut mpsc::Receiver<Result<(), RunError>>) -> Result<(), RunError> {
    match ended.recv().await {
        Some(Err(error)) => Err(error),
        Some(Ok(())) | None => Err(RunError::Sentence("a node ended without a reason".into())),
    }
}

/// Bound sockets of every node: what is not free is told before anything starts.
struct Sockets {
    nodes: BTreeMap<NodeId, Doors>,
}

/// Those of one node.
struct Doors {
    resp: Vec<TcpListener>,
    cluster_port: Option<ClusterPort>,
    peer: TcpListener,
}

impl Sockets {
    fn bind(args: &DevArgs, nodes: u16) -> Result<Sockets, RunError> {
        let full = |flag: &str, port: u16| {
            RunError::Sentence(format!(
                "{flag}: {port} leaves no room for the ports of {nodes} nodes above it"
            ))
        };
        args.port.checked_add(nodes).ok_or_else(|| full("--port", args.port))?;
        if let Some(first) = args.cluster_ports {
            first.checked_add(nodes).ok_or_else(|| full("--cluster-ports", first))?;
        }
        let mut front = Some(bind_for_clients("--port", args.bind, args.port)?);
        let mut bound = BTreeMap::new();
        for i in 1..=nodes {
            let mut resp = vec![bind_for_clients("--port", args.bind, args.port + i)?];
            resp.extend(front.take());
            let peer = bind("between the nodes", SocketAddr::from(([127, 0, 0, 1], 0)))?;
            bound.insert(NodeId(u64::from(i)), Doors { resp, cluster_port: None, peer });
        }
        for (doors, i) in bound.values_mut().zip(1..) {
            doors.cluster_port = match args.cluster_ports.map(|first| first + i) {
                None => None,
                Some(told) => {
                    let socket = bind_for_clients("--cluster-ports", args.bind, told)?;
                    Some(ClusterPort { socket, told })
                }
            };
        }
        Ok(Sockets { nodes: bound })
    }

    fn addresses(&self, args: &DevArgs) -> Result<BTreeMap<NodeId, NodeConfig>, RunError> {
        let mut addresses = BTreeMap::new();
        for (id, doors) in &self.nodes {
            let peer = doors
                .peer
                .local_addr()
                .map_err(|error| RunError::Sentence(format!("a socket has no address: {error}")))?;
            let resp = SocketAddr::new(args.bind, args.port + id.0 as u16);
            let config = NodeConfig { peer: peer.to_string(), resp: resp.to_string() };
            addresses.insert(*id, config);
        }
        Ok(addresses)
    }
}

/// Binds a port for clients. What is wrong with the port is told of it, all else of the address.
fn bind_for_clients(flag: &'static str, ip: IpAddr, port: u16) -> Result<TcpListener, RunError> {
    bind(flag, SocketAddr::new(ip, port)).map_err(|failed| match failed {
        RunError::Bind { error, .. } if error.kind() == io::ErrorKind::AddrNotAvailable => {
            RunError::Sentence(format!("--bind: {ip} is not an address of this machine"))
        }
        RunError::Bind { address, error, .. }
            if !matches!(
                error.kind(),
                io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied
            ) =>
        {
            RunError::Bind { flag: "--bind", address, error }
        }
        other => other,
    })
}

/// The cluster of the directory, or else a new one.
fn find_or_describe(args: &DevArgs) -> Result<ClusterFile, RunError> {
    data_dir::check_files(&args.dir)?;
    let path = args.dir.join(CLUSTER_FILE);
    if path.exists() {
        let file = cluster_file::load(&path)?.file;
        check_shape(args, &file)?;
        refuse_lost_nodes(&args.dir, &file)?;
        return Ok(file);
    }
    refuse_lost_cluster_file(&args.dir)?;
    let (nodes, groups) = (args.nodes.unwrap_or(3), args.groups.unwrap_or(2));
    let replicas = args.replicas.unwrap_or(nodes.min(3));
    if replicas > nodes {
        return Err(RunError::Sentence(format!(
            "--replicas: {replicas} replicas need as many nodes, there are {nodes}"
        )));
    }
    describe(nodes, groups, replicas)
}

/// A node that starts with an empty directory has forgotten its votes and what it acknowledged.
fn refuse_lost_nodes(dir: &Path, file: &ClusterFile) -> Result<(), RunError> {
    if !dir.join(COMPLETE_FILE).exists() {
        return Ok(()); // the first start did not come to its end
    }
    let directories = file.nodes.iter().map(|node| node_directory(dir, NodeId(node.id)));
    match directories.into_iter().find_map(|directory| data_dir::missing_of_node(&directory)) {
        None => Ok(()),
        Some(lost) => Err(RunError::Sentence(format!(
            "{} is missing: that node would start without its votes and what it acknowledged, and \
             writes could be lost; put it back, or begin a new cluster with another --dir",
            lost.display()
        ))),
    }
}

/// The cluster file is there before any node's directory is.
fn refuse_lost_cluster_file(dir: &Path) -> Result<(), RunError> {
    // Any of them is from before: to begin anew would take their secret from under them.
    let nodes = (1..=crate::config::DEV_NODES_MAX).map(|id| node_directory(dir, NodeId(id)));
    let left = [dir.join(COMPLETE_FILE)].into_iter().chain(nodes).find(|path| path.exists());
    match left {
        None => Ok(()),
        Some(left) => Err(RunError::Sentence(format!(
            "{} is missing, but {} is there: put the file back, or begin a new cluster with another \
             --dir",
            dir.join(CLUSTER_FILE).display(),
            left.display()
        ))),
    }
}

/// Where a node of an embedded cluster has its data.
pub(crate) fn node_directory(dir: &Path, id: NodeId) -> PathBuf {
    dir.join(format!("node-{id}"))
}

/// Makes every node's directory and then says so, before any node runs: a node can acknowledge a
/// write, and from then on its directory must not be missed in silence. What a crash leaves before
/// that is gone on with.
fn make_nodes(dir: &Path, cluster: &Cluster) -> Result<(), RunError> {
    let path = dir.join(COMPLETE_FILE);
    if path.exists() {
        return Ok(());
    }
    for node in cluster.config.nodes.keys().copied() {
        prepare_node(node, &node_directory(dir, node), cluster)
            .map_err(|error| RunError::Node { node, error })?;
    }
    write_private(&path, b"")?;
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(wrote(dir))
}

fn check_shape(args: &DevArgs, file: &ClusterFile) -> Result<(), RunError> {
    let replicas = file.groups.first().map_or(0, |group| group.voters.len() as u64);
    for (flag, asked, held) in [
        ("nodes", args.nodes, file.nodes.len() as u64),
        ("groups", args.groups.map(u64::from), file.groups.len() as u64),
        ("replicas", args.replicas, replicas),
    ] {
        if let Some(asked) = asked
            && asked != held
        {
            return Err(RunError::Sentence(format!(
                "--{flag} {asked}: the cluster in {} has {held}; leave the flag out to resume it, \
                 or name another --dir",
                args.dir.display()
            )));
        }
    }
    Ok(())
}

/// A cluster file for the embedded cluster: groups take their seats round robin.
fn describe(nodes: u64, groups: u32, replicas: u64) -> Result<ClusterFile, RunError> {
    let id = crate::random::hex::<16>()
        .map_err(|error| RunError::Sentence(format!("cannot read /dev/urandom: {error}")))?;
    let seats = |first: u64| (0..replicas).map(|i| (first + i) % nodes + 1).collect::<Vec<_>>();
    Ok(ClusterFile {
        cluster_id: format!("dev-{id}"),
        secret_file: SECRET_FILE.into(),
        nodes: (1..=nodes)
            .map(|id| NodeEntry { id, peer: no_address("peer", id), resp: no_address("resp", id) })
            .collect(),
        shardmaster: Seats { voters: seats(0) },
        groups: (1..=groups)
            .map(|id| GroupEntry { id, voters: seats(u64::from(id) - 1) })
            .collect(),
    })
}

/// Writes secret and cluster file; the latter last and by renaming, so that a crash before that
/// leaves a directory that the next start begins anew.
fn create(dir: &Path, file: &ClusterFile) -> Result<(), RunError> {
    let secret = crate::random::hex::<32>().map_err(wrote(Path::new("/dev/urandom")))?;
    write_private(&dir.join(SECRET_FILE), secret.as_bytes())?;
    let half = dir.join("cluster.toml.new");
    write_private(&half, file.to_toml().as_bytes())?;
    // A power loss must not keep the cluster file and take the secret that it names.
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(wrote(dir))?;
    let path = dir.join(CLUSTER_FILE);
    fs::rename(&half, &path).map_err(wrote(&path))?;
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(wrote(dir))
}

fn write_private(path: &Path, bytes: &[u8]) -> Result<(), RunError> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .map_err(wrote(path))
}

fn wrote(path: &Path) -> impl FnOnce(io::Error) -> RunError {
    move |error| RunError::Write { path: path.into(), error }
}

fn banner(args: &DevArgs, cluster: &Cluster) -> String {
    let file = &cluster.file;
    let port = args.port;
    let (nodes, groups) = (file.nodes.len(), file.groups.len());
    let replicas = file.groups.first().map_or(0, |group| group.voters.len());
    let dir = args.dir.display();
    let ports = (1..=nodes as u16).map(|i| (port + i).to_string()).collect::<Vec<_>>().join(" ");
    // Where redis-cli looks by itself.
    let usual = args.bind == IpAddr::from(Ipv4Addr::LOCALHOST) || args.bind.is_unspecified();
    let host = if usual { String::new() } else { format!(" -h {}", args.bind) };
    let cluster_ports = args.cluster_ports.map_or_else(String::new, |first| {
        let ports = (1..=nodes as u16).map(|i| (first + i).to_string()).collect::<Vec<_>>();
        format!("cluster   {}, for cluster-aware clients: these send them on\n", ports.join(" "))
    });
    format!(
        "Flotilla {version}: {nodes} nodes, {groups} groups x {replicas} replicas, shardmaster x \
         {masters}\n\
         clients   {clients} (node 1), or the nodes' own ports: {ports}; any serves any key\n\
         {cluster_ports}data      {dir}\n\
         try       redis-cli{host} -p {port} SET greeting hello\n\
         \x20         redis-cli{host} -p {port} CLUSTER SHARDS\n\
         stop      Ctrl-C; the same command resumes the cluster",
        version = env!("CARGO_PKG_VERSION"),
        masters = file.shardmaster.voters.len(),
        clients = SocketAddr::new(args.bind, port),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Cli, Command};
    use clap::Parser;

    fn args(dir: &Path) -> DevArgs {
        let words = [Path::new("flotilla"), Path::new("dev"), Path::new("--dir"), dir];
        let Command::Dev(args) = Cli::try_parse_from(words).unwrap().command else { panic!() };
        args
    }

    /// What `open` does besides ports and lock.
    fn begin(dir: &Path) -> Result<Cluster, RunError> {
        let planned = find_or_describe(&args(dir))?;
        data_dir::create_directory(dir)?;
        if !dir.join(CLUSTER_FILE).exists() {
            create(dir, &planned)?;
        }
        let cluster = cluster_file::load(&dir.join(CLUSTER_FILE))?;
        make_nodes(dir, &cluster)?;
        Ok(cluster)
    }

    fn files_of(dir: &Path) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => files.extend(files_of(&path)),
                false => files.push(path),
            }
        }
        files
    }

    #[test]
    fn before_any_node_runs_a_lost_one_is_missed() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path();
        begin(dir).unwrap();
        for node in 1..=3 {
            let (kept, away) = (node_directory(dir, NodeId(node)), dir.join("away"));
            fs::rename(&kept, &away).unwrap();
            let sentence = begin(dir).unwrap_err().to_string();
            assert!(sentence.starts_with(&format!("{} is missing", kept.display())), "{sentence}");
            fs::rename(&away, &kept).unwrap();
            begin(dir).unwrap();
        }
    }

    #[test]
    fn any_node_that_is_left_says_that_the_cluster_file_is_lost() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path();
        begin(dir).unwrap();
        for lost in [CLUSTER_FILE, COMPLETE_FILE] {
            fs::remove_file(dir.join(lost)).unwrap();
        }
        for node in [1, 2] {
            fs::remove_dir_all(node_directory(dir, NodeId(node))).unwrap();
        }
        let before = files_of(dir);
        let sentence = begin(dir).unwrap_err().to_string();
        let left = format!("cluster.toml is missing, but {}/node-3 is there", dir.display());
        assert!(sentence.contains(&left), "{sentence}");
        assert_eq!(files_of(dir), before, "what is refused changes nothing");
    }

    #[test]
    fn the_banner_names_an_address_that_answers() {
        let temporary = tempfile::tempdir().unwrap();
        let cluster = begin(temporary.path()).unwrap();
        for (bind, clients, host) in [
            ("127.0.0.1", "127.0.0.1:6379 (", "redis-cli -p 6379 SET"),
            ("0.0.0.0", "0.0.0.0:6379 (", "redis-cli -p 6379 SET"),
            ("127.0.0.5", "127.0.0.5:6379 (", "redis-cli -h 127.0.0.5 -p 6379 SET"),
            ("::1", "[::1]:6379 (", "redis-cli -h ::1 -p 6379 SET"),
        ] {
            let args = DevArgs { bind: bind.parse().unwrap(), ..args(temporary.path()) };
            let banner = banner(&args, &cluster);
            assert!(banner.contains(clients) && banner.contains(host), "{banner}");
        }
    }

    /// A crash keeps what was made up to some moment. The mark is last; before it any node may be
    /// there or not, or half made.
    #[test]
    fn a_first_start_that_was_cut_short_is_gone_on_with() {
        type Cut = fn(&Path);
        let without = |node: &Path, names: &[&str]| {
            names.iter().for_each(|name| fs::remove_file(node.join(name)).unwrap());
        };
        let cuts: [Cut; 7] = [
            |_| {},
            |node| fs::remove_file(node.join("state.redb")).unwrap(),
            |node| {
                fs::remove_file(node.join("state.redb")).unwrap();
                fs::remove_file(node.join("log.redb")).unwrap();
            },
            |node| {
                fs::remove_file(node.join("state.redb")).unwrap();
                fs::rename(node.join("log.redb"), node.join("log.redb.unfinished")).unwrap();
            },
            |node| {
                fs::rename(node.join("identity"), node.join("identity.unfinished")).unwrap();
            },
            |node| fs::remove_file(node.join("identity")).unwrap(),
            |node| fs::remove_dir_all(node).unwrap(),
        ];
        for (number, cut) in cuts.into_iter().enumerate() {
            let temporary = tempfile::tempdir().unwrap();
            let dir = temporary.path();
            let before = begin(dir).unwrap().config;
            fs::remove_file(dir.join(COMPLETE_FILE)).unwrap();
            let half = node_directory(dir, NodeId(2));
            // Whether there has been a log is written once there is one.
            let identity = fs::read_to_string(half.join("identity")).unwrap();
            fs::write(half.join("identity"), identity.replace("log = true", "log = false"))
                .unwrap();
            match number {
                4 | 5 => {
                    without(&half, &["state.redb", "log.redb", "map", "cluster.toml", "secret"])
                }
                _ => {}
            }
            cut(&half);
            fs::remove_dir_all(node_directory(dir, NodeId(3))).unwrap();
            let after = begin(dir).unwrap().config;
            assert_eq!(after, before, "cut {number}");
            for node in 1..=3 {
                assert_eq!(data_dir::missing_of_node(&node_directory(dir, NodeId(node))), None);
            }
            assert!(dir.join(COMPLETE_FILE).exists());
            let left = files_of(dir);
            let unfinished =
                left.iter().filter(|path| path.extension().is_some_and(|e| e == "unfinished"));
            assert_eq!(unfinished.count(), 0, "cut {number}: {left:?}");
        }
    }
}

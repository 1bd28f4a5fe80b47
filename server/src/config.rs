//! The command line and the node's configuration file: raw arguments first, then a checked
//! configuration with every limit filled in.

use crate::cluster_file::ClusterFileError;
use crate::small_file::{self, SmallFileError};
use clap::{Args, Parser, Subcommand};
use router::ServeConfig;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use shard_core::cluster_config::is_address;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// A Redis-protocol datastore: every write is on disk on a majority before it is acknowledged.
#[derive(Debug, Parser)]
#[command(name = "flotilla", version)]
pub struct Cli {
    /// What to run.
    #[command(subcommand)]
    pub command: Command,
}

/// The programs in the binary.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole cluster in this process, on loopback: to try it, to develop against it.
    Dev(DevArgs),
    /// Run one node: its replicas and a router.
    Node(NodeArgs),
    /// Run a router alone: it keeps no data and can stand beside an application.
    Router(RouterArgs),
    /// Read the directory of a stopped node, or of a stopped `flotilla dev`, and verify all of it:
    /// exit code 0 if it is sound, 1 if something is wrong, 2 if it cannot be looked at. Changes
    /// nothing.
    Inspect(InspectArgs),
    /// Give a group that has lost a majority of its nodes for good to one that is left: on the directory of
    /// that node, stopped. Prints what it has and what may be lost; without --accept-data-loss it writes
    /// nothing and ends with exit code 1.
    Recover(RecoverArgs),
    /// Look at a cluster that runs, change its groups, nodes and shares, restart its nodes one after another. A client
    /// of one node or router; exit code 1 if it is refused, the cluster is not whole, or not in time.
    Admin(AdminArgs),
}

/// Nodes of an embedded cluster: more than a desk needs.
pub const DEV_NODES_MAX: u64 = 9;

/// `flotilla dev`.
#[derive(Clone, Debug, Args)]
pub struct DevArgs {
    /// Nodes of the cluster, 1 to 9 [default: 3, or what the directory holds].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=DEV_NODES_MAX))]
    pub nodes: Option<u64>,
    /// Groups that keep data, 1 to 64 [default: 2, or what the directory holds].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub groups: Option<u32>,
    /// Replicas of each group, 1 to 7 and no more than nodes [default: 3, or all nodes if they are
    /// fewer, or what the directory holds].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=7))]
    pub replicas: Option<u64>,
    /// IP address to listen on for clients; there is no password, so think before it leaves loopback.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub bind: IpAddr,
    /// Port for clients, 1 to 65535 less the number of nodes; node i listens on PORT + i as well.
    #[arg(long, value_name = "P", default_value_t = 6379, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// Opens a second port for each node, P + i for node i, that sends clients to leaders with MOVED, for
    /// cluster-aware ones; 1 to 65535 less the number of nodes [default: none].
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    pub cluster_ports: Option<u16>,
    /// Directory for the data of all nodes; a second start on it resumes the cluster.
    #[arg(long, default_value = "./flotilla-data")]
    pub dir: PathBuf,
    /// What is logged to standard error: error, warn, info, debug, trace or off; a part of the program
    /// may have its own, as in info,server=debug.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log: String,
    /// Memory of each node from which on nothing may grow: bytes, or a number with kb, mb or gb; 0: no
    /// limit [default: 0].
    #[arg(long, value_name = "BYTES")]
    pub maxmemory: Option<MemorySize>,
    /// Room on the disk below which nothing may grow, counted as maxmemory is; 0: none is kept
    /// [default: 256mb, or a twentieth of the disk if that is less].
    #[arg(long, value_name = "BYTES")]
    pub min_free_disk: Option<MemorySize>,
    #[command(flatten)]
    /// What clients may do.
    pub clients: ClientSettings,
}

/// Bytes as redis.conf has them: `k`, `m` and `g` are powers of 1000, `kb`, `mb` and `gb` of 1024.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemorySize(pub u64);

impl FromStr for MemorySize {
    type Err = String;

    fn from_str(text: &str) -> Result<MemorySize, String> {
        let lower = text.to_ascii_lowercase();
        let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit: u64 = match &lower[digits.len()..] {
            "" | "b" => 1,
            "k" => 1000,
            "kb" => 1 << 10,
            "m" => 1_000_000,
            "mb" => 1 << 20,
            "g" => 1_000_000_000,
            "gb" => 1 << 30,
            _ => return Err(format!("'{text}' has no unit of b, k, kb, m, mb, g or gb")),
        };
        let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
        number.map(MemorySize).ok_or_else(|| format!("'{text}' is not a number of bytes"))
    }
}

impl<'de> Deserialize<'de> for MemorySize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<MemorySize, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Bytes(u64),
            Text(String),
        }
        match Written::deserialize(deserializer) {
            Ok(Written::Bytes(bytes)) => Ok(MemorySize(bytes)),
            Ok(Written::Text(text)) => text.parse().map_err(D::Error::custom),
            Err(_) => Err(D::Error::custom("not a number of bytes")),
        }
    }
}

/// What the clients of a front end may do; names as in redis.conf.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct ClientSettings {
    /// Most connections at once, 1 to 65000 [default: 10000].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_000))]
    pub maxclients: Option<u32>,
    /// Seconds after which a silent client is disconnected, 0 for never [default: 0].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(0..=31_536_000))]
    pub timeout: Option<u32>,
    /// For how long copies of a write with a token (IDMP) may come, in milliseconds, 1000 to 86400000; CONFIG SET
    /// changes it until the next start [default: 600000].
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(1000..=86_400_000))]
    pub idmp_window_ms: Option<u32>,
}

impl ClientSettings {
    /// Overrides the defaults of a front end.
    pub fn apply(&self, config: &mut ServeConfig) {
        if let Some(maxclients) = self.maxclients {
            config.clients_max = maxclients as usize;
        }
        if let Some(seconds) = self.timeout.filter(|seconds| *seconds > 0) {
            config.idle_timeout = Some(Duration::from_secs(u64::from(seconds)));
        }
        if let Some(ms) = self.idmp_window_ms {
            config.idmp_window_ms = ms;
        }
    }
}

/// `flotilla node`.
#[derive(Clone, Debug, Default, Args)]
pub struct NodeArgs {
    /// Configuration file (TOML) with any of the settings below, without the dashes: `id = 1`. A flag
    /// goes before the file; a path in it counts from the file.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    /// The settings.
    pub settings: NodeSettings,
}

/// What a node can be told, by flag or by file.
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NodeSettings {
    /// Id of this node, from 1: the one that it has in the cluster file; needed at each start.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub id: Option<u64>,
    /// Directory for the node's data; a later start on it goes on with what is there.
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// host:port to listen on for clients [default: the cluster file's resp of this node].
    #[arg(long, value_name = "ADDR")]
    pub resp: Option<String>,
    /// host:port to listen on for other nodes and routers [default: the cluster file's peer of this
    /// node].
    #[arg(long, value_name = "ADDR")]
    pub peer: Option<String>,
    /// The cluster file (TOML, see examples/cluster.toml): nodes, groups and the secret's file; needed
    /// at the first start only, the directory keeps a copy.
    #[arg(long, value_name = "FILE")]
    pub cluster_file: Option<PathBuf>,
    /// host:port that clients are told [default: the cluster file's resp of this node].
    #[arg(long, value_name = "ADDR")]
    pub announce_resp: Option<String>,
    /// host:port that other nodes are told [default: the cluster file's peer of this node].
    #[arg(long, value_name = "ADDR")]
    pub announce_peer: Option<String>,
    /// Opens a second port for clients, 1 to 65535, on the host of --resp: it sends them to leaders with MOVED,
    /// for cluster-aware ones. To be set on every node, or on none [default: none].
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    pub cluster_port: Option<u16>,
    /// The cluster port that clients are told, beside the host of --announce-resp [default:
    /// --cluster-port].
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    pub announce_cluster_port: Option<u16>,
    /// host:port where a node of a cluster that runs serves clients: this one joins that cluster, as a
    /// spare that is in no group yet. Needs --secret-file, --resp and --peer, and no cluster file; at later
    /// starts --id and --dir are enough.
    #[arg(long, value_name = "ADDR")]
    pub join: Option<String>,
    /// The cluster's secret, for --join: 16 to 4096 bytes, readable by its owner alone; the directory keeps
    /// a copy.
    #[arg(long, value_name = "FILE", conflicts_with = "cluster_file")]
    pub secret_file: Option<PathBuf>,
    /// Start as a spare: a node that is in no group and knows only itself, until CLUSTER MEET makes it
    /// known. Of the cluster file it takes the cluster's id and secret; --resp and --peer say where it
    /// listens.
    #[arg(long)]
    #[serde(default)]
    pub spare: bool,
    /// How long a request is retried inside before its client hears of it, in milliseconds, 100 to
    /// 600000; a stop waits no longer than 7 seconds for it [default: 5000].
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(100..=600_000))]
    pub request_timeout: Option<u64>,
    /// What is logged to standard error: error, warn, info, debug, trace or off; a part of the program
    /// may have its own, as in info,server=debug [default: info].
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<String>,
    /// Most client connections at once, 1 to 65000 [default: 10000].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_000))]
    pub maxclients: Option<u32>,
    /// Seconds after which a silent client is disconnected, 0 for never [default: 0].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(0..=31_536_000))]
    pub timeout: Option<u32>,
    /// For how long copies of a write with a token (IDMP) may come, in milliseconds, 1000 to 86400000; CONFIG SET
    /// changes it until the next start [default: 600000].
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(1000..=86_400_000))]
    pub idmp_window_ms: Option<u32>,
    /// Memory from which on nothing may grow: bytes, or a number with kb, mb or gb; 0: no limit
    /// [default: 0].
    #[arg(long, value_name = "BYTES")]
    pub maxmemory: Option<MemorySize>,
    /// Room on the disk below which nothing may grow, counted as maxmemory is; 0: none is kept
    /// [default: 256mb, or a twentieth of the disk if that is less].
    #[arg(long, value_name = "BYTES")]
    pub min_free_disk: Option<MemorySize>,
    /// Serve reads by the leader's lease where it holds, without a round to a majority. Believes that the
    /// nodes' clocks run alike within one per cent; a leader's end is noticed up to 500 ms later.
    #[arg(long)]
    #[serde(default)]
    pub lease_reads: bool,
}

/// `flotilla router`.
#[derive(Clone, Debug, Args)]
pub struct RouterArgs {
    /// host:port to listen on for clients.
    #[arg(long, value_name = "ADDR")]
    pub listen: String,
    /// The cluster file (TOML): where the nodes are, and the secret they ask for.
    #[arg(long, value_name = "FILE")]
    pub cluster_file: PathBuf,
    /// How long a request is retried inside before its client hears of it, in milliseconds, 100 to
    /// 600000; a stop waits no longer than 7 seconds for it.
    #[arg(long, value_name = "MS", default_value_t = 5000,
          value_parser = clap::value_parser!(u64).range(100..=600_000))]
    pub request_timeout: u64,
    /// What is logged to standard error: error, warn, info, debug, trace or off; a part of the program
    /// may have its own, as in info,server=debug.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log: String,
    #[command(flatten)]
    /// What clients may do.
    pub clients: ClientSettings,
}

/// `flotilla admin`.
#[derive(Clone, Debug, Args)]
pub struct AdminArgs {
    /// host:port where a node or router of the cluster serves clients. When that is away, another node is asked.
    #[arg(long, global = true, value_name = "HOST:PORT", default_value = "127.0.0.1:6379")]
    pub at: String,
    /// How long to wait, each time. Seconds, 1 to 86400; 300 unless slots move, which is waited for until they have.
    #[arg(long, global = true, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: Option<u64>,
    /// Print one JSON object instead of lines for people; watch prints one a line.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: AdminCommand,
}

/// What `flotilla admin` does.
#[derive(Clone, Debug, Subcommand)]
pub enum AdminCommand {
    /// Print nodes and groups, and what keeps the cluster from being whole.
    Status,
    /// Wait until the cluster is whole: every group has a leader, and all of its members are there and lack few
    /// entries, so that any one node may stop.
    Wait,
    /// Make a group, and wait until it serves.
    AddGroup(AddGroupArgs),
    /// Have a group give its slots to the others, and remove it when it has none.
    Drain(DrainArgs),
    /// Give every group its share by weight, and wait until it has it.
    Rebalance(RebalanceArgs),
    /// Give every seat of a node to another, and wait until that has them.
    Replace(ReplaceArgs),
    /// Show how far moves are, until none is left.
    Watch(WatchArgs),
    /// Restart every node that has a seat, those that lead least first, and wait after each until it runs anew
    /// and the cluster is whole. Stops at the first node that does not come back.
    RollingRestart(RollingRestartArgs),
}

/// `flotilla admin add-group`.
#[derive(Clone, Debug, Args)]
pub struct AddGroupArgs {
    /// Its nodes, by number or id: 4,5,6
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', required = true)]
    pub nodes: Vec<String>,
    /// Its share of the slots, beside that of the others.
    #[arg(long, value_name = "W", default_value_t = 1)]
    pub weight: u32,
    /// Give it its share at once, and wait until it has it.
    #[arg(long)]
    pub rebalance: bool,
}

/// `flotilla admin drain`.
#[derive(Clone, Debug, Args)]
pub struct DrainArgs {
    /// The group.
    pub group: u32,
    /// Keep it, without slots.
    #[arg(long)]
    pub keep: bool,
}

/// `flotilla admin rebalance`.
#[derive(Clone, Debug, Args)]
pub struct RebalanceArgs {
    /// Of what groups are to have their shares: slots, or what they hold, or the writes of the last seconds.
    #[arg(long, value_name = "WHAT", default_value = "slots",
          value_parser = ["slots", "keys", "bytes", "load"])]
    pub by: String,
    /// Only show what would move, and why.
    #[arg(long)]
    pub dry_run: bool,
}

/// `flotilla admin replace`.
#[derive(Clone, Debug, Args)]
pub struct ReplaceArgs {
    /// The node that loses its seats, by number or id; it may be gone.
    pub old: String,
    /// The node that gets them.
    pub new: String,
    /// Forget the old one then.
    #[arg(long)]
    pub forget: bool,
}

/// `flotilla admin watch`.
#[derive(Clone, Debug, Args)]
pub struct WatchArgs {
    /// Go on when no moves are left.
    #[arg(long)]
    pub follow: bool,
}

/// `flotilla admin rolling-restart`.
#[derive(Clone, Debug, Args)]
pub struct RollingRestartArgs {
    /// The command that restarts a node, for `sh -c`; it finds the node in FLOTILLA_NODE, and where that
    /// serves clients in FLOTILLA_HOST and FLOTILLA_PORT: ssh "$FLOTILLA_HOST" systemctl restart flotilla
    #[arg(long, value_name = "COMMAND")]
    pub run: String,
}

/// `flotilla recover`.
#[derive(Clone, Debug, Args)]
pub struct RecoverArgs {
    /// The node's directory.
    pub dir: PathBuf,
    /// The group, 0 for the shardmaster.
    #[arg(long, value_name = "G")]
    pub group: u32,
    /// Do it: what the lost nodes alone had is lost, and they must never start again.
    #[arg(long)]
    pub accept_data_loss: bool,
}

/// `flotilla inspect`.
#[derive(Clone, Debug, Args)]
pub struct InspectArgs {
    /// The directory.
    pub dir: PathBuf,
    /// Show the entries of a group's log instead, by their indexes: 7..9 is three of them, either end
    /// may be left out, and one number is one entry.
    #[arg(long, num_args = 2, value_names = ["GROUP", "FROM..TO"])]
    pub entries: Option<Vec<String>>,
    /// With --entries: show values too, up to 4096 bytes of each.
    #[arg(long, requires = "entries")]
    pub values: bool,
}

/// Bytes of a configuration file, at most: far above what all settings need.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Milliseconds a request is retried inside by default.
pub const REQUEST_TIMEOUT_MS: u64 = 5000;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The configuration file cannot be read, or is not of the right form.
    #[error("--config: {0}")]
    File(#[from] SmallFileError),
    /// A setting is missing.
    #[error("--{0} is missing: give it as a flag or in the file that --config names")]
    Missing(&'static str),
    /// A setting's value is not possible.
    #[error("--{flag}: {message}")]
    Value {
        /// The flag.
        flag: &'static str,
        /// In one sentence.
        message: String,
    },
    /// The cluster file cannot be used.
    #[error(transparent)]
    Cluster(#[from] ClusterFileError),
}

impl NodeArgs {
    /// The settings of the file with those of the command line over them.
    pub fn merged(self) -> Result<NodeSettings, ConfigError> {
        let file = match &self.config {
            None => NodeSettings::default(),
            Some(path) => load_settings(path)?,
        };
        let flags = self.settings;
        let merged = NodeSettings {
            id: flags.id.or(file.id),
            dir: flags.dir.or(file.dir),
            resp: flags.resp.or(file.resp),
            peer: flags.peer.or(file.peer),
            cluster_file: flags.cluster_file.or(file.cluster_file),
            announce_resp: flags.announce_resp.or(file.announce_resp),
            announce_peer: flags.announce_peer.or(file.announce_peer),
            cluster_port: flags.cluster_port.or(file.cluster_port),
            announce_cluster_port: flags.announce_cluster_port.or(file.announce_cluster_port),
            join: flags.join.or(file.join),
            secret_file: flags.secret_file.or(file.secret_file),
            spare: flags.spare || file.spare,
            request_timeout: flags.request_timeout.or(file.request_timeout),
            log: flags.log.or(file.log),
            maxclients: flags.maxclients.or(file.maxclients),
            timeout: flags.timeout.or(file.timeout),
            idmp_window_ms: flags.idmp_window_ms.or(file.idmp_window_ms),
            maxmemory: flags.maxmemory.or(file.maxmemory),
            min_free_disk: flags.min_free_disk.or(file.min_free_disk),
            lease_reads: flags.lease_reads || file.lease_reads,
        };
        merged.check()?;
        Ok(merged)
    }
}

fn load_settings(path: &Path) -> Result<NodeSettings, ConfigError> {
    let mut settings: NodeSettings = small_file::read_toml(path, FILE_BYTES_MAX)?;
    // A path in a file counts from the file, wherever the program was started.
    let beside = path.parent().unwrap_or(Path::new("."));
    settings.dir = settings.dir.map(|dir| beside.join(dir));
    settings.cluster_file = settings.cluster_file.map(|file| beside.join(file));
    settings.secret_file = settings.secret_file.map(|file| beside.join(file));
    Ok(settings)
}

impl NodeSettings {
    /// What clients may do.
    pub fn clients(&self) -> ClientSettings {
        let NodeSettings { maxclients, timeout, idmp_window_ms, .. } = *self;
        ClientSettings { maxclients, timeout, idmp_window_ms }
    }

    /// What clap's ranges do not see: values that came from the file, and addresses.
    fn check(&self) -> Result<(), ConfigError> {
        if self.id == Some(0) {
            return Err(value("id", "node ids count from 1"));
        }
        if let Some(ms) = self.request_timeout
            && !(100..=600_000).contains(&ms)
        {
            return Err(value("request-timeout", &format!("{ms} is not in 100..=600000")));
        }
        if let Some(maxclients) = self.maxclients
            && !(1..=65_000).contains(&maxclients)
        {
            return Err(value("maxclients", &format!("{maxclients} is not in 1..=65000")));
        }
        if let Some(ms) = self.idmp_window_ms
            && !(1000..=86_400_000).contains(&ms)
        {
            return Err(value("idmp-window-ms", &format!("{ms} is not in 1000..=86400000")));
        }
        for (flag, port) in [
            ("cluster-port", self.cluster_port),
            ("announce-cluster-port", self.announce_cluster_port),
        ] {
            if port == Some(0) {
                return Err(value(flag, "0 is not in 1..=65535"));
            }
        }
        if self.announce_cluster_port.is_some() && self.cluster_port.is_none() {
            let message = "there is no port to announce without --cluster-port";
            return Err(value("announce-cluster-port", message));
        }
        if let Some(seconds) = self.timeout
            && seconds > 31_536_000
        {
            return Err(value("timeout", &format!("{seconds} is not in 0..=31536000")));
        }
        for (flag, address) in [
            ("resp", &self.resp),
            ("peer", &self.peer),
            ("announce-resp", &self.announce_resp),
            ("announce-peer", &self.announce_peer),
            ("join", &self.join),
        ] {
            if let Some(address) = address {
                check_address(flag, address)?;
            }
        }
        Ok(())
    }
}

fn value(flag: &'static str, message: &str) -> ConfigError {
    ConfigError::Value { flag, message: message.to_owned() }
}

/// An address is `host:port` with a port from 1 to 65535, as in a cluster file.
pub fn check_address(flag: &'static str, address: &str) -> Result<(), ConfigError> {
    if is_address(address) {
        return Ok(());
    }
    Err(value(flag, &format!("'{address}' is not host:port with a port from 1 to 65535")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn merged(file: &str, flags: &[&str]) -> Result<NodeSettings, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.toml");
        std::fs::write(&path, file).unwrap();
        let mut line = vec!["flotilla", "node", "--config", path.to_str().unwrap()];
        line.extend(flags);
        let cli = Cli::try_parse_from(line).map_err(|error| error.to_string())?;
        let Command::Node(args) = cli.command else { panic!("not the node command") };
        args.merged().map_err(|e| e.to_string().replace(dir.path().to_str().unwrap(), "DIR"))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_flag_goes_before_the_file() {
        let settings = merged("id = 1\nresp = \"a:1\"\n", &["--id", "2"]).unwrap();
        assert_eq!((settings.id, settings.resp.as_deref()), (Some(2), Some("a:1")));
    }

    #[test]
    fn leases_are_off_until_one_of_both_asks_for_them() {
        assert!(!merged("id = 1\n", &[]).unwrap().lease_reads);
        assert!(merged("lease-reads = true\n", &[]).unwrap().lease_reads);
        assert!(merged("lease-reads = false\n", &["--lease-reads"]).unwrap().lease_reads);
    }

    #[test]
    fn a_size_of_memory_is_written_as_in_redis_conf() {
        for (file, bytes) in [
            ("maxmemory = 100", 100),
            ("maxmemory = \"1k\"", 1000),
            ("maxmemory = \"1KB\"", 1024),
            ("maxmemory = \"64mb\"", 64 << 20),
            ("maxmemory = \"2g\"", 2_000_000_000),
            ("maxmemory = \"0\"", 0),
        ] {
            assert_eq!(merged(file, &[]).unwrap().maxmemory, Some(MemorySize(bytes)), "{file}");
        }
        let flag = merged("maxmemory = 5", &["--maxmemory", "1gb"]).unwrap().maxmemory;
        assert_eq!(flag, Some(MemorySize(1 << 30)));
        assert!("99999999999gb".parse::<MemorySize>().is_err());
    }

    #[test]
    fn b103_bad_settings_name_the_flag_or_the_file() {
        for (file, flags, sentence) in [
            ("idd = 1", &[][..], "--config: DIR/node.toml, line 1, column 1: unknown"),
            ("\nid = \"x\"", &[], "--config: DIR/node.toml, line 2, column 6: invalid type"),
            ("id = 0", &[], "--id: node ids count from 1"),
            ("request-timeout = 5", &[], "--request-timeout: 5 is not in 100..=600000"),
            ("idmp-window-ms = 999", &[], "--idmp-window-ms: 999 is not in 1000..=86400000"),
            ("maxclients = 0", &[], "--maxclients: 0 is not in 1..=65000"),
            ("cluster-port = 0", &[], "--cluster-port: 0 is not in 1..=65535"),
            (
                "announce-cluster-port = 7",
                &[],
                "--announce-cluster-port: there is no port to announce without --cluster-port",
            ),
            ("", &["--cluster-port", "65536"], "--cluster-port"),
            ("timeout = 99999999", &[], "--timeout: 99999999 is not in 0..=31536000"),
            ("maxmemory = \"9tb\"", &[], "line 1, column 13: '9tb' has no unit of b, k, kb"),
            ("maxmemory = -1", &[], "line 1, column 13: not a number of bytes"),
            ("", &["--maxmemory", "mb"], "'mb' is not a number of bytes"),
            ("", &["--resp", "host"], "--resp: 'host' is not host:port"),
            ("", &["--peer", "host:0"], "--peer: 'host:0' is not host:port"),
            ("", &["--peer", ":80"], "--peer: ':80' is not host:port"),
            ("", &["--announce-resp", "h:65536"], "--announce-resp: 'h:65536' is not host:port"),
            ("", &["--announce-peer", "a b:1"], "--announce-peer: 'a b:1' is not host:port"),
            ("", &["--peer", "::1:80"], "--peer: '::1:80' is not host:port"),
            ("", &["--id", "0"], "--id"),
            ("", &["--nope"], "--nope"),
        ] {
            let error = merged(file, flags).unwrap_err();
            assert!(error.contains(sentence), "{error}");
        }
    }

    /// Help and pages name it as a number, which nothing else would keep true.
    #[test]
    fn what_is_said_of_a_stop_is_what_the_router_does() {
        let grace = router::SHUTDOWN_GRACE.as_secs();
        assert_eq!(router::SHUTDOWN_GRACE, std::time::Duration::from_secs(grace));
        let mut texts = vec![
            ("README.md", include_str!("../../README.md").to_owned()),
            ("docs/operations.md", include_str!("../../docs/operations.md").to_owned()),
        ];
        for way in ["node", "router"] {
            let mut cli = Cli::command();
            let help = cli.find_subcommand_mut(way).unwrap().render_long_help().to_string();
            texts.push((way, help));
        }
        for (name, text) in texts {
            let words: Vec<&str> = text.split_whitespace().collect();
            let said = words.windows(2).filter(|pair| pair[1].starts_with("seconds"));
            let said: Vec<&str> = said.map(|pair| pair[0]).collect();
            assert!(said.contains(&grace.to_string().as_str()), "{name} says {said:?}");
        }
        // Above this a request may be cut off.
        let above = format!("`--request-timeout` above {}", grace * 1000);
        assert!(include_str!("../../docs/operations.md").contains(&above));
    }
}

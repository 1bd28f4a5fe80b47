//! The cluster file: what a node must be told at its first start.

use crate::small_file::{self, SmallFileError};
use serde::{Deserialize, Serialize};
use shard_core::cluster_config::{
    ClusterConfig, ConfigNum, GROUPS_MAX, GroupConfig, NODES_MAX, NodeConfig, SHARDMASTER,
};
use shard_core::{GroupId, NodeId};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Bytes of a shared secret, at least: a shorter one could be guessed.
pub const SECRET_BYTES_MIN: usize = 16;
/// Bytes of a secret file, at most.
const SECRET_BYTES_MAX: u64 = 4096;
/// Bytes of a cluster file, at most: 500 nodes and 1,000 groups need a tenth of it.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The file as it is written (TOML).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterFile {
    /// Names the cluster: nodes of another one are refused.
    pub cluster_id: String,
    /// What peers prove to each other; a relative path counts from the cluster file's directory.
    pub secret_file: PathBuf,
    /// The nodes that the cluster starts with.
    #[serde(default)]
    pub nodes: Vec<NodeEntry>,
    /// The group that keeps the configuration.
    pub shardmaster: Seats,
    /// The groups that keep data.
    #[serde(default)]
    pub groups: Vec<GroupEntry>,
}

/// One node of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeEntry {
    /// Its id, from 1.
    pub id: u64,
    /// Where peers and routers reach it.
    pub peer: String,
    /// Where clients reach it.
    pub resp: String,
}

/// A group's seats.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seats {
    /// Node ids.
    pub voters: Vec<u64>,
}

/// One group of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupEntry {
    /// Its id, from 1.
    pub id: u32,
    /// Node ids.
    pub voters: Vec<u64>,
}

/// Why a cluster file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClusterFileError {
    /// It cannot be read, or is not TOML of this form.
    #[error("cluster file: {0}")]
    File(#[source] SmallFileError),
    /// The secret that it names cannot be read.
    #[error("secret file: {0}")]
    Secret(#[source] SmallFileError),
    /// It contradicts itself.
    #[error("cluster file: {path}: {message}")]
    Content {
        /// The file.
        path: PathBuf,
        /// In one sentence.
        message: String,
    },
    /// The secret could be read by others.
    #[error(
        "secret file {path} has mode {mode:04o}; others must not be able to read it (chmod 600)"
    )]
    SecretMode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The secret is too short.
    #[error("secret file {path} has {bytes} bytes, at least {SECRET_BYTES_MIN} are needed")]
    SecretShort {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: usize,
    },
}

/// A cluster file that was read and checked.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The configuration the cluster starts with.
    pub config: ClusterConfig,
    /// What peers prove.
    pub secret: Vec<u8>,
    /// The file, to be kept in a node's directory.
    pub file: ClusterFile,
}

/// Reads a cluster file and its secret.
pub fn load(path: &Path) -> Result<Cluster, ClusterFileError> {
    let file = read(path)?;
    let config = match file.is_bare() {
        true => file.bare_config(),
        false => file
            .config()
            .map_err(|message| ClusterFileError::Content { path: path.into(), message })?,
    };
    let beside = path.parent().unwrap_or(Path::new("."));
    let secret = load_secret(&beside.join(&file.secret_file))?;
    Ok(Cluster { config, secret, file })
}

/// Reads a cluster file alone; whether it contradicts itself is not checked.
pub fn read(path: &Path) -> Result<ClusterFile, ClusterFileError> {
    small_file::read_toml(path, FILE_BYTES_MAX).map_err(ClusterFileError::File)
}

/// Reads a secret, which only its owner may read.
pub fn load_secret(path: &Path) -> Result<Vec<u8>, ClusterFileError> {
    let secret = small_file::read(path, SECRET_BYTES_MAX).map_err(ClusterFileError::Secret)?;
    let mode = fs::metadata(path).map(|metadata| metadata.permissions().mode() & 0o777);
    let mode = mode.map_err(|source| {
        ClusterFileError::Secret(SmallFileError::Read { path: path.into(), source })
    })?;
    if mode & 0o077 != 0 {
        return Err(ClusterFileError::SecretMode { path: path.into(), mode });
    }
    if secret.len() < SECRET_BYTES_MIN {
        return Err(ClusterFileError::SecretShort { path: path.into(), bytes: secret.len() });
    }
    Ok(secret)
}

impl ClusterFile {
    /// What a node that joins a cluster keeps: whose it is, and nothing of the rest, which the cluster tells.
    pub fn bare(cluster_id: String) -> ClusterFile {
        ClusterFile {
            cluster_id,
            secret_file: crate::data_dir::SECRET.into(),
            nodes: Vec::new(),
            shardmaster: Seats { voters: Vec::new() },
            groups: Vec::new(),
        }
    }

    fn is_bare(&self) -> bool {
        self.nodes.is_empty() && self.groups.is_empty() && self.shardmaster.voters.is_empty()
    }

    /// The configuration of a node that knows of no other.
    pub fn bare_config(&self) -> ClusterConfig {
        ClusterConfig { cluster_id: self.cluster_id.clone(), ..ClusterConfig::default() }
    }

    /// The configuration 1 that the file describes, with the slots spread evenly over its groups.
    pub fn config(&self) -> Result<ClusterConfig, String> {
        let mut config = ClusterConfig {
            num: ConfigNum(1),
            cluster_id: self.cluster_id.clone(),
            ..ClusterConfig::default()
        };
        if self.nodes.is_empty() {
            return Err("it names no node; each needs a [[nodes]] with id, peer and resp".into());
        }
        if self.groups.is_empty() {
            return Err(
                "it names no group to keep data; at least one [[groups]] with id and voters \
                        is needed"
                    .into(),
            );
        }
        if self.groups.len() > GROUPS_MAX {
            return Err(format!("it names {} groups, {GROUPS_MAX} at most", self.groups.len()));
        }
        if self.nodes.len() > NODES_MAX {
            return Err(format!("it names {} nodes, {NODES_MAX} at most", self.nodes.len()));
        }
        for node in &self.nodes {
            let addresses = NodeConfig { peer: node.peer.clone(), resp: node.resp.clone() };
            if config.nodes.insert(NodeId(node.id), addresses).is_some() {
                return Err(format!("two nodes have the id {}", node.id));
            }
        }
        if self.shardmaster.voters.is_empty() {
            return Err("the shardmaster has no voters; name at least one node".into());
        }
        let shardmaster = seats(SHARDMASTER.0, &self.shardmaster.voters, 0)?;
        config.groups = BTreeMap::from([(SHARDMASTER, shardmaster)]);
        for group in &self.groups {
            if group.id == SHARDMASTER.0 {
                return Err("group 0 is the shardmaster, give the group another id".into());
            }
            if config.groups.insert(GroupId(group.id), seats(group.id, &group.voters, 1)?).is_some()
            {
                return Err(format!("two groups have the id {}", group.id));
            }
        }
        config.assign_evenly();
        config.check().map_err(|error| error.to_string())?;
        Ok(config)
    }

    /// Each group's voters in ascending order, the shardmaster's among them.
    pub fn seats(&self) -> BTreeMap<u32, Vec<u64>> {
        let shardmaster = (SHARDMASTER.0, &self.shardmaster.voters);
        let groups = self.groups.iter().map(|group| (group.id, &group.voters));
        let sorted = |voters: &Vec<u64>| {
            let mut voters = voters.clone();
            voters.sort_unstable();
            voters
        };
        groups.chain([shardmaster]).map(|(group, voters)| (group, sorted(voters))).collect()
    }

    /// The file as text.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a cluster file is plain strings, numbers and lists")
    }
}

fn seats(group: u32, voters: &[u64], weight: u32) -> Result<GroupConfig, String> {
    let mut voters: Vec<NodeId> = voters.iter().copied().map(NodeId).collect();
    voters.sort_unstable();
    match voters.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => {
            Err(format!("node {} is named twice among the voters of group {group}", pair[0]))
        }
        None => Ok(GroupConfig { voters, weight }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        cluster_id = "c"
        secret_file = "secret"
        nodes = [
            { id = 1, peer = "127.0.0.1:7101", resp = "127.0.0.1:7001" },
            { id = 2, peer = "127.0.0.1:7102", resp = "127.0.0.1:7002" },
        ]
        shardmaster = { voters = [2, 1] }
        groups = [{ id = 1, voters = [1] }, { id = 2, voters = [1, 2] }]
    "#;

    fn load_text(text: &str, secret: &str, mode: u32) -> Result<Cluster, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster.toml");
        fs::write(&path, text).unwrap();
        let secret_path = dir.path().join("secret");
        fs::write(&secret_path, secret).unwrap();
        fs::set_permissions(&secret_path, fs::Permissions::from_mode(mode)).unwrap();
        load(&path).map_err(|e| e.to_string().replace(dir.path().to_str().unwrap(), "DIR"))
    }

    #[test]
    fn a_good_file_gives_configuration_one() {
        let cluster = load_text(GOOD, "0123456789abcdef", 0o600).unwrap();
        assert_eq!(cluster.config.num, ConfigNum(1));
        assert_eq!(cluster.config.groups[&SHARDMASTER].voters, [NodeId(1), NodeId(2)]);
        let slots: Vec<_> =
            cluster.config.slots.iter().map(|r| (r.first.0, r.last.0, r.group.0)).collect();
        assert_eq!(slots, [(0, 8191, 1), (8192, 16383, 2)]);
        let again: ClusterFile = toml::from_str(&cluster.file.to_toml()).unwrap();
        assert_eq!(again, cluster.file);
    }

    #[test]
    fn b103_a_bad_file_is_refused_with_its_name_and_the_place() {
        let secret = "0123456789abcdef";
        for (bad, sentence) in [
            (GOOD.replace("cluster_id", "cluster"), "unknown field `cluster`"),
            (GOOD.replace("id = 2, peer", "id = 1, peer"), "two nodes have the id 1"),
            (GOOD.replace("id = 2, voters", "id = 1, voters"), "two groups have the id 1"),
            (GOOD.replace("id = 2, voters", "id = 0, voters"), "group 0 is the shardmaster"),
            (GOOD.replace("[1, 2] }", "[1, 9] }"), "9"),
            (
                GOOD.replace("[1, 2] }", "[1, 1] }"),
                "node 1 is named twice among the voters of group 2",
            ),
            (GOOD.replace("[1, 2] }", "[] }"), "group 2 has no voters"),
            (
                GOOD.lines().filter(|line| !line.contains("groups")).collect::<Vec<_>>().join("\n"),
                "it names no group to keep data; at least one [[groups]]",
            ),
            (
                (3..1010).fold(GOOD.to_string(), |file, id| {
                    file.replace(
                        "groups = [",
                        &format!("groups = [{{ id = {id}, voters = [1] }}, "),
                    )
                }),
                "it names 1009 groups, 1000 at most",
            ),
            (
                (3..1010).fold(GOOD.to_string(), |file, id| {
                    let node = format!("id = {id}, peer = \"h:{id}\", resp = \"i:{id}\"");
                    file.replace("nodes = [", &format!("nodes = [{{ {node} }}, "))
                }),
                "it names 1009 nodes, 1000 at most",
            ),
            (GOOD.replace("[2, 1]", "[]"), "the shardmaster has no voters"),
            (GOOD.replace("[2, 1]", "[2, 3]"), "voter 3 of group 0 is not a node of the cluster"),
            (
                GOOD.lines()
                    .filter(|line| !line.contains("shardmaster"))
                    .collect::<Vec<_>>()
                    .join("\n"),
                "missing field `shardmaster`",
            ),
            (
                GOOD.lines()
                    .filter(|line| {
                        !line.contains("{ id = 1, peer") && !line.contains("{ id = 2, peer")
                    })
                    .collect::<Vec<_>>()
                    .join("\n"),
                "it names no node; each needs a [[nodes]]",
            ),
            (
                GOOD.replace("127.0.0.1:7102", "127.0.0.1:7101"),
                "the address \"127.0.0.1:7101\" is given twice",
            ),
            (GOOD.replace("127.0.0.1:7101", "127.0.0.1:0"), "127.0.0.1:0"),
            (
                GOOD.replace("id = 2, peer", "id = -2, peer"),
                "DIR/cluster.toml, line 6, column 20: ",
            ),
        ] {
            let error = load_text(&bad, secret, 0o600).unwrap_err();
            assert!(error.contains("DIR/cluster.toml") && error.contains(sentence), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn b103_a_secret_that_others_can_read_or_guess_is_refused() {
        let error = load_text(GOOD, "0123456789abcdef", 0o640).unwrap_err();
        assert!(error.contains("DIR/secret has mode 0640"), "{error}");
        let error = load_text(GOOD, "short", 0o600).unwrap_err();
        assert!(error.contains("DIR/secret has 5 bytes"), "{error}");
    }
}

//! `flotilla inspect`: what stands in the directory of a node that does not run, and whether all of it
//! is what was written.
//!
//! **Invariants.**
//! - Nothing is written, nothing is made: redb's repairs are done to a picture in memory
//!   ([`image`]). The directory is locked, so that no node starts meanwhile.
//! - Everything that a start verifies is verified by the code that a start uses, and told in the words
//!   that it would use. Behind a damage reading goes on where that is possible.
//! - Memory: one group's state at a time, as a start has it, and of none over
//!   [`crate::state_store::inspect::MACHINE_BYTES_MAX`]; of the log what a start has.
//! - A panic is a sentence and exit code 1: what a library makes of damaged bytes is not known.

mod entries;
pub(crate) mod findings;
pub(crate) mod image;
mod print;

use crate::cluster_file::{self, Cluster};
use crate::config::InspectArgs;
use crate::data_dir::{self, DataDirError, Identity};
use crate::dev;
use crate::kept_file::{self, KeptFileError};
use crate::log_store::inspect::{Ended, LogView};
use crate::process::NodeError;
use crate::state_store::inspect::StateView;
use entries::Range;
use findings::{Findings, Total, one_line};
use raft_core::{Config, Raft, Restored};
use shard_core::kept::Kept;
use shard_core::{GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Exit code if it cannot be told whether all is well.
pub const NOT_LOOKED: u8 = 2;
/// Files of a directory that are not ours, of which that many are named.
const STRANGERS_MAX: usize = 20;

const ADVICE_FILE: &str = "put the file back as it was; the other nodes of the cluster have the same \
     cluster file and secret, the identity is this node's own";

const ADVICE_MAP: &str = "put the file back with all else that was there; that of another node does not do, since \
     it says which groups this one has left";

/// Why a directory cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// It is in use, not readable, or not a directory.
    #[error(transparent)]
    Directory(#[from] DataDirError),
    /// There is none.
    #[error("the directory {0} does not exist")]
    Missing(PathBuf),
    /// No node began there.
    #[error("the directory {0} holds no data of a node")]
    NoNode(PathBuf),
    /// This user may not read a file.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// `--entries` makes no sense.
    #[error("--entries: {0}")]
    Entries(String),
    /// Nobody reads what is printed, or it cannot be written.
    #[error("cannot write what was found: {0}")]
    Write(#[from] io::Error),
}

/// Runs the command and gives its exit code: 0 if all is well, 1 if something is wrong, [`NOT_LOOKED`]
/// if that cannot be told.
pub fn run(args: InspectArgs) -> ExitCode {
    let dir = args.dir.display().to_string();
    std::panic::set_hook(Box::new(move |panic| {
        let _ = writeln!(
            io::stderr(),
            "flotilla: inspecting {dir} ended inside ({}), so a file of it is damaged in a way that \
             has no name: the one that comes after the last that was printed",
            one_line(&panic.to_string())
        );
        std::process::exit(1);
    }));
    let looked = Range::of(args.entries.as_deref(), args.values)
        .and_then(|entries| inspect(&args.dir, entries.as_ref(), &mut io::stdout().lock()));
    match looked {
        Ok(Total { faults: 0, .. }) => ExitCode::SUCCESS,
        Ok(Total { .. }) => ExitCode::FAILURE,
        Err(error) => {
            let quiet = matches!(&error, InspectError::Write(error)
                if error.kind() == io::ErrorKind::BrokenPipe);
            if !quiet {
                let _ = writeln!(io::stderr(), "flotilla: {}", one_line(&error.to_string()));
            }
            ExitCode::from(NOT_LOOKED)
        }
    }
}

/// Prints what stands in a directory, and what is wrong with it.
///
/// # Errors
/// If that cannot be told.
pub fn inspect(
    dir: &Path,
    entries: Option<&Range>,
    out: &mut dyn Write,
) -> Result<Total, InspectError> {
    let failed = |source| DataDirError::Io { action: "read", path: dir.to_owned(), source };
    match fs::metadata(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(InspectError::Missing(dir.to_owned()));
        }
        Err(source) => return Err(failed(source).into()),
        Ok(metadata) if !metadata.is_dir() => {
            return Err(DataDirError::NotADirectory(dir.to_owned()).into());
        }
        Ok(_) => {}
    }
    // A directory that may be passed through, but not be listed or searched, has nothing in it to `exists`.
    fs::read_dir(dir).map_err(failed)?;
    fs::metadata(dir.join(data_dir::LOCK)).map(|_| ()).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(failed(error)),
    })?;
    let mut look = Look { out, entries, findings: Findings::default(), shown: 0 };
    let is_node = [data_dir::IDENTITY, data_dir::LOG, data_dir::STATE]
        .iter()
        .any(|name| dir.join(name).exists());
    if is_node {
        look.node(dir)?;
    } else if dev::is_embedded_cluster(dir) || !embedded_nodes(dir).is_empty() {
        look.embedded(dir)?;
    } else {
        return Err(InspectError::NoNode(dir.to_owned()));
    }
    if let (Some(range), 0) = (entries, look.shown)
        && look.findings.total.faults == 0
    {
        return Err(InspectError::Entries(range.nothing()));
    }
    writeln!(look.out, "{}", look.findings.total.verdict())?;
    Ok(look.findings.total)
}

/// The nodes that have a directory in that of an embedded cluster.
fn embedded_nodes(dir: &Path) -> Vec<NodeId> {
    let nodes = (1..=crate::config::DEV_NODES_MAX).map(NodeId);
    nodes.filter(|node| dev::node_directory(dir, *node).exists()).collect()
}

struct Look<'a> {
    out: &'a mut dyn Write,
    /// What is asked for instead of the directory's summary.
    entries: Option<&'a Range>,
    findings: Findings,
    /// Entries that were shown.
    shown: u64,
}

/// What was found of a node's small files.
struct Begun {
    identity: Option<Identity>,
    cluster: Option<Cluster>,
    /// Which groups it has.
    kept: Option<Kept>,
    /// Whether log and state must be there.
    must_exist: bool,
}

impl Look<'_> {
    /// Whether every file of a directory is one; the findings say of the first that is not.
    fn are_files(&mut self, dir: &Path) -> Result<bool, InspectError> {
        let Err(error) = data_dir::check_files(dir) else { return Ok(true) };
        writeln!(self.out, "{}", shown(dir))?;
        self.findings.fault(error.to_string(), ADVICE_FILE);
        self.findings.print(self.out)?;
        Ok(false)
    }

    /// A directory with one for each node.
    fn embedded(&mut self, dir: &Path) -> Result<(), InspectError> {
        if !self.are_files(dir)? {
            return Ok(());
        }
        let _lock = data_dir::lock_existing(dir)?;
        let complete = dir.join(dev::COMPLETE_FILE).exists();
        writeln!(self.out, "{}: an embedded cluster (flotilla dev)", shown(dir))?;
        let mut nodes = embedded_nodes(dir);
        match cluster_file::load(&dir.join(data_dir::CLUSTER)) {
            Ok(cluster) => nodes.extend(cluster.config.nodes.keys()),
            Err(error) => self.findings.fault(error.to_string(), ADVICE_FILE),
        }
        if !complete {
            self.findings.note(format!(
                "{} has no file `complete`: its first start did not come to its end, and the next one \
                 goes on with it",
                dir.display()
            ));
        }
        nodes.sort_unstable();
        nodes.dedup();
        self.findings.print(self.out)?;
        for node in nodes {
            let node_dir = dev::node_directory(dir, node);
            let missing = data_dir::missing_of_node(&node_dir).filter(|_| complete);
            if let Some(path) = missing {
                self.findings.fault(
                    format!("{} is missing: the cluster does not start without it", path.display()),
                    "put it back with all else that was there",
                );
            }
            if node_dir.exists() {
                self.node(&node_dir)?;
            } else {
                self.findings.print(self.out)?;
            }
        }
        Ok(())
    }

    /// One node's directory.
    fn node(&mut self, dir: &Path) -> Result<(), InspectError> {
        if !self.are_files(dir)? {
            return Ok(());
        }
        // Until all is read: no node can start on it meanwhile.
        let _lock: Option<File> = data_dir::lock_existing(dir)?;
        writeln!(self.out, "{}", shown(dir))?;
        let begun = self.small_files(dir)?;
        let (log_path, state_path) = (dir.join(data_dir::LOG), dir.join(data_dir::STATE));
        let read = |path: &Path, source| InspectError::Read { path: path.to_owned(), source };
        let owner = begun.identity.as_ref();
        let mut log = LogView::read(&log_path, begun.must_exist, owner, &mut self.findings)
            .map_err(|source| read(&log_path, source))?;
        if self.entries.is_none() {
            print::log(self.out, log.as_ref())?;
        }
        let state = StateView::read(&state_path, begun.must_exist, owner, &mut self.findings)
            .map_err(|source| read(&state_path, source))?;
        if self.entries.is_none() {
            print::state(self.out, state.as_ref())?;
        }
        if let (Some(range), Some(log)) = (self.entries, &log) {
            self.show(range, log)?;
        }
        if let (Some(log), Some(state)) = (&mut log, &state) {
            let installing = state.groups.iter();
            let installing = installing
                .filter_map(|(group, view)| view.stored.installing.map(|at| (*group, at)));
            log.finish_installs(&installing.collect(), &mut self.findings);
        }
        self.groups(dir, &begun, log.as_ref(), state.as_ref())?;
        self.strangers(dir)?;
        self.findings.print(self.out)?;
        Ok(())
    }

    /// Identity, cluster file and secret.
    fn small_files(&mut self, dir: &Path) -> Result<Begun, InspectError> {
        let mut begun = Begun { identity: None, cluster: None, kept: None, must_exist: false };
        match data_dir::read_identity(dir) {
            Ok(Some((identity, log_exists))) => {
                (begun.identity, begun.must_exist) = (Some(identity), log_exists);
            }
            Ok(None) => {
                if let Err(error) = data_dir::check_unused(dir) {
                    self.findings.fault(error.to_string(), ADVICE_FILE);
                }
            }
            Err(error @ DataDirError::NewerFormat { .. }) => return Err(error.into()),
            Err(DataDirError::Io { action, path, source })
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                return Err(DataDirError::Io { action, path, source }.into());
            }
            Err(error) => self.findings.fault(error.to_string(), ADVICE_FILE),
        }
        let path = dir.join(data_dir::CLUSTER);
        if !path.exists() {
            self.findings.note(format!(
                "{} is missing: the next start of the node needs --cluster-file",
                path.display()
            ));
        } else {
            match cluster_file::load(&path) {
                Ok(cluster) => begun.cluster = Some(cluster),
                Err(error) => self.findings.fault(error.to_string(), ADVICE_FILE),
            }
        }
        if let (Some(identity), Some(cluster)) = (&begun.identity, &begun.cluster)
            && identity.cluster_id != cluster.config.cluster_id
        {
            let expected =
                Identity { cluster_id: cluster.config.cluster_id.clone(), node: identity.node };
            let other = DataDirError::OtherIdentity {
                dir: dir.to_owned(),
                found: Box::new(identity.clone()),
                expected: Box::new(expected),
            };
            self.findings.fault(other.to_string(), ADVICE_FILE);
        }
        if let Some(identity) = &begun.identity {
            match kept_file::read(dir, identity) {
                Ok(kept) => begun.kept = Some(kept),
                Err(KeptFileError::Missing(_)) if !begun.must_exist => {}
                Err(error) => self.findings.fault(error.to_string(), ADVICE_MAP),
            }
        }
        if self.entries.is_none() {
            print::small_files(self.out, begun.identity.as_ref(), begun.cluster.as_ref())?;
            print::kept(self.out, begun.kept.as_ref())?;
        }
        Ok(begun)
    }

    /// What log and state have of each group, and whether a replica can be opened on it.
    fn groups(
        &mut self,
        dir: &Path,
        begun: &Begun,
        log: Option<&LogView>,
        state: Option<&StateView>,
    ) -> Result<(), InspectError> {
        let logs = log.map(LogView::groups).unwrap_or_default();
        let nothing = BTreeMap::new();
        let states = state.map_or(&nothing, |state| &state.groups);
        let own = begun.identity.as_ref().map(|identity| identity.node);
        let mut groups: BTreeSet<GroupId> = logs.keys().chain(states.keys()).copied().collect();
        if let (Some(kept), Some(own)) = (&begun.kept, own) {
            let named = kept.map.config.groups.keys().copied();
            groups.extend(named.filter(|group| kept.seats(*group, own)));
        }
        let comparable = log.is_some_and(|log| log.whole) && state.is_some_and(|s| s.whole);
        for group in groups {
            let (log, state) = (logs.get(&group), states.get(&group));
            let mut restored = log.map(|log| log.restored.clone()).unwrap_or_default();
            if let Some(state) = state {
                (restored.checkpoint, restored.staged) =
                    (state.stored.checkpoint.clone(), state.stored.staged);
            }
            if self.entries.is_none() {
                print::group(self.out, group, &restored, log, state)?;
            }
            match (&begun.kept, own) {
                (Some(kept), _) if !kept.wants(group) => self.findings.note(format!(
                    "{} has data of group {group}, which this node has no more: the next start deletes it",
                    dir.display()
                )),
                (Some(kept), Some(own)) if comparable => {
                    self.open(dir, own, group, kept.first_voters(group, own), restored);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Does what a start does with what was read.
    fn open(
        &mut self,
        dir: &Path,
        node: NodeId,
        group: GroupId,
        voters: Vec<NodeId>,
        restored: Restored,
    ) {
        if let Err(error) = Raft::open(Config::new(node, group, voters), restored, 1, 0) {
            let error = NodeError::Replica(error);
            self.findings.fault(
                format!("{}: log and state of group {group} do not match: {error}", dir.display()),
                "put back log.redb and state.redb of one moment, from after the node's last stop",
            );
        }
    }

    fn show(&mut self, range: &Range, log: &LogView) -> Result<(), InspectError> {
        let (out, shown) = (&mut *self.out, &mut self.shown);
        let ended = log.entries(range.group, range.from, range.to, |entry| {
            *shown += 1;
            range.print(out, entry)
        });
        match ended {
            Ok(()) => Ok(()),
            Err(Ended::Writing(error)) => Err(error.into()),
            Err(Ended::Log(error)) => {
                self.findings.fault(error.to_string(), "see what is said of the log");
                Ok(())
            }
        }
    }

    /// Names what is not a node's.
    fn strangers(&mut self, dir: &Path) -> Result<(), InspectError> {
        let failed = |source| DataDirError::Io { action: "read", path: dir.to_owned(), source };
        let ours = [
            data_dir::LOCK,
            data_dir::IDENTITY,
            data_dir::CLUSTER,
            data_dir::SECRET,
            data_dir::MAP,
            data_dir::LOG,
            data_dir::STATE,
            "lost+found",
        ];
        let mut names = Vec::new();
        for entry in fs::read_dir(dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            if !ours.contains(&name.as_str()) {
                names.push(name);
            }
        }
        names.sort_unstable();
        let count = names.len();
        names.truncate(STRANGERS_MAX);
        for name in names {
            let path = dir.join(&name);
            self.findings.note(match name.strip_suffix(data_dir::UNFINISHED) {
                Some(of) if ours.contains(&of) => format!(
                    "{} is left of a write that was cut short; the next one takes its place",
                    path.display()
                ),
                _ => format!("{} is not a file of a node", path.display()),
            });
        }
        if count > STRANGERS_MAX {
            self.findings.note(format!(
                "{} has {} more files that are not a node's",
                dir.display(),
                count - STRANGERS_MAX
            ));
        }
        Ok(())
    }
}

fn shown(dir: &Path) -> String {
    one_line(&dir.display().to_string())
}

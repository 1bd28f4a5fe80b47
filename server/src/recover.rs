//! `flotilla recover`: the way out when a majority of a group is lost for good (scenario M17).
//!
//! A group without a majority serves nothing, since nobody can know what the lost nodes had. This command gives
//! the group to one node that is left: behind its log it writes a configuration with that node alone, in a term above
//! all that the others can have. What the node lacks is lost; what it has and was never acknowledged becomes
//! part of the group. Without the flag that says so nothing is written.
//!
//! Nothing else of the program does this, and it works on the directory of a stopped node alone.

use crate::config::RecoverArgs;
use crate::data_dir::{self, DataDir, Identity};
use crate::inspect::findings::Findings;
use crate::kept_file;
use crate::log_store::inspect::LogView;
use crate::log_store::{LogEvent, LogStore, LogStoreConfig};
use crate::standalone::RunError;
use crate::state_store::inspect::StateView;
use crate::storage::OpenStorage;
use raft_core::Restored;
use raft_core::conf::Conf;
use raft_core::effects::Write as LogWrite;
use raft_core::frame::encode_entry;
use raft_core::types::{EntryId, EntryKind, GroupId, HardState, Index, NodeId, Term, WriteToken};
use shard_core::kept::Kept;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::channel;

/// How far above all terms of this log the new one is: the lost nodes may have been in higher ones, by an
/// election a second for eleven days.
const TERMS_ABOVE: u64 = 1 << 20;

/// What the directory has of the group.
struct Left {
    identity: Identity,
    kept: Kept,
    restored: Restored,
    /// The newest configuration, and its entry.
    conf: (Index, Conf),
    installing: BTreeMap<GroupId, EntryId>,
}

fn refused<T>(sentence: impl Into<String>) -> Result<T, RunError> {
    Err(RunError::Sentence(sentence.into()))
}

/// Runs the command: prints what there is, and writes if that is what was asked for.
///
/// # Errors
/// If nothing was written.
pub fn run(args: RecoverArgs) -> Result<(), RunError> {
    let group = GroupId(args.group);
    let left = look(&args.dir, group)?;
    // Nobody may be reading.
    let _ = write!(io::stdout(), "{}", left.report(&args.dir, group));
    let own = left.identity.node;
    if !left.conf.1.is_member(own) {
        return refused(format!(
            "node {own} is no member of group {group} as far as its log goes: recover on one that is"
        ));
    }
    let alone = Conf { follows: left.conf.1.follows, ..Conf::of_voters(vec![own]) };
    if left.conf.1 == alone {
        return refused(format!(
            "group {group} is node {own}'s alone already: start the node, it needs nobody else"
        ));
    }
    if left.restored.last.index == Index(0) && left.restored.checkpoint.is_none() {
        return refused(format!(
            "node {own} has nothing of group {group}: recover on a node that has"
        ));
    }
    if !args.accept_data_loss {
        return refused(
            "nothing was written. Look at each node that is left in this way, take the one with the \
             highest last term and, of those, the highest last entry, and give --accept-data-loss there, \
             once the lost nodes will never start again",
        );
    }
    let entry = left.write(&args.dir, group)?;
    let _ = writeln!(
        io::stdout(),
        "group {group} is node {own}'s alone from entry {} of term {} on. Start the node. Then give the group \
         other voters, on nodes with new ids",
        entry.index,
        entry.term
    );
    Ok(())
}

/// Reads what there is, and changes nothing.
fn look(dir: &Path, group: GroupId) -> Result<Left, RunError> {
    let Some((identity, true)) = data_dir::read_identity(dir)? else {
        return refused(format!(
            "the directory {} holds no data of a node that has run",
            dir.display()
        ));
    };
    let _lock = data_dir::lock_existing(dir)?;
    let kept =
        kept_file::read(dir, &identity).map_err(|error| RunError::Sentence(error.to_string()))?;
    let mut findings = Findings::default();
    let unreadable =
        |error: io::Error| RunError::Sentence(format!("cannot read {}: {error}", dir.display()));
    let (log, state) = (dir.join(data_dir::LOG), dir.join(data_dir::STATE));
    let log = LogView::read(&log, true, Some(&identity), &mut findings).map_err(unreadable)?;
    let state =
        StateView::read(&state, true, Some(&identity), &mut findings).map_err(unreadable)?;
    let (Some(mut log), Some(state), 0) = (log, state, findings.count()) else {
        let what = findings.first().unwrap_or("a file cannot be read");
        return refused(format!(
            "{what}; nothing was written, and `flotilla inspect {}` says all that is wrong there; recover on \
             another node",
            dir.display()
        ));
    };
    let noted = state.groups.iter();
    let noted = noted.filter_map(|(group, view)| Some((*group, view.stored.installing?)));
    let installing: BTreeMap<GroupId, EntryId> = noted.collect();
    log.finish_installs(&installing, &mut findings);
    if !kept.wants(group) {
        return refused(format!("the map of node {} names no group {group}", identity.node));
    }
    let mut restored = log.groups().remove(&group).map(|log| log.restored).unwrap_or_default();
    if let Some(view) = state.groups.get(&group) {
        restored.checkpoint = view.stored.checkpoint.clone();
    }
    let first = (Index(0), Conf::of_voters(kept.first_voters(group, identity.node)));
    let in_state = restored.checkpoint.as_ref().map(|checkpoint| checkpoint.conf.clone());
    let conf = restored.confs.last().cloned().or(in_state).unwrap_or(first);
    Ok(Left { identity, kept, restored, conf, installing })
}

impl Left {
    fn report(&self, dir: &Path, group: GroupId) -> String {
        let Identity { cluster_id, node } = &self.identity;
        let Restored { hard, base, last, checkpoint, .. } = &self.restored;
        let mut text = String::new();
        let vote = hard.voted_for.map_or("no vote".to_owned(), |to| format!("voted for node {to}"));
        let _ = writeln!(text, "{}: node {node} of cluster {cluster_id:?}", dir.display());
        let _ = writeln!(text, "group {group}");
        let _ = writeln!(text, "  term        {}, {vote}", hard.term);
        let _ = writeln!(text, "  last entry  {} of term {}", last.index, last.term);
        let _ = writeln!(text, "  log begins  after {}", base.index);
        let at = checkpoint.as_ref().map(|checkpoint| checkpoint.id.at);
        let at = at.map_or("none".to_owned(), |at| format!("at {}", at.index));
        let _ = writeln!(text, "  checkpoint  {at}");
        let (index, conf) = &self.conf;
        let _ = writeln!(text, "  voters      {} since entry {index}", list(&conf.all_voters()));
        let seats = self.kept.map.config.groups.get(&group);
        let seats = seats.map_or(String::new(), |seats| list(&seats.voters));
        let _ = writeln!(text, "  the map     {seats} are to be its voters");
        let _ = writeln!(
            text,
            "What may be lost: all that was acknowledged behind entry {last}, which this node cannot know of. \
             What may come: of the entries behind the checkpoint those that nobody was told of.",
            last = last.index
        );
        text
    }

    /// Gives the group to this node.
    fn write(&self, dir: &Path, group: GroupId) -> Result<EntryId, RunError> {
        // Nobody else opens it meanwhile.
        let data_dir = DataDir::open(dir, &self.identity)?;
        let own = self.identity.node;
        let term = Term(self.restored.hard.term.max(self.restored.last.term).0 + TERMS_ABOVE);
        let id = EntryId { index: self.restored.last.index.next(), term };
        // It follows the same wish of the map: the lost nodes are asked for again by nobody.
        let follows = self.conf.1.follows;
        let conf = Conf { follows, ..Conf::of_voters(vec![own]) };
        let entry = encode_entry(group, id, EntryKind::Conf, &conf.encode());
        let failed = |error: String| RunError::Sentence(error);
        let (events, reports) = channel();
        let config = LogStoreConfig { must_exist: true, ..LogStoreConfig::default() };
        let report = move |event| {
            // Read to its end below.
            let _ = events.send(event);
        };
        let (path, storage) = (data_dir.log_path(), OpenStorage::default());
        let (log, groups) =
            LogStore::open((&path, &self.identity), &storage, config, &self.installing, report)
                .map_err(|error| failed(error.to_string()))?;
        let found = groups.get(&group).map(|found| (found.hard, found.last));
        if found.unwrap_or_default() != (self.restored.hard, self.restored.last) {
            return refused("the log has changed meanwhile: start again");
        }
        let hard = HardState { term, voted_for: Some(own), promised_ns: 0 };
        log.submit(vec![(
            group,
            LogWrite {
                token: WriteToken(1),
                hard: Some(hard),
                truncate_from: None,
                install: None,
                entries: [entry].into_iter().collect(),
            },
        )]);
        log.close().map_err(failed)?;
        let durable = |event: LogEvent| matches!(event, LogEvent::Persisted(_));
        match reports.iter().any(durable) {
            true => Ok(id),
            false => refused(
                "the log did not report what was written: look into it before anything else",
            ),
        }
    }
}

fn list(nodes: &[NodeId]) -> String {
    nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(" ")
}

//! What a log should hold: writes, compactions and installs as a core and its host would give them,
//! and what each leaves.

use raft_core::conf::Conf;
use raft_core::effects::{Fetch, FetchResult, Write};
use raft_core::frame::encode_entry;
use raft_core::random::Random;
use raft_core::snapshot::{Snapshot, SnapshotId};
use raft_core::types::{
    Entry, EntryId, EntryKind, FetchId, GroupId, HardState, Index, NodeId, Term, WriteToken,
};
use server::log_store::{LogEvent, LogStore};
use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;

const GROUPS: u32 = 4;
/// Groups wake up and fall silent after so many submissions.
const PHASE: u64 = 12;

/// One group.
#[derive(Clone, Debug, Default)]
pub struct GroupModel {
    pub hard: HardState,
    /// The base of an empty log, or of the last snapshot that took the log's place.
    pub base: EntryId,
    /// All entries after it.
    pub entries: Vec<Entry>,
    /// Up to here the log is not needed any more; what a crash leaves may begin before.
    pub compacted: Index,
    /// It is to be forgotten, and is with the next submission.
    pub forgotten: bool,
    /// The same of all but term and vote.
    pub left: bool,
}

/// One group, as a log holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub hard: HardState,
    pub base: EntryId,
    pub entries: Vec<Entry>,
}

pub type Model = BTreeMap<GroupId, GroupModel>;
pub type Contents = BTreeMap<GroupId, Found>;

impl GroupModel {
    /// An entry's place, or the base.
    pub fn id_at(&self, index: Index) -> EntryId {
        match index.0 - self.base.index.0 {
            0 => self.base,
            offset => self.entries[offset as usize - 1].id,
        }
    }

    pub fn last(&self) -> EntryId {
        self.entries.last().map_or(self.base, |entry| entry.id)
    }

    /// The entries after an index.
    pub fn after(&self, index: Index) -> &[Entry] {
        &self.entries[(index.0 - self.base.index.0) as usize..]
    }

    /// Whether a log may hold this.
    pub fn allows(&self, found: &Found) -> bool {
        let vote = Found { hard: self.hard, base: EntryId::default(), entries: Vec::new() };
        if self.left && *found == vote {
            return true;
        }
        found.hard == self.hard
            && (self.base.index..=self.compacted.max(self.base.index)).contains(&found.base.index)
            && self.id_at(found.base.index) == found.base
            && self.after(found.base.index) == found.entries
    }
}

/// Whether a log may hold this.
pub fn allows(model: &Model, found: &Contents) -> bool {
    found.keys().all(|group| model.contains_key(group))
        && model.iter().all(|(group, model)| match found.get(group) {
            Some(found) => model.allows(found),
            None => model.forgotten,
        })
}

/// What is submitted at once, and what is compacted behind it.
#[derive(Clone, Debug, Default)]
pub struct Submission {
    pub writes: Vec<(GroupId, Write)>,
    pub compacts: Vec<(GroupId, EntryId)>,
    /// What is forgotten behind that.
    pub forgets: Vec<GroupId>,
    /// Of what all is but term and vote.
    pub leaves: Vec<GroupId>,
}

impl Submission {
    /// Has it forgotten.
    pub fn forget(&self, store: &LogStore) {
        self.forgets.iter().for_each(|group| store.forget(*group));
        self.leaves.iter().for_each(|group| store.forget_all_but_vote(*group));
    }
}

/// `states[k]` is what `k` submissions leave.
pub struct Workload {
    pub submissions: Vec<Submission>,
    pub states: Vec<Model>,
}

impl Workload {
    pub fn new(seed: u64, submissions: u64) -> Workload {
        let mut random = Random::new(seed);
        let mut model = Model::new();
        let mut made = Workload { submissions: Vec::new(), states: vec![Model::new()] };
        let mut active = [true; GROUPS as usize];
        for token in 1..=submissions {
            if token % PHASE == 0 {
                active.fill_with(|| random.below(2) == 0);
                active[random.below(u64::from(GROUPS)) as usize] = true;
            }
            let mut submission = Submission::default();
            model.retain(|_, log| !log.forgotten);
            for log in model.values_mut().filter(|log| log.left) {
                *log = GroupModel { hard: log.hard, ..GroupModel::default() };
            }
            for group in (1..=GROUPS).filter(|group| active[*group as usize - 1]) {
                // Something is written each time, so that each submission is reported.
                if submission.writes.is_empty() || random.below(2) == 0 {
                    let group = GroupId(group);
                    let log = model.entry(group).or_default();
                    submission.writes.push((group, write(&mut random, group, token, log)));
                }
            }
            for (group, log) in &mut model {
                if random.below(8) == 0 {
                    let settled = log.last().index.0 - log.base.index.0;
                    let upto = Index(log.base.index.0 + random.below(settled + 1));
                    if upto > log.compacted.max(log.base.index) {
                        log.compacted = upto;
                        submission.compacts.push((*group, log.id_at(upto)));
                    }
                }
            }
            for (group, log) in &mut model {
                log.forgotten = random.below(150) == 0;
                submission.forgets.extend(log.forgotten.then_some(*group));
                log.left = !log.forgotten && random.below(100) == 0;
                submission.leaves.extend(log.left.then_some(*group));
            }
            made.submissions.push(submission);
            made.states.push(model.clone());
        }
        made
    }
}

fn write(random: &mut Random, group: GroupId, token: u64, log: &mut GroupModel) -> Write {
    let new_term = log.hard.term == Term(0) || random.below(6) == 0;
    if new_term {
        let voted_for = Some(NodeId(random.below(3) + 1));
        log.hard = HardState { term: log.hard.term.next(), voted_for, promised_ns: token % 3 };
    }
    let install = (random.below(30) == 0).then(|| {
        let at =
            EntryId { index: Index(log.last().index.0 + random.below(9) + 1), term: log.hard.term };
        let compacted = at.index;
        *log = GroupModel {
            hard: log.hard,
            base: at,
            entries: Vec::new(),
            compacted,
            ..GroupModel::default()
        };
        let conf = (Index(0), Conf::of_voters(vec![NodeId(1)]));
        Box::new(Snapshot { id: SnapshotId { at, hash: token }, bytes: 1, conf })
    });
    let first = log.compacted.max(log.base.index);
    let above = log.last().index.0 - first.0;
    let cut = new_term && install.is_none() && above > 0 && random.below(2) == 0;
    let truncate_from = cut.then(|| {
        let last = Index(first.0 + random.below(above));
        log.entries.truncate((last.0 - log.base.index.0) as usize);
        last.next()
    });
    let mut appended = Vec::new();
    for _ in 0..random.below(4) {
        let id = EntryId { index: log.last().index.next(), term: log.hard.term };
        let bytes = match random.below(40) {
            0 => random.below(60_000),
            _ => random.below(600),
        };
        let payload: Vec<u8> = (0..bytes).map(|at| (at ^ token) as u8).collect();
        let entry = encode_entry(group, id, EntryKind::Command, &payload);
        log.entries.push(entry.clone());
        appended.push(entry);
    }
    Write {
        token: WriteToken(token),
        hard: new_term.then_some(log.hard),
        truncate_from,
        install,
        entries: appended.into(),
    }
}

/// A log that was opened.
pub struct Log {
    pub store: LogStore,
    pub groups: BTreeMap<GroupId, raft_core::Restored>,
    pub events: Receiver<LogEvent>,
}

impl Log {
    fn fetched(&self) -> FetchResult {
        loop {
            match self.events.recv().unwrap() {
                LogEvent::Fetched { result, .. } => return result,
                LogEvent::CheckpointWanted(_) | LogEvent::Forgotten(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Everything it holds, read back.
    pub fn contents(&self) -> Contents {
        let groups = self.groups.iter().map(|(group, recovered)| {
            let mut entries: Vec<Entry> = Vec::new();
            let mut last = recovered.base;
            while last.index < recovered.last.index {
                let from = last.index.next();
                let fetch =
                    Fetch { id: FetchId(0), from, to: recovered.last.index, bytes_max: 1 << 16 };
                self.store.fetch(*group, fetch);
                // Gone: rows were removed while this was asked; the next question knows.
                if let FetchResult::Entries(more) = self.fetched() {
                    entries.extend(more);
                }
                last = entries.last().map_or(last, |entry| entry.id);
            }
            assert_eq!(last, recovered.last);
            let mut runs: Vec<EntryId> = entries.iter().map(|entry| entry.id).collect();
            runs.dedup_by_key(|id| id.term);
            assert_eq!(runs, recovered.term_runs);
            (*group, Found { hard: recovered.hard, base: recovered.base, entries })
        });
        groups.collect()
    }
}

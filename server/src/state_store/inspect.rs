//! What stands in a state that no node uses now: every row is read and verified as by a start, but what
//! is behind a damage too, and nothing is written.

use super::format::{
    FORMAT_KEY, Fault, GROUPS, GroupRow, Home, INSTALLING, PARTS, ROWS, STAGING, StagedKey,
    StagingRow, Totals, after_prefix, decode_installing, own_key,
};
use super::open::{Found, check_format, check_owner, find_dead, meta};
use super::rows::{checked_part, read_part, read_value};
use super::{StateStoreError, StoredGroup};
use crate::data_dir::Identity;
use crate::inspect::findings::Findings;
use crate::inspect::image::{Image, Sizes};
use raft_core::types::GroupId;
use redb::{ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition};
use shard_core::machine::{Machine, MachineLoader};
use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};

/// The largest state, in bytes of its rows, of which a state machine is made to look at it; it takes
/// some times that in memory. Of a larger one the rows are verified, and no more.
pub(crate) const MACHINE_BYTES_MAX: u64 = 1 << 30;

/// What to do about a state that is not what was written.
const ADVICE: &str = "check the disk; if there is a copy of the whole directory from after the node's last \
     stop, put that back; else this node is lost, and its groups go on while they have a majority: \
     the log alone does not bring back what its checkpoints held";

/// A state that was read.
pub(crate) struct StateView {
    /// Of the file.
    pub(crate) sizes: Sizes,
    /// What stands in it.
    pub(crate) groups: BTreeMap<GroupId, GroupView>,
    /// Generations that are still to be deleted.
    pub(crate) to_clean: usize,
    /// Nothing is wrong with it.
    pub(crate) whole: bool,
}

/// One group's state.
#[derive(Debug, Default)]
pub(crate) struct GroupView {
    /// What a start would be told.
    pub(crate) stored: StoredGroup,
    /// Rows of the checkpoint.
    pub(crate) rows: u64,
    /// What the rows are, if they are right.
    pub(crate) summary: Option<Summary>,
}

/// What a state machine holds.
#[derive(Debug)]
pub(crate) enum Summary {
    /// Keys of clients.
    Shard(shard_core::shard_store::StoreStats),
    /// The newest configuration of the cluster.
    Master(Box<shard_core::cluster_config::ClusterConfig>),
    /// The state is larger than [`MACHINE_BYTES_MAX`].
    NotLoaded,
}

struct Look<'a> {
    path: PathBuf,
    transaction: ReadTransaction,
    findings: &'a mut Findings,
}

impl StateView {
    /// Reads the state and verifies all of it, one group after the other. `None`: there is none, or it
    /// cannot be read at all; the findings say why. `owner`: whose it should be, where that is known.
    ///
    /// # Errors
    /// If this user may not read it.
    pub(crate) fn read(
        path: &Path,
        must_exist: bool,
        owner: Option<&Identity>,
        findings: &mut Findings,
    ) -> io::Result<Option<StateView>> {
        let image = match Image::open(path) {
            Ok(Some(image)) => image,
            Ok(None) => {
                if must_exist {
                    let missing = StateStoreError::Missing(path.to_owned());
                    findings.fault(missing.to_string(), ADVICE);
                }
                return Ok(None);
            }
            Err(redb::Error::Io(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(error);
            }
            Err(error) => {
                let error = StateStoreError::of(path, Fault::Database(error));
                findings.fault(error.to_string(), ADVICE);
                return Ok(None);
            }
        };
        findings.fell_back(path, image.sizes);
        let before = findings.count();
        let begun = image.database.begin_read().map_err(Fault::from);
        let looked = begun.map_err(|fault| StateStoreError::of(path, fault)).and_then(|read| {
            let format =
                meta(&read, FORMAT_KEY).map_err(|fault| StateStoreError::of(path, fault))?;
            check_format(format, path)?;
            if let Some(Err(error)) = owner.map(|owner| check_owner(&read, owner, path)) {
                findings.fault(error.to_string(), ADVICE);
            }
            let path = path.to_owned();
            Ok(Look { path, transaction: read, findings: &mut *findings }.all())
        });
        let (groups, to_clean) = match looked {
            Ok(looked) => looked,
            Err(error) => {
                findings.fault(error.to_string(), ADVICE);
                return Ok(None);
            }
        };
        let whole = findings.count() == before;
        Ok(Some(StateView { sizes: image.sizes, groups, to_clean, whole }))
    }
}

impl Look<'_> {
    fn fault(&mut self, fault: Fault) {
        let error = StateStoreError::of(&self.path, fault);
        self.findings.fault(error.to_string(), ADVICE);
    }

    fn all(mut self) -> (BTreeMap<GroupId, GroupView>, usize) {
        let mut found = Found {
            groups: self.sealed(GROUPS, GroupRow::decode),
            staging: self.sealed(STAGING, StagingRow::decode),
            installing: self.sealed(INSTALLING, decode_installing),
            ..Found::default()
        };
        let damaged = self.findings.count();
        if let Err(fault) = find_dead(&self.transaction, &mut found) {
            self.fault(fault);
        }
        let mut groups: BTreeMap<GroupId, GroupView> = BTreeMap::new();
        for (group, stored) in found.stored() {
            groups.insert(group, GroupView { stored, ..GroupView::default() });
        }
        for (group, row) in &found.groups {
            let view = groups.entry(*group).or_default();
            view.rows = row.totals.rows;
            view.summary = self.checkpoint(*group, row);
        }
        for (group, row) in &found.staging {
            self.staged(*group, row);
        }
        // With a row of `groups` gone, its rows would seem to be.
        let to_clean = if damaged == 0 { found.dead.len() } else { 0 };
        (groups, to_clean)
    }

    /// All rows of a table that are what they should be.
    fn sealed<T>(
        &mut self,
        table: TableDefinition<u32, &[u8]>,
        decode: impl Fn(GroupId, &[u8]) -> Result<T, Fault>,
    ) -> BTreeMap<GroupId, T> {
        let mut rows = BTreeMap::new();
        let mut faults = Vec::new();
        let mut read = || -> Result<(), Fault> {
            for entry in self.transaction.open_table(table)?.iter()? {
                let (group, row) = entry?;
                let group = GroupId(group.value());
                match decode(group, row.value()) {
                    Ok(row) => drop(rows.insert(group, row)),
                    Err(fault) => faults.push(fault),
                }
            }
            Ok(())
        };
        let read = read();
        faults.extend(read.err());
        faults.into_iter().for_each(|fault| self.fault(fault));
        rows
    }

    /// Verifies a checkpoint, and makes the state machine of it.
    fn checkpoint(&mut self, group: GroupId, row: &GroupRow) -> Option<Summary> {
        let home = Home { group, generation: row.generation };
        let small = row.totals.bytes <= MACHINE_BYTES_MAX;
        let mut loader = small.then(|| MachineLoader::new(group));
        let mut refused = None;
        let totals = self.rows(home, |key, value| {
            // After one that is refused the others are verified all the same.
            if let Some(Err(error)) = loader.as_mut().map(|loader| loader.row(key, value)) {
                refused = Some(error);
                loader = None;
            }
        })?;
        if (totals.hash, totals.bytes, totals.rows)
            != (row.totals.hash, row.totals.bytes, row.totals.rows)
        {
            let place = format!("the rows of group {group}");
            let what = "they do not come to size and hash of the checkpoint";
            self.fault(Fault::Damaged { place, what });
            return None;
        }
        let finished = match (refused, loader) {
            (Some(error), _) => Err(error),
            (None, Some(loader)) => loader.finish(),
            (None, None) => return Some(Summary::NotLoaded),
        };
        match finished {
            Ok(Machine::Shard(store)) => Some(Summary::Shard(store.stats())),
            Ok(Machine::Master(master)) => Some(Summary::Master(Box::new(master.newest().clone()))),
            Err(source) => {
                let error = crate::loading::StateError::Row { group, source };
                self.findings.fault(format!("{}: {error}", self.path.display()), ADVICE);
                None
            }
        }
    }

    /// Verifies what has come of a snapshot.
    fn staged(&mut self, group: GroupId, row: &StagingRow) {
        let home = Home { group, generation: row.generation };
        if let Some(value) = &row.unfinished {
            if let StagedKey::Parted { len, id, parts } = value.key {
                self.parts(home, (len, id), parts);
            }
            self.parts(home, (value.len, value.id), value.parts);
        }
        let Some(totals) = self.rows(home, |_, _| ()) else { return };
        let known = &row.totals;
        if (totals.hash, totals.bytes, totals.rows) != (known.hash, known.bytes, known.rows) {
            let place = format!("the snapshot that comes in for group {group}");
            let what = "its rows do not come to size and hash of what was received";
            self.fault(Fault::Damaged { place, what });
        }
        let id = row.snapshot.id;
        if row.is_whole() && (id.hash, row.snapshot.bytes) != (known.hash, known.bytes) {
            let place = format!("the snapshot that comes in for group {group}");
            self.fault(Fault::Damaged { place, what: "it is not what its name says" });
        }
    }

    /// Verifies the rows of a generation. What they come to, if none is damaged.
    fn rows(&mut self, home: Home, mut give: impl FnMut(&[u8], bytes::Bytes)) -> Option<Totals> {
        let (mut totals, mut whole) = (Totals::EMPTY, true);
        let mut faults = Vec::new();
        let mut read = || -> Result<(), Fault> {
            let rows = self.transaction.open_table(ROWS)?;
            let parts = self.transaction.open_table(PARTS)?;
            let prefix = home.prefix();
            let end = after_prefix(&prefix);
            let range = (Bound::Included(&prefix[..]), end.as_ref().map(|end| &end[..]));
            for entry in rows.range::<&[u8]>(range)? {
                let (full, row) = entry?;
                let key = own_key(full.value());
                match read_value(&parts, home, key, row.value()) {
                    Ok((hash, value)) => {
                        totals.add(hash, key.len(), value.len());
                        if whole {
                            give(key, value.into_owned().into());
                        }
                    }
                    Err(fault) => {
                        whole = false;
                        keep_some(&mut faults, fault);
                    }
                }
            }
            Ok(())
        };
        let read = read();
        whole &= read.is_ok();
        faults.extend(read.err());
        faults.into_iter().for_each(|fault| self.fault(fault));
        whole.then_some(totals)
    }

    /// Verifies the parts, so many, of what has not come as a whole.
    fn parts(&mut self, home: Home, (len, id): (u32, u64), parts: u32) {
        let mut faults = Vec::new();
        let mut read = || -> Result<(), Fault> {
            let table = self.transaction.open_table(PARTS)?;
            for number in 0..parts {
                let checked = read_part(&table, home, id, number)
                    .and_then(|part| checked_part(home, id, number, len, part.value()).map(|_| ()));
                if let Err(fault) = checked {
                    keep_some(&mut faults, fault);
                }
            }
            Ok(())
        };
        let read = read();
        faults.extend(read.err());
        faults.into_iter().for_each(|fault| self.fault(fault));
    }
}

/// A file may have more faults than anybody reads.
fn keep_some(faults: &mut Vec<Fault>, fault: Fault) {
    const KEPT_MAX: usize = 100;
    if faults.len() < KEPT_MAX {
        faults.push(fault);
    }
}

//! What happens before the store's threads run: the file is made, what it says of groups is read and
//! verified, what a crash left of unfinished things is found, and a file that is mostly free is
//! compacted.

use super::format::{
    FORMAT, FORMAT_KEY, Fault, GENERATION_KEY, GROUPS, GroupRow, Home, INSTALLING, META, PARTS,
    ROWS, STAGING, StagingRow, decode_installing,
};
use super::writer::clean_some;
use super::{StateStoreConfig, StateStoreError, Storage, StoredGroup};
use crate::data_dir::Identity;
use crate::opened_file::Layout;
use crate::owner;
use raft_core::types::{EntryId, GroupId};
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition};
use std::collections::BTreeMap;
use std::path::Path;

/// What stands in the file.
#[derive(Default)]
pub(super) struct Found {
    pub(super) groups: BTreeMap<GroupId, GroupRow>,
    pub(super) staging: BTreeMap<GroupId, StagingRow>,
    pub(super) installing: BTreeMap<GroupId, EntryId>,
    pub(super) next_generation: u32,
    /// Generations that belong to nothing any more.
    pub(super) dead: Vec<Home>,
}

impl Found {
    pub(super) fn stored(&self) -> BTreeMap<GroupId, StoredGroup> {
        let mut stored: BTreeMap<GroupId, StoredGroup> = BTreeMap::new();
        for (group, row) in &self.groups {
            stored.entry(*group).or_default().checkpoint = Some(row.snapshot());
        }
        for (group, row) in &self.staging {
            stored.entry(*group).or_default().staged = Some((row.snapshot.id, row.offset));
        }
        for (group, at) in &self.installing {
            stored.entry(*group).or_default().installing = Some(*at);
        }
        stored
    }

    fn live(&self) -> impl Iterator<Item = Home> {
        let groups = self.groups.iter().map(|(group, row)| (*group, row.generation));
        let staging = self.staging.iter().map(|(group, row)| (*group, row.generation));
        groups.chain(staging).map(|(group, generation)| Home { group, generation })
    }

    /// About what the file would have if nothing in it were free.
    fn bytes(&self) -> u64 {
        let groups: u64 = self.groups.values().map(|row| row.totals.bytes).sum();
        groups + self.staging.values().map(|row| row.offset).sum::<u64>()
    }
}

/// What the file has.
pub(super) const LAYOUT: Layout = Layout { format: FORMAT, make: write_format };

/// Makes the tables and writes the format's number, unless they are there.
fn write_format(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        if meta.get(FORMAT_KEY)?.is_some() {
            return Ok(());
        }
        meta.insert(FORMAT_KEY, FORMAT)?;
        transaction.open_table(ROWS)?;
        transaction.open_table(PARTS)?;
        transaction.open_table(GROUPS)?;
        transaction.open_table(STAGING)?;
        transaction.open_table(INSTALLING)?;
    }
    transaction.commit()?;
    Ok(())
}

/// Reads everything but the rows. And whether it says that it is the owner's, where there is one; else it is
/// nobody's.
pub(super) fn scan(
    database: &Database,
    path: &Path,
    owner: Option<&Identity>,
) -> Result<(Found, bool), StateStoreError> {
    let failed = |fault| StateStoreError::of(path, fault);
    let transaction = database.begin_read().map_err(|error| failed(error.into()))?;
    check_format(meta(&transaction, FORMAT_KEY).map_err(failed)?, path)?;
    let owned = owner.map_or(Ok(false), |owner| check_owner(&transaction, owner, path))?;
    Ok((read(&transaction).map_err(failed)?, owned))
}

/// Refuses another's state; whether this one says that it is the node's own.
pub(super) fn check_owner(
    transaction: &ReadTransaction,
    owner: &Identity,
    path: &Path,
) -> Result<bool, StateStoreError> {
    owner::check(transaction, owner, ("state", path), |error| {
        StateStoreError::of(path, error.into())
    })
}

/// Refuses what this program cannot read.
pub(super) fn check_format(format: Option<u64>, path: &Path) -> Result<(), StateStoreError> {
    match format {
        Some(1..=FORMAT) => Ok(()),
        found => {
            let found = found.unwrap_or(0);
            Err(StateStoreError::Format { path: path.to_owned(), found })
        }
    }
}

pub(super) fn meta(transaction: &ReadTransaction, key: &str) -> Result<Option<u64>, Fault> {
    Ok(transaction.open_table(META)?.get(key)?.map(|value| value.value()))
}

fn read(transaction: &ReadTransaction) -> Result<Found, Fault> {
    let mut found = Found {
        groups: sealed(transaction, GROUPS, GroupRow::decode)?,
        staging: sealed(transaction, STAGING, StagingRow::decode)?,
        installing: sealed(transaction, INSTALLING, decode_installing)?,
        next_generation: 0,
        dead: Vec::new(),
    };
    find_dead(transaction, &mut found)?;
    Ok(found)
}

/// Finds what belongs to nothing any more, by what stands in `groups` and `staging`.
pub(super) fn find_dead(transaction: &ReadTransaction, found: &mut Found) -> Result<(), Fault> {
    let damaged = |what| Fault::Damaged { place: "table meta".to_owned(), what };
    let next = meta(transaction, GENERATION_KEY)?.unwrap_or(0);
    found.next_generation =
        u32::try_from(next).map_err(|_| damaged("the next generation is no such number"))?;
    if found.live().any(|home| home.generation >= found.next_generation) {
        return Err(damaged("a generation is in use that comes later"));
    }
    let mut live: Vec<Home> = found.live().collect();
    live.sort_unstable();
    for table in [ROWS, PARTS] {
        found
            .dead
            .extend(homes(transaction, table)?.filter(|home| live.binary_search(home).is_err()));
    }
    found.dead.sort_unstable();
    found.dead.dedup();
    Ok(())
}

fn sealed<T>(
    transaction: &ReadTransaction,
    table: TableDefinition<u32, &[u8]>,
    decode: impl Fn(GroupId, &[u8]) -> Result<T, Fault>,
) -> Result<BTreeMap<GroupId, T>, Fault> {
    let mut rows = BTreeMap::new();
    for entry in transaction.open_table(table)?.iter()? {
        let (group, row) = entry?;
        let group = GroupId(group.value());
        rows.insert(group, decode(group, row.value())?);
    }
    Ok(rows)
}

/// Every generation that has something in a table; their rows are passed over.
fn homes(
    transaction: &ReadTransaction,
    table: TableDefinition<&'static [u8], &'static [u8]>,
) -> Result<impl Iterator<Item = Home> + use<>, Fault> {
    let table = transaction.open_table(table)?;
    let mut homes = Vec::new();
    let mut from = Vec::new();
    while let Some(entry) = table.range::<&[u8]>(&from[..]..)?.next() {
        let (key, _) = entry?;
        let Some(home) = Home::of(key.value()) else {
            let place = "the key of a row".to_owned();
            return Err(Fault::Damaged { place, what: "it is too short" });
        };
        homes.push(home);
        match super::format::after_prefix(&home.prefix()) {
            std::ops::Bound::Excluded(next) => from = next,
            std::ops::Bound::Included(_) | std::ops::Bound::Unbounded => break,
        }
    }
    Ok(homes.into_iter())
}

/// Shrinks a file that is mostly free, which redb never does by itself. What is dead goes first.
pub(super) fn compact(
    database: &mut Database,
    storage: &Storage,
    config: &StateStoreConfig,
    found: &mut Found,
) -> Result<(), Fault> {
    let used = found.bytes().saturating_mul(config.compact_ratio);
    if storage.taken() <= used.saturating_add(config.compact_bytes_min) {
        return Ok(());
    }
    for home in std::mem::take(&mut found.dead) {
        loop {
            let transaction = database.begin_write()?;
            let done = clean_some(&transaction, home)?;
            transaction.commit()?;
            if done {
                break;
            }
        }
    }
    database.compact()?;
    Ok(())
}

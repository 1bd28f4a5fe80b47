//! Whose a file is: log, state and map say so themselves, so that another node's file in its place is not taken
//! for this node's own.
//!
//! Of log and state, table `owner` has one row, from the cluster's id to the node's. A file from before there was that table
//! belongs to who opens it next.

use crate::data_dir::Identity;
use crate::last_words::HOW_TO_GO_ON;
use raft_core::types::NodeId;
use redb::{Database, ReadTransaction, ReadableTable, TableDefinition, TableError};
use std::path::{Path, PathBuf};

const OWNER: TableDefinition<&str, u64> = TableDefinition::new("owner");
/// Both files have this table, and in it the number of their format.
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// A file that is another node's.
#[derive(Debug, thiserror::Error)]
#[error(
    "the {kind} {path} belongs to node {} of cluster {:?}, its directory to node {} of cluster {:?}; put \
     back the one that was here; {HOW_TO_GO_ON}",
    found.node, found.cluster_id, expected.node, expected.cluster_id
)]
pub struct OtherOwner {
    pub(crate) kind: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) found: Identity,
    pub(crate) expected: Identity,
}

/// Whether the file, a log or a state, is this node's; false if it is nobody's yet.
pub(crate) fn check<E: From<Box<OtherOwner>>>(
    transaction: &ReadTransaction,
    owner: &Identity,
    (kind, path): (&'static str, &Path),
    failed: impl Fn(redb::Error) -> E,
) -> Result<bool, E> {
    let Some(found) = found(transaction).map_err(failed)? else { return Ok(false) };
    if found == *owner {
        return Ok(true);
    }
    let (path, expected) = (path.to_owned(), owner.clone());
    Err(Box::new(OtherOwner { kind, path, found, expected }).into())
}

/// Whose it says that it is.
fn found(transaction: &ReadTransaction) -> Result<Option<Identity>, redb::Error> {
    let table = match transaction.open_table(OWNER) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        table => table?,
    };
    Ok(table.first()?.map(|(cluster, node)| Identity {
        cluster_id: cluster.value().to_owned(),
        node: NodeId(node.value()),
    }))
}

/// Writes into a file that is nobody's whose it is, and with it the format that says so.
pub(crate) fn claim(database: &Database, owner: &Identity, format: u64) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(OWNER)?.insert(&*owner.cluster_id, owner.node.0)?;
    transaction.open_table(META)?.insert("format", format)?;
    Ok(transaction.commit()?)
}

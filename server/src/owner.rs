//! Whose log or state a file is: it says so itself, so that another node's file in its place is not taken
//! for this node's own.
//!
//! Table `owner` has one row, from the cluster's id to the node's. A file from before there was that table
//! belongs to who opens it next.

use crate::data_dir::Identity;
use raft_core::types::NodeId;
use redb::{Database, ReadTransaction, ReadableTable, TableDefinition, TableError};

const OWNER: TableDefinition<&str, u64> = TableDefinition::new("owner");
/// Both files have this table, and in it the number of their format.
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// A file that is another's.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Other(pub(crate) Box<Identity>);

/// Whether the file is this node's; false if it is nobody's yet.
pub(crate) fn check(
    transaction: &ReadTransaction,
    owner: &Identity,
) -> Result<Result<bool, Other>, redb::Error> {
    let table = match transaction.open_table(OWNER) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(Ok(false)),
        table => table?,
    };
    let Some((cluster, node)) = table.first()? else { return Ok(Ok(false)) };
    let found = Identity { cluster_id: cluster.value().to_owned(), node: NodeId(node.value()) };
    Ok(match found == *owner {
        true => Ok(true),
        false => Err(Other(Box::new(found))),
    })
}

/// Writes into a file that is nobody's whose it is, and with it the format that says so.
pub(crate) fn claim(database: &Database, owner: &Identity, format: u64) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(OWNER)?.insert(&*owner.cluster_id, owner.node.0)?;
    transaction.open_table(META)?.insert("format", format)?;
    Ok(transaction.commit()?)
}

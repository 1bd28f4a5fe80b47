//! Commands about slots, groups and nodes.

use super::{Arguments, Call, Cluster, ErrorText, Local, answer, integer, on_key, take};
use crate::reply::Reply;
use shard_core::op::Op;
use shard_core::slot::{SLOTS, Slot, hash_slot};

fn cluster(call: Cluster) -> Result<Call, ErrorText> {
    Ok(Call::Local(Local::Cluster(call)))
}

/// READONLY, READWRITE and ASKING: every key is served here, always by its leader.
pub fn ok(_: &mut Arguments) -> Result<Call, ErrorText> {
    answer(Reply::OK)
}

/// CLUSTER INFO
pub fn info(_: &mut Arguments) -> Result<Call, ErrorText> {
    cluster(Cluster::Info)
}

/// CLUSTER NODES
pub fn nodes(_: &mut Arguments) -> Result<Call, ErrorText> {
    cluster(Cluster::Nodes)
}

/// CLUSTER SLOTS
pub fn slots(_: &mut Arguments) -> Result<Call, ErrorText> {
    cluster(Cluster::Slots)
}

/// CLUSTER SHARDS
pub fn shards(_: &mut Arguments) -> Result<Call, ErrorText> {
    cluster(Cluster::Shards)
}

/// CLUSTER MYID
pub fn myid(_: &mut Arguments) -> Result<Call, ErrorText> {
    cluster(Cluster::MyId)
}

/// CLUSTER MYSHARDID
pub fn myshardid(_: &mut Arguments) -> Result<Call, ErrorText> {
    cluster(Cluster::MyShardId)
}

/// CLUSTER REPLICAS and SLAVES
pub fn replicas(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    cluster(Cluster::Replicas(take(arguments, 2)))
}

/// CLUSTER LINKS
pub fn links(_: &mut Arguments) -> Result<Call, ErrorText> {
    cluster(Cluster::Links)
}

/// CLUSTER KEYSLOT
pub fn keyslot(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    answer(Reply::Integer(i64::from(hash_slot(&arguments[2]).0)))
}

/// A slot's number, if it is one.
fn slot(number: i64) -> Option<Slot> {
    u16::try_from(number).ok().filter(|number| *number < SLOTS).map(Slot)
}

/// CLUSTER COUNTKEYSINSLOT: of the owning group, not of the node asked.
pub fn countkeysinslot(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let slot = slot(integer(arguments, 2)?).ok_or("ERR Invalid slot")?;
    on_key(slot, Op::CountKeys)
}

/// CLUSTER GETKEYSINSLOT
pub fn getkeysinslot(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let (number, count) = (integer(arguments, 2)?, integer(arguments, 3)?);
    match (slot(number), count) {
        (Some(slot), 0..) => {
            on_key(slot, Op::ListKeys { count: u32::try_from(count).unwrap_or(u32::MAX) })
        }
        _ => Err("ERR Invalid slot or number of keys".into()),
    }
}

/// CLUSTER HELP
pub fn help(_: &mut Arguments) -> Result<Call, ErrorText> {
    answer(super::server::help(
        "CLUSTER",
        &[
            ("COUNTKEYSINSLOT <slot>", "How many keys the slot has."),
            ("GETKEYSINSLOT <slot> <count>", "At most so many keys of the slot, in order."),
            ("INFO", "The state of the cluster."),
            ("KEYSLOT <key>", "The slot of the key."),
            ("LINKS", "The links of this node to others."),
            ("MYID", "The id of this node."),
            ("MYSHARDID", "The id of this node's shard."),
            ("NODES", "Every node with its slots, a line each."),
            ("REPLICAS <node-id>", "The nodes that follow the one named."),
            ("SHARDS", "Every group with its slots and nodes."),
            ("SLOTS", "Every slot range with its nodes."),
        ],
    ))
}

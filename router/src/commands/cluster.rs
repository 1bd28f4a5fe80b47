//! Commands about slots, groups and nodes.

use super::{
    Arguments, Barrier, Call, Cluster, ErrorText, Local, NOT_AN_INTEGER, SYNTAX_ERROR, answer,
    integer, on_key, take,
};
use crate::reply::Reply;
use shard_core::handshake::Nonce;
use shard_core::introduction::unhex;
use shard_core::op::Op;
use shard_core::slot::{SLOTS, Slot, hash_slot};
use shard_core::{GroupId, NodeId};

fn cluster(call: Cluster) -> Result<Call, ErrorText> {
    Ok(Call::Local(Local::Cluster(call)))
}

/// READONLY: reads of keys whose replica is here are served here, always the newest value.
pub fn readonly(_: &mut Arguments) -> Result<Call, ErrorText> {
    Ok(Call::Local(Local::ReadOnly(true)))
}

/// READWRITE
pub fn readwrite(_: &mut Arguments) -> Result<Call, ErrorText> {
    Ok(Call::Local(Local::ReadOnly(false)))
}

/// ASKING: nobody is answered ASK.
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

/// CLUSTER FAILOVER: the leader hands over once this node has caught up, so no write is lost. FORCE,
/// which in Redis does without a leader that is gone, is the same: without a leader there is an
/// election anyway. TAKEOVER would do without a majority, which is never done here.
pub fn failover(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let is = |name: &[u8]| arguments[2].eq_ignore_ascii_case(name);
    match arguments.len() {
        2 => Ok(Call::Barrier(Barrier::Failover)),
        3 if is(b"force") => Ok(Call::Barrier(Barrier::Failover)),
        3 if is(b"takeover") => Err("ERR TAKEOVER is refused: a leader needs a majority".into()),
        3 => Err(SYNTAX_ERROR),
        _ => {
            Err("ERR unknown subcommand or wrong number of arguments for 'FAILOVER'. Try CLUSTER \
                  HELP."
                .into())
        }
    }
}

/// RAFT.TRANSFER_LEADER group node
pub fn transfer_leader(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let group = u32::try_from(integer(arguments, 1)?).map_err(|_| NOT_AN_INTEGER)?;
    let node = u64::try_from(integer(arguments, 2)?).map_err(|_| NOT_AN_INTEGER)?;
    Ok(Call::Barrier(Barrier::Transfer { group: GroupId(group), to: NodeId(node) }))
}

/// CLUSTER LINKS
pub fn links(_: &mut Arguments) -> Result<Call, ErrorText> {
    cluster(Cluster::Links)
}

/// CLUSTER COUNT-FAILURE-REPORTS
pub fn count_failure_reports(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    cluster(Cluster::FailureReports(take(arguments, 2)))
}

/// CLUSTER BUMPEPOCH
pub fn bumpepoch(_: &mut Arguments) -> Result<Call, ErrorText> {
    cluster(Cluster::BumpEpoch)
}

/// CLUSTER GROUPS
pub fn groups(_: &mut Arguments) -> Result<Call, ErrorText> {
    cluster(Cluster::Groups)
}

/// CLUSTER DOCTOR
pub fn doctor(_: &mut Arguments) -> Result<Call, ErrorText> {
    cluster(Cluster::Doctor)
}

/// CLUSTER INTRODUCE
pub fn introduce(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let nonce = std::str::from_utf8(&arguments[2]).ok().and_then(unhex);
    let nonce = nonce.and_then(|nonce| Nonce::try_from(nonce).ok());
    let nonce = nonce.ok_or("ERR Invalid nonce, it is 64 hexadecimal digits")?;
    Ok(Call::Local(Local::Introduce(nonce)))
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

/// CLUSTER HELP. Like Redis it keeps silent about SLAVES, the old name of REPLICAS.
pub fn help(_: &mut Arguments) -> Result<Call, ErrorText> {
    answer(super::server::help("CLUSTER", HELP))
}

/// What is typed behind CLUSTER, and what it does.
const HELP: &[(&str, &[&str])] = &[
    (
        "ADDSLOTS <slot> [<slot> ...]",
        &["Give slots that nobody has to a group that this node leads."],
    ),
    (
        "ADDSLOTSRANGE <first> <last> [<first> <last> ...]",
        &["Give slots that nobody has to a group that this node leads."],
    ),
    ("ADDVOTER <node-id> [GROUP <g>]", &["Give a node a seat in a group."]),
    ("ADMIT <node-id>", &["Let an evacuated node lead again."]),
    ("BUMPEPOCH", &["Accepted; epochs follow from the map of the cluster."]),
    ("CANCELSLOTMIGRATIONS", &["Give up every move that is not decided yet."]),
    (
        "CONFIG [<n>] | DIFF <n> <m>",
        &["Return the newest configuration, or an earlier one, or what two differ in."],
    ),
    ("COUNT-FAILURE-REPORTS <node-id>", &["Return 1 if this node knows <node-id> to be down."]),
    ("DELSLOTS <slot> [<slot> ...]", &["Take back slots that nobody has yet."]),
    (
        "DELSLOTSRANGE <first> <last> [<first> <last> ...]",
        &["Take back slots that nobody has yet."],
    ),
    ("DELVOTER <node-id> [GROUP <g>]", &["Take a node's seat in a group, or all of them."]),
    ("DOCTOR", &["Return what is wrong, one line each with the command that mends it."]),
    ("EVACUATE <node-id>", &["Let a node lead nothing while somebody works on it."]),
    ("FLUSHSLOTS", &["Take back all slots, if nobody has one."]),
    ("FORGET <node-id>", &["Forget a node that has no seat."]),
    ("GETSLOTMIGRATIONS", &["Return every move."]),
    (
        "GROUP CREATE [ID <g>] NODES <node-id> ... [WEIGHT <w>] [REBALANCE] | DRAIN <g> | REMOVE <g> | WEIGHT <g> <w>",
        &["Make a group, give its slots away, remove it, or change its share."],
    ),
    ("GROUPS", &["Return each group with its members: those it is to have, and those it has."]),
    ("INTRODUCE <nonce>", &["Return who this node is, with a proof of the cluster's secret."]),
    (
        "MEET <ip> <port> [<peer-port> [ID <number>]]",
        &["Make a node known that was started with --spare, or this one to a cluster."],
    ),
    (
        "MIGRATION IMPORT <first> <last> ... | STATUS ID <id> | STATUS ALL | CANCEL ID <id> | CANCEL ALL",
        &["Move slots to a group that this node leads, look at moves, give them up."],
    ),
    (
        "REPLACE <node-id> <spare-id> [GROUP <g>]",
        &["Give every seat of a node, or one, to another."],
    ),
    ("REPLICATE <node-id>", &["Give this node a seat in what <node-id> leads."]),
    (
        "RESET [HARD | SOFT]",
        &[
            "Accepted by a node that no cluster knows; refused elsewhere, since it would forget data.",
        ],
    ),
    ("SAVECONFIG", &["Accepted; what was answered is on disk."]),
    ("SET-CONFIG-EPOCH <epoch>", &["Refused; epochs follow from the map of the cluster."]),
    (
        "SETSLOT <slot> MIGRATING <node-id> | IMPORTING <node-id> | NODE <node-id> [TIMEOUT <ms>] | STABLE",
        &["Move a slot in the steps that redis-cli knows."],
    ),
    (
        "SLOT-STATS SLOTSRANGE <first> <last> | ORDERBY KEY-COUNT | MEMORY-BYTES | RECENT-WRITES [LIMIT <n>] [ASC | DESC]",
        &["Return how many keys slots have, their bytes, and the writes of the last seconds."],
    ),
    ("COUNTKEYSINSLOT <slot>", &["Return the number of keys in <slot>."]),
    ("FAILOVER [FORCE]", &["Let this node lead the groups that it follows."]),
    ("GETKEYSINSLOT <slot> <count>", &["Return at most so many keys of <slot>, in order."]),
    ("INFO", &["Return information about the cluster."]),
    ("KEYSLOT <key>", &["Return the hash slot for <key>."]),
    (
        "MIGRATESLOTS SLOTSRANGE <first> <last> [<first> <last> ...] NODE <node-id> | GROUP <g>",
        &["Move slots to a group, or to what a node leads. Keys stay readable and writable."],
    ),
    ("MYID", &["Return the node id."]),
    ("MYSHARDID", &["Return the id of the node's shard."]),
    (
        "NODES",
        &[
            "Return cluster configuration seen by node. Output format:",
            "<id> <ip:port> <flags> <master> <pings> <pongs> <epoch> <link> <slot> ...",
        ],
    ),
    (
        "REBALANCE [DRYRUN] [BY SLOTS | KEYS | BYTES | LOAD] [MAXMOVES <n>] | PAUSE | RESUME | STATUS",
        &["Balance the slots over the groups, stop beginning moves, go on, or show where it is."],
    ),
    ("REPLICAS <node-id>", &["Return <node-id> replicas."]),
    (
        "SLOTS",
        &[
            "Return information about slots range mappings. Each range is made of:",
            "start, end, master and replicas IP addresses, ports and ids",
        ],
    ),
    (
        "SHARDS",
        &["Return information about slot range mappings and the nodes associated with \
                   them."],
    ),
    (
        "LINKS",
        &[
            "Return information about the network links between this node and its peers.",
            "Output format is an array where each array element is a map containing \
                     attributes of a link",
        ],
    ),
];

//! What COMMAND DOCS tells of each command.

/// One row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doc {
    /// The command as the table of commands names it.
    pub name: &'static str,
    /// One line.
    pub summary: &'static str,
    /// Redis' version that brought it.
    pub since: &'static str,
    /// Redis' word for the family.
    pub group: &'static str,
    /// In Redis' manner.
    pub complexity: &'static str,
}

const fn doc(
    name: &'static str,
    since: &'static str,
    group: &'static str,
    complexity: &'static str,
    summary: &'static str,
) -> Doc {
    Doc { name, summary, since, group, complexity }
}

const KEYS: &str = "O(N) where N is the number of keys";
const ONE: &str = "O(1)";

/// One row per command and subcommand.
#[rustfmt::skip]
pub const DOCS: &[Doc] = &[
    doc("get",       "1.0.0",  "string",  ONE,  "Read the value of a key"),
    doc("set",       "1.0.0",  "string",  ONE,  "Write the value of a key, with conditions and expiry"),
    doc("append",    "2.0.0",  "string",  ONE,  "Add bytes to the end of a value"),
    doc("incr",      "1.0.0",  "string",  ONE,  "Add one to the number in a key"),
    doc("mget",      "1.0.0",  "string",  KEYS, "Read the values of many keys"),
    doc("del",       "1.0.0",  "generic", KEYS, "Delete keys"),
    doc("unlink",    "4.0.0",  "generic", KEYS, "Delete keys; the same as DEL here"),
    doc("exists",    "1.0.0",  "generic", KEYS, "Count which of the keys exist"),
    doc("touch",     "3.2.1",  "generic", KEYS, "Count which of the keys exist"),
    doc("incrby",    "1.0.0",  "string",  ONE,  "Add to the number in a key"),
    doc("decr",      "1.0.0",  "string",  ONE,  "Take one from the number in a key"),
    doc("decrby",    "1.0.0",  "string",  ONE,  "Take from the number in a key"),
    doc("strlen",    "2.2.0",  "string",  ONE,  "Count the bytes of a value"),
    doc("setnx",     "1.0.0",  "string",  ONE,  "Write the value of a key that does not exist"),
    doc("setex",     "2.0.0",  "string",  ONE,  "Write a value that expires after seconds"),
    doc("psetex",    "2.6.0",  "string",  ONE,  "Write a value that expires after milliseconds"),
    doc("getdel",    "6.2.0",  "string",  ONE,  "Read a value and delete its key"),
    doc("getset",    "1.0.0",  "string",  ONE,  "Write a value and read the old one"),
    doc("ttl",       "1.0.0",  "generic", ONE,  "Seconds until a key expires"),
    doc("pttl",      "2.6.0",  "generic", ONE,  "Milliseconds until a key expires"),
    doc("idmp",      "7.2.0",  "generic", "O(N) where N is the length of the command, and that of the command", "Carry out a command under a token, by which it can be sent again and is done once"),
    doc("expire",    "1.0.0",  "generic", ONE,  "Let a key expire after seconds"),
    doc("pexpire",   "2.6.0",  "generic", ONE,  "Let a key expire after milliseconds"),
    doc("expireat",  "1.2.0",  "generic", ONE,  "Let a key expire at a Unix time in seconds"),
    doc("pexpireat", "2.6.0",  "generic", ONE,  "Let a key expire at a Unix time in milliseconds"),
    doc("persist",   "2.2.0",  "generic", ONE,  "Let a key live for ever"),
    doc("type",      "1.0.0",  "generic", ONE,  "What kind of value a key holds"),
    doc("ping",      "1.0.0",  "connection", ONE, "Show that the connection works"),
    doc("echo",      "1.0.0",  "connection", ONE, "Give the argument back"),
    doc("hello",     "6.0.0",  "connection", ONE, "Choose the protocol, log in, name the connection"),
    doc("auth",      "1.0.0",  "connection", ONE, "Log in"),
    doc("select",    "1.0.0",  "connection", ONE, "Choose the database; there is number 0 only"),
    doc("quit",      "1.0.0",  "connection", ONE, "Close the connection"),
    doc("reset",     "6.2.0",  "connection", ONE, "Make the connection as it was when it was opened"),
    doc("client",    "2.4.0",  "connection", "Depends on subcommand.", "About client connections"),
    doc("client|id",       "5.0.0", "connection", ONE, "The id of this connection"),
    doc("client|getname",  "2.6.9", "connection", ONE, "The name of this connection"),
    doc("client|setname",  "2.6.9", "connection", ONE, "Name this connection"),
    doc("client|setinfo",  "7.2.0", "connection", ONE, "Tell the client library in use"),
    doc("client|info",     "6.2.0", "connection", ONE, "What is known of this connection"),
    doc("client|list",     "2.4.0", "connection", "O(N) where N is the number of connections", "What is known of all connections"),
    doc("client|no-evict", "7.0.0", "connection", ONE, "Accepted; no connection is ever evicted"),
    doc("client|no-touch", "7.2.0", "connection", ONE, "Accepted; keys have no time of last access"),
    doc("client|request-timeout", "7.2.0", "connection", ONE, "Let requests of this connection wait for less than those of others"),
    doc("client|idmp",     "7.2.0", "connection", ONE, "Name the next command by a token, by which it can be sent again and is done once"),
    doc("client|help",     "5.0.0", "connection", ONE, "Print help"),
    doc("command",   "2.8.13", "server", "O(N) where N is the number of commands", "Every command with its arity, flags and keys"),
    doc("command|count",   "2.8.13", "server", ONE, "How many commands there are"),
    doc("command|info",    "2.8.13", "server", "O(N) where N is the number of commands", "Commands with their arity, flags and keys"),
    doc("command|docs",    "7.0.0",  "server", "O(N) where N is the number of commands", "What commands are for"),
    doc("command|list",    "7.0.0",  "server", "O(N) where N is the number of commands", "Names of commands"),
    doc("command|getkeys", "2.8.13", "server", "O(N) where N is the number of arguments", "The keys of a command"),
    doc("command|help",    "5.0.0",  "server", ONE, "Print help"),
    doc("info",      "1.0.0",  "server", ONE, "State and counters of this server"),
    doc("config",    "2.0.0",  "server", "Depends on subcommand.", "About settings"),
    doc("config|get",      "2.0.0", "server", "O(N) where N is the number of settings", "Settings by pattern"),
    doc("config|set",      "2.0.0", "server", ONE, "Set idmp-window-ms; the others come from the command line"),
    doc("config|help",     "5.0.0", "server", ONE, "Print help"),
    doc("dbsize",    "1.0.0",  "server", ONE, "How many keys there are"),
    doc("flushall",  "1.0.0",  "server", "O(N) where N is the number of keys", "Delete every key"),
    doc("flushdb",   "1.0.0",  "server", "O(N) where N is the number of keys", "Delete every key"),
    doc("time",      "2.6.0",  "server", ONE, "This server's clock"),
    doc("role",      "2.8.12", "server", ONE, "Whether this node leads"),
    doc("wait",      "3.0.0",  "generic", ONE, "How many replicas have every acknowledged write on disk"),
    doc("cluster",   "3.0.0",  "cluster", "Depends on subcommand.", "About slots, groups and nodes"),
    doc("cluster|info",            "3.0.0", "cluster", ONE, "The state of the cluster"),
    doc("cluster|nodes",           "3.0.0", "cluster", "O(N) where N is the number of nodes", "Every node with its slots"),
    doc("cluster|slots",           "3.0.0", "cluster", "O(N) where N is the number of nodes", "Every slot range with its nodes"),
    doc("cluster|shards",          "7.0.0", "cluster", "O(N) where N is the number of nodes", "Every group with its slots and nodes"),
    doc("cluster|myid",            "3.0.0", "cluster", ONE, "The id of this node"),
    doc("cluster|myshardid",       "7.2.0", "cluster", ONE, "The id of this node's shard"),
    doc("cluster|keyslot",         "3.0.0", "cluster", "O(N) where N is the length of the key", "The slot of a key"),
    doc("cluster|countkeysinslot", "3.0.0", "cluster", ONE, "How many keys a slot has"),
    doc("cluster|getkeysinslot",   "3.0.0", "cluster", "O(N) where N is the number of keys asked for", "Some keys of a slot"),
    doc("cluster|replicas",        "5.0.0", "cluster", "O(N) where N is the number of nodes", "The nodes that follow a node"),
    doc("cluster|slaves",          "3.0.0", "cluster", "O(N) where N is the number of nodes", "The nodes that follow a node"),
    doc("cluster|failover",        "3.0.0", "cluster", ONE, "Let this node lead the groups that it follows"),
    doc("cluster|links",           "7.0.0", "cluster", "O(N) where N is the number of nodes", "The links to other nodes"),
    doc("cluster|migrateslots",    "7.2.0", "cluster", "O(N) where N is the number of slots", "Move slots to another group"),
    doc("cluster|rebalance",       "7.2.0", "cluster", "O(N) where N is the number of slots", "Balance the slots over the groups"),
    doc("cluster|getslotmigrations", "7.2.0", "cluster", "O(N) where N is the number of moves", "Every move, as in Valkey 9"),
    doc("cluster|cancelslotmigrations", "7.2.0", "cluster", "O(N) where N is the number of moves", "Give every move up that is not decided"),
    doc("cluster|migration",       "7.2.0", "cluster", "O(N) where N is the number of slots", "Import slots, look at moves, give them up, as in Redis 8.4"),
    doc("cluster|group",           "7.2.0", "cluster", "O(N) where N is the number of slots", "Create, drain, weigh and remove groups"),
    doc("cluster|config",          "7.2.0", "cluster", "O(N) where N is the number of slots", "Any configuration there ever was, or what two differ in"),
    doc("cluster|addslots",        "3.0.0", "cluster", "O(N) where N is the number of slots", "Give out slots that nobody has"),
    doc("cluster|addslotsrange",   "7.0.0", "cluster", "O(N) where N is the number of slots", "Give out slots that nobody has"),
    doc("cluster|delslots",        "3.0.0", "cluster", "O(N) where N is the number of slots", "Take back slots that nobody has yet"),
    doc("cluster|delslotsrange",   "7.0.0", "cluster", "O(N) where N is the number of slots", "Take back slots that nobody has yet"),
    doc("cluster|flushslots",      "3.0.0", "cluster", "O(N) where N is the number of slots", "Take back all slots, if nobody has one"),
    doc("cluster|setslot",         "3.0.0", "cluster", ONE, "Move a slot in the steps that redis-cli knows"),
    doc("cluster|evacuate",        "7.2.0", "cluster", ONE, "Let a node lead nothing while somebody works on it"),
    doc("cluster|admit",           "7.2.0", "cluster", ONE, "Let an evacuated node lead again"),
    doc("cluster|forget",          "3.0.0", "cluster", "O(N) where N is the number of groups", "Forget a node without a seat"),
    doc("cluster|replace",         "7.2.0", "cluster", "O(N) where N is the number of groups", "Give every seat of a node to another"),
    doc("cluster|addvoter",        "7.2.0", "cluster", ONE, "Give a node a seat in a group"),
    doc("cluster|delvoter",        "7.2.0", "cluster", "O(N) where N is the number of groups", "Take seats from a node"),
    doc("cluster|replicate",       "3.0.0", "cluster", ONE, "Give this node a seat in what another leads"),
    doc("cluster|meet",            "3.0.0", "cluster", ONE, "Make a node known"),
    doc("cluster|slot-stats",      "7.2.0", "cluster", "O(N) where N is the number of slots", "How much slots have: keys, bytes, writes lately"),
    doc("cluster|count-failure-reports", "3.0.0", "cluster", ONE, "Whether a node is known to be down"),
    doc("cluster|saveconfig",      "3.0.0", "cluster", ONE, "Accepted; what was answered is on disk"),
    doc("cluster|bumpepoch",       "3.0.0", "cluster", ONE, "Accepted; epochs follow from the map"),
    doc("cluster|set-config-epoch", "3.0.0", "cluster", ONE, "Refused; epochs follow from the map"),
    doc("cluster|reset",           "3.0.0", "cluster", ONE, "Refused; it would lose data"),
    doc("cluster|groups",          "7.2.0", "cluster", "O(N) where N is the number of groups", "The members of each group, wanted and real"),
    doc("cluster|introduce",       "7.2.0", "cluster", ONE, "Who this node is, with a proof for another one"),
    doc("cluster|doctor",          "7.2.0", "cluster", "O(N) where N is the number of slots", "What is wrong, and what mends it"),
    doc("cluster|help",            "5.0.0", "cluster", ONE, "Print help"),
    doc("readonly",  "3.0.0",  "cluster", ONE, "Accepted; reads are always served by the leader"),
    doc("readwrite", "3.0.0",  "cluster", ONE, "Accepted; reads are always served by the leader"),
    doc("asking",    "3.0.0",  "cluster", ONE, "Accepted; every key is served here"),
    doc("raft.transfer_leader", "7.2.0", "cluster", ONE, "Hand a group to another of its nodes"),
];

const UNDOCUMENTED: Doc = doc("", "1.0.0", "generic", ONE, "");

/// The row of a command or subcommand. A test holds that every one has a row.
pub fn row(name: &str) -> Doc {
    DOCS.iter().copied().find(|doc| doc.name == name).unwrap_or(UNDOCUMENTED)
}

/// The family of a command or subcommand.
pub fn group(name: &str) -> &'static str {
    row(name).group
}

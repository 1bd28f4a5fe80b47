//! The table of commands, lookup and arity. A parser turns arguments into a [`Call`] or an error
//! text; it touches no socket and no state.

pub mod admin;
pub mod cluster;
pub mod connection;
pub mod docs;
pub mod keys;
pub mod server;
pub mod string;
pub mod token;

use crate::info::KeysElsewhere;
use crate::reply::{Protocol, Reply, Shape};
use bytes::Bytes;
use shard_core::handshake::Nonce;
use shard_core::integer::parse_integer;
use shard_core::op::Op;
use shard_core::session::SessionId;
use shard_core::slot::Slot;
use shard_core::{GroupId, NodeId};
use std::borrow::Cow;

/// What a client sent: the command's name first, then its arguments.
pub type Arguments = Vec<Bytes>;
/// An error reply's text, code included.
pub type ErrorText = Cow<'static, str>;
/// Turns arguments of the right number into what is to be done.
pub type Parser = fn(&mut Arguments) -> Result<Call, ErrorText>;

/// Redis' word for nonsense behind a command.
pub const SYNTAX_ERROR: ErrorText = Cow::Borrowed("ERR syntax error");
/// Redis' word for a number that is none.
pub const NOT_AN_INTEGER: ErrorText = Cow::Borrowed("ERR value is not an integer or out of range");
/// How much of a client's text an error quotes.
const QUOTED_BYTES_MAX: usize = 128;

/// Where a command goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// To the keys' groups; changes nothing.
    Read,
    /// To the keys' groups.
    Write,
    /// About the cluster.
    Admin,
    /// Answered here, whatever state the groups are in.
    Local,
}

/// Which arguments are keys: positions of the first and the last (negative: from the end) and the
/// step. All 0: none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// The first key.
    pub first: i64,
    /// The last key.
    pub last: i64,
    /// From one key to the next.
    pub step: i64,
}

/// One row of the table.
#[derive(Debug)]
pub struct CommandSpec {
    /// In lower case; a subcommand is `container|name`.
    pub name: &'static str,
    /// Arguments, the name included; negative: at least so many.
    pub arity: i64,
    /// Where it goes.
    pub kind: Kind,
    /// Which arguments are keys.
    pub keys: Keys,
    /// Redis' words for it beyond those that `kind` gives.
    pub flags: &'static [&'static str],
    /// See [`Parser`].
    pub parse: Parser,
    /// Empty but for containers.
    pub subcommands: &'static [CommandSpec],
}

/// What a command asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// One op on one slot.
    Op {
        /// Its slot.
        slot: Slot,
        /// The op.
        op: Op,
        /// How its outcome is answered.
        shape: Shape,
    },
    /// A write with the token of the CLIENT IDMP before it: nobody else can be asked to carry it out.
    Marked {
        /// Its slot.
        slot: Slot,
        /// The op with the token.
        op: Op,
        /// How its outcome is answered.
        shape: Shape,
    },
    /// Ops on several slots, joined to one reply.
    Split(Split),
    /// Something on all slots: starts when all earlier commands of the connection are answered.
    Barrier(Barrier),
    /// Answered here.
    Local(Local),
    /// INFO with the names of sections: answered here, or a barrier where the keys are elsewhere.
    Info(Vec<Bytes>),
}

/// A command whose keys are in several slots. It is not atomic over them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// One op per slot, each with the places of its keys in the request.
    pub parts: Vec<(Slot, Op, Vec<u32>)>,
    /// What becomes of the parts' outcomes.
    pub join: Join,
}

/// How parts become one reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// Values go to the places of their keys; so many in all.
    Values(usize),
    /// Numbers are added.
    Sum,
}

/// Commands without one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// DBSIZE.
    DbSize,
    /// FLUSHALL and FLUSHDB.
    FlushAll,
    /// RAFT.TRANSFER_LEADER.
    Transfer {
        /// The group.
        group: GroupId,
        /// The node that is to lead it.
        to: NodeId,
    },
    /// CLUSTER FAILOVER: this node is to lead what it follows.
    Failover,
    /// INFO where the keys are in other processes.
    Info(Box<KeysElsewhere>),
    /// What changes the cluster, or asks the shardmaster.
    Admin(Box<admin::Wish>),
}

/// What a connection answers itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Local {
    /// A reply that needs nothing but the arguments.
    Reply(Reply),
    /// HELLO.
    Hello {
        /// The protocol to go on with.
        protocol: Option<Protocol>,
        /// SETNAME.
        name: Option<Bytes>,
    },
    /// QUIT.
    Quit,
    /// RESET.
    Reset,
    /// READONLY (true) and READWRITE.
    ReadOnly(bool),
    /// COMMAND, or COMMAND INFO with names.
    Commands(Option<Vec<Bytes>>),
    /// TIME.
    Time,
    /// WAIT.
    Wait,
    /// ROLE.
    Role,
    /// CONFIG GET with patterns.
    ConfigGet(Vec<Bytes>),
    /// CONFIG SET of the only setting that can be set: `idmp-window-ms`.
    SetIdmpWindow(u32),
    /// CLIENT.
    Client(Client),
    /// CLUSTER INTRODUCE.
    Introduce(Nonce),
    /// CLUSTER.
    Cluster(Cluster),
}

/// CLIENT subcommands that need the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Client {
    /// ID.
    Id,
    /// GETNAME.
    GetName,
    /// SETNAME; empty: none.
    SetName(Bytes),
    /// SETINFO LIB-NAME.
    SetLibName(Bytes),
    /// SETINFO LIB-VER.
    SetLibVersion(Bytes),
    /// INFO.
    Info,
    /// LIST; the ids asked for, or all.
    List(Option<Vec<u64>>),
    /// REQUEST-TIMEOUT, in milliseconds; 0: as long as the router waits for others.
    RequestTimeout(u64),
    /// IDMP: the next command has this token.
    Token(SessionId),
}

/// CLUSTER subcommands that need the view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cluster {
    /// INFO.
    Info,
    /// NODES.
    Nodes,
    /// SLOTS.
    Slots,
    /// SHARDS.
    Shards,
    /// MYID.
    MyId,
    /// MYSHARDID.
    MyShardId,
    /// REPLICAS of a node id.
    Replicas(Bytes),
    /// LINKS.
    Links,
    /// COUNT-FAILURE-REPORTS of a node id.
    FailureReports(Bytes),
    /// BUMPEPOCH.
    BumpEpoch,
    /// GROUPS.
    Groups,
    /// DOCTOR.
    Doctor,
}

const fn keys(first: i64, last: i64, step: i64) -> Keys {
    Keys { first, last, step }
}

const NO_KEYS: Keys = keys(0, 0, 0);
const ONE_KEY: Keys = keys(1, 1, 1);
const ALL_KEYS: Keys = keys(1, -1, 1);

const SLOW: &[&str] = &[];
const FAST: &[&str] = &["fast"];
const DENYOOM: &[&str] = &["denyoom"];
const DENYOOM_FAST: &[&str] = &["denyoom", "fast"];
const STALE: &[&str] = &["stale"];
const STALE_FAST: &[&str] = &["loading", "stale", "fast"];
const LOADING: &[&str] = &["loading", "stale"];
const CONNECT: &[&str] = &["noscript", "loading", "stale", "fast", "no_auth", "allow_busy"];
const CLIENT: &[&str] = &["noscript", "loading", "stale"];
const ROLE: &[&str] = &["noscript", "loading", "stale", "fast"];
const ADMIN: &[&str] = &["admin", "noscript", "loading", "stale"];
const ADMIN_STALE: &[&str] = &["admin", "stale"];
const ADMIN_RESET: &[&str] = &["admin", "noscript", "stale"];
const FAILOVER: &[&str] = &["admin", "stale", "no_async_loading"];

const fn spec(
    name: &'static str,
    arity: i64,
    kind: Kind,
    keys: Keys,
    flags: &'static [&'static str],
    parse: Parser,
) -> CommandSpec {
    CommandSpec { name, arity, kind, keys, flags, parse, subcommands: &[] }
}

const fn container(
    name: &'static str,
    arity: i64,
    kind: Kind,
    flags: &'static [&'static str],
    parse: Parser,
    subcommands: &'static [CommandSpec],
) -> CommandSpec {
    CommandSpec { name, arity, kind, keys: NO_KEYS, flags, parse, subcommands }
}

use Kind::{Admin, Local as Here, Read, Write};

/// Every command. Lookup goes from the top: the most used come first.
#[rustfmt::skip]
pub const COMMANDS: &[CommandSpec] = &[
    // name, arity (negative: at least), kind, keys (first, last, step), flags, parser
    spec("get",        2, Read,  ONE_KEY,  FAST,         string::get),
    spec("set",       -3, Write, ONE_KEY,  DENYOOM,      string::set),
    spec("append",     3, Write, ONE_KEY,  DENYOOM_FAST, string::append),
    spec("incr",       2, Write, ONE_KEY,  DENYOOM_FAST, string::incr),
    spec("mget",      -2, Read,  ALL_KEYS, FAST,         string::mget),
    spec("del",       -2, Write, ALL_KEYS, SLOW,         keys::del),
    spec("unlink",    -2, Write, ALL_KEYS, FAST,         keys::del),
    spec("exists",    -2, Read,  ALL_KEYS, FAST,         keys::exists),
    spec("touch",     -2, Read,  ALL_KEYS, FAST,         keys::exists),
    spec("incrby",     3, Write, ONE_KEY,  DENYOOM_FAST, string::incrby),
    spec("decr",       2, Write, ONE_KEY,  DENYOOM_FAST, string::decr),
    spec("decrby",     3, Write, ONE_KEY,  DENYOOM_FAST, string::decrby),
    spec("strlen",     2, Read,  ONE_KEY,  FAST,         string::strlen),
    spec("setnx",      3, Write, ONE_KEY,  DENYOOM_FAST, string::setnx),
    spec("setex",      4, Write, ONE_KEY,  DENYOOM,      string::setex),
    spec("psetex",     4, Write, ONE_KEY,  DENYOOM,      string::psetex),
    spec("getdel",     2, Write, ONE_KEY,  FAST,         string::getdel),
    spec("getset",     3, Write, ONE_KEY,  DENYOOM_FAST, string::getset),
    spec("ttl",        2, Read,  ONE_KEY,  FAST,         keys::ttl),
    spec("pttl",       2, Read,  ONE_KEY,  FAST,         keys::pttl),
    spec("idmp",      -5, Write, keys(4, 4, 1), DENYOOM, token::idmp),
    spec("expire",    -3, Write, ONE_KEY,  FAST,         keys::expire),
    spec("pexpire",   -3, Write, ONE_KEY,  FAST,         keys::pexpire),
    spec("expireat",  -3, Write, ONE_KEY,  FAST,         keys::expireat),
    spec("pexpireat", -3, Write, ONE_KEY,  FAST,         keys::pexpireat),
    spec("persist",    2, Write, ONE_KEY,  FAST,         keys::persist),
    spec("type",       2, Read,  ONE_KEY,  FAST,         keys::type_of),
    spec("ping",      -1, Here,  NO_KEYS,  FAST,         connection::ping),
    spec("echo",       2, Here,  NO_KEYS,  STALE_FAST,   connection::echo),
    spec("hello",     -1, Here,  NO_KEYS,  CONNECT,      connection::hello),
    spec("auth",      -2, Here,  NO_KEYS,  CONNECT,      connection::auth),
    spec("select",     2, Here,  NO_KEYS,  STALE_FAST,   connection::select),
    spec("quit",      -1, Here,  NO_KEYS,  CONNECT,      connection::quit),
    spec("reset",      1, Here,  NO_KEYS,  CONNECT,      connection::reset),
    container("client", -2, Here, SLOW, connection::needs_subcommand, CLIENT_COMMANDS),
    container("command", -1, Here, LOADING, server::command, COMMAND_COMMANDS),
    spec("info",      -1, Here,  NO_KEYS,  LOADING,      server::info),
    container("config", -2, Here, SLOW, connection::needs_subcommand, CONFIG_COMMANDS),
    spec("dbsize",     1, Read,  NO_KEYS,  FAST,         server::dbsize),
    spec("flushall",  -1, Write, NO_KEYS,  SLOW,         server::flushall),
    spec("flushdb",   -1, Write, NO_KEYS,  SLOW,         server::flushall),
    spec("time",       1, Here,  NO_KEYS,  STALE_FAST,   server::time),
    spec("role",       1, Here,  NO_KEYS,  ROLE,         server::role),
    spec("wait",       3, Here,  NO_KEYS,  &["noscript"], server::wait),
    container("cluster", -2, Admin, SLOW, connection::needs_subcommand, CLUSTER_COMMANDS),
    spec("readonly",   1, Here,  NO_KEYS,  STALE_FAST,   cluster::readonly),
    spec("readwrite",  1, Here,  NO_KEYS,  STALE_FAST,   cluster::readwrite),
    spec("asking",     1, Here,  NO_KEYS,  FAST,         cluster::ok),
    spec("raft.transfer_leader", 3, Admin, NO_KEYS, ADMIN, cluster::transfer_leader),
];

#[rustfmt::skip]
const CLIENT_COMMANDS: &[CommandSpec] = &[
    spec("client|id",        2, Here, NO_KEYS, CLIENT,  connection::client_id),
    spec("client|getname",   2, Here, NO_KEYS, CLIENT,  connection::client_getname),
    spec("client|setname",   3, Here, NO_KEYS, CLIENT,  connection::client_setname),
    spec("client|setinfo",   4, Here, NO_KEYS, CLIENT,  connection::client_setinfo),
    spec("client|info",      2, Here, NO_KEYS, CLIENT,  connection::client_info),
    spec("client|list",     -2, Here, NO_KEYS, ADMIN,   connection::client_list),
    spec("client|no-evict",  3, Here, NO_KEYS, ADMIN,   connection::client_on_off),
    spec("client|no-touch",  3, Here, NO_KEYS, CLIENT,  connection::client_on_off),
    spec("client|request-timeout", 3, Here, NO_KEYS, CLIENT, connection::client_request_timeout),
    spec("client|idmp",      4, Here, NO_KEYS, CLIENT,  token::client_idmp),
    spec("client|help",      2, Here, NO_KEYS, LOADING, connection::client_help),
];

#[rustfmt::skip]
const COMMAND_COMMANDS: &[CommandSpec] = &[
    spec("command|count",    2, Here, NO_KEYS, LOADING, server::command_count),
    spec("command|info",    -2, Here, NO_KEYS, LOADING, server::command_info),
    spec("command|docs",    -2, Here, NO_KEYS, LOADING, server::command_docs),
    spec("command|list",    -2, Here, NO_KEYS, LOADING, server::command_list),
    // Redis says -4 and refuses `COMMAND GETKEYS PING` with that; so do we.
    spec("command|getkeys", -4, Here, NO_KEYS, LOADING, server::command_getkeys),
    spec("command|help",     2, Here, NO_KEYS, LOADING, server::command_help),
];

#[rustfmt::skip]
const CONFIG_COMMANDS: &[CommandSpec] = &[
    spec("config|get",  -3, Here, NO_KEYS, ADMIN,   server::config_get),
    spec("config|set",  -4, Here, NO_KEYS, ADMIN,   server::config_set),
    spec("config|help",  2, Here, NO_KEYS, LOADING, server::config_help),
];

#[rustfmt::skip]
const CLUSTER_COMMANDS: &[CommandSpec] = &[
    spec("cluster|info",             2, Here,  NO_KEYS, STALE,       cluster::info),
    spec("cluster|nodes",            2, Here,  NO_KEYS, STALE,       cluster::nodes),
    spec("cluster|slots",            2, Here,  NO_KEYS, STALE,       cluster::slots),
    spec("cluster|shards",           2, Here,  NO_KEYS, STALE,       cluster::shards),
    spec("cluster|myid",             2, Here,  NO_KEYS, STALE,       cluster::myid),
    spec("cluster|myshardid",        2, Here,  NO_KEYS, STALE,       cluster::myshardid),
    spec("cluster|keyslot",          3, Here,  NO_KEYS, STALE,       cluster::keyslot),
    spec("cluster|countkeysinslot",  3, Read,  NO_KEYS, STALE,       cluster::countkeysinslot),
    spec("cluster|getkeysinslot",    4, Read,  NO_KEYS, STALE,       cluster::getkeysinslot),
    spec("cluster|replicas",         3, Here,  NO_KEYS, ADMIN_STALE, cluster::replicas),
    spec("cluster|slaves",           3, Here,  NO_KEYS, ADMIN_STALE, cluster::replicas),
    spec("cluster|failover",        -2, Admin, NO_KEYS, FAILOVER,    cluster::failover),
    spec("cluster|links",            2, Here,  NO_KEYS, STALE,       cluster::links),
    spec("cluster|migrateslots",    -7, Admin, NO_KEYS, ADMIN_STALE, admin::migrateslots),
    spec("cluster|rebalance",       -2, Admin, NO_KEYS, ADMIN_STALE, admin::rebalance),
    spec("cluster|getslotmigrations",  2, Admin, NO_KEYS, ADMIN_STALE, admin::getslotmigrations),
    spec("cluster|cancelslotmigrations", -2, Admin, NO_KEYS, ADMIN_STALE, admin::cancelslotmigrations),
    spec("cluster|migration",        -4, Admin, NO_KEYS, ADMIN_STALE, admin::migration),
    spec("cluster|group",            -4, Admin, NO_KEYS, ADMIN_STALE, admin::groups),
    spec("cluster|config",           -2, Admin, NO_KEYS, ADMIN_STALE, admin::config),
    spec("cluster|addslots",         -3, Admin, NO_KEYS, FAILOVER,    admin::addslots),
    spec("cluster|addslotsrange",    -4, Admin, NO_KEYS, FAILOVER,    admin::addslotsrange),
    spec("cluster|delslots",         -3, Admin, NO_KEYS, FAILOVER,    admin::delslots),
    spec("cluster|delslotsrange",    -4, Admin, NO_KEYS, FAILOVER,    admin::delslotsrange),
    spec("cluster|flushslots",        2, Admin, NO_KEYS, FAILOVER,    admin::flushslots),
    spec("cluster|setslot",          -4, Admin, NO_KEYS, FAILOVER,    admin::setslot),
    spec("cluster|evacuate",          3, Admin, NO_KEYS, ADMIN_STALE, admin::evacuate),
    spec("cluster|admit",             3, Admin, NO_KEYS, ADMIN_STALE, admin::admit),
    spec("cluster|forget",            3, Admin, NO_KEYS, FAILOVER,    admin::forget),
    spec("cluster|replace",          -4, Admin, NO_KEYS, ADMIN_STALE, admin::replace),
    spec("cluster|addvoter",         -3, Admin, NO_KEYS, ADMIN_STALE, admin::addvoter),
    spec("cluster|delvoter",         -3, Admin, NO_KEYS, ADMIN_STALE, admin::delvoter),
    spec("cluster|replicate",         3, Admin, NO_KEYS, FAILOVER,    admin::replicate),
    spec("cluster|meet",             -4, Admin, NO_KEYS, FAILOVER,    admin::meet),
    spec("cluster|slot-stats",       -4, Admin, NO_KEYS, ADMIN_STALE, admin::slot_stats),
    spec("cluster|count-failure-reports",  3, Here,  NO_KEYS, ADMIN_STALE, cluster::count_failure_reports),
    spec("cluster|saveconfig",        2, Here,  NO_KEYS, FAILOVER,    admin::saveconfig),
    spec("cluster|bumpepoch",         2, Here,  NO_KEYS, FAILOVER,    cluster::bumpepoch),
    spec("cluster|set-config-epoch",  3, Here,  NO_KEYS, FAILOVER,    admin::set_config_epoch),
    spec("cluster|reset",            -2, Here,  NO_KEYS, ADMIN_RESET, admin::reset),
    spec("cluster|groups",            2, Here,  NO_KEYS, ADMIN_STALE, cluster::groups),
    spec("cluster|introduce",        3, Here,  NO_KEYS, STALE,       cluster::introduce),
    spec("cluster|doctor",            2, Here,  NO_KEYS, ADMIN_STALE, cluster::doctor),
    spec("cluster|help",             2, Here,  NO_KEYS, LOADING,     cluster::help),
];

impl CommandSpec {
    /// Its own part of the name.
    pub fn last_name(&self) -> &'static str {
        self.name.rsplit('|').next().unwrap_or(self.name)
    }

    /// Whether so many arguments, the name included, are right.
    pub fn takes(&self, arguments: usize) -> bool {
        let arguments = arguments as i64;
        if self.arity < 0 { arguments >= -self.arity } else { arguments == self.arity }
    }
}

/// The row of a command, whatever the case of its name.
pub fn lookup(name: &[u8]) -> Option<&'static CommandSpec> {
    COMMANDS.iter().find(|spec| name.eq_ignore_ascii_case(spec.name.as_bytes()))
}

/// The row of a subcommand, whatever the case of its name.
pub fn lookup_subcommand(container: &CommandSpec, name: &[u8]) -> Option<&'static CommandSpec> {
    let subcommands = container.subcommands;
    subcommands.iter().find(|spec| name.eq_ignore_ascii_case(spec.last_name().as_bytes()))
}

/// The row that a request is for, its arity checked. `arguments` has at least the name.
pub fn resolve(arguments: &[Bytes]) -> Result<&'static CommandSpec, ErrorText> {
    let name = arguments.first().map_or(&b""[..], |name| name);
    let Some(mut spec) = lookup(name) else { return Err(unknown_command(arguments)) };
    if !spec.subcommands.is_empty()
        && let Some(name) = arguments.get(1)
    {
        spec = lookup_subcommand(spec, name).ok_or_else(|| unknown_subcommand(spec, name))?;
    }
    if spec.takes(arguments.len()) { Ok(spec) } else { Err(wrong_arity(spec.name)) }
}

/// What a request asks for, or its refusal.
pub fn parse(arguments: &mut Arguments) -> Result<(&'static CommandSpec, Call), ErrorText> {
    let spec = resolve(arguments)?;
    Ok((spec, (spec.parse)(arguments)?))
}

/// `ERR wrong number of arguments for '...' command`
pub fn wrong_arity(name: &str) -> ErrorText {
    format!("ERR wrong number of arguments for '{name}' command").into()
}

/// Redis quotes the arguments up to 128 bytes in all, each cut to what is left of them.
fn unknown_command(arguments: &[Bytes]) -> ErrorText {
    let name = arguments.first().map_or(&b""[..], |name| name);
    let mut quoted = String::new();
    for argument in arguments.iter().skip(1) {
        if quoted.len() >= QUOTED_BYTES_MAX {
            break;
        }
        let left = QUOTED_BYTES_MAX - quoted.len();
        quoted.push_str(&format!("'{}' ", quote(argument, left)));
    }
    let name = quote(name, QUOTED_BYTES_MAX);
    format!("ERR unknown command '{name}', with args beginning with: {quoted}").into()
}

fn unknown_subcommand(container: &CommandSpec, name: &[u8]) -> ErrorText {
    let container = container.name.to_ascii_uppercase();
    let name = quote(name, QUOTED_BYTES_MAX);
    format!("ERR unknown subcommand '{name}'. Try {container} HELP.").into()
}

/// A client's text inside an error: at most so many bytes of it, on one line. A NUL, at which Redis
/// would stop, and bytes that are no text are shown as such.
pub fn quote(text: &[u8], bytes_max: usize) -> String {
    let text = &text[..text.len().min(bytes_max)];
    let mut quoted = String::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '\r' | '\n' => quoted.push(' '),
                '\0' => quoted.push_str("\\x00"),
                char => quoted.push(char),
            }
        }
        chunk.invalid().iter().for_each(|byte| quoted.push_str(&format!("\\x{byte:02x}")));
    }
    quoted
}

/// Takes an argument out of the list without copying it.
pub fn take(arguments: &mut Arguments, at: usize) -> Bytes {
    arguments.get_mut(at).map(std::mem::take).unwrap_or_default()
}

/// The number at a place, or Redis' refusal.
pub fn integer(arguments: &Arguments, at: usize) -> Result<i64, ErrorText> {
    arguments.get(at).and_then(|text| parse_integer(text)).ok_or(NOT_AN_INTEGER)
}

/// A call that is one op on the slot of its key, answered as it is.
pub fn on_key(slot: Slot, op: Op) -> Result<Call, ErrorText> {
    Ok(Call::Op { slot, op, shape: Shape::Plain })
}

/// A call that is answered with this.
pub fn answer(reply: Reply) -> Result<Call, ErrorText> {
    Ok(Call::Local(Local::Reply(reply)))
}

#[cfg(test)]
mod tests;

//! Commands about the server as a whole.

use super::token::WINDOW_MS;
use super::{
    Arguments, Barrier, COMMANDS, Call, CommandSpec, ErrorText, Kind, Local, SYNTAX_ERROR, answer,
    docs, integer, lookup, lookup_subcommand, quote,
};
use crate::glob::glob_match;
use crate::redirect::Port;
use crate::reply::Reply;
use crate::settings::SETTINGS;
use bytes::Bytes;
use shard_core::integer::parse_integer;

/// Names that one COMMAND INFO or COMMAND DOCS takes: more than there are commands in any Redis.
/// Redis has no such bound; without one a million names, a few megabytes, are answered with
/// gigabytes.
const COMMAND_NAMES_MAX: usize = 1024;

/// INFO
pub fn info(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    Ok(Call::Info(arguments.drain(1..).collect()))
}

/// TIME
pub fn time(_: &mut Arguments) -> Result<Call, ErrorText> {
    Ok(Call::Local(Local::Time))
}

/// ROLE
pub fn role(_: &mut Arguments) -> Result<Call, ErrorText> {
    Ok(Call::Local(Local::Role))
}

/// WAIT
pub fn wait(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    integer(arguments, 1)?;
    timeout_ms(&arguments[2]).map(|_| Call::Local(Local::Wait))
}

/// A number of milliseconds to wait.
pub(super) fn timeout_ms(text: &[u8]) -> Result<u64, ErrorText> {
    let number = parse_integer(text).ok_or("ERR timeout is not an integer or out of range")?;
    u64::try_from(number).map_err(|_| "ERR timeout is negative".into())
}

/// DBSIZE
pub fn dbsize(_: &mut Arguments) -> Result<Call, ErrorText> {
    Ok(Call::Barrier(Barrier::DbSize))
}

/// FLUSHALL and FLUSHDB: both ways of freeing are one here.
pub fn flushall(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let is = |name: &[u8]| arguments[1].eq_ignore_ascii_case(name);
    match arguments.len() {
        1 => Ok(Call::Barrier(Barrier::FlushAll)),
        2 if is(b"sync") || is(b"async") => Ok(Call::Barrier(Barrier::FlushAll)),
        _ => Err(SYNTAX_ERROR),
    }
}

/// CONFIG GET
pub fn config_get(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    Ok(Call::Local(Local::ConfigGet(arguments.drain(2..).collect())))
}

/// CONFIG SET: refused but for the tokens' window, since settings come from the command line and the cluster
/// file. What is wrong by itself is told first, as in Redis.
pub fn config_set(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let pairs = arguments[2..].chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return Err(SYNTAX_ERROR);
    }
    let lower = |name: &[u8]| quote(name, 128).to_ascii_lowercase();
    let known = |name: &str| SETTINGS.iter().find(|setting| setting.name == name);
    let unknown = pairs.clone().find(|pair| known(&lower(&pair[0])).is_none());
    if let Some(pair) = unknown {
        let name = quote(&pair[0], 128);
        return Err(
            format!("ERR Unknown option or number of arguments for CONFIG SET - '{name}'").into()
        );
    }
    let mut seen = Vec::new();
    for pair in pairs.clone() {
        let name = lower(&pair[0]);
        if seen.contains(&name) {
            return Err(config_set_failed(&pair[0], "duplicate parameter"));
        }
        if known(&name).is_some_and(|setting| setting.integer) && parse_integer(&pair[1]).is_none()
        {
            let reason = "argument couldn't be parsed into an integer";
            return Err(config_set_failed(&pair[0], reason));
        }
        seen.push(name);
    }
    let mutable = |name: &[u8]| known(&lower(name)).is_some_and(|setting| setting.mutable);
    match pairs.clone().find(|pair| !mutable(&pair[0])) {
        Some(pair) => Err(config_set_failed(&pair[0], "can't set immutable config")),
        // The only one there is, and none is named twice.
        None => idmp_window(&arguments[2], &arguments[3]),
    }
}

fn idmp_window(name: &[u8], value: &[u8]) -> Result<Call, ErrorText> {
    let ms = parse_integer(value).and_then(|ms| u32::try_from(ms).ok());
    match ms.filter(|ms| WINDOW_MS.contains(ms)) {
        Some(ms) => Ok(Call::Local(Local::SetIdmpWindow(ms))),
        None => {
            let (least, most) = WINDOW_MS.into_inner();
            let reason = format!("argument must be between {least} and {most} inclusive");
            Err(config_set_failed(name, &reason))
        }
    }
}

fn config_set_failed(name: &[u8], reason: &str) -> ErrorText {
    let name = quote(name, 128);
    format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {reason}").into()
}

/// CONFIG HELP
pub fn config_help(_: &mut Arguments) -> Result<Call, ErrorText> {
    answer(help(
        "CONFIG",
        &[
            (
                "GET <pattern>",
                &["Return parameters matching the glob-like <pattern> and their values."],
            ),
            (
                "SET <directive> <value>",
                &["Set idmp-window-ms; the others come from the command line."],
            ),
        ],
    ))
}

/// A HELP reply in Redis' manner: lines of syntax, each with lines of meaning. What is done here as in
/// Redis has Redis' words.
pub fn help(container: &str, entries: &[(&'static str, &[&'static str])]) -> Reply {
    let line = |text: &str| Reply::Line(text.to_string());
    let title = format!("{container} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:");
    let mut reply = vec![Reply::Line(title)];
    for (syntax, meaning) in entries.iter().chain(&[("HELP", &["Prints this help."][..])]) {
        reply.push(Reply::Simple(syntax));
        reply.extend(meaning.iter().map(|meaning| line(&format!("    {meaning}"))));
    }
    Reply::Array(reply)
}

/// COMMAND
pub fn command(_: &mut Arguments) -> Result<Call, ErrorText> {
    Ok(Call::Local(Local::Commands(None)))
}

/// COMMAND COUNT
pub fn command_count(_: &mut Arguments) -> Result<Call, ErrorText> {
    answer(Reply::Integer(COMMANDS.len() as i64))
}

/// The row that `get` or `client|id` names.
fn lookup_full(name: &[u8]) -> Option<&'static CommandSpec> {
    match name.iter().position(|byte| *byte == b'|') {
        None => lookup(name),
        Some(at) => lookup(&name[..at]).and_then(|spec| lookup_subcommand(spec, &name[at + 1..])),
    }
}

/// The names behind COMMAND INFO or COMMAND DOCS.
fn command_names(arguments: &Arguments) -> Result<&[Bytes], ErrorText> {
    match &arguments[2..] {
        names if names.len() > COMMAND_NAMES_MAX => Err("ERR too many command names".into()),
        names => Ok(names),
    }
}

/// COMMAND INFO
pub fn command_info(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    if arguments.len() == 2 {
        return command(arguments);
    }
    let names = command_names(arguments)?.to_vec();
    Ok(Call::Local(Local::Commands(Some(names))))
}

/// The rows of these names, or of all commands, as clients of such a port are told.
pub fn table(names: Option<&[Bytes]>, port: Port) -> Reply {
    let row = |name: &Bytes| lookup_full(name).map_or(Reply::Nil, |spec| describe(spec, port));
    Reply::Array(match names {
        None => COMMANDS.iter().map(|spec| describe(spec, port)).collect(),
        Some(names) => names.iter().map(row).collect(),
    })
}

/// COMMAND DOCS
pub fn command_docs(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let row = |spec: &'static CommandSpec| (Reply::text(spec.name), document(spec));
    if arguments.len() == 2 {
        return answer(Reply::Map(COMMANDS.iter().map(row).collect()));
    }
    let named = command_names(arguments)?.iter().filter_map(|name| lookup_full(name));
    answer(Reply::Map(named.map(row).collect()))
}

/// COMMAND LIST
pub fn command_list(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let names = |matches: &dyn Fn(&CommandSpec) -> bool| {
        let matching = COMMANDS.iter().filter(|spec| matches(spec));
        answer(Reply::Array(matching.map(|spec| Reply::text(spec.name)).collect()))
    };
    if arguments.len() == 2 {
        return names(&|_| true);
    }
    if arguments.len() != 5 || !arguments[2].eq_ignore_ascii_case(b"filterby") {
        return Err(SYNTAX_ERROR);
    }
    let wanted = &arguments[4];
    if arguments[3].eq_ignore_ascii_case(b"pattern") {
        names(&|spec| glob_match(wanted, spec.name.as_bytes()))
    } else if arguments[3].eq_ignore_ascii_case(b"aclcat") {
        names(&|spec| {
            categories(spec).iter().any(|name| wanted.eq_ignore_ascii_case(&name.as_bytes()[1..]))
        })
    } else if arguments[3].eq_ignore_ascii_case(b"module") {
        names(&|_| false)
    } else {
        Err(SYNTAX_ERROR)
    }
}

/// COMMAND GETKEYS. Redis looks at the kind of command first, then at the number of arguments.
pub fn command_getkeys(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let request = &arguments[2..];
    let container = lookup(&request[0]).filter(|spec| !spec.subcommands.is_empty());
    let spec = match container {
        Some(container) => lookup_subcommand(container, &request[1]),
        None => lookup(&request[0]),
    };
    let spec = spec.ok_or("ERR Invalid command specified")?;
    if spec.keys.step == 0 {
        return Err("ERR The command has no key arguments".into());
    }
    if !spec.takes(request.len()) {
        return Err("ERR Invalid number of arguments specified for command".into());
    }
    let last = match spec.keys.last {
        last if last < 0 => request.len() as i64 + last,
        last => last,
    };
    let keys = (spec.keys.first..=last).step_by(spec.keys.step as usize);
    answer(Reply::Array(keys.map(|at| Reply::Bulk(request[at as usize].clone())).collect()))
}

/// COMMAND HELP
pub fn command_help(_: &mut Arguments) -> Result<Call, ErrorText> {
    const ALL: &str = "If no command names are given, documentation details for all";
    answer(help(
        "COMMAND",
        &[
            ("(no subcommand)", &["Return details about all Redis commands."]),
            ("COUNT", &["Return the total number of commands in this Redis server."]),
            ("LIST", &["Return a list of all commands in this Redis server."]),
            (
                "INFO [<command-name> ...]",
                &["Return details about multiple Redis commands.", ALL, "commands are returned."],
            ),
            (
                "DOCS [<command-name> ...]",
                &[
                    "Return documentation details about multiple Redis commands.",
                    ALL,
                    "commands are returned.",
                ],
            ),
            ("GETKEYS <full-command>", &["Return the keys from a full Redis command."]),
        ],
    ))
}

/// A row as COMMAND shows it: ten elements, as of Redis 7.
fn describe(spec: &'static CommandSpec, port: Port) -> Reply {
    let words =
        |words: Vec<&'static str>| Reply::Set(words.into_iter().map(Reply::Simple).collect());
    Reply::Array(vec![
        Reply::text(spec.name),
        Reply::Integer(spec.arity),
        words(flags(spec)),
        Reply::Integer(spec.keys.first),
        Reply::Integer(spec.keys.last),
        Reply::Integer(spec.keys.step),
        words(categories(spec)),
        Reply::Set(tips(spec, port).into_iter().map(Reply::text).collect()),
        Reply::Set(key_specs(spec)),
        Reply::Set(spec.subcommands.iter().map(|spec| describe(spec, port)).collect()),
    ])
}

fn flags(spec: &CommandSpec) -> Vec<&'static str> {
    let kind: &[&str] = match spec.kind {
        // The containers' and the readers of a whole slot have no such flag in Redis.
        Kind::Read if spec.name.starts_with("cluster") => &[],
        Kind::Read => &["readonly"],
        Kind::Write => &["write"],
        Kind::Admin | Kind::Local => &[],
    };
    [kind, spec.flags].concat()
}

/// ACL categories in Redis' order.
fn categories(spec: &CommandSpec) -> Vec<&'static str> {
    let has = |flag: &str| spec.flags.contains(&flag);
    let flags = flags(spec);
    let group = docs::group(spec.name);
    // Redis counts these among them, whatever family their documentation names.
    let of_clients = spec.name.starts_with("command")
        || matches!(spec.name, "wait" | "readonly" | "readwrite" | "asking");
    let connection = of_clients || group == "connection" && spec.subcommands.is_empty();
    let dangerous = has("admin") || matches!(spec.name, "info" | "role" | "flushall" | "flushdb");
    [
        (group == "generic" && spec.keys.step != 0 || spec.name == "dbsize", "@keyspace"),
        (spec.name.starts_with("flush"), "@keyspace"),
        (flags.contains(&"readonly"), "@read"),
        (flags.contains(&"write"), "@write"),
        (group == "string", "@string"),
        (has("admin") || spec.name == "role", "@admin"),
        (has("fast"), "@fast"),
        (!has("fast"), "@slow"),
        (dangerous, "@dangerous"),
        (connection, "@connection"),
    ]
    .into_iter()
    .filter_map(|(holds, name)| holds.then_some(name))
    .collect()
}

/// Hints for clients, as of Redis 7.0 but for this: Redis tells them to spread some commands over all
/// nodes; here one node answers for all, so that hint is not given but on the cluster port, and there of
/// those alone that are about the slots of the node.
fn tips(spec: &CommandSpec, port: Port) -> Vec<&'static str> {
    match spec.name {
        "dbsize" if port == Port::Cluster => {
            vec!["request_policy:all_shards", "response_policy:agg_sum"]
        }
        "flushall" | "flushdb" if port == Port::Cluster => {
            vec!["request_policy:all_shards", "response_policy:all_succeeded"]
        }
        "mget" => vec!["request_policy:multi_shard"],
        "del" | "unlink" | "exists" | "touch" => {
            vec!["request_policy:multi_shard", "response_policy:agg_sum"]
        }
        "ttl"
        | "pttl"
        | "time"
        | "info"
        | "client|info"
        | "client|list"
        | "cluster|info"
        | "cluster|nodes"
        | "cluster|slots"
        | "cluster|shards"
        | "cluster|getkeysinslot"
        | "cluster|replicas"
        | "cluster|slaves"
        | "cluster|count-failure-reports"
        | "cluster|bumpepoch"
        | "cluster|links" => {
            vec!["nondeterministic_output"]
        }
        "command" | "command|info" | "command|docs" | "command|list" => {
            vec!["nondeterministic_output_order"]
        }
        _ => Vec::new(),
    }
}

/// What becomes of the keys, in Redis' words.
fn access(spec: &CommandSpec) -> &'static [&'static str] {
    match spec.name {
        "exists" | "touch" | "strlen" | "type" => &["RO"],
        "set" => &["RW", "access", "update", "variable_flags"],
        "append" => &["RW", "insert"],
        "del" | "unlink" => &["RM", "delete"],
        "setnx" => &["OW", "insert"],
        "setex" | "psetex" => &["OW", "update"],
        "getdel" => &["RW", "access", "delete"],
        "expire" | "pexpire" | "expireat" | "pexpireat" | "persist" => &["RW", "update"],
        _ if spec.kind == Kind::Read => &["RO", "access"],
        _ => &["RW", "access", "update"],
    }
}

/// Key positions in the long form of Redis 7.
fn key_specs(spec: &CommandSpec) -> Vec<Reply> {
    if spec.keys.step == 0 {
        return Vec::new();
    }
    let text = Reply::word;
    let last = match spec.keys.last {
        last if last > 0 => last - spec.keys.first,
        last => last,
    };
    let notes = match spec.name {
        "set" => Some("RW and ACCESS due to the optional `GET` argument"),
        _ => None,
    };
    let mut pairs: Vec<_> = notes.into_iter().map(|notes| (text("notes"), text(notes))).collect();
    pairs.extend([
        (text("flags"), Reply::Set(access(spec).iter().copied().map(Reply::Simple).collect())),
        (
            text("begin_search"),
            Reply::Map(vec![
                (text("type"), text("index")),
                (text("spec"), Reply::Map(vec![(text("index"), Reply::Integer(spec.keys.first))])),
            ]),
        ),
        (
            text("find_keys"),
            Reply::Map(vec![
                (text("type"), text("range")),
                (
                    text("spec"),
                    Reply::Map(vec![
                        (text("lastkey"), Reply::Integer(last)),
                        (text("keystep"), Reply::Integer(spec.keys.step)),
                        (text("limit"), Reply::Integer(0)),
                    ]),
                ),
            ]),
        ),
    ]);
    vec![Reply::Map(pairs)]
}

/// A row of COMMAND DOCS. Summary and complexity are in our words, since they tell what is done here;
/// Redis' `arguments` and `history` are left out.
fn document(spec: &'static CommandSpec) -> Reply {
    let row = docs::row(spec.name);
    let text = Reply::word;
    let mut pairs = vec![
        (text("summary"), text(row.summary)),
        (text("since"), text(row.since)),
        (text("group"), text(row.group)),
        (text("complexity"), text(row.complexity)),
    ];
    if !spec.subcommands.is_empty() {
        let subcommands =
            spec.subcommands.iter().map(|spec| (text(spec.name), document(spec))).collect();
        pairs.push((text("subcommands"), Reply::Map(subcommands)));
    }
    Reply::Map(pairs)
}

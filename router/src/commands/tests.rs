//! Refusals and ops by table.

use super::*;
use shard_core::op::{Expire, ExpireAt, ExpiryCommand, Set, SetCondition, SetExpiry};
use shard_core::slot::hash_slot;

fn arguments(line: &str) -> Arguments {
    line.split(' ').map(|word| Bytes::from(word.to_string())).collect()
}

fn refusal(line: &str) -> String {
    match parse(&mut arguments(line)) {
        Err(text) => text.into_owned(),
        Ok((_, call)) => format!("{call:?}"),
    }
}

/// What is sent and what is refused with, byte for byte as Redis 7.0 answers.
const REFUSALS: &[(&str, &str)] = &[
    ("FOO bar baz", "ERR unknown command 'FOO', with args beginning with: 'bar' 'baz' "),
    ("FO\r\nO", "ERR unknown command 'FO  O', with args beginning with: "),
    ("", "ERR unknown command '', with args beginning with: "),
    ("CLUSTER NOPE", "ERR unknown subcommand 'NOPE'. Try CLUSTER HELP."),
    ("GET", "ERR wrong number of arguments for 'get' command"),
    ("SET k", "ERR wrong number of arguments for 'set' command"),
    ("PING a b", "ERR wrong number of arguments for 'ping' command"),
    ("CLIENT", "ERR wrong number of arguments for 'client' command"),
    ("CLIENT SETNAME", "ERR wrong number of arguments for 'client|setname' command"),
    ("SET k v FOO", "ERR syntax error"),
    ("SET k v NX XX", "ERR syntax error"),
    ("SET k v EX", "ERR syntax error"),
    ("SET k v EX 1 PX 1", "ERR syntax error"),
    ("SET k v KEEPTTL EX 1", "ERR syntax error"),
    ("SET k v EX 1 KEEPTTL", "ERR syntax error"),
    ("SET k v EX 0", "ERR invalid expire time in 'set' command"),
    ("SET k v PXAT -1", "ERR invalid expire time in 'set' command"),
    ("SET k v EX 9223372036854775807", "ERR invalid expire time in 'set' command"),
    ("SET k v EX abc", "ERR value is not an integer or out of range"),
    ("SETEX k 0 v", "ERR invalid expire time in 'setex' command"),
    ("PSETEX k -1 v", "ERR invalid expire time in 'psetex' command"),
    ("EXPIRE k 9223372036854775807", "ERR invalid expire time in 'expire' command"),
    ("EXPIRE k 1 FOO", "ERR Unsupported option FOO"),
    ("EXPIRE k 1 NX XX", "ERR NX and XX, GT or LT options at the same time are not compatible"),
    ("EXPIRE k 1 GT LT", "ERR GT and LT options at the same time are not compatible"),
    ("INCRBY k abc", "ERR value is not an integer or out of range"),
    ("DECRBY k -9223372036854775808", "ERR decrement would overflow"),
    ("SELECT 1", "ERR SELECT is not allowed in cluster mode"),
    ("SELECT -1", "ERR SELECT is not allowed in cluster mode"),
    ("SELECT abc", "ERR value is not an integer or out of range"),
    ("HELLO 1", "NOPROTO unsupported protocol version"),
    ("HELLO 4", "NOPROTO unsupported protocol version"),
    ("HELLO abc", "ERR Protocol version is not an integer or out of range"),
    ("HELLO 3 FOO", "ERR Syntax error in HELLO option 'FOO'"),
    ("HELLO 3 SETNAME", "ERR Syntax error in HELLO option 'SETNAME'"),
    ("HELLO 3 AUTH a b", "WRONGPASS invalid username-password pair or user is disabled."),
    (
        "CLIENT SETNAME a\tb",
        "ERR Client names cannot contain spaces, newlines or special characters.",
    ),
    ("CLIENT LIST ID x", "ERR Invalid client ID"),
    ("CLIENT LIST TYPE foo", "ERR Unknown client type 'foo'"),
    ("CLIENT REQUEST-TIMEOUT x", "ERR timeout is not an integer or out of range"),
    ("CLIENT REQUEST-TIMEOUT -1", "ERR timeout is negative"),
    ("AUTH a b c", "ERR syntax error"),
    ("FLUSHALL FOO", "ERR syntax error"),
    ("WAIT a 0", "ERR value is not an integer or out of range"),
    ("WAIT 0 a", "ERR timeout is not an integer or out of range"),
    ("WAIT 0 -1", "ERR timeout is negative"),
    ("CONFIG SET nope 1", "ERR Unknown option or number of arguments for CONFIG SET - 'nope'"),
    ("CLUSTER COUNTKEYSINSLOT 99999", "ERR Invalid slot"),
    ("CLUSTER COUNTKEYSINSLOT x", "ERR value is not an integer or out of range"),
    ("CLUSTER GETKEYSINSLOT 0 -1", "ERR Invalid slot or number of keys"),
    ("COMMAND GETKEYS PING", "ERR wrong number of arguments for 'command|getkeys' command"),
    ("COMMAND GETKEYS NOPE a", "ERR Invalid command specified"),
    ("COMMAND GETKEYS ECHO a", "ERR The command has no key arguments"),
    ("COMMAND GETKEYS CONFIG GET", "ERR The command has no key arguments"),
    (
        "CLUSTER FAILOVER FORCE x",
        "ERR unknown subcommand or wrong number of arguments for 'FAILOVER'. Try CLUSTER HELP.",
    ),
    ("COMMAND GETKEYS GET a b", "ERR Invalid number of arguments specified for command"),
];

#[test]
fn b34_to_b68_refusals_are_worded_as_in_redis() {
    for (line, text) in REFUSALS {
        assert_eq!(refusal(line), *text, "{line}");
    }
}

#[test]
fn b34_an_unknown_command_quotes_128_bytes() {
    let long = "x".repeat(200);
    let text = refusal(&format!("FOO {long} b"));
    let quoted = &long[..128];
    assert_eq!(text, format!("ERR unknown command 'FOO', with args beginning with: '{quoted}' "));
}

#[test]
fn set_takes_its_options_in_any_order() {
    let set = |expiry, condition, get| Set {
        key: "k".into(),
        value: "v".into(),
        expiry,
        condition,
        get,
        command: ExpiryCommand::Set,
    };
    for (line, expected) in [
        ("set k v", set(SetExpiry::Clear, None, false)),
        ("SET k v get nx", set(SetExpiry::Clear, Some(SetCondition::IfAbsent), true)),
        ("SET k v xx PX 5 XX", set(SetExpiry::AfterMs(5), Some(SetCondition::IfPresent), false)),
        ("SET k v EX 1 EX 2", set(SetExpiry::AfterMs(2000), None, false)),
        ("SET k v EXAT 3", set(SetExpiry::AtMs(3000), None, false)),
        ("SET k v keepttl", set(SetExpiry::Keep, None, false)),
    ] {
        let (_, call) = parse(&mut arguments(line)).unwrap();
        let slot = hash_slot(b"k");
        assert_eq!(call, Call::Op { slot, op: Op::Set(expected), shape: Shape::Plain }, "{line}");
    }
}

#[test]
fn expire_knows_units_and_options() {
    let (_, call) = parse(&mut arguments("EXPIREAT k 7 XX GT")).unwrap();
    let expire = Expire {
        key: "k".into(),
        at: ExpireAt::AtMs(7000),
        nx: false,
        xx: true,
        gt: true,
        lt: false,
        command: ExpiryCommand::ExpireAt,
    };
    let slot = hash_slot(b"k");
    assert_eq!(call, Call::Op { slot, op: Op::Expire(expire), shape: Shape::Plain });
}

#[test]
fn keys_of_one_slot_stay_one_op() {
    let (_, call) = parse(&mut arguments("DEL {t}a {t}b {t}a")).unwrap();
    let keys = vec!["{t}a".into(), "{t}b".into(), "{t}a".into()];
    assert_eq!(call, Call::Op { slot: hash_slot(b"t"), op: Op::Del { keys }, shape: Shape::Plain });
}

#[test]
fn keys_of_several_slots_are_split_and_keep_their_places() {
    let (_, call) = parse(&mut arguments("MGET a b a")).unwrap();
    let Call::Split(split) = call else { panic!("{call:?}") };
    assert_eq!(split.join, Join::Values(3));
    let places: Vec<_> = split.parts.iter().map(|(_, _, places)| places.clone()).collect();
    // b's slot is 3300, a's is 15495.
    assert_eq!(places, [vec![1], vec![0, 2]]);
    assert_eq!(split.parts[1].1, Op::MGet { keys: vec!["a".into(), "a".into()] });
}

#[test]
fn command_info_and_docs_answer_a_bounded_number_of_names() {
    for (subcommand, taken) in [("INFO", "Local(Commands("), ("DOCS", "Local(Reply(")] {
        let names = |count| refusal(&format!("COMMAND {subcommand}{}", " cluster".repeat(count)));
        assert!(names(1024).starts_with(taken), "{subcommand}");
        assert_eq!(names(1025), "ERR too many command names");
    }
}

#[test]
fn every_command_has_a_row_of_documentation_and_an_own_name() {
    let mut names = Vec::new();
    for spec in COMMANDS.iter().flat_map(|spec| std::iter::once(spec).chain(spec.subcommands)) {
        assert_eq!(docs::row(spec.name).name, spec.name);
        assert!(!names.contains(&spec.name), "{} is there twice", spec.name);
        names.push(spec.name);
    }
    assert_eq!(names.len(), docs::DOCS.len(), "documentation of a command that is not there");
}

#[test]
fn a_list_of_clients_by_ids_that_none_can_have_is_empty() {
    for line in ["CLIENT LIST ID -1", "CLIENT LIST ID 0 -9223372036854775808"] {
        let (_, call) = parse(&mut arguments(line)).unwrap();
        let Call::Local(Local::Client(Client::List(Some(ids)))) = call else { panic!("{line}") };
        assert!(ids.iter().all(|id| *id == 0), "{line}: {ids:?}");
    }
}

//! Commands about the connection itself.

use super::{
    Arguments, Call, Client, ErrorText, Local, SYNTAX_ERROR, answer, integer, quote, take,
};
use crate::reply::{Protocol, Reply};
use bytes::Bytes;
use shard_core::integer::parse_integer;

const BAD_NAME: &str = "ERR Client names cannot contain spaces, newlines or special characters.";
const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";

/// PING
pub fn ping(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    match arguments.len() {
        1 => answer(Reply::Simple("PONG")),
        2 => answer(Reply::Bulk(take(arguments, 1))),
        _ => Err(super::wrong_arity("ping")),
    }
}

/// ECHO
pub fn echo(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    answer(Reply::Bulk(take(arguments, 1)))
}

/// QUIT
pub fn quit(_: &mut Arguments) -> Result<Call, ErrorText> {
    Ok(Call::Local(Local::Quit))
}

/// RESET
pub fn reset(_: &mut Arguments) -> Result<Call, ErrorText> {
    Ok(Call::Local(Local::Reset))
}

/// SELECT: there is database 0 only, as in Redis Cluster.
pub fn select(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    match integer(arguments, 1)? {
        0 => answer(Reply::OK),
        number if i32::try_from(number).is_err() => Err("ERR value is out of range, value must \
            between -2147483648 and 2147483647"
            .into()),
        _ => Err("ERR SELECT is not allowed in cluster mode".into()),
    }
}

/// AUTH: no password is configured, so the default user has any.
pub fn auth(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    match arguments.len() {
        2 => Err("ERR AUTH <password> called without any password configured for the default \
                  user. Are you sure your configuration is correct?"
            .into()),
        3 => authenticate(&arguments[1]).and_then(|()| answer(Reply::OK)),
        _ => Err(SYNTAX_ERROR),
    }
}

fn authenticate(user: &[u8]) -> Result<(), ErrorText> {
    if user == b"default" { Ok(()) } else { Err(WRONG_PASSWORD.into()) }
}

/// HELLO
pub fn hello(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let mut protocol = None;
    if let Some(version) = arguments.get(1) {
        protocol = Some(match parse_integer(version) {
            None => return Err("ERR Protocol version is not an integer or out of range".into()),
            Some(2) => Protocol::Resp2,
            Some(3) => Protocol::Resp3,
            Some(_) => return Err("NOPROTO unsupported protocol version".into()),
        });
    }
    let mut name = None;
    let mut at = 2;
    while at < arguments.len() {
        let option = &arguments[at];
        let behind = arguments.len() - at - 1;
        if option.eq_ignore_ascii_case(b"auth") && behind >= 2 {
            authenticate(&arguments[at + 1])?;
            at += 3;
        } else if option.eq_ignore_ascii_case(b"setname") && behind >= 1 {
            name = Some(client_name(take(arguments, at + 1), BAD_NAME)?);
            at += 2;
        } else {
            let option = quote(option, usize::MAX);
            return Err(format!("ERR Syntax error in HELLO option '{option}'").into());
        }
    }
    Ok(Call::Local(Local::Hello { protocol, name }))
}

/// Names are shown in CLIENT LIST, whose fields are separated by blanks.
fn client_name(name: Bytes, refusal: &'static str) -> Result<Bytes, ErrorText> {
    if name.iter().all(u8::is_ascii_graphic) { Ok(name) } else { Err(refusal.into()) }
}

/// Containers are never called without a subcommand: their arity says so.
pub fn needs_subcommand(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let name = arguments.first().map(|name| quote(name, 128).to_ascii_lowercase());
    Err(super::wrong_arity(&name.unwrap_or_default()))
}

fn client(call: Client) -> Result<Call, ErrorText> {
    Ok(Call::Local(Local::Client(call)))
}

/// CLIENT ID
pub fn client_id(_: &mut Arguments) -> Result<Call, ErrorText> {
    client(Client::Id)
}

/// CLIENT GETNAME
pub fn client_getname(_: &mut Arguments) -> Result<Call, ErrorText> {
    client(Client::GetName)
}

/// CLIENT SETNAME
pub fn client_setname(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    client(Client::SetName(client_name(take(arguments, 2), BAD_NAME)?))
}

/// CLIENT SETINFO, as of Redis 7.2
pub fn client_setinfo(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let option = take(arguments, 2);
    let value = take(arguments, 3);
    if option.eq_ignore_ascii_case(b"lib-name") {
        const REFUSAL: &str = "ERR lib-name cannot contain spaces, newlines or special characters.";
        client(Client::SetLibName(client_name(value, REFUSAL)?))
    } else if option.eq_ignore_ascii_case(b"lib-ver") {
        const REFUSAL: &str = "ERR lib-ver cannot contain spaces, newlines or special characters.";
        client(Client::SetLibVersion(client_name(value, REFUSAL)?))
    } else {
        Err(format!("ERR Unrecognized option '{}'", quote(&option, 128)).into())
    }
}

/// CLIENT INFO
pub fn client_info(_: &mut Arguments) -> Result<Call, ErrorText> {
    client(Client::Info)
}

/// CLIENT LIST: all, of a type, or by ids.
pub fn client_list(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    if arguments.len() == 2 {
        return client(Client::List(None));
    }
    if arguments.len() == 4 && arguments[2].eq_ignore_ascii_case(b"type") {
        return client(Client::List(client_type(&arguments[3])?));
    }
    if arguments.len() > 3 && arguments[2].eq_ignore_ascii_case(b"id") {
        // No client has a negative number (nor 0).
        let id = |text: &Bytes| parse_integer(text).map(|id| u64::try_from(id).unwrap_or(0));
        let ids: Option<Vec<u64>> = arguments[3..].iter().map(id).collect();
        return client(Client::List(Some(ids.ok_or("ERR Invalid client ID")?)));
    }
    Err(SYNTAX_ERROR)
}

/// Every client is a normal one: no ids for the other types.
fn client_type(name: &[u8]) -> Result<Option<Vec<u64>>, ErrorText> {
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    if is("normal") {
        return Ok(None);
    }
    if ["master", "replica", "slave", "pubsub"].into_iter().any(is) {
        return Ok(Some(Vec::new()));
    }
    Err(format!("ERR Unknown client type '{}'", quote(name, 128)).into())
}

/// CLIENT NO-EVICT and NO-TOUCH: clients are never evicted and keys have no last access.
pub fn client_on_off(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let is = |name: &[u8]| arguments[2].eq_ignore_ascii_case(name);
    if is(b"on") || is(b"off") { answer(Reply::OK) } else { Err(SYNTAX_ERROR) }
}

/// CLIENT REQUEST-TIMEOUT
pub fn client_request_timeout(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    client(Client::RequestTimeout(super::server::timeout_ms(&arguments[2])?))
}

/// CLIENT HELP
pub fn client_help(_: &mut Arguments) -> Result<Call, ErrorText> {
    answer(super::server::help(
        "CLIENT",
        &[
            ("GETNAME", &["Return the name of the current connection."]),
            ("ID", &["Return the ID of the current connection."]),
            ("INFO", &["Return information about the current client connection."]),
            (
                "LIST [options ...]",
                &[
                    "Return information about client connections. Options:",
                    "* TYPE (NORMAL|MASTER|REPLICA|PUBSUB)",
                    "  Return clients of specified type.",
                    "* ID <id> [<id> ...]",
                    "  Return the clients with these IDs.",
                ],
            ),
            ("SETNAME <name>", &["Assign the name <name> to the current connection."]),
            (
                "SETINFO (LIB-NAME|LIB-VER) <value>",
                &["Tell which client library the current connection uses."],
            ),
            ("NO-EVICT (ON|OFF)", &["Accepted: no connection is ever evicted."]),
            ("NO-TOUCH (ON|OFF)", &["Accepted: keys have no time of last access."]),
            (
                "IDMP <producer> <id>",
                &[
                    "Name the next command by a token: sent again with the same one within the time of",
                    "idmp-window-ms, over whatever connection, it is answered as the first and not done twice.",
                ],
            ),
            (
                "REQUEST-TIMEOUT <milliseconds>",
                &[
                    "Answer requests of this connection with an error after so long, if not before.",
                    "0: as all others.",
                ],
            ),
        ],
    ))
}

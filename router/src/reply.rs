//! Replies, and every error text that is not a parser's own, as Redis words them.
//!
//! A reply is built once and encoded with the protocol of its place in the pipeline: RESP3 has maps,
//! sets, a null and text of its own; in RESP2 they are arrays, null bulks and bulks. The crate
//! redis-protocol keeps maps without order and has a frame type for each protocol, so its encoder
//! does not serve here; the tests read our bytes with its decoder.

use crate::backend::{Answered, Refusal};
use bytes::{BufMut, Bytes, BytesMut};
use shard_core::op::{ExpiryCommand, OpError, Outcome, Word};
use std::borrow::Cow;

/// Which protocol a reply is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// What a connection begins with.
    #[default]
    Resp2,
    /// After `HELLO 3`.
    Resp3,
}

impl Protocol {
    /// Its number in HELLO and CLIENT LIST.
    pub fn number(self) -> i64 {
        match self {
            Protocol::Resp2 => 2,
            Protocol::Resp3 => 3,
        }
    }
}

/// A reply before it is bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `+text`
    Simple(&'static str),
    /// `+text`
    Line(String),
    /// `-text`, the code included.
    Error(Cow<'static, str>),
    /// `:n`
    Integer(i64),
    /// `$n` and bytes.
    Bulk(Bytes),
    /// `$n` and a text of ours.
    Text(Cow<'static, str>),
    /// `=n`, `txt:` and text for people; in RESP2 a bulk.
    Verbatim(String),
    /// No value: `_`; in RESP2 `$-1`.
    Nil,
    /// `*n`
    Array(Vec<Reply>),
    /// `~n`; in RESP2 an array.
    Set(Vec<Reply>),
    /// `%n`, in this order; in RESP2 an array of keys and values.
    Map(Vec<(Reply, Reply)>),
}

impl Reply {
    /// A `+OK`.
    pub const OK: Reply = Reply::Simple("OK");

    /// An error reply with this text, code included.
    pub fn error(text: impl Into<Cow<'static, str>>) -> Reply {
        Reply::Error(text.into())
    }

    /// A bulk of a text of ours.
    pub fn text(text: impl Into<Cow<'static, str>>) -> Reply {
        Reply::Text(text.into())
    }

    /// A bulk of a word of ours.
    pub fn word(word: &'static str) -> Reply {
        Reply::Text(Cow::Borrowed(word))
    }

    /// Appends its bytes.
    pub fn encode(&self, protocol: Protocol, out: &mut BytesMut) {
        match self {
            Reply::Simple(text) => put_line(out, b'+', text.as_bytes()),
            Reply::Line(text) => put_line(out, b'+', text.as_bytes()),
            Reply::Error(text) => put_error(out, text),
            Reply::Integer(value) => put_integer(out, b':', *value),
            Reply::Bulk(bytes) => put_bulk(out, bytes),
            Reply::Text(text) => put_bulk(out, text.as_bytes()),
            Reply::Verbatim(text) => put_verbatim(out, protocol, text),
            Reply::Nil => put_nil(out, protocol),
            Reply::Array(items) => put_items(out, b'*', items, protocol),
            Reply::Set(items) => put_items(out, aggregate(protocol, b'~'), items, protocol),
            Reply::Map(pairs) => put_map(out, pairs, protocol),
        }
    }
}

fn aggregate(protocol: Protocol, resp3: u8) -> u8 {
    match protocol {
        Protocol::Resp2 => b'*',
        Protocol::Resp3 => resp3,
    }
}

fn put_items(out: &mut BytesMut, kind: u8, items: &[Reply], protocol: Protocol) {
    put_integer(out, kind, items.len() as i64);
    for item in items {
        item.encode(protocol, out);
    }
}

fn put_map(out: &mut BytesMut, pairs: &[(Reply, Reply)], protocol: Protocol) {
    let count = match protocol {
        Protocol::Resp2 => pairs.len() * 2,
        Protocol::Resp3 => pairs.len(),
    };
    put_integer(out, aggregate(protocol, b'%'), count as i64);
    for (key, value) in pairs {
        key.encode(protocol, out);
        value.encode(protocol, out);
    }
}

fn put_line(out: &mut BytesMut, kind: u8, text: &[u8]) {
    out.reserve(text.len() + 3);
    out.put_u8(kind);
    out.put_slice(text);
    out.put_slice(b"\r\n");
}

/// An error is one line, whatever a client put into the name it quotes.
fn put_error(out: &mut BytesMut, text: &str) {
    out.reserve(text.len() + 3);
    out.put_u8(b'-');
    for byte in text.bytes() {
        out.put_u8(if matches!(byte, b'\r' | b'\n') { b' ' } else { byte });
    }
    out.put_slice(b"\r\n");
}

/// `<kind><value>CRLF`: an integer, or the head of an array.
pub fn put_integer(out: &mut BytesMut, kind: u8, value: i64) {
    let mut buffer = itoa::Buffer::new();
    put_line(out, kind, buffer.format(value).as_bytes());
}

/// `$<length>CRLF<bytes>CRLF`
pub fn put_bulk(out: &mut BytesMut, bytes: &[u8]) {
    // Room for all of it at once: the head is 22 bytes at most.
    out.reserve(bytes.len() + 24);
    put_integer(out, b'$', bytes.len() as i64);
    out.put_slice(bytes);
    out.put_slice(b"\r\n");
}

fn put_verbatim(out: &mut BytesMut, protocol: Protocol, text: &str) {
    match protocol {
        Protocol::Resp2 => put_bulk(out, text.as_bytes()),
        Protocol::Resp3 => {
            put_integer(out, b'=', text.len() as i64 + 4);
            out.put_slice(b"txt:");
            out.put_slice(text.as_bytes());
            out.put_slice(b"\r\n");
        }
    }
}

fn put_nil(out: &mut BytesMut, protocol: Protocol) {
    match protocol {
        Protocol::Resp2 => out.put_slice(b"$-1\r\n"),
        Protocol::Resp3 => out.put_slice(b"_\r\n"),
    }
}

/// How an op's outcome becomes a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// As it is.
    Plain,
    /// `:1` for done and `:0` for not done: SETNX.
    Flag,
}

/// Appends the reply to a command that is one op.
pub fn put_answer(out: &mut BytesMut, protocol: Protocol, shape: Shape, answer: &Answered) {
    match answer {
        Answered::Outcome(outcome) => put_outcome(out, protocol, shape, outcome),
        Answered::Refused(refusal) => put_error(out, &refusal_text(refusal)),
        Answered::Group(_) | Answered::Master(_) | Answered::Met(_) => put_error(out, UNFIT_ANSWER),
    }
}

/// The backend answered with something that the command does not ask for: a fault of ours that must
/// not take other clients down with it.
pub const UNFIT_ANSWER: &str = "ERR internal error: the answer does not fit the command";

fn put_outcome(out: &mut BytesMut, protocol: Protocol, shape: Shape, outcome: &Outcome) {
    match (outcome, shape) {
        (Outcome::Ok, Shape::Plain) => out.put_slice(b"+OK\r\n"),
        (Outcome::Ok, Shape::Flag) => out.put_slice(b":1\r\n"),
        (Outcome::Nil, Shape::Plain) => put_nil(out, protocol),
        (Outcome::Nil, Shape::Flag) => out.put_slice(b":0\r\n"),
        (Outcome::Integer(value), _) => put_integer(out, b':', *value),
        (Outcome::Value(value), _) => put_bulk(out, value),
        (Outcome::Values(values), _) => put_values(out, protocol, values),
        (Outcome::Keys(keys), _) => {
            put_integer(out, b'*', keys.len() as i64);
            keys.iter().for_each(|key| put_bulk(out, key));
        }
        (Outcome::Word(Word::None), _) => out.put_slice(b"+none\r\n"),
        (Outcome::Word(Word::String), _) => out.put_slice(b"+string\r\n"),
        (Outcome::Error(error), _) => put_error(out, &op_error_text(*error)),
    }
}

/// Appends an array of values, each there or not.
pub fn put_values(out: &mut BytesMut, protocol: Protocol, values: &[Option<Bytes>]) {
    put_integer(out, b'*', values.len() as i64);
    for value in values {
        match value {
            Some(value) => put_bulk(out, value),
            None => put_nil(out, protocol),
        }
    }
}

/// Bytes that an answer holds, about: what a connection counts against its bounds.
pub fn answer_bytes(answer: &Answered) -> usize {
    const SMALL: usize = 32;
    match answer {
        Answered::Outcome(Outcome::Value(value)) => SMALL + value.len(),
        Answered::Outcome(Outcome::Values(values)) => {
            values.iter().map(|value| SMALL + value.as_ref().map_or(0, Bytes::len)).sum()
        }
        Answered::Outcome(Outcome::Keys(keys)) => keys.iter().map(|key| SMALL + key.len()).sum(),
        Answered::Outcome(_)
        | Answered::Group(_)
        | Answered::Master(_)
        | Answered::Met(_)
        | Answered::Refused(_) => SMALL,
    }
}

/// The text of a refusal that is part of an op's outcome.
pub fn op_error_text(error: OpError) -> Cow<'static, str> {
    match error {
        OpError::WrongType => {
            "WRONGTYPE Operation against a key holding the wrong kind of value".into()
        }
        OpError::NotAnInteger => "ERR value is not an integer or out of range".into(),
        OpError::Overflow => "ERR increment or decrement would overflow".into(),
        OpError::StringTooLong => {
            "ERR string exceeds maximum allowed size (proto-max-bulk-len)".into()
        }
        OpError::InvalidExpireTime(command) => invalid_expire_time(command).into(),
        OpError::OutOfMemory => "OOM command not allowed when used memory > 'maxmemory'.".into(),
        OpError::NoRoom => "MISCONF Errors writing to the AOF file: No space left on device".into(),
        OpError::TokenReused => {
            "ERR this token was given to another command, nothing was executed".into()
        }
        OpError::TokenReplyGone => {
            "ERR the command of this token was executed before, its reply is not kept".into()
        }
        OpError::TokensFull => {
            "TRYAGAIN Too many tokens are remembered here, nothing was executed".into()
        }
    }
}

/// `ERR invalid expire time in '<command>' command`
pub fn invalid_expire_time(command: ExpiryCommand) -> String {
    let name = match command {
        ExpiryCommand::Set => "set",
        ExpiryCommand::SetEx => "setex",
        ExpiryCommand::PSetEx => "psetex",
        ExpiryCommand::Expire => "expire",
        ExpiryCommand::PExpire => "pexpire",
        ExpiryCommand::ExpireAt => "expireat",
        ExpiryCommand::PExpireAt => "pexpireat",
    };
    format!("ERR invalid expire time in '{name}' command")
}

/// What a client is told when its command was not answered by its group. Only what surely was not
/// executed has a code that clients retry (TRYAGAIN, CLUSTERDOWN).
pub fn refusal_text(refusal: &Refusal) -> Cow<'static, str> {
    match refusal {
        Refusal::ClusterDown => "CLUSTERDOWN The cluster is down".into(),
        Refusal::SlotNotServed => "CLUSTERDOWN Hash slot not served".into(),
        Refusal::Unknown { waited_ms } => unknown_text(*waited_ms).into(),
        Refusal::Moving { slot } => {
            format!("TRYAGAIN Slot {slot} is moving, nothing was executed").into()
        }
        Refusal::Overloaded => {
            "TRYAGAIN Too many requests are waiting here, nothing was executed".into()
        }
        Refusal::TooBig => "ERR command too large for one slot, nothing was executed".into(),
        Refusal::OlderNode => {
            "TRYAGAIN A node of an older version that knows no IDMP is among those of this slot, nothing was executed"
                .into()
        }
    }
}

/// The text for a write of which nobody knows whether it was applied.
pub fn unknown_text(waited_ms: u64) -> String {
    format!("TIMEOUT no answer within {waited_ms} ms, the write may or may not be applied")
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis_protocol::resp2::decode::decode as decode_resp2;
    use redis_protocol::resp3::decode::complete::decode as decode_resp3;

    fn encoded(reply: &Reply, protocol: Protocol) -> String {
        let mut out = BytesMut::new();
        reply.encode(protocol, &mut out);
        let length = match protocol {
            Protocol::Resp2 => decode_resp2(&out).unwrap().map(|(_, length)| length),
            Protocol::Resp3 => decode_resp3(&out).unwrap().map(|(_, length)| length),
        };
        assert_eq!(length, Some(out.len()), "{reply:?}");
        String::from_utf8(out.to_vec()).unwrap().replace("\r\n", " ")
    }

    #[test]
    fn replies_differ_by_protocol_as_in_redis() {
        let pair = || vec![(Reply::word("k"), Reply::Integer(-1))];
        for (reply, resp2, resp3) in [
            (Reply::OK, "+OK ", "+OK "),
            (Reply::error("ERR a\r\nb"), "-ERR a  b ", "-ERR a  b "),
            (Reply::Integer(i64::MIN), ":-9223372036854775808 ", ":-9223372036854775808 "),
            (Reply::word(""), "$0  ", "$0  "),
            (Reply::Verbatim("text".into()), "$4 text ", "=8 txt:text "),
            (Reply::Nil, "$-1 ", "_ "),
            (Reply::Array(vec![Reply::Nil]), "*1 $-1 ", "*1 _ "),
            (Reply::Set(vec![Reply::Simple("a")]), "*1 +a ", "~1 +a "),
            (Reply::Map(pair()), "*2 $1 k :-1 ", "%1 $1 k :-1 "),
            (Reply::Map(Vec::new()), "*0 ", "%0 "),
        ] {
            assert_eq!(encoded(&reply, Protocol::Resp2), resp2);
            assert_eq!(encoded(&reply, Protocol::Resp3), resp3);
        }
    }

    #[test]
    fn b87_to_b92_refusals_have_their_texts() {
        let slot = shard_core::slot::Slot(3999);
        for (refusal, text) in [
            (Refusal::SlotNotServed, "CLUSTERDOWN Hash slot not served"),
            (Refusal::ClusterDown, "CLUSTERDOWN The cluster is down"),
            (Refusal::Moving { slot }, "TRYAGAIN Slot 3999 is moving, nothing was executed"),
            (
                Refusal::Unknown { waited_ms: 5000 },
                "TIMEOUT no answer within 5000 ms, the write may or may not be applied",
            ),
            (
                Refusal::Overloaded,
                "TRYAGAIN Too many requests are waiting here, nothing was executed",
            ),
        ] {
            assert_eq!(refusal_text(&refusal), text);
        }
    }

    #[test]
    fn outcomes_have_their_replies() {
        let command = ExpiryCommand::PExpireAt;
        for (outcome, shape, resp3) in [
            (Outcome::Ok, Shape::Plain, "+OK "),
            (Outcome::Ok, Shape::Flag, ":1 "),
            (Outcome::Nil, Shape::Plain, "_ "),
            (Outcome::Nil, Shape::Flag, ":0 "),
            (Outcome::Integer(7), Shape::Plain, ":7 "),
            (Outcome::Values(vec![Some("a".into()), None]), Shape::Plain, "*2 $1 a _ "),
            (Outcome::Keys(vec!["a".into()]), Shape::Plain, "*1 $1 a "),
            (Outcome::Word(Word::None), Shape::Plain, "+none "),
            (
                Outcome::Error(OpError::InvalidExpireTime(command)),
                Shape::Plain,
                "-ERR invalid expire time in 'pexpireat' command ",
            ),
            (
                Outcome::Error(OpError::OutOfMemory),
                Shape::Plain,
                "-OOM command not allowed when used memory > 'maxmemory'. ",
            ),
            (
                Outcome::Error(OpError::NoRoom),
                Shape::Plain,
                "-MISCONF Errors writing to the AOF file: No space left on device ",
            ),
            (
                Outcome::Error(OpError::WrongType),
                Shape::Plain,
                "-WRONGTYPE Operation against a key holding the wrong kind of value ",
            ),
        ] {
            let mut out = BytesMut::new();
            put_answer(&mut out, Protocol::Resp3, shape, &Answered::Outcome(outcome));
            assert_eq!(String::from_utf8(out.to_vec()).unwrap().replace("\r\n", " "), resp3);
        }
    }
}

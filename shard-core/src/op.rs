//! The replicated commands and what each answers.
//!
//! Enums here are in logs and on wires: append-only, variants and fields keep their order for ever.
//! Whatever depends on state or time is decided when an entry is applied, from the entry's stamp.

use crate::session::SessionId;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, de};
use std::cell::Cell;

/// A command on the keys of one slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// GET.
    Get {
        /// The key.
        key: Bytes,
    },
    /// SET with all its options; SETEX, PSETEX, SETNX and GETSET are written as one too.
    Set(Set),
    /// APPEND.
    Append {
        /// The key.
        key: Bytes,
        /// What is appended.
        value: Bytes,
    },
    /// INCR, INCRBY, DECR, DECRBY.
    IncrBy {
        /// The key.
        key: Bytes,
        /// What is added.
        by: i64,
    },
    /// MGET of keys of one slot.
    MGet {
        /// In the order of the request.
        keys: Vec<Bytes>,
    },
    /// DEL and UNLINK of keys of one slot.
    Del {
        /// In the order of the request.
        keys: Vec<Bytes>,
    },
    /// EXISTS and TOUCH of keys of one slot; a key named twice counts twice.
    Exists {
        /// In the order of the request.
        keys: Vec<Bytes>,
    },
    /// STRLEN.
    Strlen {
        /// The key.
        key: Bytes,
    },
    /// TTL and PTTL.
    Ttl {
        /// The key.
        key: Bytes,
        /// What the answer counts in.
        unit: TimeUnit,
    },
    /// EXPIRE, PEXPIRE, EXPIREAT and PEXPIREAT.
    Expire(Expire),
    /// PERSIST.
    Persist {
        /// The key.
        key: Bytes,
    },
    /// TYPE.
    Type {
        /// The key.
        key: Bytes,
    },
    /// FLUSHALL's part in one slot: removes its data, never its lanes.
    FlushSlot,
    /// CLUSTER COUNTKEYSINSLOT.
    CountKeys,
    /// CLUSTER GETKEYSINSLOT.
    ListKeys {
        /// At most so many, in key order.
        count: u32,
    },
    /// GETDEL.
    GetDel {
        /// The key.
        key: Bytes,
    },
    /// What a leader whose disk has no room proposes in the place of an op that may grow
    /// ([`Op::is_denied_when_full`]): the lane goes on, and the answer is [`OpError::NoRoom`].
    NoRoom,
    /// A write that a client has named by a token, so that it can send it again from anywhere.
    Token(Box<Token>),
}

/// Op::Token: the slot remembers for a while what the first one of that name answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Token {
    /// What the client calls it, as the id of a lane: [`SessionId::of_token`].
    pub name: SessionId,
    /// A hash of the command, not 0: under the same name another one is refused.
    pub hash: u64,
    /// How long it is remembered, in milliseconds of log time.
    pub window_ms: u32,
    /// The write; never one with a token.
    pub op: Op,
}

thread_local! {
    /// A token is being decoded.
    static IN_TOKEN: Cell<bool> = const { Cell::new(false) };
}

/// Within a token there is none: bytes that say so are refused, however deep they would go.
impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Token, D::Error> {
        if IN_TOKEN.replace(true) {
            return Err(de::Error::custom("a token within a token"));
        }
        let whole = <(SessionId, u64, u32, Op)>::deserialize(deserializer);
        IN_TOKEN.set(false);
        let (name, hash, window_ms, op) = whole?;
        Ok(Token { name, hash, window_ms, op })
    }
}

/// Op::Set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// EX, PX, EXAT, PXAT, KEEPTTL.
    pub expiry: SetExpiry,
    /// NX, XX.
    pub condition: Option<SetCondition>,
    /// GET: answer the old value.
    pub get: bool,
    /// The command as the client named it, for `invalid expire time in '...' command`.
    pub command: ExpiryCommand,
}

/// What SET does to the key's expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetExpiry {
    /// The key gets none.
    Clear,
    /// KEEPTTL.
    Keep,
    /// So many milliseconds after the entry's log time (checked > 0 by the parser).
    AfterMs(i64),
    /// At this Unix time in milliseconds; in the past, the key is deleted at once.
    AtMs(i64),
}

/// NX or XX of SET.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetCondition {
    /// NX.
    IfAbsent,
    /// XX.
    IfPresent,
}

/// Op::Expire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expire {
    /// The key.
    pub key: Bytes,
    /// When.
    pub at: ExpireAt,
    /// NX, XX, GT, LT; XX may stand with GT or LT.
    pub nx: bool,
    /// See `nx`.
    pub xx: bool,
    /// See `nx`.
    pub gt: bool,
    /// See `nx`.
    pub lt: bool,
    /// The command as the client named it, for `invalid expire time in '...' command`.
    pub command: ExpiryCommand,
}

/// When a key expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExpireAt {
    /// So many milliseconds after the entry's log time; zero or negative deletes the key.
    AfterMs(i64),
    /// At this Unix time in milliseconds.
    AtMs(i64),
}

/// The commands that can fail with `invalid expire time`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExpiryCommand {
    /// set
    Set,
    /// setex
    SetEx,
    /// psetex
    PSetEx,
    /// expire
    Expire,
    /// pexpire
    PExpire,
    /// expireat
    ExpireAt,
    /// pexpireat
    PExpireAt,
}

/// What a TTL counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimeUnit {
    /// TTL.
    Seconds,
    /// PTTL.
    Milliseconds,
}

/// What an op answered. The router turns it into RESP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// `+OK`.
    Ok,
    /// No such key, or the condition did not hold.
    Nil,
    /// A number.
    Integer(i64),
    /// A value.
    Value(Bytes),
    /// One element per key of the request.
    Values(Vec<Option<Bytes>>),
    /// Keys, in key order.
    Keys(Vec<Bytes>),
    /// A short word as a simple string: TYPE.
    Word(Word),
    /// A refusal that is part of the state machine's answer, remembered like any other.
    Error(OpError),
}

/// The words ops answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    /// `none`
    None,
    /// `string`
    String,
}

/// The refusals of ops; the router has Redis' text for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpError {
    /// `WRONGTYPE ...`
    WrongType,
    /// `ERR value is not an integer or out of range`
    NotAnInteger,
    /// `ERR increment or decrement would overflow`
    Overflow,
    /// `ERR string exceeds maximum allowed size (proto-max-bulk-len)`
    StringTooLong,
    /// `ERR invalid expire time in '<command>' command`
    InvalidExpireTime(ExpiryCommand),
    /// `OOM command not allowed when used memory > 'maxmemory'.`
    OutOfMemory,
    /// `MISCONF Errors writing to the AOF file: No space left on device`
    NoRoom,
    /// The token's name was given to another command; nothing was executed.
    TokenReused,
    /// The token's command was executed, and what it answered is not kept.
    TokenReplyGone,
    /// Too many tokens are remembered; nothing was executed.
    TokensFull,
}

impl Op {
    /// The op itself, without the token that it may have.
    pub fn plain(&self) -> &Op {
        match self {
            Op::Token(token) => &token.op,
            op => op,
        }
    }

    /// Whether the op can change state.
    pub fn is_write(&self) -> bool {
        match self {
            Op::Token(token) => token.op.is_write(),
            Op::Get { .. }
            | Op::MGet { .. }
            | Op::Exists { .. }
            | Op::Strlen { .. }
            | Op::Ttl { .. }
            | Op::Type { .. }
            | Op::CountKeys
            | Op::ListKeys { .. } => false,
            Op::Set(_)
            | Op::Append { .. }
            | Op::IncrBy { .. }
            | Op::Del { .. }
            | Op::Expire(_)
            | Op::Persist { .. }
            | Op::FlushSlot
            | Op::GetDel { .. }
            | Op::NoRoom => true,
        }
    }

    /// Whether the op is refused where memory is full: those that Redis flags `denyoom`, whatever the
    /// key holds. What frees memory, or changes an expiry alone, goes on.
    pub fn is_denied_when_full(&self) -> bool {
        match self {
            Op::Token(token) => token.op.is_denied_when_full(),
            Op::Set(_) | Op::Append { .. } | Op::IncrBy { .. } => true,
            Op::Get { .. }
            | Op::MGet { .. }
            | Op::Del { .. }
            | Op::Exists { .. }
            | Op::Strlen { .. }
            | Op::Ttl { .. }
            | Op::Expire(_)
            | Op::Persist { .. }
            | Op::Type { .. }
            | Op::FlushSlot
            | Op::CountKeys
            | Op::ListKeys { .. }
            | Op::GetDel { .. }
            | Op::NoRoom => false,
        }
    }

    /// Its keys, in the order of the request; none of an op on a whole slot.
    pub fn keys(&self) -> &[Bytes] {
        match self {
            Op::Token(token) => token.op.keys(),
            Op::Get { key }
            | Op::Set(Set { key, .. })
            | Op::Append { key, .. }
            | Op::IncrBy { key, .. }
            | Op::Strlen { key }
            | Op::Ttl { key, .. }
            | Op::Expire(Expire { key, .. })
            | Op::Persist { key }
            | Op::Type { key }
            | Op::GetDel { key } => std::slice::from_ref(key),
            Op::MGet { keys } | Op::Del { keys } | Op::Exists { keys } => keys,
            Op::FlushSlot | Op::CountKeys | Op::ListKeys { .. } | Op::NoRoom => &[],
        }
    }

    /// Bytes of keys and values in it: what bounds count.
    pub fn bytes(&self) -> usize {
        match self {
            Op::Token(token) => TOKEN_BYTES + token.op.bytes(),
            Op::Get { key }
            | Op::IncrBy { key, .. }
            | Op::Strlen { key }
            | Op::Ttl { key, .. }
            | Op::Expire(Expire { key, .. })
            | Op::Persist { key }
            | Op::Type { key }
            | Op::GetDel { key } => key.len(),
            Op::Set(Set { key, value, .. }) | Op::Append { key, value } => key.len() + value.len(),
            Op::MGet { keys } | Op::Del { keys } | Op::Exists { keys } => {
                keys.iter().map(|key| key.len() + 8).sum()
            }
            Op::FlushSlot | Op::CountKeys | Op::ListKeys { .. } | Op::NoRoom => 0,
        }
    }
}

/// What a token counts as besides its op.
const TOKEN_BYTES: usize = 32;
/// What an element of an answer counts as besides its bytes.
pub const ELEMENT_BYTES: usize = 16;

impl Outcome {
    /// Bytes of keys and values in it: what bounds count, and more than a frame needs for it.
    pub fn bytes(&self) -> usize {
        match self {
            Outcome::Ok
            | Outcome::Nil
            | Outcome::Integer(_)
            | Outcome::Word(_)
            | Outcome::Error(_) => ELEMENT_BYTES,
            Outcome::Value(value) => ELEMENT_BYTES + value.len(),
            Outcome::Values(values) => {
                values.iter().map(|v| ELEMENT_BYTES + v.as_ref().map_or(0, Bytes::len)).sum()
            }
            Outcome::Keys(keys) => keys.iter().map(|key| ELEMENT_BYTES + key.len()).sum(),
        }
    }

    /// The values and keys in it, in order.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &Bytes> {
        let (value, values, keys): (_, &[Option<Bytes>], &[Bytes]) = match self {
            Outcome::Ok
            | Outcome::Nil
            | Outcome::Integer(_)
            | Outcome::Word(_)
            | Outcome::Error(_) => (None, &[], &[]),
            Outcome::Value(value) => (Some(value), &[], &[]),
            Outcome::Values(values) => (None, values, &[]),
            Outcome::Keys(keys) => (None, &[], keys),
        };
        value.into_iter().chain(values.iter().flatten()).chain(keys)
    }
}

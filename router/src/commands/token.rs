//! Tokens: names that a client gives to a write, so that it can send it again after its connection broke, through
//! whatever router, and it is done once.

use super::{Arguments, Call, Client, ErrorText, Local, parse, take};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use shard_core::op::{Op, Token};
use shard_core::session::{SessionId, TOKEN_WINDOW_MS};
use std::ops::RangeInclusive;
use std::time::Duration;

/// Bytes of a producer's name, and of what it calls a write.
pub const NAME_BYTES_MAX: usize = 256;
/// For how long copies of a write with a token may come, in milliseconds: `idmp-window-ms`.
pub const WINDOW_MS: RangeInclusive<u32> = 1000..=24 * 60 * 60 * 1000;
/// Without that setting.
pub const WINDOW_MS_DEFAULT: u32 = 10 * 60 * 1000;
/// A slot remembers for so much longer what the command answered, besides the time that a copy may wait: what clocks
/// may differ by, [`shard_core::session::TOKEN_SPARE_MS`] among it.
const SLACK_MS: u32 = 55 * 1000;

/// Said of a token that is none.
pub const BAD_NAME: ErrorText =
    ErrorText::Borrowed("ERR IDMP producer and id have 1 to 256 bytes each, nothing was executed");
/// Said of a command that can have no token.
pub const NO_WRITE: ErrorText = ErrorText::Borrowed(
    "ERR IDMP goes with a command that writes to keys of one slot, nothing was executed",
);

/// Said of the command behind a CLIENT IDMP that was refused.
pub const REFUSED_BEFORE: ErrorText = ErrorText::Borrowed(
    "ERR the CLIENT IDMP before this command was refused, nothing was executed",
);

/// Said of a command whose token CLIENT IDMP brought, behind one that a cluster port has sent to another node.
pub const BEHIND_MOVED: ErrorText = ErrorText::Borrowed(
    "ERR a command before this one was sent on by MOVED, CLIENT IDMP cannot follow it: nothing was executed",
);

/// CLIENT IDMP: the next command of the connection has this token.
pub fn client_idmp(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let name = name_of(&take(arguments, 2), &take(arguments, 3))?;
    Ok(Call::Local(Local::Client(Client::Token(name))))
}

/// IDMP: the command behind it has this token.
pub fn idmp(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let mut command = arguments.split_off(3);
    let name = name_of(&arguments[1], &arguments[2])?;
    if is_idmp(&command) {
        return Err(NO_WRITE);
    }
    let hash = hash_of(&command);
    let (_, call) = parse(&mut command)?;
    named(call, name, hash)
}

/// Whether it is CLIENT IDMP, well-formed or not.
pub fn is_client_idmp(command: &[Bytes]) -> bool {
    let is =
        |at: usize, word: &[u8]| command.get(at).is_some_and(|it| it.eq_ignore_ascii_case(word));
    is(0, b"client") && is(1, b"idmp")
}

/// Whether the command brings a token of its own. It is not parsed behind another one: a command may have a million of
/// them in a row.
fn is_idmp(command: &[Bytes]) -> bool {
    command.first().is_some_and(|name| name.eq_ignore_ascii_case(b"idmp"))
}

/// With the window that is set here, in milliseconds. A copy that comes at its end may wait for as long as requests do.
pub fn set_window(op: &mut Op, window_ms: u32, request_timeout: Duration) {
    if let Op::Token(token) = op {
        let wait_ms = u32::try_from(request_timeout.as_millis()).unwrap_or(u32::MAX);
        let most = *TOKEN_WINDOW_MS.end();
        token.window_ms = window_ms.saturating_add(wait_ms).saturating_add(SLACK_MS).min(most);
    }
}

/// The command with a token; [`set_window`] says for how long.
///
/// # Errors
/// If it is none that can have one.
pub fn named(call: Call, name: SessionId, hash: u64) -> Result<Call, ErrorText> {
    match call {
        Call::Op { slot, op, shape } if op.is_write() && !matches!(op, Op::Token(_)) => {
            let window_ms = WINDOW_MS_DEFAULT;
            let token = Token { name, hash, window_ms, op };
            Ok(Call::Op { slot, op: Op::Token(Box::new(token)), shape })
        }
        _ => Err(NO_WRITE),
    }
}

/// The first 16 bytes of SHA-256 over the producer's length (4 bytes, little endian), the producer, and the id.
fn name_of(producer: &[u8], id: &[u8]) -> Result<SessionId, ErrorText> {
    let fits = |name: &[u8]| (1..=NAME_BYTES_MAX).contains(&name.len());
    if !fits(producer) || !fits(id) {
        return Err(BAD_NAME);
    }
    let length = u32::try_from(producer.len()).unwrap_or(u32::MAX);
    let hash =
        Sha256::new_with_prefix(length.to_le_bytes()).chain_update(producer).chain_update(id);
    let hash: [u8; 32] = hash.finalize().into();
    let mut first = [0; 16];
    first.copy_from_slice(&hash[..16]);
    Ok(SessionId::of_token(u128::from_le_bytes(first)))
}

/// The first 8 bytes of SHA-256 over each argument behind its length, the command's name in lower case; never 0.
pub fn hash_of(command: &[Bytes]) -> u64 {
    let mut hash = Sha256::new();
    for (at, argument) in command.iter().enumerate() {
        hash.update((argument.len() as u64).to_le_bytes());
        match at {
            0 => hash.update(argument.to_ascii_lowercase()),
            _ => hash.update(argument),
        }
    }
    let hash: [u8; 32] = hash.finalize().into();
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    u64::from_le_bytes(first).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Token, String> {
        let mut arguments: Arguments =
            words.iter().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
        match parse(&mut arguments) {
            Ok((_, Call::Op { op: Op::Token(token), .. })) => Ok(*token),
            Ok((_, call)) => panic!("{call:?}"),
            Err(error) => Err(error.into_owned()),
        }
    }

    #[test]
    fn a_token_is_told_by_producer_and_id_and_its_command_by_all_of_its_words() {
        let one = parsed(&["IDMP", "p", "1", "APPEND", "k", "v"]).unwrap();
        assert_eq!((one.window_ms, one.op.keys().len()), (600_000, 1));
        let same = parsed(&["idmp", "p", "1", "append", "k", "v"]).unwrap();
        assert_eq!(one, same);
        for other in [["pp", "1"], ["p", "2"], ["p1", "1"], ["", "p1"]] {
            match parsed(&["IDMP", other[0], other[1], "APPEND", "k", "v"]) {
                Ok(token) => assert_ne!(token.name, one.name, "{other:?}"),
                Err(error) => assert_eq!(error, BAD_NAME),
            }
        }
        let (left, right) =
            (parsed(&["IDMP", "a", "bc", "DEL", "k"]), parsed(&["IDMP", "ab", "c", "DEL", "k"]));
        assert_ne!(left.unwrap().name, right.unwrap().name, "one is not the other's end");
        for command in [&["APPEND", "k", "w"][..], &["APPEND", "kv", ""], &["SET", "k", "v"]] {
            let other = parsed(&[&["IDMP", "p", "1"], command].concat()).unwrap();
            assert_ne!(other.hash, one.hash, "{command:?}");
        }
    }

    #[test]
    fn what_cannot_have_a_token_is_refused() {
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for (words, error) in [
            (&["IDMP", "p", "1", "GET", "k"][..], &*NO_WRITE),
            (&["IDMP", "p", "1", "ECHO", "x"], &NO_WRITE),
            (&["IDMP", "p", "1", "DEL", "a", "b"], &NO_WRITE),
            (&["IDMP", "p", "1", "IDMP", "p", "1", "SET", "k", "v"], &NO_WRITE),
            (&["IDMP", "p", &long, "SET", "k", "v"], &BAD_NAME),
            (&["IDMP", &long, "1", "SET", "k", "v"], &BAD_NAME),
            (&["IDMP", "p", "1", "SET", "k"], "ERR wrong number of arguments for 'set' command"),
            (&["IDMP", "p", "1"], "ERR wrong number of arguments for 'idmp' command"),
        ] {
            assert_eq!(parsed(words), Err(error.to_owned()), "{words:?}");
        }
        assert!(parsed(&["IDMP", "p", "1", "DEL", "{a}1", "{a}2"]).is_ok(), "of one slot");
    }
}

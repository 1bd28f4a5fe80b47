//! Bytes from a client to argument lists: a bounded scanner that can stop after any byte.
//!
//! Every byte is looked at once, whatever pieces it arrives in: the scanner keeps how far it searched
//! for a line's end, and takes finished arguments out of the input. There is no nesting in a request,
//! hence no recursion. Memory grows with bytes received, never with what a header claims.
//!
//! Limits and error texts are those of Redis (networking.c `processMultibulkBuffer`,
//! `processInlineBuffer`); what is stricter here is a payload that is not followed by CRLF.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;
use shard_core::integer::parse_integer;

/// The longest line: an inline command, or a header with its count (Redis PROTO_INLINE_MAX_SIZE).
pub const LINE_BYTES_MAX: usize = 64 * 1024;
/// The most arguments of one command.
pub const ARGUMENTS_MAX: i64 = 1024 * 1024;
/// The longest argument, and the longest value (`proto-max-bulk-len`).
pub const BULK_BYTES_MAX: i64 = 64 * 1024 * 1024;
/// The most bytes of one command by default (Redis `client-query-buffer-limit`).
pub const QUERY_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// An argument list that grew past this gives its memory back after use.
const ARGUMENTS_KEPT_MAX: usize = 1024;
/// Arguments for which room is made on a header's claim alone.
const ARGUMENTS_CLAIMED_MAX: usize = 64;

/// Why a connection cannot go on. The text is what Redis says, without the `-ERR ` before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The count after `*` is not a number in range.
    #[error("Protocol error: invalid multibulk length")]
    InvalidMultibulkLength,
    /// The length after `$` is not a number in range.
    #[error("Protocol error: invalid bulk length")]
    InvalidBulkLength,
    /// An argument begins with something else than `$`.
    #[error("Protocol error: expected '$', got '{0}'")]
    ExpectedDollar(char),
    /// An inline command without end.
    #[error("Protocol error: too big inline request")]
    InlineTooBig,
    /// A `*` line without end.
    #[error("Protocol error: too big mbulk count string")]
    MultibulkCountTooBig,
    /// A `$` line without end.
    #[error("Protocol error: too big bulk count string")]
    BulkCountTooBig,
    /// A quote of an inline command is not closed, or is followed by text.
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
    /// A line or a payload does not end in CRLF.
    #[error("Protocol error: invalid CRLF in request")]
    InvalidCrlf,
    /// A command of more bytes than the scanner's bound: closed without a reply.
    #[error("a command of more bytes than the query buffer may hold")]
    QueryTooBig,
    /// A browser or another HTTP client, perhaps tricked into talking to us (cross-protocol
    /// scripting): closed without a reply.
    #[error("an HTTP request on the RESP port")]
    Http,
}

impl ProtocolError {
    /// Whether the client is told.
    pub fn is_silent(&self) -> bool {
        matches!(self, ProtocolError::QueryTooBig | ProtocolError::Http)
    }
}

#[derive(Debug)]
enum State {
    /// The next byte begins a request.
    Start,
    /// The line that begins a request and is not a `*` line; so much of it has no LF.
    Inline { searched: usize },
    /// A `*` line; so much of it has no CR.
    Count { searched: usize },
    /// A `$` line, and so many arguments still to come.
    Length { remaining: i64, searched: usize },
    /// A payload of which so many bytes are missing, CRLF not counted.
    Payload { remaining: i64, missing: usize },
    /// Nothing more is read: the error was given.
    Failed(ProtocolError),
}

/// The scanner of one connection.
#[derive(Debug)]
pub struct Scanner {
    state: State,
    arguments: Vec<Bytes>,
    /// Bytes of `arguments` and `payload`.
    held: usize,
    /// The part that has come of a payload that did not come whole.
    payload: BytesMut,
    /// The last call gave `arguments` away: they are not part of the next command.
    given: bool,
    /// The most bytes of one command.
    query_bytes_max: usize,
}

impl Default for Scanner {
    fn default() -> Scanner {
        Scanner::new()
    }
}

impl Scanner {
    /// A scanner at the beginning of a request, with [`QUERY_BYTES_MAX`].
    pub fn new() -> Scanner {
        Scanner::with_query_bytes_max(QUERY_BYTES_MAX)
    }

    /// A scanner at the beginning of a request, for commands of at most so many bytes.
    pub fn with_query_bytes_max(query_bytes_max: usize) -> Scanner {
        Scanner {
            query_bytes_max,
            state: State::Start,
            arguments: Vec::new(),
            held: 0,
            payload: BytesMut::new(),
            given: false,
        }
    }

    /// Bytes held of a command that is not whole yet, without what is left in `input`.
    pub fn held_bytes(&self) -> usize {
        if self.given { 0 } else { self.held }
    }

    /// Takes bytes off the front of `input` up to the end of the next command and returns its
    /// arguments, at least one. `None`: all of it was looked at and more is needed; what is left in
    /// `input` must stay there. Arguments are copies: none keeps `input`'s memory. After an error
    /// every call returns it again.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<&mut Vec<Bytes>>, ProtocolError> {
        if self.given {
            self.forget_arguments();
        }
        match self.scan(input) {
            Ok(whole) => {
                self.given = whole;
                Ok(whole.then_some(&mut self.arguments))
            }
            Err(error) => {
                self.forget_arguments();
                self.state = State::Failed(error.clone());
                Err(error)
            }
        }
    }

    fn forget_arguments(&mut self) {
        self.given = false;
        self.held = 0;
        self.payload = BytesMut::new();
        self.arguments.clear();
        if self.arguments.capacity() > ARGUMENTS_KEPT_MAX {
            self.arguments = Vec::new();
        }
    }

    fn scan(&mut self, input: &mut BytesMut) -> Result<bool, ProtocolError> {
        loop {
            let whole = match &self.state {
                State::Failed(error) => return Err(error.clone()),
                State::Start => match input.first() {
                    None => return Ok(false),
                    Some(b'*') => {
                        self.state = State::Count { searched: 0 };
                        Some(false)
                    }
                    Some(_) => {
                        self.state = State::Inline { searched: 0 };
                        Some(false)
                    }
                },
                State::Inline { searched } => self.inline(input, *searched)?,
                State::Count { searched } => self.count(input, *searched)?,
                State::Length { remaining, searched } => {
                    self.length(input, *remaining, *searched)?
                }
                State::Payload { remaining, missing } => {
                    self.payload(input, *remaining, *missing)?
                }
            };
            match whole {
                None => return Ok(false),
                Some(true) => return Ok(true),
                Some(false) => {}
            }
        }
    }

    /// Each step: `None` more bytes are needed, `Some(true)` a command is whole.
    fn inline(
        &mut self,
        input: &mut BytesMut,
        searched: usize,
    ) -> Result<Option<bool>, ProtocolError> {
        let Some(end) = find(input, b'\n', searched, ProtocolError::InlineTooBig)? else {
            self.state = State::Inline { searched: input.len() };
            return Ok(None);
        };
        let line = &input[..end];
        split_inline(line.strip_suffix(b"\r").unwrap_or(line), &mut self.arguments)?;
        input.advance(end + 1);
        self.state = State::Start;
        if is_http(&self.arguments) {
            return Err(ProtocolError::Http);
        }
        Ok(Some(!self.arguments.is_empty()))
    }

    fn count(
        &mut self,
        input: &mut BytesMut,
        searched: usize,
    ) -> Result<Option<bool>, ProtocolError> {
        let Some(end) = find_line(input, searched, ProtocolError::MultibulkCountTooBig)? else {
            self.state = State::Count { searched: searched_to(input) };
            return Ok(None);
        };
        let count = parse_integer(&input[1..end])
            .filter(|count| *count <= ARGUMENTS_MAX)
            .ok_or(ProtocolError::InvalidMultibulkLength)?;
        input.advance(end + 2);
        if count <= 0 {
            self.state = State::Start;
            return Ok(Some(false));
        }
        self.arguments.reserve((count as usize).min(ARGUMENTS_CLAIMED_MAX));
        self.state = State::Length { remaining: count, searched: 0 };
        Ok(Some(false))
    }

    fn length(
        &mut self,
        input: &mut BytesMut,
        remaining: i64,
        searched: usize,
    ) -> Result<Option<bool>, ProtocolError> {
        match input.first() {
            None => return Ok(None),
            Some(b'$') => {}
            Some(other) => return Err(ProtocolError::ExpectedDollar(printable(*other))),
        }
        let Some(end) = find_line(input, searched, ProtocolError::BulkCountTooBig)? else {
            self.state = State::Length { remaining, searched: searched_to(input) };
            return Ok(None);
        };
        let length = parse_integer(&input[1..end])
            .filter(|length| (0..=BULK_BYTES_MAX).contains(length))
            .ok_or(ProtocolError::InvalidBulkLength)? as usize;
        if self.held + length > self.query_bytes_max {
            return Err(ProtocolError::QueryTooBig);
        }
        input.advance(end + 2);
        self.state = State::Payload { remaining, missing: length };
        Ok(Some(false))
    }

    fn payload(
        &mut self,
        input: &mut BytesMut,
        remaining: i64,
        missing: usize,
    ) -> Result<Option<bool>, ProtocolError> {
        if input.len() < missing {
            // A long payload moves over piece by piece, so that the input never holds all of it. Its
            // own buffer grows by doubling with what has come.
            self.held += input.len();
            self.payload.extend_from_slice(input);
            self.state = State::Payload { remaining, missing: missing - input.len() };
            input.clear();
            return Ok(None);
        }
        // An LF is waited for only behind a CR: a byte that is wrong already is told at once.
        match (input.get(missing), input.get(missing + 1)) {
            (Some(b'\r'), Some(b'\n')) => {}
            (None, _) | (Some(b'\r'), None) => return Ok(None),
            _ => return Err(ProtocolError::InvalidCrlf),
        }
        self.held += missing;
        let argument = if self.payload.is_empty() {
            Bytes::copy_from_slice(&input[..missing])
        } else {
            self.payload.extend_from_slice(&input[..missing]);
            std::mem::take(&mut self.payload).freeze()
        };
        input.advance(missing + 2);
        self.arguments.push(argument);
        let remaining = remaining - 1;
        if remaining == 0 {
            self.state = State::Start;
            return Ok(Some(true));
        }
        self.state = State::Length { remaining, searched: 0 };
        Ok(Some(false))
    }
}

/// Where `byte` is within the longest line, if it has come; bytes before `searched` are known not to
/// be it.
fn find(
    input: &[u8],
    byte: u8,
    searched: usize,
    too_big: ProtocolError,
) -> Result<Option<usize>, ProtocolError> {
    // The end of an inline command may have two bytes, and is no part of it.
    let ends = byte == b'\n' && input.get(LINE_BYTES_MAX) == Some(&b'\r');
    let longest = LINE_BYTES_MAX + 1 + usize::from(ends);
    let window = &input[..input.len().min(longest)];
    match memchr(byte, &window[searched.min(window.len())..]) {
        Some(at) => Ok(Some(searched + at)),
        None if input.len() >= longest => Err(too_big),
        None => Ok(None),
    }
}

/// Where the CR of the line's CRLF is, if both have come.
fn find_line(
    input: &[u8],
    searched: usize,
    too_big: ProtocolError,
) -> Result<Option<usize>, ProtocolError> {
    let Some(end) = find(input, b'\r', searched, too_big)? else { return Ok(None) };
    match input.get(end + 1) {
        None => Ok(None),
        Some(b'\n') => Ok(Some(end)),
        Some(_) => Err(ProtocolError::InvalidCrlf),
    }
}

/// How far a line was searched when its end has not come: a CR at the very end is looked at again.
fn searched_to(input: &[u8]) -> usize {
    input.len() - usize::from(input.last() == Some(&b'\r'))
}

/// The byte for `got '...'`: a reply is one line of text.
fn printable(byte: u8) -> char {
    match byte {
        b'\r' | b'\n' | 0 => ' ',
        byte => char::from(byte),
    }
}

const HTTP_METHODS: [&[u8]; 8] =
    [b"GET", b"HEAD", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH"];

/// HTTP as the first line of a request: `POST ...`, `Host: ...` (as Redis guards against), or any
/// method with `HTTP/` behind the path. No such line is a command that could succeed.
fn is_http(arguments: &[Bytes]) -> bool {
    let Some(name) = arguments.first() else { return false };
    name.eq_ignore_ascii_case(b"post")
        || name.eq_ignore_ascii_case(b"host:")
        || (arguments.len() == 3
            && arguments[2].starts_with(b"HTTP/")
            && HTTP_METHODS.contains(&name.as_ref()))
}

/// Splits an inline command as Redis' `sdssplitargs`: blanks separate, `"..."` knows escapes, `'...'`
/// knows `\'` only, a closing quote must be followed by a blank. Unlike there, a NUL is a byte like
/// any other.
fn split_inline(line: &[u8], arguments: &mut Vec<Bytes>) -> Result<(), ProtocolError> {
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        // Vertical tab is a blank for C and not for Rust.
        while let [0x0b, tail @ ..] = rest {
            rest = tail.trim_ascii_start();
        }
        if rest.is_empty() {
            return Ok(());
        }
        let mut word = Vec::new();
        rest = split_word(rest, &mut word)?;
        arguments.push(Bytes::from(word));
    }
}

fn is_blank(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

fn split_word<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        match rest {
            [] | [b' ' | b'\t' | b'\r' | b'\n', ..] => return Ok(rest),
            [b'"', tail @ ..] => return after_quote(split_quoted(tail, word)?),
            [b'\'', tail @ ..] => return after_quote(split_single_quoted(tail, word)?),
            [byte, tail @ ..] => {
                word.push(*byte);
                rest = tail;
            }
        }
    }
}

fn after_quote(rest: &[u8]) -> Result<&[u8], ProtocolError> {
    match rest.first() {
        Some(byte) if !is_blank(*byte) => Err(ProtocolError::UnbalancedQuotes),
        _ => Ok(rest),
    }
}

fn split_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        match rest {
            [] => return Err(ProtocolError::UnbalancedQuotes),
            [b'\\', b'x', high, low, tail @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                word.push(hex_digit(*high) << 4 | hex_digit(*low));
                rest = tail;
            }
            [b'\\', escaped, tail @ ..] => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                });
                rest = tail;
            }
            [b'"', tail @ ..] => return Ok(tail),
            [byte, tail @ ..] => {
                word.push(*byte);
                rest = tail;
            }
        }
    }
}

fn split_single_quoted<'a>(
    mut rest: &'a [u8],
    word: &mut Vec<u8>,
) -> Result<&'a [u8], ProtocolError> {
    loop {
        match rest {
            [] => return Err(ProtocolError::UnbalancedQuotes),
            [b'\\', b'\'', tail @ ..] => {
                word.push(b'\'');
                rest = tail;
            }
            [b'\'', tail @ ..] => return Ok(tail),
            [byte, tail @ ..] => {
                word.push(*byte);
                rest = tail;
            }
        }
    }
}

fn hex_digit(digit: u8) -> u8 {
    char::from(digit).to_digit(16).map_or(0, |value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that comes out of bytes that come in these pieces.
    fn scan<'a>(
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> (Vec<Vec<Bytes>>, Option<ProtocolError>) {
        let (mut scanner, mut input) = (Scanner::new(), BytesMut::new());
        let mut commands = Vec::new();
        for piece in pieces {
            input.extend_from_slice(piece);
            loop {
                match scanner.next(&mut input) {
                    Ok(Some(arguments)) => commands.push(arguments.clone()),
                    Ok(None) => break,
                    Err(error) => return (commands, Some(error)),
                }
            }
        }
        (commands, None)
    }

    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % bound as u64) as usize
        }

        fn pieces<'a>(&mut self, mut bytes: &'a [u8]) -> Vec<&'a [u8]> {
            let mut pieces = Vec::new();
            while !bytes.is_empty() {
                let length = 1 + self.below(bytes.len().min(40));
                pieces.push(&bytes[..length]);
                bytes = &bytes[length..];
            }
            pieces
        }
    }

    /// Parts of requests, right and wrong ones: any order of them is a test.
    const PARTS: &[&[u8]] = &[
        b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
        b"*1\r\n$0\r\n\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$26\r\nabcdefghijklmnopqrstuvwxy\r\r\n",
        b"*0\r\n",
        b"\r\n",
        b"PING\r\n",
        b"ECHO \"a\\x00\\n\" 'b\\'c'\n",
        b"SET k 'v\r\n",
        b"*x\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n:1\r\n",
        b"*1\r\n$1\r\nkk\r\n",
        b"*1\r$1",
        b"GET / HTTP/1.1\r\n",
        b"\r",
        b"$",
        b"\0\xff",
    ];

    #[test]
    fn b19_any_pieces_give_the_same_commands() {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let (mut whole, mut wrong) = (0, 0);
        for round in 0..4_000 {
            // Mostly right parts, so that wrong ones are met in all places.
            let choices = if round % 4 == 0 { PARTS.len() } else { 7 };
            let input: Vec<u8> =
                (0..random.below(12)).flat_map(|_| PARTS[random.below(choices)]).copied().collect();
            let expected = scan([input.as_slice()]);
            whole += expected.0.len();
            wrong += usize::from(expected.1.is_some());
            assert_eq!(scan(random.pieces(&input)), expected, "{}", input.escape_ascii());
            assert_eq!(scan(input.chunks(1)), expected, "{}", input.escape_ascii());
        }
        assert!(whole > 1_000 && wrong > 100, "{whole} commands, {wrong} errors");
    }

    #[test]
    fn b22_random_bytes_never_panic() {
        let mut random = Random(7);
        let likely = b"*$:0123456789\r\n\"'\\x abc";
        let mut errors = 0;
        for _ in 0..20_000 {
            let byte = |random: &mut Random| match random.below(3) {
                0 => random.below(256) as u8,
                _ => likely[random.below(likely.len())],
            };
            let input: Vec<u8> = (0..random.below(60)).map(|_| byte(&mut random)).collect();
            let expected = scan([input.as_slice()]);
            errors += usize::from(expected.1.is_some());
            assert_eq!(scan(random.pieces(&input)), expected, "{}", input.escape_ascii());
        }
        assert!(errors > 1_000, "{errors} errors");
    }

    #[test]
    fn b13_lines_end_at_their_bound_in_any_pieces() {
        let line = |length: usize, end: &str| [vec![b'x'; length], end.into()].concat();
        for (input, error) in [
            (line(LINE_BYTES_MAX, "\n"), None),
            (line(LINE_BYTES_MAX, "\r\n"), None),
            (line(LINE_BYTES_MAX, "\r"), None),
            (line(LINE_BYTES_MAX, "\rx\n"), Some(ProtocolError::InlineTooBig)),
            (line(LINE_BYTES_MAX + 1, "\r\n"), Some(ProtocolError::InlineTooBig)),
            (line(LINE_BYTES_MAX + 1, "\n"), Some(ProtocolError::InlineTooBig)),
            (line(LINE_BYTES_MAX + 1, ""), Some(ProtocolError::InlineTooBig)),
            (line(LINE_BYTES_MAX, ""), None),
        ] {
            for size in [1, 1_400, input.len()] {
                assert_eq!(scan(input.chunks(size)).1, error, "{} bytes by {size}", input.len());
            }
        }
    }

    #[test]
    fn b12_a_claim_takes_no_memory() {
        let mut scanner = Scanner::new();
        let mut input = BytesMut::from(&b"*1048576\r\n$67108864\r\nabc"[..]);
        assert_eq!(scanner.next(&mut input), Ok(None));
        assert!(scanner.arguments.capacity() <= ARGUMENTS_CLAIMED_MAX);
        assert!(scanner.payload.capacity() < 1024);
        assert_eq!(scanner.held_bytes(), 3);
    }

    #[test]
    fn a_small_argument_does_not_hold_the_input() {
        let mut input = BytesMut::with_capacity(1 << 20);
        input.extend_from_slice(b"*1\r\n$4\r\nPING\r\n");
        let start = input.as_ptr();
        let mut scanner = Scanner::new();
        let arguments = scanner.next(&mut input).unwrap().unwrap().clone();
        // With another owner of its memory the input could not be used anew from its start.
        assert!(input.try_reclaim(1 << 20));
        assert_eq!(input.as_ptr(), start);
        assert_eq!(arguments, ["PING"]);
    }
}

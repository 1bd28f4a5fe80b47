//! Golden scripts for the client's side of the front end: bytes to commands, commands to replies.
//!
//! A script writes a byte as `\xNN`, whatever it is; in output other bytes than printable ASCII are
//! escaped, and a run of many equal ones is `<x * 70000>`.

use bytes::{Bytes, BytesMut};
use goldenscript::{ArgumentConsumer, Block, Command, Context, Runner};
use router::backend::Answered;
use router::commands::server::table;
use router::commands::{self, Arguments, COMMANDS, Call, CommandSpec, Local, Split};
use router::redirect::Port;
use router::reply::{Protocol, Reply, put_answer};
use router::resp::{ProtocolError, Scanner};
use shard_core::GroupId;
use shard_core::cluster_config::ConfigNum;
use shard_core::codec::{EntryBatch, EntryItem};
use shard_core::op::{Op, Outcome};
use shard_core::session::{LogTime, SESSION_LIFE_MS, Seq, SessionId};
use shard_core::shard_store::ShardStore;
use shard_core::slot::{SLOTS, Slot};
use shard_core::wire::{Answer, LaneRequest};
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Equal bytes of which output shows one and their number.
const RUN_BYTES_MIN: usize = 40;

/// Runs the scripts of `golden/resp/scanner`. Each block is a connection; `feed` is what comes next:
/// its strings, `times=` so often, between `head=` and `tail=`, in pieces of `by=` bytes. The output
/// is the commands found, and how the scanner stands.
#[derive(Default)]
pub struct ScannerScript {
    scanner: Scanner,
    input: BytesMut,
}

impl Runner for ScannerScript {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String> {
        if command.name != "feed" {
            return Err(format!("no command {}", command.name).into());
        }
        let mut args = command.consume_args();
        let times = args.take_key("times").map(str::parse::<usize>).transpose()?.unwrap_or(1);
        let by = args.take_key("by").map(str::parse::<usize>).transpose()?;
        let head = latin1(args.take_key("head").unwrap_or_default())?;
        let tail = latin1(args.take_key("tail").unwrap_or_default())?;
        let body = strings(&mut args)?.repeat(times);
        args.reject_next()?;
        let bytes = [head, body, tail].concat();

        let mut lines = Lines::default();
        for piece in bytes.chunks(by.unwrap_or(bytes.len()).max(1)) {
            self.input.extend_from_slice(piece);
            if let Err(error) = self.scan(&mut lines) {
                let how = if error.is_silent() { " (no reply)" } else { "" };
                lines.push(format!("error: {error}{how}"));
                return Ok(lines.text());
            }
        }
        match self.input.len() + self.scanner.held_bytes() {
            0 => {}
            held => lines.push(format!("needs more, holds {held}")),
        }
        Ok(lines.text())
    }

    fn start_block(&mut self, _: &Block) -> Result<String> {
        *self = ScannerScript::default();
        Ok(String::new())
    }
}

impl ScannerScript {
    fn scan(&mut self, lines: &mut Lines) -> std::result::Result<(), ProtocolError> {
        while let Some(arguments) = self.scanner.next(&mut self.input)? {
            let shown: Vec<String> =
                arguments.iter().map(|argument| format!("[{}]", show(argument))).collect();
            lines.push(match shown.len() {
                0..=20 => shown.concat(),
                count => format!("{}... {count} arguments", shown[..3].concat()),
            });
        }
        Ok(())
    }
}

/// Lines of output; equal ones that follow each other are one with their number.
#[derive(Default)]
struct Lines(Vec<(String, usize)>);

impl Lines {
    fn push(&mut self, line: String) {
        match self.0.last_mut() {
            Some((last, count)) if *last == line => *count += 1,
            _ => self.0.push((line, 1)),
        }
    }

    fn text(self) -> String {
        let line = |(line, count): (String, usize)| match count {
            1 => format!("{line}\n"),
            count => format!("{line} ({count} times)\n"),
        };
        self.0.into_iter().map(line).collect()
    }
}

/// Runs the scripts of `golden/resp/refusals`. A line behind `>` is an inline command; its reply is
/// what goes out in RESP2, and below it in RESP3 if that differs. Ops are executed by a store that
/// owns every slot, each block by a new one. What needs the front end's state is shown as what the
/// front end is asked to do. `long N "line"` puts N times `x` in the place of each `@`; `arity` asks
/// every command with wrong numbers of arguments.
pub struct RefusalScript {
    store: ShardStore,
    seqs: BTreeMap<Slot, u64>,
}

/// The one time of these scripts.
const NOW: LogTime = LogTime(1_000);

impl Default for RefusalScript {
    fn default() -> RefusalScript {
        let mut store = ShardStore::new(GroupId(1));
        let ranges = vec![(Slot(0), Slot(SLOTS - 1))];
        let assign = EntryItem::Assign { config: ConfigNum(1), ranges };
        store.apply(EntryBatch::new(NOW, vec![assign]));
        RefusalScript { store, seqs: BTreeMap::new() }
    }
}

impl Runner for RefusalScript {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String> {
        let mut args = command.consume_args();
        let output = match (command.name.as_str(), command.args.len()) {
            ("arity", 0) => show_arities(),
            ("long", 2) => {
                let count = args.next_pos().unwrap_or_default().parse()?;
                let line = args.next_pos().unwrap_or_default();
                let mut arguments = parse_line(line)?;
                for argument in &mut arguments {
                    let text = String::from_utf8_lossy(argument);
                    *argument = text.replace('@', &"x".repeat(count)).into();
                }
                self.line(line, arguments)?
            }
            (line, 0) => self.line(line, parse_line(line)?)?,
            _ => return Err(format!("no command {}", command.name).into()),
        };
        args.reject_next()?;
        Ok(output)
    }

    fn start_block(&mut self, _: &Block) -> Result<String> {
        *self = RefusalScript::default();
        Ok(String::new())
    }
}

impl RefusalScript {
    fn line(&mut self, text: &str, arguments: Arguments) -> Result<String> {
        let (resp2, resp3) = self.reply(arguments);
        let mut output = format!("{text} -> {resp2}\n");
        if resp3 != resp2 {
            writeln!(output, "    RESP3 -> {resp3}")?;
        }
        Ok(output)
    }

    /// What goes out in RESP2 and in RESP3.
    fn reply(&mut self, mut arguments: Arguments) -> (String, String) {
        match commands::parse(&mut arguments) {
            Err(text) => encode(|protocol, out| Reply::Error(text.clone()).encode(protocol, out)),
            Ok((_, Call::Local(Local::Reply(reply)))) => {
                encode(|protocol, out| reply.encode(protocol, out))
            }
            Ok((_, Call::Local(Local::Commands(names)))) => {
                let reply = table(names.as_deref(), Port::Plain);
                encode(|protocol, out| reply.encode(protocol, out))
            }
            Ok((_, Call::Op { slot, op, shape } | Call::Marked { slot, op, shape })) => {
                let answer = Answered::Outcome(self.execute(slot, op));
                encode(|protocol, out| put_answer(out, protocol, shape, &answer))
            }
            Ok((_, Call::Split(Split { parts, join }))) => {
                let parts: Vec<String> =
                    parts.iter().map(|(slot, op, _)| format!("slot {slot} {op:?}")).collect();
                both(format!("does {join:?} of {}", parts.join(", ")))
            }
            Ok((_, Call::Info(names))) => both(format!("does Info({names:?})")),
            Ok((_, Call::Local(call))) => both(format!("does {call:?}")),
            Ok((_, Call::Barrier(call))) => both(format!("does {call:?}")),
        }
    }

    fn execute(&mut self, slot: Slot, op: Op) -> Outcome {
        let seq = self.seqs.entry(slot).or_insert(0);
        *seq += 1;
        let lane = LaneRequest {
            session: SessionId(1),
            deadline: LogTime(NOW.0 + SESSION_LIFE_MS),
            slot,
            seq: Seq(*seq),
            acked: Seq(*seq - 1),
            op,
        };
        let batch = EntryBatch::new(NOW, vec![EntryItem::Lane(lane)]);
        match self.store.apply(batch).pop() {
            Some(Answer::Done { outcome, .. }) => outcome,
            answer => panic!("{answer:?} is no outcome"),
        }
    }
}

fn both(text: String) -> (String, String) {
    (text.clone(), text)
}

fn encode(put: impl Fn(Protocol, &mut BytesMut)) -> (String, String) {
    let text = |protocol| {
        let mut out = BytesMut::new();
        put(protocol, &mut out);
        show(&out)
    };
    (text(Protocol::Resp2), text(Protocol::Resp3))
}

/// The arguments of an inline command, as the scanner takes them.
fn parse_line(line: &str) -> Result<Arguments> {
    let mut input = BytesMut::from(&latin1(line)?[..]);
    input.extend_from_slice(b"\r\n");
    match Scanner::new().next(&mut input)? {
        Some(arguments) => Ok(std::mem::take(arguments)),
        None => Err(format!("no command: {line}").into()),
    }
}

/// One line per command and subcommand: its arity, the numbers of arguments tried, the refusal.
fn show_arities() -> String {
    let rows = COMMANDS.iter().flat_map(|spec| std::iter::once(spec).chain(spec.subcommands));
    rows.map(|spec| format!("{} {} {}\n", spec.name, spec.arity, show_wrong_arity(spec))).collect()
}

fn show_wrong_arity(spec: &CommandSpec) -> String {
    let words: Vec<Bytes> = spec.name.split('|').map(|word| Bytes::from(word.to_owned())).collect();
    let end = spec.arity.unsigned_abs() as usize + 2;
    // Of a container's first argument its subcommands speak.
    let is_container = !spec.subcommands.is_empty();
    let counts: Vec<usize> = (words.len()..end)
        .filter(|count| !spec.takes(*count) && (!is_container || *count == 1))
        .collect();
    let refusals: Vec<String> = counts
        .iter()
        .map(|count| {
            let mut arguments = words.clone();
            arguments.resize(*count, Bytes::from_static(b"x"));
            match commands::parse(&mut arguments) {
                Err(text) => text.into_owned(),
                Ok((_, call)) => format!("does {call:?}"),
            }
        })
        .collect();
    match refusals.first() {
        None => "takes any number".to_owned(),
        Some(refusal) => {
            assert!(refusals.iter().all(|other| other == refusal), "{refusals:?}");
            format!("{counts:?} -> {refusal}")
        }
    }
}

fn strings(args: &mut ArgumentConsumer) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(text) = args.next_pos() {
        bytes.extend(latin1(text)?);
    }
    Ok(bytes)
}

/// The bytes that a script means: its characters up to U+00FF are bytes.
fn latin1(text: &str) -> Result<Vec<u8>> {
    let byte = |char| u8::try_from(u32::from(char)).map_err(|_| format!("{char:?} is no byte"));
    Ok(text.chars().map(byte).collect::<std::result::Result<_, _>>()?)
}

/// Bytes as a line of text.
fn show(bytes: &[u8]) -> String {
    let mut text = String::new();
    for run in bytes.chunk_by(|a, b| a == b) {
        let shown = match run[0] {
            b'"' | b'\'' => char::from(run[0]).to_string(),
            byte => byte.escape_ascii().to_string(),
        };
        match run.len() {
            RUN_BYTES_MIN.. => text.push_str(&format!("<{shown} * {}>", run.len())),
            len => text.push_str(&shown.repeat(len)),
        }
    }
    text
}

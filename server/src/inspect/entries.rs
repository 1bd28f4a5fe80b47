//! `--entries`: which are asked for, and how each looks.

use super::InspectError;
use super::print::{count, members};
use raft_core::conf::Conf;
use raft_core::types::{Entry, EntryKind, Index};
use shard_core::GroupId;
use shard_core::codec::{EntryBatch, EntryItem, decode_batch};
use shard_core::migration::{Chunk, MoveStep, PartOf};
use shard_core::moves::Move;
use shard_core::op::{ExpireAt, Op, Set, SetExpiry};
use std::io::{self, Write};

/// Bytes of a key, and of a value that is to be shown, that are shown.
const KEY_SHOWN_MAX: usize = 256;
const VALUE_SHOWN_MAX: usize = 4096;
/// Keys of one command that are shown.
const KEYS_SHOWN_MAX: usize = 64;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The group.
    pub group: GroupId,
    /// The first index.
    pub from: Index,
    /// The last one.
    pub to: Index,
    /// Values are shown too.
    pub values: bool,
}

impl Range {
    /// Reads the two words behind `--entries`, if there are any.
    ///
    /// # Errors
    /// If they are no group and no range.
    pub fn of(words: Option<&[String]>, values: bool) -> Result<Option<Range>, InspectError> {
        let Some(words) = words else { return Ok(None) };
        let [group, range] = words else {
            return Err(wrong("a group and a range are needed, as in --entries 1 7..9".to_owned()));
        };
        let id = group.parse().map_err(|_| wrong(format!("{group:?} is not a group's number")))?;
        let number = |text: &str, default| match text {
            "" => Ok(default),
            text => text.parse().map_err(|_| {
                wrong(format!("{range:?} is no range of indexes; 7..9, 7.., ..9 or 7 is"))
            }),
        };
        let (from, to) = match range.split_once("..") {
            Some((from, to)) => (number(from, 1)?, number(to, u64::MAX)?),
            None if range.is_empty() => (number("?", 0)?, 0),
            None => (number(range, 0)?, number(range, 0)?),
        };
        if from == 0 || to < from {
            return Err(wrong(format!("{range:?} has no index; they count from 1")));
        }
        Ok(Some(Range { group: GroupId(id), from: Index(from), to: Index(to), values }))
    }

    /// That there are none.
    pub(super) fn nothing(&self) -> String {
        let to = if self.to == Index(u64::MAX) { String::new() } else { self.to.to_string() };
        format!("the log has no entry of group {} from {}..{to}", self.group, self.from)
    }

    /// Prints an entry: a line, and one for each thing in it.
    pub(super) fn print(&self, out: &mut dyn Write, entry: &Entry) -> io::Result<()> {
        let payload = entry.payload();
        let size = payload.len();
        match entry.kind {
            EntryKind::Empty => writeln!(out, "{} empty", entry.id),
            EntryKind::Conf => match Conf::decode(&payload) {
                Some(conf) => {
                    writeln!(out, "{} members: {}", entry.id, members(entry.id.index, &conf))
                }
                None => writeln!(out, "{} members that cannot be read, {size} bytes", entry.id),
            },
            EntryKind::Command => match decode_batch(&payload) {
                Err(error) => {
                    writeln!(
                        out,
                        "{} command that cannot be read ({error}), {size} bytes",
                        entry.id
                    )
                }
                Ok(EntryBatch { stamp, items, full }) => {
                    let of = count(items.len() as u64, "item", "items");
                    let full = if full { ", memory full" } else { "" };
                    let (id, time) = (entry.id, stamp.0);
                    writeln!(out, "{id} command of {size} bytes, {of}, time {time}{full}")?;
                    items.iter().try_for_each(|item| self.item(out, item))
                }
            },
        }
    }

    fn item(&self, out: &mut dyn Write, item: &EntryItem) -> io::Result<()> {
        match item {
            EntryItem::Lane(request) => {
                let (slot, session, seq) = (request.slot.0, request.session.0, request.seq.0);
                let op = self.op(&request.op);
                writeln!(out, "  {op}  (slot {slot}, session {session:032x}, number {seq})")
            }
            EntryItem::Group(query) => writeln!(out, "  {query:?}"),
            EntryItem::Assign { config, ranges } => {
                let slots: u64 =
                    ranges.iter().map(|(a, b)| u64::from(b.0.saturating_sub(a.0)) + 1).sum();
                writeln!(out, "  Assign {slots} slots by configuration {config}")
            }
            EntryItem::Bootstrap(config) => writeln!(
                out,
                "  Bootstrap configuration {} of {} nodes and {} groups",
                config.num,
                config.nodes.len(),
                config.groups.len()
            ),
            EntryItem::Move(step) => writeln!(out, "  {}", move_step(step)),
            EntryItem::Master(request) => match request.id {
                Some(id) => writeln!(out, "  {:?}  (request {:032x})", request.op, id.0),
                None => writeln!(out, "  {:?}", request.op),
            },
        }
    }

    fn op(&self, op: &Op) -> String {
        let value = |value: &[u8]| match self.values {
            true => quoted(value, VALUE_SHOWN_MAX),
            false => format!("({} bytes)", value.len()),
        };
        match op {
            Op::Get { key } => format!("Get {}", one(key)),
            Op::Set(set) => format!("Set {} {}{}", one(&set.key), value(&set.value), options(set)),
            Op::Append { key, value: more } => format!("Append {} {}", one(key), value(more)),
            Op::IncrBy { key, by } => format!("IncrBy {} {by}", one(key)),
            Op::MGet { keys } => format!("MGet {}", several(keys)),
            Op::Del { keys } => format!("Del {}", several(keys)),
            Op::Exists { keys } => format!("Exists {}", several(keys)),
            Op::Strlen { key } => format!("Strlen {}", one(key)),
            Op::Ttl { key, unit } => format!("Ttl {} {unit:?}", one(key)),
            Op::Expire(expire) => {
                let when = match expire.at {
                    ExpireAt::AfterMs(ms) => format!("in {ms} ms"),
                    ExpireAt::AtMs(ms) => format!("at {ms}"),
                };
                let flags = [("NX", expire.nx), ("XX", expire.xx), ("GT", expire.gt)];
                let flags = flags.into_iter().chain([("LT", expire.lt)]);
                let flags: String =
                    flags.filter(|(_, set)| *set).map(|(flag, _)| format!(" {flag}")).collect();
                format!("Expire {} {when}{flags}", one(&expire.key))
            }
            Op::Persist { key } => format!("Persist {}", one(key)),
            Op::Type { key } => format!("Type {}", one(key)),
            Op::FlushSlot => "FlushSlot".to_owned(),
            Op::CountKeys => "CountKeys".to_owned(),
            Op::ListKeys { count } => format!("ListKeys {count}"),
            Op::GetDel { key } => format!("GetDel {}", one(key)),
            Op::NoRoom => "NoRoom".to_owned(),
            Op::Token(token) => {
                let (name, hash) = (token.name, token.hash);
                format!("{} by token {name} for command {hash:016x}", self.op(&token.op))
            }
        }
    }
}

fn wrong(what: String) -> InspectError {
    InspectError::Entries(what)
}

fn options(set: &Set) -> String {
    let mut text = match set.expiry {
        SetExpiry::Clear => String::new(),
        SetExpiry::Keep => " KEEPTTL".to_owned(),
        SetExpiry::AfterMs(ms) => format!(" for {ms} ms"),
        SetExpiry::AtMs(ms) => format!(" until {ms}"),
    };
    if let Some(condition) = set.condition {
        text += &format!(" {condition:?}");
    }
    if set.get {
        text += " GET";
    }
    text
}

fn one(key: &[u8]) -> String {
    quoted(key, KEY_SHOWN_MAX)
}

fn several<K: AsRef<[u8]>>(keys: &[K]) -> String {
    let shown: Vec<String> =
        keys.iter().take(KEYS_SHOWN_MAX).map(|key| one(key.as_ref())).collect();
    match keys.len().saturating_sub(KEYS_SHOWN_MAX) {
        0 => shown.join(" "),
        more => format!("{} and {more} more", shown.join(" ")),
    }
}

/// Bytes that may be anything, on one line.
fn quoted(bytes: &[u8], max: usize) -> String {
    let shown = &bytes[..bytes.len().min(max)];
    match bytes.len() - shown.len() {
        0 => format!("\"{}\"", shown.escape_ascii()),
        more => format!("\"{}\" and {more} bytes more", shown.escape_ascii()),
    }
}

/// A step of a move in a line, without keys and values.
fn move_step(step: &MoveStep) -> String {
    let order = |order: &Move| {
        let from = order.from.map_or_else(|| "nobody".to_owned(), |from| format!("group {from}"));
        let Move { id, slot, to, epoch, .. } = order;
        format!("move {id} of slot {slot} from {from} to group {to}, epoch {epoch}")
    };
    match step {
        MoveStep::BeginExport(begun) => format!("BeginExport {}", order(begun)),
        MoveStep::BeginImport(begun) => format!("BeginImport {}", order(begun)),
        MoveStep::Rotate { slot, id, round } => {
            format!("Rotate move {id} of slot {slot} to round {round}")
        }
        MoveStep::Freeze { slot, id, round } => {
            format!("Freeze slot {slot} for move {id}, last round {round}")
        }
        MoveStep::AbortExport { order: refused, reason } => {
            format!("AbortExport {}: {reason:?}", order(refused))
        }
        MoveStep::CompleteExport { slot, id } => {
            format!("CompleteExport move {id} of slot {slot}")
        }
        MoveStep::Import { slot, id, chunk } => {
            let Chunk { round, rows, next, .. } = chunk;
            let end = if next.is_none() { ", its end" } else { "" };
            format!("Import move {id} of slot {slot}: {} rows of round {round}{end}", rows.len())
        }
        MoveStep::ImportPart { slot, id, chunk, part } => {
            let Chunk { round, rows, .. } = chunk;
            let bytes: usize = rows.iter().filter_map(|row| Some(row.value.as_ref()?.len())).sum();
            let PartOf { offset, total } = part;
            format!(
                "ImportPart move {id} of slot {slot}: {bytes} bytes at {offset} of {total} of a row of round {round}"
            )
        }
        MoveStep::Refuse { order: refused, reason } => {
            format!("Refuse {}: {reason:?}", order(refused))
        }
        MoveStep::Forget { slot, id } => format!("Forget move {id} of slot {slot}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use raft_core::frame::encode_entry;
    use raft_core::types::{EntryId, Term};
    use shard_core::cluster_config::ConfigNum;
    use shard_core::codec::encode_batch;
    use shard_core::op::{Expire, ExpiryCommand, SetCondition, TimeUnit};
    use shard_core::session::{LogTime, Seq, SessionId};
    use shard_core::slot::Slot;
    use shard_core::wire::{GroupQuery, LaneRequest};

    fn range(group: &str, range: &str) -> Result<Range, String> {
        Range::of(Some(&[group.to_owned(), range.to_owned()]), false)
            .map(|range| range.expect("words were given"))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_range_is_what_it_says_or_is_refused() {
        let ends = |text: &str| range("3", text).map(|range| (range.from.0, range.to.0));
        assert_eq!(ends("7..9"), Ok((7, 9)));
        assert_eq!(ends("7.."), Ok((7, u64::MAX)));
        assert_eq!(ends("..9"), Ok((1, 9)));
        assert_eq!(ends(".."), Ok((1, u64::MAX)));
        assert_eq!(ends("7"), Ok((7, 7)));
        for bad in ["", "0", "9..7", "0..4", "x", "1..x", "-1", "1...3", "1..2..3", " 1"] {
            let sentence = ends(bad).unwrap_err();
            assert!(sentence.starts_with("--entries: \""), "{bad}: {sentence}");
        }
        assert_eq!(range("x", "1").unwrap_err(), "--entries: \"x\" is not a group's number");
        assert!(range("-1", "1").is_err());
    }

    fn lane(op: Op) -> EntryItem {
        EntryItem::Lane(LaneRequest {
            session: SessionId(0xabc),
            deadline: LogTime(99),
            slot: Slot(5),
            seq: Seq(4),
            acked: Seq(3),
            op,
        })
    }

    #[test]
    fn f15_entries_are_shown_without_their_values_unless_asked_for() {
        let key = Bytes::from_static(b"k\n\xff");
        let set = Set {
            key: key.clone(),
            value: Bytes::from_static(b"secret"),
            expiry: SetExpiry::AfterMs(9),
            condition: Some(SetCondition::IfAbsent),
            get: true,
            command: ExpiryCommand::Set,
        };
        let expire = Expire {
            key: key.clone(),
            at: ExpireAt::AtMs(8),
            nx: false,
            xx: true,
            gt: false,
            lt: true,
            command: ExpiryCommand::ExpireAt,
        };
        let items = vec![
            lane(Op::Set(set)),
            lane(Op::Append { key: key.clone(), value: Bytes::from(vec![b'v'; 5000]) }),
            lane(Op::Expire(expire)),
            lane(Op::Ttl { key: key.clone(), unit: TimeUnit::Seconds }),
            lane(Op::Del { keys: vec![key; 70] }),
            EntryItem::Group(GroupQuery::KeyCount),
            EntryItem::Assign { config: ConfigNum(1), ranges: vec![(Slot(0), Slot(9))] },
        ];
        let payload = encode_batch(&EntryBatch { stamp: LogTime(7), items, full: true });
        let id = EntryId { index: Index(12), term: Term(3) };
        let entry = |kind, payload: &[u8]| encode_entry(GroupId(1), id, kind, payload);
        let shown = |values, entry: &Entry| {
            let mut out = Vec::new();
            let range = Range { values, ..range("1", "..").unwrap() };
            range.print(&mut out, entry).unwrap();
            String::from_utf8(out).unwrap()
        };
        let command = entry(EntryKind::Command, &payload);
        let text = shown(false, &command);
        let lines: Vec<&str> = text.lines().collect();
        let lane = "(slot 5, session 00000000000000000000000000000abc, number 4)";
        assert_eq!(
            lines[0],
            format!("12@3 command of {} bytes, 7 items, time 7, memory full", payload.len())
        );
        let set = "  Set \"k\\n\\xff\" (6 bytes) for 9 ms IfAbsent GET  ";
        assert_eq!(lines[1], format!("{set}{lane}"));
        assert_eq!(lines[2], format!("  Append \"k\\n\\xff\" (5000 bytes)  {lane}"));
        assert_eq!(lines[3], format!("  Expire \"k\\n\\xff\" at 8 XX LT  {lane}"));
        assert_eq!(lines[4], format!("  Ttl \"k\\n\\xff\" Seconds  {lane}"));
        assert!(lines[5].ends_with(&format!(" and 6 more  {lane}")), "{}", lines[5]);
        assert_eq!(lines[6..], ["  KeyCount", "  Assign 10 slots by configuration 1"]);
        let text = shown(true, &command);
        assert!(text.contains("Set \"k\\n\\xff\" \"secret\" for"), "{text}");
        assert!(text.contains("vvv\" and 904 bytes more"), "{text}");
        assert_eq!(shown(false, &entry(EntryKind::Empty, b"")), "12@3 empty\n");
        let conf = Conf::of_voters(vec![shard_core::NodeId(2), shard_core::NodeId(1)]);
        let text = shown(false, &entry(EntryKind::Conf, &conf.encode()));
        assert_eq!(text, "12@3 members: voters 1 2, since entry 12\n");
        let text = shown(false, &entry(EntryKind::Command, b"\x09what"));
        assert!(text.starts_with("12@3 command that cannot be read (version 9"), "{text}");
    }
}

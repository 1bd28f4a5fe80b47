//! Golden scripts for the state machines: a script is entries, its output the answers.
//!
//! Every entry goes through the codec into two stores, whose answers and digests must be equal, so
//! each script is a test of determinism as well.
//!
//! Ops are written as Redis' commands. These arguments say how an op travels:
//! `s=` session (1), `n=` seq (the next of its lane), `acked=` (n - 1), `d=` deadline (of a session
//! 300000 after the stamp of its first op), `slot=` (the first key's).
//!
//! `full` sets that the entries from here on are of a leader whose memory is full, `full 0` that they are not.
//!
//! `read` before an op reads without an entry. `after=` is the seq it must see, `stamp=` what the
//! leader would stamp now (the stamp of the script); `clocked=1`: it has waited for a clock entry.

use bytes::Bytes;
use goldenscript::{Argument, ArgumentConsumer, Command, Context, Runner};
use shard_core::cluster_config::{ClusterConfig, ConfigNum, GroupConfig, NodeConfig};
use shard_core::codec::{EntryBatch, EntryItem, decode_batch, encode_batch};
use shard_core::op::{
    Expire, ExpireAt, ExpiryCommand, Op, Outcome, Set, SetCondition, SetExpiry, TimeUnit, Token,
    Word,
};
use shard_core::session::{LaneLimits, LogTime, SESSION_LIFE_MS, Seq, SessionId};
use shard_core::shard_store::{ReadStep, ShardStore};
use shard_core::shardmaster::Shardmaster;
use shard_core::slot::{Slot, hash_slot};
use shard_core::wire::{
    After, Answer, GroupAnswer, GroupQuery, LaneRequest, ReadRequest, SlotSize,
};
use shard_core::{GroupId, NodeId};
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::str::FromStr;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Runs the scripts of `golden/shard`.
pub struct ShardScript {
    stores: [ShardStore; 2],
    masters: [Shardmaster; 2],
    stamp: LogTime,
    full: bool,
    /// Last seq of each lane that was executed, or is in the entry being written.
    seqs: BTreeMap<(u128, Slot), u64>,
    deadlines: BTreeMap<u128, LogTime>,
    /// Items of an entry between `begin` and `end`, each with its text.
    entry: Option<Vec<(String, EntryItem)>>,
}

impl Default for ShardScript {
    fn default() -> ShardScript {
        ShardScript {
            stores: stores(LaneLimits::default()),
            masters: [Shardmaster::new(), Shardmaster::new()],
            stamp: LogTime(0),
            full: false,
            seqs: BTreeMap::new(),
            deadlines: BTreeMap::new(),
            entry: None,
        }
    }
}

fn stores(limits: LaneLimits) -> [ShardStore; 2] {
    [(); 2].map(|()| ShardStore::with_limits(GroupId(1), limits))
}

impl Runner for ShardScript {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String> {
        let mut args = command.consume_args();
        let output = match command.name.as_str() {
            "at" => {
                self.stamp = LogTime(positional(&mut args)?);
                String::new()
            }
            "full" => {
                self.full = args.next_pos().is_none_or(|word| word != "0");
                String::new()
            }
            "begin" => {
                self.entry = Some(Vec::new());
                String::new()
            }
            "end" => {
                let items = self.entry.take().ok_or("no entry was begun")?;
                self.apply(items)?
            }
            "tick" => self.apply(Vec::new())?,
            "repeat" => {
                let count = positional(&mut args)?;
                return self.repeat(command, count);
            }
            "limits" => {
                self.stores = stores(limits(&mut args)?);
                String::new()
            }
            "stats" => format!("{:?}\n", self.stores[0].stats()),
            "logtime" => format!("{}\n", self.stores[0].log_time()),
            "read" => self.read(command, &mut args)?,
            "owns" => {
                format!("{}\n", self.stores[0].hindrance(Slot(positional(&mut args)?)).is_none())
            }
            "config" => {
                let num = args.next_pos().map(u64::from_str).transpose()?.map(ConfigNum);
                show_config(&self.masters[0].config(num))
            }
            "bootstrap" => {
                let config = config(&mut args)?;
                self.apply_to_master(command.to_string(), EntryItem::Bootstrap(config))?
            }
            "bootstrap-store" => {
                self.item(command, EntryItem::Bootstrap(ClusterConfig::default()))?
            }
            "assign-master" => {
                let item = EntryItem::Assign { config: ConfigNum(1), ranges: Vec::new() };
                self.apply_to_master(command.to_string(), item)?
            }
            _ => {
                let item = self.parse_item(&command.name, &mut args)?;
                self.item(command, item)?
            }
        };
        args.reject_next()?;
        Ok(output)
    }

    fn end_script(&mut self) -> Result<()> {
        match self.entry {
            Some(_) => Err("an entry was begun and not ended".into()),
            None => Ok(()),
        }
    }
}

impl ShardScript {
    fn parse_item(&mut self, name: &str, args: &mut ArgumentConsumer) -> Result<EntryItem> {
        Ok(match name {
            "assign" => {
                let config = ConfigNum(key(args, "config")?.unwrap_or(1));
                let mut ranges = Vec::new();
                while let Some(range) = args.next_pos() {
                    let (first, last) = range.split_once('-').unwrap_or((range, range));
                    ranges.push((Slot(first.parse()?), Slot(last.parse()?)));
                }
                EntryItem::Assign { config, ranges }
            }
            "dbsize" => EntryItem::Group(GroupQuery::KeyCount),
            "occupied" => EntryItem::Group(GroupQuery::OccupiedSlots),
            "slotkeys" | "slotsizes" => {
                let range = args.next_pos().ok_or("it needs a range")?;
                let (first, last) = range.split_once('-').ok_or("a range is first-last")?;
                let (first, last) = (Slot(first.parse()?), Slot(last.parse()?));
                EntryItem::Group(match name {
                    "slotkeys" => GroupQuery::SlotKeys { first, last },
                    _ => GroupQuery::SlotSizes { first, last },
                })
            }
            _ => EntryItem::Lane(self.parse_lane(name, args)?),
        })
    }

    fn parse_lane(&mut self, name: &str, args: &mut ArgumentConsumer) -> Result<LaneRequest> {
        let session = key(args, "s")?.unwrap_or(1);
        let seq = key(args, "n")?;
        let acked = key(args, "acked")?;
        let deadline = key(args, "d")?.map(LogTime);
        let slot = key(args, "slot")?.map(Slot);
        let token: Option<u128> = key(args, "t")?;
        let (hash, window_ms) = (key(args, "h")?.unwrap_or(7), key(args, "w")?.unwrap_or(600_000));
        let op = parse_op(name, args)?;
        let op = match token.map(SessionId::of_token) {
            Some(name) => Op::Token(Box::new(Token { name, hash, window_ms, op })),
            None => op,
        };

        // That of its first key; the script says which where it has none.
        let of_key = op.keys().first().map(|key| hash_slot(key));
        let slot = slot.or(of_key).ok_or("which slot?")?;
        let usual = LogTime(self.stamp.0 + SESSION_LIFE_MS);
        let kept = *self.deadlines.entry(session).or_insert(deadline.unwrap_or(usual));
        let last = self.seqs.entry((session, slot)).or_insert(0);
        let seq = seq.unwrap_or(*last + 1);
        if self.entry.is_some() {
            *last = seq.max(*last);
        }
        Ok(LaneRequest {
            session: SessionId(session),
            deadline: deadline.unwrap_or(kept),
            slot,
            seq: Seq(seq),
            acked: Seq(acked.unwrap_or(seq.saturating_sub(1))),
            op,
        })
    }

    fn read(&mut self, command: &Command, args: &mut ArgumentConsumer) -> Result<String> {
        let name = args.next_pos().ok_or("read what?")?;
        let (session, deadline) = (key(args, "s")?.unwrap_or(1), key(args, "d")?.map(LogTime));
        let seq: Option<u64> = key(args, "after")?;
        let stamp = key(args, "stamp")?.map_or(self.stamp, LogTime);
        let clocked = key(args, "clocked")?.unwrap_or(0) == 1;
        let slot = key(args, "slot")?.map(Slot);
        let op = parse_op(name, args)?;
        let of_key = op.keys().first().map(|key| hash_slot(key));
        let slot = slot.or(of_key).ok_or("which slot?")?;
        let deadline = deadline.or(self.deadlines.get(&session).copied());
        let deadline = deadline.unwrap_or(LogTime(self.stamp.0 + SESSION_LIFE_MS));
        let session = SessionId(session);
        let after = seq.map(|seq| After { session, deadline, seq: Seq(seq) });
        let request = ReadRequest { slot, after, op };
        let digest = self.stores[0].digest();
        let step = self.stores[0].read(&request, stamp, clocked);
        assert_eq!(step, self.stores[1].read(&request, stamp, clocked), "two stores, one read");
        assert_eq!(self.stores[0].digest(), digest, "a read changes nothing");
        let text = match &step {
            ReadStep::Answered(answer) => show_answer(answer),
            ReadStep::AwaitsLane => "waits for its lane".to_owned(),
            ReadStep::AwaitsClock => "waits for a clock entry".to_owned(),
        };
        Ok(format!("{command} -> {text}\n"))
    }

    /// One entry of `count` ops, `@` in them replaced by their number. Prints the last answer.
    fn repeat(&mut self, command: &Command, count: u32) -> Result<String> {
        self.entry = Some(Vec::new());
        for number in 0..count {
            let text = command.to_string().replace('@', &number.to_string());
            let mut op = command.clone();
            for arg in &mut op.args {
                if let Argument::Positional(word) = arg {
                    *word = word.replace('@', &number.to_string());
                }
            }
            let mut args = op.consume_args();
            args.next_pos();
            let name = args.next_pos().ok_or("repeat what?")?;
            let item = EntryItem::Lane(self.parse_lane(name, &mut args)?);
            args.reject_next()?;
            self.entry.get_or_insert_default().push((text, item));
        }
        let items = self.entry.take().unwrap_or_default();
        let output = self.apply(items)?;
        Ok(output.lines().last().unwrap_or_default().to_owned())
    }

    /// Adds an item to the entry that was begun, or makes an entry of it.
    fn item(&mut self, command: &Command, item: EntryItem) -> Result<String> {
        let item = (command.to_string(), item);
        match &mut self.entry {
            Some(items) => {
                items.push(item);
                Ok(String::new())
            }
            None => self.apply(vec![item]),
        }
    }

    fn apply(&mut self, items: Vec<(String, EntryItem)>) -> Result<String> {
        let (texts, items): (Vec<_>, Vec<_>) = items.into_iter().unzip();
        let lanes: Vec<_> = items
            .iter()
            .map(|item| match item {
                EntryItem::Lane(lane) => Some((lane.session.0, lane.slot, lane.seq)),
                _ => None,
            })
            .collect();
        let bytes = encode_batch(&EntryBatch { stamp: self.stamp, items, full: self.full });
        let [a, b] = &mut self.stores;
        let answers = a.apply(decode_batch(&bytes)?);
        assert_eq!(answers, b.apply(decode_batch(&bytes)?), "two stores, one entry");
        assert_eq!(a.digest(), b.digest(), "two stores, one entry");
        for (lane, answer) in lanes.iter().zip(&answers) {
            if let (Some((session, slot, seq)), Answer::Done { .. }) = (lane, answer) {
                let last = self.seqs.entry((*session, *slot)).or_insert(0);
                *last = seq.0.max(*last);
            }
        }
        show_answers(&texts, &answers)
    }

    fn apply_to_master(&mut self, text: String, item: EntryItem) -> Result<String> {
        let bytes = encode_batch(&EntryBatch::new(self.stamp, vec![item]));
        let [a, b] = &mut self.masters;
        let answers = a.apply(decode_batch(&bytes)?);
        assert_eq!(answers, b.apply(decode_batch(&bytes)?), "two masters, one entry");
        assert_eq!(a.digest(), b.digest(), "two masters, one entry");
        show_answers(&[text], &answers)
    }
}

fn parse_op(name: &str, args: &mut ArgumentConsumer) -> Result<Op> {
    Ok(match name {
        "get" => Op::Get { key: bytes(args)? },
        "set" => Op::Set(parse_set(args)?),
        "append" => Op::Append { key: bytes(args)?, value: value(args)? },
        "incrby" => Op::IncrBy { key: bytes(args)?, by: positional(args)? },
        "mget" => Op::MGet { keys: all(args) },
        "del" => Op::Del { keys: all(args) },
        "exists" => Op::Exists { keys: all(args) },
        "strlen" => Op::Strlen { key: bytes(args)? },
        "ttl" => Op::Ttl { key: bytes(args)?, unit: TimeUnit::Seconds },
        "pttl" => Op::Ttl { key: bytes(args)?, unit: TimeUnit::Milliseconds },
        "pexpire" | "pexpireat" => Op::Expire(parse_expire(name, args)?),
        "persist" => Op::Persist { key: bytes(args)? },
        "type" => Op::Type { key: bytes(args)? },
        "flushslot" => Op::FlushSlot,
        "countkeys" => Op::CountKeys,
        "listkeys" => Op::ListKeys { count: positional(args)? },
        "getdel" => Op::GetDel { key: bytes(args)? },
        _ => return Err(format!("no command {name}").into()),
    })
}

fn parse_set(args: &mut ArgumentConsumer) -> Result<Set> {
    let px = key(args, "px")?.map(SetExpiry::AfterMs);
    let pxat = key(args, "pxat")?.map(SetExpiry::AtMs);
    let mut set = Set {
        key: bytes(args)?,
        value: value(args)?,
        expiry: px.or(pxat).unwrap_or(SetExpiry::Clear),
        condition: None,
        get: false,
        command: ExpiryCommand::Set,
    };
    while let Some(word) = args.next_pos() {
        match word {
            "nx" => set.condition = Some(SetCondition::IfAbsent),
            "xx" => set.condition = Some(SetCondition::IfPresent),
            "get" => set.get = true,
            "keepttl" => set.expiry = SetExpiry::Keep,
            _ => return Err(format!("no option {word}").into()),
        }
    }
    Ok(set)
}

fn parse_expire(name: &str, args: &mut ArgumentConsumer) -> Result<Expire> {
    let key = bytes(args)?;
    let time = positional(args)?;
    let (at, command) = match name {
        "pexpire" => (ExpireAt::AfterMs(time), ExpiryCommand::PExpire),
        _ => (ExpireAt::AtMs(time), ExpiryCommand::PExpireAt),
    };
    let mut expire = Expire { key, at, nx: false, xx: false, gt: false, lt: false, command };
    while let Some(word) = args.next_pos() {
        match word {
            "nx" => expire.nx = true,
            "xx" => expire.xx = true,
            "gt" => expire.gt = true,
            "lt" => expire.lt = true,
            _ => return Err(format!("no option {word}").into()),
        }
    }
    Ok(expire)
}

fn limits(args: &mut ArgumentConsumer) -> Result<LaneLimits> {
    let usual = LaneLimits::default();
    Ok(LaneLimits {
        lanes_max: key(args, "lanes")?.unwrap_or(usual.lanes_max),
        tokens_max: key(args, "tokens")?.unwrap_or(usual.tokens_max),
        lane_reply_bytes_max: key(args, "lane_bytes")?.unwrap_or(usual.lane_reply_bytes_max),
        group_reply_bytes_max: key(args, "group_bytes")?.unwrap_or(usual.group_reply_bytes_max),
        group_small_reply_bytes_max: key(args, "small_bytes")?
            .unwrap_or(usual.group_small_reply_bytes_max),
    })
}

/// `nodes=` nodes, all of them voters of the shardmaster and of `groups=` shard groups.
fn config(args: &mut ArgumentConsumer) -> Result<ClusterConfig> {
    let nodes: u64 = key(args, "nodes")?.unwrap_or(3);
    let groups: u32 = key(args, "groups")?.unwrap_or(1);
    let seats = |weight| GroupConfig { voters: (1..=nodes).map(NodeId).collect(), weight };
    let mut config = ClusterConfig {
        num: ConfigNum(key(args, "num")?.unwrap_or(0)),
        cluster_id: key(args, "id")?.unwrap_or_else(|| "test".to_owned()),
        nodes: (1..=nodes)
            .map(|node| {
                let (peer, resp) = (format!("n{node}:7000"), format!("n{node}:6379"));
                (NodeId(node), NodeConfig { peer, resp })
            })
            .collect(),
        groups: (0..=groups).map(|group| (GroupId(group), seats(group.min(1)))).collect(),
        slots: Vec::new(),
    };
    config.assign_evenly();
    Ok(config)
}

fn key<T: FromStr<Err: Error + 'static>>(
    args: &mut ArgumentConsumer,
    name: &str,
) -> Result<Option<T>> {
    Ok(args.take_key(name).map(T::from_str).transpose()?)
}

fn positional<T: FromStr<Err: Error + 'static>>(args: &mut ArgumentConsumer) -> Result<T> {
    Ok(args.next_pos().ok_or("an argument is missing")?.parse()?)
}

fn bytes(args: &mut ArgumentConsumer) -> Result<Bytes> {
    positional::<String>(args).map(Bytes::from)
}

/// A value as it is written, or `fill=` so many bytes.
fn value(args: &mut ArgumentConsumer) -> Result<Bytes> {
    match key(args, "fill")? {
        Some(len) => Ok(Bytes::from(vec![b'x'; len])),
        None => bytes(args),
    }
}

fn all(args: &mut ArgumentConsumer) -> Vec<Bytes> {
    std::iter::from_fn(|| args.next_pos())
        .map(|key| Bytes::copy_from_slice(key.as_bytes()))
        .collect()
}

fn show_answers(texts: &[String], answers: &[Answer]) -> Result<String> {
    assert_eq!(texts.len(), answers.len(), "one answer per item");
    let mut output = String::new();
    for (text, answer) in texts.iter().zip(answers) {
        writeln!(output, "{text} -> {}", show_answer(answer))?;
    }
    Ok(output)
}

fn show_answer(answer: &Answer) -> String {
    match answer {
        Answer::Done { outcome, .. } => show_outcome(outcome),
        Answer::Group(GroupAnswer::KeyCount { keys, expires }) => {
            format!("keys={keys} expires={expires}")
        }
        Answer::Group(GroupAnswer::OccupiedSlots { owned, occupied }) => {
            format!("owned={} occupied={}", show_ranges(owned), show_ranges(occupied))
        }
        Answer::Expired { log_time } => format!("expired at {log_time}"),
        Answer::DeadlineTooFar { log_time } => format!("deadline too far at {log_time}"),
        Answer::Gap { last } => format!("gap after {last}"),
        Answer::Elsewhere => "elsewhere".to_owned(),
        Answer::Old => "old".to_owned(),
        Answer::Window => "over the window".to_owned(),
        Answer::ReplyGone => "reply gone".to_owned(),
        Answer::LanesFull => "lanes full".to_owned(),
        Answer::Frozen => "frozen".to_owned(),
        Answer::Moved { to, epoch } => format!("moved to {to} in {epoch}"),
        Answer::Invalid => "invalid".to_owned(),
        Answer::Group(GroupAnswer::SlotKeys(slots)) => {
            let full = slots.iter().filter(|(_, keys)| *keys > 0);
            let full: Vec<_> = full.map(|(slot, keys)| format!("{slot}:{keys}")).collect();
            format!("slots={} [{}]", slots.len(), full.join(" "))
        }
        Answer::Group(GroupAnswer::SlotSizes(slots)) => {
            let full = slots.iter().filter(|(_, size)| size.keys > 0 || size.writes > 0);
            let show = |(slot, size): &(Slot, SlotSize)| {
                format!("{slot}:{} keys, {} bytes, {} writes", size.keys, size.bytes, size.writes)
            };
            let full: Vec<_> = full.map(show).collect();
            format!("slots={} [{}]", slots.len(), full.join("; "))
        }
        Answer::Group(GroupAnswer::Transfer(_) | GroupAnswer::Master(_))
        | Answer::Master(_)
        | Answer::LogTime(_)
        | Answer::NotLeader { .. }
        | Answer::Busy
        | Answer::Lost => {
            panic!("{answer:?} is no answer of a state machine")
        }
    }
}

fn show_outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Ok => "OK".to_owned(),
        Outcome::Nil => "nil".to_owned(),
        Outcome::Integer(number) => number.to_string(),
        Outcome::Value(value) => show_bytes(value),
        Outcome::Values(values) => {
            let each = |value: &Option<Bytes>| {
                value.as_ref().map_or("nil".to_owned(), |value| show_bytes(value))
            };
            format!("[{}]", values.iter().map(each).collect::<Vec<_>>().join(" "))
        }
        Outcome::Keys(keys) => {
            format!("[{}]", keys.iter().map(|key| show_bytes(key)).collect::<Vec<_>>().join(" "))
        }
        Outcome::Word(Word::None) => "none".to_owned(),
        Outcome::Word(Word::String) => "string".to_owned(),
        Outcome::Error(error) => format!("error {error:?}"),
    }
}

fn show_bytes(bytes: &[u8]) -> String {
    match bytes.len() {
        0..=40 => format!("{:?}", String::from_utf8_lossy(bytes)),
        len => format!("<{len} bytes>"),
    }
}

fn show_ranges(ranges: &[(Slot, Slot)]) -> String {
    let each = |(first, last): &(Slot, Slot)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    format!("[{}]", ranges.iter().map(each).collect::<Vec<_>>().join(" "))
}

fn show_config(config: &ClusterConfig) -> String {
    let slots: Vec<String> =
        config.slots.iter().map(|r| format!("{}-{}=g{}", r.first, r.last, r.group)).collect();
    format!(
        "config {} nodes={} groups={} slots=[{}]\n",
        config.num,
        config.nodes.len(),
        config.groups.len(),
        slots.join(" ")
    )
}

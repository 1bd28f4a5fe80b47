//! Commands that change the cluster: what an administrator types becomes an [`Admin`].
//!
//! Nothing here knows the cluster: names of nodes stay names until the command's turn has come.

use super::{Arguments, Barrier, Call, ErrorText, SYNTAX_ERROR, quote};
use bytes::Bytes;
use shard_core::GroupId;
use shard_core::cluster_config::HOST_BYTES_MAX;
use shard_core::shardmaster::RequestId;
use shard_core::slot::{SLOTS, Slot};

/// Redis' word for a slot that is none.
pub const INVALID_SLOT: ErrorText = std::borrow::Cow::Borrowed("ERR Invalid or out of range slot");
/// How much of an argument an error quotes.
const QUOTED_BYTES_MAX: usize = 128;

/// First and last slot, included.
pub type SlotSpan = (Slot, Slot);

/// What an administrator wants, and the name under which it may be said again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// REQUESTID; without one it gets one, which only this attempt knows.
    pub id: Option<RequestId>,
    /// What.
    pub admin: Admin,
}

/// See [`Wish`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admin {
    /// CLUSTER MIGRATESLOTS: each with its own destination, in this order.
    MigrateSlots(Vec<(Vec<SlotSpan>, Destination)>),
    /// CLUSTER REBALANCE.
    Rebalance {
        /// BY.
        by: Measure,
        /// MAXMOVES.
        moves_max: Option<u32>,
        /// DRYRUN: only says what would be done.
        dry_run: bool,
    },
    /// CLUSTER REBALANCE PAUSE and RESUME.
    SetPaused(bool),
    /// CLUSTER REBALANCE STATUS.
    RebalanceStatus,
    /// CLUSTER GETSLOTMIGRATIONS.
    SlotMigrations,
    /// CLUSTER CANCELSLOTMIGRATIONS.
    CancelAll,
    /// CLUSTER MIGRATION IMPORT: to a group that this node leads.
    Import(Vec<SlotSpan>),
    /// CLUSTER MIGRATION STATUS; None: of all.
    MigrationStatus(Option<Task>),
    /// CLUSTER MIGRATION CANCEL; None: all.
    MigrationCancel(Option<Task>),
    /// CLUSTER GROUP.
    Group(GroupWish),
    /// CLUSTER CONFIG; None: the newest.
    Config(Option<u64>),
    /// CLUSTER CONFIG DIFF.
    ConfigDiff(u64, u64),
    /// CLUSTER ADDSLOTS and ADDSLOTSRANGE: to a group that this node leads.
    AddSlots(Vec<SlotSpan>),
    /// CLUSTER DELSLOTS and DELSLOTSRANGE.
    DelSlots(Vec<SlotSpan>),
    /// CLUSTER FLUSHSLOTS.
    FlushSlots,
    /// CLUSTER RESET.
    Reset,
    /// CLUSTER FORGET.
    Forget(Bytes),
    /// CLUSTER SETSLOT.
    SetSlot {
        /// The slot.
        slot: Slot,
        /// What is said of it.
        how: SetSlot,
        /// How long NODE waits. Milliseconds.
        timeout_ms: Option<u32>,
    },
    /// CLUSTER MEET of a node that is asked who it is.
    Meet {
        /// Where its clients connect.
        host: String,
        /// Where its clients connect.
        port: u16,
    },
    /// Of nodes and their seats.
    Node(NodeWish),
    /// CLUSTER SLOT-STATS.
    SlotStats {
        /// Of which slots.
        slots: SlotSpan,
        /// Sorted how; None: by slot.
        order: Option<SlotOrder>,
    },
}

/// Of what groups are to have their shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Slots, whatever is in them.
    Slots,
    /// Keys.
    Keys,
    /// Bytes of keys and values.
    Bytes,
    /// Writes of the last seconds.
    Load,
}

impl Measure {
    fn parse(word: &[u8]) -> Result<Measure, ErrorText> {
        match word {
            word if is(word, "slots") => Ok(Measure::Slots),
            word if is(word, "keys") => Ok(Measure::Keys),
            word if is(word, "bytes") => Ok(Measure::Bytes),
            word if is(word, "load") => Ok(Measure::Load),
            word => {
                let word = quote(word, QUOTED_BYTES_MAX);
                Err(format!("ERR BY '{word}' is not SLOTS, KEYS, BYTES or LOAD").into())
            }
        }
    }
}

/// CLUSTER GROUP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupWish {
    /// CLUSTER GROUP CREATE.
    Create {
        /// ID.
        group: Option<GroupId>,
        /// NODES.
        nodes: Vec<Bytes>,
        /// WEIGHT.
        weight: u32,
        /// REBALANCE: it gets its share at once.
        rebalance: bool,
    },
    /// CLUSTER GROUP DRAIN.
    Drain(GroupId),
    /// CLUSTER GROUP REMOVE.
    Remove(GroupId),
    /// CLUSTER GROUP WEIGHT.
    SetWeight {
        /// The group.
        group: GroupId,
        /// Its share.
        weight: u32,
    },
}

/// What is wanted of nodes, by their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeWish {
    /// CLUSTER EVACUATE and ADMIT.
    SetEvacuated {
        /// The node.
        node: Bytes,
        /// Whether it is to lead nothing.
        evacuated: bool,
    },
    /// CLUSTER REPLACE.
    Replace {
        /// Who loses its seats.
        old: Bytes,
        /// Who gets them.
        new: Bytes,
        /// In which group alone; None: in all.
        group: Option<GroupId>,
    },
    /// CLUSTER ADDVOTER and DELVOTER.
    SetVoter {
        /// The node.
        node: Bytes,
        /// Of which group; None: of the only one, or of all that it is a voter of.
        group: Option<GroupId>,
        /// Whether it is to be one.
        add: bool,
    },
    /// CLUSTER REPLICATE.
    Replicate(Bytes),
    /// CLUSTER MEET of a node of which all is said.
    Meet {
        /// Its number.
        node: u64,
        /// Where clients connect.
        resp: String,
        /// Where peers connect.
        peer: String,
    },
}

/// Where slots are to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The group with the fewest slots of those that this node leads.
    Node(Bytes),
    /// A group.
    Group(GroupId),
}

fn wish(id: Option<RequestId>, admin: Admin) -> Result<Call, ErrorText> {
    Ok(Call::Barrier(Barrier::Admin(Box::new(Wish { id, admin }))))
}

/// Redis' refusal of a subcommand whose arguments do not fit its forms.
fn misfit(name: &str) -> ErrorText {
    format!("ERR unknown subcommand or wrong number of arguments for '{name}'. Try CLUSTER HELP.")
        .into()
}

fn is(argument: &[u8], word: &str) -> bool {
    argument.eq_ignore_ascii_case(word.as_bytes())
}

/// Takes `REQUESTID id` off the end.
fn request_id(arguments: &mut Arguments) -> Result<Option<RequestId>, ErrorText> {
    let at = arguments.len().saturating_sub(2);
    if at < 2 || !is(&arguments[at], "requestid") {
        return Ok(None);
    }
    let text = &arguments[at + 1];
    let digits: String =
        text.iter().filter(|byte| **byte != b'-').map(|byte| char::from(*byte)).collect();
    let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = Some(&digits).filter(|digits| is_hex && (1..=32).contains(&digits.len()));
    let id = id.and_then(|digits| u128::from_str_radix(digits, 16).ok()).ok_or_else(|| {
        let text = quote(text, QUOTED_BYTES_MAX);
        ErrorText::from(format!("ERR REQUESTID '{text}' is not 1 to 32 hexadecimal digits"))
    })?;
    arguments.truncate(at);
    Ok(Some(RequestId(id)))
}

/// A slot, or Redis' refusal.
pub fn slot(text: &[u8]) -> Result<Slot, ErrorText> {
    let number = shard_core::integer::parse_integer(text);
    let number = number.and_then(|number| u16::try_from(number).ok());
    number.filter(|number| *number < SLOTS).map(Slot).ok_or(INVALID_SLOT)
}

/// Pairs of first and last slot, one after another.
fn spans(words: &[Bytes]) -> Result<Vec<SlotSpan>, ErrorText> {
    let pairs = words.chunks(2).map(|pair| match pair {
        [first, last] => {
            let (first, last) = (slot(first)?, slot(last)?);
            if first > last {
                let text =
                    format!("ERR start slot number {first} is greater than end slot number {last}");
                return Err(ErrorText::from(text));
            }
            Ok((first, last))
        }
        _ => Err(SYNTAX_ERROR),
    });
    pairs.collect()
}

/// Redis' refusal of a slot that is named twice.
pub fn named_twice(slot: Slot) -> ErrorText {
    format!("ERR Slot {slot} specified multiple times").into()
}

/// Refuses a slot that is named twice.
fn each_once(spans: &[SlotSpan]) -> Result<(), ErrorText> {
    let mut named = vec![false; usize::from(SLOTS)];
    for number in spans.iter().flat_map(|(first, last)| first.0..=last.0) {
        if std::mem::replace(&mut named[usize::from(number)], true) {
            return Err(named_twice(Slot(number)));
        }
    }
    Ok(())
}

/// The number of a group.
fn group(text: &[u8]) -> Result<GroupId, ErrorText> {
    let number = shard_core::integer::parse_integer(text);
    number.and_then(|number| u32::try_from(number).ok()).map(GroupId).ok_or_else(|| {
        let text = quote(text, QUOTED_BYTES_MAX);
        format!("ERR Invalid group '{text}', groups are numbers from 1 to {}", u32::MAX).into()
    })
}

/// A count of at least 1.
fn count(name: &str, text: &[u8]) -> Result<u32, ErrorText> {
    let number = shard_core::integer::parse_integer(text);
    number.and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0).ok_or_else(
        || {
            let text = quote(text, QUOTED_BYTES_MAX);
            format!("ERR Invalid {name} '{text}', it is a number from 1 to {}", u32::MAX).into()
        },
    )
}

/// `CLUSTER MIGRATESLOTS SLOTSRANGE first last [first last ...] NODE id | GROUP g [SLOTSRANGE ...]`
pub fn migrateslots(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let id = request_id(arguments)?;
    let mut rest = &arguments[2..];
    let mut orders = Vec::new();
    while let Some((word, more)) = rest.split_first() {
        if !is(word, "slotsrange") {
            return Err(SYNTAX_ERROR);
        }
        let at = more.iter().position(|word| is(word, "node") || is(word, "group"));
        let at = at.filter(|at| *at > 0 && *at + 1 < more.len()).ok_or(SYNTAX_ERROR)?;
        let name = &more[at + 1];
        let to = match is(&more[at], "group") {
            true => Destination::Group(group(name)?),
            false => Destination::Node(name.clone()),
        };
        orders.push((spans(&more[..at])?, to));
        rest = &more[at + 2..];
    }
    if orders.is_empty() {
        return Err(misfit("MIGRATESLOTS"));
    }
    let all: Vec<SlotSpan> = orders.iter().flat_map(|(spans, _)| spans.iter().copied()).collect();
    each_once(&all)?;
    wish(id, Admin::MigrateSlots(orders))
}

/// `CLUSTER REBALANCE [DRYRUN] [BY SLOTS | KEYS | BYTES | LOAD] [MAXMOVES n] | PAUSE | RESUME | STATUS`
pub fn rebalance(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let id = request_id(arguments)?;
    let words = &arguments[2..];
    match words {
        [word] if is(word, "pause") => return wish(id, Admin::SetPaused(true)),
        [word] if is(word, "resume") => return wish(id, Admin::SetPaused(false)),
        [word] if is(word, "status") => {
            return wish(None, Admin::RebalanceStatus);
        }
        _ => {}
    }
    let (mut moves_max, mut dry_run, mut by) = (None, false, Measure::Slots);
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        if is(word, "dryrun") {
            dry_run = true;
            continue;
        }
        match rest.next() {
            Some(number) if is(word, "maxmoves") => moves_max = Some(count("MAXMOVES", number)?),
            Some(measure) if is(word, "by") => by = Measure::parse(measure)?,
            _ => return Err(SYNTAX_ERROR),
        }
    }
    if id.is_some() && by != Measure::Slots {
        return Err(
            "ERR REQUESTID does not go with BY: what is asked for follows from what slots hold \
                    then, and a second one moves what the first has left"
                .into(),
        );
    }
    wish(id, Admin::Rebalance { by, moves_max, dry_run })
}

/// `CLUSTER GETSLOTMIGRATIONS`
pub fn getslotmigrations(_: &mut Arguments) -> Result<Call, ErrorText> {
    wish(None, Admin::SlotMigrations)
}

/// `CLUSTER CANCELSLOTMIGRATIONS`
pub fn cancelslotmigrations(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let id = request_id(arguments)?;
    match arguments.len() {
        2 => wish(id, Admin::CancelAll),
        _ => Err(misfit("CANCELSLOTMIGRATIONS")),
    }
}

/// `CLUSTER MIGRATION IMPORT first last [first last ...] | STATUS ID id | STATUS ALL | CANCEL ID id |
/// CANCEL ALL`, as in Redis 8.4.
pub fn migration(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let id = request_id(arguments)?;
    let words = &arguments[3..];
    let task = |words: &[Bytes]| match words {
        [all] if is(all, "all") => Ok(None),
        [word, id] if is(word, "id") => Ok(Some(Task::parse(id))),
        _ => Err(SYNTAX_ERROR),
    };
    match &arguments[2] {
        word if is(word, "import") => {
            if words.is_empty() || !words.len().is_multiple_of(2) {
                return Err(super::wrong_arity("cluster|migration"));
            }
            let spans = spans(words)?;
            each_once(&spans)?;
            wish(id, Admin::Import(spans))
        }
        word if is(word, "status") => wish(None, Admin::MigrationStatus(task(words)?)),
        word if is(word, "cancel") => wish(id, Admin::MigrationCancel(task(words)?)),
        _ => Err(misfit("MIGRATION")),
    }
}

/// What 40 hexadecimal digits name in the vocabularies of Redis 8.4 and Valkey 9.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// What the configuration with this number wants.
    Wish(u64),
    /// A run of moves from one group to another: the numbers of the first and the last, and their slots.
    Moves {
        /// Numbers; 0: they are not ordered yet.
        ids: (u64, u64),
        /// Slots.
        slots: SlotSpan,
    },
    /// Nothing that can be.
    Unknown,
}

/// In the place of the first move of a wish. No move gets this number.
const WISH_MARK: u64 = u64::MAX;

impl Task {
    /// Its name.
    pub fn name(self) -> String {
        match self {
            Task::Wish(config) => format!("{WISH_MARK:016x}{config:016x}00000000"),
            Task::Moves { ids: (first, last), slots } => {
                format!("{first:016x}{last:016x}{:04x}{:04x}", slots.0.0, slots.1.0)
            }
            Task::Unknown => "0".repeat(40),
        }
    }

    fn parse(name: &[u8]) -> Task {
        let hex = |range: std::ops::Range<usize>| {
            let text = name.get(range).and_then(|text| std::str::from_utf8(text).ok());
            text.and_then(|text| u64::from_str_radix(text, 16).ok())
        };
        let slot = |range| hex(range).filter(|number| *number < u64::from(SLOTS));
        let slot = |range| slot(range).map(|number| Slot(number as u16));
        match (name.len(), hex(0..16), hex(16..32), slot(32..36), slot(36..40)) {
            (40, Some(WISH_MARK), Some(config), ..) => Task::Wish(config),
            (40, Some(first), Some(last), Some(from), Some(to)) if from <= to => {
                Task::Moves { ids: (first, last), slots: (from, to) }
            }
            _ => Task::Unknown,
        }
    }
}

/// `CLUSTER GROUP CREATE [ID g] NODES id [id ...] [WEIGHT w] [REBALANCE] | DRAIN g | REMOVE g | WEIGHT g w`
pub fn groups(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let id = request_id(arguments)?;
    let words = &arguments[3..];
    match (&arguments[2], words) {
        (word, words) if is(word, "create") => wish(id, create(words)?),
        (word, [name]) if is(word, "drain") => {
            wish(id, Admin::Group(GroupWish::Drain(group(name)?)))
        }
        (word, [name]) if is(word, "remove") => {
            wish(id, Admin::Group(GroupWish::Remove(group(name)?)))
        }
        (word, [name, weight]) if is(word, "weight") => {
            let weight = count("WEIGHT", weight)?;
            wish(id, Admin::Group(GroupWish::SetWeight { group: group(name)?, weight }))
        }
        _ => Err(misfit("GROUP")),
    }
}

fn create(words: &[Bytes]) -> Result<Admin, ErrorText> {
    let (mut id, mut weight, mut nodes, mut rebalance) = (None, 1, Vec::new(), false);
    let is_option =
        |word: &Bytes| ["id", "nodes", "weight", "rebalance"].iter().any(|option| is(word, option));
    let mut rest = words;
    while let Some((word, more)) = rest.split_first() {
        let next = more.first().ok_or(SYNTAX_ERROR);
        rest = more.get(1..).unwrap_or_default();
        match word {
            word if is(word, "rebalance") => (rebalance, rest) = (true, more),
            word if is(word, "id") => id = Some(group(next?)?),
            word if is(word, "weight") => weight = count("WEIGHT", next?)?,
            word if is(word, "nodes") => {
                let end = more.iter().position(is_option).unwrap_or(more.len());
                nodes = more[..end].to_vec();
                rest = &more[end..];
            }
            _ => return Err(SYNTAX_ERROR),
        }
    }
    match nodes.is_empty() {
        true => Err(SYNTAX_ERROR),
        false => Ok(Admin::Group(GroupWish::Create { group: id, nodes, weight, rebalance })),
    }
}

fn config_number(text: &[u8]) -> Result<u64, ErrorText> {
    let number = shard_core::integer::parse_integer(text);
    number.and_then(|number| u64::try_from(number).ok()).ok_or_else(|| {
        let text = quote(text, QUOTED_BYTES_MAX);
        format!("ERR Invalid configuration '{text}', it is a number from 0 on").into()
    })
}

/// `CLUSTER CONFIG [n] | DIFF n m`
pub fn config(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    match &arguments[2..] {
        [] => wish(None, Admin::Config(None)),
        [number] => wish(None, Admin::Config(Some(config_number(number)?))),
        [diff, old, new] if is(diff, "diff") => {
            wish(None, Admin::ConfigDiff(config_number(old)?, config_number(new)?))
        }
        _ => Err(misfit("CONFIG")),
    }
}

/// Slots one by one. What each of them is comes before that it is named twice, as in Redis.
fn single_slots(words: &[Bytes]) -> Result<Vec<SlotSpan>, ErrorText> {
    words.iter().map(|word| slot(word).map(|slot| (slot, slot))).collect()
}

/// Slots by pairs. Redis counts its words first.
fn paired_slots(name: &str, words: &[Bytes]) -> Result<Vec<SlotSpan>, ErrorText> {
    match words.len().is_multiple_of(2) {
        true => spans(words),
        false => Err(super::wrong_arity(name)),
    }
}

/// `CLUSTER ADDSLOTS slot [slot ...]`
pub fn addslots(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    wish(None, Admin::AddSlots(single_slots(&arguments[2..])?))
}

/// `CLUSTER ADDSLOTSRANGE first last [first last ...]`
pub fn addslotsrange(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    wish(None, Admin::AddSlots(paired_slots("cluster|addslotsrange", &arguments[2..])?))
}

/// `CLUSTER DELSLOTS slot [slot ...]`
pub fn delslots(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    wish(None, Admin::DelSlots(single_slots(&arguments[2..])?))
}

/// `CLUSTER DELSLOTSRANGE first last [first last ...]`
pub fn delslotsrange(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    wish(None, Admin::DelSlots(paired_slots("cluster|delslotsrange", &arguments[2..])?))
}

/// `CLUSTER FLUSHSLOTS`
pub fn flushslots(_: &mut Arguments) -> Result<Call, ErrorText> {
    wish(None, Admin::FlushSlots)
}

/// What SETSLOT says of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetSlot {
    /// It goes to a group that this node leads.
    Migrating(Bytes),
    /// Said to the node that gets it: there is nothing to prepare here.
    Importing(Bytes),
    /// It stays.
    Stable,
    /// It is at a group that this node leads: waited for.
    Node(Bytes),
}

/// `CLUSTER SETSLOT slot MIGRATING id | IMPORTING id | NODE id | STABLE [TIMEOUT ms]`
pub fn setslot(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let slot = slot(&arguments[2])?;
    let mut words = &arguments[3..];
    let mut timeout_ms = None;
    if let [head @ .., word, number] = words
        && is(word, "timeout")
        && !head.is_empty()
    {
        timeout_ms = Some(count("TIMEOUT", number)?);
        words = head;
    }
    let how = match words {
        [word, node] if is(word, "migrating") => SetSlot::Migrating(node.clone()),
        [word, node] if is(word, "importing") => SetSlot::Importing(node.clone()),
        [word, node] if is(word, "node") => SetSlot::Node(node.clone()),
        [word] if is(word, "stable") => SetSlot::Stable,
        _ => {
            return Err("ERR Invalid CLUSTER SETSLOT action or number of arguments. \
                        Try CLUSTER HELP"
                .into());
        }
    };
    wish(None, Admin::SetSlot { slot, how, timeout_ms })
}

/// `CLUSTER EVACUATE id`
pub fn evacuate(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    wish(
        None,
        Admin::Node(NodeWish::SetEvacuated { node: super::take(arguments, 2), evacuated: true }),
    )
}

/// `CLUSTER ADMIT id`
pub fn admit(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    wish(
        None,
        Admin::Node(NodeWish::SetEvacuated { node: super::take(arguments, 2), evacuated: false }),
    )
}

/// `CLUSTER FORGET id`
pub fn forget(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    wish(None, Admin::Forget(super::take(arguments, 2)))
}

/// `CLUSTER REPLACE dead spare [GROUP g]`
pub fn replace(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let id = request_id(arguments)?;
    let (old, new, of) = match &arguments[2..] {
        [old, new] => (old, new, None),
        [old, new, word, number] if is(word, "group") => (old, new, Some(group(number)?)),
        _ => return Err(misfit("REPLACE")),
    };
    let (old, new) = (old.clone(), new.clone());
    wish(id, Admin::Node(NodeWish::Replace { old, new, group: of }))
}

/// `CLUSTER ADDVOTER id [GROUP g]`
pub fn addvoter(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    voter(arguments, true)
}

/// `CLUSTER DELVOTER id [GROUP g]`
pub fn delvoter(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    voter(arguments, false)
}

fn voter(arguments: &mut Arguments, add: bool) -> Result<Call, ErrorText> {
    let id = request_id(arguments)?;
    let (node, of) = match &arguments[2..] {
        [node] => (node, None),
        [node, word, number] if is(word, "group") => (node, Some(group(number)?)),
        _ => return Err(SYNTAX_ERROR),
    };
    wish(id, Admin::Node(NodeWish::SetVoter { node: node.clone(), group: of, add }))
}

/// `CLUSTER REPLICATE id`: this node becomes a voter of the group that the other leads.
pub fn replicate(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    wish(None, Admin::Node(NodeWish::Replicate(super::take(arguments, 2))))
}

/// `CLUSTER MEET ip port [peer-port [ID n]]`: the other node is asked who it is, unless all of it is said.
pub fn meet(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let port = |text: &Bytes| {
        let number = shard_core::integer::parse_integer(text);
        number.and_then(|number| u16::try_from(number).ok()).filter(|port| *port > 0)
    };
    // Longer than any host: the shardmaster has the sentence for what is too long.
    let (host, words) = (quote(&arguments[2], 2 * HOST_BYTES_MAX), &arguments[3..]);
    let invalid = || -> ErrorText {
        format!("ERR Invalid node address specified: {host}:{}", quote(&words[0], QUOTED_BYTES_MAX))
            .into()
    };
    if shard_core::integer::parse_integer(&words[0]).is_none() {
        let text = quote(&words[0], QUOTED_BYTES_MAX);
        return Err(format!("ERR Invalid TCP base port specified: {text}").into());
    }
    let resp = port(&words[0]).ok_or_else(invalid)?;
    let (peer, node) = match words {
        [_, peer, word, id] if is(word, "id") => {
            let id = shard_core::integer::parse_integer(id).and_then(|id| u64::try_from(id).ok());
            (port(peer).ok_or_else(invalid)?, id.ok_or(super::NOT_AN_INTEGER)?)
        }
        // What Redis calls the bus port is asked for as well.
        [_] | [_, _] => {
            return wish(None, Admin::Meet { host, port: resp });
        }
        _ => return Err(misfit("MEET")),
    };
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let (resp, peer) = (format!("{host}:{resp}"), format!("{host}:{peer}"));
    wish(None, Admin::Node(NodeWish::Meet { node, resp, peer }))
}

/// `CLUSTER SLOT-STATS SLOTSRANGE first last | ORDERBY metric [LIMIT n] [ASC | DESC]`
pub fn slot_stats(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    match &arguments[2..] {
        [word, first, last] if is(word, "slotsrange") => {
            let (first, last) = (slot(first)?, slot(last)?);
            if first > last {
                let text =
                    format!("ERR Start slot number {first} is greater than end slot number {last}");
                return Err(text.into());
            }
            wish(None, Admin::SlotStats { slots: (first, last), order: None })
        }
        [word, metric, options @ ..] if is(word, "orderby") => {
            let by = SlotMetric::ALL.into_iter().find(|by| is(metric, by.name()));
            let by = by.ok_or("ERR Unrecognized sort metric for ORDERBY.")?;
            let order = slot_order(by, options)?;
            let all = (Slot(0), Slot(SLOTS - 1));
            wish(None, Admin::SlotStats { slots: all, order: Some(order) })
        }
        _ => Err(misfit("SLOT-STATS")),
    }
}

fn slot_order(by: SlotMetric, options: &[Bytes]) -> Result<SlotOrder, ErrorText> {
    let (mut limit, mut ascending) = (None, None);
    let mut rest = options.iter();
    while let Some(word) = rest.next() {
        let is_second = match word {
            word if is(word, "asc") => ascending.replace(true).is_some(),
            word if is(word, "desc") => ascending.replace(false).is_some(),
            word if is(word, "limit") => {
                let number = shard_core::integer::parse_integer(rest.next().ok_or(SYNTAX_ERROR)?);
                let number = number.and_then(|number| u16::try_from(number).ok());
                let number = number.filter(|number| (1..=SLOTS).contains(number)).ok_or(
                    "ERR Limit has to lie in between 1 and 16384 (maximum number of slots).",
                )?;
                limit.replace(number).is_some()
            }
            _ => return Err(SYNTAX_ERROR),
        };
        if is_second {
            return Err("ERR Multiple filters of the same type are disallowed.".into());
        }
    }
    let (limit, ascending) = (limit.unwrap_or(SLOTS), ascending.unwrap_or(false));
    Ok(SlotOrder { by, limit, ascending })
}

/// How SLOT-STATS ORDERBY sorts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotOrder {
    /// By what.
    pub by: SlotMetric,
    /// Slots that are told, at most.
    pub limit: u16,
    /// The least first.
    pub ascending: bool,
}

/// What is told of a slot. CPU time and bytes on the network, which Valkey and Redis count if they are asked to, nobody
/// counts here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotMetric {
    /// Keys, as in both.
    KeyCount,
    /// Bytes of keys and values, in the place of what Redis 8.4 has allocated for them.
    MemoryBytes,
    /// Writes of the last seconds; nobody else tells these.
    RecentWrites,
}

impl SlotMetric {
    /// In the order in which they are told.
    pub const ALL: [SlotMetric; 3] =
        [SlotMetric::KeyCount, SlotMetric::MemoryBytes, SlotMetric::RecentWrites];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            SlotMetric::KeyCount => "key-count",
            SlotMetric::MemoryBytes => "memory-bytes",
            SlotMetric::RecentWrites => "recent-writes",
        }
    }
}

/// `CLUSTER SAVECONFIG`: what was answered is on a majority's disks already.
pub fn saveconfig(_: &mut Arguments) -> Result<Call, ErrorText> {
    super::answer(crate::reply::Reply::OK)
}

/// `CLUSTER SET-CONFIG-EPOCH`
pub fn set_config_epoch(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    match super::integer(arguments, 2)? {
        epoch @ ..0 => Err(format!("ERR Invalid config epoch specified: {epoch}").into()),
        _ => Err(
            "ERR The user can assign a config epoch only when the node does not know any other \
                  node."
                .into(),
        ),
    }
}

/// `CLUSTER RESET [HARD | SOFT]`
pub fn reset(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    match &arguments[2..] {
        [] => wish(None, Admin::Reset),
        [word] if is(word, "hard") || is(word, "soft") => wish(None, Admin::Reset),
        _ => Err(SYNTAX_ERROR),
    }
}

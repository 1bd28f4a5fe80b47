//! Commands that change the cluster: what an administrator types becomes an [`Admin`].
//!
//! Nothing here knows the cluster: names of nodes stay names until the command's turn has come.

use super::{Arguments, Barrier, Call, ErrorText, SYNTAX_ERROR, quote};
use bytes::Bytes;
use shard_core::GroupId;
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
        /// MAXMOVES.
        moves_max: Option<u32>,
    },
    /// CLUSTER REBALANCE PAUSE and RESUME.
    SetPaused(bool),
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
fn each_once(spans: &[SlotSpan]) -> Result<(), ErrorText> {
    let mut named = vec![false; usize::from(SLOTS)];
    for number in spans.iter().flat_map(|(first, last)| first.0..=last.0) {
        if std::mem::replace(&mut named[usize::from(number)], true) {
            return Err(format!("ERR Slot {number} specified multiple times").into());
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

/// `CLUSTER REBALANCE [MAXMOVES n] | PAUSE | RESUME | STATUS`
pub fn rebalance(arguments: &mut Arguments) -> Result<Call, ErrorText> {
    let id = request_id(arguments)?;
    let words = &arguments[2..];
    match words {
        [word] if is(word, "pause") => return wish(id, Admin::SetPaused(true)),
        [word] if is(word, "resume") => return wish(id, Admin::SetPaused(false)),
        [word] if is(word, "status") => {
            return Ok(Call::Local(super::Local::Cluster(super::Cluster::RebalanceStatus)));
        }
        _ => {}
    }
    let mut moves_max = None;
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match rest.next() {
            Some(number) if is(word, "maxmoves") => moves_max = Some(count("MAXMOVES", number)?),
            _ => return Err(SYNTAX_ERROR),
        }
    }
    wish(id, Admin::Rebalance { moves_max })
}

//! Exactly once and in order: lanes (`docs/guarantees.md`).

mod lanes;

pub use self::lanes::Lanes;

use crate::codec::{self, bytes_of, pieces_of};
use crate::data::OUTCOME_BYTES_MAX;
use crate::digest::Digest;
use crate::op::Outcome;
use crate::rows::{self, RowFault, RowValue};
use crate::shard_store::Epoch;
use bytes::Bytes;
use raft_core::id_type;
use serde::ser::SerializeSeq;
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::ops::RangeInclusive;

/// Whether an op that comes again is known again. Not so in the program that shows what that costs
/// (`make bench-lanes`).
pub const IS_EXACTLY_ONCE: bool = !cfg!(feature = "without-lanes");

id_type! {
    /// The place of an op in its lane, from 1. 0: before the first.
    Seq(u64)
}

id_type! {
    /// Milliseconds since the Unix epoch as a leader stamped them; the newest stamp applied is the
    /// group's log time. The log is the only clock.
    LogTime(u64)
}

/// Names a session of one router core with one group: 128 random bits, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub u128);

/// The bit that tells the ids of tokens from those of routers' sessions.
const TOKEN_BIT: u128 = 1 << 127;

impl SessionId {
    /// Of a router: 127 random bits.
    pub fn of_router(random: u128) -> SessionId {
        SessionId(random & !TOKEN_BIT)
    }

    /// Of a token, by a hash of what the client calls it.
    pub fn of_token(hash: u128) -> SessionId {
        SessionId(hash | TOKEN_BIT)
    }

    /// Whether it is the id of a token, or of an old router's session that looks like one.
    pub(crate) fn is_of_token(self) -> bool {
        self.0 & TOKEN_BIT != 0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// How far ahead of the log time it heard a router sets a session's deadline D.
pub const SESSION_LIFE_MS: u64 = 5 * 60 * 1000;
/// A deadline further ahead of the slot's log time than this is refused.
pub const SESSION_AHEAD_MS_MAX: u64 = 10 * 60 * 1000;
/// How many seqs of a lane may be unacknowledged: the group refuses seq > acked + this.
pub const LANE_WINDOW: u64 = 1024;
/// A reply of at most so many bytes, as [`Outcome::bytes`] counts them, is small. Small and large
/// ones have budgets apart, so that large ones cannot push out the answer of a counter; and a
/// router acknowledges a large one though its lane is idle.
pub const SMALL_REPLY_BYTES_MAX: u64 = 256;
/// Bytes of large replies that one lane remembers: room for the largest there can be, so that the
/// only op of a lane is answered again. A reply over it is not kept: the lane then knows that the op
/// was executed, but not what it answered. Small ones are bounded by [`LANE_WINDOW`] alone.
pub const LANE_REPLY_BYTES_MAX: u64 = REPLY_RECORD_BYTES + OUTCOME_BYTES_MAX as u64;
/// How long a token may be remembered, in milliseconds of log time: a day, and what a router adds to what it promises.
pub const TOKEN_WINDOW_MS: RangeInclusive<u32> = 1000..=25 * 60 * 60 * 1000;
/// Of a window so much may be lost by a move between groups whose clocks differ, in milliseconds of log time: less than
/// what routers add to the window that they promise.
pub const TOKEN_SPARE_MS: u64 = 30_000;
/// Bytes of a large reply that is remembered for a token.
pub const TOKEN_REPLY_BYTES_MAX: u64 = 64 << 10;
/// Bytes of large replies that all routers' lanes of a group remember; past it they are not kept either. Those
/// of tokens have half as much besides.
pub const GROUP_REPLY_BYTES_MAX: u64 = 256 << 20;
/// Bytes of small replies that they remember, and that tokens do besides.
pub const GROUP_SMALL_REPLY_BYTES_MAX: u64 = 256 << 20;
/// Routers' lanes of a group: 256 MiB of records. Past it new lanes are refused and none is evicted, since
/// an evicted lane would run a late copy of its ops again.
pub const GROUP_LANES_MAX: u64 = (256 << 20) / LANE_RECORD_BYTES;
/// Tokens that a group remembers besides: 128 MiB of records. Neither takes room from the other.
pub const GROUP_TOKENS_MAX: u64 = (128 << 20) / LANE_RECORD_BYTES;
/// What a lane is counted as in memory, without its replies: record, map and index entries,
/// room for one reply.
pub const LANE_RECORD_BYTES: u64 = 256;
/// What a remembered reply is counted as, besides the bytes it answers.
pub const REPLY_RECORD_BYTES: u64 = 48;
/// Records dropped by one entry. All lanes of a session share D, so one entry may find 16384 due;
/// a record that outlives D does no harm, since log time is compared with D first.
pub const LANES_DROPPED_PER_ENTRY_MAX: usize = 64;

/// The bounds of lanes and their replies. They decide what an op answers, so every replica of a
/// group must have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneLimits {
    /// Routers' lanes of the group; past it new ones are refused.
    pub lanes_max: u64,
    /// Tokens of the group; past it new ones are refused.
    pub tokens_max: u64,
    /// Bytes of large replies one lane remembers.
    pub lane_reply_bytes_max: u64,
    /// Bytes of large replies all lanes of routers remember; tokens remember half as much.
    pub group_reply_bytes_max: u64,
    /// Bytes of small replies they remember, and tokens as much.
    pub group_small_reply_bytes_max: u64,
}

impl LaneLimits {
    /// For the replies of tokens. The large ones have half as much, since they are remembered for long; of the small
    /// ones there are no more than fit.
    pub(crate) fn of_tokens(self) -> LaneLimits {
        LaneLimits {
            lane_reply_bytes_max: TOKEN_REPLY_BYTES_MAX,
            group_reply_bytes_max: self.group_reply_bytes_max / 2,
            ..self
        }
    }
}

impl Default for LaneLimits {
    fn default() -> LaneLimits {
        LaneLimits {
            lanes_max: GROUP_LANES_MAX,
            tokens_max: GROUP_TOKENS_MAX,
            lane_reply_bytes_max: LANE_REPLY_BYTES_MAX,
            group_reply_bytes_max: GROUP_REPLY_BYTES_MAX,
            group_small_reply_bytes_max: GROUP_SMALL_REPLY_BYTES_MAX,
        }
    }
}

/// Bytes of remembered replies, as the budgets count them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplyBytes {
    /// Of those up to [`SMALL_REPLY_BYTES_MAX`].
    pub small: u64,
    /// Of those over it.
    pub large: u64,
}

impl ReplyBytes {
    /// Both kinds.
    pub fn total(self) -> u64 {
        self.small + self.large
    }

    /// With `after` in the place of `before`, which is part of it.
    pub fn moved(self, before: ReplyBytes, after: ReplyBytes) -> ReplyBytes {
        ReplyBytes {
            small: self.small - before.small + after.small,
            large: self.large - before.large + after.large,
        }
    }

    /// With one reply more.
    fn with(self, outcome: &Outcome) -> ReplyBytes {
        self.moved(ReplyBytes::default(), ReplyBytes::of(outcome))
    }

    /// What one remembered reply counts as.
    fn of(outcome: &Outcome) -> ReplyBytes {
        let bytes = REPLY_RECORD_BYTES + outcome.bytes() as u64;
        if is_small(outcome) {
            ReplyBytes { small: bytes, large: 0 }
        } else {
            ReplyBytes { small: 0, large: bytes }
        }
    }
}

/// How many lanes there are, and what they remember.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneTally {
    /// How many.
    pub lanes: u64,
    /// What they remember.
    pub replies: ReplyBytes,
}

impl LaneTally {
    /// With a lane in the place of another; either may be none.
    pub(crate) fn replace(&mut self, before: Option<&Lane>, after: Option<&Lane>) {
        let replies = |lane: Option<&Lane>| lane.map_or(ReplyBytes::default(), Lane::reply_bytes);
        self.replies = self.replies.moved(replies(before), replies(after));
        self.lanes = self.lanes + u64::from(after.is_some()) - u64::from(before.is_some());
    }
}

/// Lanes of routers and of tokens, each within bounds of its own: neither takes room from the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneTallies {
    /// Of routers.
    pub routers: LaneTally,
    /// Of tokens.
    pub tokens: LaneTally,
}

impl LaneTallies {
    /// That of the kind which the id is of.
    pub(crate) fn of(&mut self, session: SessionId) -> &mut LaneTally {
        match session.is_of_token() {
            true => &mut self.tokens,
            false => &mut self.routers,
        }
    }

    /// Whether both are within their bounds.
    pub(crate) fn fit(&self, limits: &LaneLimits) -> bool {
        let fits = |tally: LaneTally, lanes_max, limits: LaneLimits| {
            tally.lanes <= lanes_max
                && tally.replies.small <= limits.group_small_reply_bytes_max
                && tally.replies.large <= limits.group_reply_bytes_max
        };
        fits(self.routers, limits.lanes_max, *limits)
            && fits(self.tokens, limits.tokens_max, limits.of_tokens())
    }
}

/// Whether a reply is small: see [`SMALL_REPLY_BYTES_MAX`].
pub fn is_small(outcome: &Outcome) -> bool {
    outcome.bytes() as u64 <= SMALL_REPLY_BYTES_MAX
}

/// What a group remembers of one session in one slot.
///
/// - Ops are executed in the order of their seqs, each once; `last` is the newest executed.
/// - Replies in `(acked, last]` are remembered, so a repeated op gets the answer of its execution.
/// - `acked` is raised by an executed op alone. A refused or repeated one that raised it would make
///   this record differ from a copy that is on its way to another group.
/// - `deadline` is the session's D, fixed for its life: a record may be dropped once log time is
///   past it, because from then on every op of the session is refused before lanes are looked at.
#[derive(Clone, Debug)]
pub struct Lane {
    deadline: LogTime,
    last: Seq,
    /// Of `last`. Most lanes remember no other one.
    newest: Reply,
    /// Of those before it. None: nothing is kept of them.
    older: Option<Box<Older>>,
    /// How many up to `last` are not acknowledged: what `acked` is, in half the space.
    unacked: u32,
    /// Its last change is noted for this checkpoint.
    noted: Epoch,
}

/// What a lane needs to know to execute its next op takes no more than a line of a processor's cache, with the session's id:
/// each op waits for it on each replica.
const _: () = assert!(size_of::<(SessionId, Lane)>() <= 64);

/// A remembered reply. What most writes answer is here, without a look elsewhere.
#[derive(Clone, Debug)]
enum Reply {
    /// It is not kept.
    Gone,
    Ok,
    Nil,
    Integer(i64),
    Other(Box<Outcome>),
}

impl Reply {
    fn of(outcome: &Outcome) -> Reply {
        match outcome {
            Outcome::Ok => Reply::Ok,
            Outcome::Nil => Reply::Nil,
            Outcome::Integer(number) => Reply::Integer(*number),
            other => Reply::Other(Box::new(other.clone())),
        }
    }

    fn into_outcome(self) -> Option<Outcome> {
        match self {
            Reply::Other(outcome) => Some(*outcome),
            small => small.outcome().map(Cow::into_owned),
        }
    }

    fn outcome(&self) -> Option<Cow<'_, Outcome>> {
        match self {
            Reply::Gone => None,
            Reply::Ok => Some(Cow::Owned(Outcome::Ok)),
            Reply::Nil => Some(Cow::Owned(Outcome::Nil)),
            Reply::Integer(number) => Some(Cow::Owned(Outcome::Integer(*number))),
            Reply::Other(outcome) => Some(Cow::Borrowed(&**outcome)),
        }
    }
}

/// Replies of a lane that are not acknowledged, but for the newest.
#[derive(Clone, Debug, Default)]
struct Older {
    /// In seq order. A seq of `(acked, last)` that is absent was executed, its reply not kept.
    replies: VecDeque<(Seq, Outcome)>,
    bytes: ReplyBytes,
}

impl Older {
    fn of(replies: VecDeque<(Seq, Outcome)>) -> Older {
        let counted = |sum: ReplyBytes, (_, outcome): &(Seq, Outcome)| sum.with(outcome);
        Older { bytes: replies.iter().fold(ReplyBytes::default(), counted), replies }
    }

    fn push(&mut self, seq: Seq, outcome: Outcome) {
        self.bytes = self.bytes.with(&outcome);
        self.replies.push_back((seq, outcome));
    }

    fn forget(&mut self, acked: Seq) {
        let known = self.replies.partition_point(|reply| reply.0 <= acked);
        for (_, gone) in self.replies.drain(..known) {
            self.bytes = self.bytes.moved(ReplyBytes::of(&gone), ReplyBytes::default());
        }
    }
}

/// What a lane says of an op.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It is the next: execute it, then [`Lane::remember`] its outcome.
    Execute,
    /// It was executed and answered this.
    Repeat(Cow<'a, Outcome>),
    /// It was executed, the reply was not kept.
    ReplyGone,
    /// It was executed and its answer acknowledged.
    Old,
    /// One before it was not executed yet.
    Gap {
        /// The last that was.
        last: Seq,
    },
    /// It is the next, but too many answers before it are unacknowledged.
    Window,
}

impl Lane {
    /// A lane in which nothing was executed.
    pub fn new(deadline: LogTime) -> Lane {
        Lane {
            deadline,
            last: Seq(0),
            newest: Reply::Gone,
            older: None,
            unacked: 0,
            noted: Epoch::default(),
        }
    }

    /// Of a token: its one op is the one after `before`, and its seq is a hash of it.
    pub fn of_token(deadline: LogTime, before: Seq) -> Lane {
        Lane { last: before, ..Lane::new(deadline) }
    }

    /// D of the session.
    pub fn deadline(&self) -> LogTime {
        self.deadline
    }

    /// D is later by so many milliseconds.
    pub(crate) fn last_longer(&mut self, ms: u64) {
        self.deadline = LogTime(self.deadline.0.saturating_add(ms));
    }

    /// The newest op executed.
    pub fn last(&self) -> Seq {
        self.last
    }

    /// Bytes of its remembered replies.
    pub fn reply_bytes(&self) -> ReplyBytes {
        let older = self.older.as_ref().map_or(ReplyBytes::default(), |older| older.bytes);
        self.newest.outcome().map_or(older, |newest| older.with(&newest))
    }

    /// Every op up to it was answered, and the sender has the answers.
    fn acked(&self) -> Seq {
        Seq(self.last.0 - u64::from(self.unacked))
    }

    /// What to do with op `seq`, whose sender has every answer up to `acked`.
    ///
    /// The window is looked at last, for the op that would be executed and no other: asked earlier,
    /// it would tell the sender of an executed op that nothing had changed. The sender of such an op
    /// has all its predecessors' answers on their way, so it can acknowledge them and send again.
    pub fn judge(&self, seq: Seq, acked: Seq) -> Verdict<'_> {
        if seq <= self.last {
            if seq <= self.acked() {
                return Verdict::Old;
            }
            return self.reply(seq).map_or(Verdict::ReplyGone, Verdict::Repeat);
        }
        if seq.0 - self.last.0 > 1 {
            return Verdict::Gap { last: self.last };
        }
        if seq.0 - self.acked().max(acked).0.min(seq.0) > LANE_WINDOW {
            return Verdict::Window;
        }
        Verdict::Execute
    }

    /// Notes that op `seq`, the one after the last, was executed; forgets replies up to `acked`.
    /// `group` is what the replies of all lanes of its kind take, this one's among them.
    pub fn remember(
        &mut self,
        seq: Seq,
        acked: Seq,
        outcome: &Outcome,
        limits: &LaneLimits,
        group: ReplyBytes,
    ) {
        assert!(seq.0 == self.last.0 + 1 && acked < seq, "op {seq} after {}", self.last);
        let before = self.reply_bytes();
        let acked = self.acked().max(acked);
        self.set_newest_aside(acked);
        self.last = seq;
        self.unacked = u32::try_from(seq.0 - acked.0).expect("a window of them");
        let with = self.reply_bytes().with(outcome);
        let all = group.moved(before, with);
        let fits = if is_small(outcome) {
            all.small <= limits.group_small_reply_bytes_max
        } else {
            with.large <= limits.lane_reply_bytes_max && all.large <= limits.group_reply_bytes_max
        };
        if fits {
            self.newest = Reply::of(outcome);
        }
    }

    /// Makes room for a newer reply; what is acknowledged is forgotten.
    fn set_newest_aside(&mut self, acked: Seq) {
        if let Some(older) = &mut self.older {
            older.forget(acked);
            if older.replies.is_empty() {
                self.older = None;
            }
        }
        let newest = std::mem::replace(&mut self.newest, Reply::Gone);
        if self.last > acked
            && let Some(outcome) = newest.into_outcome()
        {
            self.older.get_or_insert_default().push(self.last, outcome);
        }
    }

    /// What an op up to the last answered, if that is remembered.
    fn reply(&self, seq: Seq) -> Option<Cow<'_, Outcome>> {
        if seq == self.last {
            return self.newest.outcome();
        }
        let older = &self.older.as_ref()?.replies;
        let at = older.binary_search_by_key(&seq, |reply| reply.0).ok()?;
        Some(Cow::Borrowed(&older[at].1))
    }

    /// All that are remembered, in seq order.
    fn replies(&self) -> impl Iterator<Item = (Seq, Cow<'_, Outcome>)> {
        let older = self.older.iter().flat_map(|older| older.replies.iter());
        let older = older.map(|(seq, outcome)| (*seq, Cow::Borrowed(outcome)));
        older.chain(self.newest.outcome().map(|outcome| (self.last, outcome)))
    }

    /// What of the replies may be large, in their order.
    fn parts(&self) -> impl Iterator<Item = &Bytes> {
        let newest = match &self.newest {
            Reply::Other(outcome) => Some(&**outcome),
            Reply::Gone | Reply::Ok | Reply::Nil | Reply::Integer(_) => None,
        };
        let older = self.older.iter().flat_map(|older| older.replies.iter());
        older.map(|(_, outcome)| outcome).chain(newest).flat_map(Outcome::parts)
    }

    fn replies_len(&self) -> usize {
        self.older.as_ref().map_or(0, |older| older.replies.len())
            + usize::from(!matches!(self.newest, Reply::Gone))
    }

    /// Which checkpoint its last change is noted for.
    pub(crate) fn noted(&self) -> Epoch {
        self.noted
    }

    /// Its next change is noted for this one.
    pub(crate) fn set_noted(&mut self, epoch: Epoch) {
        self.noted = epoch;
    }

    /// Its row: all that two replicas must agree on. Large replies are shared, not copied.
    pub(crate) fn row(&self) -> RowValue {
        let all = (self.deadline, self.last, self.acked(), RepliesOf(self));
        (rows::versioned(), pieces_of(&all, self.parts()).into_iter().collect())
    }

    /// Reads its row.
    pub(crate) fn of_row(mut row: Bytes) -> Result<Lane, RowFault> {
        rows::unversioned(&mut row)?;
        let (deadline, last, acked, mut replies) =
            codec::whole::<(LogTime, Seq, Seq, VecDeque<(Seq, Outcome)>)>(&row)?;
        let ordered = replies.iter().zip(replies.iter().skip(1)).all(|(one, next)| one.0 < next.0);
        let (first, newest) = (replies.front(), replies.back());
        let within =
            first.is_none_or(|(seq, _)| *seq > acked) && newest.is_none_or(|(seq, _)| *seq <= last);
        // A lane begins with its first op, and none is acknowledged by itself.
        if acked >= last || !ordered || !within {
            return Err(RowFault::Value);
        }
        let unacked = u32::try_from(last.0 - acked.0).map_err(|_| RowFault::Value)?;
        let is_kept = newest.is_some_and(|(seq, _)| *seq == last);
        let newest = is_kept.then(|| replies.pop_back()).flatten();
        let newest = newest.map_or(Reply::Gone, |(_, outcome)| Reply::of(&outcome));
        let older = (!replies.is_empty()).then(|| Box::new(Older::of(replies)));
        Ok(Lane { deadline, last, newest, older, unacked, noted: Epoch::default() })
    }

    /// Adds everything that two replicas must agree on.
    pub(crate) fn digest(&self, digest: &mut Digest) {
        let acked = self.acked().0;
        digest.numbers(&[self.deadline.0, self.last.0, acked, self.replies_len() as u64]);
        for (seq, outcome) in self.replies() {
            digest.numbers(&[seq.0]);
            digest.bytes(&bytes_of(&*outcome));
        }
    }
}

/// The replies of a lane as its row has them: a sequence of seqs with what they answered.
struct RepliesOf<'a>(&'a Lane);

impl Serialize for RepliesOf<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut replies = serializer.serialize_seq(Some(self.0.replies_len()))?;
        self.0.replies().try_for_each(|(seq, reply)| replies.serialize_element(&(seq, &*reply)))?;
        replies.end()
    }
}

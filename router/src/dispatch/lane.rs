//! One lane: the ops of one slot in one session, in the order of their seqs.
//!
//! Go-back-N: `next` is the first op to send (again); nothing after it is in flight. Whatever goes
//! wrong moves `next` back, never forward, so that a seq leaves only behind all lower ones.

use super::OP_BYTES;
use super::book::{Attempt, Book, Connection, Ticket};
use crate::backend::{Answered, Refusal};
use shard_core::op::{Op, Outcome};
use shard_core::session::{LogTime, Seq, SessionId, is_small};
use shard_core::slot::Slot;
use shard_core::wire::Answer;
use shard_core::{GroupId, NodeId};
use std::collections::{BTreeMap, VecDeque};

/// How many earlier attempts of an op are still recognised when their answers come late. What falls
/// out is as good as lost on the way.
const ATTEMPTS_KEPT_MAX: usize = 4;

/// Where an op with a seq stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// To be sent, or sent again.
    Waiting,
    /// The attempt of this id is with this node.
    InFlight(u64, NodeId),
    /// The lane has answered.
    Answered,
    /// Surely not executed in this lane, now or later: goes on in a new one, as if never sent.
    Rerun,
}

/// An op that is not answered yet.
#[derive(Clone, Debug)]
pub(super) struct PendingOp {
    /// What to do. A void once nobody waits and the op may be given up.
    pub(super) op: Op,
    /// Whether the op as submitted can change state.
    pub(super) write: bool,
    /// Where it came from. None: the dispatcher's own.
    pub(super) connection: Option<Connection>,
    /// Who waits. None: answered already, or the client went.
    pub(super) ticket: Option<Ticket>,
    /// When it was submitted.
    pub(super) submitted: u64,
    /// The client's deadline.
    pub(super) promised: u64,
    /// When it is looked at next: at the client's deadline, and from time to time after it.
    pub(super) deadline: u64,
    /// The group in whose bounds it counts.
    pub(super) group: GroupId,
    /// What it weighs in the bounds.
    pub(super) bytes: usize,
    /// Where it stands.
    pub(super) fate: Fate,
    /// When the latest attempt left.
    pub(super) sent_at: u64,
    /// Frames that ever left for its seq.
    pub(super) frames: u32,
    /// Of those, the ones that may have had, or have yet, an effect: no answer says otherwise.
    pub(super) open: u32,
    /// What its first frame acknowledged: later ones acknowledge no less, but may not be executed.
    pub(super) told: Seq,
    /// Earlier attempts whose answers would still tell something, oldest first.
    pub(super) older: Vec<u64>,
}

impl PendingOp {
    /// One that nobody waits for and that was not sent; it weighs what an op without keys does.
    pub(super) fn new(op: Op, group: GroupId, now: u64, deadline: u64) -> PendingOp {
        PendingOp {
            write: op.is_write(),
            op,
            connection: None,
            ticket: None,
            submitted: now,
            promised: deadline,
            deadline,
            group,
            bytes: OP_BYTES,
            fate: Fate::Waiting,
            sent_at: 0,
            frames: 0,
            open: 0,
            told: Seq(0),
            older: Vec::new(),
        }
    }

    /// What to tell the client when the group's answer is not to be had.
    pub(super) fn refusal(&self, now: u64, sure: Refusal) -> Refusal {
        if self.write && self.open > 0 { self.unknown(now) } else { sure }
    }

    /// Nobody knows whether it was executed. The deadline may be noticed late; what the client is
    /// told is the time it was promised.
    pub(super) fn unknown(&self, now: u64) -> Refusal {
        let until = now.min(self.promised);
        Refusal::Unknown { waited_ms: until.saturating_sub(self.submitted) / 1_000_000 }
    }

    /// What is in flight is not waited for any more.
    fn take_back(&mut self, book: &mut Book) {
        let Fate::InFlight(id, node) = self.fate else { return };
        book.release(node, self.bytes);
        self.fate = Fate::Waiting;
        self.older.push(id);
        if self.older.len() > ATTEMPTS_KEPT_MAX {
            book.attempts.remove(&self.older.remove(0));
        }
    }

    /// Whether its client is at the deadline and could still hear more than "unknown": from a void.
    pub(super) fn may_hear_more(&self) -> bool {
        self.ticket.is_some() && self.write && self.open > 0 && self.deadline == self.promised
    }

    /// Fills the seq without effect if it has had none so far: the lane needs every seq filled.
    /// Only for an op whose client was answered, or is by what the lane says to this.
    pub(super) fn make_void(&mut self) {
        self.op = void();
    }
}

/// The op without a key: fills a seq, has no effect, and answers what no client's op does.
fn void() -> Op {
    Op::MGet { keys: Vec::new() }
}

/// Whether a void answered this: the seq is filled, and the op never will be executed.
pub(super) fn is_voided(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Values(values) if values.is_empty())
}

/// The ops of one slot in one session.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    /// The session.
    pub(super) session: SessionId,
    /// Its D.
    pub(super) deadline: LogTime,
    /// Every seq up to this one is answered; `ops[0]` has the next.
    pub(super) acked: Seq,
    /// Ops with a seq, those that were answered before a lower one among them.
    pub(super) ops: VecDeque<PendingOp>,
    /// Index of the first op that may have to be sent.
    pub(super) next: usize,
    /// The session is over or refused: no new op joins, and what is left is answered, or goes on in
    /// a new session's lane once nothing in this one waits any more.
    pub(super) closing: bool,
    /// Of each connection with ops that are not answered: how many, and the newest.
    newest: BTreeMap<Connection, (usize, Seq)>,
    /// The newest seq whose answer was large, until an acknowledgement of it is on its way.
    large: Option<Seq>,
}

impl Lane {
    /// An empty one.
    pub(super) fn new(session: SessionId, deadline: LogTime) -> Lane {
        Lane {
            session,
            deadline,
            acked: Seq(0),
            ops: VecDeque::new(),
            next: 0,
            closing: false,
            newest: BTreeMap::new(),
            large: None,
        }
    }

    /// Gives an op the next seq. Returns its index.
    pub(super) fn push(&mut self, op: PendingOp) -> usize {
        let index = self.ops.len();
        let seq = self.seq_at(index);
        if let Some(connection) = op.connection {
            let newest = self.newest.entry(connection).or_insert((0, seq));
            *newest = (newest.0 + 1, seq);
        }
        self.ops.push_back(op);
        index
    }

    /// The newest op of a connection, if one of its ops is not answered.
    pub(super) fn newest_of(&self, connection: Option<Connection>) -> Option<Seq> {
        self.newest.get(&connection?).map(|(_, seq)| *seq)
    }

    /// Whether an op is not answered.
    pub(super) fn awaits(&self, seq: Seq) -> bool {
        self.index_of(seq).is_some_and(|index| self.ops[index].fate != Fate::Answered)
    }

    /// The seq of the op at an index.
    pub(super) fn seq_at(&self, index: usize) -> Seq {
        Seq(self.acked.0 + 1 + index as u64)
    }

    /// Where a seq stands in `ops`.
    pub(super) fn index_of(&self, seq: Seq) -> Option<usize> {
        let index = usize::try_from(seq.0.checked_sub(self.acked.0 + 1)?).ok()?;
        (index < self.ops.len()).then_some(index)
    }

    /// Index of the next op to send again, if any.
    pub(super) fn resend(&mut self) -> Option<usize> {
        while self.next < self.ops.len() {
            if self.ops[self.next].fate == Fate::Waiting {
                return Some(self.next);
            }
            self.next += 1;
        }
        None
    }

    /// Sends everything from `from` on again. What is in flight there is not waited for any more; an
    /// answer that says "executed" still counts when it comes.
    pub(super) fn rewind(&mut self, from: usize, book: &mut Book) {
        for op in self.ops.range_mut(from.min(self.ops.len())..) {
            op.take_back(book);
        }
        self.next = self.next.min(from);
    }

    /// Asks with a void what became of the op at `index`. Those behind it stay where they are.
    pub(super) fn ask_again(&mut self, index: usize, book: &mut Book) {
        self.ops[index].make_void();
        self.ops[index].take_back(book);
        self.next = self.next.min(index);
    }

    /// Notes an attempt for the op at `index`, which is the one `resend` gave or the newest.
    pub(super) fn sent(
        &mut self,
        index: usize,
        slot: Slot,
        node: NodeId,
        now: u64,
        book: &mut Book,
    ) -> u64 {
        let seq = self.seq_at(index);
        let id = book.attempt(Attempt::Op { slot, seq });
        let acked = self.acked;
        let op = &mut self.ops[index];
        op.fate = Fate::InFlight(id, node);
        if op.frames == 0 {
            op.told = acked;
        }
        op.sent_at = now;
        op.frames += 1;
        op.open += 1;
        if op.frames > 1 {
            book.stats.retries += 1;
        }
        book.charge(node, op.bytes);
        self.next = index + 1;
        id
    }

    /// Answers the op at `index` for good: its client, if one waits, and the lane's book.
    pub(super) fn settle(&mut self, index: usize, answer: Answered, book: &mut Book) {
        let seq = self.seq_at(index);
        let told = self.ops[index].told;
        self.large = self.large.filter(|large| *large > told);
        if matches!(&answer, Answered::Outcome(outcome) if !is_small(outcome)) {
            self.large = self.large.max(Some(seq));
        }
        let op = &mut self.ops[index];
        if let Fate::InFlight(id, node) = op.fate {
            book.release(node, op.bytes);
            book.attempts.remove(&id);
        }
        for id in op.older.drain(..) {
            book.attempts.remove(&id);
        }
        op.fate = Fate::Answered;
        if let Some(connection) = op.connection
            && let Some((count, _)) = self.newest.get_mut(&connection)
        {
            *count -= 1;
            if *count == 0 {
                self.newest.remove(&connection);
            }
        }
        book.answer(&mut op.ticket, answer);
        book.forget(op.group, op.deadline, op.bytes);
    }

    /// Takes answered ops off the front; what they were can be acknowledged to the group.
    pub(super) fn acknowledge(&mut self) {
        while self.ops.front().is_some_and(|op| op.fate == Fate::Answered) {
            self.ops.pop_front();
            self.acked.0 += 1;
            self.next = self.next.saturating_sub(1);
        }
    }

    /// Whether the group remembers a large reply that was answered, and nothing is on its way that
    /// would tell it so.
    pub(super) fn owes_acknowledgement(&self) -> bool {
        self.large.is_some() && self.ops.is_empty() && !self.closing
    }

    /// Adds an op that acknowledges every answer, if one is owed; at most once for an answer.
    pub(super) fn owe_nothing(
        &mut self,
        group: GroupId,
        now: u64,
        deadline: u64,
        book: &mut Book,
    ) -> bool {
        let owed = self.owes_acknowledgement();
        if owed {
            self.large = None;
            // Only what its frame acknowledges matters.
            let op = PendingOp::new(void(), group, now, deadline);
            book.remember(group, deadline, op.bytes);
            self.ops.push_back(op);
        }
        owed
    }

    /// Whether the group says it remembers less than it once answered: it forgot the lane.
    pub(super) fn is_lost(&self, last: Seq) -> bool {
        let answered = self.ops.iter().rposition(|op| op.fate == Fate::Answered);
        last < answered.map_or(self.acked, |index| self.seq_at(index))
    }

    /// Whether everything in a closing lane is answered or may go on elsewhere.
    pub(super) fn is_left(&self) -> bool {
        self.closing && self.ops.iter().all(|op| matches!(op.fate, Fate::Answered | Fate::Rerun))
    }
}

/// Whether an answer says that its attempt changed nothing, and never will.
pub(super) fn had_no_effect(answer: &Answer) -> bool {
    match answer {
        Answer::NotLeader { .. }
        | Answer::Busy
        | Answer::Elsewhere
        | Answer::Expired { .. }
        | Answer::DeadlineTooFar { .. }
        | Answer::Gap { .. }
        | Answer::Window
        | Answer::Invalid
        | Answer::LanesFull
        | Answer::Frozen
        | Answer::Moved { .. } => true,
        Answer::Done { .. }
        | Answer::Group(_)
        | Answer::Master(_)
        | Answer::LogTime(_)
        | Answer::Lost
        | Answer::Old
        | Answer::ReplyGone => false,
    }
}

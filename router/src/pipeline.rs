//! The commands of one connection that are not answered yet, in the order they came: replies go out
//! in that order, each in the protocol of its place.

use crate::backend::{Answered, Target, Work};
use crate::barrier::{Asks, BarrierRun, Refusals};
use crate::commands::{Barrier, Join, Split};
use crate::connection::EXPECTED_BYTES_MAX;
use crate::redirect::Scope;
use crate::reply::{
    Protocol, Reply, Shape, UNFIT_ANSWER, answer_bytes, op_error_text, put_answer, put_integer,
    put_values,
};
use crate::window::{AnswerWindow, answers_values};
use bytes::{Bytes, BytesMut};
use shard_core::NodeId;
use shard_core::op::{Op, Outcome};
use shard_core::slot::Slot;
use shard_core::wire::ClusterView;
use std::collections::VecDeque;

/// See the module.
#[derive(Debug)]
pub struct Pipeline {
    entries: VecDeque<Entry>,
    next_tag: u64,
    /// Submitted and not answered.
    waiting: usize,
    /// Bytes of the arguments of entries that are not written.
    asked_bytes: usize,
    /// Bytes of answers and replies that are not written.
    ready_bytes: usize,
    /// Of the answers that waiting commands want, those without a small bound.
    window: AnswerWindow,
    /// Error replies since they were last taken.
    errors: u64,
}

#[derive(Debug)]
struct Entry {
    /// Its answers have the tags from this one up to the next entry's.
    first_tag: u64,
    protocol: Protocol,
    asked_bytes: usize,
    ready_bytes: usize,
    /// Its answers have no small bound, and count in the window.
    values: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Already bytes.
    Ready(Bytes),
    /// One op. A GET has what it takes to be asked again.
    One { shape: Shape, answer: Option<Answered>, again: Option<(Slot, Op)> },
    /// Several ops.
    Joined(Box<Joined>),
    /// Waits to be the first.
    Blocked(Barrier),
    /// Is the first, and the only one.
    Running(Box<BarrierRun>),
}

#[derive(Debug)]
struct Joined {
    /// Of each part, where its values go; emptied when it is answered.
    places: Vec<Vec<u32>>,
    waiting: usize,
    write: bool,
    refusals: Refusals,
    sum: i64,
    values: Option<Vec<Option<Bytes>>>,
}

impl Pipeline {
    /// An empty one.
    pub fn new() -> Pipeline {
        Pipeline {
            entries: VecDeque::new(),
            next_tag: 0,
            waiting: 0,
            asked_bytes: 0,
            ready_bytes: 0,
            window: AnswerWindow::new(),
            errors: 0,
        }
    }

    /// Whether nothing waits for its reply.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Commands not answered yet.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Requests to groups that are under way.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Bytes of arguments whose commands are not answered yet.
    pub fn asked_bytes(&self) -> usize {
        self.asked_bytes
    }

    /// Bytes of answers that wait for their turn.
    pub fn ready_bytes(&self) -> usize {
        self.ready_bytes
    }

    /// Whether a command whose answer has no small bound may be appended, while `output_bytes` of
    /// replies wait for the client elsewhere.
    pub fn may_ask_values(&self, output_bytes: usize) -> bool {
        self.window.is_open(self.ready_bytes.saturating_add(output_bytes))
    }

    /// Whether a command that later ones must wait for is not answered.
    pub fn is_blocked(&self) -> bool {
        matches!(
            self.entries.back(),
            Some(Entry { state: State::Blocked(_) | State::Running(_), .. })
        )
    }

    /// Whether the reply of the first command is known.
    pub fn front_is_ready(&self) -> bool {
        self.entries.front().is_some_and(Entry::is_ready)
    }

    fn push(&mut self, protocol: Protocol, asked_bytes: usize, values: bool, state: State) {
        self.asked_bytes += asked_bytes;
        let first_tag = self.next_tag;
        let entry = Entry { first_tag, protocol, asked_bytes, ready_bytes: 0, values, state };
        self.entries.push_back(entry);
    }

    fn tag(&mut self) -> u64 {
        let tag = self.next_tag;
        self.next_tag += 1;
        self.waiting += 1;
        tag
    }

    /// Appends a reply that is known: to `output` at once, if nothing is before it.
    pub fn push_reply(&mut self, protocol: Protocol, reply: &Reply, output: &mut BytesMut) {
        if self.entries.is_empty() {
            let at = output.len();
            reply.encode(protocol, output);
            self.count_error(output, at);
            return;
        }
        let mut bytes = BytesMut::new();
        reply.encode(protocol, &mut bytes);
        let ready_bytes = bytes.len();
        self.push(protocol, 0, false, State::Ready(bytes.freeze()));
        self.count_ready(self.entries.len() - 1, ready_bytes);
    }

    /// Appends a command that is this one op; returns the tag to submit it under.
    pub fn push_one(
        &mut self,
        protocol: Protocol,
        (slot, op): (Slot, &Op),
        shape: Shape,
        asked_bytes: usize,
    ) -> u64 {
        let values = answers_values(op);
        let again = matches!(op, Op::Get { .. }).then(|| (slot, op.clone()));
        self.push(protocol, asked_bytes, values, State::One { shape, answer: None, again });
        self.window.asked(usize::from(values));
        self.tag()
    }

    /// Appends a command of several ops; returns what to submit.
    pub fn push_split(
        &mut self,
        protocol: Protocol,
        split: Split,
        asked_bytes: usize,
    ) -> Vec<(u64, Target, Work)> {
        let mut places = Vec::with_capacity(split.parts.len());
        let mut submits = Vec::with_capacity(split.parts.len());
        let mut write = false;
        for (slot, op, of_part) in split.parts {
            write |= op.is_write();
            places.push(of_part);
            submits.push((Target::Slot(slot), Work::Op(op)));
        }
        let values = match split.join {
            Join::Values(count) => Some(vec![None; count]),
            Join::Sum => None,
        };
        let joined = Joined {
            waiting: places.len(),
            places,
            write,
            refusals: Refusals::default(),
            sum: 0,
            values,
        };
        let answers = if joined.values.is_some() { submits.len() } else { 0 };
        self.push(protocol, asked_bytes, answers > 0, State::Joined(Box::new(joined)));
        self.window.asked(answers);
        self.tagged(submits)
    }

    fn tagged(&mut self, asks: Asks) -> Vec<(u64, Target, Work)> {
        asks.into_iter().map(|(target, work)| (self.tag(), target, work)).collect()
    }

    /// Appends a command that starts when all before it are answered.
    pub fn push_barrier(&mut self, protocol: Protocol, barrier: Barrier) {
        self.push(protocol, 0, false, State::Blocked(barrier));
    }

    /// Starts the barrier command whose turn it is, if any; returns what to submit.
    /// `node` is the one in this process, `scope` what commands on whole groups are about.
    pub fn start_barrier(
        &mut self,
        view: &ClusterView,
        node: Option<NodeId>,
        scope: &Scope,
    ) -> Vec<(u64, Target, Work)> {
        match self.entries.front_mut() {
            Some(Entry { state, .. }) if matches!(state, State::Blocked(_)) => {
                let blocked = std::mem::replace(state, State::Ready(Bytes::new()));
                let State::Blocked(barrier) = blocked else { return Vec::new() };
                let (run, asks) = BarrierRun::start(barrier, view, node, scope);
                *state = State::Running(Box::new(run));
                self.tagged(asks)
            }
            _ => Vec::new(),
        }
    }

    /// Takes the answer with this tag; returns what to submit next.
    pub fn answer(&mut self, tag: u64, answer: Answered) -> Vec<(u64, Target, Work)> {
        let bytes = answer_bytes(&answer);
        self.waiting = self.waiting.saturating_sub(1);
        let at = self.entries.partition_point(|entry| entry.first_tag <= tag);
        let at = at.checked_sub(1).filter(|at| self.entries[*at].has_tag(tag));
        let Some(at) = at else {
            // Of a GET that was put back.
            self.window.answered(bytes);
            return Vec::new();
        };
        self.count_ready(at, bytes);
        let entry = &mut self.entries[at];
        if entry.values {
            self.window.answered(bytes);
        }
        match &mut entry.state {
            State::One { answer: place, .. } => *place = Some(answer),
            State::Joined(joined) => joined.answer((tag - entry.first_tag) as usize, answer),
            State::Running(run) => {
                let asks = run.answer(answer);
                return self.tagged(asks);
            }
            State::Ready(_) | State::Blocked(_) => {}
        }
        Vec::new()
    }

    /// Takes back GETs behind more answers than the window is meant for, when values turn large all
    /// at once; they are to be appended again, in this order, before anything else. All that were
    /// appended behind the first of them are among them, so that no later command is executed before
    /// an earlier one: with anything else at the end there are none.
    pub fn put_back(&mut self) -> Vec<PutBack> {
        if self.ready_bytes <= EXPECTED_BYTES_MAX {
            return Vec::new();
        }
        let mut kept_bytes = 0;
        let fit = self.entries.iter().take_while(|entry| {
            kept_bytes += entry.ready_bytes;
            kept_bytes <= EXPECTED_BYTES_MAX
        });
        // The first stays: every round gets one reply out.
        let keep = fit.count().max(1);
        let mut back = Vec::new();
        while self.entries.len() > keep
            && self.entries.back().is_some_and(Entry::is_get)
            && let Some(entry) = self.entries.pop_back()
        {
            self.ready_bytes -= entry.ready_bytes;
            self.asked_bytes -= entry.asked_bytes;
            if let State::One { shape, again: Some((slot, op)), .. } = entry.state {
                back.push(PutBack { slot, op, shape, asked_bytes: entry.asked_bytes });
            }
        }
        back.reverse();
        back
    }

    fn count_ready(&mut self, at: usize, bytes: usize) {
        self.entries[at].ready_bytes += bytes;
        self.ready_bytes += bytes;
    }

    /// Counts the reply that begins there, if it is an error.
    fn count_error(&mut self, output: &BytesMut, at: usize) {
        self.errors += u64::from(output.get(at) == Some(&b'-'));
    }

    /// Error replies since the last call.
    pub fn take_errors(&mut self) -> u64 {
        std::mem::take(&mut self.errors)
    }

    /// Appends the replies whose turn has come to `output`, until it holds `output_bytes_max`.
    pub fn write_ready(&mut self, output: &mut BytesMut, output_bytes_max: usize) {
        while output.len() < output_bytes_max
            && let Some(entry) = self.entries.front()
        {
            if !entry.is_ready() {
                return;
            }
            let at = output.len();
            entry.put(output);
            self.ready_bytes -= entry.ready_bytes;
            self.asked_bytes -= entry.asked_bytes;
            self.entries.pop_front();
            self.count_error(output, at);
        }
        if self.entries.is_empty() && self.entries.capacity() > ENTRIES_KEPT_MAX {
            self.entries = VecDeque::new();
        }
    }
}

/// A queue of entries that grew past this gives its memory back when it is empty.
const ENTRIES_KEPT_MAX: usize = 256;

/// A GET that is to be appended again.
#[derive(Debug, PartialEq, Eq)]
pub struct PutBack {
    /// As it was appended.
    pub slot: Slot,
    /// As it was appended.
    pub op: Op,
    /// As it was appended.
    pub shape: Shape,
    /// As it was appended.
    pub asked_bytes: usize,
}

impl Entry {
    fn is_get(&self) -> bool {
        matches!(self.state, State::One { again: Some(_), .. })
    }

    /// Whether the answer with this tag, not smaller than its first, is one of its own.
    fn has_tag(&self, tag: u64) -> bool {
        match &self.state {
            State::Ready(_) | State::Blocked(_) => false,
            State::One { .. } => tag == self.first_tag,
            State::Joined(joined) => tag - self.first_tag < joined.places.len() as u64,
            // Nothing is behind it, and what was put back had earlier tags.
            State::Running(_) => true,
        }
    }

    fn is_ready(&self) -> bool {
        match &self.state {
            State::Ready(_) => true,
            State::One { answer, .. } => answer.is_some(),
            State::Joined(joined) => joined.waiting == 0,
            State::Running(run) => run.is_answered(),
            State::Blocked(_) => false,
        }
    }

    /// Appends its reply; it is ready.
    fn put(&self, output: &mut BytesMut) {
        match &self.state {
            State::Ready(bytes) => output.extend_from_slice(bytes),
            State::One { shape, answer, .. } => {
                answer.iter().for_each(|answer| put_answer(output, self.protocol, *shape, answer));
            }
            State::Joined(joined) => joined.put(self.protocol, output),
            State::Running(run) => run.reply().encode(self.protocol, output),
            State::Blocked(_) => {}
        }
    }
}

impl Joined {
    fn answer(&mut self, part: usize, answer: Answered) {
        self.waiting = self.waiting.saturating_sub(1);
        let places = self.places.get_mut(part).map(std::mem::take).unwrap_or_default();
        match (answer, &mut self.values) {
            (Answered::Refused(refusal), _) => self.refusals.note(refusal),
            (Answered::Outcome(Outcome::Error(error)), _) => {
                self.refusals.note_error(op_error_text(error).into_owned());
            }
            (Answered::Outcome(Outcome::Integer(count)), None) => {
                self.refusals.note_done();
                self.sum = self.sum.saturating_add(count);
            }
            (Answered::Outcome(Outcome::Values(part)), Some(values))
                if part.len() == places.len() =>
            {
                self.refusals.note_done();
                for (place, value) in places.into_iter().zip(part) {
                    if let Some(into) = values.get_mut(place as usize) {
                        *into = value;
                    }
                }
            }
            (
                Answered::Outcome(_) | Answered::Group(_) | Answered::Master(_) | Answered::Met(_),
                _,
            ) => {
                self.refusals.note_error(UNFIT_ANSWER.into());
            }
        }
    }

    fn put(&self, protocol: Protocol, output: &mut BytesMut) {
        match (self.refusals.text(self.write), &self.values) {
            (Some(error), _) => Reply::error(error).encode(protocol, output),
            (None, Some(values)) => put_values(output, protocol, values),
            (None, None) => put_integer(output, b':', self.sum),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(pipeline: &mut Pipeline) -> u64 {
        let op = Op::Get { key: Bytes::from_static(b"k") };
        pipeline.push_one(Protocol::Resp2, (Slot(1), &op), Shape::Plain, 0)
    }

    #[test]
    fn only_answers_without_a_small_bound_count_in_the_window() {
        let mut pipeline = Pipeline::new();
        let strlen = Op::Strlen { key: Bytes::from_static(b"k") };
        for _ in 0..1000 {
            pipeline.push_one(Protocol::Resp2, (Slot(1), &strlen), Shape::Plain, 0);
        }
        assert!(pipeline.may_ask_values(0));
        get(&mut pipeline);
        assert!(pipeline.may_ask_values(0));
        let tag = get(&mut pipeline);
        assert!(!pipeline.may_ask_values(0));
        pipeline.answer(tag, Answered::Outcome(Outcome::Nil));
        assert!(pipeline.may_ask_values(0));
    }

    #[test]
    fn a_command_over_slots_counts_its_parts() {
        let mut pipeline = Pipeline::new();
        let part = |slot, at| (Slot(slot), Op::MGet { keys: vec![Bytes::new()] }, vec![at]);
        let split = Split { parts: vec![part(1, 0), part(2, 1)], join: Join::Values(2) };
        assert_eq!(pipeline.push_split(Protocol::Resp2, split, 0).len(), 2);
        assert!(!pipeline.may_ask_values(0));
    }

    #[test]
    fn gets_behind_too_many_bytes_are_put_back_and_their_answers_forgotten() {
        let value = || Answered::Outcome(Outcome::Value(vec![0; EXPECTED_BYTES_MAX / 4].into()));
        let mut pipeline = Pipeline::new();
        let tags: Vec<u64> = (0..8).map(|_| get(&mut pipeline)).collect();
        assert!(pipeline.put_back().is_empty());
        for tag in &tags[..5] {
            pipeline.answer(*tag, value());
        }
        assert_eq!(pipeline.put_back().len(), 5);
        assert!(pipeline.ready_bytes() <= EXPECTED_BYTES_MAX);
        let ready_bytes = pipeline.ready_bytes();
        for tag in &tags[5..] {
            pipeline.answer(*tag, value());
        }
        assert_eq!((pipeline.ready_bytes(), pipeline.waiting()), (ready_bytes, 0));
        let again = get(&mut pipeline);
        pipeline.answer(again, value());
        let mut output = BytesMut::new();
        pipeline.write_ready(&mut output, usize::MAX);
        assert!(pipeline.is_empty() && output.len() > EXPECTED_BYTES_MAX);
    }

    #[test]
    fn error_replies_are_counted_wherever_they_come_from() {
        let mut pipeline = Pipeline::new();
        let mut output = BytesMut::new();
        let refused = Reply::error("ERR syntax error");
        pipeline.push_reply(Protocol::Resp2, &refused, &mut output);
        let answers = [
            Answered::Refused(crate::backend::Refusal::ClusterDown),
            Answered::Outcome(Outcome::Nil),
            Answered::Outcome(Outcome::Error(shard_core::op::OpError::NotAnInteger)),
        ];
        for answer in answers {
            let tag = get(&mut pipeline);
            pipeline.push_reply(Protocol::Resp2, &refused, &mut output);
            pipeline.answer(tag, answer);
        }
        pipeline.write_ready(&mut output, usize::MAX);
        assert_eq!((pipeline.take_errors(), pipeline.take_errors()), (6, 0));
    }

    #[test]
    fn nothing_is_put_back_before_a_write() {
        let mut pipeline = Pipeline::new();
        let tags: Vec<u64> = (0..3).map(|_| get(&mut pipeline)).collect();
        let delete = Op::Del { keys: vec![Bytes::from_static(b"k")] };
        pipeline.push_one(Protocol::Resp2, (Slot(1), &delete), Shape::Plain, 0);
        let value = Bytes::from(vec![0; EXPECTED_BYTES_MAX]);
        for tag in tags {
            pipeline.answer(tag, Answered::Outcome(Outcome::Value(value.clone())));
        }
        assert!(pipeline.put_back().is_empty());
        get(&mut pipeline);
        assert_eq!(pipeline.put_back().len(), 1);
    }

    #[test]
    fn answers_that_are_not_sent_hold_back_what_would_add_to_them() {
        let mut pipeline = Pipeline::new();
        let first = get(&mut pipeline);
        let value = Bytes::from(vec![0; EXPECTED_BYTES_MAX]);
        pipeline.answer(first, Answered::Outcome(Outcome::Value(value)));
        assert!(!pipeline.may_ask_values(0));
        pipeline.write_ready(&mut BytesMut::new(), 1);
        assert!(pipeline.may_ask_values(0));
        assert!(!pipeline.may_ask_values(EXPECTED_BYTES_MAX));
    }
}

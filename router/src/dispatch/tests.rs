//! One test per rule: what goes in, and what must leave for whom.
//!
//! This file is long because all rules are shown on one bench.

use super::model::view;
use super::{
    BATCH_BYTES_MAX, Bounds, Connection, Dispatch, LinkEvent, Load, Now, OP_BYTES_MAX, Output,
    Ticket,
};
use crate::backend::{Answered, Refusal, Target, Work};
use bytes::Bytes;
use shard_core::cluster_config::{GroupConfig, SlotRange};
use shard_core::moves::SlotEpoch;
use shard_core::op::{ELEMENT_BYTES, Op, Outcome};
use shard_core::session::{
    LANE_WINDOW, LogTime, SESSION_AHEAD_MS_MAX, SESSION_LIFE_MS, Seq, SessionId,
};
use shard_core::slot::{SLOTS, Slot};
use shard_core::wire::{
    Answer, ClusterView, GroupAnswer, GroupQuery, LaneRequest, LeaderView, Reply, RequestBody,
    TransferAnswer,
};
use shard_core::{GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet};

const GROUP: GroupId = GroupId(1);
pub(super) const SLOT: Slot = Slot(7);
pub(super) const MS: Now = 1_000_000;
const TIMEOUT: Now = 5_000 * MS;
const GRACE: Now = 250 * MS;
pub(super) const T0: u64 = 1_000_000;

#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) node: u64,
    group: GroupId,
    id: u64,
    pub(super) body: RequestBody,
}

impl Sent {
    pub(super) fn lane(&self) -> &LaneRequest {
        match &self.body {
            RequestBody::Lane(lane) => lane,
            other => panic!("not an op: {other:?}"),
        }
    }
}

pub(super) struct Bench {
    pub(super) now: Now,
    pub(super) dispatch: Dispatch,
    tickets: u64,
    answers: BTreeMap<u64, Answered>,
    opened: Vec<u64>,
    pub(super) asked: Vec<u64>,
    batches: usize,
}

impl Bench {
    /// Links to nodes 1 to 3 are up; node 1 leads, as a view said.
    pub(super) fn new() -> Bench {
        Bench::with(Bounds::default())
    }

    fn with(bounds: Bounds) -> Bench {
        let mut bench = Bench {
            now: 1_000 * MS,
            dispatch: Dispatch::new(bounds, [1, 2], view(), None),
            tickets: 0,
            answers: BTreeMap::new(),
            opened: Vec::new(),
            asked: Vec::new(),
            batches: 0,
        };
        for node in 1..=3 {
            bench.link(node, LinkEvent::Up);
        }
        bench.leader(1, 1);
        bench
    }

    /// The same, with a session open and one op done: the lane of `SLOT` stands at seq 1.
    pub(super) fn running() -> Bench {
        let mut bench = Bench::new();
        bench.append();
        bench.open_session();
        let sent = bench.poll();
        assert_eq!(seqs(&sent), [1]);
        bench.done(&sent[0]);
        assert_eq!(bench.answers.len(), 1);
        bench
    }

    pub(super) fn open_session(&mut self) {
        let sent = self.poll();
        assert!(matches!(sent[..], [Sent { body: RequestBody::LogTime, .. }]), "{sent:?}");
        self.reply(&sent[0], Answer::LogTime(LogTime(T0)));
    }

    pub(super) fn link(&mut self, node: u64, event: LinkEvent) {
        self.dispatch.on_link(self.now, NodeId(node), event);
    }

    pub(super) fn leader(&mut self, node: u64, term: u64) {
        // `Term` belongs to a crate that is not named here.
        let mut leader = LeaderView { leader: Some(NodeId(node)), term: Default::default() };
        leader.term.0 = term;
        let leaders = BTreeMap::from([(GROUP, leader)]);
        self.dispatch.on_view(
            self.now,
            NodeId(node),
            &ClusterView { leaders, ..ClusterView::default() },
        );
    }

    pub(super) fn submit(&mut self, target: Target, work: Work) -> u64 {
        self.submit_from(1, target, work)
    }

    pub(super) fn submit_from(&mut self, connection: u64, target: Target, work: Work) -> u64 {
        self.tickets += 1;
        let from = (Connection(connection), Ticket(self.tickets));
        self.dispatch.submit(self.now, from, target, work, self.now + TIMEOUT);
        self.tickets
    }

    pub(super) fn append(&mut self) -> u64 {
        self.submit(Target::Slot(SLOT), Work::Op(append(b"v")))
    }

    pub(super) fn get(&mut self) -> u64 {
        self.submit(Target::Slot(SLOT), Work::Op(get()))
    }

    /// A write whose answer may be large.
    fn get_del(&mut self) -> u64 {
        let op = Op::GetDel { key: Bytes::from_static(b"k") };
        self.submit(Target::Slot(SLOT), Work::Op(op))
    }

    pub(super) fn poll(&mut self) -> Vec<Sent> {
        let mut output = Output::default();
        self.dispatch.poll(self.now, &mut output);
        for (ticket, answer) in output.answers {
            assert_eq!(self.answers.insert(ticket.0, answer), None, "answered twice");
        }
        self.opened.extend(output.open_links.iter().map(|node| node.0));
        self.asked.extend(output.ask_view.iter().map(|node| node.0));
        self.batches += output.sends.len();
        let mut sent = Vec::new();
        for (node, batch) in output.sends {
            sent.extend(batch.requests.into_iter().map(|request| Sent {
                node: node.0,
                group: batch.group,
                id: request.id,
                body: request.body,
            }));
        }
        sent
    }

    /// Waits for the next thing that time alone brings.
    pub(super) fn sleep(&mut self) -> Vec<Sent> {
        self.now = self.dispatch.deadline().expect("something to wait for");
        self.poll()
    }

    /// Waits until every deadline of now has passed.
    pub(super) fn time_out(&mut self) -> Vec<Sent> {
        self.now += TIMEOUT + 10 * MS;
        self.poll()
    }

    /// Waits until nobody hopes any more for an answer after a deadline that has passed.
    pub(super) fn grace_out(&mut self) -> Vec<Sent> {
        self.now += GRACE + 10 * MS;
        self.poll()
    }

    pub(super) fn reply(&mut self, sent: &Sent, answer: Answer) {
        self.dispatch.on_replies(self.now, vec![Reply { id: sent.id, answer }]);
    }

    pub(super) fn done(&mut self, sent: &Sent) {
        let answer = Answer::Done { outcome: Outcome::Integer(1), log_time: LogTime(T0) };
        self.reply(sent, answer);
        let more = self.poll();
        assert!(more.is_empty(), "{more:?}");
    }

    pub(super) fn answer(&self, ticket: u64) -> Option<&Answered> {
        self.answers.get(&ticket)
    }

    pub(super) fn refusal(&self, ticket: u64) -> Option<Refusal> {
        match self.answers.get(&ticket) {
            Some(Answered::Refused(refusal)) => Some(*refusal),
            _ => None,
        }
    }
}

pub(super) fn append(value: &'static [u8]) -> Op {
    Op::Append { key: Bytes::from_static(b"k"), value: Bytes::from_static(value) }
}

pub(super) fn get() -> Op {
    Op::Get { key: Bytes::from_static(b"k") }
}

pub(super) fn seqs(sent: &[Sent]) -> Vec<u64> {
    sent.iter().map(|sent| sent.lane().seq.0).collect()
}

pub(super) fn is_void(sent: &Sent) -> bool {
    sent.lane().op == Op::MGet { keys: Vec::new() }
}

pub(super) const EXPIRED: Answer = Answer::Expired { log_time: LogTime(T0 + SESSION_LIFE_MS + 1) };

pub(super) fn not_leader(hint: Option<u64>) -> Answer {
    Answer::NotLeader { hint: hint.map(NodeId) }
}

#[test]
fn what_comes_in_one_turn_leaves_as_one_batch_with_seqs_from_one() {
    let mut bench = Bench::new();
    let (a, b) = (bench.append(), bench.append());
    bench.open_session();
    let before = bench.batches;
    let sent = bench.poll();
    assert_eq!((seqs(&sent), bench.batches - before), (vec![1, 2], 1));
    let lane = sent[0].lane();
    assert_eq!(lane.deadline, LogTime(T0 + SESSION_LIFE_MS));
    assert!(lane.session != SessionId(0) && lane.session == sent[1].lane().session);
    bench.done(&sent[1]);
    assert_eq!(bench.append(), 3);
    assert_eq!(bench.poll()[0].lane().acked, Seq(0), "seq 1 is not answered yet");
    bench.done(&sent[0]);
    bench.append();
    assert_eq!(bench.poll()[0].lane().acked, Seq(2));
    assert_eq!(bench.answer(a), Some(&Answered::Outcome(Outcome::Integer(1))));
    assert_eq!(bench.answer(b), Some(&Answered::Outcome(Outcome::Integer(1))));
}

#[test]
fn a_batch_is_bounded_by_bytes_but_one_request_always_goes() {
    let mut bench = Bench::running();
    let big = vec![b'x'; BATCH_BYTES_MAX + 1];
    for _ in 0..2 {
        let op = Op::Append { key: Bytes::from_static(b"k"), value: Bytes::from(big.clone()) };
        bench.submit(Target::Slot(SLOT), Work::Op(op));
    }
    let before = bench.batches;
    assert_eq!(seqs(&bench.poll()), [2, 3]);
    assert_eq!(bench.batches - before, 2);
}

#[test]
fn what_no_entry_can_hold_is_refused_before_it_has_a_seq() {
    let mut bench = Bench::running();
    let key = Bytes::from(vec![b'k'; OP_BYTES_MAX / 2]);
    let keys = Op::Del { keys: vec![key.clone(), key] };
    let ticket = bench.submit(Target::Slot(SLOT), Work::Op(keys));
    bench.append();
    assert_eq!(seqs(&bench.poll()), [2]);
    assert_eq!(bench.refusal(ticket), Some(Refusal::TooBig));
}

#[test]
fn w01_a_hint_is_followed_at_once_with_the_same_seq() {
    let mut bench = Bench::running();
    bench.append();
    bench.append();
    let sent = bench.poll();
    bench.reply(&sent[0], not_leader(Some(3)));
    bench.reply(&sent[1], not_leader(Some(2)));
    let again = bench.poll();
    assert_eq!(seqs(&again), [2, 3]);
    assert!(again.iter().all(|sent| sent.node == 3), "the second hint is of an old attempt");
    assert_eq!(again[0].lane(), sent[0].lane());
    assert!(again[0].id > sent[1].id, "an id names one attempt");
}

#[test]
fn w01_hints_that_point_at_each_other_end_in_all_voters_being_tried() {
    let mut bench = Bench::running();
    bench.append();
    let mut sent = bench.poll();
    let from = bench.now;
    let mut visited = Vec::new();
    while visited.len() < 12 {
        visited.push(sent[0].node);
        let hint = if sent[0].node == 1 { 2 } else { 1 };
        bench.reply(&sent[0], not_leader(Some(hint)));
        sent = bench.poll();
        while sent.is_empty() {
            sent = bench.sleep();
        }
    }
    assert_eq!(visited[..4], [1, 2, 1, 2]);
    assert!(visited.contains(&3), "{visited:?}");
    assert!(bench.now - from > 300 * MS, "it backs off");
}

#[test]
fn w01_a_view_with_a_higher_term_is_followed_and_an_older_one_is_not() {
    let mut bench = Bench::running();
    bench.append();
    assert_eq!(bench.poll()[0].node, 1);
    bench.leader(2, 5);
    assert_eq!(bench.poll()[0].node, 2);
    bench.leader(3, 4);
    assert!(bench.poll().is_empty());
    assert_eq!(bench.dispatch.view().leaders[&GROUP].leader, Some(NodeId(2)));
}

#[test]
fn w02_a_broken_link_sends_everything_unanswered_again_in_order_elsewhere() {
    let mut bench = Bench::running();
    let tickets = [bench.append(), bench.append(), bench.append()];
    let sent = bench.poll();
    bench.done(&sent[1]);
    bench.link(1, LinkEvent::Down);
    assert!(bench.poll().is_empty(), "it waits a little");
    let again = bench.sleep();
    assert_eq!(seqs(&again), [2, 4], "what is answered is not sent again");
    assert!(again.iter().all(|sent| sent.node == 2));
    assert_eq!(again[0].lane().session, sent[0].lane().session);
    bench.done(&again[0]);
    bench.done(&again[1]);
    assert!(tickets.iter().all(|ticket| bench.answer(*ticket).is_some()));
}

#[test]
fn w03_at_the_deadline_sent_writes_are_unknown_and_all_else_is_not_executed() {
    let mut bench = Bench::running();
    // A read that a write of its connection stands behind has a seq, one with nothing behind it none.
    let (read, write, alone) = (bench.get(), bench.append(), bench.get());
    let sent = bench.poll();
    assert_eq!((seqs(&sent[..2]), sent.len()), (vec![2, 3], 3));
    bench.link(1, LinkEvent::Down);
    bench.link(2, LinkEvent::Down);
    bench.link(3, LinkEvent::Down);
    let unsent = bench.append();
    bench.time_out();
    assert_eq!(bench.refusal(write), None, "a void may still hear what became of it");
    assert_eq!(bench.refusal(read), Some(Refusal::ClusterDown));
    assert_eq!(bench.refusal(alone), Some(Refusal::ClusterDown));
    assert_eq!(bench.refusal(unsent), Some(Refusal::ClusterDown));
    bench.grace_out();
    let promised = Refusal::Unknown { waited_ms: 5000 };
    assert_eq!(bench.refusal(write), Some(promised), "though it is told 260 ms late");
    for node in 1..=3 {
        bench.link(node, LinkEvent::Up);
    }
    let mut again = bench.poll();
    while again.is_empty() {
        again = bench.sleep();
    }
    assert_eq!(seqs(&again), [2, 3], "a seq given out is driven on; the unsent op never had one");
    assert!(again.iter().all(is_void), "as a void, since nobody waits for its effect");
}

/// Writes that nobody answered, and the voids that leave for them at their deadline.
fn at_the_deadline(bench: &mut Bench) -> (u64, u64, Vec<Sent>) {
    let (a, b) = (bench.append(), bench.append());
    assert_eq!(seqs(&bench.poll()), [2, 3]);
    bench.now += MS;
    let later = bench.append();
    assert_eq!(seqs(&bench.poll()), [4]);
    bench.now += TIMEOUT - MS;
    let mut voids = bench.poll();
    while voids.is_empty() {
        voids = bench.sleep();
    }
    assert_eq!(seqs(&voids), [2, 3], "what is not late stays where it is");
    assert!(voids.iter().all(is_void));
    assert_eq!((bench.answer(a), bench.answer(b), bench.answer(later)), (None, None, None));
    (a, b, voids)
}

fn voided() -> Answer {
    Answer::Done { outcome: Outcome::Values(Vec::new()), log_time: LogTime(T0) }
}

#[test]
fn w03_at_the_deadline_a_void_hears_what_became_of_a_write() {
    let mut bench = Bench::running();
    let (executed, void, voids) = at_the_deadline(&mut bench);
    bench.done(&voids[0]);
    bench.reply(&voids[1], voided());
    bench.poll();
    assert_eq!(bench.answer(executed), Some(&Answered::Outcome(Outcome::Integer(1))));
    assert_eq!(bench.refusal(void), Some(Refusal::ClusterDown), "not executed, and never will be");
}

#[test]
fn w03_the_grace_after_a_deadline_is_short_and_its_late_answer_goes_to_nobody() {
    let mut bench = Bench::running();
    let (a, b, voids) = at_the_deadline(&mut bench);
    bench.now += GRACE - 10 * MS;
    bench.poll();
    assert_eq!((bench.answer(a), bench.answer(b)), (None, None));
    bench.reply(&voids[1], not_leader(Some(2)));
    let elsewhere = bench.poll();
    assert_eq!(seqs(&elsewhere), [2, 3, 4], "retried like any other");
    bench.grace_out();
    let unknown = Some(Refusal::Unknown { waited_ms: 5000 });
    assert_eq!((bench.refusal(a), bench.refusal(b)), (unknown, unknown));
    bench.reply(&elsewhere[0], voided());
    bench.reply(&voids[1], voided());
    bench.reply(&elsewhere[1], voided());
    bench.done(&elsewhere[2]);
    assert_eq!(bench.answers.len(), 4, "each once");
}

#[test]
fn w03_a_write_that_every_node_refused_was_not_executed() {
    let mut bench = Bench::running();
    let ticket = bench.append();
    let mut sent = bench.poll();
    let until = bench.now + TIMEOUT + 10 * MS;
    let mut voids = 0;
    while bench.now < until {
        voids += sent.iter().filter(|sent| is_void(sent)).count();
        for sent in &sent {
            bench.reply(sent, not_leader(None));
        }
        sent = bench.sleep();
    }
    assert_eq!(bench.refusal(ticket), Some(Refusal::ClusterDown));
    assert_eq!(voids, 0);
    while sent.is_empty() {
        sent = bench.sleep();
    }
    assert!(is_void(&sent[0]), "what was told not to be executed must not be");
}

#[test]
fn w06_a_late_answer_counts_if_it_says_executed_and_else_disturbs_nothing() {
    let mut bench = Bench::running();
    let (a, b) = (bench.append(), bench.append());
    let first = bench.poll();
    bench.leader(2, 2);
    let second = bench.poll();
    assert_eq!(seqs(&second), [2, 3]);
    bench.reply(&first[0], not_leader(Some(3)));
    bench.reply(&first[0], Answer::Lost);
    assert!(bench.poll().is_empty(), "the newer attempts stay where they are");
    bench.done(&first[1]);
    assert_eq!(bench.answer(b), Some(&Answered::Outcome(Outcome::Integer(1))));
    bench.done(&second[0]);
    assert!(bench.answer(a).is_some());
    bench.done(&second[1]);
    assert_eq!(bench.answers.len(), 3);
}

#[test]
fn w08_a_thousand_failures_ask_for_one_view() {
    let mut bench = Bench::running();
    for i in 0..1000 {
        bench.submit(Target::Slot(Slot(i)), Work::Op(append(b"v")));
    }
    let sent = bench.poll();
    assert_eq!(sent.len(), 1000);
    for sent in &sent {
        bench.reply(sent, Answer::Lost);
    }
    bench.poll();
    assert_eq!(bench.asked.len(), 1);
    assert_eq!(bench.sleep().len(), 1000, "and leave together again");
}

#[test]
fn w09_a_seq_without_any_answer_is_sent_elsewhere_after_a_long_while() {
    let mut bench = Bench::running();
    bench.append();
    let sent = bench.poll();
    let mut again = Vec::new();
    while again.is_empty() {
        again = bench.sleep();
        again.retain(|again| again.node != sent[0].node);
        assert!(bench.now < 60_000 * MS, "never sent to another");
    }
    assert_eq!(seqs(&again), seqs(&sent));
}

#[test]
fn w09_two_groups_that_stall_in_each_others_midst_both_go_to_their_next_voter() {
    let mut bench = Bench::new();
    let mut config = view().map.config;
    let voters = vec![NodeId(1), NodeId(2)];
    for group in [1, 2] {
        let seats = GroupConfig { voters: voters.clone(), weight: 1 };
        config.groups.insert(GroupId(group), seats);
    }
    let range = |first, last, group| {
        let group = GroupId(group);
        SlotRange { first: Slot(first), last: Slot(last), group }
    };
    config.slots = vec![range(0, 0, 1), range(1, 1, 2), range(2, SLOTS - 1, 1)];
    let mut mixed = ClusterView::of_config(&config);
    mixed.map.version = 2;
    bench.dispatch.on_view(bench.now, NodeId(1), &mixed);
    for slot in 0..3 {
        bench.submit(Target::Slot(Slot(slot)), Work::Op(append(b"v")));
    }
    for asked in bench.poll() {
        bench.reply(&asked, Answer::LogTime(LogTime(T0)));
    }
    let silent = bench.poll();
    assert_eq!(seqs(&silent), [1, 1, 1]);
    let unknown_at = bench.now + TIMEOUT + GRACE;
    let mut again = Vec::new();
    while again.len() < 3 {
        // Not the voids of the deadline, which go where the writes are.
        again.extend(bench.sleep().into_iter().filter(|_| bench.now > unknown_at));
        assert!(bench.now < 60_000 * MS, "never sent again");
    }
    for (before, after) in silent.iter().zip(&again) {
        assert_eq!((before.lane().slot, before.group), (after.lane().slot, after.group));
        assert_ne!(before.node, after.node, "slot {}", before.lane().slot);
    }
}

#[test]
fn w13_a_client_that_went_leaves_only_what_was_sent() {
    let mut bench = Bench::running();
    bench.append();
    let sent = bench.poll();
    bench.link(1, LinkEvent::Down);
    bench.append();
    bench.dispatch.abandon(|_| true);
    assert_eq!(bench.dispatch.stats().pending, 1);
    let again = bench.sleep();
    assert_eq!(seqs(&again), seqs(&sent));
    bench.done(&again[0]);
    assert_eq!((bench.dispatch.stats().pending, bench.answers.len()), (0, 1));
}

#[test]
fn w14_a_full_queue_refuses_at_once_and_frees_with_the_answers() {
    let group = Load { requests: 3, bytes: 1 << 20 };
    let mut bench = Bench::with(Bounds { group, lane_unsent_max: 2, ..Bounds::default() });
    let tickets: Vec<u64> = (0..3).map(|_| bench.append()).collect();
    let other = bench.submit(Target::Slot(Slot(8)), Work::Op(append(b"v")));
    let beyond = bench.submit(Target::Slot(Slot(8)), Work::Op(append(b"v")));
    bench.open_session();
    assert_eq!(bench.refusal(tickets[2]), Some(Refusal::Overloaded), "of one slot");
    assert_eq!(bench.refusal(beyond), Some(Refusal::Overloaded), "of the group");
    assert_eq!(bench.answer(other), None);
    let sent = bench.poll();
    bench.done(&sent[0]);
    let ticket = bench.append();
    bench.poll();
    assert_eq!(bench.answer(ticket), None);
}

#[test]
fn w14_a_link_takes_a_bounded_number_of_requests() {
    let link = Load { requests: 2, bytes: 1 << 20 };
    let mut bench = Bench::with(Bounds { link, ..Bounds::default() });
    for _ in 0..5 {
        bench.append();
    }
    bench.open_session();
    let sent = bench.poll();
    assert_eq!(seqs(&sent), [1, 2]);
    let done = Answer::Done { outcome: Outcome::Ok, log_time: LogTime(T0) };
    bench.reply(&sent[0], done);
    assert_eq!(seqs(&bench.poll()), [3]);
}

#[test]
fn a_lane_has_at_most_its_window_unacknowledged() {
    let mut bench = Bench::running();
    for _ in 0..LANE_WINDOW + 10 {
        bench.append();
    }
    let sent = bench.poll();
    assert_eq!(sent.len() as u64, LANE_WINDOW);
    bench.done(&sent[1]);
    let done = Answer::Done { outcome: Outcome::Ok, log_time: LogTime(T0) };
    bench.reply(&sent[0], done);
    let more = bench.poll();
    assert_eq!(seqs(&more), [LANE_WINDOW + 2, LANE_WINDOW + 3]);
    assert_eq!(more[0].lane().acked, Seq(3));
}

#[test]
fn a_slot_without_owner_is_refused_at_once() {
    let mut view = view();
    view.map.owners = Default::default();
    let mut dispatch = Dispatch::new(Bounds::default(), [1, 2], view, None);
    dispatch.submit(
        0,
        (Connection(1), Ticket(1)),
        Target::Slot(SLOT),
        Work::Op(append(b"v")),
        TIMEOUT,
    );
    let mut output = Output::default();
    dispatch.poll(0, &mut output);
    assert_eq!(output.answers, [(Ticket(1), Answered::Refused(Refusal::SlotNotServed))]);
}

#[test]
fn busy_waits_and_sends_in_order_from_there() {
    let mut bench = Bench::running();
    bench.append();
    bench.append();
    bench.append();
    let sent = bench.poll();
    bench.reply(&sent[1], Answer::Busy);
    bench.reply(&sent[2], Answer::Gap { last: Seq(2) });
    assert!(bench.poll().is_empty());
    let again = bench.sleep();
    assert_eq!(seqs(&again), [3, 4]);
    assert_eq!(again[0].node, 1);
}

#[test]
fn x11_lost_is_sent_again_from_the_first_unanswered_on() {
    let mut bench = Bench::running();
    let (a, b) = (bench.append(), bench.append());
    let sent = bench.poll();
    bench.reply(&sent[0], Answer::Lost);
    assert!(bench.poll().is_empty());
    let again = bench.sleep();
    assert_eq!(seqs(&again), [2, 3]);
    bench.done(&again[0]);
    bench.done(&again[1]);
    assert!(bench.answer(a).is_some() && bench.answer(b).is_some());
}

#[test]
fn x05_a_gap_goes_back_to_what_is_missing() {
    let mut bench = Bench::running();
    for _ in 0..4 {
        bench.append();
    }
    let sent = bench.poll();
    bench.reply(&sent[2], Answer::Gap { last: Seq(2) });
    let again = bench.poll();
    assert_eq!(seqs(&again), [3, 4, 5], "seq 2 was applied: its answer is on its way");
    bench.reply(&sent[3], Answer::Gap { last: Seq(2) });
    assert!(bench.poll().is_empty(), "an old attempt's gap is old news");
}

#[test]
fn x_a_lane_that_the_group_forgot_is_left_with_its_session() {
    let mut bench = Bench::running();
    let (read, write) = (bench.get(), bench.append());
    let sent = bench.poll();
    bench.reply(&sent[0], Answer::Gap { last: Seq(0) });
    let next = bench.append();
    let mut new = bench.poll();
    if let [Sent { body: RequestBody::LogTime, .. }] = new[..] {
        bench.reply(&new[0], Answer::LogTime(LogTime(T0)));
        new = bench.poll();
    }
    assert!(matches!(bench.refusal(write), Some(Refusal::Unknown { .. })));
    assert_eq!(bench.refusal(read), Some(Refusal::ClusterDown));
    assert_eq!(seqs(&new), [1]);
    assert!(new[0].lane().session != sent[0].lane().session);
    bench.done(&new[0]);
    assert!(bench.answer(next).is_some());
}

#[test]
fn x08_expired_with_one_frame_goes_on_in_a_new_session_in_order() {
    let mut bench = Bench::running();
    let tickets = [bench.append(), bench.get(), bench.append()];
    let sent = bench.poll();
    bench.reply(&sent[1], EXPIRED);
    bench.reply(&sent[2], EXPIRED);
    let later = bench.append();
    assert!(bench.poll().is_empty(), "the lower seq has no answer yet");
    bench.reply(&sent[0], EXPIRED);
    let again = bench.poll();
    assert_eq!(seqs(&again), [1, 2, 3, 4]);
    assert_eq!(again[1].lane().op, sent[1].lane().op);
    let lane = again[0].lane();
    assert!(lane.session != sent[0].lane().session);
    assert_eq!(lane.deadline, LogTime(T0 + 2 * SESSION_LIFE_MS + 1), "D from the answer");
    for sent in &again {
        bench.done(sent);
    }
    assert!(tickets.iter().chain([&later]).all(|ticket| bench.answer(*ticket).is_some()));
}

#[test]
fn x08_expired_with_a_second_frame_is_unknown() {
    let mut bench = Bench::running();
    let (read, write) = (bench.get(), bench.append());
    bench.poll();
    bench.leader(2, 2);
    let again = bench.poll();
    let once = bench.append();
    let sent_once = bench.poll();
    for sent in again.iter().chain(&sent_once) {
        bench.reply(sent, EXPIRED);
    }
    let new = bench.poll();
    assert!(matches!(bench.refusal(write), Some(Refusal::Unknown { .. })));
    assert_eq!(bench.refusal(read), Some(Refusal::ClusterDown));
    assert_eq!(seqs(&new), [1]);
    bench.done(&new[0]);
    assert_eq!(bench.answer(once), Some(&Answered::Outcome(Outcome::Integer(1))));
}

#[test]
fn x08_expired_after_a_first_frame_that_was_refused_goes_on_in_a_new_session() {
    let mut bench = Bench::running();
    let write = bench.append();
    let sent = bench.poll();
    bench.reply(&sent[0], Answer::Busy);
    let again = bench.sleep();
    bench.reply(&again[0], EXPIRED);
    let new = bench.poll();
    assert!(new[0].lane().session != sent[0].lane().session);
    bench.done(&new[0]);
    assert_eq!(bench.answer(write), Some(&Answered::Outcome(Outcome::Integer(1))));
}

#[test]
fn a_deadline_too_far_ahead_goes_on_in_a_new_session() {
    let mut bench = Bench::running();
    bench.append();
    let sent = bench.poll();
    let log_time = LogTime(T0 / 2);
    bench.reply(&sent[0], Answer::DeadlineTooFar { log_time });
    let again = bench.poll();
    assert_eq!(again[0].lane().deadline, LogTime(T0 / 2 + SESSION_LIFE_MS));
    assert!(again[0].lane().session != sent[0].lane().session);
}

/// The log time of its slot is far behind that of the group's others, and a frame was sent again before it heard so.
fn too_far_ahead_after(first: Answer) -> (Bench, u64, Vec<Sent>) {
    let mut bench = Bench::running();
    let write = bench.append();
    let sent = bench.poll();
    bench.reply(&sent[0], first);
    let again = bench.sleep();
    assert_eq!(again[0].lane().session, sent[0].lane().session);
    bench.reply(&again[0], Answer::DeadlineTooFar { log_time: LogTime(T0 / 2) });
    let new = bench.poll();
    assert!(new.iter().all(|new| new.lane().session != sent[0].lane().session));
    (bench, write, new)
}

#[test]
fn a_deadline_too_far_ahead_is_not_met_again_and_again_in_one_session() {
    let (mut bench, write, new) = too_far_ahead_after(Answer::Busy);
    bench.done(&new[0]);
    let done = Some(&Answered::Outcome(Outcome::Integer(1)));
    assert_eq!(bench.answer(write), done, "no frame of it can come late");

    let (mut bench, write, new) = too_far_ahead_after(Answer::Lost);
    assert!(new.is_empty(), "the first frame may come yet");
    assert!(matches!(bench.refusal(write), Some(Refusal::Unknown { .. })));
    let next = bench.append();
    let sent = bench.poll();
    assert_eq!(seqs(&sent), [1], "the slot is served in a new session");
    bench.done(&sent[0]);
    assert_eq!(bench.answer(next), done);
}

/// A slot that came from a group whose log time is an hour ahead, beside one that did not, written to in turn.
#[test]
fn slots_whose_log_times_are_far_apart_have_sessions_of_their_own() {
    let mut bench = Bench::running();
    let (ahead, mut frames, mut lanes) = (Slot(9), 0, BTreeSet::new());
    for turn in 0..200 {
        let slot = [SLOT, ahead][turn % 2];
        let ticket = bench.submit(Target::Slot(slot), Work::Op(append(b"v")));
        for _ in 0..4 {
            for sent in bench.poll() {
                frames += 1;
                let lane = sent.lane();
                let log_time = LogTime(if lane.slot == ahead { T0 + 3_600_000 } else { T0 });
                let answer = if lane.deadline.0 > log_time.0 + SESSION_AHEAD_MS_MAX {
                    Answer::DeadlineTooFar { log_time }
                } else if log_time > lane.deadline {
                    Answer::Expired { log_time }
                } else {
                    lanes.insert((lane.slot, lane.session));
                    Answer::Done { outcome: Outcome::Integer(1), log_time }
                };
                bench.reply(&sent, answer);
            }
        }
        assert!(bench.answer(ticket).is_some(), "write {turn}");
    }
    assert_eq!((frames, lanes.len()), (201, 2));
}

#[test]
fn a_session_turns_once_its_lane_is_empty_long_before_its_deadline() {
    let mut bench = Bench::running();
    bench.append();
    bench.submit(Target::Slot(Slot(9)), Work::Op(append(b"v")));
    let old = bench.poll();
    let log_time = LogTime(T0 + 121_000);
    let done = Answer::Done { outcome: Outcome::Ok, log_time };
    bench.reply(&old[1], done.clone());
    let ticket = bench.append();
    assert!(bench.poll().is_empty(), "it waits for the old lane");
    bench.reply(&old[0], done);
    let new = bench.poll();
    assert_eq!(seqs(&new), [1]);
    assert!(new[0].lane().session != old[0].lane().session);
    assert_eq!(new[0].lane().deadline, LogTime(log_time.0 + SESSION_LIFE_MS), "no round trip");
    bench.done(&new[0]);
    assert!(bench.answer(ticket).is_some());
}

#[test]
fn an_idle_router_asks_for_the_log_time_before_its_next_session() {
    let mut bench = Bench::running();
    bench.now += 600_000 * MS;
    bench.append();
    let sent = bench.poll();
    assert!(matches!(sent[..], [Sent { body: RequestBody::LogTime, .. }]), "{sent:?}");
    bench.reply(&sent[0], not_leader(Some(2)));
    let again = bench.poll();
    assert_eq!((again[0].node, &again[0].body), (2, &RequestBody::LogTime));
    bench.reply(&again[0], Answer::LogTime(LogTime(T0 + 600_000)));
    assert_eq!(bench.poll()[0].lane().deadline, LogTime(T0 + 600_000 + SESSION_LIFE_MS));
}

#[test]
fn x02_g24_an_op_follows_its_slot_to_the_new_owner_under_its_old_seq() {
    let mut bench = Bench::running();
    let ticket = bench.append();
    let sent = bench.poll();
    bench.reply(&sent[0], Answer::Elsewhere);
    assert!(bench.poll().is_empty());
    assert_eq!(bench.asked.len(), 1, "it asks where the slot went");
    let mut moved = view();
    moved.map.version = 2;
    let voters = vec![NodeId(2), NodeId(3)];
    moved.map.config.groups.insert(GroupId(2), GroupConfig { voters, weight: 1 });
    for slot in 0..=SLOT.0 {
        moved.map.owners.set(Slot(slot), GroupId(2), SlotEpoch(2));
    }
    bench.dispatch.on_view(bench.now, NodeId(1), &moved);
    let again = bench.poll();
    assert_eq!((again[0].group, again[0].lane()), (GroupId(2), sent[0].lane()));
    assert!(again[0].node != 1);
    bench.done(&again[0]);
    assert!(matches!(bench.answer(ticket), Some(Answered::Outcome(Outcome::Integer(1)))));
}

#[test]
fn g23_a_slot_that_stays_in_its_move_says_so_at_the_deadline() {
    let mut bench = Bench::running();
    let ticket = bench.append();
    let mut sent = bench.poll();
    while bench.answer(ticket).is_none() {
        for sent in &sent {
            bench.reply(sent, Answer::Elsewhere);
        }
        sent = bench.sleep();
    }
    assert_eq!(bench.refusal(ticket), Some(Refusal::Moving { slot: SLOT }));
}

#[test]
fn x04_an_executed_op_without_its_reply_is_unknown() {
    for answer in [Answer::Old, Answer::ReplyGone] {
        let mut bench = Bench::running();
        let ticket = bench.append();
        let sent = bench.poll();
        bench.reply(&sent[0], answer);
        bench.append();
        let next = bench.poll();
        assert!(matches!(bench.refusal(ticket), Some(Refusal::Unknown { .. })));
        assert_eq!((next[0].lane().seq, next[0].lane().acked), (Seq(3), Seq(2)));
    }
}

#[test]
fn a_window_or_full_lanes_hold_back_one_slot_alone() {
    for (answer, refusal) in
        [(Answer::Window, Refusal::ClusterDown), (Answer::LanesFull, Refusal::Overloaded)]
    {
        let mut bench = Bench::running();
        let ticket = bench.append();
        let sent = bench.poll();
        bench.reply(&sent[0], answer.clone());
        bench.submit(Target::Slot(Slot(9)), Work::Op(append(b"v")));
        let other = bench.poll();
        assert_eq!(other[0].lane().slot, Slot(9));
        bench.done(&other[0]);
        let mut again = bench.sleep();
        assert_eq!(seqs(&again), [2]);
        while bench.answer(ticket).is_none() {
            for sent in &again {
                bench.reply(sent, answer.clone());
            }
            again = bench.sleep();
        }
        assert_eq!(bench.refusal(ticket), Some(refusal));
    }
}

#[test]
fn nonsense_is_told_at_once_and_its_seq_is_filled() {
    let mut bench = Bench::running();
    let (bad, good) = (bench.append(), bench.append());
    let sent = bench.poll();
    bench.reply(&sent[0], Answer::Invalid);
    bench.poll();
    assert_eq!(bench.refusal(bad), Some(Refusal::ClusterDown));
    let mut again = bench.sleep();
    while again.is_empty() {
        again = bench.sleep();
    }
    assert_eq!(seqs(&again), [2, 3]);
    assert!(is_void(&again[0]) && !is_void(&again[1]));
    bench.done(&again[0]);
    bench.done(&again[1]);
    assert_eq!(bench.answer(good), Some(&Answered::Outcome(Outcome::Integer(1))));
    assert_eq!(bench.dispatch.stats().invalid, 1);
}

#[test]
fn a_group_query_is_retried_until_its_deadline() {
    let mut bench = Bench::new();
    let query = || Work::Query(GroupQuery::KeyCount);
    let answered = bench.submit(Target::Group(GROUP), query());
    let sent = bench.poll();
    bench.reply(&sent[0], not_leader(Some(2)));
    let again = bench.poll();
    assert_eq!(again[0].node, 2);
    let answer = GroupAnswer::KeyCount { keys: 3, expires: 1 };
    bench.reply(&again[0], Answer::Group(answer.clone()));
    bench.poll();
    assert_eq!(bench.answer(answered), Some(&Answered::Group(answer)));

    let late = bench.submit(Target::Group(GROUP), query());
    let unknown = bench.submit(Target::Group(GroupId(9)), query());
    assert_eq!(bench.poll().len(), 1);
    assert_eq!(bench.refusal(unknown), Some(Refusal::ClusterDown));
    bench.time_out();
    assert_eq!(bench.refusal(late), Some(Refusal::ClusterDown));
    assert_eq!(bench.dispatch.stats().pending, 0);
}

#[test]
fn e23_a_wish_for_a_leader_goes_on_at_whoever_leads_until_that_one_does() {
    let mut bench = Bench::new();
    let wish = bench.submit(Target::Group(GROUP), Work::Transfer(NodeId(2)));
    let first = bench.poll();
    assert_eq!((first[0].node, &first[0].body), (1, &RequestBody::Transfer { to: NodeId(2) }));
    // Another one won: node 1 has stepped down, and a view says so before its answer is here.
    bench.leader(3, 2);
    let second = bench.poll();
    assert_eq!((second[0].node, &second[0].body), (3, &first[0].body));
    bench.reply(&first[0], not_leader(Some(2)));
    assert!(bench.poll().is_empty(), "an answer of an earlier attempt");
    bench.reply(&second[0], not_leader(Some(2)));
    let third = bench.poll();
    assert_eq!((third[0].node, bench.answer(wish)), (2, None));
    bench.reply(&third[0], Answer::Group(GroupAnswer::Transfer(TransferAnswer::Leads)));
    bench.poll();
    let leads = Answered::Group(GroupAnswer::Transfer(TransferAnswer::Leads));
    assert_eq!(bench.answer(wish), Some(&leads));
}

#[test]
fn links_are_opened_on_demand_and_once() {
    let mut bench = Bench::new();
    bench.link(1, LinkEvent::Down);
    assert!(bench.poll().is_empty() && bench.opened.is_empty());
    bench.append();
    assert!(bench.poll().is_empty());
    bench.append();
    assert!(bench.poll().is_empty());
    assert_eq!(bench.opened, [1]);
    bench.link(1, LinkEvent::Down);
    let sent = bench.sleep();
    assert_eq!(sent[0].node, 2, "the next voter has an open link");
}

#[test]
fn the_node_in_this_process_is_tried_first() {
    let mut dispatch = Dispatch::new(Bounds::default(), [1, 2], view(), Some(NodeId(2)));
    dispatch.on_link(0, NodeId(1), LinkEvent::Up);
    dispatch.on_link(0, NodeId(2), LinkEvent::Up);
    dispatch.submit(
        0,
        (Connection(1), Ticket(1)),
        Target::Slot(SLOT),
        Work::Op(append(b"v")),
        TIMEOUT,
    );
    let mut output = Output::default();
    dispatch.poll(0, &mut output);
    assert_eq!(output.sends[0].0, NodeId(2));
}

/// One answer of so many bytes as the bounds of remembered replies count them.
fn value(bytes: usize) -> Answer {
    let value = Bytes::from(vec![b'v'; bytes - ELEMENT_BYTES]);
    Answer::Done { outcome: Outcome::Value(value), log_time: LogTime(T0) }
}

#[test]
fn a_large_reply_of_an_idle_lane_is_acknowledged_once_after_a_second() {
    let mut bench = Bench::running();
    bench.get_del();
    let sent = bench.poll();
    bench.reply(&sent[0], value(257));
    assert!(bench.poll().is_empty());
    let answered = bench.now;
    let ack = bench.sleep();
    assert_eq!(bench.now, answered + 1_000 * MS);
    assert_eq!(seqs(&ack), [3]);
    assert!(is_void(&ack[0]));
    assert_eq!(ack[0].lane().acked, Seq(2), "the group forgets the reply");
    assert_eq!(ack[0].lane().session, sent[0].lane().session);
    bench.done(&ack[0]);
    assert_eq!(bench.dispatch.deadline(), None, "and all is quiet");
    assert_eq!(bench.dispatch.stats().pending, 0);
}

#[test]
fn a_small_reply_or_one_that_a_later_op_acknowledged_needs_no_op_of_its_own() {
    let mut bench = Bench::running();
    bench.get_del();
    let sent = bench.poll();
    bench.reply(&sent[0], value(256));
    assert!(bench.poll().is_empty());
    assert_eq!(bench.dispatch.deadline(), None);

    bench.get_del();
    let sent = bench.poll();
    bench.reply(&sent[0], value(257));
    bench.append();
    let sent = bench.poll();
    assert_eq!(sent[0].lane().acked, Seq(3));
    bench.done(&sent[0]);
    while bench.dispatch.deadline().is_some() {
        assert!(bench.sleep().is_empty());
    }
}

#[test]
fn a_large_reply_is_acknowledged_a_second_after_the_last_answer_if_no_op_did() {
    let mut bench = Bench::running();
    bench.get_del();
    bench.append();
    let sent = bench.poll();
    assert_eq!(sent[1].lane().acked, Seq(1), "left before the large reply was there");
    bench.reply(&sent[0], value(1000));
    bench.now += 10 * MS;
    bench.done(&sent[1]);
    let answered = bench.now;
    let mut ack = bench.sleep();
    while ack.is_empty() {
        ack = bench.sleep();
    }
    assert_eq!((seqs(&ack), bench.now), (vec![4], answered + 1_000 * MS));
    assert_eq!(ack[0].lane().acked, Seq(3));
    bench.done(&ack[0]);
    assert_eq!(bench.dispatch.deadline(), None);
}

#[test]
fn a_lane_with_a_large_reply_is_not_left_before_that_is_acknowledged() {
    let mut bench = Bench::running();
    bench.get_del();
    let sent = bench.poll();
    // The session's turn is due at once: two minutes have passed in the log.
    let outcome = Outcome::Value(Bytes::from(vec![b'v'; 300]));
    let log_time = LogTime(T0 + 2 * 60 * 1000 + 1);
    bench.reply(&sent[0], Answer::Done { outcome, log_time });
    bench.append();
    let ack = bench.poll();
    assert_eq!(seqs(&ack), [3]);
    assert!(is_void(&ack[0]) && ack[0].lane().session == sent[0].lane().session);
    let answer = Answer::Done { outcome: Outcome::Integer(0), log_time };
    bench.reply(&ack[0], answer);
    let next = bench.poll();
    assert_eq!(seqs(&next), [1], "of a new session");
    assert!(!is_void(&next[0]) && next[0].lane().session != ack[0].lane().session);
}

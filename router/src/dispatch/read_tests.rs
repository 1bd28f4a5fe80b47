//! One test per rule of reads without a seq.

use super::model::view;
use super::tests::{Bench, EXPIRED, MS, SLOT, Sent, T0, append, get, is_void, not_leader, seqs};
use super::{Bounds, Connection, Dispatch, Output, Ticket};
use crate::backend::{Answered, Refusal, Target, Work};
use bytes::Bytes;
use shard_core::op::Outcome;
use shard_core::session::{LogTime, SESSION_LIFE_MS, Seq};
use shard_core::wire::{After, Answer, ReadRequest, RequestBody};

fn read(sent: &Sent) -> &ReadRequest {
    match &sent.body {
        RequestBody::Read(read) => read,
        other => panic!("not a read alone: {other:?}"),
    }
}

fn after(sent: &Sent) -> Option<u64> {
    read(sent).after.map(|after| after.seq.0)
}

fn value(text: &'static str, log_time: u64) -> Answer {
    let outcome = Outcome::Value(Bytes::from_static(text.as_bytes()));
    Answer::Done { outcome, log_time: LogTime(log_time) }
}

fn seen(bench: &Bench, ticket: u64) -> Option<String> {
    match bench.answer(ticket) {
        Some(Answered::Outcome(Outcome::Value(value))) => {
            Some(String::from_utf8_lossy(value).into_owned())
        }
        _ => None,
    }
}

/// The answer arrives and nothing has to be sent for it.
fn served(bench: &mut Bench, sent: &Sent, text: &'static str) {
    bench.reply(sent, value(text, T0));
    let more = bench.poll();
    assert!(more.is_empty(), "{more:?}");
}

impl Bench {
    fn get_from(&mut self, connection: u64) -> u64 {
        self.submit_from(connection, Target::Slot(SLOT), Work::Op(get()))
    }

    fn append_from(&mut self, connection: u64) -> u64 {
        self.submit_from(connection, Target::Slot(SLOT), Work::Op(append(b"v")))
    }
}

#[test]
fn a_read_opens_no_session_and_names_nothing() {
    let mut bench = Bench::new();
    let ticket = bench.get();
    let sent = bench.poll();
    assert_eq!((sent.len(), read(&sent[0]).after), (1, None));
    served(&mut bench, &sent[0], "x");
    assert_eq!(seen(&bench, ticket).as_deref(), Some("x"));
    assert_eq!((bench.dispatch.stats().sessions, bench.dispatch.stats().pending), (0, 0));
    assert_eq!(bench.dispatch.deadline(), None);
}

#[test]
fn a_read_names_the_newest_unanswered_op_of_its_own_connection() {
    let mut bench = Bench::running();
    bench.append();
    bench.append_from(2);
    bench.get();
    let sent = bench.poll();
    let lane = sent[0].lane();
    let expected = After { session: lane.session, deadline: lane.deadline, seq: Seq(2) };
    assert_eq!(read(&sent[2]).after, Some(expected));
    bench.get_from(3);
    let other = bench.poll();
    assert_eq!(after(&other[0]), None, "it has written nothing");
    served(&mut bench, &other[0], "x");
    bench.done(&sent[0]);
    bench.get();
    assert_eq!(after(&bench.poll()[0]), None, "what is answered is committed");
}

#[test]
fn x14_a_read_with_a_write_of_its_connection_behind_it_has_a_seq() {
    let mut bench = Bench::running();
    let (one, other, two) = (bench.get(), bench.get_from(2), bench.append());
    let sent = bench.poll();
    assert_eq!((seqs(&[sent[0].clone(), sent[2].clone()]), after(&sent[1])), (vec![2, 3], None));
    bench.done(&sent[0]);
    bench.done(&sent[2]);
    served(&mut bench, &sent[1], "x");
    assert!([one, other, two].iter().all(|ticket| bench.answer(*ticket).is_some()));
}

#[test]
fn x14_a_write_waits_for_reads_of_its_connection_that_went_alone() {
    let mut bench = Bench::running();
    let (one, two) = (bench.get(), bench.get());
    let reads = bench.poll();
    let (write, later) = (bench.append(), bench.get());
    let theirs = bench.append_from(2);
    let other = bench.poll();
    assert_eq!(seqs(&other), [2], "another connection's write waits for nothing");
    served(&mut bench, &reads[0], "x");
    bench.reply(&reads[1], value("x", T0));
    let freed = bench.poll();
    assert_eq!((freed[0].lane().seq, after(&freed[1])), (Seq(3), Some(3)));
    bench.done(&other[0]);
    bench.done(&freed[0]);
    served(&mut bench, &freed[1], "xv");
    for ticket in [one, two, write, later, theirs] {
        assert!(bench.answer(ticket).is_some());
    }
}

#[test]
fn x14_a_write_waits_no_longer_once_the_read_is_given_up() {
    let mut bench = Bench::running();
    let given_up = bench.get();
    let sent = bench.poll();
    bench.now += 4_000 * MS;
    bench.append();
    assert!(bench.poll().is_empty());
    bench.now += 1_100 * MS;
    let mut freed = bench.poll();
    if freed.is_empty() {
        freed = bench.sleep();
    }
    assert_eq!(seqs(&freed), [2]);
    assert_eq!(bench.refusal(given_up), Some(Refusal::ClusterDown));
    served(&mut bench, &sent[0], "late");
    assert_eq!(bench.dispatch.stats().late, 1);

    let gone = bench.get();
    let write = bench.append_from(1);
    bench.poll();
    bench.dispatch.abandon(|ticket| ticket.0 == gone);
    bench.poll();
    assert!(bench.answer(gone).is_none() && bench.refusal(write).is_none());
}

#[test]
fn l03_a_read_is_asked_anew_and_an_old_answer_does_not_count() {
    let mut bench = Bench::running();
    let ticket = bench.get();
    let first = bench.poll();
    bench.leader(2, 2);
    let second = bench.poll();
    assert_eq!((second.len(), second[0].node), (1, 2));
    served(&mut bench, &first[0], "old");
    assert_eq!(bench.answer(ticket), None);
    served(&mut bench, &second[0], "new");
    assert_eq!(seen(&bench, ticket).as_deref(), Some("new"));
}

#[test]
fn l08_every_refusal_of_a_node_is_followed_by_another_attempt() {
    for answer in [not_leader(Some(2)), not_leader(None), Answer::Lost, Answer::Busy] {
        let mut bench = Bench::running();
        let ticket = bench.get();
        let sent = bench.poll();
        bench.reply(&sent[0], answer);
        let mut again = bench.poll();
        while again.is_empty() {
            again = bench.sleep();
        }
        served(&mut bench, &again[0], "x");
        assert_eq!(seen(&bench, ticket).as_deref(), Some("x"));
    }
}

#[test]
fn p4_reads_of_one_connection_are_answered_in_order_over_a_retry() {
    let mut bench = Bench::running();
    let (one, two) = (bench.get(), bench.get());
    let sent = bench.poll();
    bench.reply(&sent[0], Answer::Lost);
    bench.reply(&sent[1], value("old", T0));
    let again = bench.sleep();
    assert_eq!(again.len(), 2, "its answer would be older than that of the read before it");
    served(&mut bench, &again[1], "new");
    assert_eq!(bench.answer(two), None, "it counts once the earlier one has its own");
    served(&mut bench, &again[0], "new");
    assert_eq!((seen(&bench, one), seen(&bench, two)), (seen(&bench, two), Some("new".into())));
    assert_eq!(bench.dispatch.stats().pending, 0);
}

#[test]
fn x08_a_read_served_after_the_end_of_a_session_does_not_pass_over_its_write() {
    let mut bench = Bench::running();
    let (write, ticket) = (bench.append(), bench.get());
    let sent = bench.poll();
    let end = T0 + SESSION_LIFE_MS + 1;
    // Nothing of that lane can be executed any more, so the node did not wait; but the write may go on.
    bench.reply(&sent[1], value("without it", end));
    bench.reply(&sent[0], EXPIRED);
    let mut again = bench.poll();
    if again.is_empty() {
        again = bench.sleep();
    }
    assert_eq!((again[0].lane().seq, after(&again[1])), (Seq(1), Some(1)));
    assert!(again[0].lane().session != sent[0].lane().session);
    bench.done(&again[0]);
    bench.reply(&again[1], value("with it", end));
    bench.poll();
    assert_eq!(seen(&bench, ticket).as_deref(), Some("with it"));
    assert!(bench.answer(write).is_some());
}

#[test]
fn a_read_after_a_void_is_served() {
    let mut bench = Bench::running();
    let write = bench.append();
    bench.poll();
    bench.time_out();
    bench.grace_out();
    assert!(matches!(bench.refusal(write), Some(Refusal::Unknown { .. })));
    bench.get();
    let sent = bench.poll();
    assert_eq!(after(&sent[0]), Some(2), "the seq is driven on");
    bench.leader(2, 2);
    let again = bench.poll();
    assert!(is_void(&again[0]) && after(&again[1]) == Some(2));
    bench.done(&again[0]);
    served(&mut bench, &again[1], "x");
}

#[test]
fn a_lane_that_the_group_forgot_is_named_by_no_read() {
    let mut bench = Bench::running();
    bench.append();
    let ticket = bench.get();
    let sent = bench.poll();
    assert_eq!(after(&sent[1]), Some(2));
    bench.reply(&sent[0], Answer::Gap { last: Seq(0) });
    let again = bench.poll();
    assert_eq!(after(&again[0]), None);
    served(&mut bench, &sent[1], "of the attempt before");
    served(&mut bench, &again[0], "x");
    assert_eq!(seen(&bench, ticket).as_deref(), Some("x"));
}

#[test]
fn l13_a_read_follows_its_slot_and_says_so_at_the_deadline() {
    let mut bench = Bench::running();
    let ticket = bench.get();
    let mut sent = bench.poll();
    while bench.answer(ticket).is_none() {
        for sent in &sent {
            bench.reply(sent, Answer::Elsewhere);
        }
        sent = bench.sleep();
    }
    assert_eq!(bench.refusal(ticket), Some(Refusal::Moving { slot: SLOT }));
    assert!(!bench.asked.is_empty(), "it asks where the slot went");
}

#[test]
fn w09_a_node_that_answers_no_read_is_left() {
    let mut bench = Bench::running();
    bench.get();
    assert_eq!(bench.poll()[0].node, 1);
    bench.now += 4_000 * MS;
    bench.get();
    assert_eq!(bench.poll()[0].node, 1);
    let mut sent = bench.sleep();
    while sent.is_empty() {
        sent = bench.sleep();
    }
    assert_ne!(sent[0].node, 1);
    assert!(bench.now < 6_000 * MS + 100 * MS);
}

#[test]
fn w13_reads_of_a_client_that_went_free_what_another_waits_for() {
    let mut bench = Bench::running();
    let read = bench.get();
    bench.poll();
    bench.append();
    bench.poll();
    bench.dispatch.abandon(|ticket| ticket.0 == read);
    assert_eq!(bench.dispatch.stats().pending, 1);
    assert_eq!(seqs(&bench.poll()), [2]);
}

#[test]
fn w14_ops_that_are_held_back_count_in_the_bound_of_their_slot() {
    let bounds = Bounds { lane_unsent_max: 2, ..Bounds::default() };
    let mut dispatch = Dispatch::new(bounds, [1, 2], view(), None);
    dispatch.on_link(0, shard_core::NodeId(1), super::LinkEvent::Up);
    let mut output = Output::default();
    let mut submit = |dispatch: &mut Dispatch, ticket, op| {
        let from = (Connection(1), Ticket(ticket));
        dispatch.submit(0, from, Target::Slot(SLOT), Work::Op(op), 1_000 * MS);
        dispatch.poll(0, &mut output);
        output.answers.clone()
    };
    submit(&mut dispatch, 1, get());
    submit(&mut dispatch, 2, append(b"v"));
    assert_eq!(submit(&mut dispatch, 3, append(b"v")), []);
    let answers = submit(&mut dispatch, 4, append(b"v"));
    assert_eq!(answers, [(Ticket(4), Answered::Refused(Refusal::Overloaded))]);
}

//! What comes late, from before a restart, from a peer that is behind, or from one that says what is not
//! true: nothing of it is served, stops a replica, or keeps a group from going on.

use super::*;
use raft_core::conf::ConfChange;
use raft_core::message::ID_MAX;

fn conf_entry(at: EntryId, conf: &Conf) -> Entry {
    encode_entry(GroupId(1), at, EntryKind::Conf, &conf.encode())
}

/// A timer of every kind fires until something of the wanted kind was said.
fn until_asked(r: &mut Raft, wanted: impl Fn(&Message) -> bool) -> (Now, Message) {
    for _ in 0..50 {
        let now = r.deadline().expect("something to wait for");
        r.tick(now);
        let said = poll(r, now).send.into_iter().map(|envelope| envelope.message).find(&wanted);
        if let Some(message) = said {
            return (now, message);
        }
    }
    panic!("never asked");
}

/// The number of the read that is asked for.
fn question(e: &Effects) -> Option<u64> {
    let later = e.send_after.iter().map(|(_, envelope)| envelope);
    e.send.iter().chain(later).find_map(|envelope| match &envelope.message {
        Message::ReadIndex(m) => Some(m.seq),
        _ => None,
    })
}

/// R23, L16: epochs are drawn at random, so the answer to the process before may have the higher number.
#[test]
fn a_late_answer_to_the_process_before_serves_no_read() {
    let follower = |epoch| {
        let mut c = Config::new(NodeId(1), GroupId(1), voters());
        c.epoch = epoch;
        let mut r = open_with(c);
        r.step(1, NodeId(2), append(1, EntryId::default(), 0, &[entry(id(1, 1))])).unwrap();
        r.read_index(1, ReadId(epoch), ReadMode::Index).unwrap();
        let seq = question(&poll(&mut r, 1)).expect("a question");
        (r, seq)
    };
    for (before, after) in [(900, 7), (7, 900), (u32::MAX as u64 >> 1, 1)] {
        let (_, old) = follower(before);
        let (mut r, new) = follower(after);
        let answer = |seq, index| {
            let index = Some(Index(index));
            Message::ReadIndexReply(ReadIndexReply { term: Term(1), seq, index })
        };
        r.step(2, NodeId(2), answer(old, 0)).unwrap();
        assert_eq!(poll(&mut r, 2).reads, [], "an index of before the restart");
        r.step(2, NodeId(2), answer(new, 1)).unwrap();
        assert_eq!(poll(&mut r, 2).reads, [(ReadId(after), Index(1))]);
    }
}

/// E16, R20: a peer that lacks the configuration in which the asker came says that it is no member, and has
/// the higher term. The asker takes the term, or it would ask below it for ever.
#[test]
fn who_is_not_known_to_a_peer_takes_its_term_nevertheless() {
    let mut c = Config::new(NodeId(4), GroupId(1), Vec::new());
    c.epoch = 1;
    let mut r = open_with(c);
    let conf = Conf::of_voters([2, 3, 4].map(NodeId).to_vec());
    let entries = [entry(id(1, 1)), conf_entry(id(2, 1), &conf)];
    r.step(1, NodeId(3), append(1, EntryId::default(), 1, &entries)).unwrap();
    poll(&mut r, 1);
    let pre_vote = |m: &Message| matches!(m, Message::PreVote(_));
    let (now, asked) = until_asked(&mut r, pre_vote);
    let Message::PreVote(asked) = asked else { unreachable!() };
    let (term, round, granted) = (Term(5), asked.round, false);
    let reply = PreVoteReply { term, round, granted, removed: Some(Index(1)) };
    r.step(now, NodeId(2), Message::PreVoteReply(reply)).unwrap();
    poll(&mut r, now);
    let (_, asked) = until_asked(&mut r, pre_vote);
    assert_eq!(asked.term(), Term(5), "asks below the term that it was told");
}

/// S14, P8: what a checkpoint covers must say who is in the group. Whoever joins does not know it before
/// the entry in which it came, and a start would refuse the checkpoint.
#[test]
fn a_joiner_makes_no_checkpoint_before_it_knows_the_members() {
    let mut r = open_with(Config::new(NodeId(4), GroupId(1), Vec::new()));
    let conf = Conf::of_voters([1, 2, 4].map(NodeId).to_vec());
    let entries = [entry(id(1, 1)), entry(id(2, 1)), conf_entry(id(3, 1), &conf)];
    r.step(1, NodeId(2), append(1, EntryId::default(), 2, &entries)).unwrap();
    poll(&mut r, 1);
    r.applied(1, Index(2), 0);
    assert!(r.status().durable >= Index(2));
    assert_eq!(r.checkpointable(), Index(0), "a configuration that is not committed");
    r.step(2, NodeId(2), append(1, id(3, 1), 3, &[])).unwrap();
    poll(&mut r, 2);
    assert_eq!(r.checkpointable(), Index(0), "what is applied does not say who is a member");
    r.applied(2, Index(3), 0);
    assert_eq!(r.checkpointable(), Index(3));
}

/// M9: whoever knows that a replica is not to be a member may delete it while nothing says that it is one: as
/// long as it has heard nothing since it came, and once its end is committed.
#[test]
fn a_joiner_is_no_member_before_it_came_and_after_it_went() {
    let mut r = open_with(Config::new(NodeId(4), GroupId(1), Vec::new()));
    assert!(r.is_no_member());
    r.step(1, NodeId(2), append(1, EntryId::default(), 1, &[entry(id(1, 1))])).unwrap();
    poll(&mut r, 1);
    assert!(r.is_no_member());
    let came = conf_entry(id(2, 1), &Conf::of_voters([2, 4].map(NodeId).to_vec()));
    r.step(2, NodeId(2), append(1, id(1, 1), 1, &[came])).unwrap();
    poll(&mut r, 2);
    assert!(!r.is_no_member(), "it counts from when it is appended");
    let went = conf_entry(id(3, 1), &Conf::of_voters([2].map(NodeId).to_vec()));
    r.step(3, NodeId(2), append(1, id(2, 1), 2, &[went])).unwrap();
    poll(&mut r, 3);
    assert!(!r.is_no_member(), "its end is not committed");
    r.step(4, NodeId(2), append(1, id(3, 1), 3, &[])).unwrap();
    poll(&mut r, 4);
    assert!(r.is_no_member());
}

/// A leader of three, of which n3 needs a snapshot of everything, with log bounds of one byte.
fn leader_with_a_stream() -> (Raft, Now) {
    let mut c = Config::new(NodeId(1), GroupId(1), voters());
    (c.log_trailing_bytes, c.log_bytes_max, c.log_disk_bytes_max) = (0, 1, 1);
    c.missed_ns = 0;
    let mut r = open_with(c);
    let now = r.deadline().unwrap();
    lead(&mut r, now);
    r.liveness(now, NodeId(3), NodeLiveness::Down { gone: true });
    serve_all(&mut r, now, has_all);
    r.checkpointed(now, snap(r.status().last));
    serve_all(&mut r, now, has_all);
    assert_eq!(r.status().base, r.status().last);
    r.liveness(now, NodeId(3), NodeLiveness::Up { epoch: 1, link: 1 });
    let offered = poll(&mut r, now).appendable;
    assert_eq!(offered, [NodeId(3)]);
    let offer = r.next_append(now, NodeId(3), 1 << 20);
    assert!(matches!(offer, Pull::Ready(Message::InstallSnapshot(_))), "{offer:?}");
    (r, now)
}

/// S7: proposals wait for a snapshot that the log may not overtake, but not for one whose receiver is gone.
#[test]
fn a_receiver_that_is_gone_holds_writes_up_no_longer_than_the_patience() {
    let (mut r, now) = leader_with_a_stream();
    let one = || std::iter::once(Bytes::from_static(b"y"));
    assert_eq!(r.propose(now, &mut one()).count, 1);
    serve_all(&mut r, now, has_all);
    r.checkpointed(now, snap(r.status().last));
    r.liveness(now, NodeId(3), NodeLiveness::Down { gone: true });
    serve_all(&mut r, now, has_all);
    assert_eq!(r.propose(now, &mut one()).refused, Some(Refused::Busy));
    // The other follower has everything, and knows it: there is nothing to ask it.
    let (term, last) = (r.status().hard.term, r.status().last.index);
    let outcome = AppendOutcome::Accepted { matched: last, received: last };
    let reply = AppendEntriesReply { term, stamp: now, promised_ns: 0, commit: last, outcome };
    r.step(now, NodeId(2), Message::AppendEntriesReply(reply)).unwrap();
    let (mut e, mut later, mut told) = (Effects::default(), now, false);
    for _ in 0..5 {
        while r.poll(later, &mut e) {
            told |= e.room;
        }
        if told {
            break;
        }
        later = r.deadline().expect("the end of the patience");
        r.tick(later);
    }
    assert_eq!((told, later - now), (true, 30_000 * MS));
    assert_eq!(r.propose(later, &mut one()).count, 1);
}

/// R26, S8: while a newer snapshot is being installed here, the checkpoint before it ends before the log
/// begins: nobody is offered it.
#[test]
fn a_leader_that_installs_does_not_offer_what_its_log_does_not_continue() {
    let mut r = open(0);
    let first = [entry(id(1, 1))];
    r.step(1, NodeId(2), append(1, EntryId::default(), 1, &first)).unwrap();
    poll(&mut r, 1);
    r.applied(1, Index(1), 0);
    r.checkpointed(1, snap(id(1, 1)));
    let now = candidate_with_incoming(&mut r);
    r.snapshot(now, SnapEvent::Received { id: snap(id(8, 1)).id, offset: 100 });
    poll(&mut r, now);
    let term = r.status().hard.term;
    let vote = Message::RequestVoteReply(RequestVoteReply { term, granted: true });
    r.step(now, NodeId(3), vote).unwrap();
    assert_eq!((r.status().role, r.status().base), (Role::Leader, id(8, 1)));
    let mut offers = 0;
    serve(&mut r, now, |_, message| match message {
        Message::AppendEntries(m) => Some(answer(&m, has_nothing(&m))),
        Message::InstallSnapshot(_) => {
            offers += 1;
            None
        }
        other => panic!("{other:?}"),
    });
    assert_eq!(offers, 0);
    // Once it holds the newer one, both are offered that, once.
    r.snapshot(now, SnapEvent::Installed { id: snap(id(8, 1)).id });
    let later = now + 1000 * MS;
    r.tick(later);
    for peer in poll(&mut r, later).appendable {
        let offer = r.next_append(later, peer, 1 << 20);
        let Pull::Ready(Message::InstallSnapshot(m)) = offer else { panic!("{offer:?}") };
        assert_eq!(m.snapshot.id.at, id(8, 1));
        assert!(matches!(r.next_append(later, peer, 1 << 20), Pull::Nothing));
    }
}

/// R15, R28: a leader whose disk is stuck can still speak, and does as long as somebody reads. Its words
/// keep nobody from taking its place.
#[test]
fn a_leader_on_a_stuck_disk_is_replaced_though_it_speaks() {
    let mut r = open(0);
    r.liveness(1, NodeId(2), NodeLiveness::Up { epoch: 1, link: 1 });
    r.step(1, NodeId(2), append(1, EntryId::default(), 0, &[entry(id(1, 1))])).unwrap();
    poll(&mut r, 1);
    assert_eq!(r.deadline(), None, "its leader's node lives");
    r.liveness(2, NodeId(2), NodeLiveness::DiskStalled);
    poll(&mut r, 2);
    let confirm = |seq| Confirm { term: Term(1), seq, stamp: 1, lease_ns: 0 };
    let (mut now, mut asked) = (2, false);
    for seq in 0..20 {
        now += 100 * MS;
        r.step(now, NodeId(2), Message::Confirm(confirm(seq))).unwrap();
        r.tick(now);
        let pre_vote = |envelope: &Envelope| matches!(envelope.message, Message::PreVote(_));
        asked |= poll(&mut r, now).send.iter().any(pre_vote);
    }
    assert!(asked, "waits for ever");
}

/// Its disk goes on before the timer fires: it leads on.
#[test]
fn a_leader_whose_disk_goes_on_in_time_is_believed_again() {
    let mut r = open(0);
    r.liveness(1, NodeId(2), NodeLiveness::Up { epoch: 1, link: 1 });
    r.step(1, NodeId(2), append(1, EntryId::default(), 0, &[entry(id(1, 1))])).unwrap();
    poll(&mut r, 1);
    r.liveness(2, NodeId(2), NodeLiveness::DiskStalled);
    poll(&mut r, 2);
    assert!(r.deadline().is_some());
    r.liveness(3, NodeId(2), NodeLiveness::Up { epoch: 1, link: 1 });
    poll(&mut r, 3);
    assert_eq!(r.deadline(), None);
    r.liveness(4, NodeId(2), NodeLiveness::Down { gone: false });
    assert!(r.deadline().is_some_and(|at| at >= 4), "a timer from before");
}

/// A follower with as many reads as may wait says that there is room when there is.
#[test]
fn room_for_reads_at_a_follower_means_room() {
    let mut c = Config::new(NodeId(1), GroupId(1), voters());
    c.waiting_reads_max = 2;
    let mut r = open_with(c);
    r.step(1, NodeId(2), append(1, EntryId::default(), 0, &[])).unwrap();
    let mut e = Effects::default();
    let asked = (1..=3).map(|read| r.read_index(1, ReadId(read), ReadMode::Index));
    assert_eq!(asked.collect::<Vec<_>>(), [Ok(()), Ok(()), Err(Refused::Busy)]);
    let mut seq = None;
    while r.poll(1, &mut e) {
        assert!(!e.room, "room for more than may wait");
        seq = seq.or(question(&e));
    }
    let seq = seq.expect("a question");
    let reply = ReadIndexReply { term: Term(1), seq, index: Some(Index(0)) };
    r.step(2, NodeId(2), Message::ReadIndexReply(reply)).unwrap();
    r.poll(2, &mut e);
    assert_eq!((e.reads.len(), e.room), (2, true));
}

/// E32: no peer carries a group to a term after which there is no other. Up to half of all terms any is taken;
/// who leads is believed further, and beyond that nobody is but a little at a time.
#[test]
fn no_message_uses_up_the_terms() {
    let vote = |term| {
        let m = RequestVote { term: Term(term), last: EntryId::default(), transfer: false };
        Message::RequestVote(m)
    };
    let mut r = open(0);
    let refused = Err(Reject::Malformed("term out of range"));
    for term in [ID_MAX, ID_MAX / 2 + 1, u64::MAX] {
        assert_eq!(r.step(1, NodeId(2), vote(term)), refused, "{term}");
        let m = PreVote { term: Term(term), round: 1, last: EntryId::default() };
        assert_eq!(r.step(1, NodeId(2), Message::PreVote(m)), refused, "{term}");
    }
    assert_eq!(r.step(1, NodeId(2), append(ID_MAX, EntryId::default(), 0, &[])), refused);
    assert_eq!(r.status().hard.term, Term(0));
    r.step(1, NodeId(2), vote(ID_MAX / 2)).unwrap();
    poll(&mut r, 1);
    let (now, asked) = until_asked(&mut r, |m| matches!(m, Message::PreVote(_)));
    assert_eq!(asked.term(), Term(ID_MAX / 2), "far, and there are as many again");
    r.step(now, NodeId(2), vote(ID_MAX / 2 + 3)).unwrap();
    assert_eq!(r.step(now, NodeId(2), vote(ID_MAX - 1)), refused);
    // Who joins such a group hears it.
    let mut joiner = open_with(Config::new(NodeId(4), GroupId(1), Vec::new()));
    let at = EntryId::default();
    joiner.step(2, NodeId(2), append(ID_MAX / 2 + 3, at, 0, &[])).unwrap();
    assert_eq!(joiner.status().leader, Some(NodeId(2)));
}

/// R25: a host that gives more than it was asked for does not bring what is not committed to the state
/// machine.
#[test]
fn what_was_not_asked_for_is_not_committed() {
    let log: Vec<Entry> = (1..=5).map(|index| entry(id(index, 1))).collect();
    let hard = HardState { term: Term(1), ..HardState::default() };
    let c = Config::new(NodeId(1), GroupId(1), voters());
    let mut r = Raft::open(c, Restored::of_log(hard, &log), 1, 0).unwrap();
    r.step(1, NodeId(2), append(1, id(5, 1), 3, &[])).unwrap();
    let e = poll(&mut r, 1);
    let fetch = e.fetch.first().expect("what memory does not have");
    assert_eq!((fetch.from, fetch.to), (Index(1), Index(3)));
    r.fetched(1, fetch.id, FetchResult::Entries(log));
    let committed: Vec<u64> = poll(&mut r, 1).commit.iter().map(|entry| entry.id.index.0).collect();
    assert_eq!(committed, [1, 2, 3]);
}

/// A replica whose log is ahead of its disk.
fn applied_beyond_the_disk() -> Raft {
    let mut r = open(0);
    r.step(1, NodeId(2), append(1, EntryId::default(), 1, &[entry(id(1, 1))])).unwrap();
    let mut e = Effects::default();
    r.poll(1, &mut e);
    assert_eq!(e.commit.len(), 1);
    r.applied(1, Index(1), 0);
    r
}

/// R6: a host that has broken the rule hears of it before a restart does.
#[test]
#[should_panic(expected = "a checkpoint of what is not on the log's disk")]
fn a_checkpoint_beyond_the_durable_log_stops_the_replica() {
    applied_beyond_the_disk().checkpointed(1, snap(id(1, 1)));
}

#[test]
#[should_panic(expected = "a configuration from after it")]
fn a_checkpoint_with_a_later_configuration_stops_the_replica() {
    let mut r = applied_beyond_the_disk();
    r.persisted(1, WriteToken(1));
    let mut checkpoint = snap(id(1, 1));
    checkpoint.conf.0 = Index(2);
    r.checkpointed(1, checkpoint);
}

/// R11 of the scenarios: a follower that says it has more than its leader ever had has another log, or the
/// leader lost its own. It counts for nothing, and the host can say so.
#[test]
fn a_match_beyond_the_log_counts_for_nothing_and_is_told() {
    let (mut r, now) = leader();
    let last = r.status().last.index;
    let term = r.status().hard.term;
    let beyond = Index(last.0 + 5);
    let outcome = AppendOutcome::Accepted { matched: beyond, received: beyond };
    let (stamp, promised_ns, commit) = (now, 0, Index(0));
    let reply = AppendEntriesReply { term, stamp, promised_ns, commit, outcome };
    let said = r.step(now, NodeId(2), Message::AppendEntriesReply(reply));
    assert_eq!(said, Err(Reject::Malformed("a match beyond the leader's log")));
    assert!(r.status().matched.iter().all(|(_, matched)| *matched <= last));
}

/// M18: from voter to learner and back its progress stays, and it counts only while it is a voter.
#[test]
fn a_demoted_voter_keeps_its_progress_and_counts_when_it_is_back() {
    let (mut r, now) = leader();
    let of = |r: &Raft, id| r.status().matched.iter().find(|(peer, _)| *peer == id).unwrap().1;
    let change = |voters: &[u64], learners: &[u64]| ConfChange {
        voters: voters.iter().copied().map(NodeId).collect(),
        learners: learners.iter().copied().map(NodeId).collect(),
        follows: 0,
    };
    let before = of(&r, NodeId(3));
    r.change_conf(now, &change(&[1, 2], &[3])).unwrap();
    serve_all(&mut r, now, has_all);
    assert_eq!(r.conf().learners, [NodeId(3)]);
    assert!(of(&r, NodeId(3)) >= before, "its progress began anew");
    // Alone with the learner it commits nothing.
    let committed = r.status().commit;
    r.propose(now, &mut std::iter::once(Bytes::from_static(b"x")));
    let without_n2 = |r: &mut Raft| {
        serve(r, now, |peer, message| {
            let Message::AppendEntries(m) = message else { panic!("{message:?}") };
            (peer == NodeId(3)).then(|| answer(&m, has_all(&m)))
        });
    };
    without_n2(&mut r);
    assert_eq!(of(&r, NodeId(3)), r.status().last.index);
    assert_eq!(r.status().commit, committed, "a learner was counted");
    // What n2 was sent is lost; on a new link it gets it, and n3 becomes a voter again.
    r.liveness(now, NodeId(2), NodeLiveness::Up { epoch: 2, link: 2 });
    serve_all(&mut r, now, has_all);
    assert_eq!(r.status().commit, r.status().last.index);
    r.change_conf(now, &change(&[1, 2, 3], &[])).unwrap();
    serve_all(&mut r, now, has_all);
    assert_eq!(r.conf().voters, voters());
    r.propose(now, &mut std::iter::once(Bytes::from_static(b"y")));
    without_n2(&mut r);
    assert_eq!(r.status().commit, r.status().last.index, "a voter is not counted");
}

//! What a host may do between two polls, and what it may rely on: several inputs in one turn, the loop of
//! the README, and that it is not called again and again for nothing.

use bytes::Bytes;
use raft_core::conf::Conf;
use raft_core::effects::*;
use raft_core::frame::encode_entry;
use raft_core::message::*;
use raft_core::snapshot::*;
use raft_core::types::*;
use raft_core::{Config, Raft, Restored, invariants};

mod anew;
mod held_up;
mod late_and_false;

const MS: Now = 1_000_000;

fn id(index: u64, term: u64) -> EntryId {
    EntryId { index: Index(index), term: Term(term) }
}
fn voters() -> Vec<NodeId> {
    (1..=3).map(NodeId).collect()
}
fn open(lease: Now) -> Raft {
    let mut c = Config::new(NodeId(1), GroupId(1), voters());
    c.lease_ns = lease;
    c.epoch = 1;
    open_with(c)
}
fn open_with(c: Config) -> Raft {
    Raft::open(c, Restored::default(), 1, 0).unwrap()
}
fn poll(r: &mut Raft, now: Now) -> Effects {
    let mut e = Effects::default();
    r.poll(now, &mut e);
    if let Some(w) = &e.write {
        r.persisted(now, w.token);
    }
    e
}
fn snap(at: EntryId) -> Snapshot {
    Snapshot {
        id: SnapshotId { at, hash: 7 },
        bytes: 100,
        conf: (Index(0), Conf::of_voters(voters())),
    }
}
fn offer(r: &mut Raft, now: Now, term: u64, at: EntryId) {
    let m =
        InstallSnapshot { term: Term(term), stamp: 1, lease_ns: 0, snapshot: Box::new(snap(at)) };
    r.step(now, NodeId(2), Message::InstallSnapshot(m)).unwrap();
}
fn append(term: u64, prev: EntryId, commit: u64, entries: &[Entry]) -> Message {
    let entries = entries.iter().cloned().collect();
    let (term, commit) = (Term(term), Index(commit));
    Message::AppendEntries(AppendEntries { term, prev, commit, stamp: 1, lease_ns: 0, entries })
}

fn entry(at: EntryId) -> Entry {
    encode_entry(GroupId(1), at, EntryKind::Command, b"x")
}

/// Becomes a candidate with a snapshot coming in; returns the time.
fn candidate_with_incoming(r: &mut Raft) -> Now {
    offer(r, 1, 1, id(8, 1));
    poll(r, 1);
    let mut now = r.deadline().unwrap();
    r.tick(now);
    let e = poll(r, now);
    let round = e.send.iter().find_map(|m| match &m.message {
        Message::PreVote(m) => Some(m.round),
        _ => None,
    });
    now += 1;
    let m = PreVoteReply { term: Term(1), round: round.unwrap(), granted: true, removed: None };
    r.step(now, NodeId(3), Message::PreVoteReply(m)).unwrap();
    poll(r, now);
    poll(r, now);
    assert_eq!(r.status().role, Role::Candidate);
    now
}

/// The last bytes of a snapshot, which replaces the log, and the timer by which a candidate asks again,
/// in one turn of the host: what is promised waits for the snapshot's write.
#[test]
fn a_candidate_gets_the_last_chunk_and_its_timer_in_one_turn() {
    let mut r = open(0);
    let now = candidate_with_incoming(&mut r);
    r.snapshot(now, SnapEvent::Received { id: snap(id(8, 1)).id, offset: 100 });
    let now = r.deadline().unwrap();
    r.tick(now);
    poll(&mut r, now);
    invariants::check(&r);
}

#[test]
fn a_candidate_gets_the_last_chunk_and_a_new_link_in_one_turn() {
    let mut r = open(0);
    let now = candidate_with_incoming(&mut r);
    r.snapshot(now, SnapEvent::Received { id: snap(id(8, 1)).id, offset: 100 });
    r.liveness(now, NodeId(2), NodeLiveness::Up { epoch: 1, link: 1 });
    poll(&mut r, now);
}

/// Won its pre-vote, lost the election and had its log cut, in one turn: it asks for no votes with the
/// log that it had (R2).
#[test]
fn who_lost_in_the_same_turn_asks_for_nothing() {
    let mut r = open(0);
    let nothing = EntryId::default();
    r.step(1, NodeId(2), append(1, nothing, 0, &[entry(id(1, 1))])).unwrap();
    poll(&mut r, 1);
    let now = r.deadline().unwrap();
    r.tick(now);
    let e = poll(&mut r, now);
    let round = e.send.iter().find_map(|m| match &m.message {
        Message::PreVote(m) => Some(m.round),
        _ => None,
    });
    let m = PreVoteReply { term: Term(1), round: round.unwrap(), granted: true, removed: None };
    r.step(now, NodeId(3), Message::PreVoteReply(m)).unwrap();
    assert_eq!(r.status().role, Role::Candidate);
    r.step(now, NodeId(3), append(2, nothing, 0, &[entry(id(1, 2))])).unwrap();
    assert_eq!(r.status().last, id(1, 2));
    let e = poll(&mut r, now);
    let said = e.send.iter().chain(e.send_after.iter().map(|(_, envelope)| envelope));
    let asks = |envelope: &Envelope| matches!(envelope.message, Message::RequestVote(_));
    assert_eq!(said.filter(|envelope| asks(envelope)).count(), 0);
}

fn lead(r: &mut Raft, now: Now) {
    r.tick(now);
    let e = poll(r, now);
    let round = e.send.iter().find_map(|m| match &m.message {
        Message::PreVote(m) => Some(m.round),
        _ => None,
    });
    let t = r.status().hard.term;
    let m = PreVoteReply { term: t, round: round.unwrap(), granted: true, removed: None };
    r.step(now, NodeId(3), Message::PreVoteReply(m)).unwrap();
    poll(r, now);
    poll(r, now);
    let t = r.status().hard.term;
    r.step(now, NodeId(3), Message::RequestVoteReply(RequestVoteReply { term: t, granted: true }))
        .unwrap();
    assert_eq!(r.status().role, Role::Leader);
}

/// A follower's answer to what it was sent.
fn answer(a: &AppendEntries, outcome: AppendOutcome) -> Message {
    let commit = match outcome {
        AppendOutcome::Accepted { received, .. } => a.commit.min(received),
        AppendOutcome::Rejected { .. } => Index(0),
    };
    let (term, stamp, promised_ns) = (a.term, a.stamp, 0);
    Message::AppendEntriesReply(AppendEntriesReply { term, stamp, promised_ns, commit, outcome })
}

/// What a host did in one instant.
struct Served {
    rounds: usize,
    /// It was told that there is room again.
    room: bool,
}

/// The loop of README.md with room of 1 MiB on every link, until nothing is owed, 1000 rounds at most. `hear` is
/// the network and the followers: what it is given was sent, what it gives comes back at once.
fn serve(
    r: &mut Raft,
    now: Now,
    mut hear: impl FnMut(NodeId, Message) -> Option<Message>,
) -> Served {
    let (mut e, mut served) = (Effects::default(), Served { rounds: 0, room: false });
    while served.rounds < 1000 && r.poll(now, &mut e) {
        served.rounds += 1;
        served.room |= e.room;
        for peer in &e.appendable {
            while let Pull::Ready(message) = r.next_append(now, *peer, 1 << 20) {
                if let Some(answer) = hear(*peer, message) {
                    r.step(now, *peer, answer).unwrap();
                }
            }
        }
        if let Some(write) = e.write.take() {
            r.persisted(now, write.token);
        }
        for entry in e.commit.drain(..) {
            r.applied(now, entry.id.index, entry.frame.len() as u64);
        }
    }
    served
}

/// The same with followers that answer so to entries, and to nothing else.
fn serve_all(r: &mut Raft, now: Now, outcome: fn(&AppendEntries) -> AppendOutcome) -> Served {
    serve(r, now, |_, message| match message {
        Message::AppendEntries(m) => Some(answer(&m, outcome(&m))),
        _ => None,
    })
}

/// A follower that has what it is sent.
fn has_all(a: &AppendEntries) -> AppendOutcome {
    let last = a.entries.last().map_or(a.prev.index, |entry| entry.id.index);
    AppendOutcome::Accepted { matched: last, received: last }
}

/// A follower that has nothing.
fn has_nothing(a: &AppendEntries) -> AppendOutcome {
    AppendOutcome::Rejected { prev: a.prev.index, hint: EntryId::default() }
}

/// An entry that no link has room for is told of once.
#[test]
fn the_readme_loop_ends_with_a_big_entry() {
    let mut r = open(0);
    let now = r.deadline().unwrap();
    lead(&mut r, now);
    assert!(serve_all(&mut r, now, has_all).rounds < 1000);
    let p = r.propose(now, &mut std::iter::once(Bytes::from(vec![1u8; 2 << 20])));
    assert_eq!(p.count, 1);
    let rounds = serve_all(&mut r, now, has_all).rounds;
    assert!(rounds < 1000, "spins: {rounds}");
}

/// Leads while the snapshot's write is durable, but the state machine has not loaded it.
#[test]
fn a_leader_that_still_installs_does_not_spin() {
    let mut r = open(0);
    let now = candidate_with_incoming(&mut r);
    r.snapshot(now, SnapEvent::Received { id: snap(id(8, 1)).id, offset: 100 });
    poll(&mut r, now);
    let t = r.status().hard.term;
    r.step(now, NodeId(3), Message::RequestVoteReply(RequestVoteReply { term: t, granted: true }))
        .unwrap();
    assert_eq!(r.status().role, Role::Leader);
    assert!(serve_all(&mut r, now, has_nothing).rounds < 1000, "spins");
}

/// A lease without one promise: the clock began a moment ago.
#[test]
fn no_lease_without_a_promise() {
    let mut r = open(500_000_000);
    // n2 leads term 1 and hands over.
    r.step(1_000_000, NodeId(2), append(1, EntryId::default(), 0, &[])).unwrap();
    poll(&mut r, 1_000_000);
    r.step(2_000_000, NodeId(2), Message::TimeoutNow(TimeoutNow { term: Term(1) })).unwrap();
    poll(&mut r, 2_000_000);
    let t = r.status().hard.term;
    r.step(
        3_000_000,
        NodeId(3),
        Message::RequestVoteReply(RequestVoteReply { term: t, granted: true }),
    )
    .unwrap();
    assert_eq!(r.status().role, Role::Leader);
    assert!(!r.lease_holds(4_000_000), "nobody promised anything");
}

/// The host comes again when `room` says so.
#[test]
fn room_after_busy_means_room() {
    let mut r = open(0);
    let now = r.deadline().unwrap();
    lead(&mut r, now);
    let mut e = Effects::default();
    while r.poll(now, &mut e) {}
    let p = r.propose(now, &mut std::iter::once(Bytes::from(vec![1u8; 10 << 20])));
    assert_eq!(p.count, 1);
    let mut spins = 0;
    for _ in 0..100 {
        let p = r.propose(now, &mut std::iter::once(Bytes::from(vec![1u8; 8 << 20])));
        if p.count == 1 {
            break;
        }
        r.poll(now, &mut e);
        if e.room {
            spins += 1;
        } else {
            break;
        }
    }
    assert!(spins < 2, "told to come again {spins} times at one instant, refused each time");
}

/// A leader whose log is empty but for its first entry, all of it committed.
fn leader() -> (Raft, Now) {
    let mut c = Config::new(NodeId(1), GroupId(1), voters());
    c.uncommitted_bytes_max = 1 << 20;
    c.log_trailing_bytes = 0;
    let mut r = open_with(c);
    let now = r.deadline().unwrap();
    lead(&mut r, now);
    assert!(serve_all(&mut r, now, has_all).rounds < 1000);
    (r, now)
}

/// R24: however much small traffic there is, what was refused first is let in.
#[test]
fn small_proposals_do_not_starve_a_large_one() {
    let (mut r, now) = leader();
    let big = || std::iter::once(Bytes::from(vec![1u8; 15 << 16]));
    let small = || std::iter::repeat_n(Bytes::from(vec![2u8; 1 << 16]), 4);
    for turn in 0..3 {
        r.propose(now, &mut small());
        let accepted = r.propose(now, &mut big()).count;
        assert!(accepted == 1 || turn < 2, "starved");
        if accepted == 1 {
            break;
        }
        // What is under way ends, and more of the same comes first.
        assert!(serve_all(&mut r, now, has_all).rounds < 1000);
    }
    // Who waits behind one that does not come again hears when to come.
    assert!(serve_all(&mut r, now, has_all).rounds < 1000);
    r.propose(now, &mut small());
    assert_eq!(r.propose(now, &mut big()).refused, Some(Refused::Busy));
    let behind = std::iter::once(Bytes::from(vec![3u8; 2 << 16]));
    assert_eq!(r.propose(now, &mut behind.clone()).refused, Some(Refused::Busy));
    let mut effects = Effects::default();
    while r.poll(now, &mut effects) {
        assert!(!effects.room);
        effects.commit.clear();
    }
    let (mut later, mut told) = (now, false);
    for _ in 0..20 {
        later = r.deadline().expect("the end of the ticket");
        r.tick(later);
        while r.poll(later, &mut effects) {
            told |= effects.room;
        }
        if told {
            break;
        }
    }
    assert_eq!((told, later - now), (true, 500_000_000), "nobody says that there is room");
    assert_eq!(r.propose(later, &mut behind.clone()).count, 1);
}

/// Nodes that are no members cannot keep those that are from reading.
#[test]
fn strangers_do_not_fill_the_waiting_reads() {
    let (mut r, now) = leader();
    let ask = |seq| Message::ReadIndex(ReadIndex { term: Term(1), seq });
    for stranger in 0..70_000 {
        r.step(now, NodeId(100 + stranger), ask(1)).unwrap();
    }
    assert_eq!(r.memory().waiting_reads, 0);
    let e = poll(&mut r, now);
    let refused = |envelope: &Envelope| matches!(&envelope.message, Message::ReadIndexReply(m) if m.index.is_none());
    assert_eq!(e.send.iter().filter(|envelope| refused(envelope)).count(), 70_000);
    r.step(now, NodeId(2), ask(2)).unwrap();
    r.read_index(now, ReadId(1), ReadMode::Index).unwrap();
    assert_eq!(r.memory().waiting_reads, 2);
}

/// B101: a follower that wants more of a snapshot than there is. Nothing moves.
#[test]
fn an_offset_beyond_the_snapshot_is_refused() {
    let mut c = Config::new(NodeId(1), GroupId(1), voters());
    (c.log_trailing_bytes, c.missed_ns) = (0, 0);
    let mut r = open_with(c);
    let now = r.deadline().unwrap();
    lead(&mut r, now);
    // n3 has nothing, and what it lacks is gone.
    r.liveness(now, NodeId(3), NodeLiveness::Down { gone: true });
    serve_all(&mut r, now, has_all);
    let index = r.status().last.index;
    let whole = Snapshot {
        id: SnapshotId { at: r.status().last, hash: 7 },
        bytes: 100,
        conf: (Index(0), Conf::of_voters(voters())),
    };
    assert_eq!(r.checkpointable(), index);
    r.checkpointed(now, whole.clone());
    r.propose(now, &mut std::iter::once(Bytes::from_static(b"x")));
    serve_all(&mut r, now, has_all);
    let base = r.status().base.index;
    assert!(base >= index, "the log goes behind the checkpoint: {base}");
    r.liveness(now, NodeId(3), NodeLiveness::Up { epoch: 2, link: 9 });
    let mut e = Effects::default();
    r.poll(now, &mut e);
    let reply = |offset| {
        let m = InstallSnapshotReply {
            term: Term(1),
            stamp: now,
            promised_ns: 0,
            id: whole.id,
            offset,
        };
        Message::InstallSnapshotReply(m)
    };
    let offered = r.next_append(now, NodeId(3), 1 << 20);
    assert!(matches!(offered, Pull::Ready(Message::InstallSnapshot(_))), "{offered:?}");
    let before = (r.digest(), r.deadline(), r.status());
    let refused = r.step(now, NodeId(3), reply(101)).expect_err("beyond its end");
    assert_eq!(refused, Reject::Malformed("an offset beyond the snapshot's end"));
    assert_eq!((r.digest(), r.deadline(), r.status()), before);
    r.step(now, NodeId(3), reply(40)).unwrap();
    r.poll(now, &mut e);
    let sends = |c: &SnapCmd| matches!(c, SnapCmd::Send { from: 40, to: 100, .. });
    assert!(e.snaps.iter().any(sends), "{:?}", e.snaps);
}

/// A disk that ends no write, and terms that rise with every message: the writes on their way are
/// bounded, and the last of them has the newest term.
#[test]
fn terms_without_end_make_no_writes_without_end() {
    let mut r = open(0);
    let mut e = Effects::default();
    let (mut handed, mut held) = (Vec::new(), Vec::new());
    for term in 1..=10_000 {
        let m = RequestVote { term: Term(term), last: EntryId::default(), transfer: false };
        r.step(1, NodeId(2 + term % 2), Message::RequestVote(m)).unwrap();
        r.poll(1, &mut e);
        handed.extend(e.write.take().map(|write| write.token));
        held.append(&mut e.send_after);
    }
    assert_eq!((handed.len(), r.memory().pending_writes), (4096, 4096));
    r.persisted(2, *handed.last().unwrap());
    r.poll(2, &mut e);
    let write = e.write.take().expect("what was not handed over");
    assert_eq!(write.hard.map(|hard| hard.term), Some(Term(10_000)));
    // Each vote waits for a write that comes, and that has its term or a later one.
    assert!(held.iter().all(|(token, _)| *token <= write.token));
    assert_eq!((held.len(), r.memory().pending_writes), (10_000, 1));
}

/// With nothing to stay behind a checkpoint there is still no mark for each entry.
#[test]
fn marks_of_sizes_are_bounded() {
    let mut c = Config::new(NodeId(1), GroupId(1), vec![NodeId(1)]);
    c.log_trailing_bytes = 0;
    let mut r = Raft::open(c, Restored::default(), 1, 0).unwrap();
    r.tick(0);
    for entry in 0..20_000 {
        serve_all(&mut r, 1, has_all);
        r.propose(1, &mut std::iter::once(Bytes::from(vec![1u8; entry % 50])));
    }
    serve_all(&mut r, 1, has_all);
    let marks = r.memory().size_marks;
    assert!((1000..=4096).contains(&marks), "{marks} marks");
}

//! What a host may do between two polls, and what it may rely on: several inputs in one turn, the loop of
//! the README, and that it is not called again and again for nothing.

use bytes::Bytes;
use raft_core::conf::Conf;
use raft_core::effects::*;
use raft_core::message::*;
use raft_core::snapshot::*;
use raft_core::types::*;
use raft_core::{Config, Raft, Restored, invariants};

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

/// The loop of README.md, room of 1 MiB, and followers that answer so. Returns its rounds, 1000 at most.
fn readme_loop(r: &mut Raft, now: Now, answer: impl Fn(&AppendEntries) -> AppendOutcome) -> usize {
    let mut e = Effects::default();
    let mut rounds = 0;
    while r.poll(now, &mut e) {
        rounds += 1;
        if rounds > 1000 {
            return rounds;
        }
        for peer in &e.appendable {
            while let Pull::Ready(m) = r.next_append(now, *peer, 1 << 20) {
                if let Message::AppendEntries(a) = m {
                    let m = AppendEntriesReply {
                        term: a.term,
                        stamp: a.stamp,
                        promised_ns: 0,
                        commit: Index(0),
                        outcome: answer(&a),
                    };
                    r.step(now, *peer, Message::AppendEntriesReply(m)).unwrap();
                }
            }
        }
        if let Some(w) = e.write.take() {
            r.persisted(now, w.token);
        }
        for entry in e.commit.drain(..) {
            r.applied(now, entry.id.index, entry.frame.len() as u64);
        }
    }
    rounds
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
    assert!(readme_loop(&mut r, now, has_all) < 1000);
    let p = r.propose(now, &mut std::iter::once(Bytes::from(vec![1u8; 2 << 20])));
    assert_eq!(p.count, 1);
    let rounds = readme_loop(&mut r, now, has_all);
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
    assert!(readme_loop(&mut r, now, has_nothing) < 1000, "spins");
}

/// A lease without one promise: the clock began a moment ago.
#[test]
fn no_lease_without_a_promise() {
    let mut r = open(500_000_000);
    // n2 leads term 1 and hands over.
    let a = AppendEntries {
        term: Term(1),
        prev: EntryId::default(),
        commit: Index(0),
        stamp: 1,
        lease_ns: 0,
        entries: Entries::new(),
    };
    r.step(1_000_000, NodeId(2), Message::AppendEntries(a)).unwrap();
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

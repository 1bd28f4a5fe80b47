//! What begins anew, and what must not begin beside what is under way: snapshots that come in, campaigns, and
//! what a host has lost.

use super::*;

fn offer_of(r: &mut Raft, from: u64, term: u64, snapshot: &Snapshot) {
    let (term, snapshot) = (Term(term), Box::new(snapshot.clone()));
    let m = InstallSnapshot { term, stamp: 5, lease_ns: 0, snapshot };
    r.step(5, NodeId(from), Message::InstallSnapshot(m)).unwrap();
}

/// What was said of a snapshot: which one, and from which byte on.
fn wanted(e: &Effects) -> Vec<(SnapshotId, u64)> {
    let later = e.send_after.iter().map(|(_, envelope)| envelope);
    let said = e.send.iter().chain(later).filter_map(|envelope| match &envelope.message {
        Message::InstallSnapshotReply(m) => Some((m.id, m.offset)),
        _ => None,
    });
    said.collect()
}

/// R26: one snapshot is installed at a time. What another leader offers meanwhile is not taken up: its first bytes
/// would take the place of what waits on this disk to be installed.
#[test]
fn no_other_snapshot_is_taken_up_while_one_is_installed() {
    let mut r = open(0);
    let (first, second) = (snap(id(8, 1)), snap(id(20, 2)));
    offer_of(&mut r, 2, 1, &first);
    poll(&mut r, 5);
    r.snapshot(5, SnapEvent::Received { id: first.id, offset: 100 });
    let mut e = Effects::default();
    r.poll(5, &mut e);
    let install = e.write.take().expect("the first one");
    assert_eq!(install.install.as_deref(), Some(&first));
    // n3 leads now, and its log begins behind the second one.
    offer_of(&mut r, 3, 2, &second);
    r.poll(5, &mut e);
    assert_eq!(r.incoming(), None, "taken up before the other is installed");
    r.snapshot(5, SnapEvent::Received { id: second.id, offset: 100 });
    r.poll(5, &mut e);
    let writes = e.write.take();
    assert!(writes.is_none_or(|write| write.install.is_none()), "two installs at once");
    r.persisted(6, install.token);
    r.snapshot(6, SnapEvent::Installed { id: first.id });
    r.poll(6, &mut e);
    // Then it is.
    offer_of(&mut r, 3, 2, &second);
    assert_eq!(r.incoming(), Some((second.id, 0)));
}

/// S9: two leaders name a snapshot alike and mean another size, since the one has another program or has lost
/// something. What came from the one is no beginning of what comes from the other.
#[test]
fn the_same_name_with_another_size_begins_anew() {
    for (bytes, other) in [(100, 90), (100, 50), (90, 100)] {
        let mut r = open(0);
        let first = Snapshot { bytes, ..snap(id(8, 1)) };
        let second = Snapshot { bytes: other, ..first.clone() };
        offer_of(&mut r, 2, 1, &first);
        poll(&mut r, 5);
        r.snapshot(5, SnapEvent::Received { id: first.id, offset: 60 });
        poll(&mut r, 5);
        offer_of(&mut r, 3, 2, &second);
        let e = poll(&mut r, 5);
        assert_eq!(wanted(&e), [(first.id, 0)], "of {other} bytes it has none");
        assert_eq!(e.snaps, [SnapCmd::Discard { id: first.id }]);
        assert_eq!(r.incoming_snapshot(), Some(&second));
        r.snapshot(5, SnapEvent::Received { id: first.id, offset: other });
        let install = poll(&mut r, 5).write.and_then(|write| write.install);
        assert_eq!(install.as_deref(), Some(&second), "never whole");
    }
}

/// S6: what is durable here of a snapshot is what the host says last; it may have lost some of it, or have found at
/// the first piece behind a restart that what it has is of another one of that name.
#[test]
fn what_the_host_has_lost_is_wanted_again() {
    let mut r = open(0);
    let whole = snap(id(8, 1));
    offer_of(&mut r, 2, 1, &whole);
    poll(&mut r, 5);
    r.snapshot(5, SnapEvent::Received { id: whole.id, offset: 60 });
    poll(&mut r, 5);
    r.snapshot(5, SnapEvent::Received { id: whole.id, offset: 0 });
    poll(&mut r, 5);
    assert_eq!(r.incoming(), Some((whole.id, 0)), "waits for a piece that does not fit");
}

/// Asks for pre-votes; the time, and the round.
fn asking(r: &mut Raft) -> (Now, u64) {
    let now = r.deadline().unwrap();
    r.tick(now);
    let round = poll(r, now).send.iter().find_map(|m| match &m.message {
        Message::PreVote(m) => Some(m.round),
        _ => None,
    });
    (now, round.expect("it asks"))
}

/// R15: a node whose disk sticks while it asks does not campaign when the answers come.
#[test]
fn who_asked_before_its_disk_stuck_raises_no_term() {
    let mut r = open(0);
    let (now, round) = asking(&mut r);
    r.liveness(now, NodeId(1), NodeLiveness::DiskStalled);
    let granted = PreVoteReply { term: Term(0), round, granted: true, removed: None };
    r.step(now, NodeId(3), Message::PreVoteReply(granted)).unwrap();
    poll(&mut r, now);
    assert_eq!((r.status().role, r.status().hard.term), (Role::Follower, Term(0)));
    // Its disk goes on: it asks anew.
    r.liveness(now, NodeId(1), NodeLiveness::Up { epoch: 0, link: 0 });
    asking(&mut r);
}

/// Who has no vote is not remembered, however many there are.
#[test]
fn strangers_are_not_remembered_as_voters() {
    let mut r = open(0);
    let (now, round) = asking(&mut r);
    let before = r.digest();
    for stranger in 100..200 {
        let m = PreVoteReply { term: Term(0), round, granted: true, removed: None };
        r.step(now, NodeId(stranger), Message::PreVoteReply(m)).unwrap();
    }
    poll(&mut r, now);
    assert_eq!(r.digest(), before);
    let m = PreVoteReply { term: Term(0), round, granted: true, removed: None };
    r.step(now, NodeId(3), Message::PreVoteReply(m)).unwrap();
    poll(&mut r, now);
    assert_eq!(r.status().role, Role::Candidate);
    let (before, term) = (r.digest(), r.status().hard.term);
    for stranger in 100..200 {
        let m = RequestVoteReply { term, granted: true };
        r.step(now, NodeId(stranger), Message::RequestVoteReply(m)).unwrap();
    }
    poll(&mut r, now);
    assert_eq!(r.digest(), before);
}

/// E23, R15: one that asks already, and hears only then who leads on a stuck disk, takes that one's go-ahead, and
/// knows no second leader beside it.
#[test]
fn a_stuck_leader_that_was_not_known_before_can_hand_over() {
    let mut r = open(0);
    r.step(
        1,
        NodeId(3),
        Message::RequestVote(RequestVote { term: Term(1), last: id(0, 0), transfer: false }),
    )
    .unwrap();
    poll(&mut r, 1);
    let (now, _) = asking(&mut r);
    r.liveness(now, NodeId(2), NodeLiveness::DiskStalled);
    r.step(now, NodeId(2), append(1, EntryId::default(), 0, &[])).unwrap();
    assert_eq!(r.status().role, Role::PreCandidate);
    let second = r.step(now, NodeId(3), append(1, EntryId::default(), 0, &[]));
    assert_eq!(second, Err(Reject::Malformed("a second leader in one term")));
    r.step(now, NodeId(2), Message::TimeoutNow(TimeoutNow { term: Term(1) })).unwrap();
    assert_eq!(r.status().role, Role::Candidate);
}

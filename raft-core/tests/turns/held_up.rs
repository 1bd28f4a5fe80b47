//! What is held up, and by whom: leaders on stuck disks, with leases and without, receivers of snapshots that come
//! to no end, and who waits for room. Three cores speak to each other here, their messages carried by hand.

use super::*;
/// Three cores, one clock, and disks that are done at once.
struct Net {
    cores: Vec<Raft>,
    now: Now,
}

type Mail = Vec<(usize, usize, Message)>;

impl Net {
    fn new(lease_ns: Now) -> Net {
        let core = |n| {
            let mut c = Config::new(NodeId(n), GroupId(1), voters());
            (c.lease_ns, c.epoch) = (lease_ns, n);
            Raft::open(c, Restored::default(), n, 0).unwrap()
        };
        Net { cores: (1..=3).map(core).collect(), now: 0 }
    }

    fn core(&mut self, n: usize) -> &mut Raft {
        &mut self.cores[n - 1]
    }

    /// Polls one core until it owes nothing; what it says.
    fn said(&mut self, n: usize) -> Mail {
        let (mut mail, mut e, now) = (Mail::new(), Effects::default(), self.now);
        let core = self.core(n);
        while core.poll(now, &mut e) {
            if let Some(write) = e.write.take() {
                core.persisted(now, write.token);
            }
            let later = e.send_after.drain(..).map(|(_, envelope)| envelope);
            let all = e.send.drain(..).chain(later);
            mail.extend(all.map(|envelope| (n, envelope.to.0 as usize, envelope.message)));
            for peer in e.appendable.clone() {
                while let Pull::Ready(message) = core.next_append(now, peer, 1 << 20) {
                    mail.push((n, peer.0 as usize, message));
                }
            }
            for entry in e.commit.drain(..) {
                core.applied(now, entry.id.index, entry.frame.len() as u64);
            }
        }
        mail
    }

    /// The same, but only what goes to one of them.
    fn said_to(&mut self, n: usize, to: usize) -> Mail {
        self.said(n).into_iter().filter(|(_, of, _)| *of == to).collect()
    }

    fn deliver(&mut self, mail: Mail) {
        let now = self.now;
        for (from, to, message) in mail {
            self.core(to).step(now, NodeId(from as u64), message).unwrap();
        }
    }

    /// Until none of these says anything to another one.
    fn settle(&mut self, among: &[usize]) {
        for _ in 0..100 {
            let mut mail: Mail = among.iter().flat_map(|n| self.said(*n)).collect();
            mail.retain(|(_, to, _)| among.contains(to));
            if mail.is_empty() {
                return;
            }
            self.deliver(mail);
        }
        panic!("they do not come to rest");
    }

    /// n1 leads, all have everything, and nobody has said anything for two seconds.
    fn idle_under_n1(lease_ns: Now) -> Net {
        let mut net = Net::new(lease_ns);
        net.now = net.core(1).deadline().unwrap();
        let now = net.now;
        net.core(1).tick(now);
        net.settle(&[1, 2, 3]);
        assert_eq!(net.core(1).status().role, Role::Leader);
        for (a, b) in (1..=3).flat_map(|a| (1..=3).map(move |b| (a, b))).filter(|(a, b)| a != b) {
            let edge = NodeLiveness::Up { epoch: b, link: 10 * a + b };
            net.core(a as usize).liveness(now, NodeId(b), edge);
        }
        net.settle(&[1, 2, 3]);
        net.now += 2000 * MS;
        net.settle(&[1, 2, 3]);
        net
    }

    /// That core hears that the disk of n1 is stuck.
    fn n1_is_stuck(&mut self, n: usize) {
        let now = self.now;
        self.core(n).liveness(now, NodeId(1), NodeLiveness::DiskStalled);
    }

    /// The timer of that core fires.
    fn fire(&mut self, n: usize) {
        self.now = self.core(n).deadline().expect("a timer");
        let now = self.now;
        self.core(n).tick(now);
    }
}

/// R18, R15: n2 asks whether it could take the place of a leader on a stuck disk. In between it hears that
/// leader, and promises it nothing: its own vote would break it.
#[test]
fn the_lease_of_a_stuck_leader_is_broken_by_nobody_who_promised_it() {
    let mut net = Net::idle_under_n1(500 * MS);
    net.n1_is_stuck(2);
    net.n1_is_stuck(3);
    net.fire(2);
    let asks = net.said_to(2, 3);
    assert!(matches!(asks[..], [(2, 3, Message::PreVote(_))]), "{asks:?}");
    net.deliver(asks);
    let grant = net.said(3);
    assert!(matches!(&grant[..], [(3, 2, Message::PreVoteReply(m))] if m.granted), "{grant:?}");
    // A read at the leader: its question reaches n2, and is lost on the way to n3.
    let now = net.now;
    net.core(1).read_index(now, ReadId(1), ReadMode::Index).unwrap();
    let confirm = net.said_to(1, 2);
    net.deliver(confirm);
    let answer = net.said_to(2, 1);
    assert!(!answer.is_empty());
    net.deliver(answer);
    // One millisecond later the grant is there, and n2 is elected by n3.
    net.now += MS;
    net.deliver(grant);
    net.settle(&[2, 3]);
    assert_eq!(net.core(2).status().role, Role::Leader);
    let now = net.now;
    net.core(2).propose(now, &mut std::iter::once(Bytes::from_static(b"new")));
    net.settle(&[2, 3]);
    let committed = net.core(2).status().commit;
    let mut e = Effects::default();
    net.core(1).read_index(now, ReadId(2), ReadMode::Lease).unwrap();
    net.core(1).poll(now, &mut e);
    let stale = |(id, index): &(ReadId, Index)| *id == ReadId(2) && *index < committed;
    assert!(!e.reads.iter().any(stale), "n1 serves {:?}, {committed} is committed", e.reads);
}

/// E23: a leader whose disk is stuck hands over to one that asks for pre-votes already, in vain.
#[test]
fn the_go_ahead_of_a_stuck_leader_is_taken() {
    let mut net = Net::idle_under_n1(0);
    net.n1_is_stuck(2);
    net.fire(2);
    net.said(2);
    assert_eq!(net.core(2).status().role, Role::PreCandidate);
    let now = net.now;
    net.core(1).transfer(now, NodeId(2)).unwrap();
    net.settle(&[1, 2, 3]);
    assert_eq!(net.core(2).status().role, Role::Leader);
}

/// R15 with leases: a stuck leader that speaks, and asks for promises, is replaced as well.
#[test]
fn a_leader_with_leases_on_a_stuck_disk_is_replaced_though_it_speaks() {
    let mut r = open(500 * MS);
    r.liveness(1, NodeId(2), NodeLiveness::Up { epoch: 1, link: 1 });
    let mut lent = append(1, EntryId::default(), 0, &[entry(id(1, 1))]);
    let Message::AppendEntries(m) = &mut lent else { unreachable!() };
    m.lease_ns = 500 * MS;
    r.step(1, NodeId(2), lent).unwrap();
    poll(&mut r, 1);
    r.liveness(2, NodeId(2), NodeLiveness::DiskStalled);
    poll(&mut r, 2);
    let (mut now, mut asked) = (2, false);
    for seq in 0..30 {
        now += 100 * MS;
        let m = Confirm { term: Term(1), seq, stamp: 1, lease_ns: 500 * MS };
        r.step(now, NodeId(2), Message::Confirm(m)).unwrap();
        r.tick(now);
        let pre_vote = |envelope: &Envelope| matches!(envelope.message, Message::PreVote(_));
        asked |= poll(&mut r, now).send.iter().any(pre_vote);
    }
    assert!(asked, "three seconds, and it waits");
}

/// A leader with n3 on a stream of its checkpoint, and a log that may not go further than so many bytes.
fn streaming(log_disk_bytes_max: u64) -> (Raft, Now, Snapshot) {
    let mut c = Config::new(NodeId(1), GroupId(1), voters());
    (c.log_trailing_bytes, c.log_bytes_max, c.missed_ns) = (0, 1, 0);
    c.log_disk_bytes_max = log_disk_bytes_max;
    let mut r = open_with(c);
    let now = r.deadline().unwrap();
    lead(&mut r, now);
    r.liveness(now, NodeId(3), NodeLiveness::Down { gone: true });
    serve_all(&mut r, now, has_all);
    let whole = snap(r.status().last);
    r.checkpointed(now, whole.clone());
    serve_all(&mut r, now, has_all);
    r.liveness(now, NodeId(3), NodeLiveness::Up { epoch: 1, link: 1 });
    assert_eq!(poll(&mut r, now).appendable, [NodeId(3)]);
    let offer = r.next_append(now, NodeId(3), 1 << 20);
    assert!(matches!(offer, Pull::Ready(Message::InstallSnapshot(_))), "{offer:?}");
    (r, now, whole)
}

/// n2 has all it is sent; what n3 is offered comes back.
fn offers(r: &mut Raft, now: Now) -> Vec<InstallSnapshot> {
    let mut offers = Vec::new();
    serve(r, now, |peer, message| match message {
        Message::InstallSnapshot(m) => {
            offers.push(m);
            None
        }
        Message::AppendEntries(m) if peer == NodeId(2) => Some(answer(&m, has_all(&m))),
        _ => None,
    });
    offers
}

/// n3 says how much of a snapshot it has, as an answer to what left at `stamp`.
fn n3_has(r: &mut Raft, now: Now, stamp: Now, id: SnapshotId, offset: u64) {
    let term = r.status().hard.term;
    let reply = InstallSnapshotReply { term, stamp, promised_ns: 0, id, offset };
    r.step(now, NodeId(3), Message::InstallSnapshotReply(reply)).unwrap();
}

/// S8, S10: a checkpoint has rotted at its leader. Its receiver compares it with its name, throws it away and
/// begins anew; once there is a newer one it gets that.
#[test]
fn a_rotten_checkpoint_gives_way_to_a_newer_one() {
    let (mut r, mut now, rotten) = streaming(1 << 30);
    let mut newer = None;
    for turn in 0..20 {
        now += 100 * MS;
        n3_has(&mut r, now, now, rotten.id, 0);
        let offered = offers(&mut r, now);
        if let Some(newer) = newer
            && offered.iter().any(|offer| offer.snapshot.id == newer)
        {
            return;
        }
        now += 100 * MS;
        n3_has(&mut r, now, 0, rotten.id, 60);
        offers(&mut r, now);
        if turn == 3 {
            r.propose(now, &mut std::iter::once(Bytes::from_static(b"y")));
            offers(&mut r, now);
            let snapshot = snap(r.status().last);
            newer = Some(snapshot.id);
            r.checkpointed(now, snapshot);
        }
    }
    panic!("n3 is sent the rotten one again and again");
}

/// S7: proposals wait for a receiver that has all of a snapshot and installs it, but not without end.
#[test]
fn a_receiver_that_never_installs_holds_writes_up_for_a_while() {
    let (mut r, mut now, whole) = streaming(1);
    n3_has(&mut r, now, now, whole.id, 100);
    let one = || std::iter::once(Bytes::from_static(b"y"));
    assert_eq!(r.propose(now, &mut one()).count, 1);
    offers(&mut r, now);
    r.checkpointed(now, snap(r.status().last));
    offers(&mut r, now);
    assert_eq!(r.propose(now, &mut one()).refused, Some(Refused::Busy));
    let began = now;
    let mut taken = 0;
    while taken == 0 {
        now = r.deadline().expect("a probe, or the end").max(now + MS);
        assert!(now < began + 3_600_000 * MS, "an hour, in which it answers every offer");
        r.tick(now);
        for offer in offers(&mut r, now) {
            n3_has(&mut r, now, offer.stamp, offer.snapshot.id, 100);
        }
        taken += r.propose(now, &mut one()).count;
    }
    let (patience, took) = (30_000 * MS, now - began);
    assert!((10 * patience..12 * patience).contains(&took), "it had {} s", took / 1000 / MS);
}

/// R24: whoever was refused first hears that it has room, though something smaller was refused after it.
#[test]
fn who_holds_the_ticket_hears_that_there_is_room() {
    let (mut r, now) = leader();
    let payload = |units: usize| std::iter::once(Bytes::from(vec![1u8; units << 16]));
    assert_eq!(r.propose(now, &mut payload(1)).count, 1);
    assert_eq!(r.propose(now, &mut payload(1)).count, 1);
    assert_eq!(r.propose(now, &mut payload(15)).refused, Some(Refused::Busy));
    assert_eq!(r.propose(now, &mut payload(1)).refused, Some(Refused::Busy));
    let told = serve_all(&mut r, now, has_all).room;
    assert_eq!(r.memory().unsettled_bytes, 0);
    assert!(told, "nothing is under way, it would fit, and nobody says so");
    assert_eq!(r.propose(now, &mut payload(15)).count, 1);
}

/// Room for proposals is told though as many reads wait as may.
#[test]
fn room_for_writes_is_told_though_reads_wait() {
    let mut c = Config::new(NodeId(1), GroupId(1), voters());
    (c.waiting_reads_max, c.uncommitted_bytes_max) = (1, 100);
    let mut r = open_with(c);
    let now = r.deadline().unwrap();
    lead(&mut r, now);
    serve_all(&mut r, now, has_all);
    let one = || std::iter::once(Bytes::from(vec![1u8; 60]));
    assert_eq!(r.propose(now, &mut one()).count, 1);
    assert_eq!(r.propose(now, &mut one()).refused, Some(Refused::Busy));
    r.read_index(now, ReadId(1), ReadMode::Index).unwrap();
    assert_eq!(r.read_index(now, ReadId(2), ReadMode::Index), Err(Refused::Busy));
    let told = serve_all(&mut r, now, has_all).room;
    assert_eq!(r.memory().waiting_reads, 1, "nobody has answered for the read");
    assert!(told, "all is committed, and nobody says so");
}

/// R6, R26: while a snapshot is being installed there is nothing that a checkpoint could be of.
#[test]
fn nothing_is_checkpointable_while_a_snapshot_is_installed() {
    let mut r = open(0);
    r.step(1, NodeId(2), append(1, EntryId::default(), 1, &[entry(id(1, 1))])).unwrap();
    poll(&mut r, 1);
    r.applied(1, Index(1), 0);
    assert_eq!(r.checkpointable(), Index(1));
    offer(&mut r, 2, 1, id(8, 1));
    poll(&mut r, 2);
    r.snapshot(2, SnapEvent::Received { id: snap(id(8, 1)).id, offset: 100 });
    poll(&mut r, 2);
    assert_eq!((r.status().base, r.checkpointable()), (id(8, 1), Index(0)));
    r.snapshot(2, SnapEvent::Installed { id: snap(id(8, 1)).id });
    assert_eq!(r.checkpointable(), Index(8));
}

/// Election priority: who is preferred comes first when the leader's process is gone (R17), and draws from all of
/// the timeouts; the others draw from the longer half.
#[test]
fn a_preferred_node_campaigns_first() {
    let timers = |priorities: &[(NodeId, u8)], seed| {
        let mut c = Config::new(NodeId(1), GroupId(1), voters());
        c.priorities = priorities.to_vec();
        let mut r = Raft::open(c, Restored::default(), seed, 0).unwrap();
        r.step(0, NodeId(2), append(1, EntryId::default(), 0, &[])).unwrap();
        poll(&mut r, 0);
        let ordinary = r.deadline().unwrap();
        r.liveness(0, NodeId(2), NodeLiveness::Up { epoch: 1, link: 1 });
        r.liveness(0, NodeId(2), NodeLiveness::Down { gone: true });
        poll(&mut r, 0);
        (ordinary / MS, r.deadline().unwrap() / MS)
    };
    let (mut soonest, mut latest) = (u64::MAX, 0);
    for seed in 0..200 {
        let (ordinary, early) = timers(&[(NodeId(3), 1)], seed);
        assert!((750..=1000).contains(&ordinary), "n3 is to lead rather: {ordinary} ms");
        assert!((20..=30).contains(&early), "second in the rank: {early} ms");
        let (ordinary, early) = timers(&[(NodeId(1), 2), (NodeId(3), 1)], seed);
        assert!(early <= 10, "first in the rank: {early} ms");
        (soonest, latest) = (soonest.min(ordinary), latest.max(ordinary));
    }
    assert!(soonest < 550 && latest > 950, "{soonest} to {latest} ms");
}

/// R11, R21: of a follower that was away at the election nothing is known in the new term. On its new link it is
/// asked from the end of the log backwards, not sent all of it, nor a snapshot of what it has.
#[test]
fn who_was_away_at_the_election_gets_what_it_lacks() {
    let log: Vec<Entry> = (1..=100).map(|index| entry(id(index, 1))).collect();
    let hard = HardState { term: Term(1), ..HardState::default() };
    let checkpoint = snap(id(60, 1));
    let whole = Restored::of_log(hard, &log);
    let mut c = Config::new(NodeId(1), GroupId(1), voters());
    c.epoch = 1;
    for restored in [whole.clone(), whole.compacted(id(50, 1), Some(checkpoint))] {
        let mut r = Raft::open(c.clone(), restored, 1, 0).unwrap();
        r.liveness(0, NodeId(2), NodeLiveness::Down { gone: true });
        let now = r.deadline().unwrap();
        lead(&mut r, now);
        poll(&mut r, now);
        r.liveness(now, NodeId(2), NodeLiveness::Up { epoch: 1, link: 1 });
        let mut e = Effects::default();
        r.poll(now, &mut e);
        assert!(e.appendable.contains(&NodeId(2)));
        let probe = r.next_append(now, NodeId(2), 1 << 20);
        let Pull::Ready(Message::AppendEntries(m)) = probe else { panic!("{probe:?}") };
        assert_eq!(m.prev.index, Index(100), "from the beginning");
    }
}

/// R12: a follower that was silent for long, and so is asked seldom, and that answers then, hears what is
/// committed as soon as one that never was silent.
#[test]
fn who_was_silent_and_answers_hears_of_the_commit_soon() {
    let (mut r, mut now) = leader();
    // What n3 was asked last; n2 has all it is sent.
    let asked = |r: &mut Raft, now| {
        let mut asked = None;
        serve(r, now, |peer, message| match message {
            Message::AppendEntries(m) if peer == NodeId(2) => Some(answer(&m, has_all(&m))),
            Message::AppendEntries(m) => {
                asked = Some(m);
                None
            }
            _ => None,
        });
        asked
    };
    r.propose(now, &mut std::iter::once(Bytes::from_static(b"x")));
    let mut last = asked(&mut r, now).expect("n3 is sent it");
    for _ in 0..12 {
        now = r.deadline().expect("n3 is asked again");
        r.tick(now);
        last = asked(&mut r, now).unwrap_or(last);
    }
    assert!(r.deadline().unwrap() > now + 1000 * MS, "it is asked seldom");
    let index = r.status().last.index;
    let outcome = AppendOutcome::Accepted { matched: index, received: index };
    // It has not heard what is committed.
    let (stamp, promised_ns, commit) = (last.stamp, 0, Index(0));
    let reply = AppendEntriesReply { term: last.term, stamp, promised_ns, commit, outcome };
    r.step(now, NodeId(3), Message::AppendEntriesReply(reply)).unwrap();
    asked(&mut r, now);
    assert!(r.deadline().unwrap() <= now + 200 * MS, "it waits as if it were silent still");
}

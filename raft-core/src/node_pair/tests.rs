//! Several nodes' pairs in one loop with a clock of its own: what is sent arrives after a seeded
//! delay, unless its direction is cut; what the groups would be told is written down.

use super::*;
use crate::random::Random;
use std::collections::BTreeSet;

const MS: Now = 1_000_000;

fn node(id: u64) -> NodeId {
    NodeId(id)
}

struct Host {
    pairs: NodePairs,
    epoch: u64,
    runs: bool,
    /// Stands still, but its sockets do not.
    paused: bool,
    /// A worker does not pass its loop any more.
    stuck: bool,
    passes: u64,
    sync_age_ns: u64,
}

/// One told edge.
type Told = (Now, NodeId, NodeId, PairEdge);

struct World {
    now: Now,
    hosts: BTreeMap<NodeId, Host>,
    /// Directions in which nothing arrives.
    cut: BTreeSet<(NodeId, NodeId)>,
    delay_ms_max: Now,
    flying: Vec<(Now, NodeId, NodeId, Heartbeat)>,
    random: Random,
    next_link: u64,
    sent: u64,
    told: Vec<Told>,
}

impl World {
    fn new(nodes: u64, seed: u64) -> World {
        let mut world = World {
            now: 1_000 * MS,
            hosts: BTreeMap::new(),
            cut: BTreeSet::new(),
            delay_ms_max: 3,
            flying: Vec::new(),
            random: Random::new(seed),
            next_link: 0,
            sent: 0,
            told: Vec::new(),
        };
        (1..=nodes).for_each(|id| world.start(node(id), id * 100));
        world.link_all();
        world
    }

    fn start(&mut self, id: NodeId, epoch: u64) {
        let pairs = NodePairs::new(PairsConfig::default(), epoch);
        let host = Host {
            pairs,
            epoch,
            runs: true,
            paused: false,
            stuck: false,
            passes: 0,
            sync_age_ns: 0,
        };
        self.hosts.insert(id, host);
    }

    fn link(&mut self, from: NodeId, to: NodeId) {
        self.next_link += 1;
        let (now, epoch, link) = (self.now, self.hosts[&to].epoch, self.next_link);
        self.pairs(from).link_up(now, to, epoch, link);
    }

    fn link_all(&mut self) {
        for (from, to) in self.directions() {
            self.link(from, to);
        }
    }

    fn directions(&self) -> Vec<(NodeId, NodeId)> {
        let ids: Vec<NodeId> = self.hosts.keys().copied().collect();
        let all = ids.iter().flat_map(|from| ids.iter().map(|to| (*from, *to)));
        all.filter(|(from, to)| from != to).collect()
    }

    fn pairs(&mut self, id: NodeId) -> &mut NodePairs {
        &mut self.hosts.get_mut(&id).expect("a node of this world").pairs
    }

    fn kill(&mut self, id: NodeId) {
        self.hosts.get_mut(&id).expect("a node of this world").runs = false;
    }

    fn run(&mut self, ms: Now) {
        for _ in 0..ms {
            self.now += MS;
            self.deliver();
            let ids: Vec<NodeId> = self.hosts.keys().copied().collect();
            ids.into_iter().for_each(|id| self.turn(id));
        }
    }

    fn deliver(&mut self) {
        let now = self.now;
        let takes = |host: &Host| host.runs && !host.paused;
        let due = |at: Now, to: NodeId| at <= now && takes(&self.hosts[&to]);
        let (due, rest) =
            std::mem::take(&mut self.flying).into_iter().partition(|(at, _, to, _)| due(*at, *to));
        self.flying = rest;
        for (_, from, to, heartbeat) in due {
            self.pairs(to).heard(now, from, heartbeat).expect("what we send is well formed");
        }
    }

    fn turn(&mut self, id: NodeId) {
        let now = self.now;
        let host = self.hosts.get_mut(&id).expect("a node of this world");
        if !host.runs || host.paused {
            return;
        }
        host.passes += u64::from(!host.stuck);
        let work = Work { passes: host.passes, sync_age_ns: host.sync_age_ns };
        if host.pairs.deadline().is_some_and(|due| due <= now) {
            host.pairs.tick(now, work);
        }
        let mut effects = PairEffects::default();
        host.pairs.poll(&mut effects);
        for (peer, edge) in effects.edges {
            self.told.push((now, id, peer, edge));
        }
        for (to, heartbeat) in effects.heartbeats {
            self.sent += 1;
            if !self.cut.contains(&(id, to)) {
                let delay = self.random.between(0, self.delay_ms_max) * MS;
                self.flying.push((now + delay, id, to, heartbeat));
            }
        }
    }

    /// What `id` was told of `peer` since the last call, and when after `since`, in milliseconds.
    fn take_told(&mut self, id: u64, peer: u64, since: Now) -> Vec<(Now, PairEdge)> {
        let mine = |told: &Told| told.1 == node(id) && told.2 == node(peer);
        let found = self.told.iter().filter(|told| mine(told));
        let found = found.map(|(at, .., edge)| ((at - since) / MS, *edge)).collect();
        self.told.retain(|told| !mine(told));
        found
    }

    fn edges(&mut self, id: u64, peer: u64) -> Vec<PairEdge> {
        self.take_told(id, peer, 0).into_iter().map(|(_, edge)| edge).collect()
    }
}

fn there(term: u64, leader: u64) -> Option<Led> {
    Some(Led::There { term: Term(term), leader: node(leader) })
}

fn here(term: u64, members: &[u64]) -> Option<Led> {
    Some(Led::Here { term: Term(term), members: members.iter().map(|id| node(*id)).collect() })
}

#[test]
fn idle_nodes_exchange_at_most_sixty_messages_a_second_and_tell_nothing() {
    let mut world = World::new(3, 1);
    for group in 0..1000 {
        let leader = u64::from(group % 3) + 1;
        for id in 1..=3 {
            let others: Vec<u64> = (1..=3).filter(|other| *other != id).collect();
            let led = if id == leader { here(7, &others) } else { there(7, leader) };
            world.pairs(node(id)).set_led(GroupId(group), led);
        }
    }
    world.run(1000);
    (world.sent, world.told) = (0, Vec::new());
    world.run(10_000);
    assert!((580..=600).contains(&world.sent), "{} messages in ten seconds", world.sent);
    assert_eq!(world.told, []);
    let status = world.pairs(node(1)).status(0);
    assert_eq!((status[&node(2)].claimed, status[&node(2)].believed), (334, 333));
}

#[test]
fn slow_links_are_not_dead_ones() {
    for seed in 0..30 {
        let mut world = World::new(3, seed);
        world.delay_ms_max = 90;
        world.run(20_000);
        let up = |told: &Told| matches!(told.3, PairEdge::Up { .. });
        assert!(world.told.len() == 6 && world.told.iter().all(up), "{seed}: {:?}", world.told);
    }
}

#[test]
fn silence_is_told_in_bounded_time_and_proof_at_once() {
    let mut world = World::new(3, 2);
    world.run(1000);
    world.told.clear();
    world.kill(node(1));
    let died = world.now;
    world.run(5);
    // 3 sees its link break and is refused; 2 sees nothing.
    let now = world.now;
    world.pairs(node(3)).link_down(now, node(1), false);
    world.run(10);
    let now = world.now;
    world.pairs(node(3)).link_down(now, node(1), true);
    world.run(2000);
    assert_eq!(world.take_told(3, 1, died), [(16, PairEdge::Down { gone: true })]);
    let told = world.take_told(2, 1, died);
    let [(deaf, PairEdge::Deaf), (down, PairEdge::Down { gone: false })] = told[..] else {
        panic!("{told:?}");
    };
    // A leader's credit counts from the echo (R14), a follower's from what it heard.
    assert!(deaf <= 500 && (400..=501).contains(&down), "deaf after {deaf}, down after {down} ms");
}

#[test]
fn bytes_read_after_a_process_died_do_not_hide_that_it_is_gone() {
    let mut pairs = NodePairs::new(PairsConfig::default(), 1);
    pairs.link_up(0, node(2), 9, 1);
    pairs.link_down(50 * MS, node(2), false);
    pairs.contact(51 * MS, node(2));
    pairs.link_down(60 * MS, node(2), true);
    assert_eq!(pairs.state(node(2)), PairState::Up { epoch: 9, link: 1 });
    pairs.link_down(80 * MS, node(2), true);
    assert_eq!(pairs.state(node(2)), PairState::Down { gone: true });
    // A refusal means nothing of a node that was never there.
    pairs.link_down(80 * MS, node(3), true);
    assert_eq!(pairs.state(node(3)), PairState::Down { gone: false });
}

#[test]
fn e21_a_one_way_link_is_seen_from_both_ends() {
    let mut world = World::new(2, 3);
    world.run(1000);
    world.told.clear();
    let at = world.now;
    world.cut.insert((node(2), node(1)));
    world.run(3000);
    // 1 hears nothing; 2 hears, and learns from the echoes that it is not heard.
    let told = world.take_told(1, 2, at);
    let last = told.last().copied().expect("1 is told");
    assert!(last.1 == PairEdge::Down { gone: false } && last.0 <= 510, "{told:?}");
    let told = world.take_told(2, 1, at);
    assert!(told.len() == 1 && told[0].1 == PairEdge::Deaf && told[0].0 <= 700, "{told:?}");
    world.cut.clear();
    world.run(500);
    assert!(matches!(world.edges(1, 2)[..], [PairEdge::Up { epoch: 200, .. }]));
    assert!(matches!(world.edges(2, 1)[..], [PairEdge::Up { epoch: 100, .. }]));
}

#[test]
fn a_deaf_leader_that_claims_something_else_is_down() {
    let mut world = World::new(2, 4);
    world.pairs(node(2)).set_led(GroupId(1), there(5, 1));
    world.pairs(node(1)).set_led(GroupId(1), here(5, &[2]));
    world.cut.insert((node(2), node(1)));
    world.run(2000);
    assert_eq!(world.edges(2, 1).last(), Some(&PairEdge::Deaf));
    world.pairs(node(1)).set_led(GroupId(1), None);
    world.run(500);
    assert_eq!(world.edges(2, 1), [PairEdge::Down { gone: false }]);
}

/// A peer that is heard, and echoes, and to which no link stands: beliefs cannot be sent to it either.
/// What is due must be done by a tick, or the host's timer would fire without end.
#[test]
fn a_dispute_without_a_link_is_settled_by_the_clock() {
    let mut pairs = NodePairs::new(PairsConfig::default(), 1);
    let claims = Claims { count: 1, hash: 5 };
    for now in [1_000 * MS, 1_100 * MS] {
        let (stamp, echo) = (now, now - 10 * MS);
        let heartbeat = Heartbeat { epoch: 9, stamp, echo, claims, ..Heartbeat::default() };
        pairs.heard(now, node(2), heartbeat).expect("well formed");
    }
    let now = pairs.deadline().expect("the dispute is due").max(1_100 * MS);
    pairs.tick(now, Work::default());
    assert_eq!(pairs.state(node(2)), PairState::Down { gone: false });
    assert!(pairs.deadline().is_none_or(|due| due > now), "due again at once");
}

#[test]
fn e36_all_links_reset_at_once_are_no_loss() {
    for seed in 0..20 {
        let mut world = World::new(3, seed);
        world.run(1000);
        world.told.clear();
        let now = world.now;
        for (from, to) in world.directions() {
            world.pairs(from).link_down(now, to, false);
        }
        world.flying.clear();
        let away = world.random.between(1, 250);
        world.run(away);
        world.link_all();
        world.run(2000);
        assert_eq!(world.told.len(), 6, "seed {seed}");
        for (_, id, peer, edge) in std::mem::take(&mut world.told) {
            let PairEdge::Up { epoch, link } = edge else { panic!("{id} of {peer}: {edge:?}") };
            assert!(epoch == peer.0 * 100 && link > 6);
        }
    }
}

#[test]
fn a_new_process_ends_the_old_one() {
    let mut world = World::new(2, 5);
    world.run(1000);
    world.told.clear();
    world.kill(node(1));
    world.start(node(1), 101);
    // The new process reaches 2 before 2 knows that its link to the old one is broken.
    world.link(node(1), node(2));
    world.run(10);
    assert_eq!(world.edges(2, 1), [PairEdge::Down { gone: true }]);
    world.link(node(2), node(1));
    world.run(1000);
    assert_eq!(world.edges(2, 1), [PairEdge::Up { epoch: 101, link: world.next_link }]);
    // What the old one said comes late.
    let (now, late) = (world.now, Heartbeat { epoch: 100, stamp: 1, ..Heartbeat::default() });
    assert_eq!(world.pairs(node(2)).heard(now, node(1), late), Ok(()));
    world.run(1000);
    assert_eq!(world.edges(2, 1), []);
}

/// What a process said before it ended can reach one that never knew it, after its successor did.
#[test]
fn a_heartbeat_from_before_ends_nobody() {
    let mut world = World::new(2, 6);
    world.run(1000);
    let old = Heartbeat { epoch: 99, stamp: 7, ..Heartbeat::default() };
    world.told.clear();
    let now = world.now;
    world.pairs(node(2)).heard(now, node(1), old.clone()).expect("well formed");
    world.run(1000);
    assert_eq!(world.edges(2, 1), []);
    // Without a link nobody can say which of the two is older, until the next handshake does.
    let now = world.now;
    world.pairs(node(2)).link_down(now, node(1), false);
    world.pairs(node(2)).heard(now, node(1), old).expect("well formed");
    world.run(10);
    assert_eq!(world.edges(2, 1), [PairEdge::Down { gone: true }]);
    world.link(node(2), node(1));
    world.run(1000);
    assert_eq!(world.edges(2, 1), [PairEdge::Up { epoch: 100, link: world.next_link }]);
}

#[test]
fn e39_a_stuck_worker_sends_no_heartbeat() {
    let mut world = World::new(2, 6);
    world.run(1000);
    world.told.clear();
    world.hosts.get_mut(&node(1)).expect("1 runs").stuck = true;
    world.run(1000);
    assert_eq!(world.edges(2, 1).last(), Some(&PairEdge::Down { gone: false }));
    world.hosts.get_mut(&node(1)).expect("1 runs").stuck = false;
    world.run(500);
    assert!(matches!(world.edges(2, 1)[..], [PairEdge::Up { .. }]));
}

#[test]
fn e39_a_stuck_disk_gives_leaderships_away_and_then_counts_as_down() {
    let mut world = World::new(2, 7);
    world.run(1000);
    world.told.clear();
    // (sync age in ms, must hand over, may lead as the other sees it, what the other is told)
    let stalled: &[PairEdge] = &[PairEdge::DiskStalled];
    let up: &[PairEdge] = &[PairEdge::Up { epoch: 100, link: 2 }];
    for (age, hand_over, may_lead, told) in [
        (900, false, true, &[] as &[PairEdge]),
        (1_100, true, false, &[]),
        (2_100, true, false, stalled),
        (1_500, true, false, &[]),
        (900, false, true, up),
        (0, false, true, &[]),
    ] {
        world.hosts.get_mut(&node(1)).expect("1 runs").sync_age_ns = age * MS;
        world.run(300);
        assert_eq!(world.pairs(node(1)).must_hand_over(), hand_over, "at {age}");
        assert_eq!(world.pairs(node(2)).may_lead(node(1)), may_lead, "at {age}");
        assert_eq!(world.edges(2, 1), told, "at {age}");
    }
}

#[test]
fn t06_a_process_that_stood_still_calls_nobody_dead_and_sends_no_burst() {
    let mut world = World::new(3, 8);
    world.run(1000);
    world.told.clear();
    world.hosts.get_mut(&node(1)).expect("1 runs").paused = true;
    world.run(60_000);
    (world.sent, world.flying) = (0, Vec::new());
    world.hosts.get_mut(&node(1)).expect("1 runs").paused = false;
    world.run(50);
    let lost = |told: &Told| told.1 == node(1) && !matches!(told.3, PairEdge::Up { .. });
    assert!(!world.told.iter().any(lost), "{:?}", world.told);
    assert!(world.sent <= 6, "{} heartbeats in 50 ms", world.sent);
    world.run(1000);
    assert!(!world.told.iter().any(lost), "{:?}", world.told);
    // Silence after that counts again.
    world.kill(node(2));
    world.run(600);
    assert_eq!(world.edges(1, 2).last(), Some(&PairEdge::Down { gone: false }));
}

#[test]
fn e34_claims_and_beliefs_that_differ_are_settled() {
    let group = GroupId(9);
    let disowned = |term| PairEdge::Disowned { group, term: Term(term) };
    let unbelieved = |term| PairEdge::Unbelieved { group, term: Term(term) };
    // (what 1 claims, what 2 believes, what 1 is told, what 2 is told)
    for (claim, belief, leader_told, follower_told) in [
        (here(5, &[2]), there(5, 1), vec![], vec![]),
        (None, there(5, 1), vec![], vec![disowned(5)]),
        (here(5, &[3]), there(5, 1), vec![], vec![disowned(5)]),
        (here(5, &[2]), None, vec![unbelieved(5)], vec![]),
        (here(6, &[2]), there(5, 1), vec![unbelieved(6)], vec![disowned(5)]),
        (here(5, &[2]), there(6, 1), vec![unbelieved(5)], vec![disowned(6)]),
        (here(5, &[2]), there(6, 3), vec![unbelieved(5)], vec![]),
    ] {
        let mut world = World::new(2, 9);
        world.run(1000);
        world.told.clear();
        world.pairs(node(1)).set_led(group, claim.clone());
        world.pairs(node(2)).set_led(group, belief.clone());
        world.run(350);
        assert_eq!(world.edges(1, 2), leader_told, "{claim:?} {belief:?}");
        assert_eq!(world.edges(2, 1), follower_told, "{claim:?} {belief:?}");
    }
}

#[test]
fn one_heartbeat_of_difference_is_nothing() {
    let mut world = World::new(2, 10);
    world.run(1000);
    world.told.clear();
    for round in 0..20 {
        world.pairs(node(2)).set_led(GroupId(1), there(round + 1, 1));
        world.run(95);
        world.pairs(node(1)).set_led(GroupId(1), here(round + 1, &[2]));
        world.run(205);
        assert_eq!(world.told, []);
    }
}

#[test]
fn many_differences_are_settled_page_by_page() {
    let groups = 3 * PAIRS_PER_HEARTBEAT_MAX as u32 + 7;
    let mut world = World::new(2, 11);
    for group in 0..groups {
        world.pairs(node(2)).set_led(GroupId(group), there(3, 1));
    }
    world.run(2500);
    let told = world.edges(2, 1);
    let disowned = told.iter().filter(|edge| matches!(edge, PairEdge::Disowned { .. })).count();
    assert_eq!(disowned as u32, groups);
    assert_eq!(world.pairs(node(2)).status(0)[&node(1)].believed, 0);
}

/// Hosts that act on what they are told agree in the end, whatever they believed before.
#[test]
fn any_disagreement_heals() {
    for seed in 0..40 {
        let mut world = World::new(3, seed);
        for group in 0..30 {
            for id in 1..=3 {
                let others: Vec<u64> = (1..=3).filter(|other| *other != id).collect();
                let leader = world.random.between(1, 3);
                let led = match world.random.between(0, 2) {
                    0 => None,
                    // Who leads a term is the same for everybody.
                    1 => here(id + 3 * leader, &others),
                    _ => there(if leader == id { 0 } else { leader + 3 }, leader % 3 + 1),
                };
                world.pairs(node(id)).set_led(GroupId(group), led);
            }
        }
        for _ in 0..40 {
            world.run(100);
            for (_, id, peer, edge) in std::mem::take(&mut world.told) {
                // The probe of a leader: its peer believes it, unless it knows of a later term.
                let PairEdge::Unbelieved { group, term } = edge else { continue };
                let newer = world.pairs(peer).led.get(&group).is_some_and(|led| match led {
                    Led::Here { term: at, .. } | Led::There { term: at, .. } => *at >= term,
                });
                if newer {
                    world.pairs(id).set_led(group, None);
                } else {
                    world.pairs(peer).set_led(group, there(term.0, id.0));
                }
            }
        }
        for (from, to) in world.directions() {
            let claims = world.pairs(from).pairs[&to].claims;
            assert_eq!(claims, world.pairs(to).pairs[&from].beliefs, "seed {seed}, {from} to {to}");
        }
    }
}

#[test]
fn malformed_pages_are_refused() {
    let pair = |group| (GroupId(group), Term(1));
    let page = |from, through, pairs| BeliefsPage { from: GroupId(from), through, pairs };
    let all = GroupId(u32::MAX);
    let many: Vec<_> = (0..=PAIRS_PER_HEARTBEAT_MAX as u32).map(pair).collect();
    for (beliefs, disowned) in [
        (Some(page(0, all, vec![pair(2), pair(1)])), vec![]),
        (Some(page(0, all, vec![pair(2), pair(2)])), vec![]),
        (Some(page(5, all, vec![pair(2)])), vec![]),
        (Some(page(0, GroupId(1), vec![pair(2)])), vec![]),
        (Some(page(9, GroupId(1), vec![])), vec![]),
        (Some(page(0, all, many.clone())), vec![]),
        (None, many),
    ] {
        let mut pairs = NodePairs::new(PairsConfig::default(), 1);
        let heartbeat = Heartbeat { epoch: 2, beliefs, disowned, ..Heartbeat::default() };
        assert!(pairs.heard(0, node(2), heartbeat).is_err());
    }
}

#[test]
fn the_hash_is_part_of_the_protocol() {
    let mut claims = Claims::default();
    claims.add(GroupId(1), Term(2));
    claims.add(GroupId(2), Term(1));
    assert_eq!((claims.count, claims.hash), (2, 0x05d3_94c5_5824_6838));
    claims.remove(GroupId(2), Term(1));
    claims.remove(GroupId(1), Term(2));
    assert_eq!(claims, Claims::default());
}

//! Clients, the dispatcher, faulty links and one real shard store, in one loop under a seed.
//!
//! Links keep order, as TCP does, but break; what was on a broken one may still arrive much later.
//! Leaders change in the middle of everything, clocks jump over the ends of sessions.

use super::backoff::Random;
use super::{Bounds, Connection, Dispatch, LinkEvent, Now, Output, Ticket};
use crate::backend::{Answered, Refusal, Target, Work};
use bytes::Bytes;
use shard_core::cluster_config::{ClusterConfig, ConfigNum, GroupConfig, NodeConfig, SlotRange};
use shard_core::codec::{EntryBatch, EntryItem};
use shard_core::op::{Op, Outcome};
use shard_core::session::{LogTime, Seq, SessionId};
use shard_core::shard_store::{ReadStep, ShardStore};
use shard_core::slot::{SLOTS, Slot, hash_slot};
use shard_core::wire::{
    Answer, ClusterView, LaneRequest, ReadRequest, Reply, RequestBatch, RequestBody,
};
use shard_core::{GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const GROUP: GroupId = GroupId(1);
const STEP_NS: Now = 1_000_000;
const TIMEOUT_NS: Now = 5_000_000_000;
const GRACE_NS: Now = 250_000_000;
const KEYS: [&str; 3] = ["a", "b", "c"];

/// Three nodes and one group with every slot.
pub(super) fn view() -> ClusterView {
    let mut config = ClusterConfig { num: ConfigNum(1), ..ClusterConfig::default() };
    for node in 1..=3 {
        let addresses = NodeConfig { peer: format!("n{node}:1"), resp: format!("n{node}:2") };
        config.nodes.insert(NodeId(node), addresses);
    }
    let voters = vec![NodeId(1), NodeId(2), NodeId(3)];
    config.groups.insert(GROUP, GroupConfig { voters, weight: 1 });
    config.slots = vec![SlotRange { first: Slot(0), last: Slot(SLOTS - 1), group: GROUP }];
    ClusterView::of_config(&config)
}

#[derive(Default)]
struct Wire {
    up: bool,
    opening: Option<Now>,
    to_node: VecDeque<(Now, RequestBatch)>,
    to_router: VecDeque<(Now, Reply)>,
}

/// An op at the leader that is not committed.
struct Proposed {
    reply: Option<(NodeId, u64)>,
    item: EntryItem,
}

/// A read at the leader that is not answered: when it is looked at next.
struct Reading {
    at: Now,
    reply: (NodeId, u64),
    request: ReadRequest,
}

#[derive(Clone, Debug)]
struct Asked {
    client: u64,
    key: usize,
    /// The token of an APPEND; none for a GET.
    token: Option<String>,
    asked_at: Now,
    abandoned: bool,
    answered_at: Now,
    answer: Option<Answered>,
}

/// How many steps or messages there are on average between two faults of a kind.
#[derive(Clone, Copy)]
struct Rates {
    link: u64,
    leader: u64,
    clock: u64,
    stall: u64,
    client: u64,
    busy: u64,
    copy: u64,
    unheard: u64,
}

impl Rates {
    /// Drawn from the seed too: what one fault hides behind another kind shows when that is rare.
    fn draw(random: &mut Random) -> Rates {
        let mut rate = |often: u64| often * [1, 5, 25, 1_000_000][random.below(4) as usize];
        Rates {
            link: rate(300),
            leader: rate(300),
            clock: rate(1000),
            stall: rate(2000),
            client: rate(1500),
            busy: rate(20),
            copy: rate(10),
            unheard: rate(1000),
        }
    }
}

struct World {
    rates: Rates,
    now: Now,
    wall_ms: u64,
    random: Random,
    dispatch: Dispatch,
    store: ShardStore,
    leader: Option<NodeId>,
    wires: BTreeMap<NodeId, Wire>,
    late: Vec<(Now, NodeId, RequestBatch)>,
    log: VecDeque<Proposed>,
    reads: Vec<Reading>,
    asked: Vec<Asked>,
    faults: bool,
    stalled_until: Now,
}

impl World {
    fn new(seed: u64) -> World {
        let mut store = ShardStore::new(GROUP);
        let ranges = vec![(Slot(0), Slot(SLOTS - 1))];
        let items = vec![EntryItem::Assign { config: ConfigNum(1), ranges }];
        store.apply(EntryBatch::new(LogTime(1), items));
        let mut random = Random::new([seed, 0]);
        World {
            rates: Rates::draw(&mut random),
            now: 0,
            wall_ms: 1_000_000,
            random,
            dispatch: Dispatch::new(Bounds::default(), [seed, seed], view(), None),
            store,
            leader: Some(NodeId(1)),
            wires: (1..=3).map(|node| (NodeId(node), Wire::default())).collect(),
            late: Vec::new(),
            log: VecDeque::new(),
            reads: Vec::new(),
            asked: Vec::new(),
            faults: true,
            stalled_until: 0,
        }
    }

    /// True about once in `n` times, never once faults are over.
    fn fault(&mut self, n: u64) -> bool {
        self.faults && self.random.below(n) == 0
    }

    fn some_node(&mut self) -> NodeId {
        NodeId(1 + self.random.below(3))
    }

    fn delay(&mut self) -> Now {
        self.now + (1 + self.random.below(4)) * STEP_NS
    }

    fn step(&mut self, load: bool) {
        self.now += STEP_NS;
        self.wall_ms += 1;
        if load && self.random.below(3) == 0 {
            for _ in 0..=self.random.below(4) {
                self.ask();
            }
        }
        self.break_things();
        self.carry();
        self.commit();
        self.read();
        self.poll();
    }

    fn ask(&mut self) {
        let client = self.random.below(4);
        let key = self.random.below(KEYS.len() as u64) as usize;
        let number = self.asked.len();
        let token = (self.random.below(2) > 0).then(|| format!("{client}.{number};"));
        let name = Bytes::from_static(KEYS[key].as_bytes());
        let op = match &token {
            Some(token) => Op::Append { key: name.clone(), value: Bytes::from(token.clone()) },
            None => Op::Get { key: name.clone() },
        };
        let (asked_at, abandoned, answered_at) = (self.now, false, 0);
        let asked = Asked { client, key, token, asked_at, abandoned, answered_at, answer: None };
        self.asked.push(asked);
        let target = Target::Slot(hash_slot(&name));
        let deadline = self.now + TIMEOUT_NS;
        let from = (Connection(client), Ticket(number as u64));
        self.dispatch.submit(self.now, from, target, Work::Op(op), deadline);
    }

    fn break_things(&mut self) {
        let rates = self.rates;
        if self.fault(rates.link) {
            let node = self.some_node();
            self.break_link(node);
        }
        if self.fault(rates.leader) {
            self.change_leader();
        }
        if self.fault(rates.clock) {
            self.wall_ms += self.random.below(400_000);
        }
        if self.fault(rates.stall) {
            self.stall();
        }
        if self.fault(rates.client) {
            self.abandon();
        }
    }

    fn break_link(&mut self, node: NodeId) {
        let wire = std::mem::take(self.wires.get_mut(&node).expect("a node"));
        for (_, batch) in wire.to_node {
            if self.random.below(2) == 0 {
                let at = self.now + self.random.below(8_000) * STEP_NS;
                self.late.push((at, node, batch));
            }
        }
        self.dispatch.on_link(self.now, node, LinkEvent::Down);
    }

    /// The old leader's log keeps a prefix at most; whoever waits hears "lost", or nothing.
    fn change_leader(&mut self) {
        let kept = self.random.below(self.log.len() as u64 + 1) as usize;
        let mut log = std::mem::take(&mut self.log);
        for (i, proposed) in log.iter_mut().enumerate() {
            if let Some((node, id)) = proposed.reply.take()
                && (i >= kept || self.random.below(2) == 0)
            {
                self.answer(node, Reply { id, answer: Answer::Lost });
            }
        }
        log.truncate(kept);
        self.log = log;
        for Reading { reply: (node, id), .. } in std::mem::take(&mut self.reads) {
            match self.random.below(3) {
                0 => self.answer(node, Reply { id, answer: Answer::Lost }),
                1 => self.answer(node, Reply { id, answer: Answer::NotLeader { hint: None } }),
                _ => {}
            }
        }
        self.leader = (self.random.below(3) > 0).then(|| self.some_node());
    }

    /// Nothing is committed for a while, with or without a leader.
    fn stall(&mut self) {
        self.stalled_until = self.now + self.random.below(8_000) * STEP_NS;
        if self.random.below(2) == 0 {
            self.change_leader();
            self.leader = None;
        }
    }

    fn abandon(&mut self) {
        let client = self.random.below(4);
        let gone: BTreeSet<Ticket> = (0..self.asked.len())
            .filter(|i| self.asked[*i].client == client && self.asked[*i].answer.is_none())
            .map(|i| Ticket(i as u64))
            .collect();
        for ticket in &gone {
            self.asked[ticket.0 as usize].abandoned = true;
        }
        self.dispatch.abandon(|ticket| gone.contains(&ticket));
    }

    fn answer(&mut self, node: NodeId, reply: Reply) {
        let at = self.delay();
        let wire = self.wires.get_mut(&node).expect("a node");
        if wire.up {
            let at = wire.to_router.back().map_or(at, |(last, _)| at.max(*last));
            wire.to_router.push_back((at, reply));
        }
    }

    fn carry(&mut self) {
        let now = self.now;
        let mut arrived = Vec::new();
        for (node, wire) in &mut self.wires {
            if wire.opening.is_some_and(|at| at <= now) {
                wire.opening = None;
                wire.up = true;
                self.dispatch.on_link(now, *node, LinkEvent::Up);
            }
            while wire.to_router.front().is_some_and(|(at, _)| *at <= now) {
                let reply = wire.to_router.pop_front().map(|(_, reply)| reply);
                self.dispatch.on_replies(now, reply.into_iter().collect());
            }
            while wire.to_node.front().is_some_and(|(at, _)| *at <= now) {
                arrived.extend(wire.to_node.pop_front().map(|(_, batch)| (*node, batch, true)));
            }
        }
        let (due, later) = std::mem::take(&mut self.late).into_iter().partition(|l| l.0 <= now);
        self.late = later;
        let due: Vec<(Now, NodeId, RequestBatch)> = due;
        arrived.extend(due.into_iter().map(|(_, node, batch)| (node, batch, false)));
        for (node, batch, heard) in arrived {
            self.receive(node, batch, heard);
        }
    }

    fn receive(&mut self, node: NodeId, batch: RequestBatch, heard: bool) {
        let busy = self.fault(self.rates.busy);
        for request in batch.requests {
            let refusal = if self.leader != Some(node) {
                let hint = match self.random.below(4) {
                    0 => Some(self.some_node()),
                    1 => None,
                    _ => self.leader,
                };
                Some(Answer::NotLeader { hint })
            } else if busy {
                Some(Answer::Busy)
            } else {
                match request.body {
                    RequestBody::LogTime => Some(Answer::LogTime(LogTime(self.wall_ms))),
                    RequestBody::Lane(lane) => {
                        let reply = heard.then_some((node, request.id));
                        self.log.push_back(Proposed { reply, item: EntryItem::Lane(lane) });
                        None
                    }
                    RequestBody::Read(read) => {
                        let reply = (node, request.id);
                        let at = self.delay();
                        // Reads are served in the order in which they came.
                        let at = self.reads.last().map_or(at, |last| at.max(last.at));
                        self.reads.extend(heard.then_some(Reading { at, reply, request: read }));
                        None
                    }
                    RequestBody::Group(_)
                    | RequestBody::Transfer { .. }
                    | RequestBody::Master(_) => None,
                }
            };
            if let Some(answer) = refusal.filter(|_| heard) {
                self.answer(node, Reply { id: request.id, answer });
            }
        }
    }

    fn commit(&mut self) {
        if self.stalled_until > self.now {
            return;
        }
        if self.leader.is_none() {
            if self.random.below(300) == 0 || !self.faults {
                self.leader = Some(self.some_node());
            }
            return;
        }
        if self.log.is_empty() || self.random.below(3) == 0 {
            return;
        }
        let count = 1 + self.random.below(self.log.len() as u64) as usize;
        let (waiting, items): (Vec<_>, Vec<_>) =
            self.log.drain(..count).map(|proposed| (proposed.reply, proposed.item)).unzip();
        let answers = self.store.apply(EntryBatch::new(LogTime(self.wall_ms), items));
        for (reply, answer) in waiting.into_iter().zip(answers) {
            if let Some((node, id)) = reply
                && !self.fault(self.rates.unheard)
            {
                self.answer(node, Reply { id, answer });
            }
        }
    }

    /// A leader that is confirmed answers from what is committed. It may take as long as it likes.
    fn read(&mut self) {
        if self.leader.is_none() || self.stalled_until > self.now {
            return;
        }
        for reading in std::mem::take(&mut self.reads) {
            let due = reading.at <= self.now;
            match self.store.read(&reading.request, LogTime(self.wall_ms), true) {
                ReadStep::Answered(answer) if due => {
                    let (node, id) = reading.reply;
                    if self.fault(self.rates.busy) {
                        self.answer(node, Reply { id, answer: Answer::Lost });
                    } else if !self.fault(self.rates.unheard) {
                        self.answer(node, Reply { id, answer });
                    }
                }
                _ => self.reads.push(reading),
            }
        }
    }

    fn poll(&mut self) {
        let mut output = Output::default();
        self.dispatch.poll(self.now, &mut output);
        for node in output.open_links {
            let at = self.delay();
            if self.fault(4) {
                self.dispatch.on_link(self.now, node, LinkEvent::Down);
            } else {
                self.wires.get_mut(&node).expect("a node").opening = Some(at);
            }
        }
        for (node, batch) in output.sends {
            let at = self.delay();
            if self.fault(self.rates.copy) {
                let late = self.now + self.random.below(8_000) * STEP_NS;
                self.late.push((late, node, batch.clone()));
            }
            let wire = self.wires.get_mut(&node).expect("a node");
            assert!(wire.up, "sent over a link that is down");
            let at = wire.to_node.back().map_or(at, |(last, _)| at.max(*last));
            wire.to_node.push_back((at, batch));
        }
        for (ticket, answer) in output.answers {
            let asked = &mut self.asked[ticket.0 as usize];
            assert!(!asked.abandoned, "{ticket:?} was abandoned");
            assert_eq!(asked.answer, None, "{ticket:?} is answered twice");
            let waited = self.now - asked.asked_at;
            let grace = if asked.token.is_some() { GRACE_NS } else { 0 };
            assert!(waited <= TIMEOUT_NS + grace + 20 * STEP_NS, "{ticket:?} waited {waited} ns");
            asked.answer = Some(answer);
            asked.answered_at = self.now;
        }
    }

    /// What a key holds in the end.
    fn value(&mut self, key: usize) -> String {
        let name = Bytes::from_static(KEYS[key].as_bytes());
        let request = LaneRequest {
            session: SessionId(1),
            deadline: LogTime(self.wall_ms),
            slot: hash_slot(&name),
            seq: Seq(1),
            acked: Seq(0),
            op: Op::Get { key: name },
        };
        let items = vec![EntryItem::Lane(request)];
        match self.store.apply(EntryBatch::new(LogTime(self.wall_ms), items)).pop() {
            Some(Answer::Done { outcome, .. }) => text(&outcome),
            other => panic!("{other:?}"),
        }
    }

    /// Every promise, once nothing waits any more.
    fn check(&mut self) -> Tally {
        let mut tally = Tally::default();
        for key in 0..KEYS.len() {
            let value = self.value(key);
            let asked: Vec<(usize, &Asked)> =
                self.asked.iter().enumerate().filter(|(_, asked)| asked.key == key).collect();
            for (i, one) in &asked {
                tally.count(one);
                if let Some(token) = &one.token {
                    check_append(*i, one, token, &value);
                }
            }
            check_order(&asked, &value);
            check_linearizable(&asked, &value);
        }
        tally
    }
}

/// What came of the requests of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    done: u64,
    unknown: u64,
    refused: u64,
    abandoned: u64,
    sessions: u64,
    retries: u64,
}

impl Tally {
    fn count(&mut self, asked: &Asked) {
        match &asked.answer {
            None => self.abandoned += 1,
            Some(Answered::Outcome(_)) => self.done += 1,
            Some(Answered::Refused(Refusal::Unknown { .. })) => self.unknown += 1,
            Some(_) => self.refused += 1,
        }
    }

    fn add(&mut self, other: Tally) {
        self.done += other.done;
        self.unknown += other.unknown;
        self.refused += other.refused;
        self.abandoned += other.abandoned;
        self.sessions += other.sessions;
        self.retries += other.retries;
    }
}

fn text(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Value(value) => String::from_utf8_lossy(value).into_owned(),
        Outcome::Nil => String::new(),
        other => panic!("a GET answered {other:?}"),
    }
}

/// Acknowledged: once. Refused: never. Unknown or given up: once at most.
fn check_append(i: usize, asked: &Asked, token: &str, value: &str) {
    let times = value.split_inclusive(';').filter(|found| *found == token).count();
    match &asked.answer {
        Some(Answered::Outcome(Outcome::Integer(_))) => assert_eq!(times, 1, "{i}: {asked:?}"),
        Some(Answered::Refused(Refusal::Unknown { .. })) => assert!(times <= 1, "{i}: {asked:?}"),
        Some(Answered::Refused(_)) => assert_eq!(times, 0, "{i}: {asked:?}"),
        None if asked.abandoned => assert!(times <= 1, "{i}: {asked:?}"),
        other => panic!("{i}: {other:?}"),
    }
}

/// How much of the value a request shows: a read what it saw, an executed write all up to its own.
fn shown(asked: &Asked, ends: &BTreeMap<&str, usize>) -> Option<usize> {
    match (&asked.token, &asked.answer) {
        (None, Some(Answered::Outcome(outcome))) => Some(text(outcome).len()),
        (Some(token), Some(Answered::Outcome(_))) => ends.get(&token[..]).copied(),
        _ => None,
    }
}

/// Every read shows the value as it was at one instant between its call and its answer, and instants
/// of one client's requests are in the order of its calls. Values only grow, so instants compare as
/// lengths.
fn check_linearizable(asked: &[(usize, &Asked)], value: &str) {
    let mut at = 0;
    let mut ends: BTreeMap<&str, usize> = BTreeMap::new();
    for token in value.split_inclusive(';') {
        at += token.len();
        ends.insert(token, at);
    }
    let shown: Vec<Option<usize>> = asked.iter().map(|(_, one)| shown(one, &ends)).collect();
    for ((i, get), seen) in asked.iter().zip(&shown).filter(|((_, get), _)| get.token.is_none()) {
        let Some(seen) = *seen else { continue };
        if let Some(Answered::Outcome(outcome)) = &get.answer {
            assert!(value.starts_with(&text(outcome)), "read {i} saw what never was");
        }
        for ((j, other), shows) in asked.iter().zip(&shown) {
            let own = other.client == get.client;
            let before = (own && j < i) || other.answered_at < get.asked_at;
            let missed = before && shows.is_some_and(|shows| shows > seen);
            assert!(!missed, "read {i} is older than {j}");
            let Some(token) = &other.token else { continue };
            let after = (own && j > i) || other.asked_at > get.answered_at;
            let early = after && ends.get(&token[..]).is_some_and(|end| *end <= seen);
            assert!(!early, "read {i} saw the later {j}");
        }
    }
}

/// One client's appends to one key stand in the order in which it sent them, whatever it was told.
fn check_order(asked: &[(usize, &Asked)], value: &str) {
    let places: BTreeMap<&str, usize> =
        value.split_inclusive(';').enumerate().map(|(at, token)| (token, at)).collect();
    let mut last: BTreeMap<u64, usize> = BTreeMap::new();
    for (i, one) in asked {
        let place = one.token.as_ref().and_then(|token| places.get(&token[..]));
        if let Some(place) = place {
            let before = last.insert(one.client, *place);
            assert!(before.is_none_or(|before| before < *place), "{i} stands before its elder");
        }
    }
}

fn run(seed: u64) -> Tally {
    let mut world = World::new(seed);
    for _ in 0..6_000 {
        world.step(true);
    }
    world.faults = false;
    world.stalled_until = 0;
    let mut steps = 0;
    while world.dispatch.stats().pending > 0 {
        world.step(false);
        steps += 1;
        assert!(steps < 60_000, "still waiting: {:?}", world.dispatch.stats());
    }
    // Messages that are still on their way come when nobody waits for them any more.
    for _ in 0..10_000 {
        world.step(false);
    }
    let stats = world.dispatch.stats();
    let mut tally = world.check();
    assert_eq!(world.dispatch.book.attempts.len(), 0, "attempts are forgotten with their ops");
    tally.sessions = stats.sessions;
    tally.retries = stats.retries;
    tally
}

fn run_seeds(seeds: std::ops::Range<u64>) -> Tally {
    let mut all = Tally::default();
    for seed in seeds {
        println!("seed {seed}");
        all.add(run(seed));
    }
    println!("{all:?}");
    all
}

#[test]
fn x_exactly_once_and_in_order_through_everything() {
    let all = run_seeds(0..16);
    assert!(all.done > 10_000 && all.retries > 1_000, "{all:?}");
    assert!(all.unknown > 0 && all.refused > 0 && all.abandoned > 0, "{all:?}");
    assert!(all.sessions > 16, "{all:?}");
}

#[test]
fn the_same_seed_does_the_same() {
    assert_eq!(run(77), run(77));
}

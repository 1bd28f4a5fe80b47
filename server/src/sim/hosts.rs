//! What a node's process does around its core: the disk, links, timers.

use super::disk::Disk;
use super::random::Random;
use super::world::{Event, MS, World};
use raft_core::Config;
use raft_core::types::Now;
use shard_core::NodeId;
use shard_core::handshake::VERSION_MAX;
use shard_core::kept::Kept;
use shard_core::map_feed::MapMessage;
use shard_core::migration::{MoveEnvelope, MoveMessage};
use shard_core::node::{CLOCK_OFF_MAX_MS, Input, Node, NodeSetup, Output};
use shard_core::replica::{CheckpointConfig, Origin};
use shard_core::session::LogTime;
use shard_core::shard_store::RowBudget;
use shard_core::wire::{ToNode, ToRouter};
use std::collections::{BTreeMap, BTreeSet};

/// What clocks show when a run begins: enough to be wrong by, to either side.
const CLOCKS_BEGIN_MS: u64 = 1 << 41;
/// The room that a link has for appends.
const LINK_BYTES: u64 = 1 << 18;

/// Checkpoints of few bytes in small steps, so that there are many.
const CHECKPOINTS: CheckpointConfig = CheckpointConfig {
    dirty_bytes_min: 3000,
    dirty_share: 10,
    log_bytes_max: 1 << 20,
    interval_ns: 2_000 * MS,
    align: 16,
    step: RowBudget { rows: 7, bytes: 500 },
};

/// Polls that want to be called again at once and owe nothing, at most, one after another: a core of a real node
/// would be lost with them.
const EMPTY_TURNS_MAX: u32 = 1_000;

/// A node with its disk.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) node: Option<Node>,
    pub(super) disk: Disk,
    /// What it keeps of the cluster.
    kept: Option<Kept>,
    /// Names its process; that of one that is down is nobody's.
    pub(super) epoch: u64,
    starts: u64,
    syncing: bool,
    timer: Option<Now>,
    /// Polls one after another that wanted to be called again at once and owed nothing.
    empty_turns: u32,
    wake: BTreeSet<NodeId>,
    /// How far its clock is ahead. Milliseconds.
    skew: u64,
    /// While it is wrong, what it shows has nothing to do with the time.
    pub(super) wrong_by: i64,
    pub(super) paused_until: Now,
}

impl Host {
    pub(super) fn new(random: &mut Random) -> Host {
        Host {
            node: None,
            disk: Disk::default(),
            kept: None,
            epoch: 0,
            starts: 0,
            syncing: false,
            timer: None,
            empty_turns: 0,
            wake: BTreeSet::new(),
            skew: random.below(300),
            wrong_by: 0,
            paused_until: 0,
        }
    }
}

impl World {
    fn wall(&self, id: NodeId) -> LogTime {
        let host = &self.hosts[&id];
        let clock = CLOCKS_BEGIN_MS + self.now / MS + host.skew;
        LogTime(clock.saturating_add_signed(host.wrong_by))
    }

    /// What log time may be at most: the newest of the clocks that are right, and what a leader may add.
    fn latest(&self) -> LogTime {
        let right = self.hosts.iter().filter(|(_, host)| host.wrong_by == 0);
        let newest = right.map(|(id, _)| self.wall(*id)).max().unwrap_or_default();
        LogTime(newest.0 + CLOCK_OFF_MAX_MS)
    }

    fn tell_clock(&mut self, from: NodeId, to: NodeId) {
        self.send_linked(from, to, Input::Clock { from, clock: self.wall(from) });
    }

    pub(super) fn start(&mut self, id: NodeId) {
        let config = self.config.clone();
        let host = self.hosts.get_mut(&id).expect("a node");
        if host.node.is_some() {
            return;
        }
        host.starts += 1;
        host.epoch = id.0 << 32 | host.starts;
        (host.syncing, host.timer, host.paused_until) = (false, None, 0);
        host.wake.clear();
        let setup = NodeSetup {
            id,
            addresses: BTreeMap::new(),
            kept: host.kept.get_or_insert_with(|| Kept::first(&config)).clone(),
            bootstrap: config,
            epoch: host.epoch,
            seed: self.random.draw(),
            checkpoints: Some(CHECKPOINTS),
            memory_max: 0,
        };
        let starts = host.starts;
        let raft = move |group, voters| Config {
            epoch: starts,
            log_trailing_bytes: 2000,
            log_bytes_max: 30_000,
            missed_bytes_max: 4000,
            entry_cache_bytes_max: 4000,
            snapshot_window_bytes: 4000,
            ..Config::new(id, group, voters)
        };
        let node = Node::open(setup, host.disk.recovered(), Box::new(raft), self.now);
        host.node = Some(node.unwrap_or_else(|error| panic!("node {id} does not start: {error}")));
        self.watch.forget(id);
        for other in self.hosts.keys().copied().filter(|other| *other != id).collect::<Vec<_>>() {
            let delay = self.delay();
            self.at(delay, Event::Dial(id, other));
        }
        self.turn(id, Output::default());
    }

    /// Power is lost: a prefix of what was on its way to the disk is there.
    pub(super) fn crash(&mut self, id: NodeId) {
        let host = self.hosts.get_mut(&id).expect("a node");
        if host.node.take().is_none() {
            return;
        }
        self.crashes += 1;
        let kept = self.random.below(host.disk.waiting() as u64 + 1) as usize;
        host.disk.lose_power(kept);
        host.epoch = 0;
        for (from, to) in self.network.of(id) {
            self.network.close(from, to);
            if from != id {
                self.link_down(from, to, false);
            }
        }
        for router in 0..self.routers.len() {
            self.break_router_link(router, id);
        }
        let down = match self.random.below(8) {
            0 => self.random.between(3_000, 9_000) * MS,
            _ => self.random.between(10, 1_500) * MS,
        };
        self.at(down, Event::Start(id));
    }

    fn link_down(&mut self, from: NodeId, to: NodeId, refused: bool) {
        let epoch = self.hosts[&from].epoch;
        self.at(0, Event::Own(from, epoch, Input::LinkDown { node: to, refused }));
        let again = self.random.between(10, 200) * MS;
        self.at(again, Event::Dial(from, to));
    }

    pub(super) fn break_link(&mut self, from: NodeId, to: NodeId) {
        if self.network.close(from, to) {
            self.link_down(from, to, false);
        }
    }

    pub(super) fn dial(&mut self, from: NodeId, to: NodeId) {
        if self.hosts[&from].node.is_none() || self.network.link(from, to).is_some() {
            return;
        }
        let there = self.hosts[&to].node.is_some();
        if !self.network.can_dial(from, to) || !there {
            let refused = !there && self.network.can_dial(from, to);
            return self.link_down(from, to, refused);
        }
        let link = self.network.open(from, to, self.now);
        let (own, epoch) = (self.hosts[&from].epoch, self.hosts[&to].epoch);
        let up = Input::LinkUp { node: to, epoch, link, version: VERSION_MAX };
        self.at(0, Event::Own(from, own, up));
        self.tell_clock(from, to);
    }

    pub(super) fn mend(&mut self, from: NodeId, to: NodeId) {
        self.network.set_cut(from, to, false);
        if self.network.link(from, to).is_some_and(|link| link.torn) {
            self.break_link(from, to);
        }
    }

    /// In order, unless the link breaks before it arrives.
    pub(super) fn send_linked(&mut self, from: NodeId, to: NodeId, input: Input) {
        let (cut, delay, now) = (self.network.is_cut(from, to), self.delay(), self.now);
        let Some(link) = self.network.link(from, to) else { return };
        if cut {
            link.torn = true;
            return;
        }
        if link.torn {
            return;
        }
        link.last = link.last.max(now + delay);
        let (at, id) = (link.last, link.id);
        self.at_time(at, Event::Linked(from, to, id, input));
    }

    /// In any order, perhaps never, perhaps twice.
    fn send_loose(&mut self, from: NodeId, to: NodeId, mut make: impl FnMut() -> Input) {
        if self.network.link(from, to).is_none() || self.network.is_cut(from, to) {
            return;
        }
        let rates = self.rates;
        let copies = match (self.random.chance(rates.loss), self.random.chance(rates.twice)) {
            (true, _) => 0,
            (false, false) => 1,
            (false, true) => 2,
        };
        for _ in 0..copies {
            let late = self.random.chance(rates.late);
            let delay = if late { self.random.between(3, 2000) * MS } else { self.delay() };
            self.at(delay, Event::Loose(from, to, make()));
        }
    }

    pub(super) fn input(&mut self, id: NodeId, input: Input) {
        let (now, wall) = (self.now, self.wall(id));
        let Some(node) = self.hosts.get_mut(&id).and_then(|host| host.node.as_mut()) else {
            return;
        };
        let mut out = Output::default();
        node.handle(now, wall, input, &mut out);
        self.turn(id, out);
    }

    pub(super) fn due(&mut self, id: NodeId, epoch: u64) {
        let host = self.hosts.get_mut(&id).expect("a node");
        if host.epoch == epoch && host.node.is_some() && host.timer.is_some_and(|at| at <= self.now)
        {
            host.timer = None;
            self.turn(id, Output::default());
        }
    }

    /// A poll, and what it owes.
    fn turn(&mut self, id: NodeId, mut out: Output) {
        let (now, wall) = (self.now, self.wall(id));
        let host = self.hosts.get_mut(&id).expect("a node");
        let Some(node) = host.node.as_mut() else { return };
        if let Err(error) = node.poll(now, wall, &mut out) {
            panic!("node {id} stops: {error}");
        }
        let node = &self.hosts[&id].node;
        let latest = self.latest();
        if let Some(node) = node {
            self.watch.look(id, node, now, latest);
        }
        let again = out.again;
        let owed = [out.writes.len(), out.messages.len(), out.state.len(), out.moves.len()];
        let owes =
            owed.iter().any(|count| *count > 0) || !out.replies.is_empty() || !out.maps.is_empty();
        self.carry_out(id, out);
        let host = self.hosts.get_mut(&id).expect("a node");
        host.empty_turns = if again && !owes { host.empty_turns + 1 } else { 0 };
        assert!(host.empty_turns < EMPTY_TURNS_MAX, "node {id} is busy with nothing at {now}");
        let Some(node) = host.node.as_ref() else { return };
        let epoch = host.epoch;
        let due = if again { Some(now) } else { node.deadline() };
        let due = due.map(|at| at.max(now + 1_000));
        if let Some(at) = due
            && host.timer.is_none_or(|timer| timer > at)
        {
            host.timer = Some(at);
            self.at_time(at, Event::Poll(id, epoch));
        }
    }

    fn carry_out(&mut self, id: NodeId, mut out: Output) {
        let counts = [out.writes.len(), out.messages.len(), out.moves.len(), out.replies.len()];
        self.note(&[self.now, id.0]);
        self.note(&counts.map(|count| count as u64));
        let host = self.hosts.get_mut(&id).expect("a node");
        let epoch = host.epoch;
        host.disk.take(
            std::mem::take(&mut out.writes),
            std::mem::take(&mut out.state),
            std::mem::take(&mut out.compact),
            std::mem::take(&mut out.forget),
        );
        host.wake.append(&mut out.wake);
        if host.disk.is_dirty() && !std::mem::replace(&mut host.syncing, true) {
            let sync = self.random.between(100_000, self.rates.sync_ms.max(1) * MS);
            self.at(sync, Event::Sync(id, epoch));
        }
        if let Some((number, kept)) = out.keep {
            let written = self.random.between(100_000, self.rates.sync_ms.max(1) * MS);
            self.at(written, Event::Keep(id, epoch, number, kept));
        }
        for (group, fetch) in out.fetches {
            let result = self.hosts[&id].disk.fetch(group, &fetch);
            let delay = self.delay();
            self.at(delay, Event::Own(id, epoch, Input::Fetched { group, id: fetch.id, result }));
        }
        for (to, heartbeat) in out.heartbeats {
            if !self.random.chance(self.rates.loss) && !self.network.is_cut(id, to) {
                self.send_linked(id, to, Input::Heartbeat { from: id, heartbeat });
                self.tell_clock(id, to);
            }
        }
        for (to, message) in out.witness {
            self.send_linked(id, to, Input::Witness { from: id, message });
        }
        for (to, envelope) in out.messages {
            self.send_linked(id, to, Input::Raft { from: id, envelope });
        }
        self.send_moves(id, out.moves, out.maps);
        self.pull(id);
        for (origin, replies) in out.replies {
            for message in ToRouter::replies(replies) {
                self.send_router(id, origin, message);
            }
        }
        if out.view_changed {
            self.tell_view(id);
        }
    }

    fn send_moves(
        &mut self,
        from: NodeId,
        moves: Vec<(NodeId, MoveEnvelope)>,
        maps: Vec<(NodeId, MapMessage)>,
    ) {
        for (to, envelope) in moves {
            self.parts += u64::from(matches!(envelope.message, MoveMessage::Part { .. }));
            self.send_loose(from, to, || Input::Move { from, envelope: envelope.clone() });
        }
        for (to, message) in maps {
            self.send_loose(from, to, || Input::Map { from, message: message.clone() });
        }
    }

    /// Links take the appends that there are.
    fn pull(&mut self, id: NodeId) {
        let peers: Vec<NodeId> = self.hosts[&id].wake.iter().copied().collect();
        for peer in peers {
            if self.network.link(id, peer).is_none() {
                continue;
            }
            let now = self.now;
            let host = self.hosts.get_mut(&id).expect("a node");
            host.wake.remove(&peer);
            let mut pulled = Vec::new();
            if let Some(node) = host.node.as_mut() {
                while let Some(envelope) = node.next_append(now, peer, LINK_BYTES) {
                    pulled.push(envelope);
                }
            }
            for envelope in pulled {
                self.send_linked(id, peer, Input::Raft { from: id, envelope });
            }
        }
    }

    /// What a node keeps of the cluster is on disk.
    pub(super) fn keeps(&mut self, id: NodeId, epoch: u64, number: u64, kept: &Kept) {
        let host = self.hosts.get_mut(&id).expect("a node");
        if host.epoch != epoch {
            return;
        }
        let before = host.kept.replace(kept.clone());
        let older = before.is_some_and(|before| before.map.version > kept.map.version);
        assert!(!older, "node {id} keeps an older map");
        self.input(id, Input::Kept(number));
    }

    pub(super) fn synced(&mut self, id: NodeId, epoch: u64) {
        let host = self.hosts.get_mut(&id).expect("a node");
        if host.epoch != epoch || host.node.is_none() {
            return;
        }
        host.syncing = false;
        let count = host.disk.waiting();
        let count = if count > 1 { 1 + self.random.below(count as u64) as usize } else { count };
        let mut pieces = Vec::new();
        let told = host.disk.sync(count, |to, piece| pieces.push((to, piece)));
        let dirty = host.disk.is_dirty();
        if dirty {
            host.syncing = true;
            let sync = self.random.between(100_000, self.rates.sync_ms.max(1) * MS);
            self.at(sync, Event::Sync(id, epoch));
        }
        for (to, piece) in pieces {
            self.send_piece(id, to, piece);
        }
        for input in told {
            self.at(0, Event::Own(id, epoch, input));
        }
    }

    /// A node takes what a router says.
    pub(super) fn heard_router(&mut self, router: usize, node: NodeId, link: u64, message: ToNode) {
        match message {
            ToNode::Requests(batch) => {
                self.input(node, Input::Requests { origin: Origin(link), batch });
            }
            ToNode::View => {
                let Some(view) = self.hosts[&node].node.as_ref().map(Node::view) else { return };
                if self.routers[router].stands(node, link) {
                    self.send_router(node, Origin(link), ToRouter::View(Box::new(view)));
                }
            }
            ToNode::Ping => {}
        }
    }
}

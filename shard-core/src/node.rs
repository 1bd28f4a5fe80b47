//! Every replica of one worker: `handle(Input)` and `poll() -> Output`, pure and deterministic.
//!
//! The shell around it waits for nothing but its inbox and [`Node::deadline`]: writes, messages,
//! replies and fetches leave as data.

mod clocks;
mod groups;
mod hand_over;
mod members;
mod views;

pub use self::clocks::CLOCK_OFF_MAX_MS;

use self::clocks::Clocks;
use self::groups::Comings;
use self::views::Views;
use crate::checkpoint::{SnapshotChunk, StateCommand, StateEvent};
use crate::cluster_config::{ClusterConfig, NodeConfig, SHARDMASTER};
use crate::cluster_map::ClusterMap;
use crate::disk_room::DiskRoom;
use crate::health::{Health, told};
use crate::kept::{Keeper, Kept};
use crate::machine::Machine;
use crate::map_feed::{MapFeed, MapMessage};
use crate::memory::MemoryUse;
use crate::migration::MoveEnvelope;
use crate::opener::{Opener, RaftConfig};
use crate::replica::{
    CheckpointConfig, Origin, Recovered, Replica, ReplicaError, ReplicaOutput, ReplicaSetup,
};
use crate::session::LogTime;
use crate::transfers::{self, Transfers, Wish};
use crate::wire::{
    Answer, ClusterView, NodeStatus, RaftEnvelope, ReplicaStatus, Reply, Request, RequestBatch,
    RequestBody,
};
use crate::witness::{Promise, Witness, WitnessMessage};
use raft_core::OpenError;
use raft_core::effects::{Fetch, FetchResult, Reject, RoleChange, Write};
use raft_core::node_pair::{Heartbeat, PairEdge, PairEffects};
use raft_core::types::{EntryId, FetchId, GroupId, NodeId, Now, WriteToken};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

/// Clients that asked for nothing for so long do not wait.
const SERVED_NS: Now = 200_000_000;

/// Everything that can happen to a node.
#[derive(Debug)]
pub enum Input {
    /// A Raft message from a peer.
    Raft {
        /// The peer.
        from: NodeId,
        /// What it says.
        envelope: RaftEnvelope,
    },
    /// Requests from a router.
    Requests {
        /// Where the answers go.
        origin: Origin,
        /// The requests.
        batch: RequestBatch,
    },
    /// Writes that are on disk now: per group the newest token.
    Persisted(Vec<(GroupId, WriteToken)>),
    /// Entries that a group asked for.
    Fetched {
        /// The group.
        group: GroupId,
        /// Its request.
        id: FetchId,
        /// The entries.
        result: FetchResult,
    },
    /// A peer's node vouches for itself.
    Heartbeat {
        /// The peer.
        from: NodeId,
        /// What it says.
        heartbeat: Heartbeat,
    },
    /// A peer's wall clock.
    Clock {
        /// The peer.
        from: NodeId,
        /// What it shows. Milliseconds since 1970.
        clock: LogTime,
    },
    /// A link to a peer's node stands.
    LinkUp {
        /// The peer.
        node: NodeId,
        /// Its process.
        epoch: u64,
        /// Never used again.
        link: u64,
        /// The newest version of the protocol that both ends speak.
        version: u8,
    },
    /// The link to a peer's node broke, or an attempt to have one again failed.
    LinkDown {
        /// The peer.
        node: NodeId,
        /// The attempt was refused: no process listens there.
        refused: bool,
    },
    /// What the host tells of a group's state.
    State {
        /// The group.
        group: GroupId,
        /// What.
        event: StateEvent<Machine>,
    },
    /// What a group on a peer says of a slot that moves.
    Move {
        /// The peer.
        from: NodeId,
        /// What it says.
        envelope: MoveEnvelope,
    },
    /// What a peer says of the shardmaster's map.
    Map {
        /// The peer.
        from: NodeId,
        /// What it says.
        message: MapMessage,
    },
    /// What a peer says of what its disk or this one must have.
    Witness {
        /// The peer.
        from: NodeId,
        /// What it says.
        message: WitnessMessage,
    },
    /// A piece of a snapshot from a peer.
    Chunk {
        /// The peer.
        from: NodeId,
        /// The piece.
        chunk: SnapshotChunk,
    },
    /// The log is in want of space, and would get rid of some of this group's.
    CheckpointWanted(GroupId),
    /// What was to be kept under that number is on disk.
    Kept(u64),
    /// What [`Output::forget`] named is gone from the disk.
    Forgotten(GroupId),
    /// The process is about to stop: every leadership is handed over, and none is won any more.
    Leave,
}

/// What the node owes since the last poll.
#[derive(Debug, Default)]
pub struct Output {
    /// To disk, per group in order. Those of a group for which [`StateCommand::Install`] was given
    /// wait until that is durable.
    pub writes: Vec<(GroupId, Write)>,
    /// To the disk that has the states, in order. Ignored where the setup says that there are no
    /// checkpoints: then there are none.
    pub state: Vec<(GroupId, StateCommand)>,
    /// States that the snapshots to be installed take the place of. To be dropped where that holds up nobody, and
    /// before the new ones are loaded.
    pub given_up: Vec<(GroupId, Machine)>,
    /// Replicas that are closed. To be dropped where that holds up nobody: a log's entries in memory take as long as
    /// a state.
    pub closed: Vec<Replica>,
    /// The log up to and including this entry is not needed any more.
    pub compact: Vec<(GroupId, EntryId)>,
    /// To peers.
    pub messages: Vec<(NodeId, RaftEnvelope)>,
    /// To peers' nodes. One that still waits for its link is replaced.
    pub heartbeats: Vec<(NodeId, Heartbeat)>,
    /// To peers: of slots that move. Rows go where they delay nothing.
    pub moves: Vec<(NodeId, MoveEnvelope)>,
    /// To peers: of the shardmaster's map.
    pub maps: Vec<(NodeId, MapMessage)>,
    /// To peers: of what disks must have. They go before the messages.
    pub witness: Vec<(NodeId, WitnessMessage)>,
    /// What became of peers' nodes, for the log.
    pub edges: Vec<(NodeId, PairEdge)>,
    /// Peers whose link should pull with [`Node::next_append`].
    pub wake: BTreeSet<NodeId>,
    /// To disk: what the node keeps of the cluster, and the number that [`Input::Kept`] is to name. It takes the
    /// place of what is there, and there is never more than one that has not been answered.
    pub keep: Option<(u64, Arc<Kept>)>,
    /// To disk, behind all else of the group: nothing of it is to be kept, or, if so it says, its term and vote
    /// alone. Answered by [`Input::Forgotten`].
    pub forget: Vec<(GroupId, bool)>,
    /// There are other nodes, or they are elsewhere: see [`Node::nodes`].
    pub peers_changed: bool,
    /// To routers.
    pub replies: BTreeMap<Origin, Vec<Reply>>,
    /// To the log's reader.
    pub fetches: Vec<(GroupId, Fetch)>,
    /// Role changes, for the log.
    pub roles: Vec<(GroupId, RoleChange)>,
    /// A leader or the map changed, and not only just now: routers want the new view.
    pub view_changed: bool,
    /// There is more to do at once.
    pub again: bool,
}

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct NodeSetup {
    /// The node.
    pub id: NodeId,
    /// The configuration the cluster starts with.
    pub bootstrap: ClusterConfig,
    /// Where nodes are, whatever any map says: this one, and all whose addresses are drawn at each start.
    pub addresses: BTreeMap<NodeId, NodeConfig>,
    /// What the disk has of the cluster.
    pub kept: Kept,
    /// Names this process towards peers; drawn once per start, as in handshakes.
    pub epoch: u64,
    /// Drawn once per start; election timeouts come from it.
    pub seed: u64,
    /// When checkpoints are taken. None: the host keeps no states, and every log is kept whole.
    pub checkpoints: Option<CheckpointConfig>,
    /// Bytes of memory from which on this node, where it leads, lets nothing grow; 0: no limit.
    pub memory_max: u64,
}

/// The replicas of one worker.
#[derive(Debug)]
pub struct Node {
    id: NodeId,
    /// Groups whose checkpoint waits for its turn: one at a time, round robin.
    frozen: BTreeSet<GroupId>,
    checkpointing: Option<GroupId>,
    /// After whom the next turn is.
    checkpointed: GroupId,
    addresses: BTreeMap<NodeId, NodeConfig>,
    feed: MapFeed,
    keeper: Keeper,
    comings: Comings,
    views: Views,
    /// What groups here say to groups here.
    loopback: VecDeque<MoveEnvelope>,
    replicas: BTreeMap<GroupId, Replica>,
    opener: Opener,
    witness: Witness,
    /// A replica could not be opened, or has lost what it promised: the node stops with its next poll.
    failed: Option<ReplicaError>,
    health: Health,
    clocks: Clocks,
    /// What peers spoke when they were heard last: one that is away comes back as it was, or newer.
    versions: Arc<BTreeMap<NodeId, u8>>,
    touched: BTreeSet<GroupId>,
    /// Per peer the groups that have something to pull, and where the next pull begins: groups take
    /// turns.
    appendable: BTreeMap<NodeId, BTreeSet<GroupId>>,
    turn: BTreeMap<NodeId, GroupId>,
    scratch: ReplicaOutput,
    /// Those who asked that another node leads, and do not know yet what became of it.
    transfers: Transfers,
    /// The process is about to stop.
    leaving: bool,
    /// What the replicas were last told of it.
    told_hand_over: bool,
    memory_max: u64,
    /// What the replicas take, and of it what each did when it was last polled.
    memory: MemoryUse,
    counted: BTreeMap<GroupId, MemoryUse>,
    /// What its host said of buffers.
    buffers: u64,
    /// What its host said of the disk.
    disk: DiskRoom,
    /// When a client last asked for something here, or wrote to a group that has a replica here; and when one
    /// did where slots come from or go to, as it was told.
    served_at: Option<Now>,
    served_elsewhere_at: Option<Now>,
    rejected: u64,
    /// The last Raft message that was refused, for the log.
    refused: Option<(NodeId, GroupId, Reject)>,
    chunks_dropped: u64,
}

impl Node {
    /// Opens the node's replicas: those of groups that the map on disk names.
    pub fn open(
        setup: NodeSetup,
        recovered: BTreeMap<GroupId, Recovered>,
        raft_config: RaftConfig,
        now: Now,
    ) -> Result<Node, OpenError> {
        let NodeSetup { id, bootstrap, addresses, kept, .. } = setup;
        let NodeSetup { epoch, seed, checkpoints, memory_max, .. } = setup;
        let witness = Witness::new(epoch, &recovered);
        let setup = ReplicaSetup { bootstrap: Arc::new(bootstrap), checkpoints };
        let mut opener = Opener { own: id, raft_config, recovered, setup, seed };
        let unwanted = opener.take_unwanted(&kept);
        let mut replicas = BTreeMap::new();
        for group in opener.missing(&kept, &replicas) {
            replicas.insert(group, opener.open(group, &kept, now)?);
        }
        let touched = replicas.keys().copied().collect();
        Ok(Node {
            id,
            frozen: BTreeSet::new(),
            checkpointing: None,
            checkpointed: GroupId(0),
            feed: MapFeed::new(id, Arc::clone(&kept.map)),
            keeper: Keeper::new(kept),
            comings: Comings::new(unwanted),
            views: Views::default(),
            opener,
            witness,
            failed: None,
            loopback: VecDeque::new(),
            addresses,
            replicas,
            health: Health::new(epoch),
            clocks: Clocks::default(),
            versions: Arc::default(),
            touched,
            appendable: BTreeMap::new(),
            turn: BTreeMap::new(),
            scratch: ReplicaOutput::default(),
            transfers: Transfers::default(),
            leaving: false,
            told_hand_over: false,
            memory_max,
            memory: MemoryUse::default(),
            counted: BTreeMap::new(),
            buffers: 0,
            disk: DiskRoom::default(),
            served_at: None,
            served_elsewhere_at: None,
            rejected: 0,
            refused: None,
            chunks_dropped: 0,
        })
    }

    /// Takes one input. What it causes is collected by the next `poll`.
    pub fn handle(&mut self, now: Now, wall: LogTime, input: Input, out: &mut Output) {
        match input {
            Input::Raft { from, envelope } => self.on_raft(now, from, envelope),
            Input::Requests { origin, batch } => self.requests(now, wall, origin, batch, out),
            Input::Persisted(tokens) => {
                self.health.persisted(&tokens);
                for (group, token) in tokens {
                    if let Some(replica) = self.replicas.get_mut(&group) {
                        replica.persisted(now, token, &mut self.scratch);
                        self.touched.insert(group);
                        self.collect(now, group, out);
                    }
                }
            }
            Input::Fetched { group, id, result } => {
                if let Some(replica) = self.replicas.get_mut(&group) {
                    replica.fetched(now, id, result);
                    self.touched.insert(group);
                }
            }
            Input::Heartbeat { from, heartbeat } => {
                self.rejected += u64::from(self.health.pairs.heard(now, from, heartbeat).is_err());
                self.pairs(now, out);
            }
            Input::Clock { from, clock } => self.clocks.heard(now, from, clock),
            Input::LinkUp { node, epoch, link, version } => {
                self.note_version(node, version);
                self.feed.link_up(now, node);
                self.health.pairs.link_up(now, node, epoch, link);
                out.witness.extend(self.witness.link_up(node).map(|message| (node, message)));
                self.pairs(now, out);
            }
            Input::LinkDown { node, refused } => {
                self.feed.link_down(node);
                self.health.pairs.link_down(now, node, refused);
                self.pairs(now, out);
            }
            Input::State { group, event } => self.on_state(now, group, event, out),
            Input::Chunk { from, chunk } => self.on_chunk(now, from, chunk, out),
            Input::Move { from, envelope } => {
                self.health.pairs.contact(now, from);
                if envelope.serves {
                    self.served_elsewhere_at = Some(now);
                }
                self.on_move(now, from, envelope, out);
            }
            Input::Map { from, message } => self.on_map(now, from, message, out),
            Input::Witness { from, message } => self.on_witness(from, message, out),
            Input::CheckpointWanted(group) => {
                if let Some(replica) = self.replicas.get_mut(&group) {
                    replica.want_checkpoint();
                    self.touched.insert(group);
                }
            }
            Input::Kept(number) => self.on_kept(number),
            Input::Forgotten(group) => self.on_forgotten(group),
            Input::Leave => self.leaving = true,
        }
    }

    fn note_version(&mut self, node: NodeId, version: u8) {
        if self.versions.get(&node) != Some(&version) {
            Arc::make_mut(&mut self.versions).insert(node, version);
            self.touched.extend(self.replicas.keys().copied());
        }
    }

    fn on_state(&mut self, now: Now, group: GroupId, event: StateEvent<Machine>, out: &mut Output) {
        if let Some(replica) = self.replicas.get_mut(&group) {
            replica.state_event(now, event, &mut self.scratch);
            self.touched.insert(group);
            self.collect(now, group, out);
        }
    }

    fn on_chunk(&mut self, now: Now, from: NodeId, chunk: SnapshotChunk, out: &mut Output) {
        self.health.pairs.contact(now, from);
        let group = chunk.group;
        let replica = self.replicas.get_mut(&group);
        if replica.is_some_and(|replica| replica.chunk(chunk, &mut self.scratch)) {
            self.collect(now, group, out);
        } else {
            self.chunks_dropped += 1;
        }
    }

    fn on_map(&mut self, now: Now, from: NodeId, message: MapMessage, out: &mut Output) {
        self.health.pairs.contact(now, from);
        if let MapMessage::Members(group, members) = message {
            return self.hear_members(group, *members);
        }
        let before = Arc::clone(self.feed.map());
        if self.feed.heard(now, from, message, &mut out.maps) {
            self.map_changed(now, &before, out);
        }
    }

    fn on_witness(&mut self, from: NodeId, message: WitnessMessage, out: &mut Output) {
        match message {
            WitnessMessage::Began { epoch, found } => {
                let answer = self.witness.peer_began(from, epoch, &found);
                out.witness.extend(answer.map(|answer| (from, answer)));
            }
            WitnessMessage::Promised { epoch, more } => {
                if let Some(older) = self.witness.promised(from, epoch, &more) {
                    self.failed = Some(ReplicaError::Older(older));
                }
            }
        }
    }

    fn on_raft(&mut self, now: Now, from: NodeId, envelope: RaftEnvelope) {
        self.health.pairs.contact(now, from);
        let Some(replica) = self.replicas.get_mut(&envelope.group) else {
            self.rejected += 1;
            return;
        };
        // Strangers may speak to a replica; only members are remembered, or they would have no bound.
        let promise =
            Promise::of(&envelope.message).filter(|_| replica.other_members().contains(&from));
        match replica.step(now, from, envelope.message) {
            Ok(()) => self.witness.hears(from, envelope.group, promise),
            Err(reject) => {
                self.rejected += 1;
                self.refused = Some((from, envelope.group, reject));
            }
        }
        self.touched.insert(envelope.group);
    }

    fn on_move(&mut self, now: Now, from: NodeId, envelope: MoveEnvelope, out: &mut Output) {
        let group = envelope.to;
        let Some(replica) = self.replicas.get_mut(&group) else {
            self.rejected += 1;
            return;
        };
        replica.on_move(now, from, envelope, &mut self.scratch);
        self.touched.insert(group);
        self.collect(now, group, out);
    }

    /// Collects what the pairs owe. Replicas are told before they see the next message: what a new
    /// link brings must not be taken for the old one's (R11).
    fn pairs(&mut self, now: Now, out: &mut Output) {
        let PairEffects { heartbeats, edges, .. } = self.health.take_effects();
        out.heartbeats.extend(heartbeats);
        for (peer, edge) in &edges {
            for (group, replica) in &mut self.replicas {
                if let Some(state) = told(*edge, *group) {
                    replica.liveness(now, *peer, state);
                    self.touched.insert(*group);
                }
            }
        }
        out.edges.extend(edges);
    }

    fn requests(
        &mut self,
        now: Now,
        wall: LogTime,
        origin: Origin,
        batch: RequestBatch,
        out: &mut Output,
    ) {
        let (group, map) = (batch.group, Arc::clone(self.feed.map()));
        let Some(replica) = self.replicas.get_mut(&group) else {
            let replies = out.replies.entry(origin).or_default();
            let answer = Answer::NotLeader { hint: None };
            replies
                .extend(batch.requests.iter().map(|r| Reply { id: r.id, answer: answer.clone() }));
            return;
        };
        let is_served =
            |request: &Request| matches!(request.body, RequestBody::Lane(_) | RequestBody::Read(_));
        if batch.requests.iter().any(is_served) {
            self.served_at = Some(now);
        }
        let wall = self.clocks.believed(now, wall, replica.other_members());
        for request in batch.requests {
            if let RequestBody::Transfer { to } = request.body {
                let wish = Wish { origin, id: request.id, to };
                let may_lead = self.health.pairs.may_lead(to);
                let begun = transfers::begin(now, replica, self.id, to, may_lead);
                if let Err(answer) = begun.and_then(|()| self.transfers.wait(group, wish)) {
                    out.replies.entry(origin).or_default().push(Reply { id: request.id, answer });
                }
                continue;
            }
            replica.request(wall, &map, origin, request, &mut self.scratch);
        }
        self.touched.insert(group);
        self.collect(now, group, out);
    }

    /// Lets due timers act, then collects what every touched replica owes.
    pub fn poll(&mut self, now: Now, wall: LogTime, out: &mut Output) -> Result<(), ReplicaError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        self.health.pass(now);
        self.pairs(now, out);
        self.hand_over(now, wall);
        for (group, replica) in &mut self.replicas {
            if replica.deadline().is_some_and(|deadline| deadline <= now) {
                replica.tick(now);
                self.touched.insert(*group);
            }
        }
        while let Some(envelope) = self.loopback.pop_front() {
            self.on_move(now, self.id, envelope, out);
        }
        let map = Arc::clone(self.feed.map());
        let serves = is_recent(now, self.served_at.max(self.served_elsewhere_at));
        for group in std::mem::take(&mut self.touched) {
            let room = self.room();
            let Some(replica) = self.replicas.get_mut(&group) else { continue };
            replica.set_room(room);
            replica.set_disk(self.disk);
            replica.set_serves(serves);
            replica.set_versions(&self.versions);
            let wall = self.clocks.believed(now, wall, replica.other_members());
            if replica.poll(now, wall, &map, &mut self.scratch)? {
                self.touched.insert(group);
                out.again = true;
            }
            let after = replica.memory();
            let before = self.counted.insert(group, after).unwrap_or_default();
            self.memory = self.memory.moved(before, after);
            self.collect(now, group, out);
        }
        if let Some(Machine::Master(master)) =
            self.replicas.get(&SHARDMASTER).and_then(Replica::machine)
            && self.feed.applied(master.map())
        {
            self.map_changed(now, &map, out);
            out.again = true;
        }
        self.settle_groups(now, wall, out)?;
        let leads = self.replicas.get(&SHARDMASTER).is_some_and(Replica::leads);
        self.feed.poll(now, leads, &mut out.maps);
        self.run_next_checkpoint(now, out);
        for (origin, reply) in self.transfers.ended(&self.replicas, self.id) {
            out.replies.entry(origin).or_default().push(reply);
        }
        out.view_changed = self.views.poll(now, out.view_changed);
        Ok(())
    }

    /// Bytes of memory that may be taken until the limit.
    fn room(&self) -> u64 {
        match self.memory_max {
            0 => u64::MAX,
            max => max.saturating_sub(self.memory().total()),
        }
    }

    /// What this node takes in memory, as of the last poll.
    pub fn memory(&self) -> MemoryUse {
        MemoryUse { buffers: self.buffers, ..self.memory }
    }

    /// What requests and replies take in buffers that only the host knows. Bytes; they count as memory.
    pub fn set_buffers(&mut self, bytes: u64) {
        self.buffers = bytes;
    }

    /// What the disk has left. To be told often; a checkpoint that waited for room is begun then.
    pub fn set_disk(&mut self, disk: DiskRoom) {
        let more = disk.free > self.disk.free || self.disk.low != disk.low;
        self.disk = disk;
        if more {
            self.touched.extend(self.replicas.keys().copied());
        }
    }

    /// One group's checkpoint is under way at a time: the disk makes one of them durable as fast as two.
    fn run_next_checkpoint(&mut self, now: Now, out: &mut Output) {
        if self.checkpointing.is_some() {
            return;
        }
        let after = (Bound::Excluded(self.checkpointed), Bound::Unbounded);
        let next = self.frozen.range(after).next().or_else(|| self.frozen.first()).copied();
        let Some(group) = next else { return };
        if let Some(replica) = self.replicas.get_mut(&group) {
            self.checkpointed = group;
            replica.run_checkpoint(&mut self.scratch);
            self.scratch.checkpoint_moved = true;
            // What is collected may be all of it.
            self.touched.insert(group);
            out.again = true;
            self.collect(now, group, out);
        }
    }

    /// A checkpoint waits for its turn, has had it, or is over.
    fn checkpoint_moved(&mut self, group: GroupId) {
        let replica = self.replicas.get(&group);
        match replica.is_some_and(Replica::checkpoint_waits) {
            true => self.frozen.insert(group),
            false => self.frozen.remove(&group),
        };
        if replica.is_some_and(Replica::checkpoint_runs) {
            self.checkpointing = Some(group);
        } else {
            self.checkpointing.take_if(|running| *running == group);
        }
    }

    fn collect(&mut self, now: Now, group: GroupId, out: &mut Output) {
        if std::mem::take(&mut self.scratch.checkpoint_moved) {
            self.checkpoint_moved(group);
        }
        // Writes behind an install take as long as that does, which says nothing of the disk.
        let installs = self.replicas.get(&group).is_some_and(Replica::is_installing);
        let from = &mut self.scratch;
        if !installs {
            from.writes.iter().for_each(|write| self.health.wrote(now, group, write));
        }
        if std::mem::take(&mut from.served) {
            self.served_at = Some(now);
        }
        out.state.extend(from.state.drain(..).map(|command| (group, command)));
        out.given_up.extend(from.given_up.take().map(|machine| (group, machine)));
        out.compact.extend(from.compact.take().map(|upto| (group, upto)));
        out.writes.extend(from.writes.drain(..).map(|write| (group, write)));
        from.messages.iter().for_each(|e| self.witness.says(e.to, group, &e.message));
        out.messages.extend(
            from.messages.drain(..).map(|e| (e.to, RaftEnvelope { group, message: e.message })),
        );
        for peer in from.appendable.drain(..) {
            self.appendable.entry(peer).or_default().insert(group);
            out.wake.insert(peer);
        }
        out.fetches.extend(from.fetches.drain(..).map(|fetch| (group, fetch)));
        for (to, envelope) in from.moves.drain(..) {
            if to == self.id {
                self.loopback.push_back(envelope);
                out.again = true;
            } else {
                // Of others it is not told on, or two of them would believe each other for ever.
                let serves = is_recent(now, self.served_at);
                out.moves.push((to, MoveEnvelope { serves, ..envelope }));
            }
        }
        for (origin, reply) in from.replies.drain(..) {
            out.replies.entry(origin).or_default().push(reply);
        }
        let members = from.members.take();
        let members_changed = std::mem::take(&mut from.members_changed);
        if (from.role.is_some() || members_changed)
            && let Some(replica) = self.replicas.get(&group)
        {
            self.health.led(group, replica.role(), replica.other_members());
            self.witness.members(group, replica.other_members());
        }
        if let Some(role) = from.role.take() {
            out.roles.push((group, role));
            out.view_changed = true;
        }
        if let Some(members) = members {
            self.tell_members(group, members, out);
            out.again = true;
        }
    }

    /// The next AppendEntries for a peer whose link can take `room` bytes; groups take turns. One
    /// larger than `room` goes alone.
    pub fn next_append(&mut self, now: Now, peer: NodeId, room: u64) -> Option<RaftEnvelope> {
        let groups = self.appendable.get_mut(&peer)?;
        loop {
            let start = self.turn.get(&peer).copied().unwrap_or_default();
            let group = groups.range(start..).next().or_else(|| groups.iter().next()).copied()?;
            self.turn.insert(peer, GroupId(group.0.saturating_add(1)));
            let replica = self.replicas.get_mut(&group)?;
            match replica.next_append(now, peer, room) {
                Some(message) => {
                    // What a pull changes (a window that is full now, a timer) shows at a poll.
                    self.touched.insert(group);
                    return Some(RaftEnvelope { group, message });
                }
                None => {
                    groups.remove(&group);
                }
            }
        }
    }

    /// When `poll` must be called next, if nothing else happens.
    pub fn deadline(&self) -> Option<Now> {
        let replicas = self.replicas.values().filter_map(Replica::deadline);
        let others = [self.feed.deadline(), self.keeper.deadline(), self.views.deadline()];
        replicas.chain(self.health.pairs.deadline()).chain(others.into_iter().flatten()).min()
    }

    /// What this node knows of the cluster.
    pub fn view(&self) -> ClusterView {
        let mut map = ClusterMap::clone(self.feed.map());
        map.config.nodes = self.nodes();
        let leaders = self.replicas.iter().map(|(group, r)| (*group, r.leader())).collect();
        ClusterView { map, leaders }
    }

    /// The last Raft message that was refused since this was asked: from whom, for which group, and why. No
    /// correct peer sends one, so the log should tell of it; how many there were is in the status.
    pub fn take_refused(&mut self) -> Option<(NodeId, GroupId, Reject)> {
        self.refused.take()
    }

    /// For INFO; the host adds what it alone knows.
    pub fn status(&self, now: Now) -> NodeStatus {
        let mut peers = self.health.status(now);
        for (peer, status) in &mut peers {
            status.clock_ahead_ms = self.clocks.ahead_ms(now, *peer);
        }
        let of_replica = |(group, replica): (&GroupId, &Replica)| {
            let log_time = replica.machine().map_or(LogTime(0), Machine::log_time);
            let log_time_ahead_ms = self.clocks.behind_ms(now, log_time);
            (*group, ReplicaStatus { log_time_ahead_ms, ..replica.status(now) })
        };
        NodeStatus {
            node: self.id,
            clock_off_ms: self.clocks.off_ms(now),
            memory: self.memory(),
            memory_max: self.memory_max,
            peers,
            sync_age_ms: self.health.sync_age(now) / 1_000_000,
            replicas: self.replicas.iter().map(of_replica).collect(),
            counters: vec![
                ("raft_messages_rejected", self.rejected),
                ("map_messages_refused", self.feed.refused()),
                ("map_version", self.feed.map().version),
                ("map_version_kept", self.keeper.durable().map.version),
                ("snapshot_chunks_dropped", self.chunks_dropped),
            ],
            ..NodeStatus::default()
        }
    }

    /// Whether no client waits for an answer.
    pub fn is_idle(&self) -> bool {
        self.transfers.is_empty() && self.replicas.values().all(Replica::is_idle)
    }

    /// The replica of a group, if one is here.
    pub fn replica(&self, group: GroupId) -> Option<&Replica> {
        self.replicas.get(&group)
    }

    /// Digests of the applied states that are here, per group (I4).
    pub fn digests(&self) -> BTreeMap<GroupId, u64> {
        self.replicas.iter().filter_map(|(group, r)| Some((*group, r.digest()?))).collect()
    }
}

/// Whether clients were served so lately that some may wait now.
fn is_recent(now: Now, served_at: Option<Now>) -> bool {
    served_at.is_some_and(|at| now < at.saturating_add(SERVED_NS))
}

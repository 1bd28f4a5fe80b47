//! The loop around one node's replicas: takes what came, decides, hands out what is owed.
//!
//! It lives on the node's `current_thread` runtime beside the client connections and the links. It
//! never waits for the disk: writes go to the files' own threads, which answer with events.

use crate::clock::{self, Clock};
use crate::disk::{Disk, Happened, Loaded};
use crate::kept_file::KeptWriter;
use crate::listener::{ConnId, Inbound, Known};
use crate::log_store::LogEvent;
use crate::snapshot_bytes::SnapshotBytes;
use crate::state_store::StateStoreEvent;
use crate::transport::{AppendSource, Transport};
use raft_core::effects::RoleChange;
use raft_core::node_pair::PairEdge;
use shard_core::disk_room::DiskRoom;
use shard_core::node::{Input, Node, Output};
use shard_core::replica::Origin;
use shard_core::wire::{NodeStatus, RaftEnvelope, ToNode, ToRouter};
use shard_core::{GroupId, NodeId};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Inputs taken in one turn: what came during the last turn is one batch, but no turn is endless.
const INPUTS_PER_TURN_MAX: usize = 1024;
/// Message batches that may wait for one router that does not read; beyond it the link is closed
/// and the router asks again on a new one.
const BACKLOG_MAX: usize = 4096;
/// How often the status for INFO is renewed.
const STATUS_EVERY: Duration = Duration::from_millis(100);
/// How long a stop waits for what is in flight.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// How long a stop waits for others to lead: a transfer takes a few round trips, or is given up
/// after an election timeout.
const HAND_OVER_MAX: Duration = Duration::from_secs(1);
/// How long a stop waits for the disk to take what it was given. A disk that is stuck may never do so.
const CLOSE_MAX: Duration = Duration::from_secs(15);
/// A wake-up later than this means that the thread was busy with something else, or the machine
/// stood still.
const STALL: Duration = Duration::from_millis(50);
/// Turns that other tasks of this thread get after a stall, to read what came meanwhile.
const TURNS_AFTER_STALL: usize = 3;
/// The origin of the router in this process; connections count from 1.
const LOCAL: Origin = Origin(0);

/// What the worker shares with the links' tasks on its thread.
pub struct Shared {
    node: RefCell<Node>,
    clock: Clock,
}

impl Shared {
    /// Wraps a node for its worker and its links.
    pub fn new(node: Node, clock: Clock) -> Rc<Shared> {
        Rc::new(Shared { node: RefCell::new(node), clock })
    }
}

impl AppendSource for Shared {
    fn next_append(&self, peer: NodeId, room: usize) -> Option<RaftEnvelope> {
        self.node.borrow_mut().next_append(self.clock.now(), peer, room as u64)
    }
}

/// The router in this process: two channels and no encoding.
pub struct LocalRouter {
    /// From the router.
    pub from: mpsc::Receiver<ToNode>,
    /// To the router.
    pub to: mpsc::Sender<ToRouter>,
    /// What INFO shows.
    pub status: watch::Sender<Arc<NodeStatus>>,
    /// Bytes in its buffers.
    pub buffers: Rc<dyn Fn() -> u64>,
}

/// What the disk reports, each by its own threads.
pub struct DiskEvents {
    /// The log.
    pub log: mpsc::Receiver<LogEvent>,
    /// The state.
    pub state: mpsc::Receiver<StateStoreEvent>,
    /// State machines that were loaded from snapshots.
    pub loaded: mpsc::Receiver<Loaded>,
    /// The map's file.
    pub kept: mpsc::Receiver<u64>,
}

/// Everything a worker is made of.
pub struct Parts {
    /// The replicas.
    pub shared: Rc<Shared>,
    /// Log and state.
    pub disk: Disk,
    /// What they report.
    pub disk_events: DiskEvents,
    /// What peers and routers send.
    pub inbox: mpsc::Receiver<Inbound>,
    /// What has come of snapshots.
    pub incoming: Arc<SnapshotBytes>,
    /// The links to peers.
    pub transport: Rc<Transport>,
    /// Writes what the node keeps of the cluster.
    pub kept: KeptWriter,
    /// Who may connect.
    pub known: Rc<Known>,
    /// The router in this process.
    pub local: LocalRouter,
    /// The port to which cluster-aware clients come, as they are told.
    pub cluster_port: Option<u16>,
    /// Whether a stop hands leaderships to other nodes first.
    pub hand_over: bool,
}

/// Why a worker ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Log or state cannot be written or read any more.
    #[error("{0}")]
    Disk(String),
    /// A replica cannot go on.
    #[error(transparent)]
    Replica(#[from] shard_core::replica::ReplicaError),
}

/// Runs until `shutdown`, then finishes what is in flight and closes the log.
pub async fn run(parts: Parts, shutdown: CancellationToken) -> Result<(), WorkerError> {
    let mut worker = Worker {
        shared: parts.shared,
        transport: parts.transport,
        disk: parts.disk,
        incoming: parts.incoming,
        kept: parts.kept,
        known: parts.known,
        happened: Vec::new(),
        local: parts.local.to,
        status: parts.local.status,
        buffers: parts.local.buffers,
        routers: BTreeMap::new(),
        output: Output::default(),
        status_due: Instant::now(),
        disk_room: DiskRoom::default(),
        hand_over: parts.hand_over,
        cluster_port: parts.cluster_port,
        peers_ports: BTreeMap::new(),
        peers_cut: BTreeSet::new(),
        replies_dropped: Cell::new(0),
        stalls: 0,
        peers_met: BTreeSet::new(),
        peers_lost: BTreeSet::new(),
    };
    let inlets = Inlets { local: parts.local.from, inbox: parts.inbox, disk: parts.disk_events };
    let result = worker.run(inlets, shutdown).await;
    let closed = close(worker.disk).map_err(WorkerError::Disk);
    result.and(closed)
}

/// Closes both files, by a thread of its own: nobody can take back what was asked of a stuck disk.
fn close(disk: Disk) -> Result<(), String> {
    let (done, closed) = std::sync::mpsc::channel();
    let close = move || {
        // Nobody listens any more if it took too long.
        let _ = done.send(disk.close());
    };
    let closing = std::thread::Builder::new().name("disk-close".to_owned()).spawn(close);
    let closing = closing.map_err(|error| format!("cannot start a thread to close: {error}"))?;
    match closed.recv_timeout(CLOSE_MAX) {
        Ok(closed) => closed,
        Err(RecvTimeoutError::Timeout) => Err(format!(
            "the disk has not taken what it was given within {} seconds of the stop, so the node ends without \
             that; what was answered is on it, and the next start goes on from there",
            CLOSE_MAX.as_secs()
        )),
        Err(RecvTimeoutError::Disconnected) => match closing.join() {
            Ok(()) => Ok(()),
            Err(panic) => std::panic::resume_unwind(panic),
        },
    }
}

/// A router's side of the worker: its channel, and what did not fit into it.
struct RouterLink {
    to: mpsc::Sender<ToRouter>,
    backlog: VecDeque<ToRouter>,
}

struct Worker {
    shared: Rc<Shared>,
    transport: Rc<Transport>,
    disk: Disk,
    incoming: Arc<SnapshotBytes>,
    kept: KeptWriter,
    known: Rc<Known>,
    /// Reused.
    happened: Vec<Happened>,
    local: mpsc::Sender<ToRouter>,
    status: watch::Sender<Arc<NodeStatus>>,
    buffers: Rc<dyn Fn() -> u64>,
    routers: BTreeMap<Origin, RouterLink>,
    output: Output,
    status_due: Instant,
    /// What the replicas know of it.
    disk_room: DiskRoom,
    hand_over: bool,
    cluster_port: Option<u16>,
    /// Of each peer the process that was heard last, and where its cluster-aware clients go.
    peers_ports: BTreeMap<NodeId, (u64, Option<u16>)>,
    /// Peers to which the link does not stand.
    peers_cut: BTreeSet<NodeId>,
    replies_dropped: Cell<u64>,
    stalls: u64,
    /// Peers that were up; and of them, those of which a loss was told.
    peers_met: BTreeSet<NodeId>,
    peers_lost: BTreeSet<NodeId>,
}

/// What woke the worker.
enum Wake {
    Inbound(Inbound),
    Local(ToNode),
    Log(LogEvent),
    State(StateStoreEvent),
    Loaded(Loaded),
    Kept(u64),
    Timer,
}

/// Where what wakes the worker comes from.
struct Inlets {
    local: mpsc::Receiver<ToNode>,
    inbox: mpsc::Receiver<Inbound>,
    disk: DiskEvents,
}

impl Inlets {
    /// The next to come. Durable writes first: they release acknowledgements others wait for.
    async fn next(
        &mut self,
        planned: Instant,
        shutdown: &CancellationToken,
        stopping: bool,
    ) -> Wake {
        tokio::select! {
            biased;
            Some(event) = self.disk.log.recv() => Wake::Log(event),
            Some(event) = self.disk.state.recv() => Wake::State(event),
            Some(loaded) = self.disk.loaded.recv() => Wake::Loaded(loaded),
            Some(number) = self.disk.kept.recv() => Wake::Kept(number),
            Some(inbound) = self.inbox.recv() => Wake::Inbound(inbound),
            Some(message) = self.local.recv() => Wake::Local(message),
            () = sleep_until(planned) => Wake::Timer,
            () = shutdown.cancelled(), if !stopping => Wake::Timer,
        }
    }

    /// What is there already.
    fn waiting(&mut self) -> Option<Wake> {
        let log = self.disk.log.try_recv().ok().map(Wake::Log);
        log.or_else(|| self.disk.state.try_recv().ok().map(Wake::State))
            .or_else(|| self.disk.loaded.try_recv().ok().map(Wake::Loaded))
            .or_else(|| self.disk.kept.try_recv().ok().map(Wake::Kept))
            .or_else(|| self.inbox.try_recv().ok().map(Wake::Inbound))
            .or_else(|| self.local.try_recv().ok().map(Wake::Local))
    }
}

impl Worker {
    async fn run(
        &mut self,
        mut inlets: Inlets,
        shutdown: CancellationToken,
    ) -> Result<(), WorkerError> {
        let local_link = RouterLink { to: self.local.clone(), backlog: VecDeque::new() };
        self.routers.insert(LOCAL, local_link);
        (self.output.view_changed, self.output.peers_changed) = (true, true);
        let mut stopping: Option<Instant> = None;
        let mut leaving = Instant::now();
        loop {
            self.turn()?;
            if shutdown.is_cancelled() && stopping.is_none() {
                stopping = Some(Instant::now() + DRAIN_MAX);
                if self.hand_over {
                    leaving = Instant::now() + HAND_OVER_MAX;
                    self.handle(Input::Leave);
                    self.turn()?;
                }
            }
            if let Some(until) = stopping
                && (self.is_done(leaving) || Instant::now() >= until)
            {
                return Ok(());
            }
            let wake = self.wait(&mut inlets, &shutdown, stopping.is_some()).await;
            self.take(wake)?;
            for _ in 0..INPUTS_PER_TURN_MAX {
                let Some(wake) = inlets.waiting() else { break };
                self.take(wake)?;
            }
        }
    }

    /// Until there is something to do.
    async fn wait(
        &mut self,
        inlets: &mut Inlets,
        shutdown: &CancellationToken,
        stopping: bool,
    ) -> Wake {
        if std::mem::take(&mut self.output.again) {
            // The links and connections of this thread get their turn between ours.
            tokio::task::yield_now().await;
            return Wake::Timer;
        }
        let planned = self.next_wake();
        // By the clock that counts the time of a suspended machine, too.
        let clock = self.shared.clock;
        let patience = planned.saturating_duration_since(Instant::now()) + STALL;
        let latest = clock.now() + patience.as_nanos() as u64;
        let wake = inlets.next(planned, shutdown, stopping).await;
        if clock.now() > latest {
            // A leader's heartbeats may lie unread in the sockets: without them a timer that is
            // overdue says nothing about the leader (scenario T6).
            self.stalls += 1;
            for _ in 0..TURNS_AFTER_STALL {
                tokio::task::yield_now().await;
            }
        }
        wake
    }

    /// Whether a stop may go on: no client waits, and others lead what this node led.
    fn is_done(&self, leaving: Instant) -> bool {
        let node = self.shared.node.borrow();
        node.is_idle() && (Instant::now() >= leaving || !node.has_leadership_to_hand_over())
    }

    fn next_wake(&self) -> Instant {
        let deadline = self.shared.node.borrow().deadline();
        let backlog = self.routers.values().any(|router| !router.backlog.is_empty());
        let timer = deadline.map(|at| Instant::from_std(self.shared.clock.instant(at)));
        let status =
            if backlog { Instant::now() + Duration::from_millis(1) } else { self.status_due };
        timer.map_or(status, |timer| timer.min(status))
    }

    fn take(&mut self, wake: Wake) -> Result<(), WorkerError> {
        match wake {
            Wake::Timer => {}
            Wake::Local(message) => self.take_message(LOCAL, message),
            Wake::Log(event) => self.on_disk(|disk, out| disk.on_log(event, out))?,
            Wake::State(event) => self.on_disk(|disk, out| disk.on_state(event, out))?,
            Wake::Loaded(loaded) => self.on_disk(|disk, out| disk.on_loaded(loaded, out))?,
            Wake::Kept(number) => self.handle(Input::Kept(number)),
            Wake::Inbound(inbound) => self.inbound(inbound),
        }
        Ok(())
    }

    /// Takes what the disk reports.
    fn on_disk(
        &mut self,
        take: impl FnOnce(&mut Disk, &mut Vec<Happened>) -> Result<(), String>,
    ) -> Result<(), WorkerError> {
        let mut happened = std::mem::take(&mut self.happened);
        take(&mut self.disk, &mut happened).map_err(WorkerError::Disk)?;
        for one in happened.drain(..) {
            match one {
                Happened::Input(input) => self.handle(input),
                Happened::Send(chunk) => self.transport.chunk(chunk.to, chunk.chunk),
            }
        }
        self.happened = happened;
        Ok(())
    }

    fn inbound(&mut self, inbound: Inbound) {
        match inbound {
            Inbound::Raft { from, envelope } => self.handle(Input::Raft { from, envelope }),
            Inbound::Heartbeat { from, heartbeat } => {
                self.handle(Input::Heartbeat { from, heartbeat });
            }
            Inbound::Clock { from, clock } => self.handle(Input::Clock { from, clock }),
            Inbound::Chunk { from, chunk } => self.handle(Input::Chunk { from, chunk }),
            Inbound::Move { from, envelope } => self.handle(Input::Move { from, envelope }),
            Inbound::Map { from, message } => self.handle(Input::Map { from, message }),
            Inbound::Witness { from, message } => self.handle(Input::Witness { from, message }),
            Inbound::PeerOpened { from, epoch } => self.peer_opened(from, epoch),
            Inbound::ClusterPort { from, port } => {
                if let Some((_, before)) = self.peers_ports.get_mut(&from) {
                    *before = Some(port);
                    self.status_due = Instant::now();
                }
            }
            Inbound::LinkUp { node, epoch, link, version } => {
                if self.peers_cut.remove(&node) {
                    self.status_due = Instant::now();
                }
                self.handle(Input::LinkUp { node, epoch, link, version });
            }
            Inbound::LinkDown { node, refused } => {
                if self.peers_cut.insert(node) {
                    self.status_due = Instant::now();
                }
                self.handle(Input::LinkDown { node, refused });
            }
            Inbound::RouterOpened { conn, replies } => {
                let view = ToRouter::View(Box::new(self.shared.node.borrow().view()));
                let link = RouterLink { to: replies, backlog: VecDeque::from([view]) };
                self.routers.insert(origin(conn), link);
                self.flush_router(origin(conn));
            }
            Inbound::FromRouter { conn, message } => self.take_message(origin(conn), message),
            Inbound::RouterClosed { conn } => {
                self.routers.remove(&origin(conn));
            }
        }
    }

    /// What a process before said of its ports does not count for one that has begun since.
    fn peer_opened(&mut self, from: NodeId, epoch: u64) {
        let (before, port) = self.peers_ports.entry(from).or_insert((epoch, None));
        if *before != epoch {
            (*before, *port) = (epoch, None);
            self.status_due = Instant::now();
        }
    }

    fn take_message(&mut self, origin: Origin, message: ToNode) {
        match message {
            ToNode::Requests(batch) => self.handle(Input::Requests { origin, batch }),
            ToNode::View => {
                let view = ToRouter::View(Box::new(self.shared.node.borrow().view()));
                self.reply(origin, view);
            }
            ToNode::Ping => self.reply(origin, ToRouter::Pong),
        }
    }

    fn handle(&mut self, input: Input) {
        let Shared { node, clock } = &*self.shared;
        node.borrow_mut().handle(clock.now(), clock::wall(), input, &mut self.output);
    }

    /// Collects what is owed and hands it out: the disk first, since it takes longest.
    fn turn(&mut self) -> Result<(), WorkerError> {
        self.look_at_disk();
        let Shared { node, clock } = &*self.shared;
        node.borrow_mut().poll(clock.now(), clock::wall(), &mut self.output)?;
        let mut out = std::mem::take(&mut self.output);
        if !out.writes.is_empty() {
            self.disk.submit(std::mem::take(&mut out.writes));
        }
        let answered = self.ask_states(&mut out);
        out.closed.drain(..).for_each(|replica| self.disk.drop_elsewhere(replica));
        for (group, base) in out.compact.drain(..) {
            self.disk.compact(group, base);
        }
        self.settle(&mut out);
        for (to, heartbeat) in out.heartbeats.drain(..) {
            self.transport.heartbeat(to, heartbeat);
        }
        for (to, message) in out.witness.drain(..) {
            self.transport.witness(to, message);
        }
        for (to, envelope) in out.messages.drain(..) {
            self.transport.send(to, envelope);
        }
        for (to, envelope) in out.moves.drain(..) {
            self.transport.moves(to, envelope);
        }
        for (to, message) in out.maps.drain(..) {
            self.transport.map(to, message);
        }
        for peer in std::mem::take(&mut out.wake) {
            self.transport.wake(peer);
        }
        for (group, fetch) in out.fetches.drain(..) {
            self.disk.fetch(group, fetch);
        }
        for (peer, edge) in out.edges.drain(..) {
            if matches!(edge, PairEdge::Down { .. }) {
                self.transport.drop_chunks(peer);
            }
            self.log_edge(peer, edge);
        }
        for (group, role) in out.roles.drain(..) {
            log_role(group, role);
        }
        for (origin, replies) in std::mem::take(&mut out.replies) {
            for message in ToRouter::replies(replies) {
                self.reply(origin, message);
            }
        }
        if std::mem::take(&mut out.view_changed) {
            let view = Box::new(self.shared.node.borrow().view());
            for origin in self.routers.keys().copied().collect::<Vec<_>>() {
                self.reply(origin, ToRouter::View(view.clone()));
            }
            self.status_due = Instant::now();
        }
        let behind = self.routers.iter().filter(|(_, router)| !router.backlog.is_empty());
        for origin in behind.map(|(origin, _)| *origin).collect::<Vec<_>>() {
            self.flush_router(origin);
        }
        self.publish_status();
        self.output = out;
        for input in answered {
            self.handle(input);
            self.output.again = true;
        }
        Ok(())
    }

    /// Asks the disk for what is owed of states. What is answered at once is returned.
    fn ask_states(&mut self, out: &mut Output) -> Vec<Input> {
        for (group, machine) in out.given_up.drain(..) {
            self.disk.give_up(group, machine);
        }
        let commands = out.state.drain(..);
        commands.filter_map(|(group, command)| self.disk.state(group, command)).collect()
    }

    /// Groups and nodes that come and go.
    fn settle(&mut self, out: &mut Output) {
        for (group, voted) in out.forget.drain(..) {
            match voted {
                false => info!(%group, "the group is gone, deleting what the disk has of it"),
                true => info!(%group, "this node has left the group, deleting all but its vote"),
            }
            self.disk.forget(group, voted);
        }
        if let Some((number, kept)) = out.keep.take() {
            self.kept.write(number, kept);
        }
        if std::mem::take(&mut out.peers_changed) {
            self.follow_map();
        }
    }

    /// Has links to the nodes of the map, and to no others.
    fn follow_map(&mut self) {
        let node = self.shared.node.borrow();
        let nodes = node.nodes();
        if !node.is_spare() {
            self.peers_ports.retain(|peer, _| nodes.contains_key(peer));
            self.peers_cut.retain(|peer| nodes.contains_key(peer));
        }
        self.known.set((!node.is_spare()).then(|| nodes.keys().copied().collect()));
        let peers = nodes.into_iter().map(|(node, addresses)| (node, addresses.peer));
        self.transport.set_peers(peers.collect());
    }

    /// Tells the replicas when there is more or less room than they know of.
    fn look_at_disk(&mut self) {
        let room = self.disk.space().room();
        if room == self.disk_room {
            return;
        }
        if room.low != self.disk_room.low {
            let free = room.free;
            match room.low {
                true => warn!(free, "little room on the disk: what may grow is refused"),
                false => info!(free, "enough room on the disk again"),
            }
            self.status_due = Instant::now();
        }
        self.disk_room = room;
        self.shared.node.borrow_mut().set_disk(room);
    }

    fn reply(&mut self, origin: Origin, message: ToRouter) {
        // A router that has gone needs no answer; its lanes are its own.
        let Some(router) = self.routers.get_mut(&origin) else { return };
        router.backlog.push_back(message);
        self.flush_router(origin);
    }

    fn flush_router(&mut self, origin: Origin) {
        let Some(router) = self.routers.get_mut(&origin) else { return };
        while let Some(message) = router.backlog.pop_front() {
            match router.to.try_send(message) {
                Ok(()) => {}
                Err(TrySendError::Full(message)) => {
                    router.backlog.push_front(message);
                    break;
                }
                Err(TrySendError::Closed(_)) => {
                    self.routers.remove(&origin);
                    return;
                }
            }
        }
        // Our own router shares this thread; what it has in flight is bounded there.
        if router.backlog.len() > BACKLOG_MAX && origin != LOCAL {
            warn!(router = origin.0, "router does not read its answers, closing its link");
            self.replies_dropped.set(self.replies_dropped.get() + router.backlog.len() as u64);
            self.routers.remove(&origin);
        }
    }

    /// That a peer is up is news only after it was lost, and that it is not only after it was up.
    fn log_edge(&mut self, peer: NodeId, edge: PairEdge) {
        // Clients are sent to peers by what is said of them.
        self.status_due = Instant::now();
        let met = self.peers_met.contains(&peer);
        match edge {
            PairEdge::Up { link, .. } => {
                self.peers_met.insert(peer);
                match self.peers_lost.remove(&peer) {
                    true => info!(%peer, link, "peer is up again"),
                    false => debug!(%peer, link, "peer is up"),
                }
                return;
            }
            PairEdge::Disowned { group, term } => {
                info!(%peer, %group, %term, "peer does not lead the group it was believed to lead");
                return;
            }
            PairEdge::Unbelieved { group, term } => {
                debug!(%peer, %group, %term, "peer does not know of this leader");
                return;
            }
            PairEdge::Deaf if met => warn!(%peer, "peer is heard, but does not hear this node"),
            PairEdge::Down { gone: false } if met => warn!(%peer, "peer is silent"),
            PairEdge::Down { gone: true } if met => warn!(%peer, "peer's process is gone"),
            PairEdge::DiskStalled => warn!(%peer, "peer's disk is stuck"),
            PairEdge::Deaf | PairEdge::Down { .. } => {
                debug!(%peer, ?edge, "peer has not been up yet");
                return;
            }
        }
        self.peers_lost.insert(peer);
    }

    fn publish_status(&mut self) {
        if Instant::now() < self.status_due {
            return;
        }
        self.status_due = Instant::now() + STATUS_EVERY;
        self.shared.node.borrow_mut().set_buffers((self.buffers)());
        // Once in a while, however many there are; the counter tells how many.
        if let Some((peer, group, reason)) = self.shared.node.borrow_mut().take_refused() {
            warn!(%peer, %group, %reason, "a peer's Raft message was refused");
        }
        let mut status = self.shared.node.borrow().status(self.shared.clock.now());
        let (log, state) = self.disk.stats();
        status.disk = self.disk.space().status();
        status.disk_cache_bytes = log.cache_bytes + state.cache_bytes;
        let (incoming, outgoing) = (&*self.incoming, self.disk.outgoing());
        status.snapshot_bytes = incoming.now() + outgoing.now();
        status.snapshot_bytes_peak = incoming.peak() + outgoing.peak();
        status.log_file_bytes = log.file_bytes;
        status.log_commits = log.commits;
        status.log_entries = log.entries;
        for (node, peer) in &mut status.peers {
            peer.cut = self.peers_cut.contains(node);
        }
        let said = self.peers_ports.iter().filter_map(|(node, (_, port))| Some((*node, (*port)?)));
        status.cluster_ports =
            said.chain(self.cluster_port.map(|own| (status.node, own))).collect();
        let links = self.transport.stats();
        status.counters.extend([
            ("raft_log_bytes", log.log_bytes),
            ("raft_log_live_bytes", log.live_bytes),
            ("raft_log_removed_batches", log.removed_blobs),
            ("raft_log_rewritten_groups", log.rewrites),
            ("state_file_bytes", state.file_bytes),
            ("state_live_bytes", state.live_bytes),
            ("state_checkpoints", state.checkpoints),
            ("state_checkpoint_last_us", state.last_checkpoint_us),
            ("state_rows_written", state.rows_written),
            ("snapshot_streams", state.streams),
            ("snapshot_bytes_sent", state.sent_bytes),
            ("snapshot_bytes_received", state.staged_bytes),
            ("snapshot_chunks_put_off", incoming.put_off() + outgoing.put_off()),
            ("raft_messages_sent", links.sent),
            ("raft_bytes_sent", links.sent_bytes),
            ("raft_messages_dropped", links.dropped),
            ("raft_links_opened", links.links),
        ]);
        status.counters.push(("worker_stalls", self.stalls));
        status.counters.push(("router_replies_dropped", self.replies_dropped.get()));
        let routers = self.routers.keys().filter(|origin| **origin != LOCAL).count();
        status.counters.push(("router_links", routers as u64));
        self.status.send_replace(Arc::new(status));
    }
}

fn origin(conn: ConnId) -> Origin {
    Origin(conn.0)
}

fn log_role(group: GroupId, change: RoleChange) {
    let RoleChange { role, term, leader } = change;
    match role {
        raft_core::effects::Role::Leader => info!(%group, %term, "became leader"),
        raft_core::effects::Role::Follower
        | raft_core::effects::Role::Candidate
        | raft_core::effects::Role::PreCandidate => {
            debug!(%group, %term, ?role, ?leader, "role changed");
        }
    }
}

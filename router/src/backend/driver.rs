//! Carries out what `dispatch` decides: one task that polls it, one per link, two for the node in this
//! process.

use super::sink::ReplySink;
use super::{Answered, BackendConfig, DispatchStats, GLANCE_MAX, LocalNode, Refusal, Target, Work};
use crate::dial::{DialError, dial, new_nonce};
use crate::dispatch::{Connection, Dispatch, LinkEvent, Now, Output, Ticket};
use crate::link::{self, LinkQueue};
use crate::meet::{Met, meet};
use shard_core::handshake::{Credentials, Nonce, Peer, Purpose, TOKEN_VERSION};
use shard_core::introduction::{FIELDS, Introduction};
use shard_core::slot::Slot;
use shard_core::wire::{ClusterView, NodeStatus, ToNode, ToRouter};
use shard_core::{GroupId, NodeId};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{spawn_local, yield_now};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

/// Messages of the node in this process taken in one go.
const LOCAL_MESSAGES_MAX: usize = 256;
/// A node that does not shake hands within this long is tried later. Far above a round trip, far
/// below a request's deadline.
const DIAL_TIMEOUT: Duration = Duration::from_millis(1_000);
/// The first wait before a node is dialled again; doubled with each failure.
const DIAL_BACKOFF_MIN: Duration = Duration::from_millis(20);
/// The longest wait.
const DIAL_BACKOFF_MAX: Duration = Duration::from_millis(500);

/// Who waits for a ticket. Tickets are places in here: each is answered once, so a place is used again
/// only after its answer.
#[derive(Debug, Default)]
struct Waiting {
    places: Vec<Option<(Weak<ReplySink>, u64)>>,
    free: Vec<usize>,
}

impl Waiting {
    fn add(&mut self, sink: &Rc<ReplySink>, tag: u64) -> Ticket {
        let entry = Some((Rc::downgrade(sink), tag));
        match self.free.pop() {
            Some(place) => {
                self.places[place] = entry;
                Ticket(place as u64)
            }
            None => {
                self.places.push(entry);
                Ticket(self.places.len() as u64 - 1)
            }
        }
    }

    fn take(&mut self, ticket: Ticket) -> Option<(Weak<ReplySink>, u64)> {
        let place = usize::try_from(ticket.0).ok()?;
        let entry = self.places.get_mut(place)?.take();
        if entry.is_some() {
            self.free.push(place);
        }
        entry
    }

    fn is_gone(&self, ticket: Ticket) -> bool {
        let entry = usize::try_from(ticket.0).ok().and_then(|place| self.places.get(place));
        match entry {
            Some(Some((sink, _))) => sink.upgrade().is_none_or(|sink| sink.is_closed()),
            _ => true,
        }
    }
}

/// The node in this process.
#[derive(Debug)]
struct Local {
    node: NodeId,
    to_node: mpsc::Sender<ToNode>,
    backlog: RefCell<VecDeque<ToNode>>,
    filled: Notify,
    status: watch::Receiver<Arc<NodeStatus>>,
}

/// How often a node could not be reached in a row.
#[derive(Debug, Default)]
struct Reach {
    failures: u32,
}

impl Reach {
    fn wait(&self) -> Duration {
        match self.failures {
            0 => Duration::ZERO,
            n => (DIAL_BACKOFF_MIN * (1 << (n - 1).min(8))).min(DIAL_BACKOFF_MAX),
        }
    }
}

/// What all tasks of a backend share.
#[derive(Debug)]
pub(super) struct Inner {
    dispatch: RefCell<Dispatch>,
    waiting: RefCell<Waiting>,
    local: Option<Local>,
    links: RefCell<BTreeMap<NodeId, Rc<LinkQueue>>>,
    reach: RefCell<BTreeMap<NodeId, Reach>>,
    credentials: Credentials,
    request_timeout: Duration,
    started: Instant,
    wake: Notify,
    sinks_gone: Cell<bool>,
    connections: Cell<u64>,
    invalid_seen: Cell<u64>,
}

/// Builds the shared state and spawns its tasks.
pub(super) fn start(config: BackendConfig, local: Option<LocalNode>) -> Rc<Inner> {
    let BackendConfig { request_timeout, credentials, bootstrap, bounds, seed } = config;
    let view = ClusterView::of_config(&bootstrap);
    let node = local.as_ref().map(|local| local.node);
    let (local, from_node) = match local {
        Some(LocalNode { node, to_node, from_node, status }) => {
            let backlog = RefCell::default();
            let local = Local { node, to_node, backlog, filled: Notify::new(), status };
            (Some(local), Some(from_node))
        }
        None => (None, None),
    };
    let inner = Rc::new(Inner {
        dispatch: RefCell::new(Dispatch::new(bounds, seed, view, node)),
        waiting: RefCell::default(),
        local,
        links: RefCell::default(),
        reach: RefCell::default(),
        credentials,
        request_timeout,
        started: Instant::now(),
        wake: Notify::new(),
        sinks_gone: Cell::new(false),
        connections: Cell::new(0),
        invalid_seen: Cell::new(0),
    });
    inner.dispatch.borrow_mut().watch_leaders();
    if let (Some(node), Some(from_node)) = (node, from_node) {
        inner.on_link(node, LinkEvent::Up);
        spawn_local(hear_local(inner.clone(), node, from_node));
        spawn_local(feed_local(inner.clone()));
    }
    spawn_local(drive(inner.clone()));
    inner
}

impl Inner {
    fn now(&self) -> Now {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    pub(super) fn submit(
        self: &Rc<Inner>,
        sink: &Rc<ReplySink>,
        tag: u64,
        target: Target,
        work: Work,
    ) {
        if sink.is_closed() {
            return;
        }
        let connection = sink.expect(|| {
            self.connections.set(self.connections.get() + 1);
            (Rc::downgrade(self), Connection(self.connections.get()))
        });
        if let Work::Meet { host, port } = work {
            return self.meet(sink, tag, host, port);
        }
        let ticket = self.waiting.borrow_mut().add(sink, tag);
        let now = self.now();
        let patience = sink.request_timeout().unwrap_or(self.request_timeout);
        let timeout = match &work {
            Work::Glance(_) => patience.min(GLANCE_MAX),
            Work::AwaitOwner { timeout_ms, .. } => Duration::from_millis(u64::from(*timeout_ms)),
            Work::Op(_)
            | Work::Query(_)
            | Work::Transfer(_)
            | Work::Master(_)
            | Work::Meet { .. } => patience,
        };
        let timeout = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        let deadline = now.saturating_add(timeout);
        self.dispatch.borrow_mut().submit(now, (connection, ticket), target, work, deadline);
        self.wake.notify_one();
    }

    /// Asks a stranger who it is: nothing that a group could answer.
    fn meet(self: &Rc<Inner>, sink: &Rc<ReplySink>, tag: u64, host: String, port: u16) {
        let (inner, sink) = (self.clone(), Rc::downgrade(sink));
        spawn_local(async move {
            let met = inner.meet_now(&host, port).await;
            if let Some(sink) = sink.upgrade() {
                sink.push(tag, Answered::Met(Box::new(met)));
            }
        });
    }

    pub(super) async fn meet_now(&self, host: &str, port: u16) -> Result<Met, String> {
        let view = self.view();
        let meeting = meet((&self.credentials, &view, self.node()), host, port);
        timeout(self.request_timeout, meeting).await.unwrap_or_else(|_| {
            Err(format!("ERR the node at {host}:{port} does not answer in time"))
        })
    }

    /// What the node in this process says of itself to whoever sent that number.
    pub(super) fn introduce(&self, nonce: &Nonce) -> Option<[String; FIELDS]> {
        let (node, view) = (self.node()?, self.view());
        let addresses = view.map.config.nodes.get(&node)?.clone();
        let member = !view.map.config.groups.is_empty();
        let cluster_id = self.credentials.cluster_id().to_owned();
        let introduction = Introduction { cluster_id, node, addresses, member };
        Some(introduction.fields(self.credentials.secret(), nonce))
    }

    pub(super) fn view(&self) -> Rc<ClusterView> {
        self.dispatch.borrow().view()
    }

    pub(super) fn leader_of(&self, slot: Slot) -> Option<(GroupId, NodeId)> {
        self.dispatch.borrow().leader_of(slot)
    }

    pub(super) fn led_groups(&self) -> BTreeSet<GroupId> {
        self.dispatch.borrow().led_groups()
    }

    pub(super) fn status(&self) -> Option<Arc<NodeStatus>> {
        self.local.as_ref().map(|local| local.status.borrow().clone())
    }

    pub(super) fn node(&self) -> Option<NodeId> {
        self.local.as_ref().map(|local| local.node)
    }

    pub(super) fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    pub(super) fn stats(&self) -> DispatchStats {
        self.dispatch.borrow().stats()
    }

    /// A sink with requests on their way was closed or dropped.
    pub(super) fn sink_gone(&self) {
        self.sinks_gone.set(true);
        self.wake.notify_one();
    }

    fn on_link(&self, node: NodeId, event: LinkEvent) {
        self.dispatch.borrow_mut().on_link(self.now(), node, event);
        self.wake.notify_one();
    }

    fn hear(&self, from: NodeId, message: ToRouter) {
        let now = self.now();
        match message {
            ToRouter::Replies(replies) => self.dispatch.borrow_mut().on_replies(now, replies),
            ToRouter::View(view) => {
                let news = view.map.version > self.view().map.version;
                if let Err(error) = if news { view.map.check() } else { Ok(()) } {
                    warn!(node = %from, %error, "a node's map of the cluster makes no sense, ignored");
                    return;
                }
                self.dispatch.borrow_mut().on_view(now, from, &view);
            }
            ToRouter::Pong => return,
        }
        self.wake.notify_one();
    }

    /// One turn: everything that was decided since the last one.
    fn turn(self: &Rc<Inner>, output: &mut Output) {
        if self.sinks_gone.replace(false) {
            self.abandon();
        }
        self.dispatch.borrow_mut().poll(self.now(), output);
        for (node, batch) in output.sends.drain(..) {
            self.send(node, ToNode::Requests(batch));
        }
        for node in output.ask_view.drain(..) {
            self.send(node, ToNode::View);
        }
        for node in output.open_links.drain(..) {
            self.open(node);
        }
        for (ticket, answer) in output.answers.drain(..) {
            self.deliver(ticket, answer);
        }
        let invalid = self.dispatch.borrow().stats().invalid;
        if self.invalid_seen.replace(invalid) < invalid {
            warn!(invalid, "a node calls requests of this router nonsense");
        }
    }

    fn deliver(&self, ticket: Ticket, answer: Answered) {
        let Some((sink, tag)) = self.waiting.borrow_mut().take(ticket) else { return };
        if let Answered::Refused(Refusal::Unknown { waited_ms }) = answer {
            debug!(waited_ms, "the outcome of a write is unknown");
        }
        if let Some(sink) = sink.upgrade() {
            sink.push(tag, answer);
        }
    }

    fn abandon(&self) {
        let mut waiting = self.waiting.borrow_mut();
        self.dispatch.borrow_mut().abandon(|ticket| waiting.is_gone(ticket));
        for place in 0..waiting.places.len() {
            let ticket = Ticket(place as u64);
            if waiting.is_gone(ticket) {
                waiting.take(ticket);
            }
        }
    }

    fn send(&self, node: NodeId, message: ToNode) {
        if let Some(local) = self.local.as_ref().filter(|local| local.node == node) {
            self.send_local(local, message);
        } else if let Some(queue) = self.links.borrow().get(&node) {
            queue.push(message);
        }
        // Else the link broke in this very turn, and what was in flight on it is sent again.
    }

    fn send_local(&self, local: &Local, message: ToNode) {
        let mut backlog = local.backlog.borrow_mut();
        if !backlog.is_empty() {
            return backlog.push_back(message);
        }
        match local.to_node.try_send(message) {
            Ok(()) => {}
            Err(TrySendError::Full(message)) => {
                backlog.push_back(message);
                local.filled.notify_one();
            }
            Err(TrySendError::Closed(_)) => self.on_link(local.node, LinkEvent::Down),
        }
    }

    fn open(self: &Rc<Inner>, node: NodeId) {
        let address = self.view().map.config.nodes.get(&node).map(|config| config.peer.clone());
        let is_local = self.local.as_ref().is_some_and(|local| local.node == node);
        match address.filter(|_| !is_local) {
            Some(address) => drop(spawn_local(hold_link(self.clone(), node, address))),
            // Nowhere to go: an unknown node, or the one in this process, which has stopped.
            None => self.on_link(node, LinkEvent::Down),
        }
    }
}

/// Polls `dispatch` once per turn of the runtime: connections that were ready submit first, so that
/// what came in together leaves together.
async fn drive(inner: Rc<Inner>) {
    let mut output = Output::default();
    let started = inner.started;
    loop {
        yield_now().await;
        inner.turn(&mut output);
        let deadline = inner.dispatch.borrow().deadline();
        match deadline.map(|deadline| started + Duration::from_nanos(deadline)) {
            Some(until) => tokio::select! {
                () = inner.wake.notified() => {}
                () = sleep_until(until) => {}
            },
            None => inner.wake.notified().await,
        }
    }
}

/// Takes what the node in this process says.
async fn hear_local(inner: Rc<Inner>, node: NodeId, mut from_node: mpsc::Receiver<ToRouter>) {
    let mut messages = Vec::new();
    while from_node.recv_many(&mut messages, LOCAL_MESSAGES_MAX).await > 0 {
        for message in messages.drain(..) {
            inner.hear(node, message);
        }
    }
    inner.on_link(node, LinkEvent::Down);
}

/// Gives the node in this process its requests. What waits is bounded by what `dispatch` lets be in
/// flight.
async fn feed_local(inner: Rc<Inner>) {
    let Some(local) = &inner.local else { return };
    loop {
        if local.backlog.borrow().is_empty() {
            local.filled.notified().await;
            continue;
        }
        // Taken out only when there is room: while something waits here, nothing may overtake it.
        let Ok(permit) = local.to_node.reserve().await else {
            return inner.on_link(local.node, LinkEvent::Down);
        };
        if let Some(message) = local.backlog.borrow_mut().pop_front() {
            permit.send(message);
        }
    }
}

/// Connects, or gives up early enough for another replica to be tried before a request's deadline.
async fn reach(inner: &Inner, node: NodeId, address: &str) -> Result<(TcpStream, Peer), DialError> {
    let nonce = new_nonce()?;
    let dialling = dial(address, &inner.credentials, None, Purpose::Router, Some(node), nonce);
    match timeout(DIAL_TIMEOUT, dialling).await {
        Ok(dialled) => dialled,
        Err(_) => Err(DialError::TimedOut),
    }
}

/// Opens a link and keeps it until it breaks.
async fn hold_link(inner: Rc<Inner>, node: NodeId, address: String) {
    let wait = inner.reach.borrow_mut().entry(node).or_default().wait();
    sleep(wait).await;
    match reach(&inner, node, &address).await {
        Ok((stream, Peer { version, .. })) => {
            info!(%node, address, version, "link open");
            inner.reach.borrow_mut().remove(&node);
            let queue = Rc::new(LinkQueue::new());
            inner.links.borrow_mut().insert(node, queue.clone());
            inner.on_link(
                node,
                match version >= TOKEN_VERSION {
                    true => LinkEvent::Up,
                    false => LinkEvent::UpToOlder,
                },
            );
            let hear = |message| inner.hear(node, message);
            let owes = |node| {
                let dispatch = inner.dispatch.borrow();
                dispatch.owes(node) || dispatch.listens_to(node)
            };
            let broken = link::run(node, stream, &queue, hear, owes).await;
            info!(%node, address, %broken, "link broken");
            inner.links.borrow_mut().remove(&node);
        }
        Err(error) => {
            let failures = {
                let mut reach = inner.reach.borrow_mut();
                let reach = reach.entry(node).or_default();
                reach.failures += 1;
                reach.failures
            };
            // Each is tried again soon; told at once, then ever more seldom.
            if failures.is_power_of_two() {
                warn!(%node, address, %error, failures, "node not reached");
            }
        }
    }
    inner.on_link(node, LinkEvent::Down);
}

//! Links to peers: this node's words to each of them, over connections that it dials.
//!
//! A link is two connections: *control* for heartbeats, votes, acknowledgements and small appends,
//! *bulk* for appends too big to go between heartbeats, and for snapshots. They stand and fall together: had only one
//! broken, the core would go on waiting for what was in it (rule R11). What peers say comes in over
//! connections that they dial ([`crate::listener`]).
//!
//! **Invariants.**
//! - Nothing here waits for anything but its own link: `send` and `wake` never do.
//! - What a link cannot take is dropped and counted. Raft asks again.
//! - Appends are pulled, when the socket can take them: they do not queue here.
//! - One write per wake-up, of at most about [`WRITE_BYTES_MAX`].

use crate::clock;
use crate::listener::{Inbound, LocalIdentity};
use crate::random;
use bytes::BytesMut;
use raft_core::message::Message;
use raft_core::node_pair::Heartbeat;
use raft_core::types::{EntryId, Term};
use router::dial::{DialError, dial};
use shard_core::checkpoint::SnapshotChunk;
use shard_core::codec::{WireFrame, encode_frame};
use shard_core::handshake::{CLOCK_VERSION, Credentials, Purpose};
use shard_core::map_feed::MapMessage;
use shard_core::migration::{MoveEnvelope, MoveMessage};
use shard_core::wire::RaftEnvelope;
use shard_core::witness::WitnessMessage;
use shard_core::{GroupId, NodeId};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// A write takes no further message once it has this many bytes, and a bigger append goes over the
/// bulk connection: what is written is what a heartbeat has to wait for (rule R27).
pub const WRITE_BYTES_MAX: usize = 256 << 10;
/// Messages that wait for one link. They are small; the core sends each again when it matters.
const QUEUE_MAX: usize = 8192;
/// Appends that wait for one bulk connection; at this bound none are pulled. Each group's are
/// bounded in bytes by the core's window, and they share their frames with its log.
const BULK_QUEUE_MAX: usize = 1024;
/// Pieces of snapshots and of slots that wait for one bulk connection. The core's window lets fewer leave.
const CHUNKS_MAX: usize = 256;
/// Bytes of snapshots that wait for it: a peer that does not read leaves the others half of what a node
/// may hold ([`crate::snapshot_bytes::OUTGOING_BYTES_MAX`]).
pub const CHUNK_BYTES_MAX: u64 = 4 << 20;
/// Pauses between attempts to reach a peer: from the first to the second, doubling.
const RETRY_MIN: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// An attempt that takes longer is given up: the next one has a new route to try, and a host that
/// comes back is found sooner than by the kernel's resends.
const DIAL_MAX: Duration = Duration::from_secs(2);
/// A link that stood this long was good: the pauses begin anew.
const GOOD_LINK: Duration = Duration::from_secs(1);

/// Where appends come from: the worker's groups.
pub trait AppendSource {
    /// An append for `peer` of at most `room` frame bytes, or a single entry that is larger. Called
    /// when its link is writable, never from inside `send` or `wake`.
    fn next_append(&self, peer: NodeId, room: usize) -> Option<RaftEnvelope>;
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransportStats {
    /// Messages written to a socket.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Messages dropped: no link, or its queue was full.
    pub dropped: u64,
    /// Links that came to stand.
    pub links: u64,
}

/// All links of a node. Dropping it ends them.
pub struct Transport {
    shared: Rc<Shared>,
    peers: RefCell<BTreeMap<NodeId, Peer>>,
}

struct Shared {
    node: NodeId,
    credentials: Credentials,
    source: Rc<dyn AppendSource>,
    inbox: mpsc::Sender<Inbound>,
    cluster_port: Option<u16>,
    next_link: Cell<u64>,
    sent: Cell<u64>,
    sent_bytes: Cell<u64>,
    dropped: Cell<u64>,
}

struct Peer {
    link: Rc<Link>,
    task: Option<JoinHandle<()>>,
}

impl Peer {
    /// Lets the link's task end by itself: it has a `LinkDown` to tell.
    fn end(&mut self) -> Option<JoinHandle<()>> {
        self.link.ended.cancel();
        self.task.take()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.end();
    }
}

/// The entries of one append.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Range {
    group: GroupId,
    /// The leader's: what an earlier term sent may be refused.
    term: Term,
    first: EntryId,
    last: EntryId,
}

/// What the worker's calls and the link's task share.
struct Link {
    node: NodeId,
    address: String,
    ended: CancellationToken,
    up: Cell<bool>,
    /// The peer knows what to make of this node's wall clock, which it hears with each heartbeat.
    tells_clock: Cell<bool>,
    /// The newest heartbeat, until it is written: before everything else, and never twice.
    heartbeat: RefCell<Option<Heartbeat>>,
    queue: RefCell<VecDeque<WireFrame>>,
    /// The core may have something to append.
    appendable: Cell<bool>,
    work: Notify,
    bulk: RefCell<VecDeque<RaftEnvelope>>,
    /// Pieces of snapshots and of slots that move: in turn with the big appends.
    chunks: RefCell<VecDeque<WireFrame>>,
    bulk_work: Notify,
    /// What is on its way through the bulk connection, in order.
    under_way: RefCell<VecDeque<Range>>,
}

impl Transport {
    /// With no links yet: [`Transport::set_peers`] begins them. `cluster_port` is what peers tell their
    /// cluster-aware clients of this node.
    pub fn start(
        local: LocalIdentity,
        source: Rc<dyn AppendSource>,
        inbox: mpsc::Sender<Inbound>,
        cluster_port: Option<u16>,
    ) -> Rc<Transport> {
        let shared = Shared {
            node: local.node,
            credentials: local.credentials(),
            source,
            inbox,
            cluster_port,
            next_link: Cell::new(1),
            sent: Cell::new(0),
            sent_bytes: Cell::new(0),
            dropped: Cell::new(0),
        };
        Rc::new(Transport { shared: Rc::new(shared), peers: RefCell::default() })
    }

    /// The link to a peer, while it stands.
    fn standing(&self, to: NodeId) -> Option<Rc<Link>> {
        let peers = self.peers.borrow();
        peers.get(&to).map(|peer| &peer.link).filter(|link| link.up.get()).cloned()
    }

    /// Queues a message. Dropped and counted if there is no link or too much waits.
    pub fn send(&self, to: NodeId, envelope: RaftEnvelope) {
        self.queue(to, WireFrame::Raft(envelope));
    }

    /// Queues what is said of a slot that moves: like a message, or, with rows, like a piece of a snapshot.
    pub fn moves(&self, to: NodeId, envelope: MoveEnvelope) {
        match envelope.message {
            MoveMessage::Chunk { .. } | MoveMessage::Part { .. } => {
                self.queue_bulk(to, WireFrame::Move(envelope))
            }
            _ => self.queue(to, WireFrame::Move(envelope)),
        }
    }

    /// Queues what is said of the shardmaster's map: like a message.
    pub fn map(&self, to: NodeId, message: MapMessage) {
        self.queue(to, WireFrame::Map(message));
    }

    /// Queues what is said of disks: like a message.
    pub fn witness(&self, to: NodeId, message: WitnessMessage) {
        self.queue(to, WireFrame::Witness(message));
    }

    fn queue(&self, to: NodeId, frame: WireFrame) {
        let Some(link) = self.standing(to).filter(|link| link.queue.borrow().len() < QUEUE_MAX)
        else {
            return count(&self.shared.dropped, 1);
        };
        link.queue.borrow_mut().push_back(frame);
        link.work.notify_one();
    }

    fn queue_bulk(&self, to: NodeId, frame: WireFrame) {
        let has_room = |link: &Rc<Link>| {
            let chunks = link.chunks.borrow();
            let bytes: u64 = chunks.iter().chain([&frame]).map(snapshot_bytes).sum();
            chunks.len() < CHUNKS_MAX && bytes <= CHUNK_BYTES_MAX
        };
        let Some(link) = self.standing(to).filter(has_room) else {
            return count(&self.shared.dropped, 1);
        };
        link.chunks.borrow_mut().push_back(frame);
        link.bulk_work.notify_one();
    }

    /// Sends a heartbeat before all else that waits. One that still waits is old news and goes.
    pub fn heartbeat(&self, to: NodeId, heartbeat: Heartbeat) {
        let Some(link) = self.standing(to) else { return count(&self.shared.dropped, 1) };
        if link.heartbeat.replace(Some(heartbeat)).is_some() {
            count(&self.shared.dropped, 1);
        }
        link.work.notify_one();
    }

    /// Queues a piece of a snapshot. Dropped and counted like a message: the stream goes on where it
    /// was, after a while.
    pub fn chunk(&self, to: NodeId, chunk: SnapshotChunk) {
        self.queue_bulk(to, WireFrame::Chunk(chunk));
    }

    /// Lets go what waits of snapshots for a peer that is not heard any more: its link may stand for long,
    /// and others need the room. It is counted as dropped.
    pub fn drop_chunks(&self, to: NodeId) {
        let Some(link) = self.standing(to) else { return };
        let mut chunks = link.chunks.borrow_mut();
        let before = chunks.len();
        chunks.retain(|frame| snapshot_bytes(frame) == 0);
        count(&self.shared.dropped, (before - chunks.len()) as u64);
    }

    /// Says that `next_append` may yield something for the peer.
    pub fn wake(&self, peer: NodeId) {
        if let Some(peer) = self.peers.borrow().get(&peer) {
            peer.link.appendable.set(true);
            peer.link.work.notify_one();
        }
    }

    /// Dials new peers and new addresses (`host:port`), and ends the links to those that are gone. Must be called
    /// inside a `LocalSet`.
    pub fn set_peers(&self, peers: BTreeMap<NodeId, String>) {
        let mut before = std::mem::take(&mut *self.peers.borrow_mut());
        let mut after = BTreeMap::new();
        for (node, address) in peers {
            if node == self.shared.node {
                continue;
            }
            let peer = match before.remove(&node) {
                Some(peer) if peer.link.address == address => peer,
                replaced => self.begin(node, address, replaced),
            };
            after.insert(node, peer);
        }
        *self.peers.borrow_mut() = after;
    }

    /// Begins a link. One that it replaces ends first, so its `LinkDown` comes before our `LinkUp`.
    fn begin(&self, node: NodeId, address: String, replaced: Option<Peer>) -> Peer {
        let link = Rc::new(Link::new(node, address));
        let (shared, running) = (self.shared.clone(), link.clone());
        let task = spawn_local(async move {
            if let Some(mut replaced) = replaced
                && let Some(task) = replaced.end()
            {
                let _ = task.await;
            }
            run(&shared, &running).await;
        });
        Peer { link, task: Some(task) }
    }

    /// Counters since the start.
    pub fn stats(&self) -> TransportStats {
        TransportStats {
            sent: self.shared.sent.get(),
            sent_bytes: self.shared.sent_bytes.get(),
            dropped: self.shared.dropped.get(),
            links: self.shared.next_link.get() - 1,
        }
    }
}

impl Link {
    fn new(node: NodeId, address: String) -> Link {
        Link {
            node,
            address,
            ended: CancellationToken::new(),
            up: Cell::new(false),
            tells_clock: Cell::new(false),
            heartbeat: RefCell::default(),
            queue: RefCell::default(),
            appendable: Cell::new(false),
            work: Notify::new(),
            bulk: RefCell::default(),
            chunks: RefCell::default(),
            bulk_work: Notify::new(),
            under_way: RefCell::default(),
        }
    }

    /// Forgets what waited for a link that is gone: it may be old news on the next one.
    fn reset(&self) {
        self.up.set(false);
        self.heartbeat.take();
        self.queue.borrow_mut().clear();
        self.bulk.borrow_mut().clear();
        self.chunks.borrow_mut().clear();
        self.under_way.borrow_mut().clear();
    }

    /// The next bytes for the control connection, appended to `buffer`: first what waits, heartbeats
    /// before all, then appends while there is room.
    fn fill(&self, shared: &Shared, buffer: &mut BytesMut) {
        if let Some(heartbeat) = self.heartbeat.take() {
            encode(shared, &WireFrame::Heartbeat(heartbeat), buffer);
            if self.tells_clock.get() {
                encode(shared, &WireFrame::Clock(clock::wall()), buffer);
            }
        }
        while buffer.len() < WRITE_BYTES_MAX {
            let Some(frame) = self.queue.borrow_mut().pop_front() else { break };
            encode(shared, &frame, buffer);
        }
        while self.appendable.get()
            && buffer.len() < WRITE_BYTES_MAX
            && self.under_way.borrow().len() < BULK_QUEUE_MAX
        {
            match shared.source.next_append(self.node, WRITE_BYTES_MAX - buffer.len()) {
                Some(envelope) => self.route(shared, envelope, buffer),
                None => self.appendable.set(false),
            }
        }
    }

    /// Big appends go through the bulk connection, and so do those behind them in their group: one
    /// that overtakes another is refused and sent again. So may a big one be while it is under way
    /// (a heartbeat is refused since it names an entry that is not there yet): on this link that
    /// copy is of no use.
    fn route(&self, shared: &Shared, envelope: RaftEnvelope, buffer: &mut BytesMut) {
        let Some((range, bytes)) = entries_of(&envelope) else {
            return encode(shared, &WireFrame::Raft(envelope), buffer);
        };
        let mut under_way = self.under_way.borrow_mut();
        if under_way.contains(&range) {
            count(&shared.dropped, 1);
        } else if bytes > WRITE_BYTES_MAX || under_way.iter().any(|at| at.group == range.group) {
            under_way.push_back(range);
            self.bulk.borrow_mut().push_back(envelope);
            self.bulk_work.notify_one();
        } else {
            encode(shared, &WireFrame::Raft(envelope), buffer);
        }
    }

    /// The first append under way is through.
    fn bulk_done(&self) {
        self.under_way.borrow_mut().pop_front();
        // Pulling may have stopped for it.
        self.appendable.set(true);
        self.work.notify_one();
    }
}

/// What an append brings, with its frame bytes; `None` for any other message.
fn entries_of(envelope: &RaftEnvelope) -> Option<(Range, usize)> {
    let Message::AppendEntries(request) = &envelope.message else { return None };
    let (first, last) = (request.entries.first()?.id, request.entries.last()?.id);
    let bytes = request.entries.iter().map(|entry| entry.frame.len()).sum();
    Some((Range { group: envelope.group, term: request.term, first, last }, bytes))
}

fn count(counter: &Cell<u64>, more: u64) {
    counter.set(counter.get() + more);
}

fn encode(shared: &Shared, frame: &WireFrame, buffer: &mut BytesMut) {
    let before = buffer.len();
    encode_frame(frame, buffer);
    // A clock goes along with a heartbeat: they are one message.
    count(&shared.sent, u64::from(!matches!(frame, WireFrame::Clock(_))));
    count(&shared.sent_bytes, (buffer.len() - before) as u64);
}

/// How often the same reason for having no link is told.
const COMPLAIN_EVERY: Duration = Duration::from_secs(30);

/// Keeps a link to one peer until it is ended.
async fn run(shared: &Shared, link: &Link) {
    let mut pause = RETRY_MIN;
    let mut complaint: Option<(String, Instant)> = None;
    let mut lost = false;
    loop {
        let dialed = tokio::select! {
            () = link.ended.cancelled() => return,
            dialed = dial_both(shared, link) => dialed,
        };
        match dialed {
            Ok(streams) => {
                let began = Instant::now();
                complaint = None;
                // The first link of a start that goes well is no news.
                match std::mem::replace(&mut lost, true) {
                    true => info!(peer = %link.node, "link is back"),
                    false => debug!(peer = %link.node, "link stands"),
                }
                if !stand(shared, link, streams).await {
                    return;
                }
                if began.elapsed() >= GOOD_LINK {
                    pause = RETRY_MIN;
                }
            }
            Err(error) => {
                lost = true;
                // What to make of it is for the worker, who knows what else was heard.
                let refused = is_refusal(&error);
                let _ = shared.inbox.send(Inbound::LinkDown { node: link.node, refused }).await;
                // A peer that is away is tried for ever: told at once, and again now and then.
                let text = error.to_string();
                let told = |(before, at): &(String, Instant)| {
                    *before == text && at.elapsed() < COMPLAIN_EVERY
                };
                if !complaint.as_ref().is_some_and(told) {
                    warn!(peer = %link.node, address = link.address, error = text, "no link");
                    complaint = Some((text, Instant::now()));
                }
            }
        }
        tokio::select! {
            () = link.ended.cancelled() => return,
            () = sleep(jittered(pause)) => {}
        }
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// Whether the peer's machine says that nobody listens there.
fn is_refusal(error: &DialError) -> bool {
    match error {
        DialError::Io(error) => error.kind() == io::ErrorKind::ConnectionRefused,
        DialError::TimedOut | DialError::Handshake(_) => false,
    }
}

/// Half of the pause to all of it, so that peers that lost each other do not meet in step.
fn jittered(pause: Duration) -> Duration {
    let draw = random::number().unwrap_or_default();
    pause / 2 + (pause / 2).mul_f64(draw as f64 / u64::MAX as f64)
}

struct Streams {
    control: TcpStream,
    bulk: TcpStream,
    epoch: u64,
    version: u8,
}

async fn dial_both(shared: &Shared, link: &Link) -> Result<Streams, DialError> {
    let one = async |purpose| {
        let (node, expected) = (Some(shared.node), Some(link.node));
        let nonce = random::bytes()?;
        dial(&link.address, &shared.credentials, node, purpose, expected, nonce).await
    };
    let both = async { tokio::try_join!(one(Purpose::Control), one(Purpose::Bulk)) };
    let ((control, first), (bulk, second)) =
        timeout(DIAL_MAX, both).await.map_err(|_| DialError::TimedOut)??;
    if first.epoch != second.epoch {
        return Err(io::Error::other("the peer restarted meanwhile").into());
    }
    let version = first.version.min(second.version);
    Ok(Streams { control, bulk, epoch: first.epoch, version })
}

/// A link from its handshake to its end. False: it is not to be tried again.
async fn stand(shared: &Shared, link: &Link, streams: Streams) -> bool {
    let number = shared.next_link.replace(shared.next_link.get() + 1);
    let (node, epoch) = (link.node, streams.epoch);
    let (mut control_read, mut control) = streams.control.into_split();
    let (mut bulk_read, mut bulk) = streams.bulk.into_split();
    link.up.set(true);
    link.tells_clock.set(streams.version >= CLOCK_VERSION);
    // Before any message: who is elected by it has heard of the time.
    let clock = link.tells_clock.get().then(|| WireFrame::Clock(clock::wall()));
    let port = shared.cluster_port.map(WireFrame::ClusterPort);
    link.queue.borrow_mut().extend(clock.into_iter().chain(port));
    let up = Inbound::LinkUp { node, epoch, link: number, version: streams.version };
    if shared.inbox.send(up).await.is_err() {
        return false;
    }
    let ended = tokio::select! {
        () = link.ended.cancelled() => None,
        error = write_control(shared, link, &mut control) => Some(error),
        error = write_bulk(shared, link, &mut bulk) => Some(error),
        error = until_closed(&mut control_read) => Some(error),
        error = until_closed(&mut bulk_read) => Some(error),
    };
    link.reset();
    if let Some(error) = &ended {
        warn!(peer = %node, link = number, %error, "link broke");
    }
    let down = Inbound::LinkDown { node, refused: false };
    shared.inbox.send(down).await.is_ok() && ended.is_some()
}

async fn write_control(shared: &Shared, link: &Link, to: &mut OwnedWriteHalf) -> io::Error {
    let mut buffer = BytesMut::with_capacity(WRITE_BYTES_MAX);
    loop {
        link.fill(shared, &mut buffer);
        if buffer.is_empty() {
            link.work.notified().await;
        } else if let Err(error) = to.write_all(&buffer).await {
            return error;
        }
        buffer.clear();
    }
}

/// Big appends and pieces of snapshots in turn.
async fn write_bulk(shared: &Shared, link: &Link, to: &mut OwnedWriteHalf) -> io::Error {
    loop {
        let envelope = link.bulk.borrow_mut().pop_front();
        let appends = envelope.is_some();
        let chunk = link.chunks.borrow_mut().pop_front();
        if !appends && chunk.is_none() {
            link.bulk_work.notified().await;
            continue;
        }
        let frames = envelope.map(WireFrame::Raft).into_iter().chain(chunk);
        // Not kept: such a buffer is as big as the entry.
        let mut buffer = BytesMut::new();
        frames.for_each(|frame| encode(shared, &frame, &mut buffer));
        if let Err(error) = to.write_all(&buffer).await {
            return error;
        }
        if appends {
            link.bulk_done();
        }
    }
}

/// Of a snapshot in a frame.
fn snapshot_bytes(frame: &WireFrame) -> u64 {
    match frame {
        WireFrame::Chunk(chunk) => chunk.bytes.len() as u64,
        WireFrame::Raft(_)
        | WireFrame::Heartbeat(_)
        | WireFrame::Move(_)
        | WireFrame::Map(_)
        | WireFrame::Witness(_)
        | WireFrame::ClusterPort(_)
        | WireFrame::Clock(_)
        | WireFrame::ToNode(_)
        | WireFrame::ToRouter(_) => 0,
    }
}

/// A peer says nothing on a connection that we dialed: whatever comes is its end.
async fn until_closed(from: &mut OwnedReadHalf) -> io::Error {
    let mut byte = [0; 1];
    match from.read(&mut byte).await {
        Ok(0) => io::Error::from(io::ErrorKind::UnexpectedEof),
        Ok(_) => io::Error::other("the peer answered where it should not"),
        Err(error) => error,
    }
}

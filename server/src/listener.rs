//! The peer port: accepts other nodes and routers, proves who they are, and hands on what they say.
//!
//! **Invariants.**
//! - Before the handshake is through, a connection costs one small task and at most 1 KiB of memory,
//!   and nothing it says has any effect. What does not begin like our handshake is closed without
//!   an answer (scenario B97).
//! - A frame's length is checked before memory is taken for it, and its checksum before it is read
//!   (scenario B99). A bad frame closes its connection, nothing else.
//! - Of one node there is one control and one bulk connection: a new one replaces the one before,
//!   so a half-dead connection does not outlive the peer's restart.
//! - When the worker's inbox is full, sockets are not read: TCP slows the sender. One connection that
//!   is not read by its other end blocks only itself.

use crate::random;
use crate::snapshot_bytes::SnapshotBytes;
use bytes::{Buf, BytesMut};
use raft_core::node_pair::Heartbeat;
use router::dial::{DialError, read_message, set_options};
use shard_core::NodeId;
use shard_core::checkpoint::SnapshotChunk;
use shard_core::codec::{CodecError, WIRE_FRAME_BYTES_MAX, WireFrame, decode_frame, encode_frame};
use shard_core::handshake::{
    Credentials, HANDSHAKE_TIMEOUT_MS, HandshakeError, Listener, Peer, Purpose, RefuseReason,
    Secret, refusal,
};
use shard_core::map_feed::MapMessage;
use shard_core::migration::MoveEnvelope;
use shard_core::session::LogTime;
use shard_core::wire::{RaftEnvelope, ToNode, ToRouter};
use shard_core::witness::WitnessMessage;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Connections beyond this are closed at once.
pub const CONNECTIONS_MAX: usize = 16_384;
/// Of these, how many may be in their handshake.
const HANDSHAKES_MAX: usize = 512;
/// Message batches for one router that wait to be written; the worker sees when it is full.
const ROUTER_REPLIES_MAX: usize = 1024;
/// A write to a router takes no further message once it has this many bytes.
const WRITE_BYTES_MAX: usize = 256 << 10;
/// How much a read asks for, and how much buffer an idle connection keeps.
const READ_BYTES: usize = 64 << 10;
/// After an error of accept itself (no file descriptors left, for one).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Of refused connections one line is logged in this time, with how many there were.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// Names one connection of a router, from 1; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// What comes in from peers and routers, for the worker.
#[derive(Debug)]
pub enum Inbound {
    /// A peer says something to a replica.
    Raft {
        /// The peer, proved.
        from: NodeId,
        /// What it says.
        envelope: RaftEnvelope,
    },
    /// A peer's node vouches for itself.
    Heartbeat {
        /// The peer, proved.
        from: NodeId,
        /// What it says.
        heartbeat: Heartbeat,
    },
    /// A group on a peer says something of a slot that moves.
    Move {
        /// The peer, proved.
        from: NodeId,
        /// What it says.
        envelope: MoveEnvelope,
    },
    /// A peer says something of the shardmaster's map.
    Map {
        /// The peer, proved.
        from: NodeId,
        /// What it says.
        message: MapMessage,
    },
    /// A peer says something of what its disk or this one must have.
    Witness {
        /// The peer, proved.
        from: NodeId,
        /// What it says.
        message: WitnessMessage,
    },
    /// A peer's process is heard, perhaps for the first time.
    PeerOpened {
        /// The peer, proved.
        from: NodeId,
        /// Its process.
        epoch: u64,
    },
    /// A peer says what its wall clock shows.
    Clock {
        /// The peer, proved.
        from: NodeId,
        /// Milliseconds since 1970.
        clock: LogTime,
    },
    /// A peer says to which of its ports cluster-aware clients come.
    ClusterPort {
        /// The peer, proved.
        from: NodeId,
        /// The port.
        port: u16,
    },
    /// A peer sends a piece of a snapshot.
    Chunk {
        /// The peer, proved.
        from: NodeId,
        /// The piece.
        chunk: SnapshotChunk,
    },
    /// A link to a peer stands: what is sent from now on may arrive.
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
    /// The link to a peer is gone, with what was on it, or an attempt to have one again failed.
    LinkDown {
        /// The peer.
        node: NodeId,
        /// The attempt was refused: nothing listens at its address.
        refused: bool,
    },
    /// A router connected.
    RouterOpened {
        /// Its connection.
        conn: ConnId,
        /// What it is to be told; dropping this closes the connection.
        replies: mpsc::Sender<ToRouter>,
    },
    /// A router asks.
    FromRouter {
        /// Its connection.
        conn: ConnId,
        /// What.
        message: ToNode,
    },
    /// A router's connection is gone.
    RouterClosed {
        /// Its connection.
        conn: ConnId,
    },
}

/// Who this process is towards peers.
#[derive(Clone, Debug)]
pub struct LocalIdentity {
    /// The node.
    pub node: NodeId,
    /// Drawn at random once per process start.
    pub epoch: u64,
    /// The cluster; 1 to 255 bytes.
    pub cluster_id: String,
    /// What every process of the cluster knows.
    pub secret: Secret,
}

impl LocalIdentity {
    /// For handshakes.
    ///
    /// # Panics
    /// If the cluster id has an impossible length, which the configuration has to refuse.
    pub fn credentials(&self) -> Credentials {
        Credentials::new(self.cluster_id.clone(), self.secret.clone(), self.epoch)
            .expect("the configuration has checked the cluster id")
    }
}

/// Who may connect, and the connections that stand.
#[derive(Debug, Default)]
pub struct Known {
    /// `None`: any node that proves the secret, since no cluster is known yet.
    nodes: RefCell<Option<BTreeSet<NodeId>>>,
    /// The one connection of each node and kind; cancelling ends it.
    current: RefCell<BTreeMap<(NodeId, bool), CancellationToken>>,
}

impl Known {
    /// These and no others, or all. The connections of those that are gone end.
    pub fn set(&self, nodes: Option<BTreeSet<NodeId>>) {
        if let Some(nodes) = &nodes {
            self.current.borrow_mut().retain(|(node, _), connection| {
                let stays = nodes.contains(node);
                if !stays {
                    connection.cancel();
                }
                stays
            });
        }
        *self.nodes.borrow_mut() = nodes;
    }

    fn has(&self, node: NodeId) -> bool {
        self.nodes.borrow().as_ref().is_none_or(|nodes| nodes.contains(&node))
    }
}

/// Accepts until `shutdown`, then waits for the connections to end: each does when the worker drops
/// its inbox, or the router's replies. `known` says which nodes are the cluster's.
pub async fn listen(
    listener: TcpListener,
    local: LocalIdentity,
    known: Rc<Known>,
    inbox: mpsc::Sender<Inbound>,
    snapshots: Arc<SnapshotBytes>,
    shutdown: CancellationToken,
) {
    let shared = Rc::new(Shared {
        credentials: local.credentials(),
        node: local.node,
        known,
        inbox,
        snapshots,
        handshakes: Cell::new(0),
        next_conn: Cell::new(1),
        log: RateLimit::default(),
    });
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Err(error) => {
                shared.log.warn(&"the peer port", &error);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            Ok((_, address)) if connections.len() >= CONNECTIONS_MAX => {
                shared.log.warn(&address, &"too many connections");
            }
            Ok((_, address)) if shared.handshakes.get() >= HANDSHAKES_MAX => {
                shared.log.warn(&address, &"too many handshakes");
            }
            Ok((stream, address)) => {
                connections.spawn_local(connection(shared.clone(), stream, address));
            }
        }
    }
    drop(listener);
    drop(shared);
    while connections.join_next().await.is_some() {}
}

struct Shared {
    credentials: Credentials,
    node: NodeId,
    known: Rc<Known>,
    inbox: mpsc::Sender<Inbound>,
    snapshots: Arc<SnapshotBytes>,
    handshakes: Cell<usize>,
    next_conn: Cell<u64>,
    log: RateLimit,
}

impl Shared {
    /// The piece in memory of its own, which counts; `None` if there is no room for it.
    fn hold(&self, chunk: SnapshotChunk) -> Option<SnapshotChunk> {
        let copy = || Ok::<_, Infallible>(chunk.bytes.to_vec());
        let Ok(held) = self.snapshots.hold(chunk.bytes.len(), copy);
        Some(SnapshotChunk { bytes: held?, ..chunk })
    }
}

/// Why a connection ended, other than by its end.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error("a frame that does not belong on this connection")]
    WrongFrame,
}

async fn connection(shared: Rc<Shared>, mut stream: TcpStream, address: SocketAddr) {
    shared.handshakes.set(shared.handshakes.get() + 1);
    let limit = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
    let proved = timeout(limit, handshake(&shared, &mut stream)).await;
    shared.handshakes.set(shared.handshakes.get() - 1);
    let peer = match proved {
        Ok(Ok(peer)) => peer,
        Ok(Err(error)) => return shared.log.warn(&address, &error),
        Err(_) => return shared.log.warn(&address, &DialError::TimedOut),
    };
    let ended = match (peer.purpose, peer.node) {
        (Purpose::Router, _) => serve_router(&shared, stream).await,
        (Purpose::Control | Purpose::Bulk, Some(node)) => {
            serve_peer(&shared, stream, (node, peer.epoch), peer.purpose == Purpose::Bulk).await
        }
        (Purpose::Control | Purpose::Bulk, None) => Ok(()),
    };
    match ended {
        Ok(()) => debug!(%address, "connection ended"),
        Err(ConnectionError::Io(error)) => debug!(%address, %error, "connection broke"),
        Err(error) => shared.log.warn(&address, &error),
    }
}

async fn handshake(shared: &Shared, stream: &mut TcpStream) -> Result<Peer, DialError> {
    set_options(stream)?;
    let mut listener = Listener::new(&shared.credentials, shared.node, random::bytes()?);
    let hello = read_message(stream).await?;
    let challenge = or_refuse(stream, listener.on_hello(&hello)).await?;
    stream.write_all(&challenge).await?;
    let proof = read_message(stream).await?;
    let (peer, welcome) = or_refuse(stream, listener.on_proof(&proof)).await?;
    if peer.node.is_some_and(|node| !shared.known.has(node)) {
        let unknown = Err(HandshakeError::Refuse(RefuseReason::UnknownNode));
        return or_refuse(stream, unknown).await;
    }
    stream.write_all(&welcome).await?;
    Ok(peer)
}

/// Tells the other end why it is refused, if that is the reason of the failure.
async fn or_refuse<T>(
    stream: &mut TcpStream,
    step: Result<T, HandshakeError>,
) -> Result<T, DialError> {
    if let Err(HandshakeError::Refuse(reason)) = step {
        stream.write_all(&refusal(reason)).await?;
    }
    Ok(step?)
}

/// Reads what a node says until it ends, is replaced, or the worker is gone.
async fn serve_peer(
    shared: &Shared,
    mut stream: TcpStream,
    (node, epoch): (NodeId, u64),
    bulk: bool,
) -> Result<(), ConnectionError> {
    let replaced = CancellationToken::new();
    let before = shared.known.current.borrow_mut().insert((node, bulk), replaced.clone());
    if let Some(before) = before {
        before.cancel();
    }
    let opened = Inbound::PeerOpened { from: node, epoch };
    if !bulk && shared.inbox.send(opened).await.is_err() {
        return Ok(());
    }
    let reading = read_frames(&mut stream, async |frame| match frame {
        WireFrame::Raft(envelope) => {
            Ok(shared.inbox.send(Inbound::Raft { from: node, envelope }).await.is_ok())
        }
        WireFrame::Heartbeat(heartbeat) => {
            Ok(shared.inbox.send(Inbound::Heartbeat { from: node, heartbeat }).await.is_ok())
        }
        WireFrame::Chunk(chunk) => match shared.hold(chunk) {
            Some(chunk) => {
                Ok(shared.inbox.send(Inbound::Chunk { from: node, chunk }).await.is_ok())
            }
            None => Ok(true),
        },
        WireFrame::Move(envelope) => {
            Ok(shared.inbox.send(Inbound::Move { from: node, envelope }).await.is_ok())
        }
        WireFrame::Map(message) => {
            Ok(shared.inbox.send(Inbound::Map { from: node, message }).await.is_ok())
        }
        WireFrame::Witness(message) => {
            Ok(shared.inbox.send(Inbound::Witness { from: node, message }).await.is_ok())
        }
        WireFrame::Clock(clock) => {
            Ok(shared.inbox.send(Inbound::Clock { from: node, clock }).await.is_ok())
        }
        WireFrame::ClusterPort(port) => {
            Ok(shared.inbox.send(Inbound::ClusterPort { from: node, port }).await.is_ok())
        }
        WireFrame::ToNode(_) | WireFrame::ToRouter(_) => Err(ConnectionError::WrongFrame),
    });
    tokio::select! {
        biased;
        () = replaced.cancelled() => Ok(()),
        () = shared.inbox.closed() => Ok(()),
        ended = reading => ended,
    }
}

/// Carries a router's requests to the worker and the worker's answers back.
async fn serve_router(shared: &Shared, stream: TcpStream) -> Result<(), ConnectionError> {
    let conn = ConnId(shared.next_conn.replace(shared.next_conn.get() + 1));
    let (replies, mut waiting) = mpsc::channel(ROUTER_REPLIES_MAX);
    if shared.inbox.send(Inbound::RouterOpened { conn, replies }).await.is_err() {
        return Ok(());
    }
    info!(conn = conn.0, "router connected");
    let (mut from, mut to) = stream.into_split();
    let reading = read_frames(&mut from, async |frame| match frame {
        WireFrame::ToNode(message) => {
            Ok(shared.inbox.send(Inbound::FromRouter { conn, message }).await.is_ok())
        }
        WireFrame::Raft(_)
        | WireFrame::ToRouter(_)
        | WireFrame::Heartbeat(_)
        | WireFrame::Chunk(_)
        | WireFrame::Move(_)
        | WireFrame::Map(_)
        | WireFrame::Witness(_)
        | WireFrame::ClusterPort(_)
        | WireFrame::Clock(_) => Err(ConnectionError::WrongFrame),
    });
    let ended = tokio::select! {
        ended = reading => ended,
        ended = write_replies(&mut to, &mut waiting) => ended,
    };
    // The worker is gone if it does not take this; then nobody asks.
    let _ = shared.inbox.send(Inbound::RouterClosed { conn }).await;
    ended
}

/// Writes what the worker answers, all that waits in one go, until the worker drops its end.
async fn write_replies(
    to: &mut (impl AsyncWrite + Unpin),
    waiting: &mut mpsc::Receiver<ToRouter>,
) -> Result<(), ConnectionError> {
    let mut buffer = BytesMut::new();
    while let Some(first) = waiting.recv().await {
        encode_frame(&WireFrame::ToRouter(first), &mut buffer);
        while buffer.len() < WRITE_BYTES_MAX
            && let Ok(next) = waiting.try_recv()
        {
            encode_frame(&WireFrame::ToRouter(next), &mut buffer);
        }
        to.write_all(&buffer).await?;
        clear(&mut buffer);
    }
    to.shutdown().await?;
    Ok(())
}

/// Reads frames until the connection ends or `take` says false.
async fn read_frames(
    from: &mut (impl AsyncRead + Unpin),
    take: impl AsyncFn(WireFrame) -> Result<bool, ConnectionError>,
) -> Result<(), ConnectionError> {
    let mut buffer = BytesMut::new();
    loop {
        while let Some(frame) = next_frame(&mut buffer)? {
            if !take(frame).await? {
                return Ok(());
            }
        }
        if buffer.is_empty() {
            clear(&mut buffer);
        }
        buffer.reserve(READ_BYTES);
        if from.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

/// The next whole frame. A small one gets memory of its own: an entry from it is kept for long, and
/// must not keep the whole read buffer.
fn next_frame(buffer: &mut BytesMut) -> Result<Option<WireFrame>, CodecError> {
    if let Some(length) = buffer.first_chunk::<4>() {
        let total = u32::from_le_bytes(*length) as usize + 4;
        if total <= buffer.len() && total < buffer.capacity() / 4 {
            let mut own = BytesMut::from(&buffer[..total]);
            buffer.advance(total);
            return decode_frame(&mut own, WIRE_FRAME_BYTES_MAX);
        }
    }
    decode_frame(buffer, WIRE_FRAME_BYTES_MAX)
}

/// Empties a buffer, and gives back what an unusually big frame took.
fn clear(buffer: &mut BytesMut) {
    if buffer.capacity() > WRITE_BYTES_MAX * 2 {
        *buffer = BytesMut::new();
    }
    buffer.clear();
}

/// Keeps strangers from filling the log.
#[derive(Debug, Default)]
struct RateLimit {
    last: Cell<Option<Instant>>,
    unlogged: Cell<u64>,
}

impl RateLimit {
    fn warn(&self, address: &dyn fmt::Display, reason: &dyn fmt::Display) {
        if self.last.get().is_some_and(|last| last.elapsed() < LOG_EVERY) {
            self.unlogged.set(self.unlogged.get() + 1);
            return;
        }
        self.last.set(Some(Instant::now()));
        let unlogged = self.unlogged.replace(0);
        warn!(%address, %reason, unlogged, "connection to the peer port closed");
    }
}

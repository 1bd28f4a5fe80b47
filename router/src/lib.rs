//! The front end: RESP in, requests to groups out.
//!
//! Invariants: a connection's replies leave in the order of its commands, each in the protocol of its
//! place; memory of a connection is bounded by named constants and by what it sent; nothing a client
//! sends can panic. There is no lock and no thread here: a front end lives on one `current_thread`
//! runtime, inside a `LocalSet`.
pub mod commands;
pub mod resp;

mod admin;
pub mod backend;
mod barrier;
mod clients;
mod connection;
pub mod dial;
pub mod dispatch;
mod doctor;
mod glob;
mod groups;
mod info;
mod link;
mod local;
pub mod meet;
pub mod node_name;
#[cfg(test)]
mod outcomes;
mod pipeline;
pub mod redirect;
pub mod reply;
mod settings;
pub mod talk;
mod topology;
mod window;

use crate::backend::Backend;
use crate::clients::{ClientGuard, Clients};
use crate::redirect::{Moving, Port, Scope};
use crate::topology::Topology;
use shard_core::moves::SlotEpoch;
use shard_core::slot::Slot;
use shard_core::wire::{ClusterView, NodeStatus};
use socket2::{SockRef, TcpKeepalive};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// After how long the kernel asks whether a silent client is still there.
pub const TCP_KEEPALIVE: Duration = Duration::from_secs(300);
/// How long accepting pauses when the process is out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long connections have, after a shutdown began, to answer what they took: a little more than a
/// request may take by default. Where it may take longer, its answer may be cut off.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(7);

/// The settings of a front end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeConfig {
    /// The most connections at once; one more is told so and closed.
    pub clients_max: usize,
    /// A connection without a command for so long is closed. `None`: never.
    pub idle_timeout: Option<Duration>,
    /// A connection whose replies wait in more bytes than this is closed. A client that only asks
    /// for much and reads late is held back long before: this closes for a single reply of more
    /// bytes, or when values turn large all at once in a pipeline that not only GETs.
    pub output_bytes_max: usize,
    /// A connection that sends a command of more bytes than this is closed.
    pub query_bytes_max: usize,
    /// As CONFIG GET and INFO show it.
    pub bind: String,
    /// As CONFIG GET and INFO show it.
    pub port: u16,
    /// Bytes of memory that the node may take, as CONFIG GET and INFO show it. 0: no limit.
    pub maxmemory: u64,
    /// For how long copies of a write with a token may come, in milliseconds, 1000 to 86400000, until CONFIG SET says
    /// otherwise.
    pub idmp_window_ms: u32,
}

impl Default for ServeConfig {
    fn default() -> ServeConfig {
        ServeConfig {
            clients_max: 10_000,
            idle_timeout: None,
            output_bytes_max: 256 * 1024 * 1024,
            query_bytes_max: resp::QUERY_BYTES_MAX,
            bind: "127.0.0.1".into(),
            port: 6379,
            maxmemory: 0,
            idmp_window_ms: commands::token::WINDOW_MS_DEFAULT,
        }
    }
}

/// What a front end has counted since its start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections accepted.
    pub connections: Cell<u64>,
    /// Connections refused since there were too many.
    pub rejected: Cell<u64>,
    /// Commands taken, refused ones included.
    pub commands: Cell<u64>,
    /// Error replies.
    pub errors: Cell<u64>,
    /// Connections closed for what is not RESP.
    pub protocol_errors: Cell<u64>,
    /// Bytes from clients.
    pub input_bytes: Cell<u64>,
    /// Bytes to clients.
    pub output_bytes: Cell<u64>,
    /// Reads with bytes.
    pub reads: Cell<u64>,
    /// Writes.
    pub writes: Cell<u64>,
    /// Commands that the cluster port sent on to another node.
    pub moved: Cell<u64>,
}

/// What all connections to one router share, over any number of listeners, seen from one kind of port.
/// Clones are the same one.
#[derive(Clone, Debug)]
pub struct FrontEnd {
    shared: Rc<Shared>,
    config: Rc<ServeConfig>,
    port: Port,
}

#[derive(Debug)]
struct Shared {
    backend: Backend,
    clients: Rc<Clients>,
    counters: Counters,
    started: Instant,
    /// Slots that SETSLOT has opened here, with the epoch they had then.
    opened: RefCell<BTreeMap<Slot, SlotEpoch>>,
    moving: RefCell<Moving>,
    idmp_window_ms: Cell<u32>,
}

impl FrontEnd {
    /// A front end without connections.
    pub fn new(backend: Backend, config: ServeConfig) -> FrontEnd {
        let shared = Shared {
            backend,
            clients: Rc::default(),
            counters: Counters::default(),
            started: Instant::now(),
            opened: RefCell::default(),
            moving: RefCell::default(),
            idmp_window_ms: Cell::new(config.idmp_window_ms),
        };
        FrontEnd { shared: Rc::new(shared), config: Rc::new(config), port: Port::Plain }
    }

    /// The same front end for clients of the node's cluster port, which is this one.
    pub fn on_cluster_port(&self, port: u16) -> FrontEnd {
        let config = ServeConfig { port, ..(*self.config).clone() };
        FrontEnd { config: Rc::new(config), port: Port::Cluster, ..self.clone() }
    }

    pub(crate) fn idmp_window_ms(&self) -> u32 {
        self.shared.idmp_window_ms.get()
    }

    /// CONFIG SET, for all connections of this router, until it ends.
    pub(crate) fn set_idmp_window_ms(&self, ms: u32) {
        self.shared.idmp_window_ms.set(ms);
    }

    pub(crate) fn port(&self) -> Port {
        self.port
    }

    /// The error that sends a client of the cluster port to another node for a key of a slot; None: it is
    /// served here. `reads_here`: so is whatever this node has a replica of.
    pub(crate) fn redirect(&self, slot: Slot, reads_here: bool) -> Option<String> {
        let backend = self.backend();
        let (group, leader) = backend.leader_of(slot)?;
        let (own, status) = (backend.node(), backend.status());
        // Most keys that are asked for here are here.
        if Some(leader) == own {
            return None;
        }
        let node = redirect::door(Some(leader), own, status.as_deref())?;
        let view = backend.view();
        if self.shared.moving.borrow_mut().has(&view.map, slot) {
            return None;
        }
        if reads_here && own.is_some_and(|own| view.map.voters(group).contains(&own)) {
            return None;
        }
        redirect::moved(&view, status.as_deref()?, slot, node)
    }

    /// What a command on whole groups is about on this port.
    pub(crate) fn scope(&self) -> Scope {
        match self.port {
            Port::Plain => Scope::All,
            Port::Cluster => {
                let (view, status) = (self.backend().view(), self.backend().status());
                let topology = self.topology(&view, status.as_deref());
                let groups = view.map.config.shard_groups();
                Scope::Own(groups.filter(|group| topology.door(*group).is_none()).collect())
            }
        }
    }

    pub(crate) fn backend(&self) -> &Backend {
        &self.shared.backend
    }

    pub(crate) fn config(&self) -> &ServeConfig {
        &self.config
    }

    /// Bytes of commands and replies of clients that are not through yet, and of requests under way.
    pub fn buffered_bytes(&self) -> u64 {
        self.clients().bytes() as u64 + self.backend().stats().pending_bytes
    }

    /// SETSLOT opens a slot or closes it: redis-cli moves the keys of an open one by hand until there are
    /// none, which is done for it here.
    pub(crate) fn set_opened(&self, slot: Slot, opened: bool) {
        let mut slots = self.shared.opened.borrow_mut();
        match opened {
            true => {
                let owner = self.backend().view().map.owners.of(slot);
                slots.entry(slot).or_insert(owner.map_or(SlotEpoch(0), |(_, epoch)| epoch));
            }
            false => drop(slots.remove(&slot)),
        }
    }

    /// Whether a slot that SETSLOT has opened here is on its way, or has been since.
    pub(crate) fn is_opened(&self, slot: Slot) -> bool {
        let view = self.backend().view();
        self.shared.opened.borrow().get(&slot).is_some_and(|at| {
            let owner = view.map.owners.of(slot);
            let has_moved = owner.is_some_and(|(_, epoch)| epoch > *at);
            has_moved || view.map.config.group_of(slot) != owner.map(|(group, _)| group)
        })
    }

    pub(crate) fn clients(&self) -> &Rc<Clients> {
        &self.shared.clients
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.shared.started.elapsed()
    }

    pub(crate) fn topology<'a>(
        &self,
        view: &'a ClusterView,
        status: Option<&'a NodeStatus>,
    ) -> Topology<'a> {
        let backend = self.backend();
        let (led, node) = (backend.led_groups(), backend.node());
        Topology { view, led, node, status, port: self.port }
    }

    /// Accepts connections until `shutdown`, then closes the listener, answers what connections have
    /// taken, and returns when they are closed, after [`SHUTDOWN_GRACE`] at the latest. Runs inside a
    /// `LocalSet`; dropping it drops its connections.
    pub async fn serve(&self, listener: TcpListener, shutdown: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, address)) => {
                        if let Some(client) = self.admit(&stream, address) {
                            let (front, shutdown) = (self.clone(), shutdown.clone());
                            connections.spawn_local(connection::serve(stream, front, client, shutdown));
                        }
                    }
                    Err(error) if is_of_one_client(&error) => debug!(%error, "lost a connection"),
                    Err(error) => {
                        warn!(%error, "cannot accept connections");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
        drop(listener);
        if !connections.is_empty() {
            info!(connections = connections.len(), "closing client connections");
        }
        let all = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(SHUTDOWN_GRACE, all).await.is_err() {
            warn!("closed connections with replies not taken");
        }
    }

    /// Enters a new connection among the clients, or tells it why not.
    fn admit(&self, stream: &TcpStream, address: SocketAddr) -> Option<ClientGuard> {
        let counters = self.counters();
        if self.clients().count() >= self.config().clients_max {
            counters.rejected.set(counters.rejected.get() + 1);
            // The socket is new, so it takes a line; if not, the client is gone.
            let _ = SockRef::from(stream).send(b"-ERR max number of clients reached\r\n");
            return None;
        }
        let local = match ready(stream) {
            Ok(local) => local,
            Err(error) => {
                debug!(%address, %error, "lost a connection");
                return None;
            }
        };
        counters.connections.set(counters.connections.get() + 1);
        Some(self.clients().enter(address, local))
    }
}

fn ready(stream: &TcpStream) -> io::Result<SocketAddr> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(TCP_KEEPALIVE))?;
    stream.local_addr()
}

/// Errors of accept that say nothing of the next connection.
fn is_of_one_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

//! Where requests go: to the node in this process, or over a link. The shell around `dispatch`.

use shard_core::cluster_config::ClusterConfig;
use shard_core::op::{Op, Outcome};
use shard_core::slot::Slot;
use shard_core::wire::{ClusterView, GroupAnswer, GroupQuery, NodeStatus, ToNode, ToRouter};
use shard_core::{GroupId, NodeId};
use std::cell::{Cell, OnceCell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};

/// Whom a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// The group that owns the slot.
    Slot(Slot),
    /// A group as a whole.
    Group(GroupId),
}

/// What is asked. An op goes to a slot, a query to a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// A command on keys of one slot.
    Op(Op),
    /// A read of a whole group.
    Query(GroupQuery),
}

/// The one answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answered {
    /// The op was executed once, and this is what it answered.
    Outcome(Outcome),
    /// What the group answered to a query.
    Group(GroupAnswer),
    /// No answer of a group.
    Refused(Refusal),
}

/// Why there is no answer of a group. All but `Unknown` say that nothing was and will be executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// The group could not be reached, or had no leader, until the deadline.
    ClusterDown,
    /// No group owns the slot.
    SlotNotServed,
    /// The write may or may not be applied.
    Unknown {
        /// How long the client has waited, in milliseconds.
        waited_ms: u64,
    },
    /// The slot was changing owners until the deadline.
    Moving {
        /// The slot.
        slot: Slot,
    },
    /// A queue is full.
    Overloaded,
}

/// Counters of a backend since its start, and what waits in it now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DispatchStats {
    /// Requests taken.
    pub submitted: u64,
    /// Requests answered.
    pub answered: u64,
    /// Requests refused since a queue was full.
    pub overloaded: u64,
    /// Writes whose outcome is unknown.
    pub unknown: u64,
    /// Attempts sent.
    pub attempts: u64,
    /// Attempts beyond the first of a request.
    pub retries: u64,
    /// Answers of attempts that no longer mattered.
    pub late: u64,
    /// Attempts that a node called nonsense: a fault of this router or of that node.
    pub invalid: u64,
    /// Views asked for.
    pub refreshes: u64,
    /// Sessions opened.
    pub sessions: u64,
    /// Requests that wait now, those driven on for clients that went included.
    pub pending: u64,
    /// Bytes of those.
    pub pending_bytes: u64,
}

/// The node in this process: no socket, no encoding.
pub struct LocalNode {
    /// Its id.
    pub node: NodeId,
    /// Requests to it.
    pub to_node: mpsc::Sender<ToNode>,
    /// Its answers and views. Closed: the node is gone.
    pub from_node: mpsc::Receiver<ToRouter>,
    /// For INFO, ROLE and CLUSTER.
    pub status: watch::Receiver<Arc<NodeStatus>>,
}

/// What a backend needs to know at its start.
#[derive(Clone, Debug)]
pub struct BackendConfig {
    /// How long a request may take. Default 5 s.
    pub request_timeout: Duration,
    /// Where nodes are until one of them has told more.
    pub bootstrap: ClusterConfig,
    /// From the operating system's random source: session ids and jitter come from it.
    pub seed: [u64; 2],
}

/// Takes the answers of one client connection, in any order, each with the tag it was asked under.
/// Dropping it abandons what waits: nothing of it is kept but what was already sent.
#[derive(Debug, Default)]
pub struct ReplySink {
    ready: RefCell<Vec<(u64, Answered)>>,
    arrived: Notify,
    closed: Cell<bool>,
    backend: OnceCell<Weak<Inner>>,
}

impl ReplySink {
    /// An empty one; put it into an `Rc` to submit with it.
    pub fn new() -> ReplySink {
        ReplySink::default()
    }

    /// Moves the answers that are there to the end of `into`.
    pub fn take(&self, into: &mut Vec<(u64, Answered)>) {
        into.append(&mut self.ready.borrow_mut());
    }

    /// Waits until there may be an answer to take. May return without one.
    pub async fn notified(&self) {
        if self.ready.borrow().is_empty() {
            self.arrived.notified().await;
        }
    }

    /// Abandons what waits: no answer arrives any more. A seq already given out is driven on.
    pub fn close(&self) {
        self.closed.set(true);
        self.ready.borrow_mut().clear();
    }

    fn push(&self, tag: u64, answer: Answered) {
        if !self.closed.get() {
            self.ready.borrow_mut().push((tag, answer));
            self.arrived.notify_one();
        }
    }
}

/// Carries requests to groups and answers back. Lives on one `current_thread` runtime, inside a
/// `LocalSet`; clones share the same state.
#[derive(Clone, Debug)]
pub struct Backend(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    view: RefCell<Rc<ClusterView>>,
    stats: Cell<DispatchStats>,
    node: Option<NodeId>,
    status: Option<watch::Receiver<Arc<NodeStatus>>>,
}

impl Backend {
    /// Starts the driver on the current `LocalSet`.
    pub fn start(config: BackendConfig, local: Option<LocalNode>) -> Backend {
        let view = ClusterView { config: config.bootstrap, ..ClusterView::default() };
        Backend(Rc::new(Inner {
            view: RefCell::new(Rc::new(view)),
            stats: Cell::default(),
            node: local.as_ref().map(|local| local.node),
            status: local.map(|local| local.status),
        }))
    }

    /// Takes a request. Never blocks; `sink` gets exactly one answer under `tag`, unless it is
    /// closed before. Requests to one slot take effect in the order of the calls.
    pub fn submit(&self, sink: &Rc<ReplySink>, tag: u64, _target: Target, _work: Work) {
        sink.backend.get_or_init(|| Rc::downgrade(&self.0));
        sink.push(tag, Answered::Refused(Refusal::ClusterDown));
    }

    /// What is known of the cluster: the newest configuration, and of each group the leader with the
    /// highest term.
    pub fn view(&self) -> Rc<ClusterView> {
        self.0.view.borrow().clone()
    }

    /// The node in this process as it described itself last.
    pub fn status(&self) -> Option<Arc<NodeStatus>> {
        self.0.status.as_ref().map(|status| status.borrow().clone())
    }

    /// The node in this process.
    pub fn node(&self) -> Option<NodeId> {
        self.0.node
    }

    /// Counters.
    pub fn stats(&self) -> DispatchStats {
        self.0.stats.get()
    }

    /// Waits until every request taken has its answer, `within` at most.
    pub async fn drain(&self, _within: Duration) {}
}

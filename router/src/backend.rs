//! Where requests go: to the node in this process, or over a link. The shell around `dispatch`.

mod driver;
mod sink;
#[cfg(test)]
mod tests;

pub use self::sink::ReplySink;
pub(crate) use self::sink::give_back;
pub use crate::meet::Met;

use self::driver::Inner;
use crate::dispatch::Bounds;
use shard_core::cluster_config::ClusterConfig;
use shard_core::handshake::{Credentials, Nonce};
use shard_core::introduction::FIELDS;
use shard_core::op::{Op, Outcome};
use shard_core::shardmaster::{MasterDone, MasterError, MasterRequest};
use shard_core::slot::Slot;
use shard_core::wire::{ClusterView, GroupAnswer, GroupQuery, NodeStatus, ToNode, ToRouter};
use shard_core::{GroupId, NodeId};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Whom a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// The group that owns the slot.
    Slot(Slot),
    /// A group as a whole.
    Group(GroupId),
}

/// INFO is asked for when something is wrong: it does not wait out a request's deadline for a group
/// whose leader hangs.
pub const GLANCE_MAX: Duration = Duration::from_secs(1);

/// What is asked. An op goes to a slot, a query to a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// A command on keys of one slot.
    Op(Op),
    /// A read of a whole group.
    Query(GroupQuery),
    /// The same, for what is shown beside other things: given up after [`GLANCE_MAX`].
    Glance(GroupQuery),
    /// A group is to be led by this node.
    Transfer(NodeId),
    /// What an administrator wants of the shardmaster. Without an id it gets one.
    Master(MasterRequest),
    /// Asks the node whose clients connect there who it is, or, on a spare, to make this one known.
    Meet {
        /// Its name or address.
        host: String,
        /// Its port for clients.
        port: u16,
    },
    /// Waits until the slot is owned by this group; answered by `Ok`, or refused as still moving.
    AwaitOwner {
        /// The group.
        group: GroupId,
        /// How long. Milliseconds.
        timeout_ms: u32,
    },
}

/// The one answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answered {
    /// The op was executed once, and this is what it answered.
    Outcome(Outcome),
    /// What the group answered to a query.
    Group(GroupAnswer),
    /// What the shardmaster answered.
    Master(Box<Result<MasterDone, MasterError>>),
    /// What came of a meeting; an error is the reply.
    Met(Box<Result<Met, String>>),
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
    /// The op has more bytes of keys and values than one entry can hold.
    TooBig,
    /// The op has a token, and a node of the slot's group is of a program before these.
    OlderNode,
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
    /// Proves to nodes that this router belongs to their cluster.
    pub credentials: Credentials,
    /// Where nodes are until one of them has told more.
    pub bootstrap: ClusterConfig,
    /// How much may wait.
    pub bounds: Bounds,
    /// From the operating system's random source: session ids and jitter come from it.
    pub seed: [u64; 2],
}

/// Carries requests to groups and answers back. Lives on one `current_thread` runtime, inside a
/// `LocalSet`, until that is dropped; clones share the same state.
#[derive(Clone, Debug)]
pub struct Backend(Rc<Inner>);

impl Backend {
    /// Starts the driver on the current `LocalSet`.
    pub fn start(config: BackendConfig, local: Option<LocalNode>) -> Backend {
        Backend(driver::start(config, local))
    }

    /// Takes a request. Never blocks; `sink` gets exactly one answer under `tag`, unless it is
    /// closed before. Requests to one slot take effect in the order of the calls.
    pub fn submit(&self, sink: &Rc<ReplySink>, tag: u64, target: Target, work: Work) {
        self.0.submit(sink, tag, target, work);
    }

    /// What is known of the cluster: the newest configuration, and of each group the leader with the
    /// highest term.
    pub fn view(&self) -> Rc<ClusterView> {
        self.0.view()
    }

    /// The group that has a slot and the node that leads it, unless that is about to change, as far as known.
    pub fn leader_of(&self, slot: Slot) -> Option<(GroupId, NodeId)> {
        self.0.leader_of(slot)
    }

    /// The shard groups of which a node that can be reached names a leader.
    pub fn led_groups(&self) -> BTreeSet<GroupId> {
        self.0.led_groups()
    }

    /// The node in this process as it described itself last.
    pub fn status(&self) -> Option<Arc<NodeStatus>> {
        self.0.status()
    }

    /// Meets the node whose clients connect there: says who it is, or, on a spare, has this one made known.
    ///
    /// # Errors
    /// What a client would be answered.
    pub async fn meet(&self, host: &str, port: u16) -> Result<Met, String> {
        self.0.meet_now(host, port).await
    }

    /// What the node in this process says of itself, with a proof for whoever sent that number. A router alone
    /// has nothing to say.
    pub fn introduce(&self, nonce: &Nonce) -> Option<[String; FIELDS]> {
        self.0.introduce(nonce)
    }

    /// The node in this process.
    pub fn node(&self) -> Option<NodeId> {
        self.0.node()
    }

    /// How long a request waits at most.
    pub fn request_timeout(&self) -> Duration {
        self.0.request_timeout()
    }

    /// Counters.
    pub fn stats(&self) -> DispatchStats {
        self.0.stats()
    }
}

//! Golden scripts for the cluster port: what a node answers there, by what it knows of the others.
//!
//! The front end is the real one, on real sockets; its node is played. Nodes 1 to 3 have seats in groups 1 and 2, which have
//! half of the slots each; this is node 1. It leads group 1 and node 2 leads group 2, until the script says otherwise. A line
//! behind `>` is an inline command at the cluster port. What is served here is answered with the group
//! that got it.

use crate::resp::{Client, Value};
use goldenscript::{ArgumentConsumer, Block, Command, Context, Runner};
use router::backend::{Backend, BackendConfig, LocalNode};
use router::dispatch::Bounds;
use router::{FrontEnd, ServeConfig};
use shard_core::cluster_config::{ClusterConfig, ConfigNum, GroupConfig, NodeConfig, SHARDMASTER};
use shard_core::cluster_map::{MoveRecord, OwnerRange};
use shard_core::handshake::{Credentials, Secret};
use shard_core::moves::{Move, MoveId, MoveOutcome, SlotEpoch};
use shard_core::op::Outcome;
use shard_core::session::LogTime;
use shard_core::slot::Slot;
use shard_core::wire::{
    Answer, ClusterView, GroupAnswer, GroupQuery, LeaderView, NodeStatus, PeerStatus, Reply,
    Request, RequestBody, ToNode, ToRouter,
};
use shard_core::{GroupId, NodeId};
use std::error::Error;
use std::fmt::Write as _;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio_util::sync::CancellationToken;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const OWN: NodeId = NodeId(1);
/// The port that clients are told of node i is this one and i.
const TOLD: u16 = 8000;

#[cfg(feature = "mutants")]
thread_local! {
    static BROKEN: std::cell::Cell<Option<router::redirect::mutant::Mutant>> =
        const { std::cell::Cell::new(None) };
}

/// Runs something while every script of this thread has a front end that breaks this rule.
#[cfg(feature = "mutants")]
pub fn breaking<T>(rule: router::redirect::mutant::Mutant, run: impl FnOnce() -> T) -> T {
    BROKEN.set(Some(rule));
    let result = run();
    BROKEN.set(None);
    result
}

/// See the module.
pub struct RedirectScript {
    view: ClusterView,
    status: NodeStatus,
    views: mpsc::Sender<ToRouter>,
    statuses: watch::Sender<Arc<NodeStatus>>,
    client: Client,
    plain: Client,
    stop: CancellationToken,
}

impl Default for RedirectScript {
    fn default() -> RedirectScript {
        let config = cluster();
        let mut view = ClusterView::of_config(&config);
        let mut status = NodeStatus { node: OWN, ..NodeStatus::default() };
        for node in config.nodes.keys() {
            status.cluster_ports.insert(*node, TOLD + node.0 as u16);
            if *node != OWN {
                let up = PeerStatus { state: "up", ..PeerStatus::default() };
                status.peers.insert(*node, up);
            }
        }
        for (group, leader) in [(SHARDMASTER, OWN), (GroupId(1), OWN), (GroupId(2), NodeId(2))] {
            let mut led = LeaderView { leader: Some(leader), term: Default::default() };
            led.term.0 = 1;
            view.leaders.insert(group, led);
        }
        let bind = || StdListener::bind("127.0.0.1:0").expect("a port");
        let (plain, cluster_port) = (bind(), bind());
        let port = |listener: &StdListener| listener.local_addr().expect("an address").port();
        let ports = (port(&plain), port(&cluster_port));
        let (views, from_node) = mpsc::channel(1024);
        let (statuses, status_seen) = watch::channel(Arc::new(status.clone()));
        let stop = CancellationToken::new();
        let to_router = views.clone();
        let token = stop.clone();
        #[cfg(feature = "mutants")]
        let rule = BROKEN.get();
        thread::spawn(move || {
            #[cfg(feature = "mutants")]
            router::redirect::mutant::set(rule);
            serve([plain, cluster_port], to_router, from_node, status_seen, token)
        });
        let connect = |port| Client::connect(port).expect("a connection");
        let mut plain = connect(ports.0);
        // The other one is its second client, always.
        plain.call(&["PING"]).expect("a reply");
        let client = connect(ports.1);
        let mut script = RedirectScript { view, status, views, statuses, client, plain, stop };
        script.tell();
        script
    }
}

impl Drop for RedirectScript {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn cluster() -> ClusterConfig {
    let node = |id: u64| {
        // Nobody listens at a peer port here.
        let (peer, resp) = (format!("127.0.0.1:{id}"), format!("host{id}:700{id}"));
        (NodeId(id), NodeConfig { peer, resp })
    };
    let group = |weight| GroupConfig { voters: [1, 2, 3].map(NodeId).into(), weight };
    let mut config = ClusterConfig {
        num: ConfigNum(1),
        cluster_id: "test".into(),
        nodes: [1, 2, 3].map(node).into(),
        groups: [(SHARDMASTER, group(0)), (GroupId(1), group(1)), (GroupId(2), group(1))].into(),
        slots: Vec::new(),
    };
    config.assign_evenly();
    config
}

/// The front end on its own thread: its plain port, and the cluster port.
fn serve(
    [plain, cluster_port]: [StdListener; 2],
    to_router: mpsc::Sender<ToRouter>,
    from_node: mpsc::Receiver<ToRouter>,
    status: watch::Receiver<Arc<NodeStatus>>,
    stop: CancellationToken,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let listener = |listener: StdListener| {
        listener.set_nonblocking(true).expect("a socket");
        TcpListener::from_std(listener).expect("a socket")
    };
    LocalSet::new().block_on(&runtime.expect("a runtime"), async {
        let (to_node, inbox) = mpsc::channel(1024);
        spawn_local(play(inbox, to_router));
        let config = BackendConfig {
            request_timeout: Duration::from_secs(20),
            credentials: Credentials::new("test", Secret::new(*b"secret"), 1).expect("good ones"),
            bootstrap: cluster(),
            bounds: Bounds::default(),
            seed: [1, 2],
        };
        let local = LocalNode { node: OWN, to_node, from_node, status };
        let front = FrontEnd::new(Backend::start(config, Some(local)), ServeConfig::default());
        let redirecting = front.on_cluster_port(TOLD + 1);
        tokio::join!(
            front.serve(listener(plain), stop.clone()),
            redirecting.serve(listener(cluster_port), stop.clone())
        );
    });
}

/// A node that takes everything, as if it led every group.
async fn play(mut inbox: mpsc::Receiver<ToNode>, out: mpsc::Sender<ToRouter>) {
    while let Some(message) = inbox.recv().await {
        if let ToNode::Requests(batch) = message {
            let answer = |request: &Request| {
                let answer = answer(&request.body, batch.group);
                Reply { id: request.id, answer }
            };
            let replies = batch.requests.iter().map(answer).collect();
            if out.send(ToRouter::Replies(replies)).await.is_err() {
                return;
            }
        }
    }
}

fn answer(body: &RequestBody, group: GroupId) -> Answer {
    let log_time = LogTime(1);
    let here = |outcome| Answer::Done { outcome, log_time };
    match body {
        RequestBody::LogTime => Answer::LogTime(log_time),
        RequestBody::Group(GroupQuery::OccupiedSlots) => {
            let ranges =
                cluster().ranges_of(group).map(|range| (range.first, range.last)).collect();
            Answer::Group(GroupAnswer::OccupiedSlots { owned: ranges, occupied: Vec::new() })
        }
        RequestBody::Group(_) => {
            Answer::Group(GroupAnswer::KeyCount { keys: 10 * u64::from(group.0), expires: 0 })
        }
        _ => here(Outcome::Value(format!("by group {group}").into())),
    }
}

impl Runner for RedirectScript {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String> {
        let mut args = command.consume_args();
        match (command.name.as_str(), command.args.len()) {
            ("lead", 3) => self.lead(&mut args)?,
            ("peer", 2) => {
                let (node, state) = (number(&mut args)?, text(&mut args)?.to_owned());
                let peer = self.status.peers.entry(NodeId(node)).or_default();
                peer.state = ["up", "deaf", "disk-stalled", "down", "gone"]
                    .into_iter()
                    .find(|known| *known == state)
                    .ok_or("no such state")?;
            }
            ("cut", 1) => {
                self.status.peers.entry(NodeId(number(&mut args)?)).or_default().cut = true;
            }
            ("closed", 1) => {
                self.status.cluster_ports.remove(&NodeId(number(&mut args)?));
            }
            ("move", 2) => self.begin_move(&mut args)?,
            ("moved", 1) => self.end_move(&mut args)?,
            ("send", 1) => self.client.send_raw(&bytes(text(&mut args)?))?,
            ("receive", 1) => return self.receive(number(&mut args)?),
            ("plain", 1) => {
                let line = text(&mut args)?;
                self.plain.send_raw(format!("{line}\r\n").as_bytes())?;
                return Ok(format!("{line} -> {}", shown(&self.plain.receive()?, 0)));
            }
            (line, 0) => {
                self.client.send_raw(format!("{line}\r\n").as_bytes())?;
                return Ok(format!("{line} -> {}", shown(&self.client.receive()?, 0)));
            }
            _ => return Err(format!("no command {}", command.name).into()),
        }
        args.reject_next()?;
        self.tell();
        Ok(String::new())
    }

    fn start_block(&mut self, block: &Block) -> Result<String> {
        let _ = block;
        *self = RedirectScript::default();
        Ok(String::new())
    }
}

impl RedirectScript {
    /// `lead GROUP NODE TERM`; node 0: nobody.
    fn lead(&mut self, args: &mut ArgumentConsumer) -> Result<()> {
        let group = GroupId(u32::try_from(number(args)?)?);
        let leader = Some(NodeId(number(args)?)).filter(|node| *node != NodeId(0));
        let mut led = LeaderView { leader, term: Default::default() };
        led.term.0 = number(args)?;
        self.view.leaders.insert(group, led);
        Ok(())
    }

    /// `move SLOT GROUP`: the slot is on its way to the group.
    fn begin_move(&mut self, args: &mut ArgumentConsumer) -> Result<()> {
        let (slot, to) = (Slot(u16::try_from(number(args)?)?), number(args)?);
        let to = GroupId(u32::try_from(to)?);
        let (from, epoch) = self.view.map.owners.of(slot).ok_or("nobody has it")?;
        let id = MoveId(self.view.map.moves.len() as u64 + 1);
        let order = Move { id, slot, from: Some(from), to, epoch: SlotEpoch(epoch.0 + 1) };
        self.view.map.moves.insert(id, MoveRecord::new(order, LogTime(1)));
        Ok(())
    }

    /// `moved SLOT`: it has come there.
    fn end_move(&mut self, args: &mut ArgumentConsumer) -> Result<()> {
        let slot = Slot(u16::try_from(number(args)?)?);
        let map = &mut self.view.map;
        let id = map.move_of(slot).ok_or("it does not move")?.order.id;
        let record = map.moves.get_mut(&id).ok_or("it does not move")?;
        record.ended = Some((MoveOutcome::Activated, LogTime(2)));
        record.destination_reported = true;
        let Move { to: group, epoch, .. } = record.order;
        map.owners.set_range(OwnerRange { first: slot, last: slot, group, epoch });
        Ok(())
    }

    /// What the node knows is known to the front end when this returns.
    fn tell(&mut self) {
        self.view.map.version += 1;
        self.statuses.send_replace(Arc::new(self.status.clone()));
        let view = ToRouter::View(Box::new(self.view.clone()));
        self.views.blocking_send(view).expect("a front end");
        let known = Value::Simple(format!("STILL {}", self.view.map.version));
        while self.plain.call(&["CLUSTER", "BUMPEPOCH"]).expect("a reply") != known {}
    }

    fn receive(&mut self, count: u64) -> Result<String> {
        let mut output = String::new();
        for _ in 0..count {
            write!(output, "{}", shown(&self.client.receive()?, 0))?;
        }
        Ok(output)
    }
}

fn text<'a>(args: &mut ArgumentConsumer<'a>) -> Result<&'a str> {
    Ok(args.next_pos().ok_or("something is missing")?)
}

fn number(args: &mut ArgumentConsumer) -> Result<u64> {
    Ok(text(args)?.parse()?)
}

/// `|` stands for the end of a line.
fn bytes(text: &str) -> Vec<u8> {
    text.replace('|', "\r\n").into_bytes()
}

/// A reply, its elements below it.
fn shown(value: &Value, depth: usize) -> String {
    let below = |values: &[Value]| {
        let indent = "    ".repeat(depth + 1);
        let lines = values.iter().map(|value| format!("{indent}{}", shown(value, depth + 1)));
        lines.collect::<String>()
    };
    match value {
        Value::Simple(text) => format!("+{text}\n"),
        Value::Error(text) => format!("-{text}\n"),
        Value::Integer(number) => format!(":{number}\n"),
        Value::Bulk(bytes) => match String::from_utf8_lossy(bytes) {
            text if text.contains('\n') => {
                let lines = text.lines().map(|line| Value::Simple(line.to_owned()));
                format!("text\n{}", below(&lines.collect::<Vec<_>>()).replace('+', ""))
            }
            text => format!("{text}\n"),
        },
        Value::Array(items) if items.is_empty() => "none\n".to_owned(),
        Value::Array(items) => format!("{}\n{}", items.len(), below(items)),
        other => format!("{other:?}\n"),
    }
}

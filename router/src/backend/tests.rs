//! The shell around `dispatch`, against a node that is one store behind a channel or a socket.

use super::{Answered, Backend, BackendConfig, LocalNode, Refusal, ReplySink, Target, Work};
use crate::dial::read_message;
use crate::dispatch::Bounds;
use bytes::{Bytes, BytesMut};
use shard_core::cluster_config::{ClusterConfig, ConfigNum, GroupConfig, NodeConfig, SlotRange};
use shard_core::codec::{
    EntryBatch, EntryItem, WIRE_FRAME_BYTES_MAX, WireFrame, decode_frame, encode_frame,
};
use shard_core::handshake::{Credentials, Listener, Secret, TOKEN_VERSION};
use shard_core::op::{Op, Outcome, Token};
use shard_core::session::{LogTime, SessionId};
use shard_core::shard_store::{ReadStep, ShardStore};
use shard_core::slot::{SLOTS, Slot, hash_slot};
use shard_core::wire::{Answer, Reply, RequestBatch, RequestBody, ToNode, ToRouter};
use shard_core::{GroupId, NodeId};
use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{LocalSet, spawn_local, yield_now};

const GROUP: GroupId = GroupId(1);
const NODE: NodeId = NodeId(1);

/// A group of one replica: everything is committed at once.
type Store = Rc<RefCell<ShardStore>>;

fn store() -> Store {
    let mut store = ShardStore::new(GROUP);
    let ranges = vec![(Slot(0), Slot(SLOTS - 1))];
    let items = vec![EntryItem::Assign { config: ConfigNum(1), ranges }];
    store.apply(EntryBatch::new(LogTime(1), items));
    Rc::new(RefCell::new(store))
}

fn serve(store: &Store, batch: RequestBatch) -> ToRouter {
    let mut store = store.borrow_mut();
    let answer = |body| match body {
        RequestBody::LogTime => Answer::LogTime(LogTime(1000)),
        RequestBody::Lane(lane) => apply(&mut store, EntryItem::Lane(lane)),
        RequestBody::Group(query) => apply(&mut store, EntryItem::Group(query)),
        RequestBody::Read(read) => match store.read(&read, LogTime(1000), true) {
            ReadStep::Answered(answer) => answer,
            step => panic!("{read:?} {step:?}"),
        },
        RequestBody::Transfer { .. } | RequestBody::Master(_) => Answer::Invalid,
    };
    let mut answer = answer;
    let replies = batch.requests.into_iter();
    ToRouter::Replies(replies.map(|r| Reply { id: r.id, answer: answer(r.body) }).collect())
}

fn apply(store: &mut ShardStore, item: EntryItem) -> Answer {
    let batch = EntryBatch::new(LogTime(1000), vec![item]);
    store.apply(batch).pop().expect("an answer per item")
}

fn credentials() -> Credentials {
    Credentials::new("test", Secret::new(*b"thirty-two bytes of some secret."), 1).unwrap()
}

fn config(peer: String, request_timeout: Duration) -> BackendConfig {
    let mut bootstrap = ClusterConfig { num: ConfigNum(1), ..ClusterConfig::default() };
    bootstrap.nodes.insert(NODE, NodeConfig { peer, resp: String::new() });
    bootstrap.groups.insert(GROUP, GroupConfig { voters: vec![NODE], weight: 1 });
    bootstrap.slots = vec![SlotRange { first: Slot(0), last: Slot(SLOTS - 1), group: GROUP }];
    let bounds = Bounds::default();
    BackendConfig { request_timeout, credentials: credentials(), bootstrap, bounds, seed: [1, 2] }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

fn append(backend: &Backend, sink: &Rc<ReplySink>, tag: u64) {
    let key = Bytes::from_static(b"k");
    let op = Op::Append { key: key.clone(), value: Bytes::from_static(b"x") };
    backend.submit(sink, tag, Target::Slot(hash_slot(&key)), Work::Op(op));
}

async fn collect(sink: &ReplySink, count: usize) -> Vec<(u64, Answered)> {
    let mut answers = Vec::new();
    while answers.len() < count {
        sink.notified().await;
        sink.take(&mut answers);
    }
    answers.sort_by_key(|(tag, _)| *tag);
    answers
}

fn lengths(from: u64, to: u64) -> Vec<(u64, Answered)> {
    (from..=to).map(|n| (n, Answered::Outcome(Outcome::Integer(n as i64)))).collect()
}

/// Appends 1 to `count`; each must answer the length that its place gives.
async fn append_and_check(backend: &Backend, from: u64, to: u64) {
    let sink = Rc::new(ReplySink::new());
    for tag in from..=to {
        append(backend, &sink, tag);
    }
    assert_eq!(collect(&sink, (to - from + 1) as usize).await, lengths(from, to));
}

struct Local {
    backend: Backend,
    from_router: mpsc::Receiver<ToNode>,
    to_router: mpsc::Sender<ToRouter>,
}

/// A backend whose node's end is in the test's hand. Room for one message each way: a full channel
/// must lose nothing and mix nothing up.
fn local(request_timeout: Duration) -> Local {
    let (to_node, from_router) = mpsc::channel(1);
    let (to_router, from_node) = mpsc::channel(1);
    let (_, status) = watch::channel(Arc::default());
    let node = LocalNode { node: NODE, to_node, from_node, status };
    let backend = Backend::start(config(String::new(), request_timeout), Some(node));
    Local { backend, from_router, to_router }
}

async fn serve_local(store: Store, mut from: mpsc::Receiver<ToNode>, to: mpsc::Sender<ToRouter>) {
    while let Some(message) = from.recv().await {
        if let ToNode::Requests(batch) = message {
            let _ = to.send(serve(&store, batch)).await;
        }
    }
}

#[test]
fn the_node_in_this_process_answers_in_order() {
    run(async {
        let Local { backend, from_router, to_router } = local(Duration::from_secs(5));
        spawn_local(serve_local(store(), from_router, to_router));
        append_and_check(&backend, 1, 10_000).await;
        assert_eq!(backend.stats().retries, 0);
        assert_eq!(backend.node(), Some(NODE));
        assert!(backend.status().is_some());
        assert_eq!(backend.stats().pending, 0);
    });
}

#[test]
fn what_is_submitted_in_one_turn_is_one_message() {
    run(async {
        let Local { backend, mut from_router, to_router } = local(Duration::from_secs(5));
        let sink = Rc::new(ReplySink::new());
        for tag in 1..=100 {
            append(&backend, &sink, tag);
        }
        let store = store();
        for expected in [1, 100] {
            let Some(ToNode::Requests(batch)) = from_router.recv().await else { panic!() };
            assert_eq!(batch.requests.len(), expected);
            to_router.send(serve(&store, batch)).await.unwrap();
        }
        assert_eq!(collect(&sink, 100).await, lengths(1, 100));
    });
}

#[test]
fn w03_a_silent_group_is_answered_at_the_deadline() {
    run(async {
        let Local { backend, from_router: _silent, to_router: _open } =
            local(Duration::from_millis(50));
        let sink = Rc::new(ReplySink::new());
        append(&backend, &sink, 1);
        let answers = collect(&sink, 1).await;
        assert_eq!(answers, [(1, Answered::Refused(Refusal::ClusterDown))]);
    });
}

#[test]
fn w13_a_closed_or_dropped_sink_gets_nothing_and_keeps_nothing() {
    run(async {
        let Local { backend, from_router, to_router } = local(Duration::from_secs(5));
        let (closed, dropped) = (Rc::new(ReplySink::new()), Rc::new(ReplySink::new()));
        append(&backend, &closed, 1);
        append(&backend, &dropped, 2);
        append(&backend, &dropped, 3);
        closed.close();
        drop(dropped);
        for _ in 0..10 {
            yield_now().await;
        }
        assert_eq!(backend.stats().pending, 0, "none of it was sent");
        let mut answers = Vec::new();
        closed.take(&mut answers);
        assert_eq!(answers, []);
        spawn_local(serve_local(store(), from_router, to_router));
        append_and_check(&backend, 1, 2).await;
    });
}

/// How the node behind a socket behaves for one connection after another.
#[derive(Clone, Copy)]
enum Behaviour {
    /// Answers everything.
    Good,
    /// Executes one batch, then breaks the connection instead of answering.
    Break,
    /// Takes everything and says nothing, not even to a ping.
    Silent,
    /// Is of the last program before tokens: breaks the connection at one, as at anything that it cannot read.
    Older,
}

fn has_token(batch: &RequestBatch) -> bool {
    let op = |body: &RequestBody| match body {
        RequestBody::Lane(lane) => matches!(lane.op, Op::Token(_)),
        _ => false,
    };
    batch.requests.iter().any(|request| op(&request.body))
}

async fn serve_socket(listener: TcpListener, store: Store, behaviours: Vec<Behaviour>) {
    for behaviour in behaviours {
        let (mut stream, _) = listener.accept().await.unwrap();
        let hands = Listener::new(&credentials(), NODE, [7; 32]);
        let mut hands = match behaviour {
            Behaviour::Older => hands.of_version(TOKEN_VERSION - 1),
            Behaviour::Good | Behaviour::Break | Behaviour::Silent => hands,
        };
        let hello = read_message(&mut stream).await.unwrap();
        stream.write_all(&hands.on_hello(&hello).unwrap()).await.unwrap();
        let proof = read_message(&mut stream).await.unwrap();
        let (_, welcome) = hands.on_proof(&proof).unwrap();
        stream.write_all(&welcome).await.unwrap();
        speak(stream, &store, behaviour).await;
    }
}

async fn speak(mut stream: TcpStream, store: &Store, behaviour: Behaviour) {
    let mut bytes = BytesMut::new();
    while stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {
        let mut out = BytesMut::new();
        while let Some(frame) = decode_frame(&mut bytes, WIRE_FRAME_BYTES_MAX).unwrap() {
            let WireFrame::ToNode(message) = frame else { panic!("{frame:?}") };
            let answer = match message {
                ToNode::Requests(batch)
                    if matches!(behaviour, Behaviour::Older) && has_token(&batch) =>
                {
                    return;
                }
                ToNode::Requests(batch) => serve(store, batch),
                ToNode::Ping => ToRouter::Pong,
                ToNode::View => continue,
            };
            encode_frame(&WireFrame::ToRouter(answer), &mut out);
        }
        match behaviour {
            Behaviour::Good | Behaviour::Older => stream.write_all(&out).await.unwrap(),
            Behaviour::Break => return,
            Behaviour::Silent => {}
        }
    }
}

/// A backend and a node behind a socket that behaves so, one connection after the other.
async fn linked(behaviours: Vec<Behaviour>) -> Backend {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    spawn_local(serve_socket(listener, store(), behaviours));
    Backend::start(config(address, Duration::from_secs(10)), None)
}

#[test]
fn a_link_carries_requests_and_answers() {
    run(async {
        let backend = linked(vec![Behaviour::Good]).await;
        append_and_check(&backend, 1, 5_000).await;
        append_and_check(&backend, 5_001, 5_010).await;
        assert_eq!(backend.stats().retries, 0);
    });
}

#[test]
fn an_older_node_gets_no_token_and_keeps_its_link() {
    run(async {
        let backend = linked(vec![Behaviour::Older, Behaviour::Good]).await;
        let token = || {
            let op = Op::Append { key: Bytes::from_static(b"k"), value: Bytes::from_static(b"t") };
            let name = SessionId::of_token(1);
            Op::Token(Box::new(Token { name, hash: 1, window_ms: 600_000, op }))
        };
        let (sink, slot) = (Rc::new(ReplySink::new()), Target::Slot(hash_slot(b"k")));
        for round in 0..2 {
            backend.submit(&sink, 1, slot, Work::Op(token()));
            let answers = collect(&sink, 1).await;
            assert_eq!(answers, [(1, Answered::Refused(Refusal::OlderNode))]);
            append_and_check(&backend, 10 * round + 1, 10 * round + 10).await;
        }
        assert_eq!(backend.stats().retries, 0);
    });
}

#[test]
fn w02_connections_that_break_after_the_op_was_executed_are_not_noticed() {
    run(async {
        let breaks = [Behaviour::Break; 5].into_iter().chain([Behaviour::Good]).collect();
        let backend = linked(breaks).await;
        append_and_check(&backend, 1, 100).await;
    });
}

#[test]
fn w09_a_node_that_falls_silent_is_left_in_bounded_time() {
    run(async {
        let backend = linked(vec![Behaviour::Silent, Behaviour::Good]).await;
        let from = Instant::now();
        append_and_check(&backend, 1, 3).await;
        assert!(from.elapsed() < Duration::from_secs(5), "{:?}", from.elapsed());
    });
}

#[test]
fn nobody_listens_and_the_deadline_still_holds() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let backend = Backend::start(config(address, Duration::from_millis(100)), None);
        let sink = Rc::new(ReplySink::new());
        append(&backend, &sink, 1);
        let answers = collect(&sink, 1).await;
        assert_eq!(answers, [(1, Answered::Refused(Refusal::ClusterDown))]);
    });
}

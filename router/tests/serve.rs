//! The front end on a live socket, with a node in this process that a task plays.

use router::backend::{Backend, BackendConfig, LocalNode};
use router::dispatch::Bounds;
use router::{FrontEnd, ServeConfig};
use shard_core::cluster_config::{ClusterConfig, ConfigNum, GroupConfig, NodeConfig, SHARDMASTER};
use shard_core::handshake::{Credentials, Secret};
use shard_core::op::{Op, Outcome};
use shard_core::session::LogTime;
use shard_core::slot::{SLOTS, Slot, hash_slot};
use shard_core::wire::{
    Answer, ClusterView, GroupAnswer, GroupQuery, LeaderView, NodeStatus, Reply, Request,
    RequestBody, ToNode, ToRouter, TransferAnswer,
};
use shard_core::{GroupId, NodeId};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn cluster() -> ClusterConfig {
    let node = NodeConfig { peer: "127.0.0.1:1".into(), resp: "127.0.0.1:7001".into() };
    let group = |weight| GroupConfig { voters: vec![NodeId(1)], weight };
    let mut config = ClusterConfig {
        num: ConfigNum(1),
        cluster_id: "test".into(),
        nodes: [(NodeId(1), node)].into(),
        groups: [(SHARDMASTER, group(0)), (GroupId(1), group(1)), (GroupId(2), group(1))].into(),
        slots: Vec::new(),
    };
    config.assign_evenly();
    config
}

/// A node that keeps strings in a map.
#[derive(Default)]
struct FakeNode {
    keys: BTreeMap<(Slot, Vec<u8>), Vec<u8>>,
    /// Answers no request.
    silent: bool,
    /// Answers none for this group.
    stuck: Option<GroupId>,
    /// How many GETs it has had.
    reads: Rc<Cell<usize>>,
}

impl FakeNode {
    fn answer(&mut self, request: &Request, group: GroupId) -> Option<Answer> {
        let log_time = LogTime(1);
        Some(match &request.body {
            RequestBody::LogTime => Answer::LogTime(log_time),
            _ if self.silent || self.stuck == Some(group) => return None,
            RequestBody::Lane(lane) => {
                Answer::Done { outcome: self.apply(lane.slot, &lane.op), log_time }
            }
            RequestBody::Read(read) => {
                Answer::Done { outcome: self.apply(read.slot, &read.op), log_time }
            }
            RequestBody::Group(query) => Answer::Group(self.query(query, group)),
            RequestBody::Transfer { .. } => {
                Answer::Group(GroupAnswer::Transfer(TransferAnswer::Leads))
            }
            RequestBody::Master(_) => Answer::Master(Ok(Default::default())),
        })
    }

    fn query(&self, query: &GroupQuery, group: GroupId) -> GroupAnswer {
        let ranges: Vec<(Slot, Slot)> =
            cluster().ranges_of(group).map(|range| (range.first, range.last)).collect();
        let mine = |slot: &Slot| ranges.iter().any(|(first, last)| (first..=last).contains(&slot));
        let slots = self.keys.keys().map(|(slot, _)| *slot).filter(mine);
        match query {
            GroupQuery::KeyCount => {
                GroupAnswer::KeyCount { keys: slots.count() as u64, expires: 0 }
            }
            GroupQuery::Master(_) => panic!("{query:?} is for the shardmaster"),
            GroupQuery::SlotKeys { .. } => GroupAnswer::SlotKeys(Vec::new()),
            GroupQuery::SlotSizes { .. } => GroupAnswer::SlotSizes(Vec::new()),
            GroupQuery::OccupiedSlots => GroupAnswer::OccupiedSlots {
                occupied: slots.map(|slot| (slot, slot)).collect(),
                owned: ranges,
            },
        }
    }

    fn apply(&mut self, slot: Slot, op: &Op) -> Outcome {
        let at = |key: &[u8]| (slot, key.to_vec());
        match op {
            Op::Get { key } => {
                self.reads.set(self.reads.get() + 1);
                match self.keys.get(&at(key)) {
                    Some(value) => Outcome::Value(value.clone().into()),
                    None => Outcome::Nil,
                }
            }
            Op::Set(set) => {
                self.keys.insert(at(&set.key), set.value.to_vec());
                Outcome::Ok
            }
            Op::Append { key, value } => {
                let whole = self.keys.entry(at(key)).or_default();
                whole.extend_from_slice(value);
                Outcome::Integer(whole.len() as i64)
            }
            Op::MGet { keys } => Outcome::Values(
                keys.iter().map(|key| self.keys.get(&at(key)).cloned().map(Into::into)).collect(),
            ),
            Op::Del { keys } => Outcome::Integer(
                keys.iter().filter(|key| self.keys.remove(&at(key)).is_some()).count() as i64,
            ),
            Op::FlushSlot => {
                self.keys.retain(|key, _| key.0 != slot);
                Outcome::Ok
            }
            // How long it is to be remembered.
            Op::Token(token) => Outcome::Integer(token.window_ms.into()),
            _ => Outcome::Nil,
        }
    }
}

async fn play(mut node: FakeNode, mut inbox: mpsc::Receiver<ToNode>, out: mpsc::Sender<ToRouter>) {
    let leader = LeaderView { leader: Some(NodeId(1)), term: Default::default() };
    let leaders = [SHARDMASTER, GroupId(1), GroupId(2)].map(|group| (group, leader)).into();
    let view = ClusterView { leaders, ..ClusterView::of_config(&cluster()) };
    if out.send(ToRouter::View(Box::new(view.clone()))).await.is_err() {
        return;
    }
    while let Some(message) = inbox.recv().await {
        let reply = match message {
            ToNode::View => ToRouter::View(Box::new(view.clone())),
            ToNode::Ping => ToRouter::Pong,
            ToNode::Requests(batch) => ToRouter::Replies(
                batch
                    .requests
                    .iter()
                    .filter_map(|request| {
                        let answer = node.answer(request, batch.group)?;
                        Some(Reply { id: request.id, answer })
                    })
                    .collect(),
            ),
        };
        if out.send(reply).await.is_err() {
            return;
        }
    }
}

struct Front {
    address: std::net::SocketAddr,
    shutdown: CancellationToken,
    served: tokio::task::JoinHandle<()>,
}

async fn start(node: FakeNode, config: ServeConfig, request_timeout: Duration) -> Front {
    let (to_node, inbox) = mpsc::channel(1024);
    let (out, from_node) = mpsc::channel(1024);
    let (_, status) = watch::channel(Arc::new(NodeStatus::default()));
    spawn_local(play(node, inbox, out));
    let backend = Backend::start(
        BackendConfig {
            request_timeout,
            credentials: Credentials::new("test", Secret::new(*b"secret"), 1).expect("good ones"),
            bootstrap: cluster(),
            bounds: Bounds::default(),
            seed: [1, 2],
        },
        Some(LocalNode { node: NodeId(1), to_node, from_node, status }),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    let front = FrontEnd::new(backend, config);
    let served = spawn_local(async move { front.serve(listener, token).await });
    Front { address, shutdown, served }
}

impl Front {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("a connection")
    }

    /// Sends all of `input`, closes this half, and reads until the server closes the other.
    async fn talk(&self, input: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        // The server may close before it has read everything.
        let _ = stream.write_all(input.as_ref()).await;
        let _ = stream.shutdown().await;
        read_all(&mut stream).await
    }
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut got = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut got)).await.expect("an end").expect("bytes");
    got.escape_ascii().to_string().replace("\\r\\n", " ")
}

async fn read_some(stream: &mut TcpStream, bytes: usize) -> String {
    let mut got = vec![0; bytes];
    timeout(PATIENCE, stream.read_exact(&mut got)).await.expect("in time").expect("bytes");
    String::from_utf8(got).expect("text")
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), test);
}

async fn start_default() -> Front {
    start(FakeNode::default(), ServeConfig::default(), Duration::from_secs(5)).await
}

#[test]
fn keys_are_written_and_read() {
    run(async {
        let front = start_default().await;
        let got = front.talk("SET k v\r\nAPPEND k w\r\nGET k\r\nGET none\r\nDEL k none\r\n").await;
        assert_eq!(got, "+OK :2 $2 vw $-1 :1 ");
    });
}

#[test]
fn w16_each_reply_is_in_the_protocol_of_its_place() {
    run(async {
        let front = start_default().await;
        let got = front.talk("GET a\r\nHELLO 3\r\nGET a\r\nMGET a b\r\nHELLO 2\r\nGET a\r\n").await;
        let (before, rest) = got.split_once("%7 ").expect("a map");
        assert_eq!(before, "$-1 ");
        let after = rest.split_once("modules *0 ").expect("modules").1;
        let (in_resp3, rest) = after.split_once("*14 ").expect("an array");
        assert_eq!(in_resp3, "_ *2 _ _ ");
        assert!(rest.ends_with("modules *0 $-1 "), "{rest}");
    });
}

#[test]
fn commands_over_slots_are_split_and_joined() {
    run(async {
        let front = start_default().await;
        let got =
            front.talk("SET a 1\r\nSET b 2\r\nMGET b x a b\r\nDEL a b c\r\nMGET a b\r\n").await;
        assert_eq!(got, "+OK +OK *4 $1 2 $-1 $1 1 $1 2 :2 *2 $-1 $-1 ");
    });
}

#[test]
fn barriers_see_what_came_before_and_not_what_comes_after() {
    run(async {
        let front = start_default().await;
        let got = front
            .talk("SET a 1\r\nSET b 2\r\nDBSIZE\r\nSET c 3\r\nFLUSHALL\r\nDBSIZE\r\nSET d 4\r\nDBSIZE\r\n")
            .await;
        assert_eq!(got, "+OK +OK :2 +OK +OK :0 +OK :1 ");
    });
}

#[test]
fn b33_nothing_behind_quit_is_run() {
    run(async {
        let front = start_default().await;
        let mut stream = front.connect().await;
        stream.write_all(b"SET k v\r\nQUIT\r\nSET k w\r\n").await.expect("sent");
        assert_eq!(read_all(&mut stream).await, "+OK +OK ");
        assert_eq!(front.talk("GET k\r\n").await, "$1 v ");
    });
}

#[test]
fn a_protocol_error_comes_after_earlier_replies() {
    run(async {
        let front = start_default().await;
        let mut stream = front.connect().await;
        stream.write_all(b"SET k v\r\n*1\r\n:1\r\n").await.expect("sent");
        let got = read_all(&mut stream).await;
        assert_eq!(got, "+OK -ERR Protocol error: expected \\'$\\', got \\':\\' ");
    });
}

#[test]
fn w10_what_needs_no_group_is_answered_without_any() {
    run(async {
        let node = FakeNode { silent: true, ..FakeNode::default() };
        let front = start(node, ServeConfig::default(), Duration::from_millis(300)).await;
        let got = front.talk("PING\r\nECHO x\r\nCLIENT SETNAME n\r\nCLIENT GETNAME\r\n").await;
        assert_eq!(got, "+PONG $1 x +OK $1 n ");
        let got = front.talk("SET k v\r\nPING\r\n").await;
        assert!(got.starts_with("-TIMEOUT no answer within "), "{got}");
        assert!(got.ends_with("the write may or may not be applied +PONG "), "{got}");
    });
}

#[test]
fn a_connection_may_wait_for_less_than_the_router_would() {
    run(async {
        let node = FakeNode { silent: true, ..FakeNode::default() };
        // Longer than anything here is waited for.
        let front = start(node, ServeConfig::default(), 2 * PATIENCE).await;
        let got =
            front.talk("CLIENT REQUEST-TIMEOUT 70\r\nSET k v\r\nGET k\r\nSTRLEN {l}\r\n").await;
        assert!(
            got.starts_with("+OK -TIMEOUT no answer within 70 ms, the write may or may not"),
            "{got}"
        );
        assert_eq!(got.matches("-CLUSTERDOWN").count(), 2, "{got}");
        let max = 2 * PATIENCE.as_millis();
        let got = front.talk(format!("CLIENT REQUEST-TIMEOUT {}\r\n", max + 1)).await;
        let refused =
            format!("-ERR timeout is out of range: no request waits longer than {max} ms here ");
        assert_eq!(got, refused);
        for back in ["CLIENT REQUEST-TIMEOUT 0", "RESET"] {
            let mut stream = front.connect().await;
            let talk = format!("CLIENT REQUEST-TIMEOUT 1\r\nGET a\r\n{back}\r\nGET k\r\n");
            stream.write_all(talk.as_bytes()).await.expect("sent");
            assert!(read_some(&mut stream, 17).await.ends_with("-CLUSTERDOWN"));
            let rest = timeout(Duration::from_millis(100), read_all(&mut stream)).await;
            assert!(rest.is_err(), "{rest:?}");
        }
    });
}

#[test]
fn b31_one_client_too_many_is_told_so() {
    run(async {
        let config = ServeConfig { clients_max: 1, ..ServeConfig::default() };
        let front = start(FakeNode::default(), config, Duration::from_secs(5)).await;
        let mut first = front.connect().await;
        first.write_all(b"PING\r\n").await.expect("sent");
        assert_eq!(read_some(&mut first, 7).await, "+PONG\r\n");
        let mut second = front.connect().await;
        assert_eq!(read_all(&mut second).await, "-ERR max number of clients reached ");
    });
}

#[test]
fn b27_an_idle_client_is_closed_after_its_timeout() {
    run(async {
        let idle_timeout = Some(Duration::from_millis(50));
        let config = ServeConfig { idle_timeout, ..ServeConfig::default() };
        let front = start(FakeNode::default(), config, Duration::from_secs(5)).await;
        let mut stream = front.connect().await;
        stream.write_all(b"*1\r\n$4\r\nPI").await.expect("sent");
        assert_eq!(read_all(&mut stream).await, "");
    });
}

#[test]
fn b28_a_command_over_the_query_buffer_limit_closes_without_a_reply() {
    run(async {
        let config = ServeConfig { query_bytes_max: 1 << 20, ..ServeConfig::default() };
        let front = start(FakeNode::default(), config, Duration::from_secs(5)).await;
        let argument = format!("$300000\r\n{}\r\n", "v".repeat(300_000));
        let mut stream = front.connect().await;
        stream.write_all(b"PING\r\n").await.expect("sent");
        assert_eq!(read_some(&mut stream, 7).await, "+PONG\r\n");
        stream.write_all(format!("*5\r\n{}", argument.repeat(4)).as_bytes()).await.expect("sent");
        let mut got = Vec::new();
        // A reset is an end too: the rest of the command was not read.
        let _ = timeout(PATIENCE, stream.read_to_end(&mut got)).await.expect("an end");
        assert_eq!(got, b"");
        let mut stream = front.connect().await;
        stream.write_all(format!("*3\r\n{}", argument.repeat(3)).as_bytes()).await.expect("sent");
        assert!(read_some(&mut stream, 24).await.starts_with("-ERR unknown command"));
    });
}

#[test]
fn b29_a_client_with_a_reply_over_the_output_limit_is_closed() {
    run(async {
        let config = ServeConfig { output_bytes_max: 1 << 20, ..ServeConfig::default() };
        let front = start(FakeNode::default(), config, Duration::from_secs(5)).await;
        let mut stream = front.connect().await;
        stream.write_all(set_of(4_000_000).as_bytes()).await.expect("sent");
        assert_eq!(read_some(&mut stream, 5).await, "+OK\r\n");
        stream.write_all(b"GET k\r\n").await.expect("sent");
        assert_eq!(read_all(&mut stream).await, "");
    });
}

/// SET of `k` to so many bytes.
fn set_of(bytes: usize) -> String {
    format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${bytes}\r\n{}\r\n", "v".repeat(bytes))
}

/// Reads a bulk string of so many bytes.
async fn read_bulk(stream: &mut TcpStream, bytes: usize) {
    let head = format!("${bytes}\r\n");
    assert_eq!(read_some(stream, head.len()).await, head);
    let mut value = vec![0; bytes + 2];
    timeout(PATIENCE, stream.read_exact(&mut value)).await.expect("in time").expect("bytes");
    assert!(value[..bytes].iter().all(|byte| *byte == b'v') && value.ends_with(b"\r\n"));
}

/// A front end, a connection that has set `k` to `LARGE_BYTES`, and the count of GETs.
async fn start_with_large_value() -> (Front, TcpStream, Rc<Cell<usize>>) {
    let node = FakeNode::default();
    let reads = node.reads.clone();
    let front = start(node, ServeConfig::default(), Duration::from_secs(5)).await;
    let mut stream = front.connect().await;
    stream.write_all(set_of(LARGE_BYTES).as_bytes()).await.expect("sent");
    assert_eq!(read_some(&mut stream, 5).await, "+OK\r\n");
    (front, stream, reads)
}

/// Lets another connection be served, often enough for every other one to have taken all it can.
async fn serve_another(front: &Front) {
    let mut other = front.connect().await;
    for _ in 0..1000 {
        other.write_all(b"SET q 1\r\n").await.expect("sent");
        assert_eq!(read_some(&mut other, 5).await, "+OK\r\n");
    }
}

const LARGE_BYTES: usize = 4_000_000;
/// More of them than may be ahead of their reader.
const READS: usize = 100;

#[test]
fn b29_large_reads_ahead_of_their_reader_wait_and_are_all_answered() {
    run(async {
        let (front, mut stream, reads) = start_with_large_value().await;
        let mut input = String::new();
        for at in 0..READS {
            input += &format!("GET k\r\nECHO {at:03}\r\n");
        }
        stream.write_all(input.as_bytes()).await.expect("sent");
        serve_another(&front).await;
        let mut most_ahead = reads.get();
        assert!(most_ahead > 1);
        for at in 0..READS {
            read_bulk(&mut stream, LARGE_BYTES).await;
            assert_eq!(read_some(&mut stream, 9).await, format!("$3\r\n{at:03}\r\n"));
            most_ahead = most_ahead.max(reads.get().saturating_sub(at + 1));
        }
        assert_eq!(reads.get(), READS);
        // 32 MiB of answers, those in the sockets' buffers, and the one that is being written.
        assert!(most_ahead <= 12, "{most_ahead} values ahead of the reader");
    });
}

#[test]
fn b29_gets_whose_values_turn_large_at_once_are_all_answered() {
    run(async {
        let (front, mut stream, reads) = start_with_large_value().await;
        // Small answers make the window wide.
        let warm_up = "GET none\r\n".repeat(1000);
        stream.write_all(warm_up.as_bytes()).await.expect("sent");
        assert_eq!(read_some(&mut stream, 5000).await, "$-1\r\n".repeat(1000));
        reads.set(0);
        stream.write_all("GET k\r\n".repeat(READS).as_bytes()).await.expect("sent");
        serve_another(&front).await;
        for _ in 0..READS {
            read_bulk(&mut stream, LARGE_BYTES).await;
        }
        assert!(reads.get() > READS, "none was asked again");
        stream.write_all(b"PING\r\n").await.expect("sent");
        assert_eq!(read_some(&mut stream, 7).await, "+PONG\r\n");
    });
}

#[test]
fn w12_a_shutdown_answers_what_was_taken() {
    run(async {
        let front = start_default().await;
        let mut stream = front.connect().await;
        stream.write_all(b"PING\r\n").await.expect("sent");
        assert_eq!(read_some(&mut stream, 7).await, "+PONG\r\n");
        stream.write_all(b"SET k v\r\nGET k\r\n").await.expect("sent");
        assert_eq!(read_some(&mut stream, 5).await, "+OK\r\n");
        front.shutdown.cancel();
        assert_eq!(read_all(&mut stream).await, "$1 v ");
        timeout(PATIENCE, front.served).await.expect("an end").expect("no panic");
        assert!(TcpStream::connect(front.address).await.is_err());
    });
}

#[test]
fn w05_ten_thousand_commands_over_all_slots_keep_their_order() {
    run(async {
        let front = start_default().await;
        let mut input = String::new();
        let mut expected = String::new();
        for i in 0..10_000 {
            assert!(hash_slot(format!("key{i}").as_bytes()) < Slot(SLOTS));
            input += &format!("SET key{i} {i}\r\nGET key{i}\r\n");
            let value = i.to_string();
            expected += &format!("+OK ${} {value} ", value.len());
        }
        assert!(front.talk(input).await == expected);
    });
}

#[test]
fn w05_a_group_that_is_stuck_holds_up_nobody_else_and_no_order() {
    run(async {
        let stuck = GroupId(2);
        let node = FakeNode { stuck: Some(stuck), ..FakeNode::default() };
        let front = start(node, ServeConfig::default(), Duration::from_millis(100)).await;
        let group = |key: &str| cluster().group_of(hash_slot(key.as_bytes()));
        let mut input = String::new();
        let mut expected = Vec::new();
        for i in 0..10_000 {
            let key = format!("key{i}");
            input += &format!("GET {key}\r\n");
            expected.push(if group(&key) == Some(stuck) { "-CLUSTERDOWN" } else { "$-1" });
        }
        let mut held_up = front.connect().await;
        let (mut from, mut to) = held_up.split();
        let asked = async {
            to.write_all(input.as_bytes()).await.expect("sent");
            to.shutdown().await.expect("no more");
        };
        let answered = async {
            let mut got = Vec::new();
            timeout(PATIENCE, from.read_to_end(&mut got)).await.expect("an end").expect("bytes");
            String::from_utf8(got).expect("text")
        };
        // Somebody else, whose group is well, is served while that waits.
        let other = async {
            let key = (0..).map(|i| format!("other{i}")).find(|key| group(key) != Some(stuck));
            let key = key.expect("one of them");
            for _ in 0..100 {
                let got = front.talk(format!("SET {key} v\r\nGET {key}\r\n")).await;
                assert_eq!(got, "+OK $1 v ");
            }
        };
        let ((), text, ()) = tokio::join!(asked, answered, other);
        let replies: Vec<&str> =
            text.lines().map(|line| line.split(' ').next().unwrap_or_default()).collect();
        assert_eq!(replies.len(), expected.len());
        assert!(replies == expected, "each in its place");
    });
}

#[test]
fn a_value_of_five_megabytes_and_every_byte_comes_back() {
    run(async {
        let front = start_default().await;
        let mut value: Vec<u8> = (0..=255).cycle().take(5_000_000).collect();
        value.push(b'x');
        let mut input = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n", value.len()).into_bytes();
        input.extend_from_slice(&value);
        input.extend_from_slice(b"\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
        let mut stream = front.connect().await;
        stream.write_all(&input).await.expect("sent");
        let head = format!("+OK\r\n${}\r\n", value.len());
        assert_eq!(read_some(&mut stream, head.len()).await, head);
        let mut got = vec![0; value.len()];
        timeout(PATIENCE, stream.read_exact(&mut got)).await.expect("in time").expect("bytes");
        assert!(got == value);
    });
}

#[test]
fn info_has_each_section_alone_and_all_together() {
    const SECTIONS: [&str; 10] = [
        "Server",
        "Clients",
        "Memory",
        "Persistence",
        "Stats",
        "Replication",
        "CPU",
        "Cluster",
        "Keyspace",
        "Raft",
    ];
    /// The names behind `#`, in order.
    fn titles(reply: &str) -> Vec<&str> {
        let parts = reply.split("# ").skip(1);
        parts.map(|part| part.split(' ').next().expect("a title")).collect()
    }
    run(async {
        let front = start_default().await;
        for section in SECTIONS {
            let got = front.talk(format!("INFO {section}\r\n")).await;
            assert_eq!(titles(&got), [section], "{got}");
        }
        for all in ["INFO", "INFO all", "INFO everything", "INFO default", "info nope ALL"] {
            assert_eq!(titles(&front.talk(format!("{all}\r\n")).await), SECTIONS, "{all}");
        }
        let got = front.talk("INFO keyspace server nope\r\n").await;
        assert_eq!(titles(&got), ["Server", "Keyspace"]);
        assert_eq!(front.talk("INFO nope\r\n").await, "$0  ");
        let got = front.talk("HELLO 3\r\nINFO cluster\r\n").await;
        assert!(got.contains("txt:# Cluster cluster_enabled:1 "), "{got}");
    });
}

#[test]
fn config_get_matches_names_by_patterns() {
    run(async {
        let front = start_default().await;
        for (patterns, reply) in [
            ("[mn]axcl?ents", "*2 $10 maxclients $5 10000 "),
            ("maxc*ts maxclients", "*2 $10 maxclients $5 10000 "),
            ("MAXclients", "*2 $10 MAXclients $5 10000 "),
            ("MAXCLIENT* MAXclients", "*2 $10 maxclients $5 10000 "),
            ("nope", "*0 "),
        ] {
            assert_eq!(front.talk(format!("CONFIG GET {patterns}\r\n")).await, reply, "{patterns}");
        }
        let got = front.talk("HELLO 3\r\nCONFIG GET databases\r\nCONFIG GET nope\r\n").await;
        assert!(got.ends_with("%1 $9 databases $1 1 %0 "), "{got}");
    });
}

#[test]
fn a_token_is_remembered_for_longer_than_is_set_by_what_a_copy_may_wait() {
    // As the command line takes them; 55 s are for clocks that differ.
    for (timeout_ms, longer) in [(100, 55_100), (5000, 60_000), (600_000, 655_000)] {
        run(async move {
            let config = ServeConfig { idmp_window_ms: 5000, ..ServeConfig::default() };
            let timeout = Duration::from_millis(timeout_ms);
            let front = start(FakeNode::default(), config, timeout).await;
            let got = front
                .talk(
                    "CONFIG GET idmp-window-ms\r\nIDMP p 1 SET k v\r\nCONFIG SET IDMP-Window-MS 9999\r\n\
                     CONFIG GET idmp*\r\nIDMP p 1 SET k v\r\nCLIENT IDMP p 1\r\nSET k v\r\n",
                )
                .await;
            let shown = |ms| format!("*2 $14 idmp-window-ms $4 {ms} ");
            let (before, after) = (shown(5000), shown(9999));
            let [first, then] = [5000 + longer, 9999 + longer];
            assert_eq!(got, format!("{before}:{first} +OK {after}:{then} +OK :{then} "));
            let other = front.talk("CLIENT REQUEST-TIMEOUT 100\r\nIDMP p 1 SET k v\r\n").await;
            assert_eq!(other, format!("+OK :{then} "), "for all connections of the router");
            let most =
                front.talk("CONFIG SET idmp-window-ms 86400000\r\nIDMP p 1 SET k v\r\n").await;
            assert_eq!(most, format!("+OK :{} ", 86_400_000 + longer));
        });
    }
}

#[test]
fn reset_forgets_protocol_and_name() {
    run(async {
        let front = start_default().await;
        let got = front
            .talk("HELLO 3 SETNAME n\r\nCLIENT INFO\r\nRESET\r\nCLIENT GETNAME\r\nCLIENT INFO\r\n")
            .await;
        let (before, after) = got.split_once("+RESET ").expect("a reset");
        assert!(before.contains(" name=n ") && before.contains(" resp=3 "), "{before}");
        assert!(after.starts_with("$-1 $"), "{after}");
        assert!(after.contains(" name= ") && after.contains(" resp=2 "), "{after}");
    });
}

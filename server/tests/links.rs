//! Links between nodes, and routers at the peer port, over loopback.

use bytes::{Bytes, BytesMut};
use raft_core::frame::encode_entry;
use raft_core::message::{AppendEntries, Message, PreVoteReply};
use raft_core::snapshot::SnapshotId;
use raft_core::types::{EntryId, EntryKind, Index, Term};
use router::dial::{DialError, dial};
use server::listener::{ConnId, Inbound, Known, LocalIdentity, listen};
use server::snapshot_bytes::{INCOMING_BYTES_MAX, SnapshotBytes};
use server::transport::{AppendSource, CHUNK_BYTES_MAX, Transport};
use shard_core::checkpoint::SnapshotChunk;
use shard_core::codec::{WireFrame, decode_frame, encode_frame};
use shard_core::handshake::{
    Credentials, HANDSHAKE_TIMEOUT_MS, HandshakeError, Purpose, RefuseReason, Secret, VERSION_MAX,
};
use shard_core::wire::{RaftEnvelope, ToNode, ToRouter};
use shard_core::{GroupId, NodeId};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const N1: NodeId = NodeId(1);
const N2: NodeId = NodeId(2);
const N3: NodeId = NodeId(3);
/// Far above what any step takes; only a failure waits so long.
const LONG: Duration = Duration::from_secs(20);

fn identity(node: NodeId, epoch: u64) -> LocalIdentity {
    LocalIdentity { node, epoch, cluster_id: "c".into(), secret: Secret::new("secret") }
}

/// Appends that wait to be pulled, in order, by peer.
#[derive(Default)]
struct Appends(RefCell<BTreeMap<NodeId, VecDeque<RaftEnvelope>>>);

impl AppendSource for Appends {
    fn next_append(&self, peer: NodeId, room: usize) -> Option<RaftEnvelope> {
        let mut all = self.0.borrow_mut();
        let waiting = all.get_mut(&peer)?;
        // Each has one entry, so each may be larger than the room.
        assert!(room > 0);
        waiting.pop_front()
    }
}

fn append(group: u32, index: u64, bytes: usize) -> RaftEnvelope {
    let group = GroupId(group);
    let id = |index| EntryId { index: Index(index), term: Term(1) };
    let entries = vec![encode_entry(group, id(index), EntryKind::Command, &vec![7; bytes])];
    let prev = if index == 1 { EntryId::default() } else { id(index - 1) };
    let (term, commit, stamp, lease_ns) = (Term(1), Index(0), 0, 0);
    RaftEnvelope {
        group,
        message: Message::AppendEntries(AppendEntries {
            term,
            prev,
            commit,
            stamp,
            lease_ns,
            entries: entries.into(),
        }),
    }
}

fn small(round: u64) -> RaftEnvelope {
    let reply = PreVoteReply { term: Term(1), round, granted: true, removed: None };
    RaftEnvelope { group: GroupId(1), message: Message::PreVoteReply(reply) }
}

/// One node's peer port. Dropping the inbox ends its connections.
struct Port {
    address: String,
    inbox: mpsc::Receiver<Inbound>,
    incoming: Arc<SnapshotBytes>,
    known: Rc<Known>,
    shutdown: CancellationToken,
}

async fn port_at(address: &str, local: LocalIdentity, inbox_max: usize) -> Port {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, inbox) = mpsc::channel(inbox_max);
    let shutdown = CancellationToken::new();
    let incoming = SnapshotBytes::new(INCOMING_BYTES_MAX);
    let known = Rc::new(Known::default());
    known.set(Some([N1, N2].into()));
    let (held, until) = (incoming.clone(), shutdown.clone());
    spawn_local(listen(listener, local, known.clone(), sender, held, until));
    Port { address, inbox, incoming, known, shutdown }
}

async fn port(local: LocalIdentity) -> Port {
    port_at("127.0.0.1:0", local, 64).await
}

async fn next(inbox: &mut mpsc::Receiver<Inbound>) -> Inbound {
    timeout(LONG, inbox.recv()).await.expect("nothing came").expect("the inbox was closed")
}

async fn raft_from(inbox: &mut mpsc::Receiver<Inbound>, node: NodeId) -> RaftEnvelope {
    loop {
        match next(inbox).await {
            Inbound::Raft { from, envelope } if from == node => return envelope,
            Inbound::PeerOpened { .. } | Inbound::Clock { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

/// The next link, after any attempts that failed.
async fn link_up(inbox: &mut mpsc::Receiver<Inbound>, node: NodeId) -> (u64, u64) {
    loop {
        match next(inbox).await {
            Inbound::LinkUp { node: up, epoch, link, version: VERSION_MAX } if up == node => {
                return (epoch, link);
            }
            Inbound::LinkDown { node: down, .. } if down == node => {}
            other => panic!("{other:?}"),
        }
    }
}

struct Dialing {
    transport: Rc<Transport>,
    appends: Rc<Appends>,
    inbox: mpsc::Receiver<Inbound>,
}

/// Node 1's links.
fn dialing(peers: &[(NodeId, &str)]) -> Dialing {
    dialing_with(peers, None)
}

fn dialing_with(peers: &[(NodeId, &str)], cluster_port: Option<u16>) -> Dialing {
    let appends = Rc::new(Appends::default());
    let (sender, inbox) = mpsc::channel(64);
    let peers = peers.iter().map(|(node, address)| (*node, (*address).to_owned())).collect();
    let transport = Transport::start(identity(N1, 11), appends.clone(), sender, cluster_port);
    transport.set_peers(peers);
    Dialing { transport, appends, inbox }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

/// With a clock that jumps to the next timer whenever nothing else is to be done.
fn run_without_waiting(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test);
}

#[test]
fn a_node_that_is_forgotten_loses_its_links_and_one_that_comes_gets_them() {
    run(async {
        let mut port = port(identity(N2, 22)).await;
        let mut one = dialing(&[]);
        port.known.set(Some([N2].into()));
        one.transport.set_peers([(N2, port.address.clone())].into());
        match next(&mut one.inbox).await {
            Inbound::LinkDown { node: N2, refused: false } => {}
            other => panic!("{other:?}, though nobody knows node 1"),
        }
        port.known.set(Some([N1, N2].into()));
        link_up(&mut one.inbox, N2).await;
        one.transport.send(N2, small(1));
        assert_eq!(raft_from(&mut port.inbox, N1).await, small(1));
        port.known.set(Some([N2].into()));
        match next(&mut one.inbox).await {
            Inbound::LinkDown { node: N2, .. } => {}
            other => panic!("{other:?}, though node 1 was forgotten"),
        }
        // A spare has heard of no cluster: it takes whoever proves the secret.
        port.known.set(None);
        link_up(&mut one.inbox, N2).await;
        one.transport.send(N2, small(2));
        assert_eq!(raft_from(&mut port.inbox, N1).await, small(2));
    });
}

#[test]
fn on_each_link_a_node_says_first_which_process_it_is_its_clock_and_its_cluster_port() {
    run(async {
        let mut port = port(identity(N2, 22)).await;
        for cluster_port in [Some(7001), None] {
            let mut one = dialing_with(&[(N2, &port.address)], cluster_port);
            link_up(&mut one.inbox, N2).await;
            one.transport.send(N2, small(1));
            match next(&mut port.inbox).await {
                Inbound::PeerOpened { from: N1, epoch: 11 } => {}
                other => panic!("{other:?}"),
            }
            match next(&mut port.inbox).await {
                // It was right when this was written.
                Inbound::Clock { from: N1, clock } => assert!(clock.0 > 1_700_000_000_000),
                other => panic!("{other:?}"),
            }
            if let Some(expected) = cluster_port {
                match next(&mut port.inbox).await {
                    Inbound::ClusterPort { from: N1, port } => assert_eq!(port, expected),
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(raft_from(&mut port.inbox, N1).await, small(1));
        }
    });
}

#[test]
fn messages_and_pulled_appends_arrive_in_order() {
    run(async {
        let mut port = port(identity(N2, 22)).await;
        let mut one = dialing(&[(N2, &port.address)]);
        one.transport.send(N2, small(0));
        assert_eq!(one.transport.stats().dropped, 1, "there was no link");
        assert_eq!(link_up(&mut one.inbox, N2).await, (22, 1));

        for round in 0..1000 {
            one.transport.send(N2, small(round));
        }
        for round in 0..1000 {
            assert_eq!(raft_from(&mut port.inbox, N1).await, small(round));
        }
        let appends: Vec<_> = (1..=1000).map(|index| append(1, index, 1000)).collect();
        one.appends.0.borrow_mut().insert(N2, appends.clone().into());
        one.transport.wake(N2);
        for expected in &appends {
            assert_eq!(raft_from(&mut port.inbox, N1).await, *expected);
        }
        let stats = one.transport.stats();
        assert_eq!((stats.sent, stats.links), (2000, 1));
    });
}

#[test]
fn a_big_append_does_not_hold_up_small_messages_and_is_not_overtaken_in_its_group() {
    run(async {
        let mut port = port_at("127.0.0.1:0", identity(N2, 22), 1).await;
        let mut one = dialing(&[(N2, &port.address)]);
        link_up(&mut one.inbox, N2).await;
        let appends = [append(1, 1, 40 << 20), append(1, 2, 10), append(2, 1, 10)];
        let again = append(1, 1, 40 << 20);
        let pulled: VecDeque<_> = appends.iter().cloned().chain([again]).collect();
        one.appends.0.borrow_mut().insert(N2, pulled);
        one.transport.wake(N2);
        let mut seen: Vec<RaftEnvelope> = Vec::new();
        let (mut round, mut before_big) = (0, 0);
        while seen.len() < 3 {
            // Heartbeats go on all the while.
            one.transport.send(N2, small(round));
            match raft_from(&mut port.inbox, N1).await {
                small if matches!(small.message, Message::PreVoteReply(_)) => round += 1,
                append => {
                    before_big = if append == appends[0] { round } else { before_big };
                    seen.push(append);
                }
            }
        }
        assert!(before_big > 1, "R27: small messages waited for the big one");
        assert_eq!(one.transport.stats().dropped, 1, "the same entry went twice");
        let of_group_1: Vec<_> = seen.iter().filter(|seen| seen.group == GroupId(1)).collect();
        assert_eq!(of_group_1, [&appends[0], &appends[1]]);
        assert!(seen.contains(&appends[2]));
    });
}

#[test]
fn a_broken_link_is_reported_and_comes_back_under_a_new_number() {
    run(async {
        let first = port(identity(N2, 22)).await;
        let address = first.address.clone();
        let mut one = dialing(&[(N2, &address)]);
        assert_eq!(link_up(&mut one.inbox, N2).await, (22, 1));
        first.shutdown.cancel();
        drop(first);
        assert!(matches!(
            next(&mut one.inbox).await,
            Inbound::LinkDown { node: N2, refused: false }
        ));
        // Nobody listens there, and that is said.
        assert!(matches!(
            next(&mut one.inbox).await,
            Inbound::LinkDown { node: N2, refused: true }
        ));
        let mut second = port_at(&address, identity(N2, 23), 64).await;
        assert_eq!(link_up(&mut one.inbox, N2).await, (23, 2));
        one.transport.send(N2, small(5));
        assert_eq!(raft_from(&mut second.inbox, N1).await, small(5));

        // A peer that moves: down first, then up at the new place.
        let third = port(identity(N2, 24)).await;
        one.transport.set_peers([(N2, third.address.clone())].into());
        assert!(matches!(
            next(&mut one.inbox).await,
            Inbound::LinkDown { node: N2, refused: false }
        ));
        assert_eq!(link_up(&mut one.inbox, N2).await, (24, 3));
        one.transport.set_peers(BTreeMap::new());
        assert!(matches!(
            next(&mut one.inbox).await,
            Inbound::LinkDown { node: N2, refused: false }
        ));
    });
}

#[test]
fn a_peer_that_does_not_read_blocks_only_its_own_link() {
    run(async {
        let mut good = port(identity(N2, 22)).await;
        // Reads one message and then no more: its inbox has no room.
        let stuck = port_at("127.0.0.1:0", identity(N3, 33), 1).await;
        let mut one = dialing(&[(N2, &good.address), (N3, &stuck.address)]);
        next(&mut one.inbox).await;
        next(&mut one.inbox).await;
        let flood: VecDeque<_> = (1..=64).map(|index| append(1, index, 200 << 10)).collect();
        one.appends.0.borrow_mut().insert(N3, flood);
        one.transport.wake(N3);
        for round in 0..100 {
            one.transport.send(N3, small(round));
            one.transport.send(N2, small(round));
            assert_eq!(raft_from(&mut good.inbox, N1).await, small(round));
        }
        assert!(!one.appends.0.borrow()[&N3].is_empty(), "the stuck link took everything");
        drop(stuck);
    });
}

/// A piece of 256 KiB.
fn chunk(number: u64) -> SnapshotChunk {
    let bytes = Bytes::from(vec![number as u8; 256 << 10]);
    SnapshotChunk { group: GroupId(1), id: SnapshotId::default(), offset: number << 18, bytes }
}

#[test]
fn pieces_of_snapshots_beyond_what_a_node_may_hold_are_dropped_and_nothing_else() {
    run(async {
        let mut port = port(identity(N2, 22)).await;
        let mut peer = connect(&port.address, "secret", "c", Some(N1), None).await.unwrap();
        let room = INCOMING_BYTES_MAX >> 18;
        for number in 0..room + 6 {
            peer.write_all(&frame(WireFrame::Chunk(chunk(number)))).await.unwrap();
        }
        peer.write_all(&frame(WireFrame::Raft(small(1)))).await.unwrap();
        assert!(matches!(next(&mut port.inbox).await, Inbound::PeerOpened { .. }));
        let mut held = Vec::new();
        loop {
            match next(&mut port.inbox).await {
                Inbound::Chunk { from: N1, chunk } => held.push(chunk),
                Inbound::Raft { from: N1, envelope } => {
                    assert_eq!(envelope, small(1));
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(held == (0..room).map(chunk).collect::<Vec<_>>());
        let counts = |port: &Port| (port.incoming.now(), port.incoming.put_off());
        assert_eq!(counts(&port), (INCOMING_BYTES_MAX, 6));
        // What is in the file by now makes room.
        drop(held);
        peer.write_all(&frame(WireFrame::Chunk(chunk(room)))).await.unwrap();
        let Inbound::Chunk { chunk: again, .. } = next(&mut port.inbox).await else {
            panic!("no piece")
        };
        assert!(again == chunk(room));
        drop(again);
        assert_eq!((counts(&port), port.incoming.peak()), ((0, 6), INCOMING_BYTES_MAX));
    });
}

#[test]
fn pieces_of_snapshots_beyond_what_a_link_may_hold_are_dropped() {
    run(async {
        let mut port = port(identity(N2, 22)).await;
        let mut dialing = dialing(&[(N2, &port.address)]);
        link_up(&mut dialing.inbox, N2).await;
        let room = CHUNK_BYTES_MAX >> 18;
        for number in 0..room + 7 {
            dialing.transport.chunk(N2, chunk(number));
        }
        assert_eq!(dialing.transport.stats().dropped, 7);
        assert!(matches!(next(&mut port.inbox).await, Inbound::PeerOpened { .. }));
        for number in 0..room {
            let piece = loop {
                match next(&mut port.inbox).await {
                    Inbound::Chunk { chunk, .. } => break chunk,
                    Inbound::Clock { .. } => {}
                    other => panic!("{other:?}"),
                }
            };
            assert!(piece == chunk(number), "in their order");
        }
        dialing.transport.chunk(N2, chunk(room));
        assert!(
            matches!(next(&mut port.inbox).await, Inbound::Chunk { .. }),
            "there is room again"
        );
    });
}

/// A peer that reads nothing, like one that is stopped.
#[test]
fn pieces_for_a_peer_that_is_silent_make_room_for_others() {
    run(async {
        let port = port_at("127.0.0.1:0", identity(N2, 22), 1).await;
        let mut dialing = dialing(&[(N2, &port.address)]);
        link_up(&mut dialing.inbox, N2).await;
        let outgoing = SnapshotBytes::new(CHUNK_BYTES_MAX);
        let held = |number| {
            let make = || Ok::<_, Infallible>(chunk(number).bytes.to_vec());
            let Ok(bytes) = outgoing.hold(256 << 10, make);
            bytes.map(|bytes| SnapshotChunk { bytes, ..chunk(number) })
        };
        let mut number = 0;
        // Until sockets and queue are full: a yield lets the link write what it can.
        let mut full = 0;
        while full < 100 {
            match held(number) {
                Some(chunk) => {
                    (number, full) = (number + 1, 0);
                    dialing.transport.chunk(N2, chunk);
                }
                None => full += 1,
            }
            tokio::task::yield_now().await;
        }
        dialing.transport.drop_chunks(N2);
        assert!(outgoing.now() <= 256 << 10, "but for the one that is being written");
        assert!(held(number).is_some());
    });
}

#[test]
fn a_new_connection_of_a_node_replaces_the_one_before() {
    run(async {
        let mut port = port(identity(N2, 22)).await;
        let mut old = connect(&port.address, "secret", "c", Some(N1), None).await.unwrap();
        let mut new = connect(&port.address, "secret", "c", Some(N1), None).await.unwrap();
        assert_closed(&mut old).await;
        new.write_all(&frame(WireFrame::Raft(small(1)))).await.unwrap();
        assert_eq!(raft_from(&mut port.inbox, N1).await, small(1));
    });
}

async fn connect(
    address: &str,
    secret: &str,
    cluster: &str,
    node: Option<NodeId>,
    expected: Option<NodeId>,
) -> Result<TcpStream, DialError> {
    let credentials = Credentials::new(cluster, Secret::new(secret), 5).unwrap();
    let purpose = if node.is_some() { Purpose::Control } else { Purpose::Router };
    dial(address, &credentials, node, purpose, expected, [9; 32]).await.map(|(stream, _)| stream)
}

fn frame(frame: WireFrame) -> BytesMut {
    let mut bytes = BytesMut::new();
    encode_frame(&frame, &mut bytes);
    bytes
}

async fn assert_closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    // A reset is as good as an end, so long as nothing was said.
    let _ = timeout(LONG, stream.read_to_end(&mut rest)).await.expect("it was not closed");
    assert!(rest.is_empty(), "{rest:?}");
}

#[test]
fn strangers_are_closed_without_an_answer() {
    run(async {
        let mut port = port(identity(N2, 22)).await;
        let tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
        let mut not_ours = vec![0, 9];
        not_ours.extend_from_slice(b"\x01FLTX\x01\x01\x01\x00");
        let strangers: [&[u8]; 5] =
            [b"GET / HTTP/1.1\r\n\r\n", b"*1\r\n$4\r\nPING\r\n", tls, &[0xff; 4096], &not_ours];
        for stranger in strangers {
            let mut stream = TcpStream::connect(&port.address).await.unwrap();
            stream.write_all(stranger).await.unwrap();
            assert_closed(&mut stream).await;
        }
        assert!(port.inbox.try_recv().is_err());
    });
}

#[test]
fn whoever_stops_in_the_handshake_is_closed_when_its_time_is_over() {
    run_without_waiting(async {
        let port = port(identity(N2, 22)).await;
        for start in [&b""[..], &[0], &[0, 66, 1, b'F']] {
            let began = tokio::time::Instant::now();
            let mut stream = TcpStream::connect(&port.address).await.unwrap();
            stream.write_all(start).await.unwrap();
            assert_closed(&mut stream).await;
            assert!(began.elapsed() >= Duration::from_millis(HANDSHAKE_TIMEOUT_MS));
        }
    });
}

#[test]
fn whoever_does_not_belong_is_refused_with_the_reason() {
    run(async {
        let mut port = port(identity(N2, 22)).await;
        let address = port.address.clone();
        let refused = async |secret, cluster, node, expected| match connect(
            &address, secret, cluster, node, expected,
        )
        .await
        .unwrap_err()
        {
            DialError::Handshake(error) => error,
            other => panic!("{other}"),
        };
        let by_listener = HandshakeError::Refused;
        assert_eq!(
            refused("secret", "d", None, None).await,
            by_listener(RefuseReason::WrongCluster)
        );
        assert_eq!(
            refused("secret", "c", Some(N1), Some(N3)).await,
            by_listener(RefuseReason::WrongNode)
        );
        assert_eq!(
            refused("secret", "c", Some(N3), Some(N2)).await,
            by_listener(RefuseReason::UnknownNode)
        );
        // The dialer sees first that the listener's proof does not hold.
        assert_eq!(
            refused("guess", "c", Some(N1), Some(N2)).await,
            HandshakeError::Refuse(RefuseReason::WrongSecret)
        );
        assert!(port.inbox.try_recv().is_err());
    });
}

#[test]
fn a_bad_frame_closes_its_connection_and_nothing_else() {
    run(async {
        let mut port = port(identity(N2, 22)).await;
        let mut flipped = frame(WireFrame::Raft(small(1)));
        let last = flipped.len() - 1;
        flipped[last] ^= 1;
        let huge = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 1, 1];
        let wrong = frame(WireFrame::ToNode(ToNode::Ping));
        let bad: [&[u8]; 4] = [&flipped, &huge, &[0; 16], &wrong];
        for bytes in bad {
            let mut peer = connect(&port.address, "secret", "c", Some(N1), None).await.unwrap();
            peer.write_all(bytes).await.unwrap();
            assert_closed(&mut peer).await;
        }
        let mut peer = connect(&port.address, "secret", "c", Some(N1), None).await.unwrap();
        peer.write_all(&frame(WireFrame::Raft(small(2)))).await.unwrap();
        assert_eq!(raft_from(&mut port.inbox, N1).await, small(2));
    });
}

#[test]
fn a_router_asks_and_is_answered_until_either_end_closes() {
    run(async {
        let mut port = port(identity(N2, 22)).await;
        let mut first = connect(&port.address, "secret", "c", None, None).await.unwrap();
        let Inbound::RouterOpened { conn: ConnId(1), replies } = next(&mut port.inbox).await else {
            panic!("no router")
        };
        first.write_all(&frame(WireFrame::ToNode(ToNode::Ping))).await.unwrap();
        let Inbound::FromRouter { conn: ConnId(1), message } = next(&mut port.inbox).await else {
            panic!("no request")
        };
        assert_eq!(message, ToNode::Ping);
        for _ in 0..500 {
            replies.send(ToRouter::Pong).await.unwrap();
        }
        drop(replies);
        let mut answers = Vec::new();
        timeout(LONG, first.read_to_end(&mut answers)).await.unwrap().unwrap();
        let mut answers = BytesMut::from(&answers[..]);
        for _ in 0..500 {
            let answer = decode_frame(&mut answers, 1000).unwrap();
            assert_eq!(answer, Some(WireFrame::ToRouter(ToRouter::Pong)));
        }
        assert!(answers.is_empty());
        assert!(matches!(next(&mut port.inbox).await, Inbound::RouterClosed { conn: ConnId(1) }));

        let second = connect(&port.address, "secret", "c", None, None).await.unwrap();
        let Inbound::RouterOpened { conn: ConnId(2), replies } = next(&mut port.inbox).await else {
            panic!("no router")
        };
        drop(second);
        assert!(matches!(next(&mut port.inbox).await, Inbound::RouterClosed { conn: ConnId(2) }));
        assert!(replies.send(ToRouter::Pong).await.is_err());
    });
}

use super::samples::Samples;
use super::*;
use crate::migration::{Chunk, MoveStep, PartOf};
use crate::moves::{Move, MoveId, RefuseReason, SlotEpoch};
use crate::op::{
    Expire, ExpireAt, ExpiryCommand, Op, OpError, Outcome, Set, SetCondition, SetExpiry, TimeUnit,
    Token,
};
use crate::session::{Seq, SessionId};
use crate::shardmaster::{MasterError, MasterOp, MasterQuery, MasterReport, RequestId};
use crate::wire::{Answer, GroupAnswer, Reply, Request, RequestBatch, RequestBody, TransferAnswer};
use raft_core::message::RequestVote;
use raft_core::node_pair::{BeliefsPage, Claims};
use raft_core::snapshot::SnapshotId;
use raft_core::types::{Entry, EntryId, EntryKind, HardState, Index, Term};

/// No limit of its own: what these tests build is small.
const ROOM: usize = 1 << 20;

fn encoded(wire: &WireFrame) -> BytesMut {
    let mut bytes = BytesMut::new();
    encode_frame(wire, &mut bytes);
    bytes
}

fn decoded(bytes: &[u8]) -> Result<Option<WireFrame>, CodecError> {
    decode_frame(&mut BytesMut::from(bytes), ROOM)
}

/// A frame with any body, its length and checksum right.
fn sealed(version: u8, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 8];
    bytes.extend([version, kind]);
    bytes.extend(body);
    let length = (bytes.len() - 4) as u32;
    let crc = crc32fast::hash(&bytes[8..]);
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn id(index: u64, term: u64) -> EntryId {
    EntryId { index: Index(index), term: Term(term) }
}

fn entry(group: u32, index: u64, term: u64) -> Entry {
    frame::encode_entry(GroupId(group), id(index, term), EntryKind::Command, b"payload")
}

fn append_entries(prev: EntryId, term: u64, entries: Vec<Entry>) -> WireFrame {
    let (term, commit) = (Term(term), Index(1));
    let message =
        AppendEntries { term, prev, commit, stamp: 5, lease_ns: 0, entries: entries.into() };
    WireFrame::Raft(RaftEnvelope { group: GroupId(7), message: Message::AppendEntries(message) })
}

fn lane_request() -> LaneRequest {
    LaneRequest {
        session: SessionId(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
        deadline: LogTime(301_000),
        slot: Slot(12182),
        seq: Seq(2),
        acked: Seq(1),
        op: Op::Set(Set {
            key: Bytes::from_static(b"foo"),
            value: Bytes::from_static(b"bar"),
            expiry: SetExpiry::AfterMs(1000),
            condition: Some(SetCondition::IfAbsent),
            get: true,
            command: ExpiryCommand::Set,
        }),
    }
}

/// These bytes are on disks and come from nodes of other versions: they never change.
#[test]
fn golden_bytes() {
    let vote = RequestVote { term: Term(3), last: id(2, 1), transfer: false };
    let vote = RaftEnvelope { group: GroupId(7), message: Message::RequestVote(vote) };
    let request = Request { id: 9, body: RequestBody::Lane(lane_request()) };
    let requests = RequestBatch { group: GroupId(7), requests: vec![request] };
    let outcome = Outcome::Value(Bytes::from_static(b"bar"));
    let answer = Answer::Done { outcome, log_time: LogTime(1000) };
    let heartbeat = Heartbeat {
        epoch: 300,
        stamp: 2,
        echo: 1,
        claims: Claims { count: 2, hash: 0x0102 },
        sync_age_ns: 3,
        beliefs: Some(BeliefsPage {
            from: GroupId(0),
            through: GroupId(9),
            pairs: vec![(GroupId(7), Term(4))],
        }),
        disowned: vec![(GroupId(8), Term(5))],
    };
    let chunk = SnapshotChunk {
        group: GroupId(7),
        id: SnapshotId { at: id(300, 2), hash: 9 },
        offset: 256,
        bytes: Bytes::from_static(b"piece"),
    };
    let frames = [
        (WireFrame::Raft(vote), "0c0000005afd10600101070203020100"),
        (
            append_entries(id(1, 1), 3, vec![entry(7, 2, 1), entry(7, 3, 3)]),
            "5a0000006790c20c01010704030101010500020000002000000018713dd80107000000020000000000\
             000001000000000000007061796c6f6164200000005d2ac8eb010700000003000000000000000300\
             0000000000007061796c6f6164",
        ),
        (
            WireFrame::ToNode(ToNode::Requests(requests)),
            "340000007be6fd5701020007010900ef9bafcdf8acd19181deb7de9af1d9a2a302c8af12965f0201\
             0103666f6f0362617202d00f01000100",
        ),
        (WireFrame::ToNode(ToNode::View), "0700000031e1b2bb010201"),
        (WireFrame::ToNode(ToNode::Ping), "070000008bb0bb22010202"),
        (
            WireFrame::ToRouter(ToRouter::Replies(vec![Reply { id: 9, answer }])),
            "11000000931cbf6e0103000109000303626172e807",
        ),
        (WireFrame::ToRouter(ToRouter::Pong), "07000000ca81a03b010302"),
        (WireFrame::Heartbeat(heartbeat), "17000000c2e12b270104ac02020102820203010009010704010805"),
        (WireFrame::Chunk(chunk), "12000000f5be1eac010507ac02020980027069656365"),
        (WireFrame::ClusterPort(7001), "08000000396869090109d936"),
        (WireFrame::Clock(LogTime(300)), "0800000066afd378010aac02"),
    ];
    for (wire, golden) in frames {
        assert_eq!(hex(&encoded(&wire)), golden, "{wire:?}");
    }
}

/// As above, of entries in logs.
#[test]
fn golden_bytes_of_entries() {
    let mut config = ClusterConfig { num: ConfigNum(1), ..ClusterConfig::default() };
    config.cluster_id = "c".to_owned();
    let items = vec![
        EntryItem::Lane(lane_request()),
        EntryItem::Group(GroupQuery::KeyCount),
        EntryItem::Assign { config: ConfigNum(1), ranges: vec![(Slot(0), Slot(16383))] },
        EntryItem::Bootstrap(config),
        EntryItem::Master(MasterRequest {
            id: Some(RequestId(1)),
            op: MasterOp::MoveSlots { ranges: vec![(Slot(0), Slot(300))], to: GroupId(2) },
        }),
    ];
    let batch = EntryBatch::new(LogTime(1000), items);
    assert_eq!(
        hex(&encode_batch(&batch)),
        "01e8070500ef9bafcdf8acd19181deb7de9af1d9a2a302c8af12965f02010103666f6f0362617202\
             d00f01000100010002010100ff7f03010163000000050101050100ac0202"
    );
    let full = EntryBatch { full: true, ..EntryBatch::new(LogTime(1000), Vec::new()) };
    assert_eq!(hex(&encode_batch(&full)), "02e80700");
}

/// A variant's number is its place: one moved, and a program reads another's log wrongly.
#[test]
fn variants_keep_their_numbers() {
    let (key, keys) = (Bytes::new, Vec::new);
    let expire = Expire {
        key: key(),
        at: ExpireAt::AtMs(1),
        nx: false,
        xx: false,
        gt: false,
        lt: false,
        command: ExpiryCommand::PExpireAt,
    };
    let Op::Set(set) = lane_request().op else { panic!("it is a SET") };
    let ops = [
        Op::Get { key: key() },
        Op::Set(set),
        Op::Append { key: key(), value: key() },
        Op::IncrBy { key: key(), by: 0 },
        Op::MGet { keys: keys() },
        Op::Del { keys: keys() },
        Op::Exists { keys: keys() },
        Op::Strlen { key: key() },
        Op::Ttl { key: key(), unit: TimeUnit::Seconds },
        Op::Expire(expire),
        Op::Persist { key: key() },
        Op::Type { key: key() },
        Op::FlushSlot,
        Op::CountKeys,
        Op::ListKeys { count: 0 },
        Op::GetDel { key: key() },
        Op::NoRoom,
        Op::Token(Box::new(Token {
            name: SessionId::of_token(0),
            hash: 1,
            window_ms: 1,
            op: Op::FlushSlot,
        })),
    ];
    for (number, op) in ops.iter().enumerate() {
        assert_eq!(usize::from(bytes_of(op)[0]), number, "{op:?}");
    }

    let (slot, id, round) = (Slot(0), MoveId(0), 0);
    let order = Move { id, slot, from: None, to: GroupId(1), epoch: SlotEpoch(1) };
    let reason = RefuseReason::Cancelled;
    let chunk = Chunk {
        round,
        from: Bytes::new(),
        clear: false,
        rows: Vec::new(),
        next: None,
        frozen: None,
    };
    let steps = [
        MoveStep::BeginExport(order),
        MoveStep::Rotate { slot, id, round },
        MoveStep::Freeze { slot, id, round },
        MoveStep::AbortExport { order, reason },
        MoveStep::CompleteExport { slot, id },
        MoveStep::BeginImport(order),
        MoveStep::Import { slot, id, chunk: chunk.clone() },
        MoveStep::Refuse { order, reason },
        MoveStep::Forget { slot, id },
        MoveStep::ImportPart { slot, id, chunk, part: PartOf { offset: 0, total: 1 } },
    ];
    for (number, step) in steps.iter().enumerate() {
        assert_eq!(usize::from(bytes_of(step)[0]), number, "{step:?}");
    }
    assert_eq!(bytes_of(&EntryItem::Move(MoveStep::Forget { slot, id }))[..], [4, 8, 0, 0]);
}

/// As above, of what is answered.
#[test]
fn variants_of_answers_keep_their_numbers() {
    let log_time = LogTime(0);
    let answers = [
        Answer::Done { outcome: Outcome::Ok, log_time },
        Answer::Group(GroupAnswer::KeyCount { keys: 0, expires: 0 }),
        Answer::LogTime(log_time),
        Answer::NotLeader { hint: None },
        Answer::Busy,
        Answer::Lost,
        Answer::Elsewhere,
        Answer::Expired { log_time },
        Answer::DeadlineTooFar { log_time },
        Answer::Old,
        Answer::Gap { last: Seq(0) },
        Answer::Window,
        Answer::ReplyGone,
        Answer::Invalid,
        Answer::LanesFull,
        Answer::Frozen,
        Answer::Moved { to: GroupId(1), epoch: SlotEpoch(1) },
        Answer::Master(Err(MasterError::NoConfiguration)),
    ];
    let errors = [
        OpError::WrongType,
        OpError::NotAnInteger,
        OpError::Overflow,
        OpError::StringTooLong,
        OpError::InvalidExpireTime(ExpiryCommand::Set),
        OpError::OutOfMemory,
        OpError::NoRoom,
        OpError::TokenReused,
        OpError::TokenReplyGone,
        OpError::TokensFull,
    ];
    for (number, error) in errors.iter().enumerate() {
        assert_eq!(usize::from(bytes_of(error)[0]), number, "{error:?}");
    }
    for (number, answer) in answers.iter().enumerate() {
        assert_eq!(usize::from(bytes_of(answer)[0]), number, "{answer:?}");
    }
}

/// As above, of what groups are asked: that is in logs too.
#[test]
fn variants_of_queries_keep_their_numbers() {
    let (first, last) = (Slot(1), Slot(2));
    let queries = [
        GroupQuery::KeyCount,
        GroupQuery::OccupiedSlots,
        GroupQuery::Master(MasterQuery::EndedMoves),
        GroupQuery::SlotKeys { first, last },
        GroupQuery::SlotSizes { first, last },
    ];
    let answers = [
        GroupAnswer::KeyCount { keys: 0, expires: 0 },
        GroupAnswer::OccupiedSlots { owned: Vec::new(), occupied: Vec::new() },
        GroupAnswer::Transfer(TransferAnswer::Leads),
        GroupAnswer::Master(Box::new(MasterReport::EndedMoves(Vec::new()))),
        GroupAnswer::SlotKeys(Vec::new()),
        GroupAnswer::SlotSizes(Vec::new()),
    ];
    for (number, query) in queries.iter().enumerate() {
        assert_eq!(usize::from(bytes_of(query)[0]), number, "{query:?}");
    }
    for (number, answer) in answers.iter().enumerate() {
        assert_eq!(usize::from(bytes_of(answer)[0]), number, "{answer:?}");
    }
}

#[test]
fn what_is_encoded_is_decoded_and_nothing_is_left() {
    let mut samples = Samples(1);
    let mut stream = BytesMut::new();
    for round in 0..3000 {
        let batch = samples.batch();
        assert_eq!(decode_batch(&encode_batch(&batch)), Ok(batch), "round {round}");

        let (first, second) = (samples.frame(), samples.frame());
        encode_frame(&first, &mut stream);
        encode_frame(&second, &mut stream);
        assert_eq!(decode_frame(&mut stream, ROOM), Ok(Some(first)), "round {round}");
        assert_eq!(decode_frame(&mut stream, ROOM), Ok(Some(second)), "round {round}");
        assert_eq!(decode_frame(&mut stream, ROOM), Ok(None), "round {round}");
        assert!(stream.is_empty(), "round {round}");
    }
}

#[test]
fn a_frame_that_is_not_whole_waits_for_its_rest() {
    let mut samples = Samples(2);
    for _ in 0..200 {
        let wire = samples.frame();
        let bytes = encoded(&wire);
        let cut = samples.below(bytes.len());
        let mut stream = BytesMut::from(&bytes[..cut]);
        assert_eq!(decode_frame(&mut stream, ROOM), Ok(None));
        assert_eq!(stream.len(), cut, "nothing is taken before the frame is whole");
        stream.extend_from_slice(&bytes[cut..]);
        assert_eq!(decode_frame(&mut stream, ROOM), Ok(Some(wire)));
    }
}

#[test]
fn b99_an_impossible_length_is_refused_from_its_four_bytes() {
    for claimed in [0u32, 5, 1021, u32::MAX] {
        let mut stream = BytesMut::from(&claimed.to_le_bytes()[..]);
        let refused = decode_frame(&mut stream, 1024);
        assert!(matches!(refused, Err(CodecError::Length { .. })), "{claimed}: {refused:?}");
        assert!(stream.capacity() < 64, "no memory is taken on a claim");
    }
    for claimed in [6u32, 1020] {
        let mut stream = BytesMut::from(&claimed.to_le_bytes()[..]);
        assert_eq!(decode_frame(&mut stream, 1024), Ok(None), "{claimed}");
    }
}

#[test]
fn every_changed_bit_is_noticed() {
    let wire = append_entries(id(1, 1), 3, vec![entry(7, 2, 1)]);
    let bytes = encoded(&wire);
    for bit in 32..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let refused = decoded(&changed);
        assert!(matches!(refused, Err(CodecError::Checksum { .. })), "bit {bit}: {refused:?}");
    }
}

#[test]
fn a_token_within_a_token_is_refused_however_deep() {
    let name = SessionId::of_token(1);
    let mut op = Op::Persist { key: Bytes::from_static(b"k") };
    for depth in 1..=3 {
        op = Op::Token(Box::new(Token { name, hash: 1, window_ms: 1, op }));
        let read = whole::<Op>(&bytes_of(&op));
        assert_eq!(read.is_ok(), depth == 1, "{depth}: {read:?}");
    }
    let alone = Op::Token(Box::new(Token { name, hash: 1, window_ms: 1, op: Op::FlushSlot }));
    assert_eq!(whole(&bytes_of(&alone)), Ok(alone), "a refusal leaves nothing behind");
}

#[test]
fn versions_kinds_and_bytes_that_do_not_belong_are_refused() {
    let ping = encoded(&WireFrame::ToNode(ToNode::Ping));
    let body = &ping[WIRE_HEADER_BYTES..];
    assert_eq!(decoded(&sealed(1, 2, body)), Ok(Some(WireFrame::ToNode(ToNode::Ping))));
    assert_eq!(decoded(&sealed(0, 2, body)), Err(CodecError::Version(0)));
    assert_eq!(decoded(&sealed(2, 2, body)), Err(CodecError::Version(2)));
    assert_eq!(decoded(&sealed(1, 0, body)), Err(CodecError::Kind(0)));
    assert_eq!(decoded(&sealed(1, 11, body)), Err(CodecError::Kind(11)));
    assert_eq!(decoded(&sealed(1, 2, &[body, b"x"].concat())), Err(CodecError::Trailing(1)));
    for kind in 1..=8 {
        let empty = decoded(&sealed(1, kind, &[]));
        assert!(matches!(empty, Err(CodecError::Body(_))), "{empty:?}");
        let unknown = decoded(&sealed(1, kind, &[7, 0xff]));
        assert!(matches!(unknown, Err(CodecError::Body(_))), "{unknown:?}");
    }
    let name = [7, 1, 1, 9, 0];
    assert_eq!(decoded(&sealed(1, 5, &name)), Err(CodecError::Short));
    let long = [&name[..], &vec![0; CHUNK_BYTES_MAX + 2]].concat();
    assert_eq!(decoded(&sealed(1, 5, &long)), Err(CodecError::Trailing(2)));
    assert_eq!(decode_batch(&[]), Err(CodecError::Short));
    assert_eq!(decode_batch(&[3, 0, 0]), Err(CodecError::Version(3)));
    assert_eq!(decode_batch(&[1, 0, 0, 0]), Err(CodecError::Trailing(1)));
    assert!(matches!(decode_batch(&[1, 0, 1, 99]), Err(CodecError::Body(_))));
}

/// B101: what no leader's log can hold is refused before any replica sees it.
#[test]
fn b101_entries_have_to_follow_one_another() {
    let prev = id(1, 1);
    for (entries, at) in [
        (vec![entry(7, 3, 1)], 0),
        (vec![entry(7, 1, 1)], 0),
        (vec![entry(8, 2, 1)], 0),
        (vec![entry(7, 2, 0)], 0),
        (vec![entry(7, 2, 4)], 0),
        (vec![entry(7, 2, 1), entry(7, 2, 1)], 1),
        (vec![entry(7, 2, 3), entry(7, 3, 2)], 1),
    ] {
        let refused = decoded(&encoded(&append_entries(prev, 3, entries)));
        assert_eq!(refused, Err(CodecError::Entries(at)));
    }
    let end = append_entries(id(u64::MAX, 1), 3, vec![entry(7, 0, 1)]);
    assert_eq!(decoded(&encoded(&end)), Err(CodecError::Entries(0)));

    let hard = frame::encode_hard_state(GroupId(7), HardState::default());
    let hard = Entry { id: id(2, 1), kind: EntryKind::Command, frame: hard };
    let not_an_entry = append_entries(prev, 3, vec![hard]);
    assert_eq!(decoded(&encoded(&not_an_entry)), Err(CodecError::Entries(0)));
}

#[test]
fn a_count_of_entries_is_not_believed() {
    let none = encoded(&append_entries(id(1, 1), 3, vec![]));
    let header = &none[WIRE_HEADER_BYTES..none.len() - 4];
    assert!(decoded(&sealed(1, 1, &[header, &0u32.to_le_bytes()].concat())).is_ok());
    for count in [1, 1000, u32::MAX] {
        let claim = decoded(&sealed(1, 1, &[header, &count.to_le_bytes()].concat()));
        assert_eq!(claim, Err(CodecError::Short), "{count}");
    }
    assert_eq!(decoded(&sealed(1, 1, &[header, b"abc"].concat())), Err(CodecError::Short));
    let more = [header, &0u32.to_le_bytes(), &entry(7, 2, 1).frame].concat();
    let refused = decoded(&sealed(1, 1, &more));
    assert_eq!(refused, Err(CodecError::Trailing(entry(7, 2, 1).frame.len())));
}

#[test]
fn entries_share_the_memory_they_arrived_in() {
    let mut stream = encoded(&append_entries(id(1, 1), 3, vec![entry(7, 2, 1)]));
    let memory = stream.as_ptr_range();
    let Ok(Some(WireFrame::Raft(envelope))) = decode_frame(&mut stream, ROOM) else {
        panic!("the frame is good")
    };
    let Message::AppendEntries(request) = envelope.message else { panic!("it was one") };
    assert!(memory.contains(&request.entries[0].frame.as_ptr()));
}

/// B104: a socket can deliver anything. Checksums are mended, so that bodies are reached.
#[test]
fn b104_garbage_is_refused_without_a_panic() {
    let mut samples = Samples(3);
    let mut refused = 0;
    for _ in 0..20_000 {
        let mut body = encoded(&samples.frame()).split_off(WIRE_HEADER_BYTES);
        for _ in 0..=samples.below(3) {
            match samples.below(3) {
                0 if !body.is_empty() => {
                    let at = samples.below(body.len());
                    body[at] = samples.next() as u8;
                }
                1 => body.truncate(samples.below(body.len() + 1)),
                _ => body.extend_from_slice(&samples.bytes()),
            }
        }
        let kind = 1 + samples.below(3) as u8;
        refused += u32::from(decoded(&sealed(WIRE_VERSION, kind, &body)).is_err());

        let mut payload = encode_batch(&samples.batch());
        let at = samples.below(payload.len());
        payload[at] = samples.next() as u8;
        payload.truncate(at + samples.below(payload.len()));
        refused += u32::from(decode_batch(&payload).is_err());
    }
    assert!(refused > 20_000, "only {refused} of 40000 were refused");
}

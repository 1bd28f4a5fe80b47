//! What programs before this one wrote is read as it was meant.
//!
//! `recorded/handshake-2.tar.gz` is of the last program whose newest handshake was version 2, before clocks and tokens:
//! `data`, the directory of its embedded cluster, checkpointed once and then killed while it wrote; `frames`, 600 frames
//! of all kinds as peers and routers sent them; `batches`, 600 entries of logs, each behind its length (4 bytes, little
//! endian).

use bytes::BytesMut;
use harness::process::{DevCluster, program};
use harness::resp::{Client, Value};
use shard_core::codec::{decode_batch, decode_frame, encode_batch, encode_frame};
use std::process::Command;
use tempfile::TempDir;

/// Bytes of a frame at most.
const FRAME_BYTES_MAX: usize = 1 << 20;

fn recorded() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let archive = concat!(env!("CARGO_MANIFEST_DIR"), "/recorded/handshake-2.tar.gz");
    let unpacked = Command::new("tar").args(["-xzf", archive, "-C"]).arg(folder.path()).status();
    assert!(unpacked.expect("tar runs").success());
    folder
}

#[test]
fn frames_of_the_version_before_mean_what_they_meant() {
    let folder = recorded();
    let bytes = std::fs::read(folder.path().join("frames")).expect("frames");
    let (mut stream, mut again, mut count) = (BytesMut::from(&bytes[..]), BytesMut::new(), 0);
    while let Some(frame) = decode_frame(&mut stream, FRAME_BYTES_MAX).expect("it is known") {
        encode_frame(&frame, &mut again);
        count += 1;
    }
    assert_eq!((count, stream.len()), (600, 0));
    assert!(again == bytes, "a frame was taken for another one");
}

#[test]
fn entries_of_the_version_before_mean_what_they_meant() {
    let folder = recorded();
    let bytes = std::fs::read(folder.path().join("batches")).expect("batches");
    let (mut rest, mut count) = (&bytes[..], 0);
    while let Some((length, behind)) = rest.split_first_chunk() {
        let (entry, behind) = behind.split_at(u32::from_le_bytes(*length) as usize);
        let batch = decode_batch(entry).expect("it is known");
        assert_eq!(encode_batch(&batch), entry, "{batch:?}");
        (rest, count) = (behind, count + 1);
    }
    assert_eq!((count, rest.len()), (600, 0));
}

/// What was in the recorded directory, and what was written since.
fn check(client: &mut Client, more: usize) {
    let mut call = |words: &[&str]| client.call(words).expect("a reply");
    let text = |text: String| Value::Bulk(text.into_bytes());
    let list: String = (1..=80).map(|n| format!("w{n};")).collect();
    assert_eq!(call(&["GET", "list"]), text(list + &"more;".repeat(more)));
    assert_eq!(call(&["GET", "counter"]), text((80 + more).to_string()));
    for n in 1..=60 {
        let gone = n == 7 || n == 8;
        let right = if gone { Value::Nil } else { text(format!("value:{n}")) };
        assert_eq!(call(&["GET", &format!("key:{n}")]), right, "key:{n}");
    }
    assert_eq!(call(&["GET", "big"]), text("b".repeat(3000)));
    assert_eq!(call(&["GET", "last"]), text("1".to_owned()));
    assert_eq!(call(&["GET", "gone"]), Value::Nil);
    assert!(matches!(call(&["TTL", "expiring"]), Value::Integer(1_000_000..=800_000_000)));
}

#[test]
fn a_cluster_of_the_version_before_goes_on() {
    let folder = recorded();
    for node in 1..=3 {
        let directory = folder.path().join(format!("data/node-{node}"));
        let looked_at = Command::new(program()).arg("inspect").arg(directory).output();
        let looked_at = looked_at.expect("the program runs");
        assert!(looked_at.status.success(), "{}", String::from_utf8_lossy(&looked_at.stdout));
    }
    let mut cluster = DevCluster::start_in(folder);
    check(&mut cluster.client(), 0);
    let mut client = cluster.client();
    let mut call = |words: &[&str]| client.call(words).expect("a reply");
    assert_eq!(call(&["APPEND", "list", "more;"]), Value::Integer(316));
    assert_eq!(call(&["IDMP", "p", "1", "INCR", "counter"]), Value::Integer(81));
    let config = call(&["CLUSTER", "CONFIG"]).field("config").clone();
    assert!(matches!(config, Value::Integer(7..)), "{config:?}");
    // What is written now, and what was, is read after a kill, and after a checkpoint.
    cluster.process.kill();
    cluster.restart();
    check(&mut cluster.client(), 1);
    let mut client = cluster.client();
    let again = client.call(&["IDMP", "p", "1", "INCR", "counter"]).expect("a reply");
    assert_eq!(again, Value::Integer(81), "the token is remembered");
    cluster.process.signal("TERM");
    cluster.process.wait(std::time::Duration::from_secs(20));
    cluster.restart();
    check(&mut cluster.client(), 1);
}

//! A disk that runs full under the real program: it stops with a sentence that names the file, and
//! nothing is acknowledged after that.

use harness::process::{Ports, program};
use harness::resp::{Client, Value};
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Size of the file system: enough for a start, full after some of the values below.
const DISK: &str = "24m";
/// Bytes of each value written.
const VALUE_BYTES: usize = 256 << 10;
/// How long the program may take to serve, and to stop once its disk is full.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts an embedded cluster on a small file system of its own, which no other process sees and
/// which goes with it.
fn start_on_small_disk(folder: &std::path::Path, port: u16) -> Child {
    let script = format!(
        "mount -t tmpfs -o size={DISK} none '{dir}' && \
         exec '{program}' dev --nodes 1 --replicas 1 --groups 1 --port {port} --dir '{dir}/data'",
        dir = folder.display(),
        program = program().display(),
    );
    // `-r`: where the caller is not root, it is root in a user namespace of its own.
    Command::new("unshare")
        .args(["-r", "-m", "sh", "-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("unshare (package util-linux) starts")
}

fn connect(child: &mut Child, port: u16) -> Client {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Ok(mut client) = Client::connect(port)
            && client
                .call(&["SET", "first", "value"])
                .is_ok_and(|r| r == Value::Simple("OK".into()))
        {
            return client;
        }
        assert!(child.try_wait().expect("its state").is_none(), "{}", said(child));
        assert!(Instant::now() < end, "port {port} does not serve");
        thread::sleep(Duration::from_millis(20));
    }
}

/// All of its standard error; it must have ended.
fn said(child: &mut Child) -> String {
    let mut text = String::new();
    if let Some(stderr) = &mut child.stderr {
        stderr.read_to_string(&mut text).expect("text");
    }
    text
}

#[test]
fn f04_a_full_disk_stops_the_program_with_a_sentence_that_names_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let ports = Ports::take();
    let mut child = start_on_small_disk(folder.path(), ports.port(0));
    let mut client = connect(&mut child, ports.port(0));
    let value = "v".repeat(VALUE_BYTES);
    let mut acknowledged = 0;
    loop {
        match client.call(&["SET", &format!("key:{acknowledged}"), &value]) {
            Ok(Value::Simple(ok)) if ok == "OK" => acknowledged += 1,
            // The connection ends with the process, or an answer says that nothing was promised.
            Ok(Value::Error(_)) | Err(_) => break,
            Ok(other) => panic!("{other:?}"),
        }
        assert!(acknowledged < 1000, "{DISK} held {acknowledged} values of {VALUE_BYTES} bytes");
    }
    let end = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().expect("its state") {
            break status;
        }
        assert!(Instant::now() < end, "it runs on with a full disk");
        thread::sleep(Duration::from_millis(20));
    };
    let said = said(&mut child);
    assert_eq!(status.code(), Some(1), "{said}");
    let sentence = said.lines().find(|line| line.starts_with("flotilla: ")).expect(&said);
    // Whichever of the two needed room first.
    let named = ["log.redb", "state.redb"].iter().any(|file| sentence.contains(file));
    assert!(named, "{sentence}");
    assert!(sentence.to_lowercase().contains("no space left"), "{sentence}");
    assert!(acknowledged > 0, "nothing was ever written: {said}");
    println!("full after {acknowledged} values: {sentence}");
}

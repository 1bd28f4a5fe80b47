//! A disk that runs full under the real program: what is refused and what goes on, and that writes come
//! back with the room, in the same process.

use harness::process::{Ports, program};
use harness::resp::{Client, Value};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Size of the file system.
const DISK_BYTES: u64 = 96 << 20;
/// Bytes of each value written.
const VALUE_BYTES: usize = 64 << 10;
/// How long the program may take to serve, and to notice what became of its disk.
const PATIENCE: Duration = Duration::from_secs(60);

/// An embedded cluster on a small file system of its own, which goes with it.
struct Small {
    child: Child,
    port: u16,
    dir: PathBuf,
    _folder: tempfile::TempDir,
    _ports: Ports,
}

impl Small {
    fn start(more: &str) -> Small {
        let (folder, ports) = (tempfile::tempdir().expect("a folder"), Ports::take());
        let (dir, port) = (folder.path().to_owned(), ports.port(0));
        let script = format!(
            "mount -t tmpfs -o size={DISK_BYTES} none '{dir}' && exec '{program}' dev --nodes 1 \
             --replicas 1 --groups 1 --port {port} --dir '{dir}/data' {more}",
            dir = dir.display(),
            program = program().display(),
        );
        // `-r`: where the caller is not root, it is root in a user namespace of its own.
        let child = Command::new("unshare")
            .args(["-r", "-m", "sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("unshare (package util-linux) starts");
        Small { child, port, dir, _folder: folder, _ports: ports }
    }

    fn client(&mut self) -> Client {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Ok(mut client) = Client::connect(self.port)
                && client.call(&["SET", "first", "value"]).is_ok_and(|reply| is_ok(&reply))
            {
                return client;
            }
            assert!(self.runs(), "{}", self.said());
            assert!(Instant::now() < end, "port {} does not serve", self.port);
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn runs(&mut self) -> bool {
        self.child.try_wait().expect("its state").is_none()
    }

    /// All of its standard error; it must have ended.
    fn said(&mut self) -> String {
        let mut text = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            stderr.read_to_string(&mut text).expect("text");
        }
        text
    }

    /// A file of somebody else's on that disk. Only the process sees the file system: it is reached by
    /// what the kernel shows of it.
    fn ballast(&self) -> PathBuf {
        let root = Path::new("/proc").join(self.child.id().to_string()).join("root");
        root.join(self.dir.strip_prefix("/").expect("an absolute path")).join("ballast")
    }

    /// Leaves about so many bytes free.
    fn leave(&self, client: &mut Client, bytes: u64) {
        let free = number(client, "disk_free_bytes");
        let size = usize::try_from(free.saturating_sub(bytes)).expect("a small disk");
        fs::write(self.ballast(), vec![1; size]).expect("room for it");
    }

    fn make_room(&self) {
        fs::remove_file(self.ballast()).expect("the ballast");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_ok(value: &Value) -> bool {
    matches!(value, Value::Simple(text) if text == "OK")
}

fn no_room() -> Value {
    Value::Error("MISCONF Errors writing to the AOF file: No space left on device".to_owned())
}

fn persistence(client: &mut Client) -> BTreeMap<String, String> {
    let text = client.call(&["INFO", "persistence"]).expect("a reply").text();
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn number(client: &mut Client, name: &str) -> u64 {
    let found = persistence(client);
    found[name].parse().unwrap_or_else(|_| panic!("{name} in {found:?}"))
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not in {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn f04_below_the_mark_what_grows_is_refused_until_there_is_room() {
    let mut small = Small::start("--min-free-disk 24mb");
    let mut client = small.client();
    assert_eq!(number(&mut client, "disk_free_bytes_min"), 24 << 20);
    assert_eq!(number(&mut client, "disk_low"), 0);
    let value = "v".repeat(VALUE_BYTES);
    for key in 0..20 {
        let reply = client.call(&["SET", &format!("key:{key}"), &value]).expect("a reply");
        assert!(is_ok(&reply), "{reply:?}");
    }
    small.leave(&mut client, 12 << 20);
    for command in [&["SET", "n", "1"][..], &["APPEND", "key:1", "more"], &["INCR", "n"]] {
        wait_until("it is refused", || client.call(command).expect("a reply") == no_room());
    }
    let before = number(&mut client, "aof_current_size");
    for key in 0..100 {
        // What is refused is not written either.
        let reply = client.call(&["SET", &format!("more:{key}"), &value]).expect("a reply");
        assert_eq!(reply, no_room());
    }
    let grown = number(&mut client, "aof_current_size").saturating_sub(before);
    assert!(grown < 2 << 20, "6.4 MB of refused values took {grown} bytes of the log");
    assert_eq!(client.call(&["GET", "key:1"]).expect("a reply").text(), value);
    assert_eq!(client.call(&["GET", "more:1"]).expect("a reply"), Value::Nil);
    assert_eq!(client.call(&["DEL", "key:2"]).expect("a reply"), Value::Integer(1));
    assert_eq!(client.call(&["EXPIRE", "key:3", "1000"]).expect("a reply"), Value::Integer(1));
    assert_eq!(number(&mut client, "disk_low"), 1);
    assert_eq!(persistence(&mut client)["aof_last_write_status"], "err");

    small.make_room();
    wait_until("it is taken", || is_ok(&client.call(&["SET", "n", "1"]).expect("a reply")));
    assert_eq!(client.call(&["INCR", "n"]).expect("a reply"), Value::Integer(2));
    assert_eq!(number(&mut client, "disk_low"), 0);
    assert!(small.runs());
}

/// Somebody else has taken all of it, past the mark.
#[test]
fn f04_without_any_room_the_program_waits_and_goes_on() {
    let mut small = Small::start("--min-free-disk 0");
    let mut client = small.client();
    small.leave(&mut client, 6 << 20);
    let value = "v".repeat(VALUE_BYTES);
    let mut acknowledged = 0;
    let refused = loop {
        // It may be done once there is room: nobody can know yet.
        let reply = client.call(&["SET", &format!("key:{acknowledged}"), &value]).expect("a reply");
        if !is_ok(&reply) {
            break reply;
        }
        acknowledged += 1;
        assert!(acknowledged < 2000, "never full");
    };
    assert!(matches!(&refused, Value::Error(text) if text.starts_with("TIMEOUT ")), "{refused:?}");
    let waits = number(&mut client, "disk_log_waits") + number(&mut client, "disk_state_waits");
    assert!(waits > 0, "nothing waits");
    assert!(acknowledged > 0, "nothing was ever written");
    assert_eq!(client.call(&["GET", "key:0"]).expect("a reply").text(), value);

    small.make_room();
    wait_until("it is taken", || is_ok(&client.call(&["SET", "n", "1"]).expect("a reply")));
    for key in 0..acknowledged {
        let get = client.call(&["GET", &format!("key:{key}")]).expect("a reply");
        assert_eq!(get.text(), value, "key {key}");
    }
    assert_eq!(number(&mut client, "disk_log_waits") + number(&mut client, "disk_state_waits"), 0);
    assert!(small.runs());
}

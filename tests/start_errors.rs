//! Starts that must fail: one sentence that says what is wrong and where, exit code 1, no panic.

use harness::process::{
    DevCluster, Ended, Ports, Process, arguments, program, run_to_end, set_mode, write_cluster_file,
};
use harness::resp::{Client, Value};
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Runs `flotilla` with these words, which must be refused with `needles` in the sentence.
fn refused(words: &[&str], needles: &[&str]) {
    check_refusal(&run_to_end(&arguments(words)), needles);
}

fn check_refusal(ended: &Ended, needles: &[&str]) {
    let said = &ended.stderr;
    assert_eq!(ended.code, Some(1), "exit code; it said: {said}");
    assert!(!said.contains("panicked"), "{said}");
    let sentences: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("flotilla: ") || line.starts_with("error: "))
        .collect();
    assert_eq!(sentences.len(), 1, "one sentence: {said}");
    // The rest of what the argument parser says is how to get help; all else is one line.
    let more = said.lines().skip_while(|line| !line.starts_with("flotilla: ")).count();
    assert!(more <= 1, "more than a sentence: {said}");
    for needle in needles {
        assert!(said.contains(needle), "`{needle}` is not in: {said}");
    }
}

/// A folder, and its path as text.
fn folder() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().display().to_string();
    (folder, path)
}

#[test]
fn a_port_in_use_is_named() {
    let (_kept, dir) = folder();
    let ports = Ports::take();
    for taken in [0, 2] {
        let port = ports.port(taken);
        let _listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
        let first = ports.port(0).to_string();
        refused(
            &["dev", "--dir", &dir, "--port", &first],
            &["--port", &port.to_string(), "in use"],
        );
        let left = fs::read_dir(&dir).expect("the folder").count();
        assert_eq!(left, 0, "a refused start left something behind");
    }
}

#[test]
fn a_directory_in_use_is_named() {
    let cluster = DevCluster::start(&[]);
    let dir = cluster.data().display().to_string();
    let ports = Ports::take();
    refused(
        &["dev", "--dir", &dir, "--port", &ports.port(0).to_string()],
        &[&dir, "another process"],
    );
}

#[test]
fn a_directory_of_another_shape_is_not_resumed() {
    let mut cluster = DevCluster::start(&[]);
    cluster.process.kill();
    let dir = cluster.data().display().to_string();
    let port = cluster.port().to_string();
    refused(&["dev", "--dir", &dir, "--port", &port, "--groups", "5"], &["--groups", &dir]);
}

/// A node that starts on an empty directory has forgotten its votes and what it acknowledged.
#[test]
fn an_embedded_cluster_does_not_start_without_what_one_of_its_nodes_had() {
    let mut cluster = DevCluster::start(&[]);
    wait_for_ping(cluster.port());
    cluster.process.kill();
    let data = cluster.data();
    let (dir, port) = (data.display().to_string(), cluster.port().to_string());
    for name in ["node-2", "cluster.toml", "node-2/identity", "node-2/log.redb"] {
        let away = data.join("away");
        fs::rename(data.join(name), &away).expect("it is there");
        let lost = data.join(name).display().to_string();
        refused(&["dev", "--dir", &dir, "--port", &port], &[&lost, "missing", "put"]);
        assert!(!data.join(name).exists(), "{lost} was made anew");
        fs::rename(away, data.join(name)).expect("put back");
    }
    // An empty directory is as good as none.
    let node = data.join("node-2");
    fs::rename(&node, data.join("away")).expect("it is there");
    fs::create_dir(&node).expect("a folder");
    let lost = node.join("identity").display().to_string();
    refused(&["dev", "--dir", &dir, "--port", &port], &[&lost, "missing", "put"]);
    fs::remove_dir(&node).expect("it is empty still");
    fs::rename(data.join("away"), &node).expect("put back");
    cluster.restart();
}

#[test]
fn f09_a_node_does_not_start_without_its_identity_or_its_log() {
    let (kept, _) = folder();
    let ports = Ports::take();
    let file = write_cluster_file(kept.path(), &ports);
    let node_dir = kept.path().join("node");
    let dir = node_dir.display().to_string();
    let words = ["node", "--id", "1", "--dir", &dir, "--cluster-file", &file];
    let mut node = Process::start("node 1", &arguments(&words), kept.path());
    wait_for_ping(ports.port(1));
    node.kill();

    let away = |name: &str| kept.path().join(format!("{name}.away"));
    let take = |name: &str| fs::rename(node_dir.join(name), away(name)).expect("it is there");
    let put_back = |name: &str| fs::rename(away(name), node_dir.join(name)).expect("put back");
    for lost in [&["identity"][..], &["log.redb"], &["identity", "log.redb"]] {
        lost.iter().copied().for_each(take);
        let named = node_dir.join(lost[0]).display().to_string();
        for words in [&words[..], &words[..5]] {
            refused(words, &[&named, "missing", "put it back"]);
        }
        assert!(!node_dir.join(lost[0]).exists(), "{named} was made anew");
        lost.iter().copied().for_each(put_back);
    }
    for (name, word) in
        [("LOCK", "mkdir"), ("map", "mkfifo"), ("secret", "mkfifo"), ("cluster.toml", "mkfifo")]
    {
        take(name);
        let path = node_dir.join(name);
        assert!(Command::new(word).arg(&path).status().expect("a shell's word").success());
        for words in [&words[..], &words[..5]] {
            refused(words, &[&path.display().to_string(), "is no file"]);
        }
        fs::remove_dir(&path).or_else(|_| fs::remove_file(&path)).expect("it was made");
        put_back(name);
    }
    node.restart();
    wait_for_ping(ports.port(1));
}

#[test]
fn f14_a_node_refuses_the_directory_of_another_node_and_of_another_cluster() {
    let (kept, _) = folder();
    let ports = Ports::take();
    let file = write_cluster_file(kept.path(), &ports);
    let dir = kept.path().join("node").display().to_string();
    let words = ["node", "--id", "1", "--dir", &dir, "--cluster-file", &file];
    let mut node = Process::start("node 1", &arguments(&words), kept.path());
    wait_for_ping(ports.port(1));
    node.kill();

    refused(&["node", "--id", "2", "--dir", &dir, "--cluster-file", &file], &[&dir, "node"]);
    let other = kept.path().join("other.toml");
    let text = fs::read_to_string(&file).expect("the cluster file");
    fs::write(&other, text.replace("\"test\"", "\"other\"")).expect("another cluster file");
    let other = other.display().to_string();
    refused(&["node", "--id", "1", "--dir", &dir, "--cluster-file", &other], &[&dir, "cluster"]);
}

/// Voters change by the log alone: two majorities that do not meet would both decide.
#[test]
fn a_later_cluster_file_changes_addresses_but_no_group() {
    let (kept, _) = folder();
    let ports = Ports::take();
    let file = write_cluster_file(kept.path(), &ports);
    let dir = kept.path().join("node").display().to_string();
    let words = ["node", "--id", "1", "--dir", &dir, "--cluster-file", &file];
    let mut node = Process::start("node 1", &arguments(&words), kept.path());
    wait_for_ping(ports.port(1));
    node.kill();

    let text = fs::read_to_string(&file).expect("the cluster file");
    let with = |text: String| fs::write(&file, text).expect("a changed cluster file");
    with(text.replace("id = 2\nvoters = [1, 2, 3]", "id = 2\nvoters = [1, 2]"));
    refused(&words, &["--cluster-file", "group 2 has voters [1, 2]", "with voters [1, 2, 3]"]);
    with(text.replace("[shardmaster]\nvoters = [1, 2, 3]", "[shardmaster]\nvoters = [1]"));
    refused(&words, &["group 0 has voters [1]"]);
    with(text.clone() + "[[groups]]\nid = 3\nvoters = [1]\n");
    refused(&words, &["group 3 has voters [1], but this node started with no such group"]);

    let moved = ports.port(7);
    with(text.replace(&format!("127.0.0.1:{}\"", ports.port(1)), &format!("127.0.0.1:{moved}\"")));
    node.restart();
    wait_for_ping(moved);
}

#[test]
fn a_nodes_directory_is_no_place_for_an_embedded_cluster_and_its_log_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let mut cluster = DevCluster::start(&[]);
    let node = cluster.data().join("node-1");
    let mode = fs::metadata(node.join("log.redb")).expect("a log").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "mode of the log");
    cluster.process.kill();
    let dir = node.display().to_string();
    let ports = Ports::take();
    let words = ["dev", "--dir", &dir, "--port", &ports.port(0).to_string()];
    refused(&words, &[&dir, "flotilla node"]);
    assert!(!node.join("node-1").exists(), "a cluster was begun in a node's directory");
}

#[test]
fn an_embedded_clusters_directory_is_no_place_for_a_node() {
    let mut cluster = DevCluster::start(&[]);
    cluster.process.kill();
    let (kept, _) = folder();
    let file = write_cluster_file(kept.path(), &Ports::take());
    let data = cluster.data();
    let dir = data.display().to_string();
    let says = ["--dir", "holds an embedded cluster", &format!("flotilla dev --dir {dir}")];
    refused(&["node", "--id", "1", "--dir", &dir], &says);
    refused(&["node", "--id", "1", "--dir", &dir, "--cluster-file", &file], &says);
    assert!(!data.join("identity").exists(), "a node was begun in a cluster's directory");
    // As a first start leaves it that ended before its nodes began.
    fs::remove_file(data.join("complete")).expect("the mark");
    refused(&["node", "--id", "1", "--dir", &dir], &says);
    let node = data.join("node-1").display().to_string();
    let says = ["--dir", &node, "a node of an embedded cluster", "flotilla dev"];
    refused(&["node", "--id", "1", "--dir", &node], &says);
    refused(&["node", "--id", "1", "--dir", &node, "--cluster-file", &file], &says);
    cluster.restart();
}

#[test]
fn of_two_starts_at_once_on_a_new_directory_one_serves_and_one_is_told() {
    let (kept, dir) = folder();
    let ports = [Ports::take(), Ports::take()];
    let mut started: Vec<Process> = ports
        .iter()
        .enumerate()
        .map(|(i, ports)| {
            let port = ports.port(0).to_string();
            let words = arguments(&["dev", "--dir", &format!("{dir}/data"), "--port", &port]);
            Process::start(&format!("start {i}"), &words, kept.path())
        })
        .collect();
    let end = Instant::now() + Duration::from_secs(30);
    let loser = loop {
        if let Some(loser) = started.iter_mut().position(Process::has_ended) {
            break loser;
        }
        assert!(Instant::now() < end, "both starts run on one directory");
        std::thread::sleep(Duration::from_millis(20));
    };
    let ended = Ended {
        code: started[loser].wait(Duration::from_secs(1)).code(),
        stderr: started[loser].log(),
    };
    check_refusal(&ended, &["another process"]);
    let winner = &mut started[1 - loser];
    winner.wait_until_it_serves(ports[1 - loser].port(0));
    // What it made is whole: it can be resumed.
    winner.kill();
    winner.restart();
    winner.wait_until_it_serves(ports[1 - loser].port(0));
}

/// A node that has no majority yet answers PING all the same.
fn wait_for_ping(port: u16) {
    let end = Instant::now() + Duration::from_secs(30);
    while Instant::now() < end {
        if let Ok(mut client) = Client::connect(port) {
            assert_eq!(client.call(&["PING"]).expect("a reply"), Value::Simple("PONG".into()));
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("nothing answers on port {port}");
}

#[test]
fn f14_a_directory_that_cannot_be_written_is_named() {
    let (kept, _) = folder();
    let ports = Ports::take();
    let file = kept.path().join("a-file");
    fs::write(&file, "").expect("a file");
    let below = file.join("data").display().to_string();
    refused(&["dev", "--dir", &below, "--port", &ports.port(0).to_string()], &[&below]);

    let closed = kept.path().join("closed");
    fs::create_dir(&closed).expect("a folder");
    set_mode(&closed, 0o500).expect("its mode");
    let dir = closed.join("data").display().to_string();
    let words = ["dev", "--dir", &dir, "--port", &ports.port(0).to_string()];
    check_refusal(&run_without_privileges(kept.path(), &words), &[&dir, "ermission denied"]);
}

/// Runs the program as a user that file modes bind: root is not.
fn run_without_privileges(folder: &Path, words: &[&str]) -> Ended {
    let is_root = fs::metadata("/proc/self").is_ok_and(|meta| {
        use std::os::unix::fs::MetadataExt;
        meta.uid() == 0
    });
    let mut command = if is_root {
        // Others can reach neither the build nor a fresh temporary folder.
        let copy = folder.join("flotilla");
        fs::copy(program(), &copy).expect("a copy of the program");
        set_mode(&copy, 0o755).expect("its mode");
        set_mode(folder, 0o755).expect("the folder's mode");
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(copy);
        command
    } else {
        Command::new(program())
    };
    let output = command.args(words).output().expect("setpriv of util-linux");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Ended { code: output.status.code(), stderr }
}

#[test]
fn wrong_arguments_are_named() {
    let (_kept, dir) = folder();
    let dev = |more: &[&str], needle: &str| {
        let mut words = vec!["dev", "--dir", &dir];
        words.extend(more);
        refused(&words, &[needle]);
    };
    dev(&["--nodes", "0"], "--nodes");
    dev(&["--nodes", "2", "--replicas", "3"], "--replicas");
    dev(&["--port", "65536"], "--port");
    dev(&["--port", "65534"], "--port");
    dev(&["--port", "0"], "--port");
    dev(&["--bind", "nowhere"], "'--bind <IP>': invalid IP address syntax");
    // An address for documentation (RFC 5737): no machine has it.
    dev(&["--bind", "192.0.2.1"], "--bind: 192.0.2.1 is not an address of this machine");
    dev(&["--groups=-1"], "--groups");
    dev(&["--frobnicate"], "--frobnicate");
    refused(&["node", "--dir", &dir], &["--id"]);
    refused(&["node", "--id", "1"], &["--dir"]);
    // The other folder holds the cluster that a `dev` above prepared before its port was refused.
    let (_empty, empty) = folder();
    refused(&["node", "--id", "1", "--dir", &empty], &["--cluster-file"]);
    refused(&["router", "--listen", "here", "--cluster-file", "x"], &["--listen"]);
    refused(&["router", "--listen", "127.0.0.1:1"], &["--cluster-file"]);
    refused(&["sail"], &["sail"]);
}

#[test]
fn a_wrong_cluster_file_is_named_with_the_place() {
    let (kept, dir) = folder();
    let ports = Ports::take();
    let file = write_cluster_file(kept.path(), &ports);
    let good = fs::read_to_string(&file).expect("the cluster file");
    let with = |text: String, needles: &[&str]| {
        let path = kept.path().join("wrong.toml");
        fs::write(&path, text).expect("a file");
        let path = path.display().to_string();
        let data = format!("{dir}/data");
        let mut all = vec!["wrong.toml"];
        all.extend(needles);
        refused(&["node", "--id", "1", "--dir", &data, "--cluster-file", &path], &all);
    };
    with(good.replace("cluster_id", "colour"), &["colour"]);
    with(good.replace("id = 2", "id = 1"), &["1"]);
    with(good.replace("[1, 2, 3]", "[1, 2, 9]"), &["9"]);
    with(good.replace("id = 3", "id = \"three\""), &["line ", "column 6", "three"]);
    with(good.replace("voters = ", "voters "), &["line 4, column "]);
    let missing = format!("{dir}/missing.toml");
    let exists = "missing.toml does not exist";
    let words = ["node", "--id", "1", "--dir", &dir, "--cluster-file", &missing];
    refused(&words, &["cluster file", exists]);
    refused(&["router", "--listen", "127.0.0.1:1", "--cluster-file", &missing], &[exists]);
    refused(&["node", "--config", &missing], &["--config", exists]);

    let secret = kept.path().join("cluster.secret");
    set_mode(&secret, 0o644).expect("its mode");
    let data = format!("{dir}/data");
    let words = ["node", "--id", "1", "--dir", &data, "--cluster-file", &file];
    refused(&words, &["cluster.secret", "0644"]);
    fs::remove_file(&secret).expect("it exists");
    refused(&words, &["cluster.secret"]);
}

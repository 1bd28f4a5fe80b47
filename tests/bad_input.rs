//! Malformed, oversized and hostile input on a live socket: the exact bytes that come back, whether
//! the connection stays open, and that memory follows the bytes received and not what they claim.
//!
//! Rows bear the numbers of the list of bad input in `docs/testing.md`.

use harness::process::DevCluster;
use harness::resp::{Client, Value, command};
use std::fs;
use std::process::Command;
use std::time::Duration;

/// How long silence must last to count as "no reply".
const SILENCE: Duration = Duration::from_millis(300);
/// What the process may grow by when a request only claims to be large.
const GROWTH_BYTES_MAX: u64 = 16 << 20;

const COUNT: &str = "-ERR Protocol error: invalid multibulk length\r\n";
const LENGTH: &str = "-ERR Protocol error: invalid bulk length\r\n";
const CRLF: &str = "-ERR Protocol error: invalid CRLF in request\r\n";
const QUOTES: &str = "-ERR Protocol error: unbalanced quotes in request\r\n";

/// What becomes of the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Then {
    Open,
    Close,
}

/// Input, the bytes that must come back, and what then becomes of the connection.
struct Row {
    name: &'static str,
    input: Vec<u8>,
    reply: Vec<u8>,
    then: Then,
}

fn row(name: &'static str, input: impl AsRef<[u8]>, reply: impl AsRef<[u8]>, then: Then) -> Row {
    Row { name, input: input.as_ref().to_vec(), reply: reply.as_ref().to_vec(), then }
}

fn with_digits(head: &str) -> String {
    format!("{head}{}", "1".repeat(70_000))
}

/// Rows about headers: how many arguments, how long each.
fn rows_of_counts_and_lengths() -> Vec<Row> {
    use Then::{Close, Open};
    let mut rows = vec![
        row("b01_empty_line", "\r\n", "", Open),
        row("b01_lone_newline", "\n", "", Open),
        row("b05_count_above_the_bound", "*1048577\r\n", COUNT, Close),
        row(
            "b06_argument_without_dollar",
            "*3\r\n$3\r\nSET\r\n$1\r\nx\r\nfooz\r\n",
            "-ERR Protocol error: expected '$', got 'f'\r\n",
            Close,
        ),
        row(
            "b07_integer_as_argument",
            "*1\r\n:1\r\n",
            "-ERR Protocol error: expected '$', got ':'\r\n",
            Close,
        ),
        row(
            "b07_array_as_argument",
            "*1\r\n*1\r\n$4\r\nPING\r\n",
            "-ERR Protocol error: expected '$', got '*'\r\n",
            Close,
        ),
        row(
            "b08_nested_arrays",
            "*1\r\n".repeat(10_000),
            "-ERR Protocol error: expected '$', got '*'\r\n",
            Close,
        ),
        row("b11_bulk_above_the_bound", "*2\r\n$3\r\nGET\r\n$67108865\r\n", LENGTH, Close),
        row(
            "b13_inline_too_long",
            "x".repeat(70_000),
            "-ERR Protocol error: too big inline request\r\n",
            Close,
        ),
        row(
            "b13_inline_of_65536_bytes",
            format!("ECHO {}\n", "a".repeat(65_531)),
            format!("$65531\r\n{}\r\n", "a".repeat(65_531)),
            Open,
        ),
        row(
            "b14_count_too_long",
            with_digits("*"),
            "-ERR Protocol error: too big mbulk count string\r\n",
            Close,
        ),
        row(
            "b15_length_too_long",
            with_digits("*1\r\n$"),
            "-ERR Protocol error: too big bulk count string\r\n",
            Close,
        ),
    ];
    for input in ["*0\r\n", "*-1\r\n", "*-10\r\n"] {
        rows.push(row("b02_no_arguments", input, "", Open));
    }
    for count in ["x", "", "1.5", " 1", "+1", "01"] {
        rows.push(row("b03_count_is_no_number", format!("*{count}\r\n"), COUNT, Close));
    }
    for count in ["2147483648", "20000000000"] {
        rows.push(row("b04_count_is_huge", format!("*{count}\r\n"), COUNT, Close));
    }
    for length in ["-1", "-10", "blabla", "", "+4", "00004", "9223372036854775808"] {
        rows.push(row("b10_length_is_wrong", format!("*1\r\n${length}\r\n"), LENGTH, Close));
    }
    rows
}

/// Rows about lines, quotes, line ends and what is not RESP.
fn rows_of_lines() -> Vec<Row> {
    use Then::{Close, Open};
    let mut rows = vec![
        row("b16_quote_not_closed", "SET a 'b\r\n", QUOTES, Close),
        row("b16_text_behind_a_quote", "set \"\"\"k\"\"\" v\r\n", QUOTES, Close),
        row("b17_no_crlf_behind_a_payload", "*1\r\n$4\r\nPINGxx", CRLF, Close),
        row("b18_payload_longer_than_announced", "*1\r\n$3\r\nPING\r\n", CRLF, Close),
        row("b21_http_get", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "", Close),
        row("b21_http_post", "POST / HTTP/1.1\r\nHost: x\r\n\r\nSET b21 x\r\n", "", Close),
        row(
            "b25_nul_in_an_inline_command",
            "PI\0NG\r\n",
            "-ERR unknown command 'PI\\x00NG', with args beginning with: \r\n",
            Open,
        ),
        row("b33_quit_with_commands_behind", "QUIT\r\nSET b33 x\r\n", "+OK\r\n", Close),
    ];
    for line in ["%1", "|1", "~1", ">1", "$4"] {
        let reply = format!("-ERR unknown command '{line}', with args beginning with: \r\n");
        rows.push(row("b24_other_types_are_inline", format!("{line}\r\n"), reply, Open));
    }
    rows
}

/// What the row's connection got wrong, if anything. A PING before the input must be answered first,
/// one behind it only if the connection stays open.
fn try_row(port: u16, row: &Row) -> Result<(), String> {
    let mut client = Client::connect(port).map_err(|error| error.to_string())?;
    client.set_reply_timeout(Duration::from_secs(10)).map_err(|error| error.to_string())?;
    let mut input = command(&["PING"]);
    input.extend_from_slice(&row.input);
    let mut expected = b"+PONG\r\n".to_vec();
    expected.extend_from_slice(&row.reply);
    // A closed connection may reset what is sent after it.
    let sent = client.send_raw(&input).and_then(|()| client.send(&["PING"]));
    let got = match row.then {
        Then::Open => {
            sent.map_err(|error| error.to_string())?;
            expected.extend_from_slice(b"+PONG\r\n");
            client.read_exact(expected.len())
        }
        Then::Close => client.read_to_close(),
    };
    let got = got.map_err(|error| format!("{:?}: {error}", row.then))?;
    if got == expected {
        return Ok(());
    }
    Err(format!("expected {}, got {}", quoted(&expected), quoted(&got)))
}

fn quoted(bytes: &[u8]) -> String {
    let text: String = bytes.escape_ascii().to_string();
    if text.len() > 200 { format!("{}... ({} bytes)", &text[..200], bytes.len()) } else { text }
}

/// Memory that the process really uses, in bytes.
fn resident_bytes(cluster: &DevCluster) -> u64 {
    let status =
        fs::read_to_string(format!("/proc/{}/status", cluster.process.id())).expect("status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    kib * 1024
}

fn assert_growth(cluster: &DevCluster, before: u64, max: u64, what: &str) {
    let grown = resident_bytes(cluster).saturating_sub(before);
    assert!(grown <= max, "{what}: the process grew by {} KiB", grown >> 10);
}

fn assert_silent(client: &mut Client) {
    client.set_reply_timeout(SILENCE).expect("a socket option");
    let error = client.receive().expect_err("no reply is due");
    let silent =
        matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
    assert!(silent, "{error}");
}

fn assert_serves(cluster: &DevCluster) {
    let mut client = cluster.client();
    assert_eq!(client.call(&["SET", "alive", "1"]).expect("a reply"), Value::Simple("OK".into()));
}

#[test]
fn b01_to_b33_rows_are_answered_to_the_byte() {
    let cluster = DevCluster::start(&[]);
    let mut wrong = Vec::new();
    for row in rows_of_counts_and_lengths().into_iter().chain(rows_of_lines()) {
        if let Err(what) = try_row(cluster.port(), &row) {
            wrong.push(format!("{} {}: {what}", row.name, quoted(&row.input)));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    let mut client = cluster.client();
    for key in ["b21", "b33"] {
        let value = client.call(&["GET", key]).expect("a reply");
        assert_eq!(value, Value::Nil, "{key}: a command behind the end was executed");
    }
    let log = cluster.process.log();
    assert!(log.contains("HTTP"), "the log warns of HTTP: {log}");
}

#[test]
fn b09_many_claims_of_a_million_arguments_take_no_memory() {
    let cluster = DevCluster::start(&[]);
    let before = resident_bytes(&cluster);
    for _ in 0..20 {
        let mut client = cluster.client();
        // The rest of the input meets a closed connection.
        let _ = client.send_raw("*1000000\r\n".repeat(5_000).as_bytes());
        let got = client.read_to_close().expect("bytes");
        assert_eq!(got, b"-ERR Protocol error: expected '$', got '*'\r\n");
    }
    assert_growth(&cluster, before, GROWTH_BYTES_MAX, "5,000 counts, 20 times");
    assert_serves(&cluster);
}

#[test]
fn b12_the_largest_length_is_waited_for_without_memory() {
    let cluster = DevCluster::start(&[]);
    let before = resident_bytes(&cluster);
    let mut waiting: Vec<Client> = (0..50).map(|_| cluster.client()).collect();
    for client in &mut waiting {
        client.send_raw(b"*3\r\n$3\r\nSET\r\n$3\r\nb12\r\n$67108864\r\nabc").expect("sent");
    }
    assert_silent(&mut waiting[0]);
    assert_growth(&cluster, before, GROWTH_BYTES_MAX, "50 claims of 64 MiB");
    assert_serves(&cluster);
}

#[test]
fn b19_one_byte_per_packet_gives_the_same_replies() {
    let cluster = DevCluster::start(&[]);
    let mut input = command(&["SET", "b19", "a\r\nb"]);
    input.extend(command(&["GET", "b19"]));
    input.extend_from_slice(b"PING \"a b\"\r\n\r\n*0\r\n");
    input.extend(command(&["APPEND", "b19", ""]));
    let expected = b"+OK\r\n$4\r\na\r\nb\r\n$3\r\na b\r\n:4\r\n";
    let mut client = cluster.client();
    client.send_raw(&input).expect("sent");
    assert_eq!(client.read_exact(expected.len()).expect("replies"), expected);
    let mut client = cluster.client();
    for byte in &input {
        client.send_raw(std::slice::from_ref(byte)).expect("sent");
    }
    assert_eq!(client.read_exact(expected.len()).expect("replies"), expected);
}

#[test]
fn b20_a_hundred_thousand_arguments_in_small_packets() {
    let cluster = DevCluster::start(&[]);
    let mut client = cluster.client();
    assert_eq!(client.call(&["SET", "b20", "1"]).expect("a reply"), Value::Simple("OK".into()));
    let mut arguments = vec!["EXISTS"];
    arguments.resize(100_000, "b20");
    for packet in command(&arguments).chunks(1400) {
        client.send_raw(packet).expect("sent");
    }
    assert_eq!(client.receive().expect("a reply"), Value::Integer(99_999));
}

#[test]
fn b22_a_tls_hello_and_random_bytes_end_by_the_inline_bound() {
    let cluster = DevCluster::start(&[]);
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut noise = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec();
    while noise.len() < 70_000 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        // Without a newline the bytes are one endless inline command.
        noise.extend(seed.to_le_bytes().into_iter().filter(|byte| *byte != b'\n'));
    }
    let mut client = cluster.client();
    // The connection may be closed before all of it is sent.
    let _ = client.send_raw(&noise);
    let got = client.read_to_close().expect("bytes");
    assert_eq!(got, b"-ERR Protocol error: too big inline request\r\n");
    assert_serves(&cluster);
}

#[test]
fn b26_half_a_request_has_no_effect_and_its_memory_is_used_again() {
    let cluster = DevCluster::start(&[]);
    let half = format!("*3\r\n$3\r\nSET\r\n$3\r\nb26\r\n$1000000\r\n{}", "x".repeat(500_000));
    let send_half = || cluster.client().send_raw(half.as_bytes()).expect("sent");
    // The allocator keeps some of what was freed: what it needs to keep, it has after these.
    (0..200).for_each(|_| send_half());
    assert_serves(&cluster);
    let before = resident_bytes(&cluster);
    // 300 MB, were it kept.
    (0..600).for_each(|_| send_half());
    assert_serves(&cluster);
    assert_growth(&cluster, before, 2 * GROWTH_BYTES_MAX, "600 half requests");
    assert_eq!(cluster.client().call(&["GET", "b26"]).expect("a reply"), Value::Nil);
}

#[test]
fn b29_a_client_that_never_reads_costs_bounded_memory_and_nobody_else() {
    let cluster = DevCluster::start(&[]);
    let value = "v".repeat(1_000_000);
    let mut client = cluster.client();
    assert_eq!(client.call(&["SET", "b29", &value]).expect("a reply"), Value::Simple("OK".into()));
    let before = resident_bytes(&cluster);
    let mut deaf = cluster.client();
    deaf.socket().set_nonblocking(true).expect("a socket option");
    // Two gigabytes of replies are asked for; what the server does not take is not sent.
    let _ = deaf.send_raw(&command(&["GET", "b29"]).repeat(2_000));
    for _ in 0..50 {
        let reply = client.call(&["STRLEN", "b29"]).expect("a reply");
        assert_eq!(reply, Value::Integer(1_000_000));
    }
    std::thread::sleep(SILENCE);
    assert_growth(&cluster, before, 384 << 20, "replies that nobody reads");
}

/// What the operating system lets this process open, after asking for as much as it may.
fn raise_open_files() -> u64 {
    let id = std::process::id().to_string();
    for limit in ["32000:32000", "20000:20000"] {
        let asked =
            Command::new("prlimit").args(["--pid", &id, &format!("--nofile={limit}")]).output();
        if asked.is_ok_and(|output| output.status.success()) {
            break;
        }
    }
    let limits = fs::read_to_string("/proc/self/limits").expect("limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    line.split_whitespace().nth(3).and_then(|soft| soft.parse().ok()).unwrap_or(u64::MAX)
}

#[test]
fn b31_b32_ten_thousand_silent_connections_and_one_too_many() {
    let open_files = raise_open_files();
    let cluster = DevCluster::start(&[]);
    let mut client = cluster.client();
    let reply = client.call(&["CONFIG", "GET", "maxclients"]).expect("a reply");
    let max: u64 = reply.field("maxclients").text().parse().expect("a number");
    assert!(max + 100 <= open_files, "this test needs {} open files, has {open_files}", max + 100);
    let before = resident_bytes(&cluster);
    // One is `client`.
    let silent: Vec<Client> = (1..max).map(|_| cluster.client()).collect();
    assert_eq!(client.call(&["SET", "b32", "1"]).expect("a reply"), Value::Simple("OK".into()));
    let each = resident_bytes(&cluster).saturating_sub(before) / max;
    println!("{} silent connections cost {each} bytes each", silent.len());
    assert!(each < 16 << 10, "a silent connection costs {each} bytes");

    let mut refused = cluster.client();
    let got = refused.read_to_close().expect("bytes");
    assert_eq!(got, b"-ERR max number of clients reached\r\n");
    drop(silent);
    let mut later = cluster.client();
    while later.call(&["PING"]).ok() != Some(Value::Simple("PONG".into())) {
        // Places come back as the server sees the others go.
        std::thread::sleep(Duration::from_millis(20));
        later = cluster.client();
    }
}

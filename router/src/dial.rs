//! Opens a connection to a node: connect, handshake, and nothing else. Links of routers and links
//! between nodes begin here.

use shard_core::NodeId;
use shard_core::handshake::{
    Credentials, Dialer, HANDSHAKE_TIMEOUT_MS, HandshakeError, Nonce, PREFIX_BYTES, Peer, Purpose,
    frame_length,
};
use std::fs::File;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A connection whose other end acknowledges nothing for this long is broken. Without it, a link
/// over a cut cable would be held for minutes, and after the cable is back it would wait for the
/// kernel's backed-off resend.
pub const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(2);
/// An idle connection is probed this often, so that a vanished machine is noticed.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(1);

/// Why there is no connection. Trying again later may help, except against a refusal.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The operating system could not connect, or the connection broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The other end did not answer in time.
    #[error("no answer in time")]
    TimedOut,
    /// The two ends do not belong together.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

/// Connects to `address` (`host:port`) and proves what `credentials` say. `node` is the dialer's
/// own id, `None` for a router; `expected` is the node that should answer, `None` if any will do.
pub async fn dial(
    address: &str,
    credentials: &Credentials,
    node: Option<NodeId>,
    purpose: Purpose,
    expected: Option<NodeId>,
    nonce: Nonce,
) -> Result<(TcpStream, Peer), DialError> {
    let attempt = async {
        let mut stream = TcpStream::connect(address).await?;
        set_options(&stream)?;
        let (mut dialer, hello) = Dialer::new(credentials, node, purpose, expected, nonce);
        stream.write_all(&hello).await?;
        let challenge = read_message(&mut stream).await?;
        stream.write_all(&dialer.on_challenge(&challenge)?).await?;
        let welcome = read_message(&mut stream).await?;
        Ok((stream, dialer.on_welcome(&welcome)?))
    };
    match timeout(Duration::from_millis(HANDSHAKE_TIMEOUT_MS), attempt).await {
        Ok(result) => result,
        Err(_) => Err(DialError::TimedOut),
    }
}

/// A number that was never used before, from the operating system's random source.
pub fn new_nonce() -> io::Result<Nonce> {
    let mut nonce = Nonce::default();
    io::Read::read_exact(&mut File::open("/dev/urandom")?, &mut nonce)?;
    Ok(nonce)
}

/// Reads one handshake message, without its prefix.
pub async fn read_message(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, DialError> {
    let mut prefix = [0; PREFIX_BYTES];
    stream.read_exact(&mut prefix).await?;
    let mut body = vec![0; frame_length(prefix)?];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

/// What both ends of a connection between processes set on their socket.
pub fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    let keepalive =
        socket2::TcpKeepalive::new().with_time(KEEPALIVE_EVERY).with_interval(KEEPALIVE_EVERY);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
    Ok(())
}

//! One multiplexed socket to a node: requests out, answers in, in batches.
//!
//! A link that breaks fails everything that was in flight on it; `dispatch` sends that again, here or
//! elsewhere. It is opened on demand and kept.

use bytes::BytesMut;
use shard_core::NodeId;
use shard_core::codec::{CodecError, WIRE_FRAME_BYTES_MAX, WireFrame, decode_frame, encode_frame};
use shard_core::wire::{ToNode, ToRouter};
use std::cell::{Cell, RefCell};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// Encoded bytes that may wait for a socket. What `dispatch` lets be in flight is far below; beyond
/// this the node takes nothing any more and the link is given up.
const QUEUE_BYTES_MAX: usize = 160 << 20;
/// A node that owes an answer, or whose word on who leads counts, and that says nothing for this long is
/// asked whether it lives.
const PING_AFTER: Duration = Duration::from_millis(500);
/// A node that neither says nor takes anything for this long after that is taken for gone.
const SILENCE_MAX: Duration = Duration::from_millis(1_500);
/// How often a link is looked at.
const WATCH_STEP: Duration = Duration::from_millis(250);
/// A write that took this long waited for the node to take something.
const WRITE_WAITED: Duration = Duration::from_millis(2);
/// Room asked for with each read.
const READ_BYTES: usize = 64 << 10;
/// Buffer that a link without traffic keeps, each way.
const KEPT_BYTES_MAX: usize = 256 << 10;

/// Why a link broke.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// The socket.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The node closed it.
    #[error("closed by the node")]
    Closed,
    /// The node sent what is not a frame, or not one for a router.
    #[error("malformed frame: {0}")]
    Codec(#[from] CodecError),
    /// A frame that is not for a router.
    #[error("a frame that is not for a router")]
    Misplaced,
    /// Nothing came back.
    #[error("silent for too long")]
    Silent,
    /// Too much waits for the socket.
    #[error("the node takes nothing any more")]
    Overflow,
}

/// What the driver puts in and the link's task takes out.
#[derive(Debug)]
pub(crate) struct LinkQueue {
    bytes: RefCell<BytesMut>,
    filled: Notify,
    alive_at: Cell<Instant>,
    pinged_at: Cell<Option<Instant>>,
}

impl LinkQueue {
    /// An empty one.
    pub(crate) fn new() -> LinkQueue {
        LinkQueue {
            bytes: RefCell::default(),
            filled: Notify::new(),
            alive_at: Cell::new(Instant::now()),
            pinged_at: Cell::new(None),
        }
    }

    /// Adds a message; it leaves with everything else that is added in the same turn.
    pub(crate) fn push(&self, message: ToNode) {
        encode_frame(&WireFrame::ToNode(message), &mut self.bytes.borrow_mut());
        self.filled.notify_one();
    }

    /// All that was added since the last call.
    fn take(&self) -> BytesMut {
        let mut bytes = self.bytes.borrow_mut();
        let taken = bytes.split();
        // The rest is of the same memory, and would hold that of a big message for good.
        if taken.len() + bytes.capacity() > KEPT_BYTES_MAX {
            *bytes = BytesMut::new();
        }
        taken
    }

    fn alive(&self) {
        self.alive_at.set(Instant::now());
        self.pinged_at.set(None);
    }
}

/// Runs a link until it breaks; `hear` takes what the node says, `owes` tells whether its
/// silence would mean something.
pub(crate) async fn run(
    node: NodeId,
    stream: TcpStream,
    queue: &LinkQueue,
    hear: impl Fn(ToRouter),
    owes: impl Fn(NodeId) -> bool,
) -> LinkError {
    queue.alive();
    let (reader, writer) = stream.into_split();
    let broken = tokio::select! {
        broken = read(reader, queue, hear) => broken,
        broken = write(writer, queue) => broken,
        broken = watch(node, queue, owes) => broken,
    };
    match broken {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn read(
    mut reader: OwnedReadHalf,
    queue: &LinkQueue,
    hear: impl Fn(ToRouter),
) -> Result<std::convert::Infallible, LinkError> {
    let mut bytes = BytesMut::new();
    loop {
        bytes.reserve(READ_BYTES);
        if reader.read_buf(&mut bytes).await? == 0 {
            return Err(LinkError::Closed);
        }
        queue.alive();
        let came = bytes.len();
        while let Some(frame) = decode_frame(&mut bytes, WIRE_FRAME_BYTES_MAX)? {
            match frame {
                WireFrame::ToRouter(message) => hear(message),
                WireFrame::Raft(_)
                | WireFrame::ToNode(_)
                | WireFrame::Heartbeat(_)
                | WireFrame::Chunk(_)
                | WireFrame::Move(_)
                | WireFrame::Map(_)
                | WireFrame::Witness(_)
                | WireFrame::ClusterPort(_)
                | WireFrame::Clock(_) => {
                    return Err(LinkError::Misplaced);
                }
            }
        }
        // The frames share this memory; once they are gone, a further read would take it up again
        // and keep it, however big.
        if bytes.is_empty() && came.max(bytes.capacity()) > KEPT_BYTES_MAX {
            bytes = BytesMut::new();
        }
    }
}

async fn write(
    mut writer: OwnedWriteHalf,
    queue: &LinkQueue,
) -> Result<std::convert::Infallible, LinkError> {
    loop {
        let mut bytes = queue.take();
        if bytes.is_empty() {
            queue.filled.notified().await;
            continue;
        }
        while !bytes.is_empty() {
            let from = Instant::now();
            writer.write_buf(&mut bytes).await?;
            // The kernel's buffer was full and drained: a node that takes bytes lives, however long a
            // big request keeps it from answering. Bytes that the kernel takes at once tell nothing.
            if from.elapsed() >= WRITE_WAITED {
                queue.alive();
            }
        }
    }
}

async fn watch(
    node: NodeId,
    queue: &LinkQueue,
    owes: impl Fn(NodeId) -> bool,
) -> Result<std::convert::Infallible, LinkError> {
    loop {
        sleep(WATCH_STEP).await;
        if queue.bytes.borrow().len() > QUEUE_BYTES_MAX {
            return Err(LinkError::Overflow);
        }
        match queue.pinged_at.get() {
            Some(at) if at.elapsed() >= SILENCE_MAX => return Err(LinkError::Silent),
            Some(_) => {}
            None if owes(node) && queue.alive_at.get().elapsed() >= PING_AFTER => {
                queue.push(ToNode::Ping);
                queue.pinged_at.set(Some(Instant::now()));
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_big_message_leaves_no_memory_behind() {
        let queue = LinkQueue::new();
        queue.push(ToNode::Ping);
        let small = queue.take();
        assert!(!small.is_empty() && queue.take().is_empty());
        queue.bytes.borrow_mut().extend_from_slice(&vec![0; KEPT_BYTES_MAX + 1]);
        assert_eq!(queue.take().len(), KEPT_BYTES_MAX + 1);
        assert_eq!(queue.bytes.borrow().capacity(), 0);
    }
}

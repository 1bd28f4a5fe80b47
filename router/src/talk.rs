//! A client of a node or router: what this program asks of another one as its users do.

use bytes::{Buf, BytesMut};
use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::types::OwnedFrame;
use std::io;
use std::net::IpAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// A string of either kind; what is no UTF-8 is replaced.
    Text(String),
    /// An error, with its code.
    Error(String),
    /// A number.
    Integer(i64),
    /// Nothing.
    Nil,
    /// Several.
    Items(Vec<Said>),
}

impl Said {
    fn of(frame: OwnedFrame) -> Said {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        match frame {
            OwnedFrame::SimpleString(bytes) | OwnedFrame::BulkString(bytes) => {
                Said::Text(text(bytes))
            }
            OwnedFrame::Error(error) => Said::Error(error),
            OwnedFrame::Integer(number) => Said::Integer(number),
            OwnedFrame::Null => Said::Nil,
            OwnedFrame::Array(items) => Said::Items(items.into_iter().map(Said::of).collect()),
        }
    }

    /// The string, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Said::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if it is one and not below 0.
    pub fn number(&self) -> Option<u64> {
        match self {
            Said::Integer(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    /// The items; none, if it has none.
    pub fn items(&self) -> &[Said] {
        match self {
            Said::Items(items) => items,
            _ => &[],
        }
    }

    /// What stands behind this name in a list of names and values.
    pub fn field(&self, name: &str) -> Option<&Said> {
        let mut pairs = self.items().chunks_exact(2);
        pairs.find(|pair| pair[0].text() == Some(name)).map(|pair| &pair[1])
    }
}

/// A connection to the port for clients of another node or router.
pub struct Talk {
    stream: TcpStream,
    input: BytesMut,
    answer_bytes_max: usize,
}

impl Talk {
    /// Connects. An answer of more bytes than that is none.
    ///
    /// # Errors
    /// If nobody listens there.
    pub async fn open(host: &str, port: u16, answer_bytes_max: usize) -> io::Result<Talk> {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        Ok(Talk { stream, input: BytesMut::new(), answer_bytes_max })
    }

    /// What a command is answered.
    ///
    /// # Errors
    /// If the connection breaks, or the answer makes no sense or is too long.
    pub async fn call(&mut self, words: &[&str]) -> io::Result<Said> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request += &format!("${}\r\n{word}\r\n", word.len());
        }
        self.stream.write_all(request.as_bytes()).await?;
        loop {
            if let Some((frame, bytes)) = decode(&self.input).map_err(|_| unfit())? {
                self.input.advance(bytes);
                return Ok(Said::of(frame));
            }
            if self.input.len() > self.answer_bytes_max {
                return Err(unfit());
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// This end's address.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn own_ip(&self) -> io::Result<IpAddr> {
        Ok(self.stream.local_addr()?.ip())
    }
}

/// The answer is not one that could be meant.
pub(crate) fn unfit() -> io::Error {
    io::Error::other("what it answers makes no sense")
}

//! A small RESP client over a blocking socket: tests must not depend on the parser they test.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a test waits for a reply before it fails: above the program's own deadline and grace.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// A reply, RESP2 or RESP3.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `+`
    Simple(String),
    /// `-`, with its code.
    Error(String),
    /// `:`
    Integer(i64),
    /// `$`; verbatim strings too, with their format.
    Bulk(Vec<u8>),
    /// `$-1`, `*-1`, `_`
    Nil,
    /// `*`, `~` and `>`
    Array(Vec<Value>),
    /// `%`
    Map(Vec<(Value, Value)>),
    /// `#`
    Boolean(bool),
    /// `,`
    Double(f64),
}

impl Value {
    /// The bytes of a bulk or simple string as text; panics with the value if it is anything else.
    pub fn text(&self) -> String {
        match self {
            Value::Simple(text) => text.clone(),
            Value::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => panic!("expected a string, got {other:?}"),
        }
    }

    /// The elements of an array; panics with the value if it is none.
    pub fn items(&self) -> &[Value] {
        match self {
            Value::Array(items) => items,
            other => panic!("expected an array, got {other:?}"),
        }
    }

    /// The value of a field: of a map, or of a RESP2 array of fields and values in turn.
    pub fn field(&self, name: &str) -> &Value {
        let found = match self {
            Value::Map(pairs) => pairs.iter().find(|(key, _)| key.text() == name).map(|(_, v)| v),
            other => {
                other.items().chunks(2).find(|pair| pair[0].text() == name).map(|pair| &pair[1])
            }
        };
        found.unwrap_or_else(|| panic!("no field {name} in {self:?}"))
    }
}

/// Encodes a command as RESP clients do.
pub fn command<A: AsRef<[u8]>>(arguments: &[A]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        let argument = argument.as_ref();
        out.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// One connection.
pub struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    /// Connects; every read waits at most `REPLY_TIMEOUT`.
    pub fn connect(port: u16) -> io::Result<Client> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
        stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Client { reader: BufReader::new(stream) })
    }

    /// Waits at most so long for each read from now on.
    pub fn set_reply_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.reader.get_ref().set_read_timeout(Some(timeout))
    }

    /// The socket itself.
    pub fn socket(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// Writes bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    /// Writes one command.
    pub fn send<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> io::Result<()> {
        self.send_raw(&command(arguments))
    }

    /// Reads one reply.
    pub fn receive(&mut self) -> io::Result<Value> {
        read_value(&mut self.reader)
    }

    /// Writes one command and reads its reply.
    pub fn call<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> io::Result<Value> {
        self.send(arguments)?;
        self.receive()
    }

    /// Reads until the other side closes. A reset counts as a close: what was not read yet on the
    /// other side makes the kernel send one.
    pub fn read_to_close(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        loop {
            let chunk = match self.reader.fill_buf() {
                Ok([]) => return Ok(bytes),
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(bytes),
                Err(error) => return Err(error),
            };
            bytes.extend_from_slice(chunk);
            let length = chunk.len();
            self.reader.consume(length);
        }
    }

    /// Reads exactly so many bytes.
    pub fn read_exact(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

fn broken(what: &str, line: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what}: {line:?}"))
}

fn read_line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let text = String::from_utf8_lossy(&line).into_owned();
    text.strip_suffix("\r\n").map(str::to_owned).ok_or_else(|| broken("a line without CRLF", &text))
}

fn read_value(reader: &mut impl BufRead) -> io::Result<Value> {
    let line = read_line(reader)?;
    let (kind, rest) = line.split_at_checked(1).ok_or_else(|| broken("an empty line", &line))?;
    let number = || rest.parse::<i64>().map_err(|_| broken("not a number", &line));
    Ok(match kind {
        "+" => Value::Simple(rest.to_owned()),
        "-" => Value::Error(rest.to_owned()),
        ":" => Value::Integer(number()?),
        "_" => Value::Nil,
        "#" => Value::Boolean(rest == "t"),
        "," => Value::Double(rest.parse().map_err(|_| broken("not a double", &line))?),
        "$" | "*" if rest == "-1" => Value::Nil,
        "$" | "=" => {
            let mut bytes = vec![0; number()? as usize + 2];
            reader.read_exact(&mut bytes)?;
            if !bytes.ends_with(b"\r\n") {
                return Err(broken("a string longer than it says", &line));
            }
            bytes.truncate(bytes.len() - 2);
            Value::Bulk(bytes)
        }
        "*" | "~" | ">" => {
            Value::Array((0..number()?).map(|_| read_value(reader)).collect::<io::Result<_>>()?)
        }
        "%" => Value::Map(
            (0..number()?)
                .map(|_| Ok((read_value(reader)?, read_value(reader)?)))
                .collect::<io::Result<_>>()?,
        ),
        _ => return Err(broken("not a reply", &line)),
    })
}

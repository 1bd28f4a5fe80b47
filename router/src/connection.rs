//! One client: read what the socket has, submit every whole command in it, write the replies in order.
//!
//! One task per connection. Each turn takes the answers that came, goes through the commands that
//! came, and writes once. It stops reading while more is under way than its bounds allow; the
//! client then meets a full socket, nothing else.

use crate::FrontEnd;
use crate::backend::{Answered, ReplySink, Target, Work, give_back};
use crate::clients::{ClientGuard, ClientInfo, Mark};
use crate::commands::admin::{Admin, SetSlot};
use crate::commands::{
    self, Arguments, Barrier, Call, Client, CommandSpec, ErrorText, Join, Local, token,
};
use crate::info::Info;
use crate::pipeline::{Pipeline, PutBack};
use crate::redirect::{Port, SentAway};
use crate::reply::{Protocol, Reply, Shape};
use crate::resp::{ProtocolError, Scanner};
use crate::window::answers_values;
use bytes::{Buf, BytesMut};
use shard_core::op::Op;
use shard_core::slot::Slot;
use std::collections::VecDeque;
use std::future::pending;
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Requests to groups that one connection has under way; past it nothing more is taken.
pub const WAITING_MAX: usize = 1024;
/// Commands of one connection without a reply, those that wait only for their turn included.
pub const PIPELINE_COMMANDS_MAX: usize = 4 * WAITING_MAX;
/// Bytes of arguments that one connection has under way; past it nothing more is taken.
pub const ASKED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of answers that may be on their way to one connection or wait for it, going by the size of
/// the last. Commands whose answer has no small bound wait for room in it.
pub const EXPECTED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Replies that are encoded ahead of the socket; past it nothing more is taken.
const OUTPUT_BYTES_AHEAD: usize = 256 * 1024;
/// The least room to read into.
const READ_BYTES_MIN: usize = 16 * 1024;
/// The most that is left in the input before reading stops.
const READ_BYTES_MAX: usize = 256 * 1024;
/// How long and how much is read after the last reply of a connection that we close, so that the
/// reply is not lost to a reset.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What an argument costs beside its bytes.
const ARGUMENT_BYTES: usize = 64;

/// Serves a connection until it ends. Everything it holds is free when this returns; ops that were
/// submitted and not answered are driven on by the backend.
pub async fn serve(
    mut stream: TcpStream,
    front: FrontEnd,
    client: ClientGuard,
    shutdown: CancellationToken,
) {
    let scanner = Scanner::with_query_bytes_max(front.config().query_bytes_max);
    let sink = Rc::new(ReplySink::new());
    let mut connection = Connection {
        front,
        client,
        sink: sink.clone(),
        scanner,
        pipeline: Pipeline::new(),
        answers: Vec::new(),
        input: BytesMut::new(),
        output: BytesMut::new(),
        reading: true,
        scanning: true,
        kept_input: false,
        held: VecDeque::new(),
        sent_away: SentAway::default(),
    };
    let ended = connection.run(&mut stream, &shutdown).await;
    sink.close();
    drop(connection);
    if matches!(ended, Ok(End::Closing)) {
        // Boxed: its buffer would be part of every connection's task.
        Box::pin(linger(&mut stream)).await;
    }
}

/// How a connection came to its end.
enum End {
    /// The client went, or has nothing more to hear.
    Gone,
    /// We close it after a last reply, and the client may still be sending.
    Closing,
}

struct Connection {
    front: FrontEnd,
    client: ClientGuard,
    sink: Rc<ReplySink>,
    scanner: Scanner,
    pipeline: Pipeline,
    answers: Vec<(u64, Answered)>,
    input: BytesMut,
    output: BytesMut,
    /// More bytes are wanted.
    reading: bool,
    /// Bytes that came are looked at.
    scanning: bool,
    /// `input` may hold whole commands that the bounds kept back.
    kept_input: bool,
    /// Commands taken from `input`, with their bytes, whose answers have no room yet: those that the
    /// pipeline put back, and the one behind them.
    held: VecDeque<(Call, usize)>,
    /// On the cluster port: what was sent on to other nodes, and the client may not know yet.
    sent_away: SentAway,
}

impl Connection {
    async fn run(
        &mut self,
        stream: &mut TcpStream,
        shutdown: &CancellationToken,
    ) -> io::Result<End> {
        let (mut reader, writer) = stream.split();
        let cancelled = shutdown.cancelled();
        tokio::pin!(cancelled);
        loop {
            self.take_answers();
            self.turn();
            if self.is_over_limit() {
                return Ok(End::Gone);
            }
            self.write(&writer)?;
            if self.has_work() {
                // Others on this thread come first; the socket took all there was.
                tokio::task::yield_now().await;
                continue;
            }
            if self.is_finished() {
                return Ok(if self.scanning { End::Gone } else { End::Closing });
            }
            self.keep_account();
            let room = self.reading && self.input.len() < READ_BYTES_MAX && self.has_room();
            let idle_until = self.idle_until();
            tokio::select! {
                biased;
                _ = self.sink.notified(), if self.pipeline.waiting() > 0 => {}
                read = read(&mut reader, &mut self.input), if room => match read? {
                    0 => self.reading = false,
                    bytes => self.received(bytes),
                },
                writable = writer.writable(), if !self.output.is_empty() => writable?,
                () = &mut cancelled, if self.reading => self.reading = false,
                () = until(idle_until) => {
                    debug!(client = self.client.info.id, "closed after its idle timeout");
                    return Ok(End::Gone);
                }
            }
        }
    }

    /// Until when the client may be idle. One that waits for a reply is not.
    fn idle_until(&self) -> Option<Instant> {
        let limit = self.front.config().idle_timeout.filter(|_| self.pipeline.is_empty())?;
        Some(Instant::from_std(self.client.info.active.get() + limit))
    }

    fn received(&mut self, bytes: usize) {
        let took_all = self.input.len() == bytes && self.scanner.held_bytes() == 0;
        if took_all && self.held.is_empty() && self.pipeline.is_empty() && self.output.is_empty() {
            self.sent_away.forget();
        }
        let counters = self.front.counters();
        counters.input_bytes.set(counters.input_bytes.get() + bytes as u64);
        counters.reads.set(counters.reads.get() + 1);
        self.client.info.active.set(std::time::Instant::now());
        self.kept_input = true;
    }

    fn take_answers(&mut self) {
        self.sink.take(&mut self.answers);
        let mut answers = std::mem::take(&mut self.answers);
        for (tag, answer) in answers.drain(..) {
            let asks = self.pipeline.answer(tag, answer);
            self.submit(asks);
            for PutBack { slot, op, shape, asked_bytes } in
                self.pipeline.put_back().into_iter().rev()
            {
                self.held.push_front((Call::Op { slot, op, shape }, asked_bytes));
                self.kept_input = true;
            }
        }
        give_back(&mut answers);
        self.answers = answers;
    }

    fn submit(&self, asks: Vec<(u64, Target, Work)>) {
        for (tag, target, work) in asks {
            self.front.backend().submit(&self.sink, tag, target, work);
        }
    }

    /// Writes replies and takes commands for as long as one makes way for the other.
    fn turn(&mut self) {
        loop {
            self.pipeline.write_ready(&mut self.output, OUTPUT_BYTES_AHEAD);
            let config = || self.front.backend().view();
            if self.pipeline.is_blocked() {
                let node = self.front.backend().node();
                let scope = self.front.scope();
                let asks = self.pipeline.start_barrier(&config(), node, &scope);
                self.submit(asks);
                // A barrier without anybody to ask is answered already.
                self.pipeline.write_ready(&mut self.output, OUTPUT_BYTES_AHEAD);
            }
            if !self.scanning || !self.kept_input || !self.has_room() {
                return;
            }
            self.scan();
        }
    }

    /// Takes commands until there are no more whole ones, or no room.
    fn scan(&mut self) {
        while self.has_room() {
            if let Some((call, asked)) = self.held.pop_front() {
                self.execute(call, asked);
                continue;
            }
            match self.scanner.next(&mut self.input) {
                Ok(Some(arguments)) => {
                    let asked = arguments.iter().map(|a| a.len() + ARGUMENT_BYTES).sum();
                    match parse(&self.client.info, arguments) {
                        Ok((spec, call)) => {
                            self.count_command();
                            self.client.info.command.set(spec.name);
                            if wants_values(&call) && !self.has_room_for_values() {
                                self.held.push_back((call, asked));
                                break;
                            }
                            self.execute(call, asked);
                        }
                        Err(text) => self.refuse(text),
                    }
                    if !self.scanning {
                        return;
                    }
                }
                Ok(None) => {
                    self.kept_input = false;
                    break;
                }
                Err(error) => {
                    self.fail(error);
                    return;
                }
            }
        }
        if self.input.is_empty() {
            // An idle connection holds no buffer.
            self.input = BytesMut::new();
        }
    }

    fn count_command(&self) {
        let (info, counters) = (&self.client.info, self.front.counters());
        counters.commands.set(counters.commands.get() + 1);
        info.commands.set(info.commands.get() + 1);
    }

    fn refuse(&mut self, text: commands::ErrorText) {
        self.count_command();
        self.reply(&Reply::Error(text));
    }

    fn execute(&mut self, call: Call, asked: usize) {
        let info = &self.client.info;
        let protocol = info.protocol.get();
        match call {
            Call::Op { slot, op: Op::ListKeys { .. }, .. } if self.front.is_opened(slot) => {
                self.reply(&Reply::Array(Vec::new()));
            }
            Call::Op { slot, op, shape } => match self.send_away(slot, &op) {
                Some(moved) => self.reply(&moved),
                None => self.submit_op(slot, op, shape, asked),
            },
            // Sent on, it would come without its token; done here, before what was sent on.
            Call::Marked { slot, .. } if self.sent_away.has(slot) => {
                self.reply(&Reply::Error(token::BEHIND_MOVED));
            }
            Call::Marked { slot, op, shape } => self.submit_op(slot, op, shape, asked),
            Call::Split(split) => {
                let asks = self.pipeline.push_split(protocol, split, asked);
                self.submit(asks);
            }
            Call::Barrier(barrier) => {
                if let Some((slot, opened)) = opens(&barrier) {
                    self.front.set_opened(slot, opened);
                }
                self.pipeline.push_barrier(protocol, barrier);
            }
            Call::Info(names) => match crate::info::info(&self.front, &names) {
                Info::Text(text) => self.reply(&Reply::Verbatim(text)),
                Info::Ask(ask) => self.pipeline.push_barrier(protocol, Barrier::Info(ask)),
            },
            Call::Local(call) => {
                let last = call == Local::Quit;
                let reply = crate::local::answer(&self.front, info, call);
                self.sink.set_request_timeout(info.request_timeout.get());
                self.reply(&reply);
                if last {
                    self.stop();
                }
            }
        }
    }

    fn submit_op(&mut self, slot: Slot, mut op: Op, shape: Shape, asked: usize) {
        let backend = self.front.backend();
        token::set_window(&mut op, self.front.idmp_window_ms(), backend.request_timeout());
        let protocol = self.client.info.protocol.get();
        let tag = self.pipeline.push_one(protocol, (slot, &op), shape, asked);
        backend.submit(&self.sink, tag, Target::Slot(slot), Work::Op(op));
    }

    /// The reply that sends the client to another node, on the port that does so.
    fn send_away(&mut self, slot: Slot, op: &Op) -> Option<Reply> {
        let names_keys = !matches!(op, Op::CountKeys | Op::ListKeys { .. } | Op::FlushSlot);
        if self.front.port() == Port::Plain || !names_keys {
            return None;
        }
        let reply = self.sent_away.repeat(slot).or_else(|| {
            let reads_here = self.client.info.readonly.get() && !op.is_write();
            let moved = self.front.redirect(slot, reads_here)?;
            Some(self.sent_away.note(slot, moved))
        })?;
        let moved = &self.front.counters().moved;
        moved.set(moved.get() + 1);
        Some(reply)
    }

    /// A reply that is known goes out in the protocol that the connection has now.
    fn reply(&mut self, reply: &Reply) {
        let protocol: Protocol = self.client.info.protocol.get();
        self.pipeline.push_reply(protocol, reply, &mut self.output);
    }

    /// Nothing more is read or taken; what was taken is answered.
    fn stop(&mut self) {
        self.reading = false;
        self.scanning = false;
        self.input = BytesMut::new();
    }

    fn fail(&mut self, error: ProtocolError) {
        let counters = self.front.counters();
        counters.protocol_errors.set(counters.protocol_errors.get() + 1);
        let address = self.client.info.address;
        if error.is_silent() {
            warn!(%address, %error, "closed a connection");
        } else {
            debug!(%address, %error, "closed a connection");
            self.reply(&Reply::error(format!("ERR {error}")));
        }
        self.stop();
    }

    fn has_room(&self) -> bool {
        let pipeline = &self.pipeline;
        !pipeline.is_blocked()
            && pipeline.waiting() < WAITING_MAX
            && pipeline.len() < PIPELINE_COMMANDS_MAX
            && pipeline.asked_bytes() < ASKED_BYTES_MAX
            && pipeline.ready_bytes() < EXPECTED_BYTES_MAX
            && self.output.len() < OUTPUT_BYTES_AHEAD
            && (self.held.is_empty() || self.has_room_for_values())
    }

    fn has_room_for_values(&self) -> bool {
        self.pipeline.may_ask_values(self.output.len())
    }

    fn is_over_limit(&self) -> bool {
        let held = self.output.len() + self.pipeline.ready_bytes();
        if held > self.front.config().output_bytes_max {
            let address = self.client.info.address;
            info!(%address, held, "closed a connection that does not read its replies");
            return true;
        }
        false
    }

    /// One write, or more only if the socket took a part and wants the rest.
    fn write(&mut self, writer: &WriteHalf<'_>) -> io::Result<()> {
        let counters = self.front.counters();
        while !self.output.is_empty() {
            match writer.try_write(&self.output) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(bytes) => {
                    self.output.advance(bytes);
                    counters.output_bytes.set(counters.output_bytes.get() + bytes as u64);
                    counters.writes.set(counters.writes.get() + 1);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.output = BytesMut::new();
        Ok(())
    }

    /// Whether the next turn would do something without anything new coming.
    fn has_work(&self) -> bool {
        self.output.is_empty()
            && (self.pipeline.front_is_ready()
                || self.scanning && self.kept_input && self.has_room())
    }

    fn is_finished(&self) -> bool {
        !self.reading && self.pipeline.is_empty() && self.output.is_empty()
    }

    fn keep_account(&mut self) {
        let errors = &self.front.counters().errors;
        errors.set(errors.get() + self.pipeline.take_errors());
        let info = &self.client.info;
        info.query_bytes.set(self.input.len() + self.scanner.held_bytes());
        info.output_bytes.set(self.output.len() + self.pipeline.ready_bytes());
        info.waiting.set(self.pipeline.len());
    }
}

/// What the command is, with the token that the one before it brought.
fn parse(
    info: &ClientInfo,
    arguments: &mut Arguments,
) -> Result<(&'static CommandSpec, Call), ErrorText> {
    let marks = token::is_client_idmp(arguments);
    let parsed = match info.mark.take() {
        None => commands::parse(arguments),
        Some(mark) => parse_marked(mark, arguments),
    };
    if marks && parsed.is_err() {
        // What is behind it, perhaps on its way already, is not to be done without the token.
        info.mark.set(Some(Mark::Refused));
    }
    parsed
}

fn parse_marked(
    mark: Mark,
    arguments: &mut Arguments,
) -> Result<(&'static CommandSpec, Call), ErrorText> {
    let hash = token::hash_of(arguments);
    let (spec, call) = commands::parse(arguments)?;
    match (&call, mark) {
        // A pool cleans a connection so, or gives it back, whatever was to come on it.
        (Call::Local(Local::Reset | Local::Quit), _) => Ok((spec, call)),
        (Call::Local(Local::Client(Client::Token(_))), _) => Ok((spec, call)),
        (_, Mark::Token(name)) => match token::named(call, name, hash)? {
            Call::Op { slot, op, shape } => Ok((spec, Call::Marked { slot, op, shape })),
            call => Ok((spec, call)),
        },
        (_, Mark::Refused) => Err(token::REFUSED_BEFORE),
    }
}

/// The slot that SETSLOT opens (true) or closes here.
fn opens(barrier: &Barrier) -> Option<(Slot, bool)> {
    let Barrier::Admin(wish) = barrier else { return None };
    let Admin::SetSlot { slot, how, .. } = &wish.admin else { return None };
    match how {
        SetSlot::Migrating(_) => Some((*slot, true)),
        SetSlot::Stable | SetSlot::Node(_) => Some((*slot, false)),
        SetSlot::Importing(_) => None,
    }
}

/// Whether nothing but the size of values bounds the answer.
fn wants_values(call: &Call) -> bool {
    match call {
        Call::Op { op, .. } | Call::Marked { op, .. } => answers_values(op),
        Call::Split(split) => matches!(split.join, Join::Values(_)),
        Call::Barrier(_) | Call::Local(_) | Call::Info(_) => false,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

async fn read(reader: &mut ReadHalf<'_>, input: &mut BytesMut) -> io::Result<usize> {
    loop {
        // Memory is taken when bytes are there: a client that says nothing costs none.
        reader.readable().await?;
        if input.capacity() - input.len() < READ_BYTES_MIN / 4 {
            input.reserve(READ_BYTES_MIN);
        }
        match reader.try_read_buf(input) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

/// Closes our half and reads what the client still sends: closing a socket with unread bytes resets
/// it, and the client could lose the last reply.
async fn linger(stream: &mut TcpStream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let discard = async {
        let mut left = LINGER_BYTES_MAX;
        let mut waste = [0; 4096];
        while left > 0 {
            match stream.read(&mut waste).await {
                Ok(bytes) if bytes > 0 => left = left.saturating_sub(bytes),
                _ => return,
            }
        }
    };
    // The end of that time is as good an end as the client's.
    let _ = tokio::time::timeout(LINGER, discard).await;
}

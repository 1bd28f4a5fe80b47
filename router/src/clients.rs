//! The connections of a front end, for CLIENT and INFO.

use crate::reply::Protocol;
use bytes::Bytes;
use shard_core::session::SessionId;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// What the CLIENT IDMP before a command says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It has this token.
    Token(SessionId),
    /// It was to have one that was refused.
    Refused,
}

/// What is known of one connection.
#[derive(Debug)]
pub struct ClientInfo {
    /// Counts up from 1 over the life of the front end.
    pub id: u64,
    /// The client's end.
    pub address: SocketAddr,
    /// Our end.
    pub local_address: SocketAddr,
    /// When it was accepted.
    pub since: Instant,
    /// When the last bytes came.
    pub active: Cell<Instant>,
    /// The protocol of replies to come.
    pub protocol: Cell<Protocol>,
    /// READONLY: on the cluster port, reads are served by any replica's node.
    pub readonly: Cell<bool>,
    /// CLIENT REQUEST-TIMEOUT: how long a request of its waits at most, if not as long as those of others.
    pub request_timeout: Cell<Option<Duration>>,
    /// CLIENT IDMP: what it says of the next command.
    pub mark: Cell<Option<Mark>>,
    /// CLIENT SETNAME; empty: none.
    pub name: RefCell<Bytes>,
    /// CLIENT SETINFO LIB-NAME.
    pub lib_name: RefCell<Bytes>,
    /// CLIENT SETINFO LIB-VER.
    pub lib_version: RefCell<Bytes>,
    /// The last command, as the table names it.
    pub command: Cell<&'static str>,
    /// Bytes received that are no whole command yet.
    pub query_bytes: Cell<usize>,
    /// Replies that wait for the socket or for earlier ones, in bytes.
    pub output_bytes: Cell<usize>,
    /// Commands not answered yet.
    pub waiting: Cell<usize>,
    /// Commands taken.
    pub commands: Cell<u64>,
}

impl ClientInfo {
    /// Its line in CLIENT LIST, with the fields of Redis 7.2 that mean something here.
    pub fn line(&self) -> String {
        let text = |field: &RefCell<Bytes>| String::from_utf8_lossy(&field.borrow()).into_owned();
        let mut line = String::new();
        // Writing to a string cannot fail.
        let _ = write!(
            line,
            "id={} addr={} laddr={} fd=0 name={} age={} idle={} flags={} db=0 sub=0 psub=0 ssub=0 \
             multi=-1 qbuf={} qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl={} oll={} \
             omem={} tot-mem={} events=r cmd={} user=default redir=-1 resp={} lib-name={} \
             lib-ver={}",
            self.id,
            self.address,
            self.local_address,
            text(&self.name),
            self.since.elapsed().as_secs(),
            self.active.get().elapsed().as_secs(),
            if self.readonly.get() { "r" } else { "N" },
            self.query_bytes.get(),
            self.output_bytes.get(),
            self.waiting.get(),
            self.output_bytes.get(),
            self.query_bytes.get() + self.output_bytes.get(),
            self.command.get(),
            self.protocol.get().number(),
            text(&self.lib_name),
            text(&self.lib_version),
        );
        line
    }
}

/// Every connection by id.
#[derive(Debug, Default)]
pub struct Clients {
    by_id: RefCell<BTreeMap<u64, Rc<ClientInfo>>>,
    last_id: Cell<u64>,
}

impl Clients {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.by_id.borrow().len()
    }

    /// Bytes that all of them have in buffers, as `tot-mem` of their lines.
    pub fn bytes(&self) -> usize {
        let by_id = self.by_id.borrow();
        by_id.values().map(|info| info.query_bytes.get() + info.output_bytes.get()).sum()
    }

    /// Enters a connection; it is struck out when the guard is dropped.
    pub fn enter(
        self: &Rc<Clients>,
        address: SocketAddr,
        local_address: SocketAddr,
    ) -> ClientGuard {
        let id = self.last_id.get() + 1;
        self.last_id.set(id);
        let now = Instant::now();
        let info = Rc::new(ClientInfo {
            id,
            address,
            local_address,
            since: now,
            active: Cell::new(now),
            protocol: Cell::default(),
            readonly: Cell::default(),
            request_timeout: Cell::default(),
            mark: Cell::default(),
            name: RefCell::default(),
            lib_name: RefCell::default(),
            lib_version: RefCell::default(),
            command: Cell::new("NULL"),
            query_bytes: Cell::new(0),
            output_bytes: Cell::new(0),
            waiting: Cell::new(0),
            commands: Cell::new(0),
        });
        self.by_id.borrow_mut().insert(id, info.clone());
        ClientGuard { clients: self.clone(), info }
    }

    /// The lines of CLIENT LIST: of these ids, or of all. An id counts once however often it stands
    /// there (in Redis each time), so that a list is no longer than all connections make it.
    pub fn list(&self, ids: Option<&[u64]>) -> String {
        let by_id = self.by_id.borrow();
        let mut lines = String::new();
        let mut put = |info: &Rc<ClientInfo>| {
            lines.push_str(&info.line());
            lines.push('\n');
        };
        match ids {
            None => by_id.values().for_each(&mut put),
            Some(ids) => {
                let mut seen = BTreeSet::new();
                let new = ids.iter().filter(|id| seen.insert(**id));
                new.filter_map(|id| by_id.get(id)).for_each(&mut put);
            }
        }
        lines
    }
}

/// A connection's place among the clients.
#[derive(Debug)]
pub struct ClientGuard {
    clients: Rc<Clients>,
    /// What is known of it.
    pub info: Rc<ClientInfo>,
}

impl Drop for ClientGuard {
    fn drop(&mut self) {
        self.clients.by_id.borrow_mut().remove(&self.info.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_each_of_the_ids_once_in_the_order_asked_for() {
        let clients = Rc::<Clients>::default();
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let guards: Vec<ClientGuard> = (0..3).map(|_| clients.enter(address, address)).collect();
        let ids = |ids: Option<&[u64]>| -> Vec<String> {
            let list = clients.list(ids);
            list.lines().filter_map(|line| line.split(' ').next()).map(str::to_string).collect()
        };
        assert_eq!(ids(None), ["id=1", "id=2", "id=3"]);
        assert_eq!(ids(Some(&[3, 9, 1, 3, 3])), ["id=3", "id=1"]);
        drop(guards);
        assert_eq!(ids(None), [""; 0]);
    }
}

//! Commands that are answered here, whatever state the groups are in.

use crate::FrontEnd;
use crate::clients::{ClientInfo, Mark};
use crate::commands::server::table;
use crate::commands::{Client, Local};
use crate::info::{REDIS_VERSION, unix_micros};
use crate::reply::{Protocol, Reply};
use crate::settings::config_get;
use bytes::Bytes;
use std::time::Duration;

/// The reply, after the command has had its effect on the connection.
pub fn answer(front: &FrontEnd, client: &ClientInfo, call: Local) -> Reply {
    match call {
        Local::Reply(reply) => reply,
        Local::Hello { protocol, name } => hello(client, protocol, name),
        Local::Quit => Reply::OK,
        Local::Reset => reset(client),
        Local::ReadOnly(on) => {
            client.readonly.set(on);
            Reply::OK
        }
        Local::Commands(names) => table(names.as_deref(), front.port()),
        Local::Time => time(),
        Local::Wait => Reply::Integer(with_topology(front, |t| t.replicas_of_every_write())),
        Local::Role => with_topology(front, |topology| topology.role()),
        Local::ConfigGet(patterns) => config_get(front, &patterns),
        Local::SetIdmpWindow(ms) => {
            front.set_idmp_window_ms(ms);
            Reply::OK
        }
        Local::Client(call) => answer_client(front, client, call),
        Local::Introduce(nonce) => match front.backend().introduce(&nonce) {
            Some(fields) => Reply::Array(fields.map(Reply::text).into()),
            None => Reply::error("ERR this is a router alone, ask a node"),
        },
        Local::Cluster(call) => with_topology(front, |topology| topology.answer(&call)),
    }
}

fn with_topology<T>(front: &FrontEnd, of: impl FnOnce(&crate::topology::Topology) -> T) -> T {
    let view = front.backend().view();
    let status = front.backend().status();
    of(&front.topology(&view, status.as_deref()))
}

fn hello(client: &ClientInfo, protocol: Option<Protocol>, name: Option<Bytes>) -> Reply {
    if let Some(protocol) = protocol {
        client.protocol.set(protocol);
    }
    if let Some(name) = name {
        client.name.replace(name);
    }
    let text = Reply::word;
    Reply::Map(vec![
        (text("server"), text("redis")),
        (text("version"), text(REDIS_VERSION)),
        (text("proto"), Reply::Integer(client.protocol.get().number())),
        (text("id"), Reply::Integer(client.id as i64)),
        (text("mode"), text("cluster")),
        // Writes are welcome on every connection, whoever leads.
        (text("role"), text("master")),
        (text("modules"), Reply::Array(Vec::new())),
    ])
}

fn reset(client: &ClientInfo) -> Reply {
    client.protocol.set(Protocol::Resp2);
    client.readonly.set(false);
    client.request_timeout.set(None);
    client.name.replace(Bytes::new());
    Reply::Simple("RESET")
}

fn time() -> Reply {
    let now = unix_micros();
    Reply::Array(vec![
        Reply::text((now / 1_000_000).to_string()),
        Reply::text((now % 1_000_000).to_string()),
    ])
}

fn answer_client(front: &FrontEnd, client: &ClientInfo, call: Client) -> Reply {
    match call {
        Client::Id => Reply::Integer(client.id as i64),
        Client::GetName => match client.name.borrow().clone() {
            name if name.is_empty() => Reply::Nil,
            name => Reply::Bulk(name),
        },
        Client::SetName(name) => {
            client.name.replace(name);
            Reply::OK
        }
        Client::SetLibName(name) => {
            client.lib_name.replace(name);
            Reply::OK
        }
        Client::SetLibVersion(version) => {
            client.lib_version.replace(version);
            Reply::OK
        }
        Client::Info => Reply::Verbatim(client.line() + "\n"),
        Client::List(ids) => Reply::Verbatim(front.clients().list(ids.as_deref())),
        Client::Token(name) => {
            client.mark.set(Some(Mark::Token(name)));
            Reply::OK
        }
        Client::RequestTimeout(ms) => request_timeout(front, client, ms),
    }
}

fn request_timeout(front: &FrontEnd, client: &ClientInfo, ms: u64) -> Reply {
    let max = front.backend().request_timeout();
    let asked = Duration::from_millis(ms);
    if asked > max {
        let max = max.as_millis();
        return Reply::error(format!(
            "ERR timeout is out of range: no request waits longer than {max} ms here"
        ));
    }
    client.request_timeout.set((ms > 0).then_some(asked));
    Reply::OK
}

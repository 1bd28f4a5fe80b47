//! CONFIG GET: what stock clients and tools ask for, as it is here. A setting of Redis that means
//! nothing here is not told, rather than told with a value that nobody acts on.

use crate::glob::glob_match;
use crate::reply::Reply;
use crate::resp::BULK_BYTES_MAX;
use crate::{FrontEnd, ServeConfig};
use bytes::Bytes;
use std::borrow::Cow;

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// As Redis names it.
    pub name: &'static str,
    /// Whether its value is a plain number.
    pub integer: bool,
    /// Whether CONFIG SET takes it; the others come from the command line and the cluster file.
    pub mutable: bool,
    value: Value,
}

/// Its value, fixed or from the configuration.
#[derive(Debug)]
enum Value {
    Is(&'static str),
    Of(fn(&ServeConfig) -> String),
}

use Value::{Is, Of};

const fn text(name: &'static str, value: Value) -> Setting {
    Setting { name, integer: false, mutable: false, value }
}

const fn number(name: &'static str, value: Value) -> Setting {
    Setting { name, integer: true, mutable: false, value }
}

/// The settings that CONFIG GET knows.
pub const SETTINGS: &[Setting] = &[
    text("activedefrag", Is("no")),
    // Every acknowledged write is in a log on disk, synced before the answer.
    text("appendfsync", Is("always")),
    text("appendonly", Is("yes")),
    text("no-appendfsync-on-rewrite", Is("no")),
    text("bind", Of(|config| config.bind.clone())),
    // Every client has this limit, whatever its class.
    text("client-output-buffer-limit", Of(output_limit)),
    text("client-query-buffer-limit", Of(|config| config.query_bytes_max.to_string())),
    // A slot whose group has no leader is not read; the other slots are served.
    text("cluster-allow-reads-when-down", Is("no")),
    text("cluster-enabled", Is("yes")),
    text("cluster-require-full-coverage", Is("no")),
    text("daemonize", Is("no")),
    number("databases", Is("1")),
    // None is kept.
    text("latency-tracking", Is("no")),
    number("latency-monitor-threshold", Is("0")),
    Setting {
        name: "idmp-window-ms",
        integer: true,
        mutable: true,
        value: Of(|config| config.idmp_window_ms.to_string()),
    },
    // Standard error.
    text("logfile", Is("")),
    number("maxclients", Of(|config| config.clients_max.to_string())),
    text("maxmemory", Of(|config| config.maxmemory.to_string())),
    text("maxmemory-clients", Is("0")),
    text("maxmemory-policy", Is("noeviction")),
    // No event is ever sent.
    text("notify-keyspace-events", Is("")),
    number("port", Of(|config| config.port.to_string())),
    text("proto-max-bulk-len", Of(|_| BULK_BYTES_MAX.to_string())),
    text("protected-mode", Is("no")),
    text("requirepass", Is("")),
    // No snapshots: the log is what is kept.
    text("save", Is("")),
    // There is no slow log.
    number("slowlog-log-slower-than", Is("-1")),
    number("slowlog-max-len", Is("0")),
    number("tcp-keepalive", Of(|_| crate::TCP_KEEPALIVE.as_secs().to_string())),
    number("timeout", Of(|config| config.idle_timeout.map_or(0, |t| t.as_secs()).to_string())),
    number("tls-port", Is("0")),
    text("unixsocket", Is("")),
];

fn output_limit(config: &ServeConfig) -> String {
    let limit = config.output_bytes_max;
    ["normal", "slave", "pubsub"].map(|class| format!("{class} {limit} 0 0")).join(" ")
}

/// Whether Redis takes it for a pattern; anything else is a name.
fn is_pattern(text: &[u8]) -> bool {
    text.iter().any(|byte| b"[*?".contains(byte))
}

/// The reply to CONFIG GET.
pub fn config_get(front: &FrontEnd, patterns: &[Bytes]) -> Reply {
    let config = front.config().clone();
    pairs(&ServeConfig { idmp_window_ms: front.idmp_window_ms(), ..config }, patterns)
}

fn pairs(config: &ServeConfig, patterns: &[Bytes]) -> Reply {
    // Redis answers a name that is no pattern in the spelling of the request; the first match counts.
    let shown = |name: &'static str| -> Option<Bytes> {
        let name = name.as_bytes();
        patterns.iter().find_map(|pattern| match is_pattern(pattern) {
            false => pattern.eq_ignore_ascii_case(name).then(|| pattern.clone()),
            true => {
                glob_match(&pattern.to_ascii_lowercase(), name).then(|| Bytes::from_static(name))
            }
        })
    };
    let value = |setting: &Setting| match setting.value {
        Is(value) => Cow::Borrowed(value),
        Of(value) => Cow::Owned(value(config)),
    };
    let entry = |setting: &Setting| {
        Some((Reply::Bulk(shown(setting.name)?), Reply::text(value(setting).into_owned())))
    };
    Reply::Map(SETTINGS.iter().filter_map(entry).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(patterns: &[&'static str]) -> Vec<(String, String)> {
        let patterns: Vec<Bytes> =
            patterns.iter().map(|p| Bytes::from_static(p.as_bytes())).collect();
        let Reply::Map(pairs) = pairs(&ServeConfig::default(), &patterns) else { panic!("no map") };
        let text = |reply: Reply| match reply {
            Reply::Bulk(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            Reply::Text(text) => text.into_owned(),
            other => panic!("{other:?}"),
        };
        pairs.into_iter().map(|(name, value)| (text(name), text(value))).collect()
    }

    #[test]
    fn what_clients_ask_for_is_told_as_it_is() {
        for (name, value) in [
            ("appendonly", "yes"),
            ("appendfsync", "always"),
            ("bind", "127.0.0.1"),
            (
                "client-output-buffer-limit",
                "normal 268435456 0 0 slave 268435456 0 0 pubsub 268435456 0 0",
            ),
            ("databases", "1"),
            ("idmp-window-ms", "600000"),
            ("maxclients", "10000"),
            ("maxmemory", "0"),
            ("maxmemory-policy", "noeviction"),
            ("notify-keyspace-events", ""),
            ("port", "6379"),
            ("proto-max-bulk-len", "67108864"),
            ("save", ""),
            ("slowlog-log-slower-than", "-1"),
            ("slowlog-max-len", "0"),
            ("tcp-keepalive", "300"),
            ("timeout", "0"),
        ] {
            assert_eq!(get(&[name]), [(name.to_string(), value.to_string())]);
        }
    }

    #[test]
    fn patterns_and_names_may_be_mixed_and_each_setting_is_told_once() {
        let names = |patterns| get(patterns).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(
            names(&["SlowLog-*", "TIMEOUT", "time?ut"]),
            ["slowlog-log-slower-than", "slowlog-max-len", "TIMEOUT"]
        );
        assert_eq!(names(&["*"]).len(), SETTINGS.len());
        // A backslash alone makes no pattern.
        assert_eq!(names(&["time\\out"]), Vec::<String>::new());
        assert_eq!(names(&["nosuch", ""]), Vec::<String>::new());
    }
}

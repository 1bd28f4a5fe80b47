//! How the summary of a directory looks.

use super::findings::one_line;
use super::image::Sizes;
use crate::cluster_file::Cluster;
use crate::data_dir::{self, Identity};
use crate::log_store::inspect::{GroupView as LogGroup, LogView};
use crate::state_store::inspect::{GroupView as StateGroup, MACHINE_BYTES_MAX, StateView, Summary};
use raft_core::Restored;
use raft_core::conf::Conf;
use raft_core::types::{HardState, Index};
use shard_core::kept::{Kept, Left};
use shard_core::{GroupId, NodeId};
use std::io::{self, Write};

pub(super) fn small_files(
    out: &mut dyn Write,
    identity: Option<&Identity>,
    cluster: Option<&Cluster>,
) -> io::Result<()> {
    match identity {
        None => writeln!(out, "  identity      cannot be read")?,
        Some(Identity { cluster_id, node }) => writeln!(
            out,
            "  identity      node {node} of cluster \"{}\", format {}",
            one_line(cluster_id),
            data_dir::FORMAT
        )?,
    }
    match cluster {
        None => writeln!(out, "  cluster.toml  cannot be read, or the secret cannot"),
        Some(cluster) => {
            let (nodes, groups) = (cluster.config.nodes.len(), cluster.config.groups.len());
            writeln!(
                out,
                "  cluster.toml  {nodes} nodes, {} groups and the shardmaster",
                groups.saturating_sub(1)
            )?;
            writeln!(out, "  secret        {} bytes", cluster.secret.len())
        }
    }
}

pub(super) fn kept(out: &mut dyn Write, kept: Option<&Kept>) -> io::Result<()> {
    let Some(kept) = kept else { return writeln!(out, "  map           none that can be read") };
    let (version, config) = (kept.map.version, &kept.map.config);
    let groups = config.groups.len().saturating_sub(1);
    writeln!(
        out,
        "  map           version {version}, configuration {}: {}, {}",
        config.num,
        count(config.nodes.len() as u64, "node", "nodes"),
        count(groups as u64, "group", "groups")
    )?;
    for (group, left) in &kept.left {
        let rest = match left {
            Left::Clearing => "the next start deletes the rest",
            Left::Cleared => "its term and vote stay",
        };
        writeln!(out, "                has left group {group}, {rest}")?;
    }
    for (node, moved) in &kept.moved {
        let (from, to) = (one_line(&moved.from.peer), one_line(&moved.to.peer));
        writeln!(out, "                node {node} is at {to}, not at {from}")?;
    }
    Ok(())
}

pub(super) fn log(out: &mut dyn Write, log: Option<&LogView>) -> io::Result<()> {
    let Some(log) = log else { return writeln!(out, "  log.redb      cannot be read") };
    writeln!(out, "  log.redb      format 1, {}", sizes(log.sizes))?;
    let (first, next) = log.rows;
    let rows = match next.checked_sub(1) {
        Some(last) if last >= first => format!("rows {first} to {last}"),
        _ => "no rows".to_owned(),
    };
    let (frames, bytes) = (log.frames, bytes(log.bytes));
    let read = if log.whole { "" } else { ", as far as it can be read" };
    writeln!(out, "                {rows}, {frames} frames, {bytes}{read}")
}

pub(super) fn state(out: &mut dyn Write, state: Option<&StateView>) -> io::Result<()> {
    let Some(state) = state else { return writeln!(out, "  state.redb    cannot be read") };
    writeln!(out, "  state.redb    format 1, {}", sizes(state.sizes))?;
    if state.to_clean > 0 {
        let count = state.to_clean;
        writeln!(out, "                {count} sets of rows that are to be deleted")?;
    }
    Ok(())
}

fn sizes(sizes: Sizes) -> String {
    let (file, used) = (sizes.file_bytes, sizes.used_bytes.min(sizes.file_bytes));
    format!("{}, {} of it in use", bytes(file), bytes(used))
}

pub(super) fn group(
    out: &mut dyn Write,
    group: GroupId,
    restored: &Restored,
    log: Option<&LogGroup>,
    state: Option<&StateGroup>,
) -> io::Result<()> {
    let name = if group.0 == 0 { " (shardmaster)" } else { "" };
    writeln!(out, "  group {group}{name}")?;
    match log {
        None => writeln!(out, "    log         nothing")?,
        Some(log) => {
            writeln!(out, "    term        {}", hard(&restored.hard))?;
            let (base, last) = (restored.base, restored.last);
            let entries = last.index.0.saturating_sub(base.index.0);
            let oldest = log.oldest.map_or(String::new(), |row| format!(", from row {row} on"));
            writeln!(
                out,
                "    log         after {base} up to {last}: {}, {} of frames, {}{oldest}",
                count(entries, "entry", "entries"),
                bytes(log.bytes),
                count(restored.term_runs.len() as u64, "term", "terms"),
            )?;
            if let Some((index, conf)) = restored.confs.last() {
                writeln!(out, "    members     {}", members(*index, conf))?;
            }
        }
    }
    let Some(state) = state else { return writeln!(out, "    checkpoint  none") };
    match &state.stored.checkpoint {
        None => writeln!(out, "    checkpoint  none")?,
        Some(snapshot) => {
            writeln!(
                out,
                "    checkpoint  at {}: {}, {}, hash {:016x}",
                snapshot.id.at,
                count(state.rows, "row", "rows"),
                bytes(snapshot.bytes),
                snapshot.id.hash
            )?;
            writeln!(out, "                {}", members(snapshot.conf.0, &snapshot.conf.1))?;
            summary(out, state.summary.as_ref())?;
        }
    }
    if let Some(at) = state.stored.installing {
        writeln!(out, "    installing  a snapshot up to {at}: a start finishes it")?;
    }
    if let Some((id, offset)) = state.stored.staged {
        writeln!(out, "    coming in   a snapshot up to {}: {} are here", id.at, bytes(offset))?;
    }
    Ok(())
}

fn summary(out: &mut dyn Write, summary: Option<&Summary>) -> io::Result<()> {
    match summary {
        None => writeln!(out, "                its rows are damaged"),
        Some(Summary::NotLoaded) => {
            let max = bytes(MACHINE_BYTES_MAX);
            writeln!(out, "                its rows are sound; over {max}, so not counted further")
        }
        Some(Summary::Shard(stats)) => writeln!(
            out,
            "                {}, {} with an expiry, {} of keys and values, {}",
            count(stats.keys, "key", "keys"),
            stats.expires,
            bytes(stats.data_bytes),
            count(stats.lanes, "lane", "lanes")
        ),
        Some(Summary::Master(config)) => writeln!(
            out,
            "                configuration {}: {} nodes, {} groups",
            config.num,
            config.nodes.len(),
            config.groups.len()
        ),
    }
}

fn hard(hard: &HardState) -> String {
    let vote = hard.voted_for.map_or("no vote".to_owned(), |node| format!("voted for node {node}"));
    format!("{}, {vote}", hard.term)
}

/// The members of a configuration in words.
pub(super) fn members(index: Index, conf: &Conf) -> String {
    let mut text = String::new();
    let lists = [
        ("voters", &conf.voters),
        ("outgoing voters", &conf.outgoing),
        ("learners", &conf.learners),
        ("planned voters", &conf.goal),
        ("to stay as learners", &conf.demoted),
    ];
    for (name, nodes) in lists {
        if !nodes.is_empty() {
            text += &format!("{name} {}, ", list(nodes));
        }
    }
    if conf.follows > 0 {
        text += &format!("following configuration {}, ", conf.follows);
    }
    match index {
        Index(0) => text + "as the cluster began",
        index => text + &format!("since entry {index}"),
    }
}

fn list(nodes: &[NodeId]) -> String {
    nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(" ")
}

pub(super) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// A size for people.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 10 << 10 {
        return format!("{count} bytes");
    }
    let mut tenths = u128::from(count) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        (tenths, unit) = (tenths / 1024, unit + 1);
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (size, text) in [
            (0, "0 bytes"),
            (10_239, "10239 bytes"),
            (10_240, "10.0 KiB"),
            (1_589_248, "1.5 MiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(bytes(size), text);
        }
    }
}

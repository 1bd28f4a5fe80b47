//! INFO.

use crate::FrontEnd;
use crate::node_name::node_name;
use crate::topology::Partner;
use bytes::Bytes;
use shard_core::cluster_config::SHARDMASTER;
use shard_core::disk_room::DiskStatus;
use shard_core::memory::MemoryUse;
use shard_core::wire::{NodeStatus, ReplicaStatus};
use shard_core::{GroupId, NodeId};
use std::fmt::{Display, Write};

/// The version of Redis whose replies and commands these are.
pub const REDIS_VERSION: &str = "7.2.0";

/// Appends the lines of one section.
type PutSection = fn(&mut Section);

const SECTIONS: &[(&str, PutSection)] = &[
    ("server", server),
    ("clients", clients),
    ("memory", memory),
    ("persistence", persistence),
    ("stats", stats),
    ("replication", replication),
    ("cpu", cpu),
    ("cluster", cluster),
    ("keyspace", keyspace),
    ("raft", raft),
];

struct Section<'a> {
    front: &'a FrontEnd,
    status: Option<&'a NodeStatus>,
    text: String,
    /// Where the keys of other processes belong, if there are none in this one.
    keys_at: Option<usize>,
}

impl Section<'_> {
    fn put(&mut self, name: &str, value: impl Display) {
        // Writing to a string cannot fail.
        let _ = write!(self.text, "{name}:{value}\r\n");
    }
}

/// The reply to INFO, or what is missing for it.
#[derive(Debug)]
pub enum Info {
    /// The text.
    Text(String),
    /// The groups are to be asked first.
    Ask(Box<KeysElsewhere>),
}

/// INFO with the section keyspace, of a process that holds no keys itself: a router alone, or a node
/// without a seat in a shard group. Its clients see all keys, so all are counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeysElsewhere {
    text: String,
    at: usize,
    /// Groups that can be asked.
    pub groups: Vec<GroupId>,
    /// Groups without a leader: asking them would only take until the deadline.
    pub unled: usize,
}

impl KeysElsewhere {
    /// The reply, with what the groups said. A sum without some of them would be no truth.
    pub fn text(&self, keys: u64, expires: u64, unanswered: usize) -> String {
        let line = match unanswered {
            0 => keys_line(keys, expires),
            missing => unanswered_line(missing),
        };
        let (before, after) = self.text.split_at(self.at);
        format!("{before}{line}{after}")
    }
}

/// What is said instead of a sum that lacks so many groups.
fn unanswered_line(groups: usize) -> String {
    format!("unanswered_groups:{groups}\r\n")
}

/// What INFO answers: the sections named, or all.
pub fn info(front: &FrontEnd, names: &[Bytes]) -> Info {
    let named =
        |wanted: &str| names.iter().any(|name| name.eq_ignore_ascii_case(wanted.as_bytes()));
    let all = names.is_empty() || ["all", "default", "everything"].into_iter().any(named);
    let status = front.backend().status();
    let mut section =
        Section { front, status: status.as_deref(), text: String::new(), keys_at: None };
    for (name, put) in SECTIONS {
        if all || named(name) {
            if !section.text.is_empty() {
                section.text.push_str("\r\n");
            }
            let mut title = (*name).to_string();
            let capitals = if *name == "cpu" { 3 } else { 1 };
            title[..capitals].make_ascii_uppercase();
            let _ = write!(section.text, "# {title}\r\n");
            put(&mut section);
        }
    }
    let Section { text, keys_at, .. } = section;
    let Some(at) = keys_at else { return Info::Text(text) };
    let led = front.backend().led_groups();
    let unled = front.backend().view().map.config.shard_groups().count() - led.len();
    let ask = KeysElsewhere { text, at, groups: led.into_iter().collect(), unled };
    match ask.groups.is_empty() {
        true => Info::Text(ask.text(0, 0, ask.unled)),
        false => Info::Ask(Box::new(ask)),
    }
}

fn server(section: &mut Section) {
    let front = section.front;
    let node = front.backend().node().unwrap_or_default();
    let name = node_name(&front.backend().view().map.config.cluster_id, node);
    let uptime = front.uptime().as_secs();
    section.put("redis_version", REDIS_VERSION);
    section.put("flotilla_version", env!("CARGO_PKG_VERSION"));
    section.put("redis_git_sha1", "00000000");
    section.put("redis_git_dirty", 0);
    section.put("redis_mode", "cluster");
    section.put("os", operating_system());
    section.put("arch_bits", usize::BITS);
    section.put("process_id", std::process::id());
    section.put("process_supervised", "no");
    section.put("run_id", name);
    section.put("tcp_port", front.config().port);
    section.put("server_time_usec", unix_micros());
    section.put("uptime_in_seconds", uptime);
    section.put("uptime_in_days", uptime / 86_400);
    if let Ok(path) = std::env::current_exe() {
        section.put("executable", path.display());
    }
    section.put("io_threads_active", 0);
    section.put("node_id", node);
}

fn clients(section: &mut Section) {
    let front = section.front;
    section.put("connected_clients", front.clients().count());
    section.put("cluster_connections", 0);
    section.put("maxclients", front.config().clients_max);
    section.put("blocked_clients", 0);
    section.put("tracking_clients", 0);
    section.put("clients_in_timeout_table", 0);
}

/// `used_memory` is what is compared with `maxmemory`: all parts of it follow.
fn memory(section: &mut Section) {
    let alone = MemoryUse { buffers: section.front.buffered_bytes(), ..MemoryUse::default() };
    let parts = section.status.map_or(alone, |status| status.memory);
    let (used, data) = (parts.total(), parts.keys + parts.values);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let rss = kib_line(&status, "VmRSS:").unwrap_or(used);
    // The kernel counts pages late: the peak may be below what is there now.
    let peak = kib_line(&status, "VmHWM:").unwrap_or(0).max(rss).max(used);
    let percent = |part: u64, of: u64| format!("{:.2}%", 100.0 * part as f64 / of.max(1) as f64);
    section.put("used_memory", used);
    section.put("used_memory_human", human(used));
    section.put("used_memory_rss", rss);
    section.put("used_memory_rss_human", human(rss));
    section.put("used_memory_peak", peak);
    section.put("used_memory_peak_human", human(peak));
    section.put("used_memory_peak_perc", percent(used, peak));
    section.put("used_memory_overhead", used - data);
    section.put("used_memory_dataset", data);
    section.put("used_memory_dataset_perc", percent(data, used));
    section.put("used_memory_keys", parts.keys);
    section.put("used_memory_values", parts.values);
    section.put("used_memory_lanes", parts.lanes);
    section.put("used_memory_replies", parts.replies);
    section.put("used_memory_checkpoint", parts.checkpoint);
    section.put("used_memory_log", parts.log);
    section.put("used_memory_buffers", parts.buffers);
    // Not part of `used_memory`, like the code and what the allocator keeps: a write cannot make it grow
    // beyond its bound.
    if let Some(status) = section.status {
        section.put("disk_caches", status.disk_cache_bytes);
        section.put("snapshot_buffers", status.snapshot_bytes);
        section.put("snapshot_buffers_peak", status.snapshot_bytes_peak);
    }
    let machine = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    if let Some(bytes) = kib_line(&machine, "MemTotal:") {
        section.put("total_system_memory", bytes);
        section.put("total_system_memory_human", human(bytes));
    }
    section.put("used_memory_lua", 0);
    section.put("used_memory_lua_human", "0B");
    section.put("used_memory_scripts", 0);
    section.put("number_of_cached_scripts", 0);
    section.put("number_of_functions", 0);
    section.put("number_of_libraries", 0);
    let max = section.front.config().maxmemory;
    section.put("maxmemory", max);
    section.put("maxmemory_human", human(max));
    section.put("maxmemory_policy", "noeviction");
    section.put("mem_fragmentation_ratio", format!("{:.2}", rss as f64 / used.max(1) as f64));
    section.put("mem_fragmentation_bytes", i128::from(rss) - i128::from(used));
    section.put("mem_replication_backlog", 0);
    section.put("mem_clients_slaves", 0);
    section.put("mem_clients_normal", section.front.clients().bytes());
    // The program has no allocator of its own.
    section.put("mem_allocator", "libc");
    section.put("active_defrag_running", 0);
    section.put("lazyfree_pending_objects", 0);
}

fn persistence(section: &mut Section) {
    section.put("loading", 0);
    section.put("async_loading", 0);
    section.put("rdb_bgsave_in_progress", 0);
    section.put("rdb_last_bgsave_status", "ok");
    section.put("aof_enabled", 1);
    section.put("aof_rewrite_in_progress", 0);
    section.put("aof_rewrite_scheduled", 0);
    section.put("aof_last_bgrewrite_status", "ok");
    let disk = section.status.map_or_else(DiskStatus::default, |status| status.disk);
    section.put("aof_last_write_status", if disk.low { "err" } else { "ok" });
    if let Some(status) = section.status {
        section.put("disk_free_bytes", disk.free);
        section.put("disk_free_bytes_min", disk.free_min);
        section.put("disk_low", u8::from(disk.low));
        section.put("disk_log_waits", u8::from(disk.log_waits));
        section.put("disk_state_waits", u8::from(disk.state_waits));
        section.put("aof_current_size", status.log_file_bytes);
    }
}

fn stats(section: &mut Section) {
    let counters = section.front.counters();
    section.put("total_connections_received", counters.connections.get());
    section.put("total_commands_processed", counters.commands.get());
    section.put("total_net_input_bytes", counters.input_bytes.get());
    section.put("total_net_output_bytes", counters.output_bytes.get());
    section.put("rejected_connections", counters.rejected.get());
    // What does not exist here happens never: that is their true count.
    for name in [
        "sync_full",
        "sync_partial_ok",
        "sync_partial_err",
        "evicted_keys",
        "evicted_clients",
        "pubsub_channels",
        "pubsub_patterns",
        "pubsubshard_channels",
        "latest_fork_usec",
        "total_forks",
        "migrate_cached_sockets",
        "slave_expires_tracked_keys",
        "active_defrag_hits",
        "active_defrag_misses",
        "active_defrag_key_hits",
        "active_defrag_key_misses",
        "tracking_total_keys",
        "tracking_total_items",
        "tracking_total_prefixes",
    ] {
        section.put(name, 0);
    }
    section.put("total_error_replies", counters.errors.get());
    section.put("total_reads_processed", counters.reads.get());
    section.put("total_writes_processed", counters.writes.get());
    section.put("total_moved_replies", counters.moved.get());
    section.put("protocol_errors", counters.protocol_errors.get());
    let dispatch = section.front.backend().stats();
    for (name, value) in [
        ("dispatch_submitted", dispatch.submitted),
        ("dispatch_answered", dispatch.answered),
        ("dispatch_overloaded", dispatch.overloaded),
        ("dispatch_unknown", dispatch.unknown),
        ("dispatch_attempts", dispatch.attempts),
        ("dispatch_retries", dispatch.retries),
        ("dispatch_late_answers", dispatch.late),
        ("dispatch_invalid_answers", dispatch.invalid),
        ("dispatch_refreshes", dispatch.refreshes),
        ("dispatch_sessions", dispatch.sessions),
        ("dispatch_pending", dispatch.pending),
        ("dispatch_pending_bytes", dispatch.pending_bytes),
    ] {
        section.put(name, value);
    }
    let status = section.status;
    for (name, value) in status.iter().flat_map(|status| &status.counters) {
        section.put(name, value);
    }
}

fn replication(section: &mut Section) {
    let view = section.front.backend().view();
    let topology = section.front.topology(&view, section.status);
    section.put("role", topology.role_name());
    if let Some(master) = topology.master() {
        section.put("master_host", master.host);
        section.put("master_port", master.port);
        section.put("master_link_status", if master.is_linked { "up" } else { "down" });
        let silent = master.silent_s.filter(|_| master.is_linked);
        let silent = silent.map_or_else(|| "-1".to_string(), |seconds| seconds.to_string());
        section.put("master_last_io_seconds_ago", silent);
        section.put("master_sync_in_progress", 0);
        section.put("slave_read_repl_offset", master.offset);
        section.put("slave_repl_offset", master.offset);
        // Every node takes writes and brings them to the leader.
        section.put("slave_read_only", 0);
    }
    let followers = topology.followers();
    section.put("connected_slaves", followers.len());
    for (at, follower) in followers.iter().enumerate() {
        let Partner { host, port, offset, silent_s, .. } = follower;
        let lag = silent_s.unwrap_or(0);
        let value = format!("ip={host},port={port},state=online,offset={offset},lag={lag}");
        section.put(&format!("slave{at}"), value);
    }
    let failover = if topology.hands_over() { "failover-in-progress" } else { "no-failover" };
    section.put("master_failover_state", failover);
    section.put("master_replid", topology.replication_id());
    section.put("master_replid2", "0".repeat(40));
    section.put("master_repl_offset", topology.master_offset());
    section.put("second_repl_offset", -1);
    // Followers are fed from the log.
    for name in ["active", "size", "first_byte_offset", "histlen"] {
        section.put(&format!("repl_backlog_{name}"), 0);
    }
}

/// Seconds of processor time; nothing where the kernel does not tell.
fn cpu(section: &mut Section) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let names = ["user", "sys", "user_children", "sys_children"];
    for (name, seconds) in names.into_iter().zip(cpu_seconds(&stat)) {
        section.put(&format!("used_cpu_{name}"), format!("{seconds:.6}"));
    }
}

/// User and system time of the process and of the children it waited for, from a `stat` file.
fn cpu_seconds(stat: &str) -> Vec<f64> {
    /// The kernel shows times in hundredths of a second, on every machine.
    const TICKS: f64 = 100.0;
    // The name of the program stands in brackets and may hold blanks.
    let Some((_, fields)) = stat.rsplit_once(')') else { return Vec::new() };
    let times = fields.split_whitespace().skip(11).take(4);
    times.filter_map(|ticks| Some(ticks.parse::<f64>().ok()? / TICKS)).collect()
}

fn cluster(section: &mut Section) {
    let view = section.front.backend().view();
    section.put("cluster_enabled", 1);
    section.put("cluster_id", &view.map.config.cluster_id);
    section.put("cluster_config", view.map.config.num);
}

/// Keys of the replicas in this process: as in Redis, a follower counts its copy. One whose copy is on its way
/// has none to count.
fn keyspace(section: &mut Section) {
    let replicas = section.status.into_iter().flat_map(|status| &status.replicas);
    let mut shards = replicas.filter(|(group, _)| **group != SHARDMASTER).peekable();
    if shards.peek().is_none() {
        section.keys_at = Some(section.text.len());
        return;
    }
    section.text.push_str(&keys_here(shards.map(|(_, replica)| replica)));
}

fn keys_here<'a>(replicas: impl Iterator<Item = &'a ReplicaStatus>) -> String {
    let (mut keys, mut expires, mut installing) = (0, 0, 0);
    for replica in replicas {
        keys += replica.keys;
        expires += replica.expires;
        installing += usize::from(replica.installing);
    }
    match installing {
        0 => keys_line(keys, expires),
        missing => unanswered_line(missing),
    }
}

/// Redis leaves out a database without keys.
fn keys_line(keys: u64, expires: u64) -> String {
    match keys {
        0 => String::new(),
        _ => format!("db0:keys={keys},expires={expires},avg_ttl=0\r\n"),
    }
}

fn raft(section: &mut Section) {
    let Some(status) = section.status else { return };
    section.put("raft_groups", status.replicas.len());
    section.put("raft_peers_up", status.peers_up().count());
    section.put("raft_sync_age_ms", status.sync_age_ms);
    section.put("raft_clock_off_ms", status.clock_off_ms.unwrap_or_default());
    let age = |age: Option<u64>| age.map_or_else(|| "never".into(), |age| age.to_string());
    for (peer, seen) in &status.peers {
        let value = format!(
            "state={},contact_age_ms={},echo_age_ms={},sync_age_ms={},clock_ahead_ms={},claimed={},believed={}",
            seen.state,
            age(seen.contact_age_ms),
            age(seen.echo_age_ms),
            seen.sync_age_ms,
            seen.clock_ahead_ms.map_or_else(|| "unknown".into(), |ahead| ahead.to_string()),
            seen.claimed,
            seen.believed,
        );
        section.put(&format!("raft_peer_{peer}"), value);
    }
    section.put("raft_log_file_bytes", status.log_file_bytes);
    section.put("raft_log_commits", status.log_commits);
    section.put("raft_log_entries", status.log_entries);
    for (group, replica) in &status.replicas {
        let leader = or_none(replica.leader);
        let value = format!(
            "role={},term={},leader={leader},voted_for={},last={},durable={},commit={},applied={},\
             lease={},transferring={},keys={},lanes={},tokens={},lane_bytes={},log_time_ahead_ms={},checkpoint={},log_base={},\
             dirty_keys={},dirty_bytes={},installs={},installing={}",
            replica.role,
            replica.term,
            or_none(replica.voted_for),
            replica.last,
            replica.durable,
            replica.commit,
            replica.applied,
            u8::from(replica.lease),
            or_none(replica.transferring),
            replica.keys,
            replica.lanes,
            replica.tokens,
            replica.lane_bytes,
            replica.log_time_ahead_ms,
            replica.checkpoint,
            replica.log_base,
            replica.dirty_keys,
            replica.dirty_bytes,
            replica.installs,
            u8::from(replica.installing),
        );
        section.put(&format!("raft_group_{group}"), value);
        for (peer, matched) in &replica.matched {
            let state = status.peers.get(peer).map_or("down", |peer| peer.state);
            let sending = replica.sending.get(peer).copied().unwrap_or("probe");
            let value = format!("match={matched},sending={sending},state={state}");
            section.put(&format!("raft_follower_{group}_{peer}"), value);
        }
    }
}

fn or_none(node: Option<NodeId>) -> String {
    node.map_or_else(|| "none".into(), |node| node.to_string())
}

/// This machine's wall clock.
pub fn unix_micros() -> u128 {
    std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_micros())
}

/// As Redis prints it, as far as the kernel tells.
fn operating_system() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    match release.trim() {
        "" => std::env::consts::OS.to_string(),
        release => format!("Linux {release} {}", std::env::consts::ARCH),
    }
}

/// A number of KiB in a file of the kernel's, in bytes. (Resident memory is in `status` in KiB, in
/// `statm` in pages of a size that differs from kernel to kernel.)
fn kib_line(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

/// Bytes as Redis prints them for people.
fn human(bytes: u64) -> String {
    let units = [("G", 30), ("M", 20), ("K", 10)];
    match units.into_iter().find(|(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) => format!("{:.2}{unit}", bytes as f64 / f64::from(1u32 << shift)),
        None => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_not_counted_while_those_of_a_group_are_not_here() {
        let held = ReplicaStatus { keys: 3, expires: 1, ..ReplicaStatus::default() };
        let coming = ReplicaStatus { installing: true, ..ReplicaStatus::default() };
        assert_eq!(keys_here([&held, &held].into_iter()), "db0:keys=6,expires=2,avg_ttl=0\r\n");
        assert_eq!(keys_here([&held, &coming].into_iter()), "unanswered_groups:1\r\n");
    }

    #[test]
    fn memory_is_read_from_the_status_of_a_process() {
        let status = "Name:\tflotilla\nVmHWM:\t   20480 kB\nVmRSS:\t   10240 kB\nRssAnon:\t 1 kB\n";
        assert_eq!(kib_line(status, "VmRSS:"), Some(10 << 20));
        assert_eq!(kib_line(status, "VmHWM:"), Some(20 << 20));
        assert_eq!(kib_line("VmRSS:\t x kB\n", "VmRSS:"), None);
        assert_eq!(kib_line("", "VmRSS:"), None);
    }

    #[test]
    fn processor_time_is_read_from_the_stat_of_a_process() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 250 3 4 20 0";
        assert_eq!(cpu_seconds(stat), [1.5, 2.5, 0.03, 0.04]);
        assert!(cpu_seconds("").is_empty());
    }

    #[test]
    fn bytes_are_shown_as_redis_shows_them() {
        for (bytes, shown) in
            [(0, "0B"), (1023, "1023B"), (1536, "1.50K"), (10 << 20, "10.00M"), (3 << 30, "3.00G")]
        {
            assert_eq!(human(bytes), shown);
        }
    }
}

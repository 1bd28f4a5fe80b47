#!/usr/bin/env python3
"""`make bench-disk`: what checkpoints, catching up and an idle group cost, with real nodes.

Three parts, each with processes of its own on this machine; `--part` runs one of them alone.

checkpoint   One node, one group. Keys are loaded; then writers that each wait for their reply overwrite keys at
             random. Each write counts as during a checkpoint or as outside one by its end. Then all keys are
             overwritten a few times, and the node is stopped, and killed, and started: how long until it serves.
catch-up     Three nodes, one group. One is killed, and so many writes pass that it needs a snapshot; it is started
             again while writers write. Their latencies before, meanwhile and after.
idle-group   One node, 64 groups, one of which is silent while the others write: the size of the log.

Latencies are of the whole way, from a client in Python on the same machine: compare those of one run.
"""

import argparse
import binascii
import multiprocessing
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

from failover import ROOT, Client, Cluster, free_ports, info_raft, percentile, wait_for

VALUE_BYTES = 1000
WRITERS = 6
# A writer pauses so long after each reply: the machine is not to be saturated by its clients.
PAUSE_S = 0.002
BATCH = 200
LOADERS = 3
GROUPS = 64


def die(message):
    sys.exit(f"bench-disk: {message}")


def command(*words):
    parts = [b"*%d\r\n" % len(words)]
    parts += [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
    return b"".join(parts)


def value():
    return random.randbytes(VALUE_BYTES // 2).hex().encode()


def load(port, keys):
    """SETs all keys, many at once."""
    keys, failures = list(keys), []

    def run(mine):
        try:
            with socket.create_connection(("127.0.0.1", port), 60) as connection:
                for at in range(0, len(mine), BATCH):
                    batch = mine[at : at + BATCH]
                    connection.sendall(b"".join(command(b"SET", key, value()) for key in batch))
                    answer = b""
                    while len(answer) < 5 * len(batch) and b"-" not in answer:
                        answer += connection.recv(1 << 16) or b"-closed"
                    if answer != b"+OK\r\n" * len(batch):
                        raise ConnectionError(answer[:200])
        except (OSError, ConnectionError) as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(keys[n::LOADERS],)) for n in range(LOADERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        die(f"a write failed: {failures[0]}")


def write(port, keys, until, results):
    """One writer, a process of its own: when each write began and how long it took."""
    client, seen = Client(port, 60), []
    random.seed(os.getpid())
    while not until.is_set():
        key = f"key:{random.randrange(keys)}"
        begun = time.monotonic()
        if client.call("SET", key, value().decode()) != "+OK":
            die("a write was refused")
        seen.append((begun, time.monotonic() - begun))
        time.sleep(PAUSE_S)
    results.put(seen)


class Writers:
    def __init__(self, port, keys):
        self.until, self.results = multiprocessing.Event(), multiprocessing.Queue()
        arguments = (port, keys, self.until, self.results)
        self.processes = [multiprocessing.Process(target=write, args=arguments) for _ in range(WRITERS)]
        for process in self.processes:
            process.start()

    def end(self):
        self.until.set()
        seen = [sample for _ in self.processes for sample in self.results.get(timeout=60)]
        for process in self.processes:
            process.join()
        return seen


def stats(port, section="stats"):
    client = Client(port, 30)
    lines = client.call("INFO", section).splitlines()
    client.close()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def show(name, seen):
    ms = [1000 * took for _, took in seen]
    if not ms:
        print(f"  {name:<24} no writes")
        return 0
    p99 = percentile(ms, 0.99)
    print(
        f"  {name:<24} {len(ms):>7} writes   p50 {percentile(ms, 0.5):6.2f}   p99 {p99:6.2f}"
        f"   p99.9 {percentile(ms, 0.999):6.2f}   longest {max(ms):7.2f} ms"
    )
    return p99


def sizes(folder, port):
    path = folder / "node-1" / "state.redb"
    live, found = int(stats(port)["state_live_bytes"]), path.stat()
    print(
        f"  state.redb: length {found.st_size / live:.2f}, on the disk {found.st_blocks * 512 / live:.2f} times the"
        f" live data of {live / 1e6:,.0f} MB; log.redb {(folder / 'node-1' / 'log.redb').stat().st_size / 1e6:,.0f} MB"
    )


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def restart(cluster, number):
    cluster.signal(1, number)
    cluster.wait(1)
    begun = time.monotonic()
    cluster.start(1)
    wait_for("start", lambda: Client(cluster.port(1), 30).call("SET", "started", "1") == "+OK", 300)
    took, cpu = time.monotonic() - begun, cpu_seconds(cluster.processes[1].pid)
    log = (cluster.folder / "node-1" / "log.redb").stat().st_size
    print(f"  restart after {signal.Signals(number).name}: serves after {took:.1f} s, {cpu:.1f} s of CPU (log.redb {log / 1e6:,.0f} MB)")


def part_checkpoint(cluster, args):
    port = cluster.port(1)
    begun = time.monotonic()
    load(port, (b"key:%d" % n for n in range(args.keys)))
    print(f"\ncheckpoint: {args.keys:,} keys of {VALUE_BYTES} bytes, loaded in {time.monotonic() - begun:.0f} s")
    sizes(cluster.folder, port)
    writers, end = Writers(port, args.keys), time.monotonic() + args.seconds
    done, spans = int(stats(port)["state_checkpoints"]), []
    while time.monotonic() < end:
        now = stats(port)
        if int(now["state_checkpoints"]) > done:
            done, at = int(now["state_checkpoints"]), time.monotonic()
            spans.append((at - int(now["state_checkpoint_last_us"]) / 1e6, at))
        time.sleep(0.05)
    seen = writers.end()
    # Those before the first one: what the load has left may be on its way still.
    seen = [(begun, took) for begun, took in seen if spans and begun > spans[0][1]]
    within = [s for s in seen if any(a <= s[0] + s[1] and s[0] <= b for a, b in spans[1:])]
    inside = set(within)
    outside = [s for s in seen if s not in inside and s[0] < spans[-1][1]]
    lengths = ", ".join(f"{b - a:.1f}" for a, b in spans[1:])
    print(f"  {len(spans[1:])} checkpoints, of seconds: {lengths}")
    during, without = show("during a checkpoint", within), show("outside", outside)
    if during and without:
        print(f"  p99 during a checkpoint: {during / without:.2f} times that outside; goal 2")
    begun = time.monotonic()
    for _ in range(args.overwrites):
        load(port, (b"key:%d" % n for n in range(args.keys)))
    print(f"  all overwritten {args.overwrites} times, in {time.monotonic() - begun:.0f} s")
    sizes(cluster.folder, port)
    for number in (signal.SIGTERM, signal.SIGKILL):
        restart(cluster, number)
    sizes(cluster.folder, port)


def part_catch_up(cluster, args):
    wait_for("leader", cluster.leader)
    port = cluster.first
    load(port, (b"key:%d" % n for n in range(args.keys)))
    leader = wait_for("leader", cluster.leader, 300)
    away = next(node for node in (1, 2, 3) if node != leader)
    cluster.signal(away, signal.SIGKILL)
    cluster.wait(away)
    load(port, (b"key:%d" % (n % args.keys) for n in range(args.away_writes)))
    print(f"\ncatch-up: {args.keys:,} keys of {VALUE_BYTES} bytes, one of three away for {args.away_writes:,} writes")
    writers = Writers(port, args.keys)
    time.sleep(args.seconds / 3)
    begun = time.monotonic()
    cluster.start(away)

    def is_there():
        mine, leads = info_raft(cluster.port(away)), info_raft(cluster.port(leader))
        return int(mine["applied"]) + 500 > int(leads["commit"]) and int(mine["applied"]) > 0

    wait_for("follower that has caught up", is_there, 600)
    ended = time.monotonic()
    received = int(stats(cluster.port(away))["snapshot_bytes_received"])
    time.sleep(args.seconds / 3)
    seen = writers.end()
    print(f"  caught up after {ended - begun:.1f} s, of it a snapshot of {received / 1e6:,.0f} MB")
    before = show("two replicas, before", [s for s in seen if s[0] < begun])
    during = show("while it catches up", [s for s in seen if begun <= s[0] < ended])
    after = show("three replicas, after", [s for s in seen if s[0] >= ended])
    print(f"  p99 meanwhile: {during / before:.2f} times that before, {during / after:.2f} that after; goal 2")


def part_idle_group(cluster, args):
    port, log = cluster.port(1), cluster.folder / "node-1" / "log.redb"
    wait_for("start", lambda: Client(port, 30).call("SET", "started", "1") == "+OK", 120)
    slots = 16384 // GROUPS
    # The slots of the first group are silent after this. It has more log than is written anew in one piece.
    named = (f"s{n}" for n in range(10**7))
    mine = [key for key, _ in zip((k for k in named if binascii.crc_hqx(k.encode(), 0) % 16384 < slots), range(8000))]
    load(port, [key.encode() for key in mine])
    silent = mine[0]
    Client(port, 30).call("SET", silent, "kept")
    longest, written, n = 0, 0, 0
    while written < args.log_bytes:
        keys = []
        while len(keys) < 20_000:
            n += 1
            key = b"key:%d" % (n % args.keys)
            if binascii.crc_hqx(key, 0) % 16384 >= slots:
                keys.append(key)
        load(port, keys)
        written += len(keys) * VALUE_BYTES
        longest = max(longest, log.stat().st_size)
    found = stats(port)
    print(
        f"\nidle-group: {written / 1e6:,.0f} MB written to {GROUPS - 1} groups while one was silent\n  log.redb: at most"
        f" {longest / 1e6:,.0f} MB, at the end {log.stat().st_size / 1e6:,.0f} MB with {int(found['raft_log_bytes']) / 1e6:,.0f} MB of frames;"
        f" groups written anew: {found['raft_log_rewritten_groups']}"
    )
    if Client(port, 30).call("GET", silent) != "kept":
        die("what the silent group has is gone")


PARTS = {
    "checkpoint": (part_checkpoint, {"nodes": (1,)}),
    "catch-up": (part_catch_up, {"nodes": (1, 2, 3)}),
    "idle-group": (part_idle_group, {"nodes": (1,), "groups": GROUPS}),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=ROOT / "target/release/flotilla")
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--away-writes", type=int, default=1_000_000)
    parser.add_argument("--log-bytes", type=int, default=1_000_000_000)
    parser.add_argument("--seconds", type=float, default=120, help="how long latencies are taken")
    parser.add_argument("--overwrites", type=int, default=10, help="how often all keys are overwritten")
    parser.add_argument("--dir", type=Path, help="where the nodes keep their files")
    args = parser.parse_args()
    for name in args.part or PARTS:
        part, shape = PARTS[name]
        with tempfile.TemporaryDirectory(dir=args.dir) as folder:
            cluster = Cluster(args.program, Path(folder), free_ports(8), **shape)
            try:
                part(cluster, args)
            finally:
                cluster.end()
        sys.stdout.flush()


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""`make bench-slot`: what a slot with a gigabyte in it takes of memory while it moves.

Six `flotilla node` processes and a router, all on this machine: a group on nodes 1 to 3, another one on 4 to 6. A
gigabyte of values is written to one slot of the first, once as values of 100 KB and once, in a cluster of its own, as
values of 64 MiB, the largest there can be. Then the slot moves to the other group while clients overwrite values of
that slot and of others. The resident memory of each node is read all the time: what it has at most above what it had
before and, at the destination, above the values that have come, is what the move costs. In the end all values are
read.
"""

import argparse
import multiprocessing
import os
import random
import socket
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path

from failover import ROOT, Client, Cluster, ask, free_ports, wait_for
from move import slot_of

GROUPS = {1: [1, 2, 3], 2: [4, 5, 6]}
MIB = 1 << 20
# Clients that write: one values of 100 KB in the slot that moves, one small ones there, the others elsewhere. Where all of
# the slot's values have 64 MiB, those of 100 KB are others: a write of 64 MiB takes as much itself, wherever it is.
WRITERS, WRITTEN = 4, 100_000
SIZES = {"100 KB": WRITTEN, "64 MiB": 64 << 20}
SAMPLE_EVERY_S = 0.02
# So long before the move and behind it memory is looked at.
SETTLE_S = 15
GOAL_MIB = 64


def die(message):
    sys.exit(f"bench-slot: {message}")


def tag_of(group_slots):
    return next(tag for tag in (b"t%d" % n for n in range(1000)) if slot_of(tag) in group_slots)


def send(connection, *words):
    parts = [b"*%d\r\n" % len(words), *(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)]
    connection.sendall(b"".join(parts))
    answer = b""
    while not answer.endswith(b"\r\n"):
        answer += connection.recv(1 << 16) or die("a connection was closed")
    return answer


def value(number, count, size):
    """The value that a key has when it was written so often; no two are equal."""
    piece = random.Random(number * 1_000_003 + count).randbytes(4096)
    return (piece * (size // len(piece) + 1))[:size]


def key_of(tag, number):
    return b"{%s}:%d" % (tag, number)


def write(nth, port, tag, keys, size, until, results):
    """One client writes values that move, one every so often; the others small ones. Says what was written last."""
    dice, written, longest, counts = random.Random(nth), 0, 0.0, {}
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        while not until.is_set():
            if nth == 0 and size > WRITTEN:
                words = (b"{%s}:side:%d" % (tag, dice.randrange(20)), value(written, 0, WRITTEN))
            elif nth == 0:
                number = dice.randrange(keys)
                counts[number] = counts.get(number, 0) + 1
                words = (key_of(tag, number), value(number, counts[number], size))
            else:
                words = (b"{%s}:small:%d" % (tag if nth == 1 else b"%d" % dice.randrange(1000), nth), b"x" * 100)
            begun = time.monotonic()
            answer = send(connection, b"SET", *words)
            longest = max(longest, time.monotonic() - begun)
            if answer != b"+OK\r\n":
                die(f"a write failed: {answer[:200]}")
            written += 1
            until.wait(0.02 if nth == 0 else 0.005)
    results.put((nth, written, longest, counts))


class Memory(threading.Thread):
    """Resident memory of each node, bytes: what it is, and the most since it was asked last."""

    def __init__(self, cluster):
        super().__init__(daemon=True)
        self.pids = {node: cluster.processes[node].pid for node in cluster.nodes}
        self.most, self.last, self.ended = {}, {}, threading.Event()

    def run(self):
        while not self.ended.wait(SAMPLE_EVERY_S):
            for node, pid in self.pids.items():
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                self.last[node] = pages * os.sysconf("SC_PAGE_SIZE")
                self.most[node] = max(self.most.get(node, 0), self.last[node])

    def anew(self):
        self.most = dict(self.last)
        return dict(self.last)


def leader_of(cluster, group):
    for node in GROUPS[group]:
        for line in ask(cluster.port(node), "INFO", "raft").splitlines():
            name, _, rest = line.partition(":")
            if name == f"raft_group_{group}" and "role=leader" in rest:
                return node
    return None


def moved(port):
    reply = Client(port, 60).call("CLUSTER", "REBALANCE", "STATUS")
    fields = dict(zip(reply[::2], reply[1::2]))
    return fields["slots-to-move"] == ":0" and fields["moves-running"] == ":0"


def load(port, tag, other, keys, size):
    """Fills the slot. Before that both groups have written what makes their files, caches and buffers what they are."""
    with socket.create_connection(("127.0.0.1", port), 120) as connection:
        for round in range(12):
            for warm in (b"{%s}:warm:%d" % (name, n) for name in (tag, other) for n in range(40)):
                send(connection, b"SET", warm, value(round, 0, 200_000))
        for name in (tag, other):
            send(connection, b"DEL", *(b"{%s}:warm:%d" % (name, n) for n in range(40)))
        for number in range(keys):
            answer = send(connection, b"SET", key_of(tag, number), value(number, 0, size))
            if answer != b"+OK\r\n":
                die(f"a write of the load failed: {answer[:200]}")


def verify(port, tag, keys, size, counts):
    with socket.create_connection(("127.0.0.1", port), 120) as connection:
        reader = connection.makefile("rb")
        for number in range(keys):
            key = key_of(tag, number)
            connection.sendall(b"*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n" % (len(key), key))
            found = reader.read(int(reader.readline()[1:]) + 2)[:-2]
            if zlib.crc32(found) != zlib.crc32(value(number, counts.get(number, 0), size)):
                die(f"{key} is not what was written last")


def measure(name, size, options):
    keys = options.bytes // size
    with tempfile.TemporaryDirectory(dir=options.dir or ROOT / "target") as folder:
        nodes = tuple(node for group in GROUPS.values() for node in group)
        cluster = Cluster(options.program, Path(folder), free_ports(14), nodes=nodes, voters=GROUPS)
        try:
            port = cluster.router_ports[0]
            wait_for("answer of a router", lambda: Client(port).call("SET", "ready", "1") == "+OK")
            tag, other = tag_of(range(8192)), tag_of(range(8192, 16384))
            begun = time.monotonic()
            load(port, tag, other, keys, size)
            print(f"{keys} values of {name} loaded in {time.monotonic() - begun:.0f} s", flush=True)
            time.sleep(SETTLE_S)
            run(name, cluster, port, tag, keys, size)
        finally:
            cluster.end()


def run(name, cluster, port, tag, keys, size):
    memory = Memory(cluster)
    memory.start()
    until, results = multiprocessing.Event(), multiprocessing.Queue()
    writers = [
        multiprocessing.Process(target=write, args=(nth, port, tag, keys, size, until, results), daemon=True)
        for nth in range(WRITERS)
    ]
    for writer in writers:
        writer.start()
    time.sleep(SETTLE_S)
    leaders = {leader_of(cluster, group) for group in GROUPS}
    written = memory.anew()
    time.sleep(SETTLE_S)
    before = {node: memory.most[node] for node in cluster.nodes}
    memory.anew()
    slot, begun = str(slot_of(tag)), time.monotonic()
    reply = Client(port, 60).call("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "GROUP", "2")
    if reply.startswith("-"):
        die(reply)
    wait_for("end of the move", lambda: moved(port), 500)
    took = time.monotonic() - begun
    time.sleep(SETTLE_S)
    until.set()
    found = [results.get(timeout=120) for _ in writers]
    memory.ended.set()
    counts = next(counts for nth, _, _, counts in found if nth == 0)
    print(f"{name}: moved in {took:.1f} s; {sum(n for _, n, _, _ in found):,} writes, the longest {max(l for _, _, l, _ in found):.2f} s")
    print("\n| node | | before, MiB | at most, MiB | values, MiB | extra, MiB |")
    print("|---|---|---:|---:|---:|---:|")
    for node in cluster.nodes:
        comes = node in GROUPS[2]
        values = keys * size if comes else 0
        extra = memory.most[node] - before[node] - values
        what = f"{'destination' if comes else 'source'}, {'leader' if node in leaders else 'follower'}"
        print(
            f"| {node} | {what} | {before[node] / MIB:.0f} | {memory.most[node] / MIB:.0f} |"
            f" {values / MIB:.0f} | {extra / MIB:.0f} |"
        )
    verify(port, tag, keys, size, counts)
    print(f"\nall {keys} values read in the end; goal: {GOAL_MIB} MiB extra\n", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=ROOT / "target/release/flotilla")
    parser.add_argument("--bytes", type=int, default=1 << 30, help="of all values in the slot")
    parser.add_argument("--of", choices=SIZES, help="values of one size alone")
    parser.add_argument("--dir", type=Path, help="where the nodes keep their files")
    options = parser.parse_args()
    for name, size in SIZES.items():
        if options.of in (None, name):
            measure(name, size, options)


if __name__ == "__main__":
    main()

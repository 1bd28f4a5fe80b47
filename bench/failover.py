#!/usr/bin/env python3
"""`make bench-failover`: how long writes stand still when a leader goes.

Three `flotilla node` processes and a router, all on this machine, one group on all three. Writers send SET
after SET through the router, each on a connection of its own. Then, again and again: the leader is
killed (SIGKILL) or stopped (SIGTERM), started anew, and waited for until it has caught up. A gap is the
longest time in which no writer got an answer, of those that begin within a second after the signal. Beside it
stands the longest one in the second before: what this machine's disk and other work do without it. An error
reply ends it.
"""

import argparse
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NODES = (1, 2, 3)
GROUP = 1
# From the signal on, answers are waited for in this time; a gap that begins so late is no news of it.
WATCH_S = 4.0
BEGINS_S = 1.0
# Goals in milliseconds: (median, 99th percentile).
GOALS = {"SIGKILL": (300, 700), "SIGTERM": (50, None)}
BUCKETS_MS = (10, 20, 50, 100, 150, 200, 300, 500, 700, 1000, 2000, 5000)


def die(message):
    sys.exit(f"bench-failover: {message}")


class Client:
    """One connection that waits for each reply."""

    def __init__(self, port, timeout=10.0):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")

    def call(self, *words):
        parts = [f"*{len(words)}\r\n".encode()]
        parts += [f"${len(word)}\r\n{word}\r\n".encode() for word in words]
        self.socket.sendall(b"".join(parts))
        return self.read()

    def read(self):
        line = self.file.readline()
        if not line:
            raise ConnectionError("the connection was closed")
        kind, rest = line[:1], line[1:-2].decode()
        if kind == b"$" and int(rest) >= 0:
            return self.file.read(int(rest) + 2)[:-2].decode()
        if kind == b"*":
            return [self.read() for _ in range(int(rest))]
        return line[:-2].decode()

    def close(self):
        self.file.close()
        self.socket.close()


def ask(port, *words):
    """What the node or router there answers, on a connection of its own."""
    client = Client(port, 2.0)
    try:
        return client.call(*words)
    finally:
        client.close()


def info_raft(port):
    """The fields of the group's line in INFO raft."""
    text = ask(port, "INFO", "raft")
    for line in text.splitlines():
        if line.startswith(f"raft_group_{GROUP}:"):
            return dict(field.split("=", 1) for field in line.split(":", 1)[1].split(","))
    die(f"INFO raft of port {port} has no group {GROUP}: {text}")


def wait_for(what, condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            result = condition()
        except (OSError, ConnectionError):
            result = None
        if result:
            return result
        time.sleep(0.05)
    die(f"no {what} within {seconds} s")


class Cluster:
    """Nodes and routers, each a process; groups 1 to `groups` have a replica on each node, or on those that `voters`
    names. Takes two ports for each node, and two more."""

    def __init__(self, program, folder, first_port, nodes=NODES, groups=GROUP, routers=1, voters=None):
        self.program, self.folder, self.first = Path(program).resolve(), folder, first_port
        (folder / "secret").write_text("a secret for this bench alone: 0123456789\n")
        (folder / "secret").chmod(0o600)
        self.nodes = nodes
        voters = voters or {group: list(nodes) for group in range(1, groups + 1)}
        text = f'cluster_id = "bench"\nsecret_file = "secret"\n[shardmaster]\nvoters = {voters[1]}\n'
        for node in nodes:
            text += f'[[nodes]]\nid = {node}\npeer = "127.0.0.1:{self.first + len(nodes) + node}"\n'
            text += f'resp = "127.0.0.1:{self.port(node)}"\n'
        for group, of_group in voters.items():
            text += f"[[groups]]\nid = {group}\nvoters = {of_group}\n"
        (folder / "cluster.toml").write_text(text)
        self.processes = {}
        for node in nodes:
            self.start(node)
        self.router_ports = [self.first, self.first + 2 * len(nodes) + 1][:routers]
        for port in self.router_ports:
            arguments = ["router", "--listen", f"127.0.0.1:{port}", "--cluster-file", "cluster.toml"]
            self.spawn(f"router-{port}", arguments)

    def port(self, node):
        return self.first + node

    def spawn(self, name, arguments):
        with open(self.folder / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(
                [self.program, *arguments], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def start(self, node):
        arguments = ["node", "--id", str(node), "--dir", f"node-{node}", "--cluster-file", "cluster.toml"]
        self.spawn(node, arguments)

    def signal(self, node, number):
        self.processes[node].send_signal(number)

    def wait(self, node):
        code = self.processes[node].wait(30)
        if code not in (0, -signal.SIGKILL):
            die(f"node {node} ended with code {code}")

    def leader(self):
        """Who leads, once everybody agrees and has applied what is committed."""
        states = {node: info_raft(self.port(node)) for node in self.nodes}
        leaders = {state["leader"] for state in states.values()}
        commit = max(int(state["commit"]) for state in states.values())
        lag = commit - min(int(state["applied"]) for state in states.values())
        if len(leaders) == 1 and "none" not in leaders and lag < 200:
            return int(leaders.pop())
        return None

    def end(self):
        for process in self.processes.values():
            process.kill()
            process.wait()


class Writers:
    """Connections that write all the time and note when they were answered."""

    def __init__(self, port, count):
        self.stopped, self.failures = threading.Event(), []
        self.lock, self.answers = threading.Lock(), []
        self.threads = [threading.Thread(target=self.run, args=(port, n), daemon=True) for n in range(count)]
        for thread in self.threads:
            thread.start()

    def run(self, port, number):
        try:
            client = Client(port)
            n = 0
            while not self.stopped.is_set():
                n += 1
                reply = client.call("SET", f"w{number}:{n % 100}", str(n))
                if reply != "+OK":
                    raise ConnectionError(reply)
                with self.lock:
                    self.answers.append(time.monotonic())
                time.sleep(0.001)
        except (OSError, ConnectionError) as error:
            self.failures.append(str(error))

    def gaps_around(self, start):
        """The longest time without an answer that `start` may have caused, and before that, in seconds."""
        time.sleep(WATCH_S)
        with self.lock:
            at = sorted(self.answers)
            self.answers = at[-1:]
        if self.failures:
            die(f"a client was told: {self.failures[0]}")
        pairs = list(zip(at, at[1:]))
        later = [(b - a) for a, b in pairs if b >= start and a < start + BEGINS_S]
        before = [(b - a) for a, b in pairs if start - BEGINS_S <= a and b < start]
        return max(later, default=WATCH_S), max(before, default=0.0)

    def end(self):
        self.stopped.set()
        for thread in self.threads:
            thread.join(15)


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


def buckets(values, bounds):
    """The spans between these bounds with something in them, as text, and how many values each has."""
    for low, high in zip((0, *bounds), (*bounds, float("inf"))):
        count = sum(low <= value < high for value in values)
        if count:
            yield f"{low:>5} to {high:<5}", count


def report(name, gaps_ms):
    if not gaps_ms:
        return
    print(f"\n{name} of the leader, {len(gaps_ms)} times: writes stood still for (ms)")
    for span, count in buckets(gaps_ms, BUCKETS_MS):
        print(f"  {span}  {'#' * count} {count}")
    median, p99 = percentile(gaps_ms, 0.5), percentile(gaps_ms, 0.99)
    goal = GOALS[name]
    print(f"  median {median:.0f} (goal {goal[0]}), p99 {p99:.0f} (goal {goal[1] or '-'}), longest {max(gaps_ms):.0f}")


def free_ports(count):
    for first in range(22_000, 30_000, count):
        sockets = [socket.socket() for _ in range(count)]
        try:
            for offset, sock in enumerate(sockets):
                sock.bind(("127.0.0.1", first + offset))
            return first
        except OSError:
            continue
        finally:
            for sock in sockets:
                sock.close()
    die(f"no {count} free ports in a row")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default=str(ROOT / "target/release/flotilla"))
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--stops", type=int, default=20)
    parser.add_argument("--writers", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=ROOT / "target") as folder:
        cluster = Cluster(options.program, Path(folder), free_ports(8))
        gaps, quiet = {"SIGKILL": [], "SIGTERM": []}, []
        try:
            router = cluster.first
            wait_for("answer of the router", lambda: Client(router).call("SET", "ready", "1") == "+OK")
            writers = Writers(router, options.writers)
            for name, times in [("SIGKILL", options.kills), ("SIGTERM", options.stops)]:
                for n in range(times):
                    leader = wait_for("leader that all have caught up with", cluster.leader)
                    time.sleep(1.0)
                    start = time.monotonic()
                    cluster.signal(leader, getattr(signal, name))
                    gap, before = writers.gaps_around(start)
                    gaps[name].append(gap * 1000)
                    quiet.append(before * 1000)
                    cluster.wait(leader)
                    cluster.start(leader)
                    print(f"{name} {n + 1}: node {leader}, {gaps[name][-1]:.0f} ms ({quiet[-1]:.0f} before)", flush=True)
            writers.end()
        finally:
            cluster.end()
    for name, values in gaps.items():
        report(name, values)
    print(f"\nwithout any of it, in the second before each: median {percentile(quiet, 0.5):.0f}, longest {max(quiet):.0f}")


if __name__ == "__main__":
    main()

"""What stands beside the latencies of a bench: what each node had of each log, how long the disk itself takes, what
nodes were killed, and what all of them said meanwhile."""

import datetime
import os
import random
import signal
import threading
import time
from pathlib import Path

from failover import ask, wait_for

NOTE_EVERY_S, SYNC_EVERY_S = 0.5, 0.1
KILL_EVERY_S, DOWN_S = 10.0, 1.0
# A follower with so few entries less than its leader can be part of the next write's majority: what is on its way,
# and what came between the moments at which both were asked.
BEHIND_MAX = 300
# What is shown around a failure, which may have begun a router's timeout before.
BEFORE_S, AFTER_S = 7.0, 1.0
# A sync that is worth a line; lines of one node for one kill; failures that are shown.
SLOW_SYNC_MS, LINES_MAX, FAILURES_MAX = 200, 8, 10


def standing(port):
    """What INFO raft of a node says: of its groups, of those that follow it, and how long its disk is at work."""
    groups, followers, sync_age = {}, {}, 0
    for line in ask(port, "INFO", "raft").splitlines():
        name, _, rest = line.partition(":")
        if name == "raft_sync_age_ms":
            sync_age = int(rest)
        words = name.split("_")
        if words[:2] == ["raft", "group"]:
            groups[int(words[2])] = dict(field.split("=", 1) for field in rest.split(","))
        elif words[:2] == ["raft", "follower"]:
            followers[int(words[2]), int(words[3])] = dict(field.split("=", 1) for field in rest.split(","))
    return groups, followers, sync_age


def behind(leader, follower):
    return int(leader["last"]) - int(follower["match"])


def lacking(nodes, found):
    """Why not every node is whole: a sentence for each replica without which a write would wait."""
    for node in nodes:
        if node not in found:
            yield f"node {node} does not answer"
    for group in sorted({group for groups, _, _ in found.values() for group in groups}):
        of = {node: groups[group] for node, (groups, _, _) in found.items() if group in groups}
        leaders = [(int(fields["term"]), node) for node, fields in of.items() if fields["role"] == "leader"]
        if not leaders:
            yield f"group {group} has no leader"
            continue
        leader = max(leaders)[1]
        for node in nodes:
            follower = found[leader][1].get((group, node))
            if node == leader:
                continue
            if follower is None or follower["state"] != "up":
                yield f"node {node} is not up for the leader of group {group}"
            elif follower["sending"] != "replicate" or behind(of[leader], follower) > BEHIND_MAX:
                lacks = behind(of[leader], follower)
                yield f"node {node} lacks {lacks} entries of group {group}, which it gets by {follower['sending']}"
            elif node in of and int(of[leader]["commit"]) - int(of[node]["applied"]) > BEHIND_MAX:
                yield f"node {node} has entries of group {group} to apply"


class Watch:
    """Asks all nodes how they stand, and syncs a file beside theirs, all the time."""

    def __init__(self, cluster):
        self.cluster, self.notes, self.syncs = cluster, [], []
        for run in (self.note, self.sync):
            threading.Thread(target=run, daemon=True).start()

    def note(self):
        while True:
            found = {}
            for node in self.cluster.nodes:
                try:
                    found[node] = standing(self.cluster.port(node))
                except (OSError, ConnectionError):
                    pass
            self.notes.append((time.monotonic(), found))
            time.sleep(NOTE_EVERY_S)

    def sync(self):
        with open(self.cluster.folder / "probe", "wb", buffering=0) as file:
            while True:
                file.seek(0)
                file.write(bytes(4096))
                begun = time.monotonic()
                os.fdatasync(file)
                self.syncs.append((begun, 1000 * (time.monotonic() - begun)))
                time.sleep(SYNC_EVERY_S)

    def is_whole(self, since):
        """Whether every node was whole when it was asked, which was after `since`."""
        at, found = self.notes[-1] if self.notes else (0.0, {})
        return at > since and not any(lacking(self.cluster.nodes, found))

    def longest_sync(self, begun, ended):
        return max((took for at, took in self.syncs if begun <= at < ended), default=0.0)

    def lines(self, begun, ended):
        """What is worth telling of that time."""
        for at, found in self.notes:
            if begun <= at < ended:
                ages = ", ".join(f"node {node} {age} ms" for node, (_, _, age) in found.items() if age)
                yield at, f"waits for the disk: {ages or 'nobody'}; {'; '.join(lacking(self.cluster.nodes, found)) or 'all whole'}"
        for at, took in self.syncs:
            if begun <= at < ended and took >= SLOW_SYNC_MS:
                yield at, f"the sync of a file beside theirs took {took:.0f} ms"


class Kill:
    def __init__(self, node):
        self.node, self.at, self.started, self.serves, self.whole = node, time.monotonic(), None, None, None

    def __str__(self):
        after = lambda at: "never" if at is None else f"{at - self.started:.1f} s"
        if self.started is None:
            return f"node {self.node} killed"
        return f"node {self.node} killed, started {self.started - self.at:.1f} s later; serves after {after(self.serves)}, whole after {after(self.whole)}"


class Killer:
    """Kills a node that is drawn, and starts it again, until it is told to end. It kills no node while another one is
    not whole: that would take a majority, and says nothing of moves."""

    def __init__(self, cluster, watch):
        self.cluster, self.watch, self.random, self.kills = cluster, watch, random.Random(3), []
        self.until, self.failed = threading.Event(), None
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        try:
            while not self.until.is_set():
                self.kill(Kill(self.random.choice(self.cluster.nodes)))
        except SystemExit as why:
            self.failed = why

    def kill(self, kill):
        self.kills.append(kill)
        self.cluster.signal(kill.node, signal.SIGKILL)
        self.cluster.wait(kill.node)
        time.sleep(DOWN_S)
        self.cluster.start(kill.node)
        kill.started = time.monotonic()
        wait_for(f"answer of node {kill.node}", lambda: ask(self.cluster.port(kill.node), "PING"), 300)
        kill.serves = time.monotonic()
        wait_for("state in which all nodes are whole", lambda: self.watch.is_whole(kill.serves), 300)
        kill.whole = time.monotonic()
        self.until.wait(max(0.0, kill.at + KILL_EVERY_S - time.monotonic()))
        now = time.monotonic()
        wait_for("state in which all nodes are whole", lambda: self.watch.is_whole(now), 300)

    def end(self):
        self.until.set()
        self.thread.join()
        if self.failed:
            raise self.failed


def node_lines(cluster, begun, ended, warnings):
    """What each node wrote to its log in that time: all of it, or warnings."""
    offset = time.time() - time.monotonic()
    for node in cluster.nodes:
        for line in Path(cluster.folder / f"{node}.log").read_text(errors="replace").splitlines():
            stamp, _, rest = line.partition(" ")
            try:
                at = datetime.datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp() - offset
            except ValueError:
                continue
            loud = rest.strip().startswith(("WARN", "ERROR"))
            if begun <= at < ended and (loud or not warnings):
                yield at, f"node {node}: {rest.strip()}"


def show(lines, zero, indent):
    for at, what in sorted(lines):
        print(f"{indent}{at - zero:8.2f} s  {what}")


def tell(cluster, watch, kills, failures, zero):
    """Kills with what nodes warned of, and failures with all that is known of the time before them."""
    if kills:
        print(f"\n{len(kills)} kills; seconds from the start of a node that was killed, longest and median:")
        for name in ("serves", "whole"):
            took = sorted(getattr(kill, name) - kill.started for kill in kills if getattr(kill, name))
            if took:
                print(f"  until it {'is ' * (name == 'whole')}{name}: {took[-1]:.1f}, {took[len(took) // 2]:.1f}")
    for kill in kills:
        print(f"  {kill.at - zero:8.2f} s  {kill}")
        until = kill.whole or time.monotonic()
        lines = list(node_lines(cluster, kill.at - 0.5, until, warnings=True))
        show(lines[:LINES_MAX], zero, "    ")
    print(f"failed requests: {len(failures)}, goal 0")
    bursts = []
    for at, what in sorted(failures):
        if not bursts or at - bursts[-1][-1][0] > AFTER_S:
            bursts.append([])
        bursts[-1].append((at, what))
    for burst in bursts[:FAILURES_MAX]:
        begun, ended = burst[0][0], burst[-1][0]
        print(f"  {len(burst)} from {begun - zero:.2f} to {ended - zero:.2f} s, the first: {burst[0][1]}")
        span = begun - BEFORE_S, ended + AFTER_S
        lines = [*watch.lines(*span), *node_lines(cluster, *span, warnings=False)]
        lines += [(kill.at, str(kill)) for kill in kills if span[0] <= kill.at < span[1]]
        show(lines, zero, "    ")

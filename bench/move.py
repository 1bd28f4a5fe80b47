#!/usr/bin/env python3
"""`make bench-move`: what clients notice while slots move from group to group.

Three `flotilla node` processes and two routers, all on this machine. Three groups have all keys. Clients write and
read through both routers all the time. Phases in which nothing moves stand between those in which everything does:

moves   three groups join and get their share; the first three are drained, so that every slot has moved; the last
        shares are changed, and balanced.
kills   (--kills) three groups more take everything over, while a node that is drawn gets SIGKILL every ten seconds;
        later, if not all nodes are whole then: of three nodes one may be away, or not up to date.
idle    (--idle) the moves, and no client anywhere: how long they take then.
flood   (--flood) two writers that keep many requests on their way overwrite keys of 64 slots, which move from group
        to group fifteen times meanwhile: each move has to end.

Each key has one writer, which counts its writes: what a client reads must lie between the newest count that was
acknowledged or read by anybody before it asked, and the newest that was sent before it was answered. That is
linearizability, where one client writes and values are never equal. Counters are written by INCR, whose answer must
be one more than the last. In the end all keys are read. A request that is answered by an error, or not at all,
has failed: what nodes, disk and kills were about before that is shown.

Latencies are of the whole way, from clients in Python on the same machine: compare those of one run.
"""

import argparse
import array
import binascii
import multiprocessing
import os
import random
import selectors
import socket
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

from failover import ROOT, Client, Cluster, buckets, free_ports, percentile, wait_for
from watch import Killer, Watch, tell

SLOTS = 16384
VALUE_BYTES = (100, 1024)
# Clients are in so many processes; a key belongs to one of them.
PROCESSES = 2
COUNTERS = 4
LOAD_BATCH = 200
FLOOD_SLOTS = 64
FLOOD_ROUNDS = 5
FLOOD_WRITERS = 2
# Goals: the 99th percentile during moves, in times of that without; the longest wait in milliseconds.
RATIO_GOAL, LONGEST_GOAL_MS = 2.0, 50.0
# Which samples count: of requests that read, or not.
READS, WRITES, ALL = (1.0,), (0.0,), (0.0, 1.0)
BUCKETS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
# Of what the values are cut.
FILLING = random.Random(5).randbytes(1 << 15).hex().encode()


def die(message):
    sys.exit(f"bench-move: {message}")


def command(*words):
    return b"".join([b"*%d\r\n" % len(words), *(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)])


def key_of(number):
    return b"key:%d" % number


def slot_of(key):
    return binascii.crc_hqx(key, 0) % SLOTS


def value_of(number, count):
    """The value of a key that was written so often. It begins with its count, and no two of a key are equal."""
    mixed = (number * 2_654_435_761 + count * 40_503) & 0xFFFFFFFF
    low, high = VALUE_BYTES
    head = b"%d:" % count
    size = low + mixed % (high - low + 1) - len(head)
    at = (mixed >> 8) % (len(FILLING) - high)
    return head + FILLING[at : at + size]


class Connection:
    """One client: a request on its way at most."""

    def __init__(self, port, number):
        self.socket = socket.create_connection(("127.0.0.1", port), 30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.number, self.received, self.sent_at, self.about = number, b"", 0.0, None
        self.counters = [0] * COUNTERS


def take_reply(data):
    """The first reply in `data` and its length, or None if it is not whole."""
    end = data.find(b"\r\n")
    if end < 0:
        return None
    if data[:1] != b"$":
        return data[:end], end + 2
    size = int(data[1:end])
    if size < 0:
        return b"$-1", end + 2
    whole = end + 4 + size
    return (data[end + 2 : whole - 2], whole) if len(data) >= whole else None


class Clients:
    """The clients of one process, and what they know of its keys: those whose number is `nth` modulo PROCESSES."""

    def __init__(self, nth, ports, options):
        self.nth, self.options, self.failures = nth, options, []
        self.random = random.Random(nth)
        count = (options.keys - nth + PROCESSES - 1) // PROCESSES
        # Of each key: how often it was written as far as was sent, was acknowledged, and was read.
        self.sent, self.known = array.array("L", bytes(8 * count)), array.array("L", bytes(8 * count))
        self.writing = set()
        mine = range(nth, options.clients, PROCESSES)
        self.connections = [Connection(ports[n % len(ports)], n) for n in mine]
        self.samples = array.array("d")

    def request(self, client):
        """Sends what a client does next: half of it reads, a tenth of the rest counts."""
        dice, place = self.random.random(), self.random.randrange(len(self.sent))
        number = place * PROCESSES + self.nth
        if dice < 0.05:
            counter = self.random.randrange(COUNTERS)
            client.about = ("count", counter, 0)
            data = command(b"INCR", b"counter:%d:%d" % (client.number, counter))
        elif dice < 0.5 and place not in self.writing:
            self.sent[place] += 1
            self.writing.add(place)
            client.about = ("write", place, self.sent[place])
            data = command(b"SET", key_of(number), value_of(number, self.sent[place]))
        else:
            client.about = ("read", place, self.known[place])
            data = command(b"GET", key_of(number))
        client.sent_at = time.monotonic()
        client.socket.send(data)

    def answered(self, client, reply):
        kind, what, count = client.about
        client.about = None
        if kind == "count":
            client.counters[what] += 1
            if reply != b":%d" % client.counters[what]:
                self.fail(f"counter {client.number}:{what} is {reply[:100]}, not {client.counters[what]}")
                client.counters[what] = int(reply[1:]) if reply[:1] == b":" else client.counters[what] - 1
        elif kind == "write":
            self.writing.discard(what)
            if reply != b"+OK":
                return self.fail(f"SET: {reply[:100]}")
            self.known[what] = max(self.known[what], count)
        else:
            self.check(what, count, reply)

    def check(self, place, least, value):
        number = place * PROCESSES + self.nth
        head = value[:20].split(b":", 1)[0]
        count = int(head) if head.isdigit() else -1
        if not least <= count <= self.sent[place] or value != value_of(number, count):
            self.fail(f"GET {key_of(number)}: {value[:40]}, which is no value of {least} to {self.sent[place]}")
        else:
            self.known[place] = max(self.known[place], count)

    def fail(self, what):
        self.failures.append((time.monotonic(), what))

    def receive(self, client):
        try:
            data = client.socket.recv(1 << 16)
        except BlockingIOError:
            return False
        if not data:
            self.fail("a connection was closed")
            die("a connection was closed")
        client.received += data
        taken = take_reply(client.received)
        if taken is None:
            return False
        now = time.monotonic()
        reply, length = taken
        client.received = client.received[length:]
        reads = client.about[0] == "read"
        self.samples.extend((client.sent_at, now - client.sent_at, reads))
        self.answered(client, reply)
        return True

    def run(self, until):
        selector = selectors.DefaultSelector()
        for client in self.connections:
            selector.register(client.socket, selectors.EVENT_READ, client)
        pause = self.options.clients / self.options.rate
        now = time.monotonic()
        # When each client sends next, in order; each waits for its reply and then, on the average, a pause.
        idle = deque(sorted((now + self.random.random() * pause, n) for n in range(len(self.connections))))
        waiting = set()
        while not until.is_set() or waiting:
            now = time.monotonic()
            while idle and idle[0][0] <= now and not until.is_set():
                n = idle.popleft()[1]
                self.request(self.connections[n])
                waiting.add(self.connections[n])
            timeout = 0.05 if not idle or until.is_set() else min(0.05, max(0.0, idle[0][0] - time.monotonic()))
            for found, _ in selector.select(timeout):
                client = found.data
                if self.receive(client):
                    waiting.discard(client)
                    at = time.monotonic() + pause * (0.5 + self.random.random())
                    place = len(idle)
                    while place and idle[place - 1][0] > at:
                        place -= 1
                    idle.insert(place, (at, self.connections.index(client)))
            if waiting and now - min(client.sent_at for client in waiting) > 60:
                self.fail("a request was not answered for a minute")
                die("a request was not answered for a minute")

    def load(self, port):
        """SETs all keys of this process, many at once."""
        with socket.create_connection(("127.0.0.1", port), 60) as connection:
            for at in range(0, len(self.sent), LOAD_BATCH):
                places = range(at, min(at + LOAD_BATCH, len(self.sent)))
                numbers = [place * PROCESSES + self.nth for place in places]
                connection.sendall(b"".join(command(b"SET", key_of(n), value_of(n, 0)) for n in numbers))
                answer = b""
                while len(answer) < 5 * len(numbers) and b"-" not in answer:
                    answer += connection.recv(1 << 16) or b"-closed"
                if answer != b"+OK\r\n" * len(numbers):
                    die(f"a write of the load failed: {answer[:200]}")

    def verify(self, port):
        """Reads all keys and counters; says how many there were."""
        seen = 0
        with socket.create_connection(("127.0.0.1", port), 60) as connection:

            def read(keys, take):
                connection.sendall(b"".join(command(b"GET", key) for key in keys))
                data, left = b"", deque(range(len(keys)))
                while left:
                    taken = take_reply(data)
                    if taken is None:
                        more = connection.recv(1 << 20)
                        data += more or die("a connection was closed while all keys were read")
                        continue
                    data = data[taken[1] :]
                    take(left.popleft(), taken[0])

            for at in range(0, len(self.sent), LOAD_BATCH):
                places = range(at, min(at + LOAD_BATCH, len(self.sent)))
                keys = [key_of(place * PROCESSES + self.nth) for place in places]
                read(keys, lambda n, value: self.check(places[n], self.known[places[n]], value))
                seen += len(keys)
            for client in self.connections:
                keys = [b"counter:%d:%d" % (client.number, counter) for counter in range(COUNTERS)]

                def count(n, value):
                    if int(value if value != b"$-1" else 0) != client.counters[n]:
                        self.fail(f"{keys[n]} is {value[:40]} in the end, not {client.counters[n]}")

                read(keys, count)
                seen += len(keys)
        return seen


def client_process(nth, ports, options, loaded, begin, until, results):
    clients = Clients(nth, ports, options)
    clients.load(ports[nth % len(ports)])
    loaded.release()
    begin.wait()
    clients.run(until)
    seen = clients.verify(ports[nth % len(ports)])
    results.put((clients.samples.tobytes(), clients.failures, seen))


def flood_process(port, slots, batch, until, results):
    """Overwrites keys of these slots as fast as it may, many at once; says how often."""
    found, n, written, failures = [], os.getpid() * 1_000_000, 0, []
    while len(found) < 20 * batch:
        n += 1
        if slot_of(b"flood:%d" % n) in slots:
            found.append(command(b"SET", b"flood:%d" % n, FILLING[: VALUE_BYTES[0]]))
    batches = [b"".join(found[at : at + batch]) for at in range(0, len(found), batch)]
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        while not until.is_set():
            connection.sendall(batches[written // batch % len(batches)])
            answer = b""
            while len(answer) < 5 * batch and b"-" not in answer:
                answer += connection.recv(1 << 16) or b"-closed"
            if answer != b"+OK\r\n" * batch:
                failures.append((time.monotonic(), f"flood: {answer[:200]}"))
                break
            written += batch
    results.put((written, failures))


class Admin:
    """Says what is to be moved, and waits until it has."""

    def __init__(self, port, options):
        self.port, self.options = port, options

    def call(self, *words):
        client = Client(self.port, 60)
        reply = client.call(*(str(word) for word in words))
        client.close()
        if isinstance(reply, str) and reply.startswith("-"):
            die(f"{' '.join(map(str, words))}: {reply}")
        return reply

    def fields(self, *words):
        reply = self.call(*words)
        return dict(zip(reply[::2], reply[1::2]))

    def status(self):
        fields = self.fields("CLUSTER", "REBALANCE", "STATUS")
        return {name: int(value[1:]) if value[:1] == ":" else value for name, value in fields.items()}

    def create(self, count):
        return [int(self.fields("CLUSTER", "GROUP", "CREATE", "NODES", 1, 2, 3)["group"][1:]) for _ in range(count)]

    def change(self, *commands):
        """Gives commands that change the configuration, and waits until nothing is to be moved any more."""
        before = self.status()["config"]
        for words in commands:
            self.call("CLUSTER", *words)
        begun = time.monotonic()
        while True:
            status = self.status()
            if status["config"] >= before + len(commands) and not status["slots-to-move"] and not status["moves-running"]:
                return
            if time.monotonic() - begun > self.options.patience:
                die(f"{commands[-1]} did not end within {self.options.patience} s: {status}")
            time.sleep(0.05)

    def group_of_first_slot(self):
        for group in self.fields("CLUSTER", "CONFIG")["groups"]:
            fields = dict(zip(group[::2], group[1::2]))
            if fields["slots"] and fields["slots"][0].split("-")[0] == "0":
                return int(fields["group"][1:])
        die("nobody is to have slot 0")

    def remove(self, groups):
        """Refused while a group has a slot: so this says that all that it had have moved."""
        for group in groups:

            def gone():
                client = Client(self.port, 60)
                reply = client.call("CLUSTER", "GROUP", "REMOVE", str(group))
                client.close()
                return not reply.startswith("-")

            wait_for(f"end of group {group}", gone)


def cpu_seconds(cluster):
    """Of each process of the cluster, as far as it is there."""
    found = {}
    for name, process in cluster.processes.items():
        try:
            fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        found[name, process.pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


class Phases:
    """What happened when, and what CPU the cluster took for it."""

    def __init__(self, cluster):
        self.cluster, self.list = cluster, []

    def run(self, kind, name, action):
        cpu, begun = cpu_seconds(self.cluster), time.monotonic()
        action()
        ended, after = time.monotonic(), cpu_seconds(self.cluster)
        cpu = sum(max(0.0, spent - cpu.get(process, 0.0)) for process, spent in after.items())
        self.list.append((kind, name, begun, ended, cpu / (ended - begun)))
        print(f"  {name}: {ended - begun:.1f} s", flush=True)


def row(name, seconds, cpu, ms, failed, quiet_p99):
    p99 = percentile(ms, 0.99)
    return (
        f"| {name} | {seconds:.1f} | {len(ms):,} | {cpu:.2f} | {percentile(ms, 0.5):.2f} | {p99:.2f} |"
        f" {p99 / quiet_p99:.2f} | {percentile(ms, 0.999):.2f} | {max(ms):.1f} | {failed} |"
    )


def histogram(name, ms):
    print(f"\n{name}, milliseconds:")
    for span, count in buckets(ms, BUCKETS_MS):
        print(f"  {span}  {count:>9,}  {100 * count / len(ms):8.4f} %")


def report(phases, samples, failures, watch):
    samples.sort()
    by_phase, histograms, goals, syncs = {}, [], [], []
    for kind, name, begun, ended, cpu in phases.list:
        ms = [(1000 * took, reads) for at, took, reads in samples if begun <= at < ended]
        failed = sum(begun <= at < ended for at, _ in failures)
        if ms:
            by_phase[name] = (kind, ended - begun, cpu, ms, failed)
    quiet = [one for kind, _, _, ms, _ in by_phase.values() if kind == "quiet" for one in ms]
    pick = lambda ms, which: [one for one, reads in ms if reads in which]
    quiet_p99 = {which: percentile(pick(quiet, which), 0.99) for which in (ALL, READS, WRITES)}
    print("\n| phase | s | requests | CPU | p50, ms | p99, ms | of quiet | p99.9, ms | longest, ms | failed |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name, (_, seconds, cpu, ms, failed) in by_phase.items():
        print(row(name, seconds, cpu, pick(ms, ALL), failed, quiet_p99[ALL]))
    for kind in dict.fromkeys(kind for kind, *_ in by_phase.values()):
        parts = [part for part in by_phase.values() if part[0] == kind]
        ms = [one for part in parts for one in part[3]]
        seconds, failed = sum(part[1] for part in parts), sum(part[4] for part in parts)
        cpu = sum(part[1] * part[2] for part in parts) / seconds
        for which, what in ((READS, ", reads"), (WRITES, ", writes"), (ALL, "")):
            print(row(f"**all of {kind}{what}**", seconds, cpu, pick(ms, which), failed, quiet_p99[which]))
        longest = max(watch.longest_sync(begun, ended) for of, _, begun, ended, _ in phases.list if of == kind)
        syncs.append(f"longest sync of a file beside those of the nodes, {kind}: {longest:.1f} ms")
        ms = pick(ms, ALL)
        if kind in ("quiet", "moves"):
            histograms.append((kind, ms))
        if kind == "moves":
            ratio, longest = percentile(ms, 0.99) / quiet_p99[ALL], max(ms)
            goals.append(f"p99 during moves: {ratio:.2f} times that without, goal {RATIO_GOAL:.0f}")
            goals.append(f"longest wait during moves: {longest:.1f} ms, goal {LONGEST_GOAL_MS:.0f}")
    for name, ms in histograms:
        histogram(name, ms)
    print()
    print(*syncs, *goals, sep="\n")


def move_all(admin, phases, quiet):
    """Every slot moves at least once; says which groups have them then."""
    old, new = [1, 2, 3], admin.create(3)
    phases.run("moves", "three groups join", lambda: admin.change(("REBALANCE",)))
    quiet(2)
    drains = [("GROUP", "DRAIN", group) for group in old]
    phases.run("moves", "three groups leave", lambda: admin.change(*drains))
    quiet(3)
    admin.remove(old)
    weights = [("GROUP", "WEIGHT", group, weight) for weight, group in enumerate(new, 1)]
    phases.run("moves", "other shares", lambda: admin.change(*weights[1:], ("REBALANCE",)))
    quiet(4)
    return new


def collect(processes, results):
    """What the clients have seen, once they were told to end: samples, failures, and how many keys they read then."""
    samples, failures, seen = [], [], 0
    for _ in processes:
        data, failed, read = results.get(timeout=600)
        numbers = array.array("d", data)
        samples.extend(zip(numbers[::3], numbers[1::3], numbers[2::3]))
        failures.extend(failed)
        seen += read
    for process in processes:
        process.join()
    return samples, failures, seen


def bench(cluster, options):
    ports = cluster.router_ports
    for port in ports:
        wait_for("answer of a router", lambda: Client(port).call("SET", "ready", "1") == "+OK")
    admin, phases = Admin(ports[0], options), Phases(cluster)
    begin, until, results = multiprocessing.Event(), multiprocessing.Event(), multiprocessing.Queue()
    loaded, begun = multiprocessing.Semaphore(0), time.monotonic()
    arguments = (ports, options, loaded, begin, until, results)
    processes = [multiprocessing.Process(target=client_process, args=(nth, *arguments)) for nth in range(PROCESSES)]
    for process in processes:
        process.daemon = True
        process.start()
    watch = Watch(cluster)
    for _ in processes:
        while not loaded.acquire(timeout=1):
            if any(process.exitcode for process in processes):
                die("the load failed")
    print(f"{options.keys:,} keys loaded in {time.monotonic() - begun:.0f} s; {options.rate:.0f} requests a second", flush=True)
    if options.idle:
        move_all(admin, phases, lambda nth: None)
        until.set()
        begin.set()
        _, failures, seen = collect(processes, results)
        print(*(f"failed: {what}" for _, what in failures), f"{seen:,} keys and counters read in the end", sep="\n")
        sys.exit(1 if failures else 0)
    begin.set()
    time.sleep(5)
    quiet = lambda nth: phases.run("quiet", f"quiet, {nth}", lambda: time.sleep(options.seconds))
    kills = []
    quiet(1)
    new = [1, 2, 3] if options.flood_alone else move_all(admin, phases, quiet)
    failures = []
    if options.kills:
        old, new = new, admin.create(3)
        killer = Killer(cluster, watch)
        drains = [("GROUP", "DRAIN", group) for group in old]
        phases.run("kills", "with kills", lambda: admin.change(("REBALANCE",), *drains))
        killer.end()
        kills = killer.kills
        admin.remove(old)
        quiet(5)
    if options.flood or options.flood_alone:
        flood(admin, phases, new, (ports, options.flood_batch), failures)
        quiet(6)
    until.set()
    samples, failed, seen = collect(processes, results)
    failures.extend(failed)
    report(phases, samples, failures, watch)
    tell(cluster, watch, kills, failures, phases.list[0][2])
    print(f"{seen:,} keys and counters read in the end")
    sys.exit(1 if failures else 0)


def flood(admin, phases, groups, writing, failures):
    """Moves FLOOD_SLOTS slots to each other group and back, a few times, under writers that aim at nothing else."""
    slots, (ports, batch) = range(FLOOD_SLOTS), writing
    until, results = multiprocessing.Event(), multiprocessing.Queue()
    arguments = [(ports[n % len(ports)], slots, batch, until, results) for n in range(FLOOD_WRITERS)]
    writers = [multiprocessing.Process(target=flood_process, args=args) for args in arguments]
    begun = time.monotonic()
    for writer in writers:
        writer.daemon = True
        writer.start()
    time.sleep(5)
    first = admin.group_of_first_slot()
    around = [*(group for group in groups if group != first), first]

    def move():
        for group in around * FLOOD_ROUNDS:
            admin.change(("MIGRATESLOTS", "SLOTSRANGE", slots[0], slots[-1], "GROUP", group))

    phases.run("flood", f"{FLOOD_SLOTS} slots, {FLOOD_ROUNDS * len(around)} times, under a flood", move)
    until.set()
    found = [results.get(timeout=60) for _ in writers]
    written = sum(count for count, _ in found)
    failures.extend(one for _, failed in found for one in failed)
    print(f"  {written / (time.monotonic() - begun):,.0f} writes a second to the {FLOOD_SLOTS} slots", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=ROOT / "target/release/flotilla")
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--rate", type=float, default=1500, help="requests a second, of all clients")
    parser.add_argument("--seconds", type=float, default=20, help="how long each quiet phase is")
    parser.add_argument("--idle", action="store_true", help="the moves alone, without clients")
    parser.add_argument("--kills", action="store_true", help="all slots once more, while nodes are killed")
    parser.add_argument("--flood", action="store_true", help="moves of slots that are written to without pause")
    parser.add_argument("--flood-alone", action="store_true", help="that, and nothing before it")
    parser.add_argument("--flood-batch", type=int, default=100, help="requests that each of its two writers keeps on their way [100]")
    parser.add_argument("--patience", type=float, default=1800, help="seconds that one change may take")
    parser.add_argument("--dir", type=Path, help="where the nodes keep their files")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir or ROOT / "target") as folder:
        cluster = Cluster(options.program, Path(folder), free_ports(8), groups=3, routers=2)
        try:
            bench(cluster, options)
        finally:
            cluster.end()


if __name__ == "__main__":
    main()

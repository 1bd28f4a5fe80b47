#!/usr/bin/env python3
"""`make bench`: Flotilla beside a redis-server that syncs every write, on this machine.

Starts both, each on a folder of the same disk, and loads them in turn with redis-benchmark: case by
case, first one, then the other, as often as --runs says. Prints the median of each and their ratio.
What is compared is not equal: one redis-server is one copy of the data in one process; `flotilla dev`
is three nodes in one process, each with its own file and its own fsync.
"""

import argparse
import csv
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEYS = 100_000
VALUE_BYTES = 100
# Requests of the run that finds out how many the measured runs need.
TRIAL_REQUESTS = 2_000

# Name, arguments of redis-benchmark. SET comes before GET, so that GET finds keys.
CASES = [
    ("SET, 1 connection", ["-c", "1", "-t", "set"]),
    ("SET, 50 connections", ["-c", "50", "-t", "set"]),
    ("SET, 50 connections, pipeline 16", ["-c", "50", "-P", "16", "-t", "set"]),
    ("APPEND, 50 connections", ["-c", "50", "APPEND", "append:__rand_int__", "x"]),
    ("INCR, 50 connections", ["-c", "50", "-t", "incr"]),
    ("GET, 1 connection", ["-c", "1", "-t", "get"]),
    ("GET, 50 connections", ["-c", "50", "-t", "get"]),
    ("GET, 50 connections, pipeline 16", ["-c", "50", "-P", "16", "-t", "get"]),
]


def die(message):
    sys.exit(f"bench: {message}")


def free_ports(count):
    """The first of `count` free ports in a row."""
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


class Server:
    """A child process with a folder; stopped when the block is left."""

    def __init__(self, name, port, argv, folder):
        self.name, self.port = name, port
        self.log = folder / f"{name}.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def __enter__(self):
        end = time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            said = subprocess.run(["redis-cli", "-p", str(self.port), "SET", "ready", "1"],
                                  capture_output=True, text=True, check=False)  # fmt: skip
            if said.stdout.strip() == "OK":
                return self
            time.sleep(0.1)
        self.__exit__()
        die(f"{self.name} does not serve:\n{self.log.read_text(errors='replace')[-2000:]}")

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def benchmark(port, case, requests):
    """One run: requests per second, and milliseconds at the median and at 99 of 100."""
    argv = ["redis-benchmark", "-p", str(port), "-n", str(requests), "-r", str(KEYS), "-d", str(VALUE_BYTES), "--csv"]
    done = subprocess.run(argv + case, capture_output=True, text=True, check=False, timeout=600)
    rows = [row for row in csv.reader(done.stdout.splitlines()) if len(row) == 8 and row[0] != "test"]
    if done.returncode != 0 or len(rows) != 1 or "rror" in done.stdout + done.stderr:
        die(f"redis-benchmark {' '.join(case)} on port {port}:\n{done.stdout}{done.stderr}")
    row = rows[0]
    return float(row[1]), float(row[4]), float(row[6])


def measure(servers, case, runs, seconds):
    """Medians of (rate, p50, p99) by server name, from runs that take turns."""
    requests = {}
    for server in servers:
        rate, _, _ = benchmark(server.port, case, TRIAL_REQUESTS)
        requests[server.name] = max(TRIAL_REQUESTS, int(rate * seconds))
    results = {server.name: [] for server in servers}
    for _ in range(runs):
        for server in servers:
            results[server.name].append(benchmark(server.port, case, requests[server.name]))
    return {name: [statistics.median(column) for column in zip(*rows)] for name, rows in results.items()}


def machine():
    cpu = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    return f"{cpu}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="runs of each case on each server [3]")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a run [2]")
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    options = parser.parse_args()
    for program in ("redis-server", "redis-cli", "redis-benchmark"):
        if shutil.which(program) is None:
            die(f"{program} is not installed (Debian: redis-server, redis-tools)")
    flotilla = Path(os.environ.get("FLOTILLA_BIN", ROOT / "target/release/flotilla"))
    if not flotilla.is_file():
        die(f"{flotilla} does not exist: `make bench` builds it")

    # Beside the build: /tmp may be memory, where an fsync costs nothing.
    (ROOT / "target").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=ROOT / "target") as folder:
        folder = Path(folder)
        port = free_ports(5)
        redis_argv = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "",
                      "--appendonly", "yes", "--appendfsync", "always",
                      "--auto-aof-rewrite-percentage", "0", "--loglevel", "warning"]  # fmt: skip
        flotilla_argv = [str(flotilla), "dev", "--port", str(port + 1), "--dir", "flotilla", "--log", "warn"]
        with (
            Server("redis", port, redis_argv, folder) as redis,
            Server("flotilla", port + 1, flotilla_argv, folder) as ours,
        ):
            print(f"{machine()}\nvalues of {VALUE_BYTES} bytes, {KEYS} keys, median of {options.runs} runs\n")
            print("| case | redis/s | flotilla/s | ratio | redis p50, p99 ms | flotilla p50, p99 ms |")
            print("|---|---:|---:|---:|---:|---:|", flush=True)
            for name, case in CASES:
                if options.case not in name:
                    continue
                result = measure([redis, ours], case, options.runs, options.seconds)
                (a, a50, a99), (b, b50, b99) = result["redis"], result["flotilla"]
                print(f"| {name} | {a:,.0f} | {b:,.0f} | {b / a:.2f} | {a50:.2f}, {a99:.2f} | {b50:.2f}, {b99:.2f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()

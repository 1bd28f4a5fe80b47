#!/usr/bin/env python3
"""Builds of the program side by side, in turns, on this machine: `python3 bench/compare.py NAME=PROGRAM ...`

idle      `flotilla dev` on a new directory: its resident memory after ten seconds.
install   Three nodes with 134 MB of state, of which one stands still while all is overwritten three times and then
          gets a snapshot: its resident memory before, the most during the install, and ten seconds after it. A name
          that ends in `+arena` is run with MALLOC_ARENA_MAX=1.
restart   One node with a million keys of 1,000 bytes is killed, and started: how long until it serves. The same directory
          for all.
rates     `flotilla dev` under `redis-benchmark -t set,get -c 50`, with and without `-P 16`: medians of the rounds.
"""

import argparse
import csv
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import Server, free_ports
from disk import load, restart
from failover import Cluster, ask, info_raft, wait_for

# Of values of 1,000 bytes: 134 MB.
KEYS = 134_000
RATES = [("-P 16", ["-P", "16", "-n", "200000"]), ("-P 1", ["-n", "40000"])]


def status_bytes(pid, name):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    sys.exit(f"compare: no {name} of process {pid}")


def mb(number):
    return f"{number / 1e6:6.0f} MB"


def dev(name, program, folder):
    port = free_ports(8)
    return Server(name, port, [program, "dev", "--dir", "data", "--port", str(port)], folder)


def idle(name, program):
    with tempfile.TemporaryDirectory() as folder, dev(name, program, Path(folder)) as server:
        time.sleep(10)
        print(f"  {name:<14} idle {mb(status_bytes(server.process.pid, 'VmRSS'))}", flush=True)


def install(name, program):
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(program, Path(folder), free_ports(8))
        try:
            leader = wait_for("leader", cluster.leader)
            keys = [b"key:%d" % n for n in range(KEYS)]
            load(cluster.first, keys)
            away = next(node for node in (1, 2, 3) if node != leader)
            applied = lambda node: int(info_raft(cluster.port(node))["applied"])
            committed = int(info_raft(cluster.port(leader))["commit"])
            wait_for("follower that is up to date", lambda: applied(away) >= committed)
            pid = cluster.processes[away].pid
            cluster.signal(away, signal.SIGSTOP)
            for _ in range(3):
                load(cluster.first, keys)
            before = status_bytes(pid, "VmRSS")
            Path(f"/proc/{pid}/clear_refs").write_text("5")
            cluster.signal(away, signal.SIGCONT)
            installs = lambda: int(info_raft(cluster.port(away))["installs"]) > 0
            wait_for("snapshot", installs, 120)
            wait_for("its keys", lambda: int(info_raft(cluster.port(away))["keys"]) >= KEYS, 120)
            time.sleep(10)
            most, after = status_bytes(pid, "VmHWM"), status_bytes(pid, "VmRSS")
            leads = status_bytes(cluster.processes[leader].pid, "VmRSS")
            print(f"  {name:<14} before {mb(before)}, at most {mb(most)}, after {mb(after)}; the leader {mb(leads)}", flush=True)
        finally:
            cluster.end()


def restarts(programs, rounds, keys):
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(programs[0][1], Path(folder), free_ports(8), nodes=(1,))
        try:
            wait_for("start", lambda: ask(cluster.port(1), "SET", "started", "1") == "+OK")
            for _ in range(2):
                load(cluster.port(1), (b"key:%d" % n for n in range(keys)))
            for _ in range(rounds):
                for name, program in programs:
                    cluster.program = Path(program).resolve()
                    print(f"  {name:<14}", end="")
                    restart(cluster, signal.SIGKILL)
        finally:
            cluster.end()


def rates(name, program, found):
    with tempfile.TemporaryDirectory() as folder, dev(name, program, Path(folder)) as server:
        for case, words in RATES:
            argv = ["redis-benchmark", "-p", str(server.port), "-c", "50", "-r", "100000", "-d", "100", "-t", "set,get", "--csv", *words]
            out = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
            for row in csv.DictReader(out.splitlines()):
                found.setdefault((case, row["test"]), {}).setdefault(name, []).append(float(row["rps"]))
        found.setdefault(("resident", "MB"), {}).setdefault(name, []).append(status_bytes(server.process.pid, "VmRSS") / 1e6)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", nargs="+", metavar="NAME=PROGRAM")
    parser.add_argument("--part", choices=("idle", "install", "restart", "rates"), action="append")
    parser.add_argument("--keys", type=int, default=1_000_000, help="of the restarts")
    parser.add_argument("--rounds", type=int, default=5, help="of the rates; of the rest one in two")
    args = parser.parse_args()
    programs = [pair.split("=", 1) for pair in args.programs]
    parts, found = args.part or ("idle", "install", "restart", "rates"), {}
    for part in parts:
        if part == "restart":
            restarts(programs, args.rounds // 2 + args.rounds % 2, args.keys)
            continue
        for turn in range(args.rounds if part == "rates" else args.rounds // 2 + args.rounds % 2):
            for name, program in programs:
                program = str(Path(program).resolve())
                os.environ.pop("MALLOC_ARENA_MAX", None)
                if name.endswith("+arena"):
                    os.environ["MALLOC_ARENA_MAX"] = "1"
                if part == "rates":
                    rates(name, program, found)
                else:
                    {"idle": idle, "install": install}[part](name, program)
    for (case, test), of in found.items():
        line = "   ".join(f"{name} {statistics.median(seen):>9,.0f}" for name, seen in of.items())
        print(f"  {case:<9} {test}: {line}   {of}")


if __name__ == "__main__":
    main()

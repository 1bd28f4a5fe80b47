#!/usr/bin/env python3
"""`make bench-lanes`: what it costs that a write that comes again is known again.

Two programs from the same source: the usual one, and one built without lanes, which does every write that arrives
and remembers nothing. A cluster of each, `flotilla dev` in a new directory whose first node leads both groups, gets
the same requests of redis-benchmark, 50 connections with 16 in flight, in short runs: first the one, then the other, the
next pair the other way round. Requests before those, in which every slot gets its lane, are not counted. Then both
start anew: two processes of one program differ by up to a tenth, by where their memory happens to be, so there are many
clusters of few runs. What counts is the median of the pairs' ratios: what disturbs the machine disturbs both of a pair. Beside the rate stands the CPU time of the whole process, all three nodes, for one request: it says the same
with less noise.

What the program without lanes still has: the session, the seq and the deadline in every entry, and a router that numbers
its requests and waits for answers.
"""

import argparse
import re
import shutil
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench import KEYS, ROOT, VALUE_BYTES, Server, benchmark, die, free_ports, machine
from disk import cpu_seconds
from failover import ask, wait_for

# The goal: lanes take no more of the throughput than this.
COST_MAX = 0.05
LOAD = ["-c", "50", "-P", "16"]
CASES = [
    ("SET", [*LOAD, "-t", "set"]),
    ("APPEND", [*LOAD, "APPEND", "append:__rand_int__", "x"]),
    ("INCR", [*LOAD, "-t", "incr"]),
]
PROGRAMS = {"with": ROOT / "target/release/flotilla", "without": ROOT / "target/without-lanes/release/flotilla"}
# Keys of each case before anything is counted: a slot without one is one in 450.
WARM_REQUESTS = 100_000


def standing(port):
    """Of each group but the shardmaster, what the node there is in it, and how many lanes it has."""
    lines = [line.split(":", 1) for line in ask(port, "INFO", "raft").splitlines() if re.match("raft_group_[1-9]", line)]
    groups = [dict(field.split("=", 1) for field in fields.split(",")) for _, fields in lines]
    return [group["role"] for group in groups], sum(int(group["lanes"]) for group in groups)


def leads(port):
    ask(port, "CLUSTER", "FAILOVER")
    return set(standing(port)[0]) == {"leader"}


def life(requests, pairs):
    """The life of two clusters. For each case and program its runs: rate, and microseconds of CPU for each request."""
    found = {name: {kind: [] for kind in PROGRAMS} for name, _ in CASES}
    with tempfile.TemporaryDirectory(prefix="bench-lanes-", dir=ROOT / "target") as folder, ExitStack() as stack:
        servers = {}
        for kind, program in PROGRAMS.items():
            port = free_ports(4)
            argv = [str(program), "dev", "--port", str(port), "--dir", f"data-{kind}", "--log", "warn"]
            servers[kind] = stack.enter_context(Server(kind, port, argv, Path(folder)))
            wait_for("leader", lambda: leads(port + 1))
            for _, case in CASES:
                benchmark(port + 1, case, WARM_REQUESTS)
        for name, case in CASES:
            for pair in range(pairs):
                for kind in sorted(servers, reverse=pair % 2 == 1):
                    pid, port = servers[kind].process.pid, servers[kind].port + 1
                    before = cpu_seconds(pid)
                    rate, _, _ = benchmark(port, case, requests)
                    found[name][kind].append((rate, 1e6 * (cpu_seconds(pid) - before) / requests))
        for kind, server in servers.items():
            roles, lanes = standing(server.port + 1)
            if (lanes > 0) != (kind == "with"):
                die(f"the program {kind} lanes has {lanes} lanes: `make bench-lanes` builds both")
            if set(roles) != {"leader"}:
                die("the first node leads no more: the machine was too busy to measure anything")
    return found


def row(name, runs):
    """Prints one case. Returns how much of the throughput lanes take."""
    (rates, cpus), (free_rates, free_cpus) = (list(zip(*runs[kind])) for kind in ("with", "without"))
    median = statistics.median
    low, middle, high = statistics.quantiles([a / b for a, b in zip(rates, free_rates)], n=4)
    ratio, cpu_ratio = median(rates) / median(free_rates), median(cpus) / median(free_cpus)
    print(
        f"| {name} | {median(rates):,.0f} | {median(free_rates):,.0f} | {ratio:.3f} | {middle:.3f} ({low:.3f} to {high:.3f})"
        f" | {median(cpus):.2f} | {median(free_cpus):.2f} | {cpu_ratio:.3f} |",
        flush=True,
    )
    return 1 - middle


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clusters", type=int, default=6, help="clusters of each program, one after the other [6]")
    parser.add_argument("--pairs", type=int, default=5, help="runs of each case on each cluster [5]")
    parser.add_argument("--requests", type=int, default=50_000, help="requests of a run [50000]")
    options = parser.parse_args()
    if shutil.which("redis-benchmark") is None or shutil.which("redis-cli") is None:
        die("redis-benchmark or redis-cli is not installed (Debian: redis-tools)")
    for program in PROGRAMS.values():
        if not program.is_file():
            die(f"{program} does not exist: `make bench-lanes` builds it")
    print(
        f"{machine()}\n{' '.join(LOAD)}, {options.requests:,} requests a run, values of {VALUE_BYTES} bytes, {KEYS:,} keys,"
        f" medians of {options.pairs} runs on each of {options.clusters} clusters\n"
    )
    lives = [life(options.requests, options.pairs) for _ in range(options.clusters)]
    print("| case | with lanes/s | without/s | ratio | of each pair: median (quartiles) | CPU us, with | without | ratio |")
    print("|---|---:|---:|---:|---|---:|---:|---:|")
    costs = []
    for name, _ in CASES:
        runs = {kind: [run for found in lives for run in found[name][kind]] for kind in PROGRAMS}
        costs.append(row(name, runs))
    print(f"\nlanes cost {100 * max(costs):.1f} % of the throughput where they cost most; goal {100 * COST_MAX:.0f} %")


if __name__ == "__main__":
    main()

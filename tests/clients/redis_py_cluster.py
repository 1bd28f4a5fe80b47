"""redis-py's RedisCluster with its defaults, synchronous and asyncio, at the cluster ports given.

`redis_py_cluster.py moves PORT...` appends numbered tokens, one by one and in pipelines: each reply must be the length
that the key has if every token is in it once, in order. `redis_py_cluster.py kills PORT...` writes values and reads them
back: a client that loses a connection asks again, so only what may be done twice is done. It prints `acks N` as it goes on; when its standard
input ends it reads everything once more, and says that it passed. Any error that a caller sees ends it with exit code 1.
"""

import asyncio
import os
import sys
import threading
import traceback

from redis import __version__
from redis.asyncio.cluster import ClusterNode as AsyncNode
from redis.asyncio.cluster import RedisCluster as AsyncCluster
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import ConnectionError as LostConnection

KEYS = 25
PIPELINE_LENGTH = 20
SAID_EVERY = 50

stop = threading.Event()
lock = threading.Lock()
acks = 0


def acknowledged(count):
    global acks
    with lock:
        before, acks = acks, acks + count
        if before // SAID_EVERY != acks // SAID_EVERY:
            print(f"acks {acks}", flush=True)


def equal(got, expected, what):
    if got != expected:
        raise AssertionError(f"{what}: got {got!r:.200}, expected {expected!r:.200}")


class Tokens:
    """What the keys of one writer must hold."""

    def __init__(self, writer):
        self.writer = writer
        self.number = 0
        self.held = {}

    def next(self):
        """A key, a token, and what APPEND answers."""
        key = f"moved:{self.writer}:{self.number % KEYS}"
        token = f"{self.number};"
        self.number += 1
        self.held[key] = self.held.get(key, "") + token
        return key, token, len(self.held[key])


def appends(client, writer):
    tokens = Tokens(writer)
    while not stop.is_set():
        key, token, length = tokens.next()
        equal(client.append(key, token), length, f"APPEND {key}")
        pipeline, lengths = client.pipeline(), []
        for _ in range(PIPELINE_LENGTH):
            key, token, length = tokens.next()
            pipeline.append(key, token)
            lengths.append(length)
        equal(pipeline.execute(), lengths, "a pipeline of APPEND")
        key, token, length = tokens.next()
        for _ in range(2):
            words = ["IDMP", writer, tokens.number, "APPEND", key, token]
            equal(client.execute_command(*words), length, f"APPEND {key} with a token")
        acknowledged(PIPELINE_LENGTH + 2)
    for key, held in tokens.held.items():
        equal(client.get(key), held.encode(), f"GET {key}")


def values(client, writer):
    held, number = {}, 0
    while not stop.is_set():
        key = f"kept:{writer}:{number % KEYS}"
        equal(client.set(key, number), True, f"SET {key}")
        equal(client.get(key), str(number).encode(), f"GET {key}")
        held[key] = number
        number += 1
        acknowledged(1)
    for key, number in held.items():
        equal(client.get(key), str(number).encode(), f"GET {key}")


async def async_appends(client, writer):
    tokens = Tokens(writer)
    while not stop.is_set():
        key, token, length = tokens.next()
        equal(await client.append(key, token), length, f"APPEND {key}")
        acknowledged(1)
    for key, held in tokens.held.items():
        equal(await client.get(key), held.encode(), f"GET {key}")


async def asked(ask):
    """What `ask` gets, which may be done twice.

    When it learns the cluster anew redis-py's asyncio client also asks a node for COMMAND; if that node dies in this
    moment the lost connection is the caller's matter. No answer of ours is passed over here.
    """
    for _ in range(3):
        try:
            return await ask()
        except LostConnection as lost:
            print(f"asked again: {lost!r}", file=sys.stderr, flush=True)
    return await ask()


async def async_values(client, writer):
    held, number = {}, 0
    while not stop.is_set():
        key = f"kept:{writer}:{number % KEYS}"
        equal(await asked(lambda: client.set(key, number)), True, f"SET {key}")
        equal(await asked(lambda: client.get(key)), str(number).encode(), f"GET {key}")
        held[key] = number
        number += 1
        acknowledged(1)
    for key, number in held.items():
        equal(await asked(lambda: client.get(key)), str(number).encode(), f"GET {key}")


def synchronous(ports, work, writer):
    nodes = [ClusterNode("127.0.0.1", port) for port in ports]
    with RedisCluster(startup_nodes=nodes) as client:
        work(client, writer)


async def asynchronous(ports, work, writer):
    # A client each: after its fifth MOVED one closes all its connections, and what other tasks wait for there it
    # sends again, whether it was carried out or not.
    async def own(task):
        nodes = [AsyncNode("127.0.0.1", port) for port in ports]
        async with AsyncCluster(startup_nodes=nodes) as client:
            await work(client, f"{writer}-{task}")

    await asyncio.gather(*(own(task) for task in range(3)))


def guarded(run):
    try:
        run()
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def main():
    mode, ports = sys.argv[1], [int(port) for port in sys.argv[2:]]
    work, async_work = {"moves": (appends, async_appends), "kills": (values, async_values)}[mode]
    runs = [
        lambda writer=writer: synchronous(ports, work, writer) for writer in ("sync-1", "sync-2")
    ]
    runs.append(lambda: asyncio.run(asynchronous(ports, async_work, "async")))
    threads = [threading.Thread(target=guarded, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    print(f"redis-py {__version__}, {mode}: passed", flush=True)


main()

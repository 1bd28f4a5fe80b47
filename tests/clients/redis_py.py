"""redis-py, synchronous and asyncio, in RESP2 and RESP3, against the cluster on the given port.

Prints one line per way of connecting; any wrong reply ends it with a traceback and exit code 1.
"""

import asyncio
import sys

import redis
import redis.asyncio

ALL_BYTES = bytes(range(256))
FIVE_MB = bytes(i * 7 % 251 for i in range(5_000_000))
PIPELINE_LENGTH = 10_000


def equal(got, expected, what):
    if got != expected:
        sys.exit(f"{what}: got {got!r:.200}, expected {expected!r:.200}")


def synchronous(port, name, **options):
    with redis.Redis(host="127.0.0.1", port=port, **options) as client:
        equal(client.ping(), True, "PING")
        for kind, value in [("bytes", ALL_BYTES), ("empty", b""), ("big", FIVE_MB)]:
            key = f"{name}:{kind}".encode() + ALL_BYTES
            equal(client.get(key), None, f"GET of a missing key, {kind}")
            equal(client.set(key, value), True, f"SET {kind}")
            equal(client.get(key), value, f"GET {kind}")
            equal(client.append(key, ALL_BYTES), len(value) + 256, f"APPEND {kind}")
            equal(client.get(key), value + ALL_BYTES, f"GET after APPEND, {kind}")
            equal(client.delete(key), 1, f"DEL {kind}")

        pipeline = client.pipeline(transaction=False)
        for i in range(PIPELINE_LENGTH):
            pipeline.set(f"{name}:{i}", i)
        equal(pipeline.execute(), [True] * PIPELINE_LENGTH, "pipeline of SET")
        for i in range(PIPELINE_LENGTH):
            pipeline.get(f"{name}:{i}")
        expected = [str(i).encode() for i in range(PIPELINE_LENGTH)]
        equal(pipeline.execute(), expected, "pipeline of GET")
        equal("redis_version" in client.info(), True, "INFO")
        for _ in range(3):
            words = ["IDMP", f"py {name}", 1, "APPEND", f"{name}:once", "line;"]
            equal(client.execute_command(*words), 5, "APPEND with a token")
    print(f"redis-py {redis.__version__}, {name}: passed")


async def asynchronous(port, name, **options):
    async with redis.asyncio.Redis(host="127.0.0.1", port=port, **options) as client:
        equal(await client.ping(), True, "PING")
        for kind, value in [("bytes", ALL_BYTES), ("empty", b""), ("big", FIVE_MB)]:
            key = f"{name}:{kind}".encode() + ALL_BYTES
            equal(await client.set(key, value), True, f"SET {kind}")
            equal(await client.append(key, ALL_BYTES), len(value) + 256, f"APPEND {kind}")
            equal(await client.get(key), value + ALL_BYTES, f"GET after APPEND, {kind}")

        pipeline = client.pipeline(transaction=False)
        for i in range(PIPELINE_LENGTH):
            pipeline.append(f"{name}:{i}", "x" * (i % 3 + 1))
        expected = [i % 3 + 1 for i in range(PIPELINE_LENGTH)]
        equal(await pipeline.execute(), expected, "pipeline of APPEND")

        # One hundred tasks share the pool; each must get its own answers.
        async def own(task):
            for i in range(20):
                await client.set(f"{name}:own:{task}:{i}", f"{task}-{i}")
                got = await client.get(f"{name}:own:{task}:{i}")
                equal(got, f"{task}-{i}".encode(), "GET of a task")

        await asyncio.gather(*(own(task) for task in range(100)))
    print(f"redis-py {redis.__version__}, {name}: passed")


def main():
    port = int(sys.argv[1])
    synchronous(port, "defaults")
    synchronous(port, "resp2", protocol=2)
    synchronous(port, "resp3", protocol=3)
    asyncio.run(asynchronous(port, "asyncio defaults"))
    asyncio.run(asynchronous(port, "asyncio resp2", protocol=2))


main()

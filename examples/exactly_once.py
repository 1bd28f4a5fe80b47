"""Appends words over two routers and finds each of them once, whatever happens to the routers meanwhile.

`exactly_once.py HOST:PORT HOST:PORT WORDS`, with redis-py. `make exactly-once CLIENT=redis-py` kills the routers.
"""

import collections
import itertools
import sys
import time
import uuid

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

LOGS = [f"log:{i}" for i in range(10)]


def connect(address):
    host, port = address.rsplit(":", 1)
    # Without redis-py's own retries, which wait for a router that is gone: there is another one.
    return redis.Redis(host, int(port), retry=Retry(NoBackoff(), 0), decode_responses=True)


routers = collections.deque(connect(address) for address in sys.argv[1:3])
producer, ids, sent_again = str(uuid.uuid4()), itertools.count(), itertools.count()


def answer(*command):
    """Sends a command until its own answer comes: a value, or an error of the command."""
    give_up = time.monotonic() + 9 * 60  # a write is remembered for ten minutes
    while True:
        try:
            return routers[0].execute_command(*command)
        except redis.RedisError as error:
            if not is_open(error) or time.monotonic() > give_up:
                raise
        routers.rotate()
        time.sleep(0.05)
        next(sent_again)


def is_open(error):
    """Whether the command may have been done, or may be done if it is sent again."""
    lost = (redis.ConnectionError, redis.TimeoutError)
    refused = (redis.exceptions.ClusterDownError, redis.exceptions.TryAgainError, redis.OutOfMemoryError)
    return isinstance(error, lost + refused) or str(error).startswith(("TIMEOUT ", "MISCONF "))


words = [f"{producer}-{i};" for i in range(int(sys.argv[3]))]
for word, log in zip(words, itertools.cycle(LOGS)):
    answer("IDMP", producer, next(ids), "APPEND", log, word)

held = "".join(answer("MGET", *LOGS))
wrong = sum(held.count(word) != 1 for word in words)
print(f"{len(words)} words, {wrong} of them lost or doubled; sent again: {next(sent_again)}")
sys.exit(wrong > 0)

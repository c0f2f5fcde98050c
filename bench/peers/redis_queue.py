"""What the systems share that keep their queues in Redis: the server that the driver has started for them."""

import os

import redis

URL = os.environ.get("BENCH_REDIS_URL", "redis://127.0.0.1:1/0")


def server_pid() -> int:
    """The server's process, with nothing left in it from the system before."""
    server = redis.Redis.from_url(URL)
    server.flushall()
    pid: int = server.info("server")["process_id"]
    server.close()
    return pid

"""A cluster for benchmarks: a master and a worker in processes of their own, on loopback, started as users do."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from multihost.client.monitor import ask_statistics
from multihost.errors import MasterUnreachable
from multihost.settings import Address

ROOT = Path(__file__).resolve().parent.parent
_START_SECONDS, _STOP_SECONDS = 20.0, 10.0


@contextlib.contextmanager
def cluster(slots: int) -> Iterator[dict[str, str]]:
    """Yields the environment with which ``Pool()`` finds a new cluster of one worker; takes it down afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {
        "MULTIHOST_ADDRESS": f"127.0.0.1:{port}",
        "MULTIHOST_AUTHKEY": secrets.token_hex(16),
        "MULTIHOST_SLOTS": str(slots),
        "MULTIHOST_LOG_LEVEL": "ERROR",
    }
    environ = {**os.environ, **settings}
    programs = ("master/task_master.py", "worker/task_worker.py")
    processes = [subprocess.Popen([sys.executable, str(ROOT / program)], env=environ) for program in programs]
    try:
        _wait_for_worker(Address("127.0.0.1", port), settings["MULTIHOST_AUTHKEY"].encode())
        yield settings
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
            process.wait(_STOP_SECONDS)


def _wait_for_worker(address: Address, authkey: bytes) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(MasterUnreachable):
            if ask_statistics(address, authkey, timeout=1.0)["workers"]:
                return
        time.sleep(0.02)
    raise TimeoutError("the cluster did not start")

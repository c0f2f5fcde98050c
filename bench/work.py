"""What the systems are given to do: functions that every peer can import by name."""

import os
import time
from functools import cache
from pathlib import Path

_GATE_POLL_SECONDS = 0.01


def square(x: int) -> int:
    """No work to speak of: what is measured is the way there and back."""
    return x * x


def sleep(seconds: float) -> None:
    """Work that needs no core, such as waiting for a server."""
    time.sleep(seconds)


def spin(seconds: float) -> None:
    """Work that keeps a core busy. By the thread's own CPU time: waiting for a core is not work."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def length(content: bytes) -> int:
    """A large argument, a small result."""
    return len(content)


def content(size_bytes: int) -> bytes:
    """A small argument, a large result; made once in each process, so that making it is not measured."""
    return _random_bytes(size_bytes)


@cache
def _random_bytes(size_bytes: int) -> bytes:
    return os.urandom(size_bytes)


def wait_at_gate(directory: str) -> int:
    """Say in ``directory`` that this process has begun, and stay busy until there is a file ``open``."""
    gate = Path(directory)
    (gate / f"begun-{os.getpid()}").touch()
    while not (gate / "open").exists():
        time.sleep(_GATE_POLL_SECONDS)
    return 0


def stamped_sleep(seconds: float) -> tuple[float, float]:
    """When it began and ended, on the clock that all processes of one machine share."""
    begun = time.monotonic()
    time.sleep(seconds)
    return begun, time.monotonic()

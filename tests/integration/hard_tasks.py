"""Functions that hold or flood what they share with others. They travel as this module."""

import itertools
import os
import time
from pathlib import Path


def hold_the_gil(directory: str, seconds: float) -> None:
    """Hold it for so many seconds, in one call of C that calls nothing but C."""
    Path(directory, f"{os.getpid()}.{time.monotonic_ns()}").touch()
    end = time.monotonic() + seconds
    next(itertools.dropwhile(end.__gt__, iter(time.monotonic, None)))


def print_for_ever() -> None:
    while True:
        print("x" * 1000)


def clock(seconds: float) -> float:
    """What the clock on the wall shows after a while."""
    time.sleep(seconds)
    return time.time()

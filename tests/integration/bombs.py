"""Tasks that take all the processes there are. They travel as this module."""

import contextlib
import os
import time


def fork_for_ever(heeds: bool) -> None:
    """Each process that comes of it does the same; ``heeds``: until it is interrupted."""
    while True:
        with contextlib.suppress(OSError if heeds else BaseException):
            if os.fork() == 0:
                os.setsid()
        with contextlib.suppress(OSError if heeds else BaseException):
            time.sleep(0.01)


def return_twice() -> int:
    """The process that this returns in: the child's, and the copy's."""
    os.fork()
    return os.getpid()

"""Forks where ``multiprocessing`` would start interpreters: its fork server, and the resource tracker.

Each of these interpreters would first import what the process that wants them has imported. A fork of it has that.
"""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from multiprocessing import forkserver, resource_tracker, util
from typing import Any, NoReturn

_spawn = util.spawnv_passfds


@contextlib.contextmanager
def forks_for_interpreters() -> Iterator[None]:
    """Within it, they are forks of this process: it has one thread, has done little but import, and knows no secret."""
    util.spawnv_passfds = _fork
    try:
        yield
    finally:
        util.spawnv_passfds = _spawn


def _fork(path: bytes, args: Sequence[Any], passfds: Sequence[int]) -> int:
    """The process id of a fork that runs the program, which is the last of the interpreter's arguments."""
    return os.fork() or _run(args[-1], passfds)


def _run(program: str, descriptors: Sequence[int]) -> NoReturn:
    code = 1
    try:
        util.spawnv_passfds = _spawn
        # As in a fresh interpreter: their locks are held by whoever had this process forked.
        for starter in (forkserver._forkserver, resource_tracker._resource_tracker):  # nothing public resets them
            type(starter).__init__(starter)
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            if descriptor > 2 and descriptor not in descriptors:
                with contextlib.suppress(OSError):  # the one by which they were listed
                    os.close(descriptor)
        exec(program, {"__name__": "__main__"})
        code = 0
    except SystemExit:
        code = 0  # so the fork server ends
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)  # what else this process has on its stack is the other one's

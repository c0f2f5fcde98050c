"""Imported by the fork server, and there alone, before it forks: what children need, so that they begin with it.

A child that is being started when its worker is killed finds nothing to read where its orders should be. Nobody is left
to whom that would be news; the fork server, which has all children's stderr, would print a traceback.

A host without room for a process must not cost those that are there: the standard library's fork server ends when it
cannot fork, and with it all wardens would. Here it closes what the request came with, so that the worker hears of it,
and serves on.
"""

import contextlib
import errno
import json  # noqa: F401
import os
import runpy  # noqa: F401
import sys
import traceback
import zipimport  # noqa: F401
from types import TracebackType

import cloudpickle  # noqa: F401

# Programs ask for these by name where they begin, and so in each of their children.
import multihost.detached
import multihost.executor
import multihost.pool
import multihost.runner.slot  # noqa: F401

_BEGINS_CHILDREN = "multiprocessing.spawn"


def _report(kind: type[BaseException], error: BaseException, frames: TracebackType | None) -> None:
    *_, (last, _) = traceback.walk_tb(frames) if frames is not None else [(None, 0)]
    if not (kind is EOFError and last is not None and last.f_globals.get("__name__") == _BEGINS_CHILDREN):
        sys.__excepthook__(kind, error, frames)


_fork = os.fork


def _fork_or_refuse() -> int:
    """``os.fork`` in the fork server. Raises: ConnectionAbortedError, over which it goes on to the next request."""
    try:
        process = _fork()
    except OSError as error:
        request = sys._getframe(1).f_locals
        for descriptor in (request.get("child_r"), request.get("child_w"), *request.get("fds", ())):
            if isinstance(descriptor, int):
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        raise ConnectionAbortedError(errno.ECONNABORTED, "there is no room for a process") from error
    if not process:
        os.fork = _fork
    return process


sys.excepthook = _report
os.fork = _fork_or_refuse

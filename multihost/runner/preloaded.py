"""Imported by the fork server, and there alone, before it forks: what children need, so that they begin with it.

A child that is being started when its worker is killed finds nothing to read where its orders should be. Nobody is left
to whom that would be news; the fork server, which has all children's stderr, would print a traceback.
"""

import json  # noqa: F401
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


sys.excepthook = _report

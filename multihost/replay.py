"""A saved task, run in this process as a worker's child would run it, and under a debugger.

The one place besides the workers' children where what a client sent is unpickled and run.
"""

import asyncio
import bdb
import pdb
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from types import CoroutineType, TracebackType
from typing import Any

from multihost import payload
from multihost.runner.sources import make_ready
from multihost.saved import SavedTask

_OURS = {__name__, bdb.__name__, pdb.__name__, asyncio.runners.__name__}


class CannotReplay(Exception):
    """The task cannot be run in this process: its code or its arguments cannot be loaded."""


class _Debugger(pdb.Pdb):
    """Knows whether its user has left it."""

    left = False

    def set_quit(self) -> None:
        self.left = True
        super().set_quit()


def replay(saved: SavedTask, debugger: bool) -> int:
    """Run a task, say what comes of it, and give the exit code: 0, or 1 if it raised.

    Raises: CannotReplay: nothing of the function was run.
    """
    with tempfile.TemporaryDirectory(prefix="multihost-replay-") as directory:
        function, args, kwds = _load(saved, Path(directory))
        return _run_debugged(function, args, kwds) if debugger else _run(function, args, kwds)


def _load(saved: SavedTask, directory: Path) -> tuple[Callable[..., object], Any, Any]:
    try:
        make_ready(saved.needs, directory)
        function = payload.load_function(saved.function[1])
        arguments: Any = payload.loads(saved.told["payload"])
        args, kwds = function.complete(arguments if saved.item is None else payload.one_item(arguments, saved.item))
    except (Exception, SystemExit) as error:  # it is the user's code that runs here
        raise CannotReplay(f"the task cannot be loaded here: {type(error).__name__}: {error}") from error
    return function.function, args, kwds


def _run(function: Callable[..., object], args: Any, kwds: Any) -> int:
    try:
        return _say(function(*args, **kwds))
    except BaseException as error:
        _show(error)
        return 1


def _run_debugged(function: Callable[..., object], args: Any, kwds: Any) -> int:
    debugger = _Debugger()
    try:
        result = debugger.runcall(function, *args, **kwds)
        return 0 if debugger.left else _say(result)
    except BaseException as error:
        _show(error)
        debugger.reset()
        debugger.interaction(None, _without_ours(error.__traceback__))
        return 1


def _say(result: object) -> int:
    if type(result) is CoroutineType:
        result = asyncio.run(result)
    print(f"it returned {result!r}")
    return 0


def _show(error: BaseException) -> None:
    traceback.print_exception(error.with_traceback(_without_ours(error.__traceback__)), file=sys.stderr)


def _without_ours(frames: TracebackType | None) -> TracebackType | None:
    """``frames`` from the first one of the user's on; all, if none is."""
    first = frames
    while first is not None and first.tb_frame.f_globals.get("__name__") in _OURS:
        first = first.tb_next
    return first or frames

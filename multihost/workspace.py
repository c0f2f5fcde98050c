"""Room on the disk for what a task writes and nobody is to keep."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

of_task: Callable[[], Path | None] | None = None  # set by ``runner`` in the processes that run tasks
_of_process: dict[int, tempfile.TemporaryDirectory[str]] = {}  # by process id, for a fork makes its own


def scratch() -> Path:
    """An empty directory of the running task's own, on its worker's disk; the same one each time that the task asks.

    It is removed when the task ends, however it ends; in a map each item has its own. What is to stay is moved
    elsewhere, or returned. Outside of tasks, there is one for the process, removed at its end.
    Raises: OSError: the disk is full, or cannot be written.
    """
    if of_task is not None and (path := of_task()) is not None:
        return path
    process = os.getpid()
    if process not in _of_process:
        _of_process[process] = tempfile.TemporaryDirectory(prefix="multihost-scratch-", ignore_cleanup_errors=True)
    return Path(_of_process[process].name)

"""What a session tells people: warnings in the log, what tasks print, and what is added to an exception."""

import logging
from collections.abc import Callable

from multihost.settings import Address

logger = logging.getLogger(__name__)


class Notices:
    """See the module.

    Args:
        master: where it is, for messages.
        show: called with the function's name, the task's number, the worker's name and what the task printed.
    """

    def __init__(self, master: Address | str, show: Callable[[str, int, str, str], None] | None) -> None:
        self.names: dict[str, str] = {}  # of functions, by id
        self._master, self._show = master, show

    def workers_changed(self, before: int, now: int, waiting: int) -> None:
        """There were so many workers ``before``; so many tasks are ``waiting`` for their outcomes."""
        if not waiting or bool(before) == bool(now):
            return
        if now:
            logger.warning("a worker joined the master at %s; %d tasks go on", self._master, waiting)
        else:
            self.no_worker()

    def no_worker(self) -> None:
        """There is a task, and nobody who could run it."""
        logger.warning("no worker is connected to the master at %s; the tasks wait until one comes", self._master)

    def lacking(self, labels: list[list[str]], workers: int) -> None:
        """There are tasks that ask for these labels, which none of so many workers has."""
        for wanted in labels:
            logger.warning(
                "tasks wait for a worker with the labels %s; none of the %d workers has them. Start one with "
                "MULTIHOST_LABELS=%s",
                ", ".join(wanted),
                workers,
                ",".join(wanted),
            )

    def printed(self, function_id: str | None, sequence: int, worker: str, text: str) -> None:
        """A task printed this; None: it has ended, and its function is not known any more."""
        if self._show is not None:
            self._show(self.names.get(function_id or "", ""), sequence, worker, text)

    def whence(self, sequence: int, function_id: str, whence: str) -> str:
        """What is added to the exception of a task, to say where it was raised."""
        return f"multihost: task {sequence} ({self.names.get(function_id, '?')}) {whence}"

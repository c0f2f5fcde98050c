"""The master, which kills itself at a point of the commit that is the n-th with something to write down: POINT N."""

import os
import runpy
import signal
import sys
from collections.abc import Callable, Iterable
from typing import Any

from multihost.broker.journal import DiskJournal
from multihost.broker.service import Service
from multihost.wire.peer import Peer
from tests.integration.cluster import MASTER

POINTS = ("before the commit", "after the commit", "amid the replies", "after the replies")


class _Failpoint:
    def __init__(self, point: str, commits: int) -> None:
        self._point, self._left = point, commits

    def begin(self) -> None:
        """There is something to write down."""
        self._left -= 1

    def pass_by(self, point: str) -> None:
        if self._left <= 0 and point == self._point:
            os.kill(os.getpid(), signal.SIGKILL)


def _after(failpoint: _Failpoint, point: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def patched(*args: Any) -> Any:
        result = function(*args)
        failpoint.pass_by(point)
        return result

    return patched


def main() -> None:
    failpoint = _Failpoint(sys.argv[1], int(sys.argv[2]))
    append, commit = DiskJournal.append, DiskJournal.commit

    def counted(journal: DiskJournal, records: Iterable[Any]) -> None:
        if found := [*records]:
            failpoint.begin()
        append(journal, found)

    def failing(journal: DiskJournal) -> None:
        failpoint.pass_by("before the commit")
        commit(journal)
        failpoint.pass_by("after the commit")

    DiskJournal.append, DiskJournal.commit = counted, failing  # type: ignore[method-assign, assignment]
    Peer.send = _after(failpoint, "amid the replies", Peer.send)  # type: ignore[method-assign]
    Service._flush = _after(failpoint, "after the replies", Service._flush)  # type: ignore[method-assign]
    runpy.run_path(str(MASTER), run_name="__main__")


if __name__ == "__main__":
    main()

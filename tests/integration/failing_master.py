"""The master, which kills itself at a point of a commit: POINT N, of the n-th with something to write down; POINT NAME,
of the first with a record of that name. With a third word, "replies first", it sends replies before it commits.
"""

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
    def __init__(self, point: str, which: str) -> None:
        self._point = point
        self._name, self._left = ("", int(which)) if which.isdecimal() else (which, 1)

    def begin(self, records: list[Any]) -> None:
        """There is something to write down."""
        if not self._name or any(record[0] == self._name for record in records):
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


def _replies_first(flush: Callable[[Service], None]) -> Callable[[Service], None]:
    def patched(service: Service) -> None:
        commit = service._commit
        service._commit = lambda: None  # type: ignore[method-assign]
        flush(service)
        service._commit = commit  # type: ignore[method-assign]
        service._commit()

    return patched


def main() -> None:
    failpoint = _Failpoint(*sys.argv[1:3])
    append, commit = DiskJournal.append, DiskJournal.commit

    def counted(journal: DiskJournal, records: Iterable[Any]) -> None:
        if found := [*records]:
            failpoint.begin(found)
        append(journal, found)

    def failing(journal: DiskJournal) -> None:
        failpoint.pass_by("before the commit")
        commit(journal)
        failpoint.pass_by("after the commit")

    DiskJournal.append, DiskJournal.commit = counted, failing  # type: ignore[method-assign, assignment]
    Peer.send = _after(failpoint, "amid the replies", Peer.send)  # type: ignore[method-assign]
    if "replies first" in sys.argv[3:]:
        Service._flush = _replies_first(Service._flush)  # type: ignore[method-assign, assignment]
    Service._flush = _after(failpoint, "after the replies", Service._flush)  # type: ignore[method-assign]
    runpy.run_path(str(MASTER), run_name="__main__")


if __name__ == "__main__":
    main()

"""What one session counts and measures on this side, and the statistics that it and the master's word make together."""

import time
from collections.abc import Iterable
from typing import Any

from multihost.client.chunk import Chunk
from multihost.histogram import Histogram
from multihost.statistics import Statistics, Tasks, Times, Traffic, made_of
from multihost.wire.meter import Meter


class Figures:
    """See the module. Under the lock of its session, but for ``meter``."""

    def __init__(self, session: str) -> None:
        self.meter = Meter()
        self._session = session
        self._began = time.monotonic()
        self._submitted = self._ended = 0  # calls
        self._total = Histogram()

    def submitted(self, call: object) -> None:
        """``call`` is the callback of a task: a chunk has several calls."""
        self._submitted += len(call) if type(call) is Chunk else 1

    def ended(self, call: object, seconds: float) -> None:
        """The outcome of a task came so many seconds after its call."""
        self._ended += len(call) if type(call) is Chunk else 1
        self._total.add(seconds)

    def dropped(self, calls: Iterable[object]) -> None:
        """These tasks ended on this side."""
        self._ended += sum(len(call) if type(call) is Chunk else 1 for call in calls)

    def told(self, link: Any, unsent: int, master: dict[str, Any] | None) -> Statistics:
        """``link`` is the one in use; ``master`` what the master said, or None."""
        known = master or {}
        sent, received = self.meter.plain(link)
        total, queued, run = (
            made_of(Times, plain) for plain in (self._total.plain(), known.get("queued", {}), known.get("run", {}))
        )
        ways = total.sum_seconds - queued.sum_seconds - run.sum_seconds
        return Statistics(
            session=self._session,
            age_seconds=time.monotonic() - self._began,
            answered=master is not None,
            calls_submitted=self._submitted,
            calls_ended=self._ended,
            unsent=unsent,
            tasks=made_of(Tasks, known.get("tasks", {})),
            cluster=made_of(Tasks, known.get("cluster", {})),
            sent=made_of(Traffic, sent),
            received=made_of(Traffic, {**received, "tasks": total.count}),
            total=total,
            queued=queued,
            run=run,
            transfer_mean_seconds=max(0.0, ways / total.count) if master and total.count else 0.0,
        )

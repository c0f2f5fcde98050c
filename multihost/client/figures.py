"""What one session counts and measures on this side, and the statistics that it and the master's word make together."""

import time
from typing import Any

from multihost.client.chunk import Chunk
from multihost.histogram import Histogram
from multihost.plain import made_of
from multihost.statistics import Statistics, Tasks, Times, Traffic
from multihost.wire.meter import Meter


class Figures:
    """See the module. Under the lock of its session, but for ``meter``."""

    def __init__(self, session: str) -> None:
        self.meter = Meter()
        self._session = session
        self._began = time.monotonic()
        self._ended = 0  # tasks
        self._more_submitted = self._more_ended = 0  # calls: of each chunk all but one
        self._total = Histogram()

    def chunk_submitted(self, calls: int) -> None:
        self._more_submitted += calls - 1

    def ended(self, called_at: list[float], now: float, more: int) -> None:
        """The outcomes of tasks came whose calls were made then; in chunks, there were so many ``more`` calls."""
        self._ended += len(called_at)
        self._more_ended += more
        self._total.add_since(called_at, now)

    def dropped(self, calls: list[Any]) -> None:
        """Tasks with these callbacks ended on this side."""
        self._ended += len(calls)
        self._more_ended += sum(len(call) - 1 for call in calls if type(call) is Chunk)

    def told(self, link: Any, pending: int, unsent: int, master: dict[str, Any] | None) -> Statistics:
        """``link`` is the one in use, ``pending`` how many tasks have not ended; ``master`` said this, or nothing."""
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
            calls_submitted=self._ended + pending + self._more_submitted,
            calls_ended=self._ended + self._more_ended,
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

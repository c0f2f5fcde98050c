"""How many tasks a worker asks the master for.

What it says is a limit on all that one connection brings, as the link credit of AMQP 1.0 is: "so many more" would
forget what is on its way.
"""

from collections.abc import Collection

from multihost.runner.children import Child
from multihost.runner.durations import CHILD_SECONDS, HOLD_SECONDS, STUCK_SECONDS, Durations

# When a worker holds so few for a slot, its child's pipe takes one at most.
_FEW = int(2 * HOLD_SECONDS / CHILD_SECONDS)


class Credit:
    """What one connection has brought, and may bring.

    Args:
        slots, threads: how many children work at a time, and how many tasks each of them runs.
        durations: what is known of how long tasks take.
    """

    def __init__(self, slots: int, threads: int, durations: Durations) -> None:
        self._slots, self._threads, self._durations = slots, threads, durations
        self._granted = 0  # how many tasks this connection has brought
        self._limit = 0  # how many the master was told that it may bring
        self.review: float | None = None  # when time alone will have changed how many are wanted

    def connected(self) -> None:
        """A new connection has brought nothing."""
        self._granted = self._limit = 0

    def granted(self, tasks: int) -> None:
        """It has brought so many more."""
        self._granted += tasks

    def want_nothing(self) -> None:
        """Until it is asked again, time alone changes nothing."""
        self.review = None

    def new_limit(self, children: Collection[Child], queued: int, resting: bool, now: float) -> int | None:
        """What to tell the master, if that has changed enough to matter.

        Args:
            queued: how many tasks are in no child yet.
            resting: whether this host has no room for a process, and nothing is wanted for that.
        """
        self.review = None
        each = self._durations.held({next(iter(child.running.values())).measure for child in children if child.busy})
        places = self._slots * self._threads
        nearly_free = self._about_to_end(children, queued, now) if each <= _FEW else 0
        # Of tasks of which a slot has but one, the next one is asked for when that is about to end.
        target = places * each if each > 1 else places + nearly_free
        held = queued + sum(child.leases for child in children if not child.lending)
        want = 0 if resting else max(0, target - held)
        change = abs(want - max(0, self._limit - self._granted))
        # A small change is only worth a message while each slot has more than the task it runs.
        if not change or (want and each > 1 and 4 * change < target):
            return None
        self._limit = self._granted + want
        return self._limit

    def _about_to_end(self, children: Collection[Child], queued: int, now: float) -> int:
        """How many tasks end within the holding time, by the durations of their functions; sets when that changes."""
        count = 0
        reviews: list[float] = []
        for end in (end for child in children for end in child.ends(self._threads)):
            if now < end - HOLD_SECONDS:
                reviews.append(end - HOLD_SECONDS)
            elif now < end + STUCK_SECONDS:
                count += 1
                # Then something is handed ahead. One that goes on for longer is as good as one not measured.
                may_hand = queued and now < end - CHILD_SECONDS
                reviews.append(end - CHILD_SECONDS if may_hand else end + STUCK_SECONDS)
        self.review = min(reviews, default=None)
        return count

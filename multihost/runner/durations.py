"""How long tasks take, by their functions, and how many of them to hold for that."""

from collections.abc import Iterable

# How much work a worker holds, by the measured time of the functions: enough to hide the way to the master, little
# enough that no other worker idles while tasks wait here.
HOLD_SECONDS = 0.020
# How much of it lies in a child's pipe, where it cannot be taken back any more.
CHILD_SECONDS = 0.004
# Tasks that have not started after so long behind others go back to the master.
STUCK_SECONDS = 0.050
MAX_HELD = 4096
# Behind what runs for longer than it was expected to, nothing else is to wait.
LONG_SECONDS = HOLD_SECONDS
# The last task counts for so much, 1 / 8, in the mean; one that was much longer, for half: until the mean has followed,
# the next ones come too early to wait here, and then too late.
_SHARE, _LONGER_SHARE = 8, 2
_LEAST_SECONDS = 1e-7

Measure = tuple[str, bool]  # id of the function, whether chunks of it


class Durations:
    """Running means, in seconds, of what was measured alike."""

    def __init__(self) -> None:
        self._means: dict[Measure, float] = {}
        self._recent: Measure = ("", False)  # as what the task that ended last was measured

    def note(self, measure: Measure, seconds: float) -> None:
        """A task has ended, which took so long."""
        self._recent = measure
        mean = self._means.setdefault(measure, seconds)
        self._means[measure] = mean + (seconds - mean) / (_LONGER_SHARE if seconds > 2 * mean else _SHARE)

    def note_late(self, measure: Measure) -> None:
        """A task goes on for longer than it was expected to."""
        self._means[measure] = max(self._means.get(measure, 0.0), LONG_SECONDS)

    def get(self, measure: Measure) -> float | None:
        """None: it is not known."""
        return self._means.get(measure)

    def forget(self, function_id: str) -> None:
        for chunk in (False, True):
            self._means.pop((function_id, chunk), None)

    def clear(self) -> None:
        self._means.clear()

    def held(self, running: Iterable[Measure]) -> int:
        """How many tasks to hold for each place: what it ends soon, by the slowest function that runs or ran last."""
        means = [self._means.get(measure) for measure in [*running] or [self._recent]]
        if None in means:
            return 1
        return _fitting(HOLD_SECONDS, max(mean for mean in means if mean is not None))

    def in_pipe(self, measure: Measure) -> int:
        """How many tasks like that a child may have for each place, running and in its pipe."""
        mean = self._means.get(measure)
        return 1 if mean is None else _fitting(CHILD_SECONDS, mean)


def _fitting(seconds: float, each: float) -> int:
    return max(1, min(MAX_HELD, int(seconds / max(each, _LEAST_SECONDS))))

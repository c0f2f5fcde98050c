"""How long things took: a histogram on a logarithmic scale, in a kilobyte whatever it has counted."""

from math import frexp

# Each bucket ends at twice the seconds of the one before: from a microsecond to half a year, and the last one beyond.
_LEAST_SECONDS = 2.0**-21
_FIRST, _BUCKETS = 20, 45


class Histogram:
    """Not for several threads at a time. Adding takes a sixth of a microsecond, so add what is alike at once."""

    __slots__ = ("_counts", "_sums", "max_seconds")

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self._sums = [0.0] * _BUCKETS  # seconds
        self.max_seconds = 0.0

    @property
    def count(self) -> int:
        return sum(self._counts)

    @property
    def sum_seconds(self) -> float:
        return sum(self._sums)

    def add(self, seconds: float, count: int = 1) -> None:
        """``count`` things took ``seconds`` each, which are not below zero."""
        bucket = frexp(seconds + _LEAST_SECONDS)[1] + _FIRST
        try:
            self._counts[bucket] += count
        except IndexError:
            bucket = -1
            self._counts[bucket] += count
        self._sums[bucket] += seconds * count
        if seconds > self.max_seconds:
            self.max_seconds = seconds

    def add_since(self, moments: list[float], now: float) -> None:
        """One thing began at each of these ``moments``, in seconds as ``now`` is, and all are over."""
        longest, shortest = now - min(moments), now - max(moments)
        if frexp(longest + _LEAST_SECONDS)[1] != frexp(shortest + _LEAST_SECONDS)[1]:
            for moment in moments:
                self.add(now - moment)
            return
        # Of those that come together this is the rule, and each costs a fraction of what ``add`` does.
        self.add(now - sum(moments) / len(moments), len(moments))
        self.max_seconds = max(self.max_seconds, longest)

    def merge(self, other: "Histogram") -> None:
        """Count what another one has counted, too."""
        self._counts = [ours + theirs for ours, theirs in zip(self._counts, other._counts, strict=True)]
        self._sums = [ours + theirs for ours, theirs in zip(self._sums, other._sums, strict=True)]
        self.max_seconds = max(self.max_seconds, other.max_seconds)

    def quantile(self, share: float) -> float:
        """About how long it took until that ``share`` was over: the mean of the bucket in which that was; 0.0 of none.

        Exact where all in the bucket are alike, and wrong by a factor of two at worst.
        """
        left = share * self.count
        for count, seconds in zip(self._counts, self._sums, strict=True):
            left -= count
            if count and left <= 0:
                return seconds / count
        return self.max_seconds

    def plain(self) -> dict[str, float]:
        """What is told of it; ``Times`` has the same fields."""
        count, seconds = self.count, self.sum_seconds
        return {
            "count": count,
            "sum_seconds": seconds,
            "mean_seconds": seconds / count if count else 0.0,
            "p50_seconds": self.quantile(0.5),
            "p99_seconds": self.quantile(0.99),
            "max_seconds": self.max_seconds,
        }

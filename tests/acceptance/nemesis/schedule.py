"""Which faults fall when: a pure function of the seed."""

import random
from dataclasses import dataclass

# How long a fault of each kind lasts before it is mended, in seconds: the least and the most. Workers hold leases of
# 3 s here, so that some freeze or are cut off for longer than that, and some are not.
KINDS: dict[str, tuple[float, float]] = {
    "kill worker": (0.0, 3.0),
    "kill worker's program": (0.0, 0.0),  # the engine starts it again
    "pause worker": (0.5, 8.0),
    "cut off worker": (0.5, 8.0),
    "drain worker": (0.0, 3.0),
    "kill master": (0.0, 4.0),
    "kill master's program": (0.0, 0.0),
    "pause master": (0.5, 5.0),
    "scale up": (0.0, 0.0),
    "scale down": (0.0, 0.0),
}
_SECONDS_BETWEEN = 3.0  # from one fault to the next, on average


@dataclass(frozen=True)
class Fault:
    """What breaks, how many seconds after the beginning, and for how long."""

    at: float
    kind: str
    lasts: float
    pick: float  # from 0 up to 1: which of those that it can fall on


def schedule(seed: int, seconds: float) -> list[Fault]:
    """The faults of a run of so many seconds, in the order of their times: each kind at least once, then any."""
    chance = random.Random(seed)
    count = max(len(KINDS), int(seconds / _SECONDS_BETWEEN))
    kinds = chance.sample([*KINDS], len(KINDS)) + chance.choices([*KINDS], k=count - len(KINDS))
    return [
        Fault((place + chance.random()) * seconds / count, kind, chance.uniform(*KINDS[kind]), chance.random())
        for place, kind in enumerate(kinds)
    ]

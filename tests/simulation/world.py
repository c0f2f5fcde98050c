"""Virtual time: a queue of events, hosts that can freeze, processes that can die, and one source of chance.

Nothing here waits: time jumps to the next event. Whatever is to happen by chance draws from ``World.chance``, so one
seed is one history, to the last step.
"""

import heapq
import random
from collections.abc import Callable
from typing import Any, NamedTuple

LARGE_BYTES = 1  # what is as large as that goes when it is no longer used
START = 1000.0


class Event(NamedTuple):
    at: float
    order: int  # what is due at the same time happens in the order in which it was planned
    process: "Process"
    call: Callable[..., None]
    args: tuple[Any, ...]


class Process:
    """What happens in it happens only while it lives."""

    def __init__(self, host: "Host", name: str) -> None:
        self.host = host
        self.name = name
        self.alive = True


class Host:
    """A container or machine. While it is frozen, what is due in it waits."""

    def __init__(self, name: str, latency: tuple[float, float]) -> None:
        self.name = name
        self.latency = latency  # seconds on the way to the master and back, from and to
        self.off = False  # without power: what arrives is not even refused
        self.frozen = False
        self.held: list[Event] = []
        # Partitions in force; several may overlap.
        self.deaf = 0  # nothing comes from the master
        self.mute = 0  # nothing gets to the master
        self.kernel = Process(self, f"{name}/kernel")  # what arrives for the host's processes


class World:
    """See the module."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now = START
        self.steps = 0
        self.trace: list[tuple[object, ...]] = []  # (time, who, what, more)
        self._events: list[Event] = []
        self._order = 0
        self.outside = Process(Host("outside", (0.0, 0.0)), "outside")  # the nemesis and the programs' schedules

    def at(self, when: float, process: Process, call: Callable[..., None], *args: Any) -> None:
        self._order += 1
        heapq.heappush(self._events, Event(max(when, self.now), self._order, process, call, args))

    def after(self, seconds: float, process: Process, call: Callable[..., None], *args: Any) -> None:
        self.at(self.now + seconds, process, call, *args)

    def soon(self, most: float) -> float:
        """A random moment within so many seconds from now."""
        return self.now + most * self.chance.random()

    def likely(self, probability: float) -> bool:
        return self.chance.random() < probability

    def note(self, who: str, what: str, *more: object) -> None:
        """A line of the trace."""
        self.trace.append((round(self.now, 6), who, what, *more))

    def step(self) -> None:
        """Let the next event happen."""
        event = heapq.heappop(self._events)
        self.now = event.at
        self.steps += 1
        host = event.process.host
        if not event.process.alive:
            return
        if host.frozen:
            host.held.append(event)
        else:
            event.call(*event.args)

    def freeze(self, host: Host) -> None:
        host.frozen = True

    def thaw(self, host: Host) -> None:
        """Let what was held happen now: first what has come through the network, as a loop reads before it acts."""
        host.frozen = False
        held, host.held = host.held, []
        for event in sorted(held, key=lambda event: event.process is not host.kernel):
            self.at(self.now, event.process, event.call, *event.args)

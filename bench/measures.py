"""What is measured: each function takes a running system and an effort, and gives named figures.

They run in the process of the system's client. How many tasks a round has is found by trying, so that each system gets
a round of about the same length; a first execution, which is not counted, warms up all the processes.
"""

import contextlib
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import processes
import work
from system import Function, System

LARGE_BYTES = 10_000_000
SLEEPS = (0.001, 0.01, 0.1)
DURATIONS = (0.0, 10e-6, 100e-6, 1e-3, 10e-3)
SCALING_SLEEP = 0.01
_SLEEPS_EACH = 20  # of a worker, at least: what the first task's way there and the last one's back cost is not meant
_FIRST_TASKS = 50
_FIRST_LARGE = 8  # rounds of large payloads
_ITEMS_PER_CHUNK = 25  # a map in chunks may have so many more items than there may be tasks
_SETTLED_SECONDS, _SETTLED_LOOKS, _SETTLING_SECONDS = 0.1, 4, 15.0
_GATE_SECONDS, _MOST_AT_GATE = 2.0, 8

Figures = dict[str, float]


@dataclass
class Effort:
    """How much to do, and what is already known of the system in this process."""

    seconds: float  # of one measurement, about
    most_tasks: int
    large: int = 16  # large payloads in one measurement
    tried: dict[str, int] = field(default_factory=dict)  # measurement -> number of tasks

    def tasks(
        self, name: str, run: Callable[[int], float], multiple: int = 1, least: int = 0, most: int | None = None
    ) -> int:
        """How many tasks take about ``seconds``, found by running ever more of them, once: it is the warm-up, too."""
        if name not in self.tried:
            most = most or self.most_tasks
            count = min(_FIRST_TASKS, most)
            while True:
                rate = run(count) + 1e-9
                fitting = int(min(most, rate * self.seconds))
                if fitting <= 2 * count:
                    break
                count = min(fitting, 20 * count)
            self.tried[name] = max(least, multiple, fitting - fitting % multiple)
        return self.tried[name]


def one_by_one(system: System, effort: Effort) -> Figures:
    """Tasks a second of calls in a loop until all results are back, and the CPU time that a task takes, by role."""

    def run(count: int) -> float:
        begun = time.perf_counter()
        results = system.collect([system.submit(work.square, x) for x in range(count)])
        seconds = time.perf_counter() - begun
        assert results == [x * x for x in range(count)]
        return count / seconds

    count = effort.tasks("one by one", run)
    used = _Growth(system.roles(), processes.cpu_seconds)
    rate = run(count)
    cpu = {f"cpu {role}, µs": seconds / count * 1e6 for role, seconds in used.by_role(system.roles()).items()}
    return {"one by one": rate, **cpu}


def mapped(system: System, effort: Effort) -> Figures:
    """Tasks a second of a map whose every item travels alone."""
    return {"map chunksize=1": _map_rate(system, effort, "map chunksize=1", 1, effort.most_tasks)}


def mapped_in_chunks(system: System, effort: Effort) -> Figures:
    """Tasks a second of a map whose chunks the system chooses."""
    most = effort.most_tasks * _ITEMS_PER_CHUNK
    return {"map default chunks": _map_rate(system, effort, "map default chunks", None, most)}


def round_trip(system: System, effort: Effort) -> Figures:
    """Microseconds of one call, the next one begun when its result is there."""
    times: list[float] = []

    def run(count: int) -> float:
        times.clear()
        for x in range(count):
            begun = time.perf_counter()
            system.collect([system.submit(work.square, x)])
            times.append((time.perf_counter() - begun) * 1e6)
        return count / sum(times) * 1e6

    run(effort.tasks("round trip", run))
    return {"round trip p50": statistics.median(times), "round trip p99": sorted(times)[len(times) * 99 // 100]}


def sleeps(system: System, effort: Effort) -> Figures:
    """Of the time that all workers had, the part that was spent in tasks: 1 would be no overhead at all."""
    least = _SLEEPS_EACH * system.workers
    return {
        f"sleep {seconds * 1000:g} ms": _rate_of(system, effort, work.sleep, seconds, least) * seconds / system.workers
        for seconds in SLEEPS
    }


def durations(system: System, effort: Effort) -> Figures:
    """Tasks a second, by how long each keeps a core busy."""
    return {f"spin {seconds * 1e6:g} µs": _rate_of(system, effort, work.spin, seconds) for seconds in DURATIONS}


def scaling(system: System, effort: Effort) -> Figures:
    """Tasks a second with this number of workers: of tasks that sleep, and of empty ones."""
    number = system.workers
    sleeping = _rate_of(system, effort, work.sleep, SCALING_SLEEP)
    return {
        f"{number} workers, sleep 10 ms": sleeping,
        f"{number} workers, empty": _rate_of(system, effort, work.spin, 0.0),
    }


def large_argument(system: System, effort: Effort) -> Figures:
    """MB/s of arguments of 10 MB, each with a content of its own."""
    contents = [os.urandom(16) * (LARGE_BYTES // 16) for _ in range(effort.large)]

    def run() -> float:
        begun = time.perf_counter()
        assert system.collect([system.submit(work.length, c) for c in contents]) == [LARGE_BYTES] * len(contents)
        return len(contents) * LARGE_BYTES / 1e6 / (time.perf_counter() - begun)

    return _large_rate("10 MB argument", effort, run)


def large_result(system: System, effort: Effort) -> Figures:
    """MB/s of results of 10 MB."""

    def run() -> float:
        begun = time.perf_counter()
        results = system.collect([system.submit(work.content, LARGE_BYTES) for _ in range(effort.large)])
        seconds = time.perf_counter() - begun
        assert [len(result) for result in results] == [LARGE_BYTES] * effort.large
        return effort.large * LARGE_BYTES / 1e6 / seconds

    return _large_rate("10 MB result", effort, run)


def queued(system: System, effort: Effort) -> Figures:
    """Bytes that a waiting task takes in the client and in what stands between, while all workers are busy."""
    for _ in range(2):  # no more: what the warm-up has freed would be used again, and count for nothing
        rate = _rate(system, work.square, itertools.repeat(1, _FIRST_TASKS))
    count = min(effort.most_tasks, max(_FIRST_TASKS, int(rate * effort.seconds)))
    with _gate(system):
        memory = _Growth(system.roles(), processes.private_bytes)
        handles = [system.submit(work.square, x) for x in range(10_000, 10_000 + count)]
        system.flush()
        grown = _settled(lambda: memory.by_role(system.roles()))
    system.collect(handles)
    return {f"queued {role}": grown[role] / count for role in ("client", "master")}


def fairness(system: System, effort: Effort) -> Figures:
    """Seconds by which tasks of 1 ms were overtaken by later ones, because of a long one among them."""
    count, long = effort.most_tasks // 2, 10 * effort.seconds
    system.collect([system.submit(work.stamped_sleep, 0.001) for _ in range(_FIRST_TASKS)])
    begun = time.monotonic()
    handles = [system.submit(work.stamped_sleep, 0.001) for _ in range(count // 2)]
    handles.append(system.submit(work.stamped_sleep, long))
    handles += [system.submit(work.stamped_sleep, 0.001) for _ in range(count - count // 2)]
    starts = [start for start, _ in system.collect(handles)]
    return {"overtaken, s": max(overtaken(starts)), "fairness total, s": time.monotonic() - begun}


def overtaken(starts: list[float]) -> list[float]:
    """How long after a task that was submitted later each one began; 0 where none did before it."""
    delays, earliest = [], float("inf")
    for start in reversed(starts):
        delays.append(max(0.0, start - earliest))
        earliest = min(earliest, start)
    return delays[::-1]


# Needs a system in which nothing has been run: what was freed is used again, so memory would not seem to be taken.
FRESH = frozenset({"queued"})
MEASURES: dict[str, Callable[[System, Effort], Figures]] = {
    "one by one": one_by_one,
    "map chunksize=1": mapped,
    "map default chunks": mapped_in_chunks,
    "round trip": round_trip,
    "sleeps": sleeps,
    "10 MB argument": large_argument,
    "10 MB result": large_result,
    "queued": queued,
    "durations": durations,
    "scaling": scaling,
    "fairness": fairness,
}


def _large_rate(name: str, effort: Effort, run: Callable[[], float]) -> Figures:
    """What ``run`` gives behind a warm-up, which takes longer the first time: then memory is new to the machine."""
    for _ in range(1 if name in effort.tried else _FIRST_LARGE):
        run()
    effort.tried[name] = effort.large
    return {name: run()}


def _rate(system: System, function: Function, arguments: Iterator[Any]) -> float:
    begun = time.perf_counter()
    results = system.collect([system.submit(function, argument) for argument in arguments])
    return len(results) / (time.perf_counter() - begun)


def _rate_of(system: System, effort: Effort, function: Function, seconds: float, least: int = 0) -> float:
    """Tasks a second of ``function(seconds)``, submitted one by one."""

    def run(count: int) -> float:
        return _rate(system, function, itertools.repeat(seconds, count))

    return run(effort.tasks(f"{function.__name__} {seconds}", run, system.workers, least))


def _map_rate(system: System, effort: Effort, name: str, chunksize: int | None, most: int) -> float:
    def run(count: int) -> float:
        begun = time.perf_counter()
        results = system.map(work.square, range(count), chunksize)
        seconds = time.perf_counter() - begun
        assert results == [x * x for x in range(count)]
        return count / seconds

    return run(effort.tasks(name, run, most=most))


class _Growth:
    """How much more of something the processes of each role have than before; who has ended counts as nothing."""

    def __init__(self, roles: dict[str, list[int]], of: Callable[[int], float]) -> None:
        self._of = of
        self._before = {pid: of(pid) for pids in roles.values() for pid in pids}

    def by_role(self, roles: dict[str, list[int]]) -> dict[str, float]:
        return {role: sum(self._since(pid) for pid in pids) for role, pids in roles.items()}

    def _since(self, pid: int) -> float:
        return self._of(pid) - self._before.get(pid, 0.0)


@contextlib.contextmanager
def _gate(system: System) -> Iterator[None]:
    """Keeps every worker busy until the end of the block."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        held: list[Any] = []
        try:
            while len(list(directory.glob("begun-*"))) < system.workers:
                # More than there are workers: some systems give a worker two before another one has any.
                if len(held) == _MOST_AT_GATE * system.workers:
                    raise TimeoutError("not every worker took a task")
                held += [system.submit(work.wait_at_gate, name) for _ in range(system.workers)]
                system.flush()
                _wait(lambda: len(list(directory.glob("begun-*"))) >= system.workers, _GATE_SECONDS)
            yield
        finally:
            (directory / "open").touch()
            system.collect(held)


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


def _settled(grown: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What has grown, once it stays as it is: what is sent in the background is then where it belongs."""
    deadline = time.monotonic() + _SETTLING_SECONDS
    sizes = [grown()]
    while len(sizes) < _SETTLED_LOOKS or sizes[-1] != sizes[-_SETTLED_LOOKS]:
        if time.monotonic() > deadline:
            break
        time.sleep(_SETTLED_SECONDS)
        sizes.append(grown())
    return sizes[-1]

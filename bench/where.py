"""Where the microseconds of a task are: CPU time by process and thread, and the functions that take most of it.

    python bench/where.py [--tasks N] [--top N] [--journal memory|normal|full]

First without a profiler, for the times; then with one, for the names: it makes small functions look dear, so read its
order, not its figures.
"""

import argparse
import os
import pstats
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, NamedTuple

import multihost
import processes
import work
from cluster import Cluster

_LONGER = 2  # times
_WAITING = frozenset(
    f"<method '{name}' of '{kind}' objects>"
    for name, kind in (("acquire", "_thread.lock"), ("poll", "select.poll"), ("poll", "select.epoll"))
)


class Use(NamedTuple):
    """What a function takes, without those it calls."""

    function: str
    microseconds: float
    calls: float

    def less(self, other: "Use", tasks: float) -> "Use":
        """The difference, for each of so many tasks."""
        return Use(self.function, (self.microseconds - other.microseconds) / tasks, (self.calls - other.calls) / tasks)

    def __str__(self) -> str:
        return f"{self.function} {self.microseconds:.1f} ({self.calls:.2g} calls)"


Workload = Callable[[multihost.Pool, int], None]


def one_by_one(pool: multihost.Pool, tasks: int) -> None:
    for result in [pool.apply_async(work.square, (x,)) for x in range(tasks)]:
        result.get()


def mapped(pool: multihost.Pool, tasks: int) -> None:
    pool.map(work.square, range(tasks), chunksize=1)


def round_trips(pool: multihost.Pool, tasks: int) -> None:
    for x in range(tasks // 10):
        pool.apply(work.square, (x,))


WORKLOADS: dict[str, tuple[Workload, int]] = {  # and how many tasks it has for each of those asked for, inverted
    "one by one": (one_by_one, 1),
    "map chunksize=1": (mapped, 1),
    "round trip": (round_trips, 10),
}


def times(workload: Workload, tasks: int, share: int, journal: str) -> dict[str, float]:
    """Microseconds of a task: elapsed, and CPU time of each process and of the client's two threads."""
    with Cluster(2, journal) as cluster, multihost.Pool(address=cluster.address.pair, authkey=cluster.authkey) as pool:
        workload(pool, tasks)  # the warm-up
        before, begun = _spent(cluster), time.perf_counter()
        workload(pool, tasks)
        elapsed, after = time.perf_counter() - begun, _spent(cluster)
    spent = {name: after[name] - seconds for name, seconds in before.items()}
    return {name: seconds / (tasks / share) * 1e6 for name, seconds in {"elapsed": elapsed, **spent}.items()}


def _spent(cluster: Cluster) -> dict[str, float]:
    (master,), (worker, *others) = cluster.roles().values()
    own = processes.cpu_seconds(os.getpid())
    caller = time.thread_time()
    return {
        "client, caller": caller,
        "client, receiver": own - caller,
        "master": processes.cpu_seconds(master),
        "worker": processes.cpu_seconds(worker),
        "children": sum(map(processes.cpu_seconds, others)),
    }


def names(workload: Workload, tasks: int, share: int, journal: str, top: int) -> dict[str, list[Use]]:
    """Process or thread -> its functions that take most.

    What starting and stopping cost is in a short run as well as in a long one, so their difference is free of it.
    """
    short, long = (_profiles(workload, tasks, times, journal) for times in (1, 1 + _LONGER))
    count = tasks / share * _LONGER
    found = {}
    for who, uses in long.items():
        before = {use.function: use for use in short[who]}
        grown = [use.less(before.get(use.function, Use("", 0.0, 0.0)), count) for use in uses]
        ranked = sorted(grown, key=lambda use: -use.microseconds)
        found[who] = [use for use in ranked if use.function not in _WAITING][:top]
    return found


def _profiles(workload: Workload, tasks: int, times: int, journal: str) -> dict[str, list[Use]]:
    """Process or thread -> its functions, in a whole run."""
    with tempfile.TemporaryDirectory() as name:
        with profiled_threads() as receivers, Cluster(2, journal, profiles=Path(name)) as cluster:
            pool = multihost.Pool(address=cluster.address.pair, authkey=cluster.authkey)
            caller = ThreadProfile()
            for _ in range(times):
                caller.enable()
                workload(pool, tasks)
                sys.setprofile(None)
            pool.terminate()
        found = {"client, caller": caller.uses(), "client, receiver": receivers[0].uses()}
        found |= {file.stem: _uses(pstats.Stats(str(file))) for file in sorted(Path(name).iterdir())}
    return found


class ThreadProfile:
    """Own time and calls of each function in one thread: since Python 3.12, cProfile counts all threads as one."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._calls: dict[str, int] = {}
        self._stack: list[str] = []
        self._since = 0.0

    def enable(self) -> None:
        """Count what this thread calls from now on, until ``sys.setprofile(None)``."""
        self._stack.clear()
        sys.setprofile(self._count)

    def uses(self) -> list[Use]:
        return [Use(name, self._seconds.get(name, 0.0) * 1e6, calls) for name, calls in self._calls.items()]

    def _count(self, frame: FrameType, event: str, argument: Any) -> None:
        now = time.perf_counter()
        if self._stack:
            running = self._stack[-1]
            self._seconds[running] = self._seconds.get(running, 0.0) + now - self._since
        if event in ("call", "c_call"):
            code = frame.f_code
            builtin = event == "c_call"
            name = _builtin(argument) if builtin else _name(code.co_filename, code.co_firstlineno, code.co_name)
            self._calls[name] = self._calls.get(name, 0) + 1
            self._stack.append(name)
        elif self._stack:  # else it is of a call that was begun before
            self._stack.pop()
        self._since = time.perf_counter()


def _builtin(function: Any) -> str:
    """The name that cProfile gives what is not written in Python."""
    owner = getattr(function, "__self__", None)
    if owner is None or isinstance(owner, ModuleType):
        return f"<built-in method {function.__module__}.{function.__name__}>"
    kind = type(owner)
    place = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"<method '{function.__name__}' of '{place}{kind.__qualname__}' objects>"


@contextmanager
def profiled_threads() -> Iterator[list[ThreadProfile]]:
    """Profiles each thread that is started in the block; to be read when the threads have ended."""
    profiles: list[ThreadProfile] = []

    def begin(frame: object, event: str, argument: object) -> None:
        profiles.append(ThreadProfile())
        profiles[-1].enable()  # takes the place of this function, in this thread

    threading.setprofile(begin)
    try:
        yield profiles
    finally:
        threading.setprofile(None)


def _uses(stats: pstats.Stats) -> list[Use]:
    raw: dict[tuple[str, int, str], tuple[int, int, float, float, object]] = stats.stats  # type: ignore[attr-defined]
    return [Use(_name(*function), row[2] * 1e6, row[1]) for function, row in raw.items()]


def _name(file: str, line: int, function: str) -> str:
    path = Path(file)
    return function if file == "~" else f"{path.parent.name}/{path.name}:{line} {function}"


def main() -> None:
    """Print a table and lists."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10_000, help="of a workload; round trips: a tenth (default 10000)")
    parser.add_argument("--top", type=int, default=8, help="functions to name (default 8)")
    parser.add_argument("--journal", default="normal", help="memory, normal or full (default normal)")
    arguments = parser.parse_args()
    tasks, journal = arguments.tasks, arguments.journal
    measured = {name: times(workload, tasks, share, journal) for name, (workload, share) in WORKLOADS.items()}
    columns = list(next(iter(measured.values())))
    print(f"| µs a task | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for name, row in measured.items():
        print(f"| {name} | {' | '.join(f'{row[column]:.1f}' for column in columns)} |")
    for name, (workload, share) in WORKLOADS.items():
        for who, functions in names(workload, tasks, share, journal, arguments.top).items():
            print(f"\n{name}, {who}: {', '.join(map(str, functions))}")


if __name__ == "__main__":
    main()

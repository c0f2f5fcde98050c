"""What no comparison shows: many workers, long queues, large values, fairness, and what a cluster costs at rest.

python bench/scale.py [--only NAME,NAME] [--queue N] [--rounds N] [--json FILE]
"""

import argparse
import collections
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO
from unittest import mock

import multihost
import processes
import programs
import work
from cluster import Cluster
from counting_proxy import CountingProxy
from goals import scale_row
from light import REPORT
from machine import machine
from measures import LARGE_BYTES, Effort, fairness
from multihost.client import session
from multihost.client.core import ClientCore
from multihost.client.values import AT_ONCE_BYTES
from peers import local_pool, multihost_cluster
from system import System

FEW_WORKERS, MANY_WORKERS, IDLE_WORKERS = 2, 100, 1000
_WINDOW = 64  # tasks that a light worker holds
_MANY_TASKS, _REPEATS, _IN_FLIGHT = 20_000, 200, 16
_LEASED = 4 * REPORT  # from the head of the queue: of fewer, a pause of the machine's would be all that is seen
_IDLE_SECONDS = 10.0
_SMALL_VALUE, _LARGE_VALUE = 1_000_000, 100_000_000
_ONCE_VALUE, _ONCE, _ONCE_IN_FLIGHT = 50_000_000, 50, 4
_IMPORTS = 10

Figures = dict[str, float]


def many_workers(rounds: int, queue: int) -> Figures:
    """Tasks a second with few workers and with many, one by one."""
    rates: dict[int, list[float]] = {FEW_WORKERS: [], MANY_WORKERS: []}
    for number in [*rates] * rounds:
        with Cluster(0, workers=0) as cluster, light_workers(cluster, number), pool_of(cluster) as pool:
            submitted(pool, MANY_WORKERS * _WINDOW)  # as many as all of them hold, so that each has had the code
            begun = time.perf_counter()
            submitted(pool, _MANY_TASKS)
            rates[number].append(_MANY_TASKS / (time.perf_counter() - begun))
    few, many = map(statistics.median, rates.values())
    return {
        f"{FEW_WORKERS} light workers, tasks/s": few,
        f"{MANY_WORKERS} light workers, tasks/s": many,
        "many / few": many / few,
    }


def idle_workers(rounds: int, queue: int) -> Figures:
    """What connected workers cost the master while there is nothing to do."""
    with Cluster(0, workers=0) as cluster:
        before = processes.resident_bytes(cluster.master.pid)
        with light_workers(cluster, IDLE_WORKERS):
            time.sleep(1.0)
            used, begun = processes.cpu_seconds(cluster.master.pid), time.monotonic()
            time.sleep(_IDLE_SECONDS)
            cpu = (processes.cpu_seconds(cluster.master.pid) - used) / (time.monotonic() - begun)
            after = processes.resident_bytes(cluster.master.pid)
    return {
        f"{IDLE_WORKERS} idle workers, % of a core": cpu * 100,
        f"{IDLE_WORKERS} idle workers, master's MB": after / 1e6,
        "without any worker, master's MB": before / 1e6,
    }


def long_queue(rounds: int, queue: int) -> Figures:
    """Tasks a second that are leased from a short queue and from a long one, and what a waiting task takes."""
    short, _, _ = _leased_from(_LEASED + REPORT)
    long, master, client = _leased_from(queue)
    return {
        f"leases/s, {_LEASED + REPORT:,} tasks in the queue": short,
        f"leases/s, {queue:,} tasks in the queue": long,
        "long / short": long / short,
        f"{queue:,} waiting: bytes a task in the master": master,
        f"{queue:,} waiting: bytes a task in the client": client,
    }


def repeated_value(rounds: int, queue: int) -> Figures:
    """How often one value leaves the client, and the master for each of two workers, when many tasks have it."""
    client, master = times_sent(_SMALL_VALUE, _REPEATS)
    size = _SMALL_VALUE
    if client < 3:  # else gigabytes would pile up in the master
        size = _LARGE_VALUE
        client, master = times_sent(size, _REPEATS)
    value = f"{size // 1_000_000} MB in {_REPEATS} tasks"
    return {f"{value}: times it left the client": client, f"{value}: times it left the master": master}


def values_once(rounds: int, queue: int) -> Figures:
    """What values cost that come but once, of a size that is shared at once, and if none were, in turns."""
    values = [os.urandom(1_000_000) * (_ONCE_VALUE // 1_000_000) for _ in range(_ONCE_IN_FLIGHT + 2)]
    thresholds = {"not shared": math.inf, "shared at once": AT_ONCE_BYTES}
    found: dict[str, list[Figures]] = {name: [] for name in thresholds}
    for name in [*thresholds] * rounds:
        core = partial(ClientCore, at_once_bytes=thresholds[name])
        with mock.patch.object(session, "ClientCore", core), Cluster(2) as cluster, pool_of(cluster) as pool:
            submitted(pool, 100)
            found[name].append(_each_once(cluster, pool, values))
    value = f"{_ONCE_VALUE // 1_000_000} MB, {_ONCE} times another"
    return {
        f"{value}, {name}: {figure}": statistics.median(row[figure] for row in rows)
        for name, rows in found.items()
        for figure in rows[0]
    }


def _each_once(cluster: Cluster, pool: multihost.Pool, values: list[bytes]) -> Figures:
    """A value comes again only when its last task has ended and it was let go of."""
    roles = {**cluster.roles(), "client": [os.getpid()]}

    def cpu_seconds() -> float:
        return sum(processes.cpu_seconds(pid) for pids in roles.values() for pid in pids)

    before, used, begun = processes.resident_bytes(cluster.master.pid), cpu_seconds(), time.perf_counter()
    under_way: collections.deque[multihost.AsyncResult[int]] = collections.deque()
    for number in range(_ONCE):
        if len(under_way) == _ONCE_IN_FLIGHT:
            under_way.popleft().get()
        under_way.append(pool.apply_async(work.length, (values[number % len(values)],)))
    while under_way:
        under_way.popleft().get()
    size = _ONCE * _ONCE_VALUE / 1e6
    grown = processes.peak_bytes(cluster.master.pid) - before
    return {
        "MB/s": size / (time.perf_counter() - begun),
        "CPU ms a MB": (cpu_seconds() - used) * 1e3 / size,
        "master's memory / payloads in flight": grown / _ONCE_IN_FLIGHT / _ONCE_VALUE,
    }


def in_flight(rounds: int, queue: int) -> Figures:
    """How much the master's memory grows, at most, for large payloads that are all under way at once."""
    figures = {}
    contents = [os.urandom(16) * (LARGE_BYTES // 16) for _ in range(_IN_FLIGHT)]
    for name, function, arguments in (
        ("arguments", work.length, contents),
        ("results", work.content, [LARGE_BYTES] * _IN_FLIGHT),
    ):
        with Cluster(2) as cluster, pool_of(cluster) as pool:
            submitted(pool, 100)
            before = processes.resident_bytes(cluster.master.pid)
            for result in [pool.apply_async(function, (argument,)) for argument in arguments]:
                result.get()
            grown = processes.peak_bytes(cluster.master.pid) - before
        figures[f"master's memory / {_IN_FLIGHT} {name} of 10 MB"] = grown / _IN_FLIGHT / LARGE_BYTES
    return figures


def fair(rounds: int, queue: int) -> Figures:
    """Seconds by which a task of 1 ms was overtaken, at most, with a task of 10 s among 10,000 on 2 slots."""
    systems: dict[str, Callable[[], System]] = {
        "multihost, 1 worker with 2 slots": lambda: multihost_cluster.Peer(2),
        "multihost, 2 workers with 1 slot": lambda: multihost_cluster.Peer(2, separate=True),
        "multiprocessing.Pool": lambda: local_pool.Peer(2),
    }
    figures: Figures = {}
    for name, start in systems.items():
        system = start()
        try:
            found = fairness(system, Effort(1.0, 20_000))
        finally:
            system.close()
        figures |= {f"{name}: {figure}": value for figure, value in found.items()}
    return figures


def imports(rounds: int, queue: int) -> Figures:
    """Seconds that ``import multihost`` adds to a program, with what a first look at its ``Pool`` loads."""

    def seconds(program: str) -> float:
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", program], check=True)
        return time.perf_counter() - begun

    programs.compile_sources()
    pairs = [(seconds("import multihost; multihost.Pool"), seconds("pass")) for _ in range(_IMPORTS)]
    return {"import multihost, s": statistics.median(ours - theirs for ours, theirs in pairs)}


SCALES: dict[str, Callable[[int, int], Figures]] = {
    "many workers": many_workers,
    "idle workers": idle_workers,
    "long queue": long_queue,
    "repeated value": repeated_value,
    "values once": values_once,
    "in flight": in_flight,
    "fairness": fair,
    "import": imports,
}


def pool_of(cluster: Cluster) -> multihost.Pool:
    """A pool of this cluster."""
    return multihost.Pool(address=cluster.address.pair, authkey=cluster.authkey)


def submitted(pool: multihost.Pool, count: int) -> None:
    """That many tasks, one by one, until all results are there."""
    for result in [pool.apply_async(work.square, (x,)) for x in range(count)]:
        result.get()


@contextlib.contextmanager
def light_workers(cluster: Cluster, count: int) -> Iterator[IO[str]]:
    """Yields what they print, once all have joined."""
    command = [sys.executable, str(programs.BENCH / "light.py"), str(count), str(_WINDOW)]
    environ = {**os.environ, **cluster.settings, "PYTHONPATH": programs.IMPORTS}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            if process.stdout.readline() != "joined\n":
                raise RuntimeError("the light workers did not join")
            yield process.stdout
        finally:
            process.kill()


def times_sent(size: int, tasks: int) -> tuple[float, float]:
    """How often a value of ``size`` bytes left the client, and the master, in so many tasks on two workers."""
    value = os.urandom(size)
    with Cluster(0, workers=0) as cluster, contextlib.ExitStack() as stack:
        proxies = [CountingProxy(cluster.address) for _ in range(3)]
        for proxy in proxies:
            stack.callback(proxy.close)
        ours, *theirs = proxies
        for proxy in theirs:
            cluster.add_worker(1, proxy.address)
        programs.wait_until(lambda: len(cluster.statistics()["workers"]) == len(theirs), "the workers were there")
        with multihost.Pool(address=ours.address.pair, authkey=cluster.authkey) as pool:
            results = [pool.apply_async(work.length, (value,)) for _ in range(tasks)]
            assert {result.get() for result in results} == {size}
        return ours.forth / size, sum(proxy.back for proxy in theirs) / size


def _leased_from(queue: int) -> tuple[float, float, float]:
    """Leases a second at the head of a queue, and bytes a task in the master and in the client before."""
    with Cluster(0, workers=0) as cluster, pool_of(cluster) as pool:
        before = _memory(cluster)
        results = [pool.apply_async(work.square, (x,)) for x in range(queue)]
        programs.wait_until(lambda: cluster.statistics()["queued"] == queue, "all were accepted", 120.0)
        master, client = (after - size for after, size in zip(_memory(cluster), before, strict=True))
        with light_workers(cluster, 1) as lines:
            first, *_, last = (lines.readline().split() for _ in range(_LEASED // REPORT + 1))
        tasks, seconds = int(last[0]) - int(first[0]), float(last[1]) - float(first[1])
        del results
    return tasks / seconds, master / queue, client / queue


def _memory(cluster: Cluster) -> tuple[int, int]:
    return processes.private_bytes(cluster.master.pid), processes.private_bytes(os.getpid())


def main() -> None:
    """Print the figures as Markdown; write them as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAMES", help=f"of {', '.join(SCALES)}")
    parser.add_argument("--queue", type=int, default=1_000_000, help="tasks in the long queue (default 1000000)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of what is compared (default 3)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    arguments = parser.parse_args()
    where, run = machine(), {}
    print("| what | figure | wanted | met |\n|---|---|---|---|", flush=True)
    for name in arguments.only.split(",") if arguments.only else SCALES:
        run[name] = SCALES[name](arguments.rounds, arguments.queue)
        for figure, value in run[name].items():
            print(scale_row(figure, value), flush=True)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({**where, "figures": run}, indent=1) + "\n")


if __name__ == "__main__":
    main()

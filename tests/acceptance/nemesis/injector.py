"""Lets the faults of a schedule fall on a cluster in containers, each in its time, and mends them.

Each fault has a thread of its own, for some take the engine a while. At most one at a time falls on a container; one
that finds none that is whole waits for a while, and is skipped then.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import docker

from tests.acceptance.cluster import Cluster, in_container
from tests.acceptance.nemesis.checker import History, Injected
from tests.acceptance.nemesis.schedule import Fault

# Longer than a worker's drain may take here; the engine kills it then.
_STOP_SECONDS = 20
# The most that all of the faults under way may take to end; that a fault waits for what it can fall on; that the engine
# takes to start a program again.
_END_SECONDS = 90.0
_WAIT_SECONDS = 20.0
_RESTART_SECONDS = 20.0
_POLL_SECONDS = 0.1
# Scaling down leaves so many, and scaling up brings at most so many beyond those of the beginning.
_FEWEST_WORKERS = 2
_MORE_WORKERS = 2
# The program itself: the one child of the container's init.
_KILL_PROGRAM = "kill -KILL $(cat /proc/1/task/1/children)"


class Injector:
    """Begins with ``start``; ``finish`` waits for the last fault and leaves nothing broken."""

    def __init__(self, cluster: Cluster, faults: list[Fault], workers: int, history: History) -> None:
        self._cluster, self._faults, self._history = cluster, faults, history
        self._workers = workers
        self._changed = threading.Condition()
        self._busy: set[str] = set()  # names of containers under a fault
        self._scaling = False
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._scheduler = threading.Thread(target=self._run, name="nemesis", daemon=True)
        self.errors: list[BaseException] = []  # of the engine, mostly: the run is void then
        self._began = 0.0
        self._kinds: dict[str, Callable[[Fault], None]] = {
            "kill worker": self._kill_worker,
            "kill worker's program": self._kill_program_of_worker,
            "pause worker": self._pause_worker,
            "cut off worker": self._cut_off_worker,
            "drain worker": self._drain_worker,
            "kill master": self._kill_master,
            "kill master's program": self._kill_program_of_master,
            "pause master": self._pause_master,
            "scale up": self._scale_up,
            "scale down": self._scale_down,
        }

    def start(self) -> None:
        self._began = time.monotonic()
        self._scheduler.start()

    def finish(self) -> None:
        """Wait until all have fallen, mend those that last, and have as many workers as at the beginning.

        Raises: TimeoutError, or what went wrong with the engine.
        """
        deadline = time.monotonic() + _END_SECONDS
        self._scheduler.join(_END_SECONDS)
        self._over.set()
        for thread in [self._scheduler, *self._threads]:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                raise TimeoutError(f"{thread.name} did not end within {_END_SECONDS:g} s")
        if self.errors:
            raise self.errors[0]
        if self._cluster.master.status == "exited":
            self._cluster.master.start()
        self._scale(self._workers)

    # --- in their time -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        for fault in self._faults:
            if self._over.wait(max(0.0, self._began + fault.at - time.monotonic())):
                return
            thread = threading.Thread(target=self._happen, args=(fault,), name=fault.kind, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _happen(self, fault: Fault) -> None:
        try:
            self._kinds[fault.kind](fault)
        except Exception as error:
            self.errors.append(error)
            self._over.set()

    def _note(self, fault: Fault, target: str) -> None:
        at = time.monotonic()
        self._history.faults.append(Injected(fault.kind, target, at))
        self._say(f"{fault.kind}: {target}, for {fault.lasts:.1f} s")

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:7.2f}  {text}", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def _one_of(self, service: str, fault: Fault) -> Iterator[Any]:
        """A container that runs and is under no fault, which is ours meanwhile; None: for a while there was none."""
        deadline = time.monotonic() + _WAIT_SECONDS
        with self._changed:
            while not (whole := self._whole(service)) and time.monotonic() < deadline:
                self._changed.wait(_POLL_SECONDS)
            chosen = whole[int(fault.pick * len(whole))] if whole else None
            if chosen is None:
                self._skip(fault)
            else:
                self._busy.add(chosen.name)
                self._note(fault, str(chosen.name))
        try:
            yield chosen
        finally:
            with self._changed:
                if chosen is not None:
                    self._busy.remove(chosen.name)
                self._changed.notify_all()

    def _whole(self, service: str) -> list[Any]:
        """What a fault may fall on now; under the lock."""
        if self._scaling and service == "worker":
            return []
        containers = self._cluster.containers(service)
        return [each for each in containers if each.status == "running" and each.name not in self._busy]

    def _skip(self, fault: Fault) -> None:
        self._history.skipped += 1
        self._say(f"{fault.kind}: nothing to fall on")

    # --- faults ------------------------------------------------------------------------------------------------

    def _kill_worker(self, fault: Fault) -> None:
        self._kill("worker", fault)

    def _kill_master(self, fault: Fault) -> None:
        self._kill("master", fault)

    def _kill(self, service: str, fault: Fault) -> None:
        with self._one_of(service, fault) as container:
            if container is not None:
                container.kill()
                self._over.wait(fault.lasts)
                container.start()

    def _kill_program_of_worker(self, fault: Fault) -> None:
        self._kill_program("worker", fault)

    def _kill_program_of_master(self, fault: Fault) -> None:
        self._kill_program("master", fault)

    def _kill_program(self, service: str, fault: Fault) -> None:
        with self._one_of(service, fault) as container:
            if container is not None:
                restarts = _restarts(container)
                # With its program the container ends, and with the container the shell that does this.
                with contextlib.suppress(docker.errors.APIError):
                    in_container(container, "sh", "-c", _KILL_PROGRAM)
                deadline = time.monotonic() + _RESTART_SECONDS
                while time.monotonic() < deadline and not (_restarts(container) > restarts and _runs(container)):
                    time.sleep(_POLL_SECONDS)

    def _pause_worker(self, fault: Fault) -> None:
        self._pause("worker", fault)

    def _pause_master(self, fault: Fault) -> None:
        self._pause("master", fault)

    def _pause(self, service: str, fault: Fault) -> None:
        with self._one_of(service, fault) as container:
            if container is not None:
                container.pause()
                self._over.wait(fault.lasts)
                container.unpause()

    def _cut_off_worker(self, fault: Fault) -> None:
        with self._one_of("worker", fault) as container:
            if container is not None:
                network = self._cluster.engine.networks.get(f"{self._cluster.project}_cluster")
                network.disconnect(container)
                self._over.wait(fault.lasts)
                network.connect(container)

    def _drain_worker(self, fault: Fault) -> None:
        with self._one_of("worker", fault) as container:
            if container is not None:
                container.stop(timeout=_STOP_SECONDS)
                self._over.wait(fault.lasts)
                container.start()

    def _scale_up(self, fault: Fault) -> None:
        self._scale_by(1 + round(fault.pick), fault)

    def _scale_down(self, fault: Fault) -> None:
        self._scale_by(-1 - round(fault.pick), fault)

    def _scale_by(self, more: int, fault: Fault) -> None:
        """Change the number of workers while none of them is under a fault: compose knows nothing of paused ones."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._scaling, _WAIT_SECONDS):
                self._skip(fault)
                return
            self._scaling = True  # no fault on a worker begins from here on
            idle = self._changed.wait_for(lambda: not any("worker" in name for name in self._busy), _WAIT_SECONDS)
        try:
            now = len(self._cluster.containers("worker"))
            wanted = max(_FEWEST_WORKERS, min(now + more, self._workers + _MORE_WORKERS))
            if idle and wanted != now:
                self._note(fault, f"{now} to {wanted} workers")
                self._scale(wanted)
            else:
                self._skip(fault)
        finally:
            with self._changed:
                self._scaling = False
                self._changed.notify_all()

    def _scale(self, workers: int) -> None:
        """Whatever the master is at: compose does not touch it."""
        options = ("--detach", "--no-build", "--no-recreate", "--no-deps", "--scale", f"worker={workers}")
        self._cluster.compose("up", *options, "worker")


def _restarts(container: Any) -> int:
    container.reload()
    return int(container.attrs["RestartCount"])


def _runs(container: Any) -> bool:
    return bool(container.status == "running")

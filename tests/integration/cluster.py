"""A master and workers as real processes on loopback, with their logs in files: what the integration tests stand on.

Nothing here sleeps for a fixed time: ``wait_until`` polls a condition up to a deadline. Only processes started here are
ever signalled; all of them carry a mark in their environment, which their children inherit, so that ``close`` can tell
whether any is left.
"""

import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import multihost
from multihost.client.monitor import ask_statistics
from multihost.errors import MasterUnreachable
from multihost.settings import Address

ROOT = Path(__file__).resolve().parents[2]
MASTER, WORKER = ROOT / "master" / "task_master.py", ROOT / "worker" / "task_worker.py"

# Generous, for a machine under load: a wait ends as soon as its condition holds.
DEADLINE = 30.0
_POLL_SECONDS = 0.02
_MARK = "CLUSTER_OF_THE_TESTS"
_LOG_LINES_SHOWN = 120

T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str, timeout: float = DEADLINE) -> T:
    """The first true value of ``condition()``. Raises: TimeoutError, saying ``what`` did not happen."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"in {timeout:g} s it did not happen that {what}")
        time.sleep(_POLL_SECONDS)
    return value


def free_port() -> int:
    """A port of loopback on which nothing listens now."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


def clean_environ() -> dict[str, str]:
    """This process's environment without any setting of multihost."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MULTIHOST_")}


class Program:
    """A process started by a cluster, and the file with its standard output and error."""

    def __init__(self, name: str, command: list[str], environ: Mapping[str, str], cwd: Path, log: Path) -> None:
        self.name, self.log_file = name, log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command, env=dict(environ), cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def log(self) -> str:
        """What it has printed and logged so far."""
        return self.log_file.read_text(errors="replace")

    def wait_for_log(self, text: str, timeout: float = DEADLINE) -> str:
        """The log, once ``text`` is in it."""
        wait_until(lambda: text in self.log(), f"{self.name} logged {text!r}", timeout)
        return self.log()

    def wait(self, timeout: float = DEADLINE) -> int:
        """Its exit code, once it has ended."""
        return self.process.wait(timeout)

    def term(self) -> None:
        self.process.terminate()

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        self.process.kill()
        self.wait()

    def stop(self) -> None:
        """Freeze it, as a container is paused."""
        self.process.send_signal(signal.SIGSTOP)

    def cont(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Have it end, whatever state it is in."""
        if self.running:
            self.cont()
            self.term()
            try:
                self.wait()
            except subprocess.TimeoutExpired:
                self.kill()
                raise

    def descendants(self) -> list[int]:
        """The processes that descend from it."""
        parents = {}
        for pid in _all_pids():
            with contextlib.suppress(OSError):
                # The second field is the name in parentheses, which may contain anything; the fourth is the parent.
                parents[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        found = [self.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found[1:]


class Cluster:
    """A master at a port of its own, its workers, and the clients that run as programs.

    ``directory`` gets the logs; ``settings`` are MULTIHOST_* variables for all programs.
    """

    def __init__(self, directory: Path, **settings: str) -> None:
        self.directory = directory
        self.address = Address("127.0.0.1", free_port())
        self.authkey = secrets.token_hex(16)
        self.programs: list[Program] = []
        self.tracebacks_expected = False
        self._mark = secrets.token_hex(8)
        self._settings = settings
        self._pools: list[multihost.Pool] = []

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- what a test starts ------------------------------------------------------------------------------------

    def environ(self, **settings: str) -> dict[str, str]:
        """The environment in which a program finds this cluster."""
        ours = {
            "MULTIHOST_ADDRESS": str(self.address),
            "MULTIHOST_AUTHKEY": self.authkey,
            "MULTIHOST_CONNECT_TIMEOUT": "20",
            "PYTHONUNBUFFERED": "1",
            _MARK: self._mark,
        }
        merged = {**clean_environ(), **ours, **self._settings, **settings}
        return {name: value for name, value in merged.items() if value}

    def start(self, name: str, *command: str | Path, cwd: Path | None = None, **settings: str) -> Program:
        """Any program; ``settings`` go to its environment, an empty one removes the variable."""
        log = self.directory / f"{len(self.programs)}-{name}.log"
        program = Program(name, [str(part) for part in command], self.environ(**settings), cwd or self.directory, log)
        self.programs.append(program)
        return program

    def start_python(self, script: str | Path, *arguments: str, cwd: Path | None = None, **settings: str) -> Program:
        """A Python program, as ``start``."""
        return self.start(Path(script).stem, sys.executable, script, *arguments, cwd=cwd, **settings)

    def start_master(self, **settings: str) -> Program:
        """A master that serves; also again, on the same port."""
        master = self.start("master", sys.executable, MASTER, cwd=None, **settings)
        wait_until(lambda: self._answers() or not master.running, "the master answered")
        assert master.running, f"the master ended with {master.wait()}:\n{master.log()}"
        return master

    def start_worker(self, name: str = "w1", slots: int = 2, wait: bool = True, **settings: str) -> Program:
        """A worker, once it has joined."""
        settings = {"MULTIHOST_NAME": name, "MULTIHOST_SLOTS": str(slots), **settings}
        worker = self.start(name, sys.executable, WORKER, cwd=None, **settings)
        if wait:
            wait_until(lambda: self.worker(name) or not worker.running, f"worker {name} joined")
            assert worker.running, f"worker {name} ended with {worker.wait()}:\n{worker.log()}"
        return worker

    def run(self, *command: str | Path, cwd: Path | None = None, timeout: float = 60.0, **settings: str) -> str:
        """The output of a Python program that must succeed; ``command`` is what follows ``python``."""
        client = self.start("client", sys.executable, *command, cwd=cwd, **settings)
        code = client.wait(timeout)
        assert code == 0, f"{' '.join(map(str, command))} ended with {code}:\n{client.log()}"
        return client.log()

    def pool(self, processes: int | None = None) -> multihost.Pool:
        """A pool of this process; terminated by ``close`` if not before."""
        pool = multihost.Pool(processes, address=str(self.address), authkey=self.authkey)
        self._pools.append(pool)
        return pool

    # --- what a test asks --------------------------------------------------------------------------------------

    @property
    def master(self) -> Program:
        """The master that was started last."""
        return next(program for program in reversed(self.programs) if program.name == "master")

    def statistics(self) -> dict[str, Any]:
        return ask_statistics(self.address, self.authkey.encode())

    def worker(self, name: str) -> dict[str, Any] | None:
        """What the master says of a worker; None when it knows none of that name."""
        return next((worker for worker in self.statistics()["workers"] if worker["name"] == name), None)

    def wait_for(self, **counts: int) -> dict[str, Any]:
        """The master's statistics, once these figures are in them."""

        def found() -> dict[str, Any]:
            statistics = self.statistics()
            return statistics if all(statistics[name] == count for name, count in counts.items()) else {}

        return wait_until(found, f"the master counted {counts}")

    def logs(self) -> Iterator[tuple[str, str]]:
        """(title, last lines) of every program's log."""
        for program in self.programs:
            lines = program.log().splitlines()[-_LOG_LINES_SHOWN:]
            yield f"log of {program.log_file.name}", "\n".join(lines)

    # --- the end -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End everything.

        Raises: AssertionError: a program left an unhandled traceback in its log, or a process behind.
        """
        for pool in self._pools:
            pool.terminate()
        with contextlib.ExitStack() as ends:  # one that hangs keeps no other from its end
            for program in self.programs:
                ends.callback(program.end)
        try:
            wait_until(lambda: not self._left(), "every process of the cluster ended", 10.0)
        except TimeoutError:
            left = {pid: Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid in self._left()}
            for pid in left:
                os.kill(pid, signal.SIGKILL)  # ours: it carries our mark
            raise AssertionError(f"processes were left behind: {left}") from None
        if not self.tracebacks_expected:
            for program in self.programs:
                assert "Traceback (most recent call last)" not in program.log(), f"in the log of {program.name}"

    def _answers(self) -> bool:
        with contextlib.suppress(MasterUnreachable):
            self.statistics()
            return True
        return False

    def _left(self) -> list[int]:
        wanted = f"{_MARK}={self._mark}".encode()
        left = []
        for pid in _all_pids():
            with contextlib.suppress(OSError):
                if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    left.append(pid)
        return left


def _all_pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if re.fullmatch(r"\d+", entry)]

"""A cluster for benchmarks: a master and a worker in processes of their own, on loopback, started as users do."""

import contextlib
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import processes
import programs
from multihost.client.monitor import ask_statistics
from multihost.errors import MasterUnreachable
from multihost.settings import Address

ROOT = Path(__file__).resolve().parent.parent


class Cluster:
    """A master, and workers with so many slots each; up when constructed.

    Args:
        journal: ``memory``, or how the journal's directory is synced (``normal``, ``full``). The directory is beneath
            ``build/``, so on the disk of the checkout: a temporary one may be in memory.
        profiles: a directory for what cProfile finds in the master and in one worker; None: they run as they are.
    """

    def __init__(self, slots: int, journal: str = "normal", workers: int = 1, profiles: Path | None = None) -> None:
        self._profiles = profiles
        self.address = Address("127.0.0.1", programs.free_port())
        self.authkey = secrets.token_hex(16).encode()
        (ROOT / "build").mkdir(exist_ok=True)
        self._directory = Path(tempfile.mkdtemp(dir=ROOT / "build", prefix="bench-journal-"))
        self.settings = {
            "MULTIHOST_ADDRESS": str(self.address),
            "MULTIHOST_AUTHKEY": self.authkey.decode(),
            "MULTIHOST_LOG_LEVEL": "ERROR",
        }
        kept = {"MULTIHOST_JOURNAL": str(self._directory), "MULTIHOST_JOURNAL_SYNC": journal}
        self._of_master = {} if journal == "memory" else kept
        self.master = self._start("master/task_master.py", self._of_master)
        self._others: list[subprocess.Popen[bytes]] = []
        try:
            programs.wait_until(lambda: self._workers() is not None, "the master answered")
            for _ in range(workers):
                self.add_worker(slots)
            programs.wait_until(lambda: self._workers() == workers, "the workers were there")
        except BaseException:
            self.close()
            raise

    def add_worker(self, slots: int, address: Address | None = None) -> None:
        """Start a worker, which may reach the master at another address; does not wait for it."""
        settings = {"MULTIHOST_SLOTS": str(slots), "MULTIHOST_ADDRESS": str(address or self.address)}
        self._others.append(self._start("worker/task_worker.py", settings))

    def restart_master(self) -> None:
        """End the master without a word, and start another one with its journal; does not wait for it."""
        self.master.kill()
        self.master.wait()
        self.master = self._start("master/task_master.py", self._of_master)

    def statistics(self) -> dict[str, Any]:
        """What the master tells of itself. Raises: MasterUnreachable."""
        return ask_statistics(self.address, self.authkey, timeout=5.0)

    def roles(self) -> dict[str, list[int]]:
        """The cluster's processes, by what they do."""
        workers = [pid for worker in self._others for pid in (worker.pid, *processes.descendants(worker.pid))]
        return {"master": [self.master.pid], "workers": workers}

    def close(self) -> None:
        """Take it down."""
        programs.stop([*self._others, self.master])
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _start(self, program: str, settings: dict[str, str]) -> subprocess.Popen[bytes]:
        path = ROOT / program
        profiled = (
            [str(programs.BENCH / "profiled.py"), str(self._profiles / path.parent.name)] if self._profiles else []
        )
        return programs.start_python([*profiled, str(path)], {**self.settings, **settings})

    def _workers(self) -> int | None:
        with contextlib.suppress(MasterUnreachable):
            return len(self.statistics()["workers"])
        return None

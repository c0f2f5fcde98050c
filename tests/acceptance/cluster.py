"""The cluster of docker-compose.yml as a project of the tests' own, driven by docker compose and the docker SDK.

Nothing here sleeps for a fixed time: ``wait_until`` polls a condition up to a deadline.
"""

import io
import os
import socket
import subprocess
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import docker

from multihost.client.monitor import ask_statistics
from multihost.errors import MasterUnreachable
from multihost.settings import Address, parse_address

ROOT = Path(__file__).resolve().parents[2]
COMPOSE_FILE = ROOT / "docker-compose.yml"
PROGRAMS = Path(__file__).resolve().parent / "programs"

# Generous, for a machine under load: a wait ends as soon as its condition holds.
DEADLINE = 60.0
_POLL_SECONDS = 0.1
_LOG_LINES_SHOWN = 60
# No command has to wait for longer than this: a worker's drain.
_COMMAND_SECONDS = 110.0

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
        return int(found.getsockname()[1])


def clean_environ(**settings: str) -> dict[str, str]:
    """This process's environment, with ``settings`` instead of any setting of multihost and of compose."""
    ours = {name: text for name, text in os.environ.items() if not name.startswith(("MULTIHOST_", "COMPOSE_"))}
    return {**ours, **settings}


def execute(
    *command: str | Path, environ: Mapping[str, str], timeout: float = _COMMAND_SECONDS, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a command at the root of the checkout. Raises: AssertionError: ``check`` is true, and it failed."""
    result = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if check and result.returncode:
        shown = " ".join(map(str, command))
        raise AssertionError(f"{shown} ended with {result.returncode}:\n{result.stdout}\n{result.stderr}")
    return result


def run(*command: str | Path, environ: Mapping[str, str], timeout: float = _COMMAND_SECONDS, check: bool = True) -> str:
    """The standard output of a command."""
    return execute(*command, environ=environ, timeout=timeout, check=check).stdout


class Entry(NamedTuple):
    """A line of a ledger: ``event`` is began or ended, ``worker`` a container's host name."""

    event: str
    number: int
    worker: str


class Ledger:
    """Which task ran where, as the tasks of programs/ledger.py noted it."""

    def __init__(self, text: str) -> None:
        lines = (line.split() for line in text.splitlines())
        self.entries = [Entry(event, int(number), worker) for event, number, worker in lines]

    @property
    def began(self) -> Counter[int]:
        return Counter(entry.number for entry in self.entries if entry.event == "began")

    @property
    def ended(self) -> Counter[int]:
        return Counter(entry.number for entry in self.entries if entry.event == "ended")

    @property
    def workers(self) -> set[str]:
        return {entry.worker for entry in self.entries}

    def unfinished(self, worker: str) -> set[int]:
        """The tasks that began on a worker and have not ended there."""
        here = [entry for entry in self.entries if entry.worker == worker]
        ended = {entry.number for entry in here if entry.event == "ended"}
        return {entry.number for entry in here} - ended


class Job:
    """A program that runs in a job container."""

    def __init__(self, container: Any, ledger_path: str = "") -> None:
        self.container = container
        self._ledger_path = ledger_path

    @property
    def running(self) -> bool:
        self.container.reload()
        return bool(self.container.status == "running")

    def output(self) -> str:
        return str(self.container.logs(stderr=False).decode())

    def errors(self) -> str:
        return str(self.container.logs(stdout=False).decode())

    def wait(self, timeout: float = DEADLINE) -> int:
        """Its exit code, once it has ended."""
        wait_until(lambda: not self.running, f"job {self.container.name} ended", timeout)
        return int(self.container.wait(timeout=5)["StatusCode"])

    def succeed(self, timeout: float = DEADLINE) -> str:
        """Its output, once it has ended well."""
        code = self.wait(timeout)
        assert code == 0, f"the job ended with {code}:\n{self.errors()}"
        return self.output()

    def ledger(self) -> Ledger:
        """What its tasks have noted so far."""
        try:
            chunks, _ = self.container.get_archive(self._ledger_path)  # also while no container runs
        except docker.errors.NotFound:
            return Ledger("")
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
            file = archive.extractfile(archive.getmembers()[0])
            assert file is not None
            return Ledger(file.read().decode())


class Cluster:
    """One compose project. ``settings`` go into the environment of every call: a changed one recreates containers."""

    def __init__(self, engine: Any, project: str, python_version: str, **settings: str) -> None:
        self.engine, self.project, self.python_version = engine, project, python_version
        # Port 0: any free one, so that a cluster of the developer's own is not in the way.
        defaults = {
            "COMPOSE_PROJECT_NAME": project,
            "MULTIHOST_PUBLISH": "127.0.0.1:0",
            "PYTHON_VERSION": python_version,
        }
        self.environ = clean_environ(**{**defaults, **settings})
        self._ledgers = 0

    # --- what a test does --------------------------------------------------------------------------------------

    def compose(self, *arguments: str, check: bool = True, timeout: float = _COMMAND_SECONDS) -> str:
        """The output of ``docker compose``, which must succeed."""
        try:
            return run("docker", "compose", *arguments, environ=self.environ, check=check, timeout=timeout)
        except AssertionError as error:
            for title, text in self.container_logs():  # now: the fixture that called may remove them
                error.add_note(f"{title}:\n{text}")
            raise

    def scale(self, workers: int) -> None:
        """Have so many workers run, and the master know them."""
        self.compose("up", "--detach", "--no-build", "--scale", "job=0", "--scale", f"worker={workers}")
        self.wait_for_workers(workers)

    def start_job(self, *command: str, volumes: Mapping[Path, str] | None = None) -> Job:
        """A job container under way; ``command`` is what follows ``python``, by default squares.py."""
        mounts = {PROGRAMS: "/programs", **(volumes or {})}
        options = [f"--volume={source}:{target}:ro" for source, target in mounts.items()]
        name = self.compose("run", "--detach", *options, "job", *command).split()[-1]
        return Job(self.engine.containers.get(name))

    def start_ledger_job(self, count: int, seconds: float) -> Job:
        """A job of ``count`` tasks that take ``seconds`` each and note their beginning and end."""
        self._ledgers += 1
        path = f"/data/ledger-{self._ledgers}"
        return Job(self.start_job("/programs/ledger.py", path, str(count), str(seconds)).container, path)

    def run_job(self, *command: str, timeout: float = DEADLINE) -> str:
        """The output of a job that must succeed."""
        return self.start_job(*command).succeed(timeout)

    def run_service(self, service: str, *options: str) -> tuple[int, list[str]]:
        """Run one more container of a service to its end, without those it depends on; exit code and error lines."""
        name = self.compose("run", "--detach", "--no-deps", *options, service).split()[-1]
        job = Job(self.engine.containers.get(name))
        return job.wait(), job.errors().splitlines()

    def remove_jobs(self) -> None:
        """Remove every container that a test has run once, whether it has ended or not."""
        labels = [f"com.docker.compose.project={self.project}", "com.docker.compose.oneoff=True"]
        for container in self.engine.containers.list(all=True, ignore_removed=True, filters={"label": labels}):
            container.remove(force=True)

    def down(self) -> None:
        """Remove every container, network and volume of the project."""
        for container in self.containers():
            container.remove(force=True)  # at once: nothing here is worth a drain
        self.compose("--profile", "mail", "down", "--volumes", "--remove-orphans")

    # --- what a test asks --------------------------------------------------------------------------------------

    def containers(self, service: str | None = None) -> list[Any]:
        """Those of a service that is up or stopped; without a name, all of the project, jobs that were run included."""
        labels = [f"com.docker.compose.project={self.project}"]
        if service:
            labels += [f"com.docker.compose.service={service}", "com.docker.compose.oneoff=False"]
        found = self.engine.containers.list(all=True, ignore_removed=True, filters={"label": labels})
        return sorted(found, key=lambda container: str(container.name))

    @property
    def master(self) -> Any:
        (master,) = self.containers("master")
        return master

    @property
    def workers(self) -> list[Any]:
        return [worker for worker in self.containers("worker") if worker.status == "running"]

    @property
    def address(self) -> Address:
        """Where this host reaches the master; another one after every start of it."""
        return parse_address(self.compose("port", "master", "5000").strip())

    @property
    def authkey(self) -> bytes:
        """The key that the master made."""
        code, output = self.master.exec_run(["cat", "/run/multihost/authkey"])
        assert code == 0, output
        return bytes(output.strip())

    def statistics(self) -> dict[str, Any]:
        return ask_statistics(self.address, self.authkey)

    def wait_for_workers(self, count: int, timeout: float = DEADLINE) -> None:
        """Return once the master knows ``count`` workers, all of them ready."""
        address, authkey = self.address, self.authkey

        def joined() -> bool:
            try:
                states = [worker["state"] for worker in ask_statistics(address, authkey)["workers"]]
            except MasterUnreachable:
                return False
            return states == ["ready"] * count

        wait_until(joined, f"the master knew {count} workers", timeout)

    def wait_for_health(self, container: Any, health: str, timeout: float = DEADLINE) -> None:
        wait_until(lambda: health_of(container) == health, f"{container.name} became {health}", timeout)

    def container_logs(self) -> Iterator[tuple[str, str]]:
        """(title, last lines) of every container's log."""
        for container in self.containers():
            title = f"log of {container.name} ({container.status})"
            yield title, container.logs(tail=_LOG_LINES_SHOWN).decode(errors="replace")


def health_of(container: Any) -> str:
    """starting, healthy or unhealthy."""
    container.reload()
    return str(container.attrs["State"]["Health"]["Status"])


def host_name(container: Any) -> str:
    """What a container calls itself, and a worker its name."""
    return str(container.attrs["Config"]["Hostname"])


def in_container(container: Any, *command: str) -> tuple[int, str]:
    """Exit code and output of a command."""
    code, output = container.exec_run(list(command))
    return int(code), output.decode(errors="replace").strip()

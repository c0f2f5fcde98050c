"""The driver's side of an adapter: starts the process in which a system is measured, gives it orders, ends it."""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import processes
import programs
from systems import SystemSpec

_START_SECONDS, _STOP_SECONDS, _EXIT_SECONDS = 60.0, 20.0, 5.0


class Failed(Exception):
    """An order was not carried out, for the reason given."""


class Dash(Failed):
    """The system has no such thing."""


class Adapter:
    """One process that holds one system; whatever it starts is ended with it.

    Args:
        directory: for the socket between the two, and for the file with all that the system prints.
    Raises: Failed: it did not start.
    """

    def __init__(
        self, spec: SystemSpec, python: Path, workers: int, directory: Path, environ: Mapping[str, str], *cold: str
    ) -> None:
        self._mark = f"BENCH_MARK={secrets.token_hex(8)}"
        self.log = directory / f"{spec.name}.log"
        path = directory / f"{spec.name}.socket"
        path.unlink(missing_ok=True)
        launcher = ["-m", spec.launcher, "-n", str(workers)] if spec.launcher else []
        module = spec.cold if cold and spec.cold else spec.module
        command = [str(python), *launcher, str(programs.BENCH / "adapter.py"), module, str(path), *cold]
        with socket.socket(socket.AF_UNIX) as listener, self.log.open("ab") as log:
            listener.bind(str(path))
            listener.listen()
            self.begun = time.monotonic()
            self._process = subprocess.Popen(
                command,
                env=self._environ(environ),
                cwd=programs.BENCH,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                self._socket = self._accept(listener)
            except BaseException:
                self._end()
                raise
        self._lines = self._socket.makefile("rw", encoding="utf-8")

    def order(self, timeout: float, **order: Any) -> dict[str, float]:
        """The figures that come back. Raises: Failed, and after ``timeout`` seconds, too; close it then."""
        self._socket.settimeout(timeout)
        with self._failure_as_failed(timeout):
            print(json.dumps(order), file=self._lines, flush=True)
        return self.answer(timeout)

    def answer(self, timeout: float) -> dict[str, float]:
        """The figures that come. Raises: Failed."""
        self._socket.settimeout(timeout)
        with self._failure_as_failed(timeout):
            line = self._lines.readline()
        match json.loads(line) if line else None:
            case {"figures": dict(figures)}:
                return figures
            case {"lacking": str(reason)}:
                raise Dash(reason)
            case {"error": str(reason)}:
                raise Failed(reason)
        raise Failed(f"its process ended: {self._last_words()}")

    def close(self) -> None:
        """End the system, by its own means if it still listens."""
        with contextlib.suppress(Failed):
            self.order(_STOP_SECONDS, do="stop")
        with contextlib.suppress(OSError):  # what it no longer read
            self._lines.close()
        self._socket.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_SECONDS)
        self._end()

    def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        processes.kill_marked(self._mark)
        self._process.wait()

    def _environ(self, more: Mapping[str, str]) -> dict[str, str]:
        name, _, value = self._mark.partition("=")
        ours = {key: value for key, value in os.environ.items() if not key.startswith("MULTIHOST_")}
        return {**ours, "PYTHONPATH": programs.IMPORTS, name: value, **more}

    def _accept(self, listener: socket.socket) -> socket.socket:
        listener.settimeout(0.2)
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                return listener.accept()[0]
            if self._process.poll() is not None:
                raise Failed(f"it cannot be started: {self._last_words()}")
        raise Failed(f"it did not start within {_START_SECONDS:g} s")

    @contextlib.contextmanager
    def _failure_as_failed(self, timeout: float) -> Any:
        try:
            yield
        except TimeoutError as error:
            raise Failed(f"it did not end within {timeout:g} s") from error
        except OSError as error:
            raise Failed(f"its process ended: {self._last_words()}") from error

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else "without a word"


@contextlib.contextmanager
def redis(command: list[str], environ: Mapping[str, str], directory: Path) -> Any:
    """Yields the environment by which systems find a Redis server of their own, on loopback, with nothing on disk."""
    port = programs.free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(directory)]
    with (directory / "redis.log").open("ab") as log:
        server = subprocess.Popen(
            [*command, *options], env={**os.environ, **environ}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        programs.wait_until(lambda: _listens(port), "Redis answered")
        yield {"BENCH_REDIS_URL": f"redis://127.0.0.1:{port}/0"}
    finally:
        programs.stop([server])


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False

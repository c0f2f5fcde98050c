"""Programs that a system consists of: started beside the client, ended with it. They print where the client prints."""

import compileall
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

BENCH = Path(__file__).resolve().parent
# What is started imports what is in ``bench/``, and the checkout's own multihost, whichever one is installed.
IMPORTS = os.pathsep.join([str(BENCH), str(BENCH.parent)])
_STOP_SECONDS = 5.0


def compile_sources() -> None:
    """Write the bytecode of this checkout, which an installed multihost has, too.

    Otherwise what is started for a measurement may compile it each time: Python may be told to write none.
    """
    for sources in (BENCH, BENCH.parent / "multihost"):
        compileall.compile_dir(sources, quiet=1)


def free_port() -> int:
    """A port of loopback on which nothing listens now."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


def start(command: Sequence[str], environ: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a program that can import what is in ``bench/``, and this checkout."""
    complete = {**os.environ, **(environ or {}), "PYTHONPATH": IMPORTS}
    return subprocess.Popen(command, env=complete, stdin=subprocess.DEVNULL, cwd=BENCH)


def start_python(arguments: Sequence[str], environ: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a program in this process's own virtual environment."""
    return start([sys.executable, *arguments], environ)


def stop(programs: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask all to end, then end those that do not."""
    for program in programs:
        program.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    for program in programs:
        with contextlib.suppress(subprocess.TimeoutExpired):
            program.wait(max(0.0, deadline - time.monotonic()))
            continue
        program.kill()
        program.wait()


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 30.0) -> None:
    """Return when ``condition()`` holds. Raises: TimeoutError."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"in {timeout:g} s it did not happen that {what}")
        time.sleep(0.01)

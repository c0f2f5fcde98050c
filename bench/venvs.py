"""Where the systems come from: a virtual environment for each, and Redis, all beneath ``build/``, made when needed."""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import programs

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "build" / "bench-venvs"
_INSTALL_SECONDS = 900


class CannotInstall(Exception):
    """It cannot be had on this machine; the text says why."""


def python_of(name: str) -> Path:
    """The interpreter of the environment with the packages of ``requirements/NAME.in``. Raises: CannotInstall."""
    requirements = programs.BENCH / "requirements" / f"{name}.in"
    directory = CACHE / name
    with _made_once(directory, requirements.read_text() + sys.version) as wanted:
        if wanted:
            _run([sys.executable, "-m", "venv", str(directory)])
            # The files name every package with its version, so none is looked for in addition.
            pip = [str(directory / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps"]
            _run([*pip, "--requirement", str(requirements)])
            if name == "fiber":
                _use_zeromq(directory)
    return directory / "bin" / "python"


def _use_zeromq(directory: Path) -> None:
    """Fiber knows three transports and names the one it uses in its source."""
    (file,) = directory.glob("lib/python*/site-packages/fiber/socket.py")
    file.write_text(re.sub(r'^socket_lib = ".*"$', 'socket_lib = "zmq"', file.read_text(), flags=re.MULTILINE))


def redis_command() -> tuple[list[str], dict[str, str]]:
    """How to start Redis: the host's own, or Debian's, unpacked and not installed. Raises: CannotInstall."""
    if installed := shutil.which("redis-server"):
        return [installed], {}
    directory = CACHE / "redis"
    with _made_once(directory, "redis-server") as wanted:
        if wanted:
            for package in _packages_to_install("redis-server"):
                _run(["apt-get", "download", package], directory)
            for file in directory.glob("*.deb"):
                _run(["dpkg-deb", "--extract", str(file), str(directory)])
    libraries = directory / "usr" / "lib" / str(sysconfig.get_config_var("MULTIARCH"))
    return [str(directory / "usr" / "bin" / "redis-server")], {"LD_LIBRARY_PATH": str(libraries)}


def _packages_to_install(name: str) -> list[str]:
    lines = _run(["apt-get", "install", "--simulate", "--no-install-recommends", name]).splitlines()
    return [line.split()[1] for line in lines if line.startswith("Inst ")]


@contextlib.contextmanager
def _made_once(directory: Path, content: str) -> Iterator[bool]:
    """Yields whether ``directory``, now empty, is to be made; if that succeeds it is kept until ``content`` changes."""
    directory.mkdir(parents=True, exist_ok=True)
    stamp = hashlib.sha256(content.encode()).hexdigest()
    with open(directory.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs at once: the second waits for the first
        file = directory / "stamp"
        wanted = not file.exists() or file.read_text() != stamp
        if wanted:
            print(f"bench: making {directory.relative_to(ROOT)}", file=sys.stderr)
            shutil.rmtree(directory)
            directory.mkdir()
        yield wanted
        if wanted:
            file.write_text(stamp)


def _run(command: list[str], cwd: Path | None = None) -> str:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(
            command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=True
        )
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip() or error.stdout.strip() or "?").splitlines()[-1]
        raise CannotInstall(f"{Path(command[0]).name} failed: {last[:200]}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotInstall(f"{Path(command[0]).name} failed: {error}") from error
    return done.stdout

"""Hosts on one machine: each a network namespace with a Docker Engine of its own, joined by a bridge."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker

from tests.acceptance.cluster import clean_environ, run, wait_until

_BRIDGE = "mhtest0"
_NEEDED = ("dockerd", "ip", "iptables", "nsenter")
# Frames between two ports of the bridge pass through the FORWARD chain, which the main engine sets to DROP.
_FORWARD = ("FORWARD", "-i", _BRIDGE, "-o", _BRIDGE, "-j", "ACCEPT")
_ENGINE_SECONDS = 30.0


def why_impossible() -> str | None:
    """What this machine lacks, or None."""
    if os.geteuid():
        return "network namespaces and more engines need root"
    missing = [program for program in _NEEDED if not shutil.which(program)]
    return f"{', '.join(missing)} not found (scripts/prepare-host installs them)" if missing else None


class Host:
    """A network namespace at the end of a cable, and the engine in it."""

    def __init__(self, number: int, directory: Path) -> None:
        self.address = f"10.213.0.{number}"
        self._name = f"mhtest{number}"
        self._cable = f"veth-{self._name}"
        self._directory = directory / self._name
        self._socket = f"unix://{self._directory}/docker.sock"
        self._engine_process: subprocess.Popen[bytes] | None = None
        self.engine: Any = None

    def start(self) -> None:
        ip("netns", "add", self._name)
        ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self._name)
        ip("link", "set", self._cable, "up")
        self.plug_in()
        ip("-n", self._name, "link", "set", "lo", "up")
        ip("-n", self._name, "address", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self._name, "link", "set", "eth0", "up")
        self._start_engine()

    def _start_engine(self) -> None:
        self._directory.mkdir(parents=True)
        command = ["nsenter", f"--net=/run/netns/{self._name}", "dockerd", "--host", self._socket]
        command += ["--data-root", f"{self._directory}/data", "--exec-root", f"{self._directory}/exec"]
        # Where a containerd serves the whole machine: not in the main engine's corner of it.
        command += ["--pidfile", f"{self._directory}/pid", "--containerd-namespace", self._name]
        command += ["--containerd-plugins-namespace", f"{self._name}-plugins"]
        with (self._directory / "log").open("wb") as log:
            self._engine_process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self._engine_answers, f"the engine of {self._name} answered", _ENGINE_SECONDS)
        self.engine = docker.DockerClient(base_url=self._socket)

    def _engine_answers(self) -> bool:
        assert self._engine_process is not None
        assert self._engine_process.poll() is None, (self._directory / "log").read_text()[-2000:]
        return bool(self.docker("version", "--format", "{{.Server.Version}}", check=False).strip())

    def docker(self, *arguments: str, check: bool = True, **settings: str) -> str:
        """The output of ``docker`` on this host."""
        return run("docker", *arguments, environ=self.environ(**settings), check=check)

    def environ(self, **settings: str) -> dict[str, str]:
        return clean_environ(DOCKER_HOST=self._socket, **settings)

    def load(self, *images: str) -> None:
        """Have the main engine's images."""
        with subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE) as save:
            subprocess.run(
                ["docker", "load", "--quiet"], stdin=save.stdout, env=self.environ(), check=True, capture_output=True
            )
        assert save.returncode == 0

    def pull_cable(self) -> None:
        """Nothing reaches this host any more, and nobody is told."""
        ip("link", "set", self._cable, "nomaster")

    def plug_in(self) -> None:
        ip("link", "set", self._cable, "master", _BRIDGE)

    def close(self) -> None:
        """End the containers and the engine, and remove the namespace."""
        if self.engine is not None:
            for container in self.engine.containers.list(all=True):
                container.remove(force=True, v=True)
            self.engine.close()
        if self._engine_process is not None:
            self._engine_process.send_signal(signal.SIGTERM)
            try:
                self._engine_process.wait(_ENGINE_SECONDS)
            finally:
                self._engine_process.kill()
        for pid in ip("netns", "pids", self._name, check=False).split():  # engines of a run that was killed
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        # An engine mounts its root on itself, and does not always undo it.
        run("umount", "--recursive", f"{self._directory}/data", environ=os.environ, check=False)
        ip("netns", "del", self._name, check=False)  # with it its end of the cable, and so the other
        ip("link", "del", self._cable, check=False)

    def container_logs(self) -> Iterator[tuple[str, str]]:
        if self.engine is not None:
            for container in self.engine.containers.list(all=True):
                title = f"log of {container.name} ({container.status}) on {self.address}"
                yield title, container.logs(tail=60).decode(errors="replace")


class Network:
    """Two hosts on a bridge."""

    def __init__(self) -> None:
        # Not pytest's directory: the paths of sockets have at most 104 bytes.
        self._directory = Path(tempfile.mkdtemp(prefix="mhtest-"))
        self.hosts = [Host(number, self._directory) for number in (1, 2)]

    def start(self) -> None:
        self.close()  # what a run that was killed has left
        ip("link", "add", _BRIDGE, "type", "bridge")
        ip("link", "set", _BRIDGE, "up")
        run("iptables", "--wait", "-I", *_FORWARD, environ=os.environ)
        for host in self.hosts:
            host.start()

    def close(self) -> None:
        with contextlib.ExitStack() as stack:  # each step, even when one before it fails
            stack.callback(shutil.rmtree, self._directory, ignore_errors=True)
            stack.callback(ip, "link", "del", _BRIDGE, check=False)
            stack.callback(run, "iptables", "--wait", "-D", *_FORWARD, environ=os.environ, check=False)
            for host in self.hosts:
                stack.callback(host.close)

    def container_logs(self) -> Iterator[tuple[str, str]]:
        for host in self.hosts:
            yield from host.container_logs()


def ip(*arguments: str, check: bool = True) -> str:
    return run("ip", *arguments, environ=os.environ, check=check)

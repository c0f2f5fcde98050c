"""A cluster inside this machine, for programs that name none: a master and one worker, on loopback, while they live.

    the program --(a pipe: the key goes in; its end is theirs)--> master --(fork)--> worker
                <--(another one: the port comes out)-------------

The key is made here and goes through the pipe, so it stands in no environment, argument or file. The pipe ends when the
program closes the cluster, and also when the program is killed.
"""

import atexit
import contextlib
import ctypes
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial

from multihost.errors import MultihostError
from multihost.settings import Address, Settings, usable_cores

_STOP_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1
# This program's sys.path comes first: multihost itself may lie on it in a place of its own.
_PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.stdin.readline()); from multihost import local; local.main()"


class LocalCluster:
    """Started at construction; ``close`` takes it down. What its tasks print goes where this program prints.

    Args:
        slots: how many tasks run at once; None: as many as this process has cores.
    Raises: MultihostError: it did not start.
    """

    def __init__(self, slots: int | None = None) -> None:
        self._maker = os.getpid()
        self.authkey = secrets.token_hex(32).encode()
        answers, theirs = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            pass_fds=[theirs],
            start_new_session=True,  # Ctrl-C is for this program, which takes the cluster down in its own time
        )
        os.close(theirs)
        order = {"authkey": self.authkey.decode(), "slots": slots or usable_cores(), "answer": theirs}
        self._tell(sys.path, order)
        with open(answers) as lines:
            port = lines.readline()
        if not port:
            self.close()
            raise MultihostError("the local cluster did not start; its process said why on standard error")
        self.address = Address("127.0.0.1", int(port))
        atexit.register(self.close)

    def close(self) -> None:
        """Take the cluster down; what still runs there is stopped. May be called twice."""
        if os.getpid() != self._maker:
            return  # a process forked from ours ends; the cluster goes on
        atexit.unregister(self.close)
        assert self._process.stdin is not None
        if not self._process.stdin.closed:
            self._tell("stop")  # the end of the pipe would do, but a forked process may have it open, too
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _tell(self, *lines: object) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: that it does not answer says so
            self._process.stdin.write("".join(f"{json.dumps(line)}\n" for line in lines).encode())
            self._process.stdin.flush()


def main() -> None:
    """The program of the cluster's process."""
    from multihost.logs import configure_logging

    order = json.loads(sys.stdin.readline())
    authkey = order["authkey"].encode()
    settings = Settings(slots=order["slots"], name="local", drain_timeout=0.1)
    ports, master_side = os.pipe()
    configure_logging("WARNING", "text")
    worker = os.fork()  # before their imports: master, worker and fork server do theirs at the same time
    if worker == 0:
        os.close(master_side)
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), sys.stdin.fileno())
        _work(ports, authkey, settings, order["answer"])
        return
    os.close(ports)
    os.close(order["answer"])  # the worker answers, when it has joined
    # Imported only here, as are the worker's modules: a program that has a cluster needs none of them.
    from multihost.broker.service import make_server

    server = make_server(Address("127.0.0.1", 0), authkey, settings)
    _answer(master_side, server.address[1])
    threading.Thread(target=_stop_at_end_of_input, args=(worker, server.stop), daemon=True).start()
    server.serve_forever()


def _work(ports: int, authkey: bytes, settings: Settings, answer: int) -> None:
    """Be the worker of the master whose port is to be read from ``ports``; ``answer`` with it when joined."""
    from multihost.runner.fork_server import start_fork_server

    start_fork_server()
    from multihost.runner.loop import Runner

    with open(ports) as lines:
        address = Address("127.0.0.1", int(lines.readline()))
    runner = Runner(address, authkey, settings, joined=partial(_answer, answer, address.port), forward_output=False)
    signal.signal(signal.SIGTERM, runner.drain)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # the worker ends with the master
    runner.run()


def _answer(descriptor: int, port: int) -> None:
    with open(descriptor, "w") as line:
        print(port, file=line)


def _stop_at_end_of_input(worker: int, stop_master: Callable[[], None]) -> None:
    sys.stdin.readline()  # a word, or the end
    os.kill(worker, signal.SIGTERM)
    os.waitpid(worker, 0)
    stop_master()

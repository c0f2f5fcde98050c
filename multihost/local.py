"""A cluster inside this machine, for programs that name none: a master and one worker, on loopback, while they live.

    the program <--(a socket: the key goes in)--> master --(fork)--> worker --(fork)--> fork server
                <--(a pipe: the port comes out)-------------------------'

The key is made here and goes through the socket, so it stands in no environment, argument or file. The socket ends when
the program closes the cluster, and also when the program is killed; and when the master has ended. One interpreter is
started; the others are forks of it, with what it has imported. That of the tasks is made before the key is read.
"""

import atexit
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable

from multihost.errors import MultihostError
from multihost.settings import Address, Settings, usable_cores

_STOP_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1
# This program's sys.path comes first: multihost itself may lie on it in a place of its own. It is read without a
# buffer: one would take in the key behind it, and forks would have that, down to the processes of the tasks.
_PROGRAM = """\
import json, sys
with open(0, "rb", 0, closefd=False) as lines: sys.path[:] = json.loads(lines.readline())
from multihost import local
local.main()
"""


class LocalCluster:
    """Started at construction; ``close`` takes it down. What its tasks print goes where this program prints.

    Args:
        slots: how many tasks run at once; None: as many as this process has cores.
    Raises: MultihostError: it did not start.
    """

    def __init__(self, slots: int | None = None) -> None:
        self._maker = os.getpid()
        self.authkey = secrets.token_hex(32).encode()
        answers, answer = os.pipe()
        self._socket, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=theirs.fileno(),
            pass_fds=[answer],
            start_new_session=True,  # Ctrl-C is for this program, which takes the cluster down in its own time
        )
        theirs.close()
        os.close(answer)
        order = {"authkey": self.authkey.decode(), "slots": slots or usable_cores(), "answer": answer}
        with contextlib.suppress(ConnectionError):  # it died: that it does not answer says so
            self._socket.sendall(f"{json.dumps(sys.path)}\n{json.dumps(order)}\n".encode())
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
        try:
            self._socket.settimeout(_STOP_SECONDS)
            self._socket.sendall(b"stop\n")  # its end would do, but a forked process may have it open, too
            self._socket.recv(1)  # ends when the process does; Popen.wait with a timeout would look every now and then
        except TimeoutError:
            os.killpg(self._process.pid, signal.SIGKILL)
        except OSError:
            pass  # it has ended, or been closed before
        self._socket.close()
        self._process.wait()


def main() -> None:
    """The program of the cluster's process, and of its fork."""
    orders, master_side = os.pipe()
    if worker := os.fork():
        os.close(orders)
        _lead(worker, master_side)
    else:
        os.close(master_side)
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), sys.stdin.fileno())
        _work(orders)
    atexit._run_exitfuncs()
    os._exit(0)  # the program waits for our end, and taking modules apart is none of it


def _lead(worker: int, orders: int) -> None:
    """Be the master, and tell the worker in ``orders`` where that is."""
    # Imported only here, as are the worker's modules: a program that has a cluster needs none of them.
    from multihost.broker.service import make_server
    from multihost.logs import configure_logging

    configure_logging("WARNING", "text")
    order = json.loads(sys.stdin.readline())
    os.close(order["answer"])  # the worker answers, when it has joined
    server = make_server(Address("127.0.0.1", 0), order["authkey"].encode(), _settings(order["slots"]))
    _write(orders, json.dumps({**order, "port": server.address[1]}))
    threading.Thread(target=_stop_at_end_of_input, args=(worker, server.stop), daemon=True).start()
    server.serve_forever()


def _work(orders: int) -> None:
    """Be the worker of the master that says in ``orders`` where it is; answer with that when joined."""
    import ctypes

    from multihost.logs import configure_logging
    from multihost.runner.fork_server import start_fork_server
    from multihost.runner.forks import forks_for_interpreters
    from multihost.runner.loop import Runner

    with forks_for_interpreters():
        start_fork_server()
    configure_logging("WARNING", "text")  # after the fork: logging is the tasks' own
    with open(orders) as lines:
        line = lines.readline()
    if not line:
        return  # the master ended, and said why
    order = json.loads(line)
    address = Address("127.0.0.1", order["port"])
    runner = Runner(
        address,
        order["authkey"].encode(),
        _settings(order["slots"]),
        joined=lambda: _write(order["answer"], str(address.port)),
        forward_output=False,
    )
    signal.signal(signal.SIGTERM, runner.drain)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # the worker ends with the master
    runner.run()


def _settings(slots: int) -> Settings:
    return Settings(slots=slots, name="local", drain_timeout=0.1)


def _write(descriptor: int, line: str) -> None:
    with open(descriptor, "w") as lines:
        print(line, file=lines)


def _stop_at_end_of_input(worker: int, stop_master: Callable[[], None]) -> None:
    sys.stdin.readline()  # a word, or the end
    os.kill(worker, signal.SIGTERM)
    os.waitpid(worker, 0)
    stop_master()

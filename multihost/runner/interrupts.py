"""How a process is told something while it runs a task: a signal, and on a socket of its own what it means.

Either a task is to be ended, or what has not started is wanted back, because what runs takes long.

The handler raises in the main thread, where the task is, so that its ``finally`` blocks run and its traceback shows
where it stood. It never raises in code of ours: what is being written is written to its end first.
"""

import contextlib
import faulthandler
import pickle
import re
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType

from multihost.errors import TaskTimeout

# The last but one of the real-time signals: no kernel mechanism and no standard library sends one, unlike SIGXCPU (a
# limit of CPU time), SIGALRM, SIGUSR1 and SIGUSR2, which belong to what the tasks run.
INTERRUPT = signal.SIGRTMAX - 1
RECALL = -1  # stands where otherwise the token of the task is that is to be ended


# Where in a stack as ``faulthandler`` writes it, most recent call first, the calls of a task end and ours begin.
_OURS = re.compile(r'^  File ".*/multihost/runner/', re.MULTILINE)
_RUNS_TASK = re.compile(r'/multihost/runner/(slot\.py", line \d+ in _run|coroutines\.py", line \d+ in _entered)')


class TaskStopped(BaseException):
    """Raised in a task that was cancelled; what it does about that is of no interest to anybody."""


def stack_of_tasks(text: str) -> str:
    """Of what ``faulthandler`` wrote of all threads, the calls of tasks."""
    threads = [text for text in text.split("\n\n") if _RUNS_TASK.search(text)]
    stacks = [_OURS.split(thread, maxsplit=1)[0].partition("\n")[2] for thread in threads]
    return "\n".join(stack.rstrip() for stack in stacks if stack)


class Interrupts:
    """Which task may be interrupted now, and which were cancelled before they started.

    ``with interrupts:`` guards code of ours in which nothing may be raised; in any thread.
    Args:
        control: where the worker says (token, seconds): seconds is the timeout that was spent, None for a cancel.
        stack: a file for the Python stack at the time of the signal; it is written even where C code has the GIL.
    """

    def __init__(self, control: socket.socket, stack: str, worker: str) -> None:
        self.running: int | None = None  # the token of the task that the main thread runs
        self.raised: BaseException | None = None  # what we raised in it
        self.cancel: Callable[[int, BaseException], bool] | None = None  # cancels a coroutine; False: there is none
        self.recall: Callable[[], None] | None = None  # gives back what has not started
        self._worker = worker
        self.cancelled: set[int] = set()  # tasks that have not started
        self._guards = 0
        self._postponed: BaseException | None = None
        self._recall_postponed = False
        self._main = threading.get_ident()
        self._control = control
        control.setblocking(False)
        signal.signal(INTERRUPT, self._interrupted)
        self._stack = open(stack, "ab", buffering=0)  # noqa: SIM115  it is open as long as this process lives
        faulthandler.enable(self._stack)  # for the fatal ones: SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT
        faulthandler.register(INTERRUPT, file=self._stack, all_threads=True, chain=True)
        self._interrupted(INTERRUPT, None)  # for a signal that came before, and was ignored

    def take_cancelled(self, token: int) -> bool:
        """Whether a task that is to be started was cancelled; asked once for each."""
        if token in self.cancelled:
            self.cancelled.discard(token)
            return True
        return False

    def __enter__(self) -> None:
        if threading.get_ident() == self._main:
            self._guards += 1

    def __exit__(self, *error: object) -> None:
        if threading.get_ident() == self._main:
            self._guards -= 1
            if self._recall_postponed and not self._guards:
                self._recall_postponed = False
                self._give_back()
            if self._postponed is not None and not self._guards:
                late, self._postponed = self._postponed, None
                if self.running is not None:
                    self._raise(late)

    def _interrupted(self, signum: int, frame: FrameType | None) -> None:
        while order := self._next_order():
            if order[0] == RECALL:
                self._give_back()
            else:
                self._end(*order)

    def _give_back(self) -> None:
        if self._guards:
            self._recall_postponed = True
        elif self.recall is not None:
            with self:  # a cancel that comes now ends the task when what is given back is given back
                self.recall()

    def _next_order(self) -> tuple[int, float | None] | None:
        with contextlib.suppress(OSError, EOFError):  # there is no more, or no worker
            order: tuple[int, float | None] = pickle.loads(self._control.recv(4096))
            return order
        return None

    def _end(self, token: int, seconds: float | None) -> None:
        error = TaskStopped() if seconds is None else TaskTimeout(seconds, self._worker)
        if self.cancel is not None and self.cancel(token, error):
            self.raised = error
            return
        if token != self.running:
            # It has not started, or it has ended by now; its number will not come again then.
            if seconds is None:
                self.cancelled.add(token)
        elif self._guards:
            self._postponed = error
        else:
            self._raise(error)

    def _raise(self, error: BaseException) -> None:
        self.raised = error
        raise error

"""The way out of a child: sessions that its tasks open speak through the worker, which passes on what they say.

While a child waits for tasks of its tasks, its slot may go to another child; the worker is told so.
"""

import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager

from multihost.errors import ProtocolError
from multihost.wire.messages import PART, Message, split

Send = Callable[[Message], None]


class Relay:
    """The connection of one session that a task opened; it ends with the process or with the session."""

    def __init__(self, number: int, door: "RelayDoor") -> None:
        self.unfinished = 0  # tasks that were submitted and have no outcome yet
        self.closed = False
        self._number = number
        self._door = door
        self._changed = threading.Condition()
        self._batches: deque[object] = deque()
        self._answer: dict[str, object] | None = None
        self._over = False

    def send_batch(self, batch: list[Message]) -> None:
        """Say something to the master.

        Raises: ConnectionError: the session is over.
        """
        if self._over:
            raise ConnectionError("the session is over")
        self._door.count(self, sum(map(_tasks_in, batch)))
        for some in split(batch):
            self._door.send(("relay", self._number, some))

    def receive(self, timeout: float | None) -> list[object]:
        """The batches that have come; none if nothing came within ``timeout`` seconds.

        Raises: ConnectionError: the session is over.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._batches or self._over, timeout)
            if not self._batches and self._over:
                raise ConnectionError("the session is over")
            batches = [*self._batches]
            self._batches.clear()
            return batches

    def silence(self) -> float:
        return 0.0  # this process does not outlive the connection of its worker

    def moved_bytes(self) -> tuple[int, int]:
        return 0, 0  # its worker's link counts them

    def interrupt(self) -> None:
        """End the connection, so that a thread that waits in ``receive`` wakes up; ``close`` is still to come."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def close(self) -> None:
        self.interrupt()
        self._door.close(self._number)

    def wait_for_answer(self) -> dict[str, object]:
        """What the master answered to the hello.

        Raises: ProtocolError: it refused.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._answer is not None or self._batches or self._over)
            if self._answer is not None:
                return self._answer
            said = self._batches.popleft() if self._batches else None
        match said:
            case [("refused", reason), *_]:
                raise ProtocolError(f"the master refused a session that a task opened: {reason}")
        raise ProtocolError("a session that a task opened ended before the master answered")

    def answered(self, answer: dict[str, object]) -> None:
        with self._changed:
            self._answer = answer
            self._changed.notify_all()

    def received(self, messages: list[Message]) -> None:
        for message in messages:
            match message:
                case ("outcomes", list(rows)):
                    self._door.count(self, -len([row for row in rows if row[1] != PART]))
        with self._changed:
            self._batches.append(messages)
            self._changed.notify_all()


def _tasks_in(message: Message) -> int:
    match message:
        case ("submit", _, _, _, list(payloads)):
            return len(payloads)
    return 0


class RelayDoor:
    """``multihost.enclosing.Door`` of a child.

    Args:
        needs, archives: as the session that the child serves has them.
        extra: what a session is told besides the master's answer.
        depth: how deep the task is that runs in the calling thread.
        whose: its fencing token, if that is known.
        lend: called with True when the first task of a task is on its way, with False when the last has its outcome.
        opening: called before a session is opened: the pipe must be read from now on while tasks run.
        guard: held while the state is changed, so that nothing is raised meanwhile.
    """

    def __init__(
        self,
        needs: tuple[str, ...],
        extra: dict[str, object],
        send: Send,
        depth: Callable[[], int],
        whose: Callable[[], int | None],
        lend: Callable[[bool], None],
        opening: Callable[[], None],
        guard: AbstractContextManager[None],
    ) -> None:
        self.needs = needs
        self.archives: tuple[str, ...] = ()  # known when the needs have come
        self.send = send
        self._extra = extra
        self._depth = depth
        self._whose = whose
        self._lend = lend
        self._opening = opening
        self._guard = guard
        self._lock = threading.Lock()
        self._relays: dict[int, Relay] = {}
        self._last = 0
        self._unfinished = 0

    @property
    def depth(self) -> int:
        return self._depth()

    def open(self, info: dict[str, object]) -> tuple[Relay, dict[str, object]]:
        """See ``multihost.enclosing.Door``."""
        self._opening()
        with self._guard, self._lock:
            self._last += 1
            number = self._last
            relay = self._relays[number] = Relay(number, self)
        token = self._whose()
        self.send(("relay_open", number, info if token is None else {**info, "task": token}))
        try:
            return relay, {**relay.wait_for_answer(), **self._extra}
        except BaseException:
            relay.close()
            raise

    def close(self, number: int) -> None:
        with self._guard, self._lock:
            relay = self._relays.pop(number, None)
        if relay is not None:
            self.send(("relay_close", number))
            self.count(relay, -relay.unfinished)
            relay.closed = True

    def count(self, relay: Relay, change: int) -> None:
        """So many more tasks of tasks are on their way; less, if it is below zero."""
        if not change or relay.closed:
            return
        with self._guard, self._lock:
            before = self._unfinished
            relay.unfinished += change
            self._unfinished += change
            if bool(before) != bool(self._unfinished):
                self._lend(bool(self._unfinished))

    def deliver(self, message: Message) -> None:
        """Something for one of the sessions has come from the worker."""
        match message:
            case ("relay_open", int(number), dict(answer)) if number in self._relays:
                self._relays[number].answered(answer)
            case ("relay", int(number), list(messages)) if number in self._relays:
                self._relays[number].received(messages)
            case _:
                pass  # of one that was closed meanwhile

"""The worker's shell: one thread, one selector, the link to the master and the children; runs until drained."""

import contextlib
import logging
import os
import secrets
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType

from multihost.errors import ProtocolError
from multihost.heap import MUCH_BYTES, collect_seldom, reuse_large
from multihost.runner import events, memory
from multihost.runner.children import CAREFUL
from multihost.runner.core import RunnerCore
from multihost.runner.durations import STUCK_SECONDS
from multihost.runner.slots import Slots
from multihost.settings import Address, Settings
from multihost.wire.connection import Connection, GivenUp, Patience, attach
from multihost.wire.messages import Message
from multihost.wire.meter import Meter

logger = logging.getLogger(__name__)

# How often the memory of children that run tasks with a limit is looked at: what grows by shared memory alone may take
# so much more by then.
MEASURE_SECONDS = 0.1


class Runner:
    """One worker. ``run`` returns when it has drained; its main thread never runs what clients send.

    Args:
        joined: called once, when the master has first accepted it.
        forward_output: whether what tasks print goes to their clients, besides to this worker's own output.
    """

    def __init__(
        self,
        address: Address,
        authkey: bytes,
        settings: Settings,
        joined: Callable[[], None] | None = None,
        forward_output: bool = True,
    ) -> None:
        self._joined = joined
        self._address, self._authkey, self._settings = address, authkey, settings
        self._worker_id = secrets.token_hex(8)
        self._core = RunnerCore(
            settings.slots, settings.drain_timeout, settings.threads, settings.name, settings.task_memory
        )
        self._selector = selectors.DefaultSelector()
        self._slots = Slots(self._selector, settings.name, settings.threads, forward_output, settings.task_memory)
        self._measured = 0.0  # when the children's memory was measured last
        self._connection: Connection | None = None
        self._attached = 0.0  # when it began, in monotonic seconds
        self._patience = Patience()
        self._meter = Meter()
        self._outbox: list[Message] = []
        self._failed_starts: list[events.StartFailed] = []  # of the last turn
        self._heartbeat_seconds = settings.lease_timeout / 3
        self._lease_timeout = settings.lease_timeout
        self._beat = 0.0  # when we last sent a heartbeat
        self._exited = False
        self._broken: OSError | None = None  # how the connection was found to have ended in the middle of a turn
        self._stopping = threading.Event()
        # Signals arrive as bytes on a socket: the loop wakes up and handles them as one event among others.
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, (self._signalled, None))

    def drain(self, signum: int = 0, frame: FrameType | None = None) -> None:
        """Take no new lease, finish what runs, end ``run``; a second call does not wait. May be a signal handler."""
        self._stopping.set()
        with contextlib.suppress(BlockingIOError):  # there are enough of them
            self._wake.send(b"d")

    def run(self) -> None:
        """Serve until drained.

        Raises: MasterUnreachable, AuthenticationError, ProtocolError, as ``attach`` does.
        """
        reuse_large(MUCH_BYTES)
        collect_seldom()
        try:
            while not self._exited:
                self._attach()
                self._serve()
        except GivenUp:
            logger.info("stopped while no master was there")
        finally:
            self._slots.close()
            self._detach()
            self._selector.close()
            self._wake.close()
            self._woken.close()

    # --- the link ----------------------------------------------------------------------------------------------

    def _attach(self) -> None:
        settings = self._settings
        info: dict[str, object] = {
            "worker": self._worker_id,
            "name": settings.name,
            "slots": settings.slots * settings.threads,
            "labels": settings.labels,
            **self._core.hello(),
        }
        connection, answer = attach(
            self._address, self._authkey, "worker", info, settings.connect_timeout, self._stopping
        )
        self._slots.max_payload = int(str(answer["max_payload"]))
        self._lease_timeout = float(str(answer["lease_timeout"]))
        self._heartbeat_seconds = self._lease_timeout / 3
        self._connection = connection
        self._selector.register(connection, selectors.EVENT_READ, (self._master_ready, None))
        self._beat = self._attached = time.monotonic()
        logger.info("joined the master at %s as %s with %d slots", self._address, settings.name, info["slots"])
        done = answer.get("done")
        self._tell_load()
        self._handle(events.Connected(bool(answer.get("keeps")), done if isinstance(done, dict) else {}))
        if self._joined is not None:
            self._joined()
            self._joined = None

    def _detach(self) -> None:
        if self._connection is not None:
            self._selector.unregister(self._connection)
            self._connection.close()
            self._meter.ended(self._connection)
            self._connection = None

    def _serve(self) -> None:
        """One connection's lifetime."""
        try:
            while not self._exited:
                self._turn()
            self._flush()
        except ProtocolError:
            raise  # the same would happen again
        except OSError as error:  # ConnectionError, but also a TimeoutError of the kernel's, or no route any more
            self._detach()
            self._outbox.clear()
            logger.warning("lost the master at %s (%s)", self._address, error)
            self._handle(events.Disconnected())
            self._stopping.wait(self._patience.after(lasted=time.monotonic() - self._attached))

    def _turn(self) -> None:
        self._flush()
        now = time.monotonic()
        patience = max(0.0, self._beat + self._heartbeat_seconds - now)
        if self._core.impatient:
            patience = min(patience, STUCK_SECONDS / 2)
        if (deadline := self._core.next_deadline()) is not None:
            patience = min(patience, max(0.0, deadline - now))
        if self._core.to_measure():
            patience = min(patience, MEASURE_SECONDS)
        failed, self._failed_starts = self._failed_starts, []
        for failure in failed:
            self._handle(failure)
        heard: list[events.Event] = []
        try:
            for key, ready in self._selector.select(0.0 if failed else patience):
                method, subject = key.data
                heard += method(subject, ready) or ()
        finally:
            # What children have said counts even when the master's connection is found to have ended in this turn.
            for event in heard:
                self._handle(event)
        now = time.monotonic()
        if self._connection is not None and (silence := self._connection.silence()) > self._lease_timeout:
            raise ConnectionError(f"it has been silent for {silence:.1f} s")
        if now - self._beat >= self._heartbeat_seconds:
            # Even when there was much to say: the master answers a heartbeat, so we hear that it lives.
            self._outbox.append(("heartbeat",))
            self._tell_load()
            self._beat = now
            self._slots.beat()
        if now - self._measured >= MEASURE_SECONDS:
            self._measured = now
            for child in self._core.to_measure():
                self._handle(events.Measured(child, self._slots.measure(child)))
        if self._core.impatient or (deadline is not None and now >= deadline):
            self._handle(events.Tick())

    def _flush(self) -> None:
        """Send what has gathered in this turn as one frame."""
        broken, self._broken = self._broken, None
        if broken is not None:
            raise broken
        if self._outbox and self._connection is not None:
            batch, self._outbox = self._outbox, []
            if ran := self._core.take_ran():
                batch.insert(0, ("ran", ran))
            self._meter.sent(batch)
            self._connection.send_batch(batch)

    def _flush_first(self) -> None:
        """A task is about to run that may end this process within the turn: what is said of it goes first."""
        try:
            self._flush()
        except OSError as error:
            self._broken = error  # the core's effects come first

    def _tell_load(self) -> None:
        sent, received = self._meter.plain(self._connection)
        traffic = [(f"sent_{name}", count) for name, count in sent.items()]
        traffic += [(f"received_{name}", count) for name, count in received.items()]
        memory_bytes = {"memory_bytes": memory.measure(os.getpid()), "children_bytes": self._slots.memory_bytes()}
        self._outbox.append(("load", {**self._core.load(), **memory_bytes, **dict(traffic)}))

    # --- what the selector reports -----------------------------------------------------------------------------

    def _master_ready(self, subject: None, ready: int) -> None:
        if self._connection is None:
            return
        for batch in self._connection.receive(0.0):
            match batch:
                case [*_, ("refused", reason)]:
                    raise ProtocolError(f"the master at {self._address} refused what this worker sent: {reason}")
                case list():
                    self._meter.received(batch)
                    self._handle(events.Received(batch))

    def _signalled(self, subject: None, ready: int) -> None:
        for _ in self._woken.recv(64):
            self._handle(events.DrainAsked())

    # --- effects -----------------------------------------------------------------------------------------------

    def _handle(self, event: events.Event) -> None:
        for effect in self._core.handle(event, time.monotonic()):
            match effect:
                case events.Send(message):
                    self._outbox.append(message)
                case events.Run():
                    if CAREFUL in effect.options:
                        self._flush_first()
                    self._slots.run(effect)
                case events.Keep(blob_id, content):
                    self._slots.keep(blob_id, content)
                case events.Drop(blob_ids):
                    self._slots.drop(blob_ids)
                case events.Start(child, needs):
                    self._start(child, needs)
                case events.Recall(child):
                    self._slots.recall(child)
                case events.Interrupt(child, token, seconds):
                    self._slots.interrupt(child, token, seconds)
                case events.Tell(child, message):
                    self._slots.tell(child, message)
                case events.Retire(child):
                    self._slots.retire(child)
                case events.Condemn(child):
                    self._slots.condemn(child)
                case events.Kill(child):
                    self._slots.kill(child)
                case events.Note(level, text):
                    logger.log(logging.getLevelNamesMapping()[level.upper()], text)
                case events.Exit():
                    self._exited = True

    def _start(self, child: int, needs: tuple[str, ...]) -> None:
        try:
            self._slots.start(child, needs)
        except (OSError, EOFError) as error:
            # Told in the next turn: what is to be run in that child follows in this one.
            self._failed_starts.append(events.StartFailed(child, f"{type(error).__name__}: {error}"))


def install_signal_handlers(runner: Runner) -> None:
    """SIGTERM and Ctrl-C drain the worker; a second one does not wait."""
    signal.signal(signal.SIGTERM, runner.drain)
    signal.signal(signal.SIGINT, runner.drain)

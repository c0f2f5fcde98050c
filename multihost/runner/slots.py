"""The child processes: starting them from a fork server, talking to them without ever waiting for them, ending them."""

import contextlib
import logging
import multiprocessing
import os
import pickle
import selectors
import shutil
import signal
import socket
import tempfile
from collections import deque
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from multihost.errors import ProtocolError
from multihost.runner import slot
from multihost.wire import messages
from multihost.wire.frames import Buffer, FrameReader, frame

logger = logging.getLogger(__name__)

_MAX_FRAME = 1 << 40  # a child's frames are bounded by the cap on one result, and by what it may gather
_PRELOAD = ["multihost.runner.slot", "cloudpickle", "runpy", "traceback", "json", "zipimport"]
_JOIN_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class _Process:
    """One child: its process, our end of its pipe, and what waits to be written there."""

    number: int
    process: ForkServerProcess
    pipe: socket.socket
    frames: FrameReader = field(default_factory=lambda: FrameReader(_MAX_FRAME))
    outbox: deque[memoryview] = field(default_factory=deque)


@dataclass(frozen=True, slots=True)
class Report:
    """Something from a child: outcomes and the seconds they took, or how it died."""

    child: int
    outcomes: list[tuple[int, str, bytes]]
    seconds: float
    died: str = ""


class Slots:
    """The children, registered in the loop's selector; ``key.data`` of each is a method to call when it is ready.

    A child that does not read or write keeps nobody waiting: both directions are non-blocking here.
    """

    def __init__(self, selector: selectors.BaseSelector, worker: str) -> None:
        self.max_payload = 0
        self._selector = selector
        self._worker = worker
        self._blobs: dict[str, bytes] = {}
        self._processes: dict[int, _Process] = {}
        self._directory = Path(tempfile.mkdtemp(prefix="multihost-"))
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOAD)

    def keep(self, blob_id: str, content: bytes) -> None:
        self._blobs[blob_id] = content

    def drop(self, blob_ids: list[str]) -> None:
        for blob_id in blob_ids:
            self._blobs.pop(blob_id, None)
            shutil.rmtree(self._directory / blob_id, ignore_errors=True)

    def start(self, number: int, needs: tuple[str, ...]) -> None:
        """Start a child, and give it the blobs that it ``needs`` before any task: archives of code, an initializer.

        Raises: OSError, EOFError: the system has no process or file descriptor left.
        """
        ours, theirs = socket.socketpair()
        config = slot.SlotConfig(self._worker, self.max_payload, str(self._directory))
        with Connection(theirs.detach()) as pipe:
            process = self._context.Process(target=slot.main, args=(pipe, config), daemon=True)
            try:
                process.start()
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        child = self._processes[number] = _Process(number, process, ours)
        self._selector.register(ours, selectors.EVENT_READ, (self._ready, child))
        self._selector.register(process.sentinel, selectors.EVENT_READ, (self._died, child))
        for need in needs:
            self._write(child, ("need", need, self._blobs[need]))

    def run(self, number: int, function_id: str, new: bool, tasks: list[tuple[int, bytes]]) -> None:
        child = self._processes.get(number)
        if child is None:
            return  # it died; the core hears of that next
        if new:
            self._write(child, ("function", function_id, self._blobs[function_id]))
        self._write(child, ("run", function_id, tasks))

    def kill(self, number: int) -> None:
        if (child := self._processes.pop(number, None)) is not None:
            self._forget(child)
            self._kill(child)
            child.process.join(_JOIN_SECONDS)

    def close(self) -> None:
        """Kill all children and remove the unpacked code."""
        for number in list(self._processes):
            self.kill(number)
        shutil.rmtree(self._directory, ignore_errors=True)

    # --- what the loop calls when a child's file descriptor is ready -----------------------------------------

    def _ready(self, child: _Process, events: int) -> list[Report]:
        if self._processes.get(child.number) is not child:
            return []  # killed in this very turn, for something that the master said
        if events & selectors.EVENT_WRITE:
            self._flush(child)
        return self._read(child) if events & selectors.EVENT_READ else []

    def _died(self, child: _Process, events: int) -> list[Report]:
        if self._processes.pop(child.number, None) is None:
            return []
        reports = self._read(child)  # what it handed over before it died
        self._forget(child)
        child.process.join(_JOIN_SECONDS)
        return [*reports, Report(child.number, [], 0.0, died=_how_it_died(child.process.exitcode))]

    def _read(self, child: _Process) -> list[Report]:
        reports: list[Report] = []
        while True:
            try:
                size = child.pipe.recv_into(child.frames.space())
            except BlockingIOError:
                return reports
            except OSError:
                size = 0
            if size == 0:  # closed: the sentinel will tell how it died
                if child.pipe.fileno() in self._selector.get_map():
                    self._selector.unregister(child.pipe)
                return reports
            try:
                contents = child.frames.received(size)
                reports.extend(Report(child.number, *messages.decode_outcomes(content)) for content in contents)
            except ProtocolError as error:
                logger.warning("a child process is killed: %s", error)
                self._kill(child)  # the sentinel will tell
                return reports

    # --- inside ------------------------------------------------------------------------------------------------

    def _write(self, child: _Process, message: tuple[object, ...]) -> None:
        parts: list[Buffer] = frame([pickle.dumps(message, protocol=5)])
        child.outbox.extend(memoryview(part) for part in parts)
        self._flush(child)

    def _flush(self, child: _Process) -> None:
        try:
            while child.outbox:
                sent = child.pipe.send(child.outbox[0])
                rest = child.outbox.popleft()[sent:]
                if rest:
                    child.outbox.appendleft(rest)
        except BlockingIOError:
            pass
        except OSError:
            child.outbox.clear()  # it died; the sentinel tells
        if child.pipe in self._selector.get_map():
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if child.outbox else 0)
            self._selector.modify(child.pipe, events, (self._ready, child))

    def _forget(self, child: _Process) -> None:
        for source in (child.pipe, child.process.sentinel):
            if source in self._selector.get_map():
                self._selector.unregister(source)
        child.pipe.close()

    def _kill(self, child: _Process) -> None:
        if child.process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.process.pid, signal.SIGKILL)


def _how_it_died(exit_code: int | None) -> str:
    if exit_code is None:
        return "its process ended and left no exit status"
    if exit_code < 0:
        try:
            return f"its process was killed by {signal.Signals(-exit_code).name}"
        except ValueError:
            return f"its process was killed by signal {-exit_code}"
    return f"its process ended with exit status {exit_code} and without an outcome"

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
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from multihost.deaths import Death, how_it_ended
from multihost.errors import ProtocolError
from multihost.payload import LARGE_BYTES
from multihost.runner import events, memory, scratch, slot
from multihost.runner.fork_server import start_fork_server
from multihost.runner.interrupts import INTERRUPT, RECALL, stack_of_tasks
from multihost.runner.pipe import widen
from multihost.runner.tail import Tail
from multihost.runner.warden import END, descendants, read_child, read_ended
from multihost.wire import messages
from multihost.wire.frames import Buffer, FrameReader, Spares, frame

logger = logging.getLogger(__name__)

_MAX_FRAME = 1 << 40  # a child's frames are bounded by the cap on one result, and by what it may gather
_JOIN_SECONDS = 5.0
_MAX_STACK_BYTES = 8 * 1024
_MAX_RECORD = 64
_FATAL = "Fatal Python error: "  # with that, faulthandler begins what it writes about a fatal signal


_FROM_CHILD: dict[str, type[events.FromChild]] = {
    "started": events.Started,
    "output": events.Printed,
    "unstarted": events.Unstarted,
    "lend": events.Lent,
    "relay_open": events.RelayOpened,
    "relay": events.Relayed,
    "relay_close": events.RelayClosed,
}


@dataclass(slots=True, eq=False)
class _Process:
    """One child: its warden's process, our ends of its pipe and of its control socket, and what waits to be written."""

    number: int
    process: ForkServerProcess  # the warden, which passes on what it is signalled
    pipe: socket.socket
    control: socket.socket
    report: Connection  # where the warden says how the child ended
    stack: Path  # where it writes the Python stack it is in, when it is interrupted
    tail: Tail  # where it writes what it printed last
    frames: FrameReader
    outbox: deque[memoryview] = field(default_factory=deque)
    blocked: bool = False  # whether the selector tells when it can be written to
    interrupted: bool = False  # and what it ran then has not ended yet
    killed: bool = False  # by us; its death is still to be told
    records: list[bytes] = field(default_factory=list)

    def hear(self) -> list[bytes]:
        """All that the warden has said until now."""
        with contextlib.suppress(EOFError, OSError):
            while self.report.poll():
                self.records.append(self.report.recv_bytes(_MAX_RECORD))
        return self.records


class Slots:
    """The children, registered in the loop's selector; ``key.data`` of each is a method to call when it is ready.

    A child that does not read or write keeps nobody waiting: both directions are non-blocking here.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        worker: str,
        threads: int = 1,
        forward_output: bool = True,
        task_memory: int = 0,
    ) -> None:
        self.max_payload = 0
        self._threads, self._forward_output = threads, forward_output
        self._task_memory = task_memory
        self._selector = selector
        self._worker, self._host = worker, socket.gethostname()
        self._oom_kills = memory.OomKills()
        self._blobs: dict[str, bytes] = {}
        self._spares = Spares()
        self._processes: dict[int, _Process] = {}
        self._directory, self._lock = scratch.make_directory()
        scratch.remove_left()
        self._context = multiprocessing.get_context("forkserver")
        start_fork_server()

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
        widen(ours)
        widen(theirs)
        our_control, their_control = socket.socketpair(type=socket.SOCK_SEQPACKET)
        report, their_report = self._context.Pipe(duplex=False)
        stack, tail = self._directory / f"stack-{number}", Tail(str(self._directory / f"tail-{number}"))
        config = slot.SlotConfig(
            self._worker,
            self.max_payload,
            str(self._directory),
            str(stack),
            tail.path,
            str(self._scratch_of(number)),
            self._threads,
            self._forward_output,
            self._task_memory,
            needs,
        )
        with theirs, their_control, their_report:
            arguments = theirs, their_control, their_report, config
            process = self._context.Process(target=slot.main, args=arguments, daemon=True)
            try:
                process.start()
            except BaseException:
                ours.close()
                our_control.close()
                report.close()
                tail.remove()
                raise
        our_control.setblocking(False)
        ours.setblocking(False)
        frames = FrameReader(_MAX_FRAME, self._spares)
        child = self._processes[number] = _Process(number, process, ours, our_control, report, stack, tail, frames)
        self._selector.register(ours, selectors.EVENT_READ, (self._ready, child))
        self._selector.register(process.sentinel, selectors.EVENT_READ, (self._died, child))
        for need in needs:
            self._write(child, ("need", need, self._blobs[need]))

    def run(self, run: events.Run) -> None:
        child = self._processes.get(run.child)
        if child is None:
            return  # it died; the core hears of that next
        if run.new:
            self._write(child, ("function", run.function_id, self._blobs[run.function_id]))
        if max(len(payload) for _, payload in run.tasks) < LARGE_BYTES:
            self._write(child, ("run", run.function_id, run.options, run.tasks))
        else:
            # They follow the message, so that the child need not copy them out of it.
            sizes = [(token, len(payload)) for token, payload in run.tasks]
            payloads = [payload for _, payload in run.tasks]
            self._write(child, ("run_large", run.function_id, run.options, sizes), payloads)

    def tell(self, number: int, message: tuple[object, ...]) -> None:
        if (child := self._processes.get(number)) is not None:
            self._write(child, message)

    def interrupt(self, number: int, token: int, seconds: float | None) -> None:
        """Have a child end one task; if it cannot, the core will have it killed."""
        if (child := self._processes.get(number)) is None:
            return
        child.interrupted = child.interrupted or token != RECALL
        with contextlib.suppress(OSError):  # it is gone, or has long not read what it was told before
            child.control.send(pickle.dumps((token, seconds)))
        with contextlib.suppress(OSError):
            os.truncate(child.stack, 0)
        _signal(child, INTERRUPT)

    def recall(self, number: int) -> None:
        """Have a child give back what it has not started."""
        self.interrupt(number, RECALL, None)

    def retire(self, number: int) -> None:
        """Have a child end by itself: nothing more will come through its pipe."""
        if (child := self._processes.get(number)) is not None:
            with contextlib.suppress(OSError):
                child.pipe.shutdown(socket.SHUT_WR)

    def condemn(self, number: int) -> None:
        """Kill a child; its death is told when it has happened."""
        if (child := self._processes.get(number)) is not None:
            child.killed = True
            _signal(child, END)

    def kill(self, number: int) -> None:
        if (child := self._processes.pop(number, None)) is not None:
            self._forget(child)
            _signal(child, END)
            child.process.join(_JOIN_SECONDS)
            if child.process.exitcode is None:  # somebody has stopped the warden
                _signal(child, signal.SIGKILL)

    def measure(self, number: int) -> int:
        """How many bytes of memory a child has taken; 0: it does not live yet, or not any more."""
        child = self._processes.get(number)
        return memory.measure(read_child(records[0])) if child is not None and (records := child.hear()) else 0

    def memory_bytes(self) -> int:
        """How many all children have taken."""
        return sum(map(self.measure, self._processes))

    def beat(self) -> None:
        """To be called every few seconds."""
        self._oom_kills.forget_old()

    def close(self) -> None:
        """Kill all children and remove the unpacked code."""
        for child in self._processes.values():
            _signal(child, END)
        for number in list(self._processes):
            self.kill(number)
        shutil.rmtree(self._directory, ignore_errors=True)
        self._lock.close()

    # --- what the loop calls when a child's file descriptor is ready -----------------------------------------

    def _ready(self, child: _Process, ready: int) -> list[events.Event]:
        if self._processes.get(child.number) is not child:
            return []  # killed in this very turn, for something that the master said
        if ready & selectors.EVENT_WRITE:
            self._flush(child)
        return self._read(child) if ready & selectors.EVENT_READ else []

    def _died(self, child: _Process, ready: int) -> list[events.Event]:
        if self._processes.pop(child.number, None) is None:
            return []
        reports = self._read(child)  # what it handed over before it died
        child.process.join(_JOIN_SECONDS)
        text = _read_text(child.stack)
        death = self._certify(child, text)
        printed = child.tail.read()
        self._forget(child)
        if death is None:
            return [*reports, events.StartFailed(child.number, "its process could not be forked")]
        return [*reports, events.ChildDied(child.number, death.reason, stack_of_tasks(text), printed, death)]

    def _certify(self, child: _Process, stack: str) -> Death | None:
        """How a child has died; None: it has never lived."""
        match child.hear():
            case [_, record]:
                ended = read_ended(record)
                death = replace(how_it_ended(ended.exit_code), peak_bytes=ended.peak_bytes)
            case [_]:
                death = how_it_ended(-signal.SIGKILL)  # with its warden
            case _:
                return None
        oom = None if child.killed or death.signal != "SIGKILL" else self._oom_kills.one_more()
        fatal = stack.rpartition(_FATAL)
        return replace(
            death, host=self._host, worker=self._worker, oom=oom, stack=stack_of_tasks(fatal[2]) if fatal[1] else ""
        )

    def _read(self, child: _Process) -> list[events.Event]:
        reports: list[events.Event] = []
        while True:
            space = child.frames.space()
            try:
                size = child.pipe.recv_into(space)
            except BlockingIOError:
                return reports
            except OSError:
                size = 0
            if size == 0:  # closed: the sentinel will tell how it died
                if child.pipe.fileno() in self._selector.get_map():
                    self._selector.unregister(child.pipe)
                return reports
            try:
                for content in child.frames.received(size):
                    message = messages.decode_child(content)
                    reports += _events(child.number, message, len(content) > messages.WEIGHT_BYTES)
            except ProtocolError as error:
                logger.warning("a child process is killed: %s", error)
                child.killed = True
                _signal(child, END)  # the sentinel will tell
                return reports
            if child.interrupted and any(isinstance(report, events.Finished) for report in reports):
                child.interrupted = False
                if self._is_crowded(child):
                    reports.append(events.Crowded(child.number))
            if reports or (size < len(space) and not child.frames.pending):
                return reports  # of a large frame, more may have come meanwhile

    def _is_crowded(self, child: _Process) -> bool:
        """Whether there are processes in its family besides itself."""
        return child.process.pid is not None and len(descendants(child.process.pid)) > 1

    # --- inside ------------------------------------------------------------------------------------------------

    def _write(self, child: _Process, message: tuple[object, ...], behind: Sequence[Buffer] = ()) -> None:
        parts: list[Buffer] = [*frame(messages.encode(message)), *behind]
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
        if bool(child.outbox) != child.blocked and child.pipe in self._selector.get_map():
            child.blocked = not child.blocked
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if child.blocked else 0)
            self._selector.modify(child.pipe, events, (self._ready, child))

    def _forget(self, child: _Process) -> None:
        for source in (child.pipe, child.process.sentinel):
            if source in self._selector.get_map():
                self._selector.unregister(source)
        child.pipe.close()
        child.control.close()
        child.report.close()
        child.stack.unlink(missing_ok=True)
        child.tail.remove()
        scratch.remove_later(self._scratch_of(child.number))

    def _scratch_of(self, number: int) -> Path:
        return self._directory / f"scratch-{number}"


def _events(child: int, message: messages.Message, heavy: bool) -> Iterator[events.FromChild]:
    """What a child has said; of large outcomes, as much at a time as the master's cap on a frame asks for."""
    match message:
        case ("outcomes", list(parts), list(outcomes), float(seconds)):
            if heavy:
                yield from (events.Finished(child, [], 0.0, some) for some in messages.split(parts))
                for some in messages.split(outcomes):
                    yield events.Finished(child, some, seconds * len(some) / len(outcomes))
            else:
                yield events.Finished(child, outcomes, seconds, parts)
        case (str(name), *fields):
            yield _FROM_CHILD[name](child, *fields)  # type: ignore[arg-type]


def _signal(child: _Process, number: int) -> None:
    if child.process.pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.process.pid, number)


def _read_text(path: Path) -> str:
    """What a child's fault handler wrote; a task may have put anything there instead."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return ""
    with open(descriptor, "rb", buffering=0) as file, contextlib.suppress(OSError):
        return (file.read(_MAX_STACK_BYTES) or b"").decode("utf-8", "replace")
    return ""

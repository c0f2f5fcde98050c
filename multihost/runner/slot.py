"""What a child process does: make the session's code importable, run tasks, and hand over how they ended.

    the worker --(pipe)--> Slot --> Backlog --> the main thread, or several threads, that call the functions
               --(signal, control socket)--> Interrupts
               <--(pipe)-- Outbox <-- outcomes, ChunkRun, Output, RelayDoor (sessions that tasks open)

These are the only modules of the worker in which what clients send is imported and run.
"""

import atexit
import contextlib
import io
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.pool import MaybeEncodingError  # type: ignore[attr-defined]
from pathlib import Path
from types import CoroutineType, TracebackType
from typing import Any

from multihost import enclosing, payload, workspace
from multihost.errors import CodeNotFound, MultihostError, ResultTooLarge, TaskOutOfMemory, TaskTimeout
from multihost.heap import reuse_large
from multihost.runner.backlog import Backlog, Order
from multihost.runner.chunk import ChunkRun
from multihost.runner.coroutines import Coroutines
from multihost.runner.door import RelayDoor
from multihost.runner.interrupts import Interrupts, TaskStopped
from multihost.runner.memory import MemoryLimit
from multihost.runner.outbox import GATHER_SECONDS, Content, Outbox
from multihost.runner.output import Output, TaskStream
from multihost.runner.pipe import Pipe
from multihost.runner.scratch import Scratch
from multihost.runner.sources import is_archive, make_ready
from multihost.runner.tail import Tail
from multihost.runner.warden import fork_guarded

_KEPT_BYTES = 64 * 1024 * 1024  # of what large values have left; tasks may need memory for other things
Function = Callable[..., Any]
Exceptions = tuple[type[BaseException], ...]


@dataclass(frozen=True)
class SlotConfig:
    """What a child is told at its start."""

    worker: str
    max_payload: int  # bytes
    directory: str  # where the archives of the session's own modules are unpacked, for all children
    stack: str  # a file for the Python stack when a task is interrupted
    tail: str  # a file for the last lines of output, which outlive this process
    scratch: str  # a directory for those of the tasks; not there yet
    threads: int  # how many tasks run at a time
    forward_output: bool
    memory: int  # bytes that tasks may have; 0: any number
    needs: tuple[str, ...]  # ids of the blobs that come before any task


def main(pipe: socket.socket, control: socket.socket, report: Connection, config: SlotConfig) -> None:
    """Serve until the worker closes the pipe, in a process of which ``report`` tells how it ended."""
    _release_fork_server()
    sys.excepthook = sys.__excepthook__  # the fork server has its own
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the worker, which drains

    def release() -> None:
        pipe.close()
        control.close()

    try:
        fork_guarded(report, release)
    except OSError:
        os._exit(1)  # there is no room for a process; that nothing was reported tells it
    reuse_large(_KEPT_BYTES)
    slot = Slot(Pipe(pipe), control, config)
    with contextlib.suppress(EOFError, OSError):  # the worker closed the pipe, or is gone
        slot.serve()
    atexit._run_exitfuncs()  # what tasks registered; a process of multiprocessing ends without


def _release_fork_server() -> None:
    """Close our copy of the pipe whose closing ends the fork server, so that it ends with the worker, not with us."""
    fork_server: Any = forkserver._forkserver  # nothing public closes it
    if fork_server._forkserver_alive_fd is not None:
        os.close(fork_server._forkserver_alive_fd)
        fork_server._forkserver_alive_fd = None


class Slot:
    """The functions this process knows, and how it runs them."""

    def __init__(self, pipe: Pipe, control: socket.socket, config: SlotConfig) -> None:
        self._pipe = pipe
        self._config = config
        self._definitions: dict[str, bytes] = {}  # of those that were not called yet
        self._functions: dict[str, payload.Function] = {}
        self._needs: dict[str, bytes] = {}  # archives and initializers, in the order in which they are wanted
        self._preparing = threading.Lock()
        self._prepared = False
        self._unprepared: BaseException | None = None  # why the session's code cannot be imported
        self._backlog = Backlog()
        self._memory = MemoryLimit(config.memory, config.worker)
        self._interrupts = Interrupts(control, config.stack, config.worker)
        self._alone = config.threads == 1  # whether one task runs at a time, in the main thread
        self._order = Order("", {})  # of that one
        # (Token, depth) of the task that runs in this thread or coroutine, where several run at a time.
        self._here: ContextVar[tuple[int, int] | None] = ContextVar("multihost_task", default=None)
        self._running: dict[int, int] = {}  # token -> depth
        self._output = Output(self._whose, config.forward_output, self._interrupts, Tail(config.tail).write)
        self._outbox = Outbox(pipe, self._interrupts, self._output, self._memory.lifted)
        self._scratch = Scratch(Path(config.scratch), self._place)
        self._output.wake = self._outbox.pulse
        self._coroutines = Coroutines(in_thread=not self._alone)
        self._interrupts.cancel = self._coroutines.cancel
        self._interrupts.recall = self._recalled
        self._door = RelayDoor(
            config.needs,
            {"max_payload": config.max_payload},
            self._outbox.send,
            self._depth,
            self._whose,
            self._lend,
            self._read_in_thread,
            self._interrupts,
        )
        self._reading = threading.Lock()  # held to change who reads the pipe
        self._is_copy = False  # whether a task has forked this process from its slot's
        self._at_work = False  # whether the main thread runs tasks, rather than reads the pipe
        self._reader_wanted = False
        self._reader: threading.Thread | None = None
        self._surround()

    def _surround(self) -> None:
        """Have what tasks use know of us."""
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            assert isinstance(stream, io.TextIOWrapper)
            setattr(sys, name, TaskStream(stream, name, self._output.write))
        enclosing.door = self._door
        workspace.of_task = self._scratch.path
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        """A task forked this process: the copy must not speak to the worker, nor read what it says."""
        self._is_copy = True
        self._outbox.close()
        self._output.forget()
        enclosing.door = None

    # --- what comes through the pipe ---------------------------------------------------------------------------

    def serve(self) -> None:
        """Run tasks until the worker closes the pipe. Raises: EOFError, OSError, when that happens."""
        if not self._alone:
            for number in range(self._config.threads):
                threading.Thread(target=self._work_forever, name=f"multihost-{number}", daemon=True).start()
            self._read_forever()
            return
        while self._reader is None:
            self._receive(self._pipe.receive())
            self._at_work = True
            if self._reader_wanted:
                self._start_reader()
            self._work()
            with self._reading:
                self._at_work = False
        self._work_forever()

    def _receive(self, message: tuple[Any, ...]) -> None:
        match message:
            case ("run", function_id, options, tasks):  # no classes: to match one costs 0.5 µs, and 8 in cold caches
                if refused := self._backlog.add(Order(function_id, options), tasks):
                    self._outbox.send(("unstarted", refused))
            case ("run_large", str(function_id), dict(options), list(sizes)):
                self._receive(("run", function_id, options, [(token, self._pipe.read(size)) for token, size in sizes]))
            case ("function", str(function_id), bytes(definition)):
                self._definitions[function_id] = definition
            case ("drop", list(function_ids)):
                for function_id in function_ids:
                    self._definitions.pop(function_id, None)
                    self._functions.pop(function_id, None)
            case ("need", str(blob_id), bytes(content)):
                self._needs[blob_id] = content
                if is_archive(content):
                    self._door.archives = (*self._door.archives, blob_id)
            case _:
                self._door.deliver(message)

    def _read_in_thread(self) -> None:
        """From now on the pipe is to be read while tasks run, too. Where they run in threads, the main one does it."""
        if self._alone:
            self._reader_wanted = True
            self._start_reader()

    def _start_reader(self) -> None:
        """Unless the main thread reads the pipe now: then that calls this before it does anything else."""
        with self._interrupts, self._reading:
            if self._at_work and self._reader is None:
                reader = threading.Thread(target=self._read_forever, name="multihost-reader", daemon=True)
                reader.start()  # where that fails, it is the error of the task that wants to submit others
                self._reader = reader

    def _read_forever(self) -> None:
        try:
            while True:
                self._receive(self._pipe.receive())
        except (EOFError, OSError):
            self._backlog.close()
        except MemoryError:  # a task has left us none: what came is lost, and with it the worker's account of us
            os.abort()

    def _recalled(self) -> None:
        """What runs takes long: give back what has not started. This may run at any line of a task."""
        if self._config.threads == 1 and self._interrupts.running is None:
            return  # between two tasks; the worker will ask again if the next one takes long, too
        if self._config.threads == 1 and self._reader is None:
            with contextlib.suppress(EOFError, OSError), self._memory.lifted():  # gone: the main loop will notice
                while self._pipe.poll():
                    self._receive(self._pipe.receive())
        if unstarted := self._backlog.give_up():
            self._outbox.send(("unstarted", unstarted))

    def _lend(self, lending: bool) -> None:
        """Our slot may go to another child, and what we have not started with it; or we would have it back."""
        unstarted = self._backlog.lend(lending)
        self._outbox.send(("lend", lending))
        if unstarted:
            self._outbox.send(("unstarted", unstarted))

    # --- tasks -------------------------------------------------------------------------------------------------

    def _work_forever(self) -> None:
        with contextlib.suppress(OSError):  # the worker is gone
            while self._backlog.wait():
                self._work()

    def _work(self) -> None:
        """Run what there is to run. Nothing that a task raises ends this process."""
        began = handed = time.perf_counter()
        gathers = False  # whether something may not be handed over yet
        while (task := self._backlog.take()) is not None:
            order, token, arguments = task
            kind, content = self._run(order, token, arguments)
            if self._is_copy:
                os._exit(0)  # the task returned in the copy, too
            self._output.end(token)
            if self._scratch.made:
                self._scratch.remove(token)
            now = time.perf_counter()
            is_large = self._outbox.put(token, kind, content, now - began)
            began = now
            if is_large or now - handed > GATHER_SECONDS or "careful" in order.options:
                self._outbox.hand_over()
                handed, gathers = now, False
            else:
                gathers = True
                if self._backlog:
                    self._outbox.pulse()
        if gathers:
            self._outbox.hand_over()

    def _run(self, order: Order, token: int, arguments: bytes) -> tuple[str, Content]:
        """Run one task: its outcome's kind and content."""
        interrupts = self._interrupts
        if interrupts.cancelled and interrupts.take_cancelled(token):
            return "error", b""  # nobody waits for it
        try:
            known, loaded = self._load(order.function_id, arguments)
            function, retry_for, places = known
            if interrupts.cancelled and interrupts.take_cancelled(token):
                return "error", b""
            if "timeout" in order.options or (retry_for and self._memory.of(order.options)):
                retries = issubclass(TaskTimeout, retry_for), issubclass(TaskOutOfMemory, retry_for)
                self._outbox.send(("started", token, *retries))
        except BaseException as error:
            return "error", self._dump_error(error, token)
        try:
            self._enter(order, token)
            if "chunk" in order.options:
                if places:
                    loaded = [known.complete((item, {}))[0] for item in loaded]
                return self._run_chunk(order, token, function, loaded)
            args, kwds = payload.one_item(loaded, order.options["item"]) if "item" in order.options else loaded
            if places:
                args, kwds = known.complete((args, kwds))
            result = function(*args, **kwds)
            if type(result) is CoroutineType:
                result = self._coroutines.run(token, result)
            interrupts.running = None
        except BaseException as error:
            interrupts.running = None
            error = self._memory.explain(error, token)
            self._leave(token)
            kind = "retry" if isinstance(error, retry_for) else "error"
            return kind, self._dump_error(error, token)
        self._leave(token)
        return self._pack(result, token)

    def _run_chunk(self, order: Order, token: int, function: Function, items: Any) -> tuple[str, bytes]:
        done: Any = order.options.get("done", 0)
        gather = 0.0 if "careful" in order.options else GATHER_SECONDS
        chunk = ChunkRun(done, self._config.max_payload, lambda error: self._dump_error(error, token))
        self._outbox.begin_chunk(token, chunk)
        call = self._caller(token, function, star=order.options["chunk"] == "starmap")
        try:
            chunk.run(call, items[done:], self._outbox.hand_over, gather, self._is_fatal)
            self._interrupts.running = None
        except BaseException as error:
            self._interrupts.running = None
            self._leave(token)
            self._outbox.break_chunk(token)
            return "error", self._dump_error(error, token)
        self._leave(token)
        return "result", self._outbox.end_chunk(token)

    def _caller(self, token: int, function: Function, star: bool) -> Callable[[Any], object]:
        """What to call with each item of a chunk: nothing between it and the function that needs not be."""
        code = getattr(function, "__code__", None)
        # A decorator leaves something there: functools.wraps what it wraps, inspect.markcoroutinefunction its mark.
        decorated = bool(getattr(function, "__dict__", None))
        if not star and not decorated and code is not None and not code.co_flags & _MAY_BE_AWAITED:
            return function

        def call(item: Any) -> object:
            result = function(*item) if star else function(item)
            return self._coroutines.run(token, result) if type(result) is CoroutineType else result

        return call

    def _is_fatal(self, error: BaseException) -> bool:
        """Whether an exception came from outside the task, to end it."""
        return isinstance(error, TaskStopped) or error is self._interrupts.raised

    def _pack(self, result: object, token: int) -> tuple[str, Content]:
        try:
            content = payload.dumps_large(result) if payload.is_large(result) else payload.dumps(result)
        except BaseException as error:  # a __reduce__ of the user's may raise anything
            return "error", self._dump_error(MaybeEncodingError(error, result), token)
        if len(content) > self._config.max_payload:
            return "error", self._dump_error(ResultTooLarge(len(content), self._config.max_payload), token)
        return "result", content if isinstance(content, bytes) else content.stand_in()

    def _dump_error(self, error: BaseException, token: int) -> bytes:
        """The bytes of a task's exception: its traceback begins in the user's code; what was printed last is a note."""
        # Of a chunk, the task still runs, and an end that comes meanwhile must not be lost.
        with self._interrupts, self._memory.lifted():
            return self._dump(self._memory.explain(error, token), token)

    def _dump(self, error: BaseException, token: int) -> bytes:
        error.__traceback__ = _without_ours(error.__traceback__)
        if error is self._interrupts.raised:
            _cut_ours(error.__traceback__)
        tail = self._output.tail(token)
        if not tail:
            return payload.dump_error(error, self._config.max_payload)
        error.add_note(f"last output:\n{tail}")
        content = payload.dump_error(error, self._config.max_payload)
        error.__notes__.pop()  # it may be raised again, by another task
        return content

    # --- which task this is ------------------------------------------------------------------------------------

    def _enter(self, order: Order, token: int) -> None:
        """A task is to run in this thread."""
        if limit := self._memory.of(order.options):
            self._memory.enter(token, limit)
        if self._alone:
            self._order = order
            self._interrupts.raised = None
            self._interrupts.running = token
        else:
            depth: Any = order.options.get("depth", 0)
            self._running[token] = depth
            self._here.set((token, depth))

    def _leave(self, token: int) -> None:
        """The task that ran in this thread has ended."""
        self._memory.leave(token)
        if not self._alone:
            self._running.pop(token, None)
            self._here.set(None)
            self._interrupts.take_cancelled(token)

    def _whose(self) -> int | None:
        """The token of the task that runs here; of the only one that runs, where a thread of its own asks."""
        if self._alone:
            return self._interrupts.running
        if (here := self._here.get()) is not None:
            return here[0]
        running = self._running
        return next(iter(running), None) if len(running) == 1 else None

    def _place(self) -> tuple[int, int] | None:
        """Token and item of the task that runs here."""
        token = self._whose()
        return None if token is None else (token, self._outbox.item(token))

    def _depth(self) -> int:
        if self._alone:
            depth: Any = self._order.options.get("depth", 0)
            return int(depth)
        if (here := self._here.get()) is not None:
            return here[1]
        return max(self._running.values(), default=0)

    # --- code --------------------------------------------------------------------------------------------------

    def _load(self, function_id: str, arguments: bytes) -> tuple[payload.Function, Any]:
        try:
            if not self._prepared:
                self._prepare()
            if self._unprepared is not None:
                raise self._unprepared
            definition = self._definitions.get(function_id, b"")  # before the next: another thread may load it now
            known = self._functions.get(function_id)
            if known is None:
                known = self._functions[function_id] = payload.load_function(definition)
                self._definitions.pop(function_id, None)  # it may be large
            return known, payload.loads(arguments)
        except MultihostError:
            raise
        except SyntaxError as error:
            if not hasattr(error, "__notes__"):  # it may be that of all tasks
                error.add_note(f"worker {self._config.worker} runs Python {payload.PYTHON_MINOR}")
            raise
        except (ImportError, AttributeError) as error:
            name = getattr(error, "name", None) or "what the task names"
            raise CodeNotFound(name, self._config.worker, f"{type(error).__name__}: {error}") from error

    def _prepare(self) -> None:
        """Import the session's code and call its initializer, once; what that raises is the outcome of each task."""
        with self._preparing:
            if self._prepared:
                return  # another thread was faster
            try:
                make_ready(self._needs.items(), Path(self._config.directory))
            except BaseException as error:
                self._unprepared = error
            self._prepared = True


# Of a function's code: that it is a coroutine function, or was marked as if it were one.
_MAY_BE_AWAITED = 0x80 | 0x100


def _without_ours(traceback: TracebackType | None) -> TracebackType | None:
    """``traceback`` without the frames of this package at its beginning."""
    first = traceback
    while first is not None and _is_ours(first):
        first = first.tb_next
    return first


def _cut_ours(traceback: TracebackType | None) -> None:
    """End ``traceback`` where this package's signal handler begins."""
    while traceback is not None:
        if traceback.tb_next is not None and _is_ours(traceback.tb_next):
            traceback.tb_next = None
        traceback = traceback.tb_next


def _is_ours(traceback: TracebackType) -> bool:
    return str(traceback.tb_frame.f_globals.get("__name__")).startswith("multihost.runner.")

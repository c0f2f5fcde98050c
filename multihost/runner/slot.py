"""What a child process does: make the session's code importable, run tasks one after another, hand outcomes over.

This is the only module of the worker in which what clients send is imported and run.
"""

import contextlib
import ctypes
import importlib.util
import io
import json
import os
import pickle
import runpy
import shutil
import signal
import sys
import tempfile
import time
import types
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.pool import MaybeEncodingError  # type: ignore[attr-defined]
from multiprocessing.process import current_process
from pathlib import Path
from typing import Any

from multihost import payload
from multihost.errors import CodeNotFound, MultihostError, ResultTooLarge

# Outcomes of tiny tasks are gathered for so long before they are handed over; those of slower ones go at once.
_GATHER_SECONDS = 0.001
_PR_SET_PDEATHSIG = 1

Function = Callable[..., object]


@dataclass(frozen=True)
class SlotConfig:
    """What a child is told at its start."""

    worker: str
    max_payload: int  # bytes
    directory: str  # where the archives of the session's own modules are unpacked, for all children


def main(pipe: Connection, config: SlotConfig) -> None:
    """Serve until the worker closes the pipe."""
    # If the worker is killed, the fork server ends, and with it this process: what it ran is run elsewhere.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _release_fork_server()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the worker, which drains
    for stream in (sys.stdout, sys.stderr):
        assert isinstance(stream, io.TextIOWrapper)
        stream.reconfigure(line_buffering=True, write_through=False)  # whole lines, else those of two slots mix
    slot = Slot(pipe, config)
    with contextlib.suppress(EOFError, OSError):  # the worker closed the pipe, or is gone
        while True:
            slot.receive(pickle.loads(pipe.recv_bytes()))


def _release_fork_server() -> None:
    """Close our copy of the pipe whose closing ends the fork server, so that it ends with the worker, not with us."""
    fork_server: Any = forkserver._forkserver  # nothing public closes it
    if fork_server._forkserver_alive_fd is not None:
        os.close(fork_server._forkserver_alive_fd)
        fork_server._forkserver_alive_fd = None


class Slot:
    """The functions this process knows, and the outcomes it has not handed over yet."""

    def __init__(self, pipe: Connection, config: SlotConfig) -> None:
        self._pipe = pipe
        self._config = config
        self._definitions: dict[str, bytes] = {}
        self._functions: dict[str, Function] = {}
        self._needs: dict[str, bytes] = {}  # archives and initializers, in the order in which they are wanted
        self._prepared = False
        self._unprepared: BaseException | None = None  # why the session's code cannot be imported
        self._outcomes: list[tuple[int, str, bytes]] = []
        self._since = 0.0

    def receive(self, message: tuple[object, ...]) -> None:
        match message:
            case ("need", str(blob_id), bytes(content)):
                self._needs[blob_id] = content
            case ("function", str(function_id), bytes(definition)):
                self._definitions[function_id] = definition
            case ("run", str(function_id), list(tasks)):
                self._since = time.perf_counter()
                for token, arguments in tasks:
                    self._outcomes.append((token, *self._run(function_id, arguments)))
                    if time.perf_counter() - self._since > _GATHER_SECONDS:
                        self._hand_over()
                if self._outcomes:
                    self._hand_over()

    def _hand_over(self) -> None:
        now = time.perf_counter()
        self._pipe.send_bytes(pickle.dumps((self._outcomes, now - self._since), protocol=5))
        self._outcomes, self._since = [], now

    def _run(self, function_id: str, arguments: bytes) -> tuple[str, bytes]:
        """Run one task: its outcome's kind and content. Nothing that a task raises ends this process."""
        try:
            function, (args, kwds) = self._load(function_id, arguments)
        except BaseException as error:
            return "error", self._dump_error(error)
        try:
            result = function(*args, **kwds)
        except BaseException as error:
            if error.__traceback__ is not None:
                error.__traceback__ = error.__traceback__.tb_next  # without this frame
            return "error", self._dump_error(error)
        try:
            content = payload.dumps(result)
        except Exception as error:
            return "error", self._dump_error(MaybeEncodingError(error, result))
        if len(content) > self._config.max_payload:
            return "error", self._dump_error(ResultTooLarge(len(content), self._config.max_payload))
        return "result", content

    def _dump_error(self, error: BaseException) -> bytes:
        return payload.dump_error(error, self._config.max_payload)

    def _load(
        self, function_id: str, arguments: bytes
    ) -> tuple[Function, tuple[tuple[object, ...], dict[str, object]]]:
        try:
            self._prepare()
            function = self._functions.get(function_id)
            if function is None:
                function = self._functions[function_id] = payload.loads(self._definitions[function_id])  # type: ignore[assignment]
            return function, payload.loads(arguments)  # type: ignore[return-value]
        except MultihostError:
            raise
        except (ImportError, AttributeError) as error:
            name = getattr(error, "name", None) or "what the task names"
            raise CodeNotFound(name, self._config.worker, f"{type(error).__name__}: {error}") from error

    def _prepare(self) -> None:
        """Import the session's code and call its initializer, once; what that raises is the outcome of each task."""
        if not self._prepared:
            self._prepared = True
            needs = self._needs.items()
            try:
                beneath = Path(self._config.directory)
                prepare([unpack(blob_id, content, beneath) for blob_id, content in needs if is_archive(content)])
                for initializer in (content for _, content in needs if not is_archive(content)):
                    call(initializer)
            except BaseException as error:
                self._unprepared = error
        if self._unprepared is not None:
            raise self._unprepared


def call(pickled: bytes) -> None:
    """Call a pickled (function, args)."""
    unpickled: Any = payload.loads(pickled)
    function, args = unpickled
    function(*args)


def is_archive(content: bytes) -> bool:
    """Whether a blob is an archive of sources; if not, it is an initializer with its arguments."""
    return content.startswith(b"PK")


def unpack(archive_id: str, content: bytes, beneath: Path) -> Path:
    """The directory with an archive's content; whichever child is first makes it, and makes it whole or not at all."""
    directory = beneath / archive_id
    if not directory.exists():
        scratch = Path(tempfile.mkdtemp(dir=beneath))
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            archive.extractall(scratch)  # ZipFile strips from names what would lead out of the directory
        try:
            scratch.rename(directory)
        except OSError:  # another child was faster
            shutil.rmtree(scratch)
    return directory


def prepare(archives: list[Path]) -> None:
    """Put the session's own modules first on ``sys.path``, and run its main script as spawn does."""
    sys.path[:0] = map(str, archives)
    for directory in archives:
        manifest = json.loads((directory / payload.MANIFEST).read_text())
        if manifest["main"] is not None:
            _import_main(directory, manifest["main"], manifest["module"])


def _import_main(directory: Path, file: str, module: str | None) -> None:
    """As ``multiprocessing.spawn`` prepares a child: the script's definitions are there, its main block did not run."""
    main = types.ModuleType("__mp_main__")
    before = sys.modules["__main__"]
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main
    # A script without the guard would start a pool of its own here; with this mark, that is an error which says so.
    current_process()._inheriting = True  # type: ignore[attr-defined]
    try:
        if module is not None and importlib.util.find_spec(module) is not None:
            content = runpy.run_module(module, run_name="__mp_main__", alter_sys=True)
        else:
            content = runpy.run_path(str(directory / file), run_name="__mp_main__")
    except BaseException:
        sys.modules["__main__"] = before
        raise
    finally:
        del current_process()._inheriting  # type: ignore[attr-defined]
    main.__dict__.update(content)

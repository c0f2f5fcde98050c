"""How a program's code travels: its own modules as one archive of sources, its functions by name or by value.

The program's own modules are the loaded ones whose source is not installed (neither the standard library nor
site-packages), and what lies beside them to be imported later: the sources in the main script's directory and the
packages they belong to. Data files do not travel.
"""

import io
import json
import os
import site
import sys
import sysconfig
import time
import types
import weakref
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path

from multihost import payload
from multihost.errors import TaskTooLarge

_OURSELVES = "multihost"  # installed on the workers, whatever it is here
# A script in a directory with more sources than this takes only what it has imported.
_MAX_FILES = 2000
# A look at the sources costs a millisecond or more. For what is not remembered (lambdas, partials, bound methods)
# and so would be looked at in each call, an edited file is new code after so many seconds.
_LOOK_SECONDS = 0.2
_REMEMBERABLE = (types.FunctionType, types.BuiltinFunctionType, type)
# Content decides the archive's name, so what varies without meaning (times, order) is fixed.
_EPOCH = (1980, 1, 1, 0, 0, 0)


Initializer = tuple[Callable[..., object], tuple[object, ...]]
RetryFor = tuple[type[BaseException], ...]


@dataclass(frozen=True, slots=True)
class Blob:
    """Content to be sent once; ``needs`` are the ids of the blobs that go before it."""

    blob_id: str
    content: bytes | payload.Large
    needs: tuple[str, ...] = ()
    passing: bool = False  # of use to the tasks that there are, and not again


@dataclass(frozen=True, slots=True)
class Main:
    """The program's main script: its file's name in the archive, and its module name if it was run with ``-m``."""

    file: str
    module: str | None
    root: Path


class CodeBook:
    """Turns functions into blobs, for one session. Not thread-safe.

    Args:
        max_bytes: what the master accepts of one blob.
        initializer: a function and its arguments, to be called once in each process that runs the session's tasks.
        inherited: for a session that a task opens, the ids of the blobs that brought the program's code to it.
    Raises: what pickling the initializer raises; TaskTooLarge.
    """

    def __init__(
        self, max_bytes: int, initializer: Initializer | None = None, inherited: tuple[str, ...] | None = None
    ) -> None:
        self._max_bytes = max_bytes
        self._inherited = inherited
        # Whether workers can import what ``__main__`` defines.
        self.main_travels = inherited is not None or find_main() is not None
        self._initializers: list[Blob] = []
        if initializer is not None:
            content = payload.dumps(initializer, self.main_travels)
            self._initializers = [self._blob("the initializer, with its arguments,", content)]
        # Only functions that travel by name are remembered: what a closure holds may change between two calls.
        self._named: weakref.WeakKeyDictionary[Callable[..., object], dict[RetryFor, list[Blob]]] = (
            weakref.WeakKeyDictionary()
        )
        self._fingerprint: tuple[object, ...] | None = None
        self._looked, self._modules = float("-inf"), 0  # when, and how many modules were loaded then
        self._archives: list[Blob] = []  # one, or none if the program has no modules of its own

    def blobs_for(self, function: Callable[..., object], retry_for: RetryFor = ()) -> list[Blob]:
        """What a worker needs to call ``function``, the function's own blob last.

        ``retry_for`` are the exceptions after which its caller wants another try.

        Raises: what pickling ``function`` raises; TaskTooLarge.
        """
        rememberable = isinstance(function, _REMEMBERABLE)
        if rememberable and (known := self._named.get(function)) is not None and retry_for in known:
            return known[retry_for]
        self._refresh_archive(at_most_every=0.0 if rememberable else _LOOK_SECONDS)
        definition = payload.dumps(payload.Retrying(function, retry_for) if retry_for else function, self.main_travels)
        needs = tuple(need.blob_id for need in (*self._archives, *self._initializers))
        blob = self._blob("a function", definition, (*(self._inherited or ()), *needs))
        blobs = [*self._archives, *self._initializers, blob]
        if rememberable and not payload.is_by_value(definition):
            self._named.setdefault(function, {})[retry_for] = blobs
        return blobs

    def knows(self, function: Callable[..., object]) -> bool:
        """Whether ``blobs_for`` would return what it did before."""
        return isinstance(function, _REMEMBERABLE) and function in self._named

    def bind(self, blobs: list[Blob], places: payload.Places) -> list[Blob]:
        """What a worker needs to call the function of ``blobs`` with these arguments.

        Raises: TaskTooLarge.
        """
        *needs, function = blobs
        assert isinstance(function.content, bytes)  # it is bound to nothing yet
        content = payload.bind(function.content, places)
        return [*needs, replace(self._blob("a function", content, function.needs), passing=True)]

    def _refresh_archive(self, at_most_every: float) -> None:
        """Pack the program's modules as they are on disk now, if they are not as they were.

        Within so many seconds it is not looked again, unless a module was imported meanwhile.
        """
        if self._inherited is not None:
            return
        now, modules = time.monotonic(), len(sys.modules)
        if now - self._looked < at_most_every and modules == self._modules:
            return
        self._looked, self._modules = now, modules
        files, main = own_sources(), find_main()
        fingerprint = (main, *((name, path, _stamp(path)) for name, path in sorted(files.items())))
        if fingerprint != self._fingerprint:
            content = pack(files, main, sys.argv)
            self._archives = [self._blob("the program's own source code", content)] if files else []
            self._fingerprint = fingerprint

    def _blob(self, what: str, content: bytes | payload.Large, needs: tuple[str, ...] = ()) -> Blob:
        if len(content) > self._max_bytes:
            raise TaskTooLarge(what, len(content), self._max_bytes)
        return Blob(payload.content_id(content, needs), content, needs)


def own_sources() -> dict[str, Path]:
    """The program's own source files: name in the archive -> path."""
    files: dict[str, Path] = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in (_OURSELVES, "__main__", "__mp_main__"):
            continue
        path = _source_of(module)
        if path is not None:
            stem = name.replace(".", "/")
            files[f"{stem}/__init__.py" if path.name == "__init__.py" else f"{stem}.py"] = path
    main = find_main()
    if main is not None:
        beside = list(islice(_importable_beneath(main.root, set()), _MAX_FILES + 1))
        if len(beside) <= _MAX_FILES:
            files |= {str(path.relative_to(main.root)): path for path in beside}
        files[main.file] = main.root / main.file
    return files


def find_main() -> Main | None:
    """The main script, if it is a source file of the user's own: not a REPL, a notebook, or an installed program."""
    module = sys.modules.get("__main__")
    path = _source_of(module) if module is not None else None
    if module is None or path is None:
        return None
    spec = getattr(module, "__spec__", None)
    if spec is None:
        return Main(path.name, None, path.parent)
    depth = spec.name.count(".") + 1
    root = path.parents[depth - 1]
    return Main(str(path.relative_to(root)), spec.name, root)


def pack(files: dict[str, Path], main: Main | None, argv: list[str]) -> bytes:
    """The archive: the same sources and arguments of the program always give the same bytes."""
    manifest = {"main": main.file if main else None, "module": main.module if main else None, "argv": argv}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(payload.MANIFEST, _EPOCH), json.dumps(manifest))
        for name in sorted(files):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, files[name].read_bytes())
    return buffer.getvalue()


def _source_of(module: types.ModuleType) -> Path | None:
    """The source file of a module of the user's own."""
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or not file.endswith(".py"):
        return None
    path = Path(file).absolute()
    return path if path.is_file() and not _is_installed(str(path)) else None


def _importable_beneath(root: Path, seen: set[Path]) -> Iterator[Path]:
    """The modules in a directory and in the packages below it, as the import system would find them.

    What may not be read is passed over: a script may lie in /tmp, among the directories of others. ``seen`` are the
    directories on the way, for a link may lead back to one.
    """
    if root.resolve() in seen:
        return
    for path in _entries(root):
        if path.suffix == ".py" and path.is_file() and os.access(path, os.R_OK):
            yield path
        elif path.name != _OURSELVES and os.access(path / "__init__.py", os.R_OK):
            yield from _importable_beneath(path, seen | {root.resolve()})


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def _is_installed(path: str) -> bool:
    return path.startswith(_installed_prefixes())


@cache
def _installed_prefixes() -> tuple[str, ...]:
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")}
    paths |= {*site.getsitepackages(), site.getusersitepackages()}
    return tuple(f"{path.rstrip('/')}/" for path in paths if path)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size

"""A disk that fails, for tests of the journal: the calls that change something are counted, and one goes wrong.

It stands where ``os`` does in the journal's modules. The files are real; they are what a process leaves that is killed.
What a power cut leaves is computed: all that was synced, and of the rest whatever a seed picks, sector by sector and
in any order.
"""

import contextlib
import errno
import itertools
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from multihost.broker import journal, repair, rowfile
from multihost.wire.frames import Buffer

SECTOR = 512


class Crashed(BaseException):
    """The process ends here: nothing that it still does has an effect."""


@dataclass(slots=True)
class _Content:
    """What is on the disk of one file, and what the kernel has not written there yet."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)  # offset and bytes; size and None: a cut

    def synced(self) -> None:
        self.durable = self.after(lambda: True)
        self.pending.clear()

    def synced_up_to(self, end: int) -> None:
        """The first ``end`` bytes are on the disk; what is behind them still waits."""
        waiting: list[tuple[int, bytes | None]] = []
        for offset, data in self.pending:
            if data is None and offset < end:
                del self.durable[offset:]
                waiting.clear()
            elif data is None:
                waiting.append((offset, data))
            else:
                here, behind = data[: max(0, end - offset)], data[max(0, end - offset) :]
                if here:
                    self.durable.extend(bytes(max(0, offset + len(here) - len(self.durable))))
                    self.durable[offset : offset + len(here)] = here
                if behind:
                    waiting.append((offset + len(here), behind))
        self.pending = waiting

    def after(self, is_written: Callable[[], bool]) -> bytearray:
        """What a reader finds if each pending sector was written or not, as ``is_written`` says."""
        content, size = bytearray(self.durable), len(self.durable)
        for offset, data in self.pending:
            if data is None:
                if is_written():
                    del content[offset:]
                continue
            size = max(size, offset + len(data))
            for begin, end in _sectors(offset, offset + len(data)):
                if is_written():
                    content.extend(bytes(max(0, end - len(content))))
                    content[begin:end] = data[begin - offset : end - offset]
        if len(content) < size and is_written():
            content.extend(bytes(size - len(content)))  # the size was written, the content was not
        return content


def _sectors(begin: int, end: int) -> list[tuple[int, int]]:
    """``begin`` to ``end``, cut at the sectors' borders."""
    borders = [begin, *range(begin - begin % SECTOR + SECTOR, end, SECTOR), end]
    return list(itertools.pairwise(borders))


class _Mapping:
    """The first bytes of a file, as ``mmap.mmap`` has them."""

    def __init__(self, disk: "Disk", file: int, length: int) -> None:
        assert length <= os.fstat(file).st_size
        self._disk, self._file, self._length = disk, file, length

    def __enter__(self) -> "_Mapping":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def flush(self) -> None:
        self._disk.sync_start(self._file, self._length)


class Disk:
    """``os``, with a count of the calls that change something, and with something that happens at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seed: int = 0, found: Path | None = None) -> None:
        """An empty disk, or one with what is in the directory ``found``."""
        for module in (journal, rowfile, repair):
            monkeypatch.setattr(module, "os", self)
        monkeypatch.setattr(rowfile, "mmap", SimpleNamespace(mmap=partial(_Mapping, self)))
        self.calls = self.starts_synced = 0
        self.crash_at: int | None = None  # the number of the call in which the process dies
        self.fail_at: range = range(0)  # the numbers of the calls that fail
        self.error = errno.ENOSPC
        self._dead = False
        self._random = random.Random(seed)
        self._files: dict[int, _Content] = {}  # by open file
        files = found.iterdir() if found else ()
        self._names = {str(path): _Content(bytearray(path.read_bytes())) for path in files}
        self._durable_names = self._names
        self._pending_names: list[dict[str, _Content]] = []

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)  # what changes nothing

    # --- calls that change something ---------------------------------------------------------------------------

    def open(self, path: Path | str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT and not os.path.exists(path):
            self._call()
            self._names = {**self._names, str(path): _Content()}
            self._pending_names.append(self._names)
        file = os.open(path, flags, mode)
        directory = flags & os.O_DIRECTORY
        self._files[file] = _Content() if directory else self._names.setdefault(str(path), _Content())
        return file

    def close(self, file: int) -> None:
        if not self._dead:
            self._files.pop(file, None)
            os.close(file)

    def pwritev(self, file: int, parts: Sequence[Buffer], offset: int) -> int:
        data = b"".join(parts)
        first_sector = offset + len(data) <= SECTOR  # is written whole or not at all
        crashed = len(data) * self._random.randrange(2) if first_sector else self._random.randrange(len(data) + 1)
        failed = 0 if first_sector else self._random.randrange(len(data))  # as by a write cut short, and another
        self._call(lambda: self._write(file, data[:crashed], offset), lambda: self._write(file, data[:failed], offset))
        return self._write(file, data, offset)

    def pwrite(self, file: int, data: bytes, offset: int) -> int:
        return self.pwritev(file, [data], offset)

    def _write(self, file: int, data: bytes, offset: int) -> int:
        self._files[file].pending.append((offset, data))
        return os.pwrite(file, data, offset)

    def ftruncate(self, file: int, size: int) -> None:
        self._call()
        self._files[file].pending.append((size, None))
        os.ftruncate(file, size)

    def fdatasync(self, file: int) -> None:
        self._call()
        self._files[file].synced()

    def sync_start(self, file: int, end: int) -> None:
        """Sync the first ``end`` bytes of a file."""
        self._call()
        self.starts_synced += 1
        self._files[file].synced_up_to(end)

    def fsync(self, directory: int) -> None:
        self._call()
        self._durable_names, self._pending_names = self._names, []

    def replace(self, old: Path, new: Path) -> None:
        self._call()
        os.replace(old, new)
        names = {name: content for name, content in self._names.items() if name != str(old)}
        self._names = {**names, str(new): self._names[str(old)]}
        self._pending_names.append(self._names)

    def link(self, old: Path, new: Path) -> None:
        self._call()
        os.link(old, new)
        self._names = {**self._names, str(new): self._names[str(old)]}
        self._pending_names.append(self._names)

    def unlink(self, path: Path) -> None:
        self._call()
        os.unlink(path)
        self._names = {name: content for name, content in self._names.items() if name != str(path)}
        self._pending_names.append(self._names)

    def _call(self, crash: Callable[[], object] = lambda: None, fail: Callable[[], object] = lambda: None) -> None:
        """Count a call; ``crash`` and ``fail`` do what it still does when it goes wrong."""
        if self._dead:
            raise Crashed
        self.calls += 1
        if self.calls == self.crash_at:
            crash()
            self.die()
            raise Crashed
        if self.calls in self.fail_at:
            fail()
            raise OSError(self.error, os.strerror(self.error))

    # --- the end -----------------------------------------------------------------------------------------------

    def die(self) -> None:
        """End the process: its files are closed, and with them the lock."""
        self._dead = True
        for file in self._files:
            with contextlib.suppress(OSError):
                os.close(file)
        self._files.clear()

    def revive(self) -> None:
        """Start another process on the same machine."""
        self._dead, self.crash_at = False, None

    def after_power_cut(self, directory: Path, seed: int) -> None:
        """Put into ``directory`` what the machine finds when it is started again."""
        chance = random.Random(seed)
        share = chance.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        names = chance.choice([self._durable_names, *self._pending_names])  # names are written in order
        for name, content in names.items():
            (directory / Path(name).name).write_bytes(content.after(lambda: chance.random() < share))

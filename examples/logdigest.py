"""Count the lines, words and packages of log files, by ranges of bytes or a whole file at a time.

This is the half of logs.py that runs on the workers; which files there are, and what is printed about them,
is left to logs.py.

A **line** ends with a newline byte or with the file; one without its newline counts too. A line belongs to
the range in which its first byte lies, so ranges laid end to end count every line once, wherever they
are cut.

A **word** is three to forty letters, digits, hyphens and apostrophes that begin with a letter and stand
alone: parts of paths, versions, host names, options and ``package:architecture`` are no words. Case is
ignored.

A **package** counts once for each line of dpkg.log or apt's term.log that names what was done to it, and once
for each entry of a list in apt's history.log; its architecture is dropped. The groups in alternatives.log
(awk, pager, ...) are not packages, and are not counted as such.
"""

import gzip
import platform
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

# Of a longer line only this many bytes are searched for words and packages (all are counted as bytes), so
# that a file without newlines cannot fill a worker's memory.
LINE_BYTES = 1 << 20

SHRANK = "the file holds fewer bytes than when the job began: was it rotated or truncated?"

_WORD = re.compile(
    r"(?<![\w.+/:~@-])"  # not inside a path, a version or an address ...
    r"([^\W\d_]\w*+(?:['-]\w++)*+)"
    r"[.:'-]*+(?![\w+/~@])"  # ... nor at its beginning: "Upgrade:" is a word, and "libc6:amd64" is not
)
_NAME = r"([a-z0-9][a-z0-9+.-]+)(?::[a-z0-9-]+)?"
_ONE_PACKAGE = re.compile(
    # dpkg.log
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "
    rf"(?:status \S+|install|upgrade|configure|trigproc|remove|purge|disappear) {_NAME}(?!\S)|"
    # apt/term.log
    r"(?:Unpacking|Setting up|Removing|Purging configuration files for|Processing triggers for) "
    rf"{_NAME} \("
)
_PACKAGE_LIST = re.compile(r"(?:Install|Reinstall|Upgrade|Downgrade|Remove|Purge): ")  # apt/history.log
_LIST_ENTRY = re.compile(rf"(?:: |, ){_NAME} \(")


class Task(NamedTuple):
    """The bytes from ``start`` up to ``end`` of a file that had ``size`` bytes when the job began.

    A file whose name ends in .gz is one task, whatever the numbers say.
    """

    path: str
    start: int
    end: int
    size: int


class Outcome(NamedTuple):
    """What became of a task: ``error`` says why the file could not be digested, or is None."""

    path: str
    digest: "Digest"
    error: str | None


@dataclass
class Digest:
    """Counts of some lines; digests of disjoint lines add up."""

    lines: int = 0
    size: int = 0  # bytes
    words: Counter[str] = field(default_factory=Counter)
    packages: Counter[str] = field(default_factory=Counter)

    def add_line(self, line: bytes, length: int) -> None:
        """Count a line of ``length`` bytes, newline included, of which ``line`` has the first LINE_BYTES."""
        text = line.decode("utf-8", errors="replace")
        self.lines += 1
        self.size += length
        self.words.update(words_in(text))
        self.packages.update(packages_in(text))

    def add(self, other: "Digest") -> None:
        self.lines += other.lines
        self.size += other.size
        self.words.update(other.words)
        self.packages.update(other.packages)


class ShrunkFileError(Exception):
    """A file holds fewer bytes than it had when the job began."""


def words_in(text: str) -> list[str]:
    return [word for word in _WORD.findall(text.lower()) if 3 <= len(word) <= 40]


def packages_in(line: str) -> list[str]:
    if found := _ONE_PACKAGE.match(line):
        return [found[1] or found[2]]
    if found := _PACKAGE_LIST.match(line):
        return _LIST_ENTRY.findall(line, found.end() - len(": "))
    return []


def digest_task(task: Task) -> Outcome:
    """Digest a task on the worker that runs it; trouble with the file is told, not raised."""
    digest = Digest()
    try:
        if task.path.endswith(".gz"):
            with gzip.open(task.path) as unpacked:
                add_lines(digest, unpacked)
        else:
            with open(task.path, "rb") as file:
                add_range(digest, file, task)
    except FileNotFoundError:
        return Outcome(task.path, digest, missing_on_worker())
    except (OSError, EOFError, zlib.error, ShrunkFileError) as error:
        return Outcome(task.path, digest, f"on {platform.node()}: {reason(error)}")
    return Outcome(task.path, digest, None)


def add_range(digest: Digest, file: BinaryIO, task: Task) -> None:
    """Count the lines whose first byte lies in the task's range, as if the file ended at ``size``."""
    position = task.start
    if position > 0:
        # What is left of the line that holds the byte before the range is not ours; nothing is, if it goes on
        # to the end of the range. When that byte is a newline, it is all that is left, and ours begins with
        # the range.
        file.seek(position - 1)
        _, length = _read_line(file, task.end - position + 1)
        position += length - 1
    while position < task.end:
        line, length = _read_line(file, task.size - position)
        digest.add_line(line, length)
        position += length


def _read_line(file: BinaryIO, limit: int) -> tuple[bytes, int]:
    """Read a line of at most ``limit`` bytes; return its first LINE_BYTES, and how many bytes it has."""
    line = piece = file.readline(min(LINE_BYTES, limit))
    length = len(line)
    while piece and not piece.endswith(b"\n") and length < limit:
        piece = file.readline(min(LINE_BYTES, limit - length))
        length += len(piece)
    if not piece:
        raise ShrunkFileError(SHRANK)
    return line, length


def digest_file(path: str, size: int) -> Outcome:
    """Digest the first ``size`` bytes of a file in one plain pass, as a control for the ranges."""
    digest = Digest()
    try:
        if path.endswith(".gz"):
            with gzip.open(path) as unpacked:
                add_lines(digest, unpacked)
        else:
            with open(path, "rb") as file:
                add_lines(digest, first_bytes(file, size))
    except (OSError, EOFError, zlib.error, ShrunkFileError) as error:
        return Outcome(path, digest, reason(error))
    return Outcome(path, digest, None)


def add_lines(digest: Digest, lines: Iterable[bytes]) -> None:
    for line in lines:
        digest.add_line(line[:LINE_BYTES], len(line))


def first_bytes(lines: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Yield the lines up to ``size`` bytes, the last one cut there."""
    for line in lines:
        if size <= 0:
            return
        yield line[:size]
        size -= len(line)
    if size > 0:
        raise ShrunkFileError(SHRANK)


def missing_on_worker() -> str:
    return (
        f"no such file on {platform.node()}, where its task ran; "
        "logs must lie on a disk that the job and all workers share at the same path"
    )


def reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__

"""Digest log files that lie on a disk which this program and all workers see at the same path.

    logs.py /var/log                  the digest of every log below /var/log, by the cluster
    logs.py --local --json /var/log   the same as JSON, by this process alone, in one pass over each file

A task is a path and a range of bytes, never the contents. What counts as a line, a word and a package is told
in logdigest.py. Files that are no text logs, or that may not be read, are named in the report with the
reason. A file is digested up to the size it has at the start, for logs grow while they are read.
"""

import argparse
import gzip
import json
import os
import re
import stat
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import logdigest
import multihost
from logdigest import Digest, Outcome, Task

SNIFF_BYTES = 4096
_NOT_TEXT = re.compile(r"(?:wtmp|btmp|lastlog|faillog|tallylog)(?:[.-].*)?|.*\.journal~?")
_COMPRESSED = re.compile(r".*\.(?:xz|bz2|zst|lz4|lzma|Z|zip)")
_CONTROLS = bytes(sorted({*range(32), 127} - set(b"\b\t\n\v\f\r\x1b")))  # bytes that do not occur in text


class Log(NamedTuple):
    """A file to digest and its size at the start, in bytes."""

    path: str
    size: int


class PathError(Exception):
    """A path given on the command line is not there or cannot be read."""


@dataclass
class Report:
    """The digest of each file, and of each file left out the reason."""

    digests: dict[str, Digest] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def main(arguments: list[str] | None = None) -> int:
    """Digest and print; return 0, or 1 if a named path cannot be read, a file failed, or the cluster did."""
    options = parse(arguments)
    report = Report()
    try:
        logs = find_logs(options.paths, report.skipped)
        if options.local:
            gather((logdigest.digest_file(*log) for log in logs), logs, report)
        else:
            with multihost.Pool() as pool:
                tasks = cut_all(logs, options.range_bytes)
                gather(pool.imap_unordered(logdigest.digest_task, tasks), logs, report)
    except (PathError, multihost.MultihostError) as error:
        return complain(str(error))
    show = as_json if options.json else as_text
    # A name or a word may hold what the terminal's encoding does not.
    sys.stdout.buffer.write(show(report, options.top).encode(sys.stdout.encoding, errors="backslashreplace"))
    for path, why in sorted(report.failed.items()):
        complain(f"{path}: {why}")
    return 1 if report.failed else 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="logs.py", description="Digest log files on a disk that this program and all workers share."
    )
    parser.add_argument("paths", metavar="PATH", nargs="+", help="a log file, or a directory to search")
    parser.add_argument("--top", metavar="N", type=positive, default=10, help="words and packages shown (10)")
    parser.add_argument("--range-bytes", metavar="N", type=positive, default=1 << 20, help="bytes a task (1048576)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--local", action="store_true", help="digest in this process, without a cluster")
    return parser.parse_args(arguments)


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def complain(message: str) -> int:
    print(f"logs.py: {message}", file=sys.stderr)
    return 1


def find_logs(paths: Iterable[str], skipped: dict[str, str]) -> list[Log]:
    """Return the logs at and below ``paths``, each once and in order of path; enter the rest in ``skipped``.

    Raises:
        PathError: one of ``paths`` itself is not there or cannot be read.
    """
    sizes: dict[str, int] = {}
    for named in map(os.path.abspath, paths):
        try:
            inside = list(walk(named, skipped)) if os.path.isdir(named) else [named]
        except OSError as error:
            raise PathError(f"cannot read {named}: {logdigest.reason(error)}") from error
        for path in inside:
            examine(path, sizes, skipped, named=path == named)
    for path in sizes.keys() & skipped.keys():
        del skipped[path]  # a link is followed when it is named, and skipped in its directory
    return [Log(path, size) for path, size in sorted(sizes.items())]


def walk(directory: str, skipped: dict[str, str]) -> Iterator[str]:
    """Yield every file below ``directory``; links are not followed, they might lead round in a circle."""
    os.listdir(directory)  # raises for the named directory; os.walk only tells of those below it

    def skip(error: OSError) -> None:
        skipped[error.filename] = f"cannot be read: {logdigest.reason(error)}"

    for parent, directories, files in os.walk(directory, onerror=skip):
        links = [name for name in directories if os.path.islink(os.path.join(parent, name))]
        yield from (os.path.join(parent, name) for name in files + links)


def examine(path: str, sizes: dict[str, int], skipped: dict[str, str], named: bool) -> None:
    """Enter ``path`` in ``sizes`` if it is a log, else in ``skipped``, unless it is named and unreadable."""
    try:
        status = os.stat(path) if named else os.lstat(path)
        if why := why_no_log(path, status.st_mode):
            skipped[path] = why
        else:
            sizes[path] = status.st_size
    except (OSError, EOFError, zlib.error) as error:
        if named:
            raise PathError(f"cannot read {path}: {logdigest.reason(error)}") from error
        skipped[path] = f"cannot be read: {logdigest.reason(error)}"


def why_no_log(path: str, mode: int) -> str | None:
    """Say why the file is not to be digested, by its kind, its name, and its first bytes; None if it is."""
    name = os.path.basename(path)
    if stat.S_ISLNK(mode):
        return "symbolic link"
    if not stat.S_ISREG(mode):
        return "not a regular file"
    if _NOT_TEXT.fullmatch(name):
        return "binary records"
    if _COMPRESSED.fullmatch(name):
        return "compressed, and not by gzip"
    with gzip.open(path) if name.endswith(".gz") else open(path, "rb") as file:
        return None if looks_like_text(file.read(SNIFF_BYTES)) else "binary"


def looks_like_text(head: bytes) -> bool:
    """Whether at most one byte in twenty is a control character: compressed data has one in ten.

    A log may hold some: the NULs that a crash leaves behind, or what a program printed by mistake.
    """
    return len(head) - len(head.translate(None, _CONTROLS)) <= len(head) / 20


def cut_all(logs: Iterable[Log], range_bytes: int) -> Iterator[Task]:
    return (task for log in logs for task in cut(log, range_bytes))


def cut(log: Log, range_bytes: int) -> Iterator[Task]:
    """Cut a log into tasks that together cover each of its bytes once; compressed logs cannot be cut."""
    step = log.size if log.path.endswith(".gz") else range_bytes
    for start in range(0, log.size, step or 1):
        yield Task(log.path, start, min(start + step, log.size), log.size)


def gather(outcomes: Iterable[Outcome], logs: Iterable[Log], report: Report) -> None:
    """Add up the outcomes, in whatever order they come; a file with a failed task is left out."""
    report.digests = {log.path: Digest() for log in logs}
    for path, digest, error in outcomes:
        if error is not None:
            report.failed[path] = min(error, report.failed.get(path, error))
        report.digests[path].add(digest)
    for path in report.failed:
        del report.digests[path]


def total(digests: Iterable[Digest]) -> Digest:
    sums = Digest()
    for digest in digests:
        sums.add(digest)
    return sums


def most_frequent(counts: Counter[str], top: int) -> list[tuple[str, int]]:
    """Return the ``top`` entries; where counts are equal, names decide, so that every run prints the same."""
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:top]


def as_json(report: Report, top: int) -> str:
    def fields(digest: Digest) -> dict[str, object]:
        words, packages = most_frequent(digest.words, top), most_frequent(digest.packages, top)
        return {"lines": digest.lines, "bytes": digest.size, "words": words, "packages": packages}

    content = {
        "files": [{"path": path} | fields(digest) for path, digest in report.digests.items()],
        "all": {"files": len(report.digests)} | fields(total(report.digests.values())),
        "skipped": dict(sorted(report.skipped.items())),
        "failed": dict(sorted(report.failed.items())),
    }
    return json.dumps(content, indent=1) + "\n"


def as_text(report: Report, top: int) -> str:
    def paragraph(title: str, digest: Digest) -> Iterator[str]:
        yield f"{title}: {counted(digest.lines, 'line')}, {counted(digest.size, 'byte')}"
        for kind, counts in (("words", digest.words), ("packages", digest.packages)):
            if counts:
                most = most_frequent(counts, top)
                yield f"  {kind}: " + ", ".join(f"{name} {count}" for name, count in most)

    lines = [line for path, digest in report.digests.items() for line in paragraph(path, digest)]
    lines += paragraph(f"all {counted(len(report.digests), 'file')}", total(report.digests.values()))
    lines += [f"skipped {path}: {why}" for path, why in sorted(report.skipped.items())]
    lines += [f"failed {path}: {error}" for path, error in sorted(report.failed.items())]
    return "\n".join(lines) + "\n"


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    sys.exit(main())

"""What a commit of the journal costs: ``memory``, ``normal``, ``full``, and a table in SQLite's WAL for comparison.

    python bench/journal.py [--rounds N] [--directory PATH] [--json FILE]

Rounds alternate between the systems, and each figure is the median of its rounds. A commit includes encoding its
records; SQLite is given the same encoded row with its checksum. What ``normal`` and ``full`` cost depends on the disk
that ``--directory`` is on: read the ratios. Then how fast a journal is replayed, and the steps of a compaction.
"""

import argparse
import json
import os
import sqlite3
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from multihost.broker.journal import DiskJournal, Journal, MemoryJournal
from multihost.broker.records import Record, encode

# records in a commit, bytes in a record, commits in a round
BATCHES = ((1, 100, 2000), (100, 100, 2000), (100, 10_000, 20), (1, 1_000_000, 20))
_SYNCED_COMMITS = 100  # of a round, where each waits for the disk
_REPLAYED, _STEP_PAYLOAD = 500_000, 1000
Commit = Callable[[list[Record]], object]


def batch(records: int, size: int) -> list[Record]:
    """Records as those of a submit: distinct payloads, so that none is a reference to another."""
    return [("submit", "a session", number, os.urandom(size)) for number in range(records)]


def journal_commits(journal: Journal) -> Commit:
    """A function that commits a batch to ``journal``."""

    def commit(records: list[Record]) -> None:
        journal.append(records)
        journal.commit()

    return commit


def sqlite_commits(file: Path, synchronous: str) -> Commit:
    """A function that commits a batch as a row of a table."""
    database = sqlite3.connect(file, isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute(f"PRAGMA synchronous={synchronous}")
    database.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, checksum INTEGER, content BLOB)")

    def commit(records: list[Record]) -> None:
        content = b"".join(encode(records))
        database.execute("INSERT INTO rows (checksum, content) VALUES (?, ?)", (zlib.crc32(content), content))

    return commit


def opened(directory: Path, sync: str) -> DiskJournal:
    directory.mkdir()
    journal = DiskJournal(directory, sync)
    for _ in journal.replay():
        pass
    return journal


def measure(systems: dict[str, Commit], rounds: int) -> dict[str, dict[str, float]]:
    """batch -> system -> microseconds of a commit."""
    table = {}
    for records, size, commits in BATCHES:
        content = batch(records, size)
        figures: dict[str, list[float]] = {system: [] for system in systems}
        for number in range(rounds + 1):
            for system, commit in systems.items():
                repeated = min(commits, _SYNCED_COMMITS) if "full" in system.lower() else commits
                os.sync()  # or this system waits for what the one before left the kernel to write
                begun = time.perf_counter()
                for _ in range(repeated):
                    commit(content)
                if number:
                    figures[system].append((time.perf_counter() - begun) / repeated * 1e6)
        table[f"{records} x {size:,} B"] = {system: statistics.median(values) for system, values in figures.items()}
    return table


def replay_and_compact(directory: Path) -> tuple[float, float, float]:
    """Records replayed in a second, and milliseconds of a compaction's median and longest step."""
    journal = opened(directory, "normal")
    for _ in range(_REPLAYED // 100):
        journal.append(batch(100, 100))
        journal.commit()
    journal.close()
    journal = DiskJournal(directory, "normal")
    begun = time.perf_counter()
    records = sum(map(len, journal.replay()))
    replayed = records / (time.perf_counter() - begun)

    def snapshot() -> Iterator[list[Record]]:
        content = batch(100, _STEP_PAYLOAD)
        yield from (content for _ in range(1000))

    steps, times = journal.compact(snapshot()), []
    while True:
        begun = time.perf_counter()
        ended = next(steps, "the end") == "the end"
        times.append((time.perf_counter() - begun) * 1e3)
        if ended:
            journal.close()
            return replayed, statistics.median(times), max(times)


def main() -> None:
    """Print the tables as Markdown; write them as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count (default 5)")
    parser.add_argument("--directory", metavar="PATH", help="on the disk to be measured (default: a temporary one)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
        directory = Path(name)
        systems = {
            "memory": journal_commits(MemoryJournal()),
            "encode alone": encode,
            "normal": journal_commits(opened(directory / "normal", "normal")),
            "SQLite, normal": sqlite_commits(directory / "normal.sqlite", "NORMAL"),
            "full": journal_commits(opened(directory / "full", "full")),
            "SQLite, full": sqlite_commits(directory / "full.sqlite", "FULL"),
        }
        table = measure(systems, arguments.rounds)
        replayed, median, longest = replay_and_compact(directory / "replay")
    print(f"| µs a commit | {' | '.join(systems)} | SQLite / normal | SQLite / full |\n{'|---' * (len(systems) + 3)}|")
    for row, figures in table.items():
        cells = [f"{figure:,.1f}" for figure in figures.values()]
        ratios = [f"{figures[f'SQLite, {sync}'] / figures[sync]:.1f}" for sync in ("normal", "full")]
        print(f"| {row} | {' | '.join(cells + ratios)} |")
    for (records, size, _), figures in zip(BATCHES, table.values(), strict=True):
        rates = [f"{sync} {records * size / figures[sync]:,.0f} MB/s" for sync in ("normal", "full")]
        print(f"{records} x {size:,} B: {', '.join(rates)}")
    print(f"replay: {replayed:,.0f} records/s; step of a compaction: median {median:.1f} ms, longest {longest:.1f} ms")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(table, file, indent=2)


if __name__ == "__main__":
    main()

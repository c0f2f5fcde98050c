"""Writes a journal until it is killed: python -m tests.integration.journal_writer DIRECTORY SYNC

Record n is ``(n, some bytes)``; when its commit has returned, n is printed. Every tenth is committed with BALLAST, so
that there is time to be killed in the middle of a write. Compactions follow one another all the time, in small
steps between the commits, and leave the ballast out.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from multihost.broker import journal
from multihost.broker.journal import DiskJournal
from multihost.broker.records import Record

BALLAST: Record = b"ballast" * 30_000


def record(number: int) -> Record:
    return number, bytes([number % 256]) * (number % 300)


def main(directory: str, sync: str) -> None:
    journal._STEP_BYTES = 2000
    opened = DiskJournal(Path(directory), sync)
    number = sum(record != BALLAST for records in opened.replay() for record in records)
    steps: Iterator[None] = iter(())
    while True:
        if next(steps, "the end") == "the end":
            everything = [record(known) for known in range(number)]
            steps = opened.compact([everything[begin : begin + 50] for begin in range(0, number, 50)])
        opened.append([record(number)] if number % 10 else [record(number), BALLAST])
        opened.commit()
        os.write(1, b"%d\n" % number)
        number += 1


if __name__ == "__main__":
    main(*sys.argv[1:])

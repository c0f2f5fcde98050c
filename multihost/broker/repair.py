"""Repair of a damaged journal: keeps every whole row before the damage, and the damaged file under another name.

    python -m multihost.broker.repair DIRECTORY

What the rows behind the damage say is not taken over: they may build on what is lost. Not part of the start, for
whether to go on without what is lost, or to look for a copy of the file first, is for a person to say.
"""

import itertools
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from multihost.broker.journal import VERSION, lock, refusal, remove, sync_directory
from multihost.broker.rowfile import RowFile
from multihost.errors import JournalDamaged, JournalError, JournalLocked
from multihost.settings import ExitCode


@dataclass(frozen=True, slots=True)
class Repaired:
    """What ``repair`` found and did."""

    damage: JournalDamaged
    kept: int  # rows
    damaged: Path  # where the damaged file is now


def repair(directory: Path) -> Repaired | None:
    """Mend the journal in ``directory``; None if it is whole.

    Raises: JournalLocked, JournalUnusable, JournalFull; nothing was changed.
    """
    held = lock(directory)
    try:
        return _repair(directory / "journal")
    except OSError as error:
        raise refusal(directory, error) from error
    finally:
        os.close(held)


def _repair(path: Path) -> Repaired | None:
    new_path = path.with_name("journal.new")
    remove(new_path)
    old, damage = _open(path)
    new = RowFile.create(new_path, old.version or VERSION)
    try:
        damage = _copy(old, new) or damage
        if damage is None:
            return None
        new.compacted = new.last.end
        new.sync()
        kept_as = next(name for name in map(path.with_name, _names()) if not name.exists())
        os.link(path, kept_as)
        sync_directory(path.parent)
        os.replace(new_path, path)
        sync_directory(path.parent)
        return Repaired(damage, new.last.row, kept_as)
    finally:
        old.close()
        new.discard()  # under its old name, if it still has it


def _open(path: Path) -> tuple[RowFile, JournalDamaged | None]:
    try:
        return RowFile.open(path), None
    except JournalDamaged as damage:
        return RowFile.open(path, damaged=True), damage


def _copy(old: RowFile, new: RowFile) -> JournalDamaged | None:
    """Copy the rows that are whole; what is wrong with the next one."""
    try:
        for content in old.rows():
            new.write([content])
    except JournalDamaged as damage:
        return damage
    return None


def _names() -> "itertools.chain[str]":
    return itertools.chain(["journal.damaged"], map("journal.damaged-{}".format, itertools.count(2)))


def main(arguments: list[str]) -> int:
    """Repair the journal in the directory that the one argument names; an ``ExitCode``."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m multihost.broker.repair DIRECTORY", file=sys.stderr)
        return ExitCode.SETTINGS
    try:
        repaired = repair(Path(arguments[0]))
    except JournalError as error:
        print(f"repair: {error}", file=sys.stderr)
        return ExitCode.JOURNAL_LOCKED if isinstance(error, JournalLocked) else ExitCode.JOURNAL
    if repaired is None:
        print("the journal is whole; nothing was changed")
        return ExitCode.OK
    damage = repaired.damage
    of = f" of {damage.acknowledged}" if damage.acknowledged >= 0 else ""
    print(f"damaged at row {damage.row}, byte {damage.offset}: {damage.reason}")
    print(f"kept {repaired.kept} rows{of}; the damaged file is {repaired.damaged}")
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

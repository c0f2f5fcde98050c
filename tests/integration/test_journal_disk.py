"""The journal on real disks and in real processes: a full one, a read-only one, another user's, SIGKILL."""

import collections
import contextlib
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from multihost.broker.journal import DiskJournal
from multihost.broker.records import Record
from multihost.errors import JournalFull, JournalLocked, JournalUnusable
from tests.integration.journal_writer import BALLAST, record

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534
MEGABYTE = 1024 * 1024

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small disk or to be another user")


def replayed(opened: DiskJournal) -> list[Record]:
    return [record for records in opened.replay() for record in records]


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of one megabyte, which other users can reach."""
    directory = Path(tempfile.mkdtemp())
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "tmpfs", directory], check=True)
    yield directory
    subprocess.run(["umount", "--lazy", directory], check=True)  # lazy: a failing test may have files open
    directory.rmdir()


def fill_up(opened: DiskJournal) -> list[Record]:
    """Commit until the disk is full; the records that were acknowledged."""
    acknowledged: list[Record] = []
    for number in range(2000):
        opened.append([record(number)])
        try:
            opened.commit()
        except JournalFull:
            return acknowledged
        acknowledged.append(record(number))
    raise AssertionError("the disk is larger than it should be")


def use_up(filler: Path) -> None:
    """Let ``filler`` take what is left of the disk."""
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(100))


# --- a full disk -----------------------------------------------------------------------------------------------------


@needs_root
@pytest.mark.parametrize("sync", ["normal", "full"])
def test_full_disk_refuses_commits_and_nothing_else_until_there_is_space(small_disk: Path, sync: str) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes(MEGABYTE * 3 // 4))
    opened = DiskJournal(small_disk, sync)
    assert replayed(opened) == []
    acknowledged = fill_up(opened)
    assert len(acknowledged) > 500
    for _ in range(3):
        with pytest.raises(JournalFull, match="No space left on device"):
            opened.commit()
    filler.unlink()
    opened.commit()
    acknowledged.append(record(len(acknowledged)))
    opened.append(["goes on"])
    opened.commit()
    opened.close()
    opened = DiskJournal(small_disk, sync)
    assert replayed(opened) == [*acknowledged, "goes on"]
    opened.close()


@needs_root
def test_journal_starts_on_a_full_disk_and_goes_on_when_there_is_space(small_disk: Path) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes(MEGABYTE * 3 // 4))
    opened = DiskJournal(small_disk, "normal")
    assert replayed(opened) == []
    acknowledged = fill_up(opened)
    with pytest.raises(JournalFull):
        opened.close()
    use_up(filler)
    opened = DiskJournal(small_disk, "normal")
    assert replayed(opened) == acknowledged
    opened.append([b"x" * 10_000])
    with pytest.raises(JournalFull):
        opened.commit()
    filler.unlink()
    opened.commit()
    opened.close()
    opened = DiskJournal(small_disk, "normal")
    assert replayed(opened) == [*acknowledged, b"x" * 10_000]
    opened.close()


@needs_root
def test_compaction_without_room_for_it_gives_back_what_it_took(small_disk: Path) -> None:
    opened = DiskJournal(small_disk, "normal")
    assert replayed(opened) == []
    acknowledged: list[Record] = [record(number) for number in range(299, 299 + 300 * 12, 300)]
    opened.append(acknowledged)
    opened.commit()
    steps = opened.compact([b"snapshot" * 10_000] for _ in range(100))
    with pytest.raises(JournalFull):
        collections.deque(steps)
    assert os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize > MEGABYTE // 2
    opened.append(["goes on"])
    opened.commit()
    assert [*opened.compact([[*acknowledged, "goes on"]])] == []
    opened.close()
    opened = DiskJournal(small_disk, "normal")
    assert replayed(opened) == [*acknowledged, "goes on"]
    opened.close()


@needs_root
def test_new_journal_on_a_full_disk_says_that_it_is_full(small_disk: Path) -> None:
    use_up(small_disk / "filler")
    with pytest.raises(JournalFull, match="No space left on device"):
        DiskJournal(small_disk, "normal")
    (small_disk / "filler").unlink()
    opened = DiskJournal(small_disk, "normal")
    assert replayed(opened) == []
    opened.close()


# --- a disk that may not be written ----------------------------------------------------------------------------------


@needs_root
def test_read_only_disk_is_refused_in_one_line(small_disk: Path) -> None:
    opened = DiskJournal(small_disk, "normal")
    assert replayed(opened) == []
    opened.close()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(JournalUnusable, match=r"its file system is read-only$"):
        DiskJournal(small_disk, "normal")


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Be a user without rights for a while."""
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@needs_root
def test_directory_or_file_of_another_user_is_refused_with_both_users(small_disk: Path) -> None:
    told = f"the journal in {small_disk} cannot be used: user {NOBODY} may not write"
    with as_nobody(), pytest.raises(JournalUnusable) as caught:
        DiskJournal(small_disk, "normal")
    assert str(caught.value) == f"{told} {small_disk}, which belongs to user 0"
    DiskJournal(small_disk, "normal").close()
    os.chown(small_disk, NOBODY, NOBODY)
    for name in ("lock", "journal"):
        with as_nobody(), pytest.raises(JournalUnusable) as caught:
            DiskJournal(small_disk, "normal")
        assert str(caught.value) == f"{told} {small_disk / name}, which belongs to user 0"
        os.chown(small_disk / name, NOBODY, NOBODY)
    with as_nobody():
        DiskJournal(small_disk, "normal").close()


@needs_root
def test_directory_that_may_not_be_written_is_refused_though_its_files_may(small_disk: Path) -> None:
    DiskJournal(small_disk, "normal").close()
    for name in ("lock", "journal"):
        os.chown(small_disk / name, NOBODY, NOBODY)
    with as_nobody(), pytest.raises(JournalUnusable, match=f"may not write {small_disk}, which belongs to user 0"):
        DiskJournal(small_disk, "normal")


# --- processes -------------------------------------------------------------------------------------------------------


def start_writer(directory: Path, sync: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tests.integration.journal_writer", str(directory), sync]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)


@pytest.mark.parametrize("sync", ["normal", "full"])
def test_killed_process_leaves_all_it_acknowledged_once_and_in_order(tmp_path: Path, sync: str) -> None:
    chance = random.Random(11)
    generations: set[int] = set()
    known = 0
    for _ in range(12):
        with start_writer(tmp_path, sync) as writer:
            assert writer.stdout is not None
            for _ in range(chance.randrange(1, 250)):
                writer.stdout.readline()
            writer.kill()  # wherever it is by now
            lines = writer.stdout.read().split()
        if lines:
            known = max(known, int(lines[-1]) + 1)
        opened = DiskJournal(tmp_path, sync)
        # Not named record: Python 3.12.1 would take the function below for that variable.
        found = [each for each in replayed(opened) if each != BALLAST]
        opened.close()
        assert found == [record(number) for number in range(len(found))]
        assert len(found) >= known
        known = len(found)
        generations.add((tmp_path / "journal").stat().st_ino)
    assert known > 500
    assert len(generations) > 1, "some compactions ended"


def test_second_process_is_refused_as_long_as_the_first_one_lives(tmp_path: Path) -> None:
    with start_writer(tmp_path, "normal") as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        with pytest.raises(JournalLocked, match=f"process {writer.pid} on host "):
            DiskJournal(tmp_path, "normal")
        writer.kill()
        writer.stdout.read()
    opened = DiskJournal(tmp_path, "normal")
    assert len(replayed(opened)) > 0
    opened.close()

"""The journal on a disk that fails: a crash, a power cut or a full disk at every single call of the system.

The scenario opens a new journal, commits, compacts while it commits, does so again over what the first compaction has
replaced, gives a compaction up, closes and opens again. It is run once for each call that it makes, and each time that
call goes wrong.
"""

import contextlib
import errno
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from multihost.broker import journal, rowfile
from multihost.broker.journal import DiskJournal
from multihost.broker.records import Record
from multihost.errors import JournalError, JournalFull, JournalUnusable
from tests.unit.disks import Crashed, Disk

Batch = list[Record]
SYNCS = ("normal", "full")


@dataclass
class Log:
    """What a scenario has done so far."""

    acknowledged: list[Batch] = field(default_factory=list)
    attempted: list[Batch] = field(default_factory=list)
    opened: list[DiskJournal] = field(default_factory=list)
    synced: int = 0  # how many acknowledged batches were on the disk at the last time when all were


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_STEP_BYTES", 1000)
    monkeypatch.setattr(rowfile, "_AHEAD_BYTES", 1500)
    monkeypatch.setattr(journal, "_LEAST_LARGE_BYTES", 0)
    monkeypatch.setattr(journal, "_SPARE_BYTES", 8000)


def replayed(opened: DiskJournal) -> list[Record]:
    return [record for records in opened.replay() for record in records]


def flat(batches: list[Batch]) -> list[Record]:
    return [record for batch in batches for record in batch]


def open_replayed(directory: Path, sync: str, log: Log) -> DiskJournal:
    opened = DiskJournal(directory, sync)
    log.opened.append(opened)
    try:
        assert replayed(opened) == flat(log.acknowledged)
    except JournalFull:
        opened.close()
        raise
    log.synced = len(log.acknowledged)
    return opened


def commit(opened: DiskJournal, log: Log) -> None:
    number = len(log.attempted)
    batch: Batch = [
        (number, "small", b"x" * 20),
        (number, "more than a sector", bytes([number]) * (300 * (number % 4))),
    ]
    log.attempted.append(batch)
    opened.append(batch)
    opened.commit()
    log.acknowledged.append(batch)


def snapshot(log: Log) -> Iterator[Batch]:
    """All that was acknowledged, in other rows than it was committed in."""
    records = flat(log.acknowledged)
    return (records[begin : begin + 3] for begin in range(0, len(records), 3))


def scenario(directory: Path, sync: str, log: Log) -> None:
    opened = open_replayed(directory, sync, log)
    for _ in range(8):
        commit(opened, log)
    for _ in range(2):
        steps = opened.compact(snapshot(log))
        for _ in range(3):
            commit(opened, log)
            assert next(steps, "the end") is None
        assert set(steps) <= {None}
        compacted = len(log.acknowledged)
        assert (directory / "journal.spare").exists()
        commit(opened, log)  # before it is written, the new file's name is on the disk
        log.synced = compacted
    given_up = opened.compact(snapshot(log))
    next(given_up)
    commit(opened, log)
    opened.close()
    log.synced = len(log.acknowledged)
    opened = open_replayed(directory, sync, log)
    commit(opened, log)
    opened.close()
    log.synced = len(log.acknowledged)


def run_through(directory: Path, sync: str) -> Disk:
    """The disk behind a scenario in which nothing goes wrong."""
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch)
        scenario(directory, sync, Log())
    return disk


def count_calls(directory: Path, sync: str) -> int:
    return run_through(directory, sync).calls


def crash(directory: Path, sync: str, call: int) -> tuple[Disk, Log]:
    """Run the scenario until the process dies in this ``call``."""
    log = Log()
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch, seed=call)
        disk.crash_at = call
        with pytest.raises(Crashed):
            scenario(directory, sync, log)
        leave_nothing(log)
    return disk, log


def leave_nothing(log: Log) -> None:
    """Of a process that has crashed, not even a generator goes on."""
    for opened in log.opened:
        with contextlib.suppress(Crashed):
            opened.close()


def check_and_go_on(directory: Path, sync: str, log: Log, least: int) -> None:
    """The journal starts, has the first ``least`` batches and perhaps the next ones, and can be used."""
    opened = DiskJournal(directory, sync)
    found = replayed(opened)
    choices = [flat(log.attempted[:number]) for number in range(least, len(log.attempted) + 1)]
    assert found in choices
    opened.append(["it goes on"])
    opened.commit()
    opened.close()
    opened = DiskJournal(directory, sync)
    assert replayed(opened) == [*found, "it goes on"]
    opened.close()
    assert {path.name for path in directory.iterdir()} == {"journal", "lock"}


@pytest.mark.parametrize("sync", SYNCS)
def test_scenario_compacts_in_several_steps_beside_commits(tmp_path: Path, sync: str) -> None:
    log = Log()
    scenario(tmp_path, sync, log)
    assert log.acknowledged == log.attempted
    assert len(log.acknowledged) == 18
    (tmp_path / "count").mkdir()
    disk = run_through(tmp_path / "count", sync)
    assert disk.calls > 80
    assert disk.starts_synced > 2, "of a file that is written over"


@pytest.mark.parametrize("sync", SYNCS)
def test_process_that_dies_at_any_call_has_all_that_was_acknowledged(tmp_path: Path, sync: str) -> None:
    (tmp_path / "count").mkdir()
    for call in range(1, count_calls(tmp_path / "count", sync) + 1):
        directory = tmp_path / str(call)
        directory.mkdir()
        _, log = crash(directory, sync, call)
        assert len(log.attempted) - len(log.acknowledged) <= 1
        check_and_go_on(directory, sync, log, least=len(log.acknowledged))


@pytest.mark.parametrize("sync", SYNCS)
def test_power_cut_at_any_call_leaves_what_the_setting_promises(
    tmp_path: Path, sync: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "count").mkdir()
    monkeypatch.setattr(rowfile, "boot_id", lambda: b"before the cut..")
    calls = count_calls(tmp_path / "count", sync)
    for call in range(1, calls + 1):
        (tmp_path / str(call)).mkdir()
        monkeypatch.setattr(rowfile, "boot_id", lambda: b"before the cut..")
        disk, log = crash(tmp_path / str(call), sync, call)
        monkeypatch.setattr(rowfile, "boot_id", lambda: b"after the cut...")
        for seed in range(6):
            directory = tmp_path / f"{call} after the cut, {seed}"
            directory.mkdir()
            disk.after_power_cut(directory, seed)
            check_and_go_on(directory, sync, log, least=len(log.acknowledged) if sync == "full" else log.synced)


def test_power_cut_loses_what_was_not_synced_so_the_test_above_can_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowfile, "boot_id", lambda: b"before the cut..")
    (tmp_path / "before").mkdir()
    disk, log = crash(tmp_path / "before", "normal", 30)
    assert len(log.acknowledged) > 2
    monkeypatch.setattr(rowfile, "boot_id", lambda: b"after the cut...")
    fewest = len(flat(log.acknowledged))
    for seed in range(6):
        directory = tmp_path / str(seed)
        directory.mkdir()
        disk.after_power_cut(directory, seed)
        fewest = min(fewest, len(replayed(DiskJournal(directory, "normal"))))
    assert fewest < len(flat(log.acknowledged))


# --- a disk that fails and works again -------------------------------------------------------------------------------


def commit_until_it_works(opened: DiskJournal, log: Log) -> None:
    with contextlib.suppress(JournalFull):
        return commit(opened, log)
    for _ in range(100):
        with contextlib.suppress(JournalFull):
            opened.commit()
            log.acknowledged.append(log.attempted[-1])
            return None
    raise AssertionError("the journal stays full")


def open_when_it_works(directory: Path, sync: str, log: Log) -> DiskJournal:
    for _ in range(100):
        with contextlib.suppress(JournalFull, JournalUnusable):
            return open_replayed(directory, sync, log)
    raise AssertionError("the journal does not open")


def stubborn_scenario(directory: Path, sync: str, log: Log) -> None:
    """Like ``scenario``; what fails is tried again, but a compaction."""
    opened = open_when_it_works(directory, sync, log)
    for _ in range(5):
        commit_until_it_works(opened, log)
    with contextlib.suppress(JournalFull):
        for _ in opened.compact(snapshot(log)):
            commit_until_it_works(opened, log)
    commit_until_it_works(opened, log)
    with contextlib.suppress(JournalFull):
        opened.close()
    opened = open_when_it_works(directory, sync, log)
    commit_until_it_works(opened, log)
    with contextlib.suppress(JournalFull):
        opened.close()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("sync", SYNCS)
def test_failure_of_any_call_costs_nothing_that_was_acknowledged_and_is_made_up_for_later(
    tmp_path: Path, sync: str, error: int
) -> None:
    (tmp_path / "count").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch)
        stubborn_scenario(tmp_path / "count", sync, Log())
    for call in range(1, disk.calls + 1):
        for failures in (1, 2, 7):
            directory, log = tmp_path / f"{call} {failures}", Log()
            directory.mkdir()
            with pytest.MonkeyPatch.context() as patch:
                failing = Disk(patch, seed=call)
                failing.fail_at, failing.error = range(call, call + failures), error
                stubborn_scenario(directory, sync, log)
            assert log.acknowledged == log.attempted
            check_and_go_on(directory, sync, log, least=len(log.acknowledged))


@pytest.mark.parametrize("sync", SYNCS)
def test_crash_after_a_failure_that_could_not_be_undone_shows_no_row_twice(tmp_path: Path, sync: str) -> None:
    """The row is written, its sync fails, and so does cutting it off; then another row is written over it."""
    for skipped in range(1, 40):
        directory, log = tmp_path / str(skipped), Log()
        directory.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch, seed=skipped)
            opened = open_replayed(directory, sync, log)
            commit(opened, log)
            begun = disk.calls
            # All of a commit's calls fail, and then it goes on.
            disk.fail_at = range(begun + 1 + skipped % 4, begun + 4 + skipped % 4)
            disk.crash_at = begun + skipped
            with contextlib.suppress(Crashed):
                for _ in range(4):
                    commit_until_it_works(opened, log)
            disk.die()
            leave_nothing(log)
        check_and_go_on(directory, sync, log, least=len(log.acknowledged))


def test_errors_of_opening_are_journal_errors_at_every_call(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch)
        DiskJournal(tmp_path, "normal").close()
        calls = disk.calls
    assert calls > 4
    for call in range(1, calls + 1):
        directory = tmp_path / str(call)
        directory.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch)
            disk.fail_at, disk.error = range(call, call + 1), errno.EPERM
            with contextlib.suppress(JournalError):
                DiskJournal(directory, "normal").close()
        opened = DiskJournal(directory, "normal")
        assert replayed(opened) == []
        opened.close()

"""The journal as its users see it: what every journal does, and what one in a directory does besides."""

import contextlib
import errno
import fcntl
import itertools
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multihost.broker import journal as journal_module
from multihost.broker import rowfile as rowfile_module
from multihost.broker.journal import DiskJournal, Journal, MemoryJournal, open_journal
from multihost.broker.records import Record, decode, encode
from multihost.errors import JournalDamaged, JournalFull, JournalLocked, JournalUnusable
from tests.unit.disks import Crashed, Disk

Rows = list[list[Record]]


def reopened(directory: Path) -> tuple[DiskJournal, Rows]:
    opened = DiskJournal(directory, "normal")
    return opened, [*opened.replay()]


def rows_in(directory: Path) -> Rows:
    opened, rows = reopened(directory)
    opened.close()
    return rows


def commit(opened: Journal, *records: Record) -> None:
    opened.append(records)
    opened.commit()


def wants(opened: Journal) -> bool:
    """Whether a compaction is wanted, where nothing large is held."""
    return opened.wants_compaction(lambda: 0)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[DiskJournal]:
    """A new journal in ``tmp_path``, ready to be written."""
    opened, rows = reopened(tmp_path)
    assert rows == []
    yield opened
    opened.close()


# --- every journal ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "normal", "full"])
def any_journal(request: pytest.FixtureRequest, tmp_path: Path) -> Journal:
    if request.param == "memory":
        return open_journal("memory", "normal")
    return open_journal(str(tmp_path), request.param)


def test_any_new_journal_is_empty_and_can_be_used_from_open_to_close(any_journal: Journal) -> None:
    assert [*any_journal.replay()] == []
    any_journal.commit()
    any_journal.append([("submit", 1)])
    any_journal.append(iter([("submit", 2)]))
    any_journal.commit()
    any_journal.commit()
    assert not wants(any_journal)
    assert [*any_journal.compact([[("a", 1)], []])] == []
    commit(any_journal, ("settle", 1))
    any_journal.close()


def test_any_journals_compaction_can_be_dropped_at_any_time(any_journal: Journal) -> None:
    assert [*any_journal.replay()] == []
    steps = any_journal.compact([["a"]])
    steps = any_journal.compact([["b"]])
    assert [*steps] == []
    any_journal.compact([["c"]])
    any_journal.close()


def test_memory_is_a_journal_that_has_forgotten_everything() -> None:
    assert isinstance(open_journal("memory", "full"), MemoryJournal)
    opened = MemoryJournal()
    commit(opened, "something")
    assert [*opened.replay()] == []


# --- records and rows ------------------------------------------------------------------------------------------------

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=15,
)


@given(st.lists(PLAIN))
def test_records_are_read_as_they_were_written(records: list[Record]) -> None:
    assert decode(b"".join(encode(records))) == records


@pytest.mark.parametrize("value", [errno, len, Path("/"), ValueError(), logging.INFO.__class__, st, 1j], ids=repr)
def test_record_that_could_not_be_read_back_is_refused_when_it_is_written(opened: DiskJournal, value: object) -> None:
    opened.append([("submit", [value])])
    with pytest.raises(TypeError, match="plain data only"):
        opened.commit()
    opened._gathered.clear()


@pytest.mark.parametrize("content", [b"", b"rubbish", b"cos\nsystem\n.", b"\x80\x05]", b"\x80\x05K\x01."])
def test_content_that_is_no_list_of_records_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        decode(content)


def test_large_bytes_of_a_record_are_not_copied_before_they_are_written() -> None:
    large = b"x" * 1_000_000
    assert any(part is large for part in encode([("submit", large)]))


def test_a_commit_is_a_row_and_rows_come_back_in_order(tmp_path: Path, opened: DiskJournal) -> None:
    opened.append(["a", "b"])
    opened.append(["c"])
    opened.commit()
    opened.commit()
    commit(opened, "d")
    opened.close()
    again, rows = reopened(tmp_path)
    assert rows == [["a", "b", "c"], ["d"]]
    commit(again, "e")
    again.close()
    opened, rows = reopened(tmp_path)
    assert rows == [["a", "b", "c"], ["d"], ["e"]]
    opened.close()


def test_rows_of_all_sizes_are_whole(tmp_path: Path) -> None:
    sizes = [0, 1, 65_535, 65_536, 70_000, 1_000_000, 3_000_001]
    rows: Rows = [[bytes([number]) * size] for number, size in enumerate(sizes)]
    rows.append([bytes([number % 256]) * 70_000 for number in range(50)])
    rows.append([(number, b"small") for number in range(5_000)])
    opened, _ = reopened(tmp_path)
    for records in rows:
        commit(opened, *records)
    opened.close()
    assert rows_in(tmp_path) == rows


def test_row_of_more_parts_than_one_write_takes_is_whole(tmp_path: Path) -> None:
    rows: Rows = [[bytes([number % 256]) * 66_000 for number in range(600)]]  # each large one is a part or two
    assert len(encode(rows[0])) > 1024
    opened, _ = reopened(tmp_path)
    commit(opened, *rows[0])
    opened.close()
    assert rows_in(tmp_path) == rows


def test_writes_that_the_kernel_cuts_short_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwritev = os.pwritev

    def short(file: int, parts: list[bytes], offset: int) -> int:
        return pwritev(file, [b"".join(parts)[:7777]], offset)

    rows: Rows = [["a" * 5], [b"b" * 100_000, "c", b"d" * 70_000], ["e"]]
    opened, _ = reopened(tmp_path)
    monkeypatch.setattr(os, "pwritev", short)
    for records in rows:
        commit(opened, *records)
    opened.close()
    assert rows_in(tmp_path) == rows


def test_close_commits_what_was_gathered(tmp_path: Path) -> None:
    opened, _ = reopened(tmp_path)
    opened.append(["last words"])
    opened.close()
    assert rows_in(tmp_path) == [["last words"]]


def test_journal_is_replayed_to_its_end_before_it_is_written(tmp_path: Path) -> None:
    opened, _ = reopened(tmp_path)
    commit(opened, "a")
    commit(opened, "b")
    opened.close()
    before = (tmp_path / "journal").read_bytes()
    opened = DiskJournal(tmp_path, "normal")
    opened.append(["c"])
    with pytest.raises(RuntimeError, match="replayed"):
        opened.commit()
    replay = opened.replay()
    assert next(replay) == ["a"]
    with pytest.raises(RuntimeError, match="replayed"):
        opened.commit()
    with pytest.raises(RuntimeError, match="replayed"):
        opened.compact([])
    opened.close()
    assert (tmp_path / "journal").read_bytes() == before


# --- where it is -----------------------------------------------------------------------------------------------------


def test_second_master_is_refused_and_told_who_is_first(tmp_path: Path, opened: DiskJournal) -> None:
    with pytest.raises(JournalLocked) as caught:
        DiskJournal(tmp_path, "normal")
    assert caught.value.holder == f"process {os.getpid()} on host {socket.gethostname()}"
    assert str(tmp_path) in str(caught.value)
    opened.append(["a"])
    opened.commit()
    opened.close()
    reopened(tmp_path)[0].close()


def test_lock_that_says_nothing_is_a_lock(tmp_path: Path) -> None:
    with open(tmp_path / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(JournalLocked, match="it does not say which"):
            DiskJournal(tmp_path, "normal")


def test_directory_that_is_missing_or_none_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, says in (("none", "there is no such directory; make it"), ("file", "it is not a directory")):
        with pytest.raises(JournalUnusable, match=says) as caught:
            DiskJournal(tmp_path / name, "normal")
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert {*os.listdir(tmp_path)} == {"file"}


def test_file_that_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    for content in (b"", b"notes", b"notes" * 1000):
        (tmp_path / "journal").write_bytes(content)
        with pytest.raises(JournalDamaged, match="or it is no journal"):
            DiskJournal(tmp_path, "normal")
        assert (tmp_path / "journal").read_bytes() == content


def test_what_a_crashed_compaction_left_is_removed(tmp_path: Path) -> None:
    reopened(tmp_path)[0].close()
    (tmp_path / "journal.new").write_bytes(b"half")
    assert rows_in(tmp_path) == []
    assert {*os.listdir(tmp_path)} == {"journal", "lock"}


def test_journal_is_its_owners_alone(tmp_path: Path, opened: DiskJournal) -> None:
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("journal", "lock")} == {0o600}


# --- disks that fail -------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_commit_on_a_full_disk_says_so_and_the_next_one_writes_the_same_records(disk: Disk, tmp_path: Path) -> None:
    opened, _ = reopened(tmp_path)
    commit(opened, "before")
    size = (tmp_path / "journal").stat().st_size
    disk.fail_at = range(disk.calls + 1, disk.calls + 1000)
    opened.append(["a"])
    for _ in range(3):
        with pytest.raises(JournalFull, match=r"could not be written \(No space left on device\)") as caught:
            opened.commit()
        assert caught.value.file == str(tmp_path / "journal")
    opened.append(["b"])
    disk.fail_at = range(0)
    opened.commit()
    assert (tmp_path / "journal").stat().st_size > size
    opened.close()
    assert rows_in(tmp_path) == [["before"], ["a", "b"]]


def test_durable_rows_do_not_change_the_files_size_and_a_closed_journal_has_no_more_than_its_rows(
    tmp_path: Path,
) -> None:
    sizes: set[int] = set()
    for sync in ("full", "normal"):
        (tmp_path / sync).mkdir()
        opened = DiskJournal(tmp_path / sync, sync)
        assert [*opened.replay()] == []
        for number in range(100):
            commit(opened, number, b"x" * 500)
            if sync == "full":
                sizes.add((tmp_path / sync / "journal").stat().st_size)
        opened.close()
    assert len(sizes) == 1
    assert len({(tmp_path / sync / "journal").stat().st_size for sync in ("full", "normal")}) == 1
    assert rows_in(tmp_path / "full") == rows_in(tmp_path / "normal")


def test_row_that_was_written_in_part_is_cut_off_at_once(disk: Disk, tmp_path: Path) -> None:
    opened, _ = reopened(tmp_path)
    commit(opened, "before")
    size = (tmp_path / "journal").stat().st_size
    opened.append([b"x" * 10_000])
    disk.fail_at = range(disk.calls + 1, disk.calls + 2)
    with pytest.raises(JournalFull):
        opened.commit()
    assert (tmp_path / "journal").stat().st_size == size
    opened.close()


def test_close_on_a_full_disk_says_so_and_lets_go_of_the_journal(disk: Disk, tmp_path: Path) -> None:
    opened, _ = reopened(tmp_path)
    commit(opened, "before")
    opened.append(["lost, and never acknowledged"])
    disk.fail_at = range(disk.calls + 1, disk.calls + 1000)
    with pytest.raises(JournalFull):
        opened.close()
    disk.fail_at = range(0)
    assert rows_in(tmp_path) == [["before"]]


def test_closed_journal_is_not_written(tmp_path: Path) -> None:
    opened, _ = reopened(tmp_path)
    opened.close()
    opened.close()
    opened.append(["too late"])
    with pytest.raises(RuntimeError, match="closed"):
        opened.commit()
    assert rows_in(tmp_path) == []


def test_old_row_that_cannot_be_read_again_stops_a_compaction_and_nothing_else(
    tmp_path: Path, opened: DiskJournal
) -> None:
    commit(opened, "a")
    steps = opened.compact([["all"]])
    commit(opened, "b")
    content = (tmp_path / "journal").read_bytes()
    (tmp_path / "journal").write_bytes(content[:-1] + b"?")
    with pytest.raises(JournalDamaged, match="row 2 of 2"):
        next(steps)
    (tmp_path / "journal").write_bytes(content)
    assert not wants(opened)
    commit(opened, "c")
    opened.close()
    assert rows_in(tmp_path) == [["a"], ["b"], ["c"]]


# --- compaction ------------------------------------------------------------------------------------------------------


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "_STEP_BYTES", 1000)
    monkeypatch.setattr(journal_module, "_LEAST_BYTES", 4000)


def test_compaction_leaves_the_snapshot_and_what_came_since(tmp_path: Path, opened: DiskJournal) -> None:
    commit(opened, "a")
    opened.append(["gathered before"])
    steps = opened.compact([["all", "until now"], ["more"]])
    commit(opened, "b")
    assert [*steps] == []
    commit(opened, "c")
    opened.close()
    assert rows_in(tmp_path) == [["all", "until now"], ["more"], ["b"], ["c"]]


@pytest.mark.usefixtures("_small")
def test_compaction_writes_no_more_in_a_step_than_it_should(tmp_path: Path, opened: DiskJournal) -> None:
    for number in range(20):
        commit(opened, number, b"x" * 400)
    sizes = [0]
    for _ in opened.compact([b"s" * 400] for _ in range(20)):
        sizes.append((tmp_path / "journal.new").stat().st_size)
        commit(opened, b"y" * 400)
    assert len(sizes) > 8
    assert max(after - before for before, after in itertools.pairwise(sizes)) < 2500


@pytest.mark.usefixtures("_small")
def test_compaction_ends_though_more_is_committed_than_a_step_writes(tmp_path: Path, opened: DiskJournal) -> None:
    steps = opened.compact([["all"]])
    for turns in range(1, 30):
        for number in range(10):
            commit(opened, (turns, number), b"y" * 1000)
        if next(steps, "the end") == "the end":
            break
    else:
        raise AssertionError("the compaction never ends")
    opened.close()
    rows = rows_in(tmp_path)
    assert [records[0] for records in rows[1:]] == [(turn, n) for turn in range(1, turns + 1) for n in range(10)]


@pytest.mark.usefixtures("_small")
def test_compaction_is_wanted_at_twice_the_size_of_the_last_one_also_after_a_restart(tmp_path: Path) -> None:
    opened, _ = reopened(tmp_path)
    assert not wants(opened)
    while not wants(opened):
        commit(opened, b"x" * 500)
    assert 4000 < (tmp_path / "journal").stat().st_size < 6000
    steps = opened.compact([b"all" * 1000] for _ in range(4))
    assert not wants(opened), "one is under way"
    assert [*steps]
    assert not wants(opened)
    opened.close()
    opened, _ = reopened(tmp_path)
    while not wants(opened):
        commit(opened, b"x" * 500)
    assert 24_000 < (tmp_path / "journal").stat().st_size < 26_000
    opened.close()


@pytest.mark.usefixtures("_small")
def test_journal_of_large_values_may_be_larger_and_is_compacted_when_most_are_of_no_use_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_LEAST_LARGE_BYTES", 1_000_000)
    monkeypatch.setattr(rowfile_module, "_VALUE_BYTES", 65_536)
    opened, _ = reopened(tmp_path)
    monkeypatch.setattr(journal_module, "_LARGE_BYTES", 0)
    held = 100_000 * 11
    asked = 0

    def tell() -> int:
        nonlocal asked
        asked += 1
        return held

    for _ in range(12):
        assert not opened.wants_compaction(tell)
        commit(opened, bytes(100_000))
    assert not opened.wants_compaction(tell)
    assert asked == 3, "only behind what is little anyway"
    held = 200_000
    commit(opened, bytes(200))
    assert not opened.wants_compaction(tell), "before more is written, it is not asked again"
    assert opened.wants_compaction(tell), "unless nothing is written between two looks"
    commit(opened, bytes(2000))
    assert opened.wants_compaction(tell)
    assert [*opened.compact([bytes(100_000)] for _ in range(2))]
    for _ in range(3000 // 400):
        commit(opened, b"x" * 400)
    assert not opened.wants_compaction(tell)
    commit(opened, b"x" * 2000)
    assert opened.wants_compaction(tell), "small ones count as ever"
    opened.close()


@pytest.mark.usefixtures("_small")
def test_large_file_that_was_replaced_is_written_over_by_the_compaction_after_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_LEAST_LARGE_BYTES", 100_000)
    monkeypatch.setattr(journal_module, "_SPARE_BYTES", 300_000)
    opened, _ = reopened(tmp_path)
    commit(opened, bytes(500_000))
    first = (tmp_path / "journal").stat()
    assert [*opened.compact([["all"]])] == []
    spare = (tmp_path / "journal.spare").stat()
    assert (spare.st_ino, spare.st_size) == (first.st_ino, 300_000)
    commit(opened, bytes(200_000))
    assert [*opened.compact([["all", "a"]])] == []
    commit(opened, "b")
    assert (tmp_path / "journal").stat().st_ino == first.st_ino
    (tmp_path / "killed").mkdir()
    shutil.copy(tmp_path / "journal", tmp_path / "killed")
    assert rows_in(tmp_path / "killed") == [["all", "a"], ["b"]], "and nothing of what the file had before"
    assert (tmp_path / "journal.spare").stat().st_size < 300_000
    opened.close()
    assert (tmp_path / "journal").stat().st_size < 2000
    assert not (tmp_path / "journal.spare").exists()


@pytest.mark.usefixtures("_small")
def test_file_is_written_over_where_the_file_system_cannot_map_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refuse(*arguments: object) -> None:
        asked.append(arguments)
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(rowfile_module, "mmap", SimpleNamespace(mmap=refuse))
    monkeypatch.setattr(journal_module, "_LEAST_LARGE_BYTES", 100_000)
    opened, _ = reopened(tmp_path)
    for _ in range(2):
        commit(opened, bytes(1_500_000))
        assert [*opened.compact([["all"]])] == []
    assert asked
    opened.close()
    assert rows_in(tmp_path) == [["all"]]


@pytest.mark.usefixtures("_small")
def test_spare_file_makes_room_on_a_full_disk(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "_LEAST_LARGE_BYTES", 100_000)
    opened, _ = reopened(tmp_path)
    commit(opened, bytes(500_000))
    assert [*opened.compact([["all"]])] == []
    opened.append(["b"])
    disk.fail_at = range(disk.calls + 1, disk.calls + 2)
    with pytest.raises(JournalFull):
        opened.commit()
    assert not (tmp_path / "journal.spare").exists()
    opened.close()
    assert rows_in(tmp_path) == [["all"], ["b"]]


@pytest.mark.usefixtures("_small")
def test_compaction_that_failed_is_wanted_again_only_after_more_was_written(disk: Disk, tmp_path: Path) -> None:
    opened, _ = reopened(tmp_path)
    while not wants(opened):
        commit(opened, b"x" * 500)
    size = (tmp_path / "journal").stat().st_size
    steps = opened.compact([b"s" * 500] for _ in range(100))
    next(steps)
    disk.fail_at = range(disk.calls + 1, disk.calls + 2)
    with pytest.raises(JournalFull):
        next(steps)
    assert not (tmp_path / "journal.new").exists(), "its space is free again"
    while not wants(opened):
        commit(opened, b"x" * 500)
    assert (tmp_path / "journal").stat().st_size > size + 4000
    assert [*opened.compact([["all"]])] == []
    opened.close()
    assert rows_in(tmp_path) == [["all"]]


def test_snapshot_that_raises_ends_the_compaction_alone(tmp_path: Path, opened: DiskJournal) -> None:
    def snapshot() -> Iterator[list[Record]]:
        yield ["some"]
        raise ZeroDivisionError

    commit(opened, "a")
    with pytest.raises(ZeroDivisionError):
        next(opened.compact(snapshot()))
    commit(opened, "b")
    opened.close()
    assert rows_in(tmp_path) == [["a"], ["b"]]
    assert {*os.listdir(tmp_path)} == {"journal", "lock"}


# --- versions --------------------------------------------------------------------------------------------------------


def _to_2(records: list[Record]) -> list[Record]:
    return [("2", record) for record in records]


def _to_3(records: list[Record]) -> list[Record]:
    return [("3", record) for record in records]


MIGRATIONS = {1: _to_2, 2: _to_3}


@pytest.fixture
def old(tmp_path: Path) -> bytes:
    """A journal of version 1 in ``tmp_path``; its file's content."""
    opened, _ = reopened(tmp_path)
    commit(opened, "a", "b")
    commit(opened, "c")
    opened.close()
    return (tmp_path / "journal").read_bytes()


def test_older_journal_is_migrated_step_by_step_and_kept(
    tmp_path: Path, old: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(2):
        opened = DiskJournal(tmp_path, "normal", version=3, migrations=MIGRATIONS)
        assert [*opened.replay()] == [[("3", ("2", "a")), ("3", ("2", "b"))], [("3", ("2", "c"))]]
        opened.close()
    assert (tmp_path / "journal.version-1").read_bytes()[512:] == old[512:]
    (record,) = caplog.records
    assert record.getMessage().startswith("migrated the journal to version 3; ")


def test_what_a_migration_kept_is_a_journal_of_the_older_version(tmp_path: Path, old: bytes) -> None:
    DiskJournal(tmp_path, "normal", version=2, migrations=MIGRATIONS).close()
    os.replace(tmp_path / "journal.version-1", tmp_path / "journal")
    assert rows_in(tmp_path) == [["a", "b"], ["c"]]


def test_newer_journal_is_refused_and_left_alone(tmp_path: Path, old: bytes) -> None:
    DiskJournal(tmp_path, "normal", version=3, migrations=MIGRATIONS).close()
    newer = (tmp_path / "journal").read_bytes()
    with pytest.raises(JournalUnusable, match="records are of version 3, and this multihost knows those up to 1") as no:
        DiskJournal(tmp_path, "normal")
    assert "journal.version-1" in str(no.value)
    assert (tmp_path / "journal").read_bytes() == newer
    opened = DiskJournal(tmp_path, "normal", version=3, migrations=MIGRATIONS)
    opened.close()


def test_journal_that_is_too_old_is_refused_and_left_alone(tmp_path: Path, old: bytes) -> None:
    with pytest.raises(JournalUnusable, match="of version 1, too old"):
        DiskJournal(tmp_path, "normal", version=3, migrations={2: _to_3})
    assert (tmp_path / "journal").read_bytes() == old


def test_damaged_journal_is_not_migrated(tmp_path: Path, old: bytes) -> None:
    (tmp_path / "journal").write_bytes(old[:-1])
    with pytest.raises(JournalDamaged):
        DiskJournal(tmp_path, "normal", version=2, migrations=MIGRATIONS)
    assert (tmp_path / "journal").read_bytes() == old[:-1]
    assert {*os.listdir(tmp_path)} == {"journal", "lock"}


def test_migration_that_raises_or_crashes_anywhere_leaves_old_or_new(tmp_path: Path, old: bytes) -> None:
    def migrate(directory: Path, patch: pytest.MonkeyPatch, crash_at: int | None) -> Disk:
        disk = Disk(patch, seed=crash_at or 0)
        disk.crash_at = crash_at
        with contextlib.suppress(Crashed):
            DiskJournal(directory, "normal", version=2, migrations=MIGRATIONS).close()
        return disk

    with pytest.MonkeyPatch.context() as patch:
        (tmp_path / "count").mkdir()
        (tmp_path / "count" / "journal").write_bytes(old)
        calls = migrate(tmp_path / "count", patch, None).calls
    assert calls > 8
    for call in range(1, calls + 1):
        directory = tmp_path / str(call)
        directory.mkdir()
        (directory / "journal").write_bytes(old)
        with pytest.MonkeyPatch.context() as patch:
            migrate(directory, patch, call)
        opened = DiskJournal(directory, "normal", version=2, migrations=MIGRATIONS)
        assert [*opened.replay()] == [[("2", "a"), ("2", "b")], [("2", "c")]]
        opened.close()
        assert {*os.listdir(directory)} == {"journal", "journal.version-1", "lock"}
        assert (directory / "journal.version-1").read_bytes()[512:] == old[512:]


def test_versions_in_use_can_all_be_migrated() -> None:
    assert {*journal_module.MIGRATIONS} == {*range(1, journal_module.VERSION)}

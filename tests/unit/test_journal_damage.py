"""Damage to a journal's file: each flipped bit and each cut is found, and a torn end is none; and its repair."""

import itertools
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from multihost.broker import rowfile
from multihost.broker.journal import DiskJournal
from multihost.broker.records import Record
from multihost.broker.repair import Repaired, main, repair
from multihost.errors import JournalDamaged, JournalLocked, JournalUnusable
from multihost.settings import ExitCode

Rows = list[list[Record]]
ROWS: Rows = [
    [("submit", 1, b"one"), ("submit", 2, b"")],
    [("settle", 1, "result")],
    [{"a": [1.5, None, True]}],
    [("é", -1)],
]
ROWS_AT = 512


def write_journal(directory: Path, rows: Rows = ROWS) -> bytes:
    """A journal that holds ``rows``; its file's content."""
    opened = DiskJournal(directory, "normal")
    assert [*opened.replay()] == []
    for records in rows:
        opened.append(records)
        opened.commit()
    opened.close()
    return (directory / "journal").read_bytes()


def read_journal(directory: Path, found: Rows | None = None) -> Rows:
    """The rows; they are also put into ``found``, one by one, so that they are there when the next one is damaged."""
    rows: Rows = [] if found is None else found
    opened = DiskJournal(directory, "normal")
    try:
        rows.extend(opened.replay())
    finally:
        opened.close()
    return rows


def row_starts(content: bytes) -> list[int]:
    """Where the rows of a file begin, and where the last one ends."""
    starts = [ROWS_AT]
    while starts[-1] < len(content):
        starts.append(starts[-1] + 24 + int.from_bytes(content[starts[-1] + 8 : starts[-1] + 16], "little"))
    return starts


@pytest.fixture
def journal(tmp_path: Path) -> tuple[Path, bytes]:
    """A directory with a journal of ROWS, and the content of its file."""
    return tmp_path, write_journal(tmp_path)


# --- bits ------------------------------------------------------------------------------------------------------------


def test_each_flipped_bit_is_found_and_the_rows_before_it_are_given(journal: tuple[Path, bytes]) -> None:
    directory, content = journal
    starts = row_starts(content)
    assert len(starts) == len(ROWS) + 1
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        (directory / "journal").write_bytes(flipped)
        found: Rows = []
        with pytest.raises(JournalDamaged) as caught:
            read_journal(directory, found)
        whole = max(0, sum(start <= bit // 8 for start in starts) - 1)
        assert found == ROWS[:whole]
        row = whole + 1 if bit // 8 >= ROWS_AT else 0
        assert (caught.value.row, caught.value.offset) == (row, starts[whole] if row else 0)
        assert (directory / "journal").read_bytes() == flipped, "what is damaged is left as it is"


def test_bursts_and_wiped_sectors_of_a_longer_journal_are_found(tmp_path: Path) -> None:
    chance = random.Random(7)
    rows: Rows = [[(number, chance.randbytes(chance.randrange(900)))] for number in range(60)]
    content = write_journal(tmp_path, rows)
    for _ in range(400):
        begin = chance.randrange(len(content))
        end = min(len(content), begin + chance.choice([1, 2, 4, 16, 512, 4096]))
        new = chance.choice([bytes(end - begin), chance.randbytes(end - begin), content[: end - begin]])
        if new == content[begin:end]:
            continue
        (tmp_path / "journal").write_bytes(content[:begin] + new + content[end:])
        with pytest.raises(JournalDamaged):
            read_journal(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[1:],
        lambda rows: [rows[0], *rows[2:]],
        lambda rows: rows[:-1],
        lambda rows: [],
        lambda rows: [rows[1], rows[0], *rows[2:]],
        lambda rows: [rows[0], rows[0], *rows[1:]],
        lambda rows: [*rows[:-1], rows[0]],
    ],
    ids=["first left out", "second left out", "last left out", "all left out", "swapped", "doubled", "last replaced"],
)
def test_rows_that_are_whole_but_not_where_they_belong_are_damage(
    journal: tuple[Path, bytes], change: Callable[[list[bytes]], list[bytes]]
) -> None:
    directory, content = journal
    starts = row_starts(content)
    rows = [content[begin:end] for begin, end in itertools.pairwise(starts)]
    (directory / "journal").write_bytes(content[:ROWS_AT] + b"".join(change(rows)))
    with pytest.raises(JournalDamaged):
        read_journal(directory)


def test_rows_of_another_journal_are_damage(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    one, other = write_journal(tmp_path / "one"), write_journal(tmp_path / "other")
    for mixed in (one[:ROWS_AT] + other[ROWS_AT:], one[:64] + other[64:], other[:64] + one[64:]):
        (tmp_path / "one" / "journal").write_bytes(mixed)
        with pytest.raises(JournalDamaged):
            read_journal(tmp_path / "one")


def test_row_that_follows_but_is_not_the_one_that_was_acknowledged_is_damage(tmp_path: Path) -> None:
    """As a disk may give it back that wrote a row, failed, and then kept that one rather than the next try."""
    before = write_journal(tmp_path, ROWS[:1])
    one = write_journal_on(tmp_path, [["one"]])
    (tmp_path / "journal").write_bytes(before)
    other = write_journal_on(tmp_path, [["two"]])
    assert other[:ROWS_AT] != one[:ROWS_AT]
    (tmp_path / "journal").write_bytes(one[:ROWS_AT] + other[ROWS_AT:])
    with pytest.raises(JournalDamaged, match=r"row 2 of 2.*it is not the row that was acknowledged"):
        read_journal(tmp_path)


def test_row_whose_content_is_no_list_of_records_is_damage(tmp_path: Path) -> None:
    write_journal(tmp_path, ROWS[:1])
    rows = rowfile.RowFile.open(tmp_path / "journal")
    assert len([*rows.rows()]) == 1
    rows.settle()
    offset = rows.last.end
    rows.write([b"cos\nsystem\n."])
    rows.close()
    with pytest.raises(JournalDamaged, match="row 2 of 2") as caught:
        read_journal(tmp_path)
    assert caught.value.offset == offset


# --- cuts ------------------------------------------------------------------------------------------------------------


def test_acknowledged_rows_that_are_cut_off_are_damage_wherever_the_cut_is(journal: tuple[Path, bytes]) -> None:
    directory, content = journal
    for size in range(len(content)):
        (directory / "journal").write_bytes(content[:size])
        with pytest.raises(JournalDamaged):
            read_journal(directory)


def test_commit_that_was_torn_at_any_byte_is_cut_off_and_costs_nothing_else(tmp_path: Path) -> None:
    before = write_journal(tmp_path, ROWS[:-1])
    after = write_journal_on(tmp_path, ROWS[-1:])
    for size in range(len(before), len(after) + 1):
        # What a process leaves that is killed in the write of the row: the mark is the one of before.
        (tmp_path / "journal").write_bytes(before[:ROWS_AT] + after[ROWS_AT:size])
        whole = ROWS if size == len(after) else ROWS[:-1]
        assert read_journal(tmp_path) == whole
        assert write_journal_on(tmp_path, [["goes on"]])
        assert read_journal(tmp_path) == [*whole, ["goes on"]]


def test_what_lies_behind_the_last_acknowledged_row_and_is_no_row_is_cut_off(journal: tuple[Path, bytes]) -> None:
    directory, content = journal
    rubbish = random.Random(3).randbytes(100)
    for size in range(1, len(rubbish)):
        (directory / "journal").write_bytes(content + rubbish[:size])
        assert read_journal(directory) == ROWS
        assert (directory / "journal").stat().st_size == len(content)


def write_journal_on(directory: Path, rows: Rows) -> bytes:
    opened = DiskJournal(directory, "normal")
    for _ in opened.replay():
        pass
    for records in rows:
        opened.append(records)
        opened.commit()
    opened.close()
    return (directory / "journal").read_bytes()


# --- power cuts ------------------------------------------------------------------------------------------------------


@pytest.fixture
def unsynced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, bytes]:
    """A journal whose first two rows are synced and the others not; the machine has been started anew since."""
    monkeypatch.setattr(rowfile, "boot_id", lambda: b"before the cut..")
    write_journal(tmp_path, ROWS[:2])
    opened = DiskJournal(tmp_path, "normal")
    assert [*opened.replay()] == ROWS[:2]
    for records in ROWS[2:]:
        opened.append(records)
        opened.commit()
    content = (tmp_path / "journal").read_bytes()
    opened.close()
    monkeypatch.setattr(rowfile, "boot_id", lambda: b"after the cut...")
    return tmp_path, content


def test_rows_that_a_power_cut_took_are_told(unsynced: tuple[Path, bytes], caplog: pytest.LogCaptureFixture) -> None:
    directory, content = unsynced
    starts = row_starts(content)
    (directory / "journal").write_bytes(content[: starts[2] + 3])
    assert read_journal(directory) == ROWS[:2]
    (record,) = caplog.records
    assert "the last 2 rows of the journal" in record.getMessage()
    assert "MULTIHOST_JOURNAL_SYNC=full" in record.getMessage()
    caplog.clear()
    assert read_journal(directory) == ROWS[:2]
    assert caplog.records == []


def test_rows_that_were_synced_are_damage_when_they_miss_even_after_a_power_cut(unsynced: tuple[Path, bytes]) -> None:
    directory, content = unsynced
    (directory / "journal").write_bytes(content[: row_starts(content)[2] - 1])
    with pytest.raises(JournalDamaged, match="row 2 of 4"):
        read_journal(directory)


def test_without_a_power_cut_all_rows_must_be_there(
    unsynced: tuple[Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, content = unsynced
    monkeypatch.setattr(rowfile, "boot_id", lambda: b"before the cut..")
    (directory / "journal").write_bytes(content[: row_starts(content)[2]])
    with pytest.raises(JournalDamaged, match="row 3 of 4"):
        read_journal(directory)


def test_boot_id_is_the_kernels_and_zeros_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rowfile.boot_id() == rowfile.boot_id()
    assert len(rowfile.boot_id()) == 16
    assert any(rowfile.boot_id())
    monkeypatch.setattr(rowfile, "_BOOT_ID", tmp_path / "none")
    assert rowfile.boot_id() == bytes(16)


# --- repair ----------------------------------------------------------------------------------------------------------


def test_repair_of_a_whole_journal_changes_nothing(
    journal: tuple[Path, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    directory, content = journal
    assert repair(directory) is None
    assert (directory / "journal").read_bytes() == content
    assert main([str(directory)]) == ExitCode.OK
    assert capsys.readouterr().out == "the journal is whole; nothing was changed\n"
    assert {*os.listdir(directory)} == {"journal", "lock"}


def test_repair_keeps_the_rows_before_the_damage_and_the_damaged_file(journal: tuple[Path, bytes]) -> None:
    directory, content = journal
    starts = row_starts(content)
    for number, row in enumerate((2, 1), start=1):
        damaged = bytearray(content)
        damaged[starts[row]] ^= 1
        (directory / "journal").write_bytes(damaged)
        repaired = repair(directory)
        name = "journal.damaged" if number == 1 else "journal.damaged-2"
        assert isinstance(repaired, Repaired)
        assert (repaired.damage.row, repaired.kept, repaired.damaged) == (row + 1, row, directory / name)
        assert repaired.damaged.read_bytes() == damaged
        assert read_journal(directory) == ROWS[:row]
        assert repair(directory) is None


@pytest.mark.parametrize("place", [0, 12, 30, 64, 100, 140, 511])
def test_repair_finds_all_rows_without_head_or_mark(journal: tuple[Path, bytes], place: int) -> None:
    directory, content = journal
    damaged = bytearray(content)
    damaged[place] ^= 0x10
    (directory / "journal").write_bytes(damaged)
    repaired = repair(directory)
    assert repaired is not None
    assert (repaired.damage.row, repaired.kept) == (0, len(ROWS))
    assert read_journal(directory) == ROWS


def test_repair_without_head_takes_no_rows_that_do_not_begin_with_the_first(journal: tuple[Path, bytes]) -> None:
    directory, content = journal
    (directory / "journal").write_bytes(bytes(ROWS_AT) + content[row_starts(content)[1] :])
    repaired = repair(directory)
    assert repaired is not None
    assert repaired.kept == 0
    assert read_journal(directory) == []


def test_repair_that_fails_changes_nothing(journal: tuple[Path, bytes], capsys: pytest.CaptureFixture[str]) -> None:
    directory, _ = journal
    opened = DiskJournal(directory, "normal")
    with pytest.raises(JournalLocked):
        repair(directory)
    assert main([str(directory)]) == ExitCode.JOURNAL_LOCKED
    opened.close()
    with pytest.raises(JournalUnusable, match="no such directory"):
        repair(directory / "none")
    (directory / "empty").mkdir()
    with pytest.raises(JournalUnusable, match=r"there is no .*empty/journal"):
        repair(directory / "empty")
    assert main([str(directory / "none")]) == ExitCode.JOURNAL
    assert "no such directory" in capsys.readouterr().err
    assert main([]) == ExitCode.SETTINGS
    assert "usage" in capsys.readouterr().err


def test_the_command_that_the_error_names_repairs(tmp_path: Path) -> None:
    content = write_journal(tmp_path)
    shutil.copy(tmp_path / "journal", tmp_path / "copy")
    (tmp_path / "journal").write_bytes(content[:-1])
    with pytest.raises(JournalDamaged) as caught:
        read_journal(tmp_path)
    command = str(caught.value).split("'")[1].replace("DIRECTORY", str(tmp_path)).split()
    assert command[0] == "python"
    result = subprocess.run([sys.executable, *command[1:]], capture_output=True, text=True, timeout=30, check=True)
    assert "damaged at row 4, byte" in result.stdout
    assert f"kept 3 rows of 4; the damaged file is {tmp_path}/journal.damaged" in result.stdout
    assert read_journal(tmp_path) == ROWS[:-1]

"""What is known of a death, as text and in words; the last output and the OOM counter that go into it."""

import os
from pathlib import Path

import pytest

from multihost.deaths import MAX_OUTPUT_CHARACTERS, Death, how_it_ended, in_bytes, is_certificate, words
from multihost.runner.memory import OomKills, _counter_file
from multihost.runner.tail import Tail

WHOLE = Death(
    "its process was killed by SIGKILL",
    host="host-1",
    worker="w1",
    signal="SIGKILL",
    oom=True,
    peak_bytes=3 << 30,
    output="line 6 — {}",
    stack="in line 7",
)


@pytest.mark.parametrize("death", [WHOLE, Death("lost"), how_it_ended(7), how_it_ended(0), Death("", oom=False)])
def test_death_is_the_same_after_its_journey_as_text(death: Death) -> None:
    assert is_certificate(death.encode())
    assert Death.decode(death.encode()) == death


@pytest.mark.parametrize("text", ["worker w1 was lost", "", "{", '{"reason": "of another version", "colour": 1}', "{1"])
def test_any_other_text_is_the_reason(text: str) -> None:
    assert Death.decode(text) == Death(text)
    assert words(text) == text


def test_death_says_in_words_what_is_known() -> None:
    assert str(WHOLE) == (
        "its process was killed by SIGKILL, by the kernel's OOM killer on worker w1 (host host-1), "
        "having used up to 3.0 GiB of memory"
    )
    assert words(WHOLE.encode()) == str(WHOLE)
    assert str(Death("it died", host="w1", worker="w1", oom=False)) == "it died on worker w1"


@pytest.mark.parametrize(
    ("code", "signal", "status"),
    [(-11, "SIGSEGV", None), (-9, "SIGKILL", None), (-40, "signal 40", None), (3, "", 3), (0, "", 0), (None, "", None)],
)
def test_exit_code_is_a_signal_by_name_or_a_status(code: int | None, signal: str, status: int | None) -> None:
    death = how_it_ended(code)
    assert (death.signal, death.exit_status) == (signal, status)
    assert signal in death.reason


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (150 << 20, "150 MiB"), (5 << 50, "5120 TiB")],
)
def test_size_is_told_in_units_for_people(size: int, text: str) -> None:
    assert in_bytes(size) == text


# --- the last output -------------------------------------------------------------------------------------------------


def test_last_lines_of_the_task_that_printed_last_can_be_read_by_another_process(tmp_path: Path) -> None:
    tail = Tail(str(tmp_path / "tail"))
    assert tail.read() == (0, "")
    child = os.fork()
    if child == 0:
        writer = Tail(tail.path)
        writer.write(6, "of the task before, which is longer")
        writer.write(7, "one\ntwö\nthr")
        os._exit(0)
    os.waitpid(child, 0)
    assert tail.read() == (7, "one\ntwö\nthr")
    tail.remove()
    assert tail.read() == (0, "")


def test_output_that_is_kept_is_bounded_in_characters_bytes_and_lines(tmp_path: Path) -> None:
    tail = Tail(str(tmp_path / "tail"))
    tail.write(1, "\U0001f600" * MAX_OUTPUT_CHARACTERS)
    assert 900 < len(tail.read()[1]) <= MAX_OUTPUT_CHARACTERS
    tail.write(1, "\n".join(map(str, range(100))))
    assert tail.read()[1].splitlines() == [str(number) for number in range(80, 100)]


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 4096, os.urandom(4096)])
def test_whatever_a_task_has_written_there_is_read_as_text(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tail").write_bytes(content)
    token, text = Tail(str(tmp_path / "tail")).read()
    assert isinstance(token, int)
    assert len(text) <= 4096


def test_output_that_finds_no_room_is_not_kept(tmp_path: Path) -> None:
    tail = Tail(str(tmp_path / "absent" / "tail"))
    tail.write(1, "line")
    assert tail.read() == (0, "")


# --- the OOM killer --------------------------------------------------------------------------------------------------


@pytest.fixture
def counter(tmp_path: Path) -> Path:
    file = tmp_path / "memory.events"
    count(file, 2)
    return file


def count(file: Path, kills: int) -> None:
    file.write_text(f"low 0\nhigh 0\nmax 99\noom 5\noom_kill {kills}\noom_group_kill 7\n")


def test_each_kill_that_is_counted_explains_one_death(counter: Path) -> None:
    kills = OomKills(counter)
    assert kills.one_more() is False
    count(counter, 4)
    assert [kills.one_more() for _ in range(3)] == [True, True, False]


def test_kill_that_no_child_died_of_explains_no_later_death(counter: Path) -> None:
    kills = OomKills(counter)
    count(counter, 3)
    kills.forget_old()  # the death may be told in a moment
    assert kills.one_more() is True
    count(counter, 4)
    kills.forget_old()
    kills.forget_old()
    assert kills.one_more() is False


def test_without_a_counter_nothing_is_claimed(counter: Path) -> None:
    kills = OomKills(counter)
    counter.unlink()
    assert kills.one_more() is None
    counter.write_text("oom_kill some\n")
    assert kills.one_more() is None


@pytest.mark.parametrize(
    ("cgroups", "file", "found"),
    [
        ("0::/a/b\n", "a/b/memory.events", True),
        ("0::/host/path\n", "memory.events", True),
        ("4:memory:/a\n0::/\n", "memory/a/memory.oom_control", True),
        ("5:cpu,cpuacct:/a\n4:memory:/host/path\n", "memory/memory.oom_control", True),
        ("0::/a\n", "b/memory.events", False),
    ],
)
def test_counter_is_found_in_both_versions_and_in_containers(
    tmp_path: Path, cgroups: str, file: str, found: bool
) -> None:
    root, own = tmp_path / "cgroup", tmp_path / "own"
    own.write_text(cgroups)
    (root / file).parent.mkdir(parents=True)
    (root / file).write_text("oom_kill 0\n")
    assert _counter_file(root, own) == (root / file if found else None)
    assert _counter_file(root, tmp_path / "absent") is None

"""What is known of a death, as text and in words; the last output and the OOM counter that go into it."""

import mmap
import os
import resource
from pathlib import Path

import pytest

from multihost.deaths import MAX_OUTPUT_CHARACTERS, Death, how_it_ended, in_bytes, is_certificate, words
from multihost.errors import TaskOutOfMemory
from multihost.runner.memory import MemoryLimit, OomKills, _counter_file, limit_of, measure
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


# --- the limit of memory ---------------------------------------------------------------------------------------------


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The limits that were set, last one last; there is no hard one."""
    found: list[int] = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, pair: found.append(pair[0]))
    return found


def test_highest_limit_of_those_that_run_holds_until_they_have_ended(limits: list[int]) -> None:
    memory = MemoryLimit(0, "w1")
    memory.enter(1, 100)
    memory.enter(2, 300)
    memory.enter(3, 200)
    memory.leave(2)
    memory.leave(4)
    memory.leave(1)
    memory.leave(3)
    assert limits == [100, 300, 300, 200, 200, resource.RLIM_INFINITY]


def test_limit_is_lifted_for_what_is_ours_however_often_that_is_nested(limits: list[int]) -> None:
    memory = MemoryLimit(0, "w1")
    with memory.lifted():
        pass
    assert limits == []
    memory.enter(1, 100)
    with memory.lifted(), memory.lifted():
        pass
    assert limits == [100, -1, -1, -1, 100]
    with pytest.raises(ValueError, match="of ours"), memory.lifted():
        raise ValueError("of ours")
    assert limits[-1] == 100


def test_system_may_allow_less_than_was_asked_for(monkeypatch: pytest.MonkeyPatch, limits: list[int]) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (50, 70))
    memory = MemoryLimit(0, "w1")
    memory.enter(1, 100)
    memory.leave(1)
    assert limits == [70, 70]


def test_lower_limit_of_worker_and_task_counts() -> None:
    assert [limit_of({}, worker) for worker in (0, 3, 7)] == [0, 3, 7]
    assert [limit_of({"memory": 5}, worker) for worker in (0, 3, 7)] == [5, 3, 5]


def test_memory_error_is_explained_if_the_task_had_a_limit(limits: list[int]) -> None:
    memory = MemoryLimit(0, "w1")
    memory.enter(1, 100)
    error = memory.explain(MemoryError("for an array"), 1)
    assert isinstance(error, TaskOutOfMemory)
    assert "(for an array), under the limit of 100 bytes" in str(error)
    for other in (ValueError(), error):
        assert memory.explain(other, 1) is other
    plain = MemoryError()
    assert memory.explain(plain, 2) is plain


def test_process_is_measured_without_the_files_that_it_has_mapped(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * (64 << 20))
    before = measure(os.getpid())
    with (tmp_path / "file").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert mapped[:].count(b"x") == 64 << 20
        assert measure(os.getpid()) < before + (16 << 20)
    taken = mmap.mmap(-1, 64 << 20)
    for place in range(0, 64 << 20, 4096):
        taken[place] = 1
    assert measure(os.getpid()) > before + (48 << 20)
    assert measure(2**30) == 0

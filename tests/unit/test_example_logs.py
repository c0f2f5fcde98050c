"""examples/logs.py: a log has one digest however it is cut, and what is a log, a word and a package."""

import gzip
import io
import json
import os
import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import logdigest
import logs
import multihost
from logdigest import Digest, Outcome, Task

T = TypeVar("T")

# Bytes that matter where a file is cut: line ends, halves of a UTF-8 sequence, NUL, the letters of words.
LOGS = st.lists(
    st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\xc3", b"\xa9", b"\0", b" ", b"installed ", b"x" * 50]),
    max_size=40,
).map(b"".join) | st.binary(max_size=200)

DPKG_LOG = b"""\
2026-11-01 10:00:00 startup archives unpack
2026-11-01 10:00:00 install libfoo:amd64 <none> 1.0-1
2026-11-01 10:00:00 status half-installed libfoo:amd64 1.0-1
2026-11-01 10:00:01 configure libfoo:amd64 1.0-1 <none>
2026-11-01 10:00:01 conffile /etc/foo keep
2026-11-01 10:00:01 status installed libfoo:amd64 1.0-1
2026-11-01 10:00:02 upgrade python3.11:amd64 3.11.2-6 3.11.2-7
2026-11-01 10:00:02 trigproc libc-bin:amd64 2.36-9+deb12u14 <none>
2026-11-01 10:00:02 remove g++:amd64 4:12.2.0-3 <none>
"""


class PoolAtOnce:
    """Runs tasks as a distant worker would, from pickles to pickles, and yields the last outcome first."""

    def __enter__(self) -> "PoolAtOnce":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def imap_unordered(self, func: Callable[[Task], Outcome], tasks: Iterable[Task]) -> Iterator[Outcome]:
        return reversed([travelled(travelled(func)(travelled(task))) for task in tasks])


def travelled(something: T) -> T:
    copy: T = pickle.loads(pickle.dumps(something))
    return copy


@pytest.fixture(autouse=True)
def _pool_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multihost, "Pool", PoolAtOnce)


def in_one_pass(content: bytes, size: int | None = None) -> Digest:
    digest = Digest()
    lines = logdigest.first_bytes(io.BytesIO(content), len(content) if size is None else size)
    logdigest.add_lines(digest, lines)
    return digest


def in_ranges(content: bytes, size: int, range_bytes: int) -> Digest:
    digest = Digest()
    for task in logs.cut(logs.Log("/some.log", size), range_bytes):
        logdigest.add_range(digest, io.BytesIO(content), task)
    return digest


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Any:
    status = logs.main(["--json", *map(str, arguments)])
    report = json.loads(capsys.readouterr().out)
    assert status == (1 if report["failed"] else 0)
    return report


# Ranges


@given(content=LOGS, range_bytes=st.integers(1, 250))
@example(content=b"", range_bytes=1)
@example(content=b"no newline at the end", range_bytes=5)
@example(content=b"one\ntwo\n", range_bytes=4)  # a range that begins with a line
@example(content=b"\n\n\n", range_bytes=1)
def test_digest_of_ranges_is_digest_of_one_pass(content: bytes, range_bytes: int) -> None:
    assert in_ranges(content, len(content), range_bytes) == in_one_pass(content)


@given(content=LOGS, range_bytes=st.integers(1, 250), line_bytes=st.integers(1, 20))
def test_lines_too_long_to_search_are_cut_alike_and_counted_in_full(
    content: bytes, range_bytes: int, line_bytes: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logdigest, "LINE_BYTES", line_bytes)
        digest = in_ranges(content, len(content), range_bytes)
        assert digest == in_one_pass(content)
    assert digest.size == len(content)
    assert digest.lines == len(io.BytesIO(content).readlines())


@given(content=LOGS, appended=LOGS, range_bytes=st.integers(1, 250))
def test_bytes_appended_after_the_start_are_not_digested(content: bytes, appended: bytes, range_bytes: int) -> None:
    digest = in_one_pass(content)
    assert in_ranges(content + appended, len(content), range_bytes) == digest
    assert in_one_pass(content + appended, len(content)) == digest


@given(st.integers(0, 1000), st.integers(1, 1000))
def test_tasks_cover_each_byte_once(size: int, range_bytes: int) -> None:
    tasks = list(logs.cut(logs.Log("/some.log", size), range_bytes))
    assert [byte for task in tasks for byte in range(task.start, task.end)] == list(range(size))
    assert all(task.end - task.start <= range_bytes for task in tasks)


def test_compressed_log_is_one_task() -> None:
    assert list(logs.cut(logs.Log("/old.gz", 5000), 10)) == [Task("/old.gz", 0, 5000, 5000)]


def test_file_that_shrank_is_an_error_in_ranges_and_in_one_pass(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"short\n")
    outcomes = [
        logdigest.digest_task(Task(str(log), 0, 100, 100)),
        logdigest.digest_task(Task(str(log), 50, 100, 100)),
        logdigest.digest_file(str(log), 100),
    ]
    assert all(outcome.error and "fewer bytes" in outcome.error for outcome in outcomes)


# Lines, words, packages


@pytest.mark.parametrize(
    ("content", "lines"),
    [(b"", 0), (b"\n", 1), (b"a", 1), (b"a\nb", 2), (b"a\r\nb\r\n", 2), (b"a\rb\n", 1), (b"\0\n\xff\n", 2)],
)
def test_line_ends_with_a_newline_or_the_file(content: bytes, lines: int) -> None:
    assert in_one_pass(content).lines == lines


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Accepted password for root.", ["accepted", "password", "for", "root"]),
        ("status half-configured libc-bin:amd64 2.36-9+deb12u14", ["status", "half-configured"]),
        ("link updated to /usr/bin/mawk --quiet", ["link", "updated"]),
        ('sshd[12]: "Don\'t" <none>\r\n', ["sshd", "don't", "none"]),
        ('{"level":"info", "msg": "done"}', ["level", "info", "msg", "done"]),
        ("a to www.example.org root@host 2026 x86", ["x86"]),
        ("Größe \0naïve\0 half\ufffdcut", ["größe", "naïve", "half", "cut"]),
        ("x" * 40 + " " + "y" * 41, ["x" * 40]),
    ],
)
def test_words_stand_alone(text: str, words: list[str]) -> None:
    assert logdigest.words_in(text) == words


def test_invalid_utf8_separates_words() -> None:
    assert in_one_pass(b"caf\xe9bar \xc3\xa9t\xc3\xa9\n").words == Counter(caf=1, bar=1, été=1)


def test_packages_of_dpkg_log() -> None:
    assert in_one_pass(DPKG_LOG).packages == Counter({"libfoo": 4, "python3.11": 1, "libc-bin": 1, "g++": 1})


def test_packages_of_apt_history() -> None:
    line = "Install: libfoo:amd64 (1.0, automatic), g++:amd64 (4:12.2.0-3), bar (2)\r\n"
    assert logdigest.packages_in(line) == ["libfoo", "g++", "bar"]
    assert logdigest.packages_in("Upgrade: libc6:amd64 (2.36-9, 2.36-10)") == ["libc6"]
    assert logdigest.packages_in("Purge: old:all (1)") == ["old"]
    assert logdigest.packages_in("Commandline: apt-get install foo (bar)") == []


def test_packages_of_apt_terminal_log() -> None:
    assert logdigest.packages_in("Setting up libc6:amd64 (2.36-9) ...\r\n") == ["libc6"]
    assert logdigest.packages_in("Processing triggers for libc-bin (2.36-9) ...") == ["libc-bin"]
    assert logdigest.packages_in("Preparing to unpack .../libc6_2.36_amd64.deb ...") == []


def test_groups_of_alternatives_are_no_packages() -> None:
    line = "update-alternatives 2026-11-01 10:00:00: link group awk updated to point to /usr/bin/mawk"
    assert logdigest.packages_in(line) == []


# Which files


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory of logs and of files that are none."""
    (tmp_path / "apt").mkdir()
    (tmp_path / "dpkg.log").write_bytes(DPKG_LOG)
    (tmp_path / "dpkg.log.1.gz").write_bytes(gzip.compress(DPKG_LOG))
    (tmp_path / "apt" / "term.log").write_bytes(b"Setting up libc6:amd64 (2.36-9) ...\r\n" * 100)
    (tmp_path / "empty.log").touch()
    (tmp_path / "after-a-crash.log").write_bytes(b"written before\n" * 50 + b"\0" * 9 + b"and after")
    (tmp_path / "wtmp").touch()
    (tmp_path / "user-1000.journal").write_text("text by chance")
    (tmp_path / "records").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "archive.gz").write_bytes(gzip.compress(bytes(range(256)) * 20))
    (tmp_path / "broken.gz").write_bytes(gzip.compress(DPKG_LOG)[:40])
    (tmp_path / "eipp.log.xz").write_bytes(b"...")
    (tmp_path / "link.log").symlink_to("dpkg.log")
    (tmp_path / "loop").symlink_to(".")
    os.mkfifo(tmp_path / "pipe.log")
    return tmp_path


@pytest.mark.parametrize("range_bytes", [1, 7, 100, 1 << 20])
def test_report_of_the_cluster_is_that_of_one_process(
    directory: Path, range_bytes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for form in ([], ["--json"]):
        assert logs.main([*form, "--range-bytes", str(range_bytes), str(directory)]) == 0
        by_cluster = capsys.readouterr().out
        assert logs.main([*form, "--local", str(directory)]) == 0
        assert by_cluster == capsys.readouterr().out


def test_directory_is_searched_for_text_and_the_rest_named_with_the_reason(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run_json(capsys, directory)
    found = [os.path.relpath(str(entry["path"]), directory) for entry in report["files"]]
    assert found == ["after-a-crash.log", "apt/term.log", "dpkg.log", "dpkg.log.1.gz", "empty.log"]
    assert {os.path.relpath(path, directory): why for path, why in report["skipped"].items()} == {
        "archive.gz": "binary",
        "broken.gz": "cannot be read: Compressed file ended before the end-of-stream marker was reached",
        "eipp.log.xz": "compressed, and not by gzip",
        "link.log": "symbolic link",
        "loop": "symbolic link",
        "pipe.log": "not a regular file",
        "records": "binary",
        "user-1000.journal": "binary records",
        "wtmp": "binary records",
    }


def test_compressed_log_has_the_digest_of_its_contents(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run_json(capsys, directory / "dpkg.log", directory / "dpkg.log.1.gz")
    plain, compressed = report["files"]
    assert {**plain, "path": ""} == {**compressed, "path": ""}
    assert report["all"]["bytes"] == 2 * len(DPKG_LOG)


def test_file_named_twice_is_digested_once(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run_json(capsys, directory / "dpkg.log", directory / "apt" / ".." / "dpkg.log", directory)
    assert report["all"]["files"] == 5


def test_named_link_is_followed(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run_json(capsys, directory / "link.log", directory)
    assert report["all"]["files"] == 6
    assert str(directory / "link.log") not in report["skipped"]


@pytest.mark.parametrize("name", ["nowhere.log", "broken.gz"])
def test_named_path_that_cannot_be_read_is_one_line_on_stderr(
    directory: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert logs.main([str(directory / "dpkg.log"), str(directory / name)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"logs.py: cannot read {directory / name}: ")
    assert err.count("\n") == 1


def test_unreadable_file_in_a_directory_is_skipped(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: str, mode: int) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(logs, "why_no_log", refuse)
    report = run_json(capsys, directory)
    assert report["files"] == []
    assert report["skipped"][str(directory / "dpkg.log")] == "cannot be read: Permission denied"


# Failures on the workers


def test_file_missing_on_the_worker_says_that_the_disk_must_be_shared() -> None:
    outcome = logdigest.digest_task(Task("/nowhere/a.log", 0, 10, 10))
    assert outcome.error is not None
    assert "the job and all workers share at the same path" in outcome.error


def test_file_that_fails_on_one_worker_is_left_out_and_named(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class PoolWithoutAFile(PoolAtOnce):
        def imap_unordered(self, func: Callable[[Task], Outcome], tasks: Iterable[Task]) -> Iterator[Outcome]:
            for task in tasks:
                missing = task.path.endswith("term.log") and task.start == 100
                yield Outcome(task.path, Digest(), "not there") if missing else func(task)

    monkeypatch.setattr(multihost, "Pool", PoolWithoutAFile)
    term_log = directory / "apt" / "term.log"
    assert logs.main(["--json", "--range-bytes", "50", str(term_log), str(directory / "dpkg.log")]) == 1
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["failed"] == {str(term_log): "not there"}
    assert report["all"]["bytes"] == len(DPKG_LOG)
    assert err == f"logs.py: {term_log}: not there\n"


def test_error_of_the_cluster_is_one_line(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_master() -> None:
        raise multihost.MultihostError("no answer from master:5000")

    monkeypatch.setattr(multihost, "Pool", no_master)
    assert logs.main([str(directory)]) == 1
    assert capsys.readouterr() == ("", "logs.py: no answer from master:5000\n")


# The report


def test_where_counts_are_equal_names_decide() -> None:
    assert logs.most_frequent(Counter(b=2, c=1, a=2, d=3), 3) == [("d", 3), ("a", 2), ("b", 2)]


def test_text_report(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert logs.main(["--top", "2", str(directory / "dpkg.log"), str(directory / "wtmp")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{directory}/dpkg.log: 9 lines, {len(DPKG_LOG)} bytes",
        "  words: none 4, status 2",
        "  packages: libfoo 4, g++ 1",
        f"all 1 file: 9 lines, {len(DPKG_LOG)} bytes",
        "  words: none 4, status 2",
        "  packages: libfoo 4, g++ 1",
        f"skipped {directory}/wtmp: binary records",
    ]

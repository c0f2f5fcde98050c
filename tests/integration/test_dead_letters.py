"""A task that kills its process, from its program's end to the last that is done with it on the command line."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from multihost import payload
from multihost.errors import WorkerDied
from multihost.saved import SavedTask
from tests.integration.cluster import Cluster, free_port, wait_until

HELPER = """
import os, signal
from pathlib import Path

def work(directory, number):
    go = Path(directory, "go")
    if number == 3 and not go.exists():
        print("the last line before the end")
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 3 and go.read_text() == "raise":
        raise LookupError("there is no such number")
    Path(directory, f"result-{number}").write_text(str(number))
    return number * 2
"""
PROGRAM = """
import sys
import multihost
from helper import work

FACTOR = 7

def factor(directory, number):
    return work(directory, number) * FACTOR

if __name__ == "__main__":
    directory = sys.argv[1]
    with multihost.Pool() as pool:
        try:
            pool.options(name="the deadly one").apply(factor, (directory, 3))
        except multihost.WorkerDied:
            print("it died")
        items = pool.starmap_async(work, [(directory, number) for number in range(6)], chunksize=6)
        try:
            items.get(60)
        except multihost.WorkerDied:
            print("one of six died")
"""


def command(cluster: Cluster, *arguments: str | Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """``python -m multihost`` with these arguments, whatever comes of it."""
    return python("-m", "multihost", *arguments, environ=cluster.environ(**settings))


def python(*arguments: str | Path, environ: dict[str, str], typed: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)], env=environ, input=typed, capture_output=True, text=True, timeout=60
    )


def rows(cluster: Cluster) -> list[dict[str, Any]]:
    told = command(cluster, "dead", "list", "--json")
    assert told.returncode == 0, told.stderr
    return [json.loads(line) for line in told.stdout.splitlines()]


def states(cluster: Cluster) -> list[tuple[int, str]]:
    return [(row["letter"], row["state"]) for row in rows(cluster)]


def run_deadly_program(cluster: Cluster, directory: Path) -> None:
    """Its two dead letters are of ``directory``, where the file ``go`` would keep them alive."""
    home = directory / "program"
    home.mkdir()
    (home / "helper.py").write_text(HELPER)
    (home / "deadly.py").write_text(PROGRAM)
    assert cluster.run(home / "deadly.py", directory, cwd=home).split("\n")[-3:-1] == ["it died", "one of six died"]
    for file in home.iterdir():
        if file.is_file():
            file.unlink()  # all that is needed is with the master


def test_dead_letter_is_listed_shown_saved_replayed_requeued_and_dropped(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    with Cluster(tmp_path, MULTIHOST_JOURNAL=str(tmp_path / "journal")) as cluster:
        master = cluster.start_master()
        cluster.start_worker(slots=1)
        run_deadly_program(cluster, tmp_path)
        master.kill()
        cluster.start_master()
        wait_until(lambda: cluster.worker("w1"), "the worker is back")

        first, second = rows(cluster)
        assert (first["letter"], first["state"], first["name"]) == (1, "dead", "the deadly one")
        assert (second["function"], second["item"], second["deaths"]) == ("helper.work", 3, 3)
        listed = command(cluster, "dead", "list").stdout
        assert re.search(
            r"1  dead +the deadly one  task 0 of .*deadly.py.*  20.* UTC  .*SIGKILL.* on worker w1", listed
        )

        shown = command(cluster, "dead", "show", "1")
        assert "death 3: its process was killed by SIGKILL on worker w1" in shown.stdout
        assert "its last output:\n    the last line before the end" in shown.stdout
        told = json.loads(command(cluster, "dead", "show", "1", "--json").stdout)
        assert [death["signal"] for death in told["certificate"]] == ["SIGKILL"] * 3
        assert told["options"] == {"name": "the deadly one"}
        for number in ("1", "2"):
            assert command(cluster, "dead", "show", number, "--save", tmp_path / f"{number}.task").returncode == 0
        replays_without_a_cluster(tmp_path)

        (tmp_path / "go").write_text("raise")
        requeued = command(cluster, "dead", "requeue", "2")
        assert (requeued.returncode, "nobody gets its result" in requeued.stdout) == (0, True)
        wait_until(lambda: states(cluster)[1] == (2, "failed"), "the second one ran again")
        assert "LookupError: there is no such number" in command(cluster, "dead", "show", "2").stdout
        (tmp_path / "go").write_text("")
        (tmp_path / "result-3").unlink(missing_ok=True)
        assert command(cluster, "dead", "requeue", "--all").stdout.startswith("dead letter 1: requeued")
        wait_until(lambda: states(cluster) == [(1, "done"), (2, "failed")], "the first one ran again")
        assert (tmp_path / "result-3").read_text() == "3"
        counts = cluster.statistics()
        assert (counts["sessions"], counts["dead_letters"]) == (0, 2)
        assert command(cluster, "dead", "drop", "1").stdout == "dead letter 1: dropped\n"
        assert command(cluster, "dead", "drop", "--all", "--json").stdout == '{"letter": 2, "problem": ""}\n'
        assert command(cluster, "dead", "list").stdout == ""
        assert cluster.wait_for(blobs=0)["dead_letters"] == 0


def replays_without_a_cluster(directory: Path) -> None:
    """Both letters, from their files; ``go`` is not there."""
    environ = Cluster(directory).environ(MULTIHOST_ADDRESS="", MULTIHOST_AUTHKEY="", TMPDIR=str(directory))
    replay = ["-m", "multihost", "replay", "--no-debugger"]
    for file in ("1.task", "2.task"):
        killed = python(*replay, directory / file, environ=environ)
        assert (killed.returncode, killed.stdout) == (-9, "the last line before the end\n")
    (directory / "go").write_text("raise")
    raised = python(*replay, directory / "1.task", environ=environ)
    assert raised.returncode == 1
    assert "LookupError: there is no such number" in raised.stderr
    assert "multihost/replay.py" not in raised.stderr
    looked = python("-m", "multihost", "replay", directory / "1.task", environ=environ, typed="c\np number\nq\n")
    assert looked.returncode == 1
    assert "(Pdb) 3" in looked.stdout  # where it raised
    (directory / "go").write_text("")
    for file, result in (("1.task", 42), ("2.task", 6)):
        returned = python(*replay, directory / file, environ=environ)
        assert (returned.returncode, returned.stdout) == (0, f"it returned {result}\n")
    stepped = python("-m", "multihost", "replay", directory / "1.task", environ=environ, typed="p number\nn\nc\n")
    assert stepped.returncode == 0
    assert "return work(directory, number) * FACTOR" in stepped.stdout
    assert stepped.stdout.endswith("it returned 42\n")
    (directory / "go").unlink()


def test_what_cannot_be_done_is_told_in_one_line_with_an_exit_code(shared_cluster: Cluster, tmp_path: Path) -> None:
    def refused(*arguments: str, **settings: str) -> tuple[int, str]:
        ended = command(shared_cluster, *arguments, **settings)
        (line,) = ended.stderr.splitlines()
        assert ended.stdout == ""
        return ended.returncode, line

    none = "multihost: dead letter 999: there is no such dead letter"
    for what in ("show", "requeue", "drop"):
        assert refused("dead", what, "999") == (1, none)
    file = tmp_path / "file"
    assert refused("dead", "show", "999", "--save", str(file)) == (1, none)
    assert not file.exists()
    code, line = refused("dead", "list", MULTIHOST_AUTHKEY="another")
    assert (code, "authkey" in line) == (77, True)
    code, line = refused("dead", "list", "--address", f"127.0.0.1:{free_port()}")
    assert (code, "no master answered" in line) == (69, True)
    code, line = refused("dead", "list", "--address", "nowhere:at:all")
    assert code == 78


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "is no saved task"),
        (b"multihost saved task 1\n", "a damaged one"),
        (b"multihost saved task 1\n\x80\x05cos\nsystem\n(Vtouch ran\ntR.", "a damaged one"),
        (b"multihost saved task 1\n\x80\x05}].", "a damaged one"),
    ],
)
def test_file_that_is_no_saved_task_is_told_and_nothing_of_it_runs(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    ended = python("-m", "multihost", "replay", file, environ=Cluster(tmp_path).environ())
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert problem in line
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("definition", "problem"),
    [
        (b"by-value 3.4\n" + payload.by_value(len).partition(b"\n")[2], "PythonMismatch: "),
        (b"\x80\x05\x8c\x07no_such\x94\x8c\x01f\x94\x93\x94.", "No module named 'no_such'"),
    ],
)
def test_task_that_cannot_be_loaded_here_is_told_in_one_line(tmp_path: Path, definition: bytes, problem: str) -> None:
    name = payload.content_id(definition)
    told = {
        "letter": 1,
        "state": "dead",
        "function": "",
        "name": "",
        "program": "p",
        "session": "s",
        "task": 0,
        "item": None,
        "died_at": 0.0,
        "reason": str(WorkerDied(["a", "b", "c"]).losses[0]),
        "function_id": name,
        "payload": payload.dumps(((), {})),
        "options": {},
    }
    SavedTask(told, {name: (name, definition, ())}).write(tmp_path / "file")
    ended = python("-m", "multihost", "replay", tmp_path / "file", environ=Cluster(tmp_path).environ())
    assert ended.returncode == 2
    head, line = ended.stderr.splitlines()
    assert "task 0 of p" in head
    assert problem in line

"""Programs that end without having closed what they use: they end, and what must be finished is."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.cluster import ROOT
from tests.contract.conftest import Place

# What every program begins with: ``Pool`` and ``Executor`` of the kind that is tested.
# Tasks learn the place by an initializer: what the main block sets is not in every process.
HEAD = """\
import gc, json, os, sys, threading, time
from pathlib import Path
kind, where, place, here = json.loads(sys.argv[1])
if kind == "standard library":
    from concurrent.futures import ProcessPoolExecutor as Executor
    from multiprocessing import Pool
else:
    from functools import partial
    import multihost
    Pool, Executor = partial(multihost.Pool, **where), partial(multihost.Executor, **where)

def mark(name, seconds=0.0):
    time.sleep(seconds)
    Path(place, name).touch()
    return name

def wait_for(*names):
    while not all(Path(here, name).exists() for name in names):
        time.sleep(0.005)

def set_place(name):
    global place
    place = name

def fail():
    raise ValueError("on purpose")

"""
SECONDS = 60


@pytest.fixture
def run(kind: str, where: dict[str, Any], place: Place, tmp_path: Path) -> Any:
    """Runs a program, and gives its exit code and output; ``mark`` makes a file in ``place``."""

    def run(body: str) -> subprocess.CompletedProcess[str]:
        program = tmp_path / "program.py"
        main = "".join(f"    {line}\n" for line in body.strip().splitlines())
        program.write_text(f"{HEAD}if __name__ == '__main__':\n{main}")
        told = {name: value.decode() if isinstance(value, bytes) else value for name, value in where.items()}
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        return subprocess.run(
            [sys.executable, "-W", "ignore", program, json.dumps([kind, told, place.task, str(place.test)])],
            env=environ,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    return run


def test_what_was_submitted_is_finished_although_nobody_waits(run: Any, place: Place) -> None:
    done = run("""
executor = Executor(2, initializer=set_place, initargs=(place,))
for number in range(20):
    executor.submit(mark, f"done-{number}", 0.005)
""")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list(place.test.glob("done-*"))) == 20


def test_shutdown_without_waiting_leaves_nothing_undone(run: Any, place: Place) -> None:
    done = run("""
executor = Executor(2, initializer=set_place, initargs=(place,))
for number in range(20):
    executor.submit(mark, f"done-{number}", 0.005)
executor.shutdown(wait=False)
""")
    assert done.returncode == 0
    assert len(list(place.test.glob("done-*"))) == 20


def test_an_executor_that_was_dropped_finishes_what_it_has(run: Any, place: Place) -> None:
    done = run("""
future = Executor(2, initializer=set_place, initargs=(place,)).submit(mark, "done", 0.1)
gc.collect()
future.add_done_callback(lambda future: print(future.result()))
""")
    assert done.returncode == 0
    assert (place.test / "done").exists()
    assert done.stdout == "done\n"


def test_callbacks_are_called_before_the_program_has_ended(run: Any) -> None:
    done = run("""
executor = Executor(1, initializer=set_place, initargs=(place,))
executor.submit(mark, "done", 0.1).add_done_callback(lambda future: print("called with", future.result()))
""")
    assert done.stdout == "called with done\n"


@pytest.mark.parametrize("made", ["Pool(2)", "Executor(2)"])
def test_one_that_was_forgotten_unused_does_not_keep_the_program(run: Any, made: str) -> None:
    done = run(f"forgotten = {made}\nprint('the end')")
    assert (done.returncode, done.stdout) == (0, "the end\n")


@pytest.mark.parametrize("end", ["", "pool.close()", "pool.terminate()"])
def test_a_pool_that_was_not_joined_does_not_keep_the_program(run: Any, end: str) -> None:
    done = run(f"""
pool = Pool(2, set_place, (place,))
pool.apply_async(mark, ("begun",))
results = pool.imap(mark, map(str, range(50)))
pool.apply_async(mark, ("never", 600))
wait_for("begun")
{end}
print("the end")
""")
    assert done.returncode == 0
    assert done.stdout == "the end\n"


def test_the_exit_code_is_the_programs_own(run: Any, place: Place) -> None:
    done = run("""
executor = Executor(1, initializer=set_place, initargs=(place,))
executor.submit(mark, "done", 0.1)
sys.exit(3)
""")
    assert done.returncode == 3
    assert (place.test / "done").exists()


def test_a_program_that_raises_ends_with_what_it_raised(run: Any, place: Place) -> None:
    done = run("""
executor, pool = Executor(1, initializer=set_place, initargs=(place,)), Pool(1)
executor.submit(mark, "done", 0.1)
pool.apply(fail)
""")
    assert done.returncode == 1
    assert "ValueError: on purpose" in done.stderr
    assert (place.test / "done").exists()


def test_a_thread_that_waits_has_its_result(run: Any) -> None:
    done = run("""
executor = Executor(1, initializer=set_place, initargs=(place,))
future = executor.submit(mark, "done", 0.2)
threading.Thread(target=lambda: print(future.result())).start()
""")
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_nothing_can_be_submitted_at_the_interpreters_exit(run: Any) -> None:
    done = run("""
import atexit
def late():
    try:
        executor.submit(mark, "late")
    except RuntimeError as error:
        print(error)
atexit.register(late)
executor = Executor(1)
executor.submit(abs, 1).result()
""")
    assert done.returncode == 0
    assert done.stdout.startswith("cannot schedule new futures after ")


def test_a_pool_made_and_ended_many_times_leaves_no_thread(run: Any) -> None:
    done = run("""
for _ in range(3):
    with Pool(1) as pool:
        assert pool.apply(abs, (-1,)) == 1
    pool.join()
    with Executor(1) as executor:
        assert executor.submit(abs, -1).result() == 1
while threading.active_count() > 1:
    time.sleep(0.005)
print("the end")
""")
    assert (done.returncode, done.stdout) == (0, "the end\n")

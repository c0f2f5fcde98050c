"""The fork server: what it says of children that could not begin, and of those that failed; and that it goes on."""

import os
import subprocess
import sys
from pathlib import Path

BEGIN = """
import os, sys
import multihost.runner.preloaded
from multiprocessing import spawn
read, write = os.pipe()
os.write(write, {orders!r})
os.close(write)
try:
    spawn._main(read, None)
except Exception:
    sys.excepthook(*sys.exc_info())
"""


def said(orders: bytes) -> str:
    """What is printed for a child that finds these orders."""
    run = subprocess.run(
        [sys.executable, "-c", BEGIN.format(orders=orders)], capture_output=True, text=True, timeout=30
    )
    assert (run.returncode, run.stdout) == (0, "")
    return run.stderr


def test_nothing_is_said_of_a_child_whose_worker_was_killed_while_it_began() -> None:
    assert said(b"") == ""


def test_a_child_that_fails_otherwise_leaves_its_traceback() -> None:
    assert "UnpicklingError" in said(b"no pickle")


# Preloaded before ours, so that ours finds it where os.fork was: a system without room for the second and the third.
REFUSING = """
import os
fork, calls = os.fork, 0

def refuse():
    global calls
    calls += 1
    if calls in (2, 3):
        raise BlockingIOError(11, "no room")
    return fork()

os.fork = refuse
"""
# A request that was refused leaves no descriptor behind in the fork server, or else its maker would wait for ever.
REFUSED = """
import multiprocessing, os, time
from multiprocessing import forkserver

def descriptors():
    return len(os.listdir(f"/proc/{forkserver._forkserver._forkserver_pid}/fd"))

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["refusing", "multihost.runner.preloaded"])
    forkserver.ensure_running()
    before = None
    for number in range(4):
        process = context.Process(target=print, args=("began", number), kwargs={"flush": True})
        try:
            process.start()
        except (OSError, EOFError):
            print("refused", number, flush=True)
            continue
        process.join()
        while before is not None and descriptors() > before:  # it closes its end after it has told ours,
            time.sleep(0.01)
        before = descriptors()  # so this may be one more than there are later; what two refusals left would be two
"""


def test_fork_server_that_finds_no_room_refuses_and_goes_on(tmp_path: Path) -> None:
    """It tells what to close by the names that this Python's fork server has for that."""
    (tmp_path / "refusing.py").write_text(REFUSING)
    (tmp_path / "program.py").write_text(REFUSED)
    path = f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"
    environ = {**os.environ, "PYTHONPATH": path}
    program = [sys.executable, str(tmp_path / "program.py")]
    run = subprocess.run(program, capture_output=True, text=True, timeout=30, env=environ, cwd=tmp_path, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.splitlines() == ["began 0", "refused 1", "refused 2", "began 3"]

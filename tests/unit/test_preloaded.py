"""The fork server: what it says of children that could not begin, and of those that failed."""

import subprocess
import sys

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

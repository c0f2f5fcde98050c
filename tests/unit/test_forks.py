"""Forks for interpreters: a fork server, and its children, that differ in nothing from those that were started anew."""

import subprocess
import sys

STARTED = """
import multiprocessing, os, sys, threading
from multiprocessing import forkserver
from multihost.runner.forks import forks_for_interpreters

sys.mark = "of the process that was forked"
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["json"])
kept, _ = os.pipe()
os.set_inheritable(kept, True)
with forks_for_interpreters():
    forkserver.ensure_running()

def run(program):
    process = context.Process(target=exec, args=(program, {}))
    process.start()
    process.join(20)
    print(process.exitcode)

"""


def printed(program: str) -> list[str]:
    """The lines printed by a program that has a forked fork server."""
    done = subprocess.run([sys.executable, "-c", STARTED + program], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split("\n")[:-1]


def test_children_have_what_the_forked_process_had() -> None:
    assert printed("run('import sys; print(sys.mark)')") == ["of the process that was forked", "0"]


def test_the_fork_server_keeps_no_descriptor_that_it_was_not_passed() -> None:
    ask = (
        "import os\n"
        "for pid in os.getpid(), os.getppid():\n"
        "    with os.scandir(f'/proc/{pid}/fd') as entries:\n"
        "        print(%d in [entry.stat().st_ino for entry in entries if os.path.exists(entry.path)])\n"
    )
    assert printed(f"run({ask!r} % os.fstat(kept).st_ino)") == ["False", "False", "0"]


def test_a_child_can_have_a_fork_server_of_its_own() -> None:
    """Its locks are free, in any thread, although its starter held them while it forked."""
    nested = (
        "import multiprocessing, threading\n"
        "def begin():\n"
        "    process = multiprocessing.get_context('forkserver').Process(target=print, args=('grandchild',))\n"
        "    process.start()\n"
        "    process.join()\n"
        "thread = threading.Thread(target=begin)\n"
        "thread.start()\n"
        "thread.join()\n"
    )
    program = (
        "import sys; sys.modules['multiprocessing.process'].current_process()._config['daemon'] = False\n" + nested
    )
    assert printed(f"run({program!r})") == ["grandchild", "0"]


def test_the_fork_server_ends_with_its_starter() -> None:
    # Until then the output that is read here has not ended.
    assert printed("os._exit(0)") == []


def test_interpreters_are_started_again_afterwards() -> None:
    program = (
        "os.kill(forkserver._forkserver._forkserver_pid, 9)\n"
        "os.waitid(os.P_PID, forkserver._forkserver._forkserver_pid, os.WEXITED | os.WNOWAIT)\n"
        "run('import sys; print(hasattr(sys, \"mark\"))')"
    )
    assert printed(program) == ["False", "0"]

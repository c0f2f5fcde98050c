"""Functions that die, and leave something behind. They travel as this module."""

import ctypes
import mmap
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path


def print_and_be_killed(number: int) -> None:
    print("the task's first line")
    print("and, not ended yet, its last", end="")
    os.kill(os.getpid(), number)


def print_and_exit(status: int) -> None:
    print("before the exit")
    os._exit(status)


def touch_nothing() -> None:
    """A segmentation fault that is one."""
    ctypes.string_at(0)


def take_memory_and_die(mebibytes: int) -> None:
    taken = bytearray(mebibytes << 20)
    taken[:: os.sysconf("SC_PAGE_SIZE")] = b"x" * len(taken[:: os.sysconf("SC_PAGE_SIZE")])
    os._exit(1)


def print_and_never_end() -> None:
    print("before the loop")
    never_end()


def never_end(file: Path | None = None) -> None:
    """Go on whatever is raised; the file tells from when on."""
    while True:
        try:
            if file is not None:
                file.touch()
            while True:
                time.sleep(0.001)
        except BaseException:
            continue


# --- what tasks leave behind -----------------------------------------------------------------------------------------

_NOTE_AND_SLEEP = 'echo $$ > "$0.new" && mv "$0.new" "$0"; exec sleep 300'


def start(directory: str, how: str) -> None:
    """Start a process that notes its id in a file; return when it has."""
    file = Path(directory, how)
    sleeper = ["sh", "-c", _NOTE_AND_SLEEP, str(file)]
    if how == "child":
        subprocess.Popen(sleeper)
    elif how == "session":
        subprocess.Popen(sleeper, start_new_session=True)
    elif how == "detached":  # its parent has ended: it is an orphan
        subprocess.run(["sh", "-c", '"$@" &', "sh", *sleeper], check=True)
    elif how == "daemon":
        subprocess.run(["setsid", "sh", "-c", 'setsid "$@" &', "sh", *sleeper], check=True)
    elif how == "stubborn":
        subprocess.Popen(["sh", "-c", f"trap '' TERM INT HUP; {_NOTE_AND_SLEEP}", str(file)])
    elif how == "fork" and os.fork() == 0:
        file.with_suffix(".new").write_text(f"{os.getpid()}\n")
        file.with_suffix(".new").rename(file)
        time.sleep(300)
        os._exit(0)
    while not file.exists():
        time.sleep(0.005)


WAYS = ("child", "session", "detached", "daemon", "stubborn", "fork")


def start_all(directory: str) -> int:
    for how in WAYS:
        start(directory, how)
    return os.getpid()


def start_all_and_stay(directory: str) -> None:
    start_all(directory)
    never_end(Path(directory, "stays"))


def start_all_and_be_killed(directory: str, number: int) -> None:
    own = Path(directory, f"of-{os.getpid()}")
    own.mkdir()
    start_all(str(own))
    os.kill(os.getpid(), number)


def signal_the_group(number: int) -> None:
    os.killpg(0, number)
    time.sleep(60)


def leave_orphans(count: int) -> None:
    for _ in range(count):
        subprocess.run(["sh", "-c", "sleep 0.05 &"], check=True)


def kill_the_parent_once(directory: str) -> str:
    try:
        Path(directory, "killed").touch(exist_ok=False)
    except FileExistsError:
        return "the second time"
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
    return "it was not killed"


# --- memory ----------------------------------------------------------------------------------------------------------


def take(mebibytes: int) -> int:
    """Take so much, and hold it for a moment."""
    return len(b"x" * (mebibytes << 20)) >> 20


def take_in_small_pieces(mebibytes: int) -> int:
    pieces = [b"%d" % number * 20 for number in range(mebibytes << 12)]
    return len(pieces)


def take_and_do_with_less(mebibytes: int) -> str:
    try:
        take(mebibytes)
    except MemoryError:
        return "with less"
    return "with all"


def take_shared(mebibytes: int) -> None:
    """Memory that the limit of a process's data does not count."""
    print("before the memory")
    shared = mmap.mmap(-1, mebibytes << 20)
    for place in range(0, mebibytes << 20, 4096):
        shared[place] = 1
    time.sleep(60)


def take_if_third(number: int, shared: bool) -> int:
    if number == 3:
        (take_shared if shared else take)(1000)
    return number


def own_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_DATA)[0]


def only_once(directory: str, function: Callable[[int], object], argument: int) -> object:
    try:
        Path(directory, "once").touch(exist_ok=False)
    except FileExistsError:
        return "the second time"
    return function(argument)

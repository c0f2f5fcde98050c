"""Functions that are hard to stop, print, wait, or leave marks. They travel as this module."""

import asyncio
import atexit
import contextlib
import itertools
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

import multihost


def mark(directory: str, name: str) -> str:
    """Leave a mark with the process's id."""
    Path(directory, f"{name}.{os.getpid()}.{time.monotonic_ns()}").touch()
    return name


def sleep_and_clean_up(directory: str) -> None:
    try:
        mark(directory, "began")
        time.sleep(60)
    finally:
        mark(directory, "cleaned up")


def hold_the_gil(directory: str) -> None:
    mark(directory, "began")
    sum(itertools.repeat(0))


def catch_everything(directory: str) -> None:
    mark(directory, "began")
    while True:
        with contextlib.suppress(BaseException):
            while True:
                time.sleep(0.001)


async def sleep_in_a_coroutine(directory: str) -> None:
    try:
        mark(directory, "began")
        await asyncio.sleep(60)
    finally:
        mark(directory, "cleaned up")


def use_the_time(directory: str) -> str:
    """Make the best of a timeout."""
    try:
        time.sleep(60)
    except TimeoutError:
        return "what there was by then"
    return "everything"


def item(directory: str, number: int, killer: int) -> int:
    """Leave a mark; the first time, die at ``killer``."""
    mark(directory, f"item-{number}")
    time.sleep(0.005)
    if number == killer and len(list(Path(directory).glob(f"item-{number}.*"))) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die_at_once(number: int, killer: int) -> int:
    """An item that takes no time; always dies at ``killer``."""
    if number == killer:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail_at(number: int) -> int:
    print("working on", number)
    if number % 3 == 2:
        raise LookupError(number)
    return number


def unpicklable_at(number: int) -> object:
    return threading.Lock() if number == 3 else number


def large_at(number: int) -> bytes:
    return bytes(700_000 if number == 3 else 300_000)


def pid(_: object = None) -> int:
    return os.getpid()


def mark_at_exit(directory: str) -> int:
    atexit.register(mark, directory, "exit")
    return os.getpid()


def count_process(counter: list[int] = []) -> int:  # noqa: B006
    """How many calls this process has seen."""
    counter.append(0)
    return len(counter)


def talk(count: int) -> None:
    for number in range(count):
        print("line", number)
    print("no end", end="")
    print("on stderr", file=sys.stderr)
    logging.warning("logged")


def print_and_wait(directory: str) -> None:
    print("seen while it runs")
    print("the beginning of a line ", end="", flush=True)
    while not Path(directory, "go").exists():
        time.sleep(0.01)
    print("and its end")


def print_from_a_fork() -> None:
    if (child := os.fork()) == 0:
        print("printed by a fork")
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)
    print("printed by the task")


def meet(directory: str, name: str, others: int) -> str:
    """Return when so many others are here, too."""
    print("this is", name)
    Path(directory, name).touch()
    deadline = time.monotonic() + 30
    while len(os.listdir(directory)) <= others:
        if time.monotonic() > deadline:
            raise TimeoutError("the others did not come")
        time.sleep(0.01)
    print("that was", name)
    return name


async def meet_in_coroutines(directory: str, name: str, others: int) -> tuple[str, int]:
    print("this is", name)
    mark(directory, name)
    async with asyncio.timeout(30):
        while len(os.listdir(directory)) <= others:  # noqa: ASYNC110  an asyncio.Event is of one process
            await asyncio.sleep(0.01)
    return name, threading.get_ident()


async def same_loop() -> int:
    return id(asyncio.get_running_loop())


def leaves(depth: int) -> int:
    """Of a tree, counted by one task a node."""
    if not depth:
        return 1
    with multihost.Pool() as pool:
        return sum(pool.map(leaves, [depth - 1] * 2, chunksize=1))


def wait_for_a_task(directory: str) -> None:
    """Submit a task that does not end, and wait for it."""
    with multihost.Pool() as pool:
        pool.apply(sleep_and_clean_up, (directory,))


class StoppedWhilePickled(Exception):
    """Its pickling lasts until its process has been told to end the task."""

    def __reduce__(self) -> tuple[object, ...]:
        number = signal.SIGRTMAX - 1  # as in multihost.runner.interrupts
        theirs = signal.getsignal(number)
        assert callable(theirs)
        came = threading.Event()

        def note(signum: int, frame: FrameType | None) -> None:
            came.set()
            theirs(signum, frame)

        signal.signal(number, note)
        mark(str(self.args[0]), "pickled")
        try:
            while not came.is_set():
                time.sleep(0.001)
        finally:
            signal.signal(number, theirs)
        return StoppedWhilePickled, self.args


def fail_first(directory: str, number: int) -> None:
    if number == 0:
        raise StoppedWhilePickled(directory)
    mark(directory, "second")

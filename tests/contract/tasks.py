"""Functions that the contract's tests submit. They travel as this module, so it imports nothing of the tests."""

import os
import signal
import socket
import threading
import time
from concurrent import futures
from pathlib import Path
from typing import NoReturn


def square(x: int) -> int:
    return x * x


def total(*numbers: float, scale: float = 1) -> float:
    return sum(numbers) * scale


def keywords(fn: object, self: object, /, **kwds: object) -> tuple[object, object, dict[str, object]]:
    return fn, self, kwds


def divide(a: int, b: int) -> float:
    return a / b


def fail(text: str = "on purpose") -> NoReturn:
    raise ValueError(text)


def fail_at_7(number: int) -> int:
    if number == 7:
        raise ValueError(number)
    return number


def raise_cancelled() -> None:
    raise futures.CancelledError


class Awkward(Exception):
    """An exception that cannot be rebuilt from its ``args``."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


def fail_awkwardly() -> None:
    raise Awkward(1, 2)


def exit_by_exception(code: int) -> None:
    raise SystemExit(code)


def interrupt() -> None:
    raise KeyboardInterrupt("in a task")


def exit_at_once(code: int) -> None:
    os._exit(code)


def kill_oneself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def a_lock() -> object:
    return threading.Lock()


def identity(x: object) -> object:
    return x


def process(_: object = None) -> tuple[str, int]:
    """Which process this is, in all of the cluster."""
    return socket.gethostname(), os.getpid()


def leave_a_mark(directory: str, name: str) -> str:
    Path(directory, name).touch()
    return name


def mark_and_wait(directory: str, name: str, go_on: str = "go") -> str:
    """Leave a mark, and end when the file ``go_on`` is there."""
    leave_a_mark(directory, name)
    while not Path(directory, go_on).exists():
        time.sleep(0.005)
    return name


def mark_and_wait_at(place: tuple[str, str]) -> str:
    return mark_and_wait(*place)


def mark_at(place: tuple[str, str]) -> str:
    return leave_a_mark(*place)


def first_waits(place: tuple[str, int]) -> int:
    """The first ends when the file ``go`` is there."""
    directory, number = place
    if number == 0:
        mark_and_wait(directory, "first")
    return number


def mark_and_go_on(directory: str, number: int) -> int:
    """Leave a mark; all but the first few wait for the file ``go``."""
    leave_a_mark(directory, f"mark-{number}")
    while number > 2 and not Path(directory, "go").exists():
        time.sleep(0.005)
    return number


def die_once(directory: str, number: int, victim: int) -> int:
    """Note the run, take some milliseconds, and if this is the victim's first run, die in the middle of it."""
    with Path(directory, f"runs-{number}").open("a") as runs:
        runs.write("x")
    time.sleep(0.003)
    if number == victim and Path(directory, f"runs-{number}").stat().st_size == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def zeros(size_bytes: int) -> bytes:
    return bytes(size_bytes)


class Kept:
    """Something that can be referred to weakly."""

    def __init__(self, number: int) -> None:
        self.number = number


INITIALIZED: list[str] = []


def initialize(*names: str) -> None:
    INITIALIZED.extend(names)


def initialized(_: object = None) -> list[str]:
    return INITIALIZED


async def in_a_coroutine(x: int) -> int:
    return x * x


def fibonacci(n: int) -> int:
    """By a tree of tasks."""
    import multihost  # a task's own pool; the standard library's control does without

    if n < 2:
        return n
    with multihost.Pool() as pool:
        return sum(pool.map(fibonacci, [n - 1, n - 2]))


def succeed_at(directory: str, name: str, wanted: int) -> int:
    """Count the tries in a file, and raise before the wanted one."""
    with Path(directory, name).open("a") as tries:
        tries.write("x")
    number = Path(directory, name).stat().st_size
    if number < wanted:
        raise ConnectionError(f"try {number}")
    return number


def print_and_fail(text: str) -> NoReturn:
    print(text)
    raise ValueError("on purpose")


def note_order(directory: str, name: str) -> None:
    with Path(directory, "order").open("a") as order:
        order.write(f"{name}\n")


class Fussy:
    """Something that does ``what`` when it is pickled (``at_pickling``), or else when it is rebuilt."""

    def __init__(self, what: str, at_pickling: bool) -> None:
        self.what, self.at_pickling = what, at_pickling

    def __reduce__(self) -> tuple[object, ...]:
        if self.at_pickling:
            do(self.what)
        return do, (self.what,)


def do(what: str) -> None:
    match what:
        case "raise":
            raise ValueError("on purpose")
        case "exit":
            raise SystemExit("on purpose")
        case "die":
            kill_oneself()


def make_fussy(what: str, at_pickling: bool) -> Fussy:
    return Fussy(what, at_pickling)


def fussy_at_2(what: str, at_pickling: bool, number: int) -> object:
    return Fussy(what, at_pickling) if number == 2 else number


class Falsy(Exception):
    """An exception that is not true."""

    def __bool__(self) -> bool:
        return False

    def __len__(self) -> int:
        return 0


def fail_falsely() -> None:
    raise Falsy("on purpose")


def fail_with_a_cause() -> None:
    try:
        divide(1, 0)
    except ZeroDivisionError as error:
        raise LookupError("because of that") from error


def fail_with_a_lock() -> None:
    raise LookupError("on purpose", threading.Lock())


def stop_iteration_at_2(number: int) -> int:
    if number == 2:
        raise StopIteration("in a task")
    return number


def lock_at_7(number: int) -> object:
    return threading.Lock() if number == 7 else number


def number_of(kept: Kept) -> int:
    return kept.number


def first_fails(directory: str, number: int) -> int:
    """The first fails at once; the others wait for the file ``go``."""
    if number == 0:
        raise ValueError("the first")
    mark_and_wait(directory, f"mark-{number}")
    return number


def mark_at_exit(directory: str) -> None:
    import atexit

    atexit.register(leave_a_mark, directory, "ended")


class Adder:
    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, other: int) -> int:
        return self.number + other

    add = __call__


class KeptError(Exception):
    """One that can be referred to weakly, as any exception of a class of one's own."""


def fail_with_kept() -> NoReturn:
    raise KeptError


def how_many_at_once(directory: str, name: str) -> int:
    """How many of these calls run now."""
    mark = Path(directory, f"running-{name}")
    mark.touch()
    time.sleep(0.003)
    found = len(list(Path(directory).glob("running-*")))
    mark.unlink()
    return found

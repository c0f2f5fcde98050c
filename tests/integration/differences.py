"""The same calls with the standard library's classes or with ours; prints what came of each, as JSON.

Usage: differences.py standard|ours
"""

import collections
import json
import multiprocessing
import multiprocessing.pool
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import multihost

FORK = multiprocessing.get_context("fork")
lock = FORK.Lock()
setting = "of the import"
OUTCOMES: dict[str, Callable[["Kind"], object]] = {}


class Kind:
    """One pair of classes. The standard library's fork, as they all do on Linux up to Python 3.13."""

    def __init__(self, ours: bool) -> None:
        self.ours = ours

    def pool(self, *args: Any, **kwds: Any) -> Any:
        return multihost.Pool(*args, **kwds) if self.ours else FORK.Pool(*args, **kwds)

    def executor(self, *args: Any, **kwds: Any) -> Any:
        made: Callable[..., Any] = multihost.Executor if self.ours else ProcessPoolExecutor
        return made(*args, mp_context=FORK, **kwds)


def outcome(function: Callable[[Kind], object]) -> Callable[[Kind], object]:
    """Register a function whose result, or the name of its exception, is to be compared."""
    OUTCOMES[function.__name__] = function
    return function


# --- what tasks do ----------------------------------------------------------------------------------------------


def get_setting() -> str:
    return setting


def get_name() -> str:
    return __name__


def is_locked() -> bool:
    free = lock.acquire(block=False)
    if free:
        lock.release()
    return not free


def take(argument: object) -> str:
    return type(argument).__name__


def lock_with(other: Any) -> bool:
    with other:
        return True


def pool_within() -> int:
    with multihost.Pool(1) if "multihost.runner.slot" in sys.modules else FORK.Pool(1) as pool:
        return int(pool.apply(abs, (-1,)))


def give_lambda() -> Callable[[], int]:
    return lambda: 1


def fail(*_: object) -> None:
    raise ValueError("as asked")


def die() -> None:
    os._exit(3)


def exit_by_exception() -> None:
    sys.exit(3)


# --- what is compared: the names are those of the tests' table ----------------------------------------------------


@outcome
def a_global_that_was_set_in_the_main_block(kind: Kind) -> object:
    global setting
    setting = "of the main block"
    with kind.pool(1) as pool:
        return pool.apply(get_setting)


@outcome
def the_name_of_the_main_module(kind: Kind) -> object:
    with kind.pool(1) as pool:
        return pool.apply(get_name)


@outcome
def a_global_lock_that_is_held(kind: Kind) -> object:
    with kind.pool(1) as pool, lock:
        return "locked" if pool.apply(is_locked) else "free"


@outcome
def a_lock_in_initargs(kind: Kind) -> object:
    with kind.pool(1, lock_with, (FORK.Lock(),)) as pool:
        return pool.apply(abs, (-1,))


@outcome
def a_lock_as_argument(kind: Kind) -> object:
    with kind.pool(1) as pool:
        return pool.apply(lock_with, (FORK.Lock(),))


@outcome
def the_lock_of_a_manager(kind: Kind) -> object:
    with FORK.Manager() as manager, kind.pool(1) as pool:
        return pool.apply(lock_with, (manager.Lock(),))


@outcome
def a_pool_within_a_task(kind: Kind) -> object:
    with kind.pool(1) as pool:
        return pool.apply(pool_within)


@outcome
def a_lambda_as_function(kind: Kind) -> object:
    with kind.pool(1) as pool:
        return pool.apply(lambda: 5)


@outcome
def a_lambda_as_result(kind: Kind) -> object:
    with kind.pool(1) as pool:
        return pool.apply(give_lambda)()


@outcome
def a_chunksize_of_0_in_map(kind: Kind) -> object:
    with kind.pool(1) as pool:
        return pool.map(abs, [-1], chunksize=0)


@outcome
def how_much_of_its_input_imap_reads_unasked(kind: Kind) -> object:
    read: collections.deque[int] = collections.deque()
    ended = threading.Event()

    def source() -> Iterator[int]:
        for number in range(100_000):
            read.append(number)
            yield number
        ended.set()

    with kind.pool(1) as pool:
        results = pool.imap(abs, source(), chunksize=100)
        for _ in range(200):
            next(results)
        if not kind.ours:
            ended.wait(60)
        return "all" if ended.is_set() else "some"


@outcome
def the_notes_of_an_exception(kind: Kind) -> object:
    with kind.pool(1) as pool:
        try:
            return pool.apply(fail)
        except ValueError as error:
            return len(getattr(error, "__notes__", []))


@outcome
def the_class_of_an_exceptions_cause(kind: Kind) -> object:
    with kind.pool(1) as pool:
        try:
            return pool.apply(fail)
        except ValueError as error:
            return f"{type(error.__cause__).__module__}.{type(error.__cause__).__name__}"


@outcome
def the_class_of_a_result(kind: Kind) -> object:
    with kind.pool(1) as pool:
        return isinstance(pool.apply_async(abs, (-1,)), multiprocessing.pool.AsyncResult)


@outcome
def an_executors_call_whose_process_dies(kind: Kind) -> object:
    with kind.executor(1) as executor:
        return executor.submit(die).result()


@outcome
def an_executor_after_a_process_died(kind: Kind) -> object:
    with kind.executor(1) as executor:
        executor.submit(die).exception()
        return executor.submit(abs, -1).result()


@outcome
def an_executors_initializer_that_raises(kind: Kind) -> object:
    with kind.executor(1, initializer=fail) as executor:
        return executor.submit(abs, -1).result()


@outcome
def an_executors_task_that_exits(kind: Kind) -> object:
    with kind.executor(1) as executor:
        return executor.submit(exit_by_exception).result()


@outcome
def max_tasks_per_child_with_fork(kind: Kind) -> object:
    with kind.executor(1, max_tasks_per_child=1) as executor:
        return executor.submit(abs, -1).result()


@outcome
def private_attributes(kind: Kind) -> object:
    with kind.pool(1) as pool, kind.executor(1) as executor:
        names = [f"pool.{name}" for name in ("_pool", "_processes", "_state", "_cache") if hasattr(pool, name)]
        return names + [f"executor.{name}" for name in ("_max_workers", "_processes") if hasattr(executor, name)]


def main() -> None:
    kind = Kind(sys.argv[1:] == ["ours"])
    came: dict[str, object] = {}
    for name, function in OUTCOMES.items():
        try:
            came[name] = function(kind)
        except (AttributeError, pickle.PicklingError):  # which of them depends on the version of Python
            came[name] = "PicklingError"
        except BaseException as error:
            came[name] = type(error).__name__
    print(json.dumps(came))


if __name__ == "__main__":
    main()

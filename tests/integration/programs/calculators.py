"""What the documentation shows of Pool at length: each way to call, with callbacks, errors, timeouts and an end."""

import operator
import tempfile
import time
from collections.abc import Callable
from multiprocessing import Pool, TimeoutError
from pathlib import Path
from typing import Any


def calculate(function: Callable[..., Any], arguments: tuple[Any, ...]) -> str:
    return f"{function.__name__}{arguments} = {function(*arguments)}"


def calculate_one(task: tuple[Callable[..., Any], tuple[Any, ...]]) -> str:
    return calculate(*task)


def slow_power(base: int, exponent: int) -> int:
    time.sleep(0.01)
    return int(base**exponent)


def hundred_over(n: int) -> float:
    return 100 / (n - 5)


def wait_for(sign: Path) -> str:
    while not sign.exists():
        time.sleep(0.01)
    return f"saw {sign.name}"


def show(title: str, lines: Any) -> None:
    print(f"{title}:")
    for line in lines:
        print("   ", line)


def main() -> None:
    tasks: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [(operator.mul, (i, 7)) for i in range(8)]
    tasks += [(slow_power, (i, 8)) for i in range(8)]

    with Pool(4) as pool:
        results = [pool.apply_async(calculate, task) for task in tasks]
        ordered, unordered = pool.imap(calculate_one, tasks), pool.imap_unordered(calculate_one, tasks)
        show("apply_async", [result.get() for result in results])
        show("imap", ordered)
        show("imap_unordered, sorted", sorted(unordered))
        show("map", pool.map(calculate_one, tasks))
        show("starmap", pool.starmap(calculate, tasks, chunksize=3))

        print("callbacks:")
        called: list[object] = []
        pool.apply_async(slow_power, (2, 10), callback=called.append).wait()
        pool.map_async(hundred_over, range(5), callback=called.append).wait()
        pool.apply_async(hundred_over, (5,), error_callback=called.append).wait()
        print("   ", called[:2], repr(called[2]))

        print("errors:")
        for call in (
            lambda: pool.apply(hundred_over, (5,)),
            lambda: pool.map(hundred_over, range(10)),
            lambda: list(pool.imap(hundred_over, range(10))),
            lambda: pool.starmap(slow_power, [(1,)]),
        ):
            try:
                call()
            except Exception as error:
                print("   ", type(error).__name__, error)

        print("an iterator goes on after an error:")
        iterator = pool.imap(hundred_over, range(10))
        for index in range(10):
            try:
                print("   ", index, next(iterator))
            except ZeroDivisionError as error:
                print("   ", index, error)
        print("    and then it ends:", next(iterator, "end"))

        print("timeouts:")
        with tempfile.TemporaryDirectory() as directory:
            signs = [Path(directory) / name for name in ("first", "second")]
            late, seen = pool.apply_async(wait_for, signs[:1]), pool.imap(wait_for, signs)
            gets: list[Callable[[], str]] = [lambda: late.get(timeout=0.05), lambda: seen.next(timeout=0.05)]
            for get in gets:
                try:
                    print("   ", get())
                except TimeoutError:
                    print("    nothing yet")
            signs[0].touch()
            print("   ", late.get(timeout=30), "and", seen.next(timeout=30))
            signs[1].touch()
            print("   ", seen.next())

    pool = Pool(2)
    left = [pool.apply_async(slow_power, (i, 2)) for i in range(20)]
    pool.close()
    try:
        pool.apply_async(slow_power, (1, 1))
    except ValueError as error:
        print("closed:", error)
    pool.join()
    print("joined, all done:", all(result.ready() and result.successful() for result in left))


if __name__ == "__main__":
    main()

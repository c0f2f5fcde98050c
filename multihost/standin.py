"""Ours in the place of the standard library's: what a program that was not changed finds under the old names."""

import concurrent.futures
import concurrent.futures.process
import multiprocessing.pool
from typing import Any

from multihost.executor import Executor
from multihost.pool import Pool


def install() -> None:
    """From now on, this process's ``multiprocessing`` and ``concurrent.futures`` hand out ours.

    ``multiprocessing.Pool`` and the ``Pool`` of each context look the class up when they are called, so the one name
    in ``multiprocessing.pool`` is enough for all of them. Threads stay threads: ``ThreadPool`` is left alone.
    """
    _replace(multiprocessing.pool, "Pool", Pool)
    _replace(concurrent.futures.process, "ProcessPoolExecutor", Executor)
    _replace(concurrent.futures, "ProcessPoolExecutor", Executor)


def _replace(module: Any, name: str, ours: type) -> None:
    setattr(module, name, ours)

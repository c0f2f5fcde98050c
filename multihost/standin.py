"""Ours in the place of the standard library's: what a program that was not changed finds under the old names."""

import concurrent.futures
import concurrent.futures.process
import multiprocessing.pool
import types
from typing import Any

from multihost.executor import Executor
from multihost.pool import Pool


def install() -> None:
    """From now on, this process's ``multiprocessing`` and ``concurrent.futures`` hand out ours.

    ``multiprocessing.Pool`` and the ``Pool`` of each context look the class up in ``multiprocessing.pool`` when
    called, so that one name is enough for all. Threads stay threads: ``ThreadPool`` builds on the name, too,
    but finds it among its module's globals, which stay as they are.
    """
    multiprocessing.pool.__class__ = _PoolModule
    for module in (concurrent.futures, concurrent.futures.process):
        executor_module: Any = module
        executor_module.ProcessPoolExecutor = Executor


class _PoolModule(types.ModuleType):
    """``multiprocessing.pool`` as others see it."""

    @property
    def Pool(self) -> type[Pool]:  # noqa: N802  # the standard library's name
        return Pool

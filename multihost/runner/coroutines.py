"""The one event loop of a child, in which the coroutines of its tasks run: beside each other if they are many."""

import threading
from collections.abc import Coroutine
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio


class Coroutines:
    """
    Args:
        in_thread: whether the loop has a thread of its own, so that several threads can wait for coroutines in it; else
            it runs in the main thread while that waits for one.
    """

    def __init__(self, in_thread: bool) -> None:
        self._in_thread = in_thread
        self._lock = threading.Lock()
        self._runner: asyncio.Runner | None = None
        self._tasks: dict[int, asyncio.Task[Any]] = {}
        self._reasons: dict[int, BaseException] = {}  # why a task's coroutine was cancelled

    def run(self, token: int, coroutine: Coroutine[Any, Any, object]) -> object:
        """What ``coroutine`` returns; it is of the task ``token``.

        Raises: what it raises, or the error with which it was cancelled.
        """
        import asyncio  # 60 ms, which a program without coroutines does not pay
        import concurrent.futures

        runner = self._started()
        entered = self._entered(token, coroutine)
        try:
            if self._in_thread:
                return asyncio.run_coroutine_threadsafe(entered, runner.get_loop()).result()
            return runner.run(entered, context=copy_context())
        except (asyncio.CancelledError, concurrent.futures.CancelledError) as error:
            if (reason := self._reasons.pop(token, None)) is not None:
                raise reason from error
            raise
        finally:
            self._reasons.pop(token, None)

    def cancel(self, token: int, reason: BaseException) -> bool:
        """Cancel the coroutine of a task; False if it has none. Any thread may ask, and a signal handler."""
        task = self._tasks.get(token)
        if task is None:
            return False
        self._reasons[token] = reason
        task.get_loop().call_soon_threadsafe(task.cancel)
        return True

    async def _entered(self, token: int, coroutine: Coroutine[Any, Any, object]) -> object:
        import asyncio

        task = asyncio.current_task()
        assert task is not None
        self._tasks[token] = task
        try:
            return await coroutine
        finally:
            del self._tasks[token]

    def _started(self) -> "asyncio.Runner":
        import asyncio

        with self._lock:
            if self._runner is None:
                self._runner = asyncio.Runner()
                if self._in_thread:
                    loop = self._runner.get_loop()
                    threading.Thread(target=loop.run_forever, name="multihost-coroutines", daemon=True).start()
            return self._runner

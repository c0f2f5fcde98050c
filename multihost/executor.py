"""``Executor``: ``concurrent.futures.Executor`` whose processes are the slots of a cluster's workers."""

import atexit
import os
import threading
from collections.abc import Callable
from concurrent import futures
from typing import Any, ParamSpec, TypeVar

from multihost.joining import Membership

P = ParamSpec("P")
T = TypeVar("T")


class Future(futures.Future[T]):
    """A call that was submitted to an ``Executor``."""

    _withdraw: Callable[[], bool] | None = None

    def cancel(self) -> bool:
        """Cancel the call unless a worker has it already; whether it is cancelled. Waits for the master's answer."""
        if not self.done() and self._withdraw is not None and not self._withdraw():
            return False
        return super().cancel()

    def _end(self, success: bool, value: object) -> None:
        if isinstance(value, futures.CancelledError) and not success:
            super().cancel()
            self.set_running_or_notify_cancel()
        elif success:
            self.set_result(value)  # type: ignore[arg-type]
        else:
            assert isinstance(value, BaseException)
            self.set_exception(value)


class Executor(futures.Executor):
    """The processes of a cluster, used as ``concurrent.futures.ProcessPoolExecutor``.

    Args:
        max_workers: at most so many of this executor's calls run at once; None: as many as the cluster has slots.
        mp_context: taken for compatibility and ignored: the workers start their processes in their own way.
        initializer, initargs, address, authkey: as ``Pool`` has them.
        max_tasks_per_child: as the ``maxtasksperchild`` of ``Pool``.
    Raises: as ``Pool`` does.

    Unlike the standard library's, it can be used on when a process has died: only that call fails, with ``WorkerDied``.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: object = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[object, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        address: str | tuple[str, int] | None = None,
        authkey: bytes | str | None = None,
    ) -> None:
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if max_tasks_per_child is not None:
            if not isinstance(max_tasks_per_child, int):
                raise TypeError("max_tasks_per_child must be an integer")
            if max_tasks_per_child <= 0:
                raise ValueError("max_tasks_per_child must be >= 1")
        self._member = Membership("Executor", max_workers, address, authkey, initializer, initargs, max_tasks_per_child)
        self._open = True
        self._process = os.getpid()
        self._pending: dict[Future[Any], int] = {}  # and their sequence numbers; -1: not known yet
        self._changed = threading.Condition()
        # As the standard library's, it finishes at the interpreter's exit what was submitted.
        atexit.register(self.shutdown)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue ``fn(*args, **kwargs)``; the future of its result.

        Raises: RuntimeError after ``shutdown``; the error that ended the session, such as MasterUnreachable.
        """
        future: Future[T] = Future()

        def ended(success: bool, value: object) -> None:
            try:
                future._end(success, value)  # with its callbacks, which shutdown waits for
            finally:
                with self._changed:
                    self._pending.pop(future, None)
                    last = not self._pending and not self._open
                    self._changed.notify_all()
            if last:
                self._close()

        with self._changed:
            if not self._open:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._pending[future] = -1
        try:
            session = self._member.session
            sequence = session.submit(session.prepare(fn), args, kwargs, ended)
        except BaseException:
            with self._changed:
                self._pending.pop(future, None)
                self._changed.notify_all()
            raise
        future._withdraw = lambda: bool(self._member.session.cancel([sequence]))
        with self._changed:
            if future in self._pending:
                self._pending[future] = sequence
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls; ``wait`` for those accepted, after cancelling those that no worker has yet if asked."""
        if os.getpid() != self._process:
            return  # a process forked from ours ends; the executor goes on
        with self._changed:
            self._open = False
            sequences = list(self._pending.values())
        if cancel_futures:
            self._member.session.cancel(sequences)
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: not self._pending)
            idle = not self._pending
        if idle:
            self._close()

    def _close(self) -> None:
        atexit.unregister(self.shutdown)
        self._member.close()

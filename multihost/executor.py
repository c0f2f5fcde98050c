"""``Executor``: ``concurrent.futures.Executor`` whose processes are the slots of a cluster's workers."""

import atexit
import contextlib
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent import futures
from functools import partial
from itertools import islice
from typing import Any, ParamSpec, TypeVar, Unpack

from multihost.client.feed import each_alone
from multihost.explain import Explanation
from multihost.joining import Membership
from multihost.options import PLAIN, Changes
from multihost.payload import Outcomes
from multihost.statistics import Statistics

P = ParamSpec("P")
T = TypeVar("T")

Pairs = list[tuple[bool, Any]]  # whether an item succeeded, and its value or exception


class Future(futures.Future[T]):
    """A call that was submitted to an ``Executor``; ``await`` in a coroutine gives its result.

    It is ``running()`` only once ``cancel`` has found that a worker has it; the master is not asked otherwise.
    """

    def __init__(self) -> None:
        super().__init__()
        self._member: Membership | None = None
        self._sequences: list[int] = []  # of the tasks it stands for
        self._begun = False

    def running(self) -> bool:
        """Whether the call is known to run. False does not mean that it does not."""
        return self._begun and not self.done()

    def cancel(self) -> bool:
        """Cancel the call unless a worker has it already; whether it is cancelled. Waits for the master's answer."""
        if not self.done() and not self._withdraw(running=False):
            self._begun = True
            return False
        return super().cancel()

    def terminate(self) -> bool:
        """Cancel the call, and stop it if it runs; whether it is cancelled. Beyond the standard library.

        In a callback of a future it does not wait for the master's answer, and False may become True.
        """
        if not self.done():
            self._withdraw(running=True)
        return self.cancelled()

    def explain(self) -> Explanation:
        """Why the call has not started, or not ended. Beyond the standard library.

        Waits for the master's answer, 10 s at most; in a callback it does not.
        """
        member = self._member
        if member is not None and not self.done():
            told = member.session.explain(self._sequences)
            if not self.done():
                return told
        reason = "cancelled" if self.cancelled() else "error" if super().exception(0) else "result"
        return Explanation("ended", reason)

    def result(self, timeout: float | None = None) -> T:
        """The result; waits for it.

        Raises: TimeoutError after ``timeout`` seconds; CancelledError; ForkedClient: it comes in another process; the
            call's own exception, with the traceback from the worker as its ``__cause__``.
        """
        self._check_process()
        error = super().exception(timeout)
        if error is None:
            return super().result()
        try:
            raise error  # also one that is not true, which the standard library overlooked for long
        finally:
            del self, error  # the exception's traceback has this frame, and shall not keep the two alive

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The exception that the call ended with, or None; waits, and raises, as ``result`` does."""
        self._check_process()
        return super().exception(timeout)

    def __await__(self) -> Generator[Any, None, T]:
        import asyncio  # 40 ms, which a program without coroutines does not pay

        return asyncio.wrap_future(self).__await__()

    def _check_process(self) -> None:
        if self._member is not None and not self.done():
            self._member.check_process()

    def _withdraw(self, running: bool) -> bool:
        return self._member is not None and bool(self._member.session.cancel(self._sequences, running))

    def _end(self, success: bool, value: object) -> None:
        # With a cause it is what the function itself has raised.
        if isinstance(value, futures.CancelledError) and not success and value.__cause__ is None:
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
        initializer, initargs, address, authkey, task_output: as ``Pool`` has them.
        max_tasks_per_child: as the ``maxtasksperchild`` of ``Pool``.
    Raises: as ``Pool`` does.

    Unlike the standard library's, it can be used on when a process has died: only that call fails, with ``WorkerDied``.
    What was submitted is finished at the interpreter's exit.
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
        task_output: bool | None = None,
    ) -> None:
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if max_tasks_per_child is not None:
            if not isinstance(max_tasks_per_child, int):
                raise TypeError("max_tasks_per_child must be an integer")
            if max_tasks_per_child <= 0:
                raise ValueError("max_tasks_per_child must be >= 1")
        self._member = Membership(
            "Executor", max_workers, address, authkey, initializer, initargs, max_tasks_per_child, task_output
        )
        self._options = PLAIN
        self._pending: set[Future[Any]] = set()
        self._at_exit = partial(_finish, weakref.ref(self._member))
        atexit.register(self._at_exit)
        weakref.finalize(self._member, atexit.unregister, self._at_exit).atexit = False

    def options(self, **changes: Unpack[Changes]) -> "Executor":
        """The same executor with other options for the calls made through it, as ``Pool.options`` has them.

        It is this executor in all but that: ``shutdown`` of one is that of the other.
        """
        derived = object.__new__(type(self))
        derived.__dict__.update(self.__dict__)
        derived._options = self._options.but(**changes)
        return derived

    # --- calls -------------------------------------------------------------------------------------------------

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue ``fn(*args, **kwargs)``; the future of its result.

        Raises: RuntimeError after ``shutdown``; the error that ended the session, such as MasterUnreachable.
        """
        self._member.check_process()  # before any lock that another thread may have held when we were forked
        session, options = self._member.session, self._options
        function = session.prepare(fn, options)

        def submit(ended: Callable[[bool, object], None]) -> list[int]:
            return [session.submit(function, args, kwargs, ended, options)]

        return self._submit(submit)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """The results of ``fn`` for the items of the iterables side by side, in order; ends with the shortest.

        All calls are submitted at once; with ``buffersize`` only so many chunks, and one more with each that is used
        up. What no worker has yet is cancelled when the iterator is closed or ends in an exception.

        Args:
            timeout: seconds from now in which every result must have come.
            chunksize: how many items travel together and are run one after the other by one process.
        Raises: ValueError, TypeError; RuntimeError after ``shutdown``. The iterator: TimeoutError, a call's exception.
        """
        self._member.check_process()
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        deadline = None if timeout is None else time.monotonic() + timeout
        chunks = self._chunks(fn, zip(*iterables, strict=False), 1 if each_alone(self._options) else chunksize)
        submitted = deque(chunks if buffersize is None else islice(chunks, buffersize))
        return _results(submitted, chunks, deadline)

    # --- the end -----------------------------------------------------------------------------------------------

    def statistics(self) -> Statistics:
        """Counts, bytes, batches and times of all calls made until now. Beyond the standard library.

        Waits for the master's answer, 10 s at most; in a callback it does not.
        """
        return self._member.session.statistics()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls; ``wait`` for those accepted, after cancelling those that no worker has yet if asked."""
        if not self._member.is_mine:
            return  # a process forked from ours ends; the executor goes on
        self._member.close_when_done()
        if cancel_futures:
            self._cancel_all(running=False)
        if wait:
            self._member.wait()
            self._member.close()
            atexit.unregister(self._at_exit)

    def terminate_workers(self) -> None:
        """Shut down without waiting: every call that has not ended is cancelled, and stopped if it runs."""
        if not self._member.is_mine:
            return
        self._member.close_when_done()
        self._cancel_all(running=True)
        self._member.close()
        atexit.unregister(self._at_exit)

    def kill_workers(self) -> None:
        """As ``terminate_workers``: a task that is stopped is never asked to end by itself."""
        self.terminate_workers()

    # --- inside ------------------------------------------------------------------------------------------------

    @property
    def _max_workers(self) -> int:
        """How many calls can run at once; other libraries look for it under this name."""
        return self._member.slots

    def _submit(self, submit: Callable[[Callable[[bool, object], None]], list[int]]) -> Future[Any]:
        """A new call: ``submit`` is given what its end must call, and returns the numbers of its tasks."""
        member = self._member
        future: Future[Any] = Future()
        if not member.begin():
            member.end()
            raise RuntimeError("cannot schedule new futures after shutdown")
        future._member = member
        self._pending.add(future)
        try:
            future._sequences = submit(partial(_ended, member, self._pending, future))
        except BaseException:
            self._pending.discard(future)
            member.end()
            raise
        return future

    def _chunks(
        self, fn: Callable[..., object], calls: Iterator[tuple[Any, ...]], size: int
    ) -> Iterator[Future[Pairs]]:
        """Submit the calls in chunks, each when it is asked for."""
        session, options = self._member.session, self._options
        function = session.prepare(fn, options)
        while some := list(islice(calls, size)):

            def submit(ended: Callable[[bool, object], None], some: list[tuple[Any, ...]] = some) -> list[int]:
                if size == 1:
                    alone = partial(_alone, ended)
                    return [session.submit(function, some[0], {}, alone, options, patient=True)]
                return session.submit_chunk(function, some, True, _Gathered(len(some), ended).part, options)

            yield self._submit(submit)

    def _cancel_all(self, running: bool) -> None:
        sequences = [sequence for future in list(self._pending) for sequence in future._sequences]
        self._member.session.cancel(sequences, running)


class _Gathered:
    """The outcomes of a chunk's items, until all are there."""

    def __init__(self, count: int, ended: Callable[[bool, object], None]) -> None:
        self._pairs: Pairs = [(False, None)] * count
        self._missing, self._ended = count, ended

    def part(self, index: int, outcomes: Outcomes, seconds: float, size_bytes: int) -> None:
        self._pairs[index : index + len(outcomes)] = outcomes.pairs()
        self._missing -= len(outcomes)
        if not self._missing:
            self._ended(True, self._pairs)


def _alone(ended: Callable[[bool, object], None], success: bool, value: object) -> None:
    ended(True, [(success, value)])


def _ended(member: Membership, pending: set[Future[Any]], future: Future[Any], success: bool, value: object) -> None:
    try:
        future._end(success, value)  # with its callbacks, which shutdown waits for
    finally:
        pending.discard(future)
        member.end()


def _results(
    submitted: deque[Future[Pairs]], more: Iterator[Future[Pairs]], deadline: float | None
) -> Generator[Any, None, None]:
    """The results of chunks in order, each released as it is yielded. ``more`` submits a further chunk when asked."""
    try:
        while submitted:
            outcomes = submitted[0].result(None if deadline is None else deadline - time.monotonic())
            submitted.popleft()
            submitted.extend(islice(more, 1))
            outcomes.reverse()
            while outcomes:
                yield _taken(outcomes)
    finally:
        if rest := [future for future in submitted if not future.done()]:
            # This may run at any line, with any lock held, if it is garbage that is collected: so not in this thread.
            with contextlib.suppress(RuntimeError):  # no more threads at the interpreter's exit
                threading.Thread(target=_cancel, args=(rest,), name="multihost-cancel", daemon=True).start()


def _taken(outcomes: Pairs) -> object:
    success, value = outcomes.pop()
    if success:
        return value
    assert isinstance(value, BaseException)
    raise value


def _cancel(rest: list[Future[Any]]) -> None:
    member = rest[0]._member
    if member is not None and member.is_mine:
        member.session.cancel([sequence for future in rest for sequence in future._sequences])


def _finish(member: "weakref.ref[Membership]") -> None:
    """At the interpreter's exit: as the standard library's, finish what was submitted."""
    found = member()
    if found is not None and found.is_mine:
        found.close_when_done()
        found.wait()
        found.close()

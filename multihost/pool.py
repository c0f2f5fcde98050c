"""``Pool``: ``multiprocessing.Pool`` whose processes are the slots of a cluster's workers."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from multihost.client.results import AsyncResult, IMapIterator, MapResult
from multihost.client.session import Prepared
from multihost.joining import Membership

T = TypeVar("T")


class Pool:
    """The processes of a cluster, used as ``multiprocessing.Pool``.

    Args:
        processes: at most so many of this pool's tasks run at once; None: as many as the cluster has slots.
        initializer: called with ``initargs`` in each process before it runs a task of this pool. If it raises, that is
            the outcome of the tasks.
        maxtasksperchild: how many tasks (chunks count as one) a process runs before a fresh one takes its place;
            None: any number.
        context: taken for compatibility and ignored: the workers start their processes in their own way.
        address: where the master is, ``"host:port"``; None: ``MULTIHOST_ADDRESS``, and where that is not set either,
            a cluster inside this machine, which ends with the pool.
        authkey: the master's key; None: ``MULTIHOST_AUTHKEY``, ``MULTIHOST_AUTHKEY_FILE``, or the file that a master
            in the same container volume has made.
    Raises:
        ValueError, TypeError: as ``multiprocessing.Pool`` raises them.
        SettingsError: an argument or a variable is wrong or missing.
        MasterUnreachable: no master answered within ``MULTIHOST_CONNECT_TIMEOUT`` seconds.
        multiprocessing.AuthenticationError: the master refused the key.

    Functions of the main script and of the program's own modules travel as source, lambdas and closures by value.
    Every task runs at least once; without a failure, exactly once.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[object] = (),
        maxtasksperchild: int | None = None,
        context: object = None,
        *,
        address: str | tuple[str, int] | None = None,
        authkey: bytes | str | None = None,
    ) -> None:
        if processes is not None and processes < 1:
            raise ValueError("Number of processes must be at least 1")
        if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0):
            raise ValueError("maxtasksperchild must be a positive int or None")
        self._member = Membership("Pool", processes, address, authkey, initializer, initargs, maxtasksperchild)
        self._open = True
        self._unfinished = 0
        self._idle = threading.Condition()
        self._feeding: set[IMapIterator[Any]] = set()  # those whose input is still being read

    # --- calls -------------------------------------------------------------------------------------------------

    def apply(self, func: Callable[..., T], args: Iterable[object] = (), kwds: Mapping[str, object] | None = None) -> T:
        """``func(*args, **kwds)`` on some worker; waits for the result."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., T],
        args: Iterable[object] = (),
        kwds: Mapping[str, object] | None = None,
        callback: Callable[[T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[T]:
        """As ``apply``, but returns at once. The callbacks run in a thread of the pool and must not block."""
        self._check_open()
        result: AsyncResult[T] = AsyncResult(callback, error_callback)
        self._submit(self._member.session.prepare(func), tuple(args), dict(kwds or {}), result._set)
        return result

    def map(self, func: Callable[..., T], iterable: Iterable[object], chunksize: int | None = None) -> list[T]:
        """``[func(item) for item in iterable]``, spread over the workers.

        ``chunksize`` is taken for compatibility: each item is a task of its own, and batches form by themselves.
        """
        return self.map_async(func, iterable, chunksize).get()

    def map_async(
        self,
        func: Callable[..., T],
        iterable: Iterable[object],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> MapResult[T]:
        """As ``map``, but returns at once."""
        return self._map(func, ((item,) for item in iterable), chunksize, callback, error_callback)

    def starmap(
        self, func: Callable[..., T], iterable: Iterable[Iterable[object]], chunksize: int | None = None
    ) -> list[T]:
        """As ``map``, with items that are the arguments of a call: ``func(*item)``."""
        return self.starmap_async(func, iterable, chunksize).get()

    def starmap_async(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[object]],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> MapResult[T]:
        """As ``starmap``, but returns at once."""
        return self._map(func, map(tuple, iterable), chunksize, callback, error_callback)

    def imap(self, func: Callable[..., T], iterable: Iterable[object], chunksize: int = 1) -> IMapIterator[T]:
        """The results one by one, in order. ``iterable`` may be endless: it is read 1,000 items ahead."""
        return self._imap(func, iterable, chunksize, ordered=True)

    def imap_unordered(self, func: Callable[..., T], iterable: Iterable[object], chunksize: int = 1) -> IMapIterator[T]:
        """As ``imap``, with the results as they come."""
        return self._imap(func, iterable, chunksize, ordered=False)

    # --- the end -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Accept no more calls; those accepted go on."""
        self._open = False

    def terminate(self) -> None:
        """Cancel what is left. Calls that have no result yet fail with ``ClientClosed``."""
        self._open = False
        with self._idle:
            feeding, self._feeding = self._feeding, set()
            self._idle.notify_all()
        for results in feeding:
            results._stop()
        self._member.close()

    def join(self) -> None:
        """Wait until every call has ended; ``close`` or ``terminate`` comes first."""
        if self._open:
            raise ValueError("Pool is still running")
        with self._idle:
            for results in self._feeding:
                results._read_on()
            self._idle.wait_for(lambda: not self._unfinished and not self._feeding)
        self._member.close()

    def __enter__(self) -> "Pool":
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.terminate()

    def __reduce__(self) -> tuple[object, ...]:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    # --- inside ------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if not self._open:
            raise ValueError("Pool not running")

    def _submit(
        self,
        function: Prepared,
        args: tuple[object, ...],
        kwds: dict[str, object],
        done: Callable[[bool, object], None],
    ) -> None:
        with self._idle:
            self._unfinished += 1

        def ended(success: bool, value: object) -> None:
            try:
                done(success, value)
            finally:
                with self._idle:
                    self._unfinished -= 1
                    if not self._unfinished:
                        self._idle.notify_all()

        try:
            self._member.session.submit(function, args, kwds, ended)
        except BaseException:
            with self._idle:
                self._unfinished -= 1
                self._idle.notify_all()
            raise

    def _map(
        self,
        func: Callable[..., T],
        calls: Iterable[tuple[object, ...]],
        chunksize: int | None,
        callback: Callable[[list[T]], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> MapResult[T]:
        self._check_open()
        if chunksize is not None:
            _check_chunksize(chunksize)
        arguments: Sequence[tuple[object, ...]] = list(calls)
        result: MapResult[T] = MapResult(len(arguments), callback, error_callback)
        function = self._member.session.prepare(func)
        for index, args in enumerate(arguments):
            self._submit(function, args, {}, partial(result._item, index))
        return result

    def _imap(
        self, func: Callable[..., T], iterable: Iterable[object], chunksize: int, ordered: bool
    ) -> IMapIterator[T]:
        self._check_open()
        _check_chunksize(chunksize)
        results: IMapIterator[T] = IMapIterator(ordered)

        def feed() -> None:
            count = 0
            try:
                function = self._member.session.prepare(func)
                for item in iterable:
                    if not results._wait_for_room(count):
                        return
                    self._submit(function, (item,), {}, partial(results._item, count))
                    count += 1
            except BaseException as error:
                results._item(count, False, error)  # the iterable's own exception, in its place
                count += 1
            finally:
                results._ended(count)
                with self._idle:
                    self._feeding.discard(results)
                    self._idle.notify_all()

        with self._idle:
            self._feeding.add(results)
        threading.Thread(target=feed, name="multihost-imap", daemon=True).start()
        return results


def _check_chunksize(chunksize: int) -> None:
    if chunksize < 1:
        raise ValueError(f"Chunksize must be 1+, not {chunksize:n}")

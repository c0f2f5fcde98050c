"""``Pool``: ``multiprocessing.Pool`` whose processes are the slots of a cluster's workers."""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import length_hint
from types import TracebackType
from typing import Any, TypeVar, Unpack, overload

from multihost.client.feed import Chunks, Singles, Stream, each_alone
from multihost.client.plan import Paces, Plan
from multihost.client.results import AsyncResult, IMapIterator, MapResult, Window
from multihost.client.session import Session
from multihost.detached import Job, check_name, submit
from multihost.explain import Explanation
from multihost.joining import Membership
from multihost.options import PLAIN, Changes
from multihost.progress import Progress
from multihost.settings import Address
from multihost.statistics import Statistics

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
            a cluster inside this machine, which ends with the pool. In a task: the cluster that runs it.
        authkey: the master's key; None: ``MULTIHOST_AUTHKEY``, ``MULTIHOST_AUTHKEY_FILE``, or the file that a master
            in the same container volume has made.
        task_output: whether what the tasks print is shown on this program's standard error; None: as
            ``MULTIHOST_TASK_OUTPUT`` says. A cluster inside this machine prints where this program does.
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
        task_output: bool | None = None,
    ) -> None:
        if processes is not None and processes < 1:
            raise ValueError("Number of processes must be at least 1")
        if maxtasksperchild is not None and (not _is_whole(maxtasksperchild) or maxtasksperchild <= 0):
            raise ValueError("maxtasksperchild must be a positive int or None")
        self._member = Membership(
            "Pool", processes, address, authkey, initializer, initargs, maxtasksperchild, task_output
        )
        self._options = PLAIN
        self._paces = Paces()
        self._feeding: set[Window] = set()  # those whose input is still being read

    def options(self, **changes: Unpack[Changes]) -> "Pool":
        """The same pool with other options for the calls made through it.

        It is this pool in all but that: it ends when this one is closed, terminated or left, and the other way round.

        Args:
            retries: how often a call that raises is made again, after a pause that doubles each time.
            retry_for: the exceptions after which it is; all, if not given.
            backoff: seconds before the first retry.
            timeout: seconds after which the worker stops a call; it then ends in ``TaskTimeout``.
            priority: of this program's calls that wait, those with a higher one are leased first; 0 if not given.
            name: what logs, errors and progress bars call it; the function's name if not given.
            labels: only workers started with all of these run it.
            delay: seconds, from the call on, for which the master holds it; no worker's slot waits.
            expires: seconds, from the call on, within which a worker must have taken it; otherwise it is not run, and
                ends in ``TaskExpired``. What a worker has taken is left alone.
        Raises: TypeError, ValueError: there is no such option, or it is not what it must be.
        """
        derived = object.__new__(type(self))
        derived.__dict__.update(self.__dict__)
        derived._options = self._options.but(**changes)
        return derived

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
        self._check_running()
        session, options = self._member.session, self._options
        function = session.prepare(func, options)
        result: AsyncResult[T] = AsyncResult(self._member, callback, error_callback)
        try:
            arguments, keywords = tuple(args), dict(kwds or {})
        except Exception as error:  # they are no arguments of a call, which is the outcome of this one
            result._set(False, error)
            return result
        try:
            sequence = session.submit(function, arguments, keywords, result._set, options)
        except BaseException:
            self._member.end()
            raise
        result._under_way = _Call(session, sequence)
        return result

    def map(
        self,
        func: Callable[..., T],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        *,
        progress: bool = False,
    ) -> list[T]:
        """``[func(item) for item in iterable]``, spread over the workers.

        Args:
            chunksize: how many items travel together and are run one after the other by one process; None: it is
                found out while the map runs, so that a chunk takes some milliseconds. With the options
                ``retries``, ``timeout`` and ``expires``, which are for one call, each item travels alone.
            progress: show a bar on standard error. Raises ImportError where tqdm is not installed.
        """
        return self._map(func, iterable, False, chunksize, None, None, progress).get()

    @overload
    def map_async(
        self,
        func: Callable[..., T],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        detached: None = None,
    ) -> MapResult[T]: ...

    @overload
    def map_async(
        self,
        func: Callable[..., T],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        detached: str,
    ) -> Job[T]: ...

    def map_async(
        self,
        func: Callable[..., T],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        detached: str | None = None,
    ) -> MapResult[T] | Job[T]:
        """As ``map``, but returns at once.

        Args:
            detached: a name for a job that outlives this program and its pool: any program gets its results with
                ``multihost.attach``. It returns when the master has all of the items; callbacks there are none.
        Raises: JobExists: there is such a job already; SettingsError: there is no master that outlives this program.
        """
        if detached is not None:
            return self._detach(func, iterable, False, chunksize, callback or error_callback, detached)
        return self._map(func, iterable, False, chunksize, callback, error_callback, False)

    def starmap(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        *,
        progress: bool = False,
    ) -> list[T]:
        """As ``map``, with items that are the arguments of a call: ``func(*item)``."""
        return self._map(func, iterable, True, chunksize, None, None, progress).get()

    @overload
    def starmap_async(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        detached: None = None,
    ) -> MapResult[T]: ...

    @overload
    def starmap_async(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        detached: str,
    ) -> Job[T]: ...

    def starmap_async(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        detached: str | None = None,
    ) -> MapResult[T] | Job[T]:
        """As ``starmap``, but returns at once. ``detached``: as ``map_async`` has it."""
        if detached is not None:
            return self._detach(func, iterable, True, chunksize, callback or error_callback, detached)
        return self._map(func, iterable, True, chunksize, callback, error_callback, False)

    def imap(
        self,
        func: Callable[..., T],
        iterable: Iterable[Any],
        chunksize: int = 1,
        buffersize: int | None = None,
        *,
        progress: bool = False,
    ) -> IMapIterator[T]:
        """The results one by one, in order.

        ``iterable`` may be endless: it is read as far ahead of the consumer as ``buffersize`` chunks, or if that is
        None, as 1,000 items and about 16 MiB of arguments and results, but never less than keeps the workers at work.
        """
        return self._imap(func, iterable, chunksize, buffersize, True, progress)

    def imap_unordered(
        self,
        func: Callable[..., T],
        iterable: Iterable[Any],
        chunksize: int = 1,
        buffersize: int | None = None,
        *,
        progress: bool = False,
    ) -> IMapIterator[T]:
        """As ``imap``, with the results as they come."""
        return self._imap(func, iterable, chunksize, buffersize, False, progress)

    # --- the end -----------------------------------------------------------------------------------------------

    def statistics(self) -> Statistics:
        """Counts, bytes, batches and times of all calls made until now. Beyond the standard library.

        Waits for the master's answer, 10 s at most; in a callback it does not.
        """
        return self._member.session.statistics()

    def close(self) -> None:
        """Accept no more calls; those accepted go on."""
        if self._member.is_mine:
            self._member.close_when_done()

    def terminate(self) -> None:
        """Cancel what is left. Calls that have no result yet fail with ``ClientClosed``."""
        if not self._member.is_mine:
            return  # a process forked from ours ends; the pool goes on
        for window in list(self._feeding):
            window.stop()
        self._member.close()

    def join(self) -> None:
        """Wait until every call has ended; ``close`` or ``terminate`` comes first."""
        if self._member.open:
            raise ValueError("Pool is still running")
        self._member.check_process()
        for window in list(self._feeding):
            window.read_on()
        self._member.wait()
        self._member.close()

    def __enter__(self) -> "Pool":
        self._check_running()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.terminate()

    def __repr__(self) -> str:
        state = "RUN" if self._member.open else "CLOSE"
        kind = type(self)
        return f"<{kind.__module__}.{kind.__qualname__} state={state} pool_size={self._member.slots}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    # --- inside ------------------------------------------------------------------------------------------------

    @property
    def _processes(self) -> int:
        """How many calls can run at once; other libraries look for it under this name."""
        return self._member.slots

    def _check_running(self) -> None:
        self._member.check_process()  # before any lock that another thread may have held when we were forked
        if not self._member.open:
            raise ValueError("Pool not running")

    def _map(
        self,
        func: Callable[..., T],
        iterable: Iterable[Any],
        star: bool,
        chunksize: int | None,
        callback: Callable[[list[T]], object] | None,
        error_callback: Callable[[BaseException], object] | None,
        progress: bool,
    ) -> MapResult[T]:
        self._check_running()
        if chunksize is not None:
            _check_chunksize(chunksize)
        items = list(iterable)
        session, options, limit = self._member.session, self._options.from_now(), self._member.limit
        bar = Progress(options.name or _name_of(func), len(items)) if progress else None
        function = session.prepare(func, options)
        let_go = session.hold(items) if star else None
        result: MapResult[T] = MapResult(self._member, len(items), callback, error_callback, bar, let_go)
        if not items:
            return result
        feed: Singles | Chunks
        if each_alone(options) or chunksize == 1:
            feed = Singles(session, function, items, star, options, result._arrived)
        else:
            pace = self._paces.of(function.blobs[-1].blob_id if function.blobs else "")
            plan = Plan(len(items), chunksize, pace)
            feed = Chunks(session, function, items, star, options, result._arrived, plan, limit)
        result._under_way = feed
        try:
            feed.start()
        except BaseException:
            self._member.end()
            if let_go is not None:
                let_go()
            if bar is not None:
                bar.close()
            raise
        return result

    def _detach(
        self,
        func: Callable[..., T],
        iterable: Iterable[Any],
        star: bool,
        chunksize: int | None,
        callback: object,
        name: str,
    ) -> Job[T]:
        self._check_running()
        check_name(name)
        if chunksize is not None:
            _check_chunksize(chunksize)
        if callback is not None:
            raise ValueError("a detached job calls nobody back; attach to it for its results")
        items: Sequence[Any] = list(iterable)
        if not items:
            raise ValueError("a detached job needs at least one item")
        session, options = self._member.open_job(name), self._options.from_now()
        with contextlib.closing(session):  # the master drops the job if that is before it is whole
            submit(session, func, items, star, options, chunksize, self._member.slots)
        assert isinstance(session.address, Address)
        return Job(name, session.address, session.authkey, session.connect_timeout)

    def _imap(
        self,
        func: Callable[..., T],
        iterable: Iterable[Any],
        chunksize: int,
        buffersize: int | None,
        ordered: bool,
        progress: bool,
    ) -> IMapIterator[T]:
        self._check_running()
        _check_chunksize(chunksize)
        _check_buffersize(buffersize)
        session, options, feeding = self._member.session, self._options, self._feeding
        bar = Progress(options.name or _name_of(func), length_hint(iterable, -1)) if progress else None
        function = session.prepare(func, options)
        ahead = None if buffersize is None else buffersize * chunksize
        window = Window(self._member, ordered, ahead, bar)
        feeding.add(window)
        read = partial(feeding.discard, window)
        Stream(session, function, iterable, options, chunksize, self._member.limit, window, read).start()
        return IMapIterator(window)


@dataclass(slots=True, eq=False)
class _Call:
    """One call that waits. Closures in its place would take eight times as much memory."""

    session: Session
    sequence: int

    def cancel(self, running: bool) -> bool:
        return bool(self.session.cancel([self.sequence], running))

    def explain(self) -> Explanation:
        return self.session.explain([self.sequence])


def _name_of(func: Callable[..., object]) -> str:
    return getattr(func, "__name__", None) or type(func).__name__


def _is_whole(value: object) -> bool:
    return isinstance(value, int)


def _check_chunksize(chunksize: int) -> None:
    if chunksize < 1:
        raise ValueError(f"Chunksize must be 1+, not {chunksize:n}")


def _check_buffersize(buffersize: object) -> None:
    if buffersize is None:
        return
    if not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer or None")
    if buffersize < 1:
        raise ValueError("buffersize must be None or > 0")

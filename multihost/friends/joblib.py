"""joblib on the cluster: after ``register()``, ``parallel_config("multihost")`` runs ``Parallel`` on its workers.

The workers need joblib, too: what it sends them are its own batches of calls.
"""

import weakref
from collections.abc import Callable
from typing import Any

from joblib import register_parallel_backend
from joblib.parallel import AutoBatchingMixin, FallbackToBackend, ParallelBackendBase, SequentialBackend

from multihost.pool import Pool

Outcome = tuple[bool, Any]  # whether it succeeded, and the results of a batch or its exception


def register(default: bool = False) -> None:
    """Make the backend known to joblib as ``"multihost"``; as the one that is used where none is named, if asked."""
    register_parallel_backend("multihost", Backend, make_default=default)


class Backend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib ships no types
    """joblib's calls as tasks of a ``Pool``, which lasts as long as the backend: for a whole ``parallel_config`` block.

    Args:
        address, authkey: as ``Pool`` has them.
    """

    supports_retrieve_callback = True
    default_n_jobs = -1  # who names a cluster wants all of it

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        address: str | tuple[str, int] | None = None,
        authkey: bytes | str | None = None,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._address, self._authkey = address, authkey
        self._pool: Pool | None = None
        self._processes: int | None = None  # of the pool; None: all there are

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many jobs run at once. As everywhere in joblib, -1 means all slots that there are now, -2 all but one.

        Raises: ValueError: 0 was asked for; as ``Pool`` does.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 has no meaning: give a number of jobs, or -1 for all slots of the cluster")
        if n_jobs is None:
            return 1
        # With a single job joblib would make the calls in this process, even if the cluster has a slot for it.
        return n_jobs if n_jobs > 0 else max(2, self._slots() + 1 + n_jobs)

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        address: str | tuple[str, int] | None = None,
        authkey: bytes | str | None = None,
        **_: object,  # what joblib says to those that map memory
    ) -> int:
        """Get ready for the calls of one ``Parallel``; how many jobs it is to hand over at once."""
        self._address, self._authkey = address or self._address, authkey or self._authkey
        jobs = self.effective_n_jobs(n_jobs)
        if jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = weakref.proxy(parallel)  # it refers to us, and the last reference that goes shall end the pool
        self._pool_of(None if n_jobs == -1 else jobs)
        return jobs

    def submit(self, func: Callable[[], object], callback: Callable[[Outcome], object]) -> object:
        """Queue a batch of calls."""
        assert self._pool is not None
        return self._pool.apply_async(
            _call,
            [func],  # as an argument, which the cluster forgets with the task; functions it keeps
            callback=lambda results: callback((True, results)),
            error_callback=lambda error: callback((False, error)),
        )

    def retrieve_result_callback(self, out: Outcome) -> object:
        """The results of a batch; or raise its exception, with the traceback from the worker as its cause."""
        succeeded, value = out
        if not succeeded:
            raise value
        return value

    def terminate(self) -> None:
        """A ``Parallel`` has ended. The pool stays for the next one."""
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Stop what runs and drop what waits: a call has failed, or nobody wants the results any more."""
        self._drop_pool()
        if ensure_ready:
            self._pool_of(self._processes)

    def _slots(self) -> int:
        return (self._pool or self._pool_of(None))._member.session.slots

    def _pool_of(self, processes: int | None) -> Pool:
        if self._pool is None or self._processes != processes:
            self._drop_pool()
            self._pool = Pool(processes, address=self._address, authkey=self._authkey)
            self._processes = processes
            self._end_pool = weakref.finalize(self, self._pool.terminate)
        return self._pool

    def _drop_pool(self) -> None:
        if self._pool is not None:
            self._pool = None
            self._end_pool()


def _call(batch: Callable[[], object]) -> object:
    return batch()

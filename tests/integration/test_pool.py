"""Pool does what multiprocessing.Pool does, on real workers; and what goes wrong in a task is that task's error."""

import array
import functools
import gc
import itertools
import math
import multiprocessing
import operator
import os
import pickle
import re
import signal
import threading
import time
import types
import warnings
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from multiprocessing.pool import MaybeEncodingError  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any

import pytest

import multihost
from multihost.errors import ClientClosed, RemoteTraceback
from tests.integration import tasks
from tests.integration.cluster import DEADLINE, Cluster, wait_until

MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module")
def small_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster whose tasks and results may have a megabyte."""
    with Cluster(tmp_path_factory.mktemp("logs")) as cluster:
        cluster.start_master(MULTIHOST_MAX_PAYLOAD=str(MEGABYTE))
        cluster.start_worker()
        yield cluster


# --- the calls -------------------------------------------------------------------------------------------------


def test_apply_returns_the_result_of_a_call_with_arguments_and_keywords(pool: multihost.Pool) -> None:
    assert pool.apply(tasks.total, (1, 2, 3), {"scale": 2}) == 12
    assert pool.apply(tasks.total) == 0


def test_tasks_do_not_run_in_this_process(pool: multihost.Pool) -> None:
    assert pool.apply(tasks.pid) != os.getpid()


def test_what_are_no_arguments_of_a_call_are_that_calls_error(pool: multihost.Pool) -> None:
    outcome = pool.apply_async(tasks.square, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not iterable"):
        outcome.get(DEADLINE)


def test_apply_async_calls_back_with_the_result(pool: multihost.Pool) -> None:
    results: list[object] = []
    outcome = pool.apply_async(tasks.square, (7,), callback=results.append, error_callback=results.append)
    assert outcome.get(DEADLINE) == 49
    assert results == [49]
    assert outcome.ready()
    assert outcome.successful()


def test_apply_async_calls_back_with_the_exception(pool: multihost.Pool) -> None:
    results: list[object] = []
    outcome = pool.apply_async(tasks.divide, (1, 0), callback=results.append, error_callback=results.append)
    with pytest.raises(ZeroDivisionError):
        outcome.get(DEADLINE)
    assert [type(result) for result in results] == [ZeroDivisionError]
    assert not outcome.successful()


def test_a_callback_that_raises_harms_nobody(pool: multihost.Pool, caplog: pytest.LogCaptureFixture) -> None:
    outcome = pool.apply_async(tasks.square, (7,), callback=lambda value: 1 / 0)
    assert outcome.get(DEADLINE) == 49
    assert pool.apply(tasks.square, (8,)) == 64
    assert "a callback of a task raised" in caplog.text


@pytest.mark.parametrize("chunksize", [None, 1, 7])
def test_map_keeps_the_order(pool: multihost.Pool, chunksize: int | None) -> None:
    assert pool.map(tasks.square, range(500), chunksize) == [x * x for x in range(500)]
    assert pool.map(tasks.square, []) == []
    assert pool.map(tasks.square, (x for x in (1, 2))) == [1, 4]


def test_map_async_calls_back_once_with_all_results(pool: multihost.Pool) -> None:
    results: list[object] = []
    assert pool.map_async(tasks.square, range(3), callback=results.append).get(DEADLINE) == [0, 1, 4]
    assert results == [[0, 1, 4]]


def test_map_raises_a_tasks_exception_when_all_have_ended(pool: multihost.Pool) -> None:
    errors: list[BaseException] = []
    outcome = pool.map_async(functools.partial(tasks.divide, 1), [1, 0, 2], error_callback=errors.append)
    with pytest.raises(ZeroDivisionError):
        outcome.get(DEADLINE)
    assert len(errors) == 1


def test_imap_yields_in_order_and_goes_on_after_an_exception(pool: multihost.Pool) -> None:
    results = pool.imap(functools.partial(tasks.divide, 6), [1, 0, 2])
    assert next(results) == 6
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert results.next(timeout=DEADLINE) == 3
    with pytest.raises(StopIteration):
        next(results)


def test_imap_unordered_yields_what_is_ready_first(pool: multihost.Pool) -> None:
    assert set(pool.imap_unordered(tasks.square, range(300))) == {x * x for x in range(300)}
    results = pool.imap_unordered(tasks.sleep, [3.0, 0.0])
    assert results.next(timeout=DEADLINE) == 0.0


def test_imap_reads_an_endless_iterable_only_as_far_as_needed(pool: multihost.Pool) -> None:
    results = pool.imap(tasks.square, itertools.count())
    assert [next(results) for _ in range(2000)] == [x * x for x in range(2000)]


def test_imap_passes_on_the_iterables_own_exception(pool: multihost.Pool) -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise LookupError("no more input")

    results = pool.imap(tasks.square, numbers())
    assert next(results) == 1
    with pytest.raises(LookupError, match="no more input"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_starmap_spreads_the_arguments(pool: multihost.Pool) -> None:
    assert pool.starmap(tasks.total, [(1, 2), (3,), ()]) == [3, 3, 0]
    assert pool.starmap_async(operator.mul, zip(range(3), range(3), strict=True)).get(DEADLINE) == [0, 1, 4]


@pytest.mark.parametrize(
    ("function", "argument", "result"),
    [
        (lambda x: x + 1, 1, 2),
        (functools.partial(tasks.total, 1, scale=3), 2, 9),
        (tasks.Counter(10).plus, 5, 15),
        (tasks.Counter(10), 5, 5),
        (tasks.Counter.twice, 5, 10),
        (len, "four", 4),
        (math.sqrt, 9, 3),
        (str.upper, "a", "A"),
        (operator.itemgetter(0), "xy", "x"),
        (complex, 1, 1 + 0j),
        ("-".join, ["a", "b"], "a-b"),
    ],
)
def test_functions_of_every_kind_can_be_called(
    pool: multihost.Pool, function: object, argument: object, result: object
) -> None:
    assert pool.apply(function, (argument,)) == result  # type: ignore[arg-type]


def test_a_closure_carries_what_it_refers_to_at_each_call(pool: multihost.Pool) -> None:
    held = [1]

    def add(x: int) -> int:
        return x + held[0]

    first = pool.apply(add, (10,))
    held[0] = 2
    assert (first, pool.apply(add, (10,))) == (11, 12)


def test_ten_megabytes_travel_in_both_directions(pool: multihost.Pool) -> None:
    assert pool.apply(tasks.size, (bytes(10 * MEGABYTE),)) == 10 * MEGABYTE
    assert pool.apply(tasks.zeros, (10 * MEGABYTE,)) == bytes(10 * MEGABYTE)
    assert pool.map(tasks.zeros, [MEGABYTE] * 20) == [bytes(MEGABYTE)] * 20


def test_a_task_may_print_and_the_worker_shows_it(shared_cluster: Cluster, pool: multihost.Pool) -> None:
    assert pool.apply(tasks.talk, ("said by a task",)) == 14
    worker = next(program for program in shared_cluster.programs if program.name == "w1")
    assert "said by a task" in worker.wait_for_log("said by a task on stderr")


def test_eight_threads_may_submit_at_once(pool: multihost.Pool) -> None:
    def submit(thread: int) -> list[int]:
        return [pool.apply(tasks.square, (thread * 100 + n,)) for n in range(50)]

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(submit, range(8)))
    assert found == [[(t * 100 + n) ** 2 for n in range(50)] for t in range(8)]


# --- the end of a pool -----------------------------------------------------------------------------------------


def test_close_and_join_wait_for_what_was_accepted(shared_cluster: Cluster) -> None:
    pool = shared_cluster.pool()
    outcomes = [pool.apply_async(tasks.sleep, (0.1,)) for _ in range(6)]
    pool.close()
    with pytest.raises(ValueError, match="Pool not running"):
        pool.apply_async(tasks.square, (1,))
    for call in (pool.map, pool.map_async, pool.imap, pool.imap_unordered):
        with pytest.raises(ValueError, match="Pool not running"):
            call(tasks.square, [1])
    with pytest.raises(ValueError, match="Pool not running"):
        pool.starmap(tasks.square, [(1,)])
    with pytest.raises(ValueError, match="Pool not running"), pool:
        pass
    pool.join()
    assert all(outcome.ready() for outcome in outcomes)
    assert [outcome.get(0) for outcome in outcomes] == [0.1] * 6
    pool.terminate()
    pool.join()


@pytest.mark.parametrize("length", [100, 3000])
def test_join_waits_for_an_imap_whose_results_are_read_later(shared_cluster: Cluster, length: int) -> None:
    pool = shared_cluster.pool()
    results = pool.imap(tasks.square, range(length))
    pool.close()
    pool.join()
    assert list(results) == [x * x for x in range(length)]


def test_join_before_close_is_an_error(pool: multihost.Pool) -> None:
    with pytest.raises(ValueError, match="Pool is still running"):
        pool.join()


def test_the_end_of_a_with_block_cancels_what_is_left(shared_cluster: Cluster, tmp_path: Path) -> None:
    with shared_cluster.pool() as pool:
        outcomes = [pool.apply_async(tasks.mark_and_wait, (tmp_path, str(n))) for n in range(10)]
        wait_until(lambda: list(tmp_path.glob("*.began.*")), "a task began")
    for outcome in outcomes:
        with pytest.raises(multihost.ClientClosed):
            outcome.get(DEADLINE)
    wait_until(lambda: not shared_cluster.statistics()["leased"], "the master gave up the tasks")
    assert shared_cluster.statistics()["queued"] == 0
    assert not list(tmp_path.glob("*.ended.*"))


def test_get_raises_timeout_error_and_the_result_can_be_had_later(pool: multihost.Pool) -> None:
    outcome = pool.apply_async(tasks.sleep, (0.5,))
    with pytest.raises(multiprocessing.TimeoutError):
        outcome.get(0.01)
    with pytest.raises(ValueError, match="not ready"):
        outcome.successful()
    outcome.wait(0.01)
    assert not outcome.ready()
    assert outcome.get(DEADLINE) == 0.5
    with pytest.raises(multihost.TimeoutError):
        pool.imap(tasks.sleep, [0.5]).next(timeout=0.01)


def test_a_pool_cannot_be_sent_to_a_worker(pool: multihost.Pool) -> None:
    with pytest.raises(NotImplementedError, match="pool objects cannot be passed"):
        pool.apply(tasks.square, (pool,))


def test_a_pool_that_is_dropped_leaves_no_thread_behind_when_it_is_terminated(shared_cluster: Cluster) -> None:
    before = threading.active_count()
    for _ in range(5):
        shared_cluster.pool().terminate()
    gc.collect()
    assert threading.active_count() <= before


# --- exceptions ------------------------------------------------------------------------------------------------


def test_an_exception_arrives_as_itself_with_the_workers_traceback_as_its_cause(pool: multihost.Pool) -> None:
    with pytest.raises(ZeroDivisionError, match="division by zero") as caught:
        pool.apply(tasks.divide, (1, 0))
    cause = caught.value.__cause__
    assert isinstance(cause, RemoteTraceback)
    line = next(n for n, text in enumerate(Path(tasks.__file__).read_text().splitlines(), 1) if "return a / b" in text)
    assert f'tasks.py", line {line}, in divide' in str(cause)
    assert "return a / b" in str(cause)
    assert "multihost" not in str(cause).replace(str(Path(tasks.__file__).parents[2]), "").replace("/multihost-", "")


def test_an_exceptions_own_cause_is_in_the_remote_traceback(pool: multihost.Pool) -> None:
    with pytest.raises(LookupError, match="outer") as caught:
        pool.apply(tasks.raise_with_cause)
    assert "ZeroDivisionError" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("function", "name", "text"),
    [
        (tasks.raise_cannot_be_rebuilt, "CannotBeRebuilt", "1 and 2"),
        (tasks.raise_unpicklable, "Unpicklable", "it holds a lock"),
    ],
)
def test_an_exception_that_cannot_travel_arrives_as_a_remote_error(
    pool: multihost.Pool, function: types.FunctionType, name: str, text: str
) -> None:
    with pytest.raises(multihost.RemoteError) as caught:
        pool.apply(function)
    assert name in str(caught.value)
    assert text in str(caught.value)
    assert function.__name__ in str(caught.value.__cause__)


def test_an_exception_without_a_text_arrives(pool: multihost.Pool) -> None:
    with pytest.raises(tasks.NoText):
        pool.apply(tasks.raise_no_text)


def test_endless_recursion_in_a_task_is_that_tasks_error(pool: multihost.Pool) -> None:
    with pytest.raises(RecursionError):
        pool.apply(tasks.recurse)
    assert pool.apply(tasks.square, (2,)) == 4


def test_an_argument_that_cannot_be_pickled_is_that_tasks_error(pool: multihost.Pool) -> None:
    neighbour = pool.apply_async(tasks.square, (3,))
    outcome = pool.apply_async(tasks.size, (threading.Lock(),))
    with pytest.raises(TypeError, match=r"lock") as caught:
        outcome.get(DEADLINE)
    assert "could not send a call of size" in "".join(caught.value.__notes__)
    assert neighbour.get(DEADLINE) == 9


def test_a_result_that_cannot_be_pickled_is_a_maybe_encoding_error(pool: multihost.Pool) -> None:
    with pytest.raises(MaybeEncodingError, match="lock"):
        pool.apply(tasks.return_lock)


def test_a_result_that_cannot_be_rebuilt_here_is_that_tasks_error(pool: multihost.Pool) -> None:
    with pytest.raises(multihost.ResultNotRebuilt, match="the task ran, but its result cannot be rebuilt") as caught:
        pool.apply(tasks.return_exploding)
    assert isinstance(caught.value.__cause__, ValueError)
    assert pool.apply(tasks.square, (2,)) == 4


def test_results_of_a_map_that_cannot_be_rebuilt_here_can_be_had_of_their_bytes(
    pool: multihost.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = tasks.rebuilt_from
    monkeypatch.delattr(tasks, "rebuilt_from")  # as in a program that has not got the class
    stream = pool.imap(tasks.return_own, range(4), chunksize=2)
    errors = []
    for _ in range(4):
        with pytest.raises(multihost.ResultNotRebuilt) as caught:
            next(stream)
        errors.append(caught.value)
    monkeypatch.setattr(tasks, "rebuilt_from", known, raising=False)
    assert [pickle.loads(error.payload)[0][error.place] for error in errors] == [0, 10, 20, 30]


def test_an_argument_that_cannot_be_rebuilt_on_the_worker_is_that_tasks_error(pool: multihost.Pool) -> None:
    with pytest.raises(ValueError, match="cannot be rebuilt here"):
        pool.apply(tasks.size, (tasks.ExplodesAtReceiver(),))


def test_a_function_of_a_module_that_no_worker_has_names_module_and_worker(
    pool: multihost.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("only_here")
    exec("def f(): pass", module.__dict__)
    monkeypatch.setitem(__import__("sys").modules, "only_here", module)
    with pytest.raises(multihost.CodeNotFound, match="worker w1 cannot import only_here") as caught:
        pool.apply(module.f)
    assert caught.value.name == "only_here"
    assert caught.value.worker == "w1"


def test_a_task_that_starts_a_process_is_told_that_it_may_not(pool: multihost.Pool) -> None:
    with pytest.raises(AssertionError, match="daemonic processes are not allowed to have children"):
        pool.apply(tasks.start_process)


# --- sizes -----------------------------------------------------------------------------------------------------


def test_large_values_go_and_come_back_as_they_were_however_they_are_passed(pool: multihost.Pool) -> None:
    large = os.urandom(11 * MEGABYTE)
    others = [
        bytearray(large),
        [large, large[:300_000]],
        {"key": large},
        "text" * MEGABYTE,
        array.array("q", [7]) * MEGABYTE,
    ]
    assert pool.apply(tasks.given, (large, 1), {"key": large}) == ((large, 1), {"key": large})
    assert pool.map(tasks.given, [large, *others, large], 1) == [large, *others, large]
    assert pool.map(tasks.given, [large[:MEGABYTE], 1, large[1:MEGABYTE], *others], 4) == [
        large[:MEGABYTE],
        1,
        large[1:MEGABYTE],
        *others,
    ]


def test_large_values_of_many_calls_at_once_are_not_mixed_up(pool: multihost.Pool) -> None:
    values = [os.urandom(size) for size in (3_000_000, 70_000, 262_144, 5_000_000, 100, 1_000_000) for _ in range(6)]
    results = [pool.apply_async(tasks.given, (value,)) for value in values]
    assert [result.get() for result in results] == values


def test_a_task_larger_than_the_masters_cap_is_that_tasks_error(small_cluster: Cluster) -> None:
    with small_cluster.pool() as pool:
        neighbour = pool.apply_async(tasks.square, (3,))
        with pytest.raises(multihost.TaskTooLarge, match="MULTIHOST_MAX_PAYLOAD"):
            pool.apply(tasks.size, (bytes(2 * MEGABYTE),))
        data = bytes(2 * MEGABYTE)
        with pytest.raises(multihost.TaskTooLarge, match="a function"):
            pool.apply(lambda: len(data))
        assert neighbour.get(DEADLINE) == 9
        assert pool.apply(tasks.size, (bytes(MEGABYTE - 1000),)) == MEGABYTE - 1000


def test_a_result_larger_than_the_masters_cap_is_that_tasks_error(small_cluster: Cluster) -> None:
    with small_cluster.pool() as pool:
        with pytest.raises(multihost.ResultTooLarge, match="MULTIHOST_MAX_PAYLOAD"):
            pool.apply(tasks.zeros, (2 * MEGABYTE,))
        assert len(pool.apply(tasks.zeros, (MEGABYTE - 1000,))) == MEGABYTE - 1000


@pytest.mark.parametrize("megabytes", [2, 40])
def test_an_exception_larger_than_the_masters_cap_is_that_tasks_error(small_cluster: Cluster, megabytes: int) -> None:
    worker = small_cluster.worker("w1")
    assert worker is not None
    with small_cluster.pool() as pool:
        with pytest.raises(multihost.RemoteError, match="ValueError: xxx") as caught:
            pool.apply(tasks.raise_large, (megabytes * MEGABYTE,))
        assert "raise_large" in str(caught.value.__cause__)
        assert pool.apply(tasks.square, (3,)) == 9
    statistics = small_cluster.statistics()
    assert statistics["redelivered"] == 0, "the worker was not cut off by its own frame"


# --- tasks that end their process ------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 3, "a message", None])
def test_sys_exit_in_a_task_is_that_tasks_error_and_not_the_end_of_anything(
    pool: multihost.Pool, status: object
) -> None:
    before = pool.apply(tasks.pid)
    with pytest.raises(SystemExit) as caught:
        pool.apply(tasks.exit_politely, (status,))
    assert caught.value.code == status
    assert before in {pool.apply(tasks.pid) for _ in range(20)}


@pytest.mark.parametrize(
    ("function", "argument", "reason"),
    [
        (tasks.exit_at_once, 0, "ended with exit status 0 and without an outcome"),
        (tasks.exit_at_once, 5, "ended with exit status 5 and without an outcome"),
        (tasks.kill_itself, signal.SIGKILL, "was killed by SIGKILL"),
        (tasks.kill_itself, signal.SIGSEGV, "was killed by SIGSEGV"),
        (tasks.kill_itself, signal.SIGTERM, "was killed by SIGTERM"),
    ],
)
def test_a_task_that_ends_its_process_is_given_up_after_three_deliveries(
    pool: multihost.Pool, function: types.FunctionType, argument: int, reason: str
) -> None:
    neighbours = pool.map_async(tasks.square, range(100))
    with pytest.raises(multihost.WorkerDied) as caught:
        pool.apply(function, (argument,))
    assert len(caught.value.losses) == 3
    assert all(reason in loss and "worker w1" in loss for loss in caught.value.losses), caught.value.losses
    assert neighbours.get(DEADLINE) == [x * x for x in range(100)]
    assert pool.map(tasks.square, range(10)) == [x * x for x in range(10)]


def test_a_task_that_ends_its_process_once_is_run_again(pool: multihost.Pool, tmp_path: Path) -> None:
    assert pool.apply(tasks.die_once, (tmp_path / "mark",)) == "survived"


# --- several clients -------------------------------------------------------------------------------------------


def test_a_small_job_is_served_while_a_big_one_waits(shared_cluster: Cluster) -> None:
    with shared_cluster.pool() as big, shared_cluster.pool() as small:
        outcome = big.map_async(tasks.sleep, [0.05] * 2000)
        wait_until(lambda: shared_cluster.statistics()["leased"], "the big job runs")
        assert small.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]
        assert not outcome.ready()


def test_a_pool_of_one_process_runs_one_task_at_a_time(shared_cluster: Cluster, tmp_path: Path) -> None:
    with shared_cluster.pool(processes=1) as pool:
        pool.starmap(tasks.mark_span, [(tmp_path, n, 0.02) for n in range(20)])
    assert _most_at_once(tmp_path) == 1


def test_a_pool_without_a_limit_uses_every_slot(shared_cluster: Cluster, tmp_path: Path) -> None:
    with shared_cluster.pool() as pool:
        pool.starmap(tasks.mark_span, [(tmp_path, n, 0.1) for n in range(10)])
    assert _most_at_once(tmp_path) == 2


def test_clients_do_not_share_processes(shared_cluster: Cluster) -> None:
    with shared_cluster.pool() as one, shared_cluster.pool() as other:
        assert not set(one.map(tasks.pid, range(20))) & set(other.map(tasks.pid, range(20)))


def test_a_task_sees_no_authkey(pool: multihost.Pool, shared_cluster: Cluster) -> None:
    environ = pool.apply(tasks.variables)
    assert not [name for name in environ if "AUTHKEY" in name]
    assert shared_cluster.authkey not in "".join(environ.values())
    assert pool.apply(lambda: bytes(multiprocessing.current_process().authkey)) != shared_cluster.authkey.encode()


def test_the_children_of_a_worker_have_no_authkey_in_their_environment(
    pool: multihost.Pool, shared_cluster: Cluster
) -> None:
    pool.map(tasks.square, range(10))
    worker = next(program for program in shared_cluster.programs if program.name == "w1")
    children = worker.descendants()
    assert children
    for child in children:
        assert shared_cluster.authkey.encode() not in Path(f"/proc/{child}/environ").read_bytes()


def _most_at_once(directory: Path) -> int:
    """How many of the calls of ``mark_span`` overlapped, at most."""
    changes = []
    for mark in directory.iterdir():
        _, begun, ended = map(int, mark.name.split("."))
        changes += [(begun, 1), (ended, -1)]
    running = itertools.accumulate(change for _, change in sorted(changes))
    return max(running)


def test_a_negative_number_of_processes_is_an_error(shared_cluster: Cluster) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        shared_cluster.pool(processes=0)
    with pytest.raises(ValueError, match="Chunksize"), shared_cluster.pool() as pool:
        pool.map(tasks.square, [1], chunksize=0)


def test_a_key_without_an_address_is_an_error() -> None:
    with pytest.raises(multihost.SettingsError, match="no address"):
        multihost.Pool(authkey="key")


def test_a_pool_reads_the_environment(shared_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULTIHOST_ADDRESS", str(shared_cluster.address))
    monkeypatch.setenv("MULTIHOST_AUTHKEY", shared_cluster.authkey)
    with multihost.Pool() as pool:
        assert pool.apply(tasks.square, (3,)) == 9


def test_no_master_at_all_is_an_error_within_the_connect_timeout(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MULTIHOST_CONNECT_TIMEOUT", "1")
    begun = time.monotonic()
    with pytest.raises(multihost.MasterUnreachable, match=f"no master answered at {cluster.address} within 1 s"):
        cluster.pool()
    assert time.monotonic() - begun < 10


# --- what is beyond the standard library ------------------------------------------------------------------------


def test_a_pool_with_options_is_the_same_pool(shared_cluster: Cluster) -> None:
    pool = shared_cluster.pool()
    derived = pool.options(name="mine", priority=3)
    assert isinstance(derived, multihost.Pool)
    assert derived.apply(tasks.square, (3,)) == 9
    outcome = derived.map_async(tasks.square, range(100))
    derived.close()
    with pytest.raises(ValueError, match="Pool not running"):
        pool.apply(tasks.square, (3,))
    pool.join()
    assert outcome.get(0) == [x * x for x in range(100)]


def test_an_option_that_there_is_not_is_an_error_that_names_those_there_are(pool: multihost.Pool) -> None:
    with pytest.raises(TypeError, match="there is no option 'retry'; there are retries, "):
        pool.options(retry=3)  # type: ignore[call-arg]


def test_a_call_is_made_again_as_often_as_its_options_say(pool: multihost.Pool, tmp_path: Path) -> None:
    retrying = pool.options(retries=3, retry_for=ConnectionError, backoff=0.01)
    assert retrying.apply(tasks.fail_at_first, (tmp_path / "a", 3)) == 4
    assert retrying.map(tasks.fail_once, [tmp_path / str(n) for n in range(5)], chunksize=5) == [2] * 5
    with pytest.raises(ConnectionError):
        retrying.apply(tasks.fail_at_first, (tmp_path / "b", 4))
    with pytest.raises(ZeroDivisionError):
        retrying.apply(tasks.divide, (1, 0))


def test_a_call_that_takes_longer_than_its_timeout_ends_in_an_error(pool: multihost.Pool) -> None:
    outcome = pool.options(timeout=0.2).map_async(tasks.sleep, [60, 0])
    with pytest.raises(TimeoutError):
        outcome.get(DEADLINE)


def test_a_running_call_can_be_terminated(pool: multihost.Pool, tmp_path: Path) -> None:
    outcome = pool.apply_async(tasks.mark_and_wait, (tmp_path, "a"))
    wait_until(lambda: list(tmp_path.glob("a.began.*")), "the task began")
    assert not outcome.cancel()
    assert outcome.terminate()
    with pytest.raises(CancelledError):
        outcome.get(DEADLINE)
    assert not outcome.terminate()
    assert pool.apply(tasks.square, (3,)) == 9


def test_a_map_can_be_terminated(pool: multihost.Pool, tmp_path: Path) -> None:
    outcome = pool.starmap_async(tasks.mark_and_wait, [(tmp_path, str(n)) for n in range(500)])
    wait_until(lambda: len(list(tmp_path.glob("*.began.*"))) == 2, "two tasks began")
    assert outcome.terminate()
    with pytest.raises(CancelledError):
        outcome.get(DEADLINE)
    (tmp_path / "go").touch()
    assert pool.apply(tasks.square, (3,)) == 9
    assert len(list(tmp_path.glob("*.began.*"))) <= 10


def test_a_call_that_has_not_begun_can_be_cancelled(pool: multihost.Pool, tmp_path: Path) -> None:
    busy = [pool.apply_async(tasks.mark_and_wait, (tmp_path, str(n))) for n in range(2)]
    wait_until(lambda: len(list(tmp_path.glob("*.began.*"))) == 2, "both slots were busy")
    queued = [pool.apply_async(tasks.square, (n,)) for n in range(50)]
    assert queued[-1].cancel()
    with pytest.raises(CancelledError):
        queued[-1].get(DEADLINE)
    (tmp_path / "go").touch()
    assert all(isinstance(each.get(DEADLINE), int) for each in busy)


def test_a_map_tells_how_far_it_has_come(pool: multihost.Pool, capsys: pytest.CaptureFixture[str]) -> None:
    assert pool.options(name="squares").map(tasks.square, range(50), progress=True) == [x * x for x in range(50)]
    assert pool.starmap(operator.mul, [(2, 3)], progress=True) == [6]
    assert list(pool.imap(tasks.square, iter(range(5)), progress=True)) == [x * x for x in range(5)]
    assert set(pool.imap_unordered(tasks.square, [2], progress=True)) == {4}
    err = capsys.readouterr().err
    assert "squares: 50 of 50 done" in err
    assert "mul: 1 of 1 done" in err
    assert "square: 5 done" in err or "square: 5 of 5 done" in err
    assert "square: 1 of 1 done" in err


# --- chunks ----------------------------------------------------------------------------------------------------


def test_a_map_of_many_small_items_needs_few_tasks(pool: multihost.Pool, shared_cluster: Cluster) -> None:
    before = shared_cluster.statistics()["done"]
    assert pool.map(tasks.square, range(20_000)) == [x * x for x in range(20_000)]
    assert shared_cluster.statistics()["done"] - before < 2_000


def test_a_chosen_chunk_runs_in_one_process_one_item_after_the_other(pool: multihost.Pool, tmp_path: Path) -> None:
    pids = pool.map(tasks.pid, range(40), chunksize=10)
    assert [len(set(pids[n : n + 10])) for n in range(0, 40, 10)] == [1] * 4
    assert pool.starmap(tasks.total, [(1, 2), (3,), ()], chunksize=2) == [3, 3, 0]
    assert list(pool.imap(tasks.square, range(10), chunksize=3)) == [x * x for x in range(10)]


def test_an_exception_in_a_chunk_is_that_of_its_item_alone(pool: multihost.Pool) -> None:
    results = pool.imap(functools.partial(tasks.divide, 6), [1, 2, 0, 3, 6], chunksize=5)
    assert [next(results), next(results)] == [6, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == [2, 1]


def test_an_item_of_a_chunk_that_cannot_be_sent_fails_alone(pool: multihost.Pool) -> None:
    results = pool.imap(tasks.kind, [1, threading.Lock(), "x"], chunksize=3)
    assert next(results) == "int"
    with pytest.raises(TypeError, match="lock"):
        next(results)
    assert list(results) == ["str"]


@pytest.mark.parametrize("deadly", range(10))
def test_a_chunk_whose_process_dies_repeats_no_item_that_had_ended(
    pool: multihost.Pool, tmp_path: Path, deadly: int
) -> None:
    items = [(tmp_path, n, n == deadly) for n in range(10)]
    assert pool.starmap(tasks.note_run, items, chunksize=10) == list(range(10))
    runs = [len(list(tmp_path.glob(f"{n}.run.*"))) for n in range(10)]
    assert runs == [1 + (n == deadly) for n in range(10)]


# --- input that is read as it is needed --------------------------------------------------------------------------


def test_imap_with_a_buffersize_reads_so_many_items_ahead(pool: multihost.Pool) -> None:
    read: list[int] = []

    def numbers() -> Iterator[int]:
        for n in itertools.count():
            read.append(n)
            yield n

    results = pool.imap(tasks.square, numbers(), buffersize=5)
    wait_until(lambda: len(read) == 5, "five items were read")
    assert next(results) == 0
    wait_until(lambda: len(read) == 6, "one more was read")


@pytest.mark.parametrize(
    ("buffersize", "error"), [(0, ValueError), (-1, ValueError), ("2", TypeError), (2.0, TypeError)]
)
def test_a_wrong_buffersize_is_an_error(pool: multihost.Pool, buffersize: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="buffersize must be"):
        pool.imap(tasks.square, [1], 1, buffersize)
    with pytest.raises(error, match="buffersize must be"):
        pool.imap_unordered(tasks.square, [1], buffersize=buffersize)


def test_large_results_that_nobody_takes_are_few(pool: multihost.Pool) -> None:
    read: list[int] = []

    def sizes() -> Iterator[int]:
        while True:
            read.append(MEGABYTE)
            yield MEGABYTE

    results = pool.imap(tasks.zeros, sizes())
    for _ in range(100):
        assert len(next(results)) == MEGABYTE
    assert len(read) <= 200


def test_a_dropped_imap_goes_on_as_long_as_its_pool(shared_cluster: Cluster, tmp_path: Path) -> None:
    pool = shared_cluster.pool()
    pool.imap_unordered(tasks.touch, [tmp_path / str(n) for n in range(2000)])
    gc.collect()
    pool.close()
    pool.join()
    assert len(list(tmp_path.iterdir())) == 2000


def test_the_master_hears_of_the_end_before_callbacks_do_for_they_may_close_the_pool_again(
    shared_cluster: Cluster,
) -> None:
    before = shared_cluster.statistics()["sessions"]
    errors: list[BaseException] = []
    pool = shared_cluster.pool()

    def ended(error: BaseException) -> None:
        wait_until(lambda: shared_cluster.statistics()["sessions"] == before, "the master ended the session")
        pool.terminate()
        errors.append(error)

    pool.apply_async(time.sleep, (60,), error_callback=ended)
    pool.close()
    pool.terminate()
    assert [type(error) for error in errors] == [ClientClosed]


# --- pools that are dropped ------------------------------------------------------------------------------------


def test_a_pool_that_is_dropped_is_a_resource_warning_and_its_session_ends(shared_cluster: Cluster) -> None:
    sessions = shared_cluster.statistics()["sessions"]
    pool = multihost.Pool(address=str(shared_cluster.address), authkey=shared_cluster.authkey)
    assert pool.map(tasks.square, range(1000)) == [x * x for x in range(1000)]
    with pytest.raises(ZeroDivisionError):
        pool.apply(tasks.divide, (1, 0))
    assert shared_cluster.statistics()["sessions"] != sessions
    gc.disable()  # it goes by itself, not with a cycle that waits to be found
    try:
        with pytest.warns(ResourceWarning, match="unclosed running multihost pool .* at 127.0.0.1:.*, 0 calls"):
            del pool
    finally:
        gc.enable()
    wait_until(lambda: shared_cluster.statistics()["sessions"] == sessions, "the session ended")


def test_a_result_keeps_its_pool_until_it_has_come(shared_cluster: Cluster) -> None:
    pool = multihost.Pool(address=str(shared_cluster.address), authkey=shared_cluster.authkey)
    kept = weakref.ref(pool._member)
    outcome = pool.apply_async(tasks.sleep, (0.3,))
    del pool
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # in the thread that brings the result
        assert outcome.get(DEADLINE) == 0.3
        wait_until(lambda: kept() is None, "the pool was collected")


def test_a_program_that_forgets_its_pools_ends(cluster: Cluster, tmp_path: Path) -> None:
    program = tmp_path / "forgetful.py"
    program.write_text(
        "import itertools, time, multihost\n"
        "def late(n):\n    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    pool, other = multihost.Pool(), multihost.Pool()\n"
        "    pool.map_async(late, range(100))\n"
        "    results = pool.imap(late, itertools.count())\n"
        "    other.apply_async(late, [1])\n"
        "    del other\n"
        "    print('over')\n"
    )
    cluster.start_master()
    cluster.start_worker()
    assert cluster.run(program) == "over\n"
    cluster.wait_for(leased=0)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"processes": 0}, ValueError, "Number of processes must be at least 1"),
        ({"maxtasksperchild": 0}, ValueError, "maxtasksperchild must be a positive int or None"),
        ({"maxtasksperchild": 1.5}, ValueError, "maxtasksperchild must be a positive int or None"),
        ({"initializer": 3}, TypeError, "initializer must be a callable"),
    ],
)
@pytest.mark.parametrize("kind", [multihost.Pool, multiprocessing.Pool])
def test_wrong_arguments_are_the_standard_librarys_errors(
    kind: Any, arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        kind(**arguments)


def test_a_process_runs_no_more_tasks_than_allowed(shared_cluster: Cluster) -> None:
    address, key = str(shared_cluster.address), shared_cluster.authkey
    with multihost.Pool(1, None, (), 2, address=address, authkey=key) as pool:
        pids = pool.map(tasks.pid, range(6), chunksize=1)
    assert max(pids.count(pid) for pid in pids) <= 2


def test_a_callback_may_not_wait_for_the_calls_that_wait_for_it(shared_cluster: Cluster) -> None:
    pool = shared_cluster.pool()
    errors: list[BaseException] = []

    def join(_: object) -> None:
        pool.close()
        try:
            pool.join()
        except RuntimeError as error:
            errors.append(error)

    pool.apply_async(tasks.square, (3,), callback=join).get(DEADLINE)
    assert len(errors) == 1


# --- what tasks print --------------------------------------------------------------------------------------------


TALKS = """
import sys, multihost
def talk(n):
    print("said by all")
    print("number", n, file=sys.stderr)
    return n
if __name__ == "__main__":
    with multihost.Pool(%s) as pool:
        assert pool.map(talk, range(20), chunksize=1) == list(range(20))
        multihost.Executor().submit(talk, 20).result()
"""


def test_what_tasks_print_is_shown_at_the_client_with_its_repeats_folded(cluster: Cluster, tmp_path: Path) -> None:
    program = tmp_path / "talks.py"
    program.write_text(TALKS % "")
    cluster.start_master()
    cluster.start_worker()
    shown = cluster.run(program).splitlines()
    assert re.fullmatch(r"w1/talk\[task \d+\] \| said by all", shown[0])
    assert re.fullmatch(r"w1/talk\[task \d+\] \| said by all \[repeated 20 times\]", shown[-1])
    numbers = [line.rpartition(" | number ")[2] for line in shown if " | number " in line]
    assert sorted(map(int, numbers)) == list(range(21))


@pytest.mark.parametrize(("argument", "setting"), [("task_output=False", "show"), ("", "hide")])
def test_what_tasks_print_can_be_hidden(cluster: Cluster, tmp_path: Path, argument: str, setting: str) -> None:
    program = tmp_path / "talks.py"
    program.write_text(TALKS.replace("multihost.Executor()", f"multihost.Executor({argument})") % argument)
    cluster.start_master()
    cluster.start_worker()
    assert cluster.run(program, MULTIHOST_TASK_OUTPUT=setting) == ""


def test_waits_of_tasks_end_when_they_are_due(pool: multihost.Pool) -> None:
    assert pool.apply(tasks.timer_slack_ns) == 1

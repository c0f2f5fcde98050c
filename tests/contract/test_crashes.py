"""Values and functions that raise, exit or die where they are pickled, called or rebuilt: nothing ever hangs.

The standard library's executor breaks for good in some of these cases, and its pool hangs: it is the control only where
it gives the call an end. Whatever happens, ours is usable afterwards.
"""

import sys
import threading
from collections.abc import Callable
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.pool import MaybeEncodingError  # type: ignore[attr-defined]
from typing import Any

import pytest

import multihost
from tests.contract import tasks
from tests.contract.conftest import Place
from tests.integration.cluster import wait_until

ENDS = pytest.mark.parametrize("what", ["raise", "exit", "die"])


@ENDS
def test_a_function_that_ends_badly_ends_its_call(make_executor: Callable[..., Any], is_ours: bool, what: str) -> None:
    executor = make_executor(1)
    error = {"raise": ValueError, "exit": SystemExit, "die": BrokenProcessPool}[what]
    with pytest.raises(error):
        executor.submit(tasks.do, what).result(60)
    if is_ours or what != "die":
        assert executor.submit(tasks.square, 3).result(30) == 9
    else:
        with pytest.raises(BrokenProcessPool):
            executor.submit(tasks.square, 3)


def test_an_argument_that_raises_when_it_is_pickled_ends_its_call(executor: Any) -> None:
    with pytest.raises(ValueError, match="on purpose"):
        executor.submit(tasks.identity, tasks.Fussy("raise", True)).result(30)
    assert executor.submit(tasks.square, 3).result(30) == 9


@ENDS
def test_an_argument_that_cannot_be_rebuilt_ends_its_call(
    make_executor: Callable[..., Any], is_ours: bool, what: str
) -> None:
    """In the standard library's executor that is the end of its process, and so of the executor."""
    executor = make_executor(1)
    ours = {"raise": ValueError, "exit": SystemExit, "die": BrokenProcessPool}[what]
    with pytest.raises(ours if is_ours else BrokenProcessPool):
        executor.submit(tasks.identity, tasks.Fussy(what, False)).result(60)
    if is_ours:
        assert executor.submit(tasks.square, 3).result(30) == 9


@ENDS
def test_a_result_that_ends_badly_when_it_is_pickled_ends_its_call(
    make_executor: Callable[..., Any], is_ours: bool, what: str
) -> None:
    executor = make_executor(1)
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        executor.submit(tasks.make_fussy, what, True).result(60)
    if what == "die":
        assert isinstance(caught.value, BrokenProcessPool)
    else:
        assert not isinstance(caught.value, TimeoutError)
        assert "on purpose" in str(caught.value)
    if is_ours:
        assert executor.submit(tasks.square, 3).result(30) == 9


@pytest.mark.parametrize("what", ["raise", "exit"])
def test_a_result_that_cannot_be_rebuilt_ends_its_call(
    make_executor: Callable[..., Any], is_ours: bool, what: str
) -> None:
    """In the standard library's executor it is the end of all calls, with a message about a child."""
    executor = make_executor(1)
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        executor.submit(tasks.make_fussy, what, False).result(30)
    assert not isinstance(caught.value, TimeoutError)
    if is_ours:
        assert "on purpose" in str(caught.value)
        assert executor.submit(tasks.square, 3).result(30) == 9
    else:
        assert isinstance(caught.value, BrokenProcessPool)


@pytest.mark.parametrize("when", ["called", "argument", "result"])
@ENDS
def test_no_call_of_our_pool_is_without_an_end(
    make_pool: Callable[..., Any], is_ours: bool, what: str, when: str
) -> None:
    """The standard library's pool waits for ever in most of these cases, so there it is not tried."""
    if not is_ours:
        return
    pool = make_pool(1)
    function, arguments = {
        "called": (tasks.do, (what,)),
        "argument": (tasks.identity, (tasks.Fussy(what, False),)),
        "result": (tasks.make_fussy, (what, True)),
    }[when]
    errors = {"raise": (ValueError, MaybeEncodingError), "exit": (SystemExit, MaybeEncodingError)}
    with pytest.raises(errors.get(what, multihost.WorkerDied)):
        pool.apply_async(function, arguments).get(60)
    assert pool.apply(tasks.square, (3,)) == 9


@pytest.mark.parametrize("what", ["raise", "exit"])
@pytest.mark.parametrize("chunksize", [1, 3])
def test_a_result_that_cannot_be_rebuilt_ends_no_more_of_our_calls_than_its_chunk(
    pool: Any, is_ours: bool, what: str, chunksize: int
) -> None:
    """In the standard library's pool it ends the thread that all results pass: it hangs."""
    if not is_ours:
        return
    results = pool.imap(partial(tasks.fussy_at_2, what, False), range(6), chunksize)
    came: list[object] = []
    for _ in range(6):
        try:
            came.append(results.next(30))
        except multihost.ResultNotRebuilt as error:
            came.append(str(error.__cause__))
    assert came[2:] == ["on purpose", 3, 4, 5]
    assert chunksize > 1 or came[:2] == [0, 1]


@pytest.mark.parametrize("method", ["map", "imap", "imap_unordered"])
@pytest.mark.parametrize("chunksize", [1, 2])
def test_an_argument_that_exits_when_it_is_pickled_ends_our_call(
    pool: Any, is_ours: bool, method: str, chunksize: int
) -> None:
    """In the standard library's pool it ends the thread that all calls pass: it hangs."""
    if not is_ours:
        return
    with pytest.raises(SystemExit, match="on purpose"):
        list(getattr(pool, method)(tasks.identity, [1, 2, tasks.Fussy("exit", True), 4], chunksize))
    assert pool.apply(tasks.square, (3,)) == 9


def test_a_result_that_cannot_be_pickled_fails_in_the_place_of_its_item(pool: Any, is_ours: bool) -> None:
    results = pool.imap(tasks.lock_at_7, range(6, 9))
    assert next(results) == 6
    with pytest.raises(MaybeEncodingError):
        next(results)
    assert next(results) == 8
    with pytest.raises(MaybeEncodingError):
        pool.map(tasks.lock_at_7, range(10), 5)
    assert pool.map(tasks.square, range(3)) == [0, 1, 4]


@pytest.mark.parametrize("method", ["map", "starmap", "apply", "imap", "imap_unordered"])
def test_what_cannot_be_pickled_is_the_error_of_every_kind_of_call(pool: Any, method: str) -> None:
    lock = threading.Lock()
    call = getattr(pool, method)
    arguments = {"apply": (lock,), "starmap": [(lock,)]}.get(method, [lock])
    with pytest.raises(TypeError, match="pickle"):
        next(call(tasks.identity, arguments)) if method.startswith("imap") else call(tasks.identity, arguments)
    assert pool.apply(tasks.square, (3,)) == 9


def test_only_the_item_that_cannot_be_sent_fails_in_imap(pool: Any) -> None:
    results = pool.imap(tasks.identity, [1, threading.Lock(), 3])
    assert next(results) == 1
    with pytest.raises(TypeError, match="pickle"):
        next(results)
    assert next(results) == 3


def test_a_pool_or_an_executor_is_no_argument(pool: Any, executor: Any) -> None:
    with pytest.raises(NotImplementedError, match="cannot be passed between processes or pickled"):
        pool.apply_async(tasks.identity, (pool,)).get(30)
    with pytest.raises(TypeError, match="pickle"):
        executor.submit(tasks.identity, executor).result(30)


def test_the_calls_beside_one_whose_process_dies(own_executor: Any, is_ours: bool, place: Place) -> None:
    """With the standard library all of them break; with ours they go on."""
    beside = own_executor.submit(tasks.mark_and_wait, place.task, "beside")
    wait_until((place.test / "beside").exists, "the call beside ran")
    dying = own_executor.submit(tasks.kill_oneself)
    queued = [own_executor.submit(tasks.square, n) for n in range(5)]
    with pytest.raises(BrokenProcessPool):
        dying.result(60)
    (place.test / "go").touch()
    futures.wait([beside, *queued], timeout=60)
    if is_ours:
        assert beside.result(0) == "beside"
        assert [future.result(0) for future in queued] == [0, 1, 4, 9, 16]
    else:
        assert isinstance(beside.exception(0), BrokenProcessPool)


def test_an_error_that_cannot_be_pickled_is_told_by_ours(pool: Any, executor: Any, is_ours: bool) -> None:
    """The standard library's tells only that it could not be pickled."""
    with pytest.raises(multihost.RemoteError if is_ours else MaybeEncodingError) as caught:
        pool.apply(tasks.fail_with_a_lock)
    error = executor.submit(tasks.fail_with_a_lock).exception(30)
    assert isinstance(error, multihost.RemoteError if is_ours else TypeError)
    for told in (caught.value, error):
        assert not is_ours or ("LookupError" in str(told) and "on purpose" in str(told))


def test_an_error_that_is_not_true_is_raised_all_the_same(pool: Any) -> None:
    with pytest.raises(tasks.Falsy):
        pool.apply(tasks.fail_falsely)


def test_an_executors_error_that_is_not_true_is_raised_all_the_same(executor: Any, is_ours: bool) -> None:
    """Before 3.13.4 the standard library's takes it for none."""
    future = executor.submit(tasks.fail_falsely)
    if is_ours or sys.version_info >= (3, 13, 4):
        assert isinstance(future.exception(30), tasks.Falsy)
        with pytest.raises(tasks.Falsy):
            future.result(30)


def test_an_errors_own_cause_is_shown(pool: Any, executor: Any) -> None:
    with pytest.raises(LookupError, match="because of that") as caught:
        pool.apply(tasks.fail_with_a_cause)
    for error in (caught.value, executor.submit(tasks.fail_with_a_cause).exception(30)):
        assert error is not None
        assert "ZeroDivisionError" in str(error.__cause__)
        assert "direct cause" in str(error.__cause__)

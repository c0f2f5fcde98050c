"""A client's session and a worker's loop under what users and networks do to them."""

import sys
import threading
import time
from concurrent import futures
from functools import partial
from pathlib import Path

import pytest

import multihost
from multihost.client import code, session
from tests.integration.bad_links import slow_link
from tests.integration.cluster import Cluster, wait_until
from tests.integration.test_executor import mark_and_wait, square

MEGABYTE = 1_000_000


def big(size_bytes: int) -> bytes:
    return bytes(size_bytes)


def test_a_worker_survives_a_session_that_ends_while_its_outcome_is_under_way(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start_master()
    worker = cluster.start_worker(slots=1)
    pool = cluster.pool()
    pool.apply_async(mark_and_wait, [str(tmp_path), "running", "go"])
    wait_until((tmp_path / "running").exists, "the task ran")
    worker.stop()  # what the master says and what the child reports both wait for it
    (tmp_path / "go").touch()
    children = worker.descendants()
    pool.terminate()
    wait_until(lambda: cluster.statistics()["sessions"] == 0, "the master closed the session")
    wait_until(lambda: all(_sleeps(pid) for pid in children), "the child has written its outcome")
    worker.cont()
    assert cluster.pool().apply(square, [3]) == 9
    assert worker.running


def test_a_result_that_takes_longer_than_the_lease_time_to_send_arrives(cluster: Cluster) -> None:
    master = cluster.start_master(MULTIHOST_LEASE_TIMEOUT="1.5")
    with slow_link(cluster.address, MEGABYTE) as address:
        worker = cluster.start_worker(MULTIHOST_ADDRESS=str(address))
        assert len(cluster.pool().apply(big, [5 * MEGABYTE])) == 5 * MEGABYTE
        assert "queued again" not in master.log()
        worker.end()


def test_an_outcome_that_takes_longer_than_the_allowed_silence_arrives(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(session, "_SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(session, "_PING_SECONDS", 0.3)
    cluster.start_master()
    cluster.start_worker()
    with (
        slow_link(cluster.address, MEGABYTE) as address,
        multihost.Pool(2, address=str(address), authkey=cluster.authkey) as pool,
    ):
        assert len(pool.apply(big, [4 * MEGABYTE])) == 4 * MEGABYTE
    assert "lost the master" not in caplog.text


def test_imap_raises_what_its_calls_could_not_be_submitted_for(shared_cluster: Cluster) -> None:
    pool = shared_cluster.pool()
    pool._member.session.close()
    results = pool.imap(square, [1, 2, 3])
    with pytest.raises(multihost.ClientClosed):
        results.next(timeout=30)
    with pytest.raises(StopIteration):
        results.next(timeout=30)


def test_a_callback_that_exits_does_not_end_the_session(
    shared_cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    pool = shared_cluster.pool()
    pool.apply_async(square, [1], callback=lambda result: sys.exit(1))
    wait_until(lambda: "a callback of a task raised" in caplog.text, "the callback's end was logged")
    assert pool.apply_async(square, [4]).get(30) == 16


def test_a_callback_may_cancel_without_waiting_for_itself(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start_master()
    cluster.start_worker(slots=1)
    with multihost.Executor(address=str(cluster.address), authkey=cluster.authkey) as executor:
        first = executor.submit(mark_and_wait, str(tmp_path), "first", "go")
        wait_until((tmp_path / "first").exists, "the first call ran")
        queued = [executor.submit(square, n) for n in range(5)]
        last = queued[-1]
        first.add_done_callback(lambda done: last.cancel())
        begun = time.monotonic()
        (tmp_path / "go").touch()
        futures.wait(queued, timeout=30)
        assert time.monotonic() - begun < session._CANCEL_SECONDS / 2  # it used to stand still for all of them


def test_several_threads_may_cancel_one_call(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start_master()
    cluster.start_worker(slots=1)
    with multihost.Executor(address=str(cluster.address), authkey=cluster.authkey) as executor:
        first = executor.submit(mark_and_wait, str(tmp_path), "first", "go")
        wait_until((tmp_path / "first").exists, "the first call ran")
        for _ in range(20):
            queued = executor.submit(square, 1)
            answers: list[bool] = []
            threads = [threading.Thread(target=lambda: answers.append(queued.cancel())) for _ in range(4)]  # noqa: B023
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            assert answers == [True] * 4
            assert queued.cancelled()
        (tmp_path / "go").touch()
        assert first.result(30) == "first"


def test_shutdown_waits_for_the_callbacks(shared_cluster: Cluster) -> None:
    called = threading.Event()
    executor = multihost.Executor(address=str(shared_cluster.address), authkey=shared_cluster.authkey)

    def slowly(done: "futures.Future[int]") -> None:
        time.sleep(session._CLOSE_SECONDS + 0.5)  # longer than the end of a session waits for its thread
        called.set()

    executor.submit(square, 2).add_done_callback(slowly)
    executor.shutdown()
    assert called.is_set()


def test_a_function_without_a_name_is_prepared_once_for_each_map(
    shared_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    own_sources = code.own_sources

    def counted() -> dict[str, Path]:
        looks.append(time.monotonic())
        return own_sources()

    monkeypatch.setattr(code, "own_sources", counted)
    pool = shared_cluster.pool()
    assert pool.map(partial(pow, 2), range(200)) == [2**n for n in range(200)]
    assert pool.map(lambda x: -x, range(200)) == [-x for x in range(200)]
    assert list(pool.imap(partial(pow, 3), range(20))) == [3**n for n in range(20)]
    assert len(looks) <= 3


def test_a_local_cluster_ends_at_once_although_a_forked_process_lives_on(cluster: Cluster, tmp_path: Path) -> None:
    program = tmp_path / "forks.py"
    program.write_text(
        "import os, signal, time, multihost\n"
        "if __name__ == '__main__':\n"
        "    pool = multihost.Pool(1)\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        signal.pause()\n"
        "    print(pool.apply(abs, (-3,)))\n"
        "    begun = time.monotonic()\n"
        "    pool.terminate()\n"
        "    print('seconds', time.monotonic() - begun)\n"
        "    os.kill(child, signal.SIGKILL)\n"
        "    os.waitpid(child, 0)\n"
    )
    output = cluster.run(program, MULTIHOST_ADDRESS="", MULTIHOST_AUTHKEY="")
    assert float(output.split("seconds")[1]) < 4.0  # after 5 s it would be killed


def _sleeps(pid: int) -> bool:
    """Whether a process waits for something, or has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "SZ"
    except OSError:
        return True

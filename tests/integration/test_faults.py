"""Workers, masters and clients are killed, frozen, drained and restarted: no task is lost, none is recorded twice."""

import contextlib
import json
import os
import signal
import sys
import time
from multiprocessing import AuthenticationError
from pathlib import Path

import pytest

import multihost
from tests.integration import tasks
from tests.integration.cluster import DEADLINE, MASTER, WORKER, Cluster, Program, wait_until
from tests.integration.test_chunks import parent_of


def began(directory: Path, name: str = "*") -> list[Path]:
    """The marks of calls of ``mark_and_wait`` that began."""
    return list(directory.glob(f"{name}.began.*"))


def ended(directory: Path, name: str = "*") -> list[Path]:
    return list(directory.glob(f"{name}.ended.*"))


def holder(cluster: Cluster) -> Program:
    """The worker that runs the one task under way."""
    (name,) = [worker["name"] for worker in cluster.statistics()["workers"] if worker["leases"]]
    return next(program for program in cluster.programs if program.name == name and program.running)


@pytest.fixture
def two_workers(cluster: Cluster) -> Cluster:
    """A master that notices a silent worker after 1.5 seconds, and two workers of one slot."""
    cluster.start_master(MULTIHOST_LEASE_TIMEOUT="1.5")
    for name in ("w1", "w2"):
        cluster.start_worker(name, slots=1)
    return cluster


# --- workers that die ------------------------------------------------------------------------------------------


def test_a_killed_workers_task_goes_at_once_to_another_one(two_workers: Cluster, tmp_path: Path) -> None:
    with two_workers.pool() as pool:
        outcome = pool.apply_async(tasks.mark_and_wait, (tmp_path, "task"))
        wait_until(lambda: began(tmp_path), "the task began")
        worker = holder(two_workers)
        children = worker.descendants()
        worker.kill()
        wait_until(lambda: len(began(tmp_path)) == 2, "the task began again", 5.0)
        wait_until(lambda: not any(map(_alive, children)), "the first delivery's process ended", 5.0)
        (tmp_path / "go").touch()
        outcome.get(DEADLINE)
    assert len(ended(tmp_path)) == 1
    assert two_workers.statistics()["redelivered"] == 1


def test_a_job_ends_with_every_result_although_its_workers_are_killed_one_after_another(cluster: Cluster) -> None:
    cluster.start_master()
    worker = cluster.start_worker("w0")
    with cluster.pool() as pool:
        outcome = pool.map_async(tasks.sleep, [0.005 + n / 1e6 for n in range(600)])
        for number in range(1, 5):
            wait_until(lambda at=number * 80: cluster.statistics()["done"] > at, "the job goes on")  # type: ignore[misc]
            successor = cluster.start_worker(f"w{number}")
            worker.kill()
            worker = successor
        assert outcome.get(DEADLINE) == [0.005 + n / 1e6 for n in range(600)]
    statistics = cluster.statistics()
    assert (statistics["submitted"], statistics["done"], statistics["dead"]) == (600, 600, 0)


def test_a_task_that_three_workers_died_of_is_given_up_with_the_reason_of_each(
    cluster: Cluster, tmp_path: Path
) -> None:
    cluster.start_master()
    with cluster.pool() as pool:
        outcome = pool.apply_async(tasks.mark_and_wait, (tmp_path, "task"))
        for number in (1, 2, 3):
            worker = cluster.start_worker(f"w{number}")
            wait_until(lambda at=number: len(began(tmp_path)) == at, "the task began")  # type: ignore[misc]
            worker.kill()
        with pytest.raises(multihost.WorkerDied) as caught:
            outcome.get(DEADLINE)
    assert [f"worker w{n} was lost" in loss for n, loss in enumerate(caught.value.losses, 1)] == [True] * 3


def square_or_kill_the_worker(number: int) -> int:
    """The one that kills lets its neighbour end a few before, so that the worker holds as many as it ever does."""
    time.sleep(0.001 if number else 0.015)
    if number == 0:
        # Ours is the warden, its is the fork server, and the parent of that is the worker.
        os.kill(parent_of(parent_of(os.getppid())), signal.SIGKILL)
        signal.pause()
    return number * number


def test_tasks_that_waited_behind_one_that_kills_each_worker_have_their_results(cluster: Cluster) -> None:
    cluster.start_master()
    # With one slot nothing else runs where the killer does: what runs beside it each time is given up with it.
    with cluster.pool() as pool:
        outcomes = [pool.apply_async(square_or_kill_the_worker, (number,)) for number in range(300)]
        for number in (1, 2, 3):
            worker = cluster.start_worker(f"w{number}", slots=1)
            wait_until(lambda program=worker: not program.running, "the worker was killed")  # type: ignore[misc]
        cluster.start_worker("w4", slots=1)
        with pytest.raises(multihost.WorkerDied):
            outcomes[0].get(DEADLINE)
        assert [outcome.get(DEADLINE) for outcome in outcomes[1:]] == [n * n for n in range(1, 300)]


def test_the_children_of_a_killed_worker_are_gone_soon_after(two_workers: Cluster, tmp_path: Path) -> None:
    with two_workers.pool() as pool:
        pool.apply_async(tasks.mark_and_wait, (tmp_path, "task"))
        wait_until(lambda: began(tmp_path), "the task began")
        worker = holder(two_workers)
        children = worker.descendants()
        assert len(children) >= 2, "a fork server and a slot"
        worker.kill()
        wait_until(lambda: not any(map(_alive, children)), "the children ended", 5.0)


def test_a_frozen_workers_task_runs_elsewhere_and_its_late_outcome_changes_nothing(
    two_workers: Cluster, tmp_path: Path
) -> None:
    with two_workers.pool() as pool:
        outcome = pool.apply_async(tasks.mark_and_wait, (tmp_path, "task"))
        wait_until(lambda: began(tmp_path), "the task began")
        frozen = holder(two_workers)
        frozen.stop()
        wait_until(lambda: len(began(tmp_path)) == 2, "the task began again", 10.0)
        (tmp_path / "go").touch()
        # The frozen worker's child is not frozen: it ends, too, and its outcome waits for the worker.
        wait_until(lambda: len(ended(tmp_path)) == 2, "both runs ended")
        second = max(began(tmp_path), key=lambda mark: int(mark.name.split(".")[3]))
        assert outcome.get(DEADLINE) == int(second.name.split(".")[2])
        frozen.cont()
        wait_until(lambda: two_workers.worker(frozen.name), "the thawed worker came back")
        assert two_workers.statistics()["done"] == 1
        for other in two_workers.programs[1:]:
            if other is not frozen:
                other.kill()
        assert pool.map(tasks.square, range(10), chunksize=1) == [x * x for x in range(10)]
    assert two_workers.statistics()["done"] == 11


def test_a_worker_that_freezes_for_less_than_the_lease_timeout_keeps_its_task(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start_master()
    worker = cluster.start_worker()
    with cluster.pool() as pool:
        outcome = pool.apply_async(tasks.mark_and_wait, (tmp_path, "task"))
        wait_until(lambda: began(tmp_path), "the task began")
        worker.stop()
        (tmp_path / "go").touch()
        wait_until(lambda: ended(tmp_path), "the task ended")
        worker.cont()
        outcome.get(DEADLINE)
    assert cluster.statistics()["redelivered"] == 0


# --- workers that are told to stop -----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_told_to_stop_finishes_its_task_and_exits_with_0(
    two_workers: Cluster, tmp_path: Path, number: signal.Signals
) -> None:
    with two_workers.pool() as pool:
        outcome = pool.apply_async(tasks.mark_and_wait, (tmp_path, "task"))
        wait_until(lambda: began(tmp_path), "the task began")
        worker = holder(two_workers)
        worker.process.send_signal(number)
        wait_until(lambda: (w := two_workers.worker(worker.name)) and w["state"] == "draining", "the worker drains")
        assert pool.apply(tasks.square, (3,)) == 9, "the other worker goes on"
        (tmp_path / "go").touch()
        outcome.get(DEADLINE)
        assert worker.wait() == 0
    assert len(began(tmp_path)) == 1, "it ran once"
    assert two_workers.statistics()["redelivered"] == 0


def test_a_drain_that_takes_too_long_gives_the_task_back_unpenalised(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start_master()
    worker = cluster.start_worker("w1", MULTIHOST_DRAIN_TIMEOUT="0.3")
    with cluster.pool() as pool:
        outcome = pool.apply_async(tasks.mark_and_wait, (tmp_path, "task"))
        wait_until(lambda: began(tmp_path), "the task began")
        cluster.start_worker("w2")
        worker.term()
        assert worker.wait() == 0
        wait_until(lambda: len(began(tmp_path)) == 2, "the task began again")
        (tmp_path / "go").touch()
        outcome.get(DEADLINE)
    assert len(ended(tmp_path)) == 1
    assert cluster.statistics()["redelivered"] == 0


def test_a_second_sigterm_gives_the_task_back_at_once(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start_master()
    worker = cluster.start_worker("w1")  # its drain may take 60 seconds
    with cluster.pool() as pool:
        outcome = pool.apply_async(tasks.mark_and_wait, (tmp_path, "task"))
        wait_until(lambda: began(tmp_path), "the task began")
        worker.term()
        worker.wait_for_log("draining")
        worker.term()
        assert worker.wait(10.0) == 0
        cluster.start_worker("w2")
        (tmp_path / "go").touch()
        outcome.get(DEADLINE)
    assert cluster.statistics()["redelivered"] == 0


def test_workers_that_come_and_go_in_mid_job_cost_no_task_a_delivery(cluster: Cluster) -> None:
    cluster.start_master()
    worker = cluster.start_worker("w0")
    with cluster.pool() as pool:
        outcome = pool.map_async(tasks.sleep, [0.002] * 1500, chunksize=1)
        for number in range(1, 6):
            wait_until(lambda at=number * 100: cluster.statistics()["done"] > at, "the job goes on")  # type: ignore[misc]
            successor = cluster.start_worker(f"w{number}")
            worker.term()
            assert worker.wait() == 0
            worker = successor
        assert outcome.get(DEADLINE) == [0.002] * 1500
    statistics = cluster.statistics()
    assert (statistics["done"], statistics["redelivered"], statistics["stale"]) == (1500, 0, 0)


def test_a_task_granted_while_its_worker_begins_to_drain_costs_no_delivery(cluster: Cluster) -> None:
    master, worker = cluster.start_master(), cluster.start_worker("w1")
    with cluster.pool() as pool:
        pool.apply(tasks.square, (1,))
        master.stop()  # so that it hears of the task first, and of the drain when it has granted it
        outcome = pool.apply_async(tasks.square, (2,))
        worker.term()
        worker.wait_for_log("draining")
        master.cont()
        assert worker.wait() == 0
        cluster.start_worker("w2")
        assert outcome.get(DEADLINE) == 4
    assert cluster.statistics()["redelivered"] == 0


def test_an_idle_worker_and_an_idle_master_stop_at_once_with_0(cluster: Cluster) -> None:
    master, worker = cluster.start_master(), cluster.start_worker()
    for program in (worker, master):
        program.term()
        assert program.wait(5.0) == 0
    assert "drained and stopped" in worker.log()
    assert master.log().rstrip().endswith("stopped")


def test_a_worker_without_a_master_stops_at_once(cluster: Cluster) -> None:
    worker = cluster.start_worker(wait=False)
    worker.wait_for_log("not there yet")
    worker.term()
    assert worker.wait(5.0) == 0


def test_a_master_stops_while_clients_wait_in_get_and_peers_are_connected(cluster: Cluster, tmp_path: Path) -> None:
    master = cluster.start_master()
    worker = cluster.start_worker(MULTIHOST_CONNECT_TIMEOUT="1")
    getter = cluster.start_python(Path(__file__).parent / "stock" / "getter.py")
    getter.wait_for_log("asked")
    with cluster.pool() as pool:
        pool.apply_async(tasks.mark_and_wait, (tmp_path, "task"))
        wait_until(lambda: began(tmp_path), "the task began")
        master.interrupt()
        assert master.wait(5.0) == 0
    assert getter.wait() == 1, "the client learns that the connection is gone"
    getter.log_file.write_text("EOFError, as it must be")
    assert worker.wait() == 69


# --- masters that are restarted --------------------------------------------------------------------------------


def test_after_a_restart_of_an_idle_master_worker_and_pool_go_on(cluster: Cluster) -> None:
    cluster.start_master()
    cluster.start_worker()
    with cluster.pool() as pool:
        assert pool.apply(tasks.square, (2,)) == 4
        cluster.master.kill()
        cluster.start_master()
        assert pool.map(tasks.square, range(20)) == [x * x for x in range(20)]
    wait_until(lambda: cluster.worker("w1"), "the worker came back")


@pytest.mark.parametrize("restarts", [1, 3])
def test_a_job_goes_on_after_the_master_was_killed_and_restarted(cluster: Cluster, restarts: int) -> None:
    cluster.start_master()
    cluster.start_worker()
    with cluster.pool() as pool:
        outcome = pool.map_async(tasks.sleep, [0.005 + n / 1e6 for n in range(400)])
        for _ in range(restarts):
            wait_until(lambda: cluster.statistics()["done"] > 20, "the job goes on")
            cluster.master.kill()
            cluster.start_master()
        assert outcome.get(DEADLINE) == [0.005 + n / 1e6 for n in range(400)]


def test_a_frozen_master_costs_no_task_a_delivery(cluster: Cluster) -> None:
    master = cluster.start_master(MULTIHOST_LEASE_TIMEOUT="3")
    cluster.start_worker()
    with cluster.pool() as pool:
        outcome = pool.map_async(tasks.sleep, [0.01] * 300)
        wait_until(lambda: cluster.statistics()["done"] > 20, "the job goes on")
        master.stop()
        with contextlib.suppress(multihost.TimeoutError):
            outcome.get(1.5)
        master.cont()
        assert outcome.get(DEADLINE) == [0.01] * 300
    assert cluster.statistics()["redelivered"] == 0


def test_a_pool_made_before_its_master_waits_for_it(cluster: Cluster) -> None:
    client = cluster.start_python("-c", "import multihost; print(multihost.Pool().apply(abs, (-1,)))")
    client.wait_for_log("is not there yet")
    cluster.start_master()
    cluster.start_worker()
    assert client.wait() == 0
    assert client.log().endswith("1\n")


def test_a_pool_whose_master_never_comes_back_fails_its_tasks(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MULTIHOST_CONNECT_TIMEOUT", "1")
    cluster.start_master()
    with cluster.pool() as pool:
        outcome = pool.apply_async(tasks.square, (2,))
        wait_until(lambda: cluster.statistics()["queued"], "the task is queued")
        cluster.master.kill()
        with pytest.raises(multihost.MasterUnreachable, match=str(cluster.address)):
            outcome.get(DEADLINE)
        with pytest.raises(multihost.MasterUnreachable):
            pool.apply(tasks.square, (2,))


def test_a_pool_whose_master_comes_back_with_another_key_fails_its_tasks(cluster: Cluster) -> None:
    cluster.start_master()
    with cluster.pool() as pool:
        outcome = pool.apply_async(tasks.square, (2,))
        wait_until(lambda: cluster.statistics()["queued"], "the task is queued")
        cluster.master.kill()
        cluster.authkey = "another"
        cluster.start_master()
        with pytest.raises(AuthenticationError):
            outcome.get(DEADLINE)


# --- clients that die ------------------------------------------------------------------------------------------


def test_a_killed_clients_session_ends_and_its_tasks_are_cancelled(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start_master(MULTIHOST_SESSION_TIMEOUT="1")
    cluster.start_worker(slots=1)
    text = "import multihost, time; multihost.Pool().map(time.sleep, [100] * 10, chunksize=1)"
    client = cluster.start_python("-c", text)
    cluster.wait_for(submitted=10)
    wait_until(lambda: cluster.statistics()["leased"], "the job runs")
    client.kill()
    statistics = cluster.wait_for(sessions=0)
    assert (statistics["queued"], statistics["leased"], statistics["cancelled"]) == (0, 0, 10)
    with cluster.pool() as pool:  # the slot is free: what ran there was stopped
        assert pool.apply(tasks.square, (2,)) == 4


def test_a_client_frozen_for_a_while_collects_what_it_missed(cluster: Cluster) -> None:
    cluster.start_master(MULTIHOST_SESSION_TIMEOUT="1")
    cluster.start_worker()
    text = "import multihost, time; print(multihost.Pool().map(time.sleep, [0.01] * 100, 1) == [None] * 100)"
    client = cluster.start_python("-c", text)
    cluster.wait_for(submitted=100)
    wait_until(lambda: cluster.statistics()["done"], "the job runs")
    client.stop()
    cluster.wait_for(done=100)
    client.cont()
    assert client.wait() == 0
    assert client.log() == "True\n"


# --- starts ----------------------------------------------------------------------------------------------------


def test_a_worker_started_before_its_master_joins_when_it_comes(cluster: Cluster) -> None:
    worker = cluster.start_worker(wait=False)
    worker.wait_for_log("not there yet")
    cluster.start_master()
    wait_until(lambda: cluster.worker("w1"), "the worker joined")


def test_a_worker_without_any_master_exits_with_69(cluster: Cluster) -> None:
    worker = cluster.start_worker(wait=False, MULTIHOST_CONNECT_TIMEOUT="1")
    assert worker.wait() == 69
    assert f"no master answered at {cluster.address} within 1 s" in worker.log()


def test_a_second_master_on_the_same_address_exits_with_71(cluster: Cluster) -> None:
    cluster.start_master()
    second = cluster.start_python(MASTER)
    assert second.wait() == 71
    assert f"cannot listen on {cluster.address}: Address already in use" in second.log()
    cluster.statistics()


def test_a_pool_without_a_worker_says_so_and_goes_on_when_one_comes(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.start_master()
    with cluster.pool() as pool:
        outcome = pool.apply_async(tasks.square, (3,))
        wait_until(lambda: "no worker is connected" in caplog.text, "the client says that no worker is there")
        cluster.start_worker()
        assert outcome.get(DEADLINE) == 9
        wait_until(lambda: "a worker joined" in caplog.text, "the client says that one came")


def test_workers_of_one_name_are_two_workers(cluster: Cluster) -> None:
    cluster.start_master()
    for _ in range(2):
        cluster.start_worker("twin", slots=1, wait=False)
    wait_until(lambda: len(cluster.statistics()["workers"]) == 2, "both joined")
    with cluster.pool() as pool:
        assert len(set(pool.map(tasks.sleep, [0.01 + n / 1e6 for n in range(20)]))) == 20


# --- settings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", [MASTER, WORKER], ids=["master", "worker"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MULTIHOST_ADDRESS", "localhost:port"),
        ("MULTIHOST_ADDRESS", "5000"),
        ("MULTIHOST_ADDRESS", "localhost:70000"),
        ("MULTIHOST_SLOTS", "0"),
        ("MULTIHOST_LEASE_TIMEOUT", "soon"),
        ("MULTIHOST_LOG_FORMAT", "xml"),
        ("MULTIHOST_MAX_PAYLOAD", "1GB"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_78_and_names_the_variable(
    cluster: Cluster, program: Path, name: str, value: str
) -> None:
    started = cluster.start("program", *_python(program), cwd=None, **{name: value})
    assert started.wait() == 78
    assert started.log().startswith(f"{program.stem}: {name} must be ")
    assert repr(value) in started.log()
    assert len(started.log().splitlines()) == 1


def test_an_unknown_host_name_ends_in_a_message(cluster: Cluster) -> None:
    settings = {"MULTIHOST_ADDRESS": "nowhere.invalid:5000", "MULTIHOST_CONNECT_TIMEOUT": "1"}
    worker = cluster.start("worker", *_python(WORKER), cwd=None, **settings)
    assert worker.wait() == 69
    assert "no master answered at nowhere.invalid:5000" in worker.log()
    master = cluster.start("other", *_python(MASTER), cwd=None, **settings)
    assert master.wait() == 71
    assert "cannot listen on nowhere.invalid:5000" in master.log()


def test_an_unknown_variable_is_a_warning_that_names_the_nearest_one(cluster: Cluster) -> None:
    master = cluster.start_master(MULTIHOST_LEASE_TIMEOUTS="3")
    worker = cluster.start_worker(MULTIHOST_SLOT="3")
    assert "WARNING MULTIHOST_LEASE_TIMEOUTS is not a setting" in master.log()
    assert "did you mean MULTIHOST_LEASE_TIMEOUT?" in master.log()
    assert "did you mean MULTIHOST_SLOTS?" in worker.log()


def test_the_json_log_has_one_object_a_line(cluster: Cluster, tmp_path: Path) -> None:
    settings = {"MULTIHOST_LOG_FORMAT": "json", "MULTIHOST_LOG_LEVEL": "debug"}
    master = cluster.start_master(**settings)
    worker = cluster.start_worker("w1", **settings)  # type: ignore[arg-type]
    with cluster.pool() as pool:
        pool.apply(tasks.die_once, (tmp_path / "mark",))
    worker.term()
    worker.wait()
    master.term()
    master.wait()
    for program in (master, worker):
        lines = [json.loads(line) for line in program.log().splitlines()]
        assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    events = [json.loads(line) for line in master.log().splitlines()]
    assert any(line.get("event") == "serving" for line in events)
    assert any(line.get("worker") == "w1" and line.get("slots") == 2 for line in events)
    assert any(line["level"] == "warning" and "SIGKILL" in line["message"] for line in events)


def _python(program: Path) -> tuple[str, str]:
    return sys.executable, str(program)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie is as good as gone; its parent is the machine's init.
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    return False

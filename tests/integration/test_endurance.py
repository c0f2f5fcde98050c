"""What lasts, comes back, or is there at a bad moment: nobody else suffers, and nothing is left over."""

import contextlib
import itertools
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

import multihost
from multihost.errors import ProtocolError
from multihost.settings import Address
from multihost.wire.messages import PROTOCOL_VERSION
from tests.integration import hard_tasks, tasks
from tests.integration.clients import authenticated, stock_queues
from tests.integration.cluster import DEADLINE, MASTER, WORKER, Cluster, Program, wait_until

# A clock that anybody may have set, a day or an hour to either side, twice a second.
JUMPING_CLOCK = """
import time
_time = time.time
_jumps = (0, 3600, -3600, 86400, -86400)
def _jumping():
    return _time() + _jumps[int(time.monotonic() * 2) % len(_jumps)]
time.time = _jumping
"""
OTHER_VERSION = f"""
import runpy
from multihost.wire import messages
messages.PROTOCOL_VERSION += 1
runpy.run_path({str(WORKER)!r}, run_name="__main__")
"""


def runs(file: Path) -> list[int]:
    """What ``note_turn`` noted, sorted."""
    return sorted(int(line) for line in file.read_text().split())


# --- workers and tasks -----------------------------------------------------------------------------------------


def test_a_worker_that_crashes_again_and_again_does_not_keep_the_others_from_work(cluster: Cluster) -> None:
    cluster.start_master()
    cluster.start_worker("steady")
    with cluster.pool() as pool:
        outcome = pool.map_async(tasks.sleep, [0.01 + n / 1e7 for n in range(600)], chunksize=1)
        for _ in range(8):
            cluster.start_worker("flapping").kill()
        assert outcome.get(DEADLINE) == [0.01 + n / 1e7 for n in range(600)]
    statistics = cluster.statistics()
    assert (statistics["done"], statistics["dead"]) == (600, 0)


def test_a_task_that_holds_the_gil_beyond_the_lease_keeps_it(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start_master(MULTIHOST_LEASE_TIMEOUT="1")
    cluster.start_worker(slots=2)
    began = tmp_path / "began"
    began.mkdir()
    with cluster.pool() as pool:
        outcome = pool.apply_async(hard_tasks.hold_the_gil, (str(began), 3.0))
        wait_until(lambda: [*began.iterdir()], "the task began")
        assert pool.map(tasks.square, range(50), chunksize=1) == [x * x for x in range(50)], "the other slot works"
        outcome.get(DEADLINE)
    assert len([*began.iterdir()]) == 1
    assert cluster.statistics()["redelivered"] == 0


def test_a_task_that_prints_without_end_is_stopped_by_its_timeout_and_its_neighbours_are_served(
    cluster: Cluster,
) -> None:
    cluster.start_master()
    # To nowhere: what a task prints is in its worker's own output, too, as long as it prints.
    worker = cluster.start("w1", "sh", "-c", 'exec "$0" "$1" >/dev/null', sys.executable, WORKER, cwd=None)
    wait_until(lambda: cluster.statistics()["workers"], "the worker joined")
    with cluster.pool() as pool:
        outcome = pool.options(timeout=1.0).apply_async(hard_tasks.print_for_ever, ())
        assert pool.map(tasks.square, range(50), chunksize=1) == [x * x for x in range(50)]
        with pytest.raises(multihost.TaskTimeout):
            outcome.get(DEADLINE)
        assert pool.apply(tasks.square, (3,)) == 9
    assert worker.running


def test_a_worker_keeps_nothing_of_what_went_wrong_in_it(cluster: Cluster) -> None:
    cluster.start_master()
    worker = cluster.start_worker()

    def trouble() -> None:
        with cluster.pool() as pool:
            for number in (signal.SIGKILL, signal.SIGSEGV):
                with pytest.raises(multihost.WorkerDied):
                    pool.apply(tasks.kill_itself, (number,))
            with pytest.raises(multihost.TaskTimeout):
                pool.options(timeout=0.05).apply(tasks.sleep, (100.0,))
            running = pool.apply_async(tasks.sleep, (100.0,))
            wait_until(lambda: cluster.statistics()["leased"], "it runs")
            running.terminate()
        wait_until(lambda: cluster.statistics()["sessions"] == 0, "the session ended")

    def kept() -> tuple[int, int]:
        return len(os.listdir(f"/proc/{worker.pid}/fd")), len(worker.descendants())

    trouble()
    files, children = kept()
    for _ in range(5):
        trouble()
    wait_until(
        lambda: all(now <= before for now, before in zip(kept(), (files, children), strict=True)),
        f"the worker was back at {files} open files and {children} processes",
    )


# --- the master ------------------------------------------------------------------------------------------------


def test_a_master_told_to_stop_in_mid_job_goes_on_where_it_was(lasting: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "ran"
    lasting.start_master()
    lasting.start_worker()
    with lasting.pool() as pool:
        outcome = pool.map_async(tasks.note_turn, [(str(file), n) for n in range(600)], 1)
        for count in (50, 250):
            wait_until(lambda at=count: file.exists() and len(runs(file)) > at, "the job goes on")  # type: ignore[misc]
            master = lasting.master
            master.term()
            assert master.wait(5.0) == 0
            lasting.start_master()
        assert outcome.get(DEADLINE) == list(range(600))
    assert runs(file) == list(range(600))
    assert lasting.statistics()["redelivered"] == 0


def test_clocks_that_jump_cost_no_task_a_delivery(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "journal").mkdir()
    (tmp_path / "sitecustomize.py").write_text(JUMPING_CLOCK)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    with Cluster(tmp_path / "logs", PYTHONPATH=path, MULTIHOST_JOURNAL=str(tmp_path / "journal")) as cluster:
        cluster.start_master(MULTIHOST_LEASE_TIMEOUT="2", MULTIHOST_SESSION_TIMEOUT="2")
        cluster.start_worker()
        file = tmp_path / "ran"
        with cluster.pool() as pool:
            outcome = pool.map_async(tasks.note_turn, [(str(file), n) for n in range(1000)], 1)
            wait_until(lambda: file.exists() and len(runs(file)) > 300, "the job goes on")
            cluster.master.kill()
            cluster.start_master(MULTIHOST_LEASE_TIMEOUT="2", MULTIHOST_SESSION_TIMEOUT="2")
            assert outcome.get(DEADLINE) == list(range(1000))
            clock = pool.map(hard_tasks.clock, [0.11] * 30, chunksize=1)
            assert max(clock) - min(clock) > 3000, "the clocks did jump"
            assert pool.options(retries=2).apply(tasks.fail_at_first, (tmp_path / "calls", 2)) == 3
        assert runs(file) == list(range(1000))
        assert cluster.statistics()["redelivered"] == 0


def test_a_damaged_journal_stops_the_start_and_the_command_it_names_mends_it(lasting: Cluster, tmp_path: Path) -> None:
    lasting.start_master()
    queue, _ = stock_queues(lasting)
    for number in range(20):
        queue.put(number)
    lasting.master.kill()
    journal = tmp_path / "journal" / "journal"
    content = bytearray(journal.read_bytes())
    place = content.rindex(b"get_task_queue")
    content[place] ^= 4
    journal.write_bytes(content)
    master = lasting.start_python(Path(__file__).parents[2] / "master" / "task_master.py")
    assert master.wait() == 74
    assert "is damaged at row" in master.log()
    command = next(line for line in master.log().splitlines() if "multihost.broker.repair" in line)
    assert str(tmp_path / "journal") in command
    assert "kept" in lasting.run("-m", "multihost.broker.repair", str(tmp_path / "journal"))
    lasting.start_master()
    queue, _ = stock_queues(lasting)
    assert [queue.get(timeout=10) for _ in range(19)] == list(range(19)), "all but the damaged one"


# --- clients ---------------------------------------------------------------------------------------------------


def test_a_client_that_does_not_read_its_results_holds_up_nobody(cluster: Cluster) -> None:
    cluster.start_master()
    cluster.start_worker()
    text = "import multihost; print(sum(map(len, multihost.Pool().map(bytes, [10_000] * 3000, chunksize=1))))"
    client = cluster.start_python("-c", text)
    wait_until(lambda: cluster.statistics()["done"] > 10, "its job runs")
    client.stop()
    with cluster.pool() as pool:
        assert pool.map(tasks.square, range(2000), chunksize=1) == [x * x for x in range(2000)]
    cluster.wait_for(queued=0, leased=0)
    client.cont()
    assert client.wait() == 0
    assert client.log() == "30000000\n"


def test_what_waits_for_a_client_that_does_not_read_is_bounded_and_nothing_of_it_is_lost(tmp_path: Path) -> None:
    with Cluster(tmp_path, MULTIHOST_MAX_RESULT_BYTES="1000000") as cluster:
        cluster.start_master()
        cluster.start_worker()
        # Slow enough that a worker does not lease all of them at once.
        text = (
            "import multihost, time\n"
            "slow = lambda size: time.sleep(0.002) or bytes(size)\n"
            "print(sum(map(len, multihost.Pool().map(slow, [10_000] * 3000, chunksize=1))))"
        )
        client = cluster.start_python("-c", text)
        wait_until(lambda: cluster.statistics()["done"] > 10, "its job runs")
        client.stop()
        cluster.master.wait_for_log("bytes of results wait to be read by")
        wait_until(lambda: cluster.statistics()["leased"] == 0, "what was leased has ended")
        waiting = cluster.statistics()["queued"]
        assert waiting
        with cluster.pool() as pool:
            assert pool.map(tasks.square, range(2000), chunksize=1) == [x * x for x in range(2000)]
        assert cluster.statistics()["queued"] == waiting
        client.cont()
        assert client.wait() == 0
        assert client.log() == "30000000\n"


# --- names -----------------------------------------------------------------------------------------------------


def test_a_name_that_cannot_be_looked_up_for_a_while_is_tried_again(
    shared_cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    known, failures = socket.getaddrinfo, itertools.count(1)

    def look_up(host: str, *arguments: object, **keywords: object) -> object:
        if host == "the-master" and next(failures) <= 3:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return known("127.0.0.1" if host == "the-master" else host, *arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    address = f"the-master:{shared_cluster.address.port}"
    with multihost.Pool(address=address, authkey=shared_cluster.authkey) as pool:
        assert pool.apply(tasks.square, (3,)) == 9
    assert next(failures) == 5, "three times in vain, and once more"
    assert caplog.text.count("is not there yet (") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a worker a hosts file of its own")
def test_a_master_that_comes_back_under_another_address_of_its_name_is_found(
    lasting: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost the-master\n")
    known = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *arguments, **keywords: known(
            lasting.address.host if host == "the-master" else host, *arguments, **keywords
        ),
    )
    lasting.start_master()
    name = f"the-master:{lasting.address.port}"
    inside = ("unshare", "--mount", "sh", "-c", f'mount --bind {hosts} /etc/hosts && exec "$0" "$@"')
    settings = {"MULTIHOST_ADDRESS": name, "MULTIHOST_NAME": "w1"}
    lasting.start("w1", *inside, sys.executable, WORKER, cwd=None, **settings)
    wait_until(lambda: lasting.worker("w1"), "the worker joined")
    file = tmp_path / "ran"
    with multihost.Pool(address=name, authkey=lasting.authkey) as pool:
        outcome = pool.map_async(tasks.note_turn, [(str(file), n) for n in range(600)], 1)
        wait_until(lambda: file.exists() and len(runs(file)) > 100, "the job goes on")
        lasting.master.kill()
        lasting.address = Address("127.0.0.2", lasting.address.port)
        hosts.write_text("127.0.0.1 localhost\n127.0.0.2 the-master\n")
        lasting.start_master()
        assert outcome.get(DEADLINE) == list(range(600))
    assert runs(file) == list(range(600))


# --- strangers of another version ------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["client", "worker", "monitor"])
@pytest.mark.parametrize("other", [PROTOCOL_VERSION - 1, PROTOCOL_VERSION + 1])
def test_a_peer_of_another_version_is_refused_with_both_versions(
    shared_cluster: Cluster, role: str, other: int
) -> None:
    with authenticated(shared_cluster) as connection:
        connection.send((None, "hello", (role, {"version": other, "python": "3.11"}), {}))
        kind, text = connection.recv()
    assert kind == "#ERROR"
    assert f"the master speaks version {PROTOCOL_VERSION} of the link protocol, this {role} {other}" in text


def test_a_worker_of_another_version_ends_and_says_why(shared_cluster: Cluster) -> None:
    worker = shared_cluster.start_python("-c", OTHER_VERSION, MULTIHOST_NAME="other")
    assert worker.wait() == 69
    assert "run the same version of multihost on both" in worker.log()
    assert shared_cluster.worker("other") is None


def test_a_client_of_another_version_gets_a_typed_refusal_at_once(
    shared_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multihost.wire.messages.PROTOCOL_VERSION", PROTOCOL_VERSION + 1)
    begun = time.monotonic()
    with pytest.raises(ProtocolError, match="run the same version of multihost on both"):
        multihost.Pool(address=str(shared_cluster.address), authkey=shared_cluster.authkey)
    assert time.monotonic() - begun < 15, "it tried again in vain"


@pytest.fixture
def other_release(tmp_path: Path) -> str:
    """A PYTHONPATH on which multihost is another release, with the same protocol."""
    package = tmp_path / "other" / "multihost"
    shutil.copytree(Path(multihost.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    init = package / "__init__.py"
    text = init.read_text()
    assert f'"{multihost.__version__}"' in text
    init.write_text(text.replace(f'"{multihost.__version__}"', '"99.9"'))
    return os.pathsep.join(filter(None, [str(package.parent), os.environ.get("PYTHONPATH")]))


def test_releases_of_one_protocol_take_over_from_each_other_while_work_goes_on(
    lasting: Cluster, tmp_path: Path, other_release: str
) -> None:
    file, release = tmp_path / "ran", "__import__('multihost').__version__"
    lasting.start_master()
    old = lasting.start_worker("old")
    with lasting.pool() as pool:
        assert pool.apply(eval, (release,)) == multihost.__version__
        outcome = pool.map_async(tasks.note_turn, [(str(file), n) for n in range(900)], 1)
        _wait_for_runs(file, 50)
        lasting.start_worker("new", PYTHONPATH=other_release)
        _wait_for_runs(file, 200)
        _stop(old)
        _wait_for_runs(file, 400)
        _stop(lasting.master)
        lasting.start_master(PYTHONPATH=other_release)
        text = f"import multihost; print({release}, multihost.Pool().apply(eval, ({release!r},)))"
        # Its worker may not be back yet, of which the program says a line.
        assert lasting.run("-c", text, PYTHONPATH=other_release).splitlines()[-1] == "99.9 99.9"
        assert outcome.get(DEADLINE) == list(range(900))
        assert pool.apply(eval, (release,)) == "99.9", "this program is of the old one"
    assert runs(file) == list(range(900))
    assert lasting.statistics()["redelivered"] == 0


def _wait_for_runs(file: Path, count: int) -> None:
    wait_until(lambda: file.exists() and len(runs(file)) >= count, "the job goes on")


def _stop(program: Program) -> None:
    program.term()
    assert program.wait() == 0


# --- strangers that come and go --------------------------------------------------------------------------------


def test_connections_that_come_and_go_without_a_word_do_not_hinder_a_client(cluster: Cluster) -> None:
    master: Program = cluster.start_master()
    queue, _ = stock_queues(cluster)
    for number in range(50):
        for _ in range(40):
            socket.create_connection(cluster.address.pair, timeout=10).close()
        queue.put(number)
        assert queue.get(timeout=10) == number
    assert master.log().count("refused a connection") < 5


def test_more_connections_than_the_master_may_open_cost_one_line_and_nobody_who_is_there(cluster: Cluster) -> None:
    limited = ("sh", "-c", 'ulimit -n 80; exec "$0" "$1"')
    master = cluster.start("master", *limited, sys.executable, MASTER, cwd=None)
    master.wait_for_log("serving on")
    cluster.start_worker()
    with cluster.pool() as pool, contextlib.ExitStack() as stack:
        assert pool.apply(tasks.square, (3,)) == 9
        for _ in range(60):  # with the key
            stack.enter_context(authenticated(cluster))
        for _ in range(40):  # the kernel takes them, nobody answers
            stack.enter_context(socket.create_connection(cluster.address.pair, timeout=10))
        master.wait_for_log("no file descriptor is left")
        assert pool.map(tasks.square, range(100), chunksize=1) == [x * x for x in range(100)]
    wait_until(lambda: cluster.statistics()["sessions"] == 0, "newcomers are let in again")
    assert master.log().count("no file descriptor is left") < 4

"""The compose file: any number of workers, the main job on them, and what a container may do."""

import re
import signal
import subprocess
from collections import Counter
from pathlib import Path

from tests.acceptance.cluster import DEADLINE, ROOT, Cluster, host_name, in_container, wait_until
from tests.acceptance.conftest import ClusterMaker


def test_four_workers_become_healthy_and_the_master_knows_them(cluster: Cluster) -> None:
    cluster.scale(workers=4)
    for container in [cluster.master, *cluster.workers]:
        cluster.wait_for_health(container, "healthy")
    assert in_container(cluster.master, "python", "master/health.py") == (0, "healthy: 4 workers, 0 tasks queued")
    known = {worker["name"] for worker in cluster.statistics()["workers"]}
    assert known == {host_name(worker) for worker in cluster.workers}


def test_the_main_job_prints_ten_right_results_and_every_worker_takes_part(cluster: Cluster) -> None:
    cluster.scale(workers=4)
    logs_before = {worker.name: len(worker.logs()) for worker in cluster.workers}

    lines = cluster.run_job().splitlines()

    put, results = lines[:10], lines[11:]
    numbers = [int(re.fullmatch(r"Put task (\d+)\.\.\.", line)[1]) for line in put]  # type: ignore[index]
    assert lines[10] == "Try get results..."
    assert sorted(results) == sorted(f"Result: {n} * {n} = {n * n}" for n in numbers)
    ran: Counter[str] = Counter()
    for worker in cluster.workers:
        log = worker.logs()[logs_before[worker.name] :].decode().splitlines()
        ran_here = [line for line in log if line.startswith("run task")]
        assert ran_here, f"{worker.name} took no part"
        ran.update(ran_here)
    assert ran == Counter(f"run task {n} * {n}..." for n in numbers)


def test_docker_compose_up_alone_shows_the_results_and_ctrl_c_ends_it(
    make_cluster: ClusterMaker, tmp_path: Path
) -> None:
    cluster = make_cluster()
    log = tmp_path / "up.log"
    command = ["docker", "compose", "up", "--build", "--no-color", "--scale", "worker=3"]
    with log.open("wb") as output:
        up = subprocess.Popen(command, cwd=ROOT, env=cluster.environ, stdout=output, stderr=output)
    try:
        wait_until(lambda: log.read_text().count("Result: ") == 10, "the ten results were shown")
        assert up.poll() is None, "the job's end ended the cluster"
        up.send_signal(signal.SIGINT)
        up.wait(DEADLINE)
    finally:
        up.kill()
    assert cluster.workers == []
    assert {worker.attrs["State"]["ExitCode"] for worker in cluster.containers("worker")} == {0}
    assert cluster.master.attrs["State"]["ExitCode"] == 0


def test_a_job_without_workers_says_so_and_goes_on_when_one_comes(cluster: Cluster) -> None:
    cluster.scale(workers=0)
    job = cluster.start_job()
    wait_until(lambda: "no worker is connected" in job.errors(), "the job said that there is no worker")
    assert job.output().splitlines()[-1] == "Try get results..."

    cluster.scale(workers=1)

    assert job.succeed().count("Result: ") == 10
    assert "a worker joined" in job.errors()


def test_workers_added_and_removed_during_a_job_cost_no_task_and_repeat_none(cluster: Cluster) -> None:
    cluster.scale(workers=2)
    count = 150
    job = cluster.start_ledger_job(count, seconds=0.4)
    wait_until(lambda: len(job.ledger().workers) == 2, "both workers took part")

    cluster.scale(workers=5)
    wait_until(lambda: len(job.ledger().workers) == 5, "the added workers took part")
    cluster.scale(workers=1)

    assert job.running, "the job ended before the cluster was scaled down; give it more to do"
    job.succeed()
    assert job.ledger().began == job.ledger().ended == Counter(range(count))
    assert job.output() == f"{[n * n for n in range(count)]}\n"


def test_containers_run_without_privileges_and_only_the_master_has_a_port(cluster: Cluster) -> None:
    cluster.scale(workers=1)
    (worker,) = cluster.workers
    for container in (cluster.master, worker):
        assert in_container(container, "id", "-u") == (0, "10001")
        _, status = in_container(container, "cat", "/proc/1/status")
        for capabilities in ("CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert f"{capabilities}:\t0000000000000000" in status
        assert "NoNewPrivs:\t1" in status
        code, refusal = in_container(container, "touch", "/app/file")
        assert code != 0
        assert "Read-only file system" in refusal
    assert worker.attrs["HostConfig"]["PortBindings"] in (None, {})
    assert [*cluster.master.attrs["HostConfig"]["PortBindings"]] == ["5000/tcp"]

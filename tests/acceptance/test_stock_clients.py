"""Programs that know multiprocessing.managers and nothing else, against the master in its container."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.acceptance.cluster import DEADLINE, PROGRAMS, Cluster, clean_environ, wait_until

COUNT = 10
Program = Callable[[], str]  # waits for its end; its output


def start_inside(cluster: Cluster, role: str) -> Program:
    """In a container of a plain Python on the cluster's network, with the key from the cluster's volume."""
    container = cluster.engine.containers.create(
        f"python:{cluster.python_version}-slim",
        ["python", "/programs/stock.py", role, str(COUNT)],
        environment={"MULTIHOST_ADDRESS": "master:5000"},
        labels={"com.docker.compose.project": cluster.project},  # removed with the cluster
        network=f"{cluster.project}_cluster",
        volumes={
            str(PROGRAMS): {"bind": "/programs", "mode": "ro"},
            f"{cluster.project}_key": {"bind": "/run/multihost", "mode": "ro"},
        },
    )
    container.start()

    def end() -> str:
        code = container.wait(timeout=DEADLINE)["StatusCode"]
        assert code == 0, container.logs()
        return str(container.logs(stderr=False).decode())

    return end


def start_outside(cluster: Cluster, role: str) -> Program:
    """A process of this host, by the published port; isolated, so that it has the standard library alone."""
    environ = clean_environ(MULTIHOST_ADDRESS=str(cluster.address), MULTIHOST_AUTHKEY=cluster.authkey.decode())
    command = [sys.executable, "-I", "-S", str(PROGRAMS / "stock.py"), role, str(COUNT)]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def end() -> str:
        try:
            output, _ = process.communicate(timeout=DEADLINE)
        finally:
            process.kill()
        assert process.returncode == 0, output
        return output

    return end


PLACES = {"inside": start_inside, "outside": start_outside}


@pytest.mark.parametrize("worker_place", PLACES)
@pytest.mark.parametrize("master_place", PLACES)
def test_the_tutorials_programs_work_inside_and_outside_the_network(
    cluster: Cluster, master_place: str, worker_place: str
) -> None:
    end_master = PLACES[master_place](cluster, "master")
    end_worker = PLACES[worker_place](cluster, "worker")
    assert end_worker().splitlines() == [f"run task {n} * {n}..." for n in range(COUNT)]
    assert end_master().splitlines() == [f"Result: {n} * {n} = {n * n}" for n in range(COUNT)]
    wait_until(lambda: not any(cluster.statistics()["queues"].values()), "both queues were empty")

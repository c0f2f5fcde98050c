"""Workers on another host: a second Docker Engine in a network of its own, joined by what join-command prints."""

import subprocess
from collections.abc import Iterator

import pytest

from tests.acceptance.cluster import DEADLINE, ROOT, Cluster, Job, wait_until
from tests.acceptance.hosts import Host, Network, why_impossible


@pytest.fixture
def network(images: None) -> Iterator[Network]:
    """Two hosts with the images, and nothing started on them."""
    if reason := why_impossible():
        pytest.skip(reason)
    network = Network()
    try:
        network.start()
        network.hosts[0].load("multihost-master", "multihost-worker")
        network.hosts[1].load("multihost-worker")
        yield network
    finally:
        network.close()


class ClusterOnHost(Cluster):
    """The compose file's cluster on one of the hosts, its port open to the other."""

    def __init__(self, host: Host, python_version: str) -> None:
        publish = f"{host.address}:5000"
        super().__init__(host.engine, "multihost-test-hosts", python_version, MULTIHOST_PUBLISH=publish)
        self.environ = host.environ(**{name: text for name, text in self.environ.items() if name != "DOCKER_HOST"})

    def known_workers(self) -> int:
        """Asked in the container: this process is on neither host."""
        code, output = self.master.exec_run(["python", "master/health.py"])
        return int(output.split()[1]) if code == 0 else -1

    def wait_for_workers(self, count: int, timeout: float = DEADLINE) -> None:
        wait_until(lambda: self.known_workers() == count, f"the master knew {count} workers", timeout)


def test_a_worker_on_another_host_does_the_job_and_a_pulled_cable_loses_nothing(
    network: Network, python_version: str
) -> None:
    here, there = network.hosts
    cluster = ClusterOnHost(here, python_version)
    cluster.scale(workers=0)

    line = subprocess.run(
        ["scripts/join-command"], cwd=ROOT, env=cluster.environ, capture_output=True, text=True, check=True
    ).stdout
    subprocess.run(["sh"], input=line, env=there.environ(), capture_output=True, text=True, check=True)
    cluster.wait_for_workers(1)
    (worker,) = there.engine.containers.list()
    assert cluster.run_job().count("Result: ") == 10
    assert worker.logs().decode().count("run task") == 10

    job = cluster.start_job()
    wait_until(lambda: worker.logs().decode().count("run task") > 10, "the other host was in the middle of the job")
    there.pull_cable()
    cluster.wait_for_workers(0)
    assert job.running
    cluster.scale(workers=1)
    assert results(job) == 10

    there.plug_in()
    cluster.wait_for_workers(2)
    worker.reload()
    assert worker.attrs["RestartCount"] == 0, "the worker did not join by itself but was started anew"
    assert cluster.run_job().count("Result: ") == 10


def results(job: Job) -> int:
    return job.succeed().count("Result: ")

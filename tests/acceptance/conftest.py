"""Fixtures of the acceptance tests: a cluster in containers that they share, and fresh ones for those that need more.

Everything made here is removed at the end, also when a test or a start has failed.
"""

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import docker
import pytest

from tests.acceptance.cluster import COMPOSE_FILE, Cluster, clean_environ, execute, run

SHARED_PROJECT = "multihost-test"
FRESH_PROJECT = "multihost-test-fresh"

# Seconds for one test with its fixtures, which for the first one build the images.
_TIMEOUT = 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in this directory."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.acceptance)
            item.add_marker(pytest.mark.timeout(_TIMEOUT))


@pytest.fixture(scope="session", autouse=True)
def engine() -> Iterator[docker.DockerClient]:
    """The Docker Engine; without one, or without Compose, there is nothing to test."""
    if reason := why_no_compose():
        pytest.skip(reason)
    client = docker.from_env()
    try:
        yield client
    finally:
        client.close()


def why_no_compose() -> str | None:
    """What is missing on this machine, or None."""
    remedy = "scripts/prepare-host installs and starts what is missing"
    try:
        environ = clean_environ()
        engine = execute("docker", "version", environ=environ, check=False)
        compose = execute("docker", "compose", "version", environ=environ, check=False)
    except FileNotFoundError:
        return f"Docker is not installed; {remedy}"
    if engine.returncode:
        return f"no Docker Engine answers ({engine.stderr.strip()}); {remedy}"
    if compose.returncode:
        return f"Docker has no plugin Compose ({compose.stderr.strip()}); {remedy}"
    return None


@pytest.fixture(scope="session")
def python_version(engine: docker.DockerClient) -> str:
    """The images' Python, for which there is a base image."""
    return os.environ.get("PYTHON_VERSION") or run("scripts/base-image", environ=clean_environ()).strip()


@pytest.fixture(scope="session")
def images(python_version: str) -> None:
    """All images, built from this checkout."""
    environ = clean_environ(PYTHON_VERSION=python_version)
    run("docker", "compose", "--profile", "mail", "build", "--quiet", environ=environ, timeout=_TIMEOUT)


# --- pytest-docker's own fixtures: where the shared project is, and how it ends ------------------------------------


@pytest.fixture(scope="session")
def docker_compose_file() -> str:
    return str(COMPOSE_FILE)


@pytest.fixture(scope="session")
def docker_compose_project_name() -> str:
    return SHARED_PROJECT


@pytest.fixture(scope="session")
def docker_setup() -> list[str]:
    """Nothing: what is started here is not removed when it fails; the cluster's first user starts it instead."""
    return []


@pytest.fixture(scope="session")
def docker_cleanup() -> list[str]:
    return ["--profile mail down --volumes --remove-orphans"]


# --- clusters ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def shared_cluster(
    engine: docker.DockerClient, images: None, python_version: str, docker_services: object
) -> Iterator[Cluster]:
    """A master that runs for the whole session, with as many workers as the last test wanted."""
    cluster = Cluster(engine, SHARED_PROJECT, python_version)
    try:
        cluster.down()  # what a run that was killed has left
        cluster.scale(workers=0)
        yield cluster
    finally:
        cluster.down()


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Iterator[Cluster]:
    """A cluster that tests share: each begins by scaling it as it needs, and its jobs are removed after it."""
    yield shared_cluster
    shared_cluster.remove_jobs()


class ClusterMaker:
    """Makes a cluster with settings of its own; nothing of it is started yet. One at a time."""

    def __init__(self, engine: docker.DockerClient, python_version: str) -> None:
        self._engine, self._python_version = engine, python_version
        self._made: Cluster | None = None

    def __call__(self, **settings: str) -> Cluster:
        self.close()
        self._made = Cluster(self._engine, FRESH_PROJECT, self._python_version, **settings)
        self._made.down()  # what a run that was killed has left
        return self._made

    def close(self) -> None:
        made, self._made = self._made, None
        if made is not None:
            made.down()

    def container_logs(self) -> Iterator[tuple[str, str]]:
        if self._made is not None:
            yield from self._made.container_logs()


@pytest.fixture
def make_cluster(engine: docker.DockerClient, images: None, python_version: str) -> Iterator[ClusterMaker]:
    maker = ClusterMaker(engine, python_version)
    try:
        yield maker
    finally:
        maker.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failing test shows what its containers logged."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if hasattr(value, "container_logs"):
                report.sections += value.container_logs()
    return report

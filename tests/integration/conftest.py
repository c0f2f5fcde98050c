"""Fixtures of the integration tests: a cluster of one's own, or one that a module's tests share."""

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

import multihost
from tests.integration.cluster import Cluster


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the developer's shell has set, a test sees none of it."""
    for name in [name for name in os.environ if name.startswith("MULTIHOST_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster with nothing started yet, for tests that choose settings or break things."""
    directory = tmp_path / "logs"
    directory.mkdir()
    with Cluster(directory) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A master and a worker of two slots, for a module's tests that leave them as they found them."""
    with Cluster(tmp_path_factory.mktemp("logs")) as cluster:
        cluster.start_master()
        cluster.start_worker()
        yield cluster


@pytest.fixture
def pool(shared_cluster: Cluster) -> Iterator[multihost.Pool]:
    """A pool of the cluster that the module shares."""
    with shared_cluster.pool() as pool:
        yield pool


@pytest.fixture
def lasting(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster whose master has a journal, with nothing started yet."""
    for name in ("journal", "logs"):
        (tmp_path / name).mkdir()
    with Cluster(tmp_path / "logs", MULTIHOST_JOURNAL=str(tmp_path / "journal")) as cluster:
        yield cluster


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failing test shows what its cluster's programs logged."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Cluster):
                report.sections += value.logs()
    return report

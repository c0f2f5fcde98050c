"""One contract, three times: the standard library's own class as the control, a cluster in this machine, containers.

Every test takes ``kind``, directly or through another fixture, and so runs for each. What holds for the control holds
for ours; where it does not, the test says both, and docs/from-multiprocessing.md says why.
"""

import multiprocessing
import os
from collections.abc import Callable, Generator, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.pool import Pool as StandardPool
from pathlib import Path
from typing import Any

import docker
import pytest

import multihost
from tests.acceptance.cluster import Cluster, clean_environ, run
from tests.acceptance.conftest import why_no_compose

PROJECT = "multihost-test-contract"
STANDARD, LOCAL, CONTAINERS = "standard library", "local", "containers"
_BUILD_SECONDS = 300
_WORKERS = 2
_CLUSTER = pytest.StashKey[Cluster]()
# Fork would do it without these lines, but not beside the threads that other tests have left.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.contract.tasks"])


@dataclass(frozen=True)
class Place:
    """A directory for what tasks leave behind: its path for them, and for the test."""

    task: str
    test: Path


@dataclass(frozen=True)
class Containers:
    """The cluster in containers: what a client needs, and its shared volume as this host sees it."""

    where: dict[str, Any]
    volume: Path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and _in_containers(item):
            item.add_marker(pytest.mark.acceptance)
            item.add_marker(pytest.mark.timeout(_BUILD_SECONDS))


def _in_containers(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and CONTAINERS in item.name


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failing test shows what the containers logged."""
    report = yield
    cluster = item.config.stash.get(_CLUSTER, None)
    if report.failed and cluster is not None and _in_containers(item):
        report.sections += cluster.container_logs()
    return report


@pytest.fixture(scope="session", autouse=True)
def no_settings_from_outside() -> Iterator[None]:
    """Whatever the developer's shell has set, a test sees none of it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("MULTIHOST_")]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session", params=[STANDARD, LOCAL, CONTAINERS])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == CONTAINERS and (reason := why_no_compose()):
        pytest.skip(reason)
    return str(request.param)


@pytest.fixture
def is_ours(kind: str) -> bool:
    return kind != STANDARD


@pytest.fixture(scope="session")
def containers(request: pytest.FixtureRequest) -> Iterator[Containers]:
    """A cluster of two workers in containers, for the whole session."""
    python_version = os.environ.get("PYTHON_VERSION") or run("scripts/base-image", environ=clean_environ()).strip()
    environ = clean_environ(PYTHON_VERSION=python_version)
    run("docker", "compose", "build", "--quiet", environ=environ, timeout=_BUILD_SECONDS)
    engine = docker.from_env()
    cluster = Cluster(engine, PROJECT, python_version)
    try:
        cluster.down()  # what a run that was killed has left
        cluster.scale(workers=_WORKERS)
        request.config.stash[_CLUSTER] = cluster
        volume = engine.volumes.get(f"{PROJECT}_data").attrs["Mountpoint"]
        yield Containers({"address": str(cluster.address), "authkey": cluster.authkey}, Path(volume))
    finally:
        cluster.down()
        engine.close()


@pytest.fixture(scope="session")
def where(kind: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    """What our classes are told of the cluster; nothing for one in this machine."""
    if kind != CONTAINERS:
        return {}
    cluster: Containers = request.getfixturevalue("containers")
    return cluster.where


@pytest.fixture
def place(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A fresh directory; the file ``go`` in it, for which tasks may wait, is there at the end at the latest."""
    if kind != CONTAINERS:
        found = Place(str(tmp_path), tmp_path)
    else:
        cluster: Containers = request.getfixturevalue("containers")
        directory = cluster.volume / tmp_path.name
        directory.mkdir()
        directory.chmod(0o777)  # the tasks run as another user
        found = Place(f"/data/{tmp_path.name}", directory)
    yield found
    (found.test / "go").touch()


# --- what is tested ------------------------------------------------------------------------------------------------

Maker = Callable[..., Any]


@contextmanager
def pools(kind: str, where: dict[str, Any]) -> Iterator[Maker]:
    """Makes pools with the arguments of ``multiprocessing.pool.Pool``; those left are terminated."""
    maker: Maker = StandardPool if kind == STANDARD else multihost.Pool
    extra = {"context": CONTEXT} if kind == STANDARD else where
    made: list[Any] = []

    def make(*args: Any, **kwds: Any) -> Any:
        made.append(maker(*args, **extra, **kwds))
        return made[-1]

    yield make
    for pool in made:
        pool.terminate()
        pool.join()


@contextmanager
def executors(kind: str, where: dict[str, Any]) -> Iterator[Maker]:
    """Makes executors with the arguments of ``ProcessPoolExecutor``; those left are shut down."""
    maker: Maker = futures.ProcessPoolExecutor if kind == STANDARD else multihost.Executor
    extra = {"mp_context": CONTEXT} if kind == STANDARD else where
    made: list[futures.Executor] = []

    def make(*args: Any, **kwds: Any) -> Any:
        made.append(maker(*args, **extra, **kwds))
        return made[-1]

    yield make
    for executor in made:
        executor.shutdown(cancel_futures=True)


@pytest.fixture
def make_pool(kind: str, where: Any) -> Iterator[Maker]:
    with pools(kind, where) as make:
        yield make


@pytest.fixture
def make_executor(kind: str, where: Any) -> Iterator[Maker]:
    with executors(kind, where) as make:
        yield make


@pytest.fixture(scope="module")
def pool(kind: str, where: Any, no_settings_from_outside: None) -> Iterator[Any]:
    """A pool of two processes that a module's tests share: they leave it as they found it."""
    with pools(kind, where) as make:
        yield make(2)


@pytest.fixture(scope="module")
def executor(kind: str, where: Any, no_settings_from_outside: None) -> Iterator[Any]:
    """An executor of two processes that a module's tests share: they leave it as they found it."""
    with executors(kind, where) as make:
        yield make(2)


@pytest.fixture
def own_pool(make_pool: Maker) -> Any:
    """A pool of two processes for one test, which may end or break it."""
    return make_pool(2)


@pytest.fixture
def own_executor(make_executor: Maker) -> Any:
    """An executor of two processes for one test, which may end or break it."""
    return make_executor(2)

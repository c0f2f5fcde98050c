"""Programs that use nothing but the standard library's managers work against the master, under every Python."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cluster import Cluster
from tests.integration.interpreters import interpreters

STOCK = Path(__file__).parent / "stock"
every_python = pytest.mark.parametrize("python", interpreters().values(), ids=interpreters().keys())


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A master whose queues take three items."""
    with Cluster(tmp_path_factory.mktemp("logs"), MULTIHOST_QUEUE_SIZE="3") as cluster:
        cluster.start_master()
        yield cluster


@every_python
def test_a_queue_of_the_master_behaves_as_the_standard_librarys(bounded: Cluster, python: str) -> None:
    contract = bounded.start("contract", python, STOCK / "contract.py")
    assert contract.wait() == 0, contract.log()
    assert "the contract holds" in contract.log()


@every_python
def test_the_well_known_pair_of_scripts_works_as_producer_worker_and_consumer(shared: Cluster, python: str) -> None:
    consumer = shared.start("consumer", python, STOCK / "consumer.py", "100")
    workers = [shared.start("stock-worker", python, STOCK / "worker.py") for _ in range(2)]
    producer = shared.start("producer", python, STOCK / "producer.py", "100")
    assert [program.wait() for program in (producer, consumer, *workers)] == [0, 0, 0, 0]
    lines = consumer.log().splitlines()
    assert sorted(lines) == sorted(f"{n} * {n} = {n * n}" for n in range(100))


def test_programs_of_different_python_versions_share_the_queues(shared: Cluster) -> None:
    pythons = [*interpreters().values()]
    consumer = shared.start("consumer", pythons[-1], STOCK / "consumer.py", "50")
    worker = shared.start("stock-worker", pythons[0], STOCK / "worker.py")
    producer = shared.start("producer", pythons[len(pythons) // 2], STOCK / "producer.py", "50")
    assert [program.wait() for program in (producer, consumer, worker)] == [0, 0, 0]
    assert len(consumer.log().splitlines()) == 50


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A master with unbounded queues, and no worker of ours."""
    with Cluster(tmp_path_factory.mktemp("logs")) as cluster:
        cluster.start_master()
        yield cluster

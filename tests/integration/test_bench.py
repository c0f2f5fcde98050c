"""The benchmarks still run: the smallest possible run, of a cluster and of the local pool."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

import multihost
from cluster import Cluster
from hops import chain
from programs import compile_sources
from reports import Plan
from scale import light_workers, pool_of, submitted, times_sent
from suite import Suite
from systems import SYSTEMS, SystemSpec
from where import names, one_by_one

SUITE = Path(__file__).resolve().parents[2] / "bench" / "suite.py"
SMALL = ["--rounds", "1", "--seconds", "0.02", "--most-tasks", "40", "--large", "1"]


def test_the_suite_measures_multihost_beside_the_local_pool(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    command = [sys.executable, str(SUITE), "--only", "multihost,pool", *SMALL, "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    systems = json.loads(file.read_text())["systems"]
    assert {name: (system["absent"], system["missing"]) for name, system in systems.items()} == {
        "multihost": ("", {}),
        "pool": ("", {}),
    }
    for system in systems.values():
        assert all(
            value > 0
            for name, values in system["rounds"].items()
            if "queued" not in name and "cpu" not in name
            for value in values
        )
    assert "| multihost |" in done.stdout
    assert "| ratio to multiprocessing.Pool |" in done.stdout


def test_a_system_that_cannot_be_started_is_a_row_that_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(SYSTEMS, "ghost", SystemSpec("ghost", "a ghost", "no_such_module", "not at all", resident=True))
    plan = Plan(("ghost", "pool"), ("one by one",), rounds=1, workers=2, seconds=0.02, most_tasks=20)
    suite = Suite(plan, tmp_path)
    suite.run()
    assert "no_such_module" in suite.rows["ghost"].absent
    assert suite.rows["pool"].median("one by one")


def test_what_is_measured_is_compiled() -> None:
    bytecode = Path(importlib.util.cache_from_source(multihost.__file__))
    bytecode.unlink(missing_ok=True)
    compile_sources()
    assert bytecode.exists()


def test_light_workers_answer_every_task() -> None:
    with Cluster(0, workers=0) as cluster, light_workers(cluster, 5), pool_of(cluster) as pool:
        assert len(cluster.statistics()["workers"]) == 5
        submitted(pool, 200)


def test_the_bytes_that_leave_client_and_master_are_counted() -> None:
    client, master = times_sent(100_000, tasks=4)
    assert client > 1
    assert master > 1


def test_profiles_name_functions_of_every_process() -> None:
    found = names(one_by_one, 20, 1, "memory", 200)
    assert {*found} == {"client, caller", "client, receiver", "master", "worker"}
    assert any("broker/core.py" in use.function for use in found["master"])
    assert any("runner/core.py" in use.function for use in found["worker"])
    assert any("client/session.py" in use.function for use in found["client, receiver"])
    calls = {use.function.rpartition(" ")[2]: use.calls for use in found["client, caller"]}
    assert calls["apply_async"] == pytest.approx(1.0)


def test_a_measurement_that_hangs_is_given_up_and_the_system_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("suite._ORDER_SECONDS", 2.5)
    # Sleeping takes longer than that, by far; the tasks one by one are few.
    plan = Plan(("pool",), ("sleeps", "one by one"), rounds=1, workers=2, seconds=2.0, most_tasks=40)
    suite = Suite(plan, tmp_path)
    suite.run()
    assert suite.rows["pool"].missing == {"sleeps": "it did not end within 2.5 s"}
    assert suite.rows["pool"].median("one by one")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_the_bare_chain_of_processes_computes() -> None:
    with chain() as call:
        assert [call(number) for number in range(4)] == [0, 1, 4, 9]

"""Other libraries compute on a cluster: the examples as they stand, and joblib's backend more closely."""

import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path

import joblib
import pytest

import multihost.friends.joblib
from tests.integration.cluster import ROOT, Cluster, wait_until

EXAMPLES = {
    "with_joblib.py": "the sum of the roots is 499500\none call failed: math domain error\n",
    "with_scipy.py": "the deepest valley is at [0. 0.], 0.000 deep\n",
    "with_dask.py": "the sum of the squares is 2470\n",
    "with_tqdm.py": "their sum is 17295523912\n",
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs_on_a_cluster_inside_this_machine(cluster: Cluster, example: str) -> None:
    output = cluster.run(ROOT / "examples" / "friends" / example, MULTIHOST_ADDRESS="", MULTIHOST_AUTHKEY="")
    assert EXAMPLES[example] in output


def test_every_example_is_run() -> None:
    assert {path.name for path in (ROOT / "examples" / "friends").glob("*.py")} == {*EXAMPLES}


# --- joblib -----------------------------------------------------------------------------------------------------


def whoami(_: object = None) -> str:
    return os.environ.get("MULTIHOST_NAME", "here")


def square(n: int) -> int:
    return n * n


def fail(n: int) -> int:
    return [10, 20][n]


def leave_mark_and_sleep(mark: Path) -> None:
    mark.touch()
    time.sleep(600)


def nested(n: int) -> list[int]:
    return list(joblib.Parallel(n_jobs=2)(joblib.delayed(square)(n) for _ in range(2)))


@pytest.fixture
def backend(shared_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name under which joblib knows us; the environment names a cluster with a worker of two slots."""
    monkeypatch.setenv("MULTIHOST_ADDRESS", str(shared_cluster.address))
    monkeypatch.setenv("MULTIHOST_AUTHKEY", shared_cluster.authkey)
    multihost.friends.joblib.register()
    yield "multihost"
    wait_until_no_session_is_left(shared_cluster)


def wait_until_no_session_is_left(cluster: Cluster) -> None:
    """An exception's traceback refers to the ``Parallel`` it came from, and that to its session: so collect garbage."""

    def none_is_left() -> bool:
        gc.collect()
        return not cluster.statistics()["sessions"]

    wait_until(none_is_left, "no session was left")


def test_joblibs_calls_run_on_the_workers(backend: str) -> None:
    with joblib.parallel_config(backend):
        assert {*joblib.Parallel()(joblib.delayed(whoami)() for _ in range(5))} == {"w1"}


def test_results_come_in_order_whatever_the_batches_are(backend: str) -> None:
    with joblib.parallel_config(backend):
        for batch_size in ("auto", 1, 7):
            results = joblib.Parallel(batch_size=batch_size)(joblib.delayed(square)(n) for n in range(500))
            assert results == [n * n for n in range(500)]


def test_lambdas_and_closures_can_be_called(backend: str) -> None:
    factor = 3
    with joblib.parallel_config(backend):
        assert joblib.Parallel()(joblib.delayed(lambda n: n * factor)(n) for n in range(3)) == [0, 3, 6]


@pytest.mark.parametrize(("n_jobs", "effective"), [(-1, 2), (None, 2), (-2, 2), (3, 3), (1, 1)])
def test_n_jobs_counts_the_slots_of_the_cluster(backend: str, n_jobs: int | None, effective: int) -> None:
    with joblib.parallel_config(backend):
        assert joblib.Parallel(n_jobs=n_jobs)._effective_n_jobs() == effective


def test_one_job_runs_in_this_process_as_joblib_has_it(backend: str) -> None:
    with joblib.parallel_config(backend, n_jobs=1):
        assert joblib.Parallel()(joblib.delayed(whoami)() for _ in range(2)) == ["here", "here"]


def test_no_jobs_are_refused(backend: str) -> None:
    with joblib.parallel_config(backend), pytest.raises(ValueError, match="n_jobs == 0"):
        joblib.Parallel(n_jobs=0)(joblib.delayed(square)(n) for n in range(2))


def test_an_exception_arrives_as_itself_with_the_traceback_from_the_worker(backend: str) -> None:
    with joblib.parallel_config(backend):
        with pytest.raises(IndexError) as caught:
            joblib.Parallel()(joblib.delayed(fail)(n) for n in range(3))
        assert "return [10, 20][n]" in str(caught.value.__cause__)
        assert joblib.Parallel()(joblib.delayed(fail)(n) for n in range(2)) == [10, 20]  # and it goes on


def test_a_call_that_fails_stops_the_others(shared_cluster: Cluster, backend: str, tmp_path: Path) -> None:
    mark = tmp_path / "started"
    calls = [joblib.delayed(leave_mark_and_sleep)(mark), joblib.delayed(fail)(5)]
    with joblib.parallel_config(backend), pytest.raises(IndexError):
        joblib.Parallel(batch_size=1)(calls)
    wait_until_no_session_is_left(shared_cluster)


def test_a_timeout_stops_what_runs(shared_cluster: Cluster, backend: str, tmp_path: Path) -> None:
    with joblib.parallel_config(backend), pytest.raises(multihost.TimeoutError):
        joblib.Parallel(timeout=0.1)([joblib.delayed(leave_mark_and_sleep)(tmp_path / "started")])
    wait_until_no_session_is_left(shared_cluster)


def test_results_can_be_had_one_by_one(backend: str) -> None:
    for how in ("generator", "generator_unordered"):
        with joblib.parallel_config(backend):
            results = joblib.Parallel(return_as=how)(joblib.delayed(square)(n) for n in range(50))
            assert sorted(results) == [n * n for n in range(50)]


@pytest.mark.filterwarnings("ignore::UserWarning")  # joblib's, of results that nobody took
def test_a_generator_that_is_dropped_ends_its_session(shared_cluster: Cluster, backend: str) -> None:
    with joblib.parallel_config(backend):
        results = joblib.Parallel(return_as="generator")(joblib.delayed(square)(n) for n in range(50))
    assert next(results) == 0
    del results
    wait_until_no_session_is_left(shared_cluster)


def test_all_calls_in_a_block_share_one_session(shared_cluster: Cluster, backend: str) -> None:
    with joblib.parallel_config(backend):
        first, second = (joblib.Parallel()(joblib.delayed(os.getpid)() for _ in range(20)) for _ in range(2))
        assert shared_cluster.statistics()["sessions"] == 1
    assert {*first} & {*second}, "the second Parallel had processes of its own"


def test_a_parallel_in_a_task_runs_in_threads_there(backend: str) -> None:
    with joblib.parallel_config(backend):
        assert joblib.Parallel()(joblib.delayed(nested)(n) for n in range(3)) == [[0, 0], [1, 1], [4, 4]]


@pytest.mark.parametrize("where", ["parallel_config", "Parallel"])
def test_address_and_key_can_be_given_to_joblib(
    shared_cluster: Cluster, backend: str, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.delenv("MULTIHOST_ADDRESS")
    monkeypatch.delenv("MULTIHOST_AUTHKEY")
    given = {"address": str(shared_cluster.address), "authkey": shared_cluster.authkey}
    if where == "Parallel":
        results = joblib.Parallel(n_jobs=2, backend=backend, **given)(joblib.delayed(whoami)() for _ in range(2))
    else:
        with joblib.parallel_config(backend, **given):
            results = joblib.Parallel()(joblib.delayed(whoami)() for _ in range(2))
    assert results == ["w1", "w1"]


def test_a_mistyped_option_is_an_error(backend: str) -> None:
    with pytest.raises(TypeError, match="adress"):
        joblib.parallel_config(backend, adress="master:5000")


def test_it_can_be_the_default(cluster: Cluster, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        "import os, joblib, multihost.friends.joblib\n"
        "if __name__ == '__main__':\n"
        "    multihost.friends.joblib.register(default=True)\n"
        "    pids = joblib.Parallel(n_jobs=2)(joblib.delayed(os.getppid)() for _ in range(4))\n"
        "    print(os.getpid() in pids)\n"
    )
    assert cluster.run(script, MULTIHOST_ADDRESS="", MULTIHOST_AUTHKEY="") == "False\n"

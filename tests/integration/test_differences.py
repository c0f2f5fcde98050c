"""What docs/from-multiprocessing.md says of differences is so: on our side, and on the standard library's."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cluster import Cluster

# What comes of each call with the standard library's classes (forking), and with ours.
EXPECTED: dict[str, tuple[object, object]] = {
    "a_global_that_was_set_in_the_main_block": ("of the main block", "of the import"),
    "the_name_of_the_main_module": ("__main__", "__mp_main__"),
    "a_global_lock_that_is_held": ("locked", "free"),
    "a_lock_in_initargs": (1, "RuntimeError"),
    "a_lock_as_argument": ("RuntimeError", "RuntimeError"),
    "the_lock_of_a_manager": (True, "AuthenticationError"),
    "a_pool_within_a_task": ("AssertionError", 1),
    "a_lambda_as_function": ("PicklingError", 5),
    "a_lambda_as_result": ("MaybeEncodingError", 1),
    "a_chunksize_of_0_in_map": ([None], "ValueError"),
    "how_much_of_its_input_imap_reads_unasked": ("all", "some"),
    "the_notes_of_an_exception": (0, 1),
    "the_class_of_an_exceptions_cause": ("multiprocessing.pool.RemoteTraceback", "multihost.errors.RemoteTraceback"),
    "the_class_of_a_result": (True, False),
    "an_executors_call_whose_process_dies": ("BrokenProcessPool", "WorkerDied"),
    "an_executor_after_a_process_died": ("BrokenProcessPool", 1),
    "an_executors_initializer_that_raises": ("BrokenProcessPool", "ValueError"),
    "an_executors_task_that_exits": ("SystemExit", "SystemExit"),
    "max_tasks_per_child_with_fork": ("ValueError", 1),
    "private_attributes": (
        [
            "pool._pool",
            "pool._processes",
            "pool._state",
            "pool._cache",
            "executor._max_workers",
            "executor._processes",
        ],
        ["pool._processes", "executor._max_workers"],
    ),
}


@pytest.fixture(scope="module")
def came(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    """What came of each call: by the classes used, then by its name."""
    with Cluster(tmp_path_factory.mktemp("logs")) as cluster:
        cluster.tracebacks_expected = True  # the standard library's processes show theirs
        outputs = {}
        for classes in ("standard", "ours"):
            program = Path(__file__).with_name("differences.py")
            output = cluster.run(program, classes, MULTIHOST_ADDRESS="", MULTIHOST_AUTHKEY="")
            (line,) = [line for line in output.splitlines() if line.startswith("{")]
            outputs[classes] = json.loads(line)
        yield outputs


@pytest.mark.parametrize("name", EXPECTED)
def test_a_difference_is_what_the_table_says(came: dict[str, dict[str, Any]], name: str) -> None:
    assert (came["standard"][name], came["ours"][name]) == EXPECTED[name]


def test_no_call_is_left_out(came: dict[str, dict[str, Any]]) -> None:
    assert came["standard"].keys() == came["ours"].keys() == EXPECTED.keys()

"""Programs as the standard library's documentation shows them print the same with only the import changed."""

import re
from pathlib import Path

import pytest

from tests.integration.cluster import Cluster

PROGRAMS = sorted((Path(__file__).parent / "programs").glob("*.py"))
IMPORTS = {
    r"^from multiprocessing import Pool, TimeoutError$": "from multihost import Pool, TimeoutError",
    r"^from concurrent\.futures import ProcessPoolExecutor$": "from multihost import Executor as ProcessPoolExecutor",
    r"^from concurrent\.futures import (.*\b)ProcessPoolExecutor, (.*)$": (
        r"from concurrent.futures import \1\2\nfrom multihost import Executor as ProcessPoolExecutor"
    ),
}


def with_our_import(program: str) -> str:
    """The text of a program that was written for the standard library, for multihost."""
    changes = 0
    for pattern, replacement in IMPORTS.items():
        program, count = re.subn(pattern, replacement, program, flags=re.MULTILINE)
        changes += count
    assert changes == 1, "one line of imports is to be changed"
    return program


@pytest.fixture(params=PROGRAMS, ids=lambda path: path.stem)
def program(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture
def printed(cluster: Cluster, program: Path) -> str:
    """What a program prints with the standard library: the control."""
    return cluster.run(program, MULTIHOST_ADDRESS="", MULTIHOST_AUTHKEY="")


def test_a_program_prints_the_same_with_the_import_changed(
    cluster: Cluster, tmp_path: Path, program: Path, printed: str
) -> None:
    changed = tmp_path / program.name
    changed.write_text(with_our_import(program.read_text()))
    assert cluster.run(changed, MULTIHOST_ADDRESS="", MULTIHOST_AUTHKEY="") == printed


def test_a_program_prints_the_same_when_it_is_run_unchanged(cluster: Cluster, program: Path, printed: str) -> None:
    assert cluster.run("-m", "multihost", "run", program, MULTIHOST_ADDRESS="", MULTIHOST_AUTHKEY="") == printed


def test_the_control_is_not_ours(cluster: Cluster, program: Path) -> None:
    output = cluster.run("-X", "importtime", program, MULTIHOST_ADDRESS="", MULTIHOST_AUTHKEY="")
    assert "multihost" not in output.replace(str(program), "")

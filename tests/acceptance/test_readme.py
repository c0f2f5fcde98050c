"""The README's commands and programs do what it says, run one after another as a user would."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.cluster import ROOT, Cluster

_README_SECONDS = 240


@pytest.fixture
def users_cluster(engine: Any, images: None, python_version: str) -> Iterator[Cluster]:
    """Where the README's commands take place: nothing is started yet."""
    cluster = Cluster(engine, "multihost-test-readme", python_version)
    try:
        cluster.down()
        yield cluster
    finally:
        cluster.down()


def test_every_block_of_the_readme_runs_in_order(users_cluster: Cluster, tmp_path: Path) -> None:
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    steps = ["set -euo pipefail"]
    for number, (language, text) in enumerate(blocks, start=1):
        steps.append(f"echo '=== block {number}'")
        if language == "python":
            program = tmp_path / f"block_{number}.py"
            program.write_text(text)
            text = f"{sys.executable} {program}\n"
        steps.append(text)

    result = subprocess.run(
        # timeout ends the whole group of processes, not bash alone.
        ["timeout", "--kill-after=10", str(_README_SECONDS), "bash", "-c", "\n".join(steps)],
        cwd=ROOT,
        # scripts/test is a block, too: it shall find the tests, not run this one again.
        env={**users_cluster.environ, "PYTEST_ADDOPTS": "--collect-only --quiet"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )

    assert result.returncode == 0, result.stdout
    _, *outputs = re.split(r"^=== block \d+\n", result.stdout, flags=re.MULTILINE)
    assert len(outputs) == len(blocks)
    output_of = {text: output for (_, text), output in zip(blocks, outputs, strict=True)}
    expected = {
        "scripts/up --scale worker=3": "Result: ",
        "scripts/test": f"{os.path.basename(__file__)}::",
        "is_prime": "1229 primes below 10,000",
        "tasks.put(3411)": "3411\n",
        "examples/logs.py": "/logs/",
        "examples/mail.py": "Sent 10 of 10 mails.",
    }
    for mark, wanted in expected.items():
        (output,) = [output for text, output in output_of.items() if mark in text]
        assert wanted in output

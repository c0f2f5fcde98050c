"""The scripts explain themselves, from wherever they are called and without changing anything."""

import subprocess
from pathlib import Path

import pytest

SCRIPTS = sorted(path for path in (Path(__file__).resolve().parents[2] / "scripts").iterdir() if path.is_file())


def test_there_is_a_script_for_everything_the_readme_promises() -> None:
    names = {"base-image", "bench", "check", "down", "join-command", "prepare-host", "test", "up"}
    assert names <= {script.name for script in SCRIPTS}


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_prints_its_usage(script: Path, option: str, tmp_path: Path) -> None:
    # Without a home or a program of the user's: what is printed comes from the script alone.
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    result = subprocess.run(
        [script, option], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=10, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    first, *rest = result.stdout.splitlines()
    assert first.endswith("."), "the first line says in a sentence what it does"
    assert any(line.startswith(f"Usage: scripts/{script.name}") for line in rest)
    assert not [*tmp_path.iterdir()]

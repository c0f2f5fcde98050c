"""The command line reads its arguments, and says what is wrong with them."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import multihost
from multihost.cli import main


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of ``multihost`` with these arguments."""
    monkeypatch.setattr(sys, "argv", ["multihost", *arguments])
    return main()


def test_version_is_that_of_the_package(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"multihost {multihost.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]], ids=" ".join)
def test_help_tells_how_to_run_a_script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run(monkeypatch, *arguments) == 0
    assert "Run SCRIPT" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["walk"], "No such command 'walk'"),
        (["explain", "twelve"], "'twelve' is no task"),
        (["explain", "abc/-1"], "'abc/-1' is no task"),
        (["dead", "bury"], "No such command 'bury'"),
        (["dead", "show", "first"], "not a valid integer"),
        (["dead", "show", "0"], "not in the range"),
        (["dead", "drop"], "by their numbers, or all of them by --all"),
        (["dead", "requeue", "--all", "1"], "by their numbers, or all of them by --all"),
        (["replay"], "Missing argument 'FILE'"),
        (["run"], "Missing argument 'SCRIPT'"),
        (["run", "--authkey", "secret", "script.py"], "No such option"),
    ],
    ids=str,
)
def test_wrong_arguments_are_told_with_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err


def test_the_installed_command_is_this_one() -> None:
    metadata = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())
    assert metadata["project"]["scripts"] == {"multihost": f"{main.__module__}:{main.__name__}"}


def test_importing_multihost_imports_of_other_packages_none_but_cloudpickle_at_most() -> None:
    program = (
        "import sys; before = {*sys.modules}; import multihost\n"
        "names = {name.partition('.')[0] for name in {*sys.modules} - before}\n"
        "print(*sorted(names - {*sys.stdlib_module_names}))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert {*result.stdout.split()} - {"cloudpickle", "__mp_main__"} == {"multihost"}

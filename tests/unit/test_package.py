"""The package itself: what it offers by name, and what it imports for that."""

import subprocess
import sys

import pytest

import multihost


def loaded_by(statement: str) -> set[str]:
    """The modules of ours that a program has loaded which does only that."""
    program = f"import sys; {statement}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    return {name for name in run.stdout.split() if name.startswith("multihost.")}


def test_every_public_name_is_there_and_listed() -> None:
    assert [name for name in multihost.__all__ if not hasattr(multihost, name)] == []
    assert set(multihost.__all__) <= set(dir(multihost))


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'multihost' has no attribute 'Poool'"):
        multihost.Poool  # type: ignore[attr-defined]  # noqa: B018


def test_pool_is_imported_when_it_is_first_asked_for() -> None:
    assert "multihost.pool" not in loaded_by("import multihost")
    assert "multihost.pool" in loaded_by("import multihost; multihost.Pool")
    assert "multihost.pool" in loaded_by("from multihost import Pool")


@pytest.mark.parametrize("module", ["broker.service", "runner.loop", "local"])
def test_master_and_worker_load_nothing_that_only_clients_need(module: str) -> None:
    assert not {"multihost.pool", "multihost.client.session"} & loaded_by(f"import multihost.{module}")


def test_children_have_what_programs_ask_for_before_they_begin() -> None:
    modules = loaded_by("import multihost.runner.preloaded")
    homes = {getattr(multihost, name).__module__ for name in multihost.__all__}
    assert {home for home in homes if home.startswith("multihost.")} <= modules | {"multihost.shared"}

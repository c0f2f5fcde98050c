"""docs/api.md tells what there is: every public name and method, each as it can be called, and nothing else."""

import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import multihost
import multihost.friends.joblib
from multihost.cli import commands
from multihost.client.results import IMapIterator, MapResult
from multihost.options import Options
from multihost.shared import QueueProxy

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
PUBLIC: dict[str, Any] = {name: getattr(multihost, name) for name in multihost.__all__}
ERRORS = [name for name, one in PUBLIC.items() if isinstance(one, type) and issubclass(one, BaseException)]
CLASSES = {name for name, one in PUBLIC.items() if isinstance(one, type)} - {*ERRORS}


def rows(section: str, heading: str) -> list[str]:
    """What stands first in each row of the section's tables with that heading, without its quotes."""
    tables = re.findall(r"((?:^\|.*\n)+)", SECTIONS[section], re.MULTILINE)
    wanted = [table.splitlines()[2:] for table in tables if table.startswith(f"| {heading} |")]
    return [re.findall(r"`([^`]+)`", line)[0] for table in wanted for line in table]


def call_of(name: str, function: Callable[..., object]) -> str:
    """How a function is called, without its types."""
    signature = inspect.signature(function)
    parameters = [each.replace(annotation=each.empty) for each in signature.parameters.values() if each.name != "self"]
    return f"{name}{signature.replace(parameters=parameters, return_annotation=signature.empty)}"


def methods(kind: type) -> set[str]:
    """The public methods that are ours, as they are called."""
    members: list[tuple[str, Any]] = inspect.getmembers(kind, callable)
    public = [(name, member) for name, member in members if not name.startswith("_")]
    return {call_of(name, member) for name, member in public if member.__module__.startswith("multihost")}


def test_every_public_class_has_a_section_and_every_public_error_a_row() -> None:
    assert sorted(rows("Errors", "error")) == sorted(ERRORS)
    assert {*SECTIONS} >= CLASSES


def test_every_section_is_of_something_that_exists() -> None:
    others = {"Options", "Errors", "multihost.friends.joblib", "Command line", "Scratch"}
    assert {*SECTIONS} - others == CLASSES


@pytest.mark.parametrize("kind", [multihost.Pool, multihost.Executor, multihost.QueueManager])
def test_a_class_is_made_as_documented(kind: type) -> None:
    assert f"`{call_of(kind.__name__, kind)}`\n" in SECTIONS[kind.__name__]


@pytest.mark.parametrize(
    "kind", [multihost.Pool, multihost.Executor, multihost.Future, multihost.AsyncResult, multihost.Job]
)
def test_a_class_has_exactly_the_documented_methods(kind: type) -> None:
    assert {*rows(kind.__name__, "method")} == methods(kind)


def test_the_queue_manager_and_its_queues_have_exactly_the_documented_methods() -> None:
    assert {*rows("QueueManager", "method")} == methods(multihost.QueueManager) | methods(QueueProxy)


def test_what_map_and_imap_return_has_exactly_the_documented_methods() -> None:
    assert methods(MapResult) == methods(multihost.AsyncResult)
    assert all(f"`{call}`" in SECTIONS["Pool"] for call in methods(IMapIterator))


def test_the_arguments_of_a_pool_are_all_explained() -> None:
    lines = re.findall(r"^\| (`.*?) \|", SECTIONS["Pool"].partition("| method |")[0], re.MULTILINE)
    assert re.findall(r"`(\w+)`", " ".join(lines)) == [*inspect.signature(multihost.Pool).parameters]


def test_options_are_documented_with_their_defaults() -> None:
    plain = {field.name: getattr(Options(), field.name) for field in fields(Options) if field.init}
    table = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", SECTIONS["Options"], re.MULTILINE))
    assert {*table} == {*plain}
    for name in ("retries", "backoff", "timeout", "priority"):
        assert table[name] == str(plain[name])
    assert table["retry_for"] == f"`{plain['retry_for'][0].__name__}`"


@pytest.mark.parametrize("name", ERRORS)
def test_what_an_error_is_besides_is_true(name: str) -> None:
    (line,) = re.findall(rf"^\| `{name}` \|(.*?)\|", SECTIONS["Errors"], re.MULTILINE)
    bases = {base.__name__ for base in getattr(multihost, name).__mro__}
    for base in re.findall(r"`(?:multiprocessing\.)?(\w+)`", line):
        assert base in bases


def test_the_command_line_has_exactly_the_documented_commands() -> None:
    assert {*rows("Command line", "command")} == {*commands.commands}


def test_the_functions_are_documented_as_they_are_called() -> None:
    functions = {call_of(name, PUBLIC[name]) for name in {*PUBLIC} - CLASSES - {*ERRORS}}
    assert {*rows("Job", "function"), *rows("Scratch", "function")} == functions


def test_the_joblib_backend_is_registered_as_documented() -> None:
    assert rows("multihost.friends.joblib", "function") == [
        call_of("register", multihost.friends.joblib.register),
    ]

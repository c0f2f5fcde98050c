"""Names, parameters and defaults are those of the standard library's classes; what is ours alone is left out."""

import inspect
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.pool import AsyncResult, IMapIterator, MapResult, Pool

import pytest

import multihost
from multihost.client import results
from multihost.executor import Future as OurFuture

# What newer versions of the standard library have; the control, if it is older, does without.
NEWER = {("Pool", "imap"): "buffersize", ("Pool", "imap_unordered"): "buffersize", ("Executor", "map"): "buffersize"}
# How processes are made is not the user's business here; see docs/from-multiprocessing.md.
NOT_OURS = {"Process"}
PAIRS = [
    (Pool, multihost.Pool),
    (AsyncResult, results.AsyncResult),
    (MapResult, results.MapResult),
    (IMapIterator, results.IMapIterator),
    (ProcessPoolExecutor, multihost.Executor),
    (Future, OurFuture),
]


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


@pytest.mark.parametrize(("control", "ours"), PAIRS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_public_name_is_there(control: type, ours: type) -> None:
    assert public(control) - public(ours) - NOT_OURS == set()


def parameters(function: object) -> list[tuple[str, object]]:
    """(name, default) of what can be given by position, in order, without self."""
    assert callable(function)
    found = inspect.signature(function).parameters.values()
    named = [parameter for parameter in found if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    return [(parameter.name, parameter.default) for parameter in named if parameter.name != "self"]


def methods() -> list[tuple[type, type, str]]:
    called = [(control, ours, name) for control, ours in PAIRS[:1] + PAIRS[4:] for name in sorted(public(control))]
    methods = [case for case in called if case[2] not in NOT_OURS and inspect.isfunction(getattr(case[0], case[2]))]
    return [*methods, (Pool, multihost.Pool, "__init__"), (ProcessPoolExecutor, multihost.Executor, "__init__")]


@pytest.mark.parametrize(("control", "ours", "name"), methods(), ids=lambda value: getattr(value, "__name__", value))
def test_parameters_have_the_same_names_order_and_defaults(control: type, ours: type, name: str) -> None:
    expected, found = parameters(getattr(control, name)), parameters(getattr(ours, name))
    newer = NEWER.get((ours.__name__, name))
    if newer is not None and newer not in dict(expected):
        found = [parameter for parameter in found if parameter[0] != newer]
    # An empty dict as default is one that nobody may change: None stands for it.
    assert found == [(name, None if default == {} else default) for name, default in expected]


@pytest.mark.parametrize(("control", "ours", "name"), methods(), ids=lambda value: getattr(value, "__name__", value))
def test_what_only_a_keyword_gives_is_there_too(control: type, ours: type, name: str) -> None:
    def keywords(function: object) -> dict[str, object]:
        assert callable(function)
        found = inspect.signature(function).parameters.values()
        return {one.name: one.default for one in found if one.kind is one.KEYWORD_ONLY}

    expected = keywords(getattr(control, name))
    assert expected.items() <= keywords(getattr(ours, name)).items()


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_what_is_new_comes_in_its_place(method: str) -> None:
    names = [name for name, _ in parameters(getattr(multihost.Pool, method))]
    assert names == ["func", "iterable", "chunksize", "buffersize"]

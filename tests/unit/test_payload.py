"""multihost/payload.py: what travels by reference and what by value, and a task's exception as itself."""

import os
import pathlib
import pickle
import resource
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multihost.client.delivery import opened
from multihost.errors import PythonMismatch, RemoteError, RemoteTraceback, ResultNotRebuilt
from multihost.payload import (
    LARGE_BYTES,
    PYTHON_MINOR,
    Large,
    Places,
    Retrying,
    bind,
    by_value,
    content_id,
    dump_error,
    dump_part,
    dumps,
    dumps_large,
    is_by_value,
    load_error,
    load_function,
    load_part,
    loads,
    name_in,
    parts_of,
    without,
)
from multihost.wire.messages import Message, decode, encode, split

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=10,
)


def double(number: int) -> int:
    return 2 * number


@pytest.fixture
def interactive(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], int]:
    """A function as a REPL defines it: importable from ``__main__`` here, and nowhere else."""
    names: dict[str, object] = {"__name__": "__main__"}
    exec("def triple(number): return 3 * number", names)
    triple: Callable[[int], int] = names["triple"]  # type: ignore[assignment]
    monkeypatch.setattr(sys.modules["__main__"], "triple", triple, raising=False)
    return triple


# --- values ----------------------------------------------------------------------------------------------------------


@given(VALUES)
def test_plain_value_travels_by_reference_and_arrives_equal(value: object) -> None:
    data = dumps(value)
    assert not is_by_value(data)
    assert loads(data) == value


def test_function_of_a_module_travels_by_name() -> None:
    data = dumps(double)
    assert not is_by_value(data)
    assert loads(data) is double


@pytest.mark.parametrize("definition", [dumps(divmod), by_value(divmod), dumps(Retrying(divmod, (OSError,)))])
@pytest.mark.parametrize("large", [b"x" * LARGE_BYTES, b"short"])
def test_function_that_is_bound_to_arguments_is_the_same_with_these(definition: bytes, large: bytes) -> None:
    places: Places = {0: large, 2: b"second", "key": b"third"}
    args, kwds = without(places, (large, 1, b"second", 3), {"last": 0, "key": b"third", "more": 2})
    assert (args, kwds) == ((None, 1, None, 3), {"last": 0, "key": None, "more": 2})
    bound, plain = load_function(b"".join(bind(definition, places).parts)), load_function(definition)
    assert bound.function is plain.function is divmod
    assert bound.retry_for == plain.retry_for == ((OSError,) if b"Retrying" in definition else ())
    args, kwds = bound.complete((args, kwds))
    assert args == (large, 1, b"second", 3)
    assert [*kwds.items()] == [("last", 0), ("key", b"third"), ("more", 2)]
    assert plain.complete((args, kwds)) == (args, kwds)


def test_name_of_a_function_is_found_whatever_it_is_bound_to() -> None:
    bound, by_itself = (b"".join(bind(f, {0: b"x" * LARGE_BYTES}).parts) for f in (dumps(double), by_value(double)))
    assert name_in(bound) == name_in(dumps(double)) == f"{__name__}.double"
    assert name_in(by_itself) == ""
    assert name_in(b"bound to be damaged") == ""


def test_lambda_and_closure_travel_by_value() -> None:
    factor = 5
    data = dumps((lambda number: factor * number, "beside it"))
    assert is_by_value(data)
    copy: Any = loads(data)
    assert (copy[0](2), copy[1]) == (10, "beside it")


def test_function_of_a_main_script_travels_by_name_as_the_script_does(interactive: Callable[[int], int]) -> None:
    assert not is_by_value(dumps(interactive))


def test_function_of_a_repl_travels_by_value(
    interactive: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dumps([interactive], main_travels=False)
    assert is_by_value(data)
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))  # another program's
    copy: Any = loads(data)
    assert copy[0](2) == 6


def test_repl_sends_by_reference_what_is_not_its_own() -> None:
    assert not is_by_value(dumps(double, main_travels=False))


def test_what_was_made_by_another_minor_version_is_refused_by_name_and_not_run() -> None:
    data = dumps(lambda: None)
    mark = PYTHON_MINOR.encode()
    assert mark in data.partition(b"\n")[0]
    foreign = data.replace(mark, b"3.9", 1)
    with pytest.raises(PythonMismatch) as caught:
        loads(foreign[:-20])  # had it been unpickled, this would be another error
    assert (caught.value.sender, caught.value.receiver) == ("3.9", PYTHON_MINOR)
    assert "def at the top level of a module" in str(caught.value)


@pytest.mark.parametrize("place", [None, 1])
def test_a_result_with_code_of_another_minor_version_says_which_one_alone_can_load_it(place: int | None) -> None:
    """Had one of another version tried, as is the advice for other results, it would have crashed."""
    foreign = by_value([lambda: None]).replace(PYTHON_MINOR.encode(), b"3.9", 1)
    if place is None:
        _, error = opened("result", foreign)
    else:
        error = load_part(b"0 2 0.1\n" + foreign)[2].errors[place]
    assert isinstance(error, ResultNotRebuilt)
    assert error.python == "3.9"
    assert "under Python 3.9, and no other" in str(error)
    assert "use Python 3.9 on both sides" in str(error)
    assert error.payload == foreign.partition(b"\n")[2]


@pytest.mark.parametrize("name", ["PosixPath", "PurePosixPath", "PureWindowsPath"])
def test_a_path_that_was_pickled_by_any_python_is_rebuilt(name: str) -> None:
    """Python 3.13 names the module ``pathlib._local``, those before and after it ``pathlib``."""
    for module in ("pathlib", "pathlib._local"):
        made = b"c%s\n%s\n(Vx\ntR." % (module.encode(), name.encode())  # in pickle's oldest protocol: a call
        assert loads(made) == getattr(pathlib, name)("x")


@pytest.mark.parametrize("value", [threading.Lock(), (number for number in range(3))], ids=["lock", "generator"])
def test_what_cannot_be_pickled_names_its_type(value: object) -> None:
    with pytest.raises((TypeError, pickle.PicklingError), match=type(value).__name__):
        dumps([value])


def test_mark_of_a_by_value_payload_is_no_beginning_of_a_pickle() -> None:
    assert not any(is_by_value(pickle.dumps("by-value ", protocol)) for protocol in range(2, 6))


# --- errors ----------------------------------------------------------------------------------------------------------


def raised(error: BaseException) -> BaseException:
    """``error`` with a traceback of a task's own."""
    try:
        raise error
    except BaseException as caught:
        return caught


class OwnError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class TwoArguments(Exception):
    """Its args are not what its __init__ takes, so it can be pickled but not unpickled."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Impostor(Exception):
    """Unpickles to something that is no exception."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return str, ("not an exception",)


class Exits(Exception):
    """Ends the process where it is pickled or rebuilt, and where its text is wanted."""

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self.where = where

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        if self.where == "pickled":
            raise SystemExit
        return _exit, ()

    def __str__(self) -> str:
        raise SystemExit


def _exit() -> None:
    raise SystemExit("rebuilt")


class OnlyThere(Exception):
    """Can be rebuilt by its sender alone."""

    at_sender = True

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return _only_at_sender, self.args


def _only_at_sender(*args: object) -> OnlyThere:
    if not OnlyThere.at_sender:
        raise ModuleNotFoundError("No module named 'theirs'")
    return OnlyThere(*args)


def cause_of(error: BaseException) -> str:
    assert isinstance(error.__cause__, RemoteTraceback)
    return error.__cause__.traceback


@pytest.mark.parametrize(
    "error", [ValueError("no"), OwnError(7), KeyError("k"), SystemExit(3), KeyboardInterrupt()], ids=repr
)
def test_exception_arrives_as_itself_with_the_remote_traceback_as_its_cause(error: BaseException) -> None:
    copy = load_error(dump_error(raised(error)))
    assert (type(copy), copy.args, vars(copy).get("code")) == (type(error), error.args, vars(error).get("code"))
    assert "in raised" in cause_of(copy)
    assert cause_of(copy).rstrip().splitlines()[-1].startswith((type(error).__name__, f"{__name__}."))


def test_notes_and_the_chain_of_causes_are_told() -> None:
    error = ValueError("outer")
    error.add_note("seen in task 7")
    error.__cause__ = KeyError("inner")
    copy = load_error(dump_error(raised(error)))
    assert copy.__notes__ == ["seen in task 7"]
    assert "KeyError: 'inner'" in cause_of(copy)
    assert "direct cause" in cause_of(copy)


def test_exception_of_a_class_without_a_name_to_import_travels_by_value() -> None:
    class Local(Exception):
        pass

    copy = load_error(dump_error(raised(Local("here"))))
    assert (type(copy).__qualname__, str(copy)) == (Local.__qualname__, "here")


@pytest.mark.parametrize(
    ("error", "type_name", "message"),
    [
        (TwoArguments(1, 2), "TwoArguments", "1 and 2"),
        (ValueError(threading.Lock()), "ValueError", "<unlocked _thread.lock object"),
        (Impostor("text"), "Impostor", "text"),
    ],
)
def test_exception_that_does_not_survive_the_journey_arrives_as_its_name_and_text(
    error: BaseException, type_name: str, message: str
) -> None:
    copy = load_error(dump_error(raised(error)))
    assert isinstance(copy, RemoteError)
    assert copy.type_name == type_name
    assert copy.message.startswith(message)
    assert type_name in cause_of(copy)


def test_exception_that_cannot_be_rebuilt_here_tells_why(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dump_error(raised(OnlyThere("lost")))
    monkeypatch.setattr(OnlyThere, "at_sender", False)
    copy = load_error(data)
    assert isinstance(copy, RemoteError)
    assert copy.type_name == "OnlyThere"
    assert copy.message.startswith("lost (this class cannot be rebuilt here: ModuleNotFoundError")


def test_exception_whose_text_raises_is_told_all_the_same() -> None:
    copy = load_error(dump_error(raised(Speechless())))
    assert type(copy) is Speechless
    stand_in = pickle.loads(dump_error(raised(Speechless(threading.Lock()))))
    assert stand_in[1:3] == ("Speechless", "<no text: str() of it raised RuntimeError>")


@pytest.mark.parametrize("where", ["pickled", "rebuilt"])
def test_exception_that_exits_on_its_journey_is_told_all_the_same(where: str) -> None:
    copy = load_error(dump_error(raised(Exits(where))))
    assert isinstance(copy, RemoteError)
    assert copy.args == ("Exits", "<no text: str() of it raised SystemExit>")


def test_exception_that_exits_where_it_is_rebuilt_here_tells_why() -> None:
    data = pickle.dumps((pickle.dumps(Exits("rebuilt")), "Exits", "its text", "its traceback"))
    assert load_error(data).args == ("Exits", "its text (this class cannot be rebuilt here: SystemExit('rebuilt'))")


def test_values_that_exit_where_they_are_rebuilt_fail_together() -> None:
    start, _, outcomes = load_part(dump_part(3, 0.1, [1, Exits("rebuilt")], {}))
    assert (start, len(outcomes)) == (3, 2)
    assert all(isinstance(error.__cause__, SystemExit) for error in outcomes.errors.values())


@pytest.mark.parametrize("travels", [dumps, by_value])
def test_payload_of_what_could_not_be_rebuilt_is_the_result_for_who_can(
    monkeypatch: pytest.MonkeyPatch, travels: Callable[[object], bytes]
) -> None:
    results: list[object] = [1, OnlyThere("here"), 3]
    single = travels(results[1])
    monkeypatch.setattr("multihost.payload.dumps", travels)
    part = dump_part(0, 0.1, results, {})
    monkeypatch.setattr(OnlyThere, "at_sender", False)
    (succeeded, error), (_, _, outcomes) = opened("result", single), load_part(part)
    assert not succeeded
    assert isinstance(error, ResultNotRebuilt)
    assert isinstance(error.__cause__, ModuleNotFoundError)
    monkeypatch.setattr(OnlyThere, "at_sender", True)
    assert pickle.loads(error.payload).args == ("here",)
    for place in range(3):
        item = outcomes.errors[place]
        assert isinstance(item, ResultNotRebuilt)
        assert repr(pickle.loads(item.payload)[0][item.place]) == repr(results[place])


def test_exception_above_the_limit_arrives_as_the_ends_of_its_text() -> None:
    error = raised(ValueError("begin" + "x" * 100_000 + "end"))
    assert isinstance(load_error(dump_error(error, 200_000)), RemoteError | ValueError)
    data = dump_error(error, 30_000)
    assert len(data) <= 30_000
    copy = load_error(data)
    assert isinstance(copy, RemoteError)
    assert copy.message.startswith("beginxxx")
    assert copy.message.endswith("xxxend")
    assert "characters left out" in copy.message
    assert cause_of(copy).startswith("Traceback")


# --- names of blobs --------------------------------------------------------------------------------------------------


def test_name_of_content_depends_on_the_content_and_its_needs_alone() -> None:
    one = content_id(b"one")
    names = {one, content_id(b"two"), content_id(b"one", (one,)), content_id(b"one", (one, one))}
    assert len(names) == 4
    assert content_id(b"one", (one,)) in names


def test_content_that_ends_like_the_needs_of_another_has_another_name() -> None:
    need = content_id(b"archive")
    assert content_id(b"function" + need.encode()) != content_id(b"function", (need,))
    assert content_id(need.encode() + b"\nfunction") != content_id(b"function", (need,))


# --- large values ----------------------------------------------------------------------------------------------------

BIG = bytes(range(256)) * (LARGE_BYTES // 256)


def arrived(value: object, main_travels: bool = True) -> Any:
    """The value behind ``dumps_large``, a message, and the wire."""
    content = dumps_large(value, main_travels)
    assert isinstance(content, Large)
    batch: Any = decode(b"".join(encode([("submit", content.stand_in())])))
    ((_, sent),) = batch
    assert len(sent) == len(content)
    return loads(sent)


@pytest.mark.parametrize(
    "value",
    [
        ((BIG,), {}),
        ((1, BIG, [BIG, BIG[1:]], "text" * 100_000), {"key": BIG + b"!"}),
        [BIG, bytearray(BIG), {"deep": (BIG,)}],
        ((os.path.join, BIG), {}),
    ],
)
def test_value_with_large_bytes_arrives_as_it_was(value: object) -> None:
    assert arrived(value) == value


def test_large_bytes_are_not_copied_on_their_way_to_the_socket() -> None:
    content = dumps_large(((BIG,), {}))
    assert isinstance(content, Large)
    assert any(part is BIG for part in encode(("submit", [content.stand_in()])))


def test_what_may_still_change_is_copied_at_once() -> None:
    value = bytearray(BIG)
    buffer = pickle.PickleBuffer(value)
    content = dumps_large(((BIG, value, buffer), {}))
    assert isinstance(content, Large)
    value[:] = bytes(len(value))
    assert loads(b"".join(parts_of(content.stand_in()))) == ((BIG, BIG, BIG), {})


def test_large_value_may_be_sent_any_number_of_times() -> None:
    content = dumps_large(((BIG,), {}))
    assert isinstance(content, Large)
    first, second = (b"".join(encode([content.stand_in()])) for _ in range(2))
    assert first == second
    assert loads(b"".join(parts_of(content.stand_in()))) == ((BIG,), {})


def test_large_value_travels_where_addresses_are_limited() -> None:
    limits = resource.getrlimit(resource.RLIMIT_AS)
    content = dumps_large([BIG] * 3 + [BIG[1:]])
    assert isinstance(content, Large)
    resource.setrlimit(resource.RLIMIT_AS, (1, limits[1]))
    try:
        stand_in = content.stand_in()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert loads(b"".join(parts_of(stand_in))) == [BIG] * 3 + [BIG[1:]]


def test_code_travels_by_value_beside_a_large_value_too() -> None:
    content = dumps_large(((BIG, lambda: 7), {}))
    assert isinstance(content, bytes)
    loaded: Any = loads(content)
    (big, function), _ = loaded
    assert (big, function()) == (BIG, 7)


def test_name_of_the_main_module_in_large_bytes_is_no_code_of_it() -> None:
    assert arrived(((BIG + b"__main__",), {}), main_travels=False) == ((BIG + b"__main__",), {})
    assert isinstance(dumps_large(((BIG, "__main__"), {}), main_travels=False), bytes)


def test_batch_is_split_by_the_size_of_what_is_stood_in_for() -> None:
    content = dumps_large(((BIG,), {}))
    assert isinstance(content, Large)
    batch: list[Message] = [("submit", [content.stand_in()]) for _ in range(3)]
    assert [len(part) for part in split(batch, 2 * len(content))] == [2, 1]

"""multihost/wire/messages.py: the decoder builds plain data and nothing else, and each role has its own messages."""

import builtins
import copyreg
import os
import pickle
import pickletools
import sys
from collections import OrderedDict
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from multihost.errors import ProtocolError
from multihost.wire import messages
from multihost.wire.messages import ROLES, check_batch, decode, decode_child, encode, split

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
HASHABLE = st.recursive(LEAVES, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=4)
PLAIN = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(HASHABLE, inner) | st.sets(HASHABLE, max_size=4)
    ),
    max_leaves=15,
)

_events: list[str] | None = None  # what ran, while a test watches


def _audit(event: str, args: tuple[object, ...]) -> None:
    # pickle.find_class is told by the unpickler that looks a name up; the others are what running code would do.
    if _events is not None and event in ("pickle.find_class", "import", "exec", "compile", "os.system"):
        _events.append(event)


sys.addaudithook(_audit)  # cannot be removed again, so one for all tests


def decode_watched(content: bytes) -> object:
    """``decode``; nothing may be imported, looked up or run by it."""
    global _events
    _events, modules = [], set(sys.modules)
    try:
        return decode(content)
    finally:
        events, _events = _events, None
        assert events == []
        assert set(sys.modules) == modules


class Reduced:
    """Pickles as a call of ``function``."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def call_of(module: str, name: str, protocol: int = 2) -> bytes:
    """A pickle that calls module.name('ran'), of a module that need not exist."""
    if protocol < 4:
        return b"c%s\n%s\n(V%s\ntR." % (module.encode(), name.encode(), b"ran")
    texts = b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name))
    return b"\x80\x05" + texts + b"\x93(\x8c\x03rantR."


# --- plain data ------------------------------------------------------------------------------------------------------


@given(PLAIN)
def test_plain_data_arrives_equal_and_of_the_same_types(value: object) -> None:
    copy = decode(b"".join(encode(value)))
    assert copy == value
    assert repr(type(copy)) == repr(type(value))


@given(PLAIN, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_data_in_the_protocols_that_stock_clients_choose_is_understood(value: object, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    if not any(opcode.name in ("GLOBAL", "STACK_GLOBAL") for opcode, _, _ in pickletools.genops(data)):
        assert decode(data) == value  # protocols below 4 write bytes and sets as calls, which are refused


@pytest.fixture(scope="module", autouse=True, params=["copied first", "as it lies"])
def _how_a_frame_is_read(request: pytest.FixtureRequest) -> Iterator[None]:
    """Small frames are read in one way and large ones in another; all of this holds for both."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "as it lies":
            patch.setattr(messages, "_COPIED_BYTES", -1)
        yield


def test_large_bytes_are_parts_of_their_own_uncopied() -> None:
    large = bytes(200_000)
    assert any(part is large for part in encode([("grant", large)]))


def test_object_in_a_request_is_refused_with_the_way_to_send_it() -> None:
    with pytest.raises(ProtocolError, match=r"not datetime\.date; a queue of multihost\.QueueManager carries any"):
        decode(pickle.dumps((None, "put", (date(2026, 1, 1),), {})))


# --- nothing of it runs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("__builtin__", "eval"),
        ("builtins", "object"),
        ("copyreg", "_reconstructor"),
        ("multihost.broker.queues", "Opaque"),
        ("antigravity", "x"),
        ("no_such_module_at_all", "x"),
        ("os", "path.join"),
    ],
)
def test_every_global_is_refused_without_import_or_call(module: str, name: str, protocol: int) -> None:
    with pytest.raises(ProtocolError, match="only plain data"):
        decode_watched(call_of(module, name, protocol))


@pytest.mark.parametrize(
    "value",
    [
        Reduced(os.system, "true"),
        Reduced(eval, "1"),
        Reduced(list),
        Reduced(getattr, "", "join"),
        ValueError("no"),
        Decimal(1),
        OrderedDict(a=1),
        complex(1, 2),
        range(3),
        int,
        len,
        object(),
    ],
    ids=repr,
)
@pytest.mark.parametrize("protocol", range(2, 6))
def test_whatever_pickles_itself_by_a_call_is_refused(value: object, protocol: int) -> None:
    with pytest.raises(ProtocolError):
        decode_watched(pickle.dumps([value], protocol))


@pytest.mark.parametrize("content", [b"Pid\n.", b"\x80\x05Vid\nQ.", b"\x80\x05\x97.", b"\x80\x05N\x98."])
def test_persistent_references_and_buffers_outside_the_frame_are_refused(content: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_watched(content)


@pytest.mark.parametrize("content", [b"\x82\x7b", b"\x83\x7b\x00", b"\x84\x7b\x00\x00\x00"])
def test_extension_codes_are_refused_known_or_not(content: bytes) -> None:
    for known in (False, True):
        if known:
            copyreg.add_extension("os", "system", 0x7B)
        try:
            with pytest.raises(ProtocolError):
                decode_watched(b"\x80\x02" + content + b"(Vtrue\ntR.")
        finally:
            if known:
                copyreg.remove_extension("os", "system", 0x7B)


@pytest.mark.parametrize(
    "opcodes",
    [
        b"Vos\n)R",  # REDUCE of a str
        b"Vos\n)\x81",  # NEWOBJ
        b"Vos\n)}\x92",  # NEWOBJ_EX
        b"(ios\nsystem\n",  # INST
        b"(Vos\no",  # OBJ
        b"]}Va\nNsb",  # BUILD sets attributes of a list
        b"}}Va\nNs}\x86b",  # BUILD with slots' state
        b"Va\n(Nea",  # APPENDS to a str
        b"N(N\x90",  # ADDITEMS to None
        b"N(NNu",  # SETITEMS of None
        b"}]Ns",  # a key that has no hash
        b"0",  # POP of nothing
        b"g7\n",  # GET of nothing
        b"\x80\xff",  # a protocol to come
        b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f",  # a frame that is not there
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",  # bytes that are not there
        b"I%s\n" % (b"9" * 5000),  # a number with too many digits
    ],
)
def test_opcodes_that_act_on_objects_are_refused_or_find_none_to_act_on(opcodes: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_watched(b"\x80\x05" + opcodes + b".")


@pytest.mark.parametrize(
    "opcodes",
    [
        b"\x96" + (1 << 40).to_bytes(8, "little"),  # BYTEARRAY8
        b"\x8e" + (1 << 40).to_bytes(8, "little"),  # BINBYTES8
        b"B\xff\xff\xff\xff",  # BINBYTES
        b"Nr\x00\x00\x40\x01",  # LONG_BINPUT
        b"Np20971520\n",  # PUT
        # A frame that ends inside of a number, whose rest the unpickler drops: it would go on with LONG_BINPUT.
        b"\x95\x04\0\0\0\0\0\0\0NNJ\1abcdX\6\0\0\0r\x00\x00\x40\x01.",
    ],
)
def test_size_that_a_frame_names_and_does_not_have_is_refused_before_memory_is_taken(opcodes: bytes) -> None:
    with pytest.raises(ProtocolError, match="a size or a place that it does not have"):
        decode(b"\x80\x05" + opcodes + b".")


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda rest: b"\x80\x05" + rest + b"."))
@example(b"")
@example(b".")
def test_random_bytes_are_plain_data_or_refused(content: bytes) -> None:
    try:
        value = decode_watched(content)
    except ProtocolError:
        return
    assert type(value).__module__ == "builtins"


def test_deep_nesting_of_what_has_no_hash_is_decoded_or_refused_and_harms_nothing() -> None:
    for opcode in (b"\x85", b"]", b"}"):
        begin, middle, end = {
            b"\x85": (b"", b"N", b"\x85"),
            b"]": (b"]", b"", b"a"),
            b"}": (b"}N", b"N", b"s"),
        }[opcode]
        content = b"\x80\x05" + begin * 200_000 + middle + end * (200_000 - (opcode == b"]")) + b"."
        try:
            value = decode_watched(content)
        except ProtocolError:
            continue
        assert isinstance(value, tuple | list | dict)


def test_reader_of_a_view_keeps_nothing_of_it() -> None:
    content = bytearray(b"".join(encode([b"abc", "def"])))
    value = decode(memoryview(content))
    content[:] = bytes(len(content))
    assert value == [b"abc", "def"]


# --- messages by role ------------------------------------------------------------------------------------------------

ID = "0" * 64
GOOD: dict[str, list[messages.Message]] = {
    "client": [
        ("blob", ID, b"content", ()),
        ("blob", ID, b"", (ID, ID)),
        ("release", [ID]),
        ("submit", 0, ID, {}, []),
        ("submit", 7, ID, {}, [b"", b"x"]),
        ("acknowledge", [1, 2]),
        ("submit", 7, ID, {"retries": 3, "labels": ("gpu",)}, [b""]),
        ("cancel", [1], False),
        ("explain", 1, 12),
        ("figures", 1),
        ("waits",),
        ("seal", 5, 2),
        ("collect", 1),
        ("taken", 3),
        ("count",),
        ("drop",),
        ("ping",),
        ("close",),
    ],
    "worker": [
        ("want", 3),
        ("settle", [(1, "result", b"x"), (2, "error", b"")]),
        ("settle", []),
        ("parts", [(1, 20, b"x")]),
        ("output", [(1, "text")]),
        ("begun", [1, 2]),
        ("rest", 1.5),
        ("ran", [(1, 20, 0.5)]),
        ("load", {"held": 1, "share": 0.5}),
        ("load", {}),
        ("relay_open", 1, ID, {}),
        ("relay", 1, [("ping",)]),
        ("relay_close", 1),
        ("give_back", [1]),
        ("drain",),
        ("heartbeat",),
    ],
    "monitor": [
        ("ask",),
        ("status",),
        ("find", "ab", 12),
        ("dead_list",),
        ("dead_show", 1),
        ("dead_save", 1),
        ("dead_requeue", [1, 2]),
        ("dead_drop", []),
    ],
}
WRONG_FIELDS: list[tuple[str, object]] = [
    ("client", ("blob", ID, "text", ())),
    ("client", ("blob", ID, bytearray(b"x"), ())),
    ("client", ("blob", ID, b"x", [])),
    ("client", ("blob", ID, b"x", (1,))),
    ("client", ("release", [1])),
    ("client", ("release", (ID,))),
    ("client", ("submit", "0", ID, {}, [])),
    ("client", ("submit", True, ID, {}, [])),
    ("client", ("submit", 0.0, ID, {}, [])),
    ("client", ("submit", 0, ID.encode(), {}, [])),
    ("client", ("submit", 0, ID, {}, ())),
    ("client", ("submit", 0, ID, {}, [b"x", "y"])),
    ("client", ("submit", 0, ID, {}, [b"x", None])),
    ("client", ("submit", 0, ID)),
    ("client", ("submit", 0, ID, {}, [], None)),
    ("client", ("acknowledge", 1)),
    ("client", ("acknowledge", [True])),
    ("client", ("submit", 0, ID, [], [])),
    ("client", ("cancel", ["1"], True)),
    ("client", ("cancel", [1], 1)),
    ("client", ("cancel", [1])),
    ("client", ("ping", None)),
    ("client", ("explain", 1)),
    ("client", ("explain", 1, "2")),
    ("client", ("figures", None)),
    ("worker", ("want", None)),
    ("worker", ("want", 1.5)),
    ("worker", ("want",)),
    ("worker", ("settle", [[1, "result", b"x"]])),
    ("worker", ("settle", [(1, "result")])),
    ("worker", ("settle", [(1, "result", b"x", b"y")])),
    ("worker", ("settle", [("1", "result", b"x")])),
    ("worker", ("settle", [(1, b"result", b"x")])),
    ("worker", ("settle", [(1, "result", "x")])),
    ("worker", ("settle", [(1, "result", b"x"), None])),
    ("worker", ("settle", {})),
    ("worker", ("parts", [(1, b"x")])),
    ("worker", ("output", [(1, b"text")])),
    ("worker", ("ran", [(1, 1, 1)])),
    ("worker", ("load", [])),
    ("worker", ("load", {1: 1})),
    ("worker", ("load", {"held": True})),
    ("worker", ("load", {"name": "x"})),
    ("worker", ("load", {"long" * 9: 1})),
    ("worker", ("load", dict.fromkeys(map(str, range(33)), 1))),
    ("worker", ("relay", 1, ())),
    ("worker", ("give_back", (1,))),
    ("worker", ("drain", True)),
    ("monitor", ("ask", "all")),
    ("monitor", ("status", "all")),
    ("monitor", ("find", 1, 12)),
    ("monitor", ("find", "ab", "12")),
    ("monitor", ("dead_list", 1)),
    ("monitor", ("dead_show", "1")),
    ("monitor", ("dead_save", [1])),
    ("monitor", ("dead_requeue", 1)),
    ("monitor", ("dead_drop", [True])),
    *((role, junk) for role in ROLES for junk in ((), ["ping"], "ping", None, (1,), (b"ping",), (("ping",),))),
]
roles = pytest.mark.parametrize("role", ROLES)


def test_examples_cover_every_message_of_every_role() -> None:
    assert {role: {str(message[0]) for message in examples} for role, examples in GOOD.items()} == {
        role: set(table) for role, table in ROLES.items()
    }


@roles
def test_role_may_send_its_messages_and_they_survive_the_wire(role: str) -> None:
    batch = check_batch(role, decode(b"".join(encode(GOOD[role]))))
    assert batch == GOOD[role]
    assert check_batch(role, []) == []


@pytest.mark.parametrize(
    ("role", "message"), [(r, m) for other in GOOD for m in GOOD[other] for r in ROLES if r != other]
)
def test_role_may_not_send_the_messages_of_another(role: str, message: messages.Message) -> None:
    assert message[0] not in ROLES[role]
    with pytest.raises(ProtocolError, match=f"a {role} may not send"):
        check_batch(role, [*GOOD[role], message])


@pytest.mark.parametrize(("role", "message"), WRONG_FIELDS)
def test_wrong_arity_or_type_is_refused(role: str, message: object) -> None:
    with pytest.raises(ProtocolError):
        check_batch(role, [*GOOD[role], message])


@roles
@pytest.mark.parametrize("batch", [None, (), ("ping",), "ping", {}, b""])
def test_what_is_no_list_is_no_batch(role: str, batch: object) -> None:
    with pytest.raises(ProtocolError, match="where a list of messages belongs"):
        check_batch(role, batch)


@roles
@given(st.lists(PLAIN | st.tuples(st.sampled_from(sorted(set().union(*ROLES.values()))), PLAIN), max_size=4))
def test_any_plain_data_is_checked_without_another_error(role: str, batch: list[object]) -> None:
    try:
        checked = check_batch(role, batch)
    except ProtocolError:
        return
    assert all(message[0] in ROLES[role] for message in checked)


def test_no_role_may_ask_for_what_the_stock_server_serves_to_every_key_holder() -> None:
    served = set().union(messages.FIRST_REQUESTS, *ROLES.values())
    assert served.isdisjoint({"shutdown", "debug_info", "number_of_objects", "get_methods", "#GETVALUE"})
    assert set(dir(builtins)).isdisjoint(served)


def test_refusal_does_not_repeat_a_long_name() -> None:
    with pytest.raises(ProtocolError) as caught:
        check_batch("client", [("x" * 10_000,)])
    assert len(str(caught.value)) < 200


# --- what a child process writes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        ("outcomes", [(1, 2, b"part")], [(1, "result", b"x"), (2, "error", b""), (3, "retry", b"")], 0.5),
        ("started", 1, True, False),
        ("output", [(1, "text\n")]),
        ("unstarted", [1, 2]),
        ("lend", True),
        ("relay_open", 1, {"session": "s"}),
        ("relay", 1, [("ping",)]),
        ("relay_close", 1),
    ],
)
def test_what_a_child_says_is_read(message: messages.Message) -> None:
    assert decode_child(b"".join(encode(message))) == message


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        (),
        ("settle", []),
        ("outcomes", [], [], 1),
        ("outcomes", [], [(1, "result", "x")], 0.5),
        ("outcomes", [], [(1, "lost", b"x")], 0.5),
        ("outcomes", [], ((1, "result", b"x"),), 0.5),
        ("outcomes", [(1, b"part")], [], 0.5),
        ("outcomes", [], [], 0.5, None),
        ("lend", 1),
        (["outcomes"], [], [], 0.5),
        [("lend", True)],
    ],
)
def test_what_else_a_child_writes_is_refused(value: object) -> None:
    with pytest.raises(ProtocolError, match="no message of a child"):
        decode_child(b"".join(encode(value)))


# --- frames of bounded weight ----------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(0, 40), max_size=4), max_size=12))
def test_batch_is_split_into_parts_of_bounded_weight_in_order(sizes: list[list[int]]) -> None:
    batch: list[messages.Message] = [("grant", [(n, bytes(size)) for n, size in enumerate(row)]) for row in sizes]
    parts = list(split(batch, weight_bytes=50))
    assert [message for part in parts for message in part] == batch
    assert all(parts)
    weights = [[sum(sizes[batch.index(message)]) for message in part] for part in parts]
    assert all(sum(part) <= 50 or len(part) == 1 for part in weights)

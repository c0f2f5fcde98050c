"""multihost/client/values.py: which arguments of a call, or of all the calls of a chunk, may be shared."""

from multihost.client.values import large_values, values_of_all
from multihost.payload import LARGE_BLOB_BYTES

LARGE, OTHER = b"1" * LARGE_BLOB_BYTES, b"2" * LARGE_BLOB_BYTES


def equal(value: bytes) -> bytes:
    """Another object that is equal."""
    return bytes(bytearray(value))


def test_large_bytes_objects_are_known_by_place_and_nothing_else_is() -> None:
    args = (1, LARGE, LARGE[1:], bytearray(LARGE), [LARGE], type("Mine", (bytes,), {})(LARGE))
    assert large_values(args, {"a": LARGE, "b": "text" * LARGE_BLOB_BYTES}) == {1: LARGE, "a": LARGE}


def test_a_chunk_shares_what_all_its_calls_have_at_the_same_place() -> None:
    assert values_of_all([(LARGE, 1), [LARGE, 2], (LARGE, 3, OTHER)]) == {0: LARGE}
    assert values_of_all([(LARGE, OTHER), (LARGE, OTHER)]) == {0: LARGE, 1: OTHER}
    assert values_of_all([(1, LARGE), (LARGE, 1)]) == {}
    assert values_of_all([(LARGE, 1), (equal(LARGE), 2)]) == {}
    assert values_of_all([(LARGE, 1), ()]) == {}
    assert values_of_all([(LARGE, 1), iter((LARGE, 2))]) == {}
    assert values_of_all([iter((LARGE, 1)), (LARGE, 1)]) == {}

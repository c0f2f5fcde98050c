"""The options of a call: their bounds, and what of them travels."""

import pytest

from multihost.options import Options, as_bytes


def test_options_that_nobody_chose_cost_nothing_on_the_wire() -> None:
    assert Options().wire == {}


def test_what_was_chosen_travels_as_plain_data() -> None:
    options = Options(
        retries=3,
        backoff=1,
        timeout=30,
        priority=-2,
        name="nightly",
        labels=frozenset({"gpu", "big"}),
        delay=5,
        expires=60,
    )

    assert Options(memory="2G").wire == {"memory": 2 << 30} == Options(memory=2 << 30).wire
    assert options.wire == {
        "retries": 3,
        "backoff": 1.0,
        "timeout": 30.0,
        "priority": -2,
        "name": "nightly",
        "labels": ("big", "gpu"),
        "delay": 5.0,
        "expires": 60.0,
    }


def test_one_exception_and_one_label_need_no_tuple() -> None:
    options = Options().but(retry_for=OSError, labels="gpu")

    assert options.retry_for == (OSError,)
    assert options.labels == {"gpu"}


def test_changing_one_option_keeps_the_others() -> None:
    assert Options(retries=3).but(timeout=5) == Options(retries=3, timeout=5)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"retrys": 1}, TypeError, "no option 'retrys'; there are retries, "),
        ({"retries": -1}, ValueError, "retries must be from 0 to"),
        ({"retries": 1.5}, TypeError, "retries must be a whole number, not 1.5"),
        ({"retries": True}, TypeError, "retries must be a whole number"),
        ({"timeout": 0}, ValueError, "timeout must be a number of seconds above zero, not 0"),
        ({"timeout": float("nan")}, ValueError, "timeout must be a number of seconds above zero"),
        ({"timeout": "5"}, TypeError, "timeout must be a number of seconds, not '5'"),
        ({"memory": 1000}, ValueError, "memory must be from 64M to 1024T, not 1000"),
        ({"memory": "two G"}, ValueError, "memory must be a whole number of bytes, or a str such as '512M'"),
        ({"memory": 1e9}, TypeError, "memory must be a whole number of bytes"),
        ({"memory": True}, TypeError, "memory must be a whole number of bytes"),
        ({"backoff": -1}, ValueError, "backoff must be a number of seconds from zero, not -1"),
        ({"priority": 1001}, ValueError, "priority must be from -1,000 to 1,000, not 1,001"),
        ({"name": 5}, ValueError, "name must be a str"),
        ({"delay": -1}, ValueError, "delay must be a number of seconds from zero, not -1"),
        ({"delay": None}, TypeError, "delay must be a number of seconds, not None"),
        ({"expires": 0}, ValueError, "expires must be a number of seconds above zero, not 0"),
        ({"expires": "60"}, TypeError, "expires must be a number of seconds, not '60'"),
        ({"delay": 5, "expires": 5}, ValueError, "expires must be above delay, 5, or no call could begin: 5"),
        ({"labels": "two words"}, ValueError, "a label is a word without spaces and commas, not 'two words'"),
        ({"labels": [5]}, TypeError, "a label must be a str, not 5"),
        ({"labels": None}, TypeError, "labels must be a str or several of them"),
        ({"retry_for": "OSError"}, TypeError, "retry_for must be exception classes"),
        ({"retry_for": ()}, TypeError, "retry_for must be exception classes"),
    ],
)
def test_a_wrong_option_says_what_it_must_be(changes: dict[str, object], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says.replace("(", r"\(")):
        Options().but(**changes)


@pytest.mark.parametrize(
    ("given", "size"),
    [(1 << 30, 1 << 30), ("64m", 64 << 20), ("64MB", 64 << 20), ("2 GiB", 2 << 30), (" 1g ", 1 << 30), ("1T", 1 << 40)],
)
def test_memory_is_given_as_people_write_it(given: object, size: int) -> None:
    assert as_bytes(given) == size

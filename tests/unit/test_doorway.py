"""Tests of the doorway, where peers without a proof of the key stand, and of lines that are logged seldom."""

import pytest

from multihost.logs import Seldom
from multihost.wire.doorway import Doorway, WrongKeys, origin


def test_the_oldest_of_an_address_makes_room_for_the_newest_from_there() -> None:
    doorway: Doorway[int] = Doorway(most=100, most_per_address=3)
    assert [doorway.arrive(who, "flood") for who in range(5)] == [None, None, None, 0, 1]
    assert list(doorway) == [2, 3, 4]


def test_a_flood_from_one_address_leaves_others_alone() -> None:
    doorway: Doorway[int] = Doorway(most=100, most_per_address=3)
    doorway.arrive(-1, "honest")
    for who in range(50):
        assert doorway.arrive(who, "flood") != -1
    assert -1 in list(doorway)


def test_the_oldest_of_all_makes_room_when_the_doorway_is_full() -> None:
    doorway: Doorway[int] = Doorway(most=3, most_per_address=3)
    assert [doorway.arrive(who, f"address {who}") for who in range(5)] == [None, None, None, 0, 1]
    assert len(doorway) == 3


def test_who_has_left_takes_no_room_and_may_leave_again() -> None:
    doorway: Doorway[int] = Doorway(most=100, most_per_address=2)
    doorway.arrive(1, "here")
    doorway.arrive(2, "here")
    doorway.leave(1)
    doorway.leave(1)
    assert doorway.arrive(3, "here") is None
    assert list(doorway) == [2, 3]


def test_handshakes_from_where_wrong_keys_come_wait_longer_each_time_up_to_a_bound() -> None:
    wrong = WrongKeys()
    waits = []
    for number in range(2000):
        waits.append(wrong.wait("guesser", now=float(number) / 100))
        wrong.note("guesser", now=float(number) / 100)
    assert waits[:11] == [0.0] * 5 + [0.1, 0.2, 0.4, 0.8, 1.6, 2.0]
    assert set(waits[11:]) == {2.0}
    assert wrong.wait("somebody else", now=20.0) == 0.0


def test_wrong_keys_are_forgotten_a_while_after_the_last_one() -> None:
    wrong = WrongKeys()
    for _ in range(6):
        wrong.note("here", now=100.0)
    wrong.note("there", now=130.0)
    assert wrong.wait("here", now=160.0) == 0.2
    assert wrong.wait("here", now=160.1) == 0.0
    assert len(wrong) == 1, "and take no memory"


def test_a_right_key_from_an_address_forgives_the_wrong_ones() -> None:
    wrong = WrongKeys()
    for _ in range(9):
        wrong.note("here", now=100.0)
    wrong.forget("here")
    wrong.forget("nowhere")
    assert wrong.wait("here", now=100.0) == 0.0


def test_addresses_that_wrong_keys_came_from_are_bounded() -> None:
    wrong = WrongKeys()
    for number in range(WrongKeys.MOST_ADDRESSES + 10):
        wrong.note(f"address {number}", now=0.0)
    assert len(wrong) == WrongKeys.MOST_ADDRESSES


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::7", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
    ],
)
def test_addresses_of_one_network_of_ipv6_are_counted_as_one(host: str, counted: str) -> None:
    assert origin(host) == counted


def test_one_of_many_alike_lines_is_let_through_with_their_number() -> None:
    seldom = Seldom(10.0)
    assert seldom.let_through(now=100.0) == 1
    assert [seldom.let_through(now=100.0 + n) for n in range(1, 10)] == [0] * 9
    assert seldom.let_through(now=110.0) == 10
    assert seldom.let_through(now=200.0) == 1

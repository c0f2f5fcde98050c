"""A session over a link that is a fake: what is sent, and in which order its threads and callbacks go on."""

import queue
import threading
from typing import Any

import pytest

from multihost.client.session import Session
from multihost.errors import ClientClosed
from multihost.options import PLAIN


class FakeLink:
    """A master that accepts everything and answers nothing; what it was told is in ``told``."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self._ended: queue.SimpleQueue[None] = queue.SimpleQueue()

    def send_batch(self, batch: list[tuple[object, ...]]) -> None:
        self.told += [str(message[0]) for message in batch]

    def receive(self, timeout: float | None) -> list[object]:
        self._ended.get()
        raise ConnectionResetError("the connection was ended")

    def moved_bytes(self) -> tuple[int, int]:
        return 0, 0

    def silence(self) -> float:
        return 0.0

    def interrupt(self) -> None:
        self._ended.put(None)

    def close(self) -> None:
        self.interrupt()


class FakeDoor:
    """Opens sessions over one link."""

    depth = 0
    needs: tuple[str, ...] = ()
    archives: tuple[str, ...] = ()

    def __init__(self, link: FakeLink) -> None:
        self._link = link

    def open(self, info: dict[str, object]) -> tuple[FakeLink, dict[str, object]]:
        return self._link, {"max_payload": 1_000_000, "known": False, "accepted": 0, "workers": 1, "slots": 1}


@pytest.fixture
def link() -> FakeLink:
    return FakeLink()


@pytest.fixture
def session(link: FakeLink) -> Any:
    return Session(None, b"", 1.0, door=FakeDoor(link))


def test_the_goodbye_is_sent_before_what_is_left_fails(session: Session, link: FakeLink) -> None:
    told: list[list[str]] = []
    session.submit(session.prepare(abs), (-1,), {}, lambda success, value: told.append(list(link.told)), PLAIN)
    session.close()
    assert told == [["blob", "submit", "close"]]


def test_a_callback_that_closes_once_more_finds_the_receiving_thread_at_its_end(session: Session) -> None:
    """As a pool's last call does, if the pool is closed and then terminated."""
    alive: list[bool] = []
    errors: list[object] = []

    def close_once_more(success: bool, value: object) -> None:
        session.close()
        alive.append(session._receiver.is_alive())
        errors.append(value)

    session.submit(session.prepare(abs), (-1,), {}, close_once_more, PLAIN)
    session.close()
    assert alive == [False]
    assert isinstance(errors[0], ClientClosed)


def test_what_is_left_fails_even_if_the_goodbye_is_interrupted(
    session: Session, link: FakeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(batch: list[tuple[object, ...]]) -> None:
        raise KeyboardInterrupt

    failed = threading.Event()
    session.submit(session.prepare(abs), (-1,), {}, lambda success, value: failed.set(), PLAIN)
    monkeypatch.setattr(link, "send_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        session.close()
    link.interrupt()
    assert failed.is_set()


def test_function_that_was_prepared_last_is_prepared_anew_for_other_options(session: Session) -> None:
    twice = PLAIN.but(retries=1)
    plain = session.prepare(abs)
    assert session.prepare(abs) is plain
    assert session.prepare(abs, twice).blobs[-1] != plain.blobs[-1]
    assert session.prepare(abs).blobs == plain.blobs
    assert session.prepare(len).name == "len"
    session.close()


def test_function_that_travels_as_it_is_now_is_prepared_for_each_call(session: Session) -> None:
    kept = [1]

    def closure() -> list[int]:
        return kept

    before = session.prepare(closure)
    kept.append(2)
    assert session.prepare(closure).blobs[-1] != before.blobs[-1]
    session.close()

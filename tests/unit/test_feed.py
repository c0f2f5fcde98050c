"""How the items of a map and of an imap come to a session, and their outcomes back; the session is a fake."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

from multihost.client import feed
from multihost.client.feed import Chunks, Singles, Stream
from multihost.client.packing import Prepared
from multihost.client.plan import Plan
from multihost.client.results import Window
from multihost.errors import ClientClosed
from multihost.options import PLAIN, Options
from multihost.payload import Outcomes
from tests.unit.test_results import Pool

FUNCTION = Prepared("square", [])


class Session:
    """Keeps what is submitted until the test ends it."""

    def __init__(self, slots: int = 2) -> None:
        self.slots = slots
        self.chunks: list[tuple[list[Any], Callable[..., None]]] = []
        self.cancelled: list[tuple[list[int], bool]] = []
        self.unsendable: object = None  # a chunk with this item fails at once
        self.error: Exception | None = None
        self.submitted = threading.Condition()

    def submit_chunk(
        self, function: Prepared, items: list[Any], star: bool, callback: Callable[..., None], options: Options
    ) -> list[int]:
        if self.error is not None:
            raise self.error
        if self.unsendable in items:
            callback(0, Outcomes.failed(TypeError("cannot be pickled"), len(items)), 0.0, 0)
            return []
        with self.submitted:
            self.chunks.append((items, callback))
            self.submitted.notify_all()
            return [len(self.chunks) - 1]

    def submit(
        self,
        function: Prepared,
        args: Any,
        kwds: Any,
        callback: Callable[[bool, object], None],
        options: Options,
        patient: bool,
    ) -> int:
        assert patient, "a map waits for room"

        def part(index: int, outcomes: Outcomes, seconds: float, size_bytes: int) -> None:
            callback(*outcomes.pairs()[0])

        return self.submit_chunk(function, [args], False, part, options)[0]

    def cancel(self, sequences: Iterable[int], running: bool = False) -> set[int]:
        self.cancelled.append((sorted(sequences), running))
        return set(self.cancelled[-1][0])

    # --- what a test does ----------------------------------------------------------------------------------

    def end(self, number: int, seconds: float = 1e-3) -> None:
        """A chunk has run: each item's result is itself."""
        items, callback = self.chunks[number]
        callback(0, Outcomes(list(items)), seconds * len(items), 10 * len(items))

    def end_all(self, seconds: float = 1e-3) -> int:
        """Every chunk has run, and those submitted because of it; how many."""
        number = 0
        while number < len(self.chunks):
            self.end(number, seconds)
            number += 1
        return number


class Arrivals:
    """Collects outcomes by index; none may come twice."""

    def __init__(self) -> None:
        self.outcomes: dict[int, tuple[bool, object]] = {}

    def __call__(self, index: int, outcomes: Outcomes) -> None:
        for number, outcome in enumerate(outcomes.pairs(), index):
            assert number not in self.outcomes
            self.outcomes[number] = outcome

    @property
    def values(self) -> list[object]:
        return [self.outcomes[index][1] for index in range(len(self.outcomes))]


@pytest.fixture
def session() -> Session:
    return Session()


@pytest.fixture
def arrived() -> Arrivals:
    return Arrivals()


def chunks(session: Session, items: Iterable[Any], arrived: Arrivals, chunksize: int | None = None) -> Chunks:
    listed = list(items)
    plan = Plan(len(listed), chunksize)
    fake: Any = session
    return Chunks(fake, FUNCTION, listed, False, PLAIN, arrived, plan, None)


def singles(session: Session, items: Iterable[Any], arrived: Arrivals, star: bool = False) -> Singles:
    fake: Any = session
    return Singles(fake, FUNCTION, list(items), star, PLAIN, arrived)


# --- maps in chunks --------------------------------------------------------------------------------------------


def test_every_item_has_its_outcome_once(session: Session, arrived: Arrivals) -> None:
    chunks(session, range(10_000), arrived).start()
    count = session.end_all(1e-6)
    assert arrived.values == list(range(10_000))
    assert count < 50


def test_the_beginning_of_a_map_submits_no_more_than_the_first_window(session: Session, arrived: Arrivals) -> None:
    chunks(session, range(10_000), arrived).start()
    assert [items for items, _ in session.chunks] == [[0], [1], [2], [3]]


def test_a_chosen_chunksize_is_submitted_as_a_whole(session: Session, arrived: Arrivals) -> None:
    chunks(session, range(100), arrived, chunksize=30).start()
    assert [len(items) for items, _ in session.chunks] == [30, 30, 30, 10]


def test_parts_of_a_chunk_arrive_in_their_places(session: Session, arrived: Arrivals) -> None:
    chunks(session, "abc", arrived, chunksize=3).start()
    _, callback = session.chunks[0]
    callback(0, Outcomes(["A"]), 0.1, 1)
    assert arrived.outcomes == {0: (True, "A")}
    error = LookupError("C")
    callback(1, Outcomes(["B", None], {1: error}), 0.1, 2)
    assert arrived.values == ["A", "B", error]


def test_ten_thousand_items_that_cannot_be_sent_end_without_deep_recursion(session: Session, arrived: Arrivals) -> None:
    session.unsendable = "bad"
    chunks(session, ["bad"] * 10_000, arrived).start()
    assert [success for success, _ in arrived.outcomes.values()] == [False] * 10_000


def test_a_session_that_has_ended_raises_at_the_start(session: Session, arrived: Arrivals) -> None:
    session.error = ClientClosed()
    with pytest.raises(ClientClosed):
        chunks(session, range(10), arrived).start()
    with pytest.raises(ClientClosed):
        singles(session, range(10), arrived).start()
    assert arrived.outcomes == {}


def test_a_session_that_ends_in_the_middle_is_the_outcome_of_what_is_left(session: Session, arrived: Arrivals) -> None:
    chunks(session, range(100), arrived).start()
    session.error = ClientClosed()
    for number in range(4):
        session.end(number)
    assert len(arrived.outcomes) == 100
    assert sum(success for success, _ in arrived.outcomes.values()) == 4


def test_items_that_take_long_are_all_submitted_after_a_while(
    session: Session, arrived: Arrivals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_PATIENCE_SECONDS", 0.01)
    chunks(session, range(200), arrived).start()
    with session.submitted:
        assert session.submitted.wait_for(lambda: len(session.chunks) == 200, 30)
    assert {len(items) for items, _ in session.chunks} == {1}


def test_cancelling_a_map_ends_what_is_not_submitted_and_asks_for_the_rest(session: Session, arrived: Arrivals) -> None:
    feeding = chunks(session, range(100), arrived)
    feeding.start()
    session.end(1)
    assert feeding.cancel(running=True)
    assert session.cancelled == [([0, 2, 3, *range(4, len(session.chunks))], True)]
    left = range(sum(len(items) for items, _ in session.chunks), 100)
    assert all(isinstance(arrived.outcomes[index][1], CancelledError) for index in left)
    assert len(arrived.outcomes) == len(left) + 1
    before = len(session.chunks)
    session.end(0)
    assert len(session.chunks) == before, "nothing is submitted after it"


# --- maps one by one -------------------------------------------------------------------------------------------


def test_each_item_is_a_task_of_its_own(session: Session, arrived: Arrivals) -> None:
    singles(session, "abc", arrived).start()
    assert [items for items, _ in session.chunks] == [[("a",)], [("b",)], [("c",)]]
    session.end_all()
    assert arrived.values == [("a",), ("b",), ("c",)]


def test_an_item_that_is_no_arguments_fails_alone(session: Session, arrived: Arrivals) -> None:
    singles(session, [(1, 2), 3, [4]], arrived, star=True).start()
    assert isinstance(arrived.outcomes[1][1], TypeError)
    assert [items for items, _ in session.chunks] == [[(1, 2)], [(4,)]]


def test_a_session_that_ends_in_the_middle_is_the_outcome_of_the_items_not_submitted(
    session: Session, arrived: Arrivals
) -> None:
    def items() -> Iterator[int]:
        yield 0
        yield 1

    feeding = singles(session, items(), arrived)
    submit = session.submit

    def once(*args: Any, **kwds: Any) -> int:
        number = submit(*args, **kwds)
        session.error = ClientClosed()
        return number

    session.submit = once  # type: ignore[method-assign]
    feeding.start()
    assert list(arrived.outcomes) == [1]
    assert isinstance(arrived.outcomes[1][1], ClientClosed)


# --- imap ------------------------------------------------------------------------------------------------------


def stream(session: Session, iterable: Iterable[Any], window: Window, chunksize: int = 1) -> threading.Event:
    """Read ``iterable``; the event is set when that is over."""
    over = threading.Event()
    fake: Any = session
    Stream(fake, FUNCTION, iterable, PLAIN, chunksize, None, window, over.set).start()
    return over


def test_an_input_is_submitted_in_chunks_of_the_chosen_size(session: Session) -> None:
    window = Window(Pool(), ordered=True)
    assert stream(session, iter(range(10)), window, 4).wait(30)
    assert [items for items, _ in session.chunks] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    session.end_all()
    assert [window.take(0)[1] for _ in range(10)] == list(range(10))


def test_an_inputs_own_exception_comes_after_the_items_before_it(session: Session) -> None:
    def numbers() -> Iterator[int]:
        yield from range(5)
        raise LookupError("no more")

    window = Window(pool := Pool(), ordered=True)
    assert stream(session, numbers(), window, 3).wait(30)
    session.end_all()
    assert [window.take(0)[1] for _ in range(5)] == list(range(5))
    success, error = window.take(0)
    assert (success, str(error)) == (False, "no more")
    with pytest.raises(StopIteration):
        window.take(0)
    assert pool.calls == 0


def test_what_is_not_iterable_is_an_exception_of_the_first_item(session: Session) -> None:
    window = Window(Pool(), ordered=True)
    assert stream(session, 5, window).wait(30)  # type: ignore[arg-type]
    assert isinstance(window.take(0)[1], TypeError)


def test_with_a_buffersize_no_item_is_read_before_there_is_room(session: Session) -> None:
    read: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            yield number

    window = Window(Pool(), ordered=True, buffersize=2)
    over = stream(session, numbers(), window)
    with session.submitted:
        assert session.submitted.wait_for(lambda: len(session.chunks) == 2, 30)
    session.end(0)
    assert read == [0, 1]
    window.take(30)
    with session.submitted:
        assert session.submitted.wait_for(lambda: len(session.chunks) == 3, 30)
    assert read == [0, 1, 2]
    window.stop()
    assert over.wait(30)


def test_a_session_that_has_ended_ends_the_reading(session: Session) -> None:
    session.error = ClientClosed()
    window = Window(pool := Pool(), ordered=True)
    assert stream(session, iter(int, 1), window).wait(30)
    assert isinstance(window.take(0)[1], ClientClosed)
    with pytest.raises(StopIteration):
        window.take(0)
    assert pool.calls == 0

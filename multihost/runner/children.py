"""What the runner's core knows of a task that it leased, and of a child process; which of them suit each other."""

from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import islice

# With such options tasks go to a child one at a time: those behind one that is stopped or dies would suffer with it.
TIMEOUT, CAREFUL = "timeout", "careful"


@dataclass(slots=True, eq=False)
class Item:
    """A leased task, in the worker's hands."""

    token: int
    session: str
    function_id: str
    needs: tuple[str, ...]
    payload: bytes
    options: dict[str, object]
    void: bool = False  # its lease has ended: what becomes of it is of no interest
    overdue: bool = False  # its time is up
    retry: bool = False  # whether its caller wants another try then
    retry_memory: bool = False  # or when it takes too much memory
    begun: bool = False  # whether it runs, as far as the worker knows
    end: float | None = None  # when it is expected to end then, if anything is known of that

    @property
    def chunk(self) -> bool:
        return "chunk" in self.options

    @property
    def careful(self) -> bool:
        """Whether it runs apart, and hands over each item as it ends, because a process died that had it."""
        return CAREFUL in self.options

    @property
    def measure(self) -> tuple[str, bool]:
        """What its duration is measured as."""
        return self.function_id, self.chunk

    @property
    def done(self) -> int:
        """How many items of a chunk have ended."""
        done = self.options.get("done", 0)
        assert isinstance(done, int)
        return done

    def advance(self, count: int) -> None:
        """So many more items of a chunk have ended."""
        self.options = {**self.options, "done": self.done + count}

    def resembles(self, other: "Item") -> bool:
        """Whether a child can be given both in one message."""
        return (
            self.function_id == other.function_id
            and self.session == other.session
            and (self.options is other.options or self.options == other.options)
        )

    def with_care(self) -> "Item":
        """The same task, to be run again carefully; what has ended of a chunk stays ended."""
        self.options = {**self.options, CAREFUL: True}
        return self


@dataclass(slots=True, eq=False)
class Child:
    """A child process, and the tasks it was given and has not finished, the running ones first."""

    number: int
    session: str
    needs: tuple[str, ...]
    left: int | None  # how many more tasks it may be given; None: any number
    functions: set[str] = field(default_factory=set)
    running: OrderedDict[int, Item] = field(default_factory=OrderedDict)
    lending: bool = False  # it waits for tasks of its own, and its slot may go to another child
    condemned: bool = False  # it was killed, and its death has not been told yet
    excess: int = 0  # bytes that it had taken when it was killed for that,
    suspect: int = 0  # and the token of the task that ran then
    voids: int = 0  # how many of the running are void
    crowded: bool = False  # whether a task that was interrupted has left processes in it
    since: float = 0.0  # when it was last seen to go on: it ended a task, or was given one when nothing waited in it
    late: bool = False  # what it runs was seen to take longer than expected, so nothing is to wait behind that

    @property
    def busy(self) -> bool:
        """Whether it takes a slot."""
        return bool(self.running) and not self.lending

    @property
    def leases(self) -> int:
        return len(self.running) - self.voids

    @property
    def idle(self) -> bool:
        return not self.running and not self.lending

    @property
    def worn(self) -> bool:
        """Whether it is given no more tasks: it has run all that a process of its session may run, or is crowded."""
        return self.crowded or (self.left is not None and self.left <= 0)

    def first(self, count: int) -> list[Item]:
        """So many of its tasks, the first ones: those that run."""
        return list(islice(self.running.values(), count))

    def ends(self, threads: int) -> list[float]:
        """When the tasks that it runs are expected to end, those of which something is known."""
        if self.lending:
            return []
        return [item.end for item in self.first(threads) if item.end is not None]

    def ends_later(self, now: float, threads: int) -> bool:
        """Whether all that it runs is expected to go on beyond ``now``."""
        return all(item.end is not None and now < item.end for item in self.first(threads))

    def void(self, token: int) -> None:
        """The lease of one of its tasks has ended."""
        if not self.running[token].void:
            self.running[token].void = True
            self.voids += 1

    def remove(self, token: int) -> Item | None:
        """Remove and return one of its tasks; None if it has none of that token."""
        item = self.running.pop(token, None)
        if item is not None and item.void:
            self.voids -= 1
        return item

    def suits(self, item: Item) -> bool:
        """Whether ``item`` may be given to it, now or behind what it has."""
        if (self.session, self.needs) != (item.session, item.needs) or self.worn or self.lending or self.condemned:
            return False
        # A careful one is always the only one.
        return not self.running or not (item.careful or next(iter(self.running.values())).careful)

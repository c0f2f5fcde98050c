"""What becomes of the tasks of a child process that died: whose doing it was, and which of them run again."""

from dataclasses import dataclass, field, replace

from multihost.deaths import Death
from multihost.errors import TaskOutOfMemory, TaskTimeout
from multihost.payload import dump_error, dump_part
from multihost.runner.children import TIMEOUT, Child, Item
from multihost.runner.events import ChildDied
from multihost.runner.memory import limit_of


@dataclass(slots=True)
class Verdict:
    """What the master is to hear, and what is to run again here, in order."""

    outcomes: list[tuple[int, str, bytes]] = field(default_factory=list)  # token, kind, content
    parts: list[tuple[int, int, bytes]] = field(default_factory=list)  # token, how many items, their outcomes
    starts: list[int] = field(default_factory=list)  # with which item each of those begins
    again: list[Item] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True, slots=True)
class Inquest:
    """How a worker judges.

    Args:
        worker: its name, for errors.
        threads: how many tasks a child runs at a time.
        memory: bytes that a child may take while it runs tasks; 0: any number.
    """

    worker: str
    threads: int
    memory: int

    def hold(self, child: Child, event: ChildDied) -> Verdict:
        """On a child that had tasks, or was told to end."""
        items = list(child.running.values())
        late = [item for item in items if item.overdue and not item.void]
        rest = [item for item in items if not item.overdue and not item.void]
        verdict = Verdict(outcomes=[self._timed_out(item, event) for item in late])
        if child.excess and rest and rest[0] is items[0] and rest[0].token == child.suspect:
            self._too_large(verdict, child, rest, event)
        # Behind a task that was stopped, nothing had started; with threads, what had is repeated unpenalised.
        elif child.condemned or late or not rest or (items[0].void and self.threads == 1):
            verdict.again = rest
        else:
            self._blame(verdict, rest, event)
        return verdict

    def limit(self, child: Child) -> int:
        """How many bytes it may take: of several tasks that it runs, the highest limit counts; 0: any number."""
        limits = [limit_of(item.options, self.memory) for item in child.first(self.threads)]
        return max(limits, default=0) if all(limits) else 0

    def _timed_out(self, item: Item, event: ChildDied) -> tuple[int, str, bytes]:
        seconds = item.options[TIMEOUT]
        assert isinstance(seconds, float)
        error = TaskTimeout(seconds, self.worker, True, event.stack, _output_of(item, event))
        return item.token, "retry" if item.retry else "error", dump_error(error)

    def _blame(self, verdict: Verdict, items: list[Item], event: ChildDied) -> None:
        """Find out which of its tasks it died of: only if it had but one, that is certain.

        Outcomes of tiny tasks (and items) may have died with it. So they run again here, each apart and handing over
        what ends at once, and then the one that it died of is the only one that is lost.
        """
        death = event.death or Death(event.reason, worker=self.worker)
        if len(items) == 1 and (items[0].careful or not items[0].chunk):
            death = replace(death, output=_output_of(items[0], event))
            verdict.note = f"a child process ended in the middle of a task: {death}"
            verdict.outcomes.append((items[0].token, "lost", death.encode().encode()))
        else:
            verdict.note = f"a child process ended with {len(items)} tasks, which run again one by one: {death}"
            verdict.again = [item.with_care() for item in items]

    def _too_large(self, verdict: Verdict, child: Child, items: list[Item], event: ChildDied) -> None:
        """It was killed for the memory it took: for that of which task, is only clear if but one ran in it."""
        first, behind = items[0], items[1:]
        if len(child.first(self.threads)) > 1 or (first.chunk and not first.careful):
            verdict.again = [item.with_care() for item in items]
            return
        error = TaskOutOfMemory(self.limit(child), self.worker, True, child.excess, output=_output_of(first, event))
        if not first.chunk:
            verdict.outcomes.append((first.token, "retry" if first.retry_memory else "error", dump_error(error)))
            verdict.again = behind
            return
        # Only the item is given up; the chunk goes on behind it.
        verdict.starts = [first.done]
        verdict.parts = [(first.token, 1, dump_part(first.done, 0.0, [None], {0: dump_error(error)}))]
        first.advance(1)
        verdict.again = [first, *behind]


def _output_of(item: Item, death: ChildDied) -> str:
    """The last lines that a task printed before its child died, if it was the last one that did."""
    token, text = death.printed
    return text if token == item.token else ""

"""Detached jobs: who submits one and leaves, and who collects it as ``multihost/detached.py`` does."""

from collections import deque
from typing import Any

from multihost.client.chunk import Chunk
from multihost.payload import Outcomes, load_error
from multihost.wire.messages import PART, Message
from tests.simulation.client import Client
from tests.simulation.master import Master
from tests.simulation.network import Network
from tests.simulation.records import ClientLog, Told, Use
from tests.simulation.records import Job as JobLog
from tests.simulation.sessions import Session, told_of
from tests.simulation.workload import Collecting, JobPlan
from tests.simulation.world import Host, World

_AGAIN_SECONDS = 1.0


class Submitter(Client):
    """A program that submits a job at once, waits until the master has all of it, and ends."""

    def __init__(
        self, world: World, network: Network, master: Master, host: Host, log: ClientLog, job: JobLog, plan: JobPlan
    ) -> None:
        self.job = job
        self._deaf_for = plan.deaf_for
        super().__init__(world, network, master, host, log, plan.limit, job=job.name)

    def submit_all(self) -> None:
        self.submit(list(self.job.plans))
        if not self.over:
            self.session.seal(len(self.job.calls), self.job.chunksize)
            self.no_more()

    def _transmit(self, batch: list[Message]) -> None:
        super()._transmit(batch)
        if self._deaf_for and any(name == "seal" for name, *_ in batch):
            seconds, self._deaf_for = self._deaf_for, 0.0
            self._world.note(self.host.name, "is deaf", seconds)
            self.host.deaf += 1
            assert self._end is not None
            self._network.give_up_during_partition(self._end)
            self._world.after(seconds, self._world.outside, self._hear)

    def _hear(self) -> None:
        self.host.deaf -= 1
        self._network.heal(self.host)

    def _changed(self) -> None:
        self.job.told_whole = self.job.told_whole or self.session.sealed
        super()._changed()


class Collector(Client):
    """A program that uses the items of a job, one after another, until it dies, leaves, or all are used."""

    def __init__(
        self,
        world: World,
        network: Network,
        master: Master,
        host: Host,
        log: ClientLog,
        job: JobLog,
        plan: Collecting,
    ) -> None:
        self.job, self.plan = job, plan
        self._collection = _Collection(self)
        super().__init__(world, network, master, host, log, collects=job.name)

    def _make_session(self) -> Session:
        return self._collection

    def say(self, message: Message) -> None:
        self._transmit([message])

    def _changed(self) -> None:
        pass  # it says itself when it ends

    def refused(self, reason: str) -> None:
        """At the door."""
        self.job.refusals.add(reason)
        if reason != "JobUnknown":
            self._dial_later()
        elif 0 < self._collection.items == self._collection.given:
            self.finish(whole=True)  # only the answer was lost
        elif self.job.over or self.job.submitter_ended:
            self.job.gone_at = self.job.gone_at or self._world.now
            self.finish(whole=False)
        else:
            self._dial_later()

    def _dial_later(self) -> None:
        self._end = None
        self._world.after(_AGAIN_SECONDS, self.process, self._dial)

    def finish(self, whole: bool) -> None:
        """Leave."""
        self.job.over = self.job.over or whole
        if self._end is not None:
            self._network.close(self._end)
        self._stop("closed")

    def die(self) -> None:
        self.crash(tell=self._world.likely(0.7))


class _Collection(Session):
    """What a collector knows of its job; it has no tasks of its own."""

    def __init__(self, collector: Collector) -> None:
        self._collector, self._job = collector, collector.job
        self.name = collector.plan.name
        self.items = self.given = self.acknowledged = 0
        self.used = 0  # by this collector
        self._sequence = 0
        self._waiting: deque[Told] = deque()
        self._chunk: Chunk | None = None
        self._asked: Message | None = None
        self.connected = False
        self.sealed = True  # it waits for no task of its own

    def attached(self, answer: dict[str, Any]) -> None:
        job, collector = self._job, self._collector
        self.connected, self._chunk = True, None
        job.seen_at = collector._world.now
        if not self.items:
            self.items = answer["items"]
            self.given = self.acknowledged = answer["taken"]
            self._sequence = answer["taken"] // answer["chunksize"]
            job.begun_at.append((self.given, job.answered, job.said))
        if self._asked is None:
            self._go_on()
        else:
            collector.say(self._asked)

    def detached(self) -> None:
        self.connected = False

    def acknowledge(self) -> list[Message]:
        return []

    def _ask(self, message: Message) -> None:
        self._asked = message
        if message[0] == "taken":
            self._job.said = max(self._job.said, self.given)
        if self.connected:
            self._collector.say(message)

    def _go_on(self) -> None:
        """What it waited for is there: use the next items, acknowledge them, or ask for more."""
        plan = self._collector.plan
        unacknowledged = self.given - self.acknowledged
        if self.acknowledged == self.items:
            self._collector.finish(whole=True)
        elif unacknowledged and (unacknowledged >= plan.stride or self.given == self.items):
            self._ask(("taken", self.given))
        elif plan.leaves and self.used >= plan.most:
            self._collector.finish(whole=False)
        elif self._waiting:
            self._asked = ("ping",)  # nothing is asked while the program is at work
            self._collector._world.after(plan.seconds, self._collector.process, self._use)
        else:
            self._ask(("collect", self._sequence))

    def _use(self) -> None:
        self._job.uses.append(Use(self.name, self.given, self._waiting.popleft()))
        self.given += 1
        self.used += 1
        self._asked = None
        plan = self._collector.plan
        if not plan.leaves and self.used >= plan.most:
            self._collector.die()
        else:
            self._go_on()

    def handle(self, batch: list[Any]) -> None:
        self._job.seen_at = self._collector._world.now
        for message in batch:
            match message:
                case ("outcomes", rows):
                    for row in rows:
                        self._outcome(*row)
                case ("taken", items) if self._asked == ("taken", items):
                    self.acknowledged = items
                    self._job.answered = max(self._job.answered, items)
                    self._asked = None
                    self._go_on()
                case ("refused", reason):
                    self._collector._log.ended[self.name] = f"refused: {reason}"
        if self._waiting and self._asked is not None and self._asked[0] == "collect" and self._chunk is None:
            self._asked = None
            self._go_on()

    def _outcome(self, sequence: int, kind: str, content: bytes, whence: str) -> None:
        if sequence != self._sequence:
            return
        plan, first = self._job.plans[sequence], sequence * self._job.chunksize
        if kind != PART:
            self._collector._log.rows.setdefault(plan.name, set()).add((kind, content))
        now = self._collector._world.now
        if plan.chunk:
            if self._chunk is None:
                self._chunk = Chunk(len(plan.calls), lambda start, outcomes, *_: self._arrived(first + start, outcomes))
            if kind in (PART, "result"):
                self._chunk.take(content, "")
            else:
                self._chunk.fail(load_error(content))
        elif kind == "result":
            self._waiting.append(Told("result", content.decode(), now))
        else:
            self._waiting.append(told_of(load_error(content), now))
        if kind != PART:
            self._sequence, self._chunk = sequence + 1, None

    def _arrived(self, start: int, outcomes: Outcomes) -> None:
        now, known = self._collector._world.now, self.given + len(self._waiting)
        for succeeded, value in outcomes.behind(known - start).pairs():
            self._waiting.append(Told("result", str(value), now) if succeeded else told_of(value, now))

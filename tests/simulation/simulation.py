"""One run of the whole system: a master, workers, clients and a nemesis, all from one seed.

Workload --> Client (ClientCore) ==network== Master (BrokerCore) ==network== Worker (RunnerCore) --> Child
                  |                                                               |
              ClientLog --------------------> check <------------------------- Ledger
"""

import hashlib
import traceback
from dataclasses import dataclass, field, replace

from multihost.broker.bounds import Bounds
from tests.simulation.checker import check
from tests.simulation.client import Client
from tests.simulation.jobs import Collector, Submitter
from tests.simulation.master import Journal, Master, Memory
from tests.simulation.nemesis import Nemesis
from tests.simulation.network import Network
from tests.simulation.operator import Operator
from tests.simulation.records import ClientLog, Job
from tests.simulation.worker import Worker
from tests.simulation.workload import LABEL, Collecting, JobPlan, Step, Workload
from tests.simulation.world import Host, World

# After everything was mended, all must have ended within so many virtual seconds, and what the calls themselves take.
PATIENCE_SECONDS = 200.0
MAX_STEPS = 200_000
SHOWN_STEPS = 60


@dataclass
class Report:
    """How a run went. ``problems``: what broke a promise; none if all is well."""

    seed: int
    calm: bool
    steps: int
    trace: list[tuple[object, ...]] = field(repr=False)
    problems: list[str] = field(default_factory=list)
    faults: dict[str, int] = field(default_factory=dict)
    calls: int = 0  # how many were submitted
    twice: int = 0  # how many of them ran more than once

    @property
    def fingerprint(self) -> str:
        """Of all that happened, in its order."""
        return hashlib.sha256("\n".join(map(repr, self.trace)).encode()).hexdigest()

    def __str__(self) -> str:
        last = "\n".join(line_of(step) for step in self.trace[-SHOWN_STEPS:])
        problems = "\n".join(self.problems)
        again = f"scripts/simulate --first {self.seed} --seeds 1 --trace"
        return f"seed {self.seed} fails\n\nits last steps:\n{last}\n\n{problems}\n\nto see it again: {again}"


def line_of(step: tuple[object, ...]) -> str:
    """A step of a trace, for people."""
    time, who, what, *more = step
    text = " ".join(map(str, more))
    return f"{time:>12} {who} {what} {text if len(text) < 500 else text[:500] + '...'}"


def run(seed: int, checked: bool = True) -> Report:
    """One history. ``checked``: whether the cores' invariants are checked after each step, too, or only the outcome."""
    return Simulation(seed, checked).run()


class Simulation:
    """See the module."""

    def __init__(self, seed: int, checked: bool = True) -> None:
        self.world = World(seed)
        self._seed = seed
        chance = self.world.chance
        self.calm = chance.random() < 0.2  # without faults, so each call runs exactly once
        self._lease_timeout = chance.choice((3.0, 10.0))
        self._session_timeout = chance.choice((15.0, 40.0))
        self._latency = chance.choice(((0.0001, 0.0002), (0.0005, 0.003), (0.01, 0.1), (0.1, 0.2)))
        self._seconds = chance.choice((2.0, 8.0, 25.0))  # of faults and of submits
        self.log = ClientLog()
        bounds = Bounds()
        if chance.random() < 0.15:
            bounds = Bounds(tasks=chance.choice((1, 5, 20)), result_bytes=chance.choice((1, 100)))
        ttl = chance.choice((20.0, 60.0, 1e6))
        disk = (Journal if seed % 2 else Memory)(self._lease_timeout, self._session_timeout, bounds, ttl)
        host = Host("master", (0.0, 0.0))
        self.master = Master(self.world, host, disk, self._lease_timeout, checked)
        self.network = self.master.network = Network(self.world, host)
        self._ttl = ttl
        self._workload = Workload(chance, self._seconds, self.calm, disk.keeps)
        self._plans = self._workload.plans
        self.workers: list[Worker] = []
        self.workers_leaving: list[Worker] = []
        self.clients: list[Client] = []
        self._names = 0
        self._nemesis: Nemesis | None = None
        self._operator: Operator | None = None
        if "operator" in self._workload.features:
            host = Host("operator", self._latency)
            self._operator = Operator(self.world, self.network, self.master, host, self.log.letters)

    def run(self) -> Report:
        problems: list[str] = []
        try:
            self._begin()
            self._go_on_until(self.world.now + self._seconds)
            self._heal()
            unrest = self._end()
            problems = [*unrest, *check(self.log, self.master.ledger, self.calm)]
        except Exception:
            problems = [traceback.format_exc()]
        ledger = self.master.ledger
        return Report(
            self._seed,
            self.calm,
            self.world.steps,
            self.world.trace,
            problems,
            self._nemesis.counts if self._nemesis is not None else {},
            sum(len(submit.plan.calls) for submit in self.log.submits.values()),
            sum(count > 1 for count in ledger.runs.values()),
        )

    def _begin(self) -> None:
        chance = self.world.chance
        self.master.start()
        for number in range(chance.choice((1, 2, 3))):
            self.add_worker((LABEL,) if number == 0 or chance.random() < 0.3 else ())
        for number, program in enumerate(self._workload.programs, start=1):
            host = Host(f"client-{number}", self._latency)
            client = Client(self.world, self.network, self.master, host, self.log, program.limit, program.lifetime)
            self.clients.append(client)
            for step in program.steps:
                self.world.after(step.at, client.process, self._act, client, step)
            self.world.after(program.steps[-1].at, client.process, client.no_more)
        for job in self._workload.jobs:
            self._begin_job(job)
        if self._operator is not None:
            for _ in range(chance.choice((1, 3, 8))):
                at = self.world.now + 2.0 * self._seconds * chance.random()
                self.world.at(at, self._operator.process, self._operator.visit)
        if not self.calm:
            self._nemesis = Nemesis(self, self._seconds)

    def _begin_job(self, plan: JobPlan) -> None:
        job = self.log.jobs[plan.name] = Job(plan.name, plan.plans, plan.chunksize, self._ttl)
        host = Host(f"{plan.name}-submitter", self._latency)
        submitter = Submitter(self.world, self.network, self.master, host, self.log, job, plan)
        self.clients.append(submitter)
        self.world.after(0.0, submitter.process, submitter.submit_all)
        self._collect(job, [*plan.collecting])

    def _collect(self, job: Job, rest: list[Collecting]) -> None:
        """One after another."""
        job.submitter_ended = any(client.over for client in self.clients if client.host.name == f"{job.name}-submitter")
        before = [client for client in self.clients if isinstance(client, Collector) and client.job is job]
        if before and not before[-1].over:
            self.world.after(0.5, self.world.outside, self._collect, job, rest)
        elif not (job.over or job.gone_at is not None):
            rest = rest or [replace(before[-1].plan, name=f"{before[-1].plan.name}'")]  # which a fault has ended
            self.world.after(rest[0].at, self.world.outside, self._add_collector, job, rest)

    def _add_collector(self, job: Job, rest: list[Collecting]) -> None:
        host = Host(rest[0].name, self._latency)
        self.clients.append(Collector(self.world, self.network, self.master, host, self.log, job, rest[0]))
        self._collect(job, rest[1:])

    def _act(self, client: Client, step: Step) -> None:
        if step.plans:
            client.submit(step.plans)
        else:
            client.cancel(step.names, step.running)

    def add_worker(self, labels: tuple[str, ...]) -> None:
        chance = self.world.chance
        self._names += 1
        host = Host(f"worker-{self._names}", self._latency)
        slots, drain_timeout = chance.choice((1, 2, 3)), chance.choice((2.0, 60.0))
        worker = Worker(
            self.world,
            self.network,
            self.master,
            host,
            self.log,
            self._plans,
            slots,
            labels,
            self._lease_timeout,
            drain_timeout,
            self._worker_left,
        )
        self.workers.append(worker)

    def _worker_left(self, worker: Worker) -> None:
        """It has drained, or was killed by its task; another one takes its place."""
        if worker in self.workers:
            self.workers.remove(worker)
            self.world.after(0.5, self.world.outside, self.add_worker, worker.labels)

    # --- time --------------------------------------------------------------------------------------------------

    def _go_on_until(self, end: float) -> None:
        while self.world.now < end:
            self._step()

    def _step(self) -> None:
        assert self.world.steps < MAX_STEPS, f"no end after {MAX_STEPS} steps"
        self.world.step()

    def _heal(self) -> None:
        self.world.note("all", "is mended")
        if self._nemesis is not None:
            self._nemesis.heal()
        self.add_worker((LABEL,))

    def _end(self) -> list[str]:
        """All programs come to their end, and master and workers to rest; what does not."""
        work = sum(deed.seconds for plan in self._plans.values() for call in plan.calls for deed in call.deeds)
        deadline = self.world.now + PATIENCE_SECONDS + 4 * work
        while not (all(client.over for client in self.clients) and self._at_rest()):
            if self.world.now >= deadline:
                return [self._what_hangs()]
            self._step()
        return [] if self._operator is None else self._last_visit(self._operator)

    def _last_visit(self, operator: Operator) -> list[str]:
        """What has become of the letters, when nothing runs any more."""
        operator.over = True
        deadline = self.world.now + PATIENCE_SECONDS
        while self.log.letters.last is None:
            if self.world.now >= deadline:
                return ["I9: the operator is not answered, or letters do not come to an end"]
            if operator.at_home and self._at_rest():
                operator.look()
            self._step()
        return []

    def _at_rest(self) -> bool:
        counts = self.master.core.statistics()
        ledger = self.master.core._ledger
        kept = {blob_id for letter in ledger.letters for blob_id in ledger.blobs.reach(letter.function_id)}
        over = not (counts["sessions"] or counts["queued"] or counts["leased"]) and counts["blobs"] == len(kept)
        over = over and all(job.over or job.gone_at is not None for job in self.log.jobs.values())
        return over and all(worker.quiet for worker in self.workers)

    def _what_hangs(self) -> str:
        clients = {client.host.name: client.session.waiting for client in self.clients if not client.over}
        return f"I9: no rest: programs wait for {clients} tasks; the master has {self.master.core.statistics()}"

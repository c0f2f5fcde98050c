"""Where the time of a program's tasks went: counts, bytes, batches and times, as data and in words."""

from dataclasses import dataclass

from multihost.deaths import in_bytes


@dataclass(frozen=True, slots=True)
class Times:
    """How long something took each time. Quantiles are those of a histogram, wrong by a factor of two at worst."""

    count: int = 0
    sum_seconds: float = 0.0
    mean_seconds: float = 0.0
    p50_seconds: float = 0.0
    p99_seconds: float = 0.0
    max_seconds: float = 0.0

    def __str__(self) -> str:
        if not self.count:
            return "none yet"
        mean, half, most = map(in_seconds, (self.mean_seconds, self.p50_seconds, self.p99_seconds))
        return f"mean {mean}, half within {half}, 99 % within {most}, longest {in_seconds(self.max_seconds)}"


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went one way. A frame is what was sent at once; its messages carry any number of tasks or outcomes."""

    bytes: int = 0
    frames: int = 0
    messages: int = 0
    tasks: int = 0

    @property
    def messages_per_frame(self) -> float:
        return self.messages / self.frames if self.frames else 0.0

    @property
    def tasks_per_frame(self) -> float:
        """Of all frames, those without any included."""
        return self.tasks / self.frames if self.frames else 0.0

    def __str__(self) -> str:
        size = in_bytes(self.bytes)
        return f"{self.tasks:,} tasks, {size} in {self.frames:,} frames, {self.tasks_per_frame:.1f} tasks a frame"


@dataclass(frozen=True, slots=True)
class Tasks:
    """What the master counted at one moment; ``submitted`` is ``ended + waiting + running``. A chunk is one task."""

    submitted: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    dead: int = 0
    waiting: int = 0  # in the master, a delay that was asked for included
    running: int = 0  # workers have them
    retried: int = 0
    lost_deliveries: int = 0

    @property
    def ended(self) -> int:
        return self.done + self.failed + self.cancelled + self.expired + self.dead

    def __str__(self) -> str:
        ends = ", ".join(
            f"{getattr(self, name):,} {name}"
            for name in ("done", "failed", "cancelled", "expired", "dead")
            if getattr(self, name) or name == "done"
        )
        text = f"{self.submitted:,} submitted: {ends}, {self.waiting:,} waiting, {self.running:,} running"
        again = [f"{self.retried:,} retries"] if self.retried else []
        again += [f"{self.lost_deliveries:,} deliveries lost"] if self.lost_deliveries else []
        return "; ".join([text, *again])


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of a pool or an executor, since it began; ``str()`` says it in words, ``dataclasses.asdict`` makes plain data.

    What the master counts begins anew when the master does, with the tasks that are there then.
    """

    session: str  # its id
    age_seconds: float  # since it began
    answered: bool  # whether the master did; if not, what only it knows (tasks, cluster, queued, run) is zero
    calls_submitted: int  # those of a chunk one by one, those not sent yet included
    calls_ended: int
    unsent: int  # tasks that wait in this program for the master to take them
    tasks: Tasks  # of this session
    cluster: Tasks  # of all sessions, since the master's journal began
    sent: Traffic
    received: Traffic
    total: Times  # of each task, from the call until its outcome was here
    queued: Times  # in the master, before each lease
    run: Times  # in the worker's process, each time that it ran; of tiny ones that ended together their mean
    transfer_mean_seconds: float  # of a task: what is left of its total, for the ways there and back, and delays

    def __str__(self) -> str:
        transfer = in_seconds(self.transfer_mean_seconds)
        lines = {
            "tasks": f"{self.tasks}",
            "calls": f"{self.calls_submitted:,} made, {self.calls_ended:,} ended, {self.unsent:,} tasks not sent yet",
            "sent": f"{self.sent}",
            "received": f"{self.received}",
            "total": f"{self.total}",
            "queued": f"{self.queued}",
            "run": f"{self.run}",
            "transfer": f"mean {transfer}" if self.answered and self.total.count else "unknown yet",
            "cluster": f"{self.cluster}",
        }
        if not self.answered:
            lines |= dict.fromkeys(("tasks", "queued", "run", "cluster"), "the master did not answer")
        head = f"session {self.session[:8]}, {self.age_seconds:.1f} s old"
        return "\n".join([head, *(f"{name + ':':<10}{text}" for name, text in lines.items())])


def in_seconds(seconds: float) -> str:
    """With three digits, in a unit that suits."""
    for least, unit, factor in ((1.0, "s", 1.0), (1e-3, "ms", 1e3)):
        if seconds >= least:
            return f"{seconds * factor:.3g} {unit}" if seconds < 1000 else f"{seconds:,.0f} s"
    return f"{seconds * 1e6:.3g} µs"

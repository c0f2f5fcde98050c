"""How much the master holds at most, and the error that says so."""

from dataclasses import dataclass

from multihost.errors import ClusterFull, ProtocolError

# Of one worker. Ours holds 4,096 tasks for each slot at most, and besides those whose tasks wait for others.
MAX_SLOTS, LEASES_PER_SLOT = 10_000, 8192


def check_slots(slots: int) -> None:
    """Raises: ProtocolError: no worker has so many."""
    if not 1 <= slots <= MAX_SLOTS:
        raise ProtocolError(
            f"a worker may have 1 to {MAX_SLOTS:,} slots, this one claims {slots:,}; lower its MULTIHOST_SLOTS, or "
            "MULTIHOST_THREADS, by which they are multiplied"
        )


@dataclass(frozen=True, slots=True)
class Bounds:
    """A client's submit is refused from where a bound is reached; of what tasks submit, nothing is.

    A task that waits for its own ones would otherwise wait for ever: room comes only when some end.
    """

    tasks: int = 1_000_000  # that have not ended
    task_bytes: int = 2 * 1024**3  # of their arguments and large functions; the last one taken may go beyond it
    sessions: int = 10_000  # of programs
    # Of what waits for programs that are away; beyond it, no more of their tasks are leased.
    result_bytes: int = 1024**3
    dead_letters: int = 1000  # beyond it, the oldest is dropped
    dead_letter_bytes: int = 256 * 1024**2  # with the code that they need

    def full(self, tasks: int, task_bytes: int) -> ClusterFull | None:
        """Why no task is taken where there are so many already, with so many bytes."""
        if tasks >= self.tasks:
            return ClusterFull("tasks", self.tasks, "MULTIHOST_MAX_TASKS")
        if task_bytes >= self.task_bytes:
            return ClusterFull("bytes of tasks", self.task_bytes, "MULTIHOST_MAX_TASK_BYTES")
        return None

    def roomy(self, tasks: int, task_bytes: int) -> bool:
        """Whether there is so much room that those who wait for it are to be told."""
        # Not at the first task that ends: each time, all who wait send a whole batch.
        return tasks <= self.tasks - max(1, self.tasks // 10) and task_bytes <= self.task_bytes * 9 // 10

    def full_of_sessions(self, sessions: int) -> ClusterFull | None:
        if sessions >= self.sessions:
            return ClusterFull("sessions", self.sessions, "MULTIHOST_MAX_SESSIONS")
        return None

"""What becomes of a task, from submit to acknowledgement: all that the master must still know after a restart.

The ledger changes by **commands** alone. A command is a function of the ledger and of plain arguments, and of nothing
else: no clock, no connection, no chance. So its name and arguments are the record of it, and a journal that calls the
recorded commands again, in their order, comes to the same ledger. Whoever decides (``clients``, ``workers``) decides
before; what a command is told is a fact.

Times in here are wall-clock times, since they outlive the process.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, TypeVar

from multihost.broker.blobs import BlobStore
from multihost.broker.delayed import DelayedTasks
from multihost.broker.expiring import ExpiringTasks
from multihost.broker.leases import LeaseTable
from multihost.broker.letters import DEAD, DONE, FAILED, REQUEUED, DeadLetter, LetterBox
from multihost.broker.members import Row, Session
from multihost.broker.ready import ReadyQueue
from multihost.broker.records import Record
from multihost.broker.tasks import PLAIN, Task, TaskEvent, TaskOptions
from multihost.payload import LARGE_BLOB_BYTES
from multihost.wire.messages import CANCELLED, PART

# How a task ends, as settled rows name it; of one that is dead, its client is told an error.
_ENDS = {"result": TaskEvent.SUCCEEDED, "error": TaskEvent.RAISED, DEAD: TaskEvent.SPENT}
_COUNT = {
    TaskEvent.SUCCEEDED: "done",
    TaskEvent.RAISED: "failed",
    TaskEvent.SPENT: "dead",
    TaskEvent.DROPPED: "cancelled",
    TaskEvent.EXPIRED: "expired",
}
COUNTS = ("submitted", *_COUNT.values(), "redelivered", "retried")

P = ParamSpec("P")
T = TypeVar("T")
COMMANDS: dict[str, Callable[..., Any]] = {}


def command(function: "Callable[Concatenate[Ledger, P], T]") -> "Callable[Concatenate[Ledger, P], T]":
    """A method that is recorded when it has returned; one that raises must not have changed anything."""
    name = function.__name__

    def recorded(ledger: "Ledger", /, *args: P.args, **kwds: P.kwargs) -> T:
        result = function(ledger, *args, **kwds)
        ledger.records.append((name, *args))
        return result

    COMMANDS[name] = function
    return recorded


@dataclass(slots=True)
class Ended:
    """What came of the end of a session: those that ended, the leases that ended with them, code that none needs."""

    sessions: list[Session]
    stopped: dict[str, list[int]] = field(default_factory=dict)  # tokens by worker id
    unused: set[str] = field(default_factory=set)


class Ledger:
    """See the module. What is public may be read by everybody, and is changed by the commands."""

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.jobs: dict[str, Session] = {}  # those sessions that are detached jobs, by name
        # Of those detached jobs that have ended not long ago, by session: how many tasks they had, and when they ended.
        self.ended_jobs: dict[str, tuple[int, float]] = {}
        self.ready = ReadyQueue()
        self.delayed = DelayedTasks()
        self.expiring = ExpiringTasks()
        self.leases = LeaseTable()
        self.blobs = BlobStore()
        self.letters = LetterBox(self.blobs)
        self.counts = dict.fromkeys(COUNTS, 0)
        self.large_bytes = LARGE_BLOB_BYTES
        self.task_bytes = 0  # of the payloads of tasks that have not ended
        self._needing: dict[str, int] = {}  # of each large function: how many of these tasks need it
        self.function_bytes = 0  # of these functions
        self.records: list[Record] = []

    def forget_counts(self) -> None:
        """Begin anew with what is counted for each session: the journal has only what is counted in all."""
        for name, session in self.sessions.items():
            session.counts = {**dict.fromkeys(COUNTS, 0), "submitted": sum(self.places(name))}

    def places(self, session: str) -> tuple[int, int]:
        """How many of a session's tasks are queued or delayed, and how many are leased."""
        queued, leased = self.ready.places(session)
        return queued + self.delayed.count(session), leased

    @property
    def result_bytes(self) -> int:
        """Of outcomes that their programs have not acknowledged."""
        return sum(session.result_bytes for session in self.sessions.values())

    def bytes_beside(self, function_id: str) -> int:
        """Of all tasks that have not ended, and their large functions, but for this one."""
        counted = self.blobs.size(function_id) if function_id in self._needing else 0
        return self.task_bytes + self.function_bytes - counted

    def functions_used(self, family: str) -> set[str]:
        """The ids of the functions of all tasks that have not ended, of a program and its tasks."""
        names = {name for name, session in self.sessions.items() if session.family == family}
        used = {task.function_id for name in names for task in self.ready.tasks_of(name)}
        used |= {task.function_id for _, task in self.delayed if task.session in names}
        return used | {task.function_id for _, _, task in self.leases if task.session in names}

    @property
    def unfinished(self) -> int:
        """How many tasks have not ended."""
        return self.counts["submitted"] - sum(self.counts[name] for name in _COUNT.values())

    def absent(self) -> list[Session]:
        """The sessions of programs that are away; a requeued letter's is none."""
        sessions = self.sessions.items()
        return [s for name, s in sessions if s.link is None and not s.nested and name not in self.letters.running]

    def apply(self, name: str, *args: Any) -> None:
        """Do again what was recorded."""
        COMMANDS[name](self, *args)

    # --- sessions ----------------------------------------------------------------------------------------------

    @command
    def begin(
        self,
        session_id: str,
        name: str,
        limit: int | None,
        lifetime: int | None,
        family: str,
        depth: int,
        worker: str,
    ) -> Session:
        session = self.sessions[session_id] = Session(session_id, name, limit, lifetime, family, depth, worker)
        session.counts = dict.fromkeys(COUNTS, 0)
        self.ready.open(session_id, limit, family, depth)
        return session

    @command
    def keep(self, session_id: str, blob_id: str, content: bytes, needs: tuple[str, ...]) -> None:
        """Content that tasks of a session need; see ``BlobStore.add``."""
        self.blobs.add(session_id, blob_id, content, needs)

    @command
    def let_go(self, session_id: str, blob_ids: list[str]) -> set[str]:
        """A session does without blobs that it used; the ids of those that nobody uses any more."""
        return self.blobs.let_go(session_id, blob_ids)

    @command
    def end(self, session_id: str) -> Ended:
        """Cancel what is left of a session and of those that its tasks have opened."""
        session = self.sessions[session_id]
        ended = Ended([session])
        if not session.nested:
            ended.sessions += [s for s in self.sessions.values() if s.family == session_id and s is not session]
        names = {one.session_id for one in ended.sessions}
        tasks, ended.stopped = self._stop(lambda task: task.session in names)
        for name in names:
            self.jobs.pop(self.sessions.pop(name).job, None)
            tasks += self.ready.close(name) + self.delayed.close(name)
        for task in tasks:
            task.apply(TaskEvent.DROPPED)
            self.expiring.discard(task)
            self._weigh_off(task)
        self.counts["cancelled"] += len(tasks)
        ended.unused = {blob_id for name in sorted(names) for blob_id in self.blobs.release(name)}
        return ended

    # --- detached jobs -----------------------------------------------------------------------------------------

    @command
    def name_job(self, session_id: str, name: str) -> None:
        """A session is a detached job, and this is its name."""
        session = self.jobs[name] = self.sessions[session_id]
        session.job = name

    @command
    def seal(self, session_id: str, items: int, chunksize: int, now: float) -> None:
        """All tasks of a detached job are submitted."""
        session = self.sessions[session_id]
        session.items, session.chunksize, session.used_at = items, chunksize, now

    @command
    def use_job(self, session_id: str, now: float) -> None:
        """It runs, or has a client: its time to live begins anew."""
        self.sessions[session_id].used_at = now

    @command
    def take_items(self, session_id: str, taken: int) -> None:
        """The items of a detached job below ``taken`` were used; what came of chunks of such alone goes."""
        session = self.sessions[session_id]
        before, session.taken = session.dropped, taken
        self._forget_outcomes(session, range(before, session.dropped))

    @command
    def note_job_ended(self, session_id: str, tasks: int, now: float, since: float) -> None:
        """A whole detached job is about to end; those that ended before ``since`` are forgotten."""
        self.ended_jobs = {name: ended for name, ended in self.ended_jobs.items() if ended[1] >= since}
        self.ended_jobs[session_id] = tasks, now

    # --- what clients do ---------------------------------------------------------------------------------------

    @command
    def submit(
        self,
        session_id: str,
        first: int,
        function_id: str,
        plain: dict[object, object],
        payloads: list[bytes],
        now: float,
    ) -> TaskOptions:
        """Queue new tasks, none of them below the session's next number.

        Raises: ProtocolError: an option is wrong.
        """
        options = TaskOptions.parse(plain) if plain else PLAIN
        session, called = self.sessions[session_id], now - options.age
        due = max(now, called + options.delay)
        tasks = [
            Task(session_id, number, function_id, payload, options, due)
            for number, payload in enumerate(payloads, first)
        ]
        session.next_sequence = first + len(payloads)
        if options.expires is not None:
            for task in tasks:
                task.expires_at = called + options.expires
                self.expiring.add(task)
        if called + options.delay > now:
            for task in tasks:
                self.delayed.add(task, called + options.delay)
        else:
            self.ready.extend(session_id, tasks)
        self.counts["submitted"] += len(tasks)
        session.counts["submitted"] += len(tasks)
        self.weigh(function_id, payloads)
        return options

    @command
    def acknowledge(self, session_id: str, sequences: list[int]) -> None:
        self._forget_outcomes(self.sessions[session_id], sequences)

    def _forget_outcomes(self, session: Session, sequences: Iterable[int]) -> None:
        for sequence in sequences:
            # Before its end, a chunk's parts may still be asked for.
            if (row := session.outcomes.pop(sequence, None)) is not None:
                session.result_bytes -= len(row[2])
                for part in session.parts.pop(sequence, ()):
                    session.result_bytes -= len(part[2])

    @command
    def cancel(self, session_id: str, sequences: list[int], running: bool) -> tuple[list[Row], dict[str, list[int]]]:
        """Cancel what is queued, and what is ``running`` if so wanted: the outcomes, and tokens by worker id."""
        session, wanted = self.sessions[session_id], set(sequences)
        tasks = self.ready.withdraw(session_id, wanted) + self.delayed.withdraw(session_id, wanted)
        stopped: dict[str, list[int]] = {}
        if running:
            leased, stopped = self._stop(lambda task: task.session == session_id and task.sequence in wanted)
            tasks += leased
        tasks.sort(key=lambda task: task.sequence)
        return [self._record(session, task, TaskEvent.DROPPED, CANCELLED, b"") for task in tasks], stopped

    # --- what workers do ---------------------------------------------------------------------------------------

    def grant(self, worker: str, tasks: list[Task]) -> int:
        """Lease tasks of one session that were taken from the line; the fencing token of the first."""
        self.records.append(("granted", worker, tasks[0].session, [task.sequence for task in tasks]))
        return self._lease(worker, tasks)

    def granted(self, worker: str, session_id: str, sequences: list[int]) -> None:
        """The command that stands for ``grant``: it takes out of the line what was taken then."""
        self._lease(worker, self.ready.take_these(session_id, sequences))

    COMMANDS["granted"] = granted

    @command
    def note_parts(self, worker: str, rows: list[tuple[int, int, bytes, str]]) -> list[tuple[str, Row]]:
        """Items of chunks have ended: token, how many, their outcomes, whence. What to tell which session."""
        told = []
        for token, count, content, whence in rows:
            task = self.leases.of(worker)[token]
            task.done += count
            task.losses = ()  # they were of the item that has ended now
            row = (task.sequence, PART, content, whence)
            session = self.sessions[task.session]
            session.parts.setdefault(task.sequence, []).append(row)
            session.result_bytes += len(content)
            told.append((task.session, row))
        return told

    @command
    def settle(self, worker: str, rows: list[tuple[int, str, bytes, str]]) -> dict[str, list[Row]]:
        """Tasks have ended: token, how, content, whence. What to tell which session."""
        told: dict[str, list[Row]] = {}
        for token, kind, content, whence in rows:
            task = self._take_lease(worker, token)
            self.ready.ended(task)
            session, end = self.sessions[task.session], _ENDS[kind]
            row = self._record(session, task, end, "error" if end is TaskEvent.SPENT else kind, content, whence)
            told.setdefault(task.session, []).append(row)
        return told

    @command
    def note_begun(self, worker: str, tokens: list[int]) -> None:
        """A process has these tasks now: what becomes of their worker may be their doing."""
        for token in tokens:
            self.leases.of(worker)[token].in_process = True

    @command
    def retry(self, worker: str, token: int, due: float) -> None:
        """A task raised, and is to be tried again at ``due``."""
        task = self._take_lease(worker, token)
        task.tries += 1
        task.losses = ()
        task.apply(TaskEvent.RETRIED)
        task.queued_at = due
        self.ready.ended(task)
        self.counts["retried"] += 1
        self.sessions[task.session].counts["retried"] += 1
        self.delayed.add(task, due)

    @command
    def release(self, sequences: dict[str, list[int]]) -> None:
        """Queue delayed tasks, by session, whose time has come."""
        for session_id, some in sequences.items():
            tasks = self.delayed.withdraw(session_id, set(some))
            self.ready.extend(session_id, [task for task in tasks if not task.tries])
            for task in tasks:
                if task.tries:
                    self.ready.put_first(task)

    @command
    def expire(self, sequences: dict[str, list[int]], content: bytes) -> dict[str, list[Row]]:
        """Queued tasks, by session, are not to be leased any more. What to tell which session."""
        told: dict[str, list[Row]] = {}
        for session_id, some in sequences.items():
            session, these = self.sessions[session_id], set(some)
            for task in self.ready.withdraw(session_id, these) + self.delayed.withdraw(session_id, these):
                row = self._record(session, task, TaskEvent.EXPIRED, "error", content, "waited in the master's queue")
                told.setdefault(session_id, []).append(row)
        return told

    @command
    def lose(self, worker: str, token: int, reason: str) -> None:
        """A delivery was lost; the task is queued again."""
        task = self._take_lease(worker, token)
        task.losses = (*task.losses, reason)
        task.apply(TaskEvent.LOST)
        self.ready.take_back(task)
        self.counts["redelivered"] += 1
        self.sessions[task.session].counts["redelivered"] += 1

    @command
    def give_back(self, worker: str, tokens: list[int]) -> int:
        """Queue again what was not started, or is not to be blamed. How many of these leases there were."""
        tasks = [task for token in tokens if (task := self.leases.end(token, worker)) is not None]
        for task in reversed(tasks):
            task.apply(TaskEvent.GIVEN_BACK)
            self.ready.take_back(task)
            if task.expires_at is not None and not task.begun:
                self.expiring.add(task)
        return len(tasks)

    # --- dead letters ------------------------------------------------------------------------------------------

    @command
    def bury(self, worker: str, token: int, reason: str, now: float) -> DeadLetter:
        """A delivery is lost, and no other one is tried: keep the task, or the item of a chunk that was running.

        What its client is told is another command.
        """
        task = self.leases.of(worker)[token]
        losses = (*task.losses, reason)
        if (again := self.letters.running.get(task.session)) is not None:
            self.letters.change(again, DEAD, (*again.losses, *losses))
            again.died_at = now
            return again
        program = self.sessions[task.session].name
        item = task.done if task.options.chunk else None
        letter = DeadLetter(
            self.letters.next_number,
            program,
            task.session,
            task.sequence,
            item,
            task.function_id,
            task.payload,
            task.options.plain,
            losses,
            now,
        )
        self.letters.add(letter)
        return letter

    @command
    def requeue(self, number: int) -> DeadLetter:
        """A letter has a session of its own again, in which it is to be submitted."""
        letter = self.letters.get(number)
        assert letter is not None, "whoever calls a command has looked"
        self.letters.change(letter, REQUEUED, error=b"")
        letter.requeues += 1
        self.letters.running[letter.home] = letter
        self.blobs.hold(letter.home, self.blobs.reach(letter.function_id))
        return letter

    @command
    def note_requeued(self, number: int) -> DeadLetter:
        """A requeued letter's task has its outcome, and its session is about to end."""
        letter = self.letters.get(number)
        assert letter is not None, "whoever calls a command has looked"
        ((_, kind, content, _),) = self.sessions[letter.home].outcomes.values()
        if letter.state == REQUEUED:  # and it has not died again
            state, error = (DONE, b"") if kind == "result" else (FAILED, content)
            self.letters.change(letter, state, error=error)
        del self.letters.running[letter.home]
        return letter

    @command
    def drop_letter(self, number: int) -> set[str]:
        """The ids of the blobs that nobody uses any more."""
        return self.letters.remove(number)

    # --- the rules ---------------------------------------------------------------------------------------------

    def weigh(self, function_id: str, payloads: list[bytes]) -> None:
        """There are more tasks of a function: count their bytes, and its own once."""
        self.task_bytes += sum(map(len, payloads))
        if payloads and (size := self.blobs.size(function_id)) >= self.large_bytes:
            if function_id not in self._needing:
                self._needing[function_id] = 0
                self.function_bytes += size
            self._needing[function_id] += len(payloads)

    def _weigh_off(self, task: Task) -> None:
        self.task_bytes -= len(task.payload)
        if (needing := self._needing.get(task.function_id)) is not None:
            self._needing[task.function_id] = needing - 1
            if needing == 1:
                del self._needing[task.function_id]
                self.function_bytes -= self.blobs.size(task.function_id)

    def _lease(self, worker: str, tasks: list[Task]) -> int:
        for task in tasks:
            task.apply(TaskEvent.GRANTED)
            task.in_process = False
            if task.expires_at is not None:
                self.expiring.discard(task)
        return self.leases.grant(tasks, worker)

    def _take_lease(self, worker: str, token: int) -> Task:
        task = self.leases.end(token, worker)
        assert task is not None, "whoever calls a command has looked"
        return task

    def _record(
        self, session: Session, task: Task, event: TaskEvent, kind: str, content: bytes, whence: str = ""
    ) -> Row:
        """The one place where a task gets its outcome."""
        task.apply(event)
        if task.expires_at is not None:
            self.expiring.discard(task)
        name = _COUNT[event]
        self.counts[name] += 1
        session.counts[name] += 1
        self._weigh_off(task)
        row = session.outcomes[task.sequence] = (task.sequence, kind, content, whence)
        session.result_bytes += len(content)
        return row

    def _stop(self, which: Callable[[Task], bool]) -> tuple[list[Task], dict[str, list[int]]]:
        """End the leases of these tasks."""
        tasks: list[Task] = []
        tokens: dict[str, list[int]] = {}
        for worker, token, task in [lease for lease in self.leases if which(lease[2])]:
            self.leases.end(token, worker)
            self.ready.ended(task)
            tasks.append(task)
            tokens.setdefault(worker, []).append(token)
        return tasks, tokens

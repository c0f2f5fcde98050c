"""Every error a user of multihost can meet: one base, one class for each thing that can be done about it.

Every error crosses the wire, so its fields are its ``args``; ``str(error)`` says what happened, what becomes
of the task, and what to change.
"""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool

from multihost.deaths import Death, in_bytes


class MultihostError(Exception):
    """The base of all errors that multihost itself raises."""


class SettingsError(MultihostError, ValueError):
    """A setting or an argument is wrong; nothing was started. Change the value the message names."""


class AuthkeyMissing(SettingsError, multiprocessing.AuthenticationError):
    """No authkey was given, and there is no default one."""


class MasterUnreachable(MultihostError, ConnectionError):
    """The master did not answer within the time allowed; tasks already submitted may still run."""

    def __init__(self, address: str, seconds: float, reason: str) -> None:
        super().__init__()
        self.args = (
            address,
            seconds,
            reason,
        )  # three arguments to OSError would mean errno, text and file name
        self.address, self.seconds, self.reason = address, seconds, reason

    def __str__(self) -> str:
        return (
            f"no master answered at {self.address} within {self.seconds:g} s ({self.reason}). Check "
            "MULTIHOST_ADDRESS and that the master runs; MULTIHOST_CONNECT_TIMEOUT sets how long to try."
        )


class ClientClosed(MultihostError):
    """This side ended the session (``terminate``, or the end of a ``with`` block) before the task ended."""

    def __init__(self, what: str = "the session was closed by this program before the task ended") -> None:
        super().__init__(what)


class ForkedClient(MultihostError):
    """A process forked from the one that made a pool or executor used it; the connection is its parent's."""

    def __init__(self, maker: int, user: int) -> None:
        super().__init__(maker, user)
        self.maker, self.user = maker, user

    def __str__(self) -> str:
        return (
            f"process {self.user} was forked from process {self.maker}, which made this pool; nothing was submitted. "
            "Make a pool of its own in the forked process."
        )


class ProtocolError(MultihostError, ConnectionError):
    """The peer sent something that the protocol does not know; the connection was closed."""


class TaskTooLarge(MultihostError, ValueError):
    """A task, or a function with what it carries, is larger than the master accepts; it was not sent."""

    def __init__(self, what: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(what, size_bytes, limit_bytes)
        self.what, self.size_bytes, self.limit_bytes = what, size_bytes, limit_bytes

    def __str__(self) -> str:
        return (
            f"{self.what} takes {self.size_bytes:,} bytes, more than the {self.limit_bytes:,} the master accepts; "
            "it was not sent. Let the task carry a path on a shared disk rather than the content, or raise "
            "MULTIHOST_MAX_PAYLOAD on the master."
        )


class ResultTooLarge(MultihostError, ValueError):
    """A task ran, but its result is larger than the master accepts; the result was dropped."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(size_bytes, limit_bytes)
        self.size_bytes, self.limit_bytes = size_bytes, limit_bytes

    def __str__(self) -> str:
        return (
            f"the result takes {self.size_bytes:,} bytes, more than the {self.limit_bytes:,} the master accepts. "
            "Let the task write it to a shared disk and return the path, or raise MULTIHOST_MAX_PAYLOAD on the "
            "master."
        )


class WorkerDied(MultihostError, BrokenProcessPool):
    """Every process that was given this task died before it ended; the task is a dead letter.

    The pool is not broken, whatever the standard library's name of this error says: other tasks go on.
    """

    def __init__(self, losses: Sequence[str]) -> None:
        super().__init__(tuple(losses))
        # One for each delivery, first to last: what is known of it, and the same in words.
        self.deaths = tuple(map(Death.decode, losses))
        self.losses = tuple(map(str, self.deaths))

    def __str__(self) -> str:
        reasons = "; ".join(f"delivery {number}: {loss}" for number, loss in enumerate(self.losses, start=1))
        text = f"the task was given up after {len(self.losses)} deliveries, each lost with its process ({reasons})"
        told = [death for death in self.deaths if death.output or death.stack][-1:]
        for death in told:
            text += f"\nIt stood at:\n{death.stack}" if death.stack else ""
            text += f"\nIts last output:\n{death.output}" if death.output else ""
        return text


class ClusterFull(MultihostError):
    """The master holds as many of something as it may; this one was not taken. What it has goes on."""

    def __init__(self, what: str, limit: int, setting: str) -> None:
        super().__init__(what, limit, setting)
        self.what, self.limit, self.setting = what, limit, setting

    def __str__(self) -> str:
        return (
            f"the master holds its limit of {self.limit:,} {self.what}; nothing of this was taken. Try again when some "
            f"have ended, or raise {self.setting} on the master."
        )


class JobError(MultihostError):
    """A detached job cannot be begun or collected; the classes below say what can be done about it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class JobExists(JobError):
    """The master has a detached job of this name; nothing was submitted."""

    def __str__(self) -> str:
        return (
            f"the master has a detached job {self.name!r} already; nothing was submitted. Choose another name, or "
            f"collect that one with multihost.attach({self.name!r}), or drop it with its method drop."
        )


class JobUnknown(JobError, LookupError):
    """The master has no detached job of this name."""

    def __str__(self) -> str:
        return (
            f"the master has no detached job {self.name!r}: it never had, or all of its results were acknowledged, or "
            "nobody came for them within MULTIHOST_JOB_TTL, or the master was started anew without a journal."
        )


class JobBusy(JobError):
    """Another program collects the results of this detached job; only one does at a time."""

    def __str__(self) -> str:
        return f"another program is attached to the detached job {self.name!r}; try again when it has ended."


class JobIncomplete(JobError):
    """Not all tasks of this detached job were submitted: its program still does that, or has died over it."""

    def __str__(self) -> str:
        return (
            f"the detached job {self.name!r} is not whole: its program still submits it, or has died over it. In that "
            "case the master drops it within MULTIHOST_SESSION_TIMEOUT seconds, and it can be submitted again."
        )


JOB_ERRORS: dict[str, type[JobError]] = {kind.__name__: kind for kind in JobError.__subclasses__()}


class TaskTimeout(MultihostError, TimeoutError):
    """A task ran longer than the ``timeout`` its caller gave it. It was stopped, whatever it had done by then."""

    def __init__(self, seconds: float, worker: str, killed: bool = False, stack: str = "", output: str = "") -> None:
        super().__init__()
        self.args = (seconds, worker, killed, stack, output)  # several arguments to OSError would mean errno and text
        self.seconds, self.worker = seconds, worker
        self.killed = killed  # it did not end when it was interrupted, so its process was killed
        self.stack = stack  # of Python, where it stood when its time was up; for one that was killed
        self.output = output  # the last lines that it printed; for one that was killed (otherwise they are a note)

    def __str__(self) -> str:
        how = "did not end when it was interrupted, so its process was killed" if self.killed else "was interrupted"
        where = f" It stood at:\n{self.stack}" if self.stack else ""
        printed = f"\nIts last output:\n{self.output}" if self.output else ""
        took = f"the task took longer than its timeout of {self.seconds:g} s on worker {self.worker}"
        return f"{took}; it {how}.{where}{printed}"


class TaskExpired(MultihostError, TimeoutError):
    """No worker had a task when the time was over that its caller gave it with ``expires``. It is not run any more.

    Like ``TaskTimeout`` a TimeoutError, so that one ``except`` takes whatever was not done in time.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds

    def __str__(self) -> str:
        return (
            f"no worker had taken the task {self.seconds:g} s after it was submitted, when it expired; it is not run "
            "any more. More workers, a higher priority or a longer expires would have it run."
        )


class TaskOutOfMemory(MultihostError, MemoryError):
    """A task wanted more memory than its option ``memory`` or its worker allows. Others go on."""

    def __init__(
        self,
        limit_bytes: int,
        worker: str,
        killed: bool = False,
        used_bytes: int = 0,
        reason: str = "",
        output: str = "",
    ) -> None:
        super().__init__(limit_bytes, worker, killed, used_bytes, reason, output)
        self.limit_bytes, self.worker = limit_bytes, worker
        self.killed = killed  # its process took more, and was killed; otherwise the task was refused more, and raised
        self.used_bytes = used_bytes  # when it was killed
        self.reason = reason  # the text of the MemoryError that it raised
        self.output = output  # the last lines that it printed; for one that was killed (otherwise they are a note)

    def __str__(self) -> str:
        limit = f"the limit of {in_bytes(self.limit_bytes)} that its process has on worker {self.worker}"
        advice = (
            "Raise its option memory, or the worker's MULTIHOST_TASK_MEMORY if that is less, or give it less at once."
        )
        if self.killed:
            printed = f"\nIts last output:\n{self.output}" if self.output else ""
            took = f"the task took {in_bytes(self.used_bytes)} of memory, over {limit}"
            return f"{took}, so that was killed. {advice}{printed}"
        reason = f" ({self.reason})" if self.reason else ""
        return f"the task was refused more memory{reason}, under {limit}. {advice}"


class CodeNotFound(MultihostError, ImportError):
    """A worker could not import what the task names."""

    def __init__(self, name: str, worker: str, reason: str) -> None:
        super().__init__(name, worker, reason)
        self.worker, self.reason = worker, reason
        self.name = name

    def __str__(self) -> str:
        return (
            f"worker {self.worker} cannot import {self.name} ({self.reason}). Modules beneath the program's own "
            "directory travel by themselves; an installed package must be installed on the workers too."
        )


class PythonMismatch(MultihostError):
    """A function or value sent by value met another minor version of Python; its bytecode would crash there."""

    def __init__(self, sender: str, receiver: str) -> None:
        super().__init__(sender, receiver)
        self.sender, self.receiver = sender, receiver

    def __str__(self) -> str:
        return (
            f"a lambda, closure or interactive function made by Python {self.sender} cannot run on Python "
            f"{self.receiver}. Define it with def at the top level of a module, so that it travels as source, or "
            f"use Python {self.sender} on both sides."
        )


class ResultNotRebuilt(MultihostError):
    """A task has returned, and its result cannot be rebuilt in this program; why is in ``__cause__``.

    Nothing is lost: where what the result is made of can be imported, ``pickle.loads(error.payload)`` is the result.
    Of a map, items that came together are one pickle: there, ``pickle.loads(error.payload)[0][error.place]`` is.
    With code of another Python inside, that must be tried under ``python`` alone.
    """

    def __init__(self, reason: str, payload: bytes, place: int | None = None, python: str = "") -> None:
        super().__init__(reason, payload, place, python)
        self.reason, self.payload, self.place = reason, payload, place
        self.python = python  # the only minor version that its bytecode does not crash; empty: it has none

    def __str__(self) -> str:
        which = "" if self.place is None else f"[0][{self.place}]"
        where = f"under Python {self.python}, and no other, and " if self.python else ""
        return (
            f"the task ran, but its result cannot be rebuilt in this program ({self.reason}). Its bytes "
            f"({len(self.payload):,}) are kept: {where}where what they name can be imported, it is "
            f"pickle.loads(error.payload){which}."
        )


class JournalError(MultihostError):
    """The master's journal cannot be used as it is; the classes below say what can be done about it."""


class JournalFull(JournalError):
    """The journal could not be written. Nothing of that commit counts; the same records can be committed again."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(file, reason)
        self.file, self.reason = file, reason

    def __str__(self) -> str:
        return (
            f"the journal {self.file} could not be written ({self.reason}); what was to be recorded was not "
            "acknowledged, and what was acknowledged before is whole. Free space on that disk, or mend it; work goes "
            "on by itself then."
        )


class JournalDamaged(JournalError):
    """What was acknowledged is not there as it was written; nothing was changed on the disk."""

    def __init__(self, file: str, row: int, offset: int, reason: str, acknowledged: int) -> None:
        super().__init__(file, row, offset, reason, acknowledged)
        self.file, self.row, self.offset, self.reason = file, row, offset, reason
        self.acknowledged = acknowledged  # how many rows there must be; -1: the part that says so is damaged

    def __str__(self) -> str:
        of = f" of {self.acknowledged}" if self.acknowledged >= 0 else ""
        readable = f"{self.row - 1} rows before it are whole" if self.row else "no row was read yet"
        return (
            f"the journal {self.file} is damaged at row {self.row}{of}, byte {self.offset}: {self.reason}; {readable}. "
            "Put back a copy of the file, or start without what is lost after "
            "'python -m multihost.broker.repair DIRECTORY', which keeps every whole row before the damage, and the "
            "damaged file under another name."
        )


class JournalLocked(JournalError):
    """Another master uses this journal."""

    def __init__(self, directory: str, holder: str) -> None:
        super().__init__(directory, holder)
        self.directory, self.holder = directory, holder

    def __str__(self) -> str:
        return (
            f"the journal in {self.directory} is used by another master ({self.holder}). Stop that one, or set "
            "MULTIHOST_JOURNAL to a directory of this one's own."
        )


class JournalUnusable(JournalError):
    """The journal cannot be opened where MULTIHOST_JOURNAL says, or by this version; nothing was changed."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"the journal in {self.path} cannot be used: {self.reason}"


class RemoteError(MultihostError):
    """Stands for a task's exception that cannot be rebuilt here; the traceback is in ``__cause__``."""

    def __init__(self, type_name: str, message: str) -> None:
        super().__init__(type_name, message)
        self.type_name, self.message = type_name, message

    def __str__(self) -> str:
        return f"{self.type_name}: {self.message}"


class RemoteTraceback(Exception):
    """The traceback of a task as its worker saw it; the ``__cause__`` of the task's exception.

    Source: ``multiprocessing.pool.RemoteTraceback``, which does the same for the local Pool.
    """

    def __init__(self, traceback: str) -> None:
        super().__init__(traceback)
        self.traceback = traceback

    def __str__(self) -> str:
        return f'\n"""\n{self.traceback}"""'

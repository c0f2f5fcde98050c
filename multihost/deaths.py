"""How a process that had a task died: told by the worker, kept by the master as text, read by the client."""

import json
import signal
from dataclasses import asdict, dataclass, fields

MAX_OUTPUT_CHARACTERS = 2 * 1024  # the last ones of what the task printed


@dataclass(frozen=True, slots=True)
class Death:
    """One lost delivery of a task. Of a worker that was lost with its host, only ``reason`` is known.

    Only ``MultihostError`` s carry these; they travel as JSON, which the master keeps without reading more of it than
    ``reason_of`` does.
    """

    reason: str  # in words
    host: str = ""
    worker: str = ""
    signal: str = ""  # the name of the one that ended the process
    exit_status: int | None = None
    oom: bool | None = None  # whether it was the kernel's OOM killer, as the counter of the cgroup says; None: unknown
    peak_bytes: int = 0  # the most memory that the process had resident, or one of its subprocesses; 0: unknown
    output: str = ""  # the last lines that the task printed
    stack: str = ""  # of Python, where a fatal signal such as SIGSEGV found it

    def __str__(self) -> str:
        where = f" on worker {self.worker}" if self.worker else ""
        host = f" (host {self.host})" if self.host and self.host != self.worker else ""
        oom = ", by the kernel's OOM killer" if self.oom else ""
        peak = f", having used up to {in_bytes(self.peak_bytes)} of memory" if self.peak_bytes else ""
        return f"{self.reason}{oom}{where}{host}{peak}"

    def encode(self) -> str:
        """As text; what has its default value is left out."""
        plain = asdict(self)
        return json.dumps({each.name: plain[each.name] for each in fields(self) if plain[each.name] != each.default})

    @classmethod
    def decode(cls, text: str) -> "Death":
        """What ``encode`` made ``text`` of; any other text is the reason."""
        if text.startswith("{"):
            try:
                return cls(**json.loads(text))
            except (ValueError, TypeError):
                pass  # of a later version, perhaps
        return cls(text)


def is_certificate(text: str) -> bool:
    """Whether ``Death.encode`` made it, so that it names its worker."""
    return text.startswith("{")


def words(loss: str) -> str:
    """A line about a loss, for a log."""
    return str(Death.decode(loss))


def how_it_ended(exit_code: int | None) -> Death:
    """Of a process whose exit code is as ``subprocess`` has it: below zero, the number of a signal."""
    if exit_code is None:
        return Death("its process ended and left no exit status")
    if exit_code >= 0:
        return Death(f"its process ended with exit status {exit_code} and without an outcome", exit_status=exit_code)
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    return Death(f"its process was killed by {name}", signal=name)


def in_bytes(size: int) -> str:
    """A size for people."""
    value, unit = float(size), "bytes"
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if value >= 100 or unit == "bytes" else f"{value:.1f} {unit}"

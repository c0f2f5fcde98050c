"""How a call is to be treated, beyond what the standard library knows: ``Pool.options`` and ``Executor.options``.

On the wire they are a plain dict of those that differ from their defaults; nearly always an empty one.
"""

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypedDict

MAX_RETRIES = 1_000_000
MAX_PRIORITY = 1_000
MAX_SECONDS = 1e9
MAX_TEXT = 200
# Python itself, the modules of the worker and a few threads take half of that.
MIN_MEMORY = 64 << 20
MAX_MEMORY = 1 << 50


class Changes(TypedDict, total=False):
    """The options as ``Pool.options`` takes them, for type checkers."""

    retries: int
    retry_for: type[BaseException] | tuple[type[BaseException], ...]
    backoff: float
    timeout: float | None
    memory: int | str | None
    priority: int
    name: str
    labels: str | Iterable[str]
    delay: float
    expires: float | None


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a call. Durations are seconds.

    Raises: TypeError, ValueError: one of them is not what it must be.
    """

    retries: int = 0  # how often the function may raise and be called again
    retry_for: tuple[type[BaseException], ...] = (Exception,)  # the exceptions that are worth another try
    backoff: float = 1.0  # before the first retry; each further one waits twice as long, a minute at most
    timeout: float | None = None  # for one delivery, from the moment the function is called
    memory: int | str | None = None  # bytes, or with a K, M, G or T behind: what the process that runs it may take
    priority: int = 0  # of two calls of the same program, the one with the higher priority is leased first
    name: str = ""  # for people: logs, errors, statistics
    labels: frozenset[str] = frozenset()  # only workers started with all of these may run it
    delay: float = 0.0  # from the call on; until then the master holds it, and no worker
    expires: float | None = None  # from the call on: what no worker has begun by then is not run any more
    # When the call was made (monotonic), if that was before its tasks were submitted: a map submits them bit by bit.
    since: float | None = field(init=False, default=None, compare=False, repr=False)
    timed: bool = field(init=False, compare=False, repr=False)  # whether it matters when the call was made
    # Plain data, without what has its default value or, as ``retry_for``, travels with the function.
    wire: dict[str, object] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        _check_whole("retries", self.retries, 0, MAX_RETRIES)
        _check_whole("priority", self.priority, -MAX_PRIORITY, MAX_PRIORITY)
        _check_seconds("backoff", self.backoff, zero=True)
        if self.timeout is not None:
            _check_seconds("timeout", self.timeout, zero=False)
        _check_seconds("delay", self.delay, zero=True)
        if self.expires is not None:
            _check_seconds("expires", self.expires, zero=False)
            if self.expires <= self.delay:
                raise ValueError(
                    f"expires must be above delay, {self.delay!r}, or no call could begin: {self.expires!r}"
                )
        if self.memory is not None:
            object.__setattr__(self, "memory", as_bytes(self.memory))
        _check_name(self.name)
        object.__setattr__(self, "retry_for", _as_classes(self.retry_for))
        object.__setattr__(self, "labels", as_labels(self.labels))
        object.__setattr__(self, "timed", bool(self.delay) or self.expires is not None)
        object.__setattr__(self, "wire", self._on_the_wire())

    def but(self, **changes: object) -> "Options":
        """These options with some of them changed.

        Raises: TypeError: there is no option of that name, or it is of another type; ValueError.
        """
        known = [option.name for option in fields(self) if option.init]
        for name in changes:
            if name not in known:
                raise TypeError(f"there is no option {name!r}; there are {', '.join(known)}")
        given: Any = changes
        return replace(self, **given)

    def from_now(self) -> "Options":
        """These options for a call that is made now, and whose tasks are submitted bit by bit."""
        if not self.timed:
            return self
        options = replace(self)
        object.__setattr__(options, "since", time.monotonic())
        return options

    def _on_the_wire(self) -> dict[str, object]:
        plain: dict[str, object] = {}
        if self.retries:
            plain |= {"retries": self.retries, "backoff": float(self.backoff)}
        if self.timeout is not None:
            plain["timeout"] = float(self.timeout)
        if self.memory is not None:
            plain["memory"] = self.memory
        if self.priority:
            plain["priority"] = self.priority
        if self.name:
            plain["name"] = self.name
        if self.labels:
            plain["labels"] = tuple(sorted(self.labels))
        if self.delay:
            plain["delay"] = float(self.delay)
        if self.expires is not None:
            plain["expires"] = float(self.expires)
        return plain


def as_bytes(size: object) -> int:
    """A limit of memory in bytes, given as a whole number, or as a str such as 512M, 2GB or 2 GiB: powers of 1024.

    Raises: TypeError, ValueError: it is something else, or out of bounds.
    """
    form = "memory must be a whole number of bytes, or a str such as '512M' or '2G'"
    if not isinstance(size, int | str) or isinstance(size, bool):
        raise TypeError(f"{form}, not {size!r}")
    match = re.fullmatch(r"([0-9]{1,18}) ?([KMGT]?)(?:I?B)?", str(size).strip().upper())
    if match is None:
        raise ValueError(f"{form}, not {size!r}")
    found = int(match[1]) << 10 * " KMGT".index(match[2] or " ")
    if not MIN_MEMORY <= found <= MAX_MEMORY:
        raise ValueError(f"memory must be from {MIN_MEMORY >> 20}M to {MAX_MEMORY >> 40}T, not {size!r}")
    return found


def as_labels(labels: object) -> frozenset[str]:
    """Labels, given as one str or several.

    Raises: TypeError, ValueError: a label is something else, is empty or has a space or a comma in it.
    """
    if isinstance(labels, str):
        labels = [labels]
    if not isinstance(labels, Iterable):
        raise TypeError(f"labels must be a str or several of them, not {labels!r}")
    found = list(labels)
    for label in found:
        if not isinstance(label, str):
            raise TypeError(f"a label must be a str, not {label!r}")
        if not 0 < len(label) <= MAX_TEXT or "," in label or label.split() != [label]:
            raise ValueError(f"a label is a word without spaces and commas, not {label!r}")
    return frozenset(found)


def _as_classes(given: object) -> tuple[type[BaseException], ...]:
    classes = given if isinstance(given, tuple) else (given,)
    if not classes or not all(isinstance(each, type) and issubclass(each, BaseException) for each in classes):
        raise TypeError(f"retry_for must be exception classes, one or a tuple of them, not {given!r}")
    return classes


def _check_name(name: object) -> None:
    if not isinstance(name, str) or len(name) > MAX_TEXT:
        raise ValueError(f"name must be a str of at most {MAX_TEXT} characters, not {name!r}")


def _check_whole(name: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if not least <= value <= most:
        raise ValueError(f"{name} must be from {least:,} to {most:,}, not {value:,}")


def _check_seconds(name: str, value: object, zero: bool) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not (0 < value <= MAX_SECONDS or (zero and value == 0)):
        raise ValueError(f"{name} must be a number of seconds {'from' if zero else 'above'} zero, not {value!r}")


PLAIN = Options()

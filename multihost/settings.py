"""The settings: every ``MULTIHOST_*`` variable, its default, its unit, and how it is read.

The programs (and ``Pool`` without arguments) call ``read_settings`` once and pass the result down; nothing
else looks at the environment. A bad value raises ``SettingsError`` before anything is started.
"""

import contextlib
import os
import re
import secrets
import socket
import tempfile
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TypeVar

from multihost.errors import AuthkeyMissing, SettingsError
from multihost.options import as_bytes, as_labels

DEFAULT_PORT = 5000
# Where the master keeps the key it makes, and where workers and clients beside it find it.
DEFAULT_AUTHKEY_FILE = Path("/run/multihost/authkey")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
LOG_FORMATS = ("text", "json")
MEMORY = "memory"  # a journal that keeps nothing
JOURNAL_SYNCS = ("normal", "full")
TASK_OUTPUTS = ("show", "hide")
# Read by docker-compose.yml and the scripts, not by Python.
COMPOSE_VARIABLES = ("MULTIHOST_LOGS", "MULTIHOST_PIDS", "MULTIHOST_PUBLISH", "MULTIHOST_TMP")

T = TypeVar("T")


class ExitCode(IntEnum):
    """How the programs end; the numbers are those of ``sysexits.h``."""

    OK = 0
    ADDRESS = 71  # the address cannot be listened on
    JOURNAL = 74  # the journal is damaged, or cannot be read and written
    JOURNAL_LOCKED = 75  # another master uses the journal
    UNAVAILABLE = 69  # no master answered in time
    REFUSED = 77  # the authkey was refused
    SETTINGS = 78  # a setting is wrong


@dataclass(frozen=True, slots=True)
class Address:
    """Where the master listens, or is to be found."""

    host: str
    port: int

    @property
    def pair(self) -> tuple[str, int]:
        return self.host, self.port

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Settings:
    """One program's settings. Durations are seconds, sizes bytes."""

    address: Address | None = None
    log_level: str = "INFO"
    log_format: str = "text"
    slots: int = 1
    # How many tasks each of a worker's processes runs at a time. More suits tasks that wait most of their time; but one
    # that is killed for its timeout takes those beside it with it, which then run again.
    threads: int = 1
    labels: tuple[str, ...] = ()
    name: str = ""
    # Shorter finds a frozen worker sooner; longer spares a slow network needless redeliveries.
    lease_timeout: float = 10.0
    drain_timeout: float = 60.0
    connect_timeout: float = 60.0
    session_timeout: float = 60.0
    # How long a detached job is kept that has ended and that nobody collects. Longer fills the master's memory.
    job_ttl: float = 7 * 24 * 3600.0
    # Everything in flight passes through the master's memory: a larger cap lets one task take more of it.
    max_payload: int = 256 * 1024 * 1024
    queue_size: int = 0
    # What the master holds in its memory at most. A task takes about 1 kB there besides its arguments.
    max_tasks: int = 1_000_000
    max_task_bytes: int = 2 * 1024**3
    max_result_bytes: int = 1024**3
    max_sessions: int = 10_000
    # Of tasks that were given up, for whoever looks into them later; beyond either bound the oldest are dropped.
    max_dead_letters: int = 1000
    max_dead_letter_bytes: int = 256 * 1024**2
    # Above the master's limit of open files this bound is of no use.
    max_connections: int = 10_000
    journal: str = MEMORY  # or a directory
    # normal: what was acknowledged survives the end of the master, however it ends. full: a power cut, too, for one
    # write through to the disk in each turn of the event loop.
    journal_sync: str = "normal"
    # What a process that runs tasks may take; 0: no limit. A task that wants more fails before the host has no more.
    task_memory: int = 0
    task_output: str = "show"  # what tasks print: at the client, or hidden


VARIABLES: dict[str, str] = {
    "MULTIHOST_ADDRESS": "address",
    "MULTIHOST_AUTHKEY": "",
    "MULTIHOST_AUTHKEY_FILE": "",
    "MULTIHOST_AUTHKEY_PREVIOUS": "",
    "MULTIHOST_AUTHKEY_PREVIOUS_FILE": "",
    "MULTIHOST_CONNECT_TIMEOUT": "connect_timeout",
    "MULTIHOST_DRAIN_TIMEOUT": "drain_timeout",
    "MULTIHOST_JOB_TTL": "job_ttl",
    "MULTIHOST_JOURNAL": "journal",
    "MULTIHOST_JOURNAL_SYNC": "journal_sync",
    "MULTIHOST_LABELS": "labels",
    "MULTIHOST_LEASE_TIMEOUT": "lease_timeout",
    "MULTIHOST_LOG_FORMAT": "log_format",
    "MULTIHOST_LOG_LEVEL": "log_level",
    "MULTIHOST_MAX_CONNECTIONS": "max_connections",
    "MULTIHOST_MAX_DEAD_LETTERS": "max_dead_letters",
    "MULTIHOST_MAX_DEAD_LETTER_BYTES": "max_dead_letter_bytes",
    "MULTIHOST_MAX_PAYLOAD": "max_payload",
    "MULTIHOST_MAX_RESULT_BYTES": "max_result_bytes",
    "MULTIHOST_MAX_SESSIONS": "max_sessions",
    "MULTIHOST_MAX_TASKS": "max_tasks",
    "MULTIHOST_MAX_TASK_BYTES": "max_task_bytes",
    "MULTIHOST_NAME": "name",
    "MULTIHOST_QUEUE_SIZE": "queue_size",
    "MULTIHOST_SESSION_TIMEOUT": "session_timeout",
    "MULTIHOST_SLOTS": "slots",
    "MULTIHOST_THREADS": "threads",
    "MULTIHOST_TASK_MEMORY": "task_memory",
    "MULTIHOST_TASK_OUTPUT": "task_output",
}


def read_settings(environ: Mapping[str, str]) -> Settings:
    """The settings in ``environ``; an empty variable counts as unset.

    Raises: SettingsError, naming the variable and what it must be.
    """

    def read(variable: str, parse: Callable[[str, str], T], default: T) -> T:
        text = environ.get(variable, "").strip()
        return parse(variable, text) if text else default

    plain = Settings()
    return Settings(
        address=read("MULTIHOST_ADDRESS", _address, None),
        log_level=read("MULTIHOST_LOG_LEVEL", _choice(LOG_LEVELS, str.upper), plain.log_level),
        log_format=read("MULTIHOST_LOG_FORMAT", _choice(LOG_FORMATS, str.lower), plain.log_format),
        slots=read("MULTIHOST_SLOTS", _whole(1), 0) or usable_cores(),
        threads=read("MULTIHOST_THREADS", _whole(1), plain.threads),
        labels=read("MULTIHOST_LABELS", _labels, plain.labels),
        name=read("MULTIHOST_NAME", _text, "") or socket.gethostname(),
        lease_timeout=read("MULTIHOST_LEASE_TIMEOUT", _seconds, plain.lease_timeout),
        drain_timeout=read("MULTIHOST_DRAIN_TIMEOUT", _seconds, plain.drain_timeout),
        connect_timeout=read("MULTIHOST_CONNECT_TIMEOUT", _seconds, plain.connect_timeout),
        session_timeout=read("MULTIHOST_SESSION_TIMEOUT", _seconds, plain.session_timeout),
        job_ttl=read("MULTIHOST_JOB_TTL", _seconds, plain.job_ttl),
        max_payload=read("MULTIHOST_MAX_PAYLOAD", _whole(1024), plain.max_payload),
        queue_size=read("MULTIHOST_QUEUE_SIZE", _whole(0), plain.queue_size),
        max_tasks=read("MULTIHOST_MAX_TASKS", _whole(1), plain.max_tasks),
        max_task_bytes=read("MULTIHOST_MAX_TASK_BYTES", _whole(1), plain.max_task_bytes),
        max_result_bytes=read("MULTIHOST_MAX_RESULT_BYTES", _whole(1), plain.max_result_bytes),
        max_sessions=read("MULTIHOST_MAX_SESSIONS", _whole(1), plain.max_sessions),
        max_dead_letters=read("MULTIHOST_MAX_DEAD_LETTERS", _whole(0), plain.max_dead_letters),
        max_dead_letter_bytes=read("MULTIHOST_MAX_DEAD_LETTER_BYTES", _whole(0), plain.max_dead_letter_bytes),
        max_connections=read("MULTIHOST_MAX_CONNECTIONS", _whole(1), plain.max_connections),
        journal=read("MULTIHOST_JOURNAL", _text, plain.journal),
        journal_sync=read("MULTIHOST_JOURNAL_SYNC", _choice(JOURNAL_SYNCS, str.lower), plain.journal_sync),
        task_memory=read("MULTIHOST_TASK_MEMORY", _memory, plain.task_memory),
        task_output=read("MULTIHOST_TASK_OUTPUT", _choice(TASK_OUTPUTS, str.lower), plain.task_output),
    )


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """One warning for each ``MULTIHOST_*`` name that nothing reads, with the nearest name that something does."""
    known = [*VARIABLES, *COMPOSE_VARIABLES]
    warnings = []
    for name in sorted(environ):
        if name.startswith("MULTIHOST_") and name not in known:
            import difflib  # here, since it is seldom wanted and each program that starts would wait for it

            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            warnings.append(f"{name} is not a setting of multihost and was ignored; did you mean {near}?")
    return warnings


def parse_address(text: str, what: str = "the address") -> Address:
    """``host:port``, ``[ipv6]:port`` or ``host`` alone, which means port 5000.

    Raises: SettingsError.
    """
    form = f"{what} must be host:port, such as 192.0.2.10:5000 or master:5000"
    match = re.fullmatch(
        r"\[(?P<six>[0-9A-Fa-f:.%\w]+)\](:(?P<port6>.*))?|(?P<host>[^:\[\]]*)(:(?P<port>[^:]*))?", text
    )
    if match is None:
        raise SettingsError(f"{form}; an IPv6 address stands in brackets, [::1]:5000. Got {text!r}")
    host = match["six"] or match["host"] or ""
    port_text = match["port6"] if match["six"] else match["port"]
    if not host:
        raise SettingsError(f"{form}. Got {text!r}, which names no host")
    if port_text is None:
        if host.isdecimal():
            raise SettingsError(f"{form}. Got {text!r}, which is a port without a host")
        return Address(host, DEFAULT_PORT)
    if not (port_text.isascii() and port_text.isdecimal() and 0 < int(port_text) < 65536):
        raise SettingsError(f"{form}, with a port from 1 to 65535. Got {text!r}")
    return Address(host, int(port_text))


def read_authkey(environ: Mapping[str, str], default_file: Path = DEFAULT_AUTHKEY_FILE) -> bytes:
    """The authkey: ``MULTIHOST_AUTHKEY``, the content of ``MULTIHOST_AUTHKEY_FILE``, or of ``default_file``.

    Raises:
        AuthkeyMissing: none of the three is there.
        SettingsError: two are set at once, or the file cannot be read or is empty.
    """
    if (key := _key_of(environ, "MULTIHOST_AUTHKEY")) is not None:
        return key
    if os.path.exists(default_file):  # unlike Path.exists, False where its directory may not be looked into
        return _key_in(default_file, "the authkey file")
    raise AuthkeyMissing(
        "no authkey: set MULTIHOST_AUTHKEY or MULTIHOST_AUTHKEY_FILE to the master's key (there is no default key)"
    )


def read_previous_authkey(environ: Mapping[str, str], authkey: bytes) -> bytes | None:
    """The key that the master accepts beside ``authkey``: ``MULTIHOST_AUTHKEY_PREVIOUS``, or ..._FILE; None: no other.

    Raises: SettingsError: both are set, the file cannot be read, or it is the same key.
    """
    previous = _key_of(environ, "MULTIHOST_AUTHKEY_PREVIOUS")
    if previous == authkey:
        raise SettingsError(
            "MULTIHOST_AUTHKEY_PREVIOUS is the same key as MULTIHOST_AUTHKEY; it must be the one before, which workers "
            "and programs still have, or be unset"
        )
    return previous


def forget_authkeys(environ: MutableMapping[str, str]) -> None:
    """Remove the keys, and where they are, from what child processes would inherit."""
    for name in [name for name in environ if name.startswith("MULTIHOST_AUTHKEY")]:
        del environ[name]


def _key_of(environ: Mapping[str, str], variable: str) -> bytes | None:
    text, file = environ.get(variable, ""), environ.get(f"{variable}_FILE", "")
    if text and file:
        raise SettingsError(f"{variable} and {variable}_FILE are both set; unset one of them")
    if text:
        return os.fsencode(text)  # an environment may hold any bytes
    return _key_in(Path(file), f"{variable}_FILE") if file else None


def _key_in(path: Path, what: str) -> bytes:
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise SettingsError(f"{what} {path} cannot be read by user {os.getuid()}: {error.strerror}") from error
    if not key:
        raise SettingsError(f"{what} {path} is empty; it must hold the authkey")
    return key


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """The cores this process may use: its CPU affinity, cut by the cgroup's quota (rounded up), at least 1."""
    cores = len(os.sched_getaffinity(0))
    # The quota of version 2, then of version 1: "max" or -1 where there is none.
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with contextlib.suppress(OSError, ValueError):
            quota, period = " ".join((cgroup / file).read_text() for file in files).split()
            return cores if quota in ("max", "-1") else max(1, min(cores, -(-int(quota) // int(period))))
    return cores


def _address(variable: str, text: str) -> Address | None:
    return parse_address(text, variable)


def _text(variable: str, text: str) -> str:
    return text


def _labels(variable: str, text: str) -> tuple[str, ...]:
    try:
        return tuple(sorted(as_labels([label.strip() for label in text.split(",")])))
    except ValueError as error:
        raise SettingsError(f"{variable} must be words separated by commas, got {text!r}: {error}") from error


def _memory(variable: str, text: str) -> int:
    if text == "0":
        return 0
    try:
        return as_bytes(text)
    except ValueError as error:
        raise SettingsError(
            f"{variable} must be 0 or a number of bytes such as 512M or 2G, got {text!r}: {error}"
        ) from error


def _seconds(variable: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise SettingsError(f"{variable} must be a number of seconds above zero, got {text!r}")
    return value


def _whole(least: int) -> Callable[[str, str], int]:
    def parse(variable: str, text: str) -> int:
        if not (text.isascii() and text.isdecimal() and int(text) >= least):
            raise SettingsError(f"{variable} must be a whole number of at least {least}, got {text!r}")
        return int(text)

    return parse


def _choice(choices: tuple[str, ...], fold: Callable[[str], str]) -> Callable[[str, str], str]:
    def parse(variable: str, text: str) -> str:
        if fold(text) not in choices:
            raise SettingsError(f"{variable} must be one of {', '.join(choices)}, got {text!r}")
        return fold(text)

    return parse


def make_authkey(path: Path) -> None:
    """Put a new random key of 32 bytes, as 64 hexadecimal digits, where no file is; an existing one stays.

    Raises: SettingsError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".authkey-") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fchmod(file.fileno(), 0o600)
            with contextlib.suppress(FileExistsError):
                os.link(file.name, path)  # whole or not at all, and never over another master's key
    except OSError as error:
        raise SettingsError(
            f"no authkey was given, and none can be made in {path} ({error.strerror}); set MULTIHOST_AUTHKEY or "
            "MULTIHOST_AUTHKEY_FILE"
        ) from error

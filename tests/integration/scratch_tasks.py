"""Functions that write where nobody keeps it. They travel as this module."""

import os
import signal
from pathlib import Path

import multihost


def write(name: str) -> tuple[Path, list[str]]:
    """The task's directory, and what was in it before."""
    directory = multihost.scratch()
    assert directory == multihost.scratch()
    before = os.listdir(directory)
    (directory / name).write_text(name)
    return directory, before


def write_and_raise(note: str) -> None:
    Path(note).write_text(str(write("file")[0]))
    raise ValueError(note)


def write_and_die(note: str) -> None:
    Path(note).write_text(str(write("file")[0]))
    os.kill(os.getpid(), signal.SIGKILL)


def write_and_wait(note: str) -> None:
    new = Path(f"{note}.new")
    new.write_text(str(write("file")[0]))
    new.rename(note)
    signal.pause()

"""The fork server that children come from: a process that has imported what they need. Needs little else itself."""

import contextlib
import multiprocessing
import signal
from multiprocessing import forkserver

from multihost.runner.interrupts import INTERRUPT

_PRELOAD = ["multihost.runner.preloaded"]


def start_fork_server() -> None:
    """Have the fork server import what children need, while the worker joins the master."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(_PRELOAD)
    # Children inherit that: until one has its handler, the signal would end it.
    signal.signal(INTERRUPT, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # the first child that cannot be started will tell
        forkserver.ensure_running()

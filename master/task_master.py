"""The master: serves the task queue, the result queue and the cluster's tasks on one port, guarded by an authkey.

It descends from the well-known task_master.py over ``multiprocessing.managers``, and its clients still work with it.
All it needs comes from the environment: MULTIHOST_ADDRESS, MULTIHOST_AUTHKEY or MULTIHOST_AUTHKEY_FILE, and what the
README's table lists.
"""

import logging
import os
import resource
import signal
import sys

from multihost import QueueManager, SettingsError
from multihost.errors import JournalError, JournalLocked
from multihost.logs import configure_logging
from multihost.settings import (
    DEFAULT_AUTHKEY_FILE,
    DEFAULT_PORT,
    Address,
    ExitCode,
    make_authkey,
    read_authkey,
    read_previous_authkey,
    read_settings,
    unknown_variables,
)

logger = logging.getLogger("multihost.master")


def main() -> int:
    """Serve until SIGTERM or Ctrl-C; an ``ExitCode``."""
    try:
        settings = read_settings(os.environ)
        if not (os.environ.get("MULTIHOST_AUTHKEY") or os.environ.get("MULTIHOST_AUTHKEY_FILE")):
            make_authkey(DEFAULT_AUTHKEY_FILE)
        authkey = read_authkey(os.environ)
        previous = read_previous_authkey(os.environ, authkey)
    except SettingsError as error:
        print(f"task_master: {error}", file=sys.stderr)
        return ExitCode.SETTINGS
    configure_logging(settings.log_level, settings.log_format)
    for warning in unknown_variables(os.environ):
        logger.warning(warning)

    _allow_many_connections()
    # Without an address, nothing beyond this machine can reach us.
    address = settings.address or Address("127.0.0.1", DEFAULT_PORT)
    manager = QueueManager(address.pair, authkey, settings)
    try:
        server = manager.get_server()
    except JournalError as error:
        print(f"task_master: {error}", file=sys.stderr)
        return ExitCode.JOURNAL_LOCKED if isinstance(error, JournalLocked) else ExitCode.JOURNAL
    except OSError as error:
        print(f"task_master: cannot listen on {address}: {error.strerror or error}", file=sys.stderr)
        return ExitCode.ADDRESS
    if previous is not None:
        server.accept_previous(previous)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda signum, frame: server.stop())
    logger.info("serving on %s", Address(*server.address), extra={"event": "serving"})
    server.serve_forever()
    logger.info("stopped")
    return ExitCode.OK


def _allow_many_connections() -> None:
    """Each connection is an open file, and the usual soft limit of 1,024 is one of convenience."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())

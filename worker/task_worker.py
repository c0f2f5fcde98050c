"""A worker: joins the master, takes tasks, runs them in processes of its own, and sends the outcomes back.

It descends from the well-known task_worker.py over ``multiprocessing.managers``. All it needs comes from the
environment: MULTIHOST_ADDRESS, MULTIHOST_AUTHKEY or MULTIHOST_AUTHKEY_FILE, MULTIHOST_SLOTS, and what the README's
table lists. SIGTERM drains it: it takes no new task, finishes those it has, and exits with 0.
"""

import logging
import os
import sys

from multihost import AuthenticationError, MasterUnreachable, ProtocolError, SettingsError
from multihost.logs import configure_logging
from multihost.runner.loop import Runner, install_signal_handlers
from multihost.settings import (
    DEFAULT_PORT,
    Address,
    ExitCode,
    forget_authkeys,
    read_authkey,
    read_settings,
    unknown_variables,
)

logger = logging.getLogger("multihost.worker")


def main() -> int:
    """Work until SIGTERM or Ctrl-C; an ``ExitCode``."""
    try:
        settings = read_settings(os.environ)
        authkey = read_authkey(os.environ)
    except SettingsError as error:
        print(f"task_worker: {error}", file=sys.stderr)
        return ExitCode.SETTINGS
    configure_logging(settings.log_level, settings.log_format)
    for warning in unknown_variables(os.environ):
        logger.warning(warning)
    # Tasks run in children of this process, which have no business with the key.
    forget_authkeys(os.environ)

    runner = Runner(settings.address or Address("127.0.0.1", DEFAULT_PORT), authkey, settings)
    install_signal_handlers(runner)
    try:
        runner.run()
    except AuthenticationError as error:
        logger.error("%s", error)
        return ExitCode.REFUSED
    except (MasterUnreachable, ProtocolError) as error:
        logger.error("%s", error)
        return ExitCode.UNAVAILABLE
    logger.info("drained and stopped")
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())

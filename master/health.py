"""The master's health check: completes the handshake and asks for the statistics. Exit 0: healthy; 1: not, and why."""

import os
import sys

from multihost import AuthenticationError, MultihostError
from multihost.client.monitor import ask_statistics
from multihost.settings import DEFAULT_PORT, Address, read_authkey, read_settings

_LOCAL = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # to listen everywhere is to listen here, too


def main() -> int:
    """Ask the master in this container."""
    try:
        address = read_settings(os.environ).address or Address("127.0.0.1", DEFAULT_PORT)
        here = Address(_LOCAL.get(address.host, address.host), address.port)
        statistics = ask_statistics(here, read_authkey(os.environ))
    except (MultihostError, AuthenticationError) as error:
        print(f"unhealthy: {error}")
        return 1
    print(f"healthy: {len(statistics['workers'])} workers, {statistics['queued']} tasks queued")
    return 0


if __name__ == "__main__":
    sys.exit(main())

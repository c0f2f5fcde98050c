"""A worker's health check: asks the master whether this worker is with it. Exit 0: healthy; 1: not, and why."""

import os
import sys

from multihost import AuthenticationError, MultihostError
from multihost.client.monitor import ask_statistics
from multihost.settings import DEFAULT_PORT, Address, read_authkey, read_settings


def main() -> int:
    """Ask the master for the worker of this container's name."""
    try:
        settings = read_settings(os.environ)
        address = settings.address or Address("127.0.0.1", DEFAULT_PORT)
        workers = ask_statistics(address, read_authkey(os.environ))["workers"]
    except (MultihostError, AuthenticationError) as error:
        print(f"unhealthy: {error}")
        return 1
    for worker in workers:
        if worker["name"] == settings.name:
            print(f"healthy: {worker['state']}, {worker['leases']} tasks in hand")
            return 0
    print(f"unhealthy: the master at {address} knows no worker named {settings.name}")
    return 1


if __name__ == "__main__":
    sys.exit(main())

"""Functions that take what there is. They travel as this module, so it imports nothing that a worker has not got."""

import os
import time

import multihost


def fork_until_refused(most: int) -> int:
    """How many processes the system let this one have; they stay."""
    for count in range(most):
        try:
            child = os.fork()
        except OSError:
            return count
        if child == 0:
            time.sleep(300)
            os._exit(0)
    return most


def write_to_scratch(mebibytes: int) -> int:
    file = multihost.scratch() / "file"
    with file.open("wb") as stream:
        for _ in range(mebibytes):
            stream.write(bytes(1 << 20))
    return file.stat().st_size

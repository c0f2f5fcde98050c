"""Run COUNT tasks of SECONDS each; every task notes in FILE, on the disk all share, that it began and that it ended.

    ledger.py FILE COUNT SECONDS

Prints the results as JSON.
"""

import json
import platform
import sys
import time

import multihost


def note(path: str, event: str, number: int) -> None:
    """Add a line; so short a write in append mode is not torn, whoever else writes."""
    with open(path, "a") as ledger:
        ledger.write(f"{event} {number} {platform.node()}\n")


def square(path: str, number: int, seconds: float) -> int:
    """The task."""
    note(path, "began", number)
    time.sleep(seconds)
    note(path, "ended", number)
    return number * number


def main() -> None:
    """Run the tasks and print what they returned, in order."""
    path, count, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    with multihost.Pool() as pool:
        print(json.dumps(pool.starmap(square, [(path, number, seconds) for number in range(count)])))


if __name__ == "__main__":
    main()

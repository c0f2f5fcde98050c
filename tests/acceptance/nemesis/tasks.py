"""What the load consists of: tasks with a right answer, which leave a mark of each run on the disk that all share.

It travels to the workers, and imports nothing that they do not have.
"""

import hashlib
import os
import platform
import random
import secrets
import time

MARKS = "/data/marks"


def checksum(number: int) -> str:
    """The right answer."""
    return hashlib.sha256(str(number).encode()).hexdigest()


def seconds(number: int) -> float:
    """How long a task takes: most of them little, one in ten long enough to be found in its middle."""
    chance = random.Random(number)
    return chance.uniform(0.2, 1.0) if chance.random() < 0.1 else chance.uniform(0.0, 0.02)


def work(number: int) -> tuple[int, str, str]:
    """The task: its number, the answer, and which of all runs this was."""
    run = f"{platform.node()}-{secrets.token_hex(6)}"
    mark("began", number, run)
    time.sleep(seconds(number))
    answer = checksum(number)
    mark("ended", number, run)
    return number, answer, run


def mark(event: str, number: int, run: str) -> None:
    """Add a line to this worker's file; so short a write in append mode is not torn, whoever else writes."""
    os.makedirs(MARKS, exist_ok=True)
    with open(f"{MARKS}/{platform.node()}", "a") as file:
        file.write(f"{event} {number} {run}\n")

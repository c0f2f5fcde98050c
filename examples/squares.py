"""Square ten random numbers on the workers of a cluster.

The descendant of the tutorial pair task_master.py and task_worker.py: the master's half is ``main`` and the
worker's half is ``square``; the two queues between them are now the pool's.
"""

import queue
import random
import sys
import time

import multihost

WORK = 1.0  # seconds; the tutorial's worker sleeps as long, so that every worker finds something left to do


def square(n: int) -> str:
    """Return the line ``n * n = result``; the sleep stands in for work that takes time."""
    print(f"run task {n} * {n}...", flush=True)
    time.sleep(WORK)
    return f"{n} * {n} = {n * n}"


def main() -> int:
    """Put ten tasks, then print each result as it comes; return the exit status."""
    results: queue.SimpleQueue[str | BaseException] = queue.SimpleQueue()
    try:
        with multihost.Pool() as pool:
            for _ in range(10):
                n = random.randint(0, 10000)
                pool.apply_async(square, (n,), callback=results.put, error_callback=results.put)
                print(f"Put task {n}...", flush=True)
            print("Try get results...", flush=True)
            for _ in range(10):
                result = results.get()
                if isinstance(result, BaseException):
                    raise result
                print(f"Result: {result}", flush=True)
    except multihost.MultihostError as error:
        print(f"squares.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

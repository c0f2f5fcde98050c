"""joblib's Parallel on a cluster: one call to register the backend, then its name wherever joblib takes one."""

import math

from joblib import Parallel, delayed, parallel_config

import multihost.friends.joblib


def main() -> None:
    """Sum square roots; then find the first of many numbers that has none."""
    multihost.friends.joblib.register()
    with parallel_config("multihost"):
        roots = Parallel()(delayed(math.sqrt)(n * n) for n in range(1_000))
        print(f"the sum of the roots is {sum(roots):.0f}")
        try:
            Parallel()(delayed(math.sqrt)(n) for n in range(10, -10, -1))
        except ValueError as error:
            print(f"one call failed: {error}")


if __name__ == "__main__":
    main()

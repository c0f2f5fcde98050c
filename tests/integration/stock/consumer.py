"""Prints argv[1] results."""

import sys

from queues import connect  # type: ignore[import-not-found]  # it lies beside this script

_, results = connect()
for _ in range(int(sys.argv[1])):
    number, square = results.get(timeout=30)
    print(number, "*", number, "=", square)

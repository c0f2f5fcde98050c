"""Memory that large values have left, and what it saves."""

import platform
import resource
import subprocess
import sys

import pytest

PROGRAM = """
import resource
from multihost.heap import reuse_large
reuse_large({kept})
faults = []
for _ in range(4):
    values = [bytearray(b"x") * 10_000_000 for _ in range({values})]
    del values
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[1])
"""
PAGES = 10_000_000 // resource.getpagesize()  # of a value

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has its own ways")


def faults(kept: int, values: int) -> int:
    """How many pages the kernel had to find for twice as many values, behind as many."""
    program = PROGRAM.format(kept=kept, values=values)
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return int(run.stdout)


def test_a_large_value_lies_where_the_one_before_it_did() -> None:
    assert faults(kept=64_000_000, values=4) < PAGES
    assert faults(kept=256_000_000, values=16) < PAGES


def test_more_memory_than_is_to_be_kept_is_given_back() -> None:
    assert faults(kept=64_000_000, values=16) > 16 * PAGES

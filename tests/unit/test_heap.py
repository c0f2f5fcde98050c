"""Memory that large values have left, and what it saves."""

import platform
import resource
import subprocess
import sys

import pytest

PROGRAM = """
import resource
from multihost.heap import reuse_large
{}
faults = []
for _ in range(4):
    values = [bytearray(b"x") * 10_000_000 for _ in range(4)]
    del values
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[1])
"""


def faults(first: str) -> int:
    """How many pages the kernel had to find for twice four values of 10 MB, behind as many."""
    run = subprocess.run([sys.executable, "-c", PROGRAM.format(first)], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has its own ways")
def test_a_large_value_lies_where_the_one_before_it_did() -> None:
    pages = 10_000_000 // resource.getpagesize()
    assert faults("reuse_large()") < pages

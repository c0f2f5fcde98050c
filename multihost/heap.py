"""How masters, workers and their children deal with memory, which is made for other programs than these.

What is large, glibc asks of the kernel for each value, and gives back with it. Then the pages of the next one are to be
cleared and mapped again: 10 MB take 5.6 ms so, and 0.6 ms where the memory is there.

Python looks for cycles among its objects whenever 700 more were made than freed. A task is several that stay for a
while and are in no cycle, so that where thousands are under way, all of them are looked at again and again.
"""

import contextlib
import ctypes
import gc

# What comes and goes where large values gather, for instance in a master whose client reads slowly.
MUCH_BYTES = 256 * 1024 * 1024
# The largest block that glibc may be told to keep with the others.
_BLOCK_BYTES = 32 * 1024 * 1024
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # as malloc.h has them
# As many are some megabytes, and they are looked at in a millisecond or two.
_NEW_OBJECTS = 50_000


def reuse_large(kept_bytes: int) -> None:
    """From now on values of up to 32 MB lie in the heap, which keeps so much of what is freed at its end.

    With another C library than glibc this does nothing.
    """
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _BLOCK_BYTES)
        mallopt(_M_TRIM_THRESHOLD, kept_bytes)


def collect_seldom() -> None:
    """From now on Python looks for cycles when so many more objects were made than freed."""
    gc.set_threshold(_NEW_OBJECTS, *gc.get_threshold()[1:])

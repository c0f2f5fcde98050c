"""How masters, workers and their children deal with memory, which is made for other programs than these.

What is large, glibc asks of the kernel for each value, and gives back with it. Then the pages of the next one are to be
cleared and mapped again: 10 MB take 5.6 ms so, and 0.6 ms where the memory is there.

Python looks for cycles among its objects whenever 700 more were made than freed. A task is several that stay for a
while and are in no cycle, so that where thousands are under way, all of them are looked at again and again.
"""

import gc

# The largest block for which glibc changes its mind, with some room for its own notes.
_BLOCK_BYTES = 32 * 1024 * 1024 - 64 * 1024
# As many are some megabytes, and they are looked at in a millisecond or two.
_NEW_OBJECTS = 50_000


def reuse_large() -> None:
    """From now on values of up to 32 MB lie in the heap, which keeps up to 64 MB of what is freed at its end.

    glibc comes to that by itself when a block of that size is freed. Nobody has written to ours, so it has no pages,
    and costs 30 µs. With another C library this does nothing.
    """
    bytes(_BLOCK_BYTES)


def collect_seldom() -> None:
    """From now on Python looks for cycles when so many more objects were made than freed."""
    gc.set_threshold(_NEW_OBJECTS, *gc.get_threshold()[1:])

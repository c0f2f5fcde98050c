"""Whether this process is a fork of the one that made something: to ask for its id is a system call, 0.2 µs a task."""

import os

times = 0  # that this process, or the one it was forked from, was forked


def _note() -> None:
    global times
    times += 1


os.register_at_fork(after_in_child=_note)

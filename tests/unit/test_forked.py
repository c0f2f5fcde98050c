"""multihost/forked.py: a child knows that it is a fork."""

import multiprocessing
import sys

import pytest

from multihost import forked


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # of other tests
def test_a_fork_counts_in_the_child_alone() -> None:
    before = forked.times
    child = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(forked.times - before))
    child.start()
    child.join()
    assert (child.exitcode, forked.times) == (1, before)

"""The journal beside a list: whatever is done in whatever order, what was acknowledged is there, in order and once."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from multihost.broker import journal, rowfile
from multihost.broker.journal import DiskJournal
from multihost.broker.records import Record
from multihost.errors import JournalFull, JournalUnusable
from tests.unit.disks import Crashed, Disk


class JournalMachine(RuleBasedStateMachine):
    """Commits, compacts, fails, crashes, loses its power; and compares what is replayed with what was acknowledged."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(journal, "_STEP_BYTES", 700)
        self.patch.setattr(rowfile, "_AHEAD_BYTES", 1500)
        self.patch.setattr(journal, "_LEAST_LARGE_BYTES", 0)
        self.patch.setattr(journal, "_SPARE_BYTES", 5000)
        self.root = Path(tempfile.mkdtemp())
        self.disk = Disk(self.patch)
        self.boots = self.number = 0
        self.acknowledged: list[Record] = []
        self.gathered: list[Record] = []  # appended, not acknowledged
        self.synced = 0  # how many of the acknowledged ones survive a power cut in any case
        self.steps: Iterator[None] | None = None

    @initialize(sync=st.sampled_from(["normal", "full"]))
    def first_start(self, sync: str) -> None:
        self.sync = sync
        self.directory = self.new_machine()
        self.start(least=0)

    def new_machine(self, seed: int = 0) -> Path:
        """Another boot: a directory of its own, and a kernel with another id."""
        self.boots += 1
        boot = b"%16d" % self.boots
        self.patch.setattr(rowfile, "boot_id", lambda: boot)
        directory = self.root / str(self.boots)
        directory.mkdir()
        if self.boots > 1:
            self.disk.after_power_cut(directory, seed)
        self.disk = Disk(self.patch, seed, directory)
        return directory

    def start(self, least: int) -> None:
        """Open the journal; the first ``least`` records must be there, and of the others those that come first."""
        self.disk.fail_at = range(0)
        self.opened = DiskJournal(self.directory, self.sync)
        self.steps = None
        found = [record for records in self.opened.replay() for record in records]
        assert found == (self.acknowledged + self.gathered)[: len(found)]
        assert len(found) >= least
        self.acknowledged, self.gathered, self.synced = found, [], len(found)

    def end(self) -> None:
        """The process dies."""
        self.disk.die()
        with contextlib.suppress(Crashed):
            self.opened.close()
        self.disk.revive()

    @rule(sizes=st.lists(st.sampled_from([0, 10, 400, 600, 3000]), max_size=4))
    def append(self, sizes: list[int]) -> None:
        for size in sizes:
            self.number += 1
            record = (self.number, bytes([self.number % 256]) * size)
            self.gathered.append(record)
            self.opened.append([record])

    @rule()
    def commit(self) -> None:
        with contextlib.suppress(JournalFull):
            self.opened.commit()
            self.acknowledged, self.gathered = self.acknowledged + self.gathered, []

    @rule(row=st.integers(1, 5))
    def compact(self, row: int) -> None:
        everything = self.acknowledged + self.gathered  # what is gathered is committed first
        snapshot = [everything[begin : begin + row] for begin in range(0, len(everything), row)]
        with contextlib.suppress(JournalFull):
            self.steps = self.opened.compact(snapshot)
            self.acknowledged, self.gathered = everything, []

    @precondition(lambda self: self.steps is not None)
    @rule(number=st.integers(1, 4))
    def step(self, number: int) -> None:
        assert self.steps is not None
        with contextlib.suppress(JournalFull):
            for _ in range(number):
                next(self.steps, None)

    @rule(skipped=st.integers(0, 4), number=st.integers(1, 4))
    def fail(self, skipped: int, number: int) -> None:
        begin = self.disk.calls + 1 + skipped
        self.disk.fail_at = range(begin, begin + number)

    @rule()
    def restart(self) -> None:
        with contextlib.suppress(JournalFull):
            self.opened.close()
            self.acknowledged, self.gathered = self.acknowledged + self.gathered, []
        self.start(least=len(self.acknowledged))

    @rule()
    def kill(self) -> None:
        self.end()
        self.start(least=len(self.acknowledged))

    @rule(after=st.integers(1, 12))
    def kill_in_a_call(self, after: int) -> None:
        self.disk.crash_at = self.disk.calls + after
        with contextlib.suppress(Crashed, JournalFull):
            self.append([600])
            self.opened.commit()
            self.acknowledged, self.gathered = self.acknowledged + self.gathered, []
            for _ in self.steps or ():
                pass
        self.kill()

    @rule(seed=st.integers(0, 1000))
    def cut_power(self, seed: int) -> None:
        self.end()
        self.directory = self.new_machine(seed)
        self.start(least=len(self.acknowledged) if self.sync == "full" else self.synced)

    @rule()
    def start_on_a_full_disk(self) -> None:
        self.end()
        self.disk.fail_at = range(self.disk.calls + 1, self.disk.calls + 1000)
        with contextlib.suppress(JournalFull, JournalUnusable):
            DiskJournal(self.directory, self.sync).close()
        self.start(least=len(self.acknowledged))

    def teardown(self) -> None:
        if hasattr(self, "opened"):
            self.kill()
            self.end()
        self.patch.undo()
        shutil.rmtree(self.root)


TestJournalMachine = JournalMachine.TestCase
TestJournalMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)

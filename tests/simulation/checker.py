"""The checker: reads what programs asked and were told, and which calls were run, and says which promise was broken.

It knows nothing of the cores; the invariants are those of docs/reliability.md.
"""

from collections import Counter, defaultdict

from multihost.broker.tasks import MAX_DELIVERIES
from tests.simulation.records import Call, ClientLog, Job, Ledger, LetterLog, Start, Submit, Told
from tests.simulation.sessions import CANCEL_SECONDS

ROUNDING = 1e-3  # seconds
TTL_SLACK = 8.0  # seconds: for how long a collector may believe that it has a job which the master misses
TRANSIT = 0.5  # how many seconds a submit may be under way, which nobody can count


def check(log: ClientLog, ledger: Ledger, calm: bool) -> list[str]:
    """What was broken. ``calm``: nothing has failed, so nothing may have run twice."""
    return _Checker(log, ledger, calm).problems()


class _Checker:
    def __init__(self, log: ClientLog, ledger: Ledger, calm: bool) -> None:
        self._log, self._ledger, self._calm = log, ledger, calm
        self._starts: dict[str, list[Start]] = defaultdict(list)
        self._again: dict[int, list[Start]] = defaultdict(list)  # by letter, the runs of what was requeued
        for start in ledger.starts:
            if (letter := ledger.requeued.get(start.delivery)) is None:
                self._starts[start.call].append(start)
            else:
                self._again[letter].append(start)
        self._cancelling: set[str] = {name for cancel in log.cancels for name in cancel.names}
        self._problems: list[str] = []

    def problems(self) -> list[str]:
        for job in self._log.jobs.values():
            self._take_uses(job)
        for submit in self._log.submits.values():
            for place, call in enumerate(submit.plan.calls):
                self._check_end(submit, call)
                self._check_runs(submit, call, place)
            rows = self._log.rows.get(submit.plan.name, set())
            self._demand(len(rows) <= 1, "I2", f"{submit.plan.name} was told {len(rows)} different outcomes")
        self._check_made_up()
        self._check_cancels()
        self._check_sessions()
        for job in self._log.jobs.values():
            self._check_job(job)
        if all(era == 1 for era, _ in self._ledger.granted):  # otherwise a master has forgotten its letters
            self._check_letters()
        return self._problems

    def _demand(self, holds: bool, invariant: str, text: str) -> None:
        if not holds:
            self._problems.append(f"{invariant}: {text}")

    # --- calls -------------------------------------------------------------------------------------------------

    def _check_end(self, submit: Submit, call: Call) -> None:
        """I1, I2, I3: each call has one outcome, and it is right."""
        told = self._log.told.get(call.name, [])
        self._demand(len(told) <= 1, "I2", f"{call.name} ended {len(told)} times")
        if not told:
            job = self._job_of(submit)
            # Whoever submits a job may die when it is whole; it may also be over, since nobody came for it.
            lost = (
                self._log.ended.get(submit.session) != "killed" if job is None else job.told_whole and not job.gone_at
            )
            self._demand(not lost, "I1", f"{call.name} was submitted and has no outcome")
            return
        verdict, text = told[0].verdict, told[0].text
        self._demand(self._may_end(submit, call, told[0]), "I3", f"{call.name} ended as {verdict} {text!r}")
        if verdict == "WorkerDied":
            self._check_blame(submit, call)
        if verdict in ("result", "ValueError"):
            name, _, number = text.partition("#")
            known = any(start.number == int(number) for start in self._starts[call.name])
            self._demand(name == call.name and known, "I3", f"{call.name} was told what is another's: {text!r}")

    def _may_end(self, submit: Submit, call: Call, told: Told) -> bool:
        if told.verdict == "CancelledError":
            return submit.plan.name in self._cancelling
        if told.verdict == "ClusterFull":  # a chunk waits for room
            return not submit.plan.chunk and not self._starts[call.name]
        if told.verdict == "TaskExpired":
            return self._may_expire(submit, call, told)
        if told.verdict == "WorkerDied" and not self._calm:
            return told.losses == MAX_DELIVERIES and len(self._granted(submit)) >= MAX_DELIVERIES
        if self._calm:
            return told.verdict == _calm_end(submit, call)[0]
        return told.verdict in _possible_ends(submit, call)

    def _may_expire(self, submit: Submit, call: Call, told: Told) -> bool:
        """Its time was over, and no worker had begun it, as far as the master could know."""
        expires, lives = submit.plan.expires, self._ledger.begun.get(submit.session, [])
        begun = {start.delivery for start in self._starts[call.name]} - self._ledger.handed_back
        return expires is not None and told.at >= submit.at + expires - ROUNDING and (not begun or len(lives) > 1)

    def _check_blame(self, submit: Submit, call: Call) -> None:
        """I13: of the deliveries for which a task is given up, all but the first had come to a process."""
        begun = [delivery for delivery in self._granted(submit) if delivery in self._ledger.handed]
        right = len(begun) >= MAX_DELIVERIES - 1
        self._demand(right, "I13", f"{call.name} was given up, and was in a process's hands {len(begun)} times")

    def _granted(self, submit: Submit) -> list[tuple[int, int]]:
        return self._ledger.grants.get(submit.plan.name, [])

    def _check_runs(self, submit: Submit, call: Call, place: int) -> None:
        """I4: a call with an outcome of its own has run, and not more often than its deliveries allow."""
        starts = self._starts[call.name]
        told = next(iter(self._log.told.get(call.name, [])), None)
        if told is not None and told.verdict in ("result", "ValueError", "TaskTimeout"):
            self._demand(bool(starts), "I4", f"{call.name} has an outcome and never ran")
        if self._calm:
            expected = _calm_end(submit, call)[1]
            cancelled = told is None or told.verdict in ("CancelledError", "TaskExpired", "ClusterFull")
            right = len(starts) <= expected if cancelled else len(starts) == expected
            self._demand(right, "I4", f"{call.name} ran {len(starts)} times without any fault, not {expected}")
        lives = max(1, len(self._ledger.begun.get(submit.session, [])))
        uncounted = self._ledger.handed_back | self._ledger.unheard
        counted = Counter(start.delivery for start in starts if start.delivery not in uncounted)
        # Of a chunk, any item before may have been given up first.
        most = MAX_DELIVERIES * (submit.plan.retries + 1) * lives * (place + 1)
        self._demand(len(counted) <= most, "I4", f"{call.name} ran in {len(counted)} deliveries, {most} are allowed")
        # When its process died with several others, it is run again in the same delivery, alone; and before that once
        # more, if the process died just as another task in it was stopped, which is blamed on nobody.
        self._demand(max(counted.values(), default=0) <= 3, "I4", f"{call.name} ran too often in one delivery")
        self._check_times(submit, call)
        if told is not None:
            self._check_none_after(submit, call, told)

    def _check_times(self, submit: Submit, call: Call) -> None:
        """I12: no run begins before the delay is over; what has not begun when it expires is not delivered."""
        plan = submit.plan
        early = [start for start in self._starts[call.name] if start.at < submit.at + plan.delay - ROUNDING]
        self._demand(not early, "I12", f"{call.name} ran before its delay was over")
        if plan.expires is not None and self._calm and not plan.retries:
            latest = submit.at + plan.expires + TRANSIT
            late = [s for s in self._starts[call.name] if self._ledger.granted[s.delivery] > latest]
            self._demand(not late, "I12", f"{call.name} was delivered after it had expired")

    def _check_none_after(self, submit: Submit, call: Call, told: Told) -> None:
        """I2: what has ended is not delivered again; of a chunk, no item that has ended."""
        for start in self._starts[call.name]:
            granted = self._ledger.granted[start.delivery]
            # A master that has forgotten the chunk gets all of it again.
            forgotten = any(told.at <= begun <= granted for begun in self._ledger.begun.get(submit.session, []))
            again = granted > told.at and not (submit.plan.chunk and forgotten)
            self._demand(not again, "I2", f"{call.name} had its outcome and was delivered again as {start.delivery}")

    def _check_made_up(self) -> None:
        calls = {call.name for submit in self._log.submits.values() for call in submit.plan.calls}
        for name in self._starts.keys() - calls:
            self._demand(False, "I3", f"{name} ran, and nobody had submitted it")

    # --- detached jobs -----------------------------------------------------------------------------------------

    def _job_of(self, submit: Submit) -> Job | None:
        return next((job for job in self._log.jobs.values() if submit.session == f"{job.name}-submitter"), None)

    def _take_uses(self, job: Job) -> None:
        """I2, I14: an item has one outcome, however often it is handed out; and that is what its caller is told."""
        calls = job.calls
        for use in job.uses:
            (told, *_) = self._log.told.setdefault(calls[use.item].name, [use.told])
            same = (told.verdict, told.text) == (use.told.verdict, use.told.text)
            self._demand(same, "I2", f"{calls[use.item].name} was handed out as {told.text!r} and as {use.told.text!r}")

    def _check_job(self, job: Job) -> None:
        """I14: each item is handed out in order until it was acknowledged, and not again after that."""
        for first, answered, said in job.begun_at:
            right = answered <= first <= said
            self._demand(
                right, "I14", f"{job.name} went on with {first}; {answered} was told as taken, {said} was said"
            )
        collectors: dict[str, list[int]] = defaultdict(list)
        for use in job.uses:
            collectors[use.collector].append(use.item)
        for name, items in collectors.items():
            self._demand(items == [*range(items[0], items[0] + len(items))], "I14", f"{name} used {items}")
        used = {use.item for use in job.uses}
        if job.over:
            missing = {*range(len(job.calls))} - used
            self._demand(not missing, "I14", f"{job.name} is over, and nobody has used {sorted(missing)}")
        elif job.told_whole:
            starts = [start.at for call in job.calls for start in self._starts[call.name]]
            last = max([job.seen_at, *starts])
            kept = job.gone_at is not None and job.gone_at - last >= 0.9 * job.ttl - TTL_SLACK
            self._demand(kept, "I14", f"{job.name} is gone before its time to live was over, or was not collected")

    # --- dead letters ------------------------------------------------------------------------------------------

    def _check_letters(self) -> None:
        """I15: what is given up is kept until it is dropped; what is requeued runs, and what came of that is told."""
        log = self._log.letters
        self._demand(not log.returned, "I15", f"letters {log.returned} were dropped and are there again")
        if log.last is None:
            return
        known = {(row["session"], row["task"]) for row in log.rows.values()}
        for submit in self._log.submits.values():
            told = [told for call in submit.plan.calls for told in self._log.told.get(call.name, [])]
            dead = any(each.verdict == "WorkerDied" for each in told)
            there = (submit.session, submit.sequence) in known
            self._demand(there or not dead, "I15", f"{submit.plan.name} was given up, and no letter tells of it")
        for number in sorted(log.last):
            self._check_letter(number, log)

    def _check_letter(self, number: int, log: LetterLog) -> None:
        row = log.rows[number]
        state, requeues = row["state"], row["requeues"]
        self._demand(state != "requeued", "I15", f"letter {number} was requeued and has not come to an end")
        least, most = log.requeues_done.get(number, 0), log.requeues_asked.get(number, 0)
        right = isinstance(requeues, int) and least <= requeues <= most
        self._demand(right, "I15", f"letter {number} was requeued {least} to {most} times, and says {requeues}")
        ends = {self._ledger.ended.get(start.number) for start in self._again[number]}
        if state == "done":
            self._demand(bool(ends & {"return", "nest"}), "I15", f"letter {number} is done; its runs ended as {ends}")
        elif state == "failed":
            self._demand(bool(self._again[number]), "I15", f"letter {number} has failed, and never ran")

    # --- cancels and sessions ----------------------------------------------------------------------------------

    def _check_cancels(self) -> None:
        """I9, I11: each cancel is answered, and what is cancelled is not delivered again."""
        for cancel in self._log.cancels:
            if cancel.answered is None:
                if self._log.ended.get(cancel.session) != "killed":
                    self._demand(False, "I9", f"a cancel of {cancel.names} was never answered")
                continue
            waited = cancel.answered - cancel.asked
            self._demand(waited <= CANCEL_SECONDS + 1.0, "I9", f"a cancel waited for {waited:.1f} s")
            for name in sorted(cancel.cancelled):
                for call in self._log.submits[name].plan.calls:
                    late = [s for s in self._starts[call.name] if self._ledger.granted[s.delivery] > cancel.answered]
                    self._demand(not late, "I11", f"{call.name} was delivered after its cancel was acknowledged")

    def _check_sessions(self) -> None:
        """I9: each program comes to its end, and no master refuses what it says."""
        for session, how in self._log.ended.items():
            self._demand(how in ("closed", "killed"), "I9", f"{session} ended: {how}")


def _calm_end(submit: Submit, call: Call) -> tuple[str, int]:
    """How a call ends when nothing fails, and after how many runs."""
    plan, tries, run = submit.plan, 0, 0
    while True:
        deed = call.deed(run)
        run += 1
        late = plan.timeout is not None and (deed.kind == "hang" or deed.seconds > plan.timeout)
        again = plan.retry_timeouts if late else deed.kind == "retry"
        if again and tries < plan.retries:
            tries += 1
        elif late:
            return "TaskTimeout", run
        else:
            return ("result" if deed.kind in ("return", "nest") else "ValueError"), run


def _possible_ends(submit: Submit, call: Call) -> set[str]:
    """How a call may end when its first runs may have come to nothing."""
    ends = {"result"}
    # A task that submits tasks fails if one of these is given up.
    if any(deed.kind in ("retry", "raise", "nest") for deed in call.deeds):
        ends.add("ValueError")
    if submit.plan.timeout is not None:
        ends.add("TaskTimeout")
    return ends

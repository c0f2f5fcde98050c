"""What ``python -m multihost status`` prints: the master's status in words."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from multihost.deaths import in_bytes
from multihost.plain import made_of
from multihost.statistics import Tasks, Times, in_seconds


def words(told: dict[str, Any]) -> str:
    """``told`` is what ``ask_status`` gives."""
    return "\n".join(_lines(told))


def _lines(told: dict[str, Any]) -> Iterator[str]:
    yield f"master, up for {in_seconds(told['uptime_seconds'])}, {told['connections']} connections"
    yield from _times(told)
    held = ", ".join(f"{in_bytes(size)} of {name.removesuffix('_bytes')}s" for name, size in told["memory"].items())
    yield f"  memory:   {held.replace('_', ' ')}; {in_bytes(told['peak_process_bytes'])} at most"
    yield f"  loop:     {told['turns']:,} turns, {told['messages_per_turn']:.1f} messages each"
    if (journal := told["journal"]).get("rows"):
        size, records = in_bytes(journal["bytes"]), journal["records_per_row"]
        yield f"  journal:  {journal['rows']:,} rows, {size}, {records:.1f} records each"
        yield f"  commits:  {made_of(Times, journal['commit'])}"
    if error := told["journal"].get("error"):
        yield f"  journal:  {error}"
    for worker in told["workers"]:
        yield from _worker(worker)
    for session in told["sessions"]:
        yield f"session {session['id'][:8]}, {session['job'] or session['name']}{'' if session['here'] else ', away'}"
        yield from _times(session)


def _times(told: dict[str, Any]) -> Iterator[str]:
    yield f"  tasks:    {made_of(Tasks, told['tasks'])}"
    yield f"  queued:   {made_of(Times, told['queued'])}"
    yield f"  run:      {made_of(Times, told['run'])}"


def _worker(worker: dict[str, Any]) -> Iterator[str]:
    busy = f"busy for {worker['busy_share']:.0%} of {in_seconds(worker['here_seconds'])}"
    yield f"worker {worker['name']}, {worker['state']}, {worker['slots']} slots, {busy}"
    yield f"  tasks:    {worker['ended']:,} ended, {worker['leases']:,} leased"
    yield f"  run:      {made_of(Times, worker['run'])}"
    if load := Counter(worker["load"]):  # what a worker does not tell is 0
        children = f"{load['children']:,} of {load['children_started']:,} children that it started"
        took = f"{in_bytes(load['memory_bytes'])}, children {in_bytes(load['children_bytes'])}"
        yield f"  load:     {in_seconds(load['age_seconds'])} ago, {children}; {took}"
        for way in ("sent", "received"):
            size, frames, tasks = (load[f"{way}_{name}"] for name in ("bytes", "frames", "tasks"))
            each = tasks / max(1, frames)
            yield f"  {way + ':':<9} {in_bytes(size)} in {frames:,} frames, {each:.1f} tasks a frame"

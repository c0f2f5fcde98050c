"""What the master says of its dead letters, in words and as plain data that JSON can hold."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from multihost.deaths import Death, in_bytes
from multihost.errors import ProtocolError
from multihost.wire import messages

Told = dict[str, Any]  # see broker.dead, which says it


def line(told: Told) -> str:
    """One letter in one line."""
    item = "" if told["item"] is None else f", item {told['item']}"
    task = f"task {told['task']}{item} of {told['program']}"
    return f"{told['letter']:4}  {told['state']:8}  {_name(told)}  {task}  {_when(told)}  {told['reason']}"


def certificate(told: Told) -> str:
    """One letter with all that is known of it."""
    lines = [
        line(told),
        f"session {told['session']}, arguments {in_bytes(told['payload_bytes'])}, requeued {told['requeues']} times",
    ]
    if told["options"]:
        lines.append("options " + ", ".join(f"{name}={value!r}" for name, value in told["options"].items()))
    for number, death in enumerate(map(Death.decode, told["losses"]), start=1):
        lines.append(f"death {number}: {death}")
        lines += [f"  it stood at:\n{_indented(death.stack)}"] if death.stack else []
        lines += [f"  its last output:\n{_indented(death.output)}"] if death.output else []
    if told["error"]:
        lines.append(f"when it was run again, it raised:\n{_indented(traceback_in(told['error']))}")
    return "\n".join(lines)


def plain(told: Told) -> Told:
    """One letter for JSON: without its arguments, and with the deaths and what it raised in words."""
    kept = {name: value for name, value in told.items() if name not in ("payload", "function_id", "losses")}
    certificate = [asdict(Death.decode(loss)) for loss in told["losses"]]
    return kept | {"certificate": certificate, "error": traceback_in(told["error"])}


def traceback_in(error: bytes) -> str:
    """The traceback in what ``payload.dump_error`` made, without unpickling the exception."""
    if not error:
        return ""
    try:
        match messages.decode(error):
            case (bytes(), str(kind), str(text), str(traceback)):
                return traceback.rstrip() or f"{kind}: {text}"
    except ProtocolError:
        pass
    return "an exception that cannot be shown"


def _name(told: Told) -> str:
    return str(told["name"] or told["function"] or "a function without a name")


def _when(told: Told) -> str:
    return datetime.fromtimestamp(told["died_at"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _indented(text: str) -> str:
    return "\n".join(f"    {each}" for each in text.rstrip().splitlines())

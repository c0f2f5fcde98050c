"""How the outcome of a call reaches the callback that waits for it."""

import logging
from collections.abc import Callable
from concurrent.futures import CancelledError

from multihost.client.chunk import Chunk
from multihost.payload import load_error, loads, not_rebuilt
from multihost.wire.messages import CANCELLED, PART

logger = logging.getLogger(__name__)

# Called once with (True, result) or (False, exception); in the receiving thread, or in the submitting one.
Callback = Callable[[bool, object], None]


def opened(kind: str, content: bytes) -> tuple[bool, object]:
    """An outcome as a callback gets it: (True, result) or (False, exception)."""
    if kind == CANCELLED:
        return False, CancelledError()
    try:
        return (True, loads(content)) if kind == "result" else (False, load_error(content))
    except BaseException as error:  # a __reduce__ of the user's may raise anything
        return False, not_rebuilt(error, content)


def deliver_outcome(callback: Callback | Chunk, kind: str, content: bytes, note: str) -> None:
    """An outcome that came from the master; ``note`` is for its exception, if it is one."""
    if not isinstance(callback, Chunk):
        succeeded, value = opened(kind, content)
        if note and isinstance(value, BaseException):
            value.add_note(note)
        _guarded(callback, succeeded, value)
    elif kind in (PART, "result"):
        _guarded(callback.take, content, note)
    else:
        _, value = opened(kind, content)
        if isinstance(value, BaseException) and note:
            value.add_note(note)
        fail(callback, value)


def fail(callback: Callback | Chunk, error: object) -> None:
    """A call, or what is left of a chunk, ends with this exception."""
    if isinstance(callback, Chunk):
        _guarded(callback.fail, error)
    else:
        _guarded(callback, False, error)


def _guarded(call: Callable[..., None], *args: object) -> None:
    try:
        call(*args)
    except BaseException:  # the user's own callback: even sys.exit must not end the thread that serves all the others
        logger.exception("a callback of a task raised")

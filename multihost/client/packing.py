"""How calls travel: their functions as blobs, which are remembered, and their arguments as bytes."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from multihost.client.code import Blob, CodeBook
from multihost.errors import TaskTooLarge
from multihost.options import Options
from multihost.payload import Large, Places, dumps, dumps_large


class Prepared(NamedTuple):
    """A function that can be submitted any number of times: its blobs, or why it cannot be sent."""

    name: str
    blobs: list[Blob]
    error: Exception | None = None


class Packer:
    """Any thread may use it.

    Args:
        max_payload: what the master accepts of one blob, or one task's arguments, bytes.
    """

    def __init__(self, code: CodeBook, max_payload: int) -> None:
        self._code, self._max_payload = code, max_payload
        self._lock = threading.Lock()
        # What was prepared last, if it stays as it is: most programs call one function many times.
        self._latest: tuple[Callable[..., object], Options, Prepared] | None = None

    def prepare(self, function: Callable[..., object], options: Options) -> Prepared:
        """Find out how ``function`` travels, as it is now. What is wrong with it is the outcome of its calls."""
        latest = self._latest  # read once: another thread may put another one there
        if latest is not None and latest[0] is function and latest[1] is options:
            return latest[2]
        name = _name_of(function)
        try:
            with self._lock:
                blobs = self._code.blobs_for(function, options.retry_for if options.retries else ())
                prepared = Prepared(name, blobs)
                self._latest = (function, options, prepared) if self._code.knows(function) else None
        except Exception as error:
            return Prepared(name, [], error)
        return prepared

    def bind(self, function: Prepared, places: Places) -> Prepared | None:
        """The function with these of its arguments; None: it is too large so. They are hashed, 0.6 ms a megabyte."""
        try:
            return function._replace(blobs=self._code.bind(function.blobs, places))
        except TaskTooLarge:
            return None  # they may be small enough without the function

    def pack(self, function: Prepared, arguments: object, large: bool) -> bytes | Large:
        """The arguments of a call, or of those of a chunk; ``large``: some may be worth not being copied.

        Raises: why the function cannot be sent; what pickling raises; TaskTooLarge.
        """
        if function.error is not None:
            raise function.error
        payload = (dumps_large if large else dumps)(arguments, self._code.main_travels)
        if len(payload) > self._max_payload:
            raise TaskTooLarge("the arguments of a task", len(payload), self._max_payload)
        return payload


def _name_of(function: Any) -> str:
    """For people. Not its repr: in that of a partial is all that it holds, which may be large."""
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__qualname__", None) or f"{type(function).__qualname__} object"

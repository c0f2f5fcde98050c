"""What a child hands to its worker: outcomes of tiny tasks are gathered for a moment, anything else goes at once."""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pickle import PickleBuffer

from multihost.payload import LARGE_BYTES
from multihost.runner.chunk import ChunkRun
from multihost.runner.interrupts import Interrupts
from multihost.runner.output import Output
from multihost.runner.pipe import Pipe

# Outcomes of tiny tasks are gathered for so long before they are handed over; those of slower ones, and large ones, go
# at once.
GATHER_SECONDS = 0.001
# What has gathered behind a task that takes longer than those before it is handed over by a thread after so long.
_PULSE_SECONDS = 0.02

Content = bytes | PickleBuffer  # of an outcome; a PickleBuffer stands for a ``payload.Large``


class Outbox:
    """Any thread may use it. What it does is done with the limit of memory ``lifted``: an outcome must not be lost."""

    def __init__(
        self,
        pipe: Pipe,
        interrupts: Interrupts,
        output: Output,
        lifted: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._pipe = pipe
        self._guard = interrupts
        self._output = output
        self._lifted = lifted
        self._lock = threading.RLock()  # a value's own __reduce__ may print, or submit a task
        self._outcomes: list[tuple[int, str, Content]] = []
        self._seconds = 0.0
        self._chunks: dict[int, ChunkRun] = {}  # those under way
        self._closed = False
        self._pulse: threading.Thread | None = None
        self._awake = threading.Event()

    def send(self, message: tuple[object, ...]) -> None:
        """Send a message; what gathered goes before it, if it is of the same task."""
        with self._guard, self._lock, self._lifted():
            self._send(message)

    def put(self, token: int, kind: str, content: Content, seconds: float) -> bool:
        """A task has ended; the caller sees to it that ``hand_over`` follows soon, and if this is true, at once."""
        self._outcomes.append((token, kind, content))  # without the lock: others only remove what was there before
        self._seconds += seconds
        return _is_large(content)

    def begin_chunk(self, token: int, chunk: ChunkRun) -> None:
        """Hand over what ends of this chunk, too, until ``end_chunk`` or ``break_chunk``."""
        with self._guard, self._lock:
            self._chunks[token] = chunk
        self.pulse()

    def item(self, token: int) -> int:
        """Which item of a chunk runs; of a single task, 0."""
        chunk = self._chunks.get(token)
        return 0 if chunk is None else chunk.item

    def end_chunk(self, token: int) -> bytes:
        """The content of the outcome of a chunk whose items have all ended; ``put`` is still to come."""
        with self._guard, self._lock, self._lifted():
            parts, content = self._chunks.pop(token).take_last()
            if parts:
                self._send(("outcomes", [(token, *part) for part in parts], [], 0.0))
            return content

    def break_chunk(self, token: int) -> None:
        """A chunk has ended before its last item; hand over what ended of it."""
        with self._guard, self._lock, self._lifted():
            self._hand_over()
            del self._chunks[token]

    def hand_over(self) -> None:
        """Send all that gathered: what tasks printed before how they ended."""
        with self._guard, self._lock, self._lifted():
            self._hand_over()

    def pulse(self) -> None:
        """Have a thread hand over what gathers, in case that nobody else does for a while."""
        if not self._awake.is_set():
            self._awake.set()
            if self._pulse is None:
                with self._guard, self._lifted():
                    pulse = threading.Thread(target=self._beat, name="multihost-pulse", daemon=True)
                    try:
                        pulse.start()
                        self._pulse = pulse
                    except RuntimeError:  # there is no room for a thread: then nothing gathers
                        self._awake.clear()
                        self.hand_over()

    def close(self) -> None:
        """This process was forked from a child's: the pipe is not its own."""
        self._closed = True
        self._lock = threading.RLock()

    def _hand_over(self) -> None:
        # In this order: what a task printed is there before its outcome is.
        outcomes = self._outcomes[:]
        del self._outcomes[: len(outcomes)]
        seconds, self._seconds = self._seconds, 0.0
        if self._output.some and (rows := self._output.take()):
            self._send(("output", rows))
        parts = []
        if self._chunks:
            parts = [(token, *part) for token, chunk in self._chunks.items() for part in chunk.take()]
        if outcomes or parts:
            single = len(outcomes) == 1 and not parts and not _is_large(outcomes[0][2])
            self._send(("outcomes", parts, outcomes, seconds), small=single)

    def _send(self, message: tuple[object, ...], small: bool = False) -> None:
        if self._closed:
            return
        if small:
            self._pipe.send_small(message)
        else:
            self._pipe.send(message)

    def _beat(self) -> None:
        try:
            while True:
                self._awake.wait()
                time.sleep(_PULSE_SECONDS)
                with self._lock, self._lifted():
                    self._hand_over()
                    self._awake.clear()
                    if self._chunks or self._output.some:  # looked at after the clear, or what came between would wait
                        self._awake.set()
        except OSError:
            pass  # the worker is gone


def _is_large(content: Content) -> bool:
    return type(content) is not bytes or len(content) >= LARGE_BYTES

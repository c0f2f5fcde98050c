"""What a child printed last, in memory that outlives it: a mapped file, read by the worker when the child has died."""

import contextlib
import mmap
import os
import struct
from pathlib import Path

from multihost.deaths import MAX_OUTPUT_CHARACTERS
from multihost.runner.output import last_lines

_HEAD = struct.Struct("<qi")  # the token of the task, and the length of what follows
_SIZE = 4096
_ROOM = min(_SIZE - _HEAD.size, 4 * MAX_OUTPUT_CHARACTERS)


class Tail:
    """Written by the child, read by the worker; a task may have put anything there instead."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._map: mmap.mmap | None = None

    def write(self, token: int, text: str) -> None:
        """These are the last characters that a task printed. A signal may end this process at any line of this."""
        if self._map is None:
            try:
                self._map = self._open()
            except OSError:  # no room on the disk: then it will not be known
                return
        content = text.encode("utf-8", "replace")[-_ROOM:]
        self._map[_HEAD.size : _HEAD.size + len(content)] = content
        self._map[: _HEAD.size] = _HEAD.pack(token, len(content))

    def read(self) -> tuple[int, str]:
        """The token of the task that printed last, and its last lines."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError:
            return 0, ""  # nothing was printed
        content = b""
        with open(descriptor, "rb", buffering=0) as file, contextlib.suppress(OSError):
            content = file.read(_SIZE) or b""
        if len(content) < _HEAD.size:
            return 0, ""
        token, length = _HEAD.unpack_from(content)
        text = content[_HEAD.size :][: max(0, length)].decode("utf-8", "replace")
        return token, last_lines(text)

    def remove(self) -> None:
        Path(self.path).unlink(missing_ok=True)

    def _open(self) -> mmap.mmap:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, _SIZE)  # for a full disk shows itself here, not as a SIGBUS later
            return mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)

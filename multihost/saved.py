"""A saved task: a dead letter as a file, with its code, arguments, options and certificate.

Plain data, which reading it does not run. What is in it is code nevertheless, and ``replay`` runs that.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multihost.errors import ProtocolError
from multihost.payload import content_id
from multihost.wire import messages

_MARK = b"multihost saved task 1\n"

Code = tuple[str, bytes, tuple[str, ...]]  # a blob: id, content, ids of the blobs that it needs


class NotSavedTask(Exception):
    """A file is not what ``dead show --save`` writes."""


@dataclass(frozen=True, slots=True)
class SavedTask:
    """``told`` is what the master says of the letter; ``code`` are blobs, each after those that it needs."""

    told: dict[str, Any]
    code: dict[str, Code]

    @property
    def function(self) -> Code:
        return self.code[self.told["function_id"]]

    @property
    def needs(self) -> list[tuple[str, bytes]]:
        """(id, content) of what must be there before the function, in the order in which it is wanted."""
        return [self.code[need][:2] for need in self.function[2]]

    @property
    def item(self) -> tuple[int, str] | None:
        """Which item of a chunk it is, and whether of a map or a starmap."""
        place = self.told["item"]
        return None if place is None else (place, str(self.told["options"]["chunk"][0]))

    def write(self, path: Path) -> None:
        """Raises: OSError."""
        with path.open("wb") as file:
            file.write(_MARK)
            for part in messages.encode((self.told, [*self.code.values()])):
                file.write(part)


def read(path: Path) -> SavedTask:
    """Raises: NotSavedTask."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise NotSavedTask(f"{path} cannot be read: {error.strerror}") from error
    if not content.startswith(_MARK):
        raise NotSavedTask(f"{path} is no saved task; `dead show --save FILE` writes one")
    try:
        return _checked(messages.decode(memoryview(content)[len(_MARK) :]))
    except (ProtocolError, ValueError, TypeError) as error:
        raise NotSavedTask(f"{path} is a saved task, but a damaged one: {error}") from error


def _checked(value: Any) -> SavedTask:
    """Raises: ValueError, TypeError."""
    match value:
        case (
            {"function_id": str(function_id), "payload": bytes(), "options": dict(), "item": None | int()} as told,
            list(code),
        ):
            blobs: dict[str, Code] = {blob_id: (blob_id, content, needs) for blob_id, content, needs in code}
            whole = all(content_id(content, needs) == blob_id for blob_id, content, needs in blobs.values())
            if whole and function_id in blobs and all(blobs.keys() >= {*needs} for _, _, needs in blobs.values()):
                return SavedTask(told, blobs)
    raise ValueError("something is missing, or not what it was")

"""Records: what the journal stores of the master's doings, plain data without any meaning here.

A record is None, a bool, int, float, str or bytes, or a list, tuple, set or dict of such. A list of them is
the content of a row.
"""

import pickle
from collections.abc import Sequence
from typing import NoReturn

from multihost.errors import ProtocolError
from multihost.wire import messages
from multihost.wire.frames import Buffer

Record = object


class _Parts:
    """A file that keeps what is written; pickle hands large bytes objects over uncopied."""

    def __init__(self) -> None:
        self.parts: list[Buffer] = []
        self.write = self.parts.append


class _PlainPickler(pickle.Pickler):
    """Refuses what the decoder would refuse: a row that cannot be read back must never be acknowledged."""

    def reducer_override(self, value: object) -> NoReturn:
        raise TypeError(f"a record holds plain data only, not {type(value).__name__}")


def encode(records: Sequence[Record]) -> list[Buffer]:
    """The content of a row, in parts; large bytes objects are parts of their own, uncopied.

    Raises: TypeError for anything but plain data.
    """
    file = _Parts()
    _PlainPickler(file, protocol=5).dump(list(records))
    return file.parts


def decode(content: Buffer) -> list[Record]:
    """The records in ``content``. Raises: ValueError: it is no row's content."""
    try:
        records = messages.decode(content)
    except ProtocolError as error:
        raise ValueError(str(error)) from error
    if not isinstance(records, list):
        raise ValueError(f"a list of records belongs there, not {type(records).__name__}")
    return records

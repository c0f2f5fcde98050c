"""Which large values tasks have that have not ended, and which of them are shared.

What is shared travels with the function, as a ``partial`` would have it, and so once to each process. A value is shared
that a second task is given while the first has it; a very large one is from the first task on, unless those that the
function was given before came but once.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from multihost.client.code import Blob
from multihost.payload import LARGE_BLOB_BYTES, Places

# From this size on a value is shared at once. That costs 1.2 ms for each megabyte, for client and master hash it, and
# spares 4 to 8 ms for each further task that has it, or an equal one: smaller values are more often many and different.
AT_ONCE_BYTES = 32 * 1024 * 1024
# After so many in a row that came once, a function's next one is hashed only when a second task has it. With fewer, a
# call to warm up would make the next value leave twice; each more costs that hash once.
_ENOUGH = 4


def large_values(args: Iterable[object], kwds: dict[str, object]) -> Places:
    """The arguments of a call that are worth being shared. They are known again as objects, so they must not change."""
    arguments: list[tuple[int | str, object]] = [*enumerate(args), *kwds.items()]
    return {place: v for place, v in arguments if type(v) is bytes and len(v) >= LARGE_BLOB_BYTES}


def values_of_all(items: list[Any]) -> Places:
    """The same for the calls of a starmap: what all of them have, if they have any."""
    first = items[0]
    if not isinstance(first, tuple | list) or not (values := large_values(first, {})):
        return {}
    rows = [item if isinstance(item, tuple | list) else () for item in items]
    shortest = min(map(len, rows))
    return {p: v for p, v in values.items() if int(p) < shortest and all(row[int(p)] is v for row in rows)}


@dataclass(slots=True)
class _Value:
    value: bytes  # held, for another object could have its id otherwise
    uses: int = 0  # by tasks that have not ended
    bound: list[tuple[str, Places, list[Blob]]] = field(default_factory=list)  # functions that have it, by their own id


class Values:
    """See the module."""

    def __init__(self, at_once_bytes: float = AT_ONCE_BYTES) -> None:
        self._at_once_bytes = at_once_bytes
        self._values: dict[int, _Value] = {}
        self._bound: Counter[str] = Counter()  # how often each bound function is remembered: equal values are one
        self._repeated: set[str] = set()  # those of them that more than one task had
        self._once: Counter[str] = Counter()  # by function: how many in a row had one

    def shared(self, function_id: str, places: Places) -> Places:
        """Those of these values that a task has already; where none is, those that are shared at once.

        Not both: what is bound together goes together, and a value that comes once would take along the one that many
        calls have.
        """
        known = {place: value for place, value in places.items() if id(value) in self._values}
        if known or self._once[function_id] >= _ENOUGH:
            return known
        return {place: value for place, value in places.items() if len(value) >= self._at_once_bytes}

    def bound(self, function_id: str, places: Places) -> list[Blob] | None:
        """The blobs of a function with these values, if it was bound to them before."""
        if (value := self._values.get(_first(places))) is None:
            return None
        for known_id, known, blobs in value.bound:
            if known_id == function_id and known.keys() == places.keys() and all(known[p] is places[p] for p in known):
                return blobs
        return None

    def bind(self, function_id: str, places: Places, blobs: list[Blob]) -> bool:
        """A task has these, bound so; remember that as long as one has the first value. Whether it is new."""
        value, bound_id = self._values[_first(places)], blobs[-1].blob_id
        if value.uses > 1 or bound_id in self._bound:
            self._repeated.add(bound_id)
            self._once.pop(function_id, None)
        if self.bound(function_id, places) is not None:
            return False
        value.bound.append((function_id, places, blobs))
        self._bound[bound_id] += 1
        return True

    def use(self, values: Iterable[bytes]) -> None:
        """A task has these."""
        for value in values:
            self._values.setdefault(id(value), _Value(value)).uses += 1

    def ended(self, values: Iterable[bytes]) -> list[str]:
        """A task that had these has ended; the ids of bound functions that are not remembered any more."""
        forgotten: list[str] = []
        for value in values:
            known = self._values[id(value)]
            known.uses -= 1
            if not known.uses:
                forgotten += [self._forget(function_id, blobs[-1].blob_id) for function_id, _, blobs in known.bound]
                del self._values[id(value)]
        return forgotten

    def _forget(self, function_id: str, bound_id: str) -> str:
        self._bound[bound_id] -= 1
        if not self._bound[bound_id]:
            del self._bound[bound_id]
            if bound_id in self._repeated:
                self._repeated.remove(bound_id)
            else:
                self._once[function_id] += 1
        return bound_id


def _first(places: Places) -> int:
    return id(next(iter(places.values())))

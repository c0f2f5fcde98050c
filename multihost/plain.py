"""Plain data that a peer sent, as one of our classes."""

from dataclasses import fields
from typing import Any, TypeVar

T = TypeVar("T")


def made_of(kind: type[T], plain: dict[str, Any]) -> T:
    """A ``kind``, which is a dataclass, of what a peer said; fields that this version does not know are left out."""
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in plain.items() if name in known})

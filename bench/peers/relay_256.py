"""The bare relay with workers that hold up to 256 tasks: the limit of this topology in Python."""

from typing import ClassVar

from peers import relay


class Peer(relay.Peer):
    """See the module."""

    window: ClassVar[int] = 256

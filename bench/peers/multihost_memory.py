"""As ``multihost_cluster``, with a master that keeps no journal."""

from typing import ClassVar

from peers import multihost_cluster


class Peer(multihost_cluster.Peer):
    """See the module."""

    journal: ClassVar[str] = "memory"

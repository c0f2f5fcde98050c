"""Which blobs the master has from a session, which tasks need them, and which large ones it is to let go of.

Small ones stay until the session ends. A large function (a ``partial`` of a model, say) that no task needs any more is
kept for a while, for it may be called again, and then the master is told to let go of it.
"""

from collections import OrderedDict

from multihost.client.code import Blob
from multihost.payload import LARGE_BLOB_BYTES
from multihost.wire.messages import Message

# Of large functions that no task needs, so much is kept, and the one that was called last in any case. More spares
# sending them again, and costs client, master and workers their memory.
KEPT_BYTES = 64_000_000


class Blobs:
    """See the module.

    Args:
        inherited: ids of those that the master has from the program, if the session is a task's.
        large_bytes: what is smaller stays.
        kept_bytes: see ``KEPT_BYTES``.
    """

    def __init__(
        self, inherited: frozenset[str], large_bytes: int = LARGE_BLOB_BYTES, kept_bytes: int = KEPT_BYTES
    ) -> None:
        self._inherited, self._large_bytes, self._kept_bytes = inherited, large_bytes, kept_bytes
        self._blobs: dict[str, Blob] = {}
        self._sent: set[str] = set()  # over the connection that is
        self._uses: dict[str, int] = {}  # of each large function: how many tasks that have not ended need it
        self._idle: OrderedDict[str, int] = OrderedDict()  # those that none needs, with sizes; longest unused first
        self.unsaid: set[str] = set()  # those to be let go of that the master has not been told of
        self._said: set[str] = set()  # and those of which it has, and has not answered

    def use(self, blobs: list[Blob]) -> None:
        """One more task needs the function that is the last of ``blobs``."""
        function = blobs[-1]
        blob_id = function.blob_id
        if blob_id not in self._blobs:
            self._blobs |= {blob.blob_id: blob for blob in blobs}
            if len(function.content) >= self._large_bytes:
                self._uses[blob_id] = 0
                self.unsaid.discard(blob_id)
                self._said.discard(blob_id)
        if blob_id in self._uses:
            self._uses[blob_id] += 1
            self._idle.pop(blob_id, None)

    def ended(self, function_id: str) -> None:
        """A task that needed this function needs it no more."""
        if function_id not in self._uses:
            return
        self._uses[function_id] -= 1
        if self._uses[function_id]:
            return
        if self._blobs[function_id].passing:
            self._let_go(function_id)
        else:
            self._idle[function_id] = len(self._blobs[function_id].content)
            while len(self._idle) > 1 and sum(self._idle.values()) > self._kept_bytes:
                self._let_go(next(iter(self._idle)))

    def large_unsent(self, function_id: str) -> int:
        """The size of this function, if it is large and the master lacks it."""
        if function_id not in self._uses or function_id in self._sent:
            return 0
        return len(self._blobs[function_id].content)

    def messages_of(self, function_id: str) -> list[Message]:
        """What the master lacks of a function and its needs."""
        messages: list[Message] = []
        for blob_id in (*self._blobs[function_id].needs, function_id):
            if blob_id not in self._sent and blob_id not in self._inherited:
                self._sent.add(blob_id)
                blob = self._blobs[blob_id]
                content = blob.content if isinstance(blob.content, bytes) else blob.content.stand_in()
                messages.append(("blob", blob.blob_id, content, blob.needs))
        return messages

    def releases(self) -> list[Message]:
        """What is to be said of those to be let go of; before anything else, as one of them may be sent anew."""
        unsaid = sorted(self.unsaid)
        self._said |= self.unsaid
        self.unsaid.clear()
        return [("release", unsaid)] if unsaid else []

    def released(self, blob_ids: list[str]) -> None:
        """The master has answered."""
        self._said.difference_update(blob_ids)  # what was not said again means an earlier time

    def reconnected(self, known: bool) -> None:
        """Whatever was under way may have been lost; unless the session is ``known``, the master has nothing."""
        self._sent.clear()
        self.unsaid = self.unsaid | self._said if known else set()
        self._said.clear()

    def _let_go(self, blob_id: str) -> None:
        self._idle.pop(blob_id, None)
        del self._uses[blob_id], self._blobs[blob_id]
        self._sent.discard(blob_id)
        self.unsaid.add(blob_id)

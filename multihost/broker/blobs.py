"""Content that many tasks need (functions, archives of sources): kept once, sent once to each worker."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Blob:
    """Content named by its hash; ``needs`` are the blobs without which it is of no use."""

    content: bytes
    needs: tuple[str, ...]
    sessions: set[str] = field(default_factory=set)


class BlobStore:
    """All blobs, and which session uses which."""

    def __init__(self) -> None:
        self._blobs: dict[str, Blob] = {}

    def add(self, session: str, blob_id: str, content: bytes, needs: tuple[str, ...]) -> None:
        """Keep ``content``, and what it needs, which is here, as long as ``session`` or another one uses it."""
        self._blobs.setdefault(blob_id, Blob(content, needs))
        self.hold(session, self.reach(blob_id))

    def has(self, session: str, blob_id: str) -> bool:
        blob = self._blobs.get(blob_id)
        return blob is not None and session in blob.sessions

    def holds(self, blob_id: str) -> bool:
        return blob_id in self._blobs

    def needs(self, blob_id: str) -> tuple[str, ...]:
        return self._blobs[blob_id].needs

    def missing(self, blob_id: str, known: set[str]) -> list[tuple[str, bytes]]:
        """What someone who has ``known`` lacks in order to use ``blob_id``: (id, content), needs first."""
        if blob_id in known:
            return []
        blob = self._blobs[blob_id]
        lacking = [item for need in blob.needs for item in self.missing(need, known)]
        return [*lacking, (blob_id, blob.content)]

    def all(self) -> Iterator[tuple[str, Blob]]:
        """Each with its id, after those that it needs."""
        return iter(self._blobs.items())

    def needed(self, session: str) -> set[str]:
        """The ids of what the blobs need that a session uses."""
        return {need for blob in self._blobs.values() if session in blob.sessions for need in blob.needs}

    def release(self, session: str) -> set[str]:
        """A session ended: drop and return the ids of the blobs that nobody uses any more."""
        unused = set()
        for blob_id, blob in self._blobs.items():
            blob.sessions.discard(session)
            if not blob.sessions:
                unused.add(blob_id)
        for blob_id in unused:
            del self._blobs[blob_id]
        return unused

    def reach(self, blob_id: str) -> set[str]:
        """A blob and all that it needs."""
        return {blob_id}.union(*map(self.reach, self._blobs[blob_id].needs))

    def get(self, blob_id: str) -> Blob:
        return self._blobs[blob_id]

    def size(self, blob_id: str) -> int:
        """The bytes of its content."""
        return len(self._blobs[blob_id].content)

    @property
    def size_of_all(self) -> int:
        return sum(len(blob.content) for blob in self._blobs.values())

    def hold(self, holder: str, blob_ids: Iterable[str]) -> None:
        """Keep what is here for somebody else, too."""
        for blob_id in blob_ids:
            self._blobs[blob_id].sessions.add(holder)

    def let_go(self, holder: str, blob_ids: Iterable[str]) -> set[str]:
        """``holder`` does not use these any more: drop and return those that nobody does."""
        unused = set()
        for blob_id in blob_ids:
            blob = self._blobs[blob_id]
            blob.sessions.discard(holder)
            if not blob.sessions:
                unused.add(blob_id)
                del self._blobs[blob_id]
        return unused

    def __len__(self) -> int:
        return len(self._blobs)

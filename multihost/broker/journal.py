"""The journal: what the master has acknowledged, written down first, so that a new start finds it again.

It stores lists of records and gives them back in order. What they mean is for the core to say, and when they are
committed (at the end of a turn of the event loop, before any reply of that turn) for the service. A commit is one row.

The directory holds ``journal``, a ``rowfile``; ``lock``, held as long as a master uses the journal; for a while
``journal.new``, which takes the place of ``journal`` when it is whole (by a rename: one of the two is there at any
time); ``journal.spare``, a large file that was replaced so, to be written over by the next; and what an upgrade
(``journal.version-N``) or a repair (``journal.damaged``) kept.

Why not SQLite, as it was planned. A journal is one table that is only appended to, and read once from its start; of
what SQLite offers only "this is written, or it is not" would be used. Against that: a damaged frame of its WAL ends
the log silently (the rows behind it are gone, and integrity_check is content), so the promise would rest on a parser
of the WAL or on a second file; damage is not found in terms of rows; and a commit costs several times as much
(bench/journal.py has the figures). A file of rows with checksums is shorter than what would have to guard SQLite, and
what may happen to it can be tried exhaustively: each flipped bit, each cut, a crash at each call of the system.
"""

import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from multihost.broker.records import Record, decode, encode
from multihost.broker.rowfile import Position, RowFile
from multihost.errors import JournalError, JournalFull, JournalLocked, JournalUnusable
from multihost.histogram import Histogram
from multihost.settings import MEMORY
from multihost.wire.frames import Buffer

logger = logging.getLogger(__name__)

# The version of the records that this program writes, and how those of a version become those of the next: a row's
# list in, a row's list out.
VERSION = 1
Migration = Callable[[list[Record]], list[Record]]
MIGRATIONS: dict[int, Migration] = {}

# A step of a compaction writes about this much: more of it holds up the event loop longer, less takes more steps and
# more waits for the disk.
_STEP_BYTES = 1024 * 1024
# Below this size, or twice what the last compaction left, compacting again is not worth it.
_LEAST_BYTES = 8 * 1024 * 1024
# Large values are read back many times as fast as as many bytes of small ones, so a journal of such may be larger.
_LEAST_LARGE_BYTES = 128 * 1024 * 1024
# So many times what is held is a journal of large values before a compaction, which writes that again: as long as it is
# not really large, one waits for a moment at which next to nothing is held. With less, each value is written more
# often, and more takes more of the disk.
_CHEAP, _DEAR = 64, 4
_LARGE_BYTES = 256 * 1024 * 1024
# So much at most of a large file that was replaced is kept for the next one. To write over what the kernel has in
# memory takes half the time of new pages, and a tenth where a virtual machine has to be given those first.
_SPARE_BYTES = 256 * 1024 * 1024
_HOLDER_BYTES = 128
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG}


class Journal(Protocol):
    """What the service needs of a journal. ``replay`` comes first, and to its end."""

    def replay(self) -> Iterator[list[Record]]:
        """The rows of before, oldest first, each as the list of its records; once.

        Raises: JournalDamaged, after all rows that are whole. JournalFull: the disk fails.
        """

    def append(self, records: Iterable[Record]) -> None:
        """Gather ``records`` for the next commit."""

    def commit(self) -> None:
        """Write what was gathered, as one row. When this returns, it survives what MULTIHOST_JOURNAL_SYNC says.

        Raises: JournalFull: nothing of it is written; it stays gathered, so the next commit tries again.
        """

    def wants_compaction(self, held: Callable[[], int]) -> bool:
        """Whether the journal has grown to twice its size after the last compaction, and more.

        Of small things 8 MiB are enough. Of large ones it is 128 MiB, and 64 times what is ``held`` now (the bytes
        of payloads, blobs and outcomes that a compaction would write again), from 256 MiB on four times. That is only
        asked after each MiB, and when nothing was written since this was asked last.
        """

    def compact(self, snapshot: Iterable[list[Record]]) -> Iterator[None]:
        """Commit, and then replace all rows by ``snapshot`` and what is committed after this call, step by step.

        ``snapshot`` is read as the steps go, and must give what stands for all records appended *before* this call. (If
        records can be applied twice without harm, it may show what later ones did, too: they are replayed after it.)
        Each ``next`` on the result is a step of about 1 MiB; the master may go on between them, and when the result is
        exhausted, the new rows have taken the place of the old. A result that is closed, dropped for another
        compaction, or raises, leaves the old in place, and everything that was committed meanwhile.
        Go on with the steps while commits fail: the last one, or the one that fails for want of space, frees space.

        Raises: JournalFull, from this call or a step. JournalDamaged, from a step: an old row cannot be read back.
        """

    def figures(self) -> dict[str, object]:
        """What was committed by this process, and how long that took; empty, if nothing is written anywhere."""

    def close(self) -> None:
        """Commit, have all of it on the disk, and let another master use the journal.

        Raises: JournalFull; the journal is closed all the same.
        """


def open_journal(where: str, sync: str) -> Journal:
    """The journal that MULTIHOST_JOURNAL and MULTIHOST_JOURNAL_SYNC name.

    Raises: JournalLocked, JournalUnusable, JournalFull, JournalDamaged.
    """
    return MemoryJournal() if where == MEMORY else DiskJournal(Path(where), sync)


class MemoryJournal:
    """Keeps nothing: what the master has acknowledged ends with it."""

    def replay(self) -> Iterator[list[Record]]:
        return iter(())

    def append(self, records: Iterable[Record]) -> None:
        pass

    def commit(self) -> None:
        pass

    def wants_compaction(self, held: Callable[[], int]) -> bool:
        return False

    def compact(self, snapshot: Iterable[list[Record]]) -> Iterator[None]:
        return iter(())

    def figures(self) -> dict[str, object]:
        return {}

    def close(self) -> None:
        pass


class DiskJournal:
    """A journal in a directory. See ``Journal`` for its methods.

    Raises: JournalLocked; JournalUnusable: the directory is not there, may not be written, or is of a later version;
        JournalFull: the disk fails; JournalDamaged.
    """

    def __init__(
        self, directory: Path, sync: str, version: int = VERSION, migrations: Mapping[int, Migration] = MIGRATIONS
    ) -> None:
        self._path, self._new_path = directory / "journal", directory / "journal.new"
        self._spare_path = directory / "journal.spare"
        self._durable = sync == "full"
        self._commits = Histogram()
        self._records = self._committed_bytes = 0
        self._gathered: list[Record] = []
        self._replayed = self._closed = False
        # Whether a change of a name may not be on the disk: one of the process before this may not.
        self._directory_changed = True
        self._compaction: Generator[None] | None = None
        self._floor = _LEAST_BYTES
        self._looked = 0  # how large it was when it was asked last what is held,
        self._seen = 0  # and when it was asked last whether a compaction is wanted
        self._lock = lock(directory)
        try:
            self._rows = self._open(version, migrations)
            self._small_left = self._rows.compacted  # by the last compaction; how much of it is small, is not known
        except BaseException as error:
            os.close(self._lock)
            if isinstance(error, OSError):
                raise refusal(directory, error) from error
            raise

    # --- what the service calls --------------------------------------------------------------------------------

    def replay(self) -> Iterator[list[Record]]:
        try:
            yield from _replay(self._rows)
            self._sync_directory()
        except OSError as error:
            raise _full(self._path, error) from error
        self._replayed = True

    def append(self, records: Iterable[Record]) -> None:
        self._gathered.extend(records)

    def commit(self) -> None:
        if not self._gathered:
            return
        self._check_writable()
        content = encode(self._gathered)
        begun, begin = time.perf_counter(), self._rows.last.end
        try:
            self._sync_directory()
            self._rows.write(content, self._durable)
        except OSError as error:
            self._drop_spare()  # there may be room then
            raise _full(self._path, error) from error
        self._commits.add(time.perf_counter() - begun)
        self._records += len(self._gathered)
        self._committed_bytes += self._rows.last.end - begin
        self._gathered = []

    def figures(self) -> dict[str, object]:
        rows = self._commits.count
        return {
            "rows": rows,
            "bytes": self._committed_bytes,
            "records": self._records,
            "records_per_row": self._records / rows if rows else 0.0,
            "commit": self._commits.plain(),
            "synced": self._durable,
            "file_bytes": self._rows.last.end,
        }

    def wants_compaction(self, held: Callable[[], int]) -> bool:
        if self._compaction is not None:
            return False
        size, small = self._rows.last.end, self._rows.last.end - self._rows.large
        rests, self._seen = size == self._seen, size
        if small > max(self._floor, 2 * self._small_left):
            return True
        if size <= max(self._floor, 2 * self._rows.compacted, _LEAST_LARGE_BYTES):
            return False
        if size <= self._looked + _STEP_BYTES and not rests:
            return False
        self._looked = size
        return size > (_CHEAP if size < _LARGE_BYTES else _DEAR) * held()

    def compact(self, snapshot: Iterable[list[Record]]) -> Iterator[None]:
        self._check_writable()
        self.commit()
        self._give_up_compaction()
        self._compaction = self._compact(snapshot, self._rows.last)
        return self._compaction

    def close(self) -> None:
        if self._closed:
            return
        self._give_up_compaction()
        try:
            if self._replayed:  # otherwise nothing was written, and what is there is to stay as it is
                self.commit()
                self._sync_directory()
                self._drop_spare()
                self._rows.trim()
                self._rows.sync()
        except OSError as error:
            raise _full(self._path, error) from error
        finally:
            self._closed = True
            self._rows.close()
            os.close(self._lock)

    def _check_writable(self) -> None:
        if self._closed or not self._replayed:
            raise RuntimeError("the journal is closed, or was not replayed to its end; it cannot be written")

    # --- compaction --------------------------------------------------------------------------------------------

    def _compact(self, snapshot: Iterable[list[Record]], begun: Position) -> Generator[None]:
        new: RowFile | None = None
        try:
            new = self._create(self._rows.version)
            yield from _write(new, map(encode, snapshot))
            new.compacted = new.last.end
            small_left = new.compacted - new.large
            yield from self._catch_up(new, begun)
            self._replace(new)
            self._floor, self._small_left, self._looked = _LEAST_BYTES, small_left, 0
        except OSError as error:
            raise _full(self._path, error) from error
        finally:
            self._compaction = None
            if new is not None and new is not self._rows:
                new.discard()
                # Tried again at once, it would most likely fail again.
                self._floor = self._rows.last.end + _LEAST_BYTES

    def _catch_up(self, new: RowFile, position: Position) -> Iterator[None]:
        """Copy the rows since ``position``; ends when there are no more."""
        known = self._rows.last
        while True:
            # Twice what came since the last step, so that no load can outrun it.
            stop = position.end + max(_STEP_BYTES, 2 * (self._rows.last.end - known.end))
            known = self._rows.last
            while position != known and position.end < stop:
                content, position = self._rows.read(position)
                new.write([content])
            if position == known:
                return
            new.flush()
            yield

    def _replace(self, new: RowFile) -> None:
        """Have ``new`` take the place of the present file, and keep that, if it is large, for the next compaction."""
        old = self._rows
        if is_large := old.last.end > _LEAST_LARGE_BYTES:
            self._drop_spare()
            with suppress(OSError):  # not every file system can do it
                os.link(self._path, self._spare_path)
        self._install(new)
        try:
            if is_large:
                self._sync_directory()  # until then, a power cut may bring it back under its old name
                if old.extent > _SPARE_BYTES:
                    old.cut(_SPARE_BYTES)
        except OSError:
            self._drop_spare()  # the next commit tells what is wrong
        finally:
            old.close()

    def _drop_spare(self) -> None:
        with suppress(OSError):
            remove(self._spare_path)

    def _give_up_compaction(self) -> None:
        if self._compaction is not None:
            self._compaction.close()
            self._compaction = None  # one that had not made a step does not say so itself

    # --- files -------------------------------------------------------------------------------------------------

    def _open(self, version: int, migrations: Mapping[int, Migration]) -> RowFile:
        directory = self._path.parent
        if not os.access(directory, os.W_OK, effective_ids=True):  # a compaction would fail, and much later
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(directory))
        if not self._path.exists():
            self._install(self._create(version))
            return self._rows
        remove(self._new_path)
        remove(self._spare_path)
        rows = RowFile.open(self._path)
        try:
            self._check_version(rows.version, version, migrations)
            if rows.version == version:
                return rows
            self._migrate(rows, version, migrations)
        except BaseException:
            rows.close()
            raise
        rows.close()
        self._rows.close()
        return RowFile.open(self._path)  # to be read from its first row

    def _check_version(self, found: int, version: int, migrations: Mapping[int, Migration]) -> None:
        if found > version:
            reason = (
                f"its records are of version {found}, and this multihost knows those up to {version}. Run the later "
                f"multihost that wrote them; what an upgrade replaced is kept beside it as journal.version-{version}"
            )
            raise JournalUnusable(str(self._path), reason)
        if missing := [step for step in range(found, version) if step not in migrations]:
            raise JournalUnusable(
                str(self._path), f"its records are of version {missing[0]}, too old for this multihost"
            )

    def _migrate(self, old: RowFile, version: int, migrations: Mapping[int, Migration]) -> None:
        """Replace ``old`` by a file with its records in the present version, and keep it under another name."""
        new = self._create(version)
        try:
            for records in _replay(old):
                for step in range(old.version, version):
                    records = migrations[step](records)
                new.write(encode(records))
            new.compacted = new.last.end
            backup = self._path.with_name(f"journal.version-{old.version}")
            remove(backup)
            os.link(self._path, backup)
            self._directory_changed = True
            self._sync_directory()
            self._install(new)
        except BaseException:
            new.discard()
            raise
        fields = {"event": "journal_migrated", "from": old.version, "to": version}
        logger.info("migrated the journal to version %d; %s is what it was", version, backup, extra=fields)

    def _create(self, version: int) -> RowFile:
        remove(self._new_path)
        with suppress(FileNotFoundError):
            os.replace(self._spare_path, self._new_path)
        return RowFile.create(self._new_path, version)

    def _install(self, new: RowFile) -> None:
        """Have ``new`` take the place of what is there, if anything."""
        new.sync()
        os.replace(new.path, self._path)
        new.path, self._rows = self._path, new
        self._directory_changed = True

    def _sync_directory(self) -> None:
        """Before a row counts, the name of its file is on the disk."""
        if self._directory_changed:
            sync_directory(self._path.parent)
            self._directory_changed = False


def lock(directory: Path) -> int:
    """The open file that says that the journal in ``directory`` is used, until it is closed or its process ends.

    Raises: JournalLocked, JournalUnusable, JournalFull.
    """
    try:
        file = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise refusal(directory, error) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(file, _HOLDER_BYTES, 0).decode(errors="replace").strip() or "it does not say which"
        os.close(file)
        raise JournalLocked(str(directory), holder) from error
    with suppress(OSError):  # it is for the reader of an error message only
        os.pwrite(file, f"process {os.getpid()} on host {socket.gethostname()}".ljust(_HOLDER_BYTES).encode(), 0)
    return file


def refusal(directory: Path, error: OSError) -> JournalError:
    """What a failure to open the journal in ``directory`` means to whoever started the master."""
    path = Path(error.filename or directory)
    match error.errno:
        case errno.ENOENT:
            there = directory.exists()
            reason = f"there is no {path}" if there else "there is no such directory; make it, or mount its volume"
        case errno.ENOTDIR:
            reason = "it is not a directory"
        case errno.EROFS:
            reason = "its file system is read-only"
        case errno.EACCES | errno.EPERM:
            place = path if path.exists() else directory  # a file that may not be made is its directory's matter
            reason = f"user {os.geteuid()} may not write {place}, which belongs to user {place.stat().st_uid}"
        case number if number in _FULL:
            return _full(directory / "journal", error)
        case _:
            reason = error.strerror or str(error)
    return JournalUnusable(str(directory), reason)


def remove(path: Path) -> None:
    """Remove the file at ``path``, if there is one. Raises: OSError."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def sync_directory(directory: Path) -> None:
    """Have the names in ``directory`` on the disk. Raises: OSError."""
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _full(path: Path, error: OSError) -> JournalFull:
    return JournalFull(str(path), error.strerror or str(error))


def _replay(rows: RowFile) -> Iterator[list[Record]]:
    """The records of all rows; when it is exhausted, ``rows`` is ready to be written."""
    before = rows.last
    for content in rows.rows():
        try:
            yield decode(content)
        except ValueError as error:
            raise rows.damaged(before, str(error)) from error
        before = rows.last
    if missing := rows.settle():
        fields = {"event": "journal_rows_lost", "rows": missing}
        logger.warning(
            "the last %d rows of the journal %s were not on the disk when the machine went down; with "
            "MULTIHOST_JOURNAL_SYNC=full they would have been",
            missing,
            rows.path,
            extra=fields,
        )


def _write(rows: RowFile, contents: Iterable[list[Buffer]]) -> Iterator[None]:
    """Write ``contents`` in steps."""
    begun = rows.last.end
    for content in contents:
        rows.write(content)
        if rows.last.end - begun >= _STEP_BYTES:
            rows.flush()
            begun = rows.last.end
            yield

"""A session's own code, in a child: unpacked, importable, its main script and its initializer run once."""

import importlib.util
import io
import json
import runpy
import shutil
import sys
import tempfile
import types
import zipfile
from collections.abc import Iterable
from multiprocessing.process import current_process
from pathlib import Path
from typing import Any

from multihost import payload


def make_ready(blobs: Iterable[tuple[str, bytes]], beneath: Path) -> None:
    """Make a session's code importable from below ``beneath``, then call its initializer.

    ``blobs`` (id, content) are archives and initializers, in the order in which they are wanted.
    Raises: what they raise.
    """
    needs = [*blobs]
    prepare([unpack(blob_id, content, beneath) for blob_id, content in needs if is_archive(content)])
    for content in (content for _, content in needs if not is_archive(content)):
        call(content)


def call(pickled: bytes) -> None:
    """Call a pickled (function, args)."""
    unpickled: Any = payload.loads(pickled)
    function, args = unpickled
    function(*args)


def is_archive(content: bytes) -> bool:
    """Whether a blob is an archive of sources; if not, it is an initializer with its arguments."""
    return content.startswith(b"PK")


def unpack(archive_id: str, content: bytes, beneath: Path) -> Path:
    """The directory with an archive's content; whichever child is first makes it, and makes it whole or not at all."""
    directory = beneath / archive_id
    if not directory.exists():
        scratch = Path(tempfile.mkdtemp(dir=beneath))
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            archive.extractall(scratch)  # ZipFile strips from names what would lead out of the directory
        try:
            scratch.rename(directory)
        except OSError:  # another child was faster
            shutil.rmtree(scratch)
    return directory


def prepare(archives: list[Path]) -> None:
    """Put the session's own modules first on ``sys.path``, and run its main script as spawn does."""
    sys.path[:0] = map(str, archives)
    for directory in archives:
        manifest = json.loads((directory / payload.MANIFEST).read_text())
        sys.argv = manifest["argv"]  # a script may look at them when it is imported
        if manifest["main"] is not None:
            _import_main(directory, manifest["main"], manifest["module"])


def _import_main(directory: Path, file: str, module: str | None) -> None:
    """As ``multiprocessing.spawn`` prepares a child: the script's definitions are there, its main block did not run."""
    main = types.ModuleType("__mp_main__")
    before = sys.modules["__main__"]
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main
    # A script without the guard would start a pool of its own here; with this mark, that is an error which says so.
    current_process()._inheriting = True  # type: ignore[attr-defined]
    try:
        if module is not None and importlib.util.find_spec(module) is not None:
            content = runpy.run_module(module, run_name="__mp_main__", alter_sys=True)
        else:
            content = runpy.run_path(str(directory / file), run_name="__mp_main__")
    except BaseException:
        sys.modules["__main__"] = before
        raise
    finally:
        del current_process()._inheriting  # type: ignore[attr-defined]
    main.__dict__.update(content)

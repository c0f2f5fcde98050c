"""The Python interpreters of this machine that a client of the master may run under."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

_MINORS = range(11, 15)
_ASK = "import sys, hashlib, multiprocessing.managers; print('%d.%d' % sys.version_info[:2])"


def interpreters() -> dict[str, str]:
    """Minor version -> executable, for each of 3.11 to 3.14 that runs; the running interpreter is always there."""
    found = {f"{sys.version_info.major}.{sys.version_info.minor}": sys.executable}
    for candidate in _candidates():
        # A candidate may be a shim for a version that is not installed: what counts is that it runs.
        answer = subprocess.run([candidate, "-c", _ASK], capture_output=True, text=True, check=False)
        minor = answer.stdout.strip()
        if answer.returncode == 0 and re.fullmatch(r"3\.\d+", minor) and int(minor[2:]) in _MINORS:
            found.setdefault(minor, candidate)
    return dict(sorted(found.items()))


def _candidates() -> list[str]:
    on_path = [shutil.which(f"python3.{minor}") for minor in _MINORS]
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    of_pyenv = [str(path) for minor in _MINORS for path in sorted(versions.glob(f"3.{minor}.*/bin/python3.{minor}"))]
    return [path for path in [*on_path, *of_pyenv] if path]

"""Running a program inside this process as if Python itself had been started with it."""

import importlib.abc
import importlib.util
import os
import sys
import types
from importlib.machinery import ModuleSpec, SourceFileLoader
from multiprocessing import AuthenticationError
from pathlib import Path
from typing import Any

from multihost.errors import MasterUnreachable, SettingsError

_OUR_HOME = str(Path(__file__).resolve().parents[1])


class NoSuchProgram(Exception):
    """There is no script or module of this name; nothing was run."""


def run(name: str, arguments: list[str], is_module: bool) -> int:
    """Run a script or module as ``__main__``; the exit code if it did not exit itself.

    It stays ``__main__`` afterwards: what it leaves for the interpreter's exit, and results that come only then, still
    find its names. An exception that it did not handle is shown as Python shows it, without our own frames.

    Raises: NoSuchProgram; what the program raised and did not handle of SystemExit, KeyboardInterrupt,
        MasterUnreachable, SettingsError and AuthenticationError.
    """
    sys.argv[:] = [name, *arguments]
    _set_path(os.getcwd() if is_module else os.path.dirname(os.path.realpath(name)))
    spec = _find_module(name) if is_module else _find_script(name)
    main: Any = importlib.util.module_from_spec(spec)
    main.__name__ = "__main__"
    if is_module:
        sys.argv[0] = spec.origin or name
    else:
        main.__spec__ = main.__package__ = main.__cached__ = None  # as Python has it for a script
    # multiprocessing knows it by the second name: that is what it is in workers, where results are made.
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main
    try:
        exec(_code_of(spec), main.__dict__)
    except (MasterUnreachable, SettingsError, AuthenticationError):
        raise
    except Exception as error:
        _show(error, main)
        return 1
    return 0


def _set_path(first: str) -> None:
    if not sys.flags.safe_path:
        sys.path[0] = first
    if _OUR_HOME not in sys.path:
        sys.path.append(_OUR_HOME)  # we were found in the directory that stood first: a checkout that is not installed


def _find_script(path: str) -> ModuleSpec:
    if not os.path.isfile(path):
        raise NoSuchProgram(f"there is no script {path!r}")
    path = os.path.join(os.getcwd(), path)  # as Python does, which leaves a ./ in it
    spec = importlib.util.spec_from_file_location("__main__", path, loader=_ScriptLoader("__main__", path))
    assert spec is not None
    return spec


def _find_module(name: str) -> ModuleSpec:
    """As ``python -m`` finds it: a package means its ``__main__``."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise  # a package on the way exists, and misses something
        spec = None
    if spec is None:
        raise NoSuchProgram(f"there is no module {name!r}")
    return spec if spec.submodule_search_locations is None else _find_module(f"{name}.__main__")


def _code_of(spec: ModuleSpec) -> types.CodeType:
    assert isinstance(spec.loader, importlib.abc.InspectLoader)
    code = spec.loader.get_code(spec.name)
    if code is None:
        raise NoSuchProgram(f"module {spec.name!r} is not written in Python")
    return code


class _ScriptLoader(SourceFileLoader):
    """Compiles a script, whatever its name ends in, and leaves no ``__pycache__`` beside it."""

    def get_code(self, fullname: str) -> types.CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _show(error: Exception, main: types.ModuleType) -> None:
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_globals is not main.__dict__:
        traceback = traceback.tb_next
    sys.excepthook(type(error), error.with_traceback(traceback), traceback)

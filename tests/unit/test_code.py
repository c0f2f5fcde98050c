"""multihost/client/code.py: which of a program's sources travel, and that the same sources are the same archive."""

import importlib
import io
import json
import os
import site
import sys
import types
import zipfile
from collections.abc import Callable
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from multihost import payload
from multihost.client import code
from multihost.client.code import Blob, CodeBook, Main, find_main, own_sources, pack
from multihost.errors import TaskTooLarge

Project = Callable[..., Path]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Lays out a program's files; nothing but what it imports counts as loaded.

    ``main`` is the file that runs, ``module`` its name if it was run with ``-m``, ``loaded`` what it has imported:
    module name -> file.
    """
    standing = {name for name, module in sys.modules.items() if code._source_of(module) is None}
    for name in [name for name in sys.modules if name not in standing]:
        monkeypatch.delitem(sys.modules, name)

    def make(
        files: dict[str, str], main: str | None, module: str | None = None, loaded: dict[str, str] | None = None
    ) -> Path:
        root = tmp_path / "project"
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(content)
        program = types.ModuleType("__main__")
        if main is not None:
            program.__file__ = str(root / main)
        program.__spec__ = None if module is None else ModuleSpec(module, None)
        monkeypatch.setitem(sys.modules, "__main__", program)
        for name, file in (loaded or {}).items():
            load(name, root / file)
        return root

    def load(name: str, file: Path) -> None:
        module = types.ModuleType(name)
        module.__file__ = str(file)
        monkeypatch.setitem(sys.modules, name, module)

    return make


def names() -> set[str]:
    return set(own_sources())


def archive(files: dict[str, Path], main: Main | None = None) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(pack(files, main, ["program"])))


# --- the main script -------------------------------------------------------------------------------------------------


def test_script_is_found_by_its_file(project: Project) -> None:
    root = project({"tools/job.py": ""}, "tools/job.py")
    assert find_main() == Main("job.py", None, root / "tools")


@pytest.mark.parametrize(
    ("file", "module"),
    [("job.py", "job"), ("pkg/job.py", "pkg.job"), ("pkg/__main__.py", "pkg.__main__"), ("a/b/c.py", "a.b.c")],
)
def test_module_that_was_run_is_found_by_its_name_and_its_root(project: Project, file: str, module: str) -> None:
    root = project({file: ""}, file, module)
    assert find_main() == Main(file, module, root)


def test_directory_that_was_run_has_its_main_file(project: Project) -> None:
    root = project({"app/__main__.py": ""}, "app/__main__.py", "__main__")
    assert find_main() == Main("__main__.py", "__main__", root / "app")


def test_relative_name_of_the_script_is_made_whole(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    root = project({"job.py": ""}, "job.py")
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "job.py")
    assert find_main() == Main("job.py", None, root)


def test_repl_has_no_main_script(project: Project) -> None:
    project({}, None)
    assert find_main() is None
    assert own_sources() == {}
    assert not CodeBook(1000).main_travels


@pytest.mark.parametrize("file", ["<stdin>", "gone.py", "program.zip", "notebook.ipynb"])
def test_what_is_no_source_file_is_no_main_script(project: Project, file: str) -> None:
    project({"program.zip": "", "notebook.ipynb": ""}, file)
    assert find_main() is None


@pytest.mark.parametrize("where", [json.__file__, pytest.__file__])
def test_installed_program_is_no_main_script(project: Project, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    project({}, None)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", where, raising=False)
    assert find_main() is None


# --- what travels ----------------------------------------------------------------------------------------------------

PROJECT = {
    "job.py": "",
    "helpers.py": "",
    "late.py": "",
    "data.csv": "",
    "pkg/__init__.py": "",
    "pkg/part.py": "",
    "pkg/deep/__init__.py": "",
    "pkg/deep/down.py": "",
    "pkg/table.json": "",
    "not_a_package/orphan.py": "",
}


def test_script_takes_its_siblings_and_the_packages_beside_it_imported_or_not(project: Project) -> None:
    root = project(PROJECT, "job.py")
    assert own_sources() == {
        name: root / name
        for name in (
            "job.py",
            "helpers.py",
            "late.py",
            "pkg/__init__.py",
            "pkg/part.py",
            "pkg/deep/__init__.py",
            "pkg/deep/down.py",
        )
    }


def test_module_of_a_package_takes_what_lies_beneath_its_root(project: Project) -> None:
    project(PROJECT, "pkg/part.py", "pkg.part")
    assert {"job.py", "pkg/__init__.py", "pkg/part.py", "pkg/deep/down.py"} <= names()


def test_modules_imported_from_elsewhere_travel_under_their_names(project: Project) -> None:
    loaded = {"lib": "../shared/lib.py", "kit": "../shared/kit/__init__.py", "kit.saw": "../shared/kit/saw.py"}
    root = project({"job.py": "", **dict.fromkeys(loaded.values(), "")}, "job.py", loaded=loaded)
    shared = root / ".." / "shared"
    assert own_sources() == {
        "job.py": root / "job.py",
        "lib.py": shared / "lib.py",
        "kit/__init__.py": shared / "kit" / "__init__.py",
        "kit/saw.py": shared / "kit" / "saw.py",
    }


def test_repl_takes_the_modules_it_has_imported(project: Project) -> None:
    project({"lib.py": "", "beside.py": ""}, None, loaded={"lib": "lib.py"})
    assert names() == {"lib.py"}


def test_installed_modules_do_not_travel(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project({"job.py": ""}, "job.py")
    for name in ("json", "pytest", "hypothesis", "multihost.settings", "multihost"):
        monkeypatch.setitem(sys.modules, name, importlib.import_module(name))
    assert names() == {"job.py"}


def test_every_directory_of_installed_packages_is_known() -> None:
    for directory in (*site.getsitepackages(), site.getusersitepackages(), os.path.dirname(json.__file__)):
        assert code._is_installed(f"{directory}/module.py")
    assert not code._is_installed("/srv/site-packages-of-mine/module.py")


def test_copy_of_our_own_library_beside_the_script_stays_at_home(project: Project) -> None:
    project({"job.py": "", "multihost/__init__.py": "", "multihost/pool.py": ""}, "job.py")
    assert names() == {"job.py"}


def test_modules_without_a_source_do_not_travel(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project({"job.py": "", "fast.so": ""}, "job.py", loaded={"fast": "fast.so", "gone": "gone.py"})
    monkeypatch.setitem(sys.modules, "built", types.ModuleType("built"))
    monkeypatch.setitem(sys.modules, "nothing", None)
    assert names() == {"job.py"}


def test_directory_with_too_many_sources_gives_only_what_was_imported(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code, "_MAX_FILES", 3)
    files = {f"module_{number}.py": "" for number in range(3)}
    project({"job.py": "", **files}, "job.py", loaded={"module_1": "module_1.py"})
    assert names() == {"job.py", "module_1.py"}


def test_directory_with_just_so_many_sources_gives_all(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "_MAX_FILES", 3)
    project({"job.py": "", "one.py": "", "two.py": ""}, "job.py")
    assert len(names()) == 3


def test_links_that_lead_in_a_circle_end(project: Project) -> None:
    root = project({"job.py": "", "pkg/__init__.py": ""}, "job.py")
    (root / "pkg" / "self").symlink_to(root / "pkg")
    (root / "pkg" / "dangling.py").symlink_to(root / "nowhere.py")
    assert names() == {"job.py", "pkg/__init__.py"}


# --- the archive -----------------------------------------------------------------------------------------------------


def test_archive_has_the_sources_and_says_which_is_the_main_script(project: Project) -> None:
    root = project({"pkg/__init__.py": "", "pkg/job.py": "print('job')\n"}, "pkg/job.py", "pkg.job")
    packed = archive(own_sources(), find_main())
    assert packed.namelist() == [payload.MANIFEST, "pkg/__init__.py", "pkg/job.py"]
    assert packed.read("pkg/job.py") == (root / "pkg/job.py").read_bytes()
    assert json.loads(packed.read(payload.MANIFEST)) == {"main": "pkg/job.py", "module": "pkg.job", "argv": ["program"]}


def test_archive_without_a_main_script_says_so(project: Project) -> None:
    project({"lib.py": ""}, None, loaded={"lib": "lib.py"})
    assert json.loads(archive(own_sources()).read(payload.MANIFEST)) == {
        "main": None,
        "module": None,
        "argv": ["program"],
    }


def test_same_sources_are_the_same_bytes_whatever_their_order_and_age(project: Project) -> None:
    root = project({"a.py": "a = 1\n", "b.py": "b = 2\n"}, "a.py")
    first = pack(own_sources(), find_main(), ["program"])
    os.utime(root / "a.py", (1, 1))
    os.chmod(root / "b.py", 0o600)
    backwards = dict(reversed(own_sources().items()))
    assert pack(backwards, find_main(), ["program"]) == first


# --- functions -------------------------------------------------------------------------------------------------------


@pytest.fixture
def program(project: Project) -> Path:
    return project({"job.py": "version = 1\n"}, "job.py")


def content_of(blob: Blob) -> bytes:
    """Of one that is bound to nothing."""
    assert isinstance(blob.content, bytes)
    return blob.content


def test_function_comes_after_the_archive_that_it_needs(program: Path) -> None:
    archive, function = CodeBook(100_000).blobs_for(len)
    assert function.needs == (archive.blob_id,)
    assert payload.loads(content_of(function)) is len
    for blob in (archive, function):
        assert blob.blob_id == payload.content_id(blob.content, blob.needs)


def test_program_without_sources_sends_the_function_alone(project: Project) -> None:
    project({}, None)
    (function,) = CodeBook(100_000).blobs_for(len)
    assert function.needs == ()


def test_same_function_is_the_same_blob_in_every_session(program: Path) -> None:
    assert CodeBook(100_000).blobs_for(len) == CodeBook(100_000).blobs_for(len)


def test_edited_source_is_another_archive_and_another_function(program: Path) -> None:
    book = CodeBook(100_000)
    archive, function = book.blobs_for(len)
    (program / "job.py").write_text("version = 22\n")
    new_archive, new_function = CodeBook(100_000).blobs_for(len)
    assert archive.blob_id != new_archive.blob_id
    assert function.blob_id != new_function.blob_id
    # In the session under way, what was loaded before goes on as it was, and what is new gets the new source.
    assert book.blobs_for(len)[-1] == function
    assert book.blobs_for(sum)[-1].needs == (new_archive.blob_id,)


def test_touched_source_of_the_same_content_is_the_same_archive(program: Path) -> None:
    book = CodeBook(100_000)
    (before, _) = book.blobs_for(len)
    os.utime(program / "job.py", (1, 1))
    assert book.blobs_for(sum)[0] == before


def test_closure_is_sent_as_it_is_now(program: Path) -> None:
    book, held = CodeBook(100_000), [1]

    def closure() -> list[int]:
        return held

    first = book.blobs_for(closure)[-1]
    assert book.blobs_for(closure)[-1] == first
    held.append(2)
    assert book.blobs_for(closure)[-1].blob_id != first.blob_id


def test_value_that_is_bound_to_a_function_is_the_same_blob_in_each_call_as_long_as_it_is_the_same(
    program: Path,
) -> None:
    book, value = CodeBook(100_000), bytearray(50_000)
    first = book.blobs_for(partial(len, value))[-1]
    assert len(first.content) > 50_000
    assert book.blobs_for(partial(len, bytearray(50_000)))[-1].blob_id == first.blob_id
    value[0] = 1
    assert book.blobs_for(partial(len, value))[-1].blob_id != first.blob_id


def test_bound_method_is_sent_with_its_object_as_it_is_now(program: Path) -> None:
    book, held = CodeBook(100_000), [1]
    first = book.blobs_for(held.count)[-1]
    held.append(2)
    assert book.blobs_for(held.count)[-1].blob_id != first.blob_id


def test_function_of_a_repl_travels_by_value(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project({}, None)
    main = sys.modules["__main__"]
    exec("def triple(number): return 3 * number", vars(main))
    assert payload.is_by_value(content_of(CodeBook(100_000).blobs_for(vars(main)["triple"])[-1]))


def test_initializer_is_needed_by_each_function_after_the_archive(program: Path) -> None:
    archive, initializer, function = CodeBook(100_000, (print, ("ready",))).blobs_for(len)
    assert function.needs == (archive.blob_id, initializer.blob_id)
    assert payload.loads(content_of(initializer)) == (print, ("ready",))


def test_function_that_carries_too_much_is_refused_before_it_is_sent(program: Path) -> None:
    large = bytes(200_000)
    with pytest.raises(TaskTooLarge, match=r"a function takes 2.* bytes, more than the 100,000"):
        CodeBook(100_000).blobs_for(lambda: large)


def test_sources_that_are_too_large_are_refused_by_name(program: Path) -> None:
    (program / "job.py").write_bytes(os.urandom(3000).hex().encode())
    with pytest.raises(TaskTooLarge, match="the program's own source code takes"):
        CodeBook(2000).blobs_for(len)


def test_function_that_cannot_be_pickled_is_named(program: Path) -> None:
    lines = iter(["a"])
    with pytest.raises(TypeError, match="generator"):
        CodeBook(100_000).blobs_for((line for line in lines).__next__)

"""A program's own code travels by itself, however the program is started; each test runs a real program."""

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import cloudpickle
import pytest

from multihost.payload import PYTHON_MINOR
from tests.integration.cluster import ROOT, Cluster
from tests.integration.interpreters import interpreters

# What a program that is not a file, or has no guard, starts with.
WITH_POOL = "import multihost\nwith multihost.Pool() as pool:\n"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A directory for a program, outside of everything that workers could import."""
    directory = tmp_path / "program"
    directory.mkdir()
    return directory


def write(directory: Path, **files: str) -> None:
    """Write modules of these names."""
    for name, content in files.items():
        (directory / f"{name}.py").write_text(textwrap.dedent(content))


def guarded(call: str, before: str = "") -> str:
    """A main script that prints the value of ``call``, in which ``pool`` is a pool."""
    main = f"if __name__ == '__main__':\n    with multihost.Pool() as pool:\n        print({call})\n"
    return f"import multihost\n{textwrap.dedent(before)}\n{main}"


def test_a_function_of_the_main_script_runs(shared_cluster: Cluster, program: Path) -> None:
    write(program, main=guarded("pool.map(square, range(4))", "def square(x): return x * x"))
    assert shared_cluster.run("main.py", cwd=program) == "[0, 1, 4, 9]\n"


def test_a_script_may_look_at_its_arguments_when_it_is_imported(shared_cluster: Cluster, program: Path) -> None:
    write(
        program, main=guarded("pool.apply(add, (1,))", "import sys\nBY = int(sys.argv[1])\ndef add(x): return x + BY")
    )
    assert shared_cluster.run("main.py", "41", cwd=program) == "42\n"


def test_a_script_may_be_started_from_another_directory(shared_cluster: Cluster, program: Path, tmp_path: Path) -> None:
    write(program, main=guarded("pool.map(cube, [2])", "from beside import cube"), beside="def cube(x): return x ** 3")
    assert shared_cluster.run(program / "main.py", cwd=tmp_path) == "[8]\n"
    assert shared_cluster.run("program/main.py", cwd=tmp_path) == "[8]\n"


def test_objects_of_the_scripts_own_classes_travel_in_both_directions(shared_cluster: Cluster, program: Path) -> None:
    before = """
    import dataclasses, enum

    class Colour(enum.Enum):
        RED = 1

    @dataclasses.dataclass
    class Point:
        x: int
        colour: Colour = Colour.RED

        def moved(self, by):
            return Point(self.x + by)

    class Wrong(Exception):
        pass

    def fail(point):
        raise Wrong(point.x)

    def caught(pool):
        try:
            pool.apply(fail, (Point(3),))
        except Wrong as error:
            return f"caught {error}"
    """
    calls = "pool.apply(Point(1).moved, (2,)) == Point(3), pool.apply(Point, (1,)).colour is Colour.RED, caught(pool)"
    write(program, main=guarded(calls, before))
    assert shared_cluster.run("main.py", cwd=program) == "True True caught 3\n"


def test_a_package_imported_only_inside_the_task_travels(shared_cluster: Cluster, program: Path) -> None:
    before = """
    def late(x):
        from helpers.deep.sums import plus_one
        return plus_one(x)
    """
    write(program, main=guarded("pool.apply(late, (1,))", before))
    deep = program / "helpers" / "deep"
    deep.mkdir(parents=True)
    (deep / "__init__.py").touch()
    (program / "helpers" / "__init__.py").touch()
    (deep / "sums.py").write_text("from ..base import ONE\ndef plus_one(x): return x + ONE\n")
    (program / "helpers" / "base.py").write_text("ONE = 1\n")
    assert shared_cluster.run("main.py", cwd=program) == "2\n"


def test_a_program_run_as_a_module_of_a_package_works(shared_cluster: Cluster, program: Path) -> None:
    package = program / "pkg"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "sums.py").write_text("def double(x): return 2 * x\n")
    before = "from .sums import double\n\ndef twice(x):\n    from . import sums\n    return sums.double(double(x))"
    write(package, main=guarded("pool.map(twice, [1, 2])", before))
    assert shared_cluster.run("-m", "pkg.main", cwd=program) == "[4, 8]\n"


def test_a_package_run_by_its_name_works(shared_cluster: Cluster, program: Path) -> None:
    package = program / "pkg"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(guarded("pool.map(double, [1, 2])", "def double(x): return 2 * x"))
    assert shared_cluster.run("-m", "pkg", cwd=program) == "[2, 4]\n"


def test_a_program_given_on_the_command_line_works(shared_cluster: Cluster, program: Path) -> None:
    text = "def square(x): return x * x\n" + WITH_POOL + "    print(pool.map(square, range(3)))"
    assert shared_cluster.run("-c", text, cwd=program) == "[0, 1, 4]\n"


def test_a_program_read_from_standard_input_works(shared_cluster: Cluster, program: Path) -> None:
    text = """
    class Point:
        def __init__(self, x):
            self.x = x

    def move(point):
        return Point(point.x + by)

    by = 1
    import multihost
    with multihost.Pool() as pool:
        moved = pool.apply(move, (Point(1),))
        print(moved.x, type(moved) is Point)
        by = 10
        print(pool.apply(move, (Point(1),)).x)
    """
    client = subprocess.run(
        [sys.executable, "-"],
        input=textwrap.dedent(text),
        env=shared_cluster.environ(),
        cwd=program,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (client.stdout, client.stderr) == ("2 True\n11\n", "")


def test_an_interactive_session_works(shared_cluster: Cluster, program: Path) -> None:
    define = "def f(x):\n    return x + 1\n\n"
    text = f"import multihost\npool = multihost.Pool()\n{define}pool.map(f, [1, 2])\npool.terminate()\n"
    client = subprocess.run(
        [sys.executable, "-i", "-q"],
        input=text,
        env=shared_cluster.environ(PYTHONSTARTUP=""),
        cwd=program,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert client.stdout == "[2, 3]\n"
    assert "Traceback" not in client.stderr


def test_a_script_without_the_guard_fails_with_the_remedy_and_does_not_hang(
    shared_cluster: Cluster, program: Path
) -> None:
    write(program, main="def f(x): return x\n" + WITH_POOL + "    print(pool.map(f, [1]))\n")
    client = shared_cluster.start_python("main.py", cwd=program)
    assert client.wait() == 1
    assert 'if __name__ == "__main__":' in client.log()
    assert "RuntimeError" in client.log()
    _forget_traceback(client.log_file)


def test_two_versions_of_one_module_run_side_by_side(shared_cluster: Cluster, program: Path) -> None:
    before = (
        "import time\nfrom version import NUMBER, number\n\ndef slow(_):\n    time.sleep(0.02)\n    return number()"
    )
    clients = []
    for number in (1, 2):
        directory = program / str(number)
        directory.mkdir()
        write(directory, main=guarded("set(pool.map(slow, range(50)))", before))
        write(directory, version=f"NUMBER = {number}\ndef number(): return NUMBER")
        clients.append(shared_cluster.start_python(directory / "main.py"))
    assert [client.wait() for client in clients] == [0, 0]
    assert [client.log() for client in clients] == ["{1}\n", "{2}\n"]


def test_edited_code_is_new_code_for_the_next_run(shared_cluster: Cluster, program: Path) -> None:
    for number in (1, 2):
        write(program, main=guarded("pool.apply(f)", "from beside import f"), beside=f"def f(): return {number}")
        assert shared_cluster.run("main.py", cwd=program) == f"{number}\n"


def test_an_exception_shows_the_scripts_file_and_line(shared_cluster: Cluster, program: Path) -> None:
    write(program, main=guarded("pool.apply(fail)", "def fail():\n    raise KeyError('missing')  # here\n"))
    client = shared_cluster.start_python("main.py", cwd=program)
    assert client.wait() == 1
    assert "KeyError: 'missing'" in client.log()
    assert 'main.py", line 3, in fail' in client.log()
    assert "raise KeyError('missing')  # here" in client.log()
    _forget_traceback(client.log_file)


def test_an_error_while_the_script_is_imported_is_each_tasks_error(shared_cluster: Cluster, program: Path) -> None:
    before = "if __name__ != '__main__':\n    raise LookupError('not on workers')\n\ndef f(): pass"
    write(program, main=guarded("pool.apply(f)", before))
    client = shared_cluster.start_python("main.py", cwd=program)
    assert client.wait() == 1
    assert "LookupError: not on workers" in client.log()
    _forget_traceback(client.log_file)


def test_a_script_that_exits_when_imported_is_each_tasks_error(shared_cluster: Cluster, program: Path) -> None:
    before = "import sys\nif __name__ != '__main__':\n    sys.exit('no worker of mine')\n\ndef f(): pass"
    write(program, main=guarded("[type(e) for e in failures(pool)]", before + _FAILURES))
    assert shared_cluster.run("main.py", cwd=program) == "[<class 'SystemExit'>, <class 'SystemExit'>]\n"


_FAILURES = """

def failures(pool):
    for _ in range(2):
        try:
            yield pool.apply(f)
        except BaseException as error:
            yield error
"""


def test_a_module_that_is_installed_only_here_names_module_and_worker(shared_cluster: Cluster, program: Path) -> None:
    # The user's own site-packages count as installed, so what is there does not travel.
    site = program / "base" / "lib" / f"python{PYTHON_MINOR}" / "site-packages"
    site.mkdir(parents=True)
    (site / "only_here.py").write_text("def f(): pass\n")
    write(program, main=guarded("pool.apply(f)", "from only_here import f"))
    client = shared_cluster.start_python(
        "main.py", cwd=program, PYTHONUSERBASE=str(program / "base"), PYTHONPATH=str(site)
    )
    assert client.wait() == 1
    assert "CodeNotFound: worker w1 cannot import only_here" in client.log()
    assert "must be installed on the workers too" in client.log()
    _forget_traceback(client.log_file)


def test_a_program_that_ends_without_closing_its_pool_ends_and_leaves_no_session(
    shared_cluster: Cluster, program: Path
) -> None:
    text = "import multihost, time\npool = multihost.Pool()\npool.map_async(time.sleep, [60] * 10)\nprint('end')\n"
    assert shared_cluster.run("-c", text, cwd=program) == "end\n"
    shared_cluster.wait_for(sessions=0, queued=0, leased=0)


def test_the_end_of_a_forked_process_does_not_end_the_pool(shared_cluster: Cluster, program: Path) -> None:
    text = """
    import multihost, os, sys, time
    with multihost.Pool() as pool:
        outcome = pool.map_async(time.sleep, [0.01] * 50)
        if os.fork() == 0:
            sys.exit(0)
        os.wait()
        print(outcome.get() == [None] * 50)
    """
    before = shared_cluster.statistics()["done"]
    # Since 3.12 Python itself warns of a main script that forks beside threads, as those of the library's own pool.
    quiet = "-Wignore:This process:DeprecationWarning"
    assert shared_cluster.run(quiet, "-c", textwrap.dedent(text), cwd=program) == "True\n"
    assert shared_cluster.statistics()["done"] == before + 50, "each task ran once"


def test_a_script_of_names_that_the_workers_use_themselves_works(shared_cluster: Cluster, program: Path) -> None:
    """Modules called worker, task_worker or tests shadow nothing that the worker needs."""
    before = "import task_worker, worker\n\ndef f(): return task_worker.NAME, worker.NAME"
    files = {"task_worker": "NAME = 'mine'", "worker": "NAME = 'mine too'"}
    write(program, main=guarded("pool.apply(f)", before), **files)
    assert shared_cluster.run("main.py", cwd=program) == "('mine', 'mine too')\n"


# --- other versions of Python ----------------------------------------------------------------------------------

OTHERS = {minor: python for minor, python in interpreters().items() if minor != PYTHON_MINOR}
needs_another = pytest.mark.skipif(not OTHERS, reason="this machine has one version of Python only")


@needs_another
@pytest.mark.parametrize("python", OTHERS.values(), ids=OTHERS.keys())
def test_functions_with_a_name_run_on_workers_of_another_python(
    shared_cluster: Cluster, program: Path, python: str
) -> None:
    call = "pool.map(square, range(3)), pool.apply(minor) == '%d.%d' % sys.version_info[:2]"
    before = "import sys\n\ndef square(x): return x * x\n\ndef minor(): return '%d.%d' % sys.version_info[:2]"
    write(program, main=guarded(call, before))
    client = shared_cluster.start("client", python, "main.py", cwd=program, PYTHONPATH=str(ROOT))
    assert client.wait() == 0, client.log()
    assert client.log() == "[0, 1, 4] False\n"


@needs_another
@pytest.mark.parametrize("python", OTHERS.values(), ids=OTHERS.keys())
def test_paths_travel_between_different_pythons_and_back(shared_cluster: Cluster, program: Path, python: str) -> None:
    before = """
    from pathlib import Path

    def beside(path): return path / "beside"

    def fail(path): raise ValueError(path)

    def failed(pool):
        try:
            pool.apply(fail, (Path("c"),))
        except Exception as error:
            return repr(error)
    """
    calls = "pool.map(beside, [Path('a')]), pool.apply(beside, (Path('b'),)), failed(pool)"
    write(program, main=guarded(calls, before))
    client = shared_cluster.start("client", python, "main.py", cwd=program, PYTHONPATH=str(ROOT))
    assert client.wait() == 0, client.log()
    assert client.log() == "[PosixPath('a/beside')] b/beside ValueError(PosixPath('c'))\n"


def test_syntax_that_a_worker_has_not_names_the_python_of_that_once(shared_cluster: Cluster, program: Path) -> None:
    write(program, newer="a syntax of later", main="import sys, multihost\n\ndef f(): pass\n\n")
    with (program / "main.py").open("a") as main:
        main.write("if __name__ == '__mp_main__':\n    import newer  # as if only workers could not read it\n")
        main.write("if __name__ == '__main__':\n    with multihost.Pool(1) as pool:\n")
        main.write("        pool.apply_async(f).wait()\n        pool.apply(f)\n")
    client = shared_cluster.start_python("main.py", cwd=program)
    assert client.wait() == 1
    shown = client.log().rpartition("SyntaxError: invalid syntax\n")[2]
    assert shown.startswith(f"worker w1 runs Python {PYTHON_MINOR}\nmultihost: task ")
    _forget_traceback(client.log_file)


@needs_another
@pytest.mark.parametrize("python", OTHERS.values(), ids=OTHERS.keys())
def test_a_lambda_is_refused_on_workers_of_another_python_with_the_remedy(
    shared_cluster: Cluster, program: Path, tmp_path: Path, python: str
) -> None:
    shutil.copytree(Path(cloudpickle.__file__).parent, tmp_path / "packages" / "cloudpickle")
    write(program, main=guarded("pool.apply(lambda: 1)"))
    packages = f"{ROOT}:{tmp_path / 'packages'}"
    client = shared_cluster.start("client", python, "main.py", cwd=program, PYTHONPATH=packages)
    assert client.wait() == 1
    assert "PythonMismatch" in client.log()
    assert "Define it with def at the top level of a module" in client.log()
    _forget_traceback(client.log_file)


def _forget_traceback(log: Path) -> None:
    """This client was meant to end with one."""
    log.write_text(log.read_text().replace("Traceback (most recent call last)", "Expected traceback"))

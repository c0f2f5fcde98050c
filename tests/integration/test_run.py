"""``python -m multihost run`` runs an unchanged program as Python itself would, with the cluster's processes."""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from multihost.settings import ExitCode
from tests.integration.cluster import ROOT, Cluster, Program, clean_environ, wait_until

RUN = ("-m", "multihost", "run")


def write(directory: Path, body: str, name: str = "program.py") -> Path:
    """A program that defines ``whoami``; ``body`` is its main block."""
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "import os, sys\n"
        "def whoami(x):\n    return x * x, os.environ.get('MULTIHOST_NAME'), __name__\n"
        "if __name__ == '__main__':\n" + "".join(f"    {line}\n" for line in body.splitlines())
    )
    return path


def end_of(cluster: Cluster, *arguments: str | Path, **settings: str) -> Program:
    """``python -m multihost run`` with these arguments, once it has ended."""
    program = cluster.start("program", sys.executable, *RUN, *arguments, cwd=None, **settings)
    program.wait()
    return program


NAMES = {
    "multiprocessing.Pool": "import multiprocessing\nwith multiprocessing.Pool(2) as pool:",
    "from multiprocessing import Pool": "from multiprocessing import Pool\nwith Pool() as pool:",
    "multiprocessing.pool.Pool": "from multiprocessing.pool import Pool\nwith Pool(processes=2) as pool:",
    "get_context": "import multiprocessing\nwith multiprocessing.get_context('spawn').Pool(2) as pool:",
    "concurrent.futures": (
        "import concurrent.futures\nwith concurrent.futures.ProcessPoolExecutor(max_workers=2) as pool:"
    ),
    "concurrent.futures.process": (
        "import multiprocessing\nfrom concurrent.futures.process import ProcessPoolExecutor\n"
        "with ProcessPoolExecutor(2, multiprocessing.get_context('spawn')) as pool:"
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_whatever_name_a_program_uses_its_functions_run_on_the_workers(
    shared_cluster: Cluster, tmp_path: Path, name: str
) -> None:
    script = write(tmp_path, NAMES[name] + "\n    print(*pool.map(whoami, range(3)))")
    output = shared_cluster.run(*RUN, script)
    assert output == "(0, 'w1', '__mp_main__') (1, 'w1', '__mp_main__') (4, 'w1', '__mp_main__')\n"


def test_functions_of_a_module_run_with_m_run_on_the_workers(shared_cluster: Cluster, tmp_path: Path) -> None:
    body = "from multiprocessing import Pool\nwith Pool() as pool:\n    print(pool.apply(whoami, [3]))"
    write(tmp_path, body, "package/tool.py").with_name("__init__.py").touch()
    output = shared_cluster.run(*RUN, "-m", "package.tool", cwd=tmp_path)
    assert output == "(9, 'w1', '__mp_main__')\n"


def test_in_a_task_the_standard_library_is_itself(shared_cluster: Cluster, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        "from concurrent.futures import ProcessPoolExecutor\nfrom multiprocessing.pool import Pool\n"
        "def where(_):\n    return Pool.__module__, ProcessPoolExecutor.__module__\n"
        "if __name__ == '__main__':\n    print(where(0), Pool().map(where, [0]))"
    )
    output = shared_cluster.run(*RUN, script)
    ours, theirs = ("multihost.pool", "multihost.executor"), ("multiprocessing.pool", "concurrent.futures.process")
    assert output == f"{ours} [{theirs}]\n"


def test_a_pool_of_threads_stays_one(shared_cluster: Cluster, tmp_path: Path) -> None:
    body = (
        "from multiprocessing.pool import ThreadPool\nhere = []\n"
        "with ThreadPool(2) as pool:\n    pool.map(here.append, range(3))\nprint(sorted(here))"
    )
    assert shared_cluster.run(*RUN, write(tmp_path, body)) == "[0, 1, 2]\n"


def test_without_an_address_there_is_a_cluster_inside_this_machine(cluster: Cluster, tmp_path: Path) -> None:
    body = "from multiprocessing import Pool\nwith Pool(2) as pool:\n    print(pool.map(whoami, [5]))"
    assert (
        cluster.run(*RUN, write(tmp_path, body), MULTIHOST_ADDRESS="", MULTIHOST_AUTHKEY="")
        == "[(25, None, '__mp_main__')]\n"
    )


def test_the_address_can_be_an_option(shared_cluster: Cluster, tmp_path: Path) -> None:
    body = "from multiprocessing import Pool\nwith Pool() as pool:\n    print(pool.map(whoami, [5]))"
    address = str(shared_cluster.address)
    output = shared_cluster.run(*RUN, "--address", address, write(tmp_path, body), MULTIHOST_ADDRESS="")
    assert output == "[(25, 'w1', '__mp_main__')]\n"


# --- as Python itself would -------------------------------------------------------------------------------------

REPORT = """
HIDDEN = '__annotations__', '__builtins__', '__loader__', 'HIDDEN'  # not of all versions, or too long
main = sys.modules['__main__']
print(sys.argv, sys.path[0], whoami.__globals__ is vars(main))
print({name: value for name, value in sorted(vars(main).items()) if name not in HIDDEN})
import inspect
print(inspect.getsource(whoami))
print(os.path.exists('__pycache__'))
"""
ENDS = {
    "returns": "print('done')",
    "exits": "sys.exit(7)",
    "exits with a message": "sys.exit('that was it')",
    "raises": "def fail():\n    raise KeyError('here')\nfail()",
    "raises from a library": "import json\njson.loads('{')",
    "raises what click handles": "raise EOFError('not for click')",
    "has its own hook": "sys.excepthook = lambda *error: print('hook', error[0].__name__)\nraise ValueError",
    "writes at exit": "import atexit\natexit.register(lambda: print(sys.modules['__main__'].whoami.__name__))",
}


def outputs(directory: Path, *arguments: str) -> list[tuple[int, str, str]]:
    """(exit code, standard output, standard error) of a program run by Python, and by us."""
    environ = {**clean_environ(), "PYTHONPATH": str(ROOT)}
    results = []
    for command in ([sys.executable], [sys.executable, *RUN]):
        result = subprocess.run(
            [*command, *arguments], cwd=directory, env=environ, capture_output=True, text=True, check=False, timeout=60
        )
        results.append((result.returncode, re.sub(r"at 0x\w+", "at ...", result.stdout), result.stderr))
    return results


@pytest.mark.parametrize(
    "arguments",
    [
        ["program.py", "--help", "-x", "--", "a b"],
        ["./program.py"],
        ["deeper/program.py", "--address", "1"],
        ["link.py"],
        ["-m", "program", "-m", "x"],
        ["-m", "package", "--help"],
        ["-m", "package.tool"],
    ],
    ids=" ".join,
)
def test_a_program_sees_what_it_would_see_without_us(tmp_path: Path, arguments: list[str]) -> None:
    body = REPORT.strip()
    for name in ("program.py", "deeper/program.py", "package/__main__.py", "package/tool.py"):
        write(tmp_path, body, name)
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "link.py").symlink_to("deeper/program.py")
    without, ours = outputs(tmp_path, *arguments)
    assert without[0] == 0, without
    assert ours == without


@pytest.mark.parametrize("body", ENDS.values(), ids=ENDS)
def test_a_program_ends_as_it_would_without_us(tmp_path: Path, body: str) -> None:
    write(tmp_path, body)
    without, ours = outputs(tmp_path, "program.py")
    assert ours == without


def test_a_syntax_error_is_shown_as_python_shows_it(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("def broken(:\n")
    without, ours = outputs(tmp_path, "program.py")
    assert ours == without
    assert ours[0] == 1


def test_results_that_come_at_the_interpreters_exit_still_find_the_programs_classes(
    shared_cluster: Cluster, tmp_path: Path
) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        "import time\nfrom concurrent.futures import ProcessPoolExecutor\n"
        "class Answer:\n    text = 'forty-two'\n"
        "def think():\n    time.sleep(0.2)\n    return Answer()\n"
        "if __name__ == '__main__':\n"
        "    future = ProcessPoolExecutor().submit(think)\n"
        "    future.add_done_callback(lambda future: print(future.result().text))\n"
    )
    assert shared_cluster.run(*RUN, script) == "forty-two\n"


def test_a_checkout_that_is_not_installed_is_found_again(tmp_path: Path) -> None:
    checkout, elsewhere = tmp_path / "checkout", tmp_path / "elsewhere"
    shutil.copytree(ROOT / "multihost", checkout / "multihost")
    script = write(
        elsewhere, "from multiprocessing.pool import Pool\nprint(sys.modules['multihost'].__file__, sys.path)"
    )
    command = [sys.executable, *RUN, str(script)]
    result = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.startswith(f"{checkout}/multihost/__init__.py ['{elsewhere}', ")
    assert f"'{checkout}'" in result.stdout


def test_ctrl_c_ends_a_program_as_it_ends_any(cluster: Cluster, tmp_path: Path) -> None:
    mark = tmp_path / "begun"
    script = tmp_path / "program.py"
    script.write_text(
        "import time\nfrom multiprocessing import Pool\n"
        "def nap(mark):\n    open(mark, 'w').close()\n    time.sleep(600)\n"
        f"if __name__ == '__main__':\n    with Pool(1) as pool:\n        pool.apply(nap, ['{mark}'])\n"
    )
    cluster.tracebacks_expected = True  # the program's own KeyboardInterrupt
    program = cluster.start("program", sys.executable, *RUN, script, MULTIHOST_ADDRESS="", MULTIHOST_AUTHKEY="")
    wait_until(mark.exists, "the task ran")
    program.interrupt()
    assert program.wait() == -signal.SIGINT


# --- what goes wrong --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["nothing.py"], ["-m", "nothing"], ["-m", "json.nothing"], ["."]], ids=" ".join)
def test_a_program_that_is_not_there_is_told_with_exit_code_2(cluster: Cluster, arguments: list[str]) -> None:
    program = end_of(cluster, *arguments)
    assert program.wait() == 2
    assert (
        program.log() == f"multihost: there is no {'module' if len(arguments) == 2 else 'script'} {arguments[-1]!r}\n"
    )


def test_a_module_that_misses_another_one_is_not_taken_for_missing(cluster: Cluster, tmp_path: Path) -> None:
    write(tmp_path, "", "package/tool.py").with_name("__init__.py").write_text("import nothing_of_that_name")
    cluster.tracebacks_expected = True
    program = cluster.start("program", sys.executable, *RUN, "-m", "package.tool", cwd=tmp_path)
    assert program.wait() == 1
    assert "No module named 'nothing_of_that_name'" in program.log()


POOL = "from multiprocessing import Pool\nPool()"


def test_a_master_that_is_not_there_is_one_message_and_exit_code_69(cluster: Cluster, tmp_path: Path) -> None:
    program = end_of(cluster, write(tmp_path, POOL), MULTIHOST_CONNECT_TIMEOUT="0.2")
    assert program.wait() == ExitCode.UNAVAILABLE
    assert f"multihost: no master answered at {cluster.address}" in program.log()


def test_a_wrong_key_is_one_message_and_exit_code_77(shared_cluster: Cluster, tmp_path: Path) -> None:
    program = end_of(shared_cluster, write(tmp_path, POOL), MULTIHOST_AUTHKEY="wrong")
    assert program.wait() == ExitCode.REFUSED
    assert "multihost: the master refused this authkey" in program.log()


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (["--address", "::1"], {}, "--address must be host:port"),
        ([], {"MULTIHOST_AUTHKEY": ""}, "no authkey"),
        ([], {"MULTIHOST_ADDRESS": "x:y"}, "MULTIHOST_ADDRESS must be host:port"),
    ],
)
def test_a_wrong_setting_is_one_message_and_exit_code_78(
    cluster: Cluster, tmp_path: Path, arguments: list[str], settings: dict[str, str], message: str
) -> None:
    program = end_of(cluster, *arguments, write(tmp_path, POOL), **settings)
    assert program.wait() == ExitCode.SETTINGS
    assert f"multihost: {message}" in program.log()


def test_a_script_without_the_guard_ends_in_an_error(cluster: Cluster, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text("from multiprocessing import Pool\nwith Pool(1) as pool:\n    print(pool.map(abs, [-1]))")
    cluster.tracebacks_expected = True
    program = end_of(cluster, script, MULTIHOST_ADDRESS="", MULTIHOST_AUTHKEY="")
    assert program.wait() == 1
    assert "[1]" not in program.log()

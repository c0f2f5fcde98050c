"""A pool without an address has a cluster inside this machine, for as long as its program lives."""

import signal
from pathlib import Path

from tests.integration.cluster import Cluster, Program, wait_until


def script(directory: Path, body: str) -> Path:
    """A program that defines ``square`` and ``nap``; ``body`` is its main block."""
    path = directory / "program.py"
    path.write_text(
        "import os, time\n"
        "import multihost\n"
        "def square(x):\n    print('square of', x)\n    return x * x\n"
        "def nap(mark):\n    open(mark, 'w').close()\n    time.sleep(600)\n"
        "if __name__ == '__main__':\n" + "".join(f"    {line}\n" for line in body.splitlines())
    )
    return path


def start(cluster: Cluster, tmp_path: Path, body: str) -> Program:
    """A program that has been told of no cluster."""
    return cluster.start_python(script(tmp_path, body), MULTIHOST_ADDRESS="", MULTIHOST_AUTHKEY="")


def run(cluster: Cluster, program: Path) -> str:
    """The output of such a program."""
    return cluster.run(program, MULTIHOST_ADDRESS="", MULTIHOST_AUTHKEY="")


def test_a_pool_without_an_address_runs_on_this_machine(cluster: Cluster, tmp_path: Path) -> None:
    body = "with multihost.Pool() as pool:\n    print(pool.map(square, range(4)))"
    output = run(cluster, script(tmp_path, body))
    assert "[0, 1, 4, 9]" in output
    assert "square of 3" in output  # what a task prints is seen where the program prints
    assert "no worker" not in output


def test_a_mistyped_variable_is_a_warning_and_not_silently_a_local_cluster(cluster: Cluster, tmp_path: Path) -> None:
    program = script(tmp_path, "with multihost.Pool() as pool:\n    print(pool.map(square, range(2)))")
    output = cluster.run(program, MULTIHOST_ADDRESS="", MULTIHOST_AUTHKEY="", MULTIHOST_ADRESS="master:5000")
    assert "MULTIHOST_ADRESS is not a setting" in output
    assert "did you mean MULTIHOST_ADDRESS?" in output


def test_processes_is_the_number_of_slots_of_a_local_cluster(cluster: Cluster, tmp_path: Path) -> None:
    body = "with multihost.Pool(3) as pool:\n    print(len({*pool.map(wait_for_three, range(3))}), 'processes')"
    program = script(tmp_path, body)
    # Each of the three ends only when all of them run, so fewer slots would hang.
    program.write_text(
        program.read_text().replace(
            "if __name__",
            "def wait_for_three(n):\n"
            f"    open(f'{tmp_path}/running-{{n}}', 'w').close()\n"
            f"    while len([f for f in os.listdir('{tmp_path}') if f.startswith('running-')]) < 3:\n"
            "        time.sleep(0.01)\n"
            "    return os.getpid()\n"
            "if __name__",
        )
    )
    assert "3 processes" in run(cluster, program)


def test_a_local_cluster_ends_with_a_program_that_forgot_to_close_its_pool(cluster: Cluster, tmp_path: Path) -> None:
    mark = tmp_path / "started"
    body = (
        f"pool = multihost.Pool()\npool.apply_async(nap, ['{mark}'])\n"
        f"while not os.path.exists('{mark}'):\n    time.sleep(0.01)"
    )
    program = start(cluster, tmp_path, body)
    assert program.wait() == 0  # although a task still runs; the fixture checks that no process is left


def test_a_local_cluster_ends_when_its_program_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    mark = tmp_path / "started"
    program = start(cluster, tmp_path, f"with multihost.Pool() as pool:\n    pool.apply(nap, ['{mark}'])")
    wait_until(mark.exists, "the task ran")
    processes = program.descendants()
    assert len(processes) >= 3  # master, worker, fork server, child
    program.kill()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes), "all of them ended")


def test_ctrl_c_ends_program_and_cluster(cluster: Cluster, tmp_path: Path) -> None:
    mark = tmp_path / "started"
    program = start(cluster, tmp_path, f"with multihost.Pool() as pool:\n    pool.apply(nap, ['{mark}'])")
    cluster.tracebacks_expected = True  # the program's own KeyboardInterrupt
    wait_until(mark.exists, "the task ran")
    program.interrupt()
    assert program.wait() in (1, -signal.SIGINT)


def test_an_authkey_without_an_address_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    program = start(cluster, tmp_path, "multihost.Pool(authkey=b'key')")
    cluster.tracebacks_expected = True
    assert program.wait() == 1
    assert "an authkey was given, but no address" in program.log()


def start_with_known_key(cluster: Cluster, tmp_path: Path) -> tuple[Program, bytes]:
    """A program whose local cluster runs a task, and the key of that."""
    mark = tmp_path / "started"
    body = (
        "pool = multihost.Pool()\nkey = pool._member._local.authkey\nprint('key', key.decode(), flush=True)\n"
        f"pool.apply(nap, ['{mark}'])"
    )
    program = start(cluster, tmp_path, body)
    wait_until(mark.exists, "the task ran")
    key = program.log().split("key ")[1].split()[0].encode()
    return program, key


def test_the_key_of_a_local_cluster_stands_in_no_environment_or_argument(cluster: Cluster, tmp_path: Path) -> None:
    program, key = start_with_known_key(cluster, tmp_path)
    for pid in program.descendants():
        seen = Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
        assert key not in seen
    program.kill()


def test_the_key_of_a_local_cluster_is_in_the_memory_of_master_and_worker_alone(
    cluster: Cluster, tmp_path: Path
) -> None:
    program, key = start_with_known_key(cluster, tmp_path)
    processes = program.descendants()
    assert len(processes) >= 6  # master, worker, resource tracker, fork server, warden, child
    assert sum(key in memory_of(pid) for pid in processes) == 2
    program.kill()


def memory_of(pid: int) -> bytes:
    """All that a process may write to."""
    content = []
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            addresses, rights, *_ = line.split(" ")
            low, high = (int(address, 16) for address in addresses.split("-"))
            if rights.startswith("rw"):
                memory.seek(low)
                content.append(memory.read(high - low))
    return b"".join(content)


def test_logging_in_a_task_is_as_in_a_fresh_process(cluster: Cluster, tmp_path: Path) -> None:
    program = script(tmp_path, "with multihost.Pool() as pool:\n    print('handlers', pool.apply(handlers))")
    text = "import logging\ndef handlers():\n    return logging.root.handlers, logging.root.level\nif __name__"
    program.write_text(program.read_text().replace("if __name__", text, 1))
    assert "handlers ([], 30)" in run(cluster, program)


def test_a_pool_whose_local_cluster_was_killed_closes(cluster: Cluster, tmp_path: Path) -> None:
    body = (
        "import os, signal\npool = multihost.Pool()\nprocess = pool._member._local._process\n"
        "os.kill(process.pid, signal.SIGKILL)\npool.terminate()\nprint('ended by', process.returncode)"
    )
    assert f"ended by {-signal.SIGKILL}" in run(cluster, script(tmp_path, body))

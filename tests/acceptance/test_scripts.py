"""The scripts on a machine that is prepared already: each can be run again."""

from tests.acceptance.cluster import ROOT, clean_environ, execute, health_of
from tests.acceptance.conftest import ClusterMaker


def test_prepare_host_has_nothing_to_do_the_second_time() -> None:
    execute(ROOT / "scripts/prepare-host", environ=clean_environ())
    again = execute(ROOT / "scripts/prepare-host", environ=clean_environ())
    assert again.stderr.startswith("prepare-host: nothing to do: Docker Engine ")
    assert len(again.stderr.splitlines()) == 1


def test_up_runs_the_job_anew_each_time_and_down_removes_the_cluster(make_cluster: ClusterMaker) -> None:
    cluster = make_cluster()
    first = execute(ROOT / "scripts/up", "--scale", "worker=2", environ=cluster.environ)
    second = execute(ROOT / "scripts/up", "--scale", "worker=2", environ=cluster.environ)
    for output in (first.stdout, second.stdout):
        assert [output.count(line) for line in ("Put task", "Try get results...", "Result:")] == [10, 1, 10]
    assert first.stdout != second.stdout
    assert [health_of(container) for container in [cluster.master, *cluster.workers]] == ["healthy"] * 3

    execute(ROOT / "scripts/down", environ=cluster.environ)
    assert cluster.containers() == []
    # The volumes stay, and the key with them.
    volumes = cluster.engine.volumes.list(filters={"label": f"com.docker.compose.project={cluster.project}"})
    assert {volume.name.removeprefix(f"{cluster.project}_") for volume in volumes} == {"key", "journal", "data", "logs"}


def test_join_command_tells_that_the_port_is_not_open_to_others(make_cluster: ClusterMaker) -> None:
    cluster = make_cluster()
    not_running = execute(ROOT / "scripts/join-command", environ=cluster.environ, check=False)
    assert (not_running.returncode, not_running.stdout) == (1, "")
    assert "the master is not running here: scripts/up starts it" in not_running.stderr

    cluster.scale(workers=0)
    closed = execute(ROOT / "scripts/join-command", environ=cluster.environ, check=False)
    assert (closed.returncode, closed.stdout) == (1, "")
    assert (
        "the master is published on 127.0.0.1 only; MULTIHOST_PUBLISH=0.0.0.0:5000 scripts/up opens it" in closed.stderr
    )

    line = execute(
        ROOT / "scripts/join-command", *("--address", "192.0.2.10", "--key-file", "/etc/key"), environ=cluster.environ
    )
    assert cluster.authkey.decode() not in line.stdout + line.stderr
    assert "--env MULTIHOST_ADDRESS=192.0.2.10 " in line.stdout
    assert "--volume /etc/key:" in line.stdout

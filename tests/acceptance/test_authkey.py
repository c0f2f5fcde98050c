"""The key: made at the first start or given, and what happens with a wrong one."""

import re
from pathlib import Path

import pytest

from multihost import AuthenticationError
from multihost.client.monitor import ask_statistics
from multihost.settings import ExitCode
from tests.acceptance.cluster import Cluster, in_container
from tests.acceptance.conftest import ClusterMaker


@pytest.fixture
def authkey_file(tmp_path: Path) -> Path:
    """A file with a key that the containers' user may read."""
    path = tmp_path / "authkey"
    path.write_text("the key in the file\n")
    path.chmod(0o644)
    return path


def test_the_master_makes_a_key_at_its_first_start_and_keeps_it(make_cluster: ClusterMaker) -> None:
    cluster = make_cluster()
    cluster.scale(workers=0)
    assert in_container(cluster.master, "stat", "-c", "%a %u", "/run/multihost/authkey") == (0, "600 10001")
    made = cluster.authkey
    assert re.fullmatch(rb"[0-9a-f]{64}", made)

    cluster.master.restart()
    cluster.wait_for_workers(0)
    assert cluster.authkey == made

    cluster.compose("down")  # without its volumes
    cluster.scale(workers=0)
    assert cluster.authkey == made


def test_a_given_key_is_used_by_all_and_none_is_made(make_cluster: ClusterMaker) -> None:
    cluster = make_cluster(MULTIHOST_AUTHKEY="the given key")
    check_key(cluster, b"the given key")


def test_a_key_in_a_given_file_is_used_by_all_and_none_is_made(make_cluster: ClusterMaker, authkey_file: Path) -> None:
    cluster = make_cluster(MULTIHOST_AUTHKEY_FILE=str(authkey_file))
    check_key(cluster, b"the key in the file")


def check_key(cluster: Cluster, authkey: bytes) -> None:
    cluster.compose("up", "--detach", "--no-build", "--wait", "--scale", "job=0", "--scale", "worker=1")
    assert len(ask_statistics(cluster.address, authkey)["workers"]) == 1
    with pytest.raises(AuthenticationError):
        ask_statistics(cluster.address, b"another key")
    assert cluster.run_job().count("Result: ") == 10
    code, _ = in_container(cluster.master, "test", "-e", "/run/multihost/authkey")
    assert code != 0


@pytest.mark.parametrize("service", ["master", "worker"])
def test_a_key_and_a_key_file_at_once_are_refused_in_one_sentence(
    make_cluster: ClusterMaker, authkey_file: Path, service: str
) -> None:
    cluster = make_cluster(MULTIHOST_AUTHKEY="a key", MULTIHOST_AUTHKEY_FILE=str(authkey_file))
    code, errors = cluster.run_service(service)
    assert code == ExitCode.SETTINGS
    assert errors == [
        f"task_{service}: MULTIHOST_AUTHKEY and MULTIHOST_AUTHKEY_FILE are both set; unset one of them",
    ]


def test_a_key_file_that_the_containers_user_cannot_read_is_named(
    make_cluster: ClusterMaker, authkey_file: Path
) -> None:
    authkey_file.chmod(0o000)
    cluster = make_cluster(MULTIHOST_AUTHKEY_FILE=str(authkey_file))
    code, (error,) = cluster.run_service("master")
    assert code == ExitCode.SETTINGS
    assert error.startswith("task_master: MULTIHOST_AUTHKEY_FILE ")
    assert error.endswith(" cannot be read by user 10001: Permission denied")


def test_a_worker_with_a_wrong_key_is_refused_and_gives_up(cluster: Cluster) -> None:
    code, errors = cluster.run_service("worker", "--env=MULTIHOST_AUTHKEY=a wrong key")
    assert code == ExitCode.REFUSED
    assert len(errors) == 1
    assert "the master refused this authkey" in errors[0]
    assert "refused a connection from" in cluster.master.logs().decode()

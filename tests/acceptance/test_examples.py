"""The example jobs on real input: this machine's logs, and mails to a real SMTP server."""

import json
import os
import secrets
import shutil
import stat
from pathlib import Path

import pytest

from tests.acceptance.cluster import Cluster, in_container
from tests.acceptance.conftest import ClusterMaker

LOGS = Path("/var/log")


@pytest.fixture
def copied_logs(tmp_path: Path) -> Path:
    """A copy of this machine's package logs that holds still and that the containers' user may read."""
    directory = tmp_path / "logs"
    sources = [path for pattern in ("dpkg.log*", "alternatives.log*", "apt/*.log*") for path in LOGS.glob(pattern)]
    readable = [path for path in sources if path.is_file() and os.access(path, os.R_OK)]
    if not readable:
        pytest.skip(f"this machine has no package logs in {LOGS}")
    for path in readable:
        copy = directory / path.relative_to(LOGS)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return directory


def test_the_cluster_digests_real_logs_as_one_process_does(make_cluster: ClusterMaker, copied_logs: Path) -> None:
    cluster = make_cluster(MULTIHOST_LOGS=str(copied_logs))
    cluster.scale(workers=3)

    # Small ranges: many tasks, and many lines that lie across a cut.
    by_cluster = cluster.run_job("examples/logs.py", "--json", "--range-bytes", "5000", "/logs")
    by_one_process = cluster.run_job("examples/logs.py", "--json", "--local", "/logs")

    assert by_cluster == by_one_process
    assert all(worker["settled"] > 0 for worker in cluster.statistics()["workers"])
    digest = json.loads(by_cluster)
    assert digest["failed"] == {}
    found = {file["path"]: (file["lines"], file["bytes"]) for file in digest["files"]}
    for path in copied_logs.rglob("*.log"):
        content = path.read_bytes()
        lines = content.count(b"\n") + (content[-1:] not in (b"", b"\n"))
        assert found[f"/logs/{path.relative_to(copied_logs)}"] == (lines, len(content))


def test_tasks_cannot_write_to_the_logs(make_cluster: ClusterMaker, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    cluster = make_cluster(MULTIHOST_LOGS=str(tmp_path))
    cluster.scale(workers=1)
    code, refusal = in_container(cluster.workers[0], "touch", "/logs/file")
    assert code != 0
    assert "Read-only file system" in refusal
    assert not [*tmp_path.iterdir()]


def test_the_logs_of_this_machine_are_digested_and_unreadable_files_are_named(make_cluster: ClusterMaker) -> None:
    cluster = make_cluster(MULTIHOST_LOGS=str(LOGS))
    cluster.scale(workers=2)
    digest = json.loads(cluster.run_job("examples/logs.py", "--json", "/logs"))
    assert digest["all"]["lines"] > 0
    assert digest["failed"] == {}
    for path in LOGS.iterdir():
        mode = path.lstat().st_mode
        others_may_read = mode & stat.S_IROTH and (mode & stat.S_IXOTH or not stat.S_ISDIR(mode))
        if not others_may_read and not stat.S_ISLNK(mode):
            assert f"/logs/{path.name}" in digest["skipped"]


def test_each_mail_is_stored_once(cluster: Cluster) -> None:
    start_smtp(cluster)
    batch = secrets.token_hex(8)
    # The second time, the server has each of them already.
    for _ in range(2):
        output = cluster.run_job("examples/mail.py", "--smtp=smtp:8025", "--count=20", f"--batch={batch}")
        assert output.splitlines()[-1] == "Sent 20 of 20 mails."
        assert sorted(stored(cluster, batch)) == sorted(f"<{batch}.{n}@multihost.example>" for n in range(1, 21))


def test_a_refused_recipient_is_named_and_the_other_mails_are_sent(cluster: Cluster, tmp_path: Path) -> None:
    start_smtp(cluster)
    batch = secrets.token_hex(8)
    recipients = tmp_path / "recipients.txt"
    recipients.write_text("reader@example.org\nnobody@nowhere.invalid\n")
    recipients.chmod(0o644)

    job = cluster.start_job(
        *("examples/mail.py", "--smtp=smtp:8025", "--count=4", f"--batch={batch}", "--recipients=/recipients.txt"),
        volumes={recipients: "/recipients.txt"},
    )

    assert job.wait() == 1
    assert job.output().splitlines()[-1] == "Sent 2 of 4 mails."
    complaints = job.errors().splitlines()
    assert len(complaints) == 2
    for complaint in complaints:
        assert "to nobody@nowhere.invalid" in complaint
        assert "recipient refused: 550 5.1.2 no such domain" in complaint
    assert sorted(stored(cluster, batch)) == [f"<{batch}.{n}@multihost.example>" for n in (1, 3)]


def start_smtp(cluster: Cluster) -> None:
    cluster.scale(workers=3)
    cluster.compose("--profile", "mail", "up", "--detach", "--no-build", "--wait", "smtp")


def stored(cluster: Cluster, batch: str) -> list[str]:
    """The Message-IDs of a batch that the server has stored."""
    mails = json.loads(cluster.compose("exec", "-T", "smtp", "python", "examples/smtp_server.py", "--list"))
    return [mail["Message-ID"] for mail in mails if mail["Message-ID"].startswith(f"<{batch}.")]
